"""What waits for a time: delayed messages, schedules, and messages that expire. [13]

Whoever looks next does what is due: a claimer before it claims, a sleeper when its
time to wake has come. A delayed message that was moved lines up behind what is ready
at its priority: it has a new seq, so no cursor of the claims can have passed it.

A schedule is a template that waits among the delayed messages. When it is due, the commit that
puts its message has it wait for its next firing: so each firing is one message, whoever looks.

What has expired is removed like anything that nobody holds [19]; what somebody holds does not
expire before it comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

import attrs

from ..claims import Claims, Shut
from ..errors import LeaseLost, MessageCorrupted, StoreFull
from ..log import Counters, Draft, Log, Snapshot
from ..log.index import Place
from ..message import Due, Marks, Position, Record
from ..options import QueueOptions
from ..recurrence import MOST_AT_ONCE, Recurrence
from ..system.clock import LINES, WALL, Timeline
from .catalog import Catalog, QueueState
from .steps import ARRIVED, CHANGED, Claim

#: What is moved in one commit: so many messages, or so many bytes of them, whichever comes first. LMDB needs room
#: for all pages that a commit changes, and what is acknowledged makes that room only later.
MOVED_AT_ONCE = 512
MOVED_BYTES = 512 << 10
#: What expires in one commit.
EXPIRED_AT_ONCE = 256
#: How soon to look again where there was no room.
RETRY_NS = 500_000_000


def _is_timed(queue: int, snapshot: Snapshot) -> bool:
    """Whether anything waits for a time to line up, or expires."""
    _, waiting, expiring, _ = snapshot.gauges(queue)
    return bool(waiting or expiring)


class Moves(Protocol):
    """What a schedule needs of the engine."""

    def append(self, txn: Any, queue: QueueState, rank: int, draft: Draft, message_id: int = 0) -> int:
        """See Parts."""

    def bury_delayed(
        self, txn: Any, queue: int, rank: int, record: Record, reason: str, error: str | None, has_room: bool = False
    ) -> None:
        """See Settling."""

    def bury_expired(self, claims: list[Claim]) -> None:
        """See Settling."""

    def let_go_on(self, txn: Any, queue: int, key: Any, raw: Any) -> None:
        """See Parts."""

    def release_all(self, claims: list[Claim], *, quietly: bool) -> None:
        """See Settling."""

    def seize(self, queue: QueueState, positions: list[Position], into: list[Claim]) -> None:
        """See Claiming."""


class Schedule:
    """What waits for a time in one store. Free for any thread."""

    def __init__(self, log: Log, claims: Claims, timeline: Timeline, catalog: Catalog, moves: Moves) -> None:
        self._log = log
        self._claims = claims
        self._timeline = timeline
        self._catalog = catalog
        self._moves = moves

    def next_due(self, queue: int, snapshot: Snapshot) -> list[Due]:
        """The earliest of each line."""
        dues = [(line, snapshot.next_due(queue, line)) for line in LINES]
        return [(line, due_ns) for line, due_ns in dues if due_ns is not None]

    def is_due(self, queue: int, snapshot: Snapshot) -> bool:
        """Whether some message's time has come to line up. One seek per line."""
        return any(self._timeline.is_past(each) for each in self.next_due(queue, snapshot))

    def wake_ns(self, queue: int) -> int:
        """When to look by the monotonic clock, in ns; 0 where nothing waits."""
        with self._log.read() as snapshot:
            if not _is_timed(queue, snapshot):
                return 0
            times = [*self.next_due(queue, snapshot), *self._next_expiry(queue, snapshot)]
        return self._first_wake_ns(times)

    def care(self, queue: int) -> tuple[int, bool]:
        """Do what is due. (when to look again by the monotonic clock, in ns, or 0; whether anything was done)"""
        with self._log.read() as snapshot:
            if not _is_timed(queue, snapshot):
                return 0, False
        with self._claims.read() as c, self._log.read() as snapshot:
            due = self.next_due(queue, snapshot)
            expiry = self._next_expiry(queue, snapshot)
            anything_expired = next(self._expired(queue, c, snapshot), None) is not None
        done = anything_expired and self.expire(queue)
        if not any(map(self._timeline.is_past, due)):
            return self._first_wake_ns([*due, *expiry]), done
        done = self.move(queue) or done
        with self._log.read() as snapshot:
            due, expiry = self.next_due(queue, snapshot), self._next_expiry(queue, snapshot)
        if any(map(self._timeline.is_past, due)):
            return self._timeline.tick_after(RETRY_NS), done
        return self._first_wake_ns([*due, *expiry]), done

    def _first_wake_ns(self, times: list[Due]) -> int:
        return min((self._timeline.wake_ns(each) for each in times), default=0)

    # ------------------------------------------------------------------ lining up
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
        state = self._catalog.state(queue, txn)
        for line in LINES:
            for key, due_ns, raw in list(self._some(txn, queue, line, until_ns[line], most_bytes)):
                try:
                    rank, record = self._log.decode_delayed(key, raw)
                except MessageCorrupted as error:
                    if not count:  # alone, since it may find no room
                        rank, record = self._log.salvage_delayed(key, raw, self._timeline.now_ns(WALL))
                        reason = f"MessageCorrupted: {error}"
                        self._moves.bury_delayed(txn, queue, rank, record, "corrupted", reason)
                        txn.undelay(queue, key)
                        self._moves.let_go_on(txn, queue, key, raw)
                        count = 1
                    return count
                if record.marks is not None and record.marks.timer is not None:
                    count += self._fire(txn, state, key, (line, due_ns), rank, record)
                    continue
                record.due = None
                draft = self._log.prepare(record)
                size += self._log.footprint(draft)
                if count and size > most_bytes:
                    return count
                txn.undelay(queue, key)
                self._moves.append(txn, state, rank, draft, record.id)
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

    # ------------------------------------------------------------------ firing
    def _fire(self, txn: Any, queue: QueueState, key: Any, due: Due, rank: int, record: Record) -> int:
        """Under L: a schedule puts its messages, as far as there is room, and waits for its next time; 1, or 0 where it
        could not.
        """
        assert record.extras is not None
        assert record.marks is not None
        recurrence = Recurrence.from_json(record.extras["recurrence"])
        if not recurrence.is_computable():
            return 0  # a process that has the library does it
        with self._claims.read() as c:
            if c.shut(queue.id) is not Shut.OPEN:
                return 0  # nothing can be put
        line, due_ns = due
        message = self._firing(record)
        draft = self._log.prepare(message)
        room = self._room(queue.options, txn.counters(queue.id), max(1, self._log.stored_bytes(draft)))
        count, next_ns = recurrence.fire(due_ns, self._timeline.now_ns(line), max(1, room))
        if count > room:
            return 0
        size = self._log.footprint(draft)
        try:
            txn.reserve(size * (count + 1))
        except StoreFull:
            return 0
        txn.undelay(queue.id, key)
        template = self._log.prepare(attrs.evolve(record, due=(line, next_ns)))
        txn.delay(queue.id, rank, template, record.id)
        for _ in range(count):
            self._moves.append(txn, queue, rank, self._log.prepare(attrs.evolve(message)))
        txn.notes.append((ARRIVED if count else CHANGED, queue.id))
        return 1

    @staticmethod
    def _room(options: QueueOptions, counters: Counters, size: int) -> int:
        """How many messages of that size the queue takes in one commit."""
        room = min(MOST_AT_ONCE, max(1, MOVED_BYTES // size))
        if options.maxsize:
            room = min(room, options.maxsize - counters.total)
        if options.maxbytes:
            room = min(room, (options.maxbytes - counters.bytes) // size)
        return room

    def _firing(self, template: Record) -> Record:
        """The message that a schedule puts now."""
        assert template.extras is not None
        assert template.marks is not None
        extras = {name: value for name, value in template.extras.items() if name not in ("recurrence", "ttl")}
        ttl = template.extras.get("ttl")
        marks = template.marks._replace(timer=None, expires=None if ttl is None else self._timeline.after(ttl))
        return Record(
            template.payload,
            self._timeline.now_ns(WALL),
            extras=extras or None,
            marks=None if marks == Marks() else marks,
        )

    # ------------------------------------------------------------------ expiring
    def _next_expiry(self, queue: int, snapshot: Snapshot) -> list[Due]:
        """The next that will expire of each line. What has expired and is still there is held by somebody."""
        times = [(line, snapshot.next_expiry(queue, line, self._timeline.now_ns(line))) for line in LINES]
        return [(line, expires_ns) for line, expires_ns in times if expires_ns is not None]

    def _expired(self, queue: int, c: Any, snapshot: Snapshot) -> Iterator[tuple[int, Place]]:
        """(id, place) of what has expired and nobody holds, in order."""
        for line in LINES:
            for rank, number in snapshot.expired(queue, line, self._timeline.now_ns(line)):
                place = snapshot.ranked_place(queue, rank, number)
                if place is not None and (place.waits or c.row(queue, place.position) is None):
                    yield number, place

    def expire(self, queue: int) -> bool:
        """Move what has expired, and nobody holds, to the dead letters, or drop it. Whether anything was."""
        done, at_once = False, EXPIRED_AT_ONCE
        while True:
            with self._claims.read() as c, self._log.read() as snapshot:
                state = self._catalog.state(queue, snapshot)
                found = list(islice(self._expired(queue, c, snapshot), at_once))
            if not found:
                return done
            claims: list[Claim] = []
            try:
                waiting = [number for number, place in found if place.waits]
                moved = self._log.write(partial(self._expire_waiting, queue, waiting)) if waiting else 0
                self._moves.seize(state, [place.position for _, place in found if not place.waits], claims)
                if claims:
                    self._moves.bury_expired(claims)
                    moved += len(claims)
            except (StoreFull, LeaseLost):
                if at_once == 1:
                    return done  # no room to move it: tried again when somebody looks
                at_once = 1
                continue
            finally:
                try:
                    self._moves.release_all(claims, quietly=True)
                except BaseException:  # an interrupt: nobody would do it later
                    self._moves.release_all(claims, quietly=True)
                    raise
            if not moved:
                return done  # somebody else is at it
            done = True

    def _expire_waiting(self, queue: int, numbers: list[int], txn: Any) -> int:
        """Under L: of these, what still waits for its time; how many. Raises StoreFull, with nothing changed."""
        count = 0
        for number in numbers:
            place = txn.place(queue, number)
            if place is None or not place.waits:
                continue
            key = txn.delayed_key(queue, place)
            raw = txn.delayed_at(queue, key)
            reason, error = "expired", None
            try:
                rank, record = self._log.decode_delayed(key, raw)
            except MessageCorrupted as damage:
                rank, record = self._log.salvage_delayed(key, raw, self._timeline.now_ns(WALL))
                reason, error = "corrupted", f"MessageCorrupted: {damage}"
            try:
                alone = len(numbers) == 1  # it finds room in the reserve, as what is due does
                self._moves.bury_delayed(txn, queue, rank, record, reason, error, alone)
            except StoreFull:
                if count:
                    break
                raise
            txn.undelay(queue, key)
            self._moves.let_go_on(txn, queue, key, raw)
            count += 1
        if count:
            txn.notes.append((CHANGED, queue))
        return count
