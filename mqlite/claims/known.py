"""What this process knows of the claims on disk as of its own last commit, so that the next one need not read it again.

LMDB numbers its commits without a gap. A write transaction whose number follows that of this
process's last commit finds all as that commit left it. Two kinds of commit carry their knowledge
on, the two that each message takes: a claim of what is first in line, and the removal of rows that
were settled. After every other commit, of this process or another, everything is read anew. So
nothing has to be invalidated, and a kind of commit that is added later is safe.

Neither of the two gives back or takes away a row that is somebody's. So rows that were made
since the first of an unbroken chain of them (`since`) are as they were made: [3] and [10] need no look.

Reading it took 5 us of 45 for receive and ack.
"""

from __future__ import annotations

import attrs

from ..message import Position


@attrs.define(eq=False)
class Line:
    """A queue that is open, has no seat, and to which nothing was given back: claimers take what is first in line.

    claimed: number of its rows; deadline_ns: no row times out before, 0: none does. cursors: by rank, of ranks that
    have no row ahead of the cursor.
    """

    rows: bytes  # how the keys of its rows begin
    counter: bytes  # the key of `claimed`
    claimed: int
    deadline_ns: int
    cursors: dict[int, Position] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Known:
    """Of one environment. Changed under C; read by anybody, with `transaction`, which is -2 while the rest changes.

    transaction: the number of the commit that all this is as of. generation: -1 where it is not known, or where
    there are seats. room: entries that can be made before they are to be counted again. extra: rows that are part of an
    entry with others (runs.py), -1: not known.
    """

    transaction: int = -2
    since: int = 0
    generation: int = -1
    nobody_waits: bool = False
    room: int = 0
    extra: int = -1
    lines: dict[int, Line] = attrs.field(factory=dict)

    def begin(self, commit: int) -> None:
        """The transaction that will be that commit has begun."""
        if self.transaction != commit - 1:
            self.since = commit
            self.generation = -1
            self.nobody_waits = False
            self.room = 0
            self.extra = -1
            self.lines = {}
        self.transaction = -2
