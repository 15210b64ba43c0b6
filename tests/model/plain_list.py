"""The rules of a queue in their simplest form: a list that is sorted, filtered and counted anew for every question.

    order      (-priority, place), unless the queue is last in first out, ages, or is fair; place: when it lined up
    a group    its members in order of priority, then as they lined up (in a queue that ages: as they were put); one that
               failed and waits is still a member, and keeps its number when it lines up again
    a claim    an entry in a dict, as is a death

The list never looks at the clock by itself: `look` says that somebody does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mqlite.message import group_key
from mqlite.options import QueueOptions

SECOND = 1_000_000_000
UNGROUPED = 0


@dataclass
class Listed:
    """A message as the list knows it; a crash of the machine forgets `failures` and all that follows.

    place: when it lined up, or began to wait. due_ns: when it will line up, if it waits; by_wall: by the time of day.
    lined_up_ns: at what time it did. joined: its number in its group, kept if it is retried. stored: (failures, acquired) that a crash leaves.
    """

    id: int
    body: int
    priority: int
    place: int = 0
    group: str | None = None
    replace_key: str | None = None
    unique: str | None = None
    expires_ns: int = 0
    due_ns: int = 0
    by_wall: bool = False
    joined: int = 0
    retried: bool = False
    lined_up_ns: int = 0
    stored: tuple[int, int] = (0, 0)
    failures: int = 0
    acquired: int = 0
    holder: str = ""
    started: bool = False
    deadline_ns: int = 0

    @property
    def in_group(self) -> bool:
        """Whether its group counts it: it is in line, or waits since it failed."""
        return not self.due_ns or self.failures > 0


@dataclass
class Dead:
    body: int
    priority: int
    reason: str
    failures: int
    acquired: int
    group: str | None = None
    unique: str | None = None


@dataclass
class Recurring:
    """A schedule."""

    body: int
    priority: int
    every_ns: int
    catch_up: str
    group: str | None
    ttl: float | None
    due_ns: int
    place: int


@dataclass(eq=False)
class Held:
    """A claim in somebody's hands: the message that was received, or a child's promise to have it."""

    listed: Listed
    claim: int
    message: Any = None


@dataclass(eq=False)
class Buffer:
    """What the list knows of a prefetching consumer, and who has the queue for himself."""

    consumer: Any
    prefetch: int
    mode: str = "shared"
    ahead: list[Held] = field(default_factory=list)
    in_hand: list[Held] = field(default_factory=list)


class PlainList:
    """The list beside a queue. clock: the queue's. in_memory: where the queue is."""

    def __init__(self, clock: Any, options: dict[str, Any]) -> None:
        self.clock = clock
        self.in_memory = True
        self.options = QueueOptions(**options)
        self.paused = False
        self.messages: dict[int, Listed] = {}
        self.dead: dict[int, Dead] = {}
        self.claims: dict[int, int] = {}  # id of a claimed message -> number of the claim
        self.dedup: dict[str, tuple[int, int]] = {}  # -> (id, until when)
        self.newest: dict[str, int] = {}  # replace_key -> id
        self.recurring: dict[str, Recurring] = {}
        self.seat: Any = None
        self.turn = -1
        self.full_ns = 0  # when the bucket of the rate limit is full again
        self.last_gone = 1 << 40
        self._numbers = 0
        self._places = 0

    @property
    def now_ns(self) -> int:
        return int(self.clock.now_ns)

    def after(self, seconds: float) -> int:
        return self.now_ns + int(seconds * SECOND)

    def next_place(self) -> int:
        self._places += 1
        return self._places

    # ------------------------------------------------------------------ looking
    def order(self, m: Listed) -> tuple[int, int]:
        if self.options.aging is not None:
            step_us = round(self.options.aging * 1e6)
            return m.lined_up_ns // 1000 - m.priority * step_us, m.place
        return -m.priority, -m.place if self.options.order == "lifo" else m.place

    def ready(self) -> list[Listed]:
        return sorted((m for m in self.messages.values() if m.id not in self.claims and not m.due_ns), key=self.order)

    def delayed(self) -> list[Listed]:
        return [m for m in self.messages.values() if m.due_ns]

    def state(self, m: Listed) -> str:
        return "delayed" if m.due_ns else "claimed" if m.id in self.claims else "ready"

    def limit(self, group: str) -> int:
        limits = self.options.limits or {}
        return limits.get(group, limits.get("*", 1))

    def members(self, group: str | None) -> list[Listed]:
        found = [m for m in self.messages.values() if m.group == group and m.in_group]
        return sorted(found, key=self.order_in_group)

    def order_in_group(self, m: Listed) -> tuple[int, int]:
        return -m.priority, m.joined if self.options.aging is None else m.id

    def admits(self, m: Listed) -> bool:
        """Whether its group lets it go."""
        if m.group is None:
            return True
        members = self.members(m.group)
        in_flight = sum(member.id in self.claims for member in members)
        return in_flight < self.limit(m.group) and (self.limit(m.group) > 1 or members[0] is m)

    def next(self) -> Listed | None:
        """Who is next in line of those whose group is not busy; in a fair queue, of the group whose turn it is."""
        free = [m for m in self.ready() if self.admits(m)]
        if not self.options.fair:
            return free[0] if free else None

        def turn(m: Listed) -> tuple[bool, int, tuple[int, int]]:
            number = UNGROUPED if m.group is None else group_key(m.group)
            return number <= self.turn, number, self.order_in_group(m)

        return min(free, key=turn, default=None)

    def peek(self, count: int) -> list[Listed]:
        """What a claimer would get."""
        turn, found = self.turn, []
        for _ in range(count):
            m = self.next()
            if m is None:
                break
            self._claim(m)
            found.append(m)
        for m in found:
            del self.claims[m.id]
        self.turn = turn
        return found

    # ------------------------------------------------------------------ coming in
    def repeated(self, dedup_id: str | None, unique: str | None, states: Iterable[str]) -> int | None:
        """The id of what a put would repeat."""
        if dedup_id in self.dedup:
            number, until_ns = self.dedup[dedup_id]
            if until_ns > self.now_ns:
                return number
        if unique is not None:
            alive = [m.id for m in self.messages.values() if m.unique == unique and self.state(m) in states]
            dead = [number for number, d in self.dead.items() if d.unique == unique and "dead" in states]
            return min(alive, default=min(dead, default=None))
        return None

    def replaced(self, replace_key: str | None) -> Listed | None:
        """What a put would take the place of."""
        m = self.messages.get(self.newest.get(replace_key or "", 0))
        return None if m is None or m.id in self.claims else m

    def missing(self, count: int, older: Listed | None = None) -> int:
        """How many are to go before so many find room."""
        stored = len(self.messages) - (older is not None)
        return max(0, stored + count - self.options.maxsize) if self.options.maxsize else 0

    def has_room(self, count: int, older: Listed | None = None) -> bool:
        """Whether so many can be put, perhaps since others go, or since they go to the dead."""
        missing = self.missing(count, older)
        droppable = len([m for m in self.ready() if m is not older])
        overflow = self.options.overflow
        return not missing or overflow == "dead_letter" or (overflow == "drop_oldest" and droppable >= missing)

    def put(
        self,
        number: int,
        body: int,
        priority: int,
        *,
        delay: float = 0,
        ttl: float | None = None,
        group: str | None = None,
        dedup_id: str | None = None,
        replace_key: str | None = None,
        unique: str | None = None,
    ) -> None:
        assert all(number > other for other in self.messages)
        assert all(number > other for other in self.dead)
        if dedup_id is not None:
            self.dedup[dedup_id] = number, self.after(self.options.dedup_window)
        older = self.replaced(replace_key)
        if self.missing(1, older) and self.options.overflow == "dead_letter":
            self.dead[number] = Dead(body, priority, "overflow", 0, 0, group, unique)
            return
        m = Listed(number, body, priority, 0, group, replace_key, unique, self.expiry(ttl))
        self.drop(self.missing(1, older), older)
        self.messages[number] = m
        self.wait(m, self.after(delay)) if delay else self.line_up(m)
        if older is not None:
            self.remove(older)
            if older.priority == priority and not older.due_ns and not delay:
                m.place, m.joined, m.lined_up_ns = older.place, older.place, older.lined_up_ns

    def expiry(self, ttl: float | None) -> int:
        """When something expires that has that ttl now, or names none."""
        seconds = self.options.ttl if ttl is None else ttl
        return 0 if seconds is None else self.after(seconds)

    def drop(self, count: int, spared: Listed | None = None) -> None:
        """The first in line go, whatever their groups do."""
        for victim in [m for m in self.ready() if m is not spared][:count]:
            self.remove(victim)

    def line_up(self, m: Listed) -> None:
        m.due_ns, m.by_wall, m.place, m.lined_up_ns = 0, False, self.next_place(), self.now_ns
        m.joined = m.joined if m.retried else m.place
        self._name(m)

    def wait(self, m: Listed, due_ns: int, by_wall: bool = False) -> None:
        m.due_ns, m.by_wall, m.place = due_ns, by_wall, self.next_place()
        m.joined = m.joined if m.retried else m.place
        m.stored = m.failures, m.acquired
        self._name(m)

    def _name(self, m: Listed) -> None:
        if m.replace_key is not None:
            self.newest[m.replace_key] = max(m.id, self.newest.get(m.replace_key, 0))

    # ------------------------------------------------------------------ going out
    def allowed(self, count: int) -> int:
        """How many of so many the queue hands out now."""
        if self.paused:
            return 0
        if self.options.rate is None:
            return count
        most, seconds = self.options.rate  # type: ignore[misc]
        missing = -(-max(0, self.full_ns - self.now_ns) // round(seconds * SECOND / most))
        return min(count, most - missing)

    def _pace(self) -> None:
        if self.options.rate is not None:
            most, seconds = self.options.rate  # type: ignore[misc]
            self.full_ns = max(self.full_ns, self.now_ns) + round(seconds * SECOND / most)

    def _claim(self, m: Listed) -> int:
        self._numbers += 1
        self.claims[m.id] = self._numbers
        self.turn = UNGROUPED if m.group is None else group_key(m.group)
        return self._numbers

    def claim(self, count: int, holder: str, started: int | None = None) -> list[Held]:
        taken: list[Held] = []
        for _ in range(self.allowed(count)):
            m = self.next()
            if m is None:
                break
            held = Held(m, self._claim(m))
            self._pace()
            m.holder, m.acquired = holder, m.acquired + 1
            m.started = started is None or len(taken) < started
            m.deadline_ns = self.deadline_ns() if m.started else self.later_ns()
            taken.append(held)
        return taken

    def deadline_ns(self) -> int:
        return 0 if self.options.ack_timeout is None else self.after(self.options.ack_timeout)

    @property
    def slack_ns(self) -> int:
        """How much longer than ack_timeout a message that is prefetched on disk may be held."""
        timeout = self.options.ack_timeout
        return 0 if self.in_memory or timeout is None else min(int(timeout * SECOND) // 8, SECOND)

    def later_ns(self) -> int:
        """The deadline of what is prefetched."""
        return self.deadline_ns() and self.deadline_ns() + self.slack_ns

    def start(self, m: Listed) -> None:
        """It is handed out now: its ack_timeout begins, unless enough of its time is left."""
        m.started = True
        if not self.deadline_ns() <= m.deadline_ns <= self.later_ns():
            m.deadline_ns = self.deadline_ns()

    def holds(self, held: Held) -> bool:
        return self.claims.get(held.listed.id) == held.claim

    def remove(self, m: Listed) -> None:
        self.claims.pop(m.id, None)
        del self.messages[m.id]
        self.last_gone = m.id
        if m.replace_key is not None and self.newest.get(m.replace_key) == m.id:
            del self.newest[m.replace_key]

    def give_back(self, m: Listed, failed: bool, delay: float = 0) -> None:
        del self.claims[m.id]
        m.failures += failed
        if failed and self.options.max_deliveries is not None and m.failures >= self.options.max_deliveries:
            self.bury(m, "max_deliveries")
        elif delay:
            m.retried = True
            self.wait(m, self.after(delay))

    def nack(self, m: Listed, delay: float | None = None) -> None:
        if delay is None:
            backoff: Any = self.options.backoff
            delay = 0 if backoff is None else backoff.seconds(m.failures + 1)
        self.give_back(m, True, delay)

    def bury(self, m: Listed, reason: str) -> None:
        self.remove(m)
        if self.options.dead_letter and not (reason == "expired" and self.options.expired == "drop"):
            self.dead[m.id] = Dead(m.body, m.priority, reason, m.failures, m.acquired, m.group, m.unique)

    def revoke(self, condition: Callable[[Listed], bool]) -> None:
        """What holders lose who died, or let the time pass: those who had begun are blamed."""
        for m in [m for m in self.messages.values() if m.id in self.claims and condition(m)]:
            self.give_back(m, failed=m.started)

    def leave(self, holder: str) -> None:
        """What a holder gives back who goes in good order."""
        for m in [m for m in self.messages.values() if m.id in self.claims and m.holder == holder]:
            self.give_back(m, failed=False)

    def crash(self) -> None:
        """Of the machine: what only memory knew is forgotten."""
        self.claims.clear()
        self.seat, self.turn, self.full_ns = None, -1, 0
        for m in self.messages.values():
            m.failures, m.acquired = m.stored

    def redrive(self, numbers: list[int], interval: float) -> bool:
        """False where there is no room for them."""
        if self.missing(len(numbers)):
            return False
        for i, number in enumerate(numbers):
            d = self.dead.pop(number)
            m = self.messages[number] = Listed(number, d.body, d.priority, 0, d.group, None, d.unique)
            m.expires_ns = self.expiry(None)
            self.wait(m, self.after(i * interval)) if i * interval else self.line_up(m)
        return True

    def purge(self) -> int:
        gone = [*self.ready(), *self.delayed()]
        for m in gone:
            self.remove(m)
        return len(gone)

    def update(
        self,
        m: Listed,
        *,
        priority: int | None = None,
        delay: float | None = None,
        eta_ns: int | None = None,
        ttl: float | None = None,
    ) -> None:
        m.priority = m.priority if priority is None else priority
        m.retried = m.retried and priority is None  # else it lines up anew in its group
        m.stored = (m.failures, m.acquired)
        if ttl is not None:
            m.expires_ns = self.after(ttl)
        due_ns = m.due_ns if delay is eta_ns is None else self.after(delay) if delay is not None else eta_ns
        assert due_ns is not None
        if due_ns > self.now_ns:
            self.wait(m, due_ns, m.by_wall if delay is eta_ns is None else eta_ns is not None)
        else:
            self.line_up(m)

    # ------------------------------------------------------------------ time
    def look(self) -> list[Listed]:
        """What has expired goes, what is due lines up: the earliest first, then by priority, then in the order in which
        they began to wait; those by the time of day come last. Returns what schedules put, without ids.
        """
        for m in [m for m in self.messages.values() if 0 < m.expires_ns <= self.now_ns and m.id not in self.claims]:
            self.bury(m, "expired")
        fired: list[Listed] = []
        waiting: list[tuple[bool, Listed | Recurring]] = [(m.by_wall, m) for m in self.delayed()]
        waiting += [(False, schedule) for schedule in self.recurring.values()]
        for _, each in sorted(waiting, key=lambda w: (w[0], w[1].due_ns, -w[1].priority, w[1].place)):
            if each.due_ns > self.now_ns:
                continue
            if isinstance(each, Recurring):
                fired.extend(self._fire(each))
            else:
                self.line_up(each)
        return fired

    def _fire(self, each: Recurring) -> list[Listed]:
        missed = (self.now_ns - each.due_ns) // each.every_ns + 1
        late_ns = (self.now_ns - each.due_ns) % each.every_ns
        count = missed if each.catch_up == "all" else int(each.catch_up == "one" or late_ns <= 60 * SECOND)
        if self.missing(count):
            room = self.options.maxsize - len(self.messages)
            if room <= 0 or each.catch_up != "all":
                return []
            count = missed = room  # the others later
        each.due_ns += missed * each.every_ns
        each.place = self.next_place()
        fired = []
        for _ in range(count):
            m = Listed(-self.next_place(), each.body, each.priority, 0, each.group)
            m.expires_ns = 0 if each.ttl is None else self.after(each.ttl)
            self.messages[m.id] = m
            self.line_up(m)
            fired.append(m)
        return fired

    def name(self, m: Listed, number: int) -> None:
        """What a schedule has put is given its id."""
        del self.messages[m.id]
        m.id = number
        self.messages[number] = m
