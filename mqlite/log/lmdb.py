"""The log on disk: one tree in one LMDB environment. The bytes are drawn in `format.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import lmdb

from ..codecs import Payload
from ..errors import MessageCorrupted, NotSupported, StoreCorrupted, StoreError
from ..message import Due, Marks, Position, Record
from ..system.control import Control
from ..system.environment import Environment
from ..system.group_commit import GroupCommit
from ..system.structure import Progress, structure_problems
from . import InLine, Note, Row, Snapshot, counting, rows
from . import batch as batches
from . import format as fmt
from .alone import Alone
from .folding import FoldTxn
from .front import Front, LetGo, TakeOver
from .front_contents import Contents
from .lmdb_reading import Known, LmdbLogGlance, LmdbSnapshot
from .lmdb_txn import LmdbTxn
from .recalling import empty, left_in, recalled
from .space import Space

T = TypeVar("T")
_NOT_HELD: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


class LmdbLog:
    """A log on disk, shared by threads (here) and by processes (through LMDB)."""

    one_lock = False
    _transaction: type[LmdbTxn] = LmdbTxn

    def __init__(self, environment: Environment, control: Control) -> None:
        self._environment = environment
        self._space = Space(environment, control)
        self.before_commit: Callable[[list[Note]], None] = lambda notes: None
        self.after_commit: Callable[[list[Note]], None] = lambda notes: None
        self.after_failure: Callable[[], None] = lambda: None
        self._current: LmdbTxn | None = None
        self.front: Front | None = None
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
        self._alone = Alone(
            self._environment,
            self._space,
            self._known,
            self._group,
            self._prepare_commit,
            lambda notes: self.after_commit(notes),
        )
        self._alone.front = self.front
        self.append_alone, self.remove_alone = self._alone.append, self._alone.remove

    def _end(self, committed: Any) -> None:
        if committed is not None:
            committed.committed()
        elif self._current is not None and self._current.changed:
            self.after_failure()
        txn = self._current
        if self.front is not None:
            if txn is not None and 0 < txn.plain == len(txn.operations):
                self.front.note_plain(txn.plain)
            else:
                self.front.note_other()
        self._current = None
        self._environment.end_write()

    def _begin(self, to_change: bool = True) -> LmdbTxn:
        environment = self._environment
        begun = environment.begin_write(self._space.look if to_change else None, to_change=to_change)
        self._current = txn = self._transaction(begun, self._space, self._known, self._prepare_commit)
        return txn

    def _prepare_commit(self, notes: list[Note]) -> None:
        self._environment.before_commit()
        if self._environment.level.sync and notes:
            self.before_commit(notes)

    # ------------------------------------------------------------------ the front
    def recall(self, path: str, session: int) -> None:
        """What another session has left in the front goes to the tree, once. Raises StoreFull, StoreError; then it is
        there still. The caller is alone in opening the store.
        """
        environment = self._environment
        try:
            area = left_in(path, session)
            if area is not None:
                with environment.gated():
                    with LmdbLogGlance(environment) as glance:
                        numbers = glance.transaction(), glance.folded_epoch(), glance.last_seq()
                        found = recalled(area, *numbers, environment.level.sync)
                    if found is not None:
                        self._store_front(*found)
            empty(path, session)
        except OSError as error:
            raise StoreError(f"{path!r} cannot be read or emptied ({error.strerror}): check the disk") from error

    def open_front(self, path: str, session: int, take_over: TakeOver, let_go: LetGo, task_flag: int) -> Front:
        """Let plain messages pass by from now on. Raises StoreFull, StoreError. The caller is alone in opening the
        store.
        """
        environment = self._environment
        flushed = environment.level.sync
        front = Front(path, environment, self._space.has_room, self._store_front, take_over, let_go, task_flag, flushed)
        with environment.gated():
            with LmdbLogGlance(environment) as glance:
                folded = glance.folded_epoch()
            front.begin(session, folded)
        self.front = self._alone.front = front
        environment.before_change = front.fold
        return front

    def _store_front(self, epoch: int, contents: Contents) -> None:
        """Under the gate: into the tree, once for each epoch."""
        environment = self._environment
        txn = FoldTxn(environment.begin_gated(self._space.look), self._space, self._known, _nothing_before)
        try:
            if txn.folded_epoch() < epoch:
                txn.take_in(epoch, contents)
                environment.before_commit()
                txn.seal().commit()
                txn.committed()
        except lmdb.Error as error:
            raise environment.failed(error) from error
        finally:
            environment.end_gated()

    def folded(self) -> contextlib.AbstractContextManager[Any]:
        """Hold L, with an empty front, for a block."""
        return _NOT_HELD if self.front is None else self._environment.gated()

    def is_folded(self) -> bool:
        """Whether the front is empty."""
        return self.front is None or self.front.is_empty()

    def hides_nothing(self) -> bool:
        """See Front."""
        return self.front is None or self.front.hides_nothing()

    def passed(self) -> int:
        """A number that grows with every message that comes or goes without a commit."""
        return 0 if self.front is None else self.front.passed()

    def fold(self) -> None:
        """All that returned before the call is in the tree. Under no lock. Cost: 0.2 us; where messages are in the
        front, 50 us, and 1.5 us for each.
        """
        if not self.is_folded():
            with self._environment.gated():  # whose beginning it is
                pass

    def close_front(self) -> None:
        """Nobody passes by any more. The environment was closed before."""
        if self.front is not None:
            self.front.close()

    # ------------------------------------------------------------------ log
    def hold(self, op: Callable[[Any], T]) -> T:
        """Run an op that changes nothing here, under the write lock: no commit, no flush, never run twice."""
        notes: list[Note] = []
        try:
            with self._environment.write_lock, self._environment:
                txn = self._begin(to_change=False)
                try:
                    txn.notes = notes
                    return op(txn)
                finally:
                    txn.abort()
                    if self.front is not None:
                        self.front.note_other()
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

    def first_in_line(
        self, queue: int, version: int, cursor: Callable[[int], Position | None], count: int
    ) -> InLine | None:
        """As LmdbReading.first_in_line in a `glance`, which as a block would take 0.6 us more."""
        glance = LmdbLogGlance(self._environment)
        glance.begin()
        try:
            return glance.first_in_line(queue, version, cursor, count)
        except lmdb.Error as error:
            raise self._environment.failed(error) from error
        finally:
            glance.end()

    def glance(self) -> LmdbLogGlance:
        """The same for who holds C, whose environment shelters that of the log. Less than half the cost."""
        return LmdbLogGlance(self._environment)

    def prepare(self, record: Record) -> fmt.Draft:
        """The record as bytes, with the checksum of its long part."""
        return fmt.draft_of(record)

    prepare_all = staticmethod(batches.packed)

    def decode_delayed(self, key: bytes, raw: bytes) -> tuple[int, Record]:
        """(rank, record). Raises MessageCorrupted."""
        return fmt.rank_of_delayed(key), fmt.decoded(key, raw)

    def salvage_delayed(self, key: bytes, raw: bytes, now_ns: int) -> tuple[int, Record]:
        """(rank, a record that carries the bytes) of a damaged one."""
        return fmt.rank_of_delayed(key), fmt.salvaged(key, raw, now_ns)

    def size_of(self, payload: Payload) -> int:
        """Bytes of an encoded body."""
        return len(payload[1])

    def stored_bytes(self, draft: fmt.Draft) -> int:
        """What a draft adds to the bytes that are counted."""
        return fmt.stored_bytes(draft)

    def record_of(self, draft: fmt.Draft) -> Record:
        """What a draft was made of."""
        return draft.record

    is_whole = staticmethod(fmt.is_whole)
    weight = staticmethod(fmt.weight)
    sum_of = staticmethod(fmt.sum_of)
    group_of = staticmethod(fmt.group_of)
    number_of = staticmethod(fmt.id_of)

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

    def claimed(self, queue: int, position: Position, raw: bytes, failures: int, acquired: int) -> Record:
        """A record with what the claims know of it. Raises MessageCorrupted."""
        record = fmt.decoded(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position), raw)
        record.delivery_count += failures
        record.acquired_count += acquired
        return record

    claimed_all = staticmethod(batches.claimed)

    def salvage(self, queue: int, position: Position, raw: bytes, now_ns: int) -> Record:
        """A record that carries the bytes of a damaged one."""
        return fmt.salvaged(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position), raw, now_ns)

    @staticmethod
    def refer_to(record: Record, topic: int, number: int, marks: Marks, due: Due | None) -> fmt.Draft:
        """A reference to what a topic keeps: its marks and no more."""
        marks = marks._replace(source=(topic, len(record.payload[1])))
        return fmt.draft_of(Record(None, record.enqueued_ns, number, 0, 0, None, due, marks))

    @staticmethod
    def decode_kept(topic: int, number: int, raw: bytes) -> Record:
        """The record of what a topic keeps. Raises MessageCorrupted."""
        return fmt.decoded(fmt.kept_key(topic, number), raw)

    @staticmethod
    def resolved(snapshot: Snapshot, record: Record) -> Record:
        """A record with its body, and all else that the topic keeps of it. Raises MessageCorrupted."""
        if record.payload is not None:
            return record
        assert record.marks is not None
        assert record.marks.source is not None
        topic = record.marks.source[0]
        raw = snapshot.kept(topic, record.id)
        if raw is None:
            raise MessageCorrupted(f"the body of message {record.id} is gone: restore the store from a backup")
        return LmdbLog.joined(record, raw)

    @staticmethod
    def body_of(snapshot: Snapshot, raw: bytes) -> bytes | None:
        """What a topic keeps of a reference."""
        topic = fmt.source_of(raw)
        return snapshot.kept(topic, fmt.id_of(raw)) if topic else None

    @staticmethod
    def joined(record: Record, raw: bytes) -> Record:
        """A reference, and what the topic keeps of it. Raises MessageCorrupted."""
        marks, number = record.marks, record.id
        assert marks is not None
        assert marks.source is not None
        kept = fmt.decoded(fmt.kept_key(marks.source[0], number), raw)
        failures, acquired = record.delivery_count, record.acquired_count
        return Record(kept.payload, record.enqueued_ns, number, failures, acquired, kept.extras, None, marks)

    @staticmethod
    def is_reference(raw: bytes) -> bool:
        """Whether a stored record is a reference, unchecked."""
        return bool(fmt.flags_of(raw) & fmt.SOURCE)

    @staticmethod
    def decode_row(table: int, key: bytes, raw: bytes) -> Row:
        """A row. Raises StoreCorrupted."""
        return rows.unpacked_row(rows.row_key(table, key), raw)

    row_bytes = staticmethod(rows.row_bytes)
    size_of_row = staticmethod(len)
    sum_of_row = staticmethod(fmt.sum_of)
    key_of = staticmethod(fmt.key_of)
    size_of_kept = staticmethod(len)
    enqueued_ns = staticmethod(fmt.enqueued_ns)

    def structure_problems(self, progress: Progress | None) -> list[str]:
        """See structure.py of the system."""
        try:
            return structure_problems(self._environment.path, progress)
        except OSError as error:
            return [f"the log {self._environment.path!r} cannot be read: {error.strerror}"]

    # ------------------------------------------------------------------ lifetime
    @staticmethod
    def initialise(environment: Environment, store_id: str) -> None:
        """Write the record that names the store; for a new file, before it gets its name."""
        with environment.write_lock, environment:
            txn = environment.begin_write()
            try:
                txn.put(fmt.STORE_KEY, fmt.packed_store(store_id))
                txn.put(fmt.SEQ_KEY, counting.packed_seq(0))
                txn.commit()
            except lmdb.Error as error:
                raise environment.failed(error) from error
            finally:
                environment.end_write()

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

    def begin_session(self) -> None:
        """See `Space`."""
        self._space.begin_session()

    def sync(self) -> None:
        """Return when everything that was committed survives a power cut. Raises StoreError."""
        self.fold()
        self._environment.level.sync_now(self._environment)

    def close(self) -> None:
        """Release what is open; the next use opens it again."""
        self._space.close()
        self._environment.close()

    def after_fork(self) -> None:
        """In a forked child: start afresh. The descriptor for preallocation may be shared; it is closed."""
        self._space.close()
        if self.front is not None:
            self.front.after_fork()
        self._reset()


def _nothing_before(notes: list[Note]) -> None:
    """Nobody waits for what a fold brings: it was there before."""
