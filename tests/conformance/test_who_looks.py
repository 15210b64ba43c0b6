"""Who waits for what a message leaves behind: each is woken once, by whoever changes something, and nobody spins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import mqlite
from mqlite.claims import Kind
from mqlite.log.shelf import NestedIndex, Shelf

MakeQueue = Callable[..., mqlite.Queue[Any]]
InThread = Callable[..., Future[Any]]
GUARD = 10


def test_a_blocked_put_with_a_replace_key_sleeps_while_something_is_delayed(
    make_queue: MakeQueue, in_thread: InThread, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(maxbytes=2000, overflow="block")
    queue.put(b"x" * 600)
    old = queue.put(b"x" * 600, replace_key="k")
    queue.put(b"", delay=3600)
    bell, asleep = queue._engine.presence.bell, threading.Event()
    ring, sleep = bell.ring, bell.sleep
    monkeypatch.setattr(bell, "sleep", lambda *how: (asleep.set(), sleep(*how))[1])
    waiting = in_thread(queue.put, b"x" * 1900, replace_key="k", timeout=GUARD)
    assert asleep.wait(GUARD)  # once it waits it looks again, and holds what it would replace for a moment
    rings: list[Any] = []
    monkeypatch.setattr(bell, "ring", lambda *whom: (rings.append(whom), ring(*whom))[1])
    assert queue.update(old, priority=1)
    eventually(lambda: rings)
    asked = len(rings)
    assert asked < 20
    queue.get(timeout=0)
    queue.get(timeout=0)
    queue.purge()
    assert waiting.result(GUARD) > old
    assert len(rings) < 60


def test_join_ends_when_the_ttl_that_an_update_gave_is_over(make_queue: MakeQueue, in_thread: InThread, until_waiting: Any) -> None:
    queue = make_queue()
    number = queue.put("a")
    joined = in_thread(queue.join)
    until_waiting(queue, Kind.DONE)
    assert queue.update(number, ttl=0.05)
    joined.result(GUARD)


def test_a_redriven_message_that_expires_is_seen_by_who_joins(make_queue: MakeQueue, in_thread: InThread, until_waiting: Any) -> None:
    queue = make_queue(ttl=0.2, expired="drop")
    queue.put("keeps join waiting", ttl=3600)
    queue.put("a", ttl=3600)
    [kept, message] = queue.receive(2)
    message.reject()
    joined = in_thread(queue.join)
    until_waiting(queue, Kind.DONE)
    assert queue.redrive() == 1
    kept.ack()
    joined.result(GUARD)


def test_the_second_of_two_blocked_puts_looks_when_a_message_expires_after_the_first_has_given_up(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: Any
) -> None:
    queue = make_queue(maxsize=1)
    queue.put("a", ttl=0.6)
    first = in_thread(queue.put, "b", timeout=0.2)
    until_waiting(queue, Kind.SPACE)
    second = in_thread(queue.put, "c", timeout=GUARD)
    with pytest.raises(mqlite.Full):
        first.result(GUARD)
    assert second.result(GUARD) > 0


def test_one_that_stands_by_stays_while_a_shut_queue_has_messages(make_queue: MakeQueue, in_thread: InThread, until_waiting: Any) -> None:
    queue = make_queue()
    queue.put_many(["a", "b"])
    active, standby = queue.consumer(mode="failover"), queue.consumer(mode="failover")
    active.receive(timeout=0).ack()
    waiting = in_thread(standby.receive, timeout=GUARD)
    until_waiting(queue, Kind.STANDBY)
    queue.shutdown()
    active.close()
    assert waiting.result(GUARD).body == "b"


def test_one_that_stands_by_is_told_when_a_shut_queue_is_empty(make_queue: MakeQueue, in_thread: InThread, until_waiting: Any) -> None:
    queue = make_queue()
    queue.put("a")
    active, standby = queue.consumer(mode="failover"), queue.consumer(mode="failover")
    message = active.receive(timeout=0)
    waiting = in_thread(standby.receive, timeout=GUARD)
    until_waiting(queue, Kind.STANDBY)
    queue.shutdown()
    message.ack()
    with pytest.raises(mqlite.ShutDown):
        waiting.result(GUARD)


def test_a_group_without_a_limit_is_not_walked_by_every_ack(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = make_queue(limits={"*": None})
    queue.put_many(list(range(3000)), group="g")
    messages = queue.receive(10)
    seen = [0]
    place = type(queue._engine.log.read()).member_position

    def counted(*arguments: Any) -> Any:
        seen[0] += 1
        return place(*arguments)

    monkeypatch.setattr(type(queue._engine.log.read()), "member_position", counted)
    for message in messages:
        message.ack()
    assert seen[0] < 100


class Struck(KeyboardInterrupt):
    """Ctrl-C, at a place that the test chooses."""


def test_an_interrupt_while_a_lane_is_sorted_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue()
    queue.put_many(list(range(1000)))
    left = [300]
    append = mqlite.log.shelf.SortedLane.append  # type: ignore[attr-defined]

    def struck(lane: Any, entry: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise Struck
        append(lane, entry)

    monkeypatch.setattr(mqlite.log.shelf.SortedLane, "append", struck)  # type: ignore[attr-defined]
    with pytest.raises(Struck):
        queue.put("late", group="g")
    assert queue.check() == []
    assert [message.body for message in queue.receive(2000)] == list(range(1000))


def test_a_shelf_whose_first_lane_was_replaced_by_half_is_put_right() -> None:
    shelf = Shelf()
    lane = shelf.lane(0)
    lane.append((1, "a", 0, None))
    sorted_lane = shelf._sorted(0, lane)  # type: ignore[arg-type]
    shelf.first = lane  # as an interrupt would leave it
    assert shelf.lane(0) is sorted_lane is shelf.first


def test_a_nested_index_is_walked_from_anywhere_in_order() -> None:
    index = NestedIndex()
    everything = [(first, second, third) for first in (0, 1, 7) for second in (5, 3, 9) for third in (2, 1)]
    for parts in everything:
        index[parts] = (sum(parts),)
    everything.sort()
    for start in [(), (0,), (3, 0, 0), (5, 2), (4,)]:
        for prefix in [(), (0,), (1,), (2,), (7,)]:
            begin = (*prefix, *start)
            expected = [parts for parts in everything if parts >= begin and parts[: len(prefix)] == prefix]
            assert [parts for parts, _ in index.walk(prefix, start)] == expected, (prefix, start)


def test_a_nested_index_has_no_empty_tables() -> None:
    index = NestedIndex()
    index[(1, 2, 3)] = (4,)
    assert index.first(1) == (2, 4)
    assert index.pop((1, 2, 3), None) == (4,)
    assert index.first(1) is None
    assert index.following(0) is None
