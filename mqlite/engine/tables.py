"""Tables: rows of the user's own, written in the commit of a transaction, and read without a lock.

A transaction reads in short snapshots, and notes the version of all that it read: of each key,
and of all keys of each range. A later read of it and its commit look whether that is still so; the version of a
whole table tells it at once as long as nobody wrote to that. So what a transaction has read is
of one state, and still holds when it commits (optimistic concurrency control; Kung, Robinson 1981).

T1  A version is a number of the log that was never used before (L1): what was removed and made anew has another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..codecs import Payload
from ..errors import Conflict, StoreCorrupted
from ..keys import unpacked
from ..log import Definition, Log, Row, Snapshot, TableNumbers
from .catalog import SEPARATOR, shown

if TYPE_CHECKING:
    from .machine import Engine

#: Rows that are read in one snapshot.
AT_ONCE = 256
_NO_NUMBERS = TableNumbers()
#: What a row takes besides its value and key: each may lie on a page of its own, which is written anew.
_ROW_BYTES = 2048
#: Rows that go without asking for room: the reserve has it (log/space.py).
_DROPPED_FREELY = 256


class Tables:
    """The tables of a store, by name: their numbers, which never change. Free for any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._numbers: dict[str, int] = {}

    def number(self, snapshot: Snapshot, name: str) -> int:
        """The number of a table in a snapshot; 0 where nothing was written to it yet."""
        number = self._numbers.get(name)
        if number is None:
            number = self._found(snapshot, name)
            if number:
                self._numbers[name] = number
        return number

    def is_known(self, name: str) -> bool:
        """Whether its number is known without a look at the log."""
        return name in self._numbers

    def number_in(self, txn: Any, name: str) -> int:
        """The same under L, where what is found may not be committed."""
        return self._numbers.get(name) or self._found(txn, name)

    @staticmethod
    def _found(snapshot: Snapshot, name: str) -> int:
        definition = snapshot.definition(SEPARATOR + name)
        return 0 if definition is None else definition.id

    def names(self) -> list[str]:
        """Of all tables that were written to, sorted."""
        with self._log.read() as snapshot:
            return sorted(shown(each.name)[1:] for each in snapshot.definitions() if each.kind == "table")


class _Reads:
    """What was read of one table. as_of: the version of the table as of which all of it holds."""

    __slots__ = ("as_of", "count", "keys", "ranges", "whole")

    def __init__(self) -> None:
        self.as_of = 0
        self.keys: dict[bytes, int] = {}
        self.ranges: list[tuple[bytes, bytes | None, list[tuple[bytes, int]]]] = []
        self.count: int | None = None
        self.whole = False  # nothing of it may change

    def changed(self, snapshot: Snapshot, number: int, count: int) -> str | None:
        """What does not hold any more, in words, of a table that was changed. O(what was read)."""
        if self.whole:
            return "a row"
        for key, version in self.keys.items():
            row = snapshot.row(number, key)
            if (0 if row is None else row.version) != version:
                return f"the key {unpacked(key)!r}"
        for start, stop, found in self.ranges:
            if [(key, row.version) for key, row in snapshot.rows(number, start, stop)] != found:
                return "a range of keys"
        return "the number of rows" if self.count is not None and self.count != count else None


class TableWork:
    """What one transaction reads of tables and writes to them: a part of its commitment. For one thread at a time.

    checks: whether what is read must still hold at the commit; what is `expected` always must.
    """

    def __init__(self, engine: Engine, checks: bool) -> None:
        self._engine = engine
        self._tables = engine.tables
        self._checks = checks
        self._reads: dict[str, _Reads] = {}
        self._writes: dict[str, dict[bytes, Payload | None]] = {}
        self._failed: Conflict | None = None

    @property
    def writes(self) -> bool:
        """Whether there is anything to do at the commit."""
        return bool(self._writes)

    @property
    def has_read(self) -> bool:
        """Whether there is anything to compare at the commit."""
        return bool(self._reads) or self._failed is not None

    def is_of(self, tx: object) -> bool:
        """Whether these are the rows of a transaction, when they are used without one: of none."""
        return False

    # ------------------------------------------------------------------ reading
    def get(self, table: str, key: bytes) -> Payload | None:
        """The value of a key, as this transaction has it. Raises Conflict, StoreCorrupted."""
        own = self._writes.get(table)
        if own is not None and key in own:
            return own[key]
        row = self.stored(table, key, note=self._checks)
        return None if row is None else row.payload

    def stored(self, table: str, key: bytes, *, note: bool) -> Row | None:
        """The row without this transaction's own writes. note: it must stay so until the commit."""
        with self._engine.log.read() as snapshot:
            if note:
                self.compare(snapshot)
            number = self._tables.number(snapshot, table)
            try:
                row = snapshot.row(number, key) if number else None
            except StoreCorrupted as error:
                raise _damaged(table, key) from error
            if note:
                self._noted(snapshot, table, number).keys[key] = 0 if row is None else row.version
        return row

    def count(self, table: str) -> int:
        """The number of rows. O(own writes to the table)."""
        with self._engine.log.read() as snapshot:
            if self._checks:
                self.compare(snapshot)
            number = self._tables.number(snapshot, table)
            count = snapshot.table_numbers(number).count if number else 0
            if self._checks:
                self._noted(snapshot, table, number).count = count
        for key, payload in self._writes.get(table, {}).items():
            was_there = self.stored(table, key, note=self._checks) is not None
            count += (payload is not None) - was_there
        return count

    def version(self, table: str, key: bytes) -> int:
        """That of a row, without this transaction's own writes; 0 where there is none."""
        row = self.stored(table, key, note=self._checks)
        return 0 if row is None else row.version

    def scan(self, table: str, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[tuple[bytes, Payload]]:
        """(key, value) from start up to, and without, stop; backwards: from stop down. O(log n), O(1) each, and O(own
        writes to the table) per step.
        """
        for step in self.steps(table, start, stop, reverse):
            yield from step

    def steps(
        self, table: str, start: bytes, stop: bytes | None, reverse: bool
    ) -> Iterator[list[tuple[bytes, Payload]]]:
        """The same in steps, each of one snapshot."""
        while True:
            low, high, rows, ended = self._chunk(table, start, stop, reverse)
            yield self._with_own(table, low, high, rows, reverse)
            if ended:
                return
            start, stop = (start, low) if reverse else (high or b"", stop)

    def _chunk(
        self, table: str, start: bytes, stop: bytes | None, reverse: bool
    ) -> tuple[bytes, bytes | None, dict[bytes, Payload], bool]:
        """(low, high, stored rows between them, whether that is the whole range)."""
        with self._engine.log.read() as snapshot:
            if self._checks:
                self.compare(snapshot)
            number = self._tables.number(snapshot, table)
            found = self._decoded(snapshot, table, number, start, stop, reverse) if number else []
            low, high, ended = start, stop, len(found) < AT_ONCE
            if not ended:
                last = found[-1][0]
                low, high = (last, stop) if reverse else (start, last + b"\0")
            if self._checks:
                versions = [(key, row.version) for key, row in (reversed(found) if reverse else found)]
                self._noted(snapshot, table, number).ranges.append((low, high, versions))
        return low, high, {key: row.payload for key, row in found}, ended

    def _decoded(
        self, snapshot: Snapshot, table: str, number: int, start: bytes, stop: bytes | None, reverse: bool
    ) -> list[tuple[bytes, Row]]:
        """At most AT_ONCE rows. Raises StoreCorrupted."""
        found = []
        for key, raw in islice(snapshot.raw_rows(number, start, stop, reverse), AT_ONCE):
            try:
                found.append((key, self._engine.log.decode_row(number, key, raw)))
            except StoreCorrupted as error:
                raise _damaged(table, key) from error
        return found

    def _with_own(
        self, table: str, low: bytes, high: bytes | None, rows: dict[bytes, Payload], reverse: bool
    ) -> list[tuple[bytes, Payload]]:
        own = self._writes.get(table)
        if own is None:
            return list(rows.items())
        for key, payload in own.items():
            if low <= key and (high is None or key < high):
                if payload is None:
                    rows.pop(key, None)
                else:
                    rows[key] = payload
        return [(key, rows[key]) for key in sorted(rows, reverse=reverse)]

    def _noted(self, snapshot: Snapshot, table: str, number: int) -> _Reads:
        """Where to note what is read in this snapshot, in which all that was read before holds."""
        reads = self._reads.get(table)
        if reads is None:
            reads = self._reads[table] = _Reads()
        reads.as_of = snapshot.table_numbers(number).version if number else 0
        return reads

    def compare(self, snapshot: Snapshot) -> None:
        """Raises Conflict unless all that was read holds in this snapshot."""
        for table, reads in self._reads.items():
            number = self._tables.number(snapshot, table)
            reads.as_of = self._compared(snapshot, table, number, reads)

    @staticmethod
    def _compared(snapshot: Snapshot, table: str, number: int, reads: _Reads) -> int:
        """The version of the table."""
        numbers = snapshot.table_numbers(number) if number else _NO_NUMBERS
        if numbers.version != reads.as_of:
            changed = reads.changed(snapshot, number, numbers.count)
            if changed is not None:
                raise Conflict(
                    f"{changed} of table {table!r}, which this transaction has read, was changed by another one: "
                    "nothing was changed by this one; begin anew, or have broker.run() do it"
                )
        return numbers.version

    # ------------------------------------------------------------------ writing
    def put(self, table: str, key: bytes, payload: Payload | None) -> None:
        """The value of a key; None: it goes."""
        own = self._writes.get(table)
        if own is None:
            own = self._writes[table] = {}
        own[key] = payload

    def clear(self, table: str) -> None:
        """All rows go, also damaged ones. O(n)."""
        with self._engine.log.read() as snapshot:
            if self._checks:
                self.compare(snapshot)
            number = self._tables.number(snapshot, table)
            keys = [key for key, _ in snapshot.raw_rows(number)] if number else []
            if self._checks:
                self._noted(snapshot, table, number).whole = True
        self._writes[table] = dict.fromkeys(keys)

    def fail(self, conflict: Conflict) -> None:
        """Something is not as it was expected: the commit raises that."""
        self._failed = conflict

    def check_failed(self) -> None:
        """Raises Conflict where something was not as expected."""
        if self._failed is not None:
            raise self._failed

    def look_up(self) -> None:
        """Before the commit: learn the numbers of the tables that are written to."""
        for table in self._writes:
            if not self._tables.is_known(table):
                with self._engine.log.read() as snapshot:
                    self._tables.number(snapshot, table)

    # ------------------------------------------------------------------ under L
    def check(self, txn: Any) -> int:
        """See commitment.Part. Raises Conflict.

        Not even the version of a table is noted: another operation of the same transaction may have changed it, which
        may not be committed, and then the same number is given anew.
        """
        self.check_failed()
        for table, reads in self._reads.items():
            self._compared(txn, table, self._tables.number_in(txn, table), reads)
        log = self._engine.log
        size = dropped = 0
        for rows in self._writes.values():
            for key, payload in rows.items():
                if payload is None:
                    dropped += 1
                else:
                    size += log.row_bytes(payload) + len(key) + _ROW_BYTES
        return size + (dropped * _ROW_BYTES if dropped > _DROPPED_FREELY else 0)

    def do(self, txn: Any) -> None:
        """See commitment.Part."""
        for table, rows in self._writes.items():
            number = self._tables.number_in(txn, table)
            if not number:
                if all(payload is None for payload in rows.values()):
                    continue
                definition = Definition(0, SEPARATOR + table, {}, kind="table")
                txn.define(definition)
                number = definition.id
            version = txn.next_seq()
            for key, payload in rows.items():
                if payload is None:
                    txn.drop_row(number, key, version)
                else:
                    txn.put_row(number, key, payload, version)


def _damaged(table: str, key: bytes) -> StoreCorrupted:
    return StoreCorrupted(
        f"the row of key {unpacked(key)!r} in table {table!r} does not match its checksum: set or delete it, or "
        "restore the store from a backup"
    )
