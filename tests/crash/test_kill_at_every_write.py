"""A process that is killed at any system call that writes leaves a whole store behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """kill_at_write.c as a library to preload."""
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("killing at a system call needs Linux and a C compiler (cc)")
    library = tmp_path_factory.mktemp("shim") / "kill_at_write.so"
    built = subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "kill_at_write.c"), "-ldl"], capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"kill_at_write.c cannot be compiled here: {built.stderr}")
    return str(library)


@pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])
def test_a_process_killed_at_every_write_leaves_each_message_in_one_state(torn: bool, shim: str, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": shim}
    program = [sys.executable, str(HERE / "kill_points.py"), str(tmp_path), str(int(torn))]
    swept = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=100)
    assert swept.returncode == 0, swept.stderr
    kills = {}
    for line in swept.stdout.splitlines():
        scenario = json.loads(line)
        assert scenario["survived"], scenario
        kills[scenario["scenario"]] = scenario["kills"]
    print(kills)
    for writes in ("put", "put_many", "producer", "get", "ack", "ack_many", "nack to dead", "reject", "take back to dead", "create"):
        assert kills[writes] >= 2, f"{writes} made {kills[writes]} calls that write: the shim does not see them"
