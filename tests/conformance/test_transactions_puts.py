"""Puts in a transaction are the same puts as outside, one after the other; room is counted once, at the commit."""

# ruff: noqa: F811
from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bounded import BOUNDED
from contents import bodies
from fixture_types import Eventually, InThread, UntilWaiting
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st
from topic_things import got, held
from transaction_things import GUARD, broker, counts, looks, received, timed_broker  # noqa: F401

import mqlite
from mqlite.claims import Kind

BODY = b"x" * 100


# ---------------------------------------------------------------------- options
OPTIONS: dict[str, dict[str, Any]] = {
    "priority": {"priority": 7},
    "lowest priority": {"priority": -(2**31)},
    "ttl": {"ttl": 60},
    "group": {"group": "g"},
    "headers": {"headers": {"a": [1, {"b": None}]}},
    "type": {"type": "t"},
    "reply_to": {"reply_to": "replies"},
    "correlation_id": {"correlation_id": "c"},
    "dedup_id": {"dedup_id": "d"},
    "replace_key": {"replace_key": "r"},
    "unique": {"unique": "u"},
    "unique_states": {"unique": "u", "unique_states": ("ready", "dead")},
    "all": {"priority": 2, "ttl": 5, "group": "g", "headers": {"a": 1}, "type": "t", "reply_to": "r", "correlation_id": "c", "dedup_id": "d", "replace_key": "r", "unique": "u"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_message_is_as_one_that_was_put_outside(timed_broker: mqlite.Broker, options: dict[str, Any]) -> None:
    inside, outside = timed_broker.queue("inside"), timed_broker.queue("outside")
    body = {"a": [1, "x", None], "b": 1.5}
    outside.put(body, **options)
    with timed_broker.transaction() as tx:
        inside.put(body, tx=tx, **options)
    assert looks(inside) == looks(outside)
    assert len(looks(inside)) == 1


@pytest.mark.parametrize("options", [options for name, options in OPTIONS.items() if name not in ("dedup_id", "replace_key", "unique", "unique_states", "all")])
def test_many_messages_are_as_those_that_were_put_outside(timed_broker: mqlite.Broker, options: dict[str, Any]) -> None:
    inside, outside = timed_broker.queue("inside"), timed_broker.queue("outside")
    outside.put_many(["a", b"b", 3], **options)
    with timed_broker.transaction() as tx:
        inside.put_many(["a", b"b", 3], tx=tx, **options)
    assert looks(inside) == looks(outside)
    assert len(looks(inside)) == 3


@pytest.mark.parametrize("name", ["dedup_id", "replace_key", "unique"])
def test_put_many_has_the_same_restrictions_as_outside(broker: mqlite.Broker, name: str) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx, pytest.raises(TypeError, match=name):
        q.put_many([1], tx=tx, **{name: "x"})
    assert counts(q) == (0, 0, 0, 0)


def test_a_message_is_put_at_the_time_of_the_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    before = datetime.now(UTC)
    with broker.transaction() as tx:
        q.put(1, tx=tx)
    [message] = q.peek()
    assert abs((message.enqueued_at - before).total_seconds()) < 60


@pytest.mark.parametrize("how", ["delay", "eta", "datetime"])
def test_a_delayed_message_lines_up_at_its_time(timed_broker: mqlite.Broker, clock: HandClock, how: str) -> None:
    q = timed_broker.queue("q")
    options: dict[str, Any] = {"delay": {"delay": 10}, "eta": {"eta": clock.moment(10)}, "datetime": {"eta": datetime.fromtimestamp(clock.moment(10), UTC)}}[how]
    with timed_broker.transaction() as tx:
        q.put("later", tx=tx, **options)
        q.put("now", tx=tx)
    assert (counts(q), got(q)) == ((1, 1, 0, 0), ["now"])
    clock.pass_by(9.9)
    assert got(q) == []
    clock.pass_by(0.2)
    assert got(q) == ["later"]


def test_a_message_with_a_ttl_expires(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", expired="drop")
    with timed_broker.transaction() as tx:
        q.put("short", ttl=10, tx=tx)
        q.put("long", tx=tx)
    clock.pass_by(10.1)
    assert got(q) == ["long"]


def test_the_ttl_of_the_queue_holds_for_a_transaction(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", ttl=10, expired="drop")
    with timed_broker.transaction() as tx:
        q.put("short", tx=tx)
        q.put("long", ttl=20, tx=tx)
    clock.pass_by(10.1)
    assert got(q) == ["long"]


def test_one_of_a_group_is_in_flight_at_a_time(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx:
        q.put(1, group="g", tx=tx)
        q.put(2, group="g", tx=tx)
        q.put(3, group="h", tx=tx)
    found = held(q)
    assert sorted(message.body for message in found) == [1, 3]
    q.ack_many(found)
    assert got(q) == [2]


@pytest.mark.parametrize("options", [{"order": "lifo"}, {"fair": True}, {"aging": 5.0}, {"codec": "pickle"}], ids=lambda options: "".join(options))
def test_queues_of_every_order_take_puts_of_a_transaction(broker: mqlite.Broker, options: dict[str, Any]) -> None:
    inside, outside = broker.queue("inside", **options), broker.queue("outside", **options)
    puts: list[tuple[int, dict[str, Any]]] = [(number, {"priority": number % 2} | ({} if "order" in options else {"group": f"g{number % 3}"})) for number in range(12)]
    for body, said in puts:
        outside.put(body, **said)
    with broker.transaction() as tx:
        for body, said in puts:
            inside.put(body, tx=tx, **said)
    assert [message.body for message in inside.browse()] == [message.body for message in outside.browse()]
    assert got(inside) == got(outside)


def test_a_body_is_encoded_when_it_is_put(broker: mqlite.Broker, backend: str) -> None:
    q = broker.queue("q")
    body = {"a": 1}
    with broker.transaction() as tx:
        q.put(body, tx=tx)
        if backend == "disk":
            body["a"] = 2
    assert got(q) == [{"a": 1}]


def test_what_cannot_be_put_outside_cannot_be_put_in_a_transaction(broker: mqlite.Broker) -> None:
    sub = broker.topic("events").subscribe("s")
    with broker.transaction() as tx:
        for put in (lambda: sub.put(1, tx=tx), lambda: sub.put_nowait(1, tx=tx), lambda: sub.put_many([1], tx=tx)):
            with pytest.raises(mqlite.NotSupported):
                put()


# ---------------------------------------------------------------------- dedup_id, replace_key, unique
def test_a_second_put_with_the_same_dedup_id_in_one_transaction_stores_nothing(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q")
    with timed_broker.transaction() as tx:
        receipts = [q.put(1, dedup_id="d", tx=tx), q.put(2, dedup_id="d", tx=tx), q.put(3, dedup_id="e", tx=tx)]
    ids = [receipt.result() for receipt in receipts]
    assert (ids[0] == ids[1], ids[0] != ids[2], got(q)) == (True, True, [1, 3])


def test_a_dedup_id_is_remembered_before_and_after(timed_broker: mqlite.Broker, clock: HandClock) -> None:
    q = timed_broker.queue("q", dedup_window=60)
    first = q.put(1, dedup_id="before")
    with timed_broker.transaction() as tx:
        again = q.put(2, dedup_id="before", tx=tx)
        new = q.put(3, dedup_id="new", tx=tx)
    assert again.result() == first
    assert q.put(4, dedup_id="new") == new.result()
    assert got(q) == [1, 3]
    clock.pass_by(60)
    with timed_broker.transaction() as tx:
        later = q.put(5, dedup_id="new", tx=tx)
    assert (later.result() != new.result(), got(q)) == (True, [5])


def test_a_dedup_id_that_was_rolled_back_is_not_remembered(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q")
    tx = timed_broker.transaction()
    q.put(1, dedup_id="d", tx=tx)
    tx.rollback()
    q.put(2, dedup_id="d")
    assert got(q) == [2]


def test_a_transaction_of_duplicates_needs_no_room(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q", maxsize=1)
    first = q.put(1, dedup_id="d", unique="u")
    with timed_broker.transaction() as tx:
        receipts = [q.put(2, dedup_id="d", tx=tx), q.put(3, unique="u", tx=tx)]
    assert [receipt.result() for receipt in receipts] == [first, first]
    assert got(q) == [1]


def test_a_second_put_with_the_same_replace_key_replaces_the_first(broker: mqlite.Broker) -> None:
    inside, outside = broker.queue("inside"), broker.queue("outside")
    puts = [("a", {"replace_key": "r"}), ("b", {}), ("c", {"replace_key": "r"}), ("d", {}), ("e", {"replace_key": "s"}), ("f", {"replace_key": "r", "priority": 1})]
    for body, options in puts:
        outside.put(body, **options)
    with broker.transaction() as tx:
        for body, options in puts:
            inside.put(body, tx=tx, **options)
    assert looks(inside) == looks(outside)
    assert "a" not in bodies(inside)
    assert inside.unfinished_tasks == 4


@pytest.mark.parametrize("order", [{}, {"fair": True}, {"aging": 5.0}, {"order": "lifo"}], ids=["priority", "fair", "aging", "lifo"])
def test_a_replacement_takes_the_place_of_what_it_replaces(broker: mqlite.Broker, order: dict[str, Any]) -> None:
    inside, outside = broker.queue("inside", **order), broker.queue("outside", **order)
    puts: list[tuple[str, dict[str, Any]]] = [("a", {"replace_key": "r"}), ("b", {}), ("c", {"replace_key": "r"})]
    for body, options in puts:
        outside.put(body, **options)
    with broker.transaction() as tx:
        for body, options in puts:
            inside.put(body, tx=tx, **options)
    assert bodies(inside) == bodies(outside) == (["b", "c"] if "order" in order else ["c", "b"])


def test_a_replacement_frees_the_unique_key_of_what_it_replaces(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put("a", replace_key="r", unique="u")
    with broker.transaction() as tx:
        q.put("b", replace_key="r", tx=tx)
        q.put("c", unique="u", tx=tx)
    assert got(q) == ["b", "c"]


def test_puts_with_a_replacement_never_exceed_maxsize(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2, overflow="dead_letter")
    q.put("a", replace_key="r")
    with broker.transaction() as tx:
        q.put("b", tx=tx)
        q.put("c", tx=tx)
        q.put("d", replace_key="r", tx=tx)
    assert (bodies(q), bodies(q.dead)) == (["d", "b"], ["c"])


def test_a_duplicate_does_not_become_a_dead_letter(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1, overflow="dead_letter")
    with broker.transaction() as tx:
        receipts = [q.put("a", dedup_id="d", tx=tx), q.put("b", dedup_id="d", tx=tx), q.put("c", dedup_id="e", tx=tx), q.put("d", dedup_id="e", tx=tx)]
    ids = [receipt.result() for receipt in receipts]
    assert (bodies(q), bodies(q.dead), ids[0] == ids[1], ids[2] == ids[3]) == (["a"], ["c"], True, True)


def test_a_replacement_needs_no_room(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    q.put(1, replace_key="r")
    with broker.transaction() as tx:
        q.put(2, replace_key="r", tx=tx)
        q.put(3, replace_key="r", tx=tx)
    assert got(q) == [3]


def test_a_replacement_that_is_rolled_back_replaces_nothing(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    q.put(1, replace_key="r")
    tx = broker.transaction()
    q.put(2, replace_key="r", tx=tx)
    tx.rollback()
    assert got(q) == [1]


def test_a_claimed_message_is_not_replaced_unless_it_is_given_back(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q, 1, replace_key="r")
    with broker.transaction() as tx:
        q.put(2, replace_key="r", tx=tx)
    assert (counts(q), bodies(q)) == ((1, 0, 1, 0), [2])
    message.ack()


def test_a_second_put_with_the_same_unique_key_stores_nothing(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx:
        receipts = [q.put(1, unique="u", tx=tx), q.put(2, unique="u", tx=tx), q.put(3, unique="u", unique_states=("delayed",), tx=tx), q.put(4, unique="v", tx=tx)]
    ids = [receipt.result() for receipt in receipts]
    assert (ids[0] == ids[1], len(set(ids)), got(q)) == (True, 3, [1, 3, 4])


def test_a_message_that_is_acknowledged_in_the_transaction_is_not_in_the_way(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q, "old", unique="u")
    with broker.transaction() as tx:
        message.ack(tx=tx)
        receipt = q.put("new", unique="u", tx=tx)
    assert receipt.result() != message.id
    assert got(q) == ["new"]


STATES = ("delayed", "ready", "claimed", "dead")


def _leave(broker: mqlite.Broker, tx: mqlite.Transaction, q: mqlite.Queue[Any], state: str) -> int:
    """Stage that the message with the key "u" will be in that state."""
    message = received(q, "old", unique="u")
    if state == "delayed":
        message.nack(delay=100, tx=tx)
    elif state == "ready":
        message.nack(tx=tx)
    elif state == "dead":
        message.reject(tx=tx)
    return message.id


@pytest.mark.parametrize("asked", STATES)
@pytest.mark.parametrize("state", ["delayed", "ready", "dead"])
def test_a_message_that_is_given_back_in_the_transaction_is_in_the_way_as_what_it_will_be(timed_broker: mqlite.Broker, state: str, asked: str) -> None:
    q = timed_broker.queue("q")
    with timed_broker.transaction() as tx:
        old = _leave(timed_broker, tx, q, state)
        receipt = q.put("new", unique="u", unique_states=(asked,), tx=tx)
    assert (receipt.result() == old) == (state == asked)


def test_a_message_that_dies_of_its_nack_in_the_transaction_is_dead(broker: mqlite.Broker) -> None:
    q = broker.queue("q", max_deliveries=1)
    message = received(q, "old", unique="u")
    with broker.transaction() as tx:
        message.nack(tx=tx)
        dead = q.put("never", unique="u", unique_states=("dead",), tx=tx)
        new = q.put("new", unique="u", tx=tx)
    assert (dead.result() == message.id, new.result() != message.id, got(q)) == (True, True, ["new"])


def test_a_message_that_the_queue_s_backoff_delays_is_delayed(timed_broker: mqlite.Broker) -> None:
    q = timed_broker.queue("q", backoff=[10])
    message = received(q, "old", unique="u")
    with timed_broker.transaction() as tx:
        message.nack(tx=tx)
        same = q.put("never", unique="u", unique_states=("delayed",), tx=tx)
        new = q.put("new", unique="u", unique_states=("ready",), tx=tx)
    assert (same.result() == message.id, new.result() != message.id) == (True, True)


def test_a_message_that_somebody_holds_is_claimed(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    message = received(q, "old", unique="u")
    with broker.transaction() as tx:
        same = q.put("never", unique="u", unique_states=("claimed",), tx=tx)
    assert same.result() == message.id
    message.ack()


_options = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(-1, 1),
        "dedup_id": st.sampled_from(["d", "e"]),
        "replace_key": st.sampled_from(["r", "s"]),
        "unique": st.sampled_from(["u", "v"]),
        "group": st.sampled_from(["g", "h"]),
        "delay": st.just(1000),
        "headers": st.just({"a": 1}),
    },
)
_puts = st.lists(_options, min_size=1, max_size=8)


# A transaction drops what was there before, and nothing of its own, which could come first in line by priority or replacement.
_same_line = st.lists(_options.map(lambda options: {name: value for name, value in options.items() if name not in ("priority", "delay", "group", "replace_key")}), min_size=1, max_size=8)


@pytest.mark.parametrize(("overflow", "puts"), [("unbounded", _puts), ("drop_oldest", _same_line), ("dead_letter", _puts)])
@given(data=st.data())
@settings(BOUNDED, max_examples=40)
def test_puts_of_a_transaction_behave_as_one_after_the_other(overflow: str, puts: st.SearchStrategy[list[dict[str, Any]]], data: st.DataObject) -> None:
    before, inside = data.draw(puts), data.draw(puts)
    with mqlite.open() as broker:
        limits: dict[str, Any] = {} if overflow == "unbounded" else {"maxsize": 4, "overflow": overflow}
        outside, queue = broker.queue("outside", **limits), broker.queue("inside", **limits)

        def outcome(put: Callable[[], object]) -> str:
            try:
                put()
            except (mqlite.Full, ValueError):  # together they may be more than the queue ever holds
                return "full"
            return "fits"

        for number, options in enumerate(before):
            assert outcome(lambda options=options, number=number: outside.put(number, **options)) == outcome(lambda options=options, number=number: queue.put(number, **options))
        each = [outcome(lambda options=options, number=number: outside.put(100 + number, **options)) for number, options in enumerate(inside)]
        with_tx = broker.transaction()
        receipts = [queue.put(100 + number, tx=with_tx, **options) for number, options in enumerate(inside)]
        together = outcome(with_tx.commit)
        if "full" in each or together == "full":
            return  # all or nothing: it cannot be compared
        assert looks(queue) == looks(outside)
        assert counts(queue) == counts(outside)
        assert looks(queue.dead) == looks(outside.dead)
        assert all(receipt.result() for receipt in receipts)
        assert broker.check() == []


# ---------------------------------------------------------------------- room
def test_an_acknowledgement_makes_room_for_a_put_of_the_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    with broker.transaction() as tx:
        message.ack(tx=tx)
        q.put(2, tx=tx)
    assert got(q) == [2]


def test_the_order_of_staging_does_not_matter_for_room(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    with broker.transaction() as tx:
        q.put(2, tx=tx)
        message.ack(tx=tx)
    assert got(q) == [2]


@pytest.mark.parametrize("overflow", ["block", "reject", "drop_oldest", "dead_letter"])
def test_acknowledgements_make_room_whatever_the_overflow(broker: mqlite.Broker, overflow: str) -> None:
    q = broker.queue("q", maxsize=3, overflow=overflow)
    q.put_many([1, 2, 3])
    found = q.receive(2, timeout=0)
    with broker.transaction() as tx:
        q.ack_many(found, tx=tx)
        q.put_many([4, 5], tx=tx)
    assert (got(q), q.stats().dead) == ([3, 4, 5], 0)


def test_a_rejected_message_makes_room(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    with broker.transaction() as tx:
        message.reject(tx=tx)
        q.put(2, tx=tx)
    assert (got(q), q.stats().dead) == ([2], 1)


@pytest.mark.parametrize("delay", [None, 100])
def test_a_message_that_is_given_back_makes_no_room(broker: mqlite.Broker, delay: float | None) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    tx = broker.transaction()
    message.nack(delay=delay, tx=tx)
    q.put(2, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert counts(q) == (0, 0, 1, 0)
    message.ack()


def test_no_more_fits_than_was_freed(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2)
    q.put_many([1, 2])
    [message] = q.receive(timeout=0)
    tx = broker.transaction()
    message.ack(tx=tx)
    q.put(3, tx=tx)
    q.put(4, tx=tx)
    with pytest.raises(mqlite.Full, match="maxsize=2"):
        tx.commit()
    assert counts(q) == (1, 0, 1, 0)
    message.ack()
    assert got(q) == [2]


def test_messages_of_several_puts_are_counted_together(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=3)
    q.put(0)
    tx = broker.transaction()
    q.put(1, tx=tx)
    q.put_many([2, 3], tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert got(q) == [0]
    with broker.transaction() as tx:
        q.put(1, tx=tx)
        q.put_many([2, 3], tx=tx)
    assert got(q) == [1, 2, 3]


def test_more_than_a_queue_ever_holds_is_refused(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2)
    with pytest.raises((mqlite.Full, ValueError)), broker.transaction() as tx:
        q.put_many([1, 2, 3], tx=tx)
    assert counts(q) == (0, 0, 0, 0)


def test_an_acknowledgement_in_another_queue_makes_no_room(broker: mqlite.Broker) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("other", maxsize=1)
    q.put(1)
    message = received(other)
    tx = broker.transaction()
    message.ack(tx=tx)
    q.put(2, tx=tx)
    with pytest.raises(mqlite.Full, match="'q'"):
        tx.commit()
    assert (counts(q), counts(other)) == ((1, 0, 0, 0), (0, 0, 1, 0))
    message.ack()


def test_a_full_queue_aborts_what_goes_to_others(broker: mqlite.Broker) -> None:
    q, other, topic = broker.queue("q", maxsize=1), broker.queue("other"), broker.topic("events")
    sub = topic.subscribe("s")
    q.put(1)
    tx = broker.transaction()
    other.put("a", tx=tx)
    topic.publish("b", tx=tx)
    q.put("c", tx=tx)
    other.put("d", dedup_id="d", tx=tx)
    tx.table("t")["k"] = 1
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert (bodies(q), counts(other), counts(sub), len(broker.table("t")), broker.tables()) == ([1], (0, 0, 0, 0), (0, 0, 0, 0), 0, [])
    other.put("e", dedup_id="d")
    assert got(other) == ["e"]


def test_a_failed_commit_leaves_no_id_taken_and_the_queue_works(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2)
    q.put_many([1, 2])
    for _ in range(5):
        with pytest.raises(mqlite.Full), broker.transaction() as tx:
            q.put(3, tx=tx)
    assert got(q) == [1, 2]
    with broker.transaction() as tx:
        q.put(3, tx=tx)
    assert got(q) == [3]


# ---------------------------------------------------------------------- overflow
@pytest.mark.parametrize("timeout", [0, 30.0, None])
def test_reject_raises_full_at_once_whatever_the_timeout(broker: mqlite.Broker, timeout: float | None) -> None:
    q = broker.queue("q", maxsize=1, overflow="reject")
    q.put(1)
    tx = broker.transaction(timeout=timeout)
    receipt = q.put(2, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert (bodies(q), type(receipt.error)) == ([1], mqlite.Full)


def test_drop_oldest_removes_the_first_in_line_for_the_puts_of_a_transaction(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    with broker.transaction() as tx:
        q.put(4, tx=tx)
        q.put(5, tx=tx)
        assert bodies(q) == [1, 2, 3]
    assert (bodies(q), q.unfinished_tasks, q.stats().dead) == ([3, 4, 5], 3, 0)


def test_drop_oldest_never_drops_what_somebody_holds(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    [message] = q.receive(timeout=0)
    with broker.transaction() as tx:
        q.put(3, tx=tx)
    assert (bodies(q), counts(q)) == ([3], (1, 0, 1, 0))
    message.ack()


def test_drop_oldest_raises_full_when_everything_is_held(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2, overflow="drop_oldest")
    q.put_many([1, 2])
    found = held(q)
    for timeout in (0, 30.0, None):
        tx = broker.transaction(timeout=timeout)
        q.put(3, tx=tx)
        with pytest.raises(mqlite.Full):
            tx.commit()
    assert counts(q) == (0, 0, 2, 0)
    q.ack_many(found)


def test_drop_oldest_drops_nothing_when_the_transaction_fails(broker: mqlite.Broker) -> None:
    q, full = broker.queue("q", maxsize=2, overflow="drop_oldest"), broker.queue("full", maxsize=1)
    q.put_many([1, 2])
    full.put(0)
    tx = broker.transaction()
    q.put(3, tx=tx)
    full.put(1, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert (bodies(q), bodies(full)) == ([1, 2], [0])


def test_drop_oldest_drops_no_more_than_it_must_after_an_acknowledgement(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=3, overflow="drop_oldest")
    q.put_many([1, 2, 3])
    [message] = q.receive(timeout=0)
    with broker.transaction() as tx:
        q.put_many([4, 5], tx=tx)
        message.ack(tx=tx)
    assert bodies(q) == [3, 4, 5]


def test_what_finds_no_room_becomes_a_dead_letter(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=2, overflow="dead_letter")
    q.put(1)
    with broker.transaction() as tx:
        receipts = [q.put(2, tx=tx), *q.put_many([3, 4], tx=tx)]
    assert (bodies(q), bodies(q.dead)) == ([1, 2], [3, 4])
    assert [receipt.result() for receipt in receipts] == [message.id for message in [*q.browse(), *q.dead.browse()]][1:]
    [first, _] = q.dead.peek(2)
    assert first.death is not None
    assert (first.death.reason, first.death.queue) == ("overflow", "q")


def test_queues_of_every_overflow_in_one_transaction(broker: mqlite.Broker) -> None:
    queues = {overflow: broker.queue(overflow, maxsize=1, overflow=overflow) for overflow in ("block", "reject", "drop_oldest", "dead_letter")}
    for q in queues.values():
        q.put("old")
    found = [held(queues[name])[0] for name in ("block", "reject")]
    with broker.transaction() as tx:
        for q in queues.values():
            q.put("new", tx=tx)
        for message in found:
            message.ack(tx=tx)
    assert {name: bodies(q) for name, q in queues.items()} == {"block": ["new"], "reject": ["new"], "drop_oldest": ["new"], "dead_letter": ["old"]}
    assert bodies(queues["dead_letter"].dead) == ["new"]


# ---------------------------------------------------------------------- maxbytes
@pytest.fixture
def size(broker: mqlite.Broker) -> int:
    """What BODY takes."""
    scale = broker.queue("scale")
    scale.put(BODY)
    return scale.stats().bytes


def test_bytes_are_counted_together(broker: mqlite.Broker, size: int) -> None:
    q = broker.queue("q", maxbytes=3 * size)
    q.put(BODY)
    tx = broker.transaction()
    for _ in range(3):
        q.put(BODY, tx=tx)
    with pytest.raises(mqlite.Full, match=f"maxbytes={3 * size}"):
        tx.commit()
    assert q.stats().bytes == size
    with broker.transaction() as tx:
        for _ in range(2):
            q.put(BODY, tx=tx)
    assert q.stats().bytes == 3 * size


def test_an_acknowledgement_frees_bytes_for_the_transaction(broker: mqlite.Broker, size: int) -> None:
    q = broker.queue("q", maxbytes=2 * size)
    q.put_many([BODY, BODY])
    [message] = q.receive(timeout=0)
    with broker.transaction() as tx:
        message.ack(tx=tx)
        q.put(BODY, tx=tx)
    assert (q.stats().bytes, counts(q)) == (2 * size, (2, 0, 0, 0))
    [message] = q.receive(timeout=0)
    tx = broker.transaction()
    message.ack(tx=tx)
    q.put(BODY + b"x", tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    message.ack()


def test_drop_oldest_makes_room_of_bytes(broker: mqlite.Broker, size: int) -> None:
    q = broker.queue("q", maxbytes=2 * size, overflow="drop_oldest")
    q.put_many([BODY, BODY])
    with broker.transaction() as tx:
        q.put(BODY[:-1] + b"1", tx=tx)
        q.put(BODY[:-1] + b"2", tx=tx)
    assert [body[-1:] for body in bodies(q)] == [b"1", b"2"]


def test_what_finds_no_bytes_becomes_a_dead_letter(broker: mqlite.Broker, size: int) -> None:
    q = broker.queue("q", maxbytes=2 * size, overflow="dead_letter")
    q.put(BODY)
    with broker.transaction() as tx:
        q.put_many([BODY, BODY], tx=tx)
    assert counts(q) == (2, 0, 0, 1)


# ---------------------------------------------------------------------- waiting for room
def test_a_commit_waits_for_room_and_is_woken(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("other")
    q.put(1)
    tx = broker.transaction(timeout=GUARD)
    receipt = q.put(2, tx=tx)
    other.put(3, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    assert (counts(other), receipt.done) == ((0, 0, 0, 0), False)
    assert q.get(timeout=0) == 1
    waiting.result(GUARD)
    assert (bodies(q), bodies(other), receipt.result()) == ([2], [3], q.peek()[0].id)


def test_a_block_waits_for_room_for_ever(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)

    def work() -> None:
        with broker.transaction(timeout=None) as tx:
            q.put(2, tx=tx)

    waiting = in_thread(work)
    until_waiting(q, Kind.SPACE)
    message.ack()
    waiting.result(GUARD)
    assert got(q) == [2]


def test_a_commit_that_finds_no_room_in_time_is_full(broker: mqlite.Broker) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("other")
    q.put(1)
    tx = broker.transaction(timeout=0.05)
    other.put(2, tx=tx)
    q.put(2, tx=tx)
    with pytest.raises(mqlite.Full):
        tx.commit()
    assert (bodies(q), counts(other), tx.is_open) == ([1], (0, 0, 0, 0), False)


def test_a_commit_waits_for_one_full_queue_after_the_other(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    one, two = broker.queue("one", maxsize=1), broker.queue("two", maxsize=1)
    one.put(1)
    two.put(1)
    tx = broker.transaction(timeout=GUARD)
    one.put(2, tx=tx)
    two.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(one, Kind.SPACE)
    assert one.get(timeout=0) == 1
    until_waiting(two, Kind.SPACE)
    assert bodies(one) == []
    assert two.get(timeout=0) == 1
    waiting.result(GUARD)
    assert (bodies(one), bodies(two)) == ([2], [2])


def test_a_transaction_s_acknowledgement_wakes_a_commit_that_waits(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    waiting_tx = broker.transaction(timeout=GUARD)
    q.put(2, tx=waiting_tx)
    waiting = in_thread(waiting_tx.commit)
    until_waiting(q, Kind.SPACE)
    with broker.transaction() as tx:
        message.ack(tx=tx)
    waiting.result(GUARD)
    assert got(q) == [2]


def test_a_transaction_s_acknowledgement_wakes_a_put_that_waits(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    message = received(q, 1)
    waiting = in_thread(q.put, 2, timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    with broker.transaction() as tx:
        message.ack(tx=tx)
    waiting.result(GUARD)
    assert got(q) == [2]


def test_a_commit_that_waits_finds_a_larger_queue(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    q.put(1)
    tx = broker.transaction(timeout=GUARD)
    q.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    q.configure(maxsize=2)
    waiting.result(GUARD)
    assert got(q) == [1, 2]


def test_a_commit_that_waits_is_told_of_a_shutdown(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("other")
    q.put(1)
    tx = broker.transaction(timeout=None)
    q.put(2, tx=tx)
    other.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        waiting.result(GUARD)
    assert counts(other) == (0, 0, 0, 0)


def test_what_was_read_and_changed_while_a_commit_waited_is_a_conflict(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    q.put(1)
    tx = broker.transaction(timeout=None)
    assert "k" not in tx.table("t")
    q.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    broker.table("t")["k"] = 1
    assert q.get(timeout=0) == 1
    with pytest.raises(mqlite.Conflict):
        waiting.result(GUARD)
    assert counts(q) == (0, 0, 0, 0)


def test_a_claim_that_is_lost_while_a_commit_waits_fails_it(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, work = broker.queue("q", maxsize=1), broker.queue("work")
    q.put(1)
    work.put("x")
    consumer = work.consumer()
    tx = broker.transaction(timeout=None)
    consumer.receive(0).ack(tx=tx)
    q.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    consumer.close()
    assert q.get(timeout=0) == 1
    with pytest.raises(mqlite.LeaseLost):
        waiting.result(GUARD)
    assert (counts(q), counts(work)) == ((0, 0, 0, 0), (1, 0, 0, 0))


def test_while_a_commit_waits_others_go_on(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("other")
    q.put(1)
    tx = broker.transaction(timeout=GUARD)
    q.put(2, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    other.put(1)
    with broker.transaction() as second:
        other.put(2, tx=second)
    assert got(other) == [1, 2]
    q.get(timeout=0)
    waiting.result(GUARD)


def test_transactions_that_wait_for_room_all_get_it(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=2)
    q.put_many(["a", "b"])

    def put(number: int) -> None:
        with broker.transaction(timeout=GUARD) as tx:
            q.put([number, 1], tx=tx)
            q.put([number, 2], tx=tx)

    waiting = [in_thread(put, number) for number in range(4)]
    until_waiting(q, Kind.SPACE, 4)
    found: list[Any] = [q.get(timeout=GUARD) for _ in range(10)]
    for future in waiting:
        future.result(GUARD)
    assert sorted(found[2:]) == [[number, part] for number in range(4) for part in (1, 2)]
    assert [found[place][0] for place in range(2, 10, 2)] == [found[place][0] for place in range(3, 10, 2)]


# ---------------------------------------------------------------------- shut down
def test_a_put_into_a_queue_that_was_shut_down_fails(broker: mqlite.Broker) -> None:
    q, other = broker.queue("q"), broker.queue("other")

    def work(tx: mqlite.Transaction) -> None:
        with tx:
            other.put(1, tx=tx)
            q.put(1, tx=tx)

    tx = broker.transaction()
    q.put(1, tx=tx)
    q.shutdown()
    with pytest.raises(mqlite.ShutDown):
        tx.commit()
    with pytest.raises(mqlite.ShutDown):
        work(broker.transaction())
    assert (counts(q), counts(other)) == ((0, 0, 0, 0), (0, 0, 0, 0))


# ---------------------------------------------------------------------- who waits for messages
def test_a_consumer_that_waits_is_woken_by_the_commit_and_not_before(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q")
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    with broker.transaction() as tx:
        q.put("x", tx=tx)
        assert not waiting.done()
    assert waiting.result(GUARD) == "x"


def test_consumers_of_several_queues_are_woken_by_one_commit(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    queues = [broker.queue(f"q{number}") for number in range(4)]
    waiting = [in_thread(q.get, timeout=GUARD) for q in queues for _ in range(2)]
    for q in queues:
        until_waiting(q, n=2)
    with broker.transaction() as tx:
        for number, q in enumerate(queues):
            q.put_many([number, number], tx=tx)
    assert [future.result(GUARD) for future in waiting] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_consumer_waits_for_a_delayed_message_of_a_transaction(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q")
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    with broker.transaction() as tx:
        q.put("x", delay=0.02, tx=tx)
    assert waiting.result(GUARD) == "x"


def test_watermarks_hear_of_a_transaction(broker: mqlite.Broker, eventually: Eventually) -> None:
    q = broker.queue("q")
    heard: list[int] = []
    with q.watermarks(3, 1, on_high=heard.append):
        with broker.transaction() as tx:
            q.put_many([1, 2, 3, 4], tx=tx)
        eventually(lambda: heard)
    assert heard == [4]


# ---------------------------------------------------------------------- bound queues
def test_publishes_and_puts_share_the_room_of_a_bound_queue(broker: mqlite.Broker) -> None:
    topic, q, free = broker.topic("events"), broker.queue("q", maxsize=3), broker.queue("free")
    topic.bind(q)
    topic.bind(free)
    q.put(0)
    tx = broker.transaction()
    q.put(1, tx=tx)
    topic.publish(2, tx=tx)
    q.put(3, tx=tx)
    with pytest.raises(mqlite.Full, match="'q'"):
        tx.commit()
    assert (counts(q), counts(free), topic.stats().published) == ((1, 0, 0, 0), (0, 0, 0, 0), 0)
    with broker.transaction() as tx:
        q.put(1, tx=tx)
        topic.publish(2, tx=tx)
    assert (bodies(q), bodies(free)) == ([0, 1, 2], [2])


def test_an_acknowledgement_makes_room_for_a_publish_of_the_transaction(broker: mqlite.Broker) -> None:
    topic, q = broker.topic("events"), broker.queue("q", maxsize=1)
    topic.bind(q)
    topic.publish(1)
    [message] = held(q)
    with broker.transaction() as tx:
        receipt = topic.publish(2, tx=tx)
        message.ack(tx=tx)
    assert (receipt.result().receivers, bodies(q)) == (1, [2])


def test_a_commit_waits_for_room_in_a_bound_queue(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    topic, q, other = broker.topic("events"), broker.queue("q", maxsize=1), broker.queue("other")
    topic.bind(q)
    q.put(1)
    tx = broker.transaction(timeout=GUARD)
    topic.publish(2, tx=tx)
    other.put(3, tx=tx)
    waiting = in_thread(tx.commit)
    until_waiting(q, Kind.SPACE)
    assert counts(other) == (0, 0, 0, 0)
    assert q.get(timeout=0) == 1
    waiting.result(GUARD)
    assert (bodies(q), bodies(other)) == ([2], [3])


def test_several_topics_that_feed_one_queue_keep_the_order(broker: mqlite.Broker) -> None:
    topics, q = [broker.topic(f"t{number}") for number in range(3)], broker.queue("q")
    for topic in topics:
        topic.bind(q)
    with broker.transaction() as tx:
        for number in range(12):
            if number % 4 == 3:
                q.put(number, tx=tx)
            else:
                topics[number % 4].publish(number, tx=tx)
    assert got(q) == list(range(12))


def test_many_puts_into_many_queues(broker: mqlite.Broker) -> None:
    queues = [broker.queue(f"q{number}") for number in range(20)]
    with broker.transaction() as tx:
        for number in range(1000):
            queues[number % 20].put(number, tx=tx)
    for place, q in enumerate(queues):
        assert got(q) == list(range(place, 1000, 20))
