"""A consumer that has a queue for itself: exclusive, or active while others wait for their turn (failover).

Its seat lies among the claims. It goes when the consumer is closed, or when its process dies, and
then everybody who waits looks again.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

from ..errors import QueueLocked
from .catalog import QueueState
from .steps import CHANGED

if TYPE_CHECKING:
    from .claiming import Claiming
    from .machine import Engine

_numbers = itertools.count(1)
_living: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()  # consumers by their numbers


def new_number(consumer: object) -> int:
    """A number for a consumer of this process."""
    number = next(_numbers)
    _living[number] = consumer
    return number


def taken(c: Any, queue: QueueState, owner: int) -> tuple[int, int] | None:
    """The seat of a queue. One that an interrupt kept from reaching its user, or that was never closed, is free."""
    seat: tuple[int, int] | None = c.seat(queue.id)
    if seat is not None and seat[0] == owner and seat[1] not in _living:
        c.set_seat(queue.id, None)
        return None
    return seat


def take(engine: Engine, queue: QueueState, number: int) -> None:
    """The seat is this consumer's. Raises QueueLocked where another one has it."""
    owner = engine.presence.owner
    engine.takeback.notice_changes()

    def op(txn: Any) -> None:
        with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
            c.require(owner)
            if taken(c, queue, owner) is not None:
                raise QueueLocked(
                    f"queue {queue.name!r} belongs to another consumer already: wait until that one is closed, or use "
                    'mode="failover"'
                )
            c.set_seat(queue.id, (owner, number))
        txn.notes.append((CHANGED, queue.id))  # others who wait are refused

    engine.log.hold(op)


def sit(engine: Claiming, queue: QueueState, number: int) -> bool:
    """Whether the seat is this consumer's, now at the latest: it takes one that is free."""
    owner = engine.presence.owner
    with engine.claims.read() as c:
        if c.seat(queue.id) == (owner, number):
            return True
    engine.takeback.notice_changes()
    with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
        c.require(owner)
        seat = taken(c, queue, owner)
        if seat is None:
            c.set_seat(queue.id, (owner, number))
        return seat is None or seat == (owner, number)


def leave(engine: Engine, queue: QueueState, number: int) -> None:
    """The seat is free again, if it was this consumer's."""
    seat = (engine.presence.owner, number)

    def op(txn: Any) -> None:
        with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
            if c.seat(queue.id) == seat:
                c.set_seat(queue.id, None)
                txn.notes.append((CHANGED, queue.id))

    engine.log.hold(op)


def has(engine: Engine, queue: QueueState, number: int) -> bool:
    """Whether the seat is this consumer's."""
    engine.takeback.notice_changes()
    with engine.claims.read() as c:
        return bool(c.seat(queue.id) == (engine.presence.owner, number))
