"""The message state machine: the only code that writes to log and claims.

    ready -> claimed -> acknowledged (gone)
      ^         |
      |         +--> given back (released, failed, holder dead, timed out) -> ready
      |         +--> dead: in the queue's dead-letter queue
      put

In memory and on disk it is the same machine over other parts. The numbers in
brackets are the rules of docs/protocol.md; L is the log's write lock, C the
claims'. No user code runs under either.

    [1] L before C; nobody waits for L while holding C.
    [2] A row is made under C alone, but given back or revoked under L then C.
    [3] A row is valid if its token is there and its key is in the log.
    [4] A durable move commits the log first, then removes the row.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import attrs

from ..claims import AUTO, STARTED, TASK, Claims, Kind, Returned, Row, Shut
from ..codecs import BYTES
from ..errors import CodecError, LeaseLost, MessageCorrupted, MqliteError, ShutDown, StoreFull
from ..log import DEAD_BIT, Draft, Log, Raw, Snapshot
from ..message import Position, Record
from ..options import QueueOptions
from ..system.clock import Clock, Timeline
from ..waiting import Interrupt, Presence, Seat, Waiters
from .aftermath import Aftermath
from .catalog import Catalog, QueueState
from .inspection import Inspection, remembered
from .schedule import Schedule
from .steps import ARRIVED, CHANGED, DELAYED, SETTLED, Claim
from .takeback import TakeBack
from .tasks import Tasks, shut_mode

T = TypeVar("T")
#: Bytes of a message that moves to the dead-letter queue without asking for room: the reserve has it (log/space.py).
MOVED_FREELY = 256 << 10
#: How often a claimer looks around for the dead and for what is due before it takes what is there.
LOOKS_AROUND = 3


class Engine:
    """One store's engine, shared by all threads and handles of the process."""

    def __init__(self, log: Log, claims: Claims, presence: Presence, clock: Clock, anchor_ns: int) -> None:
        self.log = log
        self.claims = claims
        self.presence = presence
        self.clock = clock
        self.timeline = Timeline(clock, anchor_ns)
        self.catalog = Catalog(log)
        self.takeback = TakeBack(log, claims, presence, clock, self.catalog, self._bury)
        self.schedule = Schedule(log, self.timeline, self._bury_delayed)
        self.waiters = Waiters(claims, presence, clock, self._care, self._promising, self.schedule.wake_ns)
        self.tasks = Tasks(log, claims, presence, self.waiters)
        self.inspection = Inspection(log, claims, self.takeback.notice_changes, self.schedule)
        self.aftermath = Aftermath(log, claims, self.waiters)

    # ------------------------------------------------------------------ put
    def put(
        self, queue: QueueState, ranked: list[tuple[int, Draft]], timeout: float | None, interrupt: Interrupt
    ) -> list[int] | None:
        """Store all (rank, draft) in one commit, or nothing; their ids.

        Waits for room up to `timeout` seconds (None: for ever); None when there was
        none. Raises ShutDown, StoreFull.
        """
        size = sum(self.log.footprint(draft) for _, draft in ranked)
        some_now = ranked[0][1].due is None or any(draft.due is None for _, draft in ranked)

        def op(txn: Any) -> list[int] | None:
            if not self.aftermath.is_calm(queue.id) and shut_mode(self.claims, queue.id) is not Shut.OPEN:
                raise self._shut_for_puts(queue)
            counters = txn.counters(queue.id)
            maxsize = self.catalog.options(queue, txn).maxsize
            if maxsize and counters.total + len(ranked) > maxsize:
                return None
            txn.reserve(size)
            ids = [
                txn.append(queue.id, rank, draft) if draft.due is None else self._delay(txn, queue.id, rank, draft)
                for rank, draft in ranked
            ]
            if some_now:
                txn.notes.append((ARRIVED, queue.id))
            return ids

        _ = self.presence.owner
        ids = self.log.write(op)
        if ids is not None or timeout == 0:
            return ids
        return self.waiters.wait(queue.id, Kind.SPACE, lambda seat: self.log.write(op), timeout, interrupt)

    def _delay(self, txn: Any, queue: int, rank: int, draft: Draft, message_id: int = 0) -> int:
        """Under L: store a message that waits for its time; its id."""
        number: int = txn.delay(queue, rank, draft, message_id)
        txn.notes.append((DELAYED, queue, self.timeline.wake_ns(draft.due)))
        return number

    # ------------------------------------------------------------------ claim
    def receive(
        self,
        queue: QueueState,
        count: int,
        timeout: float | None,
        interrupt: Interrupt,
        into: list[Claim],
        *,
        auto: bool = False,
        started: int | None = None,
    ) -> None:
        """Puts up to `count` claims into `into` as soon as there is one; none when none came in time.

        started: how many of them go to the user at once (None: all); the rest are
        prefetched and must be announced with `start`. auto: the caller will settle them
        before the user sees them. Raises ShutDown.

        `into` is the caller's, so that after an interrupt (Ctrl-C) at any moment he finds
        there whatever may be claimed, and can give it back with `release_all`.
        """
        flags = STARTED | AUTO if auto else STARTED

        def attempt(seat: Seat) -> bool | None:
            return self._claim(queue, count, flags, count if started is None else started, seat, into) or None

        self._take(queue, attempt, timeout, interrupt)

    def get(
        self, queue: QueueState, timeout: float | None, interrupt: Interrupt, decode: Callable[[Any], T]
    ) -> tuple[T] | None:
        """(the body of the next message,), settled before it is returned; None when none came in time.

        The message counts as unfinished until `task_done`. One whose body `decode`
        refuses goes to the dead-letter queue. Raises ShutDown. [14]
        """
        claims: list[Claim] = []

        def attempt(seat: Seat) -> tuple[T] | None:
            while self._claim(queue, 1, AUTO | STARTED | TASK, 1, seat, claims):
                [claim] = claims
                try:
                    body = decode(claim.record.payload)
                    self.ack(claims)
                    return (body,)
                except CodecError as error:
                    self.bury_undecodable(claim, error)
                except LeaseLost:  # this process was stopped for longer than ack_timeout
                    pass
                claims.clear()
            return None

        try:
            return self._take(queue, attempt, timeout, interrupt)
        except BaseException:
            self.release_all(claims)
            raise

    def _take(
        self, queue: QueueState, attempt: Callable[[Seat], T | None], timeout: float | None, interrupt: Interrupt
    ) -> T | None:
        result = attempt(Seat())
        if result is not None:
            return result
        if timeout == 0:
            return attempt(Seat()) if self.takeback.care(queue.id)[1] else None
        return self.waiters.wait(queue.id, Kind.MESSAGE, attempt, timeout, interrupt)

    def _care(self, queue: int, kind: Kind) -> tuple[int, bool]:
        """Take back what the dead and the hung hold; for who waits for messages, move what is due. (when to do so
        again or 0, whether anything was done)
        """
        deadline_ns, took_back = self.takeback.care(queue)
        if kind is not Kind.MESSAGE:
            return deadline_ns, took_back
        due_ns, moved = self.schedule.care(queue)
        return min(filter(None, (deadline_ns, due_ns)), default=0), took_back or moved

    def _claim(self, queue: QueueState, count: int, flags: int, started: int, seat: Seat, into: list[Claim]) -> bool:
        """Rows for what is first in line, as claims in `into`. False where nothing is. [8]"""
        self.takeback.notice_deaths()  # what they held comes before what is newer
        for attempt in itertools.count():
            due_too = attempt < LOOKS_AROUND  # else there is no room to move what is due
            found = self._claim_once(queue, count, flags, started, seat, into, due_too)
            if into or found is False:
                return bool(found)
            if found is None:
                self._care(queue.id, Kind.MESSAGE)
            # else all of it was damaged, and is in the dead-letter queue now
        raise AssertionError("it claims or returns")

    def _claim_once(
        self, queue: QueueState, count: int, flags: int, started: int, seat: Seat, into: list[Claim], due_too: bool
    ) -> bool | None:
        """One commit of the claims. None, and nothing done, where owners came or went whom nobody here has
        looked at, or where delayed messages are due and are to be claimed in their order, too.
        """
        owner = self.presence.owner
        stale: list[Position] = []
        uncovered = alone = False
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            if c.generation() != self.presence.generation:
                c.require(owner)  # the generation is known here only of lists of owners that had this one
                return None
            commit = c.commit
            with self.log.read() as snapshot:  # after C: it shows every key up to the highest that it shows
                version, delayed = snapshot.gauges(queue.id)
                if delayed and due_too and self.schedule.is_due(queue.id, snapshot):
                    return None
                options = self.catalog.options_at(queue, version, snapshot)
                picked = self._pick(c, snapshot, queue.id, count, stale)
            for position in stale:
                c.take_returned(queue.id, position)
            if not picked or c.shut(queue.id) is Shut.IMMEDIATE:
                self._raise_if_shut(c, queue)
                return False
            now_ns = self.clock.monotonic_ns()
            deadline_ns = 0 if options.ack_timeout is None else now_ns + ns_of(options.ack_timeout)
            token = c.token
            for number, (position, raw, returned) in enumerate(picked):
                if returned is None and not c.has_room():
                    if into:
                        break
                    raise StoreFull(
                        "too many messages of this store are claimed and not settled, or given back and not taken: "
                        "settle or take some before claiming more"
                    )
                failures, acquired = returned or (0, 0)
                row = Row(
                    token, owner, deadline_ns, flags if number < started else flags & ~STARTED, failures, acquired + 1
                )
                if returned is not None:
                    c.take_returned(queue.id, position)
                else:
                    c.advance(queue.id, position)
                c.claim(queue.id, position, row)
                into.append(Claim(queue, position, row, raw))
            earliest_ns = c.deadline_ns(queue.id)
            if deadline_ns and not 0 < earliest_ns <= deadline_ns:
                c.note_deadline(queue.id, deadline_ns)
                uncovered = True
            if seat.taken:
                c.leave(queue.id, Kind.MESSAGE, seat.sleeper, owner)
                alone = not c.anybody()
        if seat.taken:
            seat.taken, seat.alone_at = False, commit if alone else -2
        for claim in into:
            claim.commit = commit
        self._open(into)
        if uncovered and self.waiters.uncovered(queue.id, deadline_ns):
            self.waiters.ring_one(queue.id, Kind.MESSAGE)
        if 0 < earliest_ns <= now_ns:
            self.takeback.care(queue.id)
        return True

    def _open(self, claims: list[Claim]) -> None:
        """Read the records; what is damaged goes to the dead-letter queue, and out of `claims`."""
        for claim in list(claims):
            queue, row = claim.queue, claim.row
            try:
                record = self.log.decode(queue.id, claim.position, claim.raw)
            except MessageCorrupted as error:
                claim.record = self.log.salvage(queue.id, claim.position, claim.raw, self.clock.wall_ns())
                self._bury_unreadable(claim, f"MessageCorrupted: {error}")
                claims.remove(claim)
                continue
            claim.record = Record(
                record.payload,
                record.enqueued_ns,
                record.id,
                record.delivery_count + row.failures,
                record.acquired_count + row.acquired,
                record.extras,
            )

    def _pick(
        self, c: Any, snapshot: Snapshot, queue: int, count: int, stale: list[Position]
    ) -> list[tuple[Position, Raw, Returned | None]]:
        """What a claimer takes: returned positions merged with those ahead of the cursors, in delivery order.

        Changes nothing; `stale` gets the returned positions whose key is gone.
        """
        picked: list[tuple[Position, Raw, Returned | None]] = []
        given_back = c.returned(queue)
        ahead = snapshot.ahead(queue, lambda rank: c.cursor(queue, rank))
        back = next(given_back, None)
        fresh = next(ahead, None)
        while True:
            if back is not None and (fresh is None or back[0] <= fresh[0]):
                position, returned = back
                if fresh is not None and fresh[0] == position:
                    fresh = next(ahead, None)
                raw = snapshot.raw(queue, position)
                if raw is None:
                    stale.append(position)
                else:
                    picked.append((position, raw, returned))
                if len(picked) == count:
                    break
                back = next(given_back, None)
            elif fresh is not None:
                if c.row(queue, fresh[0]) is None:
                    picked.append((fresh[0], fresh[1], None))
                if len(picked) == count:
                    break  # before the next record is copied for nobody
                fresh = next(ahead, None)
            else:
                break
        return picked

    def peek(self, queue: QueueState, count: int) -> list[tuple[Position, Record]]:
        """The first `count` messages that a claimer would get; damaged ones are passed over."""
        found = []
        self.takeback.notice_deaths()
        self.schedule.care(queue.id)
        with self.claims.read() as c, self.log.read() as snapshot:
            if c.shut(queue.id) is not Shut.IMMEDIATE:
                for position, raw, returned in self._pick(c, snapshot, queue.id, count, []):
                    with contextlib.suppress(MessageCorrupted):
                        record = self.log.decode(queue.id, position, raw)
                        found.append((position, remembered(record, returned)))
        return found

    def _promising(self, queue: int, kind: Kind) -> bool:
        """Whether a sleeper would get what it waits for: claims first, then the log, in new snapshots. [9]"""
        with self.claims.read() as c, self.log.read() as snapshot:
            if c.shut(queue) is not Shut.OPEN:
                return True
            if kind is Kind.MESSAGE:
                return bool(self._pick(c, snapshot, queue, 1, []))
            state = self.catalog.state(queue, snapshot)
            return (
                kind is Kind.DONE or not state.options.maxsize or snapshot.counters(queue).total < state.options.maxsize
            )

    @staticmethod
    def _shut_for_puts(queue: QueueState) -> ShutDown:
        return ShutDown(f"queue {queue.name!r} was shut down: nothing can be put any more")

    @staticmethod
    def _raise_if_shut(c: Any, queue: QueueState) -> None:
        if c.shut(queue.id) is not Shut.OPEN:
            raise ShutDown(f"queue {queue.name!r} was shut down and has nothing more to give")

    # ------------------------------------------------------------------ settle
    def check_claims(self, txn: Snapshot, claims: Iterable[Claim]) -> None:
        """Under L: all these claims are valid, or LeaseLost. [3]"""
        self._check_rows(claims)
        for claim in claims:
            if not txn.has(claim.queue.id, claim.position):
                raise self._lost(claim)

    def _check_rows(self, claims: Iterable[Claim]) -> None:
        """The rows of `check_claims`. No snapshot where nothing was committed since these were made."""
        last = self.claims.last_commit()
        changed = [claim for claim in claims if claim.commit != last]
        if changed:
            with self.claims.read() as c:
                for claim in changed:
                    row = c.row(claim.queue.id, claim.position)
                    if row is None or row.holder != claim.row.holder:
                        raise self._lost(claim)

    @staticmethod
    def _lost(claim: Claim) -> LeaseLost:
        return LeaseLost(
            f"the claim on message {claim.record.id} of queue {claim.queue.name!r} was lost (timed out, or given "
            "back): nothing was changed; another consumer has the message or will get it"
        )

    def ack(self, claims: list[Claim]) -> None:
        """Remove all these messages in one commit, or none. Raises LeaseLost. [10]"""

        def op(txn: Any) -> None:
            if len(claims) == 1:
                self._check_rows(claims)
            else:
                self.check_claims(txn, claims)
            for claim in claims:
                if txn.remove(claim.queue.id, claim.position) is None:  # a lone one: nothing was changed
                    raise self._lost(claim)
                txn.notes.append((SETTLED, claim.queue.id, claim.position, claim.row, claim.commit))

        self.log.write(op)

    def nack(self, claim: Claim, error: str | None, trace: str | None, delay: float | None) -> None:
        """A failure: back to its place, or dead after max_deliveries. Raises LeaseLost, StoreFull. [11] [12]

        delay: seconds until it lines up again; None: as the queue's backoff says.
        """
        failures = claim.record.delivery_count + 1

        def last(options: QueueOptions) -> bool:
            return options.max_deliveries is not None and failures >= options.max_deliveries

        def wait(options: QueueOptions) -> float:
            return delay if delay is not None else options.backoff.seconds(failures) if options.backoff else 0.0

        def give_back(txn: Any) -> bool:
            self.check_claims(txn, [claim])
            options = self.catalog.options(claim.queue, txn)
            if last(options) or wait(options):
                return False
            self._give_back(txn, [claim], 1)
            return True

        def move(txn: Any) -> None:
            self.check_claims(txn, [claim])
            options = self.catalog.options(claim.queue, txn)
            if last(options):
                self._bury(txn, claim, "max_deliveries", error, trace, failures)
                return
            due = self.timeline.after(wait(options)) or self.timeline.soon()
            retried = self.log.prepare(attrs.evolve(claim.record, delivery_count=failures, due=due))
            self._reserve_to_move(txn, retried)
            self._delay(txn, claim.queue.id, claim.position >> 64, retried, claim.record.id)
            self.remove_claimed(txn, claim)

        if delay or not self.log.hold(give_back):
            self.log.write(move)

    def release_all(self, claims: list[Claim], lost_ok: bool = True) -> None:
        """Give back without blame; claims that were lost are passed over, unless `lost_ok` is False. [11]"""

        def op(txn: Any) -> None:
            if not lost_ok:
                self.check_claims(txn, claims)
            self._give_back(txn, claims, 0)

        if claims:
            self.log.hold(op)

    def _give_back(self, txn: Any, claims: list[Claim], failures: int) -> None:
        """Under L: rows -> returned, one commit of the claims. Lost claims are passed over."""
        queues = {claim.queue.id for claim in claims}
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            for claim in claims:
                queue, position = claim.queue.id, claim.position
                row = c.row(queue, position)
                if row is not None and row.holder == claim.row.holder and txn.has(queue, position):
                    c.give_back(queue, position, Returned(row.failures + failures, row.acquired))
        txn.notes.extend((ARRIVED, queue) for queue in queues)

    def bury(self, claim: Claim, reason: str, error: str | None, trace: str | None) -> None:
        """Straight to the dead-letter queue, without counting a failure. Raises LeaseLost. [12]"""

        def op(txn: Any) -> None:
            self.check_claims(txn, [claim])
            self._bury(txn, claim, reason, error, trace, claim.record.delivery_count)

        self.log.write(op)

    def bury_undecodable(self, claim: Claim, error: CodecError) -> None:
        """To the dead-letter queue, as the bytes that were stored."""
        claim.record.payload = (BYTES, claim.record.payload[1])
        self._bury_unreadable(claim, f"CodecError: {error}")

    def _bury_unreadable(self, claim: Claim, error: str) -> None:
        """Whoever met the message goes on, also where there is no room to move it: then it stays claimed for a
        while.
        """
        with contextlib.suppress(MqliteError):
            self.bury(claim, "corrupted", error, None)

    def _bury(self, txn: Any, claim: Claim, reason: str, error: str | None, trace: str | None, failures: int) -> None:
        """Under L: move the record to the dead-letter queue (or drop it), with how it died."""
        queue = claim.queue
        if reason == "corrupted" or (not queue.is_dead and self.catalog.options(queue, txn).dead_letter):
            self._lay_out(txn, queue, claim.position >> 64, claim.record, reason, error, trace, failures)
        self.remove_claimed(txn, claim)

    def _lay_out(
        self,
        txn: Any,
        queue: QueueState,
        rank: int,
        record: Record,
        reason: str,
        error: str | None,
        trace: str | None,
        failures: int,
    ) -> None:
        """Under L: a record into the dead-letter queue, with how it died."""
        death = {
            "reason": reason,
            "queue": queue.name,
            "died_ns": self.clock.wall_ns(),
            "delivery_count": failures,
            "error": error,
            "traceback": trace,
        }
        extras = {**(record.extras or {}), "death": death}
        corpse = self.log.prepare(attrs.evolve(record, delivery_count=failures, extras=extras, due=None))
        self._reserve_to_move(txn, corpse)
        dead = queue.id | DEAD_BIT
        txn.append(dead, rank, corpse, record.id)
        txn.notes.append((ARRIVED, dead))

    def _bury_delayed(self, txn: Any, queue: int, rank: int, record: Record, error: str) -> None:
        """Under L: what waited for its time and cannot be read any more."""
        state = self.catalog.state(queue, txn)
        self._lay_out(txn, state, rank, record, "corrupted", error, None, record.delivery_count)

    def _reserve_to_move(self, txn: Any, draft: Draft) -> None:
        size = self.log.footprint(draft)
        if size > MOVED_FREELY:
            txn.reserve(size)

    @staticmethod
    def remove_claimed(txn: Any, claim: Claim) -> None:
        """Under L: the message goes now, its row after the commit."""
        txn.remove(claim.queue.id, claim.position)
        txn.notes.append((SETTLED, claim.queue.id, claim.position, claim.row, claim.commit))

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

    def start(self, claim: Claim) -> bool:
        """A prefetched message goes to the user now; False where its claim was lost. Raises ShutDown. [18]"""
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            if c.shut(claim.queue.id) is Shut.IMMEDIATE:
                self._raise_if_shut(c, claim.queue)
            row = c.row(claim.queue.id, claim.position)
            if row is None or row.holder != claim.row.holder:
                return False
            timeout = claim.queue.options.ack_timeout
            deadline_ns = self.clock.monotonic_ns() + ns_of(timeout) if timeout is not None and row.deadline_ns else 0
            c.replace(claim.queue.id, claim.position, row._replace(flags=row.flags | STARTED, deadline_ns=deadline_ns))
            return True

    def after_fork(self) -> None:
        """In a forked child: what the parent was about to do is the parent's."""
        self.aftermath.forget()


def ns_of(seconds: float) -> int:
    """Nanoseconds; thirty years at most, which fits every format."""
    return int(min(seconds, 1e9) * 1e9)
