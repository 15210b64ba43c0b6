"""Pipes that are killed at any moment, and started again, count every message once and send every result once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from polling import until

import mqlite
import mqlite.pipe
from mqlite.lease import ack_many

LIMIT = 60.0
SHOPS = ["ann", "bob", "cem"]
SIZE = 10
#: Long ago, so that an idle pipe closes all windows; a whole number of windows since the epoch.
BEGIN = 1_000_000_000


def sale(number: int) -> list[Any]:
    """(shop, price, moment, number); now and then one comes late."""
    return [SHOPS[number % 3], number % 17, BEGIN + number / 20 - (25 if number % 29 == 0 else 0), number]


def tally(message: mqlite.Message, tx: mqlite.Transaction) -> Any:
    """Counts the sales of a shop in a table, and passes the number of the sale on."""
    table = tx.table("shops")
    count, total = table.get(message.body[0], [0, 0])
    table[message.body[0]] = [count + 1, total + message.body[1]]
    return message.body[3]


def pipes_of(broker: mqlite.Broker, threads: int = 1) -> list[mqlite.Pipe]:
    """From one topic: into windows, and through a table."""
    sales = broker.topic("sales")
    counted = mqlite.TumblingWindow(SIZE, key=lambda sale: sale.body[0], value=lambda sale: sale.body[1], at=lambda sale: sale.body[2])
    return [
        broker.pipe(sales.subscription("windows"), target=broker.queue("totals"), window=counted, name="totals", batch=7, threads=threads),
        broker.pipe(sales.subscription("table"), tally, broker.queue("numbers"), batch=7, threads=threads),
    ]


def subscribe(broker: mqlite.Broker) -> mqlite.Topic[Any]:
    sales = broker.topic("sales")
    for name in ("windows", "table"):
        sales.subscribe(name, max_deliveries=None)  # the deaths of those who had them do not count
    return sales


def work(talk: Any, path: str) -> None:
    """Until it is killed, or told to end."""
    broker = mqlite.open(path)
    pipes = [pipe.start() for pipe in pipes_of(broker, threads=2)]
    talk.hear(3600)
    for pipe in pipes:
        pipe.close()
    broker.close()


def differences(broker: mqlite.Broker, count: int) -> list[str]:
    """What is not as if the first `count` sales had been counted one after the other by nobody who was killed."""
    windows: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    shops: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for shop, price, moment, _ in map(sale, range(count)):
        for sums in (windows[int(moment // SIZE) * SIZE, shop], shops[shop]):
            sums[0] += 1
            sums[1] += price
    found: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    punctual: Counter[tuple[int, str]] = Counter()
    for message in broker.queue("totals").browse():
        each = message.body
        found[each["start"], each["key"]][0] += each["count"]
        found[each["start"], each["key"]][1] += each["sum"]
        punctual[each["start"], each["key"]] += not each["late"]
    wrong = [f"window {where}: {found.get(where)}, not {windows.get(where)}" for where in windows.keys() | found.keys() if windows.get(where) != found.get(where)]
    wrong += [f"window {where} has {results} results that are not late" for where, results in punctual.items() if results > 1]
    kept = dict(broker.table("shops"))
    wrong += [f"shop {shop}: {kept.get(shop)}, not {sums}" for shop, sums in shops.items() if kept.get(shop) != sums]
    numbers = Counter(message.body for message in broker.queue("numbers").browse())
    wrong += [f"sale {number} came {numbers[number]} times" for number in numbers.keys() | set(range(count)) if numbers[number] != 1]
    wrong += [f"{name} is not empty: {stats}" for name, stats in broker.stats().items() if name.startswith("sales/") and (stats.ready or stats.claimed or stats.delayed or stats.dead)]
    wrong += [f"window {where!r} is open" for where, _ in broker.table("windows of totals").range(b"")]
    return wrong + broker.check()


def storm(path: str, children: Any, seconds: float, seed: int) -> tuple[int, int]:
    """(sales, kills)."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    broker = mqlite.open(path)
    sales = subscribe(broker)
    workers = [children.fork(work, path) for _ in range(3)]
    count = kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(chance.randint(1, 40)):
            sales.publish(sale(count))
            count += 1
        if chance.random() < 0.5:
            victim = chance.randrange(3)
            workers[victim].drop()
            kills += 1
            workers[victim] = children.fork(work, path)
        time.sleep(chance.random() * 0.03)
    amid = len(broker.queue("numbers"))
    print(f"{amid} of {count} sales done amid {kills} kills")
    assert amid > 0
    workers[0].drop()  # the others finish


    def are_done() -> bool:
        lags = [sales.subscription(name).stats().lag for name in ("windows", "table")]
        return not any(lags) and not list(broker.table("windows of totals").range(b""))

    until(are_done, "the pipes do not finish")
    for worker in workers[1:]:
        worker.say("end")
        worker.end()
    assert differences(broker, count) == []
    broker.close()
    return count, kills


def test_pipes_that_are_killed_and_started_again_count_every_sale_once(path: str, children: Any) -> None:
    count, kills = storm(path, children, 4, random.randrange(1 << 30))
    print(f"{count} sales, {kills} kills")
    assert count > 100
    assert kills > 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pipes_that_are_killed_for_long_count_every_sale_once(path: str, children: Any) -> None:
    count, kills = storm(path, children, 45, random.randrange(1 << 30))
    print(f"{count} sales, {kills} kills")
    assert kills > 50


# ---------------------------------------------------------------------- the checker, and what it is to find
def careless(talk: Any, path: str, ack_first: bool) -> None:
    """A pipe that acknowledges in a commit of its own, and is killed between the two."""
    broker = mqlite.open(path)
    pending: list[Any] = []
    tried = mqlite.pipe.Pipe._tried

    def killed() -> None:
        talk.say("killed")
        os.kill(os.getpid(), signal.SIGKILL)

    def remember(messages: Any, engine: Any, queue: str, tx: Any) -> None:
        if ack_first:
            ack_many(messages, engine, queue)
            killed()
        pending.append((messages, engine, queue))

    def tried_and_acknowledged(self: Any, group: Any, wait: float) -> Any:
        done = tried(self, group, wait)
        killed()
        for each in pending:
            ack_many(*each)
        return done

    mqlite.pipe.ack_many = remember  # type: ignore[attr-defined]
    mqlite.pipe.Pipe._tried = tried_and_acknowledged  # type: ignore[method-assign]
    [windows, table] = pipes_of(broker)
    (windows if talk.hear() == "windows" else table).step()


def played(path: str, children: Any, which: str | None, ack_first: bool = False) -> list[str]:
    """Ten sales; a careless pipe is killed in the middle of them, or none; careful ones finish."""
    with mqlite.open(path) as broker:
        sales = subscribe(broker)
        for number in range(10):
            sales.publish(sale(number))
    if which is not None:
        child = children.fork(careless, path, ack_first)
        child.say(which)
        assert child.hear() == "killed"
        assert child.wait() == -signal.SIGKILL
    with mqlite.open(path) as broker:
        for pipe in pipes_of(broker):
            pipe.run_until_idle()
        return differences(broker, 10)


def test_the_checker_finds_nothing_where_nobody_was_careless(path: str, children: Any) -> None:
    assert played(path, children, None) == []


@pytest.mark.parametrize("which", ["windows", "table"])
def test_the_checker_finds_what_a_pipe_counts_twice_that_acknowledges_after_its_commit(path: str, children: Any, which: str) -> None:
    wrong = played(path, children, which)
    assert [each for each in wrong if each.startswith("window (" if which == "windows" else "shop ")]
    if which == "table":
        assert "sale 3 came 2 times" in wrong


@pytest.mark.parametrize("which", ["windows", "table"])
def test_the_checker_finds_what_a_pipe_loses_that_acknowledges_before_its_commit(path: str, children: Any, which: str) -> None:
    wrong = played(path, children, which, ack_first=True)
    assert [each for each in wrong if each.startswith("window (" if which == "windows" else "shop ")]
    if which == "table":
        assert "sale 3 came 0 times" in wrong


def test_the_checker_finds_a_result_that_came_twice(path: str, children: Any) -> None:
    assert played(path, children, None) == []
    with mqlite.open(path) as broker:
        totals = broker.queue("totals")
        [first, *_] = totals.browse()
        totals.put(first.body)
        wrong = differences(broker, 10)
    assert len(wrong) == 2
    assert "2 results that are not late" in wrong[1]
