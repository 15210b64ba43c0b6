"""put_many and ack_many: all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import MakeQueue

import mqlite


def test_put_many_returns_the_ids_in_order(q: mqlite.Queue[Any]) -> None:
    ids = q.put_many(["a", "b", "c"])
    assert [(m.id, m.body) for m in q.receive(3)] == list(zip(ids, "abc", strict=True))


def test_put_many_takes_any_iterable(q: mqlite.Queue[Any]) -> None:
    q.put_many(n * n for n in range(4))
    assert [m.body for m in q.receive(4)] == [0, 1, 4, 9]


def test_put_many_of_nothing_stores_nothing(q: mqlite.Queue[Any]) -> None:
    assert (q.put_many([]), q.qsize()) == ([], 0)


def test_the_options_of_put_many_hold_for_every_message(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2], priority=4, headers={"h": 1}, type="t", reply_to="r", correlation_id="c")
    assert {(m.priority, m.headers["h"], m.type, m.reply_to, m.correlation_id) for m in q.receive(2)} == {(4, 1, "t", "r", "c")}


def test_put_many_that_does_not_fit_stores_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3)
    q.put_many([1, 2])
    with pytest.raises(mqlite.Full):
        q.put_many([3, 4], block=False)
    assert q.qsize() == 2


def test_put_many_fills_a_queue_to_the_last_place(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3)
    q.put_many([1, 2, 3], block=False)
    assert q.full()


def test_put_many_that_can_never_fit_says_so(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=3)
    with pytest.raises(ValueError, match="never fit"):
        q.put_many([1, 2, 3, 4])
    assert q.qsize() == 0


def test_an_iterable_that_fails_stores_nothing(q: mqlite.Queue[Any]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        q.put_many(items())
    assert q.qsize() == 0


def test_one_body_that_is_too_large_stores_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=10)
    with pytest.raises(mqlite.MessageTooLarge):
        q.put_many([b"small", b"x" * 11])
    assert q.qsize() == 0


def test_one_body_that_the_codec_refuses_stores_nothing(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        with pytest.raises(mqlite.CodecError):
            q.put_many([1, object()])
        assert q.qsize() == 0


def test_put_many_after_shutdown_stores_nothing(q: mqlite.Queue[Any]) -> None:
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        q.put_many([1])
    assert q.qsize() == 0


def test_ack_many_acknowledges_all(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(5))
    q.ack_many(q.receive(5))
    assert (q.stats().ready, q.stats().claimed) == (0, 0)


def test_ack_many_of_nothing_is_no_error(q: mqlite.Queue[Any]) -> None:
    q.ack_many([])


def test_ack_many_takes_any_iterable(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(3))
    q.ack_many(m for m in q.receive(3))
    assert q.stats().claimed == 0


def test_ack_many_with_one_lost_claim_acknowledges_none(q: mqlite.Queue[Any]) -> None:
    q.put_many(["lost", "a", "b"])
    consumer = q.consumer()
    lost = consumer.receive(0)
    held = q.receive(2)
    consumer.close()
    with pytest.raises(mqlite.LeaseLost):
        q.ack_many([held[0], lost, held[1]])
    assert (q.stats().ready, q.stats().claimed) == (1, 2)


def test_after_a_failed_ack_many_the_good_messages_can_be_acknowledged(q: mqlite.Queue[Any]) -> None:
    q.put_many(["lost", "a"])
    consumer = q.consumer()
    lost = consumer.receive(0)
    [held] = q.receive()
    consumer.close()
    with pytest.raises(mqlite.LeaseLost):
        q.ack_many([held, lost])
    held.ack()
    assert q.stats().claimed == 0


def test_ack_many_with_one_settled_message_acknowledges_none(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    one, other = q.receive(2)
    one.ack()
    with pytest.raises(mqlite.NotClaimed):
        q.ack_many([other, one])
    assert q.stats().claimed == 1


def test_ack_many_refuses_a_message_that_is_named_twice(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [message] = q.receive()
    with pytest.raises(mqlite.NotClaimed, match="twice"):
        q.ack_many([message, message])
    assert q.stats().claimed == 1


def test_ack_many_refuses_what_is_no_message(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="messages"):
        q.ack_many([1])  # type: ignore[list-item]


def test_ack_many_refuses_messages_of_another_store(q: mqlite.Queue[Any]) -> None:
    other: mqlite.Queue[int] = mqlite.Queue()
    other.put(1)
    with pytest.raises(mqlite.NotClaimed, match="another store"):
        q.ack_many(other.receive())


def test_ack_many_takes_messages_of_several_queues_of_one_store(path: str) -> None:
    with mqlite.open(path) as broker:
        a, b = broker.queue("a"), broker.queue("b")
        a.put(1)
        b.put(2)
        a.ack_many([*a.receive(), *b.receive()])
        assert (a.stats().claimed, b.stats().claimed) == (0, 0)


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (None, TypeError), ("2", TypeError), (True, TypeError)])
def test_receive_takes_a_positive_int(q: mqlite.Queue[Any], count: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_messages"):
        q.receive(count)
