"""The settings of a queue: their meaning, their limits, and how they are compared with stored ones."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import attrs

from .checks import MAX_SECONDS, check_rate
from .errors import SettingsMismatch


class _Unset(enum.Enum):
    UNSET = "not named"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET
Unset = Literal[_Unset.UNSET]


def _whole(minimum: int) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not int:
            raise TypeError(f"{attribute.name} is an int, not {value!r}")
        if value < minimum:
            raise ValueError(f"{attribute.name} is at least {minimum}, not {value}")

    return check


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if type(value) is not bool:
        raise TypeError(f"{attribute.name} is a bool, not {value!r}")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if type(value) not in (int, float):
        raise TypeError(f"{attribute.name} is a number of seconds, not {value!r}")
    if not (isinstance(value, int | float) and 0 < value <= MAX_SECONDS):
        raise ValueError(
            f"{attribute.name} is a positive number of seconds up to {MAX_SECONDS:.0f} (or None), not {value}"
        )


def _seconds_to_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


@attrs.frozen
class Backoff:
    """How long a failed message waits before it lines up again: base * factor ** (failures - 1) seconds.

    maximum  seconds, at most
    jitter   0 to 1: each wait is shortened by a random part of itself up to this, so that what failed together is
             not retried together
    """

    base: float = attrs.field(default=1.0, converter=_seconds_to_float, validator=_seconds)
    factor: float = attrs.field(default=2.0, converter=_seconds_to_float)
    maximum: float = attrs.field(default=3600.0, converter=_seconds_to_float, validator=_seconds)
    jitter: float = attrs.field(default=0.5, converter=_seconds_to_float)

    @factor.validator
    def _check_factor(self, attribute: object, value: object) -> None:
        _within("factor", value, 1.0, 1e6)

    @jitter.validator
    def _check_jitter(self, attribute: object, value: object) -> None:
        _within("jitter", value, 0.0, 1.0)

    def seconds(self, failures: int) -> float:
        """The wait after so many failures."""
        wait, largest = self.maximum, math.log(self.maximum / self.base)
        if (failures - 1) * math.log(self.factor) < largest:  # else it may be beyond any float
            wait = min(self.base * self.factor ** (failures - 1), self.maximum)
        return wait * (1 - self.jitter * random.random())


@attrs.frozen
class Waits:
    """A backoff by a list: so many seconds after the first failure, the second, ...; the last one from then on."""

    waits: tuple[float, ...]

    def seconds(self, failures: int) -> float:
        """The wait after so many failures."""
        return self.waits[min(failures, len(self.waits)) - 1]


@attrs.frozen
class Named:
    """A backoff by a function of the user's: stored by its name, and given anew by every process."""

    name: str
    function: Callable[[int], float] | None = attrs.field(default=None, eq=False, repr=False)

    def seconds(self, failures: int) -> float:
        """The wait after so many failures. Raises SettingsMismatch, TypeError, ValueError."""
        if self.function is None:
            raise SettingsMismatch(
                f"the backoff of this queue is the function {self.name!r}, which this process was not given: open "
                "the queue with backoff="
            )
        wait = self.function(failures)
        if isinstance(wait, bool) or not isinstance(wait, int | float):
            raise TypeError(f"the backoff {self.name!r} returned {wait!r}: it must return a number of seconds")
        if not 0 <= wait <= MAX_SECONDS:
            raise ValueError(f"the backoff {self.name!r} returned {wait}: it must be 0 to {MAX_SECONDS:.0f} seconds")
        return float(wait)


def name_of(function: Any) -> str:
    """What a function of the user's is stored as."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _within(name: str, value: object, low: float, high: float) -> None:
    if type(value) is not float:
        raise TypeError(f"{name} is a number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} is between {low:g} and {high:g}, not {value}")


def _backoff(value: Any) -> Any:
    """Backoff, a list of seconds, a function, or what was stored for them."""
    if isinstance(value, dict):
        if "function" in value:
            return Named(value["function"])
        return _backoff(value["waits"]) if "waits" in value else Backoff(**value)
    if isinstance(value, list | tuple):
        waits = [_seconds_to_float(wait) for wait in value]
        if not waits:
            raise ValueError("backoff is a list of at least one number of seconds, or None")
        for wait in waits:
            _within("each wait in backoff", wait, 0.0, MAX_SECONDS)
        return Waits(tuple(waits))
    if callable(value) and not isinstance(value, type):
        return Named(name_of(value), value)
    return value


def _is_backoff(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, Backoff | Waits | Named):
        raise TypeError(
            f"backoff is a Backoff, a list of seconds, a function of the number of failures, or None, not {value!r}"
        )


def _one_of(*choices: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            raise ValueError(f"{attribute.name} is {' or '.join(map(repr, choices))}, not {value!r}")

    return check


def _rate(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return (value[0], _seconds_to_float(value[1]))
    return _seconds_to_float(value)


def _is_rate(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, tuple) and len(value) == 2:
        count, seconds = value
        if type(count) is not int or type(seconds) is not float:
            raise TypeError(f"rate is a number, or (count, seconds) with an int and a number, not {value!r}")
        if not (1 <= count <= 1_000_000_000 and 0 < seconds <= MAX_SECONDS):
            raise ValueError(f"rate is (count, seconds), both positive and up to 1e9, not {value!r}")
    elif value is not None:
        if type(value) is not float:
            raise TypeError(f"rate is messages per second, (count, seconds), or None, not {value!r}")
        check_rate(value)


def _limits(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _is_limits(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise TypeError(f"limits is a dict from a group (or '*' for all others) to a number, or None, not {value!r}")
    for group, limit in value.items():
        if type(group) is not str or (limit is not None and type(limit) is not int):
            raise TypeError(f"limits has str keys and int values (or None: no limit), unlike {group!r}: {limit!r}")
        if limit is not None and limit < 1:
            raise ValueError(f"each of limits is at least 1, not {limit} for {group!r}: pause the queue to stop it")


MAX_AGING: Final = 1e6


def _is_aging(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        if type(value) is not float:
            raise TypeError(f"aging is a number of seconds per step of priority, or None, not {value!r}")
        if not 1e-6 <= value <= MAX_AGING:
            raise ValueError(f"aging is between 1e-06 and {MAX_AGING:g} seconds per step of priority, not {value}")


def _or_none(check: Any) -> Any:
    return attrs.validators.optional(check)


def _maxsize(value: Any) -> Any:
    return max(value, 0) if type(value) is int else value  # as in queue.Queue: negative is unbounded


@attrs.frozen(kw_only=True)
class QueueOptions:
    """How a queue behaves; stored with it and the same for every process.

    maxsize            messages the queue holds at most, claimed ones included; 0 = no limit
    maxbytes           bytes the queue holds at most, as stored (in memory: of bytes and str bodies); 0 = no limit
    max_message_bytes  the largest body, in bytes as stored (in memory: of bytes and str)
    overflow           what a put does that finds no room: "block" (it waits), "reject" (Full at once), "drop_oldest"
                       (the first in line go), "dead_letter" (the new message becomes a dead letter)
    order              within a priority: "priority" (first in, first out) or "lifo" (last in, first out)
    aging              seconds after which a message stands one step of priority higher; None = never
    fair               groups take turns
    max_deliveries     failures after which a message is dead; None = never
    ack_timeout        seconds until a claim of a living but hung consumer is taken back (of what was prefetched, up to
                       an eighth later, at most 1 s); None = never
    backoff            how long a failed (nacked) message waits: a Backoff, a list of seconds, a function of the number
                       of failures; None = not at all
    dead_letter        keep dead messages in `queue.dead` (False: drop them)
    ttl                seconds after which a message expires that names no other; None = never
    expired            what becomes of it: "dead_letter" or "drop"
    dedup_window       seconds for which a dedup_id is remembered
    rate               messages handed out per second, evenly spaced; or (count, seconds): up to count at once, count
                       more every seconds; None = no limit
    limits             {group: messages in flight at most, "*": of all other groups}, None = no limit; else 1 of each
    codec              how bodies become bytes: "json", "pickle", or the name of the user's own
    paused             nothing is handed out: set by `Queue.pause`
    """

    maxsize: int = attrs.field(default=0, converter=_maxsize, validator=_whole(0))
    maxbytes: int = attrs.field(default=0, converter=_maxsize, validator=_whole(0))
    max_message_bytes: int = attrs.field(default=16 << 20, validator=_whole(1))
    overflow: str = attrs.field(default="block", validator=_one_of("block", "reject", "drop_oldest", "dead_letter"))
    order: str = attrs.field(default="priority", validator=_one_of("priority", "lifo"))
    aging: float | None = attrs.field(default=None, converter=_seconds_to_float, validator=_is_aging)
    fair: bool = attrs.field(default=False, validator=_flag)
    max_deliveries: int | None = attrs.field(default=5, validator=_or_none(_whole(1)))
    ack_timeout: float | None = attrs.field(default=1800.0, converter=_seconds_to_float, validator=_or_none(_seconds))
    backoff: Backoff | Waits | Named | None = attrs.field(default=None, converter=_backoff, validator=_is_backoff)
    dead_letter: bool = attrs.field(default=True, validator=_flag)
    ttl: float | None = attrs.field(default=None, converter=_seconds_to_float, validator=_or_none(_seconds))
    expired: str = attrs.field(default="dead_letter", validator=_one_of("dead_letter", "drop"))
    dedup_window: float = attrs.field(default=300.0, converter=_seconds_to_float, validator=_seconds)
    rate: float | tuple[int, float] | None = attrs.field(default=None, converter=_rate, validator=_is_rate)
    limits: dict[str, int | None] | None = attrs.field(default=None, converter=_limits, validator=_is_limits)
    codec: str = attrs.field(default="json")
    paused: bool = attrs.field(default=False, validator=_flag)

    def __attrs_post_init__(self) -> None:
        orders = {"order='lifo'": self.order == "lifo", "aging": self.aging is not None, "fair": self.fair}
        chosen = [name for name, on in orders.items() if on]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are different orders of one queue: choose one of them")
        if self.overflow == "dead_letter" and not self.dead_letter:
            raise ValueError('overflow="dead_letter" needs the dead letters that dead_letter=False drops: choose one')

    def stored_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Some of `stored`."""
        stored = self.stored()
        return {name: stored[name] for name in names}

    def stored(self) -> dict[str, Any]:
        """As JSON has it: what QueueOptions takes again."""
        fields = attrs.asdict(self, recurse=False)
        if isinstance(self.backoff, Named):
            fields["backoff"] = {"function": self.backoff.name}
        elif self.backoff is not None:
            fields["backoff"] = attrs.asdict(self.backoff)
        return fields

    def check_named(self, named: dict[str, Any], what: str) -> None:
        """Raise SettingsMismatch where `named` asks for another value than this, the stored one."""
        _check_named(self, attrs.evolve(self, **named), named, what)


def _check_named(stored: Any, wanted: Any, names: Iterable[str], what: str) -> None:
    for name in names:
        if getattr(stored, name) != getattr(wanted, name):
            raise SettingsMismatch(
                f"{what} is stored with {name}={getattr(stored, name)!r}, not {getattr(wanted, name)!r}: leave {name} "
                f"out to take what is stored, or change it for everybody with configure({name}=...)"
            )


def _inherited(value: Any) -> Any:
    return QueueOptions(**value).stored_of(value) if isinstance(value, dict) else value


@attrs.frozen(kw_only=True)
class TopicOptions:
    """How a topic behaves; stored with it and the same for every process.

    retention          "interest": a message is kept until all subscriptions that got it have settled it; "limits": it
                       is kept for replay as well, within the three limits below
    max_age            seconds for which a message is kept for replay; None = for ever
    max_messages       messages kept for replay at most; None = no limit
    max_bytes          bytes kept for replay at most, as stored (in memory: of bytes and str bodies); None = no limit
    compact            of the messages with one key (replace_key, or else the routing key) only the newest is kept for
                       replay; retention "interest" keeps that one too
    max_message_bytes, dedup_window, codec   as of a queue
    queue              options of queues, which subscriptions inherit
    """

    retention: str = attrs.field(default="interest", validator=_one_of("interest", "limits"))
    max_age: float | None = attrs.field(default=None, converter=_seconds_to_float, validator=_or_none(_seconds))
    max_messages: int | None = attrs.field(default=None, validator=_or_none(_whole(1)))
    max_bytes: int | None = attrs.field(default=None, validator=_or_none(_whole(1)))
    compact: bool = attrs.field(default=False, validator=_flag)
    max_message_bytes: int = attrs.field(default=16 << 20, validator=_whole(1))
    dedup_window: float = attrs.field(default=300.0, converter=_seconds_to_float, validator=_seconds)
    codec: str = attrs.field(default="json")
    queue: dict[str, Any] = attrs.field(factory=dict, converter=_inherited)

    def __attrs_post_init__(self) -> None:
        limits = [name for name in ("max_age", "max_messages", "max_bytes") if getattr(self, name) is not None]
        if limits and not self.keeps_for_replay:
            raise ValueError(
                f'{", ".join(limits)} limits what is kept for replay, and retention="interest" keeps nothing for it: '
                'use retention="limits"'
            )

    @property
    def keeps_for_replay(self) -> bool:
        """Whether messages stay when all subscriptions have settled them."""
        return self.retention == "limits" or self.compact

    def stored(self) -> dict[str, Any]:
        """As JSON has it: what TopicOptions takes again."""
        return attrs.asdict(self, recurse=False)

    def check_named(self, named: dict[str, Any], what: str) -> None:
        """Raise SettingsMismatch where `named` asks for another value than this, the stored one."""
        own = {name: value for name, value in named.items() if name != "queue"}
        _check_named(self, attrs.evolve(self, **own), own, what)
        wanted = named.get("queue", {})
        _check_named(QueueOptions(**self.queue), QueueOptions(**{**self.queue, **wanted}), wanted, what)


#: A dead-letter queue never loses a message by itself.
DEAD_OPTIONS: Final = QueueOptions(max_deliveries=None, dead_letter=False)


def named_options(**options: object) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not UNSET}
