"""Blocks of files that are on the disk: a hole in one that is written through a map ends in SIGBUS on a full disk."""

from __future__ import annotations

import contextlib
import os

from ..errors import StoreError, StoreFull


def preallocate(path: str, size: int) -> None:
    """Make a new file of `size` zero bytes that are really on the disk; leave an existing one alone.

    LMDB maps its lock file, too. The file must not be opened beside LMDB: closing it
    would drop LMDB's locks on it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreError(f"{path!r} cannot be made ({error.strerror}): check the store's permissions") from error
    try:
        reserve(fd, 0, size)
    except OSError as error:
        remove(path)
        raise no_room(path, size) from error
    finally:
        os.close(fd)


def no_room(path: str, size: int) -> StoreFull:
    """What to raise where there are no blocks for a file."""
    return StoreFull(f"no room on the disk for {path!r} ({size} bytes): free some space and open the store again")


def remove(*paths: str) -> None:
    """Remove files that may not be there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def reserve(fd: int, start: int, size: int) -> None:
    """Have the file system set aside blocks for `size` bytes of the file from `start`."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, size)
        return
    block = bytes(1 << 20)  # macOS has no posix_fallocate: write zeros
    for offset in range(start, start + size, len(block)):
        os.pwrite(fd, block[: min(len(block), start + size - offset)], offset)


def written_again(fd: int, size: int) -> OSError | None:
    """Write the first bytes of a file as they are, and flush them; what the disk said, if it did not do so. It is asked
    three times: the first flush may tell of one that failed before.
    """
    failure: OSError | None = None
    for _ in range(3):
        try:
            os.pwrite(fd, os.pread(fd, size, 0), 0)
            os.fdatasync(fd)
        except OSError as error:
            failure = error
        else:
            return None
    return failure


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Some file systems cannot sync a directory; they need not."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)
