"""Threads that wait, and how a test knows that they do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import mqlite
from mqlite.claims import Kind

PATIENCE = 10.0


@pytest.fixture
def in_thread() -> Callable[..., Future[Any]]:
    """in_thread(function, *args, **options): a future of what the function returns in a thread of its own."""

    def start(function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = function(*args, **options)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, daemon=True).start()
        return future

    return start


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """eventually(condition): returns when it holds, fails when it does not for a long time."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            pause.wait(0.002)

    return wait


@pytest.fixture
def until_waiting(eventually: Callable[[Callable[[], object]], None]) -> Callable[..., None]:
    """until_waiting(queue, kind, n): returns when n threads sleep for something of that queue."""

    def wait(queue: mqlite.Queue[Any], kind: Kind = Kind.MESSAGE, n: int = 1) -> None:
        def registered() -> int:
            with queue._engine.claims.read() as c:
                return len(list(c.waiting(queue._state.id, kind)))

        eventually(lambda: registered() >= n)

    return wait
