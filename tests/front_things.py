"""What tests of messages that pass by need: the front of a store, all that is in a queue, and a disk that takes its time."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import mqlite
from mqlite.log.front import Front

_flush = os.fdatasync


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


def slow_flush(fd: int) -> None:
    """In place of `os.fdatasync`: what a disk takes, which memory does not, so that others come meanwhile. No test waits by it."""
    time.sleep(random.choice((0, 0.0005, 0.002)))
    _flush(fd)
