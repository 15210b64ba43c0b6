"""The log: what exists. A returned put is in it; an acknowledgement removes it.

`memory.py` keeps it in sorted containers, `lmdb.py` on disk. Both give:

    log.write(op)    runs op(txn) alone among all writers and commits what it changed;
                     an op raises an MqliteError only before its first change, changes
                     nothing but the log, and may be run again in another transaction
    log.hold(op)     runs op(txn) alone among all writers, once; op changes only claims
    log.read()       a snapshot (a context manager) of the last commit

and call `after_commit(notes)` after each commit with the notes that the ops left; `before_commit(notes)`, alone among
all writers, before one that waits for the disk; and `after_failure()`, still alone, where changes were not committed,
which ops may have read.

Positions   rank << 64 | seq; a greater seq is never followed by a smaller one in
            any commit order, and no seq is used twice (L1, the rule that the
            cursors of the claims rest on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs

from ..codecs import Payload
from ..message import Due, Marks, Position, Record
from ..system.structure import Progress
from .index import Indexed, Indexing, Place

# The protocol speaks of these: users of the log have them from here.
from .numbers import Counters as Counters
from .numbers import Gauges as Gauges
from .numbers import TableNumbers as TableNumbers
from .numbers import TopicNumbers as TopicNumbers

T = TypeVar("T")
#: What the engine leaves for itself to do after the commit.
Note = tuple[Any, ...]
#: Where a delayed message lies in its queue. They sort by line, then by time.
DelayedKey = Any
#: A record made ready for the log outside of any lock (log.prepare). `due` is that of the record.
Draft = Any
#: A stored record, not yet looked at (log.decode).
Raw = Any
#: What a Record has behind its payload, read from the stored one, claimed once more; see `Record.rest`.
Rest = Callable[[Raw], Sequence[Any]]
#: Where a new message lines up: (rank, its seq) -> position. None: at the end of its rank.
Lineup = Callable[[int, int], Position] | None

#: The dead-letter queue of a queue has the queue's id with this bit set.
DEAD_BIT = 1 << 31


@attrs.define(eq=False)
class Batch:
    """New messages without marks that ask for nothing but room, made ready for the log outside of any lock
    (log.prepare_all): one column for each thing to know of them.

    ranks: of their priorities; payloads, extras: as in a Record; times: when they were put. largest: bytes of the
    largest body; footprint: bytes that they take in the log, for `reserve`.
    """

    ranks: Sequence[int]
    payloads: Sequence[Any]
    times: Sequence[int]
    extras: Sequence[dict[str, Any] | None]
    largest: int
    footprint: int

    def __len__(self) -> int:
        return len(self.ranks)

    def records(self) -> Iterator[Record]:
        """One by one, for what is not done with all at once."""
        return map(Record, self.payloads, self.times, repeat(0), repeat(0), repeat(0), self.extras)


class Row(NamedTuple):
    """What a table holds under a key. version: the seq that came with the change that stored it."""

    version: int
    payload: Payload


@attrs.define
class Definition:
    """Something declared, by its name: its id, the stored options, and how often they were changed.

    kind     "queue", "topic", "subscription" (a queue of a topic), "binding" (of a topic to a queue), or "table"
    details  what else is known of what belongs to topics, see engine/topics.py
    """

    id: int
    name: str
    options: dict[str, Any]
    version: int = 1
    kind: str = "queue"
    details: dict[str, Any] = attrs.field(factory=dict)


class InLine(NamedTuple):
    """Stored records that are first in line. keys: theirs on disk; none in memory."""

    positions: Sequence[Position]
    raws: Sequence[Raw]
    keys: Sequence[bytes] = ()


class Snapshot(Indexed, Protocol):
    """The log as of one commit."""

    def __enter__(self) -> Snapshot: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...
    def counters(self, queue: int) -> Counters:
        """The numbers of a queue; not to be changed."""

    def gauges(self, queue: int) -> Gauges:
        """Part of its numbers, and cheaper alone."""

    def next_due(self, queue: int, line: int) -> int | None:
        """When the earliest message that waits on a line of time is due; its bytes are not copied."""

    def delayed(self, queue: int, line: int, until_ns: int | None = None) -> Iterator[tuple[DelayedKey, int, Raw]]:
        """(key, when it is due, stored record) of what waits on a line of time, up to and with `until_ns`, the
        earliest first. To be used up before the snapshot ends.
        """

    def delayed_key(self, queue: int, place: Place) -> DelayedKey:
        """The key of a message that waits at that place."""

    def delayed_at(self, queue: int, key: DelayedKey) -> Raw | None:
        """The stored record of a message that waits, or None."""

    def raw(self, queue: int, position: Position) -> Raw | None:
        """The stored record at a position, or None."""

    def has(self, queue: int, position: Position) -> bool:
        """Whether there is a record at a position."""

    def has_all(self, queue: int, positions: list[Position]) -> bool:
        """Whether there are records at all of these positions."""

    def look_up(self, queue: int, position: Position) -> Raw | None:
        """As `raw`, also for what nobody was handed yet: in memory O(n), unless the queue is ordered otherwise."""

    def ahead(self, queue: int, cursor: Callable[[int], Position]) -> Iterator[tuple[Position, Raw]]:
        """Stored records behind `cursor(rank)` of their rank, in delivery order. To be used up before the
        snapshot ends.
        """

    def scan(self, queue: int, start: Position = 0) -> Iterator[tuple[Position, Raw]]:
        """All stored records from a position on, in delivery order."""

    def kept(self, topic: int, number: int) -> Raw | None:
        """The body that a topic keeps under an id."""

    def all_kept(self, topic: int, start: int = 0) -> Iterator[tuple[int, Raw]]:
        """(id, body) of all that a topic keeps, from an id on. To be used up before the snapshot ends."""

    def topic_numbers(self, topic: int) -> TopicNumbers:
        """The numbers of a topic; to be changed in the write transaction only."""

    def table_numbers(self, table: int) -> TableNumbers:
        """The numbers of a table; zeros where nothing was ever stored. Raises StoreCorrupted."""

    def row(self, table: int, key: bytes) -> Row | None:
        """The row of a key, or None. Raises StoreCorrupted where it does not match its checksum."""

    def rows(
        self, table: int, start: bytes = b"", stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, Row]]:
        """(key, row) with start <= key < stop (None: to the end of the table), in byte order of the keys or backwards.
        To be used up before the snapshot ends; the table is not to be changed meanwhile. Raises as `row`, at the
        damaged row. O(log n), and O(1) each.
        """

    def raw_rows(
        self, table: int, start: bytes = b"", stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, Raw]]:
        """As `rows`, not yet looked at (log.decode_row): damage ends nothing."""

    def last_seq(self) -> int:
        """No seq was given that is greater. In memory it is used up by being asked for."""

    def oldest_ns(self, queue: int) -> int | None:
        """When the oldest stored message was put, among the first and the last of each rank."""

    def definition(self, name: str) -> Definition | None:
        """The queue of that name."""

    def definition_by_id(self, queue: int) -> Definition | None:
        """The queue of that id."""

    def definitions(self) -> list[Definition]:
        """All declared queues, by name."""


class Txn(Snapshot, Indexing, Protocol):
    """The one write transaction; sees its own changes."""

    notes: list[Note]

    def reserve(self, size_bytes: int) -> None:
        """Raises StoreFull unless there is room for that much more, and for acknowledgements after it."""

    def append(
        self, queue: int, rank: int, draft: Draft, message_id: int = 0, lineup: Lineup = None, seq: int = 0
    ) -> int:
        """Store at a new position; returns the message's id, a new one unless it has one. seq: that of `keep` in this
        very transaction; it becomes the id.
        """

    def append_all(self, queue: int, batch: Batch) -> list[int]:
        """The same for all of these, each at the end of its rank; their ids."""

    def replace(self, queue: int, position: Position, draft: Draft, seq: int = 0) -> int:
        """Store in the place of the message at a position; returns the new one's id. seq: see `append`."""

    def delay(self, queue: int, rank: int, draft: Draft, message_id: int = 0) -> int:
        """Store a message that waits until `draft.due`; returns its id, as `append`."""

    def undelay(self, queue: int, key: DelayedKey) -> Raw | None:
        """Take a delayed record out; None (and no change) where there is none."""

    def remove(self, queue: int, position: Position) -> Raw | None:
        """Take a record out; None (and no change) where there is none."""

    def remove_all(self, queue: int, positions: list[Position]) -> bool:
        """Take out the records at all of these positions, each named once; False, and no change, unless there are
        records at all of them.
        """

    def note_settled_alone(self) -> None:
        """The row of a message that was removed in this transaction is to be postponed (`Claims.postpone`)."""

    def pull(self, queue: int, position: Position) -> Raw | None:
        """As `remove`, also of what nobody was handed yet."""

    def define(self, definition: Definition) -> None:
        """Store a definition, new or changed. A new one has id 0 and is given one, which was never used."""

    def undefine(self, definition: Definition) -> None:
        """Remove a definition."""

    def wipe(self, queue: int) -> None:
        """Remove the numbers of a queue that is gone."""

    def keep(self, topic: int, draft: Draft) -> int:
        """A topic keeps a body as long as anybody refers to it; its id, a new one."""

    def next_seq(self) -> int:
        """A new number, greater than all before (L1): the version of what a transaction changes in tables."""

    def put_row(self, table: int, key: bytes, payload: Payload, version: int) -> None:
        """Store a row, new or changed; it may have been damaged. Raises StoreCorrupted where the numbers of the table
        are damaged.
        """

    def drop_row(self, table: int, key: bytes, version: int) -> bool:
        """Remove a row, damaged or not; whether there was one, and no change where there was none. Raises as
        `put_row`.
        """


class Log(Protocol):
    """See the top of this module."""

    one_lock: bool
    before_commit: Callable[[list[Note]], None]
    after_commit: Callable[[list[Note]], None]
    after_failure: Callable[[], None]

    def write(self, op: Callable[[Any], T]) -> T:
        """Run `op(txn)` and commit. Raises what op raised, or why it could not be committed."""

    def append_alone(
        self,
        queue: int,
        version: int,
        maxsize: int,
        rank: int,
        payload: Payload,
        now_ns: int,
        check: Callable[[], object],
        note: Note,
    ) -> int:
        """`write` of one plain message, if no other thread writes or waits, as alone.py says; its id. 0, and nothing
        changed: write it.
        """

    def remove_alone(self, queue: int, position: Position, raw: Raw, check: Callable[[], object], note: Note) -> bool:
        """The same for the removal of one that is stored so; False: write it."""

    def hold(self, op: Callable[[Any], T]) -> T:
        """Run `op(txn)` under the write lock once, without a commit: for ops that change the claims only."""

    def read(self) -> Snapshot:
        """A snapshot; keep it short. What passes by (front.py) is in it only after a `fold`."""

    def fold(self) -> None:
        """Under no lock: what was put before the call is in the next snapshot, and its claims in theirs. [29]"""

    def folded(self) -> AbstractContextManager[Any]:
        """Hold L for a block, in which nothing passes by."""

    def hides_nothing(self) -> bool:
        """For who holds C: whether nothing that he would miss here passes by, and was there before he had it. [34]"""

    def is_folded(self) -> bool:
        """Whether nothing at all passes by at the moment."""

    def first_in_line(
        self, queue: int, version: int, cursor: Callable[[int], Position | None], count: int
    ) -> InLine | None:
        """Under C: of a queue that has cursors, the first stored records behind them, in delivery order. None where a
        cursor is None; where any message of the queue has a group, expires or waits for its time; and where its
        settings have another version.
        """

    def glance(self) -> Snapshot:
        """A snapshot for who holds C, the write lock of the claims, to its end."""

    def prepare(self, record: Record) -> Draft:
        """All work on a record that needs no lock."""

    def prepare_all(
        self,
        ranks: Sequence[int],
        payloads: Sequence[Any],
        times: Sequence[int],
        extras: Sequence[dict[str, Any] | None],
    ) -> Batch:
        """The same for many messages; see `Batch`."""

    def decode_delayed(self, key: DelayedKey, raw: Raw) -> tuple[int, Record]:
        """(rank, record) of a delayed message. Raises MessageCorrupted."""

    def salvage_delayed(self, key: DelayedKey, raw: Raw, now_ns: int) -> tuple[int, Record]:
        """(rank, a record that carries the bytes) of a damaged one."""

    def size_of(self, payload: Any) -> int:
        """Bytes of a body, as far as they are known."""

    def stored_bytes(self, draft: Draft) -> int:
        """What a draft adds to `Counters.bytes`."""

    def weight(self, raw: Raw) -> int:
        """What a stored record counts for in `Counters.bytes`."""

    def sum_of(self, raw: Raw) -> int:
        """What a stored record counts in the sums of its queue; 0 in memory."""

    def record_of(self, draft: Draft) -> Record:
        """What a draft was made of."""

    def is_whole(self, key: DelayedKey, raw: Raw) -> bool:
        """Whether a stored record that waits matches its checksum."""

    def group_of(self, raw: Raw) -> int:
        """The group of a stored record, unchecked; 0 where it has none."""

    def number_of(self, raw: Raw) -> int:
        """The id of a stored message, unchecked."""

    def is_schedule(self, raw: Raw) -> bool:
        """Whether a stored record is the template of a schedule, unchecked."""

    def footprint(self, draft: Draft) -> int:
        """Bytes that a draft takes in the log, for `reserve`."""

    def decode(self, queue: int, position: Position, raw: Raw) -> Record:
        """The record. Raises MessageCorrupted where its checksum does not match."""

    def claimed(self, queue: int, position: Position, raw: Raw, failures: int, acquired: int) -> Record:
        """As `decode`, a record of its own, with so many more failures and claims."""

    def claimed_all(self, found: InLine) -> tuple[Sequence[Any], Iterable[Rest]]:
        """The same of many that are claimed for the first time since they were stored: their payloads, and what reads
        the rest of each. Raises MessageCorrupted where one does not match its checksum.
        """

    def salvage(self, queue: int, position: Position, raw: Raw, now_ns: int) -> Record:
        """A record that carries the bytes of a damaged one."""

    def refer_to(self, record: Record, topic: int, number: int, marks: Marks, due: Due | None) -> Draft:
        """A reference to what a topic keeps under that number (0: not yet). marks: all but the source."""

    def is_reference(self, raw: Raw) -> bool:
        """Whether a stored record is one, unchecked."""

    def decode_kept(self, topic: int, number: int, raw: Raw) -> Record:
        """The record of what a topic keeps. Raises MessageCorrupted."""

    def resolved(self, snapshot: Snapshot, record: Record) -> Record:
        """A record with its body, which a topic may keep. Raises MessageCorrupted."""

    def body_of(self, snapshot: Snapshot, raw: Raw) -> Raw | None:
        """What a topic keeps of a stored reference, for `joined`; None where the record has all."""

    def joined(self, record: Record, raw: Raw) -> Record:
        """As `resolved`, with what `body_of` found. Raises MessageCorrupted."""

    def key_of(self, raw: Raw) -> bytes | None:
        """The digest of the key of what a topic keeps, unchecked."""

    def size_of_kept(self, raw: Raw) -> int:
        """Bytes of what a topic keeps."""

    def row_bytes(self, payload: Payload) -> int:
        """Bytes that a row takes in the log besides its key, for `reserve`."""

    def decode_row(self, table: int, key: bytes, raw: Raw) -> Row:
        """A row. Raises StoreCorrupted where it does not match its checksum."""

    def sum_of_row(self, raw: Raw) -> int:
        """What a row counts in the sum of its table; 0 in memory."""

    def size_of_row(self, raw: Raw) -> int:
        """What a stored row counts for in `TableNumbers.bytes`, besides its key."""

    def enqueued_ns(self, raw: Raw) -> int:
        """When a stored record was put, unchecked."""

    def structure_problems(self, progress: Progress | None) -> list[str]:
        """Under the write lock: what is wrong with the pages of the file, in words; [] where all is well, and in
        memory. While anything is, no record is to be looked at. progress is told pages. O(pages).
        """
