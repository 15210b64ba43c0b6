"""Messages that wait for their time: put with delay or eta, retried after a while; never early, never lost."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from contents import taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import NOON, HandClock

import mqlite


# ---------------------------------------------------------------------- put
def test_a_delayed_message_is_not_there_before_its_time_and_is_there_at_it(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("later", delay=2.5)
    clock.pass_by(2.4999)
    assert (taken(q), q.qsize(), q.empty(), q.peek(1)) == ([], 0, True, [])
    clock.pass_by(0.0001)
    assert (q.qsize(), [m.body for m in q.peek(1)], taken(q)) == (1, ["later"], ["later"])


def test_messages_come_in_the_order_in_which_they_are_due(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    for delay in (3, 1, 2):
        q.put(delay, delay=delay)
    q.put("now")
    clock.pass_by(5)
    assert taken(q) == ["now", 1, 2, 3]


def test_a_due_message_lines_up_at_its_priority(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("low", priority=-1)
    q.put("high", priority=1, delay=1)
    q.put("lowest", priority=-2, delay=1)
    clock.pass_by(1)
    assert taken(q) == ["high", "low", "lowest"]


def test_a_delayed_message_is_itself_when_it_comes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    number = q.put({"a": 1}, delay=1, priority=3, headers={"h": "x"}, type="t", reply_to="r", correlation_id="c")
    put_at = datetime.fromtimestamp(NOON, UTC)
    clock.pass_by(1)
    [m] = q.receive(timeout=0)
    assert (m.id, m.body, m.priority, m.headers, m.type, m.reply_to, m.correlation_id) == (number, {"a": 1}, 3, {"h": "x"}, "t", "r", "c")
    assert (m.enqueued_at, m.delivery_count, m.acquired_count, m.redelivered) == (put_at, 0, 1, False)
    m.ack()
    assert q.unfinished_tasks == 0


def test_stats_say_what_waits(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("1", delay=1)
    q.put("2", delay=2)
    q.put("now")
    _ = q.receive(timeout=0)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed) == (0, 2, 1)
    clock.pass_by(1)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, q.unfinished_tasks) == (1, 1, 1, 3)


def test_delayed_messages_count_for_maxsize(timed: MakeQueue) -> None:
    q = timed(maxsize=2)
    q.put_many([1, 2], delay=60)
    with pytest.raises(mqlite.Full):
        q.put(3, timeout=0)


def test_put_many_and_producers_delay_too(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many([1, 2], delay=1)
    with q.producer() as producer:
        producer.put(3, delay=2)
        producer.put(4, eta=NOON + 3)
    assert taken(q) == []
    clock.pass_by(5)
    assert taken(q) == [1, 2, 3, 4]


@pytest.mark.parametrize("delay", [0, 0.0, None])
def test_no_delay_is_no_delay(timed: MakeQueue, delay: float | None) -> None:
    q = timed()
    q.put("now", delay=delay)
    assert (q.stats().delayed, taken(q)) == (0, ["now"])


def test_delays_have_no_upper_limit(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("in a century", delay=100 * 365.25 * 86400)
    q.put("some day", delay=1e299)
    clock.pass_by(101 * 365.25 * 86400)
    assert (taken(q), q.stats().delayed) == (["in a century"], 1)


def test_a_thousand_that_are_due_at_once_all_come_in_order(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(list(range(1300)), delay=1)
    clock.pass_by(1)
    assert [m.body for m in q.receive(2000, timeout=0)] == list(range(1300))


@pytest.mark.parametrize(
    "eta",
    [
        NOON + 60,
        NOON + 60.0,
        datetime.fromtimestamp(NOON + 60, UTC),
        datetime.fromtimestamp(NOON + 60, timezone(timedelta(hours=-7))),
    ],
)
def test_an_eta_is_a_moment(timed: MakeQueue, clock: HandClock, eta: Any) -> None:
    q = timed()
    q.put("then", eta=eta)
    clock.pass_by(59.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["then"]


def test_an_eta_that_has_passed_is_now(timed: MakeQueue) -> None:
    q = timed()
    q.put("late", eta=NOON - 1)
    assert taken(q) == ["late"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": -1}, ValueError),
        ({"delay": float("nan")}, ValueError),
        ({"delay": float("inf")}, ValueError),
        ({"delay": 10**400}, ValueError),
        ({"eta": 10**400}, ValueError),
        ({"delay": "1"}, TypeError),
        ({"delay": True}, TypeError),
        ({"eta": "noon"}, TypeError),
        ({"eta": False}, TypeError),
        ({"eta": float("inf")}, ValueError),
        ({"eta": datetime(2030, 1, 1)}, ValueError),
        ({"eta": NOON, "delay": 1}, ValueError),
    ],
)
def test_a_bad_time_is_told_and_stores_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception]) -> None:
    for put in (lambda: q.put(1, **options), lambda: q.put_many([1], **options), lambda: q.producer().put(1, **options)):
        with pytest.raises(error, match=r"delay|eta"):
            put()
    assert (q.qsize(), q.stats().delayed) == (0, 0)


# ---------------------------------------------------------------------- clocks that jump
@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_delay_takes_its_time_whatever_the_wall_clock_does(timed: MakeQueue, clock: HandClock, jump: float) -> None:
    q = timed()
    q.put("later", delay=10)
    clock.set_wall(jump)
    clock.pass_by(9.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["later"]


def test_an_eta_goes_by_the_wall_clock_in_both_directions(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("then", eta=NOON + 3600)
    clock.set_wall(-7200)
    clock.pass_by(3600)
    assert taken(q) == []
    clock.set_wall(7200)
    assert taken(q) == ["then"]


def test_a_backoff_takes_its_time_when_the_wall_clock_is_set_back(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=[5])
    q.put("x")
    q.receive(timeout=0)[0].nack()
    clock.set_wall(-86400)
    clock.pass_by(5)
    assert taken(q) == ["x"]


# ---------------------------------------------------------------------- nack and backoff
def test_a_delayed_nack_waits_and_counts(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(["fails", "other"])
    [m] = q.receive(timeout=0)
    m.nack(delay=5)
    assert (q.stats().delayed, taken(q)) == (1, ["other"])
    clock.pass_by(5)
    [again] = q.receive(timeout=0)
    assert (again.id, again.delivery_count, again.acquired_count, again.redelivered) == (m.id, 1, 2, True)
    with pytest.raises(mqlite.NotClaimed):
        m.ack()


def test_the_last_failure_does_not_wait(timed: MakeQueue) -> None:
    q = timed(max_deliveries=1)
    q.put("x")
    q.receive(timeout=0)[0].nack(delay=5, error="bad")
    assert (q.stats().delayed, q.stats().dead) == (0, 1)
    [dead] = q.dead.peek(1)
    assert dead.death is not None
    assert (dead.death.reason, dead.death.error, dead.death.delivery_count) == ("max_deliveries", "bad", 1)


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [([1, 10], (1, 10, 10)), (mqlite.Backoff(base=2, factor=3, maximum=10, jitter=0), (2, 6, 10, 10))],
    ids=["a list repeats its last wait", "an exponential one grows to its maximum"],
)
def test_a_backoff_says_how_long_each_failure_waits(timed: MakeQueue, clock: HandClock, backoff: Any, waits: tuple[float, ...]) -> None:
    q = timed(backoff=backoff, max_deliveries=None)
    q.put("x")
    for wait in waits:
        q.receive(timeout=0)[0].nack()
        clock.pass_by(wait - 0.001)
        assert q.qsize() == 0
        clock.pass_by(0.001)
        assert q.qsize() == 1


def test_an_explicit_delay_overrules_the_backoff(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=[100])
    q.put("x")
    q.receive(timeout=0)[0].nack(delay=1)
    clock.pass_by(1)
    q.receive(timeout=0)[0].nack(delay=0)
    assert taken(q) == ["x"]


def test_the_block_of_a_message_backs_off_on_an_exception(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=[1])
    q.put("x")
    with pytest.raises(RuntimeError), q.receive(timeout=0)[0]:
        raise RuntimeError("fails")
    assert q.stats().delayed == 1
    clock.pass_by(1)
    assert taken(q) == ["x"]


def test_only_the_failed_message_waits(timed: MakeQueue) -> None:
    q = timed(backoff=[100])
    q.put_many([1, 2, 3])
    q.receive(timeout=0)[0].nack()
    assert taken(q) == [2, 3]


def test_a_lost_claim_is_not_delayed(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ack_timeout=10, backoff=[5])
    q.put("x")
    [hung] = q.receive(timeout=0)
    clock.pass_by(11)
    [m] = q.receive(timeout=0)
    with pytest.raises(mqlite.LeaseLost):
        hung.nack()
    with pytest.raises(mqlite.LeaseLost):
        hung.nack(delay=5)
    m.ack()
    assert (q.stats().delayed, q.stats().ready, q.stats().dead) == (0, 0, 0)


@pytest.mark.parametrize(
    ("backoff", "error"),
    [([], ValueError), ([-1], ValueError), (["1"], TypeError), (5, TypeError), ("fast", TypeError), ([float("nan")], ValueError)],
)
def test_a_bad_backoff_is_told(make_queue: MakeQueue, backoff: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="backoff"):
        make_queue(backoff=backoff)


@pytest.mark.parametrize("options", [{"base": 0}, {"factor": 0.5}, {"jitter": 2}, {"maximum": -1}])
def test_a_bad_exponential_backoff_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        mqlite.Backoff(**options)


def test_jitter_shortens_by_a_random_part_and_never_lengthens() -> None:
    backoff = mqlite.Backoff(base=8, factor=2, maximum=100, jitter=0.25)
    waits = {backoff.seconds(3) for _ in range(200)}
    assert len(waits) > 100
    assert all(24 <= wait <= 32 for wait in waits)
    assert mqlite.Backoff(maximum=7, jitter=0).seconds(10**9) == 7


def test_an_exponential_backoff_has_no_jump_before_its_maximum() -> None:
    backoff = mqlite.Backoff(base=0.001, factor=2, maximum=1e9, jitter=0)
    waits = [backoff.seconds(failures) for failures in range(1, 60)]
    assert all(later == min(2 * wait, 1e9) for wait, later in itertools.pairwise(waits))


def test_a_dict_for_a_backoff_is_checked_like_everything(make_queue: MakeQueue) -> None:
    with pytest.raises(ValueError, match="backoff"):
        make_queue(backoff={"waits": []})


def test_a_backoff_is_stored_and_can_be_changed(make_queue: MakeQueue) -> None:
    q = make_queue(backoff=[1, 2])
    make_queue(backoff=[1, 2])
    if q._channel.store.path is not None:
        with pytest.raises(mqlite.SettingsMismatch, match="backoff"):
            make_queue(backoff=mqlite.Backoff())
    q.configure(backoff=mqlite.Backoff(base=0.5))
    assert q._state.options.backoff == mqlite.Backoff(base=0.5)
    q.configure(backoff=None)
    q.put("x")
    q.receive(timeout=0)[0].nack()
    assert taken(q) == ["x"]


# ---------------------------------------------------------------------- waiting
def test_who_waits_is_woken_when_a_message_is_due(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = in_thread(q.get, timeout=30)
    until_waiting(q)
    start = time.monotonic()
    q.put("later", delay=0.2)
    assert waiting.result(30) == "later"
    assert time.monotonic() - start >= 0.2


def test_who_waits_for_a_later_one_is_woken_by_an_earlier_one(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("much later", delay=3600)
    waiting = in_thread(q.get, timeout=30)
    until_waiting(q)
    q.put("later", delay=0.1)
    assert waiting.result(30) == "later"


def test_several_who_wait_each_get_one_of_those_that_are_due(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = [in_thread(q.get, timeout=30) for _ in range(3)]
    until_waiting(q, n=3)
    q.put_many([1, 2, 3], delay=0.1)
    assert sorted(future.result(30) for future in waiting) == [1, 2, 3]


def test_who_leaves_early_leaves_the_watch_to_another(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("later", delay=0.3)
    impatient = in_thread(q.get, timeout=0.05)  # it may be gone before the other one comes
    patient = in_thread(q.get, timeout=30)
    with pytest.raises(mqlite.Empty):
        impatient.result(30)
    assert patient.result(30) == "later"


def test_a_wait_for_an_eta_ends_when_the_wall_clock_is_set_forward(timed: MakeQueue, clock: HandClock, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = timed()
    q.put("then", eta=NOON + 3600)
    waiting = in_thread(q.get, timeout=None)
    until_waiting(q)
    clock.set_wall(3600)
    assert waiting.result(30) == "then"


def test_a_consumer_waits_for_what_is_due(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put("later", delay=0.1)
    with q.consumer() as consumer, consumer.receive(timeout=30) as message:
        assert message.body == "later"


def test_join_waits_for_delayed_messages(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put("later", delay=0.1)
    joined = in_thread(q.join)
    q.receive(timeout=30)[0].ack()
    assert joined.result(30) is None


def test_a_shut_down_queue_gives_what_is_ready_and_keeps_what_waits(timed: MakeQueue) -> None:
    q = timed()
    q.put("now")
    q.put("later", delay=60)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        q.put("more", delay=1)
    assert q.get(timeout=0) == "now"
    with pytest.raises(mqlite.ShutDown):
        q.get()
