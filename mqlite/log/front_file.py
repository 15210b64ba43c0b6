"""The bytes of the front (front.py).

The file `log.front`. Integers of the header are words of the machine, those of records are big-endian:

    0       8192   words: magic, session, epoch, open (the epoch, or 0), head, last seq, plain operations in a row, how
                   many of these open the front, runs, the last transaction of the tree, which record was settled last,
                   the sum of the checksums of those that are, messages ever settled here; then from word 64 on, 8 for
                   each queue: number + 1, messages stored, horizon (rank, seq), the rank that was put last, the place
                   behind which the last stretch of removals ends (rank + 1, seq); from word 512 on, who waits for a
                   message (claims/bench.py)
    8192    ...    records, each at a multiple of 16, up to `head`:
                   epoch u64 | size of the value u32 | state u8 | flags u8 | 0 u16 | token, owner, deadline u64 |
                   key and value as they are in the tree, or a removal (front_removals.py)
"""

from __future__ import annotations

import mmap
import os
import struct

from ..errors import StoreError
from ..system.blocks import no_room, preallocate, reserve
from ..system.environment import PAGE
from . import format as fmt

#: Room for some 1,200 messages of 100 bytes: what a processor's cache holds, and a fold of 2 ms.
AREA_BYTES = 256 << 10
#: Larger ones gain nothing here.
MOST_BODY_BYTES = AREA_BYTES // 16
#: Ends of ranks that one fold may store to, and ranks and stretches from which it may remove: each may take pages of
#: its own.
MOST_RUNS = 64
#: Pages of the log that removals of one fold may take, which are of no more bytes than the area: a leaf is a quarter
#: full at least.
GONE_PAGES = 4 * AREA_BYTES // PAGE + 2 * MOST_RUNS
#: Bytes of messages of the tree that are settled by one record, at most: what is larger gains little by one flush
#: instead of two.
MOST_REMOVED_BYTES = AREA_BYTES // 8
#: Pages of the log that one fold may take, besides half of the reserve at the very worst (space.py).
FOLD_PAGES = 64 + 8 * MOST_RUNS + 3 * 2 * AREA_BYTES // PAGE

MAGIC_WORD = 0x6D716C66726F0001
MAGIC, SESSION, EPOCH, OPEN, HEAD, SEQ, RUN, NEEDED, RUNS, BASE, SETTLING, SETTLED_SUM, GONE = range(13)
#: What is on the disk (front_flush.py).
FLUSHED, FLUSHED_GONE, FAILED, LOST, LOST_HEAD, PREPARED = range(13, 19)
#: How many more folds may have little to do before the front opens more seldom.
SPARE = 19
#: Of the removals (front_removals.py): where those end before which there is nothing else; bytes of the messages.
REMOVALS_END, REMOVED_BYTES = 20, 21
#: FLUSHED where all of the epoch is in the tree.
ALL = 1 << 62
SLOTS, SLOT_WORDS, ALL_SLOTS = 64, 8, 56
QUEUE, TOTAL, HORIZON_RANK, HORIZON_SEQ, LAST_RANK, REMOVED_RANK, REMOVED_SEQ = range(7)
BENCH = SLOTS + SLOT_WORDS * ALL_SLOTS
#: The rank of a horizon behind everything.
ENDLESS = 1 << 32

READY, CLAIMED, DONE, REMOVED = 1, 2, 3, 4
#: Flags of a record, besides those of a claim: its message is in the tree, too.
BROUGHT_HERE = 0x80
START = 8192
END = START + AREA_BYTES
RECORD = struct.Struct(">QIBBHQQQ")
#: Of one that nobody has claimed: as it is put, and as it is brought or removed, with flags.
NEW, UNCLAIMED = struct.Struct(">QIB27x"), struct.Struct(">QIBB26x")
BRIEF = struct.Struct(">QIBB")
TERMS = struct.Struct(">QQQ")
#: What BRIEF says, and the key: queue, rank, seq. INDEXED: without epoch and flags.
WHOLE, INDEXED = struct.Struct(">QIBB26xxIIQ"), struct.Struct(">8xIB28xIIQ")
#: Of a BRIEF and of TERMS, what is asked for each message.
SIZE, SIZE_AT, HOLDER = struct.Struct(">I"), 8, struct.Struct(">QQ")
STATE, FLAGS, TERMS_AT, KEY_AT = 12, 13, 16, RECORD.size
VALUE_AT = KEY_AT + fmt.MESSAGE_KEY_BYTES
#: Of a record without its body.
FIXED_BYTES = VALUE_AT + fmt.HEADER_BYTES
#: So many records there are at most, and as many claims a fold may make.
MOST_RECORDS = AREA_BYTES // (FIXED_BYTES + 3)
CRC = struct.Struct(">I")


def mapped(path: str) -> mmap.mmap:
    """The file, made if missing, with a block for each page of it: a copy may have holes."""
    preallocate(path, END)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{path!r} cannot be opened ({error.strerror}): check the store's permissions") from error
    try:
        reserve(fd, 0, END)
        return mmap.mmap(fd, END)
    except OSError as error:
        raise no_room(path, END) from error
    finally:
        os.close(fd)


def record_bytes(size: int) -> int:
    """Bytes of a record with a value of so many."""
    return VALUE_AT + size + 15 & -16
