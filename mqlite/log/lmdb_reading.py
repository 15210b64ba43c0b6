"""What can be read of a log on disk, in a snapshot or in the write transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import attrs

from ..message import Position
from ..system.environment import Environment
from ..system.snapshot import LmdbGlance, LmdbView
from . import Counters, Definition, Gauges, InLine, Row, TableNumbers, TopicNumbers, counting, entries, rows
from . import format as fmt
from .index import LOW_MASK, Indexed, Parts, Place


@attrs.define
class Known:
    """Numbers as of the last commit of this process. They hold for a snapshot of that commit, and for the write
    transaction that directly follows it: the numbers of commits leave no gap for one of another process.

    Written under the write lock, read by anybody: `transaction` changes before and after the rest, and no
    Counters that are in here change. Reading and checking the numbers anew took a fifth of a put, besides the flush.
    """

    transaction: int = -2
    counters: dict[int, Counters] = attrs.field(factory=dict)
    seq: int = 0

    def learn(self, transaction: int, counters: dict[int, Counters], seq: int, *, follows: bool) -> None:
        """What this process has just committed; `follows`: as the next one after what was known."""
        self.transaction = -2
        if follows:
            self.counters.update(counters)
        else:
            self.counters = counters
        self.seq = seq
        self.transaction = transaction

    def counters_at(self, transaction: int, queue: int) -> Counters | None:
        """The numbers of a queue as of that commit."""
        if transaction != self.transaction:
            return None
        counters = self.counters.get(queue)
        return counters if transaction == self.transaction else None


NOTHING_KNOWN = Known()


class LmdbReading(Indexed):
    """What can be read in any transaction."""

    _txn: Any = None

    def entry(self, kind: int, queue: int, parts: Parts) -> Parts | None:
        """The value of an entry of an index."""
        value = self._txn.get(entries.index_key(kind, queue, parts))
        return None if value is None else entries.unpacked_entry(kind, value)

    def entries(self, kind: int, queue: int, prefix: Parts = (), start: Parts = ()) -> Iterator[tuple[Parts, Parts]]:
        """The entries whose first part is `prefix`, from prefix + start on. One seek, and O(1) each."""
        begins, key = entries.index_range(kind, queue, prefix, start)
        walk = self._txn.cursor()
        found = walk.set_range(key)
        while found:
            key = walk.key()
            if not key.startswith(begins):
                return
            yield entries.index_parts(kind, key), entries.unpacked_entry(kind, walk.value())
            found = walk.next()

    def ranks(self, queue: int) -> Iterator[int]:
        """Ranks in use: one seek each."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        found = walk.set_range(fmt.message_key(prefix, 0))
        while found and is_message(walk.key(), prefix):
            rank = fmt.position_of(walk.key()) >> 64
            yield rank
            found = walk.set_range(fmt.message_key(prefix, (rank + 1) << 64)) if rank + 1 < 1 << 32 else False

    def id_at(self, queue: int, position: Position) -> int | None:
        """The id of the message at a position, claimed or not."""
        value = self.raw(queue, position)
        return None if value is None else fmt.id_of(value)

    def _stored_counters(self, queue: int) -> Counters:
        return counting.unpacked_counters(
            self._txn.get(counting.put_key(queue)), self._txn.get(counting.removed_key(queue))
        )

    def gauges(self, queue: int) -> Gauges:
        """What a claimer asks first. Unchecked: what they lead to is checked."""
        return counting.gauges(self._txn.get(counting.put_key(queue)))

    def next_due(self, queue: int, line: int) -> int | None:
        """When the earliest message that waits on a line of time is due. One seek."""
        prefix = fmt.delayed_prefix(fmt.queue_key(fmt.DELAYED, queue), line)
        walk = self._txn.cursor()
        if not walk.set_range(prefix):
            return None
        key = walk.key()
        return fmt.due_ns(key) if key.startswith(prefix) else None

    def delayed(self, queue: int, line: int, until_ns: int | None = None) -> Iterator[tuple[bytes, int, bytes]]:
        """What waits on a line of time, the earliest first. O(1) each."""
        prefix = fmt.delayed_prefix(fmt.queue_key(fmt.DELAYED, queue), line)
        walk = self._txn.cursor()
        found = walk.set_range(prefix)
        while found:
            key = walk.key()
            if not key.startswith(prefix) or (until_ns is not None and fmt.due_ns(key) > until_ns):
                return
            yield key, fmt.due_ns(key), walk.value()
            found = walk.next()

    def delayed_at(self, queue: int, key: bytes) -> bytes | None:
        """The stored bytes of one that waits."""
        value: bytes | None = self._txn.get(key)
        return value

    def delayed_key(self, queue: int, place: Place) -> bytes:
        """The key of one that waits at that place."""
        return fmt.delayed_key(fmt.queue_key(fmt.DELAYED, queue), (place.line, place.due_ns), place.rank, place.low)

    def raw(self, queue: int, position: Position) -> bytes | None:
        """The stored bytes at a position, or None."""
        value: bytes | None = self._txn.get(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position))
        return value

    look_up = raw

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a record at a position; its bytes are not copied."""
        return bool(self._txn.cursor().set_key(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)))

    def has_all(self, queue: int, positions: list[Position]) -> bool:
        """Whether there are records at all of these."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        keys = [prefix + position.to_bytes(fmt.POSITION_BYTES, "big") for position in positions]
        return all(map(self._txn.cursor().set_key, keys))

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, bytes]]:
        """Stored records behind the cursor of their rank. One seek per rank that lies wholly before its cursor."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        rank = -1
        found = walk.set_range(fmt.message_key(prefix, 0))
        while found:
            key = walk.key()
            if not is_message(key, prefix):
                return
            position = fmt.position_of(key)
            if position >> 64 != rank:
                rank = position >> 64
                passed = cursor(rank)
                if position <= passed:
                    found = walk.set_range(fmt.message_key(prefix, passed + 1))
                    continue
            yield position, walk.value()
            found = walk.next()

    def first_in_line(
        self, queue: int, version: int, cursor: Callable[[int], Position | None], count: int
    ) -> InLine | None:
        """The first so many that `ahead` gives, at once (in three fifths of its time). None where a cursor is None,
        where a message has a group, expires or waits for its time, and where the settings have another version.
        """
        if not self.is_plain(queue, version):
            return None
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        positions: list[Position] = []
        keys: list[bytes] = []
        values: list[bytes] = []
        start = fmt.message_key(prefix, 0)
        walk = self._txn.cursor()
        while len(positions) < count and walk.set_range(start):
            key = walk.key()
            if len(key) != fmt.MESSAGE_KEY_BYTES or not key.startswith(prefix):
                break
            position = int.from_bytes(key[5:], "big")
            passed = cursor(position >> 64)
            if passed is None:
                return None
            if position <= passed:
                start = fmt.message_key(prefix, passed + 1)
                continue
            if count == 1:  # as most
                return InLine([position], [walk.value()])
            begins, items, size = key[: fmt.RANK_END], walk.iternext(), 8
            while len(positions) < count:  # more and more at once, so that little is read of the next rank
                wanted = min(size, count - len(positions))
                found = list(islice(items, wanted))
                if not found or not is_message(found[-1][0], begins):
                    found = [item for item in found if is_message(item[0], begins)]
                if found:
                    places, raws = zip(*found, strict=True)
                    positions += fmt.positions_of(places)
                    keys += places
                    values += raws
                if len(found) < wanted:
                    break
                size *= 2
            start = begins + fmt.BEHIND_RANK
        return InLine(positions, values, keys)

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, bytes]]:
        """All stored records from a position on."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        found = walk.set_range(fmt.message_key(prefix, start))
        while found and is_message(walk.key(), prefix):
            yield fmt.position_of(walk.key()), walk.value()
            found = walk.next()

    def kept(self, topic: int, number: int) -> bytes | None:
        """The stored bytes of what a topic keeps, or None."""
        value: bytes | None = self._txn.get(fmt.kept_key(topic, number))
        return value

    def all_kept(self, topic: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """All that a topic keeps, from an id on. O(1) each."""
        prefix = fmt.queue_key(fmt.KEPT, topic)
        walk = self._txn.cursor()
        found = walk.set_range(fmt.kept_key(topic, start))
        while found:
            key = walk.key()
            if not key.startswith(prefix) or len(key) != fmt.KEPT_KEY_BYTES:
                return
            yield fmt.kept_number(key), walk.value()
            found = walk.next()

    def topic_numbers(self, topic: int) -> TopicNumbers:
        """The numbers of a topic."""
        return counting.unpacked_topic(self._txn.get(counting.topic_key(topic)))

    def table_numbers(self, table: int) -> TableNumbers:
        """The numbers of a table."""
        return rows.unpacked_numbers(table, self._txn.get(rows.prefix_of(rows.NUMBERS, table)))

    def row(self, table: int, key: bytes) -> Row | None:
        """The row of a key. O(log n)."""
        stored_key = rows.row_key(table, key)
        stored = self._txn.get(stored_key)
        return None if stored is None else rows.unpacked_row(stored_key, stored)

    def rows(
        self, table: int, start: bytes = b"", stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, Row]]:
        """The rows of a range. One seek, and O(1) each."""
        for key, stored in self.raw_rows(table, start, stop, reverse):
            yield key, rows.unpacked_row(rows.row_key(table, key), stored)

    def raw_rows(
        self, table: int, start: bytes = b"", stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same as they are stored."""
        first, behind = rows.bounds(table, start, stop)
        walk = self._txn.cursor()
        found = walk.set_range(behind if reverse else first)
        if reverse:
            found = walk.prev() if found else walk.last()
        while found:
            key, stored = walk.item()
            if not first <= key < behind:
                return
            yield key[rows.PREFIX_BYTES :], stored
            found = walk.prev() if reverse else walk.next()

    def last_seq(self) -> int:
        """The seq that was given last."""
        return counting.unpacked_seq(self._txn.get(fmt.SEQ_KEY))

    def oldest_ns(self, queue: int) -> int | None:
        """The smallest time of put among the first and the last of each rank: two seeks per rank."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        times = []
        for rank in self.ranks(queue):
            walk.set_range(fmt.message_key(prefix, rank << 64))
            times.append(fmt.enqueued_ns(walk.value()))
            found = walk.set_range(fmt.message_key(prefix, rank << 64 | LOW_MASK) + b"\xff")
            if (walk.prev() if found else walk.last()) and is_message(walk.key(), prefix):
                times.append(fmt.enqueued_ns(walk.value()))
        return min(times, default=None)

    def transaction(self) -> int:
        """The number of the commit that this is the state of."""
        return int(self._txn.id())

    def folded_epoch(self) -> int:
        """The last epoch of the front that is in the tree."""
        return fmt.unpacked_folded(self._txn.get(fmt.FOLDED_KEY))

    def is_plain(self, queue: int, version: int) -> bool:
        """Whether no message of a queue has a group, expires or waits, and its settings have that version."""
        return counting.is_plain(self._txn.get(counting.put_key(queue)), version)

    def definition(self, name: str) -> Definition | None:
        """The queue of that name."""
        value = self._txn.get(fmt.DEFINITION + name.encode())
        return None if value is None else fmt.unpacked_definition(value)

    def definition_by_id(self, queue: int) -> Definition | None:
        """The queue of that id."""
        name = self._txn.get(fmt.queue_key(fmt.NAME, queue))
        return None if name is None else self.definition(name.decode())

    def definitions(self) -> list[Definition]:
        """All declared queues, by name."""
        found = []
        walk = self._txn.cursor()
        more = walk.set_range(fmt.DEFINITION)
        while more and walk.key().startswith(fmt.DEFINITION):
            found.append(fmt.unpacked_definition(walk.value()))
            more = walk.next()
        return found


class LmdbSnapshot(LmdbView, LmdbReading):
    """One state of the log."""

    def __init__(self, environment: Environment, known: Known = NOTHING_KNOWN) -> None:
        super().__init__(environment)
        self._known = known

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        return self._known.counters_at(self._txn.id(), queue) or self._stored_counters(queue)


class LmdbLogGlance(LmdbGlance, LmdbReading):
    """One state of the log, for who holds C."""

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        return self._stored_counters(queue)


class LmdbState(LmdbReading):
    """What is read in a transaction of the caller's."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        return self._stored_counters(queue)


def is_message(key: bytes, prefix: bytes) -> bool:
    """Whether a key found by walking is a message of the queue: not its counters, nor what lies behind."""
    return len(key) == fmt.MESSAGE_KEY_BYTES and key.startswith(prefix)
