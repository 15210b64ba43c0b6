"""What recorder.c has recorded, and what a disk makes of it: what is flushed, what is only in the page cache."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

PAGE = 4096
SECTOR = 512
_HEAD = struct.Struct("=cBHIQQQ")
_U64 = struct.Struct("=Q")

#: Kinds of mark: a call for operation n begins; it has returned; all up to n must survive a power cut; the store was
#: closed by all, with all up to n; a process was killed in operation n;
#: only the maps were looked at; a compaction begins; copy number n of the store begins; it has returned; the front is about
#: to be flushed, and n is the crc32 of its file; of one lane of several (n >> 32), its operation n begins; it has returned.
BEGUN, RETURNED, SYNCED, CLOSED, KILLED, LOOKED, COMPACTS, COPIES, COPIED, FLUSHES, LANE_BEGUN, LANE_RETURNED = range(1, 13)

#: A name in a folder: (folder, name). Folder 0 is the directory that was recorded, those in it have negative numbers.
Name = tuple[int, str]


class Entry(NamedTuple):
    """One call, or one page of a map that has changed; see recorder.c."""

    op: str
    flags: int
    pid: int
    inode: int
    offset: int
    data: bytes


def entries(path: str) -> Iterator[Entry]:
    """All records, in order."""
    with open(path, "rb") as file:
        while head := file.read(_HEAD.size):
            op, flags, _, pid, inode, offset, length = _HEAD.unpack(head)
            data = file.read(length)
            assert len(data) == length, "the last record is cut off"
            yield Entry(op.decode(), flags, pid, inode, offset, data)


class Content:
    """The bytes of a file, by units of the size that the disk writes at once; a unit that is not there is zero."""

    __slots__ = ("size", "unit", "units")

    def __init__(self, unit: int, size: int = 0, units: dict[int, bytes] | None = None) -> None:
        self.unit = unit
        self.size = size
        self.units = {} if units is None else units

    @classmethod
    def of(cls, data: bytes, unit: int) -> Content:
        found = cls(unit, len(data))
        zero = bytes(unit)
        for number in range((len(data) + unit - 1) // unit):
            piece = data[number * unit : (number + 1) * unit].ljust(unit, b"\0")
            if piece != zero:
                found.units[number] = piece
        return found

    def copy(self) -> Content:
        return Content(self.unit, self.size, dict(self.units))

    def resize(self, size: int) -> None:
        """Cut off, or add zeros."""
        if size < self.size:
            last = (size + self.unit - 1) // self.unit
            for number in [number for number in self.units if number >= last]:
                del self.units[number]
            if size % self.unit and size // self.unit in self.units:
                whole = self.units[size // self.unit]
                self.units[size // self.unit] = whole[: size % self.unit].ljust(self.unit, b"\0")
        self.size = size

    def write(self, offset: int, data: bytes) -> Iterator[int]:
        """Write; the numbers of the units that were changed, one after the other."""
        end = offset + len(data)
        self.size = max(self.size, end)
        at = offset
        while at < end:
            number, start = divmod(at, self.unit)
            stop = min(self.unit, start + end - at)
            piece = data[at - offset : at - offset + stop - start]
            if stop - start < self.unit:
                old = self.units.get(number, bytes(self.unit))
                piece = old[:start] + piece + old[stop:]
            self.units[number] = piece
            yield number
            at = number * self.unit + stop

    def put(self, number: int, piece: bytes, end: int) -> None:
        """A unit reaches the disk; the file then has `end` bytes at least."""
        self.units[number] = piece
        self.size = max(self.size, end)

    def bytes(self) -> bytes:
        whole = bytearray(self.size)
        for number, piece in self.units.items():
            start = number * self.unit
            if start < self.size:
                whole[start : start + self.unit] = piece[: self.size - start]
        return bytes(whole)

    def save(self, path: str) -> None:
        """Write it to a file, with holes where it is zero."""
        with open(path, "wb", buffering=0) as file:
            file.truncate(self.size)
            numbers = sorted(number for number in self.units if number * self.unit < self.size)
            run: list[bytes] = []
            for place, number in enumerate(numbers):
                run.append(self.units[number])
                if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
                    start = (number + 1 - len(run)) * self.unit
                    os.pwrite(file.fileno(), b"".join(run)[: self.size - start], start)
                    run = []


class Pending(NamedTuple):
    """Something that may have reached the disk, or not: a unit as it was at that moment, or a size (number -1)."""

    inode: int
    number: int
    piece: bytes
    end: int


class Named(NamedTuple):
    """A change of names that may have reached the disk: one name stands for an inode or a folder now, and another one of
    the same folder is gone. None: there is no such name.
    """

    name: Name | None
    inode: int
    gone: Name | None

    @property
    def folder(self) -> int:
        """Whose flush makes it durable."""
        [folder] = {name[0] for name in (self.name, self.gone) if name is not None}
        return folder


class Disk:
    """The files of a directory, and of folders in it: `durable` is what a power cut surely leaves, `pending` what else it
    may leave.

    A flush of one folder makes its names durable, nothing else: a file is there when its folder's name is, too.
    """

    def __init__(self, unit: int, base: dict[str, tuple[int, bytes]] | None = None) -> None:
        """base: path -> (inode, content) of what was there, and durable, when recording began."""
        self.unit = unit
        self.names: dict[Name, int] = {}
        self.durable: dict[int, Content] = {}
        self.cache: dict[int, Content] = {}
        self.pending: list[Pending] = []
        self.pending_names: list[Named] = []
        self.seen_names: dict[Name, int] = {}
        self._folders = 0
        for path, (inode, data) in (base or {}).items():
            folder = path.rpartition("/")[0]
            if folder and (0, folder) not in self.names:
                self.names[0, folder] = self.seen_names[0, folder] = self._new_folder()
            self.names[self._name_of(path)] = self.seen_names[self._name_of(path)] = inode
            self.durable[inode] = Content.of(data, unit)
            self.cache[inode] = self.durable[inode].copy()

    def apply(self, entry: Entry) -> None:
        """What a call has done. A write that is durable on return is a write, then a flush of these bytes only."""
        match entry.op:
            case "W" | "P":
                self.write(entry)
                if entry.op == "W" and entry.flags:
                    self._flush(entry.inode, entry.offset, entry.offset + len(entry.data))
            case "L":
                self._resize(entry.inode, entry.offset)
            case "A":
                end = entry.offset + _U64.unpack(entry.data)[0]
                if end > self.cache[entry.inode].size:
                    self._resize(entry.inode, end)
            case "F":
                stop = entry.offset + _U64.unpack(entry.data)[0] if entry.flags else 1 << 62
                self._flush(entry.inode, entry.offset, stop)
            case "C":
                name = self._name_of(entry.data.decode())
                if entry.flags:
                    self.durable[entry.inode] = Content(self.unit)
                    self.cache[entry.inode] = Content(self.unit)
                    self.pending = [change for change in self.pending if change.inode != entry.inode]
                self._name(Named(name, entry.inode, None))
            case "R":
                old, new = map(self._name_of, entry.data.decode().rstrip("\0").split("\0"))
                self._name(Named(new, self.seen_names[old], old))
            case "U":
                self._name(Named(None, 0, self._name_of(entry.data.decode())))
            case "K":
                self._name(Named(self._name_of(entry.data.decode()), self._new_folder(), None))
            case "D":
                folder = self.seen_names[0, entry.data.decode()] if entry.data else 0
                for change in self.pending_names:
                    if change.folder == folder:
                        rename(self.names, change)
                self.pending_names = [change for change in self.pending_names if change.folder != folder]
            case "M":
                pass
            case _:
                raise AssertionError(f"a record of an unknown kind: {entry.op!r}")

    def write(self, entry: Entry) -> None:
        """As `apply` for a write, while it is under way: nothing of it is sure to be durable."""
        content = self.cache[entry.inode]
        for number in content.write(entry.offset, entry.data):
            end = min((number + 1) * self.unit, content.size)
            self.pending.append(Pending(entry.inode, number, content.units[number], end))

    def _resize(self, inode: int, size: int) -> None:
        self.cache[inode].resize(size)
        self.pending.append(Pending(inode, -1, b"", size))

    def _new_folder(self) -> int:
        self._folders -= 1
        return self._folders

    def _name_of(self, path: str) -> Name:
        folder, _, name = path.rpartition("/")
        return (self.seen_names[0, folder] if folder else 0, name)

    def _name(self, change: Named) -> None:
        rename(self.seen_names, change)
        self.pending_names.append(change)

    def _flush(self, inode: int, start: int, stop: int) -> None:
        """All units of the file in [start, stop) are durable as they are now, and its size."""
        content, kept = self.durable[inode], []
        for change in self.pending:
            inside = change.inode == inode and (
                change.number < 0 or (start < (change.number + 1) * self.unit and change.number * self.unit < stop)
            )
            if inside:
                settle(content, change)
            else:
                kept.append(change)
        self.pending = kept


def settle(content: Content, change: Pending) -> None:
    """A change reaches the disk."""
    if change.number < 0:
        content.resize(change.end)
    else:
        content.put(change.number, change.piece, change.end)


def rename(names: dict[Name, int], change: Named) -> None:
    """A change of names reaches the disk."""
    if change.gone is not None:
        names.pop(change.gone, None)
    if change.name is not None:
        names[change.name] = change.inode


def folders(names: dict[Name, int]) -> dict[int, str]:
    """The paths of the folders that can be reached."""
    return {0: ""} | {number: name for (folder, name), number in names.items() if folder == 0 and number < 0}


def paths(names: dict[Name, int]) -> dict[str, int]:
    """path -> inode of the files that can be reached."""
    of = folders(names)
    return {os.path.join(of[folder], name): inode for (folder, name), inode in names.items() if inode > 0 and folder in of}


def replayed(path: str, base: dict[str, tuple[int, bytes]] | None = None) -> dict[str, bytes]:
    """The files as they are after all that was recorded."""
    disk = Disk(PAGE, base)
    for entry in entries(path):
        disk.apply(entry)
    return {path: disk.cache[inode].bytes() for path, inode in paths(disk.seen_names).items()}


def watched_files(store: str, folders: bool = False) -> dict[str, tuple[int, bytes]]:
    """path -> (inode, content) of the files that recorder.c watches, as they are."""
    found = {}
    for item in os.scandir(store):
        if item.is_file(follow_symlinks=False) and not item.name.endswith("lock"):
            with open(item.path, "rb") as file:
                found[item.name] = (item.inode(), file.read())
        elif folders and item.is_dir():
            found |= {os.path.join(item.name, name): file for name, file in watched_files(item.path).items()}
    return found


def whereabouts(recorded: list[Entry], base: dict[str, tuple[int, bytes]] | None = None) -> list[str]:
    """Which path each record is about, as it was then: of a file, of a folder ("": the whole), or of what was renamed."""
    path_of = {inode: path for path, (inode, _) in (base or {}).items()}
    found = []
    for entry in recorded:
        match entry.op:
            case "C":
                path_of[entry.inode] = entry.data.decode()
                found.append(path_of[entry.inode])
            case "R":
                old, new = entry.data.decode().rstrip("\0").split("\0")
                for inode, path in path_of.items():
                    if path == old or path.startswith(old + "/"):
                        path_of[inode] = new + path[len(old) :]
                found.append(old)
            case "U" | "K" | "D":
                found.append(entry.data.decode())
            case "M":
                found.append("")
            case _:
                found.append(path_of[entry.inode])
    return found
