"""How a message is claimed: rows for what is first in line, and what keeps a claimer from it.

[2] A row is made under C alone.
[8] The snapshot of the log is opened after C is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..claims import AUTO, STARTED, TASK, Kind, Row, Shut
from ..errors import (
    CodecError,
    LeaseLost,
    MessageCorrupted,
    MqliteError,
    NoSuchSubscription,
    QueueLocked,
    ShutDown,
    StoreFull,
)
from ..log import DEAD_BIT
from ..message import Position
from ..system.clock import ns_of
from ..waiting import Interrupt, Seat
from . import pace, replay, seats, subscriptions
from .catalog import QueueState
from .picking import NOTHING, Picking
from .steps import Claim, Refused

T = TypeVar("T")
#: How often a claimer looks around for the dead and for what is due before it takes what is there.
LOOKS_AROUND = 3


def _never() -> bool:
    return False


class Pass(NamedTuple):
    """What lets a claimer in.

    number: of a consumer that wants the queue for itself; waits: until it has it (failover), else it has it already.
    unchecked: the engine itself, which removes messages: neither a pause nor a limit holds it up.
    """

    number: int = 0
    waits: bool = False
    unchecked: bool = False


ANYBODY = Pass()
REMOVER = Pass(unchecked=True)
#: Of who does not wait. It is never taken.
NO_SEAT = Seat()


class Claiming(Picking):
    """The transition from `ready` to `claimed`. Free for any thread."""

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
        entry: Pass = ANYBODY,
        enough: Callable[[], bool] = _never,
    ) -> None:
        """Puts up to `count` claims into `into` as soon as there is one; none when none came in time.

        started: how many of them go to the user at once (None: all); the rest are
        prefetched and must be announced with `start`. auto: the caller will settle them
        before the user sees them. enough() ends the waiting, too. Raises ShutDown, QueueLocked.

        `into` is the caller's, so that after an interrupt (Ctrl-C) at any moment he finds
        there whatever may be claimed, and can give it back with `release_all`.
        """
        flags = STARTED | AUTO if auto else STARTED
        given = count if started is None else started
        if not entry.waits and self._claim(queue, count, flags, given, NO_SEAT, into, entry):
            return  # most often; the rest is for who finds nothing (1 us)

        def attempt(seat: Seat) -> bool | None:
            return enough() or self._claim(queue, count, flags, given, seat, into, entry) or None

        if entry.waits and not seats.sit(self, queue, entry.number):
            end_ns = None if timeout is None else self.clock.monotonic_ns() + ns_of(timeout)
            if not self._stand_by(queue, entry, timeout, interrupt):
                return
            timeout = None if end_ns is None else max(0, end_ns - self.clock.monotonic_ns()) / 1e9
        if not entry.waits or not attempt(NO_SEAT):
            self._take_later(queue, attempt, timeout, interrupt)

    def _stand_by(self, queue: QueueState, entry: Pass, timeout: float | None, interrupt: Interrupt) -> bool:
        """Wait for the seat, among those who wait for nothing else: a ring for a message is not for them."""

        def attempt(seat: Seat) -> bool | None:
            if seats.sit(self, queue, entry.number):
                return True
            with self.claims.read() as c, self.log.read() as snapshot:
                self.catalog.options(queue, snapshot)
                self._raise_if_removed(queue)
                if c.shut(queue.id) is Shut.IMMEDIATE or not snapshot.counters(queue.id).total:
                    self._raise_if_shut(c, queue)
            return None

        return timeout != 0 and bool(self.waiters.wait(queue.id, Kind.STANDBY, attempt, timeout, interrupt))

    def get(
        self, queue: QueueState, timeout: float | None, interrupt: Interrupt, read: Callable[[Claim], T]
    ) -> tuple[T] | None:
        """(the body of the next message,), settled before it is returned; None when none came in time.

        The message counts as unfinished until `task_done`. One whose body `read` cannot decode (CodecError) goes to the
        dead-letter queue. Raises ShutDown, QueueLocked. [14]
        """
        claims: list[Claim] = []

        def attempt(seat: Seat) -> tuple[T] | None:
            return self._claim_and_settle(queue, seat, claims, read)

        try:
            return self._take(queue, attempt, timeout, interrupt)
        except BaseException:
            self.release_all(claims)
            raise

    def _claim_and_settle(
        self, queue: QueueState, seat: Seat, claims: list[Claim], read: Callable[[Claim], T]
    ) -> tuple[T] | None:
        """One attempt of `get`; what is claimed and not settled is in `claims`, the caller's."""
        while self._claim(queue, 1, AUTO | STARTED | TASK, 1, seat, claims):
            [claim] = claims
            try:
                body = read(claim)
                self.ack(claims)
                return (body,)
            except CodecError as error:
                self.bury_undecodable(claim, error)
            except Refused:
                pass
            except LeaseLost:  # this process was stopped for longer than ack_timeout
                pass
            claims.clear()
        return None

    def _take(
        self, queue: QueueState, attempt: Callable[[Seat], T | None], timeout: float | None, interrupt: Interrupt
    ) -> T | None:
        result = attempt(NO_SEAT)
        return self._take_later(queue, attempt, timeout, interrupt) if result is None else result

    def _take_later(
        self, queue: QueueState, attempt: Callable[[Seat], T | None], timeout: float | None, interrupt: Interrupt
    ) -> T | None:
        """After an attempt that found nothing."""
        if timeout == 0:
            return attempt(NO_SEAT) if self.care(queue.id, Kind.MESSAGE)[1] else None
        return self.waiters.wait(queue.id, Kind.MESSAGE, attempt, timeout, interrupt)

    # ------------------------------------------------------------------ looking around
    def care(self, queue: int, kind: Kind) -> tuple[int, bool]:
        """Take back what the dead and the hung hold; move what is due and what has expired. (when to do so again or 0,
        whether anything was done)
        """
        deadline_ns, took_back = self.takeback.care(queue)
        due_ns, moved = self.schedule.care(queue)
        times = [deadline_ns, due_ns]
        state = self.catalog.known(queue)
        if kind is Kind.MESSAGE and state is not None and state.topic:
            again_ns, replayed = replay.top_up(self, state)
            times.append(again_ns)
            moved = moved or replayed
        if kind is Kind.SPACE and state is not None and state.topic:  # a publisher waits: it may have to go
            times.append(subscriptions.wake_ns(self, state))
        if queue & DEAD_BIT:  # what expires in its origin comes here
            origin_ns, moved_there = self.schedule.care(queue & ~DEAD_BIT)
            times.append(origin_ns)
            moved = moved or moved_there
        if kind is Kind.MESSAGE:
            times.append(self._pace_ns(queue))
        return min(filter(None, times), default=0), took_back or moved

    def wake_ns(self, queue: int) -> int:
        """When somebody who waits for a message should look, since one is due or the rate allows it; or 0."""
        times = [self.schedule.wake_ns(queue), self._pace_ns(queue)]
        if queue & DEAD_BIT:  # what expires in its origin comes here
            times.append(self.schedule.wake_ns(queue & ~DEAD_BIT))
        return min(filter(None, times), default=0)

    def _pace_ns(self, queue: int) -> int:
        """When the rate limit lets the next message go; 0 where it does now."""
        state = self.catalog.known(queue)
        if state is None or state.options.rate is None:
            return 0
        with self.claims.read() as c:
            now_ns = self.clock.monotonic_ns()
            next_ns = pace.next_ns(state.options, c.pace_ns(queue), now_ns)
        return next_ns if next_ns > now_ns else 0

    def promising(self, queue: int, kind: Kind) -> bool:
        """Whether a sleeper would get what it waits for: claims first, then the log, in new snapshots. [9]"""
        with self.claims.read() as c, self.log.read() as snapshot:
            if c.shut(queue) is not Shut.OPEN:
                return True
            state = self.catalog.state(queue, snapshot)
            options = state.options
            if state.removed:
                return True
            if kind is Kind.MESSAGE:
                if state.topic and snapshot.counters(queue).feeds:
                    return True
                if state.is_held_up and self._held_up(c, state):
                    return False
                return bool(self._pick(c, snapshot, state, 1).taken)
            if kind is Kind.STANDBY:
                return c.seat(queue) is None
            if kind is not Kind.SPACE:
                return True
            counters = snapshot.counters(queue)
            return not (
                (options.maxsize and counters.total >= options.maxsize)
                or (options.maxbytes and counters.bytes >= options.maxbytes)
            )

    def _held_up(self, c: Any, queue: QueueState) -> bool:
        """Whether the queue gives nothing now, whatever there is."""
        options = queue.options
        if options.paused:
            return True
        return options.rate is not None and not pace.allowed(options, c.pace_ns(queue.id), self.clock.monotonic_ns())

    # ------------------------------------------------------------------ claiming
    def _claim(
        self,
        queue: QueueState,
        count: int,
        flags: int,
        started: int,
        seat: Seat,
        into: list[Claim],
        entry: Pass = ANYBODY,
    ) -> bool:
        """Rows for what is first in line, as claims in `into`. False where nothing is. [8]"""
        self.takeback.notice_deaths()  # what they held comes before what is newer
        if queue.options.rate is not None:
            self.schedule.care(queue.id)  # what has expired uses no slot up
        attempts = 0
        while True:
            due_too = attempts < LOOKS_AROUND  # else there is no room to move what is due
            attempts += 1
            found = self._claim_once(queue, count, flags, started, seat, into, entry, due_too)
            if into or found is False:
                return bool(found)
            if found is None:
                self.care(queue.id, Kind.MESSAGE)
            # else all of it was damaged or expired, and is in the dead-letter queue now

    def _claim_once(
        self,
        queue: QueueState,
        count: int,
        flags: int,
        started: int,
        seat: Seat,
        into: list[Claim],
        entry: Pass,
        due_too: bool,
    ) -> bool | None:
        """One commit of the claims. None, and nothing done, where owners came or went whom nobody here has
        looked at, or where delayed messages are due and are to be claimed in their order, too.
        """
        owner = self.presence.owner  # before C, which joining takes
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            found = follow = None
            if queue.is_in_line and entry is ANYBODY and not seat.taken:
                found = self._claim_in_line(c, owner, queue, count, flags, started, into)
            if found is None:
                found, follow = self._claim_by_all_rules(
                    c, owner, queue, count, flags, started, seat, into, entry, due_too
                )
        if follow is not None:
            follow()
        elif found:
            try:  # `_open` for messages that are whole and do not expire
                refers = False
                for claim in into:
                    claim.record = record = self.log.claimed(queue.id, claim.position, claim.raw, 0, 1)
                    refers = refers or record.payload is None  # published, to a queue that is bound to the topic
            except MessageCorrupted:
                refers = True
            if refers:
                self._open(into, 0)
        return found

    def _claim_in_line(
        self, c: Any, owner: int, queue: QueueState, count: int, flags: int, started: int, into: list[Claim]
    ) -> bool | None:
        """Under C: rows for the first in line of a queue where nothing else decides. None, and nothing done, where
        something does, or may: then all the rules are to be asked, one by one.

        What is left out here is what `line`, the gauges and the caller have excluded: seats, shutdown, what was given
        back, pauses, rates, topics, groups, expiry, delays, a deadline that is new or over, and the claimer's own row
        among those who wait. It is a third of the time of all the rules, and a sixth for 100 messages.
        """
        number = queue.id
        line = c.line(number, self.presence.generation)
        if line is None:
            return None
        # after C: it shows every key up to the highest that it shows
        found = self.log.first_in_line(number, queue.version, partial(c.clear_cursor, number, line), count)
        if not found:
            return None if found is None else False
        now_ns, earliest_ns = self.clock.monotonic_ns(), line.deadline_ns
        deadline_ns = now_ns + queue.ack_timeout_ns if queue.ack_timeout_ns else 0
        if earliest_ns <= now_ns if earliest_ns else deadline_ns:
            return None
        if earliest_ns > deadline_ns > 0 or not c.has_room_for(len(found)):
            return None
        token, commit = c.token, c.commit
        row = Row(token, owner, deadline_ns, flags, 0, 1)
        if len(found) == 1:
            [(position, raw)] = found
            into.append(Claim(queue, position, row if started else row._replace(flags=flags & ~STARTED), raw, commit))
            c.claim_in_line(number, line, [position], [into[-1].row])
            return True
        rows = [row] * len(found)
        if started < len(found):
            later = Row(token, owner, deadline_ns, flags & ~STARTED, 0, 1)
            rows[started:] = [later] * (len(found) - started)
        into += [
            Claim(queue, position, row, raw, commit) for (position, raw), row in zip(found, rows, strict=True)
        ]  # before there are rows: an interrupt leaves none that nobody holds
        c.claim_in_line(number, line, [position for position, _ in found], rows)
        return True

    def _claim_by_all_rules(
        self,
        c: Any,
        owner: int,
        queue: QueueState,
        count: int,
        flags: int,
        started: int,
        seat: Seat,
        into: list[Claim],
        entry: Pass,
        due_too: bool,
    ) -> tuple[bool | None, Callable[[], None] | None]:
        """Under C: as `_claim_once`, and what is to be done after the commit."""
        uncovered = alone = False
        generation = c.generation()
        if generation != self.presence.generation:
            c.require(owner)  # the generation is known here only of lists of owners that had this one
            return None, None
        commit = c.commit
        with self.log.glance() as snapshot:  # after C: it shows every key up to the highest that it shows
            version, waiting, expiring, grouped = snapshot.gauges(queue.id)
            if waiting and due_too and self.schedule.is_due(queue.id, snapshot):
                return None, None
            options = self.catalog.options_at(queue, version, snapshot)
            self._raise_if_removed(queue)
            if entry is not REMOVER and (entry.number or c.any_seat(generation) or queue.is_held_up):
                count = self._admitted(c, queue, count, entry)
            fed = queue.topic and waiting and due_too and snapshot.counters(queue.id).feeds
            if fed and replay.is_void(snapshot, queue):
                return None, None  # what it holds goes first
            picked = self._pick(c, snapshot, queue, count, grouped, entry is REMOVER) if count else NOTHING
            if fed and len(picked.taken) < count:
                return None, None  # its topic has more for it
            bodies = [self.log.body_of(snapshot, raw) for _, raw, _ in picked.taken] if queue.topic else None
            held_up = not count and c.shut(queue.id) is Shut.DRAINING
            if held_up and self._pick(c, snapshot, queue, 1, grouped, True).taken:
                return False, None  # not empty: the rest comes when it is resumed, or at its rate
        for position in picked.stale:
            c.take_returned(queue.id, position)
        if not picked.taken or c.shut(queue.id) is Shut.IMMEDIATE:
            self._raise_if_shut(c, queue)
            for position in picked.passed:
                c.advance(queue.id, position)
            return False, None
        now_ns = self.clock.monotonic_ns()
        deadline_ns = now_ns + queue.ack_timeout_ns if queue.ack_timeout_ns else 0
        token = c.token
        cursors = queue.has_cursors
        passed = iter(picked.passed)
        skipped = next(passed, None)
        for number, (position, raw, returned) in enumerate(picked.taken):
            if returned is None and not c.has_room():
                if into:
                    break
                raise StoreFull(
                    "too many messages of this store are claimed and not settled, or given back and not taken: "
                    "settle or take some before claiming more"
                )
            failures, acquired = returned or (0, 0)
            row = Row(
                token,
                owner,
                deadline_ns,
                flags if number < started else flags & ~STARTED,
                failures,
                acquired if entry is REMOVER else acquired + 1,
                self.log.group_of(raw) if grouped else 0,
            )
            if returned is not None:
                c.take_returned(queue.id, position)
            elif cursors:
                while skipped is not None and skipped < position:
                    c.advance(queue.id, skipped)
                    skipped = next(passed, None)
                c.advance(queue.id, position)
            c.claim(queue.id, position, row)
            into.append(Claim(queue, position, row, raw))
            if bodies is not None:
                into[-1].body = bodies[number]
        else:
            for position in () if skipped is None else (skipped, *passed):
                c.advance(queue.id, position)
        if picked.turn >= 0:
            c.set_turn(queue.id, picked.turn)
        if options.rate is not None and entry is not REMOVER:
            c.set_pace(queue.id, pace.after(options, c.pace_ns(queue.id), now_ns, len(into)))
        earliest_ns = c.deadline_ns(queue.id)
        if deadline_ns and not 0 < earliest_ns <= deadline_ns:
            c.note_deadline(queue.id, deadline_ns)
            uncovered = True
        if seat.taken:
            c.leave(queue.id, Kind.MESSAGE, seat.sleeper, owner)
            alone = not c.anybody()

        def follow() -> None:
            if seat.taken:
                seat.taken, seat.alone_at = False, commit if alone else -2
            for claim in into:
                claim.commit = commit
            self._open(into, expiring)
            if uncovered and self.waiters.uncovered(queue.id, deadline_ns):
                self.waiters.ring_one(queue.id, Kind.MESSAGE)
            if 0 < earliest_ns <= now_ns:
                self.takeback.care(queue.id)

        return True, follow

    def _admitted(self, c: Any, queue: QueueState, count: int, entry: Pass) -> int:
        """Under C: how many messages a claimer may have. Raises QueueLocked."""
        seat = seats.taken(c, queue, self.presence.owner)
        if seat is None:
            if entry.waits:
                c.set_seat(queue.id, (self.presence.owner, entry.number))
            elif entry.number:
                raise QueueLocked(
                    f"this consumer does not have queue {queue.name!r} for itself any more: make another one"
                )
        elif seat != (self.presence.owner, entry.number):
            if entry.waits:
                return 0
            raise QueueLocked(
                f'queue {queue.name!r} belongs to a consumer with mode="exclusive" or "failover": wait until that '
                'one is closed, or use mode="failover"'
            )
        if queue.options.paused:
            return 0
        if queue.options.rate is None:
            return count
        return min(count, pace.allowed(queue.options, c.pace_ns(queue.id), self.clock.monotonic_ns()))

    def seize(self, queue: QueueState, positions: list[Position], into: list[Claim], blank: bool = False) -> None:
        """Rows, without blame, for those of these messages that nobody holds, so that the engine can change them. [19]

        blank: rows without a history, since another message may be given back from them; a kill forgets it then.
        `into` is the caller's, as in `receive`. Raises StoreFull.
        """
        owner = self.presence.owner
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            c.require(owner)
            with self.log.read() as snapshot:  # after C
                grouped = snapshot.gauges(queue.id)[3]
                for position in positions:
                    raw = None if c.row(queue.id, position) is not None else snapshot.look_up(queue.id, position)
                    if raw is None:
                        continue
                    returned = c.returned_at(queue.id, position)
                    if returned is not None:
                        c.take_returned(queue.id, position)
                    elif not c.has_room():
                        raise StoreFull(
                            "too many messages of this store are claimed and not settled: settle or take some first"
                        )
                    failures, acquired = returned or (0, 0)
                    group = self.log.group_of(raw) if grouped else 0
                    row = Row(c.token, owner, 0, 0, failures, acquired, group)
                    c.claim(queue.id, position, row._replace(failures=0, acquired=0) if blank else row)
                    into.append(Claim(queue, position, row, raw, c.commit))
        self._open(into, 0)

    def _open(self, claims: list[Claim], expiring: int) -> None:
        """Read the records; what is damaged or has expired goes to the dead-letter queue, and out of `claims`."""
        expired, referring = [], []
        for claim in list(claims):
            queue, row = claim.queue, claim.row
            try:
                claim.record = record = self.log.claimed(
                    queue.id, claim.position, claim.raw, row.failures, row.acquired
                )
            except MessageCorrupted as error:
                claim.damaged = True
                claim.record = self.log.salvage(queue.id, claim.position, claim.raw, self.clock.wall_ns())
                self._bury_unreadable(claim, f"MessageCorrupted: {error}")
                claims.remove(claim)
                continue
            marks = record.marks
            if marks is not None:
                if marks.source is not None and record.payload is None:
                    referring.append(claim)
                if expiring and marks.expires is not None and self.timeline.is_past(marks.expires):
                    expired.append(claim)
        if referring:
            self._fetch(referring, claims)
            expired = [claim for claim in expired if claim in claims]
        if expired:  # it came back, or its time came a moment ago
            try:
                self.bury_expired(expired)
            except MqliteError:
                for claim in expired:
                    with contextlib.suppress(MqliteError):  # no room for it: it stays claimed for a while
                        self.bury_expired([claim])
            for claim in expired:
                claims.remove(claim)
            self.schedule.care(expired[0].queue.id)

    def _fetch(self, referring: list[Claim], claims: list[Claim]) -> None:
        """The bodies that topics keep. One that is damaged goes to the dead letters, as a message does."""
        lost = []
        for claim in referring:
            try:
                if claim.body is not None:
                    claim.record = self.log.joined(claim.record, claim.body)
                    continue
                with self.log.read() as snapshot:
                    is_there = snapshot.has(claim.queue.id, claim.position)
                    claim.record = self.log.resolved(snapshot, claim.record)
            except MessageCorrupted as error:
                lost.append((claim, error if claim.body is not None or is_there else None))
        for claim, damage in lost:
            claims.remove(claim)
            if damage is not None:  # else it was taken away meanwhile (seek, unsubscribe)
                self._bury_unreadable(claim, f"MessageCorrupted: {damage}")

    @staticmethod
    def _raise_if_removed(queue: QueueState) -> None:
        if queue.removed:
            raise NoSuchSubscription(f"the subscription {queue.name!r} was removed: subscribe again")

    @staticmethod
    def _raise_if_shut(c: Any, queue: QueueState) -> None:
        if c.shut(queue.id) is not Shut.OPEN:
            raise ShutDown(f"queue {queue.name!r} was shut down and has nothing more to give")

    # ------------------------------------------------------------------ handing out
    def start(self, claim: Claim) -> bool:
        """A prefetched message goes to the user now; False where its claim was lost. Raises ShutDown. [18]"""
        with self.claims.lock, self.claims.guard, self.claims.write() as c:
            if c.shut(claim.queue.id) is Shut.IMMEDIATE:
                self._raise_if_shut(c, claim.queue)
            if not c.is_undisturbed(claim.commit):
                row = c.row(claim.queue.id, claim.position)
                if row is None or row.holder != claim.row.holder:
                    return False
            row = claim.row
            if claim.queue.topic or claim.queue.prepared_for:  # a seek, or a decision, may have taken it away
                with self.log.read() as snapshot:
                    if not snapshot.has(claim.queue.id, claim.position):
                        return False
            timeout_ns = claim.queue.ack_timeout_ns
            deadline_ns = self.clock.monotonic_ns() + timeout_ns if timeout_ns and row.deadline_ns else 0
            c.replace(claim.queue.id, claim.position, row._replace(flags=row.flags | STARTED, deadline_ns=deadline_ns))
            return True
