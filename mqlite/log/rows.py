"""The bytes of the rows of tables, and of a table's numbers. All integers are big-endian.

    06 | table u32            its numbers: version u64 | count u64 | bytes u64 | sum u64 | crc u32
    07 | table u32 | key      a row:

    0        4         12    13
    | crc    | version | tag | value
      u32      u64       u8

Byte order is the order of the keys, which may be empty, and have any bytes in them. The numbers have a kind of their
own, so that no key is taken for them.

The crc (zlib's CRC-32) of a row covers value, version and tag, and the key of the entry, in this order; that of the
numbers what is before it, and the key of the entry. A flipped bit in a key would move a row, or give a table the
numbers of another.

Both lie before the messages, since LMDB leaves full pages only where the new key is the last (see format.py): with rows
behind them (under 40) a plain message of 100 bytes took 259 bytes, so it takes 217, or 180 in puts of 100. Rows whose
keys come in order pay for it: one of 125 bytes takes 276 instead of 165, or 143 where 100 are put at once. In no order
it takes 200 either way. (Pages in use after 20,000 of them, in a store with one queue and one table.)

R1  version is the seq of the change that stored the row, or for the numbers that of the last change: it only grows.
R2  the numbers are changed in the commit that changes the rows.

sum is that of the crcs of all rows, modulo 2^63; 2^64 - 1 where it is not known: in a table of format 4, whose numbers
end before it, and once a damaged row was replaced.
"""

from __future__ import annotations

import functools
import struct
import zlib

from ..codecs import Payload
from ..errors import StoreCorrupted
from . import Row, TableNumbers

NUMBERS = b"\x06"
ROW = b"\x07"
#: What every key of a row begins with.
PREFIX_BYTES = 1 + 4

_PREFIX = struct.Struct(">cI")
_CRC = struct.Struct(">I")
_HEAD = struct.Struct(">QB")
_NUMBERS = struct.Struct(">QQQQ")
_OLD_NUMBERS = struct.Struct(">QQQ")
_NO_SUM = (1 << 64) - 1
_HEAD_BYTES = _CRC.size + _HEAD.size
_crc32 = zlib.crc32


@functools.lru_cache(maxsize=1024)
def prefix_of(kind: bytes, table: int) -> bytes:
    """The key of a table's numbers, or what the keys of its rows begin with."""
    return _PREFIX.pack(kind, table)


def row_key(table: int, key: bytes) -> bytes:
    """Under which a row is stored."""
    return prefix_of(ROW, table) + key


def bounds(table: int, start: bytes, stop: bytes | None) -> tuple[bytes, bytes]:
    """(the first key, the first behind the last) of a range of rows."""
    prefix = prefix_of(ROW, table)
    behind = (int.from_bytes(prefix, "big") + 1).to_bytes(PREFIX_BYTES, "big") if stop is None else prefix + stop
    return prefix + start, behind


def row_bytes(payload: Payload) -> int:
    """Bytes that a row takes besides its key."""
    return PREFIX_BYTES + _HEAD_BYTES + len(payload[1])


def packed_row(stored_key: bytes, payload: Payload, version: int) -> bytes:
    """The value to store under a row_key."""
    tag, value = payload
    head = _HEAD.pack(version, tag)
    return _CRC.pack(_crc32(stored_key, _crc32(head, _crc32(value)))) + head + value


def unpacked_row(stored_key: bytes, stored: bytes) -> Row:
    """Raises StoreCorrupted."""
    if len(stored) >= _HEAD_BYTES:
        value = stored[_HEAD_BYTES:]
        crc = _crc32(stored_key, _crc32(stored[_CRC.size : _HEAD_BYTES], _crc32(value)))
        if _CRC.unpack_from(stored)[0] == crc:
            version, tag = _HEAD.unpack_from(stored, _CRC.size)
            return Row(version, (tag, value))
    _, table = _PREFIX.unpack_from(stored_key)
    raise StoreCorrupted(
        f"row {stored_key[PREFIX_BYTES:]!r} of table {table} does not match its checksum: set or delete it, or restore "
        "the store from a backup"
    )


def sum_of(stored_key: bytes, stored: bytes) -> int | None:
    """What a row counts in the sum of its table; None of a damaged one."""
    try:
        unpacked_row(stored_key, stored)
    except StoreCorrupted:
        return None
    return int(_CRC.unpack_from(stored)[0])


def packed_numbers(table: int, numbers: TableNumbers) -> bytes:
    """The value to store as a table's numbers."""
    total = _NO_SUM if numbers.sum < 0 else numbers.sum
    head = _NUMBERS.pack(numbers.version, numbers.count, numbers.bytes, total)
    return head + _CRC.pack(_crc32(prefix_of(NUMBERS, table), _crc32(head)))


def unpacked_numbers(table: int, stored: bytes | None) -> TableNumbers:
    """Raises StoreCorrupted."""
    if stored is None:
        return TableNumbers()
    head = stored[: -_CRC.size]
    crc = _CRC.pack(_crc32(prefix_of(NUMBERS, table), _crc32(head)))
    if len(head) not in (_NUMBERS.size, _OLD_NUMBERS.size) or stored[-_CRC.size :] != crc:
        raise StoreCorrupted(
            f"the numbers of table {table} do not match their checksum: restore the store from a backup"
        )
    if len(head) == _OLD_NUMBERS.size:
        version, count, size = _OLD_NUMBERS.unpack(head)
        return TableNumbers(version, count, size, -1)
    version, count, size, total = _NUMBERS.unpack(head)
    return TableNumbers(version, count, size, -1 if total == _NO_SUM else total)
