"""What happens to a put that finds no room: it waits, is refused, or something else goes; never more than maxsize."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contents import bodies
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock

import mqlite
from mqlite.claims import Kind

GUARD = 60.0
POLICIES = ("block", "reject", "drop_oldest", "dead_letter")


def total(queue: mqlite.Queue[Any]) -> int:
    stats = queue.stats()
    return stats.ready + stats.delayed + stats.claimed


# ---------------------------------------------------------------------- block
@pytest.mark.parametrize("put", [lambda q: q.put(3, block=False), lambda q: q.put_nowait(3), lambda q: q.put(3, timeout=0.01), lambda q: q.put_many([3], timeout=0.01)])
def test_block_raises_full_when_no_room_came_in_time(make_queue: MakeQueue, put: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = make_queue(maxsize=2, overflow="block")
    q.put_many([1, 2])
    with pytest.raises(mqlite.Full, match="maxsize=2"):
        put(q)
    assert bodies(q) == [1, 2]


def test_block_waits_for_room(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1, overflow="block")
    q.put(1)
    waiting = in_thread(q.put, 2, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    assert q.get(timeout=0) == 1
    waiting.result(GUARD)
    assert bodies(q) == [2]


# ---------------------------------------------------------------------- reject
@pytest.mark.parametrize("timeout", [None, 30.0, 0])
def test_reject_raises_full_at_once_whatever_the_timeout(make_queue: MakeQueue, timeout: float | None) -> None:
    q = make_queue(maxsize=1, overflow="reject")
    q.put(1)
    for put in (lambda: q.put(2, timeout=timeout), lambda: q.put_many([2], timeout=timeout), lambda: q.put(2, timeout=timeout, headers={"a": 1})):
        with pytest.raises(mqlite.Full):
            put()
    assert (bodies(q), q.stats().dead) == ([1], 0)


def test_reject_stores_a_batch_whole_or_not_at_all(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="reject")
    q.put(1)
    with pytest.raises(mqlite.Full):
        q.put_many([2, 3, 4])
    assert bodies(q) == [1]
    q.put_many([2, 3])
    assert bodies(q) == [1, 2, 3]


def test_reject_takes_puts_again_when_there_is_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1, overflow="reject")
    q.put(1)
    q.get(timeout=0)
    q.put(2)
    assert bodies(q) == [2]


def test_reject_tells_a_producer_which_of_its_messages_were_refused(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="reject")
    producer = q.producer()
    receipts = [producer.put(number) for number in range(5)]
    with pytest.raises(mqlite.Full):
        producer.close()
    assert [type(receipt.error) for receipt in receipts] == [type(None)] * 2 + [mqlite.Full] * 3
    assert bodies(q) == [0, 1]


def test_claimed_and_delayed_messages_count_for_every_policy_s_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="reject")
    q.put(1)
    _ = q.receive(timeout=0)
    q.put(2, delay=60)
    with pytest.raises(mqlite.Full):
        q.put(3)


# ---------------------------------------------------------------------- drop_oldest
def test_drop_oldest_removes_the_first_in_line_for_a_new_one(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    for number in range(6):
        q.put(number)
    assert (bodies(q), q.stats().dead, q.unfinished_tasks) == ([3, 4, 5], 0, 3)


def test_drop_oldest_goes_by_delivery_order_not_by_age(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    q.put("low", priority=-1)
    q.put("high", priority=1)
    q.put("middle")
    q.put("new", priority=-2)
    assert bodies(q) == ["middle", "low", "new"]


def test_drop_oldest_of_a_lifo_queue_removes_what_would_be_delivered_next(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest", order="lifo")
    for number in range(3):
        q.put(number)
    assert bodies(q) == [2, 0]


@pytest.mark.parametrize("order", [{"fair": True}, {"aging": 10.0}])
def test_drop_oldest_keeps_the_size_in_any_order(make_queue: MakeQueue, order: dict[str, Any]) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest", **order)
    for number in range(20):
        q.put(number, priority=number % 3, **({"group": f"g{number % 2}"} if "fair" in order else {}))
        assert total(q) <= 3
    assert (total(q), 19 in bodies(q)) == (3, True)


def test_drop_oldest_makes_room_for_a_whole_batch(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=5, overflow="drop_oldest")
    q.put_many(list(range(5)))
    ids = q.put_many([5, 6, 7])
    assert bodies(q) == [3, 4, 5, 6, 7]
    assert [message.id for message in q.browse()][2:] == ids


def test_drop_oldest_makes_room_for_more_than_is_dropped_at_once(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=700, overflow="drop_oldest")
    q.put_many(list(range(700)))
    q.put_many(list(range(700, 1350)))
    assert bodies(q) == list(range(650, 1350))


def test_a_batch_larger_than_the_queue_is_refused_and_drops_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    with pytest.raises(ValueError, match="maxsize=2"):
        q.put_many([3, 4, 5])
    assert bodies(q) == [1, 2]


def test_drop_oldest_lets_a_producer_run_on(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    with q.producer() as producer:
        for number in range(50):
            producer.put(number)
    assert bodies(q) == [47, 48, 49]


def test_drop_oldest_never_drops_what_somebody_holds(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    [held] = q.receive(timeout=0)
    q.put(4)
    q.put(5)
    assert (bodies(q), q.stats().claimed) == ([4, 5], 1)
    held.ack()
    assert total(q) == 2


def test_drop_oldest_never_drops_what_a_consumer_has_prefetched(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    with q.consumer(prefetch=2) as consumer:
        first = consumer.receive(timeout=0)
        q.put(4)
        first.ack()
        with consumer.receive(timeout=0) as second:
            assert second.body == 2


@pytest.mark.parametrize("timeout", [0, 30.0, None])
def test_drop_oldest_raises_full_when_everything_is_held(make_queue: MakeQueue, timeout: float | None) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    held = q.receive(2, timeout=0)
    with pytest.raises(mqlite.Full):
        q.put(3, timeout=timeout)
    q.ack_many(held)
    assert total(q) == 0


def test_drop_oldest_drops_nothing_when_what_nobody_holds_is_not_enough(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    held = q.receive(2, timeout=0)
    with pytest.raises(mqlite.Full):
        q.put_many([4, 5])
    assert (bodies(q), q.stats().claimed) == ([3], 2)
    for message in held:
        message.release()
    assert bodies(q) == [1, 2, 3]


def test_a_message_that_was_nearly_dropped_counts_as_never_claimed(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    [held] = q.receive(timeout=0)
    with pytest.raises(mqlite.Full):
        q.put_many([3, 4])
    [message] = q.receive(timeout=0)
    assert (message.body, message.delivery_count, message.acquired_count, message.redelivered) == (2, 0, 1, False)
    held.release()


def test_delayed_messages_are_not_dropped(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2], delay=60)
    with pytest.raises(mqlite.Full):
        q.put(3)
    assert q.stats().delayed == 2


def test_a_delayed_put_drops_a_ready_message_too(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    q.put(3, delay=60)
    assert (bodies(q), q.stats().delayed) == ([2], 1)


def test_a_message_that_was_given_back_is_dropped_first_since_it_is_first_in_line(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    for message in q.receive(2, timeout=0):
        message.nack()
    q.put(4)
    assert bodies(q) == [2, 3, 4]
    assert [(message.body, message.delivery_count) for message in q.receive(3, timeout=0)] == [(2, 1), (3, 0), (4, 0)]


def test_a_dropped_message_does_not_hold_up_its_group(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put(1, group="g")
    q.put(2, group="g")
    q.put(3, group="g")
    assert (q.get(timeout=0), q.get(timeout=0)) == (2, 3)


def test_a_member_that_waits_for_its_group_can_be_dropped(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="drop_oldest")
    q.put(1, group="g")
    q.put(2, group="g")
    [held] = q.receive(timeout=0)
    q.put(3, group="g")
    assert q.stats().claimed == 1
    held.ack()
    assert q.get(timeout=0) == 3


def test_join_does_not_wait_for_what_was_dropped(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1, overflow="drop_oldest")
    for number in range(10):
        q.put(number)
    q.receive(timeout=0)[0].ack()
    q.join()
    assert q.unfinished_tasks == 0


def test_a_waiting_consumer_is_woken_by_a_put_that_dropped_another(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1, overflow="drop_oldest")
    q.pause()
    q.put(1)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.put(2)
    q.resume()
    assert waiting.result(GUARD) == 2


def test_drop_oldest_without_a_limit_drops_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(overflow="drop_oldest")
    q.put_many(list(range(100)))
    assert len(q) == 100


# ---------------------------------------------------------------------- dead_letter
def test_what_finds_no_room_becomes_a_dead_letter_and_put_returns_its_id(make_queue: MakeQueue) -> None:
    q = make_queue("orders", maxsize=1, overflow="dead_letter")
    first = q.put("fits")
    before = datetime.now(UTC) - timedelta(seconds=1)
    number = q.put({"a": 1}, priority=4, headers={"h": "x"}, type="t", correlation_id="c", group="g")
    assert number != first
    [letter] = q.dead.receive(timeout=0)
    assert (letter.id, letter.body, letter.priority, letter.headers, letter.type, letter.correlation_id, letter.group) == (number, {"a": 1}, 4, {"h": "x"}, "t", "c", "g")
    assert letter.death is not None
    assert (letter.death.reason, letter.death.queue, letter.death.delivery_count, letter.death.error, letter.death.traceback) == ("overflow", "orders", 0, None, None)
    assert before <= letter.enqueued_at <= letter.death.died_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert (bodies(q), total(q)) == (["fits"], 1)


def test_dead_letter_puts_neither_wait_nor_raise(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="dead_letter")
    q.put(0, timeout=None)
    _ = q.receive(timeout=0)
    for number in range(1, 10):
        q.put(number, timeout=None)
    assert (bodies(q), bodies(q.dead)) == ([1], list(range(2, 10)))


def test_of_a_batch_as_much_is_stored_as_fits(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="dead_letter")
    q.put("first")
    ids = q.put_many([1, 2, 3, 4])
    assert (bodies(q), bodies(q.dead)) == (["first", 1, 2], [3, 4])
    assert [message.id for message in q.browse()][1:] + [message.id for message in q.dead.browse()] == ids


def test_a_batch_larger_than_the_queue_is_taken_in_part(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="dead_letter")
    q.put_many(list(range(10)))
    assert (bodies(q), bodies(q.dead)) == ([0, 1], list(range(2, 10)))


def test_dead_letter_lets_a_producer_run_on(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3, overflow="dead_letter")
    with q.producer() as producer:
        receipts = [producer.put(number) for number in range(50)]
    assert (bodies(q), bodies(q.dead)) == ([0, 1, 2], list(range(3, 50)))
    assert [receipt.result(0) for receipt in receipts] == [message.id for message in [*q.browse(), *q.dead.browse()]]


def test_a_delayed_message_that_finds_no_room_is_dead_at_once(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1, overflow="dead_letter")
    q.put(1)
    q.put(2, delay=60, ttl=30)
    assert (q.stats().delayed, bodies(q.dead)) == (0, [2])


def test_dead_letters_of_overflow_are_redriven_when_there_is_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2, overflow="dead_letter")
    q.put_many([1, 2])
    number = q.put(3)
    with pytest.raises(mqlite.Full):
        q.redrive()
    assert bodies(q.dead) == [3]
    q.get(timeout=0)
    assert q.redrive() == 1
    assert [(message.id, message.body, message.death) for message in q.browse()][1] == (number, 3, None)


def test_who_waits_for_dead_letters_is_woken_by_an_overflow(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1, overflow="dead_letter")
    q.put(1)
    waiting = in_thread(q.dead.get, timeout=GUARD)
    until_waiting(q.dead)
    q.put(2)
    assert waiting.result(GUARD) == 2


def test_dead_letters_may_be_unlimited_while_the_queue_is_small(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1, overflow="dead_letter")
    q.put_many(list(range(400)))
    assert (total(q), q.stats().dead, len(q.dead)) == (1, 399, 399)


def test_overflow_to_dead_letters_needs_dead_letters(make_queue: MakeQueue) -> None:
    with pytest.raises(ValueError, match="dead_letter"):
        make_queue(overflow="dead_letter", dead_letter=False)
    q = make_queue(maxsize=1, overflow="dead_letter")
    with pytest.raises(ValueError, match="dead_letter"):
        q.configure(dead_letter=False)
    q.put_many([1, 2])
    assert q.stats().dead == 1


def test_configure_does_not_choose_dead_letters_that_are_dropped(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1, dead_letter=False)
    with pytest.raises(ValueError, match="dead_letter"):
        q.configure(overflow="dead_letter")
    q.configure(overflow="dead_letter", dead_letter=True)
    q.put_many([1, 2])
    assert q.stats().dead == 1


# ---------------------------------------------------------------------- changed while running
def test_the_policy_is_stored_with_the_queue(path: str) -> None:
    with mqlite.Queue[Any]("q", path, maxsize=1, overflow="drop_oldest") as q:
        q.put(1)
    with mqlite.Queue[Any]("q", path) as q:
        q.put(2)
        assert bodies(q) == [2]
    with pytest.raises(mqlite.SettingsMismatch, match="overflow"):
        mqlite.Queue("q", path, overflow="reject")


def test_the_policy_can_be_changed_for_every_handle_at_once(path: str) -> None:
    with mqlite.Queue[Any]("q", path, maxsize=1) as q, mqlite.Queue[Any]("q", path) as other:
        q.put(1)
        other.configure(overflow="reject")
        with pytest.raises(mqlite.Full):
            q.put(2, timeout=GUARD)
        other.configure(overflow="drop_oldest")
        q.put(3)
        other.configure(overflow="dead_letter")
        q.put(4)
        assert (bodies(q), bodies(q.dead)) == ([3], [4])


@pytest.mark.parametrize("options", [{}, {"headers": {"a": 1}}, {"group": "g"}, {"ttl": 1000}])
@pytest.mark.parametrize(("overflow", "left", "dead"), [("drop_oldest", [2], []), ("dead_letter", [1], [2])])
def test_a_put_that_waits_goes_by_the_new_policy(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, overflow: str, left: list[int], dead: list[int], options: dict[str, Any]
) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    waiting = in_thread(q.put, 2, timeout=GUARD, **options)
    until_waiting(q, Kind.SPACE)
    q.configure(overflow=overflow)
    waiting.result(GUARD)
    assert (bodies(q), bodies(q.dead)) == (left, dead)


@pytest.mark.parametrize("options", [{}, {"group": "g"}])
def test_a_put_that_waits_is_refused_when_the_policy_becomes_reject(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, options: dict[str, Any]) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    waiting = in_thread(q.put, 2, timeout=None, **options)
    until_waiting(q, Kind.SPACE)
    q.configure(overflow="reject")
    with pytest.raises(mqlite.Full):
        waiting.result(10)
    assert bodies(q) == [1]


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
def test_a_smaller_maxsize_removes_nothing_until_something_is_put(make_queue: MakeQueue, overflow: str) -> None:
    q = make_queue(maxsize=5, overflow=overflow)
    q.put_many(list(range(5)))
    q.configure(maxsize=2)
    assert total(q) == 5
    q.put(5)
    assert (bodies(q), bodies(q.dead)) == (([4, 5], []) if overflow == "drop_oldest" else ([0, 1, 2, 3, 4], [5]))


@pytest.mark.parametrize("overflow", POLICIES)
def test_every_policy_respects_shutdown(make_queue: MakeQueue, overflow: str) -> None:
    q = make_queue(maxsize=1, overflow=overflow)
    q.put(1)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        q.put(2)
    assert (q.stats().dead, q.get(timeout=0)) == (0, 1)


@pytest.mark.parametrize("overflow", POLICIES)
def test_what_has_expired_makes_room_before_a_policy_is_asked(timed: MakeQueue, clock: HandClock, overflow: str) -> None:
    q = timed(maxsize=2, overflow=overflow, expired="drop")
    q.put("lives", priority=1)
    q.put("expires", ttl=5)
    clock.pass_by(5)
    q.put("new", timeout=0)
    assert (bodies(q), q.stats().dead) == (["lives", "new"], 0)


# ---------------------------------------------------------------------- many at once
@pytest.mark.parametrize("overflow", POLICIES)
def test_threads_that_put_at_once_never_exceed_maxsize(make_queue: MakeQueue, in_thread: InThread, overflow: str) -> None:
    maxsize, threads, each = 5, 4, 60
    q = make_queue(maxsize=maxsize, overflow=overflow)
    over = threading.Event()
    seen: list[int] = []
    taken: list[Any] = []

    def watch() -> None:
        while not over.is_set():
            seen.append(total(q))

    def take() -> None:
        while not over.is_set() or (overflow == "block" and total(q)):
            try:
                messages = q.receive(2, timeout=0.01)
            except mqlite.Empty:
                continue
            taken.extend(message.body for message in messages)
            q.ack_many(messages)

    def put(thread: int) -> list[Any]:
        stored: list[Any] = []
        with q.producer() as producer:
            for number in range(each):
                new = [[thread, number, part] for part in range(3 if number % 4 == 3 else 1)]
                try:
                    if number % 4 == 3:
                        q.put_many(new)
                    elif number % 4 == 2:
                        producer.put(new[0]).result()
                    else:
                        q.put(new[0])
                except mqlite.Full:
                    continue
                stored += new
            try:
                producer.flush()
            except mqlite.Full:
                pass  # told by the receipts
        return stored

    helpers = [in_thread(watch), in_thread(take)]
    putters = [in_thread(put, thread) for thread in range(threads)]
    stored = Counter(tuple(body) for putter in putters for body in putter.result(GUARD))
    over.set()
    for helper in helpers:
        helper.result(GUARD)
    assert seen
    assert max(seen) <= maxsize
    found = Counter(tuple(body) for body in [*taken, *bodies(q), *bodies(q.dead)])
    assert set(found.values()) == {1}
    if overflow == "drop_oldest":
        assert found.keys() <= stored.keys()
    else:
        assert found == stored
    assert (total(q) <= maxsize, overflow == "dead_letter" or q.stats().dead == 0) == (True, True)


def test_drop_oldest_with_many_putters_drops_no_more_than_it_must(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=10, overflow="drop_oldest")
    threads, each = 4, 50

    def put(thread: int) -> None:
        for number in range(each):
            while True:
                try:
                    q.put([thread, number])
                    break
                except mqlite.Full:  # the others hold what they are about to drop
                    continue

    for putter in [in_thread(put, thread) for thread in range(threads)]:
        putter.result(GUARD)
    assert (total(q), q.stats().claimed) == (10, 0)
    for thread in range(threads):
        mine = [number for owner, number in bodies(q) if owner == thread]
        assert mine == sorted(mine)
