"""Looking at a queue and operating it: what is in it, what it costs, and what becomes of the messages by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeVar

import attrs

from . import schedules
from .audit import problems
from .channel import Channel
from .checks import check_count, check_eta, check_priority, check_rate, check_ttl
from .engine import Claim, Engine, QueueState, byid, replay
from .engine.removal import AT_ONCE, claim_some, purge, redrive
from .errors import CodecError, NotSupported
from .handle import Handle
from .lease import message_of
from .message import Message, Record, rank_of
from .recurrence import Recurrence
from .schedules import Schedule
from .waiting import Interrupt
from .watermarks import Watermarks

T = TypeVar("T")
_BROWSED_AT_ONCE = 256
#: What `configure` may change.
CHANGEABLE = frozenset(
    {
        "ack_timeout",
        "backoff",
        "dead_letter",
        "dedup_window",
        "expired",
        "limits",
        "max_deliveries",
        "max_message_bytes",
        "maxbytes",
        "maxsize",
        "overflow",
        "rate",
        "ttl",
    }
)


@attrs.frozen(kw_only=True)
class QueueStats:
    """The state of a queue. Exact at rest; while others work, claimed may lag behind for a moment.

    ready + delayed + claimed is what maxsize limits; delayed: those that wait for their
    time. bytes: as stored (in memory: of bytes and str bodies). oldest_age: seconds since
    the oldest message that does not wait for its time was put, None when there is none.
    """

    ready: int
    delayed: int
    claimed: int
    dead: int
    bytes: int
    oldest_age: float | None


def stats_of(engine: Engine, state: QueueState) -> QueueStats:
    """The state of a queue."""
    numbers = engine.inspection.numbers(state)
    oldest_ns = numbers.pop("oldest_ns")
    age = None if oldest_ns is None else max(0.0, (engine.clock.wall_ns() - oldest_ns) / 1e9)
    return QueueStats(oldest_age=age, **numbers)


class Operations(Handle, Generic[T]):
    """The part of a Queue that is for its operator."""

    _channel: Channel
    _engine: Engine
    _state: QueueState
    _interrupt: Interrupt
    _watermarks: weakref.WeakSet[Watermarks]

    # ------------------------------------------------------------------ looking
    def peek(self, n: int = 1) -> list[Message]:
        """The next n messages, unclaimed: they can be looked at, not settled."""
        check_count(n, "n")
        self._interrupt.check()
        if self._channel.accept is not None:
            return list(islice(self._browse(None), n))  # it has the last word
        found = self._engine.peek(self._state, n)
        messages = [self._looked_at(position, record) for position, record in found]
        return [message for message in messages if message is not None]

    def _looked_at(self, position: int, record: Record) -> Message | None:
        """An unclaimed message; None where its body cannot be decoded."""
        try:
            message = message_of(self._state.name, position, record, self._channel.decode(record.payload))
        except CodecError:
            return None
        accept = self._channel.accept
        return message if accept is None or accept(message) else None

    def browse(self, filter: Callable[[Message], bool] | None = None) -> Iterator[Message]:
        """All ready messages in delivery order, unclaimed; those that `filter` accepts.

        Reads in short steps, so it sees changes made meanwhile ahead of it. A damaged
        message is passed over: it goes to the dead-letter queue when its turn comes.
        """
        self._interrupt.check()
        if filter is not None and not callable(filter):
            raise TypeError(f"filter is a function of a message, not {filter!r}")
        return self._browse(filter)

    def _browse(self, filter: Callable[[Message], bool] | None) -> Iterator[Message]:
        start, count = 0, 1 << 62 if self._channel.store.in_memory else 1
        while True:
            found = self._engine.inspection.browse(self._state, start, count)
            for position, record in found:
                start = position + 1
                message = None if record is None else self._looked_at(position, record)
                if message is not None and (filter is None or filter(message)):
                    yield message
            if len(found) < count and not (self._state.topic and replay.top_up(self._engine, self._state)[1]):
                return
            count = min(4 * count, _BROWSED_AT_ONCE)

    def stats(self) -> QueueStats:
        """Exact counts. O(1), O(priorities in use) for the age, and a commit if delayed messages have become due."""
        self._interrupt.check()
        return stats_of(self._engine, self._state)

    def redrive(
        self, filter: Callable[[Message], bool] | None = None, max: int | None = None, rate: float | None = None
    ) -> int:
        """Move dead letters back to this queue, as if they were new: at the end of the line, with their id, body and
        headers, and with counts of 0. Returns how many.

        filter: only those that it accepts; None: all but corrupted ones, which no consumer could read.
        max: so many at most. rate: so many per second: they line up one after the other, like delayed messages;
        None: all at once. One commit per 256; each is atomic. Raises Full where a group finds no room;
        what was moved before stays moved. While it runs, it holds the letters that it looks at.
        """
        self._interrupt.check()
        if filter is not None and not callable(filter):
            raise TypeError(f"filter is a function of a message, not {filter!r}")
        if max is not None:
            check_count(max, "max")
        interval = 0.0 if rate is None else 1 / check_rate(rate)
        if self._state.is_dead:
            raise NotSupported(f"{self._state.name!r} is a dead-letter queue: redrive the queue that it belongs to")
        engine, dead = self._engine, self._engine.catalog.dead_of(self._state)
        moved = 0
        held: list[list[Claim]] = []
        try:
            while max is None or moved < max:
                claims: list[Claim] = []
                held.append(claims)  # before they are there: an interrupt may strike right behind
                count = AT_ONCE if max is None else min(AT_ONCE, max - moved)
                claim_some(engine, dead, self._interrupt, claims, count)
                if not claims:
                    return moved
                chosen = [claim for claim in claims if self._is_redriven(dead, claim, filter)]
                if chosen:
                    delays = [(moved + number) * interval for number in range(len(chosen))]
                    redrive(engine, self._state, chosen, delays)
                    moved += len(chosen)
            return moved
        finally:
            try:
                engine.release_all(
                    [claim for claims in held for claim in claims]
                )  # what was moved is held no more, and passed over
            except BaseException:  # an interrupt: nobody would do it later
                engine.release_all([claim for claims in held for claim in claims])
                raise

    def _is_redriven(self, dead: QueueState, claim: Claim, filter: Callable[[Message], bool] | None) -> bool:
        try:
            body = self._channel.decode(claim.record.payload)
        except CodecError:
            return False
        message = message_of(dead.name, claim.position, claim.record, body)
        if filter is not None:
            return bool(filter(message))
        return message.death is None or message.death.reason != "corrupted"

    def purge(self) -> int:
        """Remove all messages that nobody holds, those that wait for their time too; returns how many.

        In commits of 256, so a crash may leave some. What is put after the call has begun stays. So do dead letters:
        `queue.dead.purge()` removes those.
        """
        self._interrupt.check()
        return purge(self._engine, self._state, self._interrupt)

    def configure(self, **changes: Any) -> None:
        """Change stored settings, for every process: names and values as in `Queue`; not the order, nor the codec.

        One commit. A put that is under way, and the first one of another process, may still go by the old
        max_message_bytes and ttl.
        """
        self._interrupt.check()
        for name in changes:
            if name not in CHANGEABLE:
                raise TypeError(f"{name!r} cannot be changed: configure takes {', '.join(sorted(CHANGEABLE))}")
        self._configure(changes)

    def _configure(self, changes: dict[str, Any]) -> None:
        if self._state.is_dead:
            raise NotSupported(f"{self._state.name!r} is a dead-letter queue, whose settings are fixed")
        attrs.evolve(self._state.options, **changes)  # bad values are told before anything is stored
        self._engine.configure(self._state, changes)

    def pause(self) -> None:
        """Hand nothing out until `resume`: stored, for every process. Puts and settling go on; `get` and `receive`
        wait, or raise Empty. Prefetched messages are handed out.
        """
        self._interrupt.check()
        self._configure({"paused": True})

    def resume(self) -> None:
        """Hand out again; those who wait wake up."""
        self._interrupt.check()
        self._configure({"paused": False})

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called, here or in another process."""
        self._interrupt.check()
        with self._engine.log.read() as snapshot:
            return self._engine.catalog.options(self._state, snapshot).paused

    # ------------------------------------------------------------------ one message, by its id
    def cancel(self, id: int) -> bool:
        """Remove the message with that id, ready or waiting for its time; False where there is none (any more).

        Raises AlreadyClaimed while somebody holds it. One commit; O(priorities in use).
        """
        self._interrupt.check()
        return byid.cancel(self._engine, self._state, check_count(id, "id"))

    def update(
        self,
        id: int,
        *,
        priority: int | None = None,
        delay: float | None = None,
        eta: datetime | float | None = None,
        ttl: float | None = None,
    ) -> bool:
        """Give the message with that id another priority, time or ttl; False where there is none (any more).

        It lines up behind what is there at its priority, or waits until delay seconds from now, or eta (delay=0:
        it is ready now); ttl counts from now. Its id stays. Raises AlreadyClaimed while somebody holds it,
        StoreFull. One commit; O(priorities in use).
        """
        self._interrupt.check()
        check_count(id, "id")
        if priority is delay is eta is ttl is None:
            raise TypeError("update needs something to change: priority, delay, eta or ttl")
        timeline = self._engine.timeline
        wanted = byid.Update(
            rank=None if priority is None else rank_of(check_priority(priority)),
            due=self._channel.due(delay, eta),
            due_stays=delay is None and eta is None,
            expires=None if ttl is None else timeline.after(check_ttl(ttl)),
        )
        return byid.update(self._engine, self._state, id, wanted)

    # ------------------------------------------------------------------ schedules
    def schedule(
        self,
        name: str,
        item: T,
        *,
        every: float | None = None,
        cron: str | None = None,
        zone: str = "UTC",
        start: datetime | float | None = None,
        catch_up: str = "one",
        priority: int = 0,
        ttl: float | None = None,
        group: str | None = None,
        headers: Mapping[str, Any] | None = None,
        type: str | None = None,
    ) -> None:
        """Put `item` again and again: every so many seconds (from `start`, without drift), or by a cron expression in a
        time zone (needs the extra "cron"). Stored under `name`; the same name again replaces it.

        Each firing is one message however many processes run, put as soon as any of them looks at the queue. What was
        missed: catch_up="one" message for all, "all" of them, or "skip" those over 60 s late. See Recurrence.
        One commit. Raises ValueError, TypeError, NotSupported (without the extra), CodecError.
        """
        self._interrupt.check()
        recurrence = Recurrence(
            name=name,
            every=every,
            cron=cron,
            zone=zone,
            start_ns=None if start is None else int(check_eta(start, "start") * 1e9),
            catch_up=catch_up,  # type: ignore[arg-type]
        )
        rank = rank_of(check_priority(priority))
        schedules.add(self._channel, recurrence, item, rank, ttl=ttl, group=group, headers=headers, type=type)

    def unschedule(self, name: str) -> bool:
        """Fire no more; False where there is no schedule of that name. What was put stays. One commit."""
        self._interrupt.check()
        return schedules.remove(self._engine, self._state, name)

    def schedules(self) -> list[Schedule]:
        """The schedules of this queue, the next to fire first."""
        self._interrupt.check()
        return schedules.found(self._engine, self._state)

    def watermarks(
        self,
        high: int,
        low: int,
        *,
        on_high: Callable[[int], object] | None = None,
        on_low: Callable[[int], object] | None = None,
    ) -> Watermarks:
        """Call on_high(n) when the queue comes to hold `high` messages, then on_low(n) when it has fallen to `low`, and
        so on, whoever puts and takes. See `Watermarks`; close it to end this.
        """
        self._interrupt.check()
        watermarks = Watermarks(self._channel, high, low, on_high, on_low)
        self._watermarks.add(watermarks)
        return watermarks

    def check(self) -> list[str]:
        """What is wrong with the store of this queue; [] when all is well. See `Broker.check`."""
        self._interrupt.check()
        return problems(self._engine)
