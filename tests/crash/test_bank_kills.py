"""A process that is killed anywhere in a transaction leaves all of it behind, or nothing.

The scenarios are those of bank_points.py. The short run takes some of the lines, the slow one
every MQLITE_BANK_STRIDE-th (1: every line), beginning anywhere.
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
from crash.bank_points import PLAYS, Play, Stage, sweep_bank_lines
from crash.kill_points import sweep_seed

HERE = Path(__file__).parent
#: Beyond the longest of the calls.
END = 20000
BY_NAME = {play.name: play for play in PLAYS}


def _some_points() -> list[int]:
    """Some lines from the first on, ever further apart, and one after the end."""
    chance = random.Random(sweep_seed())
    points = [chance.randint(1, 60)]
    while points[-1] < 3000:
        points.append(points[-1] + chance.randint(40, 100 + points[-1] // 2))
    return [*points, END]


def _all_points() -> range:
    """Every line, or every n-th of them."""
    stride = int(os.environ.get("MQLITE_BANK_STRIDE", "32"))
    return range(1 + sweep_seed() % stride, END + stride, stride)


def test_no_two_transactions_have_the_same_name() -> None:
    assert len(BY_NAME) == len(PLAYS)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_between_two_lines_leaves_a_transaction_whole(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_bank_lines(str(tmp_path), children, BY_NAME[name], _some_points()) > 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_process_killed_at_every_line_leaves_a_transaction_whole(name: str, tmp_path: Path, children: Any) -> None:
    assert sweep_bank_lines(str(tmp_path), children, BY_NAME[name], _all_points()) > 3


def _sweep_writes(shim: str, folder: Path, torn: bool, names: list[str]) -> None:
    program = [sys.executable, "-m", "crash.bank_points", str(folder), str(int(torn)), *names]
    swept = subprocess.run(program, env={**os.environ, "LD_PRELOAD": shim}, cwd=HERE.parent, capture_output=True, text=True, timeout=250)
    assert swept.returncode == 0, swept.stderr
    kills = {}
    for line in swept.stdout.splitlines():
        scenario = json.loads(line)
        assert scenario["survived"], scenario
        kills[scenario["scenario"]] = scenario["kills"]
    print(kills)
    assert list(kills) == names
    assert all(times > 1 for name, times in kills.items() if BY_NAME[name].after), "the shim does not see the calls that write"


torn = pytest.mark.parametrize("torn", [False, True], ids=["between writes", "inside long writes"])


@torn
def test_a_process_killed_at_every_write_of_a_transaction_leaves_it_whole(torn: bool, shim: str, tmp_path: Path) -> None:
    _sweep_writes(shim, tmp_path, torn, ["transfer", "settle in every way"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@torn
def test_a_process_killed_at_every_write_leaves_any_transaction_whole(torn: bool, shim: str, tmp_path: Path) -> None:
    _sweep_writes(shim, tmp_path, torn, list(BY_NAME))


# ---------------------------------------------------------------------- would the sweep tell?
def _acknowledged_later(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        stage.move(tx, "ann", "bob", 30)
    stage.held[0].ack()


def _acknowledged_before(stage: Stage) -> None:
    stage.held[0].ack()
    with stage.broker.transaction() as tx:
        stage.move(tx, "ann", "bob", 30)


def _paid_by_two_writes(stage: Stage) -> None:
    balances = stage.balances()
    balances["ann"] -= 30
    with stage.broker.transaction() as tx:
        tx.table(stage.name)["ann"] += 30
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)


@pytest.mark.parametrize("act", [_acknowledged_later, _acknowledged_before, _paid_by_two_writes])
def test_the_sweep_tells_that_something_is_done_outside_of_the_transaction(act: Any, tmp_path: Path, children: Any) -> None:
    play = Play("wrong", act, BY_NAME["transfer"].after)
    with pytest.raises(AssertionError, match="killed at point"):
        sweep_bank_lines(str(tmp_path), children, play, range(1, END, 100))
