"""The claims: who holds what. Volatile: true only while the holders live.

`memory.py` keeps them in sorted containers, `shared.py` in a second LMDB
environment that all processes share and that is thrown away with the boot. Both
are used as

    with claims.lock, claims.guard, claims.write() as c:    C, the claims write lock; commits at the end
                                              (guard: what an interrupt leaves open is ended)
    with claims.read() as c:                  a snapshot

Lock order: the log's write lock (L), then C. Never wait for L while holding C.

A position of the log is, as far as the claims know, in one of three places: ahead of
the cursor of its rank; in a row, which is a claim; or among the returned ones, which
lie behind the cursor and are merged with the scan. A claimer passes over positions
that have a row, and takes one that it meets twice once; so a cursor is only a
shortcut, and may be forgotten at any time. One thing more may lie behind a cursor: a
message whose group was busy when a claimer came by. Whoever frees the group moves
its next message to the returned ones.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..message import Position
from ..system.group_commit import GroupCommit
from .expected import Expected
from .started import StartedMarks

if TYPE_CHECKING:
    from .bench import Bench

STARTED = 1  # handed to the user: a death is blamed on the message (so it is where a mark says it, see started.py)
AUTO = 2  # to be settled by the claimer itself: a death is no failure
TASK = 4  # when settled, counts as a task until task_done()


class Row(NamedTuple):
    """A claim. `failures` and `acquired` are what the log does not know yet; deadline_ns 0 = none; group 0 = none."""

    token: int
    owner: int
    deadline_ns: int
    flags: int
    failures: int
    acquired: int
    group: int = 0

    @property
    def holder(self) -> tuple[int, int]:
        """What tells this claim from every other that ever was on the position."""
        return self.token, self.owner


class Returned(NamedTuple):
    """What is remembered of a message that was given back."""

    failures: int
    acquired: int


class Waiting(NamedTuple):
    """A registered sleeper; wake_ns is when it looks by itself, 0 = never."""

    sleeper: int
    owner: int
    wake_ns: int


class Kind(enum.IntEnum):
    """What a sleeper waits for."""

    MESSAGE = 1
    SPACE = 2
    DONE = 3
    LEVEL = 4  # that the number of messages changes
    STANDBY = 5  # to have the queue for itself


class Shut(enum.IntEnum):
    """Whether a queue was shut down."""

    OPEN = 0
    DRAINING = 1
    IMMEDIATE = 2


class Reading(Protocol):
    """What can be asked of the claims."""

    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...
    def row(self, queue: int, position: Position) -> Row | None:
        """The claim on a position."""

    def rows(self, queue: int | None = None) -> Iterator[tuple[int, Position, Row]]:
        """(queue, position, claim), of one queue or of all."""

    def problems(self) -> list[str]:
        """What is wrong with numbers that are not of one queue, in words."""

    def returned(self, queue: int) -> Iterator[tuple[Position, Returned]]:
        """Positions given back, in delivery order."""

    def returned_at(self, queue: int, position: Position) -> Returned | None:
        """What is remembered of a position that was given back."""

    def cursor(self, queue: int, rank: int) -> Position:
        """The last position of a rank that was handed out, or -1."""

    def has_passed(self, queue: int, position: Position) -> bool:
        """Whether a position lies behind the cursor of its rank."""

    def may_hide(self, queue: int) -> bool:
        """Whether a message may lie behind a cursor that is neither claimed nor given back."""

    def in_flight(self, queue: int, group: int) -> int:
        """How many rows there are of a group. O(1)."""

    def pace_ns(self, queue: int) -> int:
        """What a rate limit goes by (engine/pace.py); 0 where nothing was handed out yet."""

    def turn(self, queue: int) -> int:
        """The group that had its turn last; -1 where none had."""

    def seat(self, queue: int) -> tuple[int, int] | None:
        """(owner, number) of the consumer that has the queue for itself."""

    def seats(self) -> list[tuple[int, int]]:
        """(queue, owner) of all of these."""

    def claimed(self, queue: int) -> int:
        """How many rows a queue has. O(1)."""

    def deadline_ns(self, queue: int) -> int:
        """No row of the queue times out before this; 0 = none does."""

    def deadlines(self) -> list[int]:
        """The queues for which `deadline_ns` is noted."""

    def waiting(self, queue: int, kind: Kind) -> Iterator[Waiting]:
        """Registered sleepers, with or without a row; in a process, those that came first come first."""

    def anybody(self) -> bool:
        """Whether a sleeper may have a row, for whatever queue. One seek."""

    def tasks(self, queue: int) -> dict[int, int]:
        """Per owner, what it took by `get` and has not reported by `task_done`."""

    def shut(self, queue: int) -> Shut:
        """Whether the queue was shut down."""

    def owners(self) -> list[int]:
        """Processes that have joined and not left."""

    @property
    def commit(self) -> int:
        """The number of the commit that this is the state of; 0 where commits have no numbers."""

    def generation(self) -> int:
        """Grows with every change of `owners` or `seats`."""

    def any_seat(self, generation: int) -> bool:
        """Whether any consumer has a queue for itself. Free for who knows the generation."""

    def observers(self, queue: int) -> list[Kind]:
        """The kinds, of DONE, LEVEL and STANDBY, for which somebody is registered. One seek where nobody is."""


class Line(Protocol):
    """A queue that is open, has no seat, and to which nothing was given back: claimers take what is first in line."""

    deadline_ns: int  # no row times out before; 0: none does


class Writing(Reading, Protocol):
    """What can be changed, under C."""

    def line(self, queue: int, generation: int) -> Line | None:
        """What is to be known of a queue to take what is first in line; None where anything else decides, or the
        generation is another. With the next four, the short way of a plain message: see known.py.
        """

    def clear_cursor(self, queue: int, line: Line, rank: int) -> Position | None:
        """The cursor of a rank; None where a row lies ahead of it."""

    def has_room_for(self, count: int) -> bool:
        """Whether so many claims can be made on positions that were not given back before."""

    def claim_in_line(self, queue: int, line: Line, positions: list[Position], alike: list[tuple[Row, int]]) -> None:
        """Make rows, without a group, for what is first in line, ahead of clear cursors, which move on. alike: each
        row, and of how many of the ascending positions it is.
        """

    def claim_expected(self, queue: int, line: Line, position: Position, row: Row) -> bool:
        """Make a row for a message that may still be to come; no cursor moves. False where there is a row. [28]"""

    def drop_settled(self, queue: int, positions: list[Position]) -> int:
        """Remove rows that have no group; how many there were."""

    def is_undisturbed(self, commit: int) -> bool:
        """Whether rows that this process made in that commit are known to be as it made them."""

    def note_bare(self) -> None:
        """Under L: no row is left whose message is gone, whoever had it."""

    def has_room(self) -> bool:
        """Whether one more claim can be made on a position that was not given back before."""

    def claim(self, queue: int, position: Position, row: Row) -> bool:
        """Make a row; False where there is one."""

    def replace(self, queue: int, position: Position, row: Row) -> None:
        """Change a row (deadline, flags)."""

    def drop(self, queue: int, position: Position, group: int = 0) -> bool:
        """Remove a row, of that group; whether there was one."""

    def give_back(self, queue: int, position: Position, returned: Returned, group: int = 0) -> None:
        """Row, if there is one, -> returned."""

    def forget_cursors(self, queue: int | None = None) -> None:
        """Of a queue, or of all: claimers scan anew."""

    def forget_queue(self, queue: int) -> None:
        """The queue is no more: nothing is known of it but who waits there."""

    def set_pace(self, queue: int, pace_ns: int) -> None:
        """Set what `pace_ns` returns."""

    def set_turn(self, queue: int, group: int) -> None:
        """Set what `turn` returns."""

    def set_seat(self, queue: int, seat: tuple[int, int] | None) -> None:
        """Set what `seat` returns."""

    def take_returned(self, queue: int, position: Position) -> None:
        """Forget a returned position (it is claimed, or gone)."""

    def advance(self, queue: int, position: Position) -> None:
        """Move the cursor of the position's rank to it."""

    def note_deadline(self, queue: int, deadline_ns: int) -> None:
        """Set what `deadline_ns` returns."""

    def register(self, queue: int, kind: Kind, waiting: Waiting) -> None:
        """Add or change the row of a sleeper."""

    def leave(self, queue: int, kind: Kind, sleeper: int, owner: int) -> None:
        """Remove the row of a sleeper."""

    def leave_all(self, owner: int) -> list[int]:
        """Remove all rows of an owner's sleepers, and its tasks; returns the queues in which it had tasks."""

    def add_tasks(self, queue: int, owner: int, count: int) -> None:
        """Count tasks of an owner; the sum may be negative."""

    def set_shut(self, queue: int, mode: Shut) -> None:
        """Shut a queue down, or open it again."""

    def forget_shutdowns(self) -> None:
        """Open all queues again."""

    def require(self, owner: int) -> None:
        """Raises Closed where that owner has left: what it claimed now, nobody would ever take back."""

    def add_owner(self, owner: int) -> None:
        """A process joins."""

    def remove_owner(self, owner: int) -> None:
        """A process is gone."""

    @property
    def token(self) -> int:
        """A number that no claim of this process had before, also none that was given up before its commit."""


class Claims(Protocol):
    """See the top of this module.

    postpones: whether `postpone` may leave a row for a while.
    ring_unseats: whoever rings a sleeper removes its row at once, as a condition's
    notify does, so that it is not rung again and again before it runs.
    """

    ring_unseats: bool
    postpones: bool

    @property
    def marks(self) -> StartedMarks | None:
        """Where it is said without a commit that a prefetched message was handed out; None where a commit is cheap."""

    @property
    def expected(self) -> Expected | None:
        """Where it is said that a message is about to be committed, and who has a row for it already; None where no
        commit waits for a disk.
        """

    @property
    def bench(self) -> Bench | None:
        """Where sleepers sit who wait for a message, and have no row; None where there is none."""

    @property
    def group(self) -> GroupCommit | None:
        """What runs operations of many threads in one transaction; None where it would save nothing."""

    def last_commit(self) -> int:
        """The number of the last commit of any process; -1 where commits have no numbers. Cheap."""

    def is_undisturbed(self, commit: int) -> bool:
        """Under L: whether rows that this process made in that commit are known to be as it made them. Cheap."""

    def postpone(self, queue: int, position: Position, owner: int) -> bool:
        """The row of a message that was settled, without a group, goes with the next commit of this process, if not
        now; owner: whose task it is, or 0. False where that commit should be made soon. May be done twice.
        """

    def gone_so_far(self) -> int:
        """For `postponed`, to be asked before the snapshots in which rows are counted. O(1)."""

    def postponed(self, since: int) -> int:
        """How many rows may have no message, of all queues, or had none when `gone_so_far` said that: it was settled,
        or is still to come [28]. Who counts rows looks for them. O(1).
        """

    def seems_undisturbed(self, commit: int) -> bool:
        """The same for who holds no lock: it may just have become untrue. Cheaper still."""

    def is_calm(self, queue: int, last: int) -> bool:
        """Whether it is known that nobody waits and the queue is open as of the last commit, or a later one."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...
    @property
    def guard(self) -> AbstractContextManager[Any]: ...
    def write(self) -> AbstractContextManager[Any]: ...
    def read(self) -> AbstractContextManager[Any]: ...
