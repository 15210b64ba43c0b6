"""The queue that the user holds: the verbs of `queue.Queue`, and the reliable ones."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, Unpack

import attrs

from . import schedules
from .audit import problems
from .channel import Channel, PutOptions, channel_at
from .claims import Shut
from .codecs import BodyCodec
from .consumer import Consumer
from .engine import Claim, Engine, QueueState, byid
from .engine.removal import AT_ONCE, claimed, purge, redrive
from .errors import CodecError, Empty, NotSupported
from .handle import Handle
from .lease import ack_many, claimed_message, message_of
from .message import DEFAULT_PRIORITY, DEFAULT_RANK, Message, Record, rank_of
from .options import (
    UNSET,
    Backoff,
    Unset,
    check_count,
    check_eta,
    check_name,
    check_priority,
    check_rate,
    check_timeout,
    check_ttl,
    named_options,
)
from .producer import Producer
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
MODES = ("shared", "exclusive", "failover")


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


class Queue(Handle, Generic[T]):
    """A queue of messages, in memory or in a store on disk.

        Queue(maxsize=0)                 in memory, as queue.Queue
        Queue("orders", path="app.mq")   durable, shared by all processes that name it

    Messages of higher `priority` come first; within a priority, first in, first out.
    The settings are stored when the queue is first declared; leave them out to take
    what is stored (SettingsMismatch where a named one differs). See QueueOptions.

    Threads: all methods are free for any thread. Fork, spawn: a queue with a path can
    be inherited or pickled, and opens its store anew in the child; one in memory is
    copied by a fork, and cannot be pickled.

    Raises StoreError, StoreCorrupted, NotSupported for a path that cannot be used.
    """

    def __init__(
        self,
        name: str | int = "queue",
        path: str | os.PathLike[str] | None = None,
        *,
        durability: str = "full",
        max_store_bytes: int | None = None,
        maxsize: int | Unset = UNSET,
        maxbytes: int | Unset = UNSET,
        max_message_bytes: int | Unset = UNSET,
        overflow: str | Unset = UNSET,
        order: str | Unset = UNSET,
        aging: float | Unset | None = UNSET,
        fair: bool | Unset = UNSET,
        max_deliveries: int | Unset | None = UNSET,
        ack_timeout: float | Unset | None = UNSET,
        backoff: Backoff | Sequence[float] | Callable[[int], float] | Unset | None = UNSET,
        dead_letter: bool | Unset = UNSET,
        ttl: float | Unset | None = UNSET,
        expired: str | Unset = UNSET,
        dedup_window: float | Unset = UNSET,
        rate: float | tuple[int, float] | Unset | None = UNSET,
        limits: Mapping[str, int | None] | Unset | None = UNSET,
        codec: object = UNSET,
    ) -> None:
        if isinstance(name, int):  # queue.Queue(maxsize)
            if maxsize is not UNSET:
                raise TypeError("maxsize is given twice, by position and by name")
            maxsize, name = name, "queue"
        named = named_options(
            maxsize=maxsize,
            maxbytes=maxbytes,
            max_message_bytes=max_message_bytes,
            overflow=overflow,
            order=order,
            aging=aging,
            fair=fair,
            max_deliveries=max_deliveries,
            ack_timeout=ack_timeout,
            backoff=backoff,
            dead_letter=dead_letter,
            ttl=ttl,
            expired=expired,
            dedup_window=dedup_window,
            rate=rate,
            limits=limits,
            codec=codec if codec is UNSET else BodyCodec(codec).name,
        )
        self._attach(channel_at(path, check_name(name), named, codec, durability, max_store_bytes))

    @classmethod
    def of(cls, channel: Channel) -> Queue[Any]:
        """A handle on an open channel, which is closed with it."""
        queue: Queue[Any] = object.__new__(cls)
        queue._attach(channel)
        return queue

    def _attach(self, channel: Channel) -> None:
        self._channel = channel
        self._put_one = channel.put_one
        self._engine = channel.engine
        self._state = channel.state
        self._interrupt = Interrupt(f"queue {channel.state.name!r}")
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._reserving: list[Consumer] = []
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._watermarks: weakref.WeakSet[Watermarks] = weakref.WeakSet()
        self._dead: Queue[Any] | None = None
        self._opening = threading.Lock()  # guards `_dead`
        channel.store.handles.add(self)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._state.name

    @property
    def maxsize(self) -> int:
        """How many messages the queue holds at most, claimed ones included; 0 = no limit."""
        return self._state.options.maxsize

    @maxsize.setter
    def maxsize(self, value: int) -> None:
        self.configure(maxsize=value)

    def __repr__(self) -> str:
        path = self._channel.store.path
        where = "in memory" if path is None else f"path={path!r}"
        return f"<mqlite.Queue {self.name!r} {where}>"

    # ------------------------------------------------------------------ put
    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        **options: Unpack[PutOptions],
    ) -> int:
        """Store one message; returns its id. When this returns, the message is durable.

        delay: seconds until it lines up at its priority, whatever is done to the wall clock in this boot;
        eta: the same for a moment, an aware datetime or epoch seconds. Neither has a limit.
        ttl: seconds until it expires wherever it waits; while somebody holds it, it does not (see `expired`).
        group: one of a group is in flight at a time (see `limits`), in order of priority and put.
        dedup_id: within the queue's dedup_window, a second put with the same one stores nothing.
        replace_key: takes the place of the message with the same one, unless that is claimed.
        unique: stores nothing while a message with the same key is in one of `unique_states`: some of
        "delayed", "ready", "claimed", "dead". Where nothing is stored, the id of the first one is returned.

        Waits while the queue is full: for ever, for `timeout` seconds, or not at all
        (block=False), then raises Full. Raises ShutDown, CodecError, MessageTooLarge,
        StoreFull; then nothing was stored. Cost: one commit, shared with other threads
        that put or settle at the same moment; O(log n).
        """
        if self._interrupt.closed:
            self._interrupt.check()
        rank = DEFAULT_RANK if priority is DEFAULT_PRIORITY else rank_of(check_priority(priority))
        wait = None if block and timeout is None else check_timeout(timeout) if block else 0
        if options or self._state.marks_all:
            draft = self._channel.draft(item, *self._channel.said(rank, options))
            return self._channel.put([(rank, draft)], wait, self._interrupt)[0]
        return self._put_one(item, rank, wait, self._interrupt)

    def put_nowait(self, item: T, **options: Any) -> int:
        """`put` that raises Full at once."""
        return self.put(item, False, **options)

    def put_many(
        self,
        items: Iterable[T],
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        **options: Unpack[PutOptions],
    ) -> list[int]:
        """Store all items in one commit, or none; returns their ids. Otherwise as `put`.

        Raises ValueError where there are more items than maxsize: they could never fit.
        """
        self._interrupt.check()
        rank = rank_of(check_priority(priority))
        for name in ("dedup_id", "replace_key", "unique"):
            if options.get(name) is not None:
                raise TypeError(f"{name} is of one message: put them one by one, or through a producer")
        said = self._channel.said(rank, options)
        ranked = [(rank, self._channel.draft(item, *said)) for item in items]
        return self._channel.put(ranked, check_timeout(timeout) if block else 0, self._interrupt)

    # ------------------------------------------------------------------ get
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Remove the next message and return its body: at most once, even if you crash now.

        Waits for one for ever, for `timeout` seconds, or not at all (block=False), then
        raises Empty. Raises ShutDown once the queue is shut down and empty. Cost: one
        commit. Use `receive` or `consumer` for work that must not be lost.
        """
        if self._interrupt.closed:
            self._interrupt.check()
        wait = None if block and timeout is None else check_timeout(timeout) if block else 0
        body: tuple[T] | None = self._engine.get(self._state, wait, self._interrupt, self._channel.decode)
        if body is None:
            raise Empty(f"queue {self.name!r} had no message in time")
        return body[0]

    def get_nowait(self) -> T:
        """`get` that raises Empty at once."""
        return self.get(False)

    def receive(self, max_messages: int = 1, timeout: float | None = None) -> list[Message]:
        """Claim up to `max_messages` as soon as one is there; settle each with ack, nack, reject or release.

        timeout: seconds to wait; None = for ever, 0 = not at all; then raises Empty.
        Raises ShutDown. Cost: no flush. Claims end with this process, or after ack_timeout.
        """
        check_count(max_messages, "max_messages")
        wait = check_timeout(timeout)
        if self._interrupt.closed:
            self._interrupt.check()
        end = None if wait is None else time.monotonic() + wait
        engine, decode = self._engine, self._channel.decode
        claims: list[Claim] = []
        messages: list[Message] = []
        try:
            while True:
                engine.receive(self._state, max_messages, wait, self._interrupt, claims)
                if not claims:
                    raise Empty(f"queue {self.name!r} had no message in time")
                for claim in claims:
                    message = claimed_message(engine, claim, decode, None)
                    if message is not None:
                        messages.append(message)
                if messages:
                    return messages
                claims.clear()  # none could be decoded
                wait = None if end is None else max(0.0, end - time.monotonic())
        except BaseException:
            engine.release_all(claims)
            raise

    def consumer(self, prefetch: int = 1, auto_ack: bool = False, *, mode: str = "shared") -> Consumer:
        """A handle to take messages one after the other; iterate over it. See `Consumer`.

        mode: "shared", "exclusive" (raises QueueLocked where another consumer has the queue for itself), or "failover".
        """
        check_count(prefetch, "prefetch")
        if type(auto_ack) is not bool:
            raise TypeError(f"auto_ack is a bool, not {auto_ack!r}")
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(map(repr, MODES))}, not {mode!r}")
        self._interrupt.check()
        consumer = Consumer(self._channel, prefetch, auto_ack, mode)
        self._consumers.add(consumer)
        if mode != "shared":  # what it has is not lost track of: `close` frees it
            self._reserving = [known for known in self._reserving if not known.is_closed] + [consumer]
        return consumer

    def producer(self, *, priority: int = 0, max_buffered: int = 10_000) -> Producer:
        """A handle that buffers puts and commits them in groups. See `Producer`."""
        check_priority(priority)
        check_count(max_buffered, "max_buffered")
        self._interrupt.check()
        producer = Producer(self._channel, priority, max_buffered)
        self._producers.add(producer)
        return producer

    def ack_many(self, messages: Iterable[Message]) -> None:
        """Acknowledge all these messages in one commit, or none (LeaseLost, NotClaimed)."""
        self._interrupt.check()
        ack_many(messages, self._engine, self.name)

    # ------------------------------------------------------------------ the rest of queue.Queue
    def qsize(self) -> int:
        """How many messages are ready. Exact at rest. O(1), and a commit if delayed messages have become due."""
        self._interrupt.check()
        return self._engine.inspection.ready(self._state)

    __len__ = qsize

    def __bool__(self) -> bool:
        return True  # a queue is not false when it is empty: as queue.Queue

    def empty(self) -> bool:
        """Whether no message is ready."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether a put would have to wait."""
        self._interrupt.check()
        self._engine.schedule.care(self._state.id)  # what has expired takes no room
        maxbytes = self._state.options.maxbytes
        if maxbytes and maxbytes <= self._engine.inspection.numbers(self._state)["bytes"]:
            return True
        return 0 < self.maxsize <= self._engine.inspection.total(self._state)

    @property
    def unfinished_tasks(self) -> int:
        """Messages in the queue, and those taken by `get` for which no `task_done` was called."""
        self._interrupt.check()
        self._engine.schedule.care(self._state.id)  # what has expired is no task
        return self._engine.tasks.unfinished(self._state)

    def task_done(self) -> None:
        """What was taken by `get` is done. Messages that are acknowledged need no task_done.

        Raises ValueError when called more often than there were tasks. Tasks of a
        process that died count as done.
        """
        self._interrupt.check()
        if not self._engine.tasks.task_done(self._state):
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until every message was settled, or taken and reported by `task_done`."""
        self._interrupt.check()
        self._engine.tasks.join(self._state, self._interrupt)

    def shutdown(self, immediate: bool = False) -> None:
        """No more puts: they raise ShutDown. Gets go on until the queue is empty, then raise it too.

        immediate: gets raise at once; messages in memory are dropped, those on disk stay
        for the next start. Holds for all processes that use the store, until the last of
        them has closed it. Claimed messages can still be settled.
        """
        self._interrupt.check()
        self._engine.tasks.shutdown(self._state, bool(immediate))
        for consumer in list(self._consumers):
            consumer.give_back_buffered()

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called, here or in another process."""
        self._interrupt.check()
        return self._engine.tasks.shut(self._state) is not Shut.OPEN

    # ------------------------------------------------------------------ looking and operating
    def peek(self, n: int = 1) -> list[Message]:
        """The next n messages, unclaimed: they can be looked at, not settled."""
        check_count(n, "n")
        self._interrupt.check()
        found = self._engine.peek(self._state, n)
        messages = [self._looked_at(position, record) for position, record in found]
        return [message for message in messages if message is not None]

    def _looked_at(self, position: int, record: Record) -> Message | None:
        """An unclaimed message; None where its body cannot be decoded."""
        try:
            return message_of(self._state, position, record, self._channel.decode(record.payload), None)
        except CodecError:
            return None

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
            if len(found) < count:
                return
            count = min(4 * count, _BROWSED_AT_ONCE)

    def stats(self) -> QueueStats:
        """Exact counts. O(1), O(priorities in use) for the age, and a commit if delayed messages have become due."""
        self._interrupt.check()
        return stats_of(self._engine, self._state)

    @property
    def dead(self) -> Queue[Any]:
        """The dead-letter queue: itself a queue. `message.death` says why, `message.id` is unchanged."""
        self._interrupt.check()
        with self._opening:
            if self._dead is None or self._dead._interrupt.closed:
                self._dead = Queue.of(self._channel.dead())
            return self._dead

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
        moved, held = 0, []
        try:
            while max is None or moved < max:
                claims = claimed(engine, dead, self._interrupt, AT_ONCE if max is None else min(AT_ONCE, max - moved))
                if not claims:
                    return moved
                held.extend(claims)
                chosen = [claim for claim in claims if self._is_redriven(dead, claim, filter)]
                if chosen:
                    delays = [(moved + number) * interval for number in range(len(chosen))]
                    redrive(engine, self._state, chosen, delays)
                    moved += len(chosen)
            return moved
        finally:
            try:
                engine.release_all(held)  # what was moved is held no more, and passed over
            except BaseException:  # an interrupt: nobody would do it later
                engine.release_all(held)
                raise

    def _is_redriven(self, dead: QueueState, claim: Claim, filter: Callable[[Message], bool] | None) -> bool:
        try:
            body = self._channel.decode(claim.record.payload)
        except CodecError:
            return False
        message = message_of(dead, claim.position, claim.record, body, None)
        if filter is not None:
            return bool(filter(message))
        return message.death is None or message.death.reason != "corrupted"

    def purge(self) -> int:
        """Remove all messages that nobody holds, those that wait for their time too; returns how many.

        In commits of 256, so a crash may leave some, and what is put meanwhile may go or stay. Dead letters stay:
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

    # ------------------------------------------------------------------ lifetime
    def close(self) -> None:
        """Close this handle, its producers and consumers, and the store if it is the last one.

        Threads that wait get Closed. What producers have buffered is committed, as far as there is room.

        What this process holds goes back, without blame, when the store closes.
        """
        if not self._interrupt.closed:
            for producer in list(self._producers):
                producer.stop()
            for consumer in list(self._consumers):
                consumer.close()
            for watermarks in list(self._watermarks):
                watermarks.close()
            if self._dead is not None:
                self._dead.close()
            self._interrupt.close(self._engine.presence)
            self._channel.close()

    def __reduce__(self) -> Any:
        return Queue.of, (self._channel,)

    def after_fork(self) -> None:
        """In the child: threads that waited here are the parent's."""
        self._opening = threading.Lock()
        closed, self._interrupt = self._interrupt.closed, Interrupt(f"queue {self.name!r}")
        self._interrupt.closed = closed
