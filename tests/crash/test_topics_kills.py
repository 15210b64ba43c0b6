"""A process that is killed anywhere while it uses a topic leaves one behind that lacks nothing and owes nothing twice.

The scenarios are those of topic_points.py. The short run takes some of the lines, the slow one
every MQLITE_TOPIC_STRIDE-th (1: every line), beginning anywhere.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crash.kill_points import sweep_seed
from crash.topic_points import PLAYS, sweep_topic_lines

HERE = Path(__file__).parent
#: Beyond the longest of the calls.
END = 20000
BY_NAME = {play.name: play for play in PLAYS}


def _some_points() -> list[int]:
    """Some lines from the first on, ever further apart, and one after the end."""
    chance = random.Random(sweep_seed())
    points = [chance.randint(1, 60)]
    while points[-1] < 3000:
        points.append(points[-1] + chance.randint(40, 100 + 2 * points[-1]))
    return [*points, END]


def _all_points() -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_TOPIC_STRIDE", "120"))
    return range(1 + sweep_seed() % stride, END + stride, stride)


def test_no_two_plays_have_the_same_name() -> None:
    assert len(BY_NAME) == len(PLAYS)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_between_two_lines_leaves_a_topic_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_topic_lines(str(tmp_path), children, BY_NAME[name], _some_points()) > 0  # some have few lines


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_at_every_line_leaves_a_topic_that_goes_on(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_topic_lines(str(tmp_path), children, BY_NAME[name], _all_points()) > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])
def test_a_process_killed_at_every_write_leaves_a_topic_that_goes_on(torn: bool, shim: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "crash.topic_points", str(tmp_path), str(int(torn))]
    swept = subprocess.run(program, env={**os.environ, "LD_PRELOAD": shim}, cwd=HERE.parent, capture_output=True, text=True, timeout=250)
    assert swept.returncode == 0, swept.stderr
    kills = {}
    for line in swept.stdout.splitlines():
        scenario = json.loads(line)
        assert scenario["survived"], scenario
        kills[scenario["scenario"]] = scenario["kills"]
    print(kills)
    assert kills.keys() == BY_NAME.keys()
    assert min(kills.values()) > 0, "the shim does not see the calls that write"
