"""The bench (rule [32]) as a model: every interleaving of its atomic steps, with kills and timeouts, breadth first.

Messages are two numbers:
of those that were put under L (`ready`), and of those that a commit of the claims, without L, has made ready (`returned`).
What each step stores is seen by the next one: that `Sitting.sit` looks at the claims again is for processors that wait
longer, and is not in the model.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from model.actors import BLOCKED, Actor, Actors, Step


class State(NamedTuple):
    """rung, alive: per actor. bench: who sits, in order. L: who has the lock, or -1. kills, timeouts: how many may come."""

    ready: int
    returned: int
    rows: frozenset[int]
    bench: tuple[int, ...]
    lock: int
    rung: tuple[bool, ...]
    alive: tuple[bool, ...]
    asleep: frozenset[int]
    kills: int
    timeouts: int


#: What may be left out, one at a time; the model has to find what comes of it.
TRAPS = ("looks, then sits", "does not pass on", "passes on to rows only", "takes nobody else", "deaths wake nobody")


# ---------------------------------------------------------------------- atomic steps: (state, result), or BLOCKED
def _set(flags: tuple[bool, ...], i: int, to: bool) -> tuple[bool, ...]:
    return (*flags[:i], to, *flags[i + 1 :])


def lock(s: State, me: int) -> Any:
    return BLOCKED if s.lock >= 0 else (s._replace(lock=me), None)


def unlock(s: State, me: int) -> Any:
    return s._replace(lock=-1), None


def drain(s: State, me: int) -> Any:
    return s._replace(rung=_set(s.rung, me, False)), None


def sit(s: State, me: int) -> Any:
    return s._replace(bench=s.bench if me in s.bench else (*s.bench, me)), None


def get_up(s: State, me: int) -> Any:
    return s._replace(bench=tuple(each for each in s.bench if each != me)), None


def sits(s: State, me: int) -> Any:
    return s, me in s.bench


def register(s: State, me: int) -> Any:
    return s._replace(rows=s.rows | {me}), None


def leave_row(s: State, me: int) -> Any:
    return s._replace(rows=s.rows - {me}), None


def look(s: State, me: int) -> Any:
    return s, s.ready


def look_at_claims(s: State, me: int) -> Any:
    return s, s.returned


def take(s: State, me: int) -> Any:
    return (s._replace(ready=s.ready - 1), True) if s.ready else (s, False)


def take_returned(s: State, me: int) -> Any:
    return (s._replace(returned=s.returned - 1), True) if s.returned else (s, False)


def put(s: State, me: int, count: int) -> Any:
    return s._replace(ready=s.ready + count), None


def give_back(s: State, me: int) -> Any:
    return s._replace(returned=s.returned + 1), None


def choose(s: State, me: int) -> Any:
    return (s._replace(bench=s.bench[1:]), s.bench[0]) if s.bench else (s, -1)


def who_waits(s: State, me: int) -> Any:
    return s, [*sorted(s.rows), *s.bench]


def who_has_a_row(s: State, me: int) -> Any:
    return s, sorted(s.rows)


def ring(s: State, me: int, whom: int) -> Any:
    return (s._replace(rung=_set(s.rung, whom, True)), True) if s.alive[whom] else (s, False)


def sleep(s: State, me: int) -> Any:
    if s.rung[me]:
        return s._replace(asleep=s.asleep - {me}), True
    if me not in s.asleep:
        return s._replace(asleep=s.asleep | {me}), None
    return BLOCKED


# ---------------------------------------------------------------------- actors
def ring_one(trap: str, among: list[int]) -> Step:
    for whom in among:
        if (yield (ring, whom)):
            return


def call(trap: str, whom: int) -> Step:
    """Ring who was chosen; if he is gone, the next one."""
    while not (yield (ring, whom)):
        if trap == "takes nobody else":
            return
        yield (lock,)
        whom = yield (choose,)
        yield (unlock,)
        if whom < 0:
            return


def passer_by(trap: str) -> Step:
    """Passing.put."""
    yield (lock,)
    yield (put, 1)
    whom = yield (choose,)
    yield (unlock,)
    if whom >= 0:
        yield from call(trap, whom)
    yield from ring_one(trap, (yield (who_has_a_row,)))


def general(trap: str) -> Step:
    """Two messages in one commit of the log."""
    yield (lock,)
    yield (put, 2)
    yield (unlock,)
    yield from ring_one(trap, (yield (who_waits,)))


def releaser(trap: str) -> Step:
    """A change that is a commit of the claims, and does not take L."""
    yield (give_back,)
    yield from ring_one(trap, (yield (who_waits,)))


def attempt() -> Generator[tuple[Any, ...], Any, bool]:
    yield (lock,)
    found = yield (take,)
    yield (unlock,)
    return bool(found or (yield (take_returned,)))


def pass_on(trap: str) -> Step:
    if trap == "does not pass on":
        return
    yield (lock,)
    left = (yield (look,)) or (yield (look_at_claims,))
    whom = -1
    if left and trap != "passes on to rows only":
        whom = yield (choose,)
    yield (unlock,)
    if whom >= 0:
        yield from call(trap, whom)
    if left:
        yield from ring_one(trap, (yield (who_has_a_row,)))


def sitter(trap: str) -> Step:
    """Waiters._wait_on_bench and Sitting.sit, until he has one, or his time is over."""
    while True:
        yield (drain,)
        yield (lock,)
        if trap != "looks, then sits":
            yield (sit,)
        found = (yield (look_at_claims,)) or (yield (look,))
        if found:
            yield (get_up,)
        elif trap == "looks, then sits":
            yield (sit,)
        yield (unlock,)
        is_over = False
        while not found and not is_over:
            woken = yield (sleep,)
            is_over = woken == "timeout"
            if woken:
                break
        if (yield from attempt()) or is_over:
            break
    if (yield (sits,)):
        yield (lock,)
        yield (get_up,)
        yield (unlock,)
    yield from pass_on(trap)


def with_row(trap: str) -> Step:
    """Waiters.wait of one who has a row."""
    yield (register,)
    while True:
        yield (drain,)
        if (yield from attempt()):
            break
        woken = None
        while not woken:
            woken = yield (sleep,)
        if (yield from attempt()) or woken == "timeout":
            break
    yield (leave_row,)
    yield from pass_on(trap)


def explore(actors: list[Actor], trap: str = "", kills: int = 1, timeouts: int = 1, most: int = 400_000) -> tuple[int, str]:
    """(states, what is wrong in the first one that is wrong, or "")"""
    count = len(actors)
    next_step = Actors(actors, trap).next_step

    def frozen(result: Any) -> Any:
        return tuple(result) if isinstance(result, list) else result

    start = State(0, 0, frozenset(), (), -1, (False,) * count, (True,) * count, frozenset(), kills, timeouts)
    seen: set[Any] = set()
    frontier = [(start, ((),) * count)]
    while frontier:
        behind = []
        for s, locals_ in frontier:
            moved = False
            for i, results in enumerate(locals_):
                if not s.alive[i]:
                    continue
                step = next_step(i, results)
                if step is None:
                    continue
                nexts = []
                made = step[0](s, i, *step[1:])
                if made is not BLOCKED:
                    moved = True
                    nexts.append(((made[0], frozen(made[1])), True))
                elif step[0] is sleep and s.timeouts:
                    after = s._replace(timeouts=s.timeouts - 1, asleep=s.asleep - {i})
                    nexts.append(((after, "timeout"), True))
                if s.kills:
                    rung = s.rung if trap == "deaths wake nobody" else (True,) * count
                    free = -1 if s.lock == i else s.lock
                    dead = s._replace(alive=_set(s.alive, i, False), kills=s.kills - 1, lock=free, rung=rung, asleep=s.asleep - {i})
                    nexts.append(((dead, None), False))
                for (after, result), goes_on in nexts:
                    # a sleep that has only begun is not remembered: who looks again whether he is rung is where he was
                    stays = not goes_on or (step[0] is sleep and result is None)
                    mine = results if stays else (*results, result)
                    key = (after, (*locals_[:i], mine, *locals_[i + 1 :]))
                    if key not in seen:
                        seen.add(key)
                        behind.append(key)
            if not moved:
                sleeping = [i for i in s.asleep if s.alive[i]]
                if sleeping and s.ready + s.returned:
                    return len(seen), f"{sleeping} sleep beside {s.ready} + {s.returned} messages"
                if s.lock >= 0 and s.alive[s.lock]:
                    return len(seen), "nobody gives back the lock"
        frontier = behind
        if len(seen) > most:
            return len(seen), ""
    return len(seen), ""
