"""Who waits for a flush that another thread of his process makes is woken by somebody, whatever comes in between."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from front_things import drained, front_of
from unit.test_front_flush import GUARD, Disk, disk, passing_by, put_behind, put_held, queue, warm, words_of

import mqlite
from mqlite.log import front_flush
from mqlite.log.front_file import EPOCH, HEAD, START
from mqlite.log.front_flush import Flushes

__all__ = ["disk", "put_held", "queue"]
LEVEL = "full"
PutsInLine = Callable[..., list[Future[int]]]


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


class Line(deque[Any]):
    """The line of who waits, in which something is done by a thread of that name as soon as it stands there."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self._name, self._act = name, act

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        if threading.current_thread().name == self._name:
            self._act()


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        threading.current_thread().name = name
        return function(*arguments)

    return run


def in_line(queue: mqlite.Queue[Any], count: int, eventually: Eventually) -> None:
    flushes: Any = front_of(queue).flushes
    eventually(lambda: len(flushes._line) == count)


@pytest.fixture
def puts_in_line(
    queue: mqlite.Queue[Any], put_held: Callable[[Any], Future[int]], in_thread: InThread, eventually: Eventually
) -> PutsInLine:
    """puts_in_line(body, *others): futures of puts, of which the first flushes still, and the others stand in line."""

    def put(body: Any, *others: Any) -> list[Future[int]]:
        puts = [put_held(body), *put_behind(queue, in_thread, eventually, *others)]
        in_line(queue, len(others), eventually)
        return puts

    return put


def flushed_elsewhere(queue: mqlite.Queue[Any]) -> None:
    """As by another process."""
    front = front_of(queue)
    assert front.flushes is not None
    with front.lock, front.guard:
        front.take_gate()
        assert front.flushes.flush_now()


def test_who_was_to_lead_and_is_answered_by_another_process_wakes_the_others(
    queue: mqlite.Queue[Any], disk: Disk, puts_in_line: PutsInLine, before_leading: list[Callable[[], None]]
) -> None:
    puts = puts_in_line("leads", "is to lead", "third", "fourth")
    before_leading.append(lambda: flushed_elsewhere(queue))
    disk.release()
    assert len({put.result(GUARD) for put in puts}) == 4
    assert not before_leading
    assert sorted(drained(queue)) == ["fourth", "is to lead", "leads", "third"]


def test_who_was_to_lead_and_is_interrupted_leaves_that_to_the_next(
    queue: mqlite.Queue[Any], disk: Disk, puts_in_line: PutsInLine, before_leading: list[Callable[[], None]]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    puts = puts_in_line("leads", "second", "third", "fourth")
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
    queue: mqlite.Queue[Any], disk: Disk, puts_in_line: PutsInLine
) -> None:
    puts = puts_in_line("leads", "second", "third")
    disk.release(fails=True)
    assert {type(put.exception(GUARD)) for put in puts} == {mqlite.StoreError}
    disk.release()
    assert drained(queue) == []


def test_who_is_told_to_lead_when_he_does_not_wait_any_more_hands_that_on(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He came into line just when the flush was over, and another process answers all between two steps of who led."""
    flushes: Any = front_of(queue).flushes
    stands, may_look, looked, may_tell = (threading.Event() for _ in range(4))
    is_over = Flushes._is_over

    def stand() -> None:
        stands.set()
        assert may_look.wait(GUARD)

    def looking(self: Flushes, *what: int) -> bool:
        found = is_over(self, *what)
        if threading.current_thread().name == "leads" and stands.is_set() and not found and not looked.is_set():
            looked.set()
            assert may_tell.wait(GUARD)
        return found

    flushes._line = Line("second", stand)
    monkeypatch.setattr(Flushes, "_is_over", looking)
    disk.hold()
    first = in_thread(named("leads", queue.put), "first")
    assert disk.begun.wait(GUARD)
    second = in_thread(named("second", queue.put), "second")
    assert stands.wait(GUARD)
    third = in_thread(queue.put, "third")
    in_line(queue, 2, eventually)
    disk.release()
    assert looked.wait(GUARD)
    flushed_elsewhere(queue)
    may_look.set()
    assert second.result(GUARD) > 0
    may_tell.set()
    assert first.result(GUARD) > 0
    assert third.result(GUARD) > 0
    assert len(drained(queue)) == 3


def test_who_is_interrupted_when_he_has_come_into_line_keeps_nobody_waiting(
    queue: mqlite.Queue[Any], disk: Disk, puts_in_line: PutsInLine, in_thread: InThread, eventually: Eventually
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    flushes: Any = front_of(queue).flushes
    flushes._line = Line("interrupted", interrupt)
    first, second = puts_in_line("first", "second")
    with pytest.raises(KeyboardInterrupt):
        in_thread(named("interrupted", queue.put), "interrupted").result(GUARD)
    eventually(lambda: not all(waiter.is_gone for waiter in list(flushes._line)))  # the second stands there again
    disk.release()
    assert first.result(GUARD) > 0
    assert second.result(GUARD) > 0


def test_two_threads_do_not_flush_at_once_though_both_found_nobody_at_it(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one of them is not told of what could not be written: the kernel says it once for each descriptor."""
    both = threading.Barrier(2, timeout=GUARD)
    lead, flush = Flushes._lead, disk.fdatasync
    tried, went_on = threading.Event(), threading.Event()  # went_on: the second has not flushed, or does
    flushing, most = list[int](), list[int]()

    def leading(self: Flushes) -> None:
        if not tried.is_set():
            both.wait()
            tried.set()
        lead(self)
        went_on.set()

    def counted(fd: int) -> None:
        flushing.append(fd)
        most.append(len(flushing))
        if len(flushing) == 2:
            went_on.set()
        assert went_on.wait(GUARD)
        flush(fd)
        flushing.pop()

    monkeypatch.setattr(Flushes, "_lead", leading)
    monkeypatch.setattr(os, "fdatasync", counted)
    puts = [in_thread(queue.put, body) for body in ("a", "b")]
    assert all(put.result(GUARD) > 0 for put in puts)
    assert max(most) == 1


def test_a_put_that_is_about_to_flush_when_the_store_is_closed_and_used_on_by_others_has_put(
    path: str, disk: Disk, children: Any, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes brings it to the tree; then there is another epoch, whose flush is none of his."""
    mqlite.open(path, durability="full").close()
    other = children.fork(passing_by, path, disk)
    assert other.hear() == "ready"
    queue = warm(mqlite.Queue[Any]("q", path))
    words = words_of(queue)
    parked, may_go_on = threading.Event(), threading.Event()
    flush = Flushes._flush

    def parking(self: Flushes) -> None:
        if threading.current_thread().name == "late":
            parked.set()
            assert may_go_on.wait(GUARD)
        flush(self)

    monkeypatch.setattr(Flushes, "_flush", parking)
    put = in_thread(named("late", queue.put), "late")
    assert parked.wait(GUARD)
    epoch = words[EPOCH]
    queue.close()
    for body in ("theirs", "theirs, too"):
        other.say(["put", body])
        assert other.hear() is True
    assert words[EPOCH] != epoch
    assert words[HEAD] > START
    may_go_on.set()
    assert put.result(GUARD) > 0
    other.kill()
    with mqlite.Queue[Any]("q", path) as again:
        assert drained(again) == ["late", "theirs", "theirs, too"]
