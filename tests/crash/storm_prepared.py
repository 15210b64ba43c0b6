"""A storm over prepared messages: preparers, deciders, checkers and consumers are killed at random moments and replaced.

What becomes of a message says a row of the table "local", written once, by its preparer or by the first
that is asked and finds none. Consumers count in the table "sent", in the transaction that acknowledges.
From both, and the journals ("<time> <word> <key>"):

    lost         to be sent, and never came               must be 0
    unwanted     not to be sent, and came                 must be 0
    twice        came more than once                      must be 0
    invented     never prepared, and came or has a row    must be 0
    undecided    prepared, and has no row in the end      must be 0
    dead         a dead letter                            must be 0
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from crash.storm import Journal, Storm

import mqlite

OUT, NEWS = "out", "news"
MAXSIZE = 60
WRONG = ("lost", "unwanted", "twice", "invented", "undecided", "dead")
ASKED_OFTEN = 1_000_000


class Overruled(Exception):
    """Somebody was asked before the local transaction was done, and has said no."""


class Handles:
    """What a process has open."""

    def __init__(self, path: str) -> None:
        self.broker = mqlite.open(path)
        self.out = self.broker.queue(OUT, maxsize=MAXSIZE, max_deliveries=None)
        self.news = self.broker.topic(NEWS)
        self.targets: tuple[Any, ...] = (self.out, self.news)

    def verdict(self, message: Any) -> bool:
        """What the local table says; where it says nothing, that is no from now on."""

        def look(tx: mqlite.Transaction) -> bool:
            return bool(tx.table("local").setdefault(message.body, False))

        return self.broker.run(look, attempts=1000)


def keep(tx: mqlite.Transaction, key: str, send: bool) -> None:
    """The local transaction."""
    table = tx.table("local")
    if key in table:
        raise Overruled
    table[key] = send


def decide(prepared: Any, send: bool, **options: Any) -> None:
    """As the table says."""
    if send:
        prepared.commit(**options)
    else:
        prepared.rollback(**{name: value for name, value in options.items() if name == "tx"})


# ---------------------------------------------------------------------- who takes part
def prepare(path: str, folder: str, child: int, seed: int) -> None:
    """Prepares; does its own transaction; decides with it, after it, or not at all; until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    handles = Handles(path)
    broker = handles.broker
    for number in itertools.count():
        key, send = f"{child}-{number}", chance.random() < 0.7
        journal.note("preparing", (key,))
        prepared = chance.choice(handles.targets).prepare(key, check_after=chance.choice((0, 0.01, 0.05)), priority=chance.choice((0, 0, 1)))
        journal.note("prepared", (key,))
        way = chance.random()
        with contextlib.suppress(Overruled, mqlite.AlreadyDecided, mqlite.Full, mqlite.Conflict):
            if way < 0.4:
                with broker.transaction(timeout=0.2) as tx:
                    keep(tx, key, send)
                    decide(prepared, send, tx=tx)
            elif way < 0.9:
                broker.run(lambda tx, key=key, send=send: keep(tx, key, send))  # type: ignore[misc]
                if way < 0.8:
                    decide(prepared, send, timeout=0.2)


def check(path: str, folder: str, child: int, seed: int) -> None:
    """Is asked, and answers; now and then does not know, or fails; until killed."""
    chance = random.Random(seed)
    handles = Handles(path)

    def answer(message: mqlite.Message) -> bool | None:
        way = chance.random()
        if way < 0.1:
            return None
        if way < 0.2:
            raise ZeroDivisionError
        return handles.verdict(message)

    for target in handles.targets:
        target.check_back(answer, interval=0.01, max_checks=ASKED_OFTEN)
    threading.Event().wait()


def decide_for_others(path: str, folder: str, child: int, seed: int) -> None:
    """Decides what it finds, whoever has prepared it and whoever is asked, until killed."""
    chance = random.Random(seed)
    handles = Handles(path)
    while True:
        found = chance.choice(handles.targets).prepared()
        for prepared in chance.sample(found, min(len(found), 5)):
            with contextlib.suppress(mqlite.AlreadyDecided, mqlite.Full):
                decide(prepared, handles.verdict(prepared), timeout=0.05)
        time.sleep(chance.uniform(0, 0.01))


def count(path: str, folder: str, child: int, seed: int) -> None:
    """Takes what was sent, and counts it, until killed."""
    handles = Handles(path)
    while True:
        count_next(handles, None)


def count_next(handles: Handles, timeout: float | None) -> None:
    """Raises Empty."""
    [message] = handles.out.receive(timeout=timeout)
    with message, contextlib.suppress(mqlite.Conflict, mqlite.LeaseLost), handles.broker.transaction() as tx:
        sent = tx.table("sent")
        sent[message.body] = sent.get(message.body, 0) + 1
        message.ack(tx=tx)


ROLES: tuple[Callable[..., None], ...] = (prepare, prepare, prepare, check, check, decide_for_others, count, count)


# ---------------------------------------------------------------------- the books
def balance(local: Mapping[str, bool], sent: Mapping[str, int], begun: Iterable[str], done: Iterable[str], dead: Iterable[str]) -> dict[str, list[str]]:
    """What is wrong, by word. begun: a prepare was called; done: it returned."""
    known = set(begun)
    return {
        "lost": [key for key, send in local.items() if send and key not in sent],
        "unwanted": [key for key in sent if not local.get(key, False)],
        "twice": [key for key, times in sent.items() if times != 1],
        "invented": [key for key in {*local, *sent} if key not in known],
        "undecided": [key for key in done if key not in local],
        "dead": list(dead),
    }


# ---------------------------------------------------------------------- the storm
class PreparedStorm(Storm):
    """Its own roles and books."""

    def blow(self, seconds: float) -> dict[str, Any]:
        """The storm, and what the tables say."""
        handles = Handles(self._path)
        handles.news.bind(handles.out)
        handles.broker.close()
        for role in ROLES:
            self._start(role)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.expovariate(1 / 0.1))
            victims = self._chance.sample(range(len(ROLES)), self._chance.choice((1, 1, 2, 3)))
            for victim in victims:
                self._kill(victim)
            for victim in victims:
                self._start(ROLES[victim], victim)
        self._end()
        return self._balanced()

    def _balanced(self) -> dict[str, Any]:
        handles = Handles(self._path)
        broker = handles.broker
        assert broker.check() == []
        left = sum(len(target.prepared()) for target in handles.targets)
        answer = handles.verdict
        checks = [target.check_back(answer, interval=0.01, max_checks=ASKED_OFTEN) for target in handles.targets]
        while any(target.prepared() for target in handles.targets):
            with contextlib.suppress(mqlite.Empty):
                count_next(handles, 0.01)
        for each in checks:
            each.close()
        with contextlib.suppress(mqlite.Empty):
            while True:
                count_next(handles, 0)
        stats = handles.out.stats()
        assert stats.ready == stats.claimed == stats.delayed == 0, stats
        dead = [message.body for queue in (handles.out.dead, handles.news.dead) for message in queue.browse()]
        words: dict[str, set[str]] = {"preparing": set(), "prepared": set()}
        for _, line in self._lines():
            _, word, key = line.split()
            words[word].add(key)
        local, sent = dict(broker.table("local")), dict(broker.table("sent"))
        assert broker.check() == []
        broker.close()
        books = balance(local, sent, words["preparing"], words["prepared"], dead)
        return {**books, "kills": self.kills, "prepared": len(words["prepared"]), "sent": len(sent), "forgotten": len(local) - len(sent), "left": left}
