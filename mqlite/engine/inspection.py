"""Looking without touching: counts, and messages that nobody has claimed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ..claims import Claims, Returned, Shut
from ..errors import MessageCorrupted
from ..log import DEAD_BIT, Log, Snapshot
from ..message import Position, Record
from ..system.clock import Timeline
from .catalog import QueueState
from .replay import unfed
from .schedule import Schedule


def remembered(record: Record, returned: Returned | None) -> Record:
    """The record with the counts that only the claims know."""
    if returned is None:
        return record
    return attrs.evolve(
        record,
        delivery_count=record.delivery_count + returned.failures,
        acquired_count=record.acquired_count + returned.acquired,
    )


class Inspection:
    """Reads the claims first and then the log, so that the numbers lag rather than lie."""

    def __init__(
        self, log: Log, claims: Claims, notice_deaths: Callable[[], None], schedule: Schedule, timeline: Timeline
    ) -> None:
        self._log = log
        self._timeline = timeline
        self._claims = claims
        self._notice_deaths = notice_deaths
        self._schedule = schedule

    def _notice(self, queue: QueueState) -> None:
        """What the dead held is back, and what is due is in line."""
        self._notice_deaths()
        self._schedule.care(queue.id)

    def ready(self, queue: QueueState) -> int:
        """Messages that could be claimed. Exact at rest."""
        self._notice(queue)
        self._log.fold()
        gone = self._claims.gone_so_far()
        with self._claims.read() as c, self._log.read() as snapshot:
            if c.shut(queue.id) is Shut.IMMEDIATE:
                return 0
            counters = snapshot.counters(queue.id)
            ahead = unfed(self._log, self._timeline, snapshot, queue)[0] if counters.feeds else 0
            return max(0, counters.total - counters.delayed - self._held(c, snapshot, queue, gone)) + ahead

    def browse(self, queue: QueueState, start: Position, count: int) -> list[tuple[Position, Record | None]]:
        """The first `count` messages from a position on that are not claimed, in delivery order; None for a
        damaged one.
        """
        found: list[tuple[Position, Record | None]] = []
        self._notice(queue)
        self._log.fold()
        with self._claims.read() as c, self._log.read() as snapshot:
            if c.shut(queue.id) is Shut.IMMEDIATE:
                return []
            for position, raw in snapshot.scan(queue.id, start):
                if c.row(queue.id, position) is None:
                    try:
                        record = self._log.resolved(snapshot, self._log.decode(queue.id, position, raw))
                    except MessageCorrupted:
                        found.append((position, None))
                    else:
                        found.append((position, remembered(record, c.returned_at(queue.id, position))))
                    if len(found) == count:
                        break
        return found

    def numbers(self, queue: QueueState) -> dict[str, Any]:
        """ready, claimed, dead, bytes, oldest_ns (None: empty). O(priorities in use)."""
        self._notice(queue)
        self._log.fold()
        gone = self._claims.gone_so_far()
        with self._claims.read() as c, self._log.read() as snapshot:
            counters = snapshot.counters(queue.id)
            undelayed = counters.total - counters.delayed
            claimed = min(self._held(c, snapshot, queue, gone), undelayed)
            ahead, ahead_ns = unfed(self._log, self._timeline, snapshot, queue) if counters.feeds else (0, None)
            times = [ns for ns in (snapshot.oldest_ns(queue.id), ahead_ns) if ns is not None]
            return {
                "ready": undelayed - claimed + ahead,
                "delayed": counters.delayed,
                "claimed": claimed,
                "dead": 0 if queue.id & DEAD_BIT else snapshot.counters(queue.id | DEAD_BIT).total,
                "bytes": counters.bytes,
                "oldest_ns": min(times, default=None),
            }

    def stored(self, queue: QueueState) -> int:
        """Messages in the queue that nobody holds, without those that are still to be replayed to it."""
        self._log.fold()
        gone = self._claims.gone_so_far()
        with self._claims.read() as c, self._log.read() as snapshot:
            counters = snapshot.counters(queue.id)
            return counters.total - counters.delayed - self._held(c, snapshot, queue, gone)

    def _held(self, c: Any, snapshot: Snapshot, queue: QueueState, gone: int) -> int:
        """How many messages are claimed. O(1); while rows of settled ones are left, one seek each up to the last of
        them: what was taken first is mostly settled first. gone: Claims.gone_so_far as of before the snapshots, of
        which a row may be gone meanwhile.
        """
        claimed = int(c.claimed(queue.id))
        left = self._claims.postponed(gone) if claimed else 0
        if left:
            for _, position, _ in c.rows(queue.id):
                if not snapshot.has(queue.id, position):
                    claimed, left = claimed - 1, left - 1
                    if not left:
                        break
        return claimed

    def total(self, queue: QueueState) -> int:
        """Messages in the queue, claimed ones included: what maxsize limits."""
        self._log.fold()
        with self._log.read() as snapshot:
            return snapshot.counters(queue.id).total
