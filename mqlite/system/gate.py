"""The lock of all processes of a store: flock(2), taken at once where it is free.

`fcntl.flock` lets go of the GIL in each call. Where many threads of a process pass through the gate, each then meets
another one that has to wait for its lock. A call that does not wait need not: 0.1 us more for one thread.
"""

from __future__ import annotations

import ctypes
import fcntl
from collections.abc import Callable

_LOCK_AT_ONCE = fcntl.LOCK_EX | fcntl.LOCK_NB
#: Keeps the GIL; 0 when it was done.
_flock: Callable[[int, int], int] = ctypes.PyDLL(None).flock


def lock(fd: int) -> None:
    """Wait until no other process holds it. Raises OSError."""
    if _flock(fd, _LOCK_AT_ONCE):
        fcntl.flock(fd, fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """Let others in. Harmless where it is not held."""
    _flock(fd, fcntl.LOCK_UN)
