"""All records that could be read, in order, in files of their own, until the new log is made of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import lmdb

from ..errors import MqliteError
from ..log import Counters, counting, rows
from ..log import format as fmt
from ..log.lmdb_reading import LmdbState
from ..log.rebuild import newer
from ..system.translation import translated

#: Bytes that are staged in one commit.
_BYTES_AT_ONCE = 4 << 20


class Staging:
    """Records that are equally sure. `path` is a new file, which goes with `close`."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._environment = lmdb.open(
            path, subdir=False, lock=False, sync=False, map_size=size, mode=0o600, lib_version=0
        )
        self._txn: Any = self._environment.begin(write=True)
        self._bytes = 0
        self.count = 0

    def has(self, key: bytes) -> bool:
        """Whether there is one under a key."""
        return bool(self._txn.cursor().set_key(key))

    def put(self, key: bytes, value: bytes) -> None:
        """Of those under one key the first counts, unless another one tells that it is newer. Raises StoreFull."""
        try:
            known = self._txn.get(key)
            if known is None or (known != value and newer(key, value, known)):
                self._txn.put(key, value)
                self.count += known is None
            self._bytes += len(key) + len(value)
            if self._bytes > _BYTES_AT_ONCE:
                self._txn.commit()
                self._bytes = 0
                self._txn = self._environment.begin(write=True)
        except lmdb.Error as error:
            raise translated(error, self._path) from error

    def value(self, key: bytes) -> bytes | None:
        """What is under a key."""
        value: bytes | None = self._txn.get(key)
        return value

    def drop(self, key: bytes) -> bool:
        """Take out what is under a key; whether there was anything."""
        found = bool(self._txn.delete(key))
        self.count -= found
        return found

    def staged(self) -> Staged:
        """All of them, to be read until `close`; no more can be put. Raises StoreFull."""
        try:
            self._txn.commit()
        except lmdb.Error as error:
            raise translated(error, self._path) from error
        self._txn = self._environment.begin()
        return Staged(self._txn)

    def close(self) -> None:
        """They are not needed any more."""
        with contextlib.suppress(lmdb.Error):
            self._txn.abort()
        self._environment.close()
        os.unlink(self._path)


class Staged(LmdbState):
    """What was staged. All of it is whole."""

    def value(self, key: bytes) -> bytes | None:
        """Of any record."""
        value: bytes | None = self._txn.get(key)
        return value

    def numbers(self, kind: bytes, key_bytes: int) -> Iterator[int]:
        """Of queues, topics or tables that have records of a kind with keys of that length (of rows: at least)."""
        walk = self._txn.cursor()
        found = walk.set_range(kind)
        while found and walk.key()[:1] == kind:
            key = walk.key()
            if len(key) != key_bytes and not (kind == rows.ROW and len(key) > key_bytes):
                found = walk.next()
                continue
            number = int.from_bytes(key[1:5], "big")
            yield number
            found = number + 1 < 1 << 32 and walk.set_range(kind + (number + 1).to_bytes(4, "big"))

    def names(self) -> dict[int, str]:
        """By their numbers, also of what has lost its definition."""
        numbers = list(self.numbers(fmt.NAME, 5))
        return {number: (self.value(fmt.queue_key(fmt.NAME, number)) or b"").decode() for number in numbers}

    def told_counters(self, queue: int) -> Counters | None:
        """The numbers of a queue, if both parts of them are known."""
        put, removed = self.value(counting.put_key(queue)), self.value(counting.removed_key(queue))
        if put is None:
            return None
        with contextlib.suppress(MqliteError):
            counters = counting.unpacked_counters(put, removed)
            return counters if counters.total >= 0 else None
        return None
