"""One thread at a time, and many threads that only put: commits against LMDB's own, memory against the standard library."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from contenders import BODY, Ours, RawLmdb
from sampling import Row, Samples, Settings, compared, in_turns, rate, temporary_folder

import mqlite

Result = tuple[list[Row], dict[str, Any]]
BATCH = [BODY] * 100
BURST = 1000
THREADS = 16
RAW = "raw lmdb"


def _on_disk(settings: Settings, turn: Callable[[Any], float]) -> Samples:
    """The same turn over raw LMDB and over ours, each with a store of its own."""
    with temporary_folder(settings.folder) as folder:
        raw, ours = RawLmdb(os.path.join(folder, "raw")), Ours(os.path.join(folder, "ours"))
        try:
            return in_turns(settings, {RAW: lambda: turn(raw), "mqlite": lambda: turn(ours)})
        finally:
            raw.close()
            ours.close()


def put(settings: Settings) -> Result:
    """One message per commit."""
    samples = _on_disk(settings, lambda store: rate(settings.seconds, lambda: store.put(BODY)))
    return [compared("put", "full: put one at a time", samples, RAW, 0.9)], samples


def get_ack(settings: Settings) -> Result:
    """One message claimed and removed at a time. Each turn is filled before its time starts."""

    def turn(store: Any) -> float:
        wanted = int(20_000 * settings.seconds)
        store.put_many([BODY] * wanted)
        taken, start = 0, time.perf_counter()
        while taken < wanted and time.perf_counter() < start + settings.seconds:
            assert store.get_ack() is not None
            taken += 1
        speed = taken / (time.perf_counter() - start)
        while store.get_ack_many(1000):
            pass
        return speed

    samples = _on_disk(settings, turn)
    return [compared("get_ack", "full: get+ack one at a time", samples, RAW, 0.7)], samples


def put_many(settings: Settings) -> Result:
    """A hundred messages per commit."""
    samples = _on_disk(settings, lambda store: rate(settings.seconds, lambda: store.put_many(BATCH), 100))
    return [compared("put_many", "full: put_many of 100", samples, RAW, 0.5)], samples


def get_many(settings: Settings) -> Result:
    """A hundred messages claimed at once, and removed in one commit."""

    def turn(store: Any) -> float:
        steps = max(8, int(1500 * settings.seconds))
        for _ in range(steps):
            store.put_many(BATCH)
        taken, start = 0, time.perf_counter()
        while step := store.get_ack_many(100):
            taken += step
        return taken / (time.perf_counter() - start)

    samples = _on_disk(settings, turn)
    return [compared("get_many", "full: receive(100) + ack_many", samples, RAW, 0.5)], samples


def threads(settings: Settings) -> Result:
    """Sixteen threads that put share commits; one thread has each to itself."""

    def together(store: Any, count: int) -> float:
        end = time.perf_counter() + settings.seconds
        done = [0] * count

        def work(number: int) -> None:
            while time.perf_counter() < end:
                store.put(BODY)
                done[number] += 1

        start = time.perf_counter()
        workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(done) / (time.perf_counter() - start)

    with temporary_folder(settings.folder) as folder:
        store = Ours(os.path.join(folder, "ours"))
        raw = RawLmdb(os.path.join(folder, "raw"))
        try:
            samples = in_turns(
                settings,
                {
                    "mqlite": lambda: together(store, THREADS),
                    "one thread": lambda: together(store, 1),
                    "raw lmdb, 16 threads": lambda: together(raw, THREADS),
                },
            )
        finally:
            store.close()
            raw.close()
    return [
        compared("threads", "full: 16 threads putting, against one thread", samples, "one thread", 4),
        compared("threads", "full: 16 threads putting, against raw", samples, "raw lmdb, 16 threads"),
    ], samples


def memory(settings: Settings) -> Result:
    """Bursts of 1,000 puts, then as many gets, with the standard library's verbs."""
    fifo: queue.Queue[bytes] = queue.Queue()
    heap: queue.PriorityQueue[tuple[int, int, bytes]] = queue.PriorityQueue()
    ours: mqlite.Queue[bytes] = mqlite.Queue()

    def plain(made: Any) -> Callable[[], None]:
        def burst() -> None:
            put, get = made.put, made.get
            for _ in range(BURST):
                put(BODY)
            for _ in range(BURST):
                get()

        return burst

    def prioritised() -> None:
        put, get = heap.put, heap.get
        for number in range(BURST):
            put((0, number, BODY))
        for _ in range(BURST):
            get()

    def reliable() -> None:
        put, receive = ours.put, ours.receive
        for _ in range(BURST):
            put(BODY)
        for _ in range(BURST):
            receive()[0].ack()

    turns = {
        "mqlite": plain(ours),
        "queue.PriorityQueue": prioritised,
        "queue.Queue": plain(fifo),
        "receive+ack": reliable,
    }
    samples = in_turns(
        settings, {name: (lambda step=step: rate(settings.seconds / 2, step, BURST)) for name, step in turns.items()}
    )
    ours.close()
    return [
        compared("memory", "in memory: put+get, one thread", samples, "queue.PriorityQueue", 0.4),
        compared("memory", "in memory: put+get, one thread", samples, "queue.Queue"),
        compared(
            "memory", "in memory: put, receive+ack, one thread", samples, "queue.PriorityQueue", ours="receive+ack"
        ),
    ], samples
