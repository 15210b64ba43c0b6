"""The log in memory: records as they are, in sorted containers, under one lock.

Per queue a dict holds the records by position, and a SortedDict holds, per rank,
a lane: the positions not yet passed by a claimer, oldest first. Seqs only grow, so
a lane is a deque, and putting and finding the next cost O(1), and O(log r) where
one of r ranks comes into use or falls out of it.

The claims of an in-memory queue use the same lock (`one_lock`), so nobody can
look between two steps, and a claim that is settled at once needs no row.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterator
from types import TracebackType
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from ..message import Position, Record
from . import Counters, Definition, Note

T = TypeVar("T")


class _Shelf:
    """The messages of one queue. `first` is the lane of the lowest rank; no other lane is empty."""

    __slots__ = ("counters", "first", "first_rank", "lanes", "records")

    def __init__(self) -> None:
        self.records: dict[Position, Record] = {}
        self.first: deque[Position] = deque()
        self.first_rank = 0
        self.lanes: SortedDict[int, deque[Position]] = SortedDict({0: self.first})
        self.counters = Counters()

    def lane(self, rank: int) -> deque[Position]:
        """The lane of a rank that comes into use."""
        if not self.first:
            del self.lanes[self.first_rank]
        lane = self.lanes.setdefault(rank, deque())
        self.first_rank, self.first = self.lanes.peekitem(0)
        return lane

    def drop_empty(self) -> None:
        """The first lane has become empty: the next is the first."""
        while not self.first and len(self.lanes) > 1:
            del self.lanes[self.first_rank]
            self.first_rank, self.first = self.lanes.peekitem(0)


class MemoryLog:
    """A log that lives and dies with the process. It is its own transaction and snapshot."""

    one_lock = True

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.after_commit: Callable[[list[Note]], None] = lambda notes: None
        self.notes: list[Note] = []
        self._seq = 0
        self._shelves: dict[int, _Shelf] = {}
        self._definitions: dict[str, Definition] = {}

    # ------------------------------------------------------------------ log
    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op` under the lock. An op that raises has changed nothing (its contract)."""
        with self.lock:
            result = op(self)
            if self.notes:
                notes, self.notes = self.notes, []
                self.after_commit(notes)
            return result

    hold = write

    def read(self) -> MemoryLog:
        """The log itself, under its lock."""
        return self

    def __enter__(self) -> MemoryLog:
        self.lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.lock.release()

    def prepare(self, record: Record) -> Record:
        """Nothing to do."""
        return record

    def size_of(self, draft: Record) -> int:
        """Bytes of a body that is bytes or str, else 0: other objects have no size."""
        body = draft.payload
        return len(body) if type(body) is bytes or type(body) is str else 0

    def footprint(self, draft: Record) -> int:
        """Not known, and not needed."""
        return 0

    def decode(self, queue: int, position: Position, raw: Record) -> Record:
        """The record itself."""
        return raw

    def salvage(self, queue: int, position: Position, raw: Record, now_ns: int) -> Record:
        """The record itself: memory does not rot here."""
        return raw

    # ------------------------------------------------------------------ reading
    def _shelf(self, queue: int) -> _Shelf:
        shelf = self._shelves.get(queue)
        if shelf is None:
            shelf = self._shelves[queue] = _Shelf()
        return shelf

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        shelf = self._shelf(queue)
        shelf.counters.total = len(shelf.records)
        return shelf.counters

    def raw(self, queue: int, position: Position) -> Record | None:
        """The record at a position, or None."""
        return self._shelf(queue).records.get(position)

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a record at a position."""
        return position in self._shelf(queue).records

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, Record]]:
        """Records behind the cursor; drops from the lanes what the cursor has passed. Amortised O(1) each."""
        shelf = self._shelf(queue)
        records = shelf.records
        for rank in list(shelf.lanes):
            lane = shelf.lanes[rank]
            passed = cursor(rank)
            while lane and (lane[0] <= passed or lane[0] not in records):
                lane.popleft()
            if not lane:
                if lane is shelf.first:
                    shelf.drop_empty()
                else:
                    del shelf.lanes[rank]
                continue
            for position in lane:
                record = records.get(position)
                if record is not None:
                    yield position, record

    def take(self, queue: int, claimed: Container[Position]) -> Record | None:
        """Remove the first record that is not claimed; None where there is none. O(1)."""
        shelf = self._shelves.get(queue)
        if shelf is None:
            return None
        records = shelf.records
        while shelf.first:
            position = shelf.first.popleft()
            if not shelf.first:
                shelf.drop_empty()
            if position not in claimed and (record := records.pop(position, None)) is not None:
                body = record.payload
                if type(body) is bytes or type(body) is str:
                    shelf.counters.bytes -= len(body)
                return record
        return None

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, Record]]:
        """All records from `start` on. O(n log n)."""
        records = self._shelf(queue).records
        return iter([(position, records[position]) for position in sorted(records) if position >= start])

    def oldest_ns(self, queue: int) -> int | None:
        """When the message was put that is stored for longest."""
        first = next(iter(self._shelf(queue).records.values()), None)
        return None if first is None else first.enqueued_ns

    def definition(self, name: str) -> Definition | None:
        """The queue of that name."""
        return self._definitions.get(name)

    def definition_by_id(self, queue: int) -> Definition | None:
        """The queue of that id."""
        return next((d for d in self._definitions.values() if d.id == queue), None)

    def definitions(self) -> list[Definition]:
        """All declared queues, by name."""
        return [self._definitions[name] for name in sorted(self._definitions)]

    # ------------------------------------------------------------------ writing
    def reserve(self, size_bytes: int) -> None:
        """Memory is not reserved."""

    def append(self, queue: int, rank: int, draft: Record, message_id: int = 0) -> int:
        """Store at a new position. O(1), O(log r) at the first message of a rank."""
        self._seq = seq = self._seq + 1
        draft.id = message_id = message_id or seq
        shelf = self._shelves.get(queue) or self._shelf(queue)
        position = rank << 64 | seq
        lane = shelf.first if rank == shelf.first_rank else shelf.lanes.get(rank)
        (shelf.lane(rank) if lane is None else lane).append(position)
        shelf.records[position] = draft  # last: an interrupt before it leaves only an empty place in the lane
        body = draft.payload
        if type(body) is bytes or type(body) is str:
            shelf.counters.bytes += len(body)
        return message_id

    def remove(self, queue: int, position: Position) -> Record | None:
        """Take a record out. O(1)."""
        shelf = self._shelf(queue)
        record = shelf.records.pop(position, None)
        if record is not None:
            shelf.counters.bytes -= self.size_of(record)
        return record

    def define(self, definition: Definition) -> None:
        """Store a definition."""
        if not definition.id:
            definition.id = len(self._definitions) + 1
        self._definitions[definition.name] = definition
        self._shelf(definition.id).counters.settings_version = definition.version

    def after_fork(self) -> None:
        """In a forked child: locks held by threads that are no more."""
        self.lock = threading.RLock()
