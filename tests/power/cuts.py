"""Power cuts: what the disk may hold after one, at any moment of what was recorded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from .records import (
    BEGUN,
    CLOSED,
    COPIED,
    COPIES,
    LANE_BEGUN,
    LANE_RETURNED,
    RETURNED,
    SYNCED,
    Content,
    Disk,
    Entry,
    Named,
    Pending,
    folders,
    paths,
    rename,
    settle,
)

#: Which changes that were not flushed reach the disk.
KINDS = ("none", "all", "prefix", "half", "half", "some lost", "some kept", "newest", "one file")


@attrs.frozen(kw_only=True)
class Image:
    """The files of the recorded directory after a power cut, and what had been promised until then."""

    files: dict[str, Content]
    #: Folders in it, also those that are empty.
    folders: frozenset[str] = frozenset()
    #: Where the power went: number and kind of the record, and what reached the disk.
    where: str
    #: The last operation that had begun; whose call had returned; that had to survive power cuts.
    begun: int
    returned: int
    synced: int
    #: Whether nothing had begun since all was flushed or closed.
    at_rest: bool
    #: Of each copy by its number: the last operation that had returned when it began; that had begun when it returned.
    copies: dict[int, int] = attrs.Factory(dict)
    copied: dict[int, int] = attrs.Factory(dict)
    #: Of each lane: the last operation that had begun, and the last that had returned.
    lanes: dict[int, list[int]] = attrs.Factory(dict)


@attrs.define
class _Promises:
    begun: int = 0
    returned: int = 0
    synced: int = 0
    at_rest: bool = False
    copies: dict[int, int] = attrs.Factory(dict)
    copied: dict[int, int] = attrs.Factory(dict)
    lanes: dict[int, list[int]] = attrs.Factory(dict)

    def hear(self, entry: Entry) -> None:
        """A mark."""
        number = entry.offset
        if entry.flags == BEGUN:
            self.begun, self.at_rest = number, False
        elif entry.flags == RETURNED:
            self.returned = number
        elif entry.flags in (SYNCED, CLOSED):
            self.synced, self.at_rest = number, True
        elif entry.flags == COPIES:
            self.copies[number] = self.returned
        elif entry.flags == COPIED:
            self.copied[number] = self.begun
        elif entry.flags in (LANE_BEGUN, LANE_RETURNED):
            lane = self.lanes.setdefault(number >> 32, [0, 0])
            lane[entry.flags == LANE_RETURNED] = number & 0xFFFFFFFF


def images(
    recorded: list[Entry],
    rnd: random.Random,
    count: int,
    unit: int,
    *,
    base: dict[str, tuple[int, bytes]] | None = None,
    first: int = 0,
    last: int | None = None,
    names_in_order: bool = True,
    often: Sequence[int] = (),
) -> Iterator[Image]:
    """About `count` images, of power cuts just before records number `first` to `last`, or after all of them.

    Half of the cuts come when a flush has begun and not returned, when most is pending. base: see `Disk`.
    names_in_order: as file systems with a journal do it; else any subset of the changes of names may be there.
    often: moments that get half of the cuts.
    """
    moments = range(first, len(recorded) + 1 if last is None else last + 1)
    flushes = [at for at in moments if at < len(recorded) and (recorded[at].op in "FD" or (recorded[at].op == "W" and recorded[at].flags))]
    rests = [at for at in moments if at and recorded[at - 1].op == "M" and recorded[at - 1].flags in (SYNCED, CLOSED)]
    chosen: dict[int, int] = {}
    for _ in range(count):
        crowd = rnd.choices((flushes or moments, rests or moments, moments, often), (5, 1, 4, 10 if often else 0))[0]
        at = rnd.choice(crowd)
        chosen[at] = chosen.get(at, 0) + 1
    disk, promised = Disk(unit, base), _Promises()
    for at in range(moments.stop):
        entry = recorded[at] if at < len(recorded) else None
        if at in chosen:
            pending = disk.pending
            if entry is not None and entry.op == "W" and entry.flags:
                pending = [*pending, *_under_way(disk, entry)]
            for kind in _kinds(rnd, chosen[at]):
                left, reached = _after(disk, pending, kind, rnd, names_in_order)
                what = "the end" if entry is None else entry.op
                yield Image(**left, where=f"{at} ({what}), {kind}: {reached}", **attrs.asdict(promised))
        if entry is not None:
            disk.apply(entry)
            if entry.op == "M":
                promised.hear(entry)


def _kinds(rnd: random.Random, count: int) -> Iterable[str]:
    return rnd.sample(KINDS, count) if count <= len(KINDS) else [*KINDS, *rnd.choices(KINDS, k=count - len(KINDS))]


def _under_way(disk: Disk, entry: Entry) -> list[Pending]:
    """What of a write that will be durable on return may have reached the disk before it returns."""
    content, found = disk.cache[entry.inode].copy(), []
    for number in content.write(entry.offset, entry.data):
        found.append(Pending(entry.inode, number, content.units[number], min((number + 1) * disk.unit, content.size)))
    return found


def _after(
    disk: Disk, pending: list[Pending], kind: str, rnd: random.Random, names_in_order: bool
) -> tuple[dict[str, Any], str]:
    changes = _subset(pending, kind, rnd)
    contents: dict[int, Content] = {}
    for change in changes:
        if change.inode not in contents:
            contents[change.inode] = disk.durable[change.inode].copy()
        settle(contents[change.inode], change)
    names, renames = dict(disk.names), _names(disk.pending_names, kind, rnd, names_in_order)
    for renamed in renames:
        rename(names, renamed)
    files = {path: contents.get(inode) or disk.durable[inode] for path, inode in paths(names).items()}
    left = {"files": files, "folders": frozenset(folders(names).values()) - {""}}
    return left, f"{len(changes)} of {len(pending)} changes, {len(renames)} of {len(disk.pending_names)} names"


def _subset(pending: list[Pending], kind: str, rnd: random.Random) -> list[Pending]:
    few = set(rnd.sample(range(len(pending)), min(len(pending), rnd.randint(1, 2))))
    match kind:
        case "none":
            return []
        case "all":
            return pending
        case "prefix":
            return pending[: rnd.randint(0, len(pending))]
        case "half":
            return [change for change in pending if rnd.random() < 0.5]
        case "some lost":
            return [change for at, change in enumerate(pending) if at not in few]
        case "some kept":
            return [change for at, change in enumerate(pending) if at in few]
        case "newest":
            return pending[-1:]
        case _:
            file = rnd.choice(pending).inode if pending else 0
            return [change for change in pending if change.inode == file]


def _names(pending: list[Named], kind: str, rnd: random.Random, in_order: bool) -> list[Named]:
    if kind in ("none", "all"):
        return pending if kind == "all" else []
    if in_order:
        return pending[: rnd.randint(0, len(pending))]
    return [change for change in pending if rnd.random() < 0.5]
