"""A rate limit shared by all processes: when the next message may be handed out.

The generic cell rate algorithm (ATM Forum, UNI 3.1, 1994), which needs one number per queue: the
time at which the bucket is full again (`pace_ns`, by the monotonic clock, among the claims). With
`interval` per message and room for `burst`, a message may go if that is no more than
(burst - 1) * interval ahead.
"""

from __future__ import annotations

from ..options import QueueOptions


def _bucket(options: QueueOptions) -> tuple[int, int]:
    """(ns per message, how far ahead the pace may be, in ns)."""
    rate = options.rate
    assert rate is not None
    count, seconds = rate if isinstance(rate, tuple) else (1, 1 / rate)
    interval_ns = max(1, round(seconds * 1e9 / count))
    return interval_ns, (count - 1) * interval_ns


def _lead(options: QueueOptions, pace_ns: int, now_ns: int) -> int:
    """How far ahead of now the pace is. What this rate cannot have left behind is of a slower one that was in force
    before: one message may go then.
    """
    interval_ns, ahead_ns = _bucket(options)
    lead_ns = max(0, pace_ns - now_ns)
    return lead_ns if lead_ns <= ahead_ns + interval_ns else ahead_ns


def allowed(options: QueueOptions, pace_ns: int, now_ns: int) -> int:
    """How many messages may go now."""
    interval_ns, ahead_ns = _bucket(options)
    return max(0, (ahead_ns - _lead(options, pace_ns, now_ns)) // interval_ns + 1)


def after(options: QueueOptions, pace_ns: int, now_ns: int, count: int) -> int:
    """The pace once `count` messages have gone."""
    return now_ns + _lead(options, pace_ns, now_ns) + count * _bucket(options)[0]


def next_ns(options: QueueOptions, pace_ns: int, now_ns: int) -> int:
    """When the next message may go; in the past, if it may go now."""
    return max(0, now_ns + _lead(options, pace_ns, now_ns) - _bucket(options)[1])
