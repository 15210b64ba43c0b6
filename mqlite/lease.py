"""The claim behind a Message: settles it once, through the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from .checks import check_delay
from .engine import Claim, Engine
from .engine.commitment import Commitment
from .engine.publishing import Publishing
from .engine.settling import ACK, NACK, REJECT, Settlement
from .errors import CodecError, LeaseLost, MqliteError, NotClaimed, NotSupported
from .message import PLAIN_FIELDS, Death, Message, Record, error_texts, priority_of, rank_at, utc
from .replies import is_awaited, is_request, reply_to, report_to
from .transaction import Transaction, checked
from .waiting import Interrupt

#: From a body to what is stored, and back.
Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]
#: The user's filter: whether he wants a message.
Accept = Callable[[Message], object]
_NO_EXTRAS: dict[str, Any] = {}


class Lease:
    """One claim of this process. Free for any of its threads; the engine decides who settles first."""

    __slots__ = ("_encode", "_engine", "_on_end", "_outcome", "_tx", "claim")

    def __init__(self, engine: Engine, claim: Claim, encode: Encode, on_end: Callable[[Lease], None] | None) -> None:
        self._engine = engine
        self._encode = encode
        self._outcome = ""
        self._on_end = on_end
        self._tx: Transaction | None = None  # an open one that is to settle it
        self.claim = claim

    @property
    def settled(self) -> bool:
        """Whether it was settled here."""
        return bool(self._outcome)

    @property
    def engine(self) -> Engine:
        """The engine of its store."""
        return self._engine

    def check(self, *, staged: bool = False) -> None:
        """Raises NotClaimed where it cannot be settled here any more. staged: a transaction may be about to do it."""
        if self._outcome or self._tx is not None or self._engine.presence.owner != self.claim.row.owner:
            self._check_closely(staged)

    def _check_closely(self, staged: bool) -> None:
        what = f"message {self.claim.record.id} of queue {self.claim.queue.name!r}"
        if self._outcome:
            raise NotClaimed(f"{what} was {self._outcome} already: settle each message once")
        if not staged and self._tx is not None and self._tx.is_open:
            raise NotClaimed(f"{what} is to be settled by a transaction, which is still open: settle each message once")
        if self._engine.presence.owner != self.claim.row.owner:
            raise NotClaimed(
                f"{what} was received by another process (or before its store was closed): only who received it "
                "settles it"
            )

    def end(self, outcome: str) -> None:
        """It was settled, as `outcome` says."""
        self._outcome = outcome
        self._tx = None
        if self._on_end is not None:
            self._on_end(self)

    def _do(self, how: Callable[[], None], *, staged: bool = False) -> None:
        self.check(staged=staged)
        try:
            how()
        except LeaseLost:
            if self._on_end is not None:
                self._on_end(self)
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
        self._tx = tx

    def unstage(self) -> None:
        """It does not; if the claim was lost, that is found out now."""
        self._tx = None
        with contextlib.suppress(MqliteError):  # the store was closed, and nobody holds anything
            if self._on_end is not None and not self._engine.holds(self.claim):
                self._on_end(self)

    def is_left_to_transaction(self, error: BaseException | None) -> bool:
        """At the end of the message's block: whether an open transaction is to settle it. If that does not, the
        message has failed.
        """
        tx = self._tx
        return tx is not None and tx.leave(self, error)

    # ------------------------------------------------------------------ settling
    def ack(self, tx: object = None) -> None:
        """See Message.ack."""
        if tx is not None:
            self._leave_to(tx, Settlement(self.claim, ACK))
        else:
            self.check()
            try:  # `_settle` without its calls
                self._engine.ack([self.claim])
            except LeaseLost:
                if self._on_end is not None:
                    self._on_end(self)
                raise
            self.end(ACK)

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
        reply = reply_to(self._engine, self.claim, self._encode(body))
        if tx is None:
            return self._send(reply)
        self._leave_to(tx, Settlement(self.claim, ACK), reply)
        return True

    def report(self, error: BaseException) -> bool:
        """The same of an error, which the caller gets as a CallFailed."""
        self.check()
        return self._send(report_to(self._engine, self.claim, error, self._encode))

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
    leases: list[Lease] = []
    owner = 0
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"ack_many takes messages, not {message!r}")
        lease = message.lease
        assert isinstance(lease, Lease)
        if lease._engine is not engine:
            raise NotClaimed(
                f"message {message.id} belongs to another store than queue {queue!r}: acknowledge it there"
            )
        owner = owner or engine.presence.owner
        if lease._outcome or lease._tx is not None or lease.claim.row.owner != owner:  # `check` without its calls
            lease.check()
        leases.append(lease)
    if len(set(leases)) < len(leases):
        number = next(lease.claim.record.id for lease in leases if leases.count(lease) > 1)
        raise NotClaimed(f"message {number} of queue {queue!r} is named twice: name each once")
    if tx is not None:
        for lease in leases:
            lease.ack(tx)
        return
    if leases:
        engine.ack([lease.claim for lease in leases])
    for lease in leases:
        lease._outcome, lease._tx = ACK, None  # `end` without its call
        if lease._on_end is not None:
            lease._on_end(lease)


def message_of(queue: str, position: int, record: Record, body: Any, lease: Lease | None) -> Message:
    """A Message for the user."""
    if record.extras is None and record.marks is None:  # as most
        return Message(
            body,
            record.id,
            priority_of(position >> 64),
            {},
            None,
            None,
            None,
            record.enqueued_ns,
            record.delivery_count,
            record.acquired_count,
            None,
            None,
            None,
            queue,
            None,
            lease,
        )
    extras = record.extras or _NO_EXTRAS
    return Message(
        body,
        record.id,
        priority_of(rank_at(position, record.marks)),
        dict(extras["headers"]) if "headers" in extras else {},
        extras.get("type"),
        extras.get("group"),
        extras.get("routing_key"),
        record.enqueued_ns,
        record.delivery_count,
        record.acquired_count,
        None if record.marks is None or record.marks.expires is None else utc(record.marks.expires[1]),
        extras.get("reply_to"),
        extras.get("correlation_id"),
        queue,
        _death(extras["death"]) if "death" in extras else None,
        lease,
    )


def _death(fields: dict[str, Any]) -> Death:
    return Death(
        reason=fields["reason"],
        queue=fields["queue"],
        died_at=utc(fields["died_ns"]),
        delivery_count=fields["delivery_count"],
        error=fields["error"],
        traceback=fields["traceback"],
    )


def claimed_message(
    engine: Engine,
    claim: Claim,
    encode: Encode,
    decode: Decode,
    on_end: Callable[[Lease], None] | None,
    accept: Accept | None = None,
) -> Message | None:
    """The message of a claim; None where its body cannot be decoded, and went to the dead-letter queue, or where
    `accept` refuses it.
    """
    record = claim.record
    try:
        body = decode(record.payload)
    except CodecError as error:
        engine.bury_undecodable(claim, error)
        return None
    if accept is not None and not is_accepted(engine, claim, body, accept):
        return None
    lease = Lease(engine, claim, encode, on_end)
    return message_of(claim.queue.name, claim.position, record, body, lease)


def claimed_messages(
    engine: Engine, claims: Iterable[Claim], encode: Encode, decode: Decode, accept: Accept | None
) -> list[Message]:
    """`claimed_message` for each of these, without those that have none. Where nothing is said of a message but its
    body, nobody asks for its record, and it is not made (a third less time).
    """
    messages: list[Message] = []
    for claim in claims:
        if accept is not None or len(claim.fields) != PLAIN_FIELDS:
            message = claimed_message(engine, claim, encode, decode, None, accept)
            if message is not None:
                messages.append(message)
            continue
        payload, enqueued_ns, number, failures, acquired = claim.fields
        try:
            body = decode(payload)
        except CodecError as error:
            engine.bury_undecodable(claim, error)
            continue
        lease = Lease(engine, claim, encode, None)
        queue, priority = claim.queue.name, priority_of(claim.position >> 64)
        messages.append(
            Message(
                body,
                number,
                priority,
                {},
                None,
                None,
                None,
                enqueued_ns,
                failures,
                acquired,
                None,
                None,
                None,
                queue,
                None,
                lease,
            )
        )
    return messages


def is_accepted(engine: Engine, claim: Claim, body: Any, accept: Accept) -> bool:
    """What the user's filter says of a message. One that it refuses is settled now; if it raises, that is a failure."""
    with contextlib.suppress(LeaseLost):
        try:
            if accept(message_of(claim.queue.name, claim.position, claim.record, body, None)):
                return True
        except Exception as error:
            engine.nack(claim, *error_texts(error), None)
        else:
            engine.ack([claim])
    return False
