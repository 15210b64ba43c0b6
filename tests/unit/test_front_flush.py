"""Plain messages that pass by at "full": what is not flushed is not to be had, and one flush answers all who came before it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from front_things import drained, front_of

import mqlite
import mqlite.log.front
from mqlite.log import front_flush
from mqlite.log.front_file import ALL, EPOCH, FLUSHED, FLUSHED_GONE, GONE, HEAD, OPEN, PREPARED, SEQ, START

LEVEL = "full"
GUARD = 20.0
_flush = os.fdatasync


class Disk:
    """What flushes of the front come to, in this process and in those that it forks."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False
        self.begun = threading.Event()
        self._may_end = threading.Event()
        self._may_end.set()

    def hold(self) -> None:
        """Flushes last until `release`."""
        self.begun.clear()
        self._may_end.clear()

    def release(self, fails: bool = False) -> None:
        self.fails = fails
        self._may_end.set()

    def fdatasync(self, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("log.front"):
            return _flush(fd)
        self.calls += 1
        self.begun.set()
        assert self._may_end.wait(GUARD)
        if self.fails:
            raise OSError(errno.EIO, "made up")
        return _flush(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    made = Disk()
    monkeypatch.setattr(os, "fdatasync", made.fdatasync)
    return made


def words_of(queue: mqlite.Queue[Any]) -> Any:
    return front_of(queue).words


def warm(queue: mqlite.Queue[Any]) -> mqlite.Queue[Any]:
    """Its next plain messages pass by, whatever is done with them."""
    for _ in range(3):
        queue.put("warm")
        queue.receive(timeout=0)[0].ack()
    words = words_of(queue)
    assert words[OPEN]
    assert words[HEAD] > START
    return queue


@pytest.fixture
def queue(disk: Disk, path: str) -> Any:
    made: mqlite.Queue[Any] = mqlite.Queue("q", path)
    yield warm(made)
    disk.release()
    assert made.check() == []
    made.close()


@pytest.fixture
def put_held(queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread) -> Callable[[Any], Future[int]]:
    """put_held(body): a future of a put whose flush has begun, and lasts."""

    def put(body: Any) -> Future[int]:
        disk.hold()
        future = in_thread(queue.put, body)
        assert disk.begun.wait(GUARD)
        return future

    return put


def put_behind(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, *bodies: Any) -> list[Future[int]]:
    """Puts that come when a flush has begun, and are in the front."""
    before = words_of(queue)[SEQ]
    futures = [in_thread(queue.put, body) for body in bodies]
    eventually(lambda: words_of(queue)[SEQ] == before + len(bodies))
    return futures


def passing_by(talk: Any, path: str, disk: Disk) -> None:
    """Another process, whose flushes last no longer than they do: it puts and takes what it is told to."""
    disk.release()
    queue = warm(mqlite.Queue[Any]("q", path))
    talk.say("ready")
    while True:
        what, body = talk.hear(GUARD)
        if what == "put":
            talk.say(queue.put(body) > 0)
        elif what == "receive":
            talk.say([message.body for message in queue.receive(timeout=body)])
        elif what == "try to receive":
            try:
                talk.say(queue.receive(timeout=0)[0].body)
            except mqlite.Empty:
                talk.say(None)


@pytest.fixture
def other(path: str, queue: mqlite.Queue[Any], disk: Disk, children: Any) -> Any:
    """Such a process; in this one messages pass by still, though the fork has closed the store for a while."""
    child = children.fork(passing_by, path, disk)
    assert child.hear() == "ready"
    warm(queue)
    yield child
    child.kill()


# ---------------------------------------------------------------------- not to be had
def test_what_is_not_flushed_is_not_to_be_had_in_this_process(queue: mqlite.Queue[Any], disk: Disk, put_held: Any) -> None:
    put = put_held("new")
    with pytest.raises(mqlite.Empty):
        queue.receive(timeout=0)
    assert not put.done()
    assert words_of(queue)[FLUSHED] < words_of(queue)[HEAD]
    disk.release()
    assert put.result(GUARD) > 0
    assert drained(queue) == ["new"]


def test_what_is_not_flushed_is_not_to_be_had_in_another_process(
    queue: mqlite.Queue[Any], other: Any, disk: Disk, put_held: Any
) -> None:
    put = put_held("new")
    other.say(["try to receive", 0])
    assert other.hear() is None
    assert not put.done()
    disk.release()
    assert put.result(GUARD) > 0
    other.say(["try to receive", 0])
    assert other.hear() == "new"
    other.kill()
    assert drained(queue) == ["new"]


def test_who_waits_gets_a_message_when_it_is_flushed(
    queue: mqlite.Queue[Any], other: Any, disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually
) -> None:
    """One in this process, one in another, and neither looks by himself."""
    bench = queue._engine.claims.bench
    other.say(["receive", GUARD])
    here = in_thread(queue.receive, timeout=GUARD)
    eventually(lambda: len(bench.of(queue._state.id)) == 2)
    put = put_held("first")
    [behind] = put_behind(queue, in_thread, eventually, "second")
    assert not here.done()
    assert not other.has_word()
    disk.release()
    got = [other.hear(GUARD)[0], here.result(GUARD)[0].body]
    assert sorted(got) == ["first", "second"]
    assert put.result(GUARD) < behind.result(GUARD)
    here.result()[0].ack()


def test_a_settled_message_is_gone_for_others_while_its_settlement_is_flushed(
    queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread
) -> None:
    queue.put("settled")
    queue.put("next")
    [message] = queue.receive(timeout=0)
    disk.hold()
    ack = in_thread(message.ack)
    assert disk.begun.wait(GUARD)
    assert queue.receive(timeout=0)[0].body == "next"
    assert not ack.done()
    disk.release()
    ack.result(GUARD)


def test_messages_of_the_tree_are_brought_behind_what_is_flushed(queue: mqlite.Queue[Any], disk: Disk, in_thread: InThread) -> None:
    """They can be had at once, though a put before them waits still."""
    queue.put_many(["old 0", "old 1", "old 2"])
    queue.get(timeout=0)
    queue.put("opens it")
    disk.hold()
    put = in_thread(queue.put, "new")
    assert disk.begun.wait(GUARD)
    others = [in_thread(queue.get, timeout=0)]  # its own flush, under L, lasts as long
    disk.release()
    assert others[0].result(GUARD) == "old 1"
    assert put.result(GUARD) > 0
    assert drained(queue) == ["old 2", "opens it", "new"]


# ---------------------------------------------------------------------- who is answered
def test_one_flush_answers_all_who_came_before_it(
    queue: mqlite.Queue[Any], disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually
) -> None:
    count = disk.calls
    first = put_held("first")
    others = put_behind(queue, in_thread, eventually, *range(9))
    disk.release()
    assert len({put.result(GUARD) for put in (first, *others)}) == 10
    assert disk.calls == count + 2, "one flush that had begun before, and one for all others"
    assert sorted(map(str, drained(queue))) == sorted(["first", *map(str, range(9))])


def test_one_flush_answers_puts_and_settlements(
    queue: mqlite.Queue[Any], disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually
) -> None:
    for body in (b"0", b"1", b"2"):
        queue.put(body)
    held = queue.receive(timeout=0)
    gone, count = words_of(queue)[GONE], disk.calls
    first = put_held(b"first")
    puts = put_behind(queue, in_thread, eventually, b"second", b"third")
    ack, get = in_thread(held[0].ack), in_thread(queue.get, timeout=0)
    eventually(lambda: words_of(queue)[GONE] == gone + 2)
    assert not any(future.done() for future in (first, *puts, ack, get))
    assert words_of(queue)[FLUSHED_GONE] == gone
    disk.release()
    assert all(put.result(GUARD) for put in (first, *puts))
    ack.result(GUARD)
    assert get.result(GUARD) == b"1"
    assert disk.calls == count + 2
    assert sorted(drained(queue)) == [b"2", b"first", b"second", b"third"]


def test_a_flush_of_another_process_answers(
    queue: mqlite.Queue[Any], other: Any, disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually
) -> None:
    leads = put_held("leads")
    [follows] = put_behind(queue, in_thread, eventually, "follows")
    other.say(["put", "theirs"])
    assert other.hear(GUARD) is True
    assert follows.result(GUARD) > 0
    assert not leads.done()
    other.say(["try to receive", 0])
    assert other.hear() == "leads"
    disk.release()
    assert leads.result(GUARD) > 0
    assert drained(queue) == ["follows", "theirs"]


def test_a_fold_answers_who_waits_and_a_late_flush_is_none_of_the_next_epoch(
    queue: mqlite.Queue[Any], other: Any, disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually
) -> None:
    words = words_of(queue)
    for number in range(20):
        queue.put(number)  # so that the head is far away
    leads = put_held("leads")
    [follows] = put_behind(queue, in_thread, eventually, "follows")
    epoch, head = words[EPOCH], words[HEAD]
    assert queue.qsize() == 22
    assert words[FLUSHED] == ALL
    assert follows.result(GUARD) > 0
    other.say(["put", "next epoch"])
    assert other.hear() is True
    other.say(["put", "next epoch, too"])
    assert other.hear() is True
    assert words[OPEN] not in (0, epoch)
    assert words[HEAD] < head
    assert not leads.done()
    disk.release()
    assert leads.result(GUARD) > 0
    assert words[FLUSHED] == words[HEAD]
    assert len(drained(queue)) == 24


# ---------------------------------------------------------------------- what comes in between
@pytest.mark.parametrize("what", ["put", "put behind another", "ack", "get"])
def test_who_waits_while_the_store_is_closed_has_done_it(
    what: str, path: str, disk: Disk, in_thread: InThread, eventually: Eventually
) -> None:
    queue = warm(mqlite.Queue[Any]("q", path))
    queue.put(b"first")
    futures: list[Future[Any]] = []
    if what == "ack":
        [message] = queue.receive(timeout=0)
    disk.hold()
    if what == "ack":
        futures.append(in_thread(message.ack))
    elif what == "get":
        futures.append(in_thread(queue.get, timeout=0))
    else:
        futures.append(in_thread(queue.put, b"second"))
    assert disk.begun.wait(GUARD)
    if what == "put behind another":
        futures += put_behind(queue, in_thread, eventually, b"third")
    queue.close()
    disk.release()
    results = [future.result(GUARD) for future in futures]
    with mqlite.Queue[Any]("q", path) as again:
        assert again.stats().claimed == 0
        left = [message.body for message in again.browse()]
        assert left == {"put": [b"first", b"second"], "put behind another": [b"first", b"second", b"third"]}.get(what, [])
        assert again.check() == []
    if what == "get":
        assert results == [b"first"]


def test_who_waits_while_the_store_is_closed_and_whose_flush_fails_then_has_put(path: str, disk: Disk, in_thread: InThread) -> None:
    """Who closed has brought it to the tree."""
    queue = warm(mqlite.Queue[Any]("q", path))
    disk.hold()
    put = in_thread(queue.put, "new")
    assert disk.begun.wait(GUARD)
    queue.close()
    disk.release(fails=True)
    assert put.result(GUARD) > 0
    with mqlite.Queue[Any]("q", path) as again:
        assert drained(again) == ["new"]


def test_an_ack_of_which_the_store_is_closed_before_it_waits_has_acked(path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = warm(mqlite.Queue[Any]("q", path))
    queue.put(b"acked")
    [message] = queue.receive(timeout=0)
    front = front_of(queue)
    passing: Any = queue._engine.passing
    flush_settled = passing._flush_settled

    def close_first(*arguments: Any) -> None:
        assert front.flushes is not None
        queue.close()
        assert front.flushes is None
        flush_settled(*arguments)

    monkeypatch.setattr(passing, "_flush_settled", close_first)
    message.ack()
    with mqlite.Queue[Any]("q", path) as again:
        assert drained(again) == []


@pytest.mark.parametrize("what", ["get", "ack"])
def test_what_was_settled_and_flushed_is_settled_though_the_store_cannot_be_opened_again(
    what: str, queue: mqlite.Queue[Any], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another thread has forked meanwhile, and there are no descriptors left."""
    queue.put(b"settled")
    message = queue.receive(timeout=0)[0] if what == "ack" else None

    def refused() -> None:
        raise mqlite.StoreError("made up: no descriptors left")

    calls = disk.calls
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(front_of(queue), "take_gate", refused)
        if message is not None:
            message.ack()
        else:
            assert queue.get(timeout=0) == b"settled"
    assert disk.calls == calls + 1
    assert drained(queue) == []


def test_a_fork_while_a_thread_waits_leaves_both_sides_right(
    queue: mqlite.Queue[Any], disk: Disk, put_held: Any, in_thread: InThread, eventually: Eventually, children: Any
) -> None:
    def in_child(talk: Any) -> None:
        disk.release()
        queue.put("of the child")
        queue.put("of the child, too")
        talk.say([queue.get(timeout=0), queue.get(timeout=0)])

    put = put_held("leads")
    [follows] = put_behind(queue, in_thread, eventually, "follows")
    child = children.fork(in_child)
    assert child.hear() == ["leads", "follows"]
    child.end()
    disk.release()
    assert put.result(GUARD) > 0
    assert follows.result(GUARD) > 0
    assert drained(queue) == ["of the child", "of the child, too"]


def test_a_forked_child_flushes_through_descriptors_of_its_own(queue: mqlite.Queue[Any], children: Any) -> None:
    """The kernel tells each of them of what it could not write, and once only."""
    flushes: Any = front_of(queue).flushes
    files = (flushes._file, flushes._file_under_l)
    for file in files:
        os.lseek(file.fd, 7, os.SEEK_SET)

    def places(talk: Any) -> None:
        queue.put("of the child")
        talk.say([os.lseek(file.fd, 0, os.SEEK_CUR) for file in (flushes._file, flushes._file_under_l)])

    child = children.fork(places)
    assert child.hear() == [0, 0]
    child.end()
    assert [os.lseek(file.fd, 0, os.SEEK_CUR) for file in files] == [7, 7]
    assert drained(queue) == ["of the child"]


def test_an_interrupt_while_it_is_flushed_leaves_the_message_to_the_next_who_comes(
    queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "fdatasync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue.put("interrupted")
    assert words_of(queue)[OPEN] == 0
    assert drained(queue) == ["interrupted"]


def test_the_file_is_prepared_once_in_a_boot(path: str, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, prepare = [], front_flush.Flushes.prepare
    monkeypatch.setattr(front_flush.Flushes, "prepare", lambda self: (prepared.append(1), prepare(self)))
    for _ in range(3):
        with mqlite.Queue[Any]("q", path) as queue:
            warm(queue)
            assert words_of(queue)[PREPARED] == 1
    assert len(prepared) == 1
