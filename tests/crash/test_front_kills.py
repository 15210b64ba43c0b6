"""A process that is killed at any point of the front loses nothing, does nothing twice, and keeps nobody from going on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from crash.front_points import SCRIPTS, FrontSweep
from crash.kill_points import sweep_seed

LEVEL = "process"
#: Points of each script that the short run takes.
SOME = 40


def _swept(name: str, folder: Path, children: Any, most: int | None) -> None:
    """Each of so many points (None: all), at one of the moments at which the script comes by."""
    chance = random.Random(sweep_seed())
    sweep = FrontSweep(str(folder), children, chance)
    moments = sweep.moments(name)
    assert any("take_over" in point for point in moments), "no fold brings claims"
    points = sorted(moments)
    for point in points if most is None else chance.sample(points, most):
        moment = chance.choice(moments[point])
        try:
            sweep.one(name, moment)
        except AssertionError as error:
            raise AssertionError(f"{name!r}, killed at {point}, moment {moment}: {error}") from error
    print(f"{name}: {len(points)} points, {sum(map(len, moments.values()))} moments, {sweep.kills} kills")
    assert sweep.kills > (len(points) if most is None else most) // 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_killed_at_some_points_of_the_front_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    _swept(name, tmp_path, children, SOME)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_killed_at_every_point_of_the_front_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    _swept(name, tmp_path, children, None)
