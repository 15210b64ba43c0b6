"""What the parts of the engine hand to each other: a claim, and notes on what follows a commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from ..claims import Row
from ..log import Raw, Rest
from ..message import Position, Record

if TYPE_CHECKING:
    from .catalog import QueueState

ARRIVED: Final = "arrived"  # (ARRIVED, queue[, position]): something, or just that, may be claimable now
SETTLED: Final = "settled"  # (SETTLED, claims): gone from the log, their rows may go
SETTLED_ALONE: Final = "settled alone"  # (SETTLED_ALONE, claim): the same; its row, without a group, need not go yet
FAILED: Final = "failed"  # (FAILED, claim): it goes back to its place at once
DELAYED: Final = "delayed"  # (DELAYED, queue, when to look by the monotonic clock): something will be claimable then
EXPIRES: Final = "expires"  # (EXPIRES, queue, when to look by the monotonic clock): something will expire then
DAMAGED: Final = "damaged"  # (DAMAGED, queue): a damaged message is gone, which may have held up any group
GONE: Final = "gone"  # (GONE, queue, positions): gone from the log, whoever held them; their rows may go
CHANGED: Final = "changed"  # (CHANGED, queue): everybody who waits for anything looks again


class Refused(Exception):
    """The user's filter did not want a message, which was settled."""


@attrs.define(eq=False)
class Claim:
    """A message that this process holds. Its record, or its payload (the body, encoded), is read from `raw` after the
    commit that makes the row; the rest of the record when somebody asks for it: of most messages nobody does.

    damaged: the record does not match its checksum, so nothing that it says is to be trusted.
    body: what the topic keeps of a reference, as of the claim, where that was looked up.
    commit: the number of that commit. As long as it is the last one, the row is there and as it was.
    outcome: how it was settled here, as users are told; "" while it was not. settler: an open transaction that is to
    settle it.
    at, epoch: where it is in the front, if it was claimed there, as long as that epoch lasts.
    """

    queue: QueueState
    position: Position
    row: Row
    raw: Raw
    commit: int = -2
    damaged: bool = False
    body: Raw | None = None
    payload: Any = None
    rest: Rest | None = None
    outcome: str = ""
    settler: Any = None
    at: int = 0
    epoch: int = 0
    _record: Record | None = None

    @property
    def id(self) -> int:
        """The number of the message in the store."""
        return self.record.id if self.rest is None else int(self.rest(self.raw)[1])

    @property
    def queue_name(self) -> str:
        """The name of its queue."""
        return self.queue.name

    @property
    def record(self) -> Record:
        """What is known of the message."""
        if self._record is None:
            assert self.rest is not None
            self._record = Record(self.payload, *self.rest(self.raw))
        return self._record

    @record.setter
    def record(self, record: Record) -> None:
        self._record, self.payload = record, record.payload
