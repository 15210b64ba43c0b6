"""What was said to be stored, or settled, is so after a power cut, a kill and a flush that fails: as a model (flush_protocol.py)."""

from __future__ import annotations

import pytest
from model.actors import Actor
from model.flush_protocol import bringer, explore, interrupted, late_putter, looker, putter, putter_and_looker, taker

#: Who meets, of which process each is, how many are killed, how many flushes fail.
MEETINGS: dict[str, tuple[list[Actor], tuple[int, ...], int, int]] = {
    "two puts": ([putter(0), putter(1)], (0, 1), 1, 1),
    "two puts of one process": ([putter(0), putter(0)], (0, 0), 1, 1),
    "two puts, and a fold": ([putter(0), putter(1), looker], (0, 1, 2), 0, 1),
    "two puts, a fold, a kill": ([putter(0), putter(1), looker], (0, 1, 2), 1, 0),
    "two puts, and then a fold": ([putter(0), putter_and_looker(1)], (0, 1), 1, 1),
    "two puts, one of a process that has just come": ([putter(0), late_putter(1)], (0, 1), 1, 1),
    "two puts, and an interrupt": ([putter(0), putter(1), interrupted], (0, 1, 2), 0, 1),
    "two puts, one taken": ([putter(0), putter(1), taker(1)], (0, 1, 1), 0, 1),
    "a put, and a fold": ([putter(0), looker], (0, 1), 1, 1),
    "a put, and two folds": ([putter(0), looker, looker], (0, 1, 2), 1, 1),
    "a put that is taken": ([putter(0), taker(1)], (0, 1), 1, 1),
    "a put that is taken by its process": ([putter(0), taker(0)], (0, 0), 1, 1),
    "a put that is taken, and a fold": ([putter(0), taker(1), looker], (0, 1, 2), 1, 1),
    "a put that is taken, and an interrupt": ([putter(0), taker(1), interrupted], (0, 1, 2), 1, 1),
    "one brought, and taken": ([bringer(0), taker(1)], (0, 1), 1, 1),
    "one brought, and taken, and a fold": ([bringer(0), taker(1), looker], (0, 1, 2), 1, 1),
    "one brought, and taken, and a put": ([bringer(0), taker(1), putter(2)], (0, 1, 2), 1, 1),
    "one brought, two that take": ([bringer(0), taker(1), taker(2)], (0, 1, 2), 1, 1),
    "a put before a fold, one brought behind it, and taken": ([putter(0), looker, bringer(1), taker(1)], (0, 1, 1, 1), 0, 0),
}
#: What may be done wrong, one at a time, and the meeting that shows what comes of it.
TRAPS = {
    "hands out what is not flushed": "a put that is taken",
    "looks what is there after the flush": "two puts",
    "says it is flushed before it is": "two puts",
    "brought ones are not flushed first": "a put before a fold, one brought behind it, and taken",
    "leaves the head where it was": "a put, and a fold",
    "says it is lost before how much": "two puts",
    "a fold does not give up": "two puts, and then a fold",
    "gives up what the tree has": "a put, and a fold",
    "opens when the fold gave up": "two puts, and an interrupt",
    "takes back what a fold has brought": "one brought, and taken, and a fold",
    "believes the next flush": "two puts",
    "believes its descriptors": "two puts, one of a process that has just come",
    "folds before it opens": "two puts, one of a process that has just come",
    "keeps others from flushing": "two puts of one process",
    "the epoch goes on after a fold": "one brought, and taken",
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_what_was_said_is_so_after_a_power_cut_a_kill_and_a_flush_that_fails(meeting: str) -> None:
    actors, processes, kills, fails = MEETINGS[meeting]
    states, problem = explore(actors, processes, "", kills, fails)
    print(f"{states} states")
    assert (problem, states > 500) == ("", True)


@pytest.mark.parametrize("trap", TRAPS)
def test_the_model_finds_what_comes_of(trap: str) -> None:
    actors, processes, kills, fails = MEETINGS[TRAPS[trap]]
    assert explore(actors, processes, trap, kills, fails)[1]
