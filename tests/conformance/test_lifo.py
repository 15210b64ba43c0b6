"""Last in, first out: within a priority, the newest message comes first."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from bounded import BOUNDED
from contents import taken
from fixture_types import MakeQueue
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st

import mqlite


@pytest.fixture
def stack(timed: MakeQueue) -> MakeQueue:
    """stack(**options): a queue that is last in, first out, of a store that goes by `clock`."""
    return functools.partial(timed, order="lifo")


# ---------------------------------------------------------------------- order
def test_the_newest_comes_first(stack: MakeQueue) -> None:
    q = stack()
    for n in range(20):
        q.put(n)
    assert taken(q) == list(reversed(range(20)))


def test_a_higher_priority_comes_before_what_is_newer(stack: MakeQueue) -> None:
    q = stack()
    for n in range(20):
        q.put(n, priority=n % 3)
    assert taken(q) == sorted(range(20), key=lambda n: (n % 3, n), reverse=True)


def test_the_extreme_priorities_are_in_order(stack: MakeQueue) -> None:
    q = stack()
    for priority in (0, -(2**31), 2**31 - 1, -1, 1, 0):
        q.put(priority, priority=priority)
    assert taken(q) == [2**31 - 1, 1, 0, 0, -1, -(2**31)]


def test_a_put_between_two_gets_comes_next(stack: MakeQueue) -> None:
    q = stack()
    q.put_many(["a", "b"])
    first = q.get()
    q.put("c")
    assert [first, *taken(q)] == ["b", "c", "a"]


def test_the_last_of_a_batch_comes_first(stack: MakeQueue) -> None:
    q = stack()
    q.put("before")
    q.put_many([1, 2, 3])
    assert taken(q) == [3, 2, 1, "before"]


def test_the_last_put_of_a_producer_comes_first(stack: MakeQueue) -> None:
    q = stack()
    with q.producer() as producer:
        for n in range(5):
            producer.put(n, priority=n // 3)
    assert taken(q) == [4, 3, 2, 1, 0]


def test_a_batch_is_received_in_that_order(stack: MakeQueue) -> None:
    q = stack()
    q.put_many([1, 2, 3])
    q.put("urgent", priority=1)
    assert [m.body for m in q.receive(3)] == ["urgent", 3, 2]


def test_a_consumer_prefetches_in_that_order_and_what_it_holds_is_not_overtaken(stack: MakeQueue) -> None:
    q = stack()
    q.put_many([1, 2, 3])
    with q.consumer(prefetch=2) as consumer:
        first = consumer.receive(timeout=0)
        q.put(4)
        second = consumer.receive(timeout=0)
        assert (first.body, second.body) == (3, 2)
        q.ack_many([first, second])
        assert consumer.receive(timeout=0).body == 4


@pytest.mark.parametrize("priority", [0, 3])
def test_peek_and_browse_show_the_order_in_which_messages_come(stack: MakeQueue, priority: int) -> None:
    q = stack()
    q.put_many(list(range(400)), priority=priority)  # more than one step of browsing
    q.put("urgent", priority=9)
    [held] = q.receive()
    peeked = [m.body for m in q.peek(500)]
    browsed = [m.body for m in q.browse()]
    held.release()
    expected = list(reversed(range(400)))
    assert (peeked, browsed) == (expected, expected)
    assert taken(q) == ["urgent", *expected]


def test_messages_have_their_own_priority_and_id(stack: MakeQueue) -> None:
    q = stack()
    ids = [q.put(n, priority=n) for n in (-7, 7)]
    assert [(m.id, m.priority) for m in q.peek(2)] == [(ids[1], 7), (ids[0], -7)]
    assert [(m.id, m.priority) for m in q.receive(2)] == [(ids[1], 7), (ids[0], -7)]


# ---------------------------------------------------------------------- what comes back
@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_message_given_back_keeps_its_place(stack: MakeQueue, give_back: Callable[[mqlite.Message], None]) -> None:
    q = stack()
    q.put_many(["oldest", "older"])
    [held] = q.receive()
    q.put("newer")
    give_back(held)
    assert taken(q) == ["newer", "older", "oldest"]


def test_given_back_and_fresh_messages_come_in_one_order(stack: MakeQueue) -> None:
    q = stack()
    q.put_many(list(range(6)))
    messages = q.receive(4)
    for n in (3, 1):
        messages[n].release()
    assert [m.body for m in q.receive(10)] == [4, 2, 1, 0]


def test_what_timed_out_keeps_its_place(stack: MakeQueue, clock: HandClock) -> None:
    q = stack(ack_timeout=10)
    q.put_many([1, 2])
    q.receive()
    clock.pass_by(11)
    q.put(3)
    assert taken(q) == [3, 2, 1]


def test_a_delayed_message_is_the_newest_when_it_is_due(stack: MakeQueue, clock: HandClock) -> None:
    q = stack()
    q.put("later", delay=1)
    q.put("before it is due")
    clock.pass_by(1)
    assert q.qsize() == 2
    q.put("after it was due")
    assert taken(q) == ["after it was due", "later", "before it is due"]


def test_of_two_that_were_due_the_one_that_was_due_later_comes_first(stack: MakeQueue, clock: HandClock) -> None:
    q = stack()
    q.put("second", delay=2)
    q.put("first", delay=1)
    clock.pass_by(3)
    assert taken(q) == ["second", "first"]


def test_a_retry_is_the_newest_when_it_is_due(stack: MakeQueue, clock: HandClock) -> None:
    q = stack()
    q.put_many(["other", "fails"])
    q.receive()[0].nack(delay=1)
    q.put("meanwhile")
    clock.pass_by(1)
    assert [(m.body, m.delivery_count) for m in q.receive(3)] == [("fails", 1), ("meanwhile", 0), ("other", 0)]


def test_a_redriven_message_is_as_if_it_were_new(stack: MakeQueue) -> None:
    q = stack()
    q.put_many(["other", "died"])
    q.receive()[0].reject()
    q.put("meanwhile")
    assert q.redrive() == 1
    assert taken(q) == ["died", "meanwhile", "other"]


# ---------------------------------------------------------------------- by id
def test_an_updated_message_is_the_newest_of_its_priority(stack: MakeQueue) -> None:
    q = stack()
    ids = q.put_many([0, 1, 2])
    assert q.update(ids[0], priority=0)
    assert taken(q) == [0, 2, 1]


def test_a_message_is_raised_and_cancelled_by_its_id(stack: MakeQueue) -> None:
    q = stack()
    ids = q.put_many([0, 1, 2, 3])
    assert q.update(ids[1], priority=5)
    assert q.cancel(ids[2])
    assert not q.cancel(ids[2])
    assert [(m.body, m.priority, m.id) for m in q.receive(4)] == [(1, 5, ids[1]), (3, 0, ids[3]), (0, 0, ids[0])]


# ---------------------------------------------------------------------- settings
def test_a_group_is_refused_and_nothing_is_stored(stack: MakeQueue) -> None:
    q = stack()
    with q.producer() as producer:
        for put in (lambda: q.put(1, group="g"), lambda: q.put_nowait(1, group="g"), lambda: q.put_many([1], group="g"), lambda: producer.put(1, group="g")):
            with pytest.raises(ValueError, match="group"):
                put()
    assert q.qsize() == 0


@pytest.mark.parametrize("options", [{"aging": 5}, {"fair": True}, {"aging": 5, "fair": True}])
def test_it_does_not_go_with_another_order(make_queue: MakeQueue, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lifo"):
        make_queue(order="lifo", **options)


@pytest.mark.parametrize("order", ["fifo", "", None, 1])
def test_a_bad_order_is_told(make_queue: MakeQueue, order: Any) -> None:
    with pytest.raises(ValueError, match="order"):
        make_queue(order=order)


def test_the_order_cannot_be_changed(stack: MakeQueue) -> None:
    with pytest.raises(TypeError, match="order"):
        stack().configure(order="priority")


def test_the_order_survives_a_reopen_and_is_stored(path: str) -> None:
    with mqlite.Queue("q", path, order="lifo") as q:
        q.put_many([1, 2])
        q.put("urgent", priority=1)
        q.receive()
    with pytest.raises(mqlite.SettingsMismatch):
        mqlite.Queue("q", path, order="priority")
    with mqlite.Queue("q", path) as q:
        q.put(3)
        assert taken(q) == ["urgent", 3, 2, 1]
        assert q.check() == []


# ---------------------------------------------------------------------- beside a list
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 3), st.integers(-1, 1)),
        st.tuples(st.just("receive"), st.integers(1, 3), st.just(0)),
        st.tuples(st.sampled_from(["ack", "nack", "release"]), st.integers(0, 9), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.parametrize(("where", "examples"), [("memory", 100), ("disk", 15)])
def test_it_does_what_a_sorted_list_would(where: str, examples: int, path: str) -> None:
    names = itertools.count()

    @settings(BOUNDED, max_examples=examples)
    @given(STEPS)
    def check(steps: list[tuple[str, int, int]]) -> None:
        with mqlite.Queue(f"q{next(names)}", path if where == "disk" else None, order="lifo", max_deliveries=None) as q:
            ready: list[tuple[int, int]] = []  # (priority, id)
            held: list[mqlite.Message] = []
            for word, number, priority in steps:
                if word == "put":
                    ready += [(priority, id) for id in q.put_many([0] * number, priority=priority)]
                elif word == "receive":
                    expected = sorted(ready, reverse=True)[:number]
                    messages = q.receive(number, timeout=0) if expected else []
                    assert [(m.priority, m.id) for m in messages] == expected
                    ready = [entry for entry in ready if entry not in expected]
                    held += messages
                elif held:
                    message = held.pop(number % len(held))
                    getattr(message, word)()
                    if word != "ack":
                        ready.append((message.priority, message.id))
                assert [(m.priority, m.id) for m in q.browse()] == sorted(ready, reverse=True)
            assert q.check() == []

    with mqlite.Queue("kept open", path if where == "disk" else None):
        check()
