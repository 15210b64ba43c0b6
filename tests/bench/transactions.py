"""What a transaction costs: against the same calls one by one, with nothing in it, and from many threads at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from alone import Result
from contenders import BODY
from sampling import Settings, compared, in_turns, temporary_folder

import mqlite

THREADS = 8
MOST_PER_SECOND = 30_000


@contextlib.contextmanager
def _stores(settings: Settings) -> Iterator[Iterator[tuple[str, mqlite.Broker]]]:
    """A store in memory, then one on disk; each is closed when the next is asked for."""

    def each() -> Iterator[tuple[str, mqlite.Broker]]:
        for where, path in (("in memory", None), ("full", os.path.join(folder, "store"))):
            with mqlite.open(path) as broker:
                yield where, broker

    with temporary_folder(settings.folder) as folder:
        yield each()


class Desk:
    """One job after the other: its message acknowledged, two others put, two rows written."""

    def __init__(self, broker: mqlite.Broker, name: str) -> None:
        self.broker = broker
        self.jobs, self.done, self.told = (broker.queue(f"{name} {each}") for each in ("jobs", "done", "told"))
        self.table = broker.table(name)
        self.name = name
        self.count = 0

    def one_by_one(self, message: mqlite.Message) -> None:
        """Five commits."""
        message.ack()
        self.done.put(BODY)
        self.told.put(BODY)
        self.table["one"] = self.count
        self.table["two"] = self.count

    def together(self, message: mqlite.Message) -> None:
        """One commit."""
        with self.broker.transaction() as tx:
            message.ack(tx=tx)
            self.done.put(BODY, tx=tx)
            self.told.put(BODY, tx=tx)
            table = tx.table(self.name)
            table["one"] = self.count
            table["two"] = self.count

    def take(self, count: int) -> list[mqlite.Message]:
        """Jobs to work on."""
        self.jobs.put_many([BODY] * count)
        return self.jobs.receive(count)

    def work(self, messages: list[mqlite.Message], work: Callable[[mqlite.Message], None], end: float) -> int:
        """How many were worked on by then."""
        for count, message in enumerate(messages):
            if time.perf_counter() >= end:
                return count
            self.count += 1
            work(message)
        return len(messages)

    def clear(self, messages: list[mqlite.Message]) -> None:
        """Take away what is left."""
        for message in messages:
            with contextlib.suppress(mqlite.MqliteError):
                message.release()
        for queue in (self.jobs, self.done, self.told):
            queue.purge()

    def jobs_per_second(self, seconds: float, work: Callable[[mqlite.Message], None]) -> float:
        """Jobs are put, and results taken away, outside of that time."""
        messages = self.take(int(MOST_PER_SECOND * seconds))
        start = time.perf_counter()
        worked = self.work(messages, work, start + seconds)
        speed = worked / (time.perf_counter() - start)
        self.clear(messages)
        return speed


def calls(settings: Settings) -> Result:
    """A transaction of one ack, two puts and two rows, against the same five calls one by one."""
    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            desk = Desk(broker, "calls")
            turns = {
                "mqlite": lambda d=desk: d.jobs_per_second(settings.seconds, d.together),
                "one by one": lambda d=desk: d.jobs_per_second(settings.seconds, d.one_by_one),
            }
            found = in_turns(settings, turns)
            asked = 3.0 if where == "full" else None
            label = f"{where}: ack, two puts, two rows in a transaction"
            rows.append(compared("tx_calls", label, found, "one by one", asked=asked))
            everything |= {f"{label}, {name}": samples for name, samples in found.items()}
    return rows, everything


def empty(settings: Settings) -> Result:
    """A transaction with nothing in it, and one that reads a row, against a put."""

    def speed(step: Callable[[], Any]) -> float:
        count, start = 0, time.perf_counter()
        end = start + settings.seconds / 2
        while time.perf_counter() < end:
            step()
            count += 1
        return count / (time.perf_counter() - start)

    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            queue = broker.queue("queue")
            broker.table("table")["key"] = 1

            def nothing(broker: mqlite.Broker = broker) -> None:
                with broker.transaction():
                    pass

            def reading(broker: mqlite.Broker = broker) -> None:
                with broker.transaction() as tx:
                    tx.table("table")["key"]

            for what, step in (("an empty transaction", nothing), ("a transaction that reads a row", reading)):
                turns = {"mqlite": lambda s=step: speed(s), "put": lambda q=queue: speed(lambda: q.put(BODY))}
                found = in_turns(settings, turns)
                rows.append(compared("tx_empty", f"{where}: {what}", found, "put"))
                everything |= {f"{where}: {what}, {name}": samples for name, samples in found.items()}
                queue.purge()
    return rows, everything


def threads(settings: Settings) -> Result:
    """The same transactions by eight threads, each with queues and a table of its own, against one."""

    def turn(desks: list[Desk]) -> float:
        taken = [desk.take(int(MOST_PER_SECOND * settings.seconds)) for desk in desks]
        worked = [0] * len(desks)
        start = time.perf_counter()

        def run(number: int) -> None:
            worked[number] = desks[number].work(taken[number], desks[number].together, start + settings.seconds)

        workers = [threading.Thread(target=run, args=(number,)) for number in range(len(desks))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        speed = sum(worked) / (time.perf_counter() - start)
        for desk, messages in zip(desks, taken, strict=True):
            desk.clear(messages)
        return speed

    rows, everything = [], {}
    with _stores(settings) as stores:
        for where, broker in stores:
            desks = [Desk(broker, f"thread {number}") for number in range(THREADS)]
            found = in_turns(settings, {"mqlite": lambda d=desks: turn(d), "one thread": lambda d=desks: turn(d[:1])})
            label = f"{where}: transactions by {THREADS} threads"
            rows.append(compared("tx_threads", label, found, "one thread"))
            everything |= {f"{label}, {name}": samples for name, samples in found.items()}
    return rows, everything
