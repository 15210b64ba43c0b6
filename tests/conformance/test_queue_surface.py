"""The verbs of queue.Queue, on every backend."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue

import mqlite


def test_what_was_put_is_got(q: mqlite.Queue[Any]) -> None:
    q.put({"id": 1})
    assert q.get() == {"id": 1}


@pytest.mark.parametrize("body", [None, False, 0, "", b"", [], {}], ids=repr)
def test_a_body_that_is_false_is_got_as_any_other(q: mqlite.Queue[Any], body: object) -> None:
    q.put(body)
    assert q.get(timeout=0) == body


def test_a_new_queue_is_empty(q: mqlite.Queue[Any]) -> None:
    assert (q.empty(), q.qsize(), len(q), q.full()) == (True, 0, 0, False)


def test_a_queue_with_a_message_is_not_empty(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    assert (q.empty(), q.qsize(), len(q)) == (False, 1, 1)


def test_an_empty_queue_is_true(q: mqlite.Queue[Any]) -> None:
    assert bool(q)


def test_a_got_message_is_no_longer_counted(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.get()
    assert (q.empty(), q.qsize()) == (True, 0)


def test_a_claimed_message_is_not_in_qsize(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    _ = q.receive()
    assert (q.qsize(), q.empty()) == (0, True)


def test_get_nowait_on_an_empty_queue_raises_what_except_queue_empty_catches(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(queue.Empty) as caught:
        q.get_nowait()
    assert isinstance(caught.value, mqlite.Empty)


@pytest.mark.parametrize("call", [lambda q: q.get(False), lambda q: q.get(block=False), lambda q: q.get(timeout=0), lambda q: q.get(True, 0.001), lambda q: q.receive(timeout=0), lambda q: q.receive(1, 0.001)])
def test_taking_from_an_empty_queue_raises_empty_in_the_end(q: mqlite.Queue[Any], call: Callable[[mqlite.Queue[Any]], object]) -> None:
    with pytest.raises(mqlite.Empty):
        call(q)


def test_put_nowait_on_a_full_queue_raises_what_except_queue_full_catches(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put_nowait(1)
    with pytest.raises(queue.Full) as caught:
        q.put_nowait(2)
    assert isinstance(caught.value, mqlite.Full)


@pytest.mark.parametrize("call", [lambda q: q.put(2, False), lambda q: q.put(2, block=False), lambda q: q.put(2, timeout=0), lambda q: q.put(2, True, 0.001)])
def test_putting_into_a_full_queue_raises_full_in_the_end(make_queue: MakeQueue, call: Callable[[mqlite.Queue[Any]], object]) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    with pytest.raises(mqlite.Full):
        call(q)


def test_a_put_that_found_no_room_stored_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    with pytest.raises(mqlite.Full):
        q.put(2, timeout=0.001)
    assert [q.get(), q.qsize()] == [1, 0]


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_negative_timeout_is_a_value_error(q: mqlite.Queue[Any], timeout: float) -> None:
    q.put(1)
    for call in (lambda: q.put(1, timeout=timeout), lambda: q.get(timeout=timeout)):
        with pytest.raises(ValueError, match="timeout"):
            call()


def test_a_timeout_is_ignored_where_nobody_waits(q: mqlite.Queue[Any]) -> None:
    q.put(1, False, -1)
    assert q.get(False, -1) == 1


def test_an_infinite_timeout_waits_for_ever(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: Callable[..., None]) -> None:
    got = in_thread(q.get, timeout=float("inf"))
    until_waiting(q)
    q.put(1)
    assert got.result(10) == 1


@pytest.mark.parametrize("timeout", [3e6, 1e9])
def test_a_timeout_of_months_is_waited_for(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: Callable[..., None], timeout: float) -> None:
    got = in_thread(q.get, timeout=timeout)
    until_waiting(q)
    q.put(1)
    assert got.result(10) == 1


def test_maxsize_may_be_the_only_positional_argument_as_in_queue_queue() -> None:
    q: mqlite.Queue[int] = mqlite.Queue(2)
    q.put(1)
    q.put(2)
    assert (q.maxsize, q.full()) == (2, True)


def test_a_queue_without_maxsize_is_never_full(q: mqlite.Queue[Any]) -> None:
    for n in range(100):
        q.put(n)
    assert (q.maxsize, q.full(), q.qsize()) == (0, False, 100)


def test_a_negative_maxsize_is_no_limit_as_in_queue_queue(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=-1)
    q.put(1)
    assert not q.full()


def test_a_queue_is_full_at_maxsize(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2)
    full = []
    for n in range(2):
        full.append(q.full())
        q.put(n)
    assert [*full, q.full()] == [False, False, True]


def test_claimed_messages_count_against_maxsize(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    _ = q.receive()
    assert q.full()
    with pytest.raises(mqlite.Full):
        q.put_nowait(2)


def test_an_acknowledged_message_makes_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    [message] = q.receive()
    message.ack()
    q.put_nowait(2)
    assert q.qsize() == 1


def test_a_dead_message_makes_room(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    [message] = q.receive()
    message.reject()
    q.put_nowait(2)
    assert q.qsize() == 1


def test_put_returns_ids_that_rise(q: mqlite.Queue[Any]) -> None:
    ids = [q.put(n) for n in range(5)]
    assert ids == sorted(set(ids))


def test_the_id_that_put_returned_is_the_message_s(q: mqlite.Queue[Any]) -> None:
    number = q.put(1)
    assert q.receive()[0].id == number


def test_no_id_is_used_twice_even_after_everything_was_acknowledged(q: mqlite.Queue[Any]) -> None:
    first = q.put(1)
    q.get()
    assert q.put(2) > first


def test_nothing_is_shut_down_at_first(q: mqlite.Queue[Any]) -> None:
    assert q.is_shutdown is False


def test_a_queue_can_be_left_as_a_context_manager(make_queue: MakeQueue) -> None:
    with make_queue() as q:
        q.put(1)
    with pytest.raises(mqlite.Closed):
        q.get()


def test_the_repr_names_the_queue(make_queue: MakeQueue) -> None:
    assert "'orders'" in repr(make_queue("orders"))


def test_in_memory_the_very_object_comes_back() -> None:
    q: mqlite.Queue[object] = mqlite.Queue()
    body = object()
    q.put(body)
    assert q.get() is body


def test_queues_in_memory_of_one_name_are_apart() -> None:
    one: mqlite.Queue[int] = mqlite.Queue("same")
    other: mqlite.Queue[int] = mqlite.Queue("same")
    one.put(1)
    assert other.empty()


def test_handles_on_disk_of_one_name_share_their_messages(path: str) -> None:
    with mqlite.Queue("same", path) as one, mqlite.Queue("same", path) as other:
        one.put(1)
        assert other.get(timeout=0) == 1


def test_queues_of_one_store_are_apart(path: str) -> None:
    with mqlite.Queue("a", path) as a, mqlite.Queue("b", path) as b:
        a.put(1)
        assert (a.qsize(), b.qsize()) == (1, 0)


def test_messages_on_disk_are_there_after_a_reopen(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("kept")
    with mqlite.Queue("q", path) as q:
        assert q.get(timeout=0) == "kept"
