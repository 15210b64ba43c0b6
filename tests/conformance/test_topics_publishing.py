"""What is published goes to all who subscribe, whole, once to each, with one id; to nobody where anything is wrong."""

# ruff: noqa: F811
from __future__ import annotations

import itertools
import pickle
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contents import Torn
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite

Topic = mqlite.Topic[Any]


# ---------------------------------------------------------------------- to everybody
def test_each_subscription_gets_each_message(topic: Topic) -> None:
    subs = [topic.subscribe(name) for name in "abc"]
    for body in (1, 2, 3):
        topic.publish(body)
    assert [got(sub) for sub in subs] == [[1, 2, 3]] * 3


def test_a_message_has_one_id_in_all_subscriptions(topic: Topic) -> None:
    subs = [topic.subscribe(name) for name in "abc"]
    ids = [topic.publish(body) for body in (1, 2)]
    assert [[message.id for message in messages(sub)] for sub in subs] == [ids] * 3


def test_what_publish_returns_is_an_int_that_knows_how_many_got_it(topic: Topic) -> None:
    topic.subscribe("a", "x")
    topic.subscribe("b", "*")
    published = topic.publish(1, "x")
    assert isinstance(published, int)
    assert isinstance(published, mqlite.Published)
    assert published > 0
    assert (published.receivers, topic.publish(2, "y").receivers, topic.publish(3, "x.y").receivers) == (2, 1, 0)


def test_what_publish_returned_can_be_pickled_and_shown(topic: Topic) -> None:
    topic.subscribe("a")
    published = topic.publish(1)
    again = pickle.loads(pickle.dumps(published))
    assert (again, again.receivers, again == int(published), f"{published:d}") == (published, 1, True, str(int(published)))
    assert "receivers=1" in repr(published)


def test_ids_grow(topic: Topic) -> None:
    topic.subscribe("a")
    ids = [topic.publish(body) for body in range(10)]
    assert ids == sorted(set(ids))


def test_subscriptions_get_what_is_published_after_they_were_made(topic: Topic) -> None:
    early = topic.subscribe("early")
    topic.publish(1)
    late = topic.subscribe("late")
    topic.publish(2)
    assert (got(early), got(late)) == ([1, 2], [2])


def test_consumers_of_one_subscription_share_its_messages(topic: Topic) -> None:
    shared, other = topic.subscribe("shared"), topic.subscribe("other")
    topic.publish_many(range(20))
    with shared.consumer(prefetch=2) as one, topic.subscription("shared").consumer() as two:
        found = []
        for consumer in itertools.islice(itertools.cycle([one, two]), 20):
            with consumer.receive(timeout=0) as message:
                found.append(message.body)
    assert sorted(found) == list(range(20))
    assert (got(shared), got(other)) == ([], list(range(20)))


def test_to_settle_in_one_subscription_settles_in_no_other(topic: Topic) -> None:
    a, b, c = (topic.subscribe(name) for name in "abc")
    topic.publish(1)
    held(a)[0].ack()
    held(b)[0].reject()
    assert (a.stats().ready, b.stats().ready, b.stats().dead, c.stats().ready, c.stats().dead) == (0, 0, 1, 1, 0)
    assert got(c) == [1]


def test_topics_of_one_store_have_nothing_to_do_with_each_other(shop: Shop) -> None:
    one, other = shop.topic("one"), shop.topic("other")
    a, b = one.subscribe("s"), other.subscribe("s")
    one.publish(1)
    other.publish(2)
    assert (got(a), got(b)) == ([1], [2])
    assert (a.topic, b.topic, a.name, b.name) == ("one", "other", "s", "s")


def test_a_topic_and_a_queue_may_have_the_same_name(shop: Shop) -> None:
    topic, queue = shop.topic("jobs"), shop.queue("jobs")
    sub = topic.subscribe("s")
    topic.publish("published")
    queue.put("put")
    assert (got(sub), got(queue)) == (["published"], ["put"])


def test_two_handles_on_a_topic_are_one_topic(shop: Shop) -> None:
    one, other = shop.topic(), shop.topic()
    a = one.subscribe("a")
    other.publish(1)
    b = other.subscribe("b")
    one.publish(2)
    assert (got(a), got(b)) == ([1, 2], [2])


def test_in_memory_all_get_the_very_object() -> None:
    with mqlite.Topic[Any]("events") as topic:
        subs = [topic.subscribe(name) for name in "ab"]
        body = object()
        topic.publish(body)
        assert all(message.body is body for sub in subs for message in messages(sub))


def test_a_topic_in_memory_has_no_sizes_to_obey_but_those_of_bytes_and_str() -> None:
    with mqlite.Topic[Any]("events", max_message_bytes=10) as topic:
        sub = topic.subscribe("s")
        topic.publish(list(range(1000)))
        with pytest.raises(mqlite.MessageTooLarge):
            topic.publish("x" * 11)
        assert got(sub) == [list(range(1000))]


# ---------------------------------------------------------------------- what is said of a message
def test_all_that_is_said_of_a_message_comes_with_it(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    number = topic.publish(
        {"n": 1}, "order.paid", headers={"region": "eu", "n": [1, None]}, priority=7, type="order", group="g", ttl=60, reply_to="r", correlation_id="c"
    )
    [message] = held(sub)
    said = (message.id, message.body, message.routing_key, message.headers, message.priority, message.type, message.group, message.reply_to, message.correlation_id)
    assert said == (number, {"n": 1}, "order.paid", {"region": "eu", "n": [1, None]}, 7, "order", "g", "r", "c")
    assert message.queue == "events/s"
    assert message.expires_at == datetime.fromtimestamp(clock.moment(60), UTC)
    assert message.enqueued_at == datetime.fromtimestamp(clock.moment(0), UTC)
    assert (message.delivery_count, message.acquired_count, message.death) == (0, 1, None)
    message.ack()


def test_a_message_of_which_nothing_is_said_says_nothing(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish(1)
    [m] = messages(sub)
    assert (m.routing_key, m.headers, m.priority, m.type, m.group, m.expires_at, m.reply_to, m.correlation_id) == ("", {}, 0, None, None, None, None, None)


def test_bodies_that_json_cannot_carry_are_refused_and_nobody_gets_them(shop: Shop) -> None:
    if not shop.on_disk:
        pytest.skip("in memory bodies are not encoded")
    topic = shop.topic()
    sub = topic.subscribe("s")
    for body in (object(), {1: 2}, (1, 2), {1, 2}):
        with pytest.raises(mqlite.CodecError):
            topic.publish(body)
        with pytest.raises(mqlite.CodecError):
            topic.publish_many([1, body])
    assert (sub.qsize(), topic.stats().published) == (0, 0)


def test_a_body_that_is_too_large_is_refused_and_nobody_gets_it(shop: Shop) -> None:
    topic = shop.topic(max_message_bytes=100)
    sub = topic.subscribe("s")
    for publish in (lambda: topic.publish("x" * 200), lambda: topic.publish_many(["x", "x" * 200])):
        with pytest.raises(mqlite.MessageTooLarge, match="max_message_bytes"):
            publish()
    assert (sub.qsize(), topic.stats().published) == (0, 0)
    topic.configure(max_message_bytes=1000)
    topic.publish("x" * 200)
    assert got(sub) == ["x" * 200]


def test_bodies_of_some_size_come_back_whole(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    bodies = ["x" * size for size in (0, 1, 1000, 5000, 300_000)]
    for body in bodies:
        topic.publish(body)
    assert (got(a), got(b)) == (bodies, bodies)


def test_a_codec_of_ones_own_carries_bodies_to_all(disk_codec_topic: Topic) -> None:
    a, b = disk_codec_topic.subscribe("a"), disk_codec_topic.subscribe("b")
    disk_codec_topic.publish((1, 2))
    assert (got(a), got(b)) == (["(1, 2)"], ["(1, 2)"])


def test_what_the_codec_cannot_read_is_dead_in_each_subscription(disk_codec_topic: Topic) -> None:
    a, b = disk_codec_topic.subscribe("a"), disk_codec_topic.subscribe("b")
    disk_codec_topic.publish(["bad"])
    disk_codec_topic.publish(["good"])
    assert (got(a), got(b)) == (["['good']"], ["['good']"])
    for sub in (a, b):
        [letter] = sub.dead._engine.peek(sub.dead._state, 1)
        assert sub.stats().dead == 1
        assert letter[1].extras["death"]["reason"] == "corrupted"


@pytest.fixture
def disk_codec_topic(path: str) -> Any:
    with mqlite.Topic[Any]("events", path, codec=Torn()) as topic:
        yield topic
        assert topic.check() == []


# ---------------------------------------------------------------------- to nobody
def test_what_nobody_gets_is_not_kept_and_has_the_id_0(topic: Topic) -> None:
    published = topic.publish(1)
    assert (published, published.receivers) == (0, 0)
    stats = topic.stats()
    assert (stats.published, stats.unroutable, stats.stored) == (0, 1, 0)
    assert got(topic.subscribe("late", start="earliest")) == []


def test_what_does_not_match_is_not_kept_either(topic: Topic) -> None:
    sub = topic.subscribe("s", "a.*", {"type": "t"})
    assert [int(topic.publish(1, key, type=kind)) for key, kind in (("a", "t"), ("b.c", "t"), ("a.b", "u"))] == [0, 0, 0]
    assert topic.publish(2, "a.b", type="t").receivers == 1
    assert (got(sub), topic.stats().unroutable) == ([2], 3)


def test_mandatory_refuses_what_nobody_gets(topic: Topic) -> None:
    topic.subscribe("s", "a")
    with pytest.raises(mqlite.Unroutable, match=r"b\.c"):
        topic.publish(1, "b.c", mandatory=True)
    with pytest.raises(mqlite.Unroutable):
        topic.publish_many([1, 2], "b.c", mandatory=True)
    assert issubclass(mqlite.Unroutable, mqlite.MqliteError)
    assert topic.publish(1, "a", mandatory=True).receivers == 1
    assert topic.stats().published == 1


def test_mandatory_refuses_also_what_would_be_kept_for_replay(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    with pytest.raises(mqlite.Unroutable):
        topic.publish(1, mandatory=True)
    with pytest.raises(mqlite.Unroutable):
        topic.publish(1, mandatory=True, retain=True)
    assert (topic.stats().published, topic.stats().stored, topic.retained()) == (0, 0, [])
    assert topic.publish(2) > 0


def test_what_is_kept_for_replay_has_an_id_though_nobody_gets_it(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    published = topic.publish(1)
    assert published > 0
    assert published.receivers == 0
    assert [message.id for message in messages(topic.subscribe("s", start="earliest"))] == [published]


def test_a_queue_that_gets_it_counts_as_a_receiver(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue, "a")
    topic.subscribe("s", "a")
    assert topic.publish(1, "a", mandatory=True).receivers == 2


# ---------------------------------------------------------------------- many at once
def test_publish_many_gives_ids_in_order(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    published = topic.publish_many(["x", "y", "z"], "k", headers={"h": 1}, priority=2)
    assert [each.receivers for each in published] == [2, 2, 2]
    for sub in (a, b):
        assert [(m.id, m.body, m.routing_key, m.headers, m.priority) for m in messages(sub)] == [
            (number, body, "k", {"h": 1}, 2) for number, body in zip(published, "xyz", strict=True)
        ]


def test_publish_many_takes_any_iterable_and_nothing(topic: Topic) -> None:
    sub = topic.subscribe("s")
    assert topic.publish_many([]) == []
    assert len(topic.publish_many(n for n in range(3))) == 3
    assert got(sub) == [0, 1, 2]


def test_publish_many_to_nobody_gives_zeroes(topic: Topic) -> None:
    published = topic.publish_many([1, 2])
    assert [(int(each), each.receivers) for each in published] == [(0, 0), (0, 0)]
    assert topic.stats().unroutable == 2


def test_some_thousand_messages_at_once_are_in_order(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b", "k")
    topic.publish_many(range(3000), "k")
    assert [m.body for m in a.browse()] == list(range(3000))
    assert [m.body for m in held(b)] == list(range(3000))
    assert topic.stats().stored == 3000


@pytest.mark.parametrize("name", ["dedup_id", "replace_key"])
def test_publish_many_has_no_names_of_one_message(topic: Topic, name: str) -> None:
    sub = topic.subscribe("s")
    with pytest.raises(TypeError, match=name):
        topic.publish_many([1, 2], **{name: "x"})
    assert sub.qsize() == 0


# ---------------------------------------------------------------------- dedup_id
def test_a_repeated_dedup_id_publishes_nothing_and_gives_the_first_id(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b", "k")
    first = topic.publish(1, dedup_id="x")
    again = topic.publish(2, "k", dedup_id="x")
    assert (again, again.receivers) == (first, 0)
    assert (got(a), got(b)) == ([1], [])
    assert topic.publish(3, dedup_id="x") == first  # though it was acknowledged
    assert topic.publish(4, dedup_id="y") != first
    assert got(a) == [4]


def test_a_dedup_id_is_forgotten_after_the_window(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(dedup_window=10)
    sub = topic.subscribe("s")
    first = topic.publish(1, dedup_id="x")
    clock.pass_by(9.9)
    assert topic.publish(2, dedup_id="x") == first
    clock.pass_by(0.1)
    assert topic.publish(3, dedup_id="x") > first
    assert got(sub) == [1, 3]


def test_dedup_ids_of_two_topics_are_different(shop: Shop) -> None:
    one, other = shop.topic("one"), shop.topic("other")
    a, b = one.subscribe("s"), other.subscribe("s")
    one.publish(1, dedup_id="x")
    other.publish(2, dedup_id="x")
    assert (got(a), got(b)) == ([1], [2])


def test_a_dedup_id_is_remembered_across_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    topic.subscribe("s")
    first = topic.publish(1, dedup_id="x")
    topic = shop.again()
    assert topic.publish(2, dedup_id="x") == first


def test_a_repetition_is_no_failure_where_a_subscription_is_full(shop: Shop) -> None:
    topic = shop.topic()
    topic.subscribe("s", maxsize=1)
    first = topic.publish(1, dedup_id="x")
    assert topic.publish(2, dedup_id="x", timeout=0) == first


def test_what_was_refused_leaves_no_dedup_id(shop: Shop) -> None:
    topic = shop.topic()
    sub = topic.subscribe("s", maxsize=1)
    topic.publish(0)
    with pytest.raises(mqlite.Full):
        topic.publish(1, dedup_id="x", timeout=0)
    with pytest.raises(mqlite.Full):
        topic.publish(1, dedup_id="x", block=False)
    assert got(sub) == [0]
    topic.publish(1, dedup_id="x", timeout=0)
    assert got(sub) == [1]


# ---------------------------------------------------------------------- waiting and being woken
def test_who_waits_in_each_subscription_is_woken(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    subs = [topic.subscribe(name) for name in "ab"]
    waiting = [in_thread(sub.get, timeout=GUARD) for sub in subs]
    for sub in subs:
        until_waiting(sub)
    topic.publish(1)
    assert [each.result(GUARD) for each in waiting] == [1, 1]


def test_who_waits_is_woken_by_publish_many_and_by_what_is_due(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    sub = topic.subscribe("s")
    waiting = [in_thread(sub.get, timeout=GUARD) for _ in range(3)]
    until_waiting(sub, n=3)
    topic.publish_many([1, 2])
    topic.publish(3, delay=0.01)
    assert sorted(each.result(GUARD) for each in waiting) == [1, 2, 3]


def test_threads_that_publish_and_take_lose_and_double_nothing(topic: Topic, in_thread: InThread) -> None:
    subs = [topic.subscribe("all"), topic.subscribe("even", "even"), topic.subscribe("odd", "odd", maxsize=3)]
    each, publishers = 40, 3

    def publish(thread: int) -> None:
        for n in range(each):
            topic.publish([thread, n], "even" if n % 2 == 0 else "odd", timeout=GUARD)

    def take(sub: mqlite.Subscription, count: int) -> list[Any]:
        found = []
        for _ in range(count):
            with sub.receive(timeout=GUARD)[0] as message:
                found.append(message.body)
        return found

    counts = [each * publishers, each * publishers // 2, each * publishers // 2]
    takers = [in_thread(take, sub, count // 2) for sub, count in zip(subs, counts, strict=True) for _ in range(2)]
    done = [in_thread(publish, thread) for thread in range(publishers)]
    for publisher in done:
        publisher.result(GUARD)
    found = [taker.result(GUARD) for taker in takers]
    for place, want in enumerate([lambda n: True, lambda n: n % 2 == 0, lambda n: n % 2 == 1]):
        counted = Counter(tuple(body) for body in found[2 * place] + found[2 * place + 1])
        assert counted == Counter((thread, n) for thread in range(publishers) for n in range(each) if want(n))
    assert topic.stats().stored == 0


def test_threads_that_publish_come_in_the_same_order_to_all(topic: Topic, in_thread: InThread) -> None:
    subs = [topic.subscribe(name) for name in "abc"]
    for publisher in [in_thread(lambda thread=thread: [topic.publish([thread, n]) for n in range(30)]) for thread in range(3)]:
        publisher.result(GUARD)
    orders = [[message.id for message in messages(sub)] for sub in subs]
    assert orders[0] == orders[1] == orders[2] == sorted(orders[0])


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"routing_key": 1}, TypeError, "routing_key"),
        ({"routing_key": None}, TypeError, "routing_key"),
        ({"routing_key": b"x"}, TypeError, "routing_key"),
        ({"routing_key": "x" * 256}, ValueError, "255"),
        ({"routing_key": "ä" * 128}, ValueError, "255"),
        ({"routing_key": "\ud800"}, ValueError, "routing_key"),
        ({"headers": [1]}, TypeError, "headers"),
        ({"headers": {1: 2}}, (TypeError, mqlite.CodecError), "header"),
        ({"headers": {"a": 1j}}, (TypeError, mqlite.CodecError), "header"),
        ({"priority": "1"}, TypeError, "priority"),
        ({"priority": True}, TypeError, "priority"),
        ({"priority": 2**31}, ValueError, "priority"),
        ({"timeout": "1"}, TypeError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"delay": -1}, ValueError, "delay"),
        ({"delay": "1"}, TypeError, "delay"),
        ({"delay": 1, "eta": 1.0}, ValueError, "eta"),
        ({"eta": datetime(2030, 1, 1)}, ValueError, "time zone"),
        ({"eta": "tomorrow"}, TypeError, "eta"),
        ({"ttl": 0}, ValueError, "ttl"),
        ({"ttl": "1"}, TypeError, "ttl"),
        ({"group": ""}, ValueError, "group"),
        ({"group": 1}, TypeError, "group"),
        ({"type": 1}, TypeError, "type"),
        ({"reply_to": 1}, TypeError, "reply_to"),
        ({"correlation_id": 1}, TypeError, "correlation_id"),
        ({"dedup_id": 1}, TypeError, "dedup_id"),
        ({"dedup_id": ""}, ValueError, "dedup_id"),
        ({"replace_key": 1}, TypeError, "replace_key"),
        ({"replace_key": ""}, ValueError, "replace_key"),
        ({"retain": "yes"}, TypeError, "retain"),
        ({"mandatory": 1}, TypeError, "mandatory"),
        ({"unique": "x"}, TypeError, "unique"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_bad_options_of_a_publish_are_told_and_publish_nothing(topic: Topic, options: dict[str, Any], error: Any, says: str) -> None:
    sub = topic.subscribe("s")
    with pytest.raises(error, match=says):
        topic.publish(1, **options)
    if "dedup_id" not in options and "replace_key" not in options:
        with pytest.raises(error, match=says):
            topic.publish_many([1, 2], **options)
    assert (sub.qsize(), sub.stats().delayed, topic.stats().published) == (0, 0, 0)


def test_a_routing_key_may_have_255_bytes_and_any_letters(topic: Topic) -> None:
    sub = topic.subscribe("s")
    keys = ["x" * 255, "a." * 127 + "a", "ä.ö", "..", ".", "a b", "\x00"]
    for key in keys:
        topic.publish(1, key)
    assert [message.routing_key for message in messages(sub)] == keys


def test_a_closed_topic_publishes_nothing(topic: Topic) -> None:
    topic.close()
    topic.close()
    for call in (lambda: topic.publish(1), lambda: topic.publish_many([1]), lambda: topic.subscribe("s"), topic.stats, topic.subscriptions, topic.retained):
        with pytest.raises(mqlite.Closed):
            call()


def test_eta_and_delay_hold_back_in_all_subscriptions(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    subs = [topic.subscribe(name) for name in "ab"]
    topic.publish("eta", eta=datetime.fromtimestamp(clock.moment(20), UTC))
    topic.publish("delay", delay=10)
    topic.publish("past", eta=datetime.now(UTC) - timedelta(days=10_000))
    assert [got(sub) for sub in subs] == [["past"], ["past"]]
    assert [sub.stats().delayed for sub in subs] == [2, 2]
    clock.pass_by(10)
    assert [got(sub) for sub in subs] == [["delay"], ["delay"]]
    clock.pass_by(10)
    assert [got(sub) for sub in subs] == [["eta"], ["eta"]]
    assert topic.stats().stored == 0
