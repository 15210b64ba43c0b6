"""What is in the front, on its way to claims and tree."""

from __future__ import annotations

import mmap
from typing import NamedTuple

import attrs

from ..message import Position
from .front_file import (
    BRIEF,
    BROUGHT_HERE,
    CLAIMED,
    CRC,
    DONE,
    KEY,
    KEY_AT,
    READY,
    TERMS,
    TERMS_AT,
    VALUE_AT,
    record_bytes,
)


class Held(NamedTuple):
    """A claim that was made here: what its row will be."""

    queue: int
    position: Position
    token: int
    owner: int
    deadline_ns: int
    flags: int


@attrs.define(eq=False)
class Share:
    """What a fold brings to one queue. keys, values: to be stored; put, removed: how many, bytes, sum of the checksums;
    gone: places of messages of the tree that were settled here.
    """

    keys: list[bytes] = attrs.field(factory=list)
    values: list[bytes] = attrs.field(factory=list)
    put: list[int] = attrs.field(factory=lambda: [0, 0, 0])
    removed: list[int] = attrs.field(factory=lambda: [0, 0, 0])
    gone: list[Position] = attrs.field(factory=list)


@attrs.define(eq=False)
class Contents:
    """All that is in the front. held: claims; passed: the last place of each queue and rank that was claimed; tasks:
    per queue and owner.
    """

    shares: dict[int, Share] = attrs.field(factory=dict)
    held: list[Held] = attrs.field(factory=list)
    passed: dict[tuple[int, int], Position] = attrs.field(factory=dict)
    tasks: dict[tuple[int, int], int] = attrs.field(factory=dict)
    count: int = 0
    last_seq: int = 0


def add(contents: Contents, area: mmap.mmap, at: int, task_flag: int) -> int:
    """A record, to what is to be folded; where the next one is. task_flag: of a claim that counts as a task."""
    _, size, state, flags = BRIEF.unpack_from(area, at)
    queue, rank, seq = KEY.unpack_from(area, at + KEY_AT)
    share = contents.shares.get(queue)
    if share is None:
        share = contents.shares[queue] = Share()
    contents.count += 1
    value_at = at + VALUE_AT
    if not flags & BROUGHT_HERE:
        (crc,) = CRC.unpack_from(area, value_at)
        put = share.put
        put[0] += 1
        put[1] += size
        put[2] += crc
        if state == DONE:
            gone = share.removed
            gone[0] += 1
            gone[1] += size
            gone[2] += crc
        else:
            share.keys.append(area[at + KEY_AT : value_at])
            share.values.append(area[value_at : value_at + size])
    elif state == DONE:
        share.gone.append(rank << 64 | seq)
    if state != READY:
        position = rank << 64 | seq
        if position > contents.passed.get((queue, rank), -1):
            contents.passed[queue, rank] = position
        token, owner, deadline_ns = TERMS.unpack_from(area, at + TERMS_AT)
        if state == CLAIMED:
            contents.held.append(Held(queue, position, token, owner, deadline_ns, flags & ~BROUGHT_HERE))
        elif flags & task_flag:
            contents.tasks[queue, owner] = contents.tasks.get((queue, owner), 0) + 1
    return at + record_bytes(size)
