"""Threads that put and take singly in a store that is closed and opened again under their hands: what raised was not done."""

from __future__ import annotations

import faulthandler
import os
import random
import threading
import time
import traceback
from collections import Counter
from typing import Any
from unittest import mock

import pytest
from crash.front_points import LEVELS, always_open
from crash.kill_points import sweep_seed
from front_things import drained, slow_flush

import mqlite
from mqlite.log import front_flush
from mqlite.wake import fifo

HANGS = 60
THREADS, PROCESSES = 5, 2


def _one_of_them(talk: Any, path: str, number: int, seconds: float, seed: int) -> None:
    """Puts and takes with one handle after the other, each closed by another thread at any moment. Nobody looks by himself."""
    faulthandler.dump_traceback_later(seconds + HANGS, exit=True)
    fifo.HEDGE = front_flush.HEDGE = 10 * HANGS
    end = time.monotonic() + seconds
    handles = [mqlite.Queue[Any]("q", path)]
    put: list[str] = []
    gone: list[str] = []
    errors: list[str] = []
    closed = Counter[str]()
    changed = threading.Condition()

    def work(thread: int) -> None:
        chance = random.Random(f"{seed} {number} {thread}")
        count = 0
        while time.monotonic() < end:
            queue = handles[-1]
            way = chance.choice(("put", "put", "get", "receive"))
            try:
                if way == "put":
                    count += 1
                    body = f"{number}-{thread}-{count}"
                    queue.put(body.encode())
                    put.append(body)
                elif way == "get":
                    gone.append(queue.get(timeout=0).decode())
                else:
                    [message] = queue.receive(timeout=0)
                    message.ack()
                    gone.append(message.body.decode())
            except mqlite.Empty:
                pass
            except (mqlite.Closed, mqlite.LeaseLost) as error:
                closed[f"{way}: {type(error).__name__}"] += 1
                with changed:
                    assert changed.wait_for(lambda queue=queue: handles[-1] is not queue, HANGS)

    def reopen() -> None:
        chance = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            threading.Event().wait(chance.random() / 10)
            handles[-1].close()
            with changed:
                handles.append(mqlite.Queue("q", path))
                changed.notify_all()
            if chance.random() < 0.3:
                handles[-1].qsize()

    def run(function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(work, thread)) for thread in range(THREADS)]
    threads.append(threading.Thread(target=run, args=(reopen,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handles[-1].close()
    talk.say([put, gone, errors, dict(closed), len(handles)])


def _storm(seconds: float, level: str, path: str, children: Any) -> None:
    mqlite.open(path, durability=level).close()
    with always_open(), mock.patch.object(os, "fdatasync", slow_flush):
        crowd = [children.fork(_one_of_them, path, number, seconds, sweep_seed()) for number in range(PROCESSES)]
    once = Counter[str]()
    for child in crowd:
        put, gone, errors, closed, handles = child.hear(seconds + HANGS)
        child.end()
        assert errors == []
        print(f"{len(put)} put, {handles} handles, closed meanwhile: {closed}")
        assert handles > 3
        once.update(put)
        once.subtract(gone)
    with mqlite.Queue[Any]("q", path) as queue:
        once.subtract(body.decode() for body in drained(queue))
        assert {body: times for body, times in once.items() if times} == {}, "body: times lost, or taken too often if negative"
        assert queue.check() == []


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_call_raises_of_which_the_store_is_closed_was_not_done(level: str, path: str, children: Any) -> None:
    _storm(2, level, path, children)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_what_a_call_raises_of_which_the_store_is_closed_was_not_done_for_long(level: str, path: str, children: Any) -> None:
    _storm(12, level, path, children)
