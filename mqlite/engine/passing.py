"""Plain messages that pass by the tree, one at a time: put, claimed and settled in the front (log/front.py). [29] [31]

At level "full" each put and each settlement ends with a flush of the front, under no lock (log/front_flush.py). [33]
Who waits for one sits on the bench (claims/bench.py). [32]

What decides is what decides elsewhere: settings, shutdown, room, who is first in line, deadlines, who waits. Where
anything but the line might have a say, each function leaves the message to the general way, with nothing changed, and
says so. It is done under L, for no longer than the lock of a data structure is held: no user's code runs in it, and
nobody waits for the disk but once in a hundred messages, where a fold is due, or some of the tree are brought.

A claim that was made here has a place in the front instead of a row. Whoever else looks at claims has the front folded
first, which makes it a row with the same token: so whatever the short way does not know can be done with it.
And what was claimed by rows elsewhere may be settled here all the same (`remove`). [34]
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from ..claims import TASK, Row, Shut, Waiting
from ..claims.runs import stretches
from ..claims.shared import SharedClaims
from ..codecs import BYTES, Payload
from ..errors import Closed, MqliteError
from ..log import format as fmt
from ..log.front import Front
from ..log.front_file import HEAD, MOST_BODY_BYTES, MOST_REMOVED_BYTES, MOST_RUNS, NEEDED, OPEN, RUN, TOTAL, VALUE_AT
from ..log.front_flush import Flushes
from ..log.front_records import Lane
from ..log.front_removals import Stretch
from ..message import Position
from ..system.control import CLAIMS
from .catalog import QueueState
from .sitting import Sitting
from .steps import ARRIVED, Claim
from .tasks import shut_mode

if TYPE_CHECKING:
    from .machine import Engine

#: A Row of its fields, in half the time.
new_row: Callable[[type[Row], tuple[int, ...]], Row] = tuple.__new__
#: `Claim.commit` of one that was made here: no commit of the claims.
NO_COMMIT = -3


class Removal(NamedTuple):
    """Messages of one queue that are settled together.

    positions: in ascending order; stretches: the same, of neighbours; size_bytes: what they would take in the front.
    commit: the first of the claims that made any of them somebody's.
    """

    positions: list[Position]
    stretches: list[Stretch]
    size_bytes: int
    commit: int


class Passing(Sitting):
    """The short way of one engine. Free for any thread."""

    def __init__(self, engine: Engine, front: Front, claims: SharedClaims, words: memoryview) -> None:
        super().__init__(engine, front, claims, words)
        self._calm = engine.aftermath.calm
        self._last_commit = claims.last_commit  # for who has let go of L: the words may be gone with the store
        self._wall_ns = engine.clock.wall_ns
        self._seen_epoch, self._seen_commit = 0, 0  # an epoch, and the last commit of the claims when it was seen first

    # ------------------------------------------------------------------ in
    def put(self, queue: QueueState, rank: int, payload: Payload) -> int:
        """Store a plain message; its id. 0: the general way is to be taken."""
        front = self._front
        tag, body = payload
        if self._is_shut() or len(body) > MOST_BODY_BYTES:
            return 0
        body_crc, now_ns, number, flushes = crc32(body), self._wall_ns(), queue.id, front.flushes
        called: list[Waiting] = []
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock:
                try:
                    if not front.enter():
                        return 0
                    commit = self._words[CLAIMS]
                    is_calm = self._calm.get(number) == commit or self._aftermath.is_calm_by_rows(number)
                    if not is_calm and shut_mode(self._claims, number) is not Shut.OPEN:
                        return 0
                    stored = 0
                    lane = front.lane(number, queue.version)
                    if lane is not None and self._has_room(queue, lane):
                        stored = front.append(lane, rank, tag, body, body_crc, now_ns)
                        if not stored and front.turn():
                            lane = front.lane(number, queue.version)
                            if lane is not None:
                                stored = front.append(lane, rank, tag, body, body_crc, now_ns)
                    end, epoch = front.words[HEAD], front.epoch
                    if stored and flushes is None and not self._bench.is_empty():
                        self._choose(number, called)
                finally:
                    front.guard.leave()
            if stored and flushes is not None:
                flushes.wait_for_record(end, epoch)
                if not self._bench.is_empty():
                    self._choose_one(number, called)
            if called:
                self._call(number, called)
            if stored and not (is_calm and commit == self._last_commit()):  # who registers now looks into the front
                self._aftermath.run([(ARRIVED, number)])
        except BaseException:  # perhaps when it was stored
            self._let_go_unflushed()
            self._ring_all(called)
            self._aftermath.run([(ARRIVED, number)])
            raise
        return stored

    def _has_room(self, queue: QueueState, lane: Lane) -> bool:
        maxsize = queue.options.maxsize
        return queue.is_plain and (not maxsize or self._front.words[lane.slot + TOTAL] < maxsize)

    # ------------------------------------------------------------------ to somebody
    def claim(self, queue: QueueState, flags: int, into: list[Claim]) -> bool | None:
        """What is first in line, as a claim in `into`, the caller's. False where nothing is; None, and nothing done,
        where the general way is to be taken.
        """
        front = self._front
        words = front.words
        if not words[OPEN] and words[RUN] < words[NEEDED]:
            return None
        owner = self._presence.owner
        if front.lock.locked():
            front.let_others_finish()
        try:
            with front.lock:
                try:
                    found = self._first(queue)
                    if not found:
                        return None if found is None else False
                    position, at, deadline_ns = found
                    key, raw = front.key_and_value(at)
                    row = new_row(Row, (self._claims.new_token(), owner, deadline_ns, flags, 0, 1, 0))
                    claim = Claim(queue, position, row, raw, NO_COMMIT)
                    claim.at, claim.epoch = at, front.epoch
                    into.append(claim)  # before it is claimed: an interrupt leaves none that nobody holds
                    front.claim(at, row.token, owner, deadline_ns, flags)
                finally:
                    front.guard.leave()
        except BaseException:
            self._let_go()
            raise
        payload = _payload(key, raw)
        if payload is None:
            self._engine._open_in_line(queue.id, into)
            return True if into else None  # damaged, and among the dead letters: what is behind it is to be had still
        claim.payload, claim.rest = payload, fmt.plain_rest
        return True

    def take(self, queue: QueueState, flags: int) -> Any:
        """The same, settled at once: the payload of one whose body needs no decoding. None also where it needs some,
        False where nothing is there.
        """
        if self._is_shut():
            return None
        owner, front, number, flushes = self._presence.owner, self._front, queue.id, self._front.flushes
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock:
                try:
                    found = self._first(queue)
                    if not found:
                        return found
                    at = found[1]
                    payload = _payload(*front.key_and_value(at))
                    if payload is None or payload[0] != BYTES:
                        return None
                    gone, epoch = front.take(front.lanes[number].slot, at, owner, flags), front.epoch
                finally:
                    front.guard.leave()
            if flushes is not None:
                self._flush_settled(flushes, gone, epoch, at)
            if self._calm.get(number) != self._last_commit():
                self._aftermath.look_after(number)
        except BaseException:
            self._let_go_unflushed()
            self._aftermath.look_after(number)
            raise
        return payload

    # ------------------------------------------------------------------ out
    def settle(self, claim: Claim) -> bool:
        """Remove the message of a claim that was made here. False: the general way is to be taken."""
        front, row = self._front, claim.row
        if front.words[OPEN] != claim.epoch:
            return False
        number, flushes = claim.queue.id, front.flushes  # the store may be closed meanwhile
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock:
                try:
                    if (
                        not front.enter()
                        or front.epoch != claim.epoch
                        or not front.is_held(claim.at, row.token, row.owner)
                    ):
                        return False
                    gone = front.finish(front.lanes[number].slot, claim.at)  # there since it was claimed
                finally:
                    front.guard.leave()
            if flushes is not None:
                self._flush_settled(flushes, gone, claim.epoch, claim.at)
            if self._calm.get(number) != self._last_commit():
                self._aftermath.look_after(number)
        except BaseException:
            self._let_go_unflushed()
            self._aftermath.look_after(number)
            raise
        return True

    def removal_of(self, claims: list[Claim]) -> Removal | None:
        """What to say of these, which end together, to `remove` them; None where that takes more than it can say."""
        if len(claims) > 1 and self._front.flushes is None:  # nobody waits for the disk: a commit costs no more
            return None
        queue, last = claims[0].queue, None
        # where messages age, a position may come again while a row is left there
        if queue.topic or queue.prepared_for or queue.options.aging is not None:
            return None
        for claim in claims:
            if claim.row is not last:
                last = claim.row
                if last.group or last.flags & TASK:
                    return None
            if claim.queue is not queue:
                return None
        raws = [claim.raw for claim in claims]
        size = sum(map(len, raws)) + VALUE_AT * len(raws)
        if size > MOST_REMOVED_BYTES or not all(map(fmt.is_unmarked, raws)):
            return None
        positions = sorted([claim.position for claim in claims])
        neighbours = stretches(positions)
        if len(neighbours) > MOST_RUNS:
            return None
        return Removal(positions, neighbours, size, min([claim.commit for claim in claims]))

    def remove(self, claims: list[Claim], removal: Removal) -> bool:
        """Messages of the tree that this process holds by rows leave the queue: said here, for the next fold. False:
        the general way is to be taken. Raises LeaseLost. [34]
        """
        if self._is_shut():
            return False
        front, queue, flushes = self._front, claims[0].queue, self._front.flushes
        number = queue.id
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                if not (front.enter() and front.lane(number, queue.version) and _have_rows(claims, front.epoch)):
                    return False
                if not self._are_in_tree(number, removal):
                    return False
                self._engine.check_rows(claims)
                if not self._note_removed(queue, claims, removal) and not (
                    front.turn() and self._note_removed(queue, claims, removal)
                ):
                    return False
                end, epoch = front.words[HEAD], front.epoch
            if flushes is not None:
                flushes.wait_for_record(end, epoch, "nothing is settled")
            if self._calm.get(number) != self._last_commit():
                self._aftermath.look_after(number)
        except BaseException:
            self._let_go_unflushed()
            self._aftermath.look_after(number)
            raise
        return True

    def _are_in_tree(self, queue: int, removal: Removal) -> bool:
        """Under L. No commit changes the tree while the front is open: what was claimed in it is there still."""
        front = self._front
        if self._seen_epoch != front.epoch:
            self._seen_epoch, self._seen_commit = front.epoch, self._words[CLAIMS]
        if removal.commit > self._seen_commit:
            return True
        try:
            with self._engine.log.glance() as snapshot:
                return snapshot.has_all(queue, removal.positions)
        except MqliteError:  # it takes no more readers: the general way does without one, or says so
            return False

    def _note_removed(self, queue: QueueState, claims: list[Claim], removal: Removal) -> bool:
        """Under L; False where there is no room."""
        front = self._front
        lane = front.lane(queue.id, queue.version)
        if lane is None:
            return False
        for claim in claims:  # before it is said: an interrupt leaves none of which it can be said once more
            claim.at, claim.epoch = 0, front.epoch
        return front.remove(lane, removal.stretches, len(claims), removal.size_bytes)

    # ------------------------------------------------------------------ to the disk
    def _flush_settled(self, flushes: Flushes, gone: int, epoch: int, at: int) -> None:
        """Raises StoreError: then it is held still."""
        if flushes.wait_for_settled(gone, epoch):
            return
        try:
            is_settled = not self._take_back(epoch, at)
        except Closed:
            is_settled = flushes.is_settled(gone)  # who closed the store has brought it to the tree
            if not is_settled:
                raise
        if not is_settled:
            raise flushes.failed("the message is not settled")

    def _take_back(self, epoch: int, at: int) -> bool:
        """A settlement that was not flushed is none: the claim goes on. False where a fold has brought it to the
        tree. Raises Closed.
        """
        front = self._front
        with front.lock, front.guard:
            front.take_gate()
            if not front.has(epoch):
                return False
            with self._claims.read() as c:
                has_rows = c.taken_over() >= epoch
            if has_rows:  # of a fold that was cut short, which took the message for settled
                self._claims.take_over_late(front.held_at(at), TASK)
            front.take_back(at)
        return True

    def _let_go_unflushed(self) -> None:
        """`_let_go` of who may have stored something that nobody is about to flush: the front is shut, so the next who
        comes brings it to the tree.
        """
        front = self._front
        with contextlib.suppress(MqliteError), front.lock, front.guard:
            if front.flushes is not None:
                front.take_gate()
                front.shut()


def _have_rows(claims: list[Claim], epoch: int) -> bool:
    """Whether it was said of none that it is removed, and none is in the front itself, which is open for that epoch."""
    return not any(claim.epoch and (not claim.at or claim.epoch == epoch) for claim in claims)


def _payload(key: bytes, raw: bytes) -> Payload | None:
    """The body of a message; None where it has more than that, or does not match its checksum."""
    crc, version, tag, flags, extras_bytes = fmt.SUM_AND_KIND.unpack_from(raw)
    body = raw[fmt.HEADER_BYTES :]
    if flags or extras_bytes or version != fmt.VERSION:
        return None
    if crc != crc32(key, crc32(raw[fmt.CRC_BYTES : fmt.HEADER_BYTES], crc32(body))):
        return None
    return tag, body
