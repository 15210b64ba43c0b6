"""A message is changed by its id, while nobody holds it: cancelled, or given another priority or time. [19]"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import AlreadyClaimed, LeaseLost
from ..log.index import Place
from ..message import Due, Marks, Record, rank_at
from . import replay
from .catalog import QueueState
from .steps import ARRIVED, CHANGED, Claim

if TYPE_CHECKING:
    from .machine import Engine

#: change(txn, rank, record), under L, once the message is out of its place; None: it stays out
Change = Callable[[Any, int, Record], None] | None


@attrs.frozen(kw_only=True)
class Update:
    """What becomes of a message. rank None: as before; due None: ready at once, or as before if `due_stays`."""

    rank: int | None
    due: Due | None
    due_stays: bool
    expires: Due | None


def cancel(engine: Engine, queue: QueueState, number: int) -> bool:
    """Remove a message; False where there is none. Raises AlreadyClaimed. One commit; O(priorities in use)."""
    return _take_out(engine, queue, number, None)


def update(engine: Engine, queue: QueueState, number: int, wanted: Update) -> bool:
    """Move a message to its new place, with its id; False where there is none. Raises AlreadyClaimed, StoreFull."""

    def put_back(txn: Any, rank: int, record: Record) -> None:
        rank = rank if wanted.rank is None else wanted.rank
        marks = record.marks or Marks()
        if wanted.rank is not None:
            marks = marks._replace(order=None)  # it lines up anew in its group; a retry keeps its number otherwise
        if wanted.expires is not None:
            marks = marks._replace(expires=wanted.expires)
        if queue.options.aging is not None:
            marks = marks._replace(rank=rank)
        due = record.due if wanted.due_stays else wanted.due
        draft = engine.log.prepare(attrs.evolve(record, due=due, marks=None if marks == Marks() else marks))
        if due is None:
            engine.append(txn, queue, rank, draft, number)
            txn.notes.append((ARRIVED, queue.id))
        else:
            engine.delay(txn, queue.id, rank, draft, number)
        engine.note_expiry(txn, queue.id, [engine.log.record_of(draft)])

    return _take_out(engine, queue, number, put_back)


def _take_out(engine: Engine, queue: QueueState, number: int, change: Change) -> bool:
    _ = engine.presence.owner
    if number.bit_length() > 64:
        return False  # no id is
    while True:
        engine.log.fold()
        with engine.log.read() as snapshot:
            place = snapshot.place(queue.id, number)
            if place is None:
                ahead = queue.topic and replay.is_ahead(snapshot, queue, number)
            elif place.waits:
                raw = snapshot.delayed_at(queue.id, snapshot.delayed_key(queue.id, place))
                if raw is None or engine.log.is_schedule(raw):
                    return False
        if place is None:
            if not (ahead and replay.top_up(engine, queue)[1]):
                return False
        elif place.waits:
            if engine.log.write(partial(_change_waiting, engine, queue, number, place, change)):
                return True
        elif _change_ready(engine, queue, number, place, change):
            return True


def _change_waiting(engine: Engine, queue: QueueState, number: int, place: Place, change: Change, txn: Any) -> bool:
    """Under L: of a message that waits for its time. False where it has moved meanwhile."""
    key = txn.delayed_key(queue.id, place)
    raw = txn.delayed_at(queue.id, key)
    if raw is None or txn.place(queue.id, number) != place:
        return False
    if change is None:
        txn.undelay(queue.id, key)
        txn.notes.append((CHANGED, queue.id))
    else:
        rank, record = engine.log.decode_delayed(key, raw)  # raises MessageCorrupted
        txn.reserve(engine.log.footprint(engine.log.prepare(record)))
        txn.undelay(queue.id, key)
        change(txn, rank, attrs.evolve(record, due=(place.line, place.due_ns)))
    engine.let_go_on(txn, queue.id, key, raw)
    return True


def _change_ready(engine: Engine, queue: QueueState, number: int, place: Place, change: Change) -> bool:
    """Of a message that is in line. False where it is not there any more."""
    held: list[Claim] = []

    def op(txn: Any) -> bool:
        [claim] = held
        engine.check_claims(txn, held)
        if claim.record.id != number:
            return False  # another one took its place
        if change is None:
            engine.remove_claimed(txn, claim)
            return True
        txn.reserve(engine.log.footprint(engine.log.prepare(claim.record)))
        engine.remove_claimed(txn, claim)
        change(txn, rank_at(claim.position, claim.record.marks), claim.record)
        return True

    try:
        engine.seize(queue, [place.position], held)
        if held:
            try:
                changed = engine.log.write(op)
            except LeaseLost:
                return False
            if changed:
                held.clear()  # its row goes with the commit
            return changed
        engine.log.fold()
        with engine.claims.read() as c, engine.log.read() as snapshot:
            claimed = c.row(queue.id, place.position) is not None
            if claimed and snapshot.id_at(queue.id, place.position) == number:
                raise AlreadyClaimed(
                    f"message {number} of queue {queue.name!r} is claimed: wait until it is settled or given back"
                )
        return False
    finally:
        try:
            engine.release_all(held)
        except BaseException:  # an interrupt: nobody would do it later
            engine.release_all(held)
            raise
