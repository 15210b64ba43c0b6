"""When plain messages begin to pass by (log/front.py), and when it is not worth while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread
from front_things import front_of

import mqlite
from mqlite.log.front import FEWEST, MOST
from mqlite.log.front_file import NEEDED, OPEN, RUN

GUARD = 60.0
WITH_FRONT = pytest.mark.parametrize("durability", ["full", "process"])


@pytest.fixture
def open_queue(path: str) -> Callable[[str], mqlite.Queue[Any]]:
    return lambda durability: mqlite.Queue("q", path, durability=durability)


@WITH_FRONT
def test_plain_messages_pass_by_after_some_plain_operations_in_a_row(
    open_queue: Callable[[str], mqlite.Queue[Any]], durability: str
) -> None:
    with open_queue(durability) as queue:
        words = front_of(queue).words
        for _ in range(FEWEST // 2):
            assert not words[OPEN]
            queue.put("plain")
            [message] = queue.receive()
            message.ack()
        queue.put("passes by")
        assert words[OPEN]
        assert queue.get() == "passes by"


@WITH_FRONT
def test_an_operation_of_another_kind_begins_the_row_anew(open_queue: Callable[[str], mqlite.Queue[Any]], durability: str) -> None:
    with open_queue(durability) as queue:
        for _ in range(FEWEST - 1):
            queue.put("plain")
        queue.put_many(["several"])
        queue.put("plain")
        assert front_of(queue).words[RUN] == 1
        assert not front_of(queue).words[OPEN]


def test_plain_operations_that_share_a_commit_count_each(
    open_queue: Callable[[str], mqlite.Queue[Any]], in_thread: InThread
) -> None:
    with open_queue("full") as queue:
        log = queue._engine.log
        with log._environment.write_lock:
            threads = [in_thread(queue.put, number) for number in range(3)]
            while len(log._group._waiting) + log._group.is_led < 3:
                threading.Event().wait(0.001)
        for thread in threads:
            thread.result(GUARD)
        assert front_of(queue).words[RUN] == 3


@WITH_FRONT
def test_where_each_message_is_followed_by_a_look_at_the_queue_messages_hardly_pass_by(
    open_queue: Callable[[str], mqlite.Queue[Any]], durability: str
) -> None:
    """Those that were only brought from the tree do not make it worth while."""
    with open_queue(durability) as queue:
        queue.put_many(list(range(100)))
        words, opened = front_of(queue).words, 0
        for number in range(100):
            assert queue.get() == number
            opened += bool(words[OPEN])
            assert queue.qsize() == 99 - number
        assert 1 <= opened <= 25
        assert FEWEST < words[NEEDED] <= MOST


@WITH_FRONT
def test_messages_that_were_claimed_before_do_not_keep_others_from_passing_by(
    open_queue: Callable[[str], mqlite.Queue[Any]], durability: str
) -> None:
    """As other threads hold some, whenever the front opens."""
    with open_queue(durability) as queue:
        queue.put_many(list(range(FEWEST)))
        held = [queue.receive()[0] for _ in range(FEWEST)]
        for number in range(FEWEST):
            queue.put(number)
        for message in held:
            queue.put("passes by")
            message.ack()
        queue.put("passes by")
        assert front_of(queue).words[OPEN]
        assert queue.qsize() == 2 * FEWEST + 1
