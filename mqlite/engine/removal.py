"""What leaves a queue without having been worked on: purged, or redriven from the dead letters. [19]

Each message is claimed first, like by a consumer and without blame, so that nobody else
has it meanwhile; then the log changes, and the claim goes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from ..claims import Claims
from ..errors import Full
from ..log.index import PLACE
from ..system.clock import LINES
from ..waiting import Interrupt
from .catalog import QueueState
from .order import marks_again
from .seizing import REMOVER
from .steps import ARRIVED, CHANGED, GONE, Claim

if TYPE_CHECKING:
    from .machine import Engine

AT_ONCE = 256


def purge(engine: Engine, queue: QueueState, interrupt: Interrupt) -> int:
    """Remove all messages that nobody holds, those that wait for their time too; how many. In commits of AT_ONCE.

    What is put meanwhile stays, as after an instant removal: so it ends under a steady producer, and nobody loses what
    it had no room for before. What is claimed of it, of a higher priority perhaps, is given back at the end.
    """
    _ = engine.presence.owner
    engine.log.fold()
    with engine.log.read() as snapshot:
        last, counters = snapshot.last_seq(), snapshot.counters(queue.id)

    def drop_delayed(txn: Any) -> int:
        waiting = (
            (key, raw)
            for line in LINES
            for key, _, raw in txn.delayed(queue.id, line)
            if engine.log.number_of(raw) <= last and not engine.log.is_schedule(raw)
        )
        leaving = list(islice(waiting, AT_ONCE))
        for key, raw in leaving:
            txn.undelay(queue.id, key)
            engine.let_go_on(txn, queue.id, key, raw)
        if leaving:
            txn.notes.append((CHANGED, queue.id))
        return len(leaving)

    removed = 0
    while count := engine.log.write(drop_delayed):
        removed += count
    claims: list[Claim] = []
    kept: list[Claim] = []
    try:
        while removed < counters.total or counters.feeds:
            claim_some(engine, queue, interrupt, claims)
            if not claims:
                break
            kept += (claim for claim in claims if claim.record.id > last)
            claims[:] = (claim for claim in claims if claim.record.id <= last)
            if claims:
                engine.ack(claims)
            removed += len(claims)
            claims.clear()
    finally:
        engine.release_all(claims + kept)
    return removed


def claim_some(
    engine: Engine, queue: QueueState, interrupt: Interrupt, into: list[Claim], count: int = AT_ONCE
) -> None:
    """Up to `count` claims on what is ready, not yet handed to anybody; none where nothing is. into: see `receive`."""
    engine.receive(queue, count, 0, interrupt, into, started=0, entry=REMOVER)


def drop_unique(txn: Any, claims: Claims, queue: int, key: bytes) -> None:
    """Under L: remove the messages with that unique key that nobody holds. Who is about to claim one finds his claim
    lost, as in [27].
    """
    gone = []
    for number in list(txn.uniques(queue, key)):
        place = txn.place(queue, number)
        if place is None:
            continue
        if place.waits:
            txn.undelay(queue, txn.delayed_key(queue, place))
            continue
        with claims.read() as c:
            row = c.row(queue, place.position)
        if row is None:
            txn.pull(queue, place.position)
            gone.append(place.position)
    if gone:
        txn.notes.append((GONE, queue, gone))
    txn.notes.append((CHANGED, queue))


def redrive(engine: Engine, queue: QueueState, claims: list[Claim], delays: list[float]) -> None:
    """Move these dead letters back to where they come from, in one commit: at the end of the line, as if new, with
    their id; each after a delay in seconds. Raises Full, LeaseLost; then nothing was moved.
    """

    def op(txn: Any) -> None:
        options = engine.catalog.options(queue, txn)
        engine.check_claims(txn, claims)
        drafts = []
        for claim, delay in zip(claims, delays, strict=True):
            extras = {name: value for name, value in (claim.record.extras or {}).items() if name != "death"}
            fresh = attrs.evolve(
                claim.record,
                delivery_count=0,
                acquired_count=0,
                extras=extras or None,
                marks=marks_again(queue, claim.position >> 64, claim.record, engine.timeline),
                due=engine.timeline.after(delay),
            )
            drafts.append(engine.log.prepare(fresh))
        counters = txn.counters(queue.id)
        size = counters.bytes + sum(engine.log.stored_bytes(draft) for draft in drafts)
        if 0 < options.maxsize < counters.total + len(claims) or 0 < options.maxbytes < size:
            raise Full(
                f"queue {queue.name!r} has no room for {len(claims)} messages (maxsize={options.maxsize}, "
                f"maxbytes={options.maxbytes})"
            )
        txn.reserve(sum(engine.log.footprint(draft) for draft in drafts))
        for claim, draft in zip(claims, drafts, strict=True):
            engine.remove_claimed(txn, claim)
            rank = claim.position >> 64
            is_taken = txn.entry(PLACE, queue.id, (claim.record.id,)) is not None  # it was replayed meanwhile
            number = 0 if is_taken else claim.record.id
            if draft.due is None:
                engine.append(txn, queue, rank, draft, number)
            else:
                engine.delay(txn, queue.id, rank, draft, number)
        engine.note_expiry(txn, queue.id, map(engine.log.record_of, drafts))
        txn.notes.append((ARRIVED, queue.id))

    engine.log.write(op)
