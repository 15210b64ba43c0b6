"""Topics for tests: a store on the backend under test, its topics and queues, checked and closed after each test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hand_clock import HandClock

import mqlite
from mqlite.channel import Channel
from mqlite.store import open_store

GUARD = 10.0


class Shop:
    """One store, and the handles on it that a test has made."""

    def __init__(self, path: str | None, clock: HandClock | None = None) -> None:
        self.path = path
        self._clock = clock
        self._in_memory = open_store(None, clock=clock) if path is None else None
        self._handles: list[Any] = []

    @property
    def on_disk(self) -> bool:
        return self.path is not None

    def _store(self) -> Any:
        return self._in_memory or open_store(self.path, clock=self._clock)

    def topic(self, name: str = "events", **options: Any) -> mqlite.Topic[Any]:
        """A handle on the topic of that name."""
        self._handles.append(mqlite.Topic.open(self._store(), name, options))
        return self._handles[-1]

    def queue(self, name: str = "work", **options: Any) -> mqlite.Queue[Any]:
        """A handle on the queue of that name."""
        codec = options.pop("codec", "json")
        self._handles.append(mqlite.Queue.of(Channel.open(self._store(), name, {**options, "codec": codec} if codec != "json" else options, codec)))
        return self._handles[-1]

    def check(self) -> list[str]:
        """What is wrong with the store."""
        for handle in self._handles:
            with contextlib.suppress(mqlite.Closed):
                return handle.check()
        return []

    def close(self) -> None:
        """Close all handles; on disk that closes the store."""
        while self._handles:
            self._handles.pop().close()

    def again(self, name: str = "events", **options: Any) -> mqlite.Topic[Any]:
        """The topic, after the store was checked and closed; in memory it stays open."""
        assert self.check() == []
        if self.on_disk:
            self.close()
        return self.topic(name, **options)

    def entries(self) -> tuple[int, int]:
        """How many entries the log and the claims have, each queue that is known among them."""
        engine = self._handles[0]._engine
        if self.on_disk:
            log, claims = engine.log._environment, engine.claims.environment
            for environment in (log, claims):
                environment.ensure_open()
            return log._lmdb.stat()["entries"], claims._lmdb.stat()["entries"]
        log = engine.log
        count = len(log._definitions) + sum(map(len, log._kept.values())) + len(log._shelves)
        for shelf in log._shelves.values():
            count += shelf.total + sum(len(list(index.walk((), ()))) if hasattr(index, "walk") else len(index) for index in shelf.indexes)
        with engine.claims.read() as c:
            return count, len(list(c.rows()))


@pytest.fixture
def shop(backend: str, path: str) -> Iterator[Shop]:
    """A store on the backend under test."""
    made = Shop(path if backend == "disk" else None)
    yield made
    assert made.check() == []
    made.close()


@pytest.fixture
def timed_shop(backend: str, path: str, clock: HandClock) -> Iterator[Shop]:
    """The same, and time passes by `clock`."""
    made = Shop(path if backend == "disk" else None, clock)
    yield made
    assert made.check() == []
    made.close()


@pytest.fixture
def disk_shop(path: str) -> Iterator[Shop]:
    """A store on disk."""
    made = Shop(path)
    yield made
    assert made.check() == []
    made.close()


@pytest.fixture
def topic(shop: Shop) -> mqlite.Topic[Any]:
    """A topic with default settings."""
    return shop.topic()


def got(queue: mqlite.Queue[Any], most: int = 1 << 20) -> list[Any]:
    """The bodies of all that can be had now, each acknowledged before the next."""
    return [message.body for message in messages(queue, most)]


def messages(queue: mqlite.Queue[Any], most: int = 1 << 20) -> list[mqlite.Message]:
    """All that can be had now, each acknowledged before the next."""
    found: list[mqlite.Message] = []
    while len(found) < most:
        try:
            [message] = queue.receive(timeout=0)
        except mqlite.Empty:
            break
        message.ack()
        found.append(message)
    return found


def held(queue: mqlite.Queue[Any], most: int = 1 << 16) -> list[mqlite.Message]:
    """All that can be claimed now, and stays claimed."""
    try:
        return queue.receive(most, timeout=0)
    except mqlite.Empty:
        return []
