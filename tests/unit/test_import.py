"""Importing, and queues in memory, leave no traces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mqlite


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_importing_makes_no_files_and_no_threads(tmp_path: Path) -> None:
    assert run("import mqlite, threading; print(threading.active_count())", tmp_path) == "1"
    assert os.listdir(tmp_path) == []


def test_importing_opens_no_descriptor(tmp_path: Path) -> None:
    code = "import os; before = os.listdir('/proc/self/fd'); import mqlite; print(set(os.listdir('/proc/self/fd')) - set(before))"
    assert run(code, tmp_path) == "set()"


def test_a_queue_in_memory_makes_no_files_no_pipes_and_no_threads(tmp_path: Path) -> None:
    code = """
import os, threading, mqlite
before = os.listdir('/proc/self/fd')
q = mqlite.Queue(5)
q.put(1); q.put(2)
q.receive()[0].reject()
with q.consumer() as consumer:
    consumer.receive(1).ack()
print(set(os.listdir('/proc/self/fd')) - set(before), threading.active_count())
"""
    assert run(code, tmp_path) == "set() 1"
    assert os.listdir(tmp_path) == []


def test_a_program_that_forgets_to_close_ends_and_loses_nothing(tmp_path: Path) -> None:
    code = """
import mqlite
q = mqlite.Queue('q', 'app.mq')
q.put_many([1, 2, 3])
held = q.receive()
p = q.producer(); p.put(4)
"""
    run(code, tmp_path)
    with mqlite.Queue("q", tmp_path / "app.mq") as q:
        assert [(m.body, m.delivery_count) for m in q.receive(10)] == [(1, 0), (2, 0), (3, 0), (4, 0)]


def test_every_public_name_exists() -> None:
    assert [name for name in mqlite.__all__ if not hasattr(mqlite, name)] == []


def test_every_error_has_one_root() -> None:
    errors = [getattr(mqlite, name) for name in mqlite.__all__ if isinstance(getattr(mqlite, name), type) and issubclass(getattr(mqlite, name), Exception)]
    strangers = [error for error in errors if not issubclass(error, mqlite.MqliteError)]
    assert {error.__name__ for error in strangers} <= {"NetworkFilesystemWarning", "ShutDown"}
