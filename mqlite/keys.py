"""How a key of a table becomes bytes, whose order is that of the keys: ints, then bytes, then texts.

01 | 2**63 + int as u64      02 | bytes      03 | utf-8
"""

from __future__ import annotations

from typing import Final

KEY_MAX_BYTES: Final = 500
_INT, _BYTES, _TEXT = b"\x01", b"\x02", b"\x03"
_ZERO: Final = 1 << 63
Key = str | bytes | int


def packed(key: Key) -> bytes:
    """Raises TypeError, ValueError."""
    if isinstance(key, str):
        data = _TEXT + key.encode("utf-8", "surrogatepass")
    elif isinstance(key, bytes):
        data = _BYTES + key
    elif isinstance(key, int) and not isinstance(key, bool):
        if not -_ZERO <= key < _ZERO:
            raise ValueError(f"an int as a key of a table has 64 bits, unlike {key}: take a str")
        return _INT + (key + _ZERO).to_bytes(8, "big")
    else:
        raise TypeError(f"a key of a table is a str, bytes or an int, not {key!r}")
    if len(data) > KEY_MAX_BYTES + 1:
        raise ValueError(f"a key of a table has {KEY_MAX_BYTES} bytes at most, not {len(data) - 1}: {key[:40]!r}...")
    return data


def unpacked(data: bytes) -> Key:
    """The key again."""
    kind = data[:1]
    if kind == _TEXT:
        return data[1:].decode("utf-8", "surrogatepass")
    return data[1:] if kind == _BYTES else int.from_bytes(data[1:], "big") - _ZERO


def bounds(start: Key | None, stop: Key | None) -> tuple[bytes, bytes | None]:
    """The range from start up to, and without, stop; with one of them, of the keys of its type. Raises TypeError."""
    if start is None and stop is None:
        return b"", None
    low = packed(start) if start is not None else b""
    high = packed(stop) if stop is not None else after_all(low[:1])
    if start is None:
        assert high is not None
        low = high[:1]
    if stop is not None and low[:1] != high[:1]:  # type: ignore[index]
        raise TypeError(f"a range begins and ends with keys of one type, not with {start!r} and {stop!r}")
    return low, high


def prefixed(prefix: str | bytes) -> tuple[bytes, bytes | None]:
    """The range of the keys that begin so. Raises TypeError, ValueError."""
    if not isinstance(prefix, str | bytes):
        raise TypeError(f"a prefix is a str or bytes, not {prefix!r}: ask for a range of ints")
    low = packed(prefix)
    return low, after_all(low)


def after_all(prefix: bytes) -> bytes | None:
    """The first bytes that come after all that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None
