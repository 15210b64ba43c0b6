"""Where programs are recorded: a process under recorder.c, which forks one child for each recording.

    stage = Stage(library, work)
    recording = stage.record("alone", level="full", seed="7", count=300)
    ... recording.entries, recording.base ...
    recording.remove()

The process reads a line of JSON for each program and answers with one. Programs are the functions `alone`,
`together`, `again`, `compact`, `make`, `back_up`, `recover` and `raw` below, and `crowd` (crowd.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import attrs
from crash.children import Children

import mqlite
import mqlite.backup
import mqlite.compaction
import mqlite.log.front
import mqlite.log.lmdb
import mqlite.log.space
import mqlite.system.copying
import mqlite.system.directory
from mqlite.durability import checkpoint

from . import raw_tree
from .crowd import Lines, crowd, mark, watch_flushes
from .program import PASSING, Store, digest_of, history, more_operations
from .records import (
    BEGUN,
    CLOSED,
    COMPACTS,
    COPIED,
    COPIES,
    KILLED,
    LOOKED,
    RETURNED,
    SYNCED,
    Content,
    Entry,
    entries,
    replayed,
    watched_files,
)

TESTS = Path(__file__).parent.parent


@attrs.define
class Recording:
    """What a program did to the files of its store."""

    folder: Path
    entries: list[Entry]
    base: dict[str, tuple[int, bytes]]
    #: What the program has to say.
    told: dict[str, Any]

    def remove(self) -> None:
        """Take the store and the records off the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Stage:
    """The process under recorder.c. `work`: a folder for its recordings."""

    def __init__(self, library: str, work: Path) -> None:
        self._work, self._number = work, 0
        paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH"), str(Path(mqlite.__file__).parent.parent)])])
        environment = {**os.environ, "LD_PRELOAD": library, "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "power.stage"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def record(self, program: str, files: dict[str, Content] | None = None, folders: bool = False, **how: Any) -> Recording:
        """Run a program on a new directory, or one that holds these files. Raises AssertionError where it fails, and
        where the records do not make the files that it has left. folders: those in the directory are recorded, too.
        """
        self._number += 1
        folder = self._work / f"recording-{self._number}"
        store = folder / "store"
        store.mkdir(parents=True)
        for name, content in (files or {}).items():
            (store / name).parent.mkdir(exist_ok=True)
            content.save(str(store / name))
        base = watched_files(str(store), folders)
        records = str(folder / "records")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"program": program, "store": str(store), "records": records, "folders": folders, **how}) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline() or '{"raised": "the stage is gone"}')
        assert "raised" not in told, told["raised"]
        left = {name: data for name, (_, data) in watched_files(str(store), folders).items()}
        made = replayed(records, base)
        wrong = [name for name in {*left, *made} if left.get(name) != made.get(name)]
        assert not wrong, f"the records do not make {wrong} as the program left it: something writes unseen"
        return Recording(folder, list(entries(records)), base, told)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


# ---------------------------------------------------------------------- inside the stage
def _run(store: Store, operations: list[Any], models: list[Any], number: int) -> None:
    """Operation `number`, with its marks."""
    mark(BEGUN, number)
    store.do(operations[number - 1], models[number - 1])
    mark(RETURNED, number)


def _look_inside(level: str, seed: str = "") -> Lines | None:
    """Have maps looked at inside of transactions, too, as the kernel may write a page before it is complete; and, where
    most pass by and wait for the disk, between lines of the front.
    """
    rnd, look = random.Random(0), ctypes.CDLL(None).power_mark
    if level == "process":

        def profile(frame: object, event: str, function: Any) -> None:
            if event == "c_return" and function.__name__ in ("put", "putmulti", "delete", "replace") and rnd.random() < 0.1:
                look(LOOKED, ctypes.c_long(0))

        sys.setprofile(profile)
    elif level == "full" and seed.startswith(PASSING):
        return Lines()
    return None


def _synced(store: Store, number: int) -> None:
    store.sync()
    mark(SYNCED, number)


def _hurry() -> None:
    """Have checkpoints made by the thread all the time, beside the commits."""
    checkpoint.TICK = checkpoint.INTERVAL = 0.001


def alone(
    store: str, level: str, seed: str, count: int, sync_every: int = 17, close_every: int = 70, hurry: bool = False, front: str = "",
) -> dict[str, Any]:
    """One process; it syncs now and then, and closes the store and opens it again. front: see `watch_flushes`."""
    operations, models = history(seed, count)
    if front:
        watch_flushes(front)
    if hurry:
        _hurry()
    opened = Store(store, durability=level)
    mark(SYNCED, 0)
    _look_inside(level, seed)
    for number in range(1, count + 1):
        _run(opened, operations, models, number)
        if number % sync_every == 0:
            _synced(opened, number)
        if number % close_every == 0:
            opened.close()
            mark(CLOSED, number)
            opened = Store(store, durability=level)
    opened.close()
    mark(CLOSED, count)
    return {}


def _worker(talk: Any, store: str, level: str, operations: list[Any], models: list[Any]) -> None:
    """One of several processes; does what it is told."""
    opened = Store(store, durability=level)
    shim = ctypes.CDLL(None)
    lines = _look_inside(level, models[0].seed)
    talk.say("open")
    while True:
        match talk.hear():
            case ["do", number]:
                _run(opened, operations, models, number)
            case ["sync", number]:
                _synced(opened, number)
            case ["kill at", call, torn]:
                shim.power_kill_at(ctypes.c_long(call), torn)
            case ["kill at line", line]:
                assert lines is not None
                lines.kill_at(line)
            case ["calls"]:
                talk.say(shim.power_calls())
                continue
            case ["lines"]:
                talk.say(lines and lines.done)
                continue
            case ["is it", *numbers]:
                found = opened.contents()
                talk.say([number for number in numbers if models[number].contents() == found])
                continue
            case ["close", number]:
                opened.close()
                talk.say("closed")
                return
        talk.say("done")


def together(
    store: str, level: str, seed: str, count: int, processes: int = 3, sync_every: int = 13,
    kill_in: str = "", kill_at: int = 0, torn: int = 0, after: int = 30, hurry: bool = False, front: str = "",
) -> dict[str, Any]:
    """Several processes that take turns. kill_in: "sync" or "do"; that call of one process, in the middle of the run, is
    its last: it is killed at recorded call number kill_at; others then do `after` operations more. "front": the same in
    "do", at that line of the front. Tells how many calls, or lines, there were where nobody was killed. front: see
    `watch_flushes`.
    """
    if hurry:
        _hurry()
    if front:
        watch_flushes(front)
    rnd = random.Random(seed)
    operations, models = history(seed, count)
    told: dict[str, Any] = {"killed": False}
    number, done, doomed = 0, 0, count // 2 if kill_in else -1
    quiet = doomed - 8  # no syncs later: all have let go of what protected older states, and nothing new does
    children = Children()
    workers = []
    for _ in range(processes):
        workers.append(children.fork(_worker, store, level, operations, models))
        workers[-1].hear()
    synced = workers[0]
    mark(SYNCED, 0)

    def ask(worker: Any, *what: Any) -> Any:
        worker.say(what)
        return worker.hear()

    while done < count:
        number = done + 1
        worker = rnd.choice(workers)
        kills = number == doomed and len(workers) == processes
        if kills and kill_at % 2:
            worker = synced
        try:
            if kills and kill_in == "do":
                ask(worker, "kill at", kill_at, torn)
            if kills and kill_in == "front":
                ask(worker, "kill at line", kill_at)
            ask(worker, "do", number)
            done = number
            if kills and kill_in == "sync":
                ask(worker, "kill at", kill_at, torn)
            if kill_in == "sync" if kills else number % sync_every == 0 and not (kill_in and number > quiet):
                ask(worker, "sync", number)
                synced = worker
            if kills:
                told["calls"] = ask(worker, "lines" if kill_in == "front" else "calls")
                ask(worker, *(("kill at line", 0) if kill_in == "front" else ("kill at", 0, 0)))
                doomed = -1
        except (EOFError, BrokenPipeError):
            mark(KILLED, number)
            told["killed"] = True
            worker.wait()
            workers.remove(worker)
            found = ask(workers[0], "is it", number - 1, number)
            assert len(found) == 1, f"after a kill in operation {number} the store is in state {found}"
            [done] = found
            count = min(count, done + after)
    for worker in workers:
        ask(worker, "close", done)
        worker.end()
    mark(CLOSED, done)
    return told


def again(store: str, level: str, seed: str, count: int, boot: str, more: int) -> dict[str, Any]:
    """After a power cut: open the store, do a probe and `more` operations, and close it. Tells in which of the states up
    to `count` it was, which is state 0 in this recording, and how many records of the front were recalled.
    """
    mqlite.system.directory.boot_id = lambda: boot
    recalled, counts = mqlite.log.lmdb.recalled, [0]

    def count_recalled(*arguments: Any) -> Any:
        found = recalled(*arguments)
        counts.append(found[1].count if found is not None else 0)
        return found

    mqlite.log.lmdb.recalled = count_recalled
    try:
        opened = Store(store, durability=level)
    except mqlite.StoreCorrupted as error:
        return {"refused": str(error)}
    _, models = history(seed, count)
    mark(BEGUN, 1)
    state, model = opened.recognise(models)
    number = int("a" in models[state].lanes)
    mark(RETURNED, number)
    for operation, before in more_operations(model, boot, more):
        number += 1
        mark(BEGUN, number)
        opened.do(operation, before)
        mark(RETURNED, number)
        if number == more // 2:
            _synced(opened, number)
    opened.close()
    mark(CLOSED, number)
    return {"state": state, "recalled": counts[-1]}


def compact(store: str, level: str, seed: str, count: int, compact_every: int) -> dict[str, Any]:
    """One process that compacts the store now and then; this flushes it, too. Tells how often it became smaller."""
    for module in (mqlite.compaction, mqlite.log.space):  # or a store under 8 MiB is not compacted
        module.RESERVE_PAGES, module.GROW_MIN = 96, 64 << 10
    operations, models = history(seed, count)
    opened = Store(store, durability=level)
    smaller = 0
    mark(SYNCED, 0)
    _look_inside(level)
    for number in range(1, count + 1):
        _run(opened, operations, models, number)
        if number % compact_every == 0:
            mark(COMPACTS, number)
            before, after = opened.broker.compact()
            mark(SYNCED, number)
            smaller += after < before
    opened.close()
    mark(CLOSED, count)
    return {"smaller": smaller}


def make(store: str, level: str) -> dict[str, Any]:
    """Make a store, and close it."""
    Store(store, durability=level).close()
    mark(CLOSED, 0)
    return {}


def back_up(store: str, level: str, seed: str, copies: list[str | None], before: int = 30) -> dict[str, Any]:
    """Store "app" is written to by one thread, and copied by another: copy number n, of the n-th of these levels, is
    "copy-n". The second one goes to a directory that is there, and meets what one before it has left that was cut short. Tells
    how many operations there were.
    """
    mqlite.system.copying.CHUNK, mqlite.backup.FLUSHED_BYTES = 24 << 10, 64 << 10  # several of each
    operations, models = history(seed, 1000)
    opened = Store(os.path.join(store, "app"), durability=level)
    mark(SYNCED, 0)
    wanted, done = threading.Semaphore(before), threading.Semaphore(0)
    told: dict[str, Any] = {"operations": 0, "raised": []}
    ends = False

    def write() -> None:
        _look_inside(level)
        number = 0
        while wanted.acquire() and not ends:
            try:
                _run(opened, operations, models, number + 1)
            except BaseException:
                told["raised"].append(traceback.format_exc())
            number = told["operations"] = number + 1
            if number % 17 == 0:
                _synced(opened, number)
            done.release()

    def write_meanwhile(now: int, total: int) -> None:
        """Some are done when the copy goes on, and others beside it."""
        wanted.release(3)
        for _ in range(2):
            done.acquire()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    for _ in range(before):
        done.acquire()
    for number, of_copy in enumerate(copies, 1):
        target = os.path.join(store, f"copy-{number}")
        if number == 2:
            os.mkdir(target)
            shutil.copytree(os.path.join(store, "copy-1"), target + ".part")
            for name in (*os.listdir(target + ".part"), "", os.pardir):
                _flush(os.path.join(target + ".part", name))
        mark(COPIES, number)
        opened.broker.backup(target, progress=write_meanwhile, durability=of_copy)
        mark(COPIED, number)
        write_meanwhile(0, 0)
    ends = True
    wanted.release()
    thread.join()
    opened.close()
    mark(CLOSED, told["operations"])
    if told["raised"]:
        raise AssertionError(told["raised"][0])
    return {"operations": told["operations"]}


def _flush(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def recover(store: str, level: str) -> dict[str, Any]:
    """What can be saved of store "app" goes into "saved". Tells the digest of what that is."""
    mark(COPIES, 1)
    found = mqlite.recover(os.path.join(store, "app"), into=os.path.join(store, "saved"), durability=level)
    mark(COPIED, 1)
    looked_at = os.path.join(store, os.pardir, "looked at")  # a copy, since what looks at it writes to it
    shutil.copytree(os.path.join(store, "saved"), looked_at)
    opened = Store(looked_at, max_store_bytes=None)
    digest = digest_of(opened.contents())
    opened.close()
    return {"digest": digest, "messages": found.messages, "problems": found.problems}


def raw(store: str, seed: str, count: int, sync: bool) -> dict[str, Any]:
    """LMDB alone; see raw_tree.py."""
    raw_tree.run(os.path.join(store, "data.mdb"), seed, count, sync, lambda number: mark(BEGUN, number), lambda number: mark(RETURNED, number))
    return {}


def _serve() -> None:
    mqlite.log.front.FEWEST = 1  # or the front is open for a few of the operations only
    programs = {function.__name__: function for function in (alone, together, crowd, again, compact, make, back_up, recover, raw)}
    for line in sys.stdin:
        asked = json.loads(line)
        program, records, folders = programs[asked.pop("program")], asked.pop("records"), asked.pop("folders")

        def child(
            talk: Any, program: Any = program, records: str = records, folders: bool = folders, asked: dict[str, Any] = asked
        ) -> None:
            ctypes.CDLL(None).power_record(asked["store"].encode(), records.encode(), int(folders))
            talk.say(program(**asked))

        children = Children()
        try:
            told = children.fork(child).hear()
        except BaseException:
            told = {"raised": traceback.format_exc()}
        children.kill_all()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _serve()
