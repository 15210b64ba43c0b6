"""The log in memory: messages as they are, in sorted containers, under one lock.

Per queue a SortedDict holds, per rank, a lane: a deque of the messages that nobody was
handed yet, in the order in which they came (that of their seqs, but for threads that put
at the same moment). What is handed out moves from its lane to `held`, a dict by position,
and stays there until it is removed. So putting, and taking the next, cost O(1), and
O(log r) where one of r ranks comes into use or falls out of it.

A message of the default priority may come without the lock: into the `inbox`, whose
entries go into their lane before anybody who holds the lock looks (`absorb`). With four
threads that put and four that take, putting under the lock was 1.3 x slower.

A plain message is kept as (seq, body, enqueued_ns, None), and becomes a Record only when
somebody claims it or looks at it: making a Record took a fifth of a put.

The claims of an in-memory queue use the same lock (`one_lock`), so nobody can look
between two steps, and they tell the log at once what was handed out (`hand_out`).
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from ..message import DEFAULT_RANK, Position, Record
from . import Counters, Definition, Note

T = TypeVar("T")
#: seq, body, enqueued_ns, and the Record where there is more to know
Entry = tuple[int, Any, int, Record | None]


#: line, when it is due, rank, seq
Waiting = tuple[int, int, int, int]


def _record(entry: Entry) -> Record:
    return entry[3] or Record(entry[1], entry[2], entry[0])


def _size(body: object) -> int:
    return len(body) if type(body) is bytes or type(body) is str else 0


class Shelf:
    """The messages of one queue. `first` is the lane of the lowest rank; no other lane is empty."""

    __slots__ = ("bytes", "delayed", "first", "first_rank", "held", "inbox", "lanes", "settings_version", "total")

    def __init__(self) -> None:
        self.inbox: deque[Entry] = deque()
        self.held: dict[Position, Record] = {}
        self.first: deque[Entry] = deque()
        self.first_rank = 0
        self.lanes: SortedDict[int, deque[Entry]] = SortedDict({0: self.first})
        self.delayed: SortedDict[Waiting, Record] = SortedDict()
        self.total = 0
        self.bytes = 0
        self.settings_version = 0

    def lane(self, rank: int) -> deque[Entry]:
        """The lane of a rank; it comes into use now, if it was not."""
        lane = self.lanes.get(rank)
        if lane is None:
            lane = self.lanes[rank] = deque()
            if not self.first:
                del self.lanes[self.first_rank]
            self.first_rank, self.first = self.lanes.peekitem(0)
        return lane

    def absorb(self) -> None:
        """What came without the lock goes into its lane. The caller holds the lock. O(1) each."""
        lane = self.lane(DEFAULT_RANK)
        while self.inbox:
            entry = self.inbox[0]
            size = _size(entry[1])
            if not lane or lane[-1] is not entry:  # else an interrupt (Ctrl-C) struck here
                lane.append(entry)
            self.total += 1
            self.bytes += size
            self.inbox.popleft()

    def take_from_inbox(self, entry: Entry) -> bool:
        """Take that very entry back, if it is still there. The caller holds the lock: nobody else takes out. O(n)."""
        for place in range(len(self.inbox)):
            if self.inbox[place] is entry:
                del self.inbox[place]
                return True
        return False

    def drop_if_empty(self, rank: int, lane: deque[Entry]) -> None:
        """A lane that has become empty goes, unless it is the only one."""
        if not lane and len(self.lanes) > 1:
            del self.lanes[rank]
            self.first_rank, self.first = self.lanes.peekitem(0)


class MemoryLog:
    """A log that lives and dies with the process. It is its own transaction and snapshot."""

    one_lock = True

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.after_commit: Callable[[list[Note]], None] = lambda notes: None
        self.notes: list[Note] = []
        self.seqs = itertools.count(1)
        self._shelves: dict[int, Shelf] = {}
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

    def decode_delayed(self, key: Waiting, raw: Record) -> tuple[int, Record]:
        """(rank, record)."""
        return key[2], raw

    def salvage_delayed(self, key: Waiting, raw: Record, now_ns: int) -> tuple[int, Record]:
        """(rank, record): memory does not rot here."""
        return key[2], raw

    def size_of(self, draft: Record) -> int:
        """Bytes of a body that is bytes or str, else 0: other objects have no size."""
        return _size(draft.payload)

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
    def shelf(self, queue: int) -> Shelf:
        """The messages of a queue, in their lanes. The caller holds the lock."""
        shelf = self.shelf_and_inbox(queue)
        if shelf.inbox:
            shelf.absorb()
        return shelf

    def shelf_and_inbox(self, queue: int) -> Shelf:
        """The same as it is, without the lock: for its inbox."""
        shelf = self._shelves.get(queue)
        if shelf is None:
            shelf = self._shelves.setdefault(queue, Shelf())
        return shelf

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        shelf = self.shelf(queue)
        return Counters(shelf.total, shelf.bytes, settings_version=shelf.settings_version, delayed=len(shelf.delayed))

    def gauges(self, queue: int) -> tuple[int, int]:
        """(settings version, messages delayed)."""
        shelf = self.shelf(queue)
        return shelf.settings_version, len(shelf.delayed)

    def next_due(self, queue: int, line: int) -> int | None:
        """When the earliest message that waits on a line of time is due. O(log n)."""
        return next((due_ns for _, due_ns, _ in self.delayed(queue, line)), None)

    def delayed(self, queue: int, line: int, until_ns: int | None = None) -> Iterator[tuple[Waiting, int, Record]]:
        """What waits on a line of time, the earliest first. O(log n), and O(1) each."""
        delayed = self.shelf(queue).delayed
        end = (line + 1, 0, 0, 0) if until_ns is None else (line, until_ns + 1, 0, 0)
        for key in delayed.irange((line, 0, 0, 0), end, inclusive=(True, False)):
            yield key, key[1], delayed[key]

    def raw(self, queue: int, position: Position) -> Record | None:
        """The record at a position that was handed out, or None."""
        return self.shelf(queue).held.get(position)

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a record at a position that was handed out."""
        return position in self.shelf(queue).held

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, Record]]:
        """What was not handed out yet. O(1) each."""
        for rank, lane in self.shelf(queue).lanes.items():
            for entry in lane:
                yield rank << 64 | entry[0], _record(entry)

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, Record]]:
        """All records from `start` on."""
        held = self.shelf(queue).held
        handed_out = ((position, held[position]) for position in sorted(held))
        both = heapq.merge(handed_out, self.ahead(queue, lambda rank: -1), key=lambda found: found[0])
        return (found for found in both if found[0] >= start)

    def oldest_ns(self, queue: int) -> int | None:
        """When the oldest message was put, among the first of each rank and those handed out."""
        shelf = self.shelf(queue)
        times = [lane[0][2] for lane in shelf.lanes.values() if lane]
        times += [record.enqueued_ns for record in shelf.held.values()]
        return min(times, default=None)

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
        shelf = self.shelf(queue)
        seq = next(self.seqs)
        draft.id = message_id or seq
        shelf.lane(rank).append((seq, draft.payload, draft.enqueued_ns, draft))
        shelf.total += 1
        shelf.bytes += _size(draft.payload)
        return draft.id

    def append_plain(self, shelf: Shelf, rank: int, body: object, enqueued_ns: int) -> int:
        """The same for a message without headers and the like."""
        if shelf.inbox:
            shelf.absorb()
        seq = next(self.seqs)
        (shelf.first if rank == shelf.first_rank else shelf.lane(rank)).append((seq, body, enqueued_ns, None))
        shelf.total += 1
        if type(body) is bytes or type(body) is str:
            shelf.bytes += len(body)
        return seq

    def delay(self, queue: int, rank: int, draft: Record, message_id: int = 0) -> int:
        """Store a message that waits for its time. O(log n)."""
        shelf = self.shelf(queue)
        seq = next(self.seqs)
        draft.id = message_id or seq
        assert draft.due is not None
        shelf.delayed[(*draft.due, rank, seq)] = draft
        shelf.total += 1
        shelf.bytes += _size(draft.payload)
        return draft.id

    def undelay(self, queue: int, key: Waiting) -> Record | None:
        """Take a delayed record out. O(log n)."""
        shelf = self.shelf(queue)
        record: Record | None = shelf.delayed.pop(key, None)
        if record is not None:
            shelf.total -= 1
            shelf.bytes -= _size(record.payload)
        return record

    def take(self, shelf: Shelf) -> Entry | None:
        """Remove the first message that was not handed out, if there is one. O(1)."""
        if shelf.inbox:
            shelf.absorb()
        lane = shelf.first
        if not lane:
            return None
        entry = lane.popleft()
        if not lane:
            shelf.drop_if_empty(shelf.first_rank, lane)
        shelf.total -= 1
        body = entry[1]
        if type(body) is bytes or type(body) is str:
            shelf.bytes -= len(body)
        return entry

    def hand_out(self, queue: int, position: Position) -> None:
        """A claimer takes the first of a lane. O(1)."""
        shelf = self.shelf(queue)
        rank = position >> 64
        lane = shelf.lanes[rank]
        shelf.held[position] = _record(lane.popleft())
        shelf.drop_if_empty(rank, lane)

    def remove(self, queue: int, position: Position) -> Record | None:
        """Take a record out that was handed out. O(1)."""
        shelf = self.shelf(queue)
        record = shelf.held.pop(position, None)
        if record is not None:
            shelf.total -= 1
            shelf.bytes -= _size(record.payload)
        return record

    def drain(self, queue: int) -> None:
        """Remove all that was not handed out."""
        shelf = self.shelf(queue)
        for key in list(shelf.delayed):
            self.undelay(queue, key)
        while self.take(shelf) is not None:
            pass

    def define(self, definition: Definition) -> None:
        """Store a definition."""
        if not definition.id:
            definition.id = len(self._definitions) + 1
        self._definitions[definition.name] = definition
        self.shelf(definition.id).settings_version = definition.version

    def after_fork(self) -> None:
        """In a forked child: locks held by threads that are no more."""
        self.lock = threading.RLock()
