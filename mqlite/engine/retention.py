"""What a topic keeps for replay, and what goes: limits of age, number and bytes, and one message per key.

What is kept for replay holds a reference to its body; so does the retained message of a routing
key, and so does each subscription. A body goes with its last reference. So limits bound what can
be replayed, and never take what a subscription has still to settle.

Limits are enforced by each publish, a few messages at a time, and by whoever looks at the topic.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from ..log import Log
from ..log.index import REPLACE, RETAINED
from ..system.clock import WALL, ns_of
from .topics import TopicState

if TYPE_CHECKING:
    from .machine import Engine

#: What one publish takes away at most: more than it adds, so that it catches up.
TRIMMED_AT_ONCE = 32
ENFORCED_AT_ONCE = 512


def keep_for_replay(log: Log, txn: Any, topic: TopicState, number: int, raw: Any, key: bytes | None) -> None:
    """Under L: a new message is kept; with `compact`, in the place of the one with the same key."""
    numbers = txn.topic_numbers(topic.id)
    if key is not None:
        older = txn.entry(REPLACE, topic.id, (key,))
        if older is not None and older[0] >= numbers.first:
            _count_out(log, txn, topic, older[0])
        txn.enter(REPLACE, topic.id, (key,), (number,))
    txn.refer(topic.id, number, 1)
    numbers.retained += 1
    numbers.retained_bytes += log.size_of_kept(raw)
    numbers.first = numbers.first or number


def _count_out(log: Log, txn: Any, topic: TopicState, number: int) -> None:
    raw = txn.kept(topic.id, number)
    if raw is not None:
        numbers = txn.topic_numbers(topic.id)
        numbers.retained -= 1
        numbers.retained_bytes -= log.size_of_kept(raw)
        txn.refer(topic.id, number, -1)


def is_for_replay(log: Log, snapshot: Any, topic: TopicState, number: int, raw: Any) -> bool:
    """Whether what a topic keeps would be replayed: it is not kept only for those who have still to settle it."""
    key = log.key_of(raw)
    return key is None or bool(snapshot.entry(REPLACE, topic.id, (key,)) == (number,))


def first_for_replay(log: Log, snapshot: Any, topic: TopicState) -> int | None:
    """The oldest id that can be replayed."""
    start = snapshot.topic_numbers(topic.id).first
    kept = snapshot.all_kept(topic.id, start)
    return next((number for number, raw in kept if is_for_replay(log, snapshot, topic, number, raw)), None)


def trim(engine: Engine, txn: Any, topic: TopicState, at_most: int) -> int:
    """Under L: the oldest messages beyond the limits go; how many were looked at."""
    options, numbers, log = topic.options, txn.topic_numbers(topic.id), engine.log
    if options.max_age is options.max_messages is options.max_bytes is None or not numbers.retained:
        return 0
    oldest_ns = 0 if options.max_age is None else engine.timeline.now_ns(WALL) - ns_of(options.max_age)
    count = 0
    for number, raw in list(islice(txn.all_kept(topic.id, numbers.first), at_most)):
        if is_for_replay(log, txn, topic, number, raw):
            over = (
                (options.max_messages is not None and numbers.retained > options.max_messages)
                or (options.max_bytes is not None and numbers.retained_bytes > options.max_bytes)
                or log.enqueued_ns(raw) < oldest_ns
            )
            if not over:
                break
            _count_out(log, txn, topic, number)
            numbers.trimmed, numbers.trimmed_ns = number, log.enqueued_ns(raw)
        numbers.first = number + 1
        txn.refer(topic.id, number, 0)  # nothing new; but this is to be committed
        count += 1
    return count


def enforce(engine: Engine, topic: TopicState) -> None:
    """Apply the limits to the end, some at a time."""
    if topic.options.keeps_for_replay:
        while engine.log.write(lambda txn: trim(engine, txn, topic, ENFORCED_AT_ONCE)) == ENFORCED_AT_ONCE:
            pass


# ---------------------------------------------------------------------- retained messages
def retain(txn: Any, topic: int, routing_key: bytes, number: int) -> None:
    """Under L: new subscriptions get this one, instead of the last of that routing key."""
    forget(txn, topic, routing_key)
    txn.enter(RETAINED, topic, (routing_key,), (number,))
    txn.refer(topic, number, 1)


def forget(txn: Any, topic: int, routing_key: bytes) -> bool:
    """Under L: no message of that routing key goes to new subscriptions; whether one did."""
    older = txn.entry(RETAINED, topic, (routing_key,))
    if older is None:
        return False
    txn.strike(RETAINED, topic, (routing_key,))
    txn.refer(topic, older[0], -1)
    return True
