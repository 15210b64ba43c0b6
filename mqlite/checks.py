"""What may be given to a call: each check returns the value, or raises TypeError or ValueError and says what is due."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

PRIORITY_MIN: Final = -(2**31)
PRIORITY_MAX: Final = 2**31 - 1
NAME_MAX_BYTES: Final = 255
MAX_SECONDS: Final = 1e9
_NUMBERS: Final = (int, float)
LEVELS: Final = ("full", "checkpoint", "process")


def check_durability(durability: object) -> str | None:
    """One of LEVELS, or None for what is stored."""
    if durability is None or (isinstance(durability, str) and durability in LEVELS):
        return durability
    raise ValueError(
        'durability is "full" (a returned put survives a power cut), "checkpoint" (a power cut takes back the last '
        f'second or so) or "process" (a returned put survives kill -9), not {durability!r}'
    )


def check_name(name: object, what: str = "a queue's name") -> str:
    """A name: a str of 1 to 255 bytes in UTF-8, without control characters."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is a str, not {name!r}")
    if not 1 <= utf8_bytes(name, what) <= NAME_MAX_BYTES or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValueError(f"{what} has 1 to {NAME_MAX_BYTES} bytes and no control characters, unlike {name!r}")
    return name


def utf8_bytes(text: str, what: str) -> int:
    """How many bytes a text has in UTF-8. Raises ValueError where it cannot be encoded."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be encodable in UTF-8, {text!r} is not") from error


def check_priority(priority: object) -> int:
    """A signed 32-bit integer; higher is delivered first."""
    if type(priority) is not int:
        raise TypeError(f"priority is an int, not {priority!r}")
    if not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority is a signed 32-bit integer, {priority} is not")
    return priority


def check_timeout(timeout: Any) -> float | None:
    """Seconds to wait: None = for ever, 0 = do not wait."""
    if timeout is None:
        return None
    if type(timeout) not in _NUMBERS and (isinstance(timeout, bool) or not isinstance(timeout, _NUMBERS)):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return None if timeout >= threading.TIMEOUT_MAX else float(timeout)


def check_delay(delay: object, what: str = "delay") -> float:
    """Seconds to wait before something."""
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise TypeError(f"{what} is a number of seconds, not {delay!r}")
    if not 0 <= delay < 1e300:
        raise ValueError(f"{what} is at least 0 seconds, and finite")
    return float(delay)


def check_ttl(ttl: object, what: str = "ttl") -> float:
    """Seconds until something expires."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise TypeError(f"{what} is a number of seconds or None, not {ttl!r}")
    if not 0 < ttl < 1e300:
        raise ValueError(f"{what} is a positive, finite number of seconds, not {ttl}")
    return float(ttl)


def check_rate(rate: object) -> float:
    """So many per second."""
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise TypeError(f"rate is a number per second or None, not {rate!r}")
    if not 1 / MAX_SECONDS <= rate <= 1e9:
        raise ValueError(f"rate is a positive number per second up to 1e9, not {rate}")
    return float(rate)


def check_key(key: object, what: str) -> str:
    """A name that the user gives to what belongs together: a non-empty str."""
    if not isinstance(key, str):
        raise TypeError(f"{what} is a str or None, not {key!r}")
    if not key:
        raise ValueError(f"{what} is not empty: leave it out where there is none")
    return key


STATES: Final = ("delayed", "ready", "claimed", "dead")
LIVE_STATES: Final = STATES[:3]


def check_states(states: object) -> frozenset[str]:
    """Some of STATES."""
    if isinstance(states, str) or not isinstance(states, Iterable):
        raise TypeError(f"unique_states is a tuple of states, not {states!r}")
    chosen = list(states)
    if not chosen or any(state not in STATES for state in chosen):
        raise ValueError(f"unique_states are some of {', '.join(map(repr, STATES))}, not {states!r}")
    return frozenset(chosen)


def check_eta(eta: object, what: str = "eta") -> float:
    """A moment, as seconds since the epoch: an aware datetime, or that number."""
    if isinstance(eta, datetime):
        if eta.tzinfo is None:
            raise ValueError(f"{what} {eta!r} has no time zone: use datetime.now(timezone.utc), or .astimezone()")
        return eta.timestamp()
    if isinstance(eta, bool) or not isinstance(eta, int | float):
        raise TypeError(f"{what} is an aware datetime or epoch seconds, not {eta!r}")
    if not abs(eta) < 1e300:
        raise ValueError(f"{what} is a finite number of epoch seconds")
    return float(eta)


def check_count(count: object, what: str) -> int:
    """A positive int."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{what} is an int, not {count!r}")
    if count < 1:
        raise ValueError(f"{what} is at least 1, not {count}")
    return count


def check_flag(name: str, value: object) -> bool:
    """A bool."""
    if type(value) is not bool:
        raise TypeError(f"{name} is a bool, not {value!r}")
    return value
