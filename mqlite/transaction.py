"""Many changes in one commit, or none: settlements, puts, publications, and rows of tables."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from .checks import check_count, check_name, check_timeout, check_ttl
from .codecs import Payload
from .engine import Engine
from .engine.catalog import QueueState
from .engine.commitment import Commitment, Put
from .engine.deciding import Decision
from .engine.once import OnceWork
from .engine.publishing import Publishing
from .engine.settling import Settlement
from .engine.tables import TableWork
from .errors import Closed, Conflict, MqliteError, NotCommitted
from .keys import Key, packed
from .log import Draft
from .options import UNSET
from .receipt import Published, Receipt
from .store import Store
from .system.clock import ns_of
from .table import Table, decoded, encoded
from .waiting import Interrupt

T = TypeVar("T")
ONCE_WINDOW = 86_400.0
#: Seconds of the first and of the longest pause after a Conflict, at most.
_FIRST_PAUSE, _MAX_PAUSE = 0.0005, 0.02


class StagedLease(Protocol):
    """The claim on a message that a transaction is to settle; see `lease.py`."""

    def stage(self, tx: Transaction) -> None:
        """It is to be settled by that. Raises NotClaimed."""

    def end(self, outcome: str) -> None:
        """It was settled."""

    def unstage(self) -> None:
        """The transaction does not settle it; if the claim was lost, that is found out now."""

    def nack(self, delay: float | None, error: object) -> None:
        """It has failed."""

    def release(self) -> None:
        """It goes back."""


class Transaction:
    """What happens in one commit, or not at all. From `Broker.transaction`; used with `tx=` of other methods.

        with broker.transaction() as tx:
            message.ack(tx=tx)
            invoices.put(invoice, tx=tx)
            tx.table("balances")["alice"] = 90

    Everything is only noted until the block is left, and then done in one commit of the store, which other threads
    share. Left by an exception, nothing is done. The commit raises, with nothing changed: LeaseLost (a claim was
    lost), Conflict (what was read, or expected, was changed by another), Full (a queue has no room, for `timeout`
    seconds), ShutDown, StoreFull, Unroutable.

    Threads: free for any; fork: a transaction belongs to the process that began it. It cannot be pickled. No lock is
    held while it is open, so it may stay open as long as you like; what was read may change meanwhile. The messages
    that it is to settle count as held by their consumer until the commit (see `prefetch` there).
    """

    def __init__(self, store: Store, timeout: float | None, check_reads: bool, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._timeout = check_timeout(timeout)
        if type(check_reads) is not bool:
            raise TypeError(f"check_reads is a bool, not {check_reads!r}")
        self.store = store
        self._engine = store.engine
        self._owner = store.engine.presence.owner, os.getpid()
        # Guards all below, and is held during the commit: taken before L and C, and before the lock of a consumer.
        self._lock = threading.RLock()
        self._state = "open"
        self._tables = TableWork(self._engine, check_reads)
        self._once = OnceWork(self._engine)
        self._commitment = Commitment(self._engine, "the transaction cannot be committed")
        self._decisions: list[Decision] = []
        self._has_work = False
        self._leases: list[tuple[StagedLease, Settlement]] = []
        self._left: dict[StagedLease, BaseException | None] = {}  # by the end of their own blocks
        self._receipts: list[tuple[Receipt, Callable[[], int]]] = []

    @property
    def is_open(self) -> bool:
        """Whether it was neither committed nor rolled back."""
        return self._state == "open"

    def __repr__(self) -> str:
        return f"<mqlite.Transaction, {self._state}>"

    def __reduce__(self) -> Any:
        raise TypeError("a transaction cannot be pickled: it belongs to the process that began it; begin one there")

    # ------------------------------------------------------------------ tables
    def table(self, name: str) -> Table:
        """The table of that name: a mapping whose changes are made by the commit. See `Table`."""
        with self._guard():
            self._check_open()
        return Table(check_name(name, "a table's name"), _LockedRows(self))

    def expect(self, table: Table | str, key: Key, value: Any = UNSET, *, version: Any = UNSET) -> None:
        """The commit raises Conflict unless that row is, as stored, of this value, or of this version (0: there is
        none); with neither, unless it stays as it is now.

        Raises Conflict at once where it is not so already; the commit then raises it, too.
        """
        if isinstance(table, Table) and not table.is_of(self):
            raise ValueError(
                f"table {table.name!r} is not one of this transaction: take it from tx.table, or give its name"
            )
        name = table.name if isinstance(table, Table) else check_name(table, "a table's name")
        if version is not UNSET and (type(version) is not int or version < 0):
            raise TypeError(f"version is the number that Table.version gave, not {version!r}")
        if value is not UNSET:
            encoded(value)  # told now if it is none that a row can have
        with self._guard():
            self._check_open()
            row = self._tables.stored(name, packed(key), note=True)
            found = 0 if row is None else row.version
            differs = value is not UNSET and (row is None or decoded(row.payload) != value)
            if differs or version not in (UNSET, found):
                conflict = Conflict(
                    f"the key {key!r} of table {name!r} is not as this transaction expects it: nothing is changed; "
                    "begin anew, or have broker.run() do it"
                )
                self._tables.fail(conflict)
                raise conflict

    def once(self, key: Key, window: float = ONCE_WINDOW) -> bool:
        """Whether no commit has seen this key for `window` seconds; this one makes it seen. For consumers that may be
        given the same job twice.

        The commit raises Conflict if another one has seen it first. Cost: a read, and two small entries in the commit;
        what has run out is forgotten with later ones.
        """
        where, window_ns = packed(key), ns_of(check_ttl(window, "window"))
        with self._guard():
            self._check_open()
            return self._once.see(where, window_ns)

    # ------------------------------------------------------------------ for queues, topics and messages
    def put(self, queue: QueueState, rank: int, draft: Draft, item: Any) -> Receipt:
        """A message is put by the commit."""
        put = Put(queue, rank, draft)
        with self._guard():
            self._check_open()
            self._commitment.store(put)
            self._has_work = True
            return self._receipt(item, lambda: put.id)

    def publish(self, publishing: Publishing, items: list[Any]) -> list[Receipt]:
        """Messages are published by the commit."""
        with self._guard():
            self._check_open()
            self._commitment.store(publishing)
            self._has_work = True
            return [
                self._receipt(item, lambda index=index: Published(*publishing.outcome[index]))  # type: ignore[misc]
                for index, item in enumerate(items)
            ]

    def settle(self, lease: StagedLease, settlement: Settlement, reply: Publishing | None = None) -> None:
        """A message is settled by the commit, and its reply published. Raises NotClaimed."""
        with self._guard():
            self._check_open()
            lease.stage(self)
            self._leases.append((lease, settlement))
            if reply is not None:
                self._commitment.store(reply)

    def decide(self, decision: Decision) -> None:
        """A prepared message is decided by the commit. Raises AlreadyDecided where it is twice."""
        with self._guard():
            self._check_open()
            if decision in self._decisions:
                raise decision.made_before()
            self._decisions.append(decision)

    def leave(self, lease: StagedLease, error: BaseException | None) -> bool:
        """The block of a message that this is to settle has ended: if it does not, that is a failure. False where it
        was rolled back meanwhile.
        """
        with self._guard():
            if self.is_open:
                self._left[lease] = error
            return self._state in ("open", "committed")

    def _receipt(self, item: Any, outcome: Callable[[], int]) -> Receipt:
        receipt = Receipt(item, _not_committed_yet)
        self._receipts.append((receipt, outcome))
        return receipt

    def _is_own(self) -> bool:
        return (self._engine.presence.owner, os.getpid()) == self._owner

    def _guard(self) -> threading.RLock:
        """The lock; in a forked child a thread of the parent may have it for ever. Raises Closed."""
        if not self._is_own():
            raise Closed("the transaction was begun by another process, or before the store was closed: begin one here")
        return self._lock

    def _check_open(self) -> None:
        if self._state != "open":
            raise Closed(f"the transaction was {self._state}: begin another one")
        self._interrupt.check()

    # ------------------------------------------------------------------ the end
    def commit(self) -> None:
        """Do it all, durably, in one commit; nothing at all where it raises. See the class.

        An interrupt (KeyboardInterrupt) that strikes meanwhile leaves it done or not done; in memory, as with all calls
        there, perhaps half done.
        """
        with self._guard():
            self._check_open()
            try:
                self._do()
            except BaseException as error:
                if not self._commitment.is_done:  # else an interrupt came behind it
                    fate = (
                        error
                        if isinstance(error, Exception)
                        else NotCommitted("the commit was interrupted: look whether the message was stored")
                    )
                    self._undo("rolled back, since it could not be committed", fate, error)
                    raise
                self._conclude()
                raise
            try:
                self._conclude()
            except BaseException:
                self._conclude()  # an interrupt: nobody would do it later
                raise

    def _do(self) -> None:
        for _, settlement in self._leases:
            self._commitment.settle(settlement)
        for decision in self._decisions:
            self._commitment.add(decision)
        if self._once:
            self._commitment.add(self._once)
        has_work = self._has_work or self._leases or self._decisions or self._once or self._tables.writes
        if has_work:
            self._tables.look_up()
            self._commitment.add(self._tables)
            self._commitment.run(self._timeout, self._interrupt)
        elif self._tables.has_read:
            self._tables.check_failed()
            with self._engine.log.read() as snapshot:
                self._tables.compare(snapshot)

    def _conclude(self) -> None:
        """After the commit. May be done again."""
        self._state = "committed"
        while self._leases:
            lease, settlement = self._leases[-1]
            lease.end(settlement.how)
            self._leases.pop()
        while self._receipts:
            receipt, outcome = self._receipts[-1]
            receipt.settle(outcome(), None)
            self._receipts.pop()

    def rollback(self) -> None:
        """Do nothing of it; messages that it was to settle are as before. Nothing if it is finished, or that of another
        process.
        """
        self._roll_back(None)

    def _roll_back(self, error: BaseException | None) -> None:
        if not self._is_own():
            return
        with self._guard():
            if self._state == "open":
                fate = NotCommitted("the transaction was rolled back: nothing was stored")
                self._undo("rolled back", fate, error)

    def _undo(self, state: str, fate: BaseException, error: BaseException | None) -> None:
        """fate: of the receipts; error: of the messages whose blocks have ended."""
        self._state = state
        try:
            self._let_go(fate, error)
        except BaseException:
            self._let_go(fate, error)  # an interrupt: nobody would do it later
            raise

    def _let_go(self, fate: BaseException, error: BaseException | None) -> None:
        """May be done again."""
        while self._receipts:
            self._receipts[-1][0].settle(0, fate)
            self._receipts.pop()
        while self._leases:
            self._leases[-1][0].unstage()
            self._leases.pop()
        while self._left:
            lease, own_error = next(iter(self._left.items()))
            _give_back(lease, own_error or error)
            del self._left[lease]

    def __enter__(self) -> Transaction:
        with self._guard():
            self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self._roll_back(error)
            return
        try:
            if self.is_open:
                self.commit()
        except BaseException as failure:
            if not self._commitment.is_done:
                self._roll_back(failure)  # an interrupt before the commit had begun: nobody else would end it
            raise


def _give_back(lease: StagedLease, error: BaseException | None) -> None:
    """As the end of a message's block would have done."""
    with contextlib.suppress(MqliteError):  # lost meanwhile
        if error is None or isinstance(error, Exception):
            lease.nack(None, error if error is not None else "its transaction was rolled back")
        else:
            lease.release()


class _LockedRows:
    """The rows of an open transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def is_of(self, tx: object) -> bool:
        """Whether these are the rows of that transaction."""
        return tx is self._tx

    def _work(self) -> TableWork:
        self._tx._check_open()
        return self._tx._tables

    def get(self, table: str, key: bytes) -> Payload | None:
        with self._tx._guard():
            return self._work().get(table, key)

    def count(self, table: str) -> int:
        with self._tx._guard():
            return self._work().count(table)

    def version(self, table: str, key: bytes) -> int:
        with self._tx._guard():
            return self._work().version(table, key)

    def scan(self, table: str, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[tuple[bytes, Payload]]:
        steps = self._work().steps(table, start, stop, reverse)
        while True:
            with self._tx._guard():
                self._work()
                step = next(steps, None)
            if step is None:
                return
            yield from step

    def put(self, table: str, key: bytes, payload: Payload | None) -> None:
        with self._tx._guard():
            self._work().put(table, key, payload)

    def clear(self, table: str) -> None:
        with self._tx._guard():
            self._work().clear(table)


def checked(tx: object, engine: Engine, what: str) -> Transaction:
    """A transaction of that store. Raises TypeError, ValueError."""
    if not isinstance(tx, Transaction):
        raise TypeError(f"tx is a transaction, of mqlite.open(...).transaction(), not {tx!r}")
    if tx.store.engine is not engine:
        raise ValueError(f"{what} is of another store than the transaction: take both from one mqlite.open()")
    return tx


def run(begin: Callable[[], Transaction], function: Callable[[Transaction], T], attempts: int) -> T:
    """What function(tx) returns, once its transaction is committed. Begins anew after a Conflict. See `Broker.run`."""
    if not callable(function):
        raise TypeError(f"run takes a function of a transaction, not {function!r}")
    left = check_count(attempts, "attempts")
    waits = pauses()
    while True:
        left -= 1
        try:
            with begin() as tx:
                return function(tx)
        except Conflict:
            if not left:
                raise
        time.sleep(next(waits))


def pauses() -> Iterator[float]:
    """Seconds to wait after each Conflict before the work is begun anew: by chance, so that those who met do not meet
    again, and longer from one to the next, up to 20 ms. They do not end.
    """
    pause = _FIRST_PAUSE
    while True:
        yield random.uniform(0, pause)
        pause = min(2 * pause, _MAX_PAUSE)


def _not_committed_yet(receipt: Receipt, timeout: float | None) -> None:
    if not receipt.done:
        raise NotCommitted("the transaction is still open: its messages have no ids before the commit")
