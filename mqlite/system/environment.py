"""One LMDB environment of this process: opened lazily, closed around fork, errors in our words.

Three rules of LMDB shape this module. A file may be open once per process, so
`store.py` shares the object. A forked child must not touch the parent's
environment, so `quiet` closes it before the fork and both sides open it again
when they next need it. A reader slot is taken per open read transaction, so
reads take one of READ_TOKENS tokens; taking all of them means that nobody reads.

Locks    write_lock guards the one write transaction this process may have. Then comes the
         gate, a flock(2) on the data file, then LMDB's own write mutex, for which so nobody
         ever waits: a process that is killed just as it is woken for that mutex can leave
         other waiters asleep beside a free one, which no kernel repairs if somebody else
         took it meanwhile. A flock wakes all who wait. It costs 1 us per commit.
         Levels that do not flush each commit also hold the gate where they close or pin (durability/).
Order    log.write_lock, claims.write_lock, a token of the claims, a token of the log:
         each may be held while waiting for those after it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import lmdb

from ..errors import Closed, MqliteError, StoreError, StoreFull
from .blocks import no_room, preallocate, remove, reserve, written_again
from .gate import UNLOCK, Gated, flock_quickly
from .level import Level
from .quiet import hold
from .translation import MAX_READERS, translated

READ_TOKENS = 64
PAGE = min(os.sysconf("SC_PAGE_SIZE"), 32768)  # as LMDB chooses it
LOCK_FILE_BYTES = MAX_READERS * 64
#: Seconds for which other processes are let in.
_MOMENT = 0.005
#: Both meta pages lie in these, whatever the size of a page is.
_METAS_BYTES = 2 * 65536


class Environment(Gated):
    """An LMDB environment with one tree, at `path` (a file), of at most `map_size` bytes. level: how it gets to the
    disk.
    """

    def __init__(self, path: str, *, map_size: int, level: Level | None = None) -> None:
        self.path = path
        self.map_size = map_size
        self.level = Level() if level is None else level
        self._guarded = self.level.guarded
        self.sheltered_by: Environment | None = None  # who holds its write lock may read here without a token
        self._told: tuple[memoryview, int] | None = None
        self._unsettled: tuple[memoryview, int] = memoryview(bytearray(8)).cast("Q"), 0  # see `_settle`
        #: Called under the gate before anything is read in order to be changed; it may run a transaction of its own.
        self.before_change: Callable[[], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._lmdb: lmdb.Environment | None = None
        self.is_open = False  # whether LMDB has it open in this process, and with it the gate
        self._writing: lmdb.Transaction | None = None
        self._gate = -1
        self._gated = self._is_quick = False
        self._broken = False
        self._closed = False
        self.write_lock = threading.Lock()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(READ_TOKENS):
            self._tokens.put(None)
        self._opening = threading.Lock()
        self._door = threading.Lock()  # held by who waits for all tokens; `_shut_door` says so without taking it
        self._shut_door = False

    # ------------------------------------------------------------------ open and close
    def _open(self) -> lmdb.Environment:
        with self._opening:
            if self._lmdb is not None:
                return self._lmdb
            if self._closed:
                raise Closed("the store was closed: open it again to use it")
            preallocate(self.path + "-lock", LOCK_FILE_BYTES)
            opened = self._lmdb_open(self.path)
            if not self._guarded:
                opened.reader_check()
            self.main = opened.open_db()
            try:
                self._gate = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                opened.close()
                raise StoreError(
                    f"{self.path!r} cannot be opened twice ({error.strerror}): free file descriptors"
                ) from error
            self._lmdb, self.is_open = opened, True
            return opened

    def _lmdb_open(self, path: str) -> lmdb.Environment:
        try:
            return lmdb.open(
                path,
                subdir=False,
                mode=0o600,
                map_size=self.map_size,
                max_readers=MAX_READERS,
                sync=self.level.sync,
                metasync=self.level.sync,
                writemap=self.level.writemap,
                lib_version=0,
            )
        except lmdb.Error as error:
            raise translated(error, self.path) from error

    def create_preallocated(self) -> None:
        """A new file whose every page is on the disk, under its name only when it is.

        A hole in a file that is written through a map kills the process with SIGBUS
        when the disk is full. The caller is alone in creating it.
        """
        new = self.path + ".new"
        remove(new, new + "-lock")
        self._lmdb_open(new).close()
        fd = os.open(new, os.O_RDWR | os.O_CLOEXEC)
        try:
            reserve(fd, 0, self.map_size)
        except OSError as error:
            remove(new)
            raise no_room(self.path, self.map_size) from error
        finally:
            os.close(fd)
            remove(new + "-lock")
        os.rename(new, self.path)

    def ensure_open(self) -> None:
        """Open now, so that what is wrong with the file is said here."""
        if self._lmdb is None:
            self._open()

    def close(self) -> None:
        """Close; the next use opens again. The caller knows that nobody is inside."""
        opened, self._lmdb, self.is_open = self._lmdb, None, False
        if opened is not None:
            if self._guarded:
                with contextlib.suppress(OSError):  # LMDB frees the slots of this process, the pin's among them
                    fcntl.flock(self._gate, fcntl.LOCK_EX)
                self.level.closing()
            opened.close()
            self._close_gate()

    def _close_gate(self) -> None:
        gate, self._gate = self._gate, -1
        if gate >= 0:
            os.close(gate)

    # ------------------------------------------------------------------ transactions
    def begin_write(self, look: Callable[[], None] | None = None, *, to_change: bool = True) -> lmdb.Transaction:
        """The write transaction, to be begun as `with env.write_lock, env: ...`; say `end_write` when it is over.

        look: called before it is begun, when no other process writes any more. to_change: False for one that is aborted
        in any case, so that the level need not be ready for a change.
        """
        if self._broken:
            self._heal()
        try:
            if self._lmdb is None:
                self._open()
            self.lock_gate()
        except lmdb.Error as error:
            raise self.failed(error) from error
        if self.before_change is not None:
            self.before_change()
        return self.begin_gated(look, to_change=to_change)

    def begin_gated(self, look: Callable[[], None] | None = None, *, to_change: bool = True) -> lmdb.Transaction:
        """The same for who holds the gate, and goes on holding it: he says `end_gated`."""
        try:
            opened = self.opened
            if look is not None:
                look()
            self._writing = txn = opened.begin(write=True)
            held_up = True
            while self._guarded and to_change and held_up and not self.level.admits(self):
                txn.abort()
                self.level.prepare(self)
                held_up = self.level.is_held_up(self)
                if held_up:
                    self._open_gate()
                    time.sleep(_MOMENT)
                    self.lock_gate()
                self._writing = txn = opened.begin(write=True)
        except lmdb.Error as error:
            raise self.failed(error) from error
        if self._told is not None:
            words, place = self._told
            words[place] = txn.id() - 1
        return txn

    def tell_commits(self, words: memoryview, place: int) -> None:
        """Keep the number of the last commit in a word that all processes share: LMDB takes 1.3 us to say it, and two
        of three puts would ask twice. Whoever commits says `committed`.
        """
        self._told = words, place

    def tell_trouble(self, words: memoryview, place: int) -> None:
        """Keep in a word that all processes share whether a commit failed, and the disk may have it."""
        self._unsettled = words, place

    def _is_unsettled(self) -> bool:
        words, place = self._unsettled
        return bool(words[place])

    def _note_unsettled(self, is_so: bool) -> None:
        words, place = self._unsettled
        words[place] = is_so

    def committed(self, number: int | None) -> None:
        """Before `end_write`, whose system call comes between this and all that the process looks at after its commit.
        number: None where only LMDB knows whether there was anything to commit.
        """
        if self._told is not None:
            words, place = self._told
            words[place] = self.exact_last_txnid() if number is None else number

    def end_write(self) -> None:
        """The write transaction was committed or aborted."""
        self._writing = None
        if self._broken:
            self._mend()
        if self._gated:
            self._open_gate()

    def end_gated(self) -> None:
        """The transaction is over, aborted if it was not committed; the gate stays as it is."""
        if self._writing is not None:
            with contextlib.suppress(lmdb.Error):
                self._writing.abort()
        self._writing = None

    @contextlib.contextmanager
    def gated(self) -> Iterator[lmdb.Environment]:
        """Alone among all writers of all processes, outside of a transaction."""
        with self.write_lock, self:
            opened = self._lmdb or self._open()
            try:
                self.lock_gate()
                if self.before_change is not None:
                    self.before_change()
                yield opened
            finally:
                if self._gated and self._writing is None:
                    self._open_gate()  # an interrupt may keep __exit__ from it

    @property
    def opened(self) -> lmdb.Environment:
        """LMDB's environment. For levels, under the gate: it stays open meanwhile."""
        assert self._lmdb is not None
        return self._lmdb

    def flush(self) -> None:
        """Write to the disk what was committed. Writers go on meanwhile; the environment is not closed. Raises
        lmdb.Error where the flush fails; StoreError, Closed where there was none.
        """
        held: list[None] = []
        snapshot = None
        try:
            snapshot = self.begin_read(held)
            (self._lmdb or self._open()).sync(True)
        finally:
            self.end_read(held, snapshot)

    def __enter__(self) -> None:
        """Guard a write transaction, see `leave`."""

    def __exit__(self, kind: object, error: object, where: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Abort a write transaction that an interrupt (Ctrl-C) left open, and open the gate.

        LMDB's write mutex belongs to the thread that began, so nobody else could end
        it; this runs in that thread, before it lets go of `write_lock`.

        Who puts, claims or settles one message calls it in a `finally` of his own: to enter and leave the guard takes
        0.15 us more.
        """
        if self._writing is not None:
            with contextlib.suppress(lmdb.Error):
                self._writing.abort()
            self._writing = None
        if self._broken:
            self._mend()
        if self._is_quick:
            flock_quickly(self._gate, UNLOCK)  # `_open_gate`, without a call (0.1 us of each message)
            self._gated = self._is_quick = False
        elif self._gated:
            self._open_gate()

    def begin_read(self, held: list[None]) -> lmdb.Transaction:
        """A snapshot of the last commit; `held` gets the reader's token. End it with `end_read`.

        The token moves in C from one list to the other, so that an interrupt comes
        before or after, not in between: a lost token would hang the next fork.
        """
        if self._shut_door:
            with self._door:
                pass  # somebody wants to be alone, and tokens are not handed out in order of arrival
        held.extend(map(self._tokens.get, (True,)))
        return self.begin_glance()

    def begin_glance(self) -> lmdb.Transaction:
        """The same without a token, for who holds a lock that everybody takes who wants nobody to be inside: until its
        end, `sheltered_by` has its write lock held here.
        """
        try:
            try:
                return (self._lmdb or self._open()).begin()
            except lmdb.ReadersFullError:
                self._spare_readers()
                return (self._lmdb or self._open()).begin()
        except lmdb.Error as error:
            raise self.failed(error) from error

    def end_read(self, held: list[None], snapshot: lmdb.Transaction | None) -> None:
        """End a snapshot, if it was begun, and give the token back, if there is one."""
        try:
            if snapshot is not None:
                snapshot.abort()
        finally:
            deque(map(self._tokens.put, map(held.pop, range(-len(held), 0))), 0)

    def last_pgno(self) -> int:
        """Number of the last page that the last commit uses."""
        return int((self._lmdb or self._open()).info()["last_pgno"])

    def last_txnid(self) -> int:
        """Number of the last commit, also of other processes; -1 while the environment is not open.

        Takes no token: if somebody closes the environment meanwhile, py-lmdb ends the snapshot.
        """
        if self._told is None:
            return self.exact_last_txnid()
        words, place = self._told
        try:
            return -1 if self._lmdb is None else words[place]
        except ValueError:  # closed meanwhile
            return -1

    def exact_last_txnid(self) -> int:
        """The same, also where a process was killed between its commit and telling it."""
        opened = self._lmdb
        if opened is None:
            return -1
        try:
            snapshot = opened.begin()  # info() takes four times as long
            number = snapshot.id()
            snapshot.abort()
        except lmdb.Error:  # no slot for a reader, or closed meanwhile
            try:
                number = opened.info()["last_txnid"]
            except lmdb.Error:
                return -1
        return int(number)

    def tree_pages(self) -> int:
        """Those of them that are branches and leaves: no removal changes others."""
        stat = (self._lmdb or self._open()).stat()
        return int(stat["branch_pages"] + stat["leaf_pages"])

    def live_pages(self) -> int:
        """Pages in use by the tree (what is free inside the file is not counted)."""
        stat = (self._lmdb or self._open()).stat()
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def reader_check(self) -> None:
        """Free the reader slots of processes that died. Of a log that is not flushed by each commit: under its write
        lock, in a transaction that changes nothing, since a dead process's pin goes as well.
        """
        (self._lmdb or self._open()).reader_check()

    def _spare_readers(self) -> None:
        """Free the reader slots of processes that died, if the gate can be had at once: the caller may hold any
        lock.
        """
        opened = self._lmdb or self._open()
        if not self._guarded:
            opened.reader_check()
        elif self.write_lock.acquire(blocking=False):
            try:
                fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                opened.reader_check()
            except OSError:
                pass  # somebody writes
            finally:
                with contextlib.suppress(OSError):  # also after an interrupt
                    fcntl.flock(self._gate, fcntl.LOCK_UN)
                self.write_lock.release()

    # ------------------------------------------------------------------ trouble
    def failed(self, error: lmdb.Error) -> MqliteError:
        """The error to raise for `error`; remembers what is to be done before the next write."""
        if isinstance(error, lmdb.PanicError | lmdb.DiskError) or type(error) is lmdb.Error:
            self._broken = True
            if self.level.sync and self._writing is not None:
                self._note_unsettled(True)
        return translated(error, self.path)

    def _mend(self) -> None:
        """A commit failed, and its thread still keeps all others out. What fails now is left to the next write."""
        with contextlib.suppress(MqliteError):
            if self._gated and self._is_unsettled():
                self._settle()
        try:
            if self._lmdb is not None:
                self._lmdb.begin().abort()
            self._broken = False
        except lmdb.PanicError:
            with contextlib.suppress(MqliteError):
                self._heal()
        except lmdb.Error:
            pass

    def before_commit(self) -> None:
        """Raises StoreError, StoreFull where nothing may be committed."""
        if self._guarded:
            self.level.check()
        if self._is_unsettled():
            self._settle()

    def _settle(self) -> None:
        """Have the disk say what the file says: that a commit which failed was none.

        LMDB takes a failed commit back in memory only, but its meta page may be on the disk. The next commit, of
        any process, overwrites what that page refers to; and a power cut would then leave a store that is torn.
        A page whose flush failed counts as flushed for the kernel, so it is written again before each attempt.
        """
        failure = written_again(self._gate, _METAS_BYTES)
        if failure is None:
            self._note_unsettled(False)
            return
        kind = StoreFull if failure.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(
            f"a commit to {self.path!r} failed, and the disk does not take the state before it ({failure.strerror}): "
            "check the disk, then try again; nothing is stored until then"
        ) from failure

    def _heal(self) -> None:
        """LMDB refuses everything after a failed write of its meta page, until it is opened anew."""
        with contextlib.ExitStack() as undo:
            if self.sheltered_by is not None:
                undo.enter_context(self.sheltered_by.write_lock)
            self.shut_out_readers(undo)
            self.close()
            self._broken = False
            self._open()

    # ------------------------------------------------------------------ quiet
    def shut_out_readers(self, undo: contextlib.ExitStack) -> None:
        """Wait until nobody reads, and let nobody in, until `undo`."""
        hold(self._door, undo)
        undo.callback(self._open_door)
        self._shut_door = True
        tokens: list[None] = []
        undo.callback(lambda: deque(map(self._tokens.put, tokens), 0))
        tokens.extend(map(self._tokens.get, [True] * READ_TOKENS))

    def _open_door(self) -> None:
        self._shut_door = False

    def close_for_good(self) -> None:
        """Close; whoever comes later gets Closed. Raises StoreError where the last flush fails: all is closed then,
        too.
        """
        self.level.end()
        try:
            if self._guarded and self._lmdb is not None:
                fcntl.flock(self._gate, fcntl.LOCK_EX)
                self.level.leave(self)
        except lmdb.Error as error:
            raise self.failed(error) from error
        finally:
            self._closed = True
            self.close()

    def forget(self) -> None:
        """In a forked child: the parent closed the environment before the fork; start afresh."""
        self._close_gate()
        self._reset()
        self.level.forget()
