"""Further scenarios for kill_points.py: a process is killed in a backup, in a recovery, or in a compaction.

After each death in a backup the original is whole, and the target is a whole store or is not there; what is left beside
it opens as no store, and the next backup removes it. After one in a recovery the old store is as it was, and the new one
is whole, or does not open, or is not there, or nothing is in its directory. After one in a compaction the store has the old file or the new
one, also after a power cut, and a process that was forked from the dead one shares it, and its claims, with who opens it.

    python -m crash.copy_points FOLDER half LEVEL ...    sweeps by system call, in tests/
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from crash.children import Children
from crash.kill_points import EVERY_WRITE, arm_writes

import mqlite
import mqlite.system.directory

MESSAGES, FEW = 300, 10
BODY = "x" * 10_000


def make(path: str, level: str = "full", messages: int = MESSAGES) -> None:
    """A store with messages, and twice as many free pages."""
    with mqlite.open(path, durability=level, max_store_bytes=64 << 20) as broker:
        queue = broker.queue("q")
        queue.put_many([BODY] * 3 * messages)
        queue.ack_many(queue.receive(2 * messages))


def judge(path: str, messages: int = MESSAGES) -> None:
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").stats().ready == messages


def died(children: Children, arm: Callable[[int], None], point: int, act: Callable[[Any], object], path: str | None) -> bool:
    """Run act(the store at the path, if one is named) in a process that dies at the point; whether it did."""

    def child(talk: Any) -> None:
        broker = path and mqlite.open(path)
        arm(point)
        act(broker)
        arm(0)
        talk.say("survived")
        talk.hear(3600)

    forked = children.fork(child)
    try:
        survived = forked.hear() == "survived"
    except EOFError:
        survived = False
        assert forked.wait() == -signal.SIGKILL
    children.kill_all()
    return not survived


def sweep_backup(folder: str, children: Children, arm: Callable[[int], None], points: Iterable[int]) -> tuple[int, int]:
    """Die in a backup. (the first point survived, kills)"""
    path, target = os.path.join(folder, "app.mq"), os.path.join(folder, "copy.mq")
    make(path)
    kills = 0
    for point in points:
        dead = died(children, arm, point, lambda broker: broker.backup(target), path)
        kills += dead
        judge(path)
        part = target + ".part"
        if os.path.exists(part) and os.listdir(part):  # what is empty may become anything
            try:
                judge(part)
            except mqlite.StoreError:
                pass
            else:
                shutil.rmtree(part)  # whole, and used as a store: nobody else removes it
        if os.path.exists(target):
            judge(target)
            shutil.rmtree(target)
        with mqlite.open(path) as broker:
            broker.backup(target)
        judge(target)
        assert sorted(os.listdir(folder)) == ["app.mq", "copy.mq"], point
        shutil.rmtree(target)
        if not dead:
            return point, kills
    return 0, kills


def sweep_recovery(folder: str, children: Children, arm: Callable[[int], None], points: Iterable[int]) -> tuple[int, int]:
    """Die in a recovery. (the first point survived, kills)"""
    old, new = os.path.join(folder, "old.mq"), os.path.join(folder, "new.mq")
    make(old, messages=FEW)
    kills = 0
    for point in points:
        dead = died(children, arm, point, lambda _: mqlite.recover(old, new), None)
        kills += dead
        judge(old, FEW)
        found = set(os.listdir(new)) - {"open.lock"} if os.path.isdir(new) else set()
        if found:
            try:
                judge(new, FEW)
            except mqlite.StoreError:
                assert dead, point
            if dead:
                refused = ""
                try:
                    mqlite.recover(old, new)
                except mqlite.StoreError as error:
                    refused = str(error)
                assert "delete it first" in refused, (point, found)
        else:
            assert dead, point
        shutil.rmtree(new, ignore_errors=True)
        mqlite.recover(old, new)
        judge(new, FEW)
        shutil.rmtree(new)
        if not dead:
            return point, kills
    return 0, kills


def _meet(pipe: str, mode: str) -> None:
    """Wait until another process opens the other end of a named pipe."""
    with open(pipe, mode):
        pass


def sweep_compaction(folder: str, children: Children, arm: Callable[[int], None], points: Iterable[int], level: str) -> tuple[int, int]:
    """Die in a compaction. (the first point survived, kills)"""
    path = os.path.join(folder, f"{level}.mq")
    template = path + ".template"
    make(template, level)
    kills = 0
    sizes = set()
    for point in points:
        os.mkdir(path)
        for name in ("store.json", "log.control", "log.mdb"):
            shutil.copy(os.path.join(template, name), path)

        def child(talk: Any, point: int = point) -> None:
            broker = mqlite.open(path)
            queue = broker.queue("q")
            queue.receive(2)
            heirs = Children()
            heir = heirs.fork(inherit, talk, queue)  # it has not used the store when the compaction begins
            talk.say(heir.pid)
            arm(point)
            broker.compact()
            arm(0)
            talk.say("survived")
            talk.hear(3600)

        def inherit(talk: Any, parents: Any, queue: mqlite.Queue[Any]) -> None:
            parents.close()  # else nobody hears of the parent's end
            _meet(path + ".go", "r")
            queue.receive(3)
            queue.put("of the heir")
            _meet(path + ".went", "w")
            signal.pause()

        for pipe in (path + ".go", path + ".went"):
            os.mkfifo(pipe)
        forked = children.fork(child)
        heir = forked.hear()
        try:
            dead = forked.hear() != "survived"
        except EOFError:
            dead = True
            assert forked.wait() == -signal.SIGKILL
        forked.kill()
        kills += dead
        try:
            with mqlite.open(path) as broker:
                queue = broker.queue("q")
                assert broker.check() == []
                _meet(path + ".go", "w")
                _meet(path + ".went", "r")
                assert broker.check() == []
                assert (queue.stats().ready, queue.stats().claimed) == (MESSAGES - 2, 3), (point, queue.stats())
                os.kill(heir, signal.SIGKILL)
                while queue.stats().claimed:
                    queue.receive(timeout=0)[0].release()
                sizes.add(os.stat(os.path.join(path, "log.mdb")).st_blocks)
            real, mqlite.system.directory.boot_id = mqlite.system.directory.boot_id, lambda: "another boot"
            try:
                judge(path, MESSAGES + 1)
            finally:
                mqlite.system.directory.boot_id = real
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(heir, signal.SIGKILL)
            children.kill_all()
            for pipe in (path + ".go", path + ".went"):
                os.unlink(pipe)
            shutil.rmtree(path)
        if not dead:
            shutil.rmtree(template)
            assert len(sizes) > 1, "neither the old file nor the new one was left"
            return point, kills
    return 0, kills


def main() -> None:
    """Backups and recoveries, or compactions at the levels that are named, by system call; prints one line of JSON each."""
    folder, half = sys.argv[1], int(sys.argv[2])
    if not sys.argv[3:]:
        for scenario, sweep in (("backup", sweep_backup), ("recover", sweep_recovery)):
            os.mkdir(os.path.join(folder, scenario))
            survived, kills = sweep(os.path.join(folder, scenario), Children(), arm_writes(half), EVERY_WRITE)
            print(json.dumps({"scenario": scenario, "survived": survived, "kills": kills}), flush=True)
    for level in sys.argv[3:]:
        survived, kills = sweep_compaction(folder, Children(), arm_writes(half), EVERY_WRITE, level)
        print(json.dumps({"scenario": f"compact, {level}", "survived": survived, "kills": kills}), flush=True)


if __name__ == "__main__":
    main()
