"""A lock of all processes (flock(2)) that is taken at once, or not, with the GIL in hand.

`fcntl.flock` lets go of the GIL in each call. Where many threads of a process do no more under the lock than that
takes, each then meets another one that has to wait for its own lock.
"""

from __future__ import annotations

import ctypes
import fcntl

_flock = ctypes.PyDLL(None).flock


def lock_at_once(fd: int) -> bool:
    """Whether it failed: another process has it."""
    return bool(_flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


def unlock(fd: int) -> None:
    """Let others in. Harmless where it is not held."""
    _flock(fd, fcntl.LOCK_UN)
