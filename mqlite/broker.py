"""Many queues, topics and tables over one store, opened once."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from .audit import problems
from .channel import Channel
from .checks import check_name
from .codecs import BodyCodec
from .engine import QueueState
from .engine.catalog import is_internal, shown
from .engine.tables import TableWork
from .errors import Closed, NotSupported
from .handle import Handle
from .operations import QueueStats, stats_of
from .options import UNSET, QueueOptions
from .pipe import Function, Pipe
from .queue import Queue
from .store import open_store, release, retain
from .table import OpenTable
from .topic import Topic
from .transaction import Transaction, run
from .waiting import Interrupt
from .windows import TumblingWindow

T = TypeVar("T")


class Broker(Handle):
    """A store, its queues, topics and tables. From `mqlite.open`. Free for any thread; survives fork; pickles as its
    path.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, durability: str | None, max_store_bytes: int | None
    ) -> None:
        self._durability = durability
        self._store = open_store(path, durability=durability, max_store_bytes=max_store_bytes)
        self._queues: list[Queue[Any]] = []
        self._topics: list[Topic[Any]] = []
        self._pipes: weakref.WeakSet[Pipe] = weakref.WeakSet()
        self._closed = False
        self._interrupt = Interrupt(f"the broker of {self._store.path!r}")

    @property
    def path(self) -> str | None:
        """The directory of the store; None in memory."""
        return self._store.path

    def __repr__(self) -> str:
        return f"<mqlite.Broker {'in memory' if self.path is None else repr(self.path)}>"

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the broker of {self.path!r} was closed: open it again to use it")

    def queue(self, name: str, **options: Any) -> Queue[Any]:
        """The queue of that name, declared if it is new; options as of `Queue`. It is closed with the broker."""
        self._check_open()
        _check_not_of_store(options, "a queue")
        codec = options.get("codec", UNSET)
        named = {**options, "codec": BodyCodec(codec).name} if "codec" in options else options
        _ = QueueOptions(**named)
        retain(self._store)
        queue = Queue.of(Channel.open(self._store, check_name(name), named, codec))
        self._queues.append(queue)
        return queue

    def queues(self) -> list[str]:
        """The names of all queues of the store, sorted."""
        return sorted(self._names_of("queue"))

    def topic(self, name: str, **options: Any) -> Topic[Any]:
        """The topic of that name, declared if it is new; options as of `Topic`. It is closed with the broker."""
        self._check_open()
        _check_not_of_store(options, "a topic")
        retain(self._store)
        topic = Topic.open(self._store, check_name(name, "a topic's name"), options)
        self._topics.append(topic)
        return topic

    def topics(self) -> list[str]:
        """The names of all topics of the store, sorted."""
        return sorted(shown(name)[:-1] for name in self._names_of("topic"))

    def _names_of(self, kind: str) -> list[str]:
        """The keys of what is declared, but for what is the package's own."""
        self._check_open()
        with self._store.engine.log.read() as snapshot:
            return [each.name for each in snapshot.definitions() if each.kind == kind and not is_internal(each.name)]

    # ------------------------------------------------------------------ transactions
    def transaction(self, *, timeout: float | None = 0.0, check_reads: bool = True) -> Transaction:
        """Begin a transaction; see `Transaction`. Leave its block to commit it.

        timeout: seconds that the commit waits for room in full queues; 0: not at all, None: for ever.
        check_reads: whether what was read of tables must still hold at the commit (else it raises Conflict); what
        is `expect`ed always must.
        """
        self._check_open()
        return Transaction(self._store, timeout, check_reads, self._interrupt)

    def run(self, function: Callable[[Transaction], T], *, attempts: int = 100, timeout: float | None = 0.0) -> T:
        """What function(tx) returns, once its transaction is committed.

        After a Conflict it is called again, in a new transaction and after a short random pause, `attempts` times in
        all; then that Conflict is raised. So all that it does should be done by the transaction. Any other exception
        rolls back, and goes on. As `transaction` otherwise.
        """
        return run(lambda: self.transaction(timeout=timeout), function, attempts)

    def pipe(
        self,
        source: Queue[Any],
        function: Function | None = None,
        target: Queue[Any] | Topic[Any] | None = None,
        *,
        batch: int = 64,
        window: TumblingWindow | None = None,
        threads: int = 1,
        name: str | None = None,
    ) -> Pipe:
        """Send on what a function makes of each message of a queue or a subscription, exactly once inside the store.

        function(message, tx) gives None, a body, an `Emit`, or, as a generator or another iterator, any number of
        these; they go to the target, a queue or a topic. A list is one body. What else it does to the store it does
        with tx; it neither settles the message nor ends tx. It may be called again for a message after a Conflict, a
        crash, or a failure in its batch, and while there is no room in the target; nothing of the earlier call remains.
        Without a function, messages are passed on as they are.

        Each step is one commit for up to `batch` messages; the ack_timeout of the source is to be long enough for all
        of them. If the function raises, the messages of the step are done one by one, and the one that fails is nacked:
        backoff, max_deliveries and dead letters as usual. So is one that has a Conflict 100 times in a row. If the
        target is full, the pipe waits for room.

        window: a TumblingWindow that counts the messages, in place of a function; its results go to the target. Then a
        name is needed, the same in all processes that run this pipe, and of no other one.

        Use the pipe in a `with` block, or `start` it: it works in so many threads. Or call `step`, or `run_until_idle`.
        See `Pipe`. Raises TypeError, ValueError (something of another store), SettingsMismatch.
        """
        self._check_open()
        pipe = Pipe(self._store, source, function, target, batch=batch, window=window, threads=threads, name=name)
        self._pipes.add(pipe)
        return pipe

    def table(self, name: str) -> OpenTable:
        """The table of that name, where each operation is a transaction by itself. See `OpenTable`."""
        self._check_open()
        return OpenTable(
            check_name(name, "a table's name"),
            TableWork(self._store.engine, checks=False),
            self._check_open,
            lambda change: self.run(lambda tx: change(tx.table(name))),
        )

    def tables(self) -> list[str]:
        """The names of all tables that were written to, sorted."""
        self._check_open()
        return self._store.engine.tables.names()

    # ------------------------------------------------------------------ copies
    def backup(
        self,
        target: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], object] | None = None,
        durability: str | None = None,
    ) -> None:
        """Copy the store, while anybody uses it, into the new directory `target`, as of one committed state.

        target: a directory that does not exist, or is empty; its parent exists. When this returns, the copy is on the
        disk, whole, and a store by itself: open it, or put it in the place of the original. It has all messages,
        settings, tables and dead letters, and the same store id. It has no claims: what was claimed is ready in it,
        and wills are carried out when it is opened, as after a crash of the machine. Free pages are left out.
        progress(done_bytes, total_bytes): called by this thread, at first, about once per MiB, and at the end.
        durability: the level that the copy is opened with; None: that of the original.

        The copy is made by a process of its own, started with sys.executable, so that neither a fork nor `close`
        waits for it; it goes on when this broker is closed. Pages that the state needs are not used again meanwhile:
        the original grows by about what is written to it during the backup. An exception of `progress`, or Ctrl-C,
        ends it and removes what was written; a kill leaves TARGET.part, which the next backup overwrites.
        Raises StoreError (the target cannot be used), StoreFull (no room there), StoreCorrupted, NotSupported (in
        memory), ValueError (an unknown level). Cost: reads and writes all that is stored, once.
        """
        self._check_open()
        if self.path is None:
            raise NotSupported("a broker in memory cannot be backed up: give it a path")
        from .backup import back_up  # needs a POSIX system, as stores on disk do
        from .system.directory import StoreDirectory

        self._store.engine.log.fold()
        back_up(StoreDirectory(self.path), target, progress, durability)

    def compact(self, *, progress: Callable[[int, int], object] | None = None) -> tuple[int, int]:
        """Give the disk back what the log does not need; returns how many bytes of it log.mdb took before and after.

        A copy without free pages is written beside log.mdb, flushed, and put in its place; a kill or a power cut at
        any moment leaves the one or the other, whole. This process must be the only one that has the store open;
        others that open it wait. All threads of this process wait, too, at their next use of the store, and go on as
        if nothing had happened: handles, waiting consumers, claims. So does a fork. Where nothing would be gained,
        nothing is done. progress(done_bytes, total_bytes): called by a thread that does the work; it must not use the
        store. An exception of it, or Ctrl-C, ends the compaction and changes nothing.

        Raises StoreError (another process has it open, or makes a backup), StoreFull (no room for the copy beside the
        original), StoreCorrupted, NotSupported (in memory). Cost: reads and writes all that is stored, once.
        """
        self._check_open()
        return self._store.compact(progress)

    # ------------------------------------------------------------------ looking
    def stats(self) -> dict[str, QueueStats]:
        """The state of every queue, and of every subscription ("topic/name"), by name."""
        self._check_open()
        engine = self._store.engine
        with engine.log.read() as snapshot:
            there = [each for each in snapshot.definitions() if each.kind in ("queue", "subscription")]
        there = [each for each in there if not is_internal(each.name)]
        return {shown(each.name): stats_of(engine, engine.catalog.remember(QueueState.of(each))) for each in there}

    def sync(self) -> None:
        """Return when everything that was committed before the call survives a power cut.

        With durability "full" that is so anyway. "checkpoint": makes a checkpoint. "process": writes the store to the
        disk; that holds until the next change. Others go on meanwhile. In memory it does nothing. Raises StoreError
        where the disk fails. Cost: what the disk takes for what was written since the last time.
        """
        self._check_open()
        self._store.sync()

    def check(self, progress: Callable[[int, int], object] | None = None) -> list[str]:
        """What is wrong with the store, in words; [] when all is well.

        First the pages of the file are looked at, without LMDB; only if they are whole, all that is stored and claimed.
        progress(done, total): called now and then, in pages; not to use the store. Changes nothing. Cost: a walk over
        all pages and messages, while nobody writes.
        """
        self._check_open()
        return problems(self._store.engine, progress)

    def close(self) -> None:
        """Close the broker, its pipes, queues and topics; its open transactions cannot be committed any more.

        What this process holds goes back when the last handle is closed. Raises the error that has ended a pipe, after
        all is closed.
        """
        if not self._closed:
            self._closed = True
            with contextlib.ExitStack() as last:
                last.callback(self._close_ends)
                for pipe in list(self._pipes):
                    last.callback(pipe.close)

    def _close_ends(self) -> None:
        self._interrupt.close(self._store.engine.presence)
        for queue in self._queues:
            queue.close()
        for topic in self._topics:
            topic.close()
        release(self._store)

    def __reduce__(self) -> Any:
        if self.path is None:
            raise TypeError("a broker in memory cannot be sent to another process: give it a path")
        return Broker, (self.path, self._durability, None)


def _check_not_of_store(options: dict[str, Any], what: str) -> None:
    """Raises TypeError."""
    for wrong in ("path", "durability", "max_store_bytes"):
        if wrong in options:
            raise TypeError(f"{wrong} belongs to mqlite.open, not to {what} of a broker")


def open(
    path: str | os.PathLike[str] | None = None, *, durability: str | None = None, max_store_bytes: int | None = None
) -> Broker:
    """Open the store at `path`, a directory that is made if missing; None: one in memory.

    durability: what a call that returned survives; fixed when the store is made, None (the default) for what it was
    made with. "full" (of a new store): kill -9, and a power cut, for every commit is flushed. "checkpoint": kill -9;
    a power cut takes the store back to its last checkpoint, a second or so ago (see `Broker.sync`), never further,
    and never damages it. "process": kill -9; after a power cut the store is checked, and if it is damaged,
    StoreCorrupted is raised and `recover` saves what is whole. docs/durability.md has the reasons.
    max_store_bytes: how large the store may grow (default 256 GiB; fixed when it is made).

    Raises StoreError (a path that cannot be used), StoreCorrupted, NotSupported,
    SettingsMismatch, ValueError. Cost: milliseconds, at any backlog.
    """
    return Broker(path, durability, max_store_bytes)
