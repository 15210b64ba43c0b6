"""How a claim ends: the message is removed, given back, delayed, or moved to the dead letters.

[2] A row is given back or revoked under L, then C.
[3] A row is valid if its token is there and its key is in the log.
[4] A durable move commits the log first, then removes the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import attrs

from ..claims import TASK, Returned
from ..codecs import BYTES
from ..errors import CodecError, LeaseLost, MessageCorrupted, MqliteError
from ..log import Snapshot
from ..log.index import LOW_MASK, PLACE, in_line, order_of
from ..message import Marks, Position, Record, rank_at
from ..options import QueueOptions
from ..system.clock import ns_of
from . import replay
from .catalog import QueueState
from .groups import offer
from .parts import Parts
from .steps import ARRIVED, CHANGED, DAMAGED, DELAYED, EXPIRES, FAILED, SETTLED, SETTLED_ALONE, Claim

#: How a claim ends, as users are told.
ACK, NACK, REJECT = "acknowledged", "given back as failed", "rejected"


#: What a dead letter takes besides its body and the texts.
_DEATH_BYTES = 1024


@attrs.define(eq=False)
class Settlement:
    """How a claim is to end in a commit that does more than that.

    how: ACK, NACK or REJECT; error, trace: texts, of a failure; wait: seconds until it is tried again.
    """

    claim: Claim
    how: str
    error: str | None = None
    trace: str | None = None
    wait: float = 0.0

    @property
    def failures(self) -> int:
        """The failed deliveries, this one included."""
        return self.claim.record.delivery_count + (self.how == NACK)

    @classmethod
    def of_failure(cls, claim: Claim, error: str | None, trace: str | None, delay: float | None) -> Settlement:
        """A nack. delay: as `Settling.nack` has it."""
        failed = cls(claim, NACK, error, trace)
        backoff = claim.queue.options.backoff
        failed.wait = delay if delay is not None else 0.0 if backoff is None else backoff.seconds(failed.failures)
        return failed


class Settling(Parts):
    """The transitions out of `claimed`. Free for any thread; who settles first is decided under L."""

    def check_claims(self, txn: Snapshot, claims: Iterable[Claim]) -> None:
        """Under L: all these claims are valid, or LeaseLost. [3]"""
        self.check_rows(claims)
        by_queue: dict[QueueState, list[Position]] = {}
        for claim in claims:
            by_queue.setdefault(claim.queue, []).append(claim.position)
        if all(not queue.topic and txn.has_all(queue.id, positions) for queue, positions in by_queue.items()):
            return  # as most; one by one they take twice the time
        for claim in claims:
            if not txn.has(claim.queue.id, claim.position):
                raise self._taken_away(txn, claim)
            if claim.queue.topic and self._is_void(txn, claim):
                raise self._lost(claim)

    def holds(self, claim: Claim) -> bool:
        """Whether this process still has it, as far as the claims know."""
        self.log.fold()
        with self.claims.read() as c:
            row = c.row(claim.queue.id, claim.position)
        return row is not None and row.holder == claim.row.holder

    def _is_void(self, txn: Any, claim: Claim) -> bool:
        """Whether a seek was decided meanwhile: what the subscription held is void, even if it is there. [24]"""
        if not txn.topic_numbers(claim.queue.topic).feeds or not self.log.is_reference(claim.raw):
            return False
        return replay.is_void(txn, claim.queue)

    def check_rows(self, claims: Iterable[Claim]) -> None:
        """The rows of `check_claims`. No snapshot where nothing was committed since these were made that may have
        revoked any.
        """
        oldest = min([claim.commit for claim in claims], default=None)
        if oldest is not None and not self.claims.is_undisturbed(oldest):
            with self.claims.read() as c:
                for claim in claims:
                    row = c.row(claim.queue.id, claim.position)
                    if row is None or row.holder != claim.row.holder:
                        raise self._lost(claim)

    def _check_row(self, claim: Claim) -> None:
        """The same of one."""
        if not self.claims.is_undisturbed(claim.commit):
            self.check_rows((claim,))

    @staticmethod
    def _lost(claim: Claim) -> LeaseLost:
        return LeaseLost(
            f"the claim on message {claim.record.id} of queue {claim.queue.name!r} was lost (timed out, or given "
            "back): nothing was changed; another consumer has the message or will get it"
        )

    def _taken_away(self, txn: Any, claim: Claim) -> LeaseLost:
        """Under L: the message is gone, and so goes the row, if a kill left it there. If another operation of the same
        commit removes the message, the row goes after it. [4]
        """
        with self.claims.lock, self.claims.guard, self.claims.write() as c, self.log.read() as snapshot:
            if not snapshot.has(claim.queue.id, claim.position):
                self._drop_row(c, txn, claim)
        return self._lost(claim)

    @staticmethod
    def _drop_row(c: Any, txn: Any, claim: Claim) -> None:
        row = c.row(claim.queue.id, claim.position)
        if row is not None and row.holder == claim.row.holder:
            c.drop(claim.queue.id, claim.position, row.group)
            if row.group:
                offer(c, txn, claim.queue, row.group)

    # ------------------------------------------------------------------ removed
    def ack(self, claims: list[Claim]) -> None:
        """Remove all these messages in one commit, or none. Raises LeaseLost. [10]"""
        first = claims[0]
        if first.at and len(claims) == 1 and self.passing is not None and self.passing.settle(first):
            return
        self._remove(claims)

    def _remove(self, claims: list[Claim]) -> None:
        """The rest of `ack`. Not in it: the functions that are made here would slow down also what the front settles.
        (0.15 us)
        """
        first, passing, removal = claims[0], self.passing, None
        if passing is not None:
            removal = passing.removal_of(claims)
            if removal is not None and passing.remove(claims, removal):
                return
        queue = first.queue
        # of a queue in which messages age, a position may come again while a row is left there
        postponable = self.claims.postpones and not queue.topic and not first.row.group and queue.options.aging is None
        alone = len(claims) == 1 and postponable
        if alone:
            note = (SETTLED_ALONE, first)
            check = partial(self._check_row, first)
            if self.log.remove_alone(queue.id, first.position, first.raw, check, note):
                return

        def op(txn: Any) -> None:
            if queue.topic or {claim.queue for claim in claims} != {queue}:
                self.check_claims(txn, claims)
                for claim in claims:
                    txn.remove(claim.queue.id, claim.position)
            else:
                self.check_rows(claims)
                if len(claims) == 1:
                    if txn.remove(queue.id, claims[0].position) is None:
                        raise self._taken_away(txn, claims[0])
                elif not txn.remove_all(queue.id, [claim.position for claim in claims]):
                    raise self._taken_away(txn, next(each for each in claims if not txn.has(queue.id, each.position)))
            if alone:
                txn.note_settled_alone()
                txn.notes.append((SETTLED_ALONE, first))
            else:
                if removal is not None:
                    txn.note_plain()
                txn.notes.append((SETTLED, claims[:]))

        self.log.write(op)

    @staticmethod
    def remove_claimed(txn: Any, claim: Claim) -> None:
        """Under L: the message goes now, its row after the commit."""
        txn.remove(claim.queue.id, claim.position)
        txn.notes.append((SETTLED, [claim]))

    # ------------------------------------------------------------------ given back
    def nack(self, claim: Claim, error: str | None, trace: str | None, delay: float | None) -> None:
        """A failure: back to its place, or dead after max_deliveries. Raises LeaseLost, StoreFull. [11] [12]

        delay: seconds until it lines up again; None: as the queue's backoff says.
        """
        failed = Settlement.of_failure(claim, error, trace, delay)

        def give_back(txn: Any) -> bool:
            self.check_claims(txn, [claim])
            if self._is_last(txn, failed):
                return False
            self._give_back(txn, [claim], 1)
            return True

        def move(txn: Any) -> None:
            self.check_claims(txn, [claim])
            self._fail(txn, failed)

        if failed.wait or not self.log.hold(give_back):
            self.log.write(move)

    def _is_last(self, txn: Any, failed: Settlement) -> bool:
        """Under L: whether the message is not tried again."""
        most = self.catalog.options(failed.claim.queue, txn).max_deliveries
        return most is not None and failed.failures >= most

    def _fail(self, txn: Any, failed: Settlement, *, has_room: bool = False) -> None:
        """Under L: to the dead letters, or to wait for its time, or, after the commit, back to its place."""
        claim = failed.claim
        if self._is_last(txn, failed):
            self._bury(txn, claim, "max_deliveries", failed.error, failed.trace, failed.failures, has_room=has_room)
            return
        if not failed.wait:
            txn.notes.append((FAILED, claim))
            return
        due = self.timeline.after(failed.wait) or self.timeline.soon()
        marks = claim.record.marks
        if marks is not None and marks.group is not None:  # it keeps its number in its group
            marks = marks._replace(order=order_of(marks, claim.position & LOW_MASK, claim.record.id))
        retried = self.log.prepare(attrs.evolve(claim.record, delivery_count=failed.failures, due=due, marks=marks))
        if not has_room:
            self.reserve_to_move(txn, self.log.footprint(retried))
        rank = rank_at(claim.position, claim.record.marks)
        txn.remove(claim.queue.id, claim.position)
        self.delay(txn, claim.queue.id, rank, retried, claim.record.id)
        self.note_expiry(txn, claim.queue.id, [claim.record])
        txn.notes.append((SETTLED, [claim]))

    # ------------------------------------------------------------------ among other things
    def fate(self, txn: Any, settlement: Settlement) -> str | None:
        """Under L: what a message will be: "ready", "delayed", "dead", or None, gone."""
        queue = settlement.claim.queue
        if settlement.how == ACK:
            return None
        reason = "rejected"
        if settlement.how == NACK:
            if not self._is_last(txn, settlement):
                return "delayed" if settlement.wait else "ready"
            reason = "max_deliveries"
        return "dead" if self._is_kept(queue, reason, self.catalog.options(queue, txn)) else None

    def room_to_move(self, settlement: Settlement) -> int:
        """Bytes that a message takes where it goes, at most."""
        if settlement.how == ACK:
            return 0
        texts = len(settlement.error or "") + len(settlement.trace or "")
        return self.log.weight(settlement.claim.raw) + 6 * texts + _DEATH_BYTES

    def carry_out(self, txn: Any, settlement: Settlement) -> None:
        """Under L, with the claim checked and room reserved."""
        claim = settlement.claim
        if settlement.how == ACK:
            self.remove_claimed(txn, claim)
        elif settlement.how == NACK:
            self._fail(txn, settlement, has_room=True)
        else:
            self._bury(txn, claim, "rejected", settlement.error, None, settlement.failures, has_room=True)

    def give_back_failed(self, claims: list[Claim]) -> None:
        """Back to their places at once, as failed; those that were lost are passed over."""
        self.log.hold(lambda txn: self._give_back(txn, claims, 1))

    def delay(self, txn: Any, queue: int, rank: int, draft: Any, message_id: int = 0) -> int:
        """Under L: store a message that waits for its time; its id."""
        number: int = txn.delay(queue, rank, draft, message_id)
        txn.notes.append((DELAYED, queue, self.timeline.wake_ns(draft.due)))
        return number

    def release_all(self, claims: list[Claim], lost_ok: bool = True, quietly: bool = False) -> None:
        """Give back without blame; claims that were lost are passed over, unless `lost_ok` is False. [11]

        quietly: what has expired found no room to move, and whoever is rung for it would fail, give back and ring, too.
        """

        def op(txn: Any) -> None:
            if not lost_ok:
                self.check_claims(txn, claims)
            self._give_back(txn, claims, 0, quietly)

        if claims:
            self.log.hold(op)

    def _give_back(self, txn: Any, claims: list[Claim], failures: int, quietly: bool = False) -> None:
        """Under L: rows -> returned, one commit of the claims. Lost claims are passed over."""
        queues = {claim.queue.id for claim in claims}
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            freed = []
            for claim in claims:
                queue, position = claim.queue.id, claim.position
                row = c.row(queue, position)
                if not txn.has(queue, position):
                    self._drop_row(c, txn, claim)  # it was taken away
                elif row is not None and row.holder == claim.row.holder:
                    known = claim.row  # with no history where another message took the place
                    c.give_back(queue, position, Returned(known.failures + failures, known.acquired), row.group)
                    if row.group:
                        freed.append((claim.queue, row.group))
            for state, group in freed:
                offer(c, txn, state, group)
        txn.notes.extend((ARRIVED, queue) for queue in queues)
        now_ns = self.clock.monotonic_ns()
        expiring = [queue for queue in queues if not quietly and txn.gauges(queue)[2]]
        txn.notes.extend((EXPIRES, queue, now_ns) for queue in expiring)  # some may have expired

    # ------------------------------------------------------------------ dead
    def bury(self, claim: Claim, reason: str, error: str | None, trace: str | None) -> None:
        """Straight to the dead-letter queue, without counting a failure. Raises LeaseLost. [12]"""

        def op(txn: Any) -> None:
            self.check_claims(txn, [claim])
            self._bury(txn, claim, reason, error, trace, claim.record.delivery_count)

        self.log.write(op)

    def bury_undecodable(self, claim: Claim, error: CodecError) -> None:
        """To the dead-letter queue, as the bytes that were stored."""
        claim.record = attrs.evolve(claim.record, payload=(BYTES, claim.payload[1]))
        self._bury_unreadable(claim, f"CodecError: {error}")

    def _bury_unreadable(self, claim: Claim, error: str) -> None:
        """Whoever met the message goes on, also where there is no room to move it: then it stays claimed for a
        while.
        """
        with contextlib.suppress(MqliteError):
            self.bury(claim, "corrupted", error, None)

    def _bury(
        self,
        txn: Any,
        claim: Claim,
        reason: str,
        error: str | None,
        trace: str | None,
        failures: int,
        *,
        has_room: bool = False,
    ) -> None:
        """Under L: move the record to the dead-letter queue (or drop it), with how it died."""
        queue = claim.queue
        if self._is_kept(queue, reason, self.catalog.options(queue, txn), claim.record):
            rank = rank_at(claim.position, claim.record.marks)
            self.lay_out(txn, queue, rank, claim.record, reason, error, trace, failures, has_room=has_room)
        claim.row = claim.row._replace(flags=claim.row.flags & ~TASK)  # nobody was given it to do
        self.remove_claimed(txn, claim)
        if claim.damaged:
            txn.unmark_unknown(queue.id, in_line(claim.position))
            txn.notes.append((DAMAGED, queue.id))

    @staticmethod
    def _is_kept(queue: QueueState, reason: str, options: QueueOptions, record: Record | None = None) -> bool:
        """Whether a message that died so becomes a dead letter. record: of one that may have expired."""
        if reason == "corrupted":
            return True
        gave_up = record is not None and "reply_by" in (record.extras or {})  # whoever has called knows
        dropped = reason == "expired" and (gave_up or options.expired == "drop")
        return not queue.is_dead and options.dead_letter and not dropped

    def lay_out(
        self,
        txn: Any,
        queue: QueueState,
        rank: int,
        record: Record,
        reason: str,
        error: str | None,
        trace: str | None,
        failures: int,
        *,
        has_room: bool = False,
    ) -> int:
        """Under L: a record into the dead-letter queue, with how it died; its id.

        Raises StoreFull, with nothing changed, unless has_room says that room was reserved.
        """
        try:
            record = self.log.resolved(txn, record)
        except MessageCorrupted as damage:
            record = attrs.evolve(record, payload=(BYTES, b""))
            reason, error = "corrupted", f"MessageCorrupted: {damage}"
        if queue.prepared_for and reason == "max_deliveries":
            reason = "undecided"
        death = {
            "reason": reason,
            "queue": queue.name,
            "died_ns": self.clock.wall_ns(),
            "delivery_count": failures,
            "error": error,
            "traceback": trace,
        }
        extras = {**(record.extras or {}), "death": death}
        extras.pop("prepared", None)
        unique = record.marks.unique if record.marks is not None else None
        marks = None if unique is None else Marks(unique=unique)
        corpse = self.log.prepare(
            attrs.evolve(record, delivery_count=failures, extras=extras, due=None, marks=marks, terms=None)
        )
        if not has_room:
            self.reserve_to_move(txn, self.log.footprint(corpse))
        dead = queue.grave
        is_taken = txn.entry(PLACE, dead, (record.id,)) is not None  # it died before, and was replayed
        number: int = txn.append(dead, rank, corpse, 0 if is_taken else record.id)
        txn.notes.append((ARRIVED, dead))
        return number

    def bury_expired(self, claims: list[Claim]) -> None:
        """The same for messages whose time to live is over, in one commit. Raises LeaseLost, StoreFull."""

        def op(txn: Any) -> None:
            self.check_claims(txn, claims)
            kept = [
                c for c in claims if self._is_kept(c.queue, "expired", self.catalog.options(c.queue, txn), c.record)
            ]
            if len(claims) > 1:  # one alone finds room in the reserve, as what is due does
                copies = [attrs.evolve(claim.record, marks=None) for claim in kept]
                self.reserve_to_move(txn, sum(self.log.footprint(self.log.prepare(copy)) for copy in copies))
            for claim in claims:
                self._bury(txn, claim, "expired", None, None, claim.record.delivery_count, has_room=True)

        self.log.write(op)

    def bury_delayed(
        self, txn: Any, queue: int, rank: int, record: Record, reason: str, error: str | None, has_room: bool = False
    ) -> None:
        """Under L: what waited for its time and dies there goes to the dead letters, where it is kept. The caller takes
        it out.
        """
        state = self.catalog.state(queue, txn)
        if self._is_kept(state, reason, state.options, record):
            self.lay_out(txn, state, rank, record, reason, error, None, record.delivery_count, has_room=has_room)

    # ------------------------------------------------------------------ kept longer
    def extend(self, claim: Claim, seconds: float) -> None:
        """The deadline is `seconds` from now, where there is one. Raises LeaseLost."""

        def op(txn: Any) -> None:
            self.check_claims(txn, [claim])
            with self.claims.lock, self.claims.guard, self.claims.write() as c:
                row = c.row(claim.queue.id, claim.position)
                if row is not None and row.deadline_ns:
                    deadline_ns = self.clock.monotonic_ns() + ns_of(seconds)
                    c.replace(claim.queue.id, claim.position, row._replace(deadline_ns=deadline_ns))
                    if deadline_ns < c.deadline_ns(claim.queue.id):
                        c.note_deadline(claim.queue.id, deadline_ns)
                        txn.notes.append((CHANGED, claim.queue.id))

        self.log.hold(op)
