"""A routing key finds what is bound to a pattern that it matches: all of it, once, in the order in which it was added."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mqlite.patterns import Trie, check_pattern, check_routing_key, matches, words_of

# few words, so that keys and patterns meet
key_words = st.sampled_from(["a", "b", "", "c"])
pattern_words = st.sampled_from(["a", "b", "", "*", "#", "#"])
keys = st.lists(key_words, max_size=6).map(".".join)
patterns = st.lists(pattern_words, max_size=6).map(".".join)


def oracle(pattern: list[str], key: list[str]) -> bool:
    """As AMQP defines it, word by word."""
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(oracle(rest, key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and oracle(rest, key[1:])


def matches_by_oracle(pattern: str, key: str) -> bool:
    return oracle(pattern.split(".") if pattern else [], key.split(".") if key else [])


def trie_of(*added: str) -> Trie[str]:
    """Every pattern with itself as the value."""
    trie: Trie[str] = Trie()
    for pattern in added:
        trie.add(pattern, pattern)
    return trie


def check(trie: Trie[Any]) -> None:
    """The invariants that the class names."""
    numbers = [*trie._numbers.values()]
    assert numbers == sorted(set(numbers))  # T1
    assert all(number < trie._next for number in numbers)
    stored: dict[tuple[str, Any], int] = {}
    for pattern, entries in trie._exact.items():
        assert entries
        stored |= {(pattern, value): number for number, value in entries.items()}
    assert not trie._root.entries
    rest: list[tuple[list[str], Any]] = [([], trie._root)]
    while rest:
        words, node = rest.pop()
        stored |= {(".".join(words), value): number for number, value in node.entries.items()}
        children = {"*": node.star, "#": node.hash, **node.by_word}
        rest += [([*words, word], child) for word, child in children.items() if child is not None]
        assert not words or node.entries or any(children.values())  # T2
    assert stored == trie._numbers  # T3


# --- what may be given -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a", "a.b.c", "a..b", ".", "é" * 127, "x" * 255, "a.*", "a#"])
def test_routing_key_of_any_words_is_returned_unchanged(key: str) -> None:
    assert check_routing_key(key) == key


@pytest.mark.parametrize("pattern", ["", "#", "*", "a.*.b", "#.a.#", "#.#", "*..#", "a..b", "x" * 255])
def test_pattern_with_wildcards_as_whole_words_is_returned_unchanged(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("check_key", [check_routing_key, check_pattern])
@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (None, TypeError, "is a str such as"),
        (b"a.b", TypeError, "is a str such as"),
        (["a", "b"], TypeError, "is a str such as"),
        ("x" * 256, ValueError, "at most 255 bytes in UTF-8.*has 256: shorten"),
        ("é" * 128, ValueError, "at most 255 bytes"),
        ("a.\ud800", ValueError, "encodable in UTF-8"),
    ],
)
def test_what_is_no_key_is_refused_and_the_error_says_what_is_due(check_key: Any, key: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        check_key(key)


@pytest.mark.parametrize("pattern", ["a*", "*a", "**", "##", "*#", "a.b#", "a.#b.c", "a.*b", "a.b*c.#"])
def test_wildcard_that_is_part_of_a_word_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="whole words"):
        check_pattern(pattern)


@pytest.mark.parametrize(("key", "words"), [("", []), ("a", ["a"]), ("a.b", ["a", "b"]), ("a..b", ["a", "", "b"]), (".", ["", ""])])
def test_words_are_what_dots_separate_and_an_empty_key_has_none(key: str, words: list[str]) -> None:
    assert words_of(key) == words


# --- one pattern -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("", ""),
        ("a.b", "a.b"),
        ("*", "a"),
        ("*.b", "a.b"),
        ("a.*.*", "a.b.c"),
        ("*.*", "."),
        ("#", ""),
        ("#", "a.b.c"),
        ("a.#", "a"),
        ("a.#", "a.b.c"),
        ("#.a", "a"),
        ("#.a", "a.b.a"),
        ("a.#.b", "a.b"),
        ("a.#.b", "a.b.b"),
        ("#.#", ""),
        ("#.*", "a"),
        ("*.#", "a.b"),
        ("#.*.#", "a"),
        ("#.a.#.a.#", "b.a.a"),
        ("a.*", "a.*"),
        ("a.*", "a.#"),
        ("a.*", "a."),
    ],
)
def test_key_matches(pattern: str, key: str) -> None:
    assert matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("", "a"),
        ("a", ""),
        ("a", "a.b"),
        ("a.b", "a"),
        ("a", "A"),
        ("*", ""),
        ("*", "a.b"),
        ("a.*", "a"),
        ("a.#", "b.a"),
        ("#.a", "a.b"),
        ("#.*", ""),
        ("#.a.#.a.#", "b.a.b"),
        ("a.b", "a.*"),
        ("a.b", "a.#"),
        ("a.b", "#"),
        ("a.b", "a..b"),
    ],
)
def test_key_does_not_match(pattern: str, key: str) -> None:
    assert not matches(pattern, key)


@settings(deadline=None)
@given(patterns, keys)
@example("#.#.a.*.#", "b.a.a")
def test_pattern_matches_what_a_recursive_matcher_says(pattern: str, key: str) -> None:
    assert matches(pattern, key) == matches_by_oracle(pattern, key)


def test_many_hashes_take_no_more_steps_than_words_times_words() -> None:
    pattern = ".".join(["#", "a"] * 60 + ["b"])  # a matcher that tries every way out would not come to an end
    assert not matches(pattern, ".".join("a" * 127))
    assert matches(pattern, ".".join("a" * 126 + "b"))


# --- many patterns ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(patterns, max_size=12), keys)
def test_every_pattern_that_matches_is_found_once_in_the_order_of_addition(added: list[str], key: str) -> None:
    expected = [pattern for pattern in dict.fromkeys(added) if matches_by_oracle(pattern, key)]
    assert trie_of(*added).match(key) == expected


def test_value_is_found_once_where_several_ways_through_hashes_lead_to_it() -> None:
    assert trie_of("#.a.#").match("a.a.a") == ["#.a.#"]


def test_value_under_several_patterns_is_found_once_for_each() -> None:
    trie: Trie[int] = Trie()
    for pattern in ("a.*", "a.b", "#"):
        trie.add(pattern, 7)
    assert trie.match("a.b") == [7, 7, 7]


def test_order_is_that_of_addition_whatever_kind_the_patterns_are_of() -> None:
    added = ["a.b", "#", "*.b", "a.#", "a.*", "#.b"]
    for start in range(len(added)):
        turned = added[start:] + added[:start]
        assert trie_of(*turned).match("a.b") == turned


def test_addition_made_twice_counts_once_and_keeps_its_place() -> None:
    trie = trie_of("#", "a", "#")
    assert (len(trie), trie.match("a")) == (2, ["#", "a"])


def test_addition_made_again_after_its_removal_comes_last() -> None:
    trie = trie_of("#", "a")
    trie.remove("#", "#")
    trie.add("#", "#")
    assert trie.match("a") == ["a", "#"]


def test_removal_says_whether_it_was_there() -> None:
    trie = trie_of("a.*", "a.b")
    assert [trie.remove(*pair) for pair in (("a.*", "a.*"), ("a.*", "a.*"), ("a.b", "a.*"), ("x", "x"), ("a.b", "a.b"))] == [
        True,
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("kept", ["a.#", "a.*.b", "a.*.#", "a", "a.b.*"])
def test_removal_leaves_patterns_that_begin_with_the_same_words(kept: str) -> None:
    trie = trie_of("a.*", kept)
    trie.remove("a.*", "a.*")
    check(trie)
    assert trie._numbers.keys() == {(kept, kept)}


def test_values_of_one_pattern_are_removed_one_by_one() -> None:
    trie: Trie[int] = Trie()
    for value in range(3):
        trie.add("a.#", value)
    trie.remove("a.#", 1)
    assert trie.match("a") == [0, 2]


class TrieBesideList(RuleBasedStateMachine):
    """A trie and a list of what was added, which is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.trie: Trie[int] = Trie()
        self.list: list[tuple[str, int]] = []

    @rule(pattern=patterns, value=st.integers(0, 2))
    def add(self, pattern: str, value: int) -> None:
        self.trie.add(pattern, value)
        if (pattern, value) not in self.list:
            self.list.append((pattern, value))

    @rule(pattern=patterns, value=st.integers(0, 2))
    def remove_what_may_not_be_there(self, pattern: str, value: int) -> None:
        there = (pattern, value) in self.list
        assert self.trie.remove(pattern, value) == there
        if there:
            self.list.remove((pattern, value))

    @rule(data=st.data())
    def remove_what_is_there(self, data: st.DataObject) -> None:
        if self.list:
            pair = data.draw(st.sampled_from(self.list))
            assert self.trie.remove(*pair)
            self.list.remove(pair)

    @rule(key=keys)
    def match(self, key: str) -> None:
        assert self.trie.match(key) == [value for pattern, value in self.list if matches_by_oracle(pattern, key)]

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        check(self.trie)
        assert [*self.trie._numbers] == self.list
        assert len(self.trie) == len(self.list)


TestTrieBesideList = TrieBesideList.TestCase
TestTrieBesideList.settings = settings(deadline=None)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_match_in_another_thread_always_finds_what_stays_while_others_come_and_go() -> None:
    staying = ["a.b", "a.*", "#", "a.#.b"]
    trie = trie_of(*staying)
    passing = ["a.c.*", "*.b", "a.b.#", "#.#", "a.b", "#.b.#", "a.#.b"]
    over = threading.Event()
    failures: list[object] = []

    def read() -> None:
        try:
            while not over.is_set():
                found = trie.match("a.b")
                if [value for value in found if value in staying] != staying:
                    failures.append(found)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for reader in readers:
            reader.start()
        for n in range(300):
            for pattern in passing:
                trie.add(pattern, f"passing {n}")
            for pattern in passing:
                trie.remove(pattern, f"passing {n}")
    finally:
        over.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert failures == []
    check(trie)
