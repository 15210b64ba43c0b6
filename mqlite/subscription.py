"""A subscription as the user holds it: a queue that its topic fills, and that can go back in time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import attrs

from .channel import Channel
from .checks import check_eta
from .engine import replay, subscriptions
from .engine.catalog import SEPARATOR
from .engine.topics import Binding, TopicState, binding_of
from .errors import Closed, NoSuchSubscription, NotSupported
from .message import Message
from .operations import QueueStats, stats_of
from .queue import Queue
from .system.clock import LINES

#: Where to start: "earliest", "latest", the id of a message, an aware datetime, or epoch seconds as a float.
Position = str | int | float | datetime


@attrs.frozen(kw_only=True)
class SubscriptionStats(QueueStats):
    """The state of a subscription: that of a queue, and how far it is behind.

    lag: messages that it has still to settle, also those that a replay has not reached; they are among `ready`, too.
    lag_seconds: since the oldest of these was published, 0.0 where there is none.
    """

    lag: int
    lag_seconds: float


class Subscription(Queue[Any]):
    """A queue of what its topic publishes: made by `Topic.subscribe`, filled by `Topic.publish` alone.

    All of `Queue` that takes, settles, looks and operates is here; nothing that puts (NotSupported). Several
    consumers, in any number of processes, share the messages; another subscription gets its own.

    Closing an ephemeral subscription (durable=False), where it was made, removes it. Threads, fork and pickle: as a
    queue; a child's handle does not count as a use of a subscription with expires_after.
    """

    _legacy: int
    _owner: int
    _forget: Callable[[Subscription], object]

    @classmethod
    def on(
        cls,
        channel: Channel,
        legacy: int,
        accept: Callable[[Message], object] | None,
        forget: Callable[[Subscription], object] = id,
    ) -> Subscription:
        """A handle on an open channel. legacy: what is done when this process dies, or 0; forget: called when it is
        closed.
        """
        channel.accept = accept
        subscription: Subscription = object.__new__(cls)
        subscription._attach(channel)
        subscription._legacy = legacy
        subscription._owner = channel.engine.presence.owner
        subscription._forget = forget
        return subscription

    # ------------------------------------------------------------------ what it is
    @property
    def name(self) -> str:
        """Its name in its topic."""
        return self._state.key.rpartition(SEPARATOR)[2]

    @property
    def topic(self) -> str:
        """The name of its topic."""
        return self._state.key.partition(SEPARATOR)[0]

    @property
    def pattern(self) -> str:
        """What the routing keys of its messages match. Raises NoSuchSubscription."""
        return self._binding().pattern

    @property
    def filter(self) -> dict[str, Any] | Callable[[Message], object] | None:
        """What it wants besides: the conditions on attributes, in one of the ways to write them; or the function that
        this handle was given; None: all that matches the pattern.
        """
        if self._channel.accept is not None:
            return self._channel.accept
        asked = self._binding().filter
        return None if asked is None else asked.to_json()["filter"]

    @property
    def headers(self) -> dict[str, Any] | None:
        """The headers that it wants; None: any."""
        asked = self._binding().filter
        return None if asked is None else asked.to_json()["headers"]

    def _binding(self) -> Binding:
        self._interrupt.check()
        with self._engine.log.read() as snapshot:
            definition = snapshot.definition_by_id(self._state.id)
            binding = None if definition is None else binding_of(snapshot, definition)
        if binding is None:
            raise self._gone()
        return binding

    def _gone(self) -> NoSuchSubscription:
        return NoSuchSubscription(f"the subscription {self._state.name!r} was removed: subscribe again")

    def __repr__(self) -> str:
        path = self._channel.store.path
        return f"<mqlite.Subscription {self._state.name!r} {'in memory' if path is None else f'path={path!r}'}>"

    # ------------------------------------------------------------------ where it is
    def seek(self, position: Position) -> None:
        """Go on from there: "earliest", "latest", the id of a message (which comes first then), or a moment.

        What the subscription holds goes, and is replayed only as far as it was published from that position on; claims
        on it are lost (LeaseLost when they are settled). Dead letters, and what was redriven from them, stay.
        Replayed are the messages that the topic still keeps and this subscription wants, as new: with their ids, and
        counts of 0. Raises OutOfRange where some are not kept any more, and then changes nothing.

        One commit decides, and survives a crash; what was held is removed in steps of 512. O(what it held).
        """
        self._interrupt.check()
        start = check_position(position)
        replay.seek(self._engine, self._topic_state(), self._state, start)

    def _topic_state(self) -> TopicState:
        with self._engine.log.read() as snapshot:
            try:
                return self._engine.topics.state(self._state.topic, snapshot)
            except LookupError:
                raise self._gone() from None

    def stats(self) -> SubscriptionStats:
        """Exact counts. O(1), as a queue's, and O(delayed messages); O(what it has to replay) until that is done."""
        self._interrupt.check()
        stats = stats_of(self._engine, self._state)
        fields = attrs.asdict(stats)
        lag = stats.ready + stats.delayed + stats.claimed
        ages = [age for age in (stats.oldest_age, self._oldest_delayed()) if age is not None]
        return SubscriptionStats(lag=lag, lag_seconds=max(ages, default=0.0), **fields)

    def _oldest_delayed(self) -> float | None:
        """Seconds since the oldest message that waits for its time was published."""
        log = self._engine.log
        with log.read() as snapshot:
            times = [log.enqueued_ns(raw) for line in LINES for _, _, raw in snapshot.delayed(self._state.id, line)]
        return (self._engine.clock.wall_ns() - min(times)) / 1e9 if times else None

    def purge(self) -> int:
        """As Queue.purge; also what is still to be replayed."""
        count = super().purge()
        while replay.top_up(self._engine, self._state)[1]:
            count += super().purge()
        return count

    # ------------------------------------------------------------------ what it cannot do
    def put(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raises NotSupported."""
        raise NotSupported(f"{self._state.name!r} is a subscription: publish to its topic {self.topic!r} instead")

    put_nowait = put_many = producer = schedule = prepare = prepared = check_back = call = put

    # ------------------------------------------------------------------ the end
    def unsubscribe(self) -> bool:
        """Remove it, its messages and its dead letters; False where it was gone. See Topic.unsubscribe."""
        self._interrupt.check()
        return subscriptions.unsubscribe(self._engine, self._topic_state(), self.name, self._state.id)

    def close(self) -> None:
        """As Queue.close; an ephemeral subscription goes, if this is the handle that made it."""
        if not self._interrupt.closed and self._legacy:
            with contextlib.suppress(Closed):
                if self._engine.presence.owner == self._owner:
                    subscriptions.end_use(self._engine, self._legacy)
        super().close()
        self._forget(self)

    def __reduce__(self) -> Any:
        return Subscription.on, (self._channel, 0, self._channel.accept)


def check_position(position: Position) -> replay.Start:
    """Where to start. Raises TypeError, ValueError."""
    if isinstance(position, str):
        if position not in ("earliest", "latest"):
            raise ValueError(f'a position is "earliest", "latest", the id of a message, or a moment, not {position!r}')
        return position
    if isinstance(position, int) and not isinstance(position, bool):
        if position < 1:
            raise ValueError(f"the ids of messages begin with 1, so none is {position}: give a moment as a float")
        return int(position)
    return replay.moment(check_eta(position, "a position"))
