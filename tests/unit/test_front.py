"""Plain messages that pass by the tree (log/front.py), from the first one on: nothing is lost, doubled or overlooked."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from fixture_types import InThread
from front_things import drained, front_of
from unit.test_damaged_messages import flip_a_bit

import mqlite
import mqlite.log.front
from mqlite import disk_store
from mqlite.engine.passing import Passing
from mqlite.log.front import HEAD, OPEN, RUN, START, Front
from mqlite.system import environment
from mqlite.waiting import Waiters

GUARD = 60.0


@pytest.fixture(autouse=True, params=["process", "full"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Messages pass by at these two."""
    monkeypatch.setattr(disk_store, "DEFAULT_DURABILITY", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain operation opens it."""
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)


@pytest.fixture
def queue(disk_queue: mqlite.Queue[Any]) -> mqlite.Queue[Any]:
    """One whose next plain message passes by."""
    disk_queue.put("first")
    assert disk_queue.get() == "first"
    disk_queue.put("second")
    assert disk_queue.get() == "second"
    return disk_queue


def is_open(queue: mqlite.Queue[Any]) -> bool:
    return bool(front_of(queue).words[OPEN])


# ---------------------------------------------------------------------- who waits
def test_who_begins_to_wait_while_a_message_is_put_gets_it(
    queue: mqlite.Queue[Any], in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He looks, not under L, before the message is there, and was not there yet when the putter asked who waits."""
    looked_once, may_wait, sleeps = threading.Event(), threading.Event(), threading.Event()
    register, append, bell = Waiters._register, Front.append, queue._engine.presence.bell
    sleep = bell.sleep

    def late(self: Waiters, *arguments: Any) -> None:
        looked_once.set()
        assert may_wait.wait(GUARD)
        register(self, *arguments)

    def asleep(*arguments: Any) -> None:
        sleeps.set()
        sleep(*arguments)

    def meanwhile(self: Front, *arguments: Any) -> int:
        may_wait.set()
        assert sleeps.wait(GUARD)
        return append(self, *arguments)

    monkeypatch.setattr(Waiters, "_register", late)
    monkeypatch.setattr(bell, "sleep", asleep)
    monkeypatch.setattr(Passing, "claim", lambda self, *arguments: None)
    monkeypatch.setattr(Passing, "sit", lambda self, *arguments: None)  # so he makes a row
    waiter = in_thread(queue.receive, timeout=GUARD)
    assert looked_once.wait(GUARD)
    assert queue.qsize() == 0
    queue._engine.aftermath.look_after(queue._state.id)
    assert queue._engine.aftermath.is_calm(queue._state.id)
    front_of(queue).words[RUN] = 1
    monkeypatch.setattr(Front, "append", meanwhile)
    queue.put("awaited")
    [message] = waiter.result(GUARD / 2)
    assert message.body == "awaited"


def test_who_polls_sees_that_a_message_has_come_or_gone(queue: mqlite.Queue[Any]) -> None:
    bell = queue._engine.presence.bell
    sleeper = bell.sleeper()
    seen = []
    for step in (lambda: None, lambda: queue.put("x"), lambda: queue.get(), lambda: None):
        step()
        bell.drain(sleeper)
        seen.append(sleeper.seen)
    bell.forget(sleeper)
    assert len(set(seen)) == 3
    assert seen[-1] == seen[-2]


# ---------------------------------------------------------------------- from the tree
def test_what_is_brought_is_here_before_anybody_else_can_claim_it(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[int] = []
    bring = Front.bring

    def held(self: Front, *arguments: Any) -> bool:
        assert queue._engine.claims.lock.locked()
        done = bring(self, *arguments)
        brought.append(self.words[HEAD])
        return done

    monkeypatch.setattr(Front, "bring", held)
    queue.put_many(range(10))
    for number in range(10):
        [message] = queue.receive()
        assert message.body == number
        message.ack()
    assert max(brought) > START


def test_what_is_put_after_a_fold_comes_behind_what_the_fold_left_in_the_tree(queue: mqlite.Queue[Any]) -> None:
    """Although the tree had nothing for claimers before."""
    queue.put(0)
    assert drained(queue) == [0]
    for number in range(1, 300):
        queue.put(number)
    assert queue.qsize() == 299
    assert front_of(queue).is_empty()  # who counts folds it
    queue.put(300)
    assert is_open(queue)
    assert drained(queue) == list(range(1, 301))


def test_the_queue_goes_on_behind_a_damaged_message_that_was_brought(path: str) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many([b"first", b"good", b"damaged", b"also good"])
    flip_a_bit(path, b"damaged")
    with mqlite.Queue[Any]("q", path) as queue:
        queue.get(timeout=0)
        front_of(queue).words[RUN] = 1
        assert [queue.receive(timeout=0)[0].body for _ in range(2)] == [b"good", b"also good"]
        assert queue.dead.qsize() == 1


# ---------------------------------------------------------------------- what it takes
def test_a_put_needs_no_reader_of_the_log(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 3)
    monkeypatch.setattr(environment, "LOCK_FILE_BYTES", 3 * 64)  # LMDB makes room for as many as fit
    with mqlite.Queue[str]("q", path) as queue:
        queue.put("opens it")
        snapshots = [queue._engine.log.read() for _ in range(3)]
        for snapshot in snapshots:
            snapshot.__enter__()
        queue.put("needs no reader")
        for snapshot in snapshots:
            snapshot.__exit__(None, None, None)
        assert [queue.get(timeout=0) for _ in range(2)] == ["opens it", "needs no reader"]


def test_a_closed_store_holds_no_file(path: str) -> None:
    with mqlite.Queue("q", path) as queue:
        for number in range(4):
            queue.put(number)
        assert is_open(queue)
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    assert [link for link in links if os.path.exists(link) and os.path.realpath(link).startswith(path)] == []
    with pytest.raises(mqlite.Closed):
        queue.put("late")


def test_a_file_whose_maker_was_killed_gets_its_blocks(path: str) -> None:
    mqlite.open(path).close()
    os.truncate(os.path.join(path, "log.front"), 0)
    with mqlite.Queue("q", path) as queue:
        for number in range(4):
            queue.put(number)
        assert is_open(queue)
        assert [queue.get() for _ in range(4)] == [0, 1, 2, 3]


def test_where_there_was_no_room_for_it_nobody_has_one(path: str, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has none does not look there: so nobody else may put anything there, though there is room by now."""

    def full(path: str, size: int) -> None:
        raise mqlite.StoreFull("no room")

    def other(talk: Any) -> None:
        talk.hear()
        with mqlite.Queue("q", path) as theirs:
            for number in range(3, 6):
                theirs.put(number)
            talk.say(os.path.exists(Path(path, "log.front")))
            talk.hear()

    child = children.fork(other)  # which opens the store by itself
    with monkeypatch.context() as patched:
        patched.setattr(mqlite.log.front_file, "preallocate", full)
        queue = mqlite.Queue[int]("q", path)
    for number in range(3):
        queue.put(number)
    child.say("open")
    assert child.hear() is False
    assert [queue.get(timeout=0) for _ in range(6)] == list(range(6))
    child.say("close")
    child.end()
    queue.close()


def test_a_put_that_the_end_of_the_store_overtakes_has_put(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for number in range(20):
        queue.put(number)
    passing: Any = queue._engine.passing
    last_commit, calls = passing._last_commit, list[int]()

    def close_first() -> int:
        if not calls:
            calls.append(1)
            queue.close()
        return int(last_commit())

    passing._last_commit = close_first
    queue._engine.aftermath.look_after(queue._state.id)  # so that it looks once more behind the put
    assert queue.put("overtaken") > 0
    assert calls
    with mqlite.Queue[Any]("q", path) as again:
        assert [again.get(timeout=0) for _ in range(21)][-1] == "overtaken"
