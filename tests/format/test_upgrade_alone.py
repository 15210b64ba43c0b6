"""A store is upgraded while nobody has it open: who has, by an earlier version, would go by the format that it had."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

import mqlite
import mqlite.disk_store
import mqlite.log.format
import mqlite.system.directory

LEVELS = pytest.mark.parametrize("level", ["full", "process"])
REFUSED = pytest.raises(mqlite.StoreError, match="earlier version")


def use_earlier_version(talk: Any, path: str, level: str) -> None:
    """A process of a version that knows the format before this one."""
    for module in (mqlite.disk_store, mqlite.system.directory, mqlite.log.format):
        module.FORMAT = 7  # type: ignore[attr-defined]
    with mqlite.open(path, durability=level) as broker:
        queue = broker.queue("q")
        queue.put("first")
        talk.say("open")
        while talk.hear() == "put":
            queue.put("more")
            talk.say(queue.qsize())
    talk.say("closed")
    talk.hear()


def format_of(path: str) -> int:
    with open(os.path.join(path, "store.json"), encoding="utf-8") as marker:
        found: int = json.load(marker)["format"]
    return found


@LEVELS
def test_a_store_that_an_earlier_version_has_open_is_not_upgraded(level: str, path: str, children: Any) -> None:
    child = children.fork(use_earlier_version, path, level)
    assert child.hear() == "open"
    with REFUSED:
        mqlite.open(path)
    assert format_of(path) == 7
    child.say("put")
    assert child.hear() == 2
    with REFUSED:
        mqlite.open(path)
    child.say("close")
    assert child.hear() == "closed"
    with mqlite.open(path) as broker:
        assert [message.body for message in broker.queue("q").receive(2)] == ["first", "more"]
        assert broker.check() == []
    assert format_of(path) == 8


@LEVELS
def test_a_store_whose_earlier_version_was_killed_is_upgraded(level: str, path: str, children: Any) -> None:
    child = children.fork(use_earlier_version, path, level)
    assert child.hear() == "open"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    with mqlite.open(path) as broker:
        assert [message.body for message in broker.queue("q").receive(2)] == ["first"]
        assert broker.check() == []


def test_an_earlier_version_that_has_joined_and_closed_the_log_for_a_while_keeps_the_store(path: str, children: Any) -> None:
    def in_child(talk: Any) -> None:
        for module in (mqlite.disk_store, mqlite.system.directory, mqlite.log.format):
            module.FORMAT = 7  # type: ignore[attr-defined]
        store = mqlite.open(path)._store
        store.before_fork()
        talk.say("closed for a while")
        talk.hear()

    child = children.fork(in_child)
    assert child.hear() == "closed for a while"
    with REFUSED:
        mqlite.open(path)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    mqlite.open(path).close()
