"""A queue beside a plain list: after every step both must say the same.

The list (plain_list.py) knows the rules in their simplest form. The clock stands still unless a
step moves it; after a step that lets claims time out or kills a holder, the machine has the
engine look at once, so that the list need not know when somebody looks by himself.

Here are the steps that every queue knows; policies.py has those of groups, keys, schedules and the like.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kill_folder import in_memory
from model.plain_list import SECOND, Buffer, Held, Listed, PlainList

import mqlite

PRIORITIES = st.sampled_from([0, 0, 0, 1, -1, 7, 2**31 - 1, -(2**31)])
ME, CHILD = "me", "child"
DELAYS = st.sampled_from([0.25, 3, 8])
#: How many consumers there are at a time.
CONSUMERS = 2


class QueueBesideList(RuleBasedStateMachine):
    """What both backends do. Subclasses say where the queue is."""

    clock_class: Any
    open_queue: Any

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=in_memory())
        self.path: str | None = None
        self.clock = self.clock_class()
        self.clock.now_ns = 1_000_000 * SECOND
        self.bodies = 0
        self.tasks = 0
        self.held: list[Held] = []
        self.buffers: list[Buffer] = []
        self.queue: Any = None

    @initialize(max_deliveries=st.sampled_from([None, 1, 2, 3]), ack_timeout=st.sampled_from([None, 10.0]))
    def make(self, max_deliveries: int | None, ack_timeout: float | None) -> None:
        self.open({"max_deliveries": max_deliveries, "ack_timeout": ack_timeout})

    def open(self, options: dict[str, Any]) -> None:
        self.list = PlainList(self.clock, options)
        self.list.in_memory = self.path is None
        self.queue = self.open_queue(self.path, self.clock, **options)

    def teardown(self) -> None:
        if self.queue is not None:
            self.queue.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def raises_on_take(self, consumer: Buffer | None = None) -> type[Exception] | None:
        """What somebody gets who would take from a queue that others may have for themselves."""
        return mqlite.QueueLocked if self.list.seat not in (None, consumer) else None

    # ------------------------------------------------------------------ putting
    def put_beside(
        self, priority: int, *, states: tuple[str, ...] = ("delayed", "ready", "claimed"), **how: Any
    ) -> None:
        self.bodies += 1
        body, plain = self.bodies, self.list
        asked = how if states == ("delayed", "ready", "claimed") else {**how, "unique_states": states}

        def put() -> int:
            number: int = self.queue.put(body, block=False, priority=priority, **asked)
            return number

        known = plain.repeated(how.get("dedup_id"), how.get("unique"), states)
        if known is not None:
            assert put() == known
        elif not plain.has_room(1, plain.replaced(how.get("replace_key"))):
            with pytest.raises(mqlite.Full):
                put()
        else:
            plain.put(put(), body, priority, **how)

    @rule(priority=PRIORITIES)
    def put(self, priority: int) -> None:
        self.put_beside(priority)

    @rule(priority=PRIORITIES, delay=DELAYS)
    def put_later(self, priority: int, delay: float) -> None:
        self.put_beside(priority, delay=delay)

    @rule(count=st.integers(0, 8), priority=PRIORITIES)
    def put_many(self, count: int, priority: int) -> None:
        self.put_many_beside(count, priority)

    def put_many_beside(self, count: int, priority: int, **how: Any) -> None:
        plain = self.list
        bodies = [self.bodies + 1 + i for i in range(count)]
        self.bodies += count
        if 0 < plain.options.maxsize < count and plain.options.overflow != "dead_letter":
            with pytest.raises(ValueError):
                self.queue.put_many(bodies, block=False, priority=priority, **how)
        elif count and not plain.has_room(count):
            with pytest.raises(mqlite.Full):
                self.queue.put_many(bodies, block=False, priority=priority, **how)
        else:
            numbers = self.queue.put_many(bodies, block=False, priority=priority, **how)
            if plain.options.overflow == "drop_oldest":
                plain.drop(plain.missing(count))
            for number, body in zip(numbers, bodies, strict=True):
                plain.put(number, body, priority, **how)

    # ------------------------------------------------------------------ taking
    @rule()
    def get(self) -> None:
        refusal = self.raises_on_take()
        taken = [] if refusal else self.list.claim(1, ME)
        if not taken:
            with pytest.raises(refusal or mqlite.Empty):
                self.queue.get(timeout=0)
            return
        assert self.queue.get(timeout=0) == taken[0].listed.body
        self.list.remove(taken[0].listed)
        self.tasks += 1

    @rule()
    def task_done(self) -> None:
        if not self.list.messages and not self.tasks:
            with pytest.raises(ValueError):
                self.queue.task_done()
        elif self.tasks:
            self.queue.task_done()
            self.tasks -= 1

    @rule(count=st.integers(1, 4))
    def receive(self, count: int) -> None:
        refusal = self.raises_on_take()
        taken = [] if refusal else self.list.claim(count, ME)
        if not taken:
            with pytest.raises(refusal or mqlite.Empty):
                self.queue.receive(count, timeout=0)
            return
        messages = self.queue.receive(count, timeout=0)
        assert [m.id for m in messages] == [held.listed.id for held in taken]
        for held, message in zip(taken, messages, strict=True):
            self.hand_over(held, message)

    def hand_over(self, held: Held, message: mqlite.Message) -> None:
        m = held.listed
        assert (message.id, message.body, message.priority, message.group) == (m.id, m.body, m.priority, m.group)
        assert (message.delivery_count, message.acquired_count) == (m.failures, m.acquired)
        assert message.redelivered == (m.acquired > 1)
        assert (message.expires_at is None) == (not m.expires_ns)
        held.message = message
        self.held.append(held)

    # ------------------------------------------------------------------ settling
    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["ack", "nack", "reject", "release"]))
    def settle(self, which: int, how: str) -> None:
        held = self.held.pop(which % len(self.held))
        settle = getattr(held.message, how)
        self.let_go(held)
        if not self.list.holds(held):
            with pytest.raises(mqlite.LeaseLost):
                settle()
            return
        settle()
        with pytest.raises(mqlite.NotClaimed):
            settle()
        self.settled(held.listed, how)

    def settled(self, m: Listed, how: str) -> None:
        if how == "ack":
            self.list.remove(m)
        elif how == "reject":
            self.list.bury(m, "rejected")
        elif how == "nack":
            self.list.nack(m)
        else:
            self.list.give_back(m, failed=False)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), delay=DELAYS)
    def nack_later(self, which: int, delay: float) -> None:
        held = self.held.pop(which % len(self.held))
        self.let_go(held)
        if not self.list.holds(held):
            with pytest.raises(mqlite.LeaseLost):
                held.message.nack(delay=delay)
            return
        held.message.nack(delay=delay)
        self.list.nack(held.listed, delay)

    @precondition(lambda self: self.held)
    @rule(chosen=st.sets(st.integers(0, 5), min_size=1, max_size=4))
    def ack_many(self, chosen: set[int]) -> None:
        together = [held for i, held in enumerate(self.held) if i in chosen]
        if all(self.list.holds(held) for held in together):
            self.queue.ack_many([held.message for held in together])
            for held in together:
                self.held.remove(held)
                self.let_go(held)
                self.list.remove(held.listed)
        else:
            with pytest.raises(mqlite.LeaseLost):
                self.queue.ack_many([held.message for held in together])

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 100), seconds=st.sampled_from([1, 30]))
    def extend(self, which: int, seconds: int) -> None:
        held = self.held[which % len(self.held)]
        if not self.list.holds(held):
            self.let_go(held)
            with pytest.raises(mqlite.LeaseLost):
                held.message.extend(seconds)
            return
        held.message.extend(seconds)
        if held.listed.deadline_ns:
            held.listed.deadline_ns = self.list.after(seconds)

    @rule(seconds=st.sampled_from([0.5, 5, 11]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * SECOND)
        self.queue._engine.takeback.take_back()
        self.list.revoke(lambda m: 0 < m.deadline_ns <= self.clock.now_ns)

    # ------------------------------------------------------------------ prefetching
    def let_go(self, held: Held) -> None:
        for buffer in self.buffers:
            if held in buffer.in_hand:
                buffer.in_hand.remove(held)

    @precondition(lambda self: len(self.buffers) < CONSUMERS)
    @rule(prefetch=st.integers(1, 4))
    def open_consumer(self, prefetch: int) -> None:
        self.buffers.append(Buffer(self.queue.consumer(prefetch=prefetch), prefetch))

    @precondition(lambda self: self.buffers)
    @rule(which=st.integers(0, 1))
    def take_from_consumer(self, which: int) -> None:
        buffer = self.buffers[which % len(self.buffers)]
        expected = self.listed_next(buffer)
        if not isinstance(expected, Held):
            with pytest.raises(expected):
                buffer.consumer.receive(timeout=0)
            return
        self.hand_over(expected, buffer.consumer.receive(timeout=0))
        buffer.in_hand.append(expected)

    def listed_next(self, buffer: Buffer) -> Held | type[Exception]:
        while True:
            while buffer.ahead:
                held = buffer.ahead.pop(0)
                if self.list.holds(held):
                    if not held.listed.started:
                        self.list.start(held.listed)
                    return held
            room = buffer.prefetch - len(buffer.in_hand)
            if room <= 0:
                return mqlite.Empty
            if buffer.mode == "failover" and self.list.seat is None:
                self.list.seat = buffer
            refusal = self.raises_on_take(buffer)
            if refusal:
                return mqlite.Empty if buffer.mode == "failover" else refusal
            buffer.ahead = self.list.claim(room, ME, started=1)
            if not buffer.ahead:
                return mqlite.Empty

    @precondition(lambda self: self.buffers)
    @rule(which=st.integers(0, 1))
    def close_consumer(self, which: int) -> None:
        buffer = self.buffers.pop(which % len(self.buffers))
        buffer.consumer.close()
        for held in buffer.ahead + buffer.in_hand:
            if self.list.holds(held):
                self.list.give_back(held.listed, failed=False)
        if self.list.seat is buffer:
            self.list.seat = None

    # ------------------------------------------------------------------ the dead
    @precondition(lambda self: self.list.dead)
    @rule()
    def take_one_of_the_dead(self) -> None:
        [message] = self.queue.dead.receive(timeout=0)
        dead = self.list.dead.pop(message.id)
        assert (message.delivery_count, message.acquired_count) == (dead.failures, dead.acquired + 1)
        message.ack()

    @precondition(lambda self: self.list.dead)
    @rule(most=st.sampled_from([None, 1, 2]), rate=st.sampled_from([None, None, 0.5]))
    def redrive(self, most: int | None, rate: float | None) -> None:
        order = [m.id for m in self.queue.dead.browse()][:most]
        if self.list.redrive(order, 0 if rate is None else 1 / rate):
            assert self.queue.redrive(max=most, rate=rate) == len(order)
        else:
            with pytest.raises(mqlite.Full):
                self.queue.redrive(max=most, rate=rate)

    @rule()
    def purge(self) -> None:
        assert self.queue.purge() == self.list.purge()

    # ------------------------------------------------------------------ after every step
    def is_time_to_look(self) -> bool:
        return True

    @invariant()
    def both_say_the_same(self) -> None:
        if self.queue is None or not self.is_time_to_look():
            return
        self.both_look()
        assert self.queue.check() == []
        plain = self.list
        ready = plain.ready()
        stats = self.queue.stats()
        assert (stats.ready, stats.claimed, stats.dead) == (len(ready), len(plain.claims), len(plain.dead))
        assert stats.delayed == len(plain.delayed())
        assert self.queue.qsize() == len(ready)
        assert self.queue.unfinished_tasks == len(plain.messages) + self.tasks
        assert [(m.id, m.body, m.priority, m.delivery_count) for m in self.queue.browse()] == [
            (m.id, m.body, m.priority, m.failures) for m in ready
        ]
        assert [m.id for m in self.queue.peek(3)] == [m.id for m in plain.peek(3)]

    def both_look(self) -> None:
        """What the time has done is done; what schedules have put gets the ids that are new."""
        self.queue.stats()
        fired = self.list.look()
        if fired:
            new = sorted(m.id for m in self.queue.browse() if m.id not in self.list.messages)
            for m, number in zip(fired, new, strict=True):
                self.list.name(m, number)

    @invariant()
    def the_dead_are_the_same(self) -> None:
        if self.queue is None or not self.is_time_to_look():
            return
        found = list(self.queue.dead.browse())
        assert [-m.priority for m in found] == sorted(-m.priority for m in found)
        assert {
            m.id: (m.body, m.priority, m.death.reason, m.delivery_count, m.acquired_count, m.group) for m in found
        } == {
            number: (d.body, d.priority, d.reason, d.failures, d.acquired, d.group)
            for number, d in self.list.dead.items()
        }
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
        answer = self.child.ask("receive", self.clock.now_ns, count)
        if self.raises_on_take():
            assert answer == "QueueLocked"
        else:
            self.check_answer(answer, self.list.claim(count, CHILD))

    @precondition(lambda self: self.child is not None)
    @rule(prefetch=st.integers(2, 3))
    def the_other_prefetches(self, prefetch: int) -> None:
        self.child_consumes(prefetch, "shared")

    def child_consumes(self, prefetch: int, mode: str) -> None:
        answer = self.child.ask("consume", self.clock.now_ns, prefetch, mode)
        if self.list.seat is not None:
            assert answer == ("Empty" if mode == "failover" else "QueueLocked")
            return
        self.check_answer(answer, self.list.claim(prefetch, CHILD, started=1)[:1])
        if mode != "shared":
            self.list.seat = CHILD

    def check_answer(self, answer: Any, taken: list[Held]) -> None:
        expected = [[held.listed.id, held.listed.failures, held.listed.acquired] for held in taken]
        assert answer == (expected or "Empty")
        self.child_held.extend(taken)

    @precondition(lambda self: self.child is not None and self.child_held)
    @rule(which=st.integers(0, 100), how=st.sampled_from(["ack", "nack", "release"]))
    def the_other_settles(self, which: int, how: str) -> None:
        held = self.child_held.pop(which % len(self.child_held))
        m = held.listed
        lost = not self.list.holds(held)
        again = any(other.listed.id == m.id for other in self.child_held)
        if lost and again:  # it got the message again later, and knows only the later claim
            return
        assert self.child.ask(how, self.clock.now_ns, m.id) == ("LeaseLost" if lost else None)
        self.child_held = [other for other in self.child_held if other.listed.id != m.id]
        if not lost:
            self.settled(m, how)

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_is_killed(self) -> None:
        self.end_child()
        self.list.revoke(lambda m: m.holder == CHILD)
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
        if self.list.seat == CHILD:
            self.list.seat = None

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_leaves(self) -> None:
        assert self.child.ask("close") is None
        self.list.leave(CHILD)
        self.end_child()

    # ------------------------------------------------------------------ closing and crashing
    @rule()
    def close_and_open_again(self) -> None:
        self.close()
        self.list.leave(ME)
        if isinstance(self.list.seat, Buffer):
            self.list.seat = None
        self.reopen()

    @rule()
    def the_machine_crashes(self) -> None:
        if self.child is not None:
            self.end_child()
        self.close()
        assert self.path is not None
        shutil.rmtree(os.path.join(self.path, "run"))
        self.list.crash()
        self.reopen()

    def close(self) -> None:
        if self.prober is not None:
            self.prober.close()
            self.prober = None
        self.queue.close()
        with pytest.raises(mqlite.Closed):
            self.queue.qsize()
        for held in self.held:
            with pytest.raises(mqlite.MqliteError):
                held.message.ack()

    def reopen(self) -> None:
        self.held, self.buffers, self.tasks = [], [], 0
        self.queue = self.open_queue(self.path, self.clock)


class QueueLeftAloneBesideList(QueueOnDiskBesideList):
    """The same, looked at seldom, so that messages pass by the tree (log/front.py) from one look to the next."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0
        self._now_ns = 0

    def is_time_to_look(self) -> bool:
        """Also when the time has gone on: what is due then is found by who looks."""
        self._looks += 1
        moved, self._now_ns = self.clock.now_ns != self._now_ns, self.clock.now_ns
        return moved or self._looks % 14 < 2
