"""The level "process": nothing is flushed, kill -9 loses nothing, and a power cut may damage the log, which is noticed.

The page cache of the kernel holds what was committed, whatever becomes of the process. The log is written through a
map, which spares a system call per changed page: a put takes 11 us of processor time instead of 16. The price is that a
page without a block on the disk kills the process with SIGBUS when the disk is full, so every page gets its block
before it is used (log/space.py). That is not to be had on file systems that copy on write: there the log is written
with plain writes.

The mark in `log.control` says whether the log was written to since it was last flushed. It is changed to WRITTEN,
durably, before the first change, and to CLEAN after a flush, by `sync_now` and by each process that closes. Who opens
the store after the machine has stopped, and finds WRITTEN, has the store checked first (disk_store.py).
"""

from __future__ import annotations

from ..system.control import CLEAN, FAILED, IS_CLEAN, MAPPED, WRITTEN, Control, Mark
from ..system.environment import Environment
from .deferred import Deferred


class Unsynced(Deferred):
    """One process's part in it."""

    def __init__(self, control: Control, log: str) -> None:
        super().__init__(control, log)
        self.writemap = bool(control.words[MAPPED])

    def admits(self, environment: Environment) -> bool:
        """Whether the mark surely says that the log is written to."""
        return not self._words[IS_CLEAN]

    def prepare(self, environment: Environment) -> None:
        """Have it say so. One flush of log.control, after each time that the log was flushed."""
        self._control.write(Mark(WRITTEN, environment.last_txnid()))

    def sync_now(self, environment: Environment) -> None:
        """Flush, while writers go on, then what they have written meanwhile, and mark the log as clean."""
        if self._words[IS_CLEAN] != 1:
            self._flush(environment.flush)
            with environment.gated():
                self._clean(environment)

    def leave(self, environment: Environment) -> None:
        """Flush, and mark the log as clean."""
        if not self._words[FAILED]:
            self._clean(environment)

    def _clean(self, environment: Environment) -> None:
        if self._words[FAILED]:
            raise self._failed()
        if self._words[IS_CLEAN] != 1:
            self._flush_alone(environment)
            self._control.write(Mark(CLEAN, environment.last_txnid()))
