"""The numbers that the log keeps of queues, topics and tables. How they are stored: counting.py, rows.py."""

from __future__ import annotations

import attrs

#: (settings version, how many things wait for a time to line up, how many messages expire, how many belong to groups)
Gauges = tuple[int, int, int, int]


@attrs.define
class Counters:
    """Exact numbers of one queue, changed in the same commit as its messages.

    put and removed only grow; a message that moves between places counts as both. The others
    say what there is now: delayed, messages that wait for their time, which are among `total`;
    grouped, expiring, entries of those indexes; timers, schedules, which are not among `total`; feeds, 1 while
    a topic has something to replay to this queue.

    The difference of the sums is the sum of the checksums of what there is, schedules too, modulo 2^63: it tells
    whether pages of different commits were mixed, where all numbers happen to agree. put_sum is negative where it is
    not known.
    """

    put_total: int = 0
    put_bytes: int = 0
    removed_total: int = 0
    removed_bytes: int = 0
    settings_version: int = 0
    delayed: int = 0
    grouped: int = 0
    expiring: int = 0
    timers: int = 0
    feeds: int = 0
    put_sum: int = attrs.field(default=0, eq=False)
    removed_sum: int = attrs.field(default=0, eq=False)

    def copy(self) -> Counters:
        """The same numbers, to be changed."""
        return Counters(
            self.put_total,
            self.put_bytes,
            self.removed_total,
            self.removed_bytes,
            self.settings_version,
            self.delayed,
            self.grouped,
            self.expiring,
            self.timers,
            self.feeds,
            self.put_sum,
            self.removed_sum,
        )

    @property
    def gauges(self) -> Gauges:
        """What a claimer asks first."""
        return self.settings_version, self.delayed + self.timers + self.feeds, self.expiring, self.grouped

    @property
    def total(self) -> int:
        """Messages stored now."""
        return self.put_total - self.removed_total

    @property
    def bytes(self) -> int:
        """Bytes stored now."""
        return self.put_bytes - self.removed_bytes


@attrs.define
class TopicNumbers:
    """Exact numbers of one topic, changed in the same commit as what it keeps.

    version grows with every change of the topic's options or members, parted with each member that goes. stored:
    bodies that are kept, for whatever reason. retained: those that are kept for replay; none before the id `first`; up
    to `trimmed`, put at trimmed_ns, some have gone. last: the newest id. forgettable: entries of FORGOTTEN; removed:
    subscriptions among REMOVED; feeds: entries of FEED.
    """

    version: int = 0
    stored: int = 0
    stored_bytes: int = 0
    first: int = 0
    retained: int = 0
    retained_bytes: int = 0
    trimmed: int = 0
    trimmed_ns: int = 0
    last: int = 0
    published: int = 0
    forgettable: int = 0
    removed: int = 0
    parted: int = 0
    feeds: int = 0


@attrs.frozen
class TableNumbers:
    """Exact numbers of one table, changed in the same commit as its rows: they are replaced, never changed themselves.

    version: that of the last change, also where it removed a row; bytes: of keys and of values as they are stored;
    sum: of the checksums of the rows, modulo 2^63, negative where it is not known.
    """

    version: int = 0
    count: int = 0
    bytes: int = 0
    sum: int = attrs.field(default=0, eq=False)

    def changed(self, version: int, count: int, size: int, change: int | None = 0) -> TableNumbers:
        """With so many more rows and bytes. Never below zero: a flipped bit may have moved a row into another table.
        change: of the sum; None: it is not known any more.
        """
        total = -1 if change is None or self.sum < 0 else (self.sum + change) % (1 << 63)
        return TableNumbers(version, max(0, self.count + count), max(0, self.bytes + size), total)
