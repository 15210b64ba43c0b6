"""A topic in a store that is full: nothing is stored in part, all can still be taken, and what is taken makes room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from topic_things import got, held

import mqlite

SMALL = 16 << 20
Topic = mqlite.Topic[Any]


@pytest.fixture
def small(path: str) -> Iterator[Topic]:
    """A topic of a small store."""
    with mqlite.Topic[Any]("events", path, max_store_bytes=SMALL) as topic:
        yield topic
        assert topic.check() == []


@pytest.fixture
def keeping(path: str) -> Iterator[Topic]:
    """The same, and it keeps everything."""
    with mqlite.Topic[Any]("events", path, max_store_bytes=SMALL, retention="limits") as topic:
        yield topic
        assert topic.check() == []


def fill(topic: Topic, size: int = 100_000, **options: Any) -> int:
    """Publish until nothing goes in any more; how many went."""
    count = 0
    while size > 10:
        try:
            topic.publish("x" * size, **options)
            count += 1
        except mqlite.StoreFull:
            size //= 10
    return count


def test_a_full_store_refuses_a_publish_for_all(small: Topic) -> None:
    a, b = small.subscribe("a"), small.subscribe("b")
    count = fill(small)
    assert count > 50
    for refused in (lambda: small.publish("y" * 100_000), lambda: small.publish_many(["y" * 50_000] * 4), lambda: small.publish("y" * 100_000, retain=True, dedup_id="d")):
        with pytest.raises(mqlite.StoreFull):
            refused()
    assert (a.stats().lag, b.stats().lag, small.stats().stored, small.retained()) == (count, count, count, [])


def test_a_body_is_stored_once_for_many(small: Topic) -> None:
    for n in range(50):
        small.subscribe(f"s{n}")
    for _ in range(20):
        small.publish("x" * 100_000)
    assert small.stats().bytes < 20 * 101_000


def test_all_can_be_taken_from_a_full_store_and_that_makes_room(small: Topic) -> None:
    a, b = small.subscribe("a"), small.subscribe("b")
    count = fill(small)
    assert len(got(a)) == count
    assert len(got(b)) == count
    assert small.stats().stored == 0
    again = fill(small)
    assert again >= count * 0.8


def test_dead_letters_find_room_in_a_full_store_or_the_message_stays(small: Topic) -> None:
    a, b = small.subscribe("a", max_deliveries=1), small.subscribe("b")
    count = fill(small)
    rejected = 0
    for message in held(a):
        try:
            message.reject()
            rejected += 1
        except mqlite.StoreFull:
            message.release()
    assert a.stats().dead == rejected
    assert len(got(a)) == count - rejected
    assert len(got(b)) == count
    assert len(got(a.dead)) == rejected


def test_a_subscription_can_be_removed_from_a_full_store(small: Topic) -> None:
    for name in "abc":
        small.subscribe(name)
    fill(small)
    for name in "abc":
        assert small.unsubscribe(name)
    assert (small.subscriptions(), small.stats().stored) == ([], 0)
    assert fill(small.subscribe("again") and small) > 50


def test_a_subscription_can_seek_in_a_full_store(keeping: Topic) -> None:
    sub = keeping.subscribe("s")
    count = fill(keeping)
    sub.seek("latest")
    assert got(sub) == []
    sub.seek("earliest")
    assert len(got(sub)) == count


def test_a_replay_in_a_full_store_goes_on_as_it_is_taken(keeping: Topic) -> None:
    sub = keeping.subscribe("s")
    count = fill(keeping)
    assert len(got(sub)) == count
    for n in range(3):
        try:
            late = keeping.subscribe(f"late {n}", start="earliest")
        except mqlite.StoreFull:
            break
        assert len(got(late)) == count


def test_limits_make_room_in_a_full_store(keeping: Topic) -> None:
    fill(keeping)
    keeping.configure(max_messages=5)
    assert keeping.stats().stored == 5
    for n in range(300):
        keeping.publish(str(n) * 20_000)
    assert keeping.stats().stored == 5


def test_in_a_full_store_retained_messages_and_wills_are_refused_whole(small: Topic) -> None:
    small.subscribe("s")
    before = small.publish("x", "k", retain=True)
    fill(small)
    with pytest.raises(mqlite.StoreFull):
        small.publish("y" * 100_000, "k", retain=True)
    assert [message.id for message in small.retained()] == [before]
    with pytest.raises(mqlite.StoreFull):
        small.will("y" * 100_000)
    assert small.clear_retained("k")
