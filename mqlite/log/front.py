"""Plain messages that come and go before they reach the tree.

A message that is put, claimed and acknowledged alone costs three transactions of LMDB, which is more than all the rest,
and at level "full" two flushes for each of two of them (docs/performance.md). It need not: what lies in a mapped file
survives a kill as what LMDB has committed does, and one flush brings it to the disk (front_flush.py). So plain
messages, one at a time, are records in one such file, and what becomes of them is a byte in the record. All of them go
to the tree at once, by `fold`, before anybody looks at it or changes it in any other way; and those of them that are
gone by then, not at all.

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
[34] Messages of the tree that rows hold may be settled here. Their rows go after them, in the same fold, before the
     front is empty: so until then no claimer meets them, and who finds nothing but such settlements here may make rows
     for others. `removals_end` says where these end; it is never ahead of the head while anything passes by, and
     equal only where there is nothing else.

What is done with one message is in front_records.py. The bytes are drawn in front_file.py. After a reboot recalling.py
brings back what is in it.
"""

from __future__ import annotations

import mmap
import os
import time
from _thread import get_ident
from collections.abc import Callable, Mapping, Sequence

from ..errors import MqliteError
from ..message import Position
from ..system.environment import Environment
from . import format as fmt
from .front_contents import Contents, contents_of
from .front_file import (
    ALL,
    ALL_SLOTS,
    AREA_BYTES,
    BASE,
    BENCH,
    EPOCH,
    FAILED,
    FLUSHED,
    FLUSHED_GONE,
    FOLD_PAGES,
    GONE,
    HEAD,
    HORIZON_RANK,
    HORIZON_SEQ,
    LAST_RANK,
    LOST,
    MAGIC,
    MAGIC_WORD,
    NEEDED,
    OPEN,
    PREPARED,
    REMOVALS_END,
    REMOVED_BYTES,
    REMOVED_RANK,
    REMOVED_SEQ,
    RUN,
    RUNS,
    SEQ,
    SESSION,
    SETTLED_SUM,
    SETTLING,
    SLOT_WORDS,
    SLOTS,
    SPARE,
    START,
    TOTAL,
)
from .front_flush import Flushes
from .front_records import Lane, Records
from .lmdb_reading import LmdbLogGlance

#: How many plain operations in a row open the front; where folds had little to do, twice as many, up to that.
FEWEST, MOST = 8, 1024
#: So many folds may have little to do first, or a 16th of the operations that opened the front. For when it opens,
#: other threads hold messages that they claimed before, each of which needs a commit to be settled.
_SPARE = 16
#: How often a thread lets others go on before it waits for the lock, for about a second in all; for how many seconds,
#: at first and at most, unless many do.
_TRIES, _PAUSE, _LONGEST = 1000, 50e-6, 1e-3
#: Seconds, at most, for each thread that pauses: so looking takes a part of the processor only, however many do. (3,000
#: threads get as many messages in 2 to 4 s instead of 5 to 100.)
_EACH = 100e-6
#: As many are brought from the tree at once, if they are no larger than that together.
BROUGHT, BROUGHT_BYTES = 128, AREA_BYTES // 4


#: take_over(epoch, contents): the claims of the contents become rows, once for each epoch.
TakeOver = Callable[[int, Contents], None]
#: store(epoch, contents): the rest goes to the tree, once for each epoch.
Store = Callable[[int, Contents], None]
#: let_go(rows): the rows of messages that have left the tree go, too, by queue; may be done again.
LetGo = Callable[[Mapping[int, Sequence[Position]]], None]


class Front(Records):
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
        let_go: LetGo,
        task_flag: int,
        flushed: bool,
    ) -> None:
        """Raises StoreFull where there are no blocks for the file, StoreError. The caller is alone in making it."""
        super().__init__(path, flushed)
        self._environment = environment
        self._has_room = has_room
        self._store = store
        self._take_over = take_over
        self._let_go = let_go
        self._task_flag = task_flag
        self.flushes = None
        self.after_fork()
        if flushed:
            self.flushes = Flushes(self, path)

    def after_fork(self) -> None:
        """In a forked child: nothing is known."""
        self.guard = self._environment
        self.lock = self._environment.write_lock
        self._know_nothing(0)
        self._is_over = self._has_begun = False
        self._pausing: set[int] = set()  # threads that let others finish
        if self.flushes is not None:
            self.flushes.after_fork()

    def end(self) -> None:
        """This process is about to leave the store: nothing of it passes by from now on."""
        with self.lock, self.guard:
            self.epoch, self._is_over = 0, True

    def close(self) -> None:
        """Let go of the file; nobody passes by any more. The environment was closed before."""
        blank = memoryview(bytearray(START)).cast("Q")
        blank[HEAD], blank[NEEDED] = START, MOST
        self.words, self._area = blank, mmap.mmap(-1, mmap.PAGESIZE)  # the other is unmapped when nobody looks at it
        self.flushes = None

    # ------------------------------------------------------------------ sessions
    def begin(self, session: int, folded: int) -> None:
        """The first use in a session: it is empty. folded: the epoch that the tree has taken over last. The caller is
        alone in opening the store, and has recalled what another boot has left.
        """
        words = self.words
        if words[MAGIC] == MAGIC_WORD and words[SESSION] == session:
            return
        words[OPEN], words[HEAD] = 0, START
        words[EPOCH], words[RUN], words[NEEDED], words[SPARE] = folded, 0, FEWEST, _SPARE
        words[FAILED] = words[LOST] = words[PREPARED] = 0
        words[FLUSHED], words[FLUSHED_GONE] = ALL, words[GONE]
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
        if not self.lock.locked():
            return
        pause, pausing, own = _PAUSE, self._pausing, get_ident()
        try:
            pausing.add(own)
            for _ in range(_TRIES):
                time.sleep(pause)
                if not self.lock.locked():
                    return
                pause = min(2 * pause, max(_LONGEST, len(pausing) * _EACH))
        finally:
            pausing.discard(own)

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
        if not self._has_begun and self.flushes is not None:
            if not self.flushes.has_descriptors():
                return False
            if words[HEAD] != START:
                self.fold()  # these descriptors will not tell of a flush that has failed before: so none waits by them
                epoch = 0
            self._has_begun = True
        if not epoch:
            if words[FAILED] or words[RUN] < words[NEEDED] or not self._open():
                return False
            epoch = words[OPEN]
        self._know_nothing(epoch)
        return True

    def _open(self) -> bool:
        words = self.words
        if words[HEAD] != START:  # its fold was cut short
            self.fold()
            if words[FAILED]:  # seen by the fold, if not before it; who waited for a flush now would not get any
                return False
        if not self._has_room(FOLD_PAGES):
            words[RUN], words[NEEDED] = 0, MOST
            return False
        try:
            self._environment.before_commit()  # what the tree is as of has to be on the disk
            if self.flushes is not None and not words[PREPARED]:
                self._area[START:] = bytes(AREA_BYTES)
                self.flushes.prepare()
                words[PREPARED] = 1
        except MqliteError:
            words[RUN] = 0
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
        words[REMOVALS_END], words[REMOVED_BYTES] = START, 0
        # the lower half tells it from one that a power cut took back, whose records may lie behind those of this one
        words[EPOCH] = epoch = (max(words[EPOCH], folded) >> 32) + 1 << 32 | int.from_bytes(os.urandom(4))
        words[FLUSHED] = START
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

    def has(self, epoch: int) -> bool:
        """Under L: whether what came in that epoch is here still, and not in the tree."""
        words = self.words
        return bool(words[EPOCH] == epoch and words[HEAD] != START) and not self.is_in_tree(epoch)

    def is_in_tree(self, epoch: int) -> bool:
        """Under L: whether the tree has taken that epoch over, as far as it can be read."""
        glance = self._glance()
        if glance is None:
            return False
        try:
            return glance.folded_epoch() >= epoch
        finally:
            glance.end()

    def is_empty(self) -> bool:
        """Whether nothing is in it. Free for anybody: true for what had returned before the call."""
        return bool(self.words[HEAD] == START)

    def hides_nothing(self) -> bool:
        """Whether nothing is in it that claimers would miss in the tree. For who holds C: nothing that was put before
        he had it.
        """
        words = self.words
        end = words[REMOVALS_END]  # before the head: it never goes back while that goes on
        return bool(words[HEAD] in (START, end))

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

    def note_plain(self, count: int = 1) -> None:
        """Operations that might have passed by were carried out without the front, as it was shut."""
        self.words[RUN] += count

    def note_other(self) -> None:
        """An operation was carried out that could not have passed by."""
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
                words[place + REMOVED_RANK] = words[place + REMOVED_SEQ] = 0
                words[place] = number + 1
                return place
        return 0

    # ------------------------------------------------------------------ to the tree
    def fold(self) -> None:
        """Shut the front, and bring what is in it to claims and tree. Raises StoreFull, StoreError; then all is in it
        as before, and nobody passes by until this has been done. [30]
        """
        words = self.words
        words[OPEN] = 0
        if words[FAILED] and self.flushes is not None:
            self.flushes.give_up()  # who saw it fail may be dead, or be killed in the middle of it
        if words[HEAD] == START:
            return
        epoch = words[EPOCH]
        contents = contents_of(self._area, words[HEAD], words[SEQ], self._task_flag)
        if contents.held or contents.tasks:
            self._take_over(epoch, contents)
        self._store(epoch, contents)
        rows = contents.rows()
        if rows:
            self._let_go(rows)
        words[FLUSHED], words[FLUSHED_GONE] = ALL, words[GONE]
        words[HEAD] = START
        if contents.count >= FEWEST:
            words[NEEDED], words[SPARE] = FEWEST, _SPARE
        elif words[SPARE]:
            words[SPARE] -= 1
        else:
            words[RUN], words[NEEDED] = 0, min(MOST, 2 * words[NEEDED])
            words[SPARE] = words[NEEDED] // _SPARE
