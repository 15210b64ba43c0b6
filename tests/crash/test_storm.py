"""Nothing is lost, invented or delivered after its ack, though processes are killed all the time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from crash.checkpoint_points import checkpoints_follow_each_other, is_whole_after_a_restart
from crash.storm import Storm


def _balanced(folder: Path, children: Any, seconds: float, level: str = "full") -> dict[str, Any]:
    seed = int(os.environ.get("MQLITE_STORM_SEED", time.time_ns() % 10**9))
    print(f"MQLITE_STORM_SEED={seed}")
    with checkpoints_follow_each_other():
        books = Storm(str(folder), children, seed, level).blow(seconds)
    print({word: found for word, found in books.items() if not isinstance(found, list)})
    for word in ("lost", "invented", "after ack", "shared", "blameless", "disordered", "twice"):
        assert books[word] == [], (word, books[word][:10])
    assert books["gaps"] <= books["kills of get"]
    assert books["longest pause"] < 20
    if level == "checkpoint":
        is_whole_after_a_restart(str(folder / "storm.mq"))
    return books


@pytest.mark.parametrize("level", ["full", "checkpoint", "process"])
def test_a_short_storm_of_kills_loses_nothing(level: str, tmp_path: Path, children: Any) -> None:
    books = _balanced(tmp_path, children, 4, level)
    assert books["acks"] > 0
    assert books["taken"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("level", ["checkpoint", "process"])
def test_a_storm_of_kills_loses_nothing_that_is_not_flushed_yet(level: str, tmp_path: Path, children: Any) -> None:
    books = _balanced(tmp_path, children, 15, level)
    assert books["kills"] > 15
    assert books["acks"] > 150


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_of_kills_loses_nothing(tmp_path: Path, children: Any) -> None:
    seconds = float(os.environ.get("MQLITE_STORM_SECONDS", "30"))
    books = _balanced(tmp_path, children, seconds)
    assert books["kills"] > seconds
    assert books["duplicates"] > 0
    assert books["acks"] > 10 * seconds
