"""How a message is published: its body kept once, a reference to each queue that gets it, in one commit. [22]

Who gets it is found out before the commit, without a lock; the commit makes sure that no member
came or went meanwhile, or it is found out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MessageTooLarge, Unroutable
from ..log import Draft
from ..log.index import DEDUP, FEED
from ..message import DEFAULT_RANK, Due, Marks, Record, digest
from ..system.clock import STABLE, ns_of
from . import subscriptions
from .catalog import QueueState
from .order import marks_in
from .retention import TRIMMED_AT_ONCE, keep_for_replay, retain, trim
from .topics import TopicState

if TYPE_CHECKING:
    from .machine import Engine

#: (id, how many queues got it) of each message
Outcome = list[tuple[int, int]]


@attrs.frozen(kw_only=True)
class Publication:
    """Messages that are published together, and differ in their bodies only.

    extras           of each (message.Record), with the routing key
    expires, due     when; None: as the queues that get it say, at once
    dedup, replace   digests of dedup_id and replace_key
    retain           new subscriptions get it; mandatory: it is refused if nobody gets it
    """

    payloads: list[Any]
    extras: dict[str, Any]
    rank: int = DEFAULT_RANK
    due: Due | None = None
    expires: Due | None = None
    dedup: bytes | None = None
    replace: bytes | None = None
    retain: bool = False
    mandatory: bool = False

    def bodies(self, engine: Engine, key: bytes | None) -> list[Draft]:
        """As the topic keeps them: with all that those need to whom they go later. key: what `compact` goes by."""
        extras = dict(self.extras)
        if self.rank != DEFAULT_RANK:
            extras["rank"] = self.rank
        if self.due is not None:
            extras["due"] = self.due
        if self.expires is not None:
            extras["expires"] = self.expires
        marks = None if key is None else Marks(replace=key)
        now_ns = engine.clock.wall_ns()
        return [engine.log.prepare(Record(payload, now_ns, extras=extras, marks=marks)) for payload in self.payloads]


class Publishing:
    """One publication as a part of a commitment, which stores the references."""

    def __init__(self, engine: Engine, topic: TopicState, publication: Publication) -> None:
        self._engine = engine
        self._topic = topic
        self._said = publication
        self._key: bytes | None = None
        if topic.options.compact:
            self._key = publication.replace or digest(publication.extras["routing_key"])
        self._bodies = publication.bodies(engine, self._key)
        self._records = [engine.log.record_of(draft) for draft in self._bodies]
        self._version = -1
        self._receivers: list[int] = []
        self._first: int | Publishing | None = None  # what has its dedup_id already: an id, or one of the same commit
        self.fed: set[int] = set()  # queues that get it by replay, like all that came before it
        self.outcome: Outcome = []
        self._leaves_work = False  # for subscriptions.care

    @property
    def rank(self) -> int:
        """That of all its messages."""
        return self._said.rank

    # ------------------------------------------------------------------ who gets it
    def refresh(self, stale: bool) -> None:
        """Look at the members of the topic, again if what is known of them is stale."""
        engine, topic = self._engine, self._topic
        if stale or topic.known < 0 or (topic.is_forgetful and subscriptions.forget_unused(engine, topic)):
            topic.refresh(engine.log)

    @property
    def is_addressed(self) -> bool:
        """Whether `addressed` was asked since the members are known as they are."""
        return self._topic.known == self._version

    def addressed(self) -> Iterator[tuple[QueueState, list[Draft]]]:
        """The receivers, and the references that each gets. Raises MessageTooLarge."""
        engine, said = self._engine, self._said
        self._version = self._topic.known  # before the members: those that come later are noticed
        self._receivers = []
        if self._first is not None:
            return
        numbers = self._topic.receivers(said.extras["routing_key"], said.rank, said.extras)
        drafts: dict[Marks, list[Draft]] = {}
        plain: Marks | None = None
        for queue in engine.topics.queues(numbers):
            marks = plain
            if plain is None or queue.marks_all or queue.options.order == "lifo":
                marks = marks_in(
                    queue,
                    said.rank,
                    engine.timeline,
                    group=said.extras.get("group"),
                    expires=said.expires,
                    replace=said.replace,
                )
                if not queue.marks_all and queue.options.order != "lifo":
                    plain = marks  # most queues have the same
            assert marks is not None
            if marks not in drafts:
                drafts[marks] = [
                    engine.log.refer_to(record, self._topic.id, 0, marks, said.due) for record in self._records
                ]
            self._check_can_take(queue)
            self._receivers.append(queue.id)
            yield queue, drafts[marks]

    def _check_can_take(self, queue: QueueState) -> None:
        largest = max(map(self._engine.log.size_of, self._said.payloads))
        limit = queue.options.max_message_bytes
        if not queue.topic and largest > limit:
            raise MessageTooLarge(
                f"a body of {largest} bytes is larger than max_message_bytes={limit} of queue {queue.name!r}, which "
                f"topic {self._topic.name!r} feeds: configure(max_message_bytes=...), or unbind it"
            )

    # ------------------------------------------------------------------ under L
    def look(self, txn: Any, deduplicated: dict[tuple[int, bytes], Publishing]) -> bool:
        """Before anything is changed: whether the receivers are those that were found. Raises Unroutable.

        deduplicated: what comes before it in the same commit, by topic and dedup_id; it is added.
        """
        topic, said = self._topic, self._said
        numbers = txn.topic_numbers(topic.id)
        is_forgetful = numbers.forgettable > 0
        if numbers.version != self._version or is_forgetful > topic.is_forgetful:
            return False
        self._leaves_work = numbers.removed > 0
        if said.dedup is not None:
            first = self._found_first(txn, said.dedup, deduplicated)
            if first is not self._first and first != self._first:
                self._first, self._version = first, -1
                return False
            if first is not None:
                return True
        self.fed = {parts[0] for parts, _ in txn.entries(FEED, topic.id)} if numbers.feeds else set()
        if not self._receivers and said.mandatory:
            raise Unroutable(
                f"nobody subscribes to {said.extras['routing_key']!r} of topic {topic.name!r}: nothing was stored"
            )
        return True

    def _found_first(
        self, txn: Any, dedup: bytes, deduplicated: dict[tuple[int, bytes], Publishing]
    ) -> int | Publishing | None:
        entry = txn.entry(DEDUP, self._topic.id, (dedup,))
        if entry is not None and entry[1] > self._engine.timeline.now_ns(STABLE):
            return int(entry[0])
        first = deduplicated.setdefault((self._topic.id, dedup), self)
        return None if first is self else first

    @property
    def is_kept(self) -> bool:
        """Whether anything is to be stored."""
        wanted = bool(self._receivers) or self._topic.options.keeps_for_replay or self._said.retain
        return wanted and self._first is None

    @property
    def size(self) -> int:
        """Bytes that its bodies take in the log."""
        return sum(map(self._engine.log.footprint, self._bodies)) if self.is_kept else 0

    def keep(self, txn: Any) -> list[int]:
        """Store the bodies; their ids."""
        if self._first is not None:
            first = self._first.outcome[0][0] if isinstance(self._first, Publishing) else self._first
            self.outcome = [(first, 0)]
            return []
        if not self.is_kept:
            self.outcome = [(0, 0)] * len(self._bodies)
            return []
        numbers = [txn.keep(self._topic.id, body) for body in self._bodies]
        self.outcome = [(number, len(self._receivers)) for number in numbers]
        return numbers

    def complete(self, txn: Any, numbers: list[int]) -> None:
        """What the topic keeps of them for later, once the references are stored."""
        engine, topic, said = self._engine, self._topic, self._said
        for number in numbers:
            if topic.options.keeps_for_replay:
                keep_for_replay(engine.log, txn, topic, number, txn.kept(topic.id, number), self._key)
            if said.retain:
                retain(txn, topic.id, digest(said.extras["routing_key"]), number)
        if numbers and topic.options.keeps_for_replay:
            trim(engine, txn, topic, TRIMMED_AT_ONCE * len(numbers))
        if numbers and said.dedup is not None:
            now_ns = engine.timeline.now_ns(STABLE)
            txn.remember_id(topic.id, said.dedup, numbers[0], now_ns, now_ns + ns_of(topic.options.dedup_window))

    def conclude(self) -> None:
        """After the commit: count what nobody got, and do what was found to be left to do."""
        self._topic.unroutable += sum(number == 0 for number, _ in self.outcome)
        if self._leaves_work:
            subscriptions.care(self._engine, self._topic)
