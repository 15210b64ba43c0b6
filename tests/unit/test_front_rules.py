"""The front beside what goes on at the same moment: who waits, who claims by the general way, interrupts, and kills."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from front_things import drained
from interrupting import interrupted_at

import mqlite
from mqlite import disk_store
from mqlite.disk_store import _WITHOUT
from mqlite.errors import StoreFull
from mqlite.log import front as fronts
from mqlite.log import lmdb as logs
from mqlite.system.control import FRONT

GUARD = 20.0


@pytest.fixture(autouse=True, params=["process", "full"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Messages pass by at these two."""
    monkeypatch.setattr(disk_store, "DEFAULT_DURABILITY", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "FEWEST", 1)


def opened(queue: mqlite.Queue[Any]) -> fronts.Front:
    """The front of its store, empty, which the next plain operation opens."""
    front = queue._engine.log.front
    queue.qsize()
    front.words[fronts.RUN], front.words[fronts.NEEDED] = 99, 1
    return front


def test_messages_are_brought_under_the_lock_of_the_claims(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many([b"1", b"2"])
    opened(queue)
    bring, held = fronts.Front.bring, []

    def looked_at(self: Any, *what: Any) -> bool:
        held.append(queue._engine.claims.lock.locked())
        return bring(self, *what)

    monkeypatch.setattr(fronts.Front, "bring", looked_at)
    assert drained(queue) == [b"1", b"2"]
    assert held
    assert all(held)
    queue.close()


@pytest.mark.parametrize("what", ["put", "get"])
def test_an_interrupt_anywhere_leaves_each_message_where_it_is_or_gone(path: str, what: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    other: mqlite.Queue[Any] = mqlite.Queue("other", path)
    point, struck = 0, ["no"]
    while struck:
        point += 1
        opened(queue)
        queue.put(b"0")
        [message] = queue.receive(timeout=0)
        message.ack()  # what is first in line is kept from now on
        if what == "get":
            queue.put(b"1")
        got = []
        with interrupted_at(point) as struck:
            if what == "get":
                got.append(queue.get(timeout=0))
            else:
                queue.put(b"1")
        other.put(b"another")
        queue.put(b"2")
        assert got + drained(queue) in ([b"1", b"2"], [b"2"])
        assert drained(other) == [b"another"]
        assert queue.stats().claimed == 0
        while queue.unfinished_tasks:
            queue.task_done()
    assert point > 10
    queue.close()
    other.close()


def test_a_fold_that_was_interrupted_lets_go_of_the_tree(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    opened(queue)
    queue.put(b"1")

    def interrupt(self: Any, *what: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logs.FoldTxn, "take_in", interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:  # and with it, all that it went through
            queue.qsize()
    sizes: list[int] = []
    looker = threading.Thread(target=lambda: sizes.append(queue.qsize()), daemon=True)
    looker.start()
    looker.join(GUARD)
    assert sizes == [1]
    del kept
    queue.close()


def test_what_passes_by_counts_as_a_change_for_who_sleeps(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    opened(queue)
    commits = queue._engine.presence.bell._commits
    seen = [commits()]
    queue.put(b"1")
    seen.append(commits())
    [message] = queue.receive(timeout=0)
    before = commits()
    message.ack()
    assert seen[0] != seen[1]
    assert before != commits()
    queue.close()


def test_a_front_whose_maker_was_killed_is_made_anew(path: str) -> None:
    mqlite.Queue("q", path).close()
    Path(path, "log.front").write_bytes(b"")
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put(b"1")
    assert drained(queue) == [b"1"]
    queue.close()


def test_where_one_process_has_no_front_none_has_in_this_boot(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise StoreFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(logs.LmdbLog, "open_front", no_room)
        mqlite.Queue("q", path).close()
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    store = queue._channel.store
    assert isinstance(store, disk_store.DiskStore)
    assert store.log.front is None
    assert store._control.words[FRONT] == _WITHOUT
    queue.close()


def test_where_others_have_a_front_nobody_goes_without(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise StoreFull("no room")

    mqlite.Queue("q", path).close()
    monkeypatch.setattr(logs.LmdbLog, "open_front", no_room)
    with pytest.raises(StoreFull):
        mqlite.Queue("q", path)
