"""The records of the front (front.py): what is stored there, who is first in line, and what becomes of it.

A byte, or an aligned word, is stored at once; `head`, and the state of a record, are stored last. So a kill leaves each
change done or not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from ..message import Position
from . import InLine
from . import format as fmt
from .front_contents import Held
from .front_file import (
    BROUGHT_HERE,
    CLAIMED,
    CRC,
    DONE,
    END,
    ENDLESS,
    FLAGS,
    FLUSHED,
    GONE,
    HEAD,
    HOLDER,
    HORIZON_RANK,
    HORIZON_SEQ,
    INDEXED,
    KEY_AT,
    LAST_RANK,
    MOST_BODY_BYTES,
    MOST_RUNS,
    NEW,
    READY,
    REMOVALS_END,
    REMOVED,
    REMOVED_BYTES,
    REMOVED_RANK,
    REMOVED_SEQ,
    RUNS,
    SEQ,
    SETTLED_SUM,
    SETTLING,
    SIZE,
    SIZE_AT,
    START,
    STATE,
    TERMS,
    TERMS_AT,
    TOTAL,
    UNCLAIMED,
    VALUE_AT,
    WHOLE,
    mapped,
    record_bytes,
)
from .front_removals import Stretch, packed

if TYPE_CHECKING:
    from .front_flush import Flushes


@attrs.define(eq=False)
class Lane:
    """A queue in this epoch, as this process knows it.

    slot: where its words begin. version: of its settings in the tree. in_line: nothing in the tree has a group,
    expires, or waits for its time. heap: what may be first in line, once somebody here claims. commit, deadline_ns: the
    commit of the claims as of which nothing but the line decides, and no row times out before. horizon: as it was at
    least; it does not come nearer in an epoch. (0.15 us of each message that is claimed)
    """

    number: int
    prefix: bytes
    slot: int
    version: int
    in_line: bool
    heap: list[tuple[Position, int]] | None = None
    commit: int = -2
    deadline_ns: int = 0
    horizon: Position = 0


class Records:
    """All of it for who holds L.

    flushes: where nothing is to be had before it is flushed, else None.
    """

    flushes: Flushes | None
    epoch: int

    def __init__(self, path: str, flushed: bool) -> None:
        self._area = mapped(path)
        self.words = memoryview(self._area).cast("Q")
        self._until = FLUSHED if flushed else HEAD

    def _know_nothing(self, epoch: int) -> None:
        """Of this epoch yet."""
        self.lanes: dict[int, Lane] = {}
        self._heaps: dict[int, list[tuple[Position, int]]] = {}  # of the queues that are indexed up to `_seen`
        self._seen = START
        self.epoch = epoch  # last: an interrupt leaves nothing that was known of another

    def append(self, lane: Lane, rank: int, tag: int, body: bytes, body_crc: int, now_ns: int) -> int:
        """A message without marks and extras; its id, or 0 where there is no room."""
        words, at = self.words, self.words[HEAD]
        size = fmt.HEADER_BYTES + len(body)
        end = at + (VALUE_AT + size + 15 & -16)
        slot = lane.slot
        if words[slot + LAST_RANK] != rank + 1:
            if words[RUNS] >= MOST_RUNS:
                return 0
            words[RUNS] += 1
            words[slot + LAST_RANK] = rank + 1
        if end > END:
            return 0
        seq: int = words[SEQ] + 1
        key = fmt.MESSAGE_KEY.pack(lane.prefix, rank, seq)
        header = fmt.HEADER.pack(fmt.VERSION, tag, 0, 0, seq, now_ns, 0, 0)
        brief = NEW.pack(self.epoch, size, READY)
        crc = CRC.pack(crc32(key, crc32(header, body_crc)))
        self._area[at : at + VALUE_AT + size] = b"".join((brief, key, crc, header, body))
        words[SEQ] = seq
        words[slot + TOTAL] += 1
        words[HEAD] = end  # before it is indexed: after an interrupt in between, another message would be at that place
        if lane.heap is not None and self._seen == at and self.flushes is None:
            heappush(lane.heap, (rank << 64 | seq, at))
            self._seen = end
        return seq

    def bring(self, lane: Lane, found: InLine, count: int) -> bool:
        """Messages of the tree, found behind the horizon when so many were asked for: they are here, too. The front is
        shut meanwhile. False where the first of them cannot pass by.
        """
        words = self.words
        head = words[HEAD]
        places, end = self._copied_alike(found) or self._copied(found)
        brought = len(places)
        if len(found.positions) < count and brought == len(found.positions):
            words[lane.slot + HORIZON_RANK] = ENDLESS
        elif brought:
            last = found.positions[brought - 1]
            words[lane.slot + HORIZON_RANK], words[lane.slot + HORIZON_SEQ] = last >> 64, last & _LOW
        else:
            return False
        words[HEAD] = end
        if lane.heap is not None and self._seen == head and self.flushes is None:
            heap = lane.heap
            entries = zip(found.positions, places, strict=False)  # not read again by `_gather`: 0.3 us each
            if heap:
                for entry in entries:
                    heappush(heap, entry)
            else:  # as most; what ascends is a heap
                heap.extend(entries)
            self._seen = end
        return True

    def _copied_alike(self, found: InLine) -> tuple[Sequence[int], int] | None:
        """The same as `_copied` for messages of one rank and of one size, as most are, at once (0.2 us each instead of
        0.5). None, and nothing done, where they are not, or where one of them cannot pass by.
        """
        words, keys, values = self.words, found.keys, found.raws
        if not keys:
            return None
        head, size = words[HEAD], len(values[0])
        taken = record_bytes(size)
        end = head + taken * len(keys)
        if (
            keys[0][: fmt.RANK_END] != keys[-1][: fmt.RANK_END]
            or not _can_come(size)
            or len(set(map(len, values))) > 1
            or not all(map(fmt.is_unmarked, values))
            or end > END - words[REMOVED_BYTES]
            or words[RUNS] >= MOST_RUNS
        ):
            return None
        words[RUNS] += 1
        brief = UNCLAIMED.pack(self.epoch, size, READY, BROUGHT_HERE)
        between = bytes(taken - VALUE_AT - size) + brief
        self._area[head:end] = brief + between.join(map(bytes.__add__, keys, values)) + between[: -len(brief)]
        return range(head, end, taken), end

    def _copied(self, found: InLine) -> tuple[Sequence[int], int]:
        """(where they are, where the last one ends) of the first of them, behind the head."""
        words, area, epoch = self.words, self._area, self.epoch
        at = words[HEAD]
        runs, rank, room_ends = words[RUNS], b"", END - words[REMOVED_BYTES]
        places: list[int] = []
        for key, value in zip(found.keys, found.raws, strict=True):
            size = len(value)
            end = at + record_bytes(size)
            if key[: fmt.RANK_END] != rank:
                runs, rank = runs + 1, key[: fmt.RANK_END]
            if end > room_ends or runs > MOST_RUNS or not _can_come(size) or not fmt.is_unmarked(value):
                break
            area[at : at + VALUE_AT + size] = UNCLAIMED.pack(epoch, size, READY, BROUGHT_HERE) + key + value
            places.append(at)
            at, words[RUNS] = end, runs
        return places, at

    def index(self, lane: Lane) -> None:
        """Keep what is first in line of a queue from now on."""
        heap: list[tuple[Position, int]] = []
        self._gather({lane.number: heap}, START, self._seen)
        self._heaps[lane.number] = lane.heap = heap  # behind that: an interrupt leaves none that lacks some

    def horizon(self, lane: Lane) -> Position:
        """The place up to which what is in the tree is here, too."""
        words, slot = self.words, lane.slot
        return int(words[slot + HORIZON_RANK] << 64 | words[slot + HORIZON_SEQ])

    def is_exhausted(self, lane: Lane) -> bool:
        """Whether the tree has nothing more for claimers."""
        return bool(self.words[lane.slot + HORIZON_RANK] == ENDLESS)

    def first(self, lane: Lane) -> tuple[Position, int] | None:
        """(place, where it is) of what is first in line; None where nothing is, or the tree is to be asked first."""
        area, head = self._area, self.words[self._until]
        if self._seen < head:  # others have put
            self._gather(self._heaps, self._seen, head)
            self._seen = head
        heap = lane.heap
        assert heap is not None
        while heap:
            found = heap[0]
            if area[found[1] + STATE] == READY:
                if found[0] > lane.horizon:
                    lane.horizon = self.horizon(lane)
                    if found[0] > lane.horizon:
                        return None
                return found
            heappop(heap)
        return None

    def _gather(self, heaps: dict[int, list[tuple[Position, int]]], at: int, head: int) -> None:
        """Index what may be claimed there. Twice is once."""
        area, read = self._area, INDEXED.unpack_from
        while at < head:
            size, state, queue, rank, seq = read(area, at)
            if state == READY:
                heap = heaps.get(queue)
                if heap is not None:
                    heappush(heap, (rank << 64 | seq, at))
            at += record_bytes(size)

    def key_and_value(self, at: int) -> tuple[bytes, bytes]:
        """The message of a record, as it is in the tree."""
        area = self._area
        (size,) = SIZE.unpack_from(area, at + SIZE_AT)
        value_at = at + VALUE_AT
        return area[at + KEY_AT : value_at], area[value_at : value_at + size]

    def claim(self, at: int, token: int, owner: int, deadline_ns: int, flags: int) -> None:
        """It is somebody's."""
        area = self._area
        TERMS.pack_into(area, at + TERMS_AT, token, owner, deadline_ns)
        area[at + FLAGS] = area[at + FLAGS] & BROUGHT_HERE | flags
        area[at + STATE] = CLAIMED

    def is_held(self, at: int, token: int, owner: int) -> bool:
        """Whether it is that claim still."""
        area = self._area
        return area[at + STATE] == CLAIMED and HOLDER.unpack_from(area, at + TERMS_AT) == (token, owner)

    def finish(self, lane_slot: int, at: int) -> int:
        """It is settled, and gone: the how manyth."""
        words, area = self.words, self._area
        words[SETTLING] = at
        area[at + STATE] = DONE
        words[SETTLED_SUM] += CRC.unpack_from(area, at + VALUE_AT)[0]
        words[lane_slot + TOTAL] -= 1
        gone: int = words[GONE] + 1
        words[GONE] = gone
        return gone

    def take(self, lane_slot: int, at: int, owner: int, flags: int) -> int:
        """It is somebody's, settled, and gone, at once: an interrupt leaves none that nobody has."""
        TERMS.pack_into(self._area, at + TERMS_AT, 0, owner, 0)
        self._area[at + FLAGS] = self._area[at + FLAGS] & BROUGHT_HERE | flags
        return self.finish(lane_slot, at)

    def remove(self, lane: Lane, stretches: list[Stretch], count: int, size_bytes: int) -> bool:
        """Messages of the tree, so many, that somebody holds by rows, are settled, and gone. size_bytes: what they
        would take here: no more leave the tree with a fold than fit in here. False where there is no room. [34]
        """
        words, at, slot = self.words, self.words[HEAD], lane.slot
        last, neighbours = stretches[0]
        first = last - neighbours + 1
        goes_on = first - 1 == (words[slot + REMOVED_RANK] - 1 << 64 | words[slot + REMOVED_SEQ])
        more = len(stretches) - goes_on
        key = fmt.message_key(lane.prefix, first)
        value = packed(self.epoch, key, stretches)
        end = at + record_bytes(len(value))
        if end + words[REMOVED_BYTES] + size_bytes > END or words[RUNS] + more > MOST_RUNS:
            return False
        words[RUNS] += more
        words[REMOVED_BYTES] += size_bytes
        self._area[at : at + VALUE_AT + len(value)] = UNCLAIMED.pack(self.epoch, len(value), REMOVED, 0) + key + value
        is_alone = words[REMOVALS_END] == at
        words[HEAD] = end
        if is_alone:  # behind the head: a kill in between says that there is more than there is
            words[REMOVALS_END] = end
        words[slot + TOTAL] -= count
        words[GONE] += count
        last = stretches[-1][0]
        words[slot + REMOVED_RANK], words[slot + REMOVED_SEQ] = (last >> 64) + 1, last & _LOW
        return True

    def held_at(self, at: int) -> Held:
        """What the row of a claim is."""
        area = self._area
        _, _, _, flags, queue, rank, seq = WHOLE.unpack_from(area, at)
        token, owner, deadline_ns = TERMS.unpack_from(area, at + TERMS_AT)
        return Held(queue, rank << 64 | seq, token, owner, deadline_ns, flags & ~BROUGHT_HERE)

    def take_back(self, at: int) -> None:
        """A settlement that could not be flushed is none: the claim goes on."""
        self._area[at + STATE] = CLAIMED


_LOW = (1 << 64) - 1


def _can_come(size: int) -> bool:
    """Whether a value of so many bytes is one, and not too large."""
    return fmt.HEADER_BYTES <= size <= fmt.HEADER_BYTES + MOST_BODY_BYTES
