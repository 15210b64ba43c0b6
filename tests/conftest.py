"""Fixtures for all suites: queues on every backend, closed and checked after each test; threads that wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import mqlite
from mqlite.claims import Kind

BACKENDS = ("memory", "disk")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """One conformance suite, every backend."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a store may be made."""
    return os.path.join(tmp_path, "app.mq")


@pytest.fixture
def make_queue(backend: str, path: str) -> Iterator[Callable[..., mqlite.Queue[Any]]]:
    """Makes queues on the backend under test; afterwards their invariants are checked and they are closed."""
    made: list[mqlite.Queue[Any]] = []

    def make(name: str = "q", **options: Any) -> mqlite.Queue[Any]:
        queue: mqlite.Queue[Any] = mqlite.Queue(name, path if backend == "disk" else None, **options)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        try:
            assert queue.check() == []
        except mqlite.Closed:
            pass
        queue.close()


@pytest.fixture
def q(make_queue: Callable[..., mqlite.Queue[Any]]) -> mqlite.Queue[Any]:
    """A queue with default settings."""
    return make_queue()


@pytest.fixture
def disk_queue(path: str) -> Iterator[mqlite.Queue[Any]]:
    """A queue on disk, checked and closed afterwards."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    yield queue
    try:
        assert queue.check() == []
    except mqlite.Closed:
        pass
    queue.close()


# ---------------------------------------------------------------------- threads that wait, and how a test knows that they do
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
