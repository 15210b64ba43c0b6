"""Transactions beside plain lists and dicts: each commit must end as plain_transactions.py says, and leave what that says.

Up to three transactions are open at once, with single operations by others between them. One store: two queues, one of them
bounded, and a topic with two subscriptions, one of them bounded, that feeds the other queue, too; two tables; keys that are seen
once. The clock stands still unless a step moves it, and the engine is then made to look at once (see machine.py).

What a process does is done by its `Hands`, and told by names and numbers: so another process can be told to do it.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from crash.children import Child, Children
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kill_folder import in_memory
from model.plain_list import SECOND, Held, PlainList
from model.plain_transactions import GONE, Conflict, Entry, PlainTransaction, World, settle

import mqlite
from mqlite.store import open_store

ME, OTHER = "me", "other"
QUEUES, SUBSCRIPTIONS = ("jobs", "out"), {"all": "#", "some": "a.#"}
#: Those that are bounded.
ROOM = {"out": 2, "some": 3}
OPEN_AT_ONCE = 3
WHICH = st.integers(0, 100)
PLACES = st.sampled_from([*QUEUES, "out", *SUBSCRIPTIONS])
PRIORITIES = st.sampled_from([0, 0, 0, 1, -1])
ROUTING_KEYS = st.sampled_from(["a", "a.x", "b", "b.x", "c"])
HOWS = st.sampled_from(["ack", "ack", "ack", "nack", "nack later", "reject"])
#: What else is said of what is put into "jobs".
SAID = st.sampled_from([{}, {}, {}, {"delay": 3}, {"delay": 8}, {"dedup_id": "d"}, {"unique": "u"}, {"replace_key": "r"}])
TABLES = st.sampled_from(["t", "t", "u"])
KEYS = st.sampled_from([1, 2, "a", "b"])
BOUNDS = st.sampled_from([(None, None), (1, None), (None, 2), (1, 2), ("a", None), ("b", "c"), (None, "b")])
VALUES = st.sampled_from([0, 1, "x", None, [1, {"k": 2}]])
#: What is done once, and the seconds for which it is remembered.
JOBS = st.sampled_from([1, "a"])
WINDOWS = st.sampled_from([4, 20])


def does(name: str, *arguments: Any) -> Any:
    """A method of the machine, with its arguments."""
    return st.tuples(st.just(name), *arguments)


READING = [
    does("read", TABLES, st.sampled_from(["get", "get", "in", "version", "len", "len"]), KEYS),
    does("read_range", TABLES, BOUNDS, st.sampled_from(["forwards", "backwards"])),
    does("expect", TABLES, KEYS, st.sampled_from(["as it is", "its value", "a value", "its version", "absence"]), VALUES),
]
#: What a transaction is told to do. Many at a time: a step for each would leave few commits in as many steps.
STAGED = st.one_of(
    does("stage_put", st.sampled_from(QUEUES), PRIORITIES, SAID),
    does("stage_publish", ROUTING_KEYS, PRIORITIES),
    does("stage_settlement", WHICH, HOWS),
    does("stage_settlement", WHICH, HOWS),
    does("stage_write", TABLES, KEYS, VALUES),
    does("stage_deletion", TABLES, KEYS),
    *READING,
    does("once", JOBS, WINDOWS),
    does("stage_exchange", WHICH, st.sampled_from(["ack", "ack", "reject", "nack", "nack later"])),
)
#: What others do meanwhile.
ALONE = st.one_of(
    does("put", st.sampled_from(QUEUES), PRIORITIES, SAID),
    does("publish", ROUTING_KEYS, PRIORITIES),
    does("receive", WHICH, PLACES, st.integers(1, 3)),
    does("receive", WHICH, PLACES, st.integers(1, 3)),
    does("settle_alone", WHICH, st.sampled_from(["ack", "nack", "nack later", "reject", "release"])),
    does("write_alone", TABLES, KEYS, VALUES),
    does("delete_alone", TABLES, KEYS),
    does("delete_alone", TABLES, KEYS),
    does("clear_alone_and_update", TABLES, VALUES),
    does("once_alone", JOBS, WINDOWS),
)


class ToldClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000 * SECOND

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns


def name_of(error: BaseException) -> str:
    return type(error).__name__


class Hands:
    """What one process has open, and does. Answers are made of JSON: ["ok", value], or [the name of an error]."""

    def __init__(self, broker: mqlite.Broker, options: dict[str, Any]) -> None:
        self.broker = broker
        self.topic = broker.topic("news", **options)
        self.takers: dict[str, Any] = {name: broker.queue(name, maxsize=ROOM.get(name, 0), **options) for name in QUEUES}
        self.takers |= {name: self.topic.subscribe(name, pattern, maxsize=ROOM.get(name, 0)) for name, pattern in SUBSCRIPTIONS.items()}
        self.transactions: dict[int, mqlite.Transaction] = {}
        self.receipts: dict[int, list[mqlite.Receipt]] = {}
        self.held: dict[tuple[str, int], mqlite.Message] = {}

    def inherited(self) -> Hands:
        """For a forked process: nothing is held, nothing begun."""
        made: Hands = object.__new__(Hands)
        made.__dict__ |= {**self.__dict__, "transactions": {}, "receipts": {}, "held": {}}
        return made

    def do(self, verb: str, *request: Any) -> list[Any]:
        try:
            return ["ok", getattr(self, verb)(*request)]
        except (mqlite.MqliteError, KeyError, ValueError) as error:
            return [name_of(error)]

    def begin(self, number: int, checks: bool) -> None:
        self.transactions[number] = self.broker.transaction(check_reads=checks)
        self.receipts[number] = []

    def put(self, number: int | None, name: str, body: int, priority: int, how: dict[str, Any]) -> Any:
        if number is None:
            return self.takers[name].put(body, block=False, priority=priority, **how)
        self.receipts[number].append(self.takers[name].put(body, priority=priority, tx=self.transactions[number], **how))
        return None

    def publish(self, number: int | None, body: int, routing_key: str, priority: int) -> Any:
        if number is None:
            published = self.topic.publish(body, routing_key, priority=priority, block=False)
            return [int(published), published.receivers]
        self.receipts[number].append(self.topic.publish(body, routing_key, priority=priority, tx=self.transactions[number]))
        return None

    def receive(self, name: str, count: int) -> list[list[int]]:
        messages = self.takers[name].receive(count, timeout=0)
        self.held |= {(name, message.id): message for message in messages}
        return [[message.id, message.body, message.delivery_count, message.acquired_count] for message in messages]

    def settle(self, number: int | None, name: str, id: int, how: str) -> None:
        message = self.held[name, id]
        tx: dict[str, Any] = {} if number is None else {"tx": self.transactions[number]}
        if how == "nack later":
            message.nack(delay=3, **tx)
        else:
            getattr(message, how)(**tx)

    def read(self, number: int, table: str, what: str, *about: Any) -> Any:
        rows = self.transactions[number].table(table)
        if what == "get":
            return rows[about[0]]
        if what == "in":
            return about[0] in rows
        if what == "version":
            return rows.version(about[0])
        if what == "len":
            return len(rows)
        return [list(pair) for pair in rows.range(*about, reverse=what == "backwards")]

    def write(self, number: int, table: str, key: Any, value: Any) -> None:
        self.transactions[number].table(table)[key] = value

    def delete(self, number: int, table: str, key: Any) -> None:
        del self.transactions[number].table(table)[key]

    def expect(self, number: int, table: str, key: Any, what: dict[str, Any]) -> None:
        self.transactions[number].expect(table, key, **what)

    def once(self, number: int, key: Any, window: float) -> bool:
        return self.transactions[number].once(key, window)

    def commit(self, number: int) -> list[list[int]]:
        """[id, receivers] of all that was put and published."""
        tx, receipts = self.transactions.pop(number), self.receipts.pop(number)
        for receipt in receipts:
            assert not receipt.done
            with pytest.raises(mqlite.NotCommitted):
                receipt.result()
        failure: Exception | None = None
        try:
            tx.commit()
        except Exception as error:
            failure = error
            raise
        finally:
            assert all(receipt.done and receipt.error is failure for receipt in receipts)
            self.is_over(tx)
        return [[int(receipt.result()), getattr(receipt.result(), "receivers", -1)] for receipt in receipts]

    def rollback(self, number: int) -> None:
        tx, receipts = self.transactions.pop(number), self.receipts.pop(number)
        tx.rollback()
        tx.rollback()
        assert all(receipt.done and isinstance(receipt.error, mqlite.NotCommitted) for receipt in receipts)
        self.is_over(tx)

    def is_over(self, tx: mqlite.Transaction) -> None:
        assert not tx.is_open
        for use in (tx.commit, lambda: tx.table("t"), lambda: self.takers["jobs"].put(0, tx=tx)):
            with pytest.raises(mqlite.Closed):
                use()


@dataclass(eq=False)
class Claimed:
    """A message in somebody's hands. by: the number of the transaction that is to settle it."""

    who: str
    place: str
    held: Held
    by: int | None = None


@dataclass(eq=False)
class Begun:
    """An open transaction."""

    number: int
    who: str
    plain: PlainTransaction
    staged: list[Claimed] = field(default_factory=list)


class TransactionsBesideLists(RuleBasedStateMachine):
    """What both backends do. Subclasses say where the store is."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=in_memory())
        self.path: str | None = None
        self.clock = ToldClock()
        self.world = World(self.clock)
        self.hands: Any = None
        self.begun: list[Begun] = []
        self.claimed: dict[tuple[str, str, int], Claimed] = {}
        self.versions: dict[int, int] = {0: 0}  # of the world -> of the store
        self.numbers = self.bodies = 0
        self.outcomes: list[str] = []

    @initialize(max_deliveries=st.sampled_from([None, None, 1, 2]), ack_timeout=st.sampled_from([None, 10.0, 10.0]), waiting=st.integers(0, 3))
    def make(self, max_deliveries: int | None, ack_timeout: float | None, waiting: int) -> None:
        self.options: dict[str, Any] = {"max_deliveries": max_deliveries, "ack_timeout": ack_timeout}
        for name in (*QUEUES, *SUBSCRIPTIONS):
            self.world.lists[name] = PlainList(self.clock, {**self.options, "maxsize": ROOM.get(name, 0)})
        self.world.bound = [*((pattern, name) for name, pattern in SUBSCRIPTIONS.items()), ("b.#", "jobs")]
        self.open()
        self.hands.topic.bind(self.hands.takers["jobs"], "b.#")
        for _ in range(waiting):
            self.put("jobs", 0, {})
            self.publish("a", 0)

    def open(self) -> None:
        with mock.patch("mqlite.broker.open_store", functools.partial(open_store, clock=self.clock)):
            self.hands = Hands(mqlite.open(self.path), self.options)

    def teardown(self) -> None:
        try:
            while self.begun and sys.exception() is None:  # else what is told is what failed first
                self.end(self.begun[-1])
                self.queues_are_as_the_lists()
                self.tables_are_as_the_dicts()
        finally:
            self.close_all()

    def close_all(self) -> None:
        if self.hands is not None:
            self.hands.broker.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ who does it
    def ask(self, who: str, verb: str, *request: Any) -> list[Any]:
        assert who == ME
        answer: list[Any] = self.hands.do(verb, *request)
        return answer

    def people(self) -> list[str]:
        return [ME]

    def someone(self, which: int) -> str:
        people = self.people()
        return people[which % len(people)]


    def body(self) -> int:
        self.bodies += 1
        return self.bodies

    # ------------------------------------------------------------------ transactions
    @rule(which=WHICH, who=WHICH, checks=st.sampled_from([True, True, True, False]), staged=st.lists(STAGED, min_size=1, max_size=4))
    def stage(self, which: int, who: int, checks: bool, staged: list[Any]) -> None:
        """In one that is open, or in a new one."""
        place = which % OPEN_AT_ONCE
        begun = self.begun[place] if place < len(self.begun) else self.begin(self.someone(who), checks)
        for name, *arguments in staged:
            getattr(self, name)(begun, *arguments)

    @rule(who=WHICH, staged=st.lists(STAGED, min_size=1, max_size=6))
    def stage_and_commit(self, who: int, staged: list[Any]) -> None:
        begun = self.begin(self.someone(who), True)
        for name, *arguments in staged:
            getattr(self, name)(begun, *arguments)
        self.end(begun)

    @rule(who=WHICH, read=st.one_of(*READING), doings=st.lists(ALONE, min_size=1, max_size=2), staged=STAGED)
    def be_overtaken(self, who: int, read: Any, doings: list[Any], staged: Any) -> None:
        """Something is read, others do something, and then it is committed."""
        begun = self.begin(self.someone(who), True)
        getattr(self, read[0])(begun, *read[1:])
        self.meanwhile_beside(doings)
        getattr(self, staged[0])(begun, *staged[1:])
        self.end(begun)

    def begin(self, who: str, checks: bool) -> Begun:
        self.numbers += 1
        begun = Begun(self.numbers, who, PlainTransaction(self.world, checks))
        assert self.ask(who, "begin", begun.number, checks) == ["ok", None]
        self.begun.append(begun)
        return begun

    def stage_put(self, begun: Begun, queue: str, priority: int, said: dict[str, Any]) -> None:
        how = said if queue == "jobs" else {}
        entry = Entry(queue, self.body(), priority, self.clock.now_ns, how=how)
        assert self.ask(begun.who, "put", begun.number, queue, entry.body, priority, how) == ["ok", None]
        begun.plain.entries.append(entry)

    def stage_publish(self, begun: Begun, routing_key: str, priority: int) -> None:
        entry = Entry("", self.body(), priority, self.clock.now_ns, routing_key)
        assert self.ask(begun.who, "publish", begun.number, entry.body, routing_key, priority) == ["ok", None]
        begun.plain.entries.append(entry)

    def stage_settlement(self, begun: Begun, claim: int, how: str) -> None:
        own = [claimed for claimed in self.claimed.values() if claimed.who == begun.who]
        if own:
            self.settle_by(begun, own[claim % len(own)], how)

    def stage_exchange(self, begun: Begun, claim: int, how: str) -> None:
        """A message of the bounded queue is settled, and there may be room for another."""
        own = [claimed for claimed in self.claimed.values() if claimed.who == begun.who and claimed.place == "out"]
        if own:
            self.settle_by(begun, own[claim % len(own)], how)
            self.stage_put(begun, "out", 0, {})

    def settle_by(self, begun: Begun, claimed: Claimed, how: str) -> None:
        answer = self.ask(begun.who, "settle", begun.number, claimed.place, claimed.held.listed.id, how)
        if claimed.by is not None:
            assert answer == ["NotClaimed"]
            return
        assert answer == ["ok", None]
        begun.plain.settlements.append((claimed.place, claimed.held, how))
        claimed.by = begun.number
        begun.staged.append(claimed)

    def stage_write(self, begun: Begun, table: str, key: Any, value: Any) -> None:
        assert self.ask(begun.who, "write", begun.number, table, key, value) == ["ok", None]
        begun.plain.put(table, key, value)

    def stage_deletion(self, begun: Begun, table: str, key: Any) -> None:
        answer = self.ask(begun.who, "delete", begun.number, table, key)
        try:
            found = begun.plain.get(table, key)
        except Conflict:
            assert answer == ["Conflict"]
            return
        assert answer == (["KeyError"] if found is GONE else ["ok", None])
        if found is not GONE:
            begun.plain.put(table, key, GONE)

    def read(self, begun: Begun, table: str, what: str, key: Any) -> None:
        answer = self.ask(begun.who, "read", begun.number, table, what, key)
        plain = begun.plain
        try:
            if what == "len":
                assert answer == ["ok", plain.count(table)]
            elif what == "version":
                self.same_version(plain.version(table, key), answer)
            else:
                found = plain.get(table, key)
                assert answer == (["ok", found is not GONE] if what == "in" else ["KeyError"] if found is GONE else ["ok", found])
        except Conflict:
            assert answer == ["Conflict"]

    def same_version(self, plain: int, answer: list[Any]) -> None:
        """The store's numbers are others, but are the same where the plain ones are."""
        assert answer[0] == "ok"
        assert self.versions.setdefault(plain, answer[1]) == answer[1]
        assert len(set(self.versions.values())) == len(self.versions)

    def read_range(self, begun: Begun, table: str, bounds: tuple[Any, Any], what: str) -> None:
        answer = self.ask(begun.who, "read", begun.number, table, what, *bounds)
        try:
            found = [list(pair) for pair in begun.plain.scan(table, *bounds)]
        except Conflict:
            assert answer == ["Conflict"]
            return
        assert answer == ["ok", found[::-1] if what == "backwards" else found]

    def expect(self, begun: Begun, table: str, key: Any, what: str, value: Any) -> None:
        row = self.world.rows(table).get(key)
        version = self.world.row_version(table, key)
        if (what == "its version" and version not in self.versions) or (what == "its value" and row is None):
            what = "as it is"  # it was not read yet
        asked: dict[str, Any] = {}
        if what == "its value":
            assert row is not None
            value = row.value
        if what in ("its value", "a value"):
            asked = {"value": value}
        elif what in ("its version", "absence"):
            asked = {"version": self.versions[version] if what == "its version" else 0}
        answer = self.ask(begun.who, "expect", begun.number, table, key, asked)

        def agrees(found: Any) -> bool:
            if what == "absence":
                return found is None
            return what in ("as it is", "its version") or (found is not None and repr(found.value) == repr(value))

        try:
            begun.plain.expect(table, key, agrees)
        except Conflict:
            assert answer == ["Conflict"]
        else:
            assert answer == ["ok", None]

    def once(self, begun: Begun, key: Any, window: float) -> None:
        assert self.ask(begun.who, "once", begun.number, key, window) == ["ok", begun.plain.see(key, window)]

    @precondition(lambda self: self.begun)
    @rule(which=WHICH)
    def commit(self, which: int) -> None:
        self.end(self.begun[which % len(self.begun)])

    def end(self, begun: Begun) -> None:
        expected = begun.plain.outcome()
        self.outcomes.append(expected)
        answer = self.ask(begun.who, "commit", begun.number)
        self.begun.remove(begun)
        if expected:
            assert answer == [expected]
            self.unstage(begun)
            return
        assert answer[0] == "ok", answer
        for entry, (_, receivers) in zip(begun.plain.entries, answer[1], strict=True):
            assert receivers == (-1 if entry.queue else len(self.world.receivers(entry.routing_key)))
        begun.plain.do([number for number, _ in answer[1]])
        for claimed in begun.staged:
            self.forget(claimed)

    @precondition(lambda self: self.begun)
    @rule(which=WHICH)
    def roll_back(self, which: int) -> None:
        begun = self.begun[which % len(self.begun)]
        assert self.ask(begun.who, "rollback", begun.number) == ["ok", None]
        self.begun.remove(begun)
        self.unstage(begun)

    def unstage(self, begun: Begun) -> None:
        for claimed in begun.staged:
            claimed.by = None

    def forget(self, claimed: Claimed) -> None:
        key = (claimed.who, claimed.place, claimed.held.listed.id)
        if self.claimed.get(key) is claimed:
            del self.claimed[key]

    # ------------------------------------------------------------------ others, meanwhile
    @rule(doings=st.lists(ALONE, min_size=1, max_size=3))
    def meanwhile(self, doings: list[Any]) -> None:
        self.meanwhile_beside(doings)

    def meanwhile_beside(self, doings: list[Any]) -> None:
        for name, *arguments in doings:
            getattr(self, name)(*arguments)

    def put(self, queue: str, priority: int, said: dict[str, Any]) -> None:
        how = said if queue == "jobs" else {}
        plain, body = self.world.lists[queue], self.body()
        known = plain.repeated(how.get("dedup_id"), how.get("unique"), ("delayed", "ready", "claimed"))
        answer = self.ask(ME, "put", None, queue, body, priority, how)
        if known is not None:
            assert answer == ["ok", known]
        elif not plain.has_room(1, plain.replaced(how.get("replace_key"))):
            assert answer == ["Full"]
        else:
            plain.put(answer[1], body, priority, **how)

    def publish(self, routing_key: str, priority: int) -> None:
        body = self.body()
        receivers = [self.world.lists[name] for name in self.world.receivers(routing_key)]
        answer = self.ask(ME, "publish", None, body, routing_key, priority)
        if not all(plain.has_room(1) for plain in receivers):
            assert answer == ["Full"]
            return
        number, count = answer[1]
        assert count == len(receivers)
        for plain in receivers:
            plain.put(number, body, priority)

    def receive(self, who: int, place: str, count: int) -> None:
        person = self.someone(who)
        taken = self.world.lists[place].claim(count, person)
        answer = self.ask(person, "receive", place, count)
        expected = [[held.listed.id, held.listed.body, held.listed.failures, held.listed.acquired] for held in taken]
        assert answer == (["ok", expected] if taken else ["Empty"])
        for held in taken:
            self.claimed[person, place, held.listed.id] = Claimed(person, place, held)

    def settle_alone(self, claim: int, how: str) -> None:
        if not self.claimed:
            return
        claimed = list(self.claimed.values())[claim % len(self.claimed)]
        plain, listed = self.world.lists[claimed.place], claimed.held.listed
        answer = self.ask(claimed.who, "settle", None, claimed.place, listed.id, how)
        if claimed.by is not None:
            assert answer == ["NotClaimed"]
            return
        self.forget(claimed)
        if not plain.holds(claimed.held):
            assert answer == ["LeaseLost"]
            return
        assert answer == ["ok", None]
        settle(plain, listed, how)

    def once_alone(self, key: Any, window: float) -> None:
        begun = self.begin(ME, True)
        self.once(begun, key, window)
        self.end(begun)

    def write_alone(self, table: str, key: Any, value: Any) -> None:
        self.hands.broker.table(table)[key] = value
        self.world.write(table, {key: value})

    def delete_alone(self, table: str, key: Any) -> None:
        rows = self.hands.broker.table(table)
        if key not in self.world.rows(table):
            with pytest.raises(KeyError):
                del rows[key]
            return
        del rows[key]
        self.world.write(table, {key: GONE})

    def clear_alone_and_update(self, table: str, value: Any) -> None:
        rows = self.hands.broker.table(table)
        rows.clear()
        gone = dict.fromkeys(self.world.rows(table), GONE)
        if gone:
            self.world.write(table, gone)
        rows.update({1: value, "b": 0})
        self.world.write(table, {1: value, "b": 0})

    @rule(seconds=st.sampled_from([0.5, 5, 11, 11]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_ns += int(seconds * SECOND)
        self.hands.broker._store.engine.takeback.take_back()
        for plain in self.world.lists.values():
            plain.revoke(lambda m: 0 < m.deadline_ns <= self.clock.now_ns)

    # ------------------------------------------------------------------ after every step
    @invariant()
    def queues_are_as_the_lists(self) -> None:
        if self.hands is None:
            return
        for name, plain in self.world.lists.items():
            taker = self.hands.takers[name]
            stats = taker.stats()
            plain.look()
            ready = plain.ready()
            assert (stats.ready, stats.claimed, stats.delayed, stats.dead) == (len(ready), len(plain.claims), len(plain.delayed()), len(plain.dead)), name
            assert [(m.id, m.body, m.priority, m.delivery_count) for m in taker.browse()] == [(m.id, m.body, m.priority, m.failures) for m in ready], name
            with taker.dead as dead:
                assert {m.id: (m.body, m.death.reason) for m in dead.browse()} == {number: (d.body, d.reason) for number, d in plain.dead.items()}, name
        assert self.hands.broker.check() == []

    @invariant()
    def tables_are_as_the_dicts(self) -> None:
        if self.hands is None:
            return
        broker = self.hands.broker
        assert broker.tables() == sorted(self.world.tables)
        for name in ("t", "u"):
            table, rows = broker.table(name), self.world.rows(name)
            assert list(table.items()) == PlainTransaction(self.world, False).scan(name)
            assert len(table) == len(rows)
            for key, row in rows.items():
                self.same_version(row.version, ["ok", table.version(key)])


class TransactionsOnDiskBesideLists(TransactionsBesideLists):
    """Also: another process, which may die with its transactions, closing and opening again, crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.path = os.path.join(self.folder, "app.mq")
        self.children = Children()
        self.child: Child | None = None

    def close_all(self) -> None:
        self.children.kill_all()
        super().close_all()

    # ------------------------------------------------------------------ another process
    @precondition(lambda self: self.child is None)
    @rule()
    def another_process_comes(self) -> None:
        self.child = self.children.fork(self.be_the_other)
        assert self.child.hear() == ["Empty"]

    def be_the_other(self, talk: Any) -> None:
        hands = self.hands.inherited()
        hands.takers["probe"] = hands.broker.queue("probe")
        talk.say(hands.do("receive", "probe", 1))
        while True:
            self.clock.now_ns, verb, request = talk.hear(3600)
            talk.say(hands.do(verb, *request))

    def ask(self, who: str, verb: str, *request: Any) -> list[Any]:
        if who == ME:
            return super().ask(who, verb, *request)
        assert self.child is not None
        self.child.say([self.clock.now_ns, verb, request])
        answer: list[Any] = self.child.hear()
        return answer

    def people(self) -> list[str]:
        return [ME] if self.child is None else [ME, OTHER]

    @precondition(lambda self: self.child is not None)
    @rule()
    def the_other_is_killed(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child = None
        probe = self.hands.broker.queue("probe")
        with pytest.raises(mqlite.Empty):
            probe.receive(timeout=0)  # notices the death
        self.gone(OTHER)
        for plain in self.world.lists.values():
            plain.revoke(lambda m: m.holder == OTHER)

    def gone(self, who: str) -> None:
        """With all that he has begun."""
        self.begun = [begun for begun in self.begun if begun.who != who]
        self.claimed = {key: claimed for key, claimed in self.claimed.items() if claimed.who != who}

    # ------------------------------------------------------------------ closing and crashing
    @rule()
    def close_and_open_again(self) -> None:
        self.close()
        for plain in self.world.lists.values():
            plain.leave(ME)
        self.open()

    @precondition(lambda self: self.child is None)
    @rule()
    def the_machine_crashes(self) -> None:
        self.close()
        assert self.path is not None
        shutil.rmtree(os.path.join(self.path, "run"))
        for plain in self.world.lists.values():
            plain.crash()
        self.open()

    def close(self) -> None:
        self.hands.broker.close()
        for tx in self.hands.transactions.values():
            with pytest.raises(mqlite.Closed):
                tx.commit()
        self.gone(ME)
