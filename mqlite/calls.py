"""Request and reply over a queue: a call waits for what a function of another thread or process returns."""

from __future__ import annotations

import contextlib
import copy
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from .channel import Channel, PutOptions
from .checks import check_count, check_priority, check_timeout, check_ttl
from .consumer import Consumer
from .engine import Claim, QueueState, byid, legacies, subscriptions
from .engine.subscriptions import Wish
from .engine.topics import TopicState
from .errors import (
    CallFailed,
    CallTimeout,
    Closed,
    CodecError,
    LeaseLost,
    MessageTooLarge,
    MqliteError,
    NoSuchSubscription,
    ShutDown,
    StoreFull,
)
from .handle import Handle
from .lease import Lease
from .log import Draft
from .message import CALLER, Marks, Message, Record, digest, rank_of
from .replies import FAILED, TOPIC
from .waiting import Interrupt

T = TypeVar("T")
#: Replies that are taken, and acknowledged in one commit.
AT_ONCE = 64
#: Seconds until a request is tried again whose reply found no room.
RETRY = 1.0
#: Seconds that a closing handle waits for a put that is under way.
PATIENCE = 5.0
_LEGACY_BYTES = 512
#: Of the subscription to the replies: what nobody takes is of no use to anybody.
_OPTIONS = {"ack_timeout": None, "max_deliveries": None, "dead_letter": False, "expired": "drop"}


@attrs.define(eq=False)
class _Call:
    """One call that waits: for `reply`, or for what went wrong.

    request: the id of its message, once that is known; sent: whether it was put, or will not be.
    """

    sent: threading.Event = attrs.field(factory=threading.Event)
    over: threading.Event = attrs.field(factory=threading.Event)
    request: int = 0
    reply: Record | None = None
    error: BaseException | None = None


class Calls:
    """The calls of one handle of a queue, by any of its threads.

    They share one ephemeral subscription to the replies, and one thread that takes those and gives each to the call
    with its correlation id. Both come with the first call, and go with `close`, or the process.

    Locks    `_lock` guards `_thread` and `_topic`, and is held while the subscription is made; a call is added to
             `_calls` under it, too, so that none is added when they all end. A call is there for as long as the frame
             that waits has it: an interrupt leaves nothing behind.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._engine = channel.engine
        self._state = channel.state
        self._reset()

    def _reset(self) -> None:
        self._interrupt = Interrupt(f"queue {self._state.name!r}")
        self._lock = threading.Lock()
        self._calls: weakref.WeakValueDictionary[str, _Call] = weakref.WeakValueDictionary()
        self._thread: threading.Thread | None = None
        self._topic: TopicState | None = None  # once there may be a subscription
        self._token = secrets.token_hex(16)  # its name
        self._legacy = 0

    @property
    def _key(self) -> bytes:
        return digest(CALLER + self._token)

    def call(self, body: Any, timeout: float | None, priority: int, options: PutOptions) -> Any:
        """See `Queue.call`."""
        wait = check_timeout(timeout)
        rank = rank_of(check_priority(priority))
        number = secrets.token_hex(8)
        draft = self._request(body, rank, wait, {**options, "correlation_id": number})
        end = None if wait is None else time.monotonic() + wait  # not before the request's own end, see replies.py
        if wait == 0:
            raise self._late(wait)
        call = _Call()
        try:
            self._begin(number, call)
            try:
                call.request = self._channel.put([(rank, draft)], _left(end), self._interrupt)[0]
            finally:
                call.sent.set()
            if not call.over.wait(_left(end)):
                self._cancel(call)
                if not call.over.is_set():  # nor a moment ago
                    raise self._late(wait)
        except CallTimeout:
            raise
        except BaseException:
            self._cancel(call)
            raise
        finally:
            self._calls.pop(number, None)
        return self._outcome(call)

    def _request(self, body: Any, rank: int, wait: float | None, options: PutOptions) -> Draft:
        """The request, ready to be put. It expires when the caller gives up, if not before."""
        ttl = self._state.options.ttl if options.get("ttl") is None else check_ttl(options["ttl"])
        lives = [seconds for seconds in (ttl, wait) if seconds]
        options["ttl"] = min(lives) if lives else None
        options["reply_to"] = CALLER + self._token
        extras, due, marks, terms = self._channel.said(rank, options)
        marks = (marks or Marks())._replace(unique=self._key)  # by which it is found when this process dies
        if wait:
            assert extras is not None
            extras["reply_by"] = self._engine.timeline.after(wait)
        return self._channel.draft(body, extras, due, marks, terms)

    def _outcome(self, call: _Call) -> Any:
        if call.error is not None:
            self._cancel(call)
            self._interrupt.check()
            raise call.error
        assert call.reply is not None
        body, extras = self._channel.decode(call.reply.payload), call.reply.extras or {}
        if extras.get("type") == FAILED:
            trace = extras["headers"]["traceback"] or None
            raise CallFailed(f"whoever answered a call of queue {self._state.name!r} failed: {body}", body, trace)
        return body

    def _late(self, timeout: float | None) -> CallTimeout:
        return CallTimeout(f"a call of queue {self._state.name!r} was not answered within {timeout} seconds")

    def _cancel(self, call: _Call) -> None:
        """The request goes, if nobody has taken it."""
        if call.request:
            with contextlib.suppress(MqliteError):
                byid.cancel(self._engine, self._state, call.request)

    # ------------------------------------------------------------------ replies
    def _begin(self, number: str, call: _Call) -> None:
        """From now on its reply is waited for. Raises Closed."""
        with self._lock:
            self._interrupt.check()
            if self._thread is None or self._thread.ident is None:  # an interrupt may have kept it from starting
                self._listen()
            self._calls[number] = call

    def _listen(self) -> None:
        """Under `_lock`. May be done again after an interrupt: the subscription of that name may be there."""
        self._topic = self._engine.topics.declare(TOPIC, {})
        wish = Wish(pattern=CALLER + self._token, durable=False, options=_OPTIONS)
        definition, _ = subscriptions.subscribe(self._engine, self._topic, self._token, wish)
        if not self._legacy:
            self._legacy = self._engine.log.write(self._leave_requests)
        with self._engine.log.read() as snapshot:
            state = self._engine.catalog.state(definition.id, snapshot)
        name = f"mqlite calls {self._state.name}"
        self._thread = threading.Thread(target=self._run, args=(state,), name=name, daemon=True)
        self._thread.start()

    def _leave_requests(self, txn: Any) -> int:
        """Under L: if this process dies, its requests that nobody has taken go."""
        txn.reserve(_LEGACY_BYTES)
        left = {"requests": self._state.id, "key": self._key.hex()}
        return legacies.leave(self._engine, txn, self._engine.presence.owner, left)

    def _run(self, state: QueueState) -> None:
        claims: list[Claim] = []
        try:
            while True:
                self._engine.receive(state, AT_ONCE, None, self._interrupt, claims)
                for claim in claims:
                    self._hand_over(claim.record)
                with contextlib.suppress(LeaseLost):
                    self._engine.ack(claims)
                claims.clear()
        except BaseException as error:  # it was closed, or something is wrong with the store
            with self._lock:
                self._thread = None  # the next call tries again
                calls = list(self._calls.values())
            for call in calls:
                call.error = copy.copy(error)  # raised in its own thread, with a traceback of its own
                call.over.set()

    def _hand_over(self, reply: Record) -> None:
        call = self._calls.get((reply.extras or {}).get("correlation_id", ""))
        if call is not None and not call.over.is_set():  # else it has given up
            call.reply = reply
            call.over.set()

    # ------------------------------------------------------------------ the end
    def close(self) -> None:
        """Calls that wait raise Closed; what nobody has taken of their requests goes, and the subscription, too."""
        self._interrupt.close(self._engine.presence)  # of puts that wait for room, too
        with self._lock:
            thread, calls = self._thread, list(self._calls.values())
        for call in calls:
            if call.sent.wait(PATIENCE) and call.reply is None:
                self._cancel(call)
        if thread is not None:
            thread.join()
        if self._topic is not None:
            with contextlib.suppress(MqliteError):  # it goes when this process has left
                subscriptions.unsubscribe(self._engine, self._topic, self._token)
                legacies.withdraw(self._engine, self._legacy)

    def after_fork(self) -> None:
        """In the child: the thread and the calls are the parent's. So is the subscription, but for a copy in memory."""
        closed, token, topic, legacy = self._interrupt.closed, self._token, self._topic, self._legacy
        self._reset()
        self._interrupt.closed = closed
        if self._channel.store.in_memory:
            self._token, self._topic, self._legacy = token, topic, legacy


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


class RequestReply(Generic[T]):
    """The part of a Queue that calls, and answers calls."""

    _calls: Calls
    _channel: Channel
    _interrupt: Interrupt
    _responders: weakref.WeakSet[Responder]

    def call(
        self,
        body: T,
        timeout: float | None = None,
        *,
        priority: int = 0,
        headers: Mapping[str, Any] | None = None,
        type: str | None = None,
        group: str | None = None,
        ttl: float | None = None,
    ) -> Any:
        """Put a request, and wait for its reply: what a function returns that `respond` calls, here or in any process.

        timeout: seconds to wait; None = for ever; then raises CallTimeout, and the request goes, unless somebody is at
        work on it. Raises CallFailed where the function raised, Full where there is no room within the timeout, Closed
        when this handle is closed meanwhile, CodecError, and what `put` raises. ttl: seconds until the request expires
        if nobody takes it; without a timeout its caller waits on.

        The work may be done more than once (as any message's), the reply comes once. Cost: two commits, and one behind
        the reply; the first call also makes a subscription and a thread.
        """
        self._interrupt.check()
        options: PutOptions = {"headers": headers, "type": type, "group": group, "ttl": ttl}
        return self._calls.call(body, timeout, priority, options)

    def respond(
        self, function: Callable[[Any], Any], *, prefetch: int = 1, threads: int = 1, pass_message: bool = False
    ) -> Responder:
        """Answer calls with what function(body) returns, in so many threads, until it is closed. See `Responder`.

        prefetch: messages that each thread claims ahead, the one at work included; pass_message: the function is called
        with the Message.
        """
        self._interrupt.check()
        responder = Responder(self._channel, function, prefetch, threads, pass_message)
        self._responders.add(responder)
        return responder


class Responder(Handle):
    """Answers calls: takes what is in the queue, calls a function, and replies with what it returns. From
    `Queue.respond`; close it, or leave its block, to end that.

    The reply and the acknowledgement are one commit, so each request is answered once; where a responder is killed,
    another one does the work again. A function that raises an Exception, or returns what the codec cannot carry, makes
    the call raise CallFailed. A request whose caller is gone, or has given up, is acknowledged without work. What is no
    request is acknowledged when the function returns, and nacked when it raises. A function may also settle the message
    itself (pass_message=True).

    Threads: any. Fork: the child has none. Pickle: not supported.
    """

    def __init__(
        self, channel: Channel, function: Callable[[Any], Any], prefetch: int, threads: int, pass_message: bool
    ) -> None:
        if not callable(function):
            raise TypeError(f"respond takes a function of a body, not {function!r}")
        if type(pass_message) is not bool:
            raise TypeError(f"pass_message is a bool, not {pass_message!r}")
        check_count(prefetch, "prefetch")
        check_count(threads, "threads")
        self._function = function
        self._pass_message = pass_message
        self._consumer = Consumer(channel, prefetch * threads, False)
        self._over = threading.Event()
        self._lock = threading.Lock()  # guards `_running`
        self._running = threads
        name = f"mqlite responder {channel.state.name}"
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)]
        channel.store.handles.add(self)
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except BaseException:  # no more threads: those that run end
                self._running -= threads - number
                self._threads = self._threads[:number]
                self.close()
                raise

    # ------------------------------------------------------------------ working
    def _run(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    message = self._consumer.receive()
                except (Closed, ShutDown, NoSuchSubscription):
                    return
                except MqliteError as error:
                    if not self._goes_on_after(error):
                        raise
                else:
                    self._serve(message)
        finally:
            self._end_thread()

    def _goes_on_after(self, error: MqliteError) -> bool:
        """Too much of the store is claimed: there will be room."""
        return isinstance(error, StoreFull) and not self._over.wait(RETRY)

    def _serve(self, message: Message) -> None:
        lease = message.lease
        assert isinstance(lease, Lease)
        try:
            if lease.is_request and not lease.is_awaited:
                lease.ack()
            else:
                self._work(message, lease)
        except LeaseLost:
            pass  # another one answers
        except MqliteError as error:  # no room for the reply, or the store was closed
            with contextlib.suppress(MqliteError):
                lease.nack(RETRY, error)

    def _work(self, message: Message, lease: Lease) -> None:
        try:
            result = self._function(message if self._pass_message else message.body)
        except Exception as error:
            if lease.settled or lease.is_left_to_transaction(error):
                _tell(error)
            elif lease.is_request:
                lease.report(error)
            else:
                lease.nack(None, error)
        except BaseException:  # no failure of the message
            with contextlib.suppress(MqliteError):
                lease.release()
            raise
        else:
            if lease.settled or lease.is_left_to_transaction(None):
                return
            if not lease.is_request:
                lease.ack()
                return
            try:
                lease.reply(result)
            except (CodecError, MessageTooLarge) as error:
                lease.report(error)

    # ------------------------------------------------------------------ the end
    def close(self) -> None:
        """Take nothing more; waits for the work that is under way, unless it is the one that closes. What was claimed
        ahead goes back.
        """
        self._over.set()
        self._consumer.stop()
        self._consumer.give_back_buffered()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        if not self._running:
            self._consumer.close()

    def _end_thread(self) -> None:
        """The last one gives back what is left."""
        with self._lock:
            self._running -= 1
            is_last = not self._running
        if is_last:
            with contextlib.suppress(Closed):
                self._consumer.close()

    def __reduce__(self) -> Any:
        raise TypeError("a responder cannot be sent to another process: ask its own queue to respond")

    def after_fork(self) -> None:
        """In the child: the threads are the parent's."""
        self._over = threading.Event()
        self._over.set()
        self._lock = threading.Lock()
        self._threads, self._running = [], 0


def _tell(error: Exception) -> None:
    """Nobody waits for it: it is told as a thread tells of its own."""
    args = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(args))
