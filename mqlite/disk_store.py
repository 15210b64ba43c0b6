"""A store in a directory: opens what is there, makes what is not, and refuses what is not whole.

Needs fcntl and named pipes, so it is imported only when a path is given.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

import attrs

from .claims.shared import MAP_BYTES, SharedClaims
from .engine import Engine
from .errors import SettingsMismatch, StoreCorrupted
from .log.lmdb import LmdbLog
from .log.upgrade import upgrade
from .presence import SharedPresence
from .system.clock import Clock, anchor_of
from .system.directory import FORMAT, Marker, StoreDirectory, check_data_file, new_store_id
from .system.environment import Environment, quiet

DEFAULT_MAX_STORE_BYTES = 256 << 30


class DiskStore:
    """The parts of a store on disk, for all handles of this process. Made by `store.open_store` only."""

    in_memory = False

    def __init__(self, directory: StoreDirectory, max_store_bytes: int | None, clock: Clock) -> None:
        self.path: str | None = directory.path
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self._undo = contextlib.ExitStack()  # what `before_fork` locked
        if directory.read_marker() is None:
            directory.check_is_ours()  # before anything is written into it
        with directory.locked():
            marker = directory.read_marker() or _new_marker(directory, max_store_bytes)
            check_size(directory.path, marker.max_store_bytes, max_store_bytes)
            if not os.path.exists(directory.log):
                raise StoreCorrupted(
                    f"the store {directory.path!r} has a marker but no log: restore log.mdb from a backup"
                )
            check_data_file(directory.log)
            self._environment = Environment(directory.log, map_size=marker.max_store_bytes, durable=True)
            try:
                stored_format, store_id = LmdbLog.format_and_id(self._environment)
                if store_id != marker.store_id:
                    raise StoreCorrupted(
                        f"the log and the marker of {directory.path!r} belong to different stores: restore both "
                        "from one backup"
                    )
                self.log = LmdbLog(self._environment, marker.store_id)
                if stored_format < FORMAT:
                    upgrade(self.log, stored_format)
                if marker.format < FORMAT:
                    directory.write_marker(attrs.evolve(marker, format=FORMAT))
                session = directory.session(marker.store_id)
                claims = os.path.join(session, "claims.mdb")
                first_of_session = not os.path.exists(claims)
                if not first_of_session and os.path.getsize(claims) < MAP_BYTES:
                    raise StoreCorrupted(
                        f"the claims {claims!r} are truncated: stop all processes that use the store and delete "
                        "its run folder; no message is lost by that"
                    )
                self.claims = SharedClaims(claims)
                self.claims.environment.ensure_open()
                if first_of_session:
                    self.log.reserve_existing()
            except BaseException:
                self._environment.close()
                raise
        self.presence = SharedPresence(session, self._environment, self.claims)
        self.engine = Engine(self.log, self.claims, self.presence, clock, self.claims.anchor_ns(anchor_of(clock)))
        self.max_store_bytes = marker.max_store_bytes
        try:
            _ = self.presence.owner
            self.engine.look_around()
        except BaseException:
            self.claims.environment.close()
            self._environment.close()
            raise

    def close(self) -> None:
        """Give back what this process holds, and close. Threads that are inside finish first; later ones get Closed."""
        try:
            if self.presence.joined:
                self.engine.leave()
        finally:
            self.presence.leave()
            with contextlib.ExitStack() as undo:
                quiet(self._environment, self.claims.environment, undo)
                self.log.close()
                self.claims.environment.close_for_good()
                self._environment.close_for_good()

    # ------------------------------------------------------------------ fork
    def before_fork(self) -> None:
        """Wait until nobody is inside; keep everybody out. Joining comes before all other locks."""
        self.presence.hold()
        self._undo.callback(self.presence.let_go)
        quiet(self._environment, self.claims.environment, self._undo)

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


def check_size(path: str, stored: int, asked: int | None) -> None:
    """Raises SettingsMismatch where another size is asked for than the store was made with."""
    if asked is not None and asked != stored:
        raise SettingsMismatch(
            f"the store {path!r} was made with max_store_bytes={stored}, not {asked}: leave it out to take what "
            "is stored"
        )


def _new_marker(directory: StoreDirectory, max_store_bytes: int | None) -> Marker:
    """Make a store where there is none. Raises StoreError where there is something else."""
    size = DEFAULT_MAX_STORE_BYTES if max_store_bytes is None else max_store_bytes
    if os.path.exists(directory.log):  # a crash came between the log and its marker
        check_data_file(directory.log)
        found = Environment(directory.log, map_size=size, durable=True)
        _, store_id = LmdbLog.format_and_id(found)
        found.close()
    else:
        store_id = new_store_id()
        _create_log(directory.log, store_id, size)
    marker = Marker(format=FORMAT, store_id=store_id, durability="full", max_store_bytes=size)
    directory.write_marker(marker)
    return marker


def _create_log(path: str, store_id: str, size: int) -> None:
    """A log appears under its name only when it is whole."""
    new = path + ".new"
    for leftover in (new, new + "-lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    environment = Environment(new, map_size=size, durable=True)
    log = LmdbLog(environment, store_id)
    log.initialise()
    log.close()
    os.rename(new, path)
    os.unlink(new + "-lock")
