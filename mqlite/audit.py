"""The invariants of a store, looked at all at once.

The log is read under its write lock and the claims under theirs, so that what is
found is one state. Cost: a walk over all pages, all messages and all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .audit_tables import table_problems
from .audit_topics import References, topic_problems
from .claims import Row
from .engine import Engine, QueueState
from .engine.catalog import Catalog
from .errors import MessageCorrupted
from .log import DEAD_BIT, Log
from .log.index import (
    DEDUP,
    DEDUP_END,
    EXPIRY,
    GROUP,
    KINDS,
    PLACE,
    REMOVED,
    REPLACE,
    TIMER,
    UNIQUE,
    Parts,
    Place,
    follows,
    in_line,
    order_of,
)
from .message import Record, rank_at
from .system.clock import LINES
from .system.structure import Progress


def problems(engine: Engine, progress: Progress | None = None) -> list[str]:
    """What is wrong, in words; [] when all is well.

    Looked at: the pages of the file, and if they are whole: checksums; counters and indexes against messages; every
    message reachable (ahead of its cursor, claimed, given back, or waiting for its group: L1); claims and returns not
    on one position; the numbers of claims; claims of living owners only; what topics keep against the references to
    it; the numbers of tables against their rows. Not what was given back and is gone, as a kill leaves it: who claims
    next drops it. progress(done, total): told now and then how many pages were looked at.
    """

    def op(txn: Any) -> list[str]:
        found = engine.log.structure_problems(progress)
        if not found:  # LMDB can walk it
            with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
                found = log_problems(engine.log, engine.catalog, txn, c)
        return found

    return engine.log.hold(op)  # in the transaction of a group it would see the work of others half done


def log_problems(log: Log, catalog: Catalog, txn: Any, c: Any = None) -> list[str]:
    """What is wrong in one state of the log, in words. c: the claims under their lock; None: they are not looked at.

    Raises StoreCorrupted where a record of the store itself is damaged.
    """
    found: list[str] = []
    definitions = txn.definitions()
    references: References = Counter()
    for number in [each.id for each in definitions if each.kind in ("queue", "subscription")]:
        for queue in (number, number | DEAD_BIT):
            state = catalog.state(queue, txn)
            audit = _Audit(log, txn, c, state, references)
            found.extend(f"queue {state.name!r}: {problem}" for problem in audit.problems())
    for (number,), _ in txn.entries(REMOVED, 0):  # they still refer to bodies
        state = catalog.state(number, txn)
        found.extend(_Audit(log, txn, c, state, references).problems())
    if c is not None:
        found.extend(c.problems())
    found.extend(topic_problems(log, txn, definitions, references))
    found.extend(table_problems(log, txn, definitions))
    return found


class _Audit:
    """One queue."""

    def __init__(self, log: Log, txn: Any, c: Any, queue: QueueState, references: References) -> None:
        self._log = log
        self._txn = txn
        self._c = c
        self._state = queue
        self._queue = queue.id
        self._references = references  # to bodies, of all queues: added to
        self._found: list[str] = []
        self._ids: set[int] = set()
        self._entries: dict[int, dict[Parts, Parts]] = {kind: {} for kind in KINDS}  # as the messages have it
        self._timers = 0

    def problems(self) -> list[str]:
        """In words."""
        c, txn, queue = self._c, self._txn, self._queue
        rows: dict[int, Row] = {}
        returned: dict[int, Any] = {}
        ahead: set[int] = set()
        if c is not None:
            rows = {position: row for _, position, row in c.rows(queue)}
            returned = dict(c.returned(queue))
            cursor = (lambda rank: c.cursor(queue, rank)) if self._state.has_cursors else (lambda rank: -1)
            ahead = {position for position, _ in txn.ahead(queue, cursor)}
        seen, size, total = set(), 0, 0
        behind: dict[int, int] = {}  # id -> position, of what can only be waiting for its group
        for position, raw in txn.scan(queue):
            seen.add(position)
            size += self._log.weight(raw)
            total += self._log.sum_of(raw)
            record = self._read(self._log.decode, queue, position, raw)
            if record is None:
                continue
            self._expect(record, rank_at(position, record.marks), in_line(position))
            if position not in ahead and position not in rows and position not in returned:
                behind[record.id] = position
        waiting = 0
        for line in LINES:
            for key, due_ns, raw in txn.delayed(queue, line):
                record = self._read(lambda *stored: self._log.decode_delayed(*stored)[1], key, raw)
                total += self._log.sum_of(raw)
                if not self._log.is_schedule(raw):
                    waiting += 1
                    size += self._log.weight(raw)
                else:
                    self._timers += 1
                if record is not None:
                    rank = self._log.decode_delayed(key, raw)[0]
                    at = Place(1, line, due_ns, rank, self._low(key))
                    self._expect(record, rank, at)
        if c is not None:
            self._found.extend(self._hidden(behind))
            self._found.extend(self._claims(rows, set(returned)))
        self._found.extend(self._counts(len(seen), waiting, size))
        self._found.extend(self._indexes())
        counters = txn.counters(queue)
        missing = counters.put_sum - counters.removed_sum - total
        if not self._found and counters.put_sum >= 0 and missing % (1 << 63):
            self._found.append("the messages are not those of one commit: their checksums do not add up")
        return self._found

    @staticmethod
    def _low(key: Any) -> int:
        return int.from_bytes(key[-8:], "big") if isinstance(key, bytes) else int(key[3])

    def _read(self, decode: Callable[..., Any], *arguments: Any) -> Record | None:
        """The record, if it is whole; its id is looked at."""
        try:
            record: Record = decode(*arguments)
        except MessageCorrupted as error:
            self._found.append(str(error))
            return None
        if record.id in self._ids:
            self._found.append(f"two messages have the id {record.id}")
        self._ids.add(record.id)
        return record

    def _expect(self, record: Record, rank: int, place: Place) -> None:
        """The entries that follow from a message."""
        entries, marks, number = self._entries, record.marks, record.id
        if place.waits or not follows(place.position, number):
            entries[PLACE][(number,)] = tuple(place)
        if marks is None:
            return
        if marks.group is not None and (record.delivery_count or not place.waits):
            entries[GROUP][(marks.group, rank, order_of(marks, place.low, number))] = (number,)
        if marks.expires is not None:
            entries[EXPIRY][(*marks.expires, number)] = (rank,)
        if marks.replace is not None:
            entries[REPLACE].setdefault((marks.replace,), ())
            entries[REPLACE][(marks.replace,)] += (number,)
        if marks.unique is not None:
            entries[UNIQUE][(marks.unique, number)] = ()
        if marks.source is not None:
            self._references[marks.source[0], number] += 1
        if marks.timer is not None:
            entries[TIMER][(marks.timer,)] = (number,)

    def _hidden(self, behind: dict[int, int]) -> Iterator[str]:
        """Of what lies behind its cursor: that which no group holds back."""
        blocked: set[int] = set()
        for group in {group for group, _, _ in self._entries[GROUP]}:
            free = self._state.limit_of(group) - self._c.in_flight(self._queue, group)
            for _, number in self._txn.members(self._queue, group):
                place = self._txn.place(self._queue, number)
                held = place is not None and (place.waits or self._c.row(self._queue, place.position) is not None)
                if held and self._state.limit_of(group) == 1:
                    free = 0
                if not held and free > 0:
                    free -= 1
                elif not held:
                    blocked.add(number)
        for number in behind.keys() - blocked:
            yield f"message {number} is hidden: behind the cursor, neither claimed nor given back"

    def _claims(self, rows: dict[int, Row], returned: set[int]) -> Iterator[str]:
        c, queue, owners = self._c, self._queue, set(self._c.owners())
        for position, row in rows.items():
            if row.owner not in owners:
                yield f"the position {position:#x} is claimed by a process that has left"
        if c.claimed(queue) != len(rows):
            yield f"{len(rows)} claims exist, {c.claimed(queue)} are counted"
        for group, count in Counter(row.group for row in rows.values() if row.group).items():
            if c.in_flight(queue, group) != count:
                yield f"{count} claims of one group exist, {c.in_flight(queue, group)} are counted"
        for position in rows.keys() & returned:
            yield f"the position {position:#x} is claimed and given back at once"

    def _counts(self, in_line: int, waiting: int, size: int) -> Iterator[str]:
        counters = self._txn.counters(self._queue)
        counted = {
            "messages are stored": (in_line + waiting, counters.total),
            "messages are delayed": (waiting, counters.delayed),
            "bytes are stored": (size, counters.bytes),
            "messages are in groups": (len(self._entries[GROUP]), counters.grouped),
            "messages have a time to live": (len(self._entries[EXPIRY]), counters.expiring),
            "schedules are stored": (self._timers, counters.timers),
        }
        for what, (there, number) in counted.items():
            if there != number:
                yield f"{there} {what}, {number} are counted"

    def _indexes(self) -> Iterator[str]:
        """Entries without a message, and messages without their entries."""
        for kind, expected in self._entries.items():
            entries = dict(self._txn.entries(kind, self._queue))
            if kind == REPLACE:  # of one of them, while the newest was not removed
                expected = {parts: value for parts, value in entries.items() if value[0] in expected.get(parts, ())}
            if kind not in (DEDUP, DEDUP_END) and entries != expected:
                wrong = len(entries.items() ^ expected.items())
                yield f"{wrong} entries of index {kind} do not agree with the messages"
        ends = {(value[1], parts[0]) for parts, value in self._txn.entries(DEDUP, self._queue)}
        if ends != {parts for parts, _ in self._txn.entries(DEDUP_END, self._queue)}:
            yield "the dedup_ids and their times do not agree"
