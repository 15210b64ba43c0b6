"""maxbytes is exact: what fits to the byte is taken, one byte more is not; who waits for bytes gets them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contents import bodies
from fixture_types import InThread, MakeQueue, UntilWaiting

import mqlite
from mqlite.claims import Kind

GUARD = 60.0
BODY = b"x" * 100


@pytest.fixture
def size_of() -> Iterator[Callable[..., int]]:
    """size_of(queue, body, **options): what stats().bytes counts for such a message, measured on another queue."""
    made: list[mqlite.Queue[Any]] = []

    def measure(queue: mqlite.Queue[Any], body: Any = BODY, **options: Any) -> int:
        scale: mqlite.Queue[Any] = mqlite.Queue(f"scale {len(made)}", queue._channel.store.path)
        made.append(scale)
        scale.put(body, **options)
        return scale.stats().bytes

    yield measure
    for queue in made:
        queue.close()


SizeOf = Callable[..., int]


# ---------------------------------------------------------------------- exact
def test_what_fits_exactly_is_taken_and_a_byte_less_of_room_refuses_it(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    size = size_of(q)
    q.configure(maxbytes=3 * size)
    for _ in range(3):
        q.put(BODY, timeout=0)
    assert q.stats().bytes == 3 * size
    with pytest.raises(mqlite.Full, match=f"maxbytes={3 * size}"):
        q.put(b"x", timeout=0)
    q.get(timeout=0)
    q.configure(maxbytes=3 * size - 1)
    with pytest.raises(mqlite.Full):
        q.put(BODY, timeout=0)
    assert q.stats().bytes == 2 * size


def test_a_body_with_one_byte_more_does_not_fit(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=2 * size_of(q))
    q.put(BODY)
    with pytest.raises(mqlite.Full):
        q.put(BODY + b"x", timeout=0)
    q.put(BODY, timeout=0)


@pytest.mark.parametrize("body", [b"x" * 100, "x" * 100])
def test_bytes_and_texts_count(make_queue: MakeQueue, size_of: SizeOf, body: Any) -> None:
    q = make_queue()
    size = size_of(q, body)
    assert size >= 100
    q.configure(maxbytes=size)
    q.put(body)
    with pytest.raises(mqlite.Full):
        q.put(body, timeout=0)


def test_in_memory_other_bodies_count_nothing() -> None:
    q: mqlite.Queue[Any] = mqlite.Queue(maxbytes=10)
    q.put_many([list(range(100))] * 100)
    assert (len(q), q.stats().bytes) == (100, 0)
    q.close()


def test_a_batch_is_taken_whole_or_not_at_all(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=3 * size_of(q))
    q.put(BODY)
    with pytest.raises(mqlite.Full):
        q.put_many([BODY] * 3, timeout=0)
    assert len(q) == 1
    q.put_many([BODY] * 2, timeout=0)
    assert len(q) == 3


def test_claimed_and_delayed_messages_count(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=size_of(q) + size_of(q, delay=60))
    q.put(BODY)
    [held] = q.receive(timeout=0)
    q.put(BODY, delay=60)
    with pytest.raises(mqlite.Full):
        q.put(BODY, timeout=0)
    held.ack()
    q.put(BODY, timeout=0)


def test_dead_letters_do_not_count(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=size_of(q))
    for _ in range(3):
        q.put(BODY, timeout=0)
        q.receive(timeout=0)[0].reject()
    assert (q.stats().bytes, q.stats().dead) == (0, 3)


@pytest.mark.parametrize(("limits", "count"), [({"maxsize": 2, "maxbytes": 5}, 2), ({"maxsize": 5, "maxbytes": 2}, 2)])
def test_of_maxsize_and_maxbytes_the_smaller_one_holds(make_queue: MakeQueue, size_of: SizeOf, limits: dict[str, int], count: int) -> None:
    q = make_queue(overflow="reject")
    q.configure(maxsize=limits["maxsize"], maxbytes=limits["maxbytes"] * size_of(q))
    for _ in range(count):
        q.put(BODY)
    with pytest.raises(mqlite.Full):
        q.put(BODY)


def test_full_says_whether_a_put_would_wait(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=size_of(q))
    assert not q.full()
    q.put(BODY)
    assert q.full()


# ---------------------------------------------------------------------- what can never fit
def test_a_message_that_can_never_fit_is_too_large_at_once(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=size_of(q) - 1)
    for put in (lambda: q.put(BODY), lambda: q.put(BODY, timeout=None, headers={}), lambda: q.put(BODY, group="g"), lambda: q.put_many([BODY])):
        with pytest.raises(mqlite.MessageTooLarge, match="maxbytes"):
            put()
    assert q.stats().bytes == 0
    q.configure(maxbytes=size_of(q))
    q.put(BODY, timeout=0)


def test_a_batch_that_can_never_fit_is_a_value_error(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=2 * size_of(q))
    with pytest.raises(ValueError, match="maxbytes"):
        q.put_many([BODY] * 3)
    assert len(q) == 0


def test_a_producer_tells_of_the_one_that_can_never_fit_and_stores_the_others(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    q.configure(maxbytes=2 * size_of(q))
    producer = q.producer()
    receipts = [producer.put(body) for body in (BODY, b"x" * 10_000, BODY)]
    with pytest.raises(mqlite.MessageTooLarge):
        producer.close()
    assert [type(receipt.error) for receipt in receipts] == [type(None), mqlite.MessageTooLarge, type(None)]
    assert bodies(q) == [BODY, BODY]


def test_what_can_never_fit_becomes_a_dead_letter_where_overflow_says_so(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="dead_letter")
    q.configure(maxbytes=size_of(q) - 1)
    q.put(BODY)
    [letter] = q.dead.receive(timeout=0)
    assert letter.death is not None
    assert (letter.death.reason, letter.body, len(q)) == ("overflow", BODY, 0)


def test_drop_oldest_drops_nothing_for_what_can_never_fit(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="drop_oldest")
    q.configure(maxbytes=2 * size_of(q))
    q.put_many([BODY, BODY])
    with pytest.raises(mqlite.MessageTooLarge):
        q.put(b"x" * 10_000)
    assert len(q) == 2


# ---------------------------------------------------------------------- waiting for bytes
def by_get(q: mqlite.Queue[Any]) -> None:
    q.get(timeout=0)


def by_ack(q: mqlite.Queue[Any]) -> None:
    q.receive(timeout=0)[0].ack()


def by_reject(q: mqlite.Queue[Any]) -> None:
    q.receive(timeout=0)[0].reject()


def by_purge(q: mqlite.Queue[Any]) -> None:
    q.purge()


def by_cancel(q: mqlite.Queue[Any]) -> None:
    assert q.cancel(q.peek()[0].id)


def by_configure(q: mqlite.Queue[Any]) -> None:
    q.configure(maxbytes=0)


@pytest.mark.parametrize("free", [by_get, by_ack, by_reject, by_purge, by_cancel, by_configure])
def test_a_put_that_waits_for_bytes_is_woken(
    make_queue: MakeQueue, size_of: SizeOf, in_thread: InThread, until_waiting: UntilWaiting, free: Callable[[mqlite.Queue[Any]], None]
) -> None:
    q = make_queue()
    q.configure(maxbytes=size_of(q))
    q.put(BODY)
    waiting = in_thread(q.put, b"y" * 100, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    free(q)
    waiting.result(GUARD)
    stored = bodies(q)[-1:]
    assert stored == [b"y" * 100] or (free is by_purge and not stored)  # a purge may take what is put meanwhile


def test_a_put_that_waits_is_woken_by_what_expires(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(expired="drop")
    q.configure(maxbytes=size_of(q, ttl=1))
    q.put(BODY, ttl=0.05)
    q.put(b"y" * 50, timeout=GUARD)
    assert bodies(q) == [b"y" * 50]


def test_a_large_put_that_waits_does_not_keep_a_small_one_out(make_queue: MakeQueue, size_of: SizeOf, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue()
    q.configure(maxbytes=4 * size_of(q))
    q.put_many([BODY] * 4)
    large = in_thread(q.put, b"l" * len(BODY) * 3, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    small = in_thread(q.put, b"s", timeout=GUARD)
    until_waiting(q, Kind.SPACE, 2)
    q.get(timeout=0)
    small.result(GUARD)
    assert not large.done()
    for _ in range(3):
        q.get(timeout=0)
    large.result(GUARD)
    assert bodies(q) == [b"s", b"l" * len(BODY) * 3]


def test_a_put_that_waits_and_can_never_fit_any_more_is_not_taken(make_queue: MakeQueue, size_of: SizeOf, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue()
    size = size_of(q)
    q.configure(maxbytes=2 * size)
    q.put_many([BODY] * 2)
    waiting = in_thread(q.put, BODY, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    q.configure(maxbytes=size - 1)
    q.purge()
    until_waiting(q, Kind.SPACE)
    q.configure(maxbytes=size)
    waiting.result(GUARD)
    assert q.stats().bytes == size


# ---------------------------------------------------------------------- the other policies
def test_reject_goes_by_bytes(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="reject")
    q.configure(maxbytes=size_of(q))
    q.put(BODY)
    with pytest.raises(mqlite.Full):
        q.put(BODY, timeout=GUARD)


def test_drop_oldest_drops_as_many_as_it_takes_and_no_more(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="drop_oldest")
    q.configure(maxbytes=5 * size_of(q))
    q.put_many([bytes([number]) * 100 for number in range(5)])
    q.put(b"l" * 150)  # more than one, less than two of them
    assert bodies(q) == [*(bytes([number]) * 100 for number in (2, 3, 4)), b"l" * 150]


def test_drop_oldest_raises_full_and_drops_nothing_where_held_bytes_are_in_the_way(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="drop_oldest")
    q.configure(maxbytes=3 * size_of(q))
    q.put_many([BODY] * 3)
    held = q.receive(2, timeout=0)
    with pytest.raises(mqlite.Full):
        q.put(b"l" * 150, timeout=GUARD)
    assert (len(q), q.stats().claimed) == (1, 2)
    q.ack_many(held)


def test_dead_letter_keeps_what_fits(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="dead_letter")
    q.configure(maxbytes=2 * size_of(q))
    q.put_many([BODY, b"l" * 150, BODY, BODY])
    assert (bodies(q), bodies(q.dead)) == ([BODY, BODY], [b"l" * 150, BODY])


# ---------------------------------------------------------------------- the rest
def test_maxbytes_is_stored_and_holds_for_every_handle(path: str, size_of: SizeOf) -> None:
    with mqlite.Queue[Any]("q", path) as q:
        limit = 2 * size_of(q)
        q.configure(maxbytes=limit)
        q.put(BODY)
    with mqlite.Queue[Any]("q", path) as q, mqlite.Queue[Any]("q", path, maxbytes=limit) as other:
        q.put(BODY)
        with pytest.raises(mqlite.Full):
            other.put(BODY, timeout=0)


def test_a_smaller_maxbytes_removes_nothing(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue()
    size = size_of(q)
    q.put_many([BODY] * 3)
    q.configure(maxbytes=2 * size)
    with pytest.raises(mqlite.Full):
        q.put(BODY, timeout=0)
    q.get(timeout=0)
    with pytest.raises(mqlite.Full):
        q.put(BODY, timeout=0)
    q.get(timeout=0)
    q.put(BODY, timeout=0)
    assert len(q) == 2


@pytest.mark.parametrize("limit", ["maxsize", "maxbytes"])
def test_redrive_stays_within_the_limits_and_loses_nothing(make_queue: MakeQueue, size_of: SizeOf, limit: str) -> None:
    q = make_queue()
    q.put_many([BODY] * 3)
    for message in q.receive(3, timeout=0):
        message.reject()
    q.configure(**{limit: 2 if limit == "maxsize" else 2 * size_of(q)})
    with pytest.raises(mqlite.Full, match=limit):
        q.redrive()
    assert (len(q), q.stats().dead, q.dead.stats().claimed) == (0, 3, 0)
    assert q.redrive(max=2) == 2
    with pytest.raises(mqlite.Full):
        q.redrive(rate=1)
    q.get(timeout=0)
    assert q.redrive() == 1
    assert (len(q), q.stats().dead) == (2, 0)


def test_a_redriven_message_is_as_large_as_it_was(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.put(BODY, headers={"a": 1})
    size = q.stats().bytes
    q.receive(timeout=0)[0].reject("why")
    q.configure(maxbytes=size)
    assert (q.redrive(), q.stats().bytes) == (1, size)


def test_a_replacement_needs_only_what_it_has_more(make_queue: MakeQueue, size_of: SizeOf) -> None:
    q = make_queue(overflow="reject")
    q.configure(maxbytes=2 * size_of(q, replace_key="k"))
    q.put(BODY, replace_key="k")
    q.put(BODY, replace_key="other")
    q.put(b"y" * 100, replace_key="k")
    with pytest.raises(mqlite.Full):
        q.put(b"y" * 101, replace_key="k")
    assert bodies(q) == [b"y" * 100, BODY]


@pytest.mark.parametrize("overflow", ["block", "reject", "drop_oldest", "dead_letter"])
def test_threads_that_put_at_once_never_exceed_maxbytes(make_queue: MakeQueue, size_of: SizeOf, in_thread: InThread, overflow: str) -> None:
    q = make_queue(overflow=overflow)
    limit = 5 * size_of(q)
    q.configure(maxbytes=limit)
    over = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not over.is_set():
            seen.append(q.stats().bytes)

    def take() -> None:
        while not over.is_set():
            try:
                q.get(timeout=0.01)
            except mqlite.Empty:
                pass

    def put() -> None:
        for number in range(60):
            try:
                if number % 5 == 4:
                    q.put_many([b"x" * 20] * 3)
                else:
                    q.put(b"x" * (number * 37 % 120))
            except mqlite.Full:
                pass

    helpers = [in_thread(watch), in_thread(take)]
    for putter in [in_thread(put) for _ in range(4)]:
        putter.result(GUARD)
    over.set()
    for helper in helpers:
        helper.result(GUARD)
    assert seen
    assert max(seen) <= limit
