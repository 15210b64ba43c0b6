"""Which patterns a routing key matches: the topic patterns of AMQP, one of them or a great many.

A routing key is words separated by dots. In a pattern `*` stands for exactly one word, `#` for any number of them, none
included; every other word for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import attrs

from .checks import utf8_bytes

KEY_MAX_BYTES: Final = 255

T = TypeVar("T", bound=Hashable)


def check_routing_key(key: object) -> str:
    """Words separated by dots: a str of at most 255 bytes in UTF-8. "" has no words."""
    return _check_words(key, "routing_key", "such as 'order.paid'")


def check_pattern(pattern: object) -> str:
    """As a routing key; a word that holds `*` or `#` is that character alone."""
    checked = _check_words(pattern, "pattern", "such as 'order.*' or '#'")
    for word in words_of(checked):
        if len(word) > 1 and ("*" in word or "#" in word):
            raise ValueError(
                f"'*' and '#' stand for whole words: in the pattern {checked!r} separate them from the rest of "
                f"{word!r} by dots"
            )
    return checked


def _check_words(key: object, what: str, example: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{what} is a str {example}, not {key!r}")
    size = utf8_bytes(key, what)
    if size > KEY_MAX_BYTES:
        raise ValueError(f"{what} has at most {KEY_MAX_BYTES} bytes in UTF-8, {key[:40]!r}... has {size}: shorten it")
    return key


def words_of(key: str) -> list[str]:
    """The words of a routing key or of a pattern: none in "", an empty one between two dots."""
    return key.split(".") if key else []


@attrs.define(eq=False)
class _Node(Generic[T]):
    """Where the words of some patterns lead; `entries` are of the patterns that end here, by number."""

    entries: dict[int, T] = attrs.field(factory=dict)
    by_word: dict[str, _Node[T]] = attrs.field(factory=dict)
    star: _Node[T] | None = None
    hash: _Node[T] | None = None

    def child(self, word: str) -> _Node[T] | None:
        if word == "*":
            return self.star
        return self.hash if word == "#" else self.by_word.get(word)

    def put_child(self, word: str, child: _Node[T] | None) -> None:
        if word == "*":
            self.star = child
        elif word == "#":
            self.hash = child
        elif child is not None:
            self.by_word[word] = child
        else:
            del self.by_word[word]

    def is_empty(self) -> bool:
        return not (self.entries or self.by_word or self.star or self.hash)


class Trie(Generic[T]):
    """Values by pattern: `match` finds those whose pattern a routing key matches.

    The same value may be there under several patterns; the same pattern and value count once. Patterns are such as
    `check_pattern` lets pass, values are hashable.

        exact   patterns without wildcards, whole: one look-up, however many there are
        root    a tree of the words of the others. `match` walks it with the set of nodes that the words so far lead
                to, so it takes words * nodes steps at worst, whatever the `#` of a pattern could stand for.

    Invariants, kept after each call:
      T1  a number is given once, and the later of two additions has the higher one
      T2  below the root there is no node without entries that leads nowhere
      T3  an addition is in `_numbers` if and only if it is in the entries of one place

    Cost: `match` looks at what shares words with the key from the start, and after a `#`; patterns that part from the
    key earlier cost nothing. `add` and `remove`: O(words of the pattern).
    Threads: any number may `match`, without a lock, while one adds or removes; two that add or remove need one. A
    match that runs meanwhile sees each addition or removal either done or not yet: what was there before it began and
    is not removed is found, always. Of two changes it may see the later and not the earlier.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, T], int] = {}
        self._next = 0
        self._exact: dict[str, dict[int, T]] = {}
        self._root: _Node[T] = _Node()

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, pattern: str, value: T) -> None:
        """From now on `value` is found by what matches `pattern`. It keeps its place where it was added before."""
        if (pattern, value) in self._numbers:
            return
        number = self._numbers[pattern, value] = self._next
        self._next += 1
        words = words_of(pattern)
        if _is_exact(words):
            # made whole before it can be seen, as everywhere here: readers have no lock
            entries = self._exact.get(pattern)
            if entries is None:
                self._exact[pattern] = {number: value}
            else:
                entries[number] = value
            return
        node = self._root
        for word in words:
            child = node.child(word)
            if child is None:
                child = _Node()
                node.put_child(word, child)
            node = child
        node.entries[number] = value

    def remove(self, pattern: str, value: T) -> bool:
        """Whether it was there; it no longer is, nor what only it needed."""
        number = self._numbers.pop((pattern, value), None)
        if number is None:
            return False
        words = words_of(pattern)
        if _is_exact(words):
            entries = self._exact[pattern]
            del entries[number]
            if not entries:
                del self._exact[pattern]
            return True
        path = [self._root]
        for word in words:
            child = path[-1].child(word)
            assert child is not None
            path.append(child)
        del path[-1].entries[number]
        while words and path.pop().is_empty():
            path[-1].put_child(words.pop(), None)
        return True

    def match(self, routing_key: str) -> list[T]:
        """The values whose pattern matches, once for each pattern, in the order in which they were added."""
        exact = self._exact.get(routing_key)
        found = [] if exact is None else [exact]
        if not self._root.is_empty():
            self._walk(routing_key, found)
        # list(values) and update(dict) are one step each: an addition cannot come between
        if not found:
            return []
        if len(found) == 1:
            return list(found[0].values())
        entries: dict[int, T] = {}
        for some in found:
            entries.update(some)
        return [entries[number] for number in sorted(entries)]

    def _walk(self, routing_key: str, found: list[dict[int, T]]) -> None:
        """Appends to `found` the entries of the nodes in the tree that match."""
        here = [self._root]  # no node twice: each has one parent, and only a `#` also leads to itself
        passed: set[_Node[T]] = set()  # every `#` on the way: it takes whatever follows, so it is there for good
        ahead: list[_Node[T]] = []  # those of them from which a word may lead on
        if self._root.hash is not None:
            self._pass(here, passed, ahead, found)
        for word in words_of(routing_key):
            reached = []
            branched = False
            for node in (here + ahead) if ahead else here:
                child = node.by_word.get(word)
                if child is not None:
                    reached.append(child)
                    branched = branched or child.hash is not None
                child = node.star
                if child is not None:
                    reached.append(child)
                    branched = branched or child.hash is not None
            here = reached
            if branched:
                self._pass(here, passed, ahead, found)
            elif not here and not ahead:
                return
        for node in here:
            if node.entries:
                found.append(node.entries)

    def _pass(
        self, here: list[_Node[T]], passed: set[_Node[T]], ahead: list[_Node[T]], found: list[dict[int, T]]
    ) -> None:
        """Notes the `#` right behind the nodes of `here`, which stand for no word at all, too."""
        for node in here:
            after = node.hash
            while after is not None and after not in passed:
                passed.add(after)
                found.append(after.entries)
                if after.by_word or after.star:
                    ahead.append(after)
                after = after.hash


def _is_exact(words: list[str]) -> bool:
    return "*" not in words and "#" not in words


@functools.lru_cache(maxsize=1024)
def _alone(pattern: str) -> Trie[bool]:
    trie: Trie[bool] = Trie()
    trie.add(pattern, True)
    return trie


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a pattern (such as `check_pattern` lets pass) matches. Cost: as of a `Trie` with this pattern alone."""
    return bool(_alone(pattern).match(routing_key))
