"""Message groups: so many of a group in flight, in order. [20]

The log has an index of each group in its order (priority, then put); the claims count the rows of
each group. A message may be claimed if its group has fewer rows than its limit, and, where the
limit is one, if it is the first of its group. Other members are passed over by claimers, which
may move a cursor past them; whoever frees a group therefore offers its next members: those that
lie behind a cursor go to the returned ones.

Nothing is recorded of those that were passed over, so a large group costs no more than a small one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..claims import Returned
from ..log import Log, Raw, Snapshot
from ..message import UNGROUPED, Position
from .catalog import NO_LIMIT, QueueState


class Turnstile:
    """Says during one claim which messages may be taken, counting what is taken as it goes."""

    __slots__ = ("_c", "_in_flight", "_log", "_queue", "_snapshot", "_walks")

    def __init__(self, log: Log, c: Any, snapshot: Snapshot, queue: QueueState) -> None:
        self._log = log
        self._c = c
        self._snapshot = snapshot
        self._queue = queue
        self._in_flight: dict[int, int] = {}
        self._walks: dict[int, Iterator[tuple[int, int]]] = {}

    def _limit(self, group: int) -> int:
        """How many of a group may be in flight; 0 where that many are."""
        count = self._in_flight.get(group)
        if count is None:
            count = self._in_flight[group] = self._c.in_flight(self._queue.id, group)
        limit = self._queue.limit_of(group)
        return limit if count < limit else 0

    def admits(self, position: Position, raw: Raw) -> bool:
        """Whether the message at that position may be claimed, which then counts as taken."""
        group = self._log.group_of(raw)
        if group == UNGROUPED:
            return True
        limit = self._limit(group)
        if not limit or (limit == 1 and not self._snapshot.leads(self._queue.id, group, position)):
            return False
        self._in_flight[group] += 1
        return True

    def first(self, group: int, taken: set[Position]) -> tuple[Position, Raw] | None:
        """The next of a group that may be claimed, which then counts as taken. O(messages of the group in flight)."""
        limit = NO_LIMIT if group == UNGROUPED else self._limit(group)
        if not limit:
            return None
        queue = self._queue.id
        if limit == 1:
            head = self._snapshot.head(queue, group)  # in flight, or waiting for its retry, it holds up the others
            members = iter(() if head is None else (head,))
        else:
            members = self._walks.setdefault(group, self._snapshot.members(queue, group))  # goes on where it stopped
        for member in members:
            position = self._snapshot.member_position(queue, *member)
            if position is None or position in taken or self._c.row(queue, position) is not None:
                continue
            raw = self._snapshot.look_up(queue, position)
            if raw is not None:
                if group != UNGROUPED:
                    self._in_flight[group] += 1
                return position, raw
        return None


def in_turn(c: Any, snapshot: Snapshot, queue: int) -> Iterator[int]:
    """The groups of a fair queue, round robin and without end, from behind the one that had its turn last."""
    group = c.turn(queue)
    while True:
        following = snapshot.next_group(queue, group)
        if following is None:
            following = snapshot.next_group(queue, -1)
        if following is None:
            return
        group = following
        yield group


def offer(c: Any, snapshot: Snapshot, queue: QueueState, group: int, passed_or_not: bool = False) -> None:
    """A group may go on: what claimers have passed over and may be claimed now goes to the returned ones.

    Under C, with a snapshot that was opened after it, or under L. passed_or_not, before a commit of the log: also what
    no claimer has passed yet, and whatever is in flight, since that is seen by who looks in the state before.
    """
    if not queue.has_cursors:
        return
    limit = queue.limit_of(group)
    if limit == NO_LIMIT:
        return  # nothing is ever passed over
    free = limit if passed_or_not else limit - c.in_flight(queue.id, group)  # what is in flight may be about to end
    for rank, number in snapshot.members(queue.id, group):
        if free <= 0:
            return
        position = snapshot.member_position(queue.id, rank, number)
        if position is None:
            if limit == 1:
                return
            continue
        if c.row(queue.id, position) is not None:
            continue
        free -= 1
        found_anyway = not passed_or_not and not c.has_passed(queue.id, position)
        if not found_anyway and c.returned_at(queue.id, position) is None:
            c.give_back(queue.id, position, Returned(0, 0))
