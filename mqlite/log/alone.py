"""One plain message in or out, by a thread that no other waits for.

What `GroupCommit`, `lmdb_txn.py` and `space.py` do for any number of operations and threads, done in one function
for one: no request, no transaction object, no closure. A put takes 11 instead of 17 us of processor time so, an
acknowledgement 9 instead of 12. What is written is the same, byte for byte, and so are the rules: the lock and the
gate, the room that is counted before it is used, `before_commit` and `after_commit`, and what an interrupt may leave.

Whatever is not plain, or not alone, is left to the general way: each function says so by returning 0 or False, with
nothing changed. Left out are groups of commits, marks and indexes, sums that are not known, and a store that is
almost full.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any
from zlib import crc32

import lmdb

from ..codecs import Payload
from ..message import Position
from ..system.control import SETTLED
from ..system.environment import Environment
from ..system.group_commit import GroupCommit
from . import Counters, Note, counting
from . import format as fmt
from .front import Front
from .lmdb_reading import Known, LmdbState
from .space import Space

_COMMIT = operator.methodcaller("commit")


class Alone:
    """The short way of one log. Free for any thread.

    prepare_commit(notes): called under the write lock, before the commit. after_commit: what `LmdbLog` has.
    """

    def __init__(
        self,
        environment: Environment,
        space: Space,
        known: Known,
        group: GroupCommit,
        prepare_commit: Callable[[list[Note]], None],
        after_commit: Callable[[list[Note]], None],
    ) -> None:
        self._environment = environment
        self._write_lock = environment.write_lock
        self._space = space
        self._known = known
        self._group = group
        self._prepare_commit = prepare_commit
        self._after_commit = after_commit
        self.front: Front | None = None

    def append(
        self,
        queue: int,
        version: int,
        maxsize: int,
        rank: int,
        payload: Payload,
        now_ns: int,
        check: Callable[[], object],
        note: Note,
    ) -> int:
        """Store a message of which nothing is said but its body; its id. check(), called under the write lock, may
        raise. The note gets the position, too. 0 where the general way is to be taken: also where the settings of the
        queue have another version, and where it holds `maxsize` messages, unless that is 0.
        """
        if self._has_company():
            return 0
        tag, body = payload
        body_crc = crc32(body)
        size = fmt.HEADER_BYTES + len(body)
        outcome: list[None] = []
        try:
            with self._write_lock, self._environment:
                txn: Any = self._environment.begin_write(self._space.look)
                transaction = txn.id()
                if self._group.is_led and self._environment.level.sync:
                    return self._give_up(txn)
                known = self._known if transaction == self._known.transaction + 1 else None
                counters = self._counters(txn, known, queue)
                is_full = maxsize and counters.total >= maxsize
                if is_full or counters.settings_version != version or counters.put_sum < 0:
                    return self._give_up(txn)
                check()
                if not self._space.take_for_put(size):
                    return self._give_up(txn)
                seq = ((known and known.seq) or counting.unpacked_seq(txn.get(fmt.SEQ_KEY))) + 1
                key = fmt.MESSAGE_KEY.pack(fmt.queue_key(fmt.MESSAGE, queue), rank, seq)
                value, crc = fmt.sealed_plain(key, tag, body, body_crc, seq, now_ns)
                counters.put_total += 1
                counters.put_bytes += size
                counters.put_sum += crc
                behind = counting.put_key(queue)
                txn.delete(behind)  # they come back behind it: see LmdbTxn.append
                txn.delete(fmt.SEQ_KEY)
                txn.put(key, value)
                txn.put(behind, counting.packed_put(counters))
                txn.put(fmt.SEQ_KEY, counting.packed_seq(seq))
                note = (*note, rank << 64 | seq)
                self._commit(txn, [note], outcome)
                self._known.learn(transaction, {queue: counters}, seq, follows=known is not None)
                self._environment.end_write()
            self._after_commit([note])
        except BaseException as error:
            self._go_on(error, note, outcome)
            raise
        return seq

    def remove(self, queue: int, position: Position, raw: bytes, check: Callable[[], object], note: Note) -> bool:
        """Take out a message that has no marks. raw: as it was claimed. check(), called under the write lock, may
        raise. False where the general way is to be taken, also where there is no such message.
        """
        if self._has_company() or not fmt.is_unmarked(raw):
            return False
        outcome: list[None] = []
        try:
            with self._write_lock, self._environment:
                txn: Any = self._environment.begin_write(self._space.look)
                transaction = txn.id()
                if self._group.is_led and self._environment.level.sync:
                    return bool(self._give_up(txn))
                check()
                value: bytes | None = None
                if self._space.take_for_removal():
                    value = txn.pop(fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position))
                if value is None or not fmt.is_unmarked(value):
                    return bool(self._give_up(txn))
                known = self._known if transaction == self._known.transaction + 1 else None
                counters = self._counters(txn, known, queue)
                counters.removed_total += 1
                counters.removed_bytes += len(value)
                counters.removed_sum += fmt.sum_of(value)
                txn.put(counting.removed_key(queue), counting.packed_removed(counters))
                self._space.words[SETTLED] += 1  # before the commit: too many costs time only (claims/postponed.py)
                self._commit(txn, [note], outcome)
                self._known.learn(transaction, {queue: counters}, known.seq if known else 0, follows=known is not None)
                self._environment.end_write()
            self._after_commit([note])
        except BaseException as error:
            self._go_on(error, note, outcome)
            raise
        return True

    def _has_company(self) -> bool:
        """Whether others write, or, where a commit waits for the disk, have just shared one and will be back."""
        group = self._group
        return self._write_lock.locked() or group.is_led or (group.company > 0 and self._environment.level.sync)

    @staticmethod
    def _counters(txn: Any, known: Known | None, queue: int) -> Counters:
        """The numbers of a queue, to be changed here only. known: None where another process has committed since."""
        counters = None if known is None else known.counters.get(queue)
        return LmdbState(txn).counters(queue) if counters is None else counters.copy()

    def _commit(self, txn: Any, notes: list[Note], outcome: list[None]) -> None:
        try:
            self._prepare_commit(notes)
            outcome.extend(map(_COMMIT, (txn,)))  # in C: an interrupt comes before or after both
        except lmdb.Error as error:
            raise self._environment.failed(error) from error
        if self.front is not None:
            self.front.note_plain()

    def _go_on(self, error: BaseException, note: Note, outcome: list[None]) -> None:
        """Behind the commit, do what follows it; before, say in our words what LMDB said."""
        if outcome:
            self._group.resume([note], outcome)
        elif isinstance(error, lmdb.Error):
            raise self._environment.failed(error) from error

    def _give_up(self, txn: Any) -> int:
        """Nothing was changed."""
        txn.abort()
        self._environment.end_write()
        return 0
