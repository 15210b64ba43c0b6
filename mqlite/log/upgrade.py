"""A log of an earlier format becomes one of this format, when it is opened.

Format 1 -> 2: messages whose place does not follow from their id get an entry of the index that
tells it. Done some at a time, and again from the start after a crash: what has its entry is passed
over. Since format 2 nothing changes but the number, which is always changed last.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import MessageCorrupted
from ..system.clock import LINES
from . import DEAD_BIT
from . import format as fmt
from .index import PLACE, Place, follows, in_line

if TYPE_CHECKING:
    from .lmdb import LmdbLog

_AT_ONCE = 512


def upgrade(log: LmdbLog, stored_format: int) -> None:
    """The caller is alone with the log. Raises StoreFull; then it can be tried again. Cost: from format 1, a walk over
    all.
    """
    if stored_format < 2:
        _enter_places(log)
    log.write(lambda txn: txn.set_format())


def _enter_places(log: LmdbLog) -> None:
    with log.read() as snapshot:
        queues = [number for each in snapshot.definitions() for number in (each.id, each.id | DEAD_BIT)]
    for queue in queues:
        while log.write(lambda txn, queue=queue: _enter_some(txn, queue)):  # type: ignore[misc]
            pass


def _enter_some(txn: Any, queue: int) -> int:
    """Under L: make some of the entries that are missing; how many."""
    moved = (
        (fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position), in_line(position), raw)
        for position, raw in txn.scan(queue)
        if not follows(position, fmt.id_of(raw))
    )
    waiting = (
        (key, Place(1, *fmt.delayed_parts(key)), raw) for line in LINES for key, _, raw in txn.delayed(queue, line)
    )
    count = 0
    for found in (moved, waiting):
        missing = (each for each in found if not fmt.flags_of(each[2]) & fmt.PLACED)
        for key, place, raw in list(islice(missing, _AT_ONCE)):
            txn.reserve(len(raw) + fmt.OVERHEAD_BYTES)
            count += _enter(txn, queue, key, place, raw)
    return count


def _enter(txn: Any, queue: int, key: bytes, place: Place, raw: bytes) -> int:
    try:
        record = fmt.decoded(key, raw)
    except MessageCorrupted:
        return 0  # found out when it is claimed
    txn.enter(PLACE, queue, (record.id,), place)
    txn.put_raw(key, fmt.sealed(fmt.draft_of(record), key, fmt.PLACED))
    return 1
