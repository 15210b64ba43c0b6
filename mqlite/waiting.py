"""Waiting without losing a wake-up, and without polling.

    write your row -> look -> sleep          [5]

Whoever changes something commits first and then reads who waits, so either the
change is seen by the look, or the row by the change. One sleeper is rung per
change; one who was rung and leaves something for others passes the ring on [9].
A ring, once sent, may meet a sleeper that has just timed out or died: who leaves
looks for others first, and every process watches all others for death.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol, TypeVar

import attrs

from .claims import Claims, Kind, Waiting
from .errors import Closed
from .system.clock import Clock
from .wake import Bell, Sleeper

T = TypeVar("T")
#: A ring goes to one of so many sleepers.
RUNG_FROM = 8
#: So often in a wait one may find that another was faster before a row is made.
LOOKS = 8
#: Seconds that one sleeps without a row among the waiters, before it gives up what it expects.
EXPECTS_AT_MOST = 0.02
#: Queues for which it is remembered when who waits there was to wake.
USUAL_AT_MOST = 1024
Ring = tuple[int, Kind, list[Waiting]]


class Presence(Protocol):
    """This process among those that share the store."""

    @property
    def bell(self) -> Bell:
        """Rings sleepers, here and elsewhere."""

    @property
    def generation(self) -> int:
        """The generation of the owners that are watched."""

    @property
    def owner(self) -> int:
        """The id of this process, which joins the store if it has not. [6]"""

    def watch(self, owners: Iterable[int], generation: int) -> None:
        """See all these processes die."""

    def someone_died(self) -> bool:
        """Whether a watched process may have died."""

    def is_alive(self, owner: int) -> bool:
        """Whether a process lives."""

    def bury(self, owner: int) -> None:
        """Remove what a dead process left."""


class BenchKeeper(Protocol):
    """Where a sleeper registers without a row (claims/bench.py)."""

    def sit(self, queue: int, waiting: Waiting) -> int | None:
        """Sit down, and look: when to look again, in ns, or 0, where nothing is to be had; -1, where something may be,
        sitting still or not. None, not sitting, where a row is to be made.
        """

    def get_up(self, queue: int, sleeper: int, owner: int) -> None:
        """Sit no more, if one did. May be done again after an interrupt. Raises Closed: nobody of this process sits."""

    def pass_on(self, queue: int) -> bool:
        """Where everybody who waits for a message sits: call one, if something is there for him. Else False."""


def never() -> bool:
    """Not yet, and so on."""
    return False


class Interrupt:
    """Ends the waiting of one handle's threads when the handle is closed.

    Each attempt calls `check`, which raises once closed; `close` sets the mark first
    and then rings those that were seen, so nobody sleeps on.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.closed = False
        self._sleepers: set[int] = set()

    def check(self, sleeper: int = 0) -> None:
        """Raises Closed once closed."""
        if sleeper:
            self._sleepers.add(sleeper)
        if self.closed:
            raise Closed(f"{self.what} was closed: open it again to use it")

    def close(self, presence: Presence) -> None:
        """Raise Closed in all threads that wait."""
        self.closed = True
        self.ring(presence)

    def ring(self, presence: Presence) -> None:
        """Have all threads that wait look again."""
        for sleeper in list(self._sleepers):
            presence.bell.ring(presence.owner, sleeper)

    def forget(self, sleeper: int) -> None:
        """That thread waits no more."""
        self._sleepers.discard(sleeper)


@attrs.define
class Seat:
    """A waiting thread's row among the claims, while it has one. A claim removes it in its own commit.

    alone_at: the number of that commit, if it left nobody who waits. As long as it is the last one, nobody does.
    expected: what it has a claim on that is about to be committed, instead of the row; who commits rings it. [28]
    patient: there is time left to wait for that. Else, if it is not there, it is given up.
    """

    sleeper: int = 0
    taken: bool = False
    alone_at: int = -2
    expected: Any = None
    patient: bool = True


class Waiters:
    """The sleepers of one store, as the claims list them.

    care(queue, kind) -> (when to do so again, in ns, or 0; anything taken back, or moved because it was due)
    promising(queue, kind): whether a sleeper would get what it waits for.
    due_ns(queue): when a message will be there for who waits, since it is due or the rate allows it, or 0.
    give_up(seat): nothing is expected any more. May raise Closed.
    is_calm(queue): whether it is known that nobody waits. Cheap.
    """

    def __init__(
        self,
        claims: Claims,
        presence: Presence,
        clock: Clock,
        care: Callable[[int, Kind], tuple[int, bool]],
        promising: Callable[[int, Kind], bool],
        due_ns: Callable[[int], int],
        give_up: Callable[[Seat], None],
        is_calm: Callable[[int], bool],
    ) -> None:
        self._claims = claims
        self._presence = presence
        self._clock = clock
        self._care = care
        self._promising = promising
        self._due_ns = due_ns
        self._give_up = give_up
        self._is_calm = is_calm
        self.bench: BenchKeeper | None = None
        self._usual_ns: dict[tuple[int, Kind], int] = {}  # when one who waited was to wake
        self._ghosts: deque[tuple[int, Kind, int, int]] = deque()  # rows to remove, of sleepers that are gone
        self._leaving: deque[tuple[int, int, int]] = deque()  # who may sit on the bench still, and is gone

    def wait(
        self,
        queue: int,
        kind: Kind,
        attempt: Callable[[Seat], T | None],
        timeout: float | None,
        interrupt: Interrupt,
        enough: Callable[[], bool] = never,
    ) -> T | None:
        """The first result of `attempt(seat)` that is not None, or None after `timeout` seconds. [16] enough(): whether
        an attempt has something to say although no message is there.

        The caller has just tried in vain, so it begins with the row; the time to wake that is written first is the one
        of the last time, which is mostly the same still. (A fifth of the processor time of who waits for each message.)
        """
        end_ns = None if timeout is None else self._clock.monotonic_ns() + int(timeout * 1e9)
        owner = self._presence.owner
        bell = self._presence.bell
        if self._ghosts:
            self._clear_ghosts()
        if self._leaving:
            self._get_up()
        sleeper = bell.sleeper()
        seat = Seat(sleeper.id)
        bench = self.bench if kind is Kind.MESSAGE else None
        involved = woken = False
        expects_until = 0.0
        promised_ns = self._usual_ns.get((queue, kind), 0)
        if promised_ns <= self._clock.monotonic_ns():
            promised_ns = 0
        try:
            if bench is not None:
                involved = True
                result = self._wait_on_bench(bench, queue, attempt, end_ns, interrupt, enough, seat, sleeper)
                if result is not None:
                    return result
            interrupt.check(sleeper.id)
            seat.taken = involved = True
            self._register(queue, kind, Waiting(sleeper.id, owner, promised_ns))
            while True:
                if woken and (seat.taken or seat.expected) and not interrupt.closed:  # most likely for a message
                    result = attempt(seat)  # (16% of the time to wake up)
                    if result is None and bench is not None and self._may_sit(bench, queue, seat, owner):
                        result = self._wait_on_bench(bench, queue, attempt, end_ns, interrupt, enough, seat, sleeper)
                    if result is not None:
                        return result
                woken = False
                if bell.drain(sleeper) and self._claims.ring_unseats:
                    seat.taken = False  # it registers again if there is nothing for it; twice is once
                interrupt.check(sleeper.id)
                if seat.expected is None:  # else he looks again: a ring for it may just have been forgotten
                    wake_ns, took_back = self._care(queue, kind)
                    involved = involved or took_back
                result = attempt(seat)
                if result is not None:
                    return result
                now_ns = self._clock.monotonic_ns()
                if seat.expected is not None:
                    if not expects_until:
                        left = EXPECTS_AT_MOST if end_ns is None else min(EXPECTS_AT_MOST, (end_ns - now_ns) / 1e9)
                        expects_until = time.monotonic() + left
                    bell.sleep(sleeper, max(0.0, expects_until - time.monotonic()))
                    seat.patient = time.monotonic() < expects_until
                    woken = True
                    continue
                seat.patient, expects_until = True, 0.0
                if end_ns is not None and now_ns >= end_ns:
                    return None
                late = 0 < promised_ns <= now_ns and wake_ns != promised_ns
                if not seat.taken or late or 0 < wake_ns < (promised_ns or math.inf):  # to wake too early is harmless
                    seat.taken = involved = True
                    promised_ns = wake_ns
                    self._register(queue, kind, Waiting(sleeper.id, owner, wake_ns))
                    continue
                if len(self._usual_ns) >= USUAL_AT_MOST:
                    self._usual_ns.clear()
                self._usual_ns[queue, kind] = promised_ns
                if kind is Kind.SPACE and self._promising(queue, kind):
                    self._ring_next(queue, kind, sleeper.id, owner)  # room for others, if not for this
                until = [ns for ns in (end_ns, promised_ns or None) if ns is not None]
                bell.sleep(sleeper, max(0.0, (min(until) - now_ns) / 1e9) if until else None)
                woken = True
        except Closed:
            interrupt.check()  # the handle's own words, if it was closed and not only the store
            raise
        finally:
            seat.taken = seat.taken or (self._claims.ring_unseats and involved)
            if seat.taken:
                self._ghosts.append((queue, kind, sleeper.id, owner))
            if bench is not None:
                self._leaving.append((queue, sleeper.id, owner))
            bell.forget(sleeper)
            interrupt.forget(sleeper.id)
            with contextlib.suppress(Closed):  # closing removed the row
                if bench is not None:
                    try:
                        self._get_up()
                    except KeyboardInterrupt:  # else others ring him in vain, until somebody here waits again
                        self._get_up()
                        raise
                if seat.expected is not None:  # an interrupt, or a close
                    self._give_up(seat)
                if seat.taken:
                    self._clear_ghosts()
                alone = seat.alone_at == self._claims.last_commit() and not self._somebody_sits()
                if involved and not alone and not (bench is not None and bench.pass_on(queue)):
                    self._pass_on(queue, kind)

    def _may_sit(self, bench: BenchKeeper, queue: int, seat: Seat, owner: int) -> bool:
        """Whether he can do without his row from now on: then it is gone."""
        if not seat.taken or bench.sit(queue, Waiting(seat.sleeper, owner, 0)) is None:
            return False
        self._ghosts.append((queue, Kind.MESSAGE, seat.sleeper, owner))
        self._clear_ghosts()
        seat.taken = False
        return True

    def _wait_on_bench(
        self,
        bench: BenchKeeper,
        queue: int,
        attempt: Callable[[Seat], T | None],
        end_ns: int | None,
        interrupt: Interrupt,
        enough: Callable[[], bool],
        seat: Seat,
        sleeper: Sleeper,
    ) -> T | None:
        """The same without a row, where messages pass by; None where one is needed, or the time is over. To sit down
        and to look for messages is one step there; what an attempt looks at besides is in their way, and so in its.
        """
        bell, waiting = self._presence.bell, Waiting(sleeper.id, self._presence.owner, 0)
        looks = 0  # at something that somebody else got first, or that is not to be had so
        while looks < LOOKS:
            bell.drain(sleeper)
            interrupt.check(sleeper.id)
            if enough():
                break
            wake_ns = bench.sit(queue, waiting)
            if wake_ns is None:
                break
            if wake_ns < 0:
                looks += 1
            else:
                now_ns = self._clock.monotonic_ns()
                if end_ns is not None and now_ns >= end_ns:
                    break
                until = [ns for ns in (end_ns, wake_ns or None) if ns is not None]
                bell.sleep(sleeper, max(0.0, (min(until) - now_ns) / 1e9) if until else None)
                if interrupt.closed:
                    continue
            result = attempt(seat)
            if result is not None:
                return result
        bench.get_up(queue, *waiting[:2])  # or his time to wake there, soon old, would count beside that of his row
        return None

    def _get_up(self) -> None:
        """Nobody sits there any more who is gone: oneself, and any that an interrupt kept from getting up."""
        assert self.bench is not None
        for each in list(self._leaving):
            self.bench.get_up(*each)
            with contextlib.suppress(ValueError):  # another thread was faster
                self._leaving.remove(each)

    def _somebody_sits(self) -> bool:
        return self._claims.bench is not None and not self._claims.bench.is_empty()

    def _register(self, queue: int, kind: Kind, waiting: Waiting) -> None:
        with self._claims.lock, self._claims.guard, self._claims.write() as c:
            c.require(waiting.owner)
            c.register(queue, kind, waiting)

    def _clear_ghosts(self) -> None:
        """Remove the rows of sleepers that are gone: one's own, and any that an interrupt kept from doing so."""
        ghosts = list(self._ghosts)
        with self._claims.lock, self._claims.guard, self._claims.write() as c:
            for ghost in ghosts:
                c.leave(*ghost)
        for ghost in ghosts:
            with contextlib.suppress(ValueError):
                self._ghosts.remove(ghost)

    def _pass_on(self, queue: int, kind: Kind) -> None:
        """Others wait, and there is something for them: ring one."""
        if not self.somebody(queue, kind):
            return
        with self._claims.read() as c:
            deadline_ns = c.deadline_ns(queue)
        times_ns = [ns for ns in (deadline_ns, self._due_ns(queue)) if ns]
        if self._promising(queue, kind) or any(self.uncovered(queue, ns, kind) for ns in times_ns):
            self.ring_one(queue, kind)

    def somebody(self, queue: int, kind: Kind) -> bool:
        """Whether anybody is registered."""
        if self._is_calm(queue):
            return False
        with self._claims.read() as c:
            return next(c.waiting(queue, kind), None) is not None

    def uncovered(self, queue: int, deadline_ns: int, kind: Kind = Kind.MESSAGE) -> bool:
        """Whether sleepers wait, and none wakes by itself at or before the deadline."""
        with self._claims.read() as c:
            waiting = list(c.waiting(queue, kind))
        return bool(waiting) and not any(0 < w.wake_ns <= deadline_ns for w in waiting)

    def ring(self, owner: int, sleeper: int) -> bool:
        """Ring that sleeper, of whatever process; False where it cannot be reached."""
        return self._presence.bell.ring(owner, sleeper)

    def ring_one(self, queue: int, kind: Kind) -> None:
        """Ring the first registered sleeper that can be reached."""
        with self._claims.read() as c:
            waiting = list(islice(c.waiting(queue, kind), RUNG_FROM))
        self.ring_any(queue, kind, waiting)

    def ring_any(self, queue: int, kind: Kind, waiting: list[Waiting]) -> None:
        """Ring the first of these that can be reached; they were read after the change that they wait for."""
        if not self._ring_first(queue, kind, waiting) and len(waiting) == RUNG_FROM:  # so many that are gone
            with self._claims.read() as c:
                everybody = list(c.waiting(queue, kind))
            self._ring_first(queue, kind, everybody)

    def _ring_first(self, queue: int, kind: Kind, waiting: list[Waiting]) -> bool:
        one_step = self._claims.lock if self._claims.ring_unseats else contextlib.nullcontext()
        with one_step:  # else the new row of one that has woken and registered again would go, and it would sleep on
            for w in waiting:
                if self._presence.bell.ring(w.owner, w.sleeper):
                    if self._claims.ring_unseats:
                        with self._claims.write() as c:
                            c.leave(queue, kind, w.sleeper, w.owner)
                    return True
        return False

    def _ring_next(self, queue: int, kind: Kind, sleeper: int, owner: int) -> None:
        """Ring the sleeper that is registered behind this one."""
        with self._claims.read() as c:
            behind = [w for w in c.waiting(queue, kind) if (w.sleeper, w.owner) > (sleeper, owner)]
        for w in sorted(behind, key=lambda w: (w.sleeper, w.owner)):
            if self._presence.bell.ring(w.owner, w.sleeper):
                return

    def ring_all(self, queue: int, kind: Kind) -> None:
        """Ring every registered sleeper."""
        with self._claims.read() as c:
            waiting = list(c.waiting(queue, kind))
        for w in waiting:
            self._presence.bell.ring(w.owner, w.sleeper)
