"""A backup: a store in a new directory, as of one committed state of a store that is in use.

It is written beside its target, as TARGET.part, and gets its name last. There the log has a name that is no
store's until it is whole, and the marker comes before, so that what is not complete opens at no moment.
What a backup that was killed has left is overwritten by the next one to the same target.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from .checks import check_durability
from .errors import StoreCorrupted, StoreError, StoreFull
from .log.space import RESERVE_PAGES
from .system.control import CLEAN, Control, Mark
from .system.copying import Copying
from .system.directory import StoreDirectory, check_data_file, newest_transaction
from .system.environment import PAGE

#: Progress(done_bytes, total_bytes)
Progress = Callable[[int, int], object]
#: Flushed so often, since one long flush at the end would hold up those of everybody else on that disk.
FLUSHED_BYTES = 64 << 20
_UNFINISHED = "log.mdb.part"


def back_up(
    store: StoreDirectory, target: str | os.PathLike[str], progress: Progress | None, durability: str | None
) -> None:
    """Copy the store into the new directory `target`. See `Broker.backup`."""
    marker = store.read_marker()
    if marker is None:
        raise StoreCorrupted(f"the store {store.path!r} has lost its marker store.json: restore it from a backup")
    copied = attrs.evolve(marker, durability=check_durability(durability) or marker.durability)
    path = _free_target(store, target)
    try:
        with _beside(path) as part:
            made = StoreDirectory(part)
            unfinished = os.path.join(part, _UNFINISHED)
            Path(unfinished).touch(0o600)
            made.write_marker(copied)
            copying = Copying(store.log, marker.max_store_bytes, store.open_lock)
            with copying as copy, open(unfinished, "r+b", buffering=0) as file:
                write_copy(copy, file, progress)
                file.truncate(file.tell() + RESERVE_PAGES * PAGE)  # a hole; who opens the store first has it filled
                os.fsync(file.fileno())
            check_data_file(unfinished)
            with Control(made.control) as control:
                control.write(Mark(CLEAN, newest_transaction(unfinished)))
            os.rename(unfinished, made.log)
            made.sync()
            os.rename(part, path)
            StoreDirectory(path).sync()
    except OSError as error:
        raise _write_error(path, error) from error


def write_copy(copy: Copying, file: io.FileIO, progress: Progress | None) -> None:
    """Write a copy to a file, which is at its start, and flush it."""
    done = flushed = 0
    if progress is not None:
        progress(done, copy.total)
    for chunk in copy.chunks():
        left = memoryview(chunk)
        while left:
            left = left[file.write(left) :]
        done += len(chunk)
        if done - flushed >= FLUSHED_BYTES:
            os.fsync(file.fileno())
            flushed = done
        if progress is not None:
            progress(min(done, copy.total), copy.total)
    os.fsync(file.fileno())


def _free_target(store: StoreDirectory, target: str | os.PathLike[str]) -> str:
    """Where the backup goes. Raises StoreError, saying what to do."""
    given = os.fspath(target)
    if not isinstance(given, str) or not given:
        raise StoreError(f"the target of a backup is a non-empty str, not {given!r}")
    path = os.path.realpath(given)
    parent = os.path.dirname(path)
    try:
        if os.path.isdir(path):
            if os.listdir(path):
                raise StoreError(f"cannot back up to {given!r}, which is not empty: name a new directory")
            if os.stat(path).st_dev != os.stat(parent).st_dev:
                raise StoreError(
                    f"cannot back up to {given!r}, where a file system is mounted: name a new directory in it"
                )
        elif os.path.lexists(path):
            raise StoreError(f"cannot back up to {given!r}, which is no directory: name a new one")
        elif not os.path.isdir(parent):
            raise StoreError(f"cannot back up to {given!r}: its parent directory does not exist; make it first")
    except OSError as error:
        raise _write_error(path, error) from error
    if os.path.commonpath([store.path, path]) == store.path:
        raise StoreError(f"cannot back up to {given!r}, which lies in the store itself: name a directory outside of it")
    return path


@contextlib.contextmanager
def _beside(path: str) -> Iterator[str]:
    """The directory PATH.part, empty and ours alone; what is left of it at the end is removed."""
    part = path + ".part"
    remove: Callable[[str], object] = os.rmdir
    opened: list[int] = []
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        opened.extend(map(os.open, (part,), (flags,)))  # in C, so that an interrupt comes before or after
        if not _locked(opened[0], part):
            remove = os.fspath  # it is not ours
            raise StoreError(f"another backup writes to {part!r}: wait for it, or name another target")
        strangers = set(os.listdir(part)) - {
            "store.json",
            "store.json.new",
            "log.control",
            "log.mdb",
            "open.lock",
            _UNFINISHED,
        }
        if strangers:
            raise StoreError(f"cannot back up by way of {part!r}, which holds {min(strangers)!r}: move it elsewhere")
        remove = shutil.rmtree
        for left in os.listdir(part):  # by a backup that was killed
            os.unlink(os.path.join(part, left))
        with contextlib.suppress(FileNotFoundError):
            os.chmod(part, os.stat(path).st_mode & 0o7777)  # of an empty directory, whose place it takes
        yield part
    finally:
        with contextlib.suppress(OSError):  # it has its name
            remove(part)
        for fd in opened:
            os.close(fd)


def _locked(fd: int, part: str) -> bool:
    """Lock that directory until `fd` is closed; whether it still has its name."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some file systems lock no directory; there two backups to one target would meet
    try:
        there = os.stat(part)
    except FileNotFoundError:  # the other backup has just ended
        return False
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _write_error(path: str, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no room on the disk for the copy {path!r}: free some space, or name a target elsewhere")
    return StoreError(f"the copy {path!r} cannot be written ({error.strerror}): name a target that you may write to")
