"""One flush of the disk for all messages that passed by meanwhile, of whatever thread and process. [33]

At level "full" a put or a settlement in the front (front.py) returns when the file was flushed after it. Nobody keeps a
list of those who wait: `head` and `gone` say what the file holds, `flushed` and `flushed_gone` how much of that is on
the disk. Who finds nobody of his process at it reads the first two, flushes, and raises the others, under L; so one
flush answers all who came before it, and those of other processes find it done. A message is not to be had before it
lies before `flushed`. Two who flush at once do no harm. What a fold has brought to the tree is on the disk by that
commit: it raises both words, too.

A flush that fails is not believed again: the kernel may have dropped what it could not write. Messages that were on
their way are taken out again, settlements are taken back, and nobody passes by any more in this boot. What had been
flushed before is in memory, and goes to the tree by the next fold, which takes those messages out first where who saw
the flush fail was killed before he did.

Who waits pauses, instead of standing in line for a lock: see `Front.let_others_finish`. (Waking each in turn, by a lock
of his own, took 10 % less processor time with 16 threads, and 10 % more with two.)
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from ..errors import Closed, StoreError
from ..system.blocks import sync_directory
from .front_file import EPOCH, FAILED, FLUSHED, FLUSHED_GONE, GONE, HEAD, LOST, LOST_HEAD, OPEN, SEQ, START

if TYPE_CHECKING:
    from .front import Front

#: Seconds of the first pause of who waits for another's flush, at least and at most.
_PAUSE, _LONGEST = 100e-6, 1e-3
#: A flush that takes so long is worth a moment in which others can come.
_SLOW = 1e-3
#: A flush is not reckoned to take longer.
_LONGEST_FLUSH = 20e-3


class _File:
    """A descriptor that is open as long as somebody uses it."""

    def __init__(self, path: str) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{path!r} cannot be opened ({error.strerror}): check the store's permissions") from error

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class Flushes:
    """Those of one process. Free for any thread."""

    def __init__(self, front: Front, path: str) -> None:
        """Raises StoreError."""
        self._front = front
        self._words = front.words  # also of who waits while the store is closed
        self._path = path
        self._open()
        self._know_nothing()

    def _open(self) -> None:
        """One descriptor for who flushes under no lock, one for who does under L: the kernel tells each of them, and
        once only, of what it could not write.
        """
        self._file, self._file_under_l = _File(self._path), _File(self._path)

    def after_fork(self) -> None:
        """In a forked child: nobody flushes, and the descriptors of the parent are left to it."""
        with contextlib.suppress(StoreError):
            self._open()
        self._know_nothing()

    def _know_nothing(self) -> None:
        self._is_led = False
        self._took = self._ends = 0.0
        self._is_shared, self._came = False, 0

    def wait_for_put(self, end: int, epoch: int) -> None:
        """Return when what was put before `end` is on the disk, and to be had. Under no lock. Raises StoreError: then
        it is not there.
        """
        words = self._words
        self._wait(FLUSHED, end, epoch)
        if words[LOST] == epoch and end > words[LOST_HEAD]:
            raise self.failed("the message is not stored")

    def wait_for_settled(self, gone: int, epoch: int) -> bool:
        """Return when the settlement of that number is on the disk. Under no lock. False where a flush has failed."""
        self._wait(FLUSHED_GONE, gone, epoch)
        return bool(self._words[FLUSHED_GONE] >= gone)

    def _wait(self, place: int, number: int, epoch: int) -> None:
        words, late = self._words, 0.0
        while words[place] < number and words[EPOCH] == epoch and not words[LOST]:
            if self._is_led:
                late = min(2 * late, _LONGEST) or _PAUSE
                time.sleep(max(self._ends - time.monotonic(), late))
            else:
                self._lead()

    def _lead(self) -> None:
        try:
            self._is_led = True
            if self._is_shared and self._took > _SLOW:  # who was answered by the last flush is about to come again
                time.sleep(min(self._took / 8, _LONGEST))
            self._flush()
        finally:
            self._is_led = False

    def _flush(self) -> None:
        words = self._words
        epoch, head, gone = words[EPOCH], words[HEAD], words[GONE]
        came = words[SEQ] + gone
        self._is_shared, self._came = came - self._came > 1, came
        begun = time.monotonic()
        self._ends = begun + self._took
        try:
            os.fdatasync(self._file.fd)
        except OSError:
            words[FAILED] = 1
        self._took = min(time.monotonic() - begun, _LONGEST_FLUSH)
        front = self._front
        if front.lock.locked():
            front.let_others_finish()
        try:
            with front.lock, front.guard:
                front.take_gate()
                if words[FAILED]:
                    self.give_up()
                else:
                    self._note(words, epoch, head, gone)
        except Closed:
            if words[EPOCH] == epoch and words[HEAD] != START:  # else who closed the store has brought it to the tree
                raise

    def prepare(self) -> None:
        """The file, its blocks and its name are on the disk. Raises StoreError."""
        try:
            os.fsync(self._file.fd)
            sync_directory(os.path.dirname(self._path))
        except OSError as error:
            raise StoreError(f"{self._path!r} cannot be flushed ({error.strerror}): check the disk") from error

    def flush_now(self) -> bool:
        """Under L: all that is in the front is on the disk. False where that fails: nobody passes by any more."""
        words = self._words
        if words[HEAD] <= words[FLUSHED]:
            return True
        try:
            os.fdatasync(self._file_under_l.fd)
        except OSError:
            words[FAILED] = 1
        if words[FAILED]:
            self.give_up()
            return False
        self._note(words, words[EPOCH], words[HEAD], words[GONE])
        return True

    @staticmethod
    def _note(words: memoryview, epoch: int, head: int, gone: int) -> None:
        """Under L: so much is on the disk."""
        if gone > words[FLUSHED_GONE]:
            words[FLUSHED_GONE] = gone
        if epoch == words[EPOCH] and head > words[FLUSHED]:
            words[FLUSHED] = head

    def give_up(self) -> None:
        """Under L: what was not flushed was not put. May be done again."""
        words = self._words
        words[OPEN] = 0
        if not words[LOST]:
            words[LOST_HEAD] = words[FLUSHED]
            words[LOST] = words[EPOCH]  # first: a fold in between would say that all is stored
        if words[HEAD] > words[LOST_HEAD]:
            words[HEAD] = words[LOST_HEAD]

    def failed(self, so: str) -> StoreError:
        """What to raise."""
        return StoreError(f"a flush of {self._path!r} to the disk has failed, so {so}: check the disk, then try again")
