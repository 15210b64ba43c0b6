"""Who waits is woken already while a commit goes to the disk, and rung again after it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread, UntilWaiting

import mqlite
from mqlite.claims import Kind
from mqlite.wake import fifo

LEVEL = "full"


@pytest.fixture(autouse=True)
def no_hedge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: a lost ring is a test that fails."""
    monkeypatch.setattr(fifo, "HEDGE", 60.0)


@pytest.fixture
def queue(disk_queue: mqlite.Queue[Any]) -> mqlite.Queue[Any]:
    return disk_queue


def _watch(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order: rings, and the commit of a put."""
    happened: list[str] = []
    bell: Any = queue._engine.presence.bell
    ring, after = bell.ring, queue._engine.log.after_commit

    def ringing(owner: int, sleeper: int) -> bool:
        happened.append("ring")
        rung: bool = ring(owner, sleeper)
        return rung

    def committed(notes: Any) -> None:
        happened.append("commit")
        after(notes)

    monkeypatch.setattr(bell, "ring", ringing)
    monkeypatch.setattr(queue._engine.log, "after_commit", committed)
    return happened


def _waiting(queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> Future[Any]:
    waiting = in_thread(queue.get, timeout=20)
    until_waiting(queue)
    return waiting


def test_a_sleeper_is_rung_before_the_commit_and_after_it(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = _waiting(queue, in_thread, until_waiting)
    happened = _watch(queue, monkeypatch)
    queue.put("x")
    assert waiting.result(20) == "x"
    assert happened[:2] == ["ring", "commit"]


@pytest.mark.parametrize("level", ["checkpoint", "process"])
def test_nobody_is_forewarned_of_a_commit_that_does_not_wait_for_the_disk(
    level: str,
    path: str,
    made: list[mqlite.Queue[Any]],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = mqlite.Queue("q", path, durability=level)
    made.append(queue)
    waiting = _waiting(queue, in_thread, until_waiting)
    happened = _watch(queue, monkeypatch)
    queue.put("x")
    assert waiting.result(20) == "x"
    assert happened[:2] == ["commit", "ring"]


def test_one_who_looks_too_early_sleeps_on_and_is_rung_when_the_message_is_there(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = queue._engine
    forewarn, bell = engine.log.before_commit, type(engine.presence.bell)
    sleep, slept = bell.sleep, []

    def sleeping(*arguments: Any) -> None:
        slept.append(arguments)
        sleep(*arguments)

    monkeypatch.setattr(bell, "sleep", sleeping)
    waiting = _waiting(queue, in_thread, until_waiting)
    eventually(lambda: len(slept) == 1)

    def until_it_sleeps_again(notes: Any) -> None:
        forewarn(notes)
        eventually(lambda: len(slept) == 2)

    monkeypatch.setattr(engine.log, "before_commit", until_it_sleeps_again)
    queue.put_many(["x"])  # not alone, so that it is not expected (test_expecting.py)
    assert waiting.result(20) == "x"


def test_one_who_begins_to_wait_after_the_forewarning_is_rung(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    forewarn = queue._engine.log.before_commit
    first = _waiting(queue, in_thread, until_waiting)
    later: list[Future[Any]] = []

    def then_another_waits(notes: Any) -> None:
        forewarn(notes)
        if not later:
            later.append(in_thread(queue.get, timeout=20))
            until_waiting(queue, n=2)

    monkeypatch.setattr(queue._engine.log, "before_commit", then_another_waits)
    queue.put_many(["x", "y"])
    assert {first.result(20), later[0].result(20)} == {"x", "y"}


def test_one_who_leaves_after_the_forewarning_is_not_waited_for(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    forewarn = queue._engine.log.before_commit
    leaving = queue.consumer()
    left = in_thread(leaving.receive, timeout=20)
    until_waiting(queue)
    stays: list[Future[Any]] = []

    def then_it_leaves(notes: Any) -> None:
        forewarn(notes)
        if not stays:
            stays.append(in_thread(queue.get, timeout=20))
            until_waiting(queue, n=2)
            leaving.close()
            assert isinstance(left.exception(20), mqlite.Closed)

    monkeypatch.setattr(queue._engine.log, "before_commit", then_it_leaves)
    queue.put_many(["x"])
    assert stays[0].result(20) == "x"


def test_those_who_watch_the_level_are_told_after_a_forewarned_commit(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, eventually: Eventually
) -> None:
    levels: list[int] = []
    with queue.watermarks(2, 0, on_high=levels.append):
        until_waiting(queue, Kind.LEVEL)
        waiting = _waiting(queue, in_thread, until_waiting)
        queue.put_many(["x", "y", "z"])
        assert waiting.result(20) == "x"
        eventually(lambda: levels)
