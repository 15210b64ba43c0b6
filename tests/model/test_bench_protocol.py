"""Nobody sleeps beside a message, whatever comes in between: the bench as a model (bench_protocol.py)."""

from __future__ import annotations

import pytest
from model.actors import Actor
from model.bench_protocol import TRAPS, explore, general, passer_by, releaser, sitter, with_row

#: Who meets, how many are killed, how many waits are over before a ring.
MEETINGS: dict[str, tuple[list[Actor], int, int]] = {
    "one that waits, one that puts": ([sitter, passer_by], 1, 1),
    "two that wait": ([sitter, sitter, passer_by], 0, 1),
    "two that wait, and a kill": ([sitter, sitter, passer_by], 1, 0),
    "two puts": ([sitter, sitter, passer_by, passer_by], 0, 0),
    "two messages in one commit": ([sitter, sitter, general], 0, 1),
    "a commit of the claims": ([sitter, sitter, releaser], 0, 1),
    "a row, two messages": ([sitter, with_row, general], 0, 0),
    "a row": ([sitter, with_row, passer_by], 0, 1),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_nobody_sleeps_beside_a_message(meeting: str) -> None:
    actors, kills, timeouts = MEETINGS[meeting]
    states, problem = explore(actors, "", kills, timeouts)
    assert (problem, states > 500) == ("", True)


@pytest.mark.parametrize("trap", TRAPS)
def test_the_model_finds_what_comes_of(trap: str) -> None:
    assert any(explore(actors, trap, kills, timeouts)[1] for actors, kills, timeouts in MEETINGS.values())
