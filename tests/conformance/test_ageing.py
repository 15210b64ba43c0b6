"""Ageing: what waits rises, so that no stream of urgent messages can starve the others; and by how much is exact."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from bounded import BOUNDED
from contents import taken
from fixture_types import MakeQueue
from hand_clock import SECOND, HandClock, timed_queue
from hypothesis import given, settings
from hypothesis import strategies as st

import mqlite


@pytest.fixture
def timed(timed: MakeQueue) -> MakeQueue:
    """timed(**options): a queue, ageing by 10 seconds per step unless said otherwise, of a store that goes by `clock`."""
    return functools.partial(timed, aging=10)


# ---------------------------------------------------------------------- the bound
@pytest.mark.parametrize(
    ("later", "order"),
    [(9.999, ["high", "low"]), (10, ["low", "high"]), (10.001, ["low", "high"])],
    ids=["just within", "exactly at", "just beyond"],
)
def test_a_message_is_overtaken_only_by_what_is_put_within_the_step(timed: MakeQueue, clock: HandClock, later: float, order: list[str]) -> None:
    q = timed()
    q.put("low")
    clock.pass_by(later)
    q.put("high", priority=1)
    assert taken(q) == order


def test_two_steps_take_twice_as_long(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("low", priority=-1)
    clock.pass_by(15)
    q.put("zero", priority=0)
    q.put("one", priority=1)
    assert taken(q) == ["one", "low", "zero"]


def test_of_one_moment_the_higher_priority_comes_first(timed: MakeQueue) -> None:
    q = timed()
    for priority in (0, 5, -3, 5, 1):
        q.put(priority, priority=priority)
    assert taken(q) == [5, 5, 1, 0, -3]


def test_within_a_priority_the_first_in_is_the_first_out(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    for n in range(30):
        q.put(n, priority=2)
        clock.pass_by(n % 3)
    q.put_many(list(range(30, 330)), priority=2)
    assert taken(q) == list(range(330))


def test_a_steady_stream_of_urgent_messages_does_not_starve_a_low_one(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("low")
    taken = []
    for n in range(100):  # as many come as go
        q.put(n, priority=3)
        taken.append(q.get(timeout=0))
        clock.pass_by(1)
    assert taken.index("low") == 30


@pytest.mark.parametrize("aging", [1e-6, 1e6])
def test_the_extreme_priorities_are_in_order(timed: MakeQueue, clock: HandClock, aging: float) -> None:
    q = timed(aging=aging)
    priorities = [-(2**31), 0, 2**31 - 1, 1, -1]
    for priority in priorities:
        q.put(priority, priority=priority)
    assert [(m.body, m.priority) for m in q.peek(5)] == [(p, p) for p in sorted(priorities, reverse=True)]
    assert taken(q) == sorted(priorities, reverse=True)


def test_the_wall_clock_has_no_say(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("low")
    clock.set_wall(86400)
    q.put("high", priority=1)
    clock.set_wall(-2 * 86400)
    q.put("low, too")
    clock.pass_by(1)
    assert taken(q) == ["high", "low", "low, too"]


PUTS = st.lists(st.tuples(st.integers(0, 40), st.integers(-3, 3), st.integers(1, 2)), max_size=30)
AGINGS = st.sampled_from([0.5, 1.0, 7.0, 10.0])


def on_each_backend(memory: int, disk: int) -> Any:
    return pytest.mark.parametrize(("where", "examples"), [("memory", memory), ("disk", disk)])


@on_each_backend(150, 15)
def test_the_order_is_that_of_the_times_of_the_puts_less_what_the_priorities_are_worth(where: str, examples: int, path: str, clock: HandClock) -> None:
    names = itertools.count()

    @settings(BOUNDED, max_examples=examples)
    @given(PUTS, AGINGS)
    def check(puts: list[tuple[int, int, int]], aging: float) -> None:
        with timed_queue(path if where == "disk" else None, clock, f"q{next(names)}", aging=aging) as q:
            expected: list[tuple[Fraction, int, int]] = []  # (virtual time, id, priority)
            for pause, priority, count in puts:
                clock.pass_by(pause)
                virtual = Fraction(clock.monotonic_ns(), SECOND) - priority * Fraction(aging)
                expected += [(virtual, id, priority) for id in q.put_many([0] * count, priority=priority)]
            expected.sort()
            assert [m.id for m in q.browse()] == [id for _, id, _ in expected]
            assert [m.id for m in q.peek(100)] == [id for _, id, _ in expected]
            messages = q.receive(100, timeout=0) if expected else []
            assert [(m.id, m.priority) for m in messages] == [(id, priority) for _, id, priority in expected]
            assert q.check() == []

    with timed_queue(path if where == "disk" else None, clock, "kept open"):
        check()


@on_each_backend(150, 15)
def test_no_message_is_overtaken_from_beyond_the_bound(where: str, examples: int, path: str, clock: HandClock) -> None:
    names = itertools.count()

    @settings(BOUNDED, max_examples=examples)
    @given(st.lists(st.tuples(st.integers(0, 25), st.integers(-2, 2), st.booleans()), max_size=40), AGINGS)
    def check(steps: list[tuple[int, int, bool]], aging: float) -> None:
        with timed_queue(path if where == "disk" else None, clock, f"q{next(names)}", aging=aging) as q:
            put: dict[int, tuple[float, int]] = {}  # id -> (when, priority)
            started: dict[int, int] = {}  # id -> its place in the order of deliveries
            for pause, priority, takes in steps:
                clock.pass_by(pause)
                put[q.put(0, priority=priority)] = (clock.monotonic_ns() / SECOND, priority)
                if takes:
                    [message] = q.receive(timeout=0)
                    started[message.id] = len(started)
                    message.ack()
            for message in q.receive(100, timeout=0) if len(started) < len(put) else []:
                started[message.id] = len(started)
            assert started.keys() == put.keys()
            for first, second in itertools.combinations(put, 2):
                (t1, p1), (t2, p2) = put[first], put[second]
                if started[second] < started[first]:
                    assert t2 < t1 + (p2 - p1) * aging

    with timed_queue(path if where == "disk" else None, clock, "kept open"):
        check()


# ---------------------------------------------------------------------- what comes back
@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_message_given_back_keeps_its_age(timed: MakeQueue, clock: HandClock, give_back: Callable[[mqlite.Message], None]) -> None:
    q = timed()
    q.put("old")
    [held] = q.receive()
    clock.pass_by(20)
    q.put("young and urgent", priority=1)
    give_back(held)
    assert [(m.body, m.priority) for m in q.receive(2)] == [("old", 0), ("young and urgent", 1)]


def test_a_retry_is_as_old_as_the_moment_at_which_it_lines_up_again(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("fails", priority=1)
    q.receive()[0].nack(delay=20)
    clock.pass_by(5)
    q.put("meanwhile")
    clock.pass_by(15)
    assert q.qsize() == 2
    assert [(m.body, m.priority, m.delivery_count) for m in q.peek(2)] == [("meanwhile", 0, 0), ("fails", 1, 1)]
    clock.pass_by(4)
    q.put("urgent", priority=2)
    assert taken(q) == ["urgent", "meanwhile", "fails"]


@pytest.mark.parametrize(("delay", "order"), [(9, ["delayed", "plain"]), (11, ["plain", "delayed"])])
def test_a_delayed_message_ages_from_the_moment_at_which_it_is_due(timed: MakeQueue, clock: HandClock, delay: float, order: list[str]) -> None:
    q = timed()
    q.put("plain")
    q.put("delayed", priority=1, delay=delay)
    clock.pass_by(delay)
    assert [m.priority for m in q.peek(2)] == ([1, 0] if order[0] == "delayed" else [0, 1])
    assert taken(q) == order


def test_a_redriven_message_is_as_if_it_were_put_now(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number = q.put("died", priority=1)
    q.receive()[0].reject()
    [letter] = q.dead.peek()
    assert (letter.id, letter.priority) == (number, 1)
    clock.pass_by(100)
    q.put("first")
    clock.pass_by(11)
    assert q.redrive() == 1
    q.put("second")
    assert [(m.body, m.priority, m.delivery_count) for m in q.receive(3)] == [("first", 0, 0), ("died", 1, 0), ("second", 0, 0)]


def test_what_timed_out_keeps_its_age(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ack_timeout=30)
    q.put("hangs")
    q.receive()
    clock.pass_by(31)
    [again] = q.receive(timeout=0)  # takes it back
    again.release()
    q.put("urgent", priority=3)
    assert [(m.body, m.delivery_count) for m in q.receive(2)] == [("hangs", 1), ("urgent", 0)]


def test_a_message_that_dies_from_failures_keeps_its_priority(timed: MakeQueue) -> None:
    q = timed(max_deliveries=1)
    q.put("dies", priority=-4)
    q.receive()[0].nack()
    assert [(m.body, m.priority) for m in q.dead.peek()] == [("dies", -4)]
    assert [(m.body, m.priority) for m in q.dead.receive()] == [("dies", -4)]


# ---------------------------------------------------------------------- by id
def test_an_updated_message_has_its_new_priority_and_is_as_if_it_were_put_now(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    ids = [q.put("raised"), q.put("stays")]
    clock.pass_by(15)
    assert q.update(ids[0], priority=1)
    assert [(m.body, m.priority, m.id) for m in q.peek(2)] == [("stays", 0, ids[1]), ("raised", 1, ids[0])]
    assert q.update(ids[0], priority=2)
    assert [(m.body, m.priority, m.id) for m in q.receive(2)] == [("raised", 2, ids[0]), ("stays", 0, ids[1])]


def test_an_updated_message_that_waits_for_its_time_has_its_new_priority(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number = q.put("later", delay=5)
    assert q.update(number, priority=3)
    q.put("now")
    clock.pass_by(5)
    assert [(m.body, m.priority) for m in q.receive(2)] == [("later", 3), ("now", 0)]


def test_a_message_is_cancelled_by_its_id(timed: MakeQueue) -> None:
    q = timed()
    ids = q.put_many([0, 1, 2])
    assert q.cancel(ids[1])
    assert not q.cancel(ids[1])
    assert taken(q) == [0, 2]


# ---------------------------------------------------------------------- with other features, and settings
def test_producers_and_schedules_age_too(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "tick", every=100, priority=1)
    with q.producer() as producer:
        producer.put("produced", priority=-1)
    clock.pass_by(100)
    assert q.qsize() == 2
    q.put("urgent", priority=1)
    assert [(m.body, m.priority) for m in q.receive(9)] == [("produced", -1), ("tick", 1), ("urgent", 1)]


def test_a_group_is_in_order_of_priority_while_others_age(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("g low", group="g")
    clock.pass_by(50)
    q.put("g high", group="g", priority=1)
    q.put("other")
    [first, other] = q.receive(9)
    assert (first.body, other.body) == ("g high", "other")
    first.ack()
    assert taken(q) == ["g low"]


def test_the_order_survives_a_reopen_and_is_stored(path: str, clock: HandClock) -> None:
    def open_again(**options: Any) -> mqlite.Queue[Any]:
        return timed_queue(path, clock, **options)

    with open_again(aging=10) as q:
        q.put("low")
        clock.pass_by(5)
        q.put("high", priority=1)
        clock.pass_by(10)
    with pytest.raises(mqlite.SettingsMismatch):
        open_again(aging=11)
    with open_again() as q:
        q.put("late", priority=1)
        assert [m.priority for m in q.peek(3)] == [1, 0, 1]
        assert taken(q) == ["high", "low", "late"]
        assert q.check() == []


@pytest.mark.parametrize(
    ("aging", "error"),
    [(0, ValueError), (-1, ValueError), (1e6 + 1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_step_is_told(make_queue: MakeQueue, aging: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="aging"):
        make_queue(aging=aging)


def test_ageing_does_not_go_with_turns(make_queue: MakeQueue) -> None:
    with pytest.raises(ValueError, match="aging and fair"):
        make_queue(aging=1, fair=True)


def test_the_step_cannot_be_changed(make_queue: MakeQueue) -> None:
    with pytest.raises(TypeError, match="aging"):
        make_queue(aging=1).configure(aging=2)
