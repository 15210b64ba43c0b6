"""One flush for all who passed by (rule [33]), as a model: every interleaving, with kills, one flush that fails, and a power cut at
each moment.

Messages are numbers, as their seqs are: 1 is in the tree at first, the next ones are put. A power cut may leave of each record, and
of the two words of the header that count, whatever was there since the last flush that was over, and of a record that was written
also half of it, or its value as it was before under a new header. What is not in the model: who is woken (a wait ends when it may),
rows, and queues.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

from model.actors import BLOCKED, Actor, Step, killer, lock_l, unlock_l
from model.actors import explore as every_interleaving

FIRST, PLACES, ALL = 1, 2, 99
READY, DONE, HALF = "ready", "done", "half of it"


class Content(NamedTuple):
    """A record. is_put: its message is not in the tree."""

    epoch: int
    message: int
    state: str
    is_put: bool


class State(NamedTuple):
    """epoch to lost_head: words of the front, and its records. tree, folded, last: of the tree, which is on the disk: its messages, the
    epoch that it has taken over, the last seq. maybe: of epoch, head and each record, what a power cut may leave. flights: of each actor who
    is flushing, what of `maybe` is left if that succeeds. owed: descriptors, (process, which), that have an error to tell; dropped: of `maybe`,
    what the kernel was to write and has forgotten, until it is written anew. stored, gone_for_good: told so. refused, kept: told the opposite. asked: whose settlement has begun.
    lock: who has L, or -1; leading: processes in which somebody flushes; fails: flushes that may fail.
    """

    epoch: int
    is_open: bool
    records: tuple[Content | None, ...]
    head: int
    gone: int
    flushed: int
    flushed_gone: int
    failed: bool
    lost: int
    lost_head: int
    seq: int
    tree: frozenset[int]
    folded: int
    last: int
    maybe: tuple[frozenset[Any], ...]
    flights: tuple[tuple[frozenset[Any], ...] | None, ...]
    owed: frozenset[tuple[int, int]]
    dropped: frozenset[int]
    stored: frozenset[int]
    refused: frozenset[int]
    gone_for_good: frozenset[int]
    kept: frozenset[int]
    asked: frozenset[int]
    lock: int
    leading: frozenset[int]
    alive: tuple[bool, ...]
    kills: int
    fails: int
    wrong: str = ""


_EPOCH, _HEAD, _RECORDS = 0, 1, 2


def _written(s: State, item: int, values: Iterable[Any]) -> State:
    """A power cut may leave these, too."""

    def more(sets: tuple[frozenset[Any], ...]) -> tuple[frozenset[Any], ...]:
        return (*sets[:item], sets[item] | set(values), *sets[item + 1 :])

    return s._replace(maybe=more(s.maybe), flights=tuple(each and more(each) for each in s.flights))


def _again(s: State, items: Iterable[int]) -> State:
    """The kernel is to write these, with all that is on their page."""
    return s._replace(dropped=s.dropped - set(items))


# ---------------------------------------------------------------------- what is left
@functools.cache
def _recalled(maybe: tuple[frozenset[Any], ...], folded: int, last: int) -> frozenset[tuple[frozenset[int], frozenset[int]]]:
    """(messages that are stored again, messages of the tree that go), of all that a power cut may leave: recalling.recalled."""
    found = set()
    for epoch, head, *records in product(*maybe):
        stored, gone, last_seq = set(), set(), last
        for record in records[:head] if epoch > folded else ():
            if record is None or record == HALF or record.epoch != epoch or (record.is_put and record.message <= last_seq):
                break
            if record.is_put:
                last_seq = record.message
                stored.update({record.message} if record.state == READY else ())
            elif record.state == DONE:
                gone.add(record.message)
        found.add((frozenset(stored), frozenset(gone)))
    return frozenset(found)


def _checked(s: State) -> State:
    """With what a power cut would do now."""
    for stored, gone in _recalled(s.maybe, s.folded, s.last):
        tree = (s.tree | stored) - gone
        if lost := (s.stored | {FIRST}) - s.asked - tree:
            return s._replace(wrong=f"a power cut loses {sorted(lost)}")
        if back := s.gone_for_good & tree:
            return s._replace(wrong=f"a power cut brings back {sorted(back)}")
    return s


def _folded(s: State) -> frozenset[int]:
    """The tree after the next fold, where no power cut came."""
    if s.folded >= s.epoch:
        return s.tree
    records = [record for record in s.records[: s.head] if record is not None]
    put = {record.message for record in records if record.is_put and record.state == READY}
    return (s.tree | put) - {record.message for record in records if not record.is_put and record.state == DONE}


def _left(s: State) -> str:
    """What is wrong when nobody goes on."""
    if s.lock >= 0 and s.alive[s.lock]:
        return "nobody gives back the lock"
    if s.failed:  # the next fold gives up first
        s = s._replace(head=min(s.head, s.lost_head if s.lost else s.flushed))
    tree = _folded(s)
    for what, messages in (
        ("stored, and is not there", (s.stored | {FIRST}) - s.asked - tree),
        ("not stored, and is there", s.refused & tree),
        ("gone, and is there", s.gone_for_good & tree),
        ("not settled, and is gone", s.kept - tree),
    ):
        if messages:
            return f"{sorted(messages)} was said to be {what}"
    return ""


# ---------------------------------------------------------------------- atomic steps: (state, result), or BLOCKED
def read(s: State, me: int, word: str) -> Any:
    return s, getattr(s, word)


def write(s: State, me: int, word: str, value: Any) -> Any:
    """One word."""
    after = s._replace(**{word: value})
    item = {"epoch": _EPOCH, "head": _HEAD}.get(word)
    return _checked(after if item is None else _again(_written(after, item, [value]), (_EPOCH, _HEAD))), None


def write_record(s: State, me: int, message: int | None) -> Any:
    """Behind the head; a new one, or one of the tree."""
    number = s.seq + 1 if message is None else message
    content = Content(s.epoch, number, READY, message is None)
    at = s.head
    olds = [content._replace(message=old.message) for old in s.maybe[_RECORDS + at] if isinstance(old, Content)]
    after = s._replace(records=(*s.records[:at], content, *s.records[at + 1 :]), seq=max(s.seq, number))
    return _checked(_again(_written(after, _RECORDS + at, [content, HALF, *olds]), [_RECORDS + at])), number


def first(s: State, me: int, until: int) -> Any:
    """Where the first one is that nobody has; None where there is none."""
    found = [at for at in range(min(s.head, until)) if s.records[at] is not None and s.records[at].state == READY]  # type: ignore[union-attr]
    return s, found[0] if found else None


def set_state(s: State, me: int, at: int, state: str) -> Any:
    """Of a record; its message."""
    record = s.records[at]
    assert record is not None
    changed = [each._replace(state=state) for each in s.maybe[_RECORDS + at] if isinstance(each, Content) and each.epoch == record.epoch]
    after = s._replace(records=(*s.records[:at], record._replace(state=state), *s.records[at + 1 :]), asked=s.asked | {record.message})
    return _checked(_written(after, _RECORDS + at, changed)), record.message


def has(s: State, me: int, epoch: int) -> Any:
    return s, s.epoch == epoch and s.head > 0 and s.folded < epoch


def store(s: State, me: int) -> Any:
    """A commit of the tree takes all of it over, once."""
    return _checked(s._replace(tree=_folded(s), folded=max(s.folded, s.epoch), last=s.seq)), None


def is_tree_message(s: State, me: int, message: int) -> Any:
    return s, message in s.tree


def take_lead(s: State, me: int, process: int, word: str, number: int, epoch: int) -> Any:
    """False where it is over; who flushes already is waited for."""
    if getattr(s, word) >= number or s.epoch != epoch or s.lost:
        return s, False
    return BLOCKED if process in s.leading else (s._replace(leading=s.leading | {process}), True)


def leave_lead(s: State, me: int, process: int) -> Any:
    return s._replace(leading=s.leading - {process}), None


def begin_flush(s: State, me: int) -> Any:
    now = (frozenset({s.epoch}), frozenset({s.head}), *(frozenset({record}) for record in s.records))
    return s._replace(flights=(*s.flights[:me], now, *s.flights[me + 1 :])), None


def end_flush(s: State, me: int, process: int, which: int) -> Any:
    """Whether it succeeded. What fails is told once by each descriptor, and forgotten."""
    flight = s.flights[me]
    over = s._replace(flights=(*s.flights[:me], None, *s.flights[me + 1 :]))
    if (process, which) in s.owed:
        return over._replace(owed=s.owed - {(process, which)}), False
    assert flight is not None
    left = tuple(may if item in s.dropped else may & found for item, (may, found) in enumerate(zip(s.maybe, flight, strict=True)))
    done = [(over._replace(maybe=left), True)]
    if s.fails:
        everybody = {(other, each) for other in range(len(s.alive)) for each in (0, 1)}
        dirty = frozenset(item for item, may in enumerate(s.maybe) if len(may) > 1)
        done.append((over._replace(fails=s.fails - 1, dropped=dirty, owed=frozenset(everybody - {(process, which)})), False))
    return done


def open_descriptors(s: State, me: int, process: int) -> Any:
    """They tell of what fails from now on."""
    return s._replace(owed=s.owed - {(process, 0), (process, 1)}), None


def tell(s: State, me: int, what: str, message: int) -> Any:
    """The user is told."""
    return _checked(s._replace(**{what: getattr(s, what) | {message}})), None


# ---------------------------------------------------------------------- actors
Part = Generator[tuple[Any, ...], Any, Any]


def give_up(trap: str) -> Part:
    """Under L: Flushes.give_up."""
    yield (write, "is_open", False)
    if not (yield (read, "lost")):
        epoch, flushed = (yield (read, "epoch")), (yield (read, "flushed"))
        if (yield (read, "folded")) >= epoch and trap != "gives up what the tree has":
            yield (write, "flushed", ALL)
            yield (write, "flushed_gone", (yield (read, "gone")))
            return
        if trap == "says it is lost before how much":
            yield (write, "lost", epoch)
            yield (write, "lost_head", flushed)
        else:
            yield (write, "lost_head", flushed)
            yield (write, "lost", epoch)
    lost_head = yield (read, "lost_head")
    if (yield (read, "head")) > lost_head and trap != "leaves the head where it was":
        yield (write, "head", lost_head)


def note(epoch: int, head: int, gone: int) -> Part:
    """Under L: Flushes._note."""
    if gone > (yield (read, "flushed_gone")):
        yield (write, "flushed_gone", gone)
    if epoch == (yield (read, "epoch")) and head > (yield (read, "flushed")):
        yield (write, "flushed", head)


def fold(trap: str) -> Part:
    """Under L: Front.fold."""
    yield (write, "is_open", False)
    if (yield (read, "failed")) and trap != "a fold does not give up":
        yield from give_up(trap)
    if (yield (read, "head")) == 0:
        return
    yield (store,)
    yield (write, "flushed", ALL)
    yield (write, "flushed_gone", (yield (read, "gone")))
    yield (write, "head", 0)


def enter(trap: str) -> Part:
    """Under L: Front.enter; whether it is open."""
    if (yield (read, "is_open")):
        return True
    if (yield (read, "failed")) and trap != "believes the next flush":
        return False
    yield from fold(trap)
    if (yield (read, "failed")) and trap not in ("believes the next flush", "opens when the fold gave up"):
        return False
    if trap != "the epoch goes on after a fold":
        yield (write, "epoch", (yield (read, "epoch")) + 1)
    yield (write, "flushed", 0)
    yield (write, "is_open", True)
    return True


def waited(trap: str, process: int, word: str, number: int, epoch: int) -> Part:
    """Under no lock: Flushes._wait."""
    while (yield (take_lead, process, word, number, epoch)):
        early = trap == "looks what is there after the flush"
        if early:
            yield (begin_flush,)
        seen = (yield (read, "epoch")), (yield (read, "head")), (yield (read, "gone"))
        if not early:
            yield (begin_flush,)
        if trap == "says it is flushed before it is":
            yield (lock_l,)
            yield from note(*seen)
            yield (unlock_l,)
        if not (yield (end_flush, process, 0)):
            yield (write, "failed", True)
        yield (lock_l,)
        if (yield (read, "failed")) and trap != "believes the next flush":
            yield from give_up(trap)
        else:
            yield from note(*seen)
        yield (unlock_l,)
        if trap != "keeps others from flushing":
            yield (leave_lead, process)


def putter(process: int) -> Actor:
    """Passing.put."""

    def act(trap: str) -> Step:
        yield (lock_l,)
        if not (yield from enter(trap)) or (yield (read, "head")) == PLACES:
            yield (unlock_l,)
            return
        message = yield (write_record, None)
        end, epoch = (yield (read, "head")) + 1, (yield (read, "epoch"))
        yield (write, "head", end)
        yield (unlock_l,)
        yield from waited(trap, process, "flushed", end, epoch)
        is_lost = (yield (read, "lost")) == epoch and end > (yield (read, "lost_head"))
        yield (tell, "refused" if is_lost else "stored", message)

    return act


def taker(process: int) -> Actor:
    """Passing.take."""

    def act(trap: str) -> Step:
        yield (lock_l,)
        is_there = yield from enter(trap)
        until = (yield (read, "flushed")) if trap != "hands out what is not flushed" else ALL
        at = (yield (first, until)) if is_there else None
        if at is None:
            yield (unlock_l,)
            return
        epoch = yield (read, "epoch")
        message = yield (set_state, at, DONE)
        gone = (yield (read, "gone")) + 1
        yield (write, "gone", gone)
        yield (unlock_l,)
        yield from waited(trap, process, "flushed_gone", gone, epoch)
        if (yield (read, "flushed_gone")) < gone:
            yield (lock_l,)
            if trap == "takes back what a fold has brought" or (yield (has, epoch)):
                yield (set_state, at, READY)
                yield (tell, "kept", message)
                yield (unlock_l,)
                return
            yield (unlock_l,)
        yield (tell, "gone_for_good", message)

    return act


def bringer(process: int) -> Actor:
    """Looking._bring."""

    def act(trap: str) -> Step:
        yield (lock_l,)
        is_there = (yield from enter(trap)) and (yield (read, "head")) == 0 and (yield (is_tree_message, FIRST))
        if is_there:
            yield (write, "is_open", False)
            yield (write_record, FIRST)
            head = (yield (read, "head")) + 1
            yield (write, "head", head)
            if trap != "brought ones are not flushed first":
                yield (begin_flush,)
                if not (yield (end_flush, process, 1)):
                    yield (write, "failed", True)
                if (yield (read, "failed")):
                    yield from give_up(trap)
                    yield (unlock_l,)
                    return
            yield from note((yield (read, "epoch")), head, (yield (read, "gone")))
            yield (write, "is_open", True)
        yield (unlock_l,)

    return act


def late_putter(process: int) -> Actor:
    """Of a process that has just opened the store."""

    def act(trap: str) -> Step:
        if trap == "folds before it opens":
            yield from looker(trap)
        yield (open_descriptors, process)
        if trap not in ("folds before it opens", "believes its descriptors"):
            yield from looker(trap)
        yield from putter(process)(trap)

    return act


def putter_and_looker(process: int) -> Actor:
    """One after the other."""

    def act(trap: str) -> Step:
        yield from putter(process)(trap)
        yield from looker(trap)

    return act


def interrupted(trap: str) -> Step:
    """Passing._let_go_unflushed."""
    yield (lock_l,)
    yield (write, "is_open", False)
    yield (unlock_l,)


def looker(trap: str) -> Step:
    yield (lock_l,)
    yield from fold(trap)
    yield (unlock_l,)


def explore(actors: Sequence[Actor], processes: Sequence[int], trap: str = "", kills: int = 1, fails: int = 1) -> tuple[int, str]:
    """(states, what is wrong in the first one that is wrong, or ""). processes: of which process each actor is."""

    kill = killer(processes)

    def killed(s: State, i: int) -> State | None:
        dead = kill(s, i)
        if dead is None:
            return None
        flights = tuple(flight if dead.alive[j] else None for j, flight in enumerate(s.flights))
        left: State = dead._replace(flights=flights, leading=s.leading - {processes[i]})
        return left

    count, nothing = len(actors), frozenset[Any]()
    maybe = (frozenset({0}), frozenset({0}), *(frozenset({None}) for _ in range(PLACES)))
    start = State(
        epoch=0,
        is_open=False,
        records=(None,) * PLACES,
        head=0,
        gone=0,
        flushed=ALL,
        flushed_gone=0,
        failed=False,
        lost=0,
        lost_head=0,
        seq=FIRST,
        tree=frozenset({FIRST}),
        folded=0,
        last=FIRST,
        maybe=maybe,
        flights=(None,) * count,
        owed=nothing,
        dropped=nothing,
        stored=nothing,
        refused=nothing,
        gone_for_good=nothing,
        kept=nothing,
        asked=nothing,
        lock=-1,
        leading=nothing,
        alive=(True,) * count,
        kills=kills,
        fails=fails,
    )
    return every_interleaving(actors, trap, start, killed, _left)
