"""The lock of all processes, where somebody else has it while a message is about to pass by."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import InThread
from front_things import front_of

import mqlite
import mqlite.log.front
from mqlite import disk_store
from mqlite.log.front import OPEN
from mqlite.system import gate

GUARD = 60.0


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, path: str) -> Iterator[mqlite.Queue[Any]]:
    monkeypatch.setattr(disk_store, "DEFAULT_DURABILITY", "process")
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    with mqlite.Queue[Any]("q", path) as made:
        made.put("first")
        assert made.get() == "first"
        made.put("second")
        assert front_of(made).words[OPEN]
        yield made


@pytest.fixture
def other(queue: mqlite.Queue[Any]) -> Iterator[int]:
    """What another process locks: it has the gate."""
    fd = os.open(front_of(queue)._environment.path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


class Clock:
    """`time` as the gate sees it."""

    def __init__(self, then: Any) -> None:
        self.pauses, self._then = 0, then

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self._then(self.pauses)


def test_who_finds_the_gate_taken_pauses_and_tries_again(queue: mqlite.Queue[Any], other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lambda pauses: fcntl.flock(other, fcntl.LOCK_UN))
    monkeypatch.setattr(gate, "time", clock)
    monkeypatch.setattr(gate.Gated, "lock_gate", lambda self: pytest.fail("it has waited"))
    queue.put("third")
    assert clock.pauses == 1
    monkeypatch.undo()
    assert [queue.get(), queue.get()] == ["second", "third"]


def test_who_has_paused_for_long_waits_for_the_gate(
    queue: mqlite.Queue[Any], other: int, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, wait = threading.Event(), gate.Gated.lock_gate
    clock = Clock(lambda pauses: None)

    def told(self: Any) -> None:
        waits.set()
        wait(self)

    monkeypatch.setattr(gate, "time", clock)
    monkeypatch.setattr(gate.Gated, "lock_gate", told)
    putting = in_thread(lambda: queue.put("third"))
    assert waits.wait(GUARD)
    assert clock.pauses == gate._PAUSES
    fcntl.flock(other, fcntl.LOCK_UN)
    putting.result(GUARD)
    assert [queue.get(), queue.get()] == ["second", "third"]


def test_an_interrupt_in_a_pause_leaves_the_gate_to_who_has_it(queue: mqlite.Queue[Any], other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pauses: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gate, "time", Clock(interrupted))
    with pytest.raises(KeyboardInterrupt):
        queue.put("third")
    another = os.open(front_of(queue)._environment.path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(another)
    monkeypatch.setattr(gate, "time", time)
    fcntl.flock(other, fcntl.LOCK_UN)
    queue.put("fourth")
    assert [queue.get(), queue.get()] == ["second", "fourth"]
    assert queue.check() == []
