"""Kills a process that makes a checkpoint at its n-th system call, while another one goes on writing.

After each death everything that was confirmed is there, for the process that goes on and for one that comes. And if
the machine stopped just then: the store is as of a checkpoint, with all that was there when the last `sync` returned.

    python -m crash.checkpoint_points FOLDER half    in tests/ (needs fault_at_call.c preloaded)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from crash.children import Children
from crash.kill_points import arm_writes

import mqlite
from mqlite.durability import checkpoint

#: Of the messages that the process which goes on puts in each round.
AT_ONCE = 40
#: Beyond the longest of the calls.
END = 200
#: So many in a row, and the call is over.
SURVIVORS = 5


@contextlib.contextmanager
def checkpoints_follow_each_other() -> Iterator[None]:
    """The threads of this process's children make one after the other."""
    before = checkpoint.TICK, checkpoint.INTERVAL, checkpoint.VOLUME_BYTES
    checkpoint.TICK, checkpoint.INTERVAL, checkpoint.VOLUME_BYTES = 0.001, 0.004, 1 << 20
    try:
        yield
    finally:
        checkpoint.TICK, checkpoint.INTERVAL, checkpoint.VOLUME_BYTES = before


def is_whole_after_a_restart(path: str) -> list[Any]:
    """What is there (of a queue "q") if the machine stops now. Nobody writes. A copy, of which another boot knows nothing."""
    copy = path + ".copy"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("run"))
    try:
        with mqlite.open(copy) as broker:
            assert broker.check() == []
            return [message.body for message in broker.queue("q").browse()]
    finally:
        shutil.rmtree(copy)


def go_on(talk: Any, path: str) -> None:
    """Puts what it is asked for."""
    number = 0
    with mqlite.open(path) as broker:
        queue = broker.queue("q")
        talk.say("ready")
        while (count := talk.hear(3600)) is not None:
            for _ in range(count):
                queue.put(["on", number])
                number += 1
            talk.say(number)


def make_one(broker: mqlite.Broker) -> None:
    broker.sync()


def let_the_thread_make_some(broker: mqlite.Broker) -> None:
    queue = broker.queue("other")
    for _ in range(300):
        queue.put("x" * 2000)
        queue.get()


class Kills:
    """The rounds on one store."""

    def __init__(self, folder: str, name: str, children: Children, act: Callable[[mqlite.Broker], None], half: int) -> None:
        self._path = os.path.join(folder, f"{name}.mq")
        self._children = children
        self._act = act
        self._arm = arm_writes(half)
        self._synced = 0
        self.kills = 0
        mqlite.open(self._path, durability="checkpoint").close()
        self._goes_on = children.fork(go_on, self._path)
        assert self._goes_on.hear() == "ready"

    def _make(self, talk: Any, point: int) -> None:
        broker = mqlite.open(self._path)
        broker.queue("q").put(["one", point])
        talk.say("ready")
        talk.hear()
        self._arm(point)
        self._act(broker)
        self._arm(0)
        talk.say("survived")
        talk.hear(3600)

    def run(self, step: int) -> None:
        """Until so many in a row survive: the process that goes on may have made the checkpoint that one was to make."""
        put, points = 0, []
        survivors = 0
        for point in range(1, END, step):
            child = self._children.fork(self._make, point)
            assert child.hear() == "ready"
            points.append(point)
            before = put
            self._goes_on.say(AT_ONCE)
            child.say("go")
            try:
                survived = child.hear() == "survived"
            except EOFError:
                survived = False
                self.kills += 1
            put = self._goes_on.hear()
            child.kill()
            self._look(point, [["on", number] for number in range(put)], points, before if survived else self._synced)
            survivors = survivors + 1 if survived else 0
            if survivors == SURVIVORS:
                break
        self._goes_on.say(None)
        self._goes_on.end()
        shutil.rmtree(self._path)

    def _look(self, point: int, put: list[Any], points: list[int], synced: int) -> None:
        with mqlite.open(self._path) as broker:
            assert broker.check() == [], point
            there = [message.body for message in broker.queue("q").browse()]
            broker.sync()
        self._goes_on.say(1)
        self._goes_on.hear()
        put.append(["on", len(put)])
        assert [body for body in there if body[0] == "on"] == put[:-1], point
        assert [body[1] for body in there if body[0] == "one"] == points, point
        left = is_whole_after_a_restart(self._path)
        own = [body for body in left if body[0] == "on"]
        assert own == put[: len(own)], f"{point}: not a prefix"
        assert len(own) >= synced, f"{point}: there are {len(own)}, but {synced} were there at the last checkpoint"
        self._synced = len(put) - 1


def main() -> None:
    folder, half = sys.argv[1], int(sys.argv[2])
    children = Children()
    try:
        for name, act, step in (("sync", make_one, 1), ("thread", let_the_thread_make_some, 7)):
            with checkpoints_follow_each_other():
                kills = Kills(folder, name, children, act, half)
                kills.run(step)
            print(json.dumps({"scenario": name, "kills": kills.kills}), flush=True)
    finally:
        children.kill_all()


if __name__ == "__main__":
    main()
