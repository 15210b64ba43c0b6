"""The pages of an LMDB data file, read with pread(2): without a map and without LMDB, so that no damage crashes us.

For files as LMDB 0.9 writes them on a 64-bit machine, with one unnamed tree of plain keys. All integers have the byte
order of the machine. Page n begins at n * page size. Pages 0 and 1 are the meta pages; transaction t writes page
t mod 2, and the one with the greater number counts:

    0        8     10      12      16        20        24        32         40          88          136    144
    | number | pad | flags | -     | magic   | version | address | map size | free tree | main tree | last | transaction
      u64      u16   u16     u32     u32       u32       u64       u64        48          48          u64    u64

    tree:  pad u32 (in the free tree: page size) | flags u16 | depth u16 | branch pages u64 | leaf pages u64 |
           overflow pages u64 | entries u64 | root u64 (all ones: an empty tree)

Branch and leaf pages have an offset u16 for each node, in the order of the keys, up to `lower`; the nodes fill the page
from `upper` to its end, each on an even offset:

    0        8     10      12      14      16
    | number | pad | flags | lower | upper | offsets ... |   free   | nodes ...
      u64      u16   u16     u16     u16

    leaf node:    length of the value u32 | flags u16 | length of the key u16 | key | value, or page u64 if flags = 1
    branch node:  page u48                            | length of the key u16 | key: no key below is smaller (in the
                                                                                first node it means nothing)

A value that makes its node larger than a fourth of what two nodes may share lies on an overflow page, which may go
on over the pages that follow it, without headers of their own:

    0        8     10      12      16
    | number | pad | flags | pages | value
      u64      u16   u16     u32

The free tree has, under the number of a transaction (u64), the pages that it freed, or that were still free then:
how many u64 | pages u64 each, the greatest first. The value may be longer than they are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

import attrs

BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG = 1  # a flag of a leaf node: its value is on overflow pages
NO_PAGE = (1 << 64) - 1
HEADER_BYTES = 16
MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
#: No tree is deeper: LMDB's cursors could not walk it.
MAX_DEPTH = 32

HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
RUN_HEADER = struct.Struct("=QHHI")  # number, pad, flags, pages
NODE = struct.Struct("=HHHH")  # two halves of the length (as LMDB orders them), flags, length of the key
PAGE_NUMBER = struct.Struct("=Q")
_META = struct.Struct("=IIQQ")
_TREE = struct.Struct("=IHHQQQQQ")
_META_END = struct.Struct("=QQ")
_LOW_FIRST = struct.pack("=H", 1) == b"\1\0"
_META_BYTES = HEADER_BYTES + _META.size + 2 * _TREE.size + _META_END.size


class PageDamaged(Exception):
    """A page is not what it should be; the text says how."""


@attrs.frozen
class Tree:
    """What a meta page says of a tree. root: NO_PAGE where it is empty."""

    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int

    @property
    def pages(self) -> int:
        """All its pages."""
        return self.branch_pages + self.leaf_pages + self.overflow_pages


@attrs.frozen
class Meta:
    """A meta page: a state of the whole file, as of one commit."""

    number: int
    version: int
    page_size: int
    map_size: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


class Node(NamedTuple):
    """An entry of a leaf. page: where its value begins, if that is on overflow pages, else 0."""

    key: bytes
    size: int
    page: int
    value: bytes


def meta_in(page: bytes) -> Meta | None:
    """What a meta page says; None where it is none."""
    if len(page) < _META_BYTES:
        return None
    magic, version, _, map_size = _META.unpack_from(page, HEADER_BYTES)
    if magic != MAGIC:
        return None
    at = HEADER_BYTES + _META.size
    page_size, *free = _TREE.unpack_from(page, at)
    _, *main = _TREE.unpack_from(page, at + _TREE.size)
    last_page, transaction = _META_END.unpack_from(page, at + 2 * _TREE.size)
    (number,) = PAGE_NUMBER.unpack_from(page)
    return Meta(number, version, page_size, map_size, Tree(*free), Tree(*main), last_page, transaction)


def node_at(page: bytes, offset: int) -> tuple[int, int, int]:
    """(length of the value, flags, length of the key) of the leaf node there."""
    low, high, flags, key_bytes = NODE.unpack_from(page, offset)
    return (low | high << 16 if _LOW_FIRST else high | low << 16), flags, key_bytes


def child_at(page: bytes, offset: int) -> tuple[int, int]:
    """(page, length of the key) of the branch node there."""
    low, high, top, key_bytes = NODE.unpack_from(page, offset)
    return (low | high << 16 if _LOW_FIRST else high | low << 16) | top << 32, key_bytes


def offsets_in(page: bytes) -> tuple[int, ...]:
    """Where the nodes of a branch or leaf page begin, as far as that can be."""
    _, _, _, lower, _ = HEADER.unpack_from(page)
    count = max(0, min(lower, len(page)) - HEADER_BYTES) // 2
    return struct.unpack_from(f"={count}H", page, HEADER_BYTES)


def leaf_nodes(page: bytes) -> Iterator[Node]:
    """All entries of a leaf page that lie inside it; others are passed over."""
    for offset in offsets_in(page):
        if not HEADER_BYTES <= offset <= len(page) - NODE.size:
            continue
        size, flags, key_bytes = node_at(page, offset)
        at = offset + NODE.size + key_bytes
        if flags == BIG and at + PAGE_NUMBER.size <= len(page):
            yield Node(page[offset + NODE.size : at], size, PAGE_NUMBER.unpack_from(page, at)[0], b"")
        elif not flags and at + size <= len(page):
            yield Node(page[offset + NODE.size : at], size, 0, page[at : at + size])


class DataFile:
    """A data file, open for reading. A context manager; not for threads to share.

    size: in bytes; page_size: as its meta pages say it, or else as LMDB chooses it on this machine.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self._fd).st_size
            self.page_size = self._find_page_size()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _find_page_size(self) -> int:
        for offset in (0, *PAGE_SIZES):
            meta = meta_in(self._read(_META_BYTES, offset))
            if meta is not None and meta.page_size in PAGE_SIZES and offset in (0, meta.page_size):
                return meta.page_size
        return min(os.sysconf("SC_PAGE_SIZE"), 32768)

    def _read(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, count, offset)
        except OSError:
            return b""  # as behind the end of the file

    @property
    def pages(self) -> int:
        """Whole pages of the file."""
        return self.size // self.page_size

    def metas(self) -> tuple[Meta | None, Meta | None]:
        """What the two meta pages say; None where one is none."""
        first, second = (meta_in(self._read(_META_BYTES, number * self.page_size)) for number in (0, 1))
        return first, second

    def page(self, number: int) -> bytes:
        """One page. Raises PageDamaged where the file ends before it, or cannot be read there."""
        page = self._read(self.page_size, number * self.page_size) if 0 <= number < self.pages else b""
        if len(page) != self.page_size:
            what = "cannot be read" if number < self.pages else f"lies behind the end of the file ({self.size} bytes)"
            raise PageDamaged(f"page {number} {what}")
        return page

    def run_pages(self, size: int) -> int:
        """How many overflow pages a value of that many bytes needs."""
        return (HEADER_BYTES - 1 + size) // self.page_size + 1

    def run_of(self, number: int, size: int) -> int:
        """How many pages the overflow page has. Raises PageDamaged where a value of `size` bytes cannot be on it."""
        if not 2 <= number < self.pages:
            raise PageDamaged(f"overflow page {number} lies behind the end of the file ({self.size} bytes)")
        header = self._read(HEADER_BYTES, number * self.page_size)
        if len(header) < HEADER_BYTES:
            raise PageDamaged(f"page {number} cannot be read")
        own, _, flags, pages = RUN_HEADER.unpack(header)
        if own != number or flags != OVERFLOW:
            raise PageDamaged(f"page {number} is no overflow page: its number is {own}, its flags are {flags:#x}")
        if pages < self.run_pages(size):
            raise PageDamaged(f"the overflow page {number} has {pages} pages, too few for {size} bytes")
        if number + pages > self.pages:
            raise PageDamaged(f"the overflow page {number} goes on behind the end of the file")
        return int(pages)

    def value(self, node: Node) -> bytes:
        """The value of an entry. Raises PageDamaged where it is on overflow pages that are not whole."""
        if not node.page:
            return node.value
        self.run_of(node.page, node.size)
        value = self._read(node.size, node.page * self.page_size + HEADER_BYTES)
        if len(value) != node.size:
            raise PageDamaged(f"page {node.page} cannot be read")
        return value


def newest_meta(file: DataFile) -> Meta | None:
    """The meta page that LMDB would start from; None where there is none."""
    metas = [meta for meta in file.metas() if meta is not None]
    return max(metas, key=lambda meta: meta.transaction, default=None)
