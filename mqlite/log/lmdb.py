"""The log on disk: one tree in one LMDB environment. The bytes are drawn in `format.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs
import lmdb

from ..errors import NotSupported, StoreCorrupted
from ..message import Position, Record, rank_at
from ..system.environment import Environment
from ..system.snapshot import LmdbView
from . import Counters, Definition, Gauges, Lineup, Note
from . import format as fmt
from .group_commit import GroupCommit
from .index import LOW_MASK, PLACE, Indexed, Indexing, Parts, Place, follows, in_line
from .space import PAGE, Space

T = TypeVar("T")
#: Pages that one small change may take: a path from root to leaf in the tree and in LMDB's list of free pages.
_PATH_PAGES = 16


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


_NOTHING_KNOWN = Known()


class _Reading(Indexed):
    """What can be read in any transaction."""

    _txn: Any = None

    def entry(self, kind: int, queue: int, parts: Parts) -> Parts | None:
        """The value of an entry of an index."""
        value = self._txn.get(fmt.index_key(kind, queue, parts))
        return None if value is None else fmt.unpacked_entry(kind, value)

    def entries(self, kind: int, queue: int, prefix: Parts = (), start: Parts = ()) -> Iterator[tuple[Parts, Parts]]:
        """The entries whose first part is `prefix`, from prefix + start on. One seek, and O(1) each."""
        begins, key = fmt.index_range(kind, queue, prefix, start)
        walk = self._txn.cursor()
        found = walk.set_range(key)
        while found:
            key = walk.key()
            if not key.startswith(begins):
                return
            yield fmt.index_parts(kind, key), fmt.unpacked_entry(kind, walk.value())
            found = walk.next()

    def ranks(self, queue: int) -> Iterator[int]:
        """Ranks in use: one seek each."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        found = walk.set_range(fmt.message_key(prefix, 0))
        while found and _is_message(walk.key(), prefix):
            rank = fmt.position_of(walk.key()) >> 64
            yield rank
            found = walk.set_range(fmt.message_key(prefix, (rank + 1) << 64)) if rank + 1 < 1 << 32 else False

    def id_at(self, queue: int, position: Position) -> int | None:
        """The id of the message at a position, claimed or not."""
        value = self.raw(queue, position)
        return None if value is None else fmt.id_of(value)

    def _stored_counters(self, queue: int) -> Counters:
        return fmt.unpacked_counters(self._txn.get(fmt.put_key(queue)), self._txn.get(fmt.removed_key(queue)))

    def gauges(self, queue: int) -> Gauges:
        """What a claimer asks first. Unchecked: what they lead to is checked."""
        return fmt.gauges(self._txn.get(fmt.put_key(queue)))

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

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, bytes]]:
        """Stored records behind the cursor of their rank. One seek per rank that lies wholly before its cursor."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        rank = -1
        found = walk.set_range(fmt.message_key(prefix, 0))
        while found:
            key = walk.key()
            if not _is_message(key, prefix):
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

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, bytes]]:
        """All stored records from a position on."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        found = walk.set_range(fmt.message_key(prefix, start))
        while found and _is_message(walk.key(), prefix):
            yield fmt.position_of(walk.key()), walk.value()
            found = walk.next()

    def oldest_ns(self, queue: int) -> int | None:
        """The smallest time of put among the first and the last of each rank: two seeks per rank."""
        prefix = fmt.queue_key(fmt.MESSAGE, queue)
        walk = self._txn.cursor()
        times = []
        for rank in self.ranks(queue):
            walk.set_range(fmt.message_key(prefix, rank << 64))
            times.append(fmt.enqueued_ns(walk.value()))
            found = walk.set_range(fmt.message_key(prefix, rank << 64 | LOW_MASK) + b"\xff")
            if (walk.prev() if found else walk.last()) and _is_message(walk.key(), prefix):
                times.append(fmt.enqueued_ns(walk.value()))
        return min(times, default=None)

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


class LmdbSnapshot(LmdbView, _Reading):
    """One state of the log."""

    def __init__(self, environment: Environment, known: Known = _NOTHING_KNOWN) -> None:
        super().__init__(environment)
        self._known = known

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue."""
        return self._known.counters_at(self._txn.id(), queue) or self._stored_counters(queue)


class LmdbTxn(_Reading, Indexing):
    """The write transaction. Counters and the seq are kept here and stored once, before the commit.

    changed: whether there is anything to commit.
    """

    def __init__(self, txn: lmdb.Transaction, space: Space, known: Known) -> None:
        self._txn = txn
        self._id = txn.id()
        self._last = known
        self._follows = known if self._id == known.transaction + 1 else _NOTHING_KNOWN
        self._space = space
        self._pages = 0
        self._counters: dict[int, Counters] = {}
        self._put_to: set[int] = set()
        self._removed_from: set[int] = set()
        self._seq = 0
        self.changed = False
        self.notes: list[Note] = []

    def counters(self, queue: int) -> Counters:
        """The numbers of a queue, to be changed here only."""
        counters = self._counters.get(queue)
        if counters is None:
            known = self._follows.counters.get(queue)
            counters = self._counters[queue] = self._stored_counters(queue) if known is None else known.copy()
        return counters

    def reserve(self, size_bytes: int) -> None:
        """Raises StoreFull. Two system calls, no more than once per put."""
        pages = self._pages + _PATH_PAGES + 2 * size_bytes // PAGE
        self._space.ensure(pages)
        self._pages = pages

    def append(self, queue: int, rank: int, draft: fmt.Draft, message_id: int = 0, lineup: Lineup = None) -> int:
        """Store at a new position. O(log n).

        The counters behind the messages are taken out and come back in `seal`: LMDB leaves a full page behind
        where the new entry is the last of it, and two half full ones otherwise.
        """
        seq = self._next_seq()
        counters = self.counters(queue)
        if queue not in self._put_to:
            self._put_to.add(queue)
            self._txn.delete(fmt.put_key(queue))
        position = rank << 64 | seq
        if lineup is not None:
            position = lineup(rank, seq)
            while self.has(queue, position):  # two that came at the same moment
                position += 1
        draft.record.id = message_id = message_id or seq
        value = self._store(queue, position, draft)
        if draft.flags:
            assert draft.record.marks is not None
            self.mark(queue, rank, message_id, draft.record.marks, in_line(position), False)
        counters.put_total += 1
        counters.put_bytes += len(value)
        return message_id

    def _store(self, queue: int, position: Position, draft: fmt.Draft) -> bytes:
        key = fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)
        number = draft.record.id
        placed = 0 if position & LOW_MASK == number or follows(position, number) else fmt.PLACED
        value = fmt.sealed(draft, key, placed)
        self._txn.put(key, value)
        if placed:
            self.enter(PLACE, queue, (number,), in_line(position))
        return value

    def replace(self, queue: int, position: Position, draft: fmt.Draft) -> int:
        """Store in the place of another. O(log n)."""
        self.remove(queue, position)
        counters = self.counters(queue)
        draft.record.id = self._next_seq()
        value = self._store(queue, position, draft)
        if draft.record.marks is not None:
            rank = rank_at(position, draft.record.marks)
            self.mark(queue, rank, draft.record.id, draft.record.marks, in_line(position), False)
        counters.put_total += 1
        counters.put_bytes += len(value)
        self._put_to.add(queue)
        return draft.record.id

    def _next_seq(self) -> int:
        if not self._seq:
            self._seq = self._follows.seq or fmt.unpacked_seq(self._txn.get(fmt.SEQ_KEY))
            self._txn.delete(fmt.SEQ_KEY)
        self.changed = True
        self._seq += 1
        return self._seq

    def delay(self, queue: int, rank: int, draft: fmt.Draft, message_id: int = 0) -> int:
        """Store a message that waits for its time. O(log n)."""
        counters = self.counters(queue)
        seq = self._next_seq()
        record = draft.record
        record.id = message_id = message_id or seq
        assert draft.due is not None
        key = fmt.delayed_key(fmt.queue_key(fmt.DELAYED, queue), draft.due, rank, seq)
        value = fmt.sealed(draft, key, fmt.PLACED)
        self._txn.put(key, value)
        place = Place(1, *draft.due, rank, seq)
        self.enter(PLACE, queue, (message_id,), place)
        if record.marks is not None:
            self.mark(queue, rank, message_id, record.marks, place, record.delivery_count > 0)
        if not draft.flags & fmt.TIMER:
            counters.put_total += 1
            counters.put_bytes += len(value)
            counters.delayed += 1
        self._put_to.add(queue)
        return message_id

    def undelay(self, queue: int, key: bytes) -> bytes | None:
        """Take a delayed record out. O(log n)."""
        counters = self.counters(queue)
        value: bytes | None = self._txn.pop(key)
        if value is not None:
            self.changed = True
            flags = self._unmark_stored(queue, key, value, Place(1, *fmt.delayed_parts(key)))
            if not flags & fmt.TIMER:
                counters.removed_total += 1
                counters.removed_bytes += len(value)
                counters.delayed -= 1
                self._removed_from.add(queue)
            self._put_to.add(queue)
        return value

    def _unmark_stored(self, queue: int, key: bytes, value: bytes, place: Place) -> int:
        """Strike the entries of a message that was taken out; its flags."""
        flags = fmt.flags_of(value)
        if not fmt.is_whole(key, value):
            self.unmark_unknown(queue, place)
            return flags
        number = fmt.id_of(value)
        if flags & fmt.PLACED:
            self.strike(PLACE, queue, (number,))
        if flags & ~fmt.PLACED:
            marks, _ = fmt.unpacked_marks(value, flags)
            assert marks is not None
            rank = place.rank if marks.rank is None else marks.rank
            self.unmark(queue, rank, number, marks, place, fmt.failures_of(value) > 0)
        return flags

    def remove(self, queue: int, position: Position) -> bytes | None:
        """Take a record out. O(log n)."""
        key = fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)
        value: bytes | None = self._txn.pop(key)
        if value is not None:
            self.changed = True
            counters = self.counters(queue)
            counters.removed_total += 1
            counters.removed_bytes += len(value)
            self._removed_from.add(queue)
            if value[7:8] > b"\0" or counters.grouped or counters.expiring:  # the flags may be damaged
                self._unmark_stored(queue, key, value, in_line(position))
        return value

    def gauges(self, queue: int) -> Gauges:
        """Of this transaction."""
        return self.counters(queue).gauges

    # ------------------------------------------------------------------ indexes
    def enter(self, kind: int, queue: int, parts: Parts, value: Parts = ()) -> None:
        """Make an entry, or change its value. O(log n)."""
        self.changed = True
        self._txn.put(fmt.index_key(kind, queue, parts), fmt.packed_entry(kind, value))

    def strike(self, kind: int, queue: int, parts: Parts) -> bool:
        """Remove an entry. O(log n)."""
        self.changed = True
        return bool(self._txn.delete(fmt.index_key(kind, queue, parts)))

    def count(self, queue: int, grouped: int, expiring: int, timers: int) -> None:
        """Change these counters."""
        if grouped or expiring or timers:
            counters = self.counters(queue)
            counters.grouped += grouped
            counters.expiring += expiring
            counters.timers += timers
            self._put_to.add(queue)

    def define(self, definition: Definition) -> None:
        """Store a definition, new or changed."""
        if not definition.id:
            walk = self._txn.cursor()
            found = walk.set_range(bytes([fmt.NAME[0] + 1]))
            last = walk.prev() if found else walk.last()
            key = walk.key() if last else b""
            definition.id = int.from_bytes(key[1:], "big") + 1 if key.startswith(fmt.NAME) else 1
            self._txn.put(fmt.queue_key(fmt.NAME, definition.id), definition.name.encode())
        self.changed = True
        self._txn.put(fmt.DEFINITION + definition.name.encode(), fmt.packed_definition(definition))
        self.counters(definition.id).settings_version = definition.version
        self._put_to.add(definition.id)

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
        """Store the counters; what is left is the commit itself."""
        for queue in self._put_to:
            self._txn.put(fmt.put_key(queue), fmt.packed_put(self._counters[queue]))
        if self._seq:
            self._txn.put(fmt.SEQ_KEY, fmt.packed_seq(self._seq))
        for queue in self._removed_from:
            self._txn.put(fmt.removed_key(queue), fmt.packed_removed(self._counters[queue]))
        return self._txn

    def committed(self) -> None:
        """What is in here is known now."""
        follows = self._follows is self._last
        self._last.learn(self._id, self._counters, self._seq or self._follows.seq, follows=follows)

    def abort(self) -> None:
        """Undo everything."""
        self._txn.abort()


class LmdbLog:
    """A log on disk, shared by threads (here) and by processes (through LMDB)."""

    one_lock = False

    def __init__(self, environment: Environment, store_id: str) -> None:
        self._environment = environment
        self._store_id = store_id
        self._space = Space(environment)
        self.after_commit: Callable[[list[Note]], None] = lambda notes: None
        self._reset()

    def _reset(self) -> None:
        self._known = Known()
        self._group = GroupCommit(
            write_lock=self._environment.write_lock,
            guard=self._environment,
            begin=self._begin,
            end=self._end,
            after=lambda notes: self.after_commit(notes),
            foreign=lmdb.Error,
            translated=self._environment.failed,
        )

    def _end(self, committed: Any) -> None:
        if committed is not None:
            committed.committed()
        self._environment.end_write()

    def _begin(self) -> LmdbTxn:
        return LmdbTxn(self._environment.begin_write(), self._space, self._known)

    # ------------------------------------------------------------------ log
    def hold(self, op: Callable[[Any], T]) -> T:
        """Run an op that changes nothing here, under the write lock: no commit, no flush, never run twice."""
        notes: list[Note] = []
        try:
            with self._environment.write_lock, self._environment:
                txn = self._begin()
                try:
                    txn.notes = notes
                    return op(txn)
                finally:
                    txn.abort()
                    self._environment.end_write()
        finally:
            if notes:
                self.after_commit(notes)

    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op(txn)` in the next group's commit; two flushes of the disk per group, none if nothing changed."""
        return self._group.run(op)

    def read(self) -> LmdbSnapshot:
        """A snapshot of the last commit. Cost: under a microsecond."""
        return LmdbSnapshot(self._environment, self._known)

    def prepare(self, record: Record) -> fmt.Draft:
        """The record as bytes, with the checksum of its long part."""
        return fmt.draft_of(record)

    def decode_delayed(self, key: bytes, raw: bytes) -> tuple[int, Record]:
        """(rank, record). Raises MessageCorrupted."""
        return fmt.rank_of_delayed(key), fmt.decoded(key, raw)

    def salvage_delayed(self, key: bytes, raw: bytes, now_ns: int) -> tuple[int, Record]:
        """(rank, a record that carries the bytes) of a damaged one."""
        return fmt.rank_of_delayed(key), fmt.salvaged(key, raw, now_ns)

    def size_of(self, draft: fmt.Draft) -> int:
        """Bytes of the encoded body."""
        return draft.body_bytes

    def stored_bytes(self, draft: fmt.Draft) -> int:
        """What a draft adds to the bytes that are counted."""
        return fmt.stored_bytes(draft)

    def record_of(self, draft: fmt.Draft) -> Record:
        """What a draft was made of."""
        return draft.record

    group_of = staticmethod(fmt.group_of)
    id_of = staticmethod(fmt.id_of)

    @staticmethod
    def is_schedule(raw: bytes) -> bool:
        """Whether a stored record is the template of a schedule, unchecked."""
        return bool(fmt.flags_of(raw) & fmt.TIMER)

    def footprint(self, draft: fmt.Draft) -> int:
        """Bytes that a draft takes in the log; an entry of an index takes about as much as a small message."""
        return len(draft.tail) + fmt.OVERHEAD_BYTES * (1 if not draft.flags else 3)

    def decode(self, queue: int, position: Position, raw: bytes) -> Record:
        """The record. Raises MessageCorrupted."""
        return fmt.decoded(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position), raw)

    def salvage(self, queue: int, position: Position, raw: bytes, now_ns: int) -> Record:
        """A record that carries the bytes of a damaged one."""
        return fmt.salvaged(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position), raw, now_ns)

    # ------------------------------------------------------------------ lifetime
    def initialise(self) -> None:
        """Write the record that names the store; for a new file, before it gets its name."""
        with self._environment.write_lock, self._environment:
            txn = self._environment.begin_write()
            try:
                txn.put(fmt.STORE_KEY, fmt.packed_store(self._store_id))
                txn.put(fmt.SEQ_KEY, fmt.packed_seq(0))
                txn.commit()
            except lmdb.Error as error:
                raise self._environment.failed(error) from error
            finally:
                self._environment.end_write()

    @staticmethod
    def format_and_id(environment: Environment) -> tuple[int, str]:
        """(format, store id) that the log itself carries. Raises StoreCorrupted where it is no log of ours,
        NotSupported where it is newer.
        """
        with LmdbSnapshot(environment) as snapshot:
            value: bytes | None = snapshot._txn.get(fmt.STORE_KEY)
        if value is None:
            raise StoreCorrupted(
                f"{environment.path!r} is an LMDB file, but not a log of mqlite: give another path, or restore it "
                "from a backup"
            )
        version, store_id = fmt.unpacked_store(value)
        if version > fmt.FORMAT:
            raise NotSupported(
                f"{environment.path!r} has format {version}, this version reads up to {fmt.FORMAT}: upgrade mqlite"
            )
        return version, store_id

    def reserve_existing(self) -> None:
        """See `Space`."""
        self._space.reserve_existing()

    def close(self) -> None:
        """Release what is open; the next use opens it again."""
        self._space.close()
        self._environment.close()

    def after_fork(self) -> None:
        """In a forked child: start afresh. The descriptor for preallocation may be shared; it is closed."""
        self._space.close()
        self._reset()


def _is_message(key: bytes, prefix: bytes) -> bool:
    """Whether a key found by walking is a message of the queue: not its counters, nor what lies behind."""
    return len(key) == fmt.MESSAGE_KEY_BYTES and key.startswith(prefix)
