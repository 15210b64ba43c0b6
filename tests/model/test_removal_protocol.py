"""What rows hold is settled in the front, once and for good, whatever comes in between: as a model (removal_protocol.py)."""

from __future__ import annotations

import pytest
from model.actors import Actor
from model.removal_protocol import (
    TRAPS,
    claimer,
    consumer,
    explore,
    forgetter,
    looker,
    putter,
    reviser,
    second_thread,
    taker_back,
)

#: Who meets, of which process each is, how many are killed.
MEETINGS: dict[str, tuple[list[Actor], tuple[int, ...], int]] = {
    "two that settle": ([consumer(0), consumer(1)], (0, 1), 1),
    "two that settle, and a put": ([consumer(0), consumer(1), putter], (0, 1, 2), 1),
    "one that settles, one that claims, a put": ([consumer(0), claimer, putter], (0, 1, 2), 1),
    "one that settles, one that claims, a fold": ([consumer(0), claimer, looker], (0, 1, 2), 1),
    "one that settles, one that claims, cursors are forgotten": ([consumer(0), claimer, forgetter], (0, 1, 2), 1),
    "the same, and a fold": ([consumer(0), claimer, looker, forgetter], (0, 1, 2, 3), 0),
    "two that settle, and their claims are revoked": ([consumer(0), consumer(1), reviser], (0, 1, 2), 1),
    "two threads that settle the same": ([consumer(0), second_thread(0), looker], (0, 0, 1), 1),
    "one that settles, one that takes back": ([consumer(0), claimer, taker_back], (0, 1, 2), 1),
    "one that settles, one that takes back, a fold, two kills": ([consumer(0), taker_back, looker], (0, 1, 2), 2),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_a_message_is_settled_once_and_handed_out_to_nobody_then(meeting: str) -> None:
    actors, processes, kills = MEETINGS[meeting]
    states, problem = explore(actors, processes, "", kills)
    print(f"{states} states")
    assert (problem, states > 500) == ("", True)


@pytest.mark.parametrize("trap", TRAPS)
def test_the_model_finds_what_comes_of(trap: str) -> None:
    assert any(explore(actors, processes, trap, kills)[1] for actors, processes, kills in MEETINGS.values())
