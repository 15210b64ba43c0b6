"""A process that is killed gives back what it held, wakes who waits, and takes nobody's ring with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import mqlite
from mqlite.engine.aftermath import Aftermath

GUARD = 60.0


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold(talk: Any, path: str, count: int = 1) -> None:
    """Claims `count` messages, says which, and keeps them until killed."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say([message.body for message in queue.receive(count, timeout=GUARD)])
    talk.hear(3600)


def take_one(talk: Any, path: str) -> None:
    """Waits for a message, says how it came, and acknowledges it."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("waiting")
    [message] = queue.receive(timeout=GUARD)
    talk.say([message.body, message.delivery_count, message.acquired_count, message.redelivered])
    message.ack()
    talk.say(queue.check())
    queue.close()


def test_a_killed_holder_gives_its_message_back_to_a_waiter_in_another_process(path: str, children: Any) -> None:
    with mqlite.open(path) as broker:
        broker.queue("q").put("job")
    holder = children.fork(hold, path)
    assert holder.hear() == ["job"]
    waiter = children.fork(take_one, path)
    assert waiter.hear() == "waiting"
    holder.kill()
    assert waiter.hear() == ["job", 1, 2, True]
    assert waiter.hear() == []
    waiter.end()


def test_a_killed_holder_gives_its_message_back_to_who_asks_without_waiting(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("job")
    holder = children.fork(hold, path)
    holder.hear()
    with pytest.raises(mqlite.Empty):
        queue.receive(timeout=0)
    holder.kill()
    [message] = queue.receive(timeout=0)
    assert (message.body, message.delivery_count, message.redelivered) == ("job", 1, True)
    message.ack()
    assert queue.check() == []
    queue.close()


def test_a_holder_that_was_killed_before_anybody_looked_is_found_by_the_next_process(path: str, children: Any) -> None:
    with mqlite.open(path) as broker:
        broker.queue("q").put_many(["a", "b"])
    holder = children.fork(hold, path, 2)
    holder.hear()
    holder.kill()
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    assert [message.delivery_count for message in queue.receive(5, timeout=0)] == [1, 1]
    assert queue.check() == []
    queue.close()


@pytest.mark.parametrize("looker", ["joined earlier", "joins later"])
def test_what_a_dead_process_held_comes_before_newer_messages(looker: str, path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(["first", "second"])
    if looker == "joins later":
        queue.close()
    holder = children.fork(hold, path)
    assert holder.hear() == ["first"]
    holder.kill()
    if looker == "joins later":
        queue = mqlite.Queue("q", path)
    messages = queue.receive(2, timeout=0)
    assert [message.body for message in messages] == ["first", "second"]
    queue.ack_many(messages)
    assert queue.check() == []
    queue.close()


def test_prefetched_messages_that_were_not_handed_out_are_not_blamed_for_the_death(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(range(5))

    def prefetching(talk: Any) -> None:
        consumer = mqlite.Queue("q", path).consumer(prefetch=4)
        talk.say([consumer.receive(timeout=GUARD).body for _ in range(2)])
        talk.hear(3600)

    holder = children.fork(prefetching)
    assert holder.hear() == [0, 1]
    assert queue.stats().claimed == 4
    holder.kill()
    messages = [queue.receive(timeout=GUARD)[0] for _ in range(5)]
    came = sorted((m.body, m.delivery_count, m.redelivered) for m in messages)
    assert came == [(0, 1, True), (1, 1, True), (2, 0, True), (3, 0, True), (4, 0, False)]
    queue.ack_many(messages)
    assert queue.check() == []
    queue.close()


def test_what_a_killed_process_had_taken_by_get_is_not_delivered_again(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(["taken", "left"])

    def taker(talk: Any) -> None:
        talk.say(mqlite.Queue("q", path).get(timeout=GUARD))
        talk.hear(3600)

    child = children.fork(taker)
    assert child.hear() == "taken"
    child.kill()
    assert queue.get(timeout=GUARD) == "left"
    assert queue.empty()
    queue.close()


def test_a_message_that_kills_its_workers_ends_among_the_dead_and_the_others_are_worked_on(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, max_deliveries=3)
    queue.put("poison", priority=1)
    queue.put_many(["good", "better"])

    def worker(talk: Any) -> None:
        for message in mqlite.Queue("q", path).consumer(prefetch=2):
            with message:
                talk.say([message.body, message.delivery_count])
                if message.body == "poison":
                    kill_myself()

    seen = []
    child = children.fork(worker)
    while len(seen) < 5:
        try:
            seen.append(child.hear())
        except EOFError:
            assert child.wait() == -signal.SIGKILL
            child = children.fork(worker)
    assert sorted(seen) == [["better", 0], ["good", 0], ["poison", 0], ["poison", 1], ["poison", 2]]
    [corpse] = queue.dead.receive(timeout=GUARD)
    assert corpse.body == "poison"
    assert corpse.delivery_count == 3
    assert corpse.death is not None
    assert corpse.death.reason == "max_deliveries"
    corpse.ack()
    child.kill()
    assert queue.check() == []
    queue.close()


def test_a_put_that_waits_for_room_goes_on_when_the_poison_of_a_killed_holder_goes_to_the_dead(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1, max_deliveries=1)
    queue.put("poison")
    holder = children.fork(hold, path)
    holder.hear()

    def putter(talk: Any) -> None:
        waiting: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        waiting.put("next", timeout=GUARD)
        talk.say("put")
        waiting.close()

    child = children.fork(putter)
    assert child.hear() == "waiting"
    holder.kill()
    assert child.hear() == "put"
    child.end()
    assert queue.get(timeout=GUARD) == "next"
    assert queue.dead.get(timeout=GUARD) == "poison"
    queue.close()


def test_killed_waiters_do_not_swallow_the_ring_of_a_put(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    waiters = [children.fork(take_one, path) for _ in range(6)]
    for waiter in waiters:
        assert waiter.hear() == "waiting"
    for waiter in waiters[:5]:
        waiter.kill()
    queue.put("job")
    assert waiters[5].hear() == ["job", 0, 1, False]
    assert waiters[5].hear() == []
    waiters[5].end()
    queue.close()


def test_a_waiter_that_is_killed_as_it_is_rung_passes_the_message_on(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for _ in range(15):
        waiters = [children.fork(take_one, path) for _ in range(2)]
        for waiter in waiters:
            assert waiter.hear() == "waiting"
        queue.put("job")
        waiters[0].kill()  # before, while or after it takes the message
        try:
            said = [waiters[1].hear(0.001)]
        except TimeoutError:
            said = []
        if not said:
            queue.put("job")  # for the case that waiters[0] had taken and acknowledged the first
            said = [waiters[1].hear()]
        assert said[0][0] == "job"
        assert waiters[1].hear() == []
        waiters[1].end()
        while True:
            try:
                queue.get(timeout=0)
            except mqlite.Empty:
                break
    queue.close()


@pytest.mark.parametrize("step", ["put", "put_many", "ack", "nack", "release", "reject", "get"])
def test_what_a_process_committed_wakes_others_though_it_was_killed_before_it_rang(step: str, path: str, children: Any) -> None:
    """The waiter waits for what the step makes possible: a message, room, or the end of all tasks."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1)
    queue.dead.qsize()
    if not step.startswith("put"):
        queue.put("first")
    queue.close()

    def killed(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        messages = mine.receive(timeout=GUARD) if step in ("ack", "nack", "release", "reject") else []
        talk.say("joined")
        talk.hear()
        Aftermath.run = lambda self, notes: kill_myself()  # type: ignore[method-assign]
        mine._engine.log.after_commit = lambda notes: kill_myself()  # type: ignore[attr-defined]
        steps: dict[str, Callable[[], Any]] = {
            "put": lambda: mine.put("new"),
            "put_many": lambda: mine.put_many(["new"]),
            "get": mine.get,
        }
        if step in steps:
            steps[step]()
        else:
            getattr(messages[0], step)()

    def waiting(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("waiting")
        if step in ("ack", "reject", "get"):
            mine.put("room", timeout=GUARD)
            talk.say("put")
        else:
            talk.say(mine.get(timeout=GUARD))
        talk.say(mine.check())
        mine.close()

    child = children.fork(killed)
    assert child.hear() == "joined"
    waiter = children.fork(waiting)
    assert waiter.hear() == "waiting"
    child.say("go")
    assert child.wait() == -signal.SIGKILL
    assert waiter.hear() == {"put": "new", "put_many": "new", "nack": "first", "release": "first"}.get(step, "put")
    assert waiter.hear() == []
    waiter.end()


def test_join_ends_when_the_process_that_took_the_last_task_is_killed(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("task")

    def taker(talk: Any) -> None:
        talk.say(mqlite.Queue("q", path).get(timeout=GUARD))
        talk.hear(3600)

    def joiner(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say(mine.unfinished_tasks)
        mine.join()
        talk.say("joined")
        mine.close()

    child = children.fork(taker)
    assert child.hear() == "task"
    waiter = children.fork(joiner)
    assert waiter.hear() == 1
    child.kill()
    assert waiter.hear() == "joined"
    waiter.end()
    assert queue.unfinished_tasks == 0
    queue.close()


def comes_back(path: str, children: Any, leave_behind: Callable[[], int]) -> None:
    """A process claims a message, starts another one (its id), and is killed; the message comes back though that one lives on."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("job")

    def parent(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        mine.receive(timeout=GUARD)
        talk.say(leave_behind())
        talk.hear(3600)

    child = children.fork(parent)
    left_behind = child.hear()
    try:
        child.kill()
        [message] = queue.receive(timeout=GUARD)
        assert message.delivery_count == 1
        message.ack()
    finally:
        os.kill(left_behind, signal.SIGKILL)
    queue.close()


def test_a_forked_child_that_lives_on_does_not_keep_its_killed_parent_alive(path: str, children: Any) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    comes_back(path, children, fork)


@pytest.mark.parametrize("close_fds", [True, False])
def test_a_program_started_by_a_killed_holder_does_not_keep_it_alive(close_fds: bool, path: str, children: Any) -> None:
    def start() -> int:
        started = subprocess.Popen([sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()"], close_fds=close_fds, stdout=subprocess.PIPE)
        assert started.stdout is not None
        started.stdout.readline()
        return started.pid

    comes_back(path, children, start)


def test_a_thread_that_waits_is_woken_by_the_death_of_a_holder(path: str, children: Any) -> None:
    """In the process that also works on other things: its own claims stay its own."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(["mine", "theirs"])
    [mine] = queue.receive(timeout=GUARD)
    holder = children.fork(hold, path)
    assert holder.hear() == ["theirs"]

    def killer(talk: Any) -> None:
        talk.hear()
        os.kill(holder.pid, signal.SIGKILL)

    other = children.fork(killer)
    other.say("go")
    [message] = queue.receive(timeout=GUARD)
    assert message.body == "theirs"
    queue.ack_many([message, mine])
    other.end()
    assert queue.check() == []
    queue.close()
