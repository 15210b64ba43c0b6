"""What a consumer has claimed at once is looked up once, and each message is handed out as if it were looked up by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from crash.children import Children
from hand_clock import HandClock, timed_queue

import mqlite

MANY = 12


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def queue(path: str, clock: HandClock) -> Iterator[mqlite.Queue[Any]]:
    with timed_queue(path, clock, ack_timeout=80) as made:
        made.put_many(["before"] * MANY)
        made.ack_many(made.receive(MANY, timeout=0))  # from here on it is known what becomes of rows
        made.put_many(range(MANY))
        yield made


@pytest.fixture
def consumer(queue: mqlite.Queue[Any]) -> Iterator[mqlite.Consumer]:
    """One that has handed out three, the last of them as one of a lot."""
    with queue.consumer(prefetch=MANY) as made:
        taken = [made.receive(0) for _ in range(3)]
        assert made._lot is not None
        assert made._lot.mark(taken[-1]._source)
        yield made
        del taken


def commits(queue: mqlite.Queue[Any]) -> int:
    return queue._engine.claims.last_commit()


def test_those_of_a_lot_take_no_commit_and_are_said_to_be_started(queue: mqlite.Queue[Any], consumer: mqlite.Consumer) -> None:
    before, claims = commits(queue), queue._engine.claims
    taken = [consumer.receive(0) for _ in range(5)]
    assert [message.body for message in taken] == [3, 4, 5, 6, 7]
    assert commits(queue) == before
    covers = claims.marks.of(queue._engine.presence.owner)
    assert all(covers(message._source.row.token, message._source.position) for message in taken)
    assert not any(covers(claim.row.token, claim.position) for claim in consumer._buffer)


def test_a_change_of_the_timeout_holds_for_the_next_of_the_lot(queue: mqlite.Queue[Any], consumer: mqlite.Consumer, clock: HandClock) -> None:
    queue.configure(ack_timeout=8)
    short = consumer.receive(0)
    queue.configure(ack_timeout=800)
    long = consumer.receive(0)
    clock.pass_by(9)
    [again] = queue.receive(timeout=0)
    assert (again.body, again.delivery_count) == (short.body, 1)
    clock.pass_by(700)
    bodies = {message.body for message in queue.receive(MANY, timeout=0)}
    assert long.body not in bodies


def test_the_next_of_the_lot_has_its_whole_time_however_long_it_lay_there(queue: mqlite.Queue[Any], consumer: mqlite.Consumer, clock: HandClock) -> None:
    clock.pass_by(79)
    late = consumer.receive(0)
    clock.pass_by(79)
    assert late.body not in {message.body for message in queue.receive(MANY, timeout=0)}
    late.ack()


def test_what_has_timed_out_in_the_buffer_is_not_handed_out(queue: mqlite.Queue[Any], consumer: mqlite.Consumer, clock: HandClock) -> None:
    clock.pass_by(90)
    others = queue.receive(MANY, timeout=0)
    assert {message.body for message in others} >= set(range(3, MANY))
    queue.put("new")
    assert consumer.receive(0).body == "new"


def test_a_shutdown_by_another_process_is_seen_at_the_next_of_the_lot(path: str, consumer: mqlite.Consumer) -> None:
    def shut_down(talk: Any) -> None:
        mqlite.Queue("q", path).shutdown(immediate=True)
        talk.say("done")

    children = Children()
    try:
        assert children.fork(shut_down).hear() == "done"
        with pytest.raises(mqlite.ShutDown):
            consumer.receive(0)
    finally:
        children.kill_all()


def test_a_forked_child_marks_nothing_for_its_parent(queue: mqlite.Queue[Any], consumer: mqlite.Consumer) -> None:
    def take(talk: Any) -> None:
        talk.say(consumer._lot is None)
        queue.put("for the child")
        talk.say(consumer.receive(0).body)
        talk.hear()

    claims, owner = queue._engine.claims, queue._engine.presence.owner
    buffered = list(consumer._buffer)
    children = Children()
    try:
        child = children.fork(take)
        assert child.hear() is True
        assert child.hear() == "for the child"
        covers = claims.marks.of(owner)
        assert not any(covers(claim.row.token, claim.position) for claim in buffered)
        assert consumer.receive(0).body == 3
    finally:
        children.kill_all()
