"""The settings of a queue, and the small checks around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqlite.checks import check_count, check_name, check_priority, check_timeout
from mqlite.errors import SettingsMismatch
from mqlite.message import Marks, priority_of, rank_at, rank_of
from mqlite.options import DEAD_OPTIONS, UNSET, QueueOptions

priorities = st.integers(-(2**31), 2**31 - 1)


def test_the_defaults_are_those_of_the_documents() -> None:
    assert attrs.asdict(QueueOptions()) == {
        "maxsize": 0,
        "maxbytes": 0,
        "max_message_bytes": 16 << 20,
        "overflow": "block",
        "order": "priority",
        "aging": None,
        "fair": False,
        "max_deliveries": 5,
        "ack_timeout": 1800.0,
        "backoff": None,
        "dead_letter": True,
        "ttl": None,
        "expired": "dead_letter",
        "dedup_window": 300.0,
        "rate": None,
        "limits": None,
        "codec": "json",
        "paused": False,
    }


def test_options_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        QueueOptions().maxsize = 5  # type: ignore[misc]


def test_options_are_named() -> None:
    with pytest.raises(TypeError):
        QueueOptions(5)  # type: ignore[call-arg]


def test_an_int_of_seconds_is_equal_to_the_float() -> None:
    options = QueueOptions(ack_timeout=60)
    assert (options.ack_timeout, type(options.ack_timeout)) == (60.0, float)


@given(st.integers(max_value=0))
def test_a_maxsize_below_one_is_no_limit(maxsize: int) -> None:
    assert QueueOptions(maxsize=maxsize).maxsize == 0


@pytest.mark.parametrize("none", ["max_deliveries", "ack_timeout"])
def test_none_means_never(none: str) -> None:
    assert getattr(QueueOptions(**{none: None}), none) is None


def test_dead_letter_queues_lose_nothing_by_themselves() -> None:
    assert (DEAD_OPTIONS.maxsize, DEAD_OPTIONS.max_deliveries, DEAD_OPTIONS.dead_letter) == (0, None, False)


def test_naming_what_is_stored_is_no_mismatch() -> None:
    QueueOptions(maxsize=5, ack_timeout=60.0).check_named({"maxsize": 5, "ack_timeout": 60}, "queue 'q'")


def test_naming_nothing_is_no_mismatch() -> None:
    QueueOptions(maxsize=5).check_named({}, "queue 'q'")


def test_a_mismatch_names_the_queue_both_values_and_the_way_out() -> None:
    with pytest.raises(SettingsMismatch, match=r"'q'.*maxsize=5.*6.*configure\(maxsize="):
        QueueOptions(maxsize=5).check_named({"maxsize": 6}, "queue 'q'")


def test_a_bad_value_is_told_before_a_mismatch() -> None:
    with pytest.raises(TypeError, match="maxsize"):
        QueueOptions().check_named({"maxsize": "6"}, "queue 'q'")


def test_unset_shows_itself() -> None:
    assert repr(UNSET) == "UNSET"


# ---------------------------------------------------------------------- checks
@given(priorities, priorities)
def test_a_higher_priority_has_a_smaller_rank(one: int, other: int) -> None:
    assert (rank_of(one) < rank_of(other)) == (one > other)


@given(priorities, st.integers(0, 2**64 - 1))
def test_the_priority_is_read_back_from_a_position(priority: int, seq: int) -> None:
    assert priority_of(rank_at(rank_of(priority) << 64 | seq, None)) == priority
    assert priority_of(rank_at(seq, Marks(rank=rank_of(priority)))) == priority


@given(priorities)
def test_a_rank_is_an_unsigned_32_bit_integer(priority: int) -> None:
    assert 0 <= rank_of(priority) < 2**32


@given(priorities)
def test_every_32_bit_priority_is_taken(priority: int) -> None:
    assert check_priority(priority) == priority


@given(st.integers().filter(lambda n: not -(2**31) <= n < 2**31))
def test_other_integers_are_no_priority(priority: int) -> None:
    with pytest.raises(ValueError, match="priority"):
        check_priority(priority)


@pytest.mark.parametrize(("given", "taken"), [(None, None), (0, 0.0), (1, 1.0), (0.5, 0.5), (math.inf, None)])
def test_a_timeout_is_none_or_seconds(given: Any, taken: float | None) -> None:
    assert check_timeout(given) == taken


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError), (b"", TypeError)])
def test_other_timeouts_are_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout"):
        check_timeout(wrong)


@pytest.mark.parametrize(("check", "wrong", "error"), [(check_count, 0, ValueError), (check_count, -3, ValueError), (check_count, 1.0, TypeError), (check_count, True, TypeError)])
def test_a_count_is_a_positive_int(check: Callable[[Any, str], int], wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="things is"):
        check(wrong, "things")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_a_text_without_control_characters_is_a_name(name: str) -> None:
    assert check_name(name) == name


@given(st.sampled_from([*map(chr, range(32)), "\x7f", "\ud800", "\udfff"]), st.text(max_size=5))
def test_control_characters_and_halves_of_characters_are_in_no_name(wrong: str, rest: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(rest + wrong)
