"""The level "checkpoint": nothing is flushed by a commit, and a power cut goes back to the last checkpoint.

A checkpoint is a state of the log that is on the disk, with its two meta pages kept aside in a mark of
`log.control`. Later commits may write whatever they want meanwhile, except over a page of that state: a read
transaction on it, the pin, forbids LMDB to use these again. After a power cut the meta pages are put back, and
the log is as of the checkpoint. (A pin without the meta pages, or these without a pin, is no help.)

    1  Under the gate (the write lock of all processes): a pin is opened on the last commit, the meta pages are copied.
    2  log.mdb is flushed. Commits go on.
    3  Under the gate: a mark with the meta pages is written and flushed, the new pin is published in the words of
       log.control, and this process's old one is dropped.

P1  Nothing is changed while the published pin is not among LMDB's readers: who finds it missing (its process was
    killed or has closed) makes a checkpoint first, under the gate. LMDB itself frees the slots of dead processes in the
    next begin after a writer has died, so every transaction asks.
P2  Slots are freed under the gate only, and in no transaction that changes anything: dropping a pin, closing an
    environment, reader_check.
P3  An older pin protects all later states as well. So who dies between 1 and 3 leaves the checkpoint before.
P4  Marks are written under the gate, in the order of their transactions: one that comes too late is not written.
P5  After a flush that failed no mark is written in this boot any more, and nothing is changed; see deferred.py.

Who commits, or opens the store, has a thread of its process look every TICK: it makes a checkpoint when INTERVAL has
passed since the first commit after the last one, or VOLUME was written; if 4 times that was written, the writer makes
it himself. It drops a pin that another process's has replaced; and it ends its work, and drops the pin, when nothing
was written for INTERVAL. So an idle store costs nothing. A process that is stopped (SIGSTOP) while it has the pin makes
the file grow; the log "mqlite" says so.

Where the file cannot grow, only pages that are free in the checkpoint can be used again. There a writer makes one when
SCARCE_PAGES were freed, and waits a moment for processes that still have an older pin.

Locks    Only the environment's: the write lock, then the gate. `_looking` guards the start of the thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
import weakref
from typing import Any

import lmdb

from ..errors import Closed, MqliteError
from ..system.control import (
    CHECKPOINT,
    FAILED,
    FREE,
    MARKED,
    PIN_PROCESS,
    PIN_THREAD,
    PIN_TRANSACTION,
    ROOM,
    VOLUME,
    Control,
    Mark,
    meta_pages,
    usable_pages,
)
from ..system.environment import PAGE, Environment
from .deferred import Deferred

TICK = 0.1
INTERVAL = 1.0
#: Seconds for which a writer waits, where the file cannot grow, until the others have dropped their older pins.
PATIENCE = 0.5
VOLUME_BYTES = 32 << 20
HELD_BACK = 30.0
#: Pages at the end of the file. There are less where it cannot grow: log/space.py sees to that.
LITTLE_ROOM = 1024
SCARCE_PAGES = 256
#: Of LMDB itself, which are neither live nor free: meta pages, and the list of free pages.
_OWN_PAGES = 16


class Checkpoints(Deferred):
    """One process's part in it."""

    pins = True

    def __init__(self, control: Control, log: str) -> None:
        super().__init__(control, log)
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's pin ended when it closed its environment."""
        self._process = os.getpid()
        self._pin: Any = None  # the read transaction
        self._pinned = (0, 0, 0)  # as it is published
        self._waits_since = 0.0  # for an older pin to go
        self._given_up = 0  # the transaction of one that did not
        self._closings = 0  # how often the environment was closed
        self._environment: Environment | None = None
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()  # somebody has written, so the thread is to look
        self._urgent = threading.Event()  # at once
        self._ended = False
        self._oldest: tuple[tuple[int, str], float] = ((0, ""), 0.0)

    # ------------------------------------------------------------------ before a change
    def admits(self, environment: Environment) -> bool:
        """Whether there is a pin, and not too much was written since. [P1]"""
        words = self._words
        if words[FAILED]:
            return True  # to what changes nothing: see `check`
        if not self._wanted.is_set():
            self.attend(environment)
        published = self._published()
        if self._pin is None or published != self._pinned:
            if not published[0] or not self._is_reader(environment, published):
                return False
            self._drop()
        volume = words[VOLUME]
        if volume >= VOLUME_BYTES and not self._urgent.is_set():
            self._urgent.set()
        if words[ROOM] < LITTLE_ROOM and not self._finds_pages(environment):
            return False
        return bool(volume < 4 * VOLUME_BYTES)

    def _finds_pages(self, environment: Environment) -> bool:
        """Where the file cannot grow: whether there are enough pages for a while, and not too many that only a
        checkpoint makes usable again.
        """
        words = self._words
        oldest = self._oldest_transaction(environment)
        if oldest < words[PIN_TRANSACTION] and oldest != self._given_up:
            return False
        usable = usable_pages(words)
        pinned = environment.last_pgno() + 1 - environment.live_pages() - usable
        return pinned < SCARCE_PAGES and 4 * words[VOLUME] < (words[ROOM] + usable) * PAGE

    @staticmethod
    def _oldest_transaction(environment: Environment) -> int:
        """The transaction of the oldest reader."""
        ids = [line.rsplit(None, 1)[-1] for line in environment.opened.readers().splitlines()[1:]]
        return min((int(number) for number in ids if number.isdigit()), default=0)

    def is_held_up(self, environment: Environment) -> bool:
        """Where the file cannot grow: whether somebody still keeps pages from being used that were free in the
        checkpoint. A process lets go of an older pin within a TICK, or when it writes; if it is stopped, it is waited
        for only once.
        """
        words = self._words
        oldest = self._oldest_transaction(environment) if words[ROOM] < LITTLE_ROOM else words[PIN_TRANSACTION]
        if oldest >= words[PIN_TRANSACTION] or oldest == self._given_up:
            self._waits_since = 0.0
            return False
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        if now - self._waits_since < PATIENCE:
            return True
        self._given_up, self._waits_since = oldest, 0.0
        return False

    def check(self) -> None:
        """Raises StoreError after a flush that failed. [P5]"""
        if self._words[FAILED]:
            raise self._failed()

    def prepare(self, environment: Environment) -> None:
        """A checkpoint of the last commit, while nobody can write."""
        opened = environment.opened
        pin, transaction, metas = self._open_pin(environment)
        free = self._count_anew(environment)
        if transaction != self._words[MARKED]:  # else the disk has that very state
            self._flush_alone(environment)
        self._finish(opened, pin, transaction, metas, free)

    def _published(self) -> tuple[int, int, int]:
        words = self._words
        return words[PIN_PROCESS], words[PIN_THREAD], words[PIN_TRANSACTION]

    @staticmethod
    def _is_reader(environment: Environment, published: tuple[int, int, int]) -> bool:
        process, thread, transaction = published
        return f"{process:10d} {thread:x} {transaction}\n" in environment.opened.readers()

    # ------------------------------------------------------------------ the three steps
    def make(self, environment: Environment) -> None:
        """A checkpoint of everything that was committed before. Under no lock; commits go on meanwhile. Raises
        StoreError.
        """
        while not self._make(environment):
            pass

    def _make(self, environment: Environment) -> bool:
        """Whether it is made: no fork or compaction has closed the environment, and with it the pin, meanwhile."""
        with environment.gated():
            if self._words[FAILED]:
                raise self._failed()
            pin, transaction, metas = self._open_pin(environment)
            if transaction == self._words[MARKED]:
                pin.abort()
                return True
            free = self._count_anew(environment)
            closings = self._closings
        self._flush(environment.flush)
        with environment.gated() as opened:
            if self._closings != closings:
                return False
            if self._words[MARKED] >= transaction:  # another one was faster [P4]
                pin.abort()
            else:
                self._finish(opened, pin, transaction, metas, free)
        return True

    def _count_anew(self, environment: Environment) -> int:
        """Nothing was written since the state that is being pinned, in which so many pages are free."""
        words = self._words
        words[FREE] = usable_pages(words)  # of the checkpoint before, as long as that one counts
        words[VOLUME] = 0
        return max(0, environment.last_pgno() + 1 - environment.live_pages() - _OWN_PAGES)

    def _open_pin(self, environment: Environment) -> tuple[Any, int, bytes]:
        """Raises MqliteError and nothing else, so that the thread looks again."""
        try:
            pin = environment.opened.begin()
        except lmdb.Error as error:
            raise environment.failed(error) from error
        try:
            return pin, pin.id(), meta_pages(self._log)
        except BaseException:
            pin.abort()
            raise

    def _finish(self, opened: lmdb.Environment, pin: Any, transaction: int, metas: bytes, free: int) -> None:
        words = self._words
        if words[FAILED]:  # another process's flush, meanwhile [P5]
            raise self._failed()
        if transaction != words[MARKED]:
            self._control.write(Mark(CHECKPOINT, transaction, metas))
        old, self._pin = self._pin, pin
        self._pinned = _reader_line(opened, self._process, transaction)
        words[PIN_PROCESS], words[PIN_THREAD], words[PIN_TRANSACTION] = self._pinned
        words[FREE] = free
        if old is not None:
            old.abort()
        self._note_held_back(opened)

    def _note_held_back(self, opened: lmdb.Environment) -> None:
        """Say so where somebody has read an old state for long: a process that is stopped, or a backup."""
        readers = [line.split() for line in opened.readers().splitlines()[1:]]
        states = [(int(line[2]), line[0]) for line in readers if len(line) == 3 and line[2].isdigit()]
        oldest, now = min(states, default=(0, "")), time.monotonic()
        if self._oldest[0] != oldest:
            self._oldest = oldest, now
        elif now - self._oldest[1] > HELD_BACK:
            self._oldest = oldest, math.inf  # said once
            logging.getLogger("mqlite").warning(
                "process %s has read an old state of %s for %.0f s: until it ends, nothing in the file can be used "
                "again, and it grows",
                oldest[1],
                self._log,
                HELD_BACK,
            )

    def _withdraw(self) -> None:
        """The pin is about to go: any snapshot of this process that its thread has of that state would else be taken
        for it, and protect it no longer than it happens to be read.
        """
        if self._pin is not None and self._published() == self._pinned:
            self._words[PIN_PROCESS] = 0

    def _drop(self) -> None:
        """Under the gate. [P2]"""
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.abort()

    # ------------------------------------------------------------------ the thread
    def attend(self, environment: Environment) -> None:
        """Have the thread look until nothing is left to do: at an opening, and when a process died with commits that
        nobody may have written out.
        """
        with self._looking:
            self._environment = environment
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=_look_after,
                    args=(weakref.ref(self), self._wanted, self._urgent),
                    name="mqlite checkpoints",
                    daemon=True,
                )
                with contextlib.suppress(RuntimeError):  # the interpreter ends, and will close the store; or too many
                    self._thread.start()
            if self._thread.is_alive():  # else, or if an interrupt strikes before this, the next commit tries again
                self._wanted.set()

    def look(self, since: float) -> float:
        """One look of the thread; when there was the first commit that no checkpoint has, or 0.0 for none."""
        environment, words = self._environment, self._words
        assert environment is not None
        if self._pin is not None and self._published() != self._pinned:
            with environment.gated():
                if self._published() != self._pinned:  # still: not one that was just made
                    self._drop()
        if environment.last_txnid() == words[MARKED]:
            return 0.0
        now = time.monotonic()
        if words[VOLUME] >= VOLUME_BYTES or (since and now - since >= INTERVAL):
            self.make(environment)
            return 0.0
        return since or now

    def rest(self) -> bool:
        """Nothing was written for a while: drop the pin, unless somebody writes now. Whether it was."""
        environment = self._environment
        assert environment is not None
        with environment.gated():
            if environment.last_txnid() != self._words[MARKED]:
                return False
            self._withdraw()
            self._drop()
            self._wanted.clear()  # under the gate: who writes next sets it again
        return True

    # ------------------------------------------------------------------ lifetime
    def sync_now(self, environment: Environment) -> None:
        """A checkpoint."""
        self.make(environment)

    def end(self) -> None:
        """The thread ends."""
        self._ended = True
        self._wanted.set()
        self._urgent.set()

    def leave(self, environment: Environment) -> None:
        """The last checkpoint of this process."""
        if environment.last_txnid() != self._words[MARKED] and not self._words[FAILED]:
            self.prepare(environment)

    def closing(self) -> None:
        """The pin goes with the environment; who writes next makes another. [P1]"""
        self._closings += 1
        self._withdraw()
        self._pin = None

    @property
    def ended(self) -> bool:
        """Whether the thread has nothing more to do."""
        return self._ended


def _look_after(level: weakref.ref[Checkpoints], wanted: threading.Event, urgent: threading.Event) -> None:
    """The thread: see the top of this module."""
    since, quiet = 0.0, 0
    while wanted.wait():
        urgent.wait(TICK)
        urgent.clear()
        mine = level()
        if mine is None or mine.ended:
            return
        try:
            since = mine.look(since)
            quiet = 0 if since else quiet + 1
            if quiet * TICK > INTERVAL and mine.rest():
                quiet = 0
        except Closed:
            return
        except ValueError:  # log.control was closed with the store
            if mine.ended:
                return
            raise
        except MqliteError:
            pass  # the disk does not work, which whoever writes is told
        del mine


def _reader_line(opened: lmdb.Environment, process: int, transaction: int) -> tuple[int, int, int]:
    """What LMDB's table of readers says of a pin."""
    mine = [line.split() for line in opened.readers().splitlines()]
    threads = {int(line[1], 16) for line in mine if line[0] == str(process) and line[2] == str(transaction)}
    own = threading.get_ident()
    return process, own if own in threads else threads.pop(), transaction
