"""The engine of a store in memory: the same machine, with put and get fused under its one lock.

Nobody can look between two steps there, so a put of one message is an append and a
ring, and a get is a removal: no transaction, no row, no second look before sleeping.
Everything else, and every case out of the ordinary, takes the machine's own way.
docs/performance.md has the figures: put + get took 14.6 us by the machine's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..claims import Kind, Shut
from ..claims.memory import MemoryClaims
from ..log.memory import MemoryLog
from ..log.shelf import Entry, Shelf
from ..message import DEFAULT_RANK, Record
from ..system.clock import Clock, anchor_of
from ..waiting import Interrupt, Presence, Seat
from .admission import Ranked
from .catalog import QueueState
from .machine import Engine
from .order import lineup_of
from .seizing import NO_SEAT
from .steps import Claim

T = TypeVar("T")


class LocalEngine(Engine):
    """An engine over MemoryLog and MemoryClaims."""

    log: MemoryLog
    claims: MemoryClaims

    def __init__(self, log: MemoryLog, claims: MemoryClaims, presence: Presence, clock: Clock) -> None:
        super().__init__(log, claims, presence, clock, anchor_of(clock))
        self._owner = presence.owner

    def put_plain(
        self, queue: QueueState, rank: int, body: object, timeout: float | None, interrupt: Interrupt
    ) -> int | None:
        """As `put`, for one message without headers and the like; its id."""
        if not queue.is_plain:
            ids = self.put(queue, [(rank, Record(body, self.clock.wall_ns()))], timeout, interrupt)
            return None if ids is None else ids[0]
        shelf, desk = self.log.shelf_and_inbox(queue.id), self.claims.desk(queue.id)
        now_ns = self.clock.wall_ns()
        maxsize = queue.options.maxsize
        if rank == DEFAULT_RANK and not maxsize and desk.shut is Shut.OPEN and not desk.want_arrivals:
            number = next(self.log.seqs)
            shelf.inbox.append(entry := (number, body, now_ns, None))
            if desk.shut is Shut.OPEN and not desk.want_arrivals:
                return number
            return self._came_late(queue, shelf, entry)
        with self.log.lock:
            if shelf.inbox:
                shelf.absorb()
            if desk.shut is Shut.OPEN and (not maxsize or shelf.total < maxsize):
                number = self.log.append_plain(shelf, rank, body, now_ns)
                if desk.want_arrivals:
                    self._ring(queue, Kind.MESSAGE)
                return number
        ids = self.put(queue, [(rank, Record(body, now_ns))], timeout, interrupt)
        return None if ids is None else ids[0]

    def put(self, queue: QueueState, ranked: Ranked, timeout: float | None, interrupt: Interrupt) -> list[int] | None:
        """As the machine's `put`; one message that asks for nothing but room is an append and a ring."""
        rank, record = ranked[0]
        if len(ranked) == 1 and record.due is None and not (queue.asks_of_puts or record.asks):
            desk, maxsize = self.claims.desk(queue.id), queue.options.maxsize
            expires = record.marks is not None and record.marks.expires is not None
            with self.log.lock:
                is_simple = desk.shut is Shut.OPEN and not (expires and self.claims.anybody())
                if is_simple and (not maxsize or self.log.shelf(queue.id).total < maxsize):
                    number = self.log.append(
                        queue.id,
                        rank,
                        record,
                        0,
                        None if queue.has_cursors else lineup_of(queue.options, self.timeline),
                    )
                    if desk.want_arrivals:
                        self._ring(queue, Kind.MESSAGE)
                    return [number]
        return super().put(queue, ranked, timeout, interrupt)

    def _came_late(self, queue: QueueState, shelf: Shelf, entry: Entry) -> int:
        """Somebody began to wait, or shut the queue down, while the message came into the inbox. [5]"""
        with self.log.lock:
            if self.claims.shut(queue.id) is not Shut.OPEN and shelf.take_from_inbox(entry):
                raise self.shut_for_puts(queue)
            self._ring(queue, Kind.MESSAGE)
            return entry[0]

    def _ring(self, queue: QueueState, kind: Kind) -> None:
        """One who waits for a message, or for room, and who wants to see the level change."""
        self.waiters.ring_one(queue.id, kind)
        self.waiters.ring_all(queue.id, Kind.LEVEL)

    def get(
        self, queue: QueueState, timeout: float | None, interrupt: Interrupt, read: Callable[[Claim], T]
    ) -> tuple[T] | None:
        """As the machine's `get`; bodies in memory need no decoding."""
        found = self._take_out(queue, NO_SEAT)
        if found:
            return found
        claims: list[Claim] = []

        def attempt(seat: Seat) -> tuple[T] | None:
            found = self._take_out(queue, seat)
            return self._claim_and_settle(queue, seat, claims, read) if found is THE_LONG_WAY else found

        try:
            return self._take(queue, attempt, timeout, interrupt)
        except BaseException:
            self.release_all(claims)
            raise

    def _take_out(self, queue: QueueState, seat: Seat) -> tuple[Any, ...] | Any:
        """Remove the first message, and count a task: (its body,), or None. THE_LONG_WAY, and nothing done, where
        anything but its place ahead decides who is next, or whether it is given out. Raises ShutDown.
        """
        shelf, desk = self.log.shelf_and_inbox(queue.id), self.claims.desk(queue.id)
        with self.log.lock:
            if not queue.is_plain or queue.topic or shelf.marked or desk.returned or self.claims.any_seat(0):
                return THE_LONG_WAY
            if desk.shut is Shut.IMMEDIATE:
                self._raise_if_shut(self.claims, queue)
            if shelf.delayed:
                self.schedule.care(queue.id)
            entry = self.log.take(shelf)
            if entry is None:
                self._raise_if_shut(self.claims, queue)
                return None
            desk.open_tasks += 1
            if seat.taken:
                self.claims.leave(queue.id, Kind.MESSAGE, seat.sleeper, self._owner)
                seat.taken = False
            if desk.want_departures:
                self._ring(queue, Kind.SPACE)
            return (entry[1],)


THE_LONG_WAY: Any = ()
