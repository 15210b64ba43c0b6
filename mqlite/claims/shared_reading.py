"""What can be read of the claims on disk, in a snapshot or in the write transaction. `shared.py` draws the entries."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..message import Position
from . import Kind, Returned, Row, Shut, Waiting, runs
from .bench import Bench

QUEUE = struct.Struct(">I")
U64 = struct.Struct(">Q")
I64 = struct.Struct(">q")
SEAT = struct.Struct(">QQ")
SEATS_MASK = 0xFFFF
RETURNED = struct.Struct(">II")
WAITER = struct.Struct(">BQQ")


@functools.lru_cache(maxsize=1024)
def key_in(kind: bytes, queue: int) -> bytes:
    """The key, or how the keys begin, of a kind of entry of one queue."""
    return kind + QUEUE.pack(queue)


@functools.lru_cache(maxsize=1024)
def cursor_key(queue: int, rank: int) -> bytes:
    """The key of a cursor."""
    return key_in(b"c", queue) + QUEUE.pack(rank)


def key_at(kind: bytes, queue: int, position: Position) -> bytes:
    """The key of an entry of one position."""
    return key_in(kind, queue) + position.to_bytes(12, "big")


class Run(NamedTuple):
    """Positions of a queue that have the same row."""

    queue: int
    first: Position
    last: Position
    row: Row


class SharedReading:
    """What can be read in any transaction."""

    _txn: Any = None
    _bench: Bench | None = None
    _run: Run | None = None  # the one that was met last: who asks for its rows asks for one after the other

    def _walk(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        walk = self._txn.cursor()
        found = walk.set_range(prefix)
        while found:
            key = walk.key()
            if not key.startswith(prefix):
                return
            yield key, walk.value()
            found = walk.next()

    def _number(self, key: bytes) -> int:
        value = self._txn.get(key)
        return 0 if value is None else int.from_bytes(value, "big")

    def row(self, queue: int, position: Position) -> Row | None:
        """The claim on a position."""
        run = self._run
        if run is not None and run.first <= position <= run.last and run.queue == queue:
            return run.row
        prefix = key_in(b"R", queue)
        wanted = prefix + position.to_bytes(12, "big")
        walk = self._txn.cursor()
        if not walk.set_range(wanted):
            return None
        key, value = walk.key(), walk.value()
        if key == wanted:  # as most that are claimed one by one: what follows took a third of the time
            return runs.unpacked(value)
        if len(value) != runs.RUN_BYTES or not key.startswith(prefix):
            return None
        last = int.from_bytes(key[5:], "big")
        first = last - runs.count_of(value) + 1
        if first > position:
            return None
        row = runs.unpacked(value)
        self._run = Run(queue, first, last, row)
        return row

    def rows(self, queue: int | None = None) -> Iterator[tuple[int, Position, Row]]:
        """(queue, position, claim)."""
        prefix = b"R" if queue is None else key_in(b"R", queue)
        for key, value in self._walk(prefix):
            number, last, row = int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:], "big"), runs.unpacked(value)
            if len(value) != runs.RUN_BYTES:  # the range took a quarter of the time
                yield number, last, row
                continue
            for position in range(last - runs.count_of(value) + 1, last + 1):
                yield number, position, row

    def problems(self) -> list[str]:
        """What is wrong with the number of rows that are part of an entry with others. O(entries)."""
        more = sum(runs.count_of(value) - 1 for _, value in self._walk(b"R"))
        counted = self._number(b"H")
        return [] if more == counted else [f"{more} claims are stored with others, {counted} are counted"]

    def returned(self, queue: int) -> Iterator[tuple[Position, Returned]]:
        """Positions given back."""
        for key, value in self._walk(key_in(b"r", queue)):
            yield int.from_bytes(key[5:], "big"), Returned._make(RETURNED.unpack(value))

    def anything_returned(self, queue: int) -> bool:
        """Whether any position was given back."""
        prefix = key_in(b"r", queue)
        walk = self._txn.cursor()
        return bool(walk.set_range(prefix)) and walk.key().startswith(prefix)

    def has_rows_ahead(self, queue: int, rank: int, position: Position) -> bool:
        """Whether there is a row of that rank behind a position, in the order of delivery. One seek."""
        walk = self._txn.cursor()
        if not walk.set_range(key_at(b"R", queue, max(position + 1, rank << 64))):
            return False
        return bool(walk.key().startswith(key_in(b"R", queue) + QUEUE.pack(rank)))

    def cursor(self, queue: int, rank: int) -> Position:
        """The last position handed out."""
        value = self._txn.get(cursor_key(queue, rank))
        return -1 if value is None else int.from_bytes(value, "big")

    def has_passed(self, queue: int, position: Position) -> bool:
        """Whether a position lies behind the cursor of its rank."""
        return position <= self.cursor(queue, position >> 64)

    def may_hide(self, queue: int) -> bool:
        """Not known without a look at each group."""
        return True

    def in_flight(self, queue: int, group: int) -> int:
        """How many rows of a group."""
        return self._number(key_in(b"G", queue) + U64.pack(group))

    def pace_ns(self, queue: int) -> int:
        """What a rate limit goes by."""
        return self._number(key_in(b"p", queue))

    def turn(self, queue: int) -> int:
        """The group that had its turn last."""
        value = self._txn.get(key_in(b"u", queue))
        return -1 if value is None else int.from_bytes(value, "big")

    def seat(self, queue: int) -> tuple[int, int] | None:
        """The consumer that has the queue for itself."""
        value = self._txn.get(key_in(b"x", queue))
        return None if value is None else SEAT.unpack(value)

    def seats(self) -> list[tuple[int, int]]:
        """(queue, owner) of all of these."""
        return [(int.from_bytes(key[1:], "big"), SEAT.unpack(value)[0]) for key, value in self._walk(b"x")]

    def claimed(self, queue: int) -> int:
        """How many rows."""
        return self._number(key_in(b"k", queue))

    def deadline_ns(self, queue: int) -> int:
        """The earliest deadline."""
        return self._number(key_in(b"d", queue))

    def returned_at(self, queue: int, position: Position) -> Returned | None:
        """What is remembered of a position that was given back."""
        value = self._txn.get(key_at(b"r", queue, position))
        return None if value is None else Returned._make(RETURNED.unpack(value))

    def deadlines(self) -> list[int]:
        """Queues with a noted deadline."""
        return [int.from_bytes(key[1:], "big") for key, _ in self._walk(b"d")]

    def waiting(self, queue: int, kind: Kind) -> Iterator[Waiting]:
        """Registered sleepers, and then those on the bench: who has a row is rung first, and sits down next time."""
        for key, value in self._walk(key_in(b"w", queue) + bytes([kind])):
            _, sleeper, owner = WAITER.unpack(key[5:])
            yield Waiting(sleeper, owner, int.from_bytes(value, "big"))
        if kind is Kind.MESSAGE and self._bench is not None:
            yield from self._bench.of(queue)

    def anybody(self) -> bool:
        """Whether a sleeper has a row."""
        walk = self._txn.cursor()
        return bool(walk.set_range(b"w")) and walk.key()[:1] == b"w"

    def tasks(self, queue: int) -> dict[int, int]:
        """Open tasks per owner."""
        return {int.from_bytes(key[5:], "big"): I64.unpack(value)[0] for key, value in self._walk(key_in(b"t", queue))}

    def shut(self, queue: int) -> Shut:
        """Whether the queue was shut down."""
        value = self._txn.get(key_in(b"s", queue))
        return Shut.OPEN if value is None else Shut(value[0])

    def owners(self) -> list[int]:
        """Processes that joined."""
        return [int.from_bytes(key[1:], "big") for key, _ in self._walk(b"o")]

    def generation(self) -> int:
        """Grows with every change of owners or seats."""
        return self._number(b"g")

    def taken_over(self) -> int:
        """The last epoch of the front whose claims are here."""
        return self._number(b"W")

    def any_seat(self, generation: int) -> bool:
        """Whether any consumer has a queue for itself."""
        return generation & SEATS_MASK > 0

    def observers(self, queue: int) -> list[Kind]:
        """The kinds for which somebody is registered. One seek where nobody is."""
        prefix = key_in(b"w", queue)
        walk = self._txn.cursor()
        found = []
        for kind in (Kind.DONE, Kind.LEVEL, Kind.STANDBY):
            if not walk.set_range(prefix + bytes([kind])) or not walk.key().startswith(prefix):
                break
            if walk.key()[5] == kind:
                found.append(kind)
        return found

    def all_waiting(self) -> list[Waiting]:
        """Registered sleepers of all queues, and those on the bench."""
        found = [] if self._bench is None else self._bench.everybody()
        for key, value in self._walk(b"w"):
            _, sleeper, owner = WAITER.unpack(key[5:])
            found.append(Waiting(sleeper, owner, int.from_bytes(value, "big")))
        return found
