"""A process that is killed at any line of the package leaves a whole store behind.

The claims are written through a shared map, without system calls: so the moments
between the lines are tried one by one. The short run takes some of the lines, the
slow one every MQLITE_SWEEP_STRIDE-th (1: every line), beginning anywhere.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = [
    "put",
    "put_many",
    "producer",
    "receive",
    "prefetch",
    "get",
    "ack",
    "ack_many",
    "nack",
    "nack to dead",
    "nack with a delay",
    "put with a delay",
    "receive what is due",
    "purge",
    "redrive",
    "reject",
    "release",
    "extend",
    "take back",
    "take back to dead",
    "close",
    "wait for a message",
    "wait for room",
    "shutdown",
]
#: Beyond the longest of the calls.
END = 5000


def _some_points(seed: int) -> list[int]:
    """Some lines from the first on, ever further apart, and one after the end."""
    chance = random.Random(seed)
    points = [chance.randint(1, 10)]
    while points[-1] < 600:
        points.append(points[-1] + chance.randint(10, 50))
    return [*points, END]


def _all_points(seed: int) -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "4"))
    return range(1 + seed % stride, END + stride, stride)


def _seed() -> int:
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    return seed


def _sweep(kill_points: Any, folder: Path, children: Any, name: str, points: Any, waiting: bool) -> Any:
    [scenario] = [scenario for scenario in kill_points.SCENARIOS if scenario.name == name]
    assert scenario.waits or not waiting
    sweep = kill_points.Sweep(str(folder), children, kill_points.arm_lines)
    survived = sweep.run(scenario, points, waiting)
    assert survived, f"no call takes {END} lines"
    print(f"{name}: {sweep.kills} kills, survived {survived} lines")
    return sweep


def test_the_list_of_scenarios_is_complete(kill_points: Any) -> None:
    assert [scenario.name for scenario in kill_points.SCENARIOS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_process_killed_between_two_lines_leaves_each_message_in_one_state(name: str, kill_points: Any, tmp_path: Path, children: Any) -> None:
    assert _sweep(kill_points, tmp_path, children, name, _some_points(_seed()), False).kills > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_process_killed_at_every_line_leaves_each_message_in_one_state(name: str, kill_points: Any, tmp_path: Path, children: Any) -> None:
    assert _sweep(kill_points, tmp_path, children, name, _all_points(_seed()), False).kills > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["nack", "release", "close"])
def test_a_process_killed_at_every_line_leaves_its_message_to_one_that_waits_meanwhile(name: str, kill_points: Any, tmp_path: Path, children: Any) -> None:
    assert _sweep(kill_points, tmp_path, children, name, _all_points(_seed()), True).kills > 10


@pytest.mark.parametrize("new", [False, True])
def test_a_process_killed_while_it_opens_a_store_leaves_one_that_opens(new: bool, kill_points: Any, tmp_path: Path, children: Any) -> None:
    survived, kills = kill_points.sweep_opening(str(tmp_path), children, kill_points.arm_lines, _some_points(_seed()), new)
    assert survived
    assert kills > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("new", [False, True])
def test_a_process_killed_at_every_line_of_opening_a_store_leaves_one_that_opens(new: bool, kill_points: Any, tmp_path: Path, children: Any) -> None:
    survived, kills = kill_points.sweep_opening(str(tmp_path), children, kill_points.arm_lines, _all_points(_seed()), new)
    assert survived
    assert kills > 10
