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

import errno
import operator
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

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
_READ_AHEAD = 64
_LOW_FIRST = struct.pack("=H", 1) == b"\1\0"
#: Where in a meta page the size of all pages is, and the number of its transaction.
PAGE_SIZE_AT = HEADER_BYTES + _META.size
TRANSACTION_AT = HEADER_BYTES + _META.size + 2 * _TREE.size + PAGE_NUMBER.size
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


# ---------------------------------------------------------------------- nodes, where a page is whole
def branch_of(page: bytes, number: int, low: Any, high: Any, integer_keys: bool) -> list[tuple[int, Any, Any]]:
    """(page, the least key that can be below it, the first that cannot) of the nodes of a branch page. None: no bound.

    low, high: those of the page itself; integer_keys: as in the free tree. Raises PageDamaged.
    """
    offsets = _offsets_of(page, number, BRANCH)
    children, keys, ends = [], [], []
    for offset in offsets:
        first, second, third, key_bytes = NODE.unpack_from(page, offset)
        at = offset + NODE.size
        ends.append(at + key_bytes + (key_bytes & 1))
        children.append(_whole(first, second) | third << 32)
        keys.append(page[at : at + key_bytes])
    _check_filled(page, number, offsets, ends)
    bounds = _integers(number, keys[1:]) if integer_keys else keys[1:]
    _check_order(number, bounds, low, high)
    return list(zip(children, [low, *bounds], [*bounds, high], strict=True))


def leaf_of(page: bytes, number: int, low: Any, high: Any, integer_keys: bool) -> tuple[int, list[tuple[int, int]]]:
    """(how many entries a leaf page has, (length, first page) of the values that are on overflow pages).

    As `branch_of`. Raises PageDamaged.
    """
    offsets = _offsets_of(page, number, LEAF)
    keys, ends, big = [], [], []
    for offset in offsets:
        first, second, flags, key_bytes = NODE.unpack_from(page, offset)
        at = offset + NODE.size
        end = at + key_bytes
        keys.append(page[at:end])
        if not flags:
            end += _whole(first, second)
        elif flags == BIG and end + PAGE_NUMBER.size <= len(page):
            big.append((_whole(first, second), PAGE_NUMBER.unpack_from(page, end)[0]))
            end += PAGE_NUMBER.size
        else:
            raise PageDamaged(f"page {number} has a node with the flags {flags:#x}")
        ends.append(end + (end & 1))
    _check_filled(page, number, offsets, ends)
    _check_order(number, _integers(number, keys) if integer_keys else keys, low, high)
    return len(offsets), big


def _whole(first: int, second: int) -> int:
    """The u32 of which these are the halves, in the order in which they lie there."""
    return first | second << 16 if _LOW_FIRST else second | first << 16


def _offsets_of(page: bytes, number: int, kind: int) -> tuple[int, ...]:
    """Where the nodes are, in the order of their keys."""
    own, _, flags, lower, upper = HEADER.unpack_from(page)
    if own != number or flags != kind:
        what = "leaf" if kind == LEAF else "branch"
        raise PageDamaged(f"page {number} is no {what} page: its number is {own}, its flags are {flags:#x}")
    if not HEADER_BYTES < lower <= upper <= len(page) or lower % 2:
        raise PageDamaged(f"page {number} has its free space from {lower} to {upper}")
    offsets = struct.unpack_from(f"={(lower - HEADER_BYTES) // 2}H", page, HEADER_BYTES)
    if min(offsets) != upper or max(offsets) > len(page) - NODE.size or any(each % 2 for each in offsets):
        raise PageDamaged(f"page {number} has a node outside of its place")
    return offsets


def _check_filled(page: bytes, number: int, offsets: tuple[int, ...], ends: list[int]) -> None:
    """The nodes lie side by side up to the end of the page."""
    if sorted(ends) != [*sorted(offsets)[1:], len(page)]:
        raise PageDamaged(f"the nodes of page {number} do not fill it")


def _check_order(number: int, keys: list[Any], low: Any, high: Any) -> None:
    if not all(map(operator.lt, keys, keys[1:])):
        raise PageDamaged(f"the keys of page {number} are not in order")
    if keys and ((low is not None and keys[0] < low) or (high is not None and keys[-1] >= high)):
        raise PageDamaged(f"the keys of page {number} are not those that its branch page announces")


def _integers(number: int, keys: list[bytes]) -> list[int]:
    if any(len(key) != PAGE_NUMBER.size for key in keys):
        raise PageDamaged(f"page {number} has a key that is no transaction")
    return [int.from_bytes(key, sys.byteorder) for key in keys]


# ---------------------------------------------------------------------- nodes, whatever a page is
def leaf_nodes(page: bytes) -> Iterator[Node]:
    """The entries of a leaf page, as far as they lie inside it; others are passed over."""
    _, _, _, lower, _ = HEADER.unpack_from(page)
    count = max(0, min(lower, len(page)) - HEADER_BYTES) // 2
    for offset in struct.unpack_from(f"={count}H", page, HEADER_BYTES):
        node = _node(page, offset)
        if node is not None:
            yield node


def possible_nodes(page: bytes) -> Iterator[Node]:
    """Whatever could be an entry, wherever it begins, of a page whose header and offsets say nothing."""
    for offset in range(HEADER_BYTES, len(page) - NODE.size, 2):
        node = _node(page, offset)
        if node is not None and node.key:
            yield node


def _node(page: bytes, offset: int) -> Node | None:
    if not HEADER_BYTES <= offset <= len(page) - NODE.size:
        return None
    first, second, flags, key_bytes = NODE.unpack_from(page, offset)
    at = offset + NODE.size + key_bytes
    size = _whole(first, second)
    if flags == BIG and at + PAGE_NUMBER.size <= len(page):
        return Node(page[offset + NODE.size : at], size, PAGE_NUMBER.unpack_from(page, at)[0], b"")
    if not flags and at + size <= len(page):
        return Node(page[offset + NODE.size : at], size, 0, page[at : at + size])
    return None


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

    def stored_pages(self, start: int) -> Iterator[tuple[int, bytes]]:
        """(number, page) from that one on, of pages that are not all zeros. Holes of the file cost nothing."""
        number = start
        while number < self.pages:
            try:
                number = max(number, os.lseek(self._fd, number * self.page_size, os.SEEK_DATA) // self.page_size)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but holes to the end
            many = self._read(_READ_AHEAD * self.page_size, number * self.page_size)
            if not many:  # it cannot be read in one piece
                many = self._read(self.page_size, number * self.page_size) or bytes(self.page_size)
            for at in range(0, len(many) - self.page_size + 1, self.page_size):
                page = many[at : at + self.page_size]
                if page.strip(b"\0"):
                    yield number + at // self.page_size, page
            number += max(1, len(many) // self.page_size)

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

    def bytes_at(self, number: int, size: int) -> bytes:
        """What a value of that size on that overflow page would be, whatever its header says; fewer bytes where the
        file ends.
        """
        if not 2 <= number < self.pages or size > self.size:
            return b""
        return self._read(size, number * self.page_size + HEADER_BYTES)

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
