"""How a body becomes bytes and comes back unchanged.

A payload is a tag and bytes. The tag says how this very body was encoded, so
`bytes` and `str` travel as they are under every codec.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Protocol, runtime_checkable

from .errors import CodecError

BYTES, TEXT, JSON, PICKLE, CUSTOM = range(5)
Payload = tuple[int, bytes]

_JSON_ATOMS = frozenset({str, int, float, bool, type(None)})
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@runtime_checkable
class Codec(Protocol):
    """What a user's own codec has: bytes from a body, and the body from bytes."""

    def encode(self, body: Any, /) -> bytes:
        """Bytes for `body`; whatever it raises becomes a CodecError."""

    def decode(self, data: bytes, /) -> Any:
        """The body again."""


class BodyCodec:
    """Encodes and decodes the bodies of one queue. Stateless; free for any thread.

    codec: "json" (bytes, str and JSON values, lossless), "pickle" (anything that
    pickles; read only stores you trust), or an object with `encode` and `decode`.
    """

    def __init__(self, codec: object) -> None:
        self.codec = codec
        if codec == "json" or codec == "pickle":
            self.name = str(codec)
        elif not isinstance(codec, str | type) and isinstance(codec, Codec):
            self.name = f"{type(codec).__module__}.{type(codec).__qualname__}"
        else:
            raise TypeError(f'codec is "json", "pickle" or an object with encode and decode, not {codec!r}')

    def encode(self, body: Any) -> Payload:
        """Raises CodecError, saying which part of the body cannot be carried."""
        kind = type(body)
        if kind is bytes:
            return BYTES, body
        if kind is str:
            return TEXT, body.encode("utf-8", "surrogatepass")
        if self.name == "json":
            return JSON, _encode_json(body)
        try:
            if self.name == "pickle":
                return PICKLE, pickle.dumps(body, protocol=pickle.HIGHEST_PROTOCOL)
            assert isinstance(self.codec, Codec)
            data = self.codec.encode(body)
        except Exception as error:
            raise CodecError(
                f"the codec {self.name!r} cannot encode this {kind.__name__} ({error}): put something it can carry"
            ) from error
        if not isinstance(data, bytes):
            raise CodecError(
                f"the codec {self.name!r} returned {type(data).__name__} where bytes are due: mend its encode()"
            )
        return CUSTOM, data

    def encode_all(self, bodies: Iterable[Any]) -> list[Payload]:
        """As `encode` for each; where all are bytes, as often, a quarter of its time."""
        bodies = list(bodies)
        if set(map(type, bodies)) == {bytes}:
            return list(zip(repeat(BYTES), bodies))
        return list(map(self.encode, bodies))

    def decode(self, payload: Payload) -> Any:
        """Raises CodecError where the bytes are not what this codec writes."""
        tag, data = payload
        if tag == BYTES:
            return data
        try:
            if tag == TEXT:
                return data.decode("utf-8", "surrogatepass")
            if tag == JSON:
                return json.loads(data.decode("utf-8", "surrogatepass"))
            if tag == PICKLE and self.name == "pickle":
                return pickle.loads(data)
            if tag == CUSTOM and isinstance(self.codec, Codec):
                return self.codec.decode(data)
        except Exception as error:
            raise CodecError(f"the codec {self.name!r} cannot decode a stored body ({error})") from error
        raise CodecError(f"a stored body was written by another codec than {self.name!r}")

    def decode_all(self, payloads: Sequence[Payload]) -> list[Any]:
        """As `decode` for each; where all are bytes, as often, a quarter of its time."""
        tags, data = zip(*payloads, strict=True)
        return list(data) if set(tags) == {BYTES} else list(map(self.decode, payloads))


def check_json(value: Any, what: str) -> Any:
    """`value`, if it is a JSON value that comes back unchanged. Raises CodecError."""
    try:
        _encode_json(value)
    except CodecError as error:
        raise CodecError(f"{what}: {error}") from error
    return value


def _encode_json(body: Any) -> bytes:
    try:
        text = _dumps(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(
            f"a body of type {type(body).__name__} is not bytes, str or a JSON value ({error}): convert it, or "
            "declare the queue with codec='pickle'"
        ) from error
    if type(body) not in _JSON_ATOMS:
        _check_lossless(body)
    return text.encode("utf-8", "surrogatepass")


def _check_lossless(body: Any) -> None:
    """JSON turns tuples into lists and keys into str; a body that would come back changed is refused.

    `body` was dumped before, so it has no cycles. Cost: one look at each value.
    """
    rest = [body]
    while rest:
        value = rest.pop()
        kind = type(value)
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    raise CodecError(
                        f"a dict with the key {key!r} would come back with another: JSON keys are str. Convert "
                        "it, or declare the queue with codec='pickle'"
                    )
            rest.extend(value.values())
        elif kind is list:
            rest.extend(value)
        elif kind not in _JSON_ATOMS:
            raise CodecError(
                f"a {kind.__name__} inside the body would come back as another type: convert it to a JSON value, "
                "or declare the queue with codec='pickle'"
            )
