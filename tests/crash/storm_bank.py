"""A storm over a bank: who sends transfers, moves money, archives receipts and adds up is killed at random moments and replaced; then
the books are balanced.

A transfer is one transaction: two balances are read and written, a receipt is put, an event is published, the message is
acknowledged. Journals as in storm.py: "<time> <word> <key> ..."; a key is that of a transfer. From all of them together:

    lost         a transfer whose put returned, without a receipt                                    must be 0
    doubled      a transfer with two receipts                                                        must be 0
    invented     a receipt for a transfer that nobody tried to send                                  must be 0
    undone       a transfer whose commit returned, without a receipt                                 must be 0
    sums         somebody read a sum of all balances that was never there                            must be 0
    balances     a receipt that does not follow from those before it, or an account that does not
                 follow from all of them                                                             must be 0
    audit        events that are not those of the receipts, each once, in the order of the commits   must be 0
    dead         dead letters that are not the transfers whose receipts say so                       must be 0

Receipts find no room at times, and their archivist moves them from the queue to the table "archive", each in one transaction.

The negative control: workers who acknowledge in another commit, before the transaction or after it (HOWS), stop between the two
now and then, until they are killed.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crash.storm import Journal, Storm

import mqlite

ACCOUNTS, OPENING = 6, 100
TOTAL = ACCOUNTS * OPENING
AHEAD, ROOM = 60, 20  # transfers, receipts
ANY = 1_000_000  # attempts
DONE, REFUSED, REJECTED = "done", "refused", "rejected"
#: How a worker acknowledges: in the transaction, or in a commit of its own.
INSIDE, AFTER, BEFORE = HOWS = ("inside", "after", "before")
WRONG = ("lost", "doubled", "invented", "undone", "sums", "balances", "audit", "dead")

Transfer = list[Any]  # key, source, target, amount
Receipt = list[Any]  # key, source, target, amount, outcome, balance of the source, balance of the target


class Bank:
    """What a process has open."""

    def __init__(self, path: str) -> None:
        self.broker = mqlite.open(path)
        self.transfers: mqlite.Queue[Transfer] = self.broker.queue("transfers", max_deliveries=None, maxsize=AHEAD)
        self.receipts: mqlite.Queue[Receipt] = self.broker.queue("receipts", max_deliveries=None, maxsize=ROOM)
        self.audit: mqlite.Topic[list[str]] = self.broker.topic("audit")
        self.auditor = self.audit.subscribe("auditor")

    def found(self) -> None:
        """All accounts have the same at first."""
        self.broker.table("balances").update(dict.fromkeys(range(ACCOUNTS), OPENING))

    def move(self, tx: mqlite.Transaction, message: mqlite.Message, how: str, hopeless: str) -> None:
        """All that a transfer means; the acknowledgement only if `how` is INSIDE. hopeless: REFUSED or REJECTED."""
        key, source, target, amount = message.body
        balances = tx.table("balances")
        enough = balances[source] >= amount
        if enough:
            balances[source] -= amount
            balances[target] += amount
        outcome = DONE if enough else hopeless if how == INSIDE else REFUSED
        self.receipts.put([*message.body, outcome, balances[source], balances[target]], tx=tx)
        self.audit.publish([key, outcome], outcome, tx=tx)
        if outcome == REJECTED:
            message.reject("not enough money", tx=tx)
        elif how == INSIDE:
            message.ack(tx=tx)

    def total(self) -> int:
        """The sum of all balances at one moment."""
        return int(self.broker.run(lambda tx: sum(tx.table("balances").values()), attempts=ANY))

    def archive(self, timeout: float) -> None:
        """Move some receipts to the table "archive", which makes room. Raises Empty."""
        messages = self.receipts.receive(8, timeout)
        with self.broker.transaction() as tx:
            tx.table("archive").update({message.id: message.body for message in messages})
            self.receipts.ack_many(messages, tx=tx)


# ---------------------------------------------------------------------- who takes part
def send(path: str, folder: str, child: int, seed: int) -> None:
    """put, put_many and transactions, by turns, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    bank = Bank(path)
    for number in itertools.count():
        made: list[Transfer] = []
        for n in range(chance.choice((1, 1, 1, 4))):
            source, target = chance.sample(range(ACCOUNTS), 2)
            made.append([f"{child}-{number}-{n}", source, target, chance.randint(1, OPENING)])
        keys = [(transfer[0],) for transfer in made]
        journal.note("try", *keys)
        if len(made) == 1:
            bank.transfers.put(made[0])
        elif chance.random() < 0.5:
            bank.transfers.put_many(made)
        else:
            with bank.broker.transaction(timeout=None) as tx:
                for transfer in made:
                    bank.transfers.put(transfer, tx=tx)
        journal.note("put", *keys)


def work(path: str, folder: str, child: int, seed: int, how: str = INSIDE) -> None:
    """Transfers, one or several in a transaction, until killed; now and then one that comes to nothing."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    bank = Bank(path)
    while True:
        messages = bank.transfers.receive(1 if how != INSIDE else chance.choice((1, 1, 3)))
        keys = [(message.body[0],) for message in messages]
        if how != INSIDE:
            serve_in_two_commits(bank, journal, messages[0], how, stops=chance.random() < 0.3)
            continue
        way = chance.random()
        if way < 0.9:
            hopeless = chance.choice((REFUSED, REJECTED))

            def move(tx: mqlite.Transaction, messages: list[mqlite.Message] = messages, hopeless: str = hopeless) -> None:
                for message in messages:
                    bank.move(tx, message, INSIDE, hopeless)

            bank.broker.run(move, attempts=ANY, timeout=None)
            journal.note("done", *keys)
        elif way < 0.95:
            try:
                with bank.broker.transaction() as tx:
                    for message in messages:
                        message.nack(delay=chance.choice((None, 0.004)), tx=tx)
                    tx.table("failures")["all"] = tx.table("failures").get("all", 0) + 1
            except mqlite.Conflict:  # another worker has failed, too
                release(messages)
        else:
            with contextlib.suppress(ZeroDivisionError, mqlite.Conflict), bank.broker.transaction() as tx:
                for message in messages:
                    bank.move(tx, message, INSIDE, REFUSED)
                raise ZeroDivisionError
            release(messages)


def release(messages: list[mqlite.Message]) -> None:
    """After a rollback they are still held."""
    for message in messages:
        message.release()


def serve_in_two_commits(bank: Bank, journal: Journal, message: mqlite.Message, how: str, stops: bool) -> None:
    """What must not be done. stops: between the two, and waits to be killed."""

    def move(tx: mqlite.Transaction) -> None:
        bank.move(tx, message, how, REFUSED)

    steps: list[Callable[[], Any]] = [message.ack, lambda: bank.broker.run(move, attempts=ANY, timeout=None)]
    first, second = steps if how == BEFORE else reversed(steps)
    first()
    if stops:
        journal.note("between", (message.body[0],))
        while True:
            signal.pause()
    second()
    journal.note("done", (message.body[0],))


def archive(path: str, folder: str, child: int, seed: int) -> None:
    """Makes room for receipts, until killed."""
    bank = Bank(path)
    while True:
        bank.archive(60)


def look(path: str, folder: str, child: int, seed: int) -> None:
    """Adds up at random moments, until killed."""
    chance = random.Random(seed)
    journal = Journal(folder, child)
    bank = Bank(path)
    while True:
        time.sleep(chance.expovariate(1 / 0.0005))
        journal.note("sum", (bank.total(),))


ROLES = (send, send, work, work, work, archive, look)


# ---------------------------------------------------------------------- the books
@dataclass
class Found:
    """What the journals say, and what is in the store when all is over."""

    tried: set[str] = field(default_factory=set)
    put: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    sums: Counter[int] = field(default_factory=Counter)
    receipts: list[Receipt] = field(default_factory=list)  # in the order of their commits
    events: list[list[str]] = field(default_factory=list)  # likewise: key, outcome
    balances: dict[int, int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)


def balance(found: Found) -> dict[str, list[str]]:
    """What is wrong, by word."""
    wrong: dict[str, list[str]] = {word: [] for word in WRONG}
    receipts = Counter(receipt[0] for receipt in found.receipts)
    wrong["lost"] = sorted(found.put - receipts.keys())
    wrong["undone"] = sorted(found.done - receipts.keys())
    wrong["invented"] = sorted(receipts.keys() - found.tried)
    wrong["doubled"] = sorted(key for key, times in receipts.items() if times > 1)
    wrong["sums"] = [f"{total} was read {times} times" for total, times in found.sums.items() if total != TOTAL]
    if sum(found.balances.values()) != TOTAL:
        wrong["sums"].append(f"{found.balances} is left")
    balances = dict.fromkeys(range(ACCOUNTS), OPENING)
    for key, source, target, amount, outcome, *after in found.receipts:
        if (outcome == DONE) != (balances[source] >= amount):
            wrong["balances"].append(f"{key} was {outcome} with {balances[source]} of {amount}")
        if outcome == DONE:
            balances[source] -= amount
            balances[target] += amount
        if after != [balances[source], balances[target]]:
            wrong["balances"].append(f"{key} left {after} and not {balances[source], balances[target]}")
            balances[source], balances[target] = after  # each mistake is told once
    if balances != found.balances:
        wrong["balances"].append(f"all receipts together give {balances}, and there is {found.balances}")
    expected = [[receipt[0], receipt[4]] for receipt in found.receipts]
    if found.events != expected:
        events, wanted = Counter(map(tuple, found.events)), Counter(map(tuple, expected))
        differ = [f"too many: {event}" for event in events - wanted] + [f"missing: {event}" for event in wanted - events]
        wrong["audit"] = differ or ["not in the order of the receipts"]
    rejected = Counter(receipt[0] for receipt in found.receipts if receipt[4] == REJECTED)
    dead = Counter(found.dead)
    wrong["dead"] = sorted([*(dead - rejected).elements(), *(rejected - dead).elements()])
    return wrong


# ---------------------------------------------------------------------- the storm
def archive_all(bank: Bank) -> None:
    """Until no receipt is left in the queue."""
    with contextlib.suppress(mqlite.Empty):
        while True:
            bank.archive(0)


def read(bank: Bank, found: Found) -> None:
    """What is in the store. The last transfers are made first, by somebody who makes no mistakes."""
    archive_all(bank)
    while bank.transfers.unfinished_tasks:
        with contextlib.suppress(mqlite.Empty):  # some wait for their time
            for message in bank.transfers.receive(timeout=0.05):
                with bank.broker.transaction() as tx:
                    bank.move(tx, message, INSIDE, REFUSED)
        archive_all(bank)
    found.receipts = [receipt for _, receipt in bank.broker.table("archive").items()]
    found.balances = dict(bank.broker.table("balances"))
    found.events = [message.body for message in bank.auditor.browse()]
    found.dead = [message.body[0] for message in bank.transfers.dead.browse()]
    found.sums[bank.total()] += 1


class BankStorm(Storm):
    """Its own roles and books. how: as HOWS."""

    def __init__(self, folder: str, children: Any, seed: int, how: str = INSIDE) -> None:
        super().__init__(folder, children, seed)
        self._how = how

    def blow(self, seconds: float) -> dict[str, Any]:
        """The storm, and what the journals say."""
        bank = Bank(self._path)
        bank.found()
        bank.broker.close()
        for role in ROLES:
            self._start(self._role(role))
        end = time.monotonic() + seconds
        while time.monotonic() < end or not self._was_between():
            time.sleep(self._chance.expovariate(1 / 0.08))
            victims = self._chance.sample(range(len(ROLES)), self._chance.choice((1, 1, 1, 2, 3)))
            for victim in victims:
                self._kill(victim)
            for victim in victims:
                self._start(self._role(ROLES[victim]), victim)
        self._end()
        return self._balanced()

    def _role(self, role: Callable[..., None]) -> Callable[..., None]:
        if role is not work:
            return role
        return lambda *arguments: work(*arguments, how=self._how)

    def _was_between(self) -> bool:
        """Whether somebody stopped between two commits, if anybody does that; he is killed there at the latest when all is over."""
        if self._how == INSIDE:
            return True
        noted = list(self._noted())
        put = {key for word, key in noted if word == "put"}
        return any(word == "between" and key in put for word, key in noted)

    def _noted(self) -> Iterable[tuple[str, str]]:
        for _, line in self._lines():
            _, word, key = line.split()
            yield word, key

    def _balanced(self) -> dict[str, Any]:
        keys: dict[str, list[str]] = defaultdict(list)
        for word, key in self._noted():
            keys[word].append(key)
        found = Found(set(keys["try"]), set(keys["put"]), set(keys["done"]), Counter(map(int, keys["sum"])))
        bank = Bank(self._path)
        assert bank.broker.check() == []
        read(bank, found)
        stats = [queue.stats() for queue in (bank.transfers, bank.receipts)]
        assert all(each.ready == each.claimed == each.delayed == 0 for each in stats), stats
        assert bank.broker.check() == []
        bank.broker.close()
        outcomes = Counter(receipt[4] for receipt in found.receipts)
        return {
            **balance(found),
            "kills": self.kills,
            "puts": len(found.put),
            "receipts": len(found.receipts),
            "outcomes": dict(outcomes),
            "unnoted": len({receipt[0] for receipt in found.receipts} - found.done),
            "looks": sum(found.sums.values()),
            "between": len(keys["between"]),
        }
