"""A process that is killed at any line of the package leaves queues with policies behind that go on.

The scenarios are those of policy_points.py. The short run takes some of the lines, the slow
one every MQLITE_POLICY_STRIDE-th (1: every line), beginning anywhere.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from crash.kill_points import Sweep, arm_lines
from crash.policy_points import POLICIES, Transition

#: Beyond the longest of the calls.
END = 6000
BY_NAME = {transition.name: transition for transition in POLICIES}
WAITED_FOR = [transition.name for transition in POLICIES if transition.waits]


def _seed() -> int:
    seed = int(os.environ.get("MQLITE_SWEEP_SEED", time.time_ns() % 10**6))
    print(f"MQLITE_SWEEP_SEED={seed}")
    return seed


def _some_points() -> list[int]:
    """Some lines from the first on, ever further apart, and one after the end."""
    chance = random.Random(_seed())
    points = [chance.randint(1, 20)]
    while points[-1] < 2500:
        points.append(points[-1] + chance.randint(10, 30 + points[-1] // 2))
    return [*points, END]


def _all_points() -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_POLICY_STRIDE", "16"))
    return range(1 + _seed() % stride, END + stride, stride)


def _kills(folder: Path, children: Any, transition: Transition, points: Iterable[int], waiting: bool) -> int:
    """How often the call was killed before it survived."""
    sweep = Sweep(str(folder), children, arm_lines)
    survived = sweep.run(transition, points, waiting)
    assert survived, f"no call takes {END} lines"
    print(f"{transition.name}: {sweep.kills} kills, survived {survived} lines")
    return sweep.kills


def test_no_two_transitions_have_the_same_name() -> None:
    assert len(BY_NAME) == len(POLICIES)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_between_two_lines_leaves_a_queue_with_policies_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert _kills(tmp_path, children, BY_NAME[name], _some_points(), False) > 1


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_process_killed_between_two_lines_leaves_its_group_to_one_that_waits_meanwhile(name: str, tmp_path: Path, children: Any) -> None:
    assert _kills(tmp_path, children, BY_NAME[name], _some_points(), True) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_at_every_line_leaves_a_queue_with_policies_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert _kills(tmp_path, children, BY_NAME[name], _all_points(), False) > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_process_killed_at_every_line_leaves_its_group_to_one_that_waits_meanwhile(name: str, tmp_path: Path, children: Any) -> None:
    assert _kills(tmp_path, children, BY_NAME[name], _all_points(), True) > 10
