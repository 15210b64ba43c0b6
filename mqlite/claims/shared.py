"""The claims on disk queues, shared by all processes of one boot.

One LMDB environment without flushes, wholly preallocated: it lives in the page cache,
survives any kill -9, and is thrown away at the next boot, when nobody holds anything.
One tree; all integers big-endian; q = queue u32:

    63 c  q | rank u32             position                     cursor: handed out up to here
    43 C                           u64                          number of cursors
    64 d  q                        deadline u64                 no row times out earlier
    67 g                           u64                          generation of owners and seats, 48 bits | seats, 16 bits
    47 G  q | group u64            u64                          rows of that group
    61 a                           i64                          turns the monotonic clock into the stable line of time
    6b k  q                        u64                          number of rows
    6f o  owner u64                -                            a process that joined
    70 p  q                        u64                          what a rate limit goes by
    52 R  q | position             token, owner, deadline u64 | flags u8 | failures, acquired u32 (| group u64)
    73 s  q                        mode u8                      shut down
    74 t  q | owner u64            count i64                    open tasks
    75 u  q                        group u64                    whose turn was last
    77 w  q | kind u8 | sleeper u64 | owner u64   wake u64      a registered sleeper
    78 x  q                        owner, number u64            seat: the consumer that has the queue for itself
    72 r  q | position             failures, acquired u32       given back

C1  `k` is the number of `R` keys of its queue, and `G` of those of its group, in every commit.
C2  A position is under R or r, not both.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import struct
from collections.abc import Iterator
from typing import Any

import lmdb

from ..errors import Closed
from ..message import Position
from ..system.environment import Environment
from ..system.level import Unflushed
from ..system.snapshot import LmdbView
from . import Kind, Returned, Row, Shut, Waiting

MAP_BYTES = 16 << 20
#: Claims are refused beyond this many entries, so that the preallocated file always has room to give back.
MAX_ENTRIES = 65536
#: Cursors (one per priority in use) are forgotten when there are more; they are shortcuts only.
MAX_CURSORS = 4096

_tokens = itertools.count(1)
_Q = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_ROW = struct.Struct(">QQQBII")
_ROW_IN_GROUP = struct.Struct(">QQQBIIQ")
_SEAT = struct.Struct(">QQ")
_SEATS_MASK = 0xFFFF
_RETURNED = struct.Struct(">II")
_WAITER = struct.Struct(">BQQ")


@functools.lru_cache(maxsize=1024)
def _key(kind: bytes, queue: int) -> bytes:
    return kind + _Q.pack(queue)


def _row(value: bytes) -> Row:
    return Row(*(_ROW if len(value) == _ROW.size else _ROW_IN_GROUP).unpack(value))


def _packed(row: Row) -> bytes:
    return _ROW_IN_GROUP.pack(*row) if row.group else _ROW.pack(*row[:-1])


def _at(kind: bytes, queue: int, position: Position) -> bytes:
    return _key(kind, queue) + position.to_bytes(12, "big")


class _Reading:
    """What can be read in any transaction."""

    _txn: Any = None

    def _walk(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        walk = self._txn.cursor()
        found = walk.set_range(prefix)
        while found:
            key = walk.key()
            if not key.startswith(prefix):
                return
            yield key, walk.value()
            found = walk.next()

    def _number(self, key: bytes) -> int:
        value = self._txn.get(key)
        return 0 if value is None else int.from_bytes(value, "big")

    def row(self, queue: int, position: Position) -> Row | None:
        """The claim on a position."""
        value = self._txn.get(_at(b"R", queue, position))
        return None if value is None else _row(value)

    def rows(self, queue: int | None = None) -> Iterator[tuple[int, Position, Row]]:
        """(queue, position, claim)."""
        prefix = b"R" if queue is None else _key(b"R", queue)
        for key, value in self._walk(prefix):
            yield int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:], "big"), _row(value)

    def returned(self, queue: int) -> Iterator[tuple[Position, Returned]]:
        """Positions given back."""
        for key, value in self._walk(_key(b"r", queue)):
            yield int.from_bytes(key[5:], "big"), Returned._make(_RETURNED.unpack(value))

    def cursor(self, queue: int, rank: int) -> Position:
        """The last position handed out."""
        value = self._txn.get(_key(b"c", queue) + _Q.pack(rank))
        return -1 if value is None else int.from_bytes(value, "big")

    def has_passed(self, queue: int, position: Position) -> bool:
        """Whether a position lies behind the cursor of its rank."""
        return position <= self.cursor(queue, position >> 64)

    def may_hide(self, queue: int) -> bool:
        """Not known without a look at each group."""
        return True

    def in_flight(self, queue: int, group: int) -> int:
        """How many rows of a group."""
        return self._number(_key(b"G", queue) + _U64.pack(group))

    def pace_ns(self, queue: int) -> int:
        """What a rate limit goes by."""
        return self._number(_key(b"p", queue))

    def turn(self, queue: int) -> int:
        """The group that had its turn last."""
        value = self._txn.get(_key(b"u", queue))
        return -1 if value is None else int.from_bytes(value, "big")

    def seat(self, queue: int) -> tuple[int, int] | None:
        """The consumer that has the queue for itself."""
        value = self._txn.get(_key(b"x", queue))
        return None if value is None else _SEAT.unpack(value)

    def seats(self) -> list[tuple[int, int]]:
        """(queue, owner) of all of these."""
        return [(int.from_bytes(key[1:], "big"), _SEAT.unpack(value)[0]) for key, value in self._walk(b"x")]

    def claimed(self, queue: int) -> int:
        """How many rows."""
        return self._number(_key(b"k", queue))

    def deadline_ns(self, queue: int) -> int:
        """The earliest deadline."""
        return self._number(_key(b"d", queue))

    def returned_at(self, queue: int, position: Position) -> Returned | None:
        """What is remembered of a position that was given back."""
        value = self._txn.get(_at(b"r", queue, position))
        return None if value is None else Returned._make(_RETURNED.unpack(value))

    def deadlines(self) -> list[int]:
        """Queues with a noted deadline."""
        return [int.from_bytes(key[1:], "big") for key, _ in self._walk(b"d")]

    def waiting(self, queue: int, kind: Kind) -> Iterator[Waiting]:
        """Registered sleepers."""
        for key, value in self._walk(_key(b"w", queue) + bytes([kind])):
            _, sleeper, owner = _WAITER.unpack(key[5:])
            yield Waiting(sleeper, owner, int.from_bytes(value, "big"))

    def anybody(self) -> bool:
        """Whether a sleeper is registered."""
        walk = self._txn.cursor()
        return bool(walk.set_range(b"w")) and walk.key()[:1] == b"w"

    def tasks(self, queue: int) -> dict[int, int]:
        """Open tasks per owner."""
        return {int.from_bytes(key[5:], "big"): _I64.unpack(value)[0] for key, value in self._walk(_key(b"t", queue))}

    def shut(self, queue: int) -> Shut:
        """Whether the queue was shut down."""
        value = self._txn.get(_key(b"s", queue))
        return Shut.OPEN if value is None else Shut(value[0])

    def owners(self) -> list[int]:
        """Processes that joined."""
        return [int.from_bytes(key[1:], "big") for key, _ in self._walk(b"o")]

    @property
    def commit(self) -> int:
        """The number of the commit that this is the state of."""
        return int(self._txn.id())

    def generation(self) -> int:
        """Grows with every change of owners or seats."""
        return self._number(b"g")

    def any_seat(self, generation: int) -> bool:
        """Whether any consumer has a queue for itself."""
        return generation & _SEATS_MASK > 0

    def observers(self, queue: int) -> list[Kind]:
        """The kinds for which somebody is registered. One seek where nobody is."""
        prefix = _key(b"w", queue)
        walk = self._txn.cursor()
        found = []
        for kind in (Kind.DONE, Kind.LEVEL, Kind.STANDBY):
            if not walk.set_range(prefix + bytes([kind])) or not walk.key().startswith(prefix):
                break
            if walk.key()[5] == kind:
                found.append(kind)
        return found

    def all_waiting(self) -> list[Waiting]:
        """Registered sleepers of all queues."""
        found = []
        for key, value in self._walk(b"w"):
            _, sleeper, owner = _WAITER.unpack(key[5:])
            found.append(Waiting(sleeper, owner, int.from_bytes(value, "big")))
        return found


class SharedView(LmdbView, _Reading):
    """One state of the claims."""


class SharedTxn(_Reading):
    """The write transaction: entered, it begins; left, it commits, or aborts on an error."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __enter__(self) -> SharedTxn:
        self._counts: dict[int, int] = {}  # changes of `k`, and new cursors: stored once, at the end
        self._cursors: dict[bytes, Position] = {}
        self._room = -1
        self._txn = self._environment.begin_write()
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            if kind is None:
                self._store_numbers()
                self._txn.commit()
            else:
                self._txn.abort()
        except lmdb.Error as failure:  # an interrupt leaves the transaction to the guard
            with contextlib.suppress(lmdb.Error):
                self._txn.abort()
            self._environment.end_write()
            raise self._environment.failed(failure) from failure
        self._environment.end_write()
        if error is not None and isinstance(error, lmdb.Error):
            raise self._environment.failed(error) from error

    def _store_numbers(self) -> None:
        for queue, change in self._counts.items():
            key = _key(b"k", queue)
            self._txn.put(key, _U64.pack(self._number(key) + change))
        for key, position in self._cursors.items():
            if self._txn.replace(key, position.to_bytes(12, "big")) is None:
                self._count_cursor(key)

    def _count_cursor(self, new: bytes) -> None:
        cursors = self._number(b"C") + 1
        if cursors > MAX_CURSORS:
            for other in [other for other, _ in self._walk(b"c") if other != new]:
                self._txn.delete(other)
            cursors = 1
        self._txn.put(b"C", _U64.pack(cursors))

    def claimed(self, queue: int) -> int:
        """How many rows, with those of this transaction."""
        return super().claimed(queue) + self._counts.get(queue, 0)

    @property
    def token(self) -> int:
        """A number that no claim of this process had before.

        Not the number of the transaction: after an abort the next one has it again, and the
        interrupted claimer would give back another's claim.
        """
        return next(_tokens)

    def _count(self, queue: int, change: int) -> None:
        self._counts[queue] = self._counts.get(queue, 0) + change

    def has_room(self) -> bool:
        """Whether there are fewer than MAX_ENTRIES entries. What was given back is there already, and needs no room."""
        if self._room < 0:
            self._room = max(0, MAX_ENTRIES - int(self._txn.stat(self._environment.main)["entries"]))
        self._room -= 1
        return self._room >= 0

    def claim(self, queue: int, position: Position, row: Row) -> bool:
        """Make a row."""
        if not self._txn.put(_at(b"R", queue, position), _packed(row), overwrite=False):
            return False
        self._count(queue, 1)
        if row.group:
            self._count_in_group(queue, row.group, 1)
        return True

    def _count_in_group(self, queue: int, group: int, change: int) -> None:
        key = _key(b"G", queue) + _U64.pack(group)
        left = self._number(key) + change
        if left:
            self._txn.put(key, _U64.pack(left))
        else:
            self._txn.delete(key)

    def replace(self, queue: int, position: Position, row: Row) -> None:
        """Change a row."""
        self._txn.put(_at(b"R", queue, position), _packed(row))

    def drop(self, queue: int, position: Position, group: int = 0) -> bool:
        """Remove a row."""
        found: bool = self._txn.delete(_at(b"R", queue, position))
        if found:
            self._count(queue, -1)
            if group:
                self._count_in_group(queue, group, -1)
        return found

    def give_back(self, queue: int, position: Position, returned: Returned, group: int = 0) -> None:
        """Row -> returned."""
        self.drop(queue, position, group)
        self._txn.put(_at(b"r", queue, position), _RETURNED.pack(*returned))

    def take_returned(self, queue: int, position: Position) -> None:
        """Forget a returned position."""
        self._txn.delete(_at(b"r", queue, position))

    def advance(self, queue: int, position: Position) -> None:
        """Move a cursor."""
        self._cursors[_key(b"c", queue) + _Q.pack(position >> 64)] = position

    def forget_cursors(self, queue: int | None = None) -> None:
        """Of a queue, or of all."""
        prefix = b"c" if queue is None else _key(b"c", queue)
        keys = [key for key, _ in self._walk(prefix)]
        for key in keys:
            self._txn.delete(key)
        if keys:
            self._txn.put(b"C", _U64.pack(max(0, self._number(b"C") - len(keys))))

    def forget_queue(self, queue: int) -> None:
        """All but its sleepers."""
        self.forget_cursors(queue)
        if self.seat(queue) is not None:
            self.set_seat(queue, None)
        for kind in (b"R", b"r", b"G", b"d", b"k", b"p", b"s", b"t", b"u"):
            for key in [key for key, _ in self._walk(_key(kind, queue))]:
                self._txn.delete(key)
        self._counts.pop(queue, None)

    def set_pace(self, queue: int, pace_ns: int) -> None:
        """Set what a rate limit goes by."""
        self._txn.put(_key(b"p", queue), _U64.pack(pace_ns))

    def set_turn(self, queue: int, group: int) -> None:
        """Set whose turn was last."""
        self._txn.put(_key(b"u", queue), _U64.pack(group))

    def set_seat(self, queue: int, seat: tuple[int, int] | None) -> None:
        """Set who has the queue for himself."""
        key = _key(b"x", queue)
        had = self._txn.get(key) is not None
        if seat is None:
            self._txn.delete(key)
        else:
            self._txn.put(key, _SEAT.pack(*seat))
        self._next_generation((seat is not None) - had)

    def note_deadline(self, queue: int, deadline_ns: int) -> None:
        """Set the earliest deadline."""
        self._txn.put(_key(b"d", queue), _U64.pack(deadline_ns))

    def register(self, queue: int, kind: Kind, waiting: Waiting) -> None:
        """Add or change a sleeper."""
        self._txn.put(
            _key(b"w", queue) + _WAITER.pack(kind, waiting.sleeper, waiting.owner), _U64.pack(waiting.wake_ns)
        )

    def leave(self, queue: int, kind: Kind, sleeper: int, owner: int) -> None:
        """Remove a sleeper."""
        self._txn.delete(_key(b"w", queue) + _WAITER.pack(kind, sleeper, owner))

    def leave_all(self, owner: int) -> list[int]:
        """Remove all sleepers and tasks of an owner."""
        number = _U64.pack(owner)
        tasks = [key for key, _ in self._walk(b"t") if key[5:] == number]
        for key in tasks + [key for key, _ in self._walk(b"w") if key[-8:] == number]:
            self._txn.delete(key)
        return [int.from_bytes(key[1:5], "big") for key in tasks]

    def add_tasks(self, queue: int, owner: int, count: int) -> None:
        """Count tasks."""
        key = _key(b"t", queue) + _U64.pack(owner)
        value = self._txn.get(key)
        self._txn.put(key, _I64.pack((0 if value is None else _I64.unpack(value)[0]) + count))

    def set_shut(self, queue: int, mode: Shut) -> None:
        """Shut a queue down."""
        self._txn.put(_key(b"s", queue), bytes([mode]))

    def forget_shutdowns(self) -> None:
        """Open all queues again."""
        for key in [key for key, _ in self._walk(b"s")]:
            self._txn.delete(key)

    def anchor_ns(self, now_ns: int) -> int:
        """What is stored, or is now."""
        value = self._txn.get(b"a")
        if value is None:
            self._txn.put(b"a", _I64.pack(now_ns))
            return now_ns
        return int(_I64.unpack(value)[0])

    def require(self, owner: int) -> None:
        """Raises Closed where that owner has left."""
        if self._txn.get(b"o" + _U64.pack(owner)) is None:
            raise Closed("the store was closed meanwhile: open it again to use it")

    def add_owner(self, owner: int) -> None:
        """A process joins."""
        self._txn.put(b"o" + _U64.pack(owner), b"-")
        self._next_generation()

    def remove_owner(self, owner: int) -> None:
        """A process is gone."""
        if self._txn.delete(b"o" + _U64.pack(owner)):
            self._next_generation()

    def _next_generation(self, seats: int = 0) -> None:
        generation = self.generation()
        following = (generation | _SEATS_MASK) + 1
        self._txn.put(b"g", _U64.pack(following | ((generation & _SEATS_MASK) + seats)))


class SharedClaims:
    """See the top of this module.

    lock is this process's part of C (LMDB's own mutex is the other); guard ends a write
    transaction that an interrupt left open.
    """

    ring_unseats = False  # it would cost a commit per ring

    def __init__(self, path: str) -> None:
        self.environment = Environment(path, map_size=MAP_BYTES, level=Unflushed())
        self.lock = self.environment.write_lock
        self.guard = self.environment

    def open(self) -> None:
        """Open the file now, made if missing; the caller is alone in that. Raises StoreError, StoreFull."""
        if not os.path.exists(self.environment.path):
            self.environment.create_preallocated()
        self.environment.ensure_open()

    def after_fork(self) -> None:
        """In a forked child: start afresh."""
        self.environment.forget()
        self.lock = self.environment.write_lock

    def anchor_ns(self, now_ns: int) -> int:
        """The number that all processes of this boot go by; `now_ns` where there was none."""
        with self.lock, self.guard, self.write() as c:
            return c.anchor_ns(now_ns)

    def write(self) -> SharedTxn:
        """The write transaction; the caller holds `lock` and `guard`."""
        return SharedTxn(self.environment)

    def last_commit(self) -> int:
        """The number of the last commit, also of other processes."""
        return self.environment.last_txnid()

    def read(self) -> SharedView:
        """A snapshot of the last commit."""
        return SharedView(self.environment)
