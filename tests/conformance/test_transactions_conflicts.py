"""What a transaction has read is true when it commits, or it does not commit: no update is lost."""

# ruff: noqa: F811
from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from crash.children import Children
from fixture_types import InThread, UntilWaiting
from transaction_things import GUARD, broker, counts, disk_broker, increment, received  # noqa: F401

import mqlite
from mqlite.claims import Kind

Table = mqlite.Table


@pytest.fixture
def table(broker: mqlite.Broker) -> Table:
    """A table with a few rows, whose operations are transactions of their own."""
    table = broker.table("t")
    table.update({"a": 1, "c": 3, "e": 5, "g": 7, 10: "ten", 20: "twenty", b"x": "bytes"})
    return table


# ---------------------------------------------------------------------- nothing is lost
def test_of_two_who_read_and_write_the_same_the_second_has_a_conflict(broker: mqlite.Broker, table: Table) -> None:
    one, two = broker.transaction(), broker.transaction()
    one.table("t")["a"] += 1
    two.table("t")["a"] += 1
    one.commit()
    with pytest.raises(mqlite.Conflict):
        two.commit()
    assert table["a"] == 2


def test_threads_that_add_to_the_same_number_add_up_exactly(broker: mqlite.Broker, in_thread: InThread) -> None:
    start = threading.Barrier(4)

    def add() -> None:
        start.wait(GUARD)
        for _ in range(25):
            broker.run(increment, attempts=10_000)

    for future in [in_thread(add) for _ in range(4)]:
        future.result(60)
    assert broker.table("counts")["n"] == 100


def add_in_child(talk: Any, path: str, times: int) -> None:
    with mqlite.open(path) as broker:
        talk.say("ready")
        talk.hear()
        for _ in range(times):
            broker.run(increment, attempts=10_000)
    talk.say("done")


def test_processes_that_add_to_the_same_number_add_up_exactly(disk_broker: mqlite.Broker, children: Children) -> None:
    started = [children.fork(add_in_child, disk_broker.path, 20) for _ in range(3)]
    for child in started:
        assert child.hear() == "ready"
    for child in started:
        child.say("go")
    for _ in range(20):
        disk_broker.run(increment, attempts=10_000)
    for child in started:
        assert child.hear() == "done"
        child.end()
    assert disk_broker.table("counts")["n"] == 80


def test_without_run_every_conflict_is_told_and_every_success_counts(broker: mqlite.Broker, in_thread: InThread) -> None:
    start = threading.Barrier(4)

    def add() -> int:
        done = 0
        start.wait(GUARD)
        for _ in range(40):
            try:
                with broker.transaction() as tx:
                    increment(tx)
                done += 1
            except mqlite.Conflict:
                pass
        return done

    done = sum(future.result(60) for future in [in_thread(add) for _ in range(4)])
    assert broker.table("counts")["n"] == done


def test_two_who_each_write_what_the_other_reads_do_not_both_commit(broker: mqlite.Broker, table: Table) -> None:
    one, two = broker.transaction(), broker.transaction()
    one.table("t")["a"] = one.table("t")["c"]
    two.table("t")["c"] = two.table("t")["a"]
    one.commit()
    with pytest.raises(mqlite.Conflict):
        two.commit()
    assert (table["a"], table["c"]) == (3, 3)


def test_what_is_written_without_reading_is_no_conflict_and_the_last_one_stays(broker: mqlite.Broker, table: Table) -> None:
    one, two = broker.transaction(), broker.transaction()
    one.table("t")["a"] = "one"
    two.table("t")["a"] = "two"
    two.commit()
    one.commit()
    assert table["a"] == "one"


def test_transfers_between_accounts_keep_the_sum(broker: mqlite.Broker, in_thread: InThread) -> None:
    accounts = broker.table("accounts")
    accounts.update(dict.fromkeys(range(4), 100))
    over = threading.Event()

    def transfer(seed: int) -> None:
        for step in range(30):
            source, target = (seed + step) % 4, (seed * 3 + step * 7 + 1) % 4

            def move(tx: mqlite.Transaction, source: int = source, target: int = target) -> None:
                table = tx.table("accounts")
                table[source] -= 1
                table[target] += 1

            broker.run(move, attempts=10_000)

    def watch() -> int:
        looks = 0
        while not over.is_set() or not looks:
            try:
                with broker.transaction() as tx:
                    assert sum(tx.table("accounts").values()) == 400
                    looks += 1
            except mqlite.Conflict:
                pass
        return looks

    watcher = in_thread(watch)
    for future in [in_thread(transfer, seed) for seed in range(3)]:
        future.result(60)
    over.set()
    assert watcher.result(GUARD) > 0
    assert sum(accounts.values()) == 400


# ---------------------------------------------------------------------- what was read
READS: dict[str, Callable[[Table], object]] = {
    "getitem": lambda t: t["a"],
    "get": lambda t: t.get("a"),
    "in": lambda t: "a" in t,
    "version": lambda t: t.version("a"),
    "keys": lambda t: list(t),
    "items": lambda t: list(t.items()),
    "values": lambda t: list(t.values()),
    "equal": lambda t: t == {},
    "range": lambda t: list(t.range("a", "c")),
    "range reverse": lambda t: list(t.range("a", "c", reverse=True)),
    "range from": lambda t: list(t.range("a")),
    "range to": lambda t: list(t.range(None, "b")),
    "range of all": lambda t: list(t.range()),
    "prefix": lambda t: list(t.prefix("a")),
    "prefix reverse": lambda t: list(t.prefix("a", reverse=True)),
    "pop": lambda t: t.pop("a"),
    "setdefault": lambda t: t.setdefault("a", 5),
    "del": lambda t: t.__delitem__("a"),
    "add": lambda t: t.__setitem__("a", t["a"] + 1),
}
#: Those that tell only whether a row is there.
PRESENCE = {"in", "keys", "del"}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_row_that_was_read_and_deleted_is_a_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object]) -> None:
    q = broker.queue("q")
    tx = broker.transaction()
    read(tx.table("t"))
    q.put(1, tx=tx)
    del table["a"]
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert (counts(q), "a" in table) == ((0, 0, 0, 0), False)


@pytest.mark.parametrize("read", [pytest.param(read, id=name) for name, read in READS.items() if name not in PRESENCE])
def test_a_row_that_was_read_and_changed_is_a_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object]) -> None:
    q = broker.queue("q")
    tx = broker.transaction()
    read(tx.table("t"))
    q.put(1, tx=tx)
    table["a"] = "new"
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert (counts(q), table["a"]) == ((0, 0, 0, 0), "new")


@pytest.mark.parametrize("read", [lambda t: t.get("b"), lambda t: "b" in t, lambda t: t.version("b"), lambda t: t.pop("b", None), lambda t: t.setdefault("b", 1)], ids=["get", "in", "version", "pop", "setdefault"])
def test_a_row_that_was_missing_and_is_there_is_a_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object]) -> None:
    tx = broker.transaction()
    read(tx.table("t"))
    broker.queue("q").put(1, tx=tx)
    table["b"] = "new"
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert table["b"] == "new"


def test_a_missing_row_that_raised_keyerror_was_read_too(broker: mqlite.Broker, table: Table) -> None:
    tx = broker.transaction()
    with pytest.raises(KeyError):
        tx.table("t")["b"]
    tx.table("t")["a"] = 2
    table["b"] = "new"
    with pytest.raises(mqlite.Conflict):
        tx.commit()


def test_reading_alone_is_checked_too(broker: mqlite.Broker, table: Table) -> None:
    tx = broker.transaction()
    assert tx.table("t")["a"] == 1
    table["a"] = 2
    with pytest.raises(mqlite.Conflict):
        tx.commit()


def test_a_table_that_was_made_meanwhile_is_a_conflict_for_who_saw_none(broker: mqlite.Broker) -> None:
    for read in (lambda t: t.get("k"), lambda t: list(t), lambda t: len(t), lambda t: list(t.range("a", "z"))):
        name = f"table {len(broker.tables())}"
        tx = broker.transaction()
        assert not read(tx.table(name))
        tx.table("other")["x"] = 1
        broker.table(name)["k"] = 1
        with pytest.raises(mqlite.Conflict):
            tx.commit()


NEW_KEYS: dict[str, tuple[Callable[[Table], object], Any, Any]] = {
    "keys": (lambda t: list(t), "b", None),
    "items": (lambda t: list(t.items()), 5, None),
    "len": (lambda t: len(t), "b", None),
    "range of texts": (lambda t: list(t.range("b", "f")), "d", "f"),
    "range of texts, reverse": (lambda t: list(t.range("b", "f", reverse=True)), "b", "a2"),
    "range of numbers": (lambda t: list(t.range(10, 20)), 15, 21),
    "range of numbers at its start": (lambda t: list(t.range(11, 19)), 11, 19),
    "range of numbers at its end": (lambda t: list(t.range(11, 19)), 18, 5),
    "empty range": (lambda t: list(t.range(100, 200)), 150, 200),
    "range from": (lambda t: list(t.range("e")), "zzz", "d"),
    "range to": (lambda t: list(t.range(None, "c")), "", "d"),
    "range to, other types": (lambda t: list(t.range(None, "c")), "b", 3),
    "range from, other types": (lambda t: list(t.range(15)), 16, "b"),
    "prefix": (lambda t: list(t.prefix("a")), "ab", "b"),
    "prefix of bytes": (lambda t: list(t.prefix(b"x")), b"x\xff\xff", b"y"),
    "empty prefix": (lambda t: list(t.prefix("q")), "q", "r"),
}


@pytest.mark.parametrize(("read", "new", "_other"), NEW_KEYS.values(), ids=NEW_KEYS.keys())
def test_a_row_that_appears_where_was_read_is_a_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object], new: Any, _other: Any) -> None:
    tx = broker.transaction()
    read(tx.table("t"))
    tx.table("log")["x"] = 1
    table[new] = "phantom"
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert broker.tables() == ["t"]


@pytest.mark.parametrize(("read", "_new", "other"), [pytest.param(*each, id=name) for name, each in NEW_KEYS.items() if each[2] is not None])
def test_a_row_that_appears_beside_what_was_read_is_no_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object], _new: Any, other: Any) -> None:
    with broker.transaction() as tx:
        read(tx.table("t"))
        tx.table("log")["x"] = 1
        table[other] = "elsewhere"
    assert broker.table("log")["x"] == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_that_appears_before_the_first_one_that_was_read_is_a_conflict(broker: mqlite.Broker, table: Table, reverse: bool) -> None:
    tx = broker.transaction()
    assert next(tx.table("t").range("b", "f", reverse=reverse)) == (("e", 5) if reverse else ("c", 3))
    tx.table("log")["x"] = 1
    table["e2" if reverse else "b2"] = "first"
    with pytest.raises(mqlite.Conflict):
        tx.commit()


def test_another_row_of_the_same_table_is_no_conflict(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx:
        tx.table("t")["a"] += 1
        table["c"] = "changed"
        del table["e"]
        table["new"] = 1
    assert (table["a"], table["c"]) == (2, "changed")


def test_another_table_is_no_conflict(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx:
        assert len(list(tx.table("t").items())) == len(tx.table("t")) == 7
        tx.table("t")["a"] = 2
        broker.table("other")["a"] = 5
    assert table["a"] == 2


def test_the_length_is_read_and_the_values_are_not(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx:
        assert len(tx.table("t")) == 7
        tx.table("log")["x"] = 1
        table["a"] = "changed"
    assert broker.table("log")["x"] == 1


def test_the_length_changes_with_a_deletion(broker: mqlite.Broker, table: Table) -> None:
    tx = broker.transaction()
    assert len(tx.table("t")) == 7
    tx.table("log")["x"] = 1
    del table["a"]
    with pytest.raises(mqlite.Conflict):
        tx.commit()


def test_own_writes_are_no_conflict(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx:
        mine = tx.table("t")
        for _ in range(5):
            mine["a"] += 1
            mine["new"] = len(mine)
            assert list(mine.range("a", "b")) == [("a", mine["a"])]
            del mine["new"]
    assert (table["a"], "new" in table) == (6, False)


def test_what_only_the_transaction_itself_wrote_is_not_read(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx:
        tx.table("t")["a"] = 5
        assert tx.table("t")["a"] == 5
        table["a"] = "by another"
    assert table["a"] == 5


def test_messages_of_others_are_no_conflict(broker: mqlite.Broker, table: Table) -> None:
    q = broker.queue("q")
    with broker.transaction() as tx:
        tx.table("t")["a"] += 1
        q.put("mine", tx=tx)
        q.put("theirs")
        assert q.get(timeout=0) == "theirs"
    assert table["a"] == 2


def test_many_reads_are_checked_all(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    table.update(dict.fromkeys(range(500), 0))
    tx = broker.transaction()
    mine = tx.table("t")
    assert sum(mine[number] for number in range(500)) == 0
    tx.table("log")["x"] = 1
    table[377] = 1
    with pytest.raises(mqlite.Conflict):
        tx.commit()


# ---------------------------------------------------------------------- one state
def test_two_reads_never_show_two_states(broker: mqlite.Broker, table: Table) -> None:
    tx = broker.transaction()
    assert tx.table("t")["a"] == 1
    with broker.transaction() as other:
        other.table("t")["a"] = 100
        other.table("t")["c"] = 300
    try:
        found = tx.table("t")["c"]
    except mqlite.Conflict:
        found = 3
    assert found == 3
    with pytest.raises((mqlite.Conflict, mqlite.Closed)):
        tx.commit()


@pytest.mark.parametrize("read", [lambda t: list(t.items()), lambda t: len(t), lambda t: list(t.range("a", "z")), lambda t: t["c"], lambda t: list(t.prefix("c"))], ids=["items", "len", "range", "getitem", "prefix"])
def test_a_read_that_would_show_another_state_is_a_conflict(broker: mqlite.Broker, table: Table, read: Callable[[Table], object]) -> None:
    tx = broker.transaction()
    mine = tx.table("t")
    assert mine["a"] == 1
    with broker.transaction() as other:
        other.table("t")["a"] = 100
        other.table("t")["c"] = 300
        other.table("t")["cc"] = 300
    with pytest.raises(mqlite.Conflict):
        read(mine)
    tx.rollback()


def test_the_state_is_one_for_all_tables(broker: mqlite.Broker) -> None:
    one, two = broker.table("one"), broker.table("two")
    one["n"] = two["n"] = 0
    tx = broker.transaction()
    assert tx.table("one")["n"] == 0
    with broker.transaction() as other:
        other.table("one")["n"] = other.table("two")["n"] = 1
    with pytest.raises(mqlite.Conflict):
        tx.table("two")["n"]
    tx.rollback()


def test_an_iteration_shows_one_state(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    table.update(dict.fromkeys(range(1000), 0))
    tx = broker.transaction()
    found = tx.table("t").range(0, 1000)
    assert next(found) == (0, 0)
    with broker.transaction() as other:
        for number in (0, 500, 999):
            other.table("t")[number] = 1
    try:
        values = [value for _, value in found]
    except mqlite.Conflict:
        values = [0]
    assert set(values) == {0}
    with pytest.raises((mqlite.Conflict, mqlite.Closed)):
        tx.commit()


def test_pairs_that_are_written_together_are_read_together(broker: mqlite.Broker, in_thread: InThread) -> None:
    table = broker.table("t")
    table.update({"a": 0, "b": 0})
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with broker.transaction() as tx:
                tx.table("t")["a"], tx.table("t")["b"] = number, -number

    writer = in_thread(write)
    seen = 0
    for _ in range(10_000):
        try:
            with broker.transaction() as tx:
                a = tx.table("t")["a"]
                b = tx.table("t")["b"]
                assert a == -b
            seen += 1
        except mqlite.Conflict:
            pass
        if seen >= 30:
            break
    over.set()
    writer.result(GUARD)
    assert seen


# ---------------------------------------------------------------------- check_reads=False
def test_without_checks_nothing_that_was_read_is_a_conflict(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction(check_reads=False) as tx:
        mine = tx.table("t")
        assert (mine["a"], len(mine), len(list(mine.items())), len(list(mine.range("a", "d")))) == (1, 7, 7, 2)
        table["a"], table["b"] = 100, "new"
        del table["c"]
        mine["e"] = 6
    assert (table["a"], table["e"]) == (100, 6)


def test_without_checks_each_read_shows_the_last_commit(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction(check_reads=False) as tx:
        mine = tx.table("t")
        for number in range(5):
            table["a"] = number
            table[f"new {number}"] = number
            assert (mine["a"], len(mine), mine.get(f"new {number}")) == (number, 8 + number, number)
            assert dict(mine) == dict(table)


def test_without_checks_own_writes_are_seen(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction(check_reads=False) as tx:
        mine = tx.table("t")
        mine["a"], mine["b"] = "mine", "too"
        del mine["c"]
        table["a"], table["c"] = "theirs", "theirs"
        assert (mine["a"], mine["b"], "c" in mine, len(mine)) == ("mine", "too", False, 7)
    assert (table["a"], table["b"], "c" in table) == ("mine", "too", False)


# ---------------------------------------------------------------------- expect
checks = pytest.mark.parametrize("check_reads", [True, False], ids=["checked", "unchecked"])


@checks
def test_an_expectation_that_holds_changes_nothing(broker: mqlite.Broker, table: Table, check_reads: bool) -> None:
    with broker.transaction(check_reads=check_reads) as tx:
        mine = tx.table("t")
        tx.expect("t", "a", 1)
        tx.expect(mine, "c", 3)
        tx.expect("t", "a", version=table.version("a"))
        tx.expect("t", "missing", version=0)
        tx.expect(mine, "e")
        tx.expect("t", "missing too")
        tx.expect("no such table", "k", version=0)
        tx.expect("t", "c", 3, version=table.version("c"))
        mine["done"] = True
    assert table["done"] is True
    assert broker.tables() == ["t"]


DIFFERS: dict[str, tuple[Callable[[mqlite.Transaction, Table], object], Callable[[Table], object]]] = {
    "value": (lambda tx, t: tx.expect("t", "a", 1), lambda t: t.__setitem__("a", 2)),
    "value, deleted": (lambda tx, t: tx.expect("t", "a", 1), lambda t: t.__delitem__("a")),
    "version": (lambda tx, t: tx.expect("t", "a", version=t.version("a")), lambda t: t.__setitem__("a", 2)),
    "same value in another version": (lambda tx, t: tx.expect("t", "a", version=t.version("a")), lambda t: t.__setitem__("a", 1)),
    "version, deleted": (lambda tx, t: tx.expect("t", "a", version=t.version("a")), lambda t: t.__delitem__("a")),
    "absent": (lambda tx, t: tx.expect("t", "b", version=0), lambda t: t.__setitem__("b", 2)),
    "as it is": (lambda tx, t: tx.expect("t", "a"), lambda t: t.__setitem__("a", 2)),
    "as it is, deleted": (lambda tx, t: tx.expect("t", "a"), lambda t: t.__delitem__("a")),
    "absent as it is": (lambda tx, t: tx.expect("t", "b"), lambda t: t.__setitem__("b", 2)),
    "by a table": (lambda tx, t: tx.expect(tx.table("t"), "a", 1), lambda t: t.__setitem__("a", 2)),
}


@checks
@pytest.mark.parametrize(("expect", "change"), DIFFERS.values(), ids=DIFFERS.keys())
def test_an_expectation_that_holds_no_more_fails_the_commit(
    broker: mqlite.Broker, table: Table, expect: Callable[[mqlite.Transaction, Table], object], change: Callable[[Table], object], check_reads: bool
) -> None:
    tx = broker.transaction(check_reads=check_reads)
    expect(tx, table)
    tx.table("log")["x"] = 1
    change(table)
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert "log" not in broker.tables()


WRONG: dict[str, Callable[[mqlite.Transaction], object]] = {
    "another value": lambda tx: tx.expect("t", "a", 2),
    "None": lambda tx: tx.expect("t", "a", None),
    "another type": lambda tx: tx.expect("t", 10, b"ten"),
    "a value that is absent": lambda tx: tx.expect("t", "b", None),
    "absent": lambda tx: tx.expect("t", "a", version=0),
    "another version": lambda tx: tx.expect("t", "a", version=10**9),
    "a version of what is absent": lambda tx: tx.expect("t", "b", version=1),
    "another key": lambda tx: tx.expect("t", b"a", 1),
    "another version of the value": lambda tx: tx.expect("t", "a", 1, version=10**9),
    "another value of the version": lambda tx: tx.expect("t", "a", 2, version=tx.table("t").version("a")),
}


@checks
@pytest.mark.parametrize("expect", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_already_is_told_at_once_and_by_the_commit(broker: mqlite.Broker, table: Table, expect: Callable[[mqlite.Transaction], object], check_reads: bool) -> None:
    tx = broker.transaction(check_reads=check_reads)
    tx.table("log")["x"] = 1
    with pytest.raises(mqlite.Conflict):
        expect(tx)
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert "log" not in broker.tables()
    assert not tx.is_open


def test_a_conflict_that_was_swallowed_fails_the_commit_even_if_the_row_is_as_expected_by_then(broker: mqlite.Broker, table: Table) -> None:
    tx = broker.transaction(check_reads=False)
    tx.table("log")["x"] = 1
    with pytest.raises(mqlite.Conflict):
        tx.expect("t", "a", 2)
    table["a"] = 2
    with pytest.raises(mqlite.Conflict):
        tx.commit()
    assert "log" not in broker.tables()


@checks
def test_an_expectation_is_about_what_is_stored_without_own_writes(broker: mqlite.Broker, table: Table, check_reads: bool) -> None:
    with broker.transaction(check_reads=check_reads) as tx:
        mine = tx.table("t")
        mine["a"], mine["b"] = 100, 2
        del mine["c"]
        tx.expect("t", "a", 1)
        tx.expect("t", "b", version=0)
        tx.expect("t", "c", 3)
    assert (table["a"], table["b"], "c" in table) == (100, 2, False)


def test_values_are_compared_as_values(broker: mqlite.Broker) -> None:
    table = broker.table("t")
    table["k"] = {"a": [1, None, "x"], "b": 1.5}
    with broker.transaction() as tx:
        tx.expect("t", "k", {"b": 1.5, "a": [1, None, "x"]})
    with pytest.raises(mqlite.Conflict), broker.transaction() as tx:
        tx.expect("t", "k", {"a": [1, None, "y"], "b": 1.5})


def test_none_is_a_value_that_can_be_expected(broker: mqlite.Broker) -> None:
    broker.table("t")["k"] = None
    with broker.transaction() as tx:
        tx.expect("t", "k", None)
    tx = broker.transaction()
    tx.expect("t", "k", None)
    broker.table("t")["k"] = 0
    with pytest.raises(mqlite.Conflict):
        tx.commit()


@pytest.mark.parametrize(("arguments", "options", "error"), [((5, "k"), {}, TypeError), ((None, "k"), {}, TypeError), (("", "k"), {}, ValueError), (("t", 1.5), {}, TypeError), (("t", True), {}, TypeError), (("t", "k" * 501), {}, ValueError), (("t", "k"), {"version": "1"}, TypeError)])
def test_bad_expectations_are_refused(broker: mqlite.Broker, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]) -> None:
    with broker.transaction() as tx, pytest.raises(error):
        tx.expect(*arguments, **options)


def test_a_table_of_another_transaction_is_refused(broker: mqlite.Broker, table: Table) -> None:
    with broker.transaction() as tx, broker.transaction() as other:
        for foreign in (other.table("t"), table):
            with pytest.raises((TypeError, ValueError)):
                tx.expect(foreign, "a", 1)


# ---------------------------------------------------------------------- run
def test_run_returns_what_the_function_returned_after_the_commit(broker: mqlite.Broker) -> None:
    q = broker.queue("q")

    def work(tx: mqlite.Transaction) -> mqlite.Receipt:
        assert isinstance(tx, mqlite.Transaction)
        tx.table("t")["k"] = "v"
        return q.put("x", tx=tx)

    receipt = broker.run(work)
    assert (receipt.result(), broker.table("t")["k"]) == (q.peek()[0].id, "v")
    assert broker.run(lambda tx: None) is None


def test_run_begins_anew_with_a_fresh_transaction_on_a_conflict_of_the_commit(broker: mqlite.Broker, table: Table) -> None:
    q = broker.queue("q")
    begun: list[mqlite.Transaction] = []
    receipts: list[mqlite.Receipt] = []

    def work(tx: mqlite.Transaction) -> int:
        assert all(not before.is_open for before in begun)
        begun.append(tx)
        receipts.append(q.put(len(begun), tx=tx))
        found = tx.table("t")["a"]
        if len(begun) < 3:
            table["a"] = found + 10
        tx.table("t")["a"] = found + 1
        return int(found)

    assert broker.run(work) == 21
    assert (len(begun), len(set(map(id, begun))), table["a"]) == (3, 3, 22)
    assert [message.body for message in q.browse()] == [3]
    assert [type(receipt.error) for receipt in receipts] == [mqlite.Conflict, mqlite.Conflict, type(None)]


def test_run_begins_anew_on_a_conflict_that_the_function_raises(broker: mqlite.Broker) -> None:
    q = broker.queue("q")
    calls: list[int] = []

    def work(tx: mqlite.Transaction) -> str:
        calls.append(1)
        q.put(len(calls), tx=tx)
        if len(calls) < 4:
            raise mqlite.Conflict("not yet")
        return "done"

    assert broker.run(work, attempts=4) == "done"
    assert [message.body for message in q.browse()] == [4]


@pytest.mark.parametrize("attempts", [1, 3])
def test_run_raises_the_last_conflict_after_so_many_attempts(broker: mqlite.Broker, attempts: int) -> None:
    raised: list[mqlite.Conflict] = []

    def work(tx: mqlite.Transaction) -> None:
        raised.append(mqlite.Conflict(f"number {len(raised)}"))
        raise raised[-1]

    with pytest.raises(mqlite.Conflict) as caught:
        broker.run(work, attempts=attempts)
    assert (len(raised), caught.value is raised[-1]) == (attempts, True)


def test_run_tries_a_hundred_times_unless_told_otherwise(broker: mqlite.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def work(tx: mqlite.Transaction) -> None:
        calls.append(1)
        raise mqlite.Conflict("again")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(mqlite.Conflict):
        broker.run(work)
    assert len(calls) == 100


@pytest.mark.parametrize("error", [ValueError, mqlite.LeaseLost, KeyError, KeyboardInterrupt, SystemExit])
def test_run_rolls_back_on_any_other_exception_which_goes_on(broker: mqlite.Broker, error: type[BaseException]) -> None:
    q = broker.queue("q")
    begun: list[mqlite.Transaction] = []

    def work(tx: mqlite.Transaction) -> None:
        begun.append(tx)
        q.put(1, tx=tx)
        raise error("stop")

    with pytest.raises(error, match="stop"):
        broker.run(work)
    assert ([tx.is_open for tx in begun], counts(q)) == ([False], (0, 0, 0, 0))


def test_run_does_not_try_again_when_the_commit_fails_otherwise(broker: mqlite.Broker) -> None:
    q = broker.queue("q", maxsize=1)
    q.put(0)
    calls: list[int] = []

    def work(tx: mqlite.Transaction) -> None:
        calls.append(1)
        q.put(1, tx=tx)

    with pytest.raises(mqlite.Full):
        broker.run(work)
    with pytest.raises(mqlite.Full):
        broker.run(work, timeout=0.02)
    assert len(calls) == 2


def test_run_waits_for_room(broker: mqlite.Broker, in_thread: InThread, until_waiting: UntilWaiting) -> None:
    q = broker.queue("q", maxsize=1)
    q.put(0)
    waiting = in_thread(broker.run, lambda tx: q.put(1, tx=tx), timeout=GUARD)
    until_waiting(q, Kind.SPACE)
    assert q.get(timeout=0) == 0
    assert waiting.result(GUARD).result() == q.peek()[0].id


def test_a_message_that_is_settled_in_run_is_settled_by_the_attempt_that_commits(broker: mqlite.Broker, table: Table) -> None:
    q = broker.queue("q")
    message = received(q)
    calls: list[int] = []

    def work(tx: mqlite.Transaction) -> None:
        calls.append(1)
        message.ack(tx=tx)
        tx.table("t")["a"] += 1
        if len(calls) == 1:
            table["a"] = 50

    broker.run(work)
    assert (len(calls), counts(q), table["a"]) == (2, (0, 0, 0, 0), 51)


def test_a_transaction_that_the_function_ended_is_left_alone(broker: mqlite.Broker) -> None:
    q = broker.queue("q")

    def commits(tx: mqlite.Transaction) -> str:
        q.put(1, tx=tx)
        tx.commit()
        return "committed"

    def rolls_back(tx: mqlite.Transaction) -> str:
        q.put(2, tx=tx)
        tx.rollback()
        return "rolled back"

    assert (broker.run(commits), broker.run(rolls_back)) == ("committed", "rolled back")
    assert [message.body for message in q.browse()] == [1]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((lambda tx: 1,), {"attempts": 0}, ValueError),
        ((lambda tx: 1,), {"attempts": -5}, ValueError),
        ((lambda tx: 1,), {"attempts": 1.0}, TypeError),
        ((lambda tx: 1,), {"attempts": "3"}, TypeError),
        ((lambda tx: 1,), {"attempts": True}, TypeError),
        ((lambda tx: 1,), {"attempts": None}, TypeError),
        ((lambda tx: 1,), {"timeout": -1}, ValueError),
        ((lambda tx: 1,), {"timeout": "1"}, TypeError),
        ((5,), {}, TypeError),
        ((None,), {}, TypeError),
        ((lambda tx: 1, 5), {}, TypeError),
    ],
)
def test_run_refuses_bad_arguments(broker: mqlite.Broker, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        broker.run(*arguments, **options)
