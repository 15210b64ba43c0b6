"""A backoff that is a function: stored by its name, asked once per failure, and never able to lose a message."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue
from hand_clock import HandClock

import mqlite


def doubling(failures: int) -> float:
    """A function at the top of a module, as pickle wants it."""
    return 2.0**failures


def tenfold(failures: int) -> float:
    return 10.0 * failures


class Waiter:
    """A callable that is no function."""

    def __call__(self, failures: int) -> float:
        return 3 * failures


class Policy:
    """Its method is callable, too."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def wait(self, failures: int) -> float:
        self.seen.append(failures)
        return 5


def fail(queue: mqlite.Queue[Any]) -> None:
    """The next message fails."""
    queue.receive(timeout=0)[0].nack()


# ---------------------------------------------------------------------- how long
@pytest.mark.parametrize(
    ("function", "waits"),
    [(doubling, (2, 4, 8)), (lambda failures: 7 * failures, (7, 14, 21)), (Waiter(), (3, 6, 9)), (Policy().wait, (5, 5, 5))],
    ids=["a function", "a lambda", "an object", "a method"],
)
def test_a_function_says_how_long_each_failure_waits(timed: MakeQueue, clock: HandClock, function: Any, waits: tuple[float, ...]) -> None:
    q = timed(backoff=function, max_deliveries=None)
    q.put("x")
    for wait in waits:
        fail(q)
        clock.pass_by(wait - 0.001)
        assert (q.qsize(), q.stats().delayed) == (0, 1)
        clock.pass_by(0.001)
        assert q.qsize() == 1


def test_it_is_asked_once_per_failure_with_the_number_of_failures(timed: MakeQueue, clock: HandClock) -> None:
    policy = Policy()
    q = timed(backoff=policy.wait, max_deliveries=None)
    q.put("x")
    for _ in range(3):
        fail(q)
        clock.pass_by(5)
    assert policy.seen == [1, 2, 3]


def test_releases_do_not_count_and_do_not_ask(timed: MakeQueue, clock: HandClock) -> None:
    policy = Policy()
    q = timed(backoff=policy.wait)
    q.put("x")
    q.receive(timeout=0)[0].release()
    fail(q)
    clock.pass_by(5)
    q.receive(timeout=0)[0].release()
    fail(q)
    assert policy.seen == [1, 2]


def test_failures_by_a_timeout_count(timed: MakeQueue, clock: HandClock) -> None:
    policy = Policy()
    q = timed(backoff=policy.wait, ack_timeout=10)
    q.put("x")
    q.receive(timeout=0)
    clock.pass_by(11)
    fail(q)
    assert policy.seen == [2]


@pytest.mark.parametrize("zero", [0, 0.0])
def test_no_wait_is_back_at_once(timed: MakeQueue, zero: float) -> None:
    q = timed(backoff=lambda failures: zero)
    q.put("x")
    q.put("y")
    fail(q)
    assert (q.stats().delayed, q.get(timeout=0)) == (0, "x")


def test_an_explicit_delay_does_not_ask(timed: MakeQueue, clock: HandClock) -> None:
    policy = Policy()
    q = timed(backoff=policy.wait)
    q.put("x")
    q.receive(timeout=0)[0].nack(delay=1)
    q.put("y")
    q.receive(timeout=0)[0].nack(delay=0)
    assert policy.seen == []
    clock.pass_by(1)
    assert q.qsize() == 2


def test_the_last_failure_is_the_last_whatever_the_function_says(timed: MakeQueue) -> None:
    q = timed(backoff=lambda failures: 60, max_deliveries=1)
    q.put("x")
    fail(q)
    assert (q.stats().delayed, q.stats().dead) == (0, 1)


def test_the_block_of_a_message_backs_off(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=doubling)
    q.put("x")
    with pytest.raises(RuntimeError), q.receive(timeout=0)[0]:
        raise RuntimeError("fails")
    assert q.stats().delayed == 1
    clock.pass_by(2)
    assert q.qsize() == 1


def test_only_the_failed_message_waits(timed: MakeQueue) -> None:
    q = timed(backoff=doubling)
    q.put_many([1, 2])
    fail(q)
    assert q.get(timeout=0) == 2


# ---------------------------------------------------------------------- by name
def test_it_is_stored_by_its_name(path: str) -> None:
    with mqlite.Queue("q", path, backoff=doubling) as q:
        assert q._state.options.stored()["backoff"] == {"function": f"{__name__}.doubling"}
    with mqlite.Queue("q", path, backoff=doubling) as q:
        q.put("x")
        fail(q)
        assert q.stats().delayed == 1


def test_a_process_that_does_not_pass_it_is_told_so(path: str) -> None:
    with mqlite.Queue("q", path, backoff=doubling) as q:
        q.put("x")
    with pytest.raises(mqlite.SettingsMismatch, match=r"doubling.*backoff"):
        mqlite.Queue("q", path)
    with mqlite.Queue("q", path, backoff=doubling) as q:
        assert (q.get(timeout=0), q.check()) == ("x", [])


@pytest.mark.parametrize("other", [tenfold, mqlite.Backoff(), [1, 2], None], ids=["another function", "Backoff", "a list", "none"])
def test_another_one_is_a_mismatch(path: str, other: Any) -> None:
    mqlite.Queue("q", path, backoff=doubling).close()
    with pytest.raises(mqlite.SettingsMismatch, match="backoff"):
        mqlite.Queue("q", path, backoff=other)


@pytest.mark.parametrize("first", [mqlite.Backoff(), [1, 2], None], ids=["Backoff", "a list", "none"])
def test_a_function_where_another_kind_is_stored_is_a_mismatch(path: str, first: Any) -> None:
    mqlite.Queue("q", path, backoff=first).close()
    with pytest.raises(mqlite.SettingsMismatch, match="backoff"):
        mqlite.Queue("q", path, backoff=doubling)


def test_a_broker_asks_for_it_and_takes_it(path: str) -> None:
    with mqlite.open(path) as broker:
        broker.queue("q", backoff=doubling).put("x")
    with mqlite.open(path) as broker:
        with pytest.raises(mqlite.SettingsMismatch, match="backoff"):
            broker.queue("q")
        q = broker.queue("q", backoff=doubling)
        fail(q)
        assert q.stats().delayed == 1


def test_a_broker_counts_and_checks_without_it(path: str) -> None:
    with mqlite.Queue("q", path, backoff=doubling) as q:
        q.put("ready")
        q.put("later", delay=3600)
    with mqlite.open(path) as broker:
        assert (broker.queues(), broker.stats()["q"].ready, broker.stats()["q"].delayed, broker.check()) == (["q"], 1, 1, [])
        q = broker.queue("q", backoff=doubling)
        assert broker.stats()["q"].ready == 1
        fail(q)
        assert broker.stats()["q"].delayed == 2


def test_a_broker_that_counts_does_not_forget_it(path: str) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q", backoff=doubling)
        q.put("x")
        broker.stats()
        fail(q)
        assert broker.stats()["q"].delayed == 1


def test_a_pickled_queue_carries_it(path: str) -> None:
    with mqlite.Queue("q", path, backoff=doubling) as q:
        data = pickle.dumps(q)
        dead_data = pickle.dumps(q.dead)
        consumer_data = pickle.dumps(q.consumer())
    with pickle.loads(data) as again:
        again.put("x")
        fail(again)
        assert again.stats().delayed == 1
    with pickle.loads(dead_data) as letters:
        assert letters.qsize() == 0
    with pickle.loads(consumer_data) as consumer, pytest.raises(mqlite.Empty):
        consumer.receive(0)


def test_the_dead_letters_of_such_a_queue_need_no_function(timed: MakeQueue) -> None:
    q = timed(backoff=doubling)
    q.put("x")
    q.receive(timeout=0)[0].reject()
    q.dead.receive(timeout=0)[0].nack()
    assert (q.dead.qsize(), q.redrive()) == (1, 1)
    fail(q)
    assert q.stats().delayed == 1


# ---------------------------------------------------------------------- changed
def test_it_can_be_changed(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(backoff=doubling, max_deliveries=None)
    q.put("x")
    for change, wait in ((tenfold, 10), ([1], 1), (doubling, 8), (None, 0)):
        q.configure(backoff=change)
        fail(q)
        if wait:
            clock.pass_by(wait - 0.001)
            assert q.qsize() == 0, change
            clock.pass_by(0.001)
        assert q.qsize() == 1, change


def test_other_changes_leave_it(timed: MakeQueue) -> None:
    q = timed(backoff=doubling)
    q.configure(max_deliveries=9)
    q.pause()
    q.resume()
    q.put("x")
    fail(q)
    assert q.stats().delayed == 1


def run(script: str, *arguments: str) -> str:
    """Another process."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_change_by_a_process_that_has_another_function_is_told_to_who_fails_a_message(path: str) -> None:
    script = "import mqlite, sys\ndef theirs(failures): return 1\nwith mqlite.Queue('q', sys.argv[1]) as q: q.configure(backoff=theirs)"
    with mqlite.Queue("q", path) as q:
        q.put("x")
        run(script, path)
        [m] = q.receive(timeout=0)
        with pytest.raises(mqlite.SettingsMismatch, match=r"theirs.*backoff"):
            m.nack()
        assert q.stats().claimed == 1
        q.configure(backoff=doubling)
        m.nack()
        assert (q.stats().delayed, q.check()) == (1, [])


def test_a_change_to_another_setting_by_another_process_leaves_the_function(path: str) -> None:
    script = "import mqlite, sys\ndef doubling(failures): return 1\ndoubling.__module__ = sys.argv[2]\n"
    script += "with mqlite.Queue('q', sys.argv[1], backoff=doubling) as q: q.configure(max_deliveries=9)"
    with mqlite.Queue("q", path, backoff=doubling) as q:
        run(script, path, __name__)
        q.put("x")
        fail(q)
        assert (q.stats().delayed, q._state.options.max_deliveries) == (1, 9)


# ---------------------------------------------------------------------- what it must not do
def raising(failures: int) -> float:
    raise ZeroDivisionError("no idea")


BAD: list[Any] = [
    (lambda failures: -1, ValueError),
    (lambda failures: -0.001, ValueError),
    (lambda failures: float("nan"), ValueError),
    (lambda failures: float("inf"), ValueError),
    (lambda failures: 1e10, ValueError),
    (lambda failures: 10**400, ValueError),
    (lambda failures: "1", TypeError),
    (lambda failures: True, TypeError),
    (lambda failures: None, TypeError),
    (lambda failures: [1], TypeError),
    (lambda: 1, TypeError),
    (raising, ZeroDivisionError),
]
BAD_IDS = ["negative", "a little negative", "nan", "inf", "beyond", "far beyond", "str", "bool", "None", "list", "no argument", "raising"]


@pytest.mark.parametrize("settle", ["ack", "nack with a delay", "nack at once", "reject", "release"])
@pytest.mark.parametrize(("function", "error"), BAD, ids=BAD_IDS)
def test_a_bad_wait_is_told_and_the_message_can_be_settled_again(timed: MakeQueue, clock: HandClock, function: Any, error: type[Exception], settle: str) -> None:
    q = timed(backoff=function)
    q.put("x")
    [m] = q.receive(timeout=0)
    with pytest.raises(error):
        m.nack()
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (0, 0, 1, 0)
    {
        "ack": m.ack,
        "nack with a delay": lambda: m.nack(delay=1),
        "nack at once": lambda: m.nack(delay=0),
        "reject": m.reject,
        "release": m.release,
    }[settle]()
    clock.pass_by(1)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == {"ack": (0, 0, 0, 0), "reject": (0, 0, 0, 1)}.get(settle, (1, 0, 0, 0))
    if stats.ready:
        [m] = q.receive(timeout=0)
        assert m.delivery_count == (settle != "release")
        m.ack()


def test_a_bad_wait_in_the_block_of_a_message_keeps_it_claimed(timed: MakeQueue) -> None:
    q = timed(backoff=raising)
    q.put("x")
    [m] = q.receive(timeout=0)
    with pytest.raises(ZeroDivisionError) as told, m:
        raise RuntimeError("fails")
    assert isinstance(told.value.__context__, RuntimeError)
    assert q.stats().claimed == 1
    m.release()
    assert q.get(timeout=0) == "x"


def test_a_bad_wait_is_not_asked_for_where_there_is_none(timed: MakeQueue) -> None:
    q = timed(backoff=raising)
    q.put("x")
    q.receive(timeout=0)[0].ack()
    q.put("y")
    q.receive(timeout=0)[0].reject()
    assert q.stats().dead == 1


@pytest.mark.parametrize("function", [int, float, Waiter], ids=["int", "float", "a class"])
def test_a_class_is_no_function(make_queue: MakeQueue, function: Any) -> None:
    with pytest.raises(TypeError, match="backoff"):
        make_queue(backoff=function)


def test_it_may_use_the_queue(timed: MakeQueue, clock: HandClock, in_thread: InThread) -> None:
    seen: list[Any] = []

    def curious(failures: int) -> float:
        q.put(f"failed {failures} times")
        seen.append((q.qsize(), q.stats().claimed, q.unfinished_tasks, [m.body for m in q.browse()], q.check()))
        with q.receive(timeout=0)[0] as other:
            seen.append(other.body)
        q.configure(max_deliveries=7)
        return 1

    q = timed(backoff=curious)
    q.put("x")
    [m] = q.receive(timeout=0)
    in_thread(m.nack).result(20)
    assert seen == [(1, 1, 2, ["failed 1 times"], []), "failed 1 times"]
    clock.pass_by(1)
    assert q.get(timeout=0) == "x"


def test_others_use_the_queue_while_it_thinks(timed: MakeQueue, in_thread: InThread) -> None:
    asked: Future[None] = Future()
    answer: Future[float] = Future()

    def slow(failures: int) -> float:
        asked.set_result(None)
        return answer.result(20)

    q = timed(backoff=slow)
    q.put("x")
    [m] = q.receive(timeout=0)
    nacked = in_thread(m.nack)
    asked.result(20)

    def work() -> Any:
        q.put("y")
        return q.get(timeout=0), q.stats().claimed

    assert in_thread(work).result(20) == ("y", 1)
    answer.set_result(5)
    nacked.result(20)
    assert q.stats().delayed == 1


def test_a_claim_that_is_lost_while_it_thinks_is_lost(timed: MakeQueue, clock: HandClock) -> None:
    def slow(failures: int) -> float:
        clock.pass_by(11)
        assert q.qsize() == 0  # nobody has looked at deadlines yet
        [again] = q.receive(timeout=0)
        again.ack()
        return 5

    q = timed(backoff=slow, ack_timeout=10)
    q.put("x")
    [hung] = q.receive(timeout=0)
    with pytest.raises(mqlite.LeaseLost):
        hung.nack()
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (0, 0, 0, 0)


def test_settling_from_within_is_refused_and_loses_nothing(timed: MakeQueue) -> None:
    held: list[mqlite.Message] = []

    def greedy(failures: int) -> float:
        held[0].ack()
        return 5

    q = timed(backoff=greedy)
    q.put("x")
    held.extend(q.receive(timeout=0))
    with pytest.raises(mqlite.MqliteError):
        held[0].nack()
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (0, 0, 0, 0)
