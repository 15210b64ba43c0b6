"""Kills a process at points of the front: at the lines that make it, before each store into its file, and around each flush.

A child carries out a script of single operations and says of each that it begins, and that it returned. It is killed at one
moment of that; then another process, which has had the store open all the time or opens it now, looks: each message is in
a state that the words of the child allow, what it held is back with the right blame, and all numbers are right. Now and then
a third one goes on beside it (company.py).

Which moments there are, the child tells in a first run that survives: a point is a line, or an instruction that stores
into the file, and the moments are the times that the script comes by there.
"""

from __future__ import annotations

import dis
import os
import random
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

from crash.company import accompany
from crash.kill_points import SHARED

import mqlite
from mqlite.claims.shared import SharedClaims
from mqlite.engine import looking, passing, sitting
from mqlite.log import folding, front, front_contents, front_flush, front_records, front_removals, lmdb

GUARD = 60.0
PUT, RECEIVE, ACK, ACK_MANY, NACK, RELEASE, GET, OTHER = "put", "receive", "ack", "ack_many", "nack", "release", "get", "other"
#: What a message may have become: it is not there, or there with so many failed deliveries.
GONE = -1
#: A small area: it is full after some ten messages, and one or two are brought at once.
SMALL = {"END": front.START + 1536, "BROUGHT_BYTES": 384, "BROUGHT": 2}
#: Instructions that store into the file, besides a call of `pack_into`.
STORES = ("STORE_SUBSCR", "STORE_SLICE")
#: Levels at which messages pass by.
LEVELS = ("process", "full")


@contextmanager
def always_open(small: bool = False) -> Iterator[None]:
    """Every plain message passes by, in this process and those that it forks; in a `small` area."""
    with mock.patch.object(front, "FEWEST", 0):
        if not small:
            yield
            return
        with mock.patch.multiple(front_records, END=SMALL["END"]), mock.patch.multiple(looking, **SMALL):
            yield


def _body(queue: str, text: str) -> Any:
    return text.encode() if queue == "b" else text


def _text(body: Any) -> str:
    return body.decode() if isinstance(body, bytes) else body


class Hands:
    """What a script works with: queues "a", of texts, and "b", of bytes; each operation is told before and after it."""

    def __init__(self, talk: Any, queues: dict[str, mqlite.Queue[Any]]) -> None:
        self._talk = talk
        self.queues = queues
        self._consumers: dict[str, mqlite.Consumer[Any]] = {}

    def _told(self, what: str, key: Any, carry_out: Callable[[], Any], of: Callable[[Any], Any] = lambda result: None) -> Any:
        self._talk.say([what, key])
        result = carry_out()
        self._talk.say(["returned", of(result)])
        return result

    def put(self, queue: str, body: str, priority: int = 0) -> None:
        self._told(PUT, [queue, body, priority], lambda: self.queues[queue].put(_body(queue, body), priority=priority))

    def receive(self, queue: str) -> mqlite.Message:
        [message] = self._told(RECEIVE, queue, lambda: self.queues[queue].receive(timeout=0), lambda found: [_text(found[0].body), found[0].delivery_count])
        return message

    def prefetched(self, queue: str) -> mqlite.Message:
        """The next one, of three that are claimed together by rows."""
        if queue not in self._consumers:
            self._consumers[queue] = self.queues[queue].consumer(prefetch=3)
        take = self._consumers[queue].receive
        message = self._told(RECEIVE, queue, lambda: take(timeout=0), lambda found: [_text(found.body), found.delivery_count])
        assert isinstance(message, mqlite.Message)
        return message

    def get(self, queue: str) -> Any:
        return self._told(GET, queue, lambda: self.queues[queue].get(timeout=0), _text)

    def ack(self, message: mqlite.Message) -> None:
        self._told(ACK, _text(message.body), message.ack)

    def ack_many(self, queue: str, messages: list[mqlite.Message]) -> None:
        self._told(ACK_MANY, [_text(message.body) for message in messages], lambda: self.queues[queue].ack_many(messages))

    def nack(self, message: mqlite.Message) -> None:
        self._told(NACK, _text(message.body), message.nack)

    def release(self, message: mqlite.Message) -> None:
        self._told(RELEASE, _text(message.body), message.release)

    def other(self, what: Callable[[], Any], expected: Any) -> None:
        """An operation that changes nothing, and what it gives."""
        found = self._told(OTHER, None, what)
        assert found == expected, (found, expected)


def _plain(h: Hands) -> None:
    """Priorities and two queues; some are held, some are tasks, some are left."""
    for number, priority in enumerate((0, 5, 0, -1, 5)):
        h.put("a", f"a{number}", priority)
    h.put("b", "b0")
    h.ack(h.receive("a"))
    assert h.get("a") == "a4"
    h.receive("a")
    h.put("b", "b1", 1)
    h.ack(h.receive("b"))
    h.put("b", "b2", -1)
    h.get("b")
    h.put("b", "b3")
    h.put("b", "b4", 3)
    h.receive("b")
    h.get("b")
    h.put("a", "a5", 9)
    h.ack(h.receive("a"))


def _backlog(h: Hands) -> None:
    """What is in the tree is brought, and claimed and settled among what is new; behind it is more."""
    h.put("a", "new", 1)
    h.ack(h.receive("a"))
    h.receive("a")
    for _ in range(3):
        h.ack(h.receive("a"))
    h.get("a")
    h.put("a", "newer", -1)
    h.receive("a")
    h.other(h.queues["b"].qsize, 6)
    h.ack(h.receive("b"))
    h.get("b")
    h.get("b")
    h.put("b", "new b")
    h.receive("b")


def _full(h: Hands) -> None:
    """The front is folded where it is full, and while it brings."""
    held = []
    for number in range(8):
        h.put("a", f"a{number}", number % 2)
        if number % 3 == 2:
            held.append(h.receive("a"))
        if number == 5:
            h.ack(held.pop(0))
    h.get("b")
    h.ack(held.pop())
    for _ in range(4):
        h.ack(h.receive("b"))


def _given_back(h: Hands) -> None:
    for number in range(5):
        h.put("a", f"a{number}")
    h.ack(h.receive("a"))
    h.nack(h.receive("a"))
    h.put("a", "a5", 1)
    h.ack(h.receive("a"))
    h.ack(h.receive("a"))  # what was given back
    first = h.receive("a")
    h.release(h.receive("a"))
    h.nack(first)
    h.ack(h.receive("a"))
    h.ack(h.receive("a"))
    h.receive("a")


def _folded(h: Hands) -> None:
    """Other operations come in between; what is held is settled in the tree then."""
    a = h.queues["a"]
    for number in range(3):
        h.put("a", f"a{number}")
    held = h.receive("a")
    h.other(lambda: a.stats().claimed, 1)
    h.put("a", "a3", 2)
    h.ack(held)
    held = h.receive("a")
    h.other(a.qsize, 2)
    h.nack(held)
    h.other(lambda: len(list(a.browse())), 3)
    h.put("a", "a4")
    h.ack(h.receive("a"))


def _tasks(h: Hands) -> None:
    a = h.queues["a"]
    for number in range(4):
        h.put("a", f"a{number}")
    h.get("a")
    h.get("a")
    h.other(lambda: a.unfinished_tasks, 4)
    h.other(a.task_done, None)
    h.other(lambda: a.unfinished_tasks, 3)
    h.get("a")
    h.put("a", "a4")
    h.other(a.task_done, None)
    h.other(lambda: a.unfinished_tasks, 3)
    b = h.queues["b"]
    for number in range(4):
        h.put("b", f"b{number}")
    h.ack(h.receive("b"))
    h.get("b")
    h.get("b")
    h.other(lambda: b.unfinished_tasks, 3)
    h.put("b", "b4")
    h.get("b")
    h.other(b.task_done, None)
    h.other(b.task_done, None)
    h.other(lambda: b.unfinished_tasks, 2)


def _rows(h: Hands) -> None:
    """What was claimed by rows is settled, one by one and together, among puts, and folds, and others that claim."""
    held = [h.prefetched("a") for _ in range(2)]
    h.ack(held.pop(0))
    h.put("a", "low", -5)
    h.ack(h.prefetched("a"))
    h.ack(h.prefetched("a"))  # of the next three
    h.ack_many("a", [held.pop(), h.prefetched("a")])
    h.other(lambda: h.queues["a"].stats().dead, 0)
    h.ack(h.prefetched("a"))
    h.ack(h.prefetched("b"))
    h.put("a", "high", 5)
    h.ack(h.prefetched("b"))
    h.nack(h.prefetched("b"))
    h.ack(h.receive("a"))
    h.ack(h.prefetched("b"))
    h.prefetched("b")


def _rows_full(h: Hands) -> None:
    """There is no room for the settlements of all, nor for what is put among them."""
    for number in range(13):
        h.ack(h.prefetched("a"))
        if number in (6, 9):
            h.put("a", f"low {number}", -5)
        if number % 2:
            h.ack(h.prefetched("b"))
    h.ack_many("b", [h.prefetched("b") for _ in range(2)])
    h.prefetched("a")


Script = Callable[[Hands], None]
#: name -> (script, messages of "a" and "b" that are in the tree before, whether the area is small)
SCRIPTS: dict[str, tuple[Script, int, bool]] = {
    "plain": (_plain, 0, False),
    "backlog": (_backlog, 6, False),
    "full": (_full, 5, True),
    "given back": (_given_back, 0, False),
    "folded": (_folded, 0, False),
    "tasks": (_tasks, 0, False),
    "rows": (_rows, 6, False),
    "rows, full": (_rows_full, 18, True),
}


# ---------------------------------------------------------------------- points
def _codes() -> dict[Any, bool]:
    """Code whose lines are points; whether its stores are, too: those into the file of the front."""
    found: dict[Any, bool] = {}
    with_stores, others = (front, front_records, front_flush), (folding, front_contents, front_removals, looking, sitting, passing)
    for module, stores in [*((module, True) for module in with_stores), *((module, False) for module in others)]:
        for thing in vars(module).values():
            functions = vars(thing).values() if isinstance(thing, type) else [thing]
            for function in functions:
                code = getattr(function, "__code__", None)
                if code is not None and code.co_filename == module.__file__:
                    found[code] = stores
    for function in (SharedClaims.take_over, SharedClaims.let_go, lmdb.LmdbLog._store_front):
        found[function.__code__] = False
    return found


class Sweep(Protocol):
    """Kills one process after the other. one(script, moment): at that moment (0: never); moments(script): of each point."""

    kills: int

    def moments(self, script: str) -> dict[str, list[int]]: ...
    def one(self, script: str, moment: int) -> list[str]: ...


def kill_at_points(sweep: Sweep, script: str, most: int | None, chance: random.Random, *, passing_by: str) -> None:
    """Each of so many points (None: all), at one of the moments at which the script comes by. passing_by: among them."""
    moments = sweep.moments(script)
    points = sorted(moments)
    assert any(passing_by in point for point in points), f"nobody came by {passing_by}"
    if most is not None:
        points = chance.sample(points, min(most, len(points)))
    for point in points:
        moment = chance.choice(moments[point])
        try:
            sweep.one(script, moment)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{script!r}, killed at {point}, moment {moment}: {error}") from error
    print(f"{script}: {len(moments)} points, {sum(map(len, moments.values()))} moments, {sweep.kills} kills")
    assert sweep.kills > len(points) // 2


class Points:
    """Watches this thread as it comes by. die_at: the how manieth time kills it; 0: none. codes: see `_codes`."""

    def __init__(self, die_at: int, codes: dict[Any, bool] | None = None) -> None:
        self.passed: list[str] = []
        self._die_at = die_at
        self._codes = _codes() if codes is None else codes
        self._stores: dict[Any, set[int]] = {
            code: {each.offset for each in dis.get_instructions(code) if each.opname in STORES or each.argval == "pack_into"}
            for code, stores in self._codes.items()
            if stores
        }

    def watch(self) -> None:
        sys.settrace(self._enter)

    def _enter(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes = frame.f_code in self._stores
        return self._local

    def _local(self, frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if event == "line" or (event == "opcode" and frame.f_lasti in self._stores[code]):
            where = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}{'' if event == 'line' else f' +{frame.f_lasti}'}"
            self.passed.append(where)
            if len(self.passed) == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._local


# ---------------------------------------------------------------------- books
class Books:
    """What each message may have become, by the words of the child."""

    def __init__(self, backlog: int) -> None:
        self.places: dict[str, tuple[str, int, int]] = {}  # body -> queue, minus the priority, number: its place in line
        self.states: dict[str, set[int]] = {}
        for queue in ("a", "b"):
            for number in range(backlog):
                self._add(f"old {queue}{number}", queue, number % 2)
        self._held: dict[str, int] = {}
        self.unsure: list[tuple[str, str]] = []  # what was under way, and in which queue: one message at most is touched

    def _add(self, body: str, queue: str, priority: int, *states: int) -> None:
        self.places[body] = queue, -priority, len(self.places)
        self.states[body] = set(states or (0,))

    def read(self, words: list[list[Any]]) -> None:
        """All that the child has said."""
        for number in range(0, len(words), 2):
            what, key = words[number]
            returned = number + 1 < len(words)
            self._note(what, key, returned, words[number + 1][1] if returned else None)
        for body, count in self._held.items():  # the holder is dead
            self.states[body] = {count + 1}

    def _note(self, what: str, key: Any, returned: bool, result: Any) -> None:
        if what == PUT:
            queue, body, priority = key
            self._add(body, queue, priority, *(() if returned else (0, GONE)))
        elif what == RECEIVE and returned:
            body, count = result
            assert {count} == self.states[body], f"{body} was delivered with {count}, not {self.states[body]}"
            self._check_first(key, body)
            self._held[body] = count
        elif what == GET and returned:
            self._check_first(key, result)
            self.states[result] = {GONE}
        elif what in (RECEIVE, GET):
            self.unsure.append((what, key))
        elif what in (ACK, ACK_MANY, NACK, RELEASE):
            for body in key if what == ACK_MANY else [key]:
                count = self._held.pop(body)
                after = {NACK: count + 1, RELEASE: count}.get(what, GONE)
                self.states[body] = {after} if returned else {after, count + 1}

    def _check_first(self, queue: str, body: str) -> None:
        ready = [place for key, place in self.places.items() if place[0] == queue and self.states[key] != {GONE} and key not in self._held]
        assert self.places[body] == min(ready), f"{body} came before its turn"

    def check(self, left: dict[str, list[tuple[str, int]]]) -> None:
        """Of what was found: per queue, (body, delivery_count) in the order of delivery."""
        found = {body: count for messages in left.values() for body, count in messages}
        assert sum(map(len, left.values())) == len(found), f"something is there twice: {left}"
        assert found.keys() <= self.states.keys(), f"invented: {left}"
        for queue, messages in left.items():
            places = [self.places[body] for body, _ in messages]
            assert places == sorted(places), f"not in order: {left}"
            assert all(place[0] == queue for place in places), f"in another queue: {left}"
        wrong = {body: (found.get(body, GONE), states) for body, states in self.states.items() if found.get(body, GONE) not in states}
        for what, queue in self.unsure:
            for body, (state, states) in list(wrong.items())[:1]:
                if self.places[body][0] == queue and {state - (what == RECEIVE)} == states if what == RECEIVE else state == GONE:
                    del wrong[body]
        assert not wrong, f"body: (found, allowed): {wrong}; all: {left}"


# ---------------------------------------------------------------------- kills
class FrontSweep:
    """Each death on queues of its own; SHARED of them in one store."""

    def __init__(self, folder: str, children: Any, chance: random.Random, level: str) -> None:
        self._folder = folder
        self._level = level
        self._children = children
        self._chance = chance
        self._path = ""
        self._round = 0
        self.kills = 0

    def moments(self, name: str) -> dict[str, list[int]]:
        """point -> the moments at which the script comes by there, in a run that survives."""
        found: dict[str, list[int]] = defaultdict(list)
        for moment, where in enumerate(self.one(name, 0), start=1):
            found[where].append(moment)
        return found

    def one(self, name: str, moment: int) -> list[str]:
        """Kill at that moment (0: never), and look. All points that the child came by, if it survived."""
        script, backlog, small = SCRIPTS[name]
        with always_open(small):
            if self._round % SHARED == 0:
                shutil.rmtree(self._path, ignore_errors=True)
                self._path = os.path.join(self._folder, f"swept{self._round}.mq")
                mqlite.open(self._path, durability=self._level).close()
            self._round += 1
            names = {queue: f"{queue}{self._round}" for queue in ("a", "b")}
            with mqlite.open(self._path) as broker:
                for queue in ("a", "b"):
                    for priority in (0, 1) if backlog else ():
                        own = [f"old {queue}{number}" for number in range(backlog) if number % 2 == priority]
                        broker.queue(names[queue], max_deliveries=None).put_many([_body(queue, body) for body in own], priority=priority)
                    broker.queue(names[queue], max_deliveries=None)
            kept = mqlite.open(self._path) if self._chance.random() < 0.5 else None
            try:
                return self._one(script, backlog, names, kept, moment)
            finally:
                if kept is not None:
                    kept.close()
                self._children.kill_all()

    def _one(self, script: Script, backlog: int, names: dict[str, str], kept: mqlite.Broker | None, moment: int) -> list[str]:
        child = self._children.fork(self._act, script, names, moment)
        assert child.hear() == "ready"
        if kept is not None:  # it passes by, too
            kept.queue("kept").put("kept")
        company = self._children.fork(accompany, self._path) if moment and self._chance.random() < 0.2 else None
        assert company is None or company.hear() == "goes on"
        child.say("go")
        words: list[Any] = []
        passed: list[str] = []
        try:
            while True:
                word = child.hear()
                if word[0] == "survived":
                    passed = word[1]
                    child.kill()  # it holds some still
                else:
                    words.append(word)
        except (EOFError, ConnectionResetError):
            pass
        assert child.wait() == -signal.SIGKILL
        self.kills += not passed
        if company is not None:
            company.say("end")
            assert company.hear() == []
        books = Books(backlog)
        books.read(words)
        broker = kept or mqlite.open(self._path)
        try:
            self._look(broker, books, names)
        finally:
            if kept is None:
                broker.close()
        return passed

    def _act(self, talk: Any, script: Script, names: dict[str, str], moment: int) -> None:
        broker = mqlite.open(self._path)
        hands = Hands(talk, {queue: broker.queue(name) for queue, name in names.items()})
        own = broker.queue("own")
        own.put("own")
        own.receive(timeout=0)[0].ack()  # now it knows who is there
        points = Points(moment)
        talk.say("ready")
        talk.hear()
        points.watch()
        script(hands)
        sys.settrace(None)
        talk.say(["survived", points.passed])
        talk.hear(3600)

    def _look(self, broker: mqlite.Broker, books: Books, names: dict[str, str]) -> None:
        first = self._chance.choice(("put", "take", "count", "check"))
        queues = {queue: broker.queue(name) for queue, name in names.items()}
        if first == "put":  # goes on at once
            for queue in queues.values():
                queue.put("after", priority=-9, timeout=0)
        elif first == "check":
            assert broker.check() == []
        elif first == "count":
            for name, queue in queues.items():
                stats = queue.stats()
                low = sum(GONE not in states for body, states in books.states.items() if books.places[body][0] == name)
                assert (stats.claimed, stats.dead) == (0, 0), stats
                assert stats.ready >= low - sum(what == GET for what, _ in books.unsure), (stats, books.states)
                assert queue.unfinished_tasks == queue.qsize() == stats.ready
        left = {}
        for name, queue in queues.items():
            before = None if first == "take" else queue.stats().ready
            left[name] = [(body, count) for body, count in _drained(queue) if body != "after"]
            assert before in (None, len(left[name]) + (first == "put")), (before, left)
        books.check(left)
        assert broker.check() == []
        for queue in queues.values():
            stats = queue.stats()
            assert (stats.ready, stats.claimed, stats.dead, queue.unfinished_tasks) == (0, 0, 0, 0), stats
            queue.put("after", timeout=0)
            assert queue.get(timeout=GUARD) == "after"
            queue.task_done()


def _drained(queue: mqlite.Queue[Any]) -> Iterator[tuple[str, int]]:
    while True:
        try:
            [message] = queue.receive(timeout=0)
        except mqlite.Empty:
            return
        yield _text(message.body), message.delivery_count
        message.ack()
