"""Dead letters that are given another chance, and queues that are emptied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fixture_types import InThread, MakeQueue

import mqlite
from mqlite.engine import removal


def with_dead(make_queue: MakeQueue, bodies: list[Any], **options: Any) -> mqlite.Queue[Any]:
    """A queue whose messages have all died of one failure."""
    q = make_queue(max_deliveries=1, **options)
    q.put_many(bodies)
    for message in q.receive(len(bodies), timeout=0):
        message.nack(error="broken")
    assert q.stats().dead == len(bodies)
    return q


def test_dead_letters_come_back_as_if_they_were_new(make_queue: MakeQueue) -> None:
    q = make_queue(max_deliveries=1)
    number = q.put({"a": 1}, priority=5, headers={"h": "x"}, type="t")
    q.receive(timeout=0)[0].nack(error="broken")
    assert q.redrive() == 1
    [m] = q.receive(timeout=0)
    assert (m.id, m.body, m.priority, m.headers, m.type) == (number, {"a": 1}, 5, {"h": "x"}, "t")
    assert (m.delivery_count, m.acquired_count, m.redelivered, m.death) == (0, 1, False, None)
    assert (q.stats().dead, q.stats().claimed) == (0, 1)
    m.nack()
    assert q.stats().dead == 1  # it may die again


def test_they_line_up_behind_what_is_there(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, ["first", "second"])
    q.put("younger")
    assert q.redrive() == 2
    assert [m.body for m in q.receive(5, timeout=0)] == ["younger", "first", "second"]


def test_no_more_than_asked_for_come_back(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, list(range(5)))
    assert (q.redrive(max=2), q.redrive(max=2), q.redrive(max=2), q.redrive(max=2)) == (2, 2, 1, 0)


def test_a_filter_chooses_and_the_others_stay_claimable(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, list(range(600)))
    assert q.redrive(filter=lambda m: m.body % 3 == 0 and m.death.error == "broken") == 200
    assert (q.stats().ready, q.stats().dead, q.dead.stats().claimed) == (200, 400, 0)
    assert [m.body for m in q.dead.receive(2, timeout=0)] == [1, 2]


def test_a_filter_that_fails_loses_nothing(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, [1, 2, 3])
    with pytest.raises(ZeroDivisionError):
        q.redrive(filter=lambda m: 1 / 0)
    assert (q.stats().ready, q.dead.stats().ready, q.dead.stats().claimed) == (0, 3, 0)


def test_what_somebody_holds_is_left_alone(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, [1, 2])
    [held] = q.dead.receive(timeout=0)
    assert q.redrive() == 1
    held.ack()
    assert (q.stats().ready, q.stats().dead) == (1, 0)


def test_a_queue_without_room_takes_none_and_none_is_lost(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, [1, 2, 3])
    q.configure(maxsize=2)
    with pytest.raises(mqlite.Full):
        q.redrive()
    assert (q.stats().ready, q.dead.stats().ready) == (0, 3)
    assert q.redrive(max=2) == 2


class Moody:
    """A codec that can be made unable to read."""

    broken = False

    def encode(self, body: Any) -> bytes:
        return str(body).encode()

    def decode(self, data: bytes) -> Any:
        if self.broken:
            raise ValueError("not today")
        return data.decode()


def test_corrupted_letters_stay_unless_a_filter_wants_them(path: str) -> None:
    codec = Moody()
    with mqlite.Queue[Any]("q", path, codec=codec) as q:
        q.put(5)
        codec.broken = True
        with pytest.raises(mqlite.Empty):
            q.receive(timeout=0)
        codec.broken = False
        assert (q.stats().dead, q.redrive(), q.stats().dead) == (1, 0, 1)
        assert q.redrive(filter=lambda m: m.death is not None and m.death.reason == "corrupted") == 1
        assert (q.stats().dead, q.stats().ready) == (0, 1)


@pytest.mark.parametrize("options", [{"filter": 5}, {"max": "2"}, {"max": 1.5}])
def test_bad_options_of_redrive_are_told(q: mqlite.Queue[Any], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        q.redrive(**options)


def test_a_dead_letter_queue_is_not_redriven_itself(q: mqlite.Queue[Any]) -> None:
    with pytest.raises(mqlite.NotSupported, match="dead-letter"):
        q.dead.redrive()


def test_a_waiting_consumer_is_woken_by_a_redrive(make_queue: MakeQueue, in_thread: InThread, until_waiting: Callable[..., None]) -> None:
    q = with_dead(make_queue, ["again"])
    waiting = in_thread(q.get, timeout=30)
    until_waiting(q)
    assert q.redrive() == 1
    assert waiting.result(30) == "again"


# ---------------------------------------------------------------------- purge
def test_a_purge_removes_what_nobody_holds(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.put_many(list(range(700)))
    q.put_many(list(range(300)), delay=60)
    held = q.receive(3, timeout=0)
    assert q.purge() == 997
    stats = q.stats()
    assert (stats.ready, stats.delayed, stats.claimed) == (0, 0, 3)
    q.ack_many(held)
    assert (q.unfinished_tasks, q.purge()) == (0, 0)


def test_a_purge_leaves_the_dead(make_queue: MakeQueue) -> None:
    q = with_dead(make_queue, [1])
    q.put(2)
    assert (q.purge(), q.stats().dead, q.dead.purge(), q.stats().dead) == (1, 1, 1, 0)


@pytest.mark.parametrize("how", [{}, {"priority": 9}, {"delay": 60}])
def test_a_purge_leaves_what_is_put_meanwhile(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    q = make_queue()
    q.put_many(list(range(300)))
    q.put_many(list(range(300)), delay=60)

    def put_and_claim(*arguments: Any) -> None:
        q.put("new", **how)
        claim_some(*arguments)

    claim_some = removal.claim_some
    monkeypatch.setattr(removal, "claim_some", put_and_claim)
    assert q.purge() == 600
    stats = q.stats()
    assert (stats.claimed, stats.ready + stats.delayed) == (0, 2)
    monkeypatch.undo()
    if "delay" not in how:
        assert [(m.body, m.acquired_count) for m in q.receive(5, timeout=0)] == [("new", 1)] * 2


def test_a_purge_ends_while_somebody_puts_without_end(make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    q = make_queue()
    q.put_many(list(range(3)))

    def put_and_claim(*arguments: Any) -> None:
        q.put_many(["new"] * 600)
        claim_some(*arguments)

    claim_some = removal.claim_some
    monkeypatch.setattr(removal, "claim_some", put_and_claim)
    assert q.purge() == 3
    assert q.qsize() == 600


def test_a_purge_lets_those_in_who_wait_for_room(make_queue: MakeQueue, in_thread: InThread, until_waiting: Callable[..., None]) -> None:
    q = make_queue(maxsize=2)
    q.put_many([1, 2], delay=60)
    waiting = in_thread(q.put, 3, timeout=30)
    until_waiting(q, mqlite.claims.Kind.SPACE)
    assert q.purge() == 2
    assert isinstance(waiting.result(30), int)
    assert q.get(timeout=0) == 3
