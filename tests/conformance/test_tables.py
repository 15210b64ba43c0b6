"""A table is a sorted mapping: within a transaction, and from the broker, where each operation is one of its own."""

# ruff: noqa: F811
from __future__ import annotations

import collections.abc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bounded import BOUNDED
from crash.children import Children
from fixture_types import InThread
from hypothesis import given, settings
from hypothesis import strategies as st
from transaction_things import GUARD, broker, commits, damage, disk_broker, uses  # noqa: F401

import mqlite

Table = mqlite.Table
Key = str | bytes | int
KINDS = (int, bytes, str)
KEYS: list[Any] = [
    *[-(2**63), -(2**32), -256, -2, -1, 0, 1, 2, 255, 256, 2**32, 2**63 - 1],
    *[b"", b"\x00", b"\x00\x00", b"\x00\xff", b"1", b"a", b"a\x00", b"ab", b"a\xff", b"b", b"\xff", b"\xff\xff"],
    *["", "\x00", "1", "A", "a", "a\x00", "aa", "ab", "a\U0010ffff", "b", "ä", "ÿ", "\u0800", "\uffff", "\U00010000", "\U0010ffff"],
]


@pytest.fixture(params=["transaction", "broker"])
def table(request: pytest.FixtureRequest, broker: mqlite.Broker) -> Iterator[Table]:
    """A table within a transaction, which is committed afterwards, or one whose operations are transactions."""
    if request.param == "broker":
        yield broker.table("t")
        return
    with broker.transaction() as tx:
        made = tx.table("t")
        yield made
        before = list(made.items())
    assert list(broker.table("t").items()) == before


def place(key: Key) -> tuple[int, Any]:
    """Where a key comes in the order."""
    return KINDS.index(type(key)), key


def in_order(keys: Any) -> list[Any]:
    return sorted(keys, key=place)


# ---------------------------------------------------------------------- a mapping
def test_a_table_is_a_mutable_mapping(table: Table) -> None:
    assert isinstance(table, collections.abc.MutableMapping)
    assert isinstance(table, mqlite.Table)


def test_what_was_set_is_there(table: Table) -> None:
    table["k"] = "v"
    assert (table["k"], table.get("k"), "k" in table, len(table), list(table)) == ("v", "v", True, 1, ["k"])
    table["k"] = "w"
    assert (table["k"], len(table)) == ("w", 1)


def test_what_was_not_set_is_not_there(table: Table) -> None:
    assert (table.get("k"), table.get("k", 5), "k" in table, len(table), list(table), bool(table)) == (None, 5, False, 0, [], False)
    with pytest.raises(KeyError) as caught:
        table["k"]
    assert caught.value.args[0] == "k"


def test_what_was_deleted_is_gone(table: Table) -> None:
    table.update(a=1, b=2)
    del table["a"]
    assert (dict(table), len(table), "a" in table) == ({"b": 2}, 1, False)
    with pytest.raises(KeyError):
        del table["a"]
    table["a"] = 3
    assert dict(table) == {"a": 3, "b": 2}


def test_pop(table: Table) -> None:
    table["k"] = "v"
    assert (table.pop("k"), table.pop("k", None), table.pop("k", 7), len(table)) == ("v", None, 7, 0)
    with pytest.raises(KeyError):
        table.pop("k")


def test_popitem(table: Table) -> None:
    table.update(a=1, b=2, c=3)
    popped = [table.popitem() for _ in range(3)]
    assert (sorted(popped), len(table)) == ([("a", 1), ("b", 2), ("c", 3)], 0)
    with pytest.raises(KeyError):
        table.popitem()


def test_setdefault(table: Table) -> None:
    assert (table.setdefault("k", "v"), table.setdefault("k", "w"), table["k"]) == ("v", "v", "v")
    assert table.setdefault("none") is None
    assert table["none"] is None


def test_update(table: Table) -> None:
    table.update({"a": 1, "b": 2})
    table.update([("b", 3), (5, 4)])
    table.update({"c": 1}, d=2)
    table.update()
    assert dict(table) == {"a": 1, "b": 3, 5: 4, "c": 1, "d": 2}


def test_clear(table: Table) -> None:
    table.clear()
    table.update({number: number for number in range(10)})
    table.clear()
    assert (len(table), list(table), dict(table)) == (0, [], {})
    table["k"] = 1
    assert dict(table) == {"k": 1}


def test_equality(broker: mqlite.Broker, table: Table) -> None:
    assert table == {}
    table.update({"a": [1], b"b": None, 3: "x"})
    assert table == {"a": [1], b"b": None, 3: "x"}
    assert table != {"a": [1], b"b": None}
    assert table != {"a": [1], b"b": None, 3: "y"}
    assert table != [("a", [1])]
    other = broker.table("other")
    other.update(table)
    assert table == other
    other["a"] = 5
    assert table != other


def test_views(table: Table) -> None:
    table.update({"a": 1, b"b": [2], 3: "x"})
    assert (list(table.keys()), list(table.values()), list(table.items())) == ([3, b"b", "a"], ["x", [2], 1], [(3, "x"), (b"b", [2]), ("a", 1)])
    keys = table.keys()
    assert ("a" in keys, "b" in keys, ("a", 1) in table.items(), ("a", 2) in table.items(), [2] in table.values()) == (True, False, True, False, True)
    assert (len(table.keys()), len(table.values()), len(table.items())) == (3, 3, 3)
    assert table.keys() & {"a", "z"} == {"a"}


def test_a_table_says_which_it_is(table: Table) -> None:
    assert "'t'" in repr(table)


def test_a_table_is_a_handle_on_what_is_stored(broker: mqlite.Broker) -> None:
    one, two = broker.table("t"), broker.table("t")
    one["k"] = 1
    assert two["k"] == 1
    with broker.transaction() as tx:
        mine, again = tx.table("t"), tx.table("t")
        mine["k"] = 2
        assert (again["k"], two["k"]) == (2, 1)
    assert one["k"] == 2


def test_tables_are_apart(broker: mqlite.Broker) -> None:
    names = ["a", "b", "a.b", "a b", "\u00e4", "x" * 255]
    with broker.transaction() as tx:
        for number, name in enumerate(names):
            tx.table(name)["k"] = number
            tx.table(name)[name] = name
    for number, name in enumerate(names):
        assert dict(broker.table(name)) == {"k": number, name: name}
    broker.table("a").clear()
    assert (len(broker.table("a")), len(broker.table("a.b"))) == (0, 2)


# ---------------------------------------------------------------------- keys
def test_all_kinds_of_keys_are_kept_apart(table: Table) -> None:
    table[1], table[b"1"], table["1"] = "int", "bytes", "str"
    assert (table[1], table[b"1"], table["1"], len(table), list(table)) == ("int", "bytes", "str", 3, [1, b"1", "1"])
    del table[b"1"]
    assert (list(table), b"1" in table, table.get(b"1")) == ([1, "1"], False, None)


def test_keys_come_in_order(table: Table) -> None:
    for number, key in enumerate(sorted(KEYS, key=repr)):
        table[key] = number
    assert len(table) == len(KEYS)
    found = list(table)
    assert found == in_order(KEYS) == KEYS
    assert [type(key) for key in found] == [type(key) for key in KEYS]
    assert [key for key, _ in table.items()] == KEYS
    assert all(table[key] == number for number, key in enumerate(sorted(KEYS, key=repr)))


def test_keys_of_500_bytes_are_the_longest(table: Table) -> None:
    for key in ("k" * 500, b"\xff" * 500, "é" * 250, "\U0010ffff" * 125):
        table[key] = 1
        assert (table[key], key in table) == (1, True)
    assert len(table) == 4
    del table["k" * 500]
    assert len(table) == 3


OPERATIONS: dict[str, Callable[[Table, Any], object]] = {
    "getitem": lambda t, key: t[key],
    "setitem": lambda t, key: t.__setitem__(key, 1),
    "delitem": lambda t, key: t.__delitem__(key),
    "get": lambda t, key: t.get(key),
    "in": lambda t, key: key in t,
    "pop": lambda t, key: t.pop(key, None),
    "setdefault": lambda t, key: t.setdefault(key, 1),
    "version": lambda t, key: t.version(key),
    "update": lambda t, key: t.update([(key, 1)]),
}
BAD_KEYS: dict[str, tuple[Any, type[Exception]]] = {
    "None": (None, TypeError),
    "True": (True, TypeError),
    "False": (False, TypeError),
    "float": (1.0, TypeError),
    "tuple": (("a",), TypeError),
    "bytearray": (bytearray(b"a"), TypeError),
    "object": (object(), TypeError),
    "long text": ("k" * 501, ValueError),
    "long bytes": (b"k" * 501, ValueError),
    "long in UTF-8": ("é" * 251, ValueError),
    "too large": (2**63, ValueError),
    "too small": (-(2**63) - 1, ValueError),
}


@pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize(("key", "error"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_what_can_be_no_key_is_refused(table: Table, operate: Callable[[Table, Any], object], key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        operate(table, key)
    assert len(table) == 0


# ---------------------------------------------------------------------- values
VALUES: list[Any] = [b"", b"\x00\xff", "", "x", "日本\x00", "\ud800", 0, -5, 2**70, 1.5, 1e300, True, False, None, [], {}, [1, [2, {"a": None}]], {"a": {"b": [True, "x", 1.0]}, "": 0}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_as_they_were(broker: mqlite.Broker, value: Any) -> None:
    with broker.transaction() as tx:
        tx.table("t")["k"] = value
        own = tx.table("t")["k"]
    for found in (own, broker.table("t")["k"], dict(broker.table("t").range("a"))["k"]):
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": (1,)}, [b"x"], {1, 2}, object(), bytearray(b"x"), 1j], ids=lambda value: type(value).__name__)
def test_what_can_be_no_value_is_refused_at_once_and_nothing_is_changed(table: Table, value: Any) -> None:
    table["k"] = "before"
    for wrong in (lambda: table.__setitem__("k", value), lambda: table.setdefault("new", value), lambda: table.update(k=value)):
        with pytest.raises(mqlite.CodecError):
            wrong()
    assert dict(table) == {"k": "before"}


@pytest.mark.parametrize("kind", [bytes, str])
def test_values_have_16_mib_at_most(broker: mqlite.Broker, kind: type) -> None:
    largest: Any = bytes(16 << 20) if kind is bytes else "x" * (16 << 20)
    table = broker.table("t")
    table["k"] = largest
    assert table["k"] == largest
    for wrong in (lambda: table.__setitem__("k", largest + largest[:1]), lambda: table.setdefault("new", largest + largest[:1])):
        with pytest.raises(ValueError) as caught:
            wrong()
        assert isinstance(caught.value, mqlite.MessageTooLarge)
    with broker.transaction() as tx:
        with pytest.raises(ValueError):
            tx.table("t")["k"] = largest + largest[:1]
        assert len(tx.table("t")["k"]) == 16 << 20
    assert list(table) == ["k"]


def test_what_is_read_is_a_copy(table: Table) -> None:
    table["k"] = {"a": [1]}
    for read in (lambda: table["k"], lambda: table.get("k"), lambda: next(iter(table.values())), lambda: next(table.range("a"))[1], lambda: table.setdefault("k", 0)):
        found = read()
        found["a"].append(2)
        found["b"] = 1
        assert table["k"] == {"a": [1]}


def test_what_is_written_is_a_copy(broker: mqlite.Broker) -> None:
    value = {"a": [1]}
    default: list[Any] = []
    with broker.transaction() as tx:
        tx.table("t")["k"] = value
        returned = tx.table("t").setdefault("d", default)
        default.append(1)
        returned.append(2)
        value["a"].append(2)
        assert tx.table("t")["k"] == {"a": [1]}
    value["a"].append(3)
    assert dict(broker.table("t")) == {"k": {"a": [1]}, "d": []}


# ---------------------------------------------------------------------- ranges
def model_range(keys: list[Any], start: Any, stop: Any, reverse: bool) -> list[Any]:
    """The keys of a range."""
    kind = type(stop if start is None else start)
    found = [key for key in in_order(keys) if (start is None and stop is None) or (type(key) is kind and (start is None or start <= key) and (stop is None or key < stop))]
    return found[::-1] if reverse else found


BOUNDS: list[tuple[Any, Any]] = [
    (None, None),
    *[(0, None), (None, 0), (-1, 256), (-(2**63), 2**63 - 1), (5, 5), (10, -10), (3, 200)],
    *[(b"", None), (None, b""), (b"\x00", b"b"), (b"a", b"a\x00"), (None, b"\xff"), (b"\xff", None), (b"z", b"a")],
    *[("", None), (None, ""), ("a", "b"), ("a", "aa"), (None, "ä"), ("\uffff", None), ("\U00010000", "\U0010ffff"), ("b", "a"), ("1", "A")],
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "stop"), BOUNDS, ids=repr)
def test_a_range_has_the_keys_from_start_to_before_stop(broker: mqlite.Broker, start: Any, stop: Any, reverse: bool) -> None:
    table = broker.table("t")
    table.update({key: number for number, key in enumerate(KEYS)})
    wanted = [(key, KEYS.index(key)) for key in model_range(KEYS, start, stop, reverse)]
    assert list(table.range(start, stop, reverse=reverse)) == wanted
    with broker.transaction() as tx:
        assert list(tx.table("t").range(start=start, stop=stop, reverse=reverse)) == wanted


def test_a_range_is_an_iterator(table: Table) -> None:
    table.update({number: number for number in range(5)})
    found = table.range(1)
    assert isinstance(found, collections.abc.Iterator)
    assert (next(found), list(found), list(found)) == ((1, 1), [(2, 2), (3, 3), (4, 4)], [])
    prefixed = table.prefix("a")
    assert isinstance(prefixed, collections.abc.Iterator)


@pytest.mark.parametrize(("start", "stop"), [(1, "a"), ("a", b"a"), (b"a", 1), (True, None), (None, False), (1.0, None), (None, 2.5), ((), None), (0, True)], ids=repr)
def test_bounds_are_keys_of_one_type(table: Table, start: Any, stop: Any) -> None:
    with pytest.raises(TypeError):
        list(table.range(start, stop))


def test_the_direction_is_named(table: Table) -> None:
    with pytest.raises(TypeError):
        list(table.range(1, 2, True))  # type: ignore[misc]
    with pytest.raises(TypeError):
        list(table.prefix("a", True))  # type: ignore[misc]


PREFIXES: list[Any] = ["", "a", "aa", "a\x00", "a\U0010ffff", "\U0010ffff", "ä", "nothing", b"", b"a", b"\x00", b"\xff", b"\xff\xff", b"a\xff", b"nothing"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES, ids=repr)
def test_a_prefix_has_the_keys_that_begin_with_it(broker: mqlite.Broker, prefix: Any, reverse: bool) -> None:
    table = broker.table("t")
    table.update({key: number for number, key in enumerate(KEYS)})
    wanted = [(key, number) for number, key in enumerate(KEYS) if type(key) is type(prefix) and key.startswith(prefix)]
    assert list(table.prefix(prefix, reverse=reverse)) == (wanted[::-1] if reverse else wanted)
    with broker.transaction() as tx:
        assert list(tx.table("t").prefix(prefix, reverse=reverse)) == (wanted[::-1] if reverse else wanted)


@pytest.mark.parametrize("prefix", [1, None, True, 1.0, ("a",)], ids=repr)
def test_a_prefix_is_a_text_or_bytes(table: Table, prefix: Any) -> None:
    with pytest.raises(TypeError):
        list(table.prefix(prefix))


def test_large_tables_are_read_in_order_both_ways(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    with broker.transaction() as tx:
        tx.table("t").update({number * 7 % 2003: number for number in range(2003)})
    assert (len(table), list(table)) == (2003, list(range(2003)))
    assert [key for key, _ in table.range(reverse=True)] == list(range(2002, -1, -1))
    assert [key for key, _ in table.range(700, 1500)] == list(range(700, 1500))
    with broker.transaction() as tx:
        assert [key for key, _ in tx.table("t").range(700, 1500, reverse=True)] == list(range(1499, 699, -1))


# ---------------------------------------------------------------------- own writes
def test_reads_see_the_transaction_s_own_writes(broker: mqlite.Broker) -> None:
    stored = broker.table("t")
    stored.update({"a": 1, "c": 3, "e": 5, "g": 7})
    with broker.transaction() as tx:
        table = tx.table("t")
        table["b"], table["c"] = 2, 30
        del table["e"]
        table["z"] = 26
        del table["z"]
        assert list(table.items()) == [("a", 1), ("b", 2), ("c", 30), ("g", 7)]
        assert list(table.range("b", "g")) == [("b", 2), ("c", 30)]
        assert list(table.range(reverse=True)) == [("g", 7), ("c", 30), ("b", 2), ("a", 1)]
        assert list(table.range("b", "g", reverse=True)) == [("c", 30), ("b", 2)]
        assert list(table.prefix("c")) == [("c", 30)]
        assert (len(table), "e" in table, table.get("e"), table["c"]) == (4, False, None, 30)
        table["e"] = 50
        assert (len(table), list(table)) == (5, ["a", "b", "c", "e", "g"])
        table.clear()
        assert (len(table), list(table), table == {}) == (0, [], True)
        table["new"] = 1
        assert list(stored) == ["a", "c", "e", "g"]
    assert dict(stored) == {"new": 1}


def test_a_rollback_leaves_the_table_as_it_was(broker: mqlite.Broker) -> None:
    stored = broker.table("t")
    stored.update({"a": 1, "b": 2})
    version = stored.version("a")
    tx = broker.transaction()
    tx.table("t").update({"a": 5, "c": 6})
    tx.table("t").pop("b")
    tx.table("new")["k"] = 1
    tx.rollback()
    assert (dict(stored), len(stored), stored.version("a"), broker.tables()) == ({"a": 1, "b": 2}, 2, version, ["t"])


def test_a_row_that_was_made_and_deleted_in_one_transaction_was_never_there(broker: mqlite.Broker) -> None:
    with broker.transaction() as tx:
        tx.table("t")["k"] = 1
        del tx.table("t")["k"]
        with pytest.raises(KeyError):
            del tx.table("t")["k"]
        assert tx.table("t").get("k") is None
    assert (len(broker.table("t")), broker.table("t").version("k")) == (0, 0)


# ---------------------------------------------------------------------- versions
def test_a_version_changes_with_every_commit_that_writes_the_key(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    assert table.version("k") == 0
    seen = [0]

    def changed() -> bool:
        seen.append(table.version("k"))
        with broker.transaction() as tx:
            assert tx.table("t").version("k") == seen[-1]
        return type(seen[-1]) is int and seen[-1] not in seen[:-1]

    table["k"] = "v"
    assert changed()
    table["k"] = "v"
    assert changed()
    with broker.transaction() as tx:
        tx.table("t")["k"] = "w"
    assert changed()
    table["other"] = 1
    broker.queue("q").put(1)
    assert table.version("k") == seen[-1]
    assert table.version("other") not in (0, table.version("k"))
    del table["k"]
    assert table.version("k") == 0
    table["k"] = "v"
    assert changed()


def test_versions_survive_a_restart(path: str) -> None:
    with mqlite.open(path) as broker:
        broker.table("t")["k"] = 1
        version = broker.table("t").version("k")
    with mqlite.open(path) as broker:
        assert broker.table("t").version("k") == version
        broker.table("t")["k"] = 1
        assert broker.table("t").version("k") not in (0, version)


# ---------------------------------------------------------------------- names
def test_tables_are_named_that_were_written_to(broker: mqlite.Broker) -> None:
    assert broker.tables() == []
    assert (len(broker.table("read")), broker.table("read").get("k"), list(broker.table("read"))) == (0, None, [])
    with broker.transaction() as tx:
        assert not tx.table("read too")
        tx.table("b")["k"] = 1
        tx.table("ä")["k"] = 1
        assert broker.tables() == []
    broker.table("a")["k"] = 1
    with pytest.raises(KeyError):
        del broker.table("never")["k"]
    assert broker.tables() == ["a", "b", "ä"]


def test_an_emptied_table_keeps_its_name(broker: mqlite.Broker) -> None:
    broker.table("t")["k"] = 1
    del broker.table("t")["k"]
    assert (broker.tables(), len(broker.table("t"))) == (["t"], 0)


def test_tables_are_no_queues(broker: mqlite.Broker) -> None:
    broker.queue("same").put(1)
    broker.topic("same").subscribe("same")
    broker.table("same")["k"] = "v"
    broker.table("alone")["k"] = "v"
    assert (broker.queues(), broker.topics(), sorted(broker.stats()), broker.tables()) == (["same"], ["same"], ["same", "same/same"], ["alone", "same"])
    assert (broker.queue("same").get(timeout=0), broker.table("same")["k"]) == (1, "v")
    broker.queue("same").purge()
    assert dict(broker.table("same")) == {"k": "v"}


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("x" * 256, ValueError), ("a\nb", ValueError), ("a\x1fb", ValueError), (5, TypeError), (None, TypeError), (b"t", TypeError)], ids=repr)
def test_names_are_as_those_of_queues(broker: mqlite.Broker, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        broker.table(name)
    with broker.transaction() as tx, pytest.raises(error):
        tx.table(name)
    assert broker.tables() == []


def test_a_closed_broker_has_no_tables() -> None:
    broker = mqlite.open()
    table = broker.table("t")
    table["k"] = 1
    broker.close()
    for use in (lambda: broker.tables(), lambda: broker.table("t")["k"], lambda: table["k"], lambda: table.__setitem__("k", 2), lambda: list(table)):
        with pytest.raises(mqlite.Closed):
            use()


# ---------------------------------------------------------------------- of the broker
def test_each_write_is_one_commit(disk_broker: mqlite.Broker) -> None:
    table = disk_broker.table("t")
    table["first"] = 0
    writes = (lambda: table.__setitem__("k", 1), lambda: table.setdefault("l", 1), lambda: table.pop("k"), lambda: table.__delitem__("l"))
    for write in writes:
        before = commits(disk_broker)
        write()
        assert commits(disk_broker) == before + 1
    before = commits(disk_broker)
    assert (table.get("k"), table.pop("k", None), table.setdefault("first", 5), len(table), dict(table), table.version("k")) == (None, None, 0, 1, {"first": 0}, 0)
    assert commits(disk_broker) == before


def test_a_table_may_change_while_it_is_iterated(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    table.update({number: number for number in range(0, 1000, 2)})
    for key in table:
        del table[key]
        if key < 20:
            table[key + 1] = "odd"
    assert all(value == "odd" for value in table.values())
    table.clear()
    table.update({number: number for number in range(100)})
    for key, _ in table.range(reverse=True):
        del table[key]
    assert len(table) == 0


def test_of_threads_that_pop_a_row_one_gets_it(broker: mqlite.Broker, in_thread: InThread) -> None:
    table = broker.table("t")
    table.update({number: number for number in range(40)})
    start = threading.Barrier(4)

    def pop_all() -> list[int]:
        start.wait(GUARD)
        return [number for number in range(40) if table.pop(number, None) is not None]

    found = [future.result(60) for future in [in_thread(pop_all) for _ in range(4)]]
    assert sorted(number for each in found for number in each) == list(range(40))


def test_of_threads_that_pop_any_row_each_gets_another(broker: mqlite.Broker, in_thread: InThread) -> None:
    table = broker.table("t")
    table.update({number: number for number in range(40)})
    start = threading.Barrier(4)

    def pop_all() -> list[int]:
        found: list[int] = []
        start.wait(GUARD)
        while True:
            try:
                found.append(table.popitem()[0])  # type: ignore[arg-type]
            except KeyError:
                return found

    found = [future.result(60) for future in [in_thread(pop_all) for _ in range(4)]]
    assert sorted(number for each in found for number in each) == list(range(40))


def test_of_threads_that_set_a_default_all_get_the_same(broker: mqlite.Broker, in_thread: InThread) -> None:
    table = broker.table("t")
    start = threading.Barrier(4)

    def set_all(thread: int) -> list[Any]:
        start.wait(GUARD)
        return [table.setdefault(number, thread) for number in range(30)]

    found = [future.result(60) for future in [in_thread(set_all, thread) for thread in range(4)]]
    assert found == [list(table.values())] * 4


# ---------------------------------------------------------------------- beside a dict
_keys: Any = st.one_of(st.sampled_from(KEYS), st.integers(-3, 3), st.text(alphabet="ab\x00\U0010ffff", max_size=2), st.binary(max_size=2))
_values: Any = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.binary(max_size=3), st.lists(st.integers(), max_size=2))
_steps: Any = st.lists(
    st.one_of(
        st.tuples(st.just("set"), _keys, _values),
        st.tuples(st.just("delete"), _keys),
        st.tuples(st.just("pop"), _keys),
        st.tuples(st.just("setdefault"), _keys, _values),
        st.tuples(st.just("update"), st.dictionaries(_keys, _values, max_size=3)),
        st.tuples(st.just("clear")),
        st.tuples(st.just("range"), _keys, _keys, st.booleans()),
        st.tuples(st.just("prefix"), _keys, st.booleans()),
        st.tuples(st.just("look"), _keys),
        st.tuples(st.just("commit")),
        st.tuples(st.just("rollback")),
    ),
    max_size=40,
)


class Beside:
    """A table in a transaction, beside a dict that is changed in the same way."""

    def __init__(self, broker: mqlite.Broker) -> None:
        self.broker = broker
        self.stored: dict[Any, Any] = {}
        self.begin()

    def begin(self) -> None:
        self.tx = self.broker.transaction()
        self.table: Any = self.tx.table("t")
        self.mine = dict(self.stored)

    def set(self, key: Any, value: Any) -> None:
        self.table[key] = self.mine[key] = value

    def delete(self, key: Any) -> None:
        if key in self.mine:
            del self.table[key], self.mine[key]
        else:
            with pytest.raises(KeyError):
                del self.table[key]

    def pop(self, key: Any) -> None:
        assert self.table.pop(key, "none") == self.mine.pop(key, "none")

    def setdefault(self, key: Any, value: Any) -> None:
        assert self.table.setdefault(key, value) == self.mine.setdefault(key, value)

    def update(self, rows: dict[Any, Any]) -> None:
        self.table.update(rows)
        self.mine.update(rows)

    def clear(self) -> None:
        self.table.clear()
        self.mine.clear()

    def range(self, start: Any, stop: Any, reverse: bool) -> None:
        if type(start) is not type(stop):
            stop = None
        assert list(self.table.range(start, stop, reverse=reverse)) == [(key, self.mine[key]) for key in model_range(list(self.mine), start, stop, reverse)]

    def prefix(self, prefix: Any, reverse: bool) -> None:
        if isinstance(prefix, int):
            prefix = ""
        wanted = [(key, self.mine[key]) for key in in_order(self.mine) if type(key) is type(prefix) and key.startswith(prefix)]
        assert list(self.table.prefix(prefix, reverse=reverse)) == (wanted[::-1] if reverse else wanted)

    def look(self, key: Any) -> None:
        assert (self.table.get(key, "none"), key in self.table, len(self.table)) == (self.mine.get(key, "none"), key in self.mine, len(self.mine))
        assert (self.table.version(key) == 0) == (key not in self.mine) or self.mine.get(key) != self.stored.get(key) or key not in self.stored

    def commit(self) -> None:
        self.tx.commit()
        self.stored = self.mine
        self.compare()

    def rollback(self) -> None:
        self.tx.rollback()
        self.compare()

    def compare(self) -> None:
        stored = self.broker.table("t")
        assert list(stored.items()) == [(key, self.stored[key]) for key in in_order(self.stored)]
        assert len(stored) == len(self.stored)
        assert list(stored.range(reverse=True)) == list(stored.items())[::-1]
        assert all((stored.version(key) > 0) == (key in self.stored) for key in KEYS)
        self.begin()


def _run(broker: mqlite.Broker, steps: list[Any]) -> None:
    beside = Beside(broker)
    for name, *arguments in steps:
        getattr(beside, name)(*arguments)
    assert list(beside.table.items()) == [(key, beside.mine[key]) for key in in_order(beside.mine)]
    beside.commit()
    assert broker.check() == []


@given(steps=_steps)
@settings(BOUNDED, max_examples=60)
def test_in_memory_a_table_is_as_a_sorted_dict(steps: list[Any]) -> None:
    with mqlite.open() as broker:
        _run(broker, steps)


def test_on_disk_a_table_is_as_a_sorted_dict(disk_broker: mqlite.Broker) -> None:
    @given(steps=_steps)
    @settings(BOUNDED, max_examples=40)
    def run(steps: list[Any]) -> None:
        disk_broker.table("t").clear()
        _run(disk_broker, steps)

    run()


# ---------------------------------------------------------------------- on disk
def test_a_table_is_there_after_a_restart(path: str) -> None:
    rows = {key: [number, "x" * (number * 300)] for number, key in enumerate(KEYS)}
    with mqlite.open(path) as broker:
        broker.table("t").update(rows)
        del broker.table("t")[0]
        with broker.transaction() as tx:
            tx.table("u")["k"] = 1
    del rows[0]
    with mqlite.open(path) as broker:
        assert (list(broker.table("t").items()), len(broker.table("t")), broker.tables()) == (list(rows.items()), len(rows), ["t", "u"])
        assert broker.check() == []


def test_a_table_in_memory_is_gone_with_its_broker() -> None:
    with mqlite.open() as broker:
        broker.table("t")["k"] = 1
    with mqlite.open() as broker:
        assert broker.tables() == []


def write_in_child(talk: Any, path: str) -> None:
    broker = mqlite.open(path)
    broker.table("t")["k"] = "written"
    tx = broker.transaction()
    tx.table("t")["k"] = "staged"
    tx.table("t")["l"] = "staged"
    talk.say(dict(broker.table("t")))
    talk.hear()


def test_what_a_killed_process_wrote_stays_and_what_it_staged_does_not(disk_broker: mqlite.Broker, children: Children) -> None:
    child = children.fork(write_in_child, disk_broker.path)
    assert child.hear() == {"k": "written"}
    child.kill()
    assert dict(disk_broker.table("t")) == {"k": "written"}


# ---------------------------------------------------------------------- damaged
NEEDLE = b"needle in the store"


@pytest.fixture
def damaged(path: str) -> Iterator[mqlite.Broker]:
    """A store with a damaged row "bad" between two good ones in the table "rows"."""
    with mqlite.open(path) as broker:
        broker.table("rows").update({"a": 1, "bad": NEEDLE, "c": 3})
    damage(path, NEEDLE)
    with mqlite.open(path) as broker:
        yield broker


READS: dict[str, Callable[[Table], object]] = {
    "getitem": lambda t: t["bad"],
    "get": lambda t: t.get("bad"),
    "values": lambda t: list(t.values()),
    "items": lambda t: list(t.items()),
    "range": lambda t: list(t.range("b")),
    "prefix": lambda t: list(t.prefix("b")),
    "pop": lambda t: t.pop("bad"),
    "setdefault": lambda t: t.setdefault("bad", 1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_damaged_row_is_told_when_it_is_read(damaged: mqlite.Broker, read: Callable[[Table], object]) -> None:
    with pytest.raises(mqlite.StoreCorrupted, match=r"(?s)rows.*bad|bad.*rows"):
        read(damaged.table("rows"))
    tx = damaged.transaction()
    with pytest.raises(mqlite.StoreCorrupted, match=r"(?s)rows.*bad|bad.*rows"):
        read(tx.table("rows"))
    tx.rollback()


def test_the_rows_beside_a_damaged_one_are_read(damaged: mqlite.Broker) -> None:
    table = damaged.table("rows")
    assert (table["a"], table["c"], len(table), list(table.range("c")), table.get("missing")) == (1, 3, 3, [("c", 3)], None)


def test_check_tells_of_a_damaged_row(damaged: mqlite.Broker) -> None:
    problems = damaged.check()
    assert len(problems) == 1
    assert "bad" in problems[0]
    assert "rows" in problems[0]


HEALS: dict[str, tuple[Callable[[Table], object], dict[str, Any]]] = {
    "set": (lambda t: t.__setitem__("bad", 2), {"a": 1, "bad": 2, "c": 3}),
    "set the same": (lambda t: t.__setitem__("bad", NEEDLE), {"a": 1, "bad": NEEDLE, "c": 3}),
    "set longer": (lambda t: t.__setitem__("bad", "x" * 5000), {"a": 1, "bad": "x" * 5000, "c": 3}),
    "delete": (lambda t: t.__delitem__("bad"), {"a": 1, "c": 3}),
    "update": (lambda t: t.update(bad=5), {"a": 1, "bad": 5, "c": 3}),
    "clear": (lambda t: t.clear(), {}),
}


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize(("heal", "left"), HEALS.values(), ids=HEALS.keys())
def test_setting_or_deleting_a_damaged_row_heals_it(damaged: mqlite.Broker, heal: Callable[[Table], object], left: dict[str, Any], inside: bool) -> None:
    if inside:
        with damaged.transaction() as tx:
            heal(tx.table("rows"))
    else:
        heal(damaged.table("rows"))
    assert (damaged.check(), dict(damaged.table("rows")), len(damaged.table("rows"))) == ([], left, len(left))


def test_a_block_that_reads_a_damaged_row_changes_nothing(damaged: mqlite.Broker) -> None:
    def work() -> None:
        with damaged.transaction() as tx:
            tx.table("rows")["a"] = 2
            damaged.queue("q").put(1, tx=tx)
            tx.table("rows")["bad"]

    with pytest.raises(mqlite.StoreCorrupted):
        work()
    assert (damaged.table("rows")["a"], damaged.queue("q").qsize()) == (1, 0)
