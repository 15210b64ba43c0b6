"""Claims of many threads in one commit: each gets what is his, in the order of the line, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from interrupting import interrupted_at

import mqlite
from mqlite.claims import TASK
from mqlite.claims.shared_txn import SharedTxn
from mqlite.engine import sharing
from mqlite.errors import StoreFull
from mqlite.system import group_commit

LEVEL = "full"  # at "process" most claims of one message are made elsewhere (log/front.py)
Together = Callable[..., list[Future[Any]]]


@pytest.fixture
def queue(disk_queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> mqlite.Queue[Any]:
    """One that has been used, so that all who share the store are known."""
    monkeypatch.setattr(group_commit, "HEDGE", 60.0)  # whoever falls back upon it hangs here
    disk_queue.put("first")
    assert disk_queue.get() == "first"
    disk_queue.task_done()
    return disk_queue


@pytest.fixture
def together(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually) -> Together:
    """together(call, ...): each in a thread of its own, in line for one commit of the claims in that order."""

    def run(*calls: Callable[[], Any]) -> list[Future[Any]]:
        claims: Any = queue._engine.claims
        with claims.lock:
            futures = [in_thread(calls[0])]
            eventually(lambda: claims.group.is_led)
            for number, call in enumerate(calls[1:], 1):
                futures.append(in_thread(call))
                eventually(lambda number=number: len(claims.group._waiting) == number)
        return futures

    return run


def receive(queue: mqlite.Queue[Any]) -> mqlite.Message:
    [message] = queue.receive(timeout=0)
    return message


def claim_of(message: mqlite.Message) -> Any:
    lease: Any = message.lease
    return lease.claim


def messages_of(futures: list[Future[Any]]) -> list[mqlite.Message]:
    return [future.result(10) for future in futures]


def rows_of(queue: mqlite.Queue[Any]) -> list[Any]:
    with queue._engine.claims.read() as c:
        return [row for _, _, row in c.rows(queue._state.id)]


def test_those_who_wait_for_a_claim_get_the_first_in_line_in_their_order(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(9))
    messages = messages_of(together(*[lambda: receive(queue)] * 8))
    assert [message.body for message in messages] == list(range(8))
    assert receive(queue).body == 8


def test_their_claims_are_one_commit(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(8))
    before = queue._engine.claims.last_commit()
    messages = messages_of(together(*[lambda: receive(queue)] * 8))
    assert {claim_of(message).commit for message in messages} == {before + 1} == {queue._engine.claims.last_commit()}


def test_each_settles_its_own_message(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(4))
    acked, failed, released, rejected = messages_of(together(*[lambda: receive(queue)] * 4))
    acked.ack()
    failed.nack()
    released.release()
    rejected.reject()
    assert [(message.body, message.delivery_count) for message in queue.receive(9, timeout=0)] == [(1, 1), (2, 0)]
    assert [message.body for message in queue.dead.peek()] == [3]


def test_messages_of_several_priorities_are_taken_in_order(queue: mqlite.Queue[Any], together: Together) -> None:
    for number in range(6):
        queue.put(number, priority=number % 3)
    messages = messages_of(together(*[lambda: receive(queue)] * 5))
    assert [message.body for message in messages] == [2, 5, 1, 4, 0]
    assert receive(queue).body == 3


def test_who_finds_nothing_left_is_told_so(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(2))
    futures = together(*[lambda: receive(queue)] * 4)
    assert [future.result(10).body for future in futures[:2]] == [0, 1]
    assert [type(future.exception(10)) for future in futures[2:]] == [mqlite.Empty] * 2


def test_who_waits_for_longer_gets_what_is_put_later(queue: mqlite.Queue[Any], together: Together, until_waiting: Any) -> None:
    queue.put("first")
    first, second = together(lambda: receive(queue), lambda: queue.receive(timeout=10))
    assert first.result(10).body == "first"
    until_waiting(queue)
    queue.put("second")
    assert second.result(10)[0].body == "second"


def test_receive_and_get_share_a_commit_and_only_get_makes_a_task(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(3))
    kept, taken, also_kept = together(lambda: receive(queue), lambda: queue.get(timeout=0), lambda: receive(queue))
    assert (kept.result(10).body, taken.result(10), also_kept.result(10).body) == (0, 1, 2)
    assert [claim_of(future.result(10)).row.flags & TASK for future in (kept, also_kept)] == [0, 0]
    queue.task_done()


def test_what_was_given_back_comes_first(queue: mqlite.Queue[Any], together: Together) -> None:
    queue.put_many(range(3))
    receive(queue).release()
    messages = messages_of(together(*[lambda: receive(queue)] * 3))
    assert sorted(message.body for message in messages) == [0, 1, 2]


def test_claims_on_several_queues_share_a_commit(queue: mqlite.Queue[Any], together: Together) -> None:
    with mqlite.Queue[Any]("other", queue._channel.store.path) as other:
        other.put_many("ab")
        receive(other).ack()
        queue.put_many(range(2))
        before = queue._engine.claims.last_commit()
        messages = messages_of(together(lambda: receive(queue), lambda: receive(other), lambda: receive(queue)))
        assert [message.body for message in messages] == [0, "b", 1]
        assert {claim_of(message).commit for message in messages} == {before + 1}
        messages[1].ack()


def test_no_more_is_read_than_is_wanted(queue: mqlite.Queue[Any], together: Together, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies may be long."""
    counts: dict[int, int] = {}
    log: Any = queue._engine.log
    first_in_line = log.first_in_line

    def noted(number: int, version: int, cursor: Any, count: int) -> Any:
        counts[number] = count
        return first_in_line(number, version, cursor, count)

    with mqlite.Queue[Any]("other", queue._channel.store.path) as other:
        other.put_many(range(9))
        queue.put_many(range(9))
        monkeypatch.setattr(log, "first_in_line", noted)
        messages_of(together(lambda: receive(queue), lambda: receive(other), lambda: receive(queue)))
        assert counts == {queue._state.id: 2, other._state.id: 1}
        assert not queue._engine.claims.write().supplies


def test_a_shutdown_reaches_only_those_who_want_a_message_of_that_queue(queue: mqlite.Queue[Any], together: Together) -> None:
    with mqlite.Queue[Any]("other", queue._channel.store.path) as other:
        queue.put_many(range(2))
        other.shutdown(immediate=True)
        first, refused, second = together(lambda: receive(queue), lambda: receive(other), lambda: receive(queue))
        assert isinstance(refused.exception(10), mqlite.ShutDown)
        assert (first.result(10).body, second.result(10).body) == (0, 1)


def test_a_commit_that_fails_gives_nobody_a_message(queue: mqlite.Queue[Any], together: Together, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.put_many(range(3))
    seal, errors = SharedTxn.seal, [StoreFull("no room")]

    def failing(txn: SharedTxn) -> Any:
        sealed = seal(txn)
        if errors:
            raise errors.pop()
        return sealed

    monkeypatch.setattr(SharedTxn, "seal", failing)
    futures = together(*[lambda: receive(queue)] * 3)
    assert [type(future.exception(10)) for future in futures] == [StoreFull] * 3
    assert rows_of(queue) == []
    assert [message.body for message in queue.receive(9, timeout=0)] == [0, 1, 2]


def test_an_error_in_one_claim_leaves_the_others_theirs(queue: mqlite.Queue[Any], together: Together, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.put_many(range(3))
    take, calls = sharing.Wish.__call__, iter(range(9))

    def failing(*arguments: Any) -> Any:
        taken = take(*arguments)
        if next(calls) == 1:
            raise ZeroDivisionError
        return taken

    monkeypatch.setattr(sharing.Wish, "__call__", failing)
    first, failed, second = together(*[lambda: receive(queue)] * 3)
    assert isinstance(failed.exception(10), ZeroDivisionError)
    assert (first.result(10).body, second.result(10).body) == (0, 1)
    assert len(rows_of(queue)) == 2
    assert receive(queue).body == 2


def test_a_claim_that_was_made_for_one_who_was_interrupted_is_given_back_at_once(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put_many(range(2))
    claims: Any = queue._engine.claims
    follow = group_commit.GroupCommit._follow

    def interrupted(group: Any, own: Any) -> None:
        follow(group, own)
        if threading.current_thread() is threading.main_thread():
            assert own.outcome
            raise KeyboardInterrupt

    monkeypatch.setattr(group_commit.GroupCommit, "_follow", interrupted)
    claims.lock.acquire()
    leader = in_thread(receive, queue)
    eventually(lambda: claims.group.is_led)

    def let_go() -> None:
        eventually(lambda: len(claims.group._waiting) == 1)
        claims.lock.release()

    letting_go = in_thread(let_go)
    with pytest.raises(KeyboardInterrupt):
        queue.receive(timeout=0)
    assert (letting_go.exception(10), leader.result(10).body) == (None, 0)
    assert len(rows_of(queue)) == 1
    assert receive(queue).body == 1


def _interrupted(queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, point: int, leads: bool) -> bool:
    """Whether there was no such point. One of two threads that claim together is interrupted."""
    bodies = [f"{point} {n}" for n in range(2)]
    queue.put_many(bodies)
    claims: Any = queue._engine.claims
    finished = threading.Event()
    claims.lock.acquire()
    others: list[Future[Any]] = []
    if not leads:
        others.append(in_thread(receive, queue))
        eventually(lambda: claims.group.is_led)

    def let_go() -> None:
        def is_there() -> bool:
            return bool(struck) or finished.is_set() or (claims.group.is_led if leads else bool(claims.group._waiting))

        eventually(is_there)
        if leads:
            op_waits = len(claims.group._waiting)
            others.append(in_thread(receive, queue))
            eventually(lambda: struck or len(claims.group._waiting) > op_waits)
        claims.lock.release()

    mine: list[mqlite.Message] = []
    with interrupted_at(point) as struck:
        letting_go = in_thread(let_go)
        mine = queue.receive(timeout=0)
    finished.set()
    assert letting_go.exception(10) is None
    taken = [other.result(10) for other in others] + mine
    assert {message.body for message in taken} <= set(bodies), struck
    assert len(rows_of(queue)) == len(taken), struck  # nobody holds what nobody has
    rest = queue.receive(2 - len(taken), timeout=0) if len(taken) < 2 else []
    assert sorted(message.body for message in [*taken, *rest]) == bodies, struck
    queue.ack_many([*taken, *rest])
    return not struck


@pytest.mark.parametrize("leads", [True, False])
def test_an_interrupt_at_any_point_of_a_shared_claim_loses_no_message(
    queue: mqlite.Queue[Any], in_thread: InThread, eventually: Eventually, leads: bool
) -> None:
    point = 1
    while not _interrupted(queue, in_thread, eventually, point, leads):
        point += 1
    assert point > 20


def test_threads_that_take_from_two_queues_get_each_message_once(queue: mqlite.Queue[Any], in_thread: InThread) -> None:
    count = 600
    with mqlite.Queue[Any]("other", queue._channel.store.path) as other:
        for each in (queue, other):
            each.put_many(range(count))

        def take(first: mqlite.Queue[Any], second: mqlite.Queue[Any]) -> list[tuple[str, int]]:
            taken: list[tuple[str, int]] = []
            while True:
                try:
                    for each in (first, second):
                        message = receive(each)
                        taken.append((each.name, message.body))
                        message.ack()
                except mqlite.Empty:
                    return taken

        futures = [in_thread(take, *((queue, other) if number % 2 else (other, queue))) for number in range(8)]
        taken = [future.result(60) for future in futures]
        for each in taken:
            for name in (queue.name, other.name):
                bodies = [body for where, body in each if where == name]
                assert bodies == sorted(bodies)  # one thread sees the line move on only
        left = [(each.name, message.body) for each in (queue, other) for message in _rest(each)]
        everything = sorted([pair for each in taken for pair in each] + left)
        assert everything == sorted((each.name, number) for each in (queue, other) for number in range(count))


def _rest(queue: mqlite.Queue[Any]) -> list[mqlite.Message]:
    try:
        messages = queue.receive(10_000, timeout=0)
    except mqlite.Empty:
        return []
    queue.ack_many(messages)
    return messages
