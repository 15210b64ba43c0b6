"""Whether any process has a store open, of whatever version of mqlite and whatever session."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from .liveness import Liveness


@contextlib.contextmanager
def nobody_inside(log: str) -> Iterator[None]:
    """Hold LMDB's own lock on the whole of log.mdb-lock: nobody has the log open, and who opens it waits. Raises
    BlockingIOError where somebody has; OSError. Not while this process has it open: to close that file ends all its
    locks on it.
    """
    with open(log + "-lock", "r+b", buffering=0) as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except PermissionError as error:  # of some systems
            raise BlockingIOError(error.errno, error.strerror) from error
        yield


def is_anybody_alive(run: str) -> bool:
    """Whether a process that has joined lives. It may have the log closed, as around a fork."""
    with contextlib.suppress(FileNotFoundError):
        for session in os.listdir(run):
            if Liveness(os.path.join(run, session, "owners")).is_anybody_alive():
                return True
    return False
