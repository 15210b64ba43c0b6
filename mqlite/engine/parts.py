"""What the transitions of the engine work with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..claims import Claims
from ..log import Draft, Log
from ..message import UNGROUPED, Record
from ..system.clock import Clock, Timeline
from ..waiting import Presence, Waiters
from .catalog import Catalog, QueueState
from .groups import offer
from .order import lineup_of
from .steps import ARRIVED, DAMAGED, EXPIRES

if TYPE_CHECKING:
    from .aftermath import Aftermath
    from .inspection import Inspection
    from .passing import Passing
    from .schedule import Schedule
    from .takeback import TakeBack

#: Bytes of a message that moves to the dead-letter queue without asking for room: the reserve has it (log/space.py).
MOVED_FREELY = 256 << 10


class Parts:
    """The parts of one store's engine, which `Engine` puts together."""

    aftermath: Aftermath
    inspection: Inspection
    schedule: Schedule
    takeback: TakeBack
    waiters: Waiters
    passing: Passing | None = None

    def __init__(self, log: Log, claims: Claims, presence: Presence, clock: Clock, anchor_ns: int) -> None:
        self.log = log
        self.claims = claims
        self.presence = presence
        self.clock = clock
        self.timeline = Timeline(clock, anchor_ns)
        self.catalog = Catalog(log)

    def append(self, txn: Any, queue: QueueState, rank: int, draft: Draft, message_id: int = 0) -> int:
        """Under L: a message lines up in the order of its queue; its id."""
        number: int = txn.append(queue.id, rank, draft, message_id, lineup_of(queue.options, self.timeline))
        return number

    def let_go_on(self, txn: Any, queue: int, key: Any, raw: Any) -> None:
        """Under L, at the end of an op that took a waiting message out: the group that it held up goes on. [20]

        The claims are committed before the log: a kill in between leaves a position given back that is still held up.
        """
        if not self.log.is_whole(key, raw):  # which group it held up cannot be read any more
            txn.notes.append((DAMAGED, queue))
            return
        state, group = self.catalog.state(queue, txn), self.log.group_of(raw)
        if group != UNGROUPED and state.limit_of(group) == 1:
            with self.claims.lock, self.claims.guard, self.claims.write() as c:
                offer(c, txn, state, group, passed_or_not=not self.log.one_lock)
            txn.notes.append((ARRIVED, queue))

    def note_expiry(self, txn: Any, queue: int, records: Iterable[Record]) -> None:
        """Under L: somebody will have to look when the first of these expires."""
        times = [self.timeline.wake_ns(r.marks.expires) for r in records if r.marks is not None and r.marks.expires]
        if times:
            txn.notes.append((EXPIRES, queue, min(times)))

    @staticmethod
    def reserve_to_move(txn: Any, size_bytes: int) -> None:
        """Under L: room for what moves. Raises StoreFull."""
        if size_bytes > MOVED_FREELY:
            txn.reserve(size_bytes)
