"""A process that is killed at any point of the bench leaves nobody asleep beside a message. [32]"""

from __future__ import annotations

import random
from typing import Any

import pytest
from crash.bench_points import SCRIPTS, BenchSweep
from crash.front_points import always_open
from crash.kill_points import sweep_seed

LEVEL = "process"
#: Points of each script that the short run takes.
SOME = 25


def _swept(script: str, path: str, children: Any, most: int | None) -> None:
    """Each of so many points (None: all), at one of the moments at which the script comes by."""
    chance = random.Random(sweep_seed())
    with always_open():
        sweep = BenchSweep(path, children, chance)
        moments = sweep.moments(script)
        points = sorted(moments)
        assert any("bench.py" in point for point in points), "nobody came by the bench"
        for point in points if most is None else chance.sample(points, min(most, len(points))):
            moment = chance.choice(moments[point])
            try:
                sweep.one(script, moment)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{script!r}, killed at {point}, moment {moment}: {error}") from error
    print(f"{script}: {len(points)} points, {sum(map(len, moments.values()))} moments, {sweep.kills} kills")
    assert sweep.kills > (len(points) if most is None else min(most, len(points))) // 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_killed_at_some_points_of_the_bench_leaves_nobody_asleep(script: str, path: str, children: Any) -> None:
    _swept(script, path, children, SOME)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_killed_at_every_point_of_the_bench_leaves_nobody_asleep(script: str, path: str, children: Any) -> None:
    _swept(script, path, children, None)
