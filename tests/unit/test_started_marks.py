"""A mark says of claims that were made together up to where they were handed out, without a commit."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash.children import Children
from unit.test_damaged_messages import flip_a_bit

import mqlite
from mqlite.claims import started
from mqlite.claims.started import SLOTS, StartedMarks
from mqlite.errors import StoreFull

OWNER, OTHER = 71, 72
RANK = 0x7FFFFFFF << 64
GUARD = 60.0


@pytest.fixture
def marks(tmp_path: Path) -> StartedMarks:
    return StartedMarks(str(tmp_path))


def test_what_lies_up_to_the_mark_was_handed_out_and_nothing_else(marks: StartedMarks) -> None:
    assert marks.mark(OWNER, 5, RANK | 10)
    assert marks.mark(OWNER, 5, RANK | 20)
    covers = marks.of(OWNER)
    assert [covers(5, RANK | seq) for seq in (0, 10, 15, 20, 21)] == [True, True, True, True, False]
    assert not covers(6, RANK | 10)
    assert not covers(0, RANK)
    assert not marks.of(OTHER)(5, RANK | 10)


def test_the_greatest_seqs_are_told_apart(marks: StartedMarks) -> None:
    """Last in, first out, seqs are counted down from the greatest."""
    last = (1 << 64) - 1
    assert marks.mark(OWNER, 5, RANK | last - 1)
    assert [marks.of(OWNER)(5, RANK | seq) for seq in (last - 2, last - 1, last)] == [True, True, False]


def test_each_batch_has_a_slot_of_its_own_and_there_are_so_many(marks: StartedMarks) -> None:
    assert all(marks.mark(OWNER, token, RANK | token) for token in range(1, SLOTS + 1))
    assert not marks.mark(OWNER, SLOTS + 1, RANK | SLOTS + 1)
    assert marks.mark(OWNER, SLOTS, RANK | SLOTS + 2)
    covers = marks.of(OWNER)
    assert all(covers(token, RANK | token) and not covers(token, RANK | token + 3) for token in range(1, SLOTS + 1))
    marks.forget([7, 9])
    assert marks.mark(OWNER, SLOTS + 1, RANK | 1)
    assert not marks.of(OWNER)(9, RANK | 9)


def test_what_is_forgotten_twice_is_not_taken_from_who_has_the_slot_since(marks: StartedMarks) -> None:
    assert marks.mark(OWNER, 5, RANK | 10)
    marks.forget([5])
    assert marks.mark(OWNER, 6, RANK | 20)
    marks._places[5] = marks._places[6]  # as an interrupt leaves it: the slot is free, and it is not noted yet
    marks.forget([5])
    assert marks.of(OWNER)(6, RANK | 20)
    marks.forget([5, 6])
    assert not marks.of(OWNER)(6, RANK | 20)


def test_a_new_slot_says_nothing_of_what_it_was_used_for_before(marks: StartedMarks) -> None:
    chance = random.Random(3)
    live: dict[int, int] = {}
    for token in range(1, 2000):
        if len(live) == SLOTS or (live and chance.random() < 0.4):
            gone = chance.sample(sorted(live), min(len(live), 3))
            marks.forget(gone)
            for each in gone:
                del live[each]
        live[token] = chance.randrange(1 << 64)
        assert marks.mark(OWNER, token, RANK | live[token])
    covers = marks.of(OWNER)
    assert all(covers(token, RANK | seq) for token, seq in live.items())
    assert not any(covers(token, RANK | seq + 1) for token, seq in live.items() if seq + 1 < 1 << 64)
    assert not any(covers(token, RANK) for token in range(1, 2000) if token not in live)


def test_there_is_one_file_of_known_size_and_none_after_leaving(marks: StartedMarks, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    for token in range(1, 2 * SLOTS):
        marks.mark(OWNER, token, RANK | token)
    assert [file.stat().st_size for file in tmp_path.iterdir()] == [4096]
    marks.leave(OWNER)
    assert list(tmp_path.iterdir()) == []
    assert not marks.mark(OWNER, 1, RANK | 1)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_really_on_the_disk(marks: StartedMarks, tmp_path: Path) -> None:
    """A hole in it would end in SIGBUS on a full disk."""
    marks.mark(OWNER, 1, RANK | 1)
    [file] = tmp_path.iterdir()
    assert file.stat().st_blocks * 512 >= 4096


def test_a_file_that_was_not_finished_says_nothing(marks: StartedMarks, tmp_path: Path) -> None:
    (tmp_path / f"{OTHER:016x}").write_bytes(b"\1" * 100)
    assert not marks.of(OTHER)(0x0101010101010101, RANK)


def test_a_forked_child_marks_nothing_in_the_file_of_its_parent(marks: StartedMarks, tmp_path: Path) -> None:
    assert marks.mark(OWNER, 5, RANK | 10)
    child = os.fork()
    if not child:
        marks.after_fork()
        marks.mark(OTHER, 5, RANK | 20)
        os._exit(0 if marks.of(OTHER)(5, RANK | 20) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert marks.mark(OWNER, 5, RANK | 11)
    assert [marks.of(OWNER)(5, RANK | seq) for seq in (11, 12)] == [True, False]


# ---------------------------------------------------------------------- of a queue
@pytest.fixture
def children() -> Any:
    started = Children()
    yield started
    started.kill_all()


def hand_out(talk: Any, path: str, count: int, prepare: Callable[[], object] = lambda: None) -> None:
    """Hands out `count` of ten prefetched messages, says how many commits of the claims that took, and holds them."""
    prepare()
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    consumer = queue.consumer(prefetch=10)
    consumer.receive(timeout=GUARD)
    before = queue._engine.claims.last_commit()
    kept = [consumer.receive(timeout=GUARD) for _ in range(count - 1)]
    talk.say(queue._engine.claims.last_commit() - before)
    talk.hear(3600)
    del kept


def blamed(path: str) -> list[tuple[int, int]]:
    with mqlite.Queue[Any]("q", path) as queue:
        messages = queue.receive(100, timeout=0)
        assert queue.check() == []
        found = sorted((message.body, message.delivery_count) for message in messages)
        queue.ack_many(messages)
        return found


def filled(path: str) -> str:
    """The folder of the marks of a store with ten messages."""
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(range(10))
        return os.path.join(os.path.dirname(queue._engine.claims.environment.path), "started")


@pytest.mark.parametrize("count", [1, 2, 6, 10])
def test_a_killed_process_is_read_to_the_word_and_its_file_goes(count: int, path: str, children: Children) -> None:
    folder = filled(path)
    holder = children.fork(hand_out, path, count)
    assert holder.hear() == 0
    assert len(os.listdir(folder)) == (count > 1)
    holder.kill()
    assert blamed(path) == [(body, int(body < count)) for body in range(10)]
    assert os.listdir(folder) == []


def test_of_threads_that_share_a_consumer_each_message_is_blamed_that_one_has(path: str, children: Children) -> None:
    def sharing(talk: Any) -> None:
        sys.setswitchinterval(1e-6)
        consumer = mqlite.Queue("q", path).consumer(prefetch=64)
        kept: list[mqlite.Message] = []
        threads = [threading.Thread(target=lambda: kept.extend([consumer.receive(GUARD) for _ in range(10)])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        talk.say(sorted(message.body for message in kept))
        talk.hear(3600)

    for _ in range(5):
        with mqlite.Queue[Any]("q", path) as queue:
            queue.put_many(range(64))
        holder = children.fork(sharing)
        assert holder.hear() == list(range(40))
        holder.kill()
        assert blamed(path) == [(body, int(body < 40)) for body in range(64)]


def test_without_room_for_the_file_a_commit_says_it(path: str, children: Children) -> None:
    def no_room() -> None:
        def refused(*_: object) -> None:
            raise StoreFull("no room")

        started.preallocate = refused

    folder = filled(path)
    holder = children.fork(hand_out, path, 4, no_room)
    assert holder.hear() == 3
    assert os.listdir(folder) == []
    holder.kill()
    assert blamed(path) == [(body, int(body < 4)) for body in range(10)]


def test_without_a_free_slot_a_commit_says_it(path: str, children: Children) -> None:
    def one_slot() -> None:
        taken = StartedMarks._mark_first
        StartedMarks._mark_first = lambda self, owner, token, seq: not self._places and taken(self, owner, token, seq)  # type: ignore[method-assign]

    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(range(5), priority=1)
        queue.put_many(range(5, 10))
    holder = children.fork(hand_out, path, 8, one_slot)
    assert holder.hear() == 3
    holder.kill()
    assert blamed(path) == [(body, int(body < 8)) for body in range(10)]


def test_a_store_that_is_closed_leaves_no_file(path: str) -> None:
    folder = filled(path)
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(prefetch=10) as consumer:
        kept = [consumer.receive(0) for _ in range(3)]
        assert len(os.listdir(folder)) == 1
        del kept
    assert os.listdir(folder) == []
    assert blamed(path) == [(body, 0) for body in range(10)]


def test_slots_are_free_again_once_their_messages_are_settled(path: str) -> None:
    """However many batches there are, and in whatever order they are settled."""
    chance = random.Random(4)
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(prefetch=6) as consumer:
        marks = queue._engine.claims.marks
        kept: list[mqlite.Message] = []
        for _ in range(3 * SLOTS):
            queue.put_many(range(2), priority=chance.randint(0, 1))
            kept += [consumer.receive(0) for _ in range(2)]
            while len(kept) > 3:
                kept.pop(chance.randrange(len(kept))).ack()
            assert len(marks._places) <= 7
        consumer.close()
        assert marks._places == {}


def test_a_shutdown_by_another_process_is_seen_at_the_next_hand_out(path: str, children: Children) -> None:
    def shut_down(talk: Any) -> None:
        mqlite.Queue("q", path).shutdown(immediate=True)
        talk.say("done")

    filled(path)
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(prefetch=10) as consumer:
        for _ in range(2):
            consumer.receive(0).ack()
        assert children.fork(shut_down).hear() == "done"
        with pytest.raises(mqlite.ShutDown):
            consumer.receive(0)


def test_commits_of_others_that_revoke_nothing_cost_a_look_and_no_commit(path: str, children: Children) -> None:
    def take_one(talk: Any) -> None:
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.hear()
        queue.put("its own")
        queue.get(timeout=GUARD)
        talk.say("done")
        talk.hear(3600)

    filled(path)
    other = children.fork(take_one)
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(prefetch=10) as consumer:
        kept = [consumer.receive(0)]
        other.say("go")
        assert other.hear() == "done"
        before = queue._engine.claims.last_commit()
        kept += [consumer.receive(0) for _ in range(5)]
        assert queue._engine.claims.last_commit() == before
        queue.ack_many(kept)


def test_who_gets_the_second_since_the_first_is_damaged_is_to_blame_for_it(path: str, children: Children) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many([b"damaged", b"second", b"third"])
    flip_a_bit(path, b"damaged")

    def take(talk: Any) -> None:
        message = mqlite.Queue("q", path).consumer(prefetch=3).receive(timeout=GUARD)
        talk.say(message.body.decode())
        talk.hear(3600)

    holder = children.fork(take)
    assert holder.hear() == "second"
    holder.kill()
    with mqlite.Queue[Any]("q", path) as queue:
        assert [(message.body, message.delivery_count) for message in queue.receive(3, timeout=0)] == [(b"second", 1), (b"third", 0)]
