"""Plain messages that pass by the tree, one at a time: put, claimed and settled in the front (log/front.py). [29] [31]

Who waits for one sits on the bench (claims/bench.py). [32]

What decides is what decides elsewhere: settings, shutdown, room, who is first in line, deadlines, who waits. Where
anything but the line might have a say, each function leaves the message to the general way, with nothing changed, and
says so. It is done under L, for no longer than the lock of a data structure is held: nobody waits for the disk in it,
and no user's code runs.

A claim that was made here has a place in the front instead of a row. Whoever else looks at claims has the front folded
first, which makes it a row with the same token: so whatever the short way does not know can be done with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..claims import Row, Shut, Waiting
from ..claims.known import Line
from ..claims.shared import SharedClaims
from ..codecs import BYTES, Payload
from ..errors import Closed
from ..log import format as fmt
from ..log.front import BROUGHT, BROUGHT_BYTES, Front, Lane
from ..log.front_file import END, HEAD, MOST_BODY_BYTES, MOST_RECORDS, NEEDED, OPEN, RUN, TOTAL
from ..message import Position
from ..system.control import CLAIMS
from .catalog import QueueState
from .steps import ARRIVED, Claim
from .tasks import shut_mode

if TYPE_CHECKING:
    from .machine import Engine

#: A Row of its fields, in half the time.
new_row: Callable[[type[Row], tuple[int, ...]], Row] = tuple.__new__
#: `Claim.commit` of one that was made here: no commit of the claims.
NO_COMMIT = -3


class Passing:
    """The short way of one engine. Free for any thread."""

    def __init__(self, engine: Engine, front: Front, claims: SharedClaims, words: memoryview) -> None:
        """words: of `log.control`."""
        self._engine = engine
        self._front = front
        self._claims = claims
        self._words = words
        self._aftermath = engine.aftermath
        self._calm = engine.aftermath.calm
        self._waiters = engine.waiters
        assert claims.bench is not None
        self._bench = claims.bench
        self._presence = engine.presence
        self._wall_ns = engine.clock.wall_ns
        self._monotonic_ns = engine.clock.monotonic_ns

    # ------------------------------------------------------------------ in
    def put(self, queue: QueueState, rank: int, payload: Payload) -> int:
        """Store a plain message; its id. 0: the general way is to be taken."""
        front = self._front
        tag, body = payload
        if self._is_shut() or len(body) > MOST_BODY_BYTES:
            return 0
        body_crc, now_ns, number = crc32(body), self._wall_ns(), queue.id
        called: list[Waiting] = []
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
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
                if stored and not self._bench.is_empty():
                    self._choose(number, called)
            if called:
                self._call(number, called)
            if stored and not (is_calm and commit == self._words[CLAIMS]):  # who registers now looks into the front
                self._aftermath.run([(ARRIVED, number)])
        except BaseException:  # perhaps when it was stored
            self._let_go()
            self._ring_all(called)
            self._aftermath.run([(ARRIVED, number)])
            raise
        return stored

    def _choose(self, number: int, called: list[Waiting]) -> bool:
        """Under L: one who sits there is to be rung, and sits no more. False where nobody does. `called` is the
        caller's: whom an interrupt keeps him from ringing, he finds there.
        """
        found = self._bench.first(number)
        if found is None:
            return False
        called.append(found[1])
        self._bench.leave(found[0])
        return True

    def _call(self, number: int, called: list[Waiting]) -> None:
        """Ring the one who was chosen; if he is gone, the next one. [9]"""
        while not self._waiters.ring(called[-1].owner, called[-1].sleeper):
            self._front.let_others_finish()
            try:
                with self._front.lock, self._front.guard:
                    self._front.take_gate()
                    if not self._choose(number, called):
                        return
            except Closed:  # others see this process leave, and look
                return

    def _ring_all(self, called: list[Waiting]) -> None:
        for waiting in called:
            self._waiters.ring(waiting.owner, waiting.sleeper)

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
            with front.lock, front.guard:
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
        except BaseException:
            self._let_go()
            raise
        fields = _fields(key, raw)
        if fields is None:
            self._engine._open_in_line(queue.id, into)
            return True if into else None  # damaged, and among the dead letters: what is behind it is to be had still
        claim.fields = fields
        return True

    def take(self, queue: QueueState, flags: int) -> Any:
        """The same, settled at once: the payload of one whose body needs no decoding. None also where it needs some,
        False where nothing is there.
        """
        if self._is_shut():
            return None
        owner, front, number = self._presence.owner, self._front, queue.id
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                found = self._first(queue)
                if not found:
                    return found
                at = found[1]
                fields = _fields(*front.key_and_value(at))
                if fields is None or fields[0][0] != BYTES:
                    return None
                front.take(front.lanes[number].slot, at, owner, flags)
            if self._calm.get(number) != self._words[CLAIMS]:
                self._aftermath.look_after(number)
        except BaseException:
            self._let_go()
            self._aftermath.look_after(number)
            raise
        return fields[0]

    # ------------------------------------------------------------------ waiting for it
    def sit(self, queue: int, waiting: Waiting) -> int | None:
        """See BenchKeeper. He sits before the look, and the claims are looked at again when the gate was given back:
        who changes those looks at the bench afterwards. [5]

        Who sits wakes for the next deadline only. So nobody does who is to look at other times: for dead letters, which
        come when something expires in another queue, and for what the dead have left to be done.
        """
        state, front, bench = self._engine.catalog.known(queue), self._front, self._bench
        if state is None or state.is_dead or self._is_shut() or self._engine.takeback.has_to_settle:
            return None
        wake_ns = None
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                if not front.enter():
                    return None
                place = bench.place_of(queue, waiting.sleeper, waiting.owner) or bench.sit(queue, waiting)
                found = self._first(state) if place else None
                if found is False:
                    lane = front.lanes[queue]
                    commit, wake_ns = lane.commit, lane.deadline_ns
                    bench.note_wake(place, wake_ns)
                elif place:
                    bench.leave(place)
        except BaseException:
            self._let_go()
            raise
        if wake_ns is None:
            return -1 if found else None
        return wake_ns if commit == self._claims.last_commit() else -1

    def get_up(self, queue: int, sleeper: int, owner: int) -> None:
        """See BenchKeeper. Free for who was called."""
        if self._bench.is_empty() or not self._bench.place_of(queue, sleeper, owner):
            return
        front = self._front
        front.let_others_finish()
        try:
            with front.lock, front.guard:
                front.take_gate()
                place = self._bench.place_of(queue, sleeper, owner)
                if place:
                    self._bench.leave(place)
        except BaseException:
            self._let_go()
            raise

    def pass_on(self, number: int) -> bool:
        """See BenchKeeper. [9]"""
        if not self._aftermath.is_calm_by_rows(number):
            return False
        if self._bench.is_empty():
            return True
        state, front = self._engine.catalog.known(number), self._front
        if state is None or self._is_shut():
            return False
        called: list[Waiting] = []
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                found = self._first(state)
                if found is None:
                    return False
                deadline_ns = front.lanes[number].deadline_ns
                if found or (deadline_ns and not self._bench.looks_by(number, deadline_ns)):
                    self._choose(number, called)
            if called:
                self._call(number, called)
        except BaseException:
            self._let_go()
            self._ring_all(called)
            raise
        return True

    def has_any(self, queue: int) -> bool | None:
        """Whether a claimer would find a message; None where it takes more than a look at the line to say so."""
        state, front = self._engine.catalog.known(queue), self._front
        if state is None or self._is_shut():
            return None
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                found = self._first(state)
        except BaseException:
            self._let_go()
            raise
        return None if found is None else bool(found)

    def _let_go(self) -> None:
        """After an interrupt, which may have come just when the guard was about to open the gate: it does so now."""
        with self._front.lock, self._front.guard:
            pass

    def _is_shut(self) -> bool:
        words = self._front.words
        return not words[OPEN] and words[RUN] < words[NEEDED]

    def _first(self, queue: QueueState) -> Any:
        """Under L: (place, where it is, deadline) of what is first in line; False where nothing is, None where
        something else has a say.
        """
        front = self._front
        if not front.enter():
            return None
        for _ in range(3):
            lane = front.lanes.get(queue.id)
            if lane is None or lane.version != queue.version:
                lane = front.lane(queue.id, queue.version)
            if lane is None or not (lane.in_line and queue.is_in_line):
                return None
            if self._words[CLAIMS] != lane.commit and not self._look_at_claims(queue.id, lane):
                return None
            now_ns, earliest_ns = self._monotonic_ns(), lane.deadline_ns
            deadline_ns = now_ns + queue.ack_timeout_ns if queue.ack_timeout_ns else 0
            if (earliest_ns <= now_ns if earliest_ns else deadline_ns) or earliest_ns > deadline_ns > 0:
                return None  # somebody has to be told of it, or another's is over
            found = front.first(lane)
            if found is not None:
                return *found, deadline_ns
            if front.is_exhausted(lane):
                return False
            if not self._bring(queue, lane):
                return None
        return None

    def _look_at_claims(self, number: int, lane: Lane) -> bool:
        """Whether nothing but the line decides, as far as the claims know, and there is room for more of them."""
        commit = self._words[CLAIMS]
        if lane.heap is None:
            self._front.index(lane)
        with self._claims.read() as c:
            generation = c.generation()
            if (
                generation != self._presence.generation
                or c.any_seat(generation)
                or c.shut(number) is not Shut.OPEN
                or c.anything_returned(number)
                or not c.has_room_for(MOST_RECORDS)
            ):
                return False
            lane.deadline_ns = c.deadline_ns(number)
        lane.commit = commit
        return True

    def _bring(self, queue: QueueState, lane: Lane) -> bool:
        """Under L: the next messages of the tree, under C. False where none can be brought."""
        front, claims = self._front, self._claims
        if END - front.words[HEAD] < BROUGHT_BYTES:
            return front.turn()
        number, total = queue.id, front.words[lane.slot + TOTAL]
        is_done = False
        front.shut()
        with claims.lock, claims.guard, claims.write() as c:
            line = c.line(number, self._presence.generation)
            if line is not None:
                count = self._how_many(number, total)
                horizon = front.horizon(lane)
                cursor: Callable[[int], Position | None] = partial(_passed, c, number, line, horizon)
                found = self._engine.log.first_in_line(number, lane.version, cursor, count)
                # under C: else who gets it next finds the front empty, and claims them, too
                is_done = found is not None and front.bring(lane, found, count)
        front.reopen()
        return is_done

    def _how_many(self, number: int, total: int) -> int:
        """How many messages to bring at once; at least two."""
        with self._engine.log.glance() as snapshot:
            counters = snapshot.counters(number)
        mean = counters.bytes // max(1, counters.total)
        return max(2, min(BROUGHT, BROUGHT_BYTES // (mean + 128)))

    # ------------------------------------------------------------------ out
    def settle(self, claim: Claim) -> bool:
        """Remove the message of a claim that was made here. False: the general way is to be taken."""
        front, row = self._front, claim.row
        if front.words[OPEN] != claim.epoch:
            return False
        number = claim.queue.id
        try:
            if front.lock.locked():
                front.let_others_finish()
            with front.lock, front.guard:
                if not front.enter() or front.epoch != claim.epoch or not front.is_held(claim.at, row.token, row.owner):
                    return False
                front.finish(front.lanes[number].slot, claim.at)  # there since it was claimed
            if self._calm.get(number) != self._words[CLAIMS]:
                self._aftermath.look_after(number)
        except BaseException:
            self._let_go()
            self._aftermath.look_after(number)
            raise
        return True


def _passed(c: Any, number: int, line: Line, horizon: Position, rank: int) -> Position | None:
    """Up to where messages of a rank are claimed or in the front; None where that cannot be said."""
    if rank < horizon >> 64:
        return (rank + 1 << 64) - 1
    cursor: Position | None = c.clear_cursor(number, line, rank)
    return cursor if cursor is None or rank > horizon >> 64 else max(cursor, horizon)


def _fields(key: bytes, raw: bytes) -> tuple[Any, ...] | None:
    """What a message says that was claimed for the first time since it was stored (`Record.fields`); None where it has
    more than a body, or does not match its checksum.
    """
    crc, version, tag, flags, extras_bytes, number, enqueued_ns, failures, acquired = fmt.HEAD.unpack_from(raw)
    body = raw[fmt.HEADER_BYTES :]
    if flags or extras_bytes or version != fmt.VERSION:
        return None
    if crc != crc32(key, crc32(raw[fmt.CRC_BYTES : fmt.HEADER_BYTES], crc32(body))):
        return None
    return (tag, body), enqueued_ns, number, failures, acquired + 1
