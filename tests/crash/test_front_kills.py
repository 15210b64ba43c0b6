"""A process that is killed at any point of the front loses nothing, does nothing twice, and keeps nobody from going on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from crash.front_points import LEVELS, SCRIPTS, FrontSweep, kill_at_points
from crash.kill_points import sweep_seed

#: Points of each script that the short run takes.
SOME = 25
#: And the long run, of the level at which there are the most; others in each run.
MANY = 150


def _swept(name: str, level: str, folder: Path, children: Any, most: int | None) -> None:
    chance = random.Random(sweep_seed())
    sweep = FrontSweep(str(folder), children, chance, level)
    passing_by = "let_go" if name.startswith("rows") else "take_over" if level == "process" else "front_flush.py"
    kill_at_points(sweep, name, most, chance, passing_by=passing_by)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_killed_at_some_points_of_the_front_leaves_each_message_in_one_state(name: str, level: str, tmp_path: Path, children: Any) -> None:
    _swept(name, level, tmp_path, children, SOME)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_killed_at_every_point_of_the_front_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    _swept(name, "process", tmp_path, children, None)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_killed_at_many_points_of_the_front_at_full_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    _swept(name, "full", tmp_path, children, MANY)
