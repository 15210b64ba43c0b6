"""The claims of in-memory queues, under the lock of the in-memory log.

Returned positions are in a SortedDict: they come back in delivery order.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from types import TracebackType

from sortedcontainers import SortedDict

from ..message import Position
from . import Kind, Returned, Row, Shut, Waiting


class Desk:
    """The claims on one queue."""

    __slots__ = (
        "deadline_ns",
        "in_flight",
        "open_tasks",
        "pace_ns",
        "returned",
        "rows",
        "seat",
        "shut",
        "turn",
        "waiting",
        "want_arrivals",
        "want_departures",
    )

    def __init__(self) -> None:
        self.rows: dict[Position, Row] = {}
        self.returned: SortedDict[Position, Returned] = SortedDict()
        self.deadline_ns = 0
        self.waiting: dict[Kind, dict[int, Waiting]] = {kind: {} for kind in Kind}
        self.want_arrivals: set[int] = set()  # sleepers that a put has to think of, so that it asks once
        self.want_departures: set[int] = set()  # the same for a get
        self.open_tasks = 0
        self.shut = Shut.OPEN
        self.in_flight: dict[int, int] = {}
        self.pace_ns = 0
        self.turn = -1
        self.seat: tuple[int, int] | None = None

    def forget_sleepers(self) -> None:
        """Nobody waits any more."""
        for waiting in self.waiting.values():
            waiting.clear()
        self.want_arrivals.clear()
        self.want_departures.clear()


class MemoryClaims:
    """It is its own transaction and snapshot. `lock` is the log's.

    With one lock a ring and the removal of the row are one step. Without it, 4 + 4 threads
    rang the same sleeper up to 1,000 times before it got the interpreter: 1.2-1.7 x slower.
    """

    ring_unseats = True
    postpones = False
    marks = None
    expected = None
    bench = None
    group = None  # a commit costs nothing

    def __init__(
        self,
        lock: threading.RLock,
        hand_out: Callable[[int, Position], None],
        handed_out: Callable[[int], Collection[Position]],
    ) -> None:
        self.lock = lock
        self._hand_out = hand_out
        self._handed_out = handed_out
        self._desks: dict[int, Desk] = {}
        self._tokens = 0
        self._seats = 0
        self._sleepers = 0
        self._owners: list[int] = [1]  # the process itself

    guard = contextlib.nullcontext()

    def write(self) -> MemoryClaims:
        """Itself; the caller holds `lock`."""
        return self

    read = write

    def __enter__(self) -> MemoryClaims:
        self.lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.lock.release()

    def postpone(self, queue: int, position: Position, owner: int) -> bool:
        """It goes at once."""
        with self.lock:
            if self.drop(queue, position) and owner:
                self.add_tasks(queue, owner, 1)
        return True

    def gone_so_far(self) -> int:
        """There are none."""
        return 0

    def postponed(self, since: int) -> int:
        """There are none."""
        return 0

    def note_bare(self) -> None:
        """It is always so."""

    def desk(self, queue: int) -> Desk:
        """The claims on a queue."""
        desk = self._desks.get(queue)
        if desk is None:
            desk = self._desks.setdefault(queue, Desk())  # asked for without the lock, too
        return desk

    # ------------------------------------------------------------------ reading
    def row(self, queue: int, position: Position) -> Row | None:
        """The claim on a position."""
        return self.desk(queue).rows.get(position)

    def rows(self, queue: int | None = None) -> Iterator[tuple[int, Position, Row]]:
        """(queue, position, claim)."""
        queues = list(self._desks) if queue is None else [queue]
        return iter([(q, position, row) for q in queues for position, row in self.desk(q).rows.items()])

    def problems(self) -> list[str]:
        """None: there are no such numbers."""
        return []

    def returned(self, queue: int) -> Iterator[tuple[Position, Returned]]:
        """Positions given back."""
        returned = self.desk(queue).returned
        return iter(list(returned.items())) if returned else iter(())

    def cursor(self, queue: int, rank: int) -> Position:
        """The last position handed out."""
        return -1  # what was handed out is not in the log's lanes any more

    def has_passed(self, queue: int, position: Position) -> bool:
        """Whether it has left its lane."""
        return position in self._handed_out(queue)

    def may_hide(self, queue: int) -> bool:
        """Whether a message was passed over. O(1)."""
        desk = self.desk(queue)
        return len(self._handed_out(queue)) > len(desk.rows) + len(desk.returned)

    def in_flight(self, queue: int, group: int) -> int:
        """How many rows of a group."""
        return self.desk(queue).in_flight.get(group, 0)

    def pace_ns(self, queue: int) -> int:
        """What a rate limit goes by."""
        return self.desk(queue).pace_ns

    def turn(self, queue: int) -> int:
        """The group that had its turn last."""
        return self.desk(queue).turn

    def seat(self, queue: int) -> tuple[int, int] | None:
        """The consumer that has the queue for itself."""
        return self.desk(queue).seat

    def seats(self) -> list[tuple[int, int]]:
        """(queue, owner) of all of these."""
        return [(queue, desk.seat[0]) for queue, desk in self._desks.items() if desk.seat is not None]

    def claimed(self, queue: int) -> int:
        """How many rows."""
        return len(self.desk(queue).rows)

    def deadline_ns(self, queue: int) -> int:
        """The earliest deadline."""
        return self.desk(queue).deadline_ns

    def returned_at(self, queue: int, position: Position) -> Returned | None:
        """What is remembered of a position that was given back."""
        return self.desk(queue).returned.get(position)

    def deadlines(self) -> list[int]:
        """Queues with a noted deadline."""
        return [queue for queue, desk in self._desks.items() if desk.deadline_ns]

    def waiting(self, queue: int, kind: Kind) -> Iterator[Waiting]:
        """Registered sleepers."""
        waiting = self.desk(queue).waiting[kind]
        if kind is Kind.SPACE and len(waiting) > 1:  # one who cannot use a ring passes it on to who came after him
            return iter([waiting[sleeper] for sleeper in sorted(waiting)])
        return iter(list(waiting.values()) if waiting else ())

    def anybody(self) -> bool:
        """Whether a sleeper is registered."""
        return self._sleepers > 0

    def tasks(self, queue: int) -> dict[int, int]:
        """Open tasks per owner."""
        return {self._owners[0]: self.desk(queue).open_tasks}

    def shut(self, queue: int) -> Shut:
        """Whether the queue was shut down."""
        return self.desk(queue).shut

    def owners(self) -> list[int]:
        """This process."""
        return self._owners

    commit = 0

    def last_commit(self) -> int:
        """Commits have no numbers here."""
        return -1

    def generation(self) -> int:
        """Nobody comes or goes."""
        return 0

    def any_seat(self, generation: int) -> bool:
        """Whether any consumer has a queue for itself."""
        return self._seats > 0

    def observers(self, queue: int) -> list[Kind]:
        """The kinds for which somebody is registered."""
        waiting = self.desk(queue).waiting
        return [kind for kind in (Kind.DONE, Kind.LEVEL, Kind.STANDBY) if waiting[kind]]

    @property
    def token(self) -> int:
        """A number that no earlier claim had."""
        self._tokens += 1
        return self._tokens

    def is_undisturbed(self, commit: int) -> bool:
        """Not known: to look at a row is as fast."""
        return False

    seems_undisturbed = is_undisturbed

    def is_calm(self, queue: int, last: int) -> bool:
        """Not known."""
        return False

    # ------------------------------------------------------------------ writing
    def has_room(self) -> bool:
        """Always."""
        return True

    def has_room_for(self, count: int) -> bool:
        """Always."""
        return True

    def line(self, queue: int, generation: int) -> Desk | None:
        """The claims on a queue, if it is open, and nothing was given back, and nobody has any for himself."""
        desk = self.desk(queue)
        return None if desk.returned or self._seats or desk.shut is not Shut.OPEN else desk

    def clear_cursor(self, queue: int, line: Desk, rank: int) -> Position:
        """There are none."""
        return -1

    def claim_in_line(self, queue: int, line: Desk, positions: list[Position], alike: list[tuple[Row, int]]) -> None:
        """Make rows."""
        following = iter(positions)
        for row, count in alike:
            for position in islice(following, count):
                self._hand_out(queue, position)
                line.rows[position] = row

    def drop_settled(self, queue: int, positions: list[Position]) -> int:
        """Remove rows."""
        rows = self.desk(queue).rows
        return sum([rows.pop(position, None) is not None for position in positions])

    def claim(self, queue: int, position: Position, row: Row) -> bool:
        """Make a row; the message leaves its lane. O(1) for the first in line."""
        desk = self.desk(queue)
        if position in desk.rows:
            return False
        self._hand_out(queue, position)
        desk.rows[position] = row
        if row.group:
            desk.in_flight[row.group] = desk.in_flight.get(row.group, 0) + 1
        return True

    def replace(self, queue: int, position: Position, row: Row) -> None:
        """Change a row."""
        self.desk(queue).rows[position] = row

    def drop(self, queue: int, position: Position, group: int = 0) -> bool:
        """Remove a row."""
        desk = self.desk(queue)
        found = desk.rows.pop(position, None) is not None
        if found and group:
            left = desk.in_flight[group] - 1
            if left:
                desk.in_flight[group] = left
            else:
                del desk.in_flight[group]
        return found

    def give_back(self, queue: int, position: Position, returned: Returned, group: int = 0) -> None:
        """Row -> returned. O(log n)."""
        self.drop(queue, position, group)
        self.desk(queue).returned[position] = returned

    def forget_cursors(self, queue: int | None = None) -> None:
        """What claimers have passed is found again. O(messages handed out)."""
        for number in list(self._desks) if queue is None else [queue]:
            desk = self.desk(number)
            for position in self._handed_out(number):
                if position not in desk.rows and position not in desk.returned:
                    desk.returned[position] = Returned(0, 0)

    def forget_queue(self, queue: int) -> None:
        """All but its sleepers."""
        desk = self.desk(queue)
        if desk.seat is not None:
            self.set_seat(queue, None)
        if any(desk.waiting.values()):
            desk.rows.clear()
            desk.returned.clear()
            desk.in_flight.clear()
        else:
            del self._desks[queue]

    def set_pace(self, queue: int, pace_ns: int) -> None:
        """Set what a rate limit goes by."""
        self.desk(queue).pace_ns = pace_ns

    def set_turn(self, queue: int, group: int) -> None:
        """Set whose turn was last."""
        self.desk(queue).turn = group

    def set_seat(self, queue: int, seat: tuple[int, int] | None) -> None:
        """Set who has the queue for himself."""
        desk = self.desk(queue)
        self._seats += (seat is not None) - (desk.seat is not None)
        desk.seat = seat

    def take_returned(self, queue: int, position: Position) -> None:
        """Forget a returned position."""
        self.desk(queue).returned.pop(position, None)

    def advance(self, queue: int, position: Position) -> None:
        """A claimer has passed it: it leaves its lane."""
        self._hand_out(queue, position)

    def note_deadline(self, queue: int, deadline_ns: int) -> None:
        """Set the earliest deadline."""
        self.desk(queue).deadline_ns = deadline_ns

    def register(self, queue: int, kind: Kind, waiting: Waiting) -> None:
        """Add or change a sleeper."""
        desk = self.desk(queue)
        self._sleepers += waiting.sleeper not in desk.waiting[kind]
        desk.waiting[kind][waiting.sleeper] = waiting
        if kind in (Kind.MESSAGE, Kind.LEVEL):
            desk.want_arrivals.add(waiting.sleeper)
        if kind in (Kind.SPACE, Kind.LEVEL):
            desk.want_departures.add(waiting.sleeper)

    def leave(self, queue: int, kind: Kind, sleeper: int, owner: int) -> None:
        """Remove a sleeper."""
        desk = self.desk(queue)
        self._sleepers -= desk.waiting[kind].pop(sleeper, None) is not None
        desk.want_arrivals.discard(sleeper)
        desk.want_departures.discard(sleeper)

    def leave_all(self, owner: int) -> list[int]:
        """Remove all sleepers and tasks (there is one owner)."""
        queues = [queue for queue, desk in self._desks.items() if desk.open_tasks]
        for desk in self._desks.values():
            desk.open_tasks = 0
            desk.forget_sleepers()
        self._sleepers = 0
        return queues

    def add_tasks(self, queue: int, owner: int, count: int) -> None:
        """Count tasks."""
        self.desk(queue).open_tasks += count

    def set_shut(self, queue: int, mode: Shut) -> None:
        """Shut a queue down."""
        self.desk(queue).shut = mode

    def forget_shutdowns(self) -> None:
        """Open all queues again."""
        for desk in self._desks.values():
            desk.shut = Shut.OPEN

    def require(self, owner: int) -> None:
        """The process is there."""

    def add_owner(self, owner: int) -> None:
        """This process joins."""
        self._owners = [owner]

    def remove_owner(self, owner: int) -> None:
        """This process is gone."""
        self._owners = []

    def after_fork(self, lock: threading.RLock) -> None:
        """In a forked child: another lock, nobody waits, and nobody has a queue for himself."""
        self.lock = lock
        self._seats = self._sleepers = 0
        for desk in self._desks.values():
            desk.seat = None
            desk.forget_sleepers()
