"""What a put asks that asks for more than room: whether it repeats another, what it replaces, what makes room. [19]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ..log import Draft
from ..log.index import DEDUP, REPLACE
from ..message import Position, Record, rank_at
from ..options import QueueOptions
from ..system.clock import STABLE, ns_of
from ..waiting import Interrupt
from .catalog import QueueState
from .order import lineup_of
from .seizing import REMOVER
from .steps import ARRIVED, Claim

if TYPE_CHECKING:
    from .putting import Putting

Ranked = list[tuple[int, Draft]]


@attrs.define
class Leaving:
    """What the same commit takes out of a queue besides: so many messages, so many bytes, and what those at these
    positions will be (None: gone).
    """

    count: int = 0
    bytes: int = 0
    fates: dict[Position, str | None] = attrs.field(factory=dict)


_NOBODY_LEAVES = Leaving()


@attrs.define
class _Plan:
    """What an admission has found out under L, before it changes anything. Its drafts are known by their indexes.

    count, size   of the queue, once all is done
    repeats       -> id of the message that it repeats, or -1 - the index of another draft
    stored        those that are stored, in order; dead: those that find no room, and become dead letters
    places        -> index of an earlier draft, in whose place it comes
    waiting       -> key of a waiting message that it replaces; claimed: the claim on the one that it replaces
    gone          ids of the messages that are replaced
    removed       claims on those that are replaced by none of the stored, or make room
    named         (kind, digest) of a dedup_id or replace_key -> the newest draft that has it; uniques: those that have
                  a unique key
    """

    count: int
    size: int
    repeats: dict[int, int] = attrs.field(factory=dict)
    stored: list[int] = attrs.field(factory=list)
    dead: list[int] = attrs.field(factory=list)
    places: dict[int, int] = attrs.field(factory=dict)
    waiting: dict[int, Any] = attrs.field(factory=dict)
    claimed: dict[int, Claim] = attrs.field(factory=dict)
    gone: set[int] = attrs.field(factory=set)
    removed: list[Claim] = attrs.field(factory=list)
    named: dict[tuple[str, bytes], int] = attrs.field(factory=dict)
    uniques: dict[bytes, list[int]] = attrs.field(factory=dict)
    footprint: int = 0


class Admission:
    """One put that asks for more than room: tried until it is stored or refused.

    What is to be removed for it is claimed first, like by a consumer and without blame, so
    that nobody else has it [19]; then one commit of the log removes it and stores the new ones.
    """

    def __init__(self, engine: Putting, queue: QueueState, ranked: Ranked) -> None:
        self._engine = engine
        self._queue = queue
        self._ranked = ranked
        self._records = [engine.log.record_of(draft) for _, draft in ranked]
        self._wanted: list[int] = []  # positions of messages that are to be replaced
        self._to_drop = 0
        self._seized: dict[int, Claim] = {}  # by position
        self._droppable: list[Claim] = []
        self._droppable_left: list[Claim] = []  # those that the plan has not looked at
        self._plan = _Plan(0, 0)
        self._options = queue.options
        self._leaving = _NOBODY_LEAVES
        self.held: list[Claim] = []

    @property
    def queue(self) -> QueueState:
        """The one that it puts into."""
        return self._queue

    @property
    def size(self) -> int:
        """Bytes that the plan needs in the log."""
        return self._plan.footprint

    @property
    def wants_more(self) -> bool:
        """Whether the plan failed only because there is something to claim first."""
        return bool(self._wanted or self._to_drop)

    def claim_more(self, interrupt: Interrupt) -> bool:
        """Claim what is to be removed. False where nothing can be that nobody holds."""
        if not self._wanted:
            return self._claim_oldest(interrupt)
        new: list[Claim] = []
        try:
            self._engine.seize(self._queue, self._wanted, new, blank=True)
        finally:
            self.held.extend(new)
        self._seized |= {claim.position: claim for claim in new}
        return True

    def want_nothing(self) -> None:
        """What an earlier plan asked for is not wanted any more."""
        self._wanted, self._to_drop = [], 0

    def let_go(self) -> None:
        """Give back what is held, since there is no room."""
        self.want_nothing()
        self._engine.release_all(self.held, quietly=True)  # else it would ring itself
        self._seized, self._droppable, self.held = {}, [], []

    def _claim_oldest(self, interrupt: Interrupt) -> bool:
        """More messages to drop. False where there is none that nobody holds."""
        new: list[Claim] = []
        try:
            self._engine.receive(self._queue, self._to_drop, 0, interrupt, new, started=0, entry=REMOVER)
        finally:
            self.held.extend(new)
        self._droppable.extend(new)
        self._seized |= {claim.position: claim for claim in new}
        return bool(new)

    # ------------------------------------------------------------------ under L
    def plan(self, txn: Any, leaving: Leaving = _NOBODY_LEAVES) -> bool:
        """Whether it can be stored now, with nothing changed yet. Raises ShutDown."""
        self.want_nothing()
        self._leaving = leaving
        engine, queue = self._engine, self._queue
        engine.check_open(queue)
        self._options = engine.catalog.options(queue, txn)
        counters = txn.counters(queue.id)
        self._droppable_left = list(self._droppable)
        self._plan = plan = _Plan(counters.total - leaving.count, counters.bytes - leaving.bytes)
        for index, record in enumerate(self._records):
            known = self._repeated(txn, plan, record) if record.terms is not None else None
            if known is None:
                self._plan_one(txn, plan, index, record)
            else:
                plan.repeats[index] = known
            if self._to_drop:
                return False  # first that: what comes later may have been meant to replace it
        if self._wanted or self._to_drop:
            return False
        # what repeats another needs no room
        return (
            not plan.stored
            or self._options.overflow == "dead_letter"
            or self._fits(self._options, plan.count, plan.size)
        )

    def _repeated(self, txn: Any, plan: _Plan, record: Record) -> int | None:
        """The id of what was put before under the same dedup_id, or is there under the same unique key, or -1 - the
        index of an earlier draft; None where there is none.
        """
        engine, queue, terms, marks = self._engine, self._queue.id, record.terms, record.marks
        assert terms is not None
        if terms.dedup is not None:
            entry = txn.entry(DEDUP, queue, (terms.dedup,))
            if entry is not None and entry[1] > engine.timeline.now_ns(STABLE):
                return int(entry[0])
            earlier = plan.named.get(("dedup", terms.dedup))
            if earlier is not None:
                return -1 - earlier
        if terms.unique_states:
            assert marks is not None
            assert marks.unique is not None
            for number, state in engine.storing_states(txn, queue, marks.unique, self._seized, self._leaving):
                if state in terms.unique_states and number not in plan.gone:
                    return number
            for earlier in plan.uniques.get(marks.unique, ()):
                if earlier not in plan.repeats and self._state_of(plan, earlier) in terms.unique_states:
                    return -1 - earlier
        return None

    def _state_of(self, plan: _Plan, index: int) -> str:
        if index in plan.dead:
            return "dead"
        return "ready" if self._ranked[index][1].due is None else "delayed"

    def _plan_one(self, txn: Any, plan: _Plan, index: int, record: Record) -> None:
        """Store it, in the place of what it replaces; or, where there is no room and that is the policy, among the
        dead.
        """
        log, draft, marks = self._engine.log, self._ranked[index][1], record.marks
        replace = None if marks is None else marks.replace
        earlier = None if replace is None else plan.named.get(("replace", replace))
        count, size = plan.count + 1, plan.size + log.stored_bytes(draft)
        if earlier is not None:
            count, size = count - 1, size - log.stored_bytes(self._ranked[earlier][1])
        elif replace is not None:
            weight = self._find_replaced(txn, plan, index, replace)
            count, size = count - (weight is not None), size - (weight or 0)
        plan.footprint += log.footprint(draft)
        if self._options.overflow == "dead_letter" and not self._fits(self._options, count, size):
            plan.dead.append(index)  # and what it was to replace stays
            plan.waiting.pop(index, None)
            plan.claimed.pop(index, None)
        else:
            plan.count, plan.size = count, size
            if earlier is not None:
                self._supersede(plan, earlier, index)
            plan.gone |= {claim.record.id for claim in (plan.claimed.get(index),) if claim is not None}
            plan.stored.append(index)
            if replace is not None:
                plan.named["replace", replace] = index
            if self._options.overflow == "drop_oldest":
                self._make_room(txn, plan)
        if record.terms is not None and record.terms.dedup is not None:
            plan.named["dedup", record.terms.dedup] = index
        if marks is not None and marks.unique is not None:
            plan.uniques.setdefault(marks.unique, []).append(index)

    def _supersede(self, plan: _Plan, earlier: int, index: int) -> None:
        """Of two with one replace_key in this very put, the newer one stays: in the place of the older one, if both
        line up at the same priority.
        """
        plan.stored.remove(earlier)
        plan.repeats[earlier] = -1 - index
        if earlier in plan.waiting:
            plan.waiting[index] = plan.waiting.pop(earlier)
        claim = plan.claimed.pop(earlier, None)
        if claim is not None and self._is_in_place(earlier, claim):
            plan.claimed[index] = claim
        elif claim is not None:
            plan.removed.append(claim)
        (rank, draft), (old_rank, old) = self._ranked[index], self._ranked[earlier]
        if rank == old_rank and draft.due is old.due is None:
            plan.places[index] = plan.places.pop(earlier, earlier)

    def _is_in_place(self, index: int, claim: Claim) -> bool:
        """Whether a draft comes to the very position of what it replaces."""
        rank, draft = self._ranked[index]
        return draft.due is None and rank_at(claim.position, claim.record.marks) == rank

    def _find_replaced(self, txn: Any, plan: _Plan, index: int, replace: bytes) -> int | None:
        """What a message with that replace_key that nobody holds weighs; `_wanted` gets it if it is to be claimed
        first. None where there is none, or somebody works on it: then the new one comes after it.
        """
        log, queue = self._engine.log, self._queue.id
        entry = txn.entry(REPLACE, queue, (replace,))
        place = None if entry is None else txn.place(queue, entry[0])
        if entry is None or place is None or entry[0] in plan.gone:
            return None
        if place.waits:
            plan.waiting[index] = txn.delayed_key(queue, place)
            plan.gone.add(entry[0])
            return log.weight(txn.delayed_at(queue, plan.waiting[index]))
        with self._engine.claims.read() as c:
            row = c.row(queue, place.position)
        claim = self._seized.get(place.position)
        if row is None:
            self._wanted.append(place.position)
        elif claim is not None and claim.row.holder == row.holder and txn.has(queue, place.position):
            plan.claimed[index] = claim
            return log.weight(claim.raw)
        return None

    def _make_room(self, txn: Any, plan: _Plan) -> None:
        """What was there first goes, as far as it is claimed already; `_to_drop` says how much more is to be claimed.
        What this very put stores stays.
        """
        options = self._options
        with self._engine.claims.read() as c:
            while self._droppable_left and not self._fits(options, plan.count, plan.size):
                claim = self._droppable_left.pop(0)
                row = c.row(self._queue.id, claim.position)
                is_held = row is not None and row.holder == claim.row.holder
                if is_held and claim.record.id not in plan.gone and txn.has(self._queue.id, claim.position):
                    plan.removed.append(claim)
                    plan.gone.add(claim.record.id)
                    plan.count, plan.size = plan.count - 1, plan.size - self._engine.log.weight(claim.raw)
        if not self._fits(options, plan.count, plan.size):
            over = plan.count - options.maxsize if options.maxsize else 0
            # by bytes: twice as many each time
            self._to_drop = min(max(1, over, len(self._droppable)), _DROPPED_AT_ONCE)

    @staticmethod
    def _fits(options: QueueOptions, count: int, size: int) -> bool:
        return not (options.maxsize and count > options.maxsize) and not (options.maxbytes and size > options.maxbytes)

    def store(self, txn: Any, seqs: Sequence[int] = ()) -> list[int]:
        """Do as planned; the ids. seqs: those of the bodies that the drafts refer to. The caller has reserved room."""
        engine, queue, options, plan = self._engine, self._queue, self._options, self._plan
        lineup = lineup_of(options, engine.timeline)
        ids: dict[int, int] = {}
        freed: list[tuple[Any, Any]] = []
        for claim in plan.removed:
            engine.remove_claimed(txn, claim)
        for key in plan.waiting.values():
            freed.append((key, txn.undelay(queue.id, key)))
        arrived = False
        for record, number in zip(self._records, seqs, strict=False):
            record.id = number
        for index in sorted(plan.stored, key=lambda each: plan.places.get(each, each)):
            rank, draft = self._ranked[index]
            number = seqs[index] if seqs else 0
            seq = seqs[plan.places.get(index, index)] if seqs else 0
            claim_or_none = plan.claimed.get(index)
            arrived = arrived or draft.due is None
            if claim_or_none is not None and self._is_in_place(index, claim_or_none):
                claim_or_none.row = claim_or_none.row._replace(failures=0, acquired=0)  # that was the old one's
                ids[index] = txn.replace(queue.id, claim_or_none.position, draft, number)  # its row is given back later
                continue
            if claim_or_none is not None:
                engine.remove_claimed(txn, claim_or_none)
            if draft.due is None:
                ids[index] = txn.append(queue.id, rank, draft, number, lineup, seq)
            else:
                ids[index] = engine.delay(txn, queue.id, rank, draft, number)
        for index in plan.dead:
            rank, draft = self._ranked[index]
            record = self._records[index]
            ids[index] = engine.lay_out(txn, queue, rank, record, "overflow", None, None, 0, has_room=True)
        for key, raw in freed:
            engine.let_go_on(txn, queue.id, key, raw)
        self._remember(txn, options, ids)
        engine.note_expiry(txn, queue.id, self._records)
        if arrived:
            txn.notes.append((ARRIVED, queue.id))
        return [self._id(plan, ids, index) for index in range(len(self._ranked))]

    @staticmethod
    def _id(plan: _Plan, ids: dict[int, int], index: int) -> int:
        """Of a draft, or of the message that it repeats (or, within one put, of the one that replaced it)."""
        while index in plan.repeats:
            known = plan.repeats[index]
            if known >= 0:
                return known
            index = -1 - known
        return ids[index]

    def _remember(self, txn: Any, options: QueueOptions, ids: dict[int, int]) -> None:
        now_ns = self._engine.timeline.now_ns(STABLE)
        until_ns = now_ns + ns_of(options.dedup_window)
        for index, number in ids.items():
            terms = self._records[index].terms
            if terms is not None and terms.dedup is not None:
                txn.remember_id(self._queue.id, terms.dedup, number, now_ns, until_ns)


#: What is claimed at once to be dropped.
_DROPPED_AT_ONCE = 256
