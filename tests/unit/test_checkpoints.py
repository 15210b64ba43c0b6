"""A checkpoint, and what may come between its steps."""

from __future__ import annotations

import os
import resource
import threading
from typing import Any

import pytest
from fixture_types import Eventually

import mqlite
from mqlite.durability import checkpoint
from mqlite.system.control import MARKED, PIN_TRANSACTION
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

    def read(log: str, page_size: int) -> bytes:
        try:
            return meta_pages(log, page_size)
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
