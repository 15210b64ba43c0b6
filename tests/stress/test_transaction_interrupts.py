"""Ctrl-C at any moment of a transaction: it is done or not done, and everything goes on.

On disk. In memory an interrupt may leave half of it (docs/guarantees.md), so only that all goes on is looked at there.
See interrupting.py for what a point is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import random
import shutil
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from interrupting import interrupted_at, learn

import mqlite

END = 20000
#: Seconds after which a process that was interrupted is taken for hanging.
HANGS = 20
BACKENDS = ("memory", "disk")


class Office:
    """A store with what a transaction changes, and messages that it settles."""

    def __init__(self, path: str | None) -> None:
        self.broker = mqlite.open(path)
        self.work, self.failing, self.out = (self.broker.queue(name, max_deliveries=None) for name in ("work", "failing", "out"))
        self.full = self.broker.queue("full", maxsize=1, overflow="drop_oldest")
        self.topic = self.broker.topic("topic")
        self.sub = self.topic.subscribe("sub")
        self.broker.table("table")["key"] = "before"
        self.work.put("job")
        self.failing.put("bad job")
        self.full.put("old")
        self.job = self.work.consumer(prefetch=2).receive(timeout=0)
        self.bad_job = self.failing.consumer().receive(timeout=0)

    def stage(self, tx: mqlite.Transaction) -> None:
        self.job.ack(tx=tx)
        self.bad_job.nack(tx=tx)
        self.out.put("result", tx=tx)
        self.full.put("new", tx=tx)
        self.topic.publish("news", tx=tx)
        table = tx.table("table")
        table["key"] = table["key"] + " and after"
        assert tx.once("key")

    def commit(self) -> None:
        with self.broker.transaction() as tx:
            self.stage(tx)

    def commit_within_messages(self) -> None:
        with self.job, self.bad_job, self.broker.transaction() as tx:
            self.stage(tx)

    def roll_back(self) -> None:
        with contextlib.suppress(ZeroDivisionError), self.broker.transaction() as tx:
            self.stage(tx)
            raise ZeroDivisionError

    def conflict(self) -> None:
        with contextlib.suppress(mqlite.Conflict), self.broker.transaction() as tx:
            self.stage(tx)
            self.broker.table("table")["key"] = "before"

    def seen(self) -> str:
        """Whether it was done, or not done, by what is there; anything else is torn."""
        broker = self.broker
        done = {
            "out": len(self.out) == 1,
            "sub": len(self.sub) == 1,
            "full": [message.body for message in self.full.browse()] == ["new"],
            "table": broker.table("table")["key"] == "before and after",
            "work": self.work.stats().claimed + len(self.work) == 0,
            "once": not broker.run(lambda tx: tx.once("key")),
        }
        assert len(self.full) == 1
        assert len(set(done.values())) == 1, f"torn: {done}"
        return "done" if done["out"] else "not done"

    def settle(self, is_done: bool) -> None:
        """What the transaction was to settle can be settled by who holds it, or comes again."""
        for message in (self.job, self.bad_job):
            with contextlib.suppress(mqlite.LeaseLost, mqlite.NotClaimed):
                message.release()
        for queue in (self.work, self.failing):
            for consumer in list(queue._consumers):
                consumer.close()
        expected = [[] if is_done else ["job"], ["bad job"]]
        for queue, bodies in zip((self.work, self.failing), expected, strict=True):
            assert [message.body for message in queue.browse()] == bodies


CALLS: dict[str, Callable[[Office], None]] = {
    "commit": Office.commit,
    "commit within messages": Office.commit_within_messages,
    "roll back": Office.roll_back,
    "conflict": Office.conflict,
}


def _interrupted(talk: Any, path: str | None, name: str, point: int) -> None:
    """The call, interrupted; then everything must still work."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    office = Office(path)
    with interrupted_at(point) as struck:
        CALLS[name](office)
    talk.say(struck)
    errors: list[str] = []
    if path is None and struck and struck[0].endswith(("__enter__", "__exit__")):
        talk.say(errors)  # the lock of a store in memory may stay held
        return

    def judge() -> None:
        gc.collect()  # tracing leaves cycles, which hold what nobody has any more
        if path is not None:
            is_done = office.seen() == "done"
            assert not is_done or name not in ("roll back", "conflict")
            if not struck:
                assert is_done == name.startswith("commit")
            office.settle(is_done)
            assert office.broker.check() == []
        office.broker.run(lambda tx: (office.out.put("more", tx=tx), tx.table("other").update({"a": 1})))
        assert office.broker.table("other")["a"] == 1

    thread = _in_thread(judge, errors)
    thread.join()
    if os.fork() == 0:  # a fork waits until nobody is inside
        os._exit(0)
    os.wait()
    office.broker.close()
    talk.say(errors)


def _in_thread(function: Callable[[], None], errors: list[str]) -> threading.Thread:
    def run() -> None:
        try:
            function()
        except BaseException:
            errors.append(traceback.format_exc())

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _sweep(name: str, backend: str, points: Any, folder: str, children: Any) -> int:
    """Interrupt the call at each of the points; how many interrupts struck."""
    with mqlite.open() as broker:  # all modules are loaded
        broker.run(lambda tx: tx.table("t").update(a=1))
    learn()
    for count, point in enumerate(points):
        path = os.path.join(folder, f"{point}") if backend == "disk" else None
        child = children.fork(_interrupted, path, name, point)
        struck: Any = None
        try:
            struck = child.hear()
            errors = child.hear()
        except EOFError:
            raise AssertionError(f"the process hangs after an interrupt of {name!r} at point {point} ({struck})") from None
        assert errors == [], f"{name!r}, interrupted at point {point} ({struck}): {''.join(errors)}"
        child.end()
        children.kill_all()
        if path is not None:
            shutil.rmtree(path)  # each takes 24 MB
        if not struck:
            return count
    raise AssertionError(f"no call has {END} points")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_transaction_interrupted_at_some_points_is_done_or_not_done(name: str, backend: str, tmp_path: Any, children: Any) -> None:
    chance = random.Random(int(os.environ.get("MQLITE_SWEEP_SEED", "1")))  # another seed, other points
    points = [chance.randint(1, 100), chance.randint(100, 400), chance.randint(400, 1200), END]
    assert _sweep(name, backend, points, str(tmp_path), children) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_transaction_interrupted_at_every_point_is_done_or_not_done(name: str, backend: str, tmp_path: Any, children: Any) -> None:
    stride = int(os.environ.get("MQLITE_TRANSACTION_STRIDE", "45"))  # 1: every point; else every n-th; another seed begins elsewhere
    first = 1 + int(os.environ.get("MQLITE_SWEEP_SEED", "0")) % stride
    assert _sweep(name, backend, range(first, END + stride, stride), str(tmp_path), children) > 0
