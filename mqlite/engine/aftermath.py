"""What follows a commit of the log: rows go, tasks are counted, sleepers are rung. [4] [7] [10]

And what comes just before one that waits for the disk: who waits for what it brings is woken already (`forewarn`).
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice, repeat
from typing import Any

from ..claims import TASK, Claims, Kind, Shut
from ..claims.expected import Expected, Expecting
from ..errors import MqliteError
from ..log import DEAD_BIT, Log, Note
from ..message import Position
from ..waiting import RUNG_FROM, Ring, Waiters
from .catalog import Catalog
from .groups import offer
from .steps import ARRIVED, CHANGED, DAMAGED, DELAYED, EXPIRES, FAILED, GONE, SETTLED, SETTLED_ALONE, Claim
from .tasks import shut_mode

#: Who is to be rung, and (queue, kind) of those who look on.
Outlook = tuple[list[Ring], list[tuple[int, Kind]]]
_NOBODY: Outlook = ([], [])
#: A sleeper that was rung a moment ago is warm: nobody is forewarned more often.
FOREWARN_EVERY_NS = 1_000_000
_POP = operator.methodcaller("popleft")


class Aftermath:
    """Carries out the notes that operations left in their transaction, once it is committed."""

    def __init__(
        self,
        log: Log,
        claims: Claims,
        waiters: Waiters,
        catalog: Catalog,
        give_back_failed: Callable[[list[Claim]], None],
    ) -> None:
        self._log = log
        self._give_back_failed = give_back_failed
        self._catalog = catalog
        self._claims = claims
        self._waiters = waiters
        self._leftover: deque[Note] = deque()
        self.calm: dict[int, int] = {}  # per queue: the commit of the claims as of which it was calm
        self._foreseen: tuple[int, int, Outlook] = (0, -2, _NOBODY)  # queue, commit of the claims, who waited then
        self._forewarned_ns = 0
        self._expected = claims.expected
        self._announced: Note | None = None  # of a message that comes alone, and was said to be on its way
        log.before_commit = self.forewarn
        log.after_commit = self.run

    def forewarn(self, notes: list[Note]) -> None:
        """Under L, before a commit that waits for the disk: ring who waits for what it brings.

        He makes his row if it is one plain message [28], or looks and finds nothing yet; and sleeps again while the
        disk is busy. When he is rung after the commit, little is left to do, and the processor and its caches know the
        way (commit to return of receive(): 80-137 us instead of 107-179 without the row, and twice as much without
        either). A ring too many is harmless. Who was seen to wait is remembered for `run`, as is_calm remembers that
        nobody did.
        """
        kind, queue, *position = notes[0]
        if kind is not ARRIVED or self.is_calm(queue):
            return
        now_ns = time.monotonic_ns()
        if now_ns < self._forewarned_ns + FOREWARN_EVERY_NS:
            return
        self._forewarned_ns = now_ns
        with contextlib.suppress(MqliteError):  # told after the commit
            with self._claims.read() as c:
                self._learn(c, queue)
                self._foreseen = queue, c.commit, self._who_waits(c, {queue}, set())
            if position and len(notes) == 1 and self._expected is not None:
                self._announced = notes[0]
                self._expected.announce(queue, *position)
            for ring in self._foreseen[2][0]:
                self._waiters.ring_any(*ring)

    def run(self, notes: list[Note]) -> None:
        """What follows a commit of the log: rows go, tasks are counted, sleepers are rung.

        All of it may be done twice. What an error keeps from being done is done after the next commit.
        """
        leftover: list[Note] = []
        expected, who = self._expected, None
        try:
            if expected is not None and notes[0] is self._announced:
                who = self._ring_expecting(expected)
                self._announced = None
                expected.withdraw(*notes[0][1:])
                if who is not None and not self._leftover and notes[0] == (ARRIVED, who.queue, who.position):
                    self._ring([], self._who_looks_on(who))  # nobody else need be rung for it
                    return
            if self._leftover or len(notes) > 1 or not self._follow(notes[0]):
                self._carry_out(notes, leftover)
            if expected is not None and who is None and not expected.is_free():  # behind the look at who waits
                self._ring_expecting(expected)
        except BaseException as error:
            self._leftover.extend([*notes, *leftover])
            if not isinstance(error, MqliteError):
                raise

    def _carry_out(self, notes: list[Note], leftover: list[Note]) -> None:
        """What these ask for, and what was left of earlier commits, which goes into `leftover`."""
        if self._leftover:
            with contextlib.suppress(IndexError):  # another thread was faster
                leftover.extend(map(_POP, repeat(self._leftover, len(self._leftover))))  # in C: none gets lost
        arrived, changed = set(), set()
        settled: list[Claim] = []
        alone: list[Claim] = []
        failed: list[Claim] = []
        delayed: dict[int, int] = {}
        expiring: dict[int, int] = {}
        for note in [*notes, *leftover]:
            if note[0] is ARRIVED:
                arrived.add(note[1])
            elif note[0] is SETTLED:
                settled += note[1]
            elif note[0] is SETTLED_ALONE:
                alone.append(note[1])
            elif note[0] is FAILED:
                failed.append(note[1])
            elif note[0] is DELAYED:
                delayed[note[1]] = min(note[2], delayed.get(note[1], note[2]))
            elif note[0] is EXPIRES:
                expiring[note[1]] = min(note[2], expiring.get(note[1], note[2]))
            else:
                changed.add(note[1])
                if note[0] is DAMAGED:
                    self._scan_anew(note[1])
                elif note[0] is GONE:
                    self._drop(note[1], note[2])
        if alone:
            self._ring(*self._clear_alone(alone))
        if settled:
            rings, watched = self._clear(settled, arrived, set(delayed))
        else:
            rings, watched = self._look(arrived, set(delayed))
        self._ring(rings, watched)
        if failed:  # under L again, which nobody holds here; that has an aftermath of its own
            self._give_back_failed(failed)
        for queue, wake_ns in delayed.items():
            if self._waiters.uncovered(queue, wake_ns):
                self._waiters.ring_one(queue, Kind.MESSAGE)
        for queue, wake_ns in expiring.items():
            self._cover_expiry(queue, wake_ns)
        for queue in changed:
            for kind in Kind:
                self._waiters.ring_all(queue, kind)

    def look_after(self, queue: int) -> None:
        """What follows the removal of a message that passed by: who waits for room, or looks on, is rung. May be done
        twice.
        """
        try:
            if not self.is_calm_by_rows(queue):
                self._ring(*self._look(set(), {queue}))
        except MqliteError:
            self._leftover.append((CHANGED, queue))  # who waits for whatever looks

    def _ring_expecting(self, expected: Expected) -> Expecting | None:
        """Ring who expects a message, whatever was committed; he makes sure of it. [28]"""
        who = expected.expecting()
        if who is not None and not self._waiters.ring(who.owner, who.sleeper):
            who = None
        return who

    def _who_looks_on(self, who: Expecting) -> list[tuple[int, Kind]]:
        """Those to be rung besides the one who expected the message: seen before the commit, if nothing but his row was
        committed to the claims since. (24 us when the caches are cold, in which the kernel may keep him waiting)
        """
        queue, commit, (_, watched) = self._foreseen
        if queue == who.queue and commit + 1 == who.commit == self._claims.last_commit():
            return watched
        return self._look({who.queue}, set())[1]

    def _follow(self, note: Note) -> bool:
        """`run` for what most often follows a commit, if it is only that. (1 us less)"""
        if note[0] is SETTLED_ALONE:
            rings, watched = self._clear_alone([note[1]])
        elif note[0] is SETTLED:
            rings, watched = self._clear(note[1], set(), set())
        elif note[0] is not ARRIVED:
            return False
        else:
            queue, commit, (rings, watched) = self._foreseen
            # who sits on the bench may have come since, without a commit
            if queue != note[1] or commit != self._claims.last_commit() or self._somebody_sits():
                return self.is_calm(note[1])
        if rings or watched:
            self._ring(rings, watched)
        return True

    def _ring(self, rings: list[Ring], watched: list[tuple[int, Kind]]) -> None:
        for ring in rings:
            self._waiters.ring_any(*ring)
        for queue, kind in watched:
            if kind is Kind.LEVEL:
                self._waiters.ring_all(queue, kind)
            else:
                self._ring_joiners(queue)

    def _scan_anew(self, queue: int) -> None:
        with self._claims.lock, self._claims.guard, self._claims.write() as c:
            c.forget_cursors(queue)

    def _drop(self, queue: int, positions: Iterable[Position]) -> None:
        """Of messages that were taken away: nobody can claim them any more, so what is known of them may go now."""
        with self._claims.lock, self._claims.guard, self._claims.write() as c:
            for position in positions:
                row = c.row(queue, position)
                if row is not None:
                    c.drop(queue, position, row.group)
                elif c.returned_at(queue, position) is not None:
                    c.take_returned(queue, position)
            c.forget_cursors(queue)  # what stays may have waited for its group

    def _cover_expiry(self, queue: int, wake_ns: int) -> None:
        """What expires makes room, may finish a queue, and becomes a dead letter: one who waits for that looks then."""
        kinds = ((queue, Kind.MESSAGE), (queue, Kind.SPACE), (queue, Kind.DONE), (queue | DEAD_BIT, Kind.MESSAGE))
        for where, kind in kinds:
            if self._waiters.uncovered(where, wake_ns, kind):
                self._waiters.ring_one(where, kind)

    def _look(self, arrived: set[int], delayed: set[int]) -> Outlook:
        """Who is to be rung after a put: one look, after the commit; none where all these queues are calm."""
        if all(map(self.is_calm, arrived | delayed)):
            return [], []
        with self._claims.read() as c:
            for queue in arrived | delayed:
                self._learn(c, queue)
            return self._who_waits(c, arrived, delayed)

    def _learn(self, c: Any, queue: int) -> None:
        if c.shut(queue) is Shut.OPEN and not c.anybody():
            self.calm[queue] = c.commit

    def _clear(self, settled: list[Claim], arrived: set[int], left: set[int]) -> Outlook:
        """The rows of what was settled go, after the log's commit, and the groups that were held up by it go on; who is
        to be rung is seen in the same state. [10] [20]
        """
        with self._claims.lock, self._claims.guard, self._claims.write() as c:
            if self._clear_at_once(c, settled):  # as most: half the time of what is below
                if not c.anybody() and not (arrived and self._somebody_sits()):
                    return _NOBODY
                left.add(settled[0].queue.id)
                return self._who_waits(c, arrived, left)
            plain: dict[tuple[int, int], list[Position]] = {}  # by queue, and owner if they are his tasks
            freed: set[tuple[int, int]] = set()
            for claim in settled:
                queue, position, row = claim.queue.id, claim.position, claim.row
                left.add(queue)
                if row.group:
                    freed.add((queue, row.group))
                    arrived.add(queue)
                if not c.is_undisturbed(claim.commit):
                    found = c.row(queue, position)
                    if found is None or found.holder != row.holder:
                        continue
                if not row.group:
                    plain.setdefault((queue, row.owner if row.flags & TASK else 0), []).append(position)
                elif c.drop(queue, position, row.group) and row.flags & TASK:
                    c.add_tasks(queue, row.owner, 1)
            for (queue, owner), positions in plain.items():
                dropped = c.drop_settled(queue, positions)
                if dropped and owner:
                    c.add_tasks(queue, owner, dropped)
            hidden = [each for each in freed if c.may_hide(each[0])]
            if hidden:
                with self._log.read() as snapshot:  # after C
                    for queue, group in hidden:
                        offer(c, snapshot, self._catalog.state(queue, snapshot), group)
            return self._who_waits(c, arrived, left)

    def _clear_alone(self, claims: list[Claim]) -> Outlook:
        """The rows of messages that were settled one by one: see claims/postponed.py."""
        few, queues = True, set()
        for claim in claims:
            row = claim.row
            queues.add(claim.queue.id)
            few = self._claims.postpone(claim.queue.id, claim.position, row.owner if row.flags & TASK else 0)
        if not few:
            with self._claims.lock, self._claims.guard, self._claims.write():
                pass  # all that was postponed goes now
        return self._look(set(), queues)

    @staticmethod
    def _clear_at_once(c: Any, settled: list[Claim]) -> bool:
        """Under C: the rows go if they are of one queue, of no group, and known to be there. Else False, and nothing is
        done.
        """
        first = settled[0]
        queue, row, oldest = first.queue.id, first.row, first.commit
        are_tasks = row.flags & TASK
        if row.group:
            return False
        if len(settled) > 1:
            for claim in settled:
                if claim.row is not row and (claim.row.group or claim.row.flags & TASK != are_tasks):
                    return False
                if claim.queue is not first.queue:
                    return False
                if claim.commit < oldest:
                    oldest = claim.commit
        if not c.is_undisturbed(oldest):
            return False
        dropped = c.drop_settled(queue, [claim.position for claim in settled])
        if are_tasks and dropped:
            c.add_tasks(queue, row.owner, dropped)
        return True

    def _who_waits(self, c: Any, arrived: set[int], left: set[int]) -> Outlook:
        """For a message or for room; and (queue, kind) where somebody wants to see it finished, or its level change."""
        if not c.anybody() and not (arrived and self._somebody_sits()):
            return [], []
        wanted = [(queue, Kind.MESSAGE) for queue in arrived] + [(queue, Kind.SPACE) for queue in left]
        rings = [(queue, kind, list(islice(c.waiting(queue, kind), RUNG_FROM))) for queue, kind in wanted]
        return rings, [(queue, kind) for queue in arrived | left for kind in c.observers(queue)]

    def _somebody_sits(self) -> bool:
        """Whether anybody is on the bench, who waits for a message."""
        return self._claims.bench is not None and not self._claims.bench.is_empty()

    def is_calm(self, queue: int) -> bool:
        """Whether nobody waits for anything of the queue, and it is not shut."""
        return not self._somebody_sits() and self.is_calm_by_rows(queue)

    def is_calm_by_rows(self, queue: int) -> bool:
        """Whether nobody waits but on the bench, and it is not shut: nothing was committed to the claims since that was
        so. A put asks twice, before and after its commit, and saves two snapshots (a third of its time
        besides the flush). What is registered after the second time is followed by a look at the log [5].
        """
        last = self._claims.last_commit()
        if self.calm.get(queue) == last:
            return True
        if self._claims.is_calm(queue, last):
            self.calm[queue] = last
            return True
        return False

    def _ring_joiners(self, queue: int) -> None:
        self._log.fold()
        with self._log.read() as snapshot:
            stored = snapshot.counters(queue).total
        if not stored or shut_mode(self._claims, queue) is Shut.IMMEDIATE:
            for kind in (Kind.DONE, Kind.STANDBY):
                self._waiters.ring_all(queue, kind)

    def forget(self) -> None:
        """In a forked child: what the parent was about to do is the parent's."""
        self._leftover.clear()
        self.calm.clear()
        self._foreseen = 0, -2, _NOBODY
        self._announced = None
