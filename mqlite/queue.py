"""The queue that the user holds: the verbs of `queue.Queue`, and the reliable ones."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

import attrs

from .claims import Shut
from .codecs import BodyCodec, check_json
from .consumer import Consumer
from .engine import QueueState
from .errors import CodecError, Empty, Full, MessageTooLarge, NotSupported, SettingsMismatch
from .lease import ack_many, claimed_message, message_of
from .log import Draft
from .message import Message, Record, rank_of
from .options import UNSET, QueueOptions, Unset, check_count, check_name, check_priority, check_timeout
from .producer import Producer
from .store import Store, open_store
from .waiting import Interrupt

T = TypeVar("T")
_BROWSED_AT_ONCE = 256


@attrs.frozen(kw_only=True)
class QueueStats:
    """The state of a queue. Exact at rest; while others work, claimed may lag behind for a moment.

    ready + delayed + claimed is what maxsize limits. bytes: as stored (in memory: of
    bytes and str bodies). oldest_age: seconds since the oldest message was put, None
    when there is none.
    """

    ready: int
    delayed: int
    claimed: int
    dead: int
    bytes: int
    oldest_age: float | None


class Queue(Generic[T]):
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
        max_message_bytes: int | Unset = UNSET,
        max_deliveries: int | None | Unset = UNSET,
        ack_timeout: float | None | Unset = UNSET,
        dead_letter: bool | Unset = UNSET,
        codec: object = UNSET,
        _store: Store | None = None,
    ) -> None:
        if type(name) is int:  # queue.Queue(maxsize)
            if maxsize is not UNSET:
                raise TypeError("maxsize is given twice, by position and by name")
            name, maxsize = "queue", name
        check_name(name)
        if not isinstance(name, str):
            raise TypeError(f"a queue's name is a str, not {name!r}")
        options = {
            "maxsize": maxsize,
            "max_message_bytes": max_message_bytes,
            "max_deliveries": max_deliveries,
            "ack_timeout": ack_timeout,
            "dead_letter": dead_letter,
        }
        named = {key: value for key, value in options.items() if value is not UNSET}
        if codec is not UNSET:
            named["codec"] = BodyCodec(codec).name
        QueueOptions(**named)  # bad values are told before a store is made
        self._store = _store or open_store(path, durability=durability, max_store_bytes=max_store_bytes)
        try:
            self._engine = self._store.engine
            state = self._engine.declare(name, named)
            self._codec = _codec_for(state, codec)
        except BaseException:
            if _store is None:
                self._store.close()
            raise
        self._set_up(state)

    def _set_up(self, state: QueueState) -> None:
        self._state = state
        self._interrupt = Interrupt(f"queue {state.name!r}")
        self._closed = False
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self._decode: Callable[[Any], Any] = _identity if self._store.in_memory else self._codec.decode
        self._store.handles.add(self)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._state.name

    @property
    def maxsize(self) -> int:
        """How many messages the queue holds at most, claimed ones included; 0 = no limit."""
        return self._state.options.maxsize

    def __repr__(self) -> str:
        where = "in memory" if self._store.path is None else f"path={self._store.path!r}"
        return f"<mqlite.Queue {self.name!r} {where}>"

    # ------------------------------------------------------------------ put
    def put(
        self,
        item: T,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        headers: Mapping[str, Any] | None = None,
        type: str | None = None,
        reply_to: str | None = None,
        correlation_id: str | None = None,
    ) -> int:
        """Store one message; returns its id. When this returns, the message is durable.

        Waits while the queue is full: for ever, for `timeout` seconds, or not at all
        (block=False), then raises Full. Raises ShutDown, CodecError, MessageTooLarge,
        StoreFull; then nothing was stored. Cost: one commit, shared with other threads
        that put or settle at the same moment; O(log n).
        """
        draft = self._draft(item, headers, type, reply_to, correlation_id)
        rank = rank_of(check_priority(priority))
        ids = self._engine.put(self._state, [(rank, draft)], check_timeout(timeout) if block else 0, self._interrupt)
        if ids is None:
            raise Full(f"queue {self.name!r} holds its maxsize of {self.maxsize} messages: take some, or wait with a timeout")
        return ids[0]

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
        headers: Mapping[str, Any] | None = None,
        type: str | None = None,
        reply_to: str | None = None,
        correlation_id: str | None = None,
    ) -> list[int]:
        """Store all items in one commit, or none; returns their ids. Otherwise as `put`.

        Raises ValueError where there are more items than maxsize: they could never fit.
        """
        rank = rank_of(check_priority(priority))
        ranked = [(rank, self._draft(item, headers, type, reply_to, correlation_id)) for item in items]
        self._interrupt.check()
        return self.put_drafts(ranked, check_timeout(timeout) if block else 0)

    def put_drafts(self, ranked: list[tuple[int, Draft]], timeout: float | None) -> list[int]:
        """Store prepared messages (see `draft`) in one commit."""
        if not ranked:
            return []
        if 0 < self.maxsize < len(ranked):
            raise ValueError(f"{len(ranked)} messages can never fit into queue {self.name!r} with maxsize={self.maxsize}: put them in smaller groups")
        ids = self._engine.put(self._state, ranked, timeout, self._interrupt)
        if ids is None:
            raise Full(f"queue {self.name!r} has no room for {len(ranked)} messages (maxsize {self.maxsize}): take some, or wait with a timeout")
        return ids

    def draft(self, item: T, *, headers: Mapping[str, Any] | None = None, type: str | None = None, reply_to: str | None = None, correlation_id: str | None = None) -> Draft:
        """A message checked, encoded and ready for `put_drafts`. Raises CodecError, MessageTooLarge."""
        return self._draft(item, headers, type, reply_to, correlation_id)

    def _draft(self, item: T, headers: Mapping[str, Any] | None, kind: str | None, reply_to: str | None, correlation_id: str | None) -> Draft:
        engine = self._engine
        if self._interrupt.closed:
            self._interrupt.check()
        extras: dict[str, Any] | None = None
        if headers is not None or kind is not None or reply_to is not None or correlation_id is not None:
            extras = _extras(headers, type=kind, reply_to=reply_to, correlation_id=correlation_id)
        payload = item if self._store.in_memory else self._codec.encode(item)
        draft = engine.log.prepare(Record(payload, engine.clock.wall_ns(), 0, 0, 0, extras))
        if engine.log.size_of(draft) > self._state.options.max_message_bytes:
            raise MessageTooLarge(
                f"a body of {engine.log.size_of(draft)} bytes is larger than max_message_bytes={self._state.options.max_message_bytes} of queue {self.name!r}: store it elsewhere and put a reference, or configure(max_message_bytes=...)"
            )
        return draft

    # ------------------------------------------------------------------ get
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Remove the next message and return its body: at most once, even if you crash now.

        Waits for one for ever, for `timeout` seconds, or not at all (block=False), then
        raises Empty. Raises ShutDown once the queue is shut down and empty. Cost: one
        commit. Use `receive` or `consumer` for work that must not be lost.
        """
        if self._interrupt.closed:
            self._interrupt.check()
        body: _Box[T] | None = self._engine.get(self._state, check_timeout(timeout) if block else 0, self._interrupt, self._boxed)
        if body is None:
            raise Empty(f"queue {self.name!r} had no message in time")
        return body.content

    def _boxed(self, payload: Any) -> _Box[T]:
        return _Box(self._decode(payload))

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
        self._interrupt.check()
        while claims := self._engine.receive(self._state, max_messages, wait, self._interrupt):
            messages = [m for claim in claims if (m := claimed_message(self._engine, claim, self._decode, None)) is not None]
            if messages:
                return messages
        raise Empty(f"queue {self.name!r} had no message in time")

    def consumer(self, prefetch: int = 1, auto_ack: bool = False) -> Consumer:
        """A handle to take messages one after the other; iterate over it. See `Consumer`."""
        check_count(prefetch, "prefetch")
        if type(auto_ack) is not bool:
            raise TypeError(f"auto_ack is a bool, not {auto_ack!r}")
        self._interrupt.check()
        consumer = Consumer(self, self._store, self._state, self._decode, prefetch, auto_ack)
        self._consumers.add(consumer)
        return consumer

    def producer(self, *, priority: int = 0, max_buffered: int = 10_000) -> Producer:
        """A handle that buffers puts and commits them in groups. See `Producer`."""
        check_priority(priority)
        check_count(max_buffered, "max_buffered")
        self._interrupt.check()
        return Producer(self, self._store, priority, max_buffered)

    def ack_many(self, messages: Iterable[Message]) -> None:
        """Acknowledge all these messages in one commit, or none (LeaseLost, NotClaimed)."""
        self._interrupt.check()
        ack_many(messages, self._engine, self.name)

    # ------------------------------------------------------------------ the rest of queue.Queue
    def qsize(self) -> int:
        """How many messages are ready. Exact at rest. O(1)."""
        self._interrupt.check()
        return self._engine.ready(self._state)

    __len__ = qsize

    def __bool__(self) -> bool:
        return True  # a queue is not false when it is empty: as queue.Queue

    def empty(self) -> bool:
        """Whether no message is ready."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether a put would have to wait."""
        self._interrupt.check()
        return 0 < self.maxsize <= self._engine.total(self._state)

    @property
    def unfinished_tasks(self) -> int:
        """Messages in the queue, and those taken by `get` for which no `task_done` was called."""
        self._interrupt.check()
        return self._engine.unfinished(self._state)

    def task_done(self) -> None:
        """What was taken by `get` is done. Messages that are acknowledged need no task_done.

        Raises ValueError when called more often than there were tasks. Tasks of a
        process that died count as done.
        """
        self._interrupt.check()
        if not self._engine.task_done(self._state):
            raise ValueError("task_done() called too many times")

    def join(self) -> None:
        """Wait until every message was settled, or taken and reported by `task_done`."""
        self._interrupt.check()
        self._engine.join(self._state, self._interrupt)

    def shutdown(self, immediate: bool = False) -> None:
        """No more puts: they raise ShutDown. Gets go on until the queue is empty, then raise it too.

        immediate: gets raise at once; messages in memory are dropped, those on disk stay
        for the next start. Holds for all processes that use the store, until the last of
        them has closed it. Claimed messages can still be settled.
        """
        self._interrupt.check()
        self._engine.shutdown(self._state, bool(immediate))
        for consumer in list(self._consumers):
            consumer.give_back_buffered()

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called, here or in another process."""
        self._interrupt.check()
        return self._engine.shut(self._state) is not Shut.OPEN

    # ------------------------------------------------------------------ looking and operating
    def peek(self, n: int = 1) -> list[Message]:
        """The next n messages, unclaimed: they can be looked at, not settled."""
        check_count(n, "n")
        found: list[Message] = []
        for message in self.browse():
            found.append(message)
            if len(found) == n:
                break
        return found

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
        start, count = 0, 1 << 62 if self._store.in_memory else 1
        while True:
            found = self._engine.browse(self._state, start, count)
            for position, record in found:
                start = position + 1
                if record is None:
                    continue
                try:
                    body = self._decode(record.payload)
                except CodecError:
                    continue
                message = message_of(self._state, position, record, body, None)
                if filter is None or filter(message):
                    yield message
            if len(found) < count:
                return
            count = min(4 * count, _BROWSED_AT_ONCE)

    def stats(self) -> QueueStats:
        """Exact counts. O(1), and O(priorities in use) for the age."""
        self._interrupt.check()
        numbers = self._engine.numbers(self._state)
        oldest_ns = numbers.pop("oldest_ns")
        age = None if oldest_ns is None else max(0.0, (self._engine.clock.wall_ns() - oldest_ns) / 1e9)
        return QueueStats(delayed=0, oldest_age=age, **numbers)

    @property
    def dead(self) -> Queue[Any]:
        """The dead-letter queue: itself a queue. `message.death` says why, `message.id` is unchanged."""
        self._interrupt.check()
        dead: Queue[Any] = object.__new__(Queue)
        dead._store, dead._engine, dead._codec = self._store, self._engine, self._codec
        dead._set_up(self._engine.dead_of(self._state))
        dead._interrupt = self._interrupt
        return dead

    def configure(self, **changes: Any) -> None:
        """Change stored settings, for every process, at once. Names and values as in `Queue`; not the codec."""
        self._interrupt.check()
        allowed = {"maxsize", "max_message_bytes", "max_deliveries", "ack_timeout", "dead_letter"}
        for name in changes:
            if name not in allowed:
                raise TypeError(f"{name!r} cannot be changed: configure takes {', '.join(sorted(allowed))}")
        if self._state.name.endswith(".dead") and self._state.version == 0:
            raise NotSupported(f"{self._state.name!r} is a dead-letter queue, whose settings are fixed")
        attrs.evolve(self._state.options, **changes)  # bad values are told before anything is stored
        self._engine.configure(self._state, changes)

    def check(self) -> list[str]:
        """What is wrong with the store of this queue; [] when all is well. See `Broker.check`."""
        from .audit import problems

        self._interrupt.check()
        return problems(self._engine)

    # ------------------------------------------------------------------ lifetime
    def close(self) -> None:
        """Close this handle, its consumers, and the store if it is the last one. Threads that wait get Closed.

        What this process holds goes back, without blame, when the store closes.
        """
        if not self._closed and not self._interrupt.closed:
            self._closed = True
            for consumer in list(self._consumers):
                consumer.close()
            self._interrupt.close(self._engine.presence)
            self._store.close()

    def __enter__(self) -> Queue[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> Any:
        if self._store.path is None:
            raise TypeError(f"queue {self.name!r} is in memory and cannot be sent to another process: give it a path")
        dead = bool(self._state.version == 0)
        name = self.name.removesuffix(".dead") if dead else self.name
        return _reopen, (name, self._store.path, self._codec.codec, dead)

    def after_fork(self) -> None:
        """In the child: threads that waited here are the parent's."""
        closed, self._interrupt = self._interrupt.closed, Interrupt(f"queue {self.name!r}")
        self._interrupt.closed = closed


def _reopen(name: str, path: str, codec: object, dead: bool) -> Queue[Any]:
    """A pickled queue again, in this process."""
    queue: Queue[Any] = Queue(name, path, codec=codec)
    return queue.dead if dead else queue


class _Box(Generic[T]):
    """A body, which may be None, as a result that is not None."""

    __slots__ = ("content",)

    def __init__(self, content: T) -> None:
        self.content = content


def _identity(payload: Any) -> Any:
    return payload


def _codec_for(state: QueueState, codec: object) -> BodyCodec:
    """The codec that the user named, or the stored one where naming it is not needed."""
    if codec is not UNSET:
        return BodyCodec(codec)
    if state.options.codec == "json":
        return BodyCodec("json")
    if state.options.codec == "pickle":
        raise SettingsMismatch(f"the bodies of queue {state.name!r} are pickled, and reading them can run code: pass codec='pickle' if you trust the store")
    raise SettingsMismatch(f"queue {state.name!r} was made with the codec {state.options.codec!r}: pass codec= with one like it")


def _extras(headers: Mapping[str, Any] | None, **texts: str | None) -> dict[str, Any]:
    """The optional parts of a message, checked."""
    extras: dict[str, Any] = {}
    if headers is not None:
        if not isinstance(headers, Mapping):
            raise TypeError(f"headers is a dict, not {headers!r}")
        extras["headers"] = check_json(dict(headers), "headers")
    for name, text in texts.items():
        if text is not None:
            if not isinstance(text, str):
                raise TypeError(f"{name} is a str or None, not {text!r}")
            extras[name] = text
    return extras
