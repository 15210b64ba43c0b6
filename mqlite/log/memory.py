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

Where messages do not line up in the order of their puts, or have marks and so may be taken from anywhere,
a lane is a SortedLane. It and the indexes are made of Runs (run.py): O(1) where keys come in order, else O(log n).

The claims of an in-memory queue use the same lock (`one_lock`), so nobody can look
between two steps, and they tell the log at once what was handed out (`hand_out`).
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Iterator
from itertools import islice, repeat
from types import TracebackType
from typing import Any, TypeVar

from ..message import Position, Record, rank_at
from . import Batch, Counters, Definition, Gauges, InLine, Lineup, Note
from .index import LOW_MASK, PLACE, Parts, Place, follows, in_line
from .memory_records import MemoryRecords
from .memory_rows import MemoryRows
from .memory_topics import MemoryTopics
from .shelf import Entry, NestedIndex, Shelf, Waiting, bytes_of, record_in

T = TypeVar("T")


class MemoryLog(MemoryRecords, MemoryRows, MemoryTopics):
    """A log that lives and dies with the process. It is its own transaction and snapshot."""

    one_lock = True

    def __init__(self) -> None:
        MemoryRows.__init__(self)
        MemoryTopics.__init__(self)
        self.lock = threading.RLock()
        self.before_commit: Callable[[list[Note]], None] = lambda notes: None  # never called: there is no flush
        self.after_commit: Callable[[list[Note]], None] = lambda notes: None
        self.after_failure: Callable[[], None] = lambda: None
        self.notes: list[Note] = []
        self.seqs = itertools.count(1)
        self._shelves: dict[int, Shelf] = {}
        self._definitions: dict[str, Definition] = {}
        self._by_id: dict[int, Definition] = {}
        self._queues = itertools.count(1)

    # ------------------------------------------------------------------ log
    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op` under the lock. An op that raises has changed nothing (its contract)."""
        with self.lock:
            result = op(self)
            if self._references:
                self._references.settle(self, self._forget_body)
            if self.notes:
                notes, self.notes = self.notes, []
                self.after_commit(notes)
            return result

    hold = write

    def note_settled_alone(self) -> None:
        """No row stays."""

    def note_plain(self) -> None:
        """Nothing passes by."""

    def append_alone(self, *_: object) -> int:
        """There is a shorter way still: engine/local.py."""
        return 0

    def remove_alone(self, *_: object) -> bool:
        """There is little to be saved."""
        return False

    def fold(self) -> None:
        """Nothing passes by."""

    def folded(self) -> contextlib.AbstractContextManager[Any]:
        """Under its lock."""
        return self.lock

    def hides_nothing(self) -> bool:
        """Always."""
        return True

    is_folded = hides_nothing

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

    glance = read

    def structure_problems(self, progress: object) -> list[str]:
        """There is no file."""
        return []

    # ------------------------------------------------------------------ reading
    def shelf(self, queue: int) -> Shelf:
        """The messages of a queue, in their lanes. The caller holds the lock."""
        shelf = self._shelves.get(queue) or self.shelf_and_inbox(queue)
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
        counters = shelf.numbers.copy()
        counters.put_total, counters.put_bytes = shelf.total, shelf.bytes
        return counters

    def gauges(self, queue: int) -> Gauges:
        """What a claimer asks first."""
        return self.shelf(queue).numbers.gauges

    def next_due(self, queue: int, line: int) -> int | None:
        """When the earliest message that waits on a line of time is due. O(log n)."""
        if not self.shelf_and_inbox(queue).delayed:
            return None
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

    def has_all(self, queue: int, positions: list[Position]) -> bool:
        """Whether there are records at all of these positions, that were handed out."""
        return self.shelf(queue).held.keys() >= set(positions)

    def look_up(self, queue: int, position: Position) -> Record | None:
        """The record at a position, also one that was not handed out; see `Shelf.find`."""
        shelf = self.shelf(queue)
        found = None if position in shelf.held else shelf.find(position)
        return shelf.held.get(position) if found is None else record_in(found)

    def id_at(self, queue: int, position: Position) -> int | None:
        """The id of the message at a position, claimed or not."""
        record = self.look_up(queue, position)
        return None if record is None else record.id

    def member_position(self, queue: int, rank: int, number: int) -> Position | None:
        """The position of one of an entry, which is there; None where it waits. O(1)."""
        places = self.shelf_and_inbox(queue).indexes[PLACE]
        found = places.get((number,)) if places else None
        if found is None:
            return rank << 64 | number
        place = Place(*found)
        return None if place.waits else place.position

    def head(self, queue: int, group: int) -> tuple[int, int] | None:
        """(rank, id) of the first message of a group. O(1)."""
        return self.shelf_and_inbox(queue).groups.first(group)

    def next_group(self, queue: int, after: int) -> int | None:
        """The group that follows, by number. O(log n)."""
        return self.shelf_and_inbox(queue).groups.following(after)

    def ranks(self, queue: int) -> Iterator[int]:
        """Ranks in use."""
        shelf = self.shelf(queue)
        return iter(sorted({position >> 64 for position in shelf.held} | shelf.lanes.keys()))

    def entry(self, kind: int, queue: int, parts: Parts) -> Parts | None:
        """The value of an entry of an index."""
        return self.shelf_and_inbox(queue).indexes[kind].get(parts)

    def entries(self, kind: int, queue: int, prefix: Parts = (), start: Parts = ()) -> Iterator[tuple[Parts, Parts]]:
        """The entries whose first part is `prefix`, from prefix + start on. O(1) each, and for those before it."""
        index = self.shelf_and_inbox(queue).indexes[kind]
        if isinstance(index, NestedIndex):
            yield from index.walk(prefix, start)
        else:
            yield from index.items()

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, Record]]:
        """What was not handed out yet. O(1) each."""
        for rank, lane in self.shelf(queue).lanes.items():
            for entry in lane:
                yield rank << 64 | entry[0], record_in(entry)

    def first_in_line(
        self, queue: int, version: int, cursor: Callable[[int], Position | None], count: int
    ) -> InLine | None:
        """The first so many that `ahead` gives, unless a message has a group, expires or waits for its time, or the
        settings have another version.
        """
        numbers = self.shelf(queue).numbers
        if numbers.settings_version != version or numbers.gauges[1:] != (0, 0, 0):
            return None
        found = list(islice(self.ahead(queue, lambda rank: -1), count))
        return InLine([position for position, _ in found], [record for _, record in found])

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, Record]]:
        """All records from `start` on."""
        held = self.shelf(queue).held
        handed_out = ((position, held[position]) for position in sorted(held))
        both = heapq.merge(handed_out, self.ahead(queue, lambda rank: -1), key=lambda found: found[0])
        return (found for found in both if found[0] >= start)

    def oldest_ns(self, queue: int) -> int | None:
        """When the oldest message was put, among the first and the last of each rank and those handed out."""
        shelf = self.shelf(queue)
        times = [lane[end][2] for lane in shelf.lanes.values() if lane for end in (0, -1)]
        times += [record.enqueued_ns for record in shelf.held.values()]
        return min(times, default=None)

    def definition(self, name: str) -> Definition | None:
        """The queue of that name."""
        return self._definitions.get(name)

    def definition_by_id(self, queue: int) -> Definition | None:
        """The queue of that id."""
        return self._by_id.get(queue)

    def definitions(self) -> list[Definition]:
        """All declared queues, by name."""
        return [self._definitions[name] for name in sorted(self._definitions)]

    # ------------------------------------------------------------------ writing
    def next_seq(self) -> int:
        """A new number, greater than all before. O(1)."""
        return next(self.seqs)

    last_seq = next_seq  # nobody counts how many were given: puts without the lock take them, too

    def reserve(self, size_bytes: int) -> None:
        """Memory is not reserved."""

    def append_all(self, queue: int, batch: Batch) -> list[int]:
        """Store each at the end of its rank. Most become records only when somebody looks at them."""
        shelf = self.shelf(queue)
        if any(batch.extras):
            return [self.append(queue, rank, draft) for rank, draft in zip(batch.ranks, batch.records(), strict=True)]
        return list(map(self.append_plain, repeat(shelf), batch.ranks, batch.payloads, batch.times))

    def append(
        self, queue: int, rank: int, draft: Record, message_id: int = 0, lineup: Lineup = None, seq: int = 0
    ) -> int:
        """Store at a new position. O(1), O(log r) at the first message of a rank; in a SortedLane as in a Run."""
        shelf = self.shelf(queue)
        seq = low = seq or next(self.seqs)
        draft.id = message_id or seq
        if lineup is None:
            lane = shelf.lane(rank, in_order=draft.marks is None)
        else:
            position = lineup(rank, seq)
            while self.look_up(queue, position) is not None:  # two that came at the same moment
                position += 1
            low, lane = position & LOW_MASK, shelf.lane(position >> 64, in_order=False)
        lane.append((low, draft.payload, draft.enqueued_ns, draft))
        if low != draft.id or draft.marks is not None:
            self._index(shelf, queue, rank << 64 | low if lineup is None else position, rank, draft)
        shelf.total += 1
        shelf.bytes += bytes_of(draft.payload)
        return draft.id

    def _index(self, shelf: Shelf, queue: int, position: Position, rank: int, draft: Record) -> None:
        low = position & LOW_MASK
        if low != draft.id and not follows(position, draft.id):
            self.enter(PLACE, queue, (draft.id,), in_line(position))
        if draft.marks is not None:
            self.mark(queue, rank, draft.id, draft.marks, low, True)
            shelf.marked += 1

    def replace(self, queue: int, position: Position, draft: Record, seq: int = 0) -> int:
        """Store in the place of another, which was handed out."""
        shelf = self.shelf(queue)
        self.remove(queue, position)
        draft.id = seq or next(self.seqs)
        shelf.held[position] = draft
        self._index(shelf, queue, position, rank_at(position, draft.marks), draft)
        shelf.total += 1
        shelf.bytes += bytes_of(draft.payload)
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
        place = Place(1, *draft.due, rank, seq)
        self.enter(PLACE, queue, (draft.id,), place)
        if draft.marks is not None:
            self.mark(queue, rank, draft.id, draft.marks, seq, draft.delivery_count > 0)
            shelf.marked += 1
        if draft.marks is None or draft.marks.timer is None:
            shelf.numbers.delayed += 1
            shelf.total += 1
            shelf.bytes += bytes_of(draft.payload)
        return draft.id

    def undelay(self, queue: int, key: Waiting) -> Record | None:
        """Take a delayed record out. O(log n)."""
        shelf = self.shelf(queue)
        record: Record | None = shelf.delayed.pop(key, None)
        if record is not None:
            self._unindex(shelf, queue, key[2], key[3], record.delivery_count > 0, record)
            if record.marks is None or record.marks.timer is None:
                shelf.numbers.delayed -= 1
                shelf.total -= 1
                shelf.bytes -= bytes_of(record.payload)
        return record

    def _unindex(self, shelf: Shelf, queue: int, rank: int, low: int, lines_up: bool, record: Record) -> None:
        if shelf.indexes[PLACE]:
            self.strike(PLACE, queue, (record.id,))
        marks = record.marks
        if marks is not None:
            self.unmark(queue, rank if marks.rank is None else marks.rank, record.id, marks, low, lines_up)
            shelf.marked -= 1

    def delayed_at(self, queue: int, key: Waiting) -> Record | None:
        """The record of one that waits."""
        return self.shelf(queue).delayed.get(key)

    def delayed_key(self, queue: int, place: Place) -> Waiting:
        """The key of one that waits at that place."""
        return place.line, place.due_ns, place.rank, place.low

    def take(self, shelf: Shelf) -> Entry | None:
        """Remove the first message that was not handed out, if there is one: it has no marks. O(1)."""
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
        if entry[3] is not None:  # it may have moved
            shelf.indexes[PLACE].pop((entry[3].id,), None)
        return entry

    def hand_out(self, queue: int, position: Position) -> None:
        """A message leaves its lane. O(1) for the first, else see `Shelf.take_out`."""
        shelf = self.shelf(queue)
        if position in shelf.held:
            return
        shelf.held[position] = record_in(shelf.take_out(position))

    def handed_out(self, queue: int) -> Collection[Position]:
        """Positions of messages that have left their lanes."""
        return self.shelf(queue).held.keys()

    def remove(self, queue: int, position: Position) -> Record | None:
        """Take a record out that was handed out. O(1)."""
        shelf = self.shelf(queue)
        record = shelf.held.pop(position, None)
        if record is not None:
            shelf.total -= 1
            shelf.bytes -= bytes_of(record.payload)
            if record.marks is not None or shelf.indexes[PLACE]:
                self._unindex(shelf, queue, position >> 64, position & LOW_MASK, True, record)
        return record

    def remove_all(self, queue: int, positions: list[Position]) -> bool:
        """Take out all of these, which were handed out. O(1) each."""
        if not self.has_all(queue, positions):
            return False
        for position in positions:
            self.remove(queue, position)
        return True

    def pull(self, queue: int, position: Position) -> Record | None:
        """Take a record out, handed out or not."""
        if self.look_up(queue, position) is None:
            return None
        self.hand_out(queue, position)
        return self.remove(queue, position)

    def drain(self, queue: int) -> None:
        """Remove all that was not handed out, but for the schedules."""
        shelf = self.shelf(queue)
        for key, record in list(shelf.delayed.items()):
            if record.marks is None or record.marks.timer is None:
                self.undelay(queue, key)
        for position, _ in list(self.ahead(queue, lambda rank: -1)):
            self.pull(queue, position)

    def enter(self, kind: int, queue: int, parts: Parts, value: Parts = ()) -> None:
        """Make an entry of an index, or change its value; as in a Run."""
        (self._shelves.get(queue) or self.shelf_and_inbox(queue)).indexes[kind][parts] = value

    def strike(self, kind: int, queue: int, parts: Parts) -> bool:
        """Remove an entry; as in a Run."""
        return (self._shelves.get(queue) or self.shelf_and_inbox(queue)).indexes[kind].pop(parts, None) is not None

    def count(self, queue: int, grouped: int, expiring: int, timers: int, feeds: int = 0) -> None:
        """Change these counters."""
        numbers = self.shelf_and_inbox(queue).numbers
        numbers.grouped += grouped
        numbers.expiring += expiring
        numbers.timers += timers
        numbers.feeds += feeds

    def define(self, definition: Definition) -> None:
        """Store a definition."""
        if not definition.id:
            definition.id = next(self._queues)
        self._definitions[definition.name] = self._by_id[definition.id] = definition
        if definition.kind in ("queue", "subscription"):
            self.shelf(definition.id).numbers.settings_version = definition.version

    def undefine(self, definition: Definition) -> None:
        """Remove a definition."""
        self._definitions.pop(definition.name, None)
        self._by_id.pop(definition.id, None)
        if definition.kind == "subscription":
            self.shelf(definition.id).numbers.settings_version += 1

    def wipe(self, queue: int) -> None:
        """Remove what is left of a queue that is gone. Handles that still look at it find it empty."""
        self._shelves.pop(queue, None)

    def after_fork(self) -> None:
        """In a forked child: locks held by threads that are no more."""
        self.lock = threading.RLock()
