"""How a message comes in: what it asks first, the room it needs, and what makes room for it. [7] [17]"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from ..claims import Kind, Shut
from ..codecs import Payload
from ..errors import MessageTooLarge, ShutDown
from ..log import DEAD_BIT, Batch, Draft
from ..waiting import Interrupt, Seat
from .admission import Admission, Leaving, Ranked
from .catalog import QueueState
from .claiming import Claiming
from .order import lineup_of
from .steps import ARRIVED, Claim
from .tasks import shut_mode

T = TypeVar("T")


class Putting(Claiming):
    """The transition from nothing to `ready` or `delayed`. Free for any thread."""

    def put(self, queue: QueueState, ranked: Ranked, timeout: float | None, interrupt: Interrupt) -> list[int] | None:
        """Store all (rank, draft) in one commit, or nothing; their ids, or those of the messages they repeat.

        Waits for room up to `timeout` seconds (None: for ever); None when there was
        none. Raises ShutDown, StoreFull.
        """
        _ = self.presence.owner
        if queue.asks_of_puts or any(draft.asks for _, draft in ranked):
            return self._put_with_policies(queue, ranked, timeout, interrupt)
        size = sum(self.log.footprint(draft) for _, draft in ranked)
        marked = [record for record in (self.log.record_of(draft) for _, draft in ranked) if record.marks is not None]
        some_now = any(draft.due is None for _, draft in ranked)

        def op(txn: Any) -> list[int] | None:
            self.check_open(queue)
            counters = txn.counters(queue.id)
            options = self.catalog.options(queue, txn)
            if queue.asks_of_puts:
                return _ASKED  # since a moment ago
            if options.maxsize and counters.total + len(ranked) > options.maxsize:
                return None
            txn.reserve(size)
            lineup = None if queue.has_cursors else lineup_of(options, self.timeline)
            ids = [
                txn.append(queue.id, rank, draft, 0, lineup)
                if draft.due is None
                else self.delay(txn, queue.id, rank, draft)
                for rank, draft in ranked
            ]
            if some_now:
                txn.notes.append((ARRIVED, queue.id))
            if marked:
                self.note_expiry(txn, queue.id, marked)
            return ids

        ids = self.log.write(op)
        if ids is None and self.schedule.care(queue.id)[1]:  # what had expired made room
            ids = self.log.write(op)
        if ids is None and timeout != 0:
            ids = self.waiters.wait(queue.id, Kind.SPACE, lambda seat: self.log.write(op), timeout, interrupt)
        if ids is _ASKED:
            return self._put_with_policies(queue, ranked, timeout, interrupt)
        return ids

    def put_alone(self, queue: QueueState, rank: int, payload: Payload) -> int:
        """As `put_one`, of a plain queue, where no other thread is putting or settling; 0 where it is to be asked."""
        _ = self.presence.owner
        if self.passing is not None:
            stored = self.passing.put(queue, rank, payload)
            if stored:
                return stored
        version = queue.version
        if not queue.is_plain:  # since a moment ago. Behind the version, which is adopted last: so it is that of these
            return 0
        return self.log.append_alone(
            queue.id,
            version,
            queue.options.maxsize,
            rank,
            payload,
            self.clock.wall_ns(),
            partial(self.check_open, queue),
            (ARRIVED, queue.id),
        )

    def put_all(self, queue: QueueState, batch: Batch, timeout: float | None, interrupt: Interrupt) -> list[int] | None:
        """As `put`, for messages that ask for nothing but room; for 100 of them in a third of its processor time.

        What is left out is what only others need: drafts, marks and their indexes, orders other than put, policies.
        """
        _ = self.presence.owner
        number, count = queue.id, len(batch)

        def op(txn: Any) -> list[int] | None:
            self.check_open(queue)
            options = self.catalog.options(queue, txn)
            if not queue.is_plain:
                return _ASKED
            if options.maxsize and txn.counters(number).total + count > options.maxsize:
                return None
            txn.reserve(batch.footprint)
            txn.notes.append((ARRIVED, number))
            stored: list[int] = txn.append_all(number, batch)
            return stored

        ids = self.log.write(op)
        if ids is None or ids is _ASKED:
            drafts = map(self.log.prepare, batch.records())
            return self.put(queue, list(zip(batch.ranks, drafts, strict=True)), timeout, interrupt)
        return ids

    def put_one(
        self, queue: QueueState, rank: int, draft: Draft, timeout: float | None, interrupt: Interrupt
    ) -> int | None:
        """As `put`, for one message that asks for nothing but room; its id. (A quarter less time without the flush.)"""
        if not queue.is_plain:
            ids = self.put(queue, [(rank, draft)], timeout, interrupt)
            return None if ids is None else ids[0]
        _ = self.presence.owner
        size, number, plain = self.log.footprint(draft), queue.id, not draft.asks

        def op(txn: Any) -> int | None:
            if not self.aftermath.is_calm_by_rows(number):
                self.check_open(queue)
            options = self.catalog.options(queue, txn)
            if not queue.is_plain:  # since a moment ago
                return _ASKED_ID
            if options.maxsize and txn.counters(number).total >= options.maxsize:
                return None
            txn.reserve(size)
            txn.notes.append((ARRIVED, number))
            if plain:
                txn.note_plain()
            stored: int = txn.append(number, rank, draft)
            return stored

        stored = self.log.write(op)
        if stored is None or stored == _ASKED_ID:
            ids = self.put(queue, [(rank, draft)], timeout, interrupt)
            return None if ids is None else ids[0]
        return stored

    def _put_with_policies(
        self, queue: QueueState, ranked: Ranked, timeout: float | None, interrupt: Interrupt
    ) -> list[int] | None:
        admission = Admission(self, queue, ranked)

        def op(txn: Any) -> list[int] | None:
            if not admission.plan(txn):
                return None
            if admission.size:  # else it was put before
                txn.reserve(admission.size)
            return admission.store(txn)

        def attempt(seat: Seat) -> list[int] | None:
            ids = self.admit([admission], op, interrupt)
            return _REFUSED if ids is None and queue.options.overflow != "block" else ids

        if queue.options.overflow in ("drop_oldest", "dead_letter"):
            self.schedule.care(queue.id)  # what has expired makes room before anything else does
        try:  # a message that another one took the place of is given back at the end
            ids = self.admit([admission], op, interrupt)
            if ids is None and queue.options.maxsize + queue.options.maxbytes and self.schedule.care(queue.id)[1]:
                ids = self.admit([admission], op, interrupt)  # what had expired made room
            if ids is not None or timeout == 0 or queue.options.overflow != "block":
                return ids
            ids = self.waiters.wait(queue.id, Kind.SPACE, attempt, timeout, interrupt)
            return None if ids is _REFUSED else ids
        finally:
            try:
                self.end_admissions([admission])
            except BaseException:  # an interrupt, perhaps before it began: nobody would do it later
                self.end_admissions([admission])
                raise

    def admit(self, admissions: list[Admission], op: Callable[[Any], T | None], interrupt: Interrupt) -> T | None:
        """Run an op that plans and stores these, claiming in between what they are to remove, until it gives
        something. None where there is no room; then nothing is held.
        """
        while True:
            result = self.log.write(op)
            if result is not None:
                return result
            asking = [admission for admission in admissions if admission.wants_more]
            if not asking or not all(admission.claim_more(interrupt) for admission in asking):
                for admission in admissions:
                    admission.let_go()
                return None

    def end_admissions(self, admissions: Iterable[Admission]) -> None:
        """What they hold and have not removed goes back. May be done again."""
        # what was removed is held no more, and passed over
        self.release_all([claim for admission in admissions for claim in admission.held])

    def check_can_fit(self, queue: QueueState, drafts: Sequence[Draft]) -> None:
        """Raises MessageTooLarge, ValueError where the queue would have no room for all of these if it were empty."""
        options = queue.options
        if options.overflow == "dead_letter" or not (0 < options.maxsize < len(drafts) or options.maxbytes):
            return
        size = sum(map(self.log.stored_bytes, drafts))
        if 0 < options.maxbytes < size and len(drafts) == 1:
            raise MessageTooLarge(
                f"a message of {size} bytes can never fit into queue {queue.name!r} with maxbytes={options.maxbytes}: "
                "store it elsewhere and put a reference, or configure(maxbytes=...)"
            )
        if 0 < options.maxsize < len(drafts) or 0 < options.maxbytes < size:
            raise ValueError(
                f"{len(drafts)} messages of {size} bytes can never fit into queue {queue.name!r} with "
                f"maxsize={options.maxsize}, maxbytes={options.maxbytes}: put them in smaller groups"
            )

    def check_all_open(self, queues: Iterable[QueueState]) -> None:
        """As `check_open`, with one look at the claims."""
        unsure = [queue for queue in queues if not self.aftermath.is_calm_by_rows(queue.id)]
        if unsure:
            with self.claims.read() as c:
                shut = [queue for queue in unsure if c.shut(queue.id) is not Shut.OPEN]
            if shut:
                raise self.shut_for_puts(shut[0])

    def check_open(self, queue: QueueState) -> None:
        """Under L. Raises ShutDown."""
        if not self.aftermath.is_calm_by_rows(queue.id) and shut_mode(self.claims, queue.id) is not Shut.OPEN:
            raise self.shut_for_puts(queue)

    @staticmethod
    def shut_for_puts(queue: QueueState) -> ShutDown:
        """What a put raises after shutdown."""
        return ShutDown(f"queue {queue.name!r} was shut down: nothing can be put any more")

    def storing_states(
        self, txn: Any, queue: int, key: bytes, seized: dict[int, Claim], leaving: Leaving
    ) -> Iterator[tuple[int, str]]:
        """Under L: (id, "delayed" | "ready" | "claimed" | "dead") of the messages with a unique key. seized: what the
        put itself has claimed, which is as good as ready.
        """
        with self.claims.read() as c:
            for number in txn.uniques(queue, key):
                place = txn.place(queue, number)
                if place is not None and not place.waits and place.position in leaving.fates:
                    fate = leaving.fates[place.position]
                    if fate is not None:
                        yield number, fate
                elif place is not None:
                    row = None if place.waits else c.row(queue, place.position)
                    claim = seized.get(place.position)
                    claimed = row is not None and (claim is None or claim.row.holder != row.holder)
                    yield number, "delayed" if place.waits else "claimed" if claimed else "ready"
        for number in txn.uniques(queue | DEAD_BIT, key):
            yield number, "dead"


_ASKED: list[int] = []
_ASKED_ID = -1
_REFUSED: list[int] = []
