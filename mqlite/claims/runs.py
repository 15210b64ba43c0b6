"""Rows that are alike and lie side by side, as one entry.

Whoever claims a hundred messages at once mostly claims neighbours, and settles them at once: one entry is written and
removed for all of them (64 rows made and removed: 33 us one by one, 8 as a run; at 100, 0.5 us of 4.2 that receive and
ack_many take for each message).

    52 R  q | position of the last   token, owner, deadline u64 | flags u8 | failures, acquired u32
                                     (| count u32, or | group u64)

A run covers `count` positions of one rank without a gap; each is a row like any other. The key is the last of them: so
the row of a position, if it has one, is in the first entry whose key is not below it, and "is there a row behind this
position" is one seek, as without runs. When the first of a run goes, the key stays. A run has no group: whose rows are
counted by group are made one by one.

What is taken out of the middle leaves two runs, so giving back may take more entries than there were. Room for them is
kept: what counts against the most that there may be is rows, not entries (`extra`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..message import Position
from . import Row

_ROW = struct.Struct(">QQQBII")
_RUN = struct.Struct(">QQQBIII")
_ROW_IN_GROUP = struct.Struct(">QQQBIIQ")
_COUNT = struct.Struct(">I")
#: The length of the value of a run, which no other row has.
RUN_BYTES = _RUN.size


def packed(row: Row, count: int = 1) -> bytes:
    """The value of so many rows. Those of a group are not packed together."""
    if row.group:
        return _ROW_IN_GROUP.pack(*row)
    return _ROW.pack(*row[:-1]) if count == 1 else _RUN.pack(*row[:-1], count)


def unpacked(value: bytes) -> Row:
    """What all rows of an entry are."""
    if len(value) == _ROW_IN_GROUP.size:
        return Row(*_ROW_IN_GROUP.unpack(value))
    return Row(*_ROW.unpack_from(value))


def count_of(value: bytes) -> int:
    """How many rows an entry is."""
    if len(value) != RUN_BYTES:
        return 1
    count: int = _COUNT.unpack_from(value, _ROW.size)[0]
    return count


def shortened(value: bytes, count: int) -> bytes:
    """The value of an entry for so many of its rows."""
    return value[: _ROW.size] if count == 1 else value[: _ROW.size] + _COUNT.pack(count)


def stretches(positions: Sequence[Position]) -> list[tuple[Position, int]]:
    """(the last, how many) of each run in ascending positions."""
    count = len(positions)
    if positions[-1] - positions[0] == count - 1:  # as most
        return [(positions[-1], count)]
    ends = [n for n in range(count - 1) if positions[n + 1] - positions[n] != 1]
    return [(positions[end], end - before) for before, end in zip([-1, *ends], [*ends, count - 1], strict=True)]


def left_of(last: Position, count: int, gone: Sequence[Position]) -> list[tuple[Position, int]]:
    """(the last, how many) of each run that is left of one when these of its positions go, in ascending order."""
    left = []
    following = last - count + 1
    for position in (*gone, last + 1):
        if position > following:
            left.append((position - 1, position - following))
        following = position + 1
    return left
