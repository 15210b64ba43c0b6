"""Messages that rows hold, and that are settled in the front (rule [34]), as a model: every interleaving, with kills.

Messages are numbers, in line by these: 1 and 2 are in the tree, 0 may be put, into the front. Claims are made by rows under C;
their cursor is the set of messages that were handed out once. What is not in the model: claims in the front itself, and flushes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from model.actors import BLOCKED, Actor, Step, killer, lock_l, unlock_c, unlock_l
from model.actors import explore as every_interleaving

PUT, REMOVED = "put", "removed"
FIRST, IN_TREE = 0, (1, 2)
#: What may be done wrong, one at a time; the model has to find what comes of it.
TRAPS = (
    "claims whatever is hidden",
    "opens the snapshot before C",
    "says it twice",
    "does not look at the row",
    "moves the end before the head",
    "rows go before the tree",
    "rows stay",
)


class State(NamedTuple):
    """rows: (message, holder). passed: handed out once. records: of the front, up to its head; end: of the removals that
    nothing else lies before. is_stored: the tree has taken these records over. settled: for good, whoever is killed. held: what each
    process was given; said: of which it remembers that it is removed. lock, claims_lock: who has L, or C, or -1. kills: how
    many may come.
    """

    tree: frozenset[int]
    rows: frozenset[tuple[int, int]]
    returned: frozenset[int]
    passed: frozenset[int]
    records: tuple[tuple[str, int], ...]
    end: int
    is_open: bool
    is_stored: bool
    settled: frozenset[int]
    held: frozenset[tuple[int, int]]
    said: frozenset[int]
    put: frozenset[int]
    lock: int
    claims_lock: int
    alive: tuple[bool, ...]
    kills: int
    wrong: str = ""


def _of(s: State, kind: str) -> frozenset[int]:
    return frozenset(message for each, message in s.records if each == kind)


def _folded(s: State) -> frozenset[int]:
    """What the tree has after the next fold."""
    return s.tree if s.is_stored else (s.tree | _of(s, PUT)) - _of(s, REMOVED)


def _gone(s: State, message: int) -> State:
    """It is settled; once."""
    if message in s.settled:
        return s._replace(wrong=f"{message} is settled twice")
    return s._replace(settled=s.settled | {message})


# ---------------------------------------------------------------------- atomic steps: (state, result), or BLOCKED
def lock_c(s: State, me: int) -> Any:
    """What was put by now, and is not in the tree."""
    return BLOCKED if s.claims_lock >= 0 else (s._replace(claims_lock=me), _of(s, PUT) - s.tree)


def end(s: State, me: int) -> Any:
    return s, s.end


def hides(s: State, me: int, end: int) -> Any:
    return s, len(s.records) not in (0, end)


def snapshot(s: State, me: int) -> Any:
    return s, s.tree


def claim(s: State, me: int, tree: frozenset[int], hidden: frozenset[int]) -> Any:
    """A row for what is first in line; hidden: what was put before C was held."""
    rows = dict(s.rows)
    for message in sorted(tree):
        if message not in rows and (message in s.returned or message not in s.passed):
            break
    else:
        return s, None
    if message in s.settled:
        return s._replace(wrong=f"{message} is handed out when it is settled"), None
    if any(other < message for other in hidden - tree):
        return s._replace(wrong=f"{message} is handed out before {min(hidden)}"), None
    made = s._replace(rows=s.rows | {(message, me)}, held=s.held | {(message, me)}, passed=s.passed | {message}, returned=s.returned - {message})
    return made, message


def held(s: State, me: int, holder: int) -> Any:
    """What that one was given, for another thread of its process."""
    found = [message for message, each in s.held if each == holder]
    return (s, found[0]) if found else BLOCKED


def was_said(s: State, me: int, message: int) -> Any:
    return s, message in s.said


def has_row(s: State, me: int, message: int, holder: int) -> Any:
    return s, (message, holder) in s.rows and message in s.tree


def is_open(s: State, me: int) -> Any:
    return s, s.is_open


def shut(s: State, me: int) -> Any:
    return s._replace(is_open=False), len(s.records)


def store(s: State, me: int) -> Any:
    return s._replace(tree=_folded(s), is_stored=True), None


def let_go(s: State, me: int) -> Any:
    removed = _of(s, REMOVED)
    return (s._replace(rows=frozenset(row for row in s.rows if row[0] not in removed)), None) if s.claims_lock < 0 else BLOCKED


def empty(s: State, me: int) -> Any:
    return s._replace(records=()), None


def open_front(s: State, me: int) -> Any:
    return s._replace(end=0, is_stored=False, is_open=True), None


def note_said(s: State, me: int, message: int) -> Any:
    return s._replace(said=s.said | {message}), None


def append(s: State, me: int, kind: str, message: int) -> Any:
    """Where it begins."""
    after = s._replace(records=(*s.records, (kind, message)))
    return (after._replace(put=s.put | {message}) if kind == PUT else _gone(after, message)), len(s.records)


def move_end(s: State, me: int, at: int) -> Any:
    return (s._replace(end=at + 1) if s.end == at else s), None


def head(s: State, me: int) -> Any:
    return s, len(s.records)


def remove(s: State, me: int, message: int, holder: int) -> Any:
    """By a commit of the tree; whether it was there, and held."""
    if message not in s.tree or (message, holder) not in s.rows:
        return s, False
    return _gone(s._replace(tree=s.tree - {message}), message), True


def drop(s: State, me: int, message: int, holder: int) -> Any:
    return s._replace(rows=s.rows - {(message, holder)}), None


def give_back(s: State, me: int) -> Any:
    """What the dead hold."""
    dead = frozenset(row for row in s.rows if not s.alive[row[1]])
    return s._replace(rows=s.rows - dead, returned=s.returned | {message for message, _ in dead if message in s.tree}), None


def revoke(s: State, me: int) -> Any:
    """All rows."""
    return s._replace(rows=frozenset(), returned=s.returned | ({message for message, _ in s.rows} & s.tree)), None


def forget(s: State, me: int) -> Any:
    return s._replace(passed=frozenset()), None


def is_anybody_dead(s: State, me: int) -> Any:
    return s, not all(s.alive)


# ---------------------------------------------------------------------- actors
Part = Generator[tuple[Any, ...], Any, Any]


def fold(trap: str) -> Part:
    """Under L: Front.fold."""
    if not (yield (shut,)):
        return
    if trap == "rows go before the tree":
        yield (let_go,)
    yield (store,)
    if trap not in ("rows go before the tree", "rows stay"):
        yield (let_go,)
    yield (empty,)


def enter(trap: str) -> Part:
    """Under L: it is open."""
    if not (yield (is_open,)):
        yield from fold(trap)
        yield (open_front,)


def claimed(trap: str) -> Part:
    """Seizing._claim_once."""
    before = (yield (snapshot,)) if trap == "opens the snapshot before C" else None
    hidden = yield (lock_c,)
    removals_end = yield (end,)
    is_alone = True
    if trap != "claims whatever is hidden" and (yield (hides, removals_end)):
        is_alone = False
        yield (unlock_c,)
        yield (lock_l,)
        yield from fold(trap)
        hidden = yield (lock_c,)
    tree = before if before is not None else (yield (snapshot,))
    message = yield (claim, tree, hidden)
    yield (unlock_c,)
    if not is_alone:
        yield (unlock_l,)
    return message


def settled(trap: str, message: int, holder: int) -> Part:
    """Settling.ack, Passing.remove."""
    known = yield (was_said, message)
    yield (lock_l,)
    yield from enter(trap)
    if trap != "says it twice":
        known = yield (was_said, message)
    if not known and (trap == "does not look at the row" or (yield (has_row, message, holder))):
        yield (note_said, message)
        if trap == "moves the end before the head":
            yield (move_end, (yield (head,)))
            yield (append, REMOVED, message)
        else:
            yield (move_end, (yield (append, REMOVED, message)))
        yield (unlock_l,)
        return
    yield from fold(trap)
    was_there = yield (remove, message, holder)
    yield (unlock_l,)
    if was_there:
        yield (lock_c,)
        yield (drop, message, holder)
        yield (unlock_c,)


def consumer(me: int) -> Actor:
    """Claims one, and settles it."""

    def act(trap: str) -> Step:
        message = yield from claimed(trap)
        if message is not None:
            yield from settled(trap, message, me)

    return act


def claimer(trap: str) -> Step:
    """Claims one, and keeps it."""
    yield from claimed(trap)


def second_thread(holder: int) -> Actor:
    """Settles what its process holds, too."""

    def act(trap: str) -> Step:
        yield from settled(trap, (yield (held, holder)), holder)

    return act


def putter(trap: str) -> Step:
    yield (lock_l,)
    yield from enter(trap)
    yield (append, PUT, FIRST)
    yield (unlock_l,)


def looker(trap: str) -> Step:
    yield (lock_l,)
    yield from fold(trap)
    yield (unlock_l,)


def forgetter(trap: str) -> Step:
    """Cursors are forgotten under C."""
    yield (lock_c,)
    yield (forget,)
    yield (unlock_c,)


def taker_back(trap: str) -> Step:
    """TakeBack.take_back, when somebody has died; it forgets cursors, too."""
    if (yield (is_anybody_dead,)):
        yield (lock_l,)
        yield from fold(trap)
        yield (lock_c,)
        yield (give_back,)
        yield (forget,)
        yield (unlock_c,)
        yield (unlock_l,)


def reviser(trap: str) -> Step:
    """Revokes claims that have timed out."""
    yield (lock_l,)
    yield from fold(trap)
    yield (lock_c,)
    yield (revoke,)
    yield (unlock_c,)
    yield (unlock_l,)


# ---------------------------------------------------------------------- all of it
def _left(s: State) -> str:
    """What is wrong when nobody goes on."""
    if (s.lock >= 0 and s.alive[s.lock]) or (s.claims_lock >= 0 and s.alive[s.claims_lock]):
        return "nobody gives back a lock"
    tree = _folded(s)
    if tree & s.settled or tree | s.settled != {*IN_TREE} | s.put:
        return f"{sorted(tree)} are left, {sorted(s.settled)} were settled"
    rows = {message: holder for message, holder in s.rows if message not in _of(s, REMOVED)}
    left = [message for message, holder in rows.items() if message not in tree and s.alive[holder]]
    if left:
        return f"rows of {left} are left"
    lost = [message for message in tree if message not in rows and message in s.passed and message not in s.returned]
    return f"nobody gets {lost}" if lost else ""


def explore(actors: Sequence[Actor], processes: Sequence[int], trap: str = "", kills: int = 1) -> tuple[int, str]:
    """(states, what is wrong in the first one that is wrong, or ""). processes: of which actor that is, by the number of another."""

    tree = frozenset(IN_TREE)
    nothing: frozenset[Any] = frozenset()
    start = State(tree, nothing, nothing, nothing, (), 0, False, False, nothing, nothing, nothing, nothing, -1, -1, (True,) * len(actors), kills)
    return every_interleaving(actors, trap, start, killer(processes), _left, may_wait=(held,))
