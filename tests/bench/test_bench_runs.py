"""The benchmark runs and writes what it promises. What it measures is no test's business."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mqlite

RUN = Path(__file__).with_name("run.py")


def test_benchmark_writes_a_table_and_every_sample_and_leaves_nothing_behind(tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    out = tmp_path / "out.json"
    root = os.path.dirname(os.path.dirname(os.path.abspath(mqlite.__file__)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--only", "put,idle,checkpoint", "--json", str(out), "--dir", str(stores)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress where there is no terminal
    assert "| full: put one at a time" in done.stdout
    found = json.loads(out.read_text())
    assert {"mqlite", "python", "lmdb", "kernel", "cpus", "filesystem"} <= set(found["machine"])
    assert {row["measure"] for row in found["rows"]} == {"put", "idle", "checkpoint"}
    assert all({"label", "ours", "unit", "floor", "ratio", "asked", "met"} <= set(row) for row in found["rows"])
    assert (
        len(found["samples"]["put"]["mqlite"])
        == len(found["samples"]["put"]["raw lmdb"])
        == found["settings"]["rounds"]
    )
    assert list(stores.iterdir()) == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make flushes take a set time")
def test_benchmark_runs_with_flushes_that_take_a_set_time(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(mqlite.__file__)))}
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--only", "put", "--flush", "2000", "--json", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "with flushes of 2000 us" in done.stdout
    found = json.loads(out.read_text())
    assert max(found["samples"]["put"]["raw lmdb"]) <= 250  # two flushes per commit


def test_benchmark_names_its_measures_and_refuses_others() -> None:
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(mqlite.__file__)))}
    done = subprocess.run(
        [sys.executable, str(RUN), "--only", "nonsense"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "no such measure: nonsense" in done.stderr
    assert "memory_threads" in done.stderr
