"""Time that passes when a test says so, and queues that go by it."""

from __future__ import annotations

from typing import Any

import mqlite
from mqlite.channel import Channel
from mqlite.store import open_store

SECOND = 1_000_000_000
NOON = 1_800_000_000  # 2027-01-15 08:00 UTC


class HandClock:
    """A wall clock and a monotonic one, each set by hand; both in ns."""

    def __init__(self, wall: float = NOON, monotonic: float = 1000) -> None:
        self.wall, self.monotonic = int(wall * SECOND), int(monotonic * SECOND)

    def wall_ns(self) -> int:
        return self.wall

    def monotonic_ns(self) -> int:
        return self.monotonic

    def pass_by(self, seconds: float) -> None:
        """So much time passes."""
        self.wall += round(seconds * SECOND)
        self.monotonic += round(seconds * SECOND)

    def set_wall(self, seconds: float) -> None:
        """Somebody puts the wall clock forward by so much, or back."""
        self.wall += round(seconds * SECOND)

    def moment(self, seconds: float) -> float:
        """The time of day in so many seconds."""
        return self.wall / SECOND + seconds


def timed_queue(path: str | None, clock: HandClock, name: str = "q", *, max_store_bytes: int | None = None, **options: Any) -> mqlite.Queue[Any]:
    """A queue of the store at `path` (None: of a new one in memory), which goes by `clock`."""
    store = open_store(path, clock=clock, max_store_bytes=max_store_bytes)
    return mqlite.Queue.of(Channel.open(store, name, options, "json"))
