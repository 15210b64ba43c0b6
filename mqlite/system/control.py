"""`log.control`: what the processes of one boot share about the log, and what the next boot is told about it.

    offset  size
    0       4096    words of this boot: u64 each, native order, read and written through a shared map.
                    Whoever comes after a reboot finds another boot id in them, and trusts none.
                      0  magic, written last    1, 2  boot id      3, 4  device and inode of log.mdb
                      5  session                6     1: written through a map (level "process")
                      7  room: pages that may be used at the end of the file before it must grow
                      8  reserved: bytes of the file that surely have blocks (when written through a map)
                      9  volume: bytes written since the last checkpoint, about
                     10, 11, 12  pin: process, thread, transaction; process 0: there is none
                     13  marked: the transaction of the newest checkpoint, 0 before there is one in this boot
                     14  clean: 1 while the newest mark says so, 2 while it may: it is being written, or who wrote it
                         was killed or has failed. 0: it surely says something else
                     15  failed: 1 after a flush that failed; nothing can be promised any more in this boot
                     16  inode of the file that is about to take the place of log.mdb, or 0 (compaction.py)
                     17  claims: the number of the last commit of claims.mdb, or of one before that whose process was
                         killed as it was about to say so
                     18  free: pages inside log.mdb that were free in the newest checkpoint, less what was used of
                         them until the next one was begun
                     19  flushed: the sequence of the newest mark that is known to be on the disk
                     20  settled: messages that were settled alone (claims/postponed.py)
                     21  cleared: how many of their rows are gone; changed under the write lock of the claims
                     22, 23  coming: place and seq of the message that is on its way to the disk; taken out by anybody
                         (claims/expected.py)
                     24 to 28  expected: place, seq, owner and sleeper of who has a row for it already, and the commit
                         of that row; changed under the write lock of the claims, and freed by that sleeper
                     29  front: 1: log.front is in use in this boot, 2: it is not, by anybody
                     30  1: a commit of log.mdb failed, and the disk may have it (system/environment.py)
    4096    4096    a mark: crc u32, kind u32, sequence u64, transaction u64, size u32, then `size` bytes of the meta
            pages
    8192    4096    another one

Marks are in big-endian order. The newer one of those that are whole counts, and the next goes to the place of the
other, so one that a power cut tears is not missed. One whose flush failed, or was never begun since its process was
killed, may not be on the disk, though it is read here as the newest: the next goes to its place again. Kinds: CLEAN:
log.mdb is on the disk as of that transaction. WRITTEN: it was written to since, without flushes. CHECKPOINT: it was;
with these meta pages it is as of that transaction.

All other words but the first seven, and those of which something else is said, are changed under the log's write lock
only, of all processes (the gate). A word is 8 aligned bytes, which memoryview writes at once (struct would write them
one by one).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import zlib
from typing import Self

import attrs

from ..errors import StoreError
from .pages import PAGE_SIZE_AT

CLEAN, WRITTEN, CHECKPOINT = 1, 2, 3

PLAIN_BYTES = 512  # of each meta page: LMDB writes no more of it, and a disk writes so much at once
_PAGE = 4096
_MAGIC = 0x6D716C6974650A00
_MARK = struct.Struct(">IIQQI")
_PAGE_SIZE = struct.Struct("=I")

(
    _MAGIC_WORD,
    _BOOT,
    _BOOT_2,
    _DEVICE,
    _INODE,
    SESSION,
    MAPPED,
    ROOM,
    RESERVED,
    VOLUME,
    PIN_PROCESS,
    PIN_THREAD,
    PIN_TRANSACTION,
    MARKED,
    IS_CLEAN,
    FAILED,
    _NEXT_INODE,
    CLAIMS,
    FREE,
    _FLUSHED,
    SETTLED,
    CLEARED,
    COMING_PLACE,
    COMING_SEQ,
    EXPECTED_PLACE,
    EXPECTED_SEQ,
    EXPECTED_OWNER,
    EXPECTED_SLEEPER,
    EXPECTED_COMMIT,
    FRONT,
    UNSETTLED,
) = range(31)


@attrs.frozen
class Mark:
    """What is known of log.mdb after a reboot. metas: what to write at the start of its first two pages."""

    kind: int
    transaction: int
    metas: bytes = b""


class Control:
    """The file, open and mapped. Survives a fork: both processes go on with it."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{path!r} cannot be opened ({error.strerror}): check the store's permissions") from error
        try:
            missing = 3 * _PAGE - os.fstat(self._fd).st_size
            if missing > 0:  # real zeros, so that the map has no holes; on the disk with the first mark
                os.pwrite(self._fd, bytes(missing), 3 * _PAGE - missing)
            self._map = mmap.mmap(self._fd, _PAGE)
            self.words = memoryview(self._map).cast("Q")
            self._mark = self._read_marks()[1]
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{path!r} cannot be made ({error.strerror}): free some space on the disk, then open the store again"
            ) from error
        except BaseException:  # an interrupt
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Close the file. Who looks at the words from then on gets a ValueError."""
        self.words.release()
        self._map.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ------------------------------------------------------------------ words of this boot
    def is_of(self, log: str, boot: str, version: int) -> bool:
        """Whether the words are of this boot, this very log.mdb, and this version of the store's format."""
        words, found = list(self.words[:SESSION]), _identity(log, boot, version)
        return words[:_INODE] == found[:_INODE] and found[_INODE] in (words[_INODE], self.words[_NEXT_INODE])

    def expect(self, new: str) -> None:
        """The file `new`, in the same directory, is about to be renamed to log.mdb: both are this boot's log."""
        self.words[_NEXT_INODE] = os.stat(new).st_ino

    def settle(self, log: str) -> None:
        """The one that has the name is. Under `open.lock`."""
        if self.words[_NEXT_INODE]:
            if os.stat(log).st_ino == self.words[_NEXT_INODE]:
                self.words[_INODE] = self.words[_NEXT_INODE]
            self.words[_NEXT_INODE] = 0

    def begin(self, log: str, boot: str, version: int, session: int, mapped: bool) -> None:
        """Make the words those of this boot. The caller is the only one who has the store open. Raises StoreError."""
        self._flush()  # what is here may be of a process of this boot, which had another log.mdb
        self.words[_MAGIC_WORD] = 0
        identity = _identity(log, boot, version)
        for place, word in enumerate(identity[1:], 1):
            self.words[place] = word
        self.words[SESSION] = session
        for place in range(MAPPED, UNSETTLED + 1):
            self.words[place] = 0
        self.words[_FLUSHED] = self._read_marks()[0]
        self.words[MAPPED] = mapped
        self.words[IS_CLEAN] = self._mark is not None and self._mark.kind == CLEAN
        self.words[_MAGIC_WORD] = identity[0]

    # ------------------------------------------------------------------ marks
    @property
    def mark(self) -> Mark | None:
        """The newest mark as of the opening, or the last `write` here; None where there is none."""
        return self._mark

    def _read_marks(self) -> tuple[int, Mark | None]:
        newest: tuple[int, Mark | None] = (0, None)
        for place in (1, 2):
            page = os.pread(self._fd, _PAGE, place * _PAGE)
            if len(page) < _PAGE:
                continue
            crc, kind, sequence, transaction, size = _MARK.unpack_from(page)
            end = _MARK.size + size
            if sequence > newest[0] and end <= _PAGE and crc == zlib.crc32(page[4:end]):
                newest = sequence, Mark(kind, transaction, page[_MARK.size : end])
        return newest

    def write(self, mark: Mark) -> None:
        """Make a mark the newest, durably: one flush. Under the gate. Raises StoreError; then the one before holds."""
        newest = self._read_marks()[0]  # another process may have written since
        sequence = newest + (1 if newest == self.words[_FLUSHED] else 2)  # its place follows from it
        if mark.kind == CLEAN:
            self.words[IS_CLEAN] = 2  # before it can be on the disk: who is killed here tells nobody
        rest = _MARK.pack(0, mark.kind, sequence, mark.transaction, len(mark.metas))[4:] + mark.metas
        try:
            os.pwrite(self._fd, zlib.crc32(rest).to_bytes(4, "big") + rest, (1 + sequence % 2) * _PAGE)
        except OSError as error:
            raise self._refused(error) from error
        self._flush()
        self._mark = mark
        self.words[_FLUSHED] = sequence
        self.words[MARKED] = mark.transaction if mark.kind == CHECKPOINT else 0
        self.words[IS_CLEAN] = mark.kind == CLEAN

    def _flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path!r} could not be written ({error.strerror}): check the disk")


def usable_pages(words: memoryview) -> int:
    """Pages inside log.mdb that are free and not pinned, at the least."""
    free: int = words[FREE]
    volume: int = words[VOLUME]
    return max(0, free - 2 * volume // _PAGE)


def _identity(log: str, boot: str, version: int) -> list[int]:
    found, hashed = os.stat(log), hashlib.sha256(boot.encode()).digest()
    return [
        _MAGIC + version,
        int.from_bytes(hashed[:8], "big"),
        int.from_bytes(hashed[8:16], "big"),
        found.st_dev,
        found.st_ino,
    ]


def page_size_in(metas: bytes) -> int:
    """The size of the pages of an LMDB file, which is that of the machine where it was made."""
    size: int = _PAGE_SIZE.unpack_from(metas, PAGE_SIZE_AT)[0]
    return size


def meta_pages(log: str) -> bytes:
    """What LMDB has written into its two meta pages. Under the gate, or while nobody has the store open. Raises
    StoreError.
    """
    try:
        with open(log, "rb") as file:
            first = file.read(PLAIN_BYTES)
            file.seek(page_size_in(first))
            return first + file.read(PLAIN_BYTES)
    except OSError as error:
        raise StoreError(f"{log!r} cannot be read ({error.strerror}): check the disk, and close some files") from error


def put_back(log: str, metas: bytes) -> None:
    """Write meta pages into log.mdb, durably. Nobody has it open; may be done again after any interruption."""
    fd = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, metas[:PLAIN_BYTES], 0)
        os.pwrite(fd, metas[PLAIN_BYTES:], page_size_in(metas))
        os.fsync(fd)
    except OSError as error:
        raise StoreError(f"{log!r} could not be written ({error.strerror}): check the disk") from error
    finally:
        os.close(fd)
