"""The numbers that the log keeps, as bytes: of a queue, of a topic, and those that were given last.

Where they lie, and why, is said in format.py. Each has a checksum of its own.
"""

from __future__ import annotations

import functools
import operator
import struct
import zlib

import attrs

from . import Counters, TopicNumbers
from .format import KEPT, MESSAGE, check_sum

_CRC = struct.Struct(">I")
_ID = struct.Struct(">I")
_SEQ = struct.Struct(">QI")
_REMOVED = struct.Struct(">QQQI")
_PUT = struct.Struct(">QQIQQQIIQI")
#: Shorter ones, of formats 1, 2 and 4: what is missing is zero, and the sums are not known.
_OLD_PUT_BYTES = (struct.calcsize(">QQIQI"), struct.calcsize(">QQIQQQII"), struct.calcsize(">QQIQQQIII"))
_OLD_REMOVED_BYTES = struct.calcsize(">QQI")
_SUM_MASK = (1 << 63) - 1
_NO_SUM = (1 << 64) - 1
_topic_fields = operator.attrgetter(*attrs.fields_dict(TopicNumbers))
_TOPIC = struct.Struct(f">{len(attrs.fields(TopicNumbers))}QI")
_LAST_QUEUE = struct.Struct(">II")
_crc32 = zlib.crc32


@functools.lru_cache(maxsize=1024)
def topic_key(topic: int) -> bytes:
    """Behind the last message that a topic keeps."""
    return KEPT + _ID.pack(topic) + b"\xff" * 9


@functools.lru_cache(maxsize=1024)
def removed_key(queue: int) -> bytes:
    """Before the first message of a queue."""
    return MESSAGE + _ID.pack(queue)


@functools.lru_cache(maxsize=1024)
def put_key(queue: int) -> bytes:
    """Behind the last message of a queue."""
    return MESSAGE + _ID.pack(queue) + b"\xff" * 13


def is_plain(put: bytes | None, version: int) -> bool:
    """Whether a queue has that version of its settings, and no message with a group, that expires, or that waits for
    its time: what a claimer asks first. Unchecked: what it leads to is checked.
    """
    return put is not None and len(put) == _PUT.size and put[16:52] == _plain_middle(version)


@functools.lru_cache(maxsize=64)
def _plain_middle(version: int) -> bytes:
    """What lies between the totals and the checksum: the version, and gauges that are all zero. A version of -1 (in
    doubt) is none's.
    """
    return b"" if version < 0 else _ID.pack(version) + bytes(32)


def packed_removed(counters: Counters) -> bytes:
    """The value of a removed_key."""
    head = _REMOVED.pack(counters.removed_total, counters.removed_bytes, counters.removed_sum & _SUM_MASK, 0)[
        : -_CRC.size
    ]
    return head + _CRC.pack(_crc32(head))


def packed_put(counters: Counters) -> bytes:
    """The value of a put_key."""
    head = _PUT.pack(
        counters.put_total,
        counters.put_bytes,
        counters.settings_version,
        counters.delayed,
        counters.grouped,
        counters.expiring,
        counters.timers,
        counters.feeds,
        _NO_SUM if counters.put_sum < 0 else counters.put_sum & _SUM_MASK,
        0,
    )[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_counters(put: bytes | None, removed: bytes | None) -> Counters:
    """Raises StoreCorrupted."""
    counters = Counters()
    sums = True
    if put is not None:
        if len(put) in _OLD_PUT_BYTES:
            check_sum(put, len(put), "the counters of a queue")
            put = _lengthened(put)
            sums = False
        else:
            check_sum(put, _PUT.size, "the counters of a queue")
        (
            counters.put_total,
            counters.put_bytes,
            counters.settings_version,
            counters.delayed,
            counters.grouped,
            counters.expiring,
            counters.timers,
            counters.feeds,
            counters.put_sum,
            _,
        ) = _PUT.unpack(put)
    if removed is not None:
        if len(removed) == _OLD_REMOVED_BYTES:
            check_sum(removed, len(removed), "the counters of a queue")
            removed = removed[: -_CRC.size].ljust(_REMOVED.size, b"\0")
        else:
            check_sum(removed, _REMOVED.size, "the counters of a queue")
        counters.removed_total, counters.removed_bytes, counters.removed_sum, _ = _REMOVED.unpack(removed)
    if not sums or counters.put_sum == _NO_SUM:
        counters.put_sum = -1
    return counters


def gauges(put: bytes | None) -> tuple[int, int, int, int]:
    """Counters.gauges of what is under a put_key, unchecked; zeros where there is nothing."""
    if put is None or len(put) != _PUT.size:
        if put is None or len(put) not in _OLD_PUT_BYTES:
            return 0, 0, 0, 0
        put = _lengthened(put)
    _, _, version, delayed, grouped, expiring, timers, feeds, _, _ = _PUT.unpack(put)
    return version, delayed + timers + feeds, expiring, grouped


def _lengthened(put: bytes) -> bytes:
    """Counters of an older format, without their checksum."""
    return put[: -_CRC.size].ljust(_PUT.size, b"\0")


def packed_topic(numbers: TopicNumbers) -> bytes:
    """The value of a topic_key."""
    head = _TOPIC.pack(*_topic_fields(numbers), 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_topic(value: bytes | None) -> TopicNumbers:
    """Raises StoreCorrupted."""
    if value is None:
        return TopicNumbers()
    check_sum(value, _TOPIC.size, "the numbers of a topic")
    return TopicNumbers(*_TOPIC.unpack(value)[:-1])


def packed_seq(seq: int) -> bytes:
    """The value of SEQ_KEY."""
    head = _SEQ.pack(seq, 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_seq(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    if value is None:
        return 0
    check_sum(value, _SEQ.size, "the counter of message numbers")
    return int(_SEQ.unpack(value)[0])


def packed_last_queue(number: int) -> bytes:
    """The value of LAST_QUEUE_KEY."""
    head = _LAST_QUEUE.pack(number, 0)[: -_CRC.size]
    return head + _CRC.pack(_crc32(head))


def unpacked_last_queue(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    if value is None:
        return 0
    check_sum(value, _LAST_QUEUE.size, "the counter of queues")
    return int(_LAST_QUEUE.unpack(value)[0])
