"""Kills a process at points of the bench: where it calls one who sits there, sits down, wakes, and gets up. [32]

Two threads of another process sit there. Whatever the victim was about to do, they get each message that is there, without
waiting for any time to be over; and nothing of the victim stays on the bench. Which points there are, the victim tells in a
first run that survives, as in front_points.py.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
from collections import defaultdict
from typing import Any

from crash.front_points import Points, always_open
from polling import until

import mqlite
from mqlite.claims import Kind, Waiting, bench
from mqlite.engine.passing import Passing
from mqlite.log import front
from mqlite.log.front_flush import Flushes
from mqlite.waiting import Waiters
from mqlite.wake import fifo

GUARD = 20.0
#: Longer than any test: whoever is not rung, and sees nobody die, sleeps.
LONG = 3600.0
SLEEPERS = 2
PUT, PUT_PAST, SIT, CALLED = "put", "put past one who is gone", "sit and get up", "be called"
SCRIPTS = (PUT, PUT_PAST, SIT, CALLED)


def _codes() -> dict[Any, bool]:
    """Code whose lines are points; whether its stores are, too: those into the bench."""
    found: dict[Any, bool] = {}
    for function in vars(bench.Bench).values():
        if hasattr(function, "__code__"):
            found[function.__code__] = True
    for each in (Passing.put, Passing._choose, Passing._choose_one, Passing._call, Passing.sit, Passing.get_up, Passing.pass_on):
        found[each.__code__] = False
    for flush in (Flushes.wait_for_record, Flushes._wait, Flushes._flush, Flushes._note):  # at "full", before who sits there is called
        found[flush.__code__] = True
    for other in (Waiters.wait, Waiters._wait_on_bench, Waiters._may_sit, Waiters._get_up, Waiters._pass_on):
        found[other.__code__] = False
    return found


class BenchSweep:
    """Each death on a queue of its own, in one store."""

    def __init__(self, path: str, children: Any, chance: random.Random, level: str) -> None:
        self._path = path
        self._children = children
        self._chance = chance
        self._round = 0
        self.kills = 0
        self._broker = mqlite.open(path, durability=level)
        self._survivor = children.fork(self._survive)
        assert self._survivor.hear() == "ready"

    def moments(self, script: str) -> dict[str, list[int]]:
        """point -> the moments at which the script comes by there, in a run that survives."""
        found: dict[str, list[int]] = defaultdict(list)
        for moment, where in enumerate(self.one(script, 0), start=1):
            found[where].append(moment)
        return found

    def one(self, script: str, moment: int) -> list[str]:
        """Kill at that moment (0: never), and look. All points that the victim came by, if it survived."""
        self._round += 1
        name = f"q{self._round}"
        queue: mqlite.Queue[Any] = self._broker.queue(name, ack_timeout=None, max_deliveries=None)
        victim = self._children.fork(self._act, name, script, moment)
        assert victim.hear() == "ready"
        self._survivor.say(name)
        places = queue._engine.claims.bench
        assert places is not None
        until(lambda: self._waiting(queue) == SLEEPERS + (script == PUT_PAST))
        victim.say("go")
        if script == CALLED:
            self._call(queue, victim)
        passed: list[str] = []
        with contextlib.suppress(EOFError):
            [*passed] = victim.hear()
            victim.kill()
        assert victim.wait() == -signal.SIGKILL
        self.kills += not passed
        until(lambda: not self._stored(queue), f"they sleep beside a message: {places.everybody()}")
        for _ in range(SLEEPERS):
            queue.put("end", timeout=0)
        ended = 0
        while ended < SLEEPERS:
            ended += self._survivor.hear(GUARD) == "end"
        queue._engine.takeback.notice_changes()
        until(places.is_empty, f"somebody sits there still: {places.everybody()}")
        queue.close()
        return passed

    def _call(self, queue: mqlite.Queue[Any], victim: Any) -> None:
        """Have messages come until the victim has one, or is dead: those who sit have their turn."""
        until(lambda: self._waiting(queue) > SLEEPERS or victim.has_word())
        while not victim.has_word():
            queue.put("x", timeout=0)
            until(lambda: not self._stored(queue) or victim.has_word())

    def _waiting(self, queue: mqlite.Queue[Any]) -> int:
        """How many threads wait: they sit there, but for those who came by in a moment in which a row was needed."""
        with queue._engine.claims.read() as c:
            return len(list(c.waiting(queue._state.id, Kind.MESSAGE)))

    def _stored(self, queue: mqlite.Queue[Any]) -> int:
        """How many messages are there. Found out without a look around, which would wake those who wait."""
        log: Any = queue._engine.log
        number, words = queue._state.id, log.front.words
        with log.read() as snapshot:
            stored = snapshot.counters(number).total
        if not log.front.is_empty():
            for slot in range(front.SLOTS, front.SLOTS + front.SLOT_WORDS * front.ALL_SLOTS, front.SLOT_WORDS):
                if words[slot] == number + 1:
                    return int(words[slot + front.TOTAL])
        return int(stored)

    # ------------------------------------------------------------------ in children
    def _survive(self, talk: Any) -> None:
        fifo.HEDGE = LONG
        with always_open():
            broker = mqlite.open(self._path)
            talk.say("ready")
            while True:
                queue: mqlite.Queue[Any] = broker.queue(talk.hear(LONG))
                threads = [threading.Thread(target=self._take, args=(talk, queue)) for _ in range(SLEEPERS)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                queue.close()

    def _take(self, talk: Any, queue: mqlite.Queue[Any]) -> None:
        body = None
        while body != "end":
            body = queue.get(timeout=LONG)
            talk.say(body)

    def _act(self, talk: Any, name: str, script: str, moment: int) -> None:
        fifo.HEDGE = LONG
        with always_open():
            queue: mqlite.Queue[Any] = mqlite.open(self._path).queue(name)
            own: mqlite.Queue[Any] = mqlite.open(self._path).queue("own", ack_timeout=None)
            own.put("own")
            own.receive(timeout=0)[0].ack()  # now it knows who is there
            engine: Any = queue._engine
            if script == PUT_PAST:
                with engine.log.front.lock, engine.log.front.guard:
                    engine.log.front.take_gate()
                    engine.claims.bench._words[bench.LAST] = 0
                    engine.claims.bench.sit(queue._state.id, Waiting(1 << 40, engine.presence.owner, 0))
            talk.say("ready")
            talk.hear()
            points = Points(moment, _codes())
            points.watch()
            if script in (PUT, PUT_PAST):
                queue.put("x")
            else:
                with contextlib.suppress(mqlite.Empty):
                    queue.get(timeout=0.001 if script == SIT else LONG)
            sys.settrace(None)
            talk.say(points.passed)
            talk.hear(LONG)
