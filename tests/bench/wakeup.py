"""How long after a commit a blocked receive() returns, and what waiting costs.

The clock is CLOCK_MONOTONIC, the same in all processes. The time runs from the end of
the commit inside put(), before anybody is rung, to the return of receive(); beside it
the time from the return of put(), which is less, since put() rings before it returns.
The floor is a bare os.pipe: what this machine takes to wake a thread or a process.
"""

from __future__ import annotations

import glob
import os
import resource
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import lmdb
from alone import Result
from contenders import BODY
from crowd import CONTEXT, LIMIT, MP_QUEUE, answer, children
from sampling import Row, Samples, Settings, percentile, temporary_folder

import mqlite

PIPE = "os.pipe"
IDLE_GAP = 0.3
CALM_GAP = 0.005
BUSY_GAP = 0.001


# ---------------------------------------------------------------------- one sleeper, on each kind of queue
def _sleep_on_queue(where: Any, count: int, ready: Callable[[], None]) -> list[int]:
    made = where if isinstance(where, mqlite.Queue) else mqlite.Queue("bench", where)
    seen = []
    ready()
    for _ in range(count):
        [message] = made.receive(1, LIMIT)
        seen.append(time.monotonic_ns())
        message.ack()
    if made is not where:
        made.close()
    return seen


def _sleep_on_pipe(reader: Any, count: int, ready: Callable[[], None]) -> list[int]:
    seen = []
    ready()
    for _ in range(count):
        reader.recv_bytes()
        seen.append(time.monotonic_ns())
    return seen


def _sleep_on_mp_queue(made: Any, count: int, ready: Callable[[], None]) -> list[int]:
    seen = []
    ready()
    for _ in range(count):
        made.get(True, LIMIT)
        seen.append(time.monotonic_ns())
    return seen


SLEEP: dict[str, Callable[..., list[int]]] = {
    "mqlite": _sleep_on_queue,
    PIPE: _sleep_on_pipe,
    MP_QUEUE: _sleep_on_mp_queue,
}


def _sleeping_process(parent: Any, kind: str, where: Any, count: int) -> None:
    parent.send(SLEEP[kind](where, count, lambda: parent.send("ready")))


# ---------------------------------------------------------------------- the one who wakes it
def _stamp_commits(made: mqlite.Queue[bytes]) -> list[int]:
    """Gets the time of every commit of the log by this process, as soon as it is made."""
    log: Any = made._engine.log
    stamps: list[int] = []
    after = log.after_commit

    def stamped(notes: Any) -> None:
        stamps.append(time.monotonic_ns())
        after(notes)

    log.after_commit = stamped
    return stamps


def _latencies(settings: Settings, kind: str, between: str, count: int, gap: float) -> dict[str, list[float]]:
    """Microseconds from commit, and from the return of put, to the return of the sleeper."""
    with temporary_folder(settings.folder) as folder, children() as start:
        made: Any = None
        where: Any
        if kind == PIPE:
            where, writer = CONTEXT.Pipe(duplex=False)
            put: Callable[[bytes], Any] = writer.send_bytes
        elif kind == MP_QUEUE:
            where = CONTEXT.Queue()
            put = where.put
        else:
            made = mqlite.Queue("bench", os.path.join(folder, "ours"))
            where = made if between == "thread" else os.path.join(folder, "ours")
            put = made.put
        committed: list[int] = []
        returned: list[int] = []
        seen: list[int] = []
        if between == "thread":
            awake = threading.Event()
            thread = threading.Thread(target=lambda: seen.extend(SLEEP[kind](where, count, awake.set)), daemon=True)
            thread.start()
            awake.wait(LIMIT)
        else:
            child = start(_sleeping_process, kind, where, count)
            answer(child)
        stamps = _stamp_commits(made) if made is not None else returned
        for number in range(count):
            time.sleep(gap)
            if not number % 50:
                settings.say(f"{kind}, {number} of {count}")
            begun = time.monotonic_ns()
            put(BODY)
            returned.append(time.monotonic_ns())
            committed.append(next(at for at in stamps if at > begun))
            if made is not None:
                stamps.clear()
        if between == "thread":
            thread.join(LIMIT)
        else:
            seen = answer(child)
        if made is not None:
            made.close()
        return {
            "commit": [(woke - at) / 1000 for woke, at in zip(seen, committed, strict=True)],
            "return": [(woke - at) / 1000 for woke, at in zip(seen, returned, strict=True)],
        }


def _wakeups(
    settings: Settings, between: str, gap: float, count: int, rivals: list[str], label: str, asked: float | None
) -> tuple[list[Row], Samples]:
    raw: Samples = {}
    rounds = 2 if settings.quick else 3
    for _ in range(rounds):
        for kind in ["mqlite", *rivals]:
            for since, values in _latencies(settings, kind, between, count // rounds, gap).items():
                raw.setdefault(f"{kind} since {since}", []).extend(values)
    rows = []
    for rival in rivals:
        for part in (0.5, 0.99):
            ours = percentile(raw["mqlite since commit"], part)
            floor = percentile(raw[f"{rival} since commit"], part)
            goal = asked if part == 0.5 and rival == PIPE else None
            rows.append(
                Row(
                    measure="wakeup",
                    label=f"{label}, p{part * 100:.0f}",
                    ours=ours,
                    unit="us",
                    floor=floor,
                    floor_name=rival,
                    ratio=ours / floor,
                    kind="most",
                    asked=goal,
                )
            )
    since_return = median(raw["mqlite since return"])
    rows.append(Row(measure="wakeup", label=f"{label}, p50 since put() returned", ours=since_return, unit="us"))
    return rows, raw


def wake_thread(settings: Settings) -> Result:
    """A thread of the same process, blocked in receive() on a store on disk; a put every 5 ms."""
    return _wakeups(
        settings, "thread", CALM_GAP, 200 if settings.quick else 900, [PIPE], "wake-up, another thread", None
    )


def wake_process(settings: Settings) -> Result:
    """Another process, blocked in receive(); a put every 5 ms."""
    return _wakeups(
        settings,
        "process",
        CALM_GAP,
        240 if settings.quick else 1500,
        [PIPE, MP_QUEUE],
        "wake-up, another process",
        100,
    )


def wake_busy(settings: Settings) -> Result:
    """Another process, with a put every millisecond: caches and the processor stay warm."""
    return _wakeups(
        settings,
        "process",
        BUSY_GAP,
        400 if settings.quick else 3000,
        [PIPE, MP_QUEUE],
        "wake-up, another process, busy",
        None,
    )


def wake_idle(settings: Settings) -> Result:
    """Another process that slept for 300 ms: caches and the processor have gone cold."""
    return _wakeups(
        settings,
        "process",
        IDLE_GAP,
        20 if settings.quick else 75,
        [PIPE],
        "wake-up, another process, after 300 ms",
        None,
    )


# ---------------------------------------------------------------------- what waiting costs
def _waiting_process(parent: Any, where: str, seconds: float) -> None:
    made = mqlite.Queue[bytes]("bench", where)
    parent.send("ready")
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    try:
        made.receive(1, seconds)
    except mqlite.Empty:
        pass
    after, took = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - start
    parent.send(100 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took)
    made.close()


def _commits(where: str) -> int:
    """How many commits the files of a store have seen, told by LMDB in a process that has them not open otherwise."""
    total = 0
    for path in [os.path.join(where, "log.mdb"), *glob.glob(os.path.join(where, "run", "*", "claims.mdb"))]:
        with lmdb.open(path, subdir=False, readonly=True, lock=False, map_size=1 << 40, lib_version=0) as environment:
            total += int(environment.info()["last_txnid"])
    return total


def idle(settings: Settings) -> Result:
    """A process that waits in receive(): its processor time, and the commits it makes."""
    seconds = 2.5 if settings.quick else 8.0
    with temporary_folder(settings.folder) as folder, children() as start:
        where = os.path.join(folder, "ours")
        child = start(_waiting_process, where, seconds)
        other = start(_waiting_process, where, seconds + 1)
        answer(child)
        answer(other)
        time.sleep(0.5)
        before = _commits(where)
        time.sleep(seconds - 1)
        commits = _commits(where) - before
        busy = max(answer(child), answer(other))
    return [
        Row(
            measure="idle",
            label="idle: processor time of a waiting process",
            ours=busy,
            unit="%",
            kind="most",
            asked=0.5,
        ),
        Row(
            measure="idle", label="idle: commits of two waiting processes", ours=commits, unit="", kind="most", asked=0
        ),
    ], {"percent": [busy], "commits": [commits]}
