"""Transactions for tests: a broker on the backend under test, checked and closed after each test, and what is found in it."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hand_clock import HandClock

import mqlite
from mqlite.store import open_store

GUARD = 10.0


@pytest.fixture
def broker(backend: str, path: str) -> Iterator[mqlite.Broker]:
    """A store on the backend under test."""
    yield from _opened(path if backend == "disk" else None)


@pytest.fixture
def disk_broker(path: str) -> Iterator[mqlite.Broker]:
    """A store on disk."""
    yield from _opened(path)


@pytest.fixture
def timed_broker(backend: str, path: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[mqlite.Broker]:
    """A store on the backend under test, and time passes by `clock`; so it does in what is opened again."""
    monkeypatch.setattr("mqlite.broker.open_store", functools.partial(open_store, clock=clock))
    yield from _opened(path if backend == "disk" else None)


def _opened(path: str | None) -> Iterator[mqlite.Broker]:
    made = mqlite.open(path)
    yield made
    assert made.check() == []
    made.close()


# ---------------------------------------------------------------------- what is there
def counts(queue: mqlite.Queue[Any]) -> tuple[int, int, int, int]:
    """(ready, delayed, claimed, dead)."""
    stats = queue.stats()
    return stats.ready, stats.delayed, stats.claimed, stats.dead


def looks(queue: mqlite.Queue[Any]) -> list[tuple[Any, ...]]:
    """All that is said of the ready messages but their ids and times, in delivery order."""
    names = ("body", "priority", "headers", "type", "group", "routing_key", "reply_to", "correlation_id", "expires_at", "delivery_count")
    return [tuple(getattr(message, name) for name in names) for message in queue.browse()]


def received(queue: mqlite.Queue[Any], body: Any = "x", **options: Any) -> mqlite.Message:
    """A message that was put and claimed just now; the queue was empty."""
    queue.put(body, **options)
    [message] = queue.receive(timeout=0)
    assert message.body == body
    return message


def commits(broker: mqlite.Broker) -> int:
    """The number of the last commit of the log, on disk."""
    return int(_log(broker).info()["last_txnid"])


def entries(broker: mqlite.Broker) -> int:
    """How many entries the log has, on disk."""
    return int(_log(broker).stat()["entries"])


def _log(broker: mqlite.Broker) -> Any:
    environment = broker._store.engine.log._environment  # type: ignore[union-attr]
    environment.ensure_open()
    return environment._lmdb


def damage(path: str, stored: bytes) -> None:
    """A bit flips on the disk wherever `stored` is."""
    with open(os.path.join(path, "log.mdb"), "r+b") as file:
        data, place, found = file.read(64 << 20), -1, 0  # at level "process" the rest is a hole of many GiB
        while (place := data.find(stored, place + 1)) >= 0:
            file.seek(place)
            file.write(bytes([data[place] ^ 1]))
            found += 1
    assert found


class Everything:
    """A change of every kind. Staged in one transaction, all of them are made, or none."""

    def __init__(self, broker: mqlite.Broker) -> None:
        self._broker = broker
        self.out = broker.queue("everything out")
        self.work = broker.queue("everything work")
        self.failing = broker.queue("everything failing")
        self.topic = broker.topic("everything topic")
        self.sub = self.topic.subscribe("everything sub")
        self.message = received(self.work, "done")
        self.failed = received(self.failing, "failed")
        broker.table("everything").update({"kept": 0, "changed": "before", "deleted": 1})
        self.receipts: list[mqlite.Receipt] = []

    def stage(self, tx: Any) -> None:
        self.receipts = [self.out.put("new", tx=tx), *self.out.put_many(["and", "more"], tx=tx), self.topic.publish("news", tx=tx)]
        self.message.ack(tx=tx)
        self.failed.reject("hopeless", tx=tx)
        table = tx.table("everything")
        table["changed"], table["new"] = "after", 2
        del table["deleted"]

    def assert_nothing_happened(self) -> None:
        assert (counts(self.out), counts(self.sub), counts(self.work), counts(self.failing)) == ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 1, 0))
        assert dict(self._broker.table("everything")) == {"kept": 0, "changed": "before", "deleted": 1}
        assert self.topic.stats().published == 0

    def assert_all_happened(self) -> None:
        assert (counts(self.out), counts(self.sub), counts(self.work), counts(self.failing)) == ((3, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1))
        assert [message.body for message in self.out.browse()] == ["new", "and", "more"]
        assert dict(self._broker.table("everything")) == {"kept": 0, "changed": "after", "new": 2}

    def settle(self) -> None:
        """What it still holds is settled, and is its own."""
        self.message.ack()
        self.failed.ack()


# ---------------------------------------------------------------------- what stages
class Bench:
    """What can be staged, of one store."""

    def __init__(self, broker: mqlite.Broker) -> None:
        self.broker = broker
        self.queue = broker.queue("bench out")
        self.topic = broker.topic("bench topic")
        self.work = broker.queue("bench work")
        self.message = received(self.work)


STAGING: dict[str, Callable[[Bench, Any], object]] = {
    "put": lambda bench, tx: bench.queue.put("x", tx=tx),
    "put_nowait": lambda bench, tx: bench.queue.put_nowait("x", tx=tx),
    "put_many": lambda bench, tx: bench.queue.put_many(["x"], tx=tx),
    "publish": lambda bench, tx: bench.topic.publish("x", tx=tx),
    "publish_many": lambda bench, tx: bench.topic.publish_many(["x"], tx=tx),
    "ack": lambda bench, tx: bench.message.ack(tx=tx),
    "nack": lambda bench, tx: bench.message.nack(tx=tx),
    "reject": lambda bench, tx: bench.message.reject(tx=tx),
    "ack_many": lambda bench, tx: bench.work.ack_many([bench.message], tx=tx),
}
staging = pytest.mark.parametrize("stage", STAGING.values(), ids=STAGING.keys())

USES: dict[str, Callable[[mqlite.Transaction, mqlite.Table], object]] = {
    "table": lambda tx, table: tx.table("t"),
    "expect": lambda tx, table: tx.expect("t", "k", 1),
    "once": lambda tx, table: tx.once("k"),
    "commit": lambda tx, table: tx.commit(),
    "getitem": lambda tx, table: table["k"],
    "get": lambda tx, table: table.get("k"),
    "setitem": lambda tx, table: table.__setitem__("k", 2),
    "delitem": lambda tx, table: table.__delitem__("k"),
    "in": lambda tx, table: "k" in table,
    "len": lambda tx, table: len(table),
    "iteration": lambda tx, table: list(table),
    "items": lambda tx, table: list(table.items()),
    "range": lambda tx, table: list(table.range("a", "z")),
    "prefix": lambda tx, table: list(table.prefix("k")),
    "version": lambda tx, table: table.version("k"),
    "pop": lambda tx, table: table.pop("k"),
    "update": lambda tx, table: table.update(k=2),
    "clear": lambda tx, table: table.clear(),
}
uses = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())


# ---------------------------------------------------------------------- in children of every start method
def increment(tx: mqlite.Transaction) -> int:
    """One more in the table "counts"."""
    table = tx.table("counts")
    table["n"] = table.get("n", 0) + 1
    return int(table["n"])


def move_in_child(broker: mqlite.Broker, count: int) -> None:
    """Takes messages from "work", puts them into "done" and counts them, each in a transaction."""
    work, done = broker.queue("work"), broker.queue("done")
    for _ in range(count):
        [message] = work.receive(timeout=GUARD)

        def move(tx: mqlite.Transaction, message: mqlite.Message = message) -> None:
            increment(tx)
            done.put(message.body, tx=tx)
            message.ack(tx=tx)

        broker.run(move, attempts=10_000)
    broker.close()


def main(method: str, folder: str) -> None:
    """Transactions in two children of one start method, and here. Prints "ok"."""
    context: Any = multiprocessing.get_context(method)
    broker = mqlite.open(os.path.join(folder, "app.mq"))
    work, done = broker.queue("work"), broker.queue("done")
    work.put_many(list(range(20)))
    processes = [context.Process(target=move_in_child, args=(broker, 10)) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in range(5):
        broker.run(increment, attempts=10_000)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0, process
    assert sorted(message.body for message in done.browse()) == list(range(20))
    assert counts(work) == (0, 0, 0, 0)
    assert broker.table("counts")["n"] == 25
    assert broker.check() == []
    broker.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
