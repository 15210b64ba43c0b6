"""Messages as a log in memory stores them: the record itself is the draft and what is stored. Nothing is encoded.

What the functions are for is said in the protocol `Log`; on disk format.py and batch.py do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from ..message import UNGROUPED, Position, Record
from . import Batch, InLine, Rest
from .shelf import Waiting, bytes_of


class MemoryRecords:
    """What a log in memory says of a draft or a stored record. Needs no lock."""

    def prepare(self, record: Record) -> Record:
        """Nothing to do."""
        return record

    @staticmethod
    def prepare_all(
        ranks: Sequence[int],
        payloads: Sequence[Any],
        times: Sequence[int],
        extras: Sequence[dict[str, Any] | None],
    ) -> Batch:
        """Nothing to do."""
        return Batch(ranks, payloads, times, extras, max(map(bytes_of, payloads), default=0), 0)

    stored_bytes = weight = staticmethod(lambda draft: bytes_of(draft.payload))
    sum_of = staticmethod(lambda raw: 0)
    is_whole = staticmethod(lambda key, raw: True)
    record_of = staticmethod(lambda draft: draft)

    def group_of(self, raw: Record) -> int:
        """The group of a record; 0 where it has none."""
        return UNGROUPED if raw.marks is None else raw.marks.group or UNGROUPED

    def decode_delayed(self, key: Waiting, raw: Record) -> tuple[int, Record]:
        """(rank, record)."""
        return key[2], raw

    def salvage_delayed(self, key: Waiting, raw: Record, now_ns: int) -> tuple[int, Record]:
        """(rank, record): memory does not rot here."""
        return key[2], raw

    #: Bytes of a body that is bytes or str, else 0: other objects have no size.
    size_of = staticmethod(bytes_of)

    @staticmethod
    def number_of(raw: Record) -> int:
        """The id of a stored message."""
        return raw.id

    @staticmethod
    def is_schedule(raw: Record) -> bool:
        """Whether a record is the template of a schedule."""
        return raw.marks is not None and raw.marks.timer is not None

    def footprint(self, draft: Record) -> int:
        """Not known, and not needed."""
        return 0

    def decode(self, queue: int, position: Position, raw: Record) -> Record:
        """The record itself."""
        return raw

    def claimed(self, queue: int, position: Position, raw: Record, failures: int, acquired: int) -> Record:
        """A record of its own."""
        return Record(
            raw.payload,
            raw.enqueued_ns,
            raw.id,
            raw.delivery_count + failures,
            raw.acquired_count + acquired,
            raw.extras,
            None,
            raw.marks,
        )

    def claimed_all(self, found: InLine) -> tuple[Sequence[Any], Iterable[Rest]]:
        """What records of their own are made of."""
        return [raw.payload for raw in found.raws], repeat(Record.rest)

    def salvage(self, queue: int, position: Position, raw: Record, now_ns: int) -> Record:
        """The record itself: memory does not rot here."""
        return raw

    @staticmethod
    def enqueued_ns(raw: Record) -> int:
        """When it was put."""
        return raw.enqueued_ns
