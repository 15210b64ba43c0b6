"""Wrong values of the options for retries, schedules and flow control are told at once, by name, and change nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from fixture_types import MakeQueue

import mqlite

INF, NAN = math.inf, math.nan

BAD_OPTIONS: list[tuple[str, Any, type[Exception]]] = [
    ("backoff", [], ValueError),
    ("backoff", [1, -1], ValueError),
    ("backoff", [1, NAN], ValueError),
    ("backoff", [1e300], ValueError),
    ("backoff", [1, "2"], TypeError),
    ("backoff", [None], TypeError),
    ("backoff", [True], TypeError),
    ("backoff", 5, TypeError),
    ("backoff", "exponential", TypeError),
    ("backoff", mqlite.Backoff, TypeError),
    ("maxbytes", "5", TypeError),
    ("maxbytes", 5.0, TypeError),
    ("maxbytes", None, TypeError),
    ("maxbytes", True, TypeError),
    ("overflow", "drop", ValueError),
    ("overflow", "BLOCK", ValueError),
    ("overflow", "", ValueError),
    ("overflow", None, ValueError),
    ("overflow", 1, ValueError),
    ("overflow", ["block"], ValueError),
    ("ttl", 0, ValueError),
    ("ttl", -1.0, ValueError),
    ("ttl", NAN, ValueError),
    ("ttl", INF, ValueError),
    ("ttl", "60", TypeError),
    ("ttl", True, TypeError),
    ("expired", "dead", ValueError),
    ("expired", "", ValueError),
    ("expired", None, ValueError),
    ("expired", True, ValueError),
    ("dedup_window", 0, ValueError),
    ("dedup_window", -1, ValueError),
    ("dedup_window", INF, ValueError),
    ("dedup_window", NAN, ValueError),
    ("dedup_window", None, TypeError),
    ("dedup_window", "300", TypeError),
    ("dedup_window", False, TypeError),
    ("rate", 0, ValueError),
    ("rate", -1, ValueError),
    ("rate", INF, ValueError),
    ("rate", NAN, ValueError),
    ("rate", 1e10, ValueError),
    ("rate", 1e-10, ValueError),
    ("rate", "5", TypeError),
    ("rate", True, TypeError),
    ("rate", (), TypeError),
    ("rate", (5,), TypeError),
    ("rate", (5, 1, 1), TypeError),
    ("rate", [5], TypeError),
    ("rate", (0, 1), ValueError),
    ("rate", (-5, 1), ValueError),
    ("rate", (5, 0), ValueError),
    ("rate", (5, -1), ValueError),
    ("rate", (5, INF), ValueError),
    ("rate", (5, NAN), ValueError),
    ("rate", (5.0, 1), TypeError),
    ("rate", (True, 1), TypeError),
    ("rate", ("5", 1), TypeError),
    ("rate", (5, "1"), TypeError),
    ("rate", (5, True), TypeError),
    ("rate", (5, None), TypeError),
    ("rate", {"count": 5}, TypeError),
    ("limits", 5, TypeError),
    ("limits", "g", TypeError),
    ("limits", [("g", 1)], TypeError),
    ("limits", {"g": 0}, ValueError),
    ("limits", {"g": -1}, ValueError),
    ("limits", {"g": 1.0}, TypeError),
    ("limits", {"g": True}, TypeError),
    ("limits", {1: 1}, TypeError),
    ("limits", {None: 1}, TypeError),
]

BAD_FIXED: list[tuple[str, Any, type[Exception]]] = [
    ("order", "fifo", ValueError),
    ("order", "LIFO", ValueError),
    ("order", None, ValueError),
    ("order", 1, ValueError),
    ("aging", 0, ValueError),
    ("aging", -1, ValueError),
    ("aging", 1.1e6, ValueError),
    ("aging", INF, ValueError),
    ("aging", NAN, ValueError),
    ("aging", "5", TypeError),
    ("aging", True, TypeError),
    ("fair", 1, TypeError),
    ("fair", None, TypeError),
    ("fair", "yes", TypeError),
]
FIXED = {"order": "lifo", "aging": 5.0, "fair": True, "codec": "json"}
GOOD_OPTIONS: list[tuple[str, Any]] = [
    ("backoff", None),
    ("backoff", [0]),
    ("backoff", (1, 2.5)),
    ("backoff", mqlite.Backoff(base=2)),
    ("maxbytes", 1),
    ("maxbytes", 0),
    ("maxbytes", -1),  # no limit, as maxsize of the standard library
    ("overflow", "reject"),
    ("ttl", None),
    ("ttl", 1),
    ("ttl", 0.001),
    ("expired", "drop"),
    ("dedup_window", 1),
    ("dedup_window", 0.5),
    ("rate", None),
    ("rate", 1),
    ("rate", 0.5),
    ("rate", (1, 1)),
    ("rate", [10, 0.5]),
    ("limits", None),
    ("limits", {}),
    ("limits", {"*": 5, "g": 1, "": 2, "free": None}),
]


# ---------------------------------------------------------------------- options of a queue
@pytest.mark.parametrize(("option", "value", "error"), BAD_OPTIONS + BAD_FIXED)
def test_a_bad_option_is_refused_by_name(make_queue: MakeQueue, option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        make_queue(**{option: value})


@pytest.mark.parametrize(("option", "value", "error"), BAD_OPTIONS + BAD_FIXED)
def test_a_bad_option_makes_no_store(path: str, option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        mqlite.Queue("q", path, **{option: value})
    assert not os.path.exists(path)


def test_configure_refuses_every_bad_value_and_changes_nothing(make_queue: MakeQueue) -> None:
    q = make_queue(rate=5, ttl=10)
    before = q._state.options
    for option, value, error in BAD_OPTIONS:
        with pytest.raises(error, match=option):
            q.configure(maxsize=7, **{option: value})
        assert q._state.options == before
    q.put(1)
    assert q.get(timeout=0) == 1


def test_configure_takes_every_good_value(make_queue: MakeQueue) -> None:
    q = make_queue()
    for option, value in GOOD_OPTIONS:
        q.configure(**{option: value})
    q.configure(ttl=None)  # the last one was very short
    q.put(1)
    assert q.get(timeout=0) == 1


@pytest.mark.parametrize(("option", "value"), GOOD_OPTIONS)
def test_a_good_value_is_taken_and_taken_again(path: str, option: str, value: Any) -> None:
    with mqlite.Queue[Any]("q", path, **{option: value}):
        pass
    with mqlite.Queue[Any]("q", path, **{option: value}) as q:
        assert q.check() == []


@pytest.mark.parametrize(("option", "value"), FIXED.items())
def test_what_is_fixed_cannot_be_changed_and_configure_says_so(q: mqlite.Queue[Any], option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=option):
        q.configure(**{option: value})


@pytest.mark.parametrize("option", ["nonsense", "paused", "name", "durability", "max_store_bytes"])
def test_configure_takes_no_other_names(q: mqlite.Queue[Any], option: str) -> None:
    with pytest.raises(TypeError, match=option):
        q.configure(**{option: 1})


@pytest.mark.parametrize("orders", [{"order": "lifo", "aging": 5}, {"order": "lifo", "fair": True}, {"aging": 5, "fair": True}, {"order": "lifo", "aging": 5, "fair": True}])
def test_a_queue_has_one_order(make_queue: MakeQueue, orders: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(orders))):
        make_queue(**orders)


@pytest.mark.parametrize(("option", "stored", "asked"), [("overflow", "reject", "block"), ("maxbytes", 5, 6), ("ttl", 5, None), ("rate", 5, (5, 1)), ("limits", {"g": 2}, {"g": 3}), ("dedup_window", 5, 6), ("expired", "drop", "dead_letter"), ("backoff", [1], [2]), ("order", "lifo", "priority"), ("fair", True, False), ("aging", 5, 6)])
def test_another_value_than_the_stored_one_is_a_mismatch_that_names_the_option(path: str, option: str, stored: Any, asked: Any) -> None:
    with mqlite.Queue[Any]("q", path, **{option: stored}), pytest.raises(mqlite.SettingsMismatch, match=option):
        mqlite.Queue("q", path, **{option: asked})


def test_the_settings_of_dead_letters_are_fixed(q: mqlite.Queue[Any]) -> None:
    for option, value in GOOD_OPTIONS:
        with pytest.raises(mqlite.NotSupported, match="dead-letter"):
            q.dead.configure(**{option: value})


@pytest.mark.parametrize(("option", "value", "error"), [("base", 0, ValueError), ("base", "1", TypeError), ("base", NAN, ValueError), ("factor", 0.5, ValueError), ("factor", NAN, ValueError), ("factor", "2", TypeError), ("maximum", 0, ValueError), ("maximum", INF, ValueError), ("maximum", None, TypeError), ("jitter", -0.1, ValueError), ("jitter", 1.1, ValueError), ("jitter", True, TypeError), ("jitter", "0", TypeError)])
def test_a_backoff_is_checked_when_it_is_made(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        mqlite.Backoff(**{option: value})


# ---------------------------------------------------------------------- put, put_many, producer
TIMES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ttl": 0}, ValueError, "ttl"),
    ({"ttl": -1}, ValueError, "ttl"),
    ({"ttl": NAN}, ValueError, "ttl"),
    ({"ttl": INF}, ValueError, "ttl"),
    ({"ttl": "5"}, TypeError, "ttl"),
    ({"ttl": True}, TypeError, "ttl"),
    ({"delay": -1}, ValueError, "delay"),
    ({"delay": NAN}, ValueError, "delay"),
    ({"delay": "5"}, TypeError, "delay"),
    ({"eta": "tomorrow"}, TypeError, "eta"),
    ({"eta": INF}, ValueError, "eta"),
    ({"eta": datetime(2030, 1, 1)}, ValueError, "eta"),
    ({"delay": 1, "eta": 5}, ValueError, "delay and eta"),
]
GROUPS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"group": ""}, ValueError, "group"),
    ({"group": 5}, TypeError, "group"),
    ({"group": b"g"}, TypeError, "group"),
    ({"group": ["g"]}, TypeError, "group"),
]
KEYS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({name: value}, error, name) for name in ("dedup_id", "replace_key", "unique") for value, error in (("", ValueError), (5, TypeError), (b"k", TypeError), (("k",), TypeError), (True, TypeError))),
    ({"unique": "u", "unique_states": ()}, ValueError, "unique_states"),
    ({"unique": "u", "unique_states": "ready"}, TypeError, "unique_states"),
    ({"unique": "u", "unique_states": None}, TypeError, "unique_states"),
    ({"unique": "u", "unique_states": 5}, TypeError, "unique_states"),
    ({"unique": "u", "unique_states": ("ready", "gone")}, ValueError, "unique_states"),
    ({"unique": "u", "unique_states": ("READY",)}, ValueError, "unique_states"),
    ({"unique": "u", "unique_states": (1,)}, ValueError, "unique_states"),
    ({"unique": "u", "unique_states": (["ready"],)}, ValueError, "unique_states"),
    ({"unique_states": ("ready",)}, ValueError, "unique"),
]


@pytest.mark.parametrize(("options", "error", "named"), TIMES + GROUPS + KEYS)
def test_put_refuses_a_bad_value_by_name_and_stores_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str) -> None:
    with q.producer() as producer:
        for put in (q.put, q.put_nowait, producer.put):
            with pytest.raises(error, match=named):
                put("x", **options)
    assert (q.stats().ready, q.stats().delayed) == (0, 0)


@pytest.mark.parametrize(("options", "error", "named"), TIMES + GROUPS)
@pytest.mark.parametrize("items", [[], [1, 2]])
def test_put_many_refuses_a_bad_value_by_name_and_stores_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str, items: list[int]) -> None:
    with pytest.raises(error, match=named):
        q.put_many(items, **options)
    assert (q.stats().ready, q.stats().delayed) == (0, 0)


@pytest.mark.parametrize("option", ["dedup_id", "replace_key", "unique", "unique_states"])
def test_put_many_has_no_keys(q: mqlite.Queue[Any], option: str) -> None:
    with pytest.raises((TypeError, ValueError), match=option):
        q.put_many([1], **{option: "k"})
    assert len(q) == 0


def test_a_producer_s_unknown_option_is_a_type_error(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer, pytest.raises(TypeError, match="nonsense"):
        producer.put(1, nonsense=1)


@pytest.mark.parametrize("put", [lambda q: q.put(1, group="g"), lambda q: q.put_many([1], group="g"), lambda q: q.producer().put(1, group="g")])
def test_a_lifo_queue_has_no_groups(make_queue: MakeQueue, put: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = make_queue(order="lifo")
    with pytest.raises(ValueError, match="group"):
        put(q)
    assert len(q) == 0


# ---------------------------------------------------------------------- consumer, redrive
@pytest.mark.parametrize(("options", "error", "named"), [({"mode": "key_shared"}, ValueError, "mode"), ({"mode": "EXCLUSIVE"}, ValueError, "mode"), ({"mode": None}, ValueError, "mode"), ({"mode": 1}, ValueError, "mode"), ({"mode": ["shared"]}, ValueError, "mode"), ({"prefetch": 0}, ValueError, "prefetch"), ({"prefetch": "1"}, TypeError, "prefetch"), ({"prefetch": True}, TypeError, "prefetch"), ({"auto_ack": 1}, TypeError, "auto_ack"), ({"auto_ack": None}, TypeError, "auto_ack")])
def test_consumer_refuses_a_bad_value_by_name_and_locks_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        q.consumer(**options)
    q.put(1)
    assert q.get(timeout=0) == 1


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [({"rate": value}, ValueError, "rate") for value in (0, -1, INF, NAN, 1e10, 1e-10)]
    + [({"rate": value}, TypeError, "rate") for value in ("5", True, (5, 1), [5])]
    + [({"max": value}, ValueError, "max") for value in (0, -1)]
    + [({"max": value}, TypeError, "max") for value in ("5", 1.0, True)]
    + [({"filter": value}, TypeError, "filter") for value in ("x", 5, {"type": "a"})],
)
def test_redrive_refuses_a_bad_value_by_name_and_moves_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str) -> None:
    q.put(1)
    q.receive(timeout=0)[0].reject()
    with pytest.raises(error, match=named):
        q.redrive(**options)
    assert (q.stats().dead, q.stats().ready, q.stats().delayed) == (1, 0, 0)


# ---------------------------------------------------------------------- update, cancel
PRIORITIES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"priority": 2**31}, ValueError, "priority"),
    ({"priority": 1.0}, TypeError, "priority"),
    ({"priority": "1"}, TypeError, "priority"),
    ({"priority": True}, TypeError, "priority"),
    ({}, TypeError, "priority, delay, eta or ttl"),
]


@pytest.mark.parametrize(("options", "error", "named"), TIMES + PRIORITIES)
@pytest.mark.parametrize("exists", [True, False])
def test_update_refuses_a_bad_value_by_name_and_changes_nothing(q: mqlite.Queue[Any], options: dict[str, Any], error: type[Exception], named: str, exists: bool) -> None:
    number = q.put("x")
    with pytest.raises(error, match=named):
        q.update(number if exists else number + 1000, **options)
    [message] = q.peek()
    assert (message.id, message.priority, message.expires_at, q.stats().delayed) == (number, 0, None, 0)


@pytest.mark.parametrize("option", ["group", "headers", "dedup_id", "body", "unique"])
def test_update_changes_nothing_else(q: mqlite.Queue[Any], option: str) -> None:
    number = q.put("x")
    with pytest.raises(TypeError, match=option):
        q.update(number, **{option: "y"})


@pytest.mark.parametrize(("number", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.0, TypeError), (None, TypeError), (True, TypeError)])
def test_an_id_is_a_positive_int(q: mqlite.Queue[Any], number: Any, error: type[Exception]) -> None:
    q.put("x")
    for call in (lambda: q.cancel(number), lambda: q.update(number, priority=1), lambda: q.dead.cancel(number)):
        with pytest.raises(error, match="id"):
            call()
    assert len(q) == 1


@pytest.mark.parametrize("call", [lambda q: q.cancel(1), lambda q: q.update(1, delay=0), lambda q: q.configure(rate=1), lambda q: q.redrive(), lambda q: q.consumer(mode="failover"), lambda q: q.put(1, group="g")])
def test_a_closed_queue_says_so(make_queue: MakeQueue, call: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = make_queue()
    q.close()
    with pytest.raises(mqlite.Closed):
        call(q)
