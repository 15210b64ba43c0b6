"""A store without a path: no files, no pipes, no bytes; it ends with its last handle."""

from __future__ import annotations

import weakref
from typing import Any

from .claims.memory import MemoryClaims
from .engine.local import LocalEngine
from .log.memory import MemoryLog
from .presence import LocalPresence
from .system.clock import Clock


class MemoryStore:
    """The parts of an in-memory store, under the one lock of its log."""

    in_memory = True
    path: str | None = None

    def __init__(self, clock: Clock) -> None:
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.log = MemoryLog()
        self.claims = MemoryClaims(self.log.lock, self.log.hand_out)
        self.presence = LocalPresence()
        self.engine = LocalEngine(self.log, self.claims, self.presence, clock)

    # ------------------------------------------------------------------ fork
    def before_fork(self) -> None:
        """Let nobody be in the middle of anything."""
        self.log.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.log.lock.release()

    def after_fork_in_child(self) -> None:
        """The child has a copy of all messages, and none of the threads that waited."""
        self.log.after_fork()
        self.claims.after_fork(self.log.lock)
        self.presence.after_fork()
        for handle in list(self.handles):
            handle.after_fork()
