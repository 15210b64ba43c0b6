"""Everybody out: what a fork, a close and a compaction begin with."""

from __future__ import annotations

import contextlib
from _thread import LockType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .environment import Environment


def quiet(log: Environment, claims: Environment, undo: contextlib.ExitStack, *, for_good: bool = False) -> None:
    """Wait until no thread of this process is inside, keep all out, and close both; `undo` lets them in again.

    for_good: who comes then gets Closed; raises StoreError where the last flush fails.

    The order is that of all who nest: log writer, claims writer, claims reader, log reader.
    """
    for environment in (log, claims):
        hold(environment.write_lock, undo)
    for environment in (claims, log):
        environment.shut_out_readers(undo)
    if for_good:
        claims.close_for_good()
        log.close_for_good()
    else:
        log.close()
        claims.close()


def hold(lock: LockType, undo: contextlib.ExitStack) -> None:
    """Acquire a lock until `undo`. In C from the one list to the other: an interrupt comes before or after."""
    held: list[bool] = []
    undo.callback(lambda: lock.release() if held else None)
    held.extend(map(lock.acquire, (True,)))
