"""Who passes by and who looks at the tree hand out each message once, in line, and lose none: as a model (front_protocol.py)."""

from __future__ import annotations

import pytest
from model.actors import Actor
from model.front_protocol import IN_TREE, claimer, explore, giver, holder, keeper, looker, passer, putter, taker_back

NOTHING = frozenset[int]()
#: Who meets, how many are killed, what is in the tree at first.
MEETINGS: dict[str, tuple[list[Actor], int, frozenset[int]]] = {
    "two that pass by": ([passer, passer], 1, IN_TREE),
    "one that passes by, and a put that is first": ([passer, putter(0)], 1, IN_TREE),
    "one that passes by, and a put that is last": ([passer, putter(3)], 1, IN_TREE),
    "one that passes by, and both": ([passer, putter(0), putter(3)], 1, IN_TREE),
    "one that passes by, one that keeps what it gets, a put": ([passer, keeper, putter(0)], 1, IN_TREE),
    "one that passes by, one that keeps what it gets, a fold": ([passer, keeper, looker], 1, IN_TREE),
    "one that passes by, one that claims by a row": ([passer, claimer], 1, IN_TREE),
    "the same, and a put that is first": ([passer, claimer, putter(0)], 1, IN_TREE),
    "the same, and a put that is last": ([passer, claimer, putter(3)], 1, IN_TREE),
    "the same, and nothing in the tree": ([passer, claimer, putter(0)], 1, NOTHING),
    "one that finds nothing, a put, one that keeps it, a fold": ([passer, putter(0), keeper, looker], 0, NOTHING),
    "one that passes by, one that gives back": ([passer, giver(1)], 1, IN_TREE),
    "the same, and one that claims by a row": ([passer, giver(1), claimer], 0, IN_TREE),
    "one that keeps what it gets, one that takes back, one that claims by a row": ([keeper, taker_back, claimer], 1, IN_TREE),
    "one that holds by a row, one that passes by, one that takes back": ([holder, passer, taker_back], 1, IN_TREE),
    "one that passes by, one that takes back, a fold, two kills": ([passer, taker_back, looker], 2, IN_TREE),
}
#: What may be done wrong, one at a time, and the meeting that shows what comes of it.
TRAPS = {
    "rows come behind the tree": "one that finds nothing, a put, one that keeps it, a fold",
    "opens what was not folded": "one that passes by, one that keeps what it gets, a fold",
    "the epoch stays": "two that pass by",
    "is open while it brings": "two that pass by",
    "lets go of C first": "one that passes by, one that claims by a row",
    "does not mind the horizon": "one that passes by, and a put that is last",
    "claims beside what is in the front": "one that passes by, one that claims by a row",
    "settles in another epoch": "one that passes by, one that keeps what it gets, a fold",
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_each_message_is_handed_out_once_in_line_and_none_is_lost(meeting: str) -> None:
    actors, kills, tree = MEETINGS[meeting]
    states, problem = explore(actors, "", kills, tree)
    print(f"{states} states")
    assert (problem, states > 500) == ("", True)


@pytest.mark.parametrize("trap", TRAPS)
def test_the_model_finds_what_comes_of(trap: str) -> None:
    actors, kills, tree = MEETINGS[TRAPS[trap]]
    assert explore(actors, trap, kills, tree)[1]
