"""A recurring message fires when its rule says: never early, never twice, and after a pause as it was told to."""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqlite.errors import NotSupported
from mqlite.recurrence import LATE_NS, MOST_AT_ONCE, Recurrence
from mqlite.system.clock import STABLE, WALL

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 86400 * SECOND
NOW = 1_800_000_000 * SECOND + 123_456_789
BERLIN = ZoneInfo("Europe/Berlin")


def every(seconds: float, **options: Any) -> Recurrence:
    return Recurrence(name="tick", every=seconds, **options)


def cron(expression: str, zone: str = "UTC", **options: Any) -> Recurrence:
    return Recurrence(name="nightly", cron=expression, zone=zone, **options)


def ns(local: str, zone: ZoneInfo = BERLIN, *, again: bool = False) -> int:
    """A time of day; `again`: the second time in a repeated hour."""
    return int(datetime.fromisoformat(local).replace(tzinfo=zone, fold=int(again)).timestamp()) * SECOND


def firings(rule: Recurrence, after_ns: int, until_ns: int) -> list[int]:
    """What fires in (after, until] if somebody is always there."""
    fired, due_ns = [], rule.first(after_ns)
    while due_ns <= until_ns:
        fired.append(due_ns)
        count, next_ns = rule.fire(due_ns, due_ns)
        assert (count, next_ns > due_ns) == (1, True)
        due_ns = next_ns
    return fired


# --- what it is told -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, TypeError, "say when"),
        ({"every": 1, "cron": "* * * * *"}, TypeError, "both every and cron"),
        ({"every": True}, TypeError, "number of seconds"),
        ({"every": "1"}, TypeError, "number of seconds"),
        ({"every": timedelta(1)}, TypeError, "number of seconds"),
        ({"every": 0}, ValueError, "between"),
        ({"every": 0.0009}, ValueError, "between"),
        ({"every": 1.1e9}, ValueError, "between"),
        ({"every": float("nan")}, ValueError, "between"),
        ({"every": 10**400}, ValueError, "between"),
        ({"every": -(10**400)}, ValueError, "between"),
        ({"every": 1, "zone": "Europe/Berlin"}, ValueError, "knows no zone"),
        ({"cron": 5}, TypeError, "cron is a str"),
        ({"cron": ""}, ValueError, "5 fields"),
        ({"cron": "@daily"}, ValueError, "5 fields"),
        ({"cron": "0 * * * * *"}, ValueError, "5 fields"),
        ({"cron": "60 * * * *"}, ValueError, "Bad minute"),
        ({"cron": "* * * * FOO"}, ValueError, "Bad day-of-week"),
        ({"cron": f"{'9' * 5000} * * * *"}, ValueError, "cron is 'minute"),
        ({"cron": "0 0 30 2 *"}, ValueError, "Bad day-of-month"),
        ({"cron": "0 0 */30 2 MON#5"}, ValueError, "matches no day"),
        ({"cron": "* * * * *", "zone": "Europe/Atlantis"}, ValueError, "IANA"),
        ({"cron": "* * * * *", "zone": "Europe"}, ValueError, "IANA"),
        ({"cron": "* * * * *", "zone": ""}, ValueError, "IANA"),
        ({"cron": "* * * * *", "zone": "../UTC"}, ValueError, "IANA"),
        ({"cron": "* * * * *", "zone": "a\0b"}, ValueError, "IANA"),
        ({"cron": "* * * * *", "zone": UTC}, TypeError, "IANA"),
        ({"every": 1, "catch_up": "none"}, ValueError, "'one', 'all' or 'skip'"),
        ({"every": 1, "catch_up": None}, ValueError, "'one', 'all' or 'skip'"),
        ({"every": 1, "start_ns": 1.5}, TypeError, "start_ns is an int"),
        ({"every": 1, "start_ns": True}, TypeError, "start_ns is an int"),
        ({"every": 1, "start_ns": -1}, ValueError, "start_ns"),
        ({"every": 1, "start_ns": 1 << 63}, ValueError, "start_ns"),
        ({"every": 1, "name": 5}, TypeError, "name is a str"),
        ({"every": 1, "name": ""}, ValueError, "name has 1 to 255"),
        ({"every": 1, "name": "é" * 128}, ValueError, "name has 1 to 255"),
        ({"every": 1, "name": "a\nb"}, ValueError, "name has 1 to 255"),
        ({"every": 1, "name": "\ud800"}, ValueError, "name has 1 to 255"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_and_told_why(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Recurrence(**{"name": "tick", **options})


def test_the_bounds_themselves_are_taken() -> None:
    assert every(0.001).first(NOW) == NOW + 1_000_000
    assert every(1_000_000_000).first(NOW) == NOW + 10**18


def test_every_is_on_the_stable_line_and_cron_on_the_wall_clock() -> None:
    assert (every(1).line, cron("* * * * *").line) == (STABLE, WALL)


def test_what_evolves_from_a_stored_rule_is_checked_again() -> None:
    with pytest.raises(ValueError, match="Bad hour"):
        attrs.evolve(Recurrence.from_json(cron("0 2 * * *").to_json()), cron="0 24 * * *")


@pytest.mark.parametrize(
    "rule",
    [every(0.1, catch_up="all", start_ns=NOW), every(7), cron("*/15  2 * *   MON", "Europe/Berlin", catch_up="skip")],
)
def test_a_stored_rule_comes_back_equal(rule: Recurrence) -> None:
    again = Recurrence.from_json(json.loads(json.dumps(rule.to_json())))
    assert (again, repr(again), again.first(NOW)) == (rule, repr(rule), rule.first(NOW))


def test_a_damaged_rule_does_not_come_back() -> None:
    with pytest.raises(ValueError, match="catch_up"):
        Recurrence.from_json({**every(1).to_json(), "catch_up": "some"})


# --- where the library or the zone is missing ------------------------------------------------------------------------


@pytest.fixture
def _without_cronsim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)


@pytest.mark.usefixtures("_without_cronsim")
def test_without_cronsim_a_new_cron_rule_says_what_to_install() -> None:
    with pytest.raises(NotSupported, match=r"pip install 'mqlite\[cron\]'"):
        cron("* * * * *")


@pytest.mark.usefixtures("_without_cronsim")
def test_without_cronsim_every_works() -> None:
    assert every(1).is_computable()
    assert every(1).first(NOW) == NOW + SECOND


def test_without_cronsim_a_stored_cron_rule_comes_back_but_cannot_tell_when(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = cron("30 2 * * *", "Europe/Berlin")
    monkeypatch.setitem(sys.modules, "cronsim", None)
    again = Recurrence.from_json(rule.to_json())
    assert again == rule
    assert not again.is_computable()
    assert again.next_at(ns("2027-01-01 02:30")).isoformat() == "2027-01-01T02:30:00+01:00"
    with pytest.raises(NotSupported, match="cronsim"):
        again.first(NOW)
    monkeypatch.undo()
    assert again.is_computable()


def test_a_stored_rule_with_a_zone_unknown_here_comes_back_but_cannot_tell_when() -> None:
    rule = Recurrence.from_json({**cron("0 2 * * *").to_json(), "zone": "Mars/Olympus_Mons"})
    assert not rule.is_computable()
    assert rule.next_at(0) == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="Olympus"):
        rule.fire(NOW, NOW)


def test_a_stored_rule_that_never_matches_raises_instead_of_searching_for_ever() -> None:
    rule = Recurrence.from_json({**cron("0 2 * * *").to_json(), "cron": "0 0 */30 2 MON#5"})
    assert not rule.is_computable()
    with pytest.raises(ValueError, match="matches no day"):
        rule.first(NOW)


# --- every -----------------------------------------------------------------------------------------------------------


def test_without_a_start_the_first_is_one_interval_from_now() -> None:
    assert every(90).first(NOW) == NOW + 90 * SECOND


def test_a_start_in_the_future_is_the_first() -> None:
    assert every(90, start_ns=NOW + 1).first(NOW) == NOW + 1


def test_a_start_that_has_come_is_not_fired_again() -> None:
    assert every(90, start_ns=NOW).first(NOW) == NOW + 90 * SECOND


intervals = st.integers(1, 10**6).map(lambda ms: ms / 1000) | st.floats(0.001, 1e9)
late = st.integers(0, 10**13) | st.integers(0, 10**19)
catch_ups = st.sampled_from(["one", "all", "skip"])


@given(intervals, st.integers(0, NOW), st.integers(0, NOW))
def test_the_first_is_the_next_whole_number_of_intervals_from_the_start(seconds: float, start_ns: int, now_ns: int) -> None:
    interval_ns = round(seconds * 1e9)
    first_ns = every(seconds, start_ns=start_ns).first(now_ns)
    assert first_ns > now_ns
    assert first_ns >= start_ns
    assert (first_ns - start_ns) % interval_ns == 0
    assert first_ns == start_ns or first_ns - interval_ns <= now_ns


@given(intervals, catch_ups, st.lists(late, max_size=20))
def test_every_never_drifts_is_never_early_and_goes_on(seconds: float, catch_up: Any, pauses: list[int]) -> None:
    rule, interval_ns = every(seconds, catch_up=catch_up, start_ns=NOW), round(seconds * 1e9)
    due_ns = rule.first(NOW)
    for pause in pauses:
        now_ns = due_ns + pause
        count, next_ns = rule.fire(due_ns, now_ns)
        missed = pause // interval_ns + 1
        assert (next_ns - NOW) % interval_ns == 0
        assert next_ns > due_ns
        assert next_ns > now_ns or (catch_up == "all" and count == MOST_AT_ONCE)
        assert next_ns - interval_ns <= now_ns  # none is left out
        if catch_up == "all":
            assert count == min(missed, MOST_AT_ONCE)
        elif catch_up == "one":
            assert count == 1
        else:
            assert count == (pause % interval_ns <= LATE_NS)
        due_ns = next_ns


def test_one_message_stands_for_all_that_were_missed() -> None:
    assert every(10).fire(NOW, NOW + 35 * SECOND) == (1, NOW + 40 * SECOND)


def test_all_that_were_missed_come_in_portions() -> None:
    rule, now_ns = every(1, catch_up="all"), NOW + 299 * SECOND
    assert rule.fire(NOW, now_ns) == (256, NOW + 256 * SECOND)
    assert rule.fire(NOW + 256 * SECOND, now_ns) == (44, NOW + 300 * SECOND)


def test_a_firing_found_a_minute_late_is_fired_and_a_later_one_skipped() -> None:
    rule = every(3600, catch_up="skip")
    assert rule.fire(NOW, NOW + LATE_NS) == (1, NOW + 3600 * SECOND)
    assert rule.fire(NOW, NOW + LATE_NS + 1) == (0, NOW + 3600 * SECOND)
    assert rule.fire(NOW, NOW + 7205 * SECOND) == (1, NOW + 10800 * SECOND)


# --- cron ------------------------------------------------------------------------------------------------------------


def test_cron_means_the_time_of_day_in_its_zone() -> None:
    rule = cron("30 2 * * MON-FRI", "Europe/Berlin")
    friday, monday = ns("2027-01-08 02:30"), ns("2027-01-11 02:30")
    assert rule.first(friday - 1) == friday
    assert rule.first(friday) == monday
    assert rule.next_at(monday).isoformat() == "2027-01-11T02:30:00+01:00"


def test_cron_does_not_fire_before_its_start() -> None:
    start_ns = ns("2027-01-08 02:30")
    rule = cron("30 2 * * *", "Europe/Berlin", start_ns=start_ns)
    assert rule.first(start_ns - 30 * DAY) == start_ns
    assert rule.first(start_ns) == start_ns + DAY


def test_a_day_that_comes_once_in_years_is_found() -> None:
    assert cron("0 0 29 2 *").first(ns("2097-01-01")) == ns("2104-02-29", ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("expression", "from_", "until", "expected"),
    [
        # 02:00 becomes 03:00
        ("30 2 * * *", "2027-03-27 12:00", "2027-03-29 12:00", ["28T03:00:00+02:00", "29T02:30:00+02:00"]),
        ("0,30 1-3 * * *", "2027-03-28 00:00", "2027-03-28 12:00", ["28T01:00:00+01:00", "28T01:30:00+01:00", "28T03:00:00+02:00", "28T03:30:00+02:00"]),
        ("*/15 2 * * *", "2027-03-28 00:00", "2027-03-29 02:00", ["29T02:00:00+02:00"]),
        ("0 */2 * * *", "2027-03-28 00:00", "2027-03-28 06:00", ["28T04:00:00+02:00", "28T06:00:00+02:00"]),
        ("*/15 * * * *", "2027-03-28 01:30", "2027-03-28 03:15", ["28T01:45:00+01:00", "28T03:00:00+02:00", "28T03:15:00+02:00"]),
        # 03:00 becomes 02:00
        ("30 2 * * *", "2027-10-30 12:00", "2027-11-01 12:00", ["31T02:30:00+02:00", "01T02:30:00+01:00"]),
        ("0 0-23 * * *", "2027-10-31 01:30", "2027-10-31 03:00", ["31T02:00:00+02:00", "31T03:00:00+01:00"]),
        ("*/30 2 * * *", "2027-10-31 00:00", "2027-10-31 12:00", ["31T02:00:00+02:00", "31T02:30:00+02:00", "31T02:00:00+01:00", "31T02:30:00+01:00"]),
        ("0 * * * *", "2027-10-31 01:30", "2027-10-31 03:00", ["31T02:00:00+02:00", "31T02:00:00+01:00", "31T03:00:00+01:00"]),
    ],
)
def test_summer_time_is_kept_as_by_debians_cron(expression: str, from_: str, until: str, expected: list[str]) -> None:
    rule = cron(expression, "Europe/Berlin")
    fired = [rule.next_at(due_ns).isoformat()[8:] for due_ns in firings(rule, ns(from_), ns(until))]
    assert fired == expected


def test_in_the_second_pass_of_the_repeated_hour_the_next_is_not_in_the_first() -> None:
    rule = cron("30 2 * * *", "Europe/Berlin", catch_up="skip")
    first, second = ns("2027-10-31 02:30"), ns("2027-10-31 02:30:10", again=True)
    assert rule.first(ns("2027-10-31 02:10", again=True)) == ns("2027-11-01 02:30")
    assert rule.fire(first, second) == (0, ns("2027-11-01 02:30"))


def test_skip_looks_for_the_latest_match_before_now() -> None:
    rule, due_ns = cron("0,5 * * * *", catch_up="skip"), ns("2027-01-01 00:00", ZoneInfo("UTC"))
    assert rule.fire(due_ns, due_ns + LATE_NS) == (1, due_ns + 5 * MINUTE)
    assert rule.fire(due_ns, due_ns + LATE_NS + 1) == (0, due_ns + 5 * MINUTE)
    assert rule.fire(due_ns, due_ns + 6 * MINUTE) == (1, due_ns + 60 * MINUTE)
    assert rule.fire(due_ns, due_ns + 6 * MINUTE + 1) == (0, due_ns + 60 * MINUTE)


def test_a_pause_of_years_costs_cron_no_more_than_one_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    import cronsim

    asked = 0
    following = cronsim.CronSim.__next__

    def count(self: cronsim.CronSim) -> datetime:
        nonlocal asked
        asked += 1
        return following(self)

    monkeypatch.setattr(cronsim.CronSim, "__next__", count)
    for catch_up in ("one", "skip"):
        rule, asked = cron("* * * * *", catch_up=catch_up), 0
        due_ns = rule.first(NOW)
        assert rule.fire(due_ns, due_ns + 3650 * DAY) == (1, due_ns + 3650 * DAY + MINUTE)
        assert asked <= 4
    rule, asked = cron("* * * * *", catch_up="all"), 0
    assert rule.fire(due_ns, due_ns + 3650 * DAY) == (MOST_AT_ONCE, due_ns + MOST_AT_ONCE * MINUTE)
    assert asked <= MOST_AT_ONCE + 1


# --- cron against an oracle that looks at every minute ---------------------------------------------------------------


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """A field, and the numbers that it matches."""
    kind = draw(st.sampled_from(["*", "*/n", "list", "range"]))
    if kind == "*":
        return "*", set(range(low, high + 1))
    if kind == "*/n":
        step = draw(st.integers(1, high))
        return f"*/{step}", set(range(low, high + 1, step))
    if kind == "list":
        numbers = draw(st.sets(st.integers(low, high), min_size=1, max_size=4))
        return ",".join(map(str, sorted(numbers))), numbers
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    return f"{first}-{last}", set(range(first, last + 1))


Fields = tuple[tuple[str, set[int]], ...]
expressions = st.tuples(fields(0, 59), fields(0, 23), fields(1, 31) | st.just(("*", set(range(32)))), st.just(("*", set(range(13)))), fields(0, 6))
changes = st.sampled_from(
    [
        ("Europe/Berlin", "2027-03-28"),
        ("Europe/Berlin", "2027-10-31"),
        ("America/New_York", "2027-03-14"),
        ("America/New_York", "2027-11-07"),
        ("America/Havana", "2027-11-07"),  # 01:00 becomes 00:00
        ("Asia/Kathmandu", "2027-01-29"),
        ("UTC", "2028-02-29"),
    ]
)


def oracle(expression: Fields, zone: ZoneInfo, after_ns: int, until_ns: int) -> list[int]:
    """The matches in (after, until], by the rules for summer time in the docstring of Recurrence."""
    (minute, minutes), (hour, hours), (day, days), (_, months), (weekday, weekdays) = expression
    all_days = day.startswith("*") or weekday.startswith("*")

    def matches(local: datetime) -> bool:
        on_day, on_weekday = local.day in days, local.isoweekday() % 7 in weekdays
        return local.minute in minutes and local.hour in hours and local.month in months and (on_day and on_weekday if all_days else on_day or on_weekday)

    fired: set[int] = set()
    for at in range((after_ns // MINUTE - 120) * 60, (until_ns // MINUTE + 120) * 60, 60):
        local = datetime.fromtimestamp(at, zone)
        if minute.startswith("*") or hour.startswith("*"):
            fired |= {at} if matches(local) else set()
            continue
        earlier = datetime.fromtimestamp(at - 60, zone).replace(tzinfo=None)
        skipped = (local.replace(tzinfo=None) - earlier) // timedelta(minutes=1) - 1
        shown = [local.replace(tzinfo=None) - timedelta(minutes=back) for back in range(max(skipped, 0) + 1)]
        if local.fold == 0 and any(map(matches, shown)):
            fired.add(at)
    return sorted(at * SECOND for at in fired if after_ns < at * SECOND <= until_ns)


def window(change: tuple[str, str], days: int = 3) -> tuple[ZoneInfo, int, int]:
    zone = ZoneInfo(change[0])
    begin_ns = ns(change[1], zone) - DAY
    return zone, begin_ns, begin_ns + days * DAY


@settings(deadline=None)
@given(expressions, changes, st.integers(0, DAY))
def test_cron_fires_at_exactly_the_minutes_that_match(expression: Fields, change: tuple[str, str], offset: int) -> None:
    zone, begin_ns, end_ns = window(change)
    rule = cron(" ".join(text for text, _ in expression), change[0])
    assert firings(rule, begin_ns + offset, end_ns) == oracle(expression, zone, begin_ns + offset, end_ns)


pauses = st.lists(st.integers(0, 3 * MINUTE) | st.integers(0, DAY), max_size=30)
hourly: Fields = (("*/15", {0, 15, 30, 45}), ("*", set(range(24))), ("*", set(range(32))), ("*", set(range(13))), ("*", set(range(7))))
fixed: Fields = (("30", {30}), ("1-3", {1, 2, 3}), *hourly[2:])


@settings(deadline=None)
@given(expressions, changes, pauses)
@example(hourly, ("Europe/Berlin", "2027-10-31"), [DAY // 50] * 50)
@example(fixed, ("Europe/Berlin", "2027-10-31"), [DAY // 50] * 50)
@example(fixed, ("Europe/Berlin", "2027-03-28"), [DAY // 50] * 50)
def test_with_all_every_match_is_counted_once_however_the_calls_fall(expression: Fields, change: tuple[str, str], pauses: list[int]) -> None:
    zone, begin_ns, end_ns = window(change)
    rule = cron(" ".join(text for text, _ in expression), change[0], catch_up="all")
    now_ns, due_ns, counted = begin_ns, rule.first(begin_ns), 0
    for pause in pauses:
        now_ns = min(now_ns + pause, end_ns)
        if due_ns <= now_ns:
            count, due_ns = rule.fire(due_ns, now_ns)
            counted += count
    while due_ns <= now_ns:
        count, due_ns = rule.fire(due_ns, now_ns)
        assert 1 <= count <= MOST_AT_ONCE
        counted += count
    assert counted == len(oracle(expression, zone, begin_ns, now_ns))


@given(intervals, st.integers(1, 10**6), pauses)
def test_with_all_every_interval_is_counted_once_however_the_calls_fall(seconds: float, start_ns: int, pauses: list[int]) -> None:
    seconds = max(seconds, 1.0)  # else too many to count
    rule, interval_ns = every(seconds, catch_up="all", start_ns=start_ns), round(seconds * 1e9)
    now_ns, due_ns, counted = 0, rule.first(0), 0
    for pause in pauses:
        now_ns += pause % (1000 * interval_ns)
        while due_ns <= now_ns:
            count, due_ns = rule.fire(due_ns, now_ns)
            counted += count
    assert counted == max(0, (now_ns - start_ns) // interval_ns + 1)


@settings(deadline=None)
@given(expressions, changes, st.sampled_from(["one", "skip"]), pauses)
def test_after_a_pause_cron_goes_on_with_the_next_match(expression: Fields, change: tuple[str, str], catch_up: Any, pauses: list[int]) -> None:
    zone, begin_ns, end_ns = window(change)
    rule = cron(" ".join(text for text, _ in expression), change[0], catch_up=catch_up)
    expected = oracle(expression, zone, begin_ns, end_ns)
    now_ns, due_ns = begin_ns, rule.first(begin_ns)
    for pause in pauses:
        now_ns = min(now_ns + pause, end_ns)
        if due_ns > now_ns:
            continue
        count, next_ns = rule.fire(due_ns, now_ns)
        position = bisect_right(expected, now_ns)
        assert count == (catch_up == "one" or now_ns - expected[position - 1] <= LATE_NS)
        assert next_ns == expected[position] if position < len(expected) else next_ns > end_ns
        due_ns = next_ns


def test_where_the_skipped_hour_begins_at_midnight_cron_may_fire_once_at_its_end() -> None:
    rule, havana = cron("*/15 0 * * SUN", "America/Havana"), ZoneInfo("America/Havana")
    fired = firings(rule, ns("2027-03-13 12:00", havana), ns("2027-03-20 12:00", havana))
    assert fired == [ns("2027-03-14 01:00", havana)]  # that day has no 00:00


@pytest.mark.parametrize("date", ["2027-04-04", "2027-10-03"])
@pytest.mark.parametrize("expression", ["*/15 2 * * *", "0 */2 * * *", "*/10 3 * * *", "*/20 0 * * *"])
def test_where_summer_time_is_half_an_hour_cron_may_miss_but_does_not_invent(date: str, expression: str) -> None:
    zone, begin_ns, end_ns = window(("Australia/Lord_Howe", date), days=6)
    minute, hour = expression.split()[:2]
    parsed = {"*/15": range(0, 60, 15), "*/10": range(0, 60, 10), "*/20": range(0, 60, 20), "0": [0], "*/2": range(0, 24, 2), "2": [2], "3": [3]}
    expected = oracle(((minute, set(parsed[minute])), (hour, set(parsed[hour])), *hourly[2:]), zone, begin_ns, end_ns)
    fired = firings(cron(expression, zone.key), begin_ns, end_ns)
    missed = sorted(set(expected) - set(fired))
    assert set(fired) <= set(expected)
    assert all(begin_ns + DAY <= due_ns < begin_ns + 3 * DAY + 30 * MINUTE for due_ns in missed)


# --- a clock that is set ---------------------------------------------------------------------------------------------

rules = st.builds(every, intervals, catch_up=catch_ups) | st.builds(
    cron, st.sampled_from(["* * * * *", "30 2 * * *", "*/20 1-3 * * *", "0 0-23 * * *"]), st.sampled_from(["UTC", "Europe/Berlin"]), catch_up=catch_ups
)


@given(rules, st.lists(st.integers(-3 * DAY, 3 * DAY), max_size=20))
def test_a_clock_that_jumps_makes_nothing_fire_twice_or_early(rule: Recurrence, jumps: list[int]) -> None:
    now_ns = ns("2027-10-31 00:00")
    due_ns = rule.first(now_ns)
    for jump in jumps:
        now_ns += jump
        count, next_ns = rule.fire(due_ns, now_ns)
        if now_ns < due_ns:
            assert (count, next_ns) == (0, due_ns)
        else:
            assert next_ns > due_ns
        due_ns = next_ns


def test_after_the_clock_was_set_back_the_next_is_still_after_the_last_fired() -> None:
    rule, due_ns = cron("0 * * * *"), ns("2027-01-01 12:00", ZoneInfo("UTC"))
    assert rule.fire(due_ns, due_ns) == (1, due_ns + 60 * MINUTE)
    assert rule.fire(due_ns + 60 * MINUTE, due_ns - 30 * MINUTE) == (0, due_ns + 60 * MINUTE)
