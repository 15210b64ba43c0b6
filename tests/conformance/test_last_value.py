"""Last value: a message takes the place of the one with the same replace_key, as long as nobody has claimed that one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contents import taken
from fixture_types import InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock

import mqlite

GUARD = 60.0


# ---------------------------------------------------------------------- in place
def test_a_newer_message_has_the_place_of_the_older_one(q: mqlite.Queue[Any]) -> None:
    q.put("price 1", replace_key="price")
    q.put("other")
    q.put("price 2", replace_key="price")
    assert taken(q) == ["price 2", "other"]


def test_the_newer_message_has_an_id_of_its_own_and_the_older_one_is_gone(q: mqlite.Queue[Any]) -> None:
    old = q.put("old", replace_key="k")
    new = q.put("new", replace_key="k")
    assert new > old
    assert (q.qsize(), q.unfinished_tasks, q.cancel(old)) == (1, 1, False)
    assert [(m.id, m.body) for m in q.peek(5)] == [(new, "new")]
    assert q.cancel(new)
    assert q.empty()


def test_each_key_has_its_own_last_value_and_messages_without_one_are_left_alone(q: mqlite.Queue[Any]) -> None:
    for n in range(12):
        q.put(n, replace_key=(None, "a", "b")[n % 3])
    assert taken(q) == [0, 10, 11, 3, 6, 9]


def test_the_order_among_others_is_kept_for_many_keys(q: mqlite.Queue[Any]) -> None:
    for n in range(30):
        q.put(n, replace_key=str(n), priority=n % 2)
    for n in reversed(range(30)):
        q.put(100 + n, replace_key=str(n), priority=n % 2)
    assert taken(q) == [100 + n for n in sorted(range(30), key=lambda n: (-(n % 2), n))]


@pytest.mark.parametrize("order", [{"order": "lifo"}, {"fair": True}, {"aging": 10}], ids=["lifo", "fair", "aging"])
def test_a_newer_message_has_the_place_of_the_older_one_in_any_order(timed: MakeQueue, order: dict[str, Any]) -> None:
    q = timed(**order)
    q.put("before")
    q.put("old", replace_key="k")
    q.put("after")
    q.put("new", replace_key="k")
    expected = ["before", "new", "after"]
    assert taken(q) == (expected[::-1] if "order" in order else expected)


def test_a_message_can_be_replaced_again_and_again(q: mqlite.Queue[Any]) -> None:
    q.put("first")
    for n in range(50):
        q.put(n, replace_key="k")
    q.put("last")
    assert taken(q) == ["first", 49, "last"]


def test_all_that_was_said_of_the_older_message_goes_with_it(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k", headers={"h": 1}, type="t", reply_to="r", correlation_id="c", ttl=10)
    clock.pass_by(5)
    q.put("new", replace_key="k", headers={"g": 2})
    clock.pass_by(100)
    [m] = q.receive(timeout=0)
    assert (m.body, m.headers, m.type, m.reply_to, m.correlation_id, m.expires_at) == ("new", {"g": 2}, None, None, None, None)
    assert m.enqueued_at.timestamp() == 1_800_000_005


def test_the_ttl_of_the_newer_message_counts_from_its_own_put(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k", ttl=10)
    clock.pass_by(9)
    q.put("new", replace_key="k", ttl=10)
    clock.pass_by(9)
    assert [m.body for m in q.peek()] == ["new"]
    clock.pass_by(2)
    assert taken(q) == []


def test_a_larger_or_smaller_message_is_counted_as_it_is(q: mqlite.Queue[Any]) -> None:
    q.put("x" * 10, replace_key="k")
    small = q.stats().bytes
    q.put("x" * 100_000, replace_key="k")
    assert q.stats().bytes > 100_000 - 1
    q.put("y" * 10, replace_key="k")
    assert (q.stats().bytes, taken(q)) == (small, ["y" * 10])


def test_a_full_queue_has_room_for_a_newer_value(make_queue: MakeQueue) -> None:
    q = make_queue(maxsize=1)
    q.put("old", replace_key="k")
    q.put("new", replace_key="k", timeout=0)
    with pytest.raises(mqlite.Full):
        q.put("other", replace_key="l", timeout=0)
    assert taken(q) == ["new"]


# ---------------------------------------------------------------------- not in place
@pytest.mark.parametrize("priority", [-1, 1])
def test_one_of_another_priority_goes_to_the_end_of_the_line_of_that(q: mqlite.Queue[Any], priority: int) -> None:
    q.put("there", priority=priority)
    q.put("old", replace_key="k")
    q.put("other")
    q.put("new", replace_key="k", priority=priority)
    assert taken(q) == (["there", "new", "other"] if priority > 0 else ["other", "there", "new"])


def test_one_that_waits_for_its_time_is_replaced_by_one_at_the_end_of_the_line(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k", delay=10)
    q.put("other")
    q.put("new", replace_key="k")
    assert taken(q) == ["other", "new"]
    clock.pass_by(11)
    assert (taken(q), q.stats().delayed, q.unfinished_tasks) == ([], 0, 2)


def test_one_that_is_ready_is_replaced_by_one_that_waits(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k")
    q.put("other")
    q.put("new", replace_key="k", delay=10)
    assert (taken(q), q.stats().delayed) == (["other"], 1)
    clock.pass_by(10)
    assert taken(q) == ["new"]


def test_of_two_that_wait_the_newer_one_s_time_counts(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k", delay=5)
    q.put("new", replace_key="k", delay=10)
    clock.pass_by(9)
    assert (taken(q), q.stats().delayed) == ([], 1)
    clock.pass_by(1)
    assert taken(q) == ["new"]


def test_one_that_waits_for_its_retry_is_replaced(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k")
    q.receive()[0].nack(delay=10)
    q.put("new", replace_key="k")
    [m] = q.receive(9, timeout=0)
    assert (m.body, m.delivery_count, m.acquired_count) == ("new", 0, 1)
    clock.pass_by(11)
    assert q.stats().delayed == q.qsize() == 0


def test_a_delayed_one_that_has_come_into_line_is_replaced_in_place(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("old", replace_key="k", delay=1)
    clock.pass_by(1)
    assert q.qsize() == 1
    q.put("other")
    q.put("new", replace_key="k")
    assert taken(q) == ["new", "other"]


# ---------------------------------------------------------------------- claimed ones
def test_a_claimed_message_is_not_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("old", replace_key="k")
    [held] = q.receive()
    q.put("new", replace_key="k")
    q.put("newest", replace_key="k")
    held.ack()
    assert taken(q) == ["newest"]


def test_a_prefetched_message_is_claimed_and_not_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("other")
    q.put("old", replace_key="k")
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(timeout=0).ack()
        q.put("new", replace_key="k")
        assert consumer.receive(timeout=0).body == "old"


def test_a_claimed_message_that_comes_back_comes_before_the_newer_one(q: mqlite.Queue[Any]) -> None:
    q.put("old", replace_key="k")
    [held] = q.receive()
    q.put("new", replace_key="k")
    held.nack()
    assert [(m.body, m.delivery_count) for m in q.receive(9)] == [("old", 1), ("new", 0)]


def test_when_both_are_there_the_newer_one_is_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("old", replace_key="k")
    [held] = q.receive()
    q.put("new", replace_key="k")
    held.release()
    q.put("newest", replace_key="k")
    assert taken(q) == ["old", "newest"]


@pytest.mark.parametrize("give_back", [lambda m: m.release(), lambda m: m.nack()], ids=["release", "nack"])
def test_one_that_came_back_is_replaced_in_place_and_its_history_is_gone(q: mqlite.Queue[Any], give_back: Callable[[mqlite.Message], None]) -> None:
    q.put("old", replace_key="k")
    for _ in range(3):
        give_back(q.receive()[0])
    q.put("other")
    q.put("new", replace_key="k")
    assert [(m.body, m.delivery_count, m.acquired_count) for m in q.peek(9)] == [("new", 0, 0), ("other", 0, 0)]
    assert [(m.body, m.delivery_count, m.acquired_count, m.redelivered) for m in q.receive(9)] == [("new", 0, 1, False), ("other", 0, 1, False)]


def test_a_newer_message_has_all_its_deliveries_before_it(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=2)
    q.put("old", replace_key="k")
    q.receive()[0].nack()
    q.put("new", replace_key="k")
    q.receive()[0].nack()
    assert (q.stats().dead, [m.body for m in q.peek()]) == (0, ["new"])


def test_an_acked_message_is_no_more_to_be_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("old", replace_key="k")
    q.receive()[0].ack()
    q.put("other")
    q.put("new", replace_key="k")
    assert taken(q) == ["other", "new"]


def test_a_dead_letter_is_not_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("old", replace_key="k")
    q.receive()[0].reject()
    q.put("new", replace_key="k")
    assert ([m.body for m in q.dead.peek()], taken(q)) == (["old"], ["new"])


def test_an_updated_message_is_replaced(timed: MakeQueue) -> None:
    q = timed()
    number = q.put("old", replace_key="k")
    q.put("other", priority=2)
    assert q.update(number, priority=2)
    q.put("new", replace_key="k", priority=2)
    assert taken(q) == ["other", "new"]
    number = q.put("old", replace_key="k")
    assert q.update(number, delay=60)
    q.put("new", replace_key="k")
    assert (taken(q), q.stats().delayed) == (["new"], 0)


# ---------------------------------------------------------------------- producers, groups, waiters
def test_of_many_in_a_producer_s_batches_the_last_stays(q: mqlite.Queue[Any]) -> None:
    with q.producer() as producer:
        for n in range(500):
            producer.put(n, replace_key="k" if n % 2 else None)
    bodies = taken(q)
    assert (len(bodies), sorted(body for body in bodies if body % 2)) == (251, [499])


def test_of_two_in_one_batch_the_newer_one_stays_and_both_are_told_its_id(make_queue: MakeQueue, eventually: Any) -> None:
    q = make_queue(maxsize=1)
    q.put("in the way")
    with q.producer() as producer:
        producer.put("first")  # waits for room, so that the next two are gathered
        eventually(lambda: not producer._buffer)
        old, new = producer.put("old", replace_key="k"), producer.put("new", replace_key="k")
        q.configure(maxsize=0)
        assert old.result(GUARD) == new.result(GUARD)
    assert [(m.body, m.id) for m in q.browse()][2:] == [("new", new.result())]


@pytest.mark.parametrize("priority", [0, 1])
def test_the_newer_message_of_a_group_has_the_older_one_s_place_in_it(q: mqlite.Queue[Any], priority: int) -> None:
    q.put("old", group="g", replace_key="k", priority=priority)
    q.put("other", group="g", priority=priority)
    q.put("new", group="g", replace_key="k", priority=priority)
    assert taken(q) == ["new", "other"]


def test_a_replaced_message_leaves_its_group(q: mqlite.Queue[Any]) -> None:
    q.put("old", group="g", replace_key="k")
    q.put("g2", group="g")
    q.put("new", group="h", replace_key="k")
    assert sorted((m.body, m.group) for m in q.receive(9)) == [("g2", "g"), ("new", "h")]


def test_a_message_whose_group_is_busy_is_replaced(q: mqlite.Queue[Any]) -> None:
    q.put("g1", group="g")
    q.put("old", group="g", replace_key="k")
    [held] = q.receive()
    assert taken(q) == []  # it was passed over
    q.put("new", group="g", replace_key="k")
    assert taken(q) == []
    held.ack()
    assert taken(q) == ["new"]


def test_a_message_whose_group_is_busy_is_replaced_by_one_that_is_free(q: mqlite.Queue[Any]) -> None:
    q.put("g1", group="g")
    q.put("old", group="g", replace_key="k")
    q.receive()
    assert taken(q) == []
    q.put("new", replace_key="k")
    assert taken(q) == ["new"]


def test_a_retry_that_held_up_its_group_frees_it_when_it_is_replaced_from_outside(timed: MakeQueue) -> None:
    q = timed()
    q.put("old", group="g", replace_key="k")
    q.put("g2", group="g")
    q.receive()[0].nack(delay=100)
    assert taken(q) == []
    q.put("new", replace_key="k")
    assert sorted(taken(q)) == ["g2", "new"]


def test_who_waits_gets_the_newer_message(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.pause()
    waiting = in_thread(q.get, timeout=GUARD)
    until_waiting(q)
    q.put("old", replace_key="k")
    q.put("new", replace_key="k")
    q.resume()
    assert waiting.result(GUARD) == "new"


def test_each_replaced_value_is_taken_once_by_threads_that_wait(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    count = 100

    def take() -> list[Any]:
        taken = []
        while (body := q.get(timeout=GUARD)) != "end":
            taken.append(body)
        return taken

    takers = [in_thread(take) for _ in range(2)]
    for n in range(count):
        q.put(n, replace_key="k")
    q.put_many(["end"] * 2, priority=-1)
    taken = [taker.result(GUARD) for taker in takers]
    assert sorted(map(sorted, taken)) == sorted(taken)
    both = taken[0] + taken[1]
    assert (len(both), max(both)) == (len(set(both)), count - 1)


# ---------------------------------------------------------------------- what can be asked
@pytest.mark.parametrize(("key", "error"), [("", ValueError), (1, TypeError), (b"k", TypeError), (True, TypeError)])
def test_a_bad_key_is_told_and_stores_nothing(q: mqlite.Queue[Any], key: Any, error: type[Exception]) -> None:
    for put in (lambda: q.put(1, replace_key=key), lambda: q.producer().put(1, replace_key=key)):
        with pytest.raises(error, match="replace_key"):
            put()
    assert q.qsize() == 0


def test_put_many_does_not_take_a_key(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(TypeError, match="replace_key"):
        q.put_many([1], replace_key="k")  # type: ignore[call-arg]


def test_keys_of_two_queues_have_nothing_to_do_with_each_other(backend: str, path: str) -> None:
    with mqlite.open(path if backend == "disk" else None) as broker:
        one, other = broker.queue("one"), broker.queue("other")
        one.put(1, replace_key="k")
        other.put(2, replace_key="k")
        assert (taken(one), taken(other)) == ([1], [2])


def test_a_key_survives_a_reopen(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put("old", replace_key="k")
        q.put("other")
    with mqlite.Queue("q", path) as q:
        q.put("new", replace_key="k")
    with mqlite.Queue("q", path) as q:
        assert q.check() == []
        assert taken(q) == ["new", "other"]
