"""Subscriptions come and go: made once, agreed upon, counted, removed with all they hold, by hand, by closing or by time."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, got, held, shop, timed_shop, topic  # noqa: F401

import mqlite
from mqlite.claims import Kind

Topic = mqlite.Topic[Any]


# ---------------------------------------------------------------------- made once
def test_the_same_name_again_is_the_same_subscription(topic: Topic) -> None:
    one, other = topic.subscribe("s"), topic.subscribe("s")
    topic.publish_many([1, 2])
    assert one is not other
    assert (got(one, 1), got(other), got(one)) == ([1], [2], [])
    assert topic.subscriptions() == ["s"]


def test_subscriptions_are_listed_as_they_were_made(topic: Topic) -> None:
    assert topic.subscriptions() == []
    for name in ("b", "a", "c"):
        topic.subscribe(name)
    topic.unsubscribe("a")
    topic.subscribe("a")
    assert topic.subscriptions() == ["b", "c", "a"]


def test_a_subscription_that_is_there_can_be_had_by_its_name(topic: Topic) -> None:
    topic.subscribe("s", "a.*", {"type": "t"}, maxsize=4)
    sub = topic.subscription("s")
    assert (sub.name, sub.topic, sub.pattern, sub.filter, sub.maxsize) == ("s", "events", "a.*", {"type": "t"}, 4)
    assert isinstance(sub, mqlite.Subscription)
    assert isinstance(sub, mqlite.Queue)


def test_a_subscription_that_is_not_there_is_told(topic: Topic) -> None:
    topic.subscribe("other")
    with pytest.raises(mqlite.NoSuchSubscription, match="nobody"):
        topic.subscription("nobody")
    assert issubclass(mqlite.NoSuchSubscription, LookupError)
    assert issubclass(mqlite.NoSuchSubscription, mqlite.MqliteError)
    assert topic.subscriptions() == ["other"]


def test_a_subscription_says_what_it_wants(topic: Topic) -> None:
    plain, whole = topic.subscribe("plain"), topic.subscribe("whole", "a.#", {"priority": (">", 1), "region": "eu"}, headers={"h": 1}, match="any")
    assert (plain.pattern, plain.filter, plain.headers) == ("#", None, None)
    assert (whole.pattern, whole.headers) == ("a.#", {"h": 1})
    again = topic.subscribe("again", "a.#", whole.filter, headers={"h": 1}, match="any")
    assert again.filter == whole.filter


def test_names_of_subscriptions_may_be_anything_printable(topic: Topic) -> None:
    names = ["a/b", "a.b", "ä", "#", "*", " ", "x" * 200, "dead", "s.dead", "events"]
    subs = [topic.subscribe(name) for name in names]
    topic.publish(1)
    assert [sub.name for sub in subs] == names == topic.subscriptions()
    assert [got(sub) for sub in subs] == [[1]] * len(names)
    assert [topic.unsubscribe(name) for name in names] == [True] * len(names)


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), ("a\nb", ValueError), ("a\x1fb", ValueError), ("x" * 256, ValueError), ("\ud800", ValueError), (1, TypeError), (b"s", TypeError), (True, TypeError)]
)
def test_bad_names_are_told(shop: Shop, topic: Topic, name: Any, error: type[Exception]) -> None:
    for call in (topic.subscribe, topic.subscription, topic.unsubscribe, lambda name: topic.subscribe(name, durable=False)):
        with pytest.raises(error, match="name"):
            call(name)
    with pytest.raises(error, match="name"):
        mqlite.Topic(name)
    assert topic.subscriptions() == []


def test_a_durable_subscription_needs_a_name(topic: Topic) -> None:
    for options in ({}, {"durable": True}):
        with pytest.raises(ValueError, match="name"):
            topic.subscribe(**options)
    assert topic.subscriptions() == []


def test_long_names_of_topics_and_subscriptions_go_together(shop: Shop) -> None:
    topic = shop.topic("t" * 255)
    sub = topic.subscribe("s" * 200)
    topic.publish("x")
    assert got(sub) == ["x"]
    assert topic.unsubscribe("s" * 200)
    try:
        topic.subscribe("s" * 255)
    except ValueError:
        assert topic.subscriptions() == []


# ---------------------------------------------------------------------- agreed upon
def test_what_is_named_again_must_agree(topic: Topic) -> None:
    stored: dict[str, Any] = {"pattern": "a.*", "filter": {"type": "t"}, "headers": {"h": 1}, "match": "any", "durable": True, "expires_after": 5, "maxsize": 2}
    topic.subscribe("s", **stored)
    topic.subscribe("s", **stored)
    topic.subscribe("s")
    for name, value in {"pattern": "#", "filter": {"type": "u"}, "headers": {"h": 2}, "match": "all", "expires_after": 6, "maxsize": 3}.items():
        with pytest.raises(mqlite.SettingsMismatch, match="filter|headers" if name in ("headers", "match") else name):
            topic.subscribe("s", **{**stored, name: value})
    with pytest.raises(mqlite.SettingsMismatch, match="durable"):
        topic.subscribe("s", durable=False)
    assert topic.subscriptions() == ["s"]


@pytest.mark.parametrize("name", ["pattern", "filter", "headers", "durable", "expires_after", "maxsize"])
def test_each_may_be_named_again_alone(topic: Topic, name: str) -> None:
    stored: dict[str, Any] = {"pattern": "a.*", "filter": {"type": "t"}, "headers": {"h": 1}, "durable": True, "expires_after": 5, "maxsize": 2}
    topic.subscribe("s", **stored)
    topic.subscribe("s", **{name: stored[name]})


def test_a_filter_that_is_written_otherwise_agrees(topic: Topic) -> None:
    topic.subscribe("s", filter={"type": "t", "region": ("in", ["a", "b"])})
    topic.subscribe("s", filter={"headers.region": [("in", ("b", "a"))], "type": ("==", "t")})
    with pytest.raises(mqlite.SettingsMismatch):
        topic.subscribe("s", filter={"type": "t"})


def test_a_filter_is_a_mismatch_where_there_is_none_and_the_other_way(topic: Topic) -> None:
    topic.subscribe("s")
    for wanted in ({"type": "t"}, lambda message: True):
        with pytest.raises(mqlite.SettingsMismatch, match="filter"):
            topic.subscribe("s", filter=wanted)


def test_a_mismatch_leaves_no_handle_and_no_use_behind(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=5).close()
    with pytest.raises(mqlite.SettingsMismatch):
        topic.subscribe("s", "a.b")
    clock.pass_by(6)
    assert topic.subscriptions() == []


@pytest.mark.parametrize("what", ["filter", "backoff"])
def test_a_function_that_is_left_out_is_a_mismatch_and_leaves_no_use_behind(timed_shop: Shop, clock: HandClock, what: str) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=5, **{what: one}).close()
    for call in (lambda: topic.subscribe("s"), lambda: topic.subscription("s")):
        if what == "backoff" and not timed_shop.on_disk:
            continue  # the function is known to the process
        try:
            call().close()
        except mqlite.SettingsMismatch:
            pass
    clock.pass_by(6)
    assert topic.subscriptions() == []


def one(_: object) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pattern": 1}, TypeError, "pattern"),
        ({"pattern": "a*"}, ValueError, "whole"),
        ({"pattern": "a.#b"}, ValueError, "whole"),
        ({"pattern": "**"}, ValueError, "whole"),
        ({"pattern": "x" * 256}, ValueError, "255"),
        ({"pattern": b"#"}, TypeError, "pattern"),
        ({"filter": 1}, TypeError, "filter"),
        ({"filter": {}}, ValueError, "filter"),
        ({"filter": {"a": ("~", 1)}}, ValueError, "operator"),
        ({"filter": {"a": ("in", 1)}}, TypeError, "in"),
        ({"filter": {"a": None}}, ValueError, "exists"),
        ({"filter": {1: 2}}, TypeError, "filter"),
        ({"headers": 1}, TypeError, "headers"),
        ({"headers": {}}, ValueError, "headers"),
        ({"match": "some", "headers": {"a": 1}}, ValueError, "match"),
        ({"match": "any"}, ValueError, "headers"),
        ({"start": "first"}, ValueError, "position"),
        ({"durable": 1}, TypeError, "durable"),
        ({"durable": None}, TypeError, "durable"),
        ({"expires_after": 0}, ValueError, "expires_after"),
        ({"expires_after": -1}, ValueError, "expires_after"),
        ({"expires_after": "1"}, TypeError, "expires_after"),
        ({"expires_after": float("nan")}, ValueError, "expires_after"),
        ({"maxsize": "1"}, TypeError, "maxsize"),
        ({"maxsize": 1.0}, TypeError, "maxsize"),
        ({"overflow": "burst"}, ValueError, "overflow"),
        ({"order": "random"}, ValueError, "order"),
        ({"order": "lifo", "fair": True}, ValueError, "order"),
        ({"overflow": "dead_letter", "dead_letter": False}, ValueError, "dead_letter"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"limits": {"a": 0}}, ValueError, "limits"),
        ({"backoff": []}, ValueError, "backoff"),
        ({"rate": 0}, ValueError, "rate"),
        ({"codec": "pickle"}, TypeError, "codec"),
        ({"max_message_bytes": 5}, TypeError, "max_message_bytes"),
        ({"dedup_window": 5}, TypeError, "dedup_window"),
        ({"colour": "red"}, TypeError, "colour"),
        ({"path": "x"}, TypeError, "path"),
        ({"paused": True}, TypeError, "paused"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, dict) else None,
)
def test_bad_options_of_a_subscription_are_told_and_make_none(topic: Topic, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        topic.subscribe("s", **options)
    assert topic.subscriptions() == []


@pytest.mark.parametrize(("first", "second"), [({"order": "lifo"}, {"fair": True}), ({"overflow": "dead_letter"}, {"dead_letter": False}), ({"aging": 5}, {"order": "lifo"})])
def test_options_that_contradict_those_of_the_topic_are_told_and_make_none(shop: Shop, first: dict[str, Any], second: dict[str, Any]) -> None:
    topic = shop.topic(**first)
    with pytest.raises(ValueError, match="choose"):
        topic.subscribe("s", **second)
    assert topic.subscriptions() == []


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"retention": "for ever"}, ValueError, "retention"),
        ({"max_age": 5}, ValueError, "retention"),
        ({"max_messages": 5}, ValueError, "retention"),
        ({"max_bytes": 5}, ValueError, "retention"),
        ({"retention": "limits", "max_age": 0}, ValueError, "max_age"),
        ({"retention": "limits", "max_age": "1"}, TypeError, "max_age"),
        ({"retention": "limits", "max_messages": 0}, ValueError, "max_messages"),
        ({"retention": "limits", "max_messages": 1.5}, TypeError, "max_messages"),
        ({"retention": "limits", "max_bytes": True}, TypeError, "max_bytes"),
        ({"compact": 1}, TypeError, "compact"),
        ({"max_message_bytes": 0}, ValueError, "max_message_bytes"),
        ({"dedup_window": 0}, ValueError, "dedup_window"),
        ({"codec": 1}, (TypeError, ValueError, mqlite.MqliteError), "codec"),
        ({"backoff": one}, TypeError, "backoff"),
        ({"maxsize": "x"}, TypeError, "maxsize"),
        ({"colour": "red"}, TypeError, "colour"),
        ({"paused": True}, TypeError, "paused"),
        ({"queue": {"maxsize": 1}}, TypeError, "queue"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, dict) else None,
)
def test_bad_options_of_a_topic_are_told(shop: Shop, options: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        shop.topic("bad", **options)
    with mqlite.open(shop.path) as broker:
        assert broker.topics() == []


# ---------------------------------------------------------------------- unsubscribed
def test_unsubscribe_says_whether_there_was_one(topic: Topic) -> None:
    topic.subscribe("a")
    sub = topic.subscribe("b")
    assert [topic.unsubscribe("a"), topic.unsubscribe("a"), topic.unsubscribe("never"), sub.unsubscribe(), topic.unsubscribe("b")] == [True, False, False, True, False]
    assert topic.subscriptions() == []


def test_nothing_comes_to_a_subscription_that_is_gone(topic: Topic) -> None:
    sub, other = topic.subscribe("s"), topic.subscribe("other")
    topic.unsubscribe("s")
    assert topic.publish(1).receivers == 1
    assert (got(other), sub.qsize()) == ([1], 0)


def test_all_that_a_subscription_holds_goes_with_it(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    before = timed_shop.entries()
    sub = topic.subscribe("s", limits={"g": 1})
    topic.publish_many(range(300), group="g", ttl=1000)
    topic.publish_many(range(5), delay=100)
    topic.publish("x", replace_key="k", ttl=50)
    topic.publish("y")
    claimed = held(sub, 2)
    claimed[0].reject("no")
    assert (sub.stats().dead, sub.stats().claimed, sub.stats().delayed, topic.stats().stored) == (1, 1, 5, 306)
    sub.unsubscribe()
    assert topic.stats().stored == 0
    with pytest.raises(mqlite.LeaseLost):
        claimed[1].ack()
    assert timed_shop.check() == []
    clock.pass_by(2000)
    timed_shop.entries()
    assert timed_shop.entries()[0] <= before[0] + 2  # what the topic itself has come to know


def test_what_others_are_owed_stays_when_one_unsubscribes(topic: Topic) -> None:
    sub, other = topic.subscribe("s"), topic.subscribe("other")
    topic.publish_many(range(5))
    held(sub)
    topic.unsubscribe("s")
    assert (topic.stats().stored, got(other), topic.stats().stored) == (5, list(range(5)), 0)


def test_the_same_name_again_starts_empty(topic: Topic) -> None:
    sub = topic.subscribe("s", maxsize=2)
    topic.publish_many([1, 2])
    held(sub, 1)[0].reject()
    old = sub.dead
    topic.unsubscribe("s")
    new = topic.subscribe("s", "k", maxsize=5)
    assert (got(new), new.stats().dead, new.stats().lag, new.maxsize, new.pattern) == ([], 0, 0, 5, "k")
    topic.publish(3, "k")
    with pytest.raises(mqlite.NoSuchSubscription):
        sub.receive(timeout=0)
    assert got(new) == [3]
    assert old.qsize() == 0


def test_an_old_handle_does_not_unsubscribe_the_new_one(topic: Topic) -> None:
    old = topic.subscribe("s")
    topic.unsubscribe("s")
    new = topic.subscribe("s")
    assert not old.unsubscribe()
    topic.publish(1)
    assert (topic.subscriptions(), got(new)) == (["s"], [1])


@pytest.mark.parametrize(
    "use",
    [
        lambda sub: sub.get(timeout=0),
        lambda sub: sub.receive(timeout=0),
        lambda sub: sub.receive(timeout=5),
        lambda sub: sub.consumer().receive(timeout=0),
        lambda sub: sub.consumer(auto_ack=True).receive(timeout=0),
        lambda sub: sub.pattern,
        lambda sub: sub.filter,
        lambda sub: sub.headers,
        lambda sub: sub.seek("earliest"),
        lambda sub: sub.configure(maxsize=5),
        lambda sub: sub.pause(),
    ],
    ids=["get", "receive", "receive waiting", "consumer", "auto_ack", "pattern", "filter", "headers", "seek", "configure", "pause"],
)
def test_a_handle_on_what_is_gone_says_so(topic: Topic, use: Any) -> None:
    sub = topic.subscribe("s")
    topic.publish(1)
    topic.unsubscribe("s")
    with pytest.raises(mqlite.NoSuchSubscription, match="events/s"):
        use(sub)
    assert topic.subscriptions() == []


def test_a_seek_of_what_is_gone_keeps_nothing(topic: Topic) -> None:
    sub, other = topic.subscribe("s"), topic.subscribe("other")
    topic.unsubscribe("s")
    with contextlib.suppress(mqlite.NoSuchSubscription):
        sub.seek("earliest")
    topic.publish_many(range(5))
    assert (got(other), topic.stats().stored) == (list(range(5)), 0)


def test_to_look_at_what_is_gone_finds_nothing_or_says_so(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2])
    held(sub, 1)
    topic.unsubscribe("s")
    for look, nothing in ((sub.qsize, 0), (sub.peek, []), (lambda: list(sub.browse()), []), (sub.purge, 0), (sub.redrive, 0), (lambda: sub.stats().lag, 0), (sub.empty, True), (lambda: sub.cancel(1), False)):
        try:
            assert look() == nothing
        except mqlite.NoSuchSubscription:
            pass
    sub.close()


@pytest.mark.parametrize("settle", [lambda m: m.ack(), lambda m: m.nack(), lambda m: m.nack(delay=5), lambda m: m.reject(), lambda m: m.release(), lambda m: m.extend(5)])
def test_what_somebody_holds_of_a_subscription_that_goes_is_lost(topic: Topic, settle: Any) -> None:
    sub = topic.subscribe("s", max_deliveries=1)
    topic.publish(1)
    [m] = held(sub)
    sub.unsubscribe()
    with pytest.raises(mqlite.LeaseLost):
        settle(m)
    assert topic.stats().stored == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda sub: sub.get(timeout=GUARD),
        lambda sub: sub.receive(timeout=GUARD),
        lambda sub: sub.consumer(prefetch=3).receive(timeout=GUARD),
        lambda sub: sub.consumer(mode="failover").receive(timeout=GUARD),
    ],
    ids=["get", "receive", "consumer", "failover"],
)
def test_who_waits_is_told_that_the_subscription_goes(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting, wait: Any) -> None:
    sub = topic.subscribe("s")
    waiting = [in_thread(wait, topic.subscription("s")) for _ in range(2)]
    until_waiting(sub)
    topic.unsubscribe("s")
    for each in waiting:
        with pytest.raises(mqlite.NoSuchSubscription):
            each.result(GUARD)


def test_who_iterates_over_a_consumer_is_told_too(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe("s")
    consumer = sub.consumer()
    waiting = in_thread(list, consumer)
    until_waiting(sub)
    topic.unsubscribe("s")
    with pytest.raises(mqlite.NoSuchSubscription):
        waiting.result(GUARD)


def test_who_joins_or_waits_for_dead_letters_does_not_wait_for_ever(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe("s")
    topic.publish(1)
    joined, dead = in_thread(sub.join), in_thread(sub.dead.get, timeout=GUARD)
    until_waiting(sub, Kind.DONE)
    until_waiting(sub.dead)
    topic.unsubscribe("s")
    try:
        joined.result(GUARD)
    except mqlite.NoSuchSubscription:
        pass
    with pytest.raises(mqlite.NoSuchSubscription):
        dead.result(GUARD)


def test_what_a_consumer_has_prefetched_of_a_subscription_that_goes_is_not_handed_out(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2, 3])
    consumer = sub.consumer(prefetch=3)
    assert consumer.receive(timeout=0).body == 1
    sub.unsubscribe()
    with pytest.raises(mqlite.NoSuchSubscription):
        consumer.receive(timeout=0)
    consumer.close()


def test_unsubscribe_during_a_replay(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    topic.publish_many(range(1200))
    sub = topic.subscribe("s", start="earliest")
    assert got(sub, 5) == list(range(5))
    held(sub, 5)
    sub.unsubscribe()
    assert topic.stats().stored == 1200
    assert got(topic.subscribe("s", start="earliest"), 2) == [0, 1]


def test_subscribing_and_unsubscribing_in_threads(topic: Topic, in_thread: InThread) -> None:
    def come_and_go(thread: int) -> None:
        for n in range(12):
            name = f"s{thread}" if n % 2 else "shared"
            with contextlib.suppress(mqlite.Empty, mqlite.NoSuchSubscription), topic.subscribe(name, start="earliest") as sub:
                sub.receive(3, timeout=0)
            topic.unsubscribe(name)

    steady = topic.subscribe("steady")
    workers = [in_thread(come_and_go, thread) for thread in range(3)]
    for n in range(60):
        topic.publish(n)
    for worker in workers:
        worker.result(GUARD)
    topic.unsubscribe("shared")
    assert (topic.subscriptions(), got(steady), topic.stats().stored) == (["steady"], list(range(60)), 0)


# ---------------------------------------------------------------------- closed
def test_closing_a_handle_on_a_durable_subscription_leaves_it(topic: Topic) -> None:
    with topic.subscribe("s") as sub:
        topic.publish(1)
    with pytest.raises(mqlite.Closed):
        sub.receive(timeout=0)
    assert got(topic.subscription("s")) == [1]


def test_closing_the_topic_closes_the_subscriptions_made_by_it(shop: Shop, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic, other = shop.topic(), shop.topic()
    sub = topic.subscribe("s")
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    topic.close()
    with pytest.raises(mqlite.Closed):
        waiting.result(GUARD)
    with pytest.raises(mqlite.Closed):
        sub.qsize()
    other.publish(1)
    assert got(other.subscription("s")) == [1]


def test_a_subscription_outlives_another_handle_on_the_topic(shop: Shop) -> None:
    topic = shop.topic()
    sub = topic.subscribe("s")
    shop.topic().close()
    topic.publish(1)
    assert got(sub) == [1]


def test_everything_is_kept_across_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    topic.subscribe("s", "a.*", {"type": ("in", ["t", "u"])}, headers={"h": 1}, maxsize=3, max_deliveries=2)
    topic.publish(1, "a.b", type="t", headers={"h": 1})
    topic.publish(2, "a.b", type="v", headers={"h": 1})
    topic.publish(3, "a.c", type="u", headers={"h": 1})
    held(topic.subscription("s"), 1)[0].reject("no")
    topic = shop.again()
    sub = topic.subscription("s")
    assert (sub.pattern, sub.headers, sub.maxsize, sub.stats().dead, topic.subscriptions()) == ("a.*", {"h": 1}, 3, 1, ["s"])
    topic.publish(4, "a.b", type="t")
    topic.publish(5, "a.b", type="t", headers={"h": 1, "i": 2})
    assert got(sub) == [3, 5]
    assert sub.redrive() == 1
    assert got(sub) == [1]


# ---------------------------------------------------------------------- ephemeral
def test_an_ephemeral_subscription_needs_no_name_and_goes_when_it_is_closed(topic: Topic) -> None:
    one, other = topic.subscribe(durable=False), topic.subscribe(durable=False, pattern="k")
    assert one.name != other.name
    assert topic.subscriptions() == [one.name, other.name]
    topic.publish_many([1, 2], "k")
    assert (got(one, 1), got(other)) == ([1], [1, 2])
    held(one)
    one.close()
    one.close()
    assert topic.subscriptions() == [other.name]
    with other:
        pass
    assert (topic.subscriptions(), topic.stats().stored) == ([], 0)


def test_an_ephemeral_subscription_with_a_name(topic: Topic) -> None:
    sub = topic.subscribe("s", durable=False)
    second = topic.subscribe("s", durable=False)
    topic.publish_many([1, 2])
    second.close()
    assert topic.subscriptions() == ["s"]
    assert got(sub) == [1, 2]
    third = topic.subscription("s")
    sub.close()
    assert topic.subscriptions() == []
    with pytest.raises(mqlite.NoSuchSubscription):
        third.receive(timeout=0)


def test_an_ephemeral_subscription_goes_with_its_topic_handle(shop: Shop) -> None:
    topic, other = shop.topic(), shop.topic()
    topic.subscribe("gone", durable=False)
    topic.subscribe("stays")
    topic.close()
    assert other.subscriptions() == ["stays"]


def test_an_ephemeral_subscription_does_not_survive_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    topic.subscribe("gone", durable=False)
    topic.subscribe("stays")
    topic.publish_many(range(5))
    if shop.on_disk:
        assert shop.again().subscriptions() == ["stays"]


def test_an_ephemeral_subscription_that_was_unsubscribed_can_be_closed(topic: Topic) -> None:
    sub = topic.subscribe("s", durable=False)
    topic.unsubscribe("s")
    durable = topic.subscribe("s")
    sub.close()
    assert topic.subscriptions() == ["s"]
    durable.close()


def test_who_waits_on_an_ephemeral_subscription_that_is_closed_gets_closed(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe(durable=False)
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    sub.close()
    with pytest.raises((mqlite.Closed, mqlite.NoSuchSubscription)):
        waiting.result(GUARD)


# ---------------------------------------------------------------------- expires_after
def test_a_subscription_that_nobody_uses_for_so_long_goes(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", expires_after=60)
    topic.publish_many(range(3))
    sub.close()
    clock.pass_by(59.9)
    assert topic.subscriptions() == ["s"]
    clock.pass_by(0.1)
    assert (topic.subscriptions(), topic.stats().stored, topic.publish(1)) == ([], 0, 0)


def test_it_does_not_go_while_a_handle_is_open(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub, other = topic.subscribe("s", expires_after=60), topic.subscribe("s")
    clock.pass_by(10_000)
    topic.publish(1)
    assert topic.subscriptions() == ["s"]
    sub.close()
    clock.pass_by(10_000)
    topic.publish(2)
    assert got(other) == [1, 2]
    other.close()
    clock.pass_by(59)
    assert topic.subscriptions() == ["s"]
    clock.pass_by(1)
    assert topic.subscriptions() == []


def test_its_time_begins_anew_when_it_is_used_again(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=60).close()
    for _ in range(3):
        clock.pass_by(50)
        topic.subscription("s").close()
    clock.pass_by(50)
    assert topic.subscriptions() == ["s"]
    clock.pass_by(10)
    assert topic.subscriptions() == []


def test_who_subscribes_after_its_time_gets_a_new_one(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", "old", expires_after=60).close()
    topic.publish(1, "old")
    clock.pass_by(60)
    sub = topic.subscribe("s", "new")
    assert (got(sub), sub.pattern) == ([], "new")
    clock.pass_by(1000)
    assert topic.subscriptions() == ["s"]


def test_a_subscription_that_has_expired_is_not_found(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=60).close()
    clock.pass_by(60)
    with pytest.raises(mqlite.NoSuchSubscription):
        topic.subscription("s")
    assert topic.unsubscribe("s") is False


def test_it_expires_also_while_the_store_is_closed(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", expires_after=60)
    topic.subscribe("stays")
    topic.publish(1)
    sub.close()
    topic = timed_shop.again()
    clock.pass_by(60)
    assert topic.subscriptions() == ["stays"]


def test_closing_the_store_begins_its_time(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=60)
    clock.pass_by(1000)
    if not timed_shop.on_disk:
        topic.close()
    topic = timed_shop.again()
    clock.pass_by(59)
    assert topic.subscriptions() == ["s"]
    clock.pass_by(1)
    assert topic.subscriptions() == []


def test_a_publish_removes_what_has_expired_and_does_not_wait_for_its_room(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=60, maxsize=1).close()
    topic.publish(1)
    clock.pass_by(60)
    assert topic.publish(2, timeout=0).receivers == 0


def test_setting_the_wall_clock_does_not_remove_a_subscription(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.subscribe("s", expires_after=60).close()
    clock.set_wall(1_000_000)
    assert topic.subscriptions() == ["s"]


def test_unsubscribing_by_hand_ends_it_before_its_time(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", expires_after=60)
    sub.close()
    topic.unsubscribe("s")
    topic.subscribe("s")
    clock.pass_by(60)
    assert topic.subscriptions() == ["s"]


def test_an_ephemeral_subscription_has_no_time_of_its_own(topic: Topic) -> None:
    with pytest.raises(ValueError, match="expires_after"):
        topic.subscribe("s", durable=False, expires_after=60)
    assert topic.subscriptions() == []


def test_a_bound_queue_stays_bound_when_the_topic_is_closed(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue)
    topic.close()
    other = shop.topic()
    other.publish(1)
    assert got(queue) == [1]
