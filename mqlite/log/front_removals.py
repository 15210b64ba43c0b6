"""Messages of the tree that were claimed by rows, and are settled: said in the front, before they leave the tree. [34]

What is acknowledged together is one record, and one flush. So a consumer that has prefetched messages settles each
with one flush instead of the two of a commit. They leave the tree with the next fold, and their rows after them: until
then these keep claimers from them.

A record of that kind has the state REMOVED, the key of the first message, and as its value

    checksum u32 | of each stretch of neighbours: rank u32, seq u64 of the last; how many u32

The checksum is over epoch, key and stretches: behind a header of this epoch there may be, after a power cut, what was
there before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain, starmap
from zlib import crc32

from ..message import Position

#: (the last, how many) of neighbours.
Stretch = tuple[Position, int]
_STRETCH = struct.Struct(">IQI")
_SUM = struct.Struct(">I")
_EPOCH = struct.Struct(">Q")
_LOW = (1 << 64) - 1


def packed(epoch: int, key: bytes, stretches: Iterable[Stretch]) -> bytes:
    """The value of a record."""
    content = b"".join([_STRETCH.pack(last >> 64, last & _LOW, count) for last, count in stretches])
    return _SUM.pack(_sum_of(epoch, key, content)) + content


def is_whole(epoch: int, key: bytes, value: bytes) -> bool:
    """Whether it is as it was written."""
    content = value[_SUM.size :]
    return (
        len(value) > _SUM.size
        and len(content) % _STRETCH.size == 0
        and _SUM.unpack_from(value)[0] == _sum_of(epoch, key, content)
    )


def _sum_of(epoch: int, key: bytes, content: bytes) -> int:
    return crc32(content, crc32(key, crc32(_EPOCH.pack(epoch))))


def positions_in(value: bytes) -> Sequence[Position]:
    """Those of the messages."""
    return list(chain.from_iterable(starmap(_neighbours, _STRETCH.iter_unpack(value[_SUM.size :]))))


def _neighbours(rank: int, seq: int, count: int) -> range:
    last = rank << 64 | seq
    return range(last - count + 1, last + 1)
