"""Rows for messages: one commit of the claims, by the short way or by all the rules, and what it made somebody's, read.

[2] A row is made under C alone.
[8] The snapshot of the log is opened after C is held.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat, starmap
from typing import Any, NamedTuple

from ..claims import STARTED, Kind, Line, Row, Shut
from ..errors import MessageCorrupted, MqliteError, NoSuchSubscription, QueueLocked, StoreFull
from ..log import InLine
from ..message import Position
from ..waiting import Seat
from . import expecting, pace, replay, seats, sharing
from .catalog import QueueState
from .handing import Handing
from .picking import NOTHING
from .steps import Claim


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
#: What `_claim_once` gives where the front hides something, and is to be folded first.
NOT_FOLDED: Any = ()
_NOT_HELD: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
#: Of who does not wait. It is never taken.
NO_SEAT = Seat()


class Seizing(Handing):
    """Makes rows, and reads what they are of."""

    def _held_up(self, c: Any, queue: QueueState) -> bool:
        """Whether the queue gives nothing now, whatever there is."""
        options = queue.options
        if options.paused:
            return True
        return options.rate is not None and not pace.allowed(options, c.pace_ns(queue.id), self.clock.monotonic_ns())

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
        still: bool = False,
    ) -> Any:
        """One commit of the claims. None, and nothing done, where owners came or went whom nobody here has
        looked at, or where delayed messages are due and are to be claimed in their order, too. NOT_FOLDED where
        messages are in the front, unless `still`: then L is held meanwhile. [29] [34]
        """
        owner = self.presence.owner  # before C, which joining takes
        group = self.claims.group
        is_common = count == started == 1 and entry is ANYBODY and queue.is_in_line and not (seat.taken or into)
        if is_common and group is not None and not still and group.is_busy():
            found = sharing.claim(self, group, owner, queue, flags, into)
            if found is not None:
                return found
        folded = self.log.folded() if still else _NOT_HELD
        with folded, self.claims.lock, self.claims.guard, self.claims.write() as c:
            if not self.log.hides_nothing():
                return NOT_FOLDED
            found = follow = coming = None
            in_line: InLine | None = None
            is_earliest, alone_at = False, -2
            if queue.is_in_line and entry is ANYBODY:
                if seat.taken and self.claims.expected is not None:
                    coming = self.claims.expected.coming(queue.id)  # before the snapshot of the log
                in_line = self._claim_in_line(c, owner, queue, count, flags, started, into)
                found = None if in_line is None else bool(into)
                if found is False and coming is not None:
                    is_earliest = expecting.expect(self, c, owner, queue, coming, flags, started, seat, into)
                if into and seat.taken:
                    alone_at = self._unseat(c, queue, seat, owner)
            if found is None:
                found, follow = self._claim_by_all_rules(
                    c, owner, queue, count, flags, started, seat, into, entry, due_too
                )
        if follow is not None:
            follow()
        elif found:
            if seat.taken:
                seat.taken, seat.alone_at = False, alone_at
            self._open_in_line(queue.id, into, in_line)
        elif into:
            seat.taken, seat.alone_at = False, alone_at
            if is_earliest and self.waiters.uncovered(queue.id, into[0].row.deadline_ns):
                self.waiters.ring_one(queue.id, Kind.MESSAGE)
            found = expecting.has_come(self, seat)  # row, look, sleep
        return found

    def _claim_in_line(
        self, c: Any, owner: int, queue: QueueState, count: int, flags: int, started: int, into: list[Claim]
    ) -> InLine | None:
        """Under C: rows for the first in line of a queue where nothing else decides, and what they are of. None, and
        nothing done, where something does, or may: then all the rules are to be asked, one by one.

        What is left out here is what `line`, the gauges and the caller have excluded: seats, shutdown, what was given
        back, pauses, rates, topics, groups, expiry, delays, and a deadline that is new or over. It is a third of the
        time of all the rules, and a sixth for 100 messages.
        """
        number = queue.id
        line = c.line(number, self.presence.generation)
        if line is None:
            return None
        # after C: it shows every key up to the highest that it shows
        found = self.log.first_in_line(number, queue.version, partial(c.clear_cursor, number, line), count)
        if found is None or not found.positions:
            return found
        positions, raws, _ = found
        deadline_ns = self.deadline_in_line(queue, line)
        if deadline_ns < 0 or not c.has_room_for(len(positions)):
            return None
        token, commit = c.token, c.commit
        row = Row(token, owner, deadline_ns, flags, 0, 1)
        later_ns = self._later_ns(queue, deadline_ns, started)
        if len(positions) == 1:  # as most
            [position], [raw] = positions, raws
            if not started:
                row = row._replace(flags=flags & ~STARTED)
            into.append(Claim(queue, position, row, raw, commit))
            c.claim_in_line(number, line, positions, [(row, 1)])
            return found
        done = min(started, len(positions))
        alike = [(row, done)] if done else []
        while done < len(positions):  # of each rank with a token of its own, for `start`; most often there is one
            rank = positions[done] >> 64
            same = positions[-1] >> 64 == rank
            end = len(positions) if same else bisect_left(positions, (rank + 1) << 64, done)
            alike.append((Row(token, owner, later_ns, flags & ~STARTED, 0, 1), end - done))
            token, done = c.token, end
        # before there are rows: an interrupt leaves none that nobody holds
        rows = chain.from_iterable(starmap(repeat, alike))
        into += map(Claim, repeat(queue), positions, rows, raws, repeat(commit))
        c.claim_in_line(number, line, positions, alike)
        return found

    def deadline_in_line(self, queue: QueueState, line: Line) -> int:
        """When what is claimed now times out, or 0; -1 where somebody has to be told of it, or another's is over."""
        now_ns, earliest_ns = self.clock.monotonic_ns(), line.deadline_ns
        deadline_ns = now_ns + queue.ack_timeout_ns if queue.ack_timeout_ns else 0
        if (earliest_ns <= now_ns if earliest_ns else deadline_ns) or earliest_ns > deadline_ns > 0:
            return -1
        return deadline_ns

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
        uncovered = False
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
        later_ns = self._later_ns(queue, deadline_ns, started)
        token, rank = c.token, picked.taken[0][0] >> 64
        cursors = queue.has_cursors
        passed = iter(picked.passed)
        skipped = next(passed, None)
        for number, (position, raw, returned) in enumerate(picked.taken):
            if returned is None and not c.has_room():
                if into:
                    break
                if not self.log.is_folded():  # what was settled there has rows still [34]
                    return NOT_FOLDED, None
                raise StoreFull(
                    "too many messages of this store are claimed and not settled, or given back and not taken: "
                    "settle or take some before claiming more"
                )
            failures, acquired = returned or (0, 0)
            is_started = number < started
            if position >> 64 != rank or picked.turn >= 0:  # `start` needs one rank, and rising positions
                token, rank = c.token, position >> 64
            row = Row(
                token,
                owner,
                deadline_ns if is_started else later_ns,
                flags if is_started else flags & ~STARTED,
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
        alone_at = self._unseat(c, queue, seat, owner) if seat.taken else -2

        def follow() -> None:
            if seat.taken:
                seat.taken, seat.alone_at = False, alone_at
            for claim in into:
                claim.commit = commit
            self._open(into, expiring)
            if uncovered and self.waiters.uncovered(queue.id, deadline_ns):
                self.waiters.ring_one(queue.id, Kind.MESSAGE)
            if 0 < earliest_ns <= now_ns:
                self.takeback.care(queue.id)

        return True, follow

    @staticmethod
    def _unseat(c: Any, queue: QueueState, seat: Seat, owner: int) -> int:
        """Under C: the claimer waits no more; `Seat.alone_at`."""
        c.leave(queue.id, Kind.MESSAGE, seat.sleeper, owner)
        return -2 if c.anybody() else c.commit

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
        with self.log.folded(), self.claims.lock, self.claims.guard, self.claims.write() as c:
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

    def _open_in_line(self, queue: int, claims: list[Claim], found: InLine | None = None) -> None:
        """`_open` for messages that are whole, as nearly all are, and do not expire; for many of them, as they were
        found.
        """
        refers = False  # published, to a queue that is bound to the topic
        try:
            if found is None or len(claims) == 1:
                [claim] = claims
                claim.record = record = self.log.claimed(queue, claim.position, claim.raw, 0, 1)
                refers = record.payload is None
            else:  # all at once: two thirds of the time
                payloads, rests = self.log.claimed_all(found)
                for claim, payload, rest in zip(claims, payloads, rests, strict=False):
                    claim.payload, claim.rest = payload, rest
                    if payload is None:  # not `None in payloads`: in memory that asks the bodies whether they are equal
                        refers = True
        except MessageCorrupted:
            refers = True
        if refers:
            self._open(claims, 0)

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

    def _later_ns(self, queue: QueueState, deadline_ns: int, started: int) -> int:
        """When those time out that are prefetched, beside as many that go to the user at once: late enough to be handed
        out without a commit for a while.
        """
        is_later = deadline_ns and started and self.claims.marks is not None  # none started: the claimer settles them
        return deadline_ns + queue.slack_ns if is_later else deadline_ns
