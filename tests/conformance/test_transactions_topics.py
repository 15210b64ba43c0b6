"""Publishing in a transaction: by its commit, to all who subscribe by then, or to nobody."""

# ruff: noqa: F811
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import got, held, messages
from transaction_things import GUARD, broker, commits, counts, disk_broker, looks, timed_broker  # noqa: F401

import mqlite
from mqlite.claims import Kind

Topic = mqlite.Topic[Any]


@pytest.fixture
def topic(broker: mqlite.Broker) -> Topic:
    """A topic with default settings."""
    return broker.topic("events")


def test_all_who_subscribe_get_it_by_the_commit_and_not_before(broker: mqlite.Broker, topic: Topic) -> None:
    a, b, other = topic.subscribe("a"), topic.subscribe("b", "k.*"), topic.subscribe("other", "other")
    with broker.transaction() as tx:
        receipt = topic.publish("x", "k.l", tx=tx)
        assert (counts(a), counts(b), receipt.done) == ((0, 0, 0, 0), (0, 0, 0, 0), False)
        with pytest.raises(mqlite.NotCommitted):
            receipt.result()
    published = receipt.result()
    assert isinstance(published, mqlite.Published)
    assert (published.receivers, receipt.item, receipt.done, receipt.error) == (2, "x", True, None)
    assert [message.id for message in messages(a)] == [message.id for message in messages(b)] == [int(published)]
    assert got(other) == []


def test_many_are_published(broker: mqlite.Broker, topic: Topic) -> None:
    sub = topic.subscribe("s")
    with broker.transaction() as tx:
        receipts = topic.publish_many(["a", "b", "c"], "k", tx=tx)
        assert [type(receipt) for receipt in receipts] == [mqlite.Receipt] * 3
    assert [receipt.result().receivers for receipt in receipts] == [1, 1, 1]
    assert [int(receipt.result()) for receipt in receipts] == [message.id for message in sub.browse()]
    assert [(message.body, message.routing_key) for message in messages(sub)] == [("a", "k"), ("b", "k"), ("c", "k")]


def test_a_rollback_publishes_nothing(broker: mqlite.Broker, topic: Topic) -> None:
    sub = topic.subscribe("s")
    tx = broker.transaction()
    receipts = [topic.publish("x", tx=tx, retain=True, dedup_id="d"), *topic.publish_many(["y"], tx=tx)]
    tx.rollback()
    assert (counts(sub), topic.stats().published, topic.retained()) == ((0, 0, 0, 0), 0, [])
    assert [type(receipt.error) for receipt in receipts] == [mqlite.NotCommitted] * 2
    topic.publish("z", dedup_id="d")
    assert got(sub) == ["z"]


def test_publishes_are_one_commit(disk_broker: mqlite.Broker) -> None:
    topics = [disk_broker.topic(f"t{number}") for number in range(3)]
    subs = [topic.subscribe(f"s{number}") for topic in topics for number in range(3)]
    before = commits(disk_broker)
    with disk_broker.transaction() as tx:
        for topic in topics:
            topic.publish(1, tx=tx)
            topic.publish_many([2, 3], tx=tx)
    assert commits(disk_broker) == before + 1
    assert [got(sub) for sub in subs] == [[1, 2, 3]] * 9


OPTIONS: dict[str, dict[str, Any]] = {
    "priority": {"priority": 3},
    "ttl": {"ttl": 60},
    "group": {"group": "g"},
    "headers": {"headers": {"h": 1}},
    "type": {"type": "t"},
    "reply_to": {"reply_to": "r"},
    "correlation_id": {"correlation_id": "c"},
    "dedup_id": {"dedup_id": "d"},
    "replace_key": {"replace_key": "r"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_message_is_as_one_that_was_published_outside(timed_broker: mqlite.Broker, options: dict[str, Any]) -> None:
    inside, outside = timed_broker.topic("inside"), timed_broker.topic("outside")
    one, two = inside.subscribe("s"), outside.subscribe("s")
    outside.publish({"a": 1}, "a.b", **options)
    with timed_broker.transaction() as tx:
        inside.publish({"a": 1}, "a.b", tx=tx, **options)
    assert looks(one) == looks(two)
    assert len(looks(one)) == 1


def test_a_delayed_message_lines_up_at_its_time(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    topic = timed_broker.topic("events")
    sub = topic.subscribe("s")
    with timed_broker.transaction() as tx:
        topic.publish("later", delay=10, tx=tx)
        topic.publish("now", tx=tx)
    assert got(sub) == ["now"]
    clock.pass_by(10)
    assert got(sub) == ["later"]


def test_filters_and_patterns_choose(broker: mqlite.Broker, topic: Topic) -> None:
    by_type, by_header, by_function = topic.subscribe("type", filter={"type": "t"}), topic.subscribe("header", headers={"h": 1}), topic.subscribe("function", filter=lambda message: message.body > 1)
    with broker.transaction() as tx:
        receipts = [topic.publish(1, type="t", tx=tx), topic.publish(2, headers={"h": 1}, tx=tx), topic.publish(3, tx=tx)]
    assert [got(sub) for sub in (by_type, by_header, by_function)] == [[1], [2], [2, 3]]
    assert [receipt.result().receivers for receipt in receipts] == [2, 2, 1]


def test_who_subscribes_before_the_commit_gets_it(broker: mqlite.Broker, topic: Topic) -> None:
    with broker.transaction() as tx:
        receipt = topic.publish("x", tx=tx)
        sub = topic.subscribe("s")
    assert (got(sub), receipt.result().receivers) == (["x"], 1)


def test_who_is_gone_at_the_commit_gets_nothing(broker: mqlite.Broker, topic: Topic) -> None:
    gone, left = topic.subscribe("gone"), topic.subscribe("left")
    with broker.transaction() as tx:
        receipt = topic.publish("x", tx=tx)
        gone.unsubscribe()
    assert (got(left), receipt.result().receivers) == (["x"], 1)


def test_a_message_that_nobody_gets_is_published_to_nobody(broker: mqlite.Broker, topic: Topic) -> None:
    with broker.transaction() as tx:
        receipt = topic.publish("x", tx=tx)
    assert (receipt.result(), receipt.result().receivers, receipt.error) == (0, 0, None)


# ---------------------------------------------------------------------- mandatory
def test_a_mandatory_message_that_nobody_gets_fails_the_commit(broker: mqlite.Broker, topic: Topic) -> None:
    q = broker.queue("q")
    topic.subscribe("s", "wanted")
    tx = broker.transaction()
    q.put(1, tx=tx)
    topic.publish("x", "wanted", tx=tx)
    receipt = topic.publish("y", "unwanted", mandatory=True, tx=tx)
    with pytest.raises(mqlite.Unroutable):
        tx.commit()
    assert (counts(q), topic.stats().published, type(receipt.error)) == ((0, 0, 0, 0), 0, mqlite.Unroutable)


def test_a_mandatory_message_that_somebody_gets_is_published(broker: mqlite.Broker, topic: Topic) -> None:
    with broker.transaction() as tx:
        receipt = topic.publish("x", mandatory=True, tx=tx)
        sub = topic.subscribe("s")
    assert (got(sub), receipt.result().receivers) == (["x"], 1)


# ---------------------------------------------------------------------- kept
def test_a_retained_message_is_retained_by_the_commit(broker: mqlite.Broker, topic: Topic) -> None:
    with broker.transaction() as tx:
        topic.publish("old", "k", retain=True, tx=tx)
        topic.publish("new", "k", retain=True, tx=tx)
        topic.publish("other", "l", retain=True, tx=tx)
        assert topic.retained() == []
    assert [(message.body, message.routing_key) for message in topic.retained()] == [("new", "k"), ("other", "l")]
    assert got(topic.subscribe("late", "k")) == ["new"]


def test_what_is_kept_for_replay_keeps_the_order_of_the_transaction(broker: mqlite.Broker) -> None:
    topic = broker.topic("log", retention="limits", max_messages=5)
    with broker.transaction() as tx:
        topic.publish(0, tx=tx)
        topic.publish_many(list(range(1, 8)), tx=tx)
    assert (topic.stats().retained, got(topic.subscribe("s", start="earliest"))) == (5, [3, 4, 5, 6, 7])


def test_a_compacted_topic_keeps_the_last_of_a_transaction(broker: mqlite.Broker) -> None:
    topic = broker.topic("state", compact=True)
    topic.publish("before", "a")
    with broker.transaction() as tx:
        topic.publish(1, "a", tx=tx)
        topic.publish(2, "b", tx=tx)
        topic.publish(3, "a", tx=tx)
    assert got(topic.subscribe("s", start="earliest")) == [2, 3]


# ---------------------------------------------------------------------- the same twice
def test_a_second_publish_with_the_same_dedup_id_publishes_nothing(timed_broker: mqlite.Broker) -> None:
    topic = timed_broker.topic("events")
    sub = topic.subscribe("s")
    first = topic.publish(1, dedup_id="before")
    with timed_broker.transaction() as tx:
        receipts = [topic.publish(2, dedup_id="before", tx=tx), topic.publish(3, dedup_id="d", tx=tx), topic.publish(4, dedup_id="d", tx=tx)]
    again, one, two = [receipt.result() for receipt in receipts]
    assert (again, one, one.receivers, two.receivers, again.receivers) == (first, two, 1, 0, 0)
    assert topic.publish(5, dedup_id="d") == one
    assert got(sub) == [1, 3]


def test_a_second_publish_with_the_same_replace_key_replaces_the_first(broker: mqlite.Broker, topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish("before", replace_key="r")
    with broker.transaction() as tx:
        topic.publish(1, replace_key="r", tx=tx)
        topic.publish(2, tx=tx)
        topic.publish(3, replace_key="r", tx=tx)
    assert sorted(got(sub)) == [2, 3]
    assert topic.stats().stored == 0


# ---------------------------------------------------------------------- room
def test_a_full_subscription_fails_the_commit(broker: mqlite.Broker, topic: Topic) -> None:
    free, full, q = topic.subscribe("free"), topic.subscribe("full", maxsize=1), broker.queue("q")
    topic.publish(1)
    tx = broker.transaction()
    q.put(2, tx=tx)
    receipt = topic.publish(2, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert ([counts(each) for each in (free, full, q)], type(receipt.error)) == ([(1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0)], mqlite.Full)
    assert topic.stats().published == 1


def test_an_acknowledgement_makes_room_in_a_subscription(broker: mqlite.Broker, topic: Topic) -> None:
    sub = topic.subscribe("s", maxsize=1)
    topic.publish(1)
    [message] = held(sub)
    with broker.transaction() as tx:
        topic.publish(2, tx=tx)
        message.ack(tx=tx)
    assert got(sub) == [2]
    assert topic.stats().stored == 0


def test_a_commit_waits_for_room_in_a_subscription(broker: mqlite.Broker, topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe("s", maxsize=1)
    topic.publish(1)
    tx = broker.transaction(timeout=GUARD)
    topic.publish(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(sub, Kind.SPACE)
    assert got(sub, 1) == [1]
    waiting.result(GUARD)
    assert got(sub) == [2]


def test_subscriptions_of_every_overflow_in_one_transaction(broker: mqlite.Broker, topic: Topic) -> None:
    dropping, burying = topic.subscribe("dropping", maxsize=2, overflow="drop_oldest"), topic.subscribe("burying", maxsize=2, overflow="dead_letter")
    topic.publish_many([1, 2])
    with broker.transaction() as tx:
        topic.publish(3, tx=tx)
        topic.publish(4, tx=tx)
    assert (got(dropping), got(burying), got(burying.dead)) == ([3, 4], [1, 2], [3, 4])


def test_a_subscription_that_was_shut_down_fails_the_commit(broker: mqlite.Broker, topic: Topic) -> None:
    sub, q = topic.subscribe("s"), broker.queue("q")
    tx = broker.transaction()
    topic.publish(1, tx=tx)
    q.put(1, tx=tx)
    sub.shutdown()
    with pytest.raises(mqlite.ShutDown):
        tx.commit()
    assert counts(q) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- from message to messages
def test_a_message_is_taken_from_one_topic_and_published_to_another(broker: mqlite.Broker, topic: Topic) -> None:
    sub, other = topic.subscribe("s"), broker.topic("other")
    heard = other.subscribe("heard")
    topic.publish_many(list(range(10)))
    for message in held(sub):
        with broker.transaction() as tx:
            other.publish(message.body * 2, tx=tx)
            message.ack(tx=tx)
            tx.table("seen")[message.id] = message.body
    assert (got(heard), counts(sub), sorted(broker.table("seen").values())) == ([number * 2 for number in range(10)], (0, 0, 0, 0), list(range(10)))


def test_who_waits_for_what_is_published_is_woken_by_the_commit(broker: mqlite.Broker, topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    waiting = [in_thread(sub.get, timeout=GUARD) for sub in (a, b)]
    for sub in (a, b):
        until_waiting(sub)
    with broker.transaction() as tx:
        topic.publish("x", tx=tx)
        assert not any(future.done() for future in waiting)
    assert [future.result(GUARD) for future in waiting] == ["x", "x"]


# ---------------------------------------------------------------------- what is wrong is told at once
WRONG: dict[str, tuple[Callable[[Topic, Any], object], type[Exception]]] = {
    "routing key": (lambda topic, tx: topic.publish(1, "k" * 256, tx=tx), ValueError),
    "retain": (lambda topic, tx: topic.publish(1, retain=1, tx=tx), TypeError),  # type: ignore[arg-type]
    "mandatory": (lambda topic, tx: topic.publish(1, mandatory="yes", tx=tx), TypeError),  # type: ignore[arg-type]
    "unique": (lambda topic, tx: topic.publish(1, unique="u", tx=tx), TypeError),
    "dedup_id of many": (lambda topic, tx: topic.publish_many([1], dedup_id="d", tx=tx), TypeError),
    "replace_key of many": (lambda topic, tx: topic.publish_many([1], replace_key="d", tx=tx), TypeError),
}


@pytest.mark.parametrize(("publish", "error"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_at_once(broker: mqlite.Broker, topic: Topic, publish: Callable[[Topic, Any], object], error: type[Exception]) -> None:
    sub = topic.subscribe("s")
    with broker.transaction() as tx:
        with pytest.raises(error):
            publish(topic, tx)
        topic.publish("x", tx=tx)
    assert got(sub) == ["x"]
