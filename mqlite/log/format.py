"""The bytes of the log, format version 6. All integers are big-endian: byte order is delivery order.

One LMDB tree; the first byte of a key says what it is:

    01                                   format u32 | store id 16 bytes | crc u32
    02 | name utf-8                      crc u32 | JSON {id, name, options, version}
    03                                   the last epoch of the front that the tree has taken over u64 | crc u32
    04 | queue u32                       name utf-8
    05                                   the last number given to a queue u32 | crc u32
    06 | table u32                       the numbers of a table, see rows.py
    07 | table u32 | key                 a row of a table, see rows.py
    10 | queue u32                       removed: total u64 | bytes u64 | sum u64 | crc u32
    10 | queue u32 | rank u32 | seq u64  a message, see below
    10 | queue u32 | 13 x ff             put: total u64 | bytes u64 | settings version u32 | delayed u64 |
                                         grouped u64 | expiring u64 | timers u32 | feeds u32 | sum u64 | crc u32
    11 | topic u32 | id u64              what a topic keeps: a message, see below
    11 | topic u32 | 9 x ff              its numbers: TopicNumbers, u64 each | crc u32
    18 | queue u32 | line u8 | due u64 | rank u32 | seq u64     a message that waits for its time
    20..2d | queue u32 | ...             an entry of an index, see index.py
    7f                                   last seq u64 | crc u32

A message:

    0        4     5     6       8         12     20          28                32               36
    | crc    | ver | tag | flags | extras n | id   | enqueued  | delivery count | acquired count | marks | extras | body
      u32      u8    u8    u16     u32        u64    ns u64      u32              u32                      JSON n bytes

The flags say which marks there are, and each takes its bytes in this order:

    1  group u64      2  expires: line u8 | ns u64      4  replace 16      8  unique 16      16  timer 16
    32 rank u32       64 (no bytes) the index says where it is, since its key does not follow from its id
    128 order u64     256 topic u32 | bytes of the body u32: the last of all, in a message that has neither extras nor
    body, since the topic keeps them

The crc (zlib's CRC-32) covers body, extras, marks, the rest of the header, and the key,
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
L2  counters and index entries are changed in the commit that changes the messages.

Format 1 had neither marks nor an index, and shorter counters; format 2 no topics, and no feeds among the counters;
format 3 no tables, format 4 no sums, format 5 no front, format 6 a front at level "process" only. They are read as they
are, and become format 7 when the store is opened.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import attrs

from ..codecs import BYTES, Payload
from ..errors import MessageCorrupted, StoreCorrupted
from ..message import Due, Marks, Position, Record
from . import Definition

FORMAT = 8

STORE_KEY = b"\x01"
DEFINITION = b"\x02"
NAME = b"\x04"
FOLDED_KEY = b"\x03"
LAST_QUEUE_KEY = b"\x05"
MESSAGE = b"\x10"
KEPT = b"\x11"
DELAYED = b"\x18"
SEQ_KEY = b"\x7f"
POSITION_BYTES = 12
MESSAGE_KEY_BYTES = 1 + 4 + POSITION_BYTES
#: Where the rank ends in a message's key; what follows it in a key behind all messages of the rank.
RANK_END, BEHIND_RANK = 1 + 4 + 4, b"\xff" * 9
KEPT_KEY_BYTES = 1 + 4 + 8

HEADER = struct.Struct(">BBHIQQII")
HEAD = struct.Struct(">IBBHIQQII")  # the crc and the header
SUM_AND_KIND = struct.Struct(">IBBHI")  # what those begin with: checksum, version, tag, flags, bytes of extras
CRC_AND_HEADER = struct.Struct(">I32s")
#: What begins the keys of a queue, rank, seq.
MESSAGE_KEY = struct.Struct(">5sIQ")
#: The seq in such a key.
SEQ_IN_KEY = struct.Struct(">9xQ")
_CRC = struct.Struct(">I")
_STORE = struct.Struct(">I16s")
_FOLDED = struct.Struct(">Q")
_SOURCE = struct.Struct(">II")
_DELAYED = struct.Struct(">BQIQ")
DELAYED_KEY_BYTES = 1 + 4 + _DELAYED.size
_GROUP = struct.Struct(">Q")
_DUE = struct.Struct(">BQ")
_FLAGS = struct.Struct(">H")
GROUP, EXPIRES, REPLACE, UNIQUE, TIMER, RANK, PLACED, ORDER, SOURCE = 1, 2, 4, 8, 16, 32, 64, 128, 256
_DIGEST_BYTES = 16
_ID = struct.Struct(">I")
#: Of a message.
VERSION = 1
#: Of version, tag and flags as one u32: all but the tag; the flags; what it is but for the tag where there are none.
ALL_BUT_TAG, FLAGS_OF_KIND, PLAIN = 0xFF00FFFF, 0xFFFF, VERSION << 24
CRC_BYTES = _CRC.size
HEADER_BYTES = _CRC.size + HEADER.size
#: Bytes of a stored message besides its body and extras, key included.
OVERHEAD_BYTES = MESSAGE_KEY_BYTES + HEADER_BYTES
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


def positions_of(keys: Sequence[bytes]) -> Sequence[Position]:
    """The positions in ascending keys of one queue, all of messages: 0.03 us each where none is missing, 0.08 where
    all are of one rank, 0.17 else.
    """
    first, last = position_of(keys[0]), position_of(keys[-1])
    if last - first == len(keys) - 1:
        return range(first, last + 1)
    if first >> 64 == last >> 64:
        rank = first >> 64 << 64
        return [rank | seq for (seq,) in SEQ_IN_KEY.iter_unpack(b"".join(keys))]
    return list(map(position_of, keys))


def kept_key(topic: int, number: int) -> bytes:
    """Of what a topic keeps."""
    return queue_key(KEPT, topic) + _GROUP.pack(number)


def kept_number(key: bytes) -> int:
    """The id in a kept_key."""
    return int.from_bytes(key[5:], "big")


@attrs.define(eq=False)
class Draft:
    """A record as bytes, all but its key and id. elsewhere: bytes of its body that a topic keeps."""

    record: Record
    tag: int
    tail: bytes
    tail_crc: int
    extras_bytes: int
    body_bytes: int
    due: Due | None
    flags: int = 0
    asks: bool = False
    elsewhere: int = 0


def draft_of(record: Record) -> Draft:
    """The work on a record that needs neither key nor lock."""
    if record.marks is not None and record.marks.source is not None:
        flags, block = packed_marks(record.marks)
        size = record.marks.source[1]
        return Draft(record, 0, block, _crc32(block), 0, size, record.due, flags, record.asks, size)
    tag, tail = record.payload
    body_bytes, extras_bytes, flags = len(tail), 0, 0
    if record.extras:
        extras = packed_extras(record.extras)
        extras_bytes = len(extras)
        tail = extras + tail
    if record.marks is not None:
        flags, block = packed_marks(record.marks)
        tail = block + tail
    return Draft(record, tag, tail, _crc32(tail), extras_bytes, body_bytes, record.due, flags, record.asks)


def packed_extras(extras: dict[str, Any]) -> bytes:
    """What few messages have, as JSON."""
    return json.dumps(extras, separators=(",", ":")).encode("utf-8", "surrogatepass")


def packed_marks(marks: Marks) -> tuple[int, bytes]:
    """(flags, the bytes that they speak of)."""
    flags, block = 0, b""
    if marks.group is not None:
        flags, block = GROUP, _GROUP.pack(marks.group)
    if marks.expires is not None:
        flags, block = flags | EXPIRES, block + _DUE.pack(*marks.expires)
    for flag, value in ((REPLACE, marks.replace), (UNIQUE, marks.unique), (TIMER, marks.timer)):
        if value is not None:
            flags, block = flags | flag, block + value
    if marks.rank is not None:
        flags, block = flags | RANK, block + _ID.pack(marks.rank)
    if marks.order is not None:
        flags, block = flags | ORDER, block + _GROUP.pack(marks.order)
    if marks.source is not None:
        flags, block = flags | SOURCE, block + _SOURCE.pack(*marks.source)
    return flags, block


def unpacked_marks(value: bytes, flags: int) -> tuple[Marks | None, int]:
    """(marks, where they end) of a stored message that has these flags."""
    at = HEADER_BYTES
    if flags & ~PLACED == SOURCE:  # as most references: 4 us less
        return source_marks(*_SOURCE.unpack_from(value, at)), at + _SOURCE.size
    found: dict[str, Any] = {}
    if flags & GROUP:
        (found["group"],) = _GROUP.unpack_from(value, at)
        at += _GROUP.size
    if flags & EXPIRES:
        found["expires"] = _DUE.unpack_from(value, at)
        at += _DUE.size
    for flag, name in ((REPLACE, "replace"), (UNIQUE, "unique"), (TIMER, "timer")):
        if flags & flag:
            found[name] = value[at : at + _DIGEST_BYTES]
            at += _DIGEST_BYTES
    if flags & RANK:
        (found["rank"],) = _ID.unpack_from(value, at)
        at += _ID.size
    if flags & ORDER:
        (found["order"],) = _GROUP.unpack_from(value, at)
        at += _GROUP.size
    if flags & SOURCE:
        found["source"] = _SOURCE.unpack_from(value, at)
        at += _SOURCE.size
    return (Marks(**found) if found else None), at


@functools.lru_cache(maxsize=256)
def source_marks(topic: int, size: int) -> Marks:
    """Of a reference and no more. They do not change, so messages share them."""
    return Marks(source=(topic, size))


def is_whole(key: bytes, value: bytes) -> bool:
    """Whether a stored message matches its checksum."""
    return len(value) >= HEADER_BYTES and _CRC.unpack_from(value)[0] == _crc32(
        key, _crc32(value[_CRC.size : HEADER_BYTES], _crc32(value[HEADER_BYTES:]))
    )


def flags_of(value: bytes) -> int:
    """The flags of a stored message, unchecked; 0 where it is too short to have any."""
    return int(_FLAGS.unpack_from(value, 6)[0]) if len(value) >= HEADER_BYTES else 0


def group_of(value: bytes) -> int:
    """The group of a stored message, unchecked; 0 where it has none."""
    grouped = len(value) >= HEADER_BYTES + _GROUP.size and value[7] & GROUP
    return int(_GROUP.unpack_from(value, HEADER_BYTES)[0]) if grouped else 0


def id_of(value: bytes) -> int:
    """The id of a stored message, unchecked; 0 where it is too short to have one."""
    return int(_GROUP.unpack_from(value, 12)[0]) if len(value) >= HEADER_BYTES else 0


def failures_of(value: bytes) -> int:
    """The failures that are stored with a message, unchecked."""
    return int(_ID.unpack_from(value, 28)[0]) if len(value) >= HEADER_BYTES else 0


def source_of(value: bytes) -> int:
    """The topic that a reference refers to, unchecked; 0 where it is none."""
    if len(value) >= HEADER_BYTES + _SOURCE.size and value[6] & SOURCE >> 8:
        return int(_SOURCE.unpack_from(value, len(value) - _SOURCE.size)[0])
    return 0


def weight(value: bytes) -> int:
    """Bytes of a stored message, and of its body where a topic keeps that, unchecked."""
    if len(value) >= HEADER_BYTES + _SOURCE.size and value[6] & SOURCE >> 8:
        return len(value) + int(_SOURCE.unpack_from(value, len(value) - _SOURCE.size)[1])
    return len(value)


def stored_bytes(draft: Draft) -> int:
    """The weight of the value that a draft becomes."""
    return HEADER_BYTES + len(draft.tail) + draft.elsewhere


def key_of(value: bytes) -> bytes | None:
    """The digest of the key of a stored message, unchecked."""
    flags = flags_of(value)
    if not flags & REPLACE:
        return None
    marks, _ = unpacked_marks(value, flags)
    return None if marks is None else marks.replace


def sealed(draft: Draft, key: bytes, placed: int = 0) -> bytes:
    """The value to store under `key`; placed: 0 or PLACED."""
    record = draft.record
    header = HEADER.pack(
        VERSION,
        draft.tag,
        draft.flags | placed,
        draft.extras_bytes,
        record.id,
        record.enqueued_ns,
        record.delivery_count,
        record.acquired_count,
    )
    return _CRC.pack(_crc32(key, _crc32(header, draft.tail_crc))) + header + draft.tail


def sealed_plain(key: bytes, tag: int, body: bytes, body_crc: int, number: int, now_ns: int) -> tuple[bytes, int]:
    """(value, its checksum) of a new message that has neither marks nor extras. body_crc: the checksum of its body."""
    header = HEADER.pack(VERSION, tag, 0, 0, number, now_ns, 0, 0)
    crc = _crc32(key, _crc32(header, body_crc))
    return _CRC.pack(crc) + header + body, crc


def plain_rest(value: bytes) -> tuple[int, int, int, int]:
    """What a Record has behind the payload, claimed once more, of a stored message without marks and extras."""
    _, _, _, _, _, number, enqueued_ns, failures, acquired = HEAD.unpack_from(value)
    return enqueued_ns, number, failures, acquired + 1


def is_unmarked(value: bytes) -> bool:
    """Whether a stored message has neither marks nor an entry in an index, unchecked."""
    return value[6:8] == b"\0\0"


def decoded(key: bytes, value: bytes) -> Record:
    """The record stored under `key`. Raises MessageCorrupted."""
    if len(value) >= HEADER_BYTES:
        tail = value[HEADER_BYTES:]
        crc, version, tag, flags, extras_bytes, number, enqueued_ns, failures, acquired = HEAD.unpack_from(value)
        if version == VERSION and crc == _crc32(key, _crc32(value[CRC_BYTES:HEADER_BYTES], _crc32(tail))):
            marks = None
            if flags:
                marks, end = unpacked_marks(value, flags)
                tail = value[end:]
            payload: Payload | None = (tag, tail[extras_bytes:] if extras_bytes else tail)
            if flags & SOURCE:
                payload = None
            extras = json.loads(tail[:extras_bytes]) if extras_bytes else None
            return Record(payload, enqueued_ns, number, failures, acquired, extras, None, marks)
    raise MessageCorrupted(
        f"the stored message at {key.hex()} does not match its checksum: its bytes go to the dead-letter queue"
    )


def enqueued_ns(value: bytes) -> int:
    """Only the time of put, unchecked."""
    return int(HEADER.unpack_from(value, _CRC.size)[5]) if len(value) >= HEADER_BYTES else 0


def salvaged(key: bytes, value: bytes, now_ns: int) -> Record:
    """A record for the dead-letter queue that carries the bytes of a damaged one. Its id is guessed from the key."""
    return Record((BYTES, value), now_ns, int.from_bytes(key[-8:], "big"))


def sum_of(value: bytes) -> int:
    """What a stored message counts in the sums of its queue: its checksum, unchecked."""
    return int.from_bytes(value[: _CRC.size], "big")


def delayed_key(prefix: bytes, due: Due, rank: int, seq: int) -> bytes:
    """prefix is queue_key(DELAYED, queue)."""
    return prefix + _DELAYED.pack(*due, rank, seq)


def delayed_prefix(prefix: bytes, line: int) -> bytes:
    """Of all keys of one line of time."""
    return prefix + bytes([line])


def delayed_parts(key: bytes) -> tuple[int, int, int, int]:
    """(line, due, rank, seq) of a delayed_key."""
    line, due, rank, seq = _DELAYED.unpack_from(key, 5)
    return line, due, rank, seq


def due_ns(key: bytes) -> int:
    """When the message under a delayed_key is due, on its line."""
    return int.from_bytes(key[6:14], "big")


def rank_of_delayed(key: bytes) -> int:
    """The rank of the message under a delayed_key."""
    return int.from_bytes(key[14:18], "big")


def packed_store(store_id: str) -> bytes:
    """The value of STORE_KEY."""
    return with_sum(_STORE.pack(FORMAT, bytes.fromhex(store_id)))


def unpacked_store(value: bytes) -> tuple[int, str]:
    """(format, store id). Raises StoreCorrupted."""
    version, number = _STORE.unpack(without_sum(value, "the record that names the store", _STORE.size))
    return version, number.hex()


def packed_folded(epoch: int) -> bytes:
    """The value of FOLDED_KEY."""
    return with_sum(_FOLDED.pack(epoch))


def unpacked_folded(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    return 0 if value is None else int(_FOLDED.unpack(without_sum(value, "the epoch of the front", _FOLDED.size))[0])


def with_sum(content: bytes) -> bytes:
    """A value that ends with its checksum."""
    return content + _CRC.pack(_crc32(content))


def without_sum(value: bytes, what: str, *sizes: int) -> bytes:
    """The content of such a value, of one of these sizes. Raises StoreCorrupted where it has another size or sum."""
    content = value[:-CRC_BYTES]
    if len(content) not in sizes or _crc32(content) != _CRC.unpack(value[-CRC_BYTES:])[0]:
        raise StoreCorrupted(f"{what} does not match its checksum: restore the store from a backup")
    return content


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
