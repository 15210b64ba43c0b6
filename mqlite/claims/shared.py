"""The claims on disk queues, shared by all processes of one boot.

One LMDB environment without flushes, wholly preallocated: it lives in the page cache,
survives any kill -9, and is thrown away at the next boot, when nobody holds anything.
One tree; all integers big-endian; q = queue u32:

    63 c  q | rank u32             position                     cursor: handed out up to here
    43 C                           u64                          number of cursors
    64 d  q                        deadline u64                 no row times out earlier
    48 H                           u64                          rows that are part of an entry with others
    67 g                           u64                          generation of owners and seats, 48 bits | seats, 16 bits
    47 G  q | group u64            u64                          rows of that group
    61 a                           i64                          turns the monotonic clock into the stable line of time
    6b k  q                        u64                          number of rows
    6f o  owner u64                -                            a process that joined
    70 p  q                        u64                          what a rate limit goes by
    52 R  q | position             rows: see runs.py
    73 s  q                        mode u8                      shut down
    74 t  q | owner u64            count i64                    open tasks
    75 u  q                        group u64                    whose turn was last
    77 w  q | kind u8 | sleeper u64 | owner u64   wake u64      a registered sleeper
    57 W                           u64                          the last epoch of the front whose claims are here
    78 x  q                        owner, number u64            seat: the consumer that has the queue for itself
    72 r  q | position             failures, acquired u32       given back

C1  `k` is the number of rows of its queue, `G` of those of its group, and `H` that of all rows less that of their
    entries, in every commit.
C2  A position is under R or r, not both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import lmdb

from ..message import Position
from ..system.control import CLAIMS
from ..system.environment import Environment
from ..system.group_commit import GroupCommit
from ..system.level import Unflushed
from ..system.snapshot import LmdbView
from . import Row
from .bench import Bench
from .expected import Expected
from .known import Known
from .postponed import Postponed
from .shared_reading import SharedReading
from .shared_txn import MAX_ENTRIES, SharedTxn, next_token
from .started import StartedMarks

MAP_BYTES = 16 << 20


class SharedView(LmdbView, SharedReading):
    """One state of the claims; and who sits on the bench at the moment of the question."""

    def __init__(self, environment: Environment, bench: Bench | None) -> None:
        super().__init__(environment)
        self._bench = bench

    @property
    def commit(self) -> int:
        """The number of the commit that this is the state of."""
        return int(self._txn.id())

    def has_room_for(self, count: int) -> bool:
        """Whether so many claims can be made, each with a cursor of its own."""
        entries = int(self._txn.stat(self._environment.main)["entries"]) + self._number(b"H")
        return entries + 2 * count <= MAX_ENTRIES


class SharedClaims:
    """See the top of this module.

    lock is this process's part of C (LMDB's own mutex is the other); guard ends a write
    transaction that an interrupt left open.
    """

    new_token = staticmethod(next_token)
    ring_unseats = False  # it would cost a commit per ring
    postpones = True

    def __init__(self, path: str, words: memoryview) -> None:
        """words: of `log.control`."""
        self.environment = Environment(path, map_size=MAP_BYTES, level=Unflushed())
        self.environment.tell_commits(words, CLAIMS)
        self.last_commit = self.environment.last_txnid
        self._words = words
        self.expected = Expected(words)
        self.bench: Bench | None = None
        self._begin_anew()
        self.lock = self.environment.write_lock
        self.guard = self.environment
        self.marks = StartedMarks(os.path.join(os.path.dirname(path), "started"))

    def _begin_anew(self) -> None:
        self._known = Known()
        self._postponed = Postponed(self._words)
        self._txn = SharedTxn(
            self.environment, self._known, self._postponed, self.bench
        )  # there is one at a time: whose holds `lock`
        self.group = GroupCommit(
            write_lock=self.environment.write_lock,
            guard=self.environment,
            begin=self._begin,
            end=self._end,
            after=lambda notes: None,
            foreign=lmdb.Error,
            translated=self.environment.failed,
        )

    def _begin(self) -> SharedTxn:
        return self._txn.__enter__()

    def _end(self, committed: SharedTxn | None) -> None:
        if committed is not None:
            committed.committed()
        self.environment.end_write()

    def use_bench(self, words: memoryview) -> None:
        """Who waits for a message may do so there from now on. The caller is alone in opening the store."""
        self.bench = Bench(words)
        self._begin_anew()

    def close_bench(self) -> None:
        """Nobody uses it any more: the environment was closed before."""
        if self.bench is not None:
            self.bench.close()

    def open(self) -> None:
        """Open the file now, made if missing; the caller is alone in that. Raises StoreError, StoreFull."""
        if not os.path.exists(self.environment.path):
            self.environment.create_preallocated()
        self.environment.ensure_open()

    def after_fork(self) -> None:
        """In a forked child: start afresh."""
        self.environment.forget()
        self._begin_anew()
        self.marks.after_fork()
        self.lock = self.environment.write_lock

    def anchor_ns(self, now_ns: int) -> int:
        """The number that all processes of this boot go by; `now_ns` where there was none."""
        with self.lock, self.guard, self.write() as c:
            return c.anchor_ns(now_ns)

    def write(self) -> SharedTxn:
        """The write transaction; the caller holds `lock` and `guard`."""
        return self._txn

    def postpone(self, queue: int, position: Position, owner: int) -> bool:
        """The row of a message that was settled goes with the next commit of the claims. False where that should be
        made now.
        """
        return self._postponed.add(queue, position, owner)

    def gone_so_far(self) -> int:
        """See Claims."""
        return self._postponed.gone_so_far() - (not self.expected.is_free())

    def postponed(self, since: int) -> int:
        """How many rows may have no message: it was settled, or is still to come."""
        return self._postponed.everywhere(since) + (not self.expected.is_free())

    def take_over(
        self,
        epoch: int,
        held: Sequence[tuple[int, Position, int, int, int, int]],
        passed: Mapping[tuple[int, int], Position],
        tasks: Mapping[tuple[int, int], int],
    ) -> None:
        """Under L: what was claimed in the front gets its rows, without a group and claimed for the first time; once
        for each epoch. held: queue, position, token, owner, deadline, flags of each; passed: the last position of each
        queue and rank that was handed out there; tasks: per queue and owner, how many were settled. [30]
        """
        with self.lock, self.guard, self.write() as c:
            if c.taken_over() >= epoch:
                return
            for queue, position, token, owner, deadline_ns, flags in held:
                c.claim(queue, position, Row(token, owner, deadline_ns, flags, 0, 1))
            for (queue, _), position in passed.items():
                if not c.has_passed(queue, position):
                    c.advance(queue, position)
            for (queue, owner), count in tasks.items():
                c.add_tasks(queue, owner, count)
            c.note_taken_over(epoch)

    def take_over_late(self, held: tuple[int, Position, int, int, int, int], task_flag: int) -> None:
        """Under L: the same for a claim that `take_over` took for settled. May be done again."""
        queue, position, token, owner, deadline_ns, flags = held
        with self.lock, self.guard, self.write() as c:
            if c.claim(queue, position, Row(token, owner, deadline_ns, flags, 0, 1)) and flags & task_flag:
                c.add_tasks(queue, owner, -1)

    def let_go(self, rows: Mapping[int, Sequence[Position]]) -> None:
        """Under L: rows of messages that were settled in the front, and have left the tree, go, by queue. They have no
        group, and are nobody's tasks. May be done again. [34]
        """
        with self.lock, self.guard, self.write() as c:
            for queue, positions in rows.items():
                c.drop_settled(queue, list(positions))

    def is_undisturbed(self, commit: int) -> bool:
        """Whether rows that this process made in that commit are as it made them. For who holds L, which who revokes
        a row takes first.
        """
        known, last = self._known, self.environment.exact_last_txnid()
        return commit == last or (known.transaction == last and known.since <= commit)

    def seems_undisturbed(self, commit: int) -> bool:
        """The same by the number that processes tell each other, for who holds no lock. What another process commits
        at this moment, or committed before it was killed in the middle of telling so, is not seen.
        """
        known = self._known
        return known.transaction == self.last_commit() and known.since <= commit

    def is_calm(self, queue: int, last: int) -> bool:
        """Whether it is known that as of the last commit (or a later one) nobody waited and the queue was open."""
        known = self._known
        return known.nobody_waits and queue in known.lines and known.transaction == last

    def read(self) -> SharedView:
        """A snapshot of the last commit."""
        return SharedView(self.environment, self.bench)
