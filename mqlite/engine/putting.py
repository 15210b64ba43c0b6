"""How a message comes in: what it asks first, the room it needs, and what makes room for it. [7] [17]"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import attrs

from ..claims import Kind, Shut
from ..errors import MessageTooLarge, ShutDown
from ..log import DEAD_BIT, Draft
from ..log.index import DEDUP, REPLACE
from ..message import Position, rank_at
from ..options import QueueOptions
from ..system.clock import STABLE
from ..waiting import Interrupt, Seat
from .catalog import QueueState
from .claiming import REMOVER, Claiming
from .order import lineup_of
from .parts import ns_of
from .steps import ARRIVED, Claim
from .tasks import shut_mode

Ranked = list[tuple[int, Draft]]
T = TypeVar("T")


class Putting(Claiming):
    """The transition from nothing to `ready` or `delayed`. Free for any thread."""

    def put(self, queue: QueueState, ranked: Ranked, timeout: float | None, interrupt: Interrupt) -> list[int] | None:
        """Store all (rank, draft) in one commit, or nothing; their ids, or those of the messages they repeat.

        Waits for room up to `timeout` seconds (None: for ever); None when there was
        none. Raises ShutDown, StoreFull.
        """
        _ = self.presence.owner
        if queue.asks_of_puts or any(draft.asks for _, draft in ranked):
            return self._put_with_policies(queue, ranked, timeout, interrupt)
        size = sum(self.log.footprint(draft) for _, draft in ranked)
        marked = [record for record in (self.log.record_of(draft) for _, draft in ranked) if record.marks is not None]
        some_now = ranked[0][1].due is None or any(draft.due is None for _, draft in ranked)

        def op(txn: Any) -> list[int] | None:
            self.check_open(queue)
            counters = txn.counters(queue.id)
            options = self.catalog.options(queue, txn)
            if queue.asks_of_puts:
                return _ASKED  # since a moment ago
            if options.maxsize and counters.total + len(ranked) > options.maxsize:
                return None
            txn.reserve(size)
            lineup = None if queue.has_cursors else lineup_of(options, self.timeline)
            ids = [
                txn.append(queue.id, rank, draft, 0, lineup)
                if draft.due is None
                else self.delay(txn, queue.id, rank, draft)
                for rank, draft in ranked
            ]
            if some_now:
                txn.notes.append((ARRIVED, queue.id))
            if marked:
                self.note_expiry(txn, queue.id, marked)
            return ids

        ids = self.log.write(op)
        if ids is None and self.schedule.care(queue.id)[1]:  # what had expired made room
            ids = self.log.write(op)
        if ids is None and timeout != 0:
            ids = self.waiters.wait(queue.id, Kind.SPACE, lambda seat: self.log.write(op), timeout, interrupt)
        if ids is _ASKED:
            return self._put_with_policies(queue, ranked, timeout, interrupt)
        return ids

    def _put_with_policies(
        self, queue: QueueState, ranked: Ranked, timeout: float | None, interrupt: Interrupt
    ) -> list[int] | None:
        admission = Admission(self, queue, ranked)

        def op(txn: Any) -> list[int] | None:
            if not admission.plan(txn):
                return None
            txn.reserve(admission.size)
            return admission.store(txn)

        def attempt(seat: Seat) -> list[int] | None:
            ids = self.admit([admission], op, interrupt)
            return _REFUSED if ids is None and queue.options.overflow != "block" else ids

        if queue.options.overflow in ("drop_oldest", "dead_letter"):
            self.schedule.care(queue.id)  # what has expired makes room before anything else does
        try:  # a message that another one took the place of is given back at the end
            ids = self.admit([admission], op, interrupt)
            if ids is None and queue.options.maxsize + queue.options.maxbytes and self.schedule.care(queue.id)[1]:
                ids = self.admit([admission], op, interrupt)  # what had expired made room
            if ids is not None or timeout == 0 or queue.options.overflow != "block":
                return ids
            ids = self.waiters.wait(queue.id, Kind.SPACE, attempt, timeout, interrupt)
            return None if ids is _REFUSED else ids
        finally:
            self.end_admissions([admission])

    def admit(self, admissions: list[Admission], op: Callable[[Any], T | None], interrupt: Interrupt) -> T | None:
        """Run an op that plans and stores these, claiming in between what they are to remove, until it gives
        something. None where there is no room; then nothing is held.
        """
        while True:
            result = self.log.write(op)
            if result is not None:
                return result
            asking = [admission for admission in admissions if admission.wants_more]
            if not asking or not all(admission.claim_more(interrupt) for admission in asking):
                for admission in admissions:
                    admission.let_go()
                return None

    def end_admissions(self, admissions: Iterable[Admission]) -> None:
        """What they hold and have not removed goes back."""
        held = [claim for admission in admissions for claim in admission.held]
        try:
            self.release_all(held)  # what was removed is held no more, and passed over
        except BaseException:  # an interrupt: nobody would do it later
            self.release_all(held)
            raise

    def check_can_fit(self, queue: QueueState, drafts: Sequence[Draft]) -> None:
        """Raises MessageTooLarge, ValueError where the queue would have no room for all of these if it were empty."""
        options = queue.options
        if options.overflow == "dead_letter" or not (0 < options.maxsize < len(drafts) or options.maxbytes):
            return
        size = sum(map(self.log.stored_bytes, drafts))
        if 0 < options.maxbytes < size and len(drafts) == 1:
            raise MessageTooLarge(
                f"a message of {size} bytes can never fit into queue {queue.name!r} with maxbytes={options.maxbytes}: "
                "store it elsewhere and put a reference, or configure(maxbytes=...)"
            )
        if 0 < options.maxsize < len(drafts) or 0 < options.maxbytes < size:
            raise ValueError(
                f"{len(drafts)} messages of {size} bytes can never fit into queue {queue.name!r} with "
                f"maxsize={options.maxsize}, maxbytes={options.maxbytes}: put them in smaller groups"
            )

    def check_all_open(self, queues: Iterable[QueueState]) -> None:
        """As `check_open`, with one look at the claims."""
        unsure = [queue for queue in queues if not self.aftermath.is_calm(queue.id)]
        if unsure:
            with self.claims.read() as c:
                shut = [queue for queue in unsure if c.shut(queue.id) is not Shut.OPEN]
            if shut:
                raise self.shut_for_puts(shut[0])

    def check_open(self, queue: QueueState) -> None:
        """Under L. Raises ShutDown."""
        if not self.aftermath.is_calm(queue.id) and shut_mode(self.claims, queue.id) is not Shut.OPEN:
            raise self.shut_for_puts(queue)

    @staticmethod
    def shut_for_puts(queue: QueueState) -> ShutDown:
        """What a put raises after shutdown."""
        return ShutDown(f"queue {queue.name!r} was shut down: nothing can be put any more")

    def storing_states(
        self, txn: Any, queue: int, key: bytes, seized: dict[int, Claim], leaving: Leaving
    ) -> Iterator[tuple[int, str]]:
        """Under L: (id, "delayed" | "ready" | "claimed" | "dead") of the messages with a unique key. seized: what the
        put itself has claimed, which is as good as ready.
        """
        with self.claims.read() as c:
            for number in txn.uniques(queue, key):
                place = txn.place(queue, number)
                if place is not None and not place.waits and place.position in leaving.fates:
                    fate = leaving.fates[place.position]
                    if fate is not None:
                        yield number, fate
                elif place is not None:
                    row = None if place.waits else c.row(queue, place.position)
                    claim = seized.get(place.position)
                    claimed = row is not None and (claim is None or claim.row.holder != row.holder)
                    yield number, "delayed" if place.waits else "claimed" if claimed else "ready"
        for number in txn.uniques(queue | DEAD_BIT, key):
            yield number, "dead"


_ASKED: list[int] = []
_REFUSED: list[int] = []


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
    """What an admission has found out under L, before it changes anything."""

    repeats: dict[int, int] = attrs.field(factory=dict)  # index of a draft -> id of the message that it repeats, or
    # -1 - the index of the draft
    stored: list[int] = attrs.field(factory=list)  # indexes of the drafts that are stored
    dead: list[int] = attrs.field(factory=list)  # of those that find no room, and become dead letters
    waiting: dict[int, Any] = attrs.field(factory=dict)  # index of a draft -> key of a waiting message it replaces
    claimed: dict[int, Claim] = attrs.field(factory=dict)  # index of a draft -> the claim on the one it replaces
    dropped: list[Claim] = attrs.field(factory=list)
    size: int = 0


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
        self._plan = _Plan()
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
        return self._plan.size

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
        self._plan = plan = _Plan()
        self._find_repeats(txn, plan)
        self._find_replaced(txn, plan)
        return not self._wanted and self._find_room(txn, self._options, plan)

    def _find_repeats(self, txn: Any, plan: _Plan) -> None:
        """What was put before under the same dedup_id, or is there under the same unique key."""
        queue = self._queue.id
        now_ns = self._engine.timeline.now_ns(STABLE)
        seen: dict[tuple[str, bytes], int] = {}
        for index, record in enumerate(self._records):
            known = None
            names = []
            terms, marks = record.terms, record.marks
            if terms is not None and terms.dedup is not None:
                names.append(("dedup", terms.dedup))
                entry = txn.entry(DEDUP, queue, (terms.dedup,))
                if entry is not None and entry[1] > now_ns:
                    known = entry[0]
            if known is None and terms is not None and terms.unique_states:
                assert marks is not None
                assert marks.unique is not None
                names.append(("unique", marks.unique))
                found = self._engine.storing_states(txn, queue, marks.unique, self._seized, self._leaving)
                known = next((number for number, state in found if state in terms.unique_states), None)
            if known is None:  # perhaps an earlier one of this very put
                known = next((-1 - seen[name] for name in names if name in seen), None)
            if known is None:
                plan.stored.append(index)
                seen |= dict.fromkeys(names, index)
            else:
                plan.repeats[index] = known

    def _find_replaced(self, txn: Any, plan: _Plan) -> None:
        """Messages with the same replace_key that nobody holds; `_wanted` gets those that are to be claimed first."""
        queue = self._queue.id
        newest: dict[bytes, int] = {}
        for index in plan.stored:
            marks = self._records[index].marks
            if marks is None or marks.replace is None:
                continue
            if marks.replace in newest:  # of two in this very put, the newer one stays
                plan.repeats[newest[marks.replace]] = -1 - index
            newest[marks.replace] = index
            entry = txn.entry(REPLACE, queue, (marks.replace,))
            place = None if entry is None else txn.place(queue, entry[0])
            if place is None:
                continue
            if place.waits:
                plan.waiting[index] = txn.delayed_key(queue, place)
                continue
            with self._engine.claims.read() as c:
                row = c.row(queue, place.position)
            claim = self._seized.get(place.position)
            if row is None:
                self._wanted.append(place.position)
            elif claim is not None and claim.row.holder == row.holder and txn.has(queue, place.position):
                plan.claimed[index] = claim
            # else somebody works on it: this one comes after it
        for older in plan.repeats:
            plan.waiting.pop(older, None)
            plan.claimed.pop(older, None)
        plan.stored = [index for index in plan.stored if index not in plan.repeats]

    def _find_room(self, txn: Any, options: QueueOptions, plan: _Plan) -> bool:
        """Whether there is room, perhaps for part of it; `_to_drop` says how many more are to be dropped for it."""
        log, queue = self._engine.log, self._queue.id
        counters = txn.counters(queue)
        count, size = counters.total - self._leaving.count, counters.bytes - self._leaving.bytes
        for key in plan.waiting.values():
            count, size = count - 1, size - log.weight(txn.delayed_at(queue, key))
        for claim in plan.claimed.values():
            count, size = count - 1, size - log.weight(claim.raw)
        drafts = [(index, self._ranked[index][1]) for index in plan.stored]
        plan.size = sum(log.footprint(draft) for _, draft in drafts)
        if options.overflow == "dead_letter":
            plan.stored = []
            for index, draft in drafts:
                more = log.stored_bytes(draft)
                if self._fits(options, count + 1, size + more):
                    plan.stored.append(index)
                    count, size = count + 1, size + more
                else:
                    plan.dead.append(index)
                    plan.waiting.pop(index, None)  # what it was to replace stays
                    plan.claimed.pop(index, None)
            return True
        count += len(drafts)
        size += sum(log.stored_bytes(draft) for _, draft in drafts)
        if not drafts or self._fits(options, count, size):  # what repeats another needs no room
            return True
        if options.overflow == "drop_oldest":
            self._drop(txn, options, plan, count, size)
            return not self._to_drop
        return False

    def _drop(self, txn: Any, options: QueueOptions, plan: _Plan, count: int, size: int) -> None:
        with self._engine.claims.read() as c:
            for claim in self._droppable:
                if claim in plan.claimed.values():
                    continue
                row = c.row(self._queue.id, claim.position)
                if row is None or row.holder != claim.row.holder or not txn.has(self._queue.id, claim.position):
                    continue
                plan.dropped.append(claim)
                count, size = count - 1, size - self._engine.log.weight(claim.raw)
                if self._fits(options, count, size):
                    return
        over = count - options.maxsize if options.maxsize else 0
        self._to_drop = min(max(1, over, len(self._droppable)), _DROPPED_AT_ONCE)  # by bytes: twice as many each time

    @staticmethod
    def _fits(options: QueueOptions, count: int, size: int) -> bool:
        return not (options.maxsize and count > options.maxsize) and not (options.maxbytes and size > options.maxbytes)

    def store(self, txn: Any, seqs: Sequence[int] = ()) -> list[int]:
        """Do as planned; the ids. seqs: those of the bodies that the drafts refer to. The caller has reserved room."""
        engine, queue, options, plan = self._engine, self._queue, self._options, self._plan
        lineup = lineup_of(options, engine.timeline)
        ids: dict[int, int] = {}
        freed: list[tuple[Any, Any]] = []
        for claim in plan.dropped:
            engine.remove_claimed(txn, claim)
        for key in plan.waiting.values():
            freed.append((key, txn.undelay(queue.id, key)))
        arrived = False
        for record, number in zip(self._records, seqs, strict=False):
            record.id = number
        for index in plan.stored:
            rank, draft = self._ranked[index]
            seq = seqs[index] if seqs else 0
            claim_or_none = plan.claimed.get(index)
            arrived = arrived or draft.due is None
            if (
                claim_or_none is not None
                and draft.due is None
                and rank_at(claim_or_none.position, claim_or_none.record.marks) == rank
            ):
                claim_or_none.row = claim_or_none.row._replace(failures=0, acquired=0)  # that was the old one's
                ids[index] = txn.replace(queue.id, claim_or_none.position, draft, seq)  # its row is given back later
                continue
            if claim_or_none is not None:
                engine.remove_claimed(txn, claim_or_none)
            if draft.due is None:
                ids[index] = txn.append(queue.id, rank, draft, 0, lineup, seq)
            else:
                ids[index] = engine.delay(txn, queue.id, rank, draft, seq)
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
