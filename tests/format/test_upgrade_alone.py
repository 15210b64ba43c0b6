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


def be_earlier_version() -> None:
    """One that knows the format before this one."""
    for module in (mqlite.disk_store, mqlite.system.directory, mqlite.log.format):
        module.FORMAT = 7  # type: ignore[attr-defined]


def use_earlier_version(talk: Any, path: str, level: str) -> None:
    be_earlier_version()
    use(talk, path, level)


def use(talk: Any, path: str, level: str) -> None:
    """A process that has the store open until it is told to close it."""
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
        be_earlier_version()
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


@pytest.mark.parametrize("lost", ["log.mdb-lock", "store.json"])
def test_neither_is_one_of_which_a_file_was_lost(lost: str, path: str, children: Any) -> None:
    child = children.fork(use_earlier_version, path, "full")
    assert child.hear() == "open"
    os.unlink(os.path.join(path, lost))
    with pytest.raises(mqlite.StoreError, match="no store.json" if lost == "store.json" else "earlier version"):
        mqlite.open(path)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    with mqlite.open(path) as broker:
        assert [message.body for message in broker.queue("q").receive(2)] == ["first"]
    assert format_of(path) == 8


def test_a_store_whose_marker_was_lost_is_left_alone_while_anybody_has_it_open(path: str, children: Any) -> None:
    """Also of this version: who is inside would go by another log.control than who comes."""
    child = children.fork(use, path, "full")
    assert child.hear() == "open"
    os.unlink(os.path.join(path, "store.json"))
    before = os.stat(os.path.join(path, "log.control")).st_ino
    with pytest.raises(mqlite.StoreError, match=r"no store\.json"):
        mqlite.open(path)
    assert os.stat(os.path.join(path, "log.control")).st_ino == before
    assert not os.path.exists(os.path.join(path, "store.json"))
    child.say("close")
    assert child.hear() == "closed"
    with mqlite.open(path) as broker:
        assert [message.body for message in broker.queue("q").receive(2)] == ["first"]
        assert broker.check() == []


def test_a_stranger_s_file_among_the_signs_of_life_is_passed_over(path: str, children: Any) -> None:
    child = children.fork(use_earlier_version, path, "full")
    assert child.hear() == "open"
    child.kill()
    assert child.wait() == -signal.SIGKILL
    [session] = os.listdir(os.path.join(path, "run"))
    for name in (os.path.join(session, "owners", ".DS_Store"), ".DS_Store"):
        with open(os.path.join(path, "run", name), "w", encoding="utf-8"):
            pass
    with mqlite.open(path) as broker:
        assert broker.queue("q").qsize() == 1


@LEVELS
def test_a_child_of_an_earlier_version_that_uses_the_store_behind_the_upgrade_is_refused(level: str, path: str, children: Any) -> None:
    """It was forked, and has not used the store since; so nothing shows that it may."""

    def in_child(talk: Any) -> None:
        be_earlier_version()
        queue = mqlite.Queue[str]("q", path, durability=level)
        for number in range(5):
            queue.put(str(number))
        if grandchild := os.fork():  # which is the one that listens
            queue.close()
            talk.say("closed")
            os.waitpid(grandchild, 0)
            return
        talk.hear()
        try:
            said = [message.body for message in queue.receive(5, timeout=0)]
        except mqlite.MqliteError as error:
            said = type(error).__name__
        talk.say(said)
        os._exit(0)

    child = children.fork(in_child)
    assert child.hear() == "closed"
    with mqlite.Queue[str]("q", path) as queue:
        held = queue.receive(5, timeout=0)
        assert [message.body for message in held] == ["0", "1", "2", "3", "4"]
        child.say("go")
        assert child.hear() == "StoreError"
        queue.ack_many(held)
        assert queue.check() == []
