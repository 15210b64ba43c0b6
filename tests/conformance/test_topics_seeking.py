"""A subscription starts where it is told to, and can go back: each message once, in order, until it has caught up."""

# ruff: noqa: F811
from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import GUARD, Shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite

Topic = mqlite.Topic[Any]


@pytest.fixture
def history(shop: Shop) -> Topic:
    """A topic that keeps everything."""
    return shop.topic("history", retention="limits")


def moment(clock: HandClock, seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(clock.moment(seconds), UTC)


# ---------------------------------------------------------------------- where it starts
def test_latest_is_what_is_published_from_now_on(history: Topic) -> None:
    history.publish(1)
    default, latest = history.subscribe("default"), history.subscribe("latest", start="latest")
    history.publish(2)
    assert (got(default), got(latest)) == ([2], [2])


def test_earliest_is_all_that_is_kept_and_what_comes_after(history: Topic) -> None:
    numbers = history.publish_many([1, 2, 3])
    sub = history.subscribe("s", start="earliest")
    numbers += [history.publish(4)]
    assert [(m.body, m.id) for m in messages(sub)] == list(zip([1, 2, 3, 4], numbers, strict=True))


def test_earliest_of_an_empty_topic_is_what_comes(history: Topic) -> None:
    sub = history.subscribe("s", start="earliest")
    history.publish(1)
    assert got(sub) == [1]


def test_an_id_is_inclusive(history: Topic) -> None:
    numbers = history.publish_many(range(5))
    for place, number in enumerate(numbers):
        assert got(history.subscribe(f"s{place}", start=int(number))) == list(range(place, 5))


def test_what_publish_returned_is_a_position(history: Topic) -> None:
    numbers = history.publish_many(range(5))
    sub = history.subscribe("s", start=numbers[3])
    assert got(sub) == [3, 4]
    sub.seek(numbers[1])
    assert got(sub) == [1, 2, 3, 4]


def test_an_id_between_messages_is_the_next_one(shop: Shop) -> None:
    topic, queue = shop.topic(retention="limits"), shop.queue()
    first = topic.publish(1)
    between = queue.put("elsewhere")
    topic.publish(2)
    assert got(topic.subscribe("s", start=between)) == [2]
    assert got(topic.subscribe("t", start=int(first) + 1)) == [2]


def test_the_id_after_the_last_is_the_same_as_latest(history: Topic) -> None:
    last = history.publish(1)
    sub = history.subscribe("s", start=int(last) + 1)
    history.publish(2)
    assert got(sub) == [2]


def test_a_moment_is_inclusive_and_may_be_written_in_two_ways(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    for n in range(6):
        topic.publish(n)
        clock.pass_by(10)
    assert got(topic.subscribe("a", start=moment(clock, -30))) == [3, 4, 5]
    assert got(topic.subscribe("b", start=clock.moment(-30))) == [3, 4, 5]
    assert got(topic.subscribe("c", start=moment(clock, -30.001))) == [3, 4, 5]
    assert got(topic.subscribe("d", start=moment(clock, -29.999))) == [4, 5]
    assert got(topic.subscribe("e", start=moment(clock, -3600))) == [0, 1, 2, 3, 4, 5]
    assert got(topic.subscribe("f", start=moment(clock, -5))) == []
    assert got(topic.subscribe("g", start=moment(clock, -30).astimezone(tz=None))) == [3, 4, 5]


def test_a_moment_is_found_among_many(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    for n in range(0, 1000, 10):
        topic.publish_many(range(n, n + 10))
        clock.pass_by(1)
    for seconds in (100, 99, 37, 1):
        assert got(topic.subscribe(f"s{seconds}", start=moment(clock, -seconds))) == list(range(1000 - 10 * seconds, 1000))


def test_the_start_is_of_a_new_subscription_only(history: Topic) -> None:
    history.publish_many([1, 2])
    sub = history.subscribe("s")
    for start in ("earliest", 1, 10**9):
        history.subscribe("s", start=start)
    assert got(sub) == []


def test_an_interest_topic_replays_what_others_are_still_owed(topic: Topic) -> None:
    other = topic.subscribe("other", "k")
    topic.publish("gone")
    numbers = topic.publish_many([1, 2, 3], "k")
    assert got(other, 1) == [1]
    sub = topic.subscribe("s", start="earliest")
    assert [(m.body, m.id) for m in messages(sub)] == [(2, numbers[1]), (3, numbers[2])]
    assert got(other) == [2, 3]
    assert topic.stats().stored == 0


def test_a_replay_brings_all_that_was_said_of_a_message(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    number = topic.publish({"n": 1}, "a.b", headers={"h": 1}, priority=4, type="t", group="g", ttl=60, reply_to="r", correlation_id="c")
    clock.pass_by(10)
    [m] = held(topic.subscribe("s", start="earliest"))
    assert (m.id, m.body, m.routing_key, m.headers, m.priority, m.type, m.group, m.reply_to, m.correlation_id) == (number, {"n": 1}, "a.b", {"h": 1}, 4, "t", "g", "r", "c")
    assert (m.enqueued_at, m.expires_at, m.queue) == (moment(clock, -10), moment(clock, 50), "events/s")


def test_a_replay_obeys_priorities_orders_and_groups(history: Topic) -> None:
    for n, priority in enumerate([0, 5, 0, 5]):
        history.publish(n, priority=priority, group="g")
    assert got(history.subscribe("plain", start="earliest")) == [1, 3, 0, 2]
    assert got(history.subscribe("lifo", start="earliest", order="lifo")) == [3, 1, 2, 0]
    grouped = history.subscribe("grouped", start="earliest")
    assert [m.body for m in held(grouped)] == [1]


def test_what_has_expired_is_not_replayed_as_good(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    topic.publish("short", ttl=5)
    topic.publish("long", ttl=50)
    clock.pass_by(5)
    sub = topic.subscribe("s", start="earliest")
    assert got(sub) == ["long"]


def test_what_was_delayed_waits_in_a_replay_too(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    topic.publish("late", delay=20)
    topic.publish("now")
    clock.pass_by(10)
    sub = topic.subscribe("s", start="earliest")
    assert got(sub) == ["now"]
    assert (sub.stats().lag, sub.stats().delayed) == (1, 1)
    clock.pass_by(10)
    assert got(sub) == ["late"]
    assert got(topic.subscribe("t", start="earliest")) == ["late", "now"]


def test_a_replay_goes_by_the_ttl_and_the_limits_of_the_subscription(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    topic.publish_many(range(10))
    sub = topic.subscribe("s", start="earliest", maxsize=3, ttl=100)
    assert (len(held(sub)), sub.stats().claimed, sub.stats().lag) == (3, 3, 10)
    sub.seek("earliest")
    assert got(sub) == list(range(10))


def test_a_full_subscription_is_replayed_to_as_it_is_worked_off(history: Topic) -> None:
    history.publish_many(range(7))
    sub = history.subscribe("s", start="earliest", maxsize=2, overflow="reject")
    for n in range(7, 10):
        history.publish(n)
    assert got(sub) == list(range(10))
    history.publish(10)
    assert got(sub) == [10]


# ---------------------------------------------------------------------- while others publish
def test_what_is_published_during_a_replay_comes_once_and_in_order(history: Topic) -> None:
    history.publish_many(range(1500))
    sub = history.subscribe("s", start="earliest")
    found: list[Any] = []
    published = 1500
    while len(found) < published:
        batch = sub.receive(100, timeout=0)
        found += [m.body for m in batch]
        sub.ack_many(batch)
        if published < 1800:
            history.publish(published)
            history.publish_many([published + 1, published + 2])
            published += 3
    assert found == list(range(published))
    history.publish("after")
    assert got(sub) == ["after"]


def test_threads_publish_while_a_replay_goes_on(history: Topic, in_thread: InThread) -> None:
    history.publish_many([["old", n] for n in range(700)])
    done = [in_thread(lambda thread=thread: [history.publish([thread, n]) for n in range(40)]) for thread in range(2)]
    sub = history.subscribe("s", start="earliest")
    found = [sub.get(timeout=GUARD) for _ in range(780)]
    for publisher in done:
        publisher.result(GUARD)
    assert found[:700] == [["old", n] for n in range(700)]
    for thread in range(2):
        assert [n for name, n in found[700:] if name == thread] == list(range(40))
    with pytest.raises(mqlite.Empty):
        sub.get(timeout=0)


def test_several_consumers_of_a_replay_get_each_message_once(history: Topic, in_thread: InThread) -> None:
    history.publish_many(range(1200))
    sub = history.subscribe("s", start="earliest")

    def take() -> list[Any]:
        return [sub.get(timeout=GUARD) for _ in range(400)]

    found = [body for taker in [in_thread(take) for _ in range(3)] for body in taker.result(GUARD)]
    assert sorted(found) == list(range(1200))


def test_a_replay_of_thousands_with_a_pattern_that_wants_few(history: Topic) -> None:
    for start in range(0, 6000, 500):
        history.publish_many([n for n in range(start, start + 500) if n % 97], "dull")
        history.publish_many([n for n in range(start, start + 500) if n % 97 == 0], "rare.one")
    sub = history.subscribe("s", "rare.*", start="earliest")
    assert (sub.stats().lag, sub.qsize()) == (62, 62)
    assert got(sub) == [n for n in range(6000) if n % 97 == 0]
    history.publish("more", "rare.two")
    assert got(sub) == ["more"]


def test_who_waits_is_woken_by_what_a_long_replay_finds_at_its_end(history: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    history.publish_many(range(1500), "dull")
    sub = history.subscribe("s", "rare", start="earliest")
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    history.publish(1, "rare")
    assert waiting.result(GUARD) == 1


def test_a_replay_with_nothing_that_is_wanted_ends(history: Topic) -> None:
    history.publish_many(range(1500), "dull")
    sub = history.subscribe("s", "rare", start="earliest")
    assert (got(sub), sub.qsize(), sub.stats().lag) == ([], 0, 0)
    history.publish(1, "rare")
    assert got(sub) == [1]


def test_peek_browse_and_purge_know_of_what_is_to_be_replayed(history: Topic) -> None:
    history.publish_many(range(5))
    sub = history.subscribe("s", start="earliest")
    assert [m.body for m in sub.peek(3)] == [0, 1, 2]
    assert not sub.empty()
    other = history.subscribe("t", start="earliest")
    assert [m.body for m in other.browse()] == [0, 1, 2, 3, 4]
    third = history.subscribe("u", start="earliest")
    assert third.purge() == 5
    assert got(third) == []


def test_peek_and_browse_fetch_as_much_of_a_replay_as_is_asked_for(history: Topic) -> None:
    history.publish_many(range(1500))
    assert [m.body for m in history.subscribe("s", start="earliest").peek(1000)] == list(range(1000))
    assert [m.body for m in history.subscribe("t", start="earliest").browse()] == list(range(1500))
    sub = history.subscribe("u", start="earliest")
    assert [m.body for m in sub.browse(lambda m: m.body % 100 == 0)] == list(range(0, 1500, 100))
    assert sub.qsize() == 1500


def test_a_consumer_prefetches_from_a_replay(history: Topic) -> None:
    history.publish_many(range(1100))
    sub = history.subscribe("s", start="earliest")
    with sub.consumer(prefetch=50) as consumer:
        for n in range(1100):
            with consumer.receive(timeout=0) as message:
                assert message.body == n
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)


def test_threads_publish_while_others_take_and_the_subscription_seeks(history: Topic, in_thread: InThread) -> None:
    sub, steady = history.subscribe("s"), history.subscribe("steady")

    def publish(thread: int) -> None:
        for n in range(60):
            history.publish([thread, n])

    def take() -> list[int]:
        numbers: list[int] = []
        while not all(publisher.done() for publisher in publishers):
            for message in held(sub, 7):
                try:
                    message.ack()
                    numbers.append(message.id)
                except mqlite.LeaseLost:
                    break
        return numbers

    publishers = [in_thread(publish, thread) for thread in range(3)]
    takers = [in_thread(take) for _ in range(2)]
    while not all(publisher.done() for publisher in publishers):
        sub.seek("earliest")
        sub.seek("latest")
    for thread in (*publishers, *takers):
        thread.result(GUARD)
    everything = [message.id for message in messages(steady)]
    assert len(everything) == 180
    sub.seek("earliest")
    assert [message.id for message in messages(sub)] == everything == sorted(everything)


def test_a_seek_in_another_thread_wakes_who_waits_and_gives_each_message_once(history: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    history.publish_many(range(20))
    sub = history.subscribe("s")
    waiting = [in_thread(sub.get, timeout=GUARD) for _ in range(4)]
    until_waiting(sub, n=4)
    sub.seek("earliest")
    assert sorted(each.result(GUARD) for each in waiting) == [0, 1, 2, 3]
    assert got(sub) == list(range(4, 20))


def test_join_waits_for_what_is_to_be_replayed(history: Topic, in_thread: InThread) -> None:
    history.publish_many(range(3))
    sub = history.subscribe("s", start="earliest")
    assert sub.unfinished_tasks == 3
    joined = in_thread(sub.join)
    assert got(sub, 2) == [0, 1]
    assert not joined.done()
    assert got(sub) == [2]
    joined.result(GUARD)


def test_a_message_that_is_to_be_replayed_can_be_cancelled_and_updated(history: Topic) -> None:
    numbers = history.publish_many(range(3))
    sub = history.subscribe("s", start="earliest")
    assert sub.cancel(int(numbers[1]))
    assert sub.update(int(numbers[2]), priority=1)
    assert got(sub) == [2, 0]


# ---------------------------------------------------------------------- seek
@pytest.mark.parametrize(("position", "expected"), [("earliest", list(range(6))), ("latest", [])])
def test_seek_by_name(history: Topic, position: str, expected: list[int]) -> None:
    sub = history.subscribe("s")
    history.publish_many(range(6))
    assert got(sub, 3) == [0, 1, 2]
    sub.seek(position)
    assert got(sub) == expected
    history.publish("after")
    assert got(sub) == ["after"]


def test_seek_to_an_id_forward_and_back(history: Topic) -> None:
    sub = history.subscribe("s")
    numbers = list(map(int, history.publish_many(range(6))))
    for place in (4, 1, 5, 0):
        sub.seek(numbers[place])
        assert got(sub, 3) == list(range(6))[place : place + 3]
    sub.seek(numbers[2])
    assert got(sub) == [2, 3, 4, 5]


def test_seek_to_a_moment(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    sub = topic.subscribe("s")
    for n in range(6):
        topic.publish(n)
        clock.pass_by(10)
    sub.seek(moment(clock, -20))
    assert got(sub) == [4, 5]
    sub.seek(clock.moment(-50.0))
    assert got(sub) == [1, 2, 3, 4, 5]
    sub.seek(moment(clock, -30) + timedelta(microseconds=1))
    assert got(sub) == [4, 5]


def test_seek_replays_as_new(history: Topic) -> None:
    sub = history.subscribe("s", max_deliveries=9)
    number = history.publish("x", priority=3)
    for _ in range(3):
        held(sub)[0].nack()
    sub.seek("earliest")
    [m] = held(sub)
    assert (m.id, m.delivery_count, m.acquired_count, m.redelivered, m.priority) == (number, 0, 1, False, 3)
    m.ack()


def test_seek_leaves_other_subscriptions_alone(history: Topic) -> None:
    sub, other = history.subscribe("s"), history.subscribe("other")
    history.publish_many([1, 2])
    sub.seek("latest")
    assert (got(sub), got(other)) == ([], [1, 2])
    sub.seek("earliest")
    assert (got(sub), got(other)) == ([1, 2], [])


@pytest.mark.parametrize("position", ["earliest", "latest"])
@pytest.mark.parametrize("settle", [lambda m: m.ack(), lambda m: m.nack(), lambda m: m.nack(delay=5), lambda m: m.reject(), lambda m: m.release(), lambda m: m.extend(5)])
def test_who_holds_a_message_while_the_subscription_seeks_has_lost_it(history: Topic, position: str, settle: Any) -> None:
    sub = history.subscribe("s")
    history.publish_many([1, 2])
    one, two = held(sub)
    sub.seek(position)
    for message in (one, two):
        with pytest.raises(mqlite.LeaseLost):
            settle(message)
    assert got(sub) == ([1, 2] if position == "earliest" else [])
    assert (sub.stats().claimed, sub.stats().dead) == (0, 0)


def test_ack_many_of_what_a_seek_took_changes_nothing(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish_many([1, 2])
    claimed = held(sub)
    sub.seek("earliest")
    with pytest.raises(mqlite.LeaseLost):
        sub.ack_many(claimed)
    assert got(sub) == [1, 2]


def test_a_lost_claim_is_lost_also_when_the_message_is_claimed_again(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish(1)
    [old] = held(sub)
    sub.seek("earliest")
    [new] = held(sub)
    with pytest.raises(mqlite.LeaseLost):
        old.ack()
    new.ack()


def test_what_a_consumer_has_prefetched_is_not_handed_out_after_a_seek(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish_many([1, 2, 3])
    with sub.consumer(prefetch=3) as consumer:
        first = consumer.receive(timeout=0)
        sub.seek("latest")
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        with pytest.raises(mqlite.LeaseLost):
            first.ack()
        history.publish(4)
        assert consumer.receive(timeout=0).body == 4


def test_seek_drops_what_is_delayed_and_what_waits_for_its_retry(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub, other = topic.subscribe("s", backoff=[50]), topic.subscribe("other")
    topic.publish("delayed", delay=100)
    topic.publish("retried")
    topic.publish("returned")
    first, second = held(sub)
    first.nack()
    second.release()
    sub.seek("latest")
    assert (sub.stats().lag, sub.stats().delayed) == (0, 0)
    clock.pass_by(1000)
    assert (got(sub), got(other)) == ([], ["retried", "returned", "delayed"])
    assert topic.stats().stored == 0


def test_dead_letters_stay_where_they_are_when_a_subscription_seeks(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish_many([1, 2, 3])
    held(sub, 1)[0].reject()
    sub.seek("latest")
    assert (sub.stats().dead, got(sub)) == (1, [])
    sub.seek("earliest")
    assert (sub.stats().dead, got(sub)) == (1, [1, 2, 3])
    assert sub.redrive() == 1
    assert got(sub) == [1]


def test_the_group_of_a_message_that_a_seek_took_goes_on(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish_many([1, 2], group="g")
    [one] = held(sub)
    sub.seek("earliest")
    [again] = held(sub)
    assert (one.body, again.body, held(sub)) == (1, 1, [])
    again.ack()
    assert got(sub) == [2]


def test_a_group_that_waits_for_a_retry_goes_on_after_a_seek(timed_shop: Shop) -> None:
    topic = timed_shop.topic(retention="limits")
    sub = topic.subscribe("s")
    topic.publish_many([1, 2], group="g")
    held(sub)[0].nack(delay=1000)
    sub.seek("earliest")
    assert got(sub) == [1, 2]
    topic.publish(3, group="g")
    assert got(sub) == [3]


def test_a_seek_during_a_replay(history: Topic) -> None:
    numbers = history.publish_many(range(1500))
    sub = history.subscribe("s", start="earliest")
    assert got(sub, 3) == [0, 1, 2]
    sub.seek(int(numbers[1400]))
    assert got(sub) == list(range(1400, 1500))
    sub.seek("earliest")
    assert got(sub, 2) == [0, 1]
    sub.seek("latest")
    assert (got(sub), sub.stats().lag) == ([], 0)
    history.publish("after")
    assert got(sub) == ["after"]


def test_a_seek_of_a_subscription_that_holds_a_great_deal(history: Topic) -> None:
    sub = history.subscribe("s")
    history.publish_many(range(1300))
    some = held(sub, 700)
    sub.seek("earliest")
    assert sub.stats().lag == 1300
    with pytest.raises(mqlite.LeaseLost):
        some[-1].ack()
    assert held(sub, 3)[0].body == 0
    sub.seek("earliest")
    assert got(sub) == list(range(1300))


def test_in_an_interest_topic_a_seek_finds_what_others_are_owed(topic: Topic) -> None:
    sub, other = topic.subscribe("s"), topic.subscribe("other")
    topic.publish_many([1, 2, 3])
    assert (got(sub), got(other, 1)) == ([1, 2, 3], [1])
    sub.seek("earliest")
    assert (got(sub), got(other)) == ([2, 3], [2, 3])
    sub.seek("earliest")
    assert (got(sub), topic.stats().stored) == ([], 0)


def test_in_an_interest_topic_a_seek_to_the_earliest_keeps_what_the_subscription_alone_is_owed(topic: Topic) -> None:
    sub = topic.subscribe("s")
    topic.publish_many([1, 2, 3])
    assert got(sub, 1) == [1]
    sub.seek("earliest")
    assert got(sub) == [2, 3]
    assert topic.stats().stored == 0


def test_seek_goes_by_the_pattern_and_the_filter(history: Topic) -> None:
    sub = history.subscribe("s", "a.#", {"priority": (">", 1)})
    for n, key in enumerate(["a", "a.b", "b", "a.c"]):
        history.publish(n, key, priority=n)
    assert got(sub) == [3]
    sub.seek("earliest")
    assert got(sub) == [3]


def test_a_waiting_consumer_is_woken_by_a_seek(history: Topic, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    history.publish(1)
    sub = history.subscribe("s")
    waiting = in_thread(sub.get, timeout=GUARD)
    until_waiting(sub)
    sub.seek("earliest")
    assert waiting.result(GUARD) == 1


def test_positions_are_kept_across_a_reopen(shop: Shop) -> None:
    topic = shop.topic("history", retention="limits")
    done, half, replaying, sought = (topic.subscribe(name) for name in ("done", "half", "replaying", "sought"))
    topic.publish_many(range(1000))
    done.ack_many(done.receive(1000))
    half.ack_many(half.receive(500))
    replaying.seek("earliest")
    assert got(replaying, 10) == list(range(10))
    sought.seek("latest")
    topic = shop.again("history")
    done, half, replaying, sought = (topic.subscription(name) for name in ("done", "half", "replaying", "sought"))
    assert [sub.stats().lag for sub in (done, half, replaying, sought)] == [0, 500, 990, 0]
    topic.publish("after")
    assert (got(done), got(sought)) == (["after"], ["after"])
    assert got(half) == [*range(500, 1000), "after"]
    assert got(replaying) == [*range(10, 1000), "after"]


# ---------------------------------------------------------------------- out of range
def test_what_is_neither_kept_nor_published_is_out_of_range(shop: Shop) -> None:
    topic = shop.topic("history", retention="limits", max_messages=3)
    sub = topic.subscribe("s")
    numbers = list(map(int, topic.publish_many(range(6))))
    assert got(sub) == list(range(6))
    assert topic.stats().retained == 3
    for position in (numbers[0], numbers[2], numbers[-1] + 2, numbers[-1] + 1000):
        with pytest.raises(mqlite.OutOfRange, match=str(position)):
            topic.subscribe("new", start=position)
        with pytest.raises(mqlite.OutOfRange, match=str(position)):
            sub.seek(position)
    assert (topic.subscriptions(), got(sub)) == (["s"], [])
    sub.seek(numbers[3])
    assert got(sub) == [3, 4, 5]


def test_out_of_range_is_also_a_value_error_and_says_what_is_kept(shop: Shop) -> None:
    topic = shop.topic("history", retention="limits", max_messages=2)
    numbers = list(map(int, topic.publish_many(range(6))))
    with pytest.raises(ValueError, match=f"{numbers[4]} to {numbers[5]}") as caught:
        topic.subscribe("s", start=numbers[0])
    assert isinstance(caught.value, mqlite.MqliteError)


def test_a_moment_from_which_some_are_gone_is_out_of_range(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_messages=3)
    sub = topic.subscribe("s")
    for n in range(6):
        topic.publish(n)
        clock.pass_by(10)
    got(sub)
    for seconds in (-60, -50, -40, -3600):
        with pytest.raises(mqlite.OutOfRange):
            topic.subscribe("new", start=moment(clock, seconds))
        with pytest.raises(mqlite.OutOfRange):
            sub.seek(clock.moment(seconds))
    sub.seek(moment(clock, -39.9))
    assert got(sub) == [3, 4, 5]


def test_a_seek_out_of_range_changes_nothing(shop: Shop) -> None:
    topic = shop.topic("history", retention="limits", max_messages=2)
    sub = topic.subscribe("s")
    numbers = list(map(int, topic.publish_many(range(5))))
    [claimed] = sub.receive(timeout=0)
    with pytest.raises(mqlite.OutOfRange):
        sub.seek(numbers[0])
    claimed.ack()
    assert got(sub) == [1, 2, 3, 4]


def test_an_interest_topic_has_nothing_before_what_it_keeps(topic: Topic) -> None:
    sub = topic.subscribe("s")
    numbers = list(map(int, topic.publish_many([1, 2, 3])))
    assert got(sub, 1) == [1]
    with pytest.raises(mqlite.OutOfRange):
        topic.subscribe("new", start=numbers[0])
    assert got(topic.subscribe("new", start=numbers[1])) == [2, 3]
    assert got(sub) == [2, 3]
    with pytest.raises(mqlite.OutOfRange, match="nothing"):
        sub.seek(numbers[2])


@pytest.mark.parametrize(
    ("position", "error"),
    [
        ("first", ValueError),
        ("", ValueError),
        (0, ValueError),
        (-1, ValueError),
        (None, TypeError),
        (True, TypeError),
        ([1], TypeError),
        (b"earliest", TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (datetime(2026, 1, 1), ValueError),
    ],
)
def test_a_bad_position_is_told_and_changes_nothing(history: Topic, position: Any, error: type[Exception]) -> None:
    sub = history.subscribe("s")
    history.publish(1)
    with pytest.raises(error, match=r"position|id|time zone|start|finite"):
        sub.seek(position)
    with pytest.raises(error):
        history.subscribe("new", start=position)
    assert (got(sub), history.subscriptions()) == ([1], ["s"])


def test_a_very_large_id_and_odd_moments_are_answered(history: Topic) -> None:
    history.publish(1)
    sub = history.subscribe("s")
    for position in (2**63, 2**64, 2**70):
        with pytest.raises((mqlite.OutOfRange, ValueError)):
            sub.seek(position)
    sub.seek(-1e18)
    assert got(sub) == [1]
    sub.seek(datetime(1, 1, 2, tzinfo=UTC))
    assert got(sub) == [1]


# ---------------------------------------------------------------------- lag
def test_lag_counts_what_is_not_settled(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    assert (sub.stats().lag, sub.stats().lag_seconds) == (0, 0.0)
    topic.publish_many(range(4))
    clock.pass_by(10)
    topic.publish("delayed", delay=100)
    [claimed] = sub.receive(timeout=0)
    stats = sub.stats()
    assert (stats.lag, stats.ready, stats.claimed, stats.delayed, stats.lag_seconds) == (5, 3, 1, 1, 10.0)
    claimed.ack()
    held(sub, 1)[0].reject()
    assert (sub.stats().lag, sub.stats().dead) == (3, 1)


def test_lag_seconds_is_the_age_of_the_oldest_unsettled_message(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    topic.publish("low", priority=-5)
    clock.pass_by(10)
    topic.publish("high", priority=5)
    clock.pass_by(1)
    assert sub.stats().lag_seconds == 11.0
    [high] = sub.receive(timeout=0)
    assert (high.body, sub.stats().lag_seconds) == ("high", 11.0)
    high.ack()
    [low] = sub.receive(timeout=0)
    assert sub.stats().lag_seconds == 11.0
    low.ack()
    assert sub.stats().lag_seconds == 0.0


def test_lag_seconds_knows_of_delayed_messages(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s")
    topic.publish("late", delay=100)
    clock.pass_by(10)
    assert (sub.stats().lag, sub.stats().lag_seconds) == (1, 10.0)


def test_lag_counts_what_a_replay_has_not_reached(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    topic.publish_many(range(600), "k")
    clock.pass_by(5)
    topic.publish_many(range(600), "other")
    topic.publish_many(range(600), "k")
    sub = topic.subscribe("s", "k", start="earliest")
    assert (sub.stats().lag, sub.stats().ready, sub.qsize(), sub.stats().lag_seconds) == (1200, 1200, 1200, 5.0)
    assert got(sub, 500) == list(range(500))
    assert (sub.stats().lag, sub.qsize()) == (700, 700)
    assert len(got(sub)) == 700
    assert (sub.stats().lag, sub.stats().lag_seconds) == (0, 0.0)


# ---------------------------------------------------------------------- at random
@pytest.mark.parametrize("seed", range(6))
def test_seeking_at_random_gives_what_a_list_would(shop: Shop, seed: int) -> None:
    dice = random.Random(seed)
    print("seed", seed)
    topic = shop.topic("history", retention="limits")
    keys = ["a", "a.b", "b", "c"]
    kept: list[tuple[int, str, int]] = []
    subs = {name: (topic.subscribe(name, pattern), pattern) for name, pattern in [("all", "#"), ("a", "a.#"), ("b", "b")]}
    owed: dict[str, list[int]] = {name: [] for name in subs}

    def wants(pattern: str, key: str) -> bool:
        return pattern == "#" or (key.startswith("a") if pattern == "a.#" else key == pattern)

    for step in range(150):
        name = dice.choice(list(subs))
        sub, pattern = subs[name]
        what = dice.random()
        if what < 0.4:
            key = dice.choice(keys)
            for number in topic.publish_many([step] * dice.choice([1, 1, 30]), key):
                kept.append((int(number), key, step))
                for other, (_, wanted) in subs.items():
                    if wants(wanted, key):
                        owed[other].append(step)
        elif what < 0.75:
            count = dice.randint(1, 40)
            assert got(sub, count) == owed[name][:count]
            del owed[name][:count]
        elif what < 0.8:
            for message in held(sub, 5):
                message.nack()
        elif kept:
            place = dice.randrange(len(kept))
            if what < 0.85:
                sub.seek("latest")
                owed[name] = []
            else:
                held(sub, 3)
                sub.seek(kept[place][0] if what < 0.95 else "earliest")
                owed[name] = [body for _, key, body in kept[place if what < 0.95 else 0 :] if wants(pattern, key)]
        assert sub.stats().lag == len(owed[name])
    for name, (sub, _) in subs.items():
        assert got(sub) == owed[name]


def test_a_seek_drops_what_waits_behind_many_that_were_redriven(topic: Topic) -> None:
    sub = topic.subscribe("s", max_deliveries=1)
    topic.publish_many(range(600))
    for message in sub.receive(600, timeout=0):
        message.reject()
    assert sub.redrive(rate=0.001) == 600
    topic.publish("later", delay=1e8)
    sub.seek("latest")
    assert sub.stats().lag == 600
