"""Stores of earlier formats, kept as they were written: each opens, gives all that is in it, and becomes a store of this format."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

import mqlite
import mqlite.log.front
from mqlite.log import Definition

HERE = Path(__file__).parent


def unpacked(name: str, folder: Path) -> str:
    store = folder / "old.mq"
    store.mkdir(mode=0o700)
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and before has none
        archive.extractall(store)
    return str(store)


@pytest.fixture
def format_1(tmp_path: Path) -> str:
    """Two queues: of 25 messages 2 were acknowledged, 1 rejected, 1 failed and waits; 2 more wait for their time."""
    return unpacked("format_1", tmp_path)


@pytest.fixture
def format_2(tmp_path: Path) -> str:
    """Three queues with groups, unique keys, dedup_ids, a ttl, a schedule, one that is last in first out."""
    return unpacked("format_2", tmp_path)


@pytest.fixture
def format_3(tmp_path: Path) -> str:
    """A topic that keeps the last three of five, one of them retained and one with a delay, with two subscriptions and a
    queue bound to it, one of the messages settled once; a topic that keeps the newest of each key; a queue."""
    return unpacked("format_3", tmp_path)


@pytest.fixture
def format_4(tmp_path: Path) -> str:
    """A queue with groups, a ttl, a delay, a dead letter and a prepared message; a table; a key of tx.once; a topic that
    keeps three of four."""
    return unpacked("format_4", tmp_path)


@pytest.fixture
def format_5(tmp_path: Path) -> str:
    """At level "process": a queue with priorities, a group, a ttl, a unique key, a delay and a dead letter; a topic of three
    with one taken; a table; a key of tx.once."""
    return unpacked("format_5", tmp_path)


@pytest.fixture
def format_6(tmp_path: Path) -> str:
    """At level "process", left by a process that was killed while messages were in the front: a queue with a delay, a topic of
    three with one taken, a table; a queue of ten, of which one in the tree and four in the front are settled, and one is claimed."""
    return unpacked("format_6", tmp_path)


@pytest.fixture
def format_7(tmp_path: Path) -> str:
    """The same at level "full": of 17 in the queue, three in the tree, four are settled and one is claimed."""
    return unpacked("format_7", tmp_path)


def test_a_store_of_format_1_gives_all_that_is_in_it(format_1: str) -> None:
    with mqlite.open(format_1) as broker:
        orders = broker.queue("orders")
        assert broker.queues() == ["orders", "other"]
        assert broker.check() == []
        assert orders.maxsize == 1000
        stats = orders.stats()
        assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (19, 3, 0, 1)
        [dead] = orders.dead.peek()
        assert (dead.body, dead.priority, dead.headers, dead.type) == ("text", 5, {"a": [1, 2]}, "t")
        assert dead.death is not None
        assert (dead.death.reason, dead.death.error) == ("rejected", "because")
        bodies = [orders.get(timeout=0) for _ in range(19)]
        assert bodies == [{"n": n} for n in range(2, 20)] + [b"bytes"]
        assert broker.queue("other", codec="pickle").get(timeout=0) == (1, 2)
        assert broker.check() == []


def test_messages_that_had_moved_are_found_by_their_ids_after_the_upgrade(format_1: str) -> None:
    with mqlite.open(format_1) as broker:
        orders = broker.queue("orders")
        [dead] = orders.dead.peek()
        assert orders.dead.cancel(dead.id)
        failed, later = 1, 24
        assert orders.update(failed, delay=0)
        assert orders.cancel(later)
        assert orders.receive(timeout=0)[0].id == 6
        assert [m.id for m in orders.browse()][-2:] == [failed, 3]
        assert broker.check() == []


def test_a_store_of_format_2_gives_all_that_is_in_it(format_2: str) -> None:
    with mqlite.open(format_2) as broker:
        orders = broker.queue("orders")
        assert (broker.queues(), broker.topics()) == (["orders", "other", "stack"], [])
        assert broker.check() == []
        stats = orders.stats()
        assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (10, 2, 0, 1)
        assert [schedule.name for schedule in orders.schedules()] == ["nightly"]
        assert orders.put("a double", dedup_id="d3", unique="u3") == [m.id for m in orders.browse()][2]
        in_flight = orders.receive(10, 0)
        assert [message.body for message in in_flight] == [{"n": 1}, {"n": 2}, {"n": 3}, "mortal", b"bytes"]
        orders.ack_many(in_flight)
        assert [broker.queue("stack").get(timeout=0) for _ in range(2)] == [2, 1]
        assert broker.queue("other", codec="pickle").get(timeout=0) == (1, 2)
        assert broker.check() == []


def test_an_upgraded_store_takes_topics_and_new_queues(format_2: str) -> None:
    with mqlite.open(format_2) as broker:
        events = broker.topic("events")
        billing = events.subscribe("billing")
        broker.queue("new").put("new")
        events.publish("paid")
        assert billing.get(timeout=0) == "paid"
        assert broker.queue("new").get(timeout=0) == "new"
        assert broker.check() == []


def test_a_store_of_format_3_gives_all_that_is_in_it(format_3: str) -> None:
    with mqlite.open(format_3) as broker:
        assert (broker.queues(), broker.topics()) == (["bound", "orders"], ["events", "state"])
        assert broker.check() == []
        events, state = broker.topic("events"), broker.topic("state")
        kept = events.stats()
        assert (kept.subscriptions, kept.bindings, kept.published, kept.stored, kept.retained) == (2, 1, 5, 5, 3)
        assert [message.body for message in events.retained()] == [b"bytes"]
        assert [(bound.queue, bound.pattern) for bound in events.bindings()] == [("bound", "order.*")]
        assert {name: (s.ready, s.delayed) for name, s in broker.stats().items()} == {"bound": (3, 1), "events/audit": (2, 0), "events/billing": (2, 1), "orders": (3, 1)}
        first, second = events.subscription("billing").receive(2, 0)
        assert (first.body, first.routing_key, first.type, first.headers) == ({"n": 1}, "order.new", "new", {"a": 1})
        assert (second.body, second.routing_key, second.group) == ([4], "order.paid", "g")
        first.ack()
        second.ack()
        assert [message.body for message in events.subscription("audit").receive(5, 0)] == ["text", [4]]
        assert [broker.queue("bound").get(timeout=0) for _ in range(3)] == ["text", {"n": 1}, [4]]
        assert events.subscribe("new").get(timeout=0) == b"bytes"
        replayed = events.subscribe("replayed", start="earliest")
        assert [replayed.get(timeout=0) for _ in range(2)] == [b"bytes", [4]]
        newest = state.subscribe("newest", start="earliest")
        assert [newest.get(timeout=0) for _ in range(2)] == [2, 3]
        assert [broker.queue("orders").get(timeout=0) for _ in range(3)] == [{"n": 1}, {"n": 2}, b"bytes"]
        assert broker.check() == []


def test_a_store_of_format_4_gives_all_that_is_in_it(format_4: str) -> None:
    with mqlite.open(format_4) as broker:
        assert (broker.queues(), broker.topics(), broker.tables()) == (["orders"], ["events"], ["balances"])
        assert broker.check() == []
        orders, balances = broker.queue("orders"), broker.table("balances")
        assert {name: (s.ready, s.delayed, s.dead) for name, s in broker.stats().items()} == {"events/billing": (3, 0, 0), "orders": (5, 1, 1)}
        assert dict(balances) == {7: b"seven", b"k": "text", "alice": 90}
        [undecided] = orders.prepared()
        undecided.commit()
        with broker.transaction() as tx:
            assert not tx.once("done", window=1e9)
            assert tx.once("something else")
            tx.table("balances")["alice"] = 91
        assert [orders.get(timeout=0) for _ in range(6)] == [{"n": 2}, {"n": 3}, {"n": 4}, {"n": 5}, "in a transaction", {"undecided": 1}]
        assert [broker.topic("events").subscription("billing").get(timeout=0)["e"] for _ in range(3)] == [1, 2, 3]
        assert broker.check() == []


def test_a_store_of_format_5_gives_all_that_is_in_it_and_lets_messages_pass_by(format_5: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    with mqlite.open(format_5) as broker:
        assert (broker.queues(), broker.topics(), broker.tables()) == (["orders"], ["events"], ["balances"])
        assert broker.check() == []
        assert {name: (s.ready, s.delayed, s.dead) for name, s in broker.stats().items()} == {"events/billing": (2, 0, 0), "orders": (8, 1, 1)}
        assert dict(broker.table("balances")) == {7: b"seven", "alice": 90}
        with broker.transaction() as tx:
            assert not tx.once("done", window=1e9)
        orders = broker.queue("orders")
        assert orders.put("only one", unique="u", dedup_id="d") == 10
        wanted = [{"n": 5}, {"n": 0}, {"n": 2}, {"n": 4}, "grouped", "mortal", "only one", "in a transaction"]
        assert [orders.get(timeout=0) for _ in range(8)] == wanted
        assert [broker.topic("events").subscription("billing").get(timeout=0)["e"] for _ in range(2)] == [1, 2]
        plain = broker.queue("plain")
        for number in range(20):
            plain.put(number)
        assert not broker._store.engine.log.is_folded()
        assert [plain.get(timeout=0) for _ in range(20)] == list(range(20))
        assert broker.check() == []


def test_a_store_of_format_6_gives_all_that_is_in_it_and_what_had_not_reached_the_tree(format_6: str) -> None:
    with mqlite.open(format_6) as broker:
        assert {name: (s.ready, s.delayed, s.claimed) for name, s in broker.stats().items()} == {"events/billing": (2, 0, 0), "orders": (5, 1, 0), "plain": (5, 0, 0)}
        assert broker.check() == []
        assert [broker.queue("plain").get(timeout=0)["n"] for _ in range(5)] == [1, 2, 4, 6, 8]
        assert [broker.queue("orders").get(timeout=0)["n"] for _ in range(5)] == list(range(5))
        assert dict(broker.table("balances")) == {"alice": 90}
        assert broker.check() == []


def test_a_store_of_format_7_gives_all_that_is_in_it_and_what_had_not_reached_the_tree(format_7: str) -> None:
    with mqlite.open(format_7) as broker:
        assert {name: (s.ready, s.delayed, s.claimed) for name, s in broker.stats().items()} == {"events/billing": (2, 0, 0), "orders": (5, 1, 0), "plain": (13, 0, 0)}
        assert broker.check() == []
        wanted = [{"n": 7}, {"n": 11}, {"n": 13}, *({"old": n} for n in range(3)), *({"n": n} for n in range(0, 14, 2))]
        assert [broker.queue("plain").get(timeout=0) for _ in range(13)] == wanted
        assert [broker.queue("orders").get(timeout=0)["n"] for _ in range(5)] == list(range(5))
        assert dict(broker.table("balances")) == {"alice": 90}
        assert broker.check() == []


def sums(broker: mqlite.Broker) -> tuple[bool, bool]:
    """Whether the sums of the queue and of the table are known."""
    definitions = {each.name: each.id for each in broker._store.engine.log.write(lambda txn: txn.definitions())}
    with broker._store.engine.log.read() as snapshot:
        return snapshot.counters(definitions["orders"]).put_sum >= 0, snapshot.table_numbers(definitions["\x1fbalances"]).sum >= 0


def test_the_sums_of_a_queue_of_format_4_are_known_once_it_was_empty(format_4: str) -> None:
    with mqlite.open(format_4) as broker:
        assert sums(broker) == (False, False)
        orders = broker.queue("orders")
        orders.purge()
        [later] = [orders.cancel(number) for number in range(1, 100) if orders.cancel(number)] or [True]
        assert later
        orders.put("one more")
        assert orders.get(timeout=0) == "one more"
        orders.put("new")
        assert sums(broker) == (True, False)
        assert broker.check() == []


@pytest.mark.parametrize("name", ["format_1", "format_2", "format_3", "format_4", "format_5", "format_6", "format_7"])
def test_an_upgraded_store_takes_rows(name: str, tmp_path: Path) -> None:
    store = unpacked(name, tmp_path)
    with mqlite.open(store) as broker:
        log = broker._store.engine.log

        def op(txn: Any) -> int:
            table = Definition(0, "\x1ft", {}, kind="table")
            txn.define(table)
            txn.put_row(table.id, b"k", (0, b"v"), txn.next_seq())
            return table.id

        table = log.write(op)
        assert table > max(each.id for each in log.write(lambda txn: txn.definitions()) if each.kind != "table")
    with mqlite.open(store) as broker, broker._store.engine.log.read() as snapshot:
        assert [(key, row.payload) for key, row in snapshot.rows(table)] == [(b"k", (0, b"v"))]
    with mqlite.open(store) as broker:
        assert broker.check() == []


@pytest.mark.parametrize("name", ["format_1", "format_2", "format_3", "format_4", "format_5", "format_6", "format_7"])
def test_the_store_has_this_version_s_format_then(name: str, tmp_path: Path) -> None:
    store = unpacked(name, tmp_path)
    mqlite.open(store).close()
    with open(os.path.join(store, "store.json"), encoding="utf-8") as marker:
        assert json.load(marker)["format"] == 8
    with mqlite.open(store) as broker:
        assert broker.stats()["orders"].delayed == {"format_1": 3, "format_2": 2, "format_3": 1, "format_4": 1, "format_5": 1, "format_6": 1, "format_7": 1}[name]
        assert broker.check() == []
