"""A store in a directory: opens what is there, makes what is not, and refuses what is not whole.

Needs fcntl and named pipes, so it is imported only when a path is given.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import weakref
from typing import Any

import attrs

from .backup import Progress
from .claims import TASK
from .claims.shared import MAP_BYTES, SharedClaims
from .compaction import Compaction
from .durability import after_a_stop, is_mapped, level_of, may_pass_by
from .engine import Engine
from .engine.passing import Passing
from .errors import MqliteError, SettingsMismatch, StoreCorrupted, StoreError
from .log.front_contents import Contents
from .log.lmdb import LmdbLog
from .log.upgrade import upgrade
from .presence import SharedPresence
from .system.clock import Clock, anchor_of
from .system.control import CLEAN, FRONT, RESERVED, SESSION, UNSETTLED, Control, Mark
from .system.directory import FORMAT, Marker, StoreDirectory, check_data_file, new_store_id, newest_transaction
from .system.environment import Environment
from .system.inside import is_anybody_alive, nobody_inside
from .system.quiet import quiet
from .verify import store_problems

DEFAULT_MAX_STORE_BYTES = 256 << 30
DEFAULT_DURABILITY = "full"
#: Values of the word FRONT.
_WITH, _WITHOUT = 1, 2


class DiskStore:
    """The parts of a store on disk, for all handles of this process. Made by `store.open_store` only."""

    in_memory = False

    def __init__(
        self, directory: StoreDirectory, durability: str | None, max_store_bytes: int | None, clock: Clock
    ) -> None:
        self.path: str | None = directory.path
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self._undo = contextlib.ExitStack()  # what `before_fork` locked
        if directory.read_marker() is None:
            directory.check_is_ours()  # before anything is written into it
        with contextlib.ExitStack() as failed:
            with directory.locked():
                marker = directory.read_marker() or _new_marker(directory, durability, max_store_bytes)
                check_settings(directory.path, marker.durability, durability, marker.max_store_bytes, max_store_bytes)
                self.durability, self.max_store_bytes = marker.durability, marker.max_store_bytes
                session = self._open(directory, marker, failed)
            self.presence = SharedPresence(session, self._environment, self.claims, self.log.passed)
            failed.callback(self.presence.leave)  # or it would count as alive, and what it may hold as held
            anchor_ns = self.claims.anchor_ns(anchor_of(clock))
            self.engine = Engine(self.log, self.claims, self.presence, clock, anchor_ns)
            if self.log.front is not None:
                passing = Passing(self.engine, self.log.front, self.claims, self._control.words)
                self.engine.passing = self.engine.waiters.bench = passing
            _ = self.presence.owner
            self.engine.look_around()
            failed.pop_all()
            self._environment.level.attend(self._environment)

    def _open(self, directory: StoreDirectory, marker: Marker, failed: contextlib.ExitStack) -> str:
        """The folder of the session. The caller is alone in opening the store."""
        if not os.path.exists(directory.log):
            raise StoreCorrupted(f"the store {directory.path!r} has a marker but no log: restore log.mdb from a backup")
        if marker.format < FORMAT:
            _check_alone(directory, "is of an earlier version of mqlite, and is to be upgraded")
        self._directory = directory
        self._control = control = Control(directory.control)
        failed.callback(control.close)
        if not directory.is_current(control):
            _after_a_stop(directory, marker, control)
        check_data_file(directory.log)
        session = directory.session(control, marker.store_id, is_mapped(marker.durability, directory.log))
        level = level_of(marker.durability, control, directory.log)
        self._environment = Environment(directory.log, map_size=marker.max_store_bytes, level=level)
        self._environment.tell_trouble(control.words, UNSETTLED)
        failed.callback(self._environment.close)
        stored_format, store_id = LmdbLog.format_and_id(self._environment)
        if store_id != marker.store_id:
            raise StoreCorrupted(
                f"the log and the marker of {directory.path!r} belong to different stores: restore both from one backup"
            )
        self.log = LmdbLog(self._environment, control)
        failed.callback(self.log.close)
        self._open_claims(os.path.join(session, "claims.mdb"), failed)
        if not control.words[RESERVED]:  # after the claims, which on a full disk have only the room of the last boot's
            self.log.begin_session()
        self.log.recall(directory.front, control.words[SESSION])  # before anything else is committed
        if stored_format < FORMAT:
            upgrade(self.log, stored_format)
        if may_pass_by(marker.durability, control, directory.log):
            self._open_front(directory.front, control.words)
            failed.callback(self.log.close_front)
            failed.callback(self.claims.close_bench)
        if marker.format < FORMAT:
            directory.write_marker(attrs.evolve(marker, format=FORMAT))
        return session

    def _open_claims(self, path: str, failed: contextlib.ExitStack) -> None:
        if os.path.exists(path) and os.path.getsize(path) < MAP_BYTES:
            raise StoreCorrupted(
                f"the claims {path!r} are truncated: stop all processes that use the store and delete its run folder; "
                "no message is lost by that"
            )
        self.claims = SharedClaims(path, self._control.words)
        failed.callback(self.claims.environment.close)
        self.claims.open()
        self._environment.sheltered_by = self.claims.environment

    def _open_front(self, path: str, words: memoryview) -> None:
        """All processes of a boot go by what the first one finds: all write to the front, or all past it."""
        if words[FRONT] == _WITHOUT:
            return
        try:
            front = self.log.open_front(path, words[SESSION], self._take_over, self.claims.let_go, TASK)
        except StoreError:
            if words[FRONT]:
                raise
            words[FRONT] = _WITHOUT  # no room for it: what would be in it goes to the tree
        else:
            words[FRONT] = _WITH
            self.claims.use_bench(front.bench_words())

    def _take_over(self, epoch: int, contents: Contents) -> None:
        self.claims.take_over(epoch, contents.held, contents.passed(), contents.tasks)

    @property
    def waits_for_disk(self) -> bool:
        """Whether each commit does."""
        return self._environment.level.sync

    def sync(self) -> None:
        """Return when everything that was committed before the call survives a power cut. Raises StoreError."""
        self.log.sync()

    def compact(self, progress: Progress | None) -> tuple[int, int]:
        """See `Broker.compact`."""
        parts = (self._directory, self._control, self._environment, self.log, self.claims, self.presence)
        return Compaction(*parts).run(progress)

    def close(self) -> None:
        """Give back what this process holds, and close. Threads that are inside finish first; later ones get Closed."""
        if self.log.front is not None:
            self.log.front.end()
        try:
            if self.presence.joined:
                self.engine.leave()
        finally:
            self.presence.leave()
            with contextlib.suppress(MqliteError):  # told below
                self.log.sync()  # while others go on writing: little is left to do alone
            with contextlib.ExitStack() as undo:
                undo.callback(self._control.close)
                undo.callback(self.log.close_front)
                undo.callback(self.claims.close_bench)
                undo.callback(self.log.close)
                quiet(self._environment, self.claims.environment, undo, for_good=True)

    # ------------------------------------------------------------------ fork
    def before_fork(self) -> None:
        """Wait until nobody is inside; keep everybody out. Joining comes before all other locks."""
        self.presence.hold()
        self._undo.callback(self.presence.let_go)
        quiet(self._environment, self.claims.environment, self._undo)
        self.log.close()  # no process has log.mdb open that is not seen to (compaction.py)

    def after_fork_in_parent(self) -> None:
        """Let everybody in again."""
        self._undo.close()

    def after_fork_in_child(self) -> None:
        """Nothing of the parent's is touched, all is opened anew when needed."""
        self._undo = contextlib.ExitStack()
        self._environment.forget()
        self.claims.after_fork()
        self.presence.forget()
        self.log.after_fork()
        self.engine.after_fork()
        for handle in list(self.handles):
            handle.after_fork()


def check_settings(
    path: str, durability: str, asked_durability: str | None, max_store_bytes: int, asked_bytes: int | None
) -> None:
    """Raises SettingsMismatch where something else is asked for than the store was made with."""
    for name, stored, asked in (
        ("durability", durability, asked_durability),
        ("max_store_bytes", max_store_bytes, asked_bytes),
    ):
        if asked is not None and asked != stored:
            raise SettingsMismatch(
                f"the store {path!r} was made with {name}={stored!r}, not {asked!r}: leave it out to take what "
                "is stored"
            )


def _check_alone(directory: StoreDirectory, what: str) -> None:
    """Before files are changed that whoever has the store open goes by. Raises StoreError, which says `what` is so. A
    process that was forked from one of these, and has not used the store yet, finds its session gone when it does.
    """
    try:
        with nobody_inside(directory.log):
            is_in_use = False
    except FileNotFoundError:  # it was never open here
        is_in_use = False
    except BlockingIOError:
        is_in_use = True
    if is_in_use or is_anybody_alive(directory.run):
        raise StoreError(
            f"the store {directory.path!r} {what}, and a process has it open: end all that have, then open it again"
        )
    shutil.rmtree(directory.run, ignore_errors=True)


def _after_a_stop(directory: StoreDirectory, marker: Marker, control: Control) -> None:
    """Make of the log what its level promises, before the first use in this boot. Raises StoreCorrupted."""
    if after_a_stop(marker.durability, control, directory.log):
        problems = store_problems(directory.path)
        if problems:
            raise StoreCorrupted(
                f"the machine stopped while the store {directory.path!r} was written to, and it is damaged "
                f"({problems[0]}): restore it from a backup, or save its messages with "
                "mqlite.recover(path, into=...)"
            )


def _new_marker(directory: StoreDirectory, durability: str | None, max_store_bytes: int | None) -> Marker:
    """Make a store where there is none. Raises StoreError where there is something else."""
    size = DEFAULT_MAX_STORE_BYTES if max_store_bytes is None else max_store_bytes
    if os.path.exists(directory.log):  # a crash came between the log and its marker, or that was lost
        _check_alone(directory, "has no store.json")
        check_data_file(directory.log)
        found = Environment(directory.log, map_size=size)
        try:
            stored_format, store_id = LmdbLog.format_and_id(found)
        finally:
            found.close()
    else:
        stored_format, store_id = FORMAT, new_store_id()
        _create_log(directory.log, store_id, size)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory.control)  # of a crash
    with Control(directory.control) as control:
        control.write(Mark(CLEAN, newest_transaction(directory.log)))
    marker = Marker(
        format=stored_format,
        store_id=store_id,
        durability=durability or DEFAULT_DURABILITY,
        max_store_bytes=size,
    )
    directory.sync(own_name=False)  # or the name of the marker may be on the disk without those of the other files
    directory.write_marker(marker)
    return marker


def _create_log(path: str, store_id: str, size: int) -> None:
    """A log appears under its name only when it is whole."""
    new = path + ".new"
    for leftover in (new, new + "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    environment = Environment(new, map_size=size)
    try:
        LmdbLog.initialise(environment, store_id)
    finally:
        environment.close()
    os.rename(new, path)
    os.unlink(new + "-lock")
