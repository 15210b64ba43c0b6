"""The invariants of the tables of a store: rows and numbers agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .engine.catalog import SEPARATOR
from .errors import StoreCorrupted
from .log import Definition, Log


def table_problems(log: Log, txn: Any, definitions: list[Definition]) -> Iterator[str]:
    """Under L: what is wrong, in words."""
    tables = [each for each in definitions if each.kind == "table"]
    last_seq = txn.last_seq() if tables else 0
    for definition in tables:
        name = definition.name.removeprefix(SEPARATOR)
        for problem in _problems(log, txn, definition.id, last_seq):
            yield f"table {name!r}: {problem}"


def _problems(log: Log, txn: Any, table: int, last_seq: int) -> Iterator[str]:
    count, size, newest, total, whole = 0, 0, 0, 0, True
    for key, raw in txn.raw_rows(table):
        count += 1
        size += len(key) + log.size_of_row(raw)
        total += log.sum_of_row(raw)
        try:
            newest = max(newest, log.decode_row(table, key, raw).version)
        except StoreCorrupted as error:
            whole = False
            yield str(error)
    try:
        numbers = txn.table_numbers(table)
    except StoreCorrupted as error:
        yield str(error)
        return
    if count != numbers.count:
        yield f"{count} rows are stored, {numbers.count} are counted"
    if size != numbers.bytes:
        yield f"{size} bytes are stored, {numbers.bytes} are counted"
    if (count, size) == (numbers.count, numbers.bytes) and whole and numbers.sum not in (-1, total % (1 << 63)):
        yield "the rows are not those of one commit: their checksums do not add up"
    if newest > numbers.version:
        yield f"a row has the version {newest}, the table {numbers.version}"
    if max(newest, numbers.version) > last_seq:
        yield f"the version {max(newest, numbers.version)} is greater than the last seq, {last_seq}"
