"""What the levels have in common whose commits do not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmdb

from ..errors import StoreError
from ..system.control import FAILED, Control
from ..system.environment import Environment
from ..system.level import Level


class Deferred(Level):
    """Commits go to the page cache, and to the disk later.

    Once a flush has failed, no flush of this boot is believed: the kernel may have dropped what it could not write, and
    the next flush would not tell.
    """

    sync = False
    guarded = True

    def __init__(self, control: Control, log: str) -> None:
        self._control = control
        self._words = control.words
        self._log = log

    def _flush(self, flush: Callable[..., Any], *arguments: Any) -> None:
        try:
            flush(*arguments)
        except lmdb.Error as error:
            self._words[FAILED] = 1
            raise self._failed() from error

    def _flush_alone(self, environment: Environment) -> None:
        """Under the gate."""
        self._flush(environment.opened.sync, True)

    def _failed(self) -> StoreError:
        return StoreError(
            f"a flush of {self._log!r} to the disk has failed, so no later one can be believed: check the disk, copy "
            "the store with broker.backup(), and restart the machine"
        )
