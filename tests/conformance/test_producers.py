"""Producer handles: buffered puts, receipts, errors that reach somebody."""

from __future__ import annotations

from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind


def test_leaving_the_block_stores_everything_in_order(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        for n in range(200):
            producer.put(n)
    assert [m.body for m in q.receive(500)] == list(range(200))


def test_after_a_flush_everything_is_stored(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        for n in range(50):
            producer.put(n)
        producer.flush()
        assert q.qsize() == 50


def test_messages_leave_without_a_flush(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        producer.put("x")
        assert q.get(timeout=10) == "x"


def test_a_receipt_waits_and_tells_the_id(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        receipt = producer.put("x")
        number = receipt.result(10)
        assert (receipt.done, receipt.error, receipt.item, q.receive()[0].id) == (True, None, "x", number)


def test_a_put_takes_all_options_of_a_message(q: mqlite.Queue[Any]) -> None:
    with q.producer(priority=5) as producer:
        producer.put("x", headers={"a": 1}, type="t", reply_to="r", correlation_id="c")
    [m] = q.receive()
    assert (m.priority, m.headers, m.type, m.reply_to, m.correlation_id) == (5, {"a": 1}, "t", "r", "c")


def test_a_put_may_name_another_priority_than_the_producer(q: mqlite.Queue[Any]) -> None:
    with q.producer(priority=5) as producer:
        producer.put("five")
        producer.put("nine", priority=9)
        producer.put("zero", priority=0)
    assert [(m.body, m.priority) for m in q.receive(3)] == [("nine", 9), ("five", 5), ("zero", 0)]


def test_a_flush_without_puts_returns_at_once(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        producer.flush()
        producer.flush(0)


def test_threads_may_share_a_producer(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    with q.producer() as producer:

        def put(first: int) -> None:
            for n in range(first, first + 100):
                producer.put(n)

        for future in [in_thread(put, 100 * n) for n in range(4)]:
            future.result(10)
    bodies = [m.body for m in q.receive(1000)]
    assert sorted(bodies) == list(range(400))
    assert all([b for b in bodies if b // 100 == n] == list(range(100 * n, 100 * n + 100)) for n in range(4))


def test_a_producer_waits_while_the_queue_is_full(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3)
    with q.producer() as producer:
        for n in range(20):
            producer.put(n)
        assert [q.get(timeout=10) for _ in range(20)] == list(range(20))


def test_a_producer_uses_every_place_that_is_free(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=2)
    q.put("held")
    [held] = q.receive()
    with q.producer() as producer:
        for n in range(10):
            producer.put(n)
        got = []
        try:
            for _ in range(10):
                got.append(q.get(timeout=3))
        except mqlite.Empty:
            pass
        held.ack()
        rest = [q.get(timeout=10) for _ in range(10 - len(got))]
    assert (got, rest) == (list(range(10)), [])


def test_the_producer_never_overshoots_maxsize(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=4)
    q.put_many(range(4))
    with q.producer() as producer:
        for n in range(10):
            producer.put(n)
        until_waiting(q, Kind.SPACE)
        before = q.qsize()
        for _ in range(14):
            q.get(timeout=10)
    assert before == 4


def test_a_full_buffer_raises_full_where_nobody_waits(make_queue: MakeQueue, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    with q.producer(max_buffered=2) as producer:
        producer.put(1)
        producer.put(2)
        for options in ({"block": False}, {"timeout": 0.001}):
            with pytest.raises(mqlite.Full):
                producer.put(3, **options)
        assert [q.get(timeout=10) for _ in range(3)] == ["first", 1, 2]


def test_a_put_into_a_full_buffer_waits_for_room(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    with q.producer(max_buffered=1) as producer:
        producer.put(1)
        put = in_thread(producer.put, 2)
        assert [q.get(timeout=10) for _ in range(3)] == ["first", 1, 2]
        assert put.result(10).result(10) > 0


def test_a_flush_that_cannot_end_in_time_raises_empty(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    with q.producer() as producer:
        producer.put("second")
        with pytest.raises(mqlite.Empty):
            producer.flush(0.001)
        q.get()


def test_a_receipt_that_is_not_done_in_time_raises_empty(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    with q.producer() as producer:
        receipt = producer.put("second")
        with pytest.raises(mqlite.Empty):
            receipt.result(0.001)
        assert (receipt.done, q.get()) == (False, "first")


# ---------------------------------------------------------------------- errors
def test_what_the_codec_refuses_is_told_by_put_itself(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        with q.producer() as producer:
            with pytest.raises(mqlite.CodecError):
                producer.put(object())
            producer.put("good")
        assert q.qsize() == 1


def test_a_body_that_is_too_large_is_told_by_put_itself(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=5)
    with q.producer() as producer, pytest.raises(mqlite.MessageTooLarge):
        producer.put(b"123456")
    assert q.qsize() == 0


def test_an_error_is_in_the_receipt_and_raised_by_flush_once(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    producer = q.producer()
    receipt = producer.put("second")
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        receipt.result(10)
    with pytest.raises(mqlite.ShutDown):
        producer.flush()
    producer.flush()
    producer.close()
    assert isinstance(receipt.error, mqlite.ShutDown)


def test_leaving_the_block_raises_what_could_not_be_stored(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("first")

    def produce() -> None:
        with q.producer() as producer:
            producer.put("second")
            q.shutdown()

    with pytest.raises(mqlite.ShutDown):
        produce()


def test_closing_the_queue_ends_a_producer_that_waits(make_queue: MakeQueue, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    producer = q.producer()
    receipt = producer.put("second")
    until_waiting(q, Kind.SPACE)
    q.close()
    with pytest.raises(mqlite.Closed):
        receipt.result(10)
    with pytest.raises(mqlite.Closed):
        producer.close()


def test_an_exception_in_the_block_goes_on_and_what_was_put_is_stored(q: mqlite.Queue[Any]) -> None:
    def produce() -> None:
        with q.producer() as producer:
            producer.put("x")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        produce()
    assert q.get(timeout=0) == "x"


def test_an_exception_in_the_block_is_not_hidden_by_what_could_not_be_stored(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("first")

    def produce() -> None:
        with q.producer() as producer:
            producer.put("second")
            q.shutdown()
            _ = 1 / 0

    with pytest.raises((ZeroDivisionError, mqlite.ShutDown)) as caught:
        produce()
    assert ZeroDivisionError in (type(caught.value), type(caught.value.__context__))


def test_a_closed_producer_takes_nothing_more(q: mqlite.Queue[Any]) -> None:
    producer = q.producer()
    producer.close()
    with pytest.raises(mqlite.Closed):
        producer.put("x")


def test_a_producer_may_be_closed_twice(q: mqlite.Queue[Any]) -> None:
    producer = q.producer()
    producer.put("x")
    producer.close()
    producer.close()
    assert q.qsize() == 1


def test_closing_wakes_puts_that_wait_for_room_in_the_buffer(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    producer = q.producer(max_buffered=1)
    producer.put(1)
    waiting = in_thread(producer.put, 2)
    closing = in_thread(producer.close)
    got = [q.get(timeout=10)]
    error = waiting.exception(10)
    got += [q.get(timeout=10) for _ in range(1 if error else 2)]
    closing.result(10)
    assert (got == ["first", 1] and isinstance(error, mqlite.Closed)) or got == ["first", 1, 2]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"priority": 2**31}, ValueError), ({"priority": "1"}, TypeError), ({"max_buffered": 0}, ValueError), ({"max_buffered": 1.5}, TypeError)],
)
def test_a_producer_refuses_bad_options(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        q.producer(**options)


@pytest.mark.parametrize("options", [{"priority": True}, {"headers": 5}, {"type": 5}, {"reply_to": b"x"}, {"timeout": "1"}])
def test_a_producer_s_put_refuses_bad_options(q: mqlite.Queue[Any], options: dict[str, Any]) -> None:
    with q.producer() as producer, pytest.raises(TypeError, match=next(iter(options))):
        producer.put("x", **options)
    assert q.qsize() == 0
