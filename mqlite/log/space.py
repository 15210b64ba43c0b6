"""Room on the disk, taken before it is needed, so that a full disk refuses puts and never acknowledgements.

LMDB writes changed pages to free or new places. Before a put, the file has blocks
set aside for the put and for RESERVE_PAGES more; those are left to
acknowledgements, which free more than they take. What has blocks is the size of the file; in one
that is written through a map, which is as large as the map from the start, it is a word of `log.control`. When
neither the disk nor the map can grow, a put still goes through if the file has free pages inside.

Another word there, ROOM, is how many pages are left at the end of the file. Each transaction takes off what it
may use at worst; LMDB is asked for the truth, which takes as long as a fifth of a put, only when that is not enough.

Through a map a page without a block kills the process (SIGBUS), so there every change is counted before it is
made (`Usage`), and refused in time. LMDB would say no by itself otherwise.

All methods are called under the log's write lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import repeat

import lmdb

from ..errors import StoreError, StoreFull
from ..system.blocks import reserve
from ..system.control import RESERVED, ROOM, SETTLED, VOLUME, Control, usable_pages
from ..system.environment import PAGE, Environment

RESERVE_PAGES = 1024
GROW_MIN = 4 << 20
GROW_MAX = 64 << 20
_RETRY_SECONDS = 0.1

#: Pages that the first change of a transaction may take: paths from root to leaf, for the numbers too, and LMDB's own
#: lists.
_BASE_PAGES = 64
#: Pages that most transactions do not exceed.
_MOSTLY_PAGES = 4 * _BASE_PAGES
#: Room for so many more pages than a put needs is asked for: as many as 16 small ones need.
_PAGES_AHEAD = 16 * (_BASE_PAGES + 8)
#: Of a message in a leaf, beside its value: key, header, place in the list.
_NODE_BYTES = 48
#: Pages that are written again by every commit, about: of a tree with a backlog.
_COMMIT_PAGES = 7


class Space:
    """Keeps the data file of one environment ahead of its use."""

    def __init__(self, environment: Environment, control: Control) -> None:
        self._environment = environment
        self._words = control.words
        self._path = environment.path
        self._fd = -1
        self._refused_at = -1.0
        self._denied_at = -1.0  # more than was needed

    @property
    def words(self) -> memoryview:
        """Of `log.control`."""
        return self._words

    @property
    def mapped(self) -> bool:
        """Whether every page must have a block before it is changed."""
        return self._environment.level.writemap

    def begin_session(self) -> None:
        """Set aside blocks for all that is in the file (a sparse copy has none), at the first open of a boot."""
        used = (self._environment.last_pgno() + 1) * PAGE
        size = max(used if self.mapped else os.fstat(self._file()).st_size, RESERVE_PAGES * PAGE + GROW_MIN)
        # written through a map, on a full disk: what the boot before has left of the reserve of acknowledgements
        left = [used + RESERVE_PAGES * PAGE // part for part in (1, 2, 4, 8)] if self.mapped else []
        self._words[RESERVED] = 0
        for wanted in (*left, size, used):
            try:
                reserve(self._file(), 0, min(wanted, self._environment.map_size))
            except OSError:
                continue
            self._words[RESERVED] = min(wanted, self._environment.map_size)
            return

    def _file(self) -> int:
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise StoreError(
                    f"cannot open {self._path!r} ({error.strerror}): close some files, then try again"
                ) from error
        return self._fd

    def _reserved(self) -> int:
        if self.mapped:
            return self._words[RESERVED]
        return min(os.fstat(self._file()).st_size, self._environment.map_size)

    def ensure(self, pages: int) -> None:
        """Raise StoreFull unless a put of so many pages leaves the reserve alone, or finds room inside the file."""
        if self.has_room(pages):
            return
        if self._fits_inside(pages):
            return
        raise StoreFull(
            f"the store {self._path!r} is full (its disk, or its max_store_bytes): take and acknowledge messages, "
            "or free space on the disk; nothing was stored by this call"
        )

    def _fits_inside(self, pages: int) -> bool:
        """Whether pages freed by acknowledgements are enough."""
        if self._environment.level.pins:
            # Pages that are freed are of no use before the next checkpoint, which is made in time where less than the
            # reserve is left (durability/checkpoint.py): half of it is never touched by puts.
            # What is left at the end of the file is the only long run that there surely is: a large value needs one.
            usable = usable_pages(self._words)
            if pages + RESERVE_PAGES // 8 <= self._words[ROOM]:
                return 3 * pages + RESERVE_PAGES // 2 <= self._words[ROOM] + usable
            return 3 * pages + RESERVE_PAGES <= self._words[ROOM] + usable
        free = self._environment.last_pgno() + 1 - self._environment.live_pages()
        return 3 * pages + 64 <= free and not (self.mapped and self._words[ROOM] < pages)

    def has_room(self, pages: int) -> bool:
        """Whether a put of so many pages leaves the reserve alone."""
        return pages + RESERVE_PAGES <= self._words[ROOM] or self.find(pages + RESERVE_PAGES, _PAGES_AHEAD)

    def take_for_put(self, size_bytes: int) -> bool:
        """For a transaction that stores one value and the numbers of its queue, and no more: takes off what `Usage`
        would. False where that would leave little to acknowledgements: `Usage` finds out whether it may.
        """
        words = self._words
        pages = _BASE_PAGES + 8 + 2 * size_bytes // PAGE
        if pages + RESERVE_PAGES > words[ROOM] and not self.has_room(pages):
            return False
        words[ROOM] -= pages
        words[VOLUME] += _COMMIT_PAGES * PAGE + 2 * size_bytes
        return True

    def take_for_removal(self) -> bool:
        """The same for a transaction that removes one value."""
        words = self._words
        if words[ROOM] < _MOSTLY_PAGES:
            return False
        words[ROOM] -= _BASE_PAGES + 6
        words[VOLUME] += _COMMIT_PAGES * PAGE + 256
        return True

    def look(self) -> None:
        """Under the gate, before a transaction of whatever kind: where the count says that little is left, ask LMDB,
        and let the file grow.
        """
        if self._words[ROOM] < RESERVE_PAGES:
            self.find(2 * RESERVE_PAGES)

    def find(self, pages: int, ahead: int = 0) -> bool:
        """Ask LMDB, and have the file grow, until there is room for so many pages; whether there is now. ahead: so many
        more would be good, so that it is asked seldom.
        """
        first = self._environment.last_pgno() + 1
        wanted, map_size = (first + pages) * PAGE, self._environment.map_size
        liked = min(wanted + ahead * PAGE, map_size)
        if wanted <= map_size and liked > self._reserved():
            self._grow(wanted, liked)
        room = max(0, self._reserved() // PAGE - first)
        self._words[ROOM] = room
        return pages <= room

    def tree_pages(self) -> int:
        """No transaction can change more pages than these and what it stores."""
        return self._environment.tree_pages()

    def _grow(self, wanted: int, liked: int) -> None:
        size = self._reserved()
        if time.monotonic() < (self._refused_at if wanted > size else self._denied_at) + _RETRY_SECONDS:
            return
        step = min(max(GROW_MIN, size // 8), GROW_MAX)
        for target in (min(max(size + step, liked), self._environment.map_size), wanted):
            if target <= size:
                continue
            try:
                reserve(self._file(), size, target - size)
                self._words[RESERVED] = target
                return
            except OSError:
                continue
        self._denied_at = time.monotonic()
        if wanted > size:
            self._refused_at = self._denied_at

    def close(self) -> None:
        """Close the descriptor; the next use opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Usage:
    """What one transaction may use of it, counted before each change."""

    __slots__ = (
        "_granted",
        "_put_pages",
        "_removals",
        "_run_bytes",
        "_space",
        "_stored_bytes",
        "_stored_pages",
        "_words",
        "tight",
    )

    def __init__(self, space: Space) -> None:
        self._space = space
        self._words = words = space.words
        self._put_pages = 0
        self._stored_pages = _BASE_PAGES
        self._stored_bytes = 0
        self._removals = 0
        self._granted = _MOSTLY_PAGES if words[ROOM] >= _MOSTLY_PAGES else 0
        self._run_bytes = 0
        #: whether it matters that neighbours lie on the same page, see `continue_run`
        self.tight = False

    def reserve(self, pages: int) -> None:
        """For a put, before it changes anything. Raises StoreFull."""
        pages += self._put_pages
        if pages + RESERVE_PAGES > self._words[ROOM]:
            self._space.ensure(pages)
        self._put_pages = pages

    def store(self, size_bytes: int, values: int = 1) -> None:
        """A value is about to be stored, or several, anywhere, which have so many bytes together."""
        self._stored_bytes += size_bytes
        self._use(4 * values + 2 * size_bytes // PAGE)

    def store_runs(self, size_bytes: int, values: int, runs: int) -> None:
        """So many values are about to be stored, which are neighbours but for the beginnings of runs. A leaf that is
        split is half full at least, so they lie on three times the pages that they would fill, with all above them.
        """
        self._stored_bytes += size_bytes
        self._use(8 * runs + 3 * (size_bytes + _NODE_BYTES * values) // PAGE)

    def _use(self, pages: int) -> None:
        self._stored_pages += pages
        if self._stored_pages + 2 * self._removals > self._granted or (self.tight and self._pages() > self._granted):
            self._grant()

    def remove(self) -> None:
        """A value is about to be removed."""
        self._removals += 1
        if self._stored_pages + 2 * self._removals > self._granted or (self.tight and self._pages() > self._granted):
            self._grant()

    def remove_run(self, sizes: Sequence[int]) -> None:
        """Values of these sizes are about to be removed, which are neighbours: counted as by `continue_run`."""
        self._stored_bytes += 128 * len(sizes)  # for what is written: as much as of single ones
        on_leaves = sum(sizes) if max(sizes) <= PAGE // 2 else sum(map(min, sizes, repeat(PAGE // 2)))
        self._use(2 + 4 * (on_leaves + _NODE_BYTES * len(sizes)) // PAGE)

    def continue_run(self, size_bytes: int) -> None:
        """The value of so many bytes that was removed last lay right behind the one before it. Two changed pages are
        counted for each removal; but a leaf is a quarter full at least, so a run of them lies on no more than these.
        """
        self._removals -= 1
        self._run_bytes += min(size_bytes, PAGE // 2) + _NODE_BYTES

    def note_settled_alone(self) -> None:
        """See claims/postponed.py."""
        self._words[SETTLED] += 1

    def _pages(self) -> int:
        return self._stored_pages + 2 * self._removals + 4 * self._run_bytes // PAGE

    def _grant(self) -> None:
        """Room for twice as much as now, so that it is seldom asked. Raises lmdb.DiskError where a page could be
        without a block: the transaction is to end.
        """
        pages = self._pages()
        self._granted = max(2 * pages, _MOSTLY_PAGES)
        space = self._space
        if not space.mapped:
            return
        fits = self._granted <= self._words[ROOM] or space.find(self._granted)
        self.tight = 4 * self._granted > self._words[ROOM]
        if fits:
            return
        self._granted = pages
        if min(pages, self._stored_pages + space.tree_pages()) > self._words[ROOM]:
            raise lmdb.DiskError("the disk has no block for what this transaction may change")

    def seal(self) -> None:
        """The commit comes next: take off what it may use, and count what it writes."""
        words = self._words
        used = self._pages()
        room = words[ROOM] - (used if used > self._put_pages else self._put_pages)
        words[ROOM] = room if room > 0 else 0
        words[VOLUME] += _COMMIT_PAGES * PAGE + 2 * self._stored_bytes + 256 * self._removals
