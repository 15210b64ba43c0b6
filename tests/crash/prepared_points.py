"""Further scenarios for kill_points.py: a process is killed while it prepares, decides, asks, or finds out who was asked too often.

Each death has a queue of its own, a topic of the same name that is bound to it, and a row of a table,
which the transaction of a scenario writes. After it the message is in one place: sent (in the queue,
once), prepared, dead, or gone; and the row is there where the message says so.

    python -m crash.prepared_points FOLDER half    sweeps all of them by system call, in tests/
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crash.children import Children
from crash.kill_points import EVERY_WRITE, GUARD, Sweep, arm_lines, arm_writes
from front_things import drained
from prepared_things import Busy

import mqlite

Queue = mqlite.Queue[Any]
#: Who is asked in vain is asked again in so many seconds.
INTERVAL = 0.001


@dataclass
class Scene:
    """What a scenario plays on, as one process has it. target: the queue, or the topic that is bound to it."""

    queue: Queue
    target: Any
    broker: mqlite.Broker

    @property
    def prepared(self) -> mqlite.Prepared[Any]:
        """What is prepared."""
        [prepared] = self.target.prepared()
        return prepared

    def close(self) -> None:
        """All but the queue. The topic is the broker's."""
        self.broker.close()


@dataclass
class Left:
    """What is left. places: of the message, one of "sent", "prepared", "dead"; none: it is gone."""

    places: list[str]
    row: bool
    checks: int = 0

    def one_of(self, *places: str) -> str:
        assert len(self.places) <= 1, f"in two places: {self}"
        place = self.places[0] if self.places else "gone"
        assert place in places, f"{place}, not one of {places}: {self}"
        return place


Act = Callable[[Scene], Any]
Verify = Callable[[Left, bool], None]


def nothing(scene: Scene) -> None:
    pass


def prepare(check_after: float) -> Act:
    return lambda scene: scene.target.prepare("x", check_after=check_after)


def prepare_for_long(scene: Scene) -> None:
    prepare(60)(scene)


def line_up(scene: Scene) -> None:
    """The message is due: it waits to be asked about in line."""
    prepare(0)(scene)
    scene.queue._engine.schedule.care(scene.target._preparing.channel.state.id)


@dataclass
class Play:
    """One call under fire. Sweep's scenario. busy: this process is asked meanwhile, and answers so when the other one is dead."""

    name: str
    act_on: Act
    verify_left: Verify
    before: Act = prepare_for_long
    topic: bool = False
    busy: bool | None = None
    first_death: bool = False
    hold: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def prepare(self, queue: Queue) -> None:
        """By the parent."""
        scene = self.scene(queue)
        if self.topic:
            scene.target.bind(queue)
        self.before(scene)
        scene.close()
        if self.busy is not None:
            self._asked = Busy()
            self._asking = self.scene(mqlite.Queue(queue.name, queue._channel.store.path))
            self._asking.target.check_back(self._asked)
            assert self._asked.asked.wait(GUARD)

    def scene(self, queue: Queue) -> Scene:
        broker = mqlite.open(queue._channel.store.path)
        return Scene(queue, broker.topic(queue.name) if self.topic else queue, broker)

    def act(self, queue: Queue, messages: Any) -> None:
        """By the process that is to be killed."""
        self.act_on(self._entered)

    def enter(self, queue: Queue) -> None:
        """By the same, before the shooting."""
        self._entered = self.scene(queue)
        self._entered.target.prepared()

    def look(self, queue: Queue, returned: bool) -> None:
        """By the survivor. Takes out what is left."""
        if self.busy is not None:
            self._asked.answer(self.busy)
            self._asking.close()
            self._asking.queue.close()
            assert queue.check() == []
        scene = self.scene(queue)
        places, checks = [], 0
        for prepared in scene.target.prepared():
            places.append("prepared")
            checks = prepared.checks
            prepared.rollback()
        with scene.target.dead as dead:
            places += _taken(dead, "dead")
        places += _taken(queue, "sent")
        row = queue.name in scene.broker.table("done")
        self.verify_left(Left(places, row, checks), returned)
        scene.target.prepare("next").rollback()
        assert scene.target.prepared() == []
        scene.close()


def _taken(queue: Queue, place: str) -> list[str]:
    found = drained(queue)
    assert set(found) <= {"x"}
    return [place] * len(found)


class PreparedSweep(Sweep):
    """As Sweep; what the process has open is opened before the shooting."""

    def _act(self, talk: Any, name: str, scenario: Any, point: int) -> None:
        queue: Queue = mqlite.Queue(name, self._path)
        scenario.enter(queue)
        talk.say("ready")
        talk.hear()
        self._arm(point)
        scenario.act(queue, [])
        talk.say("returned")
        self._arm(0)
        talk.say("survived")
        talk.hear(3600)


# ---------------------------------------------------------------------- what is done
def decide(how: str) -> Act:
    return lambda scene: getattr(scene.prepared, how)()


def decide_with_a_row(how: str) -> Act:
    """The local transaction, and what it means for the message, in one commit."""

    def act(scene: Scene) -> None:
        with scene.broker.transaction() as tx:
            tx.table("done")[scene.queue.name] = 1
            getattr(scene.prepared, how)(tx=tx)

    return act


def decide_after_a_row(scene: Scene) -> None:
    """The local transaction, and then the message."""
    with scene.broker.transaction() as tx:
        tx.table("done")[scene.queue.name] = 1
    scene.prepared.commit()


def answer(says: Any, max_checks: int = 15) -> Act:
    """Be asked once, and answer."""

    def act(scene: Scene) -> None:
        asked = threading.Event()

        def check(message: mqlite.Message) -> Any:
            asked.set()
            return says

        with scene.target.check_back(check, max_checks=max_checks):
            assert asked.wait(GUARD)

    return act


def find_dead(scene: Scene) -> None:
    """Whoever opens a check-back finds that the message was asked about too often."""
    with scene.target.check_back(lambda message: True, max_checks=1), scene.target.dead as dead:
        [letter] = dead.receive(timeout=GUARD)
        letter.release()


def be_killed_when_asked(scene: Scene) -> None:
    """Another process is asked, for the first and last time, and killed."""
    prepare(0)(scene)
    pid = os.fork()
    if pid == 0:
        scene.target.check_back(lambda message: os.kill(os.getpid(), signal.SIGKILL), max_checks=1)
        threading.Event().wait(GUARD)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def be_dead(scene: Scene) -> None:
    """Nobody knew, and nobody is asked any more."""
    prepare(0)(scene)
    answer(None, 1)(scene)
    assert scene.target.prepared() == []


# ---------------------------------------------------------------------- what is left
def becomes(before: str, after: str, with_row: bool | None = None) -> Verify:
    """with_row: the row is there where the message is in its new place (True), and else not; None: there is no row."""

    def verify(left: Left, returned: bool) -> None:
        place = left.one_of(after) if returned else left.one_of(before, after)
        assert left.row == (with_row is True and place == after), left

    return verify


def first_the_row(left: Left, returned: bool) -> None:
    place = left.one_of("sent") if returned else left.one_of("prepared", "sent")
    assert left.row or place == "prepared", left


def asked_again(left: Left, returned: bool) -> None:
    left.one_of("prepared")
    assert left.checks == 1 if returned else left.checks in (0, 1), left


def decided_or_answered(decided: str, answered: str) -> Verify:
    """Whoever was asked has the last word, if the other one did not come to decide."""

    def verify(left: Left, returned: bool) -> None:
        left.one_of(decided) if returned else left.one_of(decided, answered)

    return verify


PLAYS = [
    Play("prepare", prepare(60), becomes("gone", "prepared"), nothing),
    Play("prepare for a topic", prepare(60), becomes("gone", "prepared"), nothing, topic=True),
    Play("commit", decide("commit"), becomes("prepared", "sent")),
    Play("commit what is due", decide("commit"), becomes("prepared", "sent"), line_up),
    Play("commit to a topic", decide("commit"), becomes("prepared", "sent"), topic=True),
    Play("roll back", decide("rollback"), becomes("prepared", "gone")),
    Play("roll back what is due", decide("rollback"), becomes("prepared", "gone"), line_up, topic=True),
    Play("commit in a transaction", decide_with_a_row("commit"), becomes("prepared", "sent", with_row=True)),
    Play("commit to a topic in a transaction", decide_with_a_row("commit"), becomes("prepared", "sent", with_row=True), topic=True),
    Play("roll back in a transaction", decide_with_a_row("rollback"), becomes("prepared", "gone", with_row=True)),
    Play("commit after a transaction", decide_after_a_row, first_the_row),
    Play("commit while another is asked", decide("commit"), decided_or_answered("sent", "gone"), prepare(0), busy=False),
    Play("commit while another says the same", decide("commit"), decided_or_answered("sent", "sent"), prepare(0), busy=True),
    Play("roll back while another is asked", decide("rollback"), decided_or_answered("gone", "sent"), prepare(0), topic=True, busy=True),
    Play("say yes", answer(True), becomes("prepared", "sent"), prepare(0)),
    Play("say yes for a topic", answer(True), becomes("prepared", "sent"), prepare(0), topic=True),
    Play("say no", answer(False), becomes("prepared", "gone"), prepare(0)),
    Play("say nothing", answer(None), asked_again, prepare(0)),
    Play("say nothing for the last time", answer(None, 1), becomes("prepared", "dead"), prepare(0)),
    Play("say nothing for the last time, of a topic", answer(None, 1), becomes("prepared", "dead"), prepare(0), topic=True),
    Play("find one that was asked too often", find_dead, becomes("prepared", "dead"), be_killed_when_asked),
    Play("redrive", lambda scene: scene.queue.redrive(), becomes("dead", "sent"), be_dead),
]


def sweep_prepared_lines(folder: str, children: Any, play: Play, points: Iterable[int]) -> int:
    """A scenario by lines; how often the call was killed before it survived."""
    sweep = PreparedSweep(folder, children, arm_lines)
    survived = sweep.run(play, points)  # type: ignore[arg-type]
    assert survived, f"{play.name!r} takes more lines than were tried"
    print(f"{play.name}: {sweep.kills} kills, survived {survived} lines")
    return sweep.kills


def main() -> None:
    """All scenarios by system call."""
    sweep = PreparedSweep(sys.argv[1], Children(), arm_writes(int(sys.argv[2])))
    for play in PLAYS:
        kills = sweep.kills
        survived = sweep.run(play, EVERY_WRITE)  # type: ignore[arg-type]
        print(json.dumps({"scenario": play.name, "survived": survived, "kills": sweep.kills - kills}), flush=True)


if __name__ == "__main__":
    main()
