"""A filter accepts the messages that fulfil all it asks; what it cannot mean is refused when it is made."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqlite.filters import MAX_DEPTH, Filter

PARTS = ["type", "group", "routing_key", "reply_to", "correlation_id"]
MESSAGE: dict[str, Any] = {
    "type": "order",
    "group": "g7",
    "routing_key": "order.paid",
    "reply_to": "answers",
    "correlation_id": "c1",
    "headers": {"region": "eu", "size": 5, "rush": True, "tags": ["a", "b"], "note": None, "type": "inner", "where": {"x": 1}},
}


def made(filter: Any = None, headers: Any = None, match: Any = "all") -> Filter:
    result = Filter.of(filter, headers, match)
    assert result is not None
    return result


def accepts(filter: Any = None, headers: Any = None, match: Any = "all", priority: int = 3) -> bool:
    return made(filter, headers, match).accepts(priority, MESSAGE)


def nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter",
    [
        {"type": "order"},
        {"type": ("==", "order")},
        {"type": ["==", "order"]},
        {"type": ("!=", "bill")},
        {"priority": 3},
        {"priority": 3.0},
        {"priority": (">", 2)},
        {"priority": (">=", 3)},
        {"priority": ("<", 3.5)},
        {"priority": ("<=", 3)},
        {"priority": [(">", 2), ("<", 4)]},
        {"priority": ((">", 2), ("<", 4))},
        {"priority": ("in", [1, 3])},
        {"priority": ("exists", True)},
        {"group": "g7"},
        {"routing_key": ("prefix", "order.")},
        {"reply_to": ("exists", True)},
        {"correlation_id": ("not in", ["c2", "c3"])},
        {"region": "eu"},
        {"headers.region": "eu"},
        {"headers.region": ("in", ("eu", "us"))},
        {"headers.type": "inner"},
        {"region": (">", "eq")},
        {"size": (">", 4.5)},
        {"rush": True},
        {"rush": ("!=", 1)},
        {"rush": ("in", [True])},
        {"tags": ("==", ["a", "b"])},
        {"tags": ("==", ("a", "b"))},
        {"tags": ("in", [["a", "b"], "c"])},
        {"where": {"x": 1}},
        {"note": ("exists", False)},
        {"absent": ("exists", False)},
        {"headers": ("exists", False)},  # a header of that name
        {"type": "order", "region": "eu", "priority": ("<", 10)},
    ],
)
def test_message_that_fulfils_all_conditions_is_accepted(filter: Any) -> None:
    assert accepts(filter)


@pytest.mark.parametrize(
    "filter",
    [
        {"type": "Order"},
        {"type": ("!=", "order")},
        {"type": "inner"},
        {"priority": True},
        {"priority": "3"},
        {"priority": (">", 3)},
        {"priority": [(">", 2), ("<", 3)]},
        {"priority": ("exists", False)},
        {"priority": ("prefix", "3")},
        {"region": ("<", 5)},
        {"size": ("<", "9")},
        {"rush": 1},
        {"rush": ("in", [1, 1.0])},
        {"rush": (">=", 1)},
        {"size": ("in", [True, "5", [5]])},
        {"tags": ("prefix", "a")},
        {"tags": ("<", "z")},
        {"tags": ("==", ["b", "a"])},
        {"tags": ("in", ["a", "b"])},
        {"where": {"x": True}},
        {"where": {"x": 1, "y": 2}},
        {"region": ("in", [])},
        {"type": "order", "region": "us"},
        {"region": "eu", "headers.region": ("!=", "eu")},  # two conditions on one header
    ],
)
def test_message_that_fails_a_condition_is_not_accepted(filter: Any) -> None:
    assert not accepts(filter)


@pytest.mark.parametrize("condition", ["x", ("!=", "x"), ("not in", ["x"]), ("not in", []), ("in", ["x"]), ("<", "x"), (">=", 0), ("prefix", ""), ("exists", True)])
@pytest.mark.parametrize("name", ["absent", "headers.note", "type"])
def test_missing_attribute_fulfils_no_condition_but_that_it_is_missing(name: str, condition: Any) -> None:
    without = {"headers": {"note": None}, "type": None}
    assert not made({name: condition}).accepts(0, without)
    assert made({name: ("exists", False)}).accepts(0, without)


def test_message_without_any_parts_is_judged_by_its_priority() -> None:
    assert made({"priority": -1, "type": ("exists", False), "region": ("exists", False)}).accepts(-1, None)
    assert not made({"priority": -1, "type": "order"}).accepts(-1, None)


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "match", "expected"),
    [
        ({"region": "eu", "size": 5}, "all", True),
        ({"region": "eu", "size": 6}, "all", False),
        ({"region": "eu", "size": 6}, "any", True),
        ({"region": "us", "size": 6}, "any", False),
        ({"region": None, "size": 5}, "all", True),
        ({"absent": None, "size": 5}, "all", False),
        ({"absent": None, "size": 5}, "any", True),
        ({"absent": None, "note": None}, "any", True),
        ({"note": None}, "all", True),
        ({"note": 1}, "all", False),
        ({"rush": 1}, "all", False),
        ({"tags": ["a", "b"]}, "all", True),
        ({"tags": ("a", "b")}, "all", True),
        ({"tags": "a"}, "all", False),
        ({"headers.region": "eu"}, "all", False),  # the names of headers are taken as they are
        ({"type": "inner"}, "all", True),
    ],
)
def test_headers_are_equal_all_of_them_or_any(headers: Any, match: str, expected: bool) -> None:
    assert accepts(headers=headers, match=match) is expected


@pytest.mark.parametrize("match", ["all", "any"])
@pytest.mark.parametrize("extras", [None, {}, {"type": "order"}, {"headers": {}}, {"headers": None}])
def test_message_without_headers_has_none_that_were_asked_for(match: str, extras: dict[str, Any] | None) -> None:
    assert not made(None, {"region": None}, match).accepts(0, extras)


def test_filter_and_headers_must_both_be_fulfilled() -> None:
    assert accepts({"type": "order"}, {"region": "us", "size": 5}, "any")
    assert not accepts({"type": "bill"}, {"region": "us", "size": 5}, "any")
    assert not accepts({"type": "order"}, {"region": "us", "size": 6}, "any")


# --- what may be asked -----------------------------------------------------------------------------------------------


def test_nothing_asked_makes_no_filter() -> None:
    assert Filter.of(None, None, "all") is None


class Color(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("filter", "error", "match"),
    [
        ([("type", "order")], TypeError, "filter is a dict"),
        ("type", TypeError, "filter is a dict"),
        ({}, ValueError, "asks for nothing"),
        ({5: "a"}, TypeError, "by str"),
        ({"": "a"}, ValueError, "names none"),
        ({"headers.": "a"}, ValueError, "names none"),
        ({"type": None}, ValueError, r"never None.*\('exists', False\)"),
        ({"type": ("!=", None)}, ValueError, "never None"),
        ({"type": ("in", ["a", None])}, ValueError, "never None"),
        ({"region": ["eu", "us"]}, ValueError, r"no operator 'eu'.*\('in'"),
        ({"region": ["eu"]}, ValueError, r"a list of such pairs.*\('in'"),
        ({"region": [1, 2]}, ValueError, r"equality with a list"),
        ({"region": []}, ValueError, "no condition"),
        ({"region": ()}, ValueError, "no condition"),
        ({"region": [[]]}, ValueError, "a list of such pairs"),
        ({"region": [("==", "eu"), "us"]}, ValueError, "a list of such pairs"),
        ({"region": ("==",)}, ValueError, "a list of such pairs"),
        ({"region": ("==", 1, 2)}, ValueError, "a list of such pairs"),
        ({"region": ("=", "eu")}, ValueError, "no operator '='"),
        ({"region": ("IN", ["eu"])}, ValueError, "no operator 'IN'"),
        ({"region": [(["=="], "eu")]}, ValueError, "no operator"),
        ({"region": ("in", "eu")}, TypeError, "list of values"),
        ({"region": ("in", {"eu"})}, TypeError, "list of values"),
        ({"region": ("not in", {"eu": 1})}, TypeError, "list of values"),
        ({"region": ("in", [{1}])}, TypeError, "not a set"),
        ({"region": ("exists", 1)}, TypeError, "True or False"),
        ({"region": ("exists", None)}, TypeError, "True or False"),
        ({"region": ("prefix", 5)}, TypeError, "is a str"),
        ({"region": ("<", True)}, TypeError, "a number or a str"),
        ({"region": (">", None)}, TypeError, "a number or a str"),
        ({"region": (">=", [1])}, TypeError, "a number or a str"),
        ({"region": ("<", float("nan"))}, ValueError, "finite"),
        ({"region": float("inf")}, ValueError, "finite"),
        ({"region": b"eu"}, TypeError, "not a bytes: convert"),
        ({"region": Color.RED}, TypeError, "not a Color: convert"),
        ({"region": {"a": {1: 2}}}, TypeError, "keys of which are str"),
        ({"region": ("==", [object()])}, TypeError, "not a object: convert"),
        ({"region": "\ud800"}, ValueError, "UTF-8"),
        ({"\ud800": "eu"}, ValueError, "UTF-8"),
        ({"size": 10**5000}, ValueError, "stored as JSON"),
        ({"tags": ("==", nested(MAX_DEPTH + 1))}, ValueError, "nested more than"),
    ],
)
def test_condition_that_means_nothing_is_refused_and_the_error_says_what_is_due(filter: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Filter.of(filter, None, "all")


def test_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested"):
        Filter.of({"tags": ("==", endless)}, None, "all")


@pytest.mark.parametrize(
    ("headers", "match", "error", "says"),
    [
        ({}, "all", ValueError, "ask for nothing"),
        (["region"], "all", TypeError, "headers is a dict"),
        ({5: 1}, "all", TypeError, "name is a str"),
        ({"region": {1}}, "all", TypeError, "JSON value"),
        ({"region": float("nan")}, "all", ValueError, "finite"),
        ({"region": "\ud800"}, "all", ValueError, "UTF-8"),
        ({"region": "eu"}, "both", ValueError, "'all' or 'any'"),
        ({"region": "eu"}, None, ValueError, "'all' or 'any'"),
        (None, "some", ValueError, "'all' or 'any'"),
        (None, "any", ValueError, "none are given"),
    ],
)
def test_headers_that_mean_nothing_are_refused_and_the_error_says_what_is_due(headers: Any, match: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Filter.of(None, headers, match)


def test_operand_may_be_nested_as_deep_as_is_allowed() -> None:
    deepest = nested(MAX_DEPTH)
    assert made({"tags": ("==", deepest)}).accepts(0, {"headers": {"tags": deepest}})


def test_message_nested_deeper_than_python_can_recurse_is_judged_too() -> None:
    assert not made({"tags": ("==", nested(5))}).accepts(0, {"headers": {"tags": nested(100_000)}})


def test_later_change_of_what_was_given_changes_nothing() -> None:
    tags = ["a", "b"]
    asked = {"tags": ("==", tags)}
    wanted = made(asked, {"tags": tags})
    tags.append("c")
    asked.clear()
    assert wanted.accepts(0, MESSAGE)


# --- equality, and how it is stored ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "a"}, {"type": ("==", "a")}),
        ({"type": ("==", "a")}, {"type": ["==", "a"]}),
        ({"type": ("==", "a")}, {"type": [("==", "a")]}),
        ({"type": "a", "size": 1}, {"size": 1, "type": "a"}),
        ({"size": 1}, {"size": 1.0}),
        ({"size": ("==", [1, {"x": (2,)}])}, {"size": ("==", (1.0, {"x": [2]}))}),
        ({"region": "eu"}, {"headers.region": "eu"}),
        ({"size": [(">", 1), ("<", 5)]}, {"size": (["<", 5], [">", 1], [">", 1.0])}),
        ({"size": (">", 1), "headers.size": ("<", 5)}, {"size": [(">", 1), ("<", 5)]}),
        ({"region": ("in", ["eu", "us"])}, {"region": ("in", ("us", "eu", "us"))}),
        ({"where": {"x": 1, "y": 2}}, {"where": {"y": 2, "x": 1}}),
    ],
)
def test_filters_that_ask_the_same_are_equal(one: Any, other: Any) -> None:
    assert made(one) == made(other)
    assert hash(made(one)) == hash(made(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({"size": 1},), ({"size": True},)),
        (({"size": 1},), ({"size": "1"},)),
        (({"size": ("==", [1])},), ({"size": ("==", [True])},)),
        (({"size": ("<", 1)},), ({"size": ("<=", 1)},)),
        (({"tags": ("==", ["a", "b"])},), ({"tags": ("==", ["b", "a"])},)),
        (({"type": "a"},), ({"headers.type": "a"},)),
        (({"region": "eu"},), (None, {"region": "eu"})),
        ((None, {"a": 1, "b": 2}, "all"), (None, {"a": 1, "b": 2}, "any")),
        ((None, {"a": 1}), (None, {"a": None})),
    ],
)
def test_filters_that_ask_something_else_are_not_equal(one: Any, other: Any) -> None:
    assert made(*one) != made(*other)


def test_stored_form_is_what_of_takes() -> None:
    wanted = made({"region": ("in", ("us", "eu")), "type": "order", "size": [(">", 1), ("<", 5)]}, {"a": None}, "any")
    assert wanted.to_json() == {
        "filter": {"type": "order", "headers.region": ["in", ["eu", "us"]], "headers.size": [["<", 5], [">", 1]]},
        "headers": {"a": None},
        "match": "any",
    }
    assert Filter.of(**wanted.to_json()) == wanted


def test_stored_form_that_asks_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="asks for nothing"):
        Filter.from_json({"filter": None, "headers": None, "match": "all"})


def test_repr_says_what_is_asked() -> None:
    assert repr(made({"type": "order"})) == "Filter(filter={'type': 'order'}, headers=None, match='all')"


# --- beside plain Python ---------------------------------------------------------------------------------------------

# few values, so that operands and messages meet
scalars = st.sampled_from([0, 1, 2, 1.0, 1.5, -0.0, True, False, "", "a", "ab", "b", "1"])
values = st.recursive(scalars | st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2), max_leaves=4)
operands = values.filter(lambda value: value is not None)
ordered_operands = scalars.filter(lambda value: not isinstance(value, bool))
conditions = st.one_of(
    st.tuples(st.sampled_from(["==", "!="]), operands),
    st.tuples(st.sampled_from(["<", "<=", ">", ">="]), ordered_operands),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(operands, max_size=4)),
    st.tuples(st.just("exists"), st.booleans()),
    st.tuples(st.just("prefix"), st.sampled_from(["", "a", "ab"])),
)
names = st.sampled_from(["priority", "type", "routing_key", "region", "headers.region", "headers.type"])
filters = st.dictionaries(
    names, conditions | st.lists(conditions, min_size=1, max_size=3) | operands.filter(lambda value: not isinstance(value, list)), min_size=1, max_size=3
)
wanted_headers = st.dictionaries(st.sampled_from(["region", "type", "size"]), values, min_size=1, max_size=3)
asked = st.one_of(
    st.tuples(filters, st.none(), st.just("all")),
    st.tuples(st.none() | filters, wanted_headers, st.sampled_from(["all", "any"])),
)
anything = values | st.sampled_from([float("nan"), float("inf"), 10**400, "\ud800"])
messages = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "type": anything,
        "routing_key": anything,
        "headers": st.dictionaries(st.sampled_from(["region", "type", "size"]), anything, max_size=3),
        "death": st.just({}),
    },
)
priorities = st.integers(-1, 3)


def as_json(value: Any) -> Any:
    """Equal for equal JSON values: a bool is no number, a tuple is a list, 1 is 1.0."""
    if isinstance(value, list | tuple):
        return "list", tuple(map(as_json, value))
    if isinstance(value, dict):
        return "dict", frozenset((key, as_json(each)) for key, each in value.items())
    return ("bool" if isinstance(value, bool) else "atom"), value


def have_an_order(a: Any, b: Any) -> bool:
    kinds = ["number" if type(value) in (int, float) else "str" if type(value) is str else None for value in (a, b)]
    return kinds[0] is not None and kinds[0] == kinds[1]


def fulfils(value: Any, operator: str, operand: Any) -> bool:
    """One condition as plain Python."""
    if operator == "exists":
        return (value is not None) == operand
    if value is None:
        return False
    match operator:
        case "==":
            return as_json(value) == as_json(operand)
        case "!=":
            return as_json(value) != as_json(operand)
        case "in":
            return as_json(value) in [as_json(each) for each in operand]
        case "not in":
            return as_json(value) not in [as_json(each) for each in operand]
        case "prefix":
            return isinstance(value, str) and value[: len(operand)] == operand
    return have_an_order(value, operand) and bool(eval(f"value {operator} operand", {"value": value, "operand": operand}))


def judged(asked: tuple[Any, Any, str], priority: int, extras: dict[str, Any] | None) -> bool:
    """A whole filter as plain Python."""
    filter, headers, match = asked
    extras = extras or {}
    there = extras.get("headers", {})
    for name, condition in (filter or {}).items():
        if name == "priority":
            value: Any = priority
        elif name in PARTS:
            value = extras.get(name)
        else:
            value = there.get(name.removeprefix("headers."))
        if isinstance(condition, list):
            pairs = condition
        else:
            pairs = [condition] if isinstance(condition, tuple) else [("==", condition)]
        if not all(fulfils(value, *pair) for pair in pairs):
            return False
    if headers is None:
        return True
    equal = [name in there and (value is None or as_json(there[name]) == as_json(value)) for name, value in headers.items()]
    return all(equal) if match == "all" else any(equal)


@settings(deadline=None, max_examples=300)
@given(asked, priorities, messages)
@example(({"type": ("==", 1)}, None, "all"), 0, {"type": True})
@example(({"region": ("not in", [True])}, None, "all"), 0, {"headers": {"region": 1}})
def test_filter_accepts_what_plain_python_does(asked: tuple[Any, Any, str], priority: int, extras: dict[str, Any] | None) -> None:
    assert made(*asked).accepts(priority, extras) is judged(asked, priority, extras)


@settings(deadline=None, max_examples=300)
@given(conditions, anything)
def test_condition_on_a_header_holds_where_it_does_in_plain_python(condition: Any, value: Any) -> None:
    assert made({"region": condition}).accepts(0, {"headers": {"region": value}}) is fulfils(value, *condition)


@settings(deadline=None)
@given(asked, priorities, messages)
def test_filter_comes_back_from_json_equal_and_with_the_same_answers(asked: tuple[Any, Any, str], priority: int, extras: dict[str, Any] | None) -> None:
    wanted = made(*asked)
    back = Filter.from_json(json.loads(json.dumps(wanted.to_json())))
    assert back == wanted
    assert back.to_json() == wanted.to_json()
    assert back.accepts(priority, extras) is wanted.accepts(priority, extras)
