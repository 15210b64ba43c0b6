"""When a message that comes again and again is due: the arithmetic alone, without a clock and without a store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs

from .checks import MAX_SECONDS, NAME_MAX_BYTES
from .errors import NotSupported
from .message import utc
from .system.clock import STABLE, WALL

if TYPE_CHECKING:
    from cronsim import CronSim

CatchUp = Literal["one", "all", "skip"]

CATCH_UPS: Final = ("one", "all", "skip")
MIN_SECONDS: Final = 0.001
#: Firings that one call counts at most, so that a year of missed ones is not one enormous transaction.
MOST_AT_ONCE: Final = 256
#: A firing found later than this is left out by catch_up="skip".
LATE_NS: Final = 60_000_000_000

_SECOND_NS: Final = 1_000_000_000
_LATEST_START_NS: Final = (1 << 63) - 1  # in the year 2262: start + every still fits 64 bits
_TRIAL: Final = datetime(2000, 1, 1, tzinfo=UTC)


def _seconds_to_float(value: Any) -> Any:
    return float(value) if type(value) is int and 0 <= value <= MAX_SECONDS else value  # else it may be no float


def _one_blank(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # needs no time zone data, which a small container or Windows may not have
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a directory, such as "Europe"
        raise ValueError(
            f"zone is an IANA name such as 'Europe/Berlin', {name!r} is not known here "
            "(if it is one, this machine lacks time zone data: pip install tzdata)"
        ) from error


def _simulate(cron: str, start: datetime) -> CronSim:
    """The matches after `start`, the seconds of which are cut off."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise NotSupported(f"cron={cron!r} needs the library cronsim: pip install 'mqlite[cron]'") from error
    try:
        return CronSim(cron, start)
    except (CronSimError, ValueError) as error:  # ValueError: thousands of digits
        raise ValueError(
            f"cron is 'minute hour day-of-month month day-of-week', such as '30 2 * * MON-FRI', {cron!r} is not: "
            f"{error}"
        ) from error


def _check_expression(cron: str) -> None:
    if len(cron.split()) != 5:  # cronsim takes a sixth for the seconds, and then knows no summer time
        raise ValueError(
            f"cron has 5 fields, 'minute hour day-of-month month day-of-week', {cron!r} has {len(cron.split())}"
        )
    if next(_simulate(cron, _TRIAL), None) is None:
        raise ValueError(f"cron={cron!r} matches no day at all")


@attrs.frozen(kw_only=True)
class Recurrence:
    """A rule by which a message comes again and again: each moment at which it is due is a firing.

    name      what it is called: 1 to 255 bytes in UTF-8, without control characters
    every     seconds between two firings, 0.001 to 1e9; or else
    cron      minute, hour, day of month, month, day of week; needs `pip install 'mqlite[cron]'`. As in Debian's cron,
              the two days must both match if either begins with "*", else one is enough; 7 is Sunday, too
    zone      whose time of day cron means, an IANA name
    catch_up  what becomes of firings that nobody was there for. "one": one message for all of them. "all": one for
              each. "skip": none for what is found more than 60 s late
    start_ns  no firing before; where `every` counts from. None = from when it is set up

    Moments are ints in nanoseconds on `line`: `every` is measured on the stable line of time, cron on the wall clock.
    The firings of `every` are `due_ns + k * every` exactly, so they do not drift, however late anybody looks.

    Summer time, with cron, is kept as by Debian's cron:

        minute and hour both fixed ("30 2 * * *", "0,30 1-3 * * *"; neither begins with "*")
            Every match fires once. What falls into the skipped hour fires at its end, once for all that do (02:30 at
            03:00). The repeated hour counts the first time only, so "0 0-23 * * *" pauses for two hours there.
        minute or hour begins with "*" ("*/15 * * * *", "0 */2 * * *", "*/15 2 * * *")
            It fires whenever the clock shows a match: never in the skipped hour, twice in the repeated one.

    Two corners, for the second kind only, are not kept. Where the skipped hour begins at midnight (Havana, Cairo), an
    expression bound to some days may fire once at the end of it, although the clock shows no match. Where the clock is
    set by half an hour (Australia/Lord_Howe), one that does not fire every hour may miss firings of that day and the
    day after.

    After the wall clock was far ahead and `fire` was called then, cron is silent until the time that it already fired
    for is over.

    Raises TypeError, ValueError, and NotSupported where cron needs a library that is not installed.
    Threads: any, it does not change.
    """

    name: str = attrs.field()
    every: float | None = attrs.field(default=None, converter=_seconds_to_float)
    cron: str | None = attrs.field(default=None, converter=_one_blank)
    zone: str = attrs.field(default="UTC")
    catch_up: CatchUp = attrs.field(default="one")
    start_ns: int | None = attrs.field(default=None)
    _stored: bool = attrs.field(default=False, repr=False, eq=False)

    @name.validator
    def _check_name(self, attribute: object, value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"name is a str, not {value!r}")
        size = len(value.encode(errors="surrogatepass"))
        if not 1 <= size <= NAME_MAX_BYTES or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
            raise ValueError(
                f"name has 1 to {NAME_MAX_BYTES} bytes in UTF-8 and no control characters, unlike {value!r}"
            )

    @every.validator
    def _check_every(self, attribute: object, value: object) -> None:
        if value is None:
            return
        if type(value) not in (int, float):
            raise TypeError(f"every is a number of seconds, not {value!r}")
        if not (isinstance(value, int | float) and MIN_SECONDS <= value <= MAX_SECONDS):
            raise ValueError(f"every is between {MIN_SECONDS:g} and {MAX_SECONDS:.0f} seconds, not {value}")

    @cron.validator
    def _check_cron(self, attribute: object, value: object) -> None:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"cron is a str such as '30 2 * * MON-FRI', not {value!r}")

    @zone.validator
    def _check_zone(self, attribute: object, value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"zone is an IANA name such as 'Europe/Berlin', not {value!r}")

    @catch_up.validator
    def _check_catch_up(self, attribute: object, value: object) -> None:
        if value not in CATCH_UPS:
            raise ValueError(f"catch_up is 'one', 'all' or 'skip', not {value!r}")

    @start_ns.validator
    def _check_start(self, attribute: object, value: object) -> None:
        if value is None:
            return
        if type(value) is not int:
            raise TypeError(f"start_ns is an int, nanoseconds since the epoch, not {value!r}")
        if not 0 <= value <= _LATEST_START_NS:
            raise ValueError(f"start_ns is nanoseconds since the epoch, and before the year 2262, {value} is not")

    def __attrs_post_init__(self) -> None:
        if self.every is None and self.cron is None:
            raise TypeError(f"say when {self.name!r} fires: every=seconds, or cron='minute hour day month weekday'")
        if self.every is not None and self.cron is not None:
            raise TypeError(f"{self.name!r} has both every and cron: name one of them")
        if self.every is not None and self.zone != "UTC":
            raise ValueError(
                f"every={self.every:g} counts seconds and knows no zone: leave zone={self.zone!r} out, "
                "or say with cron at which time of day"
            )
        if not self._stored:
            self._check_here()
        object.__setattr__(self, "_stored", False)  # what attrs.evolve makes of it is checked again

    def _check_here(self) -> None:
        if self.cron is not None:
            _check_expression(self.cron)
            _zone(self.zone)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """What `to_json` gave, also where cronsim or the zone is missing: see `is_computable`."""
        return cls(**stored, stored=True)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, to be stored."""
        return attrs.asdict(self, filter=lambda attribute, _: not attribute.name.startswith("_"))

    def is_computable(self) -> bool:
        """Whether this process can tell when it fires: not if it lacks cronsim, or data on the zone.

        Cost: with cron about 0.1 ms.
        """
        try:
            self._check_here()
        except (NotSupported, ValueError):
            return False
        return True

    @property
    def line(self) -> int:
        """The line of time on which it is measured: STABLE or WALL."""
        return STABLE if self.cron is None else WALL

    def next_at(self, due_ns: int) -> datetime:
        """A firing as an aware datetime: in the zone, or in UTC where that is not known. Approximate for `every`."""
        try:
            return utc(due_ns).astimezone(_zone(self.zone))
        except ValueError:
            return utc(due_ns)

    def first(self, now_ns: int) -> int:
        """The first firing strictly after now, for a rule that has not fired yet.

        Raises NotSupported or ValueError if not `is_computable()`.
        Cost: O(1); with cron below 1 ms, a few ms if it fires once in years.
        """
        start_ns = self.start_ns
        if self.cron is not None:
            return self._match_after(now_ns if start_ns is None else max(now_ns, start_ns - 1))
        every_ns = self._every_ns()
        if start_ns is None:
            return now_ns + every_ns
        return start_ns if start_ns > now_ns else start_ns + ((now_ns - start_ns) // every_ns + 1) * every_ns

    def fire(self, due_ns: int, now_ns: int, most: int = MOST_AT_ONCE) -> tuple[int, int]:
        """What to do about the firing that was due at `due_ns`: (messages to put now, when it is due next).

        The next is after `due_ns`, whatever the clock did, so no firing comes twice; and after `now_ns`, except with
        catch_up="all" and more than `most` missed: then it is the one after these, and the caller calls again. Before
        `due_ns` there is nothing to do, and it stays due then.

        Raises NotSupported or ValueError if not `is_computable()`.
        Cost: O(1); with cron below 1 ms, with "all" for each message.
        """
        if now_ns < due_ns:
            return 0, due_ns
        if self.catch_up == "all":
            return self._each(due_ns, now_ns, most)
        if self.cron is not None:
            on_time = now_ns - due_ns <= LATE_NS or self._match_after(now_ns - LATE_NS - 1) <= now_ns
            next_ns = self._match_after(now_ns)
        else:
            since_latest_ns = (now_ns - due_ns) % self._every_ns()
            on_time = since_latest_ns <= LATE_NS
            next_ns = now_ns - since_latest_ns + self._every_ns()
        return int(on_time or self.catch_up == "one"), next_ns

    def _each(self, due_ns: int, now_ns: int, most: int) -> tuple[int, int]:
        if self.cron is None:
            every_ns = self._every_ns()
            count = min((now_ns - due_ns) // every_ns + 1, most)
            return count, due_ns + count * every_ns
        matches, count, next_ns = self._matches_after(due_ns), 0, due_ns
        while next_ns <= now_ns and count < most:
            count, next_ns = count + 1, next(matches)
        return count, next_ns

    def _every_ns(self) -> int:
        assert self.every is not None
        return round(self.every * _SECOND_NS)

    def _match_after(self, ns: int) -> int:
        return next(self._matches_after(ns))

    def _matches_after(self, ns: int) -> Iterator[int]:
        assert self.cron is not None
        start = datetime.fromtimestamp(ns // _SECOND_NS, _zone(self.zone))
        for match in _simulate(self.cron, start):
            match_ns = int(match.timestamp()) * _SECOND_NS
            if match_ns > ns:  # else begun in the second pass of a repeated hour: cronsim goes back to the first
                ns = match_ns
                yield ns
        raise ValueError(f"cron={self.cron!r} of {self.name!r} matches no day in the 50 years after {start}")
