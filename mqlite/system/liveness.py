"""Which processes live, told by the kernel.

Each process holds an exclusive flock on its own file in `owners/`. The file is a
named pipe that its owner keeps open for writing, so whoever waits can poll it:
when the process dies, however it dies, the kernel drops the lock and then hangs
up the pipe (in this order, inside one close), and the waiter wakes at once.
This crosses pid namespaces, which pidfd does not. Where pipes cannot be made the
file is a plain one, and deaths are found by trying the lock.

Owner ids are random 64-bit numbers, since pids repeat.

A forked child inherits the open file, and with it the lock: `forget` closes the
child's copy, so that the parent can be seen to die.

Locks    `_lock` guards the watched descriptors; nothing is waited for under it.
         Joining, leaving and burying also happen under the claims write lock (the caller's).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import select
import stat
import threading
from collections.abc import Iterable

_OWNER = re.compile("[0-9a-f]{16}")


class Liveness:
    """The life of this process, and its view of the others."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._own_fd = -1
        self._peers: dict[int, int] = {}  # owner -> descriptor of its pipe, or -1 for a plain file
        self._poll = select.poll()
        self._lock = threading.Lock()

    def _path(self, owner: int) -> str:
        return os.path.join(self._folder, f"{owner:016x}")

    # ------------------------------------------------------------------ own life
    def join(self) -> int:
        """Appear as living; returns the new owner id."""
        owner = secrets.randbits(63) | 1
        path = self._path(owner)
        try:
            os.mkfifo(path, 0o600)
            self._own_fd = self._locked(path)
        except OSError:  # no pipes here, or none that can be locked
            if os.path.exists(path):
                os.unlink(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._own_fd = self._locked(path)
        return owner

    def _locked(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def leave(self, owner: int) -> None:
        """Disappear in an orderly way."""
        self.bury(owner)
        self.forget()

    def forget(self) -> None:
        """Close all descriptors (in a forked child: its copies of the parent's)."""
        if self._own_fd >= 0:
            os.close(self._own_fd)
            self._own_fd = -1
        for owner in list(self._peers):
            self._unwatch(owner)

    def bury(self, owner: int) -> None:
        """Remove what is left of a dead owner."""
        with self._lock:
            self._unwatch(owner)
        try:
            os.unlink(self._path(owner))
        except OSError:  # gone, or the disk refuses: nobody locks it, so it counts as dead, and goes with its folder
            pass

    # ------------------------------------------------------------------ the others
    def is_alive(self, owner: int) -> bool:
        """Whether the process of `owner` lives. Cost: an open and a try at its lock."""
        try:
            fd = os.open(self._path(owner), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:  # no descriptors left: who cannot be asked is not called dead
            return True
        try:
            return not _lockable(fd)
        finally:
            os.close(fd)

    def is_anybody_alive(self) -> bool:
        """Whether any process lives that has a file here. Cost: as `is_alive`, for each."""
        try:
            names = os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return any(self.is_alive(int(name, 16)) for name in names if _OWNER.fullmatch(name))

    def watch(self, owners: Iterable[int]) -> None:
        """Watch exactly these owners from now on."""
        wanted = set(owners)
        with self._lock:
            for owner in set(self._peers) - wanted:
                self._unwatch(owner)
            for owner in wanted - set(self._peers):
                self._watch(owner)

    def _watch(self, owner: int) -> None:
        try:
            fd = os.open(self._path(owner), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._peers[owner] = -1
            return
        if _lockable(fd) or not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)  # dead already (then nothing would ever hang up), or not a pipe
            self._peers[owner] = -1
            return
        self._peers[owner] = fd
        self._poll.register(fd, 0)  # a hang-up is always reported

    def _unwatch(self, owner: int) -> None:
        fd = self._peers.pop(owner, -1)
        if fd >= 0:
            self._poll.unregister(fd)
            os.close(fd)

    def any_died(self) -> bool:
        """Whether a watched owner may have died. Cost: one poll(2), none where nobody is watched."""
        if not self._peers:
            return False
        with self._lock:
            if self._poll.poll(0):
                return True
            return -1 in self._peers.values() and any(
                fd < 0 and not self.is_alive(owner) for owner, fd in self._peers.items()
            )

    def descriptors(self) -> list[int]:
        """What a sleeper polls; a hang-up on one means a death."""
        with self._lock:
            return [fd for fd in self._peers.values() if fd >= 0]

    @property
    def unseen(self) -> bool:
        """Whether some watched owner cannot be polled, so that sleepers must look now and then."""
        with self._lock:
            return any(fd < 0 for fd in self._peers.values())


def _lockable(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
