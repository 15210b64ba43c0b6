"""A paused queue hands nothing out and takes everything in, for every process, until it is resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind

GUARD = 60.0


@pytest.fixture
def two(backend: str, path: str) -> Any:
    """Two handles on one queue, in one store."""
    broker = mqlite.open(path if backend == "disk" else None)
    handles = broker.queue("q"), broker.queue("q")
    yield handles
    assert broker.check() == []
    for handle in handles:
        handle.close()
    broker.close()


# ---------------------------------------------------------------------- nothing goes out
@pytest.mark.parametrize(
    "take",
    [
        lambda q: q.get(timeout=0),
        lambda q: q.get_nowait(),
        lambda q: q.get(timeout=0.01),
        lambda q: q.receive(5, timeout=0),
        lambda q: q.receive(timeout=0.01),
        lambda q: q.consumer().receive(timeout=0),
        lambda q: q.consumer(prefetch=3, auto_ack=True).receive(timeout=0),
        lambda q: q.consumer(mode="exclusive").receive(timeout=0),
        lambda q: q.consumer(mode="failover").receive(timeout=0),
    ],
)
def test_a_paused_queue_hands_nothing_out(q: mqlite.Queue[Any], take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q.put_many([1, 2])
    q.pause()
    with pytest.raises(mqlite.Empty):
        take(q)
    assert (q.stats().ready, q.stats().claimed) == (2, 0)


def test_is_paused_tells(two: Any) -> None:
    one, other = two
    assert not one.is_paused
    one.pause()
    assert (one.is_paused, other.is_paused) == (True, True)
    other.resume()
    assert (one.is_paused, other.is_paused) == (False, False)


def test_pausing_and_resuming_twice_is_once(q: mqlite.Queue[Any]) -> None:
    q.resume()
    q.pause()
    q.pause()
    assert q.is_paused
    q.resume()
    assert not q.is_paused
    q.put(1)
    assert q.get(timeout=0) == 1


def test_a_pause_holds_for_the_other_handle(two: Any) -> None:
    one, other = two
    one.put(1)
    one.pause()
    with pytest.raises(mqlite.Empty):
        other.get(timeout=0)
    other.resume()
    assert one.get(timeout=0) == 1


def test_only_that_queue_is_paused(make_queue: MakeQueue) -> None:
    q, other = make_queue("q"), make_queue("other")
    q.pause()
    other.put(1)
    assert (other.get(timeout=0), other.is_paused) == (1, False)


def test_after_a_pause_the_order_is_as_it_was(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.pause()
    q.put(3, priority=1)
    q.put(2)
    q.resume()
    assert [q.get(timeout=0) for _ in range(3)] == [3, 1, 2]


# ---------------------------------------------------------------------- everything else goes on
def test_puts_of_all_kinds_go_on(q: mqlite.Queue[Any]) -> None:
    q.pause()
    q.put(1)
    q.put_many([2, 3])
    with q.producer() as producer:
        producer.put(4)
    q.put(5, delay=60)
    assert (len(q), q.stats().delayed, [message.body for message in q.peek(9)], q.empty()) == (4, 1, [1, 2, 3, 4], False)


def test_settling_goes_on(q: mqlite.Queue[Any]) -> None:
    q.put_many(list(range(6)))
    held = q.receive(6, timeout=0)
    q.pause()
    held[0].ack()
    held[1].nack()
    held[2].nack(delay=60)
    held[3].reject()
    held[4].release()
    held[5].extend(60)
    q.ack_many(held[5:])
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead) == (2, 1, 0, 1)


def test_what_was_given_back_waits_for_the_resume(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    [message] = q.receive(timeout=0)
    q.pause()
    message.nack()
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0)
    q.resume()
    [message] = q.receive(timeout=0)
    assert message.delivery_count == 1


def test_maxsize_holds_while_paused(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.pause()
    q.put(1)
    with pytest.raises(mqlite.Full):
        q.put(2, timeout=0)


def test_what_a_consumer_has_prefetched_still_goes_out(q: mqlite.Queue[Any]) -> None:
    q.put_many(list(range(5)))
    with q.consumer(prefetch=3) as consumer:
        found = [consumer.receive(timeout=0)]
        q.pause()
        found += [consumer.receive(timeout=0) for _ in range(2)]
        for message in found:
            message.ack()
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        q.resume()
        assert [message.body for message in found] == [0, 1, 2]
        assert consumer.receive(timeout=0).body == 3


def test_removing_and_moving_go_on(q: mqlite.Queue[Any]) -> None:
    q.pause()
    ids = q.put_many(list(range(4)))
    assert q.cancel(ids[0])
    assert q.update(ids[1], priority=-1)
    assert [message.body for message in q.browse()] == [2, 3, 1]
    assert q.purge() == 3


def test_redrive_goes_on(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.receive(timeout=0)[0].reject()
    q.pause()
    assert q.dead.peek()[0].body == 1
    assert (q.redrive(), len(q)) == (1, 1)


def test_dead_letters_are_handed_out_while_the_queue_is_paused(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.receive(timeout=0)[0].reject()
    q.pause()
    assert q.dead.get(timeout=0) == 1


def test_what_expires_while_paused_expires(make_queue: MakeQueue, eventually: Callable[..., None]) -> None:
    q = make_queue()
    q.pause()
    q.put(1, ttl=0.01)
    eventually(lambda: q.stats().dead == 1)
    assert len(q) == 0


def test_delayed_messages_line_up_while_paused(q: mqlite.Queue[Any], eventually: Callable[..., None]) -> None:
    q.pause()
    q.put(1, delay=0.01)
    eventually(lambda: len(q) == 1)
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)


def test_join_waits_for_a_paused_queue(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put(1)
    q.pause()
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    assert not joined.done()
    q.resume()
    q.receive(timeout=0)[0].ack()
    joined.result(GUARD)


def test_join_of_an_empty_paused_queue_returns(q: mqlite.Queue[Any]) -> None:
    q.pause()
    q.join()
    assert q.unfinished_tasks == 0


def test_task_done_goes_on(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.get(timeout=0)
    q.pause()
    q.task_done()
    q.join()
    assert q.unfinished_tasks == 0


# ---------------------------------------------------------------------- waking
@pytest.mark.parametrize("take", ["get", "receive", "consume"])
def test_who_waits_is_woken_by_a_resume(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, take: str) -> None:
    q.pause()
    q.put("x")

    def wait() -> Any:
        if take == "get":
            return q.get(timeout=GUARD)
        if take == "receive":
            [message] = q.receive(timeout=GUARD)
        else:
            message = q.consumer().receive(timeout=GUARD)
        message.ack()
        return message.body

    waiting = in_thread(wait)
    until_waiting(q)
    q.resume()
    assert waiting.result(GUARD) == "x"


def test_all_who_wait_are_woken_by_a_resume(two: Any, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, other = two
    one.pause()
    waiting = [in_thread(queue.get, timeout=GUARD) for queue in (one, other, one, other)]
    until_waiting(one, n=4)
    one.put_many(list(range(4)))
    other.resume()
    assert sorted(future.result(GUARD) for future in waiting) == [0, 1, 2, 3]


def test_who_began_to_wait_before_the_pause_waits_for_the_resume(two: Any, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, other = two
    waiting = in_thread(one.get, timeout=GUARD)
    until_waiting(one)
    other.pause()
    other.put("x")
    assert len(other) == 1
    until_waiting(one)
    other.resume()
    assert waiting.result(GUARD) == "x"


def test_who_waits_in_a_paused_queue_sleeps(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.pause()
    q.put_many(list(range(10)))
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    commits = q._engine.claims.last_commit()
    cpu = time.process_time()
    with pytest.raises(TimeoutError):
        waiting.result(0.3)
    assert q._engine.claims.last_commit() - commits < 50
    assert time.process_time() - cpu < 0.25
    q.resume()
    waiting.result(GUARD)


def test_closing_wakes_who_waits_in_a_paused_queue(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue()
    q.pause()
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.close()
    with pytest.raises(mqlite.Closed):
        waiting.result(GUARD)


# ---------------------------------------------------------------------- shutdown
def test_shutdown_of_an_empty_paused_queue_ends_who_waits(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.pause()
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        waiting.result(GUARD)


def test_what_is_left_in_a_paused_queue_that_was_shut_down_comes_after_the_resume(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    q.pause()
    q.shutdown()
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)
    q.resume()
    assert [q.get(timeout=0), q.get(timeout=0)] == [1, 2]
    with pytest.raises(mqlite.ShutDown):
        q.get(timeout=0)


def test_immediate_shutdown_ends_a_paused_queue_at_once(q: mqlite.Queue[Any]) -> None:
    q.put(1)
    q.pause()
    q.shutdown(immediate=True)
    with pytest.raises(mqlite.ShutDown):
        q.get(timeout=0)


# ---------------------------------------------------------------------- stored
def test_a_pause_is_stored(path: str) -> None:
    with mqlite.Queue[Any]("q", path) as q:
        q.put(1)
        q.pause()
    with mqlite.Queue[Any]("q", path) as q:
        assert q.is_paused
        with pytest.raises(mqlite.Empty):
            q.get(timeout=0)
        q.resume()
    with mqlite.Queue[Any]("q", path) as q:
        assert (q.is_paused, q.get(timeout=0)) == (False, 1)


def test_a_pause_is_kept_when_other_settings_change(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.pause()
    q.configure(maxsize=5, rate=3)
    assert q.is_paused
    q.resume()
    assert (q.maxsize, q._state.options.rate) == (5, 3)


def test_a_paused_queue_is_opened_with_its_other_settings_named(path: str) -> None:
    with mqlite.Queue[Any]("q", path, maxsize=3) as q:
        q.pause()
        with mqlite.Queue[Any]("q", path, maxsize=3) as other:
            assert other.is_paused


def test_another_process_pauses_and_resumes(path: str, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q: mqlite.Queue[Any] = mqlite.Queue("q", path)

    def in_child(act: Callable[[mqlite.Queue[Any]], None]) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with mqlite.Queue[Any]("q", path) as mine:
                    act(mine)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    in_child(lambda mine: mine.pause())
    assert q.is_paused
    q.put(1)
    with pytest.raises(mqlite.Empty):
        q.get(timeout=0)
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    in_child(lambda mine: mine.resume())
    assert waiting.result(GUARD) == 1
    assert q.check() == []
    q.close()


def test_a_dead_letter_queue_cannot_be_paused(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(mqlite.NotSupported, match="dead-letter"):
        q.dead.pause()


def test_paused_is_not_an_option_of_configure(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="paused"):
        q.configure(paused=True)


@pytest.mark.parametrize("call", [lambda q: q.pause(), lambda q: q.resume(), lambda q: q.is_paused])
def test_a_closed_queue_says_so(make_queue: MakeQueue, call: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = make_queue()
    q.close()
    with pytest.raises(mqlite.Closed):
        call(q)
