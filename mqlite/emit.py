"""A message that a function gives, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import attrs

from .queue import Queue
from .topic import Topic
from .transaction import Transaction


@attrs.frozen
class Emit:
    """A message that a pipe sends on, and what is said of it. Options as of `Queue.put` and `Topic.publish`.

    routing_key, retain and mandatory are for a topic, unique and unique_states for a queue; to give the other one
    something of these is an error (TypeError) of the message that this was made of.
    """

    body: Any
    routing_key: str = attrs.field(default="", kw_only=True)
    priority: int = attrs.field(default=0, kw_only=True)
    delay: float | None = attrs.field(default=None, kw_only=True)
    eta: datetime | float | None = attrs.field(default=None, kw_only=True)
    ttl: float | None = attrs.field(default=None, kw_only=True)
    headers: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    type: str | None = attrs.field(default=None, kw_only=True)
    group: str | None = attrs.field(default=None, kw_only=True)
    reply_to: str | None = attrs.field(default=None, kw_only=True)
    correlation_id: str | None = attrs.field(default=None, kw_only=True)
    dedup_id: str | None = attrs.field(default=None, kw_only=True)
    replace_key: str | None = attrs.field(default=None, kw_only=True)
    unique: str | None = attrs.field(default=None, kw_only=True)
    unique_states: Iterable[str] | None = attrs.field(default=None, kw_only=True)
    retain: bool = attrs.field(default=False, kw_only=True)
    mandatory: bool = attrs.field(default=False, kw_only=True)

    def send(self, target: Queue[Any] | Topic[Any], tx: Transaction) -> None:
        """Stage it. Raises TypeError, ValueError, CodecError, MessageTooLarge, ShutDown, Closed."""
        options: dict[str, Any] = {}
        for option, nothing in _OPTIONS:
            value = getattr(self, option)
            if value is not nothing and value != nothing:
                options[option] = value
        if isinstance(target, Topic):
            target.publish(self.body, priority=self.priority, tx=tx, **options)
        else:
            target.put(self.body, priority=self.priority, tx=tx, **options)


#: What is left out, and its default, where nothing is said.
_OPTIONS = [(each.name, each.default) for each in attrs.fields(Emit) if each.name not in ("body", "priority")]
