"""Has the n-th system call of an operation that passes by (log/front.py) fail at "full", as fault_points.py does elsewhere.

    python -m crash.front_fault_points FOLDER ONE_IN    in tests/ (needs fault_at_call.c preloaded)
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

from crash.children import Children
from crash.fault_points import CONTENT, WAYS, Scenario, Stricken, Things, Way, reported, witness
from crash.front_points import always_open

from mqlite.log.front_file import HEAD, LOST, OPEN, START

LEVEL = "full"


class Passing(Scenario):
    """One call under fire, of a plain message; what is prepared is in the front."""

    def __init__(self, name: str, act: Callable[[Things], Any], prepare: Callable[[Things], None], first: bool = False) -> None:
        """first: it is the first one that passes by in its session."""
        super().__init__(name, act)
        self._prepare = prepare
        self.first = first

    def prepare(self, things: Things) -> None:
        if not self.first:
            with things.broker.queue("warm") as warm:
                for number in range(3):
                    warm.put(number)
                    warm.receive(timeout=0)[0].ack()
        self._prepare(things)


def _nothing(things: Things) -> None:
    """As it is."""


def _some(things: Things) -> None:
    for number in range(3):
        things.queue.put(number)


def _two_held(things: Things) -> None:
    _some(things)
    for _ in range(2):  # the first claim of a queue goes the general way
        things.held[:0] = things.queue.receive(timeout=0)


def _one_brought(things: Things) -> None:
    things.queue.put_many([0, 1, 2])
    things.queue.put(3)
    _two_held_of_all(things)


def _two_held_of_all(things: Things) -> None:
    for _ in range(2):
        things.held[:0] = things.queue.receive(timeout=0)


def _three_in_rows(things: Things) -> None:
    things.queue.put_many([0, 1, 2])
    things.held[:0] = things.queue.receive(3, timeout=0)
    things.broker.queue("warm").put("opens it")


SCENARIOS = [
    Passing("put that passes by", lambda t: t.queue.put("new"), _some),
    Passing("put that passes by first", lambda t: t.queue.put("new"), _nothing, first=True),
    Passing("put behind many", lambda t: t.queue.put("new"), _two_held),
    Passing("ack that passes by", lambda t: t.held[0].ack(), _two_held),
    Passing("ack of what was brought", lambda t: t.held[0].ack(), _one_brought),
    Passing("ack of what rows hold", lambda t: t.held[0].ack(), _three_in_rows),
    Passing("ack_many of what rows hold", lambda t: t.queue.ack_many(t.held), _three_in_rows),
    Passing("receive that passes by", lambda t: t.queue.receive(timeout=0), _two_held),
    Passing("fold", lambda t: t.queue.qsize(), _two_held),
    Passing("put_many behind what passed by", lambda t: t.queue.put_many(["new", "newer"]), _two_held),
]


class FrontStricken(Stricken):
    """One process whose messages pass by until a flush of them has failed; then it goes on with another store."""

    def _one(self, scenario: Scenario, way: Way, call: int, before: CONTENT, after: CONTENT) -> bool:
        assert isinstance(scenario, Passing)
        if scenario.first or (self.broker is not None and self._words()[LOST]):
            self.another_store()
        things = self.things()
        scenario.prepare(things)
        if not scenario.first:
            assert self._words()[OPEN]
            assert self._words()[HEAD] > START
        raised = self.strike(way, call, lambda: scenario.act(things))
        struck = self._fired > 0
        found = self.seen_by_both(things, "at once")
        if raised is None:
            assert found == after, f"returned, but there is {found}, not {after}"
        else:
            assert found in (before, after), f"raised {raised!r}, and there is {found}, neither {before} nor {after}"
        if found == before != after:
            scenario.act(things)
            found = self.seen_by_both(things, "after it was done again")
            assert found == after, f"done again, there is {found}, not {after}"
        things.queue.put("more", priority=9)
        assert things.queue.get(timeout=0) == "more"
        things.close()
        return struck

    def _words(self) -> Any:
        assert self.broker is not None
        log: Any = self.broker._store.engine.log
        return log.front.words


def struck(talk: Any, folder: str, one_in: int) -> None:
    """Each scenario is struck in one of so many ways, beginning anywhere."""
    turn = itertools.count(int(os.environ.get("MQLITE_SWEEP_SEED", "0")))
    children = Children()
    try:
        with always_open():
            stricken = FrontStricken(folder, LEVEL, children.fork(witness, LEVEL))
            for scenario in SCENARIOS:
                ways = [way for way in WAYS if next(turn) % one_in == 0]
                talk.say({"scenario": scenario.name, "met": stricken.sweep(scenario, ways)})
            stricken.leave()
    finally:
        children.kill_all()
    talk.say(None)


def main() -> None:
    folder, one_in = sys.argv[1:]
    sys.exit(reported(struck, folder, int(one_in)))


if __name__ == "__main__":
    main()
