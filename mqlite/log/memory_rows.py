"""The rows of tables in memory: per table a SortedDict by key, and its numbers."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedDict

from ..codecs import Payload
from . import Row, TableNumbers

_NOTHING: SortedDict[bytes, Row] = SortedDict()
_NO_NUMBERS = TableNumbers()


class MemoryRows:
    """What a log in memory has of tables. The caller holds its lock; neither rows nor numbers change once made."""

    def __init__(self) -> None:
        self._rows: dict[int, SortedDict[bytes, Row]] = {}
        self._numbers: dict[int, TableNumbers] = {}

    def table_numbers(self, table: int) -> TableNumbers:
        """The numbers of a table."""
        return self._numbers.get(table, _NO_NUMBERS)

    def row(self, table: int, key: bytes) -> Row | None:
        """The row of a key. O(1)."""
        return self._rows.get(table, _NOTHING).get(key)

    def rows(
        self, table: int, start: bytes = b"", stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, Row]]:
        """The rows of a range. O(log n), and O(1) each."""
        rows = self._rows.get(table, _NOTHING)
        for key in rows.irange(start, stop, inclusive=(True, False), reverse=reverse):
            yield key, rows[key]

    raw_rows = rows

    @staticmethod
    def decode_row(table: int, key: bytes, raw: Row) -> Row:
        """The row itself."""
        return raw

    @staticmethod
    def sum_of_row(raw: Row) -> int:
        """Nobody mixes pages here."""
        return 0

    @staticmethod
    def size_of_row(raw: Row) -> int:
        """Bytes of its value."""
        return len(raw.payload[1])

    @staticmethod
    def row_bytes(payload: Payload) -> int:
        """Not known, and not needed."""
        return 0

    def put_row(self, table: int, key: bytes, payload: Payload, version: int) -> None:
        """Store a row. O(log n) for a new key."""
        rows = self._rows.get(table)
        if rows is None:
            rows = self._rows.setdefault(table, SortedDict())
        old, new = rows.get(key), Row(version, payload)
        more = len(payload[1]) - len(old.payload[1]) if old is not None else len(key) + len(payload[1])
        rows[key] = new
        self._numbers[table] = self.table_numbers(table).changed(version, int(old is None), more)

    def drop_row(self, table: int, key: bytes, version: int) -> bool:
        """Remove a row; whether there was one. O(log n)."""
        row = self._rows.get(table, _NOTHING).pop(key, None)
        if row is None:
            return False
        size = len(key) + len(row.payload[1])
        self._numbers[table] = self.table_numbers(table).changed(version, -1, -size)
        return True
