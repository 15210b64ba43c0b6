"""Consumer handles: prefetch, automatic acknowledgement, threads that share one."""

from __future__ import annotations

import contextlib
import queue
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock, timed_queue

import mqlite


def test_a_consumer_is_iterated_over(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    bodies = []
    with q.consumer() as consumer:
        for message in consumer:
            with message:
                bodies.append(message.body)
            if len(bodies) == 3:
                break
    assert (bodies, q.stats().ready, q.stats().claimed) == ([1, 2, 3], 0, 0)


def test_a_consumer_follows_priorities_at_prefetch_one(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    bodies = []
    with q.consumer() as consumer:
        for _ in range(3):
            with consumer.receive(0) as message:
                bodies.append(message.body)
                if message.body == 1:
                    q.put("urgent", priority=1)
    assert bodies == [1, "urgent", 2]


def test_receive_on_an_empty_queue_raises_empty(q: mqlite.Queue[Any]) -> None:
    with q.consumer() as consumer:
        for timeout in (0, 0.001):
            with pytest.raises(queue.Empty):
                consumer.receive(timeout)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_a_consumer_never_holds_more_than_prefetch(q: mqlite.Queue[Any], prefetch: int) -> None:
    q.put_many(range(20))
    with q.consumer(prefetch=prefetch) as consumer:
        held = []
        for _ in range(prefetch):
            held.append(consumer.receive(0))
            assert q.stats().claimed == prefetch
        with pytest.raises(mqlite.Empty):
            consumer.receive(0)
        assert [m.body for m in held] == list(range(prefetch))


def test_unsettled_messages_count_against_prefetch_until_one_is_settled(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(5))
    with q.consumer(prefetch=2) as consumer:
        first, second = consumer.receive(0), consumer.receive(0)
        second.ack()
        third = consumer.receive(0)
        assert ([first.body, third.body], q.stats().claimed) == ([0, 2], 2)


@pytest.mark.parametrize("settle", [lambda m: m.ack(), lambda m: m.nack(), lambda m: m.reject(), lambda m: m.release()], ids=["ack", "nack", "reject", "release"])
def test_a_thread_that_waits_for_prefetch_is_woken_by_any_settlement(
    q: mqlite.Queue[Any], in_thread: InThread, settle: Callable[[mqlite.Message], None]
) -> None:
    q.put_many([1, 2])
    with q.consumer() as consumer:
        first = consumer.receive(0)
        waiting = in_thread(consumer.receive, 10)
        settle(first)
        assert waiting.result(10).body in (1, 2)


def test_ack_many_frees_the_prefetch_of_consumers(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(4))
    with q.consumer(prefetch=2) as consumer:
        q.ack_many([consumer.receive(0), consumer.receive(0)])
        assert [consumer.receive(0).body, consumer.receive(0).body] == [2, 3]


def test_a_lost_claim_frees_the_prefetch_of_its_consumer(make_queue: MakeQueue, eventually: Eventually) -> None:
    q = make_queue(ack_timeout=0.01)
    q.put("x")
    with q.consumer() as consumer:
        message = consumer.receive(0)
        taken: list[mqlite.Message] = []

        def taken_over() -> bool:
            try:
                taken.extend(q.receive(timeout=0))
            except mqlite.Empty:
                return False
            return True

        eventually(taken_over)
        taken[0].extend(1000)
        with pytest.raises(mqlite.LeaseLost):
            message.ack()
        taken[0].release()
        assert consumer.receive(5).body == "x"


def test_closing_gives_back_what_was_not_settled_without_blame(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(4))
    with q.consumer(prefetch=3) as consumer:
        consumer.receive(0).ack()
        _ = consumer.receive(0)
    messages = q.receive(10)
    assert [(m.body, m.delivery_count) for m in messages] == [(1, 0), (2, 0), (3, 0)]


def test_iterating_over_a_closed_consumer_ends(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    consumer = q.consumer()
    consumer.close()
    assert list(consumer) == []


def test_receiving_from_a_closed_consumer_raises_closed(q: mqlite.Queue[Any]) -> None:
    consumer = q.consumer()
    consumer.close()
    with pytest.raises(mqlite.Closed):
        consumer.receive(0)


def test_a_consumer_may_be_closed_twice(q: mqlite.Queue[Any]) -> None:
    consumer = q.consumer()
    consumer.close()
    consumer.close()


def test_closing_wakes_the_threads_that_wait(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    consumer = q.consumer(prefetch=4)
    iterating = [in_thread(list, consumer) for _ in range(3)]
    until_waiting(q)
    consumer.close()
    assert [future.result(10) for future in iterating] == [[], [], []]


def test_closing_wakes_threads_that_wait_for_prefetch(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put_many([1, 2])
    consumer = q.consumer()
    _ = consumer.receive(0)
    waiting = in_thread(consumer.receive)
    consumer.close()
    assert isinstance(waiting.exception(10), mqlite.Closed)


def test_each_message_goes_to_one_of_the_threads_that_share_a_consumer(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put_many(range(100))
    with q.consumer(prefetch=8) as consumer:

        def work() -> list[int]:
            bodies = []
            while True:
                try:
                    message = consumer.receive(0.05)
                except mqlite.Empty:
                    return bodies
                with message:
                    bodies.append(message.body)

        workers = [in_thread(work) for _ in range(4)]
        bodies = [body for worker in workers for body in worker.result(30)]
    assert sorted(bodies) == list(range(100))


def test_threads_that_share_a_consumer_are_all_woken(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with q.consumer(prefetch=3) as consumer:
        waiting = [in_thread(consumer.receive) for _ in range(3)]
        until_waiting(q)
        for n in range(3):
            q.put(n)
        assert sorted(future.result(10).body for future in waiting) == [0, 1, 2]


def test_two_consumers_share_a_queue(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    with q.consumer() as one, q.consumer() as other:
        assert [one.receive(0).body, other.receive(0).body] == [1, 2]


def test_a_shutdown_gives_prefetched_messages_back(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    with q.consumer(prefetch=3) as consumer:
        first = consumer.receive(0)
        q.shutdown()
        assert (first.body, q.stats().claimed) == (1, 1)


ORDERS: dict[str, dict[str, Any]] = {
    "in order": {},
    "last in, first out": {"order": "lifo"},
    "ageing": {"aging": 5},
    "fair": {"fair": True, "limits": {"*": None}},
    "groups": {"limits": {"*": 2}},
    "expiring": {"ttl": 10**6},
}


@pytest.mark.parametrize("options", ORDERS.values(), ids=ORDERS)
def test_what_times_out_is_blamed_if_it_was_handed_out_whatever_the_order(
    backend: str, path: str, made: list[mqlite.Queue[Any]], options: dict[str, Any]
) -> None:
    """Of all sorts of batches: of several priorities and groups, with messages that came back."""
    chance = random.Random(11)
    clock = HandClock()
    q = timed_queue(path if backend == "disk" else None, clock, ack_timeout=100, max_deliveries=None, **options)
    made.append(q)
    expected: dict[int, int] = {}
    for turn in range(60):
        for _ in range(chance.randint(0, 6)):
            group = chance.choice([None, "a", "b", "c"])
            body = len(expected)
            expected[body] = 0
            q.put(body, priority=chance.choice([0, 0, 0, 1, -1]), **({} if options.get("order") == "lifo" else {"group": group}))
        with q.consumer(prefetch=chance.randint(1, 8)) as consumer:
            taken: list[mqlite.Message] = []
            with contextlib.suppress(mqlite.Empty):
                for _ in range(chance.randint(1, 8)):
                    taken.append(consumer.receive(0))
                    assert taken[-1].delivery_count == expected[taken[-1].body], turn
                    if chance.random() < 0.3:
                        getattr(taken.pop(chance.randrange(len(taken))), chance.choice(["ack", "release"]))()
            clock.pass_by(102)
            q._engine.takeback.take_back()
            for message in taken:
                expected[message.body] += 1
    with contextlib.suppress(mqlite.Empty):
        while True:
            [message] = q.receive(timeout=0)
            assert message.delivery_count == expected[message.body]
            message.ack()


# ---------------------------------------------------------------------- auto_ack
def test_auto_ack_settles_before_it_hands_out(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    with q.consumer(auto_ack=True) as consumer:
        assert (consumer.receive(0).body, q.stats().claimed, q.stats().ready) == (1, 0, 1)


def test_auto_ack_messages_cannot_be_settled(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    with q.consumer(auto_ack=True) as consumer:
        message = consumer.receive(0)
        with pytest.raises(mqlite.NotClaimed):
            message.ack()


def test_closing_an_auto_ack_consumer_loses_nothing_that_was_not_handed_out(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(6))
    with q.consumer(prefetch=4, auto_ack=True) as consumer:
        first = consumer.receive(0)
    assert [first.body, *[m.body for m in q.receive(10)]] == list(range(6))


def test_auto_ack_has_no_limit_on_what_was_handed_out(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(10))
    with q.consumer(prefetch=2, auto_ack=True) as consumer:
        assert [consumer.receive(0).body for _ in range(10)] == list(range(10))


# ---------------------------------------------------------------------- arguments
@pytest.mark.parametrize(("prefetch", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError), (True, TypeError)])
def test_prefetch_is_a_positive_int(q: mqlite.Queue[Any], prefetch: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="prefetch"):
        q.consumer(prefetch=prefetch)


@pytest.mark.parametrize("auto_ack", [1, None, "yes"])
def test_auto_ack_is_a_bool(q: mqlite.Queue[Any], auto_ack: Any) -> None:
    with pytest.raises(TypeError, match="auto_ack"):
        q.consumer(auto_ack=auto_ack)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)])
def test_a_consumer_s_timeout_is_not_negative(q: mqlite.Queue[Any], timeout: Any, error: type[Exception]) -> None:
    with q.consumer() as consumer, pytest.raises(error, match="timeout"):
        consumer.receive(timeout)


def test_a_consumer_lives_as_long_as_somebody_has_it_or_a_message_of_it(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    consumer = q.consumer(prefetch=2)
    message = consumer.receive()
    gone = weakref.ref(consumer)
    del consumer
    assert gone() is not None
    message.ack()
    del message
    assert gone() is None


def test_closing_a_queue_gives_back_a_message_whose_consumer_nobody_else_refers_to(backend: str, path: str) -> None:
    with mqlite.open(path if backend == "disk" else None) as broker:
        queue = broker.queue("q")
        queue.put("job")
        message = queue.consumer().receive(timeout=0)
        queue.close()
        assert [each.body for each in broker.queue("q").browse()] == [message.body]
