"""A dedup_id is stored once in its window; a unique message is there once while it is in the named states."""

from __future__ import annotations

import os
import shutil
import threading
from typing import Any

import pytest
from contents import taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import SECOND, HandClock, timed_queue

import mqlite
from mqlite.claims import Kind
from mqlite.log.index import DEDUP, DEDUP_END

GUARD = 60.0


def remembered(queue: mqlite.Queue[Any]) -> tuple[int, int]:
    """How many dedup_ids are remembered, and how many times at which they are forgotten."""
    with queue._engine.log.read() as snapshot:
        ids, ends = (len(list(snapshot.entries(kind, queue._state.id))) for kind in (DEDUP, DEDUP_END))
        return ids, ends


# ---------------------------------------------------------------------- dedup_id
def test_a_second_put_stores_nothing_and_returns_the_first_id(timed: MakeQueue) -> None:
    q = timed()
    first = q.put("first", dedup_id="d")
    assert [q.put(body, dedup_id="d") for body in ("second", "third")] == [first, first]
    assert (len(q), taken(q)) == (1, ["first"])


def test_other_ids_and_messages_without_one_are_stored(timed: MakeQueue) -> None:
    q = timed()
    ids = {q.put(1, dedup_id="a"), q.put(1, dedup_id="b"), q.put(1), q.put(1)}
    assert (len(ids), len(q)) == (4, 4)


def test_every_queue_remembers_its_own(timed: MakeQueue) -> None:
    one, other = timed("one"), timed("other")
    assert one.put(1, dedup_id="d") != other.put(1, dedup_id="d")
    assert (len(one), len(other)) == (1, 1)


@pytest.mark.parametrize("dedup_id", ["x", "x" * 10_000, "\x00", "日本", " ", "\ud800"])
def test_any_text_is_an_id(timed: MakeQueue, dedup_id: str) -> None:
    q = timed()
    assert q.put(1, dedup_id=dedup_id) == q.put(2, dedup_id=dedup_id)
    q.put(3, dedup_id=dedup_id + "x")
    assert taken(q) == [1, 3]


@pytest.mark.parametrize("end", ["get", "ack", "reject", "claimed", "cancel", "purge", "expire"])
def test_the_id_is_remembered_whatever_became_of_the_message(timed: MakeQueue, clock: HandClock, end: str) -> None:
    q = timed()
    first = q.put("x", dedup_id="d", ttl=10)
    if end == "get":
        q.get(timeout=0)
    elif end in ("ack", "reject", "claimed"):
        [message] = q.receive(timeout=0)
        if end != "claimed":
            getattr(message, end)()
    elif end == "cancel":
        assert q.cancel(first)
    elif end == "purge":
        q.purge()
    else:
        clock.pass_by(10)
        q.stats()
    assert q.put("y", dedup_id="d") == first
    assert (q.stats().ready, q.unfinished_tasks) == (0, 1 if end in ("claimed", "get") else 0)


def test_after_the_window_the_id_is_new(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=60)
    first = q.put(1, dedup_id="d")
    clock.pass_by(59.999)
    assert q.put(2, dedup_id="d") == first
    clock.pass_by(0.001)
    second = q.put(3, dedup_id="d")
    assert second != first
    assert (q.put(4, dedup_id="d"), taken(q)) == (second, [1, 3])


def test_a_duplicate_does_not_prolong_the_window(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=60)
    first = q.put(1, dedup_id="d")
    for _ in range(5):
        clock.pass_by(11)
        assert q.put(2, dedup_id="d") == first
    clock.pass_by(5)
    assert q.put(3, dedup_id="d") != first


def test_the_window_is_five_minutes_unless_it_is_named(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    first = q.put(1, dedup_id="d")
    clock.pass_by(299.999)
    assert q.put(2, dedup_id="d") == first
    clock.pass_by(0.001)
    assert q.put(3, dedup_id="d") != first


def test_the_window_can_be_changed_for_what_is_put_from_then_on(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=1)
    q.configure(dedup_window=100)
    first = q.put(1, dedup_id="d")
    clock.pass_by(99)
    assert q.put(2, dedup_id="d") == first


def test_setting_the_wall_clock_does_not_end_the_window(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=60)
    first = q.put(1, dedup_id="d")
    clock.set_wall(10**6)
    assert q.put(2, dedup_id="d") == first
    clock.set_wall(-2 * 10**6)
    assert q.put(2, dedup_id="d") == first
    clock.monotonic += 60 * SECOND
    assert q.put(3, dedup_id="d") != first


def test_two_handles_share_the_window(timed: MakeQueue) -> None:
    one, other = timed(), timed()
    assert one.put(1, dedup_id="d") == other.put(2, dedup_id="d")


def test_of_a_producer_s_batch_one_is_stored_and_all_have_its_id(timed: MakeQueue) -> None:
    q = timed()
    before = q.put("before", dedup_id="b")
    with q.producer() as producer:
        receipts = [producer.put(number, dedup_id="d") for number in range(20)] + [producer.put("x", dedup_id="b"), producer.put("free")]
    ids = [receipt.result(0) for receipt in receipts]
    assert (len(set(ids[:20])), ids[20], ids[21] not in ids[:21]) == (1, before, True)
    assert taken(q) == ["before", 0, "free"]


def test_a_duplicate_raises_neither_full_nor_waits(timed: MakeQueue) -> None:
    q = timed(maxsize=1)
    first = q.put(1, dedup_id="d")
    assert (q.put(2, dedup_id="d", timeout=0), q.put(2, dedup_id="d", timeout=None)) == (first, first)
    with pytest.raises(mqlite.Full):
        q.put(3, dedup_id="e", timeout=0)
    assert q.put_nowait(2, dedup_id="d") == first


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter"])
def test_a_duplicate_is_no_overflow(timed: MakeQueue, overflow: str) -> None:
    q = timed(maxsize=1, overflow=overflow)
    first = q.put(1, dedup_id="d", unique="u")
    assert (q.put(2, dedup_id="d"), q.put(2, unique="u")) == (first, first)
    assert (q.stats().dead, taken(q)) == (0, [1])


def test_a_put_that_was_refused_is_not_remembered(timed: MakeQueue) -> None:
    q = timed(maxsize=1)
    q.put("full")
    with pytest.raises(mqlite.Full):
        q.put(1, dedup_id="d", timeout=0)
    assert taken(q) == ["full"]
    q.put(2, dedup_id="d")
    assert taken(q) == [2]


def test_a_dead_letter_of_overflow_is_remembered(timed: MakeQueue) -> None:
    q = timed(maxsize=1, overflow="dead_letter")
    q.put("full")
    letter = q.put(1, dedup_id="d")
    q.get(timeout=0)
    assert (q.put(2, dedup_id="d"), len(q), q.dead.get(timeout=0)) == (letter, 0, 1)


def test_puts_that_wait_for_room_find_out_that_they_became_duplicates(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("full")
    waiting = [in_thread(q.put, number, dedup_id="d", timeout=GUARD) for number in range(3)]
    until_waiting(q, Kind.SPACE, 3)
    assert q.get(timeout=0) == "full"
    q.get(timeout=GUARD)
    ids = {future.result(GUARD) for future in waiting}
    assert (len(ids), q.stats().ready) == (1, 0)


def test_a_put_that_became_a_duplicate_while_it_waited_does_not_raise_full_in_the_end(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("full")
    waiting = in_thread(q.put, 1, dedup_id="d", timeout=0.5)
    until_waiting(q, Kind.SPACE)
    q.configure(maxsize=2)
    first = q.put(2, dedup_id="d", timeout=GUARD)
    assert (waiting.result(GUARD), q.stats().ready) == (first, 2)


def test_a_delayed_message_is_remembered_from_its_put_on(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=60)
    first = q.put(1, dedup_id="d", delay=100)
    assert q.put(2, dedup_id="d") == first
    clock.pass_by(60)
    second = q.put(3, dedup_id="d")
    assert second != first
    clock.pass_by(40)
    assert taken(q) == [3, 1]


def test_dedup_goes_together_with_groups_keys_and_order(timed: MakeQueue) -> None:
    for number, order in enumerate(({}, {"fair": True}, {"aging": 5.0})):
        q = timed(f"q{number}", **order)
        first = q.put(1, dedup_id="d", group="g", replace_key="r", unique="u", ttl=100, priority=1)
        assert q.put(2, dedup_id="d", group="h", replace_key="r", priority=5) == first
        assert [(message.body, message.priority, message.group) for message in q.peek(5)] == [(1, 1, "g")]


def test_a_replacement_with_a_known_id_replaces_nothing(timed: MakeQueue) -> None:
    q = timed()
    first = q.put(1, replace_key="r", dedup_id="d")
    assert q.put(2, replace_key="r", dedup_id="d") == first
    second = q.put(3, replace_key="r", dedup_id="e")
    assert (second != first, taken(q)) == (True, [3])


# ---------------------------------------------------------------------- restarts
def test_the_window_goes_on_over_closing_and_a_reboot(path: str) -> None:
    clock = HandClock()
    with timed_queue(path, clock) as q:
        first = q.put(1, dedup_id="d")
        q.get(timeout=0)
    clock.pass_by(100)
    with timed_queue(path, clock) as q:
        assert q.put(2, dedup_id="d") == first


@pytest.mark.parametrize("monotonic", [5.0, 1e6])
def test_after_a_reboot_the_window_goes_on_by_the_wall_clock(path: str, monotonic: float) -> None:
    clock = HandClock()
    with timed_queue(path, clock) as q:
        first = q.put(1, dedup_id="d")
    shutil.rmtree(os.path.join(path, "run"))  # what does not outlive a boot
    later = HandClock(monotonic=monotonic)
    later.wall = clock.wall + 299 * SECOND
    with timed_queue(path, later) as q:
        assert q.put(2, dedup_id="d") == first
        later.pass_by(1)
        assert q.put(3, dedup_id="d") != first
        assert q.check() == []


# ---------------------------------------------------------------------- forgetting
def test_ids_that_have_run_out_are_forgotten(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=10)
    most = 0
    for number in range(500):
        q.put(number, dedup_id=f"d{number}")
        q.get(timeout=0)
        clock.pass_by(1)
        ids, ends = remembered(q)
        assert ids == ends
        most = max(most, ids)
    assert most <= 12


def test_a_burst_is_forgotten_little_by_little(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=10)
    for number in range(60):
        q.put(number, dedup_id=f"burst {number}")
    assert remembered(q) == (60, 60)
    clock.pass_by(10)
    for number in range(60):
        q.put(number, dedup_id=f"later {number}")
    assert remembered(q) == (60, 60)


def test_an_id_that_is_used_again_is_remembered_once(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=10)
    for number in range(5):
        q.put(number, dedup_id="d")
        clock.pass_by(10)
    assert remembered(q) == (1, 1)
    assert taken(q) == [0, 1, 2, 3, 4]


def test_ids_leave_nothing_in_the_counts(timed: MakeQueue) -> None:
    q = timed()
    q.put(1, dedup_id="d")
    q.receive(timeout=0)[0].ack()
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, stats.dead, stats.bytes) == (0, 0, 0, 0, 0)
    q.join()


# ---------------------------------------------------------------------- threads
@pytest.mark.parametrize("options", [{"dedup_id": "d"}, {"unique": "u"}])
def test_of_threads_that_put_the_same_at_once_one_stores_it(make_queue: MakeQueue, in_thread: InThread, options: dict[str, str]) -> None:
    q = make_queue()
    for round_ in range(15):
        named = {name: f"{value}{round_}" for name, value in options.items()}
        start = threading.Barrier(5)

        def put(number: int, named: dict[str, str] = named, start: threading.Barrier = start) -> int:
            start.wait(GUARD)
            if number % 2:
                with q.producer() as producer:
                    return producer.put(number, **named).result(GUARD)
            return q.put(number, **named)

        ids = {future.result(GUARD) for future in [in_thread(put, number) for number in range(5)]}
        assert (len(ids), len(q)) == (1, 1)
        q.get(timeout=0)


# ---------------------------------------------------------------------- unique
def test_while_a_message_with_the_key_is_there_nothing_is_stored(timed: MakeQueue) -> None:
    q = timed()
    first = q.put(1, unique="u")
    assert (q.put(2, unique="u"), q.put(3, unique="v") != first) == (first, True)
    assert taken(q) == [1, 3]
    second = q.put(4, unique="u")
    assert (second != first, taken(q)) == (True, [4])


def in_state(q: mqlite.Queue[Any], state: str) -> int:
    """A message with the key "u" in that state; its id."""
    if state == "delayed":
        return q.put("x", unique="u", delay=1000)
    number = q.put("x", unique="u")
    if state == "claimed":
        _.append(q.receive(timeout=0)[0])
    elif state == "dead":
        q.receive(timeout=0)[0].reject()
    return number


_: list[mqlite.Message] = []
STATES = ("delayed", "ready", "claimed", "dead")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "states",
    [("delayed",), ("ready",), ("claimed",), ("dead",), ("ready", "delayed"), STATES, {"claimed", "dead"}, ["ready"]],
    ids=lambda states: f"{type(states).__name__} of {' '.join(sorted(states))}",  # a set's own text depends on the hash seed
)
def test_only_the_named_states_are_in_the_way(timed: MakeQueue, state: str, states: Any) -> None:
    q = timed()
    first = in_state(q, state)
    assert (q.put("y", unique="u", unique_states=states) == first) == (state in states)


@pytest.mark.parametrize("state", STATES)
def test_unless_named_the_dead_are_not_in_the_way(timed: MakeQueue, state: str) -> None:
    q = timed()
    first = in_state(q, state)
    assert (q.put("y", unique="u") == first) == (state != "dead")


def test_a_message_changes_its_state_as_time_passes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    first = q.put("x", unique="u", delay=10)
    assert q.put("y", unique="u", unique_states=("delayed",)) == first
    clock.pass_by(10)
    q.stats()
    assert q.put("y", unique="u", unique_states=("ready",)) == first
    [message] = q.receive(timeout=0)
    assert q.put("y", unique="u", unique_states=("claimed",)) == first
    message.nack(delay=10)
    assert q.put("y", unique="u", unique_states=("delayed",)) == first
    clock.pass_by(10)
    q.receive(timeout=0)[0].reject()
    assert q.put("y", unique="u", unique_states=("dead",)) == first
    assert q.dead.purge() == 1
    assert q.put("y", unique="u", unique_states=STATES) != first


def test_a_message_that_is_due_is_ready_to_a_put(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    first = q.put("x", unique="u", delay=10)
    clock.pass_by(10)
    assert q.put("y", unique="u", unique_states=("delayed", "ready")) == first


def test_what_was_given_back_is_ready(timed: MakeQueue) -> None:
    q = timed()
    first = q.put("x", unique="u")
    q.receive(timeout=0)[0].nack()
    assert q.put("y", unique="u", unique_states=("ready",)) == first
    assert q.put("y", unique="u", unique_states=("claimed",)) != first


@pytest.mark.parametrize("end", ["get", "ack", "cancel", "purge", "drop"])
def test_once_the_message_is_gone_the_key_is_free(timed: MakeQueue, end: str) -> None:
    q = timed(maxsize=1, overflow="drop_oldest")
    first = q.put("x", unique="u")
    if end == "get":
        q.get(timeout=0)
    elif end == "ack":
        q.receive(timeout=0)[0].ack()
    elif end == "cancel":
        assert q.cancel(first)
    elif end == "purge":
        q.purge()
    else:
        q.put("other")
    assert q.put("y", unique="u", unique_states=STATES) != first


def test_an_expired_message_is_not_in_the_way(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(expired="drop")
    first = q.put("x", unique="u", ttl=10)
    clock.pass_by(10)
    q.stats()
    assert q.put("y", unique="u") != first
    assert taken(q) == ["y"]


def test_the_key_goes_with_a_message_to_the_dead_and_back(timed: MakeQueue) -> None:
    q = timed(max_deliveries=1)
    first = q.put("x", unique="u")
    q.receive(timeout=0)[0].nack()
    assert q.put("y", unique="u", unique_states=("dead",)) == first
    assert q.redrive() == 1
    assert q.put("y", unique="u", unique_states=("ready",)) == first
    assert q.put("y", unique="u") == first
    q.receive(timeout=0)[0].nack()
    assert q.redrive(rate=1) == 1
    assert q.put("y", unique="u", unique_states=STATES) == first


def test_a_dead_letter_of_overflow_has_its_key(timed: MakeQueue) -> None:
    q = timed(maxsize=1, overflow="dead_letter")
    q.put("full")
    first = q.put("x", unique="u")
    assert q.put("y", unique="u", unique_states=("dead",)) == first
    assert q.stats().dead == 1


def test_a_producer_s_batch_stores_a_unique_message_once(timed: MakeQueue) -> None:
    q = timed()
    with q.producer() as producer:
        receipts = [producer.put(number, unique=f"u{number % 2}") for number in range(20)]
    assert len({receipt.result(0) for receipt in receipts}) == 2
    assert taken(q) == [0, 1]


def test_with_claimed_not_in_the_way_one_may_wait_while_one_runs(timed: MakeQueue) -> None:
    q = timed()
    first = q.put(1, unique="u")
    [running] = q.receive(timeout=0)
    states = ("ready", "delayed")
    second = q.put(2, unique="u", unique_states=states)
    assert (second != first, q.put(3, unique="u", unique_states=states)) == (True, second)
    running.ack()
    assert taken(q) == [2]


def test_unique_goes_together_with_dedup_delay_and_groups(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dedup_window=10)
    first = q.put(1, unique="u", dedup_id="d", delay=100, group="g")
    assert (q.put(2, unique="u", group="g"), q.put(2, dedup_id="d"), q.put(2, unique="u", dedup_id="e")) == (first, first, first)
    clock.pass_by(10)
    assert q.put(2, unique="u", dedup_id="d") == first
    free = q.put(3, dedup_id="d")
    assert free != first
    clock.pass_by(90)
    assert taken(q) == [3, 1]


def test_two_keys_of_two_kinds_do_not_meet(timed: MakeQueue) -> None:
    q = timed()
    q.put(1, unique="k")
    q.put(2, dedup_id="k")
    q.put(3, replace_key="k")
    assert taken(q) == [1, 2, 3]


def test_a_unique_message_is_found_after_a_restart(path: str) -> None:
    with mqlite.Queue[Any]("q", path) as q:
        first = q.put(1, unique="u")
    with mqlite.Queue[Any]("q", path) as q:
        assert q.put(2, unique="u") == first
        assert q.check() == []
