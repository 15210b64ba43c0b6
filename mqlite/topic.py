"""A topic as the user holds it: publish once, and everybody who subscribes gets it."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from .audit import problems
from .channel import Channel, codec_for
from .checks import check_flag, check_name, check_ttl
from .codecs import BodyCodec
from .engine import replay, retention, subscriptions
from .engine.subscriptions import Wish
from .engine.topics import TopicState
from .errors import SettingsMismatch
from .filters import Filter
from .lease import message_of
from .message import Message, digest
from .options import UNSET, QueueOptions, TopicOptions, Unset, name_of, named_options
from .patterns import check_pattern, check_routing_key
from .publisher import Publisher
from .queue import Queue
from .store import Store, open_store, release, retain
from .subscription import Position, Subscription, check_position
from .waiting import Interrupt

T = TypeVar("T")
#: Both are part of a key, which LMDB limits to 511 bytes.
NAMES_MAX_BYTES = 480
#: Options of a topic that are not those of the queues of its subscriptions.
_OWN = frozenset(attrs.fields_dict(TopicOptions)) - {"queue"}
#: Options of a queue that a subscription may have.
_INHERITED = frozenset(attrs.fields_dict(QueueOptions)) - {"codec", "max_message_bytes", "dedup_window", "paused"}
_CHANGEABLE = frozenset({"max_age", "max_messages", "max_bytes", "max_message_bytes", "dedup_window"})
Wanted = Mapping[str, Any] | Callable[[Message], object]


@attrs.frozen(kw_only=True)
class TopicStats:
    """The state of a topic. Exact.

    published: since it was made, without what nobody got and nothing kept; that is counted in `unroutable`, by this
    process alone. retained, retained_bytes: what can be replayed; stored: bodies that are kept, for whatever reason.
    first_id, last_id: the oldest that can be replayed, and the newest; None where there is none.
    """

    subscriptions: int
    bindings: int
    published: int
    unroutable: int
    retained: int
    bytes: int
    stored: int
    first_id: int | None
    last_id: int | None


@attrs.frozen
class BoundQueue:
    """That a named queue gets what a topic publishes; see `Topic.bind`."""

    queue: str
    pattern: str
    filter: dict[str, Any] | None = None
    headers: dict[str, Any] | None = None
    match: str = "all"


class Topic(Publisher[T]):
    """A topic, in memory or in a store on disk: each message goes to all subscriptions and queues that match.

        Topic("events")                  in memory
        Topic("events", path="app.mq")   durable, shared by all processes that name it

    retention, max_age, max_messages, max_bytes, compact: what is kept for replay, see TopicOptions. Any option of a
    queue but codec and the like may be given, too: subscriptions inherit it. Settings are stored when the topic is
    first declared (SettingsMismatch where a named one differs later).

    Threads: all methods are free for any thread. Fork, spawn: as a queue.

    Raises StoreError, StoreCorrupted, NotSupported for a path that cannot be used.
    """

    def __init__(
        self,
        name: str = "topic",
        path: str | os.PathLike[str] | None = None,
        *,
        durability: str | None = None,
        max_store_bytes: int | None = None,
        **options: Any,
    ) -> None:
        check_name(name, "a topic's name")
        _named(options)  # bad options are told before a store is made
        store = open_store(path, durability=durability, max_store_bytes=max_store_bytes)
        self._attach(store, name, options)

    @classmethod
    def open(cls, store: Store, name: str, options: dict[str, Any]) -> Topic[Any]:
        """The topic of that name. Takes over one reference to `store`."""
        topic: Topic[Any] = object.__new__(cls)
        topic._attach(store, name, options)
        return topic

    def _attach(self, store: Store, name: str, options: dict[str, Any]) -> None:
        try:
            self._store = store
            self._engine = store.engine
            named = _named(options)
            self._state: TopicState = self._engine.topics.declare(name, named)
            self._codec = codec_for(
                options.get("codec", UNSET), self._state.options.codec, f"topic {self._state.name!r}"
            )
            subscriptions.care(self._engine, self._state)
        except BaseException:
            release(store)
            raise
        self._opening = threading.Lock()
        self._preparing = None
        self._dead: Queue[Any] | None = None
        self._reference = [store]  # popped by the one thread that closes
        self._interrupt = Interrupt(f"topic {name!r}")
        self._handles: set[Subscription] = set()
        store.handles.add(self)

    def __repr__(self) -> str:
        path = self._store.path
        return f"<mqlite.Topic {self.name!r} {'in memory' if path is None else f'path={path!r}'}>"

    # ------------------------------------------------------------------ subscribing
    def subscribe(
        self,
        name: str | None = None,
        pattern: str | None = None,
        filter: Wanted | None = None,
        start: Position = "latest",
        *,
        headers: Mapping[str, Any] | None = None,
        match: str = "all",
        durable: bool | Unset = UNSET,
        expires_after: float | None = None,
        **options: Any,
    ) -> Subscription:
        """The subscription of that name, made if it is new: a queue of what is published from now on.

        pattern: of routing keys, in words: `*` is one word, `#` any number of them; default "#". filter: conditions
        such as {"type": "order", "priority": (">", 5), "region": ("in", ["eu", "us"])}, see `Filter`; or a function
        of a message, which is called before the message is handed out, and which every process must pass anew.
        headers: all or any (`match`) of which a message must have. start: "latest" (with the retained messages that
        match), "earliest", the id of a message, or a moment; of a new subscription only. durable=False: it goes when
        this handle is closed or this process ends; it needs no name. expires_after: seconds after which it goes if no
        process has a handle on it. Other options: as of a queue; what is left out is the topic's.

        The same name again gives another handle on the same subscription. Raises SettingsMismatch where something named
        differs from what is stored, OutOfRange, TypeError, ValueError. One commit; a replay is done as messages are
        taken.
        """
        self._interrupt.check()
        if name is None:
            if durable is not False:
                raise ValueError("a durable subscription needs a name: give one, or durable=False")
            name = f"ephemeral-{secrets.token_hex(8)}"
        accept = filter if callable(filter) else None
        asked = Filter.of(None if callable(filter) else filter, headers, match)
        named = _named_of_queue(options)
        wish = Wish(
            pattern=None if pattern is None else check_pattern(pattern),
            filter=asked,
            names_filter=filter is not None and accept is None,
            names_headers=headers is not None,
            callable=None if accept is None else name_of(accept),
            start=check_position(start),
            durable=None if durable is UNSET else check_flag("durable", durable),
            expires_after=None if expires_after is None else check_ttl(expires_after, "expires_after"),
            options=named,
        )
        if wish.expires_after is not None and wish.durable is False:
            raise ValueError("an ephemeral subscription goes with its handle: leave expires_after out")
        return self._subscribe(self._check_subscription(name), wish, accept)

    def _subscribe(self, name: str, wish: Wish, accept: Callable[[Message], object] | None) -> Subscription:
        self._state.refresh(self._engine.log)
        definition, legacy = subscriptions.subscribe(self._engine, self._state, name, wish)
        if definition.details["callable"] is not None and accept is None:
            subscriptions.end_use(self._engine, legacy)
            raise SettingsMismatch(
                f"subscription {name!r} of topic {self.name!r} was made with the function "
                f"{definition.details['callable']!r} as its filter: pass filter="
            )
        retain(self._store)
        backoff = {name: value for name, value in wish.options.items() if name == "backoff"}
        channel = Channel.open(self._store, definition.name, backoff, self._codec.codec)
        subscription = Subscription.on(channel, legacy, accept, self._handles.discard)
        self._handles.add(subscription)
        return subscription

    def subscription(self, name: str, filter: Callable[[Message], object] | None = None) -> Subscription:
        """A handle on a subscription that is there. Raises NoSuchSubscription, SettingsMismatch."""
        self._interrupt.check()
        with self._engine.log.read() as snapshot:
            self._engine.topics.subscription(self._state, self._check_subscription(name), snapshot)
        return self._subscribe(
            name, Wish(must_exist=True, callable=None if filter is None else name_of(filter)), filter
        )

    def subscriptions(self) -> list[str]:
        """The names of the subscriptions, the oldest first."""
        self._interrupt.check()
        self._engine.takeback.notice_changes()
        subscriptions.care(self._engine, self._state)
        with self._engine.log.read() as snapshot:
            return self._engine.topics.subscriptions(self._state, snapshot)

    def unsubscribe(self, name: str) -> bool:
        """Remove a subscription, its messages and its dead letters; False where there is none of that name.

        Whoever waits for a message of it gets NoSuchSubscription. One commit, and one more per 256 messages.
        """
        self._interrupt.check()
        return subscriptions.unsubscribe(self._engine, self._state, self._check_subscription(name))

    def _check_subscription(self, name: object) -> str:
        checked = check_name(name, "a subscription's name")
        if len(checked.encode()) + len(self.name.encode()) > NAMES_MAX_BYTES:
            raise ValueError(
                f"the names of a topic and its subscription have {NAMES_MAX_BYTES} bytes together, unlike {name!r} of "
                f"topic {self.name!r}: take a shorter one"
            )
        return checked

    # ------------------------------------------------------------------ queues
    def bind(
        self,
        queue: Queue[Any],
        pattern: str = "#",
        filter: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        match: str = "all",
    ) -> None:
        """From now on that queue gets what matches: in the commit of the publish, and once, whatever bindings it has.

        The queue is of the same store, and its codec is the topic's (SettingsMismatch). The same again changes
        nothing. A function as a filter is for subscriptions only. One commit; survives a restart.
        """
        self._interrupt.check()
        if not isinstance(queue, Queue) or isinstance(queue, Subscription):
            raise TypeError(f"bind takes a Queue that you put into yourself, not {queue!r}")
        if queue._channel.store is not self._store:
            raise ValueError(
                f"queue {queue.name!r} is of another store than topic {self.name!r}: take both from one mqlite.open()"
            )
        if queue._state.is_dead:
            raise ValueError(f"{queue.name!r} is a dead-letter queue: bind the queue that it belongs to")
        if not self._store.in_memory and queue._state.options.codec != self._state.options.codec:
            raise SettingsMismatch(
                f"queue {queue.name!r} has the codec {queue._state.options.codec!r}, topic {self.name!r} "
                f"{self._state.options.codec!r}: only a queue with the same one can be bound"
            )
        if callable(filter):
            raise TypeError("a queue is bound by conditions, as a dict; a function filters a subscription only")
        asked = Filter.of(filter, headers, match)
        subscriptions.bind(self._engine, self._state, queue._state, check_pattern(pattern), asked)

    def unbind(self, queue: Queue[Any], pattern: str | None = None) -> int:
        """That queue gets nothing more of what matches this pattern, None: of anything. How many bindings went."""
        self._interrupt.check()
        if not isinstance(queue, Queue):
            raise TypeError(f"unbind takes a Queue, not {queue!r}")
        if queue._channel.store is not self._store:
            return 0
        wanted = None if pattern is None else check_pattern(pattern)
        return subscriptions.unbind(self._engine, self._state, queue._state, wanted)

    def bindings(self) -> list[BoundQueue]:
        """The bindings of named queues, the oldest first."""
        self._interrupt.check()
        with self._engine.log.read() as snapshot:
            return [
                BoundQueue(fed.name, binding.pattern, **({} if binding.filter is None else binding.filter.to_json()))
                for fed, binding in self._engine.topics.members(self._state, snapshot)
                if fed.kind == "queue"
            ]

    @property
    def dead(self) -> Queue[Any]:
        """The prepared messages about which somebody was asked too often (see `check_back`): a queue to look at and to
        take from. Closed with this topic.
        """
        self._interrupt.check()
        preparing = self._have_preparing()
        with self._opening:
            if self._dead is None or self._dead.is_closed:
                self._dead = Queue.of(preparing.channel.dead())
            return self._dead

    # ------------------------------------------------------------------ what it keeps
    def retained(self, pattern: str = "#") -> list[Message]:
        """The newest message of each routing key that was published with retain=True, the oldest first; to look at."""
        self._interrupt.check()
        check_pattern(pattern)
        with self._engine.log.read() as snapshot:
            records = subscriptions.retained(self._engine, snapshot, self._state, pattern)
        decode = (lambda body: body) if self._store.in_memory else self._codec.decode
        return [
            message_of(self.name, replay.rank_in(record) << 64, record, decode(record.payload)) for record in records
        ]

    def clear_retained(self, routing_key: str = "") -> bool:
        """New subscriptions get no message of this routing key any more; whether one was retained. One commit."""
        self._interrupt.check()
        key = digest(check_routing_key(routing_key))
        found: bool = self._engine.log.write(lambda txn: retention.forget(txn, self._state.id, key))
        return found

    def stats(self) -> TopicStats:
        """Exact counts, with the limits applied. O(members)."""
        self._interrupt.check()
        self._engine.takeback.notice_changes()
        retention.enforce(self._engine, self._state)
        with self._engine.log.read() as snapshot:
            numbers = snapshot.topic_numbers(self._state.id)
            kinds = [fed.kind for fed, _ in self._engine.topics.members(self._state, snapshot)]
            first = retention.first_for_replay(self._engine.log, snapshot, self._state)
        keeps = self._state.options.keeps_for_replay
        return TopicStats(
            subscriptions=kinds.count("subscription"),
            bindings=kinds.count("queue"),
            published=numbers.published,
            unroutable=self._state.unroutable,
            retained=numbers.retained if keeps else numbers.stored,
            bytes=numbers.retained_bytes if keeps else numbers.stored_bytes,
            stored=numbers.stored,
            first_id=first,
            last_id=numbers.last or None,
        )

    def configure(self, **changes: Any) -> None:
        """Change stored settings, for every process: the limits, max_message_bytes and dedup_window. One commit."""
        self._interrupt.check()
        for name in changes:
            if name not in _CHANGEABLE:
                raise TypeError(f"{name!r} cannot be changed: configure takes {', '.join(sorted(_CHANGEABLE))}")
        attrs.evolve(self._state.options, **changes)  # bad values are told before anything is stored
        self._engine.topics.configure(self._state, changes)
        retention.enforce(self._engine, self._state)

    def check(self) -> list[str]:
        """What is wrong with the store of this topic; [] when all is well. See `Broker.check`."""
        self._interrupt.check()
        return problems(self._engine)

    # ------------------------------------------------------------------ lifetime
    def close(self) -> None:
        """Close this handle, the subscriptions made by it (ephemeral ones go), and the store if it is the last one."""
        if not self._interrupt.closed:
            for subscription in list(self._handles):
                subscription.close()
            if self._dead is not None:
                self._dead.close()
            if self._preparing is not None:
                self._preparing.close()
            self._interrupt.close(self._engine.presence)
            with contextlib.suppress(IndexError):
                release(self._reference.pop())

    def __reduce__(self) -> Any:
        if self._store.path is None:
            raise TypeError(f"topic {self.name!r} is in memory and cannot be sent to another process: give it a path")
        return _reopen, (self._store.path, self.name, self._codec.codec)

    def after_fork(self) -> None:
        """In the child: threads that waited here are the parent's."""
        self._opening = threading.Lock()
        closed, self._interrupt = self._interrupt.closed, Interrupt(f"topic {self.name!r}")
        self._interrupt.closed = closed


def _reopen(path: str, name: str, codec: object) -> Topic[Any]:
    """A pickled topic again, in this process."""
    return Topic.open(open_store(path), name, {"codec": codec})


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a topic as TopicOptions takes them, checked. Raises TypeError, ValueError."""
    for name in options:
        if name not in _OWN and name not in _INHERITED:
            raise TypeError(f"a topic has no option {name!r}: it has {', '.join(sorted(_OWN | _INHERITED))}")
    options = named_options(**options)
    named = {name: value for name, value in options.items() if name in _OWN}
    if "codec" in named:
        named["codec"] = BodyCodec(named["codec"]).name
    inherited = {name: value for name, value in options.items() if name in _INHERITED}
    if callable(inherited.get("backoff")):
        raise TypeError("a topic cannot hand a function down as backoff: pass it to subscribe")
    if inherited:
        named["queue"] = inherited
    TopicOptions(**{"retention": "limits", **named})  # what is stored may be that
    return named


def _named_of_queue(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a subscription, checked. Raises TypeError, ValueError."""
    for name in options:
        if name not in _INHERITED:
            raise TypeError(f"a subscription has no option {name!r}: it may have {', '.join(sorted(_INHERITED))}")
    named = named_options(**options)
    QueueOptions(**named)
    return named
