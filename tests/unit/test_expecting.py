"""Who waits has a claim on a message already while its commit waits for the disk: nobody may notice, whatever comes between."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread, UntilWaiting

import mqlite
from mqlite import waiting
from mqlite.claims import Kind
from mqlite.claims.expected import Expected, Expecting
from mqlite.log import InLine
from mqlite.system.control import COMING_SEQ
from mqlite.wake import fifo

LEVEL = "full"
GUARD = 60.0
Then = Callable[[], object]


@pytest.fixture(autouse=True)
def no_hedge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: a lost ring is a test that fails."""
    monkeypatch.setattr(fifo, "HEDGE", GUARD)
    monkeypatch.setattr(waiting, "EXPECTS_AT_MOST", GUARD)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who expects something gives it up soon, if it does not come; not before the test has seen that he expects it."""
    monkeypatch.setattr(waiting, "EXPECTS_AT_MOST", 1.0)


@pytest.fixture
def queue(disk_queue: mqlite.Queue[Any]) -> mqlite.Queue[Any]:
    return disk_queue


def _words(queue: mqlite.Queue[Any]) -> Expected:
    expected = queue._engine.claims.expected
    assert expected is not None
    return expected


def _expecting(queue: mqlite.Queue[Any]) -> Expecting | None:
    return _words(queue).expecting()


def _is_quiet(queue: mqlite.Queue[Any]) -> bool:
    """Nothing is left of any of it."""
    with queue._engine.claims.read() as c:
        rows = list(c.rows(queue._state.id))
    words = queue._channel.store._control.words  # type: ignore[union-attr]
    return _expecting(queue) is None and not words[COMING_SEQ] and not rows


@pytest.fixture
def meanwhile(
    queue: mqlite.Queue[Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Then], None]:
    """meanwhile(then): what happens once somebody expects the message of the next put, and before it is committed."""
    forewarn = queue._engine.log.before_commit

    def arrange(then: Then) -> None:
        def when_it_is_expected(notes: Any) -> None:
            monkeypatch.setattr(queue._engine.log, "before_commit", forewarn)
            forewarn(notes)
            eventually(lambda: _expecting(queue) is not None)
            then()

        monkeypatch.setattr(queue._engine.log, "before_commit", when_it_is_expected)

    return arrange


def _fails() -> None:
    raise mqlite.StoreError("the disk has failed")


def _waiting(queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting) -> Future[Any]:
    waiting = in_thread(queue.receive, timeout=GUARD)
    until_waiting(queue)
    return waiting


def test_one_who_waits_has_a_claim_before_the_commit_and_gets_the_message_after_it(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    seen: list[Any] = []

    def look() -> None:
        with queue._engine.claims.read() as c:
            seen.append((len(list(c.rows(queue._state.id))), c.anybody()))
        seen.append((queue.qsize(), queue.stats().claimed, receiving.done()))

    meanwhile(look)
    queue.put("x")
    [message] = receiving.result(GUARD)
    assert seen == [(1, False), (0, 0, False)]
    assert (message.body, message.delivery_count, message.redelivered) == ("x", 0, False)
    assert (queue.qsize(), queue.stats().claimed) == (0, 1)
    message.ack()
    queue.put("y")
    assert queue.get(timeout=0) == "y"
    assert queue.check() == []


def test_the_one_who_expects_it_is_rung_and_nobody_else(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    meanwhile: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _waiting(queue, in_thread, until_waiting)
    bell: Any = queue._engine.presence.bell
    ring = bell.ring
    rung: list[int] = []

    def another_waits() -> None:
        others.append(_waiting(queue, in_thread, until_waiting))
        expecting = _expecting(queue)
        assert expecting is not None
        whom.append(expecting.sleeper)
        monkeypatch.setattr(bell, "ring", lambda owner, sleeper: (rung.append(sleeper), ring(owner, sleeper))[1])

    others: list[Future[Any]] = []
    whom: list[int] = []
    meanwhile(another_waits)
    queue.put("x")
    [message] = first.result(GUARD)
    assert (message.body, rung[:1]) == ("x", whom)
    assert not others[0].done()
    queue.put("y")
    assert others[0].result(GUARD)[0].body == "y"


def test_get_settles_what_it_expected(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    getting = in_thread(queue.get, timeout=GUARD)
    until_waiting(queue)
    meanwhile(lambda: None)
    queue.put("x")
    assert getting.result(GUARD) == "x"
    assert queue.unfinished_tasks == 1
    queue.task_done()
    queue.join()
    assert queue.check() == []


@pytest.mark.parametrize("auto_ack", [False, True])
def test_a_consumer_hands_out_what_it_expected(
    auto_ack: bool, queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    with queue.consumer(prefetch=8, auto_ack=auto_ack) as consumer:
        receiving = in_thread(consumer.receive, timeout=GUARD)
        until_waiting(queue)
        meanwhile(lambda: None)
        queue.put("x")
        message = receiving.result(GUARD)
        assert message.body == "x"
        if not auto_ack:
            message.ack()
    assert _is_quiet(queue) or queue.stats().claimed == 0
    assert queue.qsize() == 0


@pytest.mark.parametrize("after", ["the same queue", "another priority", "another queue"])
def test_nothing_is_left_of_a_commit_that_failed_and_the_next_message_is_not_lost(
    after: str,
    queue: mqlite.Queue[Any],
    made: list[mqlite.Queue[Any]],
    path: str,
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    meanwhile: Any,
    soon: None,
) -> None:
    other: mqlite.Queue[Any] = mqlite.Queue("other", path)
    made.append(other)
    receiving = _waiting(queue, in_thread, until_waiting)
    meanwhile(_fails)
    with pytest.raises(mqlite.StoreError, match="has failed"):
        queue.put("lost")
    eventually(lambda: _is_quiet(queue))
    if after == "another queue":
        other.put("elsewhere")
        until_waiting(queue)
    queue.put("x", priority=1 if after == "another priority" else 0)
    assert receiving.result(GUARD)[0].body == "x"
    assert other.qsize() == (1 if after == "another queue" else 0)


def test_a_message_that_gets_the_place_of_one_that_failed_is_delivered_once(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    meanwhile(_fails)
    with pytest.raises(mqlite.StoreError, match="has failed"):
        queue.put("lost")
    queue.put("x")  # with the seq of the other: who expects that is rung
    [message] = receiving.result(GUARD)
    assert message.body == "x"
    assert queue.qsize() == 0
    message.ack()
    assert queue.check() == []


def test_a_message_of_a_group_that_gets_the_place_keeps_its_group(
    path: str,
    made: list[mqlite.Queue[Any]],
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    meanwhile: Any,
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    meanwhile(_fails)
    with pytest.raises(mqlite.StoreError, match="has failed"):
        queue.put("lost")
    queue.put_many([1, 2], group="g")
    [message] = receiving.result(GUARD)
    assert message.body == 1
    with pytest.raises(mqlite.Empty):
        queue.receive(timeout=0)  # the group is busy
    message.ack()
    assert queue.receive(timeout=0)[0].body == 2
    assert queue.check() == []


def test_a_writer_that_is_killed_in_the_commit_leaves_nothing(
    path: str,
    queue: mqlite.Queue[Any],
    children: Any,
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    soon: None,
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)

    def stuck(talk: Any) -> None:
        mine: mqlite.Queue[Any] = mqlite.Queue("q", path)
        forewarn = mine._engine.log.before_commit

        def stays(notes: Any) -> None:
            forewarn(notes)
            talk.say("committing")
            talk.hear(GUARD)

        mine._engine.log.before_commit = stays
        mine.put("lost")

    writer = children.fork(stuck)
    assert writer.hear() == "committing"
    eventually(lambda: _expecting(queue) is not None)
    writer.kill()
    eventually(lambda: _is_quiet(queue))
    until_waiting(queue)
    queue.put("x")
    assert receiving.result(GUARD)[0].body == "x"


@pytest.mark.parametrize("options", [{}, {"max_deliveries": 1}])
def test_one_who_is_killed_before_the_message_was_there_is_not_blamed(
    options: dict[str, Any], path: str, children: Any, until_waiting: UntilWaiting, eventually: Eventually
) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, **options)

    def wait(talk: Any) -> None:
        mqlite.Queue("q", path).receive(timeout=GUARD)

    waiter = children.fork(wait)
    until_waiting(queue)
    forewarn = queue._engine.log.before_commit

    def kill(notes: Any) -> None:
        queue._engine.log.before_commit = forewarn
        forewarn(notes)
        eventually(lambda: _expecting(queue) is not None)
        waiter.kill()

    queue._engine.log.before_commit = kill
    queue.put("x")
    [message] = queue.receive(timeout=GUARD)
    assert (message.body, message.delivery_count) == ("x", 0)
    assert _expecting(queue) is None
    message.ack()
    assert queue.check() == []


def test_one_who_is_killed_with_the_message_is_blamed(path: str, children: Any, until_waiting: UntilWaiting) -> None:
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path)

    def take(talk: Any) -> None:
        talk.say([message.body for message in mqlite.Queue("q", path).receive(timeout=GUARD)])
        talk.hear(GUARD)

    taker = children.fork(take)
    until_waiting(queue)
    queue.put("x")
    assert taker.hear() == ["x"]
    taker.kill()
    [message] = queue.receive(timeout=GUARD)
    assert (message.body, message.delivery_count, message.redelivered) == ("x", 1, True)


@pytest.mark.parametrize("ended_by", ["its timeout", "the end of the wait", "a close"])
def test_a_commit_that_hangs_keeps_nobody_who_expects_its_message(
    ended_by: str,
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    meanwhile: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if ended_by == "the end of the wait":
        monkeypatch.setattr(waiting, "EXPECTS_AT_MOST", 1.0)
    consumer = queue.consumer()
    receiving = in_thread(consumer.receive, timeout=2.0 if ended_by == "its timeout" else GUARD)
    until_waiting(queue)
    seen: list[Any] = []

    def look() -> None:  # before the commit goes on
        if ended_by == "the end of the wait":
            until_waiting(queue)
            with queue._engine.claims.read() as c:
                seen.append(list(c.rows(queue._state.id)))
            return
        if ended_by != "its timeout":
            consumer.stop()
        seen.append(receiving.exception(GUARD))

    meanwhile(look)
    queue.put("x")
    if ended_by == "the end of the wait":
        assert seen == [[]]
        assert receiving.result(GUARD).body == "x"
        return
    assert isinstance(seen[0], mqlite.Empty if ended_by == "its timeout" else mqlite.Closed)
    assert _is_quiet(queue)
    [message] = queue.receive(timeout=0)
    assert (message.body, message.delivery_count, message.redelivered) == ("x", 0, False)


def test_an_interrupt_does_not_wait_for_a_commit_that_hangs(
    path: str, queue: mqlite.Queue[Any], children: Any, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    def wait(talk: Any) -> None:
        try:
            mqlite.Queue("q", path).receive(timeout=GUARD)
        except KeyboardInterrupt:
            talk.say("interrupted")
            talk.hear(GUARD)

    waiter = children.fork(wait)
    until_waiting(queue)
    heard: list[Any] = []

    def interrupt() -> None:
        waiter.kill(signal.SIGINT)
        heard.append(waiter.hear())

    meanwhile(interrupt)
    queue.put("x")
    assert heard == ["interrupted"]
    assert _is_quiet(queue)
    [message] = queue.receive(timeout=0)
    assert (message.body, message.delivery_count, message.redelivered) == ("x", 0, False)


def test_one_who_expects_a_message_waits_for_no_lock(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    meanwhile: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    held: list[Any] = []
    hold = queue._engine.log.hold
    monkeypatch.setattr(queue._engine.log, "hold", lambda op: (held.append(op), hold(op))[1])
    meanwhile(lambda: None)
    queue.put("x")
    assert receiving.result(GUARD)[0].body == "x"
    assert held == []


def test_what_is_expected_by_get_is_no_task_before_it_is_there(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    getting = in_thread(queue.get, timeout=GUARD)
    until_waiting(queue)
    meanwhile(_fails)
    with pytest.raises(mqlite.StoreError, match="has failed"):
        queue.put("lost")
    assert _expecting(queue) is not None
    assert queue.unfinished_tasks == 0
    with pytest.raises(ValueError, match="task"):
        queue.task_done()
    queue._engine.takeback.take_back()  # as after a death: the row goes
    assert queue.unfinished_tasks == 0
    queue.join()
    queue.put("x")
    assert getting.result(GUARD) == "x"
    queue.task_done()
    queue.join()


def test_a_put_that_was_committed_returns_though_the_store_is_closed_meanwhile(
    path: str,
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, store = queue._engine, queue._channel.store
    receiving = _waiting(queue, in_thread, until_waiting)
    run = engine.log.after_commit

    def close_first(notes: Any) -> None:
        monkeypatch.setattr(engine.log, "after_commit", run)
        store.close()  # type: ignore[union-attr]
        run(notes)

    monkeypatch.setattr(engine.log, "after_commit", close_first)
    queue.put("x")
    closed = receiving.exception(GUARD)
    assert closed is None or isinstance(closed, mqlite.Closed)  # None: it was faster
    queue.close()


def test_a_handle_that_is_closed_during_the_commit_leaves_the_message_to_others(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    consumer = queue.consumer()
    receiving = in_thread(consumer.receive, timeout=GUARD)
    until_waiting(queue)
    closing: list[Future[Any]] = []
    meanwhile(lambda: closing.append(in_thread(consumer.close)))
    queue.put("x")
    closing[0].result(GUARD)
    if receiving.exception(GUARD) is None:  # it was faster
        pytest.fail("a message was handed out by a closed consumer")
    assert queue.receive(timeout=GUARD)[0].body == "x"
    assert _expecting(queue) is None


def test_a_shutdown_during_the_commit_is_told(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, meanwhile: Any
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    shutting: list[Future[Any]] = []
    meanwhile(lambda: shutting.append(in_thread(queue.shutdown, immediate=True)))
    queue.put("x")
    shutting[0].result(GUARD)
    error = receiving.exception(GUARD)
    assert error is None or isinstance(error, mqlite.ShutDown)


def test_a_death_elsewhere_during_the_commit_takes_nothing_away(
    path: str,
    queue: mqlite.Queue[Any],
    children: Any,
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    meanwhile: Any,
) -> None:
    queue.put("held")

    def hold(talk: Any) -> None:
        held = mqlite.Queue("q", path).receive(timeout=GUARD)
        talk.say(len(held))
        talk.hear(GUARD)

    holder = children.fork(hold)
    assert holder.hear() == 1
    receiving = _waiting(queue, in_thread, until_waiting)
    meanwhile(holder.kill)
    queue.put("x")
    bodies = {receiving.result(GUARD)[0].body, queue.receive(timeout=GUARD)[0].body}
    assert bodies == {"held", "x"}
    assert _expecting(queue) is None


def test_its_time_to_settle_begins_when_it_is_handed_out(
    path: str,
    made: list[mqlite.Queue[Any]],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeout_ns = 3_000_000_000
    queue: mqlite.Queue[Any] = mqlite.Queue("timed", path, ack_timeout=timeout_ns / 1e9)
    made.append(queue)
    engine = queue._engine
    queue.put("first")
    [first] = queue.receive()  # from now on a deadline is noted
    forewarn = engine.log.before_commit
    receiving = _waiting(queue, in_thread, until_waiting)
    committed: list[int] = []

    def long_after(notes: Any) -> None:
        forewarn(notes)
        eventually(lambda: _expecting(queue) is not None)
        begun = engine.clock.monotonic_ns()
        eventually(lambda: engine.clock.monotonic_ns() > begun + timeout_ns // 4)  # more than its slack
        committed.append(engine.clock.monotonic_ns())

    monkeypatch.setattr(engine.log, "before_commit", long_after)
    queue.put("x")
    receiving.result(GUARD)
    with engine.claims.read() as c:
        [row] = [row for _, _, row in c.rows(queue._state.id) if row.token != first._source.row.token]
    assert row.deadline_ns >= committed[0] + timeout_ns


def test_a_message_that_asks_for_more_than_room_is_not_expected(
    queue: mqlite.Queue[Any], in_thread: InThread, until_waiting: UntilWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = _waiting(queue, in_thread, until_waiting)
    seen: list[Any] = []
    forewarn = queue._engine.log.before_commit

    def look(notes: Any) -> None:
        forewarn(notes)
        seen.append(queue._channel.store._control.words[COMING_SEQ])  # type: ignore[union-attr]

    monkeypatch.setattr(queue._engine.log, "before_commit", look)
    queue.put("x", group="g")
    assert receiving.result(GUARD)[0].body == "x"
    assert seen == [0]


def _tell_once(queue: mqlite.Queue[Any], monkeypatch: pytest.MonkeyPatch, *places: int) -> None:
    """Who looks what is coming is told these places, one after the other, that are long gone."""
    words, left = _words(queue), list(places)
    coming = words.coming
    monkeypatch.setattr(
        type(words),
        "coming",
        lambda self, number: left.pop(0) if left and number == queue._state.id else coming(number),
    )


def _gone(queue: mqlite.Queue[Any]) -> int:
    """The place of a message that was settled."""
    queue.put("old")
    [message] = queue.receive(timeout=0)
    message.ack()
    return int(message._source.position)


def test_one_who_expects_what_is_not_coming_any_more_does_not_sleep_on_it(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    until_waiting: UntilWaiting,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _tell_once(queue, monkeypatch, _gone(queue))
    receiving = in_thread(queue.receive, timeout=GUARD)
    eventually(lambda: _is_quiet(queue))
    until_waiting(queue)
    queue.put("x")
    assert receiving.result(GUARD)[0].body == "x"


def test_one_who_begins_to_expect_something_else_between_two_looks_of_a_putter_is_rung(
    queue: mqlite.Queue[Any],
    in_thread: InThread,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = _gone(queue)
    bell, asleep = queue._engine.presence.bell, threading.Event()
    sleep = bell.sleep
    monkeypatch.setattr(bell, "sleep", lambda *arguments: (asleep.set(), sleep(*arguments)))
    receiving = in_thread(queue.receive, timeout=GUARD)
    assert asleep.wait(GUARD)  # what is registered may still be about to look once more
    aftermath: Any = queue._engine.aftermath
    follow = aftermath._follow

    def behind_the_first_look(note: Any) -> Any:
        monkeypatch.setattr(aftermath, "_follow", follow)
        _tell_once(queue, monkeypatch, place, place, place)
        monkeypatch.setattr(
            queue._engine,
            "_claim_in_line",
            lambda *arguments: finds_nothing.pop() if finds_nothing else claim(*arguments),
        )
        queue._engine.waiters.ring_all(queue._state.id, Kind.MESSAGE)
        eventually(lambda: _expecting(queue) is not None)
        with queue._engine.claims.read() as c:
            assert not c.anybody()
        return follow(note)

    finds_nothing = [InLine([], [])]
    claim = queue._engine._claim_in_line
    monkeypatch.setattr(aftermath, "_follow", behind_the_first_look)
    monkeypatch.setattr(queue._engine.log, "before_commit", lambda notes: None)  # else he may be there before
    queue.put_many(["x"])
    assert receiving.result(GUARD)[0].body == "x"
    eventually(lambda: _expecting(queue) is None)
