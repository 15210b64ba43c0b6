"""Further scenarios for kill_points.py: what becomes of topics whose publishers, subscribers and movers are killed.

Each death has a topic and a queue of its own, both with the name of the round. After it a
survivor finds each message with everybody it went to or with nobody, in order and once; a
subscription in its old place or in the new one; and nothing that nobody refers to.

    python -m crash.topic_points FOLDER half    sweeps all of them by system call, in tests/
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crash.children import Children
from crash.kill_points import EVERY_WRITE, SOON, Round, Sweep, arm_lines, arm_writes
from polling import until

import mqlite
from mqlite.engine import replay, subscriptions

Queue = mqlite.Queue[Any]
Messages = list[mqlite.Message]
LIMITS: dict[str, Any] = {"retention": "limits"}
COMPACT: dict[str, Any] = {"compact": True}
#: So many messages are moved, or removed, in one commit by the process under fire: else there would be one step.
STEP = 2


@dataclass
class Stage:
    """What a scenario plays on, as one process has it. kept: what is to live as long as the process."""

    topic: Any
    queue: Queue
    held: Messages = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def sub(self, name: str = "a", **options: Any) -> Any:
        self.kept.append(self.topic.subscribe(name, **options))
        return self.kept[-1]

    def ids(self) -> list[int]:
        """Of all that the topic keeps, the oldest first."""
        with self.topic._engine.log.read() as snapshot:
            return [number for number, _ in snapshot.all_kept(self.topic._state.id)]

    def there(self, name: str) -> bool:
        return name in self.topic.subscriptions()

    def left(self, name: str | None = None) -> list[Any]:
        """All that a subscription (None: the queue) has, taken out in its order, with what waits for its time."""
        taker = self.queue if name is None else self.sub(name)
        found: list[Any] = []
        while True:
            try:
                messages = taker.receive(100, timeout=0)
            except mqlite.Empty:
                if not taker.stats().delayed:
                    return found
                until(lambda: taker.stats().ready or not taker.stats().delayed)
                continue
            found += [message.body for message in messages]
            taker.ack_many(messages)


Act = Callable[[Stage], Any]
Verify = Callable[[Stage, bool], None]


def nothing(stage: Stage) -> None:
    pass


@dataclass
class Play:
    """One call under fire. before: by the parent; enter: by the process to be killed, before the shooting."""

    name: str
    act: Act
    verify: Verify
    before: Act = nothing
    enter: Act = nothing
    topic: dict[str, Any] = field(default_factory=dict)


class TopicSweep(Sweep):
    """As Sweep, with a topic."""

    def _one(self, scenario: Any, point: int, waiting: bool) -> bool:
        self._play: Play = scenario
        return super()._one(Round(scenario.name, self._before), point, waiting)

    def _before(self, queue: Queue) -> None:
        stage = self._stage(queue)
        self._play.before(stage)
        stage.topic.close()

    def _stage(self, queue: Queue) -> Stage:
        return Stage(mqlite.Topic(queue.name, self._path, max_deliveries=None, **self._play.topic), queue)

    def _act(self, talk: Any, name: str, scenario: Any, point: int) -> None:
        replay.FED_AT_ONCE = subscriptions.DROPPED_AT_ONCE = STEP
        stage = self._stage(mqlite.Queue(name, self._path))
        self._play.enter(stage)
        talk.say("ready")
        talk.hear()
        self._arm(point)
        self._play.act(stage)
        talk.say("returned")
        self._arm(0)
        talk.say("survived")
        talk.hear(3600)

    def _look(self, queue: Queue, scenario: Any, returned: bool) -> None:
        stage = self._stage(queue)
        topic = stage.topic
        assert topic.check() == []
        self._play.verify(stage, returned)
        assert topic.check() == []
        for name in topic.subscriptions():  # all of it goes on
            stage.left(name)
        topic.publish("after", "after")
        for name in topic.subscriptions():
            if stage.sub(name).pattern == "#":
                assert stage.left(name) == ["after"], name
            assert topic.unsubscribe(name)
        assert topic.check() == []
        topic.unbind(queue)
        stage.left(None)
        if not topic._state.options.keeps_for_replay:
            assert topic.stats().stored == len(topic.retained()), topic.stats()
        topic.close()
        self._is_left_empty(queue)


# ---------------------------------------------------------------------- what is there before
def everybody(stage: Stage) -> None:
    """Two subscriptions, one of some keys only, and the queue, which is bound twice; "old" is there."""
    for name in "ab":
        stage.sub(name)
    stage.sub("some", pattern="x.*")
    stage.topic.bind(stage.queue, "x.#")
    stage.topic.bind(stage.queue, "#")
    stage.topic.publish("old", "x.y")


def numbers(count: int, *names: str, **options: Any) -> Act:
    """Subscriptions, and 0, 1, 2, ... for them."""

    def before(stage: Stage) -> None:
        for name in names:
            stage.sub(name, **options)
        for number in range(count):
            stage.topic.publish(number, f"k{number}")

    return before


def hold(count: int, name: str = "a") -> Act:
    def enter(stage: Stage) -> None:
        stage.held = stage.sub(name).receive(count, timeout=0)

    return enter


def in_use(stage: Stage) -> None:
    """What a subscription has: messages in line, one that waits, dead letters, and one to come back."""
    numbers(6, "a", "b")(stage)
    a = stage.sub("a")
    a.receive(timeout=0)[0].reject()
    a.receive(timeout=0)[0].nack(delay=3600)
    a.receive(timeout=0)[0].nack()


def doing(*steps: Act) -> Act:
    def all_of_it(stage: Stage) -> None:
        for step in steps:
            step(stage)

    return all_of_it


# ---------------------------------------------------------------------- what is left
def with_all_or_none(*bodies: Any, old: tuple[Any, ...] = ("old",)) -> Verify:
    def verify(stage: Stage, returned: bool) -> None:
        found = [stage.left(name) for name in ("a", "b", "some", None)]
        assert found[1:] == found[:-1], f"torn apart: {found}"
        assert found[0] == [*old, *bodies] or (not returned and found[0] == list(old)), found

    return verify


def one_of(*outcomes: list[Any], name: str = "a") -> Verify:
    """What is left is the last of the outcomes if the call returned, else one of them."""

    def verify(stage: Stage, returned: bool) -> None:
        found = stage.left(name)
        assert found == outcomes[-1] if returned else found in outcomes, (found, returned)

    return verify


def both(*verifies: Verify) -> Verify:
    def verify(stage: Stage, returned: bool) -> None:
        for each in verifies:
            each(stage, returned)

    return verify


def trimmed(stage: Stage, returned: bool) -> None:
    """Replayed are the last two; who subscribed before has all."""
    found = stage.left("a")
    assert found == [0, 1, 2, "new"] or (not returned and found == [0, 1, 2]), found
    stats = stage.topic.stats()
    assert (stats.retained, stats.stored) == (2, 2), stats
    stage.sub("z", start="earliest")
    assert stage.left("z") == found[-2:]


def newest(stage: Stage, returned: bool) -> None:
    """One message of the key is kept, for replay and for new subscriptions: the same."""
    stage.sub("early", start="earliest")
    stage.sub("late")
    early, late = stage.left("early"), stage.left("late")
    assert early == late == ["new"] if returned else early == late and early in (["old"], ["new"]), (early, late)
    found = stage.left("a")
    assert found in (["old", "new"], ["old"])
    assert found[-1:] == early


def replaced(stage: Stage, returned: bool) -> None:
    found = [stage.left("a"), stage.left("b")]
    assert found == [["new"]] * 2 if returned else found in ([["old"]] * 2, [["new"]] * 2), found


def subscribed(*bodies: Any) -> Verify:
    """It is there with all that was kept, or not at all."""

    def verify(stage: Stage, returned: bool) -> None:
        assert stage.there("a") or not returned
        if stage.there("a"):
            stage.topic.publish("next")
            assert stage.left("a") == [*bodies, "next"]

    return verify


def sought(old: list[Any], new: list[Any]) -> Verify:
    """All from the new place on, or all as it was."""

    def verify(stage: Stage, returned: bool) -> None:
        stage.topic.publish("next")
        found = stage.left("a")
        assert found == [*new, "next"] if returned else found in ([*new, "next"], [*old, "next"]), (found, returned)

    return verify


def removed(*names: str) -> Verify:
    """It is there with all that it had, or gone with its messages; others have theirs in any case."""

    def verify(stage: Stage, returned: bool) -> None:
        assert not (returned and stage.there("a"))
        if stage.there("a"):
            a = stage.sub("a")
            assert a.stats().lag == 5
            assert [message.body for message in a.dead.browse()] == [0]
            with contextlib.suppress(mqlite.Empty):
                assert sorted(message.body for message in a.receive(10, timeout=0)) == [2, 3, 4, 5]
            assert stage.topic.unsubscribe("a")
        stage.topic.unsubscribe("nobody")  # does what is left to be done
        assert stage.topic.stats().stored == len(stage.ids()) == 6 * bool(names)
        with stage.topic._engine.claims.read() as c:
            assert not list(c.rows()), "claims on what is gone"
        for name in names:
            assert stage.left(name) == [0, 1, 2, 3, 4, 5]

    return verify


def nobody_left(stage: Stage, returned: bool) -> None:
    """The killed process's own subscription is gone, with its messages."""
    assert stage.topic.subscriptions() == ["b"]
    stage.topic.unsubscribe("nobody")
    assert stage.left("b") == [0, 1, 2]
    assert stage.ids() == []


def willed(at_least: int, at_most: int) -> Verify:
    def verify(stage: Stage, returned: bool) -> None:
        with contextlib.suppress(mqlite.Empty):
            stage.queue.receive(timeout=0)  # notices the death
        found = stage.left("a")
        least, most = (at_least, at_most) if returned else (min(at_least, 0), 1)
        assert found == ["bye"] * len(found), found
        assert least <= len(found) <= most, (found, returned)

    return verify


def once(stage: Stage, returned: bool) -> None:
    with contextlib.suppress(mqlite.Empty):
        stage.queue.receive(timeout=0)
    assert stage.left("a") == ["bye"]
    assert [message.body for message in stage.topic.retained()] == ["bye"]


def forgotten(stage: Stage, returned: bool) -> None:
    """Nobody uses it: it goes after its time, whatever its user had done."""
    until(lambda: not stage.there("a"), "it is never forgotten")
    stage.topic.unsubscribe("nobody")
    assert stage.ids() == []


def bound_or_not(stage: Stage, returned: bool) -> None:
    bound = [binding.queue for binding in stage.topic.bindings()]
    assert bound == [stage.queue.name] if returned else len(bound) <= 1
    assert stage.topic.publish("next").receivers == 1 + len(bound)
    assert stage.left() == ["next"] * len(bound)
    assert stage.left("a") == ["next"]


def unbound_or_not(stage: Stage, returned: bool) -> None:
    bound = stage.topic.bindings()
    assert len(bound) == 0 if returned else len(bound) in (0, 2)
    stage.topic.publish("next", "x.z")
    assert stage.left() == ["old", *["next"] * bool(bound)]


def dead_of(stage: Stage) -> list[Any]:
    return [message.body for message in stage.sub("a").dead.browse()]


def buried(stage: Stage, returned: bool) -> None:
    letters = dead_of(stage)
    found = stage.left("a")
    assert (letters, found) == ([0], [1]) or (not returned and (letters, found) == ([], [0, 1])), (letters, found)
    assert stage.left("b") == [0, 1]
    assert stage.ids() == []
    stage.sub("a").redrive()
    assert stage.left("a") == letters


def redriven(stage: Stage, returned: bool) -> None:
    letters = dead_of(stage)
    assert stage.left("b") == [0]
    found = stage.left("a")
    assert (letters, found) == ([], [0]) or (not returned and (letters, found) == ([0], [])), (letters, found)


def acked(stage: Stage, returned: bool) -> None:
    kept = stage.ids()
    found = stage.left("a")
    assert len(kept) == len(found), "a body without its message"
    assert found == [1] if returned else found in ([0, 1], [1])


def dropped(stage: Stage, returned: bool) -> None:
    found = [stage.left("a"), stage.left("b")]
    assert found == [[1, 2], [0, 1, 2]] if returned else found in ([[0, 1], [0, 1]], [[1, 2], [0, 1, 2]]), found


def limited(stage: Stage, returned: bool) -> None:
    stats = stage.topic.stats()
    assert stats.retained == 1 if returned else stats.retained in (1, 6), stats
    assert stage.left("a") == [0, 1, 2, 3, 4, 5]


# ---------------------------------------------------------------------- what is under fire
def publish(body: Any, key: str = "", **options: Any) -> Act:
    return lambda stage: stage.topic.publish(body, key, **options)


def take_all(stage: Stage) -> None:
    """As a replay goes on."""
    a = stage.sub("a")
    for _ in range(5):
        stage.held += a.receive(1, timeout=0)


def unacknowledged(stage: Stage, returned: bool) -> None:
    stage.topic.publish("next")
    assert stage.left("a") == [0, 1, 2, 3, 4, "next"]


def earliest_and_receive(stage: Stage) -> None:
    stage.held = stage.sub("a", start="earliest").receive(timeout=0)
    assert [message.body for message in stage.held] == [0]


def seek(where: Any) -> Act:
    """where: a position, or the index of an id, from the end."""
    return lambda stage: stage.sub("a").seek(stage.ids()[where] if type(where) is int else where)


def notice(stage: Stage) -> None:
    with contextlib.suppress(mqlite.Empty):
        stage.queue.receive(timeout=0)


def leave_will(stage: Stage) -> None:
    stage.kept.append(stage.topic.will("bye", retain=True))


def withdraw(stage: Stage) -> None:
    stage.kept[-1].close()


def close_last(stage: Stage) -> None:
    stage.kept[-1].close()


def by_one_that_dies(act: Act) -> Act:
    """What another process does, which is killed then."""

    def enter(stage: Stage) -> None:
        notice(stage)  # so that the next time is about the death
        pid = os.fork()
        if pid == 0:
            act(stage)
            os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL

    return enter


def own_subscription(stage: Stage) -> None:
    stage.sub("mine", start="earliest", durable=False)


PLAYS: list[Play] = [
    # ------------------------------------------------------------------ publish
    Play("publish to many", publish("new", "x.z"), with_all_or_none("new"), everybody),
    Play("publish many to many", lambda s: s.topic.publish_many([1, 2, 3], "x.z"), with_all_or_none(1, 2, 3), everybody),
    Play("publish later to many", publish("new", "x.z", delay=SOON, ttl=3600, group="g"), with_all_or_none("new"), everybody),
    Play("publish and trim", publish("new"), trimmed, numbers(3, "a"), topic={**LIMITS, "max_messages": 2}),
    Play("publish, retain, compact", publish("new", "k", retain=True), newest, doing(lambda s: s.sub("a"), publish("old", "k", retain=True)), topic=COMPACT),
    Play("replace for two", publish("new", replace_key="r"), replaced, doing(numbers(0, "a", "b"), publish("old", replace_key="r"))),
    Play("publish and drop", publish(2), dropped, doing(lambda s: s.sub("a", maxsize=2, overflow="drop_oldest"), numbers(2, "b"))),
    Play("configure the limits", lambda s: s.topic.configure(max_messages=1), limited, numbers(6, "a"), topic=LIMITS),
    # ------------------------------------------------------------------ subscribe and replay
    Play("subscribe", lambda s: s.sub("a"), subscribed("old"), publish("old", retain=True)),
    Play("subscribe and receive", earliest_and_receive, subscribed(0, 1, 2, 3, 4), numbers(5), topic=LIMITS),
    Play("replay", take_all, unacknowledged, doing(numbers(5), lambda s: s.sub("a", start="earliest")), topic=LIMITS),
    Play("seek back", seek(1), sought([0, 1, 2, 3], [1, 2, 3]), numbers(4, "a"), hold(3), topic=LIMITS),
    Play("seek to what is kept for others", seek("earliest"), sought([0, 1, 2], [0, 1, 2]), numbers(3, "a", "b"), hold(1)),
    Play("seek to the end", seek("latest"), sought([0, 1, 2, 3, 4], []), numbers(5, "a"), hold(2)),
    Play("seek during a replay", seek(-2), sought([0, 1, 2, 3, 4], [3, 4]), doing(numbers(5), lambda s: s.sub("a", start="earliest")), hold(1), topic=LIMITS),
    # ------------------------------------------------------------------ go
    Play("unsubscribe", lambda s: s.topic.unsubscribe("a"), removed("b"), in_use, hold(2)),
    Play("unsubscribe during a replay", lambda s: s.topic.unsubscribe("a"), one_of([0, 1, 2], name="b"), doing(numbers(3, "b"), lambda s: s.sub("a", start="earliest"))),
    Play("subscribe for a life", own_subscription, nobody_left, numbers(3, "b")),
    Play("close what lives as long", close_last, nobody_left, numbers(3, "b"), own_subscription),
    Play("remove what a dead one had", notice, nobody_left, numbers(3, "b"), by_one_that_dies(own_subscription)),
    Play("stop using", close_last, forgotten, numbers(2, "a", expires_after=SOON), lambda s: s.sub("a", expires_after=SOON)),
    Play("use what may be forgotten", lambda s: s.sub("a", expires_after=SOON), forgotten, numbers(2, "a", expires_after=SOON)),
    # ------------------------------------------------------------------ wills
    Play("leave a will", leave_will, willed(1, 1), numbers(0, "a")),
    Play("withdraw a will", withdraw, willed(0, 0), numbers(0, "a"), leave_will),
    Play("publish the will of a dead one", notice, once, numbers(0, "a"), by_one_that_dies(leave_will)),
    # ------------------------------------------------------------------ queues
    Play("bind", lambda s: s.topic.bind(s.queue, "#", {"type": ("exists", False)}), bound_or_not, numbers(0, "a")),
    Play("unbind", lambda s: s.topic.unbind(s.queue), unbound_or_not, everybody),
    # ------------------------------------------------------------------ settle
    Play("acknowledge the last reference", lambda s: s.held[0].ack(), acked, numbers(2, "a"), hold(1)),
    Play("reject a reference", lambda s: s.held[0].reject(), buried, numbers(2, "a", "b"), hold(1)),
    Play("redrive a reference", lambda s: s.sub("a").redrive(), redriven, doing(numbers(1, "a", "b"), lambda s: s.sub("a").receive()[0].reject())),
]


def sweep_topic_lines(folder: str, children: Any, play: Play, points: Iterable[int]) -> int:
    """A scenario by lines; how often the call was killed before it survived."""
    sweep = TopicSweep(folder, children, arm_lines)
    survived = sweep.run(play, points)  # type: ignore[arg-type]
    assert survived, f"{play.name!r} takes more lines than were tried"
    print(f"{play.name}: {sweep.kills} kills, survived {survived} lines")
    return sweep.kills


def main() -> None:
    """All scenarios by system call."""
    sweep = TopicSweep(sys.argv[1], Children(), arm_writes(int(sys.argv[2])))
    for play in PLAYS:
        kills = sweep.kills
        survived = sweep.run(play, EVERY_WRITE)  # type: ignore[arg-type]
        print(json.dumps({"scenario": play.name, "survived": survived, "kills": sweep.kills - kills}), flush=True)


if __name__ == "__main__":
    main()
