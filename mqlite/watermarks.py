"""Callbacks when a queue has filled up, and when it has drained."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

from .channel import Channel
from .checks import check_count
from .claims import Kind
from .errors import Closed, ShutDown
from .handle import Handle
from .waiting import Interrupt, Seat

Callback = Callable[[int], object]
#: Seconds between two looks while the level moves, so that a busy queue does not wake this thread for each message.
PAUSE = 0.02


class Watermarks(Handle):
    """on_high(n) is called once when the queue holds `high` messages or more (claimed and delayed ones included),
    on_low(n) once when it has fallen to `low` or fewer after that, and so on: between the two nothing is called.

    Called in a thread of its own, at most 20 ms after the level was reached and stays there; a level that is
    reached and left in less time may be missed. A queue that holds `high` messages at the start is high. A callback
    that raises is reported as a warning, and changes nothing.

    Threads: any. Fork: the child has none. Pickle: not supported.
    """

    def __init__(
        self, channel: Channel, high: int, low: int, on_high: Callback | None, on_low: Callback | None
    ) -> None:
        check_count(high, "high")
        if type(low) is not int:
            raise TypeError(f"low is an int, not {low!r}")
        if not 0 <= low < high:
            raise ValueError(f"low is at least 0 and below high={high}, not {low}")
        for name, callback in (("on_high", on_high), ("on_low", on_low)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} is a function of the number of messages, or None, not {callback!r}")
        self._engine = channel.engine
        self._state = channel.state
        self._high, self._low = high, low
        self._on_high, self._on_low = on_high, on_low
        self._interrupt = Interrupt(f"the watermarks of queue {channel.state.name!r}")
        self._over = threading.Event()
        self.is_high = False
        channel.store.handles.add(self)
        self._thread = threading.Thread(target=self._run, name=f"mqlite watermarks {channel.state.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Closed, ShutDown):
            while not self._interrupt.closed:
                level = self._engine.inspection.total(self._state)
                if not self.is_high and level >= self._high:
                    self.is_high = True
                    self._call(self._on_high, level)
                elif self.is_high and level <= self._low:
                    self.is_high = False
                    self._call(self._on_low, level)
                self._wait_for_change(level)
                self._over.wait(PAUSE)

    def _wait_for_change(self, level: int) -> None:
        def changed(seat: Seat) -> bool | None:
            return self._engine.inspection.total(self._state) != level or None

        self._engine.waiters.wait(self._state.id, Kind.LEVEL, changed, None, self._interrupt)

    def _call(self, callback: Callback | None, level: int) -> None:
        if callback is not None:
            try:
                callback(level)
            except Exception as error:
                try:
                    warnings.warn(
                        f"a watermark callback of queue {self._state.name!r} raised {type(error).__name__}: {error}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                except RuntimeWarning as warning:  # warnings are errors here: told as a thread tells of its own
                    told = (RuntimeWarning, warning, warning.__traceback__, self._thread)
                    threading.excepthook(threading.ExceptHookArgs(told))

    def close(self) -> None:
        """Call nothing more; waits for a callback that is running, unless it is the one that closes."""
        self._over.set()
        self._interrupt.close(self._engine.presence)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __reduce__(self) -> Any:
        raise TypeError("watermarks cannot be sent to another process: ask its own queue for watermarks")

    def after_fork(self) -> None:
        """In the child: the thread is the parent's."""
        self._interrupt.closed = True
        self._over = threading.Event()  # the thread may have been inside the old one
        self._over.set()
