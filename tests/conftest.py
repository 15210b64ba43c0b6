"""Fixtures for all suites: queues on every backend, closed and checked after each test; a clock; other processes; a full disk; threads that wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from crash.children import Children
from crash.faults import built
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock
from polling import until

import mqlite
from mqlite import disk_store
from mqlite.channel import Channel
from mqlite.checks import LEVELS
from mqlite.claims import Kind
from mqlite.store import open_store

BACKENDS = ("memory", "disk")

if threading.current_thread() is threading.main_thread():
    # a shell that starts the tests in the background has them, and their children, ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Where Python is told to leave no bytecode beside the sources, hundreds of interpreters that tests start would each compile
    the package anew, which takes 0.2 of their 0.3 seconds: their bytecode goes to a folder of this run.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="mqlite-bytecode-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """One conformance suite, every backend."""
    return str(request.param)


@pytest.fixture(autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The level of durability of the stores that a test makes without naming one: another for each test, the same in each run,
    for nobody above the log may see a difference. Test modules that are about a level say `LEVEL = "full"`.
    """
    level = getattr(request, "param", None) or getattr(request.module, "LEVEL", LEVELS[zlib.crc32(request.node.nodeid.encode()) % 3])
    monkeypatch.setattr(disk_store, "DEFAULT_DURABILITY", level)
    print(f"level of durability: {level}")
    return str(level)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a store may be made."""
    return os.path.join(tmp_path, "app.mq")


@pytest.fixture
def made(path: str) -> Iterator[list[mqlite.Queue[Any]]]:
    """Queues that a test has made: afterwards their invariants are checked and they are closed."""
    queues: list[mqlite.Queue[Any]] = []
    yield queues
    for queue in queues:
        with contextlib.suppress(mqlite.Closed):
            assert queue.check() == []
        queue.close()


@pytest.fixture
def make_queue(backend: str, path: str, made: list[mqlite.Queue[Any]]) -> MakeQueue:
    """make_queue(name, **options): a queue on the backend under test."""

    def make(name: str = "q", **options: Any) -> mqlite.Queue[Any]:
        made.append(mqlite.Queue(name, path if backend == "disk" else None, **options))
        return made[-1]

    return make


@pytest.fixture
def q(make_queue: MakeQueue) -> mqlite.Queue[Any]:
    """A queue with default settings."""
    return make_queue()


@pytest.fixture
def disk_queue(path: str, made: list[mqlite.Queue[Any]]) -> mqlite.Queue[Any]:
    """A queue on disk."""
    made.append(mqlite.Queue("q", path))
    return made[-1]


# ---------------------------------------------------------------------- time
@pytest.fixture
def clock() -> HandClock:
    """Stands still until it is set."""
    return HandClock()


@pytest.fixture
def timed(backend: str, path: str, clock: HandClock, made: list[mqlite.Queue[Any]]) -> MakeQueue:
    """timed(name, **options): a queue of one store on the backend under test, which goes by `clock`."""
    in_memory = open_store(None, clock=clock)

    def make(name: str = "q", **options: Any) -> mqlite.Queue[Any]:
        store = open_store(path, clock=clock) if backend == "disk" else in_memory
        made.append(mqlite.Queue.of(Channel.open(store, name, options, "json")))
        return made[-1]

    return make


# ---------------------------------------------------------------------- other processes
@pytest.fixture
def children() -> Iterator[Children]:
    """Forks processes (see crash/children.py); kills those that are left."""
    made = Children()
    yield made
    made.kill_all()


# ---------------------------------------------------------------------- faults at system calls
@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """crash/fault_at_call.c as a library to preload."""
    return built(tmp_path_factory.mktemp("shim"))


# ---------------------------------------------------------------------- a disk without room
@pytest.fixture
def small_disk() -> Iterator[str]:
    """A file system of 40 MiB (16 MiB of it are for the claims), where this user may mount one."""
    folder = tempfile.mkdtemp()  # not in pytest's own: a killed run leaves the mount behind, and pytest could not clean up
    try:
        try:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("a really full disk needs mount(8), which is not there")
        if mounted.returncode:
            pytest.skip(f"a really full disk needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)  # lazily: a failed test may hold files
    finally:
        os.rmdir(folder)


@pytest.fixture
def fill_disk(small_disk: str) -> Callable[[], None]:
    """fill_disk(): takes every block that is left."""

    def fill() -> None:
        with open(os.path.join(small_disk, "filler"), "ab", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        assert os.statvfs(small_disk).f_bavail == 0

    return fill


# ---------------------------------------------------------------------- threads that wait, and how a test knows that they do
@pytest.fixture
def in_thread() -> InThread:
    """in_thread(function, *args, **options): a future of what the function returns in a thread of its own."""

    def start(function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = function(*args, **options)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, daemon=True).start()
        return future

    return start


@pytest.fixture
def eventually() -> Eventually:
    """eventually(condition): returns when it holds, fails when it does not for a long time."""

    return until


@pytest.fixture
def until_waiting(eventually: Eventually) -> UntilWaiting:
    """until_waiting(queue, kind, n): returns when n threads sleep for something of that queue."""

    def wait(queue: mqlite.Queue[Any], kind: Kind = Kind.MESSAGE, n: int = 1) -> None:
        def registered() -> int:
            with queue._engine.claims.read() as c:
                return len(list(c.waiting(queue._state.id, kind)))

        eventually(lambda: registered() >= n)

    return wait
