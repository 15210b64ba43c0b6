"""Groups in several processes, some of which are killed: in order, one at a time, and nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

import mqlite

GUARD = 60.0


def take(queue: mqlite.Queue[Any]) -> list[Any]:
    """What can be claimed now."""
    try:
        return [m.body for m in queue.receive(99, timeout=0)]
    except mqlite.Empty:
        return []


def hold(talk: Any, path: str) -> None:
    """Claims what there is, says it, and does with the first of it what it is told."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    messages = queue.receive(99, timeout=GUARD)
    talk.say([m.body for m in messages])
    word = talk.hear(3600)
    if word == "nack later":
        messages[0].nack(delay=3600)
    else:
        getattr(messages[0], word)()
    talk.say("done")
    talk.hear(3600)


def take_one(talk: Any, path: str) -> None:
    """Waits for a message, and says how it came."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("waiting")
    [message] = queue.receive(timeout=GUARD)
    talk.say([message.body, message.delivery_count])
    message.ack()
    queue.close()


def test_a_group_is_busy_for_other_processes_too(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(["a1", "a2"], group="a")
        holder = children.fork(hold, path)
        assert holder.hear() == ["a1"]
        queue.put("b1", group="b")
        assert take(queue) == ["b1"]
        assert take(queue) == []
        assert queue.check() == []


@pytest.mark.parametrize(("word", "following"), [("ack", ["a2", 0]), ("nack", ["a1", 1]), ("release", ["a1", 0]), ("reject", ["a2", 0])])
def test_who_waits_in_another_process_is_woken_when_a_group_is_freed(path: str, children: Any, until_waiting: Any, word: str, following: list[Any]) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(["a1", "a2"], group="a")
        holder = children.fork(hold, path)
        assert holder.hear() == ["a1"]
        waiter = children.fork(take_one, path)
        assert waiter.hear() == "waiting"
        until_waiting(queue)
        holder.say(word)
        assert waiter.hear() == following
        waiter.end()
        assert queue.check() == []


def test_who_waits_in_another_process_is_woken_when_a_limit_is_raised(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(["a1", "a2"], group="a")
        [a1] = queue.receive()
        waiter = children.fork(take_one, path)
        assert waiter.hear() == "waiting"
        until_waiting(queue)
        queue.configure(limits={"a": 2})
        assert waiter.hear() == ["a2", 0]
        waiter.end()
        a1.ack()
        assert queue.check() == []


def test_a_killed_holder_frees_its_group_for_the_same_message(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(["a1", "a2"], group="a")
        holder = children.fork(hold, path)
        assert holder.hear() == ["a1"]
        waiter = children.fork(take_one, path)
        assert waiter.hear() == "waiting"
        until_waiting(queue)
        holder.kill()
        assert waiter.hear() == ["a1", 1]
        waiter.end()
        assert take(queue) == ["a2"]
        assert queue.check() == []


def test_a_message_that_kills_its_workers_does_not_hold_up_its_group_for_ever(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path, max_deliveries=2) as queue:
        queue.put_many(["poison", "a2"], group="a")
        for _ in range(2):
            holder = children.fork(hold, path)
            assert holder.hear() == ["poison"]
            assert take(queue) == []
            holder.kill()
        assert take(queue) == ["a2"]
        assert [m.body for m in queue.dead.peek(5)] == ["poison"]
        assert queue.check() == []


def test_a_group_that_waits_for_a_retry_is_held_up_after_the_death_of_all_processes(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        ids = queue.put_many(["a1", "a2"], group="a")
    holder = children.fork(hold, path)
    assert holder.hear() == ["a1"]
    holder.say("nack later")
    assert holder.hear() == "done"
    holder.kill()
    with mqlite.Queue[Any]("q", path) as queue:
        assert take(queue) == []
        assert queue.cancel(ids[0])
        assert take(queue) == ["a2"]
        assert queue.check() == []


def test_a_group_of_killed_claimers_is_whole_after_the_run_folder_is_gone(path: str, children: Any) -> None:
    """As after a crash of the machine."""
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many(["a1", "a2", "a3"], group="a")
    holder = children.fork(hold, path)
    assert holder.hear() == ["a1"]
    holder.kill()
    shutil.rmtree(os.path.join(path, "run"))
    with mqlite.Queue[Any]("q", path) as queue:
        for expected in ("a1", "a2", "a3"):
            messages = queue.receive(9, timeout=0)
            assert [m.body for m in messages] == [expected]
            messages[0].ack()
        assert queue.check() == []


# ---------------------------------------------------------------------- a storm
GROUPS = [f"g{n}" for n in range(5)]


def work(talk: Any, path: str, journal: str, seed: int) -> None:
    """Takes messages one or a few at a time, notes each step with one write(2) to a file that all share; until killed."""
    chance = random.Random(seed)
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    prefetch = chance.choice((0, 1, 3))
    consumer = queue.consumer(prefetch=prefetch) if prefetch else None

    def note(word: str, body: Any) -> None:
        os.write(fd, f"{word} {body[0]} {body[1]}\n".encode())

    while True:
        messages = [consumer.receive()] if consumer is not None else queue.receive(chance.randint(1, 3))
        for message in messages:
            note("start", message.body)
        for message in messages:
            way = chance.random()
            if way < 0.8:
                message.ack()
                note("acked", message.body)
            elif way < 0.9:
                note("back", message.body)
                message.nack(delay=chance.choice((None, 0.01)))
            else:
                note("back", message.body)
                message.release()


def lines(journal: str) -> Iterator[tuple[str, str, int]]:
    with open(journal) as file:
        for line in file:
            word, group, number = line.split()
            yield word, group, int(number)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [{}, {"fair": True}], ids=["in order of priority", "fair"])
def test_groups_keep_their_order_and_lose_nothing_while_their_workers_are_killed(path: str, tmp_path: Any, children: Any, options: dict[str, Any]) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    journal = os.path.join(tmp_path, "journal")
    count, kills = 150, 0
    with mqlite.Queue[Any]("q", path, max_deliveries=None, **options) as queue:
        for number in range(count):
            for group in GROUPS:
                queue.put([group, number], group=group)
        workers = [children.fork(work, path, journal, chance.randrange(1 << 30)) for _ in range(3)]
        end = time.monotonic() + GUARD
        while queue.unfinished_tasks:
            assert time.monotonic() < end, f"{queue.stats()} after {GUARD} s"
            time.sleep(chance.expovariate(1 / 0.05))  # how often one dies
            victim, kills = chance.randrange(3), kills + 1
            workers[victim].kill()
            workers[victim] = children.fork(work, path, journal, chance.randrange(1 << 30))
        for worker in workers:
            worker.kill()
        assert queue.check() == []
        assert (queue.qsize(), queue.stats().dead) == (0, 0)
    print(f"{kills} killed")
    reached: dict[str, int] = defaultdict(lambda: -1)
    acked: dict[str, int] = defaultdict(lambda: -1)
    for word, group, number in lines(journal):
        if word == "start":
            assert number in (reached[group], reached[group] + 1), f"{group}: {number} started after {reached[group]}"
            assert number > acked[group], f"{group}: {number} started after its ack"
            reached[group] = number
        elif word == "acked":
            acked[group] = max(acked[group], number)
    assert reached == dict.fromkeys(GROUPS, count - 1)
