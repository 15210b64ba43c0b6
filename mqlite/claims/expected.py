"""Which message is on its way to the disk, and who has a row for it already: words that all processes share. [28]

    COMING      the place of a message whose commit waits for the disk; written under L, taken out by who has written
                it, or by who has waited for it in vain
    EXPECTED    the place of one, perhaps still to come, that a waiter has made a row for, and whom to ring when it is
                there; written under C by who makes the row, while it is free, and freed by that one alone, or when he
                is dead

A place is queue u32, rank u32, and a seq u64; a seq of 0 says that there is none. It is written last, and taken away
first. Whoever reads half of one and half of another does no harm: COMING is a hint, since a row for a message that
never comes is given up again, and a ring too many is harmless.

That EXPECTED is freed is the mark of the hand-out as well: a death before it does not blame the message. One message
at a time is enough: the next commit comes when this one is on the disk.
"""

from __future__ import annotations

from typing import NamedTuple

from ..message import Position
from ..system.control import (
    COMING_PLACE,
    COMING_SEQ,
    EXPECTED_COMMIT,
    EXPECTED_OWNER,
    EXPECTED_PLACE,
    EXPECTED_SEQ,
    EXPECTED_SLEEPER,
)

_LOW = (1 << 32) - 1
_SEQ = (1 << 64) - 1


class Expecting(NamedTuple):
    """Who has a row for which message, and the number of the commit of the claims that made it."""

    queue: int
    position: Position
    owner: int
    sleeper: int
    commit: int


#: (queue, position, owner)
Named = tuple[int, Position, int]


class Expected:
    """See the top of this module. Survives a fork: the words are those of all processes. Once the store is closed,
    which may be between a commit and its aftermath, nobody expects anything here, and nothing is done.
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words

    # ------------------------------------------------------------------ what is on its way
    def announce(self, queue: int, position: Position) -> None:
        """Under L, before the commit: this message is on its way."""
        words = self._words
        words[COMING_SEQ] = 0
        words[COMING_PLACE] = queue << 32 | position >> 64
        words[COMING_SEQ] = position & _SEQ

    def withdraw(self, queue: int, position: Position) -> None:
        """It has come, or is not waited for any more. What is announced at this very moment may be taken out as well:
        it comes as if it had not been announced.
        """
        try:
            if self.coming(queue) == position:
                self._words[COMING_SEQ] = 0
        except ValueError:  # closed
            pass

    def withdraw_all(self) -> None:
        """Under L: no commit is under way, so what is on its way is of one that was killed, or has failed."""
        self._words[COMING_SEQ] = 0

    def coming(self, queue: int) -> Position | None:
        """The message of a queue that is on its way; it may have come meanwhile."""
        words = self._words
        seq: int = words[COMING_SEQ]
        place: int = words[COMING_PLACE]
        return (place & _LOW) << 64 | seq if seq and place >> 32 == queue else None

    # ------------------------------------------------------------------ who has a row for it
    def is_free(self) -> bool:
        """Whether nobody has. Under C it stays so."""
        try:
            return not self._words[EXPECTED_SEQ]
        except ValueError:  # closed
            return True

    def expect(self, who: Expecting) -> None:
        """Under C, while it is free, before the commit of the row."""
        words = self._words
        queue, position, words[EXPECTED_OWNER], words[EXPECTED_SLEEPER], words[EXPECTED_COMMIT] = who
        words[EXPECTED_PLACE] = queue << 32 | position >> 64
        words[EXPECTED_SEQ] = position & _SEQ

    def expecting(self) -> Expecting | None:
        """Who has. Cost: 0.1 us where nobody has."""
        words = self._words
        try:
            seq: int = words[EXPECTED_SEQ]
            if not seq:
                return None
            place: int = words[EXPECTED_PLACE]
            owner, sleeper, commit = words[EXPECTED_OWNER], words[EXPECTED_SLEEPER], words[EXPECTED_COMMIT]
        except ValueError:  # closed
            return None
        return Expecting(place >> 32, (place & _LOW) << 64 | seq, owner, sleeper, commit)

    def named(self) -> Named | None:
        """The row of who has: it may have no message, and is nobody's task then."""
        who = self.expecting()
        return None if who is None else who[:3]

    def free(self, owner: int, sleeper: int) -> None:
        """That sleeper expects nothing any more; it is handed out, or given up. May be done twice."""
        words = self._words
        try:
            if words[EXPECTED_OWNER] == owner and words[EXPECTED_SLEEPER] == sleeper:
                words[EXPECTED_SEQ] = 0
        except ValueError:  # closed
            pass
