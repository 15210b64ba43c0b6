"""What travels: a Record inside the engine, a Message in the user's hands."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import attrs

from .checks import PRIORITY_MAX
from .errors import LeaseLost, NotClaimed

#: A place in a queue's delivery order: rank << 64 | seq. Smaller is delivered first.
Position = int
#: When a delayed message is due: (line, nanoseconds on that line of time); see system/clock.py.
Due = tuple[int, int]


def rank_of(priority: int) -> int:
    """The unsigned 32-bit rank of a priority; the highest priority has rank 0."""
    return PRIORITY_MAX - priority


DEFAULT_PRIORITY = 0
DEFAULT_RANK = rank_of(DEFAULT_PRIORITY)


def priority_of(rank: int) -> int:
    """The priority that has a rank."""
    return PRIORITY_MAX - rank


@functools.lru_cache(maxsize=1 << 14)
def group_key(name: str) -> int:
    """The number that stands for a group: 64 bits of a hash, never 0. Two names with one number would only wait for
    each other.
    """
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1


def digest(text: str) -> bytes:
    """16 bytes that stand for a text of any length."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


#: How the reply_to of a request begins: what `Queue.call` puts. See replies.py.
CALLER = "\x1fcall."
#: The group of messages that have none, in a queue where those take turns with the groups.
UNGROUPED = 0


class Marks(NamedTuple):
    """What a message is found by besides its place in line: the log keeps an entry for each (log/index.py). A tuple:
    one is made with every put that has any, and a frozen class of attrs took 0.5 us longer.

    group    group_key of its group, or UNGROUPED
    expires  when it expires, on one of the lines of time
    replace, unique, timer   digests of its replace_key, of its unique key, of the name of a schedule
    rank     that of its priority, where the position does not tell it
    order    its number in its group, where the position does not tell it: of one that is tried again
    source   (topic, bytes of the body) of a reference: the body is kept by the topic, under the message's id
    """

    group: int | None = None
    expires: Due | None = None
    replace: bytes | None = None
    unique: bytes | None = None
    timer: bytes | None = None
    rank: int | None = None
    order: int | None = None
    source: tuple[int, int] | None = None


@functools.lru_cache(maxsize=1 << 14)
def marks_of_group(name: str) -> Marks:
    """Those of a message that has nothing but a group: all of a group share them."""
    return Marks(group=group_key(name))


@attrs.frozen(kw_only=True)
class Terms:
    """What a put asks before the message is stored, and what is not stored with it."""

    dedup: bytes | None = None
    unique_states: frozenset[str] = frozenset()


@attrs.define(eq=False)
class Record:
    """One message as the log keeps it.

    payload is a codec's (tag, bytes) on disk, None of a reference there, and the body itself in memory.
    id is 0 until the log gives it one. extras holds what few messages have:
    headers, type, group, routing_key, reply_to, correlation_id, death, and the recurrence of a schedule; what a topic
    keeps has "due", "expires" and "rank" there, too, for those it goes to later; "reply_by" is when the caller gives
    up who waits for a reply. due: of a message that
    is put now and waits for its time, and of no other; terms: of one that is put now.
    """

    payload: Any
    enqueued_ns: int
    id: int = 0
    delivery_count: int = 0
    acquired_count: int = 0
    extras: dict[str, Any] | None = None
    due: Due | None = None
    marks: Marks | None = None
    terms: Terms | None = None

    @property
    def asks(self) -> bool:
        """Whether there is something to look up before it is put."""
        return self.terms is not None or (self.marks is not None and self.marks.replace is not None)

    def rest(self) -> tuple[Any, ...]:
        """What it is made of behind the payload, in order, claimed once more."""
        return self.enqueued_ns, self.id, self.delivery_count, self.acquired_count + 1, self.extras, None, self.marks


def rank_at(position: Position, marks: Marks | None) -> int:
    """The rank of the priority of a message."""
    return position >> 64 if marks is None or marks.rank is None else marks.rank


@attrs.frozen(kw_only=True)
class Death:
    """Why and how a message came into a dead-letter queue.

    reason is "max_deliveries", "rejected", "corrupted", "expired", "overflow" or "undecided"; error and
    traceback are texts, where there was an exception; queue is the one it came from.
    """

    reason: str
    queue: str
    died_at: datetime
    delivery_count: int
    error: str | None = None
    traceback: str | None = None


def utc(ns: int) -> datetime:
    """An aware datetime for nanoseconds since the epoch."""
    return datetime.fromtimestamp(ns / 1e9, UTC)


class Source(Protocol):
    """What a message is made of: its claim, or a `Sight` of it."""

    @property
    def id(self) -> int: ...
    @property
    def record(self) -> Record: ...
    @property
    def position(self) -> Position: ...
    @property
    def queue_name(self) -> str: ...


@attrs.frozen
class Sight:
    """A message as it was looked at, which nobody holds by that."""

    queue_name: str
    position: Position
    record: Record

    @property
    def id(self) -> int:
        """Its number in the store."""
        return self.record.id


class Settler(Protocol):
    """The claim behind a message; see `lease.py`."""

    def ack(self, tx: object = None) -> None: ...
    def nack(self, delay: float | None, error: object, tx: object = None) -> None: ...
    def reject(self, reason: str | None, tx: object = None) -> None: ...
    def release(self) -> None: ...
    def reply(self, body: Any, tx: object = None) -> bool: ...
    def extend(self, seconds: float) -> None: ...
    def check(self) -> None: ...
    def is_left_to_transaction(self, error: BaseException | None) -> bool: ...
    @property
    def settled(self) -> bool: ...


class Receiver(Protocol):
    """What messages were received through; see `lease.py`."""

    def lease(self, source: Any) -> Settler: ...
    def ack(self, source: Any) -> None: ...


#: What `repr` shows.
_SHOWN = (
    "body",
    "id",
    "priority",
    "headers",
    "type",
    "group",
    "routing_key",
    "delivery_count",
    "acquired_count",
    "expires_at",
    "reply_to",
    "correlation_id",
    "queue",
    "death",
)
_NO_EXTRAS: dict[str, Any] = {}


@attrs.define(eq=False, repr=False)
class Message:
    """A message that was received, and the claim on it.

    Settle it once: `ack`, `nack`, `reject` or `release`, from any thread of the
    process that received it. As a context manager it settles itself: ack at the
    end of the block, nack on an exception, release on what is no failure of the
    message (KeyboardInterrupt, SystemExit); one that a transaction is to settle is
    left to that. A message that was peeked at, or received with auto_ack, cannot be
    settled.

    id is unique in the store and never used again. delivery_count counts failed
    deliveries so far, acquired_count claims, this one included.

    Most programs ask for the body and settle the message; all else, and the lease, is made when it is first asked
    for. (With a lease and 16 fields made for each, 100 messages took three times as long: 0.15 us each instead of 0.5.)
    """

    body: Any
    _source: Source
    _receiver: Receiver | None = None
    _lease: Settler | None = attrs.field(init=False, default=None)
    _headers: dict[str, Any] | None = attrs.field(init=False, default=None)

    @property
    def id(self) -> int:
        """Its number in the store."""
        return self._source.id

    @property
    def priority(self) -> int:
        """As it was put; higher ones come first."""
        return priority_of(rank_at(self._source.position, self._source.record.marks))

    @property
    def queue(self) -> str:
        """The name of the queue that it is in."""
        return self._source.queue_name

    @property
    def enqueued_ns(self) -> int:
        """When it was put: nanoseconds since the epoch."""
        return self._source.record.enqueued_ns

    @property
    def delivery_count(self) -> int:
        """How many deliveries have failed."""
        return self._source.record.delivery_count

    @property
    def acquired_count(self) -> int:
        """How often it was claimed, this time included."""
        return self._source.record.acquired_count

    def _extra(self, name: str) -> Any:
        return (self._source.record.extras or _NO_EXTRAS).get(name)

    def _text(self, name: str) -> str | None:
        text: str | None = self._extra(name)
        return text

    @property
    def headers(self) -> dict[str, Any]:
        """What the user has put with it: a dict of this message's own."""
        if self._headers is None:
            self._headers = dict(self._extra("headers") or _NO_EXTRAS)
        return self._headers

    @property
    def type(self) -> str | None:
        """The type that it was put with."""
        return self._text("type")

    @property
    def group(self) -> str | None:
        """Its group."""
        return self._text("group")

    @property
    def routing_key(self) -> str | None:
        """The key that it was published with."""
        return self._text("routing_key")

    @property
    def reply_to(self) -> str | None:
        """Where a reply is expected."""
        return self._text("reply_to")

    @property
    def correlation_id(self) -> str | None:
        """What it answers, or belongs to."""
        return self._text("correlation_id")

    @property
    def expires_at(self) -> datetime | None:
        """When it expires: an aware datetime in UTC."""
        marks = self._source.record.marks
        return None if marks is None or marks.expires is None else utc(marks.expires[1])

    @property
    def death(self) -> Death | None:
        """Why and how it died, of a dead letter."""
        fields = self._extra("death")
        return None if fields is None else _death(fields)

    @property
    def enqueued_at(self) -> datetime:
        """When it was put: an aware datetime in UTC."""
        return utc(self.enqueued_ns)

    @property
    def redelivered(self) -> bool:
        """Whether somebody had it before: it was claimed more than once."""
        return self.acquired_count > 1

    @property
    def lease(self) -> Settler:
        """The claim. Raises NotClaimed where there is none."""
        if self._lease is None:
            if self._receiver is None:
                raise NotClaimed(
                    f"message {self.id} of queue {self.queue!r} is not claimed (peeked at, or settled on receipt): "
                    "only receive() and consumer() give messages to settle"
                )
            self._lease = self._receiver.lease(self._source)
        return self._lease

    def ack(self, tx: object = None) -> None:
        """Done: the message is removed, for good when this returns. One commit.

        tx: a Transaction, whose commit does it instead, with all else that it does; so for `nack` and `reject`.

        Raises LeaseLost where the claim was lost meanwhile, NotClaimed where the
        message was settled before; then nothing is changed.
        """
        if tx is None and self._receiver is not None:
            self._receiver.ack(self._source)
        else:
            self.lease.ack(tx)

    def nack(self, delay: float | None = None, error: object = None, tx: object = None) -> None:
        """Failed: delivery_count + 1, and it is tried again after a while; dead after max_deliveries.

        delay: seconds until it lines up again at its priority, behind what is there by then;
        0: it goes back to its place at once; None: as the queue's `backoff` says, at once
        where there is none. error (an exception or a text) is kept with a message that becomes
        dead. One commit of the log if it waits or dies, none if it goes back at once. Raises as `ack`, and
        StoreFull where a large message finds no room to move: then it stays claimed.
        """
        self.lease.nack(delay, error, tx)

    def reject(self, reason: str | None = None, tx: object = None) -> None:
        """Hopeless: straight to the dead-letter queue. One commit. Raises as `ack`."""
        self.lease.reject(reason, tx)

    def release(self) -> None:
        """Give it back to its place without blame. No commit of the log. Raises as `ack`."""
        self.lease.release()

    def reply(self, body: Any, tx: object = None) -> bool:
        """Answer a request, and acknowledge it, both in one commit; False where nobody waits for the reply any more:
        then it is only acknowledged.

        A request is what `Queue.call` has put (NotSupported for any other). body: encoded with the queue's codec.
        tx: a Transaction, whose commit does both; then this gives True. Raises as `ack`, CodecError, MessageTooLarge,
        StoreFull; then nothing was changed.
        """
        return self.lease.reply(body, tx)

    def extend(self, seconds: float) -> None:
        """The claim now times out in `seconds` from now (a queue with ack_timeout=None: never). Raises as `ack`."""
        self.lease.extend(seconds)

    def __enter__(self) -> Message:
        self.lease.check()
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: TracebackType | None) -> None:
        if self.lease.settled or self.lease.is_left_to_transaction(error):
            return
        if error is None:
            self.ack()
        elif isinstance(error, Exception):
            self.nack(error=error)
        else:
            with contextlib.suppress(LeaseLost):  # what was interrupted may have settled it
                self.release()

    def __repr__(self) -> str:
        return f"Message({', '.join(f'{name}={getattr(self, name)!r}' for name in _SHOWN)})"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"message {self.id} of queue {self.queue!r} cannot be pickled: its claim belongs to this process. "
            "Send its body, or let the other process receive it"
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


def error_texts(error: object) -> tuple[str | None, str | None]:
    """(error, traceback) as texts, from what was given to `nack`."""
    if error is None:
        return None, None
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    return str(error), None
