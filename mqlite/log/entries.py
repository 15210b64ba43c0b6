"""The entries of indexes, as bytes; what they mean is said in index.py."""

from __future__ import annotations

import functools
import struct

from ..errors import StoreCorrupted
from . import index

_ID = struct.Struct(">I")
_INDEX = 0x20
_PARTS = {
    index.PLACE: struct.Struct(">Q"),
    index.GROUP: struct.Struct(">QIQ"),
    index.EXPIRY: struct.Struct(">BQQ"),
    index.REPLACE: struct.Struct(">16s"),
    index.UNIQUE: struct.Struct(">16sQ"),
    index.DEDUP: struct.Struct(">16s"),
    index.DEDUP_END: struct.Struct(">Q16s"),
    index.TIMER: struct.Struct(">16s"),
    index.MEMBER: struct.Struct(">I"),
    index.REFERENCES: struct.Struct(">Q"),
    index.FEED: struct.Struct(">I"),
    index.RETAINED: struct.Struct(">16s"),
    index.FORGOTTEN: struct.Struct(">BQI"),
    index.REMOVED: struct.Struct(">I"),
}
_VALUES = {
    index.PLACE: struct.Struct(">BBQIQ"),
    index.GROUP: struct.Struct(">Q"),
    index.EXPIRY: struct.Struct(">I"),
    index.REPLACE: struct.Struct(">Q"),
    index.DEDUP: struct.Struct(">QQ"),
    index.TIMER: struct.Struct(">Q"),
    index.MEMBER: struct.Struct(">I"),
    index.REFERENCES: struct.Struct(">Q"),
    index.FEED: struct.Struct(">QBQ"),
    index.RETAINED: struct.Struct(">Q"),
    index.REMOVED: struct.Struct(">I"),
}
_NOTHING = struct.Struct("")
#: The first part alone: what entries that have it in common begin with.
_PREFIX = {
    kind: struct.Struct(">16s" if parts.format.startswith(">16s") else parts.format[:2])
    for kind, parts in _PARTS.items()
}


@functools.lru_cache(maxsize=1024)
def index_prefix(kind: int, queue: int) -> bytes:
    """Of all entries of one index of a queue."""
    return bytes([_INDEX + kind]) + _ID.pack(queue)


def index_key(kind: int, queue: int, parts: index.Parts) -> bytes:
    """Of one entry."""
    return index_prefix(kind, queue) + _PARTS[kind].pack(*parts)


def index_range(kind: int, queue: int, prefix: index.Parts, start: index.Parts) -> tuple[bytes, bytes]:
    """(what keys of entries whose first part is `prefix` begin with, the first key from prefix + start on)."""
    begins = index_prefix(kind, queue) + (_PREFIX[kind].pack(*prefix) if prefix else b"")
    return begins, index_key(kind, queue, (*prefix, *start)) if start else begins


def index_parts(kind: int, key: bytes) -> index.Parts:
    """The parts of an entry."""
    return _PARTS[kind].unpack_from(key, 5)


def packed_entry(kind: int, value: index.Parts) -> bytes:
    """The value of an entry."""
    return _VALUES.get(kind, _NOTHING).pack(*value)


def unpacked_entry(kind: int, value: bytes) -> index.Parts:
    """Raises StoreCorrupted."""
    form = _VALUES.get(kind, _NOTHING)
    if len(value) != form.size:
        raise StoreCorrupted("an entry of an index does not have its size: restore the store from a backup")
    return form.unpack(value)


def is_entry(key: bytes, value: bytes) -> bool:
    """Whether these have the lengths of an entry of an index: that is all that can be told of one by itself."""
    kind = key[0] - _INDEX if key else -1
    parts = _PARTS.get(kind)
    return parts is not None and len(key) == 5 + parts.size and len(value) == _VALUES.get(kind, _NOTHING).size
