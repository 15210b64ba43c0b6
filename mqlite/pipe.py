"""A pipe: takes messages here, sends on there what a function makes of them, exactly once."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Self

import attrs

from .checks import check_count, check_name, check_timeout
from .emit import Emit
from .engine import Claim
from .errors import Closed, Conflict, Full, LeaseLost, SettingsMismatch, ShutDown, StoreError
from .handle import Handle
from .lease import ack_many
from .message import Message
from .pipe_windows import PipeWindows, checked_window
from .queue import Queue
from .store import Store
from .subscription import Subscription
from .topic import Topic
from .transaction import Transaction, pauses
from .windows import TumblingWindow

#: Conflicts of one transaction in a row, after which its messages are done one by one, and one by itself has failed.
ATTEMPTS = 100
#: Seconds of one wait for room, at most.
SLICE = 0.5
#: No failure of a message: the pipe cannot go on.
_GRAVE = (Closed, ShutDown, StoreError, SettingsMismatch)
_END: Any = object()
Function = Callable[[Message, Transaction], Any]
Taken = list[tuple[Claim, Message]]


@attrs.frozen(kw_only=True)
class PipeStats:
    """What one handle has done. Exact.

    handled: messages that were acknowledged with all that was made of them. emitted: messages sent to the target;
    failed: calls that ended in a nack; conflicts: transactions that were done anew.
    """

    handled: int = 0
    emitted: int = 0
    failed: int = 0
    conflicts: int = 0


class _Failed(Exception):
    """The user's function has raised `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _SourceShutDown(ShutDown):
    """The source is shut down, and empty."""


def _users(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the user's code gives; what it raises is a failure of the message, unless the transaction or the store is
    to blame.
    """
    try:
        return call(*arguments)
    except (Conflict, StoreError):
        raise
    except Exception as error:
        raise _Failed(error) from error


class Pipe(Handle, PipeWindows):
    """From a queue or a subscription, through a function, to a queue or a topic. Made by `Broker.pipe`, see there.

        with broker.pipe(orders, price, invoices):      # threads work until the block is left
            ...
        broker.pipe(orders, price, invoices).run_until_idle()   # in this thread, all that is there

    A step claims up to `batch` messages, and acknowledges them in the commit that stores all that was made of them. So
    inside the store each message has its effects exactly once, through any crash.

    A message whose call fails is nacked. Where the source is shut down, the threads end when it is
    empty. Where the pipe cannot go on (a full or damaged store, a target that was closed or shut down), what it holds
    is given back, its threads end, `error` says why, and `close` raises that.

    Threads: all methods are free for any. Fork: the child has no threads; it may step, or start its own. Pickle: not
    supported. It is closed with its broker.
    """

    def __init__(
        self,
        store: Store,
        source: Queue[Any],
        function: Function | None,
        target: Queue[Any] | Topic[Any] | None,
        *,
        batch: int,
        window: TumblingWindow | None,
        threads: int,
        name: str | None,
    ) -> None:
        _check_ends(store, source, target)
        _check_function(function)
        self._name = _name_of(source, target) if name is None else check_name(name, "a pipe's name")
        self.batch = check_count(batch, "batch")
        self._count = check_count(threads, "threads")
        self._store, self._engine = store, store.engine
        self._source, self._function, self._target = source, function, target
        self._window = None if window is None else checked_window(window, name, function, target)
        if function is None and target is None:
            raise ValueError("a pipe with neither a function nor a target does nothing: give one of them")
        self.error: BaseException | None = None
        self._told = False
        self._numbers = dict.fromkeys(attrs.fields_dict(PipeStats), 0)
        self._reset()
        store.handles.add(self)
        if self._window is not None:
            self._next_close(self._window)  # raises SettingsMismatch, before messages are taken

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards all below, `error`, `_told` and `_numbers`
        self._changed = threading.Condition(self._lock)  # entered as `_lock`: its own __enter__ can be interrupted
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stepping: set[int] = set()  # threads that are inside a step

    @property
    def name(self) -> str:
        """The pipe's name."""
        return self._name

    def __repr__(self) -> str:
        return f"<mqlite.Pipe {self._name!r}>"

    def stats(self) -> PipeStats:
        """What this handle has done, in all its threads."""
        with self._lock:
            return PipeStats(**self._numbers)

    def _note(self, **numbers: int) -> None:
        with self._lock:
            for name, number in numbers.items():
                self._numbers[name] += number

    # ------------------------------------------------------------------ running
    def start(self) -> Self:
        """Work in threads of its own, until `close`. Nothing if it was started. Raises Closed."""
        with self._lock:
            self._check_open()
            for number in range(len(self._threads), self._count):
                thread = threading.Thread(target=self._run, name=f"mqlite pipe {self._name} {number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def step(self, timeout: float | None = 0.0) -> int:
        """One step in this thread: how many messages it has acknowledged, or failed.

        0: none came. timeout: seconds to wait for one, and then again for room in the target; None: for ever. Raises
        Full where there is no room for even one, ShutDown once the source is shut down and empty, Closed, and what
        keeps the pipe from going on; what was claimed is given back. Cost: one commit.
        """
        wait = check_timeout(timeout)
        return self._step(wait, wait) or 0

    def run_until_idle(self, timeout: float | None = None) -> int:
        """Steps in this thread until the source has nothing ready: how many messages were acknowledged, or failed.

        timeout: seconds that each step waits for room in the target. Raises as `step`, but ends where that raises
        ShutDown of the source.
        """
        room, total = check_timeout(timeout), 0
        with contextlib.suppress(_SourceShutDown):
            while (done := self._step(0.0, room)) is not None:
                total += done
        return total

    def _run(self) -> None:
        idle = False
        try:
            while not self._over.is_set():
                wait = None if self._window is None else self._patience(self._window) if idle else 0.0
                idle = self._step(wait, None) is None
        except _SourceShutDown:
            pass
        except BaseException as error:
            with self._lock:
                if isinstance(error, Closed) and self._over.is_set():
                    return
                self.error = self.error or error
            self._end()

    # ------------------------------------------------------------------ a step
    def _step(self, wait: float | None, room: float | None) -> int | None:
        """How many messages were settled; None where none came in time."""
        claims: list[Claim] = []
        try:
            self._enter()
            taken = self._claim(wait, claims)
            end = None if room is None else time.monotonic() + room
            if taken:
                done = self._settle(taken, end)
                self._engine.release_all([claim for claim, message in taken if not message.lease.settled])
            if self._window is not None:
                self._close_windows(self._window, not taken, end)
            return done if taken else None
        except BaseException as error:
            with contextlib.suppress(Closed):
                self._engine.release_all(claims)
            if isinstance(error, _SourceShutDown) and self._window is not None:
                self._close_windows(self._window, True, time.monotonic())
            raise
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._lock:
            self._check_open()
            self._stepping.add(threading.get_ident())

    def _leave(self) -> None:
        with self._lock:
            self._stepping.discard(threading.get_ident())
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._over.is_set():
            why = "was closed" if self.error is None else f"has ended ({type(self.error).__name__}: {self.error})"
            raise Closed(f"the pipe {self._name!r} {why}: make another one")

    def _claim(self, wait: float | None, claims: list[Claim]) -> Taken:
        """What can be had at once, as soon as there is something; nothing where nothing came in time. The caller gives
        back what is in `claims` if he is interrupted.
        """
        source, engine, channel = self._source, self._engine, self._source._channel
        source._interrupt.check()
        end = None if wait is None else time.monotonic() + wait
        while True:
            try:
                engine.receive(source._state, self.batch, wait, source._interrupt, claims, enough=self._over.is_set)
            except ShutDown as error:
                raise _SourceShutDown(*error.args) from None
            taken = []
            receiver = channel.receiver()
            for claim in claims:
                message = receiver.message(claim)
                if message is not None:
                    taken.append((claim, message))
            if taken or not claims:
                return taken
            claims.clear()  # none could be decoded, or was wanted
            wait = None if end is None else max(0.0, end - time.monotonic())

    def _settle(self, taken: Taken, end: float | None) -> int:
        """Messages, in as few transactions as it takes, in their order: how many were settled.

        end: when to give up waiting for room, by the monotonic clock. What is not settled then is the caller's.
        """
        done, groups = 0, [taken]  # the first ones last
        while groups:
            group = groups.pop()
            try:
                emitted = self._tried(group, 0.0 if len(group) > 1 else self._slice(end))
            except LeaseLost:
                break
            except Full:
                if len(group) > 1:  # there may be room for some of them
                    half = len(group) // 2
                    groups += [group[half:], group[:half]]
                elif end is None or time.monotonic() < end:
                    groups.append(group)
                    self._extend(groups)
                elif not done:
                    raise
                else:
                    break
            except _GRAVE:
                raise
            except Exception as error:
                if len(group) > 1:
                    groups += [[each] for each in reversed(group)]
                else:
                    done += self._failed(group[0][1], error.error if isinstance(error, _Failed) else error)
            else:
                if emitted is None:
                    break
                done += len(group)
                self._note(handled=len(group), emitted=emitted)
            if self._over.is_set():
                break
        return done

    def _tried(self, group: Taken, wait: float) -> int | None:
        """Done in one transaction, and anew after each Conflict: how many messages were sent on; None where the pipe is
        closed meanwhile.
        """
        left, waits = ATTEMPTS, pauses()
        while True:
            left -= 1
            try:
                with Transaction(self._store, wait, True, self._source._interrupt) as tx:
                    return self._work(tx, group)
            except Conflict:
                self._note(conflicts=1)
                if not left and self._window is None:  # what it expects of a table may never be so
                    raise
            if self._over.wait(next(waits)):
                return None

    def _work(self, tx: Transaction, group: Taken) -> int:
        messages = [message for _, message in group]
        ack_many(messages, self._engine, self._source.name, tx)  # first: so the function cannot settle them by itself
        if self._window is not None:
            self._window.add_many(tx, messages)
            return 0
        if self._function is None:
            for claim, message in group:
                self._send(tx, self._forwarded(claim, message))
            return len(group)
        return sum(self._call(self._function, message, tx) for message in messages)

    def _call(self, function: Function, message: Message, tx: Transaction) -> int:
        """How many messages the function has given; they are staged."""
        given, count = _users(function, message, tx), 0
        if not isinstance(given, Iterator):
            count = self._pass_on(tx, given)
        else:
            try:
                while (each := _users(next, given, _END)) is not _END:
                    count += self._pass_on(tx, each)
            finally:
                if isinstance(given, Generator):
                    _users(given.close)
        if not tx.is_open:
            raise Closed(f"the function of pipe {self._name!r} has ended its transaction: leave that to the pipe")
        return count

    def _pass_on(self, tx: Transaction, given: Any) -> int:
        if given is None:
            return 0
        self._send(tx, given)
        return 1

    def _send(self, tx: Transaction, given: Any) -> None:
        if self._target is None:
            raise TypeError(
                f"the function of pipe {self._name!r}, which has no target, gave {given!r}: give the pipe a target, "
                "or put with tx and return None"
            )
        (given if isinstance(given, Emit) else Emit(given)).send(self._target, tx)

    def _forwarded(self, claim: Claim, message: Message) -> Emit:
        """The message as it is."""
        marks = claim.record.marks
        ttl = None
        if marks is not None and marks.expires is not None:
            line, expires_ns = marks.expires
            ttl = max(1, expires_ns - self._engine.timeline.now_ns(line)) / 1e9
        return Emit(
            message.body,
            routing_key=(message.routing_key or "") if isinstance(self._target, Topic) else "",
            priority=message.priority,
            ttl=ttl,
            headers=message.headers or None,
            type=message.type,
            group=message.group,
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
        )

    def _failed(self, message: Message, error: Exception) -> int:
        with contextlib.suppress(LeaseLost):
            message.nack(error=error)
            self._note(failed=1)
            return 1
        return 0

    def _extend(self, groups: list[Taken]) -> None:
        """Who waits for room does not hang."""
        timeout = self._source._state.options.ack_timeout
        if timeout is not None:
            for _, message in [each for group in groups for each in group]:
                with contextlib.suppress(LeaseLost):
                    message.extend(min(timeout, 999_999_999))

    @staticmethod
    def _slice(end: float | None) -> float:
        """Seconds of the next wait for room."""
        return SLICE if end is None else max(0.0, min(SLICE, end - time.monotonic()))

    # ------------------------------------------------------------------ the end
    def _end(self) -> None:
        """All threads finish what they are at."""
        if not self._over.is_set():
            self._over.set()
            with contextlib.suppress(Closed):
                self._source._interrupt.ring(self._engine.presence)

    def close(self) -> None:
        """Finish the steps that are under way, give back the rest, and end the threads. Raises the error that has ended
        the pipe before, once.

        From inside the function, it does not wait for the step that it is in. A step that waits for room ends within
        half a second.
        """
        self._end()
        me = threading.current_thread()
        with self._lock:
            self._changed.wait_for(lambda: not self._stepping - {me.ident})
            threads = list(self._threads)
        for thread in threads:
            if thread is not me:
                thread.join()
        with self._lock:
            told, self._told = self._told, True
        if self.error is not None and not told:
            raise self.error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException as own:
            if error is None or own is not self.error:  # else what the block has raised goes on
                raise

    def __reduce__(self) -> Any:
        raise TypeError(
            f"the pipe {self._name!r} cannot be sent to another process: its function and its threads belong to this "
            "one; call broker.pipe there"
        )

    def after_fork(self) -> None:
        """In the child: the threads are the parent's."""
        over = self._over.is_set()
        self._reset()
        if over:
            self._over.set()


def _check_ends(store: Store, source: object, target: object) -> None:
    """Raises TypeError, ValueError."""
    if not isinstance(source, Queue):
        raise TypeError(f"the source of a pipe is a Queue or a Subscription, not {source!r}")
    if isinstance(target, Subscription):
        raise TypeError(f"a subscription gets what its topic publishes: give the topic {target.topic!r} as target")
    if target is not None and not isinstance(target, Queue | Topic):
        raise TypeError(f"the target of a pipe is a Queue, a Topic or None, not {target!r}")
    for end, what in ((source, "source"), (target, "target")):
        if end is not None and end._engine is not store.engine:
            raise ValueError(f"the {what} of the pipe is of another store: take all from one mqlite.open()")


def _check_function(function: object) -> None:
    """Raises TypeError."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"a pipe takes a function of a message and a transaction, or None, not {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"a pipe calls a plain function or a generator function, and {function!r} is async")


def _name_of(source: Queue[Any], target: Queue[Any] | Topic[Any] | None) -> str:
    return source._state.name if target is None else f"{source._state.name} > {target.name}"
