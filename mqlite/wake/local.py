"""The bell inside one process: a lock per sleeper, nothing else.

Locks    `_lock` guards the table of sleepers and their gates.
"""

from __future__ import annotations

import threading

from . import LONGEST_SLEEP, Sleeper


class LocalBell:
    """Rings threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sleepers: dict[int, Sleeper] = {}

    def sleeper(self) -> Sleeper:
        """A new sleeper of the calling thread."""
        sleeper = Sleeper()
        self._sleepers[sleeper.id] = sleeper
        return sleeper

    def forget(self, sleeper: Sleeper) -> None:
        """The sleeper stays awake from now on."""
        self._sleepers.pop(sleeper.id, None)

    def drain(self, sleeper: Sleeper) -> bool:
        """Forget rings so far."""
        if not sleeper.rung:
            return False
        with self._lock:
            sleeper.rung = False
            sleeper.close_gate()
        return True

    def sleep(self, sleeper: Sleeper, timeout: float | None) -> None:
        """Until rung, or for `timeout` seconds."""
        sleeper.gate.acquire(timeout=-1 if timeout is None else min(timeout, LONGEST_SLEEP))
        sleeper.rung = True  # whatever woke it: `drain` shuts the gate again

    def ring(self, owner: int, sleeper_id: int) -> bool:
        """Wake that sleeper."""
        sleeper = self._sleepers.get(sleeper_id)
        if sleeper is None:
            return False
        with self._lock:
            sleeper.rung = True
            sleeper.open_gate()
        return True
