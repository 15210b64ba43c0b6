"""The invariants of a store, looked at all at once.

The log is read under its write lock and the claims under theirs, so that what is
found is one state. Cost: a walk over all messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .claims import Row
from .engine import Engine
from .errors import MessageCorrupted
from .log import DEAD_BIT
from .message import Record
from .system.clock import LINES


def problems(engine: Engine) -> list[str]:
    """What is wrong, in words; [] when all is well.

    Looked at: checksums; counters against messages; every message reachable (ahead of
    its cursor, claimed, or given back: L1); claims and returns not on one position;
    the number of claims; claims of living owners only on messages that exist.
    """

    def op(txn: Any) -> list[str]:
        found: list[str] = []
        with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
            names = {definition.id: definition.name for definition in txn.definitions()}
            for number, name in list(names.items()):
                for queue, label in ((number, name), (number | DEAD_BIT, f"{name}.dead")):
                    found.extend(f"queue {label!r}: {problem}" for problem in _queue_problems(engine, txn, c, queue))
        return found

    return engine.log.write(op)


def _size(engine: Engine, raw: Any) -> int:
    return len(raw) if isinstance(raw, bytes) else engine.log.size_of(raw)


def _queue_problems(engine: Engine, txn: Any, c: Any, queue: int) -> list[str]:
    found = []
    rows: dict[int, Row] = {position: row for _, position, row in c.rows(queue)}
    returned = dict(c.returned(queue))
    ahead = {position for position, _ in txn.ahead(queue, lambda rank: c.cursor(queue, rank))}
    seen, size = set(), 0
    ids: set[int] = set()

    def read(decode: Callable[..., Any], *arguments: Any) -> Record | None:
        """The record, if it is whole; its id is looked at."""
        try:
            record: Record = decode(*arguments)
        except MessageCorrupted as error:
            found.append(str(error))
            return None
        if record.id in ids:
            found.append(f"two messages have the id {record.id}")
        ids.add(record.id)
        return record

    for position, raw in txn.scan(queue):
        seen.add(position)
        size += _size(engine, raw)
        record = read(engine.log.decode, queue, position, raw)
        if record is None:
            continue
        if position not in ahead and position not in rows and position not in returned:
            found.append(f"message {record.id} is hidden: behind the cursor, neither claimed nor given back")
    delayed = [(key, raw) for line in LINES for key, _, raw in txn.delayed(queue, line)]
    for key, raw in delayed:
        size += _size(engine, raw)
        read(lambda *stored: engine.log.decode_delayed(*stored)[1], key, raw)
    owners = set(c.owners())
    found.extend(
        f"the position {position:#x} is claimed by a process that has left"
        for position, row in rows.items()
        if row.owner not in owners
    )
    counters = txn.counters(queue)
    if counters.total != len(seen) + len(delayed):
        found.append(f"{len(seen) + len(delayed)} messages are stored, {counters.total} are counted")
    if counters.delayed != len(delayed):
        found.append(f"{len(delayed)} messages are delayed, {counters.delayed} are counted")
    if counters.bytes != size:
        found.append(f"{size} bytes are stored, {counters.bytes} are counted")
    if c.claimed(queue) != len(rows):
        found.append(f"{len(rows)} claims exist, {c.claimed(queue)} are counted")
    found.extend(
        f"the position {position:#x} is claimed and given back at once" for position in rows.keys() & returned.keys()
    )
    found.extend(f"the position {position:#x} was given back, and is gone" for position in returned.keys() - seen)
    return found
