"""What each level of durability costs, against raw LMDB that keeps as much, and against multiprocessing.Queue, which keeps nothing.

Where nobody waits for the disk, a ratio of processor times stands beside that of the clock: it hardly moves when others
use the machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from alone import BATCH, THREADS, Result
from contenders import BODY, Ours, PinnedLmdb, RawLmdb
from crowd import (
    CONTEXT,
    LIMIT,
    MP_QUEUE,
    Crew,
    answer,
    children,
    consume_prefetched,
    consume_singly,
    produce_buffered,
    produce_singly,
)
from sampling import Samples, Settings, compared, in_turns, temporary_folder
from wakeup import CALM_GAP

from mqlite.checks import LEVELS

PINNED = "raw lmdb, pinned"
MAPPED = "raw lmdb, unsynced map"
SHORT = 10_000
GROUP = 1000


# ---------------------------------------------------------------------- one thread
VERBS = ("put", "get+ack", "put_many of 100", "receive(100) + ack_many")


def _steps(store: Any) -> dict[str, Callable[[], int]]:
    """What each verb does once; how many messages that were."""

    def put() -> int:
        store.put(BODY)
        return 1

    def put_many() -> int:
        store.put_many(BATCH)
        return len(BATCH)

    steps: tuple[Callable[[], int], ...] = (
        put,
        lambda: store.get_ack() is not None,
        put_many,
        lambda: store.get_ack_many(len(BATCH)),
    )
    return dict(zip(VERBS, steps, strict=True))


def _measured(seconds: float, step: Callable[[], int]) -> tuple[float, float]:
    """Messages per second, by the clock and by processor time. Ends early where there is none left."""
    done, used, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() < start + seconds and (count := step()):
        done += count
    return done / (time.perf_counter() - start), done / max(time.process_time() - used, 1e-9)


def _filled(store: Any, count: int) -> None:
    for _ in range(count // GROUP):
        store.put_many([BODY] * GROUP)


def _emptied(store: Any) -> None:
    while store.get_ack_many(GROUP):
        pass


def _against(settings: Settings, level: str, floor: str, make: Callable[[str], Any], asked: dict[str, float]) -> Result:
    """Each verb against the same one of `floor`."""
    raw: Samples = {}
    with temporary_folder(settings.folder) as folder:
        stores = {"mqlite": Ours(os.path.join(folder, "ours"), level), floor: make(os.path.join(folder, "raw"))}

        def turn(name: str) -> float:
            by_clock = 0.0
            for verb, step in _steps(stores[name]).items():
                if verb == "get+ack":
                    _filled(stores[name], int(200_000 * settings.seconds))
                by_clock, by_processor = _measured(settings.seconds / 2, step)
                raw.setdefault(f"{verb} {name}", []).append(by_clock)
                raw.setdefault(f"{verb} {name}, processor", []).append(by_processor)
            _emptied(stores[name])
            return by_clock

        in_turns(settings, {name: (lambda name=name: turn(name)) for name in stores})
        for store in stores.values():
            store.close()
    raw = {name: values[1:] for name, values in raw.items()}  # without the turn that warms up
    rows = []
    for verb in VERBS:
        for suffix, unit in (("", "/s"), (", processor", "/s")):
            pair = {"mqlite": raw[f"{verb} mqlite{suffix}"], floor: raw[f"{verb} {floor}{suffix}"]}
            label = f"{level}: {verb}" + (", by processor time" if suffix else "")
            rows.append(compared(level, label, pair, floor, asked.get(verb), unit))
    return rows, raw


def checkpoint(settings: Settings) -> Result:
    """One thread at level "checkpoint", against commits that nobody flushes, with a pinned state."""
    return _against(settings, "checkpoint", PINNED, PinnedLmdb, {"put": 0.7, "put_many of 100": 0.5})


def process(settings: Settings) -> Result:
    """One thread at level "process", against raw LMDB with a map that nobody flushes."""
    return _against(settings, "process", MAPPED, lambda folder: RawLmdb(folder, sync=False, writemap=True), {})


def threads_take(settings: Settings) -> Result:
    """Sixteen threads that receive and acknowledge share commits; one thread has each to itself."""
    with temporary_folder(settings.folder) as folder:
        store = Ours(os.path.join(folder, "ours"), "full")

        def together(count: int) -> float:
            for _ in range(max(1, int(30 * settings.seconds))):
                store.put_many([BODY] * GROUP)
            done, end = [0] * count, time.perf_counter() + settings.seconds

            def work(number: int) -> None:
                while time.perf_counter() < end and store.get_ack() is not None:
                    done[number] += 1

            start = time.perf_counter()
            workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            speed = sum(done) / (time.perf_counter() - start)
            _emptied(store)
            return speed

        samples = in_turns(settings, {"mqlite": lambda: together(THREADS), "one thread": lambda: together(1)})
        store.close()
    label = "full: 16 threads get+ack, against one thread"
    return [compared("threads_take", label, samples, "one thread", 3)], samples


# ---------------------------------------------------------------------- two processes
ONE_BY_ONE = "acked one by one"
IN_GROUPS = "acked in groups of 64"
SINGLY = "one at a time"


def handles(settings: Settings) -> Result:
    """A producer handle and a consumer with prefetch=64, in two processes, at each level."""
    rows, raw = [], {}
    for level in LEVELS:
        some = (400 if settings.quick else 2000) * (1 if level == "full" else 5)
        with temporary_folder(settings.folder) as folder, children() as start:
            where = {kind: os.path.join(folder, kind.replace(" ", "-")) for kind in (ONE_BY_ONE, IN_GROUPS, SINGLY)}
            for path in where.values():
                Ours(path, level).close()
            pipe = CONTEXT.Queue()
            crews = {
                ONE_BY_ONE: Crew(
                    start, 1, (produce_buffered, where[ONE_BY_ONE]), (consume_prefetched, where[ONE_BY_ONE], 1)
                ),
                IN_GROUPS: Crew(
                    start, 1, (produce_buffered, where[IN_GROUPS]), (consume_prefetched, where[IN_GROUPS], 64)
                ),
                SINGLY: Crew(
                    start, 1, (produce_singly, "mqlite", where[SINGLY]), (consume_singly, "mqlite", where[SINGLY])
                ),
                MP_QUEUE: Crew(start, 1, (produce_singly, MP_QUEUE, pipe), (consume_singly, MP_QUEUE, pipe)),
            }
            sizes = {ONE_BY_ONE: some, IN_GROUPS: 10 * some, SINGLY: some // 2, MP_QUEUE: 10 * some}
            samples = in_turns(
                settings, {kind: (lambda crew=crew, size=sizes[kind]: crew.turn(size)) for kind, crew in crews.items()}
            )
            for crew in crews.values():
                crew.dismiss()
        for kind in (ONE_BY_ONE, IN_GROUPS):
            label = f"{level}: producer() to consumer(prefetch=64), 1+1 processes, {kind}"
            singly, rival = (30, None) if level == "full" else (None, 1.0 if level == "process" else None)
            rows.append(compared("handles", label, samples, SINGLY, singly, ours=kind))
            rows.append(compared("handles", label, samples, MP_QUEUE, rival, ours=kind))
        raw.update({f"{level} {kind}": values for kind, values in samples.items()})
    return rows, raw


def _getting_process(parent: Any, where: Any, count: int) -> None:
    made = Ours(where).queue if isinstance(where, str) else where
    seen = []
    parent.send("ready")
    for _ in range(count):
        made.get(True, LIMIT)
        seen.append(time.monotonic_ns())
    parent.send(seen)
    if isinstance(where, str):
        made.close()


def wake(settings: Settings) -> Result:
    """Another process that is blocked in get(), at each level: from the start of put() to the return of get(). A put every 5 ms."""
    count, rows, raw = 60 if settings.quick else 200, [], {}

    def turn(kind: str) -> float:
        with temporary_folder(settings.folder) as folder, children() as start:
            ours = None if kind == MP_QUEUE else Ours(os.path.join(folder, "ours"), kind)
            where: Any = CONTEXT.Queue() if ours is None else os.path.join(folder, "ours")
            put = where.put if ours is None else ours.put
            child, begun = start(_getting_process, where, count), []
            answer(child)
            for _ in range(count):
                time.sleep(CALM_GAP)
                begun.append(time.monotonic_ns())
                put(BODY)
            seen = answer(child)
            if ours is not None:
                ours.close()
        return median((woke - at) / 1000 for woke, at in zip(seen, begun, strict=True))

    samples = in_turns(settings, {kind: (lambda kind=kind: turn(kind)) for kind in (*LEVELS, MP_QUEUE)})
    for level in LEVELS:
        label, asked = f"{level}: wake-up in another process, put() to get(), p50", 1.5 if level == "process" else None
        rows.append(compared("level_wake", label, samples, MP_QUEUE, asked, "us", ours=level, kind="times"))
    raw.update(samples)
    return rows, raw


# ---------------------------------------------------------------------- a long queue
def long(settings: Settings) -> Result:
    """A short and a long queue side by side at each level: all verbs take turns on each. (--full: 5,000,000 messages)"""
    rows, raw = [], {}
    short, big = f"{SHORT:,}", f"{settings.backlog:,}"
    for level in LEVELS:
        found: Samples = {}
        with temporary_folder(settings.folder) as folder:
            stores = {name: Ours(os.path.join(folder, name), level) for name in (short, big)}
            for name, store in stores.items():
                settings.say(f"{level}: filling with {name}")
                _filled(store, int(name.replace(",", "")))

            def turn(verb: str, name: str, stores: dict[str, Ours] = stores, found: Samples = found) -> float:
                store = stores[name]
                if name == short:  # what other turns put or took
                    there = store.queue.qsize()
                    _filled(store, SHORT - there)
                    for _ in range((there - SHORT) // GROUP):
                        store.get_ack_many(GROUP)
                by_clock, by_processor = _measured(settings.seconds / 2, _steps(store)[verb])
                found.setdefault(f"{verb} {name}", []).append(by_clock)
                found.setdefault(f"{verb} {name}, processor", []).append(by_processor)
                return by_clock

            for verb in VERBS:
                in_turns(settings, {name: (lambda verb=verb, name=name: turn(verb, name)) for name in stores})
            for store in stores.values():
                store.close()
        for verb in VERBS:
            for suffix, said in (("", ""), (", processor", ", by processor time")):
                pair = {name: found[f"{verb} {name}{suffix}"][1:] for name in stores}  # without the turn that warms up
                label = f"{level}: {verb} at {big} against {short}{said}"
                rows.append(compared("level_long", label, pair, short, 0.7, ours=big))
                raw.update({f"{level} {verb} {name}{suffix}": values for name, values in pair.items()})
    return rows, raw
