"""What a store is worth after a power cut: opened and compared in a process of its own, whose crash is a verdict, too.

    examiner = Examiner(folder)
    verdict = examiner.examine(image, models={"seed": "7", "count": 300, "revivals": []}, level="full", seed="1")

A verdict has an outcome: "whole" (with the number of the state), "refused" (StoreCorrupted that names `recover`), or
else what is wrong.
"""

from __future__ import annotations

import functools
import json
import os
import random
import select
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import attrs

import mqlite
import mqlite.disk_store
import mqlite.log.lmdb
import mqlite.system.directory
import mqlite.verify

from . import raw_tree
from .crowd import lane_states
from .cuts import Image
from .program import Model, Store, digest_of, lineage, more_operations
from .records import PAGE

TESTS = Path(__file__).parent.parent
PATIENCE = 30.0
#: Outcomes after which nothing is left open.
GOOD = ("whole", "refused", "nothing", "unfinished")
#: How many operations more are done to a store that is whole.
MORE = 12


@attrs.frozen
class Verdict:
    """outcome: see the module; state: which, of a store that is whole; detail: for people; recalled: how many records of the
    front were.
    """

    outcome: str
    state: int = -1
    detail: str = ""
    recalled: int = 0


class Examiner:
    """Writes images to `folder`, one after the other, and has them examined."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._errors = folder / "stderr"
        self._process: subprocess.Popen[str] | None = None

    def examine(self, image: Image, seed: str, **how: Any) -> Verdict:
        """What is wrong with it, if anything. seed: of what lies beside the files that are flushed. inside: which folder of
        the image is the store. question: see `QUESTIONS`, with what else each of them is to be told.
        """
        verdict = self._examine(image, seed, how)
        if verdict.outcome.startswith("kills"):  # perhaps it is what would have killed a child only
            verdict = self._examine(image, seed, {**how, "by_child": True})
        return verdict

    def _examine(self, image: Image, seed: str, how: dict[str, Any]) -> Verdict:
        whole = self._folder / "store"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        for name in image.folders:
            (whole / name).mkdir()
        for name, content in image.files.items():
            content.save(str(whole / name))
        store = whole / how.get("inside", "")
        if store.is_dir():
            self._leave_rubbish(store, random.Random(seed))
        verdict = self._ask({"store": str(store), "seed": seed, **{name: told for name, told in how.items() if name != "inside"}})
        shutil.rmtree(whole, ignore_errors=True)
        return verdict

    @staticmethod
    def _leave_rubbish(store: Path, rnd: random.Random) -> None:
        """What is never flushed may hold anything after a power cut, or not be there."""
        control = store / "log.control"
        if control.exists() and control.stat().st_size >= PAGE:
            first = rnd.choice((None, bytes(PAGE), b"\xff" * PAGE, rnd.randbytes(PAGE)))
            if first is not None:
                with open(control, "r+b") as file:
                    file.write(first)
        for name in ("log.mdb-lock", "open.lock"):
            rubbish = rnd.choice((None, b"", bytes(65664), rnd.randbytes(65664)))
            if rubbish is not None:
                (store / name).write_bytes(rubbish)
        if rnd.random() < 0.3:
            session = store / "run" / "0123456789ab-0123456789abcdef"
            (session / "owners").mkdir(parents=True)
            (session / "claims.mdb").write_bytes(rnd.randbytes(1 << 14))

    def _ask(self, asked: dict[str, Any]) -> Verdict:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            process.kill()
            self.close()
            return Verdict("hangs")
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self.close()
            return Verdict(f"kills the process ({code})", detail=self._errors.read_text(errors="replace")[-500:])
        verdict = Verdict(**json.loads(answer))
        if verdict.outcome not in GOOD:
            self.close()  # what the process holds open is in no good state
        return verdict

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(TESTS), str(Path(mqlite.__file__).parent.parent)])
        with open(self._errors, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "power.examiner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": paths},
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
            process.kill()
            process.wait(PATIENCE)
            process.stdout.close()


# ---------------------------------------------------------------------- what a verdict is worth
def promised(image: Image, level: str) -> int:
    """The first state that may be found."""
    if level == "full":
        return max(image.returned, image.synced)
    return image.synced if level == "checkpoint" or image.at_rest else 0


def wrong(image: Image, verdict: Verdict, level: str) -> str:
    """What is wrong with a verdict; "" if nothing is."""
    if verdict.outcome == "refused" and level == "process" and not image.at_rest and image.begun:
        return ""
    if verdict.outcome != "whole":
        return f"{verdict.outcome} {verdict.detail}"
    if not promised(image, level) <= verdict.state <= image.begun:
        return f"state {verdict.state} is not in {promised(image, level)} to {image.begun}"
    return ""


def of(seed: str, count: int, *revivals: tuple[int, str, int]) -> dict[str, Any]:
    return {"seed": seed, "count": count, "revivals": list(revivals)}


# ---------------------------------------------------------------------- in the process
_recalled = mqlite.log.lmdb.recalled


@functools.lru_cache(maxsize=4)
def _models(described: str) -> list[Model]:
    return lineage(**json.loads(described))


def _verdict_of_store(
    store: str, seed: str, models: dict[str, Any], level: str, twice: bool = False, by_child: bool = False, blind: bool = False
) -> Verdict:
    """twice: also opened in yet another boot. by_child: a store that must be verified is verified by a child process,
    as usual; else here, which takes a tenth of the time. blind: nothing of the front is recalled.
    """
    number = records = 0

    def recalled(*arguments: Any) -> Any:
        nonlocal records
        found = None if blind else _recalled(*arguments)
        if found is not None and number == 1:
            records = found[1].count
        return found

    mqlite.log.lmdb.recalled = recalled
    mqlite.disk_store.store_problems = mqlite.verify.store_problems if by_child else _verified_here

    def opened() -> Store:
        nonlocal number
        number += 1
        boot = f"{seed} {number}"
        mqlite.system.directory.boot_id = lambda: boot
        as_stored = os.path.exists(os.path.join(store, "store.json")) and random.Random(boot).random() < 0.5
        return Store(store, **({} if as_stored else {"durability": level}))

    states = _models(json.dumps(models))
    try:
        found = opened()
    except mqlite.StoreCorrupted as error:
        if "recover" in str(error):
            return Verdict("refused", detail=str(error))
        return Verdict("refused without a way out", detail=str(error))
    problems = found.broker.check()
    if problems:
        return Verdict("check", detail="; ".join(problems)[:1000])
    state, model = found.recognise(states)
    for operation, before in more_operations(model, seed, MORE):
        found.do(operation, before)
    _hasten(found, model)
    problems = found.broker.check()
    if problems:
        return Verdict("check after more operations", state, "; ".join(problems)[:1000])
    if found.contents() != model.contents():
        return Verdict("contents after more operations", state)
    found.close()
    if twice:
        found = opened()
        if found.contents() != model.contents():
            return Verdict("contents after another boot", state)
        found.close()
    return Verdict("whole", state, recalled=records)


def _verdict_of_lanes(store: str, seed: str, lanes: dict[str, list[int]], count: int, program: str) -> Verdict:
    """Queues of a crowd (crowd.py), each as after an operation that had begun, and none before one that had returned. lanes:
    these two of each lane.
    """
    mqlite.system.directory.boot_id = lambda: seed
    counts: list[int] = []

    def recalled(*arguments: Any) -> Any:
        found = _recalled(*arguments)
        counts.append(found[1].count if found is not None else 0)
        return found

    mqlite.log.lmdb.recalled = recalled
    broker = mqlite.open(store)
    problems = broker.check()
    if problems:
        return Verdict("check", detail="; ".join(problems)[:1000])
    for lane, (begun, returned) in lanes.items():
        queue = broker.queue(f"lane {lane}")
        bodies = [message.body.decode() for message in queue.browse()]
        _, states = lane_states(program, int(lane), count)
        alike = [number for number, state in enumerate(states) if state == bodies]
        if not any(returned <= number <= begun for number in alike):
            return Verdict("lost" if alike and alike[0] < returned else "contents", detail=f"lane {lane}: {alike}, not {returned} to {begun}")
        queue.put(b"next")
        if [queue.get(timeout=0) for _ in range(len(bodies) + 1)] != [*(body.encode() for body in bodies), b"next"]:
            return Verdict("messages after it was opened")
    problems = broker.check()
    broker.close()
    if problems:
        return Verdict("check after more operations", detail="; ".join(problems)[:1000])
    return Verdict("whole", recalled=sum(counts))


def _verified_here(directory: str) -> list[str]:
    return mqlite.verify._looked_at(directory, lambda done, total: None)


def _hasten(store: Store, model: Model) -> None:
    """What waits for its time is only counted otherwise."""
    for name in sorted(model.lanes):
        for number, _ in sorted(model.lanes[name].delayed.values()):
            before = model.copy()
            model.apply(("hasten", name, number))
            store.do(("hasten", name, number), before)


def _verdict_of_raw(store: str, seed: str, models: dict[str, Any], by_child: bool = False) -> Verdict:
    states = raw_tree.states(models["seed"], models["count"])
    environment = raw_tree.opened(os.path.join(store, "data.mdb"), sync=False)
    contents = raw_tree.contents(environment)
    if contents not in states:
        return Verdict("contents")
    state, rnd = states.index(contents), random.Random(seed)
    for number in range(MORE):
        after = {**contents, **{b"more %d %d" % (number, size): rnd.randbytes(size) for size in (40, 3000, 9000)}}
        with environment.begin(write=True) as txn:
            raw_tree.change(txn, contents, after)
        contents = after
    if raw_tree.contents(environment) != contents:
        return Verdict("contents after more operations", state)
    environment.close()
    return Verdict("whole", state)


def _verdict_of_copy(
    store: str, seed: str, models: dict[str, Any] | None = None, digest: str = "", told: str = "", empty: tuple[str, ...] = ()
) -> Verdict:
    """A directory into which a store is, or was, copied: "nothing" is there, but perhaps what needs not be there, and files
    of the names `empty`; "unfinished": it does not open, and the error says `told`; or it is whole (with its level as the
    detail): as of a state of the models, or with contents of that digest.
    """
    mqlite.disk_store.store_problems = _verified_here
    mqlite.system.directory.boot_id = lambda: seed
    names = os.listdir(store) if os.path.isdir(store) else []
    if all(name in ("run", *empty) or name.endswith("lock") for name in names):
        return Verdict("nothing")
    try:
        found = Store(store, max_store_bytes=None)
    except mqlite.StoreError as error:
        return Verdict("unfinished" if told in str(error) else "unfinished, and does not say so", detail=str(error))
    problems = found.broker.check()
    if problems:
        return Verdict("check", detail="; ".join(problems)[:1000])
    state = 0
    if models is not None:
        state, _ = found.recognise(_models(json.dumps(models)))
    elif digest_of(found.contents()) != digest:
        return Verdict("contents")
    queue = found.broker.queue("more")
    queue.put_many(list(range(MORE)))
    got = [message.body for message in queue.receive(MORE, timeout=0)]
    if got != list(range(MORE)):
        return Verdict("messages after it was opened", detail=repr(got))
    with open(os.path.join(store, "store.json")) as marker:
        level = json.load(marker)["durability"]
    found.close()
    return Verdict("whole", state, level)


def _verdict_of_next_backup(store: str, seed: str, models: dict[str, Any], target: str) -> Verdict:
    """The store, which is whole, is copied once more to the same target, after what was left there by the one before."""
    mqlite.disk_store.store_problems = _verified_here
    mqlite.system.directory.boot_id = lambda: seed
    target = os.path.join(os.path.dirname(store), target)
    opened = Store(store)
    state, _ = opened.recognise(_models(json.dumps(models)))
    contents = opened.contents()
    try:
        opened.broker.backup(target)
    finally:
        opened.close()
    if os.path.exists(target + ".part"):
        return Verdict("leaves something behind")
    copied = Store(target)
    same = copied.contents() == contents
    copied.close()
    return Verdict("whole", state) if same else Verdict("contents")


def _verdict_of_next_recovery(store: str, seed: str, digest: str, into: str) -> Verdict:
    """The store is recovered once more into the same directory; where that is refused, after what the error says."""
    mqlite.system.directory.boot_id = lambda: seed
    into = os.path.join(os.path.dirname(store), into)
    try:
        mqlite.recover(store, into)
    except mqlite.StoreError as error:
        if "delete" not in str(error):
            return Verdict("refused without a way out", detail=str(error))
        shutil.rmtree(into)
        mqlite.recover(store, into)
    return _verdict_of_copy(into, seed, digest=digest)


#: What can be asked about an image, by what answers it in the process.
QUESTIONS = {
    "store": _verdict_of_store,
    "raw": _verdict_of_raw,
    "lanes": _verdict_of_lanes,
    "copy": _verdict_of_copy,
    "next backup": _verdict_of_next_backup,
    "next recovery": _verdict_of_next_recovery,
}


def _serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            verdict = QUESTIONS[asked.pop("question", "store")](**asked)
        except BaseException as error:
            verdict = Verdict(f"raises {type(error).__name__}", detail=traceback.format_exc()[-1500:])
        print(json.dumps(attrs.asdict(verdict)), flush=True)


if __name__ == "__main__":
    _serve()
