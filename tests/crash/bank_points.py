"""Further scenarios for kill_points.py: what becomes of transactions whose process is killed.

Each death has a bank of its own in the store: queues, a topic and a table with the name of the round. After it a survivor finds
all of a transaction or nothing of it: balances, receipts, events, messages and dead letters together are those from before or
those from after. What was not acknowledged comes again.

    python -m crash.bank_points FOLDER half NAME ...    sweeps those by system call, in tests/
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crash.children import Children
from crash.kill_points import EVERY_WRITE, SOON, Round, Sweep, arm_lines, arm_writes
from polling import until

import mqlite

Queue = mqlite.Queue[Any]
Messages = list[mqlite.Message]
OPENING = {"ann": 100, "bob": 100, "cem": 0}
TOTAL = sum(OPENING.values())
WINDOW = 3600.0


@dataclass
class Stage:
    """What a scenario plays on, as one process has it."""

    broker: mqlite.Broker
    transfers: Queue
    held: Messages = field(default_factory=list)

    def __post_init__(self) -> None:
        name = self.transfers.name
        self.name = f"{name} balances"
        self.receipts: Queue = self.broker.queue(f"{name} receipts", max_deliveries=None)
        self.audit: mqlite.Topic[Any] = self.broker.topic(f"{name} audit")
        self.auditor = self.audit.subscribe("auditor")
        self.other = self.audit.subscribe("other", "transfer.*")

    def balances(self) -> mqlite.OpenTable:
        return self.broker.table(self.name)

    def move(self, tx: mqlite.Transaction, source: str, target: str, amount: int) -> None:
        """Money, a receipt and an event."""
        table = tx.table(self.name)
        table[source], table[target] = table[source] - amount, table.get(target, 0) + amount
        self.receipts.put([source, target, amount], tx=tx)
        self.audit.publish([source, target, amount], "transfer.done", tx=tx)

    def state(self) -> dict[str, Any]:
        """All that there is, taken out; delayed messages included."""
        found: dict[str, Any] = {"balances": dict(self.balances())}
        found |= {"receipts": taken(self.receipts), "auditor": taken(self.auditor), "other": taken(self.other)}
        with self.transfers.dead as dead:
            found["dead"] = taken(dead)
        return {**found, "transfers": taken(self.transfers)}


def taken(taker: Any) -> list[Any]:
    """The bodies of all messages, in their order."""
    found: list[Any] = []
    while True:
        try:
            messages = taker.receive(100, timeout=0)
        except mqlite.Empty:
            if not taker.stats().delayed:
                return found
            until(lambda: taker.stats().ready or not taker.stats().delayed)
            continue
        found += [message.body for message in messages]
        taker.ack_many(messages)


Act = Callable[[Stage], Any]


def nothing(stage: Stage) -> None:
    pass


@dataclass
class Play:
    """One transaction under fire.

    before, after: what differs from a bank with its opening balances, no receipts and the held messages. prepare: by the parent;
    enter: by the process to be killed, before the shooting. judge: what else must be so, whoever was killed when.
    """

    name: str
    act: Act
    after: dict[str, Any]
    before: dict[str, Any] = field(default_factory=dict)
    put: int = 1
    prepare: Act = nothing
    enter: Act = nothing
    judge: Act = nothing

    def allowed(self, returned: bool) -> list[dict[str, Any]]:
        """The states in which a survivor may find it."""
        opening = {"balances": OPENING, "receipts": [], "auditor": [], "other": [], "dead": [], "transfers": list(range(self.put))}
        before = {**opening, **self.before}
        after = {**before, **self.after}
        return [after] if returned else [before, after]


class BankSweep(Sweep):
    """As Sweep, with a bank."""

    def _one(self, scenario: Any, point: int, waiting: bool) -> bool:
        self._play: Play = scenario
        return super()._one(Round(scenario.name, self._before), point, waiting)

    def _before(self, queue: Queue) -> None:
        stage = self._stage(queue)
        queue.put_many(range(self._play.put))
        stage.balances().update(OPENING)
        self._play.prepare(stage)
        stage.broker.close()

    def _stage(self, queue: Queue) -> Stage:
        return Stage(mqlite.open(self._path), queue)

    def _act(self, talk: Any, name: str, scenario: Any, point: int) -> None:
        stage = self._stage(mqlite.Queue(name, self._path))
        if self._play.put:
            stage.held = stage.transfers.receive(self._play.put, timeout=0)
        self._play.enter(stage)
        talk.say("ready")
        talk.hear()
        self._arm(point)
        self._play.act(stage)
        talk.say("returned")
        self._arm(0)
        talk.say("survived")
        talk.hear(3600)

    def _look(self, queue: Queue, scenario: Any, returned: bool) -> None:
        stage = self._stage(queue)
        assert stage.broker.check() == []
        with stage.broker.transaction() as tx:
            assert sum(tx.table(stage.name).values()) == TOTAL
        self._play.judge(stage)
        found = stage.state()
        assert found in self._play.allowed(returned), (found, returned)
        assert stage.broker.check() == []
        with stage.broker.transaction() as tx:  # the bank goes on
            stage.move(tx, "bob", "ann", 1)
        assert stage.balances()["bob"] == found["balances"]["bob"] - 1
        assert (taken(stage.receipts), taken(stage.auditor), taken(stage.other)) == ([["bob", "ann", 1]],) * 3
        for each in (stage.auditor, stage.other):
            each.unsubscribe()
        assert stage.audit.stats().stored == 0
        stage.broker.close()
        self._is_left_empty(queue)


# ---------------------------------------------------------------------- what is under fire
def transfer(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)


def transfer_by_run(stage: Stage) -> None:
    """The first attempt is in conflict with a commit of this very process."""
    attempts = 0

    def move(tx: mqlite.Transaction) -> None:
        nonlocal attempts
        attempts += 1
        stage.move(tx, "ann", "bob", 30)
        if attempts == 1:
            stage.balances()["bob"] = OPENING["bob"]
        stage.held[0].ack(tx=tx)

    stage.broker.run(move)


def transfer_many(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        for amount in (10, 20, 30):
            stage.move(tx, "ann", "bob", amount)
        stage.transfers.ack_many(stage.held, tx=tx)


def refuse(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        if tx.table(stage.name)["cem"] < 30:
            stage.receipts.put("refused", tx=tx)
            stage.audit.publish("refused", "transfer.refused", tx=tx)
            stage.held[0].ack(tx=tx)


def reject(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        stage.receipts.put("rejected", tx=tx)
        stage.audit.publish("rejected", "transfer.rejected", tx=tx)
        stage.held[0].reject("no money", tx=tx)


def settle_in_every_way(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)
        stage.held[1].reject(tx=tx)
        stage.held[2].nack(tx=tx)
        stage.held[3].nack(delay=SOON, tx=tx)


def close_account(stage: Stage) -> None:
    """A row goes, another one comes."""
    with stage.broker.transaction() as tx:
        table = tx.table(stage.name)
        table["dee"] = table.pop("bob")
        del table["cem"]
        table["bob"] = 0
        stage.audit.publish("bob is dee", "account", tx=tx)
        stage.held[0].ack(tx=tx)


def open_book(stage: Stage) -> None:
    """A table that was not there."""
    with stage.broker.transaction() as tx:
        tx.table(f"{stage.name} book")["first"] = 1
        tx.table(f"{stage.name} other book")["first"] = 1
        stage.receipts.put("opened", tx=tx)
        stage.held[0].ack(tx=tx)


def judge_books(stage: Stage) -> None:
    books = [stage.broker.table(f"{stage.name} {word}book") for word in ("", "other ")]
    opened = stage.receipts.stats().ready
    assert [dict(book) for book in books] == [{"first": 1} if opened else {}] * 2


def once(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        assert tx.once(stage.name, WINDOW)
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)


def judge_once(stage: Stage) -> None:
    """The key is seen if, and only if, the rest was done."""
    tx = stage.broker.transaction()
    assert tx.once(stage.name, WINDOW) == (stage.balances()["ann"] == OPENING["ann"])
    tx.rollback()


def roll_back(stage: Stage) -> None:
    with contextlib.suppress(ZeroDivisionError), stage.broker.transaction() as tx:
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)
        raise ZeroDivisionError


def find_no_room(stage: Stage) -> None:
    with contextlib.suppress(mqlite.Full), stage.broker.transaction(timeout=0.01) as tx:
        stage.move(tx, "ann", "bob", 30)
        stage.held[0].ack(tx=tx)


def move_into_full(stage: Stage) -> None:
    """What is acknowledged makes room for what is put."""
    with stage.broker.transaction() as tx:
        table = tx.table(stage.name)
        table["ann"], table["bob"] = table["ann"] - 30, table["bob"] + 30
        stage.receipts.put("new", tx=tx)
        for message in stage.held:
            message.ack(tx=tx)


def replace_receipt(stage: Stage) -> None:
    with stage.broker.transaction() as tx:
        stage.receipts.put("new", replace_key="r", tx=tx)
        stage.receipts.put("again", dedup_id="d", tx=tx)
        table = tx.table(stage.name)
        table["ann"], table["bob"] = table["ann"] - 30, table["bob"] + 30
        stage.held[0].ack(tx=tx)


def put_old(stage: Stage) -> None:
    stage.receipts.put("old", replace_key="r", dedup_id="d")


def hold_old(stage: Stage) -> None:
    stage.held += stage.receipts.receive(timeout=0)


def full_of_old(stage: Stage) -> None:
    stage.receipts.configure(maxsize=1)
    stage.receipts.put("old")


MOVED = {**OPENING, "ann": 70, "bob": 130}


def told(*bodies: Any) -> dict[str, Any]:
    """Receipts and events."""
    return {"receipts": list(bodies), "auditor": list(bodies), "other": list(bodies)}


ONE = told(["ann", "bob", 30])
PLAYS: list[Play] = [
    Play("transfer", transfer, {"balances": MOVED, "transfers": [], **ONE}),
    Play("transfer by run", transfer_by_run, {"balances": MOVED, "transfers": [], **ONE}),
    Play(
        "transfer many",
        transfer_many,
        {"balances": {**OPENING, "ann": 40, "bob": 160}, "transfers": [], **told(*(["ann", "bob", n] for n in (10, 20, 30)))},
        put=3,
    ),
    Play("refuse", refuse, {"transfers": [], **told("refused")}),
    Play("reject", reject, {"transfers": [], "dead": [0], **told("rejected")}),
    Play("settle in every way", settle_in_every_way, {"balances": MOVED, "transfers": [2, 3], "dead": [1], **ONE}, put=4),
    Play(
        "close an account",
        close_account,
        {"balances": {"ann": 100, "bob": 0, "dee": 100}, "transfers": [], "auditor": ["bob is dee"]},
    ),
    Play("write the first row", open_book, {"transfers": [], "receipts": ["opened"]}, judge=judge_books),
    Play("do once", once, {"balances": MOVED, "transfers": [], **ONE}, judge=judge_once),
    Play("roll back", roll_back, {}),
    Play("find no room", find_no_room, {}, before={"receipts": ["old"]}, prepare=full_of_old),
    Play(
        "move into a full queue",
        move_into_full,
        {"balances": MOVED, "transfers": [], "receipts": ["new"]},
        before={"receipts": ["old"]},
        prepare=full_of_old,
        enter=hold_old,
    ),
    Play("replace and repeat", replace_receipt, {"balances": MOVED, "transfers": [], "receipts": ["new"]}, before={"receipts": ["old"]}, prepare=put_old),
]


def sweep_bank_lines(folder: str, children: Any, play: Play, points: Iterable[int]) -> int:
    """A scenario by lines; how often the call was killed before it survived."""
    sweep = BankSweep(folder, children, arm_lines)
    survived = sweep.run(play, points)  # type: ignore[arg-type]
    assert survived, f"{play.name!r} takes more lines than were tried"
    print(f"{play.name}: {sweep.kills} kills, survived {survived} lines")
    return sweep.kills


def main() -> None:
    """Scenarios by system call."""
    sweep = BankSweep(sys.argv[1], Children(), arm_writes(int(sys.argv[2])))
    for play in (play for play in PLAYS if play.name in sys.argv[3:]):
        kills = sweep.kills
        survived = sweep.run(play, EVERY_WRITE)  # type: ignore[arg-type]
        print(json.dumps({"scenario": play.name, "survived": survived, "kills": sweep.kills - kills}), flush=True)


if __name__ == "__main__":
    main()
