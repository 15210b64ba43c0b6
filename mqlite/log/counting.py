"""The numbers that the log keeps, as bytes: of a queue, of a topic, and those that were given last.

Where they lie, and why, is said in format.py. Each has a checksum of its own.
"""

from __future__ import annotations

import functools
import operator
import struct

import attrs

from . import Counters, TopicNumbers
from .format import CRC_BYTES, KEPT, MESSAGE, with_sum, without_sum

_ID = struct.Struct(">I")
_SEQ = struct.Struct(">Q")
_REMOVED = struct.Struct(">QQQ")
_PUT = struct.Struct(">QQIQQQIIQ")
_PUT_BYTES = _PUT.size + CRC_BYTES
#: Shorter ones, of formats 1, 2 and 4: what is missing is zero, and the sums are not known.
_OLD_PUTS = (struct.calcsize(">QQIQ"), struct.calcsize(">QQIQQQI"), struct.calcsize(">QQIQQQII"))
_OLD_REMOVED = struct.calcsize(">QQ")
_SUM_MASK = (1 << 63) - 1
_NO_SUM = (1 << 64) - 1
_topic_fields = operator.attrgetter(*attrs.fields_dict(TopicNumbers))
_TOPIC = struct.Struct(f">{len(attrs.fields(TopicNumbers))}Q")
_LAST_QUEUE = struct.Struct(">I")


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
    return put is not None and len(put) == _PUT_BYTES and put[16:52] == _plain_middle(version)


@functools.lru_cache(maxsize=64)
def _plain_middle(version: int) -> bytes:
    """What lies between the totals and the checksum: the version, and gauges that are all zero. A version of -1 (in
    doubt) is none's.
    """
    return b"" if version < 0 else _ID.pack(version) + bytes(32)


def packed_removed(counters: Counters) -> bytes:
    """The value of a removed_key."""
    return with_sum(_REMOVED.pack(counters.removed_total, counters.removed_bytes, counters.removed_sum & _SUM_MASK))


def packed_put(counters: Counters) -> bytes:
    """The value of a put_key."""
    return with_sum(
        _PUT.pack(
            counters.put_total,
            counters.put_bytes,
            counters.settings_version,
            counters.delayed,
            counters.grouped,
            counters.expiring,
            counters.timers,
            counters.feeds,
            _NO_SUM if counters.put_sum < 0 else counters.put_sum & _SUM_MASK,
        )
    )


def unpacked_counters(put: bytes | None, removed: bytes | None) -> Counters:
    """Raises StoreCorrupted."""
    counters = Counters()
    sums = True
    if put is not None:
        content = without_sum(put, "the counters of a queue", _PUT.size, *_OLD_PUTS)
        sums = len(content) == _PUT.size
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
        ) = _PUT.unpack(content.ljust(_PUT.size, b"\0"))
    if removed is not None:
        content = without_sum(removed, "the counters of a queue", _REMOVED.size, _OLD_REMOVED)
        counters.removed_total, counters.removed_bytes, counters.removed_sum = _REMOVED.unpack(
            content.ljust(_REMOVED.size, b"\0")
        )
    if not sums or counters.put_sum == _NO_SUM:
        counters.put_sum = -1
    return counters


def gauges(put: bytes | None) -> tuple[int, int, int, int]:
    """Counters.gauges of what is under a put_key, unchecked; zeros where there is nothing."""
    if put is None or len(put) != _PUT_BYTES:
        if put is None or len(put) - CRC_BYTES not in _OLD_PUTS:
            return 0, 0, 0, 0
        put = put[:-CRC_BYTES].ljust(_PUT.size, b"\0")
    _, _, version, delayed, grouped, expiring, timers, feeds, _ = _PUT.unpack_from(put)
    return version, delayed + timers + feeds, expiring, grouped


def packed_topic(numbers: TopicNumbers) -> bytes:
    """The value of a topic_key."""
    return with_sum(_TOPIC.pack(*_topic_fields(numbers)))


def unpacked_topic(value: bytes | None) -> TopicNumbers:
    """Raises StoreCorrupted."""
    if value is None:
        return TopicNumbers()
    return TopicNumbers(*_TOPIC.unpack(without_sum(value, "the numbers of a topic", _TOPIC.size)))


def packed_seq(seq: int) -> bytes:
    """The value of SEQ_KEY."""
    return with_sum(_SEQ.pack(seq))


def unpacked_seq(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    return 0 if value is None else int(_SEQ.unpack(without_sum(value, "the counter of message numbers", _SEQ.size))[0])


def packed_last_queue(number: int) -> bytes:
    """The value of LAST_QUEUE_KEY."""
    return with_sum(_LAST_QUEUE.pack(number))


def unpacked_last_queue(value: bytes | None) -> int:
    """Raises StoreCorrupted."""
    return (
        0
        if value is None
        else int(_LAST_QUEUE.unpack(without_sum(value, "the counter of queues", _LAST_QUEUE.size))[0])
    )
