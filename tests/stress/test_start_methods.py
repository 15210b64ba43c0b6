"""Queues, consumers, producers and brokers travel into the children of every start method, and into pools."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_handles_work_in_children_started_by(method: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("start_methods.py")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program), method, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")
