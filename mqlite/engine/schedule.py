"""Messages that wait for their time, and take their place in line when it has come. [13]

Whoever looks next moves what is due: a claimer before it claims, a sleeper when its
time to wake has come. A message that was moved lines up behind what is ready at its
priority: it has a new seq, so no cursor of the claims can have passed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import attrs

from ..errors import MessageCorrupted, StoreFull
from ..log import Log, Snapshot
from ..message import Due, Record
from ..system.clock import LINES, WALL, Timeline
from .steps import ARRIVED

#: What is moved in one commit: so many messages, or so many bytes of them, whichever comes first. LMDB needs room
#: for all pages that a commit changes, and what is acknowledged makes that room only later.
MOVED_AT_ONCE = 512
MOVED_BYTES = 512 << 10
#: How soon to look again where there was no room.
RETRY_NS = 500_000_000
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
        dues = [(line, snapshot.next_due(queue, line)) for line in LINES]
        return [(line, due_ns) for line, due_ns in dues if due_ns is not None]

    def is_due(self, queue: int, snapshot: Snapshot) -> bool:
        """Whether some message's time has come. One seek per line."""
        return any(self._is_past(each) for each in self.next_due(queue, snapshot))

    def wake_ns(self, queue: int) -> int:
        """When to look by the monotonic clock, in ns; 0 where nothing waits."""
        with self._log.read() as snapshot:
            due = self.next_due(queue, snapshot) if snapshot.gauges(queue)[1] else []
        return self._first_wake_ns(due)

    def care(self, queue: int) -> tuple[int, bool]:
        """Move what is due. (when to look again by the monotonic clock, in ns, or 0; whether anything was moved)"""
        with self._log.read() as snapshot:
            if not snapshot.gauges(queue)[1]:
                return 0, False
            due = self.next_due(queue, snapshot)
        if not any(self._is_past(each) for each in due):
            return self._first_wake_ns(due), False
        moved = self.move(queue)
        with self._log.read() as snapshot:
            due = self.next_due(queue, snapshot)
        if any(self._is_past(each) for each in due):
            return self._timeline.tick_after(RETRY_NS), moved
        return self._first_wake_ns(due), moved

    def _is_past(self, due: Due) -> bool:
        line, due_ns = due
        return due_ns <= self._timeline.now_ns(line)

    def _first_wake_ns(self, due: list[Due]) -> int:
        return min((self._timeline.wake_ns(each) for each in due), default=0)

    def move(self, queue: int) -> bool:
        """Move all that is due now, some at a time. False where there is no room to, or nothing is."""
        until_ns = {line: self._timeline.now_ns(line) for line in LINES}
        moved, most_bytes = False, MOVED_BYTES
        while True:
            try:
                if not self._log.write(partial(self._move_some, queue, until_ns, most_bytes)):
                    return moved
                moved = True
            except StoreFull:  # what is ready can still be taken, which makes room
                if not most_bytes:
                    return moved
                most_bytes = 0  # one at a time

    def _move_some(self, queue: int, until_ns: dict[int, int], most_bytes: int, txn: Any) -> int:
        """Under L: the first that are due, one at least. Raises StoreFull, with nothing changed."""
        count, size = 0, 0
        for line in LINES:
            for key, _, raw in list(self._some(txn, queue, line, until_ns[line], most_bytes)):
                try:
                    rank, record = self._log.decode_delayed(key, raw)
                except MessageCorrupted as error:
                    if not count:  # alone, since it may find no room
                        rank, record = self._log.salvage_delayed(key, raw, self._timeline.now_ns(WALL))
                        self._bury(txn, queue, rank, record, f"MessageCorrupted: {error}")
                        txn.undelay(queue, key)
                        count = 1
                    return count
                draft = self._log.prepare(attrs.evolve(record, due=None))
                size += self._log.footprint(draft)
                if count and size > most_bytes:
                    return count
                txn.append(queue, rank, draft, record.id)
                txn.undelay(queue, key)
                if not count:
                    txn.notes.append((ARRIVED, queue))
                count += 1
                if count == MOVED_AT_ONCE:
                    return count
        return count

    @staticmethod
    def _some(txn: Any, queue: int, line: int, until_ns: int, most_bytes: int) -> Iterator[tuple[Any, int, Any]]:
        """The first that are due on a line, of not much more than that size together."""
        size = 0
        for key, due_ns, raw in islice(txn.delayed(queue, line, until_ns), MOVED_AT_ONCE):
            yield key, due_ns, raw
            size += len(raw) if isinstance(raw, bytes) else 0
            if size > most_bytes:
                return
