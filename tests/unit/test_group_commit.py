"""One commit for many threads: every answer reaches the one who asked."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from fixture_types import Eventually, InThread
from interrupting import interrupted_at

from mqlite.errors import Full, MqliteError, StoreCorrupted, StoreError, StoreFull
from mqlite.system import group_commit
from mqlite.system.group_commit import MAX_BATCH, GroupCommit


class StorageError(Exception):
    """What the storage raises."""


class FakeTransaction:
    """Appends to its store when it is committed."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.notes: list[Any] = []
        self.written: list[Any] = []

    @property
    def changed(self) -> bool:
        return bool(self.written)

    def write(self, value: Any) -> None:
        self.written.append(value)
        self.notes.append(("wrote", value))

    def seal(self) -> FakeTransaction:
        return self

    def commit(self) -> None:
        if self.store.commit_errors:
            raise self.store.commit_errors.pop()
        self.store.commits.append(self.written)

    def abort(self) -> None:
        self.store.aborts += 1


class InterruptedLock:
    """A lock whose first waits are interrupted."""

    def __init__(self, lock: Any, errors: list[BaseException]) -> None:
        self.lock, self.errors = lock, errors

    def __enter__(self) -> None:
        if self.errors:
            raise self.errors.pop()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class FakeStore:
    """Counts transactions, and keeps what was committed."""

    def __init__(self) -> None:
        self.commits: list[list[Any]] = []
        self.aborts = 0
        self.begun = 0
        self.notes: list[Any] = []
        self.begin_errors: list[BaseException] = []
        self.commit_errors: list[BaseException] = []
        self.after_errors: list[BaseException] = []
        self.lock = threading.Lock()
        self.group = GroupCommit(
            write_lock=self.lock,
            guard=contextlib.nullcontext(),
            begin=self.begin,
            end=lambda txn: None,
            after=self.after,
            foreign=StorageError,
            translated=lambda error: StoreError(f"translated: {error}"),
        )

    def begin(self) -> FakeTransaction:
        self.begun += 1
        if self.begin_errors:
            raise self.begin_errors.pop()
        return FakeTransaction(self)

    def after(self, notes: list[Any]) -> None:
        self.notes.extend(notes)
        if self.after_errors:
            raise self.after_errors.pop()

    @property
    def stored(self) -> list[Any]:
        return [value for written in self.commits for value in written]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    monkeypatch.setattr(group_commit, "HEDGE", 60.0)  # whoever falls back upon it hangs here
    made = FakeStore()
    yield made
    assert made.group.run(lambda txn: txn.write("end")) is None  # nobody is left in the way
    assert made.stored[-1] == "end"


@pytest.fixture
def together(store: FakeStore, in_thread: InThread, eventually: Eventually) -> Callable[..., list[Future[Any]]]:
    """together(op, ...): runs all operations in one batch, the first one leading."""

    def run(*ops: Callable[[Any], Any]) -> list[Future[Any]]:
        with store.lock:
            futures = [in_thread(store.group.run, ops[0])]
            eventually(lambda: store.group.is_led)
            for n, op in enumerate(ops[1:], 1):
                futures.append(in_thread(store.group.run, op))
                eventually(lambda n=n: len(store.group._waiting) == n)
        return futures

    return run


@contextlib.contextmanager
def interrupted_in_line(store: FakeStore) -> Iterator[None]:
    """Who waits for a leader in this thread is interrupted once he is in line."""
    line = store.group._waiting

    class Line(deque[Any]):
        def append(self, request: Any) -> None:
            super().append(request)
            raise KeyboardInterrupt

    store.group._waiting = Line(line)
    try:
        yield
    finally:
        line.extend(store.group._waiting)
        store.group._waiting = line


def interrupted_once(method: Callable[..., Any]) -> Callable[..., Any]:
    interrupts = [KeyboardInterrupt()]

    def interrupted(*arguments: Any) -> Any:
        if interrupts:
            raise interrupts.pop()
        return method(*arguments)

    return interrupted


def write(value: Any, result: Any = None) -> Callable[[Any], Any]:
    def op(txn: FakeTransaction) -> Any:
        txn.write(value)
        return result

    return op


def fail(error: BaseException) -> Callable[[Any], Any]:
    def op(txn: FakeTransaction) -> Any:
        raise error

    return op


def poison(value: Any, error: BaseException) -> Callable[[Any], Any]:
    """Changes something first, then fails."""

    def op(txn: FakeTransaction) -> Any:
        txn.write(value)
        raise error

    return op


def test_one_operation_is_one_commit(store: FakeStore) -> None:
    assert (store.group.run(write(1, "result")), store.commits) == ("result", [[1]])


def test_an_operation_that_changes_nothing_commits_nothing(store: FakeStore) -> None:
    assert (store.group.run(lambda txn: 5), store.commits, store.aborts) == (5, [], 1)


def test_notes_are_handed_on_after_the_commit(store: FakeStore) -> None:
    store.group.run(write(1))
    assert store.notes == [("wrote", 1)]


def test_notes_of_an_operation_that_changed_nothing_are_handed_on(store: FakeStore) -> None:
    store.group.run(lambda txn: txn.notes.append("ring"))
    assert store.notes == ["ring"]


def test_operations_that_wait_share_one_commit_in_order(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    futures = together(*(write(n, 10 * n) for n in range(5)))
    assert ([future.result(10) for future in futures], store.commits) == ([0, 10, 20, 30, 40], [[0, 1, 2, 3, 4]])


def test_a_batch_has_a_limit(store: FakeStore, in_thread: InThread, eventually: Eventually) -> None:
    count = MAX_BATCH + 10
    with store.lock:
        futures = [in_thread(store.group.run, write(n)) for n in range(count)]
        eventually(lambda: len(store.group._waiting) == count - 1)
    for future in futures:
        future.result(30)
    assert (sorted(store.stored), max(map(len, store.commits)) <= MAX_BATCH) == (list(range(count)), True)


def test_an_error_of_ours_reaches_only_the_one_who_asked(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    first, refused, last = together(write(1, "a"), fail(Full("no room")), write(2, "b"))
    assert isinstance(refused.exception(10), Full)
    assert (first.result(10), last.result(10), store.commits) == ("a", "b", [[1, 2]])


@pytest.mark.parametrize("leads", [True, False])
def test_an_error_of_anybody_else_s_undoes_what_its_operation_changed(store: FakeStore, together: Callable[..., list[Future[Any]]], leads: bool) -> None:
    ops = [write(1, "a"), write(2, "b")]
    ops.insert(0 if leads else 1, poison("half", ZeroDivisionError("oops")))
    futures = together(*ops)
    errors = [future.exception(10) for future in futures]
    assert isinstance(errors.pop(0 if leads else 1), ZeroDivisionError)
    assert (errors, store.stored) == ([None, None], [1, 2])


def test_what_was_changed_before_damage_was_found_is_undone(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    good, bad = together(write(1), poison("half", StoreCorrupted("counters")))
    assert isinstance(bad.exception(10), StoreCorrupted)
    assert (good.exception(10), store.stored) == (None, [1])


def test_an_error_of_the_storage_inside_an_operation_is_translated(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    first, culprit, last = together(write(1), poison("half", StorageError("torn")), write(2))
    assert str(culprit.exception(10)) == "translated: torn"
    assert (first.exception(10), last.exception(10), store.stored) == (None, None, [1, 2])


class Witness:
    """Something that an operation has in its hands when it fails."""


@pytest.mark.parametrize("error", [Full("no room"), ValueError("bug")])
def test_an_error_that_was_dealt_with_keeps_nothing_alive(store: FakeStore, error: Exception) -> None:
    seen: list[weakref.ref[Witness]] = []

    def op(txn: FakeTransaction) -> None:
        witness = Witness()
        seen.append(weakref.ref(witness))
        raise type(error)("with a traceback")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(type(error)):
            store.group.run(op)
        assert seen[0]() is None
    finally:
        gc.enable()


def test_several_culprits_get_an_error_each(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    futures = together(poison("x", KeyError("one")), write(1), poison("y", StorageError("two")), poison("z", ValueError("three")))
    assert ([type(future.exception(10)) for future in futures], store.stored) == ([KeyError, type(None), StoreError, ValueError], [1])


def test_a_commit_that_fails_fails_for_everybody_in_it(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    store.commit_errors.append(StorageError("disk"))
    futures = together(write(1), write(2), write(3))
    assert ([str(future.exception(10)) for future in futures], store.stored, store.notes) == (["translated: disk"] * 3, [], [])


def test_a_commit_that_fails_fails_also_for_who_was_refused_for_what_was_in_it(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    store.commit_errors.append(StorageError("disk"))
    first, refused = together(write(1), fail(Full("no room beside 1")))
    assert (type(first.exception(10)), type(refused.exception(10))) == (StoreError, StoreError)
    assert first.exception(10) is not refused.exception(10)  # each is raised in a thread of its own


def test_notes_of_a_transaction_that_was_not_committed_are_not_handed_on(
    store: FakeStore, together: Callable[..., list[Future[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTransaction, "seal", interrupted_once(FakeTransaction.seal))
    culprit, other = together(poison("half", ValueError()), write(1, "a"))
    assert isinstance(culprit.exception(10), KeyboardInterrupt)
    assert other.result(10) == "a"
    assert (store.stored, store.notes) == ([1], [("wrote", 1)])


@pytest.mark.parametrize("error", [StorageError("disk"), StoreFull("full")])
def test_a_begin_that_fails_fails_for_the_leader_and_leaves_nobody_waiting(store: FakeStore, together: Callable[..., list[Future[Any]]], error: Exception) -> None:
    store.begin_errors.append(error)
    first, second = together(write(1), write(2))
    assert isinstance(first.exception(10), MqliteError)
    assert second.exception(10) is None or isinstance(second.exception(10), MqliteError)
    assert store.stored == ([2] if second.exception(10) is None else [])


def test_a_leader_in_line_whose_begin_fails_holds_nobody_up(store: FakeStore, in_thread: InThread, eventually: Eventually) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        inside.set()
        assert go_on.wait(10)
        store.begin_errors.append(StorageError("disk"))

    first = in_thread(store.group.run, slow)
    assert inside.wait(10)
    others = [in_thread(store.group.run, write(n)) for n in range(4)]
    eventually(lambda: len(store.group._waiting) == 4)
    go_on.set()
    assert first.exception(10) is None
    assert sorted(str(type(future.exception(10))) for future in others) == sorted([str(StoreError), *[str(type(None))] * 3])


def test_an_answered_request_at_the_head_of_the_line_holds_nobody_up(store: FakeStore, in_thread: InThread, eventually: Eventually) -> None:
    answered = group_commit._Request(write("answered"))
    answered.outcome = [None]
    inside, go_on = threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        inside.set()
        assert go_on.wait(10)

    first = in_thread(store.group.run, slow)
    assert inside.wait(10)
    store.group._waiting.append(answered)
    other = in_thread(store.group.run, write(1))
    eventually(lambda: len(store.group._waiting) == 2)
    go_on.set()
    assert (first.exception(10), other.exception(10), store.stored) == (None, None, [1])


def test_an_interrupt_of_who_is_in_line_does_not_wait_for_the_leader(store: FakeStore, in_thread: InThread, eventually: Eventually) -> None:
    """A leader may wait for another process, which was stopped."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        inside.set()
        assert go_on.wait(10)

    leader = in_thread(store.group.run, slow)
    assert inside.wait(10)
    with pytest.raises(KeyboardInterrupt), interrupted_in_line(store):
        store.group.run(write("interrupted"))
    assert (leader.done(), list(store.group._waiting)) == (False, [])
    go_on.set()
    assert (leader.exception(10), store.stored) == (None, [])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_who_waits_for_the_lock_does_not_wait_for_it(store: FakeStore, interrupt: type[BaseException]) -> None:
    store.group._write_lock = InterruptedLock(store.lock, [interrupt()])
    with store.lock, pytest.raises(interrupt):
        store.group.run(write("interrupted"))
    store.group._write_lock = store.lock
    assert store.stored == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_operation_whose_call_was_interrupted_twice_is_not_committed_later(
    store: FakeStore, interrupt: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = InterruptedLock(store.lock, [interrupt(), interrupt()])
    store.group._write_lock = lock
    monkeypatch.setattr(GroupCommit, "_is_in_no_batch", lambda group, own: False)  # somebody may have it in his
    with pytest.raises(interrupt):
        store.group.run(write("interrupted"))
    assert lock.errors == []
    store.group.run(write("next"))
    assert store.stored == ["next"]


def test_the_next_batch_goes_on_after_a_failed_commit(store: FakeStore) -> None:
    store.commit_errors.append(StorageError("disk"))
    with pytest.raises(StoreError):
        store.group.run(write(1))
    store.group.run(write(2))
    assert store.stored == [2]


def test_those_who_come_during_a_commit_are_in_the_next_one(store: FakeStore, in_thread: InThread, eventually: Eventually) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        txn.write("slow")
        inside.set()
        assert go_on.wait(10)

    first = in_thread(store.group.run, slow)
    assert inside.wait(10)
    others = [in_thread(store.group.run, write(n)) for n in range(3)]
    eventually(lambda: len(store.group._waiting) == 3)
    go_on.set()
    assert [future.exception(10) for future in [first, *others]] == [None] * 4
    assert (store.commits[0], sorted(store.commits[1])) == (["slow"], [0, 1, 2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_the_leader_s_operation_leaves_nobody_waiting(
    store: FakeStore, together: Callable[..., list[Future[Any]]], error: type[BaseException]
) -> None:
    first, *others = together(poison("half", error()), write(1, "a"), write(2, "b"))
    assert isinstance(first.exception(10), error)
    assert ([future.result(10) for future in others], sorted(store.stored)) == (["a", "b"], [1, 2])


def test_an_interrupt_inside_the_commit_leaves_nobody_waiting(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    store.commit_errors.append(KeyboardInterrupt())
    first, *others = together(write(1), write(2, "b"))
    assert isinstance(first.exception(10), KeyboardInterrupt)
    assert others[0].result(10) == "b"


def test_an_interrupt_after_the_commit_loses_no_result(store: FakeStore, together: Callable[..., list[Future[Any]]]) -> None:
    store.after_errors.append(KeyboardInterrupt())
    first, *others = together(write(1, "a"), write(2, "b"), write(3, "c"))
    assert isinstance(first.exception(10), KeyboardInterrupt)
    assert ([future.result(10) for future in others], store.stored) == (["b", "c"], [1, 2, 3])


def _interrupted_leader(store: FakeStore, in_thread: InThread, eventually: Eventually, point: int) -> bool:
    """Whether there was no such point. Two others come while its commit is under way."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> str:
        txn.write((point, "own"))
        inside.set()
        assert go_on.wait(10)
        return "own"

    def join_in() -> list[str]:
        inside.wait(10)
        futures = [in_thread(store.group.run, write((point, n), n)) for n in range(2)]
        eventually(lambda: len(store.group._waiting) == 2 or not store.group.is_led)
        go_on.set()
        return [future.result(10) for future in futures]

    others = in_thread(join_in)
    returned = False
    with interrupted_at(point) as struck:
        returned = store.group.run(slow) == "own"
    inside.set()
    assert others.result(10) == [0, 1], struck
    stored = {value: store.stored.count(value) for value in store.stored if value[0] == point}
    assert set(stored.values()) == {1}, struck
    assert {(point, 0), (point, 1)} <= set(stored), struck
    assert (point, "own") in stored or not returned, struck
    assert {value for _, value in store.notes} == set(store.stored), struck
    return not struck


def _interrupted_follower(store: FakeStore, in_thread: InThread, eventually: Eventually, point: int) -> bool:
    """Whether there was no such point."""
    inside, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        txn.write((point, "leader"))
        inside.set()
        assert go_on.wait(10)

    def let_go() -> None:
        while not (store.group._waiting or finished.wait(0.001) or struck):
            pass
        go_on.set()

    leader = in_thread(store.group.run, slow)
    assert inside.wait(10)
    returned = False
    with interrupted_at(point) as struck:
        letting_go = in_thread(let_go)
        returned = store.group.run(write((point, "own"), "own")) == "own"
    finished.set()
    assert (leader.exception(10), letting_go.exception(10)) == (None, None), struck
    store.group.run(write((point, "next")))
    stored = [what for number, what in store.stored if number == point]
    assert stored in (["leader", "own", "next"], ["leader", "next"] if not returned else []), struck
    return not struck


def _interrupted_link(store: FakeStore, in_thread: InThread, eventually: Eventually, point: int) -> bool:
    """Whether there was no such point. A follower that is to wake another one is interrupted."""
    inside, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def slow(txn: FakeTransaction) -> None:
        txn.write((point, "leader"))
        inside.set()
        assert go_on.wait(10)

    def join_in() -> str:
        while not (store.group._waiting or finished.wait(0.001) or struck):
            pass
        op = write((point, "behind"), "behind")
        behind = in_thread(store.group.run, op)
        eventually(lambda: struck or any(request.op is op for request in list(store.group._waiting)))
        go_on.set()
        return str(behind.result(10))

    leader = in_thread(store.group.run, slow)
    assert inside.wait(10)
    with interrupted_at(point) as struck:
        joining = in_thread(join_in)
        store.group.run(write((point, "own")))
    finished.set()
    assert (leader.exception(10), joining.result(10)) == (None, "behind"), struck
    assert store.stored.count((point, "behind")) == 1
    return not struck


@pytest.mark.parametrize("interrupted", [_interrupted_leader, _interrupted_follower, _interrupted_link])
def test_an_interrupt_at_any_point_leaves_nobody_waiting(
    interrupted: Callable[..., bool], store: FakeStore, in_thread: InThread, eventually: Eventually
) -> None:
    point = 1
    while not interrupted(store, in_thread, eventually, point):
        point += 1
    assert point > 5  # Python 3.13 has fewer than 3.11


def test_followers_wake_each_other_one_by_one(
    store: FakeStore, together: Callable[..., list[Future[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[tuple[int, Any]] = []  # by which thread, and who
    wake = group_commit._wake

    def noted(request: Any) -> None:
        if request is not None and request.outcome:
            woken.append((threading.get_ident(), request.op))
        wake(request)

    monkeypatch.setattr(group_commit, "_wake", noted)
    ops = [write(n, n) for n in range(5)]
    assert [future.result(10) for future in together(*ops)] == list(range(5))
    assert list(dict.fromkeys(op for _, op in woken)) == ops[1:]
    assert len({thread for thread, _ in woken}) == 4


def test_a_follower_leads_where_the_lead_was_lost(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "HEDGE", 0.01)
    store.group.is_led = True  # by nobody
    assert (store.group.run(write(1, "result")), store.stored) == ("result", [1])


def test_a_follower_whose_leader_is_slow_is_committed_once(
    store: FakeStore, in_thread: InThread, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "HEDGE", 0.01)
    go_on, followers = threading.Event(), 5
    with store.lock:
        first = in_thread(store.group.run, lambda txn: (txn.write("slow"), go_on.wait(10)))
        eventually(lambda: store.group.is_led)
        others = [in_thread(store.group.run, write(n, n)) for n in range(followers)]
        eventually(lambda: len(store.group._waiting) == followers)
    eventually(lambda: store.lock.locked() and not store.group._waiting)  # all are in the batch, and impatient
    go_on.set()
    assert first.exception(10) is None
    assert [future.result(10) for future in others] == list(range(followers))
    assert sorted(map(str, store.stored)) == sorted(["slow", *map(str, range(followers))])


def test_many_threads_lose_nothing(store: FakeStore, in_thread: InThread) -> None:
    def work(first: int) -> list[int]:
        return [store.group.run(write(n, n)) for n in range(first, first + 50)]

    futures = [in_thread(work, 50 * n) for n in range(8)]
    results = [n for future in futures for n in future.result(30)]
    assert (results, sorted(store.stored)) == (list(range(400)), list(range(400)))


def test_many_threads_with_errors_each_get_their_own(store: FakeStore, in_thread: InThread) -> None:
    def work(n: int) -> list[Any]:
        seen: list[Any] = []
        for i in range(30):
            op = (write((n, i), (n, i)), fail(Full(f"{n} {i}")), poison("half", ValueError(f"{n} {i}")))[i % 3]
            try:
                seen.append(store.group.run(op))
            except (Full, ValueError) as error:
                seen.append(str(error))
        return seen

    futures = [in_thread(work, n) for n in range(6)]
    for n, future in enumerate(futures):
        assert future.result(30) == [(n, i) if i % 3 == 0 else f"{n} {i}" for i in range(30)]
    assert sorted(store.stored) == [(n, i) for n in range(6) for i in range(0, 30, 3)]
