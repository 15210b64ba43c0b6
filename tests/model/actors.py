"""Actors of a model: each is a generator that hands out one atomic step with each `yield` and gets its result. It is run again
from its results so far, so that states can be compared; so no step gives 0 where it may give False, which are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
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


def explore(
    actors: Sequence[Actor],
    trap: str,
    start: Any,
    killed: Callable[[Any, int], Any],
    left: Callable[[Any], str],
    may_wait: Sequence[Callable[..., Any]] = (),
    most: int = 600_000,
) -> tuple[int, str]:
    """Every interleaving: (states, what is wrong in the first one that is wrong, or "").

    A state has `alive`, for each actor, and `wrong`. A step gives BLOCKED, (state, result), or a list of these where one of several
    things may happen. killed: what is when the process of that actor is killed now; None where it is not. left: what is wrong when
    nobody goes on; it is wrong, too, that anybody waits then, but with a step of `may_wait`.
    """
    next_step = Actors(actors, trap).next_step

    def behind(s: Any, locals_: tuple[Results, ...], i: int, step: Any) -> Iterator[tuple[Any, tuple[Results, ...]]]:
        made = step[0](s, i, *step[1:])
        if made is not BLOCKED:
            for after, result in made if isinstance(made, list) else [made]:
                yield after, (*locals_[:i], (*locals_[i], result), *locals_[i + 1 :])

    seen = {(start, ((),) * len(actors))}
    frontier = list(seen)
    while frontier:
        found = []
        for s, locals_ in frontier:
            if s.wrong:
                return len(seen), s.wrong
            moved, waits = False, False
            for i, results in enumerate(locals_):
                step = next_step(i, results) if s.alive[i] else None
                if step is None:
                    continue
                nexts = list(behind(s, locals_, i, step))
                moved = moved or bool(nexts)
                waits = waits or not (nexts or step[0] in may_wait)
                dead = killed(s, i)
                if dead is not None:
                    nexts.append((dead, locals_))
                for key in nexts:
                    if key not in seen:
                        seen.add(key)
                        found.append(key)
            if not moved and (problem := left(s) or ("somebody waits for ever" if waits else "")):
                return len(seen), problem
        frontier = found
        assert len(seen) <= most, "that is not explored to the end"
    return len(seen), ""


# ---------------------------------------------------------------------- locks, and who dies with them
def lock_l(s: Any, me: int) -> Any:
    """The log's write lock."""
    return BLOCKED if s.lock >= 0 else (s._replace(lock=me), None)


def unlock_l(s: Any, me: int) -> Any:
    """Who has it lets go."""
    return s._replace(lock=-1), None


def unlock_c(s: Any, me: int) -> Any:
    """The claims' write lock; what is seen when it is taken is the model's."""
    return s._replace(claims_lock=-1), None


def killer(processes: Sequence[int]) -> Callable[[Any, int], Any]:
    """`killed` of `explore`, as often as `kills` says: all actors of a process die, and the kernel lets go of their locks."""

    def killed(s: Any, i: int) -> Any:
        if not s.kills:
            return None
        alive = tuple(was and processes[j] != processes[i] for j, was in enumerate(s.alive))
        held = {name: getattr(s, name) for name in ("lock", "claims_lock") if hasattr(s, name)}
        return s._replace(alive=alive, kills=s.kills - 1, **{name: -1 if at >= 0 and not alive[at] else at for name, at in held.items()})

    return killed
