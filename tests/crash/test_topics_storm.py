"""No subscriber misses what was published, or gets it again after its ack, though processes are killed all the time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from crash.storm_topics import WRONG, Books, Event, TopicStorm


def _balanced(folder: Path, children: Any, seconds: float) -> dict[str, Any]:
    seed = int(os.environ.get("MQLITE_STORM_SEED", time.time_ns() % 10**9))
    print(f"MQLITE_STORM_SEED={seed}")
    books = TopicStorm(str(folder), children, seed).blow(seconds)
    print({word: found for word, found in books.items() if word not in WRONG})
    for word in WRONG:
        assert books[word] == [], (word, len(books[word]), books[word][:10])
    return books


def test_a_short_storm_of_kills_leaves_every_subscription_complete(tmp_path: Path, children: Any) -> None:
    books = _balanced(tmp_path, children, 3)
    assert books["words"]["ack"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_of_kills_leaves_every_subscription_complete(tmp_path: Path, children: Any) -> None:
    seconds = float(os.environ.get("MQLITE_STORM_SECONDS", "20"))
    books = _balanced(tmp_path, children, seconds)
    assert books["kills"] > seconds
    assert books["words"]["ack"] > 10 * seconds
    assert books["words"]["sought"] > seconds / 2
    assert books["words"]["willed"] > seconds / 2


# ---------------------------------------------------------------------- would the books tell?
def _quiet_day() -> list[Event]:
    """Two messages of "news", each to everybody who wants it, acknowledged; one of "log", which the seeker got twice."""
    events = [Event(moment, 1, word, "news", f"{key}-1", number) for key, number in (("a", 1), ("b", 2)) for moment, word in ((1, "try"), (2, "put"))]
    for place, key, number in (("all", "a-1", 1), ("all", "b-1", 2), ("some", "a-1", 1), ("jobs", "a-1", 1)):
        events += [Event(moment, 2, word, place, key, number) for moment, word in ((3, "got"), (4, "acking"), (5, "ack"))]
    events += [Event(1, 1, "try", "log", "a-2"), Event(2, 1, "put", "log", "a-2", 3)]
    events += [Event(moment, 2, word, "steady", "a-2", 3) for moment, word in ((3, "got"), (4, "acking"), (5, "ack"))]
    events += [Event(moment, 2, word, "seeker", "a-2", 3) for moment, word in ((3, "got"), (4, "acking"), (5, "ack"), (8, "got"), (9, "acking"), (10, "ack"))]
    events += [Event(6, 3, "seeking", "seeker", "-"), Event(7, 3, "sought", "seeker", "-")]
    events += [Event(1, 4, word, "news", "a-will") for word in ("willing", "willed")]
    for place in ("all", "some", "jobs"):
        events.append(Event(9, -1, "left", place, "a-will", 4))
    return events


def _without(events: list[Event], *gone: tuple[str, str, str]) -> list[Event]:
    return [event for event in events if (event.word, event.place, event.key) not in gone]


def _found(events: list[Event]) -> set[str]:
    return {word for word, entries in Books(events, {4: 5}).balance().items() if entries}


def test_the_books_of_a_quiet_day_balance() -> None:
    assert _found(_quiet_day()) == set()


@pytest.mark.parametrize("place", ["some", "jobs"])
def test_the_books_tell_that_a_message_is_missing(place: str) -> None:
    gone = [(word, place, "a-1") for word in ("got", "acking", "ack")]
    assert _found(_without(_quiet_day(), *gone)) == {"lost"}


def test_the_books_tell_that_the_seeker_misses_a_message() -> None:
    gone = [(word, "seeker", "a-2") for word in ("got", "acking", "ack")]
    assert _found(_without(_quiet_day(), *gone)) == {"lost"}


def test_the_books_tell_that_a_delivered_message_has_vanished() -> None:
    assert _found(_without(_quiet_day(), ("acking", "some", "a-1"), ("ack", "some", "a-1"))) == {"lost"}


def test_the_books_tell_that_a_message_came_after_its_ack() -> None:
    assert _found([*_quiet_day(), Event(11, 3, "got", "some", "a-1", 1)]) == {"after ack"}


def test_the_books_tell_that_a_message_came_again_to_the_seeker_though_nobody_sought() -> None:
    assert _found([*_quiet_day(), Event(11, 3, "got", "seeker", "a-2", 3)]) == {"after ack"}


def test_the_books_tell_that_a_message_is_doubled() -> None:
    assert _found([*_quiet_day(), Event(4, -1, "left", "some", "a-1", 9)]) == {"twice"}


def test_the_books_tell_that_a_message_is_in_two_hands() -> None:
    events = _without(_quiet_day(), ("acking", "some", "a-1"), ("ack", "some", "a-1"))
    events += [Event(moment, 5, word, "some", "a-1", 1) for moment, word in ((4, "got"), (5, "acking"), (6, "ack"))]
    assert _found(events) == {"shared"}


def test_the_books_tell_that_somebody_got_what_he_does_not_want() -> None:
    assert _found([*_quiet_day(), Event(9, -1, "left", "some", "b-1", 2)]) == {"invented"}


def test_the_books_tell_that_a_will_was_not_published() -> None:
    assert _found(_without(_quiet_day(), ("left", "all", "a-will"))) == {"wills"}


def test_the_books_tell_that_a_will_was_published_twice() -> None:
    assert _found([*_quiet_day(), Event(9, -1, "left", "all", "a-will", 5)]) == {"wills", "twice"}


def test_the_books_tell_that_a_withdrawn_will_was_published() -> None:
    assert _found([*_quiet_day(), *(Event(2, 4, word, "news", "a-will") for word in ("closing", "closed"))]) == {"wills"}
