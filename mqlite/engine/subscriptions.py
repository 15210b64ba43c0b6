"""Members of a topic come and go: subscribe, bind, unsubscribe, and what becomes of those that nobody uses. [24]

Each is one commit that also raises the topic's version, by which a publish under way notices. A
subscription that goes leaves the topic at once, and its messages some at a time afterwards: it is
among REMOVED until the last is gone, and whoever publishes or subscribes goes on with it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MessageCorrupted, SettingsMismatch
from ..filters import Filter
from ..log import DEAD_BIT, Definition
from ..log.index import DEDUP, DEDUP_END, FORGOTTEN, MEMBER, REMOVED, RETAINED
from ..options import QueueOptions
from ..patterns import matches
from ..system.clock import LINES
from . import legacies, replay
from .catalog import SEPARATOR, QueueState
from .steps import CHANGED
from .topics import TopicState, binding_of

if TYPE_CHECKING:
    from .machine import Engine
    from .settling import Settling

#: Bytes that a new member takes in the log, with its binding, its legacy and their names.
ROOM = 8192
#: Messages of a removed subscription that go in one commit.
DROPPED_AT_ONCE = 256


@attrs.frozen(kw_only=True)
class Wish:
    """What is asked for of a subscription. None: not named, so that what is stored is taken.

    callable: the name of a function of the user's that has the last word; start: where a new one starts
    """

    pattern: str | None = None
    filter: Filter | None = None
    names_filter: bool = False
    names_headers: bool = False
    callable: str | None = None
    start: replay.Start = "latest"
    durable: bool | None = None
    expires_after: float | None = None
    must_exist: bool = False
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def wanted_pattern(self) -> str:
        """That of a new one."""
        return "#" if self.pattern is None else self.pattern


# ---------------------------------------------------------------------- coming
def subscribe(engine: Engine, topic: TopicState, name: str, wish: Wish) -> tuple[Definition, int]:
    """(the subscription of that name, made if it is new; the legacy of this handle, or 0). One commit.

    Raises SettingsMismatch, OutOfRange, StoreFull.
    """
    owner = engine.presence.owner

    def op(txn: Any) -> tuple[Definition, int]:
        definition: Definition | None = txn.definition(topic.subscription_key(name))
        if definition is None and wish.must_exist:
            engine.topics.subscription(topic, name, txn)  # raises
        if definition is None:
            return _make(engine, txn, topic, name, wish, owner)
        _check_agrees(txn, topic, definition, wish)
        txn.reserve(ROOM)
        return definition, _is_used(engine, txn, topic, definition, owner)

    care(engine, topic, to_the_end=True)
    definition, legacy = engine.log.write(op)
    with engine.log.read() as snapshot:
        is_fed = snapshot.counters(definition.id).feeds
        state = engine.catalog.state(definition.id, snapshot)
    if is_fed:
        replay.step(engine, state)
    return definition, legacy


def _make(engine: Engine, txn: Any, topic: TopicState, name: str, wish: Wish, owner: int) -> tuple[Definition, int]:
    start = replay.place_of(engine, txn, topic, wish.start)
    options = QueueOptions(**{**topic.options.queue, **wish.options, "codec": topic.options.codec}).stored()
    durable = wish.durable is not False
    details = {
        "topic": topic.id,
        "binding": 0,
        "durable": durable,
        "callable": wish.callable,
        "expires_after": wish.expires_after,
    }
    retained = _retained(engine, txn, topic, wish) if wish.start == "latest" else []
    txn.reserve(ROOM + 512 * len(retained))
    queue = Definition(0, topic.subscription_key(name), options, kind="subscription", details=details)
    txn.define(queue)
    details["binding"] = _join(txn, topic, queue.id, wish.wanted_pattern, wish.filter)
    txn.define(queue)
    if durable:
        legacy = _is_used(engine, txn, topic, queue, owner)
    else:
        legacy = legacies.leave(engine, txn, owner, {"unsubscribe": queue.id, "topic": topic.id})
        details["legacy"] = legacy
        txn.define(queue)
    if start <= txn.topic_numbers(topic.id).last:
        replay.begin(txn, queue.id, topic.id, start, False)
    state = QueueState.of(queue)
    for record in retained:
        due, rank, draft = replay.reference_to(engine, state, record)
        if due is None:
            engine.append(txn, state, rank, draft, record.id)
        else:
            engine.delay(txn, state.id, rank, draft, record.id)
    return queue, legacy


def _retained(engine: Engine, txn: Any, topic: TopicState, wish: Wish) -> list[Any]:
    """What a new subscription gets of what was published with retain=True, the oldest first."""
    return [
        record
        for record in retained(engine, txn, topic, wish.wanted_pattern)
        if (wish.filter is None or wish.filter.accepts(replay.priority_in(record), record.extras))
        and not replay.has_expired(engine.timeline, record)
    ]


def _join(txn: Any, topic: TopicState, queue: int, pattern: str, filter: Filter | None) -> int:
    """Under L: a new binding; its number."""
    details = {
        "topic": topic.id,
        "queue": queue,
        "pattern": pattern,
        "filter": None if filter is None else filter.to_json(),
    }
    name = f"{topic.key}{SEPARATOR}{secrets.token_hex(8)}"
    binding = Definition(0, name, {}, kind="binding", details=details)
    txn.define(binding)
    txn.enter(MEMBER, topic.id, (binding.id,), (queue,))
    txn.topic_numbers(topic.id).version += 1
    return binding.id


def _check_agrees(txn: Any, topic: TopicState, definition: Definition, wish: Wish) -> None:
    """Raises SettingsMismatch where something is named that differs from what is stored."""
    what = f"subscription {definition.name.removeprefix(topic.key)!r} of topic {topic.name!r}"
    binding = binding_of(txn, definition)
    details = definition.details
    pairs: list[tuple[str, Any, Any]] = [("pattern", None if binding is None else binding.pattern, wish.pattern)]
    stored, asked = (_parts_of(None if binding is None else binding.filter), _parts_of(wish.filter))
    if wish.names_filter:
        pairs.append(("filter", stored["filter"], asked["filter"]))
    if wish.names_headers:
        pairs.append(("headers", (stored["match"], stored["headers"]), (asked["match"], asked["headers"])))
    pairs.append(("filter", details["callable"], wish.callable))
    for name in ("durable", "expires_after"):
        pairs.append((name, details[name], getattr(wish, name)))
    for name, known, named in pairs:
        if named is not None and named != known:
            raise SettingsMismatch(
                f"{what} is stored with {name}={known!r}, not {named!r}: leave {name} out to take what is stored, or "
                "unsubscribe first"
            )
    QueueOptions(**definition.options).check_named(wish.options, what)


def _parts_of(filter: Filter | None) -> dict[str, Any]:
    return {"filter": None, "headers": None, "match": "all"} if filter is None else filter.to_json()


def retained(engine: Engine, snapshot: Any, topic: TopicState, pattern: str) -> list[Any]:
    """The records of what was published with retain=True, the newest of each routing key, the oldest first."""
    found = []
    for _, (number,) in snapshot.entries(RETAINED, topic.id):
        raw = snapshot.kept(topic.id, number)
        if raw is None:  # damaged; or, in memory, left half done by an interrupt
            continue
        try:
            record = engine.log.decode_kept(topic.id, number, raw)
        except MessageCorrupted:
            continue
        if matches(pattern, (record.extras or {}).get("routing_key", "")):
            found.append(attrs.evolve(record, id=number))
    return sorted(found, key=lambda record: record.id)


def bind(engine: Engine, topic: TopicState, queue: QueueState, pattern: str, filter: Filter | None) -> None:
    """The queue gets what matches, from now on; the same again changes nothing. One commit."""

    def op(txn: Any) -> None:
        for fed, binding in engine.topics.members(topic, txn):
            if fed.id == queue.id and (binding.pattern, binding.filter) == (pattern, filter):
                return
        txn.reserve(ROOM)
        _join(txn, topic, queue.id, pattern, filter)

    _ = engine.presence.owner
    engine.log.write(op)


# ---------------------------------------------------------------------- going
def unbind(engine: Engine, topic: TopicState, queue: QueueState, pattern: str | None) -> int:
    """The queue gets no more of what matches that pattern (None: of anything); how many bindings went. One commit."""

    def op(txn: Any) -> int:
        count = 0
        for fed, binding in list(engine.topics.members(topic, txn)):
            if fed.id == queue.id and pattern in (None, binding.pattern):
                _part(txn, topic.id, binding.id)
                count += 1
        if count:
            txn.notes.append((CHANGED, queue.id))  # a publisher may wait for room in it
        return count

    _ = engine.presence.owner
    return engine.log.write(op)


def _part(txn: Any, topic: int, binding: int) -> None:
    """Under L: a binding goes."""
    definition = txn.definition_by_id(binding)
    if definition is not None:
        txn.undefine(definition)
    txn.strike(MEMBER, topic, (binding,))
    numbers = txn.topic_numbers(topic)
    numbers.version += 1
    numbers.parted += 1


def unsubscribe(engine: Engine, topic: TopicState, name: str, number: int | None = None) -> bool:
    """The subscription goes, and all that it holds; False where there is none. number: only if it is that one."""

    def op(txn: Any) -> bool:
        definition = txn.definition(topic.subscription_key(name))
        if definition is None or number not in (None, definition.id):
            return False
        remove(engine, txn, topic.id, definition)
        return True

    _ = engine.presence.owner
    found = engine.log.write(op)
    care(engine, topic, to_the_end=True)
    return found


def remove(engine: Engine, txn: Any, topic: int, definition: Definition) -> None:
    """Under L: a subscription leaves its topic; its messages go later, see `care`."""
    _part(txn, topic, definition.details["binding"])
    txn.undefine(definition)
    txn.enter(REMOVED, 0, (definition.id,), (topic,))
    numbers = txn.topic_numbers(topic)
    numbers.removed += 1
    _is_known_again(txn, topic, definition.id)
    legacies.take(txn, definition.details.get("legacy", 0))
    if definition.details["expires_after"] is not None:
        for _, record, said in list(legacies.found(engine, txn)):
            if said.get("used") == definition.id:
                legacies.take(txn, record.id)
    state = engine.catalog.known(definition.id)
    if state is not None and engine.log.one_lock:
        state.remove()
    txn.notes.append((CHANGED, definition.id))


def care(engine: Engine, topic: TopicState, *, to_the_end: bool = False) -> None:
    """Remove what nobody has used for its time, and some of what removed subscriptions held."""
    with engine.log.read() as snapshot:
        numbers = snapshot.topic_numbers(topic.id)
        forgettable, removed = numbers.forgettable, numbers.removed
    if forgettable:
        removed += forget_unused(engine, topic)
    while removed and engine.log.write(lambda txn: _drop_removed(engine, txn)) and to_the_end:
        pass


def _drop_removed(engine: Engine, txn: Any) -> bool:
    """Under L: some messages of a removed subscription of any topic; False where there is none."""
    found = next(iter(txn.entries(REMOVED, 0)), None)
    if found is None:
        return False
    (queue,), (topic,) = found
    if replay.drop_some(engine.log, txn, queue, DROPPED_AT_ONCE):
        return True
    if replay.drop_some(engine.log, txn, queue | DEAD_BIT, DROPPED_AT_ONCE):
        return True
    if replay.let_go_some(txn, queue, topic, txn.topic_numbers(topic).last + 1):
        return True
    replay.end(txn, queue, topic)
    for each in (queue, queue | DEAD_BIT):
        for kind in (DEDUP, DEDUP_END):
            for parts, _ in list(txn.entries(kind, each)):
                txn.strike(kind, each, parts)
        txn.wipe(each)
    with (
        engine.claims.lock,
        engine.claims.guard,
        engine.claims.write() as c,
    ):  # before the commit, which a kill may prevent
        for each in (queue, queue | DEAD_BIT):
            c.forget_queue(each)
    engine.catalog.forget(queue)
    txn.notes.append((CHANGED, queue | DEAD_BIT))
    txn.strike(REMOVED, 0, (queue,))
    txn.topic_numbers(topic).removed -= 1
    return True


# ---------------------------------------------------------------------- those that nobody uses
def _is_used(engine: Engine, txn: Any, topic: TopicState, definition: Definition, owner: int) -> int:
    """Under L: this process has one handle more on it; the legacy that says so, 0 where that does not matter."""
    if definition.details["expires_after"] is None:
        return 0
    _is_known_again(txn, topic.id, definition.id)
    return legacies.leave(engine, txn, owner, {"used": definition.id, "topic": topic.id})


def end_use(engine: Engine, legacy: int) -> None:
    """A handle is closed: what it left to be done when its process dies is done now."""
    if legacy:
        legacies.give_up_one(engine, legacy)


def _is_known_again(txn: Any, topic: int, queue: int) -> None:
    for parts, _ in [entry for entry in txn.entries(FORGOTTEN, topic) if entry[0][2] == queue]:
        txn.strike(FORGOTTEN, topic, parts)
        txn.topic_numbers(topic).forgettable -= 1


def stop_using(engine: Engine, txn: Any, topic: int, queue: int) -> None:
    """Under L: a process has no handle on the subscription any more. If none has, its time begins."""
    definition = txn.definition_by_id(queue)
    if definition is None or definition.details["expires_after"] is None:
        return
    if any(said.get("used") == queue for _, _, said in legacies.found(engine, txn)):
        return
    _is_known_again(txn, topic, queue)
    line, end_ns = engine.timeline.after(definition.details["expires_after"]) or engine.timeline.soon()
    txn.enter(FORGOTTEN, topic, (line, end_ns, queue))
    txn.topic_numbers(topic).forgettable += 1
    txn.notes.append((CHANGED, queue))  # a publisher that waits for room in it has a time to wake


def forget_unused(engine: Engine, topic: TopicState) -> int:
    """Remove the subscriptions that nobody has used for their time; how many."""
    with engine.log.read() as snapshot:
        times = [next(snapshot.entries(FORGOTTEN, topic.id, (line,)), None) for line in LINES]
    if not any(found is not None and engine.timeline.is_past((found[0][0], found[0][1])) for found in times):
        return 0
    return engine.log.write(lambda txn: _forget_unused(engine, topic, txn))


def wake_ns(engine: Settling, queue: QueueState) -> int:
    """When to look, by the monotonic clock, whether a subscription of the same topic has to go; 0: none will."""
    with engine.log.read() as snapshot:
        if not snapshot.topic_numbers(queue.topic).forgettable:
            return 0
        first = [next(snapshot.entries(FORGOTTEN, queue.topic, (line,)), None) for line in LINES]
    times = [(found[0][0], found[0][1]) for found in first if found is not None]
    return min((max(1, engine.timeline.wake_ns(due)) for due in times), default=0)


def _forget_unused(engine: Engine, topic: TopicState, txn: Any) -> int:
    count = 0
    for line in LINES:
        for parts, _ in list(txn.entries(FORGOTTEN, topic.id, (line,))):
            if not engine.timeline.is_past((line, parts[1])):
                break
            definition = txn.definition_by_id(parts[2])
            if definition is not None:
                remove(engine, txn, topic.id, definition)
                count += 1
    return count
