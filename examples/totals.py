"""Totals per shop and minute of a stream of sales, exact though a worker is killed while it counts.

    python examples/totals.py [DIRECTORY] [--sales COUNT]

Three shops have an hour of sales, 600 of them, which a topic carries. Some come late: the till of the harbour was
without a network for ten minutes. Who works on them:

    minutes     two worker processes run one pipe: it counts each sale into its minute and its shop (TumblingWindow),
                and sends a total when a minute is over. One of them is killed with SIGKILL in the middle of its work;
                what it held is the other one's
    large       a pipe with a function, in this process: it passes on the sales above 90, and counts them per shop in a
                table, in the commit that acknowledges them

What is late for its minute makes another total of that minute, so that a total may come in parts. At the end their sums
are compared with a plain computation over all sales.

Prints:

    one worker was killed, the other goes on
    harbour: 200 sales, 9742 in all
    market: 200 sales, 9805 in all
    station: 200 sales, 9771 in all
    the best minute: 12:12 at the harbour, 4 sales, 286
    large sales: harbour 14, market 14, station 14
    yes: every sale is counted once
    yes: every total is what a plain computation gives
    yes: the table of large sales agrees with what was passed on
    yes: the store is in order
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import mqlite

NOON = datetime(2025, 6, 24, 12, 0, tzinfo=UTC)
MINUTE = 60
SHOPS = ("harbour", "market", "station")

Sale = dict[str, Any]


def sales_of_an_hour(count: int) -> Iterator[Sale]:
    """In the order in which they arrive: the harbour's of ten minutes come after all others."""
    late = []
    for number in range(count):
        moment = NOON + timedelta(seconds=3600 * number // count)
        sale = {"number": number, "shop": SHOPS[number % 3], "price": 1 + number * 59 % 97, "at": moment.timestamp()}
        if sale["shop"] == "harbour" and 20 <= moment.minute < 30:
            late.append(sale)
        else:
            yield sale
    yield from late


def shop_of(message: mqlite.Message) -> str:
    return str(message.body["shop"])


def price_of(message: mqlite.Message) -> int:
    return int(message.body["price"])


def moment_of(message: mqlite.Message) -> float:
    return float(message.body["at"])


def large(message: mqlite.Message, tx: mqlite.Transaction) -> Sale | None:
    """What is above 90 is counted, and passed on."""
    if price_of(message) <= 90:
        return None
    table = tx.table("large sales")
    table[shop_of(message)] = table.get(shop_of(message), 0) + 1
    return dict(message.body)


def count_minutes(path: str, slowly: bool) -> None:
    """A worker process: the pipe that counts, until it is killed or terminated."""
    broker = mqlite.open(path)
    minutes = mqlite.TumblingWindow(MINUTE, key=shop_of, value=price_of, at=moment_of)
    pipe = broker.pipe(
        broker.topic("sales").subscription("minutes"),
        target=broker.queue("totals"),
        window=minutes,
        batch=5 if slowly else 64,
        name="totals per minute",
    )
    if not slowly:
        pipe.start()
    while True:
        if slowly:
            pipe.step()
        time.sleep(0.01)


def publish(topic: mqlite.Topic[Sale], sales: list[Sale]) -> None:
    """Ten at a time, each ten in one commit."""
    for first in range(0, len(sales), 10):
        topic.publish_many(sales[first : first + 10])


def check(what: str, holds: bool) -> bool:
    print(f"{'yes' if holds else 'NO'}: {what}")
    return holds


def run(path: str, count: int) -> bool:
    """Whether all is as it should be."""
    context = multiprocessing.get_context("spawn")
    with mqlite.open(path) as broker:
        topic = broker.topic("sales")
        totals, expensive = broker.queue("totals"), broker.queue("expensive")
        if topic.stats().published:
            sys.exit(f"{path} has the sales of an earlier run: name another directory")
        minutes, all_sales = topic.subscribe("minutes"), topic.subscribe("large")

        doomed = context.Process(target=count_minutes, args=(path, True), daemon=True)
        other = context.Process(target=count_minutes, args=(path, False), daemon=True)
        doomed.start()
        with broker.pipe(all_sales, large, expensive):
            arriving = list(sales_of_an_hour(count))
            publish(topic, arriving[: count // 2])
            while not len(totals):  # it has begun, and is somewhere in the middle
                time.sleep(0.001)
            doomed.kill()
            doomed.join()
            print("one worker was killed, the other goes on")
            other.start()
            publish(topic, arriving[count // 2 :])
            minutes.join()
            all_sales.join()
        while next(broker.table("windows of totals per minute").range(b""), None):  # the last minutes: nothing more comes
            time.sleep(0.001)
        other.terminate()
        other.join()

        plain: dict[tuple[str, float], list[int]] = defaultdict(lambda: [0, 0])
        for sale in arriving:
            sums = plain[sale["shop"], sale["at"] // MINUTE * MINUTE]
            sums[0] += 1
            sums[1] += sale["price"]
        found: dict[tuple[str, float], list[int]] = defaultdict(lambda: [0, 0])
        for total in (message.body for message in totals.browse()):
            sums = found[total["key"], total["start"]]
            sums[0] += total["count"]
            sums[1] += total["sum"]
        for shop in SHOPS:
            of_shop = [sums for (name, _), sums in found.items() if name == shop]
            print(f"{shop}: {sum(n for n, _ in of_shop)} sales, {sum(price for _, price in of_shop)} in all")
        (best, start), (number, price) = max(found.items(), key=lambda each: each[1][1])
        print(f"the best minute: {datetime.fromtimestamp(start, UTC):%H:%M} at the {best}, {number} sales, {price}")
        passed_on = [message.body["shop"] for message in expensive.browse()]
        counted = {shop: broker.table("large sales").get(shop, 0) for shop in SHOPS}
        print("large sales: " + ", ".join(f"{shop} {number}" for shop, number in counted.items()))
        return all(
            [
                check("every sale is counted once", sum(number for number, _ in found.values()) == count),
                check("every total is what a plain computation gives", found == plain),
                check(
                    "the table of large sales agrees with what was passed on",
                    counted == {shop: passed_on.count(shop) for shop in SHOPS},
                ),
                check("the store is in order", broker.check() == []),
            ]
        )


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Totals per shop and minute, exact through a kill.")
    parser.add_argument("directory", nargs="?", help="where the store is made (default: temporary)")
    parser.add_argument("--sales", type=int, default=600, help="how many (default: %(default)s)")
    options = parser.parse_args()
    if options.directory is not None:
        return 0 if run(options.directory, options.sales) else 1
    with tempfile.TemporaryDirectory() as directory:
        return 0 if run(directory, options.sales) else 1


if __name__ == "__main__":
    sys.exit(main())
