"""The write transaction that brings what is in the front to the tree. [29] [30]"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from . import counting
from . import format as fmt
from .front_contents import Contents, Share
from .front_file import GONE_PAGES
from .lmdb_txn import LmdbTxn

#: Places that are looked for at once: where a few of them are claimed still, most are neighbours.
_STRETCH = 32


class _Counted:
    """For removals whose pages are counted: they take none."""

    tight = False

    def remove(self) -> None:
        """One."""

    def remove_run(self, sizes: Sequence[int]) -> None:
        """Neighbours."""

    def store(self, size_bytes: int, values: int = 1) -> None:
        """What is said of a damaged one, instead of it."""


class FoldTxn(LmdbTxn):
    """One fold."""

    def take_in(self, epoch: int, contents: Contents) -> None:
        """All of it. O(log n) each, and mostly O(1)."""
        for queue, share in contents.shares.items():
            if share.keys or share.sizes:
                self._take_in(queue, share)
        self._take_out(contents.shares)
        if contents.last_seq:
            self.next_seq()
            self._seq = max(self._seq - 1, contents.last_seq)
        self.changed = True
        self._usage.store(64)
        self._txn.put(fmt.FOLDED_KEY, fmt.packed_folded(epoch))

    def _take_in(self, queue: int, share: Share) -> None:
        counters = self.counters(queue)
        if queue not in self._put_to:
            self._put_to.add(queue)
            self._txn.delete(counting.put_key(queue))
        if share.keys:
            pairs = sorted(zip(share.keys, share.values, strict=True))
            runs = 1
            if pairs[0][0][: fmt.RANK_END] != pairs[-1][0][: fmt.RANK_END]:
                ranks = [key[: fmt.RANK_END] for key, _ in pairs]
                runs += sum(map(bytes.__ne__, ranks, islice(ranks, 1, None)))
            self._usage.store_runs(sum(map(len, share.values)), len(pairs), runs)
            walk: Any = self._txn.cursor()
            is_last = runs == 1 and walk.last() and walk.key() < pairs[0][0]
            walk.putmulti(pairs, append=is_last)
        removed = share.removed()
        for number, size, total in (share.stored(), removed):
            counters.put_total += number
            counters.put_bytes += size
            if counters.put_sum >= 0:
                counters.put_sum += total
        number, size, total = removed
        if number:
            counters.removed_total += number
            counters.removed_bytes += size
            counters.removed_sum += total
            self._removed_from.add(queue)

    def _take_out(self, shares: dict[int, Share]) -> None:
        """Messages that were settled in the front. They lie among those that were brought with them, or in few
        stretches, so on few pages, however many they are: these are counted, and not each message.
        """
        gone = {queue: sorted(share.gone + share.rows) for queue, share in shares.items() if share.gone or share.rows}
        taken = {queue: share.taken for queue, share in shares.items() if share.taken}
        if not gone and not taken:
            return
        self._usage.store(0, GONE_PAGES // 4)
        usage: Any = self._usage
        self._usage = _Counted()  # type: ignore[assignment]
        for queue, places in gone.items():
            for start in range(0, len(places), _STRETCH):
                stretch = places[start : start + _STRETCH]
                if not self.remove_all(queue, stretch):  # one that is not there was taken back by a power cut
                    for place in stretch:
                        self.remove(queue, place)
        self._usage = usage
        for queue, messages in taken.items():
            self._take_out_known(queue, messages)

    def _take_out_known(self, queue: int, messages: list[tuple[bytes, int, int]]) -> None:
        """The same of those that were copied to the front, so that they need not be read again (0.25 us each): the tree
        has them as they are here, since it did not change while the front was open [29]. None of them has marks.
        """
        keys, sizes, sums = zip(*messages, strict=True)
        for key in keys:
            self._txn.delete(key)
        counters = self.counters(queue)
        counters.removed_total += len(keys)
        counters.removed_bytes += sum(sizes)
        counters.removed_sum += sum(sums)
        self._removed_from.add(queue)
