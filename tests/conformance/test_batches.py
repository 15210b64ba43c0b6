"""put_many and ack_many: all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind


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


def test_put_many_of_bodies_of_all_kinds_brings_them_back(q: mqlite.Queue[Any]) -> None:
    bodies = [b"bytes", "text", {"k": [1, None]}, 2.5, b"", ""]
    q.put_many(bodies)
    assert [m.body for m in q.receive(9)] == bodies


def test_messages_of_a_batch_say_when_they_were_put_and_that_they_were_claimed_once(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    messages = q.receive(3)
    assert {(m.enqueued_ns > 0, m.delivery_count, m.acquired_count, m.headers == {}, m.type) for m in messages} == {(True, 0, 1, True, None)}


def test_what_is_said_of_some_messages_of_a_batch_is_said_of_no_others(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        for n in range(6):
            producer.put(n, **({"headers": {"n": n}, "type": "t"} if n % 2 else {}))
    assert [(m.body, m.headers, m.type) for m in q.receive(6)] == [(n, {"n": n}, "t") if n % 2 else (n, {}, None) for n in range(6)]


@pytest.mark.parametrize("options", [{"delay": 60}, {"ttl": 60}, {"group": "g"}], ids=["delay", "ttl", "group"])
def test_one_message_of_a_producer_that_asks_for_more_changes_none_of_the_others(q: mqlite.Queue[Any], options: dict[str, Any]) -> None:
    with q.producer() as producer:
        receipts = [producer.put(n, **(options if n == 3 else {})) for n in range(6)]
    assert [r.result() for r in receipts] == sorted(r.result() for r in receipts)
    assert {m.body for m in q.receive(9)} | {3} == set(range(6))


PRIORITIES = [0, 9, -5, 0, 2**31 - 1, -(2**31), 9, 0]


def test_a_batch_of_mixed_priorities_comes_in_their_order(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        for n in range(200):
            producer.put(n, priority=PRIORITIES[n % len(PRIORITIES)])
    expected = sorted(range(200), key=lambda n: -PRIORITIES[n % len(PRIORITIES)])
    found: list[int] = []
    for count in (1, 7, 90, 3, 99):  # what was taken before lies ahead of the rest of its priority
        messages = q.receive(count)
        assert {m.priority for m in messages} == {PRIORITIES[m.body % len(PRIORITIES)] for m in messages}
        found += [m.body for m in messages]
    assert found == expected


def test_all_of_a_priority_are_received_where_another_follows(make_queue: MakeQueue) -> None:
    q = make_queue()
    for size in (1, 7, 8, 9, 23, 24, 25):  # around the steps in which the log is read
        q.put_many([size] * size, priority=3)
        q.put_many([0] * 4, priority=2)
        assert [m.body for m in q.receive(size + 2)] == [size] * size + [0] * 2
        q.ack_many(q.receive(2))


def test_ack_many_takes_the_messages_in_any_order(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(50))
    q.put_many(range(50), priority=1)
    q.ack_many(reversed(q.receive(100)))
    assert (q.stats().ready, q.stats().claimed) == (0, 0)


@pytest.mark.parametrize("kept", [{0}, {99}, {50}, set(range(0, 100, 2)), set(range(40, 60))], ids=["first", "last", "middle", "every other", "a run"])
def test_ack_many_removes_what_it_names_and_nothing_beside_it(q: mqlite.Queue[Any], kept: set[int]) -> None:
    q.put_many(range(100))
    messages = q.receive(100)
    q.ack_many(m for m in messages if m.body not in kept)
    for m in messages:
        if m.body in kept:
            m.release()
    assert {m.body for m in q.receive(100)} == kept


@pytest.mark.parametrize("lost", [0, 50, 99])
@pytest.mark.parametrize("how", ["given back", "taken away"])
def test_one_lost_claim_among_a_hundred_removes_nothing(q: mqlite.Queue[Any], lost: int, how: str) -> None:
    q.put_many(range(100))
    messages = q.receive(100)
    if how == "given back":
        q._engine.release_all([messages[lost].lease.claim])  # type: ignore[attr-defined]
    else:
        q._engine.log.write(lambda txn: txn.remove(q._state.id, messages[lost].lease.claim.position))  # type: ignore[attr-defined]
    left = [m for m in messages if m is not messages[lost]]
    with pytest.raises(mqlite.LeaseLost):
        q.ack_many(messages)
    assert q.stats().claimed == 99
    q.ack_many(left)
    assert (q.stats().claimed, q.stats().ready) == (0, 1 if how == "given back" else 0)


@pytest.mark.parametrize("options", [{"ttl": 3600}, {"headers": {"h": 1}}, {"unique": "u"}], ids=["ttl", "headers", "unique"])
def test_ack_many_strikes_what_some_of_the_messages_are_found_by(q: mqlite.Queue[Any], options: dict[str, Any]) -> None:
    q.put_many(range(5))
    number = q.put(5, **options)
    q.put_many(range(6, 20))
    q.ack_many(q.receive(20))
    assert q.check() == []
    assert q.put(5, **options) != number


def test_a_queue_with_maxbytes_takes_batches_that_fit(make_queue: MakeQueue) -> None:
    q = make_queue(maxbytes=1500)
    q.put_many([b"x" * 100] * 8)
    with pytest.raises(mqlite.Full):
        q.put_many([b"x" * 100] * 8, block=False)
    assert q.qsize() == 8


def test_a_batch_waits_for_room(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=5)
    q.put_many(range(5))
    done = in_thread(q.put_many, [5, 6])
    until_waiting(q, Kind.SPACE)
    q.ack_many(q.receive(2))
    assert len(done.result(10)) == 2
    assert [m.body for m in q.receive(5)] == [2, 3, 4, 5, 6]


def test_ack_many_makes_room_in_every_consumer_whose_messages_it_takes(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(4))
    with q.consumer(prefetch=1) as one, q.consumer(prefetch=1) as other:
        q.ack_many([one.receive(), other.receive()])
        assert {one.receive(timeout=0).body, other.receive(timeout=0).body} == {2, 3}


def test_a_message_that_ack_many_has_settled_is_settled_once(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    messages = q.receive(2)
    q.ack_many(messages)
    for message in messages:
        with pytest.raises(mqlite.NotClaimed, match="acknowledged already"):
            message.ack()


def test_ack_many_leaves_out_what_a_transaction_is_to_settle(path: str) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q")
        q.put_many([1, 2])
        messages = q.receive(2)
        with broker.transaction() as tx:
            messages[1].ack(tx=tx)
            with pytest.raises(mqlite.NotClaimed, match="transaction"):
                q.ack_many(messages)
        messages[0].ack()
        assert q.qsize() == 0
