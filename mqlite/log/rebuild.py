"""A log made anew from the records of another one, each where it was and under its own id. See ../recovery.py.

Counters and the indexes of messages follow from what is put. What topics keep is put as it was, and the references to
it are told at the end, when all are known. Nobody else has the log open.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..errors import MqliteError
from ..message import Position, Record, rank_at
from . import Definition, Row, counting, entries, rows
from . import format as fmt
from .index import DEDUP, DEDUP_END, FEED, FORGOTTEN, MEMBER, REFERENCES, REPLACE, RETAINED, TIMER, Parts
from .lmdb import LmdbLog
from .lmdb_txn import LmdbTxn


def is_whole(key: bytes, value: bytes) -> bool:
    """Whether a record is what was once stored: by its checksum, or of one that has none by its form."""
    kind = key[:1]
    check = _CHECKS.get((kind, len(key))) or _CHECKS.get((kind, 0))
    if check is None:
        return entries.is_entry(key, value)
    try:
        return check(key, value)
    except (MqliteError, ValueError, TypeError):
        return False


def _passes(*_: object) -> bool:
    """What was called has not raised."""
    return True


_CHECKS: dict[tuple[bytes, int], Callable[[bytes, bytes], bool]] = {
    (fmt.STORE_KEY, 1): lambda key, value: _passes(fmt.unpacked_store(value)),
    (fmt.FOLDED_KEY, 1): lambda key, value: _passes(fmt.unpacked_folded(value)),
    (fmt.SEQ_KEY, 1): lambda key, value: _passes(counting.unpacked_seq(value)),
    (fmt.LAST_QUEUE_KEY, 1): lambda key, value: _passes(counting.unpacked_last_queue(value)),
    (fmt.DEFINITION, 0): lambda key, value: fmt.unpacked_definition(value).name.encode() == key[1:],
    (fmt.NAME, 5): lambda key, value: _passes(value.decode()),
    (rows.NUMBERS, 5): lambda key, value: _passes(rows.unpacked_numbers(int.from_bytes(key[1:], "big"), value)),
    (rows.ROW, 0): lambda key, value: len(key) >= rows.PREFIX_BYTES and _passes(rows.unpacked_row(key, value)),
    (fmt.MESSAGE, 5): lambda key, value: _passes(counting.unpacked_counters(None, value)),
    (fmt.MESSAGE, 18): lambda key, value: _passes(counting.unpacked_counters(value, None)),
    (fmt.MESSAGE, fmt.MESSAGE_KEY_BYTES): fmt.is_whole,
    (fmt.KEPT, 14): lambda key, value: _passes(counting.unpacked_topic(value)),
    (fmt.KEPT, fmt.KEPT_KEY_BYTES): fmt.is_whole,
    (fmt.DELAYED, fmt.DELAYED_KEY_BYTES): fmt.is_whole,
}


def newer(key: bytes, one: bytes, other: bytes) -> bool:
    """Whether, of two whole records under one key, the first was stored later, as far as they tell."""
    return _age(key, one) > _age(key, other)


def _age(key: bytes, value: bytes) -> tuple[int, ...]:
    kind = key[:1]
    if kind == fmt.DEFINITION:
        definition = fmt.unpacked_definition(value)
        return definition.id, definition.version
    if kind == rows.ROW:
        return (rows.unpacked_row(key, value).version,)
    if kind in (fmt.MESSAGE, fmt.KEPT, fmt.DELAYED) and len(key) in _RECORD_KEYS:
        return fmt.id_of(value), fmt.failures_of(value)
    return (int.from_bytes(value, "big"),)  # counters, and the ids in an index, only grow


_RECORD_KEYS = (fmt.MESSAGE_KEY_BYTES, fmt.KEPT_KEY_BYTES, fmt.DELAYED_KEY_BYTES)


class RebuildTxn(LmdbTxn):
    """The write transaction of a log that is made anew."""

    def refer(self, topic: int, number: int, change: int) -> None:
        """Not counted here, but by who knows all of them: see `restore_body`."""

    def start(self, seq: int, last_number: int) -> None:
        """No number up to these is given out again."""
        self.put_raw(fmt.SEQ_KEY, counting.packed_seq(seq))
        self.put_raw(fmt.LAST_QUEUE_KEY, counting.packed_last_queue(last_number))

    def restore_definition(self, definition: Definition) -> None:
        """With the number that it had."""
        self.put_raw(fmt.queue_key(fmt.NAME, definition.id), definition.name.encode())
        self.define(definition)

    def restore_message(self, queue: int, position: Position, draft: fmt.Draft) -> None:
        """At the position, and under the id, that it had."""
        record: Record = draft.record
        self.append(queue, rank_at(position, record.marks), draft, record.id, lambda rank, seq: position)

    def is_scheduled(self, queue: int, name: bytes) -> bool:
        """Whether there is a schedule of that name."""
        return self.entry(TIMER, queue, (name,)) is not None

    def restore_body(self, topic: int, number: int, value: bytes, references: int) -> None:
        """What a topic keeps, to which so many refer."""
        numbers = self.topic_numbers(topic)
        self.put_raw(fmt.kept_key(topic, number), value)
        if references != 1:
            self.enter(REFERENCES, topic, (number,), (references,))
        numbers.stored += 1
        numbers.stored_bytes += len(value)
        numbers.last = max(numbers.last, number)

    def restore_key(self, topic: int, key: bytes, number: int) -> None:
        """The newest of the bodies with a key."""
        self.enter(REPLACE, topic, (key,), (number,))

    def restore_retained(self, topic: int, routing_key: bytes, number: int) -> None:
        """What new subscriptions get of a routing key."""
        self.enter(RETAINED, topic, (routing_key,), (number,))

    def restore_member(self, topic: int, binding: int, queue: int) -> None:
        """A queue that the topic feeds."""
        self.enter(MEMBER, topic, (binding,), (queue,))

    def restore_feed(self, topic: int, queue: int, value: Parts) -> None:
        """Something that is to be replayed to a queue."""
        self.enter(FEED, topic, (queue,), value)
        self.count(queue, 0, 0, 0, 1)
        self.topic_numbers(topic).feeds += 1

    def restore_forgotten(self, topic: int, parts: Parts) -> None:
        """When a subscription goes that nobody uses."""
        self.enter(FORGOTTEN, topic, parts)
        self.topic_numbers(topic).forgettable += 1

    def restore_once(self, queue: int, digest: bytes, value: Parts) -> None:
        """A dedup_id, or a key of tx.once, that is remembered."""
        self.enter(DEDUP, queue, (digest,), value)
        self.enter(DEDUP_END, queue, (value[1], digest))

    def restore_row(self, table: int, key: bytes, row: Row, version: int) -> None:
        """With the version that it had; that of the table is `version`, or its own if that is greater."""
        version = max(version, self.table_numbers(table).version, row.version)
        self.put_row(table, key, row.payload, row.version)
        self._tables[table] = attrs.evolve(self._tables[table], version=version)


class RebuildLog(LmdbLog):
    """A log whose transactions are of that kind."""

    _transaction = RebuildTxn
