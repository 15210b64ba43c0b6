"""A claim on what is about to be committed. [28]

Where a commit waits for the disk, who waits for its message is woken when it begins. He makes his row then, while the
disk is busy, and has but to look and return after it (a quarter of the time from the commit to the return of receive()
less). The row is like others: nobody meets it before the message is there, and everybody passes it over from then on.
Only the cursor stays where it is: if the commit fails, the next message may get the same place.

A message that is not there for long is not waited for: the row goes, and he waits as everybody does. Nobody has the
message in his hands by that row, and so none can be removed by it: it goes under C alone, and a timeout, a close and an
interrupt need not wait for a commit that hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..claims import STARTED, Row
from ..claims.expected import Expecting
from ..message import Position
from ..waiting import Seat
from .catalog import QueueState
from .steps import Claim

if TYPE_CHECKING:
    from .seizing import Seizing


class Expectation(NamedTuple):
    """`Seat.expected`: the claim, and the list of the claimer that it is in."""

    claim: Claim
    into: list[Claim]


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
    seat.expected = Expectation(claim, into)
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


def has_come(engine: Seizing, seat: Seat) -> bool:
    """Whether the expected message is there, and among the claims. If it is not, and is not on its way any more, or
    there is no time left for it, nothing is expected from now on.

    Raises ShutDown. Cost: one look; and a commit of the claims where it is given up. Never waits for L.
    """
    claim, into = seat.expected
    queue, position, expected = claim.queue, claim.position, engine.claims.expected
    assert expected is not None
    with engine.log.read() as snapshot:
        raw = snapshot.look_up(queue.id, position)
    if raw is None:
        if seat.patient and expected.coming(queue.id) == position:
            return False
        raw = _look_again(engine, claim)
        if raw is None:
            into.clear()
            _forget(engine, seat)
            return False
    _forget(engine, seat)  # from now on a death blames the message
    if _is_held(engine, claim):
        claim.raw = raw
        engine._open_in_line(queue.id, into)
        if into and into[0].record.marks is None:  # else another message got the place
            return True
    engine.release_all(into)
    into.clear()
    return False


def give_up(engine: Seizing, seat: Seat) -> None:
    """He waits no more, and has not looked: the row goes; if the message is there, it stays among the claims, which the
    caller gives back. May be done again after an interrupt. Raises Closed.
    """
    claim, into = seat.expected
    try:
        if _look_again(engine, claim) is None:
            into.clear()
    finally:
        _forget(engine, seat)


def _forget(engine: Seizing, seat: Seat) -> None:
    """Not before the row is gone, or has its message: what is named so is nobody's task."""
    expected = engine.claims.expected
    assert expected is not None
    expected.free(seat.expected.claim.row.owner, seat.sleeper)
    seat.expected = None


def _look_again(engine: Seizing, claim: Claim) -> Any:
    """What is there; where nothing is, the row goes.

    Under C, in a snapshot opened after it: so no cursor has passed the place, and if the message comes later, it lies
    ahead of it as if nobody had expected it.
    """
    queue, position = claim.queue, claim.position
    with engine.claims.lock, engine.claims.guard, engine.claims.write() as c:
        with engine.log.glance() as snapshot:
            raw = snapshot.look_up(queue.id, position)
        row = c.row(queue.id, position)
        if raw is None and row is not None and row.holder == claim.row.holder:
            c.drop(queue.id, position)
    expected = engine.claims.expected
    if raw is None and expected is not None:
        expected.withdraw(queue.id, position)  # its process was killed, or has failed; or it takes long
    return raw


def _is_held(engine: Seizing, claim: Claim) -> bool:
    """Whether the row is still there, and times out no sooner than it should."""
    row, queue = claim.row, claim.queue
    if not queue.is_timely(row.deadline_ns, engine.clock.monotonic_ns()):
        return engine.start(claim)
    return claim.commit == engine.claims.last_commit() or engine.is_held(claim)
