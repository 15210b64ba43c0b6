"""What goes wrong in LMDB and in the system, in our words."""

from __future__ import annotations

import errno
import os

import lmdb

from ..errors import MqliteError, StoreCorrupted, StoreError, StoreFull

MAX_READERS = 1024


def translated(error: lmdb.Error, path: str) -> MqliteError:
    """What an LMDB error means to a user of the store."""
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(
            f"the store {path} has reached its maximum size: take and acknowledge messages, or open it with a "
            "larger max_store_bytes"
        )
    if isinstance(error, lmdb.ReadersFullError):
        return StoreError(f"too many readers of {path} at once (at most {MAX_READERS}): use fewer processes")
    if isinstance(error, lmdb.VersionMismatchError | lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return StoreCorrupted(
            f"the store {path} is damaged ({error}): restore it from a backup, or save what is whole with "
            "mqlite.recover(path, into=...)"
        )
    if isinstance(error, lmdb.DiskError) or _disk_is_full(path):
        return StoreFull(
            f"no room left on the disk of {path} ({error}): free some space; messages can still be taken and "
            "acknowledged"
        )
    return StoreError(f"the store {path} could not be read or written ({error}): check the disk, then try again")


def refused(error: OSError, path: str) -> StoreError:
    """What an error of the operating system means to who opens or closes the store at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no room left on the disk of {path!r}: free some space, then try again")
    return StoreError(f"the store {path!r} cannot be used ({error}): check disk and permissions, then try again")


def _disk_is_full(path: str) -> bool:
    try:
        disk = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 1 << 20
