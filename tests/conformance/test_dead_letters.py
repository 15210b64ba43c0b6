"""What can never be done goes to the dead-letter queue, whole, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from contents import Torn
from fixture_types import MakeQueue

import mqlite


def fail(q: mqlite.Queue[Any], times: int, error: object = None) -> None:
    for _ in range(times):
        q.receive(timeout=0)[0].nack(error=error)


def dead_letter(q: mqlite.Queue[Any]) -> tuple[mqlite.Message, mqlite.Death]:
    [message] = q.dead.peek()
    assert message.death is not None
    return message, message.death


def test_a_message_dies_after_five_failures_by_default(q: mqlite.Queue[Any]) -> None:
    q.put("poison")
    fail(q, 4)
    before = (q.qsize(), q.stats().dead)
    fail(q, 1)
    assert (before, q.qsize(), q.stats().dead) == ((1, 0), 0, 1)


@pytest.mark.parametrize("maximum", [1, 2, 7])
def test_max_deliveries_failures_are_death(make_queue: MakeQueue, maximum: int) -> None:
    q = make_queue(max_deliveries=maximum)
    q.put("poison")
    fail(q, maximum)
    assert (q.qsize(), len(q.dead)) == (0, 1)


def test_without_max_deliveries_a_message_never_dies(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=None)
    q.put("stubborn")
    fail(q, 30)
    assert (q.qsize(), len(q.dead)) == (1, 0)


def test_a_poison_message_does_not_stop_the_others(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=2)
    q.put_many(["poison", "good"])
    fail(q, 2)
    assert q.get(timeout=0) == "good"


def test_death_says_why_where_and_when(q: mqlite.Queue[Any]) -> None:
    q.put("poison")
    fail(q, 5, error="boom")
    _, death = dead_letter(q)
    assert (death.reason, death.queue, death.delivery_count, death.error, death.traceback) == ("max_deliveries", "q", 5, "boom", None)
    assert abs(death.died_at - datetime.now(UTC)) < timedelta(minutes=5)


def test_death_keeps_the_last_exception_and_its_traceback(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=1)
    q.put("poison")
    with pytest.raises(ZeroDivisionError), q.receive(timeout=0)[0]:
        _ = 1 / 0
    _, death = dead_letter(q)
    assert (death.error, "test_death_keeps" in (death.traceback or "")) == ("ZeroDivisionError: division by zero", True)


def test_a_dead_message_keeps_its_id_and_fields(q: mqlite.Queue[Any]) -> None:
    number = q.put({"n": 1}, priority=7, headers={"a": 1}, type="t", reply_to="r", correlation_id="c")
    [claimed] = q.receive(timeout=0)
    claimed.reject()
    message, _ = dead_letter(q)
    found = (message.id, message.body, message.priority, message.headers, message.type, message.reply_to, message.correlation_id, message.enqueued_at)
    assert found == (number, {"n": 1}, 7, {"a": 1}, "t", "r", "c", claimed.enqueued_at)


def test_a_living_message_has_no_death(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    assert q.receive(timeout=0)[0].death is None


def test_reject_is_death_at_once_and_no_failure(q: mqlite.Queue[Any]) -> None:
    q.put("hopeless")
    q.receive(timeout=0)[0].reject("no such customer")
    message, death = dead_letter(q)
    assert (death.reason, death.error, death.delivery_count, message.delivery_count) == ("rejected", "no such customer", 0, 0)


def test_reject_counts_the_failures_before_it(q: mqlite.Queue[Any]) -> None:
    q.put("hopeless")
    fail(q, 2)
    q.receive(timeout=0)[0].reject()
    _, death = dead_letter(q)
    assert (death.delivery_count, death.error) == (2, None)


def test_releases_do_not_lead_to_death(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=1)
    q.put("x")
    for _ in range(3):
        q.receive(timeout=0)[0].release()
    assert (q.qsize(), len(q.dead)) == (1, 0)


@pytest.mark.parametrize("end", [lambda q: fail(q, 5), lambda q: q.receive(timeout=0)[0].reject()], ids=["max_deliveries", "reject"])
def test_without_a_dead_letter_queue_dead_messages_are_dropped(make_queue: MakeQueue, end: Callable[[mqlite.Queue[Any]], None]) -> None:
    q = make_queue(dead_letter=False)
    q.put("x")
    end(q)
    assert (q.qsize(), len(q.dead), q.stats().dead) == (0, 0, 0)


def test_dead_letters_come_in_the_order_of_priority_and_death(q: mqlite.Queue[Any]) -> None:
    for n in range(3):
        q.put(n)
    q.put("high", priority=1)
    messages = {m.body: m for m in q.receive(4)}
    for body in (2, 0, "high", 1):
        messages[body].reject()
    assert [m.body for m in q.dead.receive(4)] == ["high", 2, 0, 1]


def test_the_dead_letter_queue_is_a_queue(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    for message in q.receive(2):
        message.reject()
    dead = q.dead
    [message] = dead.receive(timeout=0)
    message.ack()
    assert (dead.get(timeout=0), dead.qsize(), q.stats().dead) == (2, 0, 0)


def test_a_dead_letter_never_dies_of_failures(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.receive(timeout=0)[0].reject()
    fail(q.dead, 20)
    assert len(q.dead) == 1


def test_a_failed_dead_letter_keeps_its_first_death(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.receive(timeout=0)[0].reject("first")
    fail(q.dead, 1, error="second")
    assert dead_letter(q)[1].error == "first"


def test_closing_the_dead_letters_leaves_the_queue_open(q: mqlite.Queue[Any]) -> None:
    q.dead.close()
    q.put("x")
    assert q.get(timeout=0) == "x"


def test_dead_letters_that_were_closed_can_be_opened_again(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.receive(timeout=0)[0].reject()
    with q.dead as dead:
        assert dead.qsize() == 1
    assert q.dead.get(timeout=0) == "x"


def test_closing_a_queue_closes_its_dead_letters(q: mqlite.Queue[Any]) -> None:
    dead = q.dead
    q.close()
    with pytest.raises(mqlite.Closed):
        dead.get(timeout=0)


def test_closing_a_queue_wakes_who_waits_for_dead_letters(q: mqlite.Queue[Any], in_thread: Callable[..., Future[Any]], until_waiting: Callable[..., None]) -> None:
    dead = q.dead
    waiting = in_thread(dead.get)
    until_waiting(dead)
    q.close()
    assert isinstance(waiting.exception(10), mqlite.Closed)


def test_dead_letters_do_not_count_against_maxsize(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    for n in range(3):
        q.put_nowait(n)
        q.receive(timeout=0)[0].reject()
    assert (len(q.dead), q.full()) == (3, False)


def test_max_deliveries_can_be_changed_while_a_message_is_claimed(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=2)
    q.put("x")
    fail(q, 1)
    [message] = q.receive(timeout=0)
    q.configure(max_deliveries=10)
    message.nack()
    assert (q.qsize(), len(q.dead)) == (1, 0)


def test_the_settings_of_dead_letters_are_fixed(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(mqlite.NotSupported):
        q.dead.configure(maxsize=1)


def test_dead_letters_survive_a_reopen(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        q.receive(timeout=0)[0].reject("why")
    with mqlite.Queue("q", path) as q:
        assert dead_letter(q)[1].error == "why"


# ---------------------------------------------------------------------- bodies that cannot be decoded
@pytest.mark.parametrize(
    "take",
    [lambda q: q.get(timeout=0), lambda q: q.receive(timeout=0)[0].body, lambda q: q.consumer().receive(0).body, lambda q: q.consumer(auto_ack=True).receive(0).body],
    ids=["get", "receive", "consumer", "auto_ack"],
)
def test_an_undecodable_body_goes_to_the_dead_and_the_queue_goes_on(path: str, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    with mqlite.Queue("q", path, codec=Torn()) as q:
        q.put_many([["bad"], ["good"]])
        assert take(q) == "['good']"
        assert q.stats().dead == 1


def test_an_undecodable_body_is_kept_as_raw_bytes_with_the_reason(path: str) -> None:
    with mqlite.Queue("q", path, codec=Torn()) as q:
        number = q.put(["bad"])
        with pytest.raises(mqlite.Empty):
            q.get(timeout=0)
        [message] = q.dead.receive(timeout=0)
        assert message.death is not None
        assert (message.id, message.body, message.death.reason) == (number, b"['bad']", "corrupted")
        assert "unreadable" in (message.death.error or "")


def test_browsing_passes_over_undecodable_bodies(path: str) -> None:
    with mqlite.Queue("q", path, codec=Torn()) as q:
        q.put_many([["bad"], ["good"]])
        assert [m.body for m in q.browse()] == ["['good']"]


def test_an_undecodable_body_is_kept_even_without_a_dead_letter_queue(path: str) -> None:
    with mqlite.Queue("q", path, codec=Torn(), dead_letter=False) as q:
        q.put(["bad"])
        with pytest.raises(mqlite.Empty):
            q.get(timeout=0)
        assert q.stats().dead == 1
