"""The queue that the user holds: the verbs of `queue.Queue`, and the reliable ones."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

from .calls import Calls, RequestReply, Responder
from .channel import NOTHING_SAID, Channel, PutOptions, channel_at
from .checks import check_count, check_name, check_priority, check_timeout
from .claims import Shut
from .codecs import BodyCodec
from .consumer import Consumer
from .engine import Claim
from .errors import Empty, NotSupported
from .lease import ack_many
from .message import DEFAULT_PRIORITY, DEFAULT_RANK, Message, rank_of
from .operations import Operations
from .options import UNSET, Backoff, Unset, named_options
from .prepared import CHECK_AFTER, Prepared, Prepares, Preparing, QueueTarget
from .producer import Producer
from .receipt import Receipt
from .transaction import Transaction, checked
from .waiting import Interrupt
from .watermarks import Watermarks

T = TypeVar("T")
MODES = ("shared", "exclusive", "failover")


class Queue(Operations[T], RequestReply[T], Prepares):
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
        durability: str | None = None,
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
        self._receiver = channel.receiver()
        self._engine = channel.engine
        self._state = channel.state
        self._interrupt = Interrupt(f"queue {channel.state.name!r}")
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._reserving: list[Consumer] = []
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._watermarks: weakref.WeakSet[Watermarks] = weakref.WeakSet()
        self._calls = Calls(channel)
        self._responders: weakref.WeakSet[Responder] = weakref.WeakSet()
        self._dead: Queue[Any] | None = None
        self._preparing: Preparing | None = None
        self._opening = threading.Lock()  # guards these two
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

    @property
    def is_closed(self) -> bool:
        """Whether this handle was closed."""
        return self._interrupt.closed

    def __repr__(self) -> str:
        path = self._channel.store.path
        where = "in memory" if path is None else f"path={path!r}"
        return f"<mqlite.Queue {self.name!r} {where}>"

    # ------------------------------------------------------------------ put
    @overload
    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: None = None,
        **options: Unpack[PutOptions],
    ) -> int: ...

    @overload
    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: Transaction,
        **options: Unpack[PutOptions],
    ) -> Receipt: ...

    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: Transaction | None = None,
        **options: Unpack[PutOptions],
    ) -> int | Receipt:
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
        that put or settle at the same moment, or, of most plain messages, one flush that all processes share; O(log n).

        tx: a Transaction, whose commit stores it; then this gives a Receipt, and does not wait.
        """
        if self._interrupt.closed:
            self._interrupt.check()
        if tx is not None:
            return self._stage([item], priority, timeout, tx, options)[0]
        rank = DEFAULT_RANK if priority is DEFAULT_PRIORITY else rank_of(check_priority(priority))
        wait = None if block and timeout is None else check_timeout(timeout) if block else 0
        if options or self._state.marks_all:
            draft = self._channel.draft(item, *self._channel.said(rank, options))
            return self._channel.put([(rank, draft)], wait, self._interrupt)[0]
        return self._put_one(item, rank, wait, self._interrupt)

    @overload
    def put_nowait(self, item: T, *, tx: None = None, **options: Any) -> int: ...

    @overload
    def put_nowait(self, item: T, *, tx: Transaction, **options: Any) -> Receipt: ...

    def put_nowait(self, item: T, **options: Any) -> int | Receipt:
        """`put` that raises Full at once."""
        found: int | Receipt = self.put(item, False, **options)
        return found

    @overload
    def put_many(
        self,
        items: Iterable[T],
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: None = None,
        **options: Unpack[PutOptions],
    ) -> list[int]: ...

    @overload
    def put_many(
        self,
        items: Iterable[T],
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: Transaction,
        **options: Unpack[PutOptions],
    ) -> list[Receipt]: ...

    def put_many(
        self,
        items: Iterable[T],
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        tx: Transaction | None = None,
        **options: Unpack[PutOptions],
    ) -> list[int] | list[Receipt]:
        """Store all items in one commit, or none; returns their ids. Otherwise as `put`.

        Raises ValueError where there are more items than maxsize: they could never fit.
        """
        self._interrupt.check()
        for name in ("dedup_id", "replace_key", "unique"):
            if options.get(name) is not None:
                raise TypeError(f"{name} is of one message: put them one by one, or through a producer")
        if tx is not None:
            return self._stage(list(items), priority, timeout, tx, options)
        rank = rank_of(check_priority(priority))
        said = self._channel.said(rank, options) if options or self._state.marks_all else NOTHING_SAID
        return self._channel.put_many(items, rank, said, check_timeout(timeout) if block else 0, self._interrupt)

    def _stage(
        self, items: list[T], priority: int, timeout: float | None, tx: Transaction, options: PutOptions
    ) -> list[Receipt]:
        """The commit of a transaction stores these."""
        transaction = checked(tx, self._engine, f"queue {self.name!r}")
        if timeout is not None:
            raise TypeError("a put in a transaction does not wait: give the timeout to transaction()")
        rank = rank_of(check_priority(priority))
        said = self._channel.said(rank, options)
        drafts = [self._channel.draft(item, *said) for item in items]
        if drafts:
            self._engine.check_can_fit(self._state, drafts)
        return [transaction.put(self._state, rank, draft, item) for draft, item in zip(drafts, items, strict=True)]

    # ------------------------------------------------------------------ prepare
    def prepare(
        self, item: T, *, check_after: float = CHECK_AFTER, priority: int = 0, **options: Unpack[PutOptions]
    ) -> Prepared[T]:
        """Store a message that is not to be seen until it is committed, here or in any process; durable when this
        returns.

        If nobody has decided for check_after seconds, whoever has called `check_back` is asked. Options as of `put`;
        delay, eta and ttl count from the commit. It takes no room in this queue until then. One commit. Raises as
        `put`.
        """
        check_priority(priority)
        return self._have_preparing().prepare(item, check_after, {"priority": priority, **options})

    def _target(self) -> QueueTarget:
        if self._state.is_dead:
            raise NotSupported(f"{self._state.name!r} is a dead-letter queue: prepare for the queue that it belongs to")
        return QueueTarget(self._channel)

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
        body: tuple[T] | None = self._engine.get(self._state, wait, self._interrupt, self._channel.read)
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
        if type(max_messages) is not int or max_messages != 1:
            check_count(max_messages, "max_messages")
        wait = None if timeout is None else check_timeout(timeout)
        if self._interrupt.closed:
            self._interrupt.check()
        end = time.monotonic() + wait if wait else None
        engine = self._engine
        claims: list[Claim] = []
        try:
            while True:
                engine.receive(self._state, max_messages, wait, self._interrupt, claims)
                if not claims:
                    raise Empty(f"queue {self.name!r} had no message in time")
                messages = self._receiver.messages(claims)
                if messages:
                    return messages
                claims.clear()  # none could be decoded
                wait = wait if end is None else max(0.0, end - time.monotonic())
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

    def ack_many(self, messages: Iterable[Message], tx: Transaction | None = None) -> None:
        """Acknowledge all these messages in one commit, or none (LeaseLost, NotClaimed). tx: in that of a
        transaction.
        """
        self._interrupt.check()
        ack_many(messages, self._engine, self.name, tx)

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

    @property
    def dead(self) -> Queue[Any]:
        """The dead-letter queue: itself a queue. `message.death` says why, `message.id` is unchanged."""
        self._interrupt.check()
        with self._opening:
            if self._dead is None or self._dead._interrupt.closed:
                self._dead = Queue.of(self._channel.dead())
            return self._dead

    # ------------------------------------------------------------------ lifetime
    def close(self) -> None:
        """Close this handle, its producers, consumers and responders, and the store if it is the last one.

        Threads that wait get Closed; the work of responders is finished first. What producers have buffered is
        committed, as far as there is room.

        What this process holds goes back, without blame, when the store closes.
        """
        if not self._interrupt.closed:
            self._calls.close()
            for responder in list(self._responders):
                responder.close()
            for producer in list(self._producers):
                producer.stop()
            for consumer in list(self._consumers):
                consumer.close()
            for watermarks in list(self._watermarks):
                watermarks.close()
            if self._dead is not None:
                self._dead.close()
            if self._preparing is not None:
                self._preparing.close()
            self._interrupt.close(self._engine.presence)
            self._channel.close()

    def __reduce__(self) -> Any:
        return Queue.of, (self._channel,)

    def after_fork(self) -> None:
        """In the child: threads that waited here are the parent's."""
        self._opening = threading.Lock()
        closed, self._interrupt = self._interrupt.closed, Interrupt(f"queue {self.name!r}")
        self._interrupt.closed = closed
        self._calls.after_fork()
