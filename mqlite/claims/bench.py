"""Who waits for a message, in words that all processes map: a sleeper sits down, and gets up, without a commit.

For queues whose messages pass by (log/front.py): there a commit of the claims for each who comes and goes would cost
more than the messages. It is one more list of those who wait, beside the rows of the claims, and whoever looks at those
in the claims looks at these, too. Who waits for anything but a message has a row.

    word 0       up to which place there may be anybody; 0: nobody sits here
    word 1       who was called last: the next one comes behind him, so that all have their turn
    words 4 ...  four for each place: number of the queue + 1, or 0: free; sleeper; owner; when he wakes by himself

Changes are made under L (the log's write lock, of all processes). The number of the queue is stored last, and goes
first; so after a kill in between there is no half sleeper.

[32] Sit down -> look -> sleep, as [5] has it for rows; and who changes something looks at the bench afterwards. The
lock of the gate, given back in between, is the fence for both.
"""

from __future__ import annotations

from . import Waiting

UP_TO, LAST, FIRST, PLACE_WORDS = 0, 1, 4, 4
SLEEPER, OWNER, WAKE = 1, 2, 3


class Bench:
    """The sleepers of one store. Looking is free for any thread; a look beside a change sees it, or does not."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def is_empty(self) -> bool:
        """Whether nobody sits here."""
        return not self._words[UP_TO]

    def of(self, queue: int) -> list[Waiting]:
        """Who waits for a message of that queue. O(places in use)."""
        return [waiting for number, _, waiting in self._taken() if number == queue]

    def everybody(self) -> list[Waiting]:
        """Who waits, for whatever."""
        return [waiting for _, _, waiting in self._taken()]

    def _taken(self) -> list[tuple[int, int, Waiting]]:
        """(queue, place, who) of all."""
        words = self._words[FIRST : FIRST + PLACE_WORDS * self._words[UP_TO]].tolist()
        return [
            (words[i] - 1, FIRST + i, Waiting(*words[i + SLEEPER : i + PLACE_WORDS]))
            for i in range(0, len(words), PLACE_WORDS)
            if words[i]
        ]

    def place_of(self, queue: int, sleeper: int, owner: int) -> int:
        """Where that sleeper sits; 0 where he does not, perhaps since he was called."""
        for number, place, waiting in self._taken():
            if (number, *waiting[:2]) == (queue, sleeper, owner):
                return place
        return 0

    def looks_by(self, queue: int, deadline_ns: int) -> bool:
        """Whether one of them wakes by himself at or before that."""
        return any(0 < waiting.wake_ns <= deadline_ns for waiting in self.of(queue))

    # ------------------------------------------------------------------ under L
    def sit(self, queue: int, waiting: Waiting) -> int:
        """The place of one more; 0 where all are taken."""
        words, used = self._words, self._words[UP_TO]
        for number in range(used + 1):
            place = FIRST + PLACE_WORDS * number
            if place == len(words):
                return 0
            if number == used or not words[place]:
                break
        words[place + SLEEPER], words[place + OWNER], words[place + WAKE] = waiting
        if number == used:
            words[UP_TO] = used + 1
        words[place] = queue + 1
        return place

    def note_wake(self, place: int, wake_ns: int) -> None:
        """He who sits there will wake by himself then; 0: not."""
        self._words[place + WAKE] = wake_ns

    def first(self, queue: int) -> tuple[int, Waiting] | None:
        """(place, who) of one who waits for a message of that queue, to be called: it is his turn."""
        found = [(place, waiting) for number, place, waiting in self._taken() if number == queue]
        if not found:
            return None
        last = self._words[LAST]
        behind = [each for each in found if each[0] > last]
        chosen = (behind or found)[0]
        self._words[LAST] = chosen[0]
        return chosen

    def leave(self, place: int) -> None:
        """The place is free."""
        self._words[place] = 0
        self._forget_free()

    def leave_all(self, owner: int) -> None:
        """No thread of that process sits here, nor was it killed while one sat down."""
        for _, place, waiting in self._taken():
            if waiting.owner == owner:
                self._words[place] = 0
        self._forget_free()

    def _forget_free(self) -> None:
        """Behind the last who sits here nobody need look."""
        words = self._words
        used = words[UP_TO]
        while used and not words[FIRST + PLACE_WORDS * (used - 1)]:
            used -= 1
        words[UP_TO] = used

    # ------------------------------------------------------------------ the end
    def close(self) -> None:
        """Let go of the words; the store is closed, and nobody sits here for this process."""
        self._words = memoryview(bytearray(8 * FIRST)).cast("Q")
