"""Which messages a subscription wants, besides the pattern: conditions on their attributes, and headers."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self

import attrs

OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=", "in", "not in", "exists", "prefix")
MATCHES: Final = ("all", "any")
#: How deep lists and dicts are nested in an operand.
MAX_DEPTH: Final = 32

#: Whether a value fulfils a condition; None stands for an attribute that is missing.
_Test = Callable[[Any], bool]

_PARTS: Final = ("type", "group", "routing_key", "reply_to", "correlation_id")
_HEADERS: Final = "headers."
_ORDERINGS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NOTHING: Final[dict[str, Any]] = {}
_dumps: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


@attrs.frozen(repr=False)
class Filter:
    """Conditions that a message fulfils or not: made by `of`, asked by `accepts`.

        filter   {name: condition}, all of which must hold
          name       "type", "priority", "group", "routing_key", "reply_to", "correlation_id", or a header:
                     "headers.NAME", or NAME alone where it is none of these
          condition  a value, to be equal; (operator, operand); or a list of such pairs, all of which must hold
          operators  == != < <= > >= "in" "not in" (a list of values) "exists" (a bool) "prefix" (a str)
        headers  {name: value}, all or any (`match`) of which must be equal; with None the header only has to be there,
                 be it with the value None

    Equality is that of JSON: 1 is 1.0 and not true, a tuple is a list. What is missing or None fulfils ("exists",
    False) and nothing else. Only two numbers or two strs have an order; other values do not fulfil < <= > >=.

    Two filters are equal if they ask the same in the same way: neither order nor repetition, nor how a name or a
    condition is written, makes a difference.

    Threads: any, it does not change. Pickle: not supported, store `to_json()`.
    """

    _text: str  # what to_json gives: equal filters have equal texts
    _of_priority: tuple[_Test, ...] = attrs.field(init=False, eq=False)
    _of_parts: tuple[tuple[str, _Test], ...] = attrs.field(init=False, eq=False)
    _of_headers: tuple[tuple[str, _Test], ...] = attrs.field(init=False, eq=False)
    # None: to be there is enough
    _all_headers: tuple[tuple[str, _Test | None], ...] = attrs.field(init=False, eq=False)
    _any_header: tuple[tuple[str, _Test | None], ...] = attrs.field(init=False, eq=False)

    @classmethod
    def of(cls, filter: Mapping[str, Any] | None, headers: Mapping[str, Any] | None, match: str) -> Self | None:
        """The filter that asks for these, or None where nothing is asked.

        Raises TypeError or ValueError, saying what is due instead.
        """
        if match not in MATCHES:
            raise ValueError(f"match is 'all' or 'any', not {match!r}")
        if headers is None and match != "all":
            raise ValueError(f"match={match!r} is about headers, and none are given: add headers={{name: value}}")
        if filter is None and headers is None:
            return None
        asked = {
            "filter": None if filter is None else _plain_filter(filter),
            "headers": None if headers is None else _plain_headers(headers),
            "match": match,
        }
        return cls(_text_of(asked, "a filter"))

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        made = cls.of(**stored)
        if made is None:
            raise ValueError("a stored filter asks for nothing")
        return made

    def to_json(self) -> dict[str, Any]:
        """The arguments of `of`, written in one of the equal ways, as a plain dict to be stored."""
        stored: dict[str, Any] = json.loads(self._text)
        return stored

    def __repr__(self) -> str:
        return f"Filter({', '.join(f'{name}={value!r}' for name, value in self.to_json().items())})"

    def __attrs_post_init__(self) -> None:
        stored = self.to_json()
        of_priority: list[_Test] = []
        of_parts: list[tuple[str, _Test]] = []
        of_headers: list[tuple[str, _Test]] = []
        for name, condition in (stored["filter"] or _NOTHING).items():
            for sign, operand in _pairs(name, condition):
                test = _test(sign, operand)
                if name == "priority":
                    of_priority.append(test)
                elif name in _PARTS:
                    of_parts.append((name, test))
                else:
                    of_headers.append((name.removeprefix(_HEADERS), test))
        headers = tuple(
            (name, None if value is None else _equal(value)) for name, value in (stored["headers"] or _NOTHING).items()
        )
        set_once = partial(object.__setattr__, self)
        set_once("_of_priority", tuple(of_priority))
        set_once("_of_parts", tuple(of_parts))
        set_once("_of_headers", tuple(of_headers))
        set_once("_all_headers", headers if stored["match"] == "all" else ())
        set_once("_any_header", headers if stored["match"] == "any" else ())

    def accepts(self, priority: int, extras: dict[str, Any] | None) -> bool:
        """Whether a message fulfils it. extras: its parts as they are stored, such as "type" and "headers", if any.

        Never raises. Cost: below 1 us for a few conditions.
        """
        for test in self._of_priority:
            if not test(priority):
                return False
        if extras is None:
            extras = _NOTHING
        for name, test in self._of_parts:
            if not test(extras.get(name)):
                return False
        headers = extras.get("headers", _NOTHING)
        if not isinstance(headers, dict):
            headers = _NOTHING
        for name, test in self._of_headers:
            if not test(headers.get(name)):
                return False
        for name, wanted in self._all_headers:
            if name not in headers or not (wanted is None or wanted(headers[name])):
                return False
        for name, wanted in self._any_header:
            if name in headers and (wanted is None or wanted(headers[name])):
                return True
        return not self._any_header


# --- what may be asked: everything is checked here, and written in one way -------------------------------------------


def _plain_filter(filter: object) -> dict[str, Any]:
    if not isinstance(filter, Mapping):
        raise TypeError(f"filter is a dict of conditions by name, such as {{'type': 'order'}}, not {filter!r}")
    if not filter:
        raise ValueError("an empty filter asks for nothing: leave it out, or name a condition")
    conditions: dict[str, dict[str, Any]] = {}
    for given, condition in filter.items():
        name = _full_name(given)
        pairs = conditions.setdefault(name, {})
        for sign, operand in _pairs(given, condition):
            pair = [sign, _plain_operand(given, sign, operand)]
            pairs[_text_of(pair, f"the condition on {given!r}")] = pair
    return {name: _shortest([pairs[text] for text in sorted(pairs)]) for name, pairs in conditions.items()}


def _plain_headers(headers: object) -> dict[str, Any]:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is a dict of values by name, such as {{'region': 'eu'}}, not {headers!r}")
    if not headers:
        raise ValueError("no headers ask for nothing: leave headers out, or name one")
    for name in headers:
        if type(name) is not str:
            raise TypeError(f"a header's name is a str, not {name!r}")
    return {name: _plain_value(f"the header {name!r}", value) for name, value in headers.items()}


def _full_name(name: object) -> str:
    """A name as it is stored: what is a header's begins with "headers."."""
    if type(name) is not str:
        raise TypeError(f"filter names attributes by str, such as 'type' or 'headers.region', not {name!r}")
    if name == "priority" or name in _PARTS or (name.startswith(_HEADERS) and name != _HEADERS):
        return name
    if name in ("", _HEADERS):
        raise ValueError(f"filter names attributes, such as 'type' or 'headers.region': {name!r} names none")
    return _HEADERS + name


def _pairs(name: str, condition: object) -> Iterator[tuple[str, Any]]:
    """A condition as pairs of an operator and an operand."""
    if not isinstance(condition, list | tuple):
        yield "==", condition
        return
    single = len(condition) > 0 and isinstance(condition[0], str)
    pairs = [condition] if single else condition
    if not pairs:
        raise ValueError(f"filter[{name!r}] has no condition: name one, such as ('==', 'eu')")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(
                f"filter[{name!r}] is a value, (operator, operand) or a list of such pairs, not {condition!r}: for one "
                "of several values say ('in', [...]), for equality with a list ('==', [...])"
            )
        sign, operand = pair
        if not isinstance(sign, str) or sign not in OPERATORS:
            raise ValueError(
                f"filter[{name!r}] has no operator {sign!r}: there are {', '.join(OPERATORS)}; for one of several "
                "values say ('in', [...])"
            )
        yield sign, operand


def _shortest(pairs: list[list[Any]]) -> Any:
    """The reverse of `_pairs`."""
    if len(pairs) > 1:
        return pairs
    sign, operand = pairs[0]
    return operand if sign == "==" and not isinstance(operand, list) else pairs[0]


def _plain_operand(name: str, sign: str, operand: object) -> Any:
    what = f"filter[{name!r}]: the operand of {sign!r}"
    if sign == "exists":
        if not isinstance(operand, bool):
            raise TypeError(f"{what} is True or False, not {operand!r}")
        return operand
    if sign == "prefix":
        if type(operand) is not str:
            raise TypeError(f"{what} is a str, not {operand!r}")
        return operand
    if sign in _ORDERINGS:
        if type(operand) not in (int, float, str):
            raise TypeError(f"{what} is a number or a str, not {operand!r}")
        return _plain_value(what, operand)
    if sign in ("in", "not in"):
        if not isinstance(operand, list | tuple):
            raise TypeError(f"{what} is a list of values, not {operand!r}")
        values = {_text_of(value, what): value for value in (_some_value(what, each) for each in operand)}
        return [values[text] for text in sorted(values)]
    return _some_value(what, operand)


def _some_value(what: str, value: object) -> Any:
    if value is None:
        raise ValueError(
            f"{what} is never None, which stands for what is missing: say ('exists', False) or ('exists', True)"
        )
    return _plain_value(what, value)


def _plain_value(what: str, value: object, depth: int = 0) -> Any:
    """A JSON value; equal ones become the same."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is int:
        return value
    if isinstance(value, float) and kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{what} is a JSON value, which {value!r} is not: numbers are finite")
        return int(value) if value.is_integer() else value
    if depth == MAX_DEPTH:
        raise ValueError(f"{what} is nested more than {MAX_DEPTH} deep: make it flatter")
    if isinstance(value, list | tuple):
        return [_plain_value(what, each, depth + 1) for each in value]
    if isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{what} is a JSON value, the keys of which are str, not {key!r}")
        return {key: _plain_value(what, each, depth + 1) for key, each in value.items()}
    raise TypeError(f"{what} is a JSON value, not a {kind.__name__}: convert {value!r} to one")


def _text_of(value: object, what: str) -> str:
    """The one text of a value that `_plain_value` let pass."""
    try:
        text = _dumps(value)
        text.encode()
    except ValueError as error:  # a surrogate, or an int of thousands of digits
        raise ValueError(f"{what} cannot be stored as JSON in UTF-8: {error}") from error
    return text


# --- what is asked, as functions of a value --------------------------------------------------------------------------


def _test(sign: str, operand: Any) -> _Test:
    if sign == "exists":
        return _is_there if operand else _is_missing
    if sign == "prefix":
        return lambda value: isinstance(value, str) and value.startswith(operand)
    if sign in _ORDERINGS:
        return _ordered(_ORDERINGS[sign], operand)
    test = _one_of(operand) if sign in ("in", "not in") else _equal(operand)
    if sign in ("!=", "not in"):
        return lambda value: value is not None and not test(value)
    return test


def _is_there(value: object) -> bool:
    return value is not None


def _is_missing(value: object) -> bool:
    return value is None


def _ordered(compare: Callable[[Any, Any], bool], operand: Any) -> _Test:
    if isinstance(operand, str):
        return lambda value: isinstance(value, str) and compare(value, operand)
    return lambda value: (
        isinstance(value, int | float) and value is not True and value is not False and compare(value, operand)
    )


def _equal(operand: Any) -> _Test:
    if isinstance(operand, str):
        return partial(operator.eq, operand)
    if isinstance(operand, bool):
        return partial(operator.is_, operand)
    return partial(_is_same, operand)


def _is_same(operand: Any, value: Any) -> bool:
    """Whether two JSON values are equal; to Python, True would be 1. As deep as the operand is, and no deeper."""
    if isinstance(operand, list):
        return isinstance(value, list) and len(value) == len(operand) and all(map(_is_same, operand, value))
    if isinstance(operand, dict):
        return (
            isinstance(value, dict)
            and value.keys() == operand.keys()
            and all(_is_same(each, value[key]) for key, each in operand.items())
        )
    if isinstance(operand, bool) or operand is None:
        return value is operand
    return not isinstance(value, bool) and bool(operand == value)


def _one_of(operands: list[Any]) -> _Test:
    hashed = frozenset(each for each in operands if isinstance(each, str | int | float) and not isinstance(each, bool))
    others = [each for each in operands if isinstance(each, list | dict | bool)]

    def test(value: Any) -> bool:
        if isinstance(value, str | int | float) and value is not True and value is not False:
            return value in hashed
        return any(_is_same(each, value) for each in others)

    return test
