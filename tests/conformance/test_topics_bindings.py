"""A topic feeds named queues: in the commit of the publish, each once, by conditions that are stored."""

# ruff: noqa: F811
from __future__ import annotations

from typing import Any

import pytest
from contents import Torn
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, disk_shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite
from mqlite.claims import Kind

Topic = mqlite.Topic[Any]


def test_a_bound_queue_gets_what_matches_and_what_is_put(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue, "a.*")
    number = topic.publish("published", "a.b", headers={"h": 1}, priority=1, type="t")
    topic.publish("other", "b")
    queue.put("put")
    found = messages(queue)
    assert [(m.body, m.routing_key, m.queue) for m in found] == [("published", "a.b", "work"), ("put", None, "work")]
    assert (found[0].id, found[0].headers, found[0].priority, found[0].type) == (number, {"h": 1}, 1, "t")
    assert topic.stats().stored == 0


def test_a_queue_gets_what_is_published_after_it_was_bound(shop: Shop) -> None:
    topic, queue = shop.topic(retention="limits"), shop.queue()
    topic.publish(1, retain=True)
    topic.bind(queue)
    topic.publish(2)
    assert got(queue) == [2]


def test_a_queue_that_is_bound_several_times_gets_a_message_once(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    for pattern in ("#", "a.#", "a.b", "*.b"):
        topic.bind(queue, pattern)
    topic.bind(queue, "a.b", {"type": "t"})
    published = topic.publish(1, "a.b", type="t")
    assert published.receivers == 1
    assert got(queue) == [1]
    assert topic.stats().bindings == 5


def test_the_same_binding_again_changes_nothing(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    for _ in range(3):
        topic.bind(queue, "a", {"x": 1, "y": 2}, headers={"h": 1})
    topic.bind(shop.queue(), "a", {"headers.y": ("==", 2), "x": [("==", 1)]}, headers={"h": 1})
    assert len(topic.bindings()) == 1
    assert topic.unbind(queue) == 1
    assert topic.bindings() == []


def test_bindings_are_shown_as_they_were_made(shop: Shop) -> None:
    topic, one, two = shop.topic(), shop.queue("one"), shop.queue("two")
    topic.subscribe("s")
    topic.bind(two, "b")
    topic.bind(one, "a.*", {"type": "t"}, headers={"h": 1}, match="any")
    topic.bind(two)
    found = topic.bindings()
    assert [(each.queue, each.pattern) for each in found] == [("two", "b"), ("one", "a.*"), ("two", "#")]
    assert (found[0].filter, found[0].headers, found[0].match) == (None, None, "all")
    assert (found[1].filter, found[1].headers, found[1].match) == ({"type": "t"}, {"h": 1}, "any")
    assert isinstance(found[0], mqlite.BoundQueue)
    assert topic.subscriptions() == ["s"]


def test_unbind_by_pattern_or_of_everything(shop: Shop) -> None:
    topic, one, two = shop.topic(), shop.queue("one"), shop.queue("two")
    for queue in (one, two):
        for pattern in ("a", "b", "#"):
            topic.bind(queue, pattern)
    topic.bind(one, "a", {"type": "t"})
    assert (topic.unbind(one, "never"), topic.unbind(one, "a"), topic.unbind(one, "a"), topic.unbind(one), topic.unbind(one)) == (0, 2, 0, 2, 0)
    topic.publish(1, "a")
    assert (got(one), got(two)) == ([], [1])


def test_what_a_queue_got_stays_when_it_is_unbound(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue)
    topic.publish_many([1, 2])
    [one] = queue.receive(timeout=0)
    topic.unbind(queue)
    topic.publish(3)
    one.nack()
    assert got(queue) == [1, 2]
    assert topic.stats().stored == 0


def test_several_topics_feed_one_queue_and_one_topic_feeds_several(shop: Shop) -> None:
    a, b, one, two = shop.topic("a"), shop.topic("b"), shop.queue("one"), shop.queue("two")
    a.bind(one)
    b.bind(one)
    b.bind(two)
    assert (a.publish(1).receivers, b.publish(2).receivers) == (1, 2)
    assert (got(one), got(two)) == ([1, 2], [2])


def test_filter_and_headers_of_a_binding_are_asked(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue, "#", {"priority": (">", 1)})
    topic.bind(queue, "#", headers={"a": 1, "b": 2}, match="any")
    for n, (priority, headers) in enumerate([(0, {}), (5, {}), (0, {"a": 1}), (0, {"a": 2})]):
        topic.publish(n, priority=priority, headers=headers)
    assert got(queue) == [1, 2]


def test_queues_and_subscriptions_get_a_message_or_nobody_does(shop: Shop) -> None:
    topic, full, wide = shop.topic(), shop.queue("full", maxsize=1), shop.queue("wide")
    sub = topic.subscribe("s")
    for queue in (wide, full):
        topic.bind(queue)
    full.put("put")
    with pytest.raises(mqlite.Full, match="full"):
        topic.publish(1, timeout=0)
    assert (wide.qsize(), sub.qsize(), topic.stats().stored) == (0, 0, 0)
    assert got(full) == ["put"]
    topic.publish(1, timeout=0)
    assert (got(full), got(wide), got(sub)) == ([1], [1], [1])


@pytest.mark.parametrize(("overflow", "left", "dead"), [("drop_oldest", [1], []), ("dead_letter", ["put"], [1])])
def test_a_bound_queue_goes_by_its_own_policy(shop: Shop, overflow: str, left: list[Any], dead: list[Any]) -> None:
    topic, queue = shop.topic(), shop.queue(maxsize=1, overflow=overflow)
    topic.bind(queue)
    queue.put("put")
    topic.publish(1)
    assert (got(queue), [m.body for m in queue.dead.peek(5)]) == (left, dead)
    assert topic.stats().stored == 0


def test_a_publish_that_waits_for_a_bound_queue_is_woken(shop: Shop, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic, queue = shop.topic(), shop.queue(maxsize=1)
    topic.bind(queue)
    queue.put("put")
    publishing = in_thread(topic.publish, 1, timeout=GUARD)
    until_waiting(queue, Kind.SPACE)
    assert got(queue, 1) == ["put"]
    publishing.result(GUARD)
    assert got(queue) == [1]


def test_a_publish_that_waits_for_a_bound_queue_is_woken_when_that_is_unbound(shop: Shop, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic, queue = shop.topic(), shop.queue(maxsize=1)
    sub = topic.subscribe("s")
    topic.bind(queue)
    queue.put("put")
    publishing = in_thread(topic.publish, 1)
    until_waiting(queue, Kind.SPACE)
    topic.unbind(queue)
    assert publishing.result(GUARD).receivers == 1
    assert (got(sub), got(queue)) == ([1], ["put"])


def test_who_waits_for_a_bound_queue_is_woken_by_a_publish(shop: Shop, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue)
    waiting = in_thread(queue.get, timeout=GUARD)
    until_waiting(queue)
    topic.publish(1)
    assert waiting.result(GUARD) == 1


def test_a_bound_queue_treats_what_is_published_as_what_is_put(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    queue = timed_shop.queue(ttl=100, max_deliveries=1, backoff=[5])
    topic.bind(queue)
    topic.publish_many([1, 2], group="g")
    queue.put(3, group="g")
    [one] = held(queue)
    one.nack()
    assert [m.body for m in queue.dead.peek()] == [1]
    assert got(queue) == [2, 3]
    topic.publish("late", delay=10)
    assert got(queue) == []
    clock.pass_by(10)
    assert got(queue) == ["late"]
    topic.publish("old")
    clock.pass_by(100)
    assert (got(queue), queue.stats().dead) == ([], 2)
    assert queue.redrive() == 2
    assert sorted(map(str, got(queue))) == ["1", "old"]


def test_a_replace_key_holds_between_publish_and_put(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue)
    topic.publish(1, replace_key="k")
    queue.put(2, replace_key="k")
    topic.publish(3, replace_key="k")
    assert got(queue) == [3]
    assert topic.stats().stored == 0


def test_a_queue_of_another_order_takes_what_is_published(shop: Shop) -> None:
    topic = shop.topic()
    lifo, fair = shop.queue("lifo", order="lifo"), shop.queue("fair", fair=True)
    topic.bind(lifo)
    topic.bind(fair)
    for n, group in enumerate("aab"):
        topic.publish(n, group=group)
    assert (got(lifo), got(fair)) == ([2, 1, 0], [0, 2, 1])


def test_a_message_that_is_larger_than_the_queue_allows_is_refused_for_all(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue(max_message_bytes=100)
    sub = topic.subscribe("s")
    topic.bind(queue)
    with pytest.raises(mqlite.MessageTooLarge):
        topic.publish("x" * 200)
    assert (sub.qsize(), queue.qsize()) == (0, 0)


def test_a_bound_queue_that_was_shut_down_refuses(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    sub = topic.subscribe("s")
    topic.bind(queue)
    queue.shutdown()
    with pytest.raises(mqlite.ShutDown):
        topic.publish(1)
    assert sub.qsize() == 0
    topic.unbind(queue)
    topic.publish(2)
    assert got(sub) == [2]


def test_bindings_are_kept_across_a_reopen(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue, "a.*", {"type": "t"})
    topic.publish(1, "a.b", type="t")
    topic = shop.again()
    queue = shop.queue()
    topic.publish(2, "a.b", type="t")
    topic.publish(3, "a.b")
    assert got(queue) == [1, 2]
    assert topic.bindings() == [mqlite.BoundQueue("work", "a.*", {"type": "t"})]
    assert topic.unbind(queue) == 1


def test_a_bound_queue_need_not_be_open_to_get_it(shop: Shop) -> None:
    if not shop.on_disk:
        pytest.skip("in memory a queue ends with its store")
    topic, queue = shop.topic(), shop.queue(maxsize=2, overflow="drop_oldest")
    topic.bind(queue)
    topic = shop.again()
    topic.publish_many([1, 2])
    topic.publish(3)
    assert got(shop.queue()) == [2, 3]


# ---------------------------------------------------------------------- what cannot be bound
def test_a_queue_of_another_store_cannot_be_bound(shop: Shop, tmp_path: Any) -> None:
    topic = shop.topic()
    with mqlite.Queue[Any]("work", str(tmp_path / "other")) as elsewhere, mqlite.Queue[Any]("work") as in_memory:
        for queue in (elsewhere, in_memory):
            with pytest.raises(ValueError, match="another store"):
                topic.bind(queue)
    assert topic.bindings() == []


def test_a_queue_with_another_codec_cannot_be_bound(disk_shop: Shop) -> None:
    topic, pickled = disk_shop.topic(), disk_shop.queue("pickled", codec="pickle")
    own = disk_shop.queue("own", codec=Torn())
    for queue in (pickled, own):
        with pytest.raises(mqlite.SettingsMismatch, match="codec"):
            topic.bind(queue)
    other = disk_shop.topic("pickles", codec="pickle")
    other.bind(pickled)
    other.publish((1, 2))
    assert (got(pickled), topic.bindings()) == ([(1, 2)], [])


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((), {"pattern": "a*"}, ValueError),
        ((), {"pattern": 1}, TypeError),
        ((), {"filter": {}}, ValueError),
        ((), {"filter": 1}, TypeError),
        ((), {"filter": lambda message: True}, TypeError),
        ((), {"headers": 1}, TypeError),
        ((), {"match": "any"}, ValueError),
        ((), {"match": "some", "headers": {"a": 1}}, ValueError),
        ((), {"start": "earliest"}, TypeError),
    ],
)
def test_bad_bindings_are_told_and_bind_nothing(shop: Shop, arguments: Any, options: dict[str, Any], error: type[Exception]) -> None:
    topic, queue = shop.topic(), shop.queue()
    with pytest.raises(error):
        topic.bind(queue, *arguments, **options)
    assert topic.bindings() == []


def test_only_a_queue_that_one_puts_into_can_be_bound(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    sub = shop.topic("other").subscribe("s")
    for wrong in ("work", None, 1, topic, sub):
        with pytest.raises(TypeError, match="Queue"):
            topic.bind(wrong)
    for wrong in (queue.dead, sub.dead):
        with pytest.raises((ValueError, TypeError), match="dead"):
            topic.bind(wrong)
    with pytest.raises(TypeError):
        topic.unbind("work")
    with pytest.raises(ValueError, match="whole"):
        topic.unbind(queue, "a*")
    assert topic.bindings() == []


def test_to_unbind_a_queue_of_another_store_takes_nothing(shop: Shop, tmp_path: Any) -> None:
    topic, queue = shop.topic(), shop.queue()
    topic.bind(queue)
    with mqlite.open(str(tmp_path / "other")) as broker:
        others = [broker.queue(f"q{n}") for n in range(4)]
        for other in others:  # one of them has the number of the bound queue
            try:
                assert topic.unbind(other) == 0
            except ValueError:
                pass
    assert len(topic.bindings()) == 1


def test_a_closed_queue_is_told(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    queue.close()
    try:
        topic.bind(queue)
    except mqlite.Closed:
        assert topic.bindings() == []


# ---------------------------------------------------------------------- the broker
def test_a_broker_has_topics_and_queues(shop: Shop) -> None:
    broker = mqlite.open() if not shop.on_disk else mqlite.open(shop.path)
    with broker:
        topic, queue = broker.topic("events", maxsize=5), broker.queue("work")
        broker.topic("another")
        topic.subscribe("billing")
        topic.bind(queue)
        topic.publish_many([1, 2])
        assert (broker.topics(), broker.queues()) == (["another", "events"], ["work"])
        stats = broker.stats()
        assert {name: each.ready for name, each in stats.items()} == {"events/billing": 2, "work": 2}
        assert broker.check() == []
        assert broker.topic("events").subscription("billing").maxsize == 5
        with pytest.raises(mqlite.SettingsMismatch):
            broker.topic("events", maxsize=6)
        for wrong in ("path", "durability", "max_store_bytes"):
            with pytest.raises(TypeError, match=wrong):
                broker.topic("x", **{wrong: None})
        for bad, error in ((1, TypeError), ("", ValueError), ("a\x1f", ValueError)):
            with pytest.raises(error):
                broker.topic(bad)
        assert broker.topics() == ["another", "events"]
    with pytest.raises(mqlite.Closed):
        topic.publish(1)
    with pytest.raises(mqlite.Closed):
        broker.topics()
    with pytest.raises(mqlite.Closed):
        broker.topic("events")


def test_a_broker_counts_dead_letters_and_replays(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    topic.publish_many(range(5))
    first, second = topic.subscribe("first", start="earliest"), topic.subscribe("second", start="earliest")
    held(first)[0].reject()
    if shop.on_disk:
        with mqlite.open(shop.path) as broker:
            stats = broker.stats()
            assert (stats["events/first"].dead, stats["events/first"].claimed, stats["events/second"].ready) == (1, 4, 5)
            assert broker.topics() == ["events"]
    assert second.stats().lag == 5


def test_a_queue_cannot_be_opened_under_the_name_of_a_subscription(shop: Shop) -> None:
    topic = shop.topic()
    sub = topic.subscribe("s")
    queue = shop.queue("events/s")
    queue.put(1)
    topic.publish(2)
    assert (got(queue), got(sub)) == ([1], [2])
    for name in ("events\x1fs", "events\x1f"):
        with pytest.raises(ValueError, match="name"), mqlite.open(shop.path) as broker:
            broker.queue(name)


@pytest.mark.parametrize("retention", ["interest", "limits"])
def test_bound_queues_give_what_is_published_one_after_the_other(shop: Shop, retention: str) -> None:
    """Whichever way a claimer takes: what it knows of the claims lets the second and the third take a shorter one."""
    topic, queue = shop.topic(retention=retention), shop.queue()
    topic.bind(queue)
    queue.put("put")
    for number in range(8):
        topic.publish(number, "a")
    queue.put("put, too")
    found = [queue.get(timeout=0), queue.get(timeout=0)]
    with queue.consumer(prefetch=2) as consumer:
        for message in (consumer.receive(timeout=0) for _ in range(3)):
            found.append(message.body)
            message.ack()
    for message in (message for count in (1, 4) for message in queue.receive(count, timeout=0)):
        found.append(message.body)
        message.ack()
    assert found == ["put", *range(8), "put, too"]
    assert topic.check() == queue.check() == []
