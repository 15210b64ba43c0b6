"""Several producers and consumers at once: threads of one process in memory, processes on disk.

A turn's time is from the moment all workers are ready until the last message was
taken. Every message is counted: a turn that loses or doubles one fails.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alone import RAW, Result
from contenders import BODY, STOP, Ours, Plain, Prioritised, RawLmdb
from sampling import Samples, Settings, compared, in_turns, temporary_folder

import mqlite

PREFETCH = 64
LIMIT = 60.0  # seconds after which a worker gives up, whatever happens
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["crowd", "wakeup", "backlog", "levels"])
MP_QUEUE = "multiprocessing.Queue"


# ---------------------------------------------------------------------- threads
def memory_threads(settings: Settings) -> Result:
    """Four threads put, four take, over one queue in memory; each makes its bodies, or reads the number in them."""
    each = 4000 if settings.quick else 15_000
    filler = BODY[:86]

    def turn(make: Callable[[], Plain]) -> float:
        contender = make()
        gate, taken, last = threading.Barrier(9, timeout=LIMIT), [array("q")] * 4, [0.0] * 4

        def produce(number: int) -> None:
            put = contender.put
            gate.wait()
            for seq in range(each):
                put(b"%04d%010d" % (number, seq) + filler)

        def consume(number: int) -> None:
            get, seen = contender.get, array("q")
            gate.wait()
            while (body := get()) != STOP:
                seen.append(int(body[:14]))
            taken[number], last[number] = seen, time.perf_counter()

        producers = [threading.Thread(target=produce, args=(number,), daemon=True) for number in range(4)]
        consumers = [threading.Thread(target=consume, args=(number,), daemon=True) for number in range(4)]
        for thread in producers + consumers:
            thread.start()
        gate.wait()
        start = time.perf_counter()
        for thread in producers:
            thread.join(LIMIT)
        for _ in consumers:
            contender.put(STOP)
        for thread in consumers:
            thread.join(LIMIT)
        contender.close()
        _all_there(len({seq for seen in taken for seq in seen}), 4 * each)
        _all_there(sum(map(len, taken)), 4 * each)
        return 4 * each / (max(last) - start)

    makers: dict[str, Callable[[], Plain]] = {
        "mqlite": lambda: Plain(mqlite.Queue()),
        "queue.PriorityQueue": Prioritised,
        "queue.Queue": lambda: Plain(queue.Queue()),
    }
    samples = in_turns(
        settings, {name: (lambda make=make: turn(make)) for name, make in makers.items()}, 2 * settings.rounds
    )
    return [
        compared("memory_threads", "in memory: 4+4 threads, put and get", samples, "queue.PriorityQueue", 1.0),
        compared("memory_threads", "in memory: 4+4 threads, put and get", samples, "queue.Queue"),
    ], samples


def _all_there(taken: int, wanted: int) -> None:
    if taken != wanted:
        raise AssertionError(f"{wanted} messages were put and {taken} taken")


# ---------------------------------------------------------------------- processes
def quietly(work: Callable[..., None], *args: Any) -> None:
    """In a child: Ctrl-C is for the parent, which ends the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(int(2 * LIMIT))
    work(*args)


@contextmanager
def children() -> Iterator[Callable[..., multiprocessing.connection.Connection]]:
    """start(work, *args) runs work(connection, *args) in another process; at the end none is left."""
    started: list[Any] = []

    def start(work: Callable[..., None], *args: Any) -> multiprocessing.connection.Connection:
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=quietly, args=(work, there, *args), daemon=True)
        process.start()
        there.close()
        started.append(process)
        return here

    try:
        yield start
        for process in started:
            process.join(5)
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
            process.join()


def answer(connection: multiprocessing.connection.Connection) -> Any:
    """What a child says; an error if it says nothing in time."""
    if not connection.poll(LIMIT):
        raise TimeoutError("a process of the benchmark did not answer")
    return connection.recv()


def _opened(kind: str, where: Any) -> Any:
    if kind == MP_QUEUE:
        return Plain(where)
    return RawLmdb(where) if kind == RAW else Ours(where)


def _produce(parent: Any, kind: str, where: Any, finish: Callable[[Any], object]) -> None:
    contender = _opened(kind, where)
    parent.send("ready")
    while count := parent.recv():
        for _ in range(count):
            contender.put(BODY)
        finish(contender)
    contender.close()


def produce_singly(parent: Any, kind: str, where: Any) -> None:
    _produce(parent, kind, where, lambda contender: contender.put(STOP))


def consume_singly(parent: Any, kind: str, where: Any) -> None:
    contender = _opened(kind, where)
    parent.send("ready")
    while parent.recv():
        count, last = 0, 0.0
        while (body := contender.wait(LIMIT)) != STOP:
            if body is None:
                break
            count, last = count + 1, time.monotonic()
        parent.send((count, last))
    contender.close()


def produce_buffered(parent: Any, where: str) -> None:
    with mqlite.Queue[bytes]("bench", where) as made, made.producer() as producer:
        parent.send("ready")
        while count := parent.recv():
            for _ in range(count):
                producer.put(BODY)
            producer.put(STOP)
            producer.flush()


def consume_prefetched(parent: Any, where: str, group: int) -> None:
    """Acknowledges `group` messages at once, or what there is when no more is at hand."""
    with mqlite.Queue[bytes]("bench", where) as made, made.consumer(prefetch=PREFETCH) as consumer:
        parent.send("ready")
        while parent.recv():
            count, last, stopped = 0, 0.0, False
            taken: list[mqlite.Message] = []
            while not stopped:
                try:
                    taken.append(consumer.receive(0 if taken else LIMIT))
                    stopped = taken[-1].body == STOP
                    full = len(taken) == group
                except mqlite.Empty:
                    full = True
                if stopped or full:
                    made.ack_many(taken) if len(taken) > 1 else taken[0].ack()
                    count, last = count + len(taken) - stopped, time.monotonic()
                    taken.clear()
            parent.send((count, last))


class Crew:
    """As many producers as consumers, alive from turn to turn. Each producer ends a turn with STOP, and each consumer at one."""

    def __init__(self, start: Any, count: int, producing: tuple[Any, ...], consuming: tuple[Any, ...]) -> None:
        self._producers = [start(*producing) for _ in range(count)]
        self._consumers = [start(*consuming) for _ in range(count)]
        for child in self._producers + self._consumers:
            answer(child)

    def turn(self, each: int) -> float:
        for consumer in self._consumers:
            consumer.send(True)
        begin = time.monotonic()
        for producer in self._producers:
            producer.send(each)
        results = [answer(consumer) for consumer in self._consumers]
        _all_there(sum(count for count, _ in results), each * len(self._producers))
        return each * len(self._producers) / (max(last for _, last in results) - begin)

    def dismiss(self) -> None:
        for child in self._producers + self._consumers:
            child.send(0)


def _between_processes(settings: Settings, count: int, asked: dict[str, int]) -> Samples:
    with temporary_folder(settings.folder) as folder, children() as start:
        wheres: dict[str, Any] = {
            kind: CONTEXT.Queue() if kind == MP_QUEUE else os.path.join(folder, kind.replace(" ", "-"))
            for kind in asked
        }
        crews = {
            kind: Crew(start, count, (produce_singly, kind, where), (consume_singly, kind, where))
            for kind, where in wheres.items()
        }
        samples = in_turns(settings, {kind: (lambda kind=kind: crews[kind].turn(asked[kind])) for kind in asked})
        for crew in crews.values():
            crew.dismiss()
        return samples


def processes(settings: Settings) -> Result:
    """One process puts and one takes, then two and two, a commit for each put and each ack."""
    rows, raw = [], {}
    some = 200 if settings.quick else 1000
    for count in (1, 2):
        asked = {"mqlite": some // count, RAW: some // count, MP_QUEUE: 20 * some // count}
        samples = _between_processes(settings, count, asked)
        label = f"full: {count}+{count} processes, put and get+ack one at a time"
        rows += [compared("processes", label, samples, RAW), compared("processes", label, samples, MP_QUEUE)]
        raw.update({f"{count}+{count} {kind}": values for kind, values in samples.items()})
    return rows, raw


def put_singly(parent: Any, kind: str, where: Any) -> None:
    _produce(parent, kind, where, lambda _: parent.send(time.monotonic()))


def processes_put(settings: Settings) -> Result:
    """Four processes that put share flushes; one has each to itself."""
    some = 200 if settings.quick else 1000
    with temporary_folder(settings.folder) as folder, children() as start:
        putters = {
            kind: [start(put_singly, kind, os.path.join(folder, kind.replace(" ", "-"))) for _ in range(4)]
            for kind in ("mqlite", RAW)
        }
        for child in [*putters["mqlite"], *putters[RAW]]:
            answer(child)

        def turn(kind: str, count: int) -> float:
            begin = time.monotonic()
            for child in putters[kind][:count]:
                child.send(some)
            return count * some / (max(map(answer, putters[kind][:count])) - begin)

        samples = in_turns(
            settings,
            {
                "mqlite": lambda: turn("mqlite", 4),
                "one process": lambda: turn("mqlite", 1),
                f"{RAW}, 4 processes": lambda: turn(RAW, 4),
            },
        )
        for child in [*putters["mqlite"], *putters[RAW]]:
            child.send(0)
    label = "full: 4 processes putting, against"
    return [
        compared("processes_put", f"{label} one process", samples, "one process"),
        compared("processes_put", f"{label} raw", samples, f"{RAW}, 4 processes"),
    ], samples
