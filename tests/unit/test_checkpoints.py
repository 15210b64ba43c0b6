"""A checkpoint, and what may come between its steps."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from typing import Any

import pytest
from fixture_types import Eventually

import mqlite
from mqlite.durability import checkpoint
from mqlite.system.control import MARKED, PIN_PROCESS, PIN_THREAD, PIN_TRANSACTION
from mqlite.system.environment import Environment


def test_a_fork_between_the_steps_of_a_checkpoint_has_it_made_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes the environment, and what was pinned is not pinned any more."""
    with mqlite.open(path, durability="checkpoint") as broker:
        store: Any = broker._store
        environment, words = store._environment, store._control.words
        broker.queue("q").put("here")
        flush, forks = Environment.flush, []

        def flush_and_fork(self: Environment) -> None:
            flush(self)
            if not forks:
                forks.append(1)
                store.before_fork()
                store.after_fork_in_parent()

        monkeypatch.setattr(Environment, "flush", flush_and_fork)
        broker.sync()
        assert forks
        assert words[MARKED] == words[PIN_TRANSACTION] == environment.last_txnid()
        assert f" {words[PIN_TRANSACTION]}\n" in environment.opened.readers()
        assert broker.check() == []


def test_checkpoints_go_on_after_a_shortage_of_file_descriptors(
    path: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The thread that makes them outlives what it could not do for a while."""
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    meta_pages, failed = checkpoint.meta_pages, threading.Event()

    def read(log: str) -> bytes:
        try:
            return meta_pages(log)
        except BaseException:
            failed.set()
            raise

    monkeypatch.setattr(checkpoint, "meta_pages", read)
    with mqlite.open(path, durability="checkpoint") as broker:
        store: Any = broker._store
        environment, words = store._environment, store._control.words
        queue = broker.queue("q")
        queue.put(1)  # begins with a checkpoint
        unused = os.open(os.devnull, os.O_RDONLY)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, hard))
        try:
            queue.put(2)
            assert failed.wait(30)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        queue.put(3)
        eventually(lambda: words[MARKED] == environment.last_txnid())


def test_a_snapshot_is_not_taken_for_a_pin_that_a_fork_has_ended(path: str) -> None:
    """It has the same process, thread and transaction, and ends at any moment, in the middle of somebody's commit."""
    with mqlite.open(path, durability="checkpoint") as broker:
        store: Any = broker._store
        environment, words = store._environment, store._control.words
        queue = broker.queue("q")
        queue.put(1)
        broker.sync()
        published = tuple(words[place] for place in (PIN_PROCESS, PIN_THREAD, PIN_TRANSACTION))
        store.before_fork()
        store.after_fork_in_parent()
        held: list[None] = []
        snapshot = environment.begin_read(held)
        assert "{:10d} {:x} {}\n".format(*published) in environment.opened.readers()
        queue.put(2)
        environment.end_read(held, snapshot)
        assert environment.level._pin is not None
        queue.put(3)
        assert f" {words[PIN_TRANSACTION]}\n" in environment.opened.readers()


def test_a_pin_that_was_just_made_is_not_dropped_for_the_one_before(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has seen that its pin is out of date, and gets the gate after a writer of its process has made another."""
    monkeypatch.setattr(checkpoint, "TICK", 3600.0)  # no look but that of this test
    with mqlite.open(path, durability="checkpoint") as broker:
        store: Any = broker._store
        environment, words = store._environment, store._control.words
        level = environment.level
        queue = broker.queue("q")
        queue.put(1)
        broker.sync()
        gated = Environment.gated

        def gated_late(self: Environment) -> Any:
            monkeypatch.setattr(Environment, "gated", gated)
            words[PIN_PROCESS] = process
            return self.gated()

        process = words[PIN_PROCESS]
        words[PIN_PROCESS] = process + 1  # as of another process, until the thread waits for the gate
        monkeypatch.setattr(Environment, "gated", gated_late)
        level.look(0.0)
        assert words[PIN_PROCESS] == process
        assert level._pin is not None


@pytest.mark.parametrize("level", ["checkpoint", "process", "full"])
def test_a_log_with_pages_of_another_size_than_the_machine_s_is_restarted_and_compacted(
    path: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made on another machine. Its second meta page is not where this machine's second page begins."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mqlite.") and hasattr(module, "PAGE"):
            monkeypatch.setattr(module, "PAGE", 16384)
    for boot in ("one", "two"):
        monkeypatch.setattr("mqlite.system.directory.boot_id", lambda boot=boot: boot)
        with mqlite.open(path, durability=level) as broker:
            queue = broker.queue("q")
            for number in range(300):
                queue.put([number, "x" * 300])
            broker.sync()
            for _ in range(150):
                queue.get(timeout=0)
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").qsize() == 300
        broker.compact()
        assert broker.check() == []
        assert broker.queue("q").qsize() == 300


def test_where_no_thread_can_be_had_puts_go_on_and_a_later_one_starts_it(path: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        broker = mqlite.open(path, durability="checkpoint")
        broker.queue("q").put("one")
    with broker:
        store: Any = broker._store
        broker.queue("q").put("two")
        eventually(lambda: store._control.words[MARKED] == store._environment.last_txnid())


def test_the_thread_ends_with_an_environment_that_is_not_open_when_it_is_closed_for_good(path: str) -> None:
    broker = mqlite.open(path, durability="checkpoint")
    environment: Environment = broker._store._environment  # type: ignore[union-attr]
    thread: Any = environment.level._thread  # type: ignore[attr-defined]
    broker.sync()
    with environment.gated():
        environment.close()  # as before a fork
    environment.close_for_good()
    assert environment.level.ended  # type: ignore[attr-defined]
    thread.join(60)
    assert not thread.is_alive()
    with contextlib.suppress(mqlite.Closed):
        broker.close()
