"""Many messages at once are the same bytes, and the same records, as each by itself."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqlite.codecs import BYTES, JSON, TEXT, BodyCodec
from mqlite.errors import CodecError, MessageCorrupted
from mqlite.log import InLine, batch
from mqlite.log import format as fmt
from mqlite.message import Record

QUEUE = 7
RANKS = st.integers(0, (1 << 32) - 1)
PAYLOADS = st.tuples(st.sampled_from([BYTES, TEXT, JSON]), st.binary(max_size=40))
TIMES = st.integers(0, (1 << 64) - 1)
EXTRAS = st.none() | st.fixed_dictionaries({"headers": st.dictionaries(st.text(max_size=4), st.integers(), max_size=2)})
MESSAGES = st.lists(st.tuples(RANKS, PAYLOADS, TIMES, EXTRAS), min_size=1, max_size=20)


def packed(messages: list[Any]) -> batch.PackedBatch:
    return batch.packed(*map(list, zip(*messages, strict=True)))


def sealed(count: int) -> InLine:
    """So many plain messages as they are stored; its `raws` may be changed."""
    keys, values, _ = batch.sealed(QUEUE, range(1, count + 1), packed([(5, (BYTES, b"body"), 9, None)] * count))
    return InLine(fmt.positions_of(keys), values, keys)


@given(MESSAGES, st.integers(1, 1 << 50))
def test_messages_of_a_batch_are_stored_as_each_by_itself(messages: list[Any], first: int) -> None:
    ids = range(first, first + len(messages))
    keys, values, sums = batch.sealed(QUEUE, ids, packed(messages))
    for key, value, total, number, (rank, payload, time, extras) in zip(keys, values, sums, ids, messages, strict=True):
        assert key == fmt.message_key(fmt.queue_key(fmt.MESSAGE, QUEUE), rank << 64 | number)
        assert value == fmt.sealed(fmt.draft_of(Record(payload, time, number, 0, 0, extras)), key)
        assert total == fmt.sum_of(value)


@given(MESSAGES)
def test_room_for_a_batch_is_that_for_each_of_its_messages(messages: list[Any]) -> None:
    made = packed(messages)
    keys, values, _ = batch.sealed(QUEUE, range(1, len(messages) + 1), made)
    assert made.footprint == sum(map(len, keys)) + sum(map(len, values))
    assert made.largest == max(len(body) for _, (_, body), _, _ in messages)


@given(MESSAGES)
def test_messages_that_are_claimed_together_are_read_as_each_by_itself(messages: list[Any]) -> None:
    keys, values, _ = batch.sealed(QUEUE, range(1, len(messages) + 1), packed(messages))
    payloads, rests = batch.claimed(InLine(list(map(fmt.position_of, keys)), values, keys))
    singly = [fmt.decoded(key, value) for key, value in zip(keys, values, strict=True)]
    assert payloads == [record.payload for record in singly]
    for rest, value, record in zip(rests, values, singly, strict=False):
        claimed = attrs.evolve(record, acquired_count=record.acquired_count + 1)
        assert attrs.astuple(Record(record.payload, *rest(value))) == attrs.astuple(claimed)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
@pytest.mark.parametrize("byte", [0, 4, 5, 7, 11, 20, 36], ids=["crc", "version", "tag", "flags", "extras", "time", "body"])
def test_a_flipped_bit_in_one_of_a_batch_is_found(place: int, byte: int) -> None:
    found = sealed(3)
    damaged = bytearray(found.raws[place])
    damaged[byte] ^= 1
    found.raws[place] = bytes(damaged)
    with pytest.raises(MessageCorrupted):
        batch.claimed(found)


@pytest.mark.parametrize("size", [0, 3, 35])
def test_a_value_of_a_batch_that_was_cut_off_is_found(size: int) -> None:
    found = sealed(3)
    found.raws[1] = found.raws[1][:size]
    with pytest.raises(MessageCorrupted):
        batch.claimed(found)


def test_a_message_of_a_batch_that_lies_at_another_place_is_found() -> None:
    positions, values, keys = sealed(3)
    with pytest.raises(MessageCorrupted):
        batch.claimed(InLine(positions, values, [keys[0], keys[2], keys[1]]))


@given(st.integers(0, 3), st.sets(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=1))
def test_the_positions_of_many_keys_are_those_of_each(lowest: int, places: set[tuple[int, int]]) -> None:
    positions = [lowest + rank << 64 | seq for rank, seq in sorted(places)]
    keys = [fmt.message_key(fmt.queue_key(fmt.MESSAGE, QUEUE), position) for position in positions]
    assert list(fmt.positions_of(keys)) == list(map(fmt.position_of, keys))


@pytest.mark.parametrize("bodies", [[], [b"a", b""], ["a"], [b"a", "b", 3, None], [{"k": [1]}]])
def test_bodies_are_encoded_together_as_each_by_itself(bodies: list[Any]) -> None:
    codec = BodyCodec("json")
    assert codec.encode_all(iter(bodies)) == list(map(codec.encode, bodies))


def test_one_body_that_cannot_be_carried_is_told_among_many() -> None:
    with pytest.raises(CodecError):
        BodyCodec("json").encode_all([b"a", object()])


@pytest.mark.parametrize("bodies", [[b"a", b""], ["a"], [b"a", "b", 3, None], [{"k": [1]}]])
def test_bodies_are_decoded_together_as_each_by_itself(bodies: list[Any]) -> None:
    codec = BodyCodec("json")
    assert codec.decode_all(codec.encode_all(bodies)) == bodies


def test_one_body_that_cannot_be_decoded_is_told_among_many() -> None:
    with pytest.raises(CodecError):
        BodyCodec("json").decode_all([(BYTES, b"a"), (JSON, b"{")])
