"""A claim on what is about to be committed. [28]

Where a commit waits for the disk, who waits for its message is woken when it begins. He makes his row then, while the
disk is busy, and has but to look and return after it (a quarter of the time from the commit to the return of receive()
less). The row is like others: nobody meets it before the message is there, and everybody passes it over from then on.
Only the cursor stays where it is: if the commit fails, the next message may get the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..claims import STARTED, Row
from ..claims.expected import Expecting
from ..message import Position
from ..waiting import Seat
from .catalog import QueueState
from .steps import Claim

if TYPE_CHECKING:
    from .seizing import Seizing


def expect(
    engine: Seizing,
    c: Any,
    owner: int,
    queue: QueueState,
    position: Position,
    flags: int,
    started: int,
    seat: Seat,
    into: list[Claim],
) -> bool:
    """Under C: a row for a message on its way, as a claim in `into`, for one who waits and has found nothing in line in
    a snapshot that was opened since that message was announced: what was committed before, he would have seen.
    Nothing is done where somebody expects one already. Whether others may have to be told of an earlier deadline.
    """
    expected = engine.claims.expected
    line = c.line(queue.id, engine.presence.generation)
    if expected is None or not expected.is_free() or line is None or not c.has_room_for(1):
        return False
    deadline_ns = 0
    if queue.ack_timeout_ns:
        deadline_ns = engine.clock.monotonic_ns() + queue.ack_timeout_ns + queue.slack_ns
    row = Row(c.token, owner, deadline_ns, flags if started else flags & ~STARTED, 0, 1)
    claim = Claim(queue, position, row, b"", c.commit)
    seat.expected = claim
    into.append(claim)
    if not c.claim_expected(queue.id, line, position, row):  # somebody else has claimed it since
        into.clear()
        seat.expected = None
        return False
    expected.expect(Expecting(queue.id, position, owner, seat.sleeper, c.commit))
    is_earliest = deadline_ns > 0 and not 0 < line.deadline_ns <= deadline_ns
    if is_earliest:
        c.note_deadline(queue.id, deadline_ns)
    return is_earliest


def has_come(engine: Seizing, seat: Seat, into: list[Claim], *, surely: bool = False) -> bool:
    """Whether the expected message is there, and in `into`. If not, it is still expected; but not if it is not coming
    any more, as far as is known, or where `surely` says so: then nothing is.

    Raises ShutDown. Cost: one look; to be sure, the wait for the commit that is under way.
    """
    claim, expected = seat.expected, engine.claims.expected
    queue, position = claim.queue, claim.position
    assert expected is not None
    with engine.log.read() as snapshot:
        raw = snapshot.look_up(queue.id, position)
    if raw is None:
        if not surely and expected.coming(queue.id) == position:  # read behind the look
            return False
        raw = engine.log.hold(lambda txn: _look_again(engine, txn, queue.id, position))
    if raw is not None:
        expected.free(claim.row.owner, seat.sleeper)  # from now on a death blames the message
        if _is_held(engine, claim):
            claim.raw = raw
            engine._open_in_line(queue.id, into)
            if into and into[0].record.marks is None:  # else another message got the place
                seat.expected = None
                return True
    engine.release_all(into)
    into.clear()
    expected.free(claim.row.owner, seat.sleeper)
    seat.expected = None
    return False


def _look_again(engine: Seizing, txn: Any, queue: int, position: Position) -> Any:
    """Under L: no commit is under way."""
    raw, expected = txn.look_up(queue, position), engine.claims.expected
    if raw is None and expected is not None and expected.coming(queue) == position:
        expected.withdraw()
    return raw


def _is_held(engine: Seizing, claim: Claim) -> bool:
    """Whether the row is still there, and times out no sooner than it should."""
    row, queue = claim.row, claim.queue
    if row.deadline_ns:
        spare_ns = row.deadline_ns - engine.clock.monotonic_ns() - queue.ack_timeout_ns
        if not 0 <= spare_ns <= queue.slack_ns:
            return engine.start(claim)
    return claim.commit == engine.claims.last_commit() or engine.is_held(claim)
