"""Stores for tests of damage: one that has something of everything, which page is what, and how a page is spoilt."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import mqlite
from mqlite.log import format as fmt
from mqlite.system import structure
from mqlite.system.pages import LEAF, DataFile, leaf_nodes, newest_meta

PAGE = min(os.sysconf("SC_PAGE_SIZE"), 32768)
BIG = bytes(range(256)) * 400


def fill(path: str) -> None:
    """Queues, dead letters, delays, schedules, groups, keys, topics, rows; large and small, pages freed by some."""
    with mqlite.open(path) as broker:
        plain = broker.queue("plain", maxsize=100_000)
        plain.put_many([b"%06d" % n * 20 for n in range(400)])
        plain.put(BIG, priority=7, headers={"is": "big"})
        for message in plain.receive(60):
            match message.id % 3:
                case 0:
                    message.ack()
                case 1:
                    message.nack(delay=10_000)
                case 2:
                    message.reject("because")
        keyed = broker.queue("keyed", max_deliveries=2, dedup_window=10_000)
        for n in range(40):
            keyed.put({"n": n}, group=f"g{n % 4}", unique=f"u{n}", dedup_id=f"d{n}", ttl=100_000, priority=n % 3)
        keyed.put("later", delay=5_000)
        keyed.put("first", replace_key="only")
        keyed.put("second", replace_key="only")
        keyed.schedule("hourly", "tick", every=3600)
        broker.queue("stack", order="lifo").put_many([1, 2, 3])
        broker.queue("ageing", aging=60).put_many(["a", "b"], priority=2)
        events = broker.topic("events", retention="limits", max_messages=20)
        events.subscribe("all")
        events.subscribe("some", "order.*", headers={"a": 1})
        events.bind(plain, "order.new")
        for n in range(30):
            events.publish({"n": n}, "order.new" if n % 2 else "order.paid", headers={"a": n % 2}, retain=n == 7)
        state = broker.topic("state", compact=True)
        state.publish("old", "k")
        state.publish("new", "k")
        with broker.transaction() as tx:
            for n in range(60):
                tx.table("rows")[f"key-{n}"] = {"value": n}
            tx.table("rows")["big"] = "v" * 20_000
            tx.once("job-1")
        plain.prepare("half", check_after=10_000)


def pages_in_use(log: str) -> list[int]:
    """Those that the newest state of a data file is made of, its meta pages among them."""
    with DataFile(log) as file:
        walk = structure._Walk(file, None)
        assert walk.problems(None) == []
        return [number for number, seen in enumerate(walk._seen) if seen == 1]


def last_page(log: str) -> int:
    """The last page that a data file uses."""
    with DataFile(log) as file:
        meta = newest_meta(file)
        assert meta is not None
        return meta.last_page


class Spoilt:
    """A data file in which one page after the other is spoilt, and made good again."""

    def __init__(self, log: str) -> None:
        self._fd = os.open(log, os.O_RDWR)
        self.size = os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)

    def read(self, number: int) -> bytes:
        return os.pread(self._fd, PAGE, number * PAGE)

    def write(self, number: int, page: bytes) -> None:
        os.pwrite(self._fd, page, number * PAGE)

    def flip(self, number: int, bit: int) -> None:
        page = bytearray(self.read(number))
        page[bit // 8] ^= 1 << bit % 8
        self.write(number, bytes(page))


def noise(seed: int) -> bytes:
    """A page of it."""
    return random.Random(seed).randbytes(PAGE)


def contents(path: str) -> dict[tuple[Any, ...], Any]:
    """All that users can see of a store, by what it belongs to; nothing is claimed."""
    found: dict[tuple[Any, ...], Any] = {}
    with mqlite.open(path) as broker:
        log = broker._store.engine.log
        with log.read() as snapshot:
            for each in snapshot.definitions():
                found["definition", each.id] = (each.kind, each.name, each.options)
                if each.kind in ("queue", "subscription"):
                    for queue in (each.id, each.id | mqlite.log.DEAD_BIT):
                        for position, raw in snapshot.scan(queue):
                            record = log.resolved(snapshot, log.decode(queue, position, raw))
                            found["in line", queue, record.id] = (position, *_seen(record))
                        for line in (0, 1):
                            for key, due_ns, raw in snapshot.delayed(queue, line):
                                rank, record = log.decode_delayed(key, raw)
                                record = log.resolved(snapshot, record)
                                found["waits", queue, record.id] = (rank, line, due_ns, *_seen(record))
                elif each.kind == "topic":
                    for number, raw in snapshot.all_kept(each.id):
                        found["kept", each.id, number] = _seen(log.decode_kept(each.id, number, raw))
                elif each.kind == "table":
                    for key, row in snapshot.rows(each.id):
                        found["row", each.id, key] = row
    return found


def _seen(record: Any) -> tuple[Any, ...]:
    return (record.payload, record.enqueued_ns, record.delivery_count, record.extras)


def records_by_page(log: str) -> dict[int, set[tuple[str, int, Any]]]:
    """Which of them are on each leaf, and on each overflow page."""
    found: dict[int, set[tuple[str, int, Any]]] = {}
    with DataFile(log) as file:
        for number in pages_in_use(log)[2:]:
            page = file.page(number)
            if page[10] == LEAF and int.from_bytes(page[:8], sys.byteorder) == number:
                for node in leaf_nodes(page):
                    try:
                        what = _what(node.key, file.value(node))
                    except mqlite.StoreCorrupted:  # of LMDB's list of free pages
                        continue
                    on = range(node.page, node.page + file.run_pages(node.size)) if node.page else ()
                    for each in (number, *on):
                        found.setdefault(each, set()).add(what)
    return found


def _what(key: bytes, value: bytes) -> tuple[str, int, Any]:
    kind, number = key[:1], int.from_bytes(key[1:5], "big")
    if kind == fmt.DEFINITION:
        return "definition", fmt.unpacked_definition(value).id, None
    if kind == b"\x07":
        return "row", number, key[5:]
    names = {fmt.MESSAGE: "in line", fmt.DELAYED: "waits", fmt.KEPT: "kept"}
    return names.get(kind, ""), number, fmt.id_of(value) if kind in names else key
