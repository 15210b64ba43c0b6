"""Ctrl-C at any moment of a step: the messages are done, or given back, and the pipe goes on."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from interrupting import interrupted_at

import mqlite

WINDOW = mqlite.TumblingWindow(10, key=lambda message: str(message.body), at=lambda message: 0)


def twice(message: mqlite.Message, tx: mqlite.Transaction) -> Iterator[Any]:
    table = tx.table("t")
    table["n"] = table.get("n", 0) + 1
    yield message.body
    yield mqlite.Emit(message.body, priority=1)


def _points(seed: int) -> Iterator[int]:
    """Some from the first on, without end."""
    print(f"seed {seed}")
    chance, stride, point = random.Random(seed), int(os.environ.get("MQLITE_PIPE_STRIDE", "60")), 0
    while True:
        point += chance.randint(1, 2 * stride - 1)
        yield point


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt in a __del__ is told, and swallowed
@pytest.mark.parametrize("kind", ["function", "window"])
def test_a_step_that_is_interrupted_anywhere_loses_nothing_and_does_nothing_twice(kind: str, path: str) -> None:
    with mqlite.open(path) as broker:
        source, target = broker.queue("source", max_deliveries=None), broker.queue("target")
        rounds = finished = 0
        for point in _points(random.randrange(1 << 30)):
            source.put_many(["a", "b", "a"])
            pipe = broker.pipe(source, target=target, window=WINDOW, name="w") if kind == "window" else broker.pipe(source, twice, target)
            with interrupted_at(point) as struck:
                pipe.step()
            assert source.stats().claimed == 0, struck
            pipe.run_until_idle()
            rounds += 1
            found: Counter[str] = Counter()
            for message in target.browse():
                if kind == "window":
                    found[message.body["key"]] += message.body["count"]
                else:
                    found[message.body] += 1
            assert found == ({"a": 2, "b": 1} if kind == "window" else {"a": 4, "b": 2}), struck
            assert kind == "window" or broker.table("t")["n"] == 3 * rounds, struck
            target.purge()
            pipe.close()
            finished += not struck
            if finished == 2:
                break
        assert rounds > 10
        assert broker.check() == []
