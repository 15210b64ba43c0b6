"""A second storm, over queues with policies: what each of them promises, though processes are killed all the time.

The children of storm.py, on nine queues of one store. From all journals together:

    lost        a put that returned, and is neither delivered nor left, cancelled, expired or dropped
    invented    delivered or left, but never attempted, or refused by Full
    after ack   delivered or left after an ack, a reject or a cancel that returned
    shared      delivered again while its holder lived and had not given it back
    overtaken   of a group: delivered before the one ahead was settled, or after one behind it
    expired     dead of old age before its time, twice, or as well as acknowledged; or not dead for another reason
    dropped     gone from the bounded queue, though many that are older were left and nobody had held them
    repeated    a dedup_id that was stored twice, or a put of it that returned another id
    unscheduled not one message for each firing
    seated      a consumer got a message while the one with the seat lived
    cancelled   cancel said that there is no such message, and there was

All of these must be empty. A line of a journal: time in ns, word, queue, key, further numbers.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crash.storm import Journal, Storm
from polling import until

import mqlite
from mqlite.engine import timers

GROUPED, FAIR, EXPIRING, BOUNDED, DEDUP, CANCELLED, SEATED = "grouped", "fair", "expiring", "bounded", "dedup", "cancelled", "seated"
EACH, ONE = "each firing", "one for all"
SETTLED = (GROUPED, FAIR, EXPIRING, BOUNDED, DEDUP, CANCELLED)  # what consumers take; SEATED has its own
MAXSIZE = 200
BOUND = 30
SHORT, LONG = 0.06, 3600.0
EVERY = 0.05
#: How often producers come to the same new dedup_id.
DEDUP_NS = 20_000_000
WRONG = ("lost", "invented", "after ack", "shared", "overtaken", "expired", "dropped", "repeated", "unscheduled", "seated", "cancelled")
OPTIONS: dict[str, dict[str, Any]] = {
    GROUPED: {"maxsize": MAXSIZE},
    FAIR: {"maxsize": MAXSIZE, "fair": True},
    EXPIRING: {"maxsize": MAXSIZE},
    BOUNDED: {"maxsize": BOUND, "overflow": "drop_oldest"},
    DEDUP: {"maxsize": MAXSIZE},
    CANCELLED: {"maxsize": MAXSIZE},
    SEATED: {"maxsize": MAXSIZE},
    EACH: {},
    ONE: {},
}


def _queues(path: str) -> dict[str, mqlite.Queue[Any]]:
    return {name: mqlite.Queue(name, path) for name in OPTIONS}


# ---------------------------------------------------------------------- the children
def produce(path: str, folder: str, child: int, seed: int) -> None:
    """Puts on all queues by turns, and cancels some, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    queues = _queues(path)
    mine: list[tuple[str, int]] = []  # on CANCELLED
    for number in itertools.count():
        name = chance.choice((GROUPED, GROUPED, FAIR, EXPIRING, BOUNDED, BOUNDED, DEDUP, CANCELLED, SEATED))
        queue = queues[name]
        key = f"{child}-{number}"
        options: dict[str, Any] = {}
        if name == GROUPED or (name == FAIR and chance.random() < 0.8):
            options["group"] = f"group{chance.randrange(6)}"
        elif name == EXPIRING:
            short = chance.random() < 0.4
            key += "s" if short else "l"
            options["ttl"] = SHORT if short else LONG
        elif name == DEDUP:
            key = str(time.monotonic_ns() // DEDUP_NS)
            options["dedup_id"] = key
        journal.note("try", (name, key))
        try:
            if name in (GROUPED, FAIR) and chance.random() < 0.3:
                [message_id] = queue.put_many([key], timeout=0.02, **options)
            else:
                message_id = queue.put(key, timeout=0.02, **options)
        except mqlite.Full:
            journal.note("refused", (name, key))
            continue
        journal.note("put", (name, key, message_id))
        if name == CANCELLED:
            mine.append((key, message_id))
            if len(mine) > 3 and chance.random() < 0.5:
                key, message_id = mine.pop(chance.randrange(len(mine)))
                journal.note("cancelling", (name, key))
                try:
                    gone = queue.cancel(message_id)
                except mqlite.AlreadyClaimed:
                    journal.note("claimed", (name, key))
                else:
                    journal.note("cancelled" if gone else "absent", (name, key))


def consume(path: str, folder: str, child: int, seed: int) -> None:
    """Takes from one queue and waits for it, or from all by turns; mostly acks, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    queues = _queues(path)
    names = [*SETTLED, EACH, ONE]
    if chance.random() < 0.5:
        names = [chance.choice(names)]
    while True:
        name = chance.choice(names)
        queue = queues[name]
        try:
            messages = queue.receive(chance.randint(1, 4), timeout=0.01 if len(names) > 1 else None)
        except mqlite.Empty:
            continue
        journal.note("got", *(_got(name, message) for message in messages))
        if name == BOUNDED:
            stats = queue.stats()
            assert stats.ready + stats.claimed <= BOUND, stats
            time.sleep(0.002)  # slower than the producers
        _settle(queue, name, messages, journal, chance)


def _settle(queue: mqlite.Queue[Any], name: str, messages: list[mqlite.Message], journal: Journal, chance: random.Random) -> None:
    if chance.random() < 0.3:
        keys = [(name, message.body) for message in messages]
        journal.note("acking", *keys)
        queue.ack_many(messages)
        journal.note("ack", *keys)
        return
    for message in messages:
        key = (name, message.body)
        way = chance.random()
        if way < 0.8 or name in (EACH, ONE):
            journal.note("acking", key)
            message.ack()
            journal.note("ack", key)
        elif way < 0.85 and name in (GROUPED, FAIR):
            journal.note("acking", key)
            message.reject()
            journal.note("ack", key)
        elif way < 0.93:
            journal.note("back", key)
            message.nack(delay=chance.choice((None, 0.004)))
        else:
            journal.note("back", key)
            message.release()


def _got(name: str, message: mqlite.Message) -> tuple[Any, ...]:
    return name, message.body, message.id, message.group or "-", message.acquired_count


def take_over(path: str, folder: str, child: int, seed: int) -> None:
    """Waits for the seat, then takes, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    consumer = mqlite.Queue[Any](SEATED, path).consumer(mode="failover", prefetch=chance.randint(1, 4))
    while True:
        message = consumer.receive()
        journal.note("got", _got(SEATED, message))
        journal.note("acking", (SEATED, message.body))
        message.ack()
        journal.note("ack", (SEATED, message.body))


def operate(path: str, folder: str, child: int, seed: int) -> None:
    """Pauses and resumes queues, changes limits, defines the same schedules again, until killed."""
    chance = random.Random(seed)
    queues = _queues(path)
    for queue in queues.values():
        queue.resume()  # as the one before may have died in between
    while True:
        queue = queues[chance.choice((GROUPED, EXPIRING, FAIR))]
        queue.pause()
        time.sleep(0.003)
        queue.resume()
        queues[FAIR].configure(max_deliveries=None, rate=chance.choice((None, 2000)))
        time.sleep(0.02)


ROLES = (produce, produce, produce, consume, consume, consume, consume, take_over, take_over, operate)


# ---------------------------------------------------------------------- the storm
@dataclass
class Event:
    """One line of a journal."""

    moment: int
    child: int
    word: str
    queue: str
    key: str
    number: int = 0
    group: str = "-"


class PolicyStorm(Storm):
    """Its own queues, roles and books."""

    def __init__(self, folder: str, children: Any, seed: int) -> None:
        super().__init__(folder, children, seed)
        self._first_ns: dict[str, int] = {}
        self.wrong: dict[str, list[str]] = {word: [] for word in WRONG}

    def blow(self, seconds: float) -> dict[str, Any]:
        """The storm, and what the journals say."""
        with mqlite.open(self._path) as broker:
            for name, options in OPTIONS.items():
                queue = broker.queue(name, max_deliveries=None, **options)
                if name in (EACH, ONE):
                    queue.schedule("tick", "tick", every=EVERY, catch_up="all" if name == EACH else "one")
                    [(_, self._first_ns[name])] = timers.found(queue._engine, queue._state)
        for role in ROLES:
            self._start(role)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.expovariate(1 / 0.15))
            for victim in self._chance.sample(range(len(ROLES)), self._chance.choice((1, 1, 2, 4))):
                self._kill(victim)
                self._start(ROLES[victim], victim)
        self._end()
        return self._balance()

    # ------------------------------------------------------------------ the books
    def _events(self) -> list[Event]:
        events = []
        for child, line in self._lines():
            moment, word, rest = line.split(" ", 2)
            queue, key, *more = rest.rstrip("\n").rsplit(" ", {"got": 4, "put": 2}.get(word, 1))
            event = Event(int(moment), child, word, queue, key)
            if more:
                event.number = int(more[0])
            if len(more) > 1:
                event.group = more[1]
            events.append(event)
        return sorted(events, key=lambda event: event.moment)

    def _drain(self, queue: mqlite.Queue[Any], name: str, letters: bool = False) -> Iterator[Event]:
        """What is left, as if a last consumer had come; taken in the order of the queue."""
        while True:
            try:
                messages = queue.receive(64, timeout=0)
            except mqlite.Empty:
                if not queue.stats().delayed:
                    return
                until(lambda: queue.stats().ready or not queue.stats().delayed)
                continue
            for message in messages:
                event = Event(time.monotonic_ns(), -1, "left", name, message.body, message.id, message.group or "-")
                yield event
                if letters:
                    assert message.death is not None
                    age = (message.death.died_at - message.enqueued_at).total_seconds()
                    # a busy machine may have stopped who puts between its looks at the two clocks that age is made of
                    if message.death.reason == "expired" and age < SHORT * 0.75:
                        self.wrong["expired"].append(f"{message.body} at the age of {age}")
                    expected = "expired" if name == EXPIRING else "rejected"
                    if message.death.reason != expected:
                        self.wrong["expired"].append(f"{message.body} is dead: {message.death.reason}")
                elif message.acquired_count == 1:
                    self._untouched[name].append(message.id)
            queue.ack_many(messages)

    def _balance(self) -> dict[str, Any]:
        events = self._events()
        self._untouched: dict[str, list[int]] = defaultdict(list)
        letters: dict[str, list[Event]] = {}
        firings = {}
        with mqlite.open(self._path) as broker:
            assert broker.check() == []
            for name in (EACH, ONE):
                queue = broker.queue(name)
                queue.stats()
                [(_, due_ns)] = timers.found(queue._engine, queue._state)
                assert queue.unschedule("tick")
                firings[name] = round((due_ns - self._first_ns[name]) / (EVERY * 1e9))
            for name in OPTIONS:
                queue = broker.queue(name)
                queue.resume()
                queue.configure(rate=None)
                events += self._drain(queue, name)
                letters[name] = list(self._drain(queue.dead, name, letters=True))
                stats = queue.stats()
                assert stats.ready == stats.claimed == stats.delayed == stats.dead == 0, stats
            assert broker.check() == []
        for name in OPTIONS:
            books = _Books(name, [event for event in events if event.queue == name], letters[name], self._deaths, self.wrong)
            books.balance(self._untouched[name], firings.get(name))
        words = Counter(event.word for event in events)
        moments = [event.moment for event in events if event.word in ("put", "ack")]
        return {
            **self.wrong,
            "kills": self.kills,
            "words": words,
            "dead": {name: len(found) for name, found in letters.items() if found},
            "firings": firings,
            "acks": Counter(event.queue for event in events if event.word == "ack"),
            "longest pause": max((after - before for before, after in itertools.pairwise(moments)), default=0) / 1e9,
        }


class _Books:
    """One queue."""

    def __init__(self, name: str, events: list[Event], letters: list[Event], deaths: dict[int, int], wrong: dict[str, list[str]]) -> None:
        self._name = name
        self._events = events
        self._letters = letters
        self._deaths = deaths
        self._wrong = wrong
        by_message = name in (EACH, ONE)  # all bodies are the same, and got by id only
        self._came = [event for event in events if event.word in ("got", "left")]
        self._of: dict[str, list[Event]] = defaultdict(list)
        if not by_message:
            for event in events:
                self._of[event.key].append(event)

    def balance(self, untouched: list[int], firings: int | None) -> None:
        """All that this queue promises."""
        if firings is not None:
            found = {event.number for event in self._came}
            if len(found) > firings or (self._name == EACH and len(found) != firings):
                self._note("unscheduled", f"{len(found)} messages of {firings} firings")
            return
        for key, events in self._of.items():
            self._one(key, events)
        if self._name in (GROUPED, FAIR):
            self._groups()
        if self._name == EXPIRING:
            self._expired()
        if self._name == BOUNDED:
            self._dropped(untouched)
        if self._name == DEDUP:
            self._repeated()
        if self._name == SEATED:
            self._seated()

    def _note(self, word: str, what: str) -> None:
        self._wrong[word].append(f"{self._name}: {what}")

    def _one(self, key: str, events: list[Event]) -> None:
        words = {event.word for event in events}
        came = [event for event in events if event.word in ("got", "left")]
        dead = any(event.key == key for event in self._letters)
        if came and "try" not in words:
            self._note("invented", key)
        if came and "refused" in words and self._name != DEDUP:
            self._note("invented", f"{key} was refused")
        gone = next((event.moment for event in events if event.word in ("ack", "cancelled")), None)
        if gone is not None and any(event.moment > gone for event in came):
            self._note("after ack", key)
        if "put" in words and not came and not dead and "cancelling" not in words and self._name != BOUNDED:
            self._note("lost", key)
        settled_by_somebody = "acking" in words or any(event.word == "left" for event in events)
        if "put" in words and came and not settled_by_somebody and not dead and not words & {"cancelling"} and self._name != BOUNDED:
            self._note("lost", f"{key}, after it was delivered")
        if "cancelled" in words and words & {"ack", "left"}:
            self._note("after ack", f"{key} was cancelled")
        if "absent" in words and "acking" not in words:
            self._note("cancelled", key)
        for before, after in itertools.pairwise(came):
            if not self._let_go(before, after.moment):
                self._note("shared", f"{key} of {before.child} came to {after.child}")

    def _let_go(self, got: Event, moment: int) -> bool:
        """Whether by then its holder had settled it, had given it back, or was about to be killed."""
        if got.child == -1:
            return True
        if self._deaths[got.child] <= moment:
            return True
        words = ("back", "acking")
        return any(event.word in words and event.child == got.child and got.moment <= event.moment <= moment for event in self._of[got.key])

    def _groups(self) -> None:
        """One in flight, in order of their ids, and none is passed over."""
        groups: dict[str, list[Event]] = defaultdict(list)
        for event in self._came:
            if event.group != "-":
                groups[event.group].append(event)
        for came in groups.values():
            for before, after in itertools.pairwise(came):
                if after.number < before.number:
                    self._note("overtaken", f"{after.key} came after {before.key}")
                elif after.number > before.number:
                    settled = any(event.word == "acking" and event.moment <= after.moment for event in self._of[before.key])
                    if not settled and before.child != -1:
                        self._note("overtaken", f"{after.key} came before {before.key} was settled")
                if not self._let_go(before, after.moment):
                    self._note("shared", f"{before.key} and {after.key} of one group")

    def _expired(self) -> None:
        for key, times in Counter(event.key for event in self._letters).items():
            words = {event.word for event in self._of[key]}
            if times > 1 or not key.endswith("s") or words & {"ack", "left"}:
                self._note("expired", f"{key}: {times} times, {words}")

    def _dropped(self, untouched: list[int]) -> None:
        """Those that were dropped are older than what nobody has touched since, but for what a producer was about to drop
        when it was killed, or when a consumer made room.
        """
        came = {event.key for event in self._came}
        newest = max((event.number for event in self._events if event.word == "put" and event.key not in came), default=0)
        passed_over = [number for number in untouched if number < newest]
        if len(passed_over) > 2 * ROLES.count(produce):
            self._note("dropped", f"up to {newest}, but not {passed_over}")

    def _repeated(self) -> None:
        for key, events in self._of.items():
            ids = {event.number for event in events if event.word in ("put", "got", "left")}
            if len(ids) > 1:
                self._note("repeated", f"{key}: {sorted(ids)}")

    def _seated(self) -> None:
        for before, after in itertools.pairwise(self._came):
            if before.child not in (-1, after.child) and self._deaths[before.child] > after.moment:
                self._note("seated", f"{after.child} while {before.child} lived")
