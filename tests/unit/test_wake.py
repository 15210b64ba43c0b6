"""Bells: who is rung wakes, whenever the ring comes after the last look."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixture_types import Eventually, InThread

import mqlite
from mqlite.system.liveness import Liveness
from mqlite.wake.fifo import FifoBell
from mqlite.wake.local import LocalBell
from mqlite.wake.polling import PollingBell

OWNER = 11


class Process:
    """What one process has: its signs of life and its pipe."""

    def __init__(self, folder: Path) -> None:
        for name in ("owners", "bells"):
            (folder / name).mkdir(exist_ok=True)
        self.liveness = Liveness(str(folder / "owners"))
        self.owner = self.liveness.join()
        self.commits = 0
        self.bell = FifoBell(str(folder / "bells"), self.owner, self.liveness, lambda: self.commits)

    def die(self) -> None:
        """What the kernel does: all descriptors close, all files stay."""
        self.bell.close()
        self.liveness.forget()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process(tmp_path))
        return made[-1]

    yield make
    for one in made:
        if one.bell._fd >= 0:
            one.die()


@pytest.fixture(params=["local", "polling", "fifo"])
def bell(request: pytest.FixtureRequest, process: Callable[[], Process]) -> tuple[Any, int]:
    """Each kind of bell, with the id of the owner that it rings."""
    if request.param == "local":
        return LocalBell(), OWNER
    if request.param == "polling":
        return PollingBell(lambda: (0, 0)), OWNER
    made = process()
    return made.bell, made.owner


def test_a_ring_wakes_a_sleeper(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    slept = in_thread(b.sleep, sleeper, 30)
    assert b.ring(owner, sleeper.id)
    assert slept.result(10) is None


def test_a_ring_between_the_look_and_the_sleep_is_not_lost(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    b.ring(owner, sleeper.id)
    assert in_thread(b.sleep, sleeper, None).result(10) is None


def test_rings_before_the_look_are_forgotten(bell: tuple[Any, int]) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    for _ in range(3):
        b.ring(owner, sleeper.id)
    b.drain(sleeper)
    assert (sleeper.rung, sleeper.gate.locked()) == (False, True)


def test_a_sleep_ends_at_its_timeout(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, _ = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    assert in_thread(b.sleep, sleeper, 0.01).result(10) is None


@pytest.mark.parametrize("timeout", [0, 1e-9])
def test_a_sleep_of_no_time_returns(bell: tuple[Any, int], in_thread: InThread, timeout: float) -> None:
    b, _ = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    assert in_thread(b.sleep, sleeper, timeout).result(10) is None


@pytest.mark.parametrize("timeout", [3e6, 1e9])
def test_a_sleep_of_years_can_be_rung(bell: tuple[Any, int], in_thread: InThread, timeout: float) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    slept = in_thread(b.sleep, sleeper, timeout)
    b.ring(owner, sleeper.id)
    assert slept.result(10) is None


def test_a_sleeper_that_was_forgotten_cannot_be_reached(bell: tuple[Any, int]) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    b.forget(sleeper)
    assert not b.ring(owner, sleeper.id)


def test_a_ring_for_one_leaves_the_others_asleep(bell: tuple[Any, int], in_thread: InThread, eventually: Eventually) -> None:
    b, owner = bell
    sleepers = [b.sleeper() for _ in range(4)]
    for sleeper in sleepers:
        b.drain(sleeper)
    slept = [in_thread(b.sleep, sleeper, None) for sleeper in sleepers]
    b.ring(owner, sleepers[2].id)
    slept[2].result(10)
    for n in (0, 1, 3):
        if isinstance(b, PollingBell):
            break
        assert not sleepers[n].rung
    for sleeper in sleepers:
        b.ring(owner, sleeper.id)
    assert [future.result(10) for future in slept] == [None] * 4


def test_each_of_many_sleepers_is_woken_in_any_order(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, owner = bell
    sleepers = [b.sleeper() for _ in range(20)]
    for sleeper in sleepers:
        b.drain(sleeper)
    slept = [in_thread(b.sleep, sleeper, None) for sleeper in sleepers]
    for n in (*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3)):
        b.ring(owner, sleepers[n].id)
        slept[n].result(10)


def test_a_sleeper_may_sleep_again(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    for _ in range(50):
        b.drain(sleeper)
        slept = in_thread(b.sleep, sleeper, None)
        b.ring(owner, sleeper.id)
        assert slept.result(10) is None


# ---------------------------------------------------------------------- pipes between processes
def test_a_ring_crosses_processes(process: Callable[[], Process], in_thread: InThread) -> None:
    here, there = process(), process()
    sleeper = here.bell.sleeper()
    here.bell.drain(sleeper)
    slept = in_thread(here.bell.sleep, sleeper, None)
    assert there.bell.ring(here.owner, sleeper.id)
    assert slept.result(10) is None


def test_rings_from_elsewhere_wake_each_of_many_sleepers(process: Callable[[], Process], in_thread: InThread) -> None:
    here, there = process(), process()
    sleepers = [here.bell.sleeper() for _ in range(10)]
    for sleeper in sleepers:
        here.bell.drain(sleeper)
    slept = [in_thread(here.bell.sleep, sleeper, None) for sleeper in sleepers]
    for sleeper, future in reversed(list(zip(sleepers, slept, strict=True))):
        there.bell.ring(here.owner, sleeper.id)
        assert future.result(10) is None


def test_a_process_that_left_cannot_be_rung(process: Callable[[], Process]) -> None:
    here, there = process(), process()
    sleeper = here.bell.sleeper()
    here.bell.close(here.owner)
    here.liveness.leave(here.owner)
    assert not there.bell.ring(here.owner, sleeper.id)


def test_a_process_that_died_cannot_be_rung(process: Callable[[], Process]) -> None:
    here, there = process(), process()
    sleeper = here.bell.sleeper()
    there.bell.ring(here.owner, sleeper.id)
    here.die()
    assert not there.bell.ring(here.owner, sleeper.id)


def test_a_death_wakes_the_sleepers_of_those_who_watch(process: Callable[[], Process], in_thread: InThread) -> None:
    here, there = process(), process()
    here.liveness.watch([there.owner])
    here.bell.watching_changed()
    sleepers = [here.bell.sleeper() for _ in range(3)]
    for sleeper in sleepers:
        here.bell.drain(sleeper)
    slept = [in_thread(here.bell.sleep, sleeper, None) for sleeper in sleepers]
    there.die()
    assert [future.result(10) for future in slept] == [None] * 3


def test_who_is_watched_later_is_seen_to_die_by_those_who_sleep_already(process: Callable[[], Process], in_thread: InThread, eventually: Eventually) -> None:
    here, there = process(), process()
    sleeper = here.bell.sleeper()
    here.bell.drain(sleeper)
    slept = in_thread(here.bell.sleep, sleeper, None)
    eventually(lambda: here.bell._leader is not None)
    here.liveness.watch([there.owner])
    here.bell.watching_changed()
    there.die()
    assert slept.result(10) is None


def test_more_rings_than_a_pipe_holds_wake_everybody(process: Callable[[], Process], in_thread: InThread) -> None:
    here, there = process(), process()
    sleepers = [here.bell.sleeper() for _ in range(2)]
    for sleeper in sleepers:
        here.bell.drain(sleeper)
    for _ in range(9000):
        there.bell.ring(here.owner, sleepers[0].id)
    there.bell.ring(here.owner, sleepers[1].id)  # finds no place in the pipe
    slept = [in_thread(here.bell.sleep, sleeper, None) for sleeper in sleepers]
    assert [future.result(10) for future in slept] == [None] * 2


def test_the_pipe_is_for_its_owner_only(process: Callable[[], Process], tmp_path: Path) -> None:
    one = process()
    assert os.stat(tmp_path / "bells" / f"{one.owner:016x}").st_mode & 0o077 == 0


def test_closing_a_bell_removes_its_pipe(process: Callable[[], Process], tmp_path: Path) -> None:
    one = process()
    one.bell.close(one.owner)
    assert os.listdir(tmp_path / "bells") == []


def test_burying_an_owner_removes_its_pipe(process: Callable[[], Process], tmp_path: Path) -> None:
    here, there = process(), process()
    there.bell.ring(here.owner, 1)
    here.die()
    there.bell.bury(here.owner)
    there.bell.bury(here.owner)
    assert os.listdir(tmp_path / "bells") == [f"{there.owner:016x}"]


# ---------------------------------------------------------------------- polling
def test_a_commit_of_another_process_is_noticed(in_thread: InThread) -> None:
    commits = [(1, 1)]
    bell = PollingBell(lambda: commits[-1])
    sleeper = bell.sleeper()
    bell.drain(sleeper)
    slept = in_thread(bell.sleep, sleeper, 600)
    commits.append((2, 1))
    assert slept.result(10) is None


def test_a_commit_between_the_look_and_the_sleep_is_noticed() -> None:
    commits = [(1, 1)]
    bell = PollingBell(lambda: commits[-1])
    sleeper = bell.sleeper()
    bell.drain(sleeper)
    commits.append((1, 2))
    bell.sleep(sleeper, None)


def test_a_polling_sleeper_looks_now_and_then_without_any_sign(in_thread: InThread) -> None:
    bell = PollingBell(lambda: (1, 1))
    sleeper = bell.sleeper()
    bell.drain(sleeper)
    assert in_thread(bell.sleep, sleeper, None).result(10) is None  # a death is found by looking


def test_queues_work_where_no_pipes_can_be_made(path: str, in_thread: InThread, until_waiting: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("no pipes here")

    monkeypatch.setattr(os, "mkfifo", refused)
    with mqlite.Queue("q", path) as q:
        assert isinstance(q._engine.presence.bell, PollingBell)
        got = [in_thread(q.get) for _ in range(3)]
        until_waiting(q, n=3)
        q.put_many(range(3))
        assert sorted(future.result(10) for future in got) == [0, 1, 2]


def test_threads_in_a_bell_do_not_hold_its_lock(bell: tuple[Any, int], in_thread: InThread) -> None:
    b, owner = bell
    sleeper = b.sleeper()
    b.drain(sleeper)
    slept = in_thread(b.sleep, sleeper, None)
    done = threading.Event()
    in_thread(lambda: (b.forget(b.sleeper()), done.set()))
    assert done.wait(10)
    b.ring(owner, sleeper.id)
    slept.result(10)
