"""Waiting: no wake-up is lost, in whatever order things happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import Eventually, InThread

import mqlite


def test_a_ring_between_registering_and_looking_is_not_lost_when_others_take_the_message(
    make_queue: Callable[..., mqlite.Queue[Any]],
    in_thread: InThread,
    until_waiting: Callable[..., None],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = make_queue()
    writing, bell = type(queue._engine.claims.write()), type(queue._engine.presence.bell)
    register, drain = writing.register, bell.drain
    registered: list[Any] = []
    stolen: list[Any] = []

    def registering(self: Any, *arguments: Any) -> None:
        register(self, *arguments)
        registered.append(arguments)

    def draining(self: Any, sleeper: Any) -> bool:
        if len(registered) == 1 and not stolen:  # it has registered, and not looked since
            stolen.append(in_thread(queue.put, "stolen").result(10))
            stolen.append(in_thread(queue.get, timeout=0).result(10))
        return drain(self, sleeper)

    monkeypatch.setattr(writing, "register", registering)
    monkeypatch.setattr(bell, "drain", draining)
    waiting = in_thread(queue.get, timeout=10)
    eventually(lambda: len(stolen) == 2)
    until_waiting(queue)
    queue.put("for the waiter")
    assert (stolen[1], waiting.result(10)) == ("stolen", "for the waiter")


def test_a_waiter_whose_time_to_wake_moves_on_all_the_time_still_sleeps(
    make_queue: Callable[..., mqlite.Queue[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    engine = queue._engine
    laps: list[int] = []

    def care(number: int, kind: Any) -> tuple[int, bool]:
        laps.append(number)
        return engine.clock.monotonic_ns() + 10**9, False  # ever later

    monkeypatch.setattr(engine.waiters, "_care", care)
    with pytest.raises(mqlite.Empty):
        queue.get(timeout=0.3)
    assert len(laps) < 10
