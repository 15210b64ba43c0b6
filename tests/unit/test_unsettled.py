"""A commit that failed, and that the disk may have (system/environment.py): no process commits before that is put right."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import mqlite
import mqlite.system.environment as environments
from mqlite.log.front import FEWEST
from mqlite.log.front_file import OPEN
from mqlite.system.control import UNSETTLED

GUARD = 60.0


class Disk:
    """Stands for the writing of the meta pages."""

    def __init__(self) -> None:
        self.failure: OSError | None = OSError(errno.EIO, "no")
        self.asked = 0

    def written_again(self, fd: int, size: int) -> OSError | None:
        self.asked += 1
        return self.failure


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(environments, "written_again", disk.written_again)
    return disk


def fail(talk: Any, path: str) -> None:
    """Another process, whose commit fails."""
    environment = mqlite.open(path, durability="full")._store._environment  # type: ignore[union-attr]
    with environment.write_lock, environment:
        environment.begin_write()
        environment.failed(environments.lmdb.DiskError("no"))
    talk.say("failed")
    talk.hear(GUARD)


def test_a_commit_that_failed_in_another_process_is_put_right_before_the_next_one(path: str, children: Any, disk: Disk) -> None:
    with mqlite.open(path, durability="full") as broker:
        queue = broker.queue("q")
        child = children.fork(fail, path)
        assert child.hear() == "failed"
        asked = disk.asked
        with pytest.raises(mqlite.StoreError):
            queue.put("not before that")
        disk.failure = None
        queue.put("then")
        queue.put("and goes on")
        assert disk.asked > asked + 1
        assert not broker._store._control.words[UNSETTLED]  # type: ignore[union-attr]
        assert [message.body for message in queue.browse()] == ["then", "and goes on"]


def test_messages_do_not_pass_by_before_that(path: str, disk: Disk) -> None:
    with mqlite.open(path, durability="full") as broker:
        queue = broker.queue("q")
        for number in range(FEWEST):
            queue.put(number)
        words, control = broker._store.engine.log.front.words, broker._store._control.words  # type: ignore[union-attr]
        control[UNSETTLED] = 1
        with pytest.raises(mqlite.StoreError):
            queue.put("neither here nor there")
        assert not words[OPEN]
        disk.failure = None
        for number in range(FEWEST, 2 * FEWEST + 1):
            queue.put(number)
        assert words[OPEN]
        assert [queue.get() for _ in range(2 * FEWEST + 1)] == list(range(2 * FEWEST + 1))
