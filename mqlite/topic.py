"""A topic as the user holds it: publish once, and everybody who subscribes gets it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

import attrs

from .audit import problems
from .channel import Channel, PutOptions
from .checks import check_delay, check_eta, check_key, check_name, check_priority, check_timeout, check_ttl
from .codecs import BodyCodec
from .engine import legacies, replay, retention, subscriptions
from .engine.commitment import Commitment
from .engine.publishing import Publication, Publishing
from .engine.subscriptions import Wish
from .engine.topics import TopicState
from .errors import Closed, MessageTooLarge, SettingsMismatch
from .filters import Filter
from .handle import Handle
from .lease import message_of
from .message import Due, Message, digest, rank_of
from .options import UNSET, QueueOptions, TopicOptions, Unset, name_of, named_options
from .patterns import check_pattern, check_routing_key
from .queue import Queue
from .receipt import Published, Receipt
from .store import Store, open_store, release, retain
from .subscription import Position, Subscription, check_position
from .transaction import Transaction, checked
from .waiting import Interrupt

T = TypeVar("T")
#: Both are part of a key, which LMDB limits to 511 bytes.
NAMES_MAX_BYTES = 480
#: Options of a topic that are not those of the queues of its subscriptions.
_OWN = frozenset(attrs.fields_dict(TopicOptions)) - {"queue"}
#: Options of a queue that a subscription may have.
_INHERITED = frozenset(attrs.fields_dict(QueueOptions)) - {"codec", "max_message_bytes", "dedup_window", "paused"}
_CHANGEABLE = frozenset({"max_age", "max_messages", "max_bytes", "max_message_bytes", "dedup_window"})
#: Options of a put that mean nothing for a publish.
_NOT_PUBLISHED = ("unique", "unique_states")
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


class Will(Handle):
    """What a topic publishes when this process dies without closing this. Made by `Topic.will`.

    It is published once, by whoever notices the death: at once where another process waits or takes, else by the next
    that opens the store. Not published: after close(), the end of its block, the close of the store, or a normal end
    of the interpreter. A will of a forked parent stays the parent's.
    """

    def __init__(self, topic: Topic[Any], number: int) -> None:
        self._engine = topic._engine
        self._owner = self._engine.presence.owner
        self._number = number

    def close(self) -> None:
        """It is void now. One commit; nothing if it was void before."""
        with contextlib.suppress(Closed):
            if self._number and self._engine.presence.owner == self._owner:
                legacies.withdraw(self._engine, self._number)
        self._number = 0


class Topic(Handle, Generic[T]):
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
        durability: str = "full",
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
            self._codec = _codec_for(self._state, options.get("codec", UNSET))
            subscriptions.care(self._engine, self._state)
        except BaseException:
            release(store)
            raise
        self._reference = [store]  # popped by the one thread that closes
        self._interrupt = Interrupt(f"topic {name!r}")
        self._handles: set[Subscription] = set()
        store.handles.add(self)

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._state.name

    def __repr__(self) -> str:
        path = self._store.path
        return f"<mqlite.Topic {self.name!r} {'in memory' if path is None else f'path={path!r}'}>"

    # ------------------------------------------------------------------ publishing
    @overload
    def publish(
        self,
        item: T,
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: None = None,
        **options: Any,
    ) -> Published: ...

    @overload
    def publish(
        self,
        item: T,
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: Transaction,
        **options: Any,
    ) -> Receipt: ...

    def publish(
        self,
        item: T,
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: Transaction | None = None,
        **options: Any,
    ) -> Published | Receipt:
        """Store one message for all who subscribe; its id, and how many got it. When this returns, it is durable.

        routing_key: words with dots between them, which patterns match. retain: new subscriptions that match get the
        newest such message of each routing key. mandatory: raises Unroutable, and stores nothing, if nobody gets it.
        delay, eta, ttl, group, headers, type, dedup_id, replace_key, reply_to, correlation_id: as of Queue.put, in
        every queue that gets it; a repeated dedup_id publishes nothing and returns the first id.

        All get it or none: waits while any of them is full and its overflow is "block" (for ever, for `timeout`
        seconds, or not at all), then raises Full. Raises ShutDown where one of them was shut down, CodecError,
        MessageTooLarge, StoreFull; then nothing was stored. Cost: one commit, one body, and a reference for each that
        matches; those that do not match cost nothing.

        tx: a Transaction, whose commit publishes it; then this gives a Receipt, and does not wait.
        """
        publication = self._publication([item], routing_key, priority, retain, mandatory, options)
        return self._publish(publication, [item], block, timeout, tx)[0]

    @overload
    def publish_many(
        self,
        items: Iterable[T],
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: None = None,
        **options: Any,
    ) -> list[Published]: ...

    @overload
    def publish_many(
        self,
        items: Iterable[T],
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: Transaction,
        **options: Any,
    ) -> list[Receipt]: ...

    def publish_many(
        self,
        items: Iterable[T],
        routing_key: str = "",
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        retain: bool = False,
        mandatory: bool = False,
        tx: Transaction | None = None,
        **options: Any,
    ) -> list[Published] | list[Receipt]:
        """Publish all items in one commit, or none. Otherwise as `publish`, without dedup_id and replace_key."""
        for name in ("dedup_id", "replace_key"):
            if options.get(name) is not None:
                raise TypeError(f"{name} is of one message: publish them one by one")
        bodies = list(items)
        if not bodies:
            self._interrupt.check()
            return []
        publication = self._publication(bodies, routing_key, priority, retain, mandatory, options)
        return self._publish(publication, bodies, block, timeout, tx)

    def _publication(
        self,
        items: list[T],
        routing_key: str,
        priority: int,
        retain: bool,
        mandatory: bool,
        options: dict[str, Any],
    ) -> Publication:
        self._interrupt.check()
        said = self._said(routing_key, priority, retain, options)
        said["mandatory"] = _flag("mandatory", mandatory)
        return Publication(payloads=[self._payload(item) for item in items], **said)

    def _publish(
        self, publication: Publication, items: list[T], block: bool, timeout: float | None, tx: Transaction | None
    ) -> list[Published] | list[Receipt]:
        wait = check_timeout(timeout) if block else 0
        publishing = Publishing(self._engine, self._state, publication)
        if tx is not None:
            transaction = checked(tx, self._engine, f"topic {self.name!r}")
            if timeout is not None:
                raise TypeError("a publish in a transaction does not wait: give the timeout to transaction()")
            return transaction.publish(publishing, items)
        commitment = Commitment(self._engine, f"topic {self.name!r} cannot publish")
        commitment.store(publishing)
        commitment.run(wait, self._interrupt)
        return [Published(number, receivers) for number, receivers in publishing.outcome]

    def _said(self, routing_key: str, priority: int, retain: bool, options: dict[str, Any]) -> dict[str, Any]:
        """What is said of a message, checked."""
        for name in options:
            if name not in PutOptions.__annotations__ or name in _NOT_PUBLISHED:
                known = sorted(set(PutOptions.__annotations__) - set(_NOT_PUBLISHED))
                raise TypeError(f"a message of a topic has no {name!r}: it may have {', '.join(known)}")
        if options.get("group") is not None:
            check_key(options["group"], "group")
        ttl, replace_key, dedup_id = options.get("ttl"), options.get("replace_key"), options.get("dedup_id")
        extras = Channel.extras(options) or {}  # type: ignore[arg-type]
        extras["routing_key"] = check_routing_key(routing_key)
        return {
            "extras": extras,
            "rank": rank_of(check_priority(priority)),
            "due": self._due(options.get("delay"), options.get("eta")),
            "expires": None if ttl is None else self._engine.timeline.after(check_ttl(ttl)),
            "replace": None if replace_key is None else digest(check_key(replace_key, "replace_key")),
            "dedup": None if dedup_id is None else digest(check_key(dedup_id, "dedup_id")),
            "retain": _flag("retain", retain),
        }

    def _due(self, delay: float | None, eta: datetime | float | None) -> Due | None:
        if delay is not None and eta is not None:
            raise ValueError("delay and eta say the same in two ways: give one of them")
        timeline = self._engine.timeline
        if eta is not None:
            return timeline.at(check_eta(eta))
        return None if delay is None else timeline.after(check_delay(delay))

    def _payload(self, item: T) -> Any:
        """The body, encoded. Raises CodecError, MessageTooLarge."""
        limit = self._state.options.max_message_bytes
        payload: Any = item if self._store.in_memory else self._codec.encode(item)
        size = (len(item) if isinstance(item, bytes | str) else 0) if self._store.in_memory else len(payload[1])
        if size > limit:
            raise MessageTooLarge(
                f"a body of {size} bytes is larger than max_message_bytes={limit} of topic {self.name!r}: store it "
                "elsewhere and publish a reference, or configure(max_message_bytes=...)"
            )
        return payload

    def will(self, item: T, routing_key: str = "", *, priority: int = 0, retain: bool = False, **options: Any) -> Will:
        """Have a message published when this process dies without closing the will. See `Will`.

        ttl counts from then; headers, type, group, replace_key, reply_to and correlation_id as of `publish`. One
        commit. In memory it is never published: nobody outlives the process.
        """
        self._interrupt.check()
        for name in ("delay", "eta", "dedup_id"):
            if name in options:
                raise TypeError(f"a last will has no {name!r}: it is published when its process has died")
        said = self._said(routing_key, priority, retain, options)
        will = {name: said[name] for name in ("extras", "rank", "retain")}
        replace = said["replace"]
        will |= {"ttl": options.get("ttl"), "replace": None if replace is None else replace.hex()}
        owner, payload = self._engine.presence.owner, self._payload(item)
        left = {"will": will, "topic": self._state.id}

        def op(txn: Any) -> int:
            txn.reserve(2 * len(repr(will)) + (0 if self._store.in_memory else len(payload[1])))
            return legacies.leave(self._engine, txn, owner, left, payload)

        return Will(self, self._engine.log.write(op))

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
            durable=None if durable is UNSET else _flag("durable", durable),
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

    # ------------------------------------------------------------------ what it keeps
    def retained(self, pattern: str = "#") -> list[Message]:
        """The newest message of each routing key that was published with retain=True, the oldest first; to look at."""
        self._interrupt.check()
        check_pattern(pattern)
        with self._engine.log.read() as snapshot:
            records = subscriptions.retained(self._engine, snapshot, self._state, pattern)
        decode = (lambda body: body) if self._store.in_memory else self._codec.decode
        return [
            message_of(self.name, replay.rank_in(record) << 64, record, decode(record.payload), None)
            for record in records
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
            self._interrupt.close(self._engine.presence)
            with contextlib.suppress(IndexError):
                release(self._reference.pop())

    def __reduce__(self) -> Any:
        if self._store.path is None:
            raise TypeError(f"topic {self.name!r} is in memory and cannot be sent to another process: give it a path")
        return _reopen, (self._store.path, self.name, self._codec.codec)

    def after_fork(self) -> None:
        """In the child: threads that waited here are the parent's."""
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


def _codec_for(state: TopicState, codec: object) -> BodyCodec:
    """The codec that the user named, or the stored one where it need not be named."""
    if codec is not UNSET:
        return BodyCodec(codec)
    if state.options.codec == "json":
        return BodyCodec("json")
    raise SettingsMismatch(
        f"topic {state.name!r} was made with the codec {state.options.codec!r}: pass codec= with one like it, and "
        '"pickle" only if you trust the store'
    )


def _flag(name: str, value: object) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{name} is a bool, not {value!r}")
    return value
