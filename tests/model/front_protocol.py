"""Messages that pass by, and others that look at the tree (rules [29] to [31]), as a model: every interleaving, with kills.

Messages are numbers, in line by these: 1 and 2 are in the tree at first, or none is; those that are put come behind them, in their rank, or
are 0, of a higher one. What is not in the model: counters, flushes (flush_protocol.py), removals (removal_protocol.py), who waits, and several queues.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from model.actors import BLOCKED, Actor, Step, killer, lock_l, unlock_c, unlock_l
from model.actors import explore as every_interleaving

READY, CLAIMED, DONE = "ready", "claimed", "done"
FIRST, IN_TREE = 0, frozenset({1, 2})
ENDLESS = 99


class Record(NamedTuple):
    """is_put: its message is not in the tree. holder: the actor who has claimed it."""

    message: int
    is_put: bool
    state: str = READY
    holder: int = -1


class State(NamedTuple):
    """tree, folded: its messages, the epoch that it has taken over. rows: (message, holder); passed: what a cursor has passed;
    returned; taken_over: the epoch whose claims are rows. records, head, horizon, is_open, epoch: of the front. held: (message, actor),
    what users were given; settled, put: for good; at_first: in the tree. lock, claims_lock: who has L, or C, or -1. kills: how many may come.
    """

    tree: frozenset[int]
    folded: int
    rows: frozenset[tuple[int, int]]
    passed: frozenset[int]
    returned: frozenset[int]
    taken_over: int
    records: tuple[Record, ...]
    head: int
    horizon: int
    is_open: bool
    epoch: int
    held: frozenset[tuple[int, int]]
    settled: frozenset[int]
    put: frozenset[int]
    at_first: frozenset[int]
    lock: int
    claims_lock: int
    alive: tuple[bool, ...]
    kills: int
    wrong: str = ""


def _here(s: State) -> tuple[Record, ...]:
    return s.records[: s.head]


def _folded(s: State) -> frozenset[int]:
    """What the tree has after the next fold."""
    if s.folded >= s.epoch:
        return s.tree
    came = {record.message for record in _here(s) if record.is_put and record.state != DONE}
    return (s.tree | came) - {record.message for record in _here(s) if not record.is_put and record.state == DONE}


def _with_rows(s: State) -> tuple[frozenset[tuple[int, int]], frozenset[int]]:
    """(rows, passed) after the next fold."""
    if s.taken_over >= s.epoch:
        return s.rows, s.passed
    out = [record for record in _here(s) if record.state != READY]
    return s.rows | {(record.message, record.holder) for record in out if record.state == CLAIMED}, _behind(s.passed, [record.message for record in out])


def _behind(passed: frozenset[int], messages: Sequence[int]) -> frozenset[int]:
    """The cursors, moved behind these."""
    return passed.union(*(range(1, message + 1) if message else [FIRST] for message in messages))


def _given(s: State, me: int, message: int) -> State:
    """A user gets it."""
    if message in s.settled:
        return s._replace(wrong=f"{message} is handed out when it is settled")
    if any(each == message and s.alive[holder] for each, holder in s.held):
        return s._replace(wrong=f"{message} is handed out twice")
    return s._replace(held=s.held | {(message, me)})


def _gone(s: State, me: int, message: int) -> State:
    if message in s.settled:
        return s._replace(wrong=f"{message} is settled twice")
    return s._replace(settled=s.settled | {message}, held=s.held - {(message, me)})


# ---------------------------------------------------------------------- atomic steps: (state, result), or BLOCKED
def lock_c(s: State, me: int) -> Any:
    """What was put by now."""
    return BLOCKED if s.claims_lock >= 0 else (s._replace(claims_lock=me), s.put)


def read(s: State, me: int, word: str) -> Any:
    return s, getattr(s, word)


def write(s: State, me: int, word: str, value: Any) -> Any:
    """One word."""
    return s._replace(**{word: value}), None


def snapshot(s: State, me: int) -> Any:
    return s, s.tree


def append(s: State, me: int, record: Record) -> Any:
    """Behind the head, which does not move yet."""
    return s._replace(records=(*_here(s), record)), None


def move_head(s: State, me: int) -> Any:
    """What is put is so from now on."""
    [*_, last] = s.records
    return s._replace(head=s.head + 1, put=s.put | {last.message} if last.is_put else s.put), None


def first_here(s: State, me: int, horizon: int) -> Any:
    """Where that is which is first in line in the front; None where nothing is, or the tree is to be asked first."""
    ready = sorted((record.message, at) for at, record in enumerate(_here(s)) if record.state == READY)
    return s, ready[0][1] if ready and ready[0][0] <= horizon else None


def next_of_tree(s: State, me: int, tree: frozenset[int], horizon: int) -> Any:
    """Under C: what comes next of it behind cursors and horizon, or ENDLESS; None where rows or what was returned have a say."""
    rows = {message for message, _ in s.rows}
    if s.returned or rows - s.passed:
        return s, None
    return s, min((message for message in tree - s.passed if message > horizon), default=ENDLESS)


def claim_here(s: State, me: int, at: int, put: frozenset[int]) -> Any:
    """put: before L was held."""
    message = s.records[at].message
    earlier = {each for each in (put | s.at_first) - s.settled if each < message} - {each for each, _ in s.held} - {each for each, _ in s.rows}
    after = s._replace(records=(*s.records[:at], s.records[at]._replace(state=CLAIMED, holder=me), *s.records[at + 1 :]))
    after = after._replace(wrong=f"{message} is handed out before {min(earlier)}") if earlier else after
    return _given(after, me, message), message


def claim_by_row(s: State, me: int, tree: frozenset[int], put: frozenset[int]) -> Any:
    """A row for what is first in line; put: before C was held."""
    rows = dict(s.rows)
    for message in sorted(tree):
        if message not in rows and (message in s.returned or message not in s.passed):
            break
    else:
        return s, None
    if earlier := {each for each in put - s.settled - tree if each < message} - {each for each, _ in s.held}:
        return s._replace(wrong=f"{message} is handed out before {min(earlier)}"), None
    after = s._replace(rows=s.rows | {(message, me)}, passed=_behind(s.passed, [message]), returned=s.returned - {message})
    return _given(after, me, message), message


def is_held_here(s: State, me: int, at: int, message: int) -> Any:
    return s, at < s.head and s.records[at] == Record(message, s.records[at].is_put, CLAIMED, me)


def finish(s: State, me: int, at: int) -> Any:
    record = s.records[at]
    after = s._replace(records=(*s.records[:at], record._replace(state=DONE), *s.records[at + 1 :]))
    return _gone(after, me, record.message), None


def take_over(s: State, me: int) -> Any:
    """A commit of the claims."""
    if s.claims_lock >= 0:
        return BLOCKED
    rows, passed = _with_rows(s)
    return s._replace(rows=rows, passed=passed, taken_over=s.epoch), None


def store(s: State, me: int) -> Any:
    """A commit of the tree."""
    return s._replace(tree=_folded(s), folded=s.epoch), None


def remove(s: State, me: int, message: int) -> Any:
    """By a commit of the tree; whether it was there, and held."""
    if message not in s.tree or (message, me) not in s.rows:
        return s, False
    return _gone(s._replace(tree=s.tree - {message}), me, message), True


def drop(s: State, me: int, message: int) -> Any:
    return s._replace(rows=s.rows - {(message, me)}), None


def give_back(s: State, me: int, message: int) -> Any:
    """Its row goes, and it is returned; if it was there."""
    if (message, me) not in s.rows:
        return s, None
    return s._replace(rows=s.rows - {(message, me)}, returned=s.returned | {message}, held=s.held - {(message, me)}), None


def take_back(s: State, me: int) -> Any:
    """What the dead hold."""
    dead = frozenset(row for row in s.rows if not s.alive[row[1]])
    return s._replace(rows=s.rows - dead, returned=s.returned | {message for message, _ in dead if message in s.tree}), None


def is_anybody_dead(s: State, me: int) -> Any:
    return s, not all(s.alive)


# ---------------------------------------------------------------------- actors
Part = Generator[tuple[Any, ...], Any, Any]


def fold(trap: str) -> Part:
    """Under L: Front.fold."""
    yield (write, "is_open", False)
    if not (yield (read, "head")):
        return
    if trap == "rows come behind the tree":
        yield (store,)
        yield (take_over,)
    else:
        yield (take_over,)
        yield (store,)
    yield (write, "head", 0)


def enter(trap: str) -> Part:
    """Under L: Front.enter."""
    if (yield (read, "is_open")):
        return
    if trap != "opens what was not folded":
        yield from fold(trap)
    if trap != "the epoch stays":
        yield (write, "epoch", (yield (read, "epoch")) + 1)
    yield (write, "horizon", -1)
    yield (write, "is_open", True)


def bring(trap: str) -> Part:
    """Under L: Looking._bring; whether the line may be looked at again."""
    if trap != "is open while it brings":
        yield (write, "is_open", False)
    horizon = yield (read, "horizon")
    yield (lock_c,)
    tree = yield (snapshot,)
    found = yield (next_of_tree, tree, horizon)
    if trap == "lets go of C first":
        yield (unlock_c,)
    if found is not None:
        yield (write, "horizon", found)
        if found != ENDLESS:
            yield (append, Record(found, is_put=False))
            yield (move_head,)
    if trap != "lets go of C first":
        yield (unlock_c,)
    if trap != "is open while it brings":
        yield (write, "is_open", True)
    return found is not None


def claimed_here(trap: str) -> Part:
    """Passing.claim: (message, where, epoch); None where there is none, or the general way is to be taken."""
    yield (lock_l,)
    put = yield (read, "put")
    yield from enter(trap)
    for _ in range(2):
        if (yield (read, "returned")):
            break
        horizon = (yield (read, "horizon")) if trap != "does not mind the horizon" else ENDLESS
        at = yield (first_here, horizon)
        if at is not None:
            message = yield (claim_here, at, put)
            epoch = yield (read, "epoch")
            yield (unlock_l,)
            return message, at, epoch
        if horizon == ENDLESS or not (yield from bring(trap)):
            break
    yield (unlock_l,)
    return None


def claimed_by_row(trap: str) -> Part:
    """Seizing._claim_once."""
    put = yield (lock_c,)
    is_alone = True
    if trap != "claims beside what is in the front" and (yield (read, "head")):
        is_alone = False
        yield (unlock_c,)
        yield (lock_l,)
        yield from fold(trap)
        put = yield (lock_c,)
    message = yield (claim_by_row, (yield (snapshot,)), put)
    yield (unlock_c,)
    if not is_alone:
        yield (unlock_l,)
    return message


def settled(trap: str, message: int) -> Part:
    """The general way: a commit of the tree, then the row goes."""
    yield (lock_l,)
    yield from fold(trap)
    was_there = yield (remove, message)
    yield (unlock_l,)
    if was_there:
        yield (lock_c,)
        yield (drop, message)
        yield (unlock_c,)


def settled_here(trap: str, message: int, at: int, epoch: int) -> Part:
    """Passing.settle."""
    yield (lock_l,)
    is_open, now = (yield (read, "is_open")), (yield (read, "epoch"))
    if is_open and (trap == "settles in another epoch" or (now == epoch and (yield (is_held_here, at, message)))):
        yield (finish, at)
        yield (unlock_l,)
        return
    yield (unlock_l,)
    yield from settled(trap, message)


def passer(trap: str) -> Step:
    """Claims one in the front, and settles it."""
    found = yield from claimed_here(trap)
    if found is None:
        message = yield from claimed_by_row(trap)
        if message is not None:
            yield from settled(trap, message)
    else:
        yield from settled_here(trap, *found)


def keeper(trap: str) -> Step:
    """Claims one in the front, and keeps it."""
    yield from claimed_here(trap)


def giver(me: int) -> Actor:
    """Claims one in the front, and gives it back."""

    def act(trap: str) -> Step:
        found = yield from claimed_here(trap)
        if found is not None:
            yield (lock_l,)
            yield from fold(trap)
            yield (lock_c,)
            yield (give_back, found[0])
            yield (unlock_c,)
            yield (unlock_l,)

    return act


def claimer(trap: str) -> Step:
    """Claims one by a row, and settles it."""
    message = yield from claimed_by_row(trap)
    if message is not None:
        yield from settled(trap, message)


def holder(trap: str) -> Step:
    """Claims one by a row, and keeps it."""
    yield from claimed_by_row(trap)


def putter(message: int) -> Actor:
    """Passing.put."""

    def act(trap: str) -> Step:
        yield (lock_l,)
        yield from enter(trap)
        yield (append, Record(message, is_put=True))
        yield (move_head,)
        yield (unlock_l,)

    return act


def looker(trap: str) -> Step:
    yield (lock_l,)
    yield from fold(trap)
    yield (unlock_l,)


def taker_back(trap: str) -> Step:
    """TakeBack.take_back, when somebody has died; it forgets cursors, too."""
    if (yield (is_anybody_dead,)):
        yield (lock_l,)
        yield from fold(trap)
        yield (lock_c,)
        yield (take_back,)
        yield (write, "passed", frozenset())
        yield (write, "returned", frozenset())
        yield (unlock_c,)
        yield (unlock_l,)


# ---------------------------------------------------------------------- all of it
def _left(s: State) -> str:
    """What is wrong when nobody goes on."""
    if (s.lock >= 0 and s.alive[s.lock]) or (s.claims_lock >= 0 and s.alive[s.claims_lock]):
        return "nobody gives back a lock"
    tree, (rows, passed) = _folded(s), _with_rows(s)
    if tree & s.settled or tree | s.settled != s.at_first | s.put:
        return f"{sorted(tree)} are left, {sorted(s.settled)} were settled"
    of = dict(rows)
    if unheld := [message for message, holder in s.held if s.alive[holder] and of.get(message) != holder]:
        return f"{unheld} are held without a row"
    if left := [message for message, holder in rows if message not in tree and s.alive[holder]]:
        return f"rows of {left} are left"
    lost = [message for message in tree if message not in of and message in passed and message not in s.returned]
    return f"nobody gets {lost}" if lost else ""


def explore(actors: Sequence[Actor], trap: str = "", kills: int = 1, tree: frozenset[int] = IN_TREE) -> tuple[int, str]:
    """(states, what is wrong in the first one that is wrong, or ""). Each actor is a process. tree: at first."""

    nothing = frozenset[Any]()
    start = State(
        tree=tree,
        folded=0,
        rows=nothing,
        passed=nothing,
        returned=nothing,
        taken_over=0,
        records=(),
        head=0,
        horizon=-1,
        is_open=False,
        epoch=0,
        held=nothing,
        settled=nothing,
        put=nothing,
        at_first=tree,
        lock=-1,
        claims_lock=-1,
        alive=(True,) * len(actors),
        kills=kills,
    )
    return every_interleaving(actors, trap, start, killer(range(len(actors))), _left)
