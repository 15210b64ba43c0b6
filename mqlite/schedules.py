"""Messages that come again and again: what `Queue.schedule` stores, and what `Queue.schedules` shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from .channel import Channel
from .checks import check_key, check_ttl
from .engine import Engine, QueueState, timers
from .message import Marks, digest
from .recurrence import Recurrence


@attrs.frozen(kw_only=True)
class Schedule:
    """A schedule of a queue. next_at: when it fires next, an aware datetime in its zone; approximate for `every`."""

    name: str
    every: float | None
    cron: str | None
    zone: str
    catch_up: str
    next_at: datetime


def add(
    channel: Channel,
    rule: Recurrence,
    item: Any,
    rank: int,
    *,
    ttl: float | None,
    group: str | None,
    headers: Mapping[str, Any] | None,
    type: str | None,
) -> None:
    """Store the template of a message and the rule by which it is put. Raises what a put raises, NotSupported."""
    extras = channel.extras({"headers": headers, "type": type, "group": group}) or {}
    seconds = channel.state.options.ttl if ttl is None else check_ttl(ttl)
    if seconds is not None:
        extras["ttl"] = seconds  # it counts from each firing
    extras["recurrence"] = rule.to_json()
    marks = channel.marks(rank, group, None) or Marks()
    marks = marks._replace(timer=digest(rule.name), expires=None)
    due = (rule.line, rule.first(channel.engine.timeline.now_ns(rule.line)))
    template = channel.draft(item, extras, due, marks)
    timers.put(channel.engine, channel.state, rule.name, rank, template)


def remove(engine: Engine, queue: QueueState, name: str) -> bool:
    """Remove a schedule; whether there was one."""
    return timers.remove(engine, queue, check_key(name, "name"))


def found(engine: Engine, queue: QueueState) -> list[Schedule]:
    """All schedules of a queue, the next to fire first."""
    return [
        Schedule(
            name=rule.name,
            every=rule.every,
            cron=rule.cron,
            zone=rule.zone,
            catch_up=rule.catch_up,
            next_at=rule.next_at(due_ns),
        )
        for rule, due_ns in sorted(timers.found(engine, queue), key=lambda each: each[1])
    ]
