"""Messages that are stored before it is known whether they are to be sent (RocketMQ's half messages).

prepare -> commit | rollback, or check back: ask whoever knows, so many times, then dead
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import attrs

from .channel import Channel, channel_on
from .checks import check_count, check_delay, check_eta, check_ttl
from .codecs import BodyCodec
from .consumer import Consumer
from .engine.deciding import Decision, waiting_room
from .errors import Closed, LeaseLost, MessageCorrupted, ShutDown
from .handle import Handle
from .lease import Lease, message_of
from .log import Draft
from .message import Message, Record, rank_of, utc
from .receipt import Receipt
from .store import Store
from .system.clock import LINES
from .transaction import Transaction, checked
from .waiting import Interrupt

T = TypeVar("T")
CHECK_AFTER = 60.0
MAX_CHECKS = 15
#: What of the options is shown with the message while it waits.
_SHOWN = ("headers", "type", "group", "reply_to", "correlation_id", "routing_key")
#: Asked about a prepared message: True, send it; False, do not; None: not known yet.
Check = Callable[[Message], bool | None]


class Target(Protocol):
    """Where prepared messages go: a queue or a topic."""

    @property
    def key(self) -> str:
        """What it is stored under."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def shown(self) -> str:
        """What users are told of it: its kind and name."""

    @property
    def number(self) -> int:
        """Of a queue, which gets the dead letters; -1: of a topic."""

    @property
    def store(self) -> Store: ...  # noqa: D102

    @property
    def codec(self) -> BodyCodec: ...  # noqa: D102

    def payload(self, item: Any) -> Any:
        """A body, encoded."""

    def check(self, payload: Any, options: dict[str, Any]) -> None:
        """Raises what is wrong with a message."""

    def stage(self, tx: Transaction, payload: Any, options: dict[str, Any], item: Any) -> Receipt:
        """Send it in the commit of a transaction."""


class Prepared(Generic[T]):
    """A message that is stored, and not sent yet. From `prepare` and `prepared` of a queue or a topic.

    Decide it once: `commit` or `rollback`, in any process. Free for any thread.

    id: its number until then; prepared_at: an aware datetime; checks: how often somebody was asked in vain.
    """

    def __init__(self, preparing: Preparing, record: Record, body: T) -> None:
        self._preparing = preparing
        self._record = record
        self.body = body

    @property
    def id(self) -> int:
        """Of the prepared message; it is given another one when it is sent."""
        return self._record.id

    @property
    def prepared_at(self) -> datetime:
        """When it was prepared."""
        return utc(self._record.enqueued_ns)

    @property
    def checks(self) -> int:
        """How often nobody knew, as of when this was read; deaths of those who were asked are not among them."""
        return self._record.delivery_count

    def __repr__(self) -> str:
        return f"<mqlite.Prepared {self.id} for {self._preparing.target.shown}>"

    def commit(self, timeout: float | None = 0.0, *, tx: Transaction | None = None) -> Any:
        """Send it: its id in the queue, or a Published. One commit takes it out and puts it where it belongs.

        delay, ttl and the like count from now. timeout: seconds to wait for room. tx: a Transaction does it, and this
        gives a Receipt. Raises AlreadyDecided (also where it was asked about too often), Full, ShutDown, StoreFull.
        """
        if tx is not None:
            if timeout:
                raise TypeError("a commit in a transaction does not wait: give the timeout to transaction()")
            return self._preparing.send(tx, self._record, self.body)
        with self._preparing.begin(timeout) as own:
            receipt = self._preparing.send(own, self._record, self.body)
        return receipt.result()

    def rollback(self, *, tx: Transaction | None = None) -> None:
        """Forget it. One commit. tx: a Transaction does it. Raises AlreadyDecided."""
        if tx is not None:
            self._preparing.drop(tx, self._record.id)
            return
        with self._preparing.begin(0.0) as own:
            self._preparing.drop(own, self._record.id)


class Preparing:
    """What is prepared for one queue or topic: the part of its handle that does it. Free for any thread.

    Holds a reference to the store until it is closed.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._engine = target.store.engine
        options = {"max_deliveries": MAX_CHECKS, "backoff": [CHECK_AFTER], "ack_timeout": None}
        options["codec"] = target.codec.name
        state = waiting_room(self._engine, target.key, target.name, target.number, options)
        self.channel = channel_on(target.store, state, target.codec)
        self._interrupt = Interrupt(f"what is prepared for {target.shown}")
        self._checks: weakref.WeakSet[CheckBack] = weakref.WeakSet()

    def prepare(self, item: T, check_after: float, options: dict[str, Any]) -> Prepared[T]:
        """Store a message that is not sent yet."""
        engine, target = self._engine, self.target
        payload = target.payload(item)
        target.check(payload, options)
        extras = Channel.extras(options) or {}  # type: ignore[arg-type]
        if "routing_key" in options:
            extras["routing_key"] = options["routing_key"]
        extras["prepared"] = {name: _plain(value) for name, value in options.items() if name not in _SHOWN}
        due = engine.timeline.after(check_delay(check_after, "check_after"))
        record = Record(payload, engine.clock.wall_ns(), extras=extras, due=due)
        rank = rank_of(options["priority"])
        self.channel.put([(rank, engine.log.prepare(record))], None, self._interrupt)
        return Prepared(self, record, item)

    def undecided(self) -> list[Prepared[Any]]:
        """All that is prepared and not decided, the oldest first."""
        log, queue = self._engine.log, self.channel.state.id
        found: list[Record] = []
        log.fold()
        with log.read() as snapshot:
            for position, raw in snapshot.scan(queue):
                with contextlib.suppress(MessageCorrupted):  # found out when somebody is asked
                    found.append(log.decode(queue, position, raw))
            for line in LINES:
                for key, _, raw in snapshot.delayed(queue, line):
                    with contextlib.suppress(MessageCorrupted):
                        found.append(log.decode_delayed(key, raw)[1])
        found.sort(key=lambda record: record.id)
        return [Prepared(self, record, self.channel.decode(record.payload)) for record in found]

    def begin(self, timeout: float | None) -> Transaction:
        """A transaction to decide in."""
        return Transaction(self.target.store, timeout, True, self._interrupt)

    def send(self, tx: Transaction, record: Record, body: Any) -> Receipt:
        """A transaction sends it."""
        options = options_of(record)
        self.target.check(record.payload, options)  # before it is taken out
        self.drop(tx, record.id)
        return self.target.stage(tx, record.payload, options, body)

    def drop(self, tx: Transaction, number: int) -> None:
        """A transaction takes it out."""
        transaction = checked(tx, self._engine, f"what is prepared for {self.target.shown}")
        transaction.decide(Decision(self.channel.state, number))

    def check_back(self, check: Check, interval: float, max_checks: int) -> CheckBack:
        """See `Prepares.check_back`."""
        if not callable(check):
            raise TypeError(f"check is a function of a message, not {check!r}")
        check_ttl(interval, "interval")
        wanted = {"max_deliveries": check_count(max_checks, "max_checks"), "backoff": [float(interval)]}
        with self._engine.log.read() as snapshot:
            known = self._engine.catalog.options(self.channel.state, snapshot)
        if attrs.evolve(known, **wanted) != known:  # type: ignore[arg-type]
            self._engine.configure(self.channel.state, wanted)
        asking = CheckBack(self, check)
        self._checks.add(asking)
        return asking

    def close(self) -> None:
        """Ask no more, and give the reference back."""
        for asking in list(self._checks):
            asking.close()
        self._interrupt.close(self._engine.presence)
        self.channel.close()


class Prepares(ABC):
    """The part of a queue, or of a topic, that keeps prepared messages. Its `prepare` is its own."""

    _interrupt: Interrupt
    _opening: threading.Lock  # guards `_preparing`
    _preparing: Preparing | None

    @abstractmethod
    def _target(self) -> Target:
        """Where they go. Raises NotSupported."""

    def _have_preparing(self) -> Preparing:
        self._interrupt.check()
        with self._opening:
            if self._preparing is None:
                self._preparing = Preparing(self._target())
            return self._preparing

    def prepared(self) -> list[Prepared[Any]]:
        """The messages that are prepared and not decided, the oldest first; for who was interrupted in between."""
        return self._have_preparing().undecided()

    def check_back(self, check: Check, *, interval: float = CHECK_AFTER, max_checks: int = MAX_CHECKS) -> CheckBack:
        """Have a function say what becomes of prepared messages that nobody decides: True, False, or None: not yet.

        interval: seconds until it is asked again; max_checks: how often, before the message is dead: in `dead`, from
        which a queue's `redrive` sends it. Both are stored, and hold for all processes. See `CheckBack`; close it to
        end this.
        """
        return self._have_preparing().check_back(check, interval, max_checks)


class CheckBack(Handle):
    """Asks a function about prepared messages that nobody has decided for a while. From `check_back`.

    In a thread of its own, one message after the other, by one process each. What it says is done in one commit: True
    sends the message, False forgets it. None, or an exception, is asked again later; after so many times, or where the
    process dies as often, the message is dead (Death.reason is "undecided"). One that cannot be sent now, since the
    queue is full, is asked about again.

    Threads: any. Fork: the child has none. Pickle: not supported.
    """

    def __init__(self, preparing: Preparing, check: Check) -> None:
        self._preparing = preparing
        self._check = check
        self._consumer = Consumer(preparing.channel, 1, False)
        name = f"mqlite check-back {preparing.target.shown}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Closed, ShutDown):
            for message in self._consumer:
                with contextlib.suppress(LeaseLost):  # somebody has decided meanwhile
                    self._ask(message)
        with contextlib.suppress(Closed):
            self._consumer.close()

    def _ask(self, message: Message) -> None:
        target = self._preparing.target
        lease = message.lease
        assert isinstance(lease, Lease)
        record = lease.claim.record
        try:
            answer = self._check(message_of(target.name, lease.claim.position, record, message.body))
            if answer not in (True, False, None):
                raise TypeError(f"the check of a prepared message says True, False or None, not {answer!r}")
        except BaseException as error:  # also what would end this thread: others are to be asked about
            message.nack(error=error)
            return
        if answer is None:
            message.nack(error="nobody knew whether it is to be sent")
            return
        try:
            with self._preparing.begin(0.0) as tx:
                message.ack(tx=tx)
                if answer:
                    target.stage(tx, record.payload, options_of(record), message.body)
        except LeaseLost:
            raise
        except Exception as error:
            message.nack(error=error)

    def close(self) -> None:
        """Ask no more; waits for an answer that is under way, unless it is the one that closes."""
        self._consumer.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __reduce__(self) -> Any:
        raise TypeError("a check-back cannot be sent to another process: ask its own queue or topic for one")


class QueueTarget:
    """Prepared messages of a queue."""

    number: int

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.key, self.number = channel.state.key, channel.state.id
        self.name = channel.state.name
        self.shown = f"queue {self.name!r}"
        self.store, self.codec = channel.store, channel.codec

    def payload(self, item: Any) -> Any:
        """A body, encoded."""
        return self._channel.encode(item)

    def _draft(self, payload: Any, options: dict[str, Any]) -> tuple[int, Draft]:
        said = dict(options)
        rank = rank_of(said.pop("priority"))
        return rank, self._channel.drafted(payload, *self._channel.said(rank, said))  # type: ignore[arg-type]

    def check(self, payload: Any, options: dict[str, Any]) -> None:
        """Raises what is wrong with a message."""
        _, draft = self._draft(payload, options)
        self._channel.engine.check_can_fit(self._channel.state, [draft])
        self._channel.engine.check_open(self._channel.state)

    def stage(self, tx: Transaction, payload: Any, options: dict[str, Any], item: Any) -> Receipt:
        """Put it in the commit of a transaction."""
        rank, draft = self._draft(payload, options)
        return tx.put(self._channel.state, rank, draft, item)


def options_of(record: Record) -> dict[str, Any]:
    """What was said of a message when it was prepared."""
    extras = dict(record.extras or {})
    return {**extras.pop("prepared"), **extras}


def _plain(value: Any) -> Any:
    """An option as JSON has it."""
    if isinstance(value, datetime):
        return check_eta(value)
    return sorted(value) if isinstance(value, set | frozenset | tuple) else value
