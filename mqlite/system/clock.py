"""Time, taken from one object so that tests can bring their own.

Wall time is only for what is stored (`enqueued_at`); every wait and every
deadline is monotonic. CLOCK_MONOTONIC is one clock for all processes of a boot,
so a deadline written by one process means the same to another.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings, in nanoseconds."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch; may jump."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment of this boot; never goes back."""


class SystemClock:
    """The machine's clocks."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)
