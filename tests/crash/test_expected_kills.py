"""A waiter that is killed at any line, while the message that it has a claim on is committed, leaves it to others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from crash.expected_points import EXPECTATIONS, Expectation
from crash.kill_points import sweep_lines, sweep_seed

#: Beyond the longest of the calls.
END = 5000


def _lines(stride: int) -> range:
    return range(1 + sweep_seed() % stride, END + stride, stride)


@pytest.mark.parametrize("scenario", EXPECTATIONS, ids=lambda scenario: scenario.name)
def test_a_waiter_killed_between_two_lines_leaves_the_message_that_it_expects(
    scenario: Expectation, tmp_path: Path, children: Any
) -> None:
    assert sweep_lines(str(tmp_path), children, scenario, _lines(61), True) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", EXPECTATIONS, ids=lambda scenario: scenario.name)
def test_a_waiter_killed_at_every_line_leaves_the_message_that_it_expects(
    scenario: Expectation, tmp_path: Path, children: Any
) -> None:
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "11"))  # 1: every line; else every n-th, beginning anywhere
    assert sweep_lines(str(tmp_path), children, scenario, _lines(stride), True) > 3
