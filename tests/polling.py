"""Waiting for what no event tells of: the state of a store, of a file, of another process. Bounded."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

PATIENCE = 60.0
_PAUSE = 0.002


def until(condition: Callable[[], object], what: str = "the condition never held") -> None:
    """Returns when it holds; fails when it does not for a long time."""
    end, pause = time.monotonic() + PATIENCE, threading.Event()
    while not condition():
        if time.monotonic() >= end:
            for number, frame in sys._current_frames().items():
                print(f"thread {number}:", *traceback.format_stack(frame), sep="\n")
            raise AssertionError(what)
        pause.wait(_PAUSE)
