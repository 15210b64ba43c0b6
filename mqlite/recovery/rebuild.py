"""The new log, made of what was staged: messages and rows; topics.py does what topics keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..errors import MqliteError
from ..log import DEAD_BIT, Definition
from ..log import format as fmt
from ..log.index import DEDUP, LOW_MASK
from ..log.rebuild import RebuildLog, RebuildTxn
from ..message import Marks, Record
from ..system.clock import LINES
from .staging import Staged
from .tally import Tally

#: What is done in one commit: so many records, or so many bytes of them, whichever comes first.
AT_ONCE = 1024
BYTES_AT_ONCE = 4 << 20
_LEGACY_LINE = 255  # of queue 0: what is done when a process dies
_ENTRIES = 3  # of indexes that a message has, about


class Task(NamedTuple):
    """Something to be written: about how many bytes, and what to do."""

    size: int
    do: Callable[[RebuildTxn], object]


class Rebuild:
    """One run of it. states: what is sure, then what lies about besides, of which nothing is taken twice."""

    def __init__(self, tally: Tally, log: RebuildLog, states: tuple[Staged, Staged]) -> None:
        self.tally = tally
        self.log = log
        self.states = states

    def apply(self, tasks: Iterable[Task]) -> None:
        """Do them, some in each commit. Raises StoreFull."""
        batch: list[Task] = []
        size = 0

        def op(txn: Any) -> None:
            txn.reserve(size)
            for task in batch:
                task.do(txn)

        for task in tasks:
            batch.append(task)
            size += task.size
            if len(batch) >= AT_ONCE or size >= BYTES_AT_ONCE:
                self.log.write(op)
                batch, size = [], 0
        if batch:
            self.log.write(op)

    def definitions(self) -> Iterator[Task]:
        """All that is declared."""
        for definition in self.tally.definitions.values():
            yield Task(1024, partial(_restore, definition=definition))

    def records(self) -> Iterator[Task]:
        """All messages, rows and keys that are remembered."""
        for state in self.states:
            for dead in (DEAD_BIT, 0):  # of what moved the last place counts
                for definition in self.tally.of_kind("queue", "subscription"):
                    yield from self._waiting(state, definition.id | dead, LINES)
                    yield from self._in_line(state, definition.id | dead)
            yield from self._waiting(state, 0, (_LEGACY_LINE,))
            for definition in self.tally.of_kind("table"):
                yield from self._rows(state, definition.id)
            for queue in [0, *(each.id for each in self.tally.of_kind("queue", "subscription", "topic"))]:
                yield from self._once(state, queue)

    # ------------------------------------------------------------------ messages
    def _in_line(self, state: Staged, queue: int) -> Iterator[Task]:
        for position, raw in state.scan(queue):
            record = self.log.decode(queue, position, raw)
            self.tally.saw(record.id)
            if record.marks is None or record.marks.rank is None:  # with ageing the place is no number
                low = position & LOW_MASK
                self.tally.saw(min(low, LOW_MASK - low))
            if self._has_body(queue, record):
                put = partial(self._put, state=state, queue=queue, position=position, record=record)
                yield Task(len(raw) + _ENTRIES * fmt.OVERHEAD_BYTES, put)

    def _waiting(self, state: Staged, queue: int, lines: Iterable[int]) -> Iterator[Task]:
        for line in lines:
            for key, due_ns, raw in state.delayed(queue, line):
                rank, record = self.log.decode_delayed(key, raw)
                self.tally.saw(record.id)
                self.tally.saw(fmt.delayed_parts(key)[3])
                record.due = (line, due_ns)
                if self._has_body(queue, record):
                    delay = partial(self._delay, state=state, queue=queue, rank=rank, record=record)
                    yield Task(len(raw) + _ENTRIES * fmt.OVERHEAD_BYTES, delay)

    def _has_body(self, queue: int, record: Record) -> bool:
        source = (record.marks or Marks()).source
        if source is None or self.body(source[0], record.id) is not None:
            return True
        self.tally.problems.append(
            f"message {record.id} of queue {self.tally.name_of(queue)!r} is lost: what the topic kept of it is gone"
        )
        return False

    def body(self, topic: int, number: int) -> bytes | None:
        """What a topic keeps under an id."""
        if topic not in self.tally.definitions:
            return None
        found, besides = self.states
        return found.kept(topic, number) or besides.kept(topic, number)

    def _put(self, txn: RebuildTxn, state: Staged, queue: int, position: int, record: Record) -> None:
        if state is self.states[0] or not is_there(txn, queue, record.id):
            txn.restore_message(queue, position, self.log.prepare(record))
            self._count(queue, record)

    def _delay(self, txn: RebuildTxn, state: Staged, queue: int, rank: int, record: Record) -> None:
        name = (record.marks or Marks()).timer
        if state is self.states[1] and (is_there(txn, queue, record.id) or (name and txn.is_scheduled(queue, name))):
            return
        txn.delay(queue, rank, self.log.prepare(record), record.id)
        if queue:  # else it is no message of anybody's
            self._count(queue, record)

    def _count(self, queue: int, record: Record) -> None:
        self.tally.messages[queue] += 1
        source = (record.marks or Marks()).source
        if source is not None:
            self.tally.references[source[0], record.id] += 1

    # ------------------------------------------------------------------ rows, and what is done once
    def _rows(self, state: Staged, table: int) -> Iterator[Task]:
        version = 0
        with contextlib.suppress(MqliteError):
            version = state.table_numbers(table).version
        self.tally.saw(version)
        for key, row in state.rows(table):
            self.tally.saw(row.version)
            self.tally.rows += 1
            size = len(key) + len(row.payload[1]) + fmt.OVERHEAD_BYTES
            yield Task(size, partial(RebuildTxn.restore_row, table=table, key=key, row=row, version=version))

    def _once(self, state: Staged, queue: int) -> Iterator[Task]:
        """dedup_ids that are remembered, and the keys of tx.once."""
        for (digest,), value in state.entries(DEDUP, queue):
            if state is self.states[0] or self.states[0].entry(DEDUP, queue, (digest,)) is None:
                yield Task(512, partial(RebuildTxn.restore_once, queue=queue, digest=digest, value=value))


def is_there(txn: RebuildTxn, queue: int, number: int) -> bool:
    """Whether a message is in a queue, or among its dead letters, already."""
    return any(txn.place(each, number) is not None for each in (queue & ~DEAD_BIT, queue | DEAD_BIT))


def _restore(txn: RebuildTxn, definition: Definition) -> None:
    txn.restore_definition(definition)
    if definition.kind == "binding":
        txn.restore_member(definition.details["topic"], definition.id, definition.details["queue"])
