"""A storm: producers and consumers on one store are killed at random moments and replaced; then the books are balanced.

Each process notes, with one write(2) per line, what it is about to do and what
returned. A SIGKILL loses none of these lines. From all journals together:

    lost         a put that returned, neither delivered nor left           must be 0
    invented     delivered or left, but never attempted                    must be 0
    after ack    delivered, or left, after an ack that returned            must be 0
    shared       delivered again while its holder lived and had not given it back   must be 0
    blameless    delivered again without a delivery_count that tells of it  must be 0
    disordered   first deliveries to one consumer not in order of put within a priority   must be 0
    twice        taken by get() and seen again                             must be 0
    gaps         taken by get() of a killed process and not noted: at most one for each kill

    duplicates   delivered more than once, for a reason                    allowed

A line: time in ns, word, message key, further numbers; all separated by blanks. A
message key is "<child>-<number>"; bodies are [key, padding].
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import mqlite

JOBS, NOTES = "jobs", "notes"  # settled by hand; taken by get()
PRIORITIES = (0, 0, 1, 5)
MAXSIZE = 400


class Journal:
    """What one child notes."""

    def __init__(self, folder: str, child: int) -> None:
        self._fd = os.open(os.path.join(folder, f"journal-{child}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, word: str, *entries: tuple[Any, ...]) -> None:
        now = time.monotonic_ns()
        os.write(self._fd, "".join(f"{now} {word} {' '.join(map(str, entry))}\n" for entry in entries).encode())


def produce(path: str, folder: str, child: int, seed: int) -> None:
    """put, put_many and a producer handle, by turns, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    jobs: mqlite.Queue[Any] = mqlite.Queue(JOBS, path)
    notes: mqlite.Queue[Any] = mqlite.Queue(NOTES, path)
    producer = jobs.producer()
    number = 0

    def bodies(count: int) -> list[list[str]]:
        nonlocal number
        made = [[f"{child}-{number + n}", "x" * chance.choice((0, 90, 90, 900, 9000))] for n in range(count)]
        number += count
        return made

    while True:
        way = chance.randrange(4)
        count = 1 if way in (0, 3) else chance.randint(2, 12)
        made = bodies(count)
        keys = [(key, NOTES if way == 3 else JOBS) for key, _ in made]
        journal.note("try", *keys)
        if way == 0:
            jobs.put(made[0], priority=chance.choice(PRIORITIES))
        elif way == 1:
            jobs.put_many(made, priority=chance.choice(PRIORITIES))
        elif way == 2:
            for body in made:
                producer.put(body, priority=chance.choice(PRIORITIES))
            producer.flush()
        else:
            notes.put(made[0])
        journal.note("put", *keys)


def consume(path: str, folder: str, child: int, seed: int) -> None:
    """A consumer with prefetch, or receive and ack_many; mostly acks, some nacks and releases, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    jobs: mqlite.Queue[Any] = mqlite.Queue(JOBS, path)
    consumer = jobs.consumer(prefetch=chance.randint(1, 8))
    alone = chance.random() < 0.5

    def got(message: mqlite.Message) -> tuple[Any, ...]:
        return message.body[0], message.delivery_count, message.acquired_count, message.priority, message.id, int(message.redelivered)

    while True:
        if alone:
            messages = [consumer.receive()]
        else:
            messages = jobs.receive(chance.randint(1, 6))
            assert messages == sorted(messages, key=lambda m: -m.priority), "a batch is not in order of priority"
        journal.note("got", *map(got, messages))
        way = chance.random()
        keys = [(message.body[0],) for message in messages]
        if way < 0.85:
            journal.note("acking", *keys)
            if len(messages) == 1:
                messages[0].ack()
            else:
                jobs.ack_many(messages)
            journal.note("ack", *keys)
            continue
        for message in messages:
            step = "nack" if way < 0.95 else "release"
            journal.note(step, (message.body[0],))
            getattr(message, step)()


def get(path: str, folder: str, child: int, seed: int) -> None:
    """get(), until killed."""
    journal = Journal(folder, child)
    notes: mqlite.Queue[Any] = mqlite.Queue(NOTES, path)
    while True:
        key, _ = notes.get()
        journal.note("took", (key,))
        notes.task_done()


ROLES = (produce, produce, produce, consume, consume, consume, get)


class Storm:
    """Runs the children, kills them, and balances the books."""

    def __init__(self, folder: str, children: Any, seed: int, level: str = "full") -> None:
        self._level = level
        self._folder = folder
        self._path = os.path.join(folder, "storm.mq")
        self._children = children
        self._chance = random.Random(seed)
        self._running: list[tuple[int, Any]] = []
        self._roles: dict[int, Callable[..., None]] = {}
        self._deaths: dict[int, int] = {}
        self.kills = 0

    def blow(self, seconds: float) -> dict[str, Any]:
        """The storm, and what the journals say."""
        with mqlite.open(self._path, durability=self._level) as broker:
            broker.queue(JOBS, maxsize=MAXSIZE, max_deliveries=None)
            broker.queue(NOTES, maxsize=MAXSIZE, max_deliveries=None)
        for role in ROLES:
            self._start(role)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.expovariate(1 / 0.04))
            victims = self._chance.sample(range(len(self._running)), self._chance.choice((1, 1, 1, 2, 3)))
            for victim in victims:
                self._kill(victim)
            for victim in victims:
                self._start(self._roles[self._running[victim][0]], victim)
        self._end()
        return self._balance()

    def _start(self, role: Callable[..., None], place: int | None = None) -> None:
        number = len(self._roles)
        self._roles[number] = role
        seed = self._chance.randrange(1 << 30)
        child = self._children.fork(lambda talk: role(self._path, self._folder, number, seed))
        if place is None:
            self._running.append((number, child))
        else:
            self._running[place] = (number, child)

    def _kill(self, place: int) -> None:
        number, child = self._running[place]
        self._deaths[number] = time.monotonic_ns()
        child.kill()
        self.kills += 1
        if child.status != -signal.SIGKILL:
            raise AssertionError(f"child {number} ended by itself: {child.hear()}")

    def _end(self) -> None:
        for victim in range(len(self._running)):
            self._kill(victim)
        self._children.kill_all()

    # ------------------------------------------------------------------ the books
    def _lines(self) -> Iterator[tuple[int, str]]:
        """(child, line) of all journals. A kill may cut a write(2) where a page ends: what it was to say was not done yet,
        or was not told.
        """
        for name in os.listdir(self._folder):
            if name.startswith("journal-"):
                child = int(name.removeprefix("journal-"))
                with open(os.path.join(self._folder, name), encoding="ascii") as journal:
                    for line in journal:
                        if line.endswith("\n"):
                            yield child, line

    def _events(self) -> list[tuple[int, int, str, list[str]]]:
        """(time, child, word, words), in order of time."""
        events = []
        for child, line in self._lines():
            moment, word, *rest = line.split()
            events.append((int(moment), child, word, rest))
        return sorted(events, key=lambda event: event[0])

    def _left(self) -> dict[str, list[tuple[str, int]]]:
        """What is left in each queue, taken by a process that comes after the storm."""
        left: dict[str, list[tuple[str, int]]] = {}
        with mqlite.open(self._path) as broker:
            assert broker.check() == []
            for name in (JOBS, NOTES):
                queue = broker.queue(name)
                left[name] = []
                while True:
                    try:
                        messages = queue.receive(64, timeout=0)
                    except mqlite.Empty:
                        break
                    left[name] += [(message.body[0], message.delivery_count) for message in messages]
                    queue.ack_many(messages)
                assert queue.stats().claimed == queue.stats().ready == queue.stats().dead == 0
            assert broker.check() == []
        return left

    def _balance(self) -> dict[str, Any]:
        tried: set[str] = set()
        put: dict[str, str] = {}
        acked: set[str] = set()
        taken: Counter[str] = Counter()
        deliveries: dict[str, list[tuple[int, int, int]]] = defaultdict(list)  # (time, child, delivery_count)
        given_back: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        newest: dict[tuple[int, int], int] = {}
        events = self._events()
        moments = [moment for moment, _, word, _ in events if word in ("put", "ack", "took")]
        wrong: dict[str, list[str]] = {word: [] for word in ("lost", "invented", "after ack", "shared", "blameless", "disordered", "twice")}
        for moment, child, word, words in events:
            key = words[0]
            if word == "try":
                tried.add(key)
            elif word == "put":
                put[key] = words[1]
            elif word == "got":
                count, acquired, priority, number, redelivered = map(int, words[1:])
                if key in acked:
                    wrong["after ack"].append(key)
                if (acquired > 1) != bool(redelivered):
                    wrong["blameless"].append(f"{key}: acquired {acquired} times, redelivered is {redelivered}")
                if acquired == 1:
                    if newest.get((child, priority), 0) > number:
                        wrong["disordered"].append(key)
                    newest[child, priority] = number
                self._compare(key, deliveries[key], given_back, moment, child, count, wrong)
                deliveries[key].append((moment, child, count))
            elif word in ("nack", "release"):
                given_back[key, child].append((moment, word))
            elif word == "ack":
                acked.add(key)
            elif word == "took":
                taken[key] += 1
        left = self._left()
        for key, count in left[JOBS]:
            if key in acked:
                wrong["after ack"].append(key)
            self._compare(key, deliveries[key], given_back, time.monotonic_ns(), -1, count, wrong)
        known = {*deliveries, *taken, *(key for entries in left.values() for key, _ in entries)}
        wrong["twice"] = [key for key, times in (taken + Counter(key for key, _ in left[NOTES])).items() if times > 1]
        wrong["twice"] += [key for key, times in Counter(key for key, _ in left[JOBS]).items() if times > 1]
        wrong["invented"] = sorted(known - tried)
        absent = put.keys() - known
        wrong["lost"] = sorted(key for key in absent if put[key] == JOBS)
        gaps = sum(1 for key in absent if put[key] == NOTES)
        return {
            **wrong,
            "kills": self.kills,
            "kills of get": sum(1 for number in self._deaths if self._roles[number] is get),
            "gaps": gaps,
            "puts": len(put),
            "recovered": len(known - put.keys()),
            "acks": len(acked),
            "taken": len(taken),
            "left": sum(map(len, left.values())),
            "duplicates": sum(len(came) - 1 for came in deliveries.values()),
            "longest pause": max((after - before for before, after in itertools.pairwise(moments)), default=0) / 1e9,
        }

    def _compare(
        self,
        key: str,
        before: list[tuple[int, int, int]],
        given_back: dict[tuple[str, int], list[tuple[int, str]]],
        moment: int,
        child: int,
        count: int,
        wrong: dict[str, list[str]],
    ) -> None:
        """A delivery against the one before it: why did that end, and does the count tell?"""
        if not before:
            return
        since, holder, counted = before[-1]
        back = [word for when, word in given_back[key, holder] if since <= when <= moment]
        if not back and (holder == child or self._deaths[holder] > moment):
            wrong["shared"].append(f"{key} of {holder} came to {child}")
        blamed = 0 if back == ["release"] else 1
        if count < counted + blamed:
            wrong["blameless"].append(f"{key}: {counted}, then {count} after {back or 'a death'}")
