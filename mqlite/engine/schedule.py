"""Messages that wait for their time, and take their place in line when it has come. [13]

Whoever looks next moves what is due: a claimer before it claims, a sleeper when its
time to wake has come. A message that was moved lines up behind what is ready at its
priority: it has a new seq, so no cursor of the claims can have passed it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import islice
from typing import Any

from ..errors import MessageCorrupted, StoreFull
from ..log import Log, Snapshot
from ..message import Due, Record
from ..system.clock import LINES, Timeline
from .steps import ARRIVED

#: Messages that are moved in one commit.
MOVED_AT_ONCE = 512
#: bury(txn, queue id, rank, record, error): what cannot be read any more goes to the dead letters
BuryDelayed = Callable[[Any, int, int, Record, str], None]


class Schedule:
    """The delayed messages of one store. Free for any thread."""

    def __init__(self, log: Log, timeline: Timeline, bury: BuryDelayed) -> None:
        self._log = log
        self._timeline = timeline
        self._bury = bury

    def next_due(self, queue: int, snapshot: Snapshot) -> list[Due]:
        """The earliest of each line."""
        return [(line, due_ns) for line in LINES for _, due_ns, _ in islice(snapshot.delayed(queue, line), 1)]

    def is_due(self, queue: int, snapshot: Snapshot) -> bool:
        """Whether some message's time has come. One seek per line."""
        return any(due_ns <= self._timeline.now_ns(line) for line, due_ns in self.next_due(queue, snapshot))

    def wake_ns(self, queue: int) -> int:
        """When to look by the monotonic clock, in ns; 0 where nothing waits."""
        with self._log.read() as snapshot:
            due = self.next_due(queue, snapshot) if snapshot.gauges(queue)[1] else []
        return min((self._timeline.wake_ns(each) for each in due), default=0)

    def care(self, queue: int) -> tuple[int, bool]:
        """Move what is due. (when to look again by the monotonic clock, in ns, or 0; whether anything was moved)"""
        with self._log.read() as snapshot:
            if not snapshot.gauges(queue)[1]:
                return 0, False
            due = self.next_due(queue, snapshot)
        moved = any(due_ns <= self._timeline.now_ns(line) for line, due_ns in due) and self.move(queue)
        return self.wake_ns(queue), moved

    def move(self, queue: int) -> bool:
        """Move all that is due now, in commits of MOVED_AT_ONCE. False where there is no room to, or nothing is."""
        moved = False
        until_ns = {line: self._timeline.now_ns(line) for line in LINES}

        def op(txn: Any) -> int:
            found = [
                (key, raw)
                for line in LINES
                for key, _, raw in islice(txn.delayed(queue, line, until_ns[line]), MOVED_AT_ONCE)
            ]
            for key, raw in found:
                self._move_one(txn, queue, key, raw)
            if found:
                txn.notes.append((ARRIVED, queue))
            return len(found)

        with contextlib.suppress(StoreFull):  # what is ready can still be taken, which makes room
            while self._log.write(op):
                moved = True
        return moved

    def _move_one(self, txn: Any, queue: int, key: Any, raw: Any) -> None:
        try:
            rank, record = self._log.decode_delayed(key, raw)
        except MessageCorrupted as error:
            rank, record = self._log.salvage_delayed(key, raw, self._timeline.now_ns(LINES[1]))
            txn.undelay(queue, key)
            self._bury(txn, queue, rank, record, f"MessageCorrupted: {error}")
            return
        txn.undelay(queue, key)
        record.due = None
        txn.append(queue, rank, self._log.prepare(record), record.id)
