"""What is in a queue: put there, seen there, taken out."""

from __future__ import annotations

from typing import Any

import mqlite


class Torn:
    """A codec that cannot read what holds the word 'bad'."""

    def encode(self, body: Any) -> bytes:
        return repr(body).encode()

    def decode(self, data: bytes) -> Any:
        if b"bad" in data:
            raise ValueError("unreadable")
        return data.decode()


def put_all(queue: mqlite.Queue[Any], *names: str, **options: Any) -> list[int]:
    """Messages like "a1": the first of group a; "-1": of none. Their ids."""
    return [queue.put(name, group=None if name[0] == "-" else name[0], **options) for name in names]


def fill(queue: mqlite.Queue[Any], body: bytes = b"x" * 10_000, **options: Any) -> int:
    """Put until the store is full, at last one by one; how many there was room for."""
    count, together = 0, 64
    while together:
        try:
            count += len(queue.put_many([body] * together, **options))
        except mqlite.StoreFull:
            together //= 4
    return count


def bodies(queue: mqlite.Queue[Any]) -> list[Any]:
    """What is ready, in delivery order."""
    return [message.body for message in queue.browse()]


def taken(queue: mqlite.Queue[Any], most: int = 1 << 20) -> list[Any]:
    """All that can be had now."""
    found: list[Any] = []
    while len(found) < most:
        try:
            found.append(queue.get(timeout=0))
        except mqlite.Empty:
            break
    return found


def worked_off(queue: mqlite.Queue[Any], most: int = 1 << 20) -> list[Any]:
    """What can be had now, one at a time, each acknowledged before the next."""
    found: list[Any] = []
    while len(found) < most:
        try:
            [message] = queue.receive(timeout=0)
        except mqlite.Empty:
            break
        found.append(message.body)
        message.ack()
    return found
