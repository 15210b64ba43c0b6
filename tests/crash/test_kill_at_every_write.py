"""A process that is killed at any system call that writes leaves a whole store behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqlite.checks import LEVELS

HERE = Path(__file__).parent
#: Scenarios of policy_points.py that may change nothing but the claims, or nothing at all.
CLAIMS_ONLY = {
    "fail over",
    "nack in a group",
    "nack what has expired",
    "pass over a busy group",
    "prefetch of several groups",
    "put the same dedup_id again",
    "put unique again",
    "receive at a rate",
    "receive of several groups",
    "release in a group",
    "schedule again, the same",
    "take a seat",
    "take back in a group",
}


def _kills(shim: str, *program: str) -> dict[str, int]:
    """How many kills each scenario of a program took before it survived."""
    environment = {**os.environ, "LD_PRELOAD": shim}
    swept = subprocess.run([sys.executable, *program], env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=100)
    assert swept.returncode == 0, swept.stderr
    kills = {}
    for line in swept.stdout.splitlines():
        scenario = json.loads(line)
        assert scenario["survived"], scenario
        kills[scenario["scenario"]] = scenario["kills"]
    print(kills)
    return kills


@pytest.mark.parametrize(
    ("level", "torn"),
    [
        pytest.param("full", False, id="full, between writes"),
        pytest.param("full", True, id="full, inside long writes"),
        pytest.param("checkpoint", False, id="checkpoint, between writes", marks=pytest.mark.slow),
        pytest.param("checkpoint", True, id="checkpoint, inside long writes"),
        pytest.param("process", False, id="process, between writes"),
    ],
)
def test_a_process_killed_at_every_write_leaves_each_message_in_one_state(level: str, torn: bool, shim: str, tmp_path: Path) -> None:
    kills = _kills(shim, "-m", "crash.kill_points", str(tmp_path), str(int(torn)), level)
    for writes in ("put", "put_many", "producer", "get", "ack", "ack_many", "nack to dead", "reject", "take back to dead", "create"):
        assert kills[writes] >= 2, f"{writes} made {kills[writes]} calls that write: the shim does not see them"


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])
def test_a_process_killed_at_every_write_leaves_a_queue_with_policies_that_goes_on(torn: bool, shim: str, tmp_path: Path) -> None:
    kills = _kills(shim, "-m", "crash.policy_points", str(tmp_path), str(int(torn)))
    claims_only = {name for name, times in kills.items() if times == 0}
    assert claims_only <= CLAIMS_ONLY, f"{claims_only - CLAIMS_ONLY} made no call that writes: the shim does not see them"


@pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])
def test_a_process_killed_at_every_write_of_a_backup_or_a_recovery_leaves_a_whole_store_or_none(torn: bool, shim: str, tmp_path: Path) -> None:
    kills = _kills(shim, "-m", "crash.copy_points", str(tmp_path), str(int(torn)))
    assert kills["backup"] >= 10
    assert kills["recover"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_a_process_killed_at_every_write_of_a_compaction_leaves_the_old_file_or_the_new_one(level: str, shim: str, tmp_path: Path) -> None:
    kills = _kills(shim, "-m", "crash.copy_points", str(tmp_path), "0", level)
    assert kills[f"compact, {level}"] >= 10
