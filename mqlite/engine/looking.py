"""What is first in line where messages pass by (log/front.py), and whether anything else has a say. [29] [31]

Asked under L by who puts, claims or waits there: see passing.py, sitting.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..claims import Shut
from ..claims.known import Line
from ..claims.shared import SharedClaims
from ..log.front import BROUGHT, BROUGHT_BYTES, Front
from ..log.front_file import END, HEAD, MOST_RECORDS, NEEDED, OPEN, REMOVED_BYTES, RUN, TOTAL
from ..log.front_records import Lane
from ..message import Position
from ..system.control import CLAIMS
from .catalog import QueueState

if TYPE_CHECKING:
    from .machine import Engine


#: How often a claimer looks at the line; a range that is made each time takes 0.1 us.
_LOOKS = range(3)


class Looking:
    """The line, as the short way of one engine sees it. Free for any thread, where it does not say "under L"."""

    def __init__(self, engine: Engine, front: Front, claims: SharedClaims, words: memoryview) -> None:
        """words: of `log.control`."""
        self._engine = engine
        self._front = front
        self._claims = claims
        self._words = words
        self._presence = engine.presence
        self._monotonic_ns = engine.clock.monotonic_ns

    def has_any(self, queue: int) -> bool | None:
        """Whether a claimer would find a message; None where it takes more than a look at the line to say so."""
        state, front = self._engine.catalog.known(queue), self._front
        if state is None or self._is_shut():
            return None
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                found = self._first(state)
        except BaseException:
            self._let_go()
            raise
        return None if found is None else bool(found)

    def _let_go(self) -> None:
        """After an interrupt, which may have come just when the guard was about to open the gate: it does so now."""
        with self._front.lock, self._front.guard:
            pass

    def _is_shut(self) -> bool:
        words = self._front.words
        return not words[OPEN] and words[RUN] < words[NEEDED]

    def _first(self, queue: QueueState) -> Any:
        """Under L: (place, where it is, deadline) of what is first in line; False where nothing is, None where
        something else has a say.
        """
        front = self._front
        if not front.enter():
            return None
        for _ in _LOOKS:
            lane = front.lanes.get(queue.id)
            if lane is None or lane.version != queue.version:
                lane = front.lane(queue.id, queue.version)
            if lane is None or not (lane.in_line and queue.is_in_line):
                return None
            if self._words[CLAIMS] != lane.commit and not self._look_at_claims(queue.id, lane):
                return None
            now_ns, earliest_ns = self._monotonic_ns(), lane.deadline_ns
            deadline_ns = now_ns + queue.ack_timeout_ns if queue.ack_timeout_ns else 0
            if (earliest_ns <= now_ns if earliest_ns else deadline_ns) or earliest_ns > deadline_ns > 0:
                return None  # somebody has to be told of it, or another's is over
            found = front.first(lane)
            if found is not None:
                return found[0], found[1], deadline_ns
            if front.is_exhausted(lane):
                return False
            if not self._bring(queue, lane):
                return None
        return None

    def _look_at_claims(self, number: int, lane: Lane) -> bool:
        """Whether nothing but the line decides, as far as the claims know, and there is room for more of them."""
        commit = self._words[CLAIMS]
        if lane.heap is None:
            self._front.index(lane)
        with self._claims.read() as c:
            generation = c.generation()
            if (
                generation != self._presence.generation
                or c.any_seat(generation)
                or c.shut(number) is not Shut.OPEN
                or c.anything_returned(number)
                or not c.has_room_for(MOST_RECORDS)
            ):
                return False
            lane.deadline_ns = c.deadline_ns(number)
        lane.commit = commit
        return True

    def _bring(self, queue: QueueState, lane: Lane) -> bool:
        """Under L: the next messages of the tree, under C. False where none can be brought."""
        front, claims = self._front, self._claims
        if END - front.words[HEAD] - front.words[REMOVED_BYTES] < BROUGHT_BYTES:
            return front.turn()
        number, total = queue.id, front.words[lane.slot + TOTAL]
        is_done = False
        front.shut()
        with claims.lock, claims.guard, claims.write() as c:
            line = c.line(number, self._presence.generation)
            if line is not None:
                count = self._how_many(number, total)
                horizon = front.horizon(lane)
                cursor: Callable[[int], Position | None] = partial(_passed, c, number, line, horizon)
                found = self._engine.log.first_in_line(number, lane.version, cursor, count)
                # under C: else who gets it next finds the front empty, and claims them, too
                is_done = found is not None and front.bring(lane, found, count)
        # with what was put before them; and they have to be whole on the disk before they can be settled (recalling.py)
        if is_done and front.flushes is not None and not front.flushes.flush_now():
            return False
        front.reopen()  # last: an interrupt leaves none that nobody sees
        return is_done

    def _how_many(self, number: int, total: int) -> int:
        """How many messages to bring at once; at least two."""
        with self._engine.log.glance() as snapshot:
            counters = snapshot.counters(number)
        mean = counters.bytes // max(1, counters.total)
        return max(2, min(BROUGHT, BROUGHT_BYTES // (mean + 128)))


def _passed(c: Any, number: int, line: Line, horizon: Position, rank: int) -> Position | None:
    """Up to where messages of a rank are claimed or in the front; None where that cannot be said."""
    if rank < horizon >> 64:
        return (rank + 1 << 64) - 1
    cursor: Position | None = c.clear_cursor(number, line, rank)
    return cursor if cursor is None or rank > horizon >> 64 else max(cursor, horizon)
