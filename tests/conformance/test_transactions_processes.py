"""Transactions of several processes: forked, spawned, killed in the middle, and woken by each other; and of many threads."""

# ruff: noqa: F811
from __future__ import annotations

import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from crash.children import Children
from fixture_types import InThread, UntilWaiting
from topic_things import got
from transaction_things import (  # noqa: F401
    GUARD,
    USES,
    Bench,
    Everything,
    broker,
    commits,
    counts,
    disk_broker,
    increment,
    received,
    staging,
)

import mqlite
from mqlite.claims import Kind


# ---------------------------------------------------------------------- started in every way
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_transactions_work_in_children_started_by(method: str, tmp_path: Path) -> None:
    program = Path(__file__).parent.parent / "transaction_things.py"
    ran = subprocess.run([sys.executable, "-W", "ignore:This process:DeprecationWarning", str(program), method, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")


def test_a_pickled_broker_begins_transactions_of_the_same_store(disk_broker: mqlite.Broker) -> None:
    with pickle.loads(pickle.dumps(disk_broker)) as again, again.transaction() as tx:
        disk_broker.queue("q").put(1, tx=tx)
        tx.table("t")["k"] = 1
    assert (got(disk_broker.queue("q")), dict(disk_broker.table("t"))) == ([1], {"k": 1})


def test_a_fork_in_the_middle_of_a_transaction_leaves_it_to_the_parent(broker: mqlite.Broker, children: Children) -> None:
    everything = Everything(broker)
    with broker.transaction() as tx:
        everything.stage(tx)
        child = children.fork(lambda talk: talk.say("there"))
        assert child.hear() == "there"
        child.end()
    everything.assert_all_happened()


def use_in_child(talk: Any, bench: Bench, tx: mqlite.Transaction, table: mqlite.Table) -> None:
    """Says what becomes of each use of the parent's transaction."""
    for name, use in USES.items():
        try:
            use(tx, table)
            talk.say([name, "worked"])
        except mqlite.MqliteError as error:
            talk.say([name, type(error).__name__])
    for name, put in (("put", lambda: bench.queue.put(1, tx=tx)), ("publish", lambda: bench.topic.publish(1, tx=tx))):
        try:
            put()
            talk.say([name, "worked"])
        except mqlite.MqliteError as error:
            talk.say([name, type(error).__name__])
    tx.rollback()
    talk.say("over")


def test_a_transaction_of_the_parent_cannot_be_used_in_a_child(broker: mqlite.Broker, children: Children) -> None:
    bench = Bench(broker)
    with broker.transaction() as tx:
        table = tx.table("t")
        table["k"] = 1
        bench.queue.put("parent", tx=tx)
        bench.message.ack(tx=tx)
        child = children.fork(use_in_child, bench, tx, table)
        said = []
        while (word := child.hear()) != "over":
            said.append(word)
        child.end()
    assert {outcome for _, outcome in said} == {"Closed"}
    assert len(said) == len(USES) + 2
    assert (got(bench.queue), dict(broker.table("t")), counts(bench.work)) == (["parent"], {"k": 1}, (0, 0, 0, 0))


def leave_block_in_child(talk: Any, tx: mqlite.Transaction) -> None:
    """Leaves the block of the parent's transaction."""
    try:
        tx.__exit__(None, None, None)
    except mqlite.MqliteError as error:
        talk.say(type(error).__name__)
    else:
        talk.say("nothing")


def test_a_child_that_leaves_the_parent_s_block_commits_nothing(disk_broker: mqlite.Broker, children: Children) -> None:
    q = disk_broker.queue("q")
    with disk_broker.transaction() as tx:
        q.put("once", tx=tx)
        child = children.fork(leave_block_in_child, tx)
        assert child.hear() in ("Closed", "nothing")
        child.end()
        assert counts(q) == (0, 0, 0, 0)
    assert got(q) == ["once"]


def transact_in_child(talk: Any, broker: mqlite.Broker) -> None:
    """A transaction of its own, in an inherited broker."""
    with broker.transaction() as tx:
        broker.queue("q").put("child", tx=tx)
        increment(tx)
    talk.say("done")


def test_a_child_begins_transactions_of_its_own_with_an_inherited_broker(disk_broker: mqlite.Broker, children: Children) -> None:
    q = disk_broker.queue("q")
    with disk_broker.transaction() as tx:
        q.put("parent", tx=tx)
        child = children.fork(transact_in_child, disk_broker)
        assert child.hear() == "done"
        child.end()
    assert (got(q), disk_broker.table("counts")["n"]) == (["child", "parent"], 1)


# ---------------------------------------------------------------------- killed
def work_in_child(talk: Any, path: str, last: str) -> None:
    """Takes a message, stages everything, and does the `last`."""
    broker = mqlite.open(path)
    [message] = broker.queue("work").receive(timeout=GUARD)
    tx = broker.transaction()
    broker.queue("out").put(message.body, tx=tx)
    broker.topic("events").publish(message.body, tx=tx, retain=True)
    tx.table("t")["k"] = message.body
    assert tx.once(message.id)
    message.ack(tx=tx)
    if last == "commit":
        tx.commit()
    talk.say(message.body)
    talk.hear()


def test_a_process_that_is_killed_in_the_middle_leaves_nothing_and_its_message_comes_back(disk_broker: mqlite.Broker, children: Children) -> None:
    work, out, topic = disk_broker.queue("work"), disk_broker.queue("out"), disk_broker.topic("events")
    sub = topic.subscribe("s")
    work.put("job")
    child = children.fork(work_in_child, disk_broker.path, "nothing")
    assert child.hear() == "job"
    assert counts(work) == (0, 0, 1, 0)
    child.kill()
    [message] = work.receive(timeout=GUARD)
    assert (message.body, message.redelivered) == ("job", True)
    assert (counts(out), counts(sub), topic.retained(), disk_broker.tables()) == ((0, 0, 0, 0), (0, 0, 0, 0), [], [])
    with disk_broker.transaction() as tx:
        assert tx.once(message.id)
        message.ack(tx=tx)
    assert counts(work) == (0, 0, 0, 0)


def test_what_a_process_committed_before_it_was_killed_stays(disk_broker: mqlite.Broker, children: Children) -> None:
    work, out, topic = disk_broker.queue("work"), disk_broker.queue("out"), disk_broker.topic("events")
    sub = topic.subscribe("s")
    work.put("job")
    child = children.fork(work_in_child, disk_broker.path, "commit")
    assert child.hear() == "job"
    child.kill()
    assert (counts(work), got(out), got(sub), dict(disk_broker.table("t"))) == ((0, 0, 0, 0), ["job"], ["job"], {"k": "job"})


def move_until_killed(talk: Any, path: str) -> None:
    """Moves numbers from "work" to "done", and counts them."""
    broker = mqlite.open(path)
    work, done = broker.queue("work"), broker.queue("done")
    talk.say("there")
    while True:
        [message] = work.receive()
        with message:

            def move(tx: mqlite.Transaction, message: mqlite.Message = message) -> None:
                increment(tx)
                done.put(message.body, tx=tx)
                message.ack(tx=tx)

            broker.run(move, attempts=10_000)


def test_processes_that_are_killed_again_and_again_lose_and_double_nothing(disk_broker: mqlite.Broker, children: Children) -> None:
    work, done = disk_broker.queue("work", max_deliveries=None), disk_broker.queue("done")
    work.put_many(list(range(150)))
    movers = [children.fork(move_until_killed, disk_broker.path) for _ in range(2)]
    for mover in movers:
        assert mover.hear() == "there"
    found: list[int] = []
    for number in range(150):
        found.append(done.get(timeout=GUARD))
        if number % 25 == 24:
            movers.pop(0).kill()
            movers.append(children.fork(move_until_killed, disk_broker.path))
            assert movers[-1].hear() == "there"
    assert sorted(found) == list(range(150))
    assert (counts(work), disk_broker.table("counts")["n"]) == ((0, 0, 0, 0), 150)


# ---------------------------------------------------------------------- woken
def get_in_child(talk: Any, path: str, name: str) -> None:
    with mqlite.open(path) as broker:
        talk.say("there")
        talk.say(broker.queue(name).get(timeout=GUARD))


def test_who_waits_for_a_message_there_is_woken_by_a_commit_here(disk_broker: mqlite.Broker, children: Children, until_waiting: UntilWaiting) -> None:
    queues = [disk_broker.queue(name) for name in ("a", "b")]
    takers = [children.fork(get_in_child, disk_broker.path, q.name) for q in queues]
    for taker, q in zip(takers, queues, strict=True):
        assert taker.hear() == "there"
        until_waiting(q)
    with disk_broker.transaction() as tx:
        for number, q in enumerate(queues):
            q.put(number, tx=tx)
    assert [taker.hear() for taker in takers] == [0, 1]
    for taker in takers:
        taker.end()


def test_who_waits_for_what_is_published_there_is_woken_by_a_commit_here(disk_broker: mqlite.Broker, children: Children, until_waiting: UntilWaiting) -> None:
    topic, q = disk_broker.topic("events"), disk_broker.queue("a")
    topic.bind(q)
    taker = children.fork(get_in_child, disk_broker.path, "a")
    assert taker.hear() == "there"
    until_waiting(q)
    with disk_broker.transaction() as tx:
        topic.publish("news", tx=tx)
    assert taker.hear() == "news"
    taker.end()


def join_in_child(talk: Any, path: str) -> None:
    with mqlite.open(path) as broker:
        talk.say("there")
        broker.queue("work").join()
        talk.say("joined")


def test_who_joins_there_is_woken_by_an_acknowledgement_in_a_transaction_here(disk_broker: mqlite.Broker, children: Children, until_waiting: UntilWaiting) -> None:
    work = disk_broker.queue("work")
    message = received(work)
    child = children.fork(join_in_child, disk_broker.path)
    assert child.hear() == "there"
    until_waiting(work, Kind.DONE)
    with disk_broker.transaction() as tx:
        message.ack(tx=tx)
    assert child.hear() == "joined"
    child.end()


def put_in_child(talk: Any, path: str, how: str) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q")
        talk.say("there")
        if how == "put":
            q.put("second", timeout=GUARD)
        else:
            with broker.transaction(timeout=GUARD) as tx:
                q.put("second", tx=tx)
                tx.table("t")["k"] = "waited"
        talk.say("put")


@pytest.mark.parametrize("how", ["put", "transaction"])
@pytest.mark.parametrize("free", ["transaction", "get"])
def test_who_waits_for_room_there_is_woken_by_what_is_taken_here(disk_broker: mqlite.Broker, children: Children, until_waiting: UntilWaiting, how: str, free: str) -> None:
    q = disk_broker.queue("q", maxsize=1)
    q.put("first")
    child = children.fork(put_in_child, disk_broker.path, how)
    assert child.hear() == "there"
    until_waiting(q, Kind.SPACE)
    if free == "get":
        q.get(timeout=0)
    else:
        [message] = q.receive(timeout=0)
        with disk_broker.transaction() as tx:
            message.ack(tx=tx)
    assert child.hear() == "put"
    child.end()
    assert (got(q), dict(disk_broker.table("t"))) == (["second"], {"k": "waited"} if how == "transaction" else {})


def test_what_a_killed_process_held_can_be_dropped_for_a_put_of_a_transaction(disk_broker: mqlite.Broker, children: Children) -> None:
    q = disk_broker.queue("q", maxsize=1, overflow="drop_oldest")
    q.put("first")

    def hold(talk: Any, path: str) -> None:
        [message] = mqlite.open(path).queue("q").receive(timeout=GUARD)
        talk.say(message.body)
        talk.hear()

    child = children.fork(hold, disk_broker.path)
    assert child.hear() == "first"
    with pytest.raises(mqlite.Full), disk_broker.transaction() as tx:
        q.put("second", tx=tx)
    child.kill(signal.SIGKILL)
    with disk_broker.transaction() as tx:
        q.put("second", tx=tx)
    assert got(q) == ["second"]


def conflict_in_child(talk: Any, path: str) -> None:
    """Reads, and commits when it is told to."""
    with mqlite.open(path) as broker:
        tx = broker.transaction()
        talk.say(tx.table("t")["k"])
        talk.hear()
        tx.table("t")["k"] = "child"
        try:
            tx.commit()
            talk.say("committed")
        except mqlite.Conflict:
            talk.say("conflict")


@pytest.mark.parametrize("change", [True, False])
def test_what_was_changed_here_is_a_conflict_there(disk_broker: mqlite.Broker, children: Children, change: bool) -> None:
    table = disk_broker.table("t")
    table["k"] = "before"
    child = children.fork(conflict_in_child, disk_broker.path)
    assert child.hear() == "before"
    if change:
        table["k"] = "parent"
    child.say("go")
    assert child.hear() == ("conflict" if change else "committed")
    child.end()
    assert table["k"] == ("parent" if change else "child")


def settle_in_child(talk: Any, message: mqlite.Message, broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        try:
            message.ack(tx=tx)
            talk.say("staged")
        except mqlite.NotClaimed:
            talk.say("NotClaimed")


def test_a_message_of_the_parent_cannot_be_settled_in_a_transaction_of_a_child(disk_broker: mqlite.Broker, children: Children) -> None:
    work = disk_broker.queue("work")
    message = received(work)
    child = children.fork(settle_in_child, message, disk_broker)
    assert child.hear() == "NotClaimed"
    child.end()
    message.ack()


# ---------------------------------------------------------------------- many threads
def test_threads_that_commit_at_once_lose_nothing(broker: mqlite.Broker, in_thread: InThread) -> None:
    work, done = broker.queue("work"), broker.queue("done")
    work.put_many([[thread, number] for number in range(30) for thread in range(8)])
    start = threading.Barrier(8)

    def move(thread: int) -> None:
        start.wait(GUARD)
        for number in range(30):
            [message] = work.receive(timeout=GUARD)
            with message, broker.transaction() as tx:
                done.put(message.body, tx=tx)
                tx.table("moved")[thread * 100 + number] = message.body
                message.ack(tx=tx)

    for future in [in_thread(move, thread) for thread in range(8)]:
        future.result(60)
    everything = sorted([thread, number] for number in range(30) for thread in range(8))
    assert sorted(message.body for message in done.browse()) == everything
    assert sorted(broker.table("moved").values()) == everything
    assert counts(work) == (0, 0, 0, 0)


def test_transactions_of_threads_share_commits_of_the_log(disk_broker: mqlite.Broker, in_thread: InThread) -> None:
    q = disk_broker.queue("q")
    start = threading.Barrier(8)
    each = 40

    def put(thread: int) -> list[int]:
        start.wait(GUARD)
        ids = []
        for number in range(each):
            with disk_broker.transaction() as tx:
                receipt = q.put([thread, number], tx=tx)
                tx.table("t")[thread] = number
            ids.append(int(receipt.result()))
        return ids

    before = commits(disk_broker)
    found = [future.result(60) for future in [in_thread(put, thread) for thread in range(8)]]
    assert commits(disk_broker) - before < 8 * each
    assert {message.id: message.body for message in q.browse()} == {number: [thread, place] for thread, ids in enumerate(found) for place, number in enumerate(ids)}
    assert dict(disk_broker.table("t")) == dict.fromkeys(range(8), each - 1)


def test_one_transaction_that_fails_in_a_group_leaves_the_others_alone(broker: mqlite.Broker, in_thread: InThread) -> None:
    q, full = broker.queue("q"), broker.queue("full", maxsize=1)
    full.put(0)
    start = threading.Barrier(8)

    def put(thread: int) -> int:
        start.wait(GUARD)
        done = 0
        for number in range(20):
            try:
                with broker.transaction() as tx:
                    q.put([thread, number], tx=tx)
                    if (thread + number) % 2:
                        full.put(1, tx=tx)
                done += 1
            except mqlite.Full:
                pass
        return done

    assert [future.result(60) for future in [in_thread(put, thread) for thread in range(8)]] == [10] * 8
    assert sorted(message.body for message in q.browse()) == sorted([thread, number] for thread in range(8) for number in range(20) if (thread + number) % 2 == 0)
    assert counts(full) == (1, 0, 0, 0)
