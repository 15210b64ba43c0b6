"""The rules of a transaction in their simplest form: a list of what is to be done, done to copies of plain lists and dicts first.

    a version   a number that each commit counts up; a row has that of the commit that wrote it
    a read      a note of what was there: the versions of keys and of ranges, and the number of rows
    a commit    first all claims must be held, then all notes must be true; then all is done to a copy, one after the other,
                and if that works, it is done
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model.plain_list import SECOND, Held, PlainList
from model.plain_topic import fits, words

Key = int | str
GONE: Any = ...
#: Ids of what is put to a copy.
TRIAL = 1 << 50


@dataclass
class Row:
    value: Any
    version: int


def ordered(rows: dict[Key, Any]) -> list[Key]:
    """Keys as a table has them: numbers, then texts."""
    return sorted(rows, key=lambda key: (isinstance(key, str), key))


@dataclass
class World:
    """A store: lists by the names of what they lie beside, tables, and the keys that were seen. bound: (pattern, list)."""

    clock: Any
    lists: dict[str, PlainList] = field(default_factory=dict)
    bound: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, dict[Key, Row]] = field(default_factory=dict)
    seen: dict[Key, int] = field(default_factory=dict)
    version: int = 0

    def receivers(self, routing_key: str) -> list[str]:
        return [name for pattern, name in self.bound if fits(words(pattern), words(routing_key))]

    def rows(self, table: str) -> dict[Key, Row]:
        return self.tables.get(table, {})

    def row_version(self, table: str, key: Key) -> int:
        row = self.rows(table).get(key)
        return 0 if row is None else row.version

    def versions(self, table: str, start: Key | None, stop: Key | None) -> list[tuple[Key, int]]:
        rows = self.rows(table)
        return [(key, rows[key].version) for key in between(ordered(rows), start, stop)]

    def write(self, table: str, rows: dict[Key, Any]) -> None:
        """What one commit writes; GONE: that goes."""
        if table not in self.tables and all(value is GONE for value in rows.values()):
            return
        there = self.tables.setdefault(table, {})
        self.version += 1
        for key, value in rows.items():
            if value is GONE:
                there.pop(key, None)
            else:
                there[key] = Row(value, self.version)

    def has_seen(self, key: Key) -> bool:
        return self.seen.get(key, 0) > int(self.clock.now_ns)


def between(keys: list[Key], start: Key | None, stop: Key | None) -> list[Key]:
    """Of keys in order, those from start up to, and without, stop, which are of one type."""
    bound = start if start is not None else stop
    return [
        key
        for key in keys
        if bound is None or (type(key) is type(bound) and (start is None or start <= key) and (stop is None or key < stop))  # type: ignore[operator]
    ]


@dataclass
class Entry:
    """A message that is put into `queue`, or published (""). how: what else is said of it.

    at_ns: when it was staged, from which on a delay counts.
    """

    queue: str
    body: int
    priority: int
    at_ns: int
    routing_key: str = ""
    how: dict[str, Any] = field(default_factory=dict)


class Conflict(Exception):
    """What was read does not hold."""


@dataclass
class PlainTransaction:
    """What one transaction is to do. For the rest see the module."""

    world: World
    checks: bool
    settlements: list[tuple[str, Held, str]] = field(default_factory=list)  # (list, claim, "ack" | "nack" | "nack later" | "reject")
    entries: list[Entry] = field(default_factory=list)
    writes: dict[str, dict[Key, Any]] = field(default_factory=dict)
    once: dict[Key, float] = field(default_factory=dict)
    notes: list[Callable[[], bool]] = field(default_factory=list)
    failed: bool = False

    # ------------------------------------------------------------------ tables
    def note(self, look: Callable[[], Any]) -> None:
        """What was read now must be so later."""
        found = look()
        self.notes.append(lambda: look() == found)

    def holds(self) -> bool:
        return all(note() for note in self.notes)

    def check(self) -> None:
        """As every read does. Raises Conflict."""
        if not self.holds():
            raise Conflict

    def own(self, table: str) -> dict[Key, Any]:
        return self.writes.get(table, {})

    def get(self, table: str, key: Key) -> Any:
        """GONE where there is none."""
        if key in self.own(table):
            return self.own(table)[key]
        self.version(table, key)
        row = self.world.rows(table).get(key)
        return GONE if row is None else row.value

    def version(self, table: str, key: Key) -> int:
        if self.checks:
            self.check()
            self.note(lambda: self.world.row_version(table, key))
        return self.world.row_version(table, key)

    def count(self, table: str) -> int:
        if self.checks:
            self.check()
            self.note(lambda: len(self.world.rows(table)))
        for key in self.own(table):
            self.version(table, key)
        return len(self.merged(table))

    def scan(self, table: str, start: Key | None = None, stop: Key | None = None) -> list[tuple[Key, Any]]:
        if self.checks:
            self.check()
            self.note(lambda: self.world.versions(table, start, stop))
        rows = self.merged(table)
        return [(key, rows[key]) for key in between(ordered(rows), start, stop)]

    def merged(self, table: str) -> dict[Key, Any]:
        stored = {key: row.value for key, row in self.world.rows(table).items()}
        return {key: value for key, value in {**stored, **self.own(table)}.items() if value is not GONE}

    def put(self, table: str, key: Key, value: Any) -> None:
        self.writes.setdefault(table, {})[key] = value

    def expect(self, table: str, key: Key, agrees: Callable[[Row | None], bool]) -> None:
        self.check()
        self.note(lambda: self.world.row_version(table, key))
        if not agrees(self.world.rows(table).get(key)):
            self.failed = True
            raise Conflict

    def see(self, key: Key, window: float) -> bool:
        if key in self.once or self.world.has_seen(key):
            return False
        self.once[key] = window
        return True

    # ------------------------------------------------------------------ the end
    def outcome(self) -> str:
        """What the commit raises; "" where it does it all."""
        arrivals = [name for entry in self.entries for name in ([entry.queue] if entry.queue else self.world.receivers(entry.routing_key))]
        if any(0 < plain.options.maxsize < arrivals.count(name) for name, plain in self.world.lists.items()):
            return "ValueError"  # so many never find room
        if not all(self.world.lists[name].holds(held) for name, held, _ in self.settlements):
            return "LeaseLost"
        if self.failed or not self.holds() or any(self.world.has_seen(key) for key in self.once):
            return "Conflict"
        trial = {name: copy.deepcopy(plain, {id(self.world.clock): self.world.clock}) for name, plain in self.world.lists.items()}
        return "" if self.apply(trial, [TRIAL + number for number in range(len(self.entries))]) else "Full"

    def do(self, numbers: list[int]) -> None:
        """It was committed. numbers: the ids that the entries were given."""
        done = self.apply(self.world.lists, numbers)
        assert done
        for table, rows in self.writes.items():
            self.world.write(table, rows)
        for key, window in self.once.items():
            self.world.seen[key] = int(self.world.clock.now_ns) + int(window * SECOND)

    def apply(self, lists: dict[str, PlainList], numbers: list[int]) -> bool:
        """One after the other; False where one finds no room."""
        for name, held, how in self.settlements:
            settle(lists[name], lists[name].messages[held.listed.id], how)
        for index, (entry, number) in enumerate(zip(self.entries, numbers, strict=True)):
            if entry.queue:
                if not self._put(lists[entry.queue], entry, number, self.entries[index + 1 :], numbers[index + 1 :]):
                    return False
                continue
            for name in self.world.receivers(entry.routing_key):
                if not lists[name].has_room(1):
                    return False
                lists[name].put(number, entry.body, entry.priority)
        return True

    @staticmethod
    def _put(plain: PlainList, entry: Entry, number: int, later: list[Entry], numbers: list[int]) -> bool:
        known = plain.repeated(entry.how.get("dedup_id"), entry.how.get("unique"), ("delayed", "ready", "claimed"))
        if known is not None:
            assert number in (known, *range(TRIAL, TRIAL + 100)), "it repeats another one, and has its id"
            return True
        if not plain.has_room(1, plain.replaced(entry.how.get("replace_key"))):
            return False
        replace_key = entry.how.get("replace_key")
        if replace_key is not None and number in numbers:  # a later one replaces it in the same commit, and both have its id
            assert any(each.how.get("replace_key") == replace_key for each, its in zip(later, numbers, strict=True) if its == number)
            number -= 0.5  # type: ignore[assignment]
        plain.put(number, entry.body, entry.priority, **entry.how)
        if "delay" in entry.how:
            plain.messages[number].due_ns = entry.at_ns + entry.how["delay"] * SECOND
        return True


def settle(plain: PlainList, m: Any, how: str) -> None:
    """A claim ends."""
    if how == "ack":
        plain.remove(m)
    elif how == "reject":
        plain.bury(m, "rejected")
    elif how == "release":
        plain.give_back(m, failed=False)
    else:
        plain.nack(m, 3 if how == "nack later" else None)
