"""Who waits is woken by who changes something, in another thread or process; who idles does nothing."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from typing import Any

import pytest

import mqlite

GUARD = 60.0


@pytest.fixture(params=["pipes", "no pipes"])
def pipes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With named pipes, and where they cannot be made (children are forked, so it holds for them, too)."""
    if request.param == "no pipes":
        monkeypatch.setattr(os, "mkfifo", _no_pipes)
    return str(request.param)


def _no_pipes(*_: Any, **__: Any) -> None:
    raise OSError("no named pipes here")


def test_a_get_is_woken_by_a_put_in_another_process_and_back(pipes: str, path: str, children: Any) -> None:
    ping: mqlite.Queue[Any] = mqlite.Queue("ping", path)
    pong: mqlite.Queue[Any] = mqlite.Queue("pong", path)

    def other(talk: Any) -> None:
        came: mqlite.Queue[Any] = mqlite.Queue("ping", path)
        back: mqlite.Queue[Any] = mqlite.Queue("pong", path)
        for _ in range(100):
            back.put(came.get(timeout=GUARD) + 1)
        came.close()
        back.close()

    child = children.fork(other)
    for number in range(100):
        ping.put(number)
        assert pong.get(timeout=GUARD) == number + 1
    child.end()
    assert ping.check() == []
    ping.close()
    pong.close()


def test_as_many_waiters_as_messages_are_woken(pipes: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)

    def waiter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(mine.get(timeout=GUARD))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        talk.say(found)
        mine.close()

    for way in ("one by one", "all at once"):
        waiters = [children.fork(waiter) for _ in range(3)]
        for child in waiters:
            assert child.hear() == "waiting"
        if way == "all at once":
            queue.put_many(range(9))
        else:
            for number in range(9):
                queue.put(number)
        assert Counter(number for child in waiters for number in child.hear()) == Counter(range(9))
        for child in waiters:
            child.end()
    assert queue.check() == []
    queue.close()


def test_waiters_that_time_out_all_the_time_swallow_no_ring(pipes: str, path: str, children: Any, until_waiting: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)

    def impatient(talk: Any, pause: float) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        taken = 0
        while True:
            try:
                if mine.get(timeout=pause) == "end":
                    break
                taken += 1
            except mqlite.Empty:
                pass
        talk.say(taken)
        mine.close()

    def patient(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        taken = 0
        while mine.get(timeout=GUARD) != "end":
            taken += 1
        talk.say(taken)
        mine.close()

    workers = [children.fork(impatient, pause) for pause in (0.0005, 0.002)] + [children.fork(patient) for _ in range(2)]
    for number in range(300):
        queue.put(number)
        if number % 10 == 0:
            until_waiting(queue, n=2)  # the patient ones have fallen asleep
    for _ in workers:
        queue.put("end", priority=-1)
    assert sum(child.hear() for child in workers) == 300
    for child in workers:
        child.end()
    assert queue.check() == []
    queue.close()


def test_the_death_of_a_holder_wakes_a_waiter(pipes: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("job")

    def holder(talk: Any) -> None:
        talk.say([message.body for message in mqlite.Queue[Any]("q", path).receive(timeout=GUARD)])
        talk.hear(3600)

    def waiter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        [message] = mine.receive(timeout=GUARD)
        message.ack()
        talk.say([message.body, message.delivery_count])
        mine.close()

    first = children.fork(holder)
    assert first.hear() == ["job"]
    second = children.fork(waiter)
    assert second.hear() == "waiting"
    first.kill()
    assert second.hear() == ["job", 1]
    second.end()
    queue.close()


def test_blocked_puts_are_woken(pipes: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1)

    def putter(talk: Any, number: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        for n in range(10):
            mine.put([number, n], timeout=GUARD)
        mine.close()

    putters = [children.fork(putter, number) for number in range(3)]
    found = Counter(tuple(queue.get(timeout=GUARD)) for _ in range(30))
    assert found == Counter((number, n) for number in range(3) for n in range(10))
    for child in putters:
        child.end()
    queue.close()


def test_a_process_without_pipes_and_one_with_them_wake_each_other(path: str, children: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ping: mqlite.Queue[Any] = mqlite.Queue("ping", path)
    pong: mqlite.Queue[Any] = mqlite.Queue("pong", path)

    def other(talk: Any) -> None:
        monkeypatch.setattr(os, "mkfifo", _no_pipes)
        came: mqlite.Queue[Any] = mqlite.Queue("ping", path)
        back: mqlite.Queue[Any] = mqlite.Queue("pong", path)
        ping.close()
        pong.close()
        for _ in range(20):
            back.put(came.get(timeout=GUARD))
        [message] = came.receive(timeout=GUARD)
        talk.say(message.body)
        talk.hear(3600)

    ping.close()
    pong.close()
    child = children.fork(other)
    ping, pong = mqlite.Queue("ping", path), mqlite.Queue("pong", path)
    for number in range(20):
        ping.put(number)
        assert pong.get(timeout=GUARD) == number
    ping.put("held")
    assert child.hear() == "held"
    child.kill()
    assert ping.get(timeout=GUARD) == "held"
    ping.close()
    pong.close()


def test_who_waits_makes_no_commits_and_uses_hardly_any_cpu(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    blocked: mqlite.Queue[Any] = mqlite.Queue("blocked", path, maxsize=1)
    blocked.put("full")

    def waiter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        full: mqlite.Queue[Any] = mqlite.Queue("blocked", path)
        threads = [threading.Thread(target=mine.get) for _ in range(3)]
        threads += [threading.Thread(target=full.put, args=("more",)), threading.Thread(target=full.join)]
        for thread in threads:
            thread.start()
        talk.say("waiting")
        while (word := talk.hear()) == "time":
            talk.say(sum(os.times()[:2]))
        assert word == "go on"
        for thread in threads:
            thread.join(GUARD)
        talk.say([thread.is_alive() for thread in threads])
        mine.close()
        full.close()

    child = children.fork(waiter)
    assert child.hear() == "waiting"
    environment = queue._engine.claims.environment
    commits = lambda: (environment.last_txnid(), queue._engine.log._environment.last_txnid())  # noqa: E731
    seen = commits()
    until = time.monotonic() + GUARD
    while True:  # until all its threads have fallen asleep
        time.sleep(0.5)
        if seen == (seen := commits()):
            break
        assert time.monotonic() < until, "the waiting threads commit all the time"
    child.say("time")
    before = child.hear()
    time.sleep(2)
    assert commits() == seen
    child.say("time")
    used = child.hear() - before
    assert used < 0.2, f"{used} s of CPU in 2 s of waiting"
    queue.put_many([1, 2, 3])
    assert [blocked.get(timeout=GUARD), blocked.get(timeout=GUARD)] == ["full", "more"]
    blocked.task_done()
    blocked.task_done()
    child.say("go on")
    assert child.hear() == [False] * 5
    child.end()
    queue.close()
    blocked.close()
