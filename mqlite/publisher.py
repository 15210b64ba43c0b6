"""The part of a topic that is for who publishes: at once, by a last will, or prepared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from .channel import Channel, PutOptions
from .checks import check_delay, check_eta, check_flag, check_key, check_priority, check_timeout, check_ttl
from .codecs import BodyCodec
from .engine import Engine, legacies
from .engine.commitment import Commitment
from .engine.publishing import Publication, Publishing
from .engine.topics import TopicState
from .errors import Closed, MessageTooLarge
from .handle import Handle
from .message import Due, digest, rank_of
from .patterns import check_routing_key
from .prepared import CHECK_AFTER, Prepared, Prepares, Target
from .receipt import Published, Receipt
from .store import Store
from .transaction import Transaction, checked
from .waiting import Interrupt

T = TypeVar("T")
#: Options of a put that mean nothing for a publish.
_NOT_PUBLISHED = ("unique", "unique_states")


class Will(Handle):
    """What a topic publishes when this process dies without closing this. Made by `Topic.will`.

    It is published once, by whoever notices the death: at once where another process waits or takes, else by the next
    that opens the store. Not published: after close(), the end of its block, the close of the store, or a normal end
    of the interpreter. A will of a forked parent stays the parent's.
    """

    def __init__(self, topic: Publisher[Any], number: int) -> None:
        self._engine = topic._engine
        self._owner = self._engine.presence.owner
        self._number = number

    def close(self) -> None:
        """It is void now. One commit; nothing if it was void before."""
        with contextlib.suppress(Closed):
            if self._number and self._engine.presence.owner == self._owner:
                legacies.withdraw(self._engine, self._number)
        self._number = 0


class Publisher(Handle, Prepares, Generic[T]):
    """What `Topic` says of publishing."""

    _codec: BodyCodec
    _engine: Engine
    _interrupt: Interrupt
    _state: TopicState
    _store: Store

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._state.name

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
        said["mandatory"] = check_flag("mandatory", mandatory)
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
            "retain": check_flag("retain", retain),
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

    # ------------------------------------------------------------------ prepare
    def prepare(
        self, item: T, routing_key: str = "", *, check_after: float = CHECK_AFTER, priority: int = 0, **options: Any
    ) -> Prepared[T]:
        """Store a message that nobody gets until it is committed, here or in any process; durable when this returns.

        Who gets it is found out at the commit. Options as of `publish`; otherwise as `Queue.prepare`.
        """
        check_priority(priority)
        said = {"priority": priority, "routing_key": routing_key, **options}
        return self._have_preparing().prepare(item, check_after, said)

    def _target(self) -> Target:
        return _TopicTarget(self)

    def _stage_prepared(self, tx: Transaction, payload: Any, options: dict[str, Any], item: Any) -> Receipt:
        publishing = Publishing(self._engine, self._state, self._prepared_publication(payload, options))
        return tx.publish(publishing, [item])[0]

    def _prepared_publication(self, payload: Any, options: dict[str, Any]) -> Publication:
        said = dict(options)
        priority, routing_key, retain = said.pop("priority"), said.pop("routing_key"), said.pop("retain", False)
        mandatory = check_flag("mandatory", said.pop("mandatory", False))
        checked_options = self._said(routing_key, priority, retain, said)
        return Publication(payloads=[payload], mandatory=mandatory, **checked_options)


class _TopicTarget:
    """Prepared messages of a topic."""

    number = -1

    def __init__(self, topic: Publisher[Any]) -> None:
        self._topic = topic
        self.key = topic._state.key
        self.name = topic.name
        self.shown = f"topic {self.name!r}"
        self.store, self.codec = topic._store, topic._codec

    def payload(self, item: Any) -> Any:
        """A body, encoded."""
        return self._topic._payload(item)

    def check(self, payload: Any, options: dict[str, Any]) -> None:
        """Raises what is wrong with a message."""
        self._topic._prepared_publication(payload, options)

    def stage(self, tx: Transaction, payload: Any, options: dict[str, Any], item: Any) -> Receipt:
        """Publish it in the commit of a transaction."""
        return self._topic._stage_prepared(tx, payload, options, item)
