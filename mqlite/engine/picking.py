"""Which messages a claimer takes: what is first in line, but for what is held up by its group. Changes nothing. [8]"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from ..claims import Returned, Shut
from ..errors import MessageCorrupted
from ..log import Raw, Snapshot
from ..message import Position, Record
from . import replay
from .catalog import QueueState
from .groups import Turnstile, in_turn
from .inspection import remembered
from .settling import Settling


class Picked(NamedTuple):
    """What a claimer would take, in its order, and what it changes among the claims besides."""

    taken: list[tuple[Position, Raw, Returned | None]]
    stale: list[Position]  # given back, and gone from the log
    passed: list[Position]  # ahead of the cursors, of groups that are busy
    turn: int  # the group of a fair queue that had its turn last; -1: none


NOTHING = Picked([], [], [], -1)


def _NO_CURSOR(rank: int) -> Position:
    return -1


class Picking(Settling):
    """Looking at what is first in line. Free for any thread."""

    def _pick(
        self,
        c: Any,
        snapshot: Snapshot,
        queue: QueueState,
        count: int,
        grouped: int | None = None,
        unchecked: bool = False,
    ) -> Picked:
        """What a claimer takes: returned positions merged with those ahead of the cursors, in delivery order, but for
        those whose group is busy. Changes nothing.
        """
        if grouped is None:
            grouped = snapshot.gauges(queue.id)[3]
        if queue.options.fair and not unchecked:
            return self._pick_in_turn(c, snapshot, queue, count)
        turnstile = Turnstile(self.log, c, snapshot, queue) if grouped and not unchecked else None
        number = queue.id
        picked: list[tuple[Position, Raw, Returned | None]] = []
        stale: list[Position] = []
        passed: list[Position] = []
        given_back = c.returned(number)
        ahead = snapshot.ahead(number, (lambda rank: c.cursor(number, rank)) if queue.has_cursors else _NO_CURSOR)
        if grouped and unchecked:
            ahead = snapshot.scan(number)  # also what claimers have passed over
        back = next(given_back, None)
        fresh = next(ahead, None)
        while True:
            if back is not None and (fresh is None or back[0] <= fresh[0]):
                position, returned = back
                if fresh is not None and fresh[0] == position:
                    fresh = next(ahead, None)
                raw = snapshot.raw(number, position)
                if raw is None:
                    stale.append(position)
                elif turnstile is None or turnstile.admits(position, raw):
                    picked.append((position, raw, returned))
                if len(picked) == count:
                    break
                back = next(given_back, None)
            elif fresh is not None:
                if c.row(number, fresh[0]) is None:
                    if turnstile is None or turnstile.admits(*fresh):
                        picked.append((fresh[0], fresh[1], None))
                    elif queue.has_cursors:
                        passed.append(fresh[0])
                if len(picked) == count:
                    break  # before the next record is copied for nobody
                fresh = next(ahead, None)
            else:
                break
        return Picked(picked, stale, passed, -1)

    def _pick_in_turn(self, c: Any, snapshot: Snapshot, queue: QueueState, count: int) -> Picked:
        """The same in a fair queue: one of each group that has something to give, round and round."""
        turnstile = Turnstile(self.log, c, snapshot, queue)
        picked: list[tuple[Position, Raw, Returned | None]] = []
        taken: set[Position] = set()
        turn, idle = -1, None
        for group in in_turn(c, snapshot, queue.id):
            if group == idle:
                break  # none had anything since
            found = turnstile.first(group, taken)
            if found is None:
                idle = group if idle is None else idle
                continue
            position, raw = found
            picked.append((position, raw, c.returned_at(queue.id, position)))
            taken.add(position)
            turn, idle = group, None
            if len(picked) == count:
                break
        return Picked(picked, [], [], turn)

    def peek(self, queue: QueueState, count: int) -> list[tuple[Position, Record]]:
        """The first `count` messages that a claimer would get; damaged ones are passed over."""
        found = []
        self.takeback.notice_deaths()
        self.schedule.care(queue.id)
        while queue.topic and self.inspection.stored(queue) < count and replay.top_up(self, queue)[1]:
            pass
        self.log.fold()
        with self.claims.read() as c, self.log.read() as snapshot:
            if c.shut(queue.id) is not Shut.IMMEDIATE:
                for position, raw, returned in self._pick(c, snapshot, queue, count).taken:
                    with contextlib.suppress(MessageCorrupted):
                        record = self.log.resolved(snapshot, self.log.decode(queue.id, position, raw))
                        found.append((position, remembered(record, returned)))
        return found
