"""Topics beside plain lists: after every step all of them must say the same. The lists are those of plain_topic.py.

Three topics of one store, with their subscriptions, and one queue that they feed. The clock
stands still unless a step moves it, and the engine is then made to look at once (see machine.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Any

import pytest
from crash.children import Child, Children
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kill_folder import in_memory
from model.plain_list import SECOND, Held
from model.plain_topic import Member, PlainTopic, Said

import mqlite
from mqlite.channel import Channel
from mqlite.store import open_store, retain

KINDS = st.sampled_from(["main", "main", "main", "side"])
PATTERNS = st.sampled_from(["#", "#", "#", "#", "a.*", "a.#", "*.b", "a.b", "*", ""])
KEYS = st.sampled_from(["", "a", "a.b", "a.b.c", "b"])
PRIORITIES = st.sampled_from([0, 0, 0, 1, -1])
NAMES = st.sampled_from(["one", "two", "three"])
STARTS = st.sampled_from(["latest", "earliest", "earliest", "id", "id"])
WHICH = st.integers(0, 100)
DELAYS = st.sampled_from([0.25, 3, 8])
#: What a topic keeps for replay.
REPLAY: dict[str, dict[str, Any]] = {
    "interest": {},
    "limits": {"retention": "limits", "max_messages": 5, "max_age": 60.125},
    "compact": {"retention": "limits", "compact": True},
}
ANYTHING: tuple[dict[str, Any], Any] = ({}, lambda said: True)
#: (what is asked for, the same in Python)
CONDITIONS = st.sampled_from(
    [
        ANYTHING,
        ANYTHING,
        ({"filter": {"type": "order"}}, lambda said: said.kind == "order"),
        ({"filter": {"priority": (">", 0)}}, lambda said: said.priority > 0),
        ({"headers": {"region": "eu"}}, lambda said: said.headers.get("region") == "eu"),
        ({"filter": {"group": ("exists", False)}}, lambda said: said.group is None),
    ]
)
BOUNDS = st.sampled_from([{}, {}, {}, {"maxsize": 3}, {"maxsize": 3, "overflow": "drop_oldest"}, {"maxsize": 3, "overflow": "dead_letter"}])
#: Seconds after which a subscription goes that nobody uses.
UNUSED = 20.25


class ToldClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000 * SECOND

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


class TopicsBesideLists(RuleBasedStateMachine):
    """What both backends do. Subclasses say where the store is."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=in_memory())
        self.path: str | None = None
        self.clock = ToldClock()
        self.bodies = 0
        self.topics: dict[str, Any] = {}
        self.plain: dict[str, PlainTopic] = {}
        self.handles: dict[tuple[str, str], Any] = {}
        self.held: list[tuple[Member, Held]] = []
        self.bound: Any = None
        self.bound_list = Member(self.clock, {})

    @initialize(
        main=st.sampled_from(list(REPLAY)),
        side=st.sampled_from(list(REPLAY)),
        max_deliveries=st.sampled_from([None, 1, 2]),
        ack_timeout=st.sampled_from([None, 10.0]),
        kept=st.integers(0, 4),
    )
    def make(self, main: str, side: str, max_deliveries: int | None, ack_timeout: float | None, kept: int) -> None:
        self.options = {"max_deliveries": max_deliveries, "ack_timeout": ack_timeout}
        self.bound_list = Member(self.clock, self.options)
        self.replay = {"main": REPLAY[main], "side": REPLAY[side]}
        for name, replay in self.replay.items():
            limits = {key: value for key, value in replay.items() if key.startswith("max_")}
            self.plain[name] = PlainTopic(name, self.clock, keeps=bool(replay), compact="compact" in replay, **limits)
        self.open(self.options)
        for kind in ("main", "side"):
            self.subscribe_beside(kind, "one", "#", ANYTHING, "latest", {"durable": True})
        self.subscribe_beside("main", "two", "#", ANYTHING, "latest", {"durable": True})
        for number in range(kept):
            self.publish_beside("main", 1, {"routing_key": "ab"[number % 2]}, number == 0)

    def open(self, named: dict[str, Any]) -> None:
        store = open_store(self.path, clock=self.clock)
        self.bound = mqlite.Queue.of(Channel.open(store, "bound", named, "json"))
        for name, replay in self.replay.items():
            retain(store)
            self.topics[name] = mqlite.Topic.open(store, name, {**replay, **named})

    def teardown(self) -> None:
        for topic in self.topics.values():
            topic.close()
        if self.bound is not None:
            self.bound.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ publishing
    def said(self, topic: PlainTopic, number: int, how: dict[str, Any]) -> Said:
        self.bodies += 1
        after = self.bound_list.after
        return Said(
            number,
            self.bodies,
            how.get("routing_key", ""),
            how.get("priority", 0),
            how.get("type"),
            how.get("group"),
            how.get("headers") or {},
            after(how["ttl"]) if how.get("ttl") else 0,
            after(how["delay"]) if how.get("delay") else 0,
            how.get("replace_key"),
            self.clock.now_ns,
        )

    def publish_beside(self, kind: str, count: int, how: dict[str, Any], retain: bool) -> None:
        """publish_many where count is more than one."""
        plain, topic = self.plain[kind], self.topics[kind]
        saids = [self.said(plain, 0, how) for _ in range(count)]
        bodies = [said.body for said in saids]
        receivers = plain.receivers(saids[0], [self.bound_list])

        def publish() -> list[mqlite.Published]:
            if count == 1:
                return [topic.publish(bodies[0], block=False, retain=retain, **how)]
            return list(topic.publish_many(bodies, block=False, retain=retain, **how))

        known = plain.dedup.get(how.get("dedup_id", ""), (0, 0))
        if known[1] > self.clock.now_ns:
            [found] = publish()
            assert (found, found.receivers) == (known[0], 0)
        elif not receivers and not plain.keeps and not retain:
            assert [(int(each), each.receivers) for each in publish()] == [(0, 0)] * count
            plain.unroutable += count
            with pytest.raises(mqlite.Unroutable):
                topic.publish(bodies[0], mandatory=True, **how)
        elif any(0 < each.options.maxsize < count and each.options.overflow != "dead_letter" for each in receivers):
            with pytest.raises(ValueError):
                publish()
        elif plain.full(receivers, count, how.get("replace_key")):
            with pytest.raises(mqlite.Full):
                publish()
        else:
            numbers = publish()
            assert [each.receivers for each in numbers] == [len(receivers)] * count
            self.came(plain, saids, list(map(int, numbers)), receivers, retain, how)
            if "dedup_id" in how:
                plain.dedup[how["dedup_id"]] = int(numbers[0]), self.bound_list.after(300)

    def came(self, plain: PlainTopic, saids: list[Said], numbers: list[int], receivers: list[Member], retain: bool, how: dict[str, Any]) -> None:
        for said, number in zip(saids, numbers, strict=True):
            said.id = number
        of_queue = {name: how[name] for name in ("ttl", "delay", "group", "replace_key") if how.get(name) is not None}
        plain.store(saids, receivers, retain, of_queue)
        self.forget()

    @rule(kind=KINDS, key=KEYS, priority=PRIORITIES)
    def publish(self, kind: str, key: str, priority: int) -> None:
        self.publish_beside(kind, 1, {"routing_key": key, "priority": priority}, False)

    @rule(
        kind=KINDS,
        key=KEYS,
        priority=PRIORITIES,
        group=st.sampled_from([None, "g", "h"]),
        time=st.sampled_from([{}, {}, {"ttl": 6}, {"delay": 3}, {"delay": 8}]),
        said=st.sampled_from([{}, {"type": "order"}, {"headers": {"region": "eu"}}]),
        once=st.sampled_from([{}, {}, {"replace_key": "r"}, {"replace_key": "s"}, {"dedup_id": "d"}]),
        retain=st.sampled_from([False, False, True]),
    )
    def publish_with_all_that_can_be_said(
        self, kind: str, key: str, priority: int, group: str | None, time: dict[str, Any], said: dict[str, Any], once: dict[str, Any], retain: bool
    ) -> None:
        how = {"routing_key": key, "priority": priority, **time, **said, **once}
        if group is not None:
            how["group"] = group
        self.publish_beside(kind, 1, how, retain)

    @rule(kind=KINDS, key=KEYS, count=st.integers(2, 4), priority=PRIORITIES, retain=st.booleans())
    def publish_many(self, kind: str, key: str, count: int, priority: int, retain: bool) -> None:
        self.publish_beside(kind, count, {"routing_key": key, "priority": priority}, retain)

    @rule(kind=KINDS, key=KEYS)
    def clear_retained(self, kind: str, key: str) -> None:
        assert self.topics[kind].clear_retained(key) == (self.plain[kind].retained.pop(key, None) is not None)
        self.forget()

    def forget(self) -> None:
        for plain in self.plain.values():
            plain.forget([self.bound_list])

    # ------------------------------------------------------------------ subscribing
    @rule(
        kind=KINDS,
        name=NAMES,
        pattern=PATTERNS,
        condition=CONDITIONS,
        start=STARTS,
        which=WHICH,
        bounds=BOUNDS,
        durable=st.sampled_from([True, True, True, False]),
        expires=st.sampled_from([False, False, True]),
    )
    def subscribe(
        self, kind: str, name: str, pattern: str, condition: Any, start: str, which: int, bounds: dict[str, Any], durable: bool, expires: bool
    ) -> None:
        plain, topic = self.plain[kind], self.topics[kind]
        if name in plain.members:
            member = plain.members[name]
            if not member.durable:
                return
            again = topic.subscribe(name)
            if self.handles[kind, name] is None:
                self.handles[kind, name] = again
                member.forget_ns = 0
            else:
                again.close()
            return
        options = {**bounds, "durable": durable} | ({"expires_after": UNUSED} if expires and durable else {})
        position = self.position(plain, "latest" if bounds else start, which)
        self.subscribe_beside(kind, name, pattern, condition, position, options)

    def subscribe_beside(self, kind: str, name: str, pattern: str, condition: Any, position: Any, options: dict[str, Any]) -> None:
        plain = self.plain[kind]
        asked, wants = condition

        def make() -> Any:
            return self.topics[kind].subscribe(name, pattern, start=position, **asked, **options)

        if isinstance(position, int) and plain.is_out_of_range(position):
            with pytest.raises(mqlite.OutOfRange):
                make()
            return
        self.handles[kind, name] = make()
        bounds = {name: value for name, value in options.items() if name in ("maxsize", "overflow")}
        member = plain.members[name] = Member(self.clock, {**self.options, **bounds})
        member.wanted.append((kind, pattern, wants))
        member.durable, member.expires_after = options["durable"], options.get("expires_after")
        if position == "latest":
            for number in sorted(plain.retained.values()):
                said = plain.bodies[number]
                if member.wants(kind, said) and plain.lives(said):
                    member.give(said)
        elif self.start(plain, position) <= plain.last:
            member.feed = self.start(plain, position)
            self.top_up(plain, member)  # a short replay is done at once
        self.forget()

    def position(self, plain: PlainTopic, start: str, which: int) -> Any:
        """Where to start: also at ids that are gone, or that are to come."""
        if start != "id":
            return start
        known = sorted({*plain.bodies, plain.last + 1, plain.last + 2, 1, plain.trimmed or 1, *plain.replayable})
        return known[which % len(known)]

    @staticmethod
    def start(plain: PlainTopic, position: Any) -> int:
        return plain.last + 1 if position == "latest" else plain.first() if position == "earliest" else max(position, plain.first())

    @rule(kind=KINDS, name=NAMES, by_topic=st.booleans())
    def unsubscribe(self, kind: str, name: str, by_topic: bool) -> None:
        plain = self.plain[kind]
        handle = self.handles.get((kind, name))
        if handle is None or by_topic:
            assert self.topics[kind].unsubscribe(name) == (name in plain.members)
        else:
            assert handle.unsubscribe()
            with pytest.raises(mqlite.NoSuchSubscription):
                handle.receive(timeout=0)
            handle.close()
        self.gone(kind, name)

    def gone(self, kind: str, name: str) -> None:
        member = self.plain[kind].members.pop(name, None)
        handle = self.handles.pop((kind, name), None)
        if handle is not None:
            for _, held in [entry for entry in self.held if entry[0] is member]:
                with pytest.raises(mqlite.LeaseLost):
                    held.message.ack()
            self.held = [entry for entry in self.held if entry[0] is not member]
            handle.close()
        self.forget()

    @rule(kind=KINDS, name=NAMES)
    def close_handle(self, kind: str, name: str) -> None:
        """An ephemeral one goes, another may be forgotten; what was received from it can be settled still."""
        handle = self.handles.get((kind, name))
        if handle is None:
            return
        member = self.plain[kind].members[name]
        if any(entry[0] is member for entry in self.held) and member.durable:
            return
        handle.close()
        if not member.durable:
            self.held = [entry for entry in self.held if entry[0] is not member]
            self.gone(kind, name)
            return
        self.handles[kind, name] = None
        if member.expires_after is not None:
            member.forget_ns = self.bound_list.after(member.expires_after)

    # ------------------------------------------------------------------ binding
    @rule(kind=KINDS, pattern=PATTERNS, condition=CONDITIONS)
    def bind(self, kind: str, pattern: str, condition: Any) -> None:
        asked, wants = condition
        if any(entry[:2] == (kind, pattern) for entry in self.bound_list.wanted):
            return
        self.topics[kind].bind(self.bound, pattern, **asked)
        self.bound_list.wanted.append((kind, pattern, wants))

    @rule(kind=KINDS, pattern=st.one_of(st.none(), PATTERNS))
    def unbind(self, kind: str, pattern: str | None) -> None:
        gone = [entry for entry in self.bound_list.wanted if entry[0] == kind and pattern in (None, entry[1])]
        assert self.topics[kind].unbind(self.bound, pattern) == len(gone)
        self.bound_list.wanted = [entry for entry in self.bound_list.wanted if entry not in gone]

    @rule(priority=PRIORITIES)
    def put_beside_the_topics(self, priority: int) -> None:
        self.bodies += 1
        number = self.bound.put(self.bodies, priority=priority)
        self.bound_list.put(number, self.bodies, priority)
        self.bound_list.own.add(number)

    # ------------------------------------------------------------------ taking and settling
    def all_lists(self) -> list[tuple[PlainTopic | None, Member, Any]]:
        """(topic, list, queue) of those that can be asked."""
        found = [(self.plain[kind], self.plain[kind].members[name], handle) for (kind, name), handle in self.handles.items() if handle is not None]
        return [*found, (None, self.bound_list, self.bound)]

    def choose(self, which: int) -> tuple[PlainTopic | None, Member, Any]:
        found = self.all_lists()
        return found[which % len(found)]

    def top_up(self, topic: PlainTopic | None, member: Member) -> None:
        if topic is not None:
            topic.top_up(member)
            self.forget()

    @rule(which=WHICH, count=st.integers(1, 4))
    def receive(self, which: int, count: int) -> None:
        topic, member, queue = self.choose(which)
        if topic is not None and any(0 < said.expires_ns <= self.clock.now_ns for said in topic.ahead(member)):
            self.look_at(which)  # else what expires takes the place of what is received
        if len(member.peek(count)) < count:
            self.top_up(topic, member)
        taken = member.claim(count, "me")
        if not taken:
            with pytest.raises(mqlite.Empty):
                queue.receive(count, timeout=0)
            return
        messages = queue.receive(count, timeout=0)
        assert [m.id for m in messages] == [held.listed.id for held in taken]
        for held, message in zip(taken, messages, strict=True):
            m = held.listed
            assert (message.body, message.priority, message.group) == (m.body, m.priority, m.group)
            assert (message.delivery_count, message.acquired_count) == (m.failures, m.acquired)
            held.message = message
            self.held.append((member, held))

    @precondition(lambda self: self.held)
    @rule(which=WHICH, how=st.sampled_from(["ack", "ack", "nack", "reject", "release", "nack later"]))
    def settle(self, which: int, how: str) -> None:
        member, held = self.held.pop(which % len(self.held))
        message, m = held.message, held.listed
        settle = (lambda: message.nack(delay=3)) if how == "nack later" else getattr(message, how)
        if not member.holds(held):
            with pytest.raises(mqlite.LeaseLost):
                settle()
            return
        settle()
        if how == "ack":
            member.remove(m)
        elif how == "reject":
            member.bury(m, "rejected")
        elif how == "release":
            member.give_back(m, failed=False)
        else:
            member.nack(m, 3 if how == "nack later" else None)
        self.forget()

    @rule(which=WHICH)
    def look_at(self, which: int) -> None:
        """All that is there, also what was still to be replayed."""
        topic, member, queue = self.choose(which)
        self.top_up(topic, member)
        list(queue.browse())
        self.both_look(member, queue)

    @rule(which=WHICH)
    def purge(self, which: int) -> None:
        _, member, queue = self.choose(which)
        self.look_at(which)
        assert queue.purge() == member.purge()
        self.forget()

    @rule(which=WHICH, most=st.sampled_from([None, 1, 2]))
    def redrive(self, which: int, most: int | None) -> None:
        _, member, queue = self.choose(which)
        if not member.dead:
            return
        order = [m.id for m in queue.dead.browse()][:most]
        if member.redrive(order, 0):
            assert queue.redrive(max=most) == len(order)
        else:
            with pytest.raises(mqlite.Full):
                queue.redrive(max=most)

    @rule(which=WHICH)
    def take_one_of_the_dead(self, which: int) -> None:
        _, member, queue = self.choose(which)
        if member.dead:
            [message] = queue.dead.receive(timeout=0)
            member.dead.pop(message.id)
            message.ack()

    # ------------------------------------------------------------------ going back
    @rule(which=WHICH, start=STARTS, where=WHICH)
    def seek(self, which: int, start: str, where: int) -> None:
        found = [key for key, handle in self.handles.items() if handle is not None]
        if not found:
            return
        kind, name = found[which % len(found)]
        plain, handle = self.plain[kind], self.handles[kind, name]
        member = plain.members[name]
        position = self.position(plain, start, where)
        if isinstance(position, int) and plain.is_out_of_range(position):
            with pytest.raises(mqlite.OutOfRange):
                handle.seek(position)
            return
        first = self.start(plain, position)
        if member.options.maxsize:
            return  # what finds no room would come later
        handle.seek(position)
        member.drop_references()
        member.feed = first
        self.top_up(plain, member)
        self.forget()

    # ------------------------------------------------------------------ time
    @rule(seconds=st.sampled_from([0.5, 5, 11, 40]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * SECOND)
        self.bound._engine.takeback.take_back()
        for _, member in self.members():
            member.revoke(lambda m: 0 < m.deadline_ns <= self.clock.now_ns)
        self.forget()
        for kind, plain in self.plain.items():
            self.topics[kind].stats()
            plain.trim()
            self.topics[kind].subscriptions()
            for name in [name for name, member in plain.members.items() if 0 < member.forget_ns <= self.clock.now_ns]:
                self.gone(kind, name)
        self.forget()

    def members(self) -> list[tuple[str, Member]]:
        return [*((f"{kind}/{name}", member) for kind, plain in self.plain.items() for name, member in plain.members.items()), ("bound", self.bound_list)]

    # ------------------------------------------------------------------ after every step
    def both_look(self, member: Member, queue: Any) -> None:
        queue.stats()
        member.look()
        self.forget()
        for there, listed, name in ((queue.browse, member.messages, member.name_again), (queue.dead.browse, member.dead, member.name_dead)):
            unnamed = sorted((number for number in listed if number < 0), reverse=True)
            if unnamed:
                new = sorted(m.id for m in there() if m.id not in listed)
                for number, known in zip(unnamed, new, strict=True):
                    name(number, known)

    @invariant()
    def all_say_the_same(self) -> None:
        if self.bound is None:
            return
        for topic, member, queue in self.all_lists():
            self.both_look(member, queue)
            ready = member.ready()
            ahead = [] if topic is None else topic.ahead(member)
            stats = queue.stats()
            found = stats.ready, stats.claimed, stats.dead, stats.delayed
            assert found == (len(ready) + len(ahead), len(member.claims), len(member.dead), len(member.delayed())), queue
            if topic is not None:
                assert stats.lag == len(member.messages) + len(ahead)
            if member.feed is None:  # else looking would move it on
                assert [(m.id, m.body, m.priority, m.delivery_count) for m in queue.browse()] == [(m.id, m.body, m.priority, m.failures) for m in ready], queue
                assert [m.id for m in queue.peek(3)] == [m.id for m in member.peek(3)], queue
            dead = {m.id: (m.body, m.death.reason) for m in queue.dead.browse()}
            assert dead == {number: (d.body, d.reason) for number, d in member.dead.items()}, queue
        assert self.topics["main"].check() == []

    @invariant()
    def topics_keep_what_they_should(self) -> None:
        if self.bound is None:
            return
        for (kind, plain), topic in zip(self.plain.items(), self.topics.values(), strict=True):
            plain.trim()
            stats = topic.stats()
            self.forget()
            assert (stats.published, stats.unroutable, stats.last_id) == (plain.published, plain.unroutable, plain.last or None), kind
            assert stats.stored == len(plain.bodies), (kind, sorted(plain.bodies))
            assert stats.retained == len(plain.replayable if plain.keeps else plain.bodies), kind
            assert topic.subscriptions() == list(plain.members)
            assert [(m.id, m.body) for m in topic.retained()] == [(n, plain.bodies[n].body) for n in sorted(plain.retained.values())]


class TopicsOnDiskBesideLists(TopicsBesideLists):
    """Also: another process, which may die, closing and opening again, crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.path = os.path.join(self.folder, "app.mq")
        self.children = Children()
        self.child: Child | None = None
        self.left: list[tuple[str, Any]] = []  # what the child leaves, in order: ("ephemeral", name) or ("will", how)
        self.prober: Any = None

    def teardown(self) -> None:
        self.children.kill_all()
        if self.prober is not None:
            self.prober.close()
        super().teardown()

    # ------------------------------------------------------------------ another process
    @precondition(lambda self: self.child is None)
    @rule()
    def another_process_comes(self) -> None:
        self.child = self.children.fork(self.be_the_other)
        assert self.child.hear() == "here"

    def be_the_other(self, talk: Any) -> None:
        kept: list[Any] = []
        queue = mqlite.Queue.of(Channel.open(open_store(self.path, clock=self.clock), "probe", {}, "json"))
        with contextlib.suppress(mqlite.Empty):
            queue.receive(timeout=0)
        talk.say("here")
        while True:
            self.clock.now_ns, verb, *rest = talk.hear(3600)
            answer: Any = None
            if verb == "receive":
                kind, name, count = rest
                taker = self.bound if not kind else self.topics[kind].subscription(name)
                try:
                    messages = taker.receive(count, timeout=0)
                except mqlite.Empty:
                    messages = []
                kept.append((taker, messages))
                answer = [m.id for m in messages]
            elif verb == "ephemeral":
                kept.append(self.topics[rest[0]].subscribe(rest[1], durable=False, **rest[2]))
            else:
                kept.append(self.topics[rest[0]].will(rest[1], **rest[2]))
            talk.say(answer)

    def ask(self, *request: Any) -> Any:
        assert self.child is not None
        self.child.say([self.clock.now_ns, *request])
        return self.child.hear()

    @precondition(lambda self: self.child is not None)
    @rule(which=WHICH, count=st.integers(1, 3))
    def the_other_claims(self, which: int, count: int) -> None:
        topic, member, queue = self.choose(which)
        if member.expires_after is not None or not member.durable:
            return
        if topic is not None and any(0 < said.expires_ns <= self.clock.now_ns for said in topic.ahead(member)):
            self.look_at(which)
        if len(member.peek(count)) < count:
            self.top_up(topic, member)
        expected = [held.listed.id for held in member.claim(count, "child")]
        assert self.ask("receive", "" if topic is None else topic.name, "" if topic is None else queue.name, count) == expected

    @precondition(lambda self: self.child is not None and not any(word == "ephemeral" for word, _ in self.left))
    @rule(kind=KINDS, options=st.sampled_from([{}, {"start": "earliest"}]))
    def the_other_subscribes_for_its_life(self, kind: str, options: dict[str, Any]) -> None:
        plain = self.plain[kind]
        assert self.ask("ephemeral", kind, "other", options) is None
        member = plain.members["other"] = Member(self.clock, self.options)
        member.durable = False
        member.wanted.append((kind, "#", lambda said: True))
        if options and plain.first() <= plain.last:
            member.feed = plain.first()
            self.top_up(plain, member)
        elif not options:
            for number in sorted(plain.retained.values()):
                if plain.lives(plain.bodies[number]):
                    member.give(plain.bodies[number])
        self.left.append(("ephemeral", kind))
        self.forget()

    @precondition(lambda self: self.child is not None and not any(word == "will" for word, _ in self.left))
    @rule(kind=KINDS, key=KEYS, group=st.sampled_from([{}, {"group": "g"}]), retain=st.booleans())
    def the_other_leaves_a_will(self, kind: str, key: str, group: dict[str, Any], retain: bool) -> None:
        how = {"routing_key": key, **group}
        said = self.said(self.plain[kind], 0, how)
        assert self.ask("will", kind, said.body, {**how, "retain": retain}) is None
        self.left.append(("will", (kind, said, how, retain)))

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_is_killed(self) -> None:
        for word, will in self.left:
            if word == "will":
                plain, said = self.plain[will[0]], will[1]
                if plain.full(plain.receivers(said, [self.bound_list]), 1, None) or self.bounded(plain, said):
                    return  # it would be published later
        assert self.child is not None
        self.child.kill()
        self.child = None
        with pytest.raises(mqlite.Empty):
            self.probe().receive(timeout=0)
        for _, member in self.members():
            member.revoke(lambda m: m.holder == "child")
        for word, what in self.left:
            if word == "ephemeral":
                del self.plain[what].members["other"]
                self.forget()
                continue
            kind, said, how, retain = what
            plain = self.plain[kind]
            receivers = plain.receivers(said, [self.bound_list])
            said.at_ns = self.clock.now_ns
            if receivers or plain.keeps or retain:
                self.came(plain, [said], [self.topics[kind].stats().last_id], receivers, retain, how)
            else:
                plain.unroutable += 1
        self.left = []
        self.forget()

    def bounded(self, plain: PlainTopic, said: Said) -> bool:
        """Whether somebody who gets it has little room, which other wills might take."""
        return any(each.options.maxsize for each in plain.receivers(said, []))

    def probe(self) -> Any:
        if self.prober is None:
            self.prober = mqlite.Queue.of(Channel.open(open_store(self.path, clock=self.clock), "probe", {}, "json"))
        return self.prober

    # ------------------------------------------------------------------ closing and crashing
    @rule()
    def close_and_open_again(self) -> None:
        self.close()
        for _, member in self.members():
            member.leave("me")
        self.open_again()

    @precondition(lambda self: self.child is None)
    @rule()
    def the_machine_crashes(self) -> None:
        self.close()
        assert self.path is not None
        shutil.rmtree(os.path.join(self.path, "run"))
        for _, member in self.members():
            member.crash()
        self.open_again()

    def close(self) -> None:
        if self.prober is not None:
            self.prober.close()
            self.prober = None
        for topic in self.topics.values():
            topic.close()
        self.bound.close()

    def open_again(self) -> None:
        self.held = []
        for plain in self.plain.values():
            plain.unroutable = 0
            for name in [name for name, member in plain.members.items() if not member.durable and name != "other"]:
                del plain.members[name]
        self.forget()
        self.open({})
        for kind, name in list(self.handles):
            member = self.plain[kind].members.get(name)
            if member is None:
                del self.handles[kind, name]
            elif member.expires_after is None:
                self.handles[kind, name] = self.topics[kind].subscription(name)
            else:
                if self.handles[kind, name] is not None:
                    member.forget_ns = self.bound_list.after(member.expires_after)
                self.handles[kind, name] = None
