"""A transaction: all that was staged is done by one commit, or nothing is; receipts tell which."""

# ruff: noqa: F811
from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread
from topic_things import got
from transaction_things import GUARD, Bench, Everything, broker, commits, counts, disk_broker, received, staging, uses  # noqa: F401

import mqlite

ENDS: dict[str, Callable[[mqlite.Transaction], object]] = {"commit": lambda tx: tx.commit(), "rollback": lambda tx: tx.rollback()}
ends = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())


# ---------------------------------------------------------------------- commit and rollback
def test_leaving_the_block_does_everything(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    with broker.transaction() as tx:
        everything.stage(tx)
    everything.assert_all_happened()


def test_until_the_commit_nothing_is_seen_by_others(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    with broker.transaction() as tx:
        everything.stage(tx)
        everything.assert_nothing_happened()
        assert everything.out.empty()
        with pytest.raises(mqlite.Empty):
            everything.out.get(timeout=0)
    everything.assert_all_happened()


def test_everything_is_one_commit_of_the_store(disk_broker: mqlite.Broker) -> None:
    everything = Everything(disk_broker)
    before = commits(disk_broker)
    with disk_broker.transaction() as tx:
        everything.stage(tx)
    assert commits(disk_broker) == before + 1


def test_what_was_committed_is_there_after_a_restart(path: str) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q")
        message = received(broker.queue("work"))
        with broker.transaction() as tx:
            q.put(1, tx=tx)
            message.ack(tx=tx)
            tx.table("t")["k"] = "v"
    with mqlite.open(path) as broker:
        assert (got(broker.queue("q")), counts(broker.queue("work")), dict(broker.table("t"))) == ([1], (0, 0, 0, 0), {"k": "v"})
        assert broker.check() == []


@pytest.mark.parametrize("error", [ValueError, mqlite.MqliteError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_in_the_block_undoes_everything_and_goes_on(broker: mqlite.Broker, error: type[BaseException]) -> None:
    everything = Everything(broker)
    raised = error("out of here")
    tx = broker.transaction()

    def work() -> None:
        with tx:
            everything.stage(tx)
            raise raised

    with pytest.raises(error) as caught:
        work()
    assert caught.value is raised
    assert not tx.is_open
    everything.assert_nothing_happened()
    everything.settle()


def test_a_commit_in_the_block_does_everything_at_once(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    with broker.transaction() as tx:
        everything.stage(tx)
        tx.commit()
        everything.assert_all_happened()
    everything.assert_all_happened()


def test_an_exception_after_a_commit_undoes_nothing(broker: mqlite.Broker) -> None:
    everything = Everything(broker)

    def work() -> None:
        with broker.transaction() as tx:
            everything.stage(tx)
            tx.commit()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    everything.assert_all_happened()


def test_a_rollback_in_the_block_undoes_everything(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    with broker.transaction() as tx:
        everything.stage(tx)
        tx.rollback()
        everything.assert_nothing_happened()
    everything.assert_nothing_happened()
    everything.settle()


def test_a_rollback_leaves_nothing_on_disk(disk_broker: mqlite.Broker) -> None:
    everything = Everything(disk_broker)
    before = commits(disk_broker)
    tx = disk_broker.transaction()
    everything.stage(tx)
    tx.rollback()
    assert commits(disk_broker) == before
    everything.settle()


def test_a_transaction_needs_no_block(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    tx = broker.transaction()
    everything.stage(tx)
    tx.commit()
    everything.assert_all_happened()


def test_a_transaction_is_open_until_it_ends(broker: mqlite.Broker) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    for end in (lambda tx: tx.commit(), lambda tx: tx.rollback(), lambda tx: None, lambda tx: fails()):
        try:
            with broker.transaction() as tx:
                assert tx.is_open is True
                broker.queue("q").put(1, tx=tx)
                assert tx.is_open is True
                end(tx)
        except ZeroDivisionError:
            pass
        assert tx.is_open is False


def test_a_transaction_is_a_transaction(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        assert isinstance(tx, mqlite.Transaction)


def test_an_empty_transaction_commits(broker: mqlite.Broker) -> None:
    with broker.transaction():
        pass
    tx = broker.transaction()
    tx.commit()
    assert not tx.is_open


NO_CHANGES: dict[str, Callable[[mqlite.Transaction, mqlite.Broker], object]] = {
    "nothing": lambda tx, broker: None,
    "nothing put": lambda tx, broker: broker.queue("q").put_many([], tx=tx),
    "nothing published": lambda tx, broker: broker.topic("events").publish_many([], tx=tx),
    "nothing acknowledged": lambda tx, broker: broker.queue("q").ack_many([], tx=tx),
    "reads": lambda tx, broker: (tx.table("t")["k"], len(tx.table("t")), list(tx.table("t").items())),
    "expectations": lambda tx, broker: tx.expect("t", "k", 1),
    "an unwritten table": lambda tx, broker: list(tx.table("new")),
    "seen before": lambda tx, broker: tx.once("seen"),
}


@pytest.mark.parametrize("look", NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_a_transaction_without_changes_costs_no_commit(disk_broker: mqlite.Broker, look: Callable[[mqlite.Transaction, mqlite.Broker], object]) -> None:
    disk_broker.queue("q")
    disk_broker.topic("events")
    disk_broker.table("t")["k"] = 1
    with disk_broker.transaction() as tx:
        tx.once("seen")
    before = commits(disk_broker)
    with disk_broker.transaction() as tx:
        look(tx, disk_broker)
    assert commits(disk_broker) == before


def test_transactions_one_after_the_other_see_each_other(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    for number in range(5):
        with broker.transaction() as tx:
            table = tx.table("t")
            table["sum"] = table.get("sum", 0) + number
            q.put(number, tx=tx)
    assert (broker.table("t")["sum"], got(q)) == (10, [0, 1, 2, 3, 4])


def test_two_open_transactions_do_not_touch_each_other(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with broker.transaction() as one:
        with broker.transaction() as other:
            q.put("one", tx=one)
            q.put("other", tx=other)
            one.table("t")["one"] = 1
            other.table("t")["other"] = 2
            assert "one" not in other.table("t")
        assert [message.body for message in q.browse()] == ["other"]
    assert ([message.body for message in q.browse()], dict(broker.table("t"))) == (["other", "one"], {"one": 1, "other": 2})


# ---------------------------------------------------------------------- no lock
def test_while_a_transaction_is_open_others_go_on(broker: mqlite.Broker, in_thread: InThread) -> None:
    everything = Everything(broker)

    def work() -> None:
        everything.out.put("between")
        broker.table("everything")["kept"] = 5
        with broker.transaction() as tx:
            everything.out.put("in another", tx=tx)
        assert everything.out.get(timeout=0) == "between"
        assert broker.check() == []

    with broker.transaction() as tx:
        everything.stage(tx)
        in_thread(work).result(GUARD)
    assert got(everything.out) == ["in another", "new", "and", "more"]
    assert broker.table("everything")["kept"] == 5


def test_a_queue_can_be_made_while_a_transaction_is_open(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        broker.queue("a").put(1, tx=tx)
        broker.queue("b").put(2, tx=tx)
    assert (got(broker.queue("a")), got(broker.queue("b"))) == ([1], [2])


# ---------------------------------------------------------------------- finished
@ends
@staging
def test_nothing_can_be_staged_in_a_finished_transaction(broker: mqlite.Broker, stage: Callable[[Bench, Any], object], end: Callable[[mqlite.Transaction], object]) -> None:
    bench = Bench(broker)
    tx = broker.transaction()
    end(tx)
    with pytest.raises(mqlite.Closed):
        stage(bench, tx)
    assert counts(bench.queue) == (0, 0, 0, 0)
    bench.message.ack()


@ends
@uses
def test_a_finished_transaction_cannot_be_used(broker: mqlite.Broker, use: Callable[[mqlite.Transaction, mqlite.Table], object], end: Callable[[mqlite.Transaction], object]) -> None:
    broker.table("t")["k"] = 1
    tx = broker.transaction()
    table = tx.table("t")
    assert table["k"] == 1
    end(tx)
    with pytest.raises(mqlite.Closed):
        use(tx, table)
    assert dict(broker.table("t")) == {"k": 1}


def test_iterators_of_a_finished_transaction_give_nothing_more(broker: mqlite.Broker) -> None:
    broker.table("t").update({number: number for number in range(1000)})
    tx = broker.transaction()
    iterators = [iter(tx.table("t")), iter(tx.table("t").items()), tx.table("t").range(0, 1000)]
    for iterator in iterators:
        next(iterator)
    tx.rollback()
    for iterator in iterators:
        with pytest.raises(mqlite.Closed):
            list(iterator)


@ends
def test_a_rollback_of_a_finished_transaction_does_nothing(broker: mqlite.Broker, end: Callable[[mqlite.Transaction], object]) -> None:
    everything = Everything(broker)
    tx = broker.transaction()
    everything.stage(tx)
    end(tx)
    before = [(receipt.done, receipt.error) for receipt in everything.receipts]
    tx.rollback()
    tx.rollback()
    assert [(receipt.done, receipt.error) for receipt in everything.receipts] == before
    if everything.receipts[0].error is None:
        everything.assert_all_happened()
    else:
        everything.assert_nothing_happened()
        everything.settle()


# ---------------------------------------------------------------------- wrong transactions
@staging
def test_a_transaction_of_another_store_is_refused(broker: mqlite.Broker, stage: Callable[[Bench, Any], object]) -> None:
    bench = Bench(broker)
    with mqlite.open() as foreign, foreign.transaction() as tx:
        with pytest.raises(ValueError, match="another store"):
            stage(bench, tx)
        assert tx.is_open
    assert counts(bench.queue) == (0, 0, 0, 0)
    bench.message.ack()
    assert counts(bench.work) == (0, 0, 0, 0)


@staging
@pytest.mark.parametrize("wrong", ["tx", 1, True, object(), mqlite.Transaction], ids=["str", "int", "bool", "object", "class"])
def test_what_is_no_transaction_is_refused(broker: mqlite.Broker, stage: Callable[[Bench, Any], object], wrong: Any) -> None:
    bench = Bench(broker)
    with pytest.raises(TypeError):
        stage(bench, wrong)
    assert counts(bench.queue) == (0, 0, 0, 0)
    bench.message.ack()
    assert counts(bench.work) == (0, 0, 0, 0)


def test_none_is_no_transaction_and_everything_is_done_at_once(broker: mqlite.Broker) -> None:
    bench = Bench(broker)
    assert type(bench.queue.put("x", tx=None)) is int
    assert [type(number) for number in bench.queue.put_many(["y"], tx=None)] == [int]
    assert isinstance(bench.topic.publish("x", tx=None), mqlite.Published)
    bench.message.ack(tx=None)
    assert (counts(bench.queue), counts(bench.work)) == ((2, 0, 0, 0), (0, 0, 0, 0))


def test_a_transaction_of_another_handle_on_the_same_store_is_welcome(path: str) -> None:
    with mqlite.open(path) as one, mqlite.open(path) as other, mqlite.Queue[Any]("q", path) as q, mqlite.Topic[Any]("events", path) as topic:
        sub = topic.subscribe("s")
        with one.transaction() as tx:
            other.queue("q").put(1, tx=tx)
            q.put(2, tx=tx)
            topic.publish(3, tx=tx)
        assert (got(q), got(sub)) == ([1, 2], [3])
        assert one.check() == []


def test_a_transaction_cannot_be_pickled(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx, pytest.raises(TypeError):
        pickle.dumps(tx)


@pytest.mark.parametrize(("options", "error"), [({"timeout": -1}, ValueError), ({"timeout": "1"}, TypeError), ({"timeout": True}, TypeError), ({"timeout": float("nan")}, ValueError), ({"check_reads": 1}, TypeError), ({"wait": 1}, TypeError)])
def test_bad_options_are_refused_at_once(broker: mqlite.Broker, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        broker.transaction(**options)


def test_options_are_named(broker: mqlite.Broker) -> None:
    with pytest.raises(TypeError):
        broker.transaction(1.0)  # type: ignore[misc]


def test_a_closed_broker_begins_no_transaction() -> None:
    broker = mqlite.open()
    broker.close()
    with pytest.raises(mqlite.Closed):
        broker.transaction()
    with pytest.raises(mqlite.Closed):
        broker.run(lambda tx: None)


# ---------------------------------------------------------------------- threads
def test_a_transaction_may_be_used_by_any_thread(broker: mqlite.Broker, in_thread: InThread) -> None:
    everything = Everything(broker)
    tx = broker.transaction()
    in_thread(everything.stage, tx).result(GUARD)
    in_thread(tx.commit).result(GUARD)
    everything.assert_all_happened()


def test_threads_that_stage_in_one_transaction_lose_nothing(broker: mqlite.Broker, in_thread: InThread) -> None:
    q = broker.queue("q")
    start = threading.Barrier(4)
    tx = broker.transaction()

    def stage(thread: int) -> list[mqlite.Receipt]:
        start.wait(GUARD)
        receipts = []
        for number in range(50):
            receipts.append(q.put([thread, number], tx=tx))
            tx.table("t")[thread * 1000 + number] = number
        return receipts

    futures = [in_thread(stage, thread) for thread in range(4)]
    receipts = [receipt for future in futures for receipt in future.result(GUARD)]
    tx.commit()
    bodies = [message.body for message in q.browse()]
    assert sorted(bodies) == [[thread, number] for thread in range(4) for number in range(50)]
    for thread in range(4):
        assert [number for owner, number in bodies if owner == thread] == list(range(50))
    assert len(broker.table("t")) == 200
    assert len({receipt.result() for receipt in receipts}) == 200


def test_of_threads_that_commit_one_transaction_one_does(broker: mqlite.Broker, in_thread: InThread) -> None:
    q = broker.queue("q")
    for _ in range(10):
        tx = broker.transaction()
        q.put(1, tx=tx)
        start = threading.Barrier(4)

        def commit(tx: mqlite.Transaction = tx, start: threading.Barrier = start) -> None:
            start.wait(GUARD)
            tx.commit()

        outcomes = [future.exception(GUARD) for future in [in_thread(commit) for _ in range(4)]]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Closed", "Closed", "Closed", "NoneType"]
        assert got(q) == [1]


# ---------------------------------------------------------------------- receipts
def test_a_receipt_has_the_id_after_the_commit(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx:
        receipts = [q.put("a", tx=tx), q.put_nowait("b", tx=tx), *q.put_many(["c", "d"], tx=tx)]
        assert all(type(receipt) is mqlite.Receipt for receipt in receipts)
    assert [receipt.result() for receipt in receipts] == [message.id for message in q.browse()]
    assert [(receipt.done, receipt.error, receipt.item) for receipt in receipts] == [(True, None, item) for item in "abcd"]
    assert receipts[0].result(timeout=0) == receipts[0].result(None)


def test_a_receipt_is_of_the_class_that_producers_give(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with q.producer() as producer, broker.transaction() as tx:
        assert type(producer.put(1)) is type(q.put(2, tx=tx)) is mqlite.Receipt


def test_before_the_commit_a_receipt_has_no_result(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    item = ["x"]
    with broker.transaction() as tx:
        receipt = q.put(item, tx=tx)
        assert (receipt.done, receipt.error) == (False, None)
        assert receipt.item is item
        for result in (lambda: receipt.result(), lambda: receipt.result(timeout=0)):
            with pytest.raises(mqlite.NotCommitted):
                result()
    assert receipt.result() == q.peek()[0].id


@pytest.mark.parametrize("how", ["rollback", "exception"])
def test_after_a_rollback_a_receipt_says_so(broker: mqlite.Broker, how: str) -> None:
    q = broker.queue("q")
    receipt = None

    def work() -> None:
        nonlocal receipt
        with broker.transaction() as tx:
            receipt = q.put("x", tx=tx)
            if how == "rollback":
                tx.rollback()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert receipt is not None
    assert (receipt.done, type(receipt.error), receipt.item) == (True, mqlite.NotCommitted, "x")
    with pytest.raises(mqlite.NotCommitted):
        receipt.result()


def test_after_a_failed_commit_a_receipt_has_its_error(broker: mqlite.Broker) -> None:
    everything = Everything(broker)
    q = broker.queue("full", maxsize=1)
    q.put("full")
    tx = broker.transaction()
    everything.stage(tx)
    receipts = [*everything.receipts, q.put("one more", tx=tx)]
    with pytest.raises(mqlite.Full) as caught:
        tx.commit()
    for receipt in receipts:
        assert receipt.done
        assert receipt.error is caught.value
        with pytest.raises(mqlite.Full):
            receipt.result()
    everything.settle()


def test_new_errors_are_errors_of_this_package() -> None:
    assert issubclass(mqlite.NotCommitted, mqlite.MqliteError)
    assert issubclass(mqlite.Conflict, mqlite.MqliteError)


# ---------------------------------------------------------------------- a commit that fails changes nothing
def _shut(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    q = broker.queue("shut")
    q.put(1, tx=tx)
    q.shutdown()


def _full(broker: mqlite.Broker, tx: mqlite.Transaction, overflow: str = "block") -> None:
    q = broker.queue("full", maxsize=1, overflow=overflow)
    q.put(1, tx=tx)
    q.put(0)


def _lease_lost(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    q = broker.queue("lost")
    q.put(1)
    with q.consumer() as consumer:
        consumer.receive(0).ack(tx=tx)


def _conflict(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    assert "x" not in tx.table("read")
    broker.table("read")["x"] = 1


def _expected(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    tx.expect("expected", "x", version=0)
    broker.table("expected")["x"] = 1


def _once(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    assert tx.once("first")
    with broker.transaction() as other:
        assert other.once("first")


def _unroutable(broker: mqlite.Broker, tx: mqlite.Transaction) -> None:
    broker.topic("deserted").publish("x", mandatory=True, tx=tx)


FAILURES: dict[str, tuple[Callable[[mqlite.Broker, mqlite.Transaction], None], type[Exception]]] = {
    "shutdown": (_shut, mqlite.ShutDown),
    "full": (_full, mqlite.Full),
    "full and reject": (lambda broker, tx: _full(broker, tx, "reject"), mqlite.Full),
    "lease lost": (_lease_lost, mqlite.LeaseLost),
    "conflict": (_conflict, mqlite.Conflict),
    "expectation": (_expected, mqlite.Conflict),
    "once": (_once, mqlite.Conflict),
    "unroutable": (_unroutable, mqlite.Unroutable),
}


@pytest.mark.parametrize("late", [False, True], ids=["staged before", "staged after"])
@pytest.mark.parametrize(("fail", "error"), FAILURES.values(), ids=FAILURES.keys())
def test_a_commit_that_fails_changes_nothing_at_all(broker: mqlite.Broker, fail: Callable[[mqlite.Broker, mqlite.Transaction], None], error: type[Exception], late: bool) -> None:
    everything = Everything(broker)
    tx = broker.transaction()

    def work() -> None:
        with tx:
            for stage in (fail, lambda broker, tx: everything.stage(tx)) if late else (lambda broker, tx: everything.stage(tx), fail):
                stage(broker, tx)

    with pytest.raises(error):
        work()
    everything.assert_nothing_happened()
    assert not tx.is_open
    with pytest.raises(mqlite.Closed):
        tx.commit()
    tx.rollback()
    everything.settle()


@pytest.mark.parametrize(("fail", "error"), FAILURES.values(), ids=FAILURES.keys())
def test_a_block_whose_commit_fails_raises_it(broker: mqlite.Broker, fail: Callable[[mqlite.Broker, mqlite.Transaction], None], error: type[Exception]) -> None:
    with pytest.raises(error), broker.transaction() as tx:
        fail(broker, tx)
    assert not tx.is_open


@pytest.mark.parametrize(("fail", "error"), FAILURES.values(), ids=FAILURES.keys())
def test_a_commit_that_fails_costs_no_commit(disk_broker: mqlite.Broker, fail: Callable[[mqlite.Broker, mqlite.Transaction], None], error: type[Exception]) -> None:
    tx = disk_broker.transaction()
    disk_broker.queue("out").put(1, tx=tx)
    fail(disk_broker, tx)
    before = commits(disk_broker)
    with pytest.raises(error):
        tx.commit()
    assert commits(disk_broker) == before


# ---------------------------------------------------------------------- what is wrong is told at once
def test_a_body_that_cannot_be_stored_is_told_at_once_and_the_rest_goes_on(disk_broker: mqlite.Broker) -> None:
    q = disk_broker.queue("q", max_message_bytes=10)
    topic = disk_broker.topic("events", max_message_bytes=10)
    sub = topic.subscribe("s")
    with disk_broker.transaction() as tx:
        q.put("a", tx=tx)
        for stage in (lambda: q.put(object(), tx=tx), lambda: q.put_many(["x", object()], tx=tx), lambda: topic.publish(object(), tx=tx), lambda: topic.publish_many(["x", object()], tx=tx)):
            with pytest.raises(mqlite.CodecError):
                stage()
        for stage in (lambda: q.put("x" * 11, tx=tx), lambda: q.put_many(["x", "x" * 11], tx=tx), lambda: topic.publish("x" * 11, tx=tx), lambda: topic.publish_many(["x", "x" * 11], tx=tx)):
            with pytest.raises(mqlite.MessageTooLarge):
                stage()
        topic.publish("b", tx=tx)
    assert (got(q), got(sub)) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": "high"}, TypeError),
        ({"priority": 2**31}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": 1, "eta": 1.0}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"group": ""}, ValueError),
        ({"dedup_id": 5}, TypeError),
        ({"headers": {"a": object()}}, mqlite.CodecError),
        ({"nonsense": 1}, TypeError),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value.__name__,
)
def test_bad_options_of_a_put_are_told_at_once(broker: mqlite.Broker, options: dict[str, Any], error: type[Exception]) -> None:
    q, topic = broker.queue("q"), broker.topic("events")
    with broker.transaction() as tx:
        for stage in (q.put, topic.publish):
            with pytest.raises(error):
                stage("x", tx=tx, **options)
        q.put("y", tx=tx)
    assert got(q) == ["y"]


@pytest.mark.parametrize("timeout", [0, 1.0])
def test_a_put_in_a_transaction_has_no_timeout(broker: mqlite.Broker, timeout: float) -> None:
    q, topic = broker.queue("q"), broker.topic("events")
    with broker.transaction() as tx:
        for stage in (
            lambda: q.put(1, timeout=timeout, tx=tx),
            lambda: q.put(1, True, timeout, tx=tx),
            lambda: q.put_many([1], timeout=timeout, tx=tx),
            lambda: topic.publish(1, timeout=timeout, tx=tx),
            lambda: topic.publish_many([1], timeout=timeout, tx=tx),
        ):
            with pytest.raises(TypeError, match="timeout"):
                stage()
    assert (counts(q), topic.stats().published) == ((0, 0, 0, 0), 0)


def test_a_put_in_a_transaction_may_say_that_it_does_not_wait(broker: mqlite.Broker) -> None:
    q, topic = broker.queue("q"), broker.topic("events")
    sub = topic.subscribe("s")
    with broker.transaction() as tx:
        q.put(1, block=False, tx=tx)
        q.put(2, False, tx=tx)
        q.put(3, timeout=None, tx=tx)
        q.put_many([4], block=False, tx=tx)
        topic.publish(5, block=False, tx=tx)
        topic.publish_many([6], block=False, timeout=None, tx=tx)
    assert (got(q), got(sub)) == ([1, 2, 3, 4], [5, 6])


# ---------------------------------------------------------------------- order
def test_what_was_staged_first_is_delivered_first(broker: mqlite.Broker) -> None:
    q, topic, other = broker.queue("q"), broker.topic("events"), broker.topic("more")
    topic.bind(q)
    other.bind(q)
    q.put("before")
    with broker.transaction() as tx:
        q.put(1, tx=tx)
        topic.publish(2, tx=tx)
        q.put_many([3, 4], tx=tx)
        other.publish(5, tx=tx)
        topic.publish_many([6, 7], tx=tx)
        q.put(8, tx=tx)
    q.put("after")
    assert got(q) == ["before", 1, 2, 3, 4, 5, 6, 7, 8, "after"]


def test_within_a_transaction_higher_priorities_are_delivered_first(broker: mqlite.Broker) -> None:
    q, topic = broker.queue("q"), broker.topic("events")
    topic.bind(q)
    with broker.transaction() as tx:
        for number in range(9):
            if number % 2:
                q.put(number, priority=number % 3, tx=tx)
            else:
                topic.publish(number, priority=number % 3, tx=tx)
    assert got(q) == [2, 5, 8, 1, 4, 7, 0, 3, 6]


def test_ids_within_a_queue_grow_in_the_order_of_staging(broker: mqlite.Broker) -> None:
    q, other = broker.queue("q"), broker.queue("other")
    with broker.transaction() as tx:
        receipts = [q.put(1, tx=tx)]
        other.put(2, tx=tx)
        receipts += [*q.put_many([3, 4], tx=tx), q.put(5, tx=tx)]
    ids = [receipt.result() for receipt in receipts]
    assert ids == sorted(set(ids)) == [message.id for message in q.browse()]
