"""Threads of several processes that mostly wait for what passes by: every message arrives, and nobody sleeps beside one. [32]

In rounds: a few messages are put, anywhere; the next round comes when all have arrived. Nobody looks by himself meanwhile,
so a wake-up that gets lost ends a round in vain. Also a program of its own, for processes that share nothing with this one.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest
from crash.children import Child, Children, Talk
from crash.kill_points import sweep_seed

import mqlite
from mqlite.log import front
from mqlite.wake import fifo

LEVEL = "process"
GUARD = 30.0
PROCESSES, THREADS = 3, 4
#: Longer than any test: whoever is not rung waits.
LONG = 3600.0
KINDS = ("get", "get", "receive", "receive", "three", "consumer", "auto")


def _take(queue: mqlite.Queue[Any], kind: str, timeout: float) -> list[Any]:
    if kind == "get":
        return [queue.get(timeout=timeout)]
    if kind in ("receive", "three"):
        messages = queue.receive(3 if kind == "three" else 1, timeout=timeout)
        for message in messages:
            message.ack()
        return [message.body for message in messages]
    options: dict[str, Any] = {"auto_ack": True} if kind == "auto" else {"prefetch": 3}
    with queue.consumer(**options) as consumer:
        message = consumer.receive(timeout=timeout)
        if kind != "auto":
            message.ack()
        return [message.body]


def work(talk: Talk, path: str, seed: int) -> None:
    """Some threads take what comes, and say so; this one puts what it is told to put."""
    front.FEWEST, fifo.HEDGE = 1, LONG
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, max_deliveries=None)
    saying = threading.Lock()

    def say(*what: Any) -> None:
        with saying:
            talk.say(what)

    def take(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        with contextlib.suppress(mqlite.Closed):
            while True:
                timeout = chance.choice((LONG, LONG, LONG, 0.05, 0.002))
                with contextlib.suppress(mqlite.Empty):
                    bodies = _take(queue, chance.choice(KINDS), timeout)
                    say("got", [body.decode() if isinstance(body, bytes) else body for body in bodies])

    threads = [threading.Thread(target=take, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    say("ready")
    while True:
        how, bodies = talk.hear(LONG)
        if how == "end":
            break
        if how == "many":
            queue.put_many(bodies)
        else:
            for number, body in enumerate(bodies):
                queue.put(body.encode() if number % 2 else body, delay=0.02 if how == "later" else None)
        say("put", bodies)
    queue.close()
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive(), "a thread sleeps on although the queue was closed"
    say("ended")


class Storm:
    """The rounds, and the processes that take part."""

    def __init__(self, path: str, children: Children, spawns: bool) -> None:
        self._path, self._children, self._spawns = path, children, spawns
        self._chance = random.Random(sweep_seed())
        self.all: list[Child] = []
        self.got: Counter[str] = Counter()
        self.put: set[str] = set()
        self.rounds = self.kills = 0
        self._queue: mqlite.Queue[Any] = mqlite.Queue("q", path, max_deliveries=None)
        for _ in range(PROCESSES):
            self.start()

    def start(self) -> None:
        seed = self._chance.getrandbits(32)
        child = self._children.fork(_become_another if self._spawns else work, self._path, seed)
        self.all.append(child)
        assert child.hear() == ["ready"]

    def round(self, kill: bool) -> None:
        self.rounds += 1
        told: dict[str, Child] = {}
        for child in self._chance.sample(self.all, self._chance.randint(1, len(self.all))):
            bodies = [f"{self.rounds}-{child.pid}-{number}" for number in range(self._chance.randint(1, 3))]
            child.say([self._chance.choice(("each", "each", "each", "many", "later")), bodies])
            told |= dict.fromkeys(bodies, child)
        victim = None
        if kill:
            victim = self._chance.choice(self.all)
            select.select([], [], [], self._chance.choice((0, 0.0005, 0.002)))  # somewhere in the middle of it
            victim.kill()
            self.kills += 1
            self._hear(victim)
            self.all.remove(victim)
        end = time.monotonic() + GUARD
        while not self._has_ended(told, victim):
            missing = [body for body in told if not self.got[body]]
            assert time.monotonic() < end, f"round {self.rounds}: somebody sleeps beside some of {missing}"
            for child in self.all:
                self._hear(child, 0.001 if child is self.all[0] else 0)
        if kill:
            self.start()

    def _has_ended(self, told: dict[str, Child], victim: Child | None) -> bool:
        if victim is None:
            return all(self.got[body] for body in told)
        # the victim may have taken some, without a word
        return all(body in self.put for body, child in told.items() if child is not victim) and not self._stored()

    def _stored(self) -> int:
        """How many messages are there. Found out without a look around, which would wake those who wait."""
        log: Any = self._queue._engine.log
        number, words = self._queue._state.id, log.front.words
        with log.read() as snapshot:
            counters = snapshot.counters(number)
        if not log.front.is_empty():
            for slot in range(front.SLOTS, front.SLOTS + front.SLOT_WORDS * front.ALL_SLOTS, front.SLOT_WORDS):
                if words[slot] == number + 1:
                    return int(words[slot + front.TOTAL] + counters.timers)
        return int(counters.total + counters.timers)

    def _hear(self, child: Child, timeout: float = 0) -> None:
        with contextlib.suppress(EOFError, TimeoutError):
            while True:
                what, *bodies = child.hear(timeout)
                timeout = 0
                if what == "got":
                    self.got.update(bodies[0])
                elif what == "put":
                    self.put.update(bodies[0])

    def end(self) -> None:
        for child in self.all:
            child.say(["end", []])
        for child in self.all:
            while child.hear() != ["ended"]:
                pass
            assert child.wait() == 0
        assert self._queue.qsize() == 0
        assert self._queue.check() == []
        self._queue.close()


def _become_another(talk: Talk, path: str, seed: int) -> None:
    """A process that was not forked from this one, as far as it knows."""
    end = talk._end.fileno()
    os.set_inheritable(end, True)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.execv(sys.executable, [sys.executable, __file__, str(end), path, str(seed)])


def _storm(seconds: float, path: str, children: Children, *, spawns: bool = False, kills: bool = False) -> None:
    storm = Storm(path, children, spawns)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        storm.round(kills)
    if not kills:
        assert set(storm.got.values()) == {1}, "something came twice"
    storm.end()
    print(f"{storm.rounds} rounds, {sum(storm.got.values())} messages, {storm.kills} kills")
    assert storm.rounds > 3


@pytest.mark.parametrize("spawns", [False, True], ids=["fork", "spawn"])
def test_threads_of_processes_that_mostly_wait_get_all(path: str, children: Children, spawns: bool) -> None:
    _storm(2, path, children, spawns=spawns)


def test_who_waits_gets_all_although_others_are_killed(path: str, children: Children) -> None:
    _storm(3, path, children, kills=True)


@pytest.mark.slow
@pytest.mark.parametrize("spawns", [False, True], ids=["fork", "spawn"])
@pytest.mark.parametrize("kills", [False, True], ids=["all live", "kills"])
def test_threads_of_processes_that_mostly_wait_for_long_get_all(path: str, children: Children, kills: bool, spawns: bool) -> None:
    _storm(20, path, children, spawns=spawns, kills=kills)


if __name__ == "__main__":
    work(Talk(socket.socket(fileno=int(sys.argv[1]))), sys.argv[2], int(sys.argv[3]))
