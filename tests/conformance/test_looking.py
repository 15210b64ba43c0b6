"""peek, browse, stats and check: looking without touching."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite


def counts(q: mqlite.Queue[Any]) -> tuple[int, int, int, int]:
    stats = q.stats()
    return stats.ready, stats.delayed, stats.claimed, stats.dead


# ---------------------------------------------------------------------- peek and browse
def test_peek_shows_the_next_message_and_leaves_it(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    assert ([m.body for m in q.peek()], q.qsize(), q.get()) == (["x"], 1, "x")


def test_peek_on_an_empty_queue_shows_nothing(q: mqlite.Queue[Any]) -> None:
    assert q.peek() == []


def test_peek_shows_n_messages_in_delivery_order(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    q.put("first", priority=1)
    assert [m.body for m in q.peek(3)] == ["first", 1, 2]


def test_peeking_does_not_count_as_a_delivery(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.peek()
    assert q.receive(timeout=0)[0].acquired_count == 1


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_peek_takes_a_positive_int(q: mqlite.Queue[Any], n: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="n is"):
        q.peek(n)


def test_browse_shows_all_ready_messages_in_delivery_order(q: mqlite.Queue[Any]) -> None:
    for n in range(600):
        q.put(n, priority=n % 2) if n < 20 else None
    q.put_many(range(20, 600))
    assert [m.body for m in q.browse()] == [*range(1, 20, 2), *range(0, 20, 2), *range(20, 600)]


def test_browse_passes_over_claimed_messages(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    _ = q.receive(1)
    assert [m.body for m in q.browse()] == [2, 3]


def test_browse_shows_what_was_given_back_in_its_place(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2, 3])
    q.receive(2)[0].nack()
    assert [m.body for m in q.browse()] == [1, 3]


def test_browse_shows_what_the_filter_accepts(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(10))
    assert [m.body for m in q.browse(lambda m: m.body % 3 == 0)] == [0, 3, 6, 9]


def test_a_filter_is_a_function(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="filter"):
        q.browse("x")  # type: ignore[arg-type]


def test_the_queue_can_be_changed_while_it_is_browsed(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(5))
    seen = []
    for message in q.browse():
        seen.append(message.body)
        q.get_nowait()
    assert (seen[0], len(seen) <= 5, q.qsize()) == (0, True, 5 - len(seen))


def test_messages_can_be_received_while_browsing(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(5))
    browsing = q.browse()
    first = next(browsing).body
    q.receive(timeout=0)[0].ack()
    assert (first, q.qsize()) == (0, 4)


def test_peek_after_a_failure_shows_the_failures_so_far(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.receive(timeout=0)[0].nack()
    q.receive(timeout=0)[0].release()
    [message] = q.peek()
    assert (message.delivery_count, message.acquired_count, message.redelivered) == (1, 2, True)


# ---------------------------------------------------------------------- stats
def test_the_stats_of_a_new_queue_are_zero(q: mqlite.Queue[Any]) -> None:
    stats = q.stats()
    assert (counts(q), stats.bytes, stats.oldest_age) == ((0, 0, 0, 0), 0, None)


def test_the_stats_follow_every_step(q: mqlite.Queue[Any]) -> None:
    seen = []
    q.put_many(range(4))
    seen.append(counts(q))
    a, b, c = q.receive(3)
    seen.append(counts(q))
    a.ack()
    seen.append(counts(q))
    b.nack()
    seen.append(counts(q))
    c.reject()
    seen.append(counts(q))
    q.get()
    seen.append(counts(q))
    assert seen == [(4, 0, 0, 0), (1, 0, 3, 0), (1, 0, 2, 0), (2, 0, 1, 0), (2, 0, 0, 1), (1, 0, 0, 1)]


def test_bytes_rise_with_puts_and_end_at_zero(q: mqlite.Queue[Any]) -> None:
    q.put(b"x" * 1000)
    large = q.stats().bytes
    q.put(b"y")
    larger = q.stats().bytes
    q.get()
    q.get()
    assert (large >= 1000, larger > large, q.stats().bytes) == (True, True, 0)


def test_claimed_messages_count_in_bytes(q: mqlite.Queue[Any]) -> None:
    q.put(b"x" * 100)
    before = q.stats().bytes
    _ = q.receive()
    assert q.stats().bytes == before


def test_the_oldest_age_is_that_of_the_first_put(q: mqlite.Queue[Any]) -> None:
    q.put("old", priority=-5)
    age = q.stats().oldest_age
    q.put("new", priority=5)
    later = q.stats().oldest_age
    assert age is not None
    assert later is not None
    assert later >= age >= 0


def test_the_oldest_age_is_none_when_all_was_acknowledged(q: mqlite.Queue[Any]) -> None:
    q.put("x")
    q.get()
    assert q.stats().oldest_age is None


def test_the_stats_of_dead_letters_are_their_own(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    for message in q.receive(2):
        message.reject()
    _ = q.dead.receive()
    assert (counts(q), counts(q.dead)) == ((0, 0, 0, 2), (1, 0, 1, 0))


def test_stats_survive_a_reopen_and_claims_do_not(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many(range(4))
        q.receive()[0].reject()
        _ = q.receive(2)
        size = q.stats().bytes
    with mqlite.Queue("q", path) as q:
        assert (counts(q), q.stats().bytes) == ((3, 0, 0, 1), size)


def test_stats_cannot_be_changed(q: mqlite.Queue[Any]) -> None:
    stats = q.stats()
    with pytest.raises(AttributeError):
        stats.ready = 5  # type: ignore[misc]


def test_after_an_immediate_shutdown_stats_and_qsize_agree_on_what_can_be_got(q: mqlite.Queue[Any]) -> None:
    q.put_many([1, 2])
    [message] = q.receive()
    q.shutdown(immediate=True)
    assert (q.qsize(), q.peek(), q.stats().claimed) == (0, [], 1)
    message.ack()


def test_a_healthy_queue_has_no_problems(q: mqlite.Queue[Any]) -> None:
    q.put_many(range(5))
    one, other = q.receive(2)
    one.nack()
    other.reject()
    assert q.check() == []


# ---------------------------------------------------------------------- brokers
def test_a_broker_lists_its_queues(path: str) -> None:
    with mqlite.open(path) as broker:
        broker.queue("b")
        broker.queue("a").put(1)
        assert (broker.queues(), {name: stats.ready for name, stats in broker.stats().items()}) == (["a", "b"], {"a": 1, "b": 0})


def test_the_queues_of_a_broker_in_memory_share_its_store() -> None:
    with mqlite.open() as broker:
        broker.queue("a").put(1)
        assert (broker.queue("a").get(timeout=0), broker.queues()) == (1, ["a"])


def test_a_broker_counts_queues_whose_codec_it_does_not_know(path: str) -> None:
    with mqlite.Queue("pickled", path, codec="pickle") as q:
        q.put({1, 2})
    with mqlite.open(path) as broker:
        assert broker.stats()["pickled"].ready == 1


def test_a_broker_and_a_queue_of_one_path_see_the_same_messages(path: str) -> None:
    with mqlite.open(path) as broker, mqlite.Queue("orders", path) as q:
        broker.queue("orders").put(1)
        assert (q.get(timeout=0), broker.check()) == (1, [])


@pytest.mark.parametrize("option", ["path", "durability", "max_store_bytes"])
def test_options_of_the_store_are_not_options_of_a_broker_s_queue(path: str, option: str) -> None:
    with mqlite.open(path) as broker, pytest.raises(TypeError, match=option):
        broker.queue("a", **{option: None})
