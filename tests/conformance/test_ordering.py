"""Which message comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mqlite


class Uncomparable:
    """A body that fails if it is compared, hashed or asked for its truth."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("bodies are never compared")

    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __eq__

    def __hash__(self) -> int:
        raise AssertionError("bodies are never hashed")

    def __bool__(self) -> bool:
        raise AssertionError("bodies are never asked for their truth")


def drain(q: mqlite.Queue[Any]) -> list[Any]:
    bodies = []
    while not q.empty():
        bodies.append(q.get_nowait())
    return bodies


def test_messages_come_in_the_order_of_their_puts(q: mqlite.Queue[Any]) -> None:
    for n in range(50):
        q.put(n)
    assert drain(q) == list(range(50))


def test_higher_priority_comes_first(q: mqlite.Queue[Any]) -> None:
    for priority in (0, 5, -3, 9, 1):
        q.put(priority, priority=priority)
    assert drain(q) == [9, 5, 1, 0, -3]


def test_within_a_priority_the_first_in_is_the_first_out(q: mqlite.Queue[Any]) -> None:
    for n in range(20):
        q.put(n, priority=n % 3)
    assert drain(q) == sorted(range(20), key=lambda n: (-(n % 3), n))


def test_a_later_message_of_higher_priority_overtakes_a_half_drained_queue(q: mqlite.Queue[Any]) -> None:
    q.put_many(["a", "b"])
    first = q.get()
    q.put("urgent", priority=1)
    assert [first, *drain(q)] == ["a", "urgent", "b"]


def test_the_extreme_priorities_are_in_order(q: mqlite.Queue[Any]) -> None:
    for priority in (0, -(2**31), 2**31 - 1, -1, 1):
        q.put(priority, priority=priority)
    assert drain(q) == [2**31 - 1, 1, 0, -1, -(2**31)]


def test_messages_keep_the_priority_they_were_put_with(q: mqlite.Queue[Any]) -> None:
    q.put("x", priority=-(2**31))
    assert q.receive()[0].priority == -(2**31)


def test_equal_bodies_are_never_compared() -> None:
    q: mqlite.Queue[Uncomparable] = mqlite.Queue()
    bodies = [Uncomparable() for _ in range(6)]
    for n, body in enumerate(bodies):
        q.put(body, priority=n % 2)
    [held] = q.receive()
    held.release()
    assert [id(q.get()) for _ in range(6)] == [id(body) for body in bodies[1::2] + bodies[0::2]]


@pytest.mark.parametrize("take", ["receive", "consumer"])
def test_bodies_are_never_compared_where_many_are_taken_at_once(take: str) -> None:
    with mqlite.Queue[Any]() as q:
        q.put_many(range(20))
        for _ in range(4):  # from then on many are claimed by the short way
            q.ack_many(q.receive(5))
        bodies = [Uncomparable() for _ in range(6)]
        q.put_many(bodies)
        if take == "receive":
            messages = q.receive(6)
        else:
            consumer = q.consumer(prefetch=6)
            messages = [consumer.receive(0) for _ in range(6)]
        assert [id(message.body) for message in messages] == list(map(id, bodies))
        q.ack_many(messages)


def test_dicts_of_one_priority_come_in_order(q: mqlite.Queue[Any]) -> None:
    q.put_many([{"n": n} for n in range(5)], priority=7)
    assert [body["n"] for body in drain(q)] == list(range(5))


@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_message_given_back_keeps_its_place(q: mqlite.Queue[Any], give_back: Callable[[mqlite.Message], None]) -> None:
    q.put_many(list(range(4)))
    first, second = q.receive(2)
    give_back(second)
    give_back(first)
    assert drain(q) == [0, 1, 2, 3]


def test_a_message_given_back_comes_before_later_ones_and_after_higher_ones(q: mqlite.Queue[Any]) -> None:
    q.put("low")
    [low] = q.receive()
    q.put("later")
    q.put("high", priority=1)
    low.release()
    assert drain(q) == ["high", "low", "later"]


def test_receive_takes_a_batch_in_delivery_order(q: mqlite.Queue[Any]) -> None:
    q.put_many(["a", "b", "c"])
    q.put("first", priority=1)
    assert [m.body for m in q.receive(3)] == ["first", "a", "b"]


def test_receive_takes_what_is_there_and_does_not_wait_for_more(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    assert [m.body for m in q.receive(10)] == [1, 2]


def test_given_back_and_fresh_messages_are_received_in_one_order(q: mqlite.Queue[Any]) -> None:
    q.put_many(list(range(6)))
    messages = q.receive(4)
    for n in (3, 1):
        messages[n].release()
    assert [m.body for m in q.receive(10)] == [1, 3, 4, 5]


def test_very_many_priorities_lose_nothing(q: mqlite.Queue[Any], backend: str) -> None:
    count = 5000 if backend == "memory" else 300
    for priority in range(count):
        q.put(priority, priority=priority)
    [top] = q.receive()
    taken = [q.get() for _ in range(count // 2)]
    top.release()
    below = list(reversed(range(count - 1)))
    assert [*taken, *drain(q)] == [*below[: count // 2], count - 1, *below[count // 2 :]]


def test_order_survives_a_reopen(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([1, 2])
        q.put(0, priority=1)
    with mqlite.Queue("q", path) as q:
        assert drain(q) == [0, 1, 2]
