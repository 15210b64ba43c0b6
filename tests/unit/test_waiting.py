"""Waiting: no wake-up is lost, in whatever order things happen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import pytest
from fixture_types import Eventually, InThread

import mqlite
import mqlite.waiting


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


def test_where_the_first_who_wait_are_gone_one_of_the_others_is_rung_and_no_more(
    make_queue: Callable[..., mqlite.Queue[Any]],
    in_thread: InThread,
    until_waiting: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = make_queue()
    many = mqlite.waiting.RUNG_FROM + 4
    waiting = [in_thread(queue.get, timeout=20) for _ in range(many)]
    until_waiting(queue, n=many)
    bell = queue._engine.presence.bell
    ring = bell.ring
    asked: list[int] = []
    rung: list[int] = []

    def ringing(owner: int, sleeper: int) -> bool:
        if threading.current_thread() is not threading.main_thread():
            return ring(owner, sleeper)  # who has woken may hand on what he does not need
        if len(asked) < mqlite.waiting.RUNG_FROM:
            asked.append(sleeper)
            return False
        rung.append(sleeper)
        return ring(owner, sleeper)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(bell, "ring", ringing)
        queue.put("first")
        assert wait(waiting, 20, FIRST_COMPLETED).done
    assert len(asked) == mqlite.waiting.RUNG_FROM
    assert len(rung) == 1, "a message is for one"
    queue.put_many(["other"] * (many - 1))
    assert sorted(future.result(20) for future in waiting) == ["first", *["other"] * (many - 1)]
