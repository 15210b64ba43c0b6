"""The indexes of the log: what a message is found by besides its place in line.

Each entry follows from a message that is stored (`audit.py` compares them), and is made and struck
in the commit that stores and removes it. Only messages that have marks have entries, so a plain
put, claim or ack pays nothing for them.

    PLACE      id                       -> where it is; for messages whose place does not follow from their id:
                                           those that wait for their time, or have moved
    GROUP      group, rank, order       -> id; in its group messages are in order of priority, then as they lined up
    EXPIRY     line, time, id           -> rank
    REPLACE    digest                   -> id of the newest message with that replace_key
    UNIQUE     digest, id
    DEDUP      digest                   -> id, until when; outlives the message
    DEDUP_END  until when, digest
    TIMER      digest                   -> id of the schedule of that name

Of a topic, whose number stands in the place of a queue's (see engine/topics.py):

    MEMBER     binding                  -> the queue that it feeds
    REFERENCES id                       -> how many refer to the body that is kept under it; no entry: one
    FEED       queue                    -> the next id to replay to it; 1 if what it holds goes first; the first id that
                                           is kept for it
    RETAINED   digest of a routing key  -> id of the message for new subscriptions
    FORGOTTEN  line, time, queue        : when a subscription goes that nobody uses

And of queue 0, which is the whole store:

    REMOVED    queue                    -> its topic; a subscription whose messages are still to be removed

A message that waits for its time is in GROUP only if it failed before: then its group waits for it, and it keeps
its number in it.

On disk the entries carry no checksum of their own: whoever follows one looks at the message, whose id must match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from ..message import Marks, Position

PLACE, GROUP, EXPIRY, REPLACE, UNIQUE, DEDUP, DEDUP_END, TIMER = range(8)
MEMBER, REFERENCES, FEED, RETAINED, FORGOTTEN, REMOVED = range(8, 14)
KINDS: Final = range(14)
Parts = tuple[Any, ...]
LOW_MASK: Final = (1 << 64) - 1


class Place(NamedTuple):
    """Where a message is: in line at (rank, low), or waiting at (line, due_ns, rank, low)."""

    waits: int
    line: int
    due_ns: int
    rank: int
    low: int

    @property
    def position(self) -> Position:
        """Of one that is in line."""
        return self.rank << 64 | self.low


def in_line(position: Position) -> Place:
    """The place of a message at a position."""
    return Place(0, 0, 0, position >> 64, position & LOW_MASK)


def follows(position: Position, number: int) -> bool:
    """Whether a message with that id is found at that position without an entry: first in first out, or last in first
    out."""
    low = position & LOW_MASK
    return low in (number, LOW_MASK - number)


def order_of(marks: Marks, low: int, number: int) -> int:
    """The number of a message in its group, by which it comes there: as it lined up, unless it is tried again.
    low: of its place.
    """
    if marks.order is not None:
        return marks.order
    return low if marks.rank is None else number  # with ageing the place does not tell it


class Indexed(Protocol):
    """What can be asked of the indexes in any transaction."""

    def entry(self, kind: int, queue: int, parts: Parts) -> Parts | None:
        """The value of an entry."""

    def entries(self, kind: int, queue: int, prefix: Parts = (), start: Parts = ()) -> Iterator[tuple[Parts, Parts]]:
        """(parts, value) of the entries that begin with `prefix`, in order, from prefix + start on. Not to be changed
        meanwhile.
        """

    def ranks(self, queue: int) -> Iterator[int]:
        """Ranks in use, in order."""

    def id_at(self, queue: int, position: Position) -> int | None:
        """The id of the message at a position, claimed or not."""

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a message at a position."""

    def place(self, queue: int, number: int) -> Place | None:
        """Where the message with that id is. O(priorities in use)."""
        found = self.entry(PLACE, queue, (number,))
        if found is not None:
            return Place(*found)
        return next(filter(None, (self.in_rank(queue, rank, number) for rank in self.ranks(queue))), None)

    def in_rank(self, queue: int, rank: int, number: int) -> Place | None:
        """Where it is in a rank, if it is there and its place follows from its id."""
        for low in (number, LOW_MASK - number):
            if self.id_at(queue, rank << 64 | low) == number:
                return Place(0, 0, 0, rank, low)
        return None

    def ranked_place(self, queue: int, rank: int, number: int) -> Place | None:
        """As `place`, for one whose rank is known."""
        found = self.entry(PLACE, queue, (number,))
        return self.in_rank(queue, rank, number) if found is None else Place(*found)

    def member_position(self, queue: int, rank: int, number: int) -> Position | None:
        """The position of one of an entry that tells its rank, in a queue where that is first in, first out; None where
        it is gone, or waits for its time. One seek.
        """
        found = self.entry(PLACE, queue, (number,))
        if found is not None:
            place = Place(*found)
            return None if place.waits else place.position
        position = rank << 64 | number
        return position if self.has(queue, position) else None

    def members(self, queue: int, group: int) -> Iterator[tuple[int, int]]:
        """(rank, id) of the messages of a group, in its order. Not to be changed meanwhile."""
        for (_, rank, _), (number,) in self.entries(GROUP, queue, (group,)):
            yield rank, number

    def head(self, queue: int, group: int) -> tuple[int, int] | None:
        """(rank, id) of the first message of a group."""
        return next(self.members(queue, group), None)

    def leads(self, queue: int, group: int, position: Position) -> bool:
        """Whether the first message of a group is in line at that position. So it seems where there is none: an entry
        is damaged, which is found out once the message is claimed.
        """
        head = self.head(queue, group)
        return head is None or position == self.member_position(queue, *head)

    def next_group(self, queue: int, after: int) -> int | None:
        """The group that follows, by number; -1 is before all."""
        found = next(self.entries(GROUP, queue, (), (after + 1, 0, 0)), None) if after < LOW_MASK else None
        return None if found is None else int(found[0][0])

    def next_expiry(self, queue: int, line: int, after_ns: int) -> int | None:
        """When the next message expires after that, on a line of time."""
        found = next(self.entries(EXPIRY, queue, (line,), (after_ns + 1, 0)), None)
        return None if found is None else int(found[0][1])

    def expired(self, queue: int, line: int, until_ns: int) -> Iterator[tuple[int, int]]:
        """(rank, id) of what has expired by then, on a line of time, in order. Not to be changed meanwhile."""
        for (_, expires_ns, number), (rank,) in self.entries(EXPIRY, queue, (line,)):
            if expires_ns > until_ns:
                return
            yield rank, number

    def uniques(self, queue: int, digest: bytes) -> Iterator[int]:
        """Ids of the messages with a unique key."""
        for (_, number), _ in self.entries(UNIQUE, queue, (digest,)):
            yield number


class Indexing(Indexed, Protocol):
    """What can be changed, in the write transaction."""

    def enter(self, kind: int, queue: int, parts: Parts, value: Parts = ()) -> None:
        """Make an entry, or change its value."""

    def strike(self, kind: int, queue: int, parts: Parts) -> bool:
        """Remove an entry; whether there was one."""

    def count(self, queue: int, grouped: int, expiring: int, timers: int, feeds: int = 0) -> None:
        """Change these counters."""

    def refer(self, topic: int, number: int, change: int) -> None:
        """So many more refer to a body that a topic keeps. At the end of the commit one that has none goes, unless it
        is still to be replayed to somebody.
        """

    def mark(self, queue: int, rank: int, number: int, marks: Marks, low: int, lines_up: bool) -> None:
        """Make the entries of a message but for PLACE. low: of its place; lines_up: it is in line, or waits after a
        failure, and so has its number in its group.
        """
        group, expires, replace, unique, timer, _, _, source = marks
        in_group = lines_up and group is not None
        if in_group:
            self.enter(GROUP, queue, (group, rank, order_of(marks, low, number)), (number,))
        if expires is not None:
            self.enter(EXPIRY, queue, (*expires, number), (rank,))
        if replace is not None:
            newest = self.entry(REPLACE, queue, (replace,))
            if newest is None or newest[0] < number:  # else an older one has moved
                self.enter(REPLACE, queue, (replace,), (number,))
        if unique is not None:
            self.enter(UNIQUE, queue, (unique, number))
        if timer is not None:
            self.enter(TIMER, queue, (timer,), (number,))
        if source is not None:
            self.refer(source[0], number, 1)
        self.count(queue, in_group, expires is not None, timer is not None)

    def unmark(self, queue: int, rank: int, number: int, marks: Marks, low: int, lines_up: bool) -> None:
        """Strike them."""
        group, expires, replace, unique, timer, _, _, source = marks
        in_group = lines_up and group is not None
        if in_group:
            self.strike(GROUP, queue, (group, rank, order_of(marks, low, number)))
        if expires is not None:
            self.strike(EXPIRY, queue, (*expires, number))
        if replace is not None and self.entry(REPLACE, queue, (replace,)) == (number,):
            self.strike(REPLACE, queue, (replace,))
        if unique is not None:
            self.strike(UNIQUE, queue, (unique, number))
        if timer is not None and self.entry(TIMER, queue, (timer,)) == (number,):
            self.strike(TIMER, queue, (timer,))
        if source is not None:
            self.refer(source[0], number, -1)
        self.count(queue, -in_group, -(expires is not None), -(timer is not None))

    def unmark_unknown(self, queue: int, place: Place) -> None:
        """Strike the entries of a damaged message, whose marks and id cannot be trusted. O(entries of the queue)."""
        found = (parts[0] for parts, value in self.entries(PLACE, queue) if value == tuple(place))
        number = next(found, place.low if place.low <= LOW_MASK >> 1 else LOW_MASK - place.low)
        self.strike(PLACE, queue, (number,))
        struck = dict.fromkeys(KINDS, 0)
        for kind in (GROUP, EXPIRY, REPLACE, UNIQUE, TIMER):
            for parts, value in list(self.entries(kind, queue)):
                if number == (parts[-1] if kind in (EXPIRY, UNIQUE) else value[0]):
                    struck[kind] += self.strike(kind, queue, parts)
        self.count(queue, -struck[GROUP], -struck[EXPIRY], -struck[TIMER])

    def remember_id(self, queue: int, digest: bytes, number: int, now_ns: int, until_ns: int) -> None:
        """A dedup_id is taken until then; a few that have run out are forgotten."""
        old = self.entry(DEDUP, queue, (digest,))
        if old is not None:
            self.strike(DEDUP_END, queue, (old[1], digest))
        self.enter(DEDUP, queue, (digest,), (number, until_ns))
        self.enter(DEDUP_END, queue, (until_ns, digest))
        for (end_ns, other), _ in list(islice(self.entries(DEDUP_END, queue), _FORGOTTEN_AT_ONCE)):
            if end_ns <= now_ns:
                self.strike(DEDUP_END, queue, (end_ns, other))
                self.strike(DEDUP, queue, (other,))


#: More than one, so that the window never holds more than was put in one window.
_FORGOTTEN_AT_ONCE = 3


class Tally:
    """References that one commit changes, told at its end: a message that moves gives up its reference and takes it
    again, and nothing must go meanwhile.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], tuple[bool, int]] = {}  # (whether there is an entry, references)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def begin(self, topic: int, number: int) -> None:
        """A new body, to which nobody refers yet."""
        self._counts[topic, number] = False, 0

    def add(self, txn: Indexing, topic: int, number: int, change: int) -> None:
        """See Indexing.refer."""
        known = self._counts.get((topic, number))
        if known is None:
            entry = txn.entry(REFERENCES, topic, (number,))
            known = (False, 1) if entry is None else (True, entry[0])
        self._counts[topic, number] = known[0], known[1] + change

    def settle(self, txn: Any, forget: Callable[[int, int], bytes | None]) -> None:
        """Store the numbers; bodies without references go, by `forget(topic, number)`, which gives the digest of their
        key: it is forgotten with the newest body that has it.
        """
        while self._counts:
            (topic, number), (entered, count) = next(iter(self._counts.items()))
            gone = count <= 0 and not self._is_to_be_replayed(txn, topic, number)
            if count != 1 and not gone:
                txn.enter(REFERENCES, topic, (number,), (max(0, count),))
            elif entered:
                txn.strike(REFERENCES, topic, (number,))
            if gone:
                key = forget(topic, number)
                if key is not None and txn.entry(REPLACE, topic, (key,)) == (number,):
                    txn.strike(REPLACE, topic, (key,))
            del self._counts[topic, number]

    @staticmethod
    def _is_to_be_replayed(txn: Any, topic: int, number: int) -> bool:
        if not txn.topic_numbers(topic).feeds:
            return False
        return any(feed[2] <= number for _, feed in txn.entries(FEED, topic))
