"""Actors of a model: each is a generator that hands out one atomic step with each `yield` and gets its result. It is run again
from its results so far, so that states can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

Step = Generator[tuple[Any, ...], Any, None]
Actor = Callable[[str], Step]
#: What an actor has got so far: where he is.
Results = tuple[Any, ...]
#: In place of (state, result): the step cannot be made now.
BLOCKED = None


class Actors:
    """Those who meet. trap: what is left out, for the model to find what comes of it; "": nothing."""

    def __init__(self, actors: Sequence[Actor], trap: str) -> None:
        self._actors = actors
        self._trap = trap
        self._steps: dict[tuple[int, Results], Any] = {}

    def next_step(self, i: int, results: Results) -> Any:
        """(function, arguments behind state and actor); None when he is done."""
        known = self._steps.get((i, results), "?")
        if known == "?":
            run = self._actors[i](self._trap)
            try:
                known = next(run)
                for each in results:
                    known = run.send(each)
            except StopIteration:
                known = None
            self._steps[i, results] = known
        return known
