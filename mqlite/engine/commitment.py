"""What is to happen in one commit of the log, or not at all: settlements, puts, publications, and more.

First everything is looked at, and what cannot be done raises, with nothing changed; then everything
is done, and nothing can fail any more. The queues that get something are asked one by one, each for
all that it gets: one that asks more of a put than room (Admission) like by a put of all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ..claims import Kind
from ..errors import Full, MqliteError
from ..log import Draft
from ..system.clock import ns_of
from ..waiting import Interrupt, Seat
from .admission import Admission, Leaving
from .catalog import QueueState
from .order import lineup_of
from .parts import MOVED_FREELY
from .publishing import Publishing
from .settling import Settlement
from .steps import ARRIVED

if TYPE_CHECKING:
    from .machine import Engine


class Part(Protocol):
    """Something else that is done in the commit. Both are called under L."""

    def check(self, txn: Any) -> int:
        """Before anything is changed: bytes that it needs in the log. Raises what keeps the whole from being done."""

    def do(self, txn: Any) -> None:
        """Do it."""


@attrs.define(eq=False)
class Put:
    """A message that is put; its id, once that is known."""

    queue: QueueState
    rank: int
    draft: Draft
    id: int = 0


class _Arrivals:
    """All that one queue gets: its messages, and of each (index of the entry, index in it)."""

    __slots__ = ("admission", "asks", "drafts", "has_puts", "origins", "queue", "ranks", "some_now")

    def __init__(self, queue: QueueState) -> None:
        self.queue = queue
        self.ranks: list[int] = []
        self.drafts: list[Draft] = []
        self.origins: list[tuple[int, int]] = []
        self.has_puts = False
        self.asks = queue.asks_of_puts
        self.some_now = False  # it does not all wait for its time
        self.admission: Admission | None = None

    def add(self, index: int, rank: int, drafts: list[Draft]) -> None:
        """Messages of one entry: they differ in their bodies only."""
        self.ranks += [rank] * len(drafts)
        self.drafts += drafts
        self.origins += [(index, each) for each in range(len(drafts))]
        self.asks = self.asks or drafts[0].asks
        self.some_now = self.some_now or drafts[0].due is None


class Commitment:
    """Tried until it is done or refused. For one thread.

    what: the beginning of the sentence that says that there is no room.
    """

    def __init__(self, engine: Engine, what: str) -> None:
        self._engine = engine
        self._what = what
        self._settlements: list[Settlement] = []
        self._entries: list[Put | Publishing] = []  # in the order in which their messages line up
        self._publishings: list[Publishing] = []  # those among them
        self._parts: list[Part] = []
        self._arrivals: list[_Arrivals] = []
        self._is_addressed = False
        self._full: QueueState | None = None
        self.is_done = False  # all of it is committed

    def settle(self, settlement: Settlement) -> None:
        """A claim ends."""
        self._settlements.append(settlement)

    def store(self, entry: Put | Publishing) -> None:
        """A message is put, or some are published."""
        self._entries.append(entry)
        if isinstance(entry, Publishing):
            self._publishings.append(entry)

    def add(self, part: Part) -> None:
        """Something else is done."""
        self._parts.append(part)

    def run(self, timeout: float | None, interrupt: Interrupt) -> None:
        """Waits for room as a put does. Raises Full, LeaseLost, ShutDown, StoreFull, Unroutable, and what parts
        raise.
        """
        engine = self._engine
        engine.look_now_and_then()
        end_ns = None if timeout is None else engine.clock.monotonic_ns() + ns_of(timeout)
        try:
            done = self._attempt(interrupt)
            while not done:
                full = self._full
                assert full is not None
                if engine.schedule.care(full.id)[1]:  # what had expired made room
                    done = self._attempt(interrupt)
                    continue
                if full.options.overflow != "block" or timeout == 0:
                    raise self._no_room(full)
                left = None if end_ns is None else max(0, end_ns - engine.clock.monotonic_ns()) / 1e9
                done = engine.waiters.wait(full.id, Kind.SPACE, self._attempt_for(full, interrupt), left, interrupt)
                if done is None:
                    raise self._no_room(full)
        finally:
            try:
                self._give_back()
            except BaseException:  # an interrupt, perhaps before it began: nobody would do it later
                self._give_back()
                raise
        for publishing in self._publishings:
            with contextlib.suppress(MqliteError):
                publishing.conclude()

    def _give_back(self) -> None:
        """What was claimed to be removed, and was not."""
        try:
            self._engine.end_admissions(self._admissions())
        except MqliteError:
            if not self.is_done:  # else all is stored, whatever comes now
                raise

    def _attempt_for(self, full: QueueState, interrupt: Interrupt) -> Callable[[Seat], list[bool] | None]:
        def attempt(seat: Seat) -> list[bool] | None:
            done = self._attempt(interrupt)
            if done is None and (self._full is not full or full.options.overflow != "block"):
                return _LOOK_AGAIN  # another one is full now, or it has another policy
            return done

        return attempt

    def _attempt(self, interrupt: Interrupt) -> list[bool] | None:
        """None where `_full` has no room."""
        stale = False
        while True:
            for publishing in self._publishings:
                publishing.refresh(stale)
            if not (self._is_addressed and all(each.is_addressed for each in self._publishings)):
                self._address()
            done = self._engine.admit(self._admissions(), self._op, interrupt)
            if done is not _STALE:
                self.is_done = done is not None
                return done
            stale = True

    def _no_room(self, full: QueueState) -> Full:
        return Full(
            f"{self._what}: queue {full.name!r} has no room (maxsize={full.options.maxsize}, "
            f"maxbytes={full.options.maxbytes}), and nothing was changed: take some messages, wait with a timeout, or "
            "choose another overflow"
        )

    def _admissions(self) -> list[Admission]:
        return [each.admission for each in self._arrivals if each.admission is not None]

    # ------------------------------------------------------------------ who gets what
    def _address(self) -> None:
        engine = self._engine
        engine.end_admissions(self._admissions())
        self._arrivals = []
        arrivals: dict[int, _Arrivals] = {}
        for index, entry in enumerate(self._entries):
            if isinstance(entry, Put):
                got = arrivals.get(entry.queue.id) or arrivals.setdefault(entry.queue.id, _Arrivals(entry.queue))
                got.add(index, entry.rank, [entry.draft])
                got.has_puts = True
                continue
            for queue, drafts in entry.addressed():
                got = arrivals.get(queue.id) or arrivals.setdefault(queue.id, _Arrivals(queue))
                got.add(index, entry.rank, drafts)
        for got in arrivals.values():
            queue = got.queue
            sure = [draft for draft in got.drafts if not draft.asks] if got.asks else got.drafts
            engine.check_can_fit(queue, sure)
            if got.asks:
                if queue.options.overflow in ("drop_oldest", "dead_letter"):
                    engine.schedule.care(queue.id)  # what has expired makes room before anything else does
                got.admission = Admission(engine, queue, list(zip(got.ranks, got.drafts, strict=True)))
        self._arrivals = list(arrivals.values())
        self._is_addressed = True

    # ------------------------------------------------------------------ under L
    def _op(self, txn: Any) -> list[bool] | None:
        self._full = None
        for admission in self._admissions():
            admission.want_nothing()  # only what is planned now may ask for more
        engine = self._engine
        leaving = self._look_at_settlements(txn)
        sizes = [part.check(txn) for part in self._parts]
        deduplicated: dict[tuple[int, bytes], Publishing] = {}
        for publishing in self._publishings:
            if not publishing.look(txn, deduplicated):
                return _STALE
            sizes.append(publishing.size)
        engine.check_all_open([got.queue for got in self._arrivals])
        fed: set[int] = set()
        for publishing in self._publishings:
            fed |= publishing.fed
        storing = [got for got in self._arrivals if got.queue.id not in fed] if fed else self._arrivals
        for got in storing:
            size = self._room_for(txn, got, leaving.get(got.queue.id, _NOBODY_LEAVES))
            if size is None:
                return None if self._is_addressed else _STALE
            sizes.append(size)
        size = sum(sizes)
        if self._settlements:
            moved = sum(map(engine.room_to_move, self._settlements))
            size += moved if moved > MOVED_FREELY else 0
        if size:
            txn.reserve(size)
        self._do(txn, storing, fed)
        return _DONE

    def _look_at_settlements(self, txn: Any) -> dict[int, Leaving]:
        """What leaves each queue. Raises LeaseLost."""
        if not self._settlements:
            return {}
        engine = self._engine
        engine.check_claims(txn, [settlement.claim for settlement in self._settlements])
        leaving: dict[int, Leaving] = {}
        for settlement in self._settlements:
            claim, fate = settlement.claim, engine.fate(txn, settlement)
            left = leaving.setdefault(claim.queue.id, Leaving())
            left.fates[claim.position] = fate
            if fate in (None, "dead"):
                left.count += 1
                left.bytes += engine.log.weight(claim.raw)
        return leaving

    def _room_for(self, txn: Any, got: _Arrivals, leaving: Leaving) -> int | None:
        """Bytes that are needed in the log for what a queue gets; None where it has no room."""
        engine, queue = self._engine, got.queue
        if got.admission is not None:
            if got.admission.plan(txn, leaving):
                return got.admission.size
            self._full = queue
            return None
        options = engine.catalog.options(queue, txn)
        if queue.asks_of_puts:  # since a moment ago
            self._is_addressed = False
            return None
        if options.maxsize and txn.counters(queue.id).total - leaving.count + len(got.drafts) > options.maxsize:
            self._full = queue
            return None
        return sum(map(engine.log.footprint, got.drafts))

    def _do(self, txn: Any, storing: list[_Arrivals], fed: set[int]) -> None:
        """All of it. Nothing fails from here on."""
        engine = self._engine
        for settlement in self._settlements:
            engine.carry_out(txn, settlement)
        for part in self._parts:
            part.do(txn)
        numbers = [entry.keep(txn) if isinstance(entry, Publishing) else [txn.next_seq()] for entry in self._entries]
        for got in storing:
            self._store(txn, got, numbers)
        for got in self._arrivals:
            if got.queue.id in fed or got.some_now:
                txn.notes.append((ARRIVED, got.queue.id))
        for entry, ids in zip(self._entries, numbers, strict=True):
            if isinstance(entry, Publishing):
                entry.complete(txn, ids)

    def _store(self, txn: Any, got: _Arrivals, numbers: list[list[int]]) -> None:
        engine, queue = self._engine, got.queue
        if got.admission is not None:
            ids = got.admission.store(txn, [numbers[index][each] for index, each in got.origins])
        else:
            lineup = None if queue.has_cursors else lineup_of(queue.options, engine.timeline)
            ids = []
            for rank, draft, (index, each) in zip(got.ranks, got.drafts, got.origins, strict=True):
                number = numbers[index][each]
                ids.append(number)
                if draft.due is None:
                    txn.append(queue.id, rank, draft, 0, lineup, number)
                else:
                    engine.delay(txn, queue.id, rank, draft, number)
            engine.note_expiry(txn, queue.id, map(engine.log.record_of, got.drafts))
        if got.has_puts:
            for (index, _), number in zip(got.origins, ids, strict=True):
                entry = self._entries[index]
                if isinstance(entry, Put):
                    entry.id = number


_DONE, _STALE = [True], [False]
_LOOK_AGAIN: list[bool] = []
_NOBODY_LEAVES = Leaving()
