"""The bell: how a thread that waits is woken. A hint, never the truth.

A sleeper looks, registers (in the claims), looks once more, and sleeps; whoever
changed something rings one registered sleeper. A ring that is lost costs time,
never a message. Implementations: `local.py` (one process), `fifo.py` (named
pipes between processes), `polling.py` (where there are no pipes).
"""

from __future__ import annotations

import itertools
from _thread import allocate_lock
from typing import Protocol

LONGEST_SLEEP = 86400.0  # seconds; poll(2) takes no more than 24 days, and who wakes early just looks again
_numbers = itertools.count(1)


class Sleeper:
    """One waiting thread. `gate` is a lock used as a binary semaphore: held = keep sleeping."""

    __slots__ = ("gate", "id", "rung", "seen")

    def __init__(self) -> None:
        self.id = next(_numbers)
        self.rung = False
        self.seen: tuple[int, ...] = ()  # the last commits when it last looked
        self.gate = allocate_lock()
        self.gate.acquire()

    def open_gate(self) -> None:
        """Let the thread pass once. The caller holds the bell's lock."""
        if self.gate.locked():
            self.gate.release()

    def close_gate(self) -> None:
        """Take back a pass that was not used. The caller holds the bell's lock."""
        self.gate.acquire(blocking=False)


class Bell(Protocol):
    """Rings sleepers, here and in other processes. All methods are thread-safe."""

    def sleeper(self) -> Sleeper:
        """A new sleeper of the calling thread; `forget` it when done."""

    def forget(self, sleeper: Sleeper) -> None:
        """The sleeper stays awake from now on."""

    def drain(self, sleeper: Sleeper) -> bool:
        """Forget rings so far; called before a look, so that later ones are kept. Whether there were any."""

    def sleep(self, sleeper: Sleeper, timeout: float | None) -> None:
        """Until rung, until a watched process died, or for `timeout` seconds. May return early."""

    def ring(self, owner: int, sleeper_id: int) -> bool:
        """Wake that sleeper; False where its process cannot be reached."""
