"""The words of the bench: who sits where, whose turn it is, and what is in use."""

from __future__ import annotations

import random

import pytest

from mqlite.claims import Waiting
from mqlite.claims.bench import FIRST, PLACE_WORDS, UP_TO, Bench
from mqlite.log.front_file import BENCH, START

PLACES = 5


def made(places: int = PLACES) -> tuple[Bench, memoryview]:
    words = memoryview(bytearray(8 * (FIRST + PLACE_WORDS * places))).cast("Q")
    return Bench(words), words


@pytest.fixture
def bench() -> Bench:
    return made()[0]


def test_who_sits_is_seen_and_who_leaves_is_not(bench: Bench) -> None:
    assert bench.is_empty()
    first = bench.sit(3, Waiting(11, 21, 31))
    second = bench.sit(4, Waiting(12, 22, 0))
    assert not bench.is_empty()
    assert bench.of(3) == [Waiting(11, 21, 31)]
    assert bench.of(4) == [Waiting(12, 22, 0)]
    assert bench.of(5) == []
    assert bench.everybody() == [Waiting(11, 21, 31), Waiting(12, 22, 0)]
    assert (bench.place_of(3, 11, 21), bench.place_of(4, 12, 22)) == (first, second)
    bench.leave(first)
    assert bench.everybody() == [Waiting(12, 22, 0)]
    assert bench.place_of(3, 11, 21) == 0
    bench.leave(second)
    assert bench.is_empty()


def test_queue_0_and_one_that_has_a_high_bit_are_queues_like_others(bench: Bench) -> None:
    for queue in (0, 1 << 31 | 7):
        place = bench.sit(queue, Waiting(1, 2, 0))
        assert bench.of(queue) == [Waiting(1, 2, 0)]
        bench.leave(place)


@pytest.mark.parametrize("other", [(4, 11, 21), (3, 12, 21), (3, 11, 22)])
def test_a_place_is_that_of_queue_sleeper_and_owner_together(bench: Bench, other: tuple[int, int, int]) -> None:
    bench.sit(3, Waiting(11, 21, 0))
    assert bench.place_of(*other) == 0


def test_the_time_to_wake_can_be_changed(bench: Bench) -> None:
    place = bench.sit(3, Waiting(11, 21, 0))
    bench.note_wake(place, 77)
    assert bench.of(3) == [Waiting(11, 21, 77)]


def test_a_place_that_is_free_is_taken_before_a_new_one(bench: Bench) -> None:
    places = [bench.sit(1, Waiting(number, 1, 0)) for number in range(3)]
    bench.leave(places[1])
    assert bench.sit(2, Waiting(9, 1, 0)) == places[1]


def test_where_all_places_are_taken_nobody_sits_down(bench: Bench) -> None:
    places = [bench.sit(1, Waiting(number, 1, 0)) for number in range(PLACES)]
    assert 0 not in places
    assert bench.sit(1, Waiting(99, 1, 0)) == 0
    assert len(bench.everybody()) == PLACES
    bench.leave(places[2])
    assert bench.sit(1, Waiting(99, 1, 0)) == places[2]


def test_a_store_has_127_places() -> None:
    assert (START // 8 - BENCH - FIRST) // PLACE_WORDS == 127


def test_all_have_their_turn(bench: Bench) -> None:
    for number in range(3):
        bench.sit(1, Waiting(number, 1, 0))
    bench.sit(2, Waiting(9, 1, 0))
    called = []
    for _ in range(6):
        found = bench.first(1)
        assert found is not None
        called.append(found[1].sleeper)
        bench.leave(found[0])
        bench.sit(1, found[1])  # he sits down again at once
    assert sorted(called[:3]) == [0, 1, 2]
    assert called[:3] == called[3:]
    found = bench.first(2)
    assert found is not None
    assert found[1] == Waiting(9, 1, 0)
    assert bench.first(3) is None


def test_those_of_one_process_leave_together(bench: Bench) -> None:
    for number in range(PLACES):
        bench.sit(number, Waiting(number, number % 2, 0))
    bench.leave_all(1)
    assert bench.everybody() == [Waiting(number, 0, 0) for number in (0, 2, 4)]
    bench.leave_all(0)
    assert bench.is_empty()


def test_a_kill_between_the_stores_of_one_who_sits_down_leaves_nothing_when_his_process_has_left() -> None:
    bench, words = made()
    words[FIRST + 2], words[UP_TO] = 7, 1  # the owner, and the place in use, without the queue
    assert bench.everybody() == []
    bench.leave_all(7)
    assert bench.is_empty()


def test_in_any_order_up_to_is_behind_the_last_who_sits() -> None:
    chance = random.Random(5)
    bench, words = made()
    sitting: dict[int, Waiting] = {}
    for number in range(2000):
        if sitting and chance.random() < 0.5:
            place = chance.choice(sorted(sitting))
            bench.leave(place)
            del sitting[place]
        else:
            place = bench.sit(7, Waiting(number, 1, 0))
            assert place not in sitting
            if place:
                sitting[place] = Waiting(number, 1, 0)
            else:
                assert len(sitting) == PLACES
        last = max(sitting, default=FIRST - PLACE_WORDS)
        assert words[UP_TO] == (last - FIRST) // PLACE_WORDS + 1
        assert bench.everybody() == [sitting[place] for place in sorted(sitting)]


def test_a_kill_between_the_words_leaves_no_half_sleeper() -> None:
    """As the words are stored one after the other, whoever looks in between sees him whole or not at all."""

    states: list[list[Waiting]] = []

    class Watched(list[int]):
        def __setitem__(self, place: object, value: object) -> None:
            super().__setitem__(place, value)  # type: ignore[call-overload]
            words = memoryview(bytearray(b"".join(word.to_bytes(8, "little") for word in self))).cast("Q")
            states.append(Bench(words).everybody())

    watched = Watched([0] * (FIRST + PLACE_WORDS * 2))
    bench = Bench(watched)  # type: ignore[arg-type]
    assert bench.sit(1, Waiting(11, 21, 31)) == FIRST
    assert states[-1] == [Waiting(11, 21, 31)]
    assert all(state in ([], [Waiting(11, 21, 31)]) for state in states)
