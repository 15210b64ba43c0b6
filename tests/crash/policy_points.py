"""Further scenarios for kill_points.py: the transitions of queues with policies.

Groups, expiry, ids that are remembered, replacing, overflow, handling by id, schedules,
pauses, limits and seats. After each death the queue goes on: a group in its order, one in
flight; a schedule with one message per firing; a retried put with what the first one stored.

    python -m crash.policy_points FOLDER half    sweeps all of them by system call, in tests/
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crash.children import Children
from crash.kill_points import GUARD, SOON, Scenario, sweep_writes
from polling import until

import mqlite
from mqlite.engine import timers

Queue = mqlite.Queue[Any]
LONG = 3600.0
#: What `before` put, by body. A forked child knows it, too.
IDS: dict[Any, int] = {}


@dataclass
class Transition(Scenario):
    """One call under fire, on a queue with policies. `verify` takes out what is left by itself.

    before: what is there before; returns ids to remember.
    meanwhile: what another process does (where `waits`); it takes one message and gives it back.
    """

    verify: Callable[[Queue, bool], None]  # type: ignore[assignment]
    before: Callable[[Queue], Any] = lambda queue: None
    meanwhile: Callable[[Queue], None] | None = None
    put: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def prepare(self, queue: Queue) -> None:
        IDS.clear()
        self.before(queue)

    def wait(self, queue: Queue) -> None:
        if self.meanwhile is None:
            super().wait(queue)
        else:
            self.meanwhile(queue)

    def look(self, queue: Queue, returned: bool) -> None:
        self.verify(queue, returned)


# ---------------------------------------------------------------------- what is there before
def put_each(queue: Queue, *bodies: Any, **options: Any) -> None:
    for body in bodies:
        IDS[body] = queue.put(body, **options)


def grouped(*bodies: Any, **options: Any) -> Callable[[Queue], None]:
    return lambda queue: put_each(queue, *bodies, group="g", **options)


def singles(*bodies: Any, **options: Any) -> Callable[[Queue], None]:
    return lambda queue: put_each(queue, *bodies, **options)


def two_groups(queue: Queue) -> None:
    for number in range(2):
        for group in "ab":
            put_each(queue, f"{group}{number}", group=group)


def waiting_head(queue: Queue) -> None:
    """A group whose first message waits for its retry, for long; claimers have passed over the others."""
    put_each(queue, 0, 1, 2, group="g")
    queue.receive(timeout=0)[0].nack(delay=LONG)
    nothing_comes(queue)


def expiring_head(queue: Queue) -> None:
    """The same, and that message expires soon."""
    waiting_head(queue)
    assert queue.update(IDS[0], ttl=SOON)


def let_pass(seconds: float) -> None:
    """Returns when so much time is over: what was put with that ttl has expired."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(seconds / 4)


def expired(put: Callable[[Queue], None]) -> Callable[[Queue], None]:
    def before(queue: Queue) -> None:
        put(queue)
        let_pass(2 * SOON)

    return before


def nothing_comes(queue: Queue) -> None:
    try:
        [message] = queue.receive(timeout=0)
    except mqlite.Empty:
        return
    raise AssertionError(f"{message.body!r} came, and its group is busy")


# ---------------------------------------------------------------------- what is left
def taken(queue: Queue, limit: int = 1) -> list[Any]:
    """All that can be received, in its order, once nothing waits for its time; no more than `limit` of a group at once."""
    bodies: list[Any] = []
    while True:
        try:
            messages = queue.receive(100, timeout=0)
        except mqlite.Empty:
            if not queue.stats().delayed:
                return bodies
            until(lambda: queue.stats().ready or not queue.stats().delayed, f"something waits for ever, after {bodies}")
            continue
        for group in {message.group for message in messages} - {None}:
            together = [message.body for message in messages if message.group == group]
            assert len(together) <= limit, f"{together} of one group are in flight"
        bodies += [message.body for message in messages]
        queue.ack_many(messages)


def dead_letters(queue: Queue) -> list[tuple[Any, str]]:
    """(body, reason) of all dead letters, which are removed."""
    found = []
    with queue.dead as dead:
        while True:
            try:
                messages = dead.receive(100, timeout=0)
            except mqlite.Empty:
                return sorted(found)
            found += [(message.body, message.death.reason) for message in messages if message.death is not None]
            dead.ack_many(messages)


def left(*outcomes: list[Any], dead: tuple[tuple[Any, str], ...] = ()) -> Callable[[Queue, bool], None]:
    """What is taken is the last of the outcomes if the call returned, else one of them; and so many dead letters."""

    def verify(queue: Queue, returned: bool) -> None:
        found = taken(queue)
        assert found == outcomes[-1] if returned else found in outcomes, (found, returned)
        letters = dead_letters(queue)
        assert letters == list(dead), letters

    return verify


def moved_to_dead(body: Any, reason: str, alive: list[Any], *, either: bool = True) -> Callable[[Queue, bool], None]:
    """The message is dead, or (if the call did not return) still in its place before the others."""

    def verify(queue: Queue, returned: bool) -> None:
        found, letters = taken(queue), dead_letters(queue)
        done = (alive, [(body, reason)])
        assert (found, letters) == done or (either and not returned and (found, letters) == ([body, *alive], [])), (found, letters)

    return verify


def stored_once(queue: Queue, returned: bool, again: Callable[[Queue], int], *others: Any) -> None:
    """The caller of a put does not know, and puts again: there is one message then."""
    before = [message.id for message in queue.peek(10) if message.body == "new"]
    assert len(before) == 1 or not returned, before
    number = again(queue)
    assert before in ([], [number]), f"{before}, and {number} then"
    assert sorted(taken(queue)) == sorted(["new", *others])


def retried(again: Callable[[Queue], int], *others: Any) -> Callable[[Queue, bool], None]:
    return lambda queue, returned: stored_once(queue, returned, again, *others)


def goes_on_after(body: Any, verify: Callable[[Queue, bool], None]) -> Callable[[Queue, bool], None]:
    """If the head of a group still waits for its retry, it is removed first: then the rest goes on in any case."""

    def verified(queue: Queue, returned: bool) -> None:
        if queue.stats().delayed:
            assert not returned
            nothing_comes(queue)
            assert queue.cancel(IDS[body])
        verify(queue, True)

    return verified


def fired() -> Callable[[Queue, bool], None]:
    """As many messages as firings, before and after the death."""

    def verify(queue: Queue, returned: bool) -> None:
        queue.stats()  # fires, if it has not
        [(rule, due_ns)] = timers.found(queue._engine, queue._state)
        assert queue.unschedule("tick")
        assert not queue.schedules()
        firings = round((due_ns - IDS["first_ns"]) / (rule.every * 1e9))
        assert firings > 0
        found = taken(queue)
        assert found == ["tick"] * firings, f"{len(found)} messages of {firings} firings"

    return verify


def verify_schedule(queue: Queue, returned: bool) -> None:
    names = [schedule.name for schedule in queue.schedules()]
    assert names == ["tick"] if returned else names in ([], ["tick"]), names
    queue.unschedule("tick")
    assert taken(queue) == []


def verify_changed_schedule(queue: Queue, returned: bool) -> None:
    [every] = [schedule.every for schedule in queue.schedules()]
    assert every == 2 * LONG if returned else every in (LONG, 2 * LONG)
    assert queue.unschedule("tick")
    assert taken(queue) == []


def verify_unscheduled(queue: Queue, returned: bool) -> None:
    assert len(queue.schedules()) == 0 if returned else len(queue.schedules()) in (0, 1)
    queue.unschedule("tick")
    assert taken(queue) == []


def verify_paused(paused: bool) -> Callable[[Queue, bool], None]:
    def verify(queue: Queue, returned: bool) -> None:
        assert queue.is_paused is paused or not returned
        if queue.is_paused:
            nothing_comes(queue)
            queue.resume()
        assert taken(queue) == [0, 1]

    return verify


def verify_configured(queue: Queue, returned: bool) -> None:
    assert queue.maxsize == 2 if returned else queue.maxsize in (0, 2)
    if queue.maxsize:  # all of it is changed, or nothing
        assert queue._state.options.overflow == "drop_oldest"
        queue.put(2)
        assert taken(queue) == [1, 2]
        queue.configure(maxsize=0)
    else:
        assert queue._state.options.overflow == "block"
        assert taken(queue) == [0, 1]


def verify_free_seat(*outcomes: list[Any]) -> Callable[[Queue, bool], None]:
    def verify(queue: Queue, returned: bool) -> None:
        with queue.consumer(mode="exclusive") as consumer:
            assert consumer.is_active
        found = taken(queue)
        assert found == outcomes[-1] if returned else found in outcomes, found

    return verify


def verify_limit(limit: int, *outcomes: list[Any]) -> Callable[[Queue, bool], None]:
    def verify(queue: Queue, returned: bool) -> None:
        found = taken(queue, limit)
        assert found == outcomes[-1] if returned else found in outcomes, found

    return verify


def either_order(queue: Queue, returned: bool) -> None:
    """It joins its group when it is due: in its old place, if the others were not taken by then."""
    found = taken(queue)
    assert found in ([0, 1, 2], [1, 0, 2], [1, 2, 0]), found


def verify_fair(queue: Queue, returned: bool) -> None:
    """Each group in its order, and nothing lost."""
    found = taken(queue)
    for group in "ab":
        of_group = [body for body in found if body[0] == group]
        assert of_group == [f"{group}0", f"{group}1"][-len(of_group) :], found
    assert len(found) >= 4, f"no more than one was acknowledged: {found}"


def verify_purged(queue: Queue, returned: bool) -> None:
    found: list[Any] = []
    for body, number in IDS.items():
        with contextlib.suppress(mqlite.AlreadyClaimed):
            if queue.cancel(number):
                found.append(body)
    assert found == [] or not returned, found
    assert taken(queue) == []


def verify_redriven(queue: Queue, returned: bool) -> None:
    alive, letters = taken(queue), dead_letters(queue)
    assert sorted([*alive, *(body for body, _ in letters)]) == [0, 1, 2]
    assert alive == sorted(alive)
    assert letters == [] or not returned
    assert alive in ([], [0, 1, 2]), "torn apart"


def verify_dead_cancelled(queue: Queue, returned: bool) -> None:
    letters = dead_letters(queue)
    assert letters == [] if returned else letters in ([], [(0, "rejected")])
    assert taken(queue) == []


def verify_marked(queue: Queue, returned: bool) -> None:
    """What was put with everything that can be said has kept all of it: a second such put, another time, a move."""
    number = put_marked(queue, "new")
    until(lambda: not queue.stats().delayed)
    assert queue.update(number, ttl=LONG)
    [message] = queue.peek(10)
    assert (message.body, message.group, message.id) == ("new", "g", number)
    assert message.expires_at is not None
    queue.put("newest", replace_key="r")
    assert taken(queue) == ["newest"]


def put_marked(queue: Queue, body: Any) -> int:
    return queue.put(body, group="g", ttl=LONG, delay=SOON, dedup_id="d", replace_key="r", unique="u", headers={"a": 1})


# ---------------------------------------------------------------------- what is under fire
def take_nothing(queue: Queue, _: list[mqlite.Message]) -> None:
    nothing_comes(queue)


def take_two_in_turn(queue: Queue, _: list[mqlite.Message]) -> None:
    first, _ = queue.receive(2, timeout=0)
    first.ack()


def get_two(queue: Queue, _: list[mqlite.Message]) -> None:
    assert [queue.get(timeout=0), queue.get(timeout=0)] == [0, 1]


def have_it_alone(queue: Queue, _: list[mqlite.Message]) -> None:
    with queue.consumer(mode="exclusive") as consumer:
        consumer.receive(timeout=0).ack()


def take_over(queue: Queue, _: list[mqlite.Message]) -> None:
    consumer = queue.consumer(mode="failover")
    with contextlib.suppress(mqlite.Empty):  # the one that waits may have been faster
        consumer.receive(timeout=0).release()
    consumer.close()


def look(queue: Queue, _: list[mqlite.Message]) -> None:
    queue.stats()


def cancel(body: Any) -> Callable[[Queue, list[mqlite.Message]], None]:
    def act(queue: Queue, _: list[mqlite.Message]) -> None:
        assert queue.cancel(IDS[body])

    return act


def update(body: Any, **options: Any) -> Callable[[Queue, list[mqlite.Message]], None]:
    def act(queue: Queue, _: list[mqlite.Message]) -> None:
        assert queue.update(IDS[body], **options)

    return act


def put(body: Any, **options: Any) -> Callable[[Queue, list[mqlite.Message]], int]:
    return lambda queue, _: queue.put(body, **options)


# ---------------------------------------------------------------------- what another process does meanwhile
def takes_from_group(*bodies: Any) -> Callable[[Queue], None]:
    def meanwhile(queue: Queue) -> None:
        [message] = queue.receive(timeout=GUARD)
        assert message.body in bodies, f"{message.body!r} overtakes its group"
        message.release()

    return meanwhile


def takes_over(queue: Queue) -> None:
    with queue.consumer(mode="failover") as consumer:
        consumer.receive(timeout=GUARD).release()
        assert consumer.is_active


def reject_all(queue: Queue) -> None:
    put_each(queue, 0, 1, 2, group="g")
    for _ in range(3):
        queue.receive(timeout=0)[0].reject()


def schedule(every: float, **options: Any) -> Callable[..., None]:
    return lambda queue, *_: queue.schedule("tick", "tick", every=every, **options)


def due_schedule(**options: Any) -> Callable[[Queue], None]:
    """One that fires every few ms from now on, and is due now."""

    def before(queue: Queue) -> None:
        queue.schedule("tick", "tick", every=0.004, **options)
        [(_, IDS["first_ns"])] = timers.found(queue._engine, queue._state)
        let_pass(0.01)

    return before


def waiting_for_long(queue: Queue) -> None:
    put_each(queue, "old", delay=LONG, replace_key="r")


def mixed(queue: Queue) -> None:
    put_each(queue, 0, 1, group="g", ttl=LONG)
    put_each(queue, 2, delay=LONG, group="g")
    put_each(queue, 3)


def on_busy_group(queue: Queue) -> None:
    put_each(queue, 0, 1, 2, group="g")


def groups_and_one(queue: Queue) -> None:
    two_groups(queue)
    put_each(queue, "single")


POLICIES: list[Transition] = [
    # ------------------------------------------------------------------ put
    Transition("put in a group", put(2, group="g"), left([0, 1], [0, 1, 2]), before=grouped(0, 1)),
    Transition("put first in a group", put(2, group="g", priority=1), left([0, 1], [2, 0, 1]), before=grouped(0, 1)),
    Transition("put with a ttl", put("new", ttl=LONG), left(["old"], ["old", "new"]), before=singles("old")),
    Transition("put with all marks", lambda q, _: put_marked(q, "new"), verify_marked),
    Transition("put with a dedup_id", put("new", dedup_id="d"), retried(lambda q: q.put("new", dedup_id="d"))),
    Transition("put the same dedup_id again", put("new", dedup_id="d"), left(["old"]), before=singles("old", dedup_id="d")),
    Transition("put unique", put("new", unique="u"), retried(lambda q: q.put("new", unique="u"))),
    Transition("put unique again", put("new", unique="u"), left(["old"]), before=singles("old", unique="u")),
    Transition("replace in place", put("new", replace_key="r"), left(["old", 1], ["new", 1]), before=lambda q: [put_each(q, "old", replace_key="r"), put_each(q, 1)]),
    Transition("replace in a group", put("new", replace_key="r", group="g"), left(["old"], ["new"]), before=grouped("old", replace_key="r")),
    Transition("replace one of another group", put("new", replace_key="r"), left(["old", 1], ["new", 1]), before=lambda q: [put_each(q, "old", group="g", replace_key="r"), put_each(q, 1, group="g")]),
    Transition(
        "replace and move", put("new", replace_key="r", priority=-1), left(["old", 1], [1, "new"]), before=lambda q: [put_each(q, "old", replace_key="r"), put_each(q, 1)]
    ),
    Transition("replace by a delayed one", put("new", replace_key="r", delay=SOON), left(["old"], ["new"]), before=singles("old", replace_key="r")),
    Transition("replace what waits", put("new", replace_key="r"), lambda q, returned: left(["new"])(q, q.put("new", replace_key="r") > 0), before=waiting_for_long),
    Transition("put on a full queue, drop the oldest", put(2), left([0, 1], [1, 2]), before=singles(0, 1), options={"maxsize": 2, "overflow": "drop_oldest"}),
    Transition("drop the oldest of a group", put(2, group="g"), left([0, 1], [1, 2]), before=grouped(0, 1), options={"maxsize": 2, "overflow": "drop_oldest"}),
    Transition(
        "put many, drop many",
        lambda q, _: q.put_many([3, 4]),
        left([0, 1, 2], [2, 3, 4]),
        before=singles(0, 1, 2),
        options={"maxsize": 3, "overflow": "drop_oldest"},
    ),
    Transition(
        "drop the oldest bytes",
        put("x" * 400),
        left(["y" * 100, "z" * 100], ["x" * 400]),
        before=singles("y" * 100, "z" * 100),
        options={"maxbytes": 500, "overflow": "drop_oldest"},
    ),
    Transition(
        "put on a full queue, to the dead letters",
        put("new"),
        lambda q, returned: [left([0])(q, returned)] if not returned and not len(q.dead) else left([0], dead=(("new", "overflow"),))(q, True),
        before=singles(0),
        options={"maxsize": 1, "overflow": "dead_letter"},
    ),
    # ------------------------------------------------------------------ by id
    Transition("cancel", cancel(0), left([0, 1], [1]), before=singles(0, 1)),
    Transition("cancel the first of a group", cancel(0), left([0, 1, 2], [1, 2]), before=grouped(0, 1, 2)),
    Transition("cancel what waits", cancel(0), verify_purged, before=singles(0, delay=LONG)),
    Transition("cancel what holds up its group", cancel(0), goes_on_after(0, left([1, 2])), before=waiting_head),
    Transition("update the priority", update(1, priority=3), left([0, 1], [1, 0]), before=singles(0, 1)),
    Transition("update, to later", update(0, delay=SOON), left([0, 1], [1, 0]), before=singles(0, 1)),
    Transition("update, to now", update(0, delay=0), lambda q, returned: left([0])(q, returned or q.update(IDS[0], delay=0)), before=singles(0, delay=LONG)),
    Transition("update the first of a group, to later", update(0, delay=SOON), either_order, before=grouped(0, 1, 2)),
    Transition("update the ttl", update(0, ttl=LONG), left([0]), before=singles(0)),
    Transition("cancel a dead letter", lambda q, _: q.dead.cancel(IDS[0]), verify_dead_cancelled, before=lambda q: [put_each(q, 0), q.receive()[0].reject()]),
    # ------------------------------------------------------------------ settling one of a group
    Transition("ack in a group", lambda q, m: m[0].ack(), left([0, 1, 2], [1, 2]), hold=1, waits=True, before=grouped(0, 1, 2), meanwhile=takes_from_group(0, 1)),
    Transition("nack in a group", lambda q, m: m[0].nack(), left([0, 1, 2]), hold=1, waits=True, before=grouped(0, 1, 2), meanwhile=takes_from_group(0)),
    Transition("nack with a delay in a group", lambda q, m: m[0].nack(delay=SOON), left([0, 1, 2]), hold=1, waits=True, before=grouped(0, 1, 2), meanwhile=takes_from_group(0)),
    Transition("release in a group", lambda q, m: m[0].release(), left([0, 1, 2]), hold=1, waits=True, before=grouped(0, 1, 2), meanwhile=takes_from_group(0)),
    Transition("reject in a group", lambda q, m: m[0].reject(), moved_to_dead(0, "rejected", [1, 2]), hold=1, waits=True, before=grouped(0, 1, 2), meanwhile=takes_from_group(0, 1)),
    Transition(
        "nack to dead in a group",
        lambda q, m: m[0].nack(),
        moved_to_dead(0, "max_deliveries", [1, 2], either=False),
        hold=1,
        waits=True,
        before=grouped(0, 1, 2),
        meanwhile=takes_from_group(1),
        options={"max_deliveries": 1},
    ),
    Transition("ack many of several groups", lambda q, m: q.ack_many(m), left(["a0", "b0", "a1", "b1"], ["a1", "b1"]), hold=2, before=two_groups),
    Transition("ack in a group of two at once", lambda q, m: m[1].ack(), verify_limit(2, [0, 1, 2, 3], [0, 2, 3]), hold=2, before=grouped(0, 1, 2, 3), options={"limits": {"*": 2}}),
    Transition("get in a group", get_two, left([0, 1, 2], [1, 2], [2]), before=grouped(0, 1, 2)),
    Transition("receive of several groups", lambda q, _: q.receive(9, timeout=0), left(["a0", "b0", "a1", "b1"]), before=two_groups),
    Transition("prefetch of several groups", lambda q, _: q.consumer(prefetch=9).receive(timeout=0), left(["a0", "b0", "a1", "b1"]), before=two_groups),
    Transition("pass over a busy group", take_nothing, left([0, 1, 2]), hold=1, before=on_busy_group),
    Transition("take back in a group", lambda q, _: q.receive(timeout=0), left([0, 1, 2]), hold=1, first_death=True, before=grouped(0, 1, 2)),
    Transition("take in turn", take_two_in_turn, verify_fair, before=groups_and_one, options={"fair": True}),
    Transition("receive at a rate", lambda q, _: q.receive(9, timeout=0), left([0, 1, 2]), before=singles(0, 1, 2), options={"rate": (100, 0.001)}),
    # ------------------------------------------------------------------ expiry
    Transition(
        "expire",
        look,
        left([3], dead=((0, "expired"), (1, "expired"), (2, "expired"))),
        before=expired(lambda q: [put_each(q, 0, 1, 2, ttl=SOON), put_each(q, 3)]),
    ),
    Transition("expire and drop", look, left([3]), before=expired(lambda q: [put_each(q, 0, 1, 2, ttl=SOON), put_each(q, 3)]), options={"expired": "drop"}),
    Transition("expire while it waits", look, left([], dead=((0, "expired"), (1, "expired"))), before=expired(singles(0, 1, ttl=SOON, delay=LONG))),
    Transition("expire at the head of a group", look, left([1, 2], dead=((0, "expired"),)), before=expired(expiring_head)),
    Transition("receive past what has expired", lambda q, _: q.receive(timeout=0), left([1], dead=((0, "expired"),)), before=expired(lambda q: [put_each(q, 0, ttl=SOON), put_each(q, 1)])),
    Transition("nack what has expired", lambda q, m: [let_pass(0.06), m[0].nack()], left([1], dead=((0, "expired"),)), hold=1, before=lambda q: [put_each(q, 0, group="g", ttl=0.05), put_each(q, 1, group="g")]),
    # ------------------------------------------------------------------ schedules
    Transition("schedule", schedule(LONG), verify_schedule),
    Transition("schedule again, otherwise", schedule(2 * LONG), verify_changed_schedule, before=schedule(LONG)),
    Transition("schedule again, the same", schedule(LONG), lambda q, returned: verify_schedule(q, True), before=schedule(LONG)),
    Transition("unschedule", lambda q, _: q.unschedule("tick"), verify_unscheduled, before=schedule(LONG)),
    Transition("fire", look, fired(), before=due_schedule(catch_up="all")),
    Transition("fire into a group", look, fired(), before=due_schedule(catch_up="all", group="g", ttl=LONG)),
    Transition("receive what a schedule puts", lambda q, _: q.receive(timeout=0), fired(), before=due_schedule(catch_up="all")),
    # ------------------------------------------------------------------ operating
    Transition("pause", lambda q, _: q.pause(), verify_paused(True), before=singles(0, 1)),
    Transition("resume", lambda q, _: q.resume(), verify_paused(False), before=lambda q: [put_each(q, 0, 1), q.pause()]),
    Transition("configure", lambda q, _: q.configure(maxsize=2, overflow="drop_oldest"), verify_configured, before=singles(0, 1)),
    Transition("purge what has marks", lambda q, _: q.purge(), verify_purged, before=mixed),
    Transition("redrive a group at a rate", lambda q, _: q.redrive(rate=1000), verify_redriven, before=reject_all),
    Transition("take a seat", lambda q, _: q.consumer(mode="exclusive"), verify_free_seat([0, 1]), before=singles(0, 1)),
    Transition("take a seat and leave it", have_it_alone, verify_free_seat([0, 1], [1]), before=singles(0, 1)),
    Transition("fail over", take_over, verify_free_seat([0, 1]), before=singles(0, 1), waits=True, meanwhile=takes_over),
]


def main() -> None:
    """All of them by system call."""
    sweep_writes(sys.argv[1], Children(), int(sys.argv[2]), POLICIES)


if __name__ == "__main__":
    main()
