"""Request and reply: each call gets the answer to its own request, an error, or the news that nobody answers; and leaves nothing behind."""

# ruff: noqa: F811
from __future__ import annotations

import contextlib
import os
import pickle
import queue as stdlib
import threading
import time
from collections import Counter
from typing import Any

import pytest
from crash.children import Children
from fixture_types import Eventually, InThread, MakeQueue, UntilWaiting
from hand_clock import HandClock
from interrupting import interrupted_at
from topic_things import Shop, disk_shop, shop, timed_shop  # noqa: F401
from transaction_things import broker, counts, timed_broker  # noqa: F401

import mqlite
from mqlite import calls
from mqlite.calls import Calls
from mqlite.claims import Kind
from mqlite.engine import subscriptions
from mqlite.replies import TOPIC, TTL

Queue = mqlite.Queue[Any]
GUARD = 30.0
NOTHING = (0, 0, 0, 0)


def double(body: Any) -> Any:
    return [body, body]


def request(queue: Queue) -> mqlite.Message:
    """The next request, claimed."""
    [message] = queue.receive(timeout=GUARD)
    return message


def members(queue: Queue) -> int:
    """How many handles are known to wait for replies."""
    topic = queue._engine.topics.declare(TOPIC, {})
    with queue._engine.log.read() as snapshot:
        return len(list(queue._engine.topics.members(topic, snapshot)))


# ---------------------------------------------------------------------- answered
def test_a_call_returns_what_the_function_returns(q: Queue) -> None:
    with q.respond(double):
        assert q.call("x") == ["x", "x"]
        assert [q.call(n, 10) for n in range(5)] == [[n, n] for n in range(5)]
    assert counts(q) == NOTHING


@pytest.mark.parametrize("body", [None, 0, 1.5, True, "", "text \ud800", b"", b"\x00\xff", [1, [2]], {"a": {"b": None}}], ids=repr)
def test_every_body_that_can_be_put_can_be_a_request_and_a_reply(q: Queue, body: Any) -> None:
    with q.respond(lambda asked: asked):
        found = q.call(body, GUARD)
    assert (found, type(found)) == (body, type(body))


def test_a_reply_is_encoded_with_the_codec_of_the_queue(make_queue: MakeQueue) -> None:
    q = make_queue(codec="pickle")
    with q.respond(lambda body: {body, (1, 2)}):
        assert q.call(b"x", GUARD) == {b"x", (1, 2)}


def test_what_is_said_of_a_request_arrives_with_it(q: Queue, in_thread: InThread) -> None:
    call = in_thread(q.call, "x", priority=7, headers={"h": 1}, type="t", group="g", ttl=1000)
    message = request(q)
    assert (message.body, message.priority, message.headers, message.type, message.group) == ("x", 7, {"h": 1}, "t", "g")
    assert message.expires_at is not None
    assert message.reply_to
    assert message.correlation_id
    assert message.reply("y") is True
    assert call.result(GUARD) == "y"


def test_requests_are_taken_by_priority(q: Queue, in_thread: InThread, eventually: Eventually) -> None:
    calls = []
    for number in range(3):
        calls.append(in_thread(q.call, number, priority=number))
        eventually(lambda: len(q) == len(calls))
    order: list[int] = []
    with q.respond(order.append):
        assert [call.result(GUARD) for call in calls] == [None] * 3
    assert order == [2, 1, 0]


def test_one_handle_calls_and_another_one_of_the_store_responds(broker: mqlite.Broker) -> None:
    caller, responder = broker.queue("work"), broker.queue("work")
    with responder.respond(double):
        assert caller.call(1, GUARD) == [1, 1]
    with broker.queue("other").respond(double):
        assert broker.queue("other").call(2, GUARD) == [2, 2]


def test_a_function_may_call_another_queue(broker: mqlite.Broker) -> None:
    front, back = broker.queue("front"), broker.queue("back")
    with back.respond(double), front.respond(lambda body: back.call(body + 1, GUARD)):
        assert front.call(1, GUARD) == [2, 2]


def test_many_callers_and_responders_are_never_mixed_up(broker: mqlite.Broker, in_thread: InThread) -> None:
    handles = [broker.queue("work") for _ in range(2)]
    each = 60

    def call(thread: int) -> list[Any]:
        return [handles[thread % 2].call([thread, number], GUARD) for number in range(each)]

    done: Counter[str] = Counter()
    lock = threading.Lock()

    def work(body: Any) -> Any:
        with lock:
            done[str(body)] += 1
        return [*body, "done"]

    with contextlib.ExitStack() as responders:
        for threads, prefetch in ((1, 1), (2, 1), (3, 4)):
            responders.enter_context(broker.queue("work").respond(work, threads=threads, prefetch=prefetch))
        found = [call.result(GUARD) for call in [in_thread(call, thread) for thread in range(8)]]
    assert found == [[[thread, number, "done"] for number in range(each)] for thread in range(8)]
    assert set(done.values()) == {1}
    assert len(done) == 8 * each
    assert counts(handles[0]) == NOTHING


def test_a_reply_that_comes_in_another_order_finds_its_call(q: Queue, in_thread: InThread) -> None:
    calls = {number: in_thread(q.call, number) for number in range(4)}
    messages = [request(q) for _ in range(4)]
    for message in sorted(messages, key=lambda message: -message.body):
        message.reply(message.body * 10)
    assert {number: call.result(GUARD) for number, call in calls.items()} == {number: number * 10 for number in range(4)}


def test_a_request_that_was_given_back_is_answered_once(q: Queue, in_thread: InThread) -> None:
    call = in_thread(q.call, "x")
    request(q).nack()
    request(q).release()
    with q.consumer() as consumer:
        assert consumer.receive(timeout=GUARD).delivery_count == 1
    with q.respond(double):
        assert call.result(GUARD) == ["x", "x"]
    assert counts(q) == NOTHING


# ---------------------------------------------------------------------- failures
def fail(body: Any) -> Any:
    raise ValueError(f"no {body}")


def test_what_the_function_raises_makes_the_call_fail(q: Queue) -> None:
    with q.respond(fail), pytest.raises(mqlite.CallFailed, match="ValueError: no luck") as failed:
        q.call("luck", GUARD)
    assert failed.value.error == "ValueError: no luck"
    assert failed.value.traceback is not None
    assert "in fail" in failed.value.traceback
    assert isinstance(failed.value, mqlite.MqliteError)
    assert counts(q) == NOTHING
    with q.respond(double):
        assert q.call(1, GUARD) == [1, 1]


def test_an_error_travels_whatever_its_text(q: Queue) -> None:
    class OddError(Exception):
        pass

    texts = {"short": "\ud800\x00é", "long": "x" * 1_000_000}

    def raise_it(body: str) -> None:
        raise OddError(texts[body])

    with q.respond(raise_it):
        for body, text in texts.items():
            with pytest.raises(mqlite.CallFailed) as failed:
                q.call(body, GUARD)
            assert failed.value.error.startswith(f"OddError: {text}"[:30_000])
            assert len(failed.value.error) + len(failed.value.traceback or "") < 100_000


def test_an_error_travels_in_a_queue_of_small_messages(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=10)
    with q.respond(fail), pytest.raises(mqlite.CallFailed, match="no small"):
        q.call("small", GUARD)


def test_a_result_that_cannot_be_encoded_makes_the_call_fail(q: Queue, backend: str) -> None:
    with q.respond(lambda body: {1, 2}):
        if backend == "memory":
            assert q.call("x", GUARD) == {1, 2}
        else:
            with pytest.raises(mqlite.CallFailed, match=r"CodecError.*set"):
                q.call("x", GUARD)
    assert counts(q) == NOTHING


def test_a_result_that_is_too_large_makes_the_call_fail(make_queue: MakeQueue) -> None:
    q = make_queue(max_message_bytes=1000)
    with q.respond(lambda n: b"x" * n):
        assert len(q.call(1000, GUARD)) == 1000
        with pytest.raises(mqlite.CallFailed, match="a reply of 1001 bytes is larger"):
            q.call(1001, GUARD)


def test_a_failed_call_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(mqlite.CallFailed("text", "ValueError: x", "trace")))
    assert (str(error), error.error, error.traceback) == ("text", "ValueError: x", "trace")


def test_a_responder_goes_on_after_errors(q: Queue) -> None:
    answers = iter([ValueError("one"), KeyError("two"), "three"])

    def work(body: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with q.respond(work):
        for text in ("one", "two"):
            with pytest.raises(mqlite.CallFailed, match=text):
                q.call("x", GUARD)
        assert q.call("x", GUARD) == "three"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_in_the_function_gives_the_request_back(q: Queue, in_thread: InThread) -> None:
    def leave(body: Any) -> None:
        raise SystemExit

    call = in_thread(q.call, "x")
    first = q.respond(leave)
    first._threads[0].join(GUARD)
    assert not first._threads[0].is_alive()
    with q.respond(double):
        assert call.result(GUARD) == ["x", "x"]
    first.close()


# ---------------------------------------------------------------------- nobody answers
def test_a_call_that_nobody_takes_times_out_and_its_request_goes(q: Queue) -> None:
    began = time.monotonic()
    with pytest.raises(mqlite.CallTimeout, match=r"not answered within 0\.05 seconds") as late:
        q.call("x", 0.05)
    assert time.monotonic() - began >= 0.05
    assert isinstance(late.value, mqlite.Empty | stdlib.Empty)
    assert isinstance(late.value, TimeoutError)
    assert counts(q) == NOTHING


def test_a_call_without_time_asks_nobody(q: Queue) -> None:
    with q.respond(fail), pytest.raises(mqlite.CallTimeout):
        q.call("x", 0)
    assert counts(q) == NOTHING


def test_a_request_that_is_at_work_when_its_call_times_out_is_answered_to_nobody(q: Queue, in_thread: InThread) -> None:
    call = in_thread(q.call, "x", 0.2)
    message = request(q)
    with pytest.raises(mqlite.CallTimeout):
        call.result(GUARD)
    assert message.reply("late") is False
    assert counts(q) == NOTHING
    with q.respond(double):
        assert q.call(1, GUARD) == [1, 1]


def test_a_reply_is_late_from_the_moment_at_which_the_call_times_out(q: Queue, in_thread: InThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to make the request: both go by the end of that."""
    with q.respond(double):
        q.call(1, GUARD)  # from now on only the number of a call is made up
    token, pause = calls.secrets.token_hex, threading.Event()
    monkeypatch.setattr(calls.secrets, "token_hex", lambda size: pause.wait(0.3) or token(size))
    call = in_thread(q.call, "x", 0.2)
    message = request(q)
    with pytest.raises(mqlite.CallTimeout):
        call.result(GUARD)
    assert message.reply("late") is False
    assert counts(q) == NOTHING


def test_a_request_that_comes_back_after_its_call_timed_out_vanishes(q: Queue, in_thread: InThread, eventually: Eventually) -> None:
    call = in_thread(q.call, "x", 0.1)
    message = request(q)
    with pytest.raises(mqlite.CallTimeout):
        call.result(GUARD)
    message.nack(error="too bad")
    eventually(lambda: counts(q) == NOTHING)


def test_a_request_expires_with_its_call_and_is_no_dead_letter(timed_broker: mqlite.Broker, clock: HandClock, in_thread: InThread, eventually: Eventually) -> None:
    q = timed_broker.queue("q", backoff=[100])
    calls = [in_thread(q.call, "x", 50) for _ in range(2)]  # the threads' own time does not pass
    eventually(lambda: len(q) == 2)
    request(q).nack(error="not now")
    assert counts(q) == (1, 1, 0, 0)
    clock.pass_by(51)
    assert counts(q) == NOTHING
    q.close()
    for call in calls:
        with pytest.raises(mqlite.Closed):
            call.result(GUARD)


def test_a_request_that_expires_without_its_call_is_a_dead_letter(timed_broker: mqlite.Broker, clock: HandClock, in_thread: InThread, eventually: Eventually) -> None:
    q = timed_broker.queue("q")
    call = in_thread(q.call, "x", ttl=50)
    eventually(lambda: len(q) == 1)
    clock.pass_by(51)
    assert counts(q) == (0, 0, 0, 1)
    [letter] = q.dead.receive(timeout=0)
    assert letter.reply("from the dead") is True
    assert call.result(GUARD) == "from the dead"


@pytest.mark.parametrize(("ttl", "timeout", "own", "left"), [(None, 50, None, 50), (20, 50, None, 20), (50, 20, None, 20), (None, 50, 10, 10), (30, 50, 10, 30), (None, None, 10, 10), (None, None, None, None)])
def test_a_request_lives_as_long_as_its_call_or_its_ttl(
    timed_broker: mqlite.Broker, clock: HandClock, in_thread: InThread, ttl: float | None, timeout: float | None, own: float | None, left: float | None
) -> None:
    q = timed_broker.queue("q", ttl=own)
    call = in_thread(q.call, "x", timeout, ttl=ttl)
    message = request(q)
    assert (message.expires_at and message.expires_at.timestamp()) == (left and clock.moment(left))
    message.reply("y")
    assert call.result(GUARD) == "y"


def test_a_call_waits_on_when_the_ttl_of_its_request_has_run_out_at_work(timed_broker: mqlite.Broker, clock: HandClock, in_thread: InThread) -> None:
    q = timed_broker.queue("q")
    call = in_thread(q.call, "x", 50, ttl=10)
    message = request(q)
    clock.pass_by(20)
    assert message.reply("y") is True
    assert call.result(GUARD) == "y"


def test_a_full_queue_has_the_call_wait_for_room_within_its_timeout(make_queue: MakeQueue, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = make_queue(maxsize=1)
    q.put("first")
    with pytest.raises(mqlite.Full):
        q.call("x", 0.05)
    call = in_thread(q.call, "x", GUARD)
    until_waiting(q, Kind.SPACE)
    with q.respond(double):
        assert call.result(GUARD) == ["x", "x"]
    assert counts(q) == NOTHING


def test_a_call_to_a_queue_that_was_shut_down_is_refused(q: Queue) -> None:
    with q.respond(double) as responder:
        assert q.call(1, GUARD) == [1, 1]
        q.shutdown()
        with pytest.raises(mqlite.ShutDown):
            q.call(2, GUARD)
        responder._threads[0].join(GUARD)
        assert not responder._threads[0].is_alive()


# ---------------------------------------------------------------------- by hand
def test_a_reply_acknowledges_the_request(q: Queue, in_thread: InThread) -> None:
    call = in_thread(q.call, "x")
    with request(q) as message:
        assert message.reply("y") is True
        with pytest.raises(mqlite.NotClaimed):
            message.reply("z")
        with pytest.raises(mqlite.NotClaimed):
            message.ack()
    assert call.result(GUARD) == "y"
    assert counts(q) == NOTHING


def test_only_requests_can_be_answered(q: Queue) -> None:
    q.put_many(["x", "y"], reply_to="somebody", correlation_id="1")
    [message] = q.receive()
    with pytest.raises(mqlite.NotSupported, match="is no request"):
        message.reply("y")
    message.ack()
    with pytest.raises(mqlite.NotClaimed):
        q.peek()[0].reply("y")


def test_a_request_whose_claim_was_lost_is_not_answered(timed_broker: mqlite.Broker, clock: HandClock, in_thread: InThread) -> None:
    q = timed_broker.queue("q", ack_timeout=10)
    call = in_thread(q.call, "x")
    slow = request(q)
    clock.pass_by(11)
    fast = request(q)
    with pytest.raises(mqlite.LeaseLost):
        slow.reply("slow")
    assert fast.reply("fast") is True
    assert call.result(GUARD) == "fast"
    assert counts(q) == NOTHING


def test_a_reply_that_cannot_be_stored_changes_nothing(make_queue: MakeQueue, in_thread: InThread, backend: str) -> None:
    q = make_queue(max_message_bytes=100)
    call = in_thread(q.call, "x")
    message = request(q)
    with pytest.raises(mqlite.MessageTooLarge):
        message.reply("y" * 101)
    if backend == "disk":
        with pytest.raises(mqlite.CodecError):
            message.reply({1})
    assert counts(q) == (0, 0, 1, 0)
    message.reply("y")
    assert call.result(GUARD) == "y"


def test_a_reply_can_be_part_of_a_transaction(broker: mqlite.Broker, in_thread: InThread) -> None:
    q, log = broker.queue("q"), broker.queue("log")
    call = in_thread(q.call, "x")
    message = request(q)
    with contextlib.suppress(ZeroDivisionError), broker.transaction() as tx:
        assert message.reply("never", tx=tx) is True
        log.put("never", tx=tx)
        _ = 1 / 0
    assert not call.done()
    with broker.transaction() as tx:
        message.reply("y", tx=tx)
        log.put("answered", tx=tx)
        with pytest.raises(mqlite.NotClaimed):
            message.reply("z", tx=tx)
        assert not call.done()
    assert call.result(GUARD) == "y"
    assert (log.get(timeout=0), counts(q), counts(log)) == ("answered", NOTHING, NOTHING)


def test_a_reply_in_a_transaction_to_a_caller_who_is_gone_acknowledges(broker: mqlite.Broker, in_thread: InThread) -> None:
    q, caller = broker.queue("q"), broker.queue("q")
    call = in_thread(caller.call, "x")
    message = request(q)
    caller.close()
    with pytest.raises(mqlite.Closed):
        call.result(GUARD)
    with broker.transaction() as tx:
        assert message.reply("y", tx=tx) is True
    assert counts(q) == NOTHING


def test_a_reply_takes_a_transaction_of_its_store(broker: mqlite.Broker, in_thread: InThread) -> None:
    q, other = broker.queue("q"), mqlite.open()
    call = in_thread(q.call, "x")
    message = request(q)
    with other.transaction() as tx, pytest.raises(ValueError, match="of another store"):
        message.reply("y", tx=tx)
    with pytest.raises(TypeError):
        message.reply("y", tx="tx")
    tx = broker.transaction()
    tx.rollback()
    with pytest.raises(mqlite.Closed):
        message.reply("y", tx=tx)
    message.reply("y")
    assert call.result(GUARD) == "y"
    other.close()


def test_a_request_can_be_handed_on_to_another_queue(broker: mqlite.Broker, in_thread: InThread) -> None:
    front, back = broker.queue("front"), broker.queue("back")
    call = in_thread(front.call, "x", GUARD)
    with request(front) as message, broker.transaction() as tx:
        back.put(message.body, reply_to=message.reply_to, correlation_id=message.correlation_id, tx=tx)
        message.ack(tx=tx)
    with back.respond(double):
        assert call.result(GUARD) == ["x", "x"]


@pytest.mark.parametrize("reply_to", ["\x1fcall.", "\x1fcall.nobody", "\x1fcall.*.#"])
def test_an_address_that_nobody_has_is_of_no_harm(q: Queue, reply_to: str) -> None:
    for number in range(2):
        q.put(number, reply_to=reply_to)
        assert request(q).reply("y") is False
        if not number:
            with q.respond(double):
                q.call("x", GUARD)
    assert counts(q) == NOTHING


# ---------------------------------------------------------------------- responders
def test_a_function_can_have_the_message(q: Queue) -> None:
    with q.respond(lambda message: [message.body, message.headers], pass_message=True):
        assert q.call("x", GUARD, headers={"h": 1}) == ["x", {"h": 1}]


def test_a_function_that_has_the_message_can_settle_it(q: Queue, eventually: Eventually) -> None:
    seen = threading.Event()

    def work(message: mqlite.Message) -> str:
        if message.body == "reply":
            message.reply("by hand")
        elif message.delivery_count < 2:
            message.nack()
        else:
            message.reject()
            seen.set()
        return "not this"

    with q.respond(work, pass_message=True):
        assert q.call("reply", GUARD) == "by hand"
        with pytest.raises(mqlite.CallTimeout):
            q.call("reject", 0.2)
        assert seen.wait(GUARD)
    eventually(lambda: counts(q) == (0, 0, 0, 1))


def test_a_function_can_answer_in_a_transaction_of_its_own(broker: mqlite.Broker) -> None:
    q, log = broker.queue("q"), broker.queue("log")

    def work(message: mqlite.Message) -> None:
        with broker.transaction() as tx:
            log.put(message.body, tx=tx)
            message.reply("stored", tx=tx)

    with q.respond(work, pass_message=True):
        assert q.call("x", GUARD) == "stored"
    assert log.get(timeout=0) == "x"


def test_what_is_no_request_is_worked_on_and_acknowledged(q: Queue, eventually: Eventually) -> None:
    seen: list[Any] = []
    q.put("x")
    q.put("y", reply_to="somebody", correlation_id="1")
    with q.respond(seen.append):
        eventually(lambda: counts(q) == NOTHING)
    assert seen == ["x", "y"]


def test_what_is_no_request_is_nacked_when_the_function_raises(make_queue: MakeQueue, eventually: Eventually) -> None:
    q = make_queue(max_deliveries=2)
    q.put("luck")
    with q.respond(fail):
        eventually(lambda: counts(q) == (0, 0, 0, 1))
    [letter] = q.dead.receive()
    assert letter.death is not None
    assert letter.death.error == "ValueError: no luck"
    letter.ack()


def test_a_request_whose_caller_is_gone_is_acknowledged_without_work(broker: mqlite.Broker, in_thread: InThread, eventually: Eventually) -> None:
    q, caller = broker.queue("q"), broker.queue("q")
    call = in_thread(caller.call, "x")
    message = request(q)
    caller.close()
    with pytest.raises(mqlite.Closed):
        call.result(GUARD)
    message.release()
    assert counts(q) == (1, 0, 0, 0)
    worked: list[Any] = []
    with q.respond(worked.append):
        eventually(lambda: counts(q) == NOTHING)
    assert worked == []


def test_a_responder_that_is_closed_finishes_its_work_and_gives_the_rest_back(q: Queue, in_thread: InThread) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def work(body: Any) -> str:
        at_work.set()
        assert go_on.wait(GUARD)
        return "finished"

    first, second = in_thread(q.call, 1, priority=1), None
    responder = q.respond(work, prefetch=5)
    assert at_work.wait(GUARD)
    second = in_thread(q.call, 2)
    closing = in_thread(responder.close)
    go_on.set()
    closing.result(GUARD)
    assert first.result(GUARD) == "finished"
    responder.close()
    assert request(q).reply("by another") is True
    assert second.result(GUARD) == "by another"


def test_what_a_responder_has_claimed_ahead_goes_back_when_it_is_closed(q: Queue, in_thread: InThread, eventually: Eventually) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def work(body: Any) -> None:
        at_work.set()
        assert go_on.wait(GUARD)

    q.put_many(range(5))
    responder = q.respond(work, prefetch=5)
    assert at_work.wait(GUARD)
    assert counts(q) == (0, 0, 5, 0)
    closing = in_thread(responder.close)
    eventually(lambda: counts(q) == (4, 0, 1, 0))
    go_on.set()
    closing.result(GUARD)
    assert counts(q) == (4, 0, 0, 0)


def test_a_responder_can_be_closed_by_its_own_function(q: Queue, eventually: Eventually) -> None:
    made: list[mqlite.Responder] = []
    ready = threading.Event()

    def work(body: Any) -> str:
        assert ready.wait(GUARD)
        made[0].close()
        return "the last"

    made.append(q.respond(work))
    ready.set()
    assert q.call("x", GUARD) == "the last"
    eventually(lambda: not made[0]._threads[0].is_alive())
    with pytest.raises(mqlite.CallTimeout):
        q.call("x", 0.05)


def test_a_responder_ends_with_its_queue(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue()
    responder = q.respond(double, threads=3)
    assert q.call(1, GUARD) == [1, 1]
    q.close()
    assert not any(thread.is_alive() for thread in responder._threads)


def test_closing_a_queue_whose_function_calls_itself_does_not_hang(make_queue: MakeQueue, in_thread: InThread) -> None:
    q = make_queue()
    inside = threading.Event()

    def work(body: Any) -> Any:
        inside.set()
        return q.call(body + 1)  # nobody is left to answer

    call = in_thread(q.call, 1)
    q.respond(work)
    assert inside.wait(GUARD)
    in_thread(q.close).result(GUARD)
    with pytest.raises(mqlite.Closed):
        call.result(GUARD)


# ---------------------------------------------------------------------- closing
def test_calls_that_wait_when_their_handle_is_closed_raise_closed(broker: mqlite.Broker, in_thread: InThread, eventually: Eventually) -> None:
    q, other = broker.queue("q"), broker.queue("q")
    calls = [in_thread(q.call, number) for number in range(3)]
    eventually(lambda: len(other) == 3)
    held = request(other)
    q.close()
    for call in calls:
        with pytest.raises(mqlite.Closed, match="queue 'q' was closed"):
            call.result(GUARD)
    with pytest.raises(mqlite.Closed):
        q.call("x")
    assert counts(other) == (0, 0, 1, 0)  # of the others nothing is left
    assert held.reply("late") is False
    assert counts(other) == NOTHING
    assert members(other) == 0


def test_a_call_that_waits_for_room_when_its_handle_is_closed_raises_closed(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q, other = broker.queue("q", maxsize=1), broker.queue("q")
    q.put("first")
    call = in_thread(q.call, "x")
    until_waiting(other, Kind.SPACE)
    q.close()
    with pytest.raises(mqlite.Closed):
        call.result(GUARD)
    assert (other.get(), counts(other)) == ("first", NOTHING)


def test_a_handle_that_never_called_has_no_thread_and_no_subscription(q: Queue) -> None:
    before = set(threading.enumerate())
    q.put("x")
    q.get()
    with pytest.raises(mqlite.CallTimeout):
        q.call("x", 0)
    assert set(threading.enumerate()) == before
    assert q._calls._topic is None


def test_the_thread_ends_when_the_handle_is_closed(make_queue: MakeQueue) -> None:
    before = threading.active_count()
    for _ in range(3):
        q = make_queue()
        with q.respond(double):
            q.call(1, GUARD)
        assert threading.active_count() == before + 1
        q.close()
    assert threading.active_count() == before


def test_calls_go_on_when_their_subscription_was_lost(broker: mqlite.Broker, in_thread: InThread) -> None:
    q, other = broker.queue("q"), broker.queue("q")
    call = in_thread(q.call, "x")
    message = request(other)
    topic = q._engine.topics.declare(TOPIC, {})
    assert subscriptions.unsubscribe(q._engine, topic, q._calls._token)
    with pytest.raises(mqlite.NoSuchSubscription):
        call.result(GUARD)
    message.ack()
    with other.respond(double):
        assert q.call(1, GUARD) == [1, 1]


# ---------------------------------------------------------------------- what is left
def test_users_see_nothing_of_it(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with q.respond(double):
        q.call("x", GUARD)
        assert (broker.queues(), broker.topics(), sorted(broker.stats())) == (["q"], [], ["q"])
    assert broker.topic("replies").stats().published == 0
    assert broker.topics() == ["replies"]


def settled(shop: Shop) -> tuple[int, int]:
    assert shop.check() == []
    return shop.entries()


def test_calling_a_thousand_times_leaves_nothing(shop: Shop, in_thread: InThread) -> None:
    stays = shop.queue()

    def round_(count: int) -> None:
        for number in range(count // 20):
            q = shop.queue()
            with q.respond(lambda body: 1 / (body % 5)):
                for body in range(16):
                    with contextlib.suppress(mqlite.CallFailed):
                        q.call(body, GUARD, group=f"g{body % 3}")
            with pytest.raises(mqlite.CallTimeout):
                q.call("late", 0.001)
            call = in_thread(q.call, "held", 0.01)
            with contextlib.suppress(mqlite.Empty), stays.receive(timeout=0.01)[0] as message:
                if number % 2:
                    message.reply("in time or not")
            with contextlib.suppress(mqlite.CallTimeout):
                call.result(GUARD)
            q.close()
        with contextlib.suppress(mqlite.Empty):
            stays.get(timeout=0)

    round_(40)
    before = settled(shop)
    round_(1000 if not shop.on_disk else 400)
    assert settled(shop) == before
    assert (counts(stays), members(stays)) == (NOTHING, 0)


def test_after_the_close_of_all_handles_only_the_topic_is_left(path: str, tmp_path: Any) -> None:
    def entries(where: str, calls: bool) -> int:
        q: Queue = mqlite.Queue("q", where)
        with q.respond(double):
            if calls:
                q.call("x", GUARD)
            else:
                q.put("x")
                q.join()
        q.close()
        q = mqlite.Queue("q", where)
        count = int(q._engine.log._environment._lmdb.stat()["entries"])  # type: ignore[attr-defined]
        assert q.check() == []
        q.close()
        return count

    with_calls, without = entries(path, True), entries(os.path.join(tmp_path, "other.mq"), False)
    assert with_calls - without <= 5  # its definition, by name and by number, its numbers, and two of the store's own


def test_a_check_right_behind_a_call_finds_nothing_half_done(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    with q.respond(double, threads=2):
        for number in range(100):
            q.call(number, GUARD)
            assert broker.check() == []


def test_a_reply_that_nobody_takes_expires(timed_shop: Shop, clock: HandClock, in_thread: InThread) -> None:
    q = timed_shop.queue()
    call = in_thread(q.call, "x")
    message = request(q)
    topic = q._engine.topics.declare(TOPIC, {})
    q._calls._interrupt.close(q._engine.presence)  # its thread takes no more
    with pytest.raises(mqlite.Closed):
        call.result(GUARD)
    assert message.reply("y") is True
    with q._engine.log.read() as snapshot:
        [(fed, _)] = q._engine.topics.members(topic, snapshot)
        assert snapshot.counters(fed.id).total == 1
    clock.pass_by(TTL + 1)
    q._engine.schedule.care(fed.id)
    with q._engine.log.read() as snapshot:
        assert snapshot.counters(fed.id).total == 0
        assert snapshot.topic_numbers(topic.id).stored == 0


@pytest.mark.parametrize("point", [1, 3, 7, 12, 18, 25, 33, 47, 60, 80, 110, 150, 200, 270, 350, 450, 600, 800, 5000])
def test_an_interrupt_at_any_moment_of_a_call_leaves_nothing_that_grows(path: str, children: Children, point: int) -> None:
    child = children.fork(_interrupted_call, path, point)
    assert child.hear() == [0, [1, 1], [], 1]
    child.end()


def _interrupted_call(talk: Any, path: str, point: int) -> None:
    q: Queue = mqlite.Queue("q", path)
    with contextlib.suppress(mqlite.CallTimeout), interrupted_at(point):
        q.call("x", 0.02)
    waiting = len(q._calls._calls)
    with q.respond(double):
        found = q.call(1, GUARD)
    talk.say([waiting, found, q.check(), members(q)])
    q.close()


def test_an_interrupt_ends_a_call_that_waits(q: Queue, eventually: Eventually, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    begin = Calls._begin

    def interrupted(self: Calls, number: str, call: Any) -> None:
        call.over = Interrupted()
        begin(self, number, call)

    monkeypatch.setattr(Calls, "_begin", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            q.call("x")
    assert (len(q._calls._calls), counts(q)) == (0, NOTHING)


# ---------------------------------------------------------------------- other processes
def test_a_forked_child_calls_for_itself(q: Queue, backend: str, children: Children) -> None:
    with q.respond(double):
        assert q.call(1, GUARD) == [1, 1]
        child = children.fork(_call_in_child, q, backend)
        assert child.hear() == [[2, 2], [3, 3], 1 if backend == "memory" else 2]
        child.end()
        assert q.call(4, GUARD) == [4, 4]


def _call_in_child(talk: Any, q: Queue, backend: str) -> None:
    if backend == "memory":
        q.respond(double)
    found = [q.call(2, GUARD), q.call(3, GUARD)]
    talk.say([*found, members(q)])
    q.close()


def test_a_child_that_is_forked_while_calls_wait_has_none_of_them(q: Queue, in_thread: InThread, children: Children) -> None:
    call = in_thread(q.call, "parent", GUARD)
    message = request(q)
    child = children.fork(_close_in_child, q)
    assert child.hear() == [0, []]
    child.end()
    assert message.reply("y") is True
    assert call.result(GUARD) == "y"


def _close_in_child(talk: Any, q: Queue) -> None:
    waiting = len(q._calls._calls)
    problems = q.check()
    q.close()
    talk.say([waiting, problems])


def test_a_responder_has_no_threads_in_a_forked_child(q: Queue, children: Children) -> None:
    with q.respond(double, threads=2) as responder:
        assert q.call(1, GUARD) == [1, 1]

        def in_child(talk: Any) -> None:
            talk.say(threading.active_count())
            responder.close()
            with q.respond(lambda body: "child"):
                talk.say(q.call("x", GUARD) in ("child", ["x", "x"]))
            q.close()

        child = children.fork(in_child)
        assert child.hear() == 1
        assert child.hear() is True
        child.end()
        assert q.call(2, GUARD) == [2, 2]


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"priority": 1.5}, TypeError),
        ({"priority": 1 << 31}, ValueError),
        ({"headers": [1]}, TypeError),
        ({"headers": {"x": {1}}}, mqlite.CodecError),
        ({"type": 1}, TypeError),
        ({"group": ""}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": "1"}, TypeError),
    ],
)
def test_a_call_with_bad_options_asks_nobody(q: Queue, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        q.call("x", **options)
    assert counts(q) == NOTHING
    assert q._calls._topic is None


def test_a_request_that_cannot_be_stored_is_told_at_once(path: str) -> None:
    with mqlite.Queue("q", path, max_message_bytes=10) as q:
        with pytest.raises(mqlite.CodecError):
            q.call({1})
        with pytest.raises(mqlite.MessageTooLarge):
            q.call("x" * 11)
        assert counts(q) == NOTHING


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        (None, {}, TypeError),
        ("double", {}, TypeError),
        (double, {"threads": 0}, ValueError),
        (double, {"threads": "1"}, TypeError),
        (double, {"prefetch": 0}, ValueError),
        (double, {"prefetch": 1.0}, TypeError),
        (double, {"pass_message": 1}, TypeError),
    ],
)
def test_a_responder_is_told_what_is_wrong(q: Queue, function: Any, options: dict[str, Any], error: type[Exception]) -> None:
    before = threading.active_count()
    with pytest.raises(error):
        q.respond(function, **options)
    assert threading.active_count() == before


def test_a_closed_queue_does_not_respond(make_queue: MakeQueue) -> None:
    q = make_queue()
    q.close()
    with pytest.raises(mqlite.Closed):
        q.respond(double)
    with pytest.raises(mqlite.Closed):
        q.call(1)


def test_a_subscription_cannot_be_called(broker: mqlite.Broker) -> None:
    sub = broker.topic("t").subscribe("s")
    with pytest.raises(mqlite.NotSupported):
        sub.call("x")


def test_a_responder_cannot_be_pickled(disk_queue: Queue) -> None:
    with disk_queue.respond(double) as responder, pytest.raises(TypeError, match="cannot be sent to another process"):
        pickle.dumps(responder)


def test_a_queue_that_has_called_can_be_pickled(disk_queue: Queue) -> None:
    with disk_queue.respond(double):
        disk_queue.call(1, GUARD)
        with pickle.loads(pickle.dumps(disk_queue)) as other:
            assert other.call(2, GUARD) == [2, 2]


