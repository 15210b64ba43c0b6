"""What the comparison with a list has found, each in its shortest form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.holder import ToldClock, open_queue
from model.plain_list import SECOND

Make = Callable[..., Any]


def test_a_schedule_that_missed_more_firings_than_find_room_puts_as_many_as_do(backend: str, path: str) -> None:
    clock = ToldClock()
    clock.now_ns = 1_000_000 * SECOND
    with open_queue(path if backend == "disk" else None, clock, maxsize=3) as queue:
        queue.schedule("tick", "tock", every=2, catch_up="all")
        clock.now_ns += 11 * SECOND  # 5 firings
        assert queue.qsize() == 3
        assert [queue.get(timeout=0), queue.get(timeout=0)] == ["tock", "tock"]
        assert queue.qsize() == 3
        assert [queue.get(timeout=0) for _ in range(3)] == ["tock"] * 3
        assert queue.qsize() == 0


def test_what_a_put_takes_the_place_of_does_not_count_as_claimed_by_somebody(make_queue: Make) -> None:
    queue = make_queue()
    older = queue.put(1, replace_key="k", unique="u")
    newer = queue.put(2, replace_key="k", unique="u", unique_states=("claimed",))
    assert newer != older
    assert [message.body for message in queue.browse()] == [2]


def test_a_repeated_put_needs_no_room_in_a_queue_that_holds_more_than_it_may(make_queue: Make) -> None:
    queue = make_queue()
    first = queue.put(1, dedup_id="d")
    queue.put(2)
    queue.configure(maxsize=1)
    assert queue.put_nowait(3, dedup_id="d") == first


def test_what_becomes_a_dead_letter_for_lack_of_room_takes_nobodys_place(make_queue: Make) -> None:
    queue = make_queue(maxsize=3, overflow="dead_letter")
    queue.put_many([1, 2])
    queue.put("older", delay=60, replace_key="k")
    queue.configure(maxsize=1)
    queue.put("newer", replace_key="k")
    assert queue.stats().delayed == 1
    assert [message.body for message in queue.dead.browse()] == ["newer"]
