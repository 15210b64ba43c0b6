"""Higher priority first, first in first out within one: also with many at work at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import mqlite

GUARD = 60.0
PRIORITIES = (-3, 0, 0, 0, 7)


def _seed() -> random.Random:
    seed = time.time_ns() % 10**9
    print(f"seed {seed}")
    return random.Random(seed)


def _check_order(taken: list[tuple[int, int, int]], what: str) -> None:
    """(producer, number, priority) as one consumer took them: each producer's in order within a priority."""
    newest: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    for producer, number, priority in taken:
        assert newest[producer, priority] < number, f"{what}: {number} of producer {producer} came after {newest[producer, priority]}"
        newest[producer, priority] = number


def test_threads_take_each_producers_messages_in_order_within_a_priority(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    queue = make_queue()
    chance = _seed()
    each, producers, consumers = 150, 3, 3
    plans = [[(producer, number, chance.choice(PRIORITIES)) for number in range(each)] for producer in range(producers)]
    taken: list[list[tuple[int, int, int]]] = [[] for _ in range(consumers)]

    def produce(plan: list[tuple[int, int, int]]) -> None:
        for entry in plan:
            queue.put(list(entry), priority=entry[2])

    def consume(mine: list[tuple[int, int, int]], way: int) -> None:
        if way == 0:
            while (item := queue.get(timeout=GUARD)) != "end":
                mine.append(tuple(item))
            return
        if way == 1:
            with queue.consumer(prefetch=3) as consumer:
                for message in consumer:
                    message.ack()
                    if message.body == "end":
                        return
                    mine.append(tuple(message.body))
        while True:
            [message] = queue.receive(timeout=GUARD)
            message.ack()
            if message.body == "end":
                return
            mine.append(tuple(message.body))

    workers = [threading.Thread(target=consume, args=(mine, way)) for way, mine in enumerate(taken)]
    makers = [threading.Thread(target=produce, args=(plan,)) for plan in plans]
    for thread in [*workers, *makers]:
        thread.start()
    for thread in makers:
        thread.join(GUARD)
    for _ in workers:
        queue.put("end", priority=-9)
    for thread in workers:
        thread.join(GUARD)
        assert not thread.is_alive()
    assert Counter(entry for mine in taken for entry in mine) == Counter(entry for plan in plans for entry in plan)
    for mine in taken:
        _check_order(mine, "thread")


def test_processes_take_each_producers_messages_in_order_within_a_priority(path: str, children: Any) -> None:
    each, producers, consumers = 100, 3, 3
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    chance = _seed()
    seeds = [chance.randrange(1 << 30) for _ in range(producers)]

    def produce(talk: Any, producer: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        own = random.Random(seeds[producer])
        for number in range(each):
            priority = own.choice(PRIORITIES)
            mine.put([producer, number, priority], priority=priority)
        mine.close()

    def consume(talk: Any, way: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        taken = []
        with mine.consumer(prefetch=1 + way) as consumer:
            for message in consumer:
                message.ack()
                if message.body == "end":
                    break
                taken.append(message.body)
        talk.say(taken)
        mine.close()

    workers = [children.fork(consume, way) for way in range(consumers)]
    makers = [children.fork(produce, producer) for producer in range(producers)]
    for child in makers:
        child.end()
    for _ in workers:
        queue.put("end", priority=-9)
    taken = [[tuple(entry) for entry in child.hear()] for child in workers]
    for child in workers:
        child.end()
    assert Counter((producer, number) for mine in taken for producer, number, _ in mine) == Counter((p, n) for p in range(producers) for n in range(each))
    for mine in taken:
        _check_order(mine, "process")
    assert queue.check() == []
    queue.close()


def test_what_is_there_comes_in_exact_order_through_changing_consumers(make_queue: Callable[..., mqlite.Queue[Any]]) -> None:
    """Given back messages keep their place, whoever held them."""
    queue = make_queue(max_deliveries=None)
    chance = _seed()
    expected = []
    for number in range(120):
        priority = chance.choice(PRIORITIES)
        queue.put(number, priority=priority)
        expected.append((-priority, number))
    for _ in range(30):
        for message in queue.receive(chance.randint(1, 20), timeout=0):
            if chance.random() < 0.5:
                message.release()
            else:
                message.nack()
    with queue.consumer(prefetch=50) as consumer:
        consumer.receive(timeout=0)
    assert [queue.get(timeout=0) for _ in range(120)] == [number for _, number in sorted(expected)]
