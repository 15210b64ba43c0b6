"""After close: a clear error for everybody, and nothing lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind

USES: dict[str, Callable[[mqlite.Queue[Any]], object]] = {
    "put": lambda q: q.put(1),
    "put_nowait": lambda q: q.put_nowait(1),
    "put_many": lambda q: q.put_many([1]),
    "put_many of nothing": lambda q: q.put_many([]),
    "get": lambda q: q.get(),
    "get_nowait": lambda q: q.get_nowait(),
    "receive": lambda q: q.receive(timeout=0),
    "consumer": lambda q: q.consumer(),
    "producer": lambda q: q.producer(),
    "ack_many": lambda q: q.ack_many([]),
    "qsize": lambda q: q.qsize(),
    "len": len,
    "empty": lambda q: q.empty(),
    "full": lambda q: q.full(),
    "task_done": lambda q: q.task_done(),
    "join": lambda q: q.join(),
    "shutdown": lambda q: q.shutdown(),
    "is_shutdown": lambda q: q.is_shutdown,
    "unfinished_tasks": lambda q: q.unfinished_tasks,
    "peek": lambda q: q.peek(),
    "browse": lambda q: q.browse(),
    "stats": lambda q: q.stats(),
    "dead": lambda q: q.dead,
    "configure": lambda q: q.configure(maxsize=1),
    "check": lambda q: q.check(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_queue_says_that_it_was_closed(q: mqlite.Queue[Any], use: Callable[[mqlite.Queue[Any]], object]) -> None:
    q.put(1)
    q.close()
    with pytest.raises(mqlite.Closed, match="'q'"):
        use(q)


def test_a_queue_may_be_closed_twice(q: mqlite.Queue[Any]) -> None:
    q.close()
    q.close()


def test_the_name_and_the_repr_of_a_closed_queue_can_still_be_read(q: mqlite.Queue[Any]) -> None:
    q.close()
    assert (q.name, "'q'" in repr(q)) == ("q", True)


def test_closing_wakes_waiting_gets(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = [in_thread(q.get), in_thread(q.receive), in_thread(q.get, timeout=600)]
    until_waiting(q, n=3)
    q.close()
    assert [type(future.exception(10)) for future in waiting] == [mqlite.Closed] * 3


def test_closing_wakes_waiting_puts(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    waiting = [in_thread(q.put, 2), in_thread(q.put_many, [3])]
    until_waiting(q, Kind.SPACE, 2)
    q.close()
    assert [type(future.exception(10)) for future in waiting] == [mqlite.Closed] * 2


def test_closing_wakes_who_joins(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put(1)
    joining = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    q.close()
    assert isinstance(joining.exception(10), mqlite.Closed)


def test_closing_ends_the_iteration_of_its_consumers(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    iterating = in_thread(list, q.consumer())
    until_waiting(q)
    q.close()
    assert iterating.result(10) == []


def test_closing_one_handle_leaves_the_others_of_the_queue_waiting(path: str, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with mqlite.Queue("q", path) as other:
        q: mqlite.Queue[int] = mqlite.Queue("q", path)
        got = in_thread(other.get)
        until_waiting(other)
        q.close()
        other.put(1)
        assert got.result(10) == 1


def test_what_was_held_at_the_last_close_comes_back_without_blame(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        _ = q.receive()
    with mqlite.Queue("q", path) as q:
        [message] = q.receive(timeout=0)
        assert (message.body, message.delivery_count) == ("x", 0)


def test_failures_before_a_close_are_remembered_by_the_next_open(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        q.receive()[0].nack()
    with mqlite.Queue("q", path) as q:
        [message] = q.receive(timeout=0)
        assert (message.delivery_count, message.redelivered) == (1, True)


SETTLE: dict[str, Callable[[mqlite.Message], None]] = {
    "ack": lambda m: m.ack(),
    "nack": lambda m: m.nack(),
    "reject": lambda m: m.reject(),
    "release": lambda m: m.release(),
    "extend": lambda m: m.extend(60),
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE.keys())
def test_a_message_cannot_be_settled_when_its_store_was_closed(path: str, settle: Callable[[mqlite.Message], None]) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        [message] = q.receive()
    with pytest.raises((mqlite.Closed, mqlite.NotClaimed, mqlite.LeaseLost)):
        settle(message)
    with mqlite.Queue("q", path) as q:
        assert (q.qsize(), q.check()) == (1, [])


def test_settling_after_a_close_does_not_open_the_store_again(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        [message] = q.receive()
    with pytest.raises(mqlite.MqliteError):
        message.ack()
    assert [name for root, _, names in os.walk(os.path.join(path, "run")) for name in names if os.path.basename(root) == "owners"] == []


def test_after_the_last_close_this_process_holds_no_file_of_the_store(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        q.receive()[0].reject()
        q.dead.get()
        with q.consumer() as consumer, q.producer() as producer:
            producer.put("y")
            producer.flush()
            _ = consumer.receive()
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    assert [link for link in links if os.path.exists(link) and os.path.realpath(link).startswith(path)] == []


def test_a_closed_broker_says_so(path: str) -> None:
    broker = mqlite.open(path)
    broker.close()
    broker.close()
    for use in (lambda: broker.queue("q"), broker.queues, broker.stats, broker.check):
        with pytest.raises(mqlite.Closed):
            use()


def test_closing_a_broker_closes_its_queues(path: str) -> None:
    broker = mqlite.open(path)
    q = broker.queue("q")
    broker.close()
    with pytest.raises(mqlite.Closed):
        q.put(1)


def test_a_queue_of_a_closed_broker_that_was_opened_by_itself_stays_open(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        with mqlite.open(path) as broker:
            broker.queue("q").put(1)
        assert q.get(timeout=0) == 1
