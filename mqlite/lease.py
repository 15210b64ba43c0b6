"""The claim behind a Message: settles it once, through the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import attrs

from .checks import check_delay
from .engine import Claim, Engine
from .engine.commitment import Commitment
from .engine.publishing import Publishing
from .engine.settling import ACK, NACK, REJECT, Settlement
from .errors import CodecError, LeaseLost, MqliteError, NotClaimed, NotSupported
from .message import Message, Record, Sight, error_texts
from .replies import is_awaited, is_request, reply_to, report_to
from .transaction import Transaction, checked
from .waiting import Interrupt

#: From a body to what is stored, and back.
Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]
#: The user's filter: whether he wants a message.
Accept = Callable[[Message], object]


@attrs.define(eq=False)
class Receiver:
    """What messages were received through: what is common to all messages of a handle. Free for any thread.

    accept: the user's filter, if any; on_end: called with claims that were settled, or found to be lost.
    """

    engine: Engine
    encode: Encode
    decode: Decode
    decode_all: Callable[[Sequence[Any]], list[Any]]
    accept: Accept | None
    on_end: Callable[[Sequence[Claim]], None] | None

    def lease(self, claim: Claim) -> Lease:
        """What settles a claimed message."""
        return Lease(self, claim)

    def ack(self, claim: Claim) -> None:
        """Acknowledge a message, without a lease of its own. See Message.ack."""
        engine = self.engine
        if claim.outcome or claim.settler is not None or claim.row.owner != engine.presence.owner:
            Lease(self, claim).check()
        try:
            engine.ack([claim])
        except LeaseLost:
            self.ended((claim,))
            raise
        claim.outcome, claim.settler = ACK, None
        if self.on_end is not None:
            self.on_end((claim,))

    def message(self, claim: Claim) -> Message | None:
        """The message of a claim; None where its body cannot be decoded, and went to the dead-letter queue, or where
        the user's filter refuses it.
        """
        try:
            body = self.decode(claim.payload)
        except CodecError as error:
            self.engine.bury_undecodable(claim, error)
            return None
        if self.accept is not None and not is_accepted(self.engine, claim, body, self.accept):
            return None
        return Message(body, claim, self)

    def messages(self, claims: Sequence[Claim]) -> list[Message]:
        """The same for each, without those that have none; at once where all of them can be decoded, in four fifths of
        the time.
        """
        if len(claims) == 1:
            message = self.message(claims[0])
            return [] if message is None else [message]
        if self.accept is None:
            try:
                bodies = self.decode_all([claim.payload for claim in claims])
            except CodecError:  # one by one
                pass
            else:
                return list(map(Message, bodies, claims, repeat(self)))
        return [message for message in map(self.message, claims) if message is not None]

    def ended(self, claims: Sequence[Claim]) -> None:
        """These are held no more."""
        if self.on_end is not None:
            self.on_end(claims)


class Lease:
    """Settles one claim of this process. Free for any of its threads; the engine decides who settles first. What became
    of it is noted in the claim, so that messages that are settled together need none of these.
    """

    __slots__ = ("_engine", "_receiver", "claim")

    def __init__(self, receiver: Receiver, claim: Claim) -> None:
        self._engine = receiver.engine
        self._receiver = receiver
        self.claim = claim

    @property
    def settled(self) -> bool:
        """Whether it was settled here."""
        return bool(self.claim.outcome)

    @property
    def engine(self) -> Engine:
        """The engine of its store."""
        return self._engine

    def check(self, *, staged: bool = False) -> None:
        """Raises NotClaimed where it cannot be settled here any more. staged: a transaction may be about to do it."""
        claim = self.claim
        if claim.outcome or claim.settler is not None or self._engine.presence.owner != claim.row.owner:
            self._check_closely(staged)

    def _check_closely(self, staged: bool) -> None:
        claim = self.claim
        what = f"message {claim.record.id} of queue {claim.queue.name!r}"
        if claim.outcome:
            raise NotClaimed(f"{what} was {claim.outcome} already: settle each message once")
        if not staged and claim.settler is not None and claim.settler.is_open:
            raise NotClaimed(f"{what} is to be settled by a transaction, which is still open: settle each message once")
        if self._engine.presence.owner != claim.row.owner:
            raise NotClaimed(
                f"{what} was received by another process (or before its store was closed): only who received it "
                "settles it"
            )

    def end(self, outcome: str) -> None:
        """It was settled, as `outcome` says."""
        self.claim.outcome = outcome
        self.claim.settler = None
        if self._receiver.on_end is not None:
            self._receiver.on_end((self.claim,))

    def _do(self, how: Callable[[], None], *, staged: bool = False) -> None:
        self.check(staged=staged)
        try:
            how()
        except LeaseLost:
            self._receiver.ended((self.claim,))
            raise

    def _settle(self, outcome: str, how: Callable[[], None]) -> None:
        self._do(how)
        self.end(outcome)

    # ------------------------------------------------------------------ by a transaction
    def _leave_to(self, tx: object, settlement: Settlement, reply: Publishing | None = None) -> None:
        """The commit of a transaction settles it. Raises TypeError, ValueError, NotClaimed, Closed."""
        what = f"message {self.claim.record.id} of queue {self.claim.queue.name!r}"
        checked(tx, self._engine, what).settle(self, settlement, reply)

    def stage(self, tx: Transaction) -> None:
        """It is to be settled by that. Raises NotClaimed."""
        self.check()
        self.claim.settler = tx

    def unstage(self) -> None:
        """It does not; if the claim was lost, that is found out now."""
        self.claim.settler = None
        with contextlib.suppress(MqliteError):  # the store was closed, and nobody holds anything
            if self._receiver.on_end is not None and not self._engine.holds(self.claim):
                self._receiver.ended((self.claim,))

    def is_left_to_transaction(self, error: BaseException | None) -> bool:
        """At the end of the message's block: whether an open transaction is to settle it. If that does not, the
        message has failed.
        """
        tx: Transaction | None = self.claim.settler
        return tx is not None and tx.leave(self, error)

    # ------------------------------------------------------------------ settling
    def ack(self, tx: object = None) -> None:
        """See Message.ack."""
        if tx is not None:
            self._leave_to(tx, Settlement(self.claim, ACK))
        else:
            self._receiver.ack(self.claim)

    def nack(self, delay: float | None, error: object, tx: object = None) -> None:
        """See Message.nack."""
        seconds = None if delay is None else check_delay(delay)
        text, trace = error_texts(error)
        if tx is not None:
            self._leave_to(tx, Settlement.of_failure(self.claim, text, trace, seconds))
        else:
            self._settle(NACK, lambda: self._engine.nack(self.claim, text, trace, seconds))

    def reject(self, reason: str | None, tx: object = None) -> None:
        """See Message.reject."""
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason is a str or None, not {reason!r}")
        if tx is not None:
            self._leave_to(tx, Settlement(self.claim, REJECT, reason))
        else:
            self._settle(REJECT, lambda: self._engine.bury(self.claim, "rejected", reason, None))

    def release(self) -> None:
        """See Message.release."""
        self._settle("released", lambda: self._engine.release_all([self.claim], lost_ok=False))

    # ------------------------------------------------------------------ answering
    @property
    def is_request(self) -> bool:
        """Whether `reply` is possible."""
        return is_request(self.claim.record)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still waits for the reply."""
        return is_awaited(self._engine, self.claim.record)

    def reply(self, body: Any, tx: object = None) -> bool:
        """See Message.reply."""
        self.check()
        if not self.is_request:
            raise NotSupported(
                f"message {self.claim.record.id} of queue {self.claim.queue.name!r} is no request: nobody waits for a "
                "reply to it. Answer what Queue.call has put, and acknowledge the rest"
            )
        reply = reply_to(self._engine, self.claim, self._receiver.encode(body))
        if tx is None:
            return self._send(reply)
        self._leave_to(tx, Settlement(self.claim, ACK), reply)
        return True

    def report(self, error: BaseException) -> bool:
        """The same of an error, which the caller gets as a CallFailed."""
        self.check()
        return self._send(report_to(self._engine, self.claim, error, self._receiver.encode))

    def _send(self, reply: Publishing | None) -> bool:
        """The reply is published in the commit that acknowledges the request."""
        if reply is None:
            self.ack()
            return False
        commitment = Commitment(self._engine, "the reply cannot be published")
        commitment.settle(Settlement(self.claim, ACK))
        commitment.store(reply)
        self._settle(ACK, lambda: commitment.run(0, Interrupt("a reply")))
        [(_, receivers)] = reply.outcome
        return receivers > 0

    # ------------------------------------------------------------------ kept longer
    def extend(self, seconds: float) -> None:
        """See Message.extend."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds is a number, not {seconds!r}")
        if not 0 < seconds < 1e9:
            raise ValueError(f"seconds is positive and below 1e9, not {seconds}")
        self._do(lambda: self._engine.extend(self.claim, seconds), staged=True)


def ack_many(messages: Iterable[Message], engine: Engine, queue: str, tx: object = None) -> None:
    """Acknowledge all, in one commit, or none. Raises LeaseLost, NotClaimed."""
    messages = list(messages)
    claims: list[Claim] = []
    told: set[Receiver] = set()
    receiver: Any = None
    owner = 0
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"ack_many takes messages, not {message!r}")
        claim: Any = message._source
        if message._receiver is not receiver or receiver is None:
            receiver = message._receiver
            if receiver is None:
                _ = message.lease  # raises NotClaimed
            if receiver.engine is not engine:
                raise NotClaimed(
                    f"message {message.id} belongs to another store than queue {queue!r}: acknowledge it there"
                )
            if receiver.on_end is not None:
                told.add(receiver)
            owner = engine.presence.owner
        if claim.outcome or claim.settler is not None or claim.row.owner != owner:  # `check` without its calls
            message.lease.check()
        claims.append(claim)
    if len(set(claims)) < len(claims):
        number = next(claim.record.id for claim in claims if claims.count(claim) > 1)
        raise NotClaimed(f"message {number} of queue {queue!r} is named twice: name each once")
    if tx is not None:
        for message in messages:
            message.lease.ack(tx)
        return
    if claims:
        engine.ack(claims)
    for claim in claims:
        claim.outcome, claim.settler = ACK, None  # `end` without its call
    for receiver in told:
        receiver.ended(claims)


def message_of(queue: str, position: int, record: Record, body: Any) -> Message:
    """A Message for the user that nobody holds by it."""
    return Message(body, Sight(queue, position, record))


def is_accepted(engine: Engine, claim: Claim, body: Any, accept: Accept) -> bool:
    """What the user's filter says of a message. One that it refuses is settled now; if it raises, that is a failure."""
    with contextlib.suppress(LeaseLost):
        try:
            if accept(message_of(claim.queue.name, claim.position, claim.record, body)):
                return True
        except Exception as error:
            engine.nack(claim, *error_texts(error), None)
        else:
            engine.ack([claim])
    return False
