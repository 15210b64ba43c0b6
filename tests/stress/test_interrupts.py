"""Ctrl-C at any moment: nothing hangs afterwards, and nothing confirmed is lost.

Only the main thread of a process is interrupted. The sweeps raise KeyboardInterrupt
at one point after the other, which real signals hit by chance only.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from interrupting import interrupted_at

import mqlite

GUARD = 60.0
#: More points than any of the calls has.
END = 5000
#: Seconds after which a process that was interrupted is taken for hanging.
HANGS = 10


def _some_points(seed: int) -> list[int]:
    chance = random.Random(seed)
    points = [chance.randint(1, 6)]
    while points[-1] < 300:
        points.append(points[-1] + chance.randint(2, 12))
    return [*points, END]


def _interrupted(talk: Any, path: str, name: str, call: str, point: int) -> None:
    """The call, interrupted; then everything must still work, in this process and for others."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    kept: mqlite.Queue[Any] = mqlite.Queue("kept", path)  # the store stays open: nothing is put right by closing it
    queue: mqlite.Queue[Any] = mqlite.Queue(name, path, maxsize=4, max_deliveries=None)
    queue.put_many(["first", "second"])
    returned = False
    with interrupted_at(point) as struck:
        CALLS[call](queue)
        returned = True
    talk.say([struck, returned])
    left: list[Any] = []
    errors: list[str] = []

    def in_thread(function: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                function()
            except BaseException:
                errors.append(traceback.format_exc())

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def use() -> None:
        time.sleep(0.002)  # what waits is due by then
        try:
            while True:
                left.append(queue.get(timeout=0))
        except mqlite.Empty:
            pass
        for number in range(3):
            queue.put(number, timeout=0)
            assert queue.get(timeout=0) == number

    def woken() -> None:
        assert queue.get(timeout=HANGS) == "wake up"

    in_thread(use).join()
    errors += queue.check()
    thread = in_thread(woken)
    talk.say("waiting")
    thread.join()
    if os.fork() == 0:  # a fork waits until nobody is inside
        os._exit(0)
    os.wait()
    queue.close()
    errors += kept.check()
    kept.close()
    talk.say([left, errors])


def _quietly(function: Callable[[], Any], *errors: type[Exception]) -> None:
    try:
        function()
    except errors:
        pass


def _ack(queue: mqlite.Queue[Any]) -> None:
    [message] = queue.receive(timeout=0)
    message.ack()


def _nack(queue: mqlite.Queue[Any]) -> None:
    [message] = queue.receive(timeout=0)
    message.nack()


def _nack_later(queue: mqlite.Queue[Any]) -> None:
    [message] = queue.receive(timeout=0)
    message.nack(delay=0.001)


def _due(queue: mqlite.Queue[Any]) -> None:
    queue.put("new", delay=0.0001)
    time.sleep(0.001)
    queue.get(timeout=0)


def _with(queue: mqlite.Queue[Any]) -> None:
    with queue.consumer(prefetch=2) as consumer, consumer.receive(timeout=0):
        pass


def _producer(queue: mqlite.Queue[Any]) -> None:
    with queue.producer() as producer:
        producer.put("new")
        producer.put("newer")


CALLS: dict[str, Callable[[mqlite.Queue[Any]], Any]] = {
    "put": lambda queue: queue.put("new"),
    "put_many": lambda queue: queue.put_many(["new", "newer"]),
    "producer": _producer,
    "get": lambda queue: queue.get(timeout=0),
    "receive and ack": _ack,
    "receive and nack": _nack,
    "receive and nack later": _nack_later,
    "put, wait and get": _due,
    "consumer": _with,
    "wait for a message": lambda queue: _quietly(lambda: [queue.get(timeout=0), queue.get(timeout=0), queue.get(timeout=0.01)], mqlite.Empty),
    "wait for room": lambda queue: _quietly(lambda: [queue.put("new", timeout=0.01) for _ in range(3)], mqlite.Full),
    "task_done": lambda queue: [queue.get(timeout=0), queue.task_done()],
}


def _sweep(call: str, points: Any, path: str, children: Any) -> int:
    """Interrupt the call at each of the points; how many interrupts struck."""
    for struck_times, point in enumerate(points):
        name = f"q{point}"
        child = children.fork(_interrupted, path, name, call, point)
        struck: Any = None
        try:
            struck, returned = child.hear()
            assert child.hear() == "waiting"
            with mqlite.Queue[Any](name, path) as queue:
                queue.put("wake up")
            left, errors = child.hear()
        except EOFError:
            raise AssertionError(f"the process hangs after an interrupt of {call!r} at point {point} ({struck})") from None
        except AssertionError as error:
            raise AssertionError(f"{call!r}, interrupted at point {point} ({struck}): {error}") from None
        where = f"{call!r}, interrupted at point {point} ({struck})"
        child.end()
        assert errors == [], where
        assert set(left) <= {"first", "second", "new", "newer"}, where
        assert set(Counter(left).values()) <= {1} or call == "wait for room", where
        if returned and call in ("put", "producer"):
            assert "new" in left, where
        if call in ("put", "put_many", "producer", "wait for room"):
            assert left[:2] == ["first", "second"], where
        if call == "put_many":
            assert len(left) in (2, 4), f"torn apart: {where}"
        if call in ("receive and ack", "receive and nack", "receive and nack later", "consumer"):  # "first" may be in the user's hands
            assert "second" in left, f"a message is held by nobody: {where}"
        children.kill_all()
        if not struck:
            return struck_times
    raise AssertionError(f"no call has {END} points")


@pytest.mark.parametrize("call", CALLS)
def test_after_an_interrupt_at_some_points_the_store_works_on(call: str, path: str, children: Any) -> None:
    seed = int(os.environ.get("MQLITE_SWEEP_SEED", "1"))  # another seed, other points
    print(f"seed {seed}")
    assert _sweep(call, _some_points(seed), path, children) > 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_after_an_interrupt_at_every_point_the_store_works_on(call: str, path: str, children: Any) -> None:
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "8"))  # 1: every point; else every n-th; another seed begins elsewhere
    first = 1 + int(os.environ.get("MQLITE_SWEEP_SEED", "0")) % stride
    print(f"from {first} in steps of {stride}")
    assert _sweep(call, range(first, END + stride, stride), path, children) > 3


def _stormed(talk: Any, path: str, seconds: float) -> None:
    """Puts, gets and acknowledges in several threads, and lets nothing but the end stop it."""
    faulthandler.dump_traceback_later(seconds + HANGS, exit=True)
    armed = False

    def interrupt(*_: Any) -> None:
        nonlocal armed
        if armed:
            armed = False  # one at a time: this program is about to deal with it
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    queue: mqlite.Queue[Any] = mqlite.Queue("q", path, maxsize=500, max_deliveries=None)
    confirmed: list[list[Any]] = []
    acked: list[Any] = []
    taken: list[Any] = []
    stop = False
    interrupts = 0

    def put(thread: int) -> None:
        for n in range(10**9):
            if stop:
                return
            queue.put([thread, n])
            confirmed.append([thread, n])

    def work() -> None:
        while True:
            [message] = queue.receive()
            message.ack()
            acked.append(message.body)
            if message.body == "end":
                return

    def told(function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException:
            os.write(2, traceback.format_exc().encode())  # pytest would keep it to itself
            raise

    threads = [threading.Thread(target=told, args=arguments) for arguments in ((put, 1), (put, 2), (work,), (work,))]
    for thread in threads:
        thread.start()
    own = 0
    talk.say("ready")
    while not stop:
        message = None
        try:
            armed = True
            for _ in range(50):
                own += 1
                item = [0, own]
                queue.put(item)
                confirmed.append(item)
                taken.append(queue.get())
                [message] = queue.receive()
                body = message.body
                message.ack()
                acked.append(body)
            armed = False
        except KeyboardInterrupt:
            interrupts += 1
            if message is not None:
                with suppress(mqlite.NotClaimed, mqlite.LeaseLost):
                    message.release()
        talk.say(interrupts)
        stop = talk.hear() == "stop"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for thread in threads[:2]:
        thread.join(GUARD)
    queue.put_many(["end", "end"], priority=-5, timeout=GUARD)
    for thread in threads[2:]:
        thread.join(GUARD)
    talk.say({"confirmed": confirmed, "taken": taken, "acked": acked, "interrupts": interrupts, "hanging": [thread.is_alive() for thread in threads]})
    talk.hear()


def _blow(path: str, children: Any, seconds: float) -> None:
    seed = time.time_ns() % 10**9
    print(f"seed {seed}")
    chance = random.Random(seed)
    child = children.fork(_stormed, path, seconds)
    assert child.hear() == "ready"
    end = time.monotonic() + seconds
    interrupts = 0
    while True:
        try:
            interrupts = child.hear(chance.expovariate(1 / 0.01))
            child.say("go on" if time.monotonic() < end else "stop")
            if time.monotonic() >= end:
                break
        except TimeoutError:
            if time.monotonic() < end + GUARD:
                child.kill(signal.SIGINT)
            else:
                raise AssertionError(f"the interrupted process does not go on (after {interrupts} interrupts)") from None
    said = child.hear()
    print({word: len(found) if isinstance(found, list) else found for word, found in said.items()})
    assert not any(said["hanging"]), said["hanging"]
    assert said["interrupts"] > 0
    child.kill()
    left = []
    with mqlite.open(path) as broker:
        assert broker.check() == []
        queue = broker.queue("q")
        while True:
            try:
                left.append(queue.get(timeout=0))
            except mqlite.Empty:
                break
    known = Counter(str(item) for item in [*said["acked"], *said["taken"], *left] if item != "end")
    lost = [item for item in said["confirmed"] if str(item) not in known]
    # an interrupt inside get() or ack() may strike after the message was removed and before the call returned
    assert len(lost) <= said["interrupts"], lost
    assert {item: times for item, times in known.items() if times > 1} == {}


def test_a_process_that_is_interrupted_all_the_time_goes_on_working(path: str, children: Any) -> None:
    _blow(path, children, 2)


@pytest.mark.slow
def test_a_process_that_is_interrupted_for_a_long_time_goes_on_working(path: str, children: Any) -> None:
    _blow(path, children, 15)
