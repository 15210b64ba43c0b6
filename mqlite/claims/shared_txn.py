"""The write transaction of the claims on disk. The entries are drawn in `shared.py`."""

from __future__ import annotations

import contextlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import lmdb

from ..message import Position
from ..system.environment import Environment
from . import Returned, Row, runs
from .bench import Bench
from .known import Known, Line
from .postponed import Postponed
from .shared_members import SharedMembers
from .shared_reading import (
    RETURNED,
    SEATS_MASK,
    U64,
    cursor_key,
    key_at,
    key_in,
)

#: Claims are refused beyond this many entries, so that the preallocated file always has room to give back.
MAX_ENTRIES = 32768
#: Cursors (one per priority in use) are forgotten when there are more; they are shortcuts only.
MAX_CURSORS = 4096

#: A number that no claim of this process had before.
next_token = itertools.count(1).__next__


class SharedTxn(SharedMembers):
    """The write transaction: entered, it begins; left, it commits, or aborts on an error. commit: its number.

    The claimers of one group (system/group_commit.py) share it: operations is what they want, supplies what they take
    from, by queue; it is stored at the end.
    """

    changed = True  # to commit nothing costs no more than to abort, and what is known stays known

    def __init__(self, environment: Environment, known: Known, postponed: Postponed, bench: Bench | None) -> None:
        self._environment = environment
        self._bench = bench
        self._known = known
        self._postponed = postponed
        self._cleared = (0, 0)  # how many of the postponed rows are dropped, and how many of them were there
        self._is_bare = False
        self._counts: dict[int, int] = {}  # changes of `k`, and new cursors: stored once, at the end
        self._cursors: dict[bytes, Position] = {}
        self._room = -1  # entries that this transaction can still make; not counted yet
        self.operations: Sequence[Callable[[Any], Any]] = ()
        self.supplies: dict[int, Any] = {}
        self.notes: list[Any] = []  # there is nothing to be done after a commit

    def __enter__(self) -> SharedTxn:
        if self._counts or self._cursors:  # of one that was not committed
            self._counts, self._cursors = {}, {}
        if self.supplies:
            self.supplies = {}
        self._run, self._room = None, -1
        self._is_changed = False
        self._is_known = True  # what it changes is in `_known`, too
        self._txn = txn = self._environment.begin_write()
        self.commit = commit = txn.id()
        self._known.begin(commit)
        self._cleared, self._is_bare = (0, 0), False
        if self._postponed.rows:
            try:
                self._drop_postponed()
            except lmdb.Error as error:
                raise self._environment.failed(error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        try:
            if kind is None:
                self.seal().commit()
                self.committed()
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

    def seal(self) -> Any:
        """All but the commit; returns what commits."""
        if self.supplies:
            for supply in self.supplies.values():
                if supply is not None:
                    supply.store(self)
            self.supplies = {}  # it holds bodies
        if self._counts or self._cursors:
            self._store_numbers()
            self._counts, self._cursors = {}, {}
        return self._txn

    def committed(self) -> None:
        """After the commit, before `Environment.end_write`."""
        if self._cleared[0]:
            self._postponed.cleared(*self._cleared)
        if self._is_bare:
            self._postponed.all_cleared()
        if self._is_known:
            last = self.commit if self._is_changed else self.commit - 1
            self._known.transaction = last
            self._environment.committed(last)
        else:
            self._environment.committed(None)

    def abort(self) -> None:
        """Nothing was changed."""
        self._txn.abort()

    def _drop_postponed(self) -> None:
        """Those that are known now, before the snapshot of the log is opened [8]: that of a message which is settled
        after it must still be met, or the message would be claimed out of the snapshot.
        """
        rows = list(self._postponed.rows)
        by_queue: dict[tuple[int, int], list[Position]] = {}
        for queue, position, owner in rows:
            by_queue.setdefault((queue, owner), []).append(position)
        there = 0
        for (queue, owner), positions in by_queue.items():
            dropped = self.drop_settled(queue, positions)
            if dropped and owner:
                self.add_tasks(queue, owner, dropped)
            there += dropped
        self._cleared = len(rows), there
        self.anybody()  # who settles the next one asks whether anybody waits

    def note_bare(self) -> None:
        """Under L: no row is left whose message is gone, of any process."""
        self._is_bare = True

    def _store_numbers(self) -> None:
        for queue, change in self._counts.items():
            key = key_in(b"k", queue)
            self._changing.put(key, U64.pack(self._number(key) + change))
        for key, position in self._cursors.items():
            if self._changing.replace(key, position.to_bytes(12, "big")) is None:
                self._count_cursor(key)

    def _count_cursor(self, new: bytes) -> None:
        cursors = self._number(b"C") + 1
        if cursors > MAX_CURSORS:
            for other in [other for other, _ in self._walk(b"c") if other != new]:
                self._changing.delete(other)
            cursors = 1
        self._changing.put(b"C", U64.pack(cursors))

    def claimed(self, queue: int) -> int:
        """How many rows, with those of this transaction."""
        return super().claimed(queue) + self._counts.get(queue, 0)

    @property
    def token(self) -> int:
        """A number that no claim of this process had before. Not that of the transaction: after an abort the next one
        has it again, and the interrupted claimer would give back another's claim.
        """
        return next_token()

    def _count(self, queue: int, change: int) -> None:
        self._counts[queue] = self._counts.get(queue, 0) + change

    def has_room(self) -> bool:
        """Whether there are fewer than MAX_ENTRIES entries. What was given back is there already, and needs no room."""
        if self._room < 0:
            self._room = max(0, MAX_ENTRIES - self._entries())
        if not self._room:
            return False
        self._room -= 1
        return True

    def _entries(self) -> int:
        """How many entries there may be when each row is one of its own."""
        return int(self._txn.stat(self._environment.main)["entries"]) + self._extra()

    def line(self, queue: int, generation: int) -> Line | None:
        """What is to be known of a queue whose claimers take what is first in line. generation: of the owners that this
        process watches, negative while it watches nobody yet: some may have died.
        """
        known = self._known
        if generation < 0:
            return None
        if known.generation != generation:
            if self.generation() != generation or generation & SEATS_MASK:
                return None
            known.generation = generation
        line = known.lines.get(queue)
        if line is None:
            if self._txn.get(key_in(b"s", queue)) is not None or self.anything_returned(queue):
                return None
            line = known.lines[queue] = Line(
                key_in(b"R", queue), key_in(b"k", queue), self.claimed(queue), self.deadline_ns(queue)
            )
        return line

    def clear_cursor(self, queue: int, line: Line, rank: int) -> Position | None:
        """The cursor of a rank; None where a row lies ahead of it."""
        position = line.cursors.get(rank)
        if position is None:
            position = self.cursor(queue, rank)
            if self.has_rows_ahead(queue, rank, position):
                return None
            line.cursors[rank] = position
        return position

    def has_room_for(self, count: int) -> bool:
        """Whether so many rows can be made, and as many cursors."""
        known = self._known
        if known.room < 2 * count:  # the entries are counted: 1 us
            known.room = MAX_ENTRIES - self._entries()
        known.room -= 2 * count
        return known.room >= 0

    def claim_in_line(self, queue: int, line: Line, positions: list[Position], alike: list[tuple[Row, int]]) -> None:
        """Make rows for what is first in line: runs, where neighbours are alike."""
        self._is_changed = True
        put, prefix = self._txn.put, line.rows
        newest = positions
        if len(positions) == 1:
            put(prefix + positions[0].to_bytes(12, "big"), runs.packed(alike[0][0]))
        else:
            start = entries = 0
            for row, count in alike:
                for last, length in runs.stretches(positions[start : start + count]):
                    put(prefix + last.to_bytes(12, "big"), runs.packed(row, length))
                    entries += 1
                start += count
            if entries < len(positions):
                self._count_extra(len(positions) - entries)
            newest = positions[-1:]
            if positions[0] >> 64 != newest[0] >> 64:
                newest = list({each >> 64: each for each in positions}.values())
        for position in newest:
            if line.cursors[position >> 64] >= 0:
                line.cursors[position >> 64] = position
                put(cursor_key(queue, position >> 64), position.to_bytes(12, "big"))
            else:  # a new one may make others go
                self.advance(queue, position)
        line.claimed += len(positions)
        put(line.counter, line.claimed.to_bytes(8, "big"))

    def claim_expected(self, queue: int, line: Line, position: Position, row: Row) -> bool:
        """Make a row for what is perhaps still to come, with the cursor left where it is; False where there is one."""
        if self.row(queue, position) is not None:
            return False
        self._txn.put(line.rows + position.to_bytes(12, "big"), runs.packed(row))
        self._is_changed = True
        line.cursors.pop(position >> 64, None)  # a row lies ahead of it now
        line.claimed += 1
        self._txn.put(line.counter, line.claimed.to_bytes(8, "big"))
        return True

    def is_undisturbed(self, commit: int) -> bool:
        """Whether rows that this process made in that commit are as it made them."""
        return self._known.since <= commit or commit == self.commit - 1

    def drop_settled(self, queue: int, positions: list[Position]) -> int:
        """Remove rows that have no group; how many there were."""
        dropped = self._take_out(queue, positions)
        line = self._known.lines.get(queue)
        self._is_changed = True
        if line is None:  # nothing is known of it
            key = key_in(b"k", queue)
            self._txn.put(key, U64.pack(self._number(key) - dropped))
        else:
            line.claimed -= dropped
            self._txn.put(line.counter, line.claimed.to_bytes(8, "big"))
        return dropped

    def _take_out(self, queue: int, positions: list[Position]) -> int:
        """The rows of these positions go, also out of runs; how many there were. They are still counted."""
        prefix, txn = key_in(b"R", queue), self._txn
        self._run = None
        if not self._extra():  # there are no runs
            if len(positions) == 1:
                return int(txn.delete(prefix + positions[0].to_bytes(12, "big")))
            return sum(map(txn.delete, [prefix + position.to_bytes(12, "big") for position in positions]))
        if len(positions) > 1:
            positions = sorted(set(positions))
        walk = txn.cursor()
        at = taken = extra = 0
        while at < len(positions) and walk.set_range(prefix + positions[at].to_bytes(12, "big")):
            key, value = walk.item()
            if not key.startswith(prefix):
                break
            last, count = int.from_bytes(key[5:], "big"), runs.count_of(value)
            if last - count >= positions[at]:
                at = bisect_left(positions, last - count + 1, at + 1)
                continue
            end = bisect_right(positions, last, at)
            left = [] if end - at == count else runs.left_of(last, count, positions[at:end])
            if not left or left[-1][0] != last:
                walk.delete()
            for each, length in left:
                txn.put(prefix + each.to_bytes(12, "big"), runs.shortened(value, length))
            extra += sum([length - 1 for _, length in left]) - (count - 1)
            taken += end - at
            at = end
        if extra:
            self._count_extra(extra)
        return taken

    def _extra(self) -> int:
        """How many rows there are more than entries of rows."""
        known = self._known
        if known.extra < 0:
            known.extra = self._number(b"H")
        return known.extra

    def _count_extra(self, change: int) -> None:
        known = self._known
        known.extra = self._extra() + change
        self._txn.put(b"H", U64.pack(known.extra))

    def anybody(self) -> bool:
        """Whether a sleeper is registered."""
        if self._known.nobody_waits:
            return False
        found = super().anybody()
        self._known.nobody_waits = not found
        return found

    # ------------------------------------------------------------------ rows
    def claim(self, queue: int, position: Position, row: Row) -> bool:
        """Make a row."""
        if self._extra() and self.row(queue, position) is not None:
            return False
        if not self._changing.put(key_at(b"R", queue, position), runs.packed(row), overwrite=False):
            return False
        self._count(queue, 1)
        if row.group:
            self._count_in_group(queue, row.group, 1)
        return True

    def _count_in_group(self, queue: int, group: int, change: int) -> None:
        key = key_in(b"G", queue) + U64.pack(group)
        left = self._number(key) + change
        if left:
            self._changing.put(key, U64.pack(left))
        else:
            self._changing.delete(key)

    def replace(self, queue: int, position: Position, row: Row) -> None:
        """Change a row. It stays that of the same claim, which is all that `_known` goes by."""
        self._is_changed = True
        self._take_out(queue, [position])
        self._txn.put(key_at(b"R", queue, position), runs.packed(row))

    def drop(self, queue: int, position: Position, group: int = 0) -> bool:
        """Remove a row."""
        found = bool(self._take_out(queue, [position]))
        self._is_known = False
        if found:
            self._count(queue, -1)
            if group:
                self._count_in_group(queue, group, -1)
        return found

    def give_back(self, queue: int, position: Position, returned: Returned, group: int = 0) -> None:
        """Row -> returned."""
        self.drop(queue, position, group)
        self._changing.put(key_at(b"r", queue, position), RETURNED.pack(*returned))

    def take_returned(self, queue: int, position: Position) -> None:
        """Forget a returned position."""
        self._changing.delete(key_at(b"r", queue, position))

    def advance(self, queue: int, position: Position) -> None:
        """Move a cursor."""
        self._is_known = False
        self._cursors[cursor_key(queue, position >> 64)] = position

    def forget_cursors(self, queue: int | None = None) -> None:
        """Of a queue, or of all."""
        prefix = b"c" if queue is None else key_in(b"c", queue)
        keys = [key for key, _ in self._walk(prefix)]
        for key in keys:
            self._changing.delete(key)
        if keys:
            self._changing.put(b"C", U64.pack(max(0, self._number(b"C") - len(keys))))

    def forget_queue(self, queue: int) -> None:
        """All but its sleepers."""
        self.forget_cursors(queue)
        if self.seat(queue) is not None:
            self.set_seat(queue, None)
        self._take_out(queue, [position for _, position, _ in self.rows(queue)])
        for kind in (b"r", b"G", b"d", b"k", b"p", b"s", b"t", b"u"):
            for key in [key for key, _ in self._walk(key_in(kind, queue))]:
                self._changing.delete(key)
        self._counts.pop(queue, None)

    def set_pace(self, queue: int, pace_ns: int) -> None:
        """Set what a rate limit goes by."""
        self._changing.put(key_in(b"p", queue), U64.pack(pace_ns))

    def set_turn(self, queue: int, group: int) -> None:
        """Set whose turn was last."""
        self._changing.put(key_in(b"u", queue), U64.pack(group))

    def note_deadline(self, queue: int, deadline_ns: int) -> None:
        """Set the earliest deadline."""
        self._changing.put(key_in(b"d", queue), U64.pack(deadline_ns))
