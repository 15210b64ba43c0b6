"""The write transaction of a log on disk."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import lmdb

from ..codecs import Payload
from ..message import Position, rank_at
from ..system.environment import PAGE
from . import Counters, Definition, Gauges, Lineup, Note, TableNumbers, TopicNumbers, counting, entries, rows
from . import batch as batches
from . import format as fmt
from .index import LOW_MASK, PLACE, Indexing, Parts, Place, Tally, follows, in_line
from .lmdb_reading import NOTHING_KNOWN, Known, LmdbReading
from .space import Space, Usage

#: Pages that one small change may take: a path from root to leaf in the tree and in LMDB's list of free pages.
_PATH_PAGES = 16


class LmdbTxn(LmdbReading, Indexing):
    """The write transaction. Counters and the seq are kept here and stored once, before the commit.

    changed: whether there is anything to commit.
    """

    def __init__(
        self, txn: lmdb.Transaction, space: Space, known: Known, before_commit: Callable[[list[Note]], None]
    ) -> None:
        self._txn = txn
        self._before_commit = before_commit
        self._id = txn.id()
        self._last = known
        self._follows = known if self._id == known.transaction + 1 else NOTHING_KNOWN
        self._usage = Usage(space)
        self._behind = b""  # the key behind the message that was removed last, see `_note_neighbour`
        self._counters: dict[int, Counters] = {}
        self._put_to: set[int] = set()
        self._removed_from: set[int] = set()
        self._topics: dict[int, TopicNumbers] = {}
        self._tables: dict[int, TableNumbers] = {}  # of those that were changed
        self._references = Tally()
        self._seq = 0
        self.changed = False
        self.plain = 0  # how many of the operations might have passed by (front.py)
        self.operations: Sequence[Callable[[Any], Any]] = ()  # nothing here depends on it
        self.notes: list[Note] = []

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue, to be changed here only."""
        counters = self._counters.get(queue)
        if counters is None:
            known = self._follows.counters.get(queue)
            counters = self._counters[queue] = self._stored_counters(queue) if known is None else known.copy()
        return counters

    def reserve(self, size_bytes: int) -> None:
        """Raises StoreFull. Mostly a look at one word."""
        self._usage.reserve(_PATH_PAGES + 2 * size_bytes // PAGE)

    def append(
        self, queue: int, rank: int, draft: fmt.Draft, message_id: int = 0, lineup: Lineup = None, seq: int = 0
    ) -> int:
        """Store at a new position. O(log n).

        The counters behind the messages are taken out and come back in `seal`: LMDB leaves a full page behind
        where the new entry is the last of it, and two half full ones otherwise.
        """
        seq = seq or self.next_seq()
        counters = self.counters(queue)
        if queue not in self._put_to:
            self._put_to.add(queue)
            self._txn.delete(counting.put_key(queue))
        position = rank << 64 | seq
        if lineup is not None:
            position = lineup(rank, seq)
            while self.has(queue, position):  # two that came at the same moment
                position += 1
        draft.record.id = message_id = message_id or seq
        value = self._store(queue, position, draft)
        if draft.flags:
            assert draft.record.marks is not None
            self.mark(queue, rank, message_id, draft.record.marks, position & LOW_MASK, True)
        counters.put_total += 1
        counters.put_bytes += len(value) + draft.elsewhere
        if counters.put_sum >= 0:
            counters.put_sum += fmt.sum_of(value)
        return message_id

    def append_all(self, queue: int, batch: batches.PackedBatch) -> list[int]:
        """The same for many; their ids. One call of LMDB for all: a third of the time of `append`.

        Where they come behind all that is in the tree, LMDB is told so, and need not look for the place of each: half
        the time of its call.
        """
        counters = self.counters(queue)
        if queue not in self._put_to:
            self._put_to.add(queue)
            self._txn.delete(counting.put_key(queue))
        number, count = self.next_seq(), len(batch)
        ids = range(number, number + count)
        keys, values, sums = batches.sealed(queue, ids, batch)
        size = sum(map(len, values))
        runs = 1  # as most
        if batch.ranks.count(batch.ranks[0]) < count:
            runs += sum(map(operator.ne, batch.ranks, islice(batch.ranks, 1, None)))
        self._usage.store_runs(size, count, runs)
        walk = self._txn.cursor()
        is_last = runs == 1 and walk.last() and walk.key() < keys[0]
        walk.putmulti(zip(keys, values, strict=True), append=is_last)
        self._seq = ids[-1]
        counters.put_total += count
        counters.put_bytes += size
        if counters.put_sum >= 0:
            counters.put_sum += sum(sums)
        return list(ids)

    def _store(self, queue: int, position: Position, draft: fmt.Draft) -> bytes:
        key = fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)
        number = draft.record.id
        placed = 0 if position & LOW_MASK == number or follows(position, number) else fmt.PLACED
        value = fmt.sealed(draft, key, placed)
        self._usage.store(len(value))
        self._txn.put(key, value)
        if placed:
            self.enter(PLACE, queue, (number,), in_line(position))
        return value

    def replace(self, queue: int, position: Position, draft: fmt.Draft, seq: int = 0) -> int:
        """Store in the place of another. O(log n)."""
        self.remove(queue, position)
        counters = self.counters(queue)
        draft.record.id = seq or self.next_seq()
        value = self._store(queue, position, draft)
        if draft.record.marks is not None:
            rank = rank_at(position, draft.record.marks)
            self.mark(queue, rank, draft.record.id, draft.record.marks, position & LOW_MASK, True)
        counters.put_total += 1
        counters.put_bytes += len(value) + draft.elsewhere
        if counters.put_sum >= 0:
            counters.put_sum += fmt.sum_of(value)
        self._put_to.add(queue)
        return draft.record.id

    def next_seq(self) -> int:
        """A new number, greater than all before. O(1)."""
        if not self._seq:
            self._seq = self._follows.seq or counting.unpacked_seq(self._txn.get(fmt.SEQ_KEY))
            self._txn.delete(fmt.SEQ_KEY)
        self.changed = True
        self._seq += 1
        return self._seq

    def delay(self, queue: int, rank: int, draft: fmt.Draft, message_id: int = 0) -> int:
        """Store a message that waits for its time. O(log n)."""
        counters = self.counters(queue)
        seq = self.next_seq()
        record = draft.record
        record.id = message_id = message_id or seq
        assert draft.due is not None
        key = fmt.delayed_key(fmt.queue_key(fmt.DELAYED, queue), draft.due, rank, seq)
        value = fmt.sealed(draft, key, fmt.PLACED)
        self._usage.store(len(value))
        self._txn.put(key, value)
        place = Place(1, *draft.due, rank, seq)
        self.enter(PLACE, queue, (message_id,), place)
        if record.marks is not None:
            self.mark(queue, rank, message_id, record.marks, seq, record.delivery_count > 0)
        if counters.put_sum >= 0:
            counters.put_sum += fmt.sum_of(value)
        if not draft.flags & fmt.TIMER:
            counters.put_total += 1
            counters.put_bytes += len(value) + draft.elsewhere
            counters.delayed += 1
        self._put_to.add(queue)
        return message_id

    def undelay(self, queue: int, key: bytes) -> bytes | None:
        """Take a delayed record out. O(log n)."""
        counters = self.counters(queue)
        self._usage.remove()
        value: bytes | None = self._txn.pop(key)
        if value is not None:
            self.changed = True
            flags = self._unmark_stored(queue, key, value, Place(1, *fmt.delayed_parts(key)))
            counters.removed_sum += fmt.sum_of(value)
            self._removed_from.add(queue)
            if not fmt.is_whole(key, value):
                self._distrust(queue)
            if not flags & fmt.TIMER:
                counters.removed_total += 1
                counters.removed_bytes += fmt.weight(value)
                counters.delayed -= 1
            self._put_to.add(queue)
        return value

    def _unmark_stored(self, queue: int, key: bytes, value: bytes, place: Place) -> int:
        """Strike the entries of a message that was taken out; its flags."""
        flags, number = fmt.flags_of(value), fmt.id_of(value)
        if flags != fmt.PLACED and not fmt.is_whole(key, value):
            self.unmark_unknown(queue, place)
            return flags
        if flags & fmt.PLACED and not self.strike(PLACE, queue, (number,)):
            self.unmark_unknown(queue, place)  # damaged
        elif flags & ~fmt.PLACED:
            marks, _ = fmt.unpacked_marks(value, flags)
            assert marks is not None
            rank = place.rank if marks.rank is None else marks.rank
            lines_up = not place.waits or fmt.failures_of(value) > 0
            self.unmark(queue, rank, number, marks, place.low, lines_up)
        return flags

    def remove(self, queue: int, position: Position) -> bytes | None:
        """Take a record out. O(log n)."""
        key = fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)
        self._usage.remove()
        value: bytes | None = self._txn.pop(key)
        if value is not None:
            if self._usage.tight:
                self._note_neighbour(key, len(value))
            self.changed = True
            counters = self.counters(queue)
            counters.removed_total += 1
            counters.removed_bytes += len(value)
            counters.removed_sum += fmt.sum_of(value)
            self._removed_from.add(queue)
            if not fmt.is_unmarked(value):
                counters.removed_bytes += fmt.weight(value) - len(value)
                self._unmark_stored(queue, key, value, in_line(position))
        return value

    def note_settled_alone(self) -> None:
        """The row of a message that was removed may stay for a while. Counted before the commit: too many costs time
        only (claims/postponed.py).
        """
        self._usage.note_settled_alone()
        self.plain += 1

    def note_plain(self) -> None:
        """The operation might have passed by."""
        self.plain += 1

    def remove_all(self, queue: int, positions: list[Position]) -> bool:
        """Take out many records. O(log n) each, and mostly O(1): 0.7 us instead of 1.4 where they are neighbours, which
        those are that were claimed together. Then one cursor walks over them, and what is counted for each is counted
        for all.
        """
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        places = sorted(positions)
        first = fmt.message_key(prefix, places[0])
        walk = self._txn.cursor()
        found = list(islice(walk.iternext(), len(places))) if walk.set_key(first) else []
        keys, values = zip(*found, strict=True) if found else ((), ())
        # between two messages of a queue there are only messages of it
        are_of_queue = bool(keys) and keys[-1] == fmt.message_key(prefix, places[-1])
        if not are_of_queue or list(fmt.positions_of(keys)) != places:
            if not all(walk.set_key(fmt.message_key(prefix, position)) for position in places):
                return False
            for position in positions:
                self.remove(queue, position)
            return True
        sizes = list(map(len, values))
        self._usage.remove_run(sizes)
        self.changed = True
        walk.set_key(first)
        for _ in keys:
            walk.delete()  # and goes on to the next
        counters = self.counters(queue)
        counters.removed_total += len(sizes)
        counters.removed_bytes += sum(sizes)
        if min(sizes) < fmt.HEADER_BYTES:  # damaged; only the first bytes are looked at
            values = tuple(value.ljust(fmt.HEADER_BYTES, b"\0") for value in values)
        sums, kinds = batches.first_words(values, 2)
        counters.removed_sum += sum(sums)
        self._removed_from.add(queue)
        if any(kind & fmt.FLAGS_OF_KIND for kind in set(kinds)):
            for (key, value), kind in zip(found, kinds, strict=True):
                if kind & fmt.FLAGS_OF_KIND:
                    counters.removed_bytes += fmt.weight(value) - len(value)
                    self._unmark_stored(queue, key, value, in_line(fmt.position_of(key)))
        return True

    pull = remove

    def _note_neighbour(self, key: bytes, size_bytes: int) -> None:
        if key == self._behind:
            self._usage.continue_run(size_bytes)
        walk = self._txn.cursor()
        self._behind = walk.key() if walk.set_range(key) else b""

    def unmark_unknown(self, queue: int, place: Place) -> None:
        """Strike all entries that may be those of a damaged message."""
        self._distrust(queue)
        super().unmark_unknown(queue, place)

    def _distrust(self, queue: int) -> None:
        """A damaged message is gone, so the sums of its queue are not known until it is empty."""
        self.counters(queue).put_sum = -1
        self._put_to.add(queue)

    def gauges(self, queue: int) -> Gauges:
        """Of this transaction."""
        return self.counters(queue).gauges

    # ------------------------------------------------------------------ indexes
    def enter(self, kind: int, queue: int, parts: Parts, value: Parts = ()) -> None:
        """Make an entry, or change its value. O(log n)."""
        self.changed = True
        self._usage.store(64)
        self._txn.put(entries.index_key(kind, queue, parts), entries.packed_entry(kind, value))

    def strike(self, kind: int, queue: int, parts: Parts) -> bool:
        """Remove an entry. O(log n)."""
        self.changed = True
        self._usage.remove()
        return bool(self._txn.delete(entries.index_key(kind, queue, parts)))

    def count(self, queue: int, grouped: int, expiring: int, timers: int, feeds: int = 0) -> None:
        """Change these counters."""
        if grouped or expiring or timers or feeds:
            counters = self.counters(queue)
            counters.grouped += grouped
            counters.expiring += expiring
            counters.timers += timers
            counters.feeds += feeds
            self._put_to.add(queue)

    def define(self, definition: Definition) -> None:
        """Store a definition, new or changed."""
        if not definition.id:
            definition.id = (counting.unpacked_last_queue(self._txn.get(fmt.LAST_QUEUE_KEY)) or self._last_named()) + 1
            self._txn.put(fmt.LAST_QUEUE_KEY, counting.packed_last_queue(definition.id))
            self._txn.put(fmt.queue_key(fmt.NAME, definition.id), definition.name.encode())
        self.changed = True
        packed = fmt.packed_definition(definition)
        self._usage.store(len(packed))
        self._txn.put(fmt.DEFINITION + definition.name.encode(), packed)
        if definition.kind in ("queue", "subscription"):
            self.counters(definition.id).settings_version = definition.version
            self._put_to.add(definition.id)

    def _last_named(self) -> int:
        """The greatest number of a queue of an older format, which removed none."""
        walk = self._txn.cursor()
        found = walk.set_range(bytes([fmt.NAME[0] + 1]))
        last = walk.prev() if found else walk.last()
        key = walk.key() if last else b""
        return int.from_bytes(key[1:], "big") if key.startswith(fmt.NAME) else 0

    def undefine(self, definition: Definition) -> None:
        """Remove a definition; who knows the queue sees by its version that it is gone."""
        self.changed = True
        self._txn.delete(fmt.DEFINITION + definition.name.encode())
        self._txn.delete(fmt.queue_key(fmt.NAME, definition.id))
        if definition.kind == "subscription":
            self.counters(definition.id).settings_version += 1
            self._put_to.add(definition.id)

    def wipe(self, queue: int) -> None:
        """Remove the numbers of a queue that is gone."""
        self.changed = True
        for key in (counting.put_key(queue), counting.removed_key(queue)):
            self._txn.delete(key)
        self._put_to.discard(queue)
        self._removed_from.discard(queue)
        self._counters[queue] = Counters()

    # ------------------------------------------------------------------ topics
    def topic_numbers(self, topic: int) -> TopicNumbers:
        """The numbers of a topic, to be changed; stored before the commit if the transaction changes anything."""
        numbers = self._topics.get(topic)
        if numbers is None:
            numbers = self._topics[topic] = super().topic_numbers(topic)
        return numbers

    def keep(self, topic: int, draft: fmt.Draft) -> int:
        """Store a body. O(log n). The numbers behind it are out of the way meanwhile, as in `append`."""
        number = draft.record.id = self.next_seq()
        numbers = self.topic_numbers(topic)
        self._txn.delete(counting.topic_key(topic))
        key = fmt.kept_key(topic, number)
        value = fmt.sealed(draft, key)
        self._usage.store(len(value))
        self._txn.put(key, value)
        self._references.begin(topic, number)
        numbers.stored += 1
        numbers.stored_bytes += len(value)
        numbers.published += 1
        numbers.last = number
        return number

    def refer(self, topic: int, number: int, change: int) -> None:
        """So many more refer to a body; told in `seal`."""
        self.changed = True
        self._references.add(self, topic, number, change)

    def _forget_body(self, topic: int, number: int) -> bytes | None:
        self._usage.remove()
        value = self._txn.pop(fmt.kept_key(topic, number))
        if value is None:
            return None
        numbers = self.topic_numbers(topic)
        numbers.stored -= 1
        numbers.stored_bytes -= len(value)
        return fmt.key_of(value)

    # ------------------------------------------------------------------ tables
    def table_numbers(self, table: int) -> TableNumbers:
        """The numbers of a table, as this transaction leaves them."""
        return self._tables.get(table) or super().table_numbers(table)

    def put_row(self, table: int, key: bytes, payload: Payload, version: int) -> None:
        """Store a row. O(log n). Of one that is replaced only the length counts: it may be damaged."""
        numbers = self.table_numbers(table)
        stored_key = rows.row_key(table, key)
        stored = rows.packed_row(stored_key, payload, version)
        self.changed = True
        self._usage.store(len(stored))
        old = self._txn.replace(stored_key, stored)
        more = len(stored) - len(old) if old is not None else len(key) + len(stored)
        before = 0 if old is None else rows.sum_of(stored_key, old)
        change = None if before is None else fmt.sum_of(stored) - before
        self._tables[table] = numbers.changed(version, int(old is None), more, change)

    def drop_row(self, table: int, key: bytes, version: int) -> bool:
        """Remove a row; whether there was one. O(log n)."""
        numbers = self.table_numbers(table)
        stored_key = rows.row_key(table, key)
        self._usage.remove()
        old = self._txn.pop(stored_key)
        if old is None:
            return False
        self.changed = True
        before = rows.sum_of(stored_key, old)
        change = None if before is None else -before
        self._tables[table] = numbers.changed(version, -1, -len(key) - len(old), change)
        return True

    def last_seq(self) -> int:
        """The seq that was given last."""
        return self._seq or super().last_seq()

    # ------------------------------------------------------------------ for upgrade.py
    def put_raw(self, key: bytes, value: bytes) -> None:
        """Store bytes of the same length under a key that is there."""
        self.changed = True
        self._txn.put(key, value)

    def set_format(self) -> None:
        """The log has this version's format now."""
        _, store_id = fmt.unpacked_store(self._txn.get(fmt.STORE_KEY))
        self.changed = True
        self._txn.put(fmt.STORE_KEY, fmt.packed_store(store_id))

    def seal(self) -> Any:
        """Store the counters; what is left is the commit itself. Raises lmdb.DiskError, and what forbids it."""
        self._before_commit(self.notes)
        count = len(self._put_to) + len(self._removed_from) + len(self._topics) + len(self._tables)
        self._usage.store(64 * count, count)
        if self._references:
            self._references.settle(self, self._forget_body)
        for topic, numbers in self._topics.items():
            self._txn.put(counting.topic_key(topic), counting.packed_topic(numbers))
        for table, changed in self._tables.items():
            self._txn.put(rows.prefix_of(rows.NUMBERS, table), rows.packed_numbers(table, changed))
        for queue in self._put_to:
            counters = self._counters[queue]
            if counters.put_sum < 0 and not counters.total and not counters.timers:
                counters.put_sum = counters.removed_sum = 0
                self._removed_from.add(queue)
            self._txn.put(counting.put_key(queue), counting.packed_put(counters))
        if self._seq:
            self._txn.put(fmt.SEQ_KEY, counting.packed_seq(self._seq))
        for queue in self._removed_from:
            self._txn.put(counting.removed_key(queue), counting.packed_removed(self._counters[queue]))
        self._usage.seal()
        return self._txn

    def committed(self) -> None:
        """What is in here is known now."""
        follows = self._follows is self._last
        self._last.learn(self._id, self._counters, self._seq or self._follows.seq, follows=follows)

    def abort(self) -> None:
        """Undo everything."""
        self._txn.abort()
