"""Which message is on its way to the disk, and who has a row for it already: words that all processes share. [28]

    COMING      the place of a message whose commit waits for the disk; written under L
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


class Expected:
    """See the top of this module. Survives a fork: the words are those of all processes."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    # ------------------------------------------------------------------ what is on its way
    def announce(self, queue: int, position: Position) -> None:
        """Under L, before the commit: this message is on its way."""
        words = self._words
        words[COMING_SEQ] = 0
        words[COMING_PLACE] = queue << 32 | position >> 64
        words[COMING_SEQ] = position & _SEQ

    def withdraw(self) -> None:
        """It has come, or never will. By who has announced it, or under L."""
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
        return not self._words[EXPECTED_SEQ]

    def expect(self, who: Expecting) -> None:
        """Under C, while it is free, before the commit of the row."""
        words = self._words
        queue, position, words[EXPECTED_OWNER], words[EXPECTED_SLEEPER], words[EXPECTED_COMMIT] = who
        words[EXPECTED_PLACE] = queue << 32 | position >> 64
        words[EXPECTED_SEQ] = position & _SEQ

    def expecting(self) -> Expecting | None:
        """Who has. Cost: 0.1 us where nobody has."""
        words = self._words
        seq: int = words[EXPECTED_SEQ]
        if not seq:
            return None
        place: int = words[EXPECTED_PLACE]
        position = (place & _LOW) << 64 | seq
        return Expecting(place >> 32, position, words[EXPECTED_OWNER], words[EXPECTED_SLEEPER], words[EXPECTED_COMMIT])

    def free(self, owner: int, sleeper: int) -> None:
        """That sleeper expects nothing any more; it is handed out, or given up. May be done twice."""
        words = self._words
        if words[EXPECTED_OWNER] == owner and words[EXPECTED_SLEEPER] == sleeper:
            words[EXPECTED_SEQ] = 0
