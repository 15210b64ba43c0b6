"""Ctrl-C at any moment: nothing hangs afterwards, and nothing confirmed is lost.

Only the main thread of a process is interrupted. The sweeps raise KeyboardInterrupt
at one point after the other, which real signals hit by chance only.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from crash.kill_points import sweep_seed
from interrupting import interrupted_at, learn
from polling import until

import mqlite
from mqlite.claims import Kind

GUARD = 60.0
#: More points than any of the calls has.
END = 5000
#: Seconds after which a process that was interrupted is taken for hanging.
HANGS = 30


def _some_points(seed: int) -> list[int]:
    chance = random.Random(seed)
    points = [chance.randint(1, 6)]
    while points[-1] < 300:
        points.append(points[-1] + chance.randint(4, 36))
    return [*points, END]


def _interrupted(talk: Any, path: str, name: str, call: str, point: int) -> None:
    """The call, interrupted; then everything must still work, in this process and for others."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    case = CASES[call]
    kept: mqlite.Queue[Any] = mqlite.Queue("kept", path)  # the store stays open: nothing is put right by closing it
    queue: mqlite.Queue[Any] = mqlite.Queue(name, path, **{"max_deliveries": None, **case.options})
    case.before(queue)
    returned = False
    with interrupted_at(point) as struck:
        case.call(queue)
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
        gc.collect()  # tracing leaves cycles, which hold what nobody has any more
        time.sleep(0.002)  # what waits is due by then
        case.afterwards(queue)
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
        PRODUCERS.append(producer)
        producer.put("new")
        producer.put("newer")


def _flushed(queue: mqlite.Queue[Any]) -> None:
    """What an interrupted producer had taken is committed by its thread: now, and not only when all that is left was looked at."""
    while PRODUCERS:
        PRODUCERS.pop().flush(HANGS / 2)


Call = Callable[[mqlite.Queue[Any]], Any]


def _put_what_is_expected(take: Callable[[mqlite.Queue[Any]], Any]) -> Call:
    """Takes, in vain at first; another thread puts, and commits as soon as the message is expected, or was not waited for."""

    def call(queue: mqlite.Queue[Any]) -> None:
        over = threading.Event()
        engine: Any = queue._engine
        forewarn, expected, release_all = engine.log.before_commit, engine.claims.expected, engine.release_all

        def after_an_interrupt(*arguments: Any) -> None:
            over.set()  # this waits for the commit
            release_all(*arguments)

        engine.release_all = after_an_interrupt
        assert expected is not None

        def is_registered() -> bool:
            with engine.claims.read() as c:
                return any(c.waiting(queue._state.id, Kind.MESSAGE))

        def when_it_is_expected(notes: Any) -> None:
            forewarn(notes)
            while expected.expecting() is None and not over.wait(0.0005):
                pass

        def put() -> None:
            while not is_registered() and not over.wait(0.0005):
                pass
            engine.log.before_commit = when_it_is_expected
            try:
                queue.put("new")
            finally:
                engine.log.before_commit = forewarn

        putting = threading.Thread(target=put)
        putting.start()
        try:
            take(queue)
        finally:
            over.set()
            putting.join()
            del engine.release_all

    return call




def _nothing(queue: mqlite.Queue[Any]) -> None:
    pass


def _first_and_second(queue: mqlite.Queue[Any]) -> None:
    queue.put_many(["first", "second"])


@dataclass
class Case:
    """A call that is interrupted. before: what is there; afterwards: what is done by then; judge: of what is left."""

    call: Call
    judge: Callable[[list[Any], bool], None]
    before: Call = _first_and_second
    afterwards: Call = lambda queue: None
    options: dict[str, Any] = field(default_factory=dict)
    level: str | None = None


CALLS: dict[str, Call] = {
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


def _plainly(call: str) -> Callable[[list[Any], bool], None]:
    def judge(left: list[Any], returned: bool) -> None:
        assert set(left) <= {"first", "second", "new", "newer"}
        assert set(Counter(left).values()) <= {1} or call == "wait for room"
        if returned and call in ("put", "producer"):
            assert "new" in left
        if call in ("put", "put_many", "producer", "wait for room"):
            assert left[:2] == ["first", "second"]
        if call == "put_many":
            assert len(left) in (2, 4), "torn apart"
        if call in ("receive and ack", "receive and nack", "receive and nack later", "consumer"):  # "first" may be in the user's hands
            assert "second" in left, "a message is held by nobody"

    return judge


# ---------------------------------------------------------------------- queues with policies
def _one_of(*outcomes: list[Any]) -> Callable[[list[Any], bool], None]:
    """The last of these if the call returned, else any."""

    def judge(left: list[Any], returned: bool) -> None:
        assert left == outcomes[-1] if returned else left in outcomes, (left, returned)

    return judge


def _grouped(queue: mqlite.Queue[Any]) -> None:
    queue.put_many(["first", "second"], group="g")


def _in_block(settle: Callable[[mqlite.Message], Any], **options: Any) -> Call:
    """Settles the first message; what was not settled goes back at the end of the block."""

    def call(queue: mqlite.Queue[Any]) -> None:
        with queue.consumer(**options) as consumer:
            settle(consumer.receive(timeout=0))

    return call


def _alone(queue: mqlite.Queue[Any]) -> None:
    """An interrupt before the block of the consumer begins leaves the seat to its queue, which gives it back when it is closed."""
    with mqlite.Queue[Any](queue.name, queue._channel.store.path) as own:
        _in_block(lambda message: message.ack(), mode="exclusive")(own)


def _until_due(queue: mqlite.Queue[Any]) -> None:
    until(lambda: not queue.stats().delayed)


def _marked(first: dict[str, Any], second: dict[str, Any], pause: float = 0) -> Call:
    def before(queue: mqlite.Queue[Any]) -> None:
        IDS["first"] = queue.put("first", **first)
        IDS["second"] = queue.put("second", **second)
        time.sleep(pause)

    return before


def _retried_for_long(queue: mqlite.Queue[Any]) -> None:
    """The first of a group waits for its retry, and claimers have passed over the second."""
    _marked({"group": "g"}, {"group": "g"})(queue)
    queue.receive(timeout=0)[0].nack(delay=3600)
    _quietly(lambda: queue.receive(timeout=0), mqlite.Empty)


def _cancelled(queue: mqlite.Queue[Any]) -> None:
    queue.cancel(IDS["first"])


def _updated(**options: Any) -> Call:
    return lambda queue: queue.update(IDS["first"], **options)


def _rejected(queue: mqlite.Queue[Any]) -> None:
    _grouped(queue)
    for _ in range(2):
        queue.receive(timeout=0)[0].reject()


def _redriven(queue: mqlite.Queue[Any]) -> None:
    queue.redrive()
    _until_due(queue)


def _due_to_fire(queue: mqlite.Queue[Any]) -> None:
    _first_and_second(queue)
    soon = 0.05
    while True:
        start = time.time() + soon
        queue.schedule("tick", "new", every=3600, start=start)
        if time.time() < start:  # else it begins with the next hour
            break
        queue.unschedule("tick")
        soon *= 2
    time.sleep(max(0.0, start - time.time()) + 0.01)


def _paused(queue: mqlite.Queue[Any]) -> None:
    _first_and_second(queue)
    queue.pause()


def _fired_or_not(left: list[Any], returned: bool) -> None:
    assert left in (["first", "second"], ["first", "second", "new"]), left


def _watched(queue: mqlite.Queue[Any]) -> None:
    with queue.watermarks(3, 1):
        queue.put("new")


#: What was made by the interrupted call.
PRODUCERS: list[mqlite.Producer] = []
#: What `before` put, by body.
IDS: dict[str, int] = {}
IN_ORDER = _one_of(["first", "second"])
NEW_LAST = _one_of(["first", "second"], ["first", "second", "new"])
FIRST_GONE = _one_of(["first", "second"], ["second"])
POLICIES: dict[str, Case] = {
    "put in a group": Case(lambda queue: queue.put("new", group="g"), NEW_LAST, _grouped),
    "ack in a group": Case(_in_block(lambda message: message.ack()), FIRST_GONE, _grouped),
    "nack in a group": Case(_in_block(lambda message: message.nack()), IN_ORDER, _grouped),
    "nack later in a group": Case(_in_block(lambda message: message.nack(delay=0.001)), IN_ORDER, _grouped, _until_due),
    "reject in a group": Case(_in_block(lambda message: message.reject()), FIRST_GONE, _grouped),
    "release in a group": Case(_in_block(lambda message: message.release()), IN_ORDER, _grouped),
    "prefetch in groups": Case(_in_block(lambda message: message.ack(), prefetch=9), FIRST_GONE, _grouped),
    "get in a group": Case(lambda queue: queue.get(timeout=0), FIRST_GONE, _grouped),
    "take in turn": Case(_in_block(lambda message: message.ack()), FIRST_GONE, options={"fair": True}),
    "put with a ttl": Case(lambda queue: queue.put("new", ttl=3600), NEW_LAST),
    "put with a dedup_id": Case(lambda queue: queue.put("new", dedup_id="d"), _one_of(["first", "second", "new"]), afterwards=lambda queue: queue.put("new", dedup_id="d")),
    "put unique": Case(lambda queue: queue.put("new", unique="u"), _one_of(["first", "second", "new"]), afterwards=lambda queue: queue.put("new", unique="u")),
    "replace": Case(lambda queue: queue.put("new", replace_key="r"), _one_of(["first", "second"], ["new", "second"]), _marked({"replace_key": "r"}, {})),
    "replace and move": Case(
        lambda queue: queue.put("new", replace_key="r", priority=-1), _one_of(["first", "second"], ["second", "new"]), _marked({"replace_key": "r"}, {})
    ),
    "replace what waits": Case(lambda queue: queue.put("new", replace_key="r"), _one_of(["second"], ["second", "new"]), _marked({"replace_key": "r", "delay": 3600}, {})),
    "drop the oldest": Case(lambda queue: queue.put("new"), _one_of(["first", "second"], ["second", "new"]), options={"maxsize": 2, "overflow": "drop_oldest"}),
    "overflow to the dead": Case(lambda queue: queue.put("new"), IN_ORDER, options={"maxsize": 2, "overflow": "dead_letter"}),
    "cancel": Case(_cancelled, FIRST_GONE, _marked({}, {})),
    "cancel in a group": Case(_cancelled, FIRST_GONE, _marked({"group": "g"}, {"group": "g"})),
    "cancel what holds up its group": Case(_cancelled, _one_of(["second"]), _retried_for_long, afterwards=_cancelled),
    "update the priority": Case(_updated(priority=-1), _one_of(["first", "second"], ["second", "first"]), _marked({}, {})),
    "update to later": Case(_updated(delay=0.0001), _one_of(["first", "second"], ["second", "first"]), _marked({}, {}), _until_due),
    "update to now": Case(_updated(delay=0), _one_of(["second"], ["second", "first"]), _marked({"delay": 3600}, {})),
    "expire": Case(lambda queue: queue.stats(), _one_of(["second"]), _marked({"ttl": 0.001}, {}, 0.002)),
    "expire what holds up its group": Case(lambda queue: queue.stats(), _one_of(["second"]), lambda queue: [_retried_for_long(queue), _updated(ttl=0.001)(queue), time.sleep(0.002)]),
    "schedule": Case(lambda queue: queue.schedule("tick", "new", every=3600), IN_ORDER),
    "unschedule": Case(lambda queue: queue.unschedule("tick"), _fired_or_not, _due_to_fire, lambda queue: queue.unschedule("tick")),
    "fire": Case(lambda queue: queue.stats(), _one_of(["first", "second", "new"]), _due_to_fire),
    "pause": Case(lambda queue: queue.pause(), IN_ORDER, afterwards=lambda queue: queue.resume()),
    "resume": Case(lambda queue: queue.resume(), IN_ORDER, _paused, lambda queue: queue.resume()),
    "configure": Case(lambda queue: queue.configure(maxsize=9, ttl=3600), IN_ORDER),
    "redrive at a rate": Case(lambda queue: queue.redrive(rate=1000), IN_ORDER, _rejected, _redriven),
    "take at a rate": Case(lambda queue: queue.get(timeout=0), FIRST_GONE, options={"rate": (100, 0.001)}),
    "have the queue alone": Case(_alone, FIRST_GONE),
    "fail over": Case(_in_block(lambda message: message.ack(), mode="failover"), FIRST_GONE),
    "watermarks": Case(_watched, NEW_LAST),
}
TAKEN: list[mqlite.Message] = []


def _give_back(queue: mqlite.Queue[Any]) -> None:
    for message in TAKEN:
        message.release()


#: At "full" only, who waits makes his row while the disk is busy.
EXPECTED: dict[str, Case] = {
    "receive what is expected": Case(
        _put_what_is_expected(lambda queue: TAKEN.extend(queue.receive(timeout=HANGS))), _one_of([], ["new"]), _nothing, _give_back, level="full"
    ),
    "get what is expected": Case(_put_what_is_expected(lambda queue: queue.get(timeout=HANGS)), _one_of(["new"], []), _nothing, level="full"),
}
CASES: dict[str, Case] = {**EXPECTED, **{name: Case(call, _plainly(name), options={"maxsize": 4}, afterwards=_flushed) for name, call in CALLS.items()}, **POLICIES}


def _sweep(call: str, points: Any, path: str, children: Any) -> int:
    """Interrupt the call at each of the points; how many interrupts struck."""
    mqlite.Queue[Any]("kept", path, durability=CASES[call].level).close()  # loads all of the package
    learn()
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
        try:
            CASES[call].judge(left, returned)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        children.kill_all()
        if not struck:
            return struck_times
    raise AssertionError(f"no call has {END} points")


@pytest.mark.parametrize("call", CASES)
def test_after_an_interrupt_at_some_points_the_store_works_on(call: str, path: str, children: Any) -> None:
    seed = int(os.environ.get("MQLITE_SWEEP_SEED", "1"))  # another seed, other points
    print(f"seed {seed}")
    assert _sweep(call, _some_points(seed), path, children) > 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CASES)
def test_after_an_interrupt_at_every_point_the_store_works_on(call: str, path: str, children: Any) -> None:
    stride = int(os.environ.get("MQLITE_SWEEP_STRIDE", "40"))  # 1: every point; else every n-th, beginning anywhere
    first = 1 + sweep_seed() % stride
    print(f"from {first} in steps of {stride}")
    assert _sweep(call, range(first, END + stride, stride), path, children) > 1


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
