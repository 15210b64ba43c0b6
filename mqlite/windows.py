"""Tumbling windows: how many messages of each key came in each stretch of time, and the sum of their values.

They are counted in a table, in a transaction of the caller's, with one row for each window and key that is open.
The rows are in the order of the windows, so that those that are over come first:

    number + 2**63 as u64be | key in utf-8  ->  [count, sum, min, max, late]
    "window"                                ->  {"size": ns, "over": number}

The window with a number begins at number * size. Those below `over` are over; their results are due.

W1  Who counts reads `over`, and who makes windows over writes it: so nobody counts into a window as an open one
    that another transaction closes meanwhile (Conflict).
W2  A row goes in the transaction that gives its result: so each row has one result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import attrs

from .checks import check_count, check_delay, check_eta, check_name, check_ttl
from .errors import SettingsMismatch
from .message import Message
from .table import Table
from .transaction import Transaction

Number = int | float
_ZERO: Final = 1 << 63
_FIRST, _LAST = -_ZERO, _ZERO - 1
#: Event times are within this many seconds of the epoch: their nanoseconds have 64 bits.
_MOST_SECONDS: Final = 9_000_000_000
_EPOCH = datetime.fromtimestamp(0, UTC)
_STATE: Final = "window"


@attrs.frozen(kw_only=True)
class WindowResult:
    """What was counted of one key in one window. start, end: epoch seconds, int where they are whole; the window goes
    from start up to, and without, end.

    late: counted when the window was over already. It may have had results before, and this one is to be added to
    them: count and sum by adding, min and max by taking the smaller and the greater.
    """

    start: Number
    end: Number
    key: str
    count: int
    sum: Number
    min: Number
    max: Number
    late: bool

    def as_dict(self) -> dict[str, Any]:
        """All of it, as a pipe sends it."""
        return attrs.asdict(self)


def _function(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{attribute.name} is a function, or None, not {value!r}")


def _size(value: object) -> Number:
    check_ttl(value, "size")
    assert isinstance(value, int | float)
    if not 1e-9 <= value <= 1e9:
        raise ValueError(f"size is between 1e-9 and 1e9 seconds, not {value}")
    return value


def _grace(value: object) -> float:
    if value is None:
        raise TypeError("grace is a number of seconds, not None")
    grace = check_delay(value)
    if grace > 1e9:
        raise ValueError(f"grace is at most 1e9 seconds, not {value}")
    return grace


@attrs.frozen
class TumblingWindow:
    """Windows of `size` seconds, one after the other, from k * size up to (k + 1) * size in epoch time.

        broker.pipe(sales, target=totals, name="per minute", window=TumblingWindow(60, key=shop, value=price))

    size, grace: seconds. key(message): a str of 492 bytes at most (default: its routing key, or ""); value(message):
    the number that is summed (default: 1); at(message): when it happened, as an aware datetime or in epoch seconds
    (default: when it was put). A float of epoch seconds is rounded to the microsecond. table: the name of the table
    with the counts; these windows need it for themselves (default, in a pipe: by the pipe's name).
    result(WindowResult): what a pipe sends for it, a body or an Emit (default: a dict of the fields of WindowResult).

    A window is closed, and gives a result for each of its keys, when an event has come that is later than its end by
    `grace`. A pipe also closes it when its source is idle and the clock has passed that. What comes later still is
    counted, too, and gives another result of that window, with late=True: the counts of all results always add up to
    the number of messages. An event time far ahead makes all before it late; so does, for what is worked on at that
    moment, a grace that is shorter than the work takes.

    Sums of ints are exact. Floats are added plainly, first those that are counted together and then to the row, so that
    the last digits may depend on who counts what. Values must be finite.

    Without a pipe: `add` and `close_until`, in a transaction that checks its reads; they raise what its tables raise
    (Conflict: begin anew, or use broker.run), and SettingsMismatch where the table has windows of another size.
    Frozen; free for any thread.
    """

    size: Number = attrs.field(converter=_size)
    key: Callable[[Message], str] | None = attrs.field(default=None, validator=_function, kw_only=True)
    value: Callable[[Message], Number] | None = attrs.field(default=None, validator=_function, kw_only=True)
    at: Callable[[Message], datetime | float] | None = attrs.field(default=None, validator=_function, kw_only=True)
    grace: float = attrs.field(default=0.0, converter=_grace, kw_only=True)
    table: str | None = attrs.field(default=None, kw_only=True)
    result: Callable[[WindowResult], Any] | None = attrs.field(default=None, validator=_function, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.table is not None:
            check_name(self.table, "a table's name")

    # ------------------------------------------------------------------ counting
    def add(self, tx: Transaction, message: Message) -> None:
        """Count a message. Raises what key, value and at raise; TypeError, ValueError for what they must not give."""
        self.add_many(tx, [message])

    def add_many(self, tx: Transaction, messages: Iterable[Message]) -> None:
        """Count messages, each row read and written once. As `add`; nothing is counted where one of them raises."""
        table, size_ns = self._table(tx), self._size_ns
        over = self._over(table)
        counted: dict[bytes, list[Any]] = {}
        latest_ns = None
        for message in messages:
            at_ns = self._at_ns(message)
            where = _place(at_ns // size_ns) + self._key(message)
            value = self._value(message)
            found = counted.get(where)
            if found is None:
                counted[where] = [1, value, value, value, at_ns // size_ns < over]
            else:
                _add(found, 1, value, value, value)
            latest_ns = at_ns if latest_ns is None else max(latest_ns, at_ns)
        if latest_ns is None:
            return
        for where, row in counted.items():
            stored = table.get(where)
            if stored is not None:
                _add(stored, *row[:4])
            table[where] = row if stored is None else stored
        passed = self._passed(latest_ns)
        if passed > over:
            self._set_over(table, passed)

    def _at_ns(self, message: Message) -> int:
        if self.at is None:
            return message.enqueued_ns
        at_ns = _ns(self.at(message), "at(message)")
        if not abs(at_ns) <= _MOST_SECONDS * 10**9:
            raise ValueError(f"at(message) is within {_MOST_SECONDS} seconds of the epoch, unlike {at_ns / 1e9}")
        return at_ns

    def _key(self, message: Message) -> bytes:
        key = message.routing_key or "" if self.key is None else self.key(message)
        if not isinstance(key, str):
            raise TypeError(f"key(message) is a str, not {key!r}")
        return key.encode("utf-8", "surrogatepass")

    def _value(self, message: Message) -> Number:
        if self.value is None:
            return 1
        value = self.value(message)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"value(message) is a number, not {value!r}")
        if isinstance(value, int):
            return int(value)
        if not math.isfinite(value):
            raise ValueError(f"value(message) is a finite number, not {value!r}")
        return float(value)

    # ------------------------------------------------------------------ closing
    def close_until(
        self, tx: Transaction, moment: datetime | float | None = None, limit: int | None = None
    ) -> Iterator[WindowResult]:
        """Close the windows whose end and grace have passed at `moment`: their results, in the order of the windows.

        moment: an aware datetime or epoch seconds; None: the time of the latest event that was counted. limit: how many
        results at most; the rest is for the next call. All of it is read and removed when this returns, whether the
        results are looked at or not. O(results).
        """
        if limit is not None:
            check_count(limit, "limit")
        table = self._table(tx)
        over = self._over(table)
        until = over if moment is None else self._passed(_ns(moment, "a moment"))
        found = list(islice(_rows(table, _place(until)), limit))
        for where, _ in found:
            del table[where]
        if found and until > over:
            self._set_over(table, until)
        return iter([self._result(where, row) for where, row in found])

    def next_close(self, tx: Transaction) -> float | None:
        """When the next window can be closed, in epoch seconds; None where none is open. O(1)."""
        table = self._table(tx)
        self._over(table)
        for where, _ in _rows(table, None):
            return ((_number(where) + 1) * self._size_ns + self._grace_ns) / 1e9
        return None

    def _result(self, where: bytes, row: list[Any]) -> WindowResult:
        count, total, least, most, late = row
        number, size_ns = _number(where), self._size_ns
        return WindowResult(
            start=_seconds(number * size_ns),
            end=_seconds((number + 1) * size_ns),
            key=where[8:].decode("utf-8", "surrogatepass"),
            count=count,
            sum=total,
            min=least,
            max=most,
            late=late,
        )

    # ------------------------------------------------------------------ the table
    @property
    def _size_ns(self) -> int:
        return round(self.size * 10**9)

    @property
    def _grace_ns(self) -> int:
        return round(self.grace * 10**9)

    def _passed(self, moment_ns: int) -> int:
        """Windows with smaller numbers are over at that moment."""
        return max(_FIRST, min((moment_ns - self._grace_ns) // self._size_ns, _LAST))

    def _table(self, tx: Transaction) -> Table:
        if not isinstance(tx, Transaction):
            raise TypeError(f"tx is a transaction, of mqlite.open(...).transaction(), not {tx!r}")
        if self.table is None:
            raise ValueError("a window that is used without a pipe needs the name of a table: give table=")
        return tx.table(self.table)

    def _over(self, table: Table) -> int:
        """Raises SettingsMismatch."""
        state = table.get(_STATE)
        if state is None:
            return _FIRST
        if state["size"] != self._size_ns:
            raise SettingsMismatch(
                f"table {table.name!r} has the counts of windows of {state['size'] / 1e9:g} seconds, not of "
                f"{self.size:g}: give these windows a table of their own"
            )
        return int(state["over"])

    def _set_over(self, table: Table, over: int) -> None:
        table[_STATE] = {"size": self._size_ns, "over": over}


def _add(row: list[Any], count: int, total: Number, least: Number, most: Number) -> None:
    """To a row."""
    row[:4] = row[0] + count, row[1] + total, min(row[2], least), max(row[3], most)


def _rows(table: Table, stop: bytes | None) -> Iterator[tuple[bytes, list[Any]]]:
    """The first ones, up to a place."""
    for where, row in table.range(b"", stop):
        assert isinstance(where, bytes)
        yield where, row


def _place(number: int) -> bytes:
    return (number + _ZERO).to_bytes(8, "big")


def _number(where: bytes) -> int:
    return int.from_bytes(where[:8], "big") - _ZERO


def _seconds(ns: int) -> Number:
    return ns / 10**9 if ns % 10**9 else ns // 10**9


def _ns(moment: object, what: str) -> int:
    """Raises TypeError, ValueError."""
    seconds = check_eta(moment, what)
    if isinstance(moment, datetime):
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if isinstance(moment, int):
        return moment * 10**9
    return round(seconds * 10**6) * 1000  # to the microsecond: a float has no more today, and 0.3 is a bit less
