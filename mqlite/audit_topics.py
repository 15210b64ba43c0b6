"""The invariants of the topics of a store: bodies, references, members and feeds agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .engine.retention import is_for_replay
from .engine.topics import TopicState
from .errors import MessageCorrupted
from .log import Definition, Log
from .log.index import FEED, FORGOTTEN, MEMBER, REFERENCES, REMOVED, RETAINED

#: (topic, id) -> how many messages refer to that body
References = Counter[tuple[int, int]]


def topic_problems(log: Log, txn: Any, definitions: list[Definition], references: References) -> list[str]:
    """Under L: what is wrong, in words. references: those of all queues."""
    found: list[str] = []
    topics = {each.id: each for each in definitions if each.kind == "topic"}
    for number, definition in topics.items():
        audit = _Audit(log, txn, TopicState(definition), references)
        found.extend(f"topic {audit.topic.name!r}: {problem}" for problem in audit.problems())
        members = {parts[0] for parts, _ in txn.entries(MEMBER, number)}
        bindings = {each.id for each in definitions if each.kind == "binding" and each.details["topic"] == number}
        if members != bindings:
            found.append(f"topic {audit.topic.name!r}: its members and its bindings do not agree")
    for topic, body in references:
        if topic not in topics or txn.kept(topic, body) is None:
            found.append(f"a message refers to the body {body}, which is not kept")
    return found


class _Audit:
    """One topic."""

    def __init__(self, log: Log, txn: Any, topic: TopicState, references: References) -> None:
        self._log = log
        self._txn = txn
        self._numbers = txn.topic_numbers(topic.id)
        self._references = references
        self.topic = topic

    def problems(self) -> Iterator[str]:
        """In words."""
        txn, topic = self._txn, self.topic.id
        entries = {parts[0]: value[0] for parts, value in txn.entries(REFERENCES, topic)}
        feeds = [value[2] for _, value in txn.entries(FEED, topic)]
        kept_by_key = {value[0] for _, value in txn.entries(RETAINED, topic)}
        bodies = list(txn.all_kept(topic))
        stored_bytes = retained = retained_bytes = 0
        for number, raw in bodies:
            size = self._log.size_of_kept(raw)
            stored_bytes += size
            try:
                self._log.decode_kept(topic, number, raw)
            except MessageCorrupted as error:
                yield str(error)
            count = self._references[topic, number] + (number in kept_by_key)
            if self._is_for_replay(number, raw):
                retained, retained_bytes, count = retained + 1, retained_bytes + size, count + 1
            if entries.get(number, 1) != count:
                yield f"{count} references to the body {number} exist, {entries.get(number, 1)} are counted"
            if not count and not any(start <= number for start in feeds):
                yield f"nobody refers to the body {number}"
        for number in entries.keys() - {number for number, _ in bodies}:
            yield f"references to the body {number} are counted, which is not kept"
        yield from self._counts(len(bodies), stored_bytes, retained, retained_bytes)
        fed = {value[0] for _, value in txn.entries(MEMBER, topic)} | {parts[0] for parts, _ in txn.entries(REMOVED, 0)}
        for (queue,), _ in txn.entries(FEED, topic):
            if queue not in fed:
                yield f"there is something to replay to the queue {queue}, which is no member"
            elif txn.counters(queue).feeds != 1:
                yield f"there is something to replay to the queue {queue}, which does not know"

    def _is_for_replay(self, number: int, raw: Any) -> bool:
        if not self.topic.options.keeps_for_replay or number < self._numbers.first:
            return False
        return is_for_replay(self._log, self._txn, self.topic, number, raw)

    def _counts(self, stored: int, stored_bytes: int, retained: int, retained_bytes: int) -> Iterator[str]:
        txn, topic, numbers = self._txn, self.topic.id, self._numbers
        removed = sum(value[0] == topic for _, value in txn.entries(REMOVED, 0))
        counted = {
            "bodies are stored": (stored, numbers.stored),
            "bytes are stored": (stored_bytes, numbers.stored_bytes),
            "messages are kept for replay": (retained, numbers.retained),
            "bytes are kept for replay": (retained_bytes, numbers.retained_bytes),
            "feeds exist": (len(list(txn.entries(FEED, topic))), numbers.feeds),
            "subscriptions may be forgotten": (len(list(txn.entries(FORGOTTEN, topic))), numbers.forgettable),
            "subscriptions are being removed": (removed, numbers.removed),
        }
        for what, (there, number) in counted.items():
            if there != number:
                yield f"{there} {what}, {number} are counted"
