"""A consumer that has a queue for itself: exclusive, or one of many that stand by for it (failover)."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, UntilWaiting

import mqlite
from mqlite.claims import Kind

GUARD = 60.0
RESERVED = ("exclusive", "failover")


def active(q: mqlite.Queue[Any], mode: str, **options: Any) -> mqlite.Consumer:
    """A consumer that has the queue for itself."""
    consumer = q.consumer(mode=mode, **options)
    if mode == "failover":  # it asks for the queue when it asks for a message
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
    assert consumer.is_active
    return consumer


# ---------------------------------------------------------------------- the others
TAKERS: dict[str, Callable[[mqlite.Queue[Any], float | None], Any]] = {
    "get": lambda q, timeout: q.get(timeout=timeout),
    "receive": lambda q, timeout: q.receive(timeout=timeout),
    "a consumer": lambda q, timeout: q.consumer().receive(timeout=timeout),
    "a consumer with auto_ack": lambda q, timeout: q.consumer(prefetch=4, auto_ack=True).receive(timeout=timeout),
    "iteration": lambda q, timeout: next(q.consumer()),
}


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
@pytest.mark.parametrize("timeout", [0, None, 5])
@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("mode", RESERVED)
def test_all_others_are_refused_at_once(q: mqlite.Queue[Any], mode: str, taker: str, timeout: float | None, full: bool) -> None:
    with active(q, mode) as consumer:
        if full:
            q.put("x")
        with pytest.raises(mqlite.QueueLocked):
            TAKERS[taker](q, timeout)
        if full:
            assert consumer.receive(timeout=0).body == "x"


@pytest.mark.parametrize("mode", RESERVED)
def test_get_nowait_is_refused(q: mqlite.Queue[Any], mode: str) -> None:
    with active(q, mode), pytest.raises(mqlite.QueueLocked):
        q.get_nowait()


@pytest.mark.parametrize("mode", RESERVED)
def test_a_second_exclusive_consumer_is_refused_when_it_is_made(q: mqlite.Queue[Any], mode: str) -> None:
    with active(q, mode) as consumer:
        with pytest.raises(mqlite.QueueLocked, match="'q'"):
            q.consumer(mode="exclusive")
        assert consumer.is_active


def test_another_handle_of_the_same_process_is_somebody_else(path: str) -> None:
    with mqlite.Queue("q", path) as one, mqlite.Queue("q", path) as other, one.consumer(mode="exclusive"):
        one.put("x")
        for q in (one, other):
            with pytest.raises(mqlite.QueueLocked):
                q.get(timeout=0)


def test_queue_locked_is_an_error_of_the_package() -> None:
    assert issubclass(mqlite.QueueLocked, mqlite.MqliteError)
    assert not issubclass(mqlite.QueueLocked, mqlite.Empty)


def test_other_queues_of_the_store_are_free(backend: str, path: str) -> None:
    with mqlite.open(path if backend == "disk" else None) as broker:
        one, other = broker.queue("one"), broker.queue("other")
        other.put("x")
        with one.consumer(mode="exclusive"), other.consumer(mode="exclusive") as consumer:
            assert consumer.receive(timeout=0).body == "x"
        assert other.get(timeout=0) == "x"


def test_everything_but_taking_goes_on(q: mqlite.Queue[Any]) -> None:
    q.put("dies")
    q.receive()[0].reject()
    with q.consumer(mode="exclusive") as consumer:
        ids = q.put_many([0, 1, 2, 3])
        assert ([m.body for m in q.peek(9)], [m.body for m in q.browse()], q.qsize(), q.stats().ready) == ([0, 1, 2, 3], [0, 1, 2, 3], 4, 4)
        assert q.cancel(ids[0])
        assert q.update(ids[3], priority=1)
        assert q.redrive() == 1
        q.configure(max_deliveries=7)
        q.pause()
        q.resume()
        assert [consumer.receive(timeout=0).body] == [3]
        assert q.purge() == 3


def test_the_dead_letters_are_free(q: mqlite.Queue[Any]) -> None:
    with q.consumer(mode="exclusive") as consumer:
        q.put("dies")
        consumer.receive(timeout=0).reject()
        assert [m.body for m in q.dead.receive(timeout=0)] == ["dies"]


def test_what_others_hold_already_is_settled_by_them_and_comes_back_to_the_one(q: mqlite.Queue[Any]) -> None:
    q.put_many(["acked", "given back"])
    acked, back = q.receive(2)
    with q.consumer(mode="exclusive") as consumer:
        acked.ack()
        back.nack()
        m = consumer.receive(timeout=0)
        assert (m.body, m.delivery_count) == ("given back", 1)


def test_what_a_consumer_has_in_its_buffer_is_still_its_own(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    with q.consumer(prefetch=2) as shared:
        held = [shared.receive(timeout=0)]
        with q.consumer(mode="exclusive") as consumer:
            held.append(shared.receive(timeout=0))
            assert [m.body for m in held] == [1, 2]
            q.ack_many(held)
            with pytest.raises(mqlite.QueueLocked):
                shared.receive(timeout=0)
            assert consumer.receive(timeout=0).body == 3


@pytest.mark.parametrize("taker", ["get", "receive", "a consumer", "iteration"])
def test_who_waits_already_is_told_when_an_exclusive_consumer_comes(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, taker: str) -> None:
    waiting = [in_thread(TAKERS[taker], q, None) for _ in range(3)]
    until_waiting(q, n=3)
    with q.consumer(mode="exclusive"):
        for future in waiting:
            with pytest.raises(mqlite.QueueLocked):
                future.result(GUARD)


@pytest.mark.parametrize("mode", RESERVED)
def test_a_message_for_who_waited_goes_to_the_one_that_came(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, mode: str) -> None:
    plain = in_thread(q.get)
    until_waiting(q)
    with active(q, mode) as consumer:
        waiting = in_thread(consumer.receive)
        q.put("x")
        assert waiting.result(GUARD).body == "x"
        with pytest.raises(mqlite.QueueLocked):
            plain.result(GUARD)


# ---------------------------------------------------------------------- the one
@pytest.mark.parametrize("mode", RESERVED)
@pytest.mark.parametrize("auto_ack", [False, True])
def test_it_takes_messages_as_any_other(q: mqlite.Queue[Any], mode: str, auto_ack: bool) -> None:
    q.put_many(list(range(5)))
    with q.consumer(prefetch=3, auto_ack=auto_ack, mode=mode) as consumer:
        for n in range(5):
            message = consumer.receive(timeout=0)
            assert message.body == n
            if not auto_ack:
                message.ack()
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
    assert q.stats().claimed == q.qsize() == 0


@pytest.mark.parametrize("mode", RESERVED)
def test_it_is_woken_by_a_put(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, mode: str) -> None:
    with q.consumer(mode=mode) as consumer:
        waiting = in_thread(consumer.receive)
        until_waiting(q)
        q.put("x")
        assert waiting.result(GUARD).body == "x"


@pytest.mark.parametrize("mode", RESERVED)
def test_threads_share_it(q: mqlite.Queue[Any], in_thread: InThread, mode: str) -> None:
    with active(q, mode, prefetch=4) as consumer:

        def work() -> list[int]:
            taken = []
            for message in consumer:
                with message:
                    taken.append(message.body)
            return taken

        workers = [in_thread(work) for _ in range(3)]
        q.put_many(list(range(100)))
        q.join()
        consumer.close()
        assert sorted(body for worker in workers for body in worker.result(GUARD)) == list(range(100))


@pytest.mark.parametrize("mode", ["shared", *RESERVED])
def test_what_one_thread_has_prefetched_is_for_another_that_waits(
    q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    q.put_many([1, 2, 3])
    with q.consumer(prefetch=4, mode=mode) as consumer:
        held = [consumer.receive(timeout=0) for _ in range(3)]
        waiting = in_thread(consumer.receive)
        until_waiting(q)
        q.ack_many(held[:2])
        with monkeypatch.context() as patch:  # that thread is slow to wake
            patch.setattr(q._engine.presence.bell, "ring", lambda owner, sleeper: True)
            q.put_many([4, 5])
        mine = consumer.receive(timeout=0)  # takes both ahead, and hands out one
        assert sorted([mine.body, waiting.result(10).body]) == [4, 5]


@pytest.mark.parametrize("mode", RESERVED)
def test_closing_it_gives_back_what_it_holds_and_frees_the_queue(q: mqlite.Queue[Any], mode: str) -> None:
    q.put_many([1, 2, 3])
    consumer = q.consumer(prefetch=3, mode=mode)
    consumer.receive(timeout=0)
    assert q.stats().claimed == 3
    consumer.close()
    consumer.close()
    assert [(m.body, m.delivery_count) for m in q.receive(9, timeout=0)] == [(1, 0), (2, 0), (3, 0)]
    with q.consumer(mode="exclusive") as following:
        assert following.is_active


@pytest.mark.parametrize("mode", RESERVED)
def test_an_error_in_its_block_frees_the_queue(q: mqlite.Queue[Any], mode: str) -> None:
    q.put("x")
    with pytest.raises(RuntimeError), q.consumer(mode=mode) as consumer, consumer.receive(timeout=0):
        raise RuntimeError("fails")
    assert q.get(timeout=0) == "x"


@pytest.mark.parametrize("mode", RESERVED)
def test_closing_the_queue_frees_it_for_other_handles(path: str, mode: str) -> None:
    with mqlite.Queue("q", path) as other:
        q = mqlite.Queue[str]("q", path)
        consumer = active(q, mode)
        q.put("x")
        with pytest.raises(mqlite.QueueLocked):
            other.get(timeout=0)
        q.close()
        assert other.get(timeout=0) == "x"
        with pytest.raises(mqlite.Closed):
            consumer.receive(timeout=0)
        assert other.check() == []


@pytest.mark.parametrize("mode", RESERVED)
def test_one_that_was_forgotten_keeps_the_queue_until_that_is_closed(path: str, mode: str) -> None:
    with mqlite.Queue("q", path) as other:
        q = mqlite.Queue[str]("q", path)
        active(q, mode)
        gc.collect()
        with pytest.raises(mqlite.QueueLocked):
            other.get(timeout=0)
        q.close()
        with other.consumer(mode="exclusive") as following:
            assert following.is_active


@pytest.mark.parametrize("mode", RESERVED)
def test_closing_the_store_frees_it(path: str, mode: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("x")
        consumer = q.consumer(mode=mode)
        consumer.receive(timeout=0)
    with mqlite.Queue("q", path) as q:
        assert q.get(timeout=0) == "x"


def test_its_threads_that_wait_end_when_it_is_closed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    consumer = q.consumer(mode="exclusive")
    waiting = in_thread(list, consumer)
    until_waiting(q)
    consumer.close()
    assert waiting.result(GUARD) == []


@pytest.mark.parametrize("mode", RESERVED)
def test_it_ends_when_the_queue_is_shut_down_and_empty(q: mqlite.Queue[Any], mode: str) -> None:
    q.put("x")
    with q.consumer(mode=mode) as consumer:
        first = consumer.receive(timeout=0)
        q.shutdown()
        first.ack()
        assert list(consumer) == []


def test_a_group_is_in_order_for_it_too(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2], group="g")
    with q.consumer(prefetch=2, mode="exclusive") as consumer:
        first = consumer.receive(timeout=0)
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        first.ack()
        assert consumer.receive(timeout=0).body == 2


# ---------------------------------------------------------------------- those that stand by
def test_the_second_waits_while_the_first_is_active(q: mqlite.Queue[Any]) -> None:
    with q.consumer(mode="failover") as first, q.consumer(mode="failover") as second:
        q.put_many([1, 2])
        assert first.receive(timeout=0).body == 1
        with pytest.raises(mqlite.Empty):
            second.receive(timeout=0)
        assert (first.is_active, second.is_active) == (True, False)


def test_the_next_takes_over_when_the_active_one_is_closed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    first, second = active(q, "failover"), q.consumer(mode="failover")
    q.put("x")
    held = first.receive(timeout=0)
    waiting = in_thread(second.receive)
    until_waiting(q, Kind.STANDBY)
    first.close()
    message = waiting.result(GUARD)
    assert (message.body, message.delivery_count, second.is_active) == ("x", 0, True)
    with pytest.raises(mqlite.LeaseLost):
        held.ack()
    second.close()


def test_one_after_the_other_of_many_takes_over(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, eventually: Any) -> None:
    first = active(q, "failover")
    standing_by = [q.consumer(mode="failover") for _ in range(4)]
    waiting = {consumer: in_thread(consumer.receive) for consumer in standing_by}
    until_waiting(q, Kind.STANDBY, n=4)
    q.put_many(list(range(4)))  # not for them
    first.close()
    for number in range(4):
        eventually(lambda: any(future.done() for future in waiting.values()))
        [taker] = [consumer for consumer, future in waiting.items() if future.done()]
        message = waiting.pop(taker).result(GUARD)
        assert (message.body, taker.is_active) == (number, True)
        assert [consumer.is_active for consumer in waiting] == [False] * len(waiting)
        message.ack()
        taker.close()


def test_one_that_stands_by_is_active_when_it_has_taken_over_an_empty_queue(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, eventually: Any) -> None:
    first, second = active(q, "failover"), q.consumer(mode="failover")
    waiting = in_thread(second.receive)
    until_waiting(q, Kind.STANDBY)
    first.close()
    eventually(lambda: second.is_active)
    q.put("x")
    assert waiting.result(GUARD).body == "x"
    second.close()


def test_it_takes_over_from_an_exclusive_one(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with q.consumer(mode="failover") as second:
        q.put("x")
        with q.consumer(mode="exclusive"):
            with pytest.raises(mqlite.Empty):
                second.receive(timeout=0)
            assert not second.is_active
            waiting = in_thread(second.receive)
            until_waiting(q, Kind.STANDBY)
        assert waiting.result(GUARD).body == "x"
        assert second.is_active


def test_one_that_stands_by_takes_nothing_with_it_when_it_is_closed(q: mqlite.Queue[Any]) -> None:
    with active(q, "failover") as first:
        second = q.consumer(mode="failover")
        with pytest.raises(mqlite.Empty):
            second.receive(timeout=0)
        second.close()
        assert first.is_active
        with pytest.raises(mqlite.QueueLocked):
            q.get(timeout=0)
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)


def test_threads_of_one_that_stands_by_end_when_it_is_closed(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with active(q, "failover"):
        second = q.consumer(mode="failover")
        waiting = in_thread(list, second)
        until_waiting(q, Kind.STANDBY)
        second.close()
        assert waiting.result(GUARD) == []


def test_one_that_stands_by_is_told_of_a_shutdown(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    with active(q, "failover"), q.consumer(mode="failover") as second:
        waiting = in_thread(list, second)
        until_waiting(q, Kind.STANDBY)
        q.shutdown()
        assert waiting.result(GUARD) == []


def test_a_closed_one_is_not_active(q: mqlite.Queue[Any]) -> None:
    for mode in ("shared", *RESERVED):
        consumer = q.consumer(mode=mode)
        consumer.close()
        with pytest.raises(mqlite.Closed):
            _ = consumer.is_active


def test_a_shared_consumer_is_always_active(q: mqlite.Queue[Any]) -> None:
    with q.consumer() as one, q.consumer(mode="shared") as other:
        assert (one.is_active, other.is_active) == (True, True)


@pytest.mark.parametrize("mode", ["", "Exclusive", None, 1, True])
def test_a_bad_mode_is_told(q: mqlite.Queue[Any], mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        q.consumer(mode=mode)


def test_a_mode_travels_with_a_pickled_consumer(disk_queue: mqlite.Queue[Any]) -> None:
    with disk_queue.consumer(mode="failover") as first:
        disk_queue.put("x")
        with pickle.loads(pickle.dumps(first)) as second:
            assert first.receive(timeout=0).body == "x"
            assert (second.mode, second.is_active) == ("failover", False)
    with disk_queue.consumer(mode="exclusive") as only:
        pickled = pickle.dumps(only)
        with pytest.raises(mqlite.QueueLocked):
            pickle.loads(pickled)
    with pickle.loads(pickled) as again:
        assert again.is_active
