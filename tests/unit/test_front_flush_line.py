"""Who waits for a flush that another thread of his process makes is woken by somebody, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from front_things import drained, front_of
from unit.test_front_flush import GUARD, Disk, disk, put_behind, put_held, queue

import mqlite
from mqlite.log import front_flush
from mqlite.log.front_flush import Flushes

__all__ = ["disk", "put_held", "queue"]
LEVEL = "full"


@pytest.fixture(autouse=True)
def nobody_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_flush, "HEDGE", 10 * GUARD)


@pytest.fixture
def before_leading(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What is done by the first who is woken to lead, before he does."""
    acts: list[Callable[[], None]] = []
    follow = Flushes._follow

    def following(self: Flushes, own: Any) -> bool:
        is_to_lead = follow(self, own)
        if is_to_lead and acts:
            acts.pop()()
        return is_to_lead

    monkeypatch.setattr(Flushes, "_follow", following)
    return acts


def in_line(queue: mqlite.Queue[Any], count: int, eventually: Eventually) -> None:
    flushes: Any = front_of(queue).flushes
    eventually(lambda: len(flushes._line) == count)


def flushed_elsewhere(queue: mqlite.Queue[Any]) -> None:
    """As by another process."""
    front = front_of(queue)
    assert front.flushes is not None
    with front.lock, front.guard:
        front.take_gate()
        assert front.flushes.flush_now()


def test_who_was_to_lead_and_is_answered_by_another_process_wakes_the_others(
    queue: mqlite.Queue[Any],
    disk: Disk,
    put_held: Callable[[Any], Future[int]],
    before_leading: list[Callable[[], None]],
    in_thread: InThread,
    eventually: Eventually,
) -> None:
    puts = [put_held("leads"), *put_behind(queue, in_thread, eventually, "is to lead", "third", "fourth")]
    in_line(queue, 3, eventually)
    before_leading.append(lambda: flushed_elsewhere(queue))
    disk.release()
    assert len({put.result(GUARD) for put in puts}) == 4
    assert not before_leading
    assert sorted(drained(queue)) == ["fourth", "is to lead", "leads", "third"]


def test_who_was_to_lead_and_is_interrupted_leaves_that_to_the_next(
    queue: mqlite.Queue[Any],
    disk: Disk,
    put_held: Callable[[Any], Future[int]],
    before_leading: list[Callable[[], None]],
    in_thread: InThread,
    eventually: Eventually,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    puts = [put_held("leads"), *put_behind(queue, in_thread, eventually, "second", "third", "fourth")]
    in_line(queue, 3, eventually)
    before_leading.append(interrupt)
    disk.release()
    outcomes = [type(put.exception(GUARD)) for put in puts]
    assert outcomes.count(KeyboardInterrupt) == 1
    assert outcomes.count(type(None)) == 3
    assert sorted(drained(queue)) == ["fourth", "leads", "second", "third"], "an interrupted put may be there"


def test_who_comes_into_line_when_the_flush_is_over_flushes_himself(
    queue: mqlite.Queue[Any], disk: Disk, put_held: Callable[[Any], Future[int]], in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He found it led, and is in line only when nobody looks at the line any more."""
    waiter = front_flush._Waiter

    def late(*arguments: Any) -> Any:
        disk.release()
        assert first.result(GUARD) > 0
        return waiter(*arguments)

    first = put_held("first")
    monkeypatch.setattr(front_flush, "_Waiter", late)
    assert in_thread(queue.put, "second").result(GUARD) > 0
    assert drained(queue) == ["first", "second"]


def test_a_flush_that_fails_wakes_all_in_line(
    queue: mqlite.Queue[Any],
    disk: Disk,
    put_held: Callable[[Any], Future[int]],
    in_thread: InThread,
    eventually: Eventually,
) -> None:
    puts = [put_held("leads"), *put_behind(queue, in_thread, eventually, "second", "third")]
    in_line(queue, 2, eventually)
    disk.release(fails=True)
    assert {type(put.exception(GUARD)) for put in puts} == {mqlite.StoreError}
    disk.release()
    assert drained(queue) == []
