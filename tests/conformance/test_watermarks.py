"""Callbacks when a queue has filled up and when it has drained: each once, in turn, whoever puts and takes."""

from __future__ import annotations

import os
import pickle
import queue as stdlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind

GUARD = 60.0


class Calls:
    """What was called, in order: ("high" | "low", n)."""

    def __init__(self) -> None:
        self._calls: stdlib.SimpleQueue[tuple[str, int]] = stdlib.SimpleQueue()

    def on_high(self, level: int) -> None:
        self._calls.put(("high", level))

    def on_low(self, level: int) -> None:
        self._calls.put(("low", level))

    def next(self) -> tuple[str, int]:
        return self._calls.get(timeout=GUARD)

    def none_left(self) -> bool:
        return self._calls.empty()


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def settled(until_waiting: UntilWaiting, eventually: Eventually) -> Callable[[mqlite.Queue[Any], mqlite.Watermarks], None]:
    """settled(queue, watermarks): returns when the thread has seen the present level and waits for another."""

    def wait(queue: mqlite.Queue[Any], watermarks: mqlite.Watermarks) -> None:
        seen: list[int] = []
        total = watermarks._engine.inspection.total

        def looked(state: Any) -> int:
            level = int(total(state))
            seen.append(level)
            return level

        level = int(total(queue._state))
        if watermarks.is_high:
            eventually(lambda: watermarks.is_high == (level > watermarks._low))
        else:
            eventually(lambda: watermarks.is_high == (level >= watermarks._high))
        until_waiting(queue, Kind.LEVEL)

    return wait


Settled = Callable[[mqlite.Queue[Any], mqlite.Watermarks], None]


def put(q: mqlite.Queue[Any], count: int) -> None:
    q.put_many(list(range(count)))


def take(q: mqlite.Queue[Any], count: int) -> None:
    for _ in range(count):
        q.get(timeout=0)


# ---------------------------------------------------------------------- hysteresis
def test_each_is_called_once_in_turn(q: mqlite.Queue[Any], calls: Calls, settled: Settled) -> None:
    with q.watermarks(5, 2, on_high=calls.on_high, on_low=calls.on_low) as watermarks:
        assert not watermarks.is_high
        put(q, 4)
        settled(q, watermarks)
        put(q, 1)
        assert calls.next() == ("high", 5)
        assert watermarks.is_high
        for step in (lambda: put(q, 3), lambda: take(q, 5), lambda: put(q, 4)):  # 8, 3, 7: never down to 2
            step()
            settled(q, watermarks)
        assert (calls.none_left(), watermarks.is_high) == (True, True)
        take(q, 5)
        assert calls.next() == ("low", 2)
        assert not watermarks.is_high
        for step in (lambda: put(q, 2), lambda: take(q, 4)):  # 4, 0: never up to 5
            step()
            settled(q, watermarks)
        assert (calls.none_left(), watermarks.is_high) == (True, False)
        put(q, 6)
        assert calls.next() == ("high", 6)


def test_again_and_again(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(3, 0, on_high=calls.on_high, on_low=calls.on_low):
        for _ in range(5):
            put(q, 3)
            assert calls.next() == ("high", 3)
            take(q, 3)
            assert calls.next() == ("low", 0)
    assert calls.none_left()


def test_marks_that_lie_close_together_are_told_apart(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(1, 0, on_high=calls.on_high, on_low=calls.on_low):
        q.put(1)
        assert calls.next() == ("high", 1)
        q.get(timeout=0)
        assert calls.next() == ("low", 0)


def test_claimed_and_delayed_messages_count_and_dead_ones_do_not(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(3, 1, on_high=calls.on_high, on_low=calls.on_low):
        put(q, 2)
        held = q.receive(2, timeout=0)
        q.put("later", delay=1000)
        assert calls.next() == ("high", 3)
        for message in held:
            message.reject()
        assert calls.next() == ("low", 1)


def test_a_queue_that_is_high_already_is_told_at_once(q: mqlite.Queue[Any], calls: Calls) -> None:
    put(q, 7)
    with q.watermarks(5, 2, on_high=calls.on_high, on_low=calls.on_low):
        assert calls.next() == ("high", 7)
        take(q, 6)
        assert calls.next() in (("low", 2), ("low", 1))  # it may look between two of these


def test_a_queue_that_is_low_at_the_start_is_not_told(q: mqlite.Queue[Any], calls: Calls, settled: Settled) -> None:
    with q.watermarks(5, 2, on_high=calls.on_high, on_low=calls.on_low) as watermarks:
        settled(q, watermarks)
        put(q, 2)
        settled(q, watermarks)
    assert calls.none_left()


@pytest.mark.parametrize(
    "fill",
    [
        lambda q: [q.put(number) for number in range(3)],
        lambda q: q.put_many([1, 2, 3]),
        lambda q: [q.put(number, headers={"a": 1}) for number in range(3)],
        lambda q: [q.put(number, group="g") for number in range(3)],
        lambda q: [q.put(number, priority=number) for number in range(3)],
        lambda q: [q.put(number, delay=60) for number in range(3)],
    ],
)
def test_it_is_seen_however_messages_come(q: mqlite.Queue[Any], calls: Calls, settled: Settled, fill: Callable[[mqlite.Queue[Any]], Any]) -> None:
    with q.watermarks(3, 0, on_high=calls.on_high) as watermarks:
        settled(q, watermarks)
        fill(q)
        assert calls.next() == ("high", 3)


def test_a_producer_is_seen(q: mqlite.Queue[Any], calls: Calls, settled: Settled) -> None:
    with q.watermarks(3, 0, on_high=calls.on_high) as watermarks, q.producer() as producer:
        settled(q, watermarks)
        for number in range(10):
            producer.put(number)
        producer.flush()
        assert calls.next()[1] >= 3


def test_a_redrive_is_seen(q: mqlite.Queue[Any], calls: Calls, settled: Settled) -> None:
    put(q, 3)
    for message in q.receive(3, timeout=0):
        message.reject()
    with q.watermarks(3, 0, on_high=calls.on_high) as watermarks:
        settled(q, watermarks)
        q.redrive()
        assert calls.next() == ("high", 3)


@pytest.mark.parametrize(
    "drain",
    [
        lambda q: take(q, 3),
        lambda q: q.ack_many(q.receive(3, timeout=0)),
        lambda q: [message.ack() for message in q.receive(3, timeout=0)],
        lambda q: [message.reject() for message in q.receive(3, timeout=0)],
        lambda q: q.purge(),
        lambda q: [q.cancel(message.id) for message in q.peek(3)],
    ],
)
def test_it_is_seen_however_messages_go(q: mqlite.Queue[Any], calls: Calls, settled: Settled, drain: Callable[[mqlite.Queue[Any]], Any]) -> None:
    put(q, 3)
    with q.watermarks(3, 0, on_high=calls.on_high, on_low=calls.on_low) as watermarks:
        assert calls.next() == ("high", 3)
        settled(q, watermarks)
        drain(q)
        assert calls.next() == ("low", 0)


def test_one_callback_is_enough(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(2, 0, on_low=calls.on_low), q.watermarks(2, 0, on_high=calls.on_high):
        put(q, 2)
        assert calls.next() == ("high", 2)
    with q.watermarks(2, 0) as watermarks:
        watermarks.close()


def test_several_watermarks_of_a_queue_are_told_each(q: mqlite.Queue[Any]) -> None:
    one, other = Calls(), Calls()
    with q.watermarks(2, 0, on_high=one.on_high), q.watermarks(4, 0, on_high=other.on_high):
        put(q, 2)
        assert one.next() == ("high", 2)
        assert other.none_left()
        put(q, 2)
        assert other.next() == ("high", 4)


def test_a_callback_may_use_the_queue(q: mqlite.Queue[Any], calls: Calls) -> None:
    def drain(level: int) -> None:
        take(q, level)
        calls.on_high(level)

    with q.watermarks(3, 0, on_high=drain, on_low=calls.on_low):
        put(q, 3)
        assert calls.next() == ("high", 3)
        assert calls.next() == ("low", 0)


# ---------------------------------------------------------------------- a callback that fails
@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> stdlib.SimpleQueue[Any]:
    """Warnings as they are shown by any thread, not turned into errors."""
    shown: stdlib.SimpleQueue[Any] = stdlib.SimpleQueue()
    monkeypatch.setattr(warnings, "showwarning", lambda message, category, *where, **more: shown.put((category, str(message))))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, category, *where, **more: shown.put((category, str(message))))
        yield shown


def test_a_callback_that_fails_is_reported_and_called_again(q: mqlite.Queue[Any], calls: Calls, warned: stdlib.SimpleQueue[Any]) -> None:
    def fail(level: int) -> None:
        calls.on_high(level)
        raise ZeroDivisionError("boom")

    with q.watermarks(2, 0, on_high=fail, on_low=calls.on_low):
        for _ in range(2):
            put(q, 2)
            assert calls.next() == ("high", 2)
            category, text = warned.get(timeout=GUARD)
            assert (category, "boom" in text, "ZeroDivisionError" in text, repr(q.name) in text) == (RuntimeWarning, True, True, True)
            take(q, 2)
            assert calls.next() == ("low", 0)


def test_a_callback_that_fails_breaks_nothing_where_warnings_are_errors(q: mqlite.Queue[Any], calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)

    def fail(level: int) -> None:
        calls.on_high(level)
        raise ZeroDivisionError("boom")

    with q.watermarks(2, 0, on_high=fail, on_low=calls.on_low):
        put(q, 2)
        assert calls.next() == ("high", 2)
        take(q, 2)
        assert calls.next() == ("low", 0)
    assert len(ended) <= 1  # told, if at all, where threads tell of errors


# ---------------------------------------------------------------------- the end
def alive(watermarks: mqlite.Watermarks) -> bool:
    return watermarks._thread.is_alive()


def test_close_ends_the_calls_and_the_thread(q: mqlite.Queue[Any], calls: Calls, settled: Settled) -> None:
    watermarks = q.watermarks(2, 0, on_high=calls.on_high)
    settled(q, watermarks)
    assert alive(watermarks)
    watermarks.close()
    assert not alive(watermarks)
    put(q, 5)
    watermarks.close()
    assert calls.none_left()


def test_the_end_of_the_block_closes(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(2, 0, on_high=calls.on_high) as watermarks:
        assert alive(watermarks)
    assert not alive(watermarks)


def test_closing_the_queue_ends_the_thread(make_queue: MakeQueue) -> None:
    q = make_queue()
    watermarks = q.watermarks(2, 0)
    q.close()
    assert not alive(watermarks)
    watermarks.close()


def test_close_waits_for_the_callback_that_is_running(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    entered, go = threading.Event(), threading.Event()
    done: list[int] = []

    def slow(level: int) -> None:
        entered.set()
        go.wait(GUARD)
        done.append(level)

    watermarks = q.watermarks(1, 0, on_high=slow)
    q.put(1)
    assert entered.wait(GUARD)
    closing = in_thread(watermarks.close)
    assert not closing.done()
    go.set()
    closing.result(GUARD)
    assert done == [1]


def test_a_callback_may_close_its_own_watermarks(q: mqlite.Queue[Any], calls: Calls, eventually: Eventually) -> None:
    made: list[mqlite.Watermarks] = []

    def once(level: int) -> None:
        made[0].close()
        calls.on_high(level)

    made.append(q.watermarks(2, 0, on_high=once, on_low=calls.on_low))
    put(q, 2)
    assert calls.next() == ("high", 2)
    eventually(lambda: not alive(made[0]))
    take(q, 2)
    assert calls.none_left()


def test_watermarks_outlast_a_shutdown_of_the_queue(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(2, 0, on_high=calls.on_high, on_low=calls.on_low):
        put(q, 2)
        assert calls.next() == ("high", 2)
        q.shutdown()
        take(q, 2)
        assert calls.next() == ("low", 0)


def test_a_closed_queue_has_no_watermarks(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.close()
    with pytest.raises(mqlite.Closed):
        q.watermarks(2, 0)


def test_watermarks_cannot_be_pickled(q: mqlite.Queue[Any]) -> None:
    with q.watermarks(2, 0) as watermarks, pytest.raises(TypeError, match="watermarks"):
        pickle.dumps(watermarks)


# ---------------------------------------------------------------------- other processes
def in_child(act: Callable[[], None]) -> None:
    """Run in a forked process; fails where that fails."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_another_process_puts_and_takes_is_seen(path: str, calls: Calls) -> None:
    q: mqlite.Queue[Any] = mqlite.Queue("q", path)

    def fill() -> None:
        with mqlite.Queue[Any]("q", path) as mine:
            put(mine, 5)

    def drain() -> None:
        with mqlite.Queue[Any]("q", path) as mine:
            take(mine, 4)

    with q.watermarks(5, 1, on_high=calls.on_high, on_low=calls.on_low):
        in_child(fill)
        assert calls.next() == ("high", 5)
        in_child(drain)
        assert calls.next() == ("low", 1)
    assert q.check() == []
    q.close()


def test_a_forked_child_calls_nothing_and_closes_without_waiting(q: mqlite.Queue[Any], calls: Calls) -> None:
    mine = Calls()
    with q.watermarks(2, 0, on_high=calls.on_high, on_low=calls.on_low) as watermarks:

        def child() -> None:
            watermarks._on_high = mine.on_high
            with q.watermarks(100, 0):
                pass
            put(q, 2)
            watermarks.close()
            assert not alive(watermarks)
            assert mine.none_left()
            q.close()

        in_child(child)
        if q._channel.store.in_memory:
            put(q, 2)
        assert calls.next() == ("high", 2)  # the parent's go on


def test_a_child_may_have_watermarks_of_its_own(q: mqlite.Queue[Any], calls: Calls) -> None:
    with q.watermarks(2, 0, on_high=calls.on_high):

        def child() -> None:
            mine = Calls()
            with q.watermarks(2, 0, on_high=mine.on_high):
                put(q, 2)
                assert mine.next() == ("high", 2)

        in_child(child)


# ---------------------------------------------------------------------- bad values
@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"high": 0, "low": 0}, ValueError, "high"),
        ({"high": "5", "low": 0}, TypeError, "high"),
        ({"high": True, "low": 0}, TypeError, "high"),
        ({"high": 5.0, "low": 0}, TypeError, "high"),
        ({"high": 5, "low": 5}, ValueError, "low"),
        ({"high": 5, "low": 6}, ValueError, "low"),
        ({"high": 5, "low": -1}, ValueError, "low"),
        ({"high": 5, "low": None}, TypeError, "low"),
        ({"high": 5, "low": 1.5}, TypeError, "low"),
        ({"high": 5, "low": 1, "on_high": "print"}, TypeError, "on_high"),
        ({"high": 5, "low": 1, "on_low": 5}, TypeError, "on_low"),
    ],
)
def test_bad_values_are_told_and_start_no_thread(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str) -> None:
    before = threading.active_count()
    with pytest.raises(error, match=named):
        q.watermarks(**options)
    assert threading.active_count() == before
