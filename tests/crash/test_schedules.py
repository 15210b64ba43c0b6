"""Schedules, and messages that expire, in several processes: each firing is one message, whoever looks and whoever is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash.kill_points import arm_lines
from hand_clock import NOON, HandClock, timed_queue

import mqlite

EVERY = 0.01


def after(seconds: float) -> HandClock:
    """A clock that stands so many seconds after noon."""
    return HandClock(NOON + seconds, 1000 + seconds)


def soon() -> float:
    """A moment soon, in whole seconds: to be scheduled at once, since what has begun when it is scheduled fires from then on only."""
    return float(int(time.time()) + 2)


def end_schedule(queue: mqlite.Queue[Any], start: float, name: str = "tick") -> int:
    """Unschedule; how many firings there were, as the time of the next one tells. Nobody else looks at the queue any more."""
    [schedule] = [schedule for schedule in queue.schedules() if schedule.name == name]
    assert queue.unschedule(name)
    return round((schedule.next_at.timestamp() - start) / EVERY)


def drained(queue: mqlite.Queue[Any]) -> list[mqlite.Message]:
    """All that is left, acknowledged."""
    found: list[mqlite.Message] = []
    while True:
        try:
            messages = queue.receive(1000, timeout=0)
        except mqlite.Empty:
            return found
        queue.ack_many(messages)
        found.extend(messages)


def look(talk: Any, path: str, ways: list[str]) -> None:
    """Looks again and again, so that whatever is due is fired."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    looks: dict[str, Callable[[], object]] = {"stats": queue.stats, "qsize": queue.qsize, "peek": queue.peek}
    talk.say("looking")
    number = 0
    while True:
        looks[ways[number % len(ways)]]()
        number += 1


def take(talk: Any, path: str) -> None:
    """Tells each message's id before it acknowledges it."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("taking")
    with queue.consumer(prefetch=3) as consumer:
        for message in consumer:
            talk.say(message.id)
            message.ack()


def rest(child: Any) -> list[int]:
    """What it said before it died."""
    said = []
    try:
        while True:
            said.append(child.hear())
    except (EOFError, ValueError):  # perhaps half a line
        return said


# ---------------------------------------------------------------------- one message per firing
def test_each_firing_is_one_message_however_many_processes_look(path: str, children: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        start = soon()
        queue.schedule("tick", "t", every=EVERY, start=start, catch_up="all")
        lookers = [children.fork(look, path, ways) for ways in (["stats"], ["qsize", "peek"], ["peek", "stats"])]
        for looker in lookers:
            assert looker.hear() == "looking"
        [first] = queue.receive(timeout=30)
        while queue.qsize() < 100:
            pass
        for looker in lookers:
            looker.kill()
        first.release()
        count = end_schedule(queue, start)
        assert len(drained(queue)) == count > 100
        assert queue.check() == []


def test_each_firing_is_one_message_when_those_who_look_are_killed_at_any_moment(path: str, children: Any) -> None:
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    chance = random.Random(seed)
    start = soon()
    with mqlite.Queue[str]("q", path) as queue:
        queue.schedule("tick", "t", every=EVERY, start=start, catch_up="all")
        queue.schedule("tock", "o", every=EVERY, start=start, catch_up="all", priority=1)
    stays = children.fork(look, path, ["qsize"])
    assert stays.hear() == "looking"
    rounds = 0
    while rounds < 12 or time.time() < start + 0.1:  # some of them fire
        dies = children.fork(look, path, ["stats", "peek"])
        assert dies.hear() == "looking"
        time.sleep(chance.uniform(0, 0.1))  # any moment will do
        dies.kill()
        rounds += 1
    stays.kill()
    with mqlite.Queue[str]("q", path) as queue:
        assert queue.check() == []
        while not queue.qsize():  # they may have died before the start
            pass
        counts = {"t": end_schedule(queue, start, "tick"), "o": end_schedule(queue, start, "tock")}
        bodies = [message.body for message in drained(queue)]
        assert {body: bodies.count(body) for body in ("t", "o")} == counts
        assert queue.check() == []


def test_each_firing_is_taken_by_consumers_that_share_them_and_are_killed(path: str, children: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        takers = [children.fork(take, path) for _ in range(3)]
        for taker in takers:
            assert taker.hear() == "taking"
        start = soon()
        queue.schedule("tick", "t", every=EVERY, start=start, catch_up="all")
        told = [taker.hear() for _ in range(20) for taker in takers]
        takers[0].kill()
        told.extend(taker.hear() for _ in range(20) for taker in takers[1:])
        for taker in takers[1:]:
            taker.kill()
        for taker in takers:
            told.extend(rest(taker))
        count = end_schedule(queue, start)
        left = [message.id for message in drained(queue)]
        assert len({*told, *left}) == count
        assert len(told) + len(left) - count <= 3, "only what was told and not acknowledged by one that was killed comes again"
        assert queue.check() == []


def fire(talk: Any, path: str, name: str, arm: Callable[[int], None], point: int) -> None:
    """Fires what is due after 35 seconds, and dies on the way."""
    queue = timed_queue(path, after(35), name)
    arm(point)
    queue.stats()
    arm(0)
    talk.say("survived")


def test_a_process_killed_at_any_line_of_firing_fires_all_or_nothing(path: str, children: Any, tmp_path: Path) -> None:
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    chance = random.Random(seed)
    point, kills, survived = chance.randint(1, 10), 0, False
    while not survived:
        name = f"round {point}"
        with timed_queue(path, after(0), name) as queue:
            queue.schedule("tick", "t", every=10, catch_up="all")
            queue.schedule("once", "o", every=30, ttl=100, group="g")
        child = children.fork(fire, path, name, arm_lines, point)
        survived = rest(child) == ["survived"]
        child.wait()
        kills += not survived
        with timed_queue(path, after(35), name) as queue:
            assert queue.check() == []
            assert sorted(message.body for message in drained(queue)) == ["o", "t", "t", "t"]
            assert [schedule.next_at.timestamp() - NOON for schedule in queue.schedules()] == [40, 60]
            assert queue.unschedule("tick")
            assert queue.unschedule("once")
            assert queue.check() == []
        point += chance.randint(15, 60)
    assert kills > 3


# ---------------------------------------------------------------------- who waits
def wait_for(talk: Any, path: str, count: int) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("waiting")
    talk.say([queue.get(timeout=60) for _ in range(count)])


def test_a_process_that_waits_is_woken_for_the_firings_of_another_one_s_schedule(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        child = children.fork(wait_for, path, 5)
        assert child.hear() == "waiting"
        until_waiting(queue)
        queue.schedule("tick", "t", every=0.02)
        assert child.hear() == ["t"] * 5
        child.end()


def test_firings_go_on_when_the_process_that_made_the_schedule_is_killed(path: str, children: Any) -> None:
    def make(talk: Any) -> None:
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
        queue.schedule("tick", "t", every=0.02)
        talk.say("made")
        talk.hear(3600)

    maker = children.fork(make)
    assert maker.hear() == "made"
    maker.kill()
    with mqlite.Queue[str]("q", path) as queue:
        assert [queue.get(timeout=30) for _ in range(3)] == ["t"] * 3


def test_when_the_one_who_watches_the_clock_is_killed_another_does(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[str]("q", path) as queue:
        queue.schedule("tick", "t", every=1)
        first, second = children.fork(wait_for, path, 2), children.fork(wait_for, path, 1)
        assert (first.hear(), second.hear()) == ("waiting", "waiting")
        until_waiting(queue, n=2)
        first.kill()
        assert second.hear() == ["t"]
        second.end()


# ---------------------------------------------------------------------- what expires
def hold(talk: Any, path: str, seconds: float, name: str) -> None:
    queue = timed_queue(path, after(seconds), name)
    messages = queue.receive(10, timeout=0)
    talk.say([message.body for message in messages])
    talk.hear(3600)


@pytest.mark.parametrize("look_at", ["qsize", "get"])
def test_what_a_process_held_when_it_was_killed_expires_if_its_time_is_over(path: str, children: Any, look_at: str) -> None:
    with timed_queue(path, after(0)) as queue:
        queue.put("expires", ttl=5)
        queue.put("stays", ttl=50)
    holder = children.fork(hold, path, 0, "q")
    assert holder.hear() == ["expires", "stays"]
    with timed_queue(path, after(10)) as queue:
        assert (queue.stats().claimed, queue.stats().dead) == (2, 0)
        holder.kill()
        assert {"qsize": queue.qsize, "get": lambda: queue.get(timeout=0)}[look_at]() in (1, "stays")
        [dead] = queue.dead.receive(timeout=0)
        assert dead.death is not None
        assert (dead.body, dead.death.reason, dead.delivery_count) == ("expires", "expired", 1)
        assert queue.check() == []


def test_a_put_blocked_in_one_process_goes_on_when_a_message_of_another_expires(path: str, children: Any) -> None:
    def put(talk: Any) -> None:
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
        talk.say("putting")
        queue.put("next", timeout=60)
        talk.say("done")

    with mqlite.Queue[str]("q", path, maxsize=1) as queue:
        queue.put("expires", ttl=0.3)
        child = children.fork(put)
        assert (child.hear(), child.hear()) == ("putting", "done")
        child.end()
        assert queue.get(timeout=0) == "next"
