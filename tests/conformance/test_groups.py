"""Groups: so many of a group in flight at a time, in order; all other groups in parallel."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bounded import BOUNDED
from contents import put_all, worked_off
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import SECOND, HandClock, timed_queue
from hypothesis import given, settings
from hypothesis import strategies as st

import mqlite
from mqlite.engine.groups import Turnstile

GUARD = 60.0


def take(queue: mqlite.Queue[Any], count: int = 1) -> list[mqlite.Message]:
    """Up to `count` messages that can be claimed now, each by a claim of its own."""
    found: list[mqlite.Message] = []
    while len(found) < count:
        try:
            found += queue.receive(timeout=0)
        except mqlite.Empty:
            break
    return found


def bodies(messages: list[mqlite.Message]) -> list[Any]:
    return [message.body for message in messages]


# ---------------------------------------------------------------------- one in flight
def test_one_of_a_group_is_in_flight_and_the_next_follows_its_ack(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "a3")
    for expected in ("a1", "a2", "a3"):
        messages = take(q, 9)
        assert bodies(messages) == [expected]
        messages[0].ack()
    assert take(q) == []


def test_other_groups_and_messages_without_one_go_in_parallel(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "b1", "-1", "a3", "b2", "-2")
    assert bodies(take(q, 9)) == ["a1", "b1", "-1", "-2"]


def test_a_batch_has_one_of_each_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "b1", "-1", "a3", "b2", "-2")
    assert bodies(q.receive(9)) == ["a1", "b1", "-1", "-2"]


def test_a_batch_passes_over_a_busy_group_and_takes_as_many_as_asked(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "a3", "-1", "-2", "-3")
    assert bodies(q.receive(2)) == ["a1", "-1"]
    assert bodies(q.receive(1)) == ["-2"]
    assert bodies(q.receive(2)) == ["-3"]


def test_a_consumer_prefetches_one_of_each_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "b1", "b2")
    with q.consumer(prefetch=10) as consumer:
        a1, b1 = (consumer.receive(timeout=0) for _ in range(2))
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        b1.ack()
        b2 = consumer.receive(timeout=0)
        assert bodies([a1, b1, b2]) == ["a1", "b1", "b2"]
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)


def test_what_a_closed_consumer_had_buffered_is_the_head_of_its_group_again(q: mqlite.Queue[Any]) -> None:
    put_all(q, "b1", "a1", "a2")
    with q.consumer(prefetch=10) as consumer:
        assert consumer.receive(timeout=0).body == "b1"
        assert take(q) == []  # a1 waits in its buffer
    assert worked_off(q) == ["b1", "a1", "a2"]


def test_auto_ack_and_get_take_a_group_in_order(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "a3", "a4", "-1")
    with q.consumer(prefetch=3, auto_ack=True) as consumer:
        assert [consumer.receive(timeout=0).body for _ in range(2)] == ["a1", "-1"]
        assert consumer.receive(timeout=0).body == "a2"
    assert [q.get(timeout=0) for _ in range(2)] == ["a3", "a4"]


def test_get_does_not_take_from_a_busy_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "-1")
    [a1] = take(q)
    assert q.get(timeout=0) == "-1"
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)
    a1.ack()
    assert q.get(timeout=0) == "a2"


def test_messages_know_their_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "-1")
    assert [m.group for m in q.peek(2)] == ["a", None]
    assert [m.group for m in q.receive(2)] == ["a", None]


def test_put_many_and_producers_put_into_groups(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2], group="a")
    with q.producer() as producer:
        producer.put(3, group="a")
        producer.put(4, group="b")
    assert bodies(q.receive(9)) == [1, 4]
    assert {m.body: m.group for m in q.browse()} == {2: "a", 3: "a"}


def test_any_text_is_a_group_of_its_own(q: mqlite.Queue[Any]) -> None:
    names = ["a", "A", "a ", "ä", "*", "\x00", "\ud800", "x" * 100_000, "0"]
    for name in names:
        q.put(name, group=name)
    assert [m.group for m in q.receive(20)] == names


@pytest.mark.parametrize(("group", "error"), [("", ValueError), (1, TypeError), (b"g", TypeError), (True, TypeError)])
def test_a_bad_group_is_told_and_stores_nothing(q: mqlite.Queue[Any], group: Any, error: type[Exception]) -> None:
    for put in (lambda: q.put(1, group=group), lambda: q.put_many([1], group=group), lambda: q.producer().put(1, group=group)):
        with pytest.raises(error, match="group"):
            put()
    assert q.qsize() == 0


def test_groups_of_two_queues_have_nothing_to_do_with_each_other(backend: str, path: str) -> None:
    with mqlite.open(path if backend == "disk" else None) as broker:
        one, other = broker.queue("one"), broker.queue("other")
        put_all(one, "a1")
        put_all(other, "a1", "a2")
        assert (bodies(take(one, 5)), bodies(take(other, 5))) == (["a1"], ["a1"])
        assert one.check() == []


def test_a_busy_group_counts_as_ready_and_for_maxsize(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3)
    put_all(q, "a1", "a2", "a3")
    take(q)
    stats = q.stats()
    assert (stats.ready, stats.claimed, q.qsize(), q.unfinished_tasks) == (2, 1, 2, 3)
    with pytest.raises(mqlite.Full):
        q.put("a4", group="a", timeout=0)


def test_peek_shows_what_can_be_claimed_in_the_order_of_claims(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "b1", "-1")
    q.put("b2", group="b", priority=1)
    peeked = [m.id for m in q.peek(9)]
    assert [m.id for m in q.receive(len(peeked))] == peeked


def test_browse_shows_all_that_nobody_holds(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "a3", "-1")
    take(q)
    assert [m.body for m in q.browse()] == ["a2", "a3", "-1"]


# ---------------------------------------------------------------------- order in a group
def test_a_group_is_in_order_of_priority_and_then_of_puts(q: mqlite.Queue[Any]) -> None:
    for n, priority in enumerate([0, 2, 0, -1, 2, 1]):
        q.put((n, priority).__repr__(), group="a", priority=priority)
    assert worked_off(q) == ["(1, 2)", "(4, 2)", "(5, 1)", "(0, 0)", "(2, 0)", "(3, -1)"]


def test_a_more_urgent_one_goes_before_a_first_that_nobody_has_claimed(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2")
    q.put("urgent", group="a", priority=1)
    assert bodies(take(q, 9)) == ["urgent"]


def test_a_more_urgent_one_waits_for_a_first_that_is_claimed(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2")
    [a1] = take(q)
    q.put("urgent", group="a", priority=1)
    assert take(q) == []
    a1.ack()
    assert worked_off(q) == ["urgent", "a2"]


@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_more_urgent_one_goes_before_a_first_that_came_back(q: mqlite.Queue[Any], give_back: Callable[[mqlite.Message], None]) -> None:
    put_all(q, "a1", "a2")
    [a1] = take(q)
    q.put("urgent", group="a", priority=1)
    give_back(a1)
    assert worked_off(q) == ["urgent", "a1", "a2"]


def test_a_group_that_was_passed_over_goes_on_after_a_more_urgent_one(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "-1")
    q.put("urgent", group="a", priority=1)
    [urgent, ungrouped] = q.receive(9)
    assert (urgent.body, ungrouped.body) == ("urgent", "-1")
    urgent.ack()
    assert worked_off(q) == ["a1", "a2"]


# ---------------------------------------------------------------------- what frees a group, and what does not
@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_message_given_back_at_once_is_the_first_of_its_group_again(q: mqlite.Queue[Any], give_back: Callable[[mqlite.Message], None]) -> None:
    put_all(q, "a1", "a2", "-1")
    [a1] = take(q)
    assert bodies(take(q, 9)) == ["-1"]
    give_back(a1)
    assert worked_off(q) == ["a1", "a2"]


def test_a_message_that_waits_for_its_retry_holds_up_its_group_and_no_other(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    put_all(q, "a1", "a2", "b1", "-1")
    take(q)[0].nack(delay=10)
    assert worked_off(q) == ["b1", "-1"]
    put_all(q, "a3")
    clock.pass_by(9.999)
    assert take(q) == []
    clock.pass_by(0.001)
    assert worked_off(q) == ["a1", "a2", "a3"]


def test_so_does_one_that_waits_for_its_backoff(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=[5], max_deliveries=3)
    put_all(q, "a1", "a2")
    for _ in range(2):
        take(q)[0].nack()
        assert take(q) == []
        clock.pass_by(5)
    take(q)[0].nack()  # the last time
    assert (bodies(q.dead.peek(5)), worked_off(q)) == (["a1"], ["a2"])


def test_a_more_urgent_one_is_not_held_up_by_a_less_urgent_one_that_waits_for_its_retry(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    put_all(q, "a1", "a2")
    take(q)[0].nack(delay=10)
    q.put("urgent", group="a", priority=1)
    assert worked_off(q) == ["urgent"]
    clock.pass_by(10)
    assert worked_off(q) == ["a1", "a2"]


def test_a_group_that_waits_for_a_retry_is_held_up_across_a_reopen(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock) as q:
        put_all(q, "a1", "a2", "b1")
        take(q)[0].nack(delay=10)
    with timed_queue(path, clock) as q:
        assert worked_off(q) == ["b1"]
        clock.pass_by(10)
        assert worked_off(q) == ["a1", "a2"]
        assert q.check() == []


def test_a_rejected_one_frees_its_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2")
    [a1] = take(q)
    assert take(q) == []
    a1.reject()
    assert worked_off(q) == ["a2"]


def test_a_dead_one_frees_its_group(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=2)
    put_all(q, "a1", "a2")
    for _ in range(2):
        [a1] = take(q)
        assert (a1.body, take(q)) == ("a1", [])
        a1.nack()
    assert worked_off(q) == ["a2"]
    assert bodies(q.dead.peek(5)) == ["a1"]


def test_a_dead_one_that_is_dropped_frees_its_group(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=1, dead_letter=False)
    put_all(q, "a1", "a2")
    [a1] = take(q)
    assert take(q) == []
    a1.nack()
    assert worked_off(q) == ["a2"]


def test_a_claim_that_times_out_frees_its_group_for_the_same_message(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ack_timeout=10)
    put_all(q, "a1", "a2")
    [hung] = take(q)
    assert take(q) == []
    clock.pass_by(11)
    assert [(m.body, m.delivery_count) for m in take(q, 9)] == [("a1", 1)]
    with pytest.raises(mqlite.LeaseLost):
        hung.ack()
    assert take(q) == []


def test_a_claim_that_times_out_for_the_last_time_frees_its_group(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ack_timeout=10, max_deliveries=1)
    put_all(q, "a1", "a2")
    take(q)
    clock.pass_by(11)
    assert worked_off(q) == ["a2"]
    assert bodies(q.dead.peek(5)) == ["a1"]


def test_a_first_that_expires_frees_its_group(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("urgent", group="a", priority=1, ttl=5)
    put_all(q, "a1", "a2", "-1")
    [urgent, _] = q.receive(9)
    urgent.release()
    clock.pass_by(6)
    assert worked_off(q) == ["a1", "a2"]
    assert [(m.body, m.death.reason) for m in q.dead.peek(5) if m.death] == [("urgent", "expired")]


def test_a_first_that_is_held_expires_when_it_is_given_back_and_frees_its_group(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("a1", group="a", ttl=5)
    put_all(q, "a2")
    [a1] = take(q)
    clock.pass_by(6)
    assert take(q) == []
    a1.nack()
    assert worked_off(q) == ["a2"]
    assert bodies(q.dead.peek(5)) == ["a1"]


def test_a_retry_that_expires_while_it_waits_frees_its_group(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("a1", group="a", ttl=5)
    put_all(q, "a2")
    take(q)[0].nack(delay=100)
    assert take(q) == []
    clock.pass_by(6)
    assert worked_off(q) == ["a2"]


def test_one_in_the_middle_that_expires_is_left_out(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(expired="drop")
    put_all(q, "a1")
    q.put("a2", group="a", ttl=5)
    put_all(q, "a3")
    [a1] = take(q)
    assert take(q) == []
    clock.pass_by(6)
    assert q.qsize() == 1
    a1.ack()
    assert worked_off(q) == ["a3"]


def test_a_cancelled_first_frees_its_group(q: mqlite.Queue[Any]) -> None:
    ids = put_all(q, "a1", "a2", "-1")
    number = q.put("urgent", group="a", priority=1)
    [urgent, _] = q.receive(9)
    urgent.release()
    assert q.cancel(number)
    assert q.cancel(ids[0])
    assert worked_off(q) == ["a2"]


def test_a_cancelled_one_in_the_middle_is_left_out(q: mqlite.Queue[Any]) -> None:
    ids = put_all(q, "a1", "a2", "a3")
    [a1] = take(q)
    assert take(q) == []
    assert q.cancel(ids[1])
    with pytest.raises(mqlite.AlreadyClaimed):
        q.cancel(ids[0])
    assert take(q) == []
    a1.ack()
    assert worked_off(q) == ["a3"]


def test_a_cancelled_retry_frees_its_group(timed: MakeQueue) -> None:
    q = timed()
    ids = put_all(q, "a1", "a2")
    take(q)[0].nack(delay=100)
    assert take(q) == []
    assert q.cancel(ids[0])
    assert worked_off(q) == ["a2"]


def test_a_retry_that_is_made_ready_by_its_id_is_the_first_of_its_group(timed: MakeQueue) -> None:
    q = timed()
    ids = put_all(q, "a1", "a2")
    take(q)[0].nack(delay=100)
    assert q.update(ids[0], delay=0)
    assert worked_off(q) == ["a1", "a2"]


def test_a_first_whose_priority_is_lowered_lets_the_next_go_first(q: mqlite.Queue[Any]) -> None:
    ids = put_all(q, "a1", "a2", "a3", "-1")
    [a1, _] = q.receive(9)
    a1.release()
    assert q.update(ids[0], priority=-1)
    assert worked_off(q) == ["a2", "a3", "a1"]


def test_one_whose_priority_is_raised_becomes_the_first(q: mqlite.Queue[Any]) -> None:
    ids = put_all(q, "a1", "a2", "a3")
    [a1] = take(q)
    assert take(q) == []
    assert q.update(ids[2], priority=5)
    assert take(q) == []
    a1.release()
    assert worked_off(q) == ["a3", "a1", "a2"]


def test_a_first_that_is_put_off_lets_the_next_go_first(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    ids = put_all(q, "a1", "a2", "a3")
    assert q.update(ids[0], delay=10)
    [a2] = take(q, 9)
    assert a2.body == "a2"
    a2.ack()
    clock.pass_by(10)
    assert worked_off(q) == ["a3", "a1"]  # it lined up when it was due


def test_purge_leaves_what_is_held_and_the_group_goes_on(timed: MakeQueue) -> None:
    q = timed()
    put_all(q, "a1", "a2", "a3", "b1", "b2")
    [a1, b1] = q.receive(9)
    b1.nack(delay=100)
    assert q.purge() == 4  # the retry, too
    put_all(q, "a4", "b3")
    assert bodies(take(q, 9)) == ["b3"]
    a1.ack()
    assert worked_off(q) == ["a4"]


def test_purge_removes_what_claimers_have_passed_over(q: mqlite.Queue[Any]) -> None:
    put_all(q, *(f"a{n}" for n in range(600)))
    [a0] = take(q)
    assert take(q) == []
    assert q.purge() == 599
    a0.ack()
    assert (q.qsize(), q.unfinished_tasks) == (0, 0)


def test_the_first_of_a_busy_group_can_be_dropped_for_a_new_message(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    put_all(q, "a1", "a2", "a3")
    [a1] = take(q)
    assert take(q) == []
    put_all(q, "-1")
    assert [m.body for m in q.browse()] == ["a3", "-1"]
    a1.ack()
    assert worked_off(q) == ["a3", "-1"]


def test_one_that_was_put_with_a_delay_joins_its_group_when_it_is_due(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("delayed", group="a", delay=10, priority=1)
    put_all(q, "a1", "a2")
    [a1] = take(q, 9)
    assert a1.body == "a1"
    clock.pass_by(10)
    assert take(q) == []
    a1.ack()
    assert worked_off(q) == ["delayed", "a2"]


def test_the_last_of_a_group_leaves_nothing_behind(q: mqlite.Queue[Any]) -> None:
    for _ in range(3):
        put_all(q, "a1", "a2")
        assert worked_off(q) == ["a1", "a2"]


# ---------------------------------------------------------------------- dead letters
def test_dead_letters_are_not_grouped(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "a3")
    for _ in range(3):
        take(q)[0].reject()
    assert [(m.body, m.group) for m in q.dead.receive(5)] == [("a1", "a"), ("a2", "a"), ("a3", "a")]


def test_redriven_messages_are_in_their_group_again(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2", "b1")
    for _ in range(3):
        take(q)[0].reject()
    assert q.redrive() == 3
    messages = take(q, 9)
    assert [(m.body, m.group) for m in messages] == [("a1", "a"), ("b1", "b")]
    messages[0].ack()
    assert bodies(take(q, 9)) == ["a2"]


def test_a_redriven_message_does_not_enter_a_busy_group(q: mqlite.Queue[Any]) -> None:
    put_all(q, "a1", "a2")
    take(q)[0].reject()
    [a2] = take(q)
    assert q.redrive() == 1
    assert take(q) == []
    a2.ack()
    assert worked_off(q) == ["a1"]


def test_messages_redriven_at_a_rate_are_in_their_group_when_they_are_due(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    put_all(q, "a1", "a2")
    for _ in range(2):
        take(q)[0].reject()
    assert q.redrive(rate=0.1) == 2
    assert worked_off(q) == ["a1"]
    put_all(q, "a3")
    [a3] = take(q)
    clock.pass_by(10)
    assert take(q) == []
    a3.ack()
    assert worked_off(q) == ["a2"]


# ---------------------------------------------------------------------- more than one in flight
def test_a_limit_of_a_group_lets_so_many_go_at_once(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"a": 2})
    put_all(q, "a1", "a2", "a3", "b1", "b2")
    messages = q.receive(9)
    assert bodies(messages) == ["a1", "a2", "b1"]
    messages[1].ack()
    assert bodies(take(q, 9)) == ["a3"]


def test_a_star_is_for_all_groups_that_are_not_named(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"a": 1, "*": 3})
    put_all(q, *(f"{group}{n}" for n in range(5) for group in "abc"))
    assert Counter(m.group for m in q.receive(99)) == {"a": 1, "b": 3, "c": 3}


def test_messages_without_a_group_have_no_limit(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"*": 1})
    q.put_many(list(range(10)))
    assert len(q.receive(99)) == 10


def test_members_of_a_limited_group_start_in_order(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"a": 3})
    for n in range(9):
        q.put(n, group="a", priority=n % 2)
    started = []
    held = q.receive(9)
    while held:
        started += bodies(held)
        held.pop(1 if len(held) > 1 else 0).ack()
        fresh = take(q, 9)
        started += [m.body for m in fresh]
        for message in held + fresh:
            message.ack()
        held = take(q, 9)
    assert started == [1, 3, 5, 7, 0, 2, 4, 6, 8]


def test_a_retry_holds_up_only_what_has_no_room_beside_it(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"a": 2})
    put_all(q, "a1", "a2", "a3", "a4")
    [a1, a2] = q.receive(9)
    a1.nack()
    assert bodies(take(q, 9)) == ["a1"]
    a2.ack()
    assert bodies(take(q, 9)) == ["a3"]


@pytest.mark.parametrize("new", [{"a": 3}, {"*": 3}])
def test_a_raised_limit_lets_more_go_at_once(make_queue: MakeQueue, new: dict[str, int]) -> None:
    q = make_queue()
    put_all(q, "a1", "a2", "a3", "a4", "-1")
    assert bodies(take(q, 9)) == ["a1", "-1"]  # the others were passed over
    q.configure(limits=new)
    assert bodies(take(q, 9)) == ["a2", "a3"]


def test_a_lowered_limit_holds_from_then_on(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"*": 3})
    put_all(q, "a1", "a2", "a3", "a4", "a5")
    messages = q.receive(9)
    q.configure(limits={"*": 1})
    for expected, message in zip(([], [], ["a4"]), messages, strict=True):
        message.ack()
        assert bodies(take(q, 9)) == expected


def test_after_a_lowered_limit_what_comes_back_goes_first(make_queue: MakeQueue) -> None:
    q = make_queue(limits={"*": 3})
    put_all(q, "a1", "a2", "a3", "a4")
    messages = q.receive(9)
    q.configure(limits={"a": 1})
    for message in reversed(messages):
        message.release()
    assert worked_off(q) == ["a1", "a2", "a3", "a4"]


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"a": 0}, ValueError), ({"a": -1}, ValueError), ({"a": 1.5}, TypeError), ({"a": True}, TypeError), ({1: 1}, TypeError), ([("a", 1)], TypeError), (3, TypeError)],
)
def test_bad_limits_are_told(make_queue: MakeQueue, limits: Any, error: type[Exception]) -> None:
    q = make_queue()
    for told in (lambda: make_queue("other", limits=limits), lambda: q.configure(limits=limits)):
        with pytest.raises(error, match="limits"):
            told()


def test_limits_are_stored(path: str) -> None:
    with mqlite.Queue("q", path, limits={"a": 2}) as q:
        put_all(q, "a1", "a2", "a3")
    with pytest.raises(mqlite.SettingsMismatch):
        mqlite.Queue("q", path, limits={"a": 3})
    with mqlite.Queue("q", path) as q:
        assert bodies(q.receive(9)) == ["a1", "a2"]


# ---------------------------------------------------------------------- who waits
FREEING: dict[str, Callable[[mqlite.Queue[Any], mqlite.Message, int], object]] = {
    "ack": lambda q, m, n: m.ack(),
    "ack_many": lambda q, m, n: q.ack_many([m]),
    "nack": lambda q, m, n: m.nack(),
    "release": lambda q, m, n: m.release(),
    "reject": lambda q, m, n: m.reject(),
    "a limit": lambda q, m, n: q.configure(limits={"*": 2}),
}


@pytest.mark.parametrize("how", FREEING)
def test_who_waits_is_woken_when_a_group_is_freed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, how: str) -> None:
    put_all(q, "a1", "a2")
    [held] = take(q)
    waiting = in_thread(q.receive, timeout=GUARD)
    until_waiting(q)
    FREEING[how](q, held, held.id)
    assert bodies(waiting.result(GUARD)) == ["a1" if how in ("nack", "release") else "a2"]


def test_who_waits_is_woken_when_the_holding_consumer_is_closed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    put_all(q, "a1", "a2")
    with q.consumer() as consumer:
        consumer.receive(timeout=0)
        waiting = in_thread(q.get, timeout=GUARD)
        until_waiting(q)
    assert waiting.result(GUARD) == "a1"


@pytest.mark.parametrize("how", ["cancel", "lower", "ready", "purge"])
def test_who_waits_is_woken_when_the_retry_that_held_up_its_group_is_changed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, how: str) -> None:
    [a1, _] = put_all(q, "a1", "a2")
    take(q)[0].nack(delay=3600)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    if how == "cancel":
        q.cancel(a1)
    elif how == "lower":
        q.update(a1, priority=-1)
    elif how == "ready":
        q.update(a1, delay=0)
    else:
        q.purge()
        put_all(q, "a3")
    assert waiting.result(GUARD) in {"cancel": ["a2"], "lower": ["a2"], "ready": ["a1"], "purge": ["a2", "a3"]}[how]  # purge: in several commits


def test_who_waits_is_woken_for_a_retry_that_is_due_and_for_the_rest_of_its_group(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    put_all(q, "a1", "a2")
    take(q)[0].nack(delay=0.05)
    waiting = [in_thread(q.receive, timeout=GUARD)]
    [a1] = waiting[0].result(GUARD)
    waiting.append(in_thread(q.receive, timeout=GUARD))
    until_waiting(q)
    a1.ack()
    assert [a1.body, *bodies(waiting[1].result(GUARD))] == ["a1", "a2"]


def test_each_of_many_who_wait_gets_a_group_that_is_freed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    for group in "abcde":
        put_all(q, f"{group}1", f"{group}2")
    held = q.receive(9)
    waiting = [in_thread(q.get, timeout=GUARD) for _ in range(5)]
    until_waiting(q, n=5)
    q.ack_many(held)
    assert sorted(future.result(GUARD) for future in waiting) == ["a2", "b2", "c2", "d2", "e2"]


def test_each_of_many_who_wait_goes_on_when_a_limit_is_raised(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    put_all(q, *(f"a{n}" for n in range(5)))
    take(q)
    waiting = [in_thread(q.receive, timeout=GUARD) for _ in range(4)]
    until_waiting(q, n=4)
    q.configure(limits={"a": 5})
    assert sorted(future.result(GUARD)[0].body for future in waiting) == ["a1", "a2", "a3", "a4"]


def test_threads_take_turns_on_one_group_and_never_share_it(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    count, threads = 60, 4
    q.put_many(list(range(count)), group="a")
    q.put_many(["end"] * threads, priority=-1)
    in_flight, most, order = Counter[str](), Counter[str](), []

    def work() -> None:
        while True:
            [message] = q.receive(timeout=GUARD)
            if message.group is None:
                message.ack()
                return
            in_flight["a"] += 1
            most["a"] = max(most["a"], in_flight["a"])
            order.append(message.body)
            in_flight["a"] -= 1
            message.ack()

    workers = [in_thread(work) for _ in range(threads)]
    for worker in workers:
        worker.result(GUARD)
    while messages := take(q):  # what was left when the last of the threads met its end
        order.append(messages[0].body)
        messages[0].ack()
    assert (order, most["a"]) == (list(range(count)), 1)


# ---------------------------------------------------------------------- cost
@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[how many messages were asked for, whether their group lets them go]"""
    count = [0]
    admits = Turnstile.admits

    def counted(self: Turnstile, position: int, raw: Any) -> bool:
        count[0] += 1
        return admits(self, position, raw)

    monkeypatch.setattr(Turnstile, "admits", counted)
    return count


def blocked(q: mqlite.Queue[Any], count: int) -> mqlite.Message:
    """A queue with so many messages of a group behind the first, which is held."""
    q.put_many([0] * count, group="a")
    [held] = take(q)
    return held


def test_a_large_busy_group_is_looked_at_once(q: mqlite.Queue[Any], asked: list[int]) -> None:
    held = blocked(q, 5000)
    assert take(q) == []
    asked[0] = 0
    for _ in range(3):
        assert take(q) == []
        q.put("other")
        assert bodies(take(q)) == ["other"]
    assert asked[0] < 20
    held.ack()
    assert bodies(take(q, 9)) == [0]
    assert asked[0] < 40


def test_a_large_busy_group_is_looked_at_once_by_who_takes_batches_that_do_not_fill(q: mqlite.Queue[Any], asked: list[int]) -> None:
    blocked(q, 5000)
    for _ in range(4):
        q.put("urgent", priority=1)
        assert bodies(q.receive(10, timeout=0)) == ["urgent"]
    assert asked[0] < 5100


def test_a_large_busy_group_is_looked_at_once_by_who_takes_what_comes_back_behind_it(q: mqlite.Queue[Any], asked: list[int]) -> None:
    blocked(q, 5000)
    q.put("other", priority=-1)
    for _ in range(4):
        [other] = take(q)
        other.release()
    assert asked[0] < 5100


def test_a_large_group_that_waits_for_a_retry_is_looked_at_once(q: mqlite.Queue[Any], asked: list[int]) -> None:
    blocked(q, 2000).nack(delay=3600)
    assert take(q) == []
    asked[0] = 0
    q.put("other")
    assert bodies(take(q, 2)) == ["other"]
    assert asked[0] < 20


# ---------------------------------------------------------------------- beside a list
class Oracle:
    """The messages of a queue as a plain list, and what a claim would take of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seq = itertools.count()
        self.all: dict[int, dict[str, Any]] = {}

    def put(self, id: int, group: str | None, priority: int) -> None:
        seq = next(self.seq)
        self.all[id] = {"group": group, "rank": -priority, "seq": seq, "order": seq, "state": "ready", "anew": False}

    def members(self, group: str) -> list[int]:
        """Of a group, in its order."""
        return sorted((id for id, m in self.all.items() if m["group"] == group), key=lambda id: (self.all[id]["rank"], self.all[id]["order"]))

    def in_flight(self, group: str) -> int:
        return sum(self.all[id]["state"] == "held" for id in self.members(group))

    def claim(self, count: int) -> list[int]:
        """With a limit of one: exactly what comes, in order."""
        taken: list[int] = []
        for id in sorted((id for id, m in self.all.items() if m["state"] == "ready"), key=lambda id: (self.all[id]["rank"], self.all[id]["seq"])):
            message = self.all[id]
            group = message["group"]
            if group is None or (self.in_flight(group) < 1 and self.members(group)[0] == id):
                message["state"] = "held"
                taken.append(id)
            if len(taken) == count:
                break
        return taken

    def could_go(self, group: str) -> bool:
        return self.in_flight(group) < self.limit and any(self.all[id]["state"] == "ready" for id in self.members(group))


WORDS = ["put", "put", "receive", "receive", "ack", "ack", "nack", "release", "retry", "reject", "cancel", "raise", "pass"]
STEPS = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 7), st.integers(-1, 1)), max_size=60)


class Play:
    """The same steps on a queue and on a list."""

    def __init__(self, queue: mqlite.Queue[Any], clock: HandClock, limit: int) -> None:
        self.queue, self.clock, self.limit = queue, clock, limit
        self.oracle = Oracle(limit)
        self.held: list[mqlite.Message] = []
        self.retries: list[tuple[int, int]] = []  # (when, id)

    def step(self, word: str, number: int, priority: int) -> None:
        oracle, held = self.oracle, self.held
        if word == "put":
            group = (None, "a", "b", "a", "b", "c", "a", "a")[number]
            oracle.put(self.queue.put(number, group=group, priority=priority), group, priority)
        elif word == "receive":
            self.receive(number % 3 + 1)
        elif word == "pass":
            self.clock.pass_by(number)
            self.bring_back()
        elif word in ("cancel", "raise"):
            ids = sorted(oracle.all)
            if ids:
                self.change(word, ids[number % len(ids)], priority)
        elif held:
            message = held.pop(number % len(held))
            self.settle(word, message, number)
        for group in "abc":
            assert oracle.in_flight(group) <= self.limit

    def bring_back(self) -> None:
        assert self.queue.qsize() >= 0  # moves what is due
        for when, id in sorted(self.retries):
            if when <= self.clock.monotonic:
                message = self.oracle.all[id]
                message |= {"state": "ready", "seq": next(self.oracle.seq)}
                if message["anew"]:  # else a retry keeps its number in its group
                    message |= {"order": message["seq"], "anew": False}
        self.retries = [(when, id) for when, id in self.retries if when > self.clock.monotonic]

    def receive(self, count: int) -> None:
        could = [group for group in "abc" if self.oracle.could_go(group)]
        try:
            messages = self.queue.receive(count, timeout=0)
        except mqlite.Empty:
            messages = []
        if self.limit == 1:
            assert [m.id for m in messages] == self.oracle.claim(count)
        else:
            assert messages or not could
            for message in messages:
                assert self.oracle.all[message.id]["state"] == "ready"
                self.oracle.all[message.id]["state"] = "held"
        self.held += messages

    def settle(self, word: str, message: mqlite.Message, number: int) -> None:
        oracle = self.oracle
        if word == "retry":
            message.nack(delay=number + 0.5)
            oracle.all[message.id]["state"] = "waiting"
            self.retries.append((self.clock.monotonic + int((number + 0.5) * SECOND), message.id))
        else:
            getattr(message, word)()
            if word in ("ack", "reject"):
                del oracle.all[message.id]
            else:
                oracle.all[message.id]["state"] = "ready"

    def change(self, word: str, id: int, priority: int) -> None:
        message = self.oracle.all[id]
        if message["state"] == "held":
            with pytest.raises(mqlite.AlreadyClaimed):
                self.queue.cancel(id)
        elif word == "cancel":
            assert self.queue.cancel(id)
            del self.oracle.all[id]
            self.retries = [entry for entry in self.retries if entry[1] != id]
        else:
            assert self.queue.update(id, priority=priority)
            message |= {"rank": -priority, "order": next(self.oracle.seq)}
            if message["state"] == "ready":
                message["seq"] = message["order"]
            else:
                message["anew"] = True

    def finish(self) -> None:
        """All that is left comes, group by group in order."""
        for message in self.held:
            message.release()
            self.oracle.all[message.id]["state"] = "ready"
        self.held = []
        self.clock.pass_by(100)
        self.bring_back()
        left = len(self.oracle.all)
        for _ in range(left):
            self.receive(1)
            message = self.held.pop()
            message.ack()
            del self.oracle.all[message.id]
        assert (self.oracle.all, self.queue.qsize(), self.queue.check()) == ({}, 0, [])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize(("where", "examples"), [("memory", 150), ("disk", 12)])
def test_groups_do_what_a_list_would(where: str, examples: int, limit: int, path: str, clock: HandClock) -> None:
    names = itertools.count()

    @settings(BOUNDED, max_examples=examples)
    @given(STEPS)
    def check(steps: list[tuple[str, int, int]]) -> None:
        options = {} if limit == 1 else {"limits": {"*": limit}}
        with timed_queue(path if where == "disk" else None, clock, f"q{next(names)}", max_deliveries=None, ack_timeout=None, **options) as queue:
            play = Play(queue, clock, limit)
            for step in steps:
                play.step(*step)
            assert queue.check() == []
            play.finish()

    with timed_queue(path if where == "disk" else None, clock, "kept open"):
        check()
