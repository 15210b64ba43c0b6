"""Where a message lines up. Byte order is delivery order, so an order is a way to choose a position.

    first in, first out   rank u32 | seq u64
    last in, first out    rank u32 | inverted seq u64
    ageing                virtual time in us, 72 bits | the lower 24 bits of the seq

Ageing: a message of priority p that is put at t lines up as one of priority 0 that is put at
t - p * aging. The order of two messages never changes while they wait, so nothing has to be moved
as they age. The bound: a message put at t with priority p is overtaken by one of a higher priority
p2 only if that is put before t + (p2 - p) * aging.

In a fair queue the position is that of first in, first out; a claimer asks the groups in turn.
"""

from __future__ import annotations

from ..log import Lineup
from ..log.index import LOW_MASK
from ..message import UNGROUPED, Due, Marks, Position, Record, group_key
from ..options import QueueOptions
from ..system.clock import STABLE, Timeline
from .catalog import QueueState

_SEQ_BITS = 24


def lineup_of(options: QueueOptions, timeline: Timeline) -> Lineup:
    """How new messages line up; None: first in, first out."""
    if options.order == "lifo":
        return _last_in
    if options.aging is not None:
        step_us = round(options.aging * 1e6)

        def by_age(rank: int, seq: int) -> Position:
            virtual_us = timeline.now_ns(STABLE) // 1000 + rank * step_us
            return virtual_us << _SEQ_BITS | seq & (1 << _SEQ_BITS) - 1

        return by_age
    return None


def _last_in(rank: int, seq: int) -> Position:
    return rank << 64 | LOW_MASK - seq


def marks_again(queue: QueueState, rank: int, record: Record, timeline: Timeline) -> Marks | None:
    """The marks of a record that comes into a queue again, from its dead letters."""
    group = (record.extras or {}).get("group")
    unique = None if record.marks is None else record.marks.unique
    marks = marks_in(queue, rank, timeline, group=group, unique=unique)
    return None if marks == Marks() else marks


def marks_in(
    queue: QueueState,
    rank: int,
    timeline: Timeline,
    *,
    group: str | None = None,
    expires: Due | None = None,
    replace: bytes | None = None,
    unique: bytes | None = None,
) -> Marks:
    """The marks that a message has in a queue, as the options of that are. A queue that is last in, first out knows no
    groups.
    """
    options = queue.options
    number = group_key(group) if group is not None and options.order != "lifo" else None
    if number is None and options.fair:
        number = UNGROUPED
    if expires is None and options.ttl is not None:
        expires = timeline.after(options.ttl)
    return Marks(
        group=number,
        expires=expires,
        replace=replace,
        unique=unique,
        rank=rank if options.aging is not None else None,
    )
