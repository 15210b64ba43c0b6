"""The rules of a topic in their simplest form: a dict of what was published, and a plain list for each who gets it.

    a body      is there while anything refers to it: replay, the retained message of a key, a message of a subscription
                or queue, or a replay that has not reached it
    a replay    a place in the dict, from which on the member gets what is there when somebody looks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model.plain_list import Listed, PlainList


@dataclass(eq=False)
class Said:
    """A message as it was published."""

    id: int
    body: int
    key: str
    priority: int
    kind: str | None
    group: str | None
    headers: dict[str, Any]
    expires_ns: int
    due_ns: int
    replace_key: str | None
    at_ns: int

    @property
    def compact_key(self) -> tuple[bool, str]:
        """What `compact` goes by."""
        return (True, self.replace_key) if self.replace_key is not None else (False, self.key)


def fits(pattern: list[str], key: list[str]) -> bool:
    """Whether words match, the slow way."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(fits(pattern[1:], key[count:]) for count in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and fits(pattern[1:], key[1:])


def words(text: str) -> list[str]:
    return text.split(".") if text else []


Wants = Callable[[Said], bool]


class Member(PlainList):
    """The list beside a subscription, or beside a queue that is bound.

    feed: from where on it is still to be given what the topic keeps; own: ids of what was redriven or put, not published.
    """

    def __init__(self, clock: Any, options: dict[str, Any]) -> None:
        super().__init__(clock, options)
        self.wanted: list[tuple[str, str, Wants]] = []  # (topic, pattern, condition)
        self.feed: int | None = None
        self.own: set[int] = set()
        self.durable = True
        self.expires_after: float | None = None
        self.forget_ns = 0

    def wants(self, topic: str, said: Said) -> bool:
        return any(name == topic and fits(words(pattern), words(said.key)) and wants(said) for name, pattern, wants in self.wanted)

    def give(self, said: Said) -> None:
        """What a replay gives, or the retained message of a key."""
        assert said.id not in self.messages
        m = Listed(said.id, said.body, said.priority, 0, said.group, None, None, said.expires_ns or self.expiry(None))
        self.messages[m.id] = m
        if said.due_ns > self.now_ns:
            self.wait(m, said.due_ns)
        else:
            self.line_up(m)

    def refers_to(self, number: int) -> bool:
        return number in self.messages and number not in self.own

    def drop_references(self) -> None:
        """As a seek does: whoever holds them."""
        for number in [number for number in self.messages if number not in self.own]:
            self.remove(self.messages[number])

    # what has an id that is taken gets a new one, which nobody knows yet
    def bury(self, m: Listed, reason: str) -> None:
        older = self.dead.pop(m.id, None)
        super().bury(m, reason)
        if older is not None:
            newer = self.dead.pop(m.id, None)
            self.dead[m.id] = older
            if newer is not None:
                self.dead[-self.next_place()] = newer

    def redrive(self, numbers: list[int], interval: float) -> bool:
        assert not interval
        if self.missing(len(numbers)):
            return False
        for number in numbers:
            unnamed = -self.next_place() if number in self.messages else number
            self.dead[unnamed] = self.dead.pop(number)
            assert super().redrive([unnamed], 0)
            self.own.add(unnamed)
        return True

    def name_again(self, unnamed: int, number: int) -> None:
        self.name(self.messages[unnamed], number)
        self.own.discard(unnamed)
        self.own.add(number)

    def name_dead(self, unnamed: int, number: int) -> None:
        self.dead[number] = self.dead.pop(unnamed)


@dataclass
class PlainTopic:
    """The topic."""

    name: str
    clock: Any
    max_messages: int | None = None
    max_age: float | None = None
    keeps: bool = False
    compact: bool = False
    members: dict[str, Member] = field(default_factory=dict)
    bodies: dict[int, Said] = field(default_factory=dict)
    replayable: list[int] = field(default_factory=list)
    newest: dict[tuple[bool, str], int] = field(default_factory=dict)
    retained: dict[str, int] = field(default_factory=dict)
    dedup: dict[str, tuple[int, int]] = field(default_factory=dict)
    published: int = 0
    unroutable: int = 0
    trimmed: int = 0
    last: int = 0

    # ------------------------------------------------------------------ publishing
    def receivers(self, said: Said, bound: list[Member]) -> list[Member]:
        return [each for each in [*self.members.values(), *bound] if each.wants(self.name, said)]

    def full(self, receivers: list[Member], count: int, replace_key: str | None) -> bool:
        return any(each.feed is None and not each.has_room(count, each.replaced(replace_key)) for each in receivers)

    def store(self, saids: list[Said], receivers: list[Member], retain: bool, how: dict[str, Any]) -> None:
        for member in receivers:
            if member.feed is not None:
                continue
            if member.options.overflow == "drop_oldest" and len(saids) > 1:
                member.drop(member.missing(len(saids)))
            for said in saids:
                member.put(said.id, said.body, said.priority, **how)
        for said in saids:
            self.bodies[said.id] = said
            self.published += 1
            self.last = said.id
            if self.keeps:
                self.replayable.append(said.id)
                if self.compact:
                    older = self.newest.get(said.compact_key)
                    if older in self.replayable:
                        self.replayable.remove(older)
                    self.newest[said.compact_key] = said.id
            if retain:
                self.retained[said.key] = said.id
        self.trim()

    def trim(self) -> None:
        while self.replayable:
            first = self.bodies[self.replayable[0]]
            too_many = self.max_messages is not None and len(self.replayable) > self.max_messages
            too_old = self.max_age is not None and first.at_ns < self.clock.now_ns - int(self.max_age * 1e9)
            if not too_many and not too_old:
                break
            self.trimmed = self.replayable.pop(0)

    def forget(self, bound: list[Member]) -> None:
        """Bodies that nobody needs go."""
        lists = [*self.members.values(), *bound]
        feeds = [member.feed for member in self.members.values() if member.feed is not None]
        for number in list(self.bodies):
            needed = number in self.replayable or number in self.retained.values() or any(start <= number for start in feeds)
            if not needed and not any(member.refers_to(number) for member in lists):
                del self.bodies[number]

    # ------------------------------------------------------------------ replaying
    def ahead(self, member: Member, start: int | None = None) -> list[Said]:
        """What a replay has still to give."""
        start = member.feed if start is None else start
        if start is None:
            return []
        return [
            said
            for number, said in sorted(self.bodies.items())
            if number >= start
            and (not self.compact or self.newest[said.compact_key] == number)
            and member.wants(self.name, said)
            and number not in member.own  # it has that one, by way of its dead letters
            and self.lives(said)
        ]

    def lives(self, said: Said) -> bool:
        """Whether it has not expired."""
        return not 0 < said.expires_ns <= self.clock.now_ns

    def first(self) -> int:
        """The earliest that a replay may start with."""
        return max(self.trimmed + 1, 0)

    def is_out_of_range(self, start: int) -> bool:
        if start > self.last + 1:
            return True
        if self.keeps:
            return start <= self.trimmed
        oldest = min(self.bodies, default=self.last + 1)
        return start < oldest and len(self.bodies) < self.published

    def top_up(self, member: Member) -> None:
        for said in self.ahead(member):
            member.give(said)
        member.feed = None
