"""One engine per store and process: wires log, claims and wake together, and shares them.

A directory is opened once per process, however many handles there are; the last one
to close it closes it. Around a fork everything is quiet: the forking thread waits
until no other is inside, closes the LMDB environments, and lets both processes open
them again when they next need them; the child forgets what was the parent's and
joins as a process of its own.

Locks    `_registry_lock` guards the table of open stores. It is taken before any
         other lock of the package.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Any, Protocol

from .claims.memory import MemoryClaims
from .engine import Engine
from .engine.local import LocalEngine
from .errors import Closed, MqliteError, NotSupported, SettingsMismatch, StoreCorrupted
from .log.memory import MemoryLog
from .system.clock import Clock, SystemClock

DEFAULT_MAX_STORE_BYTES = 256 << 30
MIN_STORE_BYTES = 16 << 20

_registry_lock = threading.RLock()
_open_stores: dict[tuple[int, int], DiskStore] = {}
_memory_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


class Handle(Protocol):
    """What holds state that a forked child must not share."""

    def after_fork(self) -> None:
        """In the child: forget what belongs to the parent."""


class Store:
    """What handles need of a store: its engine, and an orderly end."""

    engine: Engine
    path: str | None = None
    in_memory: bool

    def __init__(self) -> None:
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self.closed = False

    def retain(self) -> None:
        """One reference more."""

    def close(self) -> None:
        """One reference less."""

    def check_open(self) -> None:
        """Raises Closed after the last close."""
        if self.closed:
            raise Closed("the store was closed: open it again to use it")

    def after_fork(self) -> None:
        """In a forked child."""
        for handle in list(self.handles):
            handle.after_fork()


class MemoryStore(Store):
    """A store without a path: no files, no pipes, no bytes; it ends with its last handle."""

    in_memory = True

    def __init__(self, clock: Clock | None = None) -> None:
        from .presence import LocalPresence

        super().__init__()
        self._clock = clock or SystemClock()
        self.log = MemoryLog()
        self.claims = MemoryClaims(self.log.lock)
        self.presence = LocalPresence()
        self.engine = LocalEngine(self.log, self.claims, self.presence, self._clock)
        _memory_stores.add(self)

    def after_fork(self) -> None:
        """The child has a copy of all messages, and none of the threads that waited."""
        self.log.after_fork()
        self.claims.after_fork(self.log.lock)
        self.presence.after_fork()
        super().after_fork()


class DiskStore(Store):
    """A store in a directory. Made by `open_store` only."""

    in_memory = False

    def __init__(self, path: str, key: tuple[int, int], max_store_bytes: int | None, clock: Clock) -> None:
        from .claims.shared import SharedClaims
        from .log.lmdb import LmdbLog
        from .presence import SharedPresence
        from .system.directory import Marker, StoreDirectory, check_data_file, new_store_id
        from .system.environment import Environment

        super().__init__()
        self.path = path
        self.key = key
        self.references = 1
        directory = StoreDirectory(path)
        with directory.locked():
            marker = directory.read_marker()
            if marker is None:
                directory.check_is_ours()
                size = DEFAULT_MAX_STORE_BYTES if max_store_bytes is None else max_store_bytes
                if os.path.exists(directory.log):  # a crash came between the log and its marker
                    check_data_file(directory.log)
                    found = Environment(directory.log, map_size=size, durable=True)
                    store_id = LmdbLog.store_id(found)
                    found.close()
                else:
                    store_id = new_store_id()
                    _create_log(directory.log, store_id, size)
                marker = Marker(format=1, store_id=store_id, durability="full", max_store_bytes=size)
                directory.write_marker(marker)
            elif max_store_bytes is not None and max_store_bytes != marker.max_store_bytes:
                raise SettingsMismatch(
                    f"the store {path!r} was made with max_store_bytes={marker.max_store_bytes}, not "
                    f"{max_store_bytes}: leave it out to take what is stored"
                )
            if not os.path.exists(directory.log):
                raise StoreCorrupted(f"the store {path!r} has a marker but no log: restore log.mdb from a backup")
            check_data_file(directory.log)
            self._environment = Environment(directory.log, map_size=marker.max_store_bytes, durable=True)
            try:
                if LmdbLog.store_id(self._environment) != marker.store_id:
                    raise StoreCorrupted(
                        f"the log and the marker of {path!r} belong to different stores: restore both from one backup"
                    )
                self.log = LmdbLog(self._environment, marker.store_id)
                session = directory.session(marker.store_id)
                claims_path = os.path.join(session, "claims.mdb")
                first = not os.path.exists(claims_path)
                self.claims = SharedClaims(claims_path)
                self.claims.environment.ensure_open()
                if first:
                    self.log.reserve_existing()
            except BaseException:
                self._environment.close()
                raise
        self.presence = SharedPresence(session, self._environment, self.claims)
        self.engine = Engine(self.log, self.claims, self.presence, clock)
        _ = self.presence.owner

    def retain(self) -> None:
        """One reference more."""
        with _registry_lock:
            self.check_open()
            self.references += 1

    def close(self) -> None:
        """One reference less; the last one gives back all claims and closes."""
        with _registry_lock:
            if self.closed:
                return
            self.references -= 1
            if self.references:
                return
            self.closed = True
            _open_stores.pop(self.key, None)
            try:
                if self.presence.joined:
                    self.engine.takeback.leave()
            finally:
                self.presence.leave()
                self.log.close()
                self.claims.environment.close()

    # ------------------------------------------------------------------ fork
    def before_fork(self) -> None:
        """Wait until nobody is inside; keep everybody out. Order: joining, L, C, readers."""
        self.presence.hold()
        self._environment.quiesce()
        self.claims.environment.quiesce()

    def after_fork_in_parent(self) -> None:
        """Let everybody in again."""
        self.claims.environment.resume()
        self._environment.resume()
        self.presence.let_go()

    def after_fork(self) -> None:
        """In the child: nothing of the parent's is touched, all is opened anew when needed."""
        self._environment.forget()
        self.claims.environment.forget()
        self.presence.forget()
        self.log.after_fork()
        self.engine.after_fork()
        super().after_fork()


def _create_log(path: str, store_id: str, size: int) -> None:
    """A log appears under its name only when it is whole."""
    from .log.lmdb import LmdbLog
    from .system.environment import Environment

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


def open_store(
    path: str | os.PathLike[str] | None,
    *,
    durability: str = "full",
    max_store_bytes: int | None = None,
    clock: Clock | None = None,
) -> Store:
    """The store at `path`, made if missing; None: a new one in memory. Each call is one reference to close.

    Raises StoreError, StoreCorrupted, NotSupported, SettingsMismatch.
    """
    if durability != "full":
        raise NotSupported(
            f'durability is "full" in this version, not {durability!r}: a returned put survives kill -9 and a power cut'
        )
    if path is None:
        return MemoryStore(clock)
    if max_store_bytes is not None and (type(max_store_bytes) is not int or max_store_bytes < MIN_STORE_BYTES):
        raise ValueError(f"max_store_bytes is an int of at least {MIN_STORE_BYTES} (16 MiB), not {max_store_bytes!r}")
    from .system.directory import StoreDirectory

    directory = StoreDirectory.locate(path)
    with _registry_lock:
        key = directory.identity()
        store = _open_stores.get(key)
        if store is None:
            store = _open_stores[key] = DiskStore(directory.path, key, max_store_bytes, clock or SystemClock())
        else:
            store.references += 1
        return store


# ---------------------------------------------------------------------- process events
_quiet: list[DiskStore | MemoryStore] = []


def _before_fork() -> None:
    _registry_lock.acquire()
    for store in list(_open_stores.values()):
        store.before_fork()
        _quiet.append(store)
    for memory in list(_memory_stores):
        memory.log.lock.acquire()
        _quiet.append(memory)


def _after_fork_in_parent() -> None:
    while _quiet:
        store = _quiet.pop()
        if isinstance(store, MemoryStore):
            store.log.lock.release()
        else:
            store.after_fork_in_parent()
    _registry_lock.release()


def _after_fork_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.RLock()
    while _quiet:
        _quiet.pop().after_fork()


def _at_exit() -> None:
    """Give back what this process holds; others need not notice its end by themselves."""
    for store in list(_open_stores.values()):
        store.references = 1
        with contextlib.suppress(MqliteError, OSError):
            store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
