"""Plain messages that come and go before they reach the tree.

A message that is put, claimed and acknowledged alone costs three transactions of LMDB, which is more than all the rest
(docs/performance.md). At level "process" it need not: nothing there waits for the disk, and what lies in a mapped file
survives a kill as what LMDB has committed does. So plain messages, one at a time, are records in one such file, and
what becomes of them is a byte in the record. All of them go to the tree at once, by `fold`, before anybody looks at it
or changes it in any other way; and those of them that are gone by then, not at all.

    open      messages may come, be claimed and be settled here. Only who holds the log's write lock (L) does so.
    fold      under L: the front is shut, what is in it goes to claims and tree, and it is empty.
    epoch     from one opening to the next. What a process remembers of the front is true for one epoch.

[29] The front is part of the log's last state. Whoever begins a write transaction of the log folds it first, under the
     same gate (`Environment.before_change`). Whoever makes rows under C alone finds it empty after C, or lets go
     and folds. Whoever reads folds before his snapshots.
[30] What was claimed here has its row, with the same token, before its message is in the tree; both before the
     front is empty. `FRONT_KEY` in the tree and `W` in the claims name the last epoch that they have taken over. So
     a fold that is cut short anywhere is done again by whoever is next under L, and nothing is done twice.
[31] Messages of a queue are claimed here in the order of their places. `horizon` is the place up to which those of the
     tree were brought here, or claimed; only what lies before it is handed out. Bringing some holds C.

The bytes are drawn in front_file.py. A byte, or an aligned word, is stored at once; `head`, and the state of a record,
are stored last. So a kill leaves each change done or not done. After a reboot recalling.py brings back what is in it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from zlib import crc32

import attrs

from ..errors import MqliteError
from ..message import Position
from ..system.environment import Environment
from . import InLine
from . import format as fmt
from .front_contents import Contents, contents_of
from .front_file import (
    ALL_SLOTS,
    AREA_BYTES,
    BASE,
    BENCH,
    BRIEF,
    BROUGHT_HERE,
    CLAIMED,
    CRC,
    DONE,
    END,
    ENDLESS,
    EPOCH,
    FLAGS,
    FOLD_PAGES,
    GONE,
    HEAD,
    HORIZON_RANK,
    HORIZON_SEQ,
    KEY_AT,
    LAST_RANK,
    MAGIC,
    MAGIC_WORD,
    MOST_BODY_BYTES,
    MOST_RUNS,
    NEEDED,
    NEW,
    OPEN,
    READY,
    RECORD,
    RUN,
    RUNS,
    SEQ,
    SESSION,
    SETTLED_SUM,
    SETTLING,
    SLOT_WORDS,
    SLOTS,
    START,
    STATE,
    TERMS,
    TERMS_AT,
    TOTAL,
    VALUE_AT,
    WHOLE,
    mapped,
    record_bytes,
)
from .lmdb_reading import LmdbLogGlance

#: How many plain operations in a row open the front; where a fold had little to do, twice as many, up to that.
FEWEST, MOST = 8, 1024
#: How often a thread lets others go on before it waits for the lock, for about a second in all; for how many seconds,
#: at first and at most.
_TRIES, _PAUSE, _LONGEST = 1000, 50e-6, 1e-3
#: As many are brought from the tree at once, if they are no larger than that together.
BROUGHT, BROUGHT_BYTES = 128, AREA_BYTES // 4


@attrs.define(eq=False)
class Lane:
    """A queue in this epoch, as this process knows it.

    slot: where its words begin. version: of its settings in the tree. in_line: nothing in the tree has a group,
    expires, or waits for its time. heap: what may be first in line, once somebody here claims. commit, deadline_ns: the
    commit of the claims as of which nothing but the line decides, and no row times out before.
    """

    number: int
    prefix: bytes
    slot: int
    version: int
    in_line: bool
    heap: list[tuple[Position, int]] | None = None
    commit: int = -2
    deadline_ns: int = 0


#: take_over(epoch, contents): the claims of the contents become rows, once for each epoch.
TakeOver = Callable[[int, Contents], None]
#: store(epoch, contents): the rest goes to the tree, once for each epoch.
Store = Callable[[int, Contents], None]


class Front:
    """One process's part in it. All but `words` is for who holds `lock`, entered with `guard`.

    task_flag: that of a claim that counts as a task when it is settled.
    """

    def __init__(
        self,
        path: str,
        environment: Environment,
        has_room: Callable[[int], bool],
        store: Store,
        take_over: TakeOver,
        task_flag: int,
    ) -> None:
        """Raises StoreFull where there are no blocks for the file, StoreError. The caller is alone in making it."""
        self._area = mapped(path)
        self.words = memoryview(self._area).cast("Q")
        self._environment = environment
        self._has_room = has_room
        self._store = store
        self._take_over = take_over
        self._task_flag = task_flag
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: nothing is known."""
        self.guard: AbstractContextManager[None] = self._environment
        self.lock = self._environment.write_lock
        self.epoch = 0
        self.lanes: dict[int, Lane] = {}
        self._heaps: dict[int, list[tuple[Position, int]]] = {}  # of the queues that are indexed up to `_seen`
        self._seen = START
        self._is_over = False

    def end(self) -> None:
        """This process is about to leave the store: nothing of it passes by from now on."""
        with self.lock, self.guard:
            self.epoch, self._is_over = 0, True

    def close(self) -> None:
        """Let go of the file; nobody passes by any more. The environment was closed before."""
        blank = memoryview(bytearray(START)).cast("Q")
        blank[HEAD], blank[NEEDED] = START, MOST
        self.words, self._area = blank, mmap.mmap(-1, mmap.PAGESIZE)  # the other is unmapped when nobody looks at it

    # ------------------------------------------------------------------ sessions
    def begin(self, session: int, folded: int) -> None:
        """The first use in a session: it is empty. folded: the epoch that the tree has taken over last. The caller is
        alone in opening the store, and has recalled what another boot has left.
        """
        words = self.words
        if words[MAGIC] == MAGIC_WORD and words[SESSION] == session:
            return
        words[OPEN], words[HEAD] = 0, START
        words[EPOCH], words[RUN], words[NEEDED] = folded, 0, FEWEST
        for place in range(BENCH, START // 8):
            words[place] = 0
        words[MAGIC] = MAGIC_WORD
        words[SESSION] = session

    def bench_words(self) -> memoryview:
        """Of claims/bench.py, changed under L only."""
        return self.words[BENCH : START // 8]

    def let_others_finish(self) -> None:
        """Before `lock` is taken, while another thread has it: not to stand in line for it. Who stands there is woken
        by each who lets go of it, needs the GIL to go on, and comes too late, as long as one thread takes it again and
        again; so those in line never get fewer. Mostly a thread has the lock at that moment only since the GIL went
        to another one in the middle. (4 threads that put and 4 that get: 16 us of processor time for each message
        instead of 40; with pauses of 50 us only 22, and 28 where they wait in line after 60 ms.)
        """
        pause = _PAUSE
        for _ in range(_TRIES):
            if not self.lock.locked():
                return
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    # ------------------------------------------------------------------ under L
    def take_gate(self) -> None:
        """Of all processes; the guard gives it back. Also where a fork has just closed the store for a while. Raises
        Closed.
        """
        self._environment.ensure_open()
        self._environment.lock_gate_quickly()

    def enter(self) -> bool:
        """Take the gate; whether messages may pass by now."""
        if not self._environment.lock_gate_quickly():
            return False
        epoch = self.words[OPEN]
        return epoch == self.epoch > 0 or self._enter_anew(epoch)

    def _enter_anew(self, epoch: int) -> bool:
        words = self.words
        if self._is_over:
            return False
        if not epoch:
            if words[RUN] < words[NEEDED] or not self._open():
                return False
            epoch = words[OPEN]
        self.lanes, self._heaps, self._seen, self.epoch = {}, {}, START, epoch
        return True

    def _open(self) -> bool:
        words = self.words
        if words[HEAD] != START:  # its fold was cut short
            self.fold()
        if not self._has_room(FOLD_PAGES):
            words[RUN], words[NEEDED] = 0, MOST
            return False
        glance = self._glance()
        if glance is None:
            words[RUN] = 0
            return False
        try:
            seq, folded, base = glance.last_seq(), glance.folded_epoch(), glance.transaction()
        finally:
            glance.end()
        for place in range(SLOTS, SLOTS + SLOT_WORDS * ALL_SLOTS, SLOT_WORDS):
            words[place] = 0
        words[SEQ], words[RUNS] = seq, 0
        words[BASE], words[SETTLING], words[SETTLED_SUM] = base, 0, 0
        # the lower half tells it from one that a power cut took back, whose records may lie behind those of this one
        words[EPOCH] = epoch = (max(words[EPOCH], folded) >> 32) + 1 << 32 | int.from_bytes(os.urandom(4))
        words[OPEN] = epoch
        return True

    def passed(self) -> int:
        """A number that grows with every message that comes or goes here. Free for anybody."""
        words = self.words
        return int(words[SEQ] + words[GONE])

    def _glance(self) -> LmdbLogGlance | None:
        """What the tree says. None where it takes no more readers: the general way does without one, or says so."""
        glance = LmdbLogGlance(self._environment)
        try:
            glance.begin()
        except MqliteError:
            return None
        return glance

    def is_empty(self) -> bool:
        """Whether nothing is in it. Free for anybody: true for what had returned before the call."""
        return bool(self.words[HEAD] == START)

    def shut(self) -> None:
        """Nobody may pass by until `reopen`, or, if this process is killed, until the next fold."""
        self.words[OPEN] = 0

    def reopen(self) -> None:
        """Of the epoch that was shut."""
        self.words[OPEN] = self.epoch

    def turn(self) -> bool:
        """It is full: fold, and open it again. Whether it is open."""
        self.fold()
        return self._enter_anew(0)

    def note_plain(self) -> None:
        """An operation that might have passed by was carried out without the front, as it was shut."""
        self.words[RUN] += 1

    def note_other(self) -> None:
        """An operation is about to be carried out that could not have passed by."""
        self.words[RUN] = 0

    # ------------------------------------------------------------------ queues
    def lane(self, number: int, version: int) -> Lane | None:
        """A queue, with these settings; None where it cannot pass by in this epoch."""
        lane = self.lanes.get(number)
        if lane is None:
            lane = self._new_lane(number)
        return lane if lane is not None and lane.version == version else None

    def _new_lane(self, number: int) -> Lane | None:
        glance = self._glance()
        if glance is None:
            return None
        try:
            counters = glance.counters(number)
            in_line = glance.is_plain(number, counters.settings_version)
        finally:
            glance.end()
        slot = self._slot_of(number, counters.total)
        if not slot:
            return None
        lane = self.lanes[number] = Lane(
            number, fmt.queue_key(fmt.MESSAGE, number), slot, counters.settings_version, in_line
        )
        return lane

    def _slot_of(self, number: int, total: int) -> int:
        words = self.words
        for place in range(SLOTS, SLOTS + SLOT_WORDS * ALL_SLOTS, SLOT_WORDS):
            if words[place] == number + 1:
                return place
            if not words[place]:
                words[place + TOTAL] = total
                words[place + HORIZON_RANK] = words[place + HORIZON_SEQ] = words[place + LAST_RANK] = 0
                words[place] = number + 1
                return place
        return 0

    def index(self, lane: Lane) -> None:
        """Keep what is first in line of a queue from now on."""
        heap: list[tuple[Position, int]] = []
        self._gather({lane.number: heap}, START, self._seen)
        self._heaps[lane.number] = lane.heap = heap  # behind that: an interrupt leaves none that lacks some

    # ------------------------------------------------------------------ messages
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
        if lane.heap is not None and self._seen == at:
            heappush(lane.heap, (rank << 64 | seq, at))
            self._seen = end
        return seq

    def bring(self, lane: Lane, found: InLine, count: int) -> bool:
        """Messages of the tree, found behind the horizon when so many were asked for: they are here, too. The front is
        shut meanwhile. False where the first of them cannot pass by.
        """
        words, at = self.words, self.words[HEAD]
        room = END - at
        brought, runs, rank = 0, words[RUNS], b""
        for key, value in zip(found.keys, found.raws, strict=True):
            size = len(value)
            room -= record_bytes(size)
            if key[: fmt.RANK_END] != rank:
                runs, rank = runs + 1, key[: fmt.RANK_END]
            if (
                room < 0
                or runs > MOST_RUNS
                or size > fmt.HEADER_BYTES + MOST_BODY_BYTES
                or size < fmt.HEADER_BYTES
                or not fmt.is_unmarked(value)
            ):
                break
            brief = RECORD.pack(self.epoch, size, READY, BROUGHT_HERE, 0, 0, 0, 0)
            self._area[at : at + VALUE_AT + size] = brief + key + value
            at += record_bytes(size)
            brought, words[RUNS] = brought + 1, runs
        if len(found.positions) < count and brought == len(found.positions):
            words[lane.slot + HORIZON_RANK] = ENDLESS
        elif brought:
            last = found.positions[brought - 1]
            words[lane.slot + HORIZON_RANK], words[lane.slot + HORIZON_SEQ] = last >> 64, last & _LOW
        else:
            return False
        words[HEAD] = at
        return True

    def horizon(self, lane: Lane) -> Position:
        """The place up to which what is in the tree is here, too."""
        words, slot = self.words, lane.slot
        return int(words[slot + HORIZON_RANK] << 64 | words[slot + HORIZON_SEQ])

    def is_exhausted(self, lane: Lane) -> bool:
        """Whether the tree has nothing more for claimers."""
        return bool(self.words[lane.slot + HORIZON_RANK] == ENDLESS)

    def first(self, lane: Lane) -> tuple[Position, int] | None:
        """(place, where it is) of what is first in line; None where nothing is, or the tree is to be asked first."""
        words, area = self.words, self._area
        head = words[HEAD]
        if self._seen < head:  # others have put
            self._gather(self._heaps, self._seen, head)
            self._seen = head
        heap, slot = lane.heap, lane.slot
        assert heap is not None
        while heap:
            found = heap[0]
            if area[found[1] + STATE] == READY:
                if found[0] > words[slot + HORIZON_RANK] << 64 | words[slot + HORIZON_SEQ]:
                    return None
                return found
            heappop(heap)
        return None

    def _gather(self, heaps: dict[int, list[tuple[Position, int]]], at: int, head: int) -> None:
        """Index what may be claimed there. Twice is once."""
        area, read = self._area, WHOLE.unpack_from
        while at < head:
            _, size, state, _, queue, rank, seq = read(area, at)
            if state == READY:
                heap = heaps.get(queue)
                if heap is not None:
                    heappush(heap, (rank << 64 | seq, at))
            at += record_bytes(size)

    def key_and_value(self, at: int) -> tuple[bytes, bytes]:
        """The message of a record, as it is in the tree."""
        area = self._area
        size = BRIEF.unpack_from(area, at)[1]
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
        return area[at + STATE] == CLAIMED and TERMS.unpack_from(area, at + TERMS_AT)[:2] == (token, owner)

    def finish(self, lane_slot: int, at: int) -> None:
        """It is settled, and gone."""
        words, area = self.words, self._area
        words[SETTLING] = at
        area[at + STATE] = DONE
        words[SETTLED_SUM] += CRC.unpack_from(area, at + VALUE_AT)[0]
        words[lane_slot + TOTAL] -= 1
        words[GONE] += 1

    def take(self, lane_slot: int, at: int, owner: int, flags: int) -> None:
        """It is somebody's, settled, and gone, at once: an interrupt leaves none that nobody has."""
        TERMS.pack_into(self._area, at + TERMS_AT, 0, owner, 0)
        self._area[at + FLAGS] = self._area[at + FLAGS] & BROUGHT_HERE | flags
        self.finish(lane_slot, at)

    # ------------------------------------------------------------------ to the tree
    def fold(self) -> None:
        """Shut the front, and bring what is in it to claims and tree. Raises StoreFull, StoreError; then all is in it
        as before, and nobody passes by until this has been done. [30]
        """
        words = self.words
        words[OPEN] = 0
        if words[HEAD] == START:
            return
        epoch = words[EPOCH]
        contents = contents_of(self._area, words[HEAD], words[SEQ], self._task_flag)
        if contents.held or contents.tasks:
            self._take_over(epoch, contents)
        self._store(epoch, contents)
        words[HEAD] = START
        if contents.count < FEWEST:
            words[RUN], words[NEEDED] = 0, min(MOST, 2 * words[NEEDED])
        else:
            words[NEEDED] = FEWEST


_LOW = (1 << 64) - 1
