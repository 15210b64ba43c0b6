"""Index the whole standard library of this Python with four processes, and lose nothing when one is killed.

    python examples/index_library.py

A job per `.py` file goes into the queue "jobs", larger files first. Worker processes take
the jobs, parse each file with `ast`, and put a result per file into the queue "results".
After a third of the results one worker is killed with SIGKILL: what it held goes to the
others at once. At the end, every file must have exactly one accepted result, equal to what
a plain loop over all files computes.

Ctrl-C stops it at any moment; the same command again goes on where it stopped. Why that
is so, whatever happens between two lines:

    put(result), then ack(job)   a worker that dies in between leaves both, so the file may be
                                 indexed twice, but never not at all
    accept                       the first result of a file counts, another one is dropped
    results stay                 the queue "results" is the ledger: nothing accepted leaves it,
                                 so the next run reads there what is done
    jobs + results = plan        what is in neither was never put: all that a producer stopped
                                 halfway needs to know to go on
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import multiprocessing
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mqlite

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PREFETCH = 8

Result = dict[str, Any]
Jobs = mqlite.Queue[str]
Results = mqlite.Queue[Result]


def library_files() -> dict[str, int]:
    """Every Python file of the standard library, with its size in bytes."""
    found = (path for path in LIBRARY.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))
    return {path.relative_to(LIBRARY).as_posix(): path.stat().st_size for path in sorted(found)}


def index_file(name: str) -> Result:
    """What is in a file: counts and a digest. The same for the same file, whoever computes it."""
    source = (LIBRARY / name).read_bytes()
    result: Result = {"file": name, "digest": hashlib.sha256(source).hexdigest(), "lines": source.count(b"\n")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own tests have invalid escapes, on purpose
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {**result, "classes": 0, "functions": 0, "imports": 0, "error": type(error).__name__}
    kinds = Counter(type(node) for node in ast.walk(tree))
    return {
        **result,
        "classes": kinds[ast.ClassDef],
        "functions": kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef],
        "imports": kinds[ast.Import] + kinds[ast.ImportFrom],
        "error": None,
    }


def work(jobs: Jobs, results: Results, done: frozenset[str]) -> None:
    """A worker process: index one file after the other, until the queue of jobs is shut down."""
    threading.Thread(target=leave_with_parent, args=(jobs,), daemon=True).start()
    with jobs.consumer(prefetch=PREFETCH) as consumer:
        for message in consumer:
            with message:  # acknowledged at the end of the block, and given back if it is not reached
                if message.body not in done:
                    results.put(index_file(message.body), headers={"redelivered": message.redelivered})


def leave_with_parent(jobs: Jobs) -> None:
    """Workers whose parent was killed finish the file in hand, and leave."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    jobs.shutdown(immediate=True)


class Workers:
    """A few worker processes: started, watched, and replaced when they die."""

    def __init__(self, count: int, start_method: str | None, *args: Any) -> None:
        resource_tracker.ensure_running()  # which unblocks SIGINT, so not later
        self._context: Any = multiprocessing.get_context(start_method)
        self._args = args
        self.deaths = 0
        self._processes = [self._start() for _ in range(count)]

    def _start(self) -> BaseProcess:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for the parent
        process: BaseProcess = self._context.Process(target=work, args=self._args, daemon=True)
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def kill_one(self) -> int | None:
        """SIGKILL a worker and start another; the process id of the dead."""
        victim = self._processes[0]
        victim.kill()
        victim.join()
        self.replace_dead()
        return victim.pid

    def replace_dead(self) -> None:
        """Start a new worker for each one that died."""
        for place, process in enumerate(self._processes):
            if not process.is_alive():
                self.deaths += 1
                if self.deaths > 20:
                    sys.exit(f"workers keep dying, the last one with exit code {process.exitcode}")
                self._processes[place] = self._start()


def wait_for_workers() -> None:
    """Wait until all have left."""
    for process in multiprocessing.active_children():
        process.join()


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, not in the midst of it."""
    struck: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: struck.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if struck:
            signal.raise_signal(signal.SIGINT)


class Ledger:
    """The first result of each file. It claims every result and settles none, so all stay in the queue."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._consumer = results.consumer(prefetch=100_000)
        self.accepted: dict[str, mqlite.Message] = {}
        self.duplicates = self.redeliveries = 0

    def take(self, timeout: float) -> bool:
        """Accept the next result, or drop it if its file has one. False when none came in time."""
        with ctrl_c_waits():  # else a result could be claimed and not counted, or counted twice
            try:
                message = self._consumer.receive(timeout)
            except mqlite.Empty:
                return False
            self.redeliveries += message.headers["redelivered"]
            if message.body["file"] in self.accepted:
                self.duplicates += 1
                message.ack()
            else:
                self.accepted[message.body["file"]] = message
            return True

    def read(self) -> None:
        """Take all that is there already."""
        while self.take(timeout=0):
            pass

    def stored(self) -> int:
        """How many results the queue holds: the accepted ones, once the duplicates are dropped."""
        state = self.results.stats()
        return state.ready + state.claimed

    def forget(self) -> None:
        """Remove all results."""
        self.results.ack_many(self.accepted.values())
        self.accepted.clear()


def run(options: argparse.Namespace) -> int:
    """Everything, and the exit code."""
    files = dict(list(library_files().items())[: options.limit])
    jobs: Jobs = mqlite.Queue("jobs", options.store)
    results: Results = mqlite.Queue("results", options.store, max_deliveries=None, ack_timeout=None)
    ledger = Ledger(results)
    try:
        ledger.read()
        if jobs.is_shutdown or jobs.stats().claimed or ledger.stored() != len(ledger.accepted):
            print(f"another run is at work in {options.store}: wait for it, or name another --store")
            return 2
        if options.fresh:
            ledger.forget()
        for queue in (jobs, jobs.dead) if options.fresh else (jobs.dead,):
            while queue.qsize():
                queue.ack_many(queue.receive(1000))
        before = len(ledger.accepted)
        left = {message.body for message in jobs.browse()}
        if foreign := (ledger.accepted.keys() | left) - files.keys():
            print(f"{options.store} is of a run over other files ({min(foreign)}): use --fresh, or another --store")
            return 2
        unplanned = files.keys() - ledger.accepted.keys() - left
        print(f"{len(files)} files in {LIBRARY}")
        print(f"{before} accepted in earlier runs, {len(left)} jobs left by them, {len(unplanned)} to put", flush=True)
        with jobs.producer() as producer:
            for name in sorted(unplanned):
                producer.put(name, priority=files[name])
        if left or unplanned:
            done = frozenset(ledger.accepted.keys() & left)  # stopped after the put, before the ack
            collect(ledger, len(files), jobs, done, options)
        else:
            print("nothing was left to do")
        return report(ledger, files, jobs, before)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows takes no longer than the largest file
        jobs.shutdown(immediate=True)
        wait_for_workers()
        ledger.read()
        print(f"\ninterrupted: {len(ledger.accepted)} of {len(files)} files are accepted; the same command again goes on")
        return 130


def collect(ledger: Ledger, total: int, jobs: Jobs, done: frozenset[str], options: argparse.Namespace) -> None:
    """Start workers, kill one midway, and return when every file has its result and all workers have left."""
    before = len(ledger.accepted)
    ledger.duplicates = ledger.redeliveries = 0
    started = time.monotonic()
    workers = Workers(max(1, options.workers), options.start_method, jobs, ledger.results, done)
    kill_at = None if options.no_kill else before + (total - before + 2) // 3
    while len(ledger.accepted) < total:
        if not ledger.take(timeout=0.5):
            workers.replace_dead()
            for poison in jobs.dead.browse():
                sys.exit(f"no worker can index {poison.body}: {poison.death}")
        count = len(ledger.accepted)
        if count == kill_at:
            kill_at = None
            show("")
            print(f"worker {workers.kill_one()} killed after {count} results, and replaced", flush=True)
        show(f"{count} of {total} files, {(count - before) / (time.monotonic() - started):,.0f}/s")
    seconds = time.monotonic() - started
    show("")
    jobs.shutdown()  # no more jobs will come: workers leave when none is left
    wait_for_workers()
    ledger.read()
    new = total - before
    print(f"{new} files by {options.workers} workers in {seconds:.1f} s: {new / seconds:,.0f} files/s")
    print(f"{workers.deaths} killed, {ledger.redeliveries} redelivered, {ledger.duplicates} duplicates dropped")


def show(progress: str) -> None:
    """One line of progress, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


def report(ledger: Ledger, files: dict[str, int], jobs: Jobs, before: int) -> int:
    """Compare with a plain loop, and print the table. The exit code."""
    started = time.monotonic()
    expected = {name: index_file(name) for name in files}
    seconds = time.monotonic() - started
    print(f"{len(files)} files by a plain loop in {seconds:.1f} s: {len(files) / seconds:,.0f} files/s")
    accepted = {name: message.body for name, message in ledger.accepted.items()}
    print_table(list(accepted.values()))
    wrong = [name for name in files if accepted.get(name) != expected[name]]
    left = jobs.stats()
    if wrong or ledger.stored() != len(files) or left.ready or left.claimed or left.dead:
        print(f"\nFAILED: {ledger.stored()} results; wrong: {len(wrong)} {wrong[:3]}; jobs: {left}")
        return 1
    print(f"\nevery one of {len(files)} files has exactly one accepted result, equal to the plain loop's:")
    print(f"{before} from earlier runs, {len(files) - before} from this one")
    return 0


def print_table(results: list[Result]) -> None:
    """The largest packages, and the sum of all."""
    columns = ("files", "lines", "classes", "functions", "imports", "errors")
    packages: dict[str, Counter[str]] = {}
    for result in results:
        counts = packages.setdefault(result["file"].partition("/")[0].removesuffix(".py"), Counter())
        counts.update({name: result[name] for name in columns[1:-1]}, files=1, errors=bool(result["error"]))
    top = sorted(packages, key=lambda name: packages[name]["lines"], reverse=True)[:6]
    print(f"\n{'':14}" + "".join(f"{name:>11}" for name in columns))
    for name, counts in [*((name, packages[name]) for name in top), ("all", sum(packages.values(), Counter()))]:
        print(f"{name:14}" + "".join(f"{counts[column]:>11,}" for column in columns))


def main() -> int:
    """Read the command line, and run."""
    store = Path(tempfile.gettempdir(), f"mqlite-index-library-{sys.version_info.major}.{sys.version_info.minor}")
    parser = argparse.ArgumentParser(description="Index the standard library with several processes.")
    parser.add_argument("--store", default=str(store), help="directory of the queues (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="how many worker processes (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first LIMIT files by name")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have done")
    parser.add_argument("--no-kill", action="store_true", help="kill no worker")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), default="spawn")
    try:
        return run(parser.parse_args())
    except KeyboardInterrupt:  # before anything was begun
        return 130


if __name__ == "__main__":
    sys.exit(main())
