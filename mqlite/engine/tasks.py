"""Unfinished tasks, and shutting down: what `queue.Queue` counts and we keep exact across processes.

A message is unfinished while it is in the log. One taken by `get` stays unfinished, as
a task of its owner, until `task_done`, or until the owner dies. Between the commit that
removes it from the log and the one that counts the task, its row tells. The row of one
that is expected [28] tells nothing: there was no message yet, or it failed.
"""

from __future__ import annotations

from typing import Any

from ..claims import TASK, Claims, Kind, Shut
from ..claims.expected import Named
from ..log import Log
from ..system.clock import Timeline
from ..waiting import Interrupt, Presence, Seat, Waiters
from .catalog import QueueState
from .replay import unfed
from .steps import CHANGED


def shut_mode(claims: Claims, queue: int) -> Shut:
    """Whether a queue was shut down."""
    with claims.read() as c:
        mode: Shut = c.shut(queue)
        return mode


class Tasks:
    """task_done, join and shutdown of the queues of one store."""

    def __init__(self, log: Log, claims: Claims, presence: Presence, waiters: Waiters, timeline: Timeline) -> None:
        self._log = log
        self._timeline = timeline
        self._claims = claims
        self._presence = presence
        self._waiters = waiters

    def unfinished(self, queue: QueueState) -> int:
        """Messages in the queue, and those taken by `get` and not yet reported done. Exact: read under L."""
        return self._log.hold(lambda txn: self._unfinished(queue, txn))

    def _unfinished(self, queue: QueueState, txn: Any) -> int:
        named = self._expected()  # before the snapshot and in it: one of both knows a row that is in it
        held = taken = 0
        with self._claims.read() as c:
            named |= self._expected()
            for _, position, row in c.rows(queue.id):
                if txn.has(queue.id, position):
                    held += 1
                elif row.flags & TASK and (queue.id, position, row.owner) not in named:
                    taken += 1
            counters = txn.counters(queue.id)
            stored = held if c.shut(queue.id) is Shut.IMMEDIATE else counters.total
            if counters.feeds:
                stored += unfed(self._log, self._timeline, txn, queue)[0]
            return max(0, int(stored + taken + sum(c.tasks(queue.id).values())))

    def _expected(self) -> set[Named]:
        """The row that is of no task, unless it has a message, if there is one. [28]"""
        expected = self._claims.expected
        named = None if expected is None else expected.named()
        return set() if named is None else {named}

    def task_done(self, queue: QueueState) -> bool:
        """One task less; False where none was open."""

        def op(txn: Any) -> bool:
            unfinished = self._unfinished(queue, txn)
            if unfinished <= 0:
                return False
            with self._claims.lock, self._claims.guard, self._claims.write() as c:
                tasks = c.tasks(queue.id)
                mine = self._presence.owner
                owner = mine if tasks.get(mine, 0) > 0 else next((o for o, n in tasks.items() if n > 0), 0)
                if owner or not self._drop_task_row(c, txn, queue):
                    c.add_tasks(queue.id, owner or mine, -1)
            if unfinished == 1:
                txn.notes.append((CHANGED, queue.id))
            return True

        _ = self._presence.owner
        return self._log.hold(op)

    def _drop_task_row(self, c: Any, txn: Any, queue: QueueState) -> bool:
        """Under L and C: a task that only a row tells of is done, and so goes the row; False where there is none.

        Counted off by this process instead, it would be missing here once the holder of the row has died, whose tasks
        are done with him.
        """
        named = self._expected()
        for _, position, row in c.rows(queue.id):
            is_task = row.flags & TASK and (queue.id, position, row.owner) not in named
            if is_task and not txn.has(queue.id, position):
                c.drop(queue.id, position, row.group)
                return True
        return False

    def join(self, queue: QueueState, interrupt: Interrupt) -> None:
        """Wait until nothing is unfinished."""

        def attempt(seat: Seat) -> bool | None:
            return self.unfinished(queue) == 0 or None

        if not attempt(Seat()):
            self._waiters.wait(queue.id, Kind.DONE, attempt, None, interrupt)

    def shutdown(self, queue: QueueState, immediate: bool) -> None:
        """No more puts; gets go on until the queue is empty, or end now. For all processes that have the store open."""

        def op(txn: Any) -> None:
            with self._claims.lock, self._claims.guard, self._claims.write() as c:
                mode = Shut.IMMEDIATE if immediate else max(Shut.DRAINING, c.shut(queue.id))
                c.set_shut(queue.id, mode)
                if immediate and self._log.one_lock:
                    txn.drain(queue.id)
                    c.forget_cursors(queue.id)  # what claimers have passed over goes, too
                    for position, _ in list(c.returned(queue.id)):
                        txn.remove(queue.id, position)
                        c.take_returned(queue.id, position)
            txn.notes.append((CHANGED, queue.id))

        _ = self._presence.owner
        self._log.hold(op)

    def shut(self, queue: QueueState) -> Shut:
        """Whether the queue was shut down."""
        return shut_mode(self._claims, queue.id)
