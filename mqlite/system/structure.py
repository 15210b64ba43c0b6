"""Whether the pages of an LMDB data file (see pages.py) make two whole trees.

What is found whole here, LMDB can walk and change without harm. Not noticed: a flipped bit inside a value (records have
checksums of their own), and inside a key, as long as the order stays.

S1  every page but the metas is reached once, or listed as free once, or neither (a leak, which is no damage).
S2  keys grow from left to right, and those below a branch node lie between its key and the next one.
S3  all leaves are on one level; pages and entries are as many as the meta page says.
"""

from __future__ import annotations

import operator
import struct
import sys
from collections.abc import Callable
from typing import Any

from .pages import (
    MAX_DEPTH,
    META,
    NO_PAGE,
    PAGE_NUMBER,
    VERSION,
    DataFile,
    Meta,
    Node,
    PageDamaged,
    Tree,
    branch_of,
    leaf_nodes,
    leaf_of,
    newest_meta,
)

#: Told how many pages were looked at, and how many there are to look at, about.
Progress = Callable[[int, int], object]
#: After so many problems nobody reads on.
MOST_PROBLEMS = 100
_TELL_EVERY = 1024
_INTEGER_KEYS = 8
#: Flags of the environment that LMDB keeps among those of the free tree, and that change nothing here.
_HARMLESS = 0x4000
#: The last pages of a file may be missing while they are free: one commit took and freed them. So many, at most.
_NEVER_WRITTEN = 1 << 16
_TREE_HEAD = struct.Struct("=QHH")


def structure_problems(path: str, progress: Progress | None = None, *, meta: int | None = None) -> list[str]:
    """What is wrong with the pages of a data file, in words; [] when all is well.

    progress(done, total): called every now and then, in pages. meta: the number of the meta page to start from; None:
    the newest. Nobody may write meanwhile. Raises OSError where the file cannot be opened. Cost: all pages in use are
    read, 20 us each.
    """
    with DataFile(path) as file:
        return _Walk(file, progress).problems(meta)


def meta_problems(file: DataFile) -> list[str]:
    """What is wrong with the two meta pages by themselves, in words."""
    found = []
    for number, meta in enumerate(file.metas()):
        if meta is None:
            found.append(f"the meta page {number} is damaged: it is none of LMDB's")
            continue
        _, _, flags = _TREE_HEAD.unpack(file.page(number)[: _TREE_HEAD.size]) if number < file.pages else (0, 0, 0)
        if meta.number != number or flags != META:
            found.append(f"the meta page {number} is damaged: its number is {meta.number}, its flags are {flags:#x}")
        if meta.version != VERSION or meta.page_size != file.page_size:
            found.append(f"the meta page {number} is damaged: version {meta.version}, pages of {meta.page_size} bytes")
        if meta.transaction and meta.transaction % 2 != number:
            found.append(f"the meta page {number} is damaged: the transaction {meta.transaction} is none of its own")
    return found


class _Walk:
    """One look at a file."""

    def __init__(self, file: DataFile, progress: Progress | None) -> None:
        self._file = file
        self._page_size = file.page_size
        self._progress = progress
        self._found: list[str] = []
        self._seen = bytearray()  # by page: 1 reached, 2 free
        self._done = 0
        self._total = 0

    def problems(self, which: int | None) -> list[str]:
        """In words."""
        self._found = meta_problems(self._file)
        meta = newest_meta(self._file) if which is None else self._file.metas()[which]
        if meta is None:
            return self._found
        if not 1 <= meta.last_page <= 2 * self._file.pages + _NEVER_WRITTEN:
            self._found.append(
                f"the last page is {meta.last_page}, and the file ends long before it (it has {self._file.pages} pages)"
            )
            return self._found
        self._seen = bytearray(meta.last_page + 1)
        self._seen[0] = self._seen[1] = 1
        self._total = min(meta.free.pages + meta.main.pages, meta.last_page + 1)
        try:
            self._tree(meta.main, "main tree", integer_keys=False, leaf=None)
            if meta.main.flags:
                self._add(f"the flags of the main tree are {meta.main.flags:#x}")
            self._tree(meta.free, "free tree", integer_keys=True, leaf=lambda node: self._free(node, meta))
            if meta.free.flags & ~_HARMLESS != _INTEGER_KEYS:
                self._add(f"the flags of the free tree are {meta.free.flags:#x}")
        except _Enough:
            self._found.append("and perhaps more: nothing was looked at beyond that")
        if self._progress is not None:
            self._progress(self._done, self._done)
        return self._found

    def _add(self, problem: str) -> None:
        self._found.append(problem)
        if len(self._found) >= MOST_PROBLEMS:
            raise _Enough

    # ------------------------------------------------------------------ pages
    def _tree(self, tree: Tree, name: str, integer_keys: bool, leaf: Callable[[Node], None] | None) -> None:
        """All pages of a tree, from left to right."""
        if tree.root == NO_PAGE:
            if tree.depth or tree.pages or tree.entries:
                self._add(f"the {name} is empty, and {tree.pages} pages and {tree.entries} entries are counted")
            return
        if not 1 <= tree.depth <= MAX_DEPTH:
            self._add(f"the {name} is {tree.depth} levels deep")
            return
        counts = _Counts()
        todo: list[tuple[int, int, Any, Any]] = [(tree.root, 1, None, None)]
        while todo:
            number, level, low, high = todo.pop()
            try:
                self._reach(number, 1)
                page = self._file.page(number)
                if level < tree.depth:
                    counts.branches += 1
                    children = branch_of(page, number, low, high, integer_keys)
                    todo.extend((child, level + 1, first, behind) for child, first, behind in reversed(children))
                else:
                    counts.leaves += 1
                    self._leaf(page, number, low, high, integer_keys, counts, leaf)
            except PageDamaged as error:
                counts.broken = True
                self._add(f"{name}: {error}")
        if counts.broken:
            return  # what is behind a damaged page could not be counted
        for what, there, counted in (
            ("branch pages", counts.branches, tree.branch_pages),
            ("leaf pages", counts.leaves, tree.leaf_pages),
            ("overflow pages", counts.overflows, tree.overflow_pages),
            ("entries", counts.entries, tree.entries),
        ):
            if there != counted:
                self._add(f"the {name} has {there} {what}, {counted} are counted")

    def _reach(self, number: int, count: int) -> None:
        if not 2 <= number <= len(self._seen) - count:
            raise PageDamaged(f"page {number} is in use, and the last page is {len(self._seen) - 1}")
        if any(self._seen[number : number + count]):
            raise PageDamaged(f"page {number} is in use twice")
        self._seen[number : number + count] = b"\1" * count
        before, self._done = self._done, self._done + count
        if self._progress is not None and before // _TELL_EVERY != self._done // _TELL_EVERY:
            self._progress(min(self._done, self._total), self._total)

    def _leaf(
        self,
        page: bytes,
        number: int,
        low: Any,
        high: Any,
        integer_keys: bool,
        counts: _Counts,
        each: Callable[[Node], None] | None,
    ) -> None:
        entries, big = leaf_of(page, number, low, high, integer_keys)
        counts.entries += entries
        for size, first in big:
            try:
                pages = self._file.run_of(first, size)
                self._reach(first, pages)
                counts.overflows += pages
            except PageDamaged as error:
                counts.broken = True
                self._add(f"a value of page {number}: {error}")
        if each is not None:
            for node in leaf_nodes(page):
                each(node)

    # ------------------------------------------------------------------ free pages
    def _free(self, node: Node, meta: Meta) -> None:
        """One entry of the free tree. Raises PageDamaged."""
        transaction = int.from_bytes(node.key, sys.byteorder)
        value = self._file.value(node)
        if transaction > meta.transaction:
            raise PageDamaged(f"the transaction {transaction} has freed pages, and the last one is {meta.transaction}")
        count = PAGE_NUMBER.unpack_from(value)[0] if len(value) >= PAGE_NUMBER.size else NO_PAGE
        if len(value) % PAGE_NUMBER.size or count > len(value) // PAGE_NUMBER.size - 1:
            raise PageDamaged(f"the list of the pages that the transaction {transaction} freed is damaged")
        free = struct.unpack_from(f"={count}Q", value, PAGE_NUMBER.size)
        if not all(map(operator.gt, free, free[1:])):
            raise PageDamaged(f"the pages that the transaction {transaction} freed are not in order")
        seen, last = self._seen, len(self._seen) - 1
        for number in free:
            if not 2 <= number <= last:
                raise PageDamaged(f"page {number} is free, and the last page is {last}")
            if seen[number]:
                raise PageDamaged(f"page {number} is free, and {'free once more' if seen[number] == 2 else 'in use'}")
            seen[number] = 2


class _Counts:
    """What was met of a tree. broken: a part of it could not be walked."""

    def __init__(self) -> None:
        self.branches = self.leaves = self.overflows = self.entries = 0
        self.broken = False


class _Enough(Exception):
    """So much is wrong that nobody reads on."""
