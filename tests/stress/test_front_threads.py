"""Threads, and processes, that put and take singly while others fold the front and fork: all messages are accounted for."""

from __future__ import annotations

import faulthandler
import itertools
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from crash.front_points import LEVELS, always_open
from crash.kill_points import sweep_seed
from front_things import slow_flush

import mqlite
from mqlite.log import front, front_flush
from mqlite.wake import fifo

HANGS = 60
THREADS = 8


def _stormed(talk: Any, path: str, seconds: float, seed: int) -> None:
    faulthandler.dump_traceback_later(seconds + HANGS, exit=True)
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, max_deliveries=None)
    end = time.monotonic() + seconds
    put: list[str] = []
    gone: list[str] = []
    errors: list[str] = []
    failures: Counter[str] = Counter()
    forks = 0

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        count = 0
        while time.monotonic() < end:
            if chance.random() < 0.5:
                body: Any = f"{number}-{count}"
                queue.put(body.encode() if count % 2 else body, priority=chance.choice((0, 0, 1)))
                put.append(body)
                count += 1
                continue
            try:
                if chance.random() < 0.3:
                    gone.append(_text(queue.get(timeout=0.01)))
                    queue.task_done()
                    continue
                [message] = queue.receive(timeout=0.01)
            except mqlite.Empty:
                continue
            body = _text(message.body)
            if message.delivery_count != failures[body]:
                errors.append(f"{body}: {message.delivery_count} instead of {failures[body]}")
            way = chance.random()
            if way < 0.9:
                message.ack()
                gone.append(body)
            elif way < 0.95:
                failures[body] += 1
                message.nack()
            else:
                message.release()

    def disturb() -> None:
        nonlocal forks
        chance = random.Random(seed)
        count = 0
        while time.monotonic() < end:
            way = chance.randrange(4)
            if way == 0:
                queue.qsize()
            elif way == 1:
                bodies = [f"many-{count}-{n}" for n in range(3)]
                queue.put_many(bodies)
                put.extend(bodies)
                count += 1
            elif way == 2:
                queue.stats()
            else:
                if os.fork() == 0:
                    signal.alarm(HANGS)  # the watch of `faulthandler` does not come along
                    code = 1
                    try:
                        code = _in_child(path)
                    finally:
                        os._exit(code)
                errors.extend(["a child has failed"] * bool(os.wait()[1]))
                forks += 1
            threading.Event().wait(chance.random() / 100)

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(lambda n=n: work(n),)) for n in range(THREADS)]
    threads.append(threading.Thread(target=run, args=(disturb,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = []
    while True:
        try:
            left.append(_text(queue.get(timeout=0)))
            queue.task_done()
        except mqlite.Empty:
            break
    stats = queue.stats()
    numbers = (stats.ready, stats.claimed, stats.dead, queue.unfinished_tasks)
    wrong = Counter(gone) + Counter(left)
    wrong.subtract(put)
    queue_errors = queue.check()
    queue.close()
    talk.say([errors + queue_errors, {body: n for body, n in wrong.items() if n}, numbers, len(put), forks])


def _in_child(path: str) -> int:
    """Another process, made in the midst of it, passes by, too."""
    with mqlite.open(path) as broker:
        own = broker.queue(f"of {os.getpid()}")
        own.put("own")
        return int(own.get(timeout=0) != "own")


def _text(body: Any) -> str:
    return body.decode() if isinstance(body, bytes) else body


def _storm(seconds: float, level: str, path: str, children: Any) -> None:
    mqlite.open(path, durability=level).close()
    with mock.patch.object(front, "FEWEST", 1):
        child = children.fork(_stormed, path, seconds, sweep_seed())
        errors, wrong, numbers, count, forks = child.hear(seconds + HANGS)
        child.end()
    print(f"{count} messages, {forks} forks")
    assert errors == []
    assert wrong == {}, "body: times taken too often"
    assert numbers == [0, 0, 0, 0]
    assert count > (100 if level == "process" else 10) * seconds


@pytest.mark.parametrize("level", LEVELS)
def test_threads_that_pass_by_lose_nothing(level: str, path: str, children: Any) -> None:
    _storm(2, level, path, children)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_threads_that_pass_by_for_long_lose_nothing(level: str, path: str, children: Any) -> None:
    _storm(10, level, path, children)


# ---------------------------------------------------------------------- processes
PUTTERS, TAKERS, PROCESSES = 2, 3, 3

def _one_of_many(talk: Any, path: str, number: int, count: int, seed: int) -> None:
    """Puts so many messages, and takes what comes until each thread has got an end. Nobody looks by himself."""
    faulthandler.dump_traceback_later(2 * HANGS, exit=True)
    chance = random.Random(seed + number)
    fifo.HEDGE = front_flush.HEDGE = 10 * HANGS
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    errors: list[str] = []
    taken: list[str] = []

    def put(putter: int) -> None:
        for each in range(count):
            body: Any = f"{number}-{putter}-{each}"
            queue.put(body.encode() if each % 2 else body, priority=each % 3 // 2)

    def take(with_get: bool) -> None:
        body = ""
        while body != "end":
            if with_get:
                body = _text(queue.get(timeout=HANGS))
            else:
                [message] = queue.receive(timeout=HANGS)
                body = _text(message.body)
                if message.delivery_count:
                    errors.append(f"{body} was delivered before")
                message.ack()
            taken.append(body)

    def run(function: Callable[[Any], None], argument: Any) -> None:
        try:
            function(argument)
        except BaseException:
            errors.append(traceback.format_exc())

    putters = [threading.Thread(target=run, args=(put, each)) for each in range(PUTTERS)]
    takers = [threading.Thread(target=run, args=(take, chance.random() < 0.5)) for _ in range(TAKERS)]
    for thread in (*takers, *putters):
        thread.start()
    for thread in putters:
        thread.join()
    talk.say("put")
    for thread in takers:
        thread.join()
    queue.close()
    talk.say([taken, errors])


def _put_until_killed(talk: Any, path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for number in itertools.count():
        queue.put(f"killed {number}")
        talk.say(number)


def _crowd(count: int, level: str, path: str, children: Any) -> None:
    seed = sweep_seed()
    chance = random.Random(seed)
    mqlite.open(path, durability=level).close()
    with always_open(), mock.patch.object(os, "fdatasync", slow_flush):
        crowd = [children.fork(_one_of_many, path, number, count, seed) for number in range(PROCESSES)]
        victim = children.fork(_put_until_killed, path)
    returned = -1
    for _ in range(chance.randrange(count)):
        returned = victim.hear()
    victim.kill()
    while True:
        try:
            returned = victim.hear()
        except EOFError:
            break
    for child in crowd:
        assert child.hear(2 * HANGS) == "put"
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for _ in range(PROCESSES * TAKERS):
        queue.put("end", priority=-1)
    taken: Counter[str] = Counter()
    for child in crowd:
        found, errors = child.hear(2 * HANGS)
        taken.update(found)
        assert errors == []
        child.end()
    expected = Counter(f"{number}-{putter}-{each}" for number in range(PROCESSES) for putter in range(PUTTERS) for each in range(count))
    expected.update([f"killed {number}" for number in range(returned + 1)] + ["end"] * PROCESSES * TAKERS)
    taken.subtract(expected)
    wrong = {body: times for body, times in taken.items() if times}
    assert wrong in ({}, {f"killed {returned + 1}": 1}), "body: times taken too often"
    stats = queue.stats()
    assert (stats.ready, stats.claimed, stats.dead, queue.unfinished_tasks) == (0, 0, 0, 0)
    assert queue.check() == []
    queue.close()


@pytest.mark.parametrize("level", LEVELS)
def test_processes_that_pass_by_lose_nothing_and_nobody_sleeps_beside_a_message(level: str, path: str, children: Any) -> None:
    _crowd(100, level, path, children)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_processes_that_pass_by_for_long_lose_nothing_and_nobody_sleeps_beside_a_message(level: str, path: str, children: Any) -> None:
    _crowd(1000, level, path, children)
