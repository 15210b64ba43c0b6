"""A storm over topics: publishers, consumers, seekers and guests are killed at random moments and replaced; then the books are
balanced.

Journals as in storm.py: "<time> <word> <place> <key> ...", a place being a subscription or a queue, or the topic that something is
published to. From all of them together, for each place that gets the message:

    lost         a publish that returned, neither delivered nor left, or delivered and then gone without an ack    must be 0
    invented     delivered or left, but never attempted, or not wanted                                             must be 0
    after ack    delivered, or left, after an ack that returned (and no seek since)                                must be 0
    twice        one publish, two ids in one place                                                                 must be 0
    shared       delivered again while its holder lived and had not given it back (and no seek since)              must be 0
    wills        of a killed process: not published once; or published though it was withdrawn                     must be 0

Whoever seeks goes to "earliest"; what the topic had trimmed by then may be gone.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from crash.storm import Journal, Storm
from polling import until

import mqlite

NEWS, LOG = "news", "log"
KEPT = 200
TOPICS: dict[str, dict[str, Any]] = {NEWS: {}, LOG: {"retention": "limits", "max_messages": KEPT}}
#: place -> (topic, what its keys begin with)
PLACES = {"all": (NEWS, ""), "some": (NEWS, "a"), "jobs": (NEWS, "a"), "steady": (LOG, ""), "seeker": (LOG, "")}
SUBSCRIPTIONS = [place for place in PLACES if place != "jobs"]
BOUNDED = {"some": {"maxsize": 400}}
WRONG = ("lost", "invented", "after ack", "twice", "shared", "wills")


class Handles:
    """What a process has open."""

    def __init__(self, path: str) -> None:
        self.broker = mqlite.open(path)
        self.topics = {name: self.broker.topic(name, max_deliveries=None, **options) for name, options in TOPICS.items()}
        self.queue = self.broker.queue("jobs", max_deliveries=None, maxsize=300)
        self.places: dict[str, Any] = {"jobs": self.queue}

    def place(self, name: str) -> Any:
        if name not in self.places:
            topic, word = PLACES[name]
            self.places[name] = self.topics[topic].subscribe(name, f"{word}.#" if word else "#", **BOUNDED.get(name, {}))
        return self.places[name]


# ---------------------------------------------------------------------- who takes part
def publish(path: str, folder: str, child: int, seed: int) -> None:
    """publish and publish_many, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    topics = Handles(path).topics
    for number in itertools.count():
        name, routing_key = chance.choice((NEWS, NEWS, LOG)), chance.choice(("a.x", "a.y.z", "b"))
        count = chance.choice((1, 1, 1, 5))
        keys = [f"{routing_key[0]}-{child}-{number}-{n}" for n in range(count)]
        bodies = [[key, "x" * chance.choice((0, 90, 3000))] for key in keys]
        options: dict[str, Any] = {"retain": chance.random() < 0.1, "priority": chance.choice((0, 0, 1))}
        journal.note("try", *((name, key) for key in keys))
        if count == 1:
            ids = [topics[name].publish(bodies[0], routing_key, **options)]
        else:
            ids = topics[name].publish_many(bodies, routing_key, **options)
        journal.note("put", *((name, key, int(number)) for key, number in zip(keys, ids, strict=True)))


def consume(path: str, folder: str, child: int, seed: int) -> None:
    """Takes from all places by turns, until killed; mostly acks."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    handles = Handles(path)
    while True:
        place = chance.choice(list(PLACES))
        with contextlib.suppress(mqlite.Empty, mqlite.LeaseLost):
            take(handles, place, journal, chance)


def take(handles: Handles, place: str, journal: Journal, chance: random.Random) -> None:
    asked = time.monotonic_ns()
    messages = handles.place(place).receive(chance.randint(1, 8), timeout=0.005)
    journal.note("got", *((place, message.body[0], message.id, asked) for message in messages))
    if chance.random() < 0.4:
        keys = [(place, message.body[0]) for message in messages]
        journal.note("acking", *keys)
        handles.place(place).ack_many(messages)
        journal.note("ack", *keys)
        return
    for message in messages:
        key, way = (place, message.body[0]), chance.random()
        if way < 0.85:
            journal.note("acking", key)
            message.ack()
            journal.note("ack", key)
        elif way < 0.9:
            journal.note("back", key)
            message.reject()
        else:
            journal.note("back", key)
            message.nack(delay=chance.choice((None, 0.004)))


def seek(path: str, folder: str, child: int, seed: int) -> None:
    """Goes back to the earliest, takes for a while, and goes back again, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    handles = Handles(path)
    while True:
        journal.note("seeking", ("seeker", "-"))
        handles.place("seeker").seek("earliest")
        journal.note("sought", ("seeker", "-"))
        end = time.monotonic() + chance.uniform(0.01, 0.2)
        while time.monotonic() < end:
            with contextlib.suppress(mqlite.Empty, mqlite.LeaseLost):
                take(handles, "seeker", journal, chance)


def visit(path: str, folder: str, child: int, seed: int) -> None:
    """Subscriptions that come and go, as long as their process or not, with a will each time, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    topics = Handles(path).topics
    for number in itertools.count():
        key = f"a-will-{child}-{number}"
        journal.note("willing", (NEWS, key))
        will = topics[NEWS].will([key, ""], "a.will")
        journal.note("willed", (NEWS, key))
        topic = topics[chance.choice((NEWS, LOG))]
        durable = chance.random() < 0.5
        guest = topic.subscribe(f"guest-{child}-{number}", chance.choice(("#", "a.#")), start=chance.choice(("latest", "earliest")), durable=durable)
        for _ in range(chance.randint(0, 3)):
            with contextlib.suppress(mqlite.Empty):
                guest.ack_many(guest.receive(20, timeout=0.01))
        if chance.random() < 0.3:
            with contextlib.suppress(mqlite.Empty):
                guest.receive(5, timeout=0)
        if durable:
            topic.unsubscribe(guest.name)
        guest.close()
        journal.note("closing", (NEWS, key))
        will.close()
        journal.note("closed", (NEWS, key))


ROLES = (publish, publish, publish, consume, consume, consume, seek, visit, visit)


# ---------------------------------------------------------------------- the books
@dataclass
class Event:
    """One line of a journal. asked: of what was got, when the call began."""

    moment: int
    child: int
    word: str
    place: str
    key: str
    id: int = 0
    asked: int = 1 << 62


class Books:
    """What was promised, and what came. deaths: child -> when it was about to be killed."""

    def __init__(self, events: Iterable[Event], deaths: dict[int, int]) -> None:
        self._events = sorted(events, key=lambda event: event.moment)
        self._deaths = deaths
        self._by_key: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in self._events:
            self._by_key[event.place, event.key].append(event)
        self._seeks = self._intervals()
        self._of_log = sorted(event.moment for event in self._events if event.word == "put" and event.place == LOG)
        self.wrong: dict[str, list[str]] = {word: [] for word in WRONG}

    def _intervals(self) -> list[tuple[int, int]]:
        """(begin, end) of all seeks. One that never returned is finished by who comes by, with the next one at the latest."""
        found: list[tuple[int, int]] = []
        begun: list[int] = []
        for event in self._events:
            if event.word == "seeking":
                begun.append(event.moment)
            elif event.word == "sought":  # there is one seeker at a time
                found += [(moment, event.moment) for moment in begun]
                begun = []
        return found + [(moment, 1 << 62) for moment in begun]

    def balance(self) -> dict[str, list[str]]:
        """What is wrong, by word."""
        published = {(event.place, event.key) for event in self._events if event.word in ("try", "willing")}
        put = {(event.place, event.key): event for event in self._events if event.word == "put"}
        for place, (topic, word) in PLACES.items():
            for key in [key for where, key in self._by_key if where == place and key != "-"]:
                if (topic, key) not in published or not key.startswith(word):
                    self.wrong["invented"].append(f"{place}: {key}")
                self._delivered(place, self._by_key[place, key])
            for (where, key), event in put.items():
                if where == topic and key.startswith(word):
                    self._arrived(place, key, event)
        self._wills()
        return self.wrong

    def _arrived(self, place: str, key: str, put: Event) -> None:
        events = self._by_key[place, key]
        if place == "seeker" and any(self._trimmed(put, end) for _, end in self._seeks):
            return
        came = any(event.word in ("got", "left", "dead") for event in events)
        settled = any(event.word in ("acking", "left", "dead") for event in events)
        if not came or not settled:
            self.wrong["lost"].append(f"{place}: {key}" + (" after it was delivered" if came else ""))

    def _trimmed(self, put: Event, until: int) -> bool:
        """Whether a message may have been trimmed by then: of those that came after it, some are not known to have returned."""
        return sum(put.moment < moment <= until for moment in self._of_log) > KEPT // 2

    def _sought(self, since: int, until: int) -> bool:
        """Whether a seek may have brought a message again that was settled, or held, at one time and came at another."""
        return any(begin <= until and since <= end for begin, end in self._seeks)

    def _delivered(self, place: str, events: list[Event]) -> None:
        came = [event for event in events if event.word in ("got", "left", "dead")]
        if place == "seeker":  # what was rejected stays among the dead, and is replayed
            came = [event for event in came if event.word != "dead"]
        if len({event.id for event in came}) > 1:
            self.wrong["twice"].append(f"{place}: {events[0].key}")
        for ack in (event for event in events if event.word == "ack"):
            acked = max(event.moment for event in events if event.word == "acking" and event.child == ack.child and event.moment <= ack.moment)
            for event in came:
                if event.moment > ack.moment and not (place == "seeker" and self._sought(min(acked, event.asked), event.moment)):
                    self.wrong["after ack"].append(f"{place}: {event.key}")
        for before, after in itertools.pairwise(came):
            if before.child == -1 or self._deaths.get(before.child, 1 << 62) <= after.moment:
                continue
            let_go = any(e.word in ("back", "acking") and e.child == before.child and before.moment <= e.moment <= after.moment for e in events)
            if not let_go and not (place == "seeker" and self._sought(min(before.asked, before.moment), after.moment)):
                self.wrong["shared"].append(f"{place}: {before.key} of {before.child} came to {after.child}")

    def _wills(self) -> None:
        for (place, key), events in list(self._by_key.items()):
            words = {event.word for event in events}
            if place != NEWS or "willing" not in words:
                continue
            ids = {event.id for event in self._by_key["all", key] if event.word in ("got", "left", "dead")}
            must = "willed" in words and "closing" not in words
            may = "closed" not in words
            if len(ids) > may or len(ids) < must:
                self.wrong["wills"].append(f"{key}: published {len(ids)} times, {sorted(words)}")


# ---------------------------------------------------------------------- the storm
class TopicStorm(Storm):
    """Its own roles and books."""

    def blow(self, seconds: float) -> dict[str, Any]:
        """The storm, and what the journals say."""
        handles = Handles(self._path)
        for place in SUBSCRIPTIONS:
            handles.place(place)
        handles.topics[NEWS].bind(handles.queue, "a.#")
        handles.topics[NEWS].bind(handles.queue, "a.x")
        handles.broker.close()
        for role in ROLES:
            self._start(role)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.expovariate(1 / 0.12))
            victims = self._chance.sample(range(len(ROLES)), self._chance.choice((1, 1, 2, 4)))
            for victim in victims:
                self._kill(victim)
            for victim in victims:
                self._start(ROLES[victim], victim)
        self._end()
        return self._balanced()

    def _noted(self) -> Iterator[Event]:
        for child, line in self._lines():
            moment, word, place, key, *more = line.split()
            yield Event(int(moment), child, word, place, key, *map(int, more))

    def _drained(self, taker: Any, place: str, word: str = "left") -> Iterator[Event]:
        while True:
            try:
                messages = taker.receive(64, timeout=0)
            except mqlite.Empty:
                if not taker.stats().delayed:
                    return
                until(lambda: taker.stats().ready or not taker.stats().delayed)
                continue
            for message in messages:
                yield Event(time.monotonic_ns(), -1, word, place, message.body[0], message.id)
            taker.ack_many(messages)

    def _balanced(self) -> dict[str, Any]:
        events = list(self._noted())
        for _ in range(2):  # wills that found no room come when the store is opened the next time
            handles = Handles(self._path)
            broker, topics = handles.broker, handles.topics
            problems = broker.check()
            assert problems == [], problems
            for place in PLACES:
                taker = handles.place(place)
                events += self._drained(taker, place)
                with taker.dead as dead:
                    events += self._drained(dead, place, "dead")
                stats = taker.stats()
                assert stats.ready == stats.claimed == stats.delayed == stats.dead == 0, stats
            broker.close()
        handles = Handles(self._path)
        broker, topics = handles.broker, handles.topics
        for name, topic in topics.items():
            for guest in set(topic.subscriptions()) - set(SUBSCRIPTIONS):
                assert topic.unsubscribe(guest)
            kept = {m.id for m in topic.retained()}
            stats = topic.stats()
            assert stats.stored <= (stats.retained if name == LOG else 0) + len(kept), (name, stats)
        problems = broker.check()
        assert problems == [], problems
        broker.close()
        books = Books(events, self._deaths)
        words: dict[str, int] = defaultdict(int)
        for event in events:
            words[event.word] += 1
        return {**books.balance(), "kills": self.kills, "words": dict(words)}


