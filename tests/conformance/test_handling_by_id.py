"""A message is cancelled or changed by its id, wherever it is, while nobody holds it."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from contents import taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock

import mqlite
from mqlite.claims import Kind

GUARD = 60.0


ORDERS: list[dict[str, Any]] = [{}, {"order": "lifo"}, {"aging": 10.0}, {"fair": True}]
Place = Callable[[mqlite.Queue[Any], HandClock], int]


# ---------------------------------------------------------------------- where a message can be
def ready(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x")


def urgent(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x", priority=7)


def delayed(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x", delay=60)


def until_a_time_of_day(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x", eta=clock.moment(60))


def given_back(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = q.put("x", priority=2**31 - 1)
    q.receive(timeout=0)[0].release()
    return number


def failed(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = q.put("x", priority=2**31 - 1)
    q.receive(timeout=0)[0].nack()
    return number


def retried_later(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = q.put("x", priority=2**31 - 1)
    q.receive(timeout=0)[0].nack(delay=60)
    return number


def retried(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = retried_later(q, clock)
    clock.pass_by(60)
    q.stats()
    return number


def promoted(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = delayed(q, clock)
    clock.pass_by(60)
    q.stats()
    return number


def due_but_not_moved(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = delayed(q, clock)
    clock.pass_by(60)
    return number


def redriven(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = q.put("x", priority=2**31 - 1)
    q.receive(timeout=0)[0].reject()
    assert q.redrive() == 1
    return number


def redriven_later(q: mqlite.Queue[Any], clock: HandClock) -> int:
    numbers = [q.put(body, priority=2**31 - 1) for body in ("y", "x")]
    for message in q.receive(2, timeout=0):
        message.reject()
    assert q.redrive(rate=0.02) == 2
    assert q.cancel(numbers[0])
    return numbers[1]


def updated(q: mqlite.Queue[Any], clock: HandClock) -> int:
    number = q.put("x")
    assert q.update(number, priority=5)
    return number


def expiring(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x", ttl=1000)


def keyed(q: mqlite.Queue[Any], clock: HandClock) -> int:
    return q.put("x", replace_key="r", unique="u", dedup_id="d")


PLACES = [
    ready,
    urgent,
    delayed,
    until_a_time_of_day,
    given_back,
    failed,
    retried_later,
    retried,
    promoted,
    due_but_not_moved,
    redriven,
    redriven_later,
    updated,
    expiring,
    keyed,
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_message_is_cancelled_wherever_it_is_and_then_it_is_gone(timed: MakeQueue, clock: HandClock, place: Place, order: dict[str, Any]) -> None:
    q = timed(**order)
    q.put("before")
    number = place(q, clock)
    q.put("after")
    assert q.cancel(number) is True
    assert (q.cancel(number), q.update(number, priority=1)) == (False, False)
    clock.pass_by(5000)
    assert (sorted(taken(q)), q.stats().dead, q.stats().bytes) == (["after", "before"], 0, 0)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_message_is_moved_to_the_front_wherever_it_is(timed: MakeQueue, clock: HandClock, place: Place, order: dict[str, Any]) -> None:
    q = timed(**order)
    q.put("before")
    number = place(q, clock)
    q.put("after")
    assert q.update(number, priority=2**31 - 1, delay=0) is True
    [message] = q.receive(timeout=0)
    assert (message.body, message.id, message.priority) == ("x", number, 2**31 - 1)
    message.ack()
    assert (q.cancel(number), sorted(taken(q))) == (False, ["after", "before"])


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_message_can_be_put_off_wherever_it_is(timed: MakeQueue, clock: HandClock, place: Place, order: dict[str, Any]) -> None:
    q = timed(**order)
    number = place(q, clock)
    assert q.update(number, delay=100) is True
    assert (taken(q), q.stats().delayed) == ([], 1)
    clock.pass_by(99.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    [message] = q.receive(timeout=0)
    assert (message.body, message.id) == ("x", number)
    message.ack()


@pytest.mark.parametrize("place", PLACES)
def test_what_is_changed_keeps_its_counts_and_all_that_is_said_of_it(timed: MakeQueue, clock: HandClock, place: Place) -> None:
    q = timed()
    number = place(q, clock)
    clock.pass_by(100)
    [seen] = q.peek()
    assert q.update(number, priority=3)
    [message] = q.receive(timeout=0)
    assert (message.id, message.delivery_count, message.acquired_count - 1, message.enqueued_at) == (number, seen.delivery_count, seen.acquired_count, seen.enqueued_at)
    message.ack()


def test_headers_and_the_like_stay(timed: MakeQueue) -> None:
    q = timed()
    number = q.put({"a": 1}, headers={"h": "x"}, type="t", reply_to="r", correlation_id="c", group="g")
    assert q.update(number, priority=2, delay=0, ttl=60)
    [m] = q.receive(timeout=0)
    assert (m.body, m.headers, m.type, m.reply_to, m.correlation_id, m.group) == ({"a": 1}, {"h": "x"}, "t", "r", "c", "g")


# ---------------------------------------------------------------------- held
@pytest.mark.parametrize("call", [lambda q, n: q.cancel(n), lambda q, n: q.update(n, priority=1), lambda q, n: q.update(n, delay=5), lambda q, n: q.update(n, ttl=5)])
def test_a_message_that_somebody_holds_cannot_be_changed(q: mqlite.Queue[Any], call: Callable[[mqlite.Queue[Any], int], Any]) -> None:
    number = q.put("x", priority=1)
    [message] = q.receive(timeout=0)
    with pytest.raises(mqlite.AlreadyClaimed, match=str(number)):
        call(q, number)
    message.ack()
    assert call(q, number) is False


def test_a_prefetched_message_is_held(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many([1, 2])
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(timeout=0).ack()
        with pytest.raises(mqlite.AlreadyClaimed):
            q.cancel(ids[1])
    assert q.cancel(ids[1])


def test_what_was_given_back_can_be_cancelled(q: mqlite.Queue[Any]) -> None:
    number = q.put("x")
    [message] = q.receive(timeout=0)
    with pytest.raises(mqlite.AlreadyClaimed):
        q.cancel(number)
    message.release()
    assert q.cancel(number)


def test_a_cancelled_message_cannot_be_settled_by_who_had_it_before(q: mqlite.Queue[Any]) -> None:
    number = q.put("x")
    [message] = q.receive(timeout=0)
    message.nack()
    assert q.cancel(number)
    with pytest.raises(mqlite.NotClaimed):
        message.ack()
    assert q.unfinished_tasks == 0


def test_already_claimed_is_an_error_of_mqlite() -> None:
    assert issubclass(mqlite.AlreadyClaimed, mqlite.MqliteError)


# ---------------------------------------------------------------------- what is not there
@pytest.mark.parametrize("number", [1, 10**6, 2**63 - 1, 2**64 - 1])
def test_an_id_that_was_never_given_is_not_found(make_queue: MakeQueue, number: int) -> None:
    q = make_queue()
    assert (q.cancel(number), q.update(number, priority=1)) == (False, False)


@pytest.mark.parametrize("number", [2**64, 2**100])
def test_an_id_beyond_all_ids_is_not_found(make_queue: MakeQueue, number: int) -> None:
    q = make_queue()
    q.put("x")
    assert (q.cancel(number), q.update(number, priority=1)) == (False, False)


def test_messages_that_are_gone_are_not_found(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many(list(range(4)))
    q.get(timeout=0)
    q.receive(timeout=0)[0].ack()
    q.receive(timeout=0)[0].reject()
    assert [q.cancel(number) for number in ids] == [False, False, False, True]
    assert q.stats().dead == 1


@pytest.mark.parametrize("place", PLACES)
def test_ids_of_other_queues_are_not_found(timed: MakeQueue, clock: HandClock, place: Place) -> None:
    q, other = timed("q"), timed("other")
    other.put_many(["o1", "o2"])
    number = place(q, clock)
    assert (other.cancel(number), other.update(number, delay=0), other.dead.cancel(number), q.dead.cancel(number)) == (False,) * 4
    assert q.cancel(number)
    assert taken(other) == ["o1", "o2"]


def test_a_schedule_is_no_message(timed: MakeQueue) -> None:
    q = timed()
    q.schedule("s", "x", every=60)
    first = q.put("y")
    assert [number for number in range(1, first + 50) if q.cancel(number)] == [first]
    assert [schedule.name for schedule in q.schedules()] == ["s"]
    assert not any(q.update(number, delay=0) for number in range(1, first + 50))
    assert taken(q) == []


def test_what_a_schedule_has_put_is_a_message(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("s", "x", every=60)
    clock.pass_by(60)
    [message] = q.peek()
    assert q.cancel(message.id)
    clock.pass_by(60)
    assert taken(q) == ["x"]


# ---------------------------------------------------------------------- dead letters
def test_dead_letters_are_cancelled_by_their_id(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many([1, 2, 3])
    for message in q.receive(3, timeout=0):
        message.reject()
    assert (q.cancel(ids[1]), q.dead.cancel(ids[1]), q.dead.cancel(ids[1])) == (False, True, False)
    assert [message.body for message in q.dead.browse()] == [1, 3]
    [held] = q.dead.receive(timeout=0)
    with pytest.raises(mqlite.AlreadyClaimed):
        q.dead.cancel(held.id)
    held.ack()


def test_a_dead_letter_can_be_moved_among_the_dead(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many([1, 2])
    for message in q.receive(2, timeout=0):
        message.reject("why")
    assert q.dead.update(ids[1], priority=1)
    [letter] = q.dead.receive(timeout=0)
    assert letter.death is not None
    assert (letter.body, letter.id, letter.death.reason, letter.death.error) == (2, ids[1], "rejected", "why")
    letter.release()
    assert q.redrive() == 2
    assert taken(q) == [2, 1]


# ---------------------------------------------------------------------- places in line
def test_an_updated_message_lines_up_behind_what_is_there_at_its_priority(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many([1, 2, 3])
    q.put("high", priority=1)
    assert q.update(ids[0], priority=0)
    assert q.update(ids[1], priority=1)
    assert taken(q) == ["high", 2, 3, 1]


def test_delay_zero_makes_a_waiting_message_ready_now(timed: MakeQueue) -> None:
    q = timed()
    number = q.put("x", delay=1000, priority=2)
    q.put("y")
    assert q.update(number, delay=0)
    assert (q.stats().delayed, taken(q)) == (0, ["x", "y"])


def test_an_eta_in_the_past_makes_it_ready_now(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number = q.put("x", delay=1000)
    assert q.update(number, eta=clock.moment(-5))
    assert taken(q) == ["x"]


def test_a_time_can_be_made_earlier_and_later(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    first, second = q.put(1, delay=10), q.put(2, delay=20)
    assert q.update(second, eta=clock.moment(5))
    assert q.update(first, delay=30)
    clock.pass_by(5)
    assert taken(q) == [2]
    clock.pass_by(24.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == [1]


def test_a_waiting_message_keeps_its_time_when_only_its_priority_changes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number, other = q.put("x", delay=10), q.put("y", delay=10, priority=1)
    assert q.update(number, priority=5)
    clock.pass_by(9.999)
    assert (taken(q), q.stats().delayed) == ([], 2)
    clock.pass_by(0.001)
    assert taken(q) == ["x", "y"]
    assert not q.cancel(other)


def test_a_ttl_counts_from_the_update(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number, unlimited = q.put("x", ttl=10), q.put("y")
    clock.pass_by(9)
    assert q.update(number, ttl=10)
    assert q.update(unlimited, ttl=5)
    clock.pass_by(5)
    assert (q.stats().ready, [letter.body for letter in q.dead.browse()]) == (1, ["y"])
    clock.pass_by(4.999)
    assert q.stats().ready == 1
    clock.pass_by(0.001)
    assert (q.stats().ready, q.stats().dead) == (0, 2)


def test_a_ttl_stays_when_something_else_changes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number = q.put("x", ttl=10)
    expires = q.peek()[0].expires_at
    clock.pass_by(5)
    assert q.update(number, priority=3)
    assert q.peek()[0].expires_at == expires
    clock.pass_by(5)
    assert (q.stats().ready, q.stats().dead) == (0, 1)


def test_a_message_of_a_waiting_group_can_overtake_by_its_new_priority(timed: MakeQueue) -> None:
    q = timed()
    q.put(1, group="g")
    q.put(2, group="g")
    third = q.put(3, group="g")
    assert q.update(third, priority=1)
    found = []
    for _ in range(3):
        [message] = q.receive(timeout=0)
        with pytest.raises(mqlite.Empty):
            q.receive(timeout=0)
        found.append(message.body)
        message.ack()
    assert found == [3, 1, 2]


@pytest.mark.parametrize("act", [lambda q, n: q.cancel(n), lambda q, n: q.update(n, delay=50)])
def test_the_first_of_a_group_lets_the_group_go_on(timed: MakeQueue, act: Callable[[mqlite.Queue[Any], int], bool]) -> None:
    q = timed()
    first = q.put(1, group="g")
    q.put(2, group="g")
    assert act(q, first)
    assert taken(q) == [2]


@pytest.mark.parametrize("order", [{}, {"fair": True}, {"aging": 5.0}])
def test_cancelling_a_retry_that_waits_frees_its_group(timed: MakeQueue, in_thread: InThread, order: dict[str, Any]) -> None:
    q = timed(**order)
    first = q.put(1, group="g")
    q.put(2, group="g")
    q.receive(timeout=0)[0].nack(delay=1000)
    assert taken(q) == []
    assert q.cancel(first)
    assert taken(q) == [2]


def test_a_message_of_a_busy_group_can_be_cancelled(timed: MakeQueue) -> None:
    q = timed()
    q.put(1, group="g")
    second = q.put(2, group="g")
    q.put(3, group="g")
    [held] = q.receive(timeout=0)
    assert q.cancel(second)
    held.ack()
    assert taken(q) == [3]


# ---------------------------------------------------------------------- keys
def test_a_cancelled_message_s_keys_are_free_again(timed: MakeQueue) -> None:
    q = timed()
    first = q.put(1, unique="u")
    assert q.put(2, unique="u") == first
    assert q.cancel(first)
    assert q.put(3, unique="u") != first
    assert taken(q) == [3]


def test_a_dedup_id_is_remembered_after_a_cancel(timed: MakeQueue) -> None:
    q = timed()
    first = q.put(1, dedup_id="d")
    assert q.cancel(first)
    assert (q.put(2, dedup_id="d"), taken(q)) == (first, [])


def test_an_updated_message_is_still_replaced_by_its_key(timed: MakeQueue) -> None:
    q = timed()
    number = q.put(1, replace_key="k")
    assert q.update(number, priority=2)
    assert q.put(2, replace_key="k") != number
    assert (q.cancel(number), taken(q)) == (False, [2])


def test_an_older_message_with_the_key_of_a_newer_one_can_be_moved(timed: MakeQueue) -> None:
    q = timed()
    older = q.put("older", replace_key="k")
    [held] = q.receive(timeout=0)
    q.put("newer", replace_key="k")
    held.release()
    assert q.update(older, priority=1)
    assert q.check() == []
    q.put("newest", replace_key="k")
    assert taken(q) == ["older", "newest"]


# ---------------------------------------------------------------------- many priorities
def test_it_is_found_among_many_priorities(q: mqlite.Queue[Any]) -> None:
    rng = random.Random(7)
    priorities = [rng.randint(-(2**31), 2**31 - 1) for _ in range(150)]
    ids = [q.put(index, priority=priority) for index, priority in enumerate(priorities)]
    gone = rng.sample(range(150), 75)
    assert all(q.cancel(ids[index]) for index in gone)
    left = [index for index in range(150) if index not in gone]
    assert taken(q) == sorted(left, key=lambda index: -priorities[index])


# ---------------------------------------------------------------------- who waits
def test_a_cancel_lets_a_put_in_that_waits_for_room(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    number = q.put(1, delay=1000)
    waiting = in_thread(q.put, 2, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    assert q.cancel(number)
    waiting.result(GUARD)
    assert q.get(timeout=0) == 2


def test_an_update_wakes_who_waits_for_a_message(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    number = q.put("x", delay=1000)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    assert q.update(number, delay=0)
    assert waiting.result(GUARD) == "x"


def test_an_update_to_an_earlier_time_wakes_who_waits_in_time(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    number = q.put("x", delay=1000)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    assert q.update(number, delay=0.05)
    assert waiting.result(GUARD) == "x"


@pytest.mark.parametrize("delay", [0, 1000])
def test_a_cancel_of_the_last_message_wakes_join(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, delay: float) -> None:
    number = q.put("x", delay=delay)
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    assert q.cancel(number)
    joined.result(GUARD)


def test_an_update_does_not_count_for_maxsize_twice(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    number = q.put("x")
    assert q.update(number, priority=1)
    assert q.update(number, delay=60)
    assert q.update(number, delay=0)
    assert (q.stats().ready, q.get(timeout=0)) == (1, "x")


def test_both_survive_a_restart(path: str) -> None:
    with mqlite.Queue[Any]("q", path) as q:
        ids = q.put_many([1, 2, 3])
        assert q.cancel(ids[0])
        assert q.update(ids[2], priority=1)
    with mqlite.Queue[Any]("q", path) as q:
        assert [(message.id, message.body) for message in q.browse()] == [(ids[2], 3), (ids[1], 2)]
        assert q.cancel(ids[2])
        assert q.check() == []


# ---------------------------------------------------------------------- many at once
@pytest.mark.parametrize("delay", [0, 1000])
def test_of_many_threads_that_cancel_one_message_exactly_one_did(q: mqlite.Queue[Any], in_thread: InThread, delay: float) -> None:
    for _ in range(20):
        number = q.put("x", delay=delay)
        start = threading.Barrier(6)

        def cancel(number: int = number, start: threading.Barrier = start) -> bool:
            start.wait(GUARD)
            try:
                return q.cancel(number)
            except mqlite.AlreadyClaimed:  # another one is about to remove it
                return False

        results = [future.result(GUARD) for future in [in_thread(cancel) for _ in range(6)]]
        assert results.count(True) == 1
    assert q.stats().ready == q.stats().claimed == q.stats().delayed == 0


def test_a_message_is_cancelled_or_delivered_and_never_both(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    ids = q.put_many(list(range(300)))
    cancelled: list[int] = []
    delivered: list[int] = []

    def cancel() -> None:
        for number in random.Random(3).sample(ids, len(ids)):
            try:
                if q.cancel(number):
                    cancelled.append(number)
            except mqlite.AlreadyClaimed:
                pass

    def receive(settle: str) -> None:
        while True:
            try:
                [message] = q.receive(timeout=0)
            except mqlite.Empty:
                if not q.stats().ready and not q.stats().claimed:
                    return
                continue
            delivered.append(message.id)
            getattr(message, settle)()

    for future in [in_thread(cancel), in_thread(receive, "ack"), in_thread(receive, "ack")]:
        future.result(GUARD)
    assert sorted(cancelled + delivered) == sorted(ids)


def test_updates_from_many_threads_neither_lose_nor_double_a_message(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    ids = q.put_many(list(range(20)))

    def change(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            options: dict[str, Any] = rng.choice([{"priority": rng.randint(-3, 3)}, {"delay": 1000}, {"delay": 0}, {"ttl": 1000}])
            with contextlib.suppress(mqlite.AlreadyClaimed):
                assert q.update(rng.choice(ids), **options)

    for future in [in_thread(change, seed) for seed in range(4)]:
        future.result(GUARD)
    for number in ids:
        assert q.update(number, delay=0)
    assert sorted(taken(q)) == list(range(20))
