"""The row of a settled message goes with the next commit of the claims: nobody must notice, whoever is killed meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

import mqlite
from mqlite.claims import Kind
from mqlite.claims.postponed import AT_MOST
from mqlite.system.control import CLEARED, SETTLED

LEVEL = "checkpoint"  # at "process" messages settled one by one soon have no rows (log/front.py)
GUARD = 60.0


def _rows(queue: mqlite.Queue[Any]) -> int:
    with queue._engine.claims.read() as c:
        return int(c.claimed(queue._state.id))


def _words(queue: mqlite.Queue[Any]) -> tuple[int, int]:
    words = queue._channel.store._control.words  # type: ignore[union-attr]
    return words[SETTLED], words[CLEARED]


def _seen(queue: mqlite.Queue[Any]) -> tuple[int, int, int]:
    stats = queue.stats()
    return queue.qsize(), stats.ready, stats.claimed


def _settle(talk: Any, path: str, how: str, count: int = 1) -> None:
    """Takes so many messages, settles them, and stays, without another commit."""
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    for _ in range(count):
        if how == "get":
            queue.get(timeout=GUARD)
        else:
            [message] = queue.receive(timeout=GUARD)
            message.ack()
    talk.say(_rows(queue))
    while talk.hear(GUARD) == "done":
        queue.task_done()
        talk.say("reported")


def test_counts_are_exact_while_the_row_goes_between_two_looks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    claims: Any = queue._engine.claims
    postponed = claims.postponed

    def commit_first(*arguments: Any) -> int:
        with claims.lock, claims.guard, claims.write():
            pass
        return int(postponed(*arguments))

    monkeypatch.setattr(claims, "postponed", commit_first)
    for left in (2, 1):
        queue.put("a")
        queue.put("b")
        queue.get()
        assert _rows(queue) == 1
        assert queue.qsize() == 3 - left
        assert _rows(queue) == 0
    queue.close()


def test_counts_are_exact_while_a_row_is_left(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many("abc")
    other = children.fork(_settle, path, "ack")
    assert other.hear() == 1  # row
    assert _seen(queue) == (2, 2, 0)
    [mine] = queue.receive()
    assert _seen(queue) == (1, 1, 1)
    mine.ack()
    assert _seen(queue) == (1, 1, 0)
    assert _rows(queue) == 2
    assert queue.check() == []


def test_the_next_claim_takes_the_row_along(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(range(20))
    for expected in range(20):
        [message] = queue.receive()
        assert (message.body, _rows(queue)) == (expected, 1)
        message.ack()
    settled, cleared = _words(queue)
    assert (settled, cleared) == (20, 19)


def test_only_so_many_rows_are_left(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(range(5 * AT_MOST))
    seen = []
    for message in queue.receive(5 * AT_MOST):
        message.ack()
        seen.append(_rows(queue) - queue.stats().claimed)
    assert max(seen) < AT_MOST
    assert queue.stats().claimed == 0
    assert queue.check() == []


def test_a_waiting_receive_takes_the_rows_along_before_it_sleeps(
    path: str, in_thread: Any, until_waiting: Any
) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("x")
    queue.receive()[0].ack()
    assert _rows(queue) == 1
    waiting = in_thread(queue.receive, timeout=GUARD)
    until_waiting(queue)
    assert _rows(queue) == 0
    queue.put("y")
    assert waiting.result(GUARD)[0].body == "y"


def test_what_get_took_is_a_task_while_its_row_is_left(path: str, children: Any, in_thread: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("x")
    other = children.fork(_settle, path, "get")
    assert other.hear() == 1
    assert queue.unfinished_tasks == 1
    joining = in_thread(queue.join)
    other.say("done")
    assert other.hear() == "reported"
    joining.result(GUARD)
    assert queue.unfinished_tasks == 0
    assert queue.check() == []


@pytest.mark.parametrize("how", ["kill", "end"])
def test_a_task_that_was_reported_elsewhere_stays_done_when_the_holder_of_its_row_goes(
    path: str, children: Any, how: str
) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put("x")
    other = children.fork(_settle, path, "get")
    assert other.hear() == 1
    queue.task_done()
    assert queue.unfinished_tasks == 0
    if how == "kill":
        other.kill()
    else:
        other.say("no more")
        other.end()
    assert queue.qsize() == 0
    queue.put("y")
    assert queue.unfinished_tasks == 1
    assert queue.check() == []


def test_join_ends_after_an_immediate_shutdown_although_a_row_is_left(path: str, children: Any, in_thread: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many("xy")
    other = children.fork(_settle, path, "ack")
    assert other.hear() == 1
    queue.shutdown(immediate=True)
    in_thread(queue.join).result(GUARD)


def test_a_blocked_put_gets_the_room_of_a_message_whose_row_is_left(
    path: str, children: Any, in_thread: Any, until_waiting: Any
) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=1)
    queue.put("x")
    blocked = in_thread(queue.put, "y", timeout=GUARD)
    until_waiting(queue, Kind.SPACE)
    other = children.fork(_settle, path, "ack")
    other.hear()
    blocked.result(GUARD)


def test_the_rows_of_a_killed_process_go_and_counting_is_cheap_again(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many("abcd")
    queue.receive()[0].ack()
    other = children.fork(_settle, path, "ack", 2)
    other.hear()
    other.kill()
    assert _seen(queue) == (1, 1, 0)
    settled, cleared = _words(queue)
    assert (settled, cleared, _rows(queue)) == (3, 3, 0)
    queue.receive()[0].ack()  # what was left to be cleared here was cleared by taking back
    with queue._engine.claims.lock, queue._engine.claims.guard, queue._engine.claims.write():
        pass
    settled, cleared = _words(queue)
    assert (settled, cleared, _rows(queue)) == (4, 4, 0)
    assert queue.check() == []


def test_the_row_of_a_settled_message_goes_when_its_deadline_is_over_and_counting_is_cheap_again(
    path: str, children: Any, eventually: Any
) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, ack_timeout=0.05)
    queue.put_many("ab")
    other = children.fork(_settle, path, "ack")
    assert other.hear() == 1
    assert _words(queue) == (1, 0)

    def taken_back() -> bool:
        queue._engine.takeback.care(queue._state.id)
        return _rows(queue) == 0

    eventually(taken_back)
    assert _words(queue) == (1, 1)
    assert _seen(queue) == (1, 1, 0)
    assert queue.check() == []


def test_rows_of_settled_messages_are_counted_off_wherever_they_lie(path: str) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many(range(12))
    held = queue.receive(10)
    for settled, number in enumerate((9, 0, 5, 3), 1):
        held[number].ack()
        assert _rows(queue) == 10
        assert _seen(queue) == (2, 2, 10 - settled)


def test_closing_leaves_no_row(path: str) -> None:
    with mqlite.open(path) as broker:
        keeps = broker.queue("q")
        queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
        queue.put("x")
        queue.receive()[0].ack()
        queue.close()
        assert keeps.stats().claimed == 0
    again: mqlite.Queue[Any] = mqlite.Queue("q", path)
    assert _rows(again) == 0


def test_a_forked_child_leaves_the_rows_to_its_parent(path: str, children: Any) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)
    queue.put_many("xyz")
    queue.receive()[0].ack()

    def take(talk: Any) -> None:
        [message] = queue.receive(timeout=GUARD)
        rows = _rows(queue)
        message.ack()
        talk.say([message.body, rows])
        talk.hear(GUARD)

    child = children.fork(take)
    assert child.hear() == ["y", 2]
    [message] = queue.receive(timeout=GUARD)
    assert message.body == "z"
    message.ack()
    child.kill()
    assert _seen(queue) == (0, 0, 0)
    assert queue.check() == []
