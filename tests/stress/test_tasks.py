"""join, task_done and shutdown, seen by all processes."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite

GUARD = 60.0


def test_join_waits_for_the_tasks_of_other_processes(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(range(60))

    def worker(talk: Any, number: int) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        done = 0
        while True:
            if number % 2:
                [message] = mine.receive(timeout=GUARD)
                body = message.body
                message.ack()
            else:
                body = mine.get(timeout=GUARD)
                mine.task_done()
            if body == "end":
                break
            done += 1
        talk.say(done)
        mine.close()

    def joiner(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("joining")
        mine.join()
        talk.say([mine.unfinished_tasks, mine.qsize()])
        mine.close()

    other = children.fork(joiner)
    assert other.hear() == "joining"
    workers = [children.fork(worker, number) for number in range(4)]
    queue.join()
    assert queue.unfinished_tasks == 0
    assert other.hear() == [0, 0]
    queue.put_many(["end"] * 4)
    assert sum(child.hear() for child in workers) == 60
    queue.join()
    with pytest.raises(ValueError, match="too many"):
        queue.task_done()
    for child in [*workers, other]:
        child.end()
    queue.close()


def test_a_task_can_be_reported_done_by_another_process(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("task")

    def taker(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say(mine.get(timeout=GUARD))
        mine.join()
        talk.say("joined")
        mine.close()

    child = children.fork(taker)
    assert child.hear() == "task"
    assert queue.unfinished_tasks == 1
    queue.task_done()
    assert child.hear() == "joined"
    child.end()
    queue.close()


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_is_seen_by_waiting_processes_and_gone_after_the_last_one(immediate: bool, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    full: mqlite.Queue[Any] = mqlite.Queue("full", path, maxsize=1)
    full.put("first")

    def getter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        with pytest.raises(mqlite.ShutDown):
            mine.get(timeout=GUARD)
        talk.say(mine.is_shutdown)
        mine.close()

    def iterating(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        with mine.consumer() as consumer:
            talk.say([message.body for message in consumer])
        mine.close()

    def putter(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("full", path)
        talk.say("waiting")
        with pytest.raises(mqlite.ShutDown):
            mine.put("second", timeout=GUARD)
        mine.close()

    getting, iterated, putting = (children.fork(function) for function in (getter, iterating, putter))
    for child in (getting, iterated, putting):
        assert child.hear() == "waiting"
    queue.shutdown(immediate)
    full.shutdown(immediate)
    assert getting.hear() is True
    assert iterated.hear() == []
    for child in (getting, iterated, putting):
        child.end()
    with pytest.raises(mqlite.ShutDown):
        queue.put("too late")
    if immediate:
        with pytest.raises(mqlite.ShutDown):
            full.get(timeout=0)
    else:
        assert full.get(timeout=0) == "first"
    queue.close()
    full.close()
    again: mqlite.Queue[Any] = mqlite.Queue("full", path)
    assert not again.is_shutdown
    again.put("second") if not immediate else None
    assert again.get(timeout=0) == ("first" if immediate else "second")
    assert again.check() == []
    again.close()


def test_shutdown_ends_with_processes_that_were_killed(path: str, children: Any) -> None:
    def killed(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        mine.put("old")
        mine.shutdown(immediate=True)
        talk.say("shut")
        talk.hear(3600)

    child = children.fork(killed)
    assert child.hear() == "shut"
    child.kill()
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    assert not queue.is_shutdown
    assert queue.get(timeout=0) == "old"
    queue.close()


def test_claimed_messages_can_be_settled_after_a_shutdown_by_another_process(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(["a", "b"])
    first, second = queue.receive(2)

    def other(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        mine.shutdown(immediate=True)
        mine.close()

    children.fork(other).end()
    first.ack()
    second.nack()
    assert queue.check() == []
    queue.close()
    queue = mqlite.Queue("q", path)
    assert queue.get(timeout=0) == "b"
    queue.close()
