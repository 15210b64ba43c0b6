"""Rows that are stored together behave as each by itself."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mqlite
from mqlite.claims import Returned, Row, runs, shared_txn
from mqlite.claims.shared import SharedClaims

QUEUE, RANK, OWNER = 1, 3, 77
SEQS = st.integers(1, 40)


class Plain:
    """The claims of one queue beside a dict of its rows."""

    def __init__(self, claims: SharedClaims) -> None:
        self.claims = claims
        self.rows: dict[int, Row] = {}
        self.returned: set[int] = set()
        self.front = RANK << 64

    def check(self) -> None:
        with self.claims.read() as c:
            assert [(position, row) for _, position, row in c.rows(QUEUE)] == sorted(self.rows.items())
            assert c.claimed(QUEUE) == len(self.rows)
            assert {position for position, _ in c.returned(QUEUE)} == self.returned
            keys = sum(1 for _ in c._walk(b"R"))
            assert c._number(b"H") == len(self.rows) - keys
            for position in range(RANK << 64, self.front + 3):
                assert c.row(QUEUE, position) == self.rows.get(position)
                assert c.has_rows_ahead(QUEUE, RANK, position) == any(each > position for each in self.rows)

    def claim(self, c: Any, gaps: list[int], cut: int) -> None:
        """Rows for what is in line, with some missing between; those behind `cut` are alike in another way."""
        line = c.line(QUEUE, 0)
        if line is None or c.clear_cursor(QUEUE, line, RANK) is None:
            return
        positions = []
        for gap in gaps:
            self.front += gap
            positions.append(self.front)
        alike = [(Row(c.token, OWNER, 0, flags, 0, 1), count) for flags, count in ((1, min(cut, len(gaps))), (0, len(gaps) - cut)) if count > 0]
        assert c.has_room_for(len(positions))
        c.claim_in_line(QUEUE, line, positions, alike)
        self.rows.update(zip(positions, [row for row, count in alike for _ in range(count)], strict=True))

    def drop_settled(self, c: Any, seqs: list[int]) -> None:
        positions = [RANK << 64 | seq for seq in seqs]
        there = {position for position in positions if position in self.rows}
        assert c.drop_settled(QUEUE, positions) == len(there)
        for position in there:
            del self.rows[position]

    def drop(self, c: Any, seq: int) -> None:
        position = RANK << 64 | seq
        assert c.drop(QUEUE, position) == (self.rows.pop(position, None) is not None)

    def replace(self, c: Any, seq: int) -> None:
        position = RANK << 64 | seq
        if position in self.rows:
            self.rows[position] = self.rows[position]._replace(deadline_ns=seq)
            c.replace(QUEUE, position, self.rows[position])

    def give_back(self, c: Any, seq: int) -> None:
        position = RANK << 64 | seq
        if position in self.rows:
            del self.rows[position]
            self.returned.add(position)
            c.give_back(QUEUE, position, Returned(0, 1))

    def claim_one(self, c: Any, seq: int) -> None:
        position, row = RANK << 64 | seq, Row(c.token, OWNER, 0, 1, 0, 2)
        assert c.claim(QUEUE, position, row) == (position not in self.rows)
        if position not in self.rows:
            self.rows[position] = row
            if position in self.returned:
                self.returned.remove(position)
                c.take_returned(QUEUE, position)
            self.front = max(self.front, position)
            c.advance(QUEUE, self.front)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.lists(st.sampled_from([1, 1, 1, 1, 2]), min_size=1, max_size=9), st.integers(0, 9)),
        st.tuples(st.just("drop_settled"), st.lists(SEQS, min_size=1, max_size=12)),
        st.tuples(st.sampled_from(["drop", "replace", "give_back", "claim_one"]), SEQS),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(STEPS)
def test_rows_in_runs_are_the_rows_that_were_made(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    claims = SharedClaims(str(tmp_path_factory.mktemp("claims") / "claims.mdb"), memoryview(bytearray(4096)).cast("Q"))
    claims.open()
    try:
        plain = Plain(claims)
        for name, *arguments in steps:
            with claims.lock, claims.guard, claims.write() as c:
                getattr(plain, name)(c, *arguments)
            plain.check()
    finally:
        claims.environment.close()


@pytest.fixture
def claims(tmp_path: Path) -> Any:
    made = SharedClaims(str(tmp_path / "claims.mdb"), memoryview(bytearray(4096)).cast("Q"))
    made.open()
    yield made
    made.environment.close()


def _claim(claims: SharedClaims, seqs: range) -> None:
    with claims.lock, claims.guard, claims.write() as c:
        line = c.line(QUEUE, 0)
        c.clear_cursor(QUEUE, line, RANK)
        c.claim_in_line(QUEUE, line, [RANK << 64 | seq for seq in seqs], [(Row(c.token, OWNER, 0, 1, 0, 1), len(seqs))])


def test_neighbours_that_are_claimed_at_once_are_one_entry(claims: SharedClaims) -> None:
    _claim(claims, range(1, 101))
    with claims.read() as c:
        assert sum(1 for _ in c._walk(b"R")) == 1


def test_the_last_of_a_run_goes_alone(claims: SharedClaims) -> None:
    _claim(claims, range(1, 4))
    with claims.lock, claims.guard, claims.write() as c:
        assert c.drop_settled(QUEUE, [RANK << 64 | 3]) == 1
    with claims.read() as c:
        assert [position & 0xFF for _, position, _ in c.rows(QUEUE)] == [1, 2]


def test_a_run_uses_the_room_that_its_rows_need_when_they_are_given_back(claims: SharedClaims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_txn, "MAX_ENTRIES", 60)
    _claim(claims, range(1, 51))
    with claims.lock, claims.guard, claims.write() as c:
        assert not c.has_room_for(10)
        assert c.has_room_for(2)


def test_what_a_transaction_that_is_given_up_has_claimed_takes_no_room(claims: SharedClaims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_txn, "MAX_ENTRIES", 5)
    with contextlib.suppress(ValueError), claims.lock, claims.guard, claims.write() as c:
        while c.has_room():
            pass
        raise ValueError
    with claims.lock, claims.guard, claims.write() as c:
        assert c.has_room()


def test_what_is_forgotten_of_a_queue_is_not_counted_any_more(claims: SharedClaims) -> None:
    _claim(claims, range(1, 51))
    with claims.lock, claims.guard, claims.write() as c:
        c.forget_queue(QUEUE)
    with claims.read() as c:
        assert c._number(b"H") == 0
        assert not list(c.rows())


def test_what_a_transaction_that_is_given_up_took_out_of_a_run_stays(claims: SharedClaims) -> None:
    _claim(claims, range(1, 6))
    with contextlib.suppress(ValueError), claims.lock, claims.guard, claims.write() as c:
        c.drop_settled(QUEUE, [RANK << 64 | 3])
        raise ValueError
    with claims.lock, claims.guard, claims.write() as c:
        assert c.drop_settled(QUEUE, [RANK << 64 | seq for seq in range(1, 6)]) == 5
    with claims.read() as c:
        assert c._number(b"H") == 0


def test_a_row_that_was_taken_out_of_a_run_is_not_met_again(claims: SharedClaims) -> None:
    _claim(claims, range(1, 6))
    with claims.lock, claims.guard, claims.write() as c:
        assert c.row(QUEUE, RANK << 64 | 2) is not None
        c.give_back(QUEUE, RANK << 64 | 3, Returned(0, 1))
        met = [seq for seq in range(1, 7) if c.row(QUEUE, RANK << 64 | seq) is not None]
    assert met == [1, 2, 4, 5]


def test_a_run_of_a_transaction_that_was_given_up_is_not_met_again(claims: SharedClaims) -> None:
    with contextlib.suppress(ValueError), claims.lock, claims.guard, claims.write() as c:
        line = c.line(QUEUE, 0)
        c.clear_cursor(QUEUE, line, RANK)
        c.claim_in_line(QUEUE, line, [RANK << 64 | seq for seq in range(1, 6)], [(Row(c.token, OWNER, 0, 1, 0, 1), 5)])
        assert c.row(QUEUE, RANK << 64 | 2) is not None
        raise ValueError
    with claims.lock, claims.guard, claims.write() as c:
        assert c.row(QUEUE, RANK << 64 | 3) is None


def test_rows_of_a_run_are_those_of_its_queue_only(claims: SharedClaims) -> None:
    _claim(claims, range(1, 6))
    with claims.read() as c:
        assert c.row(QUEUE, RANK << 64 | 2) is not None
        assert c.row(QUEUE + 1, RANK << 64 | 3) is None
        assert c.row(QUEUE - 1, RANK << 64 | 3) is None


def test_a_wrong_number_of_rows_in_runs_is_told(claims: SharedClaims) -> None:
    _claim(claims, range(1, 6))
    with claims.lock, claims.guard, claims.write() as c:
        assert c.problems() == []
        c._changing.put(b"H", (3).to_bytes(8, "big"))
        assert c.problems() == ["4 claims are stored with others, 3 are counted"]


def test_a_check_looks_at_the_number_of_rows_in_runs(path: str) -> None:
    with mqlite.open(path) as broker:
        queue = broker.queue("q")
        queue.put_many(range(9))
        held = [*queue.receive(1), *queue.receive(8)]
        claims = broker._store.claims
        with claims.lock, claims.guard, claims.write() as c:
            c._changing.put(b"H", bytes(8))
        assert broker.check() == ["7 claims are stored with others, 0 are counted"]
        with claims.lock, claims.guard, claims.write() as c:
            c._changing.put(b"H", (7).to_bytes(8, "big"))
        queue.ack_many(held)
        assert broker.check() == []


@given(st.integers(1, 9), st.sets(st.integers(1, 9)))
def test_what_is_left_of_a_run_is_what_was_not_taken_out(count: int, gone: set[int]) -> None:
    gone = {position for position in gone if position <= count}
    left = [position for last, length in runs.left_of(count, count, sorted(gone)) for position in range(last - length + 1, last + 1)]
    assert left == sorted(set(range(1, count + 1)) - gone)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_stretches_cover_each_position_once(places: set[int]) -> None:
    found = runs.stretches(sorted(places))
    assert [position for last, length in found for position in range(last - length + 1, last + 1)] == sorted(places)
    assert all(later - length > last for (last, _), (later, length) in itertools.pairwise(found))


@pytest.mark.parametrize("seed", range(6))
def test_as_many_claims_as_there_may_be_are_given_back_and_made_again_in_any_order(claims: SharedClaims, seed: int) -> None:
    """Pages of the commit before are not used again, so large commits one after the other take the most room."""
    chance = random.Random(seed)
    count = shared_txn.MAX_ENTRIES - 100  # as many as that leave room for cursors and sleepers
    positions = [RANK << 64 | seq for seq in range(1, count + 1)]

    def in_groups(change: Callable[[Any, int], object]) -> None:
        order, size = chance.sample(positions, count), chance.choice((64, 1000, count))
        for start in range(0, count, size):
            with claims.lock, claims.guard, claims.write() as c:
                for position in order[start : start + size]:
                    change(c, position)

    def claim_again(c: Any, position: int) -> None:
        c.take_returned(QUEUE, position)
        c.claim(QUEUE, position, row)

    _claim(claims, range(1, count + 1))
    row = Row(1, OWNER, 0, 1, 0, 2)
    for _ in range(2):
        in_groups(lambda c, position: c.give_back(QUEUE, position, Returned(0, 1)))
        in_groups(claim_again)
        in_groups(lambda c, position: c.replace(QUEUE, position, row))
    with claims.read() as c:
        assert c.claimed(QUEUE) == count
