"""Where the messages of one queue lie in memory: in lanes by rank, in the inbox, in hands; and its indexes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedDict

from ..message import DEFAULT_RANK, Position, Record
from . import Counters
from .index import DEDUP_END, EXPIRY, FORGOTTEN, GROUP, LOW_MASK, UNIQUE, Parts
from .run import Run

#: the lower half of its position (the seq, as a rule), body, enqueued_ns, and the Record where there is more to know
Entry = tuple[int, Any, int, Record | None]


#: line, when it is due, rank, seq
Waiting = tuple[int, int, int, int]


def record_in(entry: Entry) -> Record:
    """The record of an entry, made now if it is a plain message."""
    return entry[3] or Record(entry[1], entry[2], entry[0])


class SortedLane(Run[int, Entry]):
    """A lane in order of positions, with what the log needs of a deque; messages may be taken from anywhere in it."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Entry]:
        return self.values()

    def __getitem__(self, place: int) -> Entry:
        found = self.last() if place else self.first()
        assert found is not None
        return found[1]

    def append(self, entry: Entry) -> None:
        """Put it where it belongs."""
        self[entry[0]] = entry

    def popleft(self) -> Entry:
        """Take the first."""
        entry = self[0]
        self.pop(entry[0])
        return entry


Lane = deque[Entry] | SortedLane


class NestedIndex:
    """An index of which entries with the same first part are wanted together: a table of small sorted ones."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: SortedDict[Any, Run[Parts, Parts]] = SortedDict()

    def get(self, parts: Parts) -> Parts | None:
        """The value of an entry. O(1)."""
        table = self._tables.get(parts[0])
        return None if table is None else table.get(parts[1:])

    def __setitem__(self, parts: Parts, value: Parts) -> None:
        table = self._tables.get(parts[0])
        if table is not None:
            table[parts[1:]] = value
        else:
            table = Run()
            table[parts[1:]] = value
            self._tables[parts[0]] = table

    def pop(self, parts: Parts, default: None) -> Parts | None:
        """Remove an entry."""
        table = self._tables.get(parts[0])
        if table is None:
            return default
        value = table.pop(parts[1:], default)
        if not table:
            del self._tables[parts[0]]
        return value

    def first(self, part: Any) -> tuple[Any, Any] | None:
        """(second part, first of the value) of the first entry with that first part."""
        table = self._tables.get(part)
        found = None if table is None else table.first()
        return None if found is None else (found[0][0], found[1][0])

    def following(self, part: Any) -> Any | None:
        """The next first part."""
        return next(self._tables.irange(part, inclusive=(False, True)), None)

    def walk(self, prefix: Parts, start: Parts) -> Iterator[tuple[Parts, Parts]]:
        """The entries from prefix + start on, with that first part if there is one. O(those of a table before it)."""
        begin = (*prefix, *start)
        for first in prefix or self._tables.irange(start[0] if start else None):
            table = self._tables.get(first)
            if table is not None:
                for rest, value in table.items():
                    parts = (first, *rest)
                    if parts >= begin:
                        yield parts, value


Index = dict[Parts, Parts] | Run[Parts, Parts] | NestedIndex
_SORTED = frozenset({DEDUP_END})
_NESTED = frozenset({EXPIRY, FORGOTTEN, UNIQUE})


class Indexes(dict[int, Index]):
    """By kind; made when they are first used, since most queues use few."""

    def __missing__(self, kind: int) -> Index:
        index: Index = NestedIndex() if kind in _NESTED else Run() if kind in _SORTED else {}
        return self.setdefault(kind, index)


def bytes_of(body: object) -> int:
    """The size of a body that has one: bytes or str."""
    return len(body) if type(body) is bytes or type(body) is str else 0


class Shelf:
    """The messages of one queue. `first` is the lane of the lowest rank; no other lane is empty."""

    __slots__ = (
        "bytes",
        "delayed",
        "first",
        "first_rank",
        "groups",
        "held",
        "inbox",
        "indexes",
        "lanes",
        "marked",
        "numbers",
        "total",
    )

    def __init__(self) -> None:
        self.inbox: deque[Entry] = deque()
        self.held: dict[Position, Record] = {}
        self.first: Lane = deque()
        self.first_rank = 0
        self.lanes: SortedDict[int, Lane] = SortedDict({0: self.first})
        self.delayed: SortedDict[Waiting, Record] = SortedDict()
        self.groups = NestedIndex()
        self.indexes = Indexes({GROUP: self.groups})
        self.marked = 0  # messages with entries in them, besides that of their place
        self.total = 0
        self.bytes = 0
        self.numbers = Counters()  # what is not counted above

    def lane(self, rank: int, in_order: bool = True) -> Lane:
        """The lane of a rank; it comes into use now, if it was not. in_order: it will be used from both ends only."""
        lane = self.lanes.get(rank)
        if lane is None:
            lane = self.lanes[rank] = deque() if in_order else SortedLane()
            if not self.first:
                del self.lanes[self.first_rank]
            self.first_rank, self.first = self.lanes.peekitem(0)
        elif not in_order and not isinstance(lane, SortedLane):
            return self._sorted(rank, lane)
        elif rank == self.first_rank and lane is not self.first:  # an interrupt struck while it was replaced
            self._find_first()
        return lane

    def _sorted(self, rank: int, lane: deque[Entry]) -> SortedLane:
        """The lane of a rank, once for all as a SortedLane. O(n log n)."""
        new = SortedLane()
        for entry in lane:
            new.append(entry)
        self.lanes[rank] = new  # only now: an interrupt (Ctrl-C) before this has changed nothing
        self._find_first()
        return new

    def _find_first(self) -> None:
        self.first_rank, self.first = self.lanes.peekitem(0)

    def absorb(self) -> None:
        """What came without the lock goes into its lane. The caller holds the lock. O(1) each."""
        lane = self.lane(DEFAULT_RANK)
        while self.inbox:
            entry = self.inbox[0]
            size = bytes_of(entry[1])
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

    def find(self, position: Position) -> Entry | None:
        """What nobody was handed yet. O(n) in a lane that is a deque, else as in a Run."""
        lane, low = self.lanes.get(position >> 64), position & LOW_MASK
        if isinstance(lane, SortedLane):
            return lane.get(low)
        return next((entry for entry in lane or () if entry[0] == low), None)

    def take_out(self, position: Position) -> Entry:
        """The same, which leaves its lane. O(1) for the first."""
        rank, low = position >> 64, position & LOW_MASK
        lane = self.lanes[rank]
        if isinstance(lane, SortedLane):
            entry = lane.pop(low)
        elif lane[0][0] == low:
            entry = lane.popleft()
        else:
            entry = self.find(position)
            assert entry is not None
            lane.remove(entry)
        assert entry is not None
        if not lane:
            self.drop_if_empty(rank, lane)
        return entry

    def drop_if_empty(self, rank: int, lane: Lane) -> None:
        """A lane that has become empty goes, unless it is the only one."""
        if not lane and len(self.lanes) > 1:
            del self.lanes[rank]
            self.first_rank, self.first = self.lanes.peekitem(0)
