"""once: a key is new to one commit within its window, whatever is redelivered, restarted or done at the same time."""

# ruff: noqa: F811
from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
from crash.children import Children
from fixture_types import InThread
from hand_clock import HandClock
from topic_things import got
from transaction_things import GUARD, broker, commits, counts, disk_broker, entries, received, timed_broker  # noqa: F401

import mqlite
from mqlite.store import open_store

DAY = 86400.0


def once(broker: mqlite.Broker, key: Any, *window: float) -> bool:
    """Asked in a transaction of its own, which commits."""
    with broker.transaction() as tx:
        return tx.once(key, *window)


# ---------------------------------------------------------------------- the first time
def test_a_key_is_new_the_first_time_only(broker: mqlite.Broker) -> None:
    assert [once(broker, "k") for _ in range(3)] == [True, False, False]
    with broker.transaction() as tx:
        assert tx.once("new") is True
    with broker.transaction() as tx:
        assert tx.once("new") is False


def test_the_second_time_within_a_transaction_it_is_not_new(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        assert [tx.once("k"), tx.once("k"), tx.once("l"), tx.once("k")] == [True, False, True, False]
    assert not once(broker, "k")


@pytest.mark.parametrize("end", ["rollback", "exception", "failed commit"])
def test_a_key_is_remembered_by_the_commit_alone(broker: mqlite.Broker, end: str) -> None:
    full = broker.queue("full", maxsize=1)
    full.put(0)

    def work() -> None:
        with broker.transaction() as tx:
            assert tx.once("k")
            if end == "rollback":
                tx.rollback()
            elif end == "exception":
                raise mqlite.Full
            else:
                full.put(1, tx=tx)

    if end == "rollback":
        work()
    else:
        with pytest.raises(mqlite.Full):
            work()
    assert [once(broker, "k"), once(broker, "k")] == [True, False]


def test_texts_bytes_and_numbers_are_different_keys(broker: mqlite.Broker) -> None:
    keys: list[Any] = [1, "1", b"1", 0, "", b"", -1, 2**63 - 1, -(2**63), "日本", b"\xff" * 500, "k" * 500]
    assert [once(broker, key) for key in keys] == [True] * len(keys)
    assert [once(broker, key) for key in keys] == [False] * len(keys)


def test_the_id_of_a_message_or_of_a_publication_is_a_key(broker: mqlite.Broker) -> None:
    topic, q = broker.topic("events"), broker.queue("q")
    topic.bind(q)
    published = topic.publish("x")
    assert once(broker, published)
    assert not once(broker, q.peek()[0].id)


def test_what_was_seen_stages_nothing(disk_broker: mqlite.Broker) -> None:
    once(disk_broker, "k")
    before = commits(disk_broker)
    assert not once(disk_broker, "k")
    assert commits(disk_broker) == before


def test_keys_are_in_no_table(broker: mqlite.Broker) -> None:
    assert once(broker, "k")
    assert (broker.tables(), broker.queues(), broker.topics(), broker.stats()) == ([], [], [], {})


# ---------------------------------------------------------------------- conflicts
def test_of_two_transactions_that_saw_a_new_key_one_commits(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    one, two = broker.transaction(), broker.transaction()
    assert one.once("k")
    assert two.once("k")
    q.put("one", tx=one)
    q.put("two", tx=two)
    two.commit()
    with pytest.raises(mqlite.Conflict):
        one.commit()
    assert got(q) == ["two"]


def test_it_is_a_conflict_without_checks_of_reads_too(broker: mqlite.Broker) -> None:
    tx = broker.transaction(check_reads=False)
    assert tx.once("k")
    assert once(broker, "k")
    with pytest.raises(mqlite.Conflict):
        tx.commit()


def test_other_keys_are_no_conflict(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        assert tx.once("k")
        assert once(broker, "l")
    assert not once(broker, "k")


@pytest.mark.parametrize("how", ["run", "transaction"])
def test_of_many_threads_one_sees_a_new_key(broker: mqlite.Broker, in_thread: InThread, how: str) -> None:
    q = broker.queue("q")
    for number in range(8):
        start = threading.Barrier(6)

        def work(number: int = number, start: threading.Barrier = start) -> str:
            start.wait(GUARD)

            def see(tx: mqlite.Transaction) -> str:
                if not tx.once(number):
                    return "seen"
                q.put(number, tx=tx)
                return "new"

            if how == "run":
                return broker.run(see)
            try:
                with broker.transaction() as tx:
                    return see(tx)
            except mqlite.Conflict:
                return "conflict"

        outcomes = [future.result(GUARD) for future in [in_thread(work) for _ in range(6)]]
        assert outcomes.count("new") == 1
        assert how == "transaction" or outcomes.count("seen") == 5
    assert got(q) == list(range(8))


# ---------------------------------------------------------------------- the window
def test_the_window_is_a_day_unless_it_is_named(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    assert once(timed_broker, "k")
    clock.pass_by(DAY - 0.001)
    assert not once(timed_broker, "k")
    clock.pass_by(0.001)
    assert once(timed_broker, "k")
    clock.pass_by(DAY - 0.001)
    assert not once(timed_broker, "k")


@pytest.mark.parametrize("window", [0.5, 10, 1e8])
def test_after_the_window_a_key_is_new_again(timed_broker: mqlite.Broker, clock: HandClock, window: float) -> None:
    assert once(timed_broker, "k", window)
    clock.pass_by(window * 0.99)
    assert not once(timed_broker, "k", window)
    clock.pass_by(window * 0.02)
    assert [once(timed_broker, "k", window), once(timed_broker, "k", window)] == [True, False]


def test_the_window_can_be_named(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    with timed_broker.transaction() as tx:
        assert tx.once("k", window=10)
    clock.pass_by(10)
    with timed_broker.transaction() as tx:
        assert tx.once("k", window=10)


def test_seeing_it_again_does_not_prolong_the_window(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    assert once(timed_broker, "k", 60)
    for _ in range(5):
        clock.pass_by(11)
        assert not once(timed_broker, "k", 60)
    clock.pass_by(5)
    assert once(timed_broker, "k", 60)


def test_the_window_runs_from_the_commit(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    tx = timed_broker.transaction()
    assert tx.once("k", 60)
    clock.pass_by(30)
    tx.commit()
    clock.pass_by(59)
    assert not once(timed_broker, "k", 60)
    clock.pass_by(1)
    assert once(timed_broker, "k", 60)


def test_keys_have_windows_of_their_own(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    assert once(timed_broker, "long", 100)
    assert once(timed_broker, "short", 10)
    clock.pass_by(10)
    assert (once(timed_broker, "short", 10), once(timed_broker, "long", 100)) == (True, False)


def test_setting_the_wall_clock_does_not_end_the_window(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    assert once(timed_broker, "k", 60)
    clock.set_wall(10**6)
    assert not once(timed_broker, "k", 60)
    clock.set_wall(-2 * 10**6)
    assert not once(timed_broker, "k", 60)


def test_a_key_whose_window_ended_while_the_transaction_was_open_is_no_conflict(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    assert once(timed_broker, "k", 10)
    clock.pass_by(11)
    with timed_broker.transaction() as tx:
        assert tx.once("k", 10)
    assert not once(timed_broker, "k", 10)


# ---------------------------------------------------------------------- remembered, and forgotten
def test_a_key_is_remembered_across_a_restart(path: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.broker.open_store", functools.partial(open_store, clock=clock))
    with mqlite.open(path) as broker:
        assert once(broker, "k", 60)
    clock.pass_by(59)
    with mqlite.open(path) as broker:
        assert not once(broker, "k", 60)
        assert broker.check() == []
    clock.pass_by(1)
    with mqlite.open(path) as broker:
        assert once(broker, "k", 60)


def ask_in_child(talk: Any, path: str) -> None:
    with mqlite.open(path) as broker:
        while (key := talk.hear(3600)) is not None:
            talk.say(once(broker, key))


def test_a_key_is_remembered_for_all_processes(disk_broker: mqlite.Broker, children: Children) -> None:
    child = children.fork(ask_in_child, disk_broker.path)
    assert once(disk_broker, "here")
    for key, wanted in (("here", False), ("there", True), ("there", False)):
        child.say(key)
        assert child.hear() is wanted
    assert not once(disk_broker, "there")
    child.say(None)
    child.end()


def see_in_child(talk: Any, path: str, count: int) -> None:
    with mqlite.open(path) as broker:
        talk.say("there")
        talk.hear()
        talk.say([key for key in range(count) if broker.run(lambda tx, key=key: tx.once(key), attempts=10_000)])


def test_of_many_processes_one_sees_a_new_key(disk_broker: mqlite.Broker, children: Children) -> None:
    started = [children.fork(see_in_child, disk_broker.path, 40) for _ in range(3)]
    for child in started:
        assert child.hear() == "there"
    for child in started:
        child.say("go")
    assert sorted(key for child in started for key in child.hear()) == list(range(40))
    for child in started:
        child.end()


def test_keys_that_have_run_out_are_forgotten(path: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.broker.open_store", functools.partial(open_store, clock=clock))
    with mqlite.open(path) as broker:
        most = []
        for number in range(300):
            assert once(broker, f"k{number}", 10)
            clock.pass_by(1)
            most.append(entries(broker))
        assert max(most[150:]) <= max(most[:150])
        assert broker.check() == []


def test_a_burst_is_forgotten_little_by_little(path: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.broker.open_store", functools.partial(open_store, clock=clock))
    with mqlite.open(path) as broker:
        for number in range(60):
            assert once(broker, f"burst {number}", 10)
        full = entries(broker)
        clock.pass_by(10)
        for number in range(60):
            assert once(broker, f"later {number}", 10)
            assert entries(broker) <= full + 5
        clock.pass_by(10)
        for number in range(120):
            assert once(broker, f"last {number % 5}", 0.001) in (True, False)
            clock.pass_by(0.01)
        assert entries(broker) < full / 2
        assert broker.check() == []


# ---------------------------------------------------------------------- consumers
def test_a_message_that_is_delivered_twice_is_worked_off_once(broker: mqlite.Broker) -> None:
    work, out = broker.queue("work"), broker.queue("out")
    work.put("order", headers={"key": "o-1"})
    work.put("order", headers={"key": "o-1"})
    work.put("other", headers={"key": "o-2"})
    for _ in range(3):
        [message] = work.receive(timeout=0)
        with broker.transaction() as tx:
            if tx.once(message.headers["key"]):
                out.put(message.body, tx=tx)
            message.ack(tx=tx)
    assert (got(out), counts(work)) == (["order", "other"], (0, 0, 0, 0))


def test_a_message_whose_work_failed_is_new_when_it_comes_back(broker: mqlite.Broker) -> None:
    work, out = broker.queue("work"), broker.queue("out")
    work.put("x")
    tries = 0
    while counts(work)[0]:
        [message] = work.receive(timeout=0)
        try:
            with message, broker.transaction() as tx:
                assert tx.once(message.id)
                out.put(message.body, tx=tx)
                message.ack(tx=tx)
                tries += 1
                if tries < 3:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert (tries, got(out)) == (3, ["x"])


# ---------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("k", 0), ValueError),
        (("k", -1), ValueError),
        (("k", float("nan")), ValueError),
        (("k", "1"), TypeError),
        (("k", None), TypeError),
        (("k", True), TypeError),
        ((None,), TypeError),
        ((True,), TypeError),
        ((1.0,), TypeError),
        ((("k",),), TypeError),
    ],
    ids=repr,
)
def test_what_can_be_no_key_and_no_window_is_refused(broker: mqlite.Broker, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with broker.transaction() as tx, pytest.raises(error):
        tx.once(*arguments)
    assert once(broker, "k")
