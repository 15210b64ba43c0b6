"""Who sits on the bench, beside what others do at the same moment. [32]"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixture_types import Eventually, InThread, UntilWaiting
from interrupting import interrupted_at

import mqlite
from mqlite.claims import Kind, Waiting
from mqlite.claims.bench import Bench
from mqlite.engine.passing import Passing
from mqlite.log import front as fronts
from mqlite.waiting import Interrupt, Seat

LEVEL = "process"
GUARD = 20.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "FEWEST", 1)


@pytest.fixture
def no_hedge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sleeps wakes for a ring, a death, or in time only."""
    monkeypatch.setattr("mqlite.wake.fifo.HEDGE", 3600.0)


@pytest.fixture
def queue(path: str, no_hedge: None) -> Iterator[mqlite.Queue[Any]]:
    """One through which messages pass by."""
    found: mqlite.Queue[Any] = mqlite.Queue("q", path)
    warm(found)
    yield found
    found.close()


def bench_of(queue: mqlite.Queue[Any]) -> Bench:
    found = queue._engine.claims.bench
    assert isinstance(found, Bench)
    return found


def warm(queue: mqlite.Queue[Any]) -> None:
    """Messages pass by."""
    front: Any = queue._engine.log.front
    while not front.words[fronts.OPEN]:
        queue.put(b"warm")
        queue.receive(timeout=0)[0].ack()
    for _ in range(2):  # a first claim has a deadline that is new
        queue.put(b"warm")
        queue.receive(timeout=0)[0].ack()


def asleep(queue: mqlite.Queue[Any], n: int = 1) -> bool:
    """Whether so many sit, and sleep."""
    bell: Any = queue._engine.presence.bell
    sitting = bench_of(queue).of(queue._state.id)
    own = [each.sleeper for each in sitting if each.owner == queue._engine.presence.owner]
    leads = bell._leader is not None and bell._leader.id
    return len(sitting) == n and all(each == leads or each in bell._asleep for each in own)


def test_who_waits_sits_without_a_commit_and_is_called_by_who_puts(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually
) -> None:
    claims = queue._engine.claims
    before = claims.last_commit()
    for number in range(3):
        waiting = in_thread(queue.get, timeout=GUARD)
        eventually(lambda: asleep(queue))
        queue.put(number)
        assert waiting.result(GUARD) == number
    assert claims.last_commit() == before
    assert bench_of(queue).is_empty()


@pytest.mark.parametrize("many", [False, True])
def test_of_many_who_sit_each_gets_one(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, many: bool) -> None:
    waiting = [in_thread(queue.get, timeout=GUARD) for _ in range(6)]
    eventually(lambda: asleep(queue, 6))
    if many:
        queue.put_many(range(6))  # one ring, which they pass on
    else:
        for number in range(6):
            queue.put(number)
    assert sorted(future.result(GUARD) for future in waiting) == list(range(6))


def _receive_three(queue: mqlite.Queue[Any]) -> list[Any]:
    return [message.body for message in queue.receive(3, timeout=GUARD)]


def _by_consumer(queue: mqlite.Queue[Any]) -> list[Any]:
    with queue.consumer(prefetch=4) as consumer:
        message = consumer.receive(timeout=GUARD)
        message.ack()
        return [message.body]


@pytest.mark.parametrize("take", [_receive_three, _by_consumer])
def test_who_takes_by_the_general_way_sits_too(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, take: Callable[[Any], list[Any]]
) -> None:
    waiting = in_thread(take, queue)
    eventually(lambda: asleep(queue))
    queue.put("new")
    assert waiting.result(GUARD) == ["new"]


def test_who_finds_the_bench_full_makes_a_row(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, until_waiting: Callable[..., None]
) -> None:
    bench, front = bench_of(queue), queue._engine.log.front
    assert front is not None
    others = []
    with front.lock, front.guard:
        front.take_gate()
        while place := bench.sit(999, Waiting(1, 1, 0)):
            others.append(place)
    waiting = [in_thread(queue.get, timeout=GUARD) for _ in range(2)]
    until_waiting(queue, n=2)
    assert bench.of(queue._state.id) == []
    queue.put("1")
    queue.put("2")
    assert sorted(future.result(GUARD) for future in waiting) == ["1", "2"]
    for place in others:
        bench.leave(place)


def test_rows_and_the_bench_together_get_all(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    eventually: Eventually,
    until_waiting: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Passing, "sit", lambda *_: None)
        waiting = [in_thread(queue.get, timeout=GUARD) for _ in range(2)]
        until_waiting(queue, n=2)
    waiting += [in_thread(queue.get, timeout=GUARD) for _ in range(2)]
    eventually(lambda: asleep(queue, 4) or len(bench_of(queue).of(queue._state.id)) == 2)
    queue.put("1")
    queue.put_many(["2", "3", "4"])
    assert sorted(future.result(GUARD) for future in waiting) == ["1", "2", "3", "4"]


# ---------------------------------------------------------------------- what else wakes
def _shut_down(queue: mqlite.Queue[Any]) -> None:
    queue.shutdown()


def _shut_down_at_once(queue: mqlite.Queue[Any]) -> None:
    queue.shutdown(immediate=True)


def _take_for_oneself(queue: mqlite.Queue[Any]) -> None:
    queue.consumer(mode="exclusive")


def _close(queue: mqlite.Queue[Any]) -> None:
    queue.close()


@pytest.mark.parametrize(
    ("end", "error"),
    [(_shut_down, mqlite.ShutDown), (_shut_down_at_once, mqlite.ShutDown), (_take_for_oneself, mqlite.QueueLocked), (_close, mqlite.Closed)],
)
def test_who_sits_is_told_of_the_end(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, end: Callable[[Any], None], error: type[Exception]
) -> None:
    waiting = [in_thread(queue.receive, timeout=GUARD) for _ in range(3)]
    eventually(lambda: asleep(queue, 3))
    end(queue)
    for future in waiting:
        with pytest.raises(error):
            future.result(GUARD)


def _given_back(queue: mqlite.Queue[Any], give: Callable[[mqlite.Message], None]) -> Callable[[], None]:
    queue.put("x")
    [message] = queue.receive(timeout=0)
    return lambda: give(message)


def _redriven(queue: mqlite.Queue[Any]) -> Callable[[], None]:
    queue.put("x")
    queue.receive(timeout=0)[0].reject()
    return lambda: queue.redrive() and None


def _delayed(queue: mqlite.Queue[Any]) -> Callable[[], None]:
    return lambda: queue.put("x", delay=0.05) and None


def _in_a_group(queue: mqlite.Queue[Any]) -> Callable[[], None]:
    queue.put("first", group="g")
    [message] = queue.receive(timeout=0)
    queue.put("x", group="g")
    return message.ack


def _paused(queue: mqlite.Queue[Any]) -> Callable[[], None]:
    queue.pause()
    queue.put("x")
    return queue.resume


@pytest.mark.parametrize(
    "arrange",
    [
        lambda queue: _given_back(queue, lambda message: message.release()),
        lambda queue: _given_back(queue, lambda message: message.nack()),
        lambda queue: _given_back(queue, lambda message: message.nack(delay=0.05)),
        _redriven,
        _delayed,
        _in_a_group,
        _paused,
    ],
    ids=["release", "nack", "delayed nack", "redrive", "delay", "group", "pause"],
)
def test_who_waits_gets_what_comes_in_other_ways(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, until_waiting: Callable[..., None], arrange: Any
) -> None:
    come = arrange(queue)
    waiting = in_thread(lambda: queue.receive(timeout=GUARD)[0].body)
    until_waiting(queue)
    come()
    assert waiting.result(GUARD) == "x"


def test_who_sits_wakes_when_the_time_of_another_is_over(path: str, no_hedge: None, in_thread: InThread, eventually: Eventually) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, ack_timeout=0.3)
    for _ in range(4):
        queue.put("x")
        queue.receive(timeout=0)[0].ack()
    queue.put("x")
    queue.receive(timeout=0)
    waiting = in_thread(lambda: queue.receive(timeout=GUARD)[0].delivery_count)
    assert waiting.result(GUARD) == 1
    queue.close()


def test_who_sits_is_told_of_a_deadline_that_comes_later(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually) -> None:
    """Where no deadline is known yet, or a later one, he sits for longer."""
    engine, number = queue._engine, queue._state.id
    with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
        c.note_deadline(number, 0)
    queue.configure(ack_timeout=None)
    front: Any = engine.log.front
    front.words[fronts.RUN], front.words[fronts.NEEDED] = 99, 1
    waiting = in_thread(lambda: queue.receive(timeout=GUARD)[0].delivery_count)
    eventually(lambda: asleep(queue))
    assert bench_of(queue).of(number)[0].wake_ns == 0
    queue._state.ack_timeout_ns = 300_000_000
    with unseen(queue):
        queue.put("x")  # nobody is called
    assert queue.receive(timeout=0)[0].body == "x"  # and not settled
    assert waiting.result(GUARD / 2) == 1


@contextlib.contextmanager
def unseen(queue: mqlite.Queue[Any]) -> Iterator[None]:
    """Who sits there is not seen by who puts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "is_empty", lambda self: True)
        patch.setattr(Bench, "of", lambda self, number: [])
        yield


def test_who_waits_for_dead_letters_is_told_of_what_expires(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: Callable[..., None]
) -> None:
    dead: Any = queue.dead
    for number in range(2):  # it is a queue like others then
        queue.put(number)
        queue.receive(timeout=0)[0].reject()
        dead.receive(timeout=0)[0].ack()
    queue.put("x", ttl=0.2)
    front: Any = queue._engine.log.front
    front.words[fronts.RUN], front.words[fronts.NEEDED] = 99, 1
    waiting = in_thread(lambda: dead.receive(timeout=GUARD)[0].body)
    assert waiting.result(GUARD / 2) == "x"


# ---------------------------------------------------------------------- who leaves
def test_after_a_fork_who_leaves_is_gone_from_the_bench(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually) -> None:
    interrupt = Interrupt("test")
    engine = queue._engine

    def wait() -> Any:
        return engine.waiters.wait(queue._state.id, Kind.MESSAGE, lambda seat: True if interrupt.closed else None, None, interrupt)

    waiting = in_thread(wait)
    eventually(lambda: asleep(queue))
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    interrupt.close(engine.presence)  # he leaves while the environments are closed still
    with pytest.raises(mqlite.Closed):
        waiting.result(GUARD)
    assert bench_of(queue).is_empty()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_point_of_leaving_leaves_nobody_behind(queue: mqlite.Queue[Any], path: str, children: Any) -> None:
    """Neither on the bench, nor a lock."""
    passing = queue._engine.passing
    assert passing is not None
    wait, bench = queue._engine.waiters.wait, bench_of(queue)
    number, point, struck = queue._state.id, 0, ["no"]
    while struck:
        point += 1
        with interrupted_at(point) as struck:
            wait(number, Kind.MESSAGE, lambda seat: None, 0.0, Interrupt("test"))
        assert not queue._engine.log._environment._gated, struck
        assert not queue._engine.log._environment.write_lock.locked(), struck
        if not bench.is_empty():
            wait(number, Kind.MESSAGE, lambda seat: True, 0.0, Interrupt("test"))  # who comes next clears up
        assert bench.is_empty(), struck
        if not queue._engine.log.front.words[fronts.OPEN]:  # type: ignore[attr-defined]
            warm(queue)
    assert point > 50


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_point_of_a_put_loses_no_sleeper(queue: mqlite.Queue[Any]) -> None:
    """Of two who sit, the first is gone: the second is rung, whatever happens to who puts, or sits there still."""
    engine, bench = queue._engine, bench_of(queue)
    owner, bell = engine.presence.owner, engine.presence.bell
    point, struck = 0, ["no"]
    front: Any = engine.log.front
    while struck:
        point += 1
        sleeper = bell.sleeper()
        warm(queue)
        with front.lock, front.guard:
            front.take_gate()
            bench._words[1] = 0
            bench.sit(queue._state.id, Waiting(1 << 40, owner, 0))  # nobody
            place = bench.sit(queue._state.id, Waiting(sleeper.id, owner, 0))
        with interrupted_at(point) as struck:
            queue.put(b"x")
        there = queue.qsize()
        assert not there or sleeper.rung, struck
        assert sleeper.rung or bench.place_of(queue._state.id, sleeper.id, owner), struck
        bell.forget(sleeper)
        bench.leave_all(owner)
        assert place
        for _ in range(there):
            queue.receive(timeout=0)[0].ack()
    assert point > 30


def test_who_makes_a_row_sits_no_more(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His time to wake on the bench would be an old one, which others would take for true."""
    sit = Passing.sit
    rows: list[bool] = []
    monkeypatch.setattr(Passing, "sit", lambda self, *what: None if rows else sit(self, *what))
    waiting = in_thread(queue.get, timeout=GUARD)
    eventually(lambda: asleep(queue))
    rows.append(True)
    [sleeper] = bench_of(queue).of(queue._state.id)
    queue._engine.waiters.ring(sleeper.owner, sleeper.sleeper)

    def has_row() -> bool:
        with queue._engine.claims.read() as c:
            return c.anybody()

    eventually(has_row)
    assert bench_of(queue).is_empty()
    queue.put("x")
    assert waiting.result(GUARD) == "x"


def test_who_leaves_with_a_commit_of_his_own_looks_after_those_who_sit(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of that commit nobody had a row: somebody may sit all the same."""
    engine, passed = queue._engine, list[Any]()
    monkeypatch.setattr(Passing, "pass_on", lambda self, *what: passed.append(what) is None)
    waiting = in_thread(queue.get, timeout=GUARD)
    eventually(lambda: asleep(queue))

    seat_commits: list[int] = []

    def attempt_on_bench(seat: Seat) -> bool | None:
        if seat_commits:
            seat.alone_at = engine.claims.last_commit()
            return True
        return None

    def ring(*_: Any) -> int:
        seat_commits.append(1)
        return -1

    with monkeypatch.context() as patch:
        patch.setattr(Passing, "sit", ring)
        engine.waiters.wait(queue._state.id, Kind.MESSAGE, attempt_on_bench, None, Interrupt("test"))
    assert passed
    queue.put("x")
    assert waiting.result(GUARD) == "x"


def test_what_the_dead_have_left_to_be_done_is_tried_again_by_who_waits(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sits would sleep; so he makes a row, with the time to try again."""
    takeback = queue._engine.takeback
    tries: list[int] = []

    def settle() -> bool:
        tries.append(1)
        return len(tries) > 1

    monkeypatch.setattr(takeback, "_settle", settle)
    takeback.settle()
    waiting = in_thread(queue.get, timeout=3600)
    eventually(lambda: len(tries) == 2)
    queue.put("x")
    assert waiting.result(GUARD) == "x"


# ---------------------------------------------------------------------- two processes
def _waits(talk: Any, path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    warm(queue)
    talk.say("ready")
    while True:
        talk.hear()
        talk.say(queue.get(timeout=GUARD))


def test_who_sits_in_another_process_is_called(queue: mqlite.Queue[Any], path: str, children: Any, eventually: Eventually) -> None:
    child = children.fork(_waits, path)
    assert child.hear() == "ready"
    for number in range(5):
        child.say("go")
        eventually(lambda: asleep(queue))
        warm(queue) if not queue._engine.log.front.words[fronts.OPEN] else None  # type: ignore[attr-defined]
        queue.put(number)
        assert child.hear() == number


def test_who_was_killed_where_he_sat_is_passed_over_and_goes(
    queue: mqlite.Queue[Any], path: str, children: Any, in_thread: InThread, eventually: Eventually, until_waiting: UntilWaiting
) -> None:
    child = children.fork(_waits, path)
    assert child.hear() == "ready"
    child.say("go")
    eventually(lambda: asleep(queue))
    child.kill()
    waiting = in_thread(queue.get, timeout=GUARD)  # on the bench, or with a row, if he has noticed the death
    until_waiting(queue)
    queue.put("x")
    assert waiting.result(GUARD) == "x"
    queue.qsize()
    queue._engine.takeback.notice_changes()
    assert bench_of(queue).is_empty()


def test_a_child_of_a_process_whose_threads_sit_does_not_sit(
    queue: mqlite.Queue[Any], path: str, children: Any, in_thread: InThread, eventually: Eventually
) -> None:
    waiting = [in_thread(queue.get, timeout=GUARD) for _ in range(2)]
    eventually(lambda: asleep(queue, 2))

    def puts(talk: Any) -> None:
        for each in ("1", "2"):
            queue.put(each)
        talk.say("put")

    child = children.fork(puts)
    assert child.hear() == "put"
    assert sorted(future.result(GUARD) for future in waiting) == ["1", "2"]
    child.end()


def test_who_sits_is_not_told_of_a_commit_that_came_between_his_look_and_the_gate(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who commits to the claims alone holds no L: who sits looks again when he has given it back."""
    engine, number = queue._engine, queue._state.id
    passing: Any = engine.passing
    note = Bench.note_wake
    committed: list[int] = []

    def noting(self: Bench, place: int, wake_ns: int) -> None:
        note(self, place, wake_ns)
        if not committed:
            with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
                c.forget_cursors(number)
            committed.append(1)

    monkeypatch.setattr(Bench, "note_wake", noting)
    sleeper = engine.presence.bell.sleeper()
    assert passing.sit(number, Waiting(sleeper.id, engine.presence.owner, 0)) == -1
    assert passing.sit(number, Waiting(sleeper.id, engine.presence.owner, 0)) >= 0
    passing.get_up(number, sleeper.id, engine.presence.owner)
    assert bench_of(queue).is_empty()


def test_a_message_that_comes_before_he_sits_is_seen(queue: mqlite.Queue[Any], in_thread: InThread, monkeypatch: pytest.MonkeyPatch) -> None:
    sit = Passing.sit
    put: list[int] = []

    def sitting(self: Any, *what: Any) -> Any:
        if not put:
            put.append(queue.put("x"))
        return sit(self, *what)

    monkeypatch.setattr(Passing, "sit", sitting)
    assert in_thread(queue.get, timeout=GUARD).result(GUARD) == "x"


def test_a_message_that_comes_when_he_sits_and_does_not_sleep_is_rung(
    queue: mqlite.Queue[Any], in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    sit = Passing.sit
    put: list[int] = []

    def sitting(self: Any, *what: Any) -> Any:
        result = sit(self, *what)
        if not put:
            put.append(in_thread(queue.put, "x").result(GUARD))
        return result

    monkeypatch.setattr(Passing, "sit", sitting)
    assert in_thread(queue.get, timeout=GUARD).result(GUARD) == "x"



