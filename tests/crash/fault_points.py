"""Has the n-th system call of one call of the library fail, for n = 1, 2, 3, ... until it meets no fault.

A process opens a store, prepares something, and is struck during one call: a write, a flush or the making of a
file fails with ENOSPC or EIO, once or from then on, in place of the call, half way, or after it was made. The call
returns or raises an error of ours. Then, with the fault gone, the same handles and another process, which had the
store open all the time, see the same whole state: the one before the call or the one after it; after it if the
call returned, before it if it raised StoreFull. What was not done is done again, with the same handles.

    python -m crash.fault_points FOLDER LEVEL ONE_IN [SCENARIO ...]    in tests/ (needs fault_at_call.c preloaded)

ONE_IN: each scenario is struck in one of so many ways, beginning with MQLITE_SWEEP_SEED; 1: in all of them.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from crash.children import Children
from crash.faults import ALL, FAILS, FAILS_AFTER, FAILS_SHORT, FLUSHES, NAMES, WRITES, Faults

import mqlite
import mqlite.log.space
import mqlite.system.directory
from mqlite.system.control import FAILED, Control

#: So many rounds on one store, each on a queue of its own; then another store is made.
SHARED = 5
LATER = 3600.0
LONGEST = 400
CONTENT = list[Any]


@dataclass(frozen=True)
class Way:
    """How a call fails: with that errno, once or from then on."""

    fault: int
    errno: int
    kinds: int = ALL
    once: bool = True

    def __str__(self) -> str:
        fault = {FAILS: "fails", FAILS_SHORT: "falls short", FAILS_AFTER: "fails once it is made"}[self.fault]
        kinds = {ALL: "call", WRITES: "write", FLUSHES: "flush", NAMES: "name", WRITES | FLUSHES: "write or flush", WRITES | NAMES: "write or name"}[self.kinds]
        return f"{kinds} {fault} with {errno.errorcode[self.errno]}{'' if self.once else ', and all after it'}"


WAYS = [
    Way(FAILS, errno.ENOSPC),
    Way(FAILS, errno.EIO),
    Way(FAILS_SHORT, errno.ENOSPC, WRITES),
    Way(FAILS_AFTER, errno.EIO, WRITES | FLUSHES),
    Way(FAILS, errno.ENOSPC, WRITES | NAMES, once=False),
    Way(FAILS, errno.EIO, once=False),
    Way(FAILS, errno.EIO, FLUSHES, once=False),
]


class Things:
    """A queue, a subscription and a table of one round, in one process."""

    def __init__(self, broker: mqlite.Broker, number: int, *, new: bool = True) -> None:
        self.broker = broker
        self.number = number
        self.queue: mqlite.Queue[Any] = broker.queue(f"q{number}", max_deliveries=2)
        self.topic: mqlite.Topic[Any] = broker.topic(f"t{number}")
        self.subscriptions = [(self.topic.subscribe if new else self.topic.subscription)(name) for name in ("s0", "s1")]
        self.table = broker.table(f"r{number}")
        self.held: list[mqlite.Message] = []

    def content(self) -> CONTENT:
        """All that is there, but for what differs from round to round."""
        queues = [self.queue, self.queue.dead, *self.subscriptions]
        numbers = [(found.ready, found.delayed, found.claimed, found.dead) for found in (queue.stats() for queue in queues)]
        bodies = [[message.body for message in queue.browse()] for queue in queues]
        due = sorted(schedule.name for schedule in self.queue.schedules())
        # as the other process says it
        found: CONTENT = json.loads(json.dumps([numbers, bodies, due, sorted(self.table.items()), self.queue.is_paused]))
        return found

    def close(self) -> None:
        self.queue.close()
        self.topic.close()


@dataclass
class Scenario:
    """One call under fire.

    put: so many messages are there before; hold: so many of them are received.
    parts: it is several commits, so some of it may be done when it raises.
    synced: everything is on the disk before.
    """

    name: str
    act: Callable[[Things], Any]
    put: int = 0
    hold: int = 0
    parts: bool = False
    synced: bool = False

    def prepare(self, things: Things) -> None:
        if self.put:
            things.queue.put_many(list(range(self.put)))
        if self.hold:
            things.held = things.queue.receive(self.hold)
        if self.synced:
            things.broker.sync()


def _produce(things: Things) -> None:
    with things.queue.producer() as producer:
        for number in range(5):
            producer.put(number)


def _move(things: Things) -> None:
    with things.broker.transaction() as tx:
        for message in things.held:
            message.ack(tx=tx)
        things.queue.put("made", tx=tx)
        things.topic.publish("told", tx=tx)
        rows = tx.table(things.table.name)
        rows["a"] = 1
        rows["b"] = "x" * 9000


def _sync(things: Things) -> None:
    things.queue.put("to be flushed")
    things.broker.sync()


def _first_use(things: Things) -> None:
    things.queue.put_many(list(range(300)))
    things.queue.put("y" * (5 << 20))  # the file grows


SCENARIOS = [
    Scenario("put", lambda t: t.queue.put("new")),
    Scenario("put behind a sync", lambda t: t.queue.put("new"), synced=True),
    Scenario("ack behind a sync", lambda t: t.held[0].ack(), put=2, hold=1, synced=True),
    Scenario("put with a delay", lambda t: t.queue.put("late", delay=LATER, ttl=2 * LATER, dedup_id="d")),
    Scenario("put_many", lambda t: t.queue.put_many([0, 1, 2, "x" * 20_000])),
    Scenario("put what makes the file grow", _first_use, parts=True),
    Scenario("producer", _produce, parts=True),
    Scenario("receive", lambda t: t.queue.receive(2), put=3),
    Scenario("get", lambda t: t.queue.get(), put=2),
    Scenario("ack", lambda t: t.held[0].ack(), put=2, hold=1),
    Scenario("ack_many", lambda t: t.queue.ack_many(t.held), put=4, hold=3),
    Scenario("nack", lambda t: t.held[0].nack(), put=2, hold=1),
    Scenario("nack with a delay", lambda t: t.held[0].nack(delay=LATER), put=2, hold=1),
    Scenario("reject", lambda t: t.held[0].reject("bad"), put=2, hold=1),
    Scenario("release", lambda t: t.held[0].release(), put=2, hold=1),
    Scenario("transaction", _move, put=3, hold=2),
    Scenario("publish", lambda t: t.topic.publish("told")),
    Scenario("row", lambda t: t.table.update(a=1)),
    Scenario("schedule", lambda t: t.queue.schedule("daily", "x", every=LATER)),
    Scenario("cancel", lambda t: t.queue.cancel(next(iter(t.queue.browse())).id), put=2),
    Scenario("purge", lambda t: t.queue.purge(), put=3),
    Scenario("pause", lambda t: t.queue.pause()),
    Scenario("sync", _sync, parts=True),
]


LIFETIME = ["open", "open in another boot", "create", "close"]


def opened(path: str, level: str) -> mqlite.Broker:
    return mqlite.open(path, durability=level)


# ---------------------------------------------------------------------- the process that is struck
class Stricken:
    """One process: it makes stores, is struck, and has `witness`, another one, look at them."""

    def __init__(self, folder: str, level: str, witness: Any) -> None:
        self._folder = folder
        self._level = level
        self._witness = witness
        self._faults = Faults()
        self._stores = 0
        self._round = 0
        self._fired = 0
        self._boots = 0
        self._raised_in_threads: list[str] = []
        self.path = ""
        self.broker: mqlite.Broker | None = None
        mqlite.log.space._RETRY_SECONDS = 0.0  # what was refused before is asked for again
        threading.excepthook = lambda args: self._raised_in_threads.append(f"{args.exc_type.__name__}: {args.exc_value}")

    def another_store(self) -> None:
        self.leave()
        self._stores += 1
        self.path = os.path.join(self._folder, f"struck{self._stores}.mq")
        self.broker = opened(self.path, self._level)
        self._ask("open", self.path)

    def leave(self) -> None:
        if self.broker is not None:
            self._ask("close")
            self.broker.close()
            self.broker = None
            shutil.rmtree(self.path)

    def _ask(self, *question: Any) -> Any:
        self._witness.say(question)
        return self._witness.hear()

    def things(self) -> Things:
        if self._round % SHARED == 0:
            self.another_store()
        self._round += 1
        assert self.broker is not None
        return Things(self.broker, self._round)

    # ------------------------------------------------------------------ calls
    def sweep(self, scenario: Scenario, ways: Iterable[Way]) -> int:
        """Strike at each call in each way; how many faults were met."""
        things = self.things()
        scenario.prepare(things)
        before = things.content()
        scenario.act(things)
        after = things.content()
        things.close()
        met = 0
        for way in ways:
            for call in range(1, LONGEST):
                try:
                    if not self._one(scenario, way, call, before, after):
                        break
                except Exception as error:
                    raise AssertionError(f"{scenario.name!r}: {way}, number {call}: {type(error).__name__}: {error}") from error
                met += 1
            else:
                raise AssertionError(f"{scenario.name!r} makes more than {LONGEST} calls")
        return met

    def _one(self, scenario: Scenario, way: Way, call: int, before: CONTENT, after: CONTENT) -> bool:
        things = self.things()
        scenario.prepare(things)
        assert things.content() == before
        raised = self.strike(way, call, lambda: scenario.act(things))
        struck = self._fired > 0
        found = self.seen_by_both(things, "at once")
        if self.flush_failed():
            return self._restart(things)
        if raised is None:
            assert found == after, f"returned, but there is {found}, not {after}"
        elif isinstance(raised, mqlite.StoreFull) and not scenario.parts:
            assert found == before, f"raised {raised!r}, but there is {found}, not {before}"
        elif not scenario.parts:
            assert found in (before, after), f"raised {raised!r}, and there is {found}, neither {before} nor {after}"
        if found == before != after:
            scenario.act(things)
            found = self.seen_by_both(things, "after it was done again")
            assert found == after, f"done again, there is {found}, not {after}"
        things.queue.put("more", priority=9)
        if not things.queue.is_paused:
            assert things.queue.get(timeout=0) == "more"
        things.close()
        assert not self._raised_in_threads, self._raised_in_threads
        return struck

    def flush_failed(self) -> bool:
        """Whether the store says that its disk can be trusted no more, until the machine is started again."""
        with Control(os.path.join(self.path, "log.control")) as control:
            return bool(control.words[FAILED])

    def _restart(self, things: Things) -> bool:
        """Nothing more is stored, but all is to be seen; after a restart the store is whole, as of its last checkpoint."""
        if self._level == "checkpoint":
            assert self.broker is not None
            with pytest.raises(mqlite.StoreError, match="flush"):
                things.queue.put("refused")
            for message in things.held:
                with contextlib.suppress(mqlite.NotClaimed):
                    message.release()
            with contextlib.suppress(mqlite.StoreError):
                self.broker.close()
            self._start_anew()
            self.broker = opened(self.path, self._level)
            assert self.broker.check() == []
            again = Things(self.broker, self._round)
            again.queue.put("more", priority=9)
            assert again.queue.get(timeout=0) == "more"
        self.another_store()
        return True

    def _start_anew(self) -> None:
        """Another boot, for both processes; this one has closed the store."""
        self._boots += 1
        self._ask("close")
        self._ask("restart", f"boot {self._boots}")
        restart(f"boot {self._boots}")
        self._ask("open", self.path)

    def strike(self, way: Way, call: int, act: Callable[[], Any]) -> Exception | None:
        """What it raised."""
        raised: Exception | None = None
        self._faults.arm(call, call if way.once else 0, way.fault, way.errno, way.kinds, self.path)
        try:
            act()
        except Exception as error:
            raised = error
        finally:
            fired = self._faults.fired
            self._faults.disarm()
        assert raised is None or fired, f"raised without a fault: {raised!r}"
        if raised is not None:
            assert isinstance(raised, mqlite.StoreError), f"no error of ours: {raised!r}" + _cause(raised)
            assert not isinstance(raised, mqlite.StoreCorrupted), f"nothing is damaged: {raised!r}" + _cause(raised)
        self._fired = fired
        return raised

    def seen_by_both(self, things: Things, when: str) -> CONTENT:
        assert self.broker is not None
        found = things.content()
        assert self.broker.check() == [], when
        theirs = self._ask("content", things.number)
        assert theirs == [found, []], f"{when}: there is {found}, but another process sees {theirs}"
        return found

    # ------------------------------------------------------------------ opening, making and closing a store
    def sweep_lifetime(self, name: str, ways: Iterable[Way]) -> int:
        """The same for opening, making and closing a store; how many faults were met."""
        one = {"open": self._open, "open in another boot": self._open_first, "create": self._create, "close": self._close}[name]
        met = 0
        for way in ways:
            self.another_store()
            Things(self.broker, 1).queue.put_many([0, 1, 2])
            self.broker.close()
            self.broker = None
            try:
                for call in range(1, LONGEST):
                    before = _descriptors()
                    one(way, call)
                    left = _descriptors().items() - before.items()
                    assert not left, f"descriptors are left open: {left}"
                    if not self._fired:
                        break
                    met += 1
                else:
                    raise AssertionError(f"more than {LONGEST} calls")
            except Exception as error:
                raise AssertionError(f"{name!r}: {way}, number {call}: {type(error).__name__}: {error}") from error
            if name in ("open", "close"):
                self._ask("close")
            shutil.rmtree(self.path)
        return met

    def _open(self, way: Way, call: int) -> None:
        found: list[mqlite.Broker] = []
        self.strike(way, call, lambda: found.append(opened(self.path, self._level)))
        assert not self.flush_failed()
        for broker in found:
            self._is_whole(broker)
        self._is_whole(opened(self.path, self._level))

    def _open_first(self, way: Way, call: int) -> None:
        if call == 1:
            self._ask("close")
        shutil.rmtree(os.path.join(self.path, "run"))
        self._open(way, call)

    def _create(self, way: Way, call: int) -> None:
        if call == 1:
            self._ask("close")
        shutil.rmtree(self.path)
        found: list[mqlite.Broker] = []
        self.strike(way, call, lambda: found.append(opened(self.path, self._level)))
        for broker in found:
            broker.queue("q").put("kept")
            broker.close()
        with opened(self.path, self._level) as broker:
            queue = broker.queue("q")
            assert queue.qsize() == len(found)
            queue.put("more")
            assert broker.check() == []

    def _close(self, way: Way, call: int) -> None:
        broker = opened(self.path, self._level)
        things = Things(broker, 1)
        assert len(things.queue.receive(2)) == 2
        receipt = things.queue.producer().put(3)
        self.strike(way, call, broker.close)
        broker.close()
        failed = self.flush_failed() and self._level == "checkpoint"  # "process" goes on until the machine stops
        content, wrong = self._ask("content", 1)
        assert wrong == []
        [_, *others], bodies = content[0][0], content[1][0]
        assert others == [0, 0, 0], f"still held: {content}"
        assert receipt.done
        assert bodies == [0, 1, 2] + [3] * (receipt.error is None), f"{receipt.error!r}: {content}"
        if failed:
            self._start_anew()
        with opened(self.path, self._level) as again:
            things = Things(again, 1)
            assert failed or things.content() == content
            ready = things.queue.qsize()
            for message in things.queue.receive(ready):
                if message.body == 3:
                    message.ack()
                else:
                    message.release()
            assert again.check() == []

    def _is_whole(self, broker: mqlite.Broker) -> None:
        things = Things(broker, 1)
        assert things.content()[1][0] == [0, 1, 2]
        things.queue.put("more", priority=9)
        assert things.queue.get(timeout=0) == "more"
        assert broker.check() == []
        broker.close()


def _descriptors() -> dict[str, str]:
    """What this process has open."""
    gc.collect()
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _cause(error: BaseException) -> str:
    import traceback

    return "\n" + "".join(traceback.format_exception(error))


def restart(boot: str) -> None:
    """The machine is another one from now on, as far as this process can see."""
    mqlite.system.directory.boot_id = lambda: boot


def witness(talk: Any, level: str) -> None:
    """The other process."""
    broker: mqlite.Broker | None = None
    while True:
        question, *details = talk.hear(3600)
        if question == "open":
            broker = opened(details[0], level)
            talk.say("opened")
        elif question == "content":
            assert broker is not None
            things = Things(broker, details[0], new=False)
            talk.say([things.content(), broker.check()])
            things.close()
        elif question == "close":
            assert broker is not None
            broker.close()
            talk.say("closed")
        elif question == "restart":
            restart(details[0])
            talk.say("restarted")
        else:
            return


def struck(talk: Any, folder: str, level: str, one_in: int, names: list[str]) -> None:
    """Each scenario is struck in one of so many ways, beginning anywhere: as many runs strike in all of them."""
    turn = itertools.count(int(os.environ.get("MQLITE_SWEEP_SEED", "0")))
    children = Children()

    def some() -> list[Way]:
        return [way for way in WAYS if next(turn) % one_in == 0]

    try:
        stricken = Stricken(folder, level, children.fork(witness, level))
        for scenario in SCENARIOS:
            if not names or scenario.name in names:
                talk.say({"scenario": scenario.name, "met": stricken.sweep(scenario, some())})
        stricken.leave()
        for name in LIFETIME:
            if not names or name in names:
                talk.say({"scenario": name, "met": stricken.sweep_lifetime(name, some())})
        stricken.leave()
    finally:
        children.kill_all()
    talk.say(None)


def reported(striking: Callable[..., None], *arguments: Any) -> str | int:
    """What a process of its own says is printed, so that its crash is told from a failure. Returns how it ended."""
    children = Children()
    child = children.fork(striking, *arguments)
    with contextlib.suppress(EOFError):
        while (found := child.hear(120.0)) is not None:
            print(json.dumps(found), flush=True)
    code = child.wait()
    children.kill_all()
    return f"the process that was struck ended with {code}" if code else 0


def main() -> None:
    folder, level, one_in, *names = sys.argv[1:]
    sys.exit(reported(struck, folder, level, int(one_in), names))


if __name__ == "__main__":
    main()
