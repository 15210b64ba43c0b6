"""The windows of a pipe: when they are closed, and how their results are sent."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import Any

import attrs

from .engine import Engine
from .errors import Conflict, Full
from .queue import Queue
from .store import Store
from .transaction import Transaction, pauses
from .windows import TumblingWindow, WindowResult

#: Seconds after which an idle pipe looks for windows that others have left, at most.
LOOK_EVERY = 60.0


class PipeWindows(ABC):
    """The part of a Pipe that closes its windows."""

    batch: int
    _engine: Engine
    _over: threading.Event
    _source: Queue[Any]
    _store: Store

    @abstractmethod
    def _note(self, **numbers: int) -> None:
        """So much more was done; see PipeStats."""

    @abstractmethod
    def _pass_on(self, tx: Transaction, given: Any) -> int:
        """Stage a message to the target, unless it is None; how many."""

    @staticmethod
    @abstractmethod
    def _slice(end: float | None) -> float:
        """Seconds of the next wait for room. end: when to give up, by the monotonic clock."""

    def _next_close(self, window: TumblingWindow) -> float | None:
        """When the next window can be closed, in epoch seconds; None where none is open. Raises SettingsMismatch."""
        with Transaction(self._store, 0.0, False, self._source._interrupt) as tx:
            return window.next_close(tx)

    def _patience(self, window: TumblingWindow) -> float:
        """Seconds for which an idle pipe waits before it looks at its windows again."""
        due = self._next_close(window)
        if due is None:  # but others may count, and die before they close what they have counted
            return min(max(0.05, window.size + window.grace), LOOK_EVERY)
        return min(max(0.001, due - self._engine.clock.wall_ns() / 1e9), LOOK_EVERY)

    def _close_windows(self, window: TumblingWindow, idle: bool, end: float | None) -> None:
        """Send the results of the windows that are over. end: when to give up waiting for room: they stay until later.
        idle: those that are over by the clock, too.
        """
        limit, waits = self.batch, pauses()
        while not self._over.is_set():
            found: list[WindowResult] = []
            try:
                wait = 0.0 if limit > 1 else self._slice(end)
                with Transaction(self._store, wait, True, self._source._interrupt) as tx:
                    found = list(window.close_until(tx, None, limit))
                    if idle and not found:
                        found = list(window.close_until(tx, self._engine.clock.wall_ns() / 1e9, limit))
                    sent = sum(self._pass_on(tx, (window.result or WindowResult.as_dict)(each)) for each in found)
            except Conflict:
                self._note(conflicts=1)
                self._over.wait(next(waits))
            except (Full, ValueError) as error:
                if len(found) > 1:  # there may be room for some of them; or there never is for so many
                    limit = len(found) // 2
                elif isinstance(error, ValueError):
                    raise
                elif end is not None and time.monotonic() >= end:
                    return
            else:
                self._note(emitted=sent)
                if not found:
                    return


def checked_window(window: object, name: str | None, function: object, target: object) -> TumblingWindow:
    """The window of a pipe with these, and its table. Raises TypeError, ValueError."""
    if not isinstance(window, TumblingWindow):
        raise TypeError(f"window is a TumblingWindow or None, not {window!r}")
    if function is not None:
        raise ValueError("a pipe has a function or a window: count what another pipe has made of the messages")
    if target is None:
        raise ValueError("the results of a window go to a target: give one")
    if window.table is not None:
        return window
    if name is None:
        raise ValueError("a pipe with a window has a name of its own, by which its counts are kept: give name=")
    return attrs.evolve(window, table=f"windows of {name}")
