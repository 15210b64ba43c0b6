"""The bytes of the log, format version 1. All integers are big-endian: byte order is delivery order.

One LMDB tree; the first byte of a key says what it is:

    01                                   format u32 | store id 16 bytes | crc u32
    02 | name utf-8                      crc u32 | JSON {id, name, options, version}
    04 | queue u32                       name utf-8
    10 | queue u32                       removed: total u64 | bytes u64 | crc u32
    10 | queue u32 | rank u32 | seq u64  a message, see below
    10 | queue u32 | 13 x ff             put: total u64 | bytes u64 | settings version u32 | delayed u64 | crc u32
    18 | queue u32 | line u8 | due u64 | rank u32 | seq u64     a message that waits for its time
    7f                                   last seq u64 | crc u32

A message:

    0        4     5     6      8         12     20          28                32               36
    | crc    | ver | tag | 0 0  | extras n | id   | enqueued  | delivery count | acquired count | extras | body
      u32      u8    u8           u32        u64    ns u64      u32              u32              JSON n bytes

The crc (zlib's CRC-32) covers body, extras, the rest of the header, and the key,
in this order: what is long is summed outside of the lock, before the key is known.
The key is covered because a flipped bit in it would move the message.

Good: no second index, a put is one leaf, a reopened store needs no rebuilding.
Bad: LMDB leaves full pages behind only where the new key is the last of its page. So it is for
the last queue of the tree (a put takes the counters behind it out and puts them back: 215 bytes for
a message of 100, and one page less written per commit, than with half full pages); the pages of
other queues are half full: about 300 bytes.

The counters lie where they are changed: what was put is counted behind the last message
of the queue, beside which the next one is put, and what was removed before the first,
where removals happen. With both in one place at the front of the tree, each commit of
a queue with a backlog wrote two pages more (25.0 KB instead of 16.8 KB for a put).

L1  seq is never used again, even after everything was acknowledged: it is counted, not searched.
L2  counters are changed in the commit that changes the messages.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from typing import Any

import attrs

from ..codecs import BYTES, Payload
from ..errors import MessageCorrupted, StoreCorrupted
from ..message import Due, Position, Record
from . import Counters, Definition

FORMAT = 1

STORE_KEY = b"\x01"
DEFINITION = b"\x02"
NAME = b"\x04"
MESSAGE = b"\x10"
DELAYED = b"\x18"
SEQ_KEY = b"\x7f"
POSITION_BYTES = 12
MESSAGE_KEY_BYTES = 1 + 4 + POSITION_BYTES

_HEADER = struct.Struct(">BBHIQQII")
_CRC = struct.Struct(">I")
_SEQ = struct.Struct(">QI")
_STORE = struct.Struct(">I16sI")
_REMOVED = struct.Struct(">QQI")
_PUT = struct.Struct(">QQIQI")
_DELAYED = struct.Struct(">BQIQ")
_ID = struct.Struct(">I")
_VERSION = 1
_HEADER_BYTES = _CRC.size + _HEADER.size
#: Bytes of a stored message besides its body and extras, key included.
OVERHEAD_BYTES = MESSAGE_KEY_BYTES + _HEADER_BYTES
_crc32 = zlib.crc32


@functools.lru_cache(maxsize=1024)
def queue_key(kind: bytes, queue: int) -> bytes:
    """The key, or the prefix of the keys, of one queue."""
    return kind + _ID.pack(queue)


def message_key(prefix: bytes, position: Position) -> bytes:
    """prefix is queue_key(MESSAGE, queue)."""
    return prefix + position.to_bytes(POSITION_BYTES, "big")


def position_of(key: bytes) -> Position:
    """The position in a message's key."""
    return int.from_bytes(key[5:], "big")


@attrs.define(eq=False)
class Draft:
    """A record as bytes, all but its key and id."""

    record: Record
    tag: int
    tail: bytes
    tail_crc: int
    extras_bytes: int
    body_bytes: int
    due: Due | None


def draft_of(record: Record) -> Draft:
    """The work on a record that needs neither key nor lock."""
    tag, body = record.payload
    if record.extras:
        extras = json.dumps(record.extras, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return Draft(record, tag, extras + body, _crc32(extras + body), len(extras), len(body), record.due)
    return Draft(record, tag, body, _crc32(body), 0, len(body), record.due)


def sealed(draft: Draft, key: bytes) -> bytes:
    """The value to store under `key`."""
    record = draft.record
    header = _HEADER.pack(
        _VERSION,
        draft.tag,
        0,
        draft.extras_bytes,
        record.id,
        record.enqueued_ns,
        record.delivery_count,
        record.acquired_count,
    )
    return _CRC.pack(_crc32(key, _crc32(header, draft.tail_crc))) + header + draft.tail


def decoded(key: bytes, value: bytes) -> Record:
    """The record stored under `key`. Raises MessageCorrupted."""
    if len(value) >= _HEADER_BYTES:
        header = value[_CRC.size : _HEADER_BYTES]
        tail = value[_HEADER_BYTES:]
        if _CRC.unpack_from(value)[0] == _crc32(key, _crc32(header, _crc32(tail))):
            version, tag, _, extras_bytes, number, enqueued_ns, failures, acquired = _HEADER.unpack(header)
            if version == _VERSION:
                payload: Payload = (tag, tail[extras_bytes:] if extras_bytes else tail)
                extras = json.loads(tail[:extras_bytes]) if extras_bytes else None
                return Record(payload, enqueued_ns, number, failures, acquired, extras)
    raise MessageCorrupted(
        f"the stored message at {key.hex()} does not match its checksum: its bytes go to the dead-letter queue"
    )


def enqueued_ns(value: bytes) -> int:
    """Only the time of put, unchecked."""
    return int(_HEADER.unpack_from(value, _CRC.size)[5]) if len(value) >= _HEADER_BYTES else 0


def salvaged(key: bytes, value: bytes, now_ns: int) -> Record:
    """A record for the dead-letter queue that carries the bytes of a damaged one. Its id is guessed from the key."""
    return Record((BYTES, value), now_ns, int.from_bytes(key[-8:], "big"))


@functools.lru_cache(maxsize=1024)
def removed_key(queue: int) -> bytes:
    """Before the first message of a queue."""
    return MESSAGE + _ID.pack(queue)


@functools.lru_cache(maxsize=1024)
def put_key(queue: int) -> bytes:
    """Behind the last message of a queue."""
    return MESSAGE + _ID.pack(queue) + b"\xff" * 13


def packed_removed(counters: Counters) -> bytes:
    """The value of a removed_key."""
    head = _REMOVED.pack(counters.removed_total, counters.removed_bytes, 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def packed_put(counters: Counters) -> bytes:
    """The value of a put_key."""
    numbers = counters.put_total, counters.put_bytes, counters.settings_version, counters.delayed
    head = _PUT.pack(*numbers, 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_counters(put: bytes | None, removed: bytes | None) -> Counters:
    """Raises StoreCorrupted."""
    counters = Counters()
    if put is not None:
        _check(put, _PUT.size, "the counters of a queue")
        counters.put_total, counters.put_bytes, counters.settings_version, counters.delayed, _ = _PUT.unpack(put)
    if removed is not None:
        _check(removed, _REMOVED.size, "the counters of a queue")
        counters.removed_total, counters.removed_bytes, _ = _REMOVED.unpack(removed)
    return counters


def gauges(put: bytes | None) -> tuple[int, int]:
    """(settings version, delayed) of what is under a put_key, unchecked; zeros where there is nothing."""
    return (0, 0) if put is None or len(put) != _PUT.size else _PUT.unpack(put)[2:4]


def delayed_key(prefix: bytes, due: Due, rank: int, seq: int) -> bytes:
    """prefix is queue_key(DELAYED, queue)."""
    return prefix + _DELAYED.pack(*due, rank, seq)


def delayed_prefix(prefix: bytes, line: int) -> bytes:
    """Of all keys of one line of time."""
    return prefix + bytes([line])


def due_ns(key: bytes) -> int:
    """When the message under a delayed_key is due, on its line."""
    return int.from_bytes(key[6:14], "big")


def rank_of_delayed(key: bytes) -> int:
    """The rank of the message under a delayed_key."""
    return int.from_bytes(key[14:18], "big")


def packed_seq(seq: int) -> bytes:
    """The value of SEQ_KEY."""
    head = _SEQ.pack(seq, 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_seq(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    if value is None:
        return 0
    _check(value, _SEQ.size, "the counter of message numbers")
    return int(_SEQ.unpack(value)[0])


def packed_store(store_id: str) -> bytes:
    """The value of STORE_KEY."""
    head = _STORE.pack(FORMAT, bytes.fromhex(store_id), 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_store(value: bytes) -> tuple[int, str]:
    """(format, store id). Raises StoreCorrupted."""
    _check(value, _STORE.size, "the record that names the store")
    version, number, _ = _STORE.unpack(value)
    return version, number.hex()


def _check(value: bytes, size: int, what: str) -> None:
    if len(value) != size or _crc32(value[: -_CRC.size]) != _CRC.unpack(value[-_CRC.size :])[0]:
        raise StoreCorrupted(f"{what} does not match its checksum: restore the store from a backup")


def packed_definition(definition: Definition) -> bytes:
    """The value of a DEFINITION key."""
    body = json.dumps(attrs.asdict(definition)).encode()
    return _CRC.pack(_crc32(body)) + body


def unpacked_definition(value: bytes) -> Definition:
    """Raises StoreCorrupted."""
    if len(value) < _CRC.size or _CRC.unpack_from(value)[0] != _crc32(value[_CRC.size :]):
        raise StoreCorrupted(
            "the stored settings of a queue do not match their checksum: restore the store from a backup"
        )
    fields: dict[str, Any] = json.loads(value[_CRC.size :])
    return Definition(**fields)
