"""Further scenarios for kill_points.py: a process is killed in a backup.

After each death the original is whole, and the target is a whole store or is not there; what is left beside it opens as
no store, and the next backup removes it.

    python -m crash.copy_points FOLDER half    sweeps by system call, in tests/
"""

from __future__ import annotations

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

MESSAGES = 300
BODY = "x" * 10_000


def make(path: str) -> None:
    """A store with messages, and as many free pages."""
    with mqlite.open(path) as broker:
        queue = broker.queue("q")
        queue.put_many([BODY] * 2 * MESSAGES)
        queue.ack_many(queue.receive(MESSAGES))


def judge(path: str) -> None:
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").stats().ready == MESSAGES


def died(children: Children, arm: Callable[[int], None], point: int, act: Callable[[mqlite.Broker], object], path: str) -> bool:
    """Run act in a process that dies at the point; whether it did."""

    def child(talk: Any) -> None:
        broker = mqlite.open(path)
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


def main() -> None:
    """All by system call; prints one line of JSON each."""
    folder, half = sys.argv[1], int(sys.argv[2])
    survived, kills = sweep_backup(folder, Children(), arm_writes(half), EVERY_WRITE)
    print(json.dumps({"scenario": "backup", "survived": survived, "kills": kills}), flush=True)


if __name__ == "__main__":
    main()
