"""What one topic keeps, put into the new log when all messages are there that refer to it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs

from ..engine import replay
from ..engine.catalog import QueueState
from ..engine.order import lineup_of
from ..engine.topics import Binding
from ..errors import MessageCorrupted, MqliteError
from ..log import Definition
from ..log import format as fmt
from ..log.index import FEED, FORGOTTEN, RETAINED, Parts
from ..log.rebuild import RebuildLog, RebuildTxn
from ..message import digest
from ..options import TopicOptions
from ..system.clock import LINES, SystemClock, Timeline, anchor_of
from .rebuild import Rebuild, Task, is_there


@attrs.frozen
class _Now:
    """What a reference to something kept is made with."""

    log: RebuildLog
    timeline: Timeline


@attrs.frozen
class _Wanted:
    """What the old store says of what the topic has to keep: the results of the functions with these names.

    times: how often an id is among `retained`.
    """

    numbers: Any
    newest_of_keys: dict[bytes, int]
    retained: dict[bytes, int]
    fed_from: int | None
    times: Counter[int]


class TopicRebuild:
    """One topic."""

    def __init__(self, rebuild: Rebuild, definition: Definition) -> None:
        self._rebuild = rebuild
        self._tally = rebuild.tally
        self._topic = definition.id
        self._options = TopicOptions(**definition.options)
        self._now = _Now(rebuild.log, Timeline(SystemClock(), anchor_of(SystemClock())))

    # ------------------------------------------------------------------ messages that nobody has
    def orphans(self) -> Iterator[Task]:
        """References to what is kept though nobody refers to it any more, for the subscriptions that have lost some."""
        fed = [(definition, binding) for definition, binding in self._fed() if self._misses_some(definition.id)]
        if not fed:
            return
        wanted = self._wanted()
        for number, raw in self._bodies():
            is_kept, _, _ = self._use(number, raw, wanted)
            if is_kept:
                continue
            record = self._rebuild.log.decode_kept(self._topic, number, raw)
            for definition, binding in fed:
                if binding.wants(replay.rank_in(record), record.extras or {}):
                    refer = partial(self._refer, definition=definition, record=record)
                    yield Task(4 * fmt.OVERHEAD_BYTES, refer)

    def _fed(self) -> Iterator[tuple[Definition, Binding]]:
        for each in self._tally.of_kind("binding"):
            if each.details["topic"] == self._topic:
                yield self._tally.definitions[each.details["queue"]], Binding.of(each)

    def _misses_some(self, queue: int) -> bool:
        """Whether a queue has lost messages, or may have."""
        counters = next(filter(None, (state.told_counters(queue) for state in self._rebuild.states)), None)
        return counters is None or counters.total > self._tally.messages[queue]

    def _refer(self, txn: RebuildTxn, definition: Definition, record: Any) -> None:
        if is_there(txn, definition.id, record.id):
            return
        queue = QueueState.of(definition)
        queue.topic = self._topic
        due, rank, draft = replay.reference_to(self._now, queue, record)  # type: ignore[arg-type]
        if due is not None:
            txn.delay(queue.id, rank, draft, record.id)
        else:
            lineup = lineup_of(queue.options, self._now.timeline)
            position = rank << 64 | record.id if lineup is None else lineup(rank, record.id)
            txn.append(queue.id, rank, draft, record.id, lambda rank, seq: position)
        self._tally.messages[queue.id] += 1
        self._tally.references[self._topic, record.id] += 1

    # ------------------------------------------------------------------ what is kept
    def kept(self) -> Iterator[Task]:
        """All that somebody refers to, or will."""
        topic, tally = self._topic, self._tally
        wanted = self._wanted()
        yield Task(512, partial(self._begin, numbers=wanted.numbers))
        for number, raw in self._bodies():
            tally.saw(number)
            is_kept, count, for_replay = self._use(number, raw, wanted)
            if is_kept:
                tally.kept += 1
                keep = partial(self._keep, number=number, raw=raw, count=count, for_replay=for_replay)
                yield Task(len(raw) + fmt.OVERHEAD_BYTES, keep)
        for key, number in wanted.newest_of_keys.items():
            yield Task(128, partial(RebuildTxn.restore_key, topic=topic, key=key, number=number))
        for key, number in wanted.retained.items():
            yield Task(128, partial(RebuildTxn.restore_retained, topic=topic, routing_key=key, number=number))
        for queue, value in self._feeds().items():
            yield Task(128, partial(RebuildTxn.restore_feed, topic=topic, queue=queue, value=value))
        for parts in self._forgotten():
            yield Task(128, partial(RebuildTxn.restore_forgotten, topic=topic, parts=parts))

    def _bodies(self) -> Iterator[tuple[int, bytes]]:
        """All whole ones, each once."""
        found, besides = self._rebuild.states
        yield from found.all_kept(self._topic)
        for number, raw in besides.all_kept(self._topic):
            if found.kept(self._topic, number) is None:
                yield number, raw

    def _wanted(self) -> _Wanted:
        retained = self._retained()
        times = Counter(retained.values())
        return _Wanted(self._numbers(), self._newest_of_keys(), retained, self._fed_from(), times)

    def _use(self, number: int, raw: bytes, wanted: _Wanted) -> tuple[bool, int, bool]:
        """(whether a body is kept, how many refer to it, whether it is among those for replay)."""
        for_replay = self._is_for_replay(number, raw, wanted)
        count = self._tally.references[self._topic, number] + wanted.times[number] + for_replay
        return count > 0 or (wanted.fed_from is not None and number >= wanted.fed_from), count, for_replay

    def _is_for_replay(self, number: int, raw: bytes, wanted: _Wanted) -> bool:
        key = self._rebuild.log.key_of(raw)
        kept = self._options.keeps_for_replay and number >= wanted.numbers.first
        return kept and (key is None or wanted.newest_of_keys.get(key) == number)

    def _numbers(self) -> Any:
        """As the old store had them."""
        for state in self._rebuild.states:
            with contextlib.suppress(MqliteError):
                numbers = state.topic_numbers(self._topic)
                if numbers.version:
                    return numbers
        numbers = state.topic_numbers(-1 & 0xFFFFFFFF)  # of no topic: nothing
        numbers.first = min((number for number, _ in self._bodies()), default=0)
        return numbers

    def _begin(self, txn: RebuildTxn, numbers: Any) -> None:
        own = txn.topic_numbers(self._topic)
        own.version = numbers.version + 1
        for name in ("first", "trimmed", "trimmed_ns", "last", "published", "parted"):
            setattr(own, name, getattr(numbers, name))

    def _keep(self, txn: RebuildTxn, number: int, raw: bytes, count: int, for_replay: bool) -> None:
        txn.restore_body(self._topic, number, raw, count)
        numbers = txn.topic_numbers(self._topic)
        numbers.published = max(numbers.published, numbers.stored)
        if for_replay:
            numbers.retained += 1
            numbers.retained_bytes += len(raw)

    def _newest_of_keys(self) -> dict[bytes, int]:
        """key -> id, of a topic that keeps the newest message of each."""
        newest: dict[bytes, int] = {}
        for number, raw in self._bodies() if self._options.compact else ():
            key = self._rebuild.log.key_of(raw)
            if key is not None:
                newest[key] = max(number, newest.get(key, 0))
        return newest

    def _retained(self) -> dict[bytes, int]:
        """routing key -> id, where that message is there and has that routing key."""
        retained: dict[bytes, int] = {}
        for state in self._rebuild.states:
            for (key,), (number,) in state.entries(RETAINED, self._topic):
                raw = self._rebuild.body(self._topic, number)
                if raw is None or key in retained:
                    continue
                with contextlib.suppress(MessageCorrupted):
                    extras = self._rebuild.log.decode_kept(self._topic, number, raw).extras or {}
                    if digest(extras.get("routing_key", "")) == key:
                        retained[key] = number
        return retained

    def _feeds(self) -> dict[int, Parts]:
        """queue -> what is still to be replayed to it, of queues that the topic feeds."""
        fed = {definition.id for definition, _ in self._fed()}
        feeds: dict[int, Parts] = {}
        for state in self._rebuild.states:
            for (queue,), value in state.entries(FEED, self._topic):
                if queue in fed:
                    feeds.setdefault(queue, value)
        return feeds

    def _fed_from(self) -> int | None:
        """The first id that is kept for those."""
        return min((value[2] for value in self._feeds().values()), default=None)

    def _forgotten(self) -> Iterator[Parts]:
        """When subscriptions go that nobody uses; each once."""
        seen: set[int] = set()
        for state in self._rebuild.states:
            for line in LINES:
                for parts, _ in state.entries(FORGOTTEN, self._topic, (line,)):
                    definition = self._tally.definitions.get(parts[2])
                    expires = definition is not None and definition.details.get("expires_after") is not None
                    if expires and parts[2] not in seen:
                        seen.add(parts[2])
                        yield parts
