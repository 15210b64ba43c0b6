"""A holder that lives and does nothing loses its claim after ack_timeout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock, timed_queue

import mqlite


def test_a_hung_holder_s_message_comes_to_the_next_who_waits(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put("x")
    _ = q.receive(timeout=0)
    assert q.receive(timeout=10)[0].body == "x"


def test_a_timeout_is_a_failure_of_the_message(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put("x")
    _ = q.receive(timeout=0)
    [message] = q.receive(timeout=10)
    assert (message.delivery_count, message.acquired_count, message.redelivered) == (1, 2, True)


@pytest.mark.parametrize("settle", [lambda m: m.ack(), lambda m: m.nack(), lambda m: m.reject(), lambda m: m.release(), lambda m: m.extend(60)], ids=["ack", "nack", "reject", "release", "extend"])
def test_the_hung_holder_cannot_settle_any_more(make_queue: MakeQueue, settle: Callable[[mqlite.Message], None]) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put("x")
    [hung] = q.receive(timeout=0)
    q.configure(ack_timeout=600)
    [message] = q.receive(timeout=10)
    with pytest.raises(mqlite.LeaseLost):
        settle(hung)
    message.ack()
    assert (q.stats().ready, q.stats().claimed, q.stats().dead) == (0, 0, 0)


def test_claims_that_have_not_timed_out_are_kept_when_another_does(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put_many(["lost", "kept"])
    _ = q.receive(timeout=0)
    q.configure(ack_timeout=600)
    [kept] = q.receive(timeout=0)
    [message] = q.receive(2, timeout=10)
    kept.ack()
    assert message.body == "lost"


def test_an_extended_claim_is_kept(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put_many(["kept", "lost"])
    kept, _ = q.receive(2, timeout=0)
    kept.extend(600)
    [message] = q.receive(2, timeout=10)
    kept.ack()
    assert message.body == "lost"


def test_extend_may_shorten_a_claim(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(ack_timeout=600)
    q.put("x")
    [message] = q.receive(timeout=0)
    waiting = in_thread(q.receive)
    until_waiting(q)
    message.extend(0.05)
    assert waiting.result(10)[0].body == "x"


def test_without_ack_timeout_a_claim_never_ends(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=None)
    q.put("x")
    [message] = q.receive(timeout=0)
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0.1)
    message.ack()


def test_a_message_whose_holders_hang_dies_after_max_deliveries(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.03, max_deliveries=2)
    q.put("x")
    _ = q.receive(timeout=0)
    _ = q.receive(timeout=10)
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0.5)
    [message] = q.dead.receive(timeout=0)
    assert message.death is not None
    assert (message.death.reason, message.death.delivery_count) == ("max_deliveries", 2)


def test_prefetched_messages_that_time_out_are_not_blamed(make_queue: MakeQueue) -> None:
    q = make_queue(ack_timeout=0.05)
    q.put_many(["in hand", "in the buffer"])
    with q.consumer(prefetch=2) as consumer:
        _ = consumer.receive(0)
        taken: dict[str, int] = {}
        while len(taken) < 2:
            taken.update({m.body: m.delivery_count for m in q.receive(2, timeout=10) if m.body not in taken})
        assert taken == {"in hand": 1, "in the buffer": 0}


@pytest.mark.parametrize("in_the_buffer", [0, 0.5, 1, 7], ids=lambda seconds: f"{seconds} s")
def test_the_time_in_the_buffer_does_not_count(backend: str, path: str, made: list[mqlite.Queue[Any]], in_the_buffer: float) -> None:
    """A message is not taken back before ack_timeout, counted from when it was handed out, and soon after it."""
    clock = HandClock()
    q = timed_queue(path if backend == "disk" else None, clock, ack_timeout=8)
    made.append(q)
    q.put_many(["first", "second"])
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(0).ack()
        clock.pass_by(in_the_buffer)
        assert consumer.receive(0).body == "second"
        clock.pass_by(7.999)
        with pytest.raises(mqlite.Empty):
            q.receive(timeout=0)
        clock.pass_by(1.001)  # an eighth of it, at most a second, it may be late
        [again] = q.receive(timeout=0)
        assert (again.body, again.delivery_count) == ("second", 1)


def test_a_prefetched_message_whose_time_is_over_is_not_handed_out(backend: str, path: str, made: list[mqlite.Queue[Any]]) -> None:
    clock = HandClock()
    q = timed_queue(path if backend == "disk" else None, clock, ack_timeout=8)
    made.append(q)
    q.put_many(["first", "second"])
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(0).ack()
        clock.pass_by(9)
        [second] = q.receive(timeout=0)  # it came back from the buffer
        assert (second.body, second.delivery_count) == ("second", 0)
        q.put("third")
        assert consumer.receive(0).body == "third"


def test_the_deadline_of_what_is_prefetched_follows_a_change_of_the_setting(backend: str, path: str, made: list[mqlite.Queue[Any]]) -> None:
    """It holds from the hand-out on, whatever it was when the message was claimed."""
    clock = HandClock()
    q = timed_queue(path if backend == "disk" else None, clock, ack_timeout=80)
    made.append(q)
    q.put_many(["first", "second", "third"])
    with q.consumer(prefetch=3) as consumer:
        first = consumer.receive(0)
        q.configure(ack_timeout=8)
        _ = consumer.receive(0)
        q.configure(ack_timeout=800)
        third = consumer.receive(0)
        clock.pass_by(9)
        [second] = q.receive(3, timeout=0)
        assert (second.body, second.delivery_count) == ("second", 1)
        second.ack()
        first.ack()
        clock.pass_by(790)
        with pytest.raises(mqlite.Empty):
            q.receive(timeout=0)
        third.ack()


def test_who_waits_sleeps_no_longer_than_to_a_deadline_that_a_hand_out_makes_earlier(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting
) -> None:
    q = make_queue(ack_timeout=600)
    q.put_many(["first", "second"])
    with q.consumer(prefetch=2) as consumer:
        first = consumer.receive(0)
        waiting = in_thread(q.receive)
        until_waiting(q)
        q.configure(ack_timeout=0.05)
        _ = consumer.receive(0)
        assert waiting.result(10)[0].body == "second"
        first.ack()


def test_a_wait_goes_back_to_sleep_when_no_claim_is_left_to_time_out(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    q = make_queue(ack_timeout=0.02)
    q.put("x")
    q.receive(timeout=0)[0].ack()
    looks = count_looks(q, monkeypatch)
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0.3)
    assert len(looks) < 20


def test_a_wait_goes_back_to_sleep_while_an_extended_claim_is_held(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    q = make_queue(ack_timeout=0.02)
    q.put("x")
    [message] = q.receive(timeout=0)
    message.extend(600)
    looks = count_looks(q, monkeypatch)
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0.3)
    assert len(looks) < 20


def count_looks(q: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows whenever somebody asks the log to be written."""
    looks: list[None] = []
    write = q._engine.log.write

    def counted(op: Callable[[Any], Any]) -> Any:
        looks.append(None)
        return write(op)

    monkeypatch.setattr(q._engine.log, "write", counted)
    return looks


@pytest.mark.parametrize("seconds", [5e6, 1e9])
def test_a_very_long_ack_timeout_is_kept(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, seconds: float
) -> None:
    q = make_queue(ack_timeout=seconds)
    q.put("x")
    [message] = q.receive(timeout=0)
    got = in_thread(q.get)
    until_waiting(q)
    message.release()
    assert got.result(10) == "x"


@pytest.mark.parametrize("seconds", [1e12, 1e300])
def test_an_ack_timeout_that_no_clock_can_count_is_refused(make_queue: MakeQueue, seconds: float) -> None:
    with pytest.raises(ValueError, match="ack_timeout"):
        make_queue(ack_timeout=seconds)
