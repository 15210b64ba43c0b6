"""Compaction: the log in a new file without its free pages, which takes the place of the old one.

    1  `open.lock` is held to the end, so nobody opens the store. No other process may have joined.
    2  All threads of this process are kept out, as around a fork; both environments are closed.
    3  LMDB's own lock on the whole of log.mdb-lock is held: nobody has the log open. A process that was forked and has
       not used the store yet opens the log without step 1, and waits here.
    4  The old log is flushed, and marked as CLEAN in log.control: whichever file has the name after a power cut is
       opened as it is.
    5  log.mdb.new gets its blocks, the copy, and the number of the last commit, and is flushed.
    6  log.control is told that both files are this store's log for now; the new one takes the name, and the directory
       is flushed.

The new file says of itself that it is the same commit as the old one, in the meta page where LMDB looks for that
number: what is remembered of that commit, in LMDB's lock file as well as here, still holds. The session
goes on, and with it all claims, sleepers and handles.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading

from .backup import Progress, write_copy
from .claims.shared import SharedClaims
from .errors import StoreError, StoreFull
from .log.lmdb import LmdbLog
from .log.space import GROW_MIN, RESERVE_PAGES
from .presence import SharedPresence
from .system.blocks import reserve
from .system.control import CLEAN, FAILED, FREE, PLAIN_BYTES, RESERVED, ROOM, Control, Mark, meta_pages, put_back
from .system.copying import Copying
from .system.directory import StoreDirectory, newest_transaction
from .system.environment import PAGE, Environment
from .system.inside import nobody_inside
from .system.pages import TRANSACTION_AT
from .system.quiet import quiet


class Compaction:
    """The parts of one store that take part, as `DiskStore` has them."""

    def __init__(
        self,
        directory: StoreDirectory,
        control: Control,
        environment: Environment,
        log: LmdbLog,
        claims: SharedClaims,
        presence: SharedPresence,
    ) -> None:
        self._directory = directory
        self._control = control
        self._environment = environment
        self._log = log
        self._claims = claims
        self._presence = presence

    def run(self, progress: Progress | None) -> tuple[int, int]:
        """See `Broker.compact`.

        An interrupt strikes the main thread at any instruction, also between taking a lock and noting it. So what is
        done under locks is done by another thread, which is told to stop, and waited for.
        """
        stop = threading.Event()
        sizes: list[tuple[int, int]] = []
        errors: list[BaseException] = []

        def unless_stopped(done: int, total: int) -> None:
            if stop.is_set():
                raise StoreError("the compaction was interrupted: nothing was changed")
            if progress is not None:
                progress(done, total)

        def work() -> None:
            try:
                sizes.append(self._alone(unless_stopped))
            except BaseException as error:
                errors.append(error)

        with self._directory.locked():
            self._check_alone()
            worker = threading.Thread(target=work, name="mqlite compaction")
            try:
                worker.start()
                worker.join()
            except BaseException:
                stop.set()
                raise
            finally:
                while worker.is_alive():
                    try:
                        worker.join()
                    except KeyboardInterrupt:  # the second one
                        stop.set()
        if errors:
            raise errors.pop()
        return sizes[0]

    def _alone(self, progress: Progress) -> tuple[int, int]:
        with contextlib.ExitStack() as undo:
            quiet(self._environment, self._claims.environment, undo)
            self._log.close()
            try:
                undo.enter_context(nobody_inside(self._directory.log))
            except BlockingIOError as error:
                raise self._in_use() from error
            if self._control.words[FAILED]:
                raise StoreError(
                    f"a flush of {self._directory.log!r} to the disk has failed, so it is not replaced: check the "
                    "disk, copy the store with broker.backup(), and restart the machine"
                )
            return self._shrink(progress)

    def _check_alone(self) -> None:
        own = self._presence.owner
        with self._claims.read() as c:
            others = [owner for owner in c.owners() if owner != own]
        if any(map(self._presence.is_alive, others)):
            raise self._in_use()

    def _in_use(self) -> StoreError:
        return StoreError(
            f"another process has the store {self._directory.path!r} open, or copies it: compact it when this one is "
            "the only one"
        )

    def _shrink(self, progress: Progress) -> tuple[int, int]:
        log, new = self._directory.log, self._directory.log + ".new"
        before = _disk_bytes(log)
        with Copying(log, self._environment.map_size, None) as copy:
            size = max(copy.total + RESERVE_PAGES * PAGE, RESERVE_PAGES * PAGE + GROW_MIN)
            size = min(size, self._environment.map_size)
            if size >= before:
                return before, before
            self._settle_old(log)
            try:
                with open(new, "wb", buffering=0, opener=_private) as file:
                    reserve(file.fileno(), 0, size)
                    write_copy(copy, file, progress)
                self._replace(log, new, size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StoreFull(
                        f"no room on the disk for the compacted log of {self._directory.path!r} ({size} bytes, beside "
                        "the old one): free some space; nothing was changed"
                    ) from error
                raise StoreError(f"{new!r} cannot be written ({error.strerror}): check the disk") from error
            finally:
                self._control.settle(log)
                with contextlib.suppress(OSError):  # it has its name
                    os.unlink(new)
        return before, _disk_bytes(log)

    def _settle_old(self, log: str) -> None:
        try:
            with open(log, "r+b", buffering=0) as file:
                os.fsync(file.fileno())
        except OSError as error:
            if self._environment.level.guarded:
                self._control.words[FAILED] = 1
            raise StoreError(f"{log!r} could not be flushed ({error.strerror}): check the disk") from error
        self._control.write(Mark(CLEAN, newest_transaction(log)))

    def _replace(self, log: str, new: str, size: int) -> None:
        put_back(new, numbered(meta_pages(new), newest_transaction(log)))  # flushes
        words = self._control.words
        words[ROOM] = words[FREE] = 0
        words[RESERVED] = min(size, words[RESERVED])  # right for both
        self._control.expect(new)
        os.rename(new, log)
        self._directory.sync()


def numbered(metas: bytes, transaction: int) -> bytes:
    """The meta pages of a copy (which has its tree in page 1) as those of commit `transaction`, and of the one before:
    LMDB looks for an odd one in page 1, for an even one in page 0.
    """
    pages = [bytearray(metas[:PLAIN_BYTES]), bytearray(metas[PLAIN_BYTES:])]
    header, tree = 16, pages[1][16:]
    for odd, page in enumerate(pages):
        page[header:] = tree
        number = transaction if transaction % 2 == odd else transaction - 1
        struct.pack_into("=Q", page, TRANSACTION_AT, number)
    return bytes(pages[0] + pages[1])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _disk_bytes(path: str) -> int:
    return os.stat(path).st_blocks * 512
