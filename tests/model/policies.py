"""The steps of queues with policies: groups, orders, keys, expiry, limits on size, changes by id, pauses, schedules.

The options are drawn at the start, most of them left alone.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from model.machine import CONSUMERS, DELAYS, QueueBesideList, QueueOnDiskBesideList
from model.plain_list import SECOND, Buffer, Recurring

import mqlite

FEW_PRIORITIES = st.sampled_from([0, 0, 0, 1, -1])
GROUPS = st.sampled_from(["red", "green", "blue"])
TTLS = st.sampled_from([0.25, 4, 12])
KEYS = st.sampled_from(["k", "l"])
ORDERS: list[dict[str, Any]] = [{}, {}, {"order": "lifo"}, {"aging": 4.0}, {"fair": True}]
LIMITS = st.sampled_from([None, {"*": 2}, {"red": 3}, {"red": 2, "*": 1}])
MAXSIZES = st.sampled_from([0, 3, 5])
SIZES: list[dict[str, Any]] = [
    {},
    {},
    {"maxsize": 3},
    {"maxsize": 3, "overflow": "reject"},
    {"maxsize": 5, "overflow": "drop_oldest"},
    {"maxsize": 3, "overflow": "dead_letter"},
]
OPTIONS = st.fixed_dictionaries(
    {"max_deliveries": st.sampled_from([None, 1, 2, 3]), "ack_timeout": st.sampled_from([None, 10.0])},
    optional={
        "limits": LIMITS,
        "ttl": TTLS,
        "expired": st.just("drop"),
        "dedup_window": st.sampled_from([3.0, 8.0]),
        "backoff": st.just([0.0, 3.0]),
        "rate": st.sampled_from([(1, 4.0), (3, 6.0)]),
    },
)
HOW = st.fixed_dictionaries({}, optional={"delay": DELAYS, "ttl": TTLS, "group": GROUPS})
NAMES = st.fixed_dictionaries({}, optional={"dedup_id": KEYS, "replace_key": KEYS, "unique": KEYS})
STATES = st.sampled_from(
    [("delayed", "ready", "claimed"), ("ready",), ("delayed", "claimed"), ("dead",), ("ready", "dead")]
)
CHANGES = st.fixed_dictionaries(
    {}, optional={"priority": FEW_PRIORITIES, "delay": st.sampled_from([0, 0.25, 3]), "ttl": TTLS}
).filter(bool)
SETTINGS = st.one_of(
    st.fixed_dictionaries({"maxsize": MAXSIZES}),
    st.fixed_dictionaries({"limits": LIMITS}),
    st.fixed_dictionaries({"ttl": st.none() | TTLS}),
    st.fixed_dictionaries({"max_deliveries": st.sampled_from([None, 1, 3])}),
)


class Policies(QueueBesideList):
    """What both backends do."""

    @initialize(order=st.sampled_from(ORDERS), size=st.sampled_from(SIZES), options=OPTIONS, keeps=st.booleans())
    def make(self, order: dict[str, Any], size: dict[str, Any], options: dict[str, Any], keeps: bool) -> None:
        keeps = keeps or size.get("overflow") == "dead_letter"
        self.open({**order, **size, **options, "dead_letter": keeps})

    # ------------------------------------------------------------------ putting
    @rule(priority=FEW_PRIORITIES, how=HOW)
    def put_somehow(self, priority: int, how: dict[str, Any]) -> None:
        if self.list.options.order == "lifo":
            how = {name: value for name, value in how.items() if name != "group"}
        self.put_beside(priority, **how)

    @rule(priority=FEW_PRIORITIES, how=HOW, replace_key=KEYS)
    def put_in_the_place_of_another(self, priority: int, how: dict[str, Any], replace_key: str) -> None:
        self.put_somehow(priority, {**how, "replace_key": replace_key})

    @rule(priority=FEW_PRIORITIES, how=HOW, dedup_id=KEYS)
    def put_once(self, priority: int, how: dict[str, Any], dedup_id: str) -> None:
        self.put_somehow(priority, {**how, "dedup_id": dedup_id})

    @rule(priority=FEW_PRIORITIES, how=HOW, names=NAMES, unique=KEYS, states=STATES)
    def put_unique(
        self, priority: int, how: dict[str, Any], names: dict[str, str], unique: str, states: tuple[str, ...]
    ) -> None:
        self.put_somehow(priority, {**how, **names, "unique": unique, "states": states})

    @rule(priority=FEW_PRIORITIES, group=GROUPS)
    def put_into_a_group(self, priority: int, group: str) -> None:
        if self.list.options.order == "lifo":
            with pytest.raises(ValueError):
                self.queue.put(0, group=group)
        else:
            self.put_beside(priority, group=group)

    @rule(count=st.integers(1, 5), group=GROUPS, ttl=TTLS)
    def put_many_into_a_group(self, count: int, group: str, ttl: float) -> None:
        if self.list.options.order != "lifo":
            self.put_many_beside(count, 0, group=group, ttl=ttl)

    # ------------------------------------------------------------------ by id
    def some_id(self, which: int) -> int:
        """Of a message, of a dead one, or of one that is gone."""
        ids = [*self.list.messages, *self.list.messages, *self.list.dead, self.list.last_gone]
        return ids[which % len(ids)]

    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        number = self.some_id(which)
        m = self.list.messages.get(number)
        if m is None:
            assert not self.queue.cancel(number)
        elif number in self.list.claims:
            with pytest.raises(mqlite.AlreadyClaimed):
                self.queue.cancel(number)
        else:
            assert self.queue.cancel(number)
            self.list.remove(m)

    @rule(which=st.integers(0, 100), changes=CHANGES)
    def update(self, which: int, changes: dict[str, Any]) -> None:
        self.update_beside(self.some_id(which), changes, changes)

    @rule(which=st.integers(0, 100), seconds=st.sampled_from([-3, 5]))
    def update_eta(self, which: int, seconds: int) -> None:
        eta = self.clock.now_ns // SECOND + seconds
        self.update_beside(self.some_id(which), {"eta": eta}, {"eta_ns": eta * SECOND})

    def update_beside(self, number: int, changes: dict[str, Any], listed: dict[str, Any]) -> None:
        m = self.list.messages.get(number)
        if m is None:
            assert not self.queue.update(number, **changes)
        elif number in self.list.claims:
            with pytest.raises(mqlite.AlreadyClaimed):
                self.queue.update(number, **changes)
        else:
            assert self.queue.update(number, **changes)
            self.list.update(m, **listed)

    @precondition(lambda self: self.list.dead)
    @rule(which=st.integers(0, 100))
    def cancel_one_of_the_dead(self, which: int) -> None:
        number = list(self.list.dead)[which % len(self.list.dead)]
        assert self.queue.dead.cancel(number)
        assert not self.queue.dead.cancel(number)
        del self.list.dead[number]

    # ------------------------------------------------------------------ operating
    @rule()
    def pause_or_resume(self) -> None:
        self.list.paused = not self.list.paused
        if self.list.paused:
            self.queue.pause()
        else:
            self.queue.resume()
        assert self.queue.is_paused == self.list.paused

    @rule(settings=SETTINGS)
    def configure(self, settings: dict[str, Any]) -> None:
        self.queue.configure(**settings)
        self.list.options = attrs.evolve(self.list.options, **settings)

    @precondition(lambda self: len(self.buffers) < CONSUMERS)
    @rule(prefetch=st.integers(1, 3), mode=st.sampled_from(["exclusive", "failover"]))
    def open_consumer_for_itself(self, prefetch: int, mode: str) -> None:
        if mode == "exclusive" and self.list.seat is not None:
            with pytest.raises(mqlite.QueueLocked):
                self.queue.consumer(prefetch=prefetch, mode=mode)
            return
        self.buffers.append(Buffer(self.queue.consumer(prefetch=prefetch, mode=mode), prefetch, mode))
        if mode == "exclusive":
            self.list.seat = self.buffers[-1]

    # ------------------------------------------------------------------ schedules
    @rule(
        name=KEYS,
        every=st.sampled_from([2, 7, 70]),
        catch_up=st.sampled_from(["one", "all", "skip"]),
        priority=FEW_PRIORITIES,
        group=st.none() | GROUPS,
        ttl=st.none() | TTLS,
    )
    def schedule(
        self, name: str, every: int, catch_up: str, priority: int, group: str | None, ttl: float | None
    ) -> None:
        if self.list.options.order == "lifo":
            group = None
        self.bodies += 1
        self.queue.schedule(name, self.bodies, every=every, catch_up=catch_up, priority=priority, group=group, ttl=ttl)
        seconds = self.list.options.ttl if ttl is None else ttl
        self.list.recurring[name] = Recurring(
            self.bodies,
            priority,
            every * SECOND,
            catch_up,
            group,
            seconds,
            self.list.after(every),
            self.list.next_place(),
        )

    @rule(name=KEYS)
    def unschedule(self, name: str) -> None:
        assert self.queue.unschedule(name) == (self.list.recurring.pop(name, None) is not None)

    @rule()
    def minutes_pass(self) -> None:
        self.time_passes(135)

    @precondition(lambda self: all(each.due_ns > self.clock.now_ns for each in self.list.recurring.values()))
    @rule()
    def purge(self) -> None:  # a firing that waited for room would come in meanwhile
        super().purge()

    @invariant()
    def schedules_and_seats_are_the_same(self) -> None:
        if self.queue is None:
            return
        found = {each.name: round(each.next_at.timestamp() * 1000) for each in self.queue.schedules()}
        assert found == {name: each.due_ns // 1_000_000 for name, each in self.list.recurring.items()}
        for buffer in self.buffers:
            assert buffer.consumer.is_active == (buffer.mode == "shared" or self.list.seat is buffer)


class PoliciesOnDisk(Policies, QueueOnDiskBesideList):
    """Also: other processes, closing and opening again, crashes."""

    @precondition(lambda self: self.child is not None)
    @rule(prefetch=st.integers(1, 3), mode=st.sampled_from(["exclusive", "failover"]))
    def the_other_takes_the_queue_for_itself(self, prefetch: int, mode: str) -> None:
        self.child_consumes(prefetch, mode)
