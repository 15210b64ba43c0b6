"""Callers and responders are killed at random: each call gets its own answer, once, and who died leaves nothing behind."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from crash.children import Child, Children
from fixture_types import Eventually, UntilWaiting
from topic_things import Shop, disk_shop  # noqa: F401

import mqlite
from mqlite.calls import Calls
from mqlite.replies import TOPIC

GUARD = 60.0
Queue = mqlite.Queue[Any]


def members(queue: Queue) -> int:
    """How many handles are known to wait for replies."""
    topic = queue._engine.topics.declare(TOPIC, {})
    with queue._engine.log.read() as snapshot:
        return len(list(queue._engine.topics.members(topic, snapshot)))


def is_empty(queue: Queue) -> bool:
    stats = queue.stats()
    return (stats.ready, stats.delayed, stats.claimed, stats.dead) == (0, 0, 0, 0)


# ---------------------------------------------------------------------- responders die
def _answer(talk: Any, path: str) -> None:
    queue: Queue = mqlite.Queue("work", path, max_deliveries=None)

    def work(body: Any) -> Any:
        if body[-1] % 7 == 0:
            raise ValueError(f"seven of {body}")
        return [body, os.getpid()]

    queue.respond(work, threads=2, prefetch=2)
    talk.say("ready")
    talk.hear()


def _ask(talk: Any, path: str, caller: int, threads: int, each: int) -> None:
    queue: Queue = mqlite.Queue("work", path, max_deliveries=None)
    strays: list[Any] = []
    hand_over = Calls._hand_over

    def counted(self: Calls, reply: Any) -> None:
        known = self._calls.get(reply.extras["correlation_id"])
        if known is None or known.over.is_set():
            strays.append(reply.extras)
        hand_over(self, reply)

    Calls._hand_over = counted  # type: ignore[method-assign]
    wrong: list[Any] = []

    def ask(thread: int) -> None:
        for number in range(each):
            body = [caller, thread, number]
            try:
                [found, _] = queue.call(body, GUARD)
            except mqlite.CallFailed as failed:
                found = body if failed.error == f"ValueError: seven of {body}" and number % 7 == 0 else failed.error
            except Exception as error:
                found = repr(error)
            if found != body:
                wrong.append([body, found])

    running = [threading.Thread(target=ask, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    talk.say([wrong, strays])
    talk.hear()
    queue.close()


def storm(children: Children, path: str, each: int) -> int:
    """How often a responder was killed while 3 callers got their answers."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    callers = [children.fork(_ask, path, number, 2, each) for number in range(3)]
    responders = [children.fork(_answer, path) for _ in range(3)]
    results: dict[int, Any] = {}
    kills = 0
    while len(results) < len(callers):
        victim = dice.randrange(len(responders))
        with contextlib.suppress(TimeoutError):
            number = dice.choice([n for n in range(len(callers)) if n not in results])
            results[number] = callers[number].hear(dice.uniform(0, 0.05))
        responders[victim].drop()
        responders[victim] = children.fork(_answer, path)
        kills += 1
    assert results == {number: [[], []] for number in range(len(callers))}
    for caller in callers:
        caller.say("end")
        caller.end()
    for responder in responders:
        responder.drop()
    queue: Queue = mqlite.Queue("work", path, max_deliveries=None)
    assert queue.check() == []
    assert is_empty(queue)
    assert members(queue) == 0
    queue.close()
    return kills


def test_every_call_gets_its_own_answer_once_while_responders_are_killed(children: Children, path: str) -> None:
    assert storm(children, path, 60) > 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_call_gets_its_own_answer_once_while_responders_are_killed_for_long(children: Children, path: str) -> None:
    assert storm(children, path, 1200) > 30


def test_a_request_whose_responder_was_killed_is_answered_by_another(children: Children, path: str) -> None:
    def hold(talk: Any) -> None:
        queue: Queue = mqlite.Queue("work", path)
        queue.respond(lambda body: talk.say(["at work", body]) or threading.Event().wait(GUARD))
        signal.pause()

    queue: Queue = mqlite.Queue("work", path)
    found: list[Any] = []
    caller = threading.Thread(target=lambda: found.append(queue.call("x", GUARD)))
    child = children.fork(hold)
    caller.start()
    assert child.hear() == ["at work", "x"]
    with queue.respond(lambda body: "answered"):
        child.kill()
        caller.join(GUARD)
    assert found == ["answered"]
    assert is_empty(queue)
    assert queue.check() == []
    queue.close()


# ---------------------------------------------------------------------- callers die
def _ask_for_ever(talk: Any, path: str, timeout: float | None) -> None:
    queue: Queue = mqlite.Queue("work", path)

    def ask() -> None:
        while True:
            queue.call("x" * 100, timeout)

    for _ in range(2):
        threading.Thread(target=ask, daemon=True).start()
    talk.say("calls")
    talk.hear()


def test_callers_that_are_killed_leave_nothing_behind(children: Children, disk_shop: Shop, eventually: Eventually, until_waiting: UntilWaiting) -> None:
    queue = disk_shop.queue()
    dice = random.Random()
    assert disk_shop.path is not None

    def round_(count: int) -> None:
        for number in range(count):
            child = children.fork(_ask_for_ever, disk_shop.path, GUARD if number % 2 else None)
            assert child.hear() == "calls"
            eventually(lambda: members(queue) == 2)
            time.sleep(dice.uniform(0, 0.03))
            child.drop()
        with queue.respond(lambda body: "y"):
            assert queue.call("mine", GUARD) == "y"
            eventually(lambda: is_empty(queue) and members(queue) == 1)

    with queue.respond(lambda body: "y"):
        assert queue.call("mine", GUARD) == "y"
        round_(2)
        assert disk_shop.check() == []
        until_waiting(queue)
        log, claims = disk_shop.entries()
        round_(8)
        assert disk_shop.check() == []
        # The first look may have met a reply that was about to go, or a thread that was about to sleep.
        eventually(lambda: disk_shop.entries()[0] <= log and disk_shop.entries()[1] <= claims + 1)


@pytest.mark.parametrize("timeout", [None, GUARD])
def test_the_requests_of_a_caller_who_was_killed_go_though_nobody_answers(children: Children, disk_shop: Shop, eventually: Eventually, timeout: float | None) -> None:
    queue = disk_shop.queue()
    child: Child = children.fork(_ask_for_ever, disk_shop.path, timeout)
    assert child.hear() == "calls"
    eventually(lambda: len(queue) == 2)
    queue.put("no request")
    [held] = queue.receive()
    child.drop()
    eventually(lambda: len(queue) == 1 and members(queue) == 0)  # in this order: who looks at the queue notices the death
    assert [message.body for message in queue.browse()] == ["no request"]
    assert disk_shop.check() == []
    assert held.reply("late") is False
    assert queue.get(timeout=0) == "no request"
    assert (is_empty(queue), disk_shop.check()) == (True, [])


def test_a_request_of_a_caller_who_was_killed_is_not_worked_on(children: Children, disk_shop: Shop, eventually: Eventually) -> None:
    queue = disk_shop.queue()
    child: Child = children.fork(_ask_for_ever, disk_shop.path, None)
    child.hear()
    eventually(lambda: len(queue) == 2)
    [held] = queue.receive()
    child.drop()
    worked: list[Any] = []
    with queue.respond(worked.append):
        eventually(lambda: len(queue) == 0)
    assert worked == []
    assert held.reply("late") is False
    eventually(lambda: is_empty(queue) and members(queue) == 0)


# ---------------------------------------------------------------------- children
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_calls_work_in_children_started_by(method: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name("calls_everywhere.py")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program), method, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")
