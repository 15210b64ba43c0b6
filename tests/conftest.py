"""Fixtures for all suites: queues on every backend, closed and checked after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlite

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
