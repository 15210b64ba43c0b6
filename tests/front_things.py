"""What tests of messages that pass by need: the front of a store, and all that is in a queue."""

from __future__ import annotations

from typing import Any

import mqlite
from mqlite.log.front import Front


def front_of(queue: mqlite.Queue[Any]) -> Front:
    front = queue._engine.log.front
    assert isinstance(front, Front)
    return front


def drained(queue: mqlite.Queue[Any]) -> list[Any]:
    """The bodies, one received and acked after the other."""
    found = []
    while True:
        try:
            [message] = queue.receive(timeout=0)
        except mqlite.Empty:
            return found
        found.append(message.body)
        message.ack()
