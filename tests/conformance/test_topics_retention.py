"""What a topic keeps: as long as somebody is owed it, for replay within limits, one of each key; and not a byte longer."""

# ruff: noqa: F811
from __future__ import annotations

from typing import Any

import pytest
from hand_clock import HandClock
from topic_things import Shop, got, held, messages, shop, timed_shop, topic  # noqa: F401

import mqlite

Topic = mqlite.Topic[Any]


def replayed(topic: Topic, **options: Any) -> list[Any]:
    """What a new subscription gets that starts at the earliest."""
    with topic.subscribe(durable=False, start="earliest", **options) as sub:
        return got(sub)


# ---------------------------------------------------------------------- interest
def test_a_body_goes_when_all_that_got_it_have_settled_it(topic: Topic) -> None:
    a, b, c = topic.subscribe("a"), topic.subscribe("b"), topic.subscribe("c", "other")
    topic.publish_many([1, 2])
    assert (topic.stats().stored, topic.stats().retained) == (2, 2)
    assert got(a) == [1, 2]
    assert topic.stats().stored == 2
    assert got(b, 1) == [1]
    assert (topic.stats().stored, replayed(topic)) == (1, [2])
    held(b)[0].reject()
    assert (topic.stats().stored, topic.stats().retained, topic.stats().bytes, replayed(topic), got(c)) == (0, 0, 0, [], [])


@pytest.mark.parametrize(
    "settle",
    [
        lambda sub: held(sub)[0].ack(),
        lambda sub: held(sub)[0].reject(),
        lambda sub: held(sub)[0].nack(),
        lambda sub: sub.get(timeout=0),
        lambda sub: sub.purge(),
        lambda sub: sub.cancel(sub.peek()[0].id),
        lambda sub: sub.seek("latest"),
        lambda sub: sub.unsubscribe(),
        lambda sub: sub.consumer(auto_ack=True).receive(timeout=0),
    ],
    ids=["ack", "reject", "nack", "get", "purge", "cancel", "seek", "unsubscribe", "auto_ack"],
)
def test_it_goes_however_the_last_one_settles_it(topic: Topic, settle: Any) -> None:
    a, b = topic.subscribe("a", max_deliveries=1), topic.subscribe("b", max_deliveries=1)
    topic.publish("x" * 10_000)
    settle(a)
    assert topic.stats().stored == 1
    settle(b)
    assert (topic.stats().stored, topic.stats().bytes) == (0, 0)


def test_what_moves_within_a_subscription_keeps_its_body(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    sub = topic.subscribe("s", backoff=[5])
    number = topic.publish({"n": 1})
    held(sub)[0].nack()
    clock.pass_by(5)
    held(sub)[0].release()
    sub.update(int(number), priority=3)
    sub.update(int(number), delay=10)
    clock.pass_by(10)
    assert topic.stats().stored == 1
    [m] = messages(sub)
    assert (m.id, m.body, m.priority) == (number, {"n": 1}, 3)
    assert topic.stats().stored == 0


def test_a_subscription_that_starts_at_the_earliest_and_was_not_replayed_to_keeps_what_is_there(topic: Topic) -> None:
    a = topic.subscribe("a")
    topic.publish_many([1, 2, 3])
    late = topic.subscribe("late", start="earliest")
    assert got(a) == [1, 2, 3]
    assert topic.stats().stored == 3
    topic.publish(4)
    assert got(a) == [4]
    assert got(late) == [1, 2, 3, 4]
    assert topic.stats().stored == 0


def test_a_replay_lets_go_of_what_it_has_passed_and_does_not_want(topic: Topic) -> None:
    a = topic.subscribe("a")
    topic.publish_many(range(10), "x")
    topic.publish_many(range(10), "y")
    late = topic.subscribe("late", "y", start="earliest")
    assert got(a) == [*range(10), *range(10)]
    assert got(late) == list(range(10))
    assert topic.stats().stored == 0


@pytest.mark.parametrize("end", ["unsubscribe", "seek", "close"])
def test_a_replay_that_is_given_up_lets_go_of_all(topic: Topic, end: str) -> None:
    a = topic.subscribe("a")
    topic.publish_many(range(1200))
    late = topic.subscribe("late", start="earliest", durable=end != "close")
    assert got(late, 5) == list(range(5))
    assert got(a) == list(range(1200))
    assert topic.stats().stored == 1195
    {"unsubscribe": late.unsubscribe, "seek": lambda: late.seek("latest"), "close": late.close}[end]()
    topic.publish("one more")
    got(a)
    if end == "seek":
        assert got(late) == ["one more"]
    assert topic.stats().stored == 0


def test_nothing_is_kept_for_those_that_start_at_latest(topic: Topic) -> None:
    a = topic.subscribe("a")
    topic.publish(1)
    late = topic.subscribe("late")
    assert (got(a), topic.stats().stored, got(late)) == ([1], 0, [])


def test_bodies_of_interest_topics_have_first_and_last_ids(topic: Topic) -> None:
    assert (topic.stats().first_id, topic.stats().last_id) == (None, None)
    sub = topic.subscribe("s")
    numbers = topic.publish_many([1, 2, 3])
    assert (topic.stats().first_id, topic.stats().last_id) == (numbers[0], numbers[2])
    got(sub, 2)
    assert (topic.stats().first_id, topic.stats().last_id) == (numbers[2], numbers[2])
    got(sub)
    assert (topic.stats().first_id, topic.stats().last_id) == (None, numbers[2])


# ---------------------------------------------------------------------- limits
def test_without_limits_everything_is_kept(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    sub = topic.subscribe("s")
    topic.publish_many(range(10))
    assert got(sub) == list(range(10))
    stats = topic.stats()
    assert (stats.stored, stats.retained, replayed(topic)) == (10, 10, list(range(10)))


def test_max_messages_keeps_the_newest(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=3)
    sub = topic.subscribe("s")
    numbers = []
    for n in range(10):
        numbers.append(topic.publish(n))
        got(sub)
        assert topic.stats().retained == min(n + 1, 3)
    assert replayed(topic) == [7, 8, 9]
    assert (topic.stats().stored, topic.stats().first_id, topic.stats().last_id) == (3, numbers[7], numbers[9])


def test_max_age_keeps_the_youngest(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_age=10)
    for n in range(5):
        topic.publish(n)
        clock.pass_by(4)
    assert topic.stats().retained == 2
    assert replayed(topic) == [3, 4]
    clock.pass_by(100)
    assert (topic.stats().retained, topic.stats().stored, topic.stats().bytes, topic.stats().first_id) == (0, 0, 0, None)
    assert replayed(topic) == []


def test_max_age_is_inclusive_of_its_end(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_age=10)
    topic.publish(1)
    clock.pass_by(9.9)
    assert topic.stats().retained == 1
    clock.pass_by(0.2)
    assert topic.stats().retained == 0


def test_a_replay_does_not_bring_what_is_too_old(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_age=10)
    topic.publish("old")
    clock.pass_by(8)
    topic.publish("young")
    clock.pass_by(8)
    assert topic.stats().retained == 1
    assert replayed(topic) == ["young"]


def test_max_bytes_keeps_the_newest_that_fit(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_bytes=10_000)
    for n in range(10):
        topic.publish(str(n) * 3000)
    stats = topic.stats()
    assert (stats.retained, stats.stored) == (3, 3)
    assert 9000 <= stats.bytes <= 10_000
    assert [body[0] for body in replayed(topic)] == ["7", "8", "9"]
    topic.publish("x" * 20_000)
    assert topic.stats().bytes <= 10_000


def test_the_limits_hold_together(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_age=100, max_messages=5, max_bytes=10_000)
    topic.publish_many(range(8))
    assert replayed(topic) == [3, 4, 5, 6, 7]
    topic.publish("x" * 9_900)
    assert topic.stats().bytes <= 10_000
    clock.pass_by(101)
    assert topic.stats().retained == 0


def test_limits_take_nothing_that_a_subscription_is_owed(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_messages=2, max_age=10, max_bytes=100_000)
    ready, claimed, delayed = topic.subscribe("ready"), topic.subscribe("claimed"), topic.subscribe("delayed", backoff=[1000])
    topic.publish_many(range(5))
    in_hands = held(claimed)
    for m in held(delayed):
        m.nack()
    for n in range(5, 40):
        topic.publish(n)
    clock.pass_by(100)
    assert (topic.stats().retained, topic.stats().stored) == (0, 40)
    assert got(ready) == list(range(40))
    claimed.ack_many(in_hands)
    assert got(claimed) == list(range(5, 40))
    assert got(delayed) == list(range(5, 40))
    assert topic.stats().stored == 5
    clock.pass_by(1000)
    assert got(delayed) == list(range(5))
    assert topic.stats().stored == 0


def test_limits_take_nothing_that_is_being_replayed(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=700)
    topic.publish_many(range(700))
    sub = topic.subscribe("s", start="earliest")
    assert got(sub, 3) == [0, 1, 2]
    for start in range(700, 1400, 100):
        topic.publish_many(range(start, start + 100))
    assert topic.stats().retained == 700
    assert got(sub) == list(range(3, 1400))
    assert topic.stats().stored == 700


def test_what_is_beyond_the_limits_goes_when_it_is_settled(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=2)
    sub = topic.subscribe("s")
    topic.publish_many(range(6))
    assert topic.stats().stored == 6
    for left in (5, 4, 3, 2, 2, 2):
        got(sub, 1)
        assert topic.stats().stored == left


def test_one_publish_takes_away_a_bounded_number(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=2000)
    topic.publish_many(range(2000))
    topic._engine.topics.configure(topic._state, {"max_messages": 10})  # without taking them away at once
    stored: list[int] = []
    for n in range(5):
        topic.publish(n)
        with topic._engine.log.read() as snapshot:
            stored.append(snapshot.topic_numbers(topic._state.id).retained)
    steps = [before - after for before, after in zip([2000, *stored], stored, strict=False)]
    assert all(0 < step <= 512 for step in steps), steps
    assert topic.stats().retained == 10


def test_configure_changes_the_limits_for_all(shop: Shop) -> None:
    topic, other = shop.topic(retention="limits"), shop.topic()
    topic.publish_many(range(1200))
    other.configure(max_messages=5)
    assert (topic.stats().retained, replayed(topic)) == (5, list(range(1195, 1200)))
    topic.configure(max_messages=None, max_bytes=10_000)
    topic.publish_many(range(10))
    assert topic.stats().retained == 15
    topic = shop.again()
    topic.publish("x" * 9_990)
    assert topic.stats().bytes <= 10_000


def test_configured_limits_are_kept_across_a_reopen(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=3)
    topic.configure(max_messages=5)
    topic = shop.again(max_messages=5)
    topic.publish_many(range(10))
    assert replayed(topic) == [5, 6, 7, 8, 9]
    with pytest.raises(mqlite.SettingsMismatch, match="max_messages"):
        shop.topic(max_messages=3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"retention": "interest"}, TypeError),
        ({"compact": True}, TypeError),
        ({"maxsize": 5}, TypeError),
        ({"codec": "json"}, TypeError),
        ({"colour": 1}, TypeError),
        ({"max_messages": 0}, ValueError),
        ({"max_messages": "1"}, TypeError),
        ({"max_age": -1}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"max_message_bytes": None}, TypeError),
        ({"dedup_window": 0}, ValueError),
        ({"max_messages": 5, "max_age": 0}, ValueError),
    ],
)
def test_a_bad_change_is_told_and_changes_nothing(shop: Shop, changes: dict[str, Any], error: type[Exception]) -> None:
    topic = shop.topic(retention="limits", max_messages=7)
    with pytest.raises(error, match=list(changes)[-1]):
        topic.configure(**changes)
    topic.publish_many(range(10))
    assert topic.stats().retained == 7


def test_an_interest_topic_cannot_be_given_limits(topic: Topic) -> None:
    with pytest.raises(ValueError, match="interest"):
        topic.configure(max_messages=5)
    sub = topic.subscribe("s")
    topic.publish_many(range(10))
    assert got(sub) == list(range(10))


def test_dead_letters_do_not_hold_back_what_the_limits_take(shop: Shop) -> None:
    topic = shop.topic(retention="limits", max_messages=1)
    sub = topic.subscribe("s")
    topic.publish_many(["a", "b", "c"])
    for m in held(sub):
        m.reject()
    assert (topic.stats().stored, sorted(m.body for m in sub.dead.peek(5))) == (1, ["a", "b", "c"])
    assert sub.redrive() == 3
    assert got(sub) == ["a", "b", "c"]
    assert topic.stats().stored == 1


# ---------------------------------------------------------------------- compact
def test_compact_keeps_the_newest_of_each_routing_key_for_replay(shop: Shop) -> None:
    topic = shop.topic(compact=True, retention="limits")
    for n, key in enumerate(["a", "b", "a", "c", "b", "a"]):
        topic.publish(n, key)
    assert (replayed(topic), replayed(topic, pattern="b"), topic.stats().retained, topic.stats().stored) == ([3, 4, 5], [4], 3, 3)


def test_compact_keeps_them_also_with_retention_interest(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    sub = topic.subscribe("s")
    for n, key in enumerate(["a", "b", "a"]):
        topic.publish(n, key)
    assert got(sub) == [0, 1, 2]
    assert (replayed(topic), topic.stats().stored) == ([1, 2], 2)


def test_compact_goes_by_the_replace_key_where_there_is_one(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    topic.publish(1, "x", replace_key="k")
    topic.publish(2, "y", replace_key="k")
    topic.publish(3, "x")
    topic.publish(4, "x")
    assert replayed(topic) == [2, 4]


def test_a_subscription_still_gets_each_message_of_a_compact_topic(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    sub = topic.subscribe("s")
    for n in range(5):
        topic.publish(n, "k")
    assert (topic.stats().retained, topic.stats().stored) == (1, 5)
    assert replayed(topic) == [4]
    assert got(sub) == [0, 1, 2, 3, 4]
    assert topic.stats().stored == 1


def test_the_first_id_is_of_what_can_be_replayed(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    sub = topic.subscribe("s")
    numbers = [topic.publish(n, "k") for n in range(3)]
    assert (topic.stats().first_id, topic.stats().last_id) == (numbers[2], numbers[2])
    got(sub)
    assert topic.stats().first_id == numbers[2]


def test_publish_many_compacts_within_itself(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    topic.publish_many(range(10), "k")
    assert (replayed(topic), topic.stats().retained, topic.stats().stored) == ([9], 1, 1)


def test_what_is_overtaken_during_a_replay_may_come_or_not_but_the_newest_comes(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    for n in range(600):
        topic.publish(n, f"k{n}")
    sub = topic.subscribe("s", start="earliest")
    assert got(sub, 2) == [0, 1]
    topic.publish("new", "k599")
    topic.publish("new", "k5")
    found = got(sub)
    assert found[-2:] == ["new", "new"]
    assert [n for n in found[:-2] if n not in (5, 599)] == [n for n in range(2, 599) if n != 5]
    assert topic.stats().stored == topic.stats().retained == 600


def test_compact_and_limits_hold_together(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(compact=True, retention="limits", max_messages=3, max_age=100)
    for n in range(10):
        topic.publish(n, f"k{n % 5}")
    assert replayed(topic) == [7, 8, 9]
    topic.publish(10, "k2")
    assert replayed(topic) == [8, 9, 10]
    clock.pass_by(101)
    assert topic.stats().retained == 0
    topic.publish(11, "k2")
    assert (replayed(topic), topic.stats().stored) == ([11], 1)


def test_a_compact_topic_can_be_started_at_an_id_that_was_overtaken(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    numbers = [int(topic.publish(n, "a" if n % 2 else "b")) for n in range(6)]
    assert got(topic.subscribe("s", start=numbers[1])) == [4, 5]
    assert got(topic.subscribe("t", start=numbers[5])) == [5]


def test_a_compact_topic_is_the_same_after_a_reopen(shop: Shop) -> None:
    topic = shop.topic(compact=True)
    topic.publish(1, "a")
    topic.publish(2, "b")
    topic = shop.again()
    topic.publish(3, "a")
    assert (replayed(topic), topic.stats().stored) == ([2, 3], 2)


# ---------------------------------------------------------------------- retained messages
def test_a_new_subscription_gets_the_newest_retained_message_of_each_routing_key(topic: Topic) -> None:
    for n, (key, keep) in enumerate([("a.x", True), ("a.y", True), ("b.x", True), ("a.x", True), ("a.x", False), ("c", False)]):
        topic.publish(n, key, retain=keep)
    sub = topic.subscribe("s", "a.*")
    assert [(m.body, m.routing_key) for m in messages(sub)] == [(1, "a.y"), (3, "a.x")]
    topic.publish("after", "a.z")
    assert got(sub) == ["after"]
    assert got(topic.subscribe("again", "#")) == [1, 2, 3]


def test_retained_messages_come_before_all_else_and_once(topic: Topic) -> None:
    topic.publish("kept", "k", retain=True)
    sub = topic.subscribe("s")
    topic.publish("kept too", "k", retain=True)
    assert got(sub) == ["kept", "kept too"]
    assert got(topic.subscribe("s")) == []
    assert got(topic.subscribe("late")) == ["kept too"]


def test_a_retained_message_brings_all_that_was_said_of_it(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    number = topic.publish({"n": 1}, "k", retain=True, headers={"h": 1}, priority=4, type="t", group="g", reply_to="r")
    clock.pass_by(5)
    [m] = messages(topic.subscribe("s"))
    assert (m.id, m.body, m.routing_key, m.headers, m.priority, m.type, m.group, m.reply_to) == (number, {"n": 1}, "k", {"h": 1}, 4, "t", "g", "r")
    assert number > 0


def test_retained_messages_go_by_filter_and_headers(topic: Topic) -> None:
    topic.publish(1, "a", retain=True, type="t", headers={"r": "eu"})
    topic.publish(2, "b", retain=True, type="u", priority=7)
    assert got(topic.subscribe("t", filter={"type": "t"})) == [1]
    assert got(topic.subscribe("p", filter={"priority": (">", 5)})) == [2]
    assert got(topic.subscribe("h", headers={"r": "eu"})) == [1]
    assert got(topic.subscribe("n", filter={"type": "v"})) == []


@pytest.mark.parametrize("start", ["earliest", 1])
def test_retained_messages_are_for_those_that_start_at_latest(shop: Shop, start: Any) -> None:
    topic = shop.topic(retention="limits")
    first = int(topic.publish("kept", "k", retain=True))
    topic.publish("more", "k")
    assert got(topic.subscribe("s", start="earliest" if start == "earliest" else first)) == ["kept", "more"]


def test_retained_shows_what_is_retained(topic: Topic) -> None:
    assert topic.retained() == []
    numbers = [topic.publish(n, key, retain=True, headers={"n": n}, priority=n) for n, key in enumerate(["b", "a.x", "a.y", "b"])]
    found = topic.retained()
    assert [(m.id, m.body, m.routing_key, m.headers, m.priority) for m in found] == [
        (numbers[1], 1, "a.x", {"n": 1}, 1),
        (numbers[2], 2, "a.y", {"n": 2}, 2),
        (numbers[3], 3, "b", {"n": 3}, 3),
    ]
    assert ([m.body for m in topic.retained("a.*")], [m.body for m in topic.retained("x")]) == ([1, 2], [])
    with pytest.raises(mqlite.NotClaimed):
        found[0].ack()
    for bad, error in ((1, TypeError), ("a*", ValueError)):
        with pytest.raises(error):
            topic.retained(bad)


def test_to_clear_a_retained_message_lets_go_of_it(topic: Topic) -> None:
    topic.publish(1, "a", retain=True)
    topic.publish(2, retain=True)
    assert topic.stats().stored == 2
    assert (topic.clear_retained("a"), topic.clear_retained("a"), topic.clear_retained("never"), topic.clear_retained()) == (True, False, False, True)
    assert (topic.retained(), topic.stats().stored, got(topic.subscribe("s"))) == ([], 0, [])
    for bad, error in ((1, TypeError), ("x" * 300, ValueError)):
        with pytest.raises(error):
            topic.clear_retained(bad)


def test_a_newer_retained_message_lets_go_of_the_older_one(topic: Topic) -> None:
    sub = topic.subscribe("s")
    for n in range(5):
        topic.publish(n, "k", retain=True)
    assert topic.stats().stored == 5
    assert got(sub) == [0, 1, 2, 3, 4]
    assert (topic.stats().stored, [m.body for m in topic.retained()]) == (1, [4])


def test_publish_many_retains_the_last(topic: Topic) -> None:
    topic.publish_many(range(5), "k", retain=True)
    assert ([m.body for m in topic.retained()], topic.stats().stored) == ([4], 1)


def test_limits_do_not_take_a_retained_message(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits", max_messages=2, max_age=10)
    topic.publish("kept", "k", retain=True)
    topic.publish_many(range(5))
    clock.pass_by(20)
    assert (topic.stats().retained, topic.stats().stored) == (0, 1)
    assert got(topic.subscribe("s")) == ["kept"]
    topic.clear_retained("k")
    assert topic.stats().stored == 0


def test_retained_messages_are_kept_across_a_reopen(shop: Shop) -> None:
    topic = shop.topic()
    number = topic.publish(1, "k", retain=True)
    topic = shop.again()
    assert [m.id for m in topic.retained()] == [number]
    assert got(topic.subscribe("s")) == [1]
    assert topic.clear_retained("k")


def test_a_retained_message_that_is_delayed_or_expires_is_so_for_new_ones_too(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic()
    topic.publish("late", "a", retain=True, delay=10)
    topic.publish("short", "b", retain=True, ttl=10)
    clock.pass_by(5)
    early = topic.subscribe("early")
    assert got(early) == ["short"]
    clock.pass_by(5)
    assert (got(early), got(topic.subscribe("later"))) == (["late"], ["late"])


def test_a_retained_message_to_a_subscription_with_little_room(topic: Topic) -> None:
    for n in range(5):
        topic.publish(n, f"k{n}", retain=True)
    sub = topic.subscribe("s", maxsize=2, overflow="reject")
    assert got(sub) == [0, 1, 2, 3, 4]
    topic.publish(5)
    assert got(sub) == [5]


# ---------------------------------------------------------------------- stats
def test_stats_count_what_there_is(shop: Shop) -> None:
    topic, queue = shop.topic(), shop.queue()
    empty = topic.stats()
    assert (empty.subscriptions, empty.bindings, empty.published, empty.unroutable, empty.retained, empty.bytes, empty.stored, empty.first_id, empty.last_id) == (0, 0, 0, 0, 0, 0, 0, None, None)
    topic.publish("nobody")
    a = topic.subscribe("a")
    topic.subscribe("b", "k", durable=False)
    topic.bind(queue, "k")
    topic.bind(queue, "l")
    one, two = topic.publish("x" * 1000, "k"), topic.publish("y" * 1000)
    stats = topic.stats()
    assert (stats.subscriptions, stats.bindings, stats.published, stats.unroutable, stats.retained, stats.stored, stats.first_id, stats.last_id) == (2, 2, 2, 1, 2, 2, one, two)
    assert 2000 <= stats.bytes < 2500
    assert len(got(a)) == 2
    assert topic.stats().stored == 1


def test_stats_are_the_same_after_a_reopen_but_for_what_the_process_counts(shop: Shop) -> None:
    topic = shop.topic(retention="limits")
    sub = topic.subscribe("s")
    topic.publish_many(range(5))
    got(sub, 2)
    before = topic.stats()
    assert shop.again().stats() == before


def test_published_counts_what_was_published_in_all(topic: Topic) -> None:
    a, b = topic.subscribe("a"), topic.subscribe("b")
    topic.publish_many(range(7))
    topic.publish(1, dedup_id="x")
    topic.publish(1, dedup_id="x")
    got(a)
    got(b)
    assert (topic.stats().published, topic.stats().stored) == (8, 0)


def test_what_has_expired_is_neither_replayed_nor_given_to_a_new_subscription(timed_shop: Shop, clock: HandClock) -> None:
    topic = timed_shop.topic(retention="limits")
    topic.publish_many(["short", "retained"], "a", ttl=5)
    topic.publish("retained", "b", ttl=5, retain=True)
    topic.publish("long", "a", ttl=50)
    clock.pass_by(5)
    late, new = topic.subscribe("late", start="earliest"), topic.subscribe("new")
    assert got(late) == ["long"]
    assert got(new) == []
    assert (late.stats().dead, new.stats().dead) == (0, 0)
