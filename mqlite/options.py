"""The settings of a queue: their meaning, their limits, and how they are compared with stored ones."""

from __future__ import annotations

import enum
import math
import random
import threading
from datetime import datetime
from typing import Any, Final, Literal

import attrs

from .errors import SettingsMismatch

PRIORITY_MIN: Final = -(2**31)
PRIORITY_MAX: Final = 2**31 - 1
NAME_MAX_BYTES: Final = 255
MAX_SECONDS: Final = 1e9


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


def _within(name: str, value: object, low: float, high: float) -> None:
    if type(value) is not float:
        raise TypeError(f"{name} is a number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} is between {low:g} and {high:g}, not {value}")


def _backoff(value: Any) -> Any:
    """Backoff, a list of seconds, or what was stored for them."""
    if isinstance(value, dict):
        return _backoff(value["waits"]) if "waits" in value else Backoff(**value)
    if isinstance(value, list | tuple):
        waits = [_seconds_to_float(wait) for wait in value]
        if not waits:
            raise ValueError("backoff is a list of at least one number of seconds, or None")
        for wait in waits:
            _within("each wait in backoff", wait, 0.0, MAX_SECONDS)
        return Waits(tuple(waits))
    return value


def _is_backoff(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, Backoff | Waits):
        raise TypeError(f"backoff is a Backoff, a list of seconds, or None, not {value!r}")


def _or_none(check: Any) -> Any:
    return attrs.validators.optional(check)


def _maxsize(value: Any) -> Any:
    return max(value, 0) if type(value) is int else value  # as in queue.Queue: negative is unbounded


@attrs.frozen(kw_only=True)
class QueueOptions:
    """How a queue behaves; stored with it and the same for every process.

    maxsize            messages the queue holds at most, claimed ones included; 0 = no limit
    max_message_bytes  the largest body, in bytes as stored (in memory: of bytes and str)
    max_deliveries     failures after which a message is dead; None = never
    ack_timeout        seconds until a claim of a living but hung consumer is taken back; None = never
    backoff            how long a failed (nacked) message waits: a Backoff, a list of seconds; None = not at all
    dead_letter        keep dead messages in `queue.dead` (False: drop them)
    codec              how bodies become bytes: "json", "pickle", or the name of the user's own
    """

    maxsize: int = attrs.field(default=0, converter=_maxsize, validator=_whole(0))
    max_message_bytes: int = attrs.field(default=16 << 20, validator=_whole(1))
    max_deliveries: int | None = attrs.field(default=5, validator=_or_none(_whole(1)))
    ack_timeout: float | None = attrs.field(default=1800.0, converter=_seconds_to_float, validator=_or_none(_seconds))
    backoff: Backoff | Waits | None = attrs.field(default=None, converter=_backoff, validator=_is_backoff)
    dead_letter: bool = attrs.field(default=True, validator=_flag)
    codec: str = attrs.field(default="json")

    def check_named(self, named: dict[str, Any], queue: str) -> None:
        """Raise SettingsMismatch where `named` asks for another value than this, the stored one."""
        wanted = attrs.evolve(self, **named)
        for name in named:
            stored, asked = getattr(self, name), getattr(wanted, name)
            if stored != asked:
                raise SettingsMismatch(
                    f"queue {queue!r} is stored with {name}={stored!r}, not {asked!r}: leave {name} out to take "
                    "what is stored, "
                    f"or change it for everybody with configure({name}=...)"
                )


#: A dead-letter queue never loses a message by itself.
DEAD_OPTIONS: Final = QueueOptions(max_deliveries=None, dead_letter=False)


def named_options(**options: object) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not UNSET}


def check_name(name: object) -> str:
    """A name for a queue: a str of 1 to 255 bytes in UTF-8, without control characters."""
    if not isinstance(name, str):
        raise TypeError(f"a queue's name is a str, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"a queue's name must be encodable in UTF-8, {name!r} is not") from error
    if not 1 <= size <= NAME_MAX_BYTES or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValueError(f"a queue's name has 1 to {NAME_MAX_BYTES} bytes and no control characters, unlike {name!r}")
    return name


def check_priority(priority: object) -> int:
    """A signed 32-bit integer; higher is delivered first."""
    if type(priority) is not int:
        raise TypeError(f"priority is an int, not {priority!r}")
    if not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority is a signed 32-bit integer, {priority} is not")
    return priority


def check_timeout(timeout: object) -> float | None:
    """Seconds to wait: None = for ever, 0 = do not wait."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return None if timeout >= threading.TIMEOUT_MAX else float(timeout)


def check_delay(delay: object) -> float:
    """Seconds to wait before something."""
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise TypeError(f"delay is a number of seconds or None, not {delay!r}")
    if not 0 <= delay < 1e300:
        raise ValueError("delay is at least 0 seconds, and finite")
    return float(delay)


def check_eta(eta: object) -> float:
    """A moment, as seconds since the epoch: an aware datetime, or that number."""
    if isinstance(eta, datetime):
        if eta.tzinfo is None:
            raise ValueError(f"eta {eta!r} has no time zone: use datetime.now(timezone.utc), or .astimezone()")
        return eta.timestamp()
    if isinstance(eta, bool) or not isinstance(eta, int | float):
        raise TypeError(f"eta is an aware datetime or epoch seconds, not {eta!r}")
    if not abs(eta) < 1e300:
        raise ValueError("eta is a finite number of epoch seconds")
    return float(eta)


def check_count(count: object, what: str) -> int:
    """A positive int."""
    if type(count) is not int:
        raise TypeError(f"{what} is an int, not {count!r}")
    if count < 1:
        raise ValueError(f"{what} is at least 1, not {count}")
    return count
