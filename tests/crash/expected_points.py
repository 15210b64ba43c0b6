"""Scenarios for kill_points.py: the child waits, and the message that it waits for is committed while it has a claim on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from crash.kill_points import GUARD, Found, Scenario

import mqlite
from mqlite.claims import Kind


@dataclass
class Expectation(Scenario):
    """Another process puts the message as soon as the child waits, and commits it when the child expects it, or is dead."""

    def wait(self, queue: mqlite.Queue[Any]) -> None:
        engine, pause = queue._engine, threading.Event()
        forewarn, expected = engine.log.before_commit, engine.claims.expected
        assert expected is not None

        def until(condition: Any) -> None:
            while not condition():
                with engine.claims.read() as c:
                    owners = c.owners()
                if not all(map(engine.presence.is_alive, owners)):
                    return
                pause.wait(0.001)

        def is_registered() -> bool:
            with engine.claims.read() as c:
                return any(c.waiting(queue._state.id, Kind.MESSAGE))

        def when_it_is_expected(notes: Any) -> None:
            forewarn(notes)
            until(lambda: expected.expecting() is not None)

        engine.log.before_commit = when_it_is_expected
        try:
            until(is_registered)
            queue.put("new")
        finally:
            engine.log.before_commit = forewarn


def _received(found: Found, returned: bool) -> None:
    assert set(found.live) == {"new"}, found
    assert found.live["new"] == 1 if returned else found.live["new"] in (0, 1), found


def _got(found: Found, returned: bool) -> None:
    assert found.live == ({} if returned else {"new": 0}) or (not returned and not found.live), found


def _consume(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    queue.consumer(prefetch=3).receive(timeout=GUARD)


EXPECTATIONS = [
    Expectation("receive what is expected", lambda q, _: q.receive(timeout=GUARD), _received, put=0, waits=True),
    Expectation("consume what is expected", _consume, _received, put=0, waits=True),
    Expectation("get what is expected", lambda q, _: q.get(timeout=GUARD), _got, put=0, waits=True),
]
