"""Fair queues: groups take turns, so that a noisy one does not keep the others waiting."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bounded import BOUNDED
from contents import put_all, worked_off
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock
from hypothesis import given, settings
from hypothesis import strategies as st

import mqlite

GUARD = 60.0


@pytest.fixture
def fair(timed: MakeQueue) -> MakeQueue:
    """fair(**options): a fair queue of a store that goes by `clock`."""
    return functools.partial(timed, fair=True)


def groups(names: list[str]) -> list[str]:
    return [name[0] for name in names]


def of(group: str, names: list[str]) -> list[str]:
    return [name for name in names if name[0] == group]


# ---------------------------------------------------------------------- turns
@pytest.mark.parametrize("taker", ["receive", "get", "auto_ack", "consumer"])
def test_groups_take_turns(fair: MakeQueue, taker: str) -> None:
    q = fair()
    put_all(q, "a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3")
    if taker == "receive":
        names = worked_off(q)
    elif taker == "get":
        names = [q.get(timeout=0) for _ in range(9)]
    else:
        with q.consumer(auto_ack=taker == "auto_ack") as consumer:
            names = []
            for _ in range(9):
                message = consumer.receive(timeout=0)
                names.append(message.body)
                if taker == "consumer":
                    message.ack()
    assert [set(groups(names[n : n + 3])) for n in (0, 3, 6)] == [{"a", "b", "c"}] * 3
    assert [of(group, names) for group in "abc"] == [[f"{group}{n}" for n in (1, 2, 3)] for group in "abc"]


def test_the_turns_go_on_where_they_were_when_the_queue_was_empty_meanwhile(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "b1")
    first = worked_off(q)
    put_all(q, "a2", "b2")
    assert groups(worked_off(q)) == groups(first)


def test_a_noisy_group_does_not_keep_a_quiet_one_waiting(fair: MakeQueue) -> None:
    q = fair()
    q.put_many([f"n{n}" for n in range(1000)], group="n")
    worked_off(q, 10)
    put_all(q, "q1", "q2")
    assert groups(worked_off(q, 4)).count("q") == 2


def test_messages_without_a_group_are_one_more_group(fair: MakeQueue) -> None:
    q = fair()
    q.put_many([f"-{n}" for n in range(100)])
    put_all(q, "a1", "a2", "b1", "b2")
    assert Counter(groups(worked_off(q, 6))) == {"-": 2, "a": 2, "b": 2}


def test_messages_without_a_group_are_in_flight_together(fair: MakeQueue) -> None:
    q = fair()
    q.put_many([f"-{n}" for n in range(5)])
    put_all(q, "a1", "a2")
    messages = q.receive(99)
    assert Counter(groups([m.body for m in messages])) == {"-": 5, "a": 1}
    assert of("-", [m.body for m in messages]) == [f"-{n}" for n in range(5)]


def test_a_queue_without_groups_is_first_in_first_out(fair: MakeQueue) -> None:
    q = fair()
    for n in range(30):
        q.put(n, priority=n % 3)
    assert worked_off(q) == sorted(range(30), key=lambda n: (-(n % 3), n))


def test_a_group_that_is_alone_has_all_turns(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "a3")
    assert worked_off(q) == ["a1", "a2", "a3"]


def test_priority_counts_inside_a_group_only(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "a3", priority=9)
    put_all(q, "b1", "b2")
    put_all(q, "b3", priority=1)
    put_all(q, "a4", priority=10)
    names = worked_off(q)
    assert (of("a", names), of("b", names)) == (["a4", "a1", "a2", "a3"], ["b3", "b1", "b2"])
    assert [set(groups(names[n : n + 2])) for n in (0, 2, 4)] == [{"a", "b"}] * 3


def test_groups_that_come_late_have_their_turn_within_one_round(fair: MakeQueue) -> None:
    q = fair()
    for group in "abcdef":
        q.put_many([f"{group}{n}" for n in range(5)], group=group)
    worked_off(q, 3)
    put_all(q, "x1")
    assert "x1" in worked_off(q, 7)


def test_a_batch_is_made_up_in_turns(fair: MakeQueue) -> None:
    q = fair(limits={"*": 10})
    put_all(q, *(f"a{n}" for n in range(6)))
    put_all(q, "b0", "b1")
    names = [m.body for m in q.receive(6)]
    assert Counter(groups(names[:4])) == {"a": 2, "b": 2}
    assert (of("a", names), of("b", names)) == (["a0", "a1", "a2", "a3"], ["b0", "b1"])


def test_put_many_and_producers_put_into_groups(fair: MakeQueue) -> None:
    q = fair()
    q.put_many(["a1", "a2"], group="a")
    with q.producer() as producer:
        producer.put("b1", group="b")
        producer.put("-1")
    assert Counter(groups(worked_off(q, 3))) == {"a": 1, "b": 1, "-": 1}


# ---------------------------------------------------------------------- with limits
def test_one_of_a_group_is_in_flight_and_a_busy_group_is_passed_over(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "b1", "b2")
    held = q.receive(99)
    assert sorted(m.body for m in held) == ["a1", "b1"]
    with pytest.raises(mqlite.Empty):
        q.receive(timeout=0)
    next(m for m in held if m.body == "b1").ack()
    assert [m.body for m in q.receive(99)] == ["b2"]


def test_limits_hold_in_turns_too(fair: MakeQueue) -> None:
    q = fair(limits={"a": 2, "*": 3})
    put_all(q, *(f"{group}{n}" for group in "abc" for n in range(5)))
    names = [m.body for m in q.receive(99)]
    assert Counter(groups(names)) == {"a": 2, "b": 3, "c": 3}
    assert set(groups(names[:3])) == set(groups(names[3:6])) == {"a", "b", "c"}


def test_a_raised_limit_lets_more_go_and_wakes_who_waits(fair: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = fair(ack_timeout=None)
    put_all(q, "a1", "a2")
    q.receive()
    waiting = in_thread(q.receive)
    until_waiting(q)
    q.configure(limits={"a": 2})
    assert [m.body for m in waiting.result(GUARD)] == ["a2"]


def test_who_waits_is_woken_when_a_group_is_freed(fair: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = fair(ack_timeout=None)
    put_all(q, "a1", "a2")
    [held] = q.receive()
    waiting = in_thread(q.receive)
    until_waiting(q)
    held.ack()
    assert [m.body for m in waiting.result(GUARD)] == ["a2"]


# ---------------------------------------------------------------------- what comes back
@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_a_message_given_back_is_the_first_of_its_group_again(fair: MakeQueue, give_back: Callable[[mqlite.Message], None]) -> None:
    q = fair()
    put_all(q, "a1", "a2", "-1", "-2")
    held = q.receive(2)
    for message in held:
        give_back(message)
    names = worked_off(q)
    assert (of("a", names), of("-", names)) == (["a1", "a2"], ["-1", "-2"])


def test_a_message_without_a_group_that_waits_for_its_retry_holds_up_nobody(fair: MakeQueue, clock: HandClock) -> None:
    q = fair()
    put_all(q, "-1", "-2")
    q.receive()[0].nack(delay=10)
    assert worked_off(q) == ["-2"]
    put_all(q, "-3")
    clock.pass_by(10)
    assert worked_off(q) == ["-1", "-3"]  # in the order of the puts, as in any group


def test_a_retry_holds_up_its_group_and_no_other(fair: MakeQueue, clock: HandClock) -> None:
    q = fair()
    put_all(q, "a1", "a2")
    q.receive()[0].nack(delay=10)
    put_all(q, "b1", "-1")
    assert sorted(worked_off(q)) == ["-1", "b1"]
    clock.pass_by(10)
    assert worked_off(q) == ["a1", "a2"]


def test_a_delayed_message_has_its_turn_when_it_is_due(fair: MakeQueue, clock: HandClock) -> None:
    q = fair()
    put_all(q, "a1", "a2", "a3")
    put_all(q, "b1", "-1", delay=5)
    assert worked_off(q, 1) == ["a1"]
    clock.pass_by(5)
    assert sorted(worked_off(q, 3)) == ["-1", "a2", "b1"]


def test_a_dead_one_frees_its_group_and_is_redriven_into_it(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "-1")
    for _ in range(2):
        [message] = q.receive()
        message.reject()
    dead = [m.body for m in q.dead.peek(5)]
    assert sorted(dead) == ["-1", "a1"]
    assert q.redrive() == 2
    names = worked_off(q)
    assert (of("a", names), of("-", names)) == (["a2", "a1"], ["-1"])


def test_messages_are_moved_and_cancelled_by_their_ids(fair: MakeQueue) -> None:
    q = fair()
    ids = put_all(q, "a1", "a2", "a3", "-1", "-2", "-3")
    assert q.update(ids[2], priority=1)
    assert q.update(ids[5], priority=1)
    assert q.cancel(ids[0])
    assert q.cancel(ids[3])
    names = worked_off(q)
    assert (of("a", names), of("-", names)) == (["a3", "a2"], ["-3", "-2"])


def test_purge_takes_all_that_nobody_holds(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "-1", "-2", "b1")
    [held] = q.receive()
    assert q.purge() == 4
    held.ack()
    assert (q.qsize(), q.unfinished_tasks) == (0, 0)


def test_what_expires_gives_its_turn_away(fair: MakeQueue, clock: HandClock) -> None:
    q = fair(expired="drop")
    put_all(q, "a1", "-1", ttl=5)
    put_all(q, "a2", "-2")
    clock.pass_by(6)
    assert sorted(worked_off(q)) == ["-2", "a2"]


def test_schedules_put_into_groups(fair: MakeQueue, clock: HandClock) -> None:
    q = fair()
    q.schedule("tick", "t1", every=10, group="t")
    q.schedule("tock", "-1", every=10)
    put_all(q, "a1")
    clock.pass_by(10)
    assert sorted(worked_off(q)) == ["-1", "a1", "t1"]


# ---------------------------------------------------------------------- looking
def test_peek_shows_the_order_in_which_messages_come(fair: MakeQueue) -> None:
    q = fair(limits={"*": 2})
    put_all(q, *(f"{group}{n}" for n in range(4) for group in "ab-c"))
    worked_off(q, 3)
    peeked = [m.body for m in q.peek(8)]
    assert [m.body for m in q.receive(8)] == peeked
    assert len(peeked) == 8


def test_peek_changes_nobody_s_turn(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "b1", "c1")
    assert [m.body for m in q.peek()] == [m.body for m in q.peek()] == [m.body for m in q.receive()]


def test_browse_shows_all_that_nobody_holds(fair: MakeQueue) -> None:
    q = fair()
    put_all(q, "a1", "a2", "b1", "-1")
    [held] = q.receive()
    assert sorted([held.body, *(m.body for m in q.browse())]) == ["-1", "a1", "a2", "b1"]


# ---------------------------------------------------------------------- settings
def test_fairness_is_stored_and_the_order_in_each_group_survives_a_reopen(path: str) -> None:
    with mqlite.Queue("q", path, fair=True) as q:
        put_all(q, "a1", "a2", "b1", "b2", "-1", "-2")
        worked_off(q, 1)
        [held] = q.receive()
        held.nack()
    with pytest.raises(mqlite.SettingsMismatch):
        mqlite.Queue("q", path, fair=False)
    with mqlite.Queue("q", path) as q:
        names = worked_off(q)
        assert len(names) == 5
        assert all(of(group, names) == sorted(of(group, names)) for group in "ab-")
        assert q.check() == []


@pytest.mark.parametrize("fair", [1, 0, None, "yes"])
def test_a_bad_value_is_told(make_queue: MakeQueue, fair: Any) -> None:
    with pytest.raises(TypeError, match="fair"):
        make_queue(fair=fair)


def test_fairness_cannot_be_changed(make_queue: MakeQueue) -> None:
    with pytest.raises(TypeError, match="fair"):
        make_queue().configure(fair=True)


# ---------------------------------------------------------------------- in general
WORDS = ["put", "put", "put", "take", "take", "take", "nack", "hold", "settle"]
STEPS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from("aaab-c"), st.integers(0, 2)), max_size=60)


class Book:
    """What is in a fair queue, as plain lists, and who had a turn while others could have had one."""

    def __init__(self) -> None:
        self.ready: dict[str, list[tuple[int, int]]] = {group: [] for group in "abc-"}  # (-priority, id), in order
        self.held: list[mqlite.Message] = []
        self.waits: dict[tuple[str, str], int] = {}  # (who waits, who goes): turns of the latter while the former could go

    def could_go(self, group: str) -> bool:
        return bool(self.ready[group]) and (group == "-" or all((m.group or "-") != group for m in self.held))

    def take(self, message: mqlite.Message) -> None:
        group = message.group or "-"
        assert self.could_go(group)
        assert self.ready[group].pop(0) == (-message.priority, message.id)
        for other in self.ready:
            self.waits[group, other] = 0
            if other != group:
                self.waits[other, group] = self.waits.get((other, group), 0) + 1 if self.could_go(other) else 0
                assert self.waits[other, group] <= 1, f"{group} had two turns while {other} waited"
        self.held.append(message)

    def look(self) -> None:
        """Who cannot go begins to wait anew."""
        for other, group in self.waits:
            if not self.could_go(other):
                self.waits[other, group] = 0


@pytest.mark.parametrize(("where", "examples"), [("memory", 150), ("disk", 15)])
def test_nobody_has_two_turns_while_another_waits(where: str, examples: int, path: str) -> None:
    names = itertools.count()

    @settings(BOUNDED, max_examples=examples)
    @given(STEPS)
    def check(steps: list[tuple[str, str, int]]) -> None:
        with mqlite.Queue(f"q{next(names)}", path if where == "disk" else None, fair=True, max_deliveries=None) as q:
            book = Book()
            for word, group, number in steps:
                if word == "put":
                    book.ready[group].append((-number, q.put(0, group=None if group == "-" else group, priority=number)))
                    book.ready[group].sort()
                elif word == "settle":
                    if book.held:
                        message = book.held.pop(number % len(book.held))
                        message.ack()
                else:
                    if not any(map(book.could_go, "abc-")):
                        with pytest.raises(mqlite.Empty):
                            q.receive(timeout=0)
                        continue
                    [message] = q.receive(timeout=0)
                    book.take(message)
                    if word != "hold":
                        book.held.remove(message)
                    if word == "take":
                        message.ack()
                    elif word == "nack":
                        message.nack()
                        book.ready[message.group or "-"].append((-message.priority, message.id))
                        book.ready[message.group or "-"].sort()
                book.look()
            assert q.check() == []

    with mqlite.Queue("kept open", path if where == "disk" else None):
        check()
