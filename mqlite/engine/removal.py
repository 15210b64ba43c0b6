"""What leaves a queue without having been worked on: purged, or redriven from the dead letters. [19]

Each message is claimed first, like by a consumer and without blame, so that nobody else
has it meanwhile; then the log changes, and the claim goes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import Full
from ..system.clock import LINES
from ..waiting import Interrupt
from .catalog import QueueState
from .steps import ARRIVED, CHANGED, Claim

if TYPE_CHECKING:
    from .machine import Engine

AT_ONCE = 256


def purge(engine: Engine, queue: QueueState, interrupt: Interrupt) -> int:
    """Remove all messages that nobody holds, those that wait for their time too; how many. In commits of AT_ONCE."""

    def drop_delayed(txn: Any) -> int:
        keys = [key for line in LINES for key, _, _ in islice(txn.delayed(queue.id, line), AT_ONCE)]
        for key in keys:
            txn.undelay(queue.id, key)
        if keys:
            txn.notes.append((CHANGED, queue.id))
        return len(keys)

    removed = 0
    while count := engine.log.write(drop_delayed):
        removed += count
    while claims := claimed(engine, queue, interrupt):
        try:
            engine.ack(claims)
        except BaseException:
            engine.release_all(claims)
            raise
        removed += len(claims)
    return removed


def claimed(engine: Engine, queue: QueueState, interrupt: Interrupt, count: int = AT_ONCE) -> list[Claim]:
    """Up to `count` claims on what is ready, not yet handed to anybody; [] where nothing is."""
    claims: list[Claim] = []
    try:
        engine.receive(queue, count, 0, interrupt, claims, started=0)
    except BaseException:
        engine.release_all(claims)
        raise
    return claims


def redrive(engine: Engine, queue: QueueState, claims: list[Claim]) -> None:
    """Move these dead letters back to where they come from, in one commit: at the end of the line, as if new, with
    their id. Raises Full, LeaseLost; then nothing was moved.
    """

    def op(txn: Any) -> None:
        maxsize = engine.catalog.options(queue, txn).maxsize
        if maxsize and txn.counters(queue.id).total + len(claims) > maxsize:
            raise Full(f"queue {queue.name!r} has no room for {len(claims)} messages (its maxsize is {maxsize})")
        engine.check_claims(txn, claims)
        drafts = []
        for claim in claims:
            extras = {name: value for name, value in (claim.record.extras or {}).items() if name != "death"}
            fresh = attrs.evolve(claim.record, delivery_count=0, acquired_count=0, extras=extras or None)
            drafts.append(engine.log.prepare(fresh))
        txn.reserve(sum(engine.log.footprint(draft) for draft in drafts))
        for claim, draft in zip(claims, drafts, strict=True):
            txn.append(queue.id, claim.position >> 64, draft, claim.record.id)
            engine.remove_claimed(txn, claim)
        txn.notes.append((ARRIVED, queue.id))

    engine.log.write(op)
