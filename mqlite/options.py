"""The settings of a queue: their meaning, their limits, and how they are compared with stored ones."""

from __future__ import annotations

import enum
import threading
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


def _or_none(check: Any) -> Any:
    return attrs.validators.optional(check)


def _seconds_to_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _maxsize(value: Any) -> Any:
    return max(value, 0) if type(value) is int else value  # as in queue.Queue: negative is unbounded


@attrs.frozen(kw_only=True)
class QueueOptions:
    """How a queue behaves; stored with it and the same for every process.

    maxsize            messages the queue holds at most, claimed ones included; 0 = no limit
    max_message_bytes  the largest body, in bytes as stored (in memory: of bytes and str)
    max_deliveries     failures after which a message is dead; None = never
    ack_timeout        seconds until a claim of a living but hung consumer is taken back; None = never
    dead_letter        keep dead messages in `queue.dead` (False: drop them)
    codec              how bodies become bytes: "json", "pickle", or the name of the user's own
    """

    maxsize: int = attrs.field(default=0, converter=_maxsize, validator=_whole(0))
    max_message_bytes: int = attrs.field(default=16 << 20, validator=_whole(1))
    max_deliveries: int | None = attrs.field(default=5, validator=_or_none(_whole(1)))
    ack_timeout: float | None = attrs.field(default=1800.0, converter=_seconds_to_float, validator=_or_none(_seconds))
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


def check_count(count: object, what: str) -> int:
    """A positive int."""
    if type(count) is not int:
        raise TypeError(f"{what} is an int, not {count!r}")
    if count < 1:
        raise ValueError(f"{what} is at least 1, not {count}")
    return count
