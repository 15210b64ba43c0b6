"""Claims of many threads, made in one commit.

Threads that take one message each meet at C. Who finds it held leaves his wish to the next one who gets it, by the
group commit that serves the log as well: what is first in line is looked up once for all of them, in one snapshot that
was opened after C [8], and their rows are one batch. (16 threads that receive and acknowledge at "process":
12.7-16.1 k/s instead of 7.7-10.0; the binding of LMDB lets go of the GIL 15 times for each message instead of 20.)

Each finds his claim in the list that he has given, before there is its row: whether he is interrupted before, in
between or behind, he can give back what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs

from ..claims import Line, Row
from ..message import Position
from ..system.group_commit import GroupCommit
from .catalog import QueueState
from .steps import Claim

if TYPE_CHECKING:
    from .seizing import Seizing


@attrs.define
class Supply:
    """What is first in line of a queue, for the claimers of one transaction.

    rows: of those that were given to somebody, from the first one on. by_terms: one for all who claim under the same
    terms (owner, flags), so that it is packed once: it has one token, as for all that is started and claimed together.
    """

    queue: int
    line: Line
    positions: Sequence[Position]
    raws: Sequence[Any]
    deadline_ns: int
    rows: list[Row] = attrs.field(factory=list)
    by_terms: dict[tuple[int, int], Row] = attrs.field(factory=dict)

    def store(self, c: Any) -> None:
        """Make the rows."""
        if self.rows:
            alike = [(row, len(list(some))) for row, some in groupby(self.rows)]
            c.claim_in_line(self.queue, self.line, self.positions[: len(self.rows)], alike)


def claim(
    engine: Seizing, group: GroupCommit, owner: int, queue: QueueState, flags: int, into: list[Claim]
) -> bool | None:
    """`Seizing._claim_once` of one message, which goes to the user at once, for one of several threads that claim at
    the same time, where nothing but the line decides. None, and nothing done, where something does, or may. `into` is
    empty.
    """
    found = group.run(Wish(engine, queue, (owner, flags), into))
    if found:
        engine._open_in_line(queue.id, into)
    return found


@attrs.define(eq=False)
class Wish:
    """What one thread wants, as an operation of a group."""

    engine: Seizing
    queue: QueueState
    terms: tuple[int, int]
    into: list[Claim]

    def __call__(self, c: Any) -> bool | None:
        """Under C: the next of the supply. May be run again, after a transaction that was not committed."""
        queue, terms, into = self.queue, self.terms, self.into
        into.clear()
        if queue.id not in c.supplies:
            c.supplies[queue.id] = _supply(self.engine, c, queue)
        supply: Supply | None = c.supplies[queue.id]
        if supply is None:
            return None
        number = len(supply.rows)
        if number == len(supply.positions):
            return False
        row = supply.by_terms.get(terms)
        if row is None:
            owner, flags = terms
            row = supply.by_terms[terms] = Row(c.token, owner, supply.deadline_ns, flags, 0, 1)
        into.append(Claim(queue, supply.positions[number], row, supply.raws[number], c.commit))
        supply.rows.append(row)
        return True


def _supply(engine: Seizing, c: Any, queue: QueueState) -> Supply | None:
    """Under C: as much as all claimers of the transaction want of a queue, and no more: bodies may be long."""
    line = c.line(queue.id, engine.presence.generation)
    if line is None or not engine.log.hides_nothing():
        return None
    # after C: it shows every key up to the highest that it shows
    count = sum(wish.queue.id == queue.id for wish in c.operations)
    found = engine.log.first_in_line(queue.id, queue.version, partial(c.clear_cursor, queue.id, line), count)
    if found is None or not c.has_room_for(len(found.positions)):
        return None
    deadline_ns = engine.deadline_in_line(queue, line) if found.positions else 0
    return None if deadline_ns < 0 else Supply(queue.id, line, found.positions, found.raws, deadline_ns)
