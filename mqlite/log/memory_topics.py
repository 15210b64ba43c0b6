"""What topics keep in memory: their bodies, by id, and their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sortedcontainers import SortedDict

from ..message import Due, Marks, Record
from . import Snapshot, TopicNumbers
from .index import Indexing, Tally
from .shelf import bytes_of


class MemoryTopics(Indexing):
    """What a log in memory has of topics. The caller holds its lock."""

    seqs: itertools.count[int]

    def __init__(self) -> None:
        self._kept: dict[int, SortedDict[int, Record]] = {}
        self._topics: dict[int, TopicNumbers] = {}
        self._references = Tally()  # of the bodies; settled at the end of `write`

    def topic_numbers(self, topic: int) -> TopicNumbers:
        """The numbers of a topic."""
        numbers = self._topics.get(topic)
        return self._topics.setdefault(topic, TopicNumbers()) if numbers is None else numbers

    def _kept_by(self, topic: int) -> SortedDict[int, Record]:
        kept = self._kept.get(topic)
        return self._kept.setdefault(topic, SortedDict()) if kept is None else kept

    def kept(self, topic: int, number: int) -> Record | None:
        """What a topic keeps under an id, or None."""
        return self._kept_by(topic).get(number)

    def all_kept(self, topic: int, start: int = 0) -> Iterator[tuple[int, Record]]:
        """All that a topic keeps, from an id on. O(log n), and O(1) each."""
        kept = self._kept_by(topic)
        for number in kept.irange(start):
            yield number, kept[number]

    def keep(self, topic: int, draft: Record) -> int:
        """Keep a body. O(log n)."""
        number = draft.id = next(self.seqs)
        numbers = self.topic_numbers(topic)
        self._references.begin(topic, number)
        self._kept_by(topic)[number] = draft
        numbers.stored += 1
        numbers.stored_bytes += bytes_of(draft.payload)
        numbers.published += 1
        numbers.last = number
        return number

    def refer(self, topic: int, number: int, change: int) -> None:
        """So many more refer to a body; told at the end of `write`."""
        self._references.add(self, topic, number, change)

    def _forget_body(self, topic: int, number: int) -> bytes | None:
        record = self._kept_by(topic).pop(number, None)
        if record is None:
            return None
        numbers = self.topic_numbers(topic)
        numbers.stored -= 1
        numbers.stored_bytes -= bytes_of(record.payload)
        return self.key_of(record)

    @staticmethod
    def refer_to(record: Record, topic: int, number: int, marks: Marks, due: Due | None) -> Record:
        """The message itself, and what counts it."""
        marks = marks._replace(source=(topic, bytes_of(record.payload)))
        return Record(record.payload, record.enqueued_ns, number, 0, 0, record.extras, due, marks)

    def decode_kept(self, topic: int, number: int, raw: Record) -> Record:
        """The record itself."""
        return raw

    def body_of(self, snapshot: Snapshot, raw: Record) -> None:
        """The record has its body."""

    def joined(self, record: Record, raw: Record) -> Record:
        """The record itself."""
        return record

    def resolved(self, snapshot: Snapshot, record: Record) -> Record:
        """The record itself: it has its body."""
        return record

    @staticmethod
    def is_reference(raw: Record) -> bool:
        """Whether a record is a reference."""
        return raw.marks is not None and raw.marks.source is not None

    @staticmethod
    def key_of(raw: Record) -> bytes | None:
        """The digest of the key of what a topic keeps."""
        return None if raw.marks is None else raw.marks.replace

    def size_of_kept(self, raw: Record) -> int:
        """Bytes of a body, as far as they are known."""
        return bytes_of(raw.payload)
