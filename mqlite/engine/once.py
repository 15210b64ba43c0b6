"""What is done once: a key that a commit sees first within a window of time.

The keys lie among the dedup_ids (log/index.py: DEDUP), as those of queue 0, which is the whole store. There
an entry has an id to be checked against; here it has a checksum in its place.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, StoreCorrupted
from ..log import Snapshot
from ..log.index import DEDUP
from ..system.clock import STABLE
from .legacies import STORE

if TYPE_CHECKING:
    from .machine import Engine

_ONCE_BYTES = 256


class OnceWork:
    """The keys of one transaction: a part of its commitment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._windows: dict[bytes, int] = {}  # in ns, by digest

    def __bool__(self) -> bool:
        return bool(self._windows)

    def see(self, key: bytes, window_ns: int) -> bool:
        """Whether it was not seen yet. Raises StoreCorrupted."""
        number = hashlib.blake2b(key, digest_size=16).digest()
        if number in self._windows:
            return False
        with self._engine.log.read() as snapshot:
            if self._was_seen(snapshot, number):
                return False
        self._windows[number] = window_ns
        return True

    def _was_seen(self, snapshot: Snapshot, number: bytes) -> bool:
        entry = snapshot.entry(DEDUP, STORE, (number,))
        if entry is None:
            return False
        checksum, until_ns = entry
        if checksum != _checksum(number, until_ns):
            raise StoreCorrupted("the entry of a key of tx.once does not match its checksum: restore a backup")
        return bool(until_ns > self._engine.timeline.now_ns(STABLE))

    def check(self, txn: Any) -> int:
        """See commitment.Part. Raises Conflict, StoreCorrupted."""
        for number in self._windows:
            if self._was_seen(txn, number):
                raise Conflict(
                    "another transaction was the first to commit a key of tx.once: nothing was changed by this one; "
                    "begin anew, or have broker.run() do it"
                )
        return _ONCE_BYTES * len(self._windows)

    def do(self, txn: Any) -> None:
        """See commitment.Part."""
        now_ns = self._engine.timeline.now_ns(STABLE)
        for number, window_ns in self._windows.items():
            until_ns = now_ns + window_ns
            txn.remember_id(STORE, number, _checksum(number, until_ns), now_ns, until_ns)


def _checksum(number: bytes, until_ns: int) -> int:
    return zlib.crc32(until_ns.to_bytes(16, "big"), zlib.crc32(number))
