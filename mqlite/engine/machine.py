"""The message state machine: the only code that writes to log and claims.

    delayed -> ready -> claimed -> acknowledged (gone)
               ^  |        |
               |  |        +--> given back (released, failed, holder dead, timed out) -> ready, or delayed
               |  |        +--> dead: in the queue's dead-letter queue
              put +--> expired, dropped, replaced, cancelled

In memory and on disk it is the same machine over other parts. The numbers in
brackets in the code are the rules of docs/protocol.md; L is the log's write lock, C the
claims'. No user code runs under either.

    [1] L before C; nobody waits for L while holding C.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from ..claims import Claims, Kind
from ..errors import MqliteError
from ..log import Log
from ..system.clock import Clock
from ..waiting import Presence, Waiters
from . import expecting, legacies
from .aftermath import Aftermath
from .catalog import QueueState
from .inspection import Inspection
from .putting import Putting
from .schedule import Schedule
from .tables import Tables
from .takeback import TakeBack
from .tasks import Tasks
from .topics import Topics

#: How often a publisher looks for the dead.
LOOK_EVERY_NS = 100_000_000


class Engine(Putting):
    """One store's engine, shared by all threads and handles of the process: its parts, put together."""

    def __init__(self, log: Log, claims: Claims, presence: Presence, clock: Clock, anchor_ns: int) -> None:
        super().__init__(log, claims, presence, clock, anchor_ns)
        self.topics = Topics(log, self.catalog)
        self.tables = Tables(log)
        self.settling = threading.Lock()  # see legacies.py
        self._look_ns = 0
        self.takeback = TakeBack(log, claims, presence, clock, self.catalog, self._bury, lambda: legacies.settle(self))
        self.schedule = Schedule(log, claims, self.timeline, self.catalog, self)
        self.waiters = Waiters(
            claims,
            presence,
            clock,
            self.care,
            self.promising,
            self.wake_ns,
            lambda seat: expecting.give_up(self, seat),
            lambda queue: self.aftermath.is_calm(queue),
        )
        self.tasks = Tasks(log, claims, presence, self.waiters, self.timeline)
        self.inspection = Inspection(log, claims, self.takeback.notice_changes, self.schedule, self.timeline)
        self.aftermath = Aftermath(log, claims, self.waiters, self.catalog, self.give_back_failed)

    def configure(self, queue: QueueState, changes: dict[str, Any]) -> None:
        """Change options for every process. One commit; who waits looks again."""
        self.catalog.configure(queue, changes)
        if "limits" in changes:  # what claimers have passed over may be claimable now
            with self.claims.lock, self.claims.guard, self.claims.write() as c:
                c.forget_cursors(queue.id)
            self.waiters.ring_all(queue.id, Kind.MESSAGE)

    def look_around(self) -> None:
        """A new process: what the dead hold comes back, and what they have left to be done is done."""
        self.takeback.look_around()
        self.takeback.settle()

    def look_now_and_then(self) -> None:
        """Notice who has died, for a process that only publishes: it takes nothing and never waits."""
        _ = self.presence.owner
        now_ns = self.clock.monotonic_ns()
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_EVERY_NS
            self.takeback.notice_changes()

    def leave(self) -> None:
        """This process stops using the store: all it holds goes back, without blame."""
        try:
            with contextlib.suppress(MqliteError):  # whoever comes next finds this process dead
                legacies.give_up(self, self.presence.owner)
        finally:
            self.takeback.leave()

    def after_fork(self) -> None:
        """In a forked child: what the parent was about to do is the parent's."""
        self.settling = threading.Lock()
        self.topics.after_fork()
        self.aftermath.forget()
