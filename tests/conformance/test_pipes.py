"""A pipe: what is made of a message is stored in the commit that acknowledges it, whatever happens meanwhile."""

# ruff: noqa: F811
from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixture_types import Eventually, InThread, UntilWaiting
from hand_clock import HandClock
from topic_things import got, messages
from transaction_things import GUARD, broker, commits, counts, disk_broker, looks, timed_broker  # noqa: F401

import mqlite
from mqlite.claims import Kind

Tx = mqlite.Transaction


@pytest.fixture
def source(broker: mqlite.Broker) -> mqlite.Queue[Any]:
    return broker.queue("source")


@pytest.fixture
def target(broker: mqlite.Broker) -> mqlite.Queue[Any]:
    return broker.queue("target")


def doubled(message: mqlite.Message, tx: Tx) -> Any:
    return 2 * message.body


def nothing(message: mqlite.Message, tx: Tx) -> None:
    return None


# ---------------------------------------------------------------------- what is sent on
def test_what_the_function_returns_goes_to_the_target_in_order(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put_many(range(5))
    pipe = broker.pipe(source, doubled, target)
    assert pipe.step() == 5
    assert got(target) == [0, 2, 4, 6, 8]
    assert counts(source) == (0, 0, 0, 0)
    assert pipe.stats() == mqlite.PipeStats(handled=5, emitted=5, failed=0, conflicts=0)


def test_nothing_is_sent_on_for_none(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put_many(range(3))
    pipe = broker.pipe(source, lambda message, tx: message.body if message.body else None, target)
    assert pipe.step() == 3
    assert got(target) == [1, 2]
    assert pipe.stats().emitted == 2


def test_a_list_is_one_body(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put("x")
    broker.pipe(source, lambda message, tx: [1, 2], target).step()
    assert got(target) == [[1, 2]]


def test_a_generator_gives_any_number_of_messages(broker: mqlite.Broker, source: Any, target: Any) -> None:
    def split(message: mqlite.Message, tx: Tx) -> Iterator[Any]:
        for word in message.body.split():
            yield mqlite.Emit(word, priority=1) if word == "first" else word
        yield None

    source.put_many(["a b", "", "c first"])
    pipe = broker.pipe(source, split, target)
    assert pipe.step() == 3
    assert got(target) == ["first", "a", "b", "c"]
    assert pipe.stats().emitted == 4


def test_any_iterator_is_unrolled(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put(3)
    broker.pipe(source, lambda message, tx: map(str, range(message.body)), target).step()
    assert got(target) == ["0", "1", "2"]


def test_a_body_of_none_is_sent_by_an_emit(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put("x")
    broker.pipe(source, lambda message, tx: mqlite.Emit(None), target).step()
    assert got(target) == [None]


def test_an_emit_has_the_options_of_a_put(broker: mqlite.Broker, source: Any, target: Any) -> None:
    options: dict[str, Any] = {"priority": 7, "headers": {"h": 1}, "type": "t", "group": "g", "reply_to": "r", "correlation_id": "c"}
    target.put("x", **options)
    wanted = looks(target)
    target.purge()
    source.put("x")
    broker.pipe(source, lambda message, tx: mqlite.Emit(message.body, **options), target).step()
    assert looks(target) == wanted


def test_an_emit_may_wait_expire_and_be_the_only_one(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target = timed_broker.queue("source"), timed_broker.queue("target")
    emits = {
        "late": mqlite.Emit("late", delay=10),
        "eta": mqlite.Emit("eta", eta=clock.moment(20)),
        "ttl": mqlite.Emit("ttl", ttl=5),
        "once": mqlite.Emit("once", dedup_id="d"),
        "again": mqlite.Emit("again", dedup_id="d"),
        "only": mqlite.Emit("only", unique="u", unique_states=("ready",)),
        "other": mqlite.Emit("other", unique="u", unique_states=("ready",)),
        "old": mqlite.Emit("old", replace_key="k"),
        "new": mqlite.Emit("new", replace_key="k"),
    }
    source.put_many(list(emits))
    assert timed_broker.pipe(source, lambda message, tx: emits[message.body], target).step() == len(emits)
    assert [message.body for message in target.browse()] == ["ttl", "once", "only", "new"]
    clock.pass_by(10)
    assert got(target) == ["once", "only", "new", "late"]
    clock.pass_by(10)
    assert got(target) == ["eta"]


def test_without_a_function_messages_are_passed_on_as_they_are(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put("x", priority=3, headers={"h": [1]}, type="t", group="g", reply_to="r", correlation_id="c")
    source.put("y")
    before = looks(source)
    assert broker.pipe(source, target=target).step() == 2
    assert looks(target) == before


def test_what_is_passed_on_expires_when_it_would_have(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target = timed_broker.queue("source"), timed_broker.queue("target")
    source.put("x", ttl=10)
    [before] = [message.expires_at for message in source.browse()]
    clock.pass_by(4)
    timed_broker.pipe(source, target=target).step()
    [message] = target.browse()
    assert message.expires_at == before
    clock.pass_by(7)
    assert counts(target) == (0, 0, 0, 1)


# ---------------------------------------------------------------------- topics
def test_from_a_subscription_to_a_topic_with_the_routing_keys(broker: mqlite.Broker) -> None:
    raw, clean = broker.topic("raw"), broker.topic("clean")
    sub, sink = raw.subscribe("s", "order.*"), clean.subscribe("sink")
    for key in ("order.new", "other", "order.paid"):
        raw.publish(key, key, headers={"h": 1})
    assert broker.pipe(sub, target=clean).step() == 2
    assert [(message.body, message.routing_key, message.headers) for message in messages(sink)] == [
        ("order.new", "order.new", {"h": 1}),
        ("order.paid", "order.paid", {"h": 1}),
    ]


def test_an_emit_to_a_topic_says_where_it_goes(broker: mqlite.Broker, source: Any) -> None:
    topic = broker.topic("topic")
    hot, cold = topic.subscribe("hot", "t.hot"), topic.subscribe("cold", "t.cold")
    source.put_many([10, 30, 5])
    pipe = broker.pipe(source, lambda message, tx: mqlite.Emit(message.body, routing_key="t.hot" if message.body > 20 else "t.cold", retain=True), topic)
    assert pipe.step() == 3
    assert (got(hot), got(cold)) == ([30], [10, 5])
    assert sorted(message.body for message in topic.retained()) == [5, 30]


def test_nobody_who_must_get_it_is_a_failure_of_that_message(broker: mqlite.Broker, source: Any) -> None:
    topic = broker.topic("topic")
    sub = topic.subscribe("s", "yes")
    source.configure(max_deliveries=1)
    source.put_many(["yes", "no"])
    pipe = broker.pipe(source, lambda message, tx: mqlite.Emit(message.body, routing_key=message.body, mandatory=True), topic)
    assert pipe.run_until_idle() == 2
    assert got(sub) == ["yes"]
    [dead] = source.dead.peek()
    assert dead.body == "no"
    assert dead.death.error.startswith("Unroutable")


def test_a_subscription_with_a_function_as_its_filter_gives_what_that_wants(broker: mqlite.Broker, target: Any) -> None:
    topic = broker.topic("topic")
    sub = topic.subscribe("s", filter=lambda message: message.body % 2 == 0)
    topic.publish_many(range(6))
    pipe = broker.pipe(sub, doubled, target, batch=1)
    assert pipe.run_until_idle() == 3
    assert got(target) == [0, 4, 8]


# ---------------------------------------------------------------------- one commit
def test_a_step_is_one_commit_with_all_that_the_function_does(disk_broker: mqlite.Broker) -> None:
    source, target, other = (disk_broker.queue(name) for name in ("source", "target", "other"))
    events = disk_broker.topic("events")
    sub = events.subscribe("s")

    def work(message: mqlite.Message, tx: Tx) -> Any:
        table = tx.table("sums")
        table["sum"] = table.get("sum", 0) + message.body
        other.put(-message.body, tx=tx)
        events.publish("seen", tx=tx)
        return message.body

    source.put_many(range(1, 65))
    before = commits(disk_broker)
    assert disk_broker.pipe(source, work, target).step() == 64
    assert commits(disk_broker) == before + 1
    assert disk_broker.table("sums")["sum"] == 64 * 65 // 2
    assert (len(target), len(other), len(sub), counts(source)) == (64, 64, 64, (0, 0, 0, 0))


def test_a_pipe_without_a_target_works_on_tables(broker: mqlite.Broker, source: Any) -> None:
    def count(message: mqlite.Message, tx: Tx) -> None:
        table = tx.table("words")
        table[message.body] = table.get(message.body, 0) + 1

    source.put_many(["a", "b", "a"])
    assert broker.pipe(source, count).run_until_idle() == 3
    assert dict(broker.table("words")) == {"a": 2, "b": 1}


def test_a_step_claims_no_more_than_a_batch(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put_many(range(5))
    pipe = broker.pipe(source, target=target, batch=2)
    assert [pipe.step() for _ in range(4)] == [2, 2, 1, 0]
    assert got(target) == [0, 1, 2, 3, 4]


def test_a_step_waits_for_a_message(broker: mqlite.Broker, source: Any, target: Any, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    pipe = broker.pipe(source, target=target)
    done = in_thread(pipe.step, GUARD)
    until_waiting(source)
    source.put("x")
    assert done.result(GUARD) == 1
    assert got(target) == ["x"]


# ---------------------------------------------------------------------- failures
def failing_at(bad: Any) -> Callable[[mqlite.Message, Tx], Any]:
    def work(message: mqlite.Message, tx: Tx) -> Any:
        table = tx.table("calls")
        table["n"] = table.get("n", 0) + 1
        if message.body == bad:
            raise ValueError(f"no {bad}, please")
        return message.body

    return work


def test_only_the_message_whose_call_fails_is_nacked(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.configure(max_deliveries=2)
    source.put_many(range(5))
    pipe = broker.pipe(source, failing_at(2), target)
    assert pipe.step() == 5
    assert counts(source) == (1, 0, 0, 0)
    assert pipe.step() == 1
    assert got(target) == [0, 1, 3, 4]
    assert broker.table("calls")["n"] == 4  # nothing of the calls that were done again
    [dead] = source.dead.peek()
    assert (dead.body, dead.delivery_count, dead.death.reason) == (2, 2, "max_deliveries")
    assert dead.death.error == "ValueError: no 2, please"
    assert "in work" in dead.death.traceback
    assert pipe.stats() == mqlite.PipeStats(handled=4, emitted=4, failed=2, conflicts=0)


def test_a_message_whose_call_fails_waits_as_the_backoff_says(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target = timed_broker.queue("source", backoff=[10]), timed_broker.queue("target")
    source.put_many([1, 2])
    pipe = timed_broker.pipe(source, failing_at(1), target)
    assert pipe.run_until_idle() == 2
    assert counts(source) == (0, 1, 0, 0)
    clock.pass_by(10)
    assert pipe.step() == 1
    assert counts(source) == (0, 1, 0, 0)
    clock.pass_by(10)
    assert [message.delivery_count for message in messages(source)] == [2]


def test_a_generator_that_fails_midway_leaves_nothing(broker: mqlite.Broker, source: Any, target: Any) -> None:
    closed = []

    def work(message: mqlite.Message, tx: Tx) -> Iterator[Any]:
        try:
            yield "first"
            tx.table("t")["k"] = 1
            yield mqlite.Emit("second", routing_key="of a topic")
        finally:
            closed.append(message.body)

    source.configure(max_deliveries=1)
    source.put("x")
    assert broker.pipe(source, work, target).run_until_idle() == 1
    assert (got(target), broker.tables(), closed) == ([], [], ["x"])
    [dead] = source.dead.peek()
    assert dead.death.error.startswith("TypeError")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda message, tx: mqlite.Emit("x", routing_key="k"), "TypeError"),
        (lambda message, tx: mqlite.Emit("x", retain=True), "TypeError"),
        (lambda message, tx: mqlite.Emit("x", delay=-1), "ValueError"),
        (lambda message, tx: b"x" * 100, "MessageTooLarge"),
        (lambda message, tx: iter(range(9)), "ValueError"),
        (lambda message, tx: message.ack(), "NotClaimed"),
        (lambda message, tx: message.release(), "NotClaimed"),
        (lambda message, tx: message.__enter__(), "NotClaimed"),
        (lambda message, tx: tx.table("t")["missing"], "KeyError"),
        (lambda message, tx: next(iter(())), "StopIteration"),
    ],
    ids=["routing key", "retain", "delay", "too large", "too many", "ack", "release", "with", "key", "stop"],
)
def test_what_cannot_be_done_is_a_failure_of_the_message(broker: mqlite.Broker, function: Any, error: str) -> None:
    source, target = broker.queue("source", max_deliveries=1), broker.queue("target", maxsize=8, max_message_bytes=99)
    source.put("bad")
    source.put("good")
    pipe = broker.pipe(source, lambda message, tx: "fine" if message.body == "good" else function(message, tx), target)
    assert pipe.run_until_idle() == 2
    assert got(target) == ["fine"]
    [dead] = source.dead.peek()
    assert dead.death.error.startswith(error)


def test_a_body_that_a_store_on_disk_cannot_take_is_a_failure_of_the_message(disk_broker: mqlite.Broker) -> None:
    source, target = disk_broker.queue("source", max_deliveries=1), disk_broker.queue("target")
    source.put_many([1, 2])
    assert disk_broker.pipe(source, lambda message, tx: {1} if message.body == 1 else message.body, target).run_until_idle() == 2
    assert got(target) == [2]
    [dead] = source.dead.peek()
    assert dead.death is not None
    assert dead.death.error is not None
    assert dead.death.error.startswith("CodecError")


def test_something_for_a_target_that_is_not_there_is_a_failure_of_the_message(broker: mqlite.Broker, source: Any) -> None:
    source.configure(max_deliveries=1)
    source.put("x")
    assert broker.pipe(source, doubled).run_until_idle() == 1
    [dead] = source.dead.peek()
    assert "no target" in dead.death.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_the_function_gives_all_back_without_blame(broker: mqlite.Broker, source: Any, target: Any, error: type[BaseException]) -> None:
    def work(message: mqlite.Message, tx: Tx) -> Any:
        if message.body == 2:
            raise error
        return message.body

    source.put_many(range(4))
    with pytest.raises(error):
        broker.pipe(source, work, target).step()
    assert got(target) == []
    assert [(message.body, message.delivery_count) for message in messages(source)] == [(0, 0), (1, 0), (2, 0), (3, 0)]


# ---------------------------------------------------------------------- conflicts
def test_a_conflict_has_the_step_done_anew(broker: mqlite.Broker, source: Any, target: Any) -> None:
    table, disturbances = broker.table("t"), [1, 2, 3]

    def work(message: mqlite.Message, tx: Tx) -> Any:
        mine = tx.table("t")
        mine["n"] = mine.get("n", 0) + 1
        if disturbances:
            table["n"] = 10 * disturbances.pop()
        return mine["n"]

    source.put_many(["a", "b"])
    pipe = broker.pipe(source, work, target)
    assert pipe.step() == 2
    assert got(target) == [11, 12]
    assert table["n"] == 12
    assert pipe.stats() == mqlite.PipeStats(handled=2, emitted=2, failed=0, conflicts=2)  # once by both messages, once by the first


def test_two_pipes_over_one_table_add_up(broker: mqlite.Broker, target: Any) -> None:
    def count(message: mqlite.Message, tx: Tx) -> Any:
        table = tx.table("t")
        table["n"] = table.get("n", 0) + message.body
        return message.body

    sources = [broker.queue(f"source {number}") for number in range(2)]
    for source in sources:
        source.put_many(range(100))
    pipes = [broker.pipe(source, count, target, batch=3, threads=2) for source in sources]
    for pipe in pipes:
        pipe.start()
    for source in sources:
        source.join()
    for pipe in pipes:
        pipe.close()
    assert broker.table("t")["n"] == 2 * sum(range(100))
    assert sorted(got(target)) == sorted(2 * list(range(100)))


def test_what_always_conflicts_is_a_failure_of_that_message(broker: mqlite.Broker, source: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.pipe.ATTEMPTS", 3)

    def work(message: mqlite.Message, tx: Tx) -> Any:
        if message.body == 1:
            tx.expect("t", "k", "never")
        return message.body

    source.configure(max_deliveries=1)
    source.put_many(range(3))
    pipe = broker.pipe(source, work, target)
    assert pipe.run_until_idle() == 3
    assert got(target) == [0, 2]
    [dead] = source.dead.peek()
    assert dead.death.error.startswith("Conflict")
    assert pipe.stats().conflicts == 6


# ---------------------------------------------------------------------- lost claims
def test_a_step_whose_claims_were_lost_changes_nothing_and_the_pipe_goes_on(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target = timed_broker.queue("source", ack_timeout=10), timed_broker.queue("target")
    slow = [11.0]

    def work(message: mqlite.Message, tx: Tx) -> Any:
        if slow:
            clock.pass_by(slow.pop())
            for other in source.receive(5, timeout=0):  # somebody else had them, and gave them back
                other.release()
        return message.body

    source.put_many([1, 2])
    pipe = timed_broker.pipe(source, work, target)
    assert pipe.step() == 0
    assert (counts(source), counts(target)) == ((2, 0, 0, 0), (0, 0, 0, 0))
    assert pipe.run_until_idle() == 2
    assert got(target) == [1, 2]


# ---------------------------------------------------------------------- no room
def test_a_step_without_room_raises_full_and_gives_back(broker: mqlite.Broker, source: Any) -> None:
    target = broker.queue("target", maxsize=1)
    target.put("there")
    source.put_many([1, 2])
    pipe = broker.pipe(source, target=target)
    with pytest.raises(mqlite.Full):
        pipe.step()
    assert [(message.body, message.delivery_count) for message in source.browse()] == [(1, 0), (2, 0)]
    assert counts(source) == (2, 0, 0, 0)


def test_a_step_does_what_there_is_room_for(broker: mqlite.Broker, source: Any) -> None:
    target = broker.queue("target", maxsize=5)
    source.put_many(range(12))
    pipe = broker.pipe(source, target=target)
    sizes = []
    for _ in range(3):
        sizes.append(pipe.step())
        assert got(target)[-1] == sum(sizes) - 1
    assert sizes == [5, 5, 2]


def test_a_step_waits_for_room(broker: mqlite.Broker, source: Any, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    target = broker.queue("target", maxsize=1)
    target.put("there")
    source.put("next")
    done = in_thread(broker.pipe(source, target=target).step, GUARD)
    until_waiting(target, Kind.SPACE)
    assert target.get() == "there"
    assert done.result(GUARD) == 1
    assert got(target) == ["next"]


def test_threads_wait_for_room_as_long_as_it_takes(broker: mqlite.Broker, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.pipe.SLICE", 0.01)
    target = broker.queue("target", maxsize=2)
    source.put_many(range(50))
    with broker.pipe(source, target=target, batch=8) as pipe:
        assert [target.get(timeout=GUARD) for _ in range(50)] == list(range(50))
        source.join()
    assert pipe.stats().handled == 50


def test_closing_ends_the_wait_for_room_and_gives_back(broker: mqlite.Broker, source: Any, until_waiting: UntilWaiting) -> None:
    target = broker.queue("target", maxsize=1)
    target.put("there")
    source.put_many([1, 2])
    with broker.pipe(source, target=target):
        until_waiting(target, Kind.SPACE)
    assert [(message.body, message.delivery_count) for message in messages(source)] == [(1, 0), (2, 0)]


def test_who_waits_for_room_does_not_lose_its_claims(timed_broker: mqlite.Broker, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.pipe.SLICE", 0.0)
    source, target = timed_broker.queue("source", ack_timeout=10), timed_broker.queue("target", maxsize=1)
    target.put("there")
    source.put_many([1, 2])
    turns = []
    over = threading.Event()

    def work(message: mqlite.Message, tx: Tx) -> Any:
        turns.append(message.body)
        clock.pass_by(6)
        if len(turns) > 10:
            over.set()
        return message.body

    with timed_broker.pipe(source, work, target) as pipe:
        assert over.wait(GUARD)
    assert pipe.error is None
    assert [(message.body, message.delivery_count) for message in messages(source)] == [(1, 0), (2, 0)]


# ---------------------------------------------------------------------- threads
def test_threads_work_until_the_block_is_left(broker: mqlite.Broker, source: Any, target: Any, until_waiting: UntilWaiting) -> None:
    with broker.pipe(source, doubled, target, threads=3) as pipe:
        until_waiting(source, n=3)
        source.put_many(range(200))
        source.join()
    assert sorted(got(target)) == list(range(0, 400, 2))
    assert pipe.stats().handled == 200
    assert not any(thread.name.startswith("mqlite pipe") for thread in threading.enumerate())
    source.put("later")
    with pytest.raises(mqlite.Closed):
        pipe.step()
    with pytest.raises(mqlite.Closed):
        pipe.start()
    assert counts(source) == (1, 0, 0, 0)


def test_starting_twice_starts_once(broker: mqlite.Broker, source: Any, target: Any, until_waiting: UntilWaiting) -> None:
    pipe = broker.pipe(source, target=target, threads=2).start()
    assert pipe.start() is pipe
    until_waiting(source, n=2)
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("mqlite pipe")]) == 2
    pipe.close()
    pipe.close()


def test_closing_finishes_the_step_and_takes_no_more(broker: mqlite.Broker, source: Any, target: Any, in_thread: InThread, eventually: Eventually) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def work(message: mqlite.Message, tx: Tx) -> Any:
        inside.set()
        assert go_on.wait(GUARD)
        return message.body

    source.put_many(range(5))
    pipe = broker.pipe(source, work, target, batch=2).start()
    assert inside.wait(GUARD)
    closing = in_thread(pipe.close)
    eventually(pipe._over.is_set)
    assert not closing.done()
    go_on.set()
    closing.result(GUARD)
    assert got(target) == [0, 1]
    assert got(source) == [2, 3, 4]


def test_closing_waits_for_a_step_of_another_thread(broker: mqlite.Broker, source: Any, target: Any, in_thread: InThread, eventually: Eventually) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def work(message: mqlite.Message, tx: Tx) -> Any:
        inside.set()
        assert go_on.wait(GUARD)
        return message.body

    source.put("x")
    pipe = broker.pipe(source, work, target)
    step = in_thread(pipe.step)
    assert inside.wait(GUARD)
    closing = in_thread(pipe.close)
    eventually(pipe._over.is_set)
    go_on.set()
    closing.result(GUARD)
    assert step.result(GUARD) == 1


def test_a_function_may_close_its_pipe(broker: mqlite.Broker, source: Any, target: Any, eventually: Eventually) -> None:
    def work(message: mqlite.Message, tx: Tx) -> Any:
        pipe.close()
        return message.body

    source.put_many([1, 2])
    pipe = broker.pipe(source, work, target, batch=1).start()
    eventually(lambda: len(target) == 1)
    pipe.close()
    assert (got(target), got(source)) == ([1], [2])


def test_closing_ends_a_step_that_waits(broker: mqlite.Broker, source: Any, target: Any, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    pipe = broker.pipe(source, target=target)
    step = in_thread(pipe.step, None)
    until_waiting(source)
    pipe.close()
    assert step.result(GUARD) == 0


def test_closing_one_pipe_leaves_another_of_the_same_source_waiting(broker: mqlite.Broker, source: Any, target: Any, until_waiting: UntilWaiting) -> None:
    with broker.pipe(source, target=target) as other:
        with broker.pipe(source, target=target):
            until_waiting(source, n=2)
        source.put("x")
        assert target.get(timeout=GUARD) == "x"
        source.join()
    assert other.stats().handled == 1


# ---------------------------------------------------------------------- the end of the source, and errors
def test_a_source_that_is_shut_down_is_emptied_and_ends_the_threads(broker: mqlite.Broker, source: Any, target: Any, eventually: Eventually) -> None:
    source.put_many(range(5))
    source.shutdown()
    with broker.pipe(source, doubled, target, batch=2) as pipe:
        for thread in pipe._threads:
            thread.join(GUARD)
    assert got(target) == [0, 2, 4, 6, 8]
    assert pipe.error is None


def test_a_step_of_a_source_that_is_shut_down_and_empty_says_so(broker: mqlite.Broker, source: Any, target: Any) -> None:
    source.put("x")
    source.shutdown()
    pipe = broker.pipe(source, target=target)
    assert pipe.run_until_idle() == 1
    with pytest.raises(mqlite.ShutDown):
        pipe.step()


def break_target(target: Any) -> None:
    target.shutdown()


def close_target(target: Any) -> None:
    target.close()


@pytest.mark.parametrize(("end", "error"), [(break_target, mqlite.ShutDown), (close_target, mqlite.Closed)])
def test_a_target_that_takes_no_more_ends_the_pipe_and_all_is_given_back(broker: mqlite.Broker, source: Any, target: Any, end: Any, error: type[Exception]) -> None:
    source.put_many([1, 2])
    end(target)
    pipe = broker.pipe(source, target=target, threads=2).start()
    for thread in pipe._threads:
        thread.join(GUARD)
    assert isinstance(pipe.error, error)
    assert [(message.body, message.delivery_count) for message in source.browse()] == [(1, 0), (2, 0)]
    assert counts(source) == (2, 0, 0, 0)
    with pytest.raises(mqlite.Closed, match=error.__name__):
        pipe.step()
    with pytest.raises(error):
        pipe.close()
    pipe.close()  # it was told


def test_a_pipe_whose_source_was_closed_ends(broker: mqlite.Broker, source: Any, target: Any, until_waiting: UntilWaiting) -> None:
    pipe = broker.pipe(source, target=target).start()
    until_waiting(source)
    source.close()
    for thread in pipe._threads:
        thread.join(GUARD)
    with pytest.raises(mqlite.Closed, match="queue 'source' was closed"):
        pipe.close()




@pytest.mark.parametrize("end", [lambda tx: tx.commit(), lambda tx: tx.rollback()], ids=["commit", "rollback"])
def test_a_function_that_ends_its_transaction_is_told_off(broker: mqlite.Broker, source: Any, target: Any, end: Any) -> None:
    source.put("x")
    with pytest.raises(mqlite.Closed, match="leave that to the pipe"):
        broker.pipe(source, lambda message, tx: end(tx), target).step()


def test_an_error_of_the_block_is_not_hidden_by_that_of_the_pipe(broker: mqlite.Broker, source: Any, target: Any) -> None:
    target.close()
    source.put("x")
    pipe = broker.pipe(source, target=target)

    def work() -> None:
        with pipe:
            for thread in pipe._threads:
                thread.join(GUARD)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert isinstance(pipe.error, mqlite.Closed)


def test_a_broker_closes_its_pipes_first(path: str, until_waiting: UntilWaiting) -> None:
    broker = mqlite.open(path)
    source, target = broker.queue("source"), broker.queue("target")
    pipe = broker.pipe(source, target=target, threads=2).start()
    until_waiting(source, n=2)
    broker.close()
    assert pipe.error is None
    assert not any(thread.is_alive() for thread in pipe._threads)


def test_a_broker_tells_why_a_pipe_has_ended_when_all_is_closed(path: str) -> None:
    broker = mqlite.open(path)
    source, target = broker.queue("source"), broker.queue("target")
    source.put("x")
    target.close()
    pipe = broker.pipe(source, target=target).start()
    for thread in pipe._threads:
        thread.join(GUARD)
    with pytest.raises(mqlite.Closed, match="queue 'target' was closed"):
        broker.close()
    assert source.is_closed
    with mqlite.open(path) as again:
        assert got(again.queue("source")) == ["x"]


# ---------------------------------------------------------------------- processes
def test_a_forked_child_has_no_threads_and_can_step(path: str, children: Any) -> None:
    with mqlite.open(path) as broker:
        source, target = broker.queue("source"), broker.queue("target")
        pipe = broker.pipe(source, doubled, target)
        before = broker.pipe(broker.queue("other"), doubled, target).start()

        def child(talk: Any) -> None:
            talk.say([len(before._threads), pipe.step(GUARD)])
            with pipe:
                talk.say(target.get(timeout=GUARD))
                talk.hear()
            broker.close()

        forked = children.fork(child)
        source.put(4)
        assert forked.hear() == [0, 1]
        assert forked.hear() == 8
        source.put(5)
        assert target.get(timeout=GUARD) == 10  # by the threads that it has started
        forked.say("end")
        forked.end()
        before.close()
        assert broker.check() == []


def test_a_pipe_cannot_be_pickled(broker: mqlite.Broker, source: Any, target: Any) -> None:
    with pytest.raises(TypeError, match=r"call broker\.pipe there"):
        pickle.dumps(broker.pipe(source, target=target))


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"source": "source"}, TypeError),
        ({"source": None}, TypeError),
        ({"target": "target"}, TypeError),
        ({"function": "f"}, TypeError),
        ({"function": None, "target": None}, ValueError),
        ({"batch": 0}, ValueError),
        ({"batch": 1.5}, TypeError),
        ({"threads": 0}, ValueError),
        ({"threads": True}, TypeError),
        ({"name": 7}, TypeError),
        ({"name": ""}, ValueError),
        ({"window": 60, "function": None}, TypeError),
        ({"window": mqlite.TumblingWindow(60), "name": "w"}, ValueError),
        ({"window": mqlite.TumblingWindow(60), "function": None}, ValueError),
        ({"window": mqlite.TumblingWindow(60, table="t"), "function": None, "target": None}, ValueError),
    ],
)
def test_bad_arguments_are_told_at_once(broker: mqlite.Broker, source: Any, target: Any, change: dict[str, Any], error: type[Exception]) -> None:
    given: dict[str, Any] = {"source": source, "function": doubled, "target": target, **change}
    with pytest.raises(error):
        broker.pipe(given.pop("source"), given.pop("function"), given.pop("target"), **given)


def test_an_async_function_is_refused(broker: mqlite.Broker, source: Any, target: Any) -> None:
    async def work(message: mqlite.Message, tx: Tx) -> None:
        pass

    with pytest.raises(TypeError, match="async"):
        broker.pipe(source, work, target)


def test_a_subscription_is_no_target(broker: mqlite.Broker, source: Any) -> None:
    sub = broker.topic("events").subscribe("s")
    with pytest.raises(TypeError, match="'events'"):
        broker.pipe(source, target=sub)


def test_all_are_of_one_store(broker: mqlite.Broker, source: Any, target: Any) -> None:
    with mqlite.open() as other:
        for wrong in (other.queue("q"), other.topic("t")):
            with pytest.raises(ValueError, match="another store"):
                broker.pipe(source, target=wrong)
        with pytest.raises(ValueError, match="another store"):
            broker.pipe(other.queue("q"), nothing)


def test_a_closed_broker_makes_no_pipe(path: str) -> None:
    broker = mqlite.open(path)
    source = broker.queue("source")
    broker.close()
    with pytest.raises(mqlite.Closed):
        broker.pipe(source, nothing)
