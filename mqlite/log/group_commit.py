"""One commit for all threads that wait for one (leader and followers).

The first thread that comes leads: it begins the write transaction, and when it has
it, takes everybody who came meanwhile into it, commits once, and hands the lead to
the first of those who came during the commit. Who is alone waits for nobody. (As
LevelDB's writer queue and bbolt's DB.Batch do, with each operation answered alone.)

An operation that raises an MqliteError or ShutDown has changed nothing (its
contract), and the others go on. Any other error poisons the transaction: it is
aborted, the culprit gets the error, and the rest are run again without it. A commit
that fails fails for everybody in it.

A KeyboardInterrupt can strike the leader between any two bytecodes. What decides
is whether the commit was made, and `_COMMIT` is called through `list.extend`, which
runs it and notes its return without a bytecode in between. Before the commit, the
others are left to the next leader; after it, everybody gets his result.

Locks    `write_lock` (the caller's) is held from begin to commit; `guard`, entered behind it,
         ends a transaction that an interrupt left open. `_lock` guards
         `_waiting`, `_led` and who leads; nothing is waited for under it.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, cast

from ..errors import MqliteError, ShutDown
from . import Note

T = TypeVar("T")
_COMMIT = operator.methodcaller("commit")
MAX_BATCH = 512


class Transaction(Protocol):
    """What a group needs of a write transaction."""

    notes: list[Note]

    @property
    def changed(self) -> bool: ...
    def seal(self) -> Any:
        """All but the commit; returns the object whose commit(), in C, is the commit."""

    def abort(self) -> None: ...


class _Request:
    """One thread's operation. `gate` is held until there is an answer, or the lead to take."""

    __slots__ = ("batch", "decided", "done", "error", "gate", "leads", "notes", "op", "result")

    def __init__(self, op: Callable[[Any], Any]) -> None:
        self.op = op
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.gate: LockType | None = None
        self.leads = False
        # while it leads:
        self.batch: list[_Request] = [self]
        self.decided: list[None] = []  # not empty once the outcome of the batch is certain
        self.notes: list[Note] = []


class GroupCommit:
    """Runs operations in transactions made by `begin`, and `after(notes)` behind each commit.

    end(txn) is called with the transaction that was committed, or None after an abort.
    translated turns an error of the storage (one of the types in `foreign`) into ours.
    """

    def __init__(
        self,
        *,
        write_lock: LockType,
        guard: AbstractContextManager[None],
        begin: Callable[[], Transaction],
        end: Callable[[Any], None],
        after: Callable[[list[Note]], None],
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
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._led = False

    def run(self, op: Callable[[Any], T]) -> T:
        """The result of `op(txn)`, once it is committed. Raises what it raised, or why it was not."""
        request = _Request(op)
        try:
            with self._lock:
                if self._led:
                    request.gate = allocate_lock()
                    request.gate.acquire()
                    self._waiting.append(request)
                else:
                    request.leads = True
                    self._led = True
            if request.gate is not None:
                request.gate.acquire()
            if request.leads and not request.done:
                self._lead(request)
            elif request.leads:  # an interrupt made two leaders, and the other has answered
                self._pass_lead(request)
        finally:
            while not request.done and not self._interrupted(request):
                pass  # interrupted again: everything in there may be done twice
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    def _lead(self, own: _Request) -> None:
        try:
            with self._write_lock, self._guard:
                self._commit_batch(own)
        except (MqliteError, self._foreign) as error:  # begin or commit failed, and with it everybody's operation
            ours = error if isinstance(error, MqliteError) else self._translated(error)
            own.notes = []
            for request in own.batch:
                request.error = request.error or ours
            own.decided.append(None)
        self._conclude(own)

    def _commit_batch(self, own: _Request) -> None:
        pending: list[_Request] = []
        while True:
            txn = self._begin()
            try:
                if not pending:
                    self._gather(own.batch)
                    pending = list(own.batch)
                culprit = self._apply(txn, pending)
                if culprit is None:
                    own.notes = txn.notes
                    if txn.changed:
                        own.decided.extend(map(_COMMIT, (txn.seal(),)))
                        self._end(txn)
                        return
            except self._foreign:  # an interrupt leaves it to the guard
                with contextlib.suppress(self._foreign):
                    txn.abort()
                self._end(None)
                raise
            txn.abort()
            self._end(None)
            if culprit is not None:
                pending.remove(culprit)
            if culprit is None or not pending:
                own.decided.append(None)
                return

    def _gather(self, batch: list[_Request]) -> None:
        with self._lock:
            while self._waiting and len(batch) < MAX_BATCH:
                request = self._waiting.popleft()
                if request is not batch[0]:  # still in line, if an interrupt struck who handed it the lead
                    batch.append(request)

    def _apply(self, txn: Transaction, pending: list[_Request]) -> _Request | None:
        """Run all operations; returns the one that poisoned the transaction, if one did."""
        for request in pending:
            request.error = None
            try:
                request.result = request.op(txn)
            except (MqliteError, ShutDown) as error:
                request.error = error
                if isinstance(error.__cause__, self._foreign):
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
        """The outcome is certain: pass the lead, do what follows the commit, answer everybody."""
        self._pass_lead(own)
        try:
            if own.notes:
                self._after(own.notes)  # whose every step may be done twice
                own.notes = []
        finally:
            # the others first, each gate before its mark; `own` is marked when all are, so that this can be done again
            for request in own.batch[1:]:
                if not request.done:
                    assert request.gate is not None
                    if request.gate.locked():
                        request.gate.release()
                    request.done = True
            own.done = True

    def _pass_lead(self, own: _Request) -> None:
        """Idempotent, and right again when called again after an interrupt at any step."""
        with self._lock:
            if not own.leads:
                return
            if self._waiting:
                heir = self._waiting[0]
                heir.leads = True
                if heir.gate is not None and heir.gate.locked():
                    heir.gate.release()  # before it leaves the line: an interrupt in between must not lose it
                self._waiting.popleft()
            else:
                self._led = False
            own.leads = False

    def _interrupted(self, request: _Request) -> bool:
        """A KeyboardInterrupt is on its way through `run`: leave nobody waiting. False if interrupted again."""
        try:
            if request.decided:
                self._conclude(request)
                return True
            with self._lock:
                if request in self._waiting:
                    self._waiting.remove(request)
                while len(request.batch) > 1:
                    if not self._waiting or self._waiting[0] is not request.batch[-1]:
                        self._waiting.appendleft(request.batch[-1])
                    request.batch.pop()
            self._pass_lead(request)
            return True
        except KeyboardInterrupt:
            return False
