"""task_done, join and shutdown: as in queue.Queue of Python 3.13."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind


# ---------------------------------------------------------------------- task_done and join
def test_join_on_a_new_queue_returns_at_once(q: mqlite.Queue[Any]) -> None:
    q.join()
    assert q.unfinished_tasks == 0


def test_a_put_is_an_unfinished_task(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    assert q.unfinished_tasks == 2


def test_what_was_got_is_unfinished_until_task_done(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.get()
    before = q.unfinished_tasks
    q.task_done()
    assert (before, q.unfinished_tasks) == (1, 0)


def test_an_acknowledged_message_is_finished_without_task_done(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.receive()[0].ack()
    assert q.unfinished_tasks == 0


def test_a_dead_message_is_finished(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.receive()[0].reject()
    assert q.unfinished_tasks == 0


def test_a_claimed_message_is_unfinished(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    _ = q.receive()
    assert q.unfinished_tasks == 1


def test_task_done_too_often_is_a_value_error(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.get()
    q.task_done()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_task_done_may_come_before_get_as_in_queue_queue(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.task_done()
    q.get()
    assert q.unfinished_tasks == 0


def test_join_waits_for_the_last_task_done(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put_many([1, 2])
    q.get()
    q.get()
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    q.task_done()
    before = joined.done()
    q.task_done()
    assert (before, joined.result(10)) == (False, None)


def test_join_is_woken_by_the_last_ack(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put(1)
    [message] = q.receive()
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    message.ack()
    assert joined.result(10) is None


def test_all_who_join_are_woken(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put(1)
    q.get()
    joined = [in_thread(q.join) for _ in range(4)]
    until_waiting(q, Kind.DONE, 4)
    q.task_done()
    assert [future.result(10) for future in joined] == [None] * 4


def test_consumers_with_task_done_finish_a_join(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put_many(range(40))

    def work() -> None:
        for _ in range(10):
            q.get()
            q.task_done()

    workers = [in_thread(work) for _ in range(4)]
    q.join()
    assert [worker.result(10) for worker in workers] == [None] * 4


# ---------------------------------------------------------------------- shutdown
def test_shutdown_is_the_standard_library_s_where_it_has_one() -> None:
    if sys.version_info >= (3, 13):
        assert mqlite.ShutDown is queue.ShutDown
    else:
        assert issubclass(mqlite.ShutDown, mqlite.MqliteError)


@pytest.mark.parametrize("immediate", [False, True])
def test_after_shutdown_puts_are_refused(q: mqlite.Queue[Any], immediate: bool) -> None:
    q.shutdown(immediate)
    for call in (lambda: q.put(1), lambda: q.put_nowait(1), lambda: q.put_many([1])):
        with pytest.raises(mqlite.ShutDown):
            call()
    assert q.is_shutdown


def test_after_shutdown_what_is_there_can_be_got_and_then_get_raises(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    q.shutdown()
    got = [q.get(), q.get()]
    with pytest.raises(mqlite.ShutDown):
        q.get()
    assert got == [1, 2]


@pytest.mark.parametrize("call", [lambda q: q.get(), lambda q: q.get_nowait(), lambda q: q.receive(timeout=0), lambda q: q.consumer().receive(0)])
def test_after_an_immediate_shutdown_taking_raises_at_once(q: mqlite.Queue[Any], call: Callable[[mqlite.Queue[Any]], object]) -> None:
    q.put(1)
    q.shutdown(immediate=True)
    with pytest.raises(mqlite.ShutDown):
        call(q)


def test_after_an_immediate_shutdown_the_queue_is_empty(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.shutdown(immediate=True)
    assert (q.qsize(), q.empty()) == (0, True)


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_waiting_gets(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, immediate: bool) -> None:
    got = [in_thread(q.get) for _ in range(3)]
    until_waiting(q, n=3)
    q.shutdown(immediate)
    assert [type(future.exception(10)) for future in got] == [mqlite.ShutDown] * 3


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_waiting_puts(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, immediate: bool) -> None:
    q = make_queue(maxsize=1)
    q.put(1)
    puts = [in_thread(q.put, 2) for _ in range(3)]
    until_waiting(q, Kind.SPACE, 3)
    q.shutdown(immediate)
    assert [type(future.exception(10)) for future in puts] == [mqlite.ShutDown] * 3


def test_an_immediate_shutdown_wakes_who_joins(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put(1)
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    q.shutdown(immediate=True)
    assert joined.result(10) is None


def test_join_waits_for_tasks_taken_before_an_immediate_shutdown(
    q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting
) -> None:
    q.put_many([1, 2])
    q.get()
    q.shutdown(immediate=True)
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    q.task_done()
    assert joined.result(10) is None


def test_a_message_received_before_a_shutdown_can_be_acknowledged(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [message] = q.receive()
    q.shutdown(immediate=True)
    message.ack()
    assert q.unfinished_tasks == 0


def test_a_consumer_ends_when_a_shut_down_queue_is_empty(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    q.shutdown()
    bodies = []
    with q.consumer() as consumer:
        for message in consumer:
            with message:
                bodies.append(message.body)
    assert bodies == [1, 2]


def test_waiting_consumers_end_at_a_shutdown(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with q.consumer() as consumer:
        ended = in_thread(list, consumer)
        until_waiting(q)
        q.shutdown()
        assert ended.result(10) == []


def test_a_draining_shutdown_may_be_made_immediate(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.shutdown()
    q.shutdown(immediate=True)
    with pytest.raises(mqlite.ShutDown):
        q.get()


def test_an_immediate_shutdown_stays_immediate(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.shutdown(immediate=True)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        q.get()


def test_a_shutdown_on_disk_ends_with_the_last_handle_and_lost_nothing(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put(1)
        q.shutdown(immediate=True)
    with mqlite.Queue("q", path) as q:
        assert (q.is_shutdown, q.get(timeout=0)) == (False, 1)


def test_a_shutdown_of_one_queue_leaves_the_others_of_the_store_open(path: str) -> None:
    with mqlite.Queue("a", path) as a, mqlite.Queue("b", path) as b:
        a.shutdown()
        b.put(1)
        assert b.get(timeout=0) == 1
