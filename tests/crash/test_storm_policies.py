"""Groups, ttl, bounds, dedup_ids, schedules, seats and cancelling keep their promises, though processes are killed all the time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from crash.storm_policies import DEDUP, EACH, FAIR, GROUPED, SEATED, WRONG, PolicyStorm


def _balanced(folder: Path, children: Any, seconds: float) -> dict[str, Any]:
    seed = int(os.environ.get("MQLITE_STORM_SEED", time.time_ns() % 10**9))
    print(f"MQLITE_STORM_SEED={seed}")
    books = PolicyStorm(str(folder), children, seed).blow(seconds)
    print({word: found for word, found in books.items() if word not in WRONG})
    for word in WRONG:
        assert books[word] == [], (word, len(books[word]), books[word][:10])
    assert books["longest pause"] < 20
    return books


def test_a_short_storm_of_kills_leaves_policies_in_force(tmp_path: Path, children: Any) -> None:
    books = _balanced(tmp_path, children, 4)
    assert books["words"]["ack"] > 0
    assert books["firings"][EACH] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_of_kills_leaves_policies_in_force(tmp_path: Path, children: Any) -> None:
    seconds = float(os.environ.get("MQLITE_STORM_SECONDS", "20"))
    books = _balanced(tmp_path, children, seconds)
    assert books["kills"] > seconds
    assert books["firings"][EACH] > 5 * seconds
    for name in (GROUPED, FAIR, DEDUP, SEATED):
        assert books["acks"][name] > seconds, name
    assert books["dead"]["expiring"] > 0
    assert books["words"]["cancelled"] > 0
