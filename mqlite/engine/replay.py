"""What a topic keeps, given to a subscription that starts in the past: replay, and seek. [23] [24]

A feed is a subscription's place among what its topic keeps. While there is one, a publish does
not append to the subscription; whoever takes from it first moves the next messages of the feed
into the queue, some at a time, so that a long replay opens at once. The commit that reaches the
end removes the feed, and from then on publishes append again: nothing comes between the two.

What a feed has not reached is kept, whoever has settled it (`Tally.settle`); where a feed jumps
ahead, what it passes over is let go in steps, too. Each message that is moved gets a new seq: what
is given out by then may lie behind a cursor (L1). One that the queue has already under its id, by
way of its dead letters, is passed over.
"""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MessageCorrupted, NoSuchSubscription, OutOfRange, StoreFull
from ..log import Log, Raw, Snapshot
from ..log.index import FEED, PLACE, REPLACE
from ..message import DEFAULT_RANK, Due, Position, Record, priority_of
from ..system.clock import LINES, WALL, Timeline
from .catalog import QueueState
from .order import marks_in
from .steps import ARRIVED, CHANGED, GONE
from .topics import Binding, TopicState, binding_of

if TYPE_CHECKING:
    from .machine import Engine
    from .settling import Settling

#: What is moved in one commit: so many messages looked at, or so many bytes of them, whichever comes first.
FED_AT_ONCE = 512
FED_BYTES = 512 << 10
#: How soon to look again where there was no room.
RETRY_NS = 500_000_000
#: Where to start, as users say it, or an id, or a moment in ns since the epoch.
Start = str | int | Due


# ---------------------------------------------------------------------- where to start
def place_of(engine: Engine, snapshot: Snapshot, topic: TopicState, start: Start) -> int:
    """The first id to replay. Raises OutOfRange. O(1), O(log n) for a moment."""
    numbers = snapshot.topic_numbers(topic.id)
    end = numbers.last + 1
    if start == "latest":
        return end
    first = numbers.first
    if start == "earliest":
        return first
    if isinstance(start, tuple):
        return _place_at(engine, snapshot, topic, start, first, end)
    assert isinstance(start, int)
    oldest = next((number for number, _ in snapshot.all_kept(topic.id, first)), end)
    lost = start <= numbers.trimmed or (start < oldest and not topic.options.keeps_for_replay and _lost_some(numbers))
    if lost or start > end:
        kept = f"{oldest} to {numbers.last}" if oldest < end else "nothing"
        raise OutOfRange(
            f"topic {topic.name!r} cannot replay from {start}: it keeps {kept}; start at one of these, or at "
            '"earliest" or "latest"'
        )
    return max(start, first)


def _lost_some(numbers: Any) -> bool:
    return bool(numbers.stored < numbers.published)


def _place_at(engine: Engine, snapshot: Snapshot, topic: TopicState, moment: Due, low: int, high: int) -> int:
    numbers = snapshot.topic_numbers(topic.id)
    if numbers.trimmed and numbers.trimmed_ns >= moment[1]:
        raise OutOfRange(
            f'topic {topic.name!r} does not keep all that was published since then any more: start at "earliest" to '
            "get what is there"
        )
    if not engine.timeline.is_past(moment):
        raise OutOfRange(f'nothing can be replayed from a moment to come: start topic {topic.name!r} at "latest"')
    while low < high:  # ids grow with time
        middle = (low + high) // 2
        found = next(snapshot.all_kept(topic.id, middle), None)
        if found is None or engine.log.enqueued_ns(found[1]) >= moment[1]:
            high = middle
        else:
            low = found[0] + 1
    return low


# ---------------------------------------------------------------------- changing it
def begin(txn: Any, queue: int, topic: int, start: int, voids: bool) -> None:
    """Under L: the subscription gets what its topic keeps from `start` on. voids: what it holds goes first."""
    feed = txn.entry(FEED, topic, (queue,))
    if feed is None:
        txn.count(queue, 0, 0, 0, 1)
        txn.topic_numbers(topic).feeds += 1
    txn.enter(FEED, topic, (queue,), (start, int(voids), start if feed is None else min(start, feed[2])))
    txn.notes.append((CHANGED, queue))


def end(txn: Any, queue: int, topic: int) -> None:
    """Under L: it gets what is published from now on."""
    if txn.strike(FEED, topic, (queue,)):
        txn.count(queue, 0, 0, 0, -1)
        txn.topic_numbers(topic).feeds -= 1


def let_go_some(txn: Any, queue: int, topic: int, until: int) -> bool:
    """Under L: some of what is kept for a feed before an id is not any more; False where all of it is let go."""
    feed = txn.entry(FEED, topic, (queue,))
    if feed is None or feed[2] >= until:
        return False
    passed = []
    for number, _ in islice(txn.all_kept(topic, feed[2]), FED_AT_ONCE):
        if number < until:
            passed.append(number)
    held = passed[-1] + 1 if len(passed) == FED_AT_ONCE else until
    txn.enter(FEED, topic, (queue,), (feed[0], feed[1], held))
    for number in passed:
        txn.refer(topic, number, 0)
    return True


def seek(engine: Engine, topic: TopicState, queue: QueueState, start: Start) -> None:
    """The subscription goes on from there; what it holds is dropped, claims on it are lost.

    The first commit decides; what remains is done by whoever comes by, should this process die. Raises OutOfRange.
    """

    def op(txn: Any) -> None:
        if txn.definition_by_id(queue.id) is None:
            raise NoSuchSubscription(f"the subscription {queue.name!r} was removed: subscribe again")
        begin(txn, queue.id, topic.id, place_of(engine, txn, topic, start), True)

    _ = engine.presence.owner
    engine.log.write(op)
    while engine.log.write(lambda txn: _prepare_some(engine, queue, txn)):
        pass
    step(engine, queue)


def _prepare_some(engine: Settling, queue: QueueState, txn: Any) -> bool:
    """Under L: some of what comes before a feed moves on; False where that is done."""
    feed = txn.entry(FEED, queue.topic, (queue.id,))
    return feed is not None and (_void_some(engine, queue, txn) or let_go_some(txn, queue.id, queue.topic, feed[0]))


def _void_some(engine: Settling, queue: QueueState, txn: Any) -> bool:
    """Under L: some of what the subscription held before a seek goes; False where all of it is gone."""
    feed = txn.entry(FEED, queue.topic, (queue.id,))
    if feed is None or not feed[1]:
        return False
    if not drop_some(engine.log, txn, queue.id, FED_AT_ONCE, only_references=True):
        txn.enter(FEED, queue.topic, (queue.id,), (feed[0], 0, feed[2]))
    return True


def drop_some(log: Log, txn: Any, queue: int, count: int, *, only_references: bool = False) -> int:
    """Under L: remove messages, whoever holds them; how many. Their holders will find their claims lost."""
    in_line: list[Position] = []
    for position, raw in txn.scan(queue):
        if not only_references or log.is_reference(raw):
            in_line.append(position)
            if len(in_line) == count:
                break
    waiting: list[Any] = []
    for line in LINES:
        found = (key for key, _, raw in txn.delayed(queue, line) if not only_references or log.is_reference(raw))
        waiting.extend(islice(found, count))
    for position in in_line:
        txn.pull(queue, position)
    for key in waiting:
        txn.undelay(queue, key)
    if in_line or waiting:  # one that waited may have held up its group
        txn.notes.append((GONE, queue, in_line))
    return len(in_line) + len(waiting)


# ---------------------------------------------------------------------- moving on
def step(engine: Settling, queue: QueueState) -> None:
    """Move some, once: a short replay is done by who asks for it, and keeps nothing from going."""
    with contextlib.suppress(StoreFull):
        engine.log.write(lambda txn: _move_some(engine, queue, txn, FED_AT_ONCE))


def top_up(engine: Settling, queue: QueueState) -> tuple[int, bool]:
    """Move what is next into the queue, until something has come or the feed has ended. (when to look again by the
    monotonic clock, in ns, or 0; whether anything was moved)
    """
    while True:
        with engine.log.read() as snapshot:
            if not snapshot.counters(queue.id).feeds:
                return 0, False
        try:
            moved = engine.log.write(lambda txn: _move_some(engine, queue, txn, FED_AT_ONCE))
        except StoreFull:
            moved = None
            with contextlib.suppress(StoreFull):  # what is there can be taken all the same
                moved = engine.log.write(lambda txn: _move_some(engine, queue, txn, 1))  # from the reserve
        if moved is None:
            return engine.timeline.tick_after(RETRY_NS), False
        if moved:
            return 0, True


def _move_some(engine: Settling, queue: QueueState, txn: Any, at_most: int) -> int | None:
    """Under L: the next messages of a feed that the subscription wants, into it; how many. None where it has no room.
    Raises StoreFull, with nothing changed, unless it is one at most.
    """
    feed = txn.entry(FEED, queue.topic, (queue.id,))
    if feed is None:
        return 1  # another one was faster
    if _prepare_some(engine, queue, txn):
        return 0
    options = engine.catalog.options(queue, txn)
    room = min(at_most, options.maxsize - txn.counters(queue.id).total) if options.maxsize else at_most
    if room <= 0:
        return None
    some, is_all = _some(engine.log, txn, queue.topic, feed[0])
    binding = _binding(txn, queue)
    drafts: list[tuple[int, Due | None, int, Any]] = []
    for number, raw in some:
        record = _wanted(engine.log, engine.timeline, txn, queue, binding, number, raw)
        if record is not None:
            if len(drafts) == room:
                is_all = False
                break
            drafts.append((number, *reference_to(engine, queue, record)))
    else:
        number = some[-1][0] + 1 if some else feed[0]
    if at_most > 1:
        txn.reserve(sum(engine.log.footprint(draft) for _, _, _, draft in drafts))
    passed = {each for each, _ in some if each < number}
    for seq, due, rank, draft in drafts:
        if due is None:
            engine.append(txn, queue, rank, draft, seq)
        else:
            engine.delay(txn, queue.id, rank, draft, seq)
        passed.discard(seq)
    for seq in passed:
        txn.refer(queue.topic, seq, 0)  # it goes if it was kept for this feed only
    if is_all:
        end(txn, queue.id, queue.topic)
    else:
        txn.enter(FEED, queue.topic, (queue.id,), (number, 0, number))
    engine.note_expiry(txn, queue.id, (engine.log.record_of(draft) for _, _, _, draft in drafts))
    if drafts:
        txn.notes.append((ARRIVED, queue.id))
    return len(drafts)


def _some(log: Log, txn: Any, topic: int, start: int) -> tuple[list[tuple[int, Raw]], bool]:
    """(what is kept from there on, not much more than FED_BYTES of it; whether that is all)."""
    some: list[tuple[int, Raw]] = []
    size = 0
    for number, raw in txn.all_kept(topic, start):
        if len(some) == FED_AT_ONCE or size > FED_BYTES:
            return some, False
        some.append((number, raw))
        size += log.size_of_kept(raw)
    return some, True


def _binding(snapshot: Snapshot, queue: QueueState) -> Binding | None:
    definition = snapshot.definition_by_id(queue.id)
    return None if definition is None else binding_of(snapshot, definition)


def _wanted(
    log: Log,
    timeline: Timeline,
    snapshot: Snapshot,
    queue: QueueState,
    binding: Binding | None,
    number: int,
    raw: Raw,
) -> Record | None:
    """What a topic keeps, if it is to be replayed. One that is damaged is: then the subscriber is told."""
    if binding is None or snapshot.entry(PLACE, queue.id, (number,)) is not None:
        return None
    key = log.key_of(raw)
    newest = None if key is None else snapshot.entry(REPLACE, queue.topic, (key,))
    if newest is not None and newest != (number,):
        return None  # compacted
    try:
        record = log.decode_kept(queue.topic, number, raw)
    except MessageCorrupted:
        return Record((0, b""), log.enqueued_ns(raw), number, extras={})
    wants = binding.wants(rank_in(record), record.extras or {}) and not has_expired(timeline, record)
    return attrs.evolve(record, id=number) if wants else None


def reference_to(engine: Settling, queue: QueueState, record: Record) -> tuple[Due | None, int, Any]:
    """(when it is due, its rank, a reference to it)."""
    extras = record.extras or {}
    rank = rank_in(record)
    marks = marks_in(
        queue, rank, engine.timeline, group=extras.get("group"), expires=due_in(extras, "expires"), replace=None
    )
    due = due_in(extras, "due")
    if due is not None and engine.timeline.is_past(due):
        due = None
    draft = engine.log.refer_to(record, queue.topic, record.id, marks, due)
    return due, rank, draft


def has_expired(timeline: Timeline, record: Record) -> bool:
    """Whether the time to live is over of what a topic keeps: then nobody gets it any more."""
    expires = due_in(record.extras or {}, "expires")
    return expires is not None and timeline.is_past(expires)


def rank_in(record: Record) -> int:
    """The rank of what a topic keeps."""
    rank: int = (record.extras or {}).get("rank", DEFAULT_RANK)
    return rank


def priority_in(record: Record) -> int:
    """Its priority."""
    return priority_of(rank_in(record))


def due_in(extras: dict[str, Any], name: str) -> Due | None:
    """A time that is stored with what a topic keeps."""
    found = extras.get(name)
    return None if found is None else (found[0], found[1])


# ---------------------------------------------------------------------- looking
def is_void(snapshot: Snapshot, queue: QueueState) -> bool:
    """Whether what the queue holds goes before anything is taken from it, since a seek was decided."""
    feed = snapshot.entry(FEED, queue.topic, (queue.id,))
    return feed is not None and bool(feed[1])


def is_ahead(snapshot: Snapshot, queue: QueueState, number: int) -> bool:
    """Whether a feed may still move the message with that id."""
    feed = snapshot.entry(FEED, queue.topic, (queue.id,))
    return feed is not None and feed[0] <= number


def unfed(log: Log, timeline: Timeline, snapshot: Snapshot, queue: QueueState) -> tuple[int, int | None]:
    """(how many messages a feed has still to move, when the first was published). O(what is kept from there)."""
    feed = snapshot.entry(FEED, queue.topic, (queue.id,))
    if feed is None:
        return 0, None
    binding = _binding(snapshot, queue)
    count, first_ns = 0, None
    for number, raw in snapshot.all_kept(queue.topic, feed[0]):
        record = _wanted(log, timeline, snapshot, queue, binding, number, raw)
        if record is not None:
            count += 1
            first_ns = record.enqueued_ns if first_ns is None else first_ns
    return count, first_ns


def moment(seconds: float) -> Due:
    """A time of day, as a Start."""
    return WALL, int(seconds * 1e9)
