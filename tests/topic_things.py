"""Topics for tests: a store on the backend under test, its topics and queues, checked and closed after each test."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hand_clock import HandClock

import mqlite
from mqlite.channel import Channel
from mqlite.codecs import BodyCodec
from mqlite.log.index import KINDS
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
        named = {**options, "codec": BodyCodec(codec).name} if codec != "json" else options
        self._handles.append(mqlite.Queue.of(Channel.open(self._store(), name, named, codec)))
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
        with engine.log.read() as log, engine.claims.read() as c:
            definitions, queues = log.definitions(), list(log._shelves)
            bodies = sum(1 for each in definitions if each.kind == "topic" for _ in log.all_kept(each.id))
            indexed = sum(1 for queue in queues for kind in KINDS for _ in log.entries(kind, queue))
            stored = sum(log.counters(queue).total for queue in queues)
            return len(definitions) + len(queues) + bodies + indexed + stored, len(list(c.rows()))


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


# ---------------------------------------------------------------------- sent to children
def publish_in_child(topic: mqlite.Topic[Any], number: int) -> None:
    topic.publish(["child", number], "from.child")


def take_in_child(sub: mqlite.Subscription, results: mqlite.Queue[Any], count: int) -> None:
    for _ in range(count):
        with sub.receive(timeout=GUARD)[0] as message:
            results.put([message.body, message.routing_key, sub.name, sub.pattern])


def use_consumer_in_child(consumer: mqlite.Consumer, results: mqlite.Queue[Any]) -> None:
    with consumer:
        results.put(consumer.receive(timeout=GUARD).body)


def subscribe_in_child(topic: mqlite.Topic[Any], told: Any) -> None:
    sub = topic.subscribe(durable=False)
    told.send(sub.name)
    told.send(sub.get(timeout=GUARD))
    topic.close()


def in_pool(arguments: tuple[mqlite.Topic[Any], int]) -> int:
    topic, number = arguments
    return int(topic.publish(number, "pool"))


def is_even(message: mqlite.Message) -> bool:
    """A filter that children can import."""
    return bool(message.body % 2 == 0)


def main(method: str, folder: str) -> None:
    """Send handles to the children of one start method, and work with them there. Prints "ok"."""
    context: Any = multiprocessing.get_context(method)
    path = os.path.join(folder, "app.mq")
    topic: mqlite.Topic[Any] = mqlite.Topic("events", path)
    results: mqlite.Queue[Any] = mqlite.Queue("results", path)
    sub, even = topic.subscribe("s", "#.child"), topic.subscribe("even", "even", is_even)

    def run(*processes: Any) -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0, process

    run(*(context.Process(target=publish_in_child, args=(topic, number)) for number in range(3)))
    assert sorted(got(sub)) == [["child", 0], ["child", 1], ["child", 2]]

    topic.publish_many([1, 2], "child")
    run(context.Process(target=take_in_child, args=(sub, results, 2)))
    assert [results.get(timeout=GUARD) for _ in range(2)] == [[n, "child", "s", "#.child"] for n in (1, 2)]

    topic.publish_many([1, 2, 3, 4], "even")
    run(context.Process(target=take_in_child, args=(even, results, 2)))
    assert [results.get(timeout=GUARD)[0] for _ in range(2)] == [2, 4]

    topic.publish("consumed", "child")
    with sub.consumer(prefetch=2) as consumer:
        run(context.Process(target=use_consumer_in_child, args=(consumer, results)))
    assert results.get(timeout=GUARD) == "consumed"
    assert got(sub) == ["consumed"]  # given back when the child closed it

    hears, tells = context.Pipe(duplex=False)
    child = context.Process(target=subscribe_in_child, args=(topic, tells))
    child.start()
    assert hears.recv() in topic.subscriptions()
    assert topic.publish("hello").receivers == 1
    assert hears.recv() == "hello"
    child.join(60)
    assert topic.subscriptions() == ["s", "even"]

    pooled = topic.subscribe("pooled", "pool")
    with context.Pool(2) as pool:
        ids = pool.map(in_pool, [(topic, number) for number in range(10)])
    assert sorted(message.id for message in messages(pooled)) == sorted(ids)

    assert topic.check() == []
    for handle in (results, topic):
        handle.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
