"""Messages that expire: wherever they wait and not only at the head, never in anybody's hands, and never handed out afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from contents import fill, taken
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting
from hand_clock import NOON, HandClock, timed_queue

import mqlite
from mqlite.claims import Kind


def dead(queue: mqlite.Queue[Any]) -> list[tuple[Any, str]]:
    """(body, reason) of the dead letters."""
    return [(m.body, m.death.reason) for m in queue.dead.browse() if m.death is not None]


# ---------------------------------------------------------------------- where it waits
def test_a_message_is_there_until_it_expires_and_dead_from_then_on(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=2.5)
    clock.pass_by(2.4999)
    assert q.qsize() == 1
    clock.pass_by(0.0001)
    assert (q.qsize(), dead(q)) == (0, [("x", "expired")])


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_message_expires_anywhere_in_line(timed: MakeQueue, clock: HandClock, place: str) -> None:
    q = timed()
    for name in ("first", "middle", "last"):
        q.put(name, ttl=1 if name == place else None)
    clock.pass_by(1)
    assert (q.stats().ready, dead(q)) == (2, [(place, "expired")])
    assert taken(q) == [name for name in ("first", "middle", "last") if name != place]


def test_a_message_expires_behind_more_urgent_ones(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("urgent", priority=9)
    q.put("low", priority=-9, ttl=1)
    clock.pass_by(1)
    assert (q.stats().ready, dead(q), taken(q)) == (1, [("low", "expired")], ["urgent"])


def test_messages_that_expire_later_stay(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    for ttl in (3, 1, 2):
        q.put(ttl, ttl=ttl)
    clock.pass_by(1)
    assert [m.body for m in q.browse()] == [3, 2]
    clock.pass_by(1)
    assert [m.body for m in q.browse()] == [3]
    clock.pass_by(1)
    assert (q.qsize(), [body for body, _ in dead(q)]) == (0, [1, 2, 3])


def test_a_delayed_message_expires_before_it_is_due(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("never seen", delay=10, ttl=2)
    clock.pass_by(2)
    stats = q.stats()
    assert (stats.delayed, stats.ready, stats.dead, dead(q)) == (0, 0, 1, [("never seen", "expired")])


def test_a_message_for_a_moment_expires_before_it(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("never seen", eta=NOON + 10, ttl=2)
    clock.pass_by(2)
    assert (q.stats().delayed, dead(q)) == (0, [("never seen", "expired")])


def test_the_ttl_of_a_delayed_message_counts_from_its_put(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("short", delay=1, ttl=2)
    clock.pass_by(1)
    assert q.qsize() == 1
    clock.pass_by(1)
    assert (q.qsize(), dead(q)) == (0, [("short", "expired")])


def test_one_that_is_due_and_expired_when_somebody_looks_is_not_handed_out(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("late", delay=1, ttl=2)
    q.put("fine", delay=1, ttl=20)
    clock.pass_by(10)
    assert (taken(q), dead(q)) == (["fine"], [("late", "expired")])


def test_a_message_expires_in_a_blocked_group(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("held", group="g")
    q.put("waits", group="g", ttl=1)
    q.put("behind", group="g")
    [held] = q.receive(timeout=0)
    clock.pass_by(1)
    assert (q.stats().ready, dead(q)) == (1, [("waits", "expired")])
    held.ack()
    assert taken(q) == ["behind"]


def test_the_head_of_a_group_that_expires_lets_the_next_go(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("expires", group="g", ttl=1)
    q.put("next", group="g")
    clock.pass_by(1)
    assert (taken(q), dead(q)) == (["next"], [("expires", "expired")])


def test_a_failed_message_that_expires_before_its_retry_lets_its_group_go_on(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("fails", group="g", ttl=5)
    q.put("next", group="g")
    q.receive(timeout=0)[0].nack(delay=60)
    assert taken(q) == []
    clock.pass_by(5)
    assert (taken(q), dead(q)) == (["next"], [("fails", "expired")])


@pytest.mark.parametrize("options", [{"order": "lifo"}, {"aging": 1.0}, {"fair": True}, {"rate": (1000, 1)}, {"maxbytes": 10_000}], ids=str)
def test_messages_expire_in_every_kind_of_queue(timed: MakeQueue, clock: HandClock, options: dict[str, Any]) -> None:
    q = timed(**options)
    q.put("expires", ttl=1, priority=1)
    q.put("stays")
    q.put("expires, too", ttl=1, delay=0.5)
    clock.pass_by(1)
    assert (taken(q), sorted(body for body, _ in dead(q))) == (["stays"], ["expires", "expires, too"])


def test_a_message_expires_in_a_paused_queue(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=1)
    q.pause()
    clock.pass_by(1)
    assert (q.qsize(), dead(q)) == (0, [("x", "expired")])


# ---------------------------------------------------------------------- in somebody's hands
def test_a_message_does_not_expire_while_somebody_holds_it(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=1)
    [m] = q.receive(timeout=0)
    clock.pass_by(2)
    assert (q.stats().claimed, q.stats().dead) == (1, 0)
    m.ack()
    assert (q.stats().dead, q.unfinished_tasks) == (0, 0)


@pytest.mark.parametrize("back", [lambda m: m.release(), lambda m: m.nack(), lambda m: m.nack(delay=60)], ids=["release", "nack", "nack with a delay"])
def test_a_message_that_expired_meanwhile_expires_on_its_return(timed: MakeQueue, clock: HandClock, back: Callable[[mqlite.Message], None]) -> None:
    q = timed()
    q.put("x", ttl=1)
    [m] = q.receive(timeout=0)
    clock.pass_by(2)
    back(m)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed, dead(q)) == (0, 0, 0, [("x", "expired")])


def test_a_message_that_comes_back_in_time_expires_at_its_time(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=10)
    clock.pass_by(5)
    q.receive(timeout=0)[0].nack(delay=1)
    clock.pass_by(1)
    [m] = q.receive(timeout=0)
    assert m.delivery_count == 1
    m.release()
    clock.pass_by(4)
    assert (q.qsize(), dead(q)) == (0, [("x", "expired")])


def test_what_a_closed_consumer_gives_back_expires(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(["a", "b"], ttl=1)
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(timeout=0)
        clock.pass_by(2)
        assert q.stats().claimed == 2
    assert (taken(q), dead(q)) == ([], [("a", "expired"), ("b", "expired")])


def test_what_a_hung_holder_loses_expires(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ack_timeout=5)
    q.put("x", ttl=1)
    [hung] = q.receive(timeout=0)
    clock.pass_by(6)
    assert (taken(q), dead(q)) == ([], [("x", "expired")])
    with pytest.raises(mqlite.LeaseLost):
        hung.ack()


def test_the_last_failure_is_told_rather_than_that_it_expired(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(max_deliveries=1)
    q.put("x", ttl=1)
    [m] = q.receive(timeout=0)
    clock.pass_by(2)
    m.nack()
    assert dead(q) == [("x", "max_deliveries")]


# ---------------------------------------------------------------------- never handed out, never shown
def test_no_way_to_look_shows_an_expired_message(timed: MakeQueue, clock: HandClock) -> None:
    looks: list[Callable[[mqlite.Queue[Any]], object]] = [
        lambda q: [m.body for m in q.peek(10)] == ["stays"],
        lambda q: [m.body for m in q.browse()] == ["stays"],
        lambda q: q.qsize() == 1,
        lambda q: len(q) == 1,
        lambda q: (q.stats().ready, q.stats().dead) == (1, 2),
        lambda q: q.unfinished_tasks == 1,
        lambda q: not q.full(),
    ]
    for number, look in enumerate(looks):
        q = timed(maxsize=3)
        q.put("expires", ttl=1)
        q.put("stays")
        q.put("expires, too", ttl=1)
        clock.pass_by(1)
        assert look(q), number
        assert taken(q) == ["stays"]
        q.task_done()
        q.dead.purge()


def test_an_empty_queue_is_one_whose_messages_have_expired(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=1)
    clock.pass_by(1)
    assert q.empty()


TAKES: list[Callable[[mqlite.Queue[Any]], Any]] = [
    lambda q: q.get(timeout=0),
    lambda q: q.get_nowait(),
    lambda q: q.receive(timeout=0)[0].body,
    lambda q: q.receive(10, timeout=0)[0].body,
    lambda q: q.consumer().receive(0).body,
    lambda q: q.consumer(prefetch=10).receive(0).body,
    lambda q: q.consumer(auto_ack=True).receive(0).body,
    lambda q: q.consumer(prefetch=10, auto_ack=True).receive(0).body,
]
TAKE_IDS = ["get", "get_nowait", "receive", "receive several", "consumer", "prefetch", "auto_ack", "prefetch and auto_ack"]


@pytest.mark.parametrize("take", TAKES, ids=TAKE_IDS)
def test_no_way_to_take_hands_out_an_expired_message(timed: MakeQueue, clock: HandClock, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = timed()
    q.put_many(["a", "b"], ttl=1)
    q.put("stays")
    q.put("behind", ttl=1)
    clock.pass_by(1)
    assert take(q) == "stays"
    assert sorted(body for body, _ in dead(q)) == ["a", "b", "behind"]


@pytest.mark.parametrize("take", TAKES, ids=TAKE_IDS)
def test_who_takes_where_all_has_expired_finds_nothing(timed: MakeQueue, clock: HandClock, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = timed()
    q.put_many(["a", "b"], ttl=1)
    clock.pass_by(1)
    with pytest.raises(mqlite.Empty):
        take(q)
    assert (q.stats().claimed, q.stats().dead) == (0, 2)


@pytest.mark.parametrize("take", TAKES, ids=TAKE_IDS)
def test_what_expired_before_it_was_taken_is_no_task(timed: MakeQueue, clock: HandClock, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = timed()
    q.put("x", ttl=1)
    clock.pass_by(1)
    with pytest.raises(mqlite.Empty):
        take(q)
    assert q.unfinished_tasks == 0
    q.join()


def test_what_a_consumer_holds_ahead_is_held_and_does_not_expire(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(["a", "b"], ttl=1)
    with q.consumer(prefetch=2) as consumer:
        consumer.receive(0).ack()
        clock.pass_by(2)
        with consumer.receive(0) as message:
            assert message.body == "b"
    assert q.stats().dead == 0


def test_an_expired_message_is_neither_cancelled_nor_updated(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    one, other = q.put("x", ttl=1), q.put("y", ttl=1, delay=10)
    clock.pass_by(1)
    assert q.stats().dead == 2
    assert (q.cancel(one), q.cancel(other), q.update(one, ttl=60), q.update(other, delay=0)) == (False, False, False, False)


# ---------------------------------------------------------------------- how it died
def test_a_dead_letter_is_the_message_that_expired(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(max_deliveries=None)
    number = q.put({"a": 1}, ttl=10, priority=3, headers={"h": "x"}, type="t", reply_to="r", correlation_id="c", group="g")
    clock.pass_by(1)
    q.receive(timeout=0)[0].nack()
    q.receive(timeout=0)[0].nack(delay=1)
    clock.pass_by(1)
    q.receive(timeout=0)[0].release()
    clock.pass_by(8)
    assert q.qsize() == 0
    [m] = q.dead.peek()
    assert (m.id, m.body, m.priority, m.headers, m.type, m.reply_to, m.correlation_id, m.group) == (number, {"a": 1}, 3, {"h": "x"}, "t", "r", "c", "g")
    assert (m.enqueued_at, m.delivery_count, m.acquired_count) == (datetime.fromtimestamp(NOON, UTC), 2, 3)
    assert m.death is not None
    assert (m.death.reason, m.death.queue, m.death.delivery_count, m.death.error, m.death.traceback) == ("expired", "q", 2, None, None)
    assert m.death.died_at == datetime.fromtimestamp(NOON + 10, UTC)


def test_a_delayed_message_that_expired_keeps_its_counts(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=2)
    q.receive(timeout=0)[0].nack(delay=60)
    clock.pass_by(2)
    assert q.stats().dead == 1
    [m] = q.dead.peek()
    assert (m.delivery_count, m.acquired_count) == (1, 1)
    assert m.death is not None
    assert (m.death.reason, m.death.delivery_count) == ("expired", 1)


def test_a_dead_letter_expires_no_more(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ttl=1)
    q.put("x")
    clock.pass_by(1)
    assert q.stats().dead == 1
    clock.pass_by(1e6)
    [m] = q.dead.receive(timeout=0)
    assert (m.body, m.expires_at) == ("x", None)
    m.release()


def test_dropped_means_gone(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(expired="drop")
    q.put("ready", ttl=1)
    q.put("delayed", ttl=1, delay=5)
    q.put("stays")
    clock.pass_by(1)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.dead, taken(q)) == (1, 0, 0, ["stays"])


@pytest.mark.parametrize("take", TAKES, ids=TAKE_IDS)
def test_who_takes_first_drops_what_has_expired(timed: MakeQueue, clock: HandClock, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = timed(expired="drop")
    q.put_many(["a", "b"], ttl=1)
    q.put("stays")
    clock.pass_by(1)
    assert (take(q), q.stats().dead) == ("stays", 0)


def test_without_dead_letters_what_has_expired_is_dropped(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(dead_letter=False)
    q.put("ready", ttl=1)
    q.put("delayed", ttl=1, delay=5)
    clock.pass_by(1)
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.dead, q.unfinished_tasks) == (0, 0, 0, 0)


def test_what_becomes_of_expired_messages_can_be_changed(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("kept", ttl=1)
    q.put("dropped", ttl=2)
    clock.pass_by(1)
    assert q.stats().dead == 1
    q.configure(expired="drop")
    clock.pass_by(1)
    assert (q.qsize(), dead(q)) == (0, [("kept", "expired")])


def test_a_redriven_message_lives_its_queue_s_ttl_again(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ttl=2)
    q.put("x")
    clock.pass_by(2)
    assert (q.stats().dead, q.redrive()) == (1, 1)
    clock.pass_by(1)
    assert q.qsize() == 1
    clock.pass_by(1)
    assert (q.qsize(), dead(q)) == (0, [("x", "expired")])


def test_a_message_that_expired_by_its_own_ttl_is_redriven_to_stay(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("x", ttl=1)
    clock.pass_by(1)
    assert (q.stats().dead, q.redrive()) == (1, 1)
    clock.pass_by(100)
    [m] = q.receive(timeout=0)
    assert (m.body, m.expires_at) == ("x", None)
    m.ack()


# ---------------------------------------------------------------------- the ttl of a queue
def test_a_queue_s_ttl_is_for_messages_that_name_none(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(ttl=2)
    q.put("own", ttl=5)
    q.put("short", ttl=1)
    q.put("default")
    q.put_many(["many"])
    with q.producer() as producer:
        producer.put("produced")
        producer.put("produced with its own", ttl=5)
    clock.pass_by(1)
    assert [m.body for m in q.browse()] == ["own", "default", "many", "produced", "produced with its own"]
    clock.pass_by(1)
    assert [m.body for m in q.browse()] == ["own", "produced with its own"]


def test_a_queue_s_ttl_holds_for_what_is_put_after_it_was_set(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("before")
    q.configure(ttl=1)
    q.put("while")
    q.configure(ttl=None)
    q.put("after")
    clock.pass_by(10)
    assert (taken(q), dead(q)) == (["before", "after"], [("while", "expired")])


def test_a_queue_s_ttl_is_stored(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock, ttl=1, expired="drop") as q:
        assert (q._state.options.ttl, q._state.options.expired) == (1, "drop")
    with timed_queue(path, clock) as q:
        q.put("x")
        clock.pass_by(1)
        assert (q.qsize(), q.stats().dead) == (0, 0)
        with pytest.raises(mqlite.SettingsMismatch, match="ttl"):
            timed_queue(path, clock, ttl=2)


def test_put_many_and_producers_take_a_ttl(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many([1, 2], ttl=1)
    with q.producer() as producer:
        producer.put(3, ttl=1)
        producer.put(4)
        producer.put(5, ttl=1, delay=10)
    q.put_nowait(6, ttl=1)
    clock.pass_by(1)
    assert (taken(q), sorted(body for body, _ in dead(q))) == ([4], [1, 2, 3, 5, 6])


def test_a_message_knows_when_it_expires(timed: MakeQueue) -> None:
    q = timed()
    q.put("no ttl")
    q.put("ttl", ttl=90)
    q.put("delayed", ttl=90, delay=0.5)
    assert [m.expires_at for m in q.peek(2)] == [None, datetime.fromtimestamp(NOON + 90, UTC)]
    assert [m.expires_at for m in q.browse()] == [None, datetime.fromtimestamp(NOON + 90, UTC)]
    assert [m.expires_at for m in q.receive(2, timeout=0)] == [None, datetime.fromtimestamp(NOON + 90, UTC)]


def test_a_ttl_may_be_as_long_as_one_likes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put("a century", ttl=100 * 365.25 * 86400)
    q.put("for ever", ttl=1e299)
    clock.pass_by(99 * 365.25 * 86400)
    assert [m.body for m in q.browse()] == ["a century", "for ever"]
    clock.pass_by(2 * 365.25 * 86400)
    [m] = q.receive(timeout=0)
    assert m.body == "for ever"
    assert m.expires_at is not None
    m.ack()


def test_a_ttl_may_be_changed_by_id(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    longer, shorter, delayed = q.put("longer", ttl=1), q.put("shorter"), q.put("delayed", delay=100, ttl=1)
    assert (q.update(longer, ttl=10), q.update(shorter, ttl=2), q.update(delayed, ttl=10)) == (True, True, True)
    clock.pass_by(2)
    assert ([m.body for m in q.browse()], q.stats().delayed) == (["longer"], 1)
    clock.pass_by(8)
    assert (q.qsize(), q.stats().delayed, q.stats().dead) == (0, 0, 3)


@pytest.mark.parametrize(
    ("ttl", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), (10**400, ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_bad_ttl_is_told_and_stores_nothing(q: mqlite.Queue[Any], ttl: Any, error: type[Exception]) -> None:
    number = q.put("x")
    puts = (lambda: q.put(1, ttl=ttl), lambda: q.put_many([1], ttl=ttl), lambda: q.producer().put(1, ttl=ttl), lambda: q.update(number, ttl=ttl))
    for put in puts:
        with pytest.raises(error, match="ttl"):
            put()
    assert (q.qsize(), q.stats().delayed) == (1, 0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, ValueError),
        ({"ttl": -1}, ValueError),
        ({"ttl": float("nan")}, ValueError),
        ({"ttl": 1e10}, ValueError),
        ({"ttl": "1"}, TypeError),
        ({"ttl": True}, TypeError),
        ({"expired": "keep"}, ValueError),
        ({"expired": None}, ValueError),
    ],
)
def test_a_bad_setting_is_told(make_queue: MakeQueue, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        make_queue(**options)
    q = make_queue()
    with pytest.raises(error, match=next(iter(options))):
        q.configure(**options)


# ---------------------------------------------------------------------- clocks that jump
@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_message_lives_as_long_as_it_says_whatever_the_wall_clock_does(timed: MakeQueue, clock: HandClock, jump: float) -> None:
    q = timed()
    q.put("ready", ttl=10)
    q.put("delayed", ttl=10, delay=100)
    clock.set_wall(jump)
    clock.pass_by(9.999)
    assert (q.stats().ready, q.stats().delayed) == (1, 1)
    clock.pass_by(0.001)
    assert (q.stats().ready, q.stats().delayed, q.stats().dead) == (0, 0, 2)


def test_a_ttl_goes_on_while_the_store_is_closed(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock) as q:
        q.put("short", ttl=5)
        q.put("long", ttl=50)
        q.put("delayed", ttl=5, delay=100)
    clock.pass_by(5)
    with timed_queue(path, clock) as q:
        assert ([m.body for m in q.browse()], q.stats().dead, q.check()) == (["long"], 2, [])


def test_what_was_held_when_the_store_was_closed_expires(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock) as q:
        q.put("x", ttl=5)
        [_] = q.receive(timeout=0)
        clock.pass_by(5)
    with timed_queue(path, clock) as q:
        assert (q.qsize(), dead(q), q.check()) == (0, [("x", "expired")], [])


@pytest.mark.parametrize("monotonic", [5.0, 1e6])
def test_after_a_reboot_a_ttl_goes_on_by_the_wall_clock(path: str, monotonic: float) -> None:
    with timed_queue(path, HandClock(NOON, 5000)) as q:
        q.put("short", ttl=50)
        q.put("long", ttl=100)
        q.put("held", ttl=50)
        held = q.receive(3, timeout=0)[2]
        assert held.body == "held"
    shutil.rmtree(os.path.join(path, "run"))  # as after a reboot
    clock = HandClock(NOON + 60, monotonic)
    with timed_queue(path, clock) as q:
        assert ([m.body for m in q.browse()], sorted(body for body, _ in dead(q))) == (["long"], ["held", "short"])
        clock.pass_by(40)
        assert (q.qsize(), q.check()) == (0, [])


# ---------------------------------------------------------------------- many, and no room
def test_six_hundred_expire_at_once(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(list(range(600)), ttl=1)
    q.put("stays")
    clock.pass_by(1)
    assert (q.stats().ready, q.stats().dead) == (1, 600)
    assert sorted(body for body, _ in dead(q)) == list(range(600))


@pytest.mark.parametrize("take", TAKES, ids=TAKE_IDS)
def test_behind_six_hundred_expired_ones_a_living_one_is_found(timed: MakeQueue, clock: HandClock, take: Callable[[mqlite.Queue[Any]], Any]) -> None:
    q = timed()
    q.put_many(list(range(400)), ttl=1)
    q.put_many(list(range(400, 600)), ttl=1, delay=5)
    q.put("stays")
    clock.pass_by(1)
    assert take(q) == "stays"
    assert (q.stats().ready, q.stats().delayed, q.stats().dead) == (0, 0, 600)


def test_those_that_are_held_do_not_keep_others_from_expiring(timed: MakeQueue, clock: HandClock) -> None:
    q = timed()
    q.put_many(list(range(600)), ttl=1)
    held = q.receive(300, timeout=0)
    clock.pass_by(1)
    assert (q.stats().ready, q.stats().claimed, q.stats().dead) == (0, 300, 300)
    q.ack_many(held)


@pytest.mark.parametrize("size", [10_000, 400_000])
@pytest.mark.parametrize("options", [{}, {"delay": 50}], ids=["ready", "delayed"])
@pytest.mark.parametrize("expired", ["dead_letter", "drop"])
def test_messages_expire_in_a_full_store_and_none_is_handed_out(path: str, clock: HandClock, size: int, options: dict[str, Any], expired: str) -> None:
    with timed_queue(path, clock, max_store_bytes=24 << 20, expired=expired, ack_timeout=None) as q:
        assert fill(q, b"x" * size, ttl=5, **options) > 10
        clock.pass_by(10)
        assert taken(q) == []
        while q.dead.qsize():
            q.dead.get(timeout=0)
            assert q.qsize() == 0
        q.put(b"y" * size)
        assert (taken(q), q.stats().claimed, q.check()) == ([b"y" * size], 0, [])


def test_a_receive_of_many_expired_ones_in_a_full_store_leaves_none_claimed(path: str, clock: HandClock) -> None:
    with timed_queue(path, clock, max_store_bytes=24 << 20, ack_timeout=None) as q:
        count = fill(q, b"x" * 10_000, ttl=5)
        clock.pass_by(10)
        with pytest.raises(mqlite.Empty):
            q.receive(200, timeout=0)
        stats = q.stats()
        assert (stats.ready, stats.claimed, stats.dead) == (0, 0, count)


def test_nobody_is_woken_where_an_expired_message_found_no_room_to_move(
    path: str, clock: HandClock, in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those who wait would try one after the other, without end."""
    with timed_queue(path, clock, max_store_bytes=24 << 20) as q:
        q.put(b"x" * (7 << 20), ttl=5)
        fill(q, b"y" * 50_000)
        clock.pass_by(10)
        waiting = in_thread(q.dead.get)
        until_waiting(q.dead)
        rung: list[Any] = []
        monkeypatch.setattr(q._engine.waiters, "ring_one", lambda *arguments: rung.append(arguments))
        assert not q._engine.schedule.expire(q._state.id)
        assert rung == []
        monkeypatch.undo()
        q.purge()
        assert q.check() == []
    with pytest.raises(mqlite.Closed):
        waiting.result(10)


# ---------------------------------------------------------------------- room
@pytest.mark.parametrize("options", [{}, {"priority": 1}, {"headers": {"a": 1}}, {"delay": 5}, {"ttl": 5}], ids=str)
def test_what_has_expired_makes_room_for_a_put_that_does_not_wait(timed: MakeQueue, clock: HandClock, options: dict[str, Any]) -> None:
    q = timed(maxsize=1)
    q.put("x", ttl=1)
    clock.pass_by(1)
    q.put_nowait("y", **options)
    assert q.stats().dead == 1


def test_what_has_expired_makes_room_for_put_many(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxsize=3)
    q.put_many([1, 2, 3], ttl=1)
    clock.pass_by(1)
    q.put_many([4, 5, 6], timeout=0)
    assert taken(q) == [4, 5, 6]


def test_what_has_expired_makes_room_in_bytes(timed: MakeQueue, clock: HandClock) -> None:
    q = timed(maxbytes=1000)
    q.put("x" * 700, ttl=1)
    clock.pass_by(1)
    q.put_nowait("y" * 700)
    assert taken(q) == ["y" * 700]


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter"])
def test_what_has_expired_makes_room_before_anything_is_refused_or_dropped(timed: MakeQueue, clock: HandClock, overflow: str) -> None:
    q = timed(maxsize=2, overflow=overflow)
    q.put("stays")
    q.put("expires", ttl=1)
    clock.pass_by(1)
    q.put("new")
    assert (dead(q), taken(q)) == ([("expires", "expired")], ["stays", "new"])


# ---------------------------------------------------------------------- those who wait
def test_a_blocked_put_goes_on_when_a_message_expires(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("expires", ttl=0.2)
    blocked = in_thread(q.put, "next")
    assert blocked.result(10) > 0
    assert taken(q) == ["next"]


def test_a_blocked_put_goes_on_when_a_delayed_message_expires(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue(maxsize=1)
    q.put("expires", ttl=0.2, delay=3600)
    blocked = in_thread(q.put, "next")
    assert blocked.result(10) > 0
    assert taken(q) == ["next"]


@pytest.mark.parametrize("back", [lambda m: m.release(), lambda m: m.nack(), lambda m: m.nack(delay=3600)], ids=["release", "nack", "nack with a delay"])
def test_a_blocked_put_goes_on_when_an_expired_message_is_given_back(
    make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting, eventually: Eventually, back: Callable[[mqlite.Message], None]
) -> None:
    q = make_queue(maxsize=1)
    q.put("expires", ttl=0.05)
    [m] = q.receive(timeout=10)
    assert m.expires_at is not None
    expires_at = m.expires_at
    eventually(lambda: datetime.now(UTC).timestamp() > expires_at.timestamp() + 0.01)
    blocked = in_thread(q.put, "next")
    until_waiting(q, Kind.SPACE)
    back(m)
    assert blocked.result(10) > 0


def test_who_waits_for_a_dead_letter_is_woken_when_something_expires(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put("expires", ttl=0.2)
    waiting = in_thread(q.dead.get)
    assert waiting.result(10) == "expires"


@pytest.mark.parametrize("options", [{}, {"delay": 3600}], ids=["ready", "delayed"])
def test_who_waits_for_a_dead_letter_is_woken_for_what_is_put_later(
    q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, options: dict[str, Any]
) -> None:
    waiting = in_thread(q.dead.get)
    until_waiting(q.dead)
    q.put("expires", ttl=0.1, **options)
    assert waiting.result(10) == "expires"


def test_who_waits_for_a_dead_letter_is_woken_for_one_that_expires_sooner(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("much later", ttl=3600)
    waiting = in_thread(q.dead.get)
    until_waiting(q.dead)
    q.put("soon", ttl=0.1)
    assert waiting.result(10) == "soon"


def test_who_waits_for_a_dead_letter_is_woken_when_an_expired_one_is_given_back(
    q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, eventually: Eventually
) -> None:
    q.put("x", ttl=0.05)
    [m] = q.receive(timeout=10)
    assert m.expires_at is not None
    expires_at = m.expires_at
    eventually(lambda: datetime.now(UTC).timestamp() > expires_at.timestamp() + 0.01)
    waiting = in_thread(q.dead.get)
    until_waiting(q.dead)
    m.release()
    assert waiting.result(10) == "x"


def test_join_ends_when_the_last_message_expires(q: mqlite.Queue[Any], in_thread: InThread) -> None:
    q.put("expires", ttl=0.1)
    q.put("expires, too", ttl=0.1, delay=3600)
    assert in_thread(q.join).result(30) is None


def test_join_ends_when_what_was_put_later_expires(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("held")
    [held] = q.receive(timeout=0)
    joined = in_thread(q.join)
    until_waiting(q, Kind.DONE)
    q.put("expires", ttl=0.1)
    held.ack()
    assert joined.result(10) is None


def test_who_waits_for_a_group_is_woken_when_its_head_expires(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q.put("fails", group="g", ttl=0.2)
    q.put("next", group="g")
    q.receive(timeout=0)[0].nack(delay=3600)
    waiting = in_thread(q.get)
    assert waiting.result(10) == "next"


def test_who_waits_is_not_given_what_expired_before_it_was_due(q: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> None:
    waiting = in_thread(q.get)
    until_waiting(q)
    q.put("expires", delay=0.2, ttl=0.1)
    q.put("fine", delay=0.4, ttl=60)
    assert waiting.result(10) == "fine"
    assert dead(q) == [("expires", "expired")]
