"""Prepared messages for tests: who is asked about them, and how a test knows that he was."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from fixture_types import Eventually

import mqlite
from mqlite.claims import Kind

GUARD = 10.0
#: A queue or a topic.
Target = Any


class Oracle:
    """Says these answers one after the other, the last one for ever; an error is raised, a function is called. Notes what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.asked: list[mqlite.Message] = []

    def __call__(self, message: mqlite.Message) -> Any:
        with self._lock:
            self.asked.append(message)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer(message) if callable(answer) else answer

    @property
    def bodies(self) -> list[Any]:
        """What it was asked about."""
        return [message.body for message in self.asked]


class Busy:
    """Is asked, and does not answer before it is told what. In a `check_back`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._told = threading.Event()
        self._answer: Any = None
        self.bodies: list[Any] = []

    def __call__(self, message: mqlite.Message) -> Any:
        self.bodies.append(message.body)
        self.asked.set()
        assert self._told.wait(GUARD)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def answer(self, answer: Any) -> None:
        """Say this, now and from now on."""
        self._answer = answer
        self._told.set()


def look_at_clock(target: Target) -> None:
    """Whoever waits to be asked looks at the time, which a test has moved by hand."""
    target._engine.waiters.ring_all(target._preparing.channel.state.id, Kind.MESSAGE)


def ask(target: Target, check: Callable[[mqlite.Message], Any], times: int, eventually: Eventually, **options: Any) -> None:
    """A check-back is open until so much was asked, now, and all of it was dealt with."""
    asked: list[Any] = []

    def noted(message: mqlite.Message) -> Any:
        asked.append(message)
        return check(message)

    with target.check_back(noted, **options):
        eventually(lambda: (look_at_clock(target), len(asked) >= times)[1])


def undecided(target: Target) -> list[Any]:
    """The bodies of what is prepared."""
    return [prepared.body for prepared in target.prepared()]


def not_asked(target: Target, eventually: Eventually) -> bool:
    """Whether nothing is to be asked about now: another message that is least urgent would be the next."""
    target.prepare("the least urgent", check_after=0, priority=-99)
    oracle = Oracle(False)
    ask(target, oracle, 1, eventually)
    return oracle.bodies == ["the least urgent"]


# ---------------------------------------------------------------------- in processes of every start method
def be_asked(target: Target, told: Any, answer: Any, max_checks: int = 15) -> None:
    """Opens a check-back; says what it is asked about, and answers, or never does (answer: "nothing")."""

    def check(message: mqlite.Message) -> Any:
        told.send(message.body)
        if answer == "nothing":
            threading.Event().wait()
        return answer

    target.check_back(check, max_checks=max_checks)
    told.send("there")
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)  # it was killed: nobody is left to end this one


def decide_in_child(targets: list[Target], told: Any) -> None:
    """Commits what its parent has prepared if its body is even, and rolls back the rest; prepares more."""
    for target in targets:
        for prepared in target.prepared():
            if prepared.body % 2:
                prepared.rollback()
            else:
                prepared.commit()
        target.prepare("by the child")
        target.close()
    told.send("decided")


def main(method: str, folder: str) -> None:
    """Processes of one start method prepare, decide, are asked, and killed while they are. Prints "ok"."""
    context: Any = multiprocessing.get_context(method)
    broker = mqlite.open(os.path.join(folder, "app.mq"))
    q, topic = broker.queue("q"), broker.topic("events")
    sub = topic.subscribe("s")
    hears, tells = context.Pipe(duplex=False)

    def start(function: Callable[..., None], *arguments: Any) -> Any:
        process = context.Process(target=function, args=arguments, daemon=True)
        process.start()
        return process

    for target in (q, topic):
        for number in range(4):
            target.prepare(number)
    process = start(decide_in_child, [q, topic], tells)
    assert hears.recv() == "decided"
    process.join(60)
    assert process.exitcode == 0
    for target, gets in ((q, q), (topic, sub)):
        assert [gets.get(timeout=GUARD) for _ in range(2)] == [0, 2]
        assert undecided(target) == ["by the child"]
        target.prepared()[0].rollback()

    q.prepare("twice asked about", check_after=0)
    killed = start(be_asked, q, tells, "nothing")
    assert {hears.recv(), hears.recv()} == {"there", "twice asked about"}
    other = start(be_asked, q, tells, True)
    assert hears.recv() == "there"
    killed.kill()
    killed.join()
    assert hears.recv() == "twice asked about"  # the other one is asked
    assert q.get(timeout=GUARD) == "twice asked about"
    assert (q.qsize(), undecided(q)) == (0, [])
    other.kill()
    other.join()

    prepared = q.prepare("killer", check_after=0)
    killed = start(be_asked, q, tells, "nothing", 1)
    assert {hears.recv(), hears.recv()} == {"there", "killer"}
    killed.kill()
    killed.join()
    with q.check_back(lambda message: True, max_checks=1):
        [letter] = q.dead.receive(timeout=GUARD)
    assert (letter.body, letter.death.reason, letter.death.delivery_count) == ("killer", "undecided", 1)
    letter.ack()
    for decide in (prepared.commit, prepared.rollback):
        try:
            decide()
        except mqlite.AlreadyDecided:
            continue
        raise AssertionError("it is dead, and was decided")
    assert (q.qsize(), undecided(q)) == (0, [])
    assert (broker.queues(), broker.check()) == (["q"], [])
    broker.close()
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
