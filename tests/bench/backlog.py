"""Whether a long queue is slower than a short one, and what a stored message costs."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

from alone import Result
from contenders import BODY, Ours
from crowd import answer, children
from sampling import Row, Settings, compared, in_turns, rate, temporary_folder

import mqlite

SHORT = 10_000
GROUP = 1000


def _memory_kib(kind: str) -> int:
    """Resident memory of this process by kind: RssAnon is the heap, RssFile the mapped store; 0 where /proc has it not."""
    try:
        with open("/proc/self/status") as status:
            return next((int(line.split()[1]) for line in status if line.startswith(kind + ":")), 0)
    except OSError:
        return 0


def _disk_bytes(folder: str) -> int:
    return sum(os.stat(os.path.join(at, name)).st_blocks * 512 for at, _, names in os.walk(folder) for name in names)


def _filling_process(parent: Any, where: str, count: int) -> None:
    """Fill a store, and say how much memory and disk that took."""
    with mqlite.Queue[bytes]("bench", where) as made:
        made.put_many([BODY] * GROUP)
        before = {kind: _memory_kib(kind) for kind in ("RssAnon", "RssFile")}
        disk, start = _disk_bytes(where), time.monotonic()
        for _ in range(count // GROUP - 1):
            made.put_many([BODY] * GROUP)
        took = time.monotonic() - start
        grown = {kind: (_memory_kib(kind) - size) / 1024 for kind, size in before.items()}
        parent.send({"seconds": took, "bytes_each": (_disk_bytes(where) - disk) / (count - GROUP), **grown})


def _opening_process(parent: Any, where: str) -> None:
    """Milliseconds to open the store, and to open it and have its first message; Python's imports are done before."""
    mqlite.Queue[bytes]("bench", where + "-other").close()
    start = time.perf_counter()
    made = mqlite.Queue[bytes]("bench", where)
    opened = time.perf_counter()
    [message] = made.receive(1, 0)
    received = time.perf_counter()
    message.release()
    made.close()
    parent.send(((opened - start) * 1000, (received - start) * 1000))


def backlog(settings: Settings) -> Result:
    """A short and a long queue side by side: get+ack and put take turns on each."""
    long = settings.backlog
    names = {f"{SHORT:,}": SHORT, f"{long:,}": long}
    filled: dict[str, Any] = {}
    opened: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with temporary_folder(settings.folder) as folder, children() as start:
        for name, count in names.items():
            settings.say(f"filling with {name}")
            filled[name] = answer(start(_filling_process, os.path.join(folder, str(count)), count))
        for _ in range(3 if settings.quick else 7):
            for name, count in names.items():
                settings.say(f"reopening {name}")
                opened[name].append(answer(start(_opening_process, os.path.join(folder, str(count)))))
        stores = {name: Ours(os.path.join(folder, str(count))) for name, count in names.items()}
        gets = in_turns(
            settings,
            {name: (lambda store=store: rate(settings.seconds, store.get_ack)) for name, store in stores.items()},
        )
        puts = in_turns(
            settings,
            {
                name: (lambda store=store: rate(settings.seconds, lambda: store.put(BODY)))
                for name, store in stores.items()
            },
        )
        for store in stores.values():
            store.close()
    short, big = names
    first = {name: median(received for _, received in times) for name, times in opened.items()}
    rows = [
        compared("backlog", f"full: get+ack at {big} against {short}", gets, short, 0.8, ours=big),
        compared("backlog", f"full: put at {big} against {short}", puts, short, ours=big),
        Row(
            measure="backlog",
            label=f"reopen and first get at {big}",
            ours=first[big],
            unit="ms",
            floor=first[short],
            floor_name=short,
            kind="most",
            asked=20,
        ),
        Row(measure="backlog", label=f"heap grown by filling to {big}", ours=filled[big]["RssAnon"], unit="MiB"),
        Row(measure="backlog", label=f"mapped file resident at {big}", ours=filled[big]["RssFile"], unit="MiB"),
        Row(measure="backlog", label="bytes on disk per message of 100", ours=filled[big]["bytes_each"], unit="B"),
    ]
    raw = {**{f"get_ack {n}": v for n, v in gets.items()}, **{f"put {n}": v for n, v in puts.items()}}
    raw.update({f"reopen ms {name}": [received for _, received in times] for name, times in opened.items()})
    raw.update({f"open ms {name}": [opening for opening, _ in times] for name, times in opened.items()})
    return rows, {**raw, "filled": filled}
