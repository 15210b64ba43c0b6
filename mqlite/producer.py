"""A handle that buffers puts and commits them in groups, from a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from typing import Any, Unpack

from .channel import NOTHING_SAID, Channel, PutOptions, Said
from .checks import check_priority, check_timeout
from .errors import Closed, Empty, Full
from .handle import Handle
from .message import rank_of
from .receipt import Receipt
from .waiting import Interrupt

#: So many messages are one commit at most: where it waits for the disk, and where it does not. Meanwhile nobody else
#: commits; so a consumer with prefetch=64 in another process waited 1.7 us for each message with groups of 1,000, and
#: waits 0.7 us with groups of 256 (130,000 messages a second from one to the other, and 155,000). Smaller ones cost the
#: producer more: 4.1 us for each message with 100, 3.0 us with 256 and more.
MAX_GROUP, MAX_QUICK_GROUP = 1000, 256
#: rank, body as it is stored, when it was put, what else is said of it, and what becomes of it
Buffered = tuple[int, Any, int, Said, Receipt]


class Producer(Handle):
    """Puts that return at once, committed in groups in the order of the puts.

    What was put is durable once `flush` has returned, its receipt says so, or the
    block was left. A thread commits whatever has gathered while the last commit was
    under way, so messages leave without a flush, too. put() waits while max_buffered
    messages are buffered, or, with block=False, raises Full.

    A message that cannot be stored (StoreFull, ShutDown) has its error in its receipt;
    flush() and leaving the block raise the first one. A full queue makes the producer wait.

    Threads: free for any. Fork: the child has an empty buffer; what the parent had put
    is the parent's to commit. Pickle: path, name and settings travel.
    """

    def __init__(self, channel: Channel, priority: int, max_buffered: int, owns_channel: bool = False) -> None:
        self._channel = channel
        self._owns_channel = owns_channel
        self._name = channel.state.name
        self.priority = priority
        self.max_buffered = max_buffered
        self._most = MAX_GROUP if channel.store.waits_for_disk else MAX_QUICK_GROUP
        self._reset()
        channel.store.handles.add(self)
        _producers.add(self)

    def _reset(self) -> None:
        self._interrupt = Interrupt(f"the producer of queue {self._name!r}")
        self._lock = threading.Lock()  # guards all below
        self._changed = threading.Condition(
            self._lock
        )  # entered as `_lock`: a Condition's own __enter__ can be interrupted
        self._buffer: deque[Buffered] = deque()
        self._committing = 0
        self._accepted = 0
        self._decided = 0
        self._first_error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._closed = False

    # ------------------------------------------------------------------ putting
    def put(
        self,
        item: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int | None = None,
        **options: Unpack[PutOptions],
    ) -> Receipt:
        """Buffer one message. Options as of Queue.put. Raises CodecError, MessageTooLarge, Full, Closed at once."""
        wait = None if block and timeout is None else check_timeout(timeout) if block else 0
        rank = rank_of(self.priority if priority is None else check_priority(priority))
        channel = self._channel
        said = channel.said(rank, options) if options or channel.state.marks_all else NOTHING_SAID
        payload, now_ns = channel.payload(item), channel.engine.clock.wall_ns()
        receipt = Receipt(item, self.wait_for)
        with self._lock:
            if self._closed or len(self._buffer) + self._committing >= self.max_buffered:
                self._wait_for_room(wait)
            if not self._is_running:
                self._start_thread()
            self._buffer.append((rank, payload, now_ns, said, receipt))
            self._accepted += 1
            if len(self._buffer) == 1:
                self._changed.notify_all()
        return receipt

    def _wait_for_room(self, timeout: float | None) -> None:
        """Under `_lock`. Raises Full, Closed."""
        if not self._wait(lambda: self._closed or len(self._buffer) + self._committing < self.max_buffered, timeout):
            raise Full(
                f"the producer of queue {self._name!r} has {self.max_buffered} messages buffered: wait, or flush"
            )
        if self._closed:
            raise Closed(f"the producer of queue {self._name!r} was closed: make another one")

    def _start_thread(self) -> None:
        """Under `_lock`: somebody is to commit. An interrupt may have kept an earlier call from starting it."""
        if self._thread is None or self._thread.ident is None:
            self._thread = threading.Thread(target=self._run, name=f"mqlite producer {self._name}", daemon=True)
            self._thread.start()
        self._is_running = True

    def _wait(self, condition: Any, timeout: float | None) -> bool:
        """Under `_lock`."""
        if timeout == 0:
            return bool(condition())
        return bool(self._changed.wait_for(condition, timeout))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all put so far is durable. Raises the first error since the last flush, or Empty after
        `timeout`.
        """
        wait = check_timeout(timeout)
        with self._lock:
            target = self._accepted
            if not self._wait(lambda: self._decided >= target, wait):
                raise Empty(
                    f"the producer of queue {self._name!r} could not commit everything in time: "
                    f"{len(self._buffer) + self._committing} messages are left"
                )
            errors = [] if self._first_error is None else [self._first_error]
            self._first_error = None
        if errors:
            raise errors.pop()

    def wait_for(self, receipt: Receipt, timeout: float | None) -> None:
        """Wait until a receipt is done. Raises Empty."""
        with self._lock:
            if not self._wait(lambda: receipt.done, timeout):
                raise Empty(f"the message was not committed to queue {self._name!r} in time: it still may be")

    # ------------------------------------------------------------------ committing
    def _run(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._buffer or self._closed)
                if not self._buffer:
                    return
                group = [self._buffer.popleft() for _ in range(min(self._most, len(self._buffer)))]
                self._committing = len(group)
            self._commit(group)

    def _commit(self, group: list[Buffered]) -> None:
        """Commit in order, in as few commits as there is room for; each message gets its own answer."""
        try:
            wait = None if len(group) == 1 else 0.0
            ranks, payloads, times, said, _ = zip(*group, strict=True)
            ids = self._channel.put_each(ranks, payloads, times, said, wait, self._interrupt)
        except BaseException as error:
            if len(group) == 1:
                self._decide(group, [0], error)
            else:  # no room for all of them, or one is what is wrong
                self._commit(group[: len(group) // 2])
                self._commit(group[len(group) // 2 :])
        else:
            self._decide(group, ids, None)

    def _decide(self, group: list[Buffered], ids: list[int], error: BaseException | None) -> None:
        with self._lock:
            for buffered, number in zip(group, ids, strict=True):
                buffered[-1].settle(number, error)
            self._first_error = self._first_error or error
            self._committing -= len(group)
            self._decided += len(group)
            self._changed.notify_all()

    # ------------------------------------------------------------------ the end
    def stop(self) -> None:
        """The queue is being closed: commit what there is room for, and fail the rest with Closed."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        self._interrupt.close(self._channel.engine.presence)
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Commit all that is buffered, then take nothing more. Raises what flush raises."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        try:
            self.flush()
        finally:
            if self._owns_channel:
                self._channel.close()

    def __reduce__(self) -> Any:
        return Producer, (self._channel, self.priority, self.max_buffered, True)

    def after_fork(self) -> None:
        """In the child: what was buffered, and the thread, are the parent's."""
        closed = self._closed
        self._reset()
        self._closed = closed


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _at_exit() -> None:
    """What was put and not flushed is committed before the interpreter ends."""
    end = time.monotonic() + 10
    for producer in list(_producers):
        with contextlib.suppress(Exception):
            producer.flush(max(0.0, end - time.monotonic()))


atexit.register(_at_exit)
