"""One commit for all threads that wait for one (leader and followers).

The first thread that comes leads: it begins the write transaction, and when it has
it, takes everybody who came meanwhile into it, commits once, and has the first of
those who came during the commit lead next. Who is alone waits for nobody. (As
LevelDB's writer queue and bbolt's DB.Batch do, with each operation answered alone.)

An operation that raises an MqliteError or ShutDown has changed nothing (its
contract), and the others go on. Any other error, and StoreCorrupted, which can come
at any step, poisons the transaction: it is aborted, the culprit gets the error, and
the rest are run again without it. A commit that fails fails for everybody in it.

The log's commits are shared so, and the claims' (claims/shared.py).

Right is only what happens under `write_lock`: an operation is decided there, once, and
whoever finds his own undecided may decide it. Who leads and who follows is no more than
a hint: two leaders come one after the other, and a follower whom nobody answers leads
after HEDGE seconds. So a lead that was lost costs that second, and hangs nobody.

Followers are answered one after the other: the leader wakes the first, who wakes the
second before it goes on, and so forth. Each that is awake wants the GIL, which LMDB's
binding gives up in each call, waking one of those who want it and mostly taking it back
first: answered all at once, 16 threads that receive and acknowledge made 14.6 calls of the
kernel's futex for each message, so 6.6.

An interrupt (KeyboardInterrupt, SystemExit from a signal handler) can strike between any
two bytecodes. Whether the operations of a batch are decided is one list that they share,
and `_COMMIT` is called through its `extend`, which runs the commit and notes its return
without a bytecode in between. The interrupt is raised whether or not the operation was
committed, but never before one of the two is certain. An Exception that a signal handler
raises cannot be told from one of the operation that is running, which may be a follower's.

Locks    `write_lock` (the caller's) is held from begin to commit; `guard`, entered behind it,
         ends a transaction that an interrupt left open.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise, repeat
from typing import Any, Protocol, TypeVar

from ..errors import MqliteError, ShutDown, StoreCorrupted

T = TypeVar("T")
_COMMIT = operator.methodcaller("commit")
_POP = operator.methodcaller("popleft")
MAX_BATCH = 512
#: Who has just shared a commit comes back, and not all at once.
COMPANY = 16
#: Seconds after which a follower leads, if nobody has answered.
HEDGE = 1.0
_DECIDED: list[None] = [None]
_WITHDRAWN: list[None] = [None]


class Transaction(Protocol):
    """What a group needs of a write transaction. operations: those that it is to carry out; set by the group."""

    notes: list[Any]
    changed: bool
    operations: Sequence[Callable[[Any], Any]]

    def seal(self) -> Any:
        """All but the commit; returns the object whose commit(), in C, is the commit."""

    def abort(self) -> None: ...


class _Request:
    """One thread's operation."""

    __slots__ = ("error", "followers", "gate", "next", "notes", "notes_hold", "op", "outcome", "result")

    def __init__(self, op: Callable[[Any], Any]) -> None:
        self.op = op
        self.result: Any = None
        self.error: BaseException | None = None
        self.outcome: list[None] = []  # not empty: result or error hold
        # of a follower:
        self.gate: LockType | None = None  # held until he is to look
        self.next: _Request | None = None  # whom he wakes then
        # of a leader:
        self.followers: list[_Request] = []
        self.notes: list[Any] = []
        self.notes_hold: list[None] = []  # the outcome of the transaction that the notes are of

    def pop_error(self) -> BaseException:
        """The error, to be raised: it would hold the frame that raises it, and that frame the request."""
        error, self.error = self.error, None
        assert error is not None
        return error


class GroupCommit:
    """Runs operations in transactions made by `begin`, and `after(notes)` behind each commit.

    end(txn) is called with the transaction that was committed, or None after an abort.
    is_led, company: hints for who would commit by himself: somebody leads, and others may follow, whom he would pass
    by; not 0: one of the last COMPANY commits was shared.
    translated turns an error of the storage (one of the types in `foreign`) into ours.
    """

    def __init__(
        self,
        *,
        write_lock: LockType,
        guard: AbstractContextManager[None],
        begin: Callable[[], Transaction],
        end: Callable[[Any], None],
        after: Callable[[list[Any]], None],
        foreign: type[Exception],
        translated: Callable[[Any], MqliteError],
    ) -> None:
        self._write_lock = write_lock
        self._guard = guard
        self._begin = begin
        self._end = end
        self._after = after
        self._foreign = foreign
        self._translated = translated
        self._waiting: deque[_Request] = deque()
        self.is_led = False
        self.company = 0

    def is_busy(self) -> bool:
        """Whether others are in the way of who would commit by himself. A hint. Cost: 0.1 us."""
        return self.is_led or self._write_lock.locked()

    def resume(self, notes: list[Any], outcome: list[None]) -> None:
        """An error or an interrupt struck behind a commit that was made without the group: do what follows it.
        outcome: not empty.
        """
        own = _Request(_nothing)
        own.outcome = own.notes_hold = outcome
        own.notes = notes
        self._withdraw(own)

    def run(self, op: Callable[[Any], T]) -> T:
        """The result of `op(txn)`, once it is committed. Raises what it raised, or why it was not."""
        own = _Request(op)
        try:
            if self.is_led:
                self._follow(own)
                _wake(own.next)
            if not own.outcome:
                self.is_led = True
                with self._write_lock, self._guard:
                    late = bool(own.outcome)
                    if not late:
                        self._commit(own)
                self._conclude(own)
                if late and own.gate is not None:  # the other leader does what follows the commit first
                    own.gate.acquire(timeout=HEDGE)
                _wake(own.next)  # known since the outcome is
        except BaseException:
            self._withdraw(own)
            raise
        if own.error is not None:
            raise own.pop_error()
        result: T = own.result
        return result

    def _follow(self, own: _Request) -> None:
        """Returns when it is answered, or should lead."""
        own.gate = allocate_lock()
        own.gate.acquire()
        self._waiting.append(own)
        if self.is_led and not own.gate.acquire(timeout=HEDGE) and own.outcome:  # whoever hands the lead on now sees us
            own.gate.acquire(timeout=HEDGE)  # the leader does what follows the commit first

    def _commit(self, own: _Request) -> None:
        """Under the write lock: own operation and those that wait, in as few transactions as can be."""
        pending: list[_Request] = []
        txn = None
        try:
            while True:
                txn = self._begin()
                if not pending:
                    if self._waiting:
                        self._gather(own)
                    self.company = COMPANY if own.followers else max(0, self.company - 1)
                    pending = [own, *own.followers]
                txn.operations = [request.op for request in pending]
                culprit = self._apply(txn, pending)
                if culprit is None:
                    own.notes, own.notes_hold = txn.notes, pending[0].outcome
                    if txn.changed:
                        pending[0].outcome.extend(map(_COMMIT, (txn.seal(),)))
                        self._end(txn)
                        return
                txn.abort()
                self._end(None)
                txn = None
                if culprit is None:
                    pending[0].outcome.append(None)
                    return
                culprit.outcome = _DECIDED
                pending.remove(culprit)
                if not pending:
                    return
        except (MqliteError, self._foreign) as error:  # begin or commit failed, and with it everybody's operation
            ours = error if isinstance(error, MqliteError) else self._translated(error)
            if txn is not None:
                with contextlib.suppress(self._foreign):
                    txn.abort()
                self._end(None)
            with contextlib.suppress(ValueError):
                self._waiting.remove(own)  # a leader who was handed the lead leaves the line in `_gather` otherwise
            for request in (own, *own.followers):
                if not request.outcome:  # also one that was refused for what the others had changed
                    request.error = copy.copy(ours)  # raised in its own thread, with a traceback of its own
                    request.error.__cause__ = error if error is not ours else error.__cause__
                    request.outcome = _DECIDED

    def _gather(self, own: _Request) -> None:
        """Take along who waits, in order."""
        followers: list[_Request] = []
        own.followers = followers
        count = min(len(self._waiting), MAX_BATCH - 1)
        followers.extend(map(_POP, repeat(self._waiting, count)))  # in C: an interrupt loses nobody
        followers[:] = [request for request in followers if request is not own and not request.outcome]
        for request, behind in pairwise(followers):
            request.next = behind

    def _apply(self, txn: Transaction, pending: list[_Request]) -> _Request | None:
        """Run all operations; returns the one that poisoned the transaction, if one did."""
        outcome: list[None] = []
        for request in pending:
            request.outcome = outcome
            request.error = None
            try:
                request.result = request.op(txn)
            except (MqliteError, ShutDown) as error:
                request.error = error
                if isinstance(error, StoreCorrupted) or isinstance(error.__cause__, self._foreign):
                    return request
            except self._foreign as error:
                request.error = self._translated(error)
                request.error.__cause__ = error
                return request
            except Exception as error:
                request.error = error
                return request
        return None

    def _conclude(self, own: _Request) -> None:
        """Have the next one lead, do what follows the commit, answer the first follower. May be done again."""
        self._hand_on()
        try:
            if own.notes and own.notes_hold:
                self._after(own.notes)  # whose every step may be done twice
                own.notes = []
        finally:
            if own.followers:
                _wake(own.followers[0])

    def _hand_on(self) -> None:
        self.is_led = False
        while self._waiting:
            self.is_led = True
            try:
                heir = self._waiting[0]
            except IndexError:  # another leader took it along
                self.is_led = False
                continue
            if not heir.outcome:
                _wake(heir)
                return
            self.is_led = False
            with contextlib.suppress(ValueError):  # answered, and still in line
                self._waiting.remove(heir)

    def _withdraw(self, own: _Request) -> None:
        """An interrupt is on its way through `run`: decide what is undecided, leave nobody waiting.

        Who is in nobody's batch, as he is still in line or never was, waits for nobody: a leader may have to wait for
        a process that was stopped.
        """
        while True:
            try:
                if not self._is_in_no_batch(own):
                    with self._write_lock, self._guard:  # whoever has it in his batch is done
                        pass
                if not own.outcome:
                    own.outcome = _WITHDRAWN
                try:
                    return self._conclude(own)
                finally:
                    for request in (own.next, *own.followers):  # who wakes whom may not be settled
                        _wake(request)
            except Exception:  # of what follows the commit
                raise
            except BaseException:  # another interrupt: the first one is raised
                continue

    def _is_in_no_batch(self, own: _Request) -> bool:
        """Whether this thread alone may decide it, from now on."""
        try:
            self._waiting.remove(own)  # in C: either this takes it, or a leader
        except ValueError:
            return own.gate is None
        return True


def _nothing(txn: Any) -> None:
    """The operation of a request that was carried out."""


def _wake(request: _Request | None) -> None:
    if request is not None:
        assert request.gate is not None
        with contextlib.suppress(RuntimeError):  # open already
            request.gate.release()
