"""A backup while many threads and processes work: it is one committed state; and nobody waits for it."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crash.kill_points import sweep_seed
from fixture_types import Eventually, InThread
from interrupting import interrupted_at, learn

import mqlite
from mqlite.system import copying

GUARD = 60.0
ACCOUNTS, OPENING = 8, 100
#: More points than there are.
END = 5000


@pytest.fixture
def target(path: str) -> str:
    return os.path.join(os.path.dirname(path), "copy.mq")


@pytest.fixture
def broker(path: str) -> Iterator[mqlite.Broker]:
    with mqlite.open(path) as opened:
        yield opened


class Pause:
    """A progress that waits in its second call until it is told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._calls = 0

    def __call__(self, done: int, total: int) -> None:
        self._calls += 1
        if self._calls == 2:
            self.reached.set()
            assert self.go_on.wait(GUARD)


def readers(broker: mqlite.Broker) -> int:
    """Processes and threads that hold a state of the log, the dead not counted."""
    environment = broker._store._environment  # type: ignore[union-attr]
    environment.reader_check()
    return len(environment._lmdb.readers().strip().splitlines()[1:])


# ---------------------------------------------------------------------- one committed state
def _bank(talk: Any, path: str, seed: int) -> None:
    """Four threads that move money, each time with a receipt, an event and a count, until they are told to stop."""
    broker = mqlite.open(path)
    orders, receipts, events = broker.queue("orders"), broker.queue("receipts"), broker.topic("events")
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(seed * 10 + number)

        def move(tx: mqlite.Transaction) -> None:
            source, to = chance.sample(range(ACCOUNTS), 2)
            amount = chance.randint(1, OPENING)
            balances = tx.table("balances")
            balances[source], balances[to] = balances[source] - amount, balances[to] + amount
            balances["done"] += 1
            receipts.put("x" * chance.choice((10, 5000)), tx=tx)
            events.publish("done", "a.b", tx=tx)
            message.ack(tx=tx)
            orders.put("again", tx=tx)

        try:
            while not stop.is_set():
                [message] = orders.receive(timeout=GUARD)
                broker.run(move, attempts=1_000_000)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    talk.say("works")
    talk.hear()
    stop.set()
    for thread in threads:
        thread.join()
    broker.close()
    assert not errors, errors


def test_a_backup_of_a_busy_store_is_one_committed_state(broker: mqlite.Broker, path: str, target: str, children: Any) -> None:
    broker.table("balances").update({**dict.fromkeys(range(ACCOUNTS), OPENING), "done": 0})
    orders = broker.queue("orders")
    orders.put_many(["go"] * 20)
    broker.topic("events").subscribe("all")
    banks = [children.fork(_bank, path, seed) for seed in (1, 2)]
    for bank in banks:
        bank.hear()
    done = []
    for _ in range(6):
        broker.backup(target)
        with mqlite.open(target) as copy:
            assert copy.check() == []
            balances = dict(copy.table("balances"))
            done.append(balances.pop("done"))
            assert sum(balances.values()) == ACCOUNTS * OPENING
            assert copy.queue("orders").stats().ready == 20
            assert copy.queue("receipts").stats().ready == done[-1]
            assert copy.topic("events").subscribe("all").stats().ready == done[-1]
        shutil.rmtree(target)
    for bank in banks:
        bank.say("stop")
    for bank in banks:
        bank.end()
    assert done == sorted(set(done)), "each backup is of a later state"
    assert broker.table("balances")["done"] > done[-1]
    assert broker.check() == []
    assert readers(broker) == 0


# ---------------------------------------------------------------------- nobody waits for it
def test_a_fork_does_not_wait_for_a_backup(broker: mqlite.Broker, target: str, in_thread: InThread, children: Any) -> None:
    queue = broker.queue("q")
    queue.put_many(["x" * 10_000] * 500)
    pause = Pause()
    backup = in_thread(broker.backup, target, progress=pause)
    assert pause.reached.wait(GUARD)

    def child(talk: Any) -> None:
        queue.put("from the child")
        talk.say("done")

    forked = children.fork(child)
    assert forked.hear() == "done"
    forked.end()
    pause.go_on.set()
    backup.result(GUARD)
    assert broker.check() == []
    with mqlite.open(target) as copy:
        assert copy.check() == []
        assert copy.queue("q").stats().ready == 500


def test_a_close_does_not_wait_for_a_backup_which_goes_on(path: str, target: str, in_thread: InThread) -> None:
    broker = mqlite.open(path)
    broker.queue("q").put_many(["x" * 10_000] * 500)
    pause = Pause()
    backup = in_thread(broker.backup, target, progress=pause)
    assert pause.reached.wait(GUARD)
    broker.close()
    with mqlite.open(path) as again:
        again.queue("q").purge()
        pause.go_on.set()
        backup.result(GUARD)
        assert again.check() == []
    with mqlite.open(target) as copy:
        assert copy.check() == []
        assert copy.queue("q").stats().ready == 500


# ---------------------------------------------------------------------- interrupts and deaths
def test_an_interrupt_anywhere_leaves_nothing_behind_and_the_store_goes_on(broker: mqlite.Broker, path: str, target: str, children: Any) -> None:
    seed = sweep_seed()
    queue = broker.queue("q")
    queue.put_many(["x" * 10_000] * 200)
    broker.backup(target)
    learn()

    def sweep(talk: Any) -> None:
        warnings.simplefilter("ignore", ResourceWarning)  # what is cut off before it is in anybody's hands is closed by Python
        queue.put("begins")
        before = len(os.listdir("/dev/fd"))
        chance = random.Random(seed)
        point, strikes, struck = 0, 0, [""]
        while struck:
            shutil.rmtree(target)
            point = point + chance.randint(1, 30) if point < 330 else END
            with interrupted_at(point) as struck:
                broker.backup(target)
            strikes += bool(struck)
            left = os.listdir(os.path.dirname(path))
            assert len(left) == 1 or not struck or os.path.exists(target), f"{left} after {struck}"
            if struck and not os.path.exists(target):
                queue.put("goes on")
                broker.backup(target)
            with mqlite.open(target) as copy:
                assert copy.check() == []
        gc.collect()
        assert len(os.listdir("/dev/fd")) <= before + 6, "few may get lost, each between two instructions"
        assert broker.check() == []
        talk.say(strikes)

    swept = children.fork(sweep)
    assert swept.hear() > 5
    swept.end()


def test_a_signal_ends_a_backup_that_waits(broker: mqlite.Broker, path: str, target: str, children: Any, eventually: Eventually) -> None:
    import fcntl

    def child(talk: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        talk.say("ready")
        with pytest.raises(KeyboardInterrupt):
            broker.backup(target)
        talk.say("interrupted")

    with open(os.path.join(path, "open.lock"), "r+b") as lock:
        forked = children.fork(child)
        fcntl.flock(lock, fcntl.LOCK_EX)
        forked.hear()
        eventually(lambda: os.path.exists(target + ".part/store.json"))
        forked.kill(signal.SIGINT)
        assert forked.hear() == "interrupted"
        forked.end()
    assert os.listdir(os.path.dirname(path)) == ["app.mq"]


def test_a_copying_process_that_is_killed_fails_the_backup_alone(broker: mqlite.Broker, path: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = broker.queue("q")
    queue.put_many(["x" * 10_000] * 500)
    started: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(copying.subprocess, "Popen", lambda *given, **options: started.append(popen(*given, **options)) or started[-1])
    with pytest.raises(mqlite.StoreError, match="has ended"):
        broker.backup(target, progress=lambda done, total: started[0].kill())
    assert os.listdir(os.path.dirname(path)) == ["app.mq"]
    assert readers(broker) == 0
    broker.backup(target)
    assert broker.check() == []


def test_when_a_process_is_killed_in_a_backup_nobody_keeps_old_pages_for_it(broker: mqlite.Broker, target: str, children: Any, eventually: Eventually) -> None:
    broker.queue("q").put_many(["x" * 10_000] * 500)

    def backs_up(talk: Any) -> None:
        def progress(done: int, total: int) -> None:
            if done:
                grandchild = os.fork()  # which holds the pipe open
                if grandchild:
                    talk.say(grandchild)
                threading.Event().wait()

        broker.backup(target, progress=progress)

    doomed = children.fork(backs_up)
    grandchild = doomed.hear()
    try:
        assert readers(broker) == 1
        doomed.kill()
        eventually(lambda: readers(broker) == 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert not os.path.exists(target)

    def backed_up() -> bool:
        try:
            broker.backup(target)
        except mqlite.StoreError:  # the grandchild is not gone yet, and with it the lock of what was begun
            return False
        return True

    eventually(backed_up)
    assert not os.path.exists(target + ".part")


def test_threads_take_and_put_while_one_backs_up_again_and_again(broker: mqlite.Broker, target: str, in_thread: InThread) -> None:
    queue = broker.queue("q")
    stop = threading.Event()

    def turn(step: Callable[[int], object]) -> int:
        turns = 0
        while not stop.is_set():
            step(turns)
            turns += 1
        return turns

    def take(turns: int) -> None:
        [message] = queue.receive(timeout=GUARD)
        message.ack()

    putting = in_thread(turn, lambda turns: queue.put(turns))
    taking = in_thread(turn, take)
    for _ in range(5):
        broker.backup(target)
        with mqlite.open(target) as copy:
            assert copy.check() == []
        shutil.rmtree(target)
    stop.set()
    queue.put("the last one")
    assert putting.result(GUARD) > 0
    assert taking.result(GUARD) > 0
