"""Kills a process at the n-th point of one call, for n = 1, 2, 3, ... until it survives.

A point is what `arm(n)` says: a line of the package, or a system call that writes.
After each death the store is opened again and must be whole: `check()` finds
nothing, each message is in exactly one state, and what a call returned still holds.

    python -m crash.kill_points FOLDER half LEVEL    sweeps all scenarios by system call, in tests/ (needs fault_at_call.c preloaded)

policy_points.py has further scenarios, of queues with policies.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crash.children import Children
from crash.faults import KILLS, TEARS_AND_KILLS, Faults
from polling import until

import mqlite

GUARD = 60.0
SOON = 0.002
#: So many deaths in one store: `check()` looks at all that is in it, and making a store costs as much as three of those looks.
#: With 25, a death of bank_points.py took 62 ms of processor time, with 6 it takes 40, with 1 it takes 52.
SHARED = 6


@dataclass
class Found:
    """What is left of the messages: body -> delivery_count."""

    live: dict[Any, int]
    dead: dict[Any, int]

    def one_place(self, body: Any) -> str:
        assert not (body in self.live and body in self.dead), f"{body!r} is live and dead"
        return "live" if body in self.live else "dead" if body in self.dead else "gone"


@dataclass
class Scenario:
    """One call under fire.

    hold: the child receives so many messages before the shooting starts.
    dead: the messages are dead letters before the shooting starts.
    first_death: another process receives as many as `hold` and is killed before; the child, which is there already, finds
    it dead under fire.
    prefetched: what that process holds besides, in the buffer of its consumer.
    waits: the message is held at first and always comes back: another process can wait for it meanwhile.
    """

    name: str
    act: Callable[[mqlite.Queue[Any], list[mqlite.Message]], Any]
    verify: Callable[[Found, bool], None]
    put: int = 1
    put_delay: float = 0.0
    dead: bool = False
    hold: int = 0
    first_death: bool = False
    prefetched: int = 0
    waits: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def prepare(self, queue: mqlite.Queue[Any]) -> None:
        """What is there before."""
        if self.put:
            queue.put_many(range(self.put), delay=self.put_delay)
        if self.name == "put":
            queue.put("old")
        if self.name == "hand out":
            queue.put_many(range(self.put, 2 * self.put), priority=-1)
        if self.dead:
            for message in queue.receive(self.put):
                message.reject()

    def wait(self, queue: mqlite.Queue[Any]) -> None:
        """What another process does meanwhile: returns once the message is back, which it is by itself."""
        [message] = queue.receive(timeout=GUARD)
        message.release()

    def look(self, queue: mqlite.Queue[Any], returned: bool) -> None:
        """Takes out what is left, all that is delayed included, and judges it."""
        self.verify(until_due(queue), returned)


def _all(found: Found, count: int, *places: str) -> str:
    """All of the messages 0..count-1 are in one of the places, and in the same one."""
    where = {found.one_place(number) for number in range(count)}
    assert len(where) == 1, f"torn apart: {found}"
    [place] = where
    assert place in places, f"{place}, not one of {places}: {found}"
    return place


def until_due(queue: mqlite.Queue[Any]) -> Found:
    """All that is left, once nothing waits for its time any more."""
    until(lambda: not queue.stats().delayed)  # SOON is very soon
    return drained(queue)


def _verify_put(found: Found, returned: bool) -> None:
    assert found.live == {"old": 0, "new": 0} if returned else found.live in ({"old": 0}, {"old": 0, "new": 0}), found


def _verify_put_many(found: Found, returned: bool) -> None:
    _all(found, 3, "live") if returned else _all(found, 3, "live", "gone")


def _verify_producer(found: Found, returned: bool) -> None:
    assert set(found.live) == set(range(len(found.live))), f"not a prefix: {found}"
    assert len(found.live) == 6 or not returned, found


def _verify_receive(found: Found, returned: bool) -> None:
    assert set(found.live) == {0}, found
    assert found.live[0] == 1 if returned else found.live[0] in (0, 1), found


def _verify_prefetch(found: Found, returned: bool) -> None:
    assert set(found.live) == {0, 1, 2}, found
    assert found.live[0] == 1 if returned else found.live[0] in (0, 1), found
    assert found.live[1] == found.live[2] == 0, f"an untouched neighbour is blamed: {found}"


def _verify_hand_out(found: Found, returned: bool) -> None:
    assert set(found.live) == set(range(6)), found
    blamed = [found.live[number] for number in range(6)]
    assert blamed in [[1] * count + [0] * (6 - count) for count in ((4,) if returned else range(5))], found


def _verify_handed_out(found: Found, returned: bool) -> None:
    assert found.live == {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}, f"the first death is that of three messages: {found}"


def _verify_get(found: Found, returned: bool) -> None:
    assert _all(found, 1, "gone") if returned else _all(found, 1, "gone", "live")
    assert found.live.get(0, 0) == 0, f"a death in get() is blamed on the message: {found}"


def _verify_ack(count: int) -> Callable[[Found, bool], None]:
    def verify(found: Found, returned: bool) -> None:
        assert _all(found, count, "gone") if returned else _all(found, count, "gone", "live")
        assert set(found.live.values()) <= {1}, found

    return verify


def _verify_nack(found: Found, returned: bool) -> None:
    assert found.live == {0: 1}, f"the failure or the death, but not both: {found}"


def _verify_dead(found: Found, returned: bool) -> None:
    assert (found.live, found.dead) == ({}, {0: 1}), found


def _verify_put_later(found: Found, returned: bool) -> None:
    _all(found, 3, "live") if returned else _all(found, 3, "live", "gone")


def _verify_reject(found: Found, returned: bool) -> None:
    assert _all(found, 1, "dead") if returned else _all(found, 1, "dead", "live")
    assert found.live.get(0, 1) == 1, found
    assert found.dead.get(0, 0) == 0, f"reject is no failure: {found}"


def _verify_release(found: Found, returned: bool) -> None:
    assert set(found.live) == {0}, found
    assert found.live[0] in ((0,) if returned else (0, 1)), found


def _verify_blamed(found: Found, returned: bool) -> None:
    assert found.live == {0: 1}, found


def _verify_take_back(found: Found, returned: bool) -> None:
    assert set(found.live) == {0}, found
    assert found.live[0] == 2 if returned else found.live[0] in (1, 2), found


def _verify_untouched(found: Found, returned: bool) -> None:
    assert found.live == {0: 0}, found


def _produce(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    with queue.producer() as producer:
        for number in range(6):
            producer.put(number)


def _get_nothing(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    try:
        queue.get(timeout=0.01)
    except mqlite.Empty:
        pass


def _hand_out(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    """One with its claim, three from the buffer: of two ranks."""
    consumer = queue.consumer(prefetch=6)
    for _ in range(4):
        consumer.receive(timeout=0)


def _receive_nothing(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    try:
        queue.receive(timeout=0)
    except mqlite.Empty:
        pass


def _no_room(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    try:
        queue.put("no room", timeout=0.01)
    except mqlite.Full:
        pass


def _verify_purge(found: Found, returned: bool) -> None:
    assert _all(found, 3, "gone") if returned else _all(found, 3, "gone", "live")
    assert set(found.live.values()) <= {0}, f"nobody is to blame: {found}"


def _verify_redrive(found: Found, returned: bool) -> None:
    assert _all(found, 2, "live") if returned else _all(found, 2, "live", "dead")
    assert set(found.live.values()) <= {0}, found


def _take_what_is_due(queue: mqlite.Queue[Any], _: list[mqlite.Message]) -> None:
    queue.receive(timeout=GUARD)


SCENARIOS = [
    Scenario("put", lambda q, _: q.put("new"), _verify_put, put=0),
    Scenario("put_many", lambda q, _: q.put_many([0, 1, 2]), _verify_put_many, put=0),
    Scenario("producer", _produce, _verify_producer, put=0),
    Scenario("receive", lambda q, _: q.receive(), _verify_receive),
    Scenario("prefetch", lambda q, _: q.consumer(prefetch=3).receive(), _verify_prefetch, put=3),
    Scenario("hand out", _hand_out, _verify_hand_out, put=3),
    Scenario("get", lambda q, _: q.get(), _verify_get),
    Scenario("ack", lambda q, m: m[0].ack(), _verify_ack(1), hold=1),
    Scenario("ack_many", lambda q, m: q.ack_many(m), _verify_ack(3), put=3, hold=3),
    Scenario("nack", lambda q, m: m[0].nack(), _verify_nack, hold=1, waits=True),
    Scenario("nack to dead", lambda q, m: m[0].nack(error="bad"), _verify_dead, hold=1, options={"max_deliveries": 1}),
    Scenario("nack with a delay", lambda q, m: m[0].nack(delay=SOON), _verify_nack, hold=1, waits=True),
    Scenario("put with a delay", lambda q, _: q.put_many([0, 1, 2], delay=SOON), _verify_put_later, put=0),
    Scenario("receive what is due", _take_what_is_due, _verify_receive, put_delay=SOON),
    Scenario("purge", lambda q, _: q.purge(), _verify_purge, put=3),
    Scenario("redrive", lambda q, _: q.redrive(), _verify_redrive, put=2, dead=True, options={"max_deliveries": 1}),
    Scenario("reject", lambda q, m: m[0].reject("bad"), _verify_reject, hold=1),
    Scenario("release", lambda q, m: m[0].release(), _verify_release, hold=1, waits=True),
    Scenario("extend", lambda q, m: m[0].extend(60), _verify_blamed, hold=1),
    Scenario("take back", lambda q, _: q.receive(timeout=0), _verify_take_back, hold=1, first_death=True),
    Scenario("take back what was prefetched", lambda q, _: q.stats(), _verify_handed_out, put=5, hold=3, first_death=True, prefetched=2),
    Scenario("take back to dead", _receive_nothing, _verify_dead, hold=1, first_death=True, options={"max_deliveries": 1}),
    Scenario("close", lambda q, _: q.close(), _verify_release, hold=1, waits=True),
    Scenario("wait for a message", _get_nothing, lambda found, returned: None, put=0),
    Scenario("wait for room", _no_room, _verify_untouched, options={"maxsize": 1}),
    Scenario("shutdown", lambda q, _: q.shutdown(), _verify_untouched),
]


def drained(queue: mqlite.Queue[Any]) -> Found:
    """All that is in a queue and among its dead, taken out and acknowledged."""
    with queue.dead as dead:
        return Found(_drained(queue), _drained(dead))


def _drained(queue: mqlite.Queue[Any]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    while True:
        try:
            messages = queue.receive(100, timeout=0)
        except mqlite.Empty:
            return found
        for message in messages:
            assert message.body not in found, f"{message.body!r} is there twice"
            found[message.body] = message.delivery_count
        queue.ack_many(messages)


class Round:
    """What Sweep asks of a scenario that is told, and looked at, by a sweep of its own (see BankSweep, TopicSweep)."""

    first_death = False
    hold = 0
    options: dict[str, Any] = {"max_deliveries": None}  # noqa: RUF012

    def __init__(self, name: str, prepare: Callable[[mqlite.Queue[Any]], None]) -> None:
        self.name = name
        self.prepare = prepare


class Sweep:
    """Each death on a queue of its own, SHARED of them in one store, which is removed afterwards."""

    def __init__(self, folder: str, children: Any, arm: Callable[[int], None], level: str = "full") -> None:
        self._folder = folder
        self._level = level
        self._path = ""
        self._children = children
        self._arm = arm
        self._round = 0
        self.kills = 0

    def run(self, scenario: Scenario, points: Iterable[int], waiting: bool = False) -> int:
        """Die at each of the points; returns the first one that was survived (0: none was)."""
        for point in points:
            try:
                if self._one(scenario, point, waiting):
                    return point
            except AssertionError as error:
                raise AssertionError(f"{scenario.name!r}, killed at point {point}: {error}") from error
        return 0

    def _one(self, scenario: Scenario, point: int, waiting: bool) -> bool:
        if self._round % SHARED == 0:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = os.path.join(self._folder, f"swept{self._round}.mq")
            mqlite.open(self._path, durability=self._level).close()
        self._round += 1
        name = f"round {self._round}"
        queue: mqlite.Queue[Any] = mqlite.Queue(name, self._path, **scenario.options)
        scenario.prepare(queue)
        queue.close()
        if scenario.first_death:
            holder = self._children.fork(_hold, self._path, name, scenario.hold, scenario.prefetched)
            holder.hear()
        child = self._children.fork(self._act, name, scenario, point)
        assert child.hear() == "ready"
        if scenario.first_death:
            holder.kill()
        if waiting:
            queue = mqlite.Queue(name, self._path)
            child.say("go")
            scenario.wait(queue)
        else:
            child.say("go")
        returned = False
        try:
            returned = child.hear() == "returned"
            survived = child.hear() == "survived"
        except EOFError:
            survived = False
        if not survived:
            assert child.wait() == -signal.SIGKILL
            self.kills += 1
        child.kill()
        if not waiting:
            queue = mqlite.Queue(name, self._path)
        try:
            self._look(queue, scenario, returned)
        finally:
            queue.close()
            self._children.kill_all()
        return survived

    def _act(self, talk: Any, name: str, scenario: Scenario, point: int) -> None:
        queue: mqlite.Queue[Any] = mqlite.Queue(name, self._path)
        messages = queue.receive(scenario.hold) if scenario.hold and not scenario.first_death else []
        talk.say("ready")
        talk.hear()
        self._arm(point)
        scenario.act(queue, messages)
        talk.say("returned")
        self._arm(0)
        talk.say("survived")
        talk.hear(3600)

    def _look(self, queue: mqlite.Queue[Any], scenario: Scenario, returned: bool) -> None:
        assert queue.check() == []
        scenario.look(queue, returned)
        self._is_left_empty(queue)

    def _is_left_empty(self, queue: mqlite.Queue[Any]) -> None:
        """The store is whole, nothing is left in the queue, and it goes on."""
        assert queue.check() == []
        stats = queue.stats()
        assert (stats.ready, stats.claimed, stats.dead, queue.unfinished_tasks) == (0, 0, 0, 0), stats
        queue.put("after", timeout=0)
        assert queue.get(timeout=GUARD) == "after"


def _hold(talk: Any, path: str, name: str, count: int, prefetched: int) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue(name, path)
    if prefetched:
        consumer = queue.consumer(prefetch=count + prefetched)
        for _ in range(count):
            consumer.receive(timeout=GUARD)
    else:
        queue.receive(count, timeout=GUARD)
    talk.say("held")
    talk.hear(3600)


def sweep_opening(folder: str, children: Any, arm: Callable[[int], None], points: Iterable[int], new: bool, level: str = "full") -> tuple[int, int]:
    """Die while opening a store (a new one, or one with a message). (the first point survived, kills)"""

    def opening(talk: Any, path: str, point: int) -> None:
        arm(point)
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path, durability=level)
        arm(0)
        talk.say("survived")
        talk.hear()
        queue.close()

    kills = 0
    path = os.path.join(folder, "opened.mq")
    if not new:
        with mqlite.open(path, durability=level) as broker:
            broker.queue("q").put("old")
    for point in points:
        if new:
            path = os.path.join(folder, f"new{point}.mq")
        child = children.fork(opening, path, point)
        try:
            survived = child.hear() == "survived"
        except EOFError:
            survived = False
            assert child.wait() == -signal.SIGKILL
            kills += 1
        child.kill()
        with mqlite.open(path, durability=level) as broker:
            assert broker.check() == [], point
            queue = broker.queue("q")
            assert queue.stats().ready == (0 if new else 1), point
            queue.put("old")
            assert queue.get(timeout=0) == "old", point
            assert broker.check() == [], point
        children.kill_all()
        if new:
            shutil.rmtree(path)
        if survived:
            return point, kills
    return 0, kills


def arm_lines(point: int) -> None:
    """Die at the point-th line of the package that any thread runs from now on; 0: do not."""
    import threading

    if point == 0:
        sys.settrace(None)
        return
    package = os.path.dirname(mqlite.__file__)
    left = point

    def local(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(package) else None

    threading.settrace(trace)
    sys.settrace(trace)


def sweep_seed() -> int:
    """MQLITE_SWEEP_SEED, or one of the moment; printed."""
    seed = int(os.environ.get("MQLITE_SWEEP_SEED", time.time_ns() % 10**6))
    print(f"MQLITE_SWEEP_SEED={seed}")
    return seed


def sweep_lines(folder: str, children: Any, scenario: Scenario, points: Iterable[int], waiting: bool, level: str = "full") -> int:
    """A scenario by lines; how often the call was killed before it survived."""
    assert scenario.waits or not waiting
    sweep = Sweep(folder, children, arm_lines, level)
    survived = sweep.run(scenario, points, waiting)
    assert survived, f"{scenario.name!r} takes more lines than were tried"
    print(f"{scenario.name}: {sweep.kills} kills, survived {survived} lines")
    return sweep.kills


EVERY_WRITE = range(1, 1000)


def arm_writes(half: int) -> Callable[[int], None]:
    """Die at the n-th system call that changes a file, by fault_at_call.c; half: in the midst of a long write."""
    faults = Faults()
    return lambda point: faults.arm(point, point, TEARS_AND_KILLS if half else KILLS)


def sweep_writes(folder: str, children: Any, half: int, scenarios: Iterable[Scenario], level: str = "full") -> None:
    """Scenarios by system call; prints one line of JSON each."""
    sweep = Sweep(folder, children, arm_writes(half), level)
    for scenario in scenarios:
        kills = sweep.kills
        survived = sweep.run(scenario, EVERY_WRITE)
        print(json.dumps({"scenario": scenario.name, "survived": survived, "kills": sweep.kills - kills}), flush=True)


def main() -> None:
    """All scenarios by system call."""
    folder, half, level = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    children = Children()
    sweep_writes(folder, children, half, SCENARIOS, level)
    for name, new in (("open", False), ("create", True)):
        survived, kills = sweep_opening(folder, children, arm_writes(half), EVERY_WRITE, new, level)
        print(json.dumps({"scenario": name, "survived": survived, "kills": kills}), flush=True)


if __name__ == "__main__":
    main()
