"""A prepared message is decided: it goes, in the commit that puts it where it belongs, or for nothing.

Prepared messages are those of a queue of their own, and wait there until somebody is asked about them, like
messages with a delay. Who decides need not hold it: whoever is asked meanwhile finds his claim lost, as after a
seek. [24]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ..errors import AlreadyDecided
from .catalog import SEPARATOR, QueueState
from .steps import CHANGED, GONE

if TYPE_CHECKING:
    from .machine import Engine


def waiting_room(engine: Engine, key: str, name: str, target: int, named: dict[str, Any]) -> QueueState:
    """Where what is prepared for a queue (target: its number) or a topic (-1) waits. key: of either."""
    details = {"prepared_for": target, "shown": f"{name} (prepared)"}
    return engine.catalog.declare(SEPARATOR + SEPARATOR + key, named, details)


@attrs.frozen
class Decision:
    """One message is decided: a part of a commitment."""

    _queue: QueueState
    _number: int

    def check(self, txn: Any) -> int:
        """Raises AlreadyDecided."""
        if txn.place(self._queue.id, self._number) is None:
            raise self.made_before()
        return 0

    def do(self, txn: Any) -> None:
        """It goes, whoever has it."""
        queue = self._queue.id
        place = txn.place(queue, self._number)
        if place.waits:
            txn.undelay(queue, txn.delayed_key(queue, place))
            txn.notes.append((CHANGED, queue))
        else:
            txn.pull(queue, place.position)
            txn.notes.append((GONE, queue, [place.position]))

    def made_before(self) -> AlreadyDecided:
        """What it raises then."""
        return AlreadyDecided(
            f"message {self._number} of queue {self._queue.name!r} was decided already, or asked about too often: "
            "nothing was changed"
        )
