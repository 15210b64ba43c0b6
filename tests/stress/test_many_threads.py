"""Thousands of threads on one queue."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import mqlite

GUARD = 200.0


def _all_at_once(queue: mqlite.Queue[Any], threads: int, each: int) -> None:
    """Half of the threads put, half of them take; all are there before the first one begins."""
    barrier = threading.Barrier(threads + 1)
    errors: list[BaseException] = []
    found: list[Any] = []

    def put(number: int) -> None:
        barrier.wait(GUARD)
        for n in range(each):
            queue.put([number, n], timeout=GUARD)

    def take(number: int) -> None:
        barrier.wait(GUARD)
        for _ in range(each):
            if number % 4 == 1:
                found.append(queue.get(timeout=GUARD))
            else:
                [message] = queue.receive(timeout=GUARD)
                message.ack()
                found.append(message.body)

    def run(number: int) -> None:
        try:
            (take if number % 2 else put)(number)
        except BaseException as error:
            errors.append(error)

    size = threading.stack_size(256 * 1024)
    try:
        running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
    finally:
        threading.stack_size(size)
    barrier.wait(GUARD)
    for thread in running:
        thread.join(GUARD)
    assert not any(thread.is_alive() for thread in running)
    assert errors == []
    assert Counter(map(tuple, found)) == Counter((number, n) for number in range(0, threads, 2) for n in range(each))
    assert queue.empty()


def test_three_hundred_threads_put_and_take(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    _all_at_once(make_queue(), 300, 3)


def test_threads_put_and_take_through_a_narrow_queue(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    _all_at_once(make_queue(maxsize=2), 60, 10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_thousand_threads_put_and_take(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    _all_at_once(make_queue(), 3000, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_thousand_threads_wait_and_each_gets_one(disk_queue: mqlite.Queue[Any]) -> None:
    found: list[Any] = []
    size = threading.stack_size(256 * 1024)
    try:
        threads = [threading.Thread(target=lambda: found.append(disk_queue.get(timeout=GUARD))) for _ in range(3000)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(size)
    disk_queue.put_many(range(1500))
    for number in range(1500, 3000):
        disk_queue.put(number)
    for thread in threads:
        thread.join(GUARD)
    assert sorted(found) == list(range(3000))


def test_threads_that_share_a_consumer_and_a_producer_lose_nothing(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    queue = make_queue(max_deliveries=None)
    found: list[Any] = []
    with queue.producer() as producer, queue.consumer(prefetch=12) as consumer:

        def put(number: int) -> None:
            for n in range(100):
                producer.put([number, n])

        def take() -> None:
            for message in consumer:
                with message:
                    if message.delivery_count == 0 and message.id % 17 == 0:
                        message.nack()
                    else:
                        found.append(tuple(message.body))

        makers = [threading.Thread(target=put, args=(number,)) for number in range(4)]
        takers = [threading.Thread(target=take) for _ in range(6)]
        for thread in [*makers, *takers]:
            thread.start()
        for thread in makers:
            thread.join(GUARD)
        producer.flush()
        queue.join()
        queue.shutdown()
        for thread in takers:
            thread.join(GUARD)
            assert not thread.is_alive()
    assert Counter(found) == Counter((number, n) for number in range(4) for n in range(100))
