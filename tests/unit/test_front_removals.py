"""What was claimed by rows is settled in the front, and leaves the tree with the next fold: nobody notices. [34]"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting
from front_things import drained, front_of
from hand_clock import HandClock, timed_queue

import mqlite
import mqlite.log.front
from mqlite import disk_store
from mqlite.claims import Kind, shared_txn
from mqlite.engine.passing import Passing
from mqlite.engine.steps import Claim
from mqlite.log import front_removals as removals
from mqlite.log.front_file import END, GONE, HEAD, MOST_REMOVED_BYTES, MOST_RUNS, OPEN, REMOVALS_END, START
from mqlite.log.front_flush import Flushes
from mqlite.system import environment

GUARD = 20.0
#: Where a disk is waited for, those that are acknowledged together are settled here, too.
AT_FULL = pytest.mark.parametrize("level", ["full"], indirect=True)
COUNT = 12


@pytest.fixture(autouse=True, params=["process", "full"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(disk_store, "DEFAULT_DURABILITY", request.param)
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 1)
    return str(request.param)


@pytest.fixture
def queue(path: str) -> Any:
    """Of COUNT messages in the tree."""
    made: mqlite.Queue[Any] = mqlite.Queue("q", path)
    made.put_many(range(COUNT))
    open_front(made)
    yield made
    if not made._interrupt.closed:
        assert made.check() == []
    made.close()


def open_front(queue: mqlite.Queue[Any]) -> None:
    """The next plain operation opens it."""
    words = front_of(queue).words
    words[mqlite.log.front.RUN], words[mqlite.log.front.NEEDED] = 99, 1


def commits(queue: mqlite.Queue[Any]) -> int:
    """How many the log has had."""
    log: Any = queue._engine.log
    return int(log._environment.exact_last_txnid())


def rows(queue: mqlite.Queue[Any]) -> int:
    with queue._engine.claims.read() as c:
        return int(c.claimed(queue._state.id))


def claim_of(message: mqlite.Message) -> Claim:
    claim: Any = message._source
    return claim


def is_hidden(queue: mqlite.Queue[Any]) -> bool:
    return not queue._engine.log.hides_nothing()


# ---------------------------------------------------------------------- what it is for
def test_each_ack_of_a_prefetched_message_is_no_commit_of_the_log(queue: mqlite.Queue[Any]) -> None:
    before = commits(queue)
    with queue.consumer(prefetch=5) as consumer:
        for number in range(COUNT):
            message = consumer.receive(timeout=0)
            assert message.body == number
            message.ack()
        assert commits(queue) == before
        assert front_of(queue).words[HEAD] == front_of(queue).words[REMOVALS_END] > START
    assert (queue.qsize(), queue.stats().claimed, queue.unfinished_tasks, rows(queue)) == (0, 0, 0, 0)


@AT_FULL
def test_messages_that_are_acknowledged_together_take_one_flush(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    queue.ack_many(queue.receive(3, timeout=0))
    flushes, before, flush = [], commits(queue), os.fdatasync

    def counted(fd: int) -> None:
        flushes.append(fd)
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    queue.ack_many(queue.receive(6, timeout=0))
    assert (len(flushes), commits(queue)) == (1, before)
    assert drained(queue) == [9, 10, 11]


@pytest.mark.parametrize("level", ["process"], indirect=True)
def test_where_no_disk_is_waited_for_they_take_a_commit(queue: mqlite.Queue[Any]) -> None:
    before = commits(queue)
    queue.ack_many(queue.receive(6, timeout=0))
    assert commits(queue) == before + 1
    assert drained(queue) == list(range(6, COUNT))


@AT_FULL
def test_acks_of_many_open_the_front_as_others_do(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with mqlite.Queue[Any]("q", path, durability="full") as queue:
        queue.put_many(range(100))
        for _ in range(mqlite.log.front.FEWEST):
            before = commits(queue)
            queue.ack_many(queue.receive(5, timeout=0))
            assert commits(queue) == before + 1
        before = commits(queue)
        for _ in range(5):
            queue.ack_many(queue.receive(5, timeout=0))
        assert commits(queue) == before
        assert drained(queue) == list(range(65, 100))


# ---------------------------------------------------------------------- claimers
def test_claimers_go_on_without_a_fold_and_meet_no_settled_message(queue: mqlite.Queue[Any]) -> None:
    first = queue.receive(4, timeout=0)
    first[2].ack()
    before = commits(queue)
    assert [message.body for message in queue.receive(3, timeout=0)] == [4, 5, 6]
    first[0].ack()
    assert [message.body for message in queue.receive(9, timeout=0)] == [7, 8, 9, 10, 11]
    assert commits(queue) == before
    with pytest.raises(mqlite.Empty):
        queue.receive(timeout=0)
    assert (queue.qsize(), queue.stats().claimed) == (0, COUNT - 2)


def test_where_cursors_are_lost_a_settled_message_is_not_claimed_again(queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(4, timeout=0)
    held[1].ack()
    claims: Any = queue._engine.claims
    with claims.lock, claims.guard, claims.write() as c:
        c.forget_cursors(queue._state.id)
    assert [message.body for message in queue.receive(3, timeout=0)] == [4, 5, 6]
    assert drained(queue) == list(range(7, COUNT))


def test_what_is_put_before_them_comes_first(queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(2, timeout=0)
    held[0].ack()
    assert not is_hidden(queue)
    queue.put("first", priority=1)
    assert is_hidden(queue)
    assert [message.body for message in queue.receive(2, timeout=0)] == ["first", 2]
    assert not is_hidden(queue)
    held[1].ack()
    assert queue.get(timeout=0) == 3


def test_where_there_is_no_room_for_more_claims_those_of_settled_messages_make_some(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_txn, "MAX_ENTRIES", 60)
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(range(100))
        held = queue.receive(100, timeout=0)
        assert 30 < len(held) < 60
        with pytest.raises(mqlite.StoreFull):
            queue.receive(2, timeout=0)
        open_front(queue)
        for message in held[:5]:
            message.ack()
        assert front_of(queue).words[HEAD] > START
        assert queue.receive(2, timeout=0)[0].body == len(held)


def test_what_is_given_back_comes_again_and_what_was_settled_does_not(queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(4, timeout=0)
    held[0].ack()
    held[2].ack()
    held[1].nack()
    held[3].release()
    assert [(message.body, message.delivery_count) for message in queue.receive(3, timeout=0)] == [(1, 1), (3, 0), (4, 0)]


def test_a_message_that_was_claimed_in_the_front_is_settled_there_when_it_has_a_row(queue: mqlite.Queue[Any]) -> None:
    queue.put("opens it")
    held = [queue.receive(timeout=0)[0] for _ in range(4)]
    assert claim_of(held[3]).at
    assert queue.stats().claimed == 4  # which folds
    before = commits(queue)
    for message in held:
        message.ack()
    assert commits(queue) == before
    assert (queue.qsize(), queue.stats().claimed, rows(queue)) == (COUNT - 3, 0, 0)


def test_a_message_that_is_in_the_front_still_is_not_taken_for_one_that_has_a_row(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the front shut, as it is while messages are brought, may find the same epoch a moment later."""
    queue.put("opens it")
    held = [queue.receive(timeout=0)[0] for _ in range(3)]
    assert claim_of(held[2]).at
    with monkeypatch.context() as patch:
        patch.setattr(Passing, "settle", lambda self, claim: False)
        held[2].ack()
        held[1].ack()
    assert queue.stats().claimed == 1
    assert drained(queue) == [*range(3, COUNT), "opens it"]


# ---------------------------------------------------------------------- who settles first
@pytest.mark.parametrize("together", [False, True])
def test_of_two_who_settle_one_message_at_once_one_is_told_that_it_was_settled(queue: mqlite.Queue[Any], together: bool) -> None:
    """Both have looked whether it was before."""
    held = list(map(claim_of, queue.receive(3, timeout=0)))
    queue._engine.ack(held[:1])
    with pytest.raises(mqlite.LeaseLost):
        queue._engine.ack(held if together else held[:1])
    queue._engine.ack(held[1:])
    with pytest.raises(mqlite.LeaseLost):
        queue._engine.release_all(held[2:], lost_ok=False)
    assert (queue.qsize(), queue.stats().claimed) == (COUNT - 3, 0)


def test_threads_that_settle_the_same_messages_at_once_settle_each_once(queue: mqlite.Queue[Any], in_thread: InThread) -> None:
    claims = list(map(claim_of, queue.receive(COUNT, timeout=0)))
    start = threading.Barrier(3)

    def settle() -> int:
        start.wait(GUARD)
        done = 0
        for claim in claims:
            try:
                queue._engine.ack([claim])
            except mqlite.LeaseLost:
                continue
            done += 1
        return done

    assert sum(future.result(GUARD) for future in [in_thread(settle) for _ in range(3)]) == COUNT
    assert (queue.qsize(), queue.stats().claimed, rows(queue)) == (0, 0, 0)


def test_a_message_that_was_purged_cannot_be_settled(queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(2, timeout=0)
    other = queue.receive(timeout=0)[0]
    log: Any = queue._engine.log
    log.write(lambda txn: txn.remove(queue._state.id, claim_of(held[0]).position))  # its row is there still
    open_front(queue)
    other.ack()
    assert front_of(queue).words[OPEN]
    with pytest.raises(mqlite.LeaseLost):
        held[0].ack()
    held[1].ack()
    assert queue.qsize() == COUNT - 3


def test_a_claim_that_has_timed_out_cannot_be_settled(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock, ack_timeout=10) as queue:
        queue.put_many(range(3))
        open_front(queue)
        held = queue.receive(3, timeout=0)
        held[0].ack()
        assert front_of(queue).words[OPEN]
        clock.pass_by(11)
        again = queue.receive(2, timeout=0)
        assert [message.body for message in again] == [1, 2]
        open_front(queue)
        for message in held[1:]:
            with pytest.raises(mqlite.LeaseLost):
                message.ack()
        for message in again:
            message.ack()
        assert queue.unfinished_tasks == 0
        assert queue.check() == []


def test_what_a_dead_process_held_comes_back_without_what_it_had_settled(path: str, queue: mqlite.Queue[Any], children: Any) -> None:
    def hold(talk: Any) -> None:
        other = mqlite.Queue[Any]("q", path)
        open_front(other)
        held = other.receive(5, timeout=0)
        held[1].ack()
        held[4].ack()
        talk.say(front_of(other).words[OPEN] > 0)
        talk.hear(GUARD)

    child = children.fork(hold)
    assert child.hear()
    child.kill()
    assert [message.body for message in queue.receive(5, timeout=GUARD)] == [0, 2, 3, 5, 6]
    assert (queue.qsize(), queue.stats().claimed) == (5, 5)


def test_another_process_folds_and_counts_right(path: str, queue: mqlite.Queue[Any], children: Any) -> None:
    def look(talk: Any) -> None:
        other = mqlite.Queue[Any]("q", path)
        while talk.hear(GUARD):
            stats = other.stats()
            talk.say([stats.ready, stats.claimed, rows(other), other.check()])

    child = children.fork(look)
    held = queue.receive(5, timeout=0)
    for number, message in enumerate(held):
        open_front(queue)
        message.ack()
        assert front_of(queue).words[HEAD] > START
        child.say(True)
        assert child.hear() == [COUNT - 5, 4 - number, 4 - number, []]
    child.say(False)


def test_a_fold_that_is_cut_short_before_the_rows_go_is_done_again(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = queue.receive(4, timeout=0)
    held[0].ack()
    held[3].ack()

    def fail(rows: Any) -> None:
        raise mqlite.StoreError("made up")

    with monkeypatch.context() as patch:
        patch.setattr(front_of(queue), "_let_go", fail)
        with pytest.raises(mqlite.StoreError, match="made up"):
            queue.qsize()
        with pytest.raises(mqlite.StoreError, match="made up"):
            queue.put_many(["a", "b"])
    assert rows(queue) == 4
    assert (queue.qsize(), queue.stats().claimed, rows(queue)) == (COUNT - 4, 2, 2)
    held[1].ack()
    assert [message.body for message in queue.receive(2, timeout=0)] == [4, 5]


# ---------------------------------------------------------------------- who waits
def test_who_waits_for_room_gets_that_of_a_settled_message(path: str, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with mqlite.Queue[Any]("q", path, maxsize=3) as queue:
        queue.put_many(range(3))
        held = queue.receive(2, timeout=0)
        for number, message in enumerate(held):
            future = in_thread(queue.put, f"more {number}", timeout=GUARD)
            until_waiting(queue, Kind.SPACE)
            open_front(queue)
            message.ack()
            assert future.result(GUARD)
        assert drained(queue) == [2, "more 0", "more 1"]


def test_room_is_counted_where_messages_pass_by(path: str) -> None:
    with mqlite.Queue[Any]("q", path, maxsize=3) as queue:
        queue.put_many(range(3))
        held = queue.receive(2, timeout=0)
        open_front(queue)
        held[0].ack()
        queue.put("more", timeout=0)
        with pytest.raises(mqlite.Full):
            queue.put("too many", timeout=0)
        assert queue.full()
        held[1].ack()
        queue.put("still more", timeout=0)
        assert drained(queue) == [2, "more", "still more"]


def test_join_ends_with_the_last_settled_message(queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    held = queue.receive(COUNT, timeout=0)
    future = in_thread(queue.join)
    until_waiting(queue, Kind.DONE)
    for message in held:
        open_front(queue)
        message.ack()
    future.result(GUARD)


def test_numbers_that_pass_by_are_counted_for_who_polls(queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(3, timeout=0)
    held[0].ack()
    gone = front_of(queue).words[GONE]
    held[1].ack()
    assert front_of(queue).words[GONE] == gone + 1


# ---------------------------------------------------------------------- what is left to a commit
def _grouped(queue: mqlite.Queue[Any]) -> list[Any]:
    for number in range(3):
        queue.put(number, group=str(number))
    return list(queue.receive(3, timeout=0))


def _unique(queue: mqlite.Queue[Any]) -> list[Any]:
    for number in range(3):
        queue.put(number, unique=str(number))
    return list(queue.receive(3, timeout=0))


def _long(queue: mqlite.Queue[Any]) -> list[Any]:
    queue.put_many([b"x" * MOST_REMOVED_BYTES] * 3)
    return list(queue.receive(3, timeout=0))


@pytest.mark.parametrize("held", [_grouped, _unique, _long])
def test_what_needs_more_than_its_place_is_settled_by_a_commit(path: str, held: Callable[[Any], list[Any]]) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        messages = held(queue)
        for message in messages:
            open_front(queue)
            before = commits(queue)
            message.ack()
            assert commits(queue) == before + 1
        assert queue.unfinished_tasks == 0
        assert queue.check() == []


@AT_FULL
def test_messages_that_lie_all_over_the_queue_are_settled(path: str) -> None:
    """In more stretches than a fold is to look at: some by commits, and all in the end."""
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(range(6 * MOST_RUNS))
        held = queue.receive(6 * MOST_RUNS, timeout=0)
        open_front(queue)
        queue.ack_many(held[:: 3])
        for message in held[1::3]:
            open_front(queue)
            message.ack()
        assert (queue.qsize(), queue.stats().claimed) == (0, 2 * MOST_RUNS)
        queue.ack_many(reversed(held[2::3]))
        assert (queue.qsize(), queue.stats().claimed, queue.check()) == (0, 0, [])


def test_messages_are_settled_where_the_tree_takes_no_more_readers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "MAX_READERS", 3)
    monkeypatch.setattr(environment, "LOCK_FILE_BYTES", 3 * 64)
    with mqlite.open(path) as broker, contextlib.ExitStack() as readers:
        queue, other = map(broker.queue, ("q", "other"))
        queue.put_many(range(4))
        first, *others = queue.receive(4, timeout=0)
        open_front(queue)
        other.put("opens it")
        assert front_of(queue).words[OPEN]
        for _ in range(3):
            readers.enter_context(queue._engine.log.read())
        first.ack()
        queue.ack_many(others)
        readers.close()
        assert (queue.unfinished_tasks, broker.check()) == (0, [])


@AT_FULL
def test_messages_of_two_queues_are_settled_together(path: str) -> None:
    with mqlite.open(path) as broker:
        queues = [broker.queue(name) for name in "ab"]
        for queue in queues:
            queue.put_many(range(3))
        held = [message for queue in queues for message in queue.receive(2, timeout=0)]
        open_front(queues[0])
        queues[0].ack_many(held)
        assert [drained(queue) for queue in queues] == [[2], [2]]
        assert broker.check() == []


def test_the_front_is_folded_when_as_much_was_settled_as_fits_in(path: str) -> None:
    size = 1000
    with mqlite.Queue[Any]("q", path) as queue:
        count = 3 * (END - START) // size
        queue.put_many([b"x" * size] * count)
        open_front(queue)
        before, most = commits(queue), 0
        with queue.consumer(prefetch=50) as consumer:
            for _ in range(count):
                consumer.receive(timeout=0).ack()
                most = max(most, rows(queue))
        assert 3 <= commits(queue) - before < 6
        assert most < (END - START) // size + 50
        assert queue.unfinished_tasks == 0
        assert queue.check() == []


# ---------------------------------------------------------------------- the disk
@AT_FULL
def test_an_ack_whose_flush_fails_has_settled_nothing_and_can_be_done_again(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = queue.receive(4, timeout=0)
    held[0].ack()
    flush = os.fdatasync

    def fails(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("log.front"):
            raise OSError(5, "made up")
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(mqlite.StoreError, match="nothing is settled"):
        held[1].ack()
    with pytest.raises(mqlite.LeaseLost):
        queue._engine.ack([claim_of(held[0])])
    assert (queue.qsize(), queue.stats().claimed) == (COUNT - 4, 3)
    held[1].ack()
    queue.ack_many(held[2:])
    assert (queue.qsize(), queue.stats().claimed, queue.unfinished_tasks) == (COUNT - 4, 0, COUNT - 4)


@AT_FULL
def test_an_interrupt_before_the_flush_leaves_it_to_the_next_who_comes(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = queue.receive(2, timeout=0)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Flushes, "wait_for_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            held[0].ack()
    assert not front_of(queue).words[OPEN]
    with pytest.raises(mqlite.LeaseLost):
        held[0].ack()
    assert (queue.qsize(), queue.stats().claimed) == (COUNT - 2, 1)


def test_a_closed_store_has_all_that_was_settled(path: str, queue: mqlite.Queue[Any]) -> None:
    held = queue.receive(3, timeout=0)
    held[1].ack()
    queue.close()
    with mqlite.Queue[Any]("q", path) as again:
        assert again.stats().claimed == 0
        assert drained(again) == [0, *range(2, COUNT)]


def test_a_forked_child_meets_no_settled_message(path: str, queue: mqlite.Queue[Any], children: Any) -> None:
    held = queue.receive(3, timeout=0)
    held[1].ack()

    def take(talk: Any) -> None:
        with pytest.raises(mqlite.NotClaimed):
            held[0].ack()
        talk.say([message.body for message in queue.receive(COUNT, timeout=0)])

    child = children.fork(take)
    assert child.hear() == list(range(3, COUNT))
    child.end()


# ---------------------------------------------------------------------- its bytes
def test_a_removal_is_whole_for_its_epoch_and_key_only() -> None:
    stretches = [(5, 3), (9, 1), ((7 << 64) + (1 << 63), 2)]
    value = removals.packed(12, b"key", stretches)
    assert list(removals.positions_in(value)) == [3, 4, 5, 9, (7 << 64) + (1 << 63) - 1, (7 << 64) + (1 << 63)]
    assert removals.is_whole(12, b"key", value)
    for epoch, key, other in ((13, b"key", value), (12, b"kex", value), (12, b"key", value[:-16]), (12, b"key", value[:-1]), (12, b"key", b""), (12, b"key", value[:-1] + b"\1")):
        assert not removals.is_whole(epoch, key, other)
