"""Messages that are settled in a transaction: by its commit, once, or not at all; and none of them hangs."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import got, held
from transaction_things import GUARD, broker, counts, received, timed_broker  # noqa: F401

import mqlite

Settle = Callable[[mqlite.Message, Any], None]
IN: dict[str, Settle] = {
    "ack": lambda message, tx: message.ack(tx=tx),
    "nack": lambda message, tx: message.nack(tx=tx),
    "reject": lambda message, tx: message.reject(tx=tx),
}
OUT: dict[str, Callable[[mqlite.Message], None]] = {
    "ack": lambda message: message.ack(),
    "nack": lambda message: message.nack(),
    "reject": lambda message: message.reject(),
    "release": lambda message: message.release(),
}
AFTER = {"ack": (0, 0, 0, 0), "nack": (1, 0, 0, 0), "reject": (0, 0, 0, 1), "release": (1, 0, 0, 0)}
in_transaction = pytest.mark.parametrize("settle", IN.values(), ids=IN.keys())
CLAIMED = (0, 0, 1, 0)


# ---------------------------------------------------------------------- at the commit
@pytest.mark.parametrize("how", IN)
def test_a_message_is_settled_by_the_commit_and_not_before(broker: mqlite.Broker, how: str) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        assert IN[how](message, tx) is None
        assert counts(q) == CLAIMED
    assert counts(q) == AFTER[how]


def test_a_transaction_whose_commit_was_interrupted_before_it_began_keeps_no_message(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tx: mqlite.Transaction) -> None:
        raise KeyboardInterrupt

    def acknowledge() -> None:
        with broker.transaction() as tx:
            message.ack(tx=tx)

    q = broker.queue("q")
    message = received(q)
    with monkeypatch.context() as patch:
        patch.setattr(mqlite.Transaction, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            acknowledge()
    message.ack()
    assert counts(q) == AFTER["ack"]


def test_messages_of_several_queues_are_settled_together(broker: mqlite.Broker) -> None:
    queues = [broker.queue(f"q{number}") for number in range(3)]
    found = [received(q) for q in queues]
    with broker.transaction() as tx:
        for message, settle in zip(found, IN.values(), strict=True):
            settle(message, tx)
    assert [counts(q) for q in queues] == [AFTER["ack"], AFTER["nack"], AFTER["reject"]]


def test_many_are_acknowledged_together(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many(list(range(100)))
    found = held(q)
    with broker.transaction() as tx:
        assert q.ack_many(found[:60], tx=tx) is None
        assert counts(q) == (0, 0, 100, 0)
        q.ack_many(found[60:99], tx=tx)
    assert counts(q) == CLAIMED
    found[99].ack()


def test_a_rejected_message_keeps_its_reason(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q, "bad")
    with broker.transaction() as tx:
        message.reject("because", tx=tx)
    [letter] = q.dead.receive(timeout=0)
    assert (letter.body, letter.id) == ("bad", message.id)
    assert letter.death is not None
    assert (letter.death.reason, letter.death.error, letter.death.queue) == ("rejected", "because", "q")
    letter.release()


def test_a_message_that_is_acknowledged_is_done_for_who_joins(broker: mqlite.Broker, in_thread: InThread) -> None:
    q = broker.queue("q")
    message = received(q)
    waiting = in_thread(q.join)
    with broker.transaction() as tx:
        message.ack(tx=tx)
        assert q.unfinished_tasks == 1
        assert not waiting.done()
    waiting.result(GUARD)
    assert q.unfinished_tasks == 0


# ---------------------------------------------------------------------- nack
def test_a_nacked_message_goes_back_to_its_place_at_once(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many([1, 2, 3])
    [first] = q.receive(timeout=0)
    with broker.transaction() as tx:
        first.nack(tx=tx)
    assert [(message.body, message.delivery_count) for message in q.browse()] == [(1, 1), (2, 0), (3, 0)]
    [again] = q.receive(timeout=0)
    assert (again.body, again.delivery_count, again.acquired_count) == (1, 1, 2)
    again.release()


def test_a_nack_with_delay_0_overrides_the_backoff(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q", backoff=[100])
    message = received(q)
    with timed_broker.transaction() as tx:
        message.nack(0, tx=tx)
    assert counts(q) == (1, 0, 0, 0)


def test_a_nack_with_a_delay_waits(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q")
    message = received(q)
    with timed_broker.transaction() as tx:
        message.nack(delay=10, tx=tx)
    assert counts(q) == (0, 1, 0, 0)
    clock.pass_by(9.999)
    assert q.qsize() == 0
    clock.pass_by(0.001)
    [again] = q.receive(timeout=0)
    assert (again.id, again.delivery_count) == (message.id, 1)
    again.ack()


def test_a_nack_goes_by_the_backoff_of_the_queue(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", backoff=[5, 50])
    q.put("x")
    for wait in (5, 50):
        [message] = q.receive(timeout=0)
        with timed_broker.transaction() as tx:
            message.nack(tx=tx)
        assert counts(q) == (0, 1, 0, 0)
        clock.pass_by(wait - 0.001)
        assert q.qsize() == 0
        clock.pass_by(0.001)
        assert q.qsize() == 1


@pytest.mark.parametrize("error", [ValueError("boom"), "boom"])
def test_a_nacked_message_is_dead_after_max_deliveries(broker: mqlite.Broker, error: object) -> None:
    q = broker.queue("q", max_deliveries=2)
    q.put("x")
    for wanted in ((1, 0, 0, 0), (0, 0, 0, 1)):
        [message] = q.receive(timeout=0)
        with broker.transaction() as tx:
            message.nack(error=error, tx=tx)
            assert counts(q) == CLAIMED
        assert counts(q) == wanted
    [letter] = q.dead.peek()
    assert letter.death is not None
    assert (letter.death.reason, letter.death.delivery_count) == ("max_deliveries", 2)
    assert "boom" in (letter.death.error or "")


def test_a_dead_message_is_dropped_where_dead_letters_are(broker: mqlite.Broker) -> None:
    q = broker.queue("q", max_deliveries=1, dead_letter=False)
    message = received(q)
    with broker.transaction() as tx:
        message.nack(tx=tx)
    assert counts(q) == (0, 0, 0, 0)


def test_a_nack_that_is_rolled_back_is_no_failure(broker: mqlite.Broker) -> None:
    q = broker.queue("q", max_deliveries=2)
    message = received(q)
    for _ in range(5):
        tx = broker.transaction()
        message.nack(tx=tx)
        tx.rollback()
    message.release()
    [again] = q.receive(timeout=0)
    assert (again.delivery_count, again.acquired_count) == (0, 2)
    again.ack()


@pytest.mark.parametrize(("settle", "error"), [(lambda m, tx: m.nack(delay=-1, tx=tx), ValueError), (lambda m, tx: m.nack(delay="1", tx=tx), TypeError), (lambda m, tx: m.reject(5, tx=tx), TypeError)], ids=["negative", "str", "reason"])
def test_a_bad_argument_is_told_at_once_and_stages_nothing(broker: mqlite.Broker, settle: Settle, error: type[Exception]) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        with pytest.raises(error):
            settle(message, tx)
        message.ack(tx=tx)
    assert counts(q) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- once
AGAIN: dict[str, Callable[[mqlite.Queue[Any], mqlite.Message, mqlite.Transaction], object]] = {
    "ack": lambda q, message, tx: message.ack(tx=tx),
    "nack": lambda q, message, tx: message.nack(tx=tx),
    "reject": lambda q, message, tx: message.reject(tx=tx),
    "ack_many": lambda q, message, tx: q.ack_many([message], tx=tx),
    "ack outside": lambda q, message, tx: message.ack(),
    "nack outside": lambda q, message, tx: message.nack(),
    "reject outside": lambda q, message, tx: message.reject(),
    "release outside": lambda q, message, tx: message.release(),
    "ack_many outside": lambda q, message, tx: q.ack_many([message]),
}


@pytest.mark.parametrize("how", IN)
@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN.keys())
def test_a_staged_message_cannot_be_settled_again(broker: mqlite.Broker, how: str, again: Callable[..., object]) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        IN[how](message, tx)
        with pytest.raises(mqlite.NotClaimed):
            again(q, message, tx)
        assert counts(q) == CLAIMED
    assert counts(q) == AFTER[how]


def test_a_staged_message_cannot_be_settled_in_another_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        message.ack(tx=tx)
        with broker.transaction() as other:
            for settle in (*IN.values(), lambda message, tx: q.ack_many([message], tx=tx)):
                with pytest.raises(mqlite.NotClaimed):
                    settle(message, other)
            with pytest.raises(mqlite.NotClaimed):
                q.ack_many([message])
    assert counts(q) == (0, 0, 0, 0)


def test_ack_many_stages_all_or_none(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many([1, 2, 3])
    one, two, three = held(q)
    with broker.transaction() as tx:
        one.nack(tx=tx)
        for wrong in ([two, one], [two, three, two], [two, *q.browse(), one]):
            with pytest.raises(mqlite.NotClaimed):
                q.ack_many(wrong, tx=tx)
        q.ack_many([two, three], tx=tx)
    assert counts(q) == (1, 0, 0, 0)


@pytest.mark.parametrize("first", IN)
@pytest.mark.parametrize("second", OUT)
def test_what_a_transaction_has_settled_cannot_be_settled_again(broker: mqlite.Broker, first: str, second: str) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        IN[first](message, tx)
    with pytest.raises(mqlite.NotClaimed):
        OUT[second](message)
    assert counts(q) == AFTER[first]


def test_what_was_settled_cannot_be_staged(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q)
    message.ack()
    with broker.transaction() as tx:
        for settle in IN.values():
            with pytest.raises(mqlite.NotClaimed):
                settle(message, tx)


@in_transaction
def test_a_message_that_was_peeked_at_cannot_be_staged(broker: mqlite.Broker, settle: Settle) -> None:
    q = broker.queue("q")
    q.put("x")
    with broker.transaction() as tx, pytest.raises(mqlite.NotClaimed):
        settle(q.peek()[0], tx)
    assert counts(q) == (1, 0, 0, 0)


def test_of_threads_that_stage_one_message_in_their_transactions_one_succeeds(broker: mqlite.Broker, in_thread: InThread) -> None:
    q = broker.queue("q")
    for _ in range(10):
        message = received(q)
        start = threading.Barrier(4)

        def settle(message: mqlite.Message = message, start: threading.Barrier = start) -> None:
            start.wait(GUARD)
            with broker.transaction() as tx:
                message.ack(tx=tx)

        outcomes = [future.exception(GUARD) for future in [in_thread(settle) for _ in range(4)]]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", *["NotClaimed"] * 3]
        assert counts(q) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- rolled back
@in_transaction
@pytest.mark.parametrize("then", OUT)
def test_after_a_rollback_the_message_is_claimed_and_can_be_settled(broker: mqlite.Broker, settle: Settle, then: str) -> None:
    q = broker.queue("q")
    message = received(q)
    tx = broker.transaction()
    settle(message, tx)
    tx.rollback()
    assert counts(q) == CLAIMED
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0)
    OUT[then](message)
    assert counts(q) == AFTER[then]


@pytest.mark.parametrize("first", IN)
@pytest.mark.parametrize("then", IN)
def test_after_a_rollback_the_message_can_be_settled_in_another_transaction(broker: mqlite.Broker, first: str, then: str) -> None:
    q = broker.queue("q")
    message = received(q)

    def fails() -> None:
        with broker.transaction() as tx:
            IN[first](message, tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with broker.transaction() as tx:
        IN[then](message, tx)
    assert counts(q) == AFTER[then]


def test_after_a_failed_commit_the_message_is_claimed_and_can_be_settled(broker: mqlite.Broker) -> None:
    q, full = broker.queue("q"), broker.queue("full", maxsize=1)
    full.put(0)
    message = received(q)
    tx = broker.transaction()
    message.ack(tx=tx)
    full.put(1, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert counts(q) == CLAIMED
    message.extend(60)
    with broker.transaction() as tx:
        message.ack(tx=tx)
    assert counts(q) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- lost claims
@in_transaction
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_claim_that_was_lost_fails_the_commit(broker: mqlite.Broker, settle: Settle, when: str) -> None:
    q, out = broker.queue("q"), broker.queue("out")
    q.put("x")
    consumer = q.consumer()
    message = consumer.receive(0)

    def work() -> None:
        with broker.transaction() as tx:
            out.put(1, tx=tx)
            if when == "before":
                consumer.close()
            settle(message, tx)
            consumer.close()

    with pytest.raises(mqlite.LeaseLost, match="'q'"):
        work()
    assert (counts(q), counts(out)) == ((1, 0, 0, 0), (0, 0, 0, 0))
    assert q.peek()[0].delivery_count == 0


@in_transaction
def test_a_lost_claim_leaves_the_new_holder_alone(broker: mqlite.Broker, settle: Settle) -> None:
    q = broker.queue("q")
    q.put("x")
    tx = broker.transaction()
    with q.consumer() as consumer:
        settle(consumer.receive(0), tx)
    [new] = q.receive(timeout=0)
    with pytest.raises(mqlite.LeaseLost):
        tx.commit()
    new.ack()
    assert counts(q) == (0, 0, 0, 0)


def test_one_lost_claim_of_many_leaves_the_others_as_they_were(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many([1, 2, 3])
    [first] = q.receive(timeout=0)
    consumer = q.consumer()
    lost = consumer.receive(0)
    [last] = q.receive(timeout=0)
    tx = broker.transaction()
    q.ack_many([first, lost], tx=tx)
    last.nack(tx=tx)
    consumer.close()
    with pytest.raises(mqlite.LeaseLost):
        tx.commit()
    assert counts(q) == (1, 0, 2, 0)
    first.ack()
    last.ack()
    assert got(q) == [2]


def test_a_claim_that_timed_out_is_lost(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", ack_timeout=10)
    message = received(q)
    tx = timed_broker.transaction()
    message.ack(tx=tx)
    clock.pass_by(11)
    [again] = q.receive(timeout=0)
    assert again.id == message.id
    with pytest.raises(mqlite.LeaseLost):
        tx.commit()
    again.ack()


# ---------------------------------------------------------------------- with message
def test_the_block_of_a_staged_message_does_not_settle_it(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        with message:
            message.nack(tx=tx)
        assert counts(q) == CLAIMED
    assert counts(q) == (1, 0, 0, 0)
    assert q.peek()[0].delivery_count == 1


@pytest.mark.parametrize("how", IN)
def test_a_block_of_a_message_around_the_transaction(broker: mqlite.Broker, how: str) -> None:
    q, out = broker.queue("q"), broker.queue("out")
    with received(q) as message, broker.transaction() as tx:
        out.put(message.body, tx=tx)
        IN[how](message, tx)
    assert (counts(q), got(out)) == (AFTER[how], ["x"])


@pytest.mark.parametrize("how", IN)
def test_a_block_of_a_message_inside_the_transaction(broker: mqlite.Broker, how: str) -> None:
    q, out = broker.queue("q"), broker.queue("out")
    with broker.transaction() as tx:
        with received(q) as message:
            out.put(message.body, tx=tx)
            IN[how](message, tx)
        assert counts(q) == CLAIMED
    assert (counts(q), got(out)) == (AFTER[how], ["x"])


def test_a_message_that_is_not_staged_is_settled_by_its_block_at_once(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    tx = broker.transaction()
    with received(q):
        pass
    assert counts(q) == (0, 0, 0, 0)
    tx.rollback()
    assert counts(q) == (0, 0, 0, 0)


def test_an_exception_that_is_caught_between_leaves_the_staged_message_to_the_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx:
        with contextlib.suppress(ZeroDivisionError), received(q) as message:
            message.ack(tx=tx)
            _ = 1 / 0
        assert counts(q) == CLAIMED
    assert counts(q) == (0, 0, 0, 0)


def _raised_in_message_block(broker: mqlite.Broker, message: mqlite.Message, error: BaseException) -> None:
    with broker.transaction() as tx, message:
        message.ack(tx=tx)
        raise error


def _raised_in_transaction_block(broker: mqlite.Broker, message: mqlite.Message, error: BaseException) -> None:
    with message, broker.transaction() as tx:
        message.ack(tx=tx)
        raise error


def _raised_later(broker: mqlite.Broker, message: mqlite.Message, error: BaseException) -> None:
    with broker.transaction() as tx:
        with message:
            message.ack(tx=tx)
        raise error


def _raised_in_message_block_after_the_transaction(broker: mqlite.Broker, message: mqlite.Message, error: BaseException) -> None:
    with message:
        tx = broker.transaction()
        message.ack(tx=tx)
        tx.rollback()
        raise error


RAISED = [_raised_in_message_block, _raised_in_transaction_block, _raised_later, _raised_in_message_block_after_the_transaction]
raised = pytest.mark.parametrize("work", RAISED, ids=[function.__name__[1:] for function in RAISED])


@raised
def test_a_message_whose_transaction_fails_was_tried_once(broker: mqlite.Broker, work: Callable[..., None]) -> None:
    q = broker.queue("q")
    with pytest.raises(ZeroDivisionError):
        work(broker, received(q), ZeroDivisionError("it failed"))
    [again] = q.receive(timeout=0)
    assert (again.delivery_count, again.acquired_count) == (1, 2)
    again.ack()


@raised
def test_a_message_whose_transaction_fails_dies_of_that_error(broker: mqlite.Broker, work: Callable[..., None]) -> None:
    q = broker.queue("q", max_deliveries=1)
    with pytest.raises(ZeroDivisionError):
        work(broker, received(q), ZeroDivisionError("it failed"))
    assert counts(q) == (0, 0, 0, 1)
    [letter] = q.dead.peek()
    assert letter.death is not None
    assert (letter.death.reason, letter.death.error) == ("max_deliveries", "ZeroDivisionError: it failed")


@raised
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_failure_of_the_message_gives_it_back_without_blame(broker: mqlite.Broker, work: Callable[..., None], error: type[BaseException]) -> None:
    q = broker.queue("q", max_deliveries=1)
    with pytest.raises(error):
        work(broker, received(q), error())
    [again] = q.receive(timeout=0)
    assert (again.delivery_count, again.acquired_count) == (0, 2)
    again.ack()


def test_a_message_whose_block_ended_is_nacked_by_a_rollback(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    tx = broker.transaction()
    with received(q) as message:
        message.ack(tx=tx)
    assert counts(q) == CLAIMED
    tx.rollback()
    assert counts(q) == (1, 0, 0, 0)
    assert q.peek()[0].delivery_count == 1
    with pytest.raises(mqlite.NotClaimed):
        message.ack()


def test_a_message_whose_block_ended_is_nacked_by_a_commit_that_fails(broker: mqlite.Broker) -> None:
    q, full = broker.queue("q", max_deliveries=1), broker.queue("full", maxsize=1)
    full.put(0)
    tx = broker.transaction()
    with received(q) as message:
        full.put(1, tx=tx)
        message.ack(tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    [letter] = q.dead.peek()
    assert letter.death is not None
    assert (letter.death.error or "").startswith("Full")


def test_a_message_whose_block_ended_goes_by_its_backoff_when_the_transaction_fails(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q", backoff=[100])
    tx = timed_broker.transaction()
    with received(q) as message:
        message.ack(tx=tx)
    tx.rollback()
    assert counts(q) == (0, 1, 0, 0)


def test_a_message_whose_block_ended_and_whose_claim_was_lost_is_somebody_else_s(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put("x")
    tx = broker.transaction()
    with q.consumer() as consumer, consumer.receive(0) as message:
        message.ack(tx=tx)
    [new] = q.receive(timeout=0)
    with pytest.raises(mqlite.LeaseLost):
        tx.commit()
    assert counts(q) == CLAIMED
    new.ack()
    assert counts(q) == (0, 0, 0, 0)


def test_a_message_whose_block_goes_on_is_not_nacked_by_a_rollback(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with received(q) as message:
        tx = broker.transaction()
        message.nack(tx=tx)
        tx.rollback()
        assert counts(q) == CLAIMED
    assert counts(q) == (0, 0, 0, 0)  # acknowledged by its block


def test_many_messages_whose_blocks_ended_come_back_together(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many(list(range(5)))
    tx = broker.transaction()
    for message in held(q):
        with message:
            message.ack(tx=tx)
    tx.rollback()
    assert [(message.body, message.delivery_count) for message in q.browse()] == [(number, 1) for number in range(5)]


# ---------------------------------------------------------------------- consumers
def test_a_staged_message_fills_the_prefetch_until_the_commit(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many([1, 2])
    with q.consumer(prefetch=1) as consumer:
        first = consumer.receive(0)
        with broker.transaction() as tx:
            first.ack(tx=tx)
            with pytest.raises(mqlite.Empty):
                consumer.receive(0)
        with consumer.receive(0) as second:
            assert second.body == 2


@pytest.mark.parametrize("how", IN)
def test_a_commit_wakes_who_waits_for_room_in_a_consumer(broker: mqlite.Broker, in_thread: InThread, how: str) -> None:
    q = broker.queue("q", max_deliveries=1)
    q.put_many([1, 2])
    with q.consumer(prefetch=1) as consumer:
        first = consumer.receive(0)
        tx = broker.transaction()
        IN[how](first, tx)
        waiting = in_thread(consumer.receive, GUARD)
        tx.commit()
        second = waiting.result(GUARD)
        assert second.body == 2
        second.ack()


def test_a_consumer_works_off_a_queue_by_transactions(broker: mqlite.Broker) -> None:
    q, out = broker.queue("q"), broker.queue("out")
    q.put_many(list(range(30)))
    with q.consumer(prefetch=7) as consumer:
        for _ in range(30):
            message = consumer.receive(0)
            with broker.transaction() as tx:
                out.put(message.body * 2, tx=tx)
                message.ack(tx=tx)
    assert (got(out), counts(q)) == ([number * 2 for number in range(30)], (0, 0, 0, 0))


def test_after_a_rollback_a_message_still_fills_the_prefetch(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put_many([1, 2])
    with q.consumer(prefetch=1) as consumer:
        message = consumer.receive(0)
        tx = broker.transaction()
        message.ack(tx=tx)
        tx.rollback()
        with pytest.raises(mqlite.Empty):
            consumer.receive(0)
        message.ack()
        consumer.receive(0).ack()


def test_closing_a_consumer_gives_back_what_is_staged(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put(1)
    tx = broker.transaction()
    with q.consumer() as consumer:
        consumer.receive(0).ack(tx=tx)
    assert counts(q) == (1, 0, 0, 0)
    tx.rollback()
    assert got(q) == [1]


def test_a_message_of_a_consumer_that_settles_by_itself_cannot_be_staged(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put(1)
    with q.consumer(auto_ack=True) as consumer, broker.transaction() as tx:
        message = consumer.receive(0)
        with pytest.raises(mqlite.NotClaimed):
            message.ack(tx=tx)


def test_a_settled_message_makes_way_for_the_next_of_its_group(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q")
    q.put(1, group="g")
    q.put(2, group="g")
    [first] = q.receive(timeout=0)
    waiting = in_thread(q.receive, timeout=GUARD)
    until_waiting(q)
    with broker.transaction() as tx:
        first.ack(tx=tx)
        assert not waiting.done()
    [second] = waiting.result(GUARD)
    assert second.body == 2
    second.ack()


def test_a_nack_wakes_who_waits_for_a_message(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q")
    message = received(q)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    with broker.transaction() as tx:
        message.nack(tx=tx)
    assert waiting.result(GUARD) == "x"


def test_a_reject_wakes_who_waits_for_dead_letters(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q")
    message = received(q)
    waiting = in_thread(q.dead.get, timeout=GUARD)
    until_waiting(q.dead)
    with broker.transaction() as tx:
        message.reject(tx=tx)
    assert waiting.result(GUARD) == "x"


# ---------------------------------------------------------------------- subscriptions, dead letters
@pytest.mark.parametrize("how", IN)
def test_messages_of_a_subscription_are_settled(broker: mqlite.Broker, how: str) -> None:
    topic = broker.topic("events")
    a, b = topic.subscribe("a"), topic.subscribe("b")
    topic.publish("x")
    [message] = held(a)
    with broker.transaction() as tx:
        IN[how](message, tx)
    assert (counts(a), counts(b)) == (AFTER[how], (1, 0, 0, 0))
    assert got(b) == ["x"]


def test_messages_of_two_subscriptions_and_a_queue_are_settled_together(broker: mqlite.Broker) -> None:
    topic, q = broker.topic("events"), broker.queue("q")
    topic.bind(q)
    a, b = topic.subscribe("a"), topic.subscribe("b")
    topic.publish("x")
    [one], [two], [three] = held(a), held(b), held(q)
    with broker.transaction() as tx:
        one.ack(tx=tx)
        a.ack_many([two], tx=tx)
        three.ack(tx=tx)
    assert [counts(queue) for queue in (a, b, q)] == [(0, 0, 0, 0)] * 3
    assert topic.stats().stored == 0


def test_a_subscription_that_went_loses_the_claims_on_its_messages(broker: mqlite.Broker) -> None:
    topic, q = broker.topic("events"), broker.queue("q")
    sub = topic.subscribe("s")
    topic.publish("x")
    [message] = held(sub)
    tx = broker.transaction()
    message.ack(tx=tx)
    q.put(1, tx=tx)
    topic.unsubscribe("s")
    with pytest.raises(mqlite.MqliteError):
        tx.commit()
    assert counts(q) == (0, 0, 0, 0)


def test_a_dead_letter_is_settled_in_a_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    received(q, "bad").reject()
    [letter] = q.dead.receive(timeout=0)
    with broker.transaction() as tx:
        q.put("mended", tx=tx)
        letter.ack(tx=tx)
    assert (got(q), q.stats().dead) == (["mended"], 0)


def test_claimed_messages_of_a_queue_that_was_shut_down_are_settled(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q)
    with broker.transaction() as tx:
        message.ack(tx=tx)
        q.shutdown()
    assert counts(q) == (0, 0, 0, 0)


def test_a_message_of_another_store_is_refused_by_ack_many(broker: mqlite.Broker) -> None:
    with mqlite.open() as foreign:
        message = received(foreign.queue("q"))
        with broker.transaction() as tx, pytest.raises((ValueError, mqlite.NotClaimed)):
            broker.queue("q").ack_many([message], tx=tx)
        message.ack()
