"""A rate limit hands out so many messages and not one more, over all handles; the rest wait for their slots."""

from __future__ import annotations

import time
from typing import Any

import pytest
from contents import taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import SECOND, HandClock, timed_queue
from hypothesis import given, note, settings
from hypothesis import strategies as st

import mqlite

GUARD = 60.0


# ---------------------------------------------------------------------- a number
def test_a_number_spaces_messages_evenly(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=4)
    q.put_many(list(range(10)))
    assert taken(q) == [0]
    clock.pass_by(0.2499)
    assert taken(q) == []
    clock.pass_by(0.0001)
    assert taken(q) == [1]
    clock.pass_by(0.25)
    assert taken(q) == [2]


def test_a_number_saves_nothing_up(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=10)
    q.put_many(list(range(10)))
    clock.pass_by(3600)
    assert taken(q) == [0]
    clock.pass_by(0.1)
    assert taken(q) == [1]


def test_a_number_below_one_is_less_than_one_per_second(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=0.1)
    q.put_many([0, 1])
    assert taken(q) == [0]
    clock.pass_by(9.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == [1]


@pytest.mark.parametrize("rate", [3, 7, 9.7, 1e9, 1e-9])
def test_odd_rates_let_one_go_and_no_second_at_the_same_moment(timed: MakeQueue, clock: HandClock, rate: float) -> None:
    q = timed(rate=rate)
    q.put_many([0, 1, 2])
    assert taken(q) == [0]
    clock.pass_by(1 / rate + 1e-9)
    assert taken(q) == [1]


# ---------------------------------------------------------------------- (count, seconds)
def test_a_pair_lets_so_many_go_at_once_and_refills_as_time_passes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=(5, 10))
    q.put_many(list(range(100)))
    assert taken(q) == [0, 1, 2, 3, 4]
    clock.pass_by(1.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == [5]
    clock.pass_by(6)
    assert taken(q) == [6, 7, 8]
    clock.pass_by(1000)
    assert taken(q) == [9, 10, 11, 12, 13]  # never more than count saved up


def test_a_receive_of_many_gets_as_many_as_may_go(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=(3, 3))
    q.put_many(list(range(10)))
    assert [message.body for message in q.receive(10, timeout=0)] == [0, 1, 2]
    with pytest.raises(mqlite.Empty):
        q.receive(10, timeout=0)
    clock.pass_by(2)
    assert [message.body for message in q.receive(10, timeout=0)] == [3, 4]


def test_a_consumer_prefetches_no_more_than_may_go(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=(3, 3))
    q.put_many(list(range(10)))
    with q.consumer(prefetch=5) as consumer:
        found = [consumer.receive(timeout=0).body for _ in range(3)]
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        assert (found, q.stats().claimed) == ([0, 1, 2], 3)
        clock.pass_by(1)
        assert consumer.receive(timeout=0).body == 3


def test_auto_ack_counts_too(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=(2, 2))
    q.put_many(list(range(10)))
    with q.consumer(auto_ack=True) as consumer:
        assert [consumer.receive(timeout=0).body for _ in range(2)] == [0, 1]
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)


def test_two_handles_share_one_rate(timed: MakeQueue, clock: HandClock) -> None:
    one = timed(rate=(4, 4))
    other = timed()
    one.put_many(list(range(20)))
    assert (taken(one, 3), taken(other), taken(one)) == ([0, 1, 2], [3], [])
    clock.pass_by(2)
    assert (taken(other, 1), taken(one), taken(other)) == ([4], [5], [])


def test_every_queue_has_a_rate_of_its_own(timed: MakeQueue, clock: HandClock) -> None:
    one, other, free = timed("one", rate=1), timed("other", rate=1), timed("free")
    for q in (one, other, free):
        q.put_many([0, 1, 2])
    assert (taken(one), taken(other), taken(free)) == ([0], [0], [0, 1, 2])


def test_redeliveries_count(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put_many(["a", "b"])
    [message] = q.receive(timeout=0)
    message.nack()
    assert taken(q) == []
    clock.pass_by(1)
    [message] = q.receive(timeout=0)
    assert (message.body, message.delivery_count) == ("a", 1)
    message.release()
    assert taken(q) == []
    clock.pass_by(1)
    assert taken(q) == ["a"]


def test_priority_and_order_hold_under_a_rate(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put("low", priority=-1)
    q.put("first")
    q.put("second")
    assert taken(q) == ["first"]
    q.put("high", priority=1)
    found = []
    for _ in range(3):
        clock.pass_by(1)
        found += taken(q)
    assert found == ["high", "second", "low"]


def test_looking_at_an_empty_queue_uses_nothing_up(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    for _ in range(5):
        assert taken(q) == []
    q.put("x")
    assert taken(q) == ["x"]


def test_what_is_moved_or_removed_by_the_queue_itself_does_not_count(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    ids = q.put_many(list(range(10)))
    assert q.cancel(ids[0])
    assert q.update(ids[1], priority=-1)
    assert [message.body for message in q.peek(3)] == [2, 3, 4]
    q.configure(maxsize=9, overflow="drop_oldest")
    q.put("new")
    assert taken(q) == [3]
    assert q.purge() == 8


def test_dead_letters_are_not_limited(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=(5, 1000))
    q.put_many(list(range(5)))
    for message in q.receive(5, timeout=0):
        message.reject()
    assert (taken(q.dead, 2), q.redrive()) == ([0, 1], 3)
    assert taken(q) == []


def test_what_has_expired_uses_no_slot(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put("expires", ttl=5)
    q.put("lives")
    clock.pass_by(5)
    assert taken(q) == ["lives"]


def test_delayed_messages_wait_for_their_time_and_for_their_slot(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put_many([0, 1, 2], delay=10)
    assert taken(q) == []
    clock.pass_by(10)
    assert taken(q) == [0]
    clock.pass_by(1)
    assert taken(q) == [1]


def test_setting_the_wall_clock_changes_nothing(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put_many([0, 1, 2])
    assert taken(q) == [0]
    clock.set_wall(3600)
    assert taken(q) == []
    clock.set_wall(-7200)
    clock.monotonic += SECOND
    assert taken(q) == [1]


# ---------------------------------------------------------------------- changed while running
def test_a_rate_can_be_set_and_lifted_at_run_time(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    other = timed()
    q.put_many(list(range(10)))
    assert taken(q, 2) == [0, 1]
    q.configure(rate=(2, 2))
    assert (taken(other), taken(q)) == ([2, 3], [])
    other.configure(rate=None)
    assert taken(q) == [4, 5, 6, 7, 8, 9]


def test_a_faster_rate_holds_at_once(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=0.001)
    q.put_many([0, 1, 2, 3])
    assert taken(q) == [0]
    q.configure(rate=10)
    clock.pass_by(0.1)
    assert taken(q) == [1]
    clock.pass_by(0.1)
    assert taken(q) == [2]


def test_a_slower_rate_holds_from_the_next_message_on(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=10)
    q.put_many([0, 1, 2, 3])
    assert taken(q) == [0]
    q.configure(rate=0.1)
    clock.pass_by(0.1)
    assert len(taken(q)) <= 1
    clock.pass_by(9.9)
    assert len(taken(q)) <= 1


def test_who_waits_for_a_slot_gets_a_message_when_the_rate_is_lifted(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(rate=0.0001)
    q.put_many([0, 1])
    assert q.get(timeout=0) == 0
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.configure(rate=None)
    assert waiting.result(GUARD) == 1


def test_who_waits_for_a_slot_gets_it_sooner_when_the_rate_becomes_faster(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(rate=0.0001)
    q.put_many([0, 1])
    assert q.get(timeout=0) == 0
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.configure(rate=100)
    assert waiting.result(GUARD) == 1


# ---------------------------------------------------------------------- waiting
def test_a_consumer_that_waits_is_woken_for_the_next_slot(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(rate=20)
    q.put_many(list(range(5)))
    start = time.monotonic()
    found = [q.get(timeout=GUARD) for _ in range(5)]
    assert found == [0, 1, 2, 3, 4]
    assert time.monotonic() - start >= 4 / 20  # never faster; how much slower is the machine's affair


def test_all_who_wait_get_their_slots(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(rate=(2, 0.2))
    waiting = [in_thread(q.get, timeout=GUARD) for _ in range(6)]
    until_waiting(q, n=6)
    q.put_many(list(range(6)))
    assert sorted(future.result(GUARD) for future in waiting) == list(range(6))


def test_a_put_after_the_slot_is_free_wakes_who_waits(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(rate=1000)
    for number in range(5):
        waiting = in_thread(q.get, timeout=GUARD)
        until_waiting(q)
        q.put(number)
        assert waiting.result(GUARD) == number


def test_a_wait_with_a_timeout_ends_where_the_slot_comes_later(make_queue: MakeQueue) -> None:
    q = make_queue(rate=0.001)
    q.put_many([0, 1])
    assert q.get(timeout=0) == 0
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0.05)
    assert len(q) == 1


def test_a_queue_that_was_shut_down_hands_out_the_rest_at_its_rate(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(rate=1)
    q.put_many([0, 1])
    q.shutdown()
    assert q.get(timeout=0) == 0
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)
    clock.pass_by(1)
    assert q.get(timeout=0) == 1
    with pytest.raises(mqlite.ShutDown):
        q.get(timeout=0)


def test_a_consumer_iterates_over_the_rest_after_shutdown(make_queue: MakeQueue) -> None:
    q = make_queue(rate=50)
    q.put_many([0, 1, 2])
    q.shutdown()
    found = []
    with q.consumer() as consumer:
        for message in consumer:
            found.append(message.body)
            message.ack()
    assert found == [0, 1, 2]


# ---------------------------------------------------------------------- stored
@pytest.mark.parametrize("rate", [5, 0.5, (10, 60), (10, 0.25)])
def test_a_rate_is_stored_with_the_queue(path: str, rate: Any) -> None:
    with mqlite.Queue[Any]("q", path, rate=rate):
        pass
    with mqlite.Queue[Any]("q", path, rate=rate):
        pass
    with pytest.raises(mqlite.SettingsMismatch, match="rate"):
        mqlite.Queue("q", path, rate=7)


def test_a_rate_goes_on_over_closing_and_opening(path: str) -> None:
    clock = HandClock()
    with timed_queue(path, clock, rate=1) as q:
        q.put_many([0, 1, 2])
        assert taken(q) == [0]
    with timed_queue(path, clock) as q:
        assert len(taken(q)) == 0
        clock.pass_by(1)
        assert taken(q) == [1]


# ---------------------------------------------------------------------- against a bucket of tokens
class Bucket:
    """Tokens as whole nanoseconds of refill: one message costs `interval`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.interval = max(1, round(seconds * SECOND / count))
        self.capacity = count * self.interval
        self.level = self.capacity

    def pass_by(self, ns: int) -> None:
        self.level = min(self.capacity, self.level + ns)

    def take(self, most: int) -> int:
        count = min(most, self.level // self.interval)
        self.level -= count * self.interval
        return count


steps = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 8)), max_size=25)
rates = st.one_of(
    st.floats(0.05, 1000, allow_nan=False),
    st.tuples(st.integers(1, 7), st.floats(0.001, 20, allow_nan=False)),
)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(rates, steps)
def test_at_each_moment_exactly_what_a_token_bucket_allows_is_handed_out(rate: Any, steps: list[tuple[int, int]]) -> None:
    clock = HandClock()
    bucket = Bucket(*rate) if isinstance(rate, tuple) else Bucket(1, 1 / rate)
    with timed_queue(None, clock, rate=rate) as q:
        q.put_many(list(range(8 * 25)))
        for number, (ns, most) in enumerate(steps):
            clock.monotonic += ns
            bucket.pass_by(ns)
            note(f"step {number}: {ns} ns later, up to {most}")
            allowed = bucket.take(most)
            try:
                found = len(q.receive(most, timeout=0))
            except mqlite.Empty:
                found = 0
            assert found == allowed
