"""A table: a durable mapping of the user's own, in a transaction or by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, Protocol, TypeVar

from .codecs import BodyCodec, Payload
from .errors import MessageTooLarge, StoreCorrupted
from .keys import Key, bounds, packed, prefixed, unpacked

T = TypeVar("T")
VALUE_MAX_BYTES = 16 << 20
_codec = BodyCodec("json")
_MISSING: Any = object()


def encoded(value: Any) -> Payload:
    """Raises CodecError, MessageTooLarge."""
    payload = _codec.encode(value)
    if len(payload[1]) > VALUE_MAX_BYTES:
        raise MessageTooLarge(
            f"a value of {len(payload[1])} bytes is larger than a table takes ({VALUE_MAX_BYTES}): store it elsewhere, "
            "or in parts"
        )
    return payload


def decoded(payload: Payload) -> Any:
    """The value again."""
    return _codec.decode(payload)


class Rows(Protocol):
    """Where a table reads and writes."""

    def is_of(self, tx: object) -> bool: ...  # noqa: D102
    def get(self, table: str, key: bytes) -> Payload | None: ...  # noqa: D102
    def count(self, table: str) -> int: ...  # noqa: D102
    def version(self, table: str, key: bytes) -> int: ...  # noqa: D102
    def scan(  # noqa: D102
        self, table: str, start: bytes, stop: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, Payload]]: ...
    def put(self, table: str, key: bytes, payload: Payload | None) -> None: ...  # noqa: D102
    def clear(self, table: str) -> None: ...  # noqa: D102


class Table(MutableMapping[Key, Any]):
    """Rows by key, in the order of the keys: ints, then bytes, then texts. From `Transaction.table`.

    Keys are str, bytes, or int of 64 bits, of 500 bytes at most; values are bytes, str and JSON values. What is read is
    a copy. A table is made by the first commit that writes to it.

    Reads see what the transaction has written. They raise Conflict where they would show another state of the store
    than what was read before, and Closed once it is finished. Raises TypeError, ValueError, CodecError,
    MessageTooLarge for keys and values that cannot be stored, StoreCorrupted for a row that does not match its
    checksum, until it is set or deleted. Cost: a read is a short snapshot, O(log n); a write only notes what to do.
    """

    def __init__(self, name: str, rows: Rows) -> None:
        self._name = name
        self._rows = rows

    def _reach(self) -> Rows:
        return self._rows

    @property
    def name(self) -> str:
        """The table's name."""
        return self._name

    def is_of(self, tx: object) -> bool:
        """Whether it is a table of that transaction."""
        return self._reach().is_of(tx)

    def __repr__(self) -> str:
        return f"<mqlite.Table {self._name!r}>"

    def __getitem__(self, key: Key) -> Any:
        payload = self._reach().get(self._name, packed(key))
        if payload is None:
            raise KeyError(key)
        return decoded(payload)

    def __contains__(self, key: object) -> bool:
        return self._reach().get(self._name, packed(key)) is not None  # type: ignore[arg-type]

    def __setitem__(self, key: Key, value: Any) -> None:
        self._reach().put(self._name, packed(key), encoded(value))

    def __delitem__(self, key: Key) -> None:
        where = packed(key)
        with contextlib.suppress(StoreCorrupted):  # there is one, and it goes
            if self._reach().get(self._name, where) is None:
                raise KeyError(key)
        self._reach().put(self._name, where, None)

    def __len__(self) -> int:
        return self._reach().count(self._name)

    def __iter__(self) -> Iterator[Key]:
        return (unpacked(key) for key, _ in self._reach().scan(self._name, b"", None, False))

    def items(self) -> ItemsView[Key, Any]:
        """The (key, value) pairs; read in steps, as `range`."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """The values; read in steps, as `range`."""
        return _Values(self)

    def clear(self) -> None:
        """Remove all rows, also damaged ones. O(n)."""
        self._reach().clear(self._name)

    def __reversed__(self) -> Iterator[Key]:
        return (unpacked(key) for key, _ in self._reach().scan(self._name, b"", None, True))

    def range(
        self, start: Key | None = None, stop: Key | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[Key, Any]]:
        """(key, value) of the keys from start up to, and without, stop; the greatest first if `reverse`.

        With one of the two, keys of its type. Read in steps of 256 as it is used. Raises TypeError where they are of
        two types.
        """
        return self._scan(bounds(start, stop), reverse)

    def prefix(self, prefix: str | bytes, *, reverse: bool = False) -> Iterator[tuple[Key, Any]]:
        """(key, value) of the keys that begin with a str or with bytes. As `range`."""
        return self._scan(prefixed(prefix), reverse)

    def _scan(self, between: tuple[bytes, bytes | None], reverse: bool) -> Iterator[tuple[Key, Any]]:
        for key, payload in self._reach().scan(self._name, *between, reverse):
            yield unpacked(key), decoded(payload)

    def version(self, key: Key) -> int:
        """A number that is another one after each commit that writes the key; 0 where there is none.

        Without what this transaction has written.
        """
        return self._reach().version(self._name, packed(key))


class _Items(ItemsView[Key, Any]):
    _mapping: Table

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return self._mapping.range()


class _Values(ValuesView[Any]):
    _mapping: Table

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.range())


class OpenTable(Table):
    """A table of which each operation is a transaction by itself. From `Broker.table`.

    A write is one commit; `pop`, `setdefault`, `update` and `clear` are one commit each, too. Iterating reads as it
    goes, 256 rows at a time.
    """

    def __init__(
        self, name: str, rows: Rows, check: Callable[[], None], run: Callable[[Callable[[Table], Any]], Any]
    ) -> None:
        super().__init__(name, rows)
        self._check = check
        self._run = run

    def _reach(self) -> Rows:
        self._check()
        return self._rows

    def __setitem__(self, key: Key, value: Any) -> None:
        self._run(lambda table: table.__setitem__(key, value))

    def __delitem__(self, key: Key) -> None:
        self._run(lambda table: table.__delitem__(key))

    def pop(self, key: Key, default: Any = _MISSING) -> Any:
        """Remove a key; its value, or `default`. Raises KeyError without one."""
        return self._run(lambda table: table.pop(key) if default is _MISSING else table.pop(key, default))

    def popitem(self) -> tuple[Key, Any]:
        """Remove some row. Raises KeyError where there is none."""
        found: tuple[Key, Any] = self._run(lambda table: table.popitem())
        return found

    def setdefault(self, key: Key, default: Any = None) -> Any:
        """The value of a key, which is made if it is not there."""
        return self._run(lambda table: table.setdefault(key, default))

    def update(self, *others: Any, **more: Any) -> None:
        """Set many keys."""
        self._run(lambda table: table.update(*others, **more))

    def clear(self) -> None:
        """Remove all rows."""
        self._run(lambda table: table.clear())
