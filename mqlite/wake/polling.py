"""The bell where named pipes cannot be made: sleepers look at the numbers of the last commits.

Threads of the same process are rung at once, as in `local.py`. What another
process did is seen within POLL_MAX seconds: each sleeper asks every
POLL_MIN..POLL_MAX seconds whether something was committed, and costs CPU for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from . import Sleeper
from .local import LocalBell

POLL_MIN = 0.001
POLL_MAX = 0.02


class PollingBell(LocalBell):
    """Rings threads of this process; notices commits of others by asking `commits()`."""

    def __init__(self, commits: Callable[[], tuple[int, int]]) -> None:
        super().__init__()
        self._commits = commits

    def drain(self, sleeper: Sleeper) -> bool:
        """Forget rings so far; commits from here on count as new."""
        sleeper.seen = self._commits()
        return super().drain(sleeper)

    def sleep(self, sleeper: Sleeper, timeout: float | None) -> None:
        """Until rung, until something was committed, or for `timeout` seconds (at most one)."""
        end = time.monotonic() + min(1.0, math.inf if timeout is None else timeout)
        pause = POLL_MIN
        while not sleeper.rung and sleeper.seen == self._commits():
            left = end - time.monotonic()
            if left <= 0:
                break
            if sleeper.gate.acquire(timeout=min(pause, left)):
                sleeper.rung = True  # a ring came with it, or is told by this: `drain` shuts the gate
            pause = min(2 * pause, POLL_MAX)

    def bury(self, owner: int) -> None:
        """Nothing is left of a dead owner."""

    def watching_changed(self) -> None:
        """Nothing to do: every sleeper looks again within a second."""

    def close(self, owner: int | None = None) -> None:
        """Nothing is open."""
