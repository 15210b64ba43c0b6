"""A store without a path: no files, no pipes, no bytes; it ends with its last handle."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Any

from .claims.memory import MemoryClaims
from .engine.local import LocalEngine
from .errors import NotSupported
from .log.memory import MemoryLog
from .system.clock import Clock
from .wake import Bell
from .wake.local import LocalBell


class LocalPresence:
    """The one process of a store in memory."""

    owner = 1
    generation = 0

    def __init__(self) -> None:
        self.bell: Bell = LocalBell()

    def watch(self, owners: Iterable[int], generation: int) -> None:
        """There is nobody to watch."""

    def someone_died(self) -> bool:
        """Nobody else is there."""
        return False

    def is_alive(self, owner: int) -> bool:
        """This process lives."""
        return True

    def bury(self, owner: int) -> None:
        """Nobody dies."""

    def after_fork(self) -> None:
        """In a forked child: the threads that slept are the parent's."""
        self.bell = LocalBell()


class MemoryStore:
    """The parts of an in-memory store, under the one lock of its log."""

    in_memory = True
    waits_for_disk = False
    path: str | None = None

    def __init__(self, clock: Clock) -> None:
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self._undo = contextlib.ExitStack()  # what `before_fork` locked
        self.log = MemoryLog()
        self.claims = MemoryClaims(self.log.lock, self.log.hand_out, self.log.handed_out)
        self.presence = LocalPresence()
        self.engine = LocalEngine(self.log, self.claims, self.presence, clock)

    def sync(self) -> None:
        """Nothing is kept longer than the process."""

    def compact(self, progress: object) -> tuple[int, int]:
        """There is no file. Raises NotSupported."""
        raise NotSupported("a broker in memory has no file to compact: give it a path")

    # ------------------------------------------------------------------ fork
    def before_fork(self) -> None:
        """Let nobody be in the middle of anything."""
        self.log.lock.acquire()
        self._undo.callback(self.log.lock.release)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._undo.close()

    def after_fork_in_child(self) -> None:
        """The child has a copy of all messages, and none of the threads that waited."""
        self._undo = contextlib.ExitStack()
        self.log.after_fork()
        self.claims.after_fork(self.log.lock)
        self.presence.after_fork()
        for handle in list(self.handles):
            handle.after_fork()
