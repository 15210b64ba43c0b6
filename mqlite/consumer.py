"""A handle that takes messages one after the other, and keeps a few claimed ahead."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from types import TracebackType
from typing import Any

from .channel import Channel
from .checks import check_timeout
from .claims import STARTED
from .engine import Claim, Refused, seats
from .engine.handing import Lot
from .engine.seizing import ANYBODY, Pass
from .errors import Closed, CodecError, Empty, LeaseLost, ShutDown
from .handle import Handle
from .lease import Receiver, message_of
from .message import Message
from .waiting import Interrupt

#: Whether a claim was not lost, asked where that is not sure.
Ask = Callable[[Claim], bool]
#: Which of a list of claims goes to the user.
_FIRST = (0,)


def _nobody() -> None:
    return None


class Consumer(Handle):
    """Messages of one queue, each to one of the threads that share this consumer.

    Iterating blocks for the next message, and ends when the consumer is closed or the
    queue was shut down. prefetch is how many messages this consumer holds at most,
    unsettled ones in the user's hands included (as in AMQP): threads that share a
    consumer need at least one each. auto_ack: messages are settled before they are
    handed out, one commit each; none is lost by closing.

    close() gives back, without blame, everything that was not settled. A message that
    waits in the buffer when the process dies is not blamed for it.

    mode: "shared" with others; "exclusive": no other may take from the queue, or this one is
    refused (QueueLocked); "failover": of all that ask for it one is active, and the next takes
    over when that one is closed or its process dies.

    Fork: the child starts with an empty buffer, and is not active. Pickle: path, name and settings travel.
    """

    def __init__(
        self, channel: Channel, prefetch: int, auto_ack: bool, mode: str = "shared", owns_channel: bool = False
    ) -> None:
        self._channel = channel
        self._owns_channel = owns_channel
        self._engine = channel.engine
        self._state = channel.state
        self.prefetch = prefetch
        self.auto_ack = auto_ack
        self.mode = mode
        self._reset()
        channel.store.handles.add(self)
        if mode == "exclusive":
            try:
                seats.take(self._engine, self._state, self._entry.number)
            except BaseException:
                self.close()  # interrupted, it may have the seat
                raise

    def _reset(self) -> None:
        self._entry = ANYBODY if self.mode == "shared" else Pass(seats.new_number(self), waits=self.mode == "failover")
        self._interrupt = Interrupt(f"the consumer of queue {self._state.name!r}")
        self._lock = threading.Lock()  # guards the seven below, and their marks; no lock of the engine comes under it
        self._changed = threading.Condition(self._lock)  # entered as `_lock`: its own __enter__ can be interrupted
        self._buffer: deque[Claim] = deque()
        self._held: dict[int, Claim] = {}  # by id(claim): in the user's hands, and unsettled
        self._asks: dict[object, int] = {}  # claims that threads are asking for right now
        self._tokens: set[int] = set()  # of claims that may be marked as handed out
        self._lot: Lot | None = None  # of what was handed out last
        self._stuck: set[object] = set()  # threads that wait on `_changed`, without which nobody is notified (0.6 us)
        self._ended = False
        self._last_receiver: Callable[[], Receiver | None] = _nobody

    # ------------------------------------------------------------------ taking
    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return self.receive()
        except ShutDown:
            raise StopIteration from None
        except Exception:
            if self._interrupt.closed:
                raise StopIteration from None
            raise

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. timeout: seconds; None = for ever, 0 = do not wait; then raises Empty.

        Raises Closed, ShutDown. Cost: one claim per `prefetch` messages, no flush
        (auto_ack: one commit per message).
        """
        wait = None if timeout is None else check_timeout(timeout)
        end: float | None = None
        while True:
            taken: list[Claim] = []
            ask: Ask | None = None
            try:
                with self._lock:
                    if self._buffer and not self._interrupt.closed:
                        ask = self._take_buffered(taken)
                if not taken:
                    if wait is not None and end is None:
                        end = time.monotonic() + wait
                    ask = self._take_next(end, taken)
                [claim] = taken
                if self.auto_ack:
                    message = self._settle_and_hand_out(claim)
                elif ask is None or ask(claim):
                    message = (self._last_receiver() or self._new_receiver()).message(claim)
                else:
                    message = None  # it lay in the buffer, and was lost
                if message is not None:
                    return message
                self._let_go(taken)
            except BaseException as error:
                self._let_go(taken)
                self._engine.release_all(taken)
                if isinstance(error, ShutDown):
                    self.give_back_buffered()
                raise

    def _take_next(self, end: float | None, taken: list[Claim]) -> Ask | None:
        """The next claim goes into `taken`, which the caller gives back if he is interrupted. What is to be asked
        before it goes to the user.

        What this thread claims itself begins with the message for its user: a row that is made as handed out needs no
        second commit of the claims, which took 27 us of 76 for receive and ack.
        """
        while True:
            ask = object()
            claims: list[Claim] = []
            served: list[None] = []
            found = complete = False  # complete: all in `claims` can be handed out

            def enough(served: list[None] = served) -> bool:
                """Another thread has claimed more than it takes: no need to wait for the queue."""
                if self._buffer:
                    served.append(None)
                return bool(served)

            try:
                with self._lock:
                    while not self._asks.get(ask):
                        if self._interrupt.closed:
                            self._interrupt.check()
                        if self._buffer:
                            return self._take_buffered(taken)
                        room = self._room()
                        if room > 0:
                            self._asks[ask] = room
                        else:
                            self._wait_for_room(ask, end)
                left = None if end is None else max(0.0, end - time.monotonic())
                auto = self.auto_ack
                self._engine.receive(
                    self._state,
                    self._asks[ask],
                    left,
                    self._interrupt,
                    claims,
                    auto=auto,
                    started=0 if auto else 1,
                    entry=self._entry,
                    enough=enough,
                )
                found, complete = bool(claims), True
            finally:  # in place: at the start of a function, an interrupt would lose the claims
                interrupts: list[KeyboardInterrupt] = []
                while True:
                    try:
                        self._keep(claims, complete, ask, taken)
                        break
                    except KeyboardInterrupt as error:
                        interrupts.append(error)
                if interrupts:
                    raise interrupts.pop()  # as a local variable, it would hold this frame, and the frame it
            if taken:
                return None
            if not found and not served:
                raise Empty(f"queue {self._state.name!r} had no message in time")

    def _take_buffered(self, taken: list[Claim]) -> Ask | None:
        """Under the lock: the first in the buffer, marked as handed out if that can be; what is to be asked then.
        In this order, no interrupt loses it, and no mark covers what is still in the buffer, whatever threads do.
        """
        claim = self._buffer[0]
        self._held[id(claim)] = claim
        taken.append(claim)
        self._buffer.popleft()
        lot = self._lot
        if lot is not None and lot.row is claim.row and lot.mark(claim):
            return None
        return None if self.auto_ack else self._mark(claim)

    def _mark(self, claim: Claim) -> Ask | None:
        """Under the lock: say of one that it is handed out, of which the last lot does not tell."""
        ask = self._engine.mark_started(claim)
        self._lot = self._engine.lot_of(claim) if ask is None else None
        return ask

    def _room(self) -> int:
        """Under the lock: how many more may be claimed."""
        room = self.prefetch - len(self._held)
        return room - sum(self._asks.values()) if self._asks else room

    def _wait_for_room(self, ask: object, end: float | None) -> None:
        """Under the lock: until a message was settled or buffered by another thread."""
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise Empty(
                f"queue {self._state.name!r} had no message in time, or all {self.prefetch} prefetched ones are "
                "unsettled"
            )
        try:
            self._stuck.add(ask)
            if self._room() <= 0:  # who settles looks whether anybody is stuck after making room, without the lock
                self._changed.wait(left)
        finally:
            self._stuck.discard(ask)

    def _keep(self, claims: list[Claim], complete: bool, ask: object, taken: list[Claim]) -> None:
        """What was claimed goes to the user (`taken`) and into the buffer, or back. May be done again after an
        interrupt: it moves in C.
        """
        with self._lock:
            self._asks.pop(ask, None)
            if complete and claims and not self._interrupt.closed:
                # the first was made as handed out, unless that one was damaged, or has expired: then one is marked
                if not taken and (self.auto_ack or claims[0].row.flags & STARTED):
                    self._held[id(claims[0])] = claims[0]
                    taken.extend(map(claims.pop, _FIRST))
                if claims:
                    self._buffer.extend(map(claims.pop, repeat(0, len(claims))))
                    self._forget_settled()
            others = bool(self._buffer and self._asks)
            if self._stuck:
                self._changed.notify_all()
        if claims:  # closed, or interrupted before they were read
            self._engine.release_all(claims)
            claims.clear()
        if others:
            self._interrupt.ring(self._engine.presence)  # they wait for the queue, and there is something for them here
        if self._interrupt.closed and self._entry is not ANYBODY:
            with contextlib.suppress(Closed):
                seats.leave(self._engine, self._state, self._entry.number)  # taken since the close

    def _forget_settled(self) -> None:
        """Under the lock: of what this consumer does not hold any more, nothing need be known. (0.05 us a message)"""
        marks = self._engine.claims.marks
        if marks is not None and not self.auto_ack:
            tokens = {claim.row.token for claim in [*self._held.values(), *self._buffer]}
            marks.forget(self._tokens - tokens)
            self._tokens = tokens

    def _settle_and_hand_out(self, claim: Claim) -> Message | None:
        try:
            body = self._channel.read(claim)
            self._engine.ack([claim])
        except CodecError as error:
            self._engine.bury_undecodable(claim, error)
            return None
        except (LeaseLost, Refused):
            return None
        finally:
            self._let_go((claim,))
        return message_of(self._state.name, claim.position, claim.record, body)

    def _let_go(self, claims: Sequence[Claim]) -> None:
        """These were settled, or lost; what this consumer never held is passed over."""
        for claim in claims:
            self._held.pop(id(claim), None)
        if self._stuck:
            with self._lock:
                self._changed.notify(len(claims))

    def _new_receiver(self) -> Receiver:
        """What its messages refer to, and that to this consumer, which refers to it weakly: so whoever holds a message
        keeps the consumer, which gives it back when it is closed, and else nobody does.
        """
        receiver = self._channel.receiver(self._let_go)
        self._last_receiver = weakref.ref(receiver)
        return receiver

    @property
    def is_active(self) -> bool:
        """Whether this consumer may take messages now: always, unless it waits for its turn (failover)."""
        self._interrupt.check()
        return self._entry is ANYBODY or seats.has(self._engine, self._state, self._entry.number)

    # ------------------------------------------------------------------ the end
    @property
    def is_closed(self) -> bool:
        """Whether `close` has done its work."""
        return self._ended

    def give_back_buffered(self) -> None:
        """What is not yet in the user's hands goes back to the queue."""
        buffered: list[Claim] = []
        try:
            with self._lock:
                buffered.extend(self._buffer)
                self._buffer.clear()
                self._changed.notify_all()
            self._engine.release_all(buffered)
        except KeyboardInterrupt:
            self._engine.release_all(buffered)  # what is given back already is passed over
            raise

    def stop(self) -> None:
        """End the iteration of all threads; what is in their hands can still be settled, until `close`."""
        with self._lock:
            self._interrupt.closed = True
            self._changed.notify_all()
        self._interrupt.close(self._engine.presence)

    def close(self) -> None:
        """Give back what is unsettled, and end the iteration of all threads. Settling it later raises LeaseLost."""
        interrupts: list[KeyboardInterrupt] = []
        while not self._ended:
            try:
                self._give_all_back()
            except KeyboardInterrupt as error:  # finish first: nobody would do it later
                interrupts.append(error)
        if interrupts:
            raise interrupts.pop()
        if self._owns_channel:
            self._channel.close()

    def _give_all_back(self) -> None:
        """May be done again after an interrupt."""
        self.stop()
        with self._lock:
            held = [*self._held.values(), *self._buffer]
        self._engine.release_all(held)
        if self._entry is not ANYBODY:
            seats.leave(self._engine, self._state, self._entry.number)
        with self._lock:  # only now: a close that was interrupted can be done again
            self._ended = True
            self._held.clear()
            self._buffer.clear()
            self._forget_settled()
            self._lot = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            self.close()
        except KeyboardInterrupt:
            self.close()  # it may not even have begun
            raise

    def __reduce__(self) -> Any:
        return Consumer, (self._channel, self.prefetch, self.auto_ack, self.mode, True)

    def after_fork(self) -> None:
        """In the child: the buffer and the waiting threads are the parent's."""
        ended = self._ended
        self._reset()
        self._ended = self._interrupt.closed = ended
