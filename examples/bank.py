"""A bank: processes move money in transactions, are killed all the time, and no cent is lost or made.

    python examples/bank.py [DIRECTORY] [--accounts N] [--transfers N] [--workers N] [--kills N] [--seconds S]

Transfers come as messages of the queue "transfers". A worker takes one and does all that it means in one transaction:
it reads both balances in the table "balances" and writes them, puts a receipt into the queue "receipts", publishes an
event to the topic "audit", and acknowledges the message. If there is not enough money, the receipt says that the
transfer was refused. What a worker has read may have been changed by another one when it commits: then the commit
raises Conflict, nothing has happened, and `broker.run` calls the function again.

Meanwhile workers are killed with SIGKILL and replaced, and somebody adds up all balances again and again. So at the end

    the sum        is what it was, as it was whenever somebody looked: one transaction reads one state
    the receipts   there is one for each transfer, whoever was killed: a transaction happens in whole or not at all,
                   and the message that it has not acknowledged comes again
    the balances   are those of the receipts, applied one after the other: no two transactions have used the same money
    the audit      has each transfer once

The exit code is 0 if that is so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mqlite

OPENING = 100  # what each account has at first: little, so that some transfers are refused
AHEAD = 200  # transfers that may wait; who sends them waits, too, while there are more
ANY = 1_000_000  # attempts: with few accounts, many others are faster

Transfer = dict[str, Any]  # id, source, target, amount
Receipt = dict[str, Any]  # the transfer; whether it was done; the two balances after it; at which attempt


class Bank:
    """What every process has of it."""

    def __init__(self, directory: Path) -> None:
        self.broker = mqlite.open(directory / "bank.mq")
        self.transfers: mqlite.Queue[Transfer] = self.broker.queue("transfers", maxsize=AHEAD, max_deliveries=None)
        self.receipts: mqlite.Queue[Receipt] = self.broker.queue("receipts")
        self.audit: mqlite.Topic[str] = self.broker.topic("audit")

    def serve(self, message: mqlite.Message) -> None:
        """All that a transfer means, in one commit; again from the start where another worker was faster."""
        transfer: Transfer = message.body
        source, target, amount = transfer["source"], transfer["target"], transfer["amount"]
        attempt = 0

        def move(tx: mqlite.Transaction) -> None:
            nonlocal attempt
            attempt += 1
            balances = tx.table("balances")
            before, other = balances[source], balances[target]
            done = before >= amount
            if done:
                balances[source], balances[target] = before - amount, other + amount
            after = [balances[source], balances[target]]
            self.receipts.put({"transfer": transfer, "done": done, "after": after, "attempt": attempt}, tx=tx)
            self.audit.publish(transfer["id"], "transfer.done" if done else "transfer.refused", tx=tx)
            message.ack(tx=tx)

        self.broker.run(move, attempts=ANY)

    def total(self) -> int:
        """The sum of all balances at one moment. Nobody has to stop for it."""
        return int(self.broker.run(lambda tx: sum(tx.table("balances").values()), attempts=ANY))


def work(directory: Path) -> None:
    """A worker process. It may be killed at any moment."""
    bank = Bank(directory)
    with bank.transfers.consumer() as consumer:
        for message in consumer:
            bank.serve(message)


class Workers:
    """The worker processes."""

    def __init__(self, directory: Path, count: int, start_method: str) -> None:
        self._context: Any = multiprocessing.get_context(start_method)
        self._directory = directory
        self._processes = [self._start() for _ in range(count)]
        self.kills = 0

    def _start(self) -> BaseProcess:
        process: BaseProcess = self._context.Process(target=work, args=(self._directory,), daemon=True)
        process.start()
        return process

    def kill_one(self) -> None:
        """SIGKILL to one of them, and another one takes its place."""
        place = random.randrange(len(self._processes))
        self._processes[place].kill()
        self._processes[place].join()
        self._processes[place] = self._start()
        self.kills += 1

    def check(self) -> None:
        """Nobody should end by himself."""
        for process in self._processes:
            if process.exitcode is not None:
                sys.exit(f"a worker has ended with exit code {process.exitcode}")

    def join(self) -> None:
        """Wait until all have left."""
        for process in self._processes:
            process.join()


class Clients(threading.Thread):
    """Send transfers, each with an id of its own, until there are enough or the time is over; then wait for the bank."""

    def __init__(self, transfers: mqlite.Queue[Transfer], accounts: int, count: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._transfers, self._accounts, self._count, self._seconds = transfers, accounts, count, seconds
        self.sent: list[str] = []
        self.served = threading.Event()

    def run(self) -> None:
        end = time.monotonic() + self._seconds
        while len(self.sent) < self._count and time.monotonic() < end:
            source, target = random.sample(range(self._accounts), 2)
            name = f"transfer {len(self.sent) + 1}"
            self.sent.append(name)
            amount = random.randint(1, OPENING)
            self._transfers.put({"id": name, "source": source, "target": target, "amount": amount})
        self._transfers.join()  # all are settled
        self.served.set()


def replayed(receipts: list[Receipt], accounts: int) -> dict[int, int] | None:
    """The balances after all receipts, one after the other; None where one says what cannot have been."""
    balances = dict.fromkeys(range(accounts), OPENING)
    for receipt in receipts:
        transfer = receipt["transfer"]
        source, target, amount = transfer["source"], transfer["target"], transfer["amount"]
        if receipt["done"] != (balances[source] >= amount):
            return None
        if receipt["done"]:
            balances[source] -= amount
            balances[target] += amount
        if receipt["after"] != [balances[source], balances[target]]:
            return None
    return balances


def check(what: str, holds: bool) -> bool:
    """Print what is promised, and whether it holds."""
    print(f"{'yes' if holds else 'NO'}: {what}")
    return holds


def run(directory: Path, options: argparse.Namespace) -> bool:
    """Everything; whether all is as it should be."""
    bank = Bank(directory)
    if bank.broker.tables():
        sys.exit(f"{directory} has the bank of an earlier run: name another directory")
    auditor = bank.audit.subscribe("auditor")
    bank.broker.table("balances").update(dict.fromkeys(range(options.accounts), OPENING))
    total = bank.total()
    print(f"{options.accounts} accounts with {OPENING} each: {total} in all", flush=True)

    started = time.monotonic()
    workers = Workers(directory, options.workers, options.start_method)
    clients = Clients(bank.transfers, options.accounts, options.transfers, options.seconds)
    clients.start()
    kill_at = [options.transfers * (n + 1) // (options.kills + 1) for n in range(options.kills)]  # so many receipts
    sums: list[int] = []
    while not clients.served.wait(random.uniform(0, 0.02)):
        sums.append(bank.total())
        if kill_at and len(bank.receipts) >= kill_at[0]:
            kill_at.pop(0)
            workers.kill_one()
        workers.check()
    seconds = time.monotonic() - started
    bank.transfers.shutdown()  # no more will come, so the workers leave
    workers.join()

    receipts = [message.body for message in bank.receipts.browse()]
    balances = dict(bank.broker.table("balances"))
    events = Counter(message.body for message in auditor.browse())
    refused = sum(not receipt["done"] for receipt in receipts)
    conflicts = sum(receipt["attempt"] - 1 for receipt in receipts)
    rate = len(receipts) / seconds
    print(f"{len(receipts)} transfers by {options.workers} workers in {seconds:.1f} s: {rate:,.0f}/s")
    print(f"{workers.kills} workers killed and replaced, {conflicts} conflicts, {refused} transfers refused")
    print(f"the sum was looked at {len(sums)} times meanwhile; now it is {sum(balances.values())}")
    once = Counter(clients.sent)
    return all(
        [
            check("the sum of all balances is what it was", sum(balances.values()) == total),
            check("so it was whenever somebody looked", bool(sums) and set(sums) == {total}),
            check("every transfer has exactly one receipt", Counter(r["transfer"]["id"] for r in receipts) == once),
            check("the balances are those of the receipts in order", replayed(receipts, options.accounts) == balances),
            check("every transfer is in the audit once", events == once),
            check("the store is in order", bank.broker.check() == []),
        ]
    )


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Transfers between accounts, in transactions.")
    parser.add_argument("directory", nargs="?", help="where the store is made (default: temporary)")
    parser.add_argument("--accounts", type=int, default=10, help="fewer have more conflicts (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=2000, help="how many to send (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="how many worker processes (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=6, help="how many of them to kill (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="send no more after (default: %(default)s)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), default="spawn")
    options = parser.parse_args()
    if options.accounts < 2 or options.workers < 1:
        parser.error("a transfer needs two accounts and a worker")
    if options.directory is not None:
        Path(options.directory).mkdir(parents=True, exist_ok=True)
        return 0 if run(Path(options.directory), options) else 1
    with tempfile.TemporaryDirectory() as directory:
        return 0 if run(Path(directory), options) else 1


if __name__ == "__main__":
    sys.exit(main())
