"""A process that is killed at any point of the bench leaves nobody asleep beside a message. [32]"""

from __future__ import annotations

import random
from typing import Any

import pytest
from crash.bench_points import SCRIPTS, BenchSweep
from crash.front_points import LEVELS, always_open, kill_at_points
from crash.kill_points import sweep_seed

#: Points of each script that the short run takes.
SOME = 25


def _swept(script: str, level: str, path: str, children: Any, most: int | None) -> None:
    chance = random.Random(sweep_seed())
    with always_open():
        kill_at_points(BenchSweep(path, children, chance, level), script, most, chance, passing_by="bench.py")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_killed_at_some_points_of_the_bench_leaves_nobody_asleep(script: str, level: str, path: str, children: Any) -> None:
    _swept(script, level, path, children, SOME)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_process_killed_at_every_point_of_the_bench_leaves_nobody_asleep(script: str, level: str, path: str, children: Any) -> None:
    _swept(script, level, path, children, None)
