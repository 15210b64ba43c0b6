"""A queue beside a plain list: after every step both must say the same.

The list knows the rules in their simplest form: messages sorted by (-priority, id); a
claim, a failure and a death are entries in dicts. The clock stands still unless a step
moves it; after a step that lets claims time out or kills a holder, the machine has the
engine look at once, so that the list need not know when somebody looks by himself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mqlite

SECOND = 1_000_000_000
PRIORITIES = st.sampled_from([0, 0, 0, 1, -1, 7, 2**31 - 1, -(2**31)])
ME, CHILD = "me", "child"
DELAYS = st.sampled_from([0.25, 3, 8])


@dataclass
class Listed:
    """A message as the list knows it; a crash of the machine forgets `failures` and all that follows.

    place: when it lined up. due_ns: when it will, if it waits. stored: (failures, acquired) that a crash leaves.
    """

    id: int
    body: int
    priority: int
    place: int
    due_ns: int = 0
    stored: tuple[int, int] = (0, 0)
    failures: int = 0
    acquired: int = 0
    holder: str = ""
    started: bool = False
    deadline_ns: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.place


@dataclass
class Dead:
    body: int
    priority: int
    reason: str
    failures: int
    acquired: int


@dataclass(eq=False)
class Held:
    """A claim in somebody's hands: the message that was received, or a child's promise to have it."""

    listed: Listed
    claim: int
    message: mqlite.Message | None = None


@dataclass
class Buffer:
    """What the list knows of a prefetching consumer."""

    consumer: mqlite.Consumer
    prefetch: int
    ahead: list[Held] = field(default_factory=list)
    in_hand: list[Held] = field(default_factory=list)


class QueueBesideList(RuleBasedStateMachine):
    """What both backends do. Subclasses say where the queue is."""

    clock_class: Any
    open_queue: Any

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path: str | None = None
        self.clock = self.clock_class()
        self.clock.now_ns = 1_000_000 * SECOND
        self.listed: dict[int, Listed] = {}
        self.dead: dict[int, Dead] = {}
        self.claims: dict[int, int] = {}  # id of a claimed message -> number of the claim
        self.numbers = 0
        self.places = 0
        self.bodies = 0
        self.tasks = 0
        self.held: list[Held] = []
        self.buffer: Buffer | None = None
        self.queue: Any = None

    @initialize(max_deliveries=st.sampled_from([None, 1, 2, 3]), ack_timeout=st.sampled_from([None, 10.0]))
    def make(self, max_deliveries: int | None, ack_timeout: float | None) -> None:
        self.max_deliveries, self.ack_timeout = max_deliveries, ack_timeout
        self.options = {"max_deliveries": max_deliveries, "ack_timeout": ack_timeout}
        self.queue = self.open_queue(self.path, self.clock, **self.options)

    def teardown(self) -> None:
        if self.queue is not None:
            self.queue.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ the list
    def ready(self) -> list[Listed]:
        return sorted((m for m in self.listed.values() if m.id not in self.claims and not m.due_ns), key=lambda m: m.order)

    def delayed(self) -> list[Listed]:
        return [m for m in self.listed.values() if m.due_ns]

    def next_place(self) -> int:
        self.places += 1
        return self.places

    def listed_put(self, number: int, priority: int, body: int, delay: float = 0) -> None:
        assert all(number > other for other in self.listed)
        assert all(number > other for other in self.dead)
        due_ns = self.clock.now_ns + int(delay * SECOND) if delay else 0
        self.listed[number] = Listed(number, body, priority, self.next_place(), due_ns)

    def listed_due(self) -> None:
        """What is due lines up: the earliest first, then by priority, then in the order in which they began to wait."""
        for m in sorted((m for m in self.delayed() if m.due_ns <= self.clock.now_ns), key=lambda m: (m.due_ns, *m.order)):
            m.due_ns, m.place = 0, self.next_place()

    def listed_claim(self, count: int, holder: str, started: int | None = None) -> list[Held]:
        taken: list[Held] = []
        for m in self.ready()[:count]:
            self.numbers += 1
            self.claims[m.id] = self.numbers
            m.holder, m.acquired = holder, m.acquired + 1
            m.started = started is None or len(taken) < started
            m.deadline_ns = self.deadline_ns()
            taken.append(Held(m, self.numbers))
        return taken

    def deadline_ns(self) -> int:
        return 0 if self.ack_timeout is None else self.clock.now_ns + int(self.ack_timeout * SECOND)

    def holds(self, held: Held) -> bool:
        return self.claims.get(held.listed.id) == held.claim

    def listed_give_back(self, m: Listed, failed: bool) -> None:
        del self.claims[m.id]
        m.failures += failed
        if failed and self.max_deliveries is not None and m.failures >= self.max_deliveries:
            self.listed_bury(m, "max_deliveries")

    def listed_bury(self, m: Listed, reason: str) -> None:
        self.claims.pop(m.id, None)
        del self.listed[m.id]
        self.dead[m.id] = Dead(m.body, m.priority, reason, m.failures, m.acquired)

    def listed_revoke(self, condition: Any) -> None:
        """What holders lose who died, or let the time pass: those who had begun are blamed."""
        for m in [m for m in self.listed.values() if m.id in self.claims and condition(m)]:
            self.listed_give_back(m, failed=m.started)

    # ------------------------------------------------------------------ putting
    @rule(priority=PRIORITIES)
    def put(self, priority: int) -> None:
        self.bodies += 1
        self.listed_put(self.queue.put(self.bodies, priority=priority), priority, self.bodies)

    @rule(priority=PRIORITIES, delay=DELAYS)
    def put_later(self, priority: int, delay: float) -> None:
        self.bodies += 1
        self.listed_put(self.queue.put(self.bodies, priority=priority, delay=delay), priority, self.bodies, delay)

    @rule(count=st.integers(0, 8), priority=PRIORITIES)
    def put_many(self, count: int, priority: int) -> None:
        bodies = [self.bodies + 1 + i for i in range(count)]
        self.bodies += count
        for number, body in zip(self.queue.put_many(bodies, priority=priority), bodies, strict=True):
            self.listed_put(number, priority, body)

    # ------------------------------------------------------------------ taking
    @rule()
    def get(self) -> None:
        ready = self.ready()
        if not ready:
            with pytest.raises(mqlite.Empty):
                self.queue.get(timeout=0)
            return
        assert self.queue.get(timeout=0) == ready[0].body
        del self.listed[ready[0].id]
        self.tasks += 1

    @rule()
    def task_done(self) -> None:
        if not self.listed and not self.tasks:
            with pytest.raises(ValueError):
                self.queue.task_done()
        elif self.tasks:
            self.queue.task_done()
            self.tasks -= 1

    @rule(count=st.integers(1, 4))
    def receive(self, count: int) -> None:
        taken = self.listed_claim(count, ME)
        if not taken:
            with pytest.raises(mqlite.Empty):
                self.queue.receive(count, timeout=0)
            return
        messages = self.queue.receive(count, timeout=0)
        assert [m.id for m in messages] == [held.listed.id for held in taken]
        for held, message in zip(taken, messages, strict=True):
            self.hand_over(held, message)

    def hand_over(self, held: Held, message: mqlite.Message) -> None:
        m = held.listed
        assert (message.id, message.body, message.priority) == (m.id, m.body, m.priority)
        assert (message.delivery_count, message.acquired_count) == (m.failures, m.acquired)
        assert message.redelivered == (m.acquired > 1)
        held.message = message
        self.held.append(held)

    # ------------------------------------------------------------------ settling
    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["ack", "nack", "reject", "release"]))
    def settle(self, which: int, how: str) -> None:
        held = self.held.pop(which % len(self.held))
        assert held.message is not None
        settle = getattr(held.message, how)
        self.let_go(held)
        if not self.holds(held):
            with pytest.raises(mqlite.LeaseLost):
                settle()
            return
        settle()
        with pytest.raises(mqlite.NotClaimed):
            settle()
        m = held.listed
        if how == "ack":
            del self.claims[m.id]
            del self.listed[m.id]
        elif how == "reject":
            self.listed_bury(m, "rejected")
        else:
            self.listed_give_back(m, failed=how == "nack")

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), delay=DELAYS)
    def nack_later(self, which: int, delay: float) -> None:
        held = self.held.pop(which % len(self.held))
        assert held.message is not None
        self.let_go(held)
        if not self.holds(held):
            with pytest.raises(mqlite.LeaseLost):
                held.message.nack(delay=delay)
            return
        held.message.nack(delay=delay)
        m = held.listed
        self.listed_give_back(m, failed=True)
        if m.id in self.listed:
            m.due_ns, m.place = self.clock.now_ns + int(delay * SECOND), self.next_place()
            m.stored = m.failures, m.acquired

    @precondition(lambda self: self.held)
    @rule(chosen=st.sets(st.integers(0, 5), min_size=1, max_size=4))
    def ack_many(self, chosen: set[int]) -> None:
        group = [held for i, held in enumerate(self.held) if i in chosen]
        if all(self.holds(held) for held in group):
            self.queue.ack_many([held.message for held in group])
            for held in group:
                self.held.remove(held)
                self.let_go(held)
                del self.claims[held.listed.id]
                del self.listed[held.listed.id]
        else:
            with pytest.raises(mqlite.LeaseLost):
                self.queue.ack_many([held.message for held in group])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), seconds=st.sampled_from([1, 30]))
    def extend(self, which: int, seconds: int) -> None:
        held = self.held[which % len(self.held)]
        assert held.message is not None
        if not self.holds(held):
            self.let_go(held)
            with pytest.raises(mqlite.LeaseLost):
                held.message.extend(seconds)
            return
        held.message.extend(seconds)
        if held.listed.deadline_ns:
            held.listed.deadline_ns = self.clock.now_ns + seconds * SECOND

    @rule(seconds=st.sampled_from([0.5, 5, 11]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * SECOND)
        self.queue._engine.takeback.take_back()
        self.listed_revoke(lambda m: 0 < m.deadline_ns <= self.clock.now_ns)
        self.listed_due()

    # ------------------------------------------------------------------ prefetching
    def let_go(self, held: Held) -> None:
        if self.buffer is not None and held in self.buffer.in_hand:
            self.buffer.in_hand.remove(held)

    @precondition(lambda self: self.buffer is None)
    @rule(prefetch=st.integers(1, 4))
    def open_consumer(self, prefetch: int) -> None:
        self.buffer = Buffer(self.queue.consumer(prefetch=prefetch), prefetch)

    @precondition(lambda self: self.buffer is not None)
    @rule()
    def take_from_consumer(self) -> None:
        expected = self.listed_next()
        assert self.buffer is not None
        if expected is None:
            with pytest.raises(mqlite.Empty):
                self.buffer.consumer.receive(timeout=0)
            return
        self.hand_over(expected, self.buffer.consumer.receive(timeout=0))
        self.buffer.in_hand.append(expected)

    def listed_next(self) -> Held | None:
        buffer = self.buffer
        assert buffer is not None
        while True:
            while buffer.ahead:
                held = buffer.ahead.pop(0)
                if self.holds(held):
                    held.listed.started = True
                    held.listed.deadline_ns = self.deadline_ns()
                    return held
            room = buffer.prefetch - len(buffer.in_hand)
            buffer.ahead = self.listed_claim(room, ME, started=0) if room > 0 else []
            if not buffer.ahead:
                return None

    @precondition(lambda self: self.buffer is not None)
    @rule()
    def close_consumer(self) -> None:
        assert self.buffer is not None
        self.buffer.consumer.close()
        self.forget_consumer()

    def forget_consumer(self) -> None:
        if self.buffer is not None:
            for held in self.buffer.ahead + self.buffer.in_hand:
                if self.holds(held):
                    self.listed_give_back(held.listed, failed=False)
            self.buffer = None

    # ------------------------------------------------------------------ the dead
    @precondition(lambda self: self.dead)
    @rule()
    def take_one_of_the_dead(self) -> None:
        [message] = self.queue.dead.receive(timeout=0)
        dead = self.dead.pop(message.id)
        assert (message.delivery_count, message.acquired_count) == (dead.failures, dead.acquired + 1)
        message.ack()

    @precondition(lambda self: self.dead)
    @rule(most=st.sampled_from([None, 1, 2]))
    def redrive(self, most: int | None) -> None:
        order = [m.id for m in self.queue.dead.browse()][:most]
        assert self.queue.redrive(max=most) == len(order)
        for number in order:
            dead = self.dead.pop(number)
            self.listed[number] = Listed(number, dead.body, dead.priority, self.next_place())

    @rule()
    def purge(self) -> None:
        gone = [*self.ready(), *self.delayed()]
        assert self.queue.purge() == len(gone)
        for m in gone:
            del self.listed[m.id]

    # ------------------------------------------------------------------ after every step
    @invariant()
    def both_say_the_same(self) -> None:
        if self.queue is None:
            return
        assert self.queue.check() == []
        ready = self.ready()
        stats = self.queue.stats()
        assert (stats.ready, stats.claimed, stats.dead) == (len(ready), len(self.claims), len(self.dead))
        assert stats.delayed == len(self.delayed())
        assert self.queue.qsize() == len(ready)
        assert self.queue.unfinished_tasks == len(self.listed) + self.tasks
        assert [(m.id, m.body, m.priority) for m in self.queue.browse()] == [(m.id, m.body, m.priority) for m in ready]
        assert [m.id for m in self.queue.peek(2)] == [m.id for m in ready[:2]]

    @invariant()
    def the_dead_are_the_same(self) -> None:
        if self.queue is None:
            return
        found = list(self.queue.dead.browse())
        assert [-m.priority for m in found] == sorted(-m.priority for m in found)
        assert {
            m.id: Dead(m.body, m.priority, m.death.reason, m.delivery_count, m.acquired_count) for m in found
        } == self.dead
        assert all(m.death.delivery_count == m.delivery_count and m.death.queue == "q" for m in found)


class QueueOnDiskBesideList(QueueBesideList):
    """Also: other processes, closing and opening again, crashes."""

    holder_class: Any

    def __init__(self) -> None:
        super().__init__()
        self.path = os.path.join(self.folder, "app.mq")
        self.child: Any = None
        self.child_held: list[Held] = []
        self.prober: mqlite.Queue[Any] | None = None

    def teardown(self) -> None:
        if self.child is not None:
            self.child.kill()
        if self.prober is not None:
            self.prober.close()
        super().teardown()

    # ------------------------------------------------------------------ another process
    @precondition(lambda self: self.child is None)
    @rule()
    def another_process_comes(self) -> None:
        self.child = self.holder_class()
        self.child.ask("open", self.path)

    @precondition(lambda self: self.child is not None)
    @rule(count=st.integers(1, 3))
    def the_other_claims(self, count: int) -> None:
        self.check_answer(self.child.ask("receive", self.clock.now_ns, count), self.listed_claim(count, CHILD))

    @precondition(lambda self: self.child is not None)
    @rule(prefetch=st.integers(2, 3))
    def the_other_prefetches(self, prefetch: int) -> None:
        answer = self.child.ask("consume", self.clock.now_ns, prefetch)
        self.check_answer(answer, self.listed_claim(prefetch, CHILD, started=1)[:1])

    def check_answer(self, answer: Any, taken: list[Held]) -> None:
        expected = [[held.listed.id, held.listed.failures, held.listed.acquired] for held in taken]
        assert answer == (expected or "Empty")
        self.child_held.extend(taken)

    @precondition(lambda self: self.child is not None and self.child_held)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["ack", "nack", "release"]))
    def the_other_settles(self, which: int, how: str) -> None:
        held = self.child_held.pop(which % len(self.child_held))
        m = held.listed
        lost = not self.holds(held)
        again = any(other.listed.id == m.id for other in self.child_held)
        if lost and again:  # it got the message again later, and knows only the later claim
            return
        assert self.child.ask(how, self.clock.now_ns, m.id) == ("LeaseLost" if lost else None)
        self.child_held = [other for other in self.child_held if other.listed.id != m.id]
        if lost:
            return
        if how == "ack":
            del self.claims[m.id]
            del self.listed[m.id]
        else:
            self.listed_give_back(m, failed=how == "nack")

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_is_killed(self) -> None:
        self.end_child()
        self.listed_revoke(lambda m: m.holder == CHILD)
        self.look()

    def look(self) -> None:
        """Have this process see deaths, by asking an empty queue of the store."""
        with pytest.raises(mqlite.Empty):
            self.probe().receive(timeout=0)

    def probe(self) -> mqlite.Queue[Any]:
        if self.prober is None:
            self.prober = mqlite.Queue("probe", self.path)
        return self.prober

    def end_child(self) -> None:
        self.child.kill()
        self.child, self.child_held = None, []

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_leaves(self) -> None:
        assert self.child.ask("close") is None
        for m in [m for m in self.listed.values() if m.id in self.claims and m.holder == CHILD]:
            self.listed_give_back(m, failed=False)
        self.end_child()

    # ------------------------------------------------------------------ closing and crashing
    @rule()
    def close_and_open_again(self) -> None:
        self.close()
        for m in [m for m in self.listed.values() if m.id in self.claims and m.holder == ME]:
            self.listed_give_back(m, failed=False)
        self.reopen()

    @rule()
    def the_machine_crashes(self) -> None:
        if self.child is not None:
            self.end_child()
        self.close()
        assert self.path is not None
        shutil.rmtree(os.path.join(self.path, "run"))
        self.claims.clear()
        for m in self.listed.values():
            m.failures, m.acquired = m.stored
        self.reopen()

    def close(self) -> None:
        if self.prober is not None:
            self.prober.close()
            self.prober = None
        self.queue.close()
        with pytest.raises(mqlite.Closed):
            self.queue.qsize()
        for held in self.held:
            assert held.message is not None
            with pytest.raises(mqlite.MqliteError):
                held.message.ack()

    def reopen(self) -> None:
        self.held, self.buffer, self.tasks = [], None, 0
        self.queue = self.open_queue(self.path, self.clock)
