"""A flush of messages that pass by at "full" fails: who waits for it is told so, and what it says is true; all goes on without."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from front_things import drained, front_of
from unit.test_front_flush import GUARD, Disk, disk, warm, words_of

import mqlite
import mqlite.log.front
import mqlite.system.directory
from mqlite.log.front import Front
from mqlite.log.front_file import FAILED, FLUSHED, HEAD, LOST, NEEDED, OPEN, PREPARED, RUN, START
from mqlite.log.front_flush import Flushes

__all__ = ["disk"]
LEVEL = "full"
FAILS = pytest.raises(mqlite.StoreError, match="flush")
BODIES = pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])


@pytest.fixture
def queue(disk: Disk, path: str) -> Any:
    made: mqlite.Queue[Any] = mqlite.Queue("q", path)
    yield warm(made)
    disk.release()
    with contextlib.suppress(mqlite.Closed):
        assert made.check() == []
    made.close()


def struck(disk: Disk) -> None:
    disk.fails = True


def is_given_up(queue: mqlite.Queue[Any]) -> bool:
    words = words_of(queue)
    return bool(words[FAILED] and words[LOST] and not words[OPEN])


def reopened(path: str) -> list[Any]:
    """What is there for another process."""
    with mqlite.Queue[Any]("q", path) as again:
        assert again.check() == []
        return [message.body for message in again.browse()]


# ---------------------------------------------------------------------- what is told is true
def test_a_put_whose_flush_fails_raises_and_is_not_there(path: str, queue: mqlite.Queue[Any], disk: Disk) -> None:
    queue.put("flushed")
    queue.put("flushed, too")
    struck(disk)
    with FAILS:
        queue.put("lost")
    assert is_given_up(queue)
    assert [message.body for message in queue.browse()] == ["flushed", "flushed, too"]
    assert queue.stats().ready == queue.unfinished_tasks == 2
    queue.close()
    assert reopened(path) == ["flushed", "flushed, too"]


def test_a_put_that_failed_can_be_done_again(queue: mqlite.Queue[Any], disk: Disk) -> None:
    struck(disk)
    with FAILS:
        queue.put("x")
    first = queue.put("x")
    assert drained(queue) == ["x"]
    assert queue.put("y") > first


@BODIES
def test_an_ack_whose_flush_fails_raises_and_can_be_done_again(kind: Any, path: str, queue: mqlite.Queue[Any], disk: Disk) -> None:
    queue.put(kind("acked"))
    queue.put(kind("next"))
    [message] = queue.receive(timeout=0)
    struck(disk)
    with FAILS:
        message.ack()
    assert is_given_up(queue)
    stats = queue.stats()
    assert (stats.ready, stats.claimed) == (1, 1)
    assert queue.check() == []
    message.ack()
    assert queue.unfinished_tasks == 1
    assert drained(queue) == [kind("next")]
    with pytest.raises(mqlite.NotClaimed):
        message.ack()


@pytest.mark.parametrize("way", ["nack", "release"])
def test_a_message_whose_ack_failed_can_be_given_back(way: str, queue: mqlite.Queue[Any], disk: Disk) -> None:
    queue.put("x")
    [message] = queue.receive(timeout=0)
    struck(disk)
    with FAILS:
        message.ack()
    getattr(message, way)()
    [again] = queue.receive(timeout=0)
    assert (again.body, again.delivery_count) == ("x", int(way == "nack"))
    again.ack()


def test_a_message_that_was_brought_from_the_tree_is_held_still(queue: mqlite.Queue[Any], disk: Disk) -> None:
    queue.put_many([b"0", b"1", b"2", b"3"])
    queue.put(b"4")
    queue.get(timeout=0)
    [message] = queue.receive(timeout=0)
    assert words_of(queue)[OPEN]
    struck(disk)
    with FAILS:
        message.ack()
    stats = queue.stats()
    assert (stats.ready, stats.claimed) == (3, 1)
    message.ack()
    assert drained(queue) == [b"2", b"3", b"4"]


def test_a_message_whose_ack_failed_comes_back_when_the_process_ends(path: str, disk: Disk, children: Any) -> None:
    def in_child(talk: Any) -> None:
        queue = warm(mqlite.Queue[Any]("q", path))
        queue.put("held")
        queue.put("next")
        [message] = queue.receive(timeout=0)
        struck(disk)
        with FAILS:
            message.ack()
        talk.say("failed")
        talk.hear(GUARD)

    child = children.fork(in_child)
    assert child.hear() == "failed"
    with mqlite.Queue[Any]("q", path) as queue:
        assert queue.receive(timeout=0)[0].body == "next"
        with pytest.raises(mqlite.Empty):
            queue.receive(timeout=0)
        child.kill()
        [message] = queue.receive(timeout=GUARD)
        assert (message.body, message.delivery_count) == ("held", 1)
        assert queue.check() == []


@BODIES
def test_a_message_whose_get_failed_comes_back_when_the_process_ends(kind: Any, path: str, disk: Disk, children: Any) -> None:
    def in_child(talk: Any) -> None:
        queue = warm(mqlite.Queue[Any]("q", path))
        for body in ("got", "taken", "next"):
            queue.put(kind(body))
        queue.get(timeout=0)
        struck(disk)
        with FAILS:
            queue.get(timeout=0)
        talk.say([queue.stats().ready, queue.stats().claimed])
        talk.hear(GUARD)

    child = children.fork(in_child)
    ready, claimed = child.hear()
    assert ready + claimed == 2
    with mqlite.Queue[Any]("q", path) as queue:
        child.kill()
        messages = [queue.receive(timeout=GUARD)[0] for _ in range(2)]
        assert [(message.body, message.delivery_count) for message in messages] == [(kind("taken"), 0), (kind("next"), 0)]
        with pytest.raises(mqlite.Empty):
            queue.receive(timeout=0)
        for message in messages:
            message.ack()
        assert queue.unfinished_tasks == 0  # that of the first get was the child's
        assert queue.check() == []


def test_what_was_on_its_way_when_it_failed_and_what_was_flushed_before(
    path: str, disk: Disk, in_thread: InThread, eventually: Eventually, children: Any
) -> None:
    """Puts, acks and gets of several threads: all raise, none is done."""

    def in_child(talk: Any) -> None:
        queue = warm(mqlite.Queue[Any]("q", path))
        for number in range(6):
            queue.put(b"old %d" % number)
        held = [queue.receive(timeout=0)[0] for _ in range(2)]
        passed = queue._engine.log.passed()
        disk.hold()
        futures = [in_thread(queue.put, b"lost 0")]
        assert disk.begun.wait(GUARD)
        futures += [in_thread(queue.put, b"lost %d" % number) for number in (1, 2)]
        futures += [in_thread(message.ack) for message in held]
        futures += [in_thread(queue.get, timeout=0) for _ in range(2)]
        eventually(lambda: queue._engine.log.passed() == passed + 7)
        disk.release(fails=True)
        for future in futures:
            with FAILS:
                future.result(GUARD)
        assert is_given_up(queue)
        assert [message.body for message in queue.browse()] == [b"old 4", b"old 5"]
        stats = queue.stats()
        assert (stats.ready, stats.claimed) == (2, 4)
        held[1].ack()
        assert queue.check() == []
        talk.say("done")
        talk.hear(GUARD)

    child = children.fork(in_child)
    assert child.hear() == "done"
    child.kill()
    with mqlite.Queue[Any]("q", path) as queue:
        found = [queue.receive(timeout=GUARD)[0] for _ in range(5)]
        assert [(message.body, message.delivery_count) for message in found] == [
            (b"old 0", 1), (b"old 2", 0), (b"old 3", 0), (b"old 4", 0), (b"old 5", 0)
        ]  # fmt: skip
        with pytest.raises(mqlite.Empty):
            queue.receive(timeout=0)
        assert queue.check() == []


# ---------------------------------------------------------------------- a fold in between
@pytest.mark.parametrize("holds", [False, True], ids=["alone", "beside another claim"])
@pytest.mark.parametrize("what", ["ack", "get"])
def test_a_settlement_that_a_fold_brings_to_the_tree_after_the_failure_is_one(
    what: str, holds: bool, path: str, queue: mqlite.Queue[Any], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    if holds:
        queue.put(b"held", priority=1)
        [message] = queue.receive(timeout=0)
    queue.put(b"settled")
    queue.put(b"next")
    held = queue.receive(timeout=0) if what == "ack" else []
    wait = Flushes.wait_for_settled

    def folded_then(self: Flushes, gone: int, epoch: int) -> bool:
        found = wait(self, gone, epoch)
        assert not found
        assert queue.stats().ready == 1
        return found

    monkeypatch.setattr(Flushes, "wait_for_settled", folded_then)
    struck(disk)
    if what == "ack":
        held[0].ack()
    else:
        assert queue.get(timeout=0) == b"settled"
    assert queue.stats().claimed == holds
    if holds:
        message.ack()
    queue.close()
    assert reopened(path) == [b"next"]


@pytest.mark.parametrize("brought", [False, True])
@pytest.mark.parametrize("what", ["ack", "get"])
def test_a_settlement_that_a_fold_has_taken_for_one_before_it_was_cut_short_is_none(
    what: str, brought: bool, path: str, queue: mqlite.Queue[Any], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold has made rows of the claims by then, and none of that one; and the disk takes no commit of the tree either."""
    bodies = [b"held", b"settled", b"next"]
    if brought:
        queue.put_many(bodies)
        with mqlite.Queue[Any]("other", path) as other:
            warm(other)
    else:
        for body in bodies:
            queue.put(body)
    held = queue.receive(timeout=0)[0]
    settled = queue.receive(timeout=0)[0] if what == "ack" else None
    wait, front = Flushes.wait_for_settled, front_of(queue)

    def fails(*arguments: Any) -> None:
        raise mqlite.StoreError("made up")

    def cut_short_then(self: Flushes, gone: int, epoch: int) -> bool:
        found = wait(self, gone, epoch)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(front, "_store", fails)
            with pytest.raises(mqlite.StoreError, match="made up"):
                queue.qsize()
        return found

    monkeypatch.setattr(Flushes, "wait_for_settled", cut_short_then)
    struck(disk)
    with FAILS:
        queue.get(timeout=0) if settled is None else settled.ack()
    stats = queue.stats()
    assert (stats.ready, stats.claimed, queue.unfinished_tasks) == (1, 2, 3)
    held.ack()
    if settled is not None:
        settled.ack()
    assert drained(queue) == [b"next"]
    assert queue.check() == []
    queue.close()
    assert reopened(path) == ([] if settled is not None else [b"settled"])


@pytest.mark.parametrize("what", ["ack", "get"])
def test_a_settlement_that_who_closes_the_store_brings_to_the_tree_after_the_failure_is_one(
    what: str, path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = warm(mqlite.Queue[Any]("q", path))
    queue.put(b"settled")
    message = queue.receive(timeout=0)[0] if what == "ack" else None
    wait = Flushes.wait_for_settled

    def closed_then(self: Flushes, gone: int, epoch: int) -> bool:
        found = wait(self, gone, epoch)
        assert not found
        queue.close()
        return found

    monkeypatch.setattr(Flushes, "wait_for_settled", closed_then)
    struck(disk)
    if message is not None:
        message.ack()
    else:
        assert queue.get(timeout=0) == b"settled"
    assert reopened(path) == []


def test_where_a_flush_has_failed_when_a_fold_that_was_cut_short_is_done_again_nobody_passes_by(
    queue: mqlite.Queue[Any], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks whether one has failed before that fold does not know yet: what he puts would wait for no flush."""
    queue.put("flushed")
    front, words = front_of(queue), words_of(queue)
    with front.lock, front.guard:
        front.take_gate()
        front.shut()  # as after an interrupt
    fold, folds = Front.fold, []

    def after_a_failure(self: Front) -> None:
        folds.append(words[HEAD])
        words[FAILED] = 1  # by another process, just now
        fold(self)

    monkeypatch.setattr(Front, "fold", after_a_failure)
    words[RUN] = words[NEEDED]
    queue.put("next")
    assert folds[0] > START
    assert (words[OPEN], words[HEAD]) == (0, START)
    with queue._engine.log.read() as snapshot:
        assert snapshot.counters(queue._state.id).total == 2
    assert drained(queue) == ["flushed", "next"]


def test_a_put_that_a_fold_brings_to_the_tree_while_its_flush_lasts_has_put_though_that_fails(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread
) -> None:
    disk.hold()
    put = in_thread(queue.put, "folded")
    assert disk.begun.wait(GUARD)
    assert queue.qsize() == 1
    disk.release(fails=True)
    assert put.result(GUARD) > 0
    assert drained(queue) == ["folded"]
    assert words_of(queue)[FAILED]


# ---------------------------------------------------------------------- all goes on without
def test_after_a_failure_nobody_passes_by_in_this_boot(
    path: str, queue: mqlite.Queue[Any], disk: Disk, children: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck(disk)
    with FAILS:
        queue.put("lost")
    disk.fails = False
    count = disk.calls
    words = words_of(queue)
    for number in range(20):
        queue.put(number)
        assert words[OPEN] == 0
        [message] = queue.receive(timeout=0)
        message.ack()
    assert disk.calls == count
    assert words[HEAD] == START
    queue.put("kept")
    queue.close()
    with mqlite.Queue[Any]("q", path) as same_boot:
        for number in range(3):
            same_boot.put(number)
        assert words_of(same_boot)[OPEN] == 0
        assert drained(same_boot) == ["kept", 0, 1, 2]
    monkeypatch.setattr(mqlite.system.directory, "boot_id", lambda: "another boot")
    with mqlite.Queue[Any]("q", path) as next_boot:
        warm(next_boot)


def test_who_sits_on_the_bench_when_a_flush_fails_gets_what_comes_by_the_tree(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, eventually: Eventually
) -> None:
    waits = in_thread(queue.receive, timeout=GUARD)
    bench = queue._engine.claims.bench
    eventually(lambda: bench.of(queue._state.id))
    struck(disk)
    with FAILS:
        queue.put("lost")
    queue.put("stored")
    [message] = waits.result(GUARD)
    assert message.body == "stored"
    message.ack()


def test_where_the_flush_before_messages_are_brought_fails_they_are_taken_from_the_tree(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put_many(["old 0", "old 1", "old 2"])
    queue.put("opens it")
    queue.put("flushed")
    disk.hold()
    put = in_thread(queue.put, "lost")
    assert disk.begun.wait(GUARD)
    assert words_of(queue)[FLUSHED] < words_of(queue)[HEAD]
    flush_now = Flushes.flush_now

    def fails(self: Flushes) -> bool:
        disk.release(fails=True)
        return flush_now(self)

    monkeypatch.setattr(Flushes, "flush_now", fails)
    assert queue.receive(timeout=0)[0].body == "old 0"
    with FAILS:
        put.result(GUARD)
    assert is_given_up(queue)
    assert drained(queue) == ["old 1", "old 2", "opens it", "flushed"]


def test_where_the_file_cannot_be_prepared_nobody_passes_by_until_it_can(path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("log.front"):
            raise OSError(errno.EIO, "made up")
        fsync(fd)

    with mqlite.Queue[Any]("q", path) as queue:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(os, "fsync", refuse)
            for number in range(5):
                queue.put(number)
            [message] = queue.receive(timeout=0)
            message.ack()
            assert [queue.get(timeout=0) for _ in range(3)] == [1, 2, 3]
            words = words_of(queue)
            assert not words[OPEN]
            assert not words[PREPARED]
            assert not words[FAILED]
            assert disk.calls == 0
            assert queue.check() == []
        queue.put(5)
        queue.put(6)
        assert words[OPEN]
        assert words[PREPARED]
        assert drained(queue) == [4, 5, 6]


def test_a_fold_that_finds_no_room_after_a_failure_loses_nothing(queue: mqlite.Queue[Any], disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.put("flushed")
    queue.put("acked")
    [message] = queue.receive(timeout=0)
    struck(disk)
    with FAILS:
        message.ack()
    def full(*arguments: Any) -> None:
        raise mqlite.StoreFull("made up")

    front: Any = queue._engine.log.front
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(front, "_store", full)
        with pytest.raises(mqlite.StoreFull):
            queue.put("refused")
    message.ack()
    assert drained(queue) == ["acked"]
