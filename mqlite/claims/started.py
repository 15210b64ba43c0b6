"""Which prefetched messages were handed out, said by a word in shared memory instead of a commit.

    started/<owner>     one file per process that hands out what it has prefetched, mapped by it; u64, native order
        0       2048    tokens of claims, a slot each; 0: the slot is free
        2048    2048    seqs: of the claims with the token of that slot, those up to that seq were handed out

Claims that were made together have one token if they have one rank, and are handed out in the order of their seqs. So
one word says it of all. A row counts as started if its flag says so (STARTED), or if the slot of its token in the file
of its owner covers its seq. Whoever takes back what a process held reads its file.

Why a kill between two stores is harmless. A slot is taken by storing the seq, then the token: before the second
store it says nothing, and after it what is true of the message that is about to be handed out. It moves on by one
store of a seq, which the machine makes whole (memoryview writes 8 aligned bytes at once; struct would write them one
by one). It is freed by one store of a 0, when none of its rows is left. The pages are the kernel's, and outlive the
process; nothing is flushed, since the claims end with the boot as well. Tokens never repeat in a process, nor do owner
ids, so what is left in a slot is never taken for another claim's.

Where there is no file (a full disk), or no free slot, `mark` says so, and the row is changed by a commit, as it is when
its deadline has to be moved. A commit takes 6.7 us, `mark` 0.2 us.

Rejected: one file for all processes (slots of the dead have to be told from those of the living); the rank in the slot,
too (two stores, and a kill between them); a bit per message (rows would have to know their bits).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Iterable

from ..errors import MqliteError
from ..message import Position
from ..system.blocks import preallocate, remove

SLOTS = 256
_BYTES = 2 * 8 * SLOTS
SEQ_MASK = (1 << 64) - 1

#: Whether the claim with a token on a position counts as started.
Covers = Callable[[int, Position], bool]
#: Where the seq of a token is.
Slot = tuple[memoryview, int]


def _nothing(token: int, position: Position) -> bool:
    return False


class StartedMarks:
    """What this process has handed out, and a look at what others have.

    Locks    `_lock` guards who has which slot; the file is made under it, once; it may be taken under any other.
             The seq of a slot is changed by one thread at a time: a consumer's own lock sees to it (0.2 us less).
    Fork     a child has no marks, and makes a file of its own.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: the file is the parent's."""
        self._lock = threading.Lock()
        self._owner = 0  # whose file it is, or could not be made, or was removed
        self._words: memoryview | None = None
        self._places: dict[int, int] = {}  # by token: where the seq is

    def _path(self, owner: int) -> str:
        return os.path.join(self._folder, f"{owner:016x}")

    # ------------------------------------------------------------------ this process
    def mark(self, owner: int, token: int, position: Position) -> bool:
        """Say that this claim of this process is handed out, as are all before it with that token: whoever holds them
        marks them in their order, one at a time. False where there is no slot for it: then a commit is to say so.
        """
        place, words = self._places.get(token), self._words
        if place is None or words is None:
            with self._lock:
                return self._mark_first(owner, token, position & SEQ_MASK)
        words[place] = position & SEQ_MASK
        return True

    def slot(self, token: int) -> Slot | None:
        """Where `mark` has said it of that token, until it is forgotten."""
        place, words = self._places.get(token), self._words
        return None if place is None or words is None else (words, place)

    def _mark_first(self, owner: int, token: int, seq: int) -> bool:
        if self._owner != owner:
            if self._owner:
                return False  # it has left
            self._open(owner)
        words = self._words
        if words is None or len(self._places) == SLOTS:
            return False
        for slot in range(SLOTS):
            if not words[slot]:
                words[SLOTS + slot] = seq
                words[slot] = token
                self._places[token] = SLOTS + slot  # interrupted just before, the slot is lost until the process ends
                return True
        return False

    def _open(self, owner: int) -> None:
        path = self._path(owner)
        with contextlib.suppress(MqliteError, OSError):  # full, or no descriptors: commits will do
            preallocate(path, _BYTES)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._words = memoryview(mmap.mmap(fd, _BYTES)).cast("Q")
            finally:
                os.close(fd)
        self._owner = owner

    def forget(self, tokens: Iterable[int]) -> None:
        """No claim with these tokens is held any more: their slots are free. May be done twice."""
        with self._lock:
            words = self._words
            for token in tokens:
                place = self._places.get(token)
                if place is not None and words is not None:
                    if words[place - SLOTS] == token:  # else it was freed, and taken since, before an interrupt
                        words[place - SLOTS] = 0
                    del self._places[token]

    def leave(self, owner: int) -> None:
        """This process has left, with nothing held; what it hands out from now on has no mark."""
        with self._lock:
            self._owner = -1
            self._words = None
            self._places.clear()
        self.bury(owner)

    # ------------------------------------------------------------------ the others
    def bury(self, owner: int) -> None:
        """Remove the file of an owner of whom no row is left."""
        with contextlib.suppress(OSError):  # it goes with its folder
            remove(self._path(owner))

    def of(self, owner: int) -> Covers:
        """What an owner has handed out so far, of whatever process. Cost: an open and a map, 20 us."""
        try:
            fd = os.open(self._path(owner), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has none
            return _nothing
        try:
            if os.fstat(fd).st_size < _BYTES:  # killed as it was made
                return _nothing
            with mmap.mmap(fd, _BYTES, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                words = view.cast("Q").tolist()
        except OSError:
            return _nothing
        finally:
            os.close(fd)
        started: dict[int, int] = {}
        for token, seq in zip(words[:SLOTS], words[SLOTS:], strict=True):
            if token:
                started[token] = max(seq, started.get(token, 0))
        return lambda token, position: position & SEQ_MASK <= started.get(token, -1)
