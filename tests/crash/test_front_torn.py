"""A power cut between two pages of log.front at level "full": an old record behind a new beginning is not taken in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import mqlite
import mqlite.log.front
from mqlite.log.front import Front
from mqlite.log.front_file import BRIEF, HEAD, KEY_AT, OPEN, RUN, START, record_bytes

PAGE = 4096
COUNT = 100


class Disk:
    """What the disk has of log.front for sure, and what it may have after a cut."""

    def __init__(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.flushed = b""
        flush = os.fdatasync

        def noted(fd: int) -> None:
            flush(fd)
            if os.path.exists(self.front):
                self.flushed = Path(self.front).read_bytes()

        monkeypatch.setattr(os, "fdatasync", noted)

    @property
    def front(self) -> str:
        return os.path.join(self.path, "log.front")

    def cut(self, behind: int, before: bytes) -> mqlite.Broker:
        """The store after a cut in a flush that has written all pages before that place, and none behind it."""
        there = os.path.join(os.path.dirname(self.path), "there")
        shutil.copytree(self.path, there, ignore=shutil.ignore_patterns("run"))
        area = Path(self.front).read_bytes()
        Path(there, "log.front").write_bytes(area[:behind] + before[behind:])
        return mqlite.open(there)


@pytest.fixture
def disk(path: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    return Disk(path, monkeypatch)


def front_of(broker: mqlite.Broker) -> Front:
    front = broker._store.engine.log.front
    assert front is not None
    return front


def opens(front: Front) -> None:
    """The next plain operation opens it."""
    front.words[RUN] = 1 << 20


def body(kind: str, number: int) -> str:
    return f"{kind}{number:03d}" + "." * 100


def boundary_in(at: int) -> int:
    """Where a page begins between the epoch of the record there and its key; or 0."""
    page = (at + KEY_AT - 1) // PAGE * PAGE
    return page if at + 16 <= page else 0


def places(front: Front) -> list[int]:
    found, at = [], START
    while at < front.words[HEAD]:
        found.append(at)
        at += record_bytes(BRIEF.unpack_from(front._area, at)[1])
    return found


def test_an_acknowledged_message_does_not_come_back_in_the_place_of_one_that_is_put(path: str, disk: Disk) -> None:
    with mqlite.open(path, durability="full") as broker:
        queue: mqlite.Queue[Any] = broker.queue("q")
        front = front_of(broker)
        queue.put("a")
        queue.get()
        opens(front)
        for number in range(COUNT):
            queue.put(body("old", number))
        assert front.words[OPEN]
        for _ in range(COUNT):
            queue.get(timeout=0)
        assert queue.qsize() == 0  # which folds
        opens(front)
        for number in range(COUNT):
            at, before = front.words[HEAD], disk.flushed
            queue.put(body("new", number))
            if boundary_in(at):
                break
        assert front.words[OPEN]
        with disk.cut(boundary_in(at), before) as other:
            there: mqlite.Queue[Any] = other.queue("q")
            got = [there.get(timeout=0) for _ in range(there.qsize())]
        assert got == [body("new", each) for each in range(number)]


def test_a_stored_message_is_not_taken_out_by_the_settlement_of_one_that_was_brought(path: str, disk: Disk) -> None:
    with mqlite.open(path, durability="full") as broker:
        queue: mqlite.Queue[Any] = broker.queue("q")
        other: mqlite.Queue[Any] = broker.queue("other")
        front = front_of(broker)
        queue.put("a")
        queue.get()
        queue.put_many([body("one", number) for number in range(COUNT)])
        opens(front)
        for number in range(COUNT):
            other.put(body("two", number))
        assert other.qsize() == COUNT  # which folds
        opens(front)
        got = [queue.receive(1, timeout=0)[0] for _ in range(COUNT)]
        assert front.words[OPEN]
        before = disk.flushed
        number, at = next((number, at) for number, at in enumerate(places(front)) if boundary_in(at))
        got[number].ack()
        with disk.cut(boundary_in(at), before) as after:
            assert after.queue("other").qsize() == COUNT
            assert after.queue("q").qsize() in (COUNT, COUNT - 1)
