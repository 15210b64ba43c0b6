"""A process that is killed at any line of the package leaves queues with policies behind that go on.

The scenarios are those of policy_points.py. The short run takes some of the lines, the slow
one every MQLITE_POLICY_STRIDE-th (1: every line), beginning anywhere.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from crash.kill_points import sweep_lines, sweep_seed
from crash.policy_points import POLICIES

#: Beyond the longest of the calls.
END = 6000
BY_NAME = {transition.name: transition for transition in POLICIES}
WAITED_FOR = [transition.name for transition in POLICIES if transition.waits]


def _some_points() -> list[int]:
    """Some lines from the first on, ever further apart, and one after the end."""
    chance = random.Random(sweep_seed())
    points = [chance.randint(1, 20)]
    while points[-1] < 2500:
        points.append(points[-1] + chance.randint(10, 40 + points[-1]))
    return [*points, END]


def _all_points() -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_POLICY_STRIDE", "32"))
    return range(1 + sweep_seed() % stride, END + stride, stride)


def test_no_two_transitions_have_the_same_name() -> None:
    assert len(BY_NAME) == len(POLICIES)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_between_two_lines_leaves_a_queue_with_policies_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _some_points(), False) > 1


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_process_killed_between_two_lines_leaves_its_group_to_one_that_waits_meanwhile(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _some_points(), True) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_at_every_line_leaves_a_queue_with_policies_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _all_points(), False) > 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_process_killed_at_every_line_leaves_its_group_to_one_that_waits_meanwhile(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _all_points(), True) > 3
