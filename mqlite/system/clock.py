"""Time, taken from one object so that tests can bring their own.

Wall time is only for what is stored (`enqueued_at`); every wait and every
deadline is monotonic. CLOCK_MONOTONIC is one clock for all processes of a boot,
so a deadline written by one process means the same to another.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from ..message import Due


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


STABLE, WALL = 0, 1
LINES = (STABLE, WALL)
#: Who sleeps until a time of day looks again after so long: the wall clock may be set meanwhile.
WALL_LOOK_NS = 1_000_000_000
_LATEST_NS = (1 << 64) - 1  # in the year 2554
_TICK_NS = 1_000_000  # so that who asks twice is told the same


def _ns(seconds: float) -> int:
    return _LATEST_NS if seconds * 1e9 >= _LATEST_NS else math.ceil(seconds * 1e9)


class Timeline:
    """The two lines of time on which messages wait.

    STABLE  the wall clock as of the first use of the store in this boot, carried on by the
            monotonic clock: a delay takes as long as it says, whatever is done to the wall clock.
    WALL    the wall clock: an eta is a time of day.

    After a reboot a delay goes on by the wall clock, so time without power counts. While the
    machine is suspended the stable line may stand still: delays end late then, never early.
    """

    def __init__(self, clock: Clock, anchor_ns: int) -> None:
        self._clock = clock
        self._anchor_ns = anchor_ns

    def now_ns(self, line: int) -> int:
        """What it is now on that line."""
        return self._clock.wall_ns() if line == WALL else self._clock.monotonic_ns() + self._anchor_ns

    def is_past(self, due: Due) -> bool:
        """Whether that time has come."""
        line, due_ns = due
        return due_ns <= self.now_ns(line)

    def after(self, seconds: float) -> Due | None:
        """The end of a delay that begins now; None where there is none."""
        return (STABLE, min(self.now_ns(STABLE) + _ns(seconds), _LATEST_NS)) if seconds > 0 else None

    def soon(self) -> Due:
        """Now."""
        return STABLE, self.now_ns(STABLE)

    def at(self, seconds: float) -> Due | None:
        """That time of day, in seconds since the epoch; None where it has passed."""
        due_ns = _ns(seconds)
        return (WALL, due_ns) if due_ns > self.now_ns(WALL) else None

    def wake_ns(self, due: Due) -> int:
        """When, by the monotonic clock, somebody who waits for this should look."""
        line, due_ns = due
        if line == STABLE:
            return max(1, due_ns - self._anchor_ns)
        return self.tick_after(min(max(0, due_ns - self.now_ns(WALL)), WALL_LOOK_NS))

    def tick_after(self, left_ns: int) -> int:
        """Some time from now, by the monotonic clock, in whole ticks."""
        return (self._clock.monotonic_ns() + left_ns) // _TICK_NS * _TICK_NS + _TICK_NS


def anchor_of(clock: Clock) -> int:
    """What turns the monotonic clock into the stable line, as of now."""
    return clock.wall_ns() - clock.monotonic_ns()


def ns_of(seconds: float) -> int:
    """Nanoseconds; thirty years at most, which fits every format."""
    return int(min(seconds, 1e9) * 1e9)
