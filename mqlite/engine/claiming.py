"""How a message is claimed: who asks, waits, and looks around for what comes before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..claims import AUTO, STARTED, TASK, Kind, Shut
from ..errors import CodecError, LeaseLost
from ..log import DEAD_BIT
from ..system.clock import ns_of
from ..waiting import Interrupt, Seat, never
from . import expecting, pace, replay, seats, subscriptions
from .catalog import QueueState
from .seizing import ANYBODY, NO_SEAT, NOT_FOLDED, Pass, Seizing
from .steps import Claim, Refused

T = TypeVar("T")
#: How often a claimer looks around for the dead and for what is due before it takes what is there.
LOOKS_AROUND = 3


class Claiming(Seizing):
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
        enough: Callable[[], bool] = never,
    ) -> None:
        """Puts up to `count` claims into `into` as soon as there is one; none when none came in time.

        started: how many of them go to the user at once (None: all); the rest are
        prefetched and must be announced with `mark_started` or `start`. auto: the caller will settle them
        before the user sees them. enough() ends the waiting, too. Raises ShutDown, QueueLocked.

        `into` is the caller's, so that after an interrupt (Ctrl-C) at any moment he finds
        there whatever may be claimed, and can give it back with `release_all`.
        """
        flags = STARTED | AUTO if auto else STARTED
        given = count if started is None else started
        if not entry.waits and self._claim(queue, count, flags, given, NO_SEAT, into, entry):
            return  # most often
        self._receive_later(queue, count, timeout, interrupt, into, flags, given, entry, enough)

    def _receive_later(
        self,
        queue: QueueState,
        count: int,
        timeout: float | None,
        interrupt: Interrupt,
        into: list[Claim],
        flags: int,
        given: int,
        entry: Pass,
        enough: Callable[[], bool],
    ) -> None:
        """The rest of `receive`, for who found nothing or waits for the seat. Not in it: a function that is made there
        slows every call down, also where it is not made. (0.15 us; to make it, 1 us)
        """

        def attempt(seat: Seat) -> bool | None:
            if seat.expected is None and enough():
                return True
            return self._claim(queue, count, flags, given, seat, into, entry) or None

        if entry.waits and not seats.sit(self, queue, entry.number):
            end_ns = None if timeout is None else self.clock.monotonic_ns() + ns_of(timeout)
            if not self._stand_by(queue, entry, timeout, interrupt):
                return
            timeout = None if end_ns is None else max(0, end_ns - self.clock.monotonic_ns()) / 1e9
        if not entry.waits or not attempt(NO_SEAT):
            self._take_later(queue, attempt, timeout, interrupt, enough)

    def _stand_by(self, queue: QueueState, entry: Pass, timeout: float | None, interrupt: Interrupt) -> bool:
        """Wait for the seat, among those who wait for nothing else: a ring for a message is not for them."""

        def attempt(seat: Seat) -> bool | None:
            if seats.sit(self, queue, entry.number):
                return True
            self.log.fold()
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
        if self.passing is not None and seat.expected is None:
            self.takeback.notice_deaths()
            taken = self.passing.take(queue, AUTO | STARTED | TASK)
            if taken:
                body: T = taken[1]
                return (body,)
            if taken is False:
                return None
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
        self,
        queue: QueueState,
        attempt: Callable[[Seat], T | None],
        timeout: float | None,
        interrupt: Interrupt,
        enough: Callable[[], bool] = never,
    ) -> T | None:
        """After an attempt that found nothing."""
        if timeout == 0:
            return attempt(NO_SEAT) if self.care(queue.id, Kind.MESSAGE)[1] else None
        return self.waiters.wait(queue.id, Kind.MESSAGE, attempt, timeout, interrupt, enough)

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
        if kind is Kind.MESSAGE and self.passing is not None:
            passes = self.passing.has_any(queue)
            if passes is not None:
                return passes
        self.log.fold()
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
        if seat.expected is not None:
            if expecting.has_come(self, seat):
                return True
            if seat.expected is not None:
                return False
        self.takeback.notice_deaths()  # what they held comes before what is newer
        if queue.options.rate is not None:
            self.schedule.care(queue.id)  # what has expired uses no slot up
        passing = self.passing
        if passing is not None and count == started == 1 and entry is ANYBODY and not into:
            passed = passing.claim(queue, flags, into)
            if passed is not None:
                return passed
        attempts = 0
        while True:
            due_too = attempts < LOOKS_AROUND  # else there is no room to move what is due
            attempts += 1
            found = self._claim_once(queue, count, flags, started, seat, into, entry, due_too)
            if found is NOT_FOLDED:
                found = self._claim_once(queue, count, flags, started, seat, into, entry, due_too, still=True)
            if into or found is False:
                return bool(found)
            if found is None:
                self.care(queue.id, Kind.MESSAGE)
            # else all of it was damaged or expired, and is in the dead-letter queue now
