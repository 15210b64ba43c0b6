"""Transactions beside plain lists and dicts: what each commit does or raises, and what is there after it.

One store with two queues, one of them bounded, a topic with a subscription, and two tables. Up to three
transactions are open at once; others put, take, settle and write meanwhile; claims are lost; the store is closed
and opened again; a process that is in the middle of a transaction is killed.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import mqlite

MAXSIZE = 3
QUEUES = ("free", "bounded")
TABLES = ("one", "two")
KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from([1, 2, "x", [1], b"y"])
WHICH = st.integers(0, 100)
SEEN = st.integers(0, 20)
BOUNDS = st.sampled_from([("a", "c"), ("b", "d"), ("a", "d")])
MISSING: Any = object()


#: What `many_steps_of_it` chooses from: what others do, and what is done in the transaction.
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "put": ("put", {"name": st.sampled_from(QUEUES)}),
    "receive": ("receive", {"name": st.sampled_from((*QUEUES, "sub"))}),
    "receive a bounded one": ("receive", {"name": st.just("bounded")}),
    "settle": ("settle", {"which": WHICH, "how": st.sampled_from(["ack", "nack", "reject", "release"])}),
    "lose": ("lose", {"which": WHICH}),
    "write": ("write", {"table": st.just("one"), "key": KEYS, "value": VALUES}),
    "write again": ("write", {"table": st.just("one"), "key": KEYS, "value": VALUES}),
    "be first": ("be_first", {"which": WHICH}),
    "see": ("see", {"key": SEEN}),
    "puts in it": ("put_in_it", {"name": st.sampled_from((*QUEUES, "sub")), "count": st.integers(1, 2)}),
    "bounded puts in it": ("put_in_it", {"name": st.just("bounded"), "count": st.integers(1, 3)}),
    "settle in it": ("settle_in_it", {"message": WHICH, "how": st.sampled_from(["ack", "ack", "nack", "reject"])}),
    "settle in it, too": ("settle_in_it", {"message": WHICH, "how": st.sampled_from(["ack", "nack"])}),
    "write in it": ("write_in_it", {"table": st.just("one"), "key": KEYS, "value": VALUES}),
    "read in it": ("read_in_it", {"table": st.just("one"), "key": KEYS}),
    "read a range in it": ("read_a_range_in_it", {"table": st.just("one"), "bounds": BOUNDS, "reverse": st.booleans()}),
    "count in it": ("count_in_it", {"table": st.just("one")}),
    "delete in it": ("delete_in_it", {"table": st.just("one"), "key": KEYS}),
    "expect in it": ("expect_in_it", {"table": st.just("one"), "key": KEYS, "value": VALUES}),
    "once in it": ("once_in_it", {"key": SEEN}),
}


class PlainMessage:
    """A message in line, perhaps claimed."""

    def __init__(self, body: int) -> None:
        self.body = body
        self.failures = 0
        self.real: mqlite.Message | None = None  # while somebody holds it
        self.handle: Any = None  # the consumer that took it
        self.staged: PlainTransaction | None = None


class PlainTransaction:
    """What an open transaction has noted."""

    def __init__(self, real: mqlite.Transaction, checks: bool) -> None:
        self.real = real
        self.checks = checks
        self.puts: list[tuple[str, int, mqlite.Receipt]] = []  # queue, or "sub"; body
        self.settles: list[tuple[str, PlainMessage, str]] = []  # line, message, how
        self.lost = False
        self.writes: dict[str, dict[Any, Any]] = {table: {} for table in TABLES}
        self.keys: dict[tuple[str, str], int] = {}  # read: version
        self.ranges: list[tuple[str, str, str, tuple[tuple[str, int], ...]]] = []
        self.lengths: dict[str, int] = {}
        self.whole: dict[str, int] = {}
        self.once: set[int] = set()
        self.doomed = False


class TransactionsBesideLists(RuleBasedStateMachine):
    """What both backends do."""

    path: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.bodies = itertools.count(1)
        self.versions = itertools.count(1)
        self.lines: dict[str, list[PlainMessage]] = {line: [] for line in (*QUEUES, "sub")}
        self.dead: dict[str, list[int]] = {line: [] for line in self.lines}
        self.tables: dict[str, dict[str, tuple[Any, int]]] = {table: {} for table in TABLES}
        self.table_versions = dict.fromkeys(TABLES, 0)
        self.seen: set[int] = set()
        self.open_ones: list[PlainTransaction] = []

    @initialize(max_deliveries=st.sampled_from([None, 1, 2]))
    def make(self, max_deliveries: int | None) -> None:
        self.max_deliveries = max_deliveries
        self.open()

    def open(self) -> None:
        self.broker = mqlite.open(self.path)
        options = {"max_deliveries": self.max_deliveries}
        self.queues = {"free": self.broker.queue("free", **options), "bounded": self.broker.queue("bounded", maxsize=MAXSIZE, **options)}
        self.topic = self.broker.topic("topic", **options)
        self.queues["sub"] = self.topic.subscribe("sub")

    def teardown(self) -> None:
        if hasattr(self, "broker"):
            self.broker.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ what is there
    @invariant()
    def they_are_the_same(self) -> None:
        for name, line in self.lines.items():
            queue = self.queues[name]
            assert [message.body for message in queue.browse()] == [message.body for message in line if message.real is None]
            stats = queue.stats()
            held = sum(message.real is not None for message in line)
            assert (stats.ready, stats.delayed, stats.claimed) == (len(line) - held, 0, held)
            assert sorted(message.body for message in queue.dead.browse()) == sorted(self.dead[name])
        for name, table in self.tables.items():
            assert dict(self.broker.table(name)) == {key: value for key, (value, _) in table.items()}
            assert len(self.broker.table(name)) == len(table)
        assert self.broker.check() == []

    def total(self, name: str) -> int:
        return len(self.lines[name])

    # ------------------------------------------------------------------ others
    @rule(name=st.sampled_from(QUEUES))
    def put(self, name: str) -> None:
        body = next(self.bodies)
        if name == "bounded" and self.total(name) >= MAXSIZE:
            with pytest.raises(mqlite.Full):
                self.queues[name].put_nowait(body)
        else:
            self.queues[name].put_nowait(body)
            self.lines[name].append(PlainMessage(body))

    @rule()
    def publish(self) -> None:
        body = next(self.bodies)
        self.topic.publish(body)
        self.lines["sub"].append(PlainMessage(body))

    @rule(name=st.sampled_from((*QUEUES, "sub")))
    def receive(self, name: str) -> None:
        consumer = self.queues[name].consumer()
        ready = [message for message in self.lines[name] if message.real is None]
        if not ready:
            with pytest.raises(mqlite.Empty):
                consumer.receive(timeout=0)
            consumer.close()
            return
        message = ready[0]
        message.real, message.handle = consumer.receive(timeout=0), consumer
        assert (message.real.body, message.real.delivery_count) == (message.body, message.failures)

    def held(self, staged: bool = False) -> list[tuple[str, PlainMessage]]:
        return [(name, message) for name, line in self.lines.items() for message in line if message.real is not None and (message.staged is not None) == staged]

    @precondition(lambda self: self.held())
    @rule(which=WHICH, how=st.sampled_from(["ack", "nack", "reject", "release"]))
    def settle(self, which: int, how: str) -> None:
        name, message = _one_of(self.held(), which)
        assert message.real is not None
        getattr(message.real, how)()
        message.handle.close()
        self.end(name, message, how)

    def end(self, name: str, message: PlainMessage, how: str) -> None:
        """A message is settled."""
        message.real = message.handle = message.staged = None
        last = self.max_deliveries is not None and message.failures + 1 >= self.max_deliveries
        if how == "ack" or how == "reject" or (how == "nack" and last):
            self.lines[name].remove(message)
        if how == "reject" or (how == "nack" and last):
            self.dead[name].append(message.body)
        elif how == "nack":
            message.failures += 1

    @precondition(lambda self: self.held(staged=True) or self.held())
    @rule(which=WHICH)
    def lose(self, which: int) -> None:
        """The consumer is closed: what it has goes back, and whoever settles it learns so."""
        _, message = _one_of([*self.held(staged=True), *self.held()], which)
        message.handle.close()
        if message.staged is not None:
            message.staged.lost = True
        message.real = message.handle = message.staged = None

    @rule(table=st.sampled_from(TABLES), key=KEYS, value=VALUES)
    def write(self, table: str, key: str, value: Any) -> None:
        self.broker.table(table)[key] = value
        self.written({table: {key: value}})

    @rule(key=SEEN)
    def see(self, key: int) -> None:
        """Another transaction commits a key of `once`."""
        assert self.broker.run(lambda tx: tx.once(key)) == (key not in self.seen)
        self.seen.add(key)

    @precondition(lambda self: self.unseen())
    @rule(which=WHICH)
    def be_first(self, which: int) -> None:
        """Another transaction sees a key before an open one that believes to be the first commits."""
        self.see(_one_of(self.unseen(), which))

    def unseen(self) -> list[int]:
        return sorted(set().union(*(tx.once for tx in self.open_ones)) - self.seen)

    @rule(table=st.sampled_from(TABLES), key=KEYS)
    def delete(self, table: str, key: str) -> None:
        found = self.broker.table(table).pop(key, None)
        assert found == self.tables[table].get(key, (None, 0))[0]
        if key in self.tables[table]:
            self.written({table: {key: MISSING}})

    def written(self, writes: dict[str, dict[Any, Any]]) -> None:
        """Rows of one commit."""
        for table, rows in writes.items():
            version = next(self.versions)
            for key, value in rows.items():
                if value is not MISSING:
                    self.tables[table][key] = value, version
                elif self.tables[table].pop(key, None) is None:
                    continue
                self.table_versions[table] = version

    # ------------------------------------------------------------------ a transaction
    @precondition(lambda self: len(self.open_ones) < 3)
    @rule(checks=st.sampled_from([True, True, False]))
    def begin(self, checks: bool) -> None:
        self.open_ones.append(PlainTransaction(self.broker.transaction(check_reads=checks), checks))

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, name=st.sampled_from((*QUEUES, "sub")), count=st.integers(1, 2))
    def put_in_it(self, which: int, name: str, count: int) -> None:
        tx = _one_of(self.open_ones, which)
        for _ in range(count):
            body = next(self.bodies)
            receipt = self.topic.publish(body, tx=tx.real) if name == "sub" else self.queues[name].put(body, tx=tx.real)
            with pytest.raises(mqlite.NotCommitted):
                receipt.result()
            tx.puts.append((name, body, receipt))

    @precondition(lambda self: self.open_ones and self.held())
    @rule(which=WHICH, message=WHICH, how=st.sampled_from(["ack", "ack", "nack", "reject"]))
    def settle_in_it(self, which: int, message: int, how: str) -> None:
        tx = _one_of(self.open_ones, which)
        name, taken = _one_of(self.held(), message)
        assert taken.real is not None
        getattr(taken.real, how)(tx=tx.real)
        taken.staged = tx
        tx.settles.append((name, taken, how))
        with pytest.raises(mqlite.NotClaimed):
            taken.real.ack()

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES), key=KEYS, value=VALUES)
    def write_in_it(self, which: int, table: str, key: str, value: Any) -> None:
        tx = _one_of(self.open_ones, which)
        tx.real.table(table)[key] = value
        tx.writes[table][key] = value

    def changed(self, tx: PlainTransaction) -> bool:
        """Whether anything that it has read is not so any more."""
        tables = self.tables
        return (
            any(tables[table].get(key, (None, 0))[1] != version for (table, key), version in tx.keys.items())
            or any(self.part(table, start, stop) != found for table, start, stop, found in tx.ranges)
            or any(len(tables[table]) != length for table, length in tx.lengths.items())
            or any(self.table_versions[table] != version for table, version in tx.whole.items())
        )

    def part(self, table: str, start: str, stop: str) -> tuple[tuple[str, int], ...]:
        return tuple((key, version) for key, (_, version) in sorted(self.tables[table].items()) if start <= key < stop)

    def read(self, tx: PlainTransaction, real: Callable[[], Any]) -> Any:
        """What it gives; MISSING where it raised Conflict, as it had to."""
        if tx.checks and self.changed(tx):
            with pytest.raises(mqlite.Conflict):
                real()
            return MISSING
        return real()

    def seen_by(self, tx: PlainTransaction, table: str) -> dict[str, Any]:
        rows = {key: value for key, (value, _) in self.tables[table].items()} | tx.writes[table]
        return {key: value for key, value in sorted(rows.items()) if value is not MISSING}

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES), key=KEYS)
    def read_in_it(self, which: int, table: str, key: str) -> None:
        tx = _one_of(self.open_ones, which)
        if key in tx.writes[table]:  # nothing is looked up
            assert tx.real.table(table).get(key, MISSING) == tx.writes[table][key]
            return
        found = self.read(tx, lambda: (tx.real.table(table).get(key),))
        if found is not MISSING:
            assert found == (self.seen_by(tx, table).get(key),)
            self.note_key(tx, table, key)

    def note_key(self, tx: PlainTransaction, table: str, key: str, anyway: bool = False) -> None:
        if tx.checks or anyway:
            tx.keys[table, key] = self.tables[table].get(key, (None, 0))[1]

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES), bounds=BOUNDS, reverse=st.booleans())
    def read_a_range_in_it(self, which: int, table: str, bounds: tuple[str, str], reverse: bool) -> None:
        tx = _one_of(self.open_ones, which)
        found = self.read(tx, lambda: list(tx.real.table(table).range(*bounds, reverse=reverse)))
        if found is not MISSING:
            expected = [(key, value) for key, value in self.seen_by(tx, table).items() if bounds[0] <= key < bounds[1]]
            assert found == (expected[::-1] if reverse else expected)
            if tx.checks:
                tx.ranges.append((table, *bounds, self.part(table, *bounds)))

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES))
    def count_in_it(self, which: int, table: str) -> None:
        tx = _one_of(self.open_ones, which)
        found = self.read(tx, lambda: len(tx.real.table(table)))
        if found is not MISSING:
            assert found == len(self.seen_by(tx, table))
            if tx.checks:
                tx.lengths[table] = len(self.tables[table])
            for key in tx.writes[table]:
                self.note_key(tx, table, key)

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES), key=KEYS)
    def delete_in_it(self, which: int, table: str, key: str) -> None:
        tx = _one_of(self.open_ones, which)
        there = key in self.seen_by(tx, table)

        def delete() -> bool:
            try:
                del tx.real.table(table)[key]
            except KeyError:
                return False
            return True

        own = key in tx.writes[table]
        found = delete() if own else self.read(tx, delete)
        if found is not MISSING:
            assert found == there
            if not own:
                self.note_key(tx, table, key)
            if there:
                tx.writes[table][key] = MISSING

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES))
    def clear_in_it(self, which: int, table: str) -> None:
        tx = _one_of(self.open_ones, which)

        def clear() -> bool:
            tx.real.table(table).clear()
            return True

        if self.read(tx, clear) is not MISSING:
            tx.writes[table] = dict.fromkeys(self.tables[table], MISSING)
            if tx.checks:
                tx.whole[table] = self.table_versions[table]

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, table=st.sampled_from(TABLES), key=KEYS, value=VALUES)
    def expect_in_it(self, which: int, table: str, key: str, value: Any) -> None:
        tx = _one_of(self.open_ones, which)
        holds = self.tables[table].get(key, (MISSING, 0))[0] == value
        if self.changed(tx) or not holds:
            was_changed = self.changed(tx)
            with pytest.raises(mqlite.Conflict):
                tx.real.expect(table, key, value)
            tx.doomed = tx.doomed or not was_changed
            if not was_changed:
                self.note_key(tx, table, key, anyway=True)
        else:
            tx.real.expect(table, key, value)
            self.note_key(tx, table, key, anyway=True)

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH, key=SEEN)
    def once_in_it(self, which: int, key: int) -> None:
        tx = _one_of(self.open_ones, which)
        first = tx.real.once(key)
        assert first == (key not in self.seen and key not in tx.once)
        if first:
            tx.once.add(key)

    @precondition(lambda self: len(self.open_ones) < 3)
    @rule(data=st.data(), checks=st.booleans(), steps=st.lists(st.sampled_from(list(STEPS)), min_size=3, max_size=12))
    def many_steps_of_it(self, data: st.DataObject, checks: bool, steps: list[str]) -> None:
        """Begin one, do much in it, while others do something, and commit it: what single steps seldom come to."""
        self.begin(checks)
        last = len(self.open_ones) - 1
        for step in steps:
            name, strategies = STEPS[step]
            if name.endswith("_in_it"):
                if name == "settle_in_it" and not self.held():
                    continue
                getattr(self, name)(which=last, **{key: data.draw(strategy) for key, strategy in strategies.items()})
            elif name in ("put", "receive", "write", "see", "be_first") or self.held() or self.held(staged=True):
                if name == "settle" and not self.held():
                    continue
                if name == "be_first" and not self.unseen():
                    continue
                getattr(self, name)(**{key: data.draw(strategy) for key, strategy in strategies.items()})
        self.commit(which=last)

    more_steps_of_it = still_more_steps_of_it = many_steps_of_it

    # ------------------------------------------------------------------ its end
    def errors(self, tx: PlainTransaction) -> set[type[BaseException]]:
        """What its commit may raise; empty: nothing."""
        found: set[type[BaseException]] = set()
        if tx.lost:
            found.add(mqlite.LeaseLost)
        if tx.doomed or self.changed(tx) or tx.once & self.seen:
            found.add(mqlite.Conflict)
        coming = sum(name == "bounded" for name, _, _ in tx.puts)
        if coming:
            leaving = sum(name == "bounded" and (how != "nack" or self.is_last(message)) for name, message, how in tx.settles)
            if self.total("bounded") - leaving + coming > MAXSIZE:
                found |= {mqlite.Full, ValueError} if coming > MAXSIZE else {mqlite.Full}
            elif coming > MAXSIZE:
                found.add(ValueError)
        return found

    def is_last(self, message: PlainMessage) -> bool:
        return self.max_deliveries is not None and message.failures + 1 >= self.max_deliveries

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH)
    def commit(self, which: int) -> None:
        tx = _one_of(self.open_ones, which)
        errors = self.errors(tx)
        if errors:
            with pytest.raises(tuple(errors)):
                tx.real.commit()
            self.undone(tx)
            return
        tx.real.commit()
        self.open_ones.remove(tx)
        assert all(receipt.result() > 0 for _, _, receipt in tx.puts)
        self.apply(tx)

    def apply(self, tx: PlainTransaction) -> None:
        for name, message, how in tx.settles:
            if message.handle is not None:
                message.handle.close()
            self.end(name, message, how)
        for name, body, _ in tx.puts:
            self.lines[name].append(PlainMessage(body))
        self.written({table: rows for table, rows in tx.writes.items() if rows})
        self.seen |= tx.once

    @precondition(lambda self: self.open_ones)
    @rule(which=WHICH)
    def roll_back(self, which: int) -> None:
        tx = _one_of(self.open_ones, which)
        tx.real.rollback()
        self.undone(tx)

    def undone(self, tx: PlainTransaction) -> None:
        self.open_ones.remove(tx)
        for _, message, _ in tx.settles:
            message.staged = None
        assert all(receipt.error is not None for _, _, receipt in tx.puts)
        with pytest.raises(mqlite.Closed):
            tx.real.table("one")["a"] = 1


class TransactionsOnDiskBesideLists(TransactionsBesideLists):
    """Closed, opened again, and killed, too."""

    def __init__(self) -> None:
        super().__init__()
        self.path = os.path.join(self.folder, "store")

    @rule()
    def close_and_open_again(self) -> None:
        """What was held goes back without blame, and what was open is gone."""
        self.broker.close()
        for tx in self.open_ones:
            with pytest.raises(mqlite.Closed):
                tx.real.commit()
        self.open_ones.clear()
        for line in self.lines.values():
            for message in line:
                message.real = message.handle = message.staged = None
        self.open()

    @rule(name=st.sampled_from((*QUEUES, "sub")), committed=st.booleans(), how=st.sampled_from(["ack", "nack", "reject"]), key=KEYS)
    def a_process_is_killed_in_the_middle(self, name: str, committed: bool, how: str, key: str) -> None:
        """It takes a message, puts one, publishes one and writes a row, and is killed before or after its commit."""
        ready = [message for message in self.lines[name] if message.real is None]
        bodies = next(self.bodies), next(self.bodies)
        pid = os.fork()
        if not pid:
            try:
                with mqlite.open(self.path) as broker:
                    queue = broker.topic("topic").subscription("sub") if name == "sub" else broker.queue(name)
                    tx = broker.transaction()
                    if ready:
                        [message] = queue.receive(timeout=0)
                        getattr(message, how)(tx=tx)
                    broker.queue("free").put(bodies[0], tx=tx)
                    broker.topic("topic").publish(bodies[1], tx=tx)
                    tx.table("one")[key] = bodies[0]
                    if committed:
                        tx.commit()
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        if committed:
            if ready:
                self.end(name, ready[0], how)
            self.lines["free"].append(PlainMessage(bodies[0]))
            self.lines["sub"].append(PlainMessage(bodies[1]))
            self.written({"one": {key: bodies[0]}})
        elif ready:
            self.end(name, ready[0], "nack")
        for queue in self.queues.values():  # somebody looks, and takes back what the dead process held
            for each in queue.peek():
                assert each.body
            self.look(queue)

    @staticmethod
    def look(queue: Any) -> None:
        queue._engine.takeback.notice_changes()


def _one_of(things: Any, which: int) -> Any:
    return things[which % len(things)]


