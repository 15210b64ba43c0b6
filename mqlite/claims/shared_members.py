"""What the write transaction of the claims changes besides the claims on messages: who has joined, who waits, who has a
queue for himself; open tasks, shutdowns. The entries are drawn in `shared.py`.
"""

from __future__ import annotations

from typing import Any

from ..errors import Closed
from . import Kind, Shut, Waiting
from .shared_reading import I64, SEAT, SEATS_MASK, U64, WAITER, SharedReading, key_in


class SharedMembers(SharedReading):
    """These changes. Each ends what this process knows of the claims (known.py), unless it says otherwise."""

    _is_changed = False
    _is_known = True  # what it changes is in what this process knows, too

    @property
    def _changing(self) -> Any:
        """The transaction, to be changed in a way that this process does not follow in what it knows."""
        self._is_known = False
        return self._txn

    def set_seat(self, queue: int, seat: tuple[int, int] | None) -> None:
        """Set who has the queue for himself."""
        key = key_in(b"x", queue)
        had = self._txn.get(key) is not None
        if seat is None:
            self._changing.delete(key)
        else:
            self._changing.put(key, SEAT.pack(*seat))
        self._next_generation((seat is not None) - had)

    def register(self, queue: int, kind: Kind, waiting: Waiting) -> None:
        """Add or change a sleeper."""
        self._changing.put(
            key_in(b"w", queue) + WAITER.pack(kind, waiting.sleeper, waiting.owner), U64.pack(waiting.wake_ns)
        )

    def leave(self, queue: int, kind: Kind, sleeper: int, owner: int) -> None:
        """Remove a sleeper."""
        self._changing.delete(key_in(b"w", queue) + WAITER.pack(kind, sleeper, owner))

    def leave_all(self, owner: int) -> list[int]:
        """Remove all sleepers and tasks of an owner. Under L, too."""
        if self._bench is not None:
            self._bench.leave_all(owner)
        number = U64.pack(owner)
        tasks = [key for key, _ in self._walk(b"t") if key[5:] == number]
        for key in tasks + [key for key, _ in self._walk(b"w") if key[-8:] == number]:
            self._changing.delete(key)
        return [int.from_bytes(key[1:5], "big") for key in tasks]

    def add_tasks(self, queue: int, owner: int, count: int) -> None:
        """Count tasks. Nothing of that is in `_known`, so it may go with what is."""
        key = key_in(b"t", queue) + U64.pack(owner)
        value = self._txn.get(key)
        self._is_changed = True
        self._txn.put(key, I64.pack((0 if value is None else I64.unpack(value)[0]) + count))

    def set_shut(self, queue: int, mode: Shut) -> None:
        """Shut a queue down."""
        self._changing.put(key_in(b"s", queue), bytes([mode]))

    def forget_shutdowns(self) -> None:
        """Open all queues again."""
        for key in [key for key, _ in self._walk(b"s")]:
            self._changing.delete(key)

    def anchor_ns(self, now_ns: int) -> int:
        """What is stored, or is now."""
        value = self._txn.get(b"a")
        if value is None:
            self._changing.put(b"a", I64.pack(now_ns))
            return now_ns
        return int(I64.unpack(value)[0])

    def require(self, owner: int) -> None:
        """Raises Closed where that owner has left."""
        if self._txn.get(b"o" + U64.pack(owner)) is None:
            raise Closed("the store was closed meanwhile: open it again to use it")

    def add_owner(self, owner: int) -> None:
        """A process joins."""
        self._changing.put(b"o" + U64.pack(owner), b"-")
        self._next_generation()

    def remove_owner(self, owner: int) -> None:
        """A process is gone."""
        if self._changing.delete(b"o" + U64.pack(owner)):
            self._next_generation()

    def note_taken_over(self, epoch: int) -> None:
        """Set what `taken_over` returns."""
        self._changing.put(b"W", U64.pack(epoch))

    def _next_generation(self, seats: int = 0) -> None:
        generation = self.generation()
        following = (generation | SEATS_MASK) + 1
        self._changing.put(b"g", U64.pack(following | ((generation & SEATS_MASK) + seats)))
