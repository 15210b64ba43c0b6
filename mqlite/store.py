"""One store per path and process: opened once, shared by all handles, quiet around forks, closed at exit.

A directory is opened once per process, however many handles there are; the last
reference closes it. Around a fork everything is quiet: the forking thread waits until
no other is inside, closes the LMDB environments, and lets both processes open them
again when they next need them; the child forgets what was the parent's and joins as a
process of its own.

Locks    `_registry_lock` guards the tables below. It is taken before any other lock of the package.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, TypeAlias

from .checks import check_durability
from .errors import Closed, MqliteError, NotSupported
from .memory_store import MemoryStore
from .system import spawning  # noqa: F401 - before what is done around a fork, see there
from .system.clock import Clock, SystemClock

if TYPE_CHECKING:
    from .disk_store import DiskStore

Store: TypeAlias = "MemoryStore | DiskStore"

_registry_lock = threading.RLock()
_disk_stores: dict[tuple[int, int], DiskStore] = {}
_references: dict[DiskStore, int] = {}
_memory_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def open_store(
    path: str | os.PathLike[str] | None,
    *,
    durability: str | None = None,
    max_store_bytes: int | None = None,
    clock: Clock | None = None,
) -> Store:
    """The store at `path`, made if missing; None: a new one in memory. Each call is one reference to `release`.

    durability: None for what is stored, "full" for a new one. Raises StoreError, StoreCorrupted, NotSupported,
    SettingsMismatch, ValueError.
    """
    check_durability(durability)
    if path is None:
        store = MemoryStore(clock or SystemClock())
        _memory_stores.add(store)
        return store
    try:
        from .disk_store import DiskStore, check_settings
        from .system.directory import MIN_STORE_BYTES, StoreDirectory
        from .system.translation import refused
    except ImportError as error:
        raise NotSupported(
            f"stores on disk need a POSIX system ({error}): use a queue in memory, without a path"
        ) from error
    if max_store_bytes is not None and (type(max_store_bytes) is not int or max_store_bytes < MIN_STORE_BYTES):
        raise ValueError(f"max_store_bytes is an int of at least {MIN_STORE_BYTES} (16 MiB), not {max_store_bytes!r}")
    directory = StoreDirectory.locate(path)
    with _registry_lock:
        key = directory.identity()
        found = _disk_stores.get(key)
        if found is None:
            try:
                found = _disk_stores[key] = DiskStore(directory, durability, max_store_bytes, clock or SystemClock())
            except OSError as error:
                raise refused(error, directory.path) from error
            _references[found] = 0
        check_settings(directory.path, found.durability, durability, found.max_store_bytes, max_store_bytes)
        _references[found] += 1
        return found


def retain(store: Store) -> None:
    """One reference more. Raises Closed."""
    if not store.in_memory:
        with _registry_lock:
            if store not in _references:
                raise Closed(f"the store {store.path!r} was closed: open it again to use it")
            _references[store] += 1


def release(store: Store) -> None:
    """One reference less; the last one closes the store."""
    if isinstance(store, MemoryStore):
        return
    with _registry_lock:
        left = _references.get(store, 0) - 1
        if left > 0:
            _references[store] = left
        elif left == 0:
            _forget(store)
            store.close()


def _forget(store: DiskStore) -> None:
    del _references[store]
    for key in [key for key, other in _disk_stores.items() if other is store]:
        del _disk_stores[key]


# ---------------------------------------------------------------------- process events
_quiet: list[Store] = []


def _before_fork() -> None:
    _registry_lock.acquire()
    stores: list[Store] = [*_disk_stores.values(), *_memory_stores]
    for store in stores:
        _quiet.append(store)
        store.before_fork()


def _after_fork_in_parent() -> None:
    try:
        while _quiet:
            with contextlib.suppress(KeyboardInterrupt):
                _quiet.pop().after_fork_in_parent()
    finally:
        _registry_lock.release()


def _after_fork_in_child() -> None:
    global _registry_lock
    _registry_lock = threading.RLock()
    while _quiet:
        _quiet.pop().after_fork_in_child()


def _at_exit() -> None:
    """Give back what this process holds; others need not notice its end by themselves."""
    with _registry_lock:
        for store in list(_references):
            _forget(store)
            with contextlib.suppress(MqliteError, OSError):
                store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
