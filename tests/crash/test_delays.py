"""Delayed messages through restarts, crashes of the machine, other processes and damage."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import lmdb
import pytest
from hand_clock import NOON, HandClock, timed_queue

import mqlite
from mqlite.log import format as fmt


def test_delays_survive_a_restart(path: str) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        queue.put("later", delay=0.2)
        put = time.monotonic()
    with mqlite.Queue[str]("q", path) as queue:
        assert queue.stats().delayed == 1
        assert queue.get(timeout=30) == "later"
        assert time.monotonic() - put >= 0.19


@pytest.mark.parametrize("monotonic", [5.0, 1e6])
def test_after_a_reboot_delays_go_on_by_the_wall_clock(path: str, monotonic: float) -> None:
    with timed_queue(path, HandClock(NOON, 5000)) as queue:
        queue.put("delay", delay=100)
        queue.put("eta", eta=NOON + 50)
        queue.put("backoff")
        queue.receive(timeout=0)[0].nack(delay=100)
    shutil.rmtree(os.path.join(path, "run"))  # as after a reboot
    clock = HandClock(NOON + 60, monotonic)
    with timed_queue(path, clock) as queue:
        assert queue.get(timeout=0) == "eta"
        with pytest.raises(mqlite.Empty):
            queue.get(timeout=0)
        clock.pass_by(40)
        assert {queue.get(timeout=0), queue.get(timeout=0)} == {"delay", "backoff"}
        assert queue.check() == []


def test_failures_before_a_delayed_retry_survive_a_crash_of_the_machine(path: str) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        queue.put("x")
        queue.receive()[0].nack(delay=0.05)
    shutil.rmtree(os.path.join(path, "run"))
    with mqlite.Queue[str]("q", path) as queue:
        [message] = queue.receive(timeout=30)
        assert (message.delivery_count, message.acquired_count) == (1, 2)


def wait_for_one(talk: Any, path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("waiting")
    talk.say(queue.get(timeout=60))


def test_a_process_that_waits_is_woken_when_a_message_of_another_is_due(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        child = children.fork(wait_for_one, path)
        assert child.hear() == "waiting"
        until_waiting(queue)
        queue.put("later", delay=0.2)
        assert child.hear() == "later"
        child.end()


def test_when_the_one_who_watches_the_clock_is_killed_another_does(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        queue.put("later", delay=1.0)
        first, second = children.fork(wait_for_one, path), children.fork(wait_for_one, path)
        assert (first.hear(), second.hear()) == ("waiting", "waiting")
        until_waiting(queue, n=2)
        first.kill()
        assert second.hear() == "later"
        second.end()


def test_a_delayed_message_with_a_flipped_bit_goes_to_the_dead_and_the_rest_goes_on(path: str) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        queue.put_many(["damaged", "whole"], delay=0.05)
    with lmdb.open(os.path.join(path, "log.mdb"), subdir=False, map_size=1 << 40, lib_version=0) as environment, environment.begin(write=True) as txn:
        walk = txn.cursor()
        assert walk.set_range(fmt.DELAYED)
        key, value = walk.key(), bytearray(walk.value())
        value[-1] ^= 1
        txn.put(key, bytes(value))
    with mqlite.Queue[str]("q", path) as queue:
        assert any("checksum" in problem for problem in queue.check())
        assert queue.get(timeout=30) == "whole"
        [dead] = queue.dead.receive(timeout=30)
        assert dead.death is not None
        assert (dead.death.reason, dead.body) == ("corrupted", bytes(value))
        dead.ack()
        assert queue.check() == []


def _fill(queue: mqlite.Queue[bytes], body: bytes, **options: Any) -> int:
    """Until the store is full; how many there was room for."""
    count = 0
    try:
        while True:
            queue.put(body, **options)
            count += 1
    except mqlite.StoreFull:
        return count


@pytest.mark.parametrize("size", [16_000, 200_000])
def test_a_full_store_of_messages_that_are_due_can_be_drained(path: str, size: int) -> None:
    clock = HandClock()
    with timed_queue(path, clock, max_store_bytes=24 << 20) as queue:
        count = _fill(queue, bytes(size), eta=clock.moment(3))
        assert count > 50
        clock.pass_by(3)
        for _ in range(count):
            [message] = queue.receive(timeout=30)
            message.ack()
        stats = queue.stats()
        assert (stats.ready, stats.delayed, queue.check()) == (0, 0, [])


def test_who_waits_in_a_full_store_is_woken_when_its_messages_are_due(path: str) -> None:
    with mqlite.Queue[bytes]("q", path, max_store_bytes=24 << 20) as queue:
        count = _fill(queue, bytes(200_000), eta=time.time() + 1)
        for _ in range(count):
            queue.get(timeout=30)
        assert (queue.stats().delayed, queue.check()) == (0, [])


def test_a_damaged_delayed_message_without_room_among_the_dead_is_kept(path: str) -> None:
    size = 1 << 20
    clock = HandClock(NOON, 5000)
    with timed_queue(path, clock, max_store_bytes=24 << 20) as queue:
        queue.put(b"x" * size, eta=NOON + 2)
        _fill(queue, bytes(100_000))
    with open(os.path.join(path, "log.mdb"), "r+b") as file:  # in place: there is no room for a copy
        at = file.read().find(b"x" * 1000)
        file.seek(at)
        file.write(b"y")
    clock.set_wall(2)
    with timed_queue(path, clock) as queue:
        taken = 0
        assert (queue.stats().delayed, queue.stats().dead) == (1, 0)
        while queue.qsize():
            taken += len(queue.get(timeout=0)) // 100_000
        assert taken > 50
        assert (queue.stats().delayed, queue.stats().dead) == (0, 1)
