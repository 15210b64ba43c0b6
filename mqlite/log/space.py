"""Room on the disk, taken before it is needed, so that a full disk refuses puts and never acknowledgements.

LMDB writes changed pages to free or new places. Before a put, the file has blocks
set aside for the put and for RESERVE_PAGES more; those are left to
acknowledgements, which free more than they take. The size of the file is the word
that all processes share: everything below it has blocks. When neither the disk nor
the map can grow, a put still goes through if the file has free pages inside.

All methods are called under the log's write lock.
"""

from __future__ import annotations

import os
import time

from ..errors import StoreError, StoreFull
from ..system.environment import Environment, reserve

PAGE = min(os.sysconf("SC_PAGE_SIZE"), 32768)  # as LMDB chooses it
RESERVE_PAGES = 1024
GROW_MIN = 4 << 20
GROW_MAX = 64 << 20
_RETRY_SECONDS = 0.1


class Space:
    """Keeps the data file of one environment ahead of its use."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._path = environment.path
        self._fd = -1
        self._reserved = 0  # the file has at least this many bytes; asked for again only when that is not enough:
        # a stat of a file that is written to made the next fdatasync 80 us slower (Linux 6, ext4)
        self._refused_at = -1.0

    def reserve_existing(self) -> None:
        """Set aside blocks for the whole file (a sparse copy has none); at the first open of a session."""
        size = os.fstat(self._file()).st_size
        try:
            reserve(self._file(), 0, max(size, RESERVE_PAGES * PAGE + GROW_MIN))
        except OSError:
            pass  # the disk is full: puts will be refused

    def _file(self) -> int:
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise StoreError(
                    f"cannot open {self._path!r} ({error.strerror}): close some files, then try again"
                ) from error
        return self._fd

    def ensure(self, pages: int) -> None:
        """Raise StoreFull unless `pages` more can be written now."""
        needed = self._environment.last_pgno() + 1 + pages + RESERVE_PAGES
        if needed * PAGE <= self._reserved:
            return
        self._reserved = min(os.fstat(self._file()).st_size, self._environment.map_size)
        if needed * PAGE <= self._reserved:
            return
        if needed * PAGE <= self._environment.map_size and self._grow(needed * PAGE):
            return
        if 3 * pages + 64 <= self._environment.last_pgno() + 1 - self._environment.live_pages():
            return  # pages freed by acknowledgements are enough
        raise StoreFull(
            f"the store {self._path!r} is full (its disk, or its max_store_bytes): take and acknowledge messages, "
            "or free space on the disk; nothing was stored by this call"
        )

    def _grow(self, wanted: int) -> bool:
        if time.monotonic() < self._refused_at + _RETRY_SECONDS:
            return False
        size = os.fstat(self._file()).st_size
        step = min(max(GROW_MIN, size // 8), GROW_MAX)
        for target in (min(max(size + step, wanted), self._environment.map_size), wanted):
            try:
                reserve(self._file(), size, target - size)
                return True
            except OSError:
                continue
        self._refused_at = time.monotonic()
        return False

    def close(self) -> None:
        """Close the descriptor; the next use opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
