"""The schedules of a queue: templates among its delayed messages, found by their name. schedule.py fires them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..log import Draft
from ..log.index import TIMER
from ..message import Record, digest
from ..recurrence import Recurrence
from .catalog import QueueState
from .steps import CHANGED

if TYPE_CHECKING:
    from .machine import Engine


def put(engine: Engine, queue: QueueState, name: str, rank: int, template: Draft) -> None:
    """Store a template under its name in the place of an older one; the same one again changes nothing. One commit.

    Raises StoreFull.
    """
    new = engine.log.record_of(template)

    def op(txn: Any) -> None:
        found = _find(engine, queue, name, txn)
        if found is not None and _same(found[2], new) and found[1] == rank:
            return
        txn.reserve(engine.log.footprint(template))
        if found is not None:
            txn.undelay(queue.id, found[0])
        engine.delay(txn, queue.id, rank, template)
        txn.notes.append((CHANGED, queue.id))

    _ = engine.presence.owner
    engine.log.write(op)


def remove(engine: Engine, queue: QueueState, name: str) -> bool:
    """Remove the template of that name; whether there was one. One commit."""

    def op(txn: Any) -> bool:
        found = _find(engine, queue, name, txn)
        if found is None:
            return False
        txn.undelay(queue.id, found[0])
        txn.notes.append((CHANGED, queue.id))
        return True

    _ = engine.presence.owner
    return engine.log.write(op)


def found(engine: Engine, queue: QueueState) -> list[tuple[Recurrence, int]]:
    """(rule, when it is due next, in ns of its line) of all schedules of a queue."""
    rules = []
    with engine.log.read() as snapshot:
        for _, (number,) in snapshot.entries(TIMER, queue.id):
            place = snapshot.place(queue.id, number)
            if place is not None:
                key = snapshot.delayed_key(queue.id, place)
                _, record = engine.log.decode_delayed(key, snapshot.delayed_at(queue.id, key))
                assert record.extras is not None
                rules.append((Recurrence.from_json(record.extras["recurrence"]), place.due_ns))
    return rules


def _find(engine: Engine, queue: QueueState, name: str, txn: Any) -> tuple[Any, int, Record] | None:
    entry = txn.entry(TIMER, queue.id, (digest(name),))
    place = None if entry is None else txn.place(queue.id, entry[0])
    if place is None:
        return None
    key = txn.delayed_key(queue.id, place)
    rank, record = engine.log.decode_delayed(key, txn.delayed_at(queue.id, key))
    return key, rank, record


def _same(one: Record, other: Record) -> bool:
    return (one.payload, one.extras, one.marks) == (other.payload, other.extras, other.marks)
