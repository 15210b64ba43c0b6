"""A flush of messages that pass by at "full" fails, and other processes are in the midst of it, or who saw it fail is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fixture_types import InThread
from front_things import drained, front_of
from unit.test_front_flush import GUARD, Disk, disk, warm, words_of
from unit.test_front_flush_fails import FAILS, is_given_up, queue, struck

import mqlite
from mqlite.log import front_flush
from mqlite.log.front_file import EPOCH, FAILED, FLUSHED, FLUSHED_GONE, HEAD, LOST, OPEN, RUN, START
from mqlite.log.front_flush import Flushes

__all__ = ["disk", "queue"]
LEVEL = "full"


def act_held(talk: Any, path: str, disk: Disk, what: str) -> None:
    """Another process, whose flush lasts until it is told that it succeeds."""
    disk.release()
    queue = warm(mqlite.Queue[Any]("q", path))
    talk.say("ready")
    talk.hear()
    queue.put("theirs")
    [message] = queue.receive(timeout=0)
    queue.put("left")
    assert words_of(queue)[HEAD] == words_of(queue)[FLUSHED] > START
    said: Any = None
    flush = disk.fdatasync

    def told(fd: int) -> None:
        talk.say("flushes")
        talk.hear()
        flush(fd)

    os.fdatasync = told
    try:
        (message.ack if what == "ack" else lambda: queue.put("lost, too"))()
    except mqlite.StoreError as error:
        said = str(error)
    stats = queue.stats()
    talk.say([said, stats.ready, stats.claimed])
    if what == "ack":
        message.ack()
        talk.say("acked")
    talk.hear(GUARD)


@pytest.mark.parametrize("what", ["put", "ack"])
def test_who_is_on_his_way_in_another_process_is_told_as_well_though_his_flush_succeeds(
    what: str, path: str, queue: mqlite.Queue[Any], disk: Disk, children: Any
) -> None:
    other = children.fork(act_held, path, disk, what)
    assert other.hear() == "ready"
    warm(queue)
    other.say("go")
    assert other.hear() == "flushes"
    struck(disk)
    with FAILS:
        queue.put("lost")
    other.say("go on")
    said, ready, claimed = other.hear()
    assert "flush" in said
    assert (ready, claimed) == (1, 1)
    if what == "ack":
        assert other.hear() == "acked"
    other.kill()
    right = ["left"] if what == "ack" else ["left", "theirs"]
    assert sorted(queue.receive(timeout=GUARD)[0].body for _ in right) == right
    with pytest.raises(mqlite.Empty):
        queue.receive(timeout=0)


@pytest.mark.parametrize("then", ["put", "ack", "receive", "count", "wait"])
def test_a_death_between_the_failure_and_what_follows_from_it_is_followed_by_the_next(
    then: str, path: str, queue: mqlite.Queue[Any], disk: Disk, children: Any
) -> None:
    def in_child(talk: Any) -> None:
        warm(queue)
        queue.put("flushed")
        talk.say("ready")
        talk.hear()
        Flushes.give_up = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        struck(disk)
        queue.put("not known")

    child = children.fork(in_child)
    assert child.hear() == "ready"
    warm_without_taking(queue)
    [message] = queue.receive(timeout=0)
    assert message.body == "flushed"
    child.say("go")
    assert child.wait(GUARD) == -signal.SIGKILL
    words = words_of(queue)
    assert (words[FAILED], words[LOST]) == (1, 0)
    if then == "put":
        try:
            queue.put("ours")
        except mqlite.StoreError:
            queue.put("ours")
    elif then == "ack":
        try:
            message.ack()
        except mqlite.StoreError:
            message.ack()
    elif then == "count":
        queue.stats()
    elif then == "wait":
        assert queue.receive(timeout=0)[0].body == "more"
    left = drained(queue)
    if then != "ack":
        message.ack()
    assert "not known" not in left or left.index("not known") == left.index("more") + 1
    assert [body for body in left if body != "not known"] == ["more"] * (then != "wait") + ["ours"] * (then == "put")
    queue.put("later")
    assert words[OPEN] == 0
    assert drained(queue) == ["later"]


def warm_without_taking(queue: mqlite.Queue[Any]) -> None:
    """After a fork: its next plain messages pass by."""
    queue.put("more")
    [message] = queue.receive(timeout=0)
    message.release()
    words = words_of(queue)
    words[RUN] = 99
    other: mqlite.Queue[Any] = mqlite.Queue("other", queue._channel.store.path)
    warm(other)
    other.close()


def test_who_opens_the_store_when_the_kernel_has_told_of_a_failure_waits_for_no_flush_behind_it(
    path: str, disk: Disk, in_thread: InThread, children: Any
) -> None:
    """His descriptors are told of later ones only. So what is there then goes to the tree before he puts anything behind it."""

    def in_child(talk: Any) -> None:
        talk.hear()
        theirs = mqlite.Queue[Any]("q", path)
        theirs.put("theirs")
        talk.say("put")
        talk.hear()

    child = children.fork(in_child)
    queue = warm(mqlite.Queue[Any]("q", path))
    epoch = words_of(queue)[EPOCH]
    disk.hold()
    put = in_thread(queue.put, "ours")  # its flush has failed, and it is about to say so
    assert disk.begun.wait(GUARD)
    child.say("put")
    assert child.hear() == "put"
    assert words_of(queue)[EPOCH] != epoch
    disk.release(fails=True)
    assert put.result(GUARD) > 0
    child.kill()
    assert drained(queue) == ["ours", "theirs"]
    queue.close()


def test_where_a_forked_child_gets_no_descriptors_of_its_own_its_messages_do_not_pass_by(
    queue: mqlite.Queue[Any], disk: Disk, children: Any
) -> None:
    """An error is told once by each, so it might be told to the parent only."""

    def refused(path: str) -> Any:
        raise mqlite.StoreError("made up: no descriptors left")

    def in_child(talk: Any) -> None:
        talk.hear()
        before = disk.calls
        for _ in range(3):
            queue.put("theirs")
        talk.say(disk.calls - before)
        meanwhile.undo()
        for _ in range(3):
            queue.put("theirs")
        talk.say(disk.calls - before > 0)

    meanwhile = pytest.MonkeyPatch()
    meanwhile.setattr(front_flush, "_File", refused)
    child = children.fork(in_child)
    meanwhile.undo()
    warm(queue)
    child.say("go")
    assert child.hear() == 0
    assert child.hear()
    assert drained(queue) == ["theirs"] * 6


class Dying:
    """Words of one who is killed just before he stores that one."""

    def __init__(self, words: Any, place: int) -> None:
        self.words, self.place = words, place

    def __getitem__(self, number: int) -> Any:
        return self.words[number]

    def __setitem__(self, number: int, value: int) -> None:
        if number == self.place:
            os.kill(os.getpid(), signal.SIGKILL)
        self.words[number] = value


@pytest.mark.parametrize("between", ["LOST_HEAD", "HEAD", "LOST"])
def test_a_death_amid_giving_up_loses_no_put_that_returns(
    between: str, path: str, queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, children: Any
) -> None:
    """Before that word is stored. Another thread is on its way meanwhile, and somebody else folds the front first."""
    place = getattr(front_flush, between)

    def in_child(talk: Any) -> None:
        warm(queue)
        talk.say("ready")
        talk.hear()
        disk.release(fails=True)
        flushes: Any = queue._engine.log.front.flushes
        flushes._words = Dying(flushes._words, place)
        queue.put("theirs")

    child = children.fork(in_child)
    assert child.hear() == "ready"
    warm(queue)
    disk.hold()
    put = in_thread(queue.put, "ours")
    assert disk.begun.wait(GUARD)
    child.say("go")
    assert child.wait(GUARD) == -signal.SIGKILL
    count = queue.qsize()
    disk.release()
    try:
        assert put.result(GUARD) > 0
        returned = True
    except mqlite.StoreError:
        returned = False
    left = drained(queue)
    assert len(left) == count
    assert ("ours" in left) == returned


@pytest.mark.parametrize("before", [FLUSHED, FLUSHED_GONE, HEAD], ids=["flushed", "flushed_gone", "head"])
@pytest.mark.parametrize("what", ["put", "get", "ack", "ack of one that a row holds", "ack_many"])
def test_what_a_fold_has_committed_is_done_though_it_was_cut_short_and_the_flush_fails(
    what: str, before: int, path: str, queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread, children: Any
) -> None:
    def in_child(talk: Any) -> None:
        disk.release()
        front: Any = front_of(queue)
        talk.say("ready")
        talk.hear()
        front.words = Dying(front.words, before)
        queue.qsize()

    child = children.fork(in_child)
    assert child.hear() == "ready"
    by_rows = what in ("ack of one that a row holds", "ack_many")
    if by_rows:
        queue.put_many([b"first", b"second"])
        held = queue.receive(2, timeout=0)
        warm(mqlite.Queue[Any]("other", path))
    else:
        warm(queue)
        queue.put(b"first")
        held = queue.receive(timeout=0) if what == "ack" else []
    disk.hold()
    acts: dict[str, Callable[[], Any]] = {
        "put": partial(queue.put, b"second"),
        "get": partial(queue.get, timeout=0),
        "ack_many": partial(queue.ack_many, held),
    }
    done = in_thread(acts.get(what) or held[0].ack)
    assert disk.begun.wait(GUARD)
    child.say("go")
    assert child.wait(GUARD) == -signal.SIGKILL
    disk.release(fails=True)
    assert what != "get" or done.result(GUARD) == b"first"
    done.result(GUARD)
    if what == "ack of one that a row holds":
        held[1].ack()
    assert drained(queue) == ([b"first", b"second"] if what == "put" else [])
    assert queue.stats().claimed == 0


def test_a_store_that_is_opened_after_a_failure_that_nobody_survived_has_what_was_flushed(path: str, disk: Disk, children: Any) -> None:
    def in_child(talk: Any) -> None:
        queue = warm(mqlite.Queue[Any]("q", path))
        queue.put("flushed")
        talk.say("flushed")
        Flushes.give_up = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        struck(disk)
        queue.put("not known")

    child = children.fork(in_child)
    assert child.hear() == "flushed"
    assert child.wait(GUARD) == -signal.SIGKILL
    disk.fails = False
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put("later")
        assert is_given_up(queue)
        assert queue.check() == []
        assert drained(queue) == ["flushed", "later"]
