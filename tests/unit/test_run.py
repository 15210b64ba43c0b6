"""The sorted mapping of the queues in memory: whatever order its keys come in, it is beside a plain dict that is sorted."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as some
from interrupting import interrupted_at

from mqlite.log.run import Run

KEYS = some.integers(0, 20)


@given(some.lists(some.tuples(some.sampled_from(["enter", "enter later", "remove", "remove first"]), KEYS)))
def test_a_run_is_a_sorted_dict(steps: list[tuple[str, int]]) -> None:
    run: Run[int, int] = Run()
    plain: dict[int, int] = {}
    for number, (step, key) in enumerate(steps):
        if step == "remove":
            assert run.pop(key, -1) == plain.pop(key, -1)
        elif step == "remove first":
            first = min(plain, default=0)
            assert run.pop(first, -1) == plain.pop(first, -1)
        else:
            key = key if step == "enter" else max(plain, default=0) + key
            run[key] = plain[key] = number
        found = sorted(plain.items())
        assert list(run.items()) == found
        assert list(run.values()) == [value for _, value in found]
        assert (run.first(), run.last()) == ((found[0], found[-1]) if found else (None, None))
        assert (len(run), bool(run)) == (len(plain), bool(plain))
        assert [run.get(key) for key in range(21)] == [plain.get(key) for key in range(21)]


def test_keys_that_come_in_order_are_all_in_the_run() -> None:
    run: Run[int, str] = Run()
    for key in range(1000):
        run[key] = "a"
        run[key] = "b"
        run.pop(key - 10)
    assert not run._others
    assert len(run) == 10


def test_a_run_whose_keys_are_gone_begins_anew() -> None:
    run: Run[int, str] = Run()
    run[10] = "late"
    run.pop(10)
    for key in range(5):
        run[key] = "early"
    assert isinstance(run._run, OrderedDict)
    assert not run._others


def test_an_interrupt_while_keys_are_entered_leaves_a_run_in_order() -> None:
    point, returned = 0, False
    while not returned:
        point += 1
        run: Run[int, int] = Run()
        with interrupted_at(point) as struck:
            for key in (1, 5, 3, 7, 6):
                run[key] = key
            returned = True
        entered = len(run)
        for key in (4, 2, 9):
            run[key] = key
        found = [key for key, _ in run.items()]
        assert found == sorted(set(found)), struck
        assert len(found) == len(run) == entered + 3, struck
    assert point > 5
