"""A claimed message is settled once: acknowledged, failed, rejected, or given back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue

import mqlite

SETTLE: dict[str, Callable[[mqlite.Message], None]] = {
    "ack": lambda m: m.ack(),
    "nack": lambda m: m.nack(),
    "reject": lambda m: m.reject(),
    "release": lambda m: m.release(),
}
settlements = pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE.keys())
settlements_and_extend = pytest.mark.parametrize("settle", [*SETTLE.values(), lambda m: m.extend(60)], ids=[*SETTLE.keys(), "extend"])


def received(q: mqlite.Queue[Any], body: object = "x") -> mqlite.Message:
    q.put(body)
    [message] = q.receive(timeout=0)
    return message


def test_an_acknowledged_message_is_gone(q: mqlite.Queue[Any]) -> None:
    received(q).ack()
    assert (q.stats().ready, q.stats().claimed, q.stats().dead) == (0, 0, 0)


def test_a_claimed_message_is_given_to_nobody_else(q: mqlite.Queue[Any]) -> None:
    received(q)
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0)


def test_a_failed_message_is_ready_again_at_once(q: mqlite.Queue[Any]) -> None:
    received(q).nack()
    assert q.receive(timeout=0)[0].body == "x"


def test_a_failure_raises_both_counts(q: mqlite.Queue[Any]) -> None:
    received(q).nack(error="boom")
    [message] = q.receive(timeout=0)
    assert (message.delivery_count, message.acquired_count, message.redelivered) == (1, 2, True)


def test_a_release_is_no_failure(q: mqlite.Queue[Any]) -> None:
    received(q).release()
    [message] = q.receive(timeout=0)
    assert (message.delivery_count, message.acquired_count, message.redelivered) == (0, 2, True)


def test_the_first_delivery_has_no_failures(q: mqlite.Queue[Any]) -> None:
    message = received(q)
    assert (message.delivery_count, message.acquired_count, message.redelivered) == (0, 1, False)


def test_counts_add_up_over_failures_and_releases(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=None)
    q.put("x")
    for n in range(6):
        [message] = q.receive(timeout=0)
        assert (message.delivery_count, message.acquired_count) == ((n + 1) // 2, n + 1)
        if n % 2:
            message.release()
        else:
            message.nack()


def test_a_message_that_was_released_very_often_does_not_die(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    for _ in range(50):
        q.receive(timeout=0)[0].release()
    assert (q.qsize(), q.stats().dead) == (1, 0)


def test_a_message_given_back_keeps_all_its_fields(q: mqlite.Queue[Any]) -> None:
    q.put("x", priority=3, headers={"h": [1]}, type="t", reply_to="r", correlation_id="c")
    [first] = q.receive(timeout=0)
    first.nack()
    [second] = q.receive(timeout=0)
    for name in ("body", "id", "priority", "headers", "type", "reply_to", "correlation_id", "enqueued_at"):
        assert getattr(second, name) == getattr(first, name), name


@pytest.mark.parametrize("first", SETTLE.values(), ids=SETTLE.keys())
@pytest.mark.parametrize("second", [*SETTLE.values(), lambda m: m.extend(60)], ids=[*SETTLE.keys(), "extend"])
def test_settling_twice_is_an_error_and_changes_nothing(
    q: mqlite.Queue[Any], first: Callable[[mqlite.Message], None], second: Callable[[mqlite.Message], None]
) -> None:
    message = received(q)
    first(message)
    before = (q.qsize(), q.stats().claimed, q.stats().dead)
    with pytest.raises(mqlite.NotClaimed, match="'q'"):
        second(message)
    assert (q.qsize(), q.stats().claimed, q.stats().dead) == before


@settlements_and_extend
def test_settling_with_a_lost_claim_raises_and_changes_nothing(q: mqlite.Queue[Any], settle: Callable[[mqlite.Message], None]) -> None:
    q.put("x")
    consumer = q.consumer()
    message = consumer.receive(0)
    consumer.close()
    with pytest.raises(mqlite.LeaseLost, match="'q'"):
        settle(message)
    assert (q.qsize(), q.stats().claimed, q.stats().dead) == (1, 0, 0)


@settlements_and_extend
def test_settling_with_a_lost_claim_leaves_the_new_holder_alone(q: mqlite.Queue[Any], settle: Callable[[mqlite.Message], None]) -> None:
    q.put("x")
    consumer = q.consumer()
    old = consumer.receive(0)
    consumer.close()
    [new] = q.receive(timeout=0)
    with pytest.raises(mqlite.LeaseLost):
        settle(old)
    new.ack()
    assert q.stats().ready == q.stats().dead == 0


@settlements_and_extend
def test_a_message_that_was_peeked_at_cannot_be_settled(q: mqlite.Queue[Any], settle: Callable[[mqlite.Message], None]) -> None:
    q.put("x")
    [message] = q.peek()
    with pytest.raises(mqlite.NotClaimed):
        settle(message)


def test_of_many_threads_that_settle_one_message_one_succeeds(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    for _ in range(10):
        message = received(q)
        outcomes = [in_thread(message.ack).exception(10) for _ in range(4)]
        assert sorted(outcome is None for outcome in outcomes) == [False, False, False, True]
        assert all(isinstance(outcome, mqlite.NotClaimed | mqlite.LeaseLost) for outcome in outcomes if outcome is not None)


def test_a_message_may_be_settled_by_another_thread(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    message = received(q)
    assert in_thread(message.ack).exception(10) is None
    assert q.stats().claimed == 0


# ---------------------------------------------------------------------- as a context manager
def test_leaving_the_block_acknowledges(q: mqlite.Queue[Any]) -> None:
    with received(q) as message:
        assert message.body == "x"
    assert (q.qsize(), q.stats().claimed, q.stats().dead) == (0, 0, 0)


def test_an_exception_in_the_block_is_a_failure_and_goes_on(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(ZeroDivisionError), received(q):
        _ = 1 / 0
    [message] = q.receive(timeout=0)
    assert message.delivery_count == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_failure_of_the_message_gives_it_back_without_blame(q: mqlite.Queue[Any], error: type[BaseException]) -> None:
    with pytest.raises(error), received(q):
        raise error
    [message] = q.receive(timeout=0)
    assert message.delivery_count == 0


@settlements
def test_a_message_settled_inside_the_block_is_left_as_it_is(q: mqlite.Queue[Any], settle: Callable[[mqlite.Message], None]) -> None:
    message = received(q)
    with message:
        settle(message)
        after = q.stats()
    assert (q.stats().ready, q.stats().claimed, q.stats().dead) == (after.ready, after.claimed, after.dead)


def test_an_exception_after_an_ack_inside_the_block_goes_on(q: mqlite.Queue[Any]) -> None:
    def work() -> None:
        with received(q) as message:
            message.ack()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert q.qsize() == 0


def test_a_block_cannot_be_entered_with_a_message_that_was_peeked_at(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    message = q.peek()[0]
    with pytest.raises(mqlite.NotClaimed):
        message.__enter__()


def test_a_block_cannot_be_entered_with_a_settled_message(q: mqlite.Queue[Any]) -> None:
    message = received(q)
    message.ack()
    with pytest.raises(mqlite.NotClaimed):
        message.__enter__()


def test_leaving_the_block_with_a_lost_claim_says_so(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    consumer = q.consumer()
    with pytest.raises(mqlite.LeaseLost), consumer.receive(0):
        consumer.close()
    assert q.qsize() == 1


def test_an_exception_in_a_block_whose_claim_was_lost_is_not_hidden(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    consumer = q.consumer()

    def work() -> None:
        with consumer.receive(0):
            consumer.close()
            _ = 1 / 0

    with pytest.raises((ZeroDivisionError, mqlite.LeaseLost)) as caught:
        work()
    assert ZeroDivisionError in (type(caught.value), type(caught.value.__context__))


# ---------------------------------------------------------------------- arguments
def test_extend_keeps_the_claim(q: mqlite.Queue[Any]) -> None:
    message = received(q)
    message.extend(60)
    message.ack()
    assert q.stats().claimed == 0


def test_extend_without_a_timeout_is_no_error(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=None)
    message = received(q)
    message.extend(60)
    message.ack()


@pytest.mark.parametrize(("seconds", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)])
def test_extend_refuses_what_is_no_duration(q: mqlite.Queue[Any], seconds: Any, error: type[Exception]) -> None:
    message = received(q)
    with pytest.raises(error, match="seconds"):
        message.extend(seconds)
    message.ack()


def test_a_reason_is_a_text(q: mqlite.Queue[Any]) -> None:
    message = received(q)
    with pytest.raises(TypeError, match="reason"):
        message.reject(5)  # type: ignore[arg-type]
    message.ack()


def test_a_message_cannot_be_pickled(q: mqlite.Queue[Any]) -> None:
    message = received(q)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(message)


def test_messages_are_equal_only_to_themselves(q: mqlite.Queue[Any]) -> None:
    q.put_many(["x", "x"])
    one, other = q.receive(2)
    assert (one == one, one == other, len({one, other})) == (True, False, 2)


# ---------------------------------------------------------------------- get: at most once
def test_get_is_not_blamed_and_leaves_no_claim(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.get()
    assert (q.stats().claimed, q.stats().dead) == (0, 0)


def test_get_takes_what_was_given_back(q: mqlite.Queue[Any]) -> None:
    received(q).nack()
    assert q.get_nowait() == "x"
