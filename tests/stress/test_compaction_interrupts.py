"""Ctrl-C anywhere in a compaction: the old file or the new one is there, and everybody goes on with it."""

from __future__ import annotations

import os
import random
import threading
import warnings
from typing import Any

import pytest
from crash.kill_points import sweep_seed
from interrupting import interrupted_at, learn

import mqlite
from mqlite.checks import LEVELS

BODY = "x" * 10_000
GUARD = 60.0
#: More points than there are.
END = 5000


def _sweep(talk: Any, path: str, level: str, seed: int) -> None:
    warnings.simplefilter("ignore", ResourceWarning)  # what is cut off before it is in anybody's hands is closed by Python
    with mqlite.open(path, durability=level) as broker:
        queue, other = broker.queue("q"), broker.queue("other")
        queue.put_many([BODY] * 1000)
        queue.ack_many(queue.receive(900))
        chance = random.Random(seed)
        point, struck, done = 0, [""], [0, 0]
        while struck:
            point = point + chance.randint(1, 12) if point < 80 else END
            other.put("held")
            [held] = other.receive()
            woken: list[Any] = []
            waiting = threading.Thread(target=lambda woken=woken: woken.append(other.get(timeout=GUARD)))
            waiting.start()
            with interrupted_at(point) as struck:
                broker.compact()
            small = os.stat(os.path.join(path, "log.mdb")).st_blocks * 512 < 14_000_000
            done[small] += 1
            assert "log.mdb.new" not in os.listdir(path) or struck
            other.put("wake up")
            waiting.join(GUARD)
            assert woken == ["wake up"], (point, struck)
            held.ack()
            assert broker.check() == [], (point, struck)
            assert queue.stats().ready == 100
            if small:
                queue.put_many([BODY] * 1000)
                queue.ack_many(queue.receive(1000))
        talk.say(done)


@pytest.mark.parametrize("level", LEVELS)
def test_an_interrupt_anywhere_in_a_compaction_leaves_one_of_the_files_and_everything_goes_on(level: str, path: str, children: Any) -> None:
    seed = sweep_seed()
    with mqlite.open(path + ".first") as broker:
        broker.queue("q").put(BODY)
        broker.compact()
    learn()
    swept = children.fork(_sweep, path, level, seed)
    interrupted, compacted = swept.hear()
    swept.end()
    assert interrupted > 3
    assert compacted > 0
    with mqlite.open(path) as broker:
        assert broker.check() == []
        assert broker.queue("q").stats().ready == 100
