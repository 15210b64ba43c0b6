"""A process that is killed at any line of the package leaves a whole store behind.

The claims are written through a shared map, without system calls: so the moments
between the lines are tried one by one. The short run takes some of the lines, the
slow one every MQLITE_SWEEP_STRIDE-th (1: every line), beginning anywhere.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from crash.kill_points import SCENARIOS, arm_lines, sweep_lines, sweep_opening, sweep_seed

NAMES = [
    "put",
    "put_many",
    "producer",
    "receive",
    "prefetch",
    "hand out",
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
    "take back what was prefetched",
    "take back to dead",
    "close",
    "wait for a message",
    "wait for room",
    "shutdown",
]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
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
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "12"))
    return range(1 + seed % stride, END + stride, stride)


def test_the_list_of_scenarios_is_complete() -> None:
    assert [scenario.name for scenario in SCENARIOS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_process_killed_between_two_lines_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _some_points(sweep_seed()), False) > 1


DEFERRED = ("checkpoint", "process")


@pytest.mark.parametrize("level", DEFERRED)
def test_a_process_killed_between_two_lines_loses_nothing_that_is_not_flushed_yet(level: str, tmp_path: Path, children: Any) -> None:
    seed = sweep_seed()
    for number, name in enumerate(random.Random(seed).sample(NAMES, 3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        sweep_lines(str(folder), children, BY_NAME[name], _some_points(seed), False, level)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_process_killed_between_two_lines_loses_nothing_at_any_level(name: str, tmp_path: Path, children: Any) -> None:
    level = DEFERRED[(NAMES.index(name) + sweep_seed()) % 2]
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _some_points(sweep_seed()), False, level) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_process_killed_at_every_line_leaves_each_message_in_one_state(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _all_points(sweep_seed()), False) > 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["nack", "release", "close"])
def test_a_process_killed_at_every_line_leaves_its_message_to_one_that_waits_meanwhile(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_lines(str(tmp_path), children, BY_NAME[name], _all_points(sweep_seed()), True) > 3


@pytest.mark.parametrize("level", ["full", *DEFERRED])
@pytest.mark.parametrize("new", [False, True])
def test_a_process_killed_while_it_opens_a_store_leaves_one_that_opens(new: bool, level: str, tmp_path: Path, children: Any) -> None:
    survived, kills = sweep_opening(str(tmp_path), children, arm_lines, _some_points(sweep_seed()), new, level)
    assert survived
    assert kills > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("new", [False, True])
def test_a_process_killed_at_every_line_of_opening_a_store_leaves_one_that_opens(new: bool, tmp_path: Path, children: Any) -> None:
    survived, kills = sweep_opening(str(tmp_path), children, arm_lines, _all_points(sweep_seed()), new)
    assert survived
    assert kills > 10
