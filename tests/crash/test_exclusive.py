"""Consumers that have a queue for themselves, in several processes, some of which are killed."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite
from mqlite.claims import Kind

GUARD = 60.0


def be_the_one(talk: Any, path: str, mode: str) -> None:
    """A consumer that says each message it gets, and acknowledges it when it is told "ack"."""
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(prefetch=2, mode=mode) as consumer:
        talk.say("made")
        for message in consumer:
            talk.say([message.body, message.delivery_count, consumer.is_active])
            if talk.hear(3600) == "end":
                break
            message.ack()


def get_one(talk: Any, path: str) -> None:
    """Says what a plain get brings."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    talk.say("waiting")
    try:
        talk.say(queue.get(timeout=GUARD))
    except mqlite.QueueLocked:
        talk.say("locked")
    queue.close()


@pytest.mark.parametrize("mode", ["exclusive", "failover"])
def test_another_process_is_refused_while_one_has_the_queue_for_itself(path: str, children: Any, mode: str) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many([1, 2, 3])
        one = children.fork(be_the_one, path, mode)
        assert (one.hear(), one.hear()) == ("made", [1, 0, True])
        for take in (lambda: queue.get(timeout=0), lambda: queue.receive(timeout=GUARD), lambda: queue.consumer(mode="exclusive"), lambda: queue.consumer().receive()):
            with pytest.raises(mqlite.QueueLocked):
                take()
        one.say("end")
        one.end()
        assert [queue.get(timeout=0) for _ in range(3)] == [1, 2, 3]
        assert queue.check() == []


def test_the_queue_of_a_killed_exclusive_consumer_is_free_at_once(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        queue.put_many([1, 2, 3])
        one = children.fork(be_the_one, path, "exclusive")
        assert (one.hear(), one.hear()) == ("made", [1, 0, True])
        one.kill()
        with queue.consumer(mode="exclusive") as consumer:
            messages = [consumer.receive(timeout=0)]
            messages[0].ack()
            messages.append(consumer.receive(timeout=0))
            assert [(m.body, m.delivery_count) for m in messages] == [(1, 1), (2, 0)]
        assert queue.check() == []


def test_the_queue_of_a_killed_exclusive_consumer_is_free_for_a_plain_get(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        one = children.fork(be_the_one, path, "exclusive")
        assert one.hear() == "made"
        queue.put("x")
        assert one.hear() == ["x", 0, True]
        one.kill()
        assert queue.get(timeout=0) == "x"


def test_who_waits_in_another_process_is_told_when_an_exclusive_consumer_comes(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        waiting = children.fork(get_one, path)
        assert waiting.hear() == "waiting"
        until_waiting(queue)
        with queue.consumer(mode="exclusive"):
            assert waiting.hear() == "locked"
        waiting.end()


def test_the_next_takes_over_when_the_active_one_is_closed_in_another_process(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(mode="failover") as consumer:
        queue.put("x")
        assert consumer.receive(timeout=0).body == "x"
        other = children.fork(be_the_one, path, "failover")
        assert other.hear() == "made"
        until_waiting(queue, Kind.STANDBY)
        consumer.close()
        assert other.hear() == ["x", 0, True]
        other.say("end")
        other.end()
        assert queue.check() == []


def test_one_after_the_other_takes_over_from_a_killed_one(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path, max_deliveries=None) as queue:
        running = [children.fork(be_the_one, path, "failover") for _ in range(4)]
        assert [one.hear() for one in running] == ["made"] * 4
        until_waiting(queue)
        until_waiting(queue, Kind.STANDBY, n=3)
        queue.put_many(["first", "second"])
        for deaths in range(4):
            heard = {}
            while not heard:
                for one in running:
                    try:
                        heard[one] = one.hear(0.05)
                    except TimeoutError:
                        pass
            assert list(heard.values()) == [["first", deaths, True]]
            [taker] = heard
            running.remove(taker)
            with pytest.raises(mqlite.QueueLocked):
                queue.get(timeout=0)
            taker.kill()
        assert [(m.body, m.delivery_count) for m in queue.receive(9, timeout=0)] == [("first", 4), ("second", 0)]
        assert queue.check() == []


def test_a_killed_one_that_stood_by_takes_nothing_with_it(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(mode="failover") as consumer:
        with pytest.raises(mqlite.Empty):
            consumer.receive(timeout=0)
        other = children.fork(be_the_one, path, "failover")
        assert other.hear() == "made"
        until_waiting(queue, Kind.STANDBY)
        other.kill()
        queue.put("x")
        assert consumer.receive(timeout=GUARD).body == "x"
        assert consumer.is_active


def test_all_that_were_killed_leave_the_queue_free_for_the_next_process(path: str, children: Any) -> None:
    mqlite.Queue[Any]("q", path).close()
    one = children.fork(be_the_one, path, "exclusive")
    assert one.hear() == "made"
    one.kill()
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(mode="exclusive") as consumer:
        assert consumer.is_active


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("mode", ["exclusive", "failover"])
def test_a_forked_child_is_not_active_and_its_end_takes_nothing_from_its_parent(path: str, children: Any, kind: str, mode: str) -> None:
    with mqlite.Queue[Any]("q", path if kind == "disk" else None) as queue, queue.consumer(mode=mode) as consumer:
        queue.put_many([1, 2])
        assert consumer.receive(timeout=0).body == 1

        def child(talk: Any) -> None:
            talk.say(consumer.is_active)
            consumer.close()

        forked = children.fork(child)
        assert forked.hear() is False
        forked.end()
        assert consumer.is_active
        with pytest.raises(mqlite.QueueLocked):
            queue.get(timeout=0)


def test_in_a_forked_child_the_exclusive_consumer_of_its_parent_is_refused(path: str, children: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue, queue.consumer(mode="exclusive") as consumer:
        queue.put("x")

        def child(talk: Any) -> None:
            try:
                consumer.receive(timeout=0)
            except mqlite.QueueLocked:
                talk.say("locked")

        forked = children.fork(child)
        assert forked.hear() == "locked"
        forked.end()
        assert consumer.receive(timeout=0).body == "x"


def test_a_forked_child_that_stands_by_takes_over_when_its_parent_closes(path: str, children: Any, until_waiting: Any) -> None:
    with mqlite.Queue[Any]("q", path) as queue:
        consumer = queue.consumer(mode="failover")
        queue.put("x")
        assert consumer.receive(timeout=0).body == "x"

        def child(talk: Any) -> None:
            talk.say(consumer.receive(timeout=GUARD).body)
            talk.say(consumer.is_active)

        forked = children.fork(child)
        until_waiting(queue, Kind.STANDBY)
        consumer.close()
        assert (forked.hear(), forked.hear()) == ("x", True)
        forked.end()
