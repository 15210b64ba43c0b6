"""Rows of tables in the log, in memory and on disk: what was stored is what is read, the numbers are exact, and damage is seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mqlite
from mqlite.errors import StoreCorrupted
from mqlite.log import Definition, Row, TableNumbers, rows

Payload = tuple[int, bytes]


class Shelf:
    """The log of one store, and its tables."""

    def __init__(self, broker: mqlite.Broker) -> None:
        self.broker = broker
        self.log: Any = broker._store.engine.log
        self.check = broker.check
        self.value_extra = 0 if broker.path is None else 13  # bytes of a stored value besides the value

    def table(self, name: str) -> int:
        """The number of a new table."""
        definition = Definition(0, f"\x1f{name}", {}, kind="table")
        self.log.write(lambda txn: txn.define(definition))
        return definition.id

    def put(self, table: int, *items: tuple[bytes, bytes]) -> int:
        """Store rows in one commit; their version."""

        def op(txn: Any) -> int:
            version: int = txn.next_seq()
            for key, value in items:
                txn.reserve(len(key) + self.log.row_bytes((0, value)))
                txn.put_row(table, key, (0, value), version)
            return version

        return int(self.log.write(op))

    def drop(self, table: int, key: bytes) -> bool:
        return bool(self.log.write(lambda txn: txn.drop_row(table, key, txn.next_seq())))

    def read(self, look: Callable[[Any], Any]) -> Any:
        with self.log.read() as snapshot:
            return look(snapshot)

    def row(self, table: int, key: bytes) -> Row | None:
        found: Row | None = self.read(lambda snapshot: snapshot.row(table, key))
        return found

    def numbers(self, table: int) -> TableNumbers:
        found: TableNumbers = self.read(lambda snapshot: snapshot.table_numbers(table))
        return found

    def keys(self, table: int, *bounds: Any, **options: Any) -> list[bytes]:
        return [key for key, _ in self.read(lambda snapshot: list(snapshot.rows(table, *bounds, **options)))]

    def raw(self, change: Callable[[Any], object]) -> None:
        """Change the bytes on the disk."""

        def op(txn: Any) -> None:
            change(txn._txn)
            txn.changed = True

        self.log.write(op)


@pytest.fixture
def shelf(backend: str, path: str) -> Iterator[Shelf]:
    with mqlite.open(path if backend == "disk" else None) as broker:
        yield Shelf(broker)
        assert broker.check() == []


@pytest.fixture
def t(shelf: Shelf) -> int:
    return shelf.table("t")


@pytest.fixture
def disk(path: str) -> Iterator[Shelf]:
    with mqlite.open(path) as broker:
        yield Shelf(broker)
        assert broker.check() == []


def version_of(reading: Any, table: int, key: bytes) -> int:
    """0 where there is no row."""
    row = reading.row(table, key)
    return 0 if row is None else int(row.version)



# ---------------------------------------------------------------------- one row
def test_a_row_comes_back_with_its_version(shelf: Shelf, t: int) -> None:
    version = shelf.put(t, (b"k", b"v"))
    assert shelf.row(t, b"k") == Row(version, (0, b"v"))
    assert shelf.read(lambda snapshot: version_of(snapshot, t, b"k")) == version > 0


def test_a_key_without_a_row_has_none(shelf: Shelf, t: int) -> None:
    shelf.put(t, (b"k", b"v"))
    for key in (b"", b"K", b"k\0", b"kk"):
        assert shelf.row(t, key) is None
        assert shelf.read(lambda snapshot, key=key: version_of(snapshot, t, key)) == 0


def test_a_replaced_row_has_the_new_value_and_a_greater_version(shelf: Shelf, t: int) -> None:
    first, second = shelf.put(t, (b"k", b"first")), shelf.put(t, (b"k", b"2"))
    assert shelf.row(t, b"k") == Row(second, (0, b"2"))
    assert second > first


@pytest.mark.parametrize("payload", [(0, b""), (1, "\ud800é".encode("utf-8", "surrogatepass")), (2, b"[1]"), (4, b"\0" * 5), (2, b"x" * (1 << 20))], ids=lambda payload: f"{payload[0]}-{len(payload[1])}")
def test_tag_and_bytes_of_a_value_come_back(shelf: Shelf, t: int, payload: Payload) -> None:
    shelf.log.write(lambda txn: txn.put_row(t, b"k", payload, txn.next_seq()))
    found = shelf.row(t, b"k")
    assert found is not None
    assert found.payload == payload


def test_a_dropped_row_is_gone_and_is_dropped_once(shelf: Shelf, t: int) -> None:
    shelf.put(t, (b"k", b"v"))
    assert [shelf.drop(t, b"k"), shelf.drop(t, b"k")] == [True, False]
    assert (shelf.row(t, b"k"), shelf.keys(t)) == (None, [])


def test_nothing_can_be_dropped_from_a_table_that_was_never_written_to(shelf: Shelf, t: int) -> None:
    assert not shelf.drop(t, b"k")
    assert shelf.numbers(t) == TableNumbers()


def test_rows_are_there_when_the_store_is_opened_again(path: str) -> None:
    with mqlite.open(path) as broker:
        disk = Shelf(broker)
        table = disk.table("t")
        version = disk.put(table, (b"a", b"1"), (b"b", b"2"))
        numbers = disk.numbers(table)
    with mqlite.open(path) as broker:
        disk = Shelf(broker)
        assert disk.read(lambda snapshot: list(snapshot.rows(table))) == [(b"a", Row(version, (0, b"1"))), (b"b", Row(version, (0, b"2")))]
        assert disk.numbers(table) == numbers
        assert disk.put(table, (b"c", b"3")) > version
        assert broker.check() == []


# ---------------------------------------------------------------------- keys
ODD_KEYS = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"a\0b", b"aa", b"a\xff", b"a\xff\xff", b"b", b"\xfe", b"\xff", b"\xff\0", b"\xff" * 500, b"a" * 500, b"\0" * 500]


def test_keys_of_any_bytes_are_kept_apart_and_in_byte_order(shelf: Shelf, t: int) -> None:
    shelf.put(t, *((key, b"<%b>" % key) for key in reversed(ODD_KEYS)))
    assert shelf.keys(t) == sorted(ODD_KEYS)
    assert shelf.keys(t, reverse=True) == sorted(ODD_KEYS, reverse=True)
    for key in ODD_KEYS:
        row = shelf.row(t, key)
        assert row is not None
        assert row.payload[1] == b"<%b>" % key
    for key in ODD_KEYS[::2]:
        assert shelf.drop(t, key)
    assert shelf.keys(t) == sorted(ODD_KEYS[1::2])


def test_a_range_begins_with_start_and_ends_before_stop(shelf: Shelf, t: int) -> None:
    shelf.put(t, *((key, b"") for key in ODD_KEYS))
    bounds = [*ODD_KEYS, b"B", b"a\0a", b"\xff" * 505]
    for start in bounds:
        for stop in [*bounds, None]:
            inside = sorted(key for key in ODD_KEYS if start <= key and (stop is None or key < stop))
            assert shelf.keys(t, start, stop) == inside
            assert shelf.keys(t, start, stop, reverse=True) == inside[::-1]


def test_a_table_s_rows_are_never_seen_in_another(shelf: Shelf) -> None:
    tables = [shelf.table(f"t{n}") for n in range(3)]
    for table in (tables[0], tables[2]):
        shelf.put(table, (b"", b"%d" % table), (b"\xff" * 20, b"%d" % table))
    assert [shelf.keys(table) for table in tables] == [[b"", b"\xff" * 20], [], [b"", b"\xff" * 20]]
    assert [shelf.keys(table, reverse=True) for table in tables] == [[b"\xff" * 20, b""], [], [b"\xff" * 20, b""]]
    assert shelf.row(tables[1], b"") is None
    assert shelf.drop(tables[0], b"")
    assert shelf.row(tables[2], b"") is not None
    assert [shelf.numbers(table).count for table in tables] == [1, 0, 2]


@pytest.mark.parametrize("table", [0, 255, 2**31 - 1, 2**32 - 1])
def test_tables_with_the_first_and_the_last_numbers_have_their_ends(shelf: Shelf, table: int) -> None:
    shelf.broker.queue("q").put(b"behind")
    shelf.put(table, (b"a", b""), (b"\xff" * 500, b""))
    for reverse in (False, True):
        assert sorted(shelf.keys(table, reverse=reverse)) == [b"a", b"\xff" * 500]


def test_a_table_and_a_queue_do_not_touch_each_other(shelf: Shelf, t: int) -> None:
    q = shelf.broker.queue("q")
    q.put_many([b"1", b"2"])
    shelf.put(t, (b"k", b"v"))
    assert q.get() == b"1"
    assert (q.get(), shelf.keys(t), shelf.log.write(lambda txn: txn.counters(t).put_total)) == (b"2", [b"k"], 0)


# ---------------------------------------------------------------------- numbers
def test_the_numbers_are_exact_after_each_change(shelf: Shelf, t: int) -> None:
    more = shelf.value_extra
    version = shelf.put(t, (b"key", b"value"), (b"", b""))
    assert shelf.numbers(t) == TableNumbers(version, 2, 8 + 2 * more)
    version = shelf.put(t, (b"key", b"x"))
    assert shelf.numbers(t) == TableNumbers(version, 2, 4 + 2 * more)
    assert shelf.drop(t, b"key")
    left = shelf.numbers(t)
    assert (left.count, left.bytes) == (1, more)
    assert left.version > version


def test_a_drop_of_nothing_leaves_the_version(shelf: Shelf, t: int) -> None:
    version = shelf.put(t, (b"k", b"v"))
    assert not shelf.drop(t, b"other")
    assert shelf.numbers(t).version == version


def test_numbers_that_were_read_do_not_change(shelf: Shelf, t: int) -> None:
    version = shelf.put(t, (b"k", b"v"))
    before = shelf.numbers(t)
    shelf.put(t, (b"l", b"v"))
    assert (before.version, before.count) == (version, 1)


def test_numbers_of_messages_and_versions_of_rows_come_from_one_counter(shelf: Shelf, t: int) -> None:
    q = shelf.broker.queue("q")
    numbers = [shelf.put(t, (b"a", b"")), q.put(1), shelf.put(t, (b"a", b"")), q.put(2)]
    assert numbers == sorted(set(numbers))


def test_what_is_reserved_for_a_row_is_no_less_than_it_takes(disk: Shelf) -> None:
    table = disk.table("t")
    disk.put(table, (b"key", b"value"))
    assert len(b"key") + rows.row_bytes((0, b"value")) >= disk.numbers(table).bytes


# ---------------------------------------------------------------------- transactions
def test_a_transaction_sees_its_own_changes(shelf: Shelf, t: int) -> None:
    shelf.put(t, (b"a", b"old"), (b"b", b"old"))

    def op(txn: Any) -> None:
        version = txn.next_seq()
        txn.put_row(t, b"a", (0, b"new"), version)
        assert txn.drop_row(t, b"b", version)
        txn.put_row(t, b"c", (1, b"new"), version)
        assert txn.row(t, b"a") == Row(version, (0, b"new"))
        assert txn.row(t, b"b") is None
        assert (version_of(txn, t, b"b"), version_of(txn, t, b"c")) == (0, version)
        assert list(txn.rows(t)) == [(b"a", Row(version, (0, b"new"))), (b"c", Row(version, (1, b"new")))]
        assert [key for key, _ in txn.rows(t, reverse=True)] == [b"c", b"a"]
        numbers = txn.table_numbers(t)
        assert (numbers.version, numbers.count, numbers.bytes) == (version, 2, 8 + 2 * shelf.value_extra)
        assert txn.last_seq() >= version

    shelf.log.write(op)
    assert shelf.keys(t) == [b"a", b"c"]


def test_an_aborted_transaction_leaves_nothing(disk: Shelf) -> None:
    table = disk.table("t")
    version = disk.put(table, (b"a", b"old"))
    before = disk.numbers(table)

    def op(txn: Any) -> None:
        txn.put_row(table, b"a", (0, b"new"), txn.next_seq())
        txn.put_row(table, b"b", (0, b"new"), txn.next_seq())
        txn.drop_row(table, b"a", txn.next_seq())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disk.log.write(op)
    assert disk.read(lambda snapshot: list(snapshot.rows(table))) == [(b"a", Row(version, (0, b"old")))]
    assert disk.numbers(table) == before


def test_a_snapshot_does_not_see_later_commits(disk: Shelf) -> None:
    table = disk.table("t")
    version = disk.put(table, (b"a", b"old"))
    with disk.log.read() as snapshot:
        assert version_of(snapshot, table, b"a") == version
        disk.put(table, (b"a", b"new"), (b"b", b"new"))
        assert snapshot.row(table, b"a") == Row(version, (0, b"old"))
        assert (len(list(snapshot.rows(table))), snapshot.table_numbers(table).count) == (1, 1)


def test_reading_commits_nothing(disk: Shelf) -> None:
    table = disk.table("t")
    disk.put(table, (b"a", b""))
    commits = disk.read(lambda snapshot: snapshot._txn.id())

    def op(txn: Any) -> list[Any]:
        return [txn.row(table, b"a"), list(txn.rows(table)), txn.table_numbers(table), txn.last_seq(), txn.drop_row(table, b"b", 1)]

    disk.log.write(op)
    assert disk.check() == []
    assert disk.read(lambda snapshot: snapshot._txn.id()) == commits


# ---------------------------------------------------------------------- beside a dict
keys = st.binary(max_size=3) | st.sampled_from(ODD_KEYS)
changes = st.lists(st.lists(st.tuples(keys, st.none() | st.binary(max_size=20)), min_size=1, max_size=8), max_size=8)
ranges = st.lists(st.tuples(keys, st.none() | keys, st.booleans()), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=changes, ranges=ranges)
def test_a_table_is_like_a_dict(shelf: Shelf, changes: list[list[tuple[bytes, bytes | None]]], ranges: list[tuple[bytes, bytes | None, bool]]) -> None:
    log, table = shelf.log, shelf.table(f"t{len(shelf.log.write(lambda txn: txn.definitions()))}")
    model: dict[bytes, Row] = {}
    last = 0

    def agrees(snapshot: Any) -> None:
        assert list(snapshot.rows(table)) == sorted(model.items())
        for start, stop, reverse in ranges:
            inside = [item for item in sorted(model.items()) if start <= item[0] and (stop is None or item[0] < stop)]
            assert list(snapshot.rows(table, start, stop, reverse)) == (inside[::-1] if reverse else inside)
            assert snapshot.row(table, start) == model.get(start)
        size = sum(len(key) + len(row.payload[1]) + shelf.value_extra for key, row in model.items())
        assert snapshot.table_numbers(table) == TableNumbers(last, len(model), size)

    def op(txn: Any, changed: list[tuple[bytes, bytes | None]]) -> None:
        nonlocal last
        version = txn.next_seq()
        for key, value in changed:
            if value is None:
                there = model.pop(key, None) is not None
                assert txn.drop_row(table, key, version) == there
                last = version if there else last
            else:
                last, model[key] = version, Row(version, (0, value))
                txn.put_row(table, key, (0, value), version)
            agrees(txn)

    for changed in changes:
        log.write(lambda txn, changed=changed: op(txn, changed))
        with log.read() as snapshot:
            agrees(snapshot)
    assert shelf.check() == []


# ---------------------------------------------------------------------- bytes
KEY, GOLDEN_KEY = b"key", bytes.fromhex("07 00000003") + b"key"
GOLDEN_VALUE = bytes.fromhex("684b2cd6 0000000000000102 02") + b'{"n":1}'
OLD_NUMBERS = bytes.fromhex("0000000000000102 0000000000000001 0000000000000017 2be2913d")
GOLDEN_NUMBERS = bytes.fromhex("0000000000000102 0000000000000001 0000000000000017 000000000000004d e32f1e61")


def test_the_bytes_of_a_row_are_those_of_format_version_4() -> None:
    assert rows.row_key(3, b"key") == GOLDEN_KEY
    assert rows.packed_row(GOLDEN_KEY, (2, b'{"n":1}'), 258) == GOLDEN_VALUE
    assert rows.unpacked_row(GOLDEN_KEY, GOLDEN_VALUE) == Row(258, (2, b'{"n":1}'))


def test_the_bytes_of_the_numbers_are_those_of_format_version_5() -> None:
    assert rows.prefix_of(rows.NUMBERS, 3) == bytes.fromhex("06 00000003")
    assert rows.packed_numbers(3, TableNumbers(258, 1, 23, 77)) == GOLDEN_NUMBERS
    assert rows.unpacked_numbers(3, GOLDEN_NUMBERS) == TableNumbers(258, 1, 23)
    assert rows.unpacked_numbers(3, GOLDEN_NUMBERS).sum == 77


def test_the_numbers_of_format_version_4_are_read_and_their_sum_is_not_known() -> None:
    assert rows.unpacked_numbers(3, OLD_NUMBERS) == TableNumbers(258, 1, 23)
    assert rows.unpacked_numbers(3, OLD_NUMBERS).sum == -1


def flips(value: bytes) -> Iterator[bytes]:
    """The bytes with one bit flipped, for each bit."""
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def test_a_flipped_bit_anywhere_in_a_row_or_its_key_is_seen() -> None:
    for stored_key, stored in [*((GOLDEN_KEY, value) for value in flips(GOLDEN_VALUE)), *((key, GOLDEN_VALUE) for key in flips(GOLDEN_KEY))]:
        with pytest.raises(StoreCorrupted, match="set or delete it"):
            rows.unpacked_row(stored_key, stored)


def test_a_flipped_bit_anywhere_in_the_numbers_or_their_key_is_seen() -> None:
    for stored in flips(GOLDEN_NUMBERS):
        with pytest.raises(StoreCorrupted, match="numbers of table 3"):
            rows.unpacked_numbers(3, stored)
    for bit in range(32):
        with pytest.raises(StoreCorrupted):
            rows.unpacked_numbers(3 ^ 1 << bit, GOLDEN_NUMBERS)


def test_a_row_and_numbers_cut_short_are_seen() -> None:
    for size in range(len(GOLDEN_VALUE)):
        with pytest.raises(StoreCorrupted):
            rows.unpacked_row(GOLDEN_KEY, GOLDEN_VALUE[:size])
    for size in range(len(GOLDEN_NUMBERS)):
        with pytest.raises(StoreCorrupted):
            rows.unpacked_numbers(3, GOLDEN_NUMBERS[:size])


# ---------------------------------------------------------------------- damage on the disk
def reads(table: int) -> list[Callable[[Any], Any]]:
    return [
        lambda snapshot: snapshot.row(table, KEY),
        lambda snapshot: version_of(snapshot, table, KEY),
        lambda snapshot: list(snapshot.rows(table)),
        lambda snapshot: list(snapshot.rows(table, reverse=True)),
    ]


@pytest.mark.parametrize("heal", ["put", "drop"])
def test_a_damaged_row_is_never_served_and_can_be_set_or_dropped(disk: Shelf, heal: str) -> None:
    table = disk.table("t")
    stored_key = rows.row_key(table, KEY)
    disk.put(table, (b"a", b"before"), (KEY, b"v"), (b"z", b"behind"))
    [stored] = [raw for key, raw in disk.read(lambda snapshot: list(snapshot.raw_rows(table))) if key == KEY]
    for damaged in flips(stored):
        disk.raw(lambda txn, damaged=damaged: txn.put(stored_key, damaged))
        for read in reads(table):
            with pytest.raises(StoreCorrupted, match=f"row b'key' of table {table} .*: set or delete it, or restore"):
                disk.read(read)
        [problem] = disk.check()
        assert problem.startswith("table 't': row b'key'")
        assert disk.keys(table, b"z") == [b"z"]
        if heal == "put":
            disk.put(table, (KEY, b"a longer value"))
        else:
            assert disk.drop(table, KEY)
        assert disk.check() == []
        assert disk.numbers(table).count == (3 if heal == "put" else 2)
        disk.put(table, (KEY, b"v"))


def test_a_row_moved_by_a_flipped_bit_of_its_key_is_told(disk: Shelf) -> None:
    disk.table("other")
    table = disk.table("t")
    stored_key = rows.row_key(table, KEY)
    for moved in flips(stored_key):
        disk.put(table, (KEY, b"v"))
        disk.raw(lambda txn, moved=moved: txn.put(moved, txn.pop(stored_key)))
        assert disk.row(table, KEY) is None
        assert disk.check() != []
        stays = moved.startswith(rows.prefix_of(rows.ROW, table))
        if moved.startswith(rows.ROW):
            there, key = int.from_bytes(moved[1:5], "big"), moved[5:]
            for read in (lambda snapshot, key=key, there=there: snapshot.row(there, key), lambda snapshot, there=there: list(snapshot.rows(there))):
                with pytest.raises(StoreCorrupted):
                    disk.read(read)
            assert disk.drop(there, key)
            assert (disk.check() == []) is stays
            assert disk.numbers(there).count == 0
        if not stays:
            disk.raw(lambda txn, moved=moved: [txn.delete(moved), txn.delete(rows.prefix_of(rows.NUMBERS, table))])
        assert disk.check() == []


def test_damaged_numbers_are_told_and_nothing_is_added_to_them(disk: Shelf) -> None:
    table = disk.table("t")
    disk.put(table, (KEY, b"v"))
    numbers_key = rows.prefix_of(rows.NUMBERS, table)
    whole = disk.read(lambda snapshot: snapshot._txn.get(numbers_key))
    disk.raw(lambda txn: txn.put(numbers_key, next(flips(whole))))
    for use in (lambda: disk.numbers(table), lambda: disk.put(table, (KEY, b"w")), lambda: disk.drop(table, KEY)):
        with pytest.raises(StoreCorrupted, match=f"numbers of table {table}"):
            use()
    [problem] = disk.check()
    assert "numbers" in problem
    row = disk.row(table, KEY)
    assert row is not None
    assert row.payload == (0, b"v")
    disk.raw(lambda txn: txn.put(numbers_key, whole))


WRONG: dict[str, tuple[Callable[[TableNumbers], TableNumbers], str]] = {
    "count": (lambda right: TableNumbers(right.version, 3, right.bytes), "2 rows are stored, 3 are counted"),
    "bytes": (lambda right: TableNumbers(right.version, 2, 7), "30 bytes are stored, 7 are counted"),
    "sum": (lambda right: TableNumbers(right.version, 2, right.bytes, right.sum + 1), "checksums do not add up"),
    "an older version": (lambda right: TableNumbers(right.version - 1, 2, right.bytes, right.sum), "a row has the version"),
    "a version to come": (lambda right: TableNumbers(right.version + 1, 2, right.bytes, right.sum), "greater than the last seq"),
}


@pytest.mark.parametrize("what", WRONG)
def test_numbers_that_do_not_agree_with_the_rows_are_told(disk: Shelf, what: str) -> None:
    table = disk.table("t")
    disk.put(table, (b"a", b"1"), (b"b", b"2"))
    right = disk.numbers(table)
    change, problem = WRONG[what]

    def store(numbers: TableNumbers) -> None:
        disk.raw(lambda txn: txn.put(rows.prefix_of(rows.NUMBERS, table), rows.packed_numbers(table, numbers)))

    store(change(right))
    [found] = disk.check()
    assert found.startswith("table 't': ")
    assert problem in found
    store(right)


def test_a_damaged_row_read_in_a_transaction_ends_it_alone(disk: Shelf) -> None:
    table = disk.table("t")
    disk.put(table, (KEY, b"v"))
    stored_key = rows.row_key(table, KEY)
    disk.raw(lambda txn: txn.put(stored_key, txn.get(stored_key)[:-1] + b"w"))

    def op(txn: Any) -> None:
        txn.put_row(table, b"other", (0, b""), txn.next_seq())
        txn.row(table, KEY)

    with pytest.raises(StoreCorrupted):
        disk.log.write(op)
    assert disk.row(table, b"other") is None
    disk.put(table, (KEY, b"v"))


def test_a_walk_may_be_left_in_the_middle(shelf: Shelf, t: int) -> None:
    shelf.put(t, *((b"%d" % n, b"") for n in range(5)))
    with shelf.log.read() as snapshot, contextlib.closing(snapshot.rows(t, b"2")) as walk:
        assert next(walk)[0] == b"2"
    assert shelf.drop(t, b"2")
