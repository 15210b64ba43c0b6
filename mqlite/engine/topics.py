"""The declared topics, and who gets what is published: their members, as this process knows them.

A topic keeps each body once; its members are queues, to which a publish appends references. A
member is a binding: a queue, and what it wants. A subscription is a queue of its own with one
binding; a named queue may have several.

Stored are, by name:

    topic               kind "topic": its options
    topic SEP name      kind "subscription": a queue; details {topic, binding, durable, callable, expires_after}
    topic SEP SEP hex   kind "binding": details {topic, queue, pattern, filter}; its number never changes what it means

and by number the index MEMBER. A process reads a binding once; what the version of the topic tells
it is that some came or went.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from ..errors import NoSuchSubscription
from ..filters import Filter
from ..log import Definition, Log, Snapshot
from ..log.index import MEMBER
from ..message import priority_of
from ..options import TopicOptions
from ..patterns import Trie, matches
from .catalog import SEPARATOR, Catalog, QueueState


@attrs.frozen(eq=False)
class Binding:
    """That a queue gets what matches."""

    id: int
    queue: int
    pattern: str
    filter: Filter | None

    @classmethod
    def of(cls, definition: Definition) -> Binding:
        """As stored."""
        details = definition.details
        asked = details["filter"]
        filter = None if asked is None else Filter.from_json(asked)
        return cls(definition.id, details["queue"], details["pattern"], filter)

    def wants(self, rank: int, extras: dict[str, Any]) -> bool:
        """Whether a message matches."""
        if not matches(self.pattern, extras.get("routing_key", "")):
            return False
        return self.filter is None or self.filter.accepts(priority_of(rank), extras)


class TopicState:
    """A topic as this process knows it.

    `version` is that of its options, `known` that up to which its members are known.
    Locks    `_lock` is held while members are read; no other lock is taken for it but the log's, to read.
    """

    def __init__(self, definition: Definition) -> None:
        self.id = definition.id
        self.name = definition.name.removesuffix(SEPARATOR)
        self.key = definition.name
        self.options = TopicOptions(**definition.options)
        self.version = definition.version
        self.known = -1
        self.unroutable = 0
        self.is_forgetful = False  # whether a subscription may have to go, since nobody uses it
        self._members: dict[int, Binding] = {}
        self._greatest = 0  # of their numbers, which only grow
        self._parted = -1
        self._trie: Trie[Binding] = Trie()
        self._lock = threading.Lock()

    def adopt(self, definition: Definition) -> None:
        """These options hold from now on."""
        if definition.version > self.version:
            self.options, self.version = TopicOptions(**definition.options), definition.version

    def refresh(self, log: Log) -> int:
        """Learn who came and went; the version as of which that is known. O(who came), O(members) where one went."""
        with log.read() as snapshot:
            numbers = snapshot.topic_numbers(self.id)
        self.is_forgetful = numbers.forgettable > 0
        if numbers.version == self.known:
            return self.known
        with self._lock, log.read() as snapshot:
            version = snapshot.topic_numbers(self.id).version
            if version > self.known:
                definition = snapshot.definition_by_id(self.id)
                if definition is not None:
                    self.adopt(definition)
                parted = snapshot.topic_numbers(self.id).parted
                start = (self._greatest + 1,) if parted == self._parted else ()
                self._learn(snapshot, {parts[0] for parts, _ in snapshot.entries(MEMBER, self.id, (), start)})
                if not start:
                    self._part(snapshot)
                self._parted = parted
                self.known = version
            return self.known

    def _learn(self, snapshot: Snapshot, there: set[int]) -> None:
        for number in sorted(there - self._members.keys()):
            definition = snapshot.definition_by_id(number)
            if definition is not None:
                binding = Binding.of(definition)
                self._trie.add(binding.pattern, binding)
                self._members[number] = binding  # only now: what an interrupt keeps from this is learnt again
                self._greatest = number

    def _part(self, snapshot: Snapshot) -> None:
        there = {parts[0] for parts, _ in snapshot.entries(MEMBER, self.id)}
        for number in self._members.keys() - there:
            binding = self._members.pop(number)
            self._trie.remove(binding.pattern, binding)

    def receivers(self, routing_key: str, rank: int, extras: dict[str, Any]) -> list[int]:
        """The queues that get such a message, each once."""
        found: dict[int, None] = {}
        for binding in self._trie.match(routing_key):
            if binding.queue in found or self._members.get(binding.id) is not binding:
                continue  # or an interrupt left it in the trie
            if binding.filter is None or binding.filter.accepts(priority_of(rank), extras):
                found[binding.queue] = None
        return list(found)

    def subscription_key(self, name: str) -> str:
        """What a subscription is stored under."""
        return f"{self.key}{name}"

    def after_fork(self) -> None:
        """In a forked child: the lock may be held by a thread that is no more."""
        self._lock = threading.Lock()


class Topics:
    """The topics of one store, as this process knows them."""

    def __init__(self, log: Log, catalog: Catalog) -> None:
        self._log = log
        self._catalog = catalog
        self._states: dict[int, TopicState] = {}

    def declare(self, name: str, named: dict[str, Any]) -> TopicState:
        """The topic of that name, made with the options `named` if it is new. Raises SettingsMismatch."""
        key = name + SEPARATOR

        def op(txn: Any) -> None:
            if txn.definition(key) is None:
                new = Definition(0, key, TopicOptions(**named).stored(), kind="topic")
                txn.define(new)
                txn.topic_numbers(new.id).version = 1

        with self._log.read() as snapshot:
            definition = snapshot.definition(key)
        if definition is None:
            self._log.write(op)
            with self._log.read() as snapshot:
                definition = snapshot.definition(key)
        assert definition is not None
        state = self._remember(definition)
        state.options.check_named(named, f"topic {name!r}")
        return state

    def _remember(self, definition: Definition) -> TopicState:
        state = self._states.setdefault(definition.id, TopicState(definition))
        state.adopt(definition)
        return state

    def state(self, topic: int, snapshot: Snapshot) -> TopicState:
        """The topic of that number, also one that this process has not opened. Raises LookupError."""
        state = self._states.get(topic)
        if state is None:
            definition = snapshot.definition_by_id(topic)
            if definition is None:
                raise LookupError(topic)
            state = self._remember(definition)
        return state

    def configure(self, topic: TopicState, changes: dict[str, Any]) -> None:
        """Change options for every process. One commit."""

        def op(txn: Any) -> Definition:
            definition: Definition = txn.definition(topic.key)
            definition.options = attrs.evolve(TopicOptions(**definition.options), **changes).stored()
            definition.version += 1
            txn.define(definition)
            txn.topic_numbers(topic.id).version += 1
            return definition

        topic.adopt(self._log.write(op))

    def members(self, topic: TopicState, snapshot: Snapshot) -> Iterator[tuple[Definition, Binding]]:
        """(of the queue, what it wants), as they came."""
        for (number,), (queue,) in snapshot.entries(MEMBER, topic.id):
            definition, fed = snapshot.definition_by_id(number), snapshot.definition_by_id(queue)
            if definition is not None and fed is not None:
                yield fed, Binding.of(definition)

    def subscriptions(self, topic: TopicState, snapshot: Snapshot) -> list[str]:
        """Their names, in the order in which they were made."""
        fed = [definition for definition, _ in self.members(topic, snapshot)]
        return [each.name.removeprefix(topic.key) for each in fed if each.kind == "subscription"]

    def subscription(self, topic: TopicState, name: str, snapshot: Snapshot) -> Definition:
        """Raises NoSuchSubscription."""
        found = snapshot.definition(topic.subscription_key(name))
        if found is None:
            raise NoSuchSubscription(
                f"topic {topic.name!r} has no subscription {name!r}: make it with subscribe({name!r})"
            )
        return found

    def queues(self, numbers: Iterable[int]) -> list[QueueState]:
        """The queues of those numbers. One snapshot if any is new to this process."""
        states = [self._catalog.known(number) for number in numbers]
        if None in states:
            with self._log.read() as snapshot:
                return [self._catalog.state(number, snapshot) for number in numbers]
        return [state for state in states if state is not None]

    def after_fork(self) -> None:
        """In a forked child."""
        for state in self._states.values():
            state.after_fork()


def binding_of(snapshot: Snapshot, definition: Definition) -> Binding | None:
    """What a subscription wants; None where it is being removed."""
    found = snapshot.definition_by_id(definition.details["binding"])
    return None if found is None else Binding.of(found)
