"""The log in memory: records as they are, in sorted containers, under one lock.

Per queue a dict holds the records by position, and a SortedDict holds, per rank,
a lane: the positions not yet passed by the claims' cursor, oldest first. Seqs
only grow, so a lane is a deque, and putting and finding the next cost O(1) plus
O(log r) in the number r of ranks in use.

The claims of an in-memory queue use the same lock (`one_lock`), so nobody can
look between two steps, and a claim that is settled at once needs no row.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from ..message import Position, Record
from . import Counters, Definition, Note

T = TypeVar("T")
_LANES_KEPT = 64


class _Shelf:
    """The messages of one queue."""

    __slots__ = ("counters", "lanes", "records")

    def __init__(self) -> None:
        self.records: dict[Position, Record] = {}
        self.lanes: SortedDict[int, deque[Position]] = SortedDict()
        self.counters = Counters()


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
        return len(body) if isinstance(body, bytes | str) else 0

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
        return self._shelf(queue).counters

    def raw(self, queue: int, position: Position) -> Record | None:
        """The record at a position, or None."""
        return self._shelf(queue).records.get(position)

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a record at a position."""
        return position in self._shelf(queue).records

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, Record]]:
        """Records behind the cursor; drops from the lanes what the cursor has passed. Amortised O(1) each."""
        shelf = self._shelf(queue)
        records, lanes = shelf.records, shelf.lanes
        for rank, lane in list(lanes.items()) if len(lanes) > 1 else lanes.items():
            passed = cursor(rank)
            while lane and (lane[0] <= passed or lane[0] not in records):
                lane.popleft()
            if not lane:
                if len(lanes) > _LANES_KEPT:
                    del lanes[rank]
                continue
            for position in lane:
                record = records.get(position)
                if record is not None:
                    yield position, record

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
        shelf.records[position] = draft
        lane = shelf.lanes.get(rank)
        if lane is None:
            lane = shelf.lanes[rank] = deque()
        lane.append(position)
        counters = shelf.counters
        counters.total += 1
        counters.bytes += self.size_of(draft)
        return message_id

    def remove(self, queue: int, position: Position) -> Record | None:
        """Take a record out. O(1)."""
        shelf = self._shelf(queue)
        record = shelf.records.pop(position, None)
        if record is not None:
            shelf.counters.total -= 1
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
