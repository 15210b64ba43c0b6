"""The entries of a damaged LMDB data file (see pages.py): those of its tree as far as it is whole, then all others.

The tree tells which keys are on its damaged pages: those between two keys of a branch page. Only such keys are looked
for elsewhere, on pages that the tree does not reach. LMDB writes no page in place, so older states of a page lie about
until they are used again; an entry that is found there may have been removed since. Where a meta page is damaged,
nobody knows what the last commit was, and everything is looked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from .pages import (
    BRANCH,
    HEADER,
    LEAF,
    MAX_DEPTH,
    NO_PAGE,
    OVERFLOW,
    DataFile,
    Meta,
    Node,
    PageDamaged,
    branch_of,
    leaf_nodes,
    leaf_of,
    possible_nodes,
)
from .structure import MOST_PROBLEMS, Progress, meta_problems

_TELL_EVERY = 1024


class Salvage:
    """One look at a file. is_whole(key, value): whether an entry is what was once stored, by its checksum or its form.

    problems: in words; read, damaged: numbers of pages; unreadable: (key, the value as it is) of entries of whole
    pages that are not. All of it holds when `entries` has come to its end.
    """

    def __init__(self, file: DataFile, is_whole: Callable[[bytes, bytes], bool], progress: Progress | None) -> None:
        self._file = file
        self._is_whole = is_whole
        self._progress = progress
        self._total = 0
        self._seen = bytearray(file.pages)  # 1: read as a part of a tree
        self._lost: list[tuple[bytes, bytes | None]] = []  # from a key on, up to another; None: to the end
        self._torn: list[int] = []  # where a leaf should be
        self.problems: list[str] = []
        self.read = 0
        self.damaged: set[int] = set()
        self.unreadable: list[tuple[bytes, bytes]] = []

    def entries(self) -> Iterator[tuple[bytes, bytes, bool]]:
        """(key, value, whether it is stored for sure): what is sure comes first. A key may come again."""
        self.problems = meta_problems(self._file)
        first, second = self._file.metas()
        metas = sorted(
            (meta for meta in (first, second) if meta is not None), key=lambda meta: meta.transaction, reverse=True
        )
        self._total = metas[0].main.pages if metas else 0
        if self.problems or not metas:
            self._lost.append((b"", None))
        if metas:
            yield from self._tree(metas[0], sure=True)
        if self._lost:
            self._lost = _merged(self._lost)
            self._total = 2 * self.read + len(self._lost)
            if len(metas) > 1:
                yield from self._wanted(self._tree(metas[1], sure=False))
            yield from self._wanted(self._elsewhere())
        if self._progress is not None:
            self._progress(self.read, self.read)

    def _note(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def _count(self, pages: int = 1) -> None:
        before, self.read = self.read, self.read + pages
        if self._progress is not None and before // _TELL_EVERY != self.read // _TELL_EVERY:
            self._progress(self.read, max(self.read, self._total))

    # ------------------------------------------------------------------ the tree
    def _tree(self, meta: Meta, *, sure: bool) -> Iterator[tuple[bytes, bytes, bool]]:
        """The entries of its whole leaves. sure: note what is lost of it, and which pages it has."""
        tree = meta.main
        if tree.root == NO_PAGE:
            return
        if not 1 <= tree.depth <= MAX_DEPTH:
            if sure:
                self._damage(0, f"the tree is {tree.depth} levels deep", b"", None)
            return
        todo: list[tuple[int, int, bytes | None, bytes | None]] = [(tree.root, 1, None, None)]
        reached = bytearray(self._file.pages)
        leaves = entries = 0
        broken = False
        while todo:
            number, level, low, high = todo.pop()
            try:
                page = self._file.page(number)
                if reached[number]:
                    raise PageDamaged(f"page {number} is in use twice")
                reached[number] = 1
                self._count()
                if level < tree.depth:
                    children = branch_of(page, number, low, high, False)
                    todo.extend((child, level + 1, first, behind) for child, first, behind in reversed(children))
                else:
                    entries += leaf_of(page, number, low, high, False)[0]
                    leaves += 1
            except PageDamaged as error:
                broken = True
                if sure:
                    self._damage(number, str(error), low or b"", high)
                    if level == tree.depth:
                        self._torn.append(number)
                continue
            if sure:
                self._seen[number] = 1
            if level == tree.depth:
                yield from self._nodes(leaf_nodes(page), sure=sure)
        if sure and not broken and (leaves, entries) != (tree.leaf_pages, tree.entries):
            self._damage(0, f"the tree has {entries} entries, {tree.entries} are counted", b"", None)

    def _damage(self, number: int, problem: str, low: bytes, high: bytes | None) -> None:
        self._note(problem)
        self._lost.append((low, high))
        if 0 <= number < self._file.pages:
            self.damaged.add(number)

    def _nodes(self, nodes: Iterator[Node], *, sure: bool) -> Iterator[tuple[bytes, bytes, bool]]:
        """Those that are whole."""
        for node in nodes:
            value = self._file.bytes_at(node.page, node.size) if node.page else node.value
            if len(value) == node.size and self._is_whole(node.key, value):
                if node.page and sure:
                    pages = self._file.run_pages(node.size)
                    self._seen[node.page : node.page + pages] = b"\1" * pages
                    self._count(pages)
                yield node.key, value, sure
            elif sure:
                self.unreadable.append((node.key, value))
                self._lost.append((node.key, node.key + b"\0"))
                if node.page:
                    self.damaged.add(node.page)

    # ------------------------------------------------------------------ all other pages
    def _wanted(self, found: Iterator[tuple[bytes, bytes, bool]]) -> Iterator[tuple[bytes, bytes, bool]]:
        starts = [low for low, _ in self._lost]
        for entry in found:
            at = bisect_right(starts, entry[0]) - 1
            if at >= 0:
                high = self._lost[at][1]
                if high is None or entry[0] < high:
                    yield entry

    def _elsewhere(self) -> Iterator[tuple[bytes, bytes, bool]]:
        """What is on the damaged leaves themselves, then on leaves that are not in use."""
        for number in self._torn:
            try:
                page = self._file.page(number)
            except PageDamaged:
                continue
            yield from self._nodes(leaf_nodes(page), sure=False)
            yield from self._nodes(possible_nodes(page), sure=False)
        for number, page in self._file.stored_pages(2):
            if self._seen[number]:
                continue
            self._count()
            own, _, flags, _, _ = HEADER.unpack_from(page)
            if flags == LEAF or (own == number and flags not in (BRANCH, OVERFLOW)):  # one of both may be damaged
                yield from self._nodes(leaf_nodes(page), sure=False)


def _merged(ranges: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
    """The same keys in ranges that do not overlap, in order."""
    merged: list[tuple[bytes, bytes | None]] = []
    for low, high in sorted(ranges, key=lambda each: each[0]):
        if merged:
            last_low, last_high = merged[-1]
            if last_high is None or low <= last_high:
                merged[-1] = last_low, None if last_high is None or high is None else max(last_high, high)
                continue
        merged.append((low, high))
    return merged
