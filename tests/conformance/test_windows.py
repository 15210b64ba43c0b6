"""Tumbling windows: every message is in one result, whatever the order of events, of batches and of closings."""

# ruff: noqa: F811
from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from hand_clock import NOON, HandClock
from hypothesis import given, settings
from hypothesis import strategies as st
from topic_things import got
from transaction_things import GUARD, broker, commits, counts, disk_broker, timed_broker  # noqa: F401

import mqlite
from mqlite import TumblingWindow
from mqlite.store import open_store

#: (key, value, at)
Event = list[Any]


def key(message: mqlite.Message) -> str:
    return str(message.body[0])


def value(message: mqlite.Message) -> Any:
    return message.body[1]


def at(message: mqlite.Message) -> Any:
    return message.body[2]


def window(size: float = 10, **options: Any) -> TumblingWindow:
    """Of events: [key, value, at]."""
    return TumblingWindow(size, **{"key": key, "value": value, "at": at, **options})


def piped(broker: mqlite.Broker, counted: TumblingWindow, **options: Any) -> tuple[mqlite.Queue[Any], mqlite.Queue[Any], mqlite.Pipe]:
    """(source, target, the pipe between them)."""
    source, target = broker.queue("source"), broker.queue("target")
    return source, target, broker.pipe(source, target=target, window=counted, name="w", **options)


def result(start: float, end: float, key: str, values: list[Any], late: bool = False) -> dict[str, Any]:
    return {"start": start, "end": end, "key": key, "count": len(values), "sum": sum(values), "min": min(values), "max": max(values), "late": late}


def rows(broker: mqlite.Broker, table: str = "windows of w") -> int:
    """How many windows are open, each with its keys."""
    return sum(1 for _ in broker.table(table).range(b""))


# ---------------------------------------------------------------------- what is counted
def test_an_event_after_the_end_closes_the_window(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target, pipe = piped(timed_broker, window())
    source.put_many([["a", 1, NOON + 0], ["b", 5, NOON + 2], ["a", 4, NOON + 9.999], ["a", 2, NOON + 1]])
    assert pipe.step() == 4
    assert (len(target), rows(timed_broker)) == (0, 2)
    source.put(["c", 7, NOON + 10])
    assert pipe.step() == 1
    assert got(target) == [result(NOON, NOON + 10, "a", [1, 4, 2]), result(NOON, NOON + 10, "b", [5])]
    assert rows(timed_broker) == 1
    assert pipe.stats() == mqlite.PipeStats(handled=5, emitted=2, failed=0, conflicts=0)


def test_by_default_messages_are_counted_by_their_routing_keys_when_they_were_put(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    topic, target = timed_broker.topic("topic"), timed_broker.queue("target")
    sub = topic.subscribe("s")
    pipe = timed_broker.pipe(sub, target=target, window=TumblingWindow(60), name="w")
    for routing_key in ("x", "", "x"):
        topic.publish("body", routing_key)
    clock.pass_by(60)
    topic.publish("body")
    assert pipe.step() == 4
    assert got(target) == [result(NOON, NOON + 60, "", [1]), result(NOON, NOON + 60, "x", [1, 1])]


@pytest.mark.parametrize(
    ("moment", "start"),
    [
        (0, 0),
        (9.999999, 0),
        (10, 10),
        (-1e-6, -10),
        (datetime(1970, 1, 1, 0, 0, 19, 999999, UTC), 10),
        (datetime(1970, 1, 1, 1, 0, 20, tzinfo=timezone(timedelta(hours=1))), 20),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), -10),
        (NOON + 0.5, NOON),
    ],
)
def test_moments_are_datetimes_or_epoch_seconds(broker: mqlite.Broker, moment: Any, start: int) -> None:
    source = broker.queue("source")
    source.put("x")
    [message] = source.receive(timeout=0)
    counted = TumblingWindow(10, at=lambda message: moment, table="t")
    with broker.transaction() as tx:
        counted.add(tx, message)
        message.ack(tx=tx)
        assert counted.next_close(tx) == start + 10
        assert [each.start for each in counted.close_until(tx, start + 9.999999)] == []
        assert [each.start for each in counted.close_until(tx, start + 10)] == [start]
        assert counted.next_close(tx) is None


def test_decimal_moments_and_sizes_meet_their_boundaries(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    counted = TumblingWindow(0.1, at=lambda message: message.body / 10 + 1.7e9, table="t")
    source.put_many(range(100))
    with broker.transaction() as tx:
        messages = source.receive(100, timeout=0)
        counted.add_many(tx, messages)
        source.ack_many(messages, tx=tx)
        results = list(counted.close_until(tx, 2e9))
    assert [each.count for each in results] == [1] * 100


def test_whole_numbers_stay_exact_and_floats_floats(timed_broker: mqlite.Broker) -> None:
    source, target, pipe = piped(timed_broker, window())
    source.put_many([["big", 2**80, 0], ["big", 1, 0], ["float", 0.5, 0], ["mixed", 1, 0], ["mixed", 0.5, 0]])
    assert pipe.step() == 5
    source.put_many([["big", -(2**90), 1], ["mixed", 3, 0]])
    assert pipe.run_until_idle() == 2
    found = {each["key"]: each for each in got(target)}
    assert found["big"]["sum"] == 2**80 + 1 - 2**90
    assert (found["big"]["min"], found["big"]["max"]) == (-(2**90), 2**80)
    assert found["float"]["sum"] == 0.5
    assert (found["mixed"]["sum"], found["mixed"]["min"], found["mixed"]["max"]) == (4.5, 0.5, 3)
    assert {name: type(each["sum"]) for name, each in found.items()} == {"big": int, "float": float, "mixed": float}


# ---------------------------------------------------------------------- grace, lateness, the clock
def test_a_window_stays_open_for_its_grace(timed_broker: mqlite.Broker) -> None:
    source, target, pipe = piped(timed_broker, window(grace=5))
    source.put_many([["a", 1, NOON], ["a", 2, NOON + 14.9]])
    assert pipe.step() == 2
    source.put(["a", 4, NOON + 9])
    assert pipe.step() == 1
    assert len(target) == 0
    source.put(["a", 8, NOON + 15])
    assert pipe.step() == 1
    assert got(target) == [result(NOON, NOON + 10, "a", [1, 4])]


def test_a_late_message_makes_another_result_of_its_window(timed_broker: mqlite.Broker) -> None:
    source, target, pipe = piped(timed_broker, window())
    source.put_many([["a", 1, NOON], ["a", 2, NOON + 10]])
    pipe.step()
    assert got(target) == [result(NOON, NOON + 10, "a", [1])]
    source.put_many([["a", 4, NOON + 5], ["b", 8, NOON + 6], ["a", 16, NOON + 7]])
    pipe.step()
    assert got(target) == [result(NOON, NOON + 10, "a", [4, 16], late=True), result(NOON, NOON + 10, "b", [8], late=True)]
    assert rows(timed_broker) == 1


def test_what_is_counted_together_is_not_late_for_each_other(timed_broker: mqlite.Broker) -> None:
    source, target, pipe = piped(timed_broker, window())
    source.put_many([["a", 1, NOON + 10], ["a", 2, NOON]])
    pipe.step()
    assert got(target) == [result(NOON, NOON + 10, "a", [2])]


def test_an_idle_pipe_closes_windows_by_the_clock(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target, pipe = piped(timed_broker, window(grace=2))
    source.put_many([["a", 1, NOON], ["b", 2, NOON + 10]])
    pipe.step()
    for seconds, found in ((11.9, []), (0.1, [result(NOON, NOON + 10, "a", [1])]), (9.9, []), (0.1, [result(NOON + 10, NOON + 20, "b", [2])])):
        clock.pass_by(seconds)
        assert pipe.step() == 0
        assert got(target) == found
    source.put_many([["a", 4, NOON + 10], ["a", 8, NOON + 20]])
    pipe.step()
    assert got(target) == [result(NOON + 10, NOON + 20, "a", [4], late=True)]
    assert rows(timed_broker) == 1


def test_a_pipe_that_has_messages_closes_nothing_by_the_clock(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    source, target, pipe = piped(timed_broker, window(), batch=1)
    source.put_many([["a", 1, NOON], ["a", 2, NOON + 1]])
    clock.pass_by(100)
    assert (pipe.step(), len(target)) == (1, 0)
    assert (pipe.step(), len(target)) == (1, 0)
    assert pipe.step() == 0
    assert got(target) == [result(NOON, NOON + 10, "a", [1, 2])]


def test_an_idle_pipe_with_nothing_to_close_commits_nothing(disk_broker: mqlite.Broker) -> None:
    source, _, pipe = piped(disk_broker, window())
    source.put(["a", 1, 4e9])
    pipe.step()
    before = commits(disk_broker)
    assert [pipe.step() for _ in range(3)] == [0, 0, 0]
    assert commits(disk_broker) == before


def test_threads_close_a_window_when_its_time_has_come(broker: mqlite.Broker) -> None:
    source, target, pipe = piped(broker, TumblingWindow(0.05, grace=0.01), threads=2)
    with pipe:
        source.put_many(["x"] * 10)
        count = 0
        while count < 10:
            count += target.get(timeout=GUARD)["count"]
    assert count == 10


def test_threads_close_what_others_have_left(broker: mqlite.Broker) -> None:
    source, target, pipe = piped(broker, window())
    source.put(["a", 1, 100])
    assert pipe.step() == 1  # and dies
    with broker.pipe(source, target=target, window=window(), name="w"):
        assert target.get(timeout=GUARD) == result(100, 110, "a", [1])


def test_a_source_that_is_shut_down_has_its_windows_closed_by_the_clock(broker: mqlite.Broker) -> None:
    source, target, pipe = piped(broker, window())
    source.put(["a", 1, 100])
    source.shutdown()
    assert pipe.run_until_idle() == 1
    assert got(target) == [result(100, 110, "a", [1])]


# ---------------------------------------------------------------------- results
def test_a_result_may_become_something_else(timed_broker: mqlite.Broker) -> None:
    topic, source = timed_broker.topic("topic"), timed_broker.queue("source")
    sub = topic.subscribe("s", "total.*")

    def total(found: mqlite.WindowResult) -> Any:
        return mqlite.Emit([found.key, found.sum], routing_key=f"total.{found.key}", priority=1) if found.sum > 1 else None

    pipe = timed_broker.pipe(source, target=topic, window=window(result=total), name="w")
    source.put_many([["a", 1, 0], ["b", 2, 0]])
    assert pipe.run_until_idle() == 2
    assert [(message.body, message.routing_key, message.priority) for message in sub.receive(9, timeout=0)] == [(["b", 2], "total.b", 1)]
    assert pipe.stats().emitted == 1


def test_many_results_are_sent_in_batches_in_the_order_of_the_windows(broker: mqlite.Broker) -> None:
    source, target, pipe = piped(broker, window(), batch=7)
    source.put_many([[f"k{number % 10}", 1, 10 * (number // 10)] for number in range(100)])
    assert pipe.run_until_idle() == 100
    found = [(each["start"], each["key"]) for each in got(target)]
    assert found == sorted(found)
    assert len(found) == 100


def test_results_wait_for_room_and_none_is_lost(broker: mqlite.Broker) -> None:
    source, target = broker.queue("source"), broker.queue("target", maxsize=3)
    pipe = broker.pipe(source, target=target, window=window(), name="w")
    source.put_many([[f"k{number}", 1, 0] for number in range(10)])
    assert pipe.step() == 10
    assert pipe.step() == 0
    assert (len(target), rows(broker)) == (3, 7)
    found = []
    while len(found) < 10:
        found += [each["key"] for each in got(target)]
        assert pipe.step() == 0
    assert found == [f"k{number}" for number in range(10)]
    assert rows(broker) == 0


def test_threads_wait_for_room_for_results(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqlite.pipe.SLICE", 0.01)
    source, target = broker.queue("source"), broker.queue("target", maxsize=1)
    source.put_many([[f"k{number}", 1, 0] for number in range(10)])
    with broker.pipe(source, target=target, window=window(), name="w"):
        assert [target.get(timeout=GUARD)["key"] for _ in range(10)] == [f"k{number}" for number in range(10)]


def test_a_result_that_cannot_be_made_ends_the_pipe_and_is_made_later(broker: mqlite.Broker) -> None:
    def wrong(found: mqlite.WindowResult) -> Any:
        raise ZeroDivisionError

    source, target, pipe = piped(broker, window(result=wrong))
    source.put(["a", 1, 0])
    assert pipe.step() == 1
    with pytest.raises(ZeroDivisionError):
        pipe.step()
    assert (counts(source), rows(broker)) == ((0, 0, 0, 0), 1)
    assert broker.pipe(source, target=target, window=window(), name="w").run_until_idle() == 0
    assert got(target) == [result(0, 10, "a", [1])]


# ---------------------------------------------------------------------- failures
@pytest.mark.parametrize(
    "bad",
    [
        {"key": lambda message: message.body[9]},
        {"key": lambda message: 7},
        {"key": lambda message: "k" * 500},
        {"value": lambda message: "1"},
        {"value": lambda message: True},
        {"value": lambda message: math.nan},
        {"value": lambda message: math.inf},
        {"at": lambda message: "noon"},
        {"at": lambda message: datetime(2020, 1, 1)},
        {"at": lambda message: math.inf},
        {"at": lambda message: 1e10},
    ],
)
def test_only_the_message_that_cannot_be_counted_is_nacked(broker: mqlite.Broker, bad: dict[str, Any]) -> None:
    [(name, function)] = bad.items()
    good = {"key": key, "value": value, "at": at}[name]
    source, target = broker.queue("source", max_deliveries=1), broker.queue("target")
    counted = window(**{name: lambda message: function(message) if message.body[0] == "bad" else good(message)})
    source.put_many([["a", 1, 0], ["bad", 2, 0], ["a", 4, 0]])
    assert broker.pipe(source, target=target, window=counted, name="w").run_until_idle() == 3
    assert got(target) == [result(0, 10, "a", [1, 4])]
    assert [message.body[0] for message in source.dead.browse()] == ["bad"]


def test_windows_of_another_size_need_another_table(broker: mqlite.Broker) -> None:
    source, target, pipe = piped(broker, window())
    source.put(["a", 1, 0])
    pipe.step()
    with pytest.raises(mqlite.SettingsMismatch, match=r"windows of 10 seconds, not of 20"):
        broker.pipe(source, target=target, window=window(20), name="w")
    with broker.transaction() as tx, pytest.raises(mqlite.SettingsMismatch):
        window(20, table="windows of w").close_until(tx)
    broker.pipe(source, target=target, window=window(20), name="other")


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (["60"], {}, TypeError),
        ([None], {}, TypeError),
        ([True], {}, TypeError),
        ([0], {}, ValueError),
        ([-1], {}, ValueError),
        ([math.inf], {}, ValueError),
        ([1e-10], {}, ValueError),
        ([60], {"grace": -1}, ValueError),
        ([60], {"grace": "1"}, TypeError),
        ([60], {"grace": None}, TypeError),
        ([60], {"grace": math.inf}, ValueError),
        ([60], {"key": "k"}, TypeError),
        ([60], {"value": 1}, TypeError),
        ([60], {"at": 0}, TypeError),
        ([60], {"result": {}}, TypeError),
        ([60], {"table": ""}, ValueError),
        ([60], {"table": 7}, TypeError),
    ],
)
def test_bad_arguments_are_told_at_once(arguments: list[Any], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TumblingWindow(*arguments, **options)


# ---------------------------------------------------------------------- without a pipe
def test_a_window_is_used_in_a_transaction_of_ones_own(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    counted = window(table="counts")
    source.put_many([["a", 1, 0], ["a", 2, 5], ["b", 4, 9], ["a", 8, 20]])
    messages = source.receive(4, timeout=0)
    with broker.transaction() as tx:
        for message in messages:
            counted.add(tx, message)
        source.ack_many(messages, tx=tx)
    assert rows(broker, "counts") == 3
    with broker.transaction() as tx:
        assert counted.next_close(tx) == 10
        assert [each.as_dict() for each in counted.close_until(tx, 9)] == []
        assert [each.as_dict() for each in counted.close_until(tx, datetime.fromtimestamp(10, UTC), limit=1)] == [result(0, 10, "a", [1, 2])]
        assert [each.as_dict() for each in counted.close_until(tx)] == [result(0, 10, "b", [4])]
        assert list(counted.close_until(tx)) == []
        assert list(counted.close_until(tx, 30)) == [mqlite.WindowResult(**result(20, 30, "a", [8]))]
    assert rows(broker, "counts") == 0


def test_what_was_rolled_back_was_not_counted(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    source.put(["a", 1, 0])
    [message] = source.receive(timeout=0)
    counted = window(table="counts")
    with broker.transaction() as tx:
        counted.add(tx, message)
        tx.rollback()
    assert broker.tables() == []
    message.ack()


def test_results_are_closed_though_nobody_looks_at_them(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    source.put(["a", 1, 0])
    counted = window(table="counts")
    with broker.transaction() as tx, source.receive(timeout=0)[0] as message:
        counted.add(tx, message)
    with broker.transaction() as tx:
        counted.close_until(tx, 10)
    assert rows(broker, "counts") == 0


def test_nobody_counts_into_a_window_that_is_closed_meanwhile(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    source.put_many([["a", 1, 0], ["b", 2, 5]])
    first, second = source.receive(2, timeout=0)
    counted = window(table="counts")
    with broker.transaction() as tx:
        counted.add(tx, first)
        first.ack(tx=tx)
    adding = broker.transaction()
    counted.add(adding, second)
    second.ack(tx=adding)
    with broker.transaction() as tx:
        assert len(list(counted.close_until(tx, 10))) == 1
    with pytest.raises(mqlite.Conflict):
        adding.commit()
    with broker.transaction() as tx:
        counted.add(tx, second)
        second.ack(tx=tx)
        assert [each.late for each in counted.close_until(tx)] == [True]


def test_two_who_close_one_window_give_one_result(broker: mqlite.Broker) -> None:
    source = broker.queue("source")
    source.put(["a", 1, 0])
    [message] = source.receive(timeout=0)
    counted = window(table="counts")
    with broker.transaction() as tx:
        counted.add(tx, message)
        message.ack(tx=tx)
    one, other = broker.transaction(), broker.transaction()
    assert len(list(counted.close_until(one, 10))) == len(list(counted.close_until(other, 10))) == 1
    one.commit()
    with pytest.raises(mqlite.Conflict):
        other.commit()


def test_without_a_pipe_a_window_needs_a_table_and_a_transaction(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        with pytest.raises(ValueError, match="table="):
            window().close_until(tx)
        with pytest.raises(TypeError):
            window(table="t").close_until(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit"):
            window(table="t").close_until(tx, limit=0)
        with pytest.raises(TypeError):
            window(table="t").close_until(tx, "noon")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- together
def test_several_pipes_and_threads_count_every_message_once(broker: mqlite.Broker, in_thread: InThread, eventually: Eventually) -> None:
    source, target = broker.queue("source"), broker.queue("target")
    pipes = [broker.pipe(source, target=target, window=window(), name="w", threads=2, batch=5).start() for _ in range(2)]
    wanted: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number in range(300):
        moment, name = number // 10, f"k{number % 3}"
        wanted[moment // 10 * 10, name].append(number)
        source.put([name, number, moment])
    source.join()
    eventually(lambda: rows(broker) == 0)
    for pipe in pipes:
        pipe.close()
    found: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in got(target):
        found[each["start"], each["key"]][0] += each["count"]
        found[each["start"], each["key"]][1] += each["sum"]
    assert dict(found) == {where: [len(values), sum(values)] for where, values in wanted.items()}


EVENTS = st.lists(st.tuples(st.sampled_from(["", "a", "é\x00b", "k"]), st.integers(-(2**70), 2**70), st.integers(-50, 50)), max_size=12)
STEPS = st.lists(st.one_of(EVENTS, st.floats(0, 40), st.none()), max_size=12)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, size=st.sampled_from([1, 7, 0.5, 10]), grace=st.sampled_from([0, 3]), batch=st.integers(1, 5))
def test_any_order_of_events_batches_and_closings_gives_the_sums_of_a_plain_computation(steps: list[Any], size: float, grace: float, batch: int) -> None:
    """A list: these events come; a number: a step, after the clock has gone on; None: a step."""
    clock = HandClock(wall=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mqlite.broker.open_store", lambda path, **options: open_store(path, clock=clock))
        broker = mqlite.open()
    counted = window(size, grace=grace)
    source, target, pipe = piped(broker, counted, batch=batch)
    wanted: dict[tuple[float, str], list[int]] = defaultdict(list)
    results = []
    for step in steps:
        if isinstance(step, list):
            for name, number, moment in step:
                wanted[moment // size * size, name].append(number)
                source.put([name, number, moment])
            continue
        if step is not None:
            clock.pass_by(step)
        pipe.step()
        results += got(target)
    pipe.run_until_idle()
    clock.pass_by(1000)
    pipe.run_until_idle()
    results += got(target)
    found: dict[tuple[float, str], list[dict[str, Any]]] = defaultdict(list)
    for each in results:
        assert each["end"] == each["start"] + size
        found[each["start"], each["key"]].append(each)
    assert found.keys() == wanted.keys()
    for where, values in wanted.items():
        parts = found[where]
        assert sum(part["count"] for part in parts) == len(values)
        assert sum(part["sum"] for part in parts) == sum(values)
        assert (min(part["min"] for part in parts), max(part["max"] for part in parts)) == (min(values), max(values))
        assert [part["late"] for part in parts[1:]] == [True] * (len(parts) - 1)
    assert rows(broker) == 0
    assert broker.check() == []
    broker.close()
