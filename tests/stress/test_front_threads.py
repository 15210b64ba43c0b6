"""Threads that put and take singly while others fold the front and fork: all messages are accounted for."""

from __future__ import annotations

import faulthandler
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
from crash.kill_points import sweep_seed

import mqlite
from mqlite.log import front

LEVEL = "process"
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


def _storm(seconds: float, path: str, children: Any) -> None:
    with mock.patch.object(front, "FEWEST", 1):
        child = children.fork(_stormed, path, seconds, sweep_seed())
        errors, wrong, numbers, count, forks = child.hear(seconds + HANGS)
        child.end()
    print(f"{count} messages, {forks} forks")
    assert errors == []
    assert wrong == {}, "body: times taken too often"
    assert numbers == [0, 0, 0, 0]
    assert count > 100 * seconds


def test_threads_that_pass_by_lose_nothing(path: str, children: Any) -> None:
    _storm(2, path, children)


@pytest.mark.slow
def test_threads_that_pass_by_for_long_lose_nothing(path: str, children: Any) -> None:
    _storm(10, path, children)
