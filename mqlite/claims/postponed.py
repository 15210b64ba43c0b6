"""Rows of settled messages that go with the next commit of the claims that this process makes, instead of one for each.

A message that was settled is gone from the log. Its row keeps nobody from anything: no claimer meets it, take-back
drops it, and the task that it stands for is counted. So it may stay for a while; whoever takes one message after the
other then makes two commits for each instead of three (3 us of 31 for receive and ack). Only who counts the rows of a
queue must know whether there are any such: two words that all processes share say so.

    SETTLED   how many messages were ever settled that way; under L
    CLEARED   how many of their rows are gone; under C

They are equal when none is left. A process that is killed leaves them unequal until what it held is taken back; then
all rows without a message are dropped, and they are made equal, under both locks. So they are by each take-back, also
where only a deadline was over: that may be the row of a settled message. Further apart than need be costs time only.
"""

from __future__ import annotations

from collections import deque

from ..message import Position
from ..system.control import CLEARED, SETTLED

#: As many stay at most.
AT_MOST = 64


class Postponed:
    """Of one process. `add` is free for any thread, the rest is called under C.

    rows: (queue, position, whose task it is, or 0); they stay until `cleared` says that the commit was made.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.rows: deque[tuple[int, Position, int]] = deque()

    def add(self, queue: int, position: Position, owner: int) -> bool:
        """The row of a settled message; owner: whose task it is, or 0. Whether it may wait. Doing so twice is
        harmless.
        """
        self.rows.append((queue, position, owner))
        return len(self.rows) < AT_MOST

    def cleared(self, count: int, dropped: int) -> None:
        """The first so many are gone; so many of them were there."""
        for _ in range(count):
            self.rows.popleft()
        self._words[CLEARED] += dropped

    def all_cleared(self) -> None:
        """Under L and C: there is no row without a message, of any process."""
        self._words[CLEARED] = self._words[SETTLED]

    def everywhere(self, since: int) -> int:
        """How many all processes may have, or had when `gone_so_far` said that."""
        return self._words[SETTLED] - since

    def gone_so_far(self) -> int:
        """How many are gone that ever were."""
        return self._words[CLEARED]
