"""What another boot has left in the front (front.py), read from the bytes of its file.

After a power cut each page of the file is as it was at some moment, or torn. What is in it is recalled only if all of
it is as of one moment, and follows what the tree is:

    The tree is as of the transaction after which the front was opened: nothing is committed while something is in it.
    All records up to the head are of its epoch, which no other has, and match their checksums.
    Those that are settled have the sum that is told with the head; or the one that was being settled is missing in it.

Else the store is as of the last commit of the tree, which is a state that it had. Then the file is emptied, on the
disk: a tree that was restored from a copy may come to a transaction of that number once more.

Where each operation was flushed before it returned, the first of these is enough: what had returned is whole. All else
that is whole is what somebody was about to store, or to settle, and no other epoch has the same number. But the number
and the message are not on one page always, and behind a new number there may be an old message of the same size, which
matches its checksum. Such a one has no later seq than those before it. What is brought from the tree was flushed before
it could be settled. The checksum of a removal covers the number of its epoch (front_removals.py).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from . import format as fmt
from .front_contents import Contents, Share
from .front_file import (
    BASE,
    BRIEF,
    BROUGHT_HERE,
    CLAIMED,
    DONE,
    END,
    EPOCH,
    HEAD,
    KEY_AT,
    LOST,
    LOST_HEAD,
    MAGIC,
    MAGIC_WORD,
    READY,
    REMOVED,
    SESSION,
    SETTLED_SUM,
    SETTLING,
    START,
    VALUE_AT,
    record_bytes,
)
from .front_removals import is_whole as is_removal_whole
from .front_removals import positions_in


class Found(NamedTuple):
    """A record that is whole. end: where the next one is."""

    epoch: int
    state: int
    is_brought: bool
    key: bytes
    value: bytes
    end: int

    @property
    def is_done(self) -> bool:
        """Whether its message is settled."""
        return self.state == DONE

    @property
    def is_put(self) -> bool:
        """Whether its message is not in the tree."""
        return not self.is_brought and self.state != REMOVED

    @property
    def seq(self) -> int:
        """The lower half of its place."""
        return fmt.position_of(self.key) & (1 << 64) - 1


def left_in(path: str, session: int) -> bytes | None:
    """The bytes of the file, where another session has left them; None where there is nothing of that kind."""
    try:
        with open(path, "rb") as file:
            header = file.read(START)
            if len(header) < START:
                return None
            words = memoryview(header).cast("Q")
            if words[MAGIC] != MAGIC_WORD or words[SESSION] == session or words[HEAD] == START:
                return None
            return header + file.read(END - START)
    except FileNotFoundError:
        return None


def empty(path: str, session: int) -> None:
    """What another session has left in the file is gone, also after a power cut. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        header = os.pread(fd, START, 0)
        words = memoryview(header).cast("Q") if len(header) == START else None
        if words is not None and words[MAGIC] == MAGIC_WORD and words[SESSION] != session:
            os.pwrite(fd, struct.pack("=Q", START), 8 * HEAD)
            os.fsync(fd)  # also where it says so already: that may be in memory only
    finally:
        os.close(fd)


def recalled(area: bytes, transaction: int, folded: int, last_seq: int, flushed: bool) -> tuple[int, Contents] | None:
    """(Epoch, what is in it), where a tree as of that transaction, epoch and seq is to have it. Nobody holds any of it.
    flushed: whether each operation was, before it returned.
    """
    words = memoryview(area)[:START].cast("Q")
    epoch, head, settling = words[EPOCH], _end_of(words), words[SETTLING]
    if words[BASE] != transaction or epoch <= folded or not START < head <= len(area):
        return None
    contents, at, settled = Contents(), START, 0
    last = 0
    while at < head:
        found = _record_at(area, at)
        if found is None or found.epoch != epoch or (found.is_put and found.seq <= last_seq):
            if flushed:  # nobody was told that it is stored, nor any that is behind it
                return epoch, contents
            return None
        if found.is_done:
            settled += fmt.sum_of(found.value)
            if at == settling:
                last = fmt.sum_of(found.value)
        if found.is_put:
            last_seq = found.seq
        _add(contents, found)
        at = found.end
    if not flushed and (at != head or words[SETTLED_SUM] not in (settled, settled - last)):
        return None
    return epoch, contents


def _end_of(words: memoryview) -> int:
    """Of the records; before what was not flushed, where a flush has failed and who saw it was killed in between."""
    end: int = words[HEAD]
    return min(end, words[LOST_HEAD]) if words[LOST] == words[EPOCH] else end


def saved(area: bytes, folded: int) -> tuple[dict[bytes, bytes], set[bytes]]:
    """For recovery, of a file in whatever state: messages that are whole by their keys, and keys of those of the tree
    that were settled. folded: the epoch that the tree has taken over, 0 where that is not known.
    """
    whole = list(_all_records(area))
    epoch = max((found.epoch for found in whole), default=0)
    messages: dict[bytes, bytes] = {}
    settled: set[bytes] = set()
    last_seq = 0
    for found in whole if epoch > folded else ():
        if found.epoch != epoch or (found.is_put and found.seq <= last_seq):
            continue
        if found.is_put:
            last_seq = found.seq
        if found.state == REMOVED:
            prefix = found.key[: -fmt.POSITION_BYTES]
            settled.update(fmt.message_key(prefix, position) for position in positions_in(found.value))
        elif not found.is_done:
            messages[found.key] = found.value
        elif found.is_brought:
            settled.add(found.key)
    return messages, settled


def _all_records(area: bytes) -> Iterator[Found]:
    at = START
    while at + VALUE_AT <= len(area):
        found = _record_at(area, at)
        if found is not None:
            yield found
        at = at + 16 if found is None else found.end


def _record_at(area: bytes, at: int) -> Found | None:
    """The record there, if it is whole."""
    if at + VALUE_AT > len(area):
        return None
    epoch, size, state, flags = BRIEF.unpack_from(area, at)
    end = at + VALUE_AT + size
    if end > len(area) or state not in (READY, CLAIMED, DONE, REMOVED):
        return None
    key, value = area[at + KEY_AT : at + VALUE_AT], area[at + VALUE_AT : end]
    if not key.startswith(fmt.MESSAGE):
        return None
    if not (is_removal_whole(epoch, key, value) if state == REMOVED else fmt.is_whole(key, value)):
        return None
    return Found(epoch, state, bool(flags & BROUGHT_HERE), key, value, at + record_bytes(size))


def _add(contents: Contents, found: Found) -> None:
    contents.count += found.is_done or not found.is_brought
    share = contents.shares.setdefault(int.from_bytes(found.key[1:5], "big"), Share())
    if found.state == REMOVED:
        share.gone += positions_in(found.value)  # nobody has rows any more
        return
    if found.is_brought:
        if found.is_done:
            share.gone.append(fmt.position_of(found.key))
        return
    if found.is_done:
        share.sizes.append(len(found.value))
        share.sums.append(fmt.sum_of(found.value))
    else:
        share.keys.append(found.key)
        share.values.append(found.value)
    contents.last_seq = max(contents.last_seq, found.seq)
