"""One flush of the disk for all messages that passed by meanwhile, of whatever thread and process. [33]

At level "full" a put or a settlement in the front (front.py) returns when the file was flushed after it. Nobody keeps a
list of those who wait: `head` and `gone` say what the file holds, `flushed` and `flushed_gone` how much of that is on
the disk. Who finds nobody of his process at it reads the first two, flushes, and raises the others, under L; so one
flush answers all who came before it, and those of other processes find it done. A message is not to be had before it
lies before `flushed`. Two processes that flush at once do no harm. What a fold has brought to the tree is on the disk
by that commit: it raises both words, too.

A flush that fails is not believed again: the kernel may have dropped what it could not write. Messages that were on
their way are taken out again, settlements are taken back, and nobody passes by any more in this boot. What had been
flushed before is in memory, and goes to the tree by the next fold, which takes those messages out first where who saw
the flush fail was killed before he did. What a fold had committed by then is stored, also where it was cut short.

The others of a process stand in line, each at a lock of his own. Who has flushed wakes the first few whom that has
answered, each of whom wakes another one before he goes on; and the first who was not answered, to flush next. Who is in
line is a hint: what counts are the words, and a wake-up that is lost by an interrupt costs a second.
"""

from __future__ import annotations

import contextlib
import os
import time
from _thread import allocate_lock
from collections import deque
from typing import TYPE_CHECKING

from ..errors import Closed, MqliteError, StoreError
from ..system.blocks import sync_directory
from .front_file import ALL, EPOCH, FAILED, FLUSHED, FLUSHED_GONE, GONE, HEAD, LOST, LOST_HEAD, OPEN, SEQ

if TYPE_CHECKING:
    from .front import Front

#: Seconds after which who was woken by nobody looks.
HEDGE = 1.0
#: So many are woken by who has flushed, the others by them. (1: as many messages with 16 threads, a sixth fewer beside
#: a thread that computes, from which each takes the interpreter after 5 ms; all: a sixth fewer with 64 threads.)
_AT_ONCE = 4
#: Seconds. A flush that takes so long is worth a moment in which others can come; and the longest moment.
_SLOW, _LONGEST = 1e-3, 1e-3


class _Waiter:
    """A thread that waits until the word `place` has reached a number, or the epoch is over. gate: held until he is to
    look; is_to_lead: he was woken to flush next; is_gone: he does not wait for it any more.
    """

    __slots__ = ("epoch", "gate", "is_gone", "is_to_lead", "number", "place")

    def __init__(self, place: int, number: int, epoch: int) -> None:
        self.place, self.number, self.epoch = place, number, epoch
        self.gate = allocate_lock()
        self.gate.acquire()
        self.is_to_lead = self.is_gone = False


def _popped(line: deque[_Waiter]) -> _Waiter | None:
    """The first who waits still; each is given to one. (With `contextlib.suppress` 16 threads put 8 % fewer.)"""
    try:
        while line:
            waiter = line.popleft()
            if not waiter.is_gone:
                return waiter
    except IndexError:  # another was quicker
        pass
    return None


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
        once only, of what it could not write since it was opened.
        """
        self._file, self._file_under_l = _File(self._path), _File(self._path)
        self._are_own = True

    def after_fork(self) -> None:
        """In a forked child: nobody flushes, and the descriptors of the parent are left to it."""
        self._are_own = False
        self.has_descriptors()
        self._know_nothing()

    def has_descriptors(self) -> bool:
        """Whether there are any of this process."""
        if not self._are_own:
            with contextlib.suppress(StoreError):
                self._open()
        return self._are_own

    def _know_nothing(self) -> None:
        self._line: deque[_Waiter] = deque()
        self._answered: deque[_Waiter] = deque()
        self._leading = allocate_lock()
        self._took = 0.0
        self._is_shared, self._came = False, 0
        self._flushed_gone = 0  # by this process, said to all or not

    def wait_for_record(self, end: int, epoch: int, so: str = "the message is not stored") -> None:
        """Return when what was appended before `end` is on the disk, and to be had. Under no lock. Raises StoreError,
        which says `so`: then it is not there.
        """
        words = self._words
        self._wait(FLUSHED, end, epoch)
        if words[LOST] == epoch and end > words[LOST_HEAD]:
            raise self.failed(so)

    def wait_for_settled(self, gone: int, epoch: int) -> bool:
        """Return when the settlement of that number is on the disk. Under no lock. False where a flush has failed."""
        try:
            self._wait(FLUSHED_GONE, gone, epoch)
        except MqliteError:  # behind the flush, perhaps: a fork has closed the store, and it cannot be opened again
            if not self.is_settled(gone):
                raise
        return self.is_settled(gone)

    def is_settled(self, gone: int) -> bool:
        """Whether it is on the disk. Also while the store is closed."""
        return bool(self._words[FLUSHED_GONE] >= gone) or self._flushed_gone >= gone

    def _wait(self, place: int, number: int, epoch: int) -> None:
        is_to_lead = False
        try:
            while not self._is_over(place, number, epoch):
                if self._leading.locked():
                    is_to_lead = self._follow(_Waiter(place, number, epoch))
                else:
                    is_to_lead = False
                    self._lead()
        except Closed:
            is_to_lead = True
            if not self._is_over(place, number, epoch):  # else who closed the store has brought it to the tree
                raise
        except BaseException:
            is_to_lead = True  # perhaps
            raise
        finally:
            if is_to_lead:  # another process has answered this one meanwhile; the others wait still
                self._answer()

    def _is_over(self, place: int, number: int, epoch: int) -> bool:
        words = self._words
        return bool(words[place] >= number or words[EPOCH] != epoch or words[LOST])

    def _follow(self, own: _Waiter) -> bool:
        """Wait to be woken. True for who was woken to lead, or may be told so when he does not wait any more."""
        is_woken = False
        try:
            self._line.append(own)
            if self._leading.locked():  # who leads sees this one when he is done
                is_woken = own.gate.acquire(timeout=HEDGE)
        finally:
            own.is_gone = True
            self._wake_next()
        return own.is_to_lead or not is_woken

    def _lead(self) -> None:
        """One at a time: what the kernel could not write it tells only one of those who flush by one descriptor."""
        leading, held = self._leading, list[bool]()
        try:
            held.extend(map(leading.acquire, (False,)))  # in C: an interrupt comes before or after
            if not held[0]:
                return
            if self._is_shared and self._took > _SLOW:  # who was answered by the last flush is about to come again
                time.sleep(min(self._took / 8, _LONGEST))
            self._flush()
        finally:
            if held and held[0]:
                leading.release()
                self._answer()

    def _answer(self) -> None:
        """Those for whom it is over are woken, and the first of the others, to lead. May be done again."""
        while waiter := _popped(self._line):
            if not self._is_over(waiter.place, waiter.number, waiter.epoch):
                waiter.is_to_lead = True
                waiter.gate.release()
                break
            self._answered.append(waiter)
        for _ in range(_AT_ONCE):
            self._wake_next()

    def _wake_next(self) -> None:
        """Each who is woken does so: few at a time want the interpreter."""
        if waiter := _popped(self._answered):
            waiter.gate.release()

    def _flush(self) -> None:
        words = self._words
        epoch, head, gone = words[EPOCH], words[HEAD], words[GONE]
        came = words[SEQ] + gone
        self._is_shared, self._came = came - self._came > 1, came
        begun = time.monotonic()
        try:
            os.fdatasync(self._file.fd)
        except OSError:
            words[FAILED] = 1
        if not words[FAILED]:
            self._flushed_gone = max(self._flushed_gone, gone)
        self._took = time.monotonic() - begun
        front = self._front
        if front.lock.locked():
            front.let_others_finish()
        with front.lock, front.guard:
            front.take_gate()
            if words[FAILED]:
                self.give_up()
            else:
                self._note(words, epoch, head, gone)

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
        """Under L: what was not flushed was not put, unless the tree has it. May be done again."""
        words = self._words
        words[OPEN] = 0
        if not words[LOST]:
            if self._front.is_in_tree(words[EPOCH]):  # by a fold that was cut short behind its commit
                words[FLUSHED], words[FLUSHED_GONE] = ALL, words[GONE]
                return
            words[LOST_HEAD] = words[FLUSHED]
            words[LOST] = words[EPOCH]  # first: a fold in between would say that all is stored
        if words[HEAD] > words[LOST_HEAD]:
            words[HEAD] = words[LOST_HEAD]

    def failed(self, so: str) -> StoreError:
        """What to raise."""
        return StoreError(f"a flush of {self._path!r} to the disk has failed, so {so}: check the disk, then try again")
