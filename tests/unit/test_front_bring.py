"""Messages of the tree that come to the front at once are the same bytes there as one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqlite.codecs import BYTES
from mqlite.log import InLine, batch
from mqlite.log import format as fmt
from mqlite.log.front_file import END, HEAD, MOST_RUNS, REMOVED_BYTES, RUNS, START, record_bytes
from mqlite.log.front_records import Records
from mqlite.message import Marks, Record

QUEUE = 7


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    made = Records(str(tmp_path_factory.mktemp("front") / "log.front"), False)
    made.epoch = 5 << 32 | 77
    return made


def emptied(records: Records, head: int = START, runs: int = 0, removed: int = 0) -> None:
    records._area[START:END] = bytes(END - START)
    records.words[HEAD], records.words[RUNS], records.words[REMOVED_BYTES] = head, runs, removed


def stored(bodies: list[bytes], ranks: list[int]) -> InLine:
    """So many plain messages, as they are in the tree."""
    numbers = range(1, len(bodies) + 1)
    payloads: Any = [(BYTES, body) for body in bodies]
    keys, values, _ = batch.sealed(QUEUE, numbers, batch.packed(sorted(ranks), payloads, [9] * len(bodies), [None] * len(bodies)))
    return InLine(list(map(fmt.position_of, keys)), values, keys)


def ways(records: Records, found: InLine, **room: int) -> tuple[Any, Any]:
    """(one by one, at once): the places, where they end, and all that is in the file then."""
    outcomes = []
    for copied in (records._copied, records._copied_alike):
        emptied(records, **room)
        done = copied(found)
        outcomes.append(None if done is None else (list(done[0]), done[1], bytes(records._area)))
    return outcomes[0], outcomes[1]


@given(st.integers(1, 40), st.integers(0, 70), st.integers(0, 3))
def test_those_of_one_size_and_rank_are_copied_at_once(records: Records, count: int, size: int, before: int) -> None:
    found = stored([bytes([n]) * size for n in range(count)], [3] * count)
    singly, at_once = ways(records, found, head=START + 16 * before, runs=before)
    assert len(at_once[0]) == count
    assert at_once == singly


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=1, max_size=20))
def test_others_are_copied_one_by_one(records: Records, shapes: list[tuple[int, int]]) -> None:
    found = stored([b"x" * size for _, size in shapes], [rank for rank, _ in shapes])
    singly, at_once = ways(records, found)
    are_alike = len({size for _, size in shapes}) == len({rank for rank, _ in shapes}) == 1
    assert (at_once is not None) == are_alike
    assert at_once in (None, singly)


def test_as_many_are_copied_as_there_is_room_for(records: Records) -> None:
    found = stored([b"x" * 20] * 10, [3] * 10)
    each = record_bytes(len(found.raws[0]))
    for room in (0, 1, each - 1, each, 9 * each, 10 * each - 1, 10 * each):
        for head, removed in ((END - room // 16 * 16, room % 16), (START, END - START - room)):
            singly, at_once = ways(records, found, head=head, removed=0 if head > START else removed)
            fits = room if head == START else room // 16 * 16
            assert len(singly[0]) == fits // each
            assert (at_once is not None) == (fits >= 10 * each)
            assert at_once in (None, singly)


def test_none_is_copied_where_another_rank_has_no_room(records: Records) -> None:
    found = stored([b"x"] * 3, [3] * 3)
    singly, at_once = ways(records, found, runs=MOST_RUNS)
    assert (singly[0], at_once) == ([], None)
    singly, at_once = ways(records, found, runs=MOST_RUNS - 1)
    assert at_once == singly
    assert len(at_once[0]) == 3


def test_what_has_marks_ends_it(records: Records) -> None:
    found = stored([b"x" * 8] * 4, [3] * 4)
    marked = fmt.draft_of(Record((BYTES, b""), 9, 3, marks=Marks(group=1)))
    found.raws[2] = fmt.sealed(marked, found.keys[2])  # type: ignore[index]
    assert len(found.raws[2]) == len(found.raws[1])
    singly, at_once = ways(records, found)
    assert (len(singly[0]), at_once) == (2, None)


def test_nothing_is_nothing(records: Records) -> None:
    singly, at_once = ways(records, InLine([], [], []))
    assert (singly[:2], at_once) == (([], START), None)
