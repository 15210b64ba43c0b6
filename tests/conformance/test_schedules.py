"""Messages that come again and again: each firing is one message, on time, however the clocks jump and whoever looks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from contents import fill, taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import NOON, SECOND, HandClock, timed_queue

import mqlite
from mqlite.claims import Kind

HOUR = 3600
BERLIN = ZoneInfo("Europe/Berlin")


def moment(seconds: float) -> datetime:
    """So many seconds after noon."""
    return datetime.fromtimestamp(NOON, UTC) + timedelta(seconds=seconds)


def next_at(queue: mqlite.Queue[Any]) -> datetime:
    """When the one schedule of the queue fires next."""
    [schedule] = queue.schedules()
    return schedule.next_at


# ---------------------------------------------------------------------- every
def test_a_schedule_fires_again_and_again(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    for _ in range(3):
        clock.pass_by(9.999)
        assert taken(q) == []
        clock.pass_by(0.001)
        assert taken(q) == ["t"]


def test_the_first_firing_is_one_interval_from_now(timed: MakeQueue) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    assert next_at(q) == moment(10)


@pytest.mark.parametrize("start", [NOON + 60, NOON + 60.0, moment(60), moment(60).astimezone(timezone(timedelta(hours=-7)))])
def test_a_start_is_the_first_firing(timed: MakeQueue, clock: HandClock, start: Any) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, start=start)
    assert next_at(q) == moment(60)
    clock.pass_by(59.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert (taken(q), next_at(q)) == (["t"], moment(70))


def test_a_start_that_has_passed_says_only_where_it_counts_from(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, start=NOON - 33, catch_up="all")
    assert next_at(q) == moment(7)
    clock.pass_by(6.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["t"]


@pytest.mark.parametrize("every", [0.1, 1 / 3, 7, 0.001])
def test_firings_do_not_drift_however_late_anybody_looks(timed: MakeQueue, clock: HandClock, every: float) -> None:
    q = timed()
    q.schedule("tick", "t", every=every, start=NOON + 1)
    step = round(every * SECOND)
    clock.monotonic += SECOND
    clock.wall += SECOND
    for number in range(1, 60):
        assert taken(q) == ["t"]
        [schedule] = q.schedules()
        expected = moment(1) + timedelta(microseconds=number * step // 1000)
        assert abs(schedule.next_at - expected) <= timedelta(microseconds=1)
        late = (number * 7919) % step  # somewhere before the next but one
        now_ns = SECOND + number * step + late
        clock.monotonic, clock.wall = 1000 * SECOND + now_ns, NOON * SECOND + now_ns


def test_a_short_interval_gives_each_of_its_firings_when_all_are_caught_up(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=0.1, catch_up="all")
    count = 0
    for _ in range(50):
        clock.pass_by(0.37)
        count += len(taken(q))
    assert count == 185


# ---------------------------------------------------------------------- what was missed
def test_one_message_stands_for_all_that_were_missed(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    clock.pass_by(10_005)
    assert (taken(q), next_at(q)) == (["t"], moment(10_010))


def test_each_that_was_missed_is_made_up_for(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.pass_by(35)
    assert (taken(q), next_at(q)) == (["t"] * 3, moment(40))


def test_many_that_were_missed_are_made_up_for_at_once(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=1, catch_up="all")
    clock.pass_by(1300.5)
    assert (q.qsize(), len(taken(q)), next_at(q)) == (1300, 1300, moment(1301))


def test_what_is_over_a_minute_late_is_left_out(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=1000, catch_up="skip")
    clock.pass_by(1061)
    assert (taken(q), next_at(q)) == ([], moment(2000))
    clock.pass_by(939 + 60)
    assert (taken(q), next_at(q)) == (["t"], moment(3000))


def test_only_the_latest_of_those_that_were_missed_can_be_on_time(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=1000, catch_up="skip")
    clock.pass_by(5001)
    assert (taken(q), next_at(q)) == (["t"], moment(6000))


# ---------------------------------------------------------------------- by name
def test_the_same_name_replaces(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "old", every=10)
    clock.pass_by(5)
    q.schedule("tick", "new", every=20)
    [schedule] = q.schedules()
    assert (schedule.name, schedule.every, schedule.next_at) == ("tick", 20, moment(25))
    clock.pass_by(19.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["new"]


def test_the_same_name_replaces_one_kind_by_the_other(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "old", every=10)
    q.schedule("tick", "new", cron="0 * * * *")
    clock.pass_by(HOUR)
    [schedule] = q.schedules()
    assert (taken(q), schedule.every, schedule.cron) == (["new"], None, "0 * * * *")


OPTIONS: dict[str, Any] = {"every": 10, "catch_up": "all", "priority": 2, "headers": {"a": 1}, "type": "t", "ttl": 5, "group": "g"}


def test_an_identical_one_is_left_alone(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", {"a": [1]}, **OPTIONS)
    clock.pass_by(7)
    q.schedule("tick", {"a": [1]}, **OPTIONS)
    assert next_at(q) == moment(10)
    clock.pass_by(5)
    assert len(taken(q)) == 1
    q.schedule("tick", {"a": [1]}, **OPTIONS)
    assert next_at(q) == moment(20)


def test_an_identical_one_with_a_start_is_left_alone(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, start=NOON + 5)
    clock.pass_by(6)
    assert taken(q) == ["t"]
    q.schedule("tick", "t", every=10, start=NOON + 5)
    assert (taken(q), next_at(q)) == ([], moment(15))


def test_an_identical_one_with_cron_is_left_alone_after_the_clock_was_set_back(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("hourly", "h", cron="0 * * * *")
    clock.pass_by(HOUR)
    assert taken(q) == ["h"]
    clock.set_wall(-HOUR / 2)
    q.schedule("hourly", "h", cron="0  *  * * *")
    clock.pass_by(HOUR / 2)
    assert taken(q) == []


@pytest.mark.parametrize(
    "change",
    [{"every": 11}, {"catch_up": "one"}, {"priority": 3}, {"headers": {"a": 2}}, {"headers": None}, {"type": "u"}, {"ttl": 6}, {"group": "h"}, {"start": NOON + 60}],
    ids=str,
)
def test_whatever_differs_replaces(timed: MakeQueue, clock: HandClock, change: dict[str, Any]) -> None:
    q = timed()
    q.schedule("tick", "t", **OPTIONS)
    clock.pass_by(7)
    q.schedule("tick", "t", **{**OPTIONS, **change})
    assert next_at(q) in (moment(17), moment(18), moment(60))


def test_an_unscheduled_one_fires_no_more(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    q.schedule("tock", "o", every=10)
    clock.pass_by(10)
    assert q.qsize() == 2
    assert (q.unschedule("tick"), q.unschedule("tick"), q.unschedule("never")) == (True, False, False)
    clock.pass_by(10)
    assert sorted(taken(q)) == ["o", "o", "t"]
    assert [s.name for s in q.schedules()] == ["tock"]


def test_an_unscheduled_one_is_not_made_up_for(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.pass_by(50)
    assert q.unschedule("tick")
    assert (taken(q), q.stats().ready) == ([], 0)


def test_a_name_can_be_used_again(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    clock.pass_by(5)
    q.unschedule("tick")
    q.schedule("tick", "t", every=10)
    assert next_at(q) == moment(15)


def test_schedules_are_listed_with_the_next_to_fire_first(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    assert q.schedules() == []
    q.schedule("slow", 1, every=100, catch_up="skip")
    q.schedule("nightly", 2, cron="30 2 * * *", zone="Europe/Berlin", catch_up="all")
    q.schedule("fast", 3, every=7)
    listed = [(s.name, s.every, s.cron, s.zone, s.catch_up) for s in q.schedules()]
    assert listed == [("fast", 7.0, None, "UTC", "one"), ("slow", 100.0, None, "UTC", "skip"), ("nightly", None, "30 2 * * *", "Europe/Berlin", "all")]
    assert [s.next_at for s in q.schedules()] == [moment(7), moment(100), datetime(2027, 1, 16, 2, 30, tzinfo=BERLIN)]
    clock.pass_by(98)
    assert sorted(taken(q)) == [3]
    assert [(s.name, s.next_at) for s in q.schedules()][:2] == [("slow", moment(100)), ("fast", moment(105))]


def test_next_at_is_in_the_zone_of_the_schedule(timed: MakeQueue) -> None:
    q = timed()
    q.schedule("berlin", 1, cron="30 9 * * *", zone="Europe/Berlin")
    assert next_at(q).isoformat() == "2027-01-15T09:30:00+01:00"


def test_many_schedules_fire_side_by_side(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    for number in range(700):
        q.schedule(f"s{number}", number, every=10)
    clock.pass_by(10)
    assert sorted(taken(q)) == list(range(700))
    clock.pass_by(10)
    assert sorted(taken(q)) == list(range(700))


def test_the_same_name_in_another_queue_is_another_schedule(make_queue: MakeQueue) -> None:
    a, b = make_queue("a"), make_queue("b")
    a.schedule("tick", 1, every=1000)
    b.schedule("tick", 2, every=2000)
    assert a.unschedule("tick")
    assert (a.schedules(), [s.every for s in b.schedules()]) == ([], [2000.0])


# ---------------------------------------------------------------------- the message of a firing
def test_each_firing_is_a_message_of_its_own(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", {"a": 1}, every=10, priority=3, headers={"h": "x"}, type="t", group="g")
    clock.pass_by(10)
    [first] = q.receive(timeout=0)
    assert (first.body, first.priority, first.headers, first.type, first.group) == ({"a": 1}, 3, {"h": "x"}, "t", "g")
    assert (first.enqueued_at, first.delivery_count, first.acquired_count, first.expires_at) == (moment(10), 0, 1, None)
    first.ack()
    clock.pass_by(10)
    [second] = q.receive(timeout=0)
    assert (second.body, second.headers, second.enqueued_at) == ({"a": 1}, {"h": "x"}, moment(20))
    assert second.id > first.id
    second.ack()


def test_a_firing_lines_up_at_its_priority(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("plain")
    q.schedule("high", "high", every=10, priority=1)
    q.schedule("low", "low", every=10, priority=-1)
    clock.pass_by(10)
    assert taken(q) == ["high", "plain", "low"]


def test_the_ttl_of_a_firing_counts_from_the_firing(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, ttl=5)
    clock.pass_by(10)
    [shown] = q.peek()
    assert shown.expires_at == moment(15)
    clock.pass_by(5)
    assert (q.qsize(), q.stats().dead) == (0, 1)
    clock.pass_by(5)
    assert taken(q) == ["t"]


def test_the_ttl_of_the_queue_is_for_firings_too(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ttl=5, expired="drop")
    q.schedule("tick", "t", every=10)
    clock.pass_by(10)
    assert q.qsize() == 1
    clock.pass_by(5)
    assert q.qsize() == 0
    clock.pass_by(5)
    assert taken(q) == ["t"]


def test_firings_of_a_group_are_in_flight_one_at_a_time(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, group="g", catch_up="all")
    q.put("other", group="g")
    clock.pass_by(20)
    [first] = q.receive(10, timeout=0)
    assert first.body == "other"
    first.ack()
    [second] = q.receive(10, timeout=0)
    second.ack()
    assert taken(q) == ["t"]


def test_a_schedule_of_a_group_does_not_hold_the_group_up(timed: MakeQueue) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, group="g")
    q.put("now", group="g")
    assert taken(q) == ["now"]


@pytest.mark.parametrize("options", [{"order": "lifo"}, {"aging": 1.0}, {"fair": True}, {"rate": (1000, 1)}, {"overflow": "reject"}, {"maxbytes": 10_000}], ids=str)
def test_every_kind_of_queue_has_schedules(timed: MakeQueue, clock: HandClock, options: dict[str, Any]) -> None:
    q = timed(**options)
    q.schedule("tick", "t", every=10, catch_up="all", priority=1)
    clock.pass_by(20)
    assert (q.qsize(), taken(q)) == (2, ["t", "t"])
    clock.pass_by(10)
    assert taken(q) == ["t"]


def test_a_group_is_refused_in_a_queue_that_knows_none(timed: MakeQueue) -> None:
    q = timed(order="lifo")
    with pytest.raises(ValueError, match="group"):
        q.schedule("tick", "t", every=10, group="g")
    assert q.schedules() == []


def test_a_firing_that_fails_is_retried_and_dies_like_any_message(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(max_deliveries=2)
    q.schedule("tick", "t", every=10, headers={"a": 1})
    clock.pass_by(10)
    q.receive(timeout=0)[0].nack(delay=1)
    assert q.stats().delayed == 1
    clock.pass_by(1)
    q.receive(timeout=0)[0].nack()
    [m] = q.dead.peek()
    assert m.death is not None
    assert (m.body, m.headers, m.death.reason) == ("t", {"a": 1}, "max_deliveries")
    assert q.redrive() == 1
    assert (taken(q), next_at(q)) == (["t"], moment(20))


@pytest.mark.parametrize("take", ["get", "receive", "consumer", "auto_ack", "qsize", "stats", "peek", "browse", "broker"])
def test_whoever_looks_fires(timed: MakeQueue, clock: HandClock, take: str) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    clock.pass_by(10)
    looks: dict[str, Callable[[], object]] = {
        "get": lambda: q.get(timeout=0),
        "receive": lambda: q.receive(timeout=0)[0].body,
        "consumer": lambda: q.consumer(prefetch=5).receive(0).body,
        "auto_ack": lambda: q.consumer(auto_ack=True).receive(0).body,
        "qsize": lambda: "t" * q.qsize(),
        "stats": lambda: "t" * q.stats().ready,
        "peek": lambda: q.peek()[0].body,
        "browse": lambda: next(q.browse()).body,
        "broker": lambda: "t" * (not q.empty()),
    }
    assert looks[take]() == "t"
    assert next_at(q) == moment(20)


# ---------------------------------------------------------------------- what does not count
def test_a_schedule_is_no_message(timed: MakeQueue) -> None:
    q = timed(maxsize=1)
    q.schedule("tick", "t" * 100, every=10)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead, stats.bytes, stats.oldest_age) == (0, 0, 0, 0, 0, None)
    assert (q.qsize(), q.empty(), q.full(), q.unfinished_tasks, q.peek(), list(q.browse())) == (0, True, False, 0, [], [])
    q.join()
    q.put("x", timeout=0)
    assert (q.qsize(), q.full(), q.unfinished_tasks) == (1, True, 1)


def test_a_schedule_that_fired_is_no_message_either(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t" * 100, every=10)
    for _ in range(3):
        clock.pass_by(10)
        q.receive(timeout=0)[0].ack()
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.bytes, q.unfinished_tasks) == (0, 0, 0, 0, 0)
    q.join()


def test_a_replaced_and_an_unscheduled_one_leave_nothing_behind(timed: MakeQueue) -> None:
    q = timed()
    q.schedule("tick", "t" * 100, every=10, ttl=1, group="g")
    q.schedule("tick", "u", every=20)
    assert q.unschedule("tick")
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.bytes, q.unfinished_tasks) == (0, 0, 0, 0)


def test_purge_leaves_schedules(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    q.put("now")
    q.put("later", delay=100)
    assert (q.purge(), q.purge(), q.stats().delayed) == (2, 0, 0)
    clock.pass_by(10)
    assert taken(q) == ["t"]


def test_purge_takes_what_was_fired(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.pass_by(35)
    assert q.qsize() == 3
    assert (q.purge(), taken(q), next_at(q)) == (3, [], moment(40))


# ---------------------------------------------------------------------- room
def test_a_firing_waits_for_room(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=1)
    q.put("x")
    q.schedule("tick", "t", every=10)
    clock.pass_by(10)
    assert (q.qsize(), q.unfinished_tasks) == (1, 1)
    assert (taken(q), next_at(q)) == (["x", "t"], moment(20))


def test_firings_never_overfill_a_queue(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=3)
    q.schedule("tick", "t", every=10, catch_up="all")
    q.schedule("tock", "o", every=10)
    most = 0
    for _ in range(10):
        clock.pass_by(10)
        most = max(most, q.qsize())
    assert most == 3


def test_more_missed_firings_than_there_is_room_for_come_as_room_is_made(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=3)
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.pass_by(75)
    assert q.qsize() == 3
    assert (taken(q), next_at(q)) == (["t"] * 7, moment(80))


def test_firings_keep_to_maxbytes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxbytes=1000)
    q.schedule("tick", "t" * 300, every=10, catch_up="all")
    clock.pass_by(50)
    stats = q.stats()
    assert stats.ready >= 1
    assert stats.bytes <= 1000
    assert len(taken(q)) == 5


def test_firings_that_skip_are_left_out_where_they_find_no_room_in_time(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=1)
    q.put("x")
    q.schedule("tick", "t", every=1000, catch_up="skip")
    clock.pass_by(1000)
    assert q.qsize() == 1
    clock.pass_by(61)
    assert (taken(q), next_at(q)) == (["x"], moment(2000))


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter"])
def test_a_firing_drops_nothing_to_make_room(timed: MakeQueue, clock: HandClock, overflow: str) -> None:
    q = timed(maxsize=1, overflow=overflow)
    q.put("x")
    q.schedule("tick", "t", every=10)
    clock.pass_by(10)
    assert (q.qsize(), q.stats().dead) == (1, 0)
    assert taken(q) == ["x", "t"]


def test_other_schedules_fire_beside_one_that_finds_no_room(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=2)
    q.put("x")
    q.schedule("tick", "t", every=10)
    q.schedule("tock", "o", every=11)
    clock.pass_by(12)
    assert q.qsize() == 2
    assert sorted(taken(q)) == ["o", "t", "x"]


def test_a_firing_in_a_full_store_is_made_up_for_when_there_is_room(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock, max_store_bytes=24 << 20) as q:
        q.schedule("tick", b"t" * 100_000, every=10, catch_up="all")
        fill(q, b"x" * 100_000)
        clock.pass_by(3005)
        ticks = 0
        while q.qsize():
            ticks += q.get(timeout=0)[:1] == b"t"
        assert (ticks, next_at(q), q.check()) == (300, moment(3010), [])


def test_a_paused_queue_collects_its_firings(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    q.pause()
    clock.pass_by(20)
    assert (q.qsize(), taken(q)) == (2, [])
    q.resume()
    assert taken(q) == ["t", "t"]


def test_a_shut_down_queue_gets_no_more_firings(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.pass_by(10)
    assert q.qsize() == 1
    q.shutdown()
    clock.pass_by(20)
    assert q.get(timeout=0) == "t"
    with pytest.raises(mqlite.ShutDown):
        q.get(timeout=0)


# ---------------------------------------------------------------------- stored
def test_schedules_survive_a_restart(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock) as q:
        q.schedule("tick", {"a": 1}, every=10, priority=2, headers={"h": 1}, type="t", catch_up="all", ttl=100, group="g")
        q.schedule("nightly", "n", cron="0 * * * *", zone="Europe/Berlin")
        before = q.schedules()
        clock.pass_by(3)
    with timed_queue(path, clock) as q:
        assert q.schedules() == before
        q.schedule("tick", {"a": 1}, every=10, priority=2, headers={"h": 1}, type="t", catch_up="all", ttl=100, group="g")
        assert q.schedules() == before
        clock.pass_by(17)
        [m] = q.receive(timeout=0)
        assert (m.body, m.priority, m.headers, m.type, m.group, m.expires_at) == ({"a": 1}, 2, {"h": 1}, "t", "g", moment(120))
        m.ack()
        assert (taken(q), q.check()) == ([{"a": 1}], [])


@pytest.mark.parametrize(("catch_up", "count"), [("one", 1), ("all", 7), ("skip", 0)])
def test_what_was_missed_while_the_store_was_closed_is_caught_up(path: str, clock: HandClock, catch_up: str, count: int) -> None:
    with timed_queue(path, clock) as q:
        q.schedule("tick", "t", every=100, catch_up=catch_up)
    clock.pass_by(770)
    with timed_queue(path, clock) as q:
        assert (taken(q), next_at(q)) == (["t"] * count, moment(800))


@pytest.mark.parametrize("monotonic", [5.0, 1e6])
@pytest.mark.parametrize(("catch_up", "count"), [("one", 1), ("all", 7), ("skip", 0)])
def test_schedules_go_on_by_the_wall_clock_after_a_reboot(path: str, monotonic: float, catch_up: str, count: int) -> None:
    with timed_queue(path, HandClock(NOON, 5000)) as q:
        q.schedule("tick", "t", every=100, catch_up=catch_up)
        q.schedule("hourly", "h", cron="0 * * * *")
    shutil.rmtree(os.path.join(path, "run"))  # as after a reboot
    clock = HandClock(NOON + 770, monotonic)
    with timed_queue(path, clock) as q:
        assert (taken(q), q.schedules()[0].next_at, q.schedules()[1].next_at) == (["t"] * count, moment(800), moment(HOUR))
        clock.pass_by(30)
        assert (taken(q), q.check()) == (["t"], [])


def test_a_firing_that_was_not_taken_is_there_after_a_restart(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock) as q:
        q.schedule("tick", "t", every=10)
        clock.pass_by(10)
        assert q.qsize() == 1
    with timed_queue(path, clock) as q:
        assert (taken(q), next_at(q)) == (["t"], moment(20))


# ---------------------------------------------------------------------- clocks that jump
@pytest.mark.parametrize("jump", [-86400, 86400])
def test_an_interval_takes_its_time_whatever_the_wall_clock_does(timed: MakeQueue, clock: HandClock, jump: float) -> None:
    q = timed()
    q.schedule("tick", "t", every=10, catch_up="all")
    clock.set_wall(jump)
    clock.pass_by(9.999)
    assert taken(q) == []
    clock.pass_by(0.001)
    assert taken(q) == ["t"]


def test_a_wall_clock_that_is_set_back_fires_nothing_twice(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("hourly", "h", cron="0 * * * *", catch_up="all")
    clock.pass_by(2 * HOUR)
    assert taken(q) == ["h", "h"]
    clock.set_wall(-3 * HOUR)
    fired = []
    for _ in range(8):
        clock.pass_by(HOUR / 2)
        fired.append(len(taken(q)))
    assert fired == [0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(("catch_up", "late", "count"), [("one", 90, 1), ("all", 90, 5), ("skip", 90, 0), ("skip", 30, 1)])
def test_a_wall_clock_that_is_set_forward_fires_what_was_passed_over(timed: MakeQueue, clock: HandClock, catch_up: str, late: float, count: int) -> None:
    q = timed()
    q.schedule("hourly", "h", cron="0 * * * *", catch_up=catch_up)
    clock.set_wall(5 * HOUR + late)
    assert (taken(q), next_at(q)) == (["h"] * count, moment(6 * HOUR))


# ---------------------------------------------------------------------- cron
def fired_at(q: mqlite.Queue[Any], clock: HandClock, step: float, count: int) -> list[datetime]:
    """When messages came, looked for every `step` seconds."""
    found = []
    for _ in range(count):
        clock.pass_by(step)
        while q.qsize():
            [m] = q.receive(timeout=0)
            found.append(m.enqueued_at)
            m.ack()
    return found


def test_cron_fires_at_its_times(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("offices", "o", cron="*/30 9-10 * * MON-FRI")
    found = fired_at(q, clock, 300, 4 * 24 * 12)
    times = [(9, 0), (9, 30), (10, 0), (10, 30)]
    assert found == [datetime(2027, 1, day, hour, minute, tzinfo=UTC) for day in (15, 18) for hour, minute in times]  # a Friday and a Monday


def test_cron_does_not_fire_before_its_start(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("hourly", "h", cron="0 * * * *", start=moment(2 * HOUR))
    assert fired_at(q, clock, HOUR / 2, 8) == [moment(2 * HOUR), moment(3 * HOUR), moment(4 * HOUR)]


def test_cron_goes_by_the_time_of_day_of_its_zone(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("berlin", "b", cron="30 9 * * *", zone="Europe/Berlin")
    assert fired_at(q, clock, 1800, 4) == [datetime(2027, 1, 15, 8, 30, tzinfo=UTC)]


def local(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("evening", "cron", "expected"),
    [
        ("2027-03-27T22:00", "30 2 * * *", ["2027-03-28T01:00"]),  # 02:30 is skipped: at the end of the gap
        ("2027-03-27T22:00", "0 3 * * *", ["2027-03-28T01:00"]),
        ("2027-03-27T22:00", "30 1 * * *", ["2027-03-28T00:30"]),
        ("2027-03-27T22:00", "*/30 2 * * *", []),
        ("2027-10-30T22:00", "30 2 * * *", ["2027-10-31T00:30"]),  # 02:30 comes twice
        ("2027-10-30T22:00", "30 3 * * *", ["2027-10-31T02:30"]),
        ("2027-10-30T22:00", "30 * * * *", ["2027-10-30T20:30", "2027-10-30T21:30", "2027-10-30T22:30", "2027-10-30T23:30", "2027-10-31T00:30", "2027-10-31T01:30", "2027-10-31T02:30"]),
    ],
)  # fmt: skip
def test_cron_keeps_summer_time(timed: MakeQueue, clock: HandClock, evening: str, cron: str, expected: list[str]) -> None:
    clock.wall = int(local(evening)) * SECOND
    q = timed()
    q.schedule("nightly", "n", cron=cron, zone="Europe/Berlin")
    assert fired_at(q, clock, 600, 7 * 6) == [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in expected]


@pytest.mark.parametrize("catch_up", ["one", "all", "skip"])
def test_a_daily_firing_comes_once_a_day_through_both_changes_of_the_clock(timed: MakeQueue, clock: HandClock, catch_up: str) -> None:
    clock.wall = int(local("2027-03-20T12:00")) * SECOND
    q = timed()
    q.schedule("nightly", "n", cron="30 2 * * *", zone="Europe/Berlin", catch_up=catch_up)
    found = fired_at(q, clock, HOUR / 2, 240 * 48)
    days = [at_.astimezone(BERLIN).date() for at_ in found]
    assert days == [days[0] + timedelta(days=number) for number in range(240)]


def test_without_its_library_cron_is_refused_and_every_works(timed: MakeQueue, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    q = timed()
    with pytest.raises(mqlite.NotSupported, match=r"mqlite\[cron\]"):
        q.schedule("nightly", "n", cron="0 * * * *")
    assert q.schedules() == []
    q.schedule("tick", "t", every=10)
    clock.pass_by(10)
    assert taken(q) == ["t"]


def test_a_process_without_the_library_leaves_cron_to_others(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("hourly", "h", cron="0 * * * *", catch_up="all")
    q.schedule("removed", "r", cron="0 * * * *")
    q.schedule("tick", "t", every=HOUR)
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "cronsim", None)
        clock.pass_by(2 * HOUR)
        q.put("x")
        q.put("later", delay=1)
        clock.pass_by(1)
        assert (sorted(taken(q)), q.stats().delayed) == (["later", "t", "x"], 0)
        assert [(s.name, s.next_at) for s in q.schedules() if s.cron] == [("hourly", moment(HOUR)), ("removed", moment(HOUR))]
        assert q.unschedule("removed")
    assert (taken(q), q.schedules()[0].next_at) == (["h", "h"], moment(3 * HOUR))


# ---------------------------------------------------------------------- those who wait
def test_who_waits_gets_one_firing_after_the_other(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.schedule("tick", "t", every=0.05, catch_up="all")
    assert in_thread(lambda: [q.get() for _ in range(5)]).result(20) == ["t"] * 5


def test_who_waits_already_is_woken_for_the_firings_of_a_new_schedule(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = in_thread(lambda: [q.get() for _ in range(3)])
    until_waiting(q)
    q.schedule("tick", "t", every=0.05)
    assert waiting.result(20) == ["t"] * 3


def test_who_waits_for_a_slow_schedule_is_woken_by_a_faster_one(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.schedule("slow", "s", every=3600)
    waiting = in_thread(q.get)
    until_waiting(q)
    q.schedule("fast", "f", every=0.05)
    assert waiting.result(20) == "f"


def test_who_waits_is_woken_by_a_schedule_that_replaces_a_slow_one(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.schedule("tick", "slow", every=3600)
    waiting = in_thread(q.get)
    until_waiting(q)
    q.schedule("tick", "fast", every=0.05)
    assert waiting.result(20) == "fast"


def test_several_who_wait_share_the_firings(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = [in_thread(q.get) for _ in range(3)]
    until_waiting(q, n=3)
    q.schedule("tick", "t", every=0.05)
    assert [future.result(20) for future in waiting] == ["t"] * 3


def test_who_waits_goes_on_being_woken_when_others_look_first(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.schedule("tick", "t", every=0.02)
    waiting = in_thread(lambda: [q.get() for _ in range(10)])
    while not waiting.done():
        q.stats()
    assert waiting.result(20) == ["t"] * 10


def test_a_consumer_waits_for_firings(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.schedule("tick", "t", every=0.05)

    def consume() -> list[Any]:
        found = []
        with q.consumer() as consumer:
            for message in consumer:
                with message:
                    found.append(message.body)
                if len(found) == 3:
                    return found
        return found

    assert in_thread(consume).result(20) == ["t"] * 3


def test_a_waiting_consumer_gets_what_waited_for_room(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=1)
    q.put("x")
    q.schedule("tick", "t", every=0.05)
    assert in_thread(lambda: [q.get() for _ in range(4)]).result(20) == ["x", "t", "t", "t"]


def test_a_blocked_put_stays_blocked_while_a_schedule_has_nothing_to_say(timed: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = timed(maxsize=1)
    q.put("x")
    q.schedule("tick", "t", every=3600)
    blocked = in_thread(q.put, "y")
    until_waiting(q, Kind.SPACE)
    assert q.get(timeout=0) == "x"
    assert blocked.result(20) > 0


def test_join_does_not_wait_for_the_next_firing(timed: MakeQueue, clock: HandClock, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = timed()
    q.schedule("tick", "t", every=3600)
    clock.pass_by(3600)
    [m] = q.receive(timeout=0)
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    m.ack()
    assert joined.result(20) is None


# ---------------------------------------------------------------------- bad values
@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("", {"every": 1}, ValueError),
        ("x" * 256, {"every": 1}, ValueError),
        ("a\nb", {"every": 1}, ValueError),
        ("\ud800", {"every": 1}, ValueError),
        (None, {"every": 1}, TypeError),
        (7, {"every": 1}, TypeError),
        ("n", {}, TypeError),
        ("n", {"every": 1, "cron": "* * * * *"}, TypeError),
        ("n", {"every": 0}, ValueError),
        ("n", {"every": -1}, ValueError),
        ("n", {"every": 0.0001}, ValueError),
        ("n", {"every": float("nan")}, ValueError),
        ("n", {"every": float("inf")}, ValueError),
        ("n", {"every": 10**400}, ValueError),
        ("n", {"every": "1"}, TypeError),
        ("n", {"every": True}, TypeError),
        ("n", {"every": 1, "zone": "Europe/Berlin"}, ValueError),
        ("n", {"cron": "* * * * *", "zone": "Mars/Olympus"}, ValueError),
        ("n", {"cron": "* * * * *", "zone": "Europe"}, ValueError),
        ("n", {"cron": "* * * * *", "zone": ""}, ValueError),
        ("n", {"cron": "* * * * *", "zone": "../../etc/passwd"}, ValueError),
        ("n", {"cron": "* * * * *", "zone": None}, TypeError),
        ("n", {"cron": ""}, ValueError),
        ("n", {"cron": "* * * *"}, ValueError),
        ("n", {"cron": "* * * * * *"}, ValueError),
        ("n", {"cron": "60 * * * *"}, ValueError),
        ("n", {"cron": "0 0 31 2 *"}, ValueError),
        ("n", {"cron": "every day"}, ValueError),
        ("n", {"cron": 5}, TypeError),
        ("n", {"every": 1, "catch_up": "some"}, ValueError),
        ("n", {"every": 1, "catch_up": None}, ValueError),
        ("n", {"every": 1, "start": datetime(2030, 1, 1)}, ValueError),
        ("n", {"every": 1, "start": float("nan")}, ValueError),
        ("n", {"every": 1, "start": float("inf")}, ValueError),
        ("n", {"every": 1, "start": 1e250}, ValueError),
        ("n", {"every": 1, "start": -1}, ValueError),
        ("n", {"every": 1, "start": "noon"}, TypeError),
        ("n", {"every": 1, "start": True}, TypeError),
        ("n", {"every": 1, "priority": "high"}, TypeError),
        ("n", {"every": 1, "priority": 1 << 31}, ValueError),
        ("n", {"every": 1, "ttl": 0}, ValueError),
        ("n", {"every": 1, "ttl": "1"}, TypeError),
        ("n", {"every": 1, "group": ""}, ValueError),
        ("n", {"every": 1, "group": 1}, TypeError),
        ("n", {"every": 1, "headers": "h"}, TypeError),
        ("n", {"every": 1, "type": 1}, TypeError),
    ],
    ids=str,
)
def test_a_bad_schedule_is_told_and_stores_nothing(q: mqlite.Queue[Any], name: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        q.schedule(name, "t", **options)
    assert (q.schedules(), q.qsize()) == ([], 0)


def test_a_bad_start_is_called_a_start(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="start"):
        q.schedule("tick", "t", every=1, start="noon")  # type: ignore[arg-type]


def test_a_bad_schedule_leaves_the_old_one(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.schedule("tick", "t", every=10)
    with pytest.raises(ValueError, match="catch_up"):
        q.schedule("tick", "u", every=5, catch_up="never")
    clock.pass_by(10)
    assert taken(q) == ["t"]


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_bad_name_is_told_by_unschedule(q: mqlite.Queue[Any], name: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        q.unschedule(name)


@pytest.mark.parametrize("name", ["x" * 255, "ümläut", "a b", "*"])
def test_good_names_are_many(q: mqlite.Queue[Any], name: str) -> None:
    q.schedule(name, "t", every=3600)
    assert [s.name for s in q.schedules()] == [name]
    assert q.unschedule(name)


def test_a_body_that_is_too_large_is_refused(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=10)
    with pytest.raises(mqlite.MessageTooLarge):
        q.schedule("tick", "t" * 100, every=10)
    assert q.schedules() == []


def test_a_body_that_cannot_be_encoded_is_refused(disk_queue: mqlite.Queue[Any]) -> None:
    with pytest.raises(mqlite.CodecError):
        disk_queue.schedule("tick", {1, 2}, every=10)
    assert disk_queue.schedules() == []


def test_a_closed_queue_has_no_schedules(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.schedule("tick", "t", every=10)
    q.close()
    for call in (lambda: q.schedule("tick", "t", every=10), lambda: q.unschedule("tick"), q.schedules):
        with pytest.raises(mqlite.Closed):
            call()
