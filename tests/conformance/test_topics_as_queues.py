"""A subscription is a queue: what is settled, delayed, ordered, limited and buried there, is as in any other."""

# ruff: noqa: F811
from __future__ import annotations

import os
import queue
import signal
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, disk_shop, got, held, shop, timed_shop, topic  # noqa: F401

import mqlite
from mqlite.claims import Kind
from mqlite.engine import subscriptions
from mqlite.engine.putting import Admission

Topic = mqlite.Topic[Any]
POLICIES = ("block", "reject", "drop_oldest", "dead_letter")


def bodies(found: list[mqlite.Message]) -> list[Any]:
    return [message.body for message in found]


# ---------------------------------------------------------------------- settling
def test_what_is_released_or_nacked_comes_again_and_its_count_is_of_this_subscription(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    number = topic.publish("x", "k", headers={"h": 1})
    held(a)[0].nack()
    held(a)[0].release()
    [again] = held(a)
    assert (again.id, again.body, again.routing_key, again.headers, again.delivery_count, again.acquired_count, again.redelivered) == (number, "x", "k", {"h": 1}, 1, 3, True)
    again.ack()
    [fresh] = held(b)
    assert (fresh.id, fresh.delivery_count, fresh.redelivered) == (number, 0, False)
    fresh.ack()


def test_a_nacked_one_waits_for_its_backoff_with_all_that_was_said_of_it(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub, other = topic.subscribe("s", backoff=[5, 50]), topic.subscribe("other")
    number = topic.publish("x", "k", headers={"h": 1}, priority=3, type="t")
    held(sub)[0].nack()
    assert got(other) == ["x"]  # its body stays for the one that waits
    assert (held(sub), sub.stats().delayed, sub.stats().lag) == ([], 1, 1)
    clock.pass_by(5)
    held(sub)[0].nack()
    clock.pass_by(49.9)
    assert held(sub) == []
    clock.pass_by(0.1)
    [m] = held(sub)
    assert (m.id, m.body, m.routing_key, m.headers, m.priority, m.type, m.delivery_count) == (number, "x", "k", {"h": 1}, 3, "t", 2)
    m.ack()
    assert topic.stats().stored == 0


def test_nack_with_a_delay_waits_so_long(timed_shop: Shop, clock: HandClock) -> None:
    sub = timed_shop.topic().subscribe("s")
    timed_shop.topic().publish("x")
    held(sub)[0].nack(delay=7)
    clock.pass_by(6.9)
    assert held(sub) == []
    clock.pass_by(0.1)
    assert got(sub) == ["x"]


def test_a_backoff_by_a_function_is_asked(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", backoff=ten_times)
    topic.publish("x")
    held(sub)[0].nack()
    clock.pass_by(9.9)
    assert held(sub) == []
    clock.pass_by(0.1)
    assert got(sub) == ["x"]
    sub.close()
    with pytest.raises(mqlite.SettingsMismatch, match="backoff"):
        topic.subscribe("s", backoff=[1])
    topic.subscribe("s", backoff=ten_times)


def ten_times(failures: int) -> float:
    return 10.0 * failures


def test_ack_many_and_contexts_settle(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many(range(5))
    sub.ack_many(sub.receive(3))
    with sub.receive(timeout=0)[0] as message:
        assert message.body == 3
    with pytest.raises(ZeroDivisionError), sub.receive(timeout=0)[0] as message:
        _ = 1 / 0
    [again] = held(sub)
    assert (again.body, again.delivery_count) == (4, 1)
    again.ack()
    with pytest.raises(mqlite.NotClaimed):
        again.ack()
    assert topic.stats().stored == 0


def test_get_task_done_and_join_are_as_of_a_queue(topic: Topic, in_thread: InThread) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2])
    assert (len(sub), sub.empty(), sub.unfinished_tasks) == (2, False, 2)
    assert [sub.get(), sub.get_nowait()] == [1, 2]
    joined = in_thread(sub.join)
    sub.task_done()
    sub.task_done()
    joined.result(GUARD)
    with pytest.raises(mqlite.Empty):
        sub.get_nowait()


def test_a_hung_claim_is_taken_back(timed_shop: Shop, clock: HandClock) -> None:
    sub = timed_shop.topic().subscribe("s", ack_timeout=10)
    timed_shop.topic().publish("x")
    [hung] = held(sub)
    clock.pass_by(10)
    [again] = held(sub)
    assert (again.body, again.delivery_count) == ("x", 1)
    with pytest.raises(mqlite.LeaseLost):
        hung.ack()
    again.ack()


def test_cancel_update_and_purge_are_of_one_subscription(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    first, second, third = topic.publish_many([1, 2, 3])
    assert a.cancel(first)
    assert not a.cancel(first)
    assert a.update(third, priority=1)
    assert got(a) == [3, 2]
    assert b.purge() == 3
    assert (a.cancel(second), topic.stats().stored) == (False, 0)


def test_peek_and_browse_show_and_settle_nothing(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2, 3], "k")
    assert (bodies(sub.peek(2)), bodies(list(sub.browse())), sub.peek()[0].routing_key) == ([1, 2], [1, 2, 3], "k")
    with pytest.raises(mqlite.NotClaimed):
        sub.peek()[0].ack()
    assert got(sub) == [1, 2, 3]


def test_pause_and_resume_are_of_one_subscription(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    a.pause()
    topic.publish(1)
    assert (got(a), got(b)) == ([], [1])
    a.resume()
    assert got(a) == [1]


def test_a_subscription_that_was_shut_down_refuses_what_it_would_get_for_all(topic: Topic) -> None:
    a, b = topic.subscribe("a", "a"), topic.subscribe("b")
    topic.publish(1, "a")
    a.shutdown()
    with pytest.raises(mqlite.ShutDown):
        topic.publish(2, "a")
    assert topic.publish(3, "b").receivers == 1
    assert (got(b), a.get()) == ([1, 3], 1)
    with pytest.raises(mqlite.ShutDown):
        a.get(timeout=0)
    topic.unsubscribe("a")


# ---------------------------------------------------------------------- dead letters
def test_a_dead_letter_keeps_the_body_when_the_topic_has_forgotten_it(topic: Topic) -> None:
    a, b = topic.subscribe("a", max_deliveries=2), topic.subscribe("b")
    number = topic.publish({"n": 1}, "k.l", headers={"h": 1}, priority=2, type="t", reply_to="r")
    for _ in range(2):
        held(a)[0].nack(error="boom")
    assert got(b) == [{"n": 1}]
    assert topic.stats().stored == 0
    [letter] = a.dead.peek()
    assert (letter.id, letter.body, letter.routing_key, letter.headers, letter.priority, letter.type, letter.reply_to) == (number, {"n": 1}, "k.l", {"h": 1}, 2, "t", "r")
    assert letter.death is not None
    assert (letter.death.reason, letter.death.queue, letter.death.error, letter.death.delivery_count) == ("max_deliveries", "events/a", "boom", 2)
    assert (a.stats().dead, a.stats().lag, b.stats().dead) == (1, 0, 0)


def test_redrive_brings_dead_letters_back_to_this_subscription_only(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    number = topic.publish("x", "k", headers={"h": 1})
    held(a)[0].reject("no")
    assert got(b) == ["x"]
    assert a.redrive() == 1
    assert got(b) == []
    [m] = held(a)
    assert (m.id, m.body, m.routing_key, m.headers, m.delivery_count, m.death) == (number, "x", "k", {"h": 1}, 0, None)
    m.nack()
    held(a)[0].reject()
    assert a.redrive() == 1
    assert got(a) == ["x"]
    assert (a.stats().dead, topic.stats().stored) == (0, 0)


def test_what_was_redriven_is_delayed_grouped_and_dies_again_as_any_other(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", max_deliveries=1, backoff=[5], ttl=100)
    topic.publish(1, group="g")
    topic.publish(2, group="g")
    held(sub)[0].nack()
    assert sub.redrive(rate=1) == 1
    [two] = held(sub)
    assert (two.body, held(sub)) == (2, [])
    two.ack()
    assert sub.dead.peek() == []
    [one] = held(sub)
    one.nack()
    assert bodies(sub.dead.peek()) == [1]
    assert sub.redrive() == 1
    clock.pass_by(100)
    assert (held(sub), [letter.death.reason for letter in sub.dead.peek() if letter.death]) == ([], ["expired"])


def test_dead_letters_can_be_taken_as_of_a_queue(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2])
    for message in held(sub):
        message.reject()
    assert sub.dead.get(timeout=0) == 1
    [two] = held(sub.dead)
    two.reject()
    assert len(sub.dead) == 0


def test_without_dead_letters_the_dead_are_dropped(topic: Topic) -> None:
    sub = topic.subscribe("s", dead_letter=False, max_deliveries=1)
    topic.publish_many([1, 2])
    one, two = held(sub)
    one.nack()
    two.reject()
    assert (sub.stats().dead, sub.stats().lag, topic.stats().stored) == (0, 0, 0)


# ---------------------------------------------------------------------- order
def test_higher_priorities_come_first_in_each_subscription(topic: Topic) -> None:
    subs = [topic.subscribe(name) for name in "ab"]
    for n, priority in enumerate([0, 5, -5, 5, 0]):
        topic.publish(n, priority=priority)
    assert [got(sub) for sub in subs] == [[1, 3, 0, 4, 2]] * 2


def test_each_subscription_has_its_own_order(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    orders: dict[str, dict[str, Any]] = {"fifo": {}, "lifo": {"order": "lifo"}, "fair": {"fair": True}}
    subs = {name: topic.subscribe(name, **options) for name, options in orders.items()}
    for n, (group, priority) in enumerate([("a", 0), ("a", 0), ("b", 0), ("a", 3)]):
        topic.publish(n, group=group, priority=priority)
        clock.pass_by(2)
    assert {name: got(sub) for name, sub in subs.items()} == {"fifo": [3, 0, 1, 2], "lifo": [3, 2, 1, 0], "fair": [3, 2, 0, 1]}
    assert topic.stats().stored == 0


def test_messages_of_one_subscription_grow_old(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    plain, aging = topic.subscribe("plain"), topic.subscribe("aging", aging=1)
    for n, priority in enumerate([0, 0, 0, 3]):
        topic.publish(n, priority=priority)
        clock.pass_by(2)
    assert (got(plain), got(aging)) == ([3, 0, 1, 2], [0, 1, 3, 2])


def test_a_lifo_subscription_gives_back_to_the_place(topic: Topic) -> None:
    sub = topic.subscribe("s", order="lifo")
    topic.publish_many([1, 2, 3])
    [three] = sub.receive(timeout=0)
    three.nack()
    topic.publish(4)
    assert got(sub) == [4, 3, 2, 1]


def test_one_of_a_group_is_in_flight_in_each_subscription(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    topic.publish_many(["a1", "a2"], group="a")
    topic.publish_many(["b1", "b2"], group="b")
    in_a = held(a)
    assert (bodies(in_a), bodies(held(a)), bodies(held(b))) == (["a1", "b1"], [], ["a1", "b1"])
    in_a[0].ack()
    [a2] = held(a)
    assert (a2.body, a2.group) == ("a2", "a")
    b.close()


def test_limits_are_of_the_subscription(topic: Topic) -> None:
    a, b = topic.subscribe("a", limits={"g": 2, "*": None}), topic.subscribe("b")
    topic.publish_many([1, 2, 3], group="g")
    topic.publish_many([4, 5], group="h")
    assert (bodies(held(a)), bodies(held(b))) == ([1, 2, 4, 5], [1, 4])


def test_a_failed_one_holds_up_its_group_while_it_waits(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    topic.publish_many([1, 2], group="g")
    held(sub)[0].nack(delay=10)
    assert held(sub) == []
    clock.pass_by(10)
    assert got(sub) == [1, 2]


def test_a_consumer_prefetches_and_gives_back(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many(range(5))
    with sub.consumer(prefetch=3) as consumer:
        assert consumer.receive(timeout=0).body == 0
        assert bodies(held(sub)) == [3, 4]
    assert sub.stats().claimed == 2
    assert got(sub) == [0, 1, 2]


def test_an_exclusive_consumer_has_this_subscription_for_itself(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    topic.publish(1)
    with a.consumer(mode="exclusive") as consumer:
        with pytest.raises(mqlite.QueueLocked):
            a.receive(timeout=0)
        assert (consumer.receive(timeout=0).body, got(b)) == (1, [1])


def test_auto_ack_removes_before_it_hands_out(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2])
    with sub.consumer(prefetch=2, auto_ack=True) as consumer:
        first = consumer.receive(timeout=0)
        assert (first.body, first.queue) == (1, "events/s")
        with pytest.raises(mqlite.NotClaimed):
            first.ack()
        assert consumer.receive(timeout=0).body == 2
    assert topic.stats().stored == 0


def test_rate_is_of_the_subscription(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    slow, fast = topic.subscribe("slow", rate=(2, 10)), topic.subscribe("fast")
    topic.publish_many(range(5))
    assert (got(slow), got(fast)) == ([0, 1], [0, 1, 2, 3, 4])
    clock.pass_by(10)
    assert got(slow) == [2, 3]


# ---------------------------------------------------------------------- time
def test_a_delayed_message_becomes_ready_in_each_subscription(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    a, b = topic.subscribe("a"), topic.subscribe("b", order="lifo")
    late = topic.publish("late", "k", headers={"h": 1}, delay=10, priority=-1)
    topic.publish("now", priority=-1)
    assert (a.stats().delayed, a.stats().ready, bodies(a.peek(5))) == (1, 1, ["now"])
    clock.pass_by(10)
    found = held(a)
    assert [(m.body, m.id == late) for m in found] == [("now", False), ("late", True)]
    assert (found[1].routing_key, found[1].headers) == ("k", {"h": 1})
    assert got(b) == ["late", "now"]


def test_what_expires_is_dead_in_each_subscription_and_dropped_where_that_is_wanted(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    keeps, drops = topic.subscribe("keeps"), topic.subscribe("drops", expired="drop")
    own, both = topic.subscribe("own", ttl=5), topic.subscribe("both", ttl=1000)
    topic.publish("x", ttl=10)
    clock.pass_by(9.9)
    assert [sub.stats().ready for sub in (keeps, drops, own, both)] == [1, 1, 1, 1]
    clock.pass_by(0.1)
    assert [(sub.stats().ready, sub.stats().dead) for sub in (keeps, drops, own, both)] == [(0, 1), (0, 0), (0, 1), (0, 1)]
    [letter] = keeps.dead.peek()
    assert letter.death is not None
    assert (letter.body, letter.death.reason) == ("x", "expired")
    assert topic.stats().stored == 0


def test_a_subscription_has_a_ttl_of_its_own(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    short, none = topic.subscribe("short", ttl=5), topic.subscribe("none")
    topic.publish("x")
    clock.pass_by(5)
    assert (got(short), short.stats().dead, got(none)) == ([], 1, ["x"])


def test_a_claimed_one_does_not_expire(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    topic.publish("x", ttl=5)
    [m] = held(sub)
    clock.pass_by(6)
    m.ack()
    assert (sub.stats().dead, sub.stats().lag) == (0, 0)


# ---------------------------------------------------------------------- replace_key
def test_a_newer_message_takes_the_place_of_the_one_with_the_same_replace_key(topic: Topic) -> None:
    a, b, matching = topic.subscribe("a"), topic.subscribe("b"), topic.subscribe("m", "new")
    topic.publish("old", replace_key="k")
    topic.publish("other")
    [claimed] = b.receive(timeout=0)
    newest = topic.publish("new", "new", replace_key="k")
    assert [(m.body, m.id == newest) for m in held(a)] == [("new", True), ("other", False)]
    assert (got(b), got(matching)) == (["other", "new"], ["new"])
    claimed.ack()
    a.close()


def test_what_was_replaced_is_not_kept(topic: Topic) -> None:
    sub = topic.subscribe("s")
    for n in range(20):
        topic.publish(n, replace_key="k", delay=60 if n % 3 == 1 else None)
    assert (topic.stats().stored, sub.stats().lag) == (1, 1)
    assert got(sub) == [] if sub.stats().delayed else [19]


def test_a_replace_key_is_of_one_topic(shop: Shop) -> None:
    one, other = shop.topic("one"), shop.topic("other")
    a, b = one.subscribe("s"), other.subscribe("s")
    one.publish(1, replace_key="k")
    other.publish(2, replace_key="k")
    assert (got(a), got(b)) == ([1], [2])


# ---------------------------------------------------------------------- full
def test_nothing_is_stored_for_anybody_while_one_is_full(topic: Topic) -> None:
    full, wide = topic.subscribe("full", maxsize=2), topic.subscribe("wide")
    topic.publish_many([1, 2])
    for refused in (lambda: topic.publish(3, timeout=0), lambda: topic.publish(3, block=False), lambda: topic.publish(3, "", False)):
        with pytest.raises(mqlite.Full, match="full"):
            refused()
    assert (wide.qsize(), full.qsize(), topic.stats().stored) == (2, 2, 2)
    assert got(full, 1) == [1]
    topic.publish(3, timeout=0)
    assert (got(wide), got(full)) == ([1, 2, 3], [2, 3])


def test_reject_refuses_at_once_for_all(topic: Topic) -> None:
    full, wide = topic.subscribe("full", maxsize=1, overflow="reject"), topic.subscribe("wide")
    topic.publish(1)
    with pytest.raises(mqlite.Full):
        topic.publish(2)
    assert (got(full), got(wide)) == ([1], [1])


def test_drop_oldest_makes_room_in_that_subscription_alone(topic: Topic) -> None:
    ring, wide = topic.subscribe("ring", maxsize=2, overflow="drop_oldest"), topic.subscribe("wide")
    for n in range(5):
        topic.publish(n)
    topic.publish_many([5, 6])
    assert (got(ring), got(wide), ring.stats().dead) == ([5, 6], list(range(7)), 0)
    assert topic.stats().stored == 0


def test_drop_oldest_raises_full_where_all_is_claimed_and_nobody_gets_it(topic: Topic) -> None:
    ring, wide = topic.subscribe("ring", maxsize=1, overflow="drop_oldest"), topic.subscribe("wide")
    topic.publish(1)
    [claimed] = held(ring)
    with pytest.raises(mqlite.Full):
        topic.publish(2)
    assert wide.qsize() == 1
    claimed.ack()
    topic.publish(3)
    assert (got(ring), got(wide)) == ([3], [1, 3])


def test_dead_letter_buries_what_finds_no_room_with_its_body(topic: Topic) -> None:
    small, wide = topic.subscribe("small", maxsize=1, overflow="dead_letter"), topic.subscribe("wide")
    numbers = topic.publish_many(["a", "b", "c"], "k", headers={"h": 1})
    assert [each.receivers for each in numbers] == [2, 2, 2]
    assert (got(small), got(wide)) == (["a"], ["a", "b", "c"])
    letters = small.dead.peek(5)
    assert [(m.id, m.body, m.routing_key, m.headers, m.death and m.death.reason) for m in letters] == [
        (numbers[1], "b", "k", {"h": 1}, "overflow"),
        (numbers[2], "c", "k", {"h": 1}, "overflow"),
    ]
    assert topic.stats().stored == 0
    assert small.redrive(max=1) == 1
    assert got(small) == ["b"]


@pytest.mark.parametrize("first", POLICIES)
@pytest.mark.parametrize("second", ["block", "reject"])
def test_it_is_all_or_nothing_over_subscriptions_of_any_policy(topic: Topic, first: str, second: str) -> None:
    one, other = topic.subscribe("one", maxsize=2, overflow=first), topic.subscribe("other", "x", maxsize=1, overflow=second)
    wide = topic.subscribe("wide")
    topic.publish(1, "x")
    topic.publish(2, "y")
    with pytest.raises(mqlite.Full):
        topic.publish(3, "x", timeout=0)
    assert (bodies(list(one.browse())), one.stats().claimed, one.stats().dead) == ([1, 2], 0, 0)
    assert (got(other), got(wide), topic.stats().stored) == ([1], [1, 2], 2)


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
def test_two_that_make_room_make_it_together(topic: Topic, overflow: str) -> None:
    one, other = topic.subscribe("one", maxsize=1, overflow=overflow), topic.subscribe("other", maxsize=2, overflow=overflow)
    for n in range(4):
        topic.publish(n)
    expected = ([3], [2, 3]) if overflow == "drop_oldest" else ([0], [0, 1])
    assert (got(one), got(other)) == expected


def test_a_publish_that_waits_is_woken_by_an_ack(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    full, wide = topic.subscribe("full", maxsize=1), topic.subscribe("wide")
    topic.publish(1)
    publishing = in_thread(topic.publish, 2, timeout=GUARD)
    until_waiting(full, Kind.SPACE)
    assert wide.qsize() == 1
    with full.receive(timeout=0)[0]:
        pass
    assert publishing.result(GUARD).receivers == 2
    assert (got(full), got(wide)) == ([2], [1, 2])


def test_a_publish_waits_for_one_full_subscription_after_the_other(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, two, three = (topic.subscribe(name, maxsize=1) for name in ("one", "two", "three"))
    topic.publish(1)
    publishing = in_thread(topic.publish, 2, timeout=GUARD)
    until_waiting(one, Kind.SPACE)
    assert got(one) == [1]
    until_waiting(two, Kind.SPACE)
    assert (one.qsize(), publishing.done()) == (0, False)
    assert got(two) == [1]
    until_waiting(three, Kind.SPACE)
    assert got(three, 1) == [1]
    publishing.result(GUARD)
    assert (got(one), got(two), got(three)) == ([2], [2], [2])


def test_a_publish_that_waits_for_the_second_finds_the_first_full_again(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, two = topic.subscribe("one", "#.one.#", maxsize=1), topic.subscribe("two", "#.two.#", maxsize=1)
    topic.publish(1, "one.two")
    publishing = in_thread(topic.publish, 2, "one.two", timeout=GUARD)
    until_waiting(one, Kind.SPACE)
    assert got(one, 1) == [1]
    until_waiting(two, Kind.SPACE)
    topic.publish("between", "one", timeout=0)
    assert got(two, 1) == [1]
    until_waiting(one, Kind.SPACE)
    assert got(one, 1) == ["between"]
    publishing.result(GUARD)
    assert (got(one), got(two)) == ([2], [2])


def test_a_publish_that_waits_goes_on_when_the_full_subscription_has_expired(shop: Shop, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic = shop.topic()
    sub = topic.subscribe("full", maxsize=1, expires_after=0.05)
    other = topic.subscribe("other")
    topic.publish(1)
    publishing = in_thread(topic.publish, 2)
    until_waiting(sub, Kind.SPACE)
    sub.close()  # its time begins
    assert publishing.result(GUARD).receivers == 1
    assert (got(other), topic.subscriptions()) == ([1, 2], ["other"])


def test_room_that_one_publisher_cannot_use_goes_to_the_next(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, two = topic.subscribe("one", "#.one.#", maxsize=1), topic.subscribe("two", "#.two.#", maxsize=1)
    topic.publish(0, "one.two")
    both = in_thread(topic.publish, "both", "one.two")
    until_waiting(one, Kind.SPACE)
    only = [in_thread(topic.publish, f"only {n}", "one") for n in range(2)]
    until_waiting(one, Kind.SPACE, 3)
    assert got(one, 1) == [0]
    found = [one.get(timeout=GUARD)]  # though the other is full
    found.append(one.get(timeout=GUARD))
    assert sorted(found) == ["only 0", "only 1"]
    assert [each.result(GUARD).receivers for each in only] == [1, 1]
    assert got(two, 1) == [0]
    assert both.result(GUARD).receivers == 2
    assert (got(one), got(two)) == (["both"], ["both"])


def test_each_ack_lets_one_of_several_publishers_go(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    full, wide = topic.subscribe("full", maxsize=1), topic.subscribe("wide")
    topic.publish(0)
    publishers = [in_thread(topic.publish, n) for n in range(1, 6)]
    until_waiting(full, Kind.SPACE, 5)
    found = [full.get(timeout=GUARD) for _ in range(6)]
    for publisher in publishers:
        publisher.result(GUARD)
    assert sorted(found) == list(range(6))
    assert got(wide) == found


def test_publishers_with_many_and_with_few_messages_all_find_room_in_the_end(topic: Topic, in_thread: InThread) -> None:
    small, other = topic.subscribe("small", maxsize=4), topic.subscribe("other", "b", maxsize=3)

    def publish(thread: int) -> None:
        for n in range(15):
            topic.publish_many([[thread, n]] * (1 + (thread + n) % 3), "b" if thread % 2 else "a")

    def take(sub: mqlite.Subscription, count: int) -> list[int]:
        return [message.id for _ in range(count) for message in [sub.receive(timeout=GUARD)[0]] if message.ack() is None]

    publishers = [in_thread(publish, thread) for thread in range(4)]
    counts = [sum(1 + (thread + n) % 3 for n in range(15)) for thread in range(4)]
    takers = [in_thread(take, small, sum(counts)), in_thread(take, other, counts[1] + counts[3])]
    for publisher in publishers:
        publisher.result(GUARD)
    found = [taker.result(GUARD) for taker in takers]
    assert [len(each) for each in found] == [sum(counts), counts[1] + counts[3]]
    assert all(each == sorted(each) for each in found)
    assert topic.stats().stored == 0


def test_ctrl_c_ends_a_publish_that_waits_and_nobody_gets_it(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    full, wide = topic.subscribe("full", maxsize=1), topic.subscribe("wide")
    topic.publish(1)

    def strike() -> None:
        until_waiting(full, Kind.SPACE)
        os.kill(os.getpid(), signal.SIGINT)

    striking = in_thread(strike)
    with pytest.raises(KeyboardInterrupt):
        topic.publish(2)
    striking.result(GUARD)
    assert (got(full), got(wide)) == ([1], [1])
    topic.publish(3, timeout=0)
    assert (got(full), got(wide)) == ([3], [3])


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter"])
def test_a_publish_that_waits_goes_by_a_new_policy(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting, overflow: str) -> None:
    full = topic.subscribe("full", maxsize=1)
    topic.publish(1)
    publishing = in_thread(topic.publish, 2)
    until_waiting(full, Kind.SPACE)
    full.configure(overflow=overflow)
    if overflow == "reject":
        with pytest.raises(mqlite.Full):
            publishing.result(GUARD)
    else:
        publishing.result(GUARD)
    assert (got(full), bodies(full.dead.peek(5))) == {"reject": ([1], []), "drop_oldest": ([2], []), "dead_letter": ([1], [2])}[overflow]


@pytest.mark.parametrize("how", ["unsubscribe", "maxsize", "shutdown", "close", "seek", "purge", "cancel"])
def test_a_publish_that_waits_is_woken_by(topic: Topic, shop: Shop, in_thread: InThread, until_waiting: UntilWaiting, how: str) -> None:
    full, wide = topic.subscribe("full", maxsize=1), topic.subscribe("wide")
    number = topic.publish(1)
    publishing = in_thread(topic.publish, 2, timeout=GUARD)
    until_waiting(full, Kind.SPACE)
    if how == "unsubscribe":
        full.unsubscribe()
        assert publishing.result(GUARD).receivers == 1
    elif how == "shutdown":
        full.shutdown()
        with pytest.raises(mqlite.ShutDown):
            publishing.result(GUARD)
    elif how == "close":
        other = shop.topic()
        topic.close()
        with pytest.raises(mqlite.Closed):
            publishing.result(GUARD)
        assert other.subscription("wide").qsize() == 1
    else:
        {"maxsize": lambda: full.configure(maxsize=2), "seek": lambda: full.seek("latest"), "purge": full.purge, "cancel": lambda: full.cancel(number)}[how]()
        publishing.result(GUARD)
        assert got(wide) == [1, 2]
        assert got(full) == ([1, 2] if how == "maxsize" else [2])


def test_a_publish_that_runs_out_of_time_has_stored_nothing(topic: Topic) -> None:
    full, wide = topic.subscribe("full", maxsize=2), topic.subscribe("wide")
    topic.publish(1)
    with pytest.raises(mqlite.Full):
        topic.publish_many([2, 3], timeout=0)
    topic.publish(2)
    with pytest.raises(mqlite.Full):
        topic.publish(3, timeout=0.01)
    assert (got(full), got(wide)) == ([1, 2], [1, 2])


def test_what_has_expired_makes_room_for_a_publish(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    subs = [topic.subscribe(policy, maxsize=1, overflow=policy, expired="drop") for policy in POLICIES]
    topic.publish(1, ttl=5)
    clock.pass_by(5)
    topic.publish(2, timeout=0)
    assert [got(sub) for sub in subs] == [[2]] * 4
    assert [sub.stats().dead for sub in subs] == [0] * 4


@pytest.mark.parametrize("overflow", POLICIES)
def test_threads_that_publish_never_exceed_maxsize(topic: Topic, in_thread: InThread, overflow: str) -> None:
    small, wide = topic.subscribe("small", maxsize=3, overflow=overflow), topic.subscribe("wide")

    def publish(thread: int) -> int:
        count = 0
        for n in range(15):
            try:
                topic.publish([thread, n], timeout=0)
                count += 1
            except mqlite.Full:
                got(small, 1)
        return count

    stored = sum(publisher.result(GUARD) for publisher in [in_thread(publish, thread) for thread in range(3)])
    assert small.stats().lag <= 3
    assert len(got(wide)) == stored
    assert (small.stats().dead > 0) == (overflow == "dead_letter")


def test_a_publish_that_waits_is_refused_where_a_new_policy_finds_nothing_to_drop(topic: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    full = topic.subscribe("full", maxsize=1)
    topic.publish(1)
    [claimed] = held(full)
    publishing = in_thread(topic.publish, 2)
    until_waiting(full, Kind.SPACE)
    full.configure(overflow="drop_oldest")
    with pytest.raises(mqlite.Full):
        publishing.result(GUARD)
    claimed.ack()
    assert topic.stats().stored == 0


# ---------------------------------------------------------------------- what can never fit
@pytest.mark.parametrize("overflow", ["block", "reject", "drop_oldest"])
def test_what_can_never_fit_by_its_bytes_is_refused_and_not_waited_for(topic: Topic, overflow: str) -> None:
    small, wide = topic.subscribe("small", maxbytes=1000, overflow=overflow), topic.subscribe("wide")
    topic.publish("x" * 10)
    with pytest.raises(mqlite.MessageTooLarge):
        topic.publish("x" * 5000, timeout=0.2)
    assert (got(small), got(wide)) == (["x" * 10], ["x" * 10])


@pytest.mark.parametrize("overflow", ["block", "reject", "drop_oldest"])
def test_more_messages_than_can_ever_fit_are_refused_and_not_waited_for(topic: Topic, overflow: str) -> None:
    small, wide = topic.subscribe("small", maxsize=2, overflow=overflow), topic.subscribe("wide")
    with pytest.raises(ValueError, match="maxsize"):
        topic.publish_many([1, 2, 3], timeout=0.2)
    assert (got(small), got(wide)) == ([], [])


def test_maxbytes_counts_the_bodies_that_a_subscription_is_owed(topic: Topic) -> None:
    small, wide = topic.subscribe("small", maxbytes=3000), topic.subscribe("wide")
    topic.publish("x" * 2000)
    assert small.stats().bytes >= 2000
    with pytest.raises(mqlite.Full):
        topic.publish("y" * 2000, timeout=0)
    assert got(small) == ["x" * 2000]
    assert small.stats().bytes == 0
    topic.publish("y" * 2000, timeout=0)
    assert (got(small), len(got(wide))) == (["y" * 2000], 2)


@pytest.mark.parametrize(("overflow", "left", "dead"), [("drop_oldest", ["b", "c"], []), ("dead_letter", ["a", "b"], ["c"])])
def test_maxbytes_goes_by_the_policy(topic: Topic, overflow: str, left: list[str], dead: list[str]) -> None:
    sub = topic.subscribe("s", maxbytes=5000, overflow=overflow)
    for letter in "abc":
        topic.publish(letter * 2000)
    assert [body[0] for body in got(sub)] == left
    assert [letter.body[0] for letter in sub.dead.peek(5)] == dead


# ---------------------------------------------------------------------- settings
def test_subscriptions_inherit_the_options_of_the_topic(shop: Shop) -> None:
    topic = shop.topic(maxsize=3, max_deliveries=1, order="lifo", overflow="reject")
    sub = topic.subscribe("s")
    assert sub.maxsize == 3
    topic.publish_many([1, 2, 3])
    with pytest.raises(mqlite.Full):
        topic.publish(4)
    assert held(sub, 1)[0].body == 3
    sub.seek("latest")
    topic.publish(1)
    held(sub)[0].nack()
    assert sub.stats().dead == 1


def test_a_subscription_may_have_other_options_than_its_topic(shop: Shop) -> None:
    topic = shop.topic(maxsize=3, max_deliveries=1)
    sub = topic.subscribe("s", maxsize=0, max_deliveries=None)
    topic.publish_many(range(10))
    assert sub.maxsize == 0
    held(sub, 1)[0].nack()
    assert (sub.stats().dead, got(sub)) == (0, list(range(10)))


def test_inherited_options_are_stored_with_the_topic(shop: Shop) -> None:
    shop.topic(maxsize=3, ttl=50, limits={"a": 2}, backoff=[1, 2], rate=(5, 10))
    topic = shop.again()
    sub = topic.subscribe("s")
    assert sub.maxsize == 3
    again = shop.topic(maxsize=3, ttl=50.0, limits={"a": 2}, backoff=[1, 2], rate=(5, 10))
    assert again.subscription("s").maxsize == 3
    for changed in ({"maxsize": 4}, {"ttl": None}, {"limits": {"a": 3}}, {"backoff": [1]}, {"rate": 5}, {"retention": "limits"}, {"compact": True}, {"codec": "pickle"}):
        with pytest.raises(mqlite.SettingsMismatch, match=next(iter(changed))):
            shop.topic(**changed)


def test_options_of_a_subscription_that_differ_later_are_told(topic: Topic) -> None:
    sub = topic.subscribe("s", maxsize=2, order="lifo")
    assert topic.subscribe("s", maxsize=2).maxsize == 2
    for changed in ({"maxsize": 3}, {"order": "priority"}, {"ttl": 5}, {"fair": False, "order": "priority"}):
        with pytest.raises(mqlite.SettingsMismatch):
            topic.subscribe("s", **changed)
    topic.publish_many([1, 2])
    assert got(sub) == [2, 1]


def test_a_subscription_can_be_configured_for_every_handle(topic: Topic) -> None:
    sub, other = topic.subscribe("s", maxsize=1), topic.subscription("s")
    other.configure(maxsize=2, max_deliveries=1)
    topic.publish_many([1, 2], timeout=0)
    held(sub, 1)[0].nack()
    assert (sub.maxsize, sub.stats().dead) == (2, 1)


def test_watermarks_see_what_is_published(topic: Topic, in_thread: InThread) -> None:
    sub = topic.subscribe("s")
    levels: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    with sub.watermarks(3, 1, on_high=lambda n: levels.put(("high", n)), on_low=lambda n: levels.put(("low", n))):
        topic.publish_many([1, 2, 3])
        assert levels.get(timeout=GUARD) == ("high", 3)
        assert got(sub) == [1, 2, 3]
        assert levels.get(timeout=GUARD)[0] == "low"


def test_a_subscription_takes_nothing_in_by_itself(topic: Topic) -> None:
    sub = topic.subscribe("s")
    for call in (lambda: sub.put(1), lambda: sub.put_nowait(1), lambda: sub.put_many([1]), sub.producer, lambda: sub.schedule("x", 1, every=1)):
        with pytest.raises(mqlite.NotSupported, match="publish"):
            call()
    assert sub.qsize() == 0


# ---------------------------------------------------------------------- several things at once
def test_limits_pass_over_many_that_were_overtaken(shop: Shop) -> None:
    topic = shop.topic("compacted", retention="limits", compact=True, max_messages=5)
    topic.subscribe("slow")
    topic.publish("old", "a")
    topic.publish_many(["x"] * 700, "b")
    topic.publish("new", "a")
    assert topic.stats().retained == 2


def test_a_seek_lets_a_group_go_on_that_a_retry_held_up(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish("redriven", group="g")
    sub.receive(timeout=0)[0].reject()
    topic.publish("retried", group="g")
    sub.receive(timeout=0)[0].nack(delay=1000)
    sub.redrive()
    with pytest.raises(mqlite.Empty):
        sub.receive(timeout=0)
    sub.seek("latest")
    assert got(sub) == ["redriven"]


def test_a_subscription_that_is_shut_down_refuses_a_publish_also_during_a_replay(topic: Topic) -> None:
    keeper = topic.subscribe("keeper")
    topic.publish_many(range(600))
    late = topic.subscribe("late", start="earliest")
    late.shutdown()
    with pytest.raises(mqlite.ShutDown):
        topic.publish("more")
    assert keeper.qsize() == 600


def test_one_that_finds_no_room_does_not_ask_for_what_another_plan_wanted(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    full, wide = topic.subscribe("full", maxsize=2), topic.subscribe("wide")
    topic.publish("x", replace_key="r")
    assert got(full) == ["x"]
    asked: list[int] = []
    claim_more = Admission.claim_more

    def filled_meanwhile(admission: Admission, interrupt: Any) -> bool:
        asked.append(1)
        if len(asked) == 1:
            topic.publish_many(["a", "b"])
        return claim_more(admission, interrupt)

    monkeypatch.setattr(Admission, "claim_more", filled_meanwhile)
    with pytest.raises(mqlite.Full):
        topic.publish("y", timeout=0, replace_key="r")
    assert len(asked) < 10
    assert wide.qsize() == 3


def test_what_a_commit_that_failed_had_shown_is_not_believed(disk_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = disk_shop.topic()
    sub = topic.subscribe("s")
    engine = topic._engine

    def op(txn: Any) -> None:
        definition = txn.definition_by_id(sub._state.id)
        subscriptions.remove(engine, txn, topic._state.id, definition)
        engine.catalog.options(sub._state, txn)
        assert sub._state.removed
        raise mqlite.StoreCorrupted("on purpose")

    with pytest.raises(mqlite.StoreCorrupted):
        engine.log.write(op)
    topic.publish(1)
    assert got(sub) == [1]
