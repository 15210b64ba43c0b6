"""Threads that wait for messages or for room, and who wakes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contents import Torn
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind


def test_a_waiting_get_is_woken_by_a_put(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    got = in_thread(q.get)
    until_waiting(q)
    q.put("x")
    assert got.result(10) == "x"


def test_a_waiting_receive_is_woken_by_a_put(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    got = in_thread(q.receive, 5)
    until_waiting(q)
    q.put("x")
    assert [m.body for m in got.result(10)] == ["x"]


def test_a_waiting_consumer_is_woken_by_a_put(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with q.consumer() as consumer:
        got = in_thread(next, consumer)
        until_waiting(q)
        q.put("x")
        assert got.result(10).body == "x"


@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_waiting_get_is_woken_by_what_is_given_back(
    q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, give_back: Callable[[mqlite.Message], None]
) -> None:
    q.put("x")
    [message] = q.receive()
    got = in_thread(q.get)
    until_waiting(q)
    give_back(message)
    assert got.result(10) == "x"


def test_a_waiting_get_is_woken_by_a_consumer_that_closes(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("x")
    consumer = q.consumer()
    _ = consumer.receive()
    got = in_thread(q.get)
    until_waiting(q)
    consumer.close()
    assert got.result(10) == "x"


def test_a_waiting_get_on_the_dead_letters_is_woken_by_a_reject(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    dead = q.dead
    got = in_thread(dead.get)
    until_waiting(dead)
    q.put("x")
    q.receive()[0].reject()
    assert got.result(10) == "x"


def test_one_put_many_wakes_as_many_as_it_has_messages(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    got = [in_thread(q.get) for _ in range(5)]
    until_waiting(q, n=5)
    q.put_many(range(5))
    assert sorted(future.result(10) for future in got) == list(range(5))


def test_each_message_goes_to_one_of_many_waiting_threads(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    got = [in_thread(q.get) for _ in range(8)]
    until_waiting(q, n=8)
    for n in range(8):
        q.put(n)
    assert sorted(future.result(10) for future in got) == list(range(8))


def test_a_wait_that_timed_out_does_not_swallow_a_message(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    for _ in range(20):
        patient, hasty = in_thread(q.get), in_thread(q.get, timeout=0.002)
        q.put("x")
        if hasty.exception(10) is None:
            q.put("y")
        assert patient.result(10) in ("x", "y")


def test_a_put_that_waits_for_room_is_woken_by_a_get(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    put = in_thread(q.put, 2)
    until_waiting(q, Kind.SPACE)
    first = q.get()
    assert (first, put.result(10) > 0, q.get()) == (1, True, 2)


@pytest.mark.parametrize(
    "settle",
    [lambda q, m: m.ack(), lambda q, m: q.ack_many([m]), lambda q, m: m.reject()],
    ids=["ack", "ack_many", "reject"],
)
def test_a_put_that_waits_for_room_is_woken_by_a_settlement(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, settle: Callable[[mqlite.Queue[Any], mqlite.Message], None]
) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    [message] = q.receive()
    put = in_thread(q.put, 2)
    until_waiting(q, Kind.SPACE)
    settle(q, message)
    assert put.result(10)


def test_a_message_given_back_makes_no_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    q.receive()[0].release()
    with pytest.raises(mqlite.Full):
        q.put_nowait(2)


def test_room_for_three_lets_three_waiting_puts_through(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=3)
    q.put_many([1, 2, 3])
    messages = q.receive(3)
    puts = [in_thread(q.put, n) for n in range(3)]
    until_waiting(q, Kind.SPACE, 3)
    q.ack_many(messages)
    assert len({put.result(10) for put in puts}) == 3


def test_a_larger_maxsize_lets_waiting_puts_through(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    put = in_thread(q.put, 2)
    until_waiting(q, Kind.SPACE)
    q.configure(maxsize=2)
    assert put.result(10)


def test_put_many_waits_until_there_is_room_for_all(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=3)
    q.put_many([1, 2])
    put = in_thread(q.put_many, [3, 4, 5])
    until_waiting(q, Kind.SPACE)
    before = (q.get(), q.qsize(), q.get())
    assert (before, len(put.result(10)), q.qsize()) == ((1, 1, 2), 3, 3)


def test_a_put_goes_into_a_free_place_that_a_waiting_put_many_cannot_use(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting
) -> None:
    q = make_queue(maxsize=3)
    q.put_many([1, 2, 3])
    large = in_thread(q.put_many, [4, 5, 6])
    until_waiting(q, Kind.SPACE, 1)
    small = in_thread(q.put, 7)
    until_waiting(q, Kind.SPACE, 2)
    q.get()
    try:
        assert small.result(5)
    finally:
        q.close()
        large.exception(10)


def test_many_producers_and_consumers_through_one_place_lose_and_invent_nothing(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=1)

    def produce(first: int) -> None:
        for n in range(first, first + 25):
            q.put(n)

    def consume() -> list[int]:
        return [q.get() for _ in range(25)]

    producers = [in_thread(produce, 100 * n) for n in range(3)]
    consumers = [in_thread(consume) for _ in range(3)]
    taken = sorted(n for consumer in consumers for n in consumer.result(30))
    assert [producer.result(10) for producer in producers] == [None] * 3
    assert taken == sorted(n for first in (0, 100, 200) for n in range(first, first + 25))


def test_maxsize_is_never_overshot_by_concurrent_puts(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=5)
    puts = [in_thread(q.put_nowait, n) for n in range(20)]
    refused = [put for put in puts if isinstance(put.exception(10), mqlite.Full)]
    assert (q.qsize(), len(refused)) == (5, 15)


def test_a_waiting_get_that_met_an_undecodable_message_is_still_woken_by_the_next(
    path: str, in_thread: InThread, until_waiting: UntilWaiting, eventually: Eventually
) -> None:
    with mqlite.Queue("q", path, codec=Torn()) as q:
        got = in_thread(q.get)
        until_waiting(q)
        q.put(["bad"])
        eventually(lambda: q.stats().dead == 1)
        q.put(["good"])
        assert got.result(10) == "['good']"
