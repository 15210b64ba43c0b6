"""A handle that takes messages one after the other, and keeps a few claimed ahead."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from .channel import Channel
from .engine import Claim
from .errors import CodecError, Empty, LeaseLost, ShutDown
from .lease import Lease, claimed_message, message_of
from .message import Message
from .options import check_timeout
from .waiting import Interrupt


class Consumer:
    """Messages of one queue, each to one of the threads that share this consumer.

    Iterating blocks for the next message, and ends when the consumer is closed or the
    queue was shut down. prefetch is how many messages this consumer holds at most,
    unsettled ones in the user's hands included (as in AMQP): threads that share a
    consumer need at least one each. auto_ack: messages are settled before they are
    handed out, one commit each; none is lost by closing.

    close() gives back, without blame, everything that was not settled. A message that
    waits in the buffer when the process dies is not blamed for it.

    Fork: the child starts with an empty buffer. Pickle: path, name and settings travel.
    """

    def __init__(self, channel: Channel, prefetch: int, auto_ack: bool, owns_channel: bool = False) -> None:
        self._channel = channel
        self._owns_channel = owns_channel
        self._engine = channel.engine
        self._state = channel.state
        self._decode = channel.decode
        self.prefetch = prefetch
        self.auto_ack = auto_ack
        self._reset()
        channel.store.handles.add(self)

    def _reset(self) -> None:
        self._interrupt = Interrupt(f"the consumer of queue {self._state.name!r}")
        self._lock = threading.Lock()  # guards the four below; nothing of the engine is called under it
        self._changed = threading.Condition(
            self._lock
        )  # entered as `_lock`: a Condition's own __enter__ can be interrupted
        self._buffer: deque[Claim] = deque()
        self._held: dict[int, Claim] = {}  # by id(claim): buffered or in the user's hands, and unsettled
        self._asking = 0  # claims being asked for right now
        self._ended = False

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
        wait = check_timeout(timeout)
        end = None if wait is None else time.monotonic() + wait
        while True:
            claim = self._next_claim(end)
            try:
                message = self._hand_out(claim)
            except BaseException as error:
                self._drop(claim)
                self._engine.release_all([claim])
                if isinstance(error, ShutDown):
                    self.give_back_buffered()
                raise
            if message is not None:
                return message

    def _next_claim(self, end: float | None) -> Claim:
        while True:
            asked = 0
            claims: list[Claim] = []
            try:
                with self._lock:
                    while not asked:
                        self._interrupt.check()
                        if self._buffer:
                            return self._buffer.popleft()
                        room = self.prefetch - len(self._held) - self._asking
                        if room > 0:
                            asked = room
                            self._asking += room
                        else:
                            self._wait_for_room(end)
                left = None if end is None else max(0.0, end - time.monotonic())
                self._engine.receive(self._state, asked, left, self._interrupt, claims, auto=self.auto_ack, started=0)
            finally:
                self._keep(claims, asked)
            if not claims:
                raise Empty(f"queue {self._state.name!r} had no message in time")

    def _wait_for_room(self, end: float | None) -> None:
        """Under the lock: until a message was settled or buffered by another thread."""
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise Empty(
                f"queue {self._state.name!r} had no message in time, or all {self.prefetch} prefetched ones are "
                "unsettled"
            )
        self._changed.wait(left)

    def _keep(self, claims: list[Claim], asked: int) -> None:
        """What was claimed goes into the buffer, or back if the consumer was closed meanwhile."""
        with self._lock:
            self._asking -= asked
            opened = [claim for claim in claims if hasattr(claim, "record")]  # not: interrupted before it was read
            unread = [claim for claim in claims if not hasattr(claim, "record")]
            if self._interrupt.closed:
                unread, opened = claims, []
            self._held.update((id(claim), claim) for claim in opened)
            self._buffer.extend(opened)
            self._changed.notify_all()
        self._engine.release_all(unread)

    def _hand_out(self, claim: Claim) -> Message | None:
        """The message of a buffered claim; None where the claim was lost or the body went to the dead."""
        if self.auto_ack:
            return self._settle_and_hand_out(claim)
        if not self._engine.start(claim):
            self._drop(claim)
            return None
        message = claimed_message(self._engine, claim, self._decode, self._settled)
        if message is None:
            self._drop(claim)
        return message

    def _settle_and_hand_out(self, claim: Claim) -> Message | None:
        try:
            body = self._decode(claim.record.payload)
            self._engine.ack([claim])
        except CodecError as error:
            self._engine.bury_undecodable(claim, error)
            return None
        except LeaseLost:
            return None
        finally:
            self._drop(claim)
        return message_of(self._state, claim.position, claim.record, body, None)

    def _settled(self, lease: Lease) -> None:
        self._drop(lease.claim)

    def _drop(self, claim: Claim) -> None:
        with self._lock:
            if self._held.pop(id(claim), None) is not None:
                self._changed.notify()

    # ------------------------------------------------------------------ the end
    def give_back_buffered(self) -> None:
        """What is not yet in the user's hands goes back to the queue."""
        with self._lock:
            buffered = list(self._buffer)
            self._buffer.clear()
            for claim in buffered:
                self._held.pop(id(claim), None)
            self._changed.notify_all()
        self._engine.release_all(buffered)

    def close(self) -> None:
        """Give back what is unsettled, and end the iteration of all threads. Settling it later raises LeaseLost."""
        with self._lock:
            if self._ended:
                return
            self._ended = self._interrupt.closed = True
            held = list(self._held.values())
            self._held.clear()
            self._buffer.clear()
            self._changed.notify_all()
        self._interrupt.close(self._engine.presence)
        self._engine.release_all(held)
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return Consumer, (self._channel, self.prefetch, self.auto_ack, True)

    def after_fork(self) -> None:
        """In the child: the buffer and the waiting threads are the parent's."""
        ended = self._ended
        self._reset()
        self._ended = self._interrupt.closed = ended
