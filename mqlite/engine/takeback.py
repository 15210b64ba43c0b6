"""What the dead and the hung hold comes back, and what this process holds when it leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import attrs

from ..claims import AUTO, STARTED, TASK, Claims, Returned, Row
from ..claims.expected import Named
from ..claims.started import Covers
from ..errors import MessageCorrupted, StoreFull
from ..log import Log, Raw
from ..message import Position
from ..system.clock import Clock
from ..waiting import Presence
from .catalog import Catalog
from .groups import offer
from .steps import ARRIVED, CHANGED, Claim

#: bury(txn, claim, reason, error, traceback, failures), under L
Bury = Callable[[Any, Claim, str, str | None, str | None, int], None]


#: How soon to try again what found no room.
RETRY_NS = 500_000_000


class TakeBack:
    """Revokes claims, always under L then C. [2] [15]"""

    def __init__(
        self,
        log: Log,
        claims: Claims,
        presence: Presence,
        clock: Clock,
        catalog: Catalog,
        bury: Bury,
        settle: Callable[[], bool],
    ) -> None:
        self._log = log
        self._claims = claims
        self._presence = presence
        self._clock = clock
        self._catalog = catalog
        self._bury = bury
        self._settle = settle
        self._settlings = 0
        self._unsettled_ns = 0  # when to settle again what the dead have left to be done; 0: all of it is done

    def care(self, queue: int) -> tuple[int, bool]:
        """Watch all owners, take back what the dead and the hung hold. (next deadline or 0, whether anything
        was taken back)
        """
        with self._claims.read() as c:
            generation, owners, deadline_ns = c.generation(), c.owners(), c.deadline_ns(queue)
        self._presence.watch(owners, generation)
        if self._presence.someone_died() or 0 < deadline_ns <= self._clock.monotonic_ns():
            self.take_back()
            with self._claims.read() as c:
                return c.deadline_ns(queue), True
        if self._unsettled_ns:
            self.notice_deaths()
            deadline_ns = min(filter(None, (deadline_ns, self._unsettled_ns)), default=0)
        return deadline_ns, False

    def notice_deaths(self) -> None:
        """Take back what is held by a watched process that died. One poll(2), none where nobody is watched."""
        if self._presence.someone_died():
            self.take_back()
        elif self._unsettled_ns and self._unsettled_ns <= self._clock.monotonic_ns():
            self.settle()

    @property
    def has_to_settle(self) -> bool:
        """Whether who waits has to look again for what the dead have left to be done."""
        return self._unsettled_ns > 0

    def notice_changes(self) -> None:
        """As `notice_deaths`, also of owners that came since the last look. One snapshot of the claims."""
        with self._claims.read() as c:
            changed = c.generation() != self._presence.generation
        if changed:
            self.look_around()
        else:
            self.notice_deaths()

    def look_around(self) -> None:
        """Watch all owners, and take back what is held by those that are dead already."""
        with self._claims.read() as c:
            generation, owners = c.generation(), c.owners()
        self._presence.watch(owners, generation)
        self.notice_deaths()

    def take_back(self) -> None:
        """Give back what dead owners hold, and what has timed out. [15]"""

        doomed: list[tuple[Claim, int]] = []
        gone: list[int] = []
        self._unsettled_ns = self._clock.monotonic_ns()  # also if an interrupt strikes below

        def op(txn: Any) -> None:
            now_ns = self._clock.monotonic_ns()
            expected = self._claims.expected
            if expected is not None:
                expected.withdraw_all()
            with self._claims.lock, self._claims.guard, self._claims.write() as c:
                owners = c.owners()
                dead = {owner for owner in owners if not self._presence.is_alive(owner)}
                living = set(owners) - dead
                unmoved = set()
                named = None if expected is None else expected.named()
                was_started = self._started_rows(named)
                freed: set[tuple[int, int]] = set()
                earliest_ns = dict.fromkeys(c.deadlines(), 0)
                sweeps = bool(dead) or self._claims.postponed(self._claims.gone_so_far()) > 0
                for queue, position, row in list(c.rows()):
                    # a seek that was killed leaves rows of the living, too, which may hold up a group [24]
                    stale = sweeps and not txn.has(queue, position)
                    if row.owner in living and not stale and not 0 < row.deadline_ns <= now_ns:
                        if row.deadline_ns:
                            earliest_ns[queue] = min(earliest_ns.get(queue) or row.deadline_ns, row.deadline_ns)
                        continue
                    if row.group:
                        freed.add((queue, row.group))
                    raw = txn.raw(queue, position)
                    if raw is None:  # settled, and its row was left behind; or expected, and its commit has failed
                        c.drop(queue, position, row.group)
                        if row.flags & TASK and row.owner in living and (queue, position, row.owner) != named:
                            c.add_tasks(queue, row.owner, 1)
                        txn.notes.append((CHANGED, queue))
                        continue
                    failures = row.failures + was_started(queue, row, position)
                    claim = self._last_failure(txn, queue, position, raw, row, failures)
                    if claim is not None:
                        doomed.append((claim, claim.record.delivery_count + failures))
                        unmoved.add(row.owner)  # stays known until the log has moved the message
                        continue
                    c.give_back(queue, position, Returned(failures, row.acquired), row.group)
                    txn.notes.append((ARRIVED, queue))
                for queue, group in freed:
                    offer(c, txn, self._catalog.state(queue, txn), group)
                    txn.notes.append((ARRIVED, queue))
                if dead:  # whatever they were about to hand back is found by who scans next
                    c.forget_cursors()
                if sweeps:
                    c.note_bare()
                for queue, owner in c.seats():
                    if owner in dead:
                        c.set_seat(queue, None)
                        txn.notes.append((CHANGED, queue))
                for queue, deadline_ns in earliest_ns.items():
                    c.note_deadline(queue, deadline_ns)
                for owner in dead:
                    txn.notes.extend((CHANGED, queue) for queue in c.leave_all(owner))
                    if owner not in unmoved:
                        c.remove_owner(owner)
                        self._presence.bury(owner)
                        gone.append(owner)

        def bury(txn: Any) -> None:
            with self._claims.read() as c:  # a holder that is only hung may have settled or extended meanwhile
                unchanged = [(claim, n) for claim, n in doomed if c.row(claim.queue.id, claim.position) == claim.row]
            for claim, failures in unchanged:
                with contextlib.suppress(StoreFull):  # it stays claimed, and is tried again
                    if txn.has(claim.queue.id, claim.position):
                        self._bury(
                            txn, claim, "max_deliveries", "the holder died or did not settle in time", None, failures
                        )

        self._log.hold(op)
        expected = self._claims.expected
        who = None if expected is None else expected.expecting()
        if expected is not None and who is not None and not self._presence.is_alive(who.owner):
            expected.free(who.owner, who.sleeper)  # not before that commit: what takes back after a kill looks there
        if self._claims.marks is not None:
            for owner in gone:  # not before that commit: what takes back after a kill reads them again
                self._claims.marks.bury(owner)
        if doomed:
            self._log.write(bury)
        self.settle()

    def _started_rows(self, expected: Named | None) -> Callable[[int, Row, Position], bool]:
        """Whether a claim was handed to the user, so that it is to blame. The marks of an owner are read once."""
        marks = self._claims.marks
        covers: dict[int, Covers] = {}

        def was_started(queue: int, row: Row, position: Position) -> bool:
            if row.flags & AUTO or (queue, position, row.owner) == expected:
                return False
            if row.flags & STARTED or marks is None:
                return bool(row.flags & STARTED)
            if row.owner not in covers:
                covers[row.owner] = marks.of(row.owner)
            return covers[row.owner](row.token, position)

        return was_started

    def settle(self) -> None:
        """Do what the dead have left to be done; what an interrupt or a full queue keeps from it, later. [25]"""
        self._settlings += 1
        own = self._settlings
        self._unsettled_ns = self._clock.monotonic_ns()
        try:
            done = self._settle()
        except BaseException:  # an interrupt: at the next look, also if somebody else has put it off
            self._unsettled_ns = self._clock.monotonic_ns()
            raise
        if done and own == self._settlings:
            self._unsettled_ns = 0
        else:  # also if another death was noticed meanwhile
            self._unsettled_ns = self._clock.monotonic_ns() + RETRY_NS

    def _last_failure(
        self, txn: Any, queue: int, position: Position, raw: Raw, row: Row, failures: int
    ) -> Claim | None:
        """A claim to bury the message with, if its failures have reached the maximum."""
        state = self._catalog.state(queue, txn)
        maximum = state.options.max_deliveries
        if maximum is None or failures == row.failures:
            return None
        try:
            record = self._log.decode(queue, position, raw)
        except MessageCorrupted:
            return None  # found out when it is claimed again
        if record.delivery_count + failures < maximum:
            return None
        claim = Claim(state, position, row, raw)
        claim.record = attrs.evolve(record, acquired_count=record.acquired_count + row.acquired)
        return claim

    def leave(self) -> None:
        """This process stops using the store: all it holds goes back, without blame."""
        owner = self._presence.owner
        freed: set[tuple[int, int]] = set()

        def op(txn: Any) -> None:
            with self._claims.lock, self._claims.guard, self._claims.write() as c:
                for queue, position, row in [entry for entry in c.rows() if entry[2].owner == owner]:
                    if txn.has(queue, position):
                        c.give_back(queue, position, Returned(row.failures, row.acquired), row.group)
                        txn.notes.append((ARRIVED, queue))
                    else:
                        c.drop(queue, position, row.group)
                    if row.group:
                        freed.add((queue, row.group))
                for queue, group in freed:
                    offer(c, txn, self._catalog.state(queue, txn), group)
                    txn.notes.append((ARRIVED, queue))
                for queue, holder in c.seats():
                    if holder == owner:
                        c.set_seat(queue, None)
                        txn.notes.append((CHANGED, queue))
                txn.notes.extend((CHANGED, queue) for queue in c.leave_all(owner))
                c.remove_owner(owner)

        self._log.hold(op)
