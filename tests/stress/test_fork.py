"""Handles survive a fork: also one while other threads of the parent are busy."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from typing import Any

import pytest

import mqlite

GUARD = 60.0


def test_a_forked_child_puts_into_the_queue_it_inherited(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    disk_queue.put("before")

    def child(talk: Any) -> None:
        disk_queue.put("from the child")
        talk.say(disk_queue.get(timeout=GUARD))

    forked = children.fork(child)
    assert forked.hear() == "before"
    forked.end()
    assert disk_queue.get(timeout=GUARD) == "from the child"


def test_a_waiting_parent_is_woken_by_its_forked_child(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    def child(talk: Any) -> None:
        talk.hear()
        disk_queue.put("good morning")

    forked = children.fork(child)
    forked.say("go")
    assert disk_queue.get(timeout=GUARD) == "good morning"
    forked.end()


def test_a_message_of_the_parent_cannot_be_settled_in_a_forked_child(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    for number in range(3):
        disk_queue.put(number)
    messages = disk_queue.receive(3)

    def child(talk: Any) -> None:
        attempts = (messages[0].ack, messages[0].nack, messages[0].reject, messages[0].release, lambda: messages[0].extend(5), lambda: disk_queue.ack_many(messages))
        for attempt in attempts:
            with pytest.raises(mqlite.NotClaimed):
                attempt()
        with pytest.raises(mqlite.Empty):
            disk_queue.receive(timeout=0)

    children.fork(child).end()
    disk_queue.ack_many(messages)
    assert disk_queue.stats().claimed == 0


def test_the_end_of_a_forked_child_takes_nothing_from_its_parent(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    disk_queue.put("held")
    [message] = disk_queue.receive()

    def child(talk: Any) -> None:
        disk_queue.put("second")
        disk_queue.close()
        gc.collect()

    children.fork(child).end()
    assert disk_queue.get(timeout=GUARD) == "second"
    assert disk_queue.stats().claimed == 1
    message.ack()


def test_an_inherited_consumer_starts_with_an_empty_buffer(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    disk_queue.put_many(range(6))
    with disk_queue.consumer(prefetch=4) as consumer:
        first = consumer.receive(timeout=GUARD)  # 1, 2, 3 are in the buffer

        def child(talk: Any) -> None:
            taken = [consumer.receive(timeout=GUARD) for _ in range(2)]
            talk.say([message.body for message in taken])
            for message in taken:
                message.ack()

        forked = children.fork(child)
        assert forked.hear() == [4, 5]
        forked.end()
        rest = [first, *(consumer.receive(timeout=GUARD) for _ in range(3))]
        assert [message.body for message in rest] == [0, 1, 2, 3]
        disk_queue.ack_many(rest)


def test_what_an_inherited_producer_had_buffered_is_committed_once(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    with disk_queue.producer() as producer:
        for number in range(200):
            producer.put(["parent", number])

        def child(talk: Any) -> None:
            for number in range(50):
                producer.put(["child", number])
            producer.flush()

        children.fork(child).end()
    found = [disk_queue.get(timeout=GUARD) for _ in range(250)]
    assert sorted(map(tuple, found)) == sorted([("parent", n) for n in range(200)] + [("child", n) for n in range(50)])
    assert disk_queue.empty()


def test_a_grandchild_works_while_parent_and_child_are_gone(disk_queue: mqlite.Queue[Any], children: Any) -> None:
    def child(talk: Any) -> None:
        disk_queue.put("child")
        if os.fork() == 0:
            disk_queue.put("grandchild")
            os._exit(0)

    children.fork(child).end()
    assert sorted(disk_queue.get(timeout=GUARD) for _ in range(2)) == ["child", "grandchild"]


def test_an_in_memory_queue_is_copied_by_a_fork(children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue()
    queue.put("one")

    def child(talk: Any) -> None:
        talk.say(queue.get(timeout=GUARD))
        queue.put("two")
        talk.say(queue.get(timeout=GUARD))

    forked = children.fork(child)
    assert [forked.hear(), forked.hear()] == ["one", "two"]
    forked.end()
    assert queue.get(timeout=GUARD) == "one"
    assert queue.empty()
    queue.close()


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_forking_many_times_while_threads_put_get_wait_and_look(kind: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path if kind == "disk" else None)
    stop = threading.Event()
    put: list[list[Any]] = [[], []]
    got: list[list[Any]] = [[], []]

    def producer(number: int) -> None:
        while not stop.is_set():
            if queue.qsize() > 100:  # no faster than the consumers
                stop.wait(0.001)
                continue
            item = ["parent", number, len(put[number])]
            queue.put(item, priority=number)
            put[number].append(item)

    def consumer(number: int) -> None:
        while True:
            item = queue.get() if number == 0 else _received(queue)
            if item == "end":
                return
            got[number].append(item)

    def onlooker() -> None:
        while not stop.is_set():
            queue.stats()
            queue.qsize()
            queue.peek(2)

    threads = [threading.Thread(target=producer, args=(n,)) for n in (0, 1)]
    threads += [threading.Thread(target=consumer, args=(n,)) for n in (0, 1)]
    threads += [threading.Thread(target=onlooker)]
    for thread in threads:
        thread.start()

    def child(talk: Any, number: int) -> None:
        queue.put(["child", number, 0])
        queue.put_many([["child", number, 1], ["child", number, 2]])
        if kind == "memory":
            assert queue.qsize() >= 3
        talk.say(queue.check())

    forks = 40
    try:
        for number in range(forks):
            forked = children.fork(child, number)
            assert forked.hear() == []
            forked.end()
    finally:
        stop.set()
        for thread in threads:
            if thread is not threads[2] and thread is not threads[3]:
                thread.join(GUARD)
        queue.put_many(["end", "end"], priority=-9)
        for thread in threads:
            thread.join(GUARD)
    assert not any(thread.is_alive() for thread in threads)
    expected = Counter(map(tuple, put[0] + put[1]))
    if kind == "disk":
        expected.update(("child", number, n) for number in range(forks) for n in range(3))
    assert Counter(map(tuple, got[0] + got[1])) == expected
    assert queue.check() == []
    queue.close()


def _received(queue: mqlite.Queue[Any]) -> Any:
    [message] = queue.receive()
    message.ack()
    return message.body
