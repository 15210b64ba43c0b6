"""How a message is published: its body kept once, a reference to each queue that gets it, in one commit. [22]

Who gets it is found out before the commit, without a lock; the commit makes sure that no member
came or went meanwhile, or it is found out again. A queue that asks more of a put than room
(engine/putting.py: Admission) is asked like by a put, so a message comes to all of them or to none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from ..claims import Kind
from ..errors import Full, MessageTooLarge, Unroutable
from ..log import Draft
from ..log.index import DEDUP, FEED
from ..message import DEFAULT_RANK, Due, Marks, Record, digest
from ..system.clock import STABLE
from ..waiting import Interrupt, Seat
from . import subscriptions
from .catalog import QueueState
from .order import lineup_of, marks_in
from .parts import ns_of
from .putting import Admission
from .retention import TRIMMED_AT_ONCE, keep_for_replay, retain, trim
from .steps import ARRIVED
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
    """One publish: tried until it is stored or refused.

    guard(txn), under L: called when nothing keeps it from being stored any more; False: it is not stored.
    """

    def __init__(
        self, engine: Engine, topic: TopicState, publication: Publication, guard: Callable[[Any], bool] | None = None
    ) -> None:
        self._engine = engine
        self._topic = topic
        self._said = publication
        self._guard = guard
        self._key: bytes | None = None
        if topic.options.compact:
            self._key = publication.replace or digest(publication.extras["routing_key"])
        self._bodies = publication.bodies(engine, self._key)
        self._records = [engine.log.record_of(draft) for draft in self._bodies]
        self._size = sum(engine.log.footprint(draft) for draft in self._bodies)
        self._version = -1
        self._admissions: dict[int, Admission] = {}
        self._plain: list[tuple[QueueState, list[Draft]]] = []
        self._full: QueueState | None = None
        self.leaves_work = False  # for subscriptions.care

    def publish(self, timeout: float | None, interrupt: Interrupt) -> Outcome:
        """Waits for room as a put does. Raises Full, ShutDown, StoreFull, Unroutable."""
        engine = self._engine
        engine.look_now_and_then()
        end_ns = None if timeout is None else engine.clock.monotonic_ns() + ns_of(timeout)
        try:
            found = self._attempt(interrupt)
            while not found:
                full = self._full
                assert full is not None
                if engine.schedule.care(full.id)[1]:  # what had expired made room
                    found = self._attempt(interrupt)
                    continue
                if full.options.overflow != "block" or timeout == 0:
                    raise self._no_room(full)
                left = None if end_ns is None else max(0, end_ns - engine.clock.monotonic_ns()) / 1e9
                found = engine.waiters.wait(full.id, Kind.SPACE, self._attempt_for(full, interrupt), left, interrupt)
                if found is None:
                    raise self._no_room(full)
            self._topic.unroutable += sum(number == 0 for number, _ in found)
            return found
        finally:
            engine.end_admissions(self._admissions.values())

    def _attempt_for(self, full: QueueState, interrupt: Interrupt) -> Callable[[Seat], Outcome | None]:
        def attempt(seat: Seat) -> Outcome | None:
            found = self._attempt(interrupt)
            if found is None and (self._full is not full or full.options.overflow != "block"):
                return []  # another one is full now, or it has another policy
            return found

        return attempt

    def _attempt(self, interrupt: Interrupt) -> Outcome | None:
        """None where `_full` has no room."""
        engine, topic = self._engine, self._topic
        while True:
            if topic.known < 0 or (topic.is_forgetful and subscriptions.forget_unused(engine, topic)):
                topic.refresh(engine.log)
            if topic.known != self._version:
                self._address()
            found = engine.admit(list(self._admissions.values()), self._op, interrupt)
            if found is not _STALE:
                return found
            topic.refresh(engine.log)

    def _no_room(self, full: QueueState) -> Full:
        return Full(
            f"topic {self._topic.name!r} cannot publish: its queue {full.name!r} has no room "
            f"(maxsize={full.options.maxsize}, maxbytes={full.options.maxbytes}): take some messages, wait with a "
            "timeout, or choose another overflow"
        )

    # ------------------------------------------------------------------ who gets it
    def _address(self) -> None:
        """Find the receivers, and make their references ready."""
        engine, said = self._engine, self._said
        version = self._topic.known  # before the members: those that come later are noticed
        numbers = self._topic.receivers(said.extras["routing_key"], said.rank, said.extras)
        self._plain = []
        drafts: dict[Marks, list[Draft]] = {}
        admissions: dict[int, Admission] = {}
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
            self._check_can_take(queue, drafts[marks])
            if queue.asks_of_puts or said.replace is not None:
                if queue.options.overflow in ("drop_oldest", "dead_letter"):
                    engine.schedule.care(queue.id)  # what has expired makes room before anything else does
                known = self._admissions.get(queue.id)
                ranked = [(said.rank, draft) for draft in drafts[marks]]
                admissions[queue.id] = Admission(engine, queue, ranked) if known is None else known
            else:
                self._plain.append((queue, drafts[marks]))
        engine.end_admissions(each for number, each in self._admissions.items() if number not in admissions)
        self._admissions = admissions
        self._version = version

    def _check_can_take(self, queue: QueueState, references: list[Draft]) -> None:
        engine = self._engine
        engine.check_can_fit(queue, references)
        largest = max(map(engine.log.size_of, self._bodies))
        limit = queue.options.max_message_bytes
        if not queue.topic and largest > limit:
            raise MessageTooLarge(
                f"a body of {largest} bytes is larger than max_message_bytes={limit} of queue {queue.name!r}, which "
                f"topic {self._topic.name!r} feeds: configure(max_message_bytes=...), or unbind it"
            )

    # ------------------------------------------------------------------ under L
    def _op(self, txn: Any) -> Outcome | None:
        engine, topic, said = self._engine, self._topic, self._said
        self._full = None
        for admission in self._admissions.values():
            admission.want_nothing()  # only what is planned now may ask for more
        numbers = txn.topic_numbers(topic.id)
        is_forgetful = numbers.forgettable > 0
        if numbers.version != self._version or is_forgetful > topic.is_forgetful:
            return _STALE
        self.leaves_work = numbers.removed > 0
        if said.dedup is not None:
            entry = txn.entry(DEDUP, topic.id, (said.dedup,))
            if entry is not None and entry[1] > engine.timeline.now_ns(STABLE):
                return [(entry[0], 0)]
        fed = {parts[0] for parts, _ in txn.entries(FEED, topic.id)} if numbers.feeds else set()
        receivers = len(self._plain) + len(self._admissions)
        if not receivers and said.mandatory:
            raise Unroutable(
                f"nobody subscribes to {said.extras['routing_key']!r} of topic {topic.name!r}: nothing was stored"
            )
        if not receivers and not (topic.options.keeps_for_replay or said.retain):
            if self._guard is not None:
                self._guard(txn)
            return [(0, 0)] * len(self._bodies)
        size = self._size
        for queue, drafts in self._plain:
            engine.check_open(queue)
            if queue.id not in fed:
                if not self._has_room(txn, queue, len(drafts)):
                    return _STALE if queue.asks_of_puts else None
                size += sum(map(engine.log.footprint, drafts))
        for admission in self._admissions.values():
            engine.check_open(admission.queue)
        asked = [admission for number, admission in self._admissions.items() if number not in fed]
        for admission in asked:
            if not admission.plan(txn):
                self._full = admission.queue
                return None
            size += admission.size
        txn.reserve(size)
        if self._guard is not None and not self._guard(txn):
            return [(0, 0)] * len(self._bodies)
        return [(number, receivers) for number in self._store(txn, fed, asked)]

    def _has_room(self, txn: Any, queue: QueueState, count: int) -> bool:
        engine = self._engine
        options = engine.catalog.options(queue, txn)
        if queue.asks_of_puts:  # since a moment ago
            self._version = -1
            return False
        if options.maxsize and txn.counters(queue.id).total + count > options.maxsize:
            self._full = queue
            return False
        return True

    def _store(self, txn: Any, fed: set[int], asked: list[Admission]) -> list[int]:
        engine, topic, said = self._engine, self._topic, self._said
        numbers = [txn.keep(topic.id, body) for body in self._bodies]
        for queue, drafts in self._plain:
            if queue.id in fed:
                continue
            lineup = None if queue.has_cursors else lineup_of(queue.options, engine.timeline)
            for number, draft in zip(numbers, drafts, strict=True):
                if draft.due is None:
                    txn.append(queue.id, said.rank, draft, 0, lineup, number)
                else:
                    engine.delay(txn, queue.id, said.rank, draft, number)
            engine.note_expiry(txn, queue.id, map(engine.log.record_of, drafts))
        for admission in asked:
            admission.store(txn, numbers)
        for queue, _ in self._plain:
            if said.due is None or queue.id in fed:
                txn.notes.append((ARRIVED, queue.id))
        for number in self._admissions.keys() & fed:
            txn.notes.append((ARRIVED, number))
        for number in numbers:
            if topic.options.keeps_for_replay:
                keep_for_replay(engine.log, txn, topic, number, txn.kept(topic.id, number), self._key)
            if said.retain:
                retain(txn, topic.id, digest(said.extras["routing_key"]), number)
        if topic.options.keeps_for_replay:
            trim(engine, txn, topic, TRIMMED_AT_ONCE * len(numbers))
        if said.dedup is not None:
            now_ns = engine.timeline.now_ns(STABLE)
            txn.remember_id(topic.id, said.dedup, numbers[0], now_ns, now_ns + ns_of(topic.options.dedup_window))
        return numbers


_STALE: Outcome = []
