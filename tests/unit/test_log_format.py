"""Every byte on disk: what was written is what is read, and damage is seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqlite.errors import MessageCorrupted, StoreCorrupted
from mqlite.log import Counters, Definition, counting
from mqlite.log import format as fmt
from mqlite.message import Record

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
texts = st.text(max_size=10)
extras = st.none() | st.dictionaries(texts, st.none() | texts | st.integers() | st.dictionaries(texts, texts, max_size=2), min_size=1, max_size=3)
records = st.builds(Record, payload=st.tuples(st.integers(0, 4), st.binary(max_size=200)), enqueued_ns=u64, id=u64, delivery_count=u32, acquired_count=u32, extras=extras)

GOLDEN_KEY = bytes.fromhex("10 00000007 7fffffff 0000000000000102")
GOLDEN_RECORD = Record((2, b'{"n":1}'), 1_700_000_000_123_456_789, 258, 3, 4, {"type": "t"})
GOLDEN_VALUE = bytes.fromhex(
    "5965bc33 01 02 0000 0000000c 0000000000000102 17979cfe3d85cd15 00000003 00000004"
    + b'{"type":"t"}{"n":1}'.hex()
)


def key_of(queue: int, position: int) -> bytes:
    return fmt.message_key(fmt.queue_key(fmt.MESSAGE, queue), position)


def fields(record: Record) -> tuple[Any, ...]:
    return record.payload, record.enqueued_ns, record.id, record.delivery_count, record.acquired_count, record.extras


@given(records, u32, st.integers(0, 2**96 - 1))
def test_a_record_comes_back_as_it_was(record: Record, queue: int, position: int) -> None:
    key = key_of(queue, position)
    assert fields(fmt.decoded(key, fmt.sealed(fmt.draft_of(record), key))) == fields(record)


def test_the_bytes_of_a_message_are_those_of_format_version_1() -> None:
    assert fmt.sealed(fmt.draft_of(GOLDEN_RECORD), GOLDEN_KEY) == GOLDEN_VALUE


def test_a_message_of_format_version_1_can_be_read() -> None:
    assert fields(fmt.decoded(GOLDEN_KEY, GOLDEN_VALUE)) == fields(GOLDEN_RECORD)


def test_the_key_of_a_message_is_that_of_format_version_1() -> None:
    assert key_of(7, 0x7FFFFFFF << 64 | 258) == GOLDEN_KEY


@given(u32, st.integers(0, 2**96 - 1), st.integers(0, 2**96 - 1))
def test_keys_sort_as_positions_do(queue: int, one: int, other: int) -> None:
    assert (key_of(queue, one) < key_of(queue, other)) == (one < other)


@given(u32, st.integers(0, 2**96 - 1))
def test_a_position_is_read_back_from_its_key(queue: int, position: int) -> None:
    assert fmt.position_of(key_of(queue, position)) == position


def test_a_flipped_bit_anywhere_in_a_message_is_seen() -> None:
    value = fmt.sealed(fmt.draft_of(GOLDEN_RECORD), GOLDEN_KEY)
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MessageCorrupted):
            fmt.decoded(GOLDEN_KEY, bytes(damaged))


def test_a_flipped_bit_anywhere_in_the_key_is_seen() -> None:
    value = fmt.sealed(fmt.draft_of(GOLDEN_RECORD), GOLDEN_KEY)
    for bit in range(8 * len(GOLDEN_KEY)):
        damaged = bytearray(GOLDEN_KEY)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MessageCorrupted):
            fmt.decoded(bytes(damaged), value)


def test_a_message_cut_short_anywhere_is_seen() -> None:
    value = fmt.sealed(fmt.draft_of(GOLDEN_RECORD), GOLDEN_KEY)
    for size in range(len(value)):
        with pytest.raises(MessageCorrupted):
            fmt.decoded(GOLDEN_KEY, value[:size])


@given(records, st.binary(min_size=1, max_size=50))
def test_bytes_behind_a_message_are_seen(record: Record, more: bytes) -> None:
    with pytest.raises(MessageCorrupted):
        fmt.decoded(GOLDEN_KEY, fmt.sealed(fmt.draft_of(record), GOLDEN_KEY) + more)


def test_a_message_of_a_later_version_is_not_guessed_at() -> None:
    header, tail = b"\x02" + GOLDEN_VALUE[5:36], GOLDEN_VALUE[36:]
    crc = zlib.crc32(GOLDEN_KEY, zlib.crc32(header, zlib.crc32(tail)))
    with pytest.raises(MessageCorrupted):
        fmt.decoded(GOLDEN_KEY, crc.to_bytes(4, "big") + header + tail)


@given(st.binary(max_size=100))
def test_what_is_salvaged_are_the_damaged_bytes(value: bytes) -> None:
    record = fmt.salvaged(GOLDEN_KEY, value, 5)
    assert (record.payload[1], record.enqueued_ns) == (value, 5)


@given(st.binary(max_size=100))
def test_the_time_of_put_can_be_asked_of_any_bytes(value: bytes) -> None:
    assert fmt.enqueued_ns(value) >= 0


@given(records)
def test_the_time_of_put_is_read_without_decoding(record: Record) -> None:
    assert fmt.enqueued_ns(fmt.sealed(fmt.draft_of(record), GOLDEN_KEY)) == record.enqueued_ns


@given(records)
def test_the_overhead_is_what_a_message_takes_besides_body_and_extras(record: Record) -> None:
    draft = fmt.draft_of(record)
    assert len(GOLDEN_KEY) + len(fmt.sealed(draft, GOLDEN_KEY)) == fmt.OVERHEAD_BYTES + draft.extras_bytes + draft.body_bytes


# ---------------------------------------------------------------------- the small records
@given(u64, u64, u64, u64, u32)
def test_counters_come_back(put: int, put_bytes: int, removed: int, removed_bytes: int, version: int) -> None:
    counters = Counters(put, put_bytes, removed, removed_bytes, version)
    assert counting.unpacked_counters(counting.packed_put(counters), counting.packed_removed(counters)) == counters


def test_a_queue_without_counters_has_none() -> None:
    assert counting.unpacked_counters(None, None) == Counters()


@given(u32, st.integers(0, 2**96 - 1))
def test_the_counters_of_a_queue_lie_around_its_messages(queue: int, position: int) -> None:
    assert counting.removed_key(queue) < key_of(queue, position) < counting.put_key(queue)


@given(st.integers(0, 2**32 - 2))
def test_the_counters_of_a_queue_lie_before_the_next_queue(queue: int) -> None:
    assert counting.put_key(queue) < counting.removed_key(queue + 1)


@given(u64)
def test_the_seq_comes_back(seq: int) -> None:
    assert counting.unpacked_seq(counting.packed_seq(seq)) == seq


def test_the_store_s_record_comes_back() -> None:
    assert fmt.unpacked_store(fmt.packed_store("0f" * 16)) == (fmt.FORMAT, "0f" * 16)


@given(st.builds(Definition, u32, texts, st.dictionaries(texts, st.none() | st.integers() | st.booleans() | texts), st.integers(1)))
def test_definitions_come_back(definition: Definition) -> None:
    assert fmt.unpacked_definition(fmt.packed_definition(definition)) == definition


SMALL: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "put": (counting.packed_put(Counters(1, 2, 3, 4, 5)), lambda value: counting.unpacked_counters(value, None)),
    "removed": (counting.packed_removed(Counters(1, 2, 3, 4, 5)), lambda value: counting.unpacked_counters(None, value)),
    "seq": (counting.packed_seq(5), counting.unpacked_seq),
    "store": (fmt.packed_store("0f" * 16), fmt.unpacked_store),
    "definition": (fmt.packed_definition(Definition(1, "q", {"maxsize": 5})), fmt.unpacked_definition),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_flipped_bit_anywhere_in_a_small_record_is_seen(name: str) -> None:
    value, read = SMALL[name]
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreCorrupted):
            read(bytes(damaged))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_record_cut_short_is_seen(name: str) -> None:
    value, read = SMALL[name]
    for size in range(len(value)):
        with pytest.raises(StoreCorrupted):
            read(value[:size])
