"""Measures mqlite against what it is made of and what it stands in for.

    python tests/bench/run.py                  everything: some minutes
    python tests/bench/run.py --quick          everything, coarser: about two minutes
    python tests/bench/run.py --full           everything, with a backlog of 5,000,000
    python tests/bench/run.py --only put,idle  some of it (--list names all)
    python tests/bench/run.py --flush 80       stores in memory, with flushes of 80 us: no neighbour disturbs the disk
    python tests/bench/run.py --json out.json  every sample, too

Ratios are medians of ours / floor within one round (sampling.py says why); absolute
figures move with the machine and its neighbours. Nothing is asserted about time.
`asked` is what the project wants to reach; "met" says whether this run did.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import alone
import attrs
import backlog
import crowd
import flushes
import levels
import lmdb
import policies
import topics
import transactions
import wakeup
from sampling import Progress, Row, Settings, temporary_folder

import mqlite

MEASURES: dict[str, Callable[[Settings], tuple[list[Row], dict[str, Any]]]] = {
    "put": alone.put,
    "get_ack": alone.get_ack,
    "put_many": alone.put_many,
    "get_many": alone.get_many,
    "threads": alone.threads,
    "threads_take": levels.threads_take,
    "checkpoint": levels.checkpoint,
    "process": levels.process,
    "level_wake": levels.wake,
    "level_long": levels.long,
    "memory": alone.memory,
    "memory_threads": crowd.memory_threads,
    "processes": crowd.processes,
    "processes_put": crowd.processes_put,
    "handles": levels.handles,
    "wake_thread": wakeup.wake_thread,
    "wake_process": wakeup.wake_process,
    "wake_busy": wakeup.wake_busy,
    "wake_idle": wakeup.wake_idle,
    "idle": wakeup.idle,
    "backlog": backlog.backlog,
    "delays": policies.delays,
    "groups": policies.groups,
    "fair": policies.fair,
    "expiry": policies.expiry,
    "topic_publish": topics.publish,
    "topic_consume": topics.consume,
    "topic_others": topics.others,
    "topic_replay": topics.replay,
    "topic_limits": topics.limits,
    "tx_calls": transactions.calls,
    "tx_empty": transactions.empty,
    "tx_threads": transactions.threads,
}


def machine(folder: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "mqlite": mqlite.__version__,
        "python": platform.python_version(),
        "lmdb": ".".join(map(str, lmdb.version())),
        "py-lmdb": lmdb.__version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "filesystem": filesystem(folder),
        "flush_us": os.environ.get(flushes.WANTED),
        "load": os.getloadavg()[0],
    }


def filesystem(folder: str) -> str:
    """The type of the file system that holds a folder, by the kernel's table of mounts."""
    real, best, found = os.path.realpath(folder), "", "unknown"
    try:
        with open("/proc/self/mounts") as table:
            mounts = [line.split() for line in table]
    except OSError:
        return found
    for _, point, kind, *_ in mounts:
        if (real + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, found = point, kind
    return found


def number(value: float | None, unit: str) -> str:
    """Three figures that matter, and the unit."""
    if value is None:
        return ""
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".strip() if unit != "/s" else text + "/s"


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    asked = ""
    if row.asked is not None:
        asked = {"most": f"<= {number(row.asked, row.unit)}", "times": f"<= {row.asked:g}"}.get(
            row.kind, f">= {row.asked:g}"
        )
    floor = f"{number(row.floor, row.unit)} {row.floor_name}" if row.floor is not None else ""
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return row.label, number(row.ours, row.unit), floor, "" if row.ratio is None else f"{row.ratio:.2f}", asked, met


HEAD = ("measure", "ours", "floor", "ratio", "asked for", "met")


def table(rows: list[Row]) -> str:
    """All lines, in columns; it is Markdown as well."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, a smaller backlog")
    parser.add_argument("--full", action="store_true", help="a backlog of 5,000,000 messages, of some 900 MB")
    parser.add_argument("--only", metavar="NAME,...", help="measure these only")
    parser.add_argument("--list", action="store_true", help="print the names and what they measure")
    parser.add_argument("--json", metavar="FILE", help="write all samples, medians and what the machine is")
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help=f"where stores are made (default: {tempfile.gettempdir()}); its file system decides what a commit costs",
    )
    parser.add_argument(
        "--flush", metavar="US", type=int, help="stores in memory, each flush of which takes so many microseconds"
    )
    options = parser.parse_args(arguments)
    if options.dir is None:
        options.dir = tempfile.gettempdir() if options.flush is None else flushes.MEMORY
    options.names = options.only.split(",") if options.only else list(MEASURES)
    unknown = [name for name in options.names if name not in MEASURES]
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)} (there are {', '.join(MEASURES)})")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for; what goes into the JSON file, and the rows."""
    progress = Progress()
    rows: list[Row] = []
    samples: dict[str, Any] = {}
    begin = time.monotonic()
    with temporary_folder(options.dir, "mqlite-bench-") as folder:
        settings = Settings(
            folder=folder,
            quick=options.quick,
            rounds=5 if options.quick else 7,
            seconds=0.15 if options.quick else 0.5,
            backlog=200_000 if options.quick else 5_000_000 if options.full else 1_000_000,
            say=progress.say,
        )
        about = machine(folder)
        try:
            for place, name in enumerate(options.names, 1):
                progress.measure = f"[{place}/{len(options.names)}] {name}"
                progress.say("")
                found, samples[name] = MEASURES[name](settings)
                rows += found
        finally:
            progress.clear()
    return {
        "machine": about,
        "settings": {
            "quick": options.quick,
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "backlog": settings.backlog,
        },
        "took_seconds": round(time.monotonic() - begin, 1),
        "rows": rows,
        "samples": samples,
    }


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    options = parsed(arguments)
    if options.list:
        for name, function in MEASURES.items():
            print(f"{name:16}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    try:
        if options.flush is not None and os.environ.get(flushes.WANTED) != str(options.flush):
            return flushes.run_with(options.flush, [__file__, *(sys.argv[1:] if arguments is None else arguments)])
        result = measure(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    about = result["machine"]
    print(
        f"mqlite {about['mqlite']}, Python {about['python']}, LMDB {about['lmdb']}, {about['cpus']} cpus, Linux {about['kernel']}, {about['filesystem']}{'' if about['flush_us'] is None else ' with flushes of ' + about['flush_us'] + ' us'}, load {about['load']:.1f}"
    )
    print(f"bodies of 100 bytes; {result['settings']['rounds']} rounds; {result['took_seconds']} s\n")
    print(table(result["rows"]))
    if options.json:
        result["rows"] = [{**attrs.asdict(row), "met": row.met} for row in result["rows"]]
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
