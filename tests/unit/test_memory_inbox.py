"""In memory, a plain put goes without the lock into an inbox: nobody can tell, in whatever order things happen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread
from interrupting import interrupted_at

import mqlite
from mqlite.claims import Kind, memory
from mqlite.log.shelf import Shelf
from mqlite.message import DEFAULT_RANK


@pytest.fixture
def queue() -> mqlite.Queue[Any]:
    return mqlite.Queue()


def inbox_of(queue: mqlite.Queue[Any]) -> Any:
    return queue._engine.log.shelf_and_inbox(queue._state.id).inbox


class Meddling:
    """A `want_arrivals` that does something at the n-th time that it is asked whether anybody waits."""

    def __init__(self, waiting: Any, at: int, what: Callable[[], None]) -> None:
        self.waiting, self.left, self.what = waiting, at, what

    def __bool__(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.what()
        return bool(self.waiting)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.waiting, name)


def test_a_plain_put_waits_for_no_lock(queue: mqlite.Queue[Any], in_thread: InThread) -> None:
    with queue._engine.log.lock:
        assert in_thread(queue.put, "item").result(10) == 1
        assert len(inbox_of(queue)) == 1
    assert queue.get(timeout=0) == "item"


def test_what_is_in_the_inbox_is_counted_and_seen(queue: mqlite.Queue[Any]) -> None:
    queue.put(b"12345")
    assert (queue.qsize(), queue.stats().bytes, [m.body for m in queue.peek(5)]) == (1, 5, [b"12345"])
    queue.put("second")
    assert [m.body for m in queue.browse()] == [b"12345", "second"]
    queue.put("third")
    assert queue.unfinished_tasks == 3


def test_what_is_in_the_inbox_counts_for_a_limit_that_is_set_later(queue: mqlite.Queue[Any]) -> None:
    queue.put(1)
    queue.put(2)
    queue.maxsize = 2
    with pytest.raises(mqlite.Full):
        queue.put(3, timeout=0)
    assert queue.full()


def test_a_higher_priority_overtakes_the_inbox(queue: mqlite.Queue[Any]) -> None:
    queue.put("low")
    queue.put("high", priority=1)
    queue.put("lower", priority=-1)
    assert [queue.get(timeout=0) for _ in range(3)] == ["high", "low", "lower"]


def test_messages_with_headers_keep_their_place_among_plain_ones(queue: mqlite.Queue[Any]) -> None:
    queue.put(1)
    queue.put(2, headers={"a": 1})
    queue.put(3)
    assert [queue.get(timeout=0) for _ in range(3)] == [1, 2, 3]


def test_an_interrupt_while_the_inbox_is_emptied_loses_nothing() -> None:
    point, returned = 0, False
    while not returned:
        point += 1
        shelf = Shelf()
        shelf.inbox.extend((number, b"12", 0, None) for number in range(3))
        with interrupted_at(point) as struck:
            shelf.absorb()
            returned = True
        shelf.absorb()
        assert [entry[0] for entry in shelf.lane(DEFAULT_RANK)] == [0, 1, 2], struck
        assert (shelf.total, shelf.bytes, list(shelf.inbox)) == (3, 6, []), struck
    assert point > 5


def test_a_put_is_refused_when_the_queue_is_shut_down_in_its_middle(queue: mqlite.Queue[Any]) -> None:
    desk = queue._engine.claims.desk(queue._state.id)
    queue.put("before")
    desk.want_arrivals = Meddling(desk.want_arrivals, 1, queue.shutdown)
    with pytest.raises(mqlite.ShutDown):
        queue.put("too late")
    assert (queue.get(timeout=0), queue.qsize()) == ("before", 0)


def test_a_put_whose_message_was_taken_before_the_shutdown_succeeds(queue: mqlite.Queue[Any]) -> None:
    desk = queue._engine.claims.desk(queue._state.id)
    taken: list[Any] = []

    def meddle() -> None:
        taken.append(queue.get(timeout=0))
        queue.shutdown()

    desk.want_arrivals = Meddling(desk.want_arrivals, 2, meddle)
    assert queue.put("just in time") == 1
    assert taken == ["just in time"]


def test_who_begins_to_wait_while_a_message_comes_is_woken(queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: Any) -> None:
    desk = queue._engine.claims.desk(queue._state.id)
    inbox, waiters = inbox_of(queue), []

    class Late(type(inbox)):  # type: ignore[misc]
        """An inbox whose next entry comes when somebody else has looked, found nothing, and gone to sleep."""

        def append(self, entry: Any) -> None:
            waiters.append(in_thread(queue.get, timeout=10))
            until_waiting(queue)
            super().append(entry)

    queue._engine.log.shelf_and_inbox(queue._state.id).inbox = Late()
    assert not desk.want_arrivals
    queue.put("wake up")
    assert waiters[0].result(10) == "wake up"


def test_many_threads_put_take_and_look_and_nothing_is_lost(queue: mqlite.Queue[Any], in_thread: InThread) -> None:
    putters, each = 4, 2000
    stop = threading.Event()

    def put(number: int) -> None:
        for n in range(each):
            queue.put((number, n), priority=n % 2 if number == 0 else 0)

    def take() -> list[Any]:
        seen = []
        while (body := queue.get()) is not None:
            seen.append(body)
        return seen

    def look() -> None:
        while not stop.is_set():
            queue.qsize()
            queue.peek(3)
            queue.stats()

    looking = in_thread(look)
    putting, taking = [in_thread(put, n) for n in range(putters)], [in_thread(take) for _ in range(3)]
    assert [future.result(60) for future in putting] == [None] * putters
    queue.put_many([None] * 3, priority=-1)
    found = [future.result(60) for future in taking]
    stop.set()
    assert looking.exception(10) is None
    assert sorted(body for bodies in found for body in bodies) == [(number, n) for number in range(putters) for n in range(each)]
    for bodies in found:  # each thread sees each putter's messages of one priority in order
        for number in range(1, putters):
            mine = [n for who, n in bodies if who == number]
            assert mine == sorted(mine)


def test_two_that_come_to_a_new_queue_at_the_same_time_both_wait(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who looks for the claims of the queue finds none; the other one makes them, and waits; the first makes them, too."""
    made, waiting = memory.Desk, list[Any]()

    def make() -> memory.Desk:
        monkeypatch.undo()
        waiting.append(in_thread(queue.get, timeout=30))
        until_waiting(queue, Kind.MESSAGE)
        return made()

    monkeypatch.setattr(memory, "Desk", make)
    queue._engine.claims.desk(queue._state.id)
    queue.put("x")
    assert waiting[0].result(30) == "x"
