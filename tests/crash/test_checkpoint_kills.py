"""Whoever makes a checkpoint may die at any moment of it: nothing that was confirmed is lost, and no checkpoint is torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crash.test_faults import run


@pytest.mark.parametrize("half", [0, 1], ids=["between writes", "inside long writes"])
def test_a_process_killed_in_its_checkpoint_leaves_all_to_those_that_go_on(half: int, shim: str, tmp_path: Path) -> None:
    said = run(shim, "-m", "crash.checkpoint_points", str(tmp_path), str(half))
    kills = {scenario["scenario"]: scenario["kills"] for scenario in map(json.loads, said.splitlines())}
    print(kills)
    assert min(kills.values()) > 3, "the shim does not see the calls of a checkpoint"
