"""The declared queues: their ids, and the options in force."""

from __future__ import annotations

import math
from typing import Any

import attrs

from ..errors import NoSuchSubscription
from ..log import DEAD_BIT, Definition, Log, Snapshot
from ..message import group_key
from ..options import DEAD_OPTIONS, Named, QueueOptions
from ..system.clock import ns_of
from .steps import CHANGED

NO_LIMIT = 1 << 62
#: Between the name of a topic and that of what belongs to it: no name that a user gives has it.
SEPARATOR = "\x1f"


#: What is prefetched is claimed for ack_timeout and this part of it more, but no more than so many nanoseconds: handed
#: out within that time, it needs no commit to begin its ack_timeout then. It is taken back late by as much.
SLACK_DIVISOR, MOST_SLACK_NS = 8, 1_000_000_000


def shown(key: str) -> str:
    """A name as users see it, of what is stored under that key."""
    return key.replace(SEPARATOR, "/")


def is_internal(key: str) -> bool:
    """Whether a queue is none that users know of."""
    return key.startswith(SEPARATOR)


class QueueState:
    """A queue as this process knows it. Options are read again when their version in the log changes.

    The other attributes follow from the options:

    asks_of_puts   a put asks for more than room for so many messages, with maxsize, or does not wait for it
    is_held_up     it may give nothing, whatever there is: it is paused, or has a rate
    is_plain       neither, messages line up by priority and put, and nothing but its group keeps a claimer from
                   what is first in line
    has_cursors    what is put lies behind all that is there of its priority, and what is first in line is taken first:
                   the claims may remember how far they have come
    is_in_line     it has cursors, is not held up, and belongs to no topic: as long as no message in it has a group,
                   expires or waits for its time, claimers take what is first in line
    marks_all      every message has marks

    ack_timeout_ns is the option in nanoseconds; 0: none. slack_ns is how much longer what is prefetched may be held.
    key is what it is stored under, name what users see; topic: the number of the one that it subscribes to, or 0.
    removed: it is a subscription that is no more. prepared_for: the number of the queue whose prepared messages it
    holds, which gets its dead letters (-1: a topic's), or 0.
    """

    __slots__ = (
        "_limits",
        "_other_limit",
        "ack_timeout_ns",
        "asks_of_puts",
        "has_cursors",
        "id",
        "is_held_up",
        "is_in_line",
        "is_plain",
        "key",
        "marks_all",
        "name",
        "options",
        "prepared_for",
        "removed",
        "slack_ns",
        "topic",
        "version",
    )

    def __init__(self, number: int, key: str, options: QueueOptions, version: int, topic: int = 0) -> None:
        self.id = number
        self.key = key
        self.name = shown(key)
        self.options = options
        self.topic = topic
        self.prepared_for = 0
        self.removed = False
        self.adopt(options, version)

    @classmethod
    def of(cls, definition: Definition) -> QueueState:
        """The queue of a definition."""
        options, details = QueueOptions(**definition.options), definition.details
        state = cls(definition.id, definition.name, options, definition.version, details.get("topic", 0))
        state.prepared_for = details.get("prepared_for", 0)
        state.name = details.get("shown", state.name)
        return state

    @property
    def grave(self) -> int:
        """The number of the queue of its dead letters."""
        return (self.prepared_for if self.prepared_for > 0 else self.id) | DEAD_BIT

    def remove(self) -> None:
        """Nothing comes into it or out of it any more."""
        self.removed = True
        self.is_plain = self.is_in_line = False  # so that whoever looks at it takes the long way, and sees

    def adopt(self, options: QueueOptions, version: int) -> None:
        """These options hold from now on. A function that this process was given for them stays."""
        known, new = self.options.backoff, options.backoff
        if isinstance(new, Named) and new.function is None and known == new:
            options = attrs.evolve(options, backoff=known)
        self.removed = False
        limits = options.limits or {}
        numbers = {group: NO_LIMIT if limit is None else limit for group, limit in limits.items()}
        self._other_limit = numbers.pop("*", 1)
        self._limits = {group_key(group): limit for group, limit in numbers.items()}
        in_order = options.order == "priority" and options.aging is None
        self.has_cursors = in_order and not options.fair
        self.marks_all = options.fair or options.aging is not None or options.ttl is not None
        self.asks_of_puts = options.maxbytes > 0 or options.overflow != "block"
        self.is_held_up = options.paused or options.rate is not None
        self.ack_timeout_ns = 0 if options.ack_timeout is None else ns_of(options.ack_timeout)
        self.slack_ns = min(self.ack_timeout_ns // SLACK_DIVISOR, MOST_SLACK_NS)
        self.is_in_line = self.has_cursors and not (self.is_held_up or self.topic)
        self.is_plain = self.has_cursors and not (self.asks_of_puts or self.marks_all or self.is_held_up)
        self.options, self.version = options, version

    def is_timely(self, deadline_ns: int, now_ns: int) -> bool:
        """Whether a claim that was made ahead, with that deadline, times out no sooner and not much later than it
        should when it is handed out now.
        """
        first, last = self.timely(deadline_ns)
        return first <= now_ns <= last

    def timely(self, deadline_ns: int) -> tuple[float, float]:
        """The first and the last moment at which that is so."""
        if not deadline_ns:
            return 0, math.inf
        last = deadline_ns - self.ack_timeout_ns
        return last - self.slack_ns, last

    @property
    def is_dead(self) -> bool:
        """Whether this is the dead-letter queue of another."""
        return bool(self.id & DEAD_BIT)

    @property
    def origin(self) -> str:
        """The key of the declared queue: its own, or that of the queue whose dead letters it holds."""
        return self.key.removesuffix(".dead") if self.is_dead else self.key

    def limit_of(self, group: int) -> int:
        """How many messages of a group may be in flight."""
        return self._limits.get(group, self._other_limit)


class Catalog:
    """The queues of one store, as this process knows them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._states: dict[int, QueueState] = {}
        log.after_failure = self.doubt

    def declare(self, name: str, named: dict[str, Any], details: dict[str, Any] | None = None) -> QueueState:
        """The queue of that name, made with the options `named` if it is new; or the subscription of that key. details:
        of a queue of our own, whose options may have been changed since.

        Raises SettingsMismatch where a stored option differs from a named one, NoSuchSubscription.
        """

        def op(txn: Any) -> None:
            if txn.definition(name) is None:
                options = QueueOptions(**named)
                txn.define(Definition(0, name, options.stored(), details=details or {}))

        with self._log.read() as snapshot:
            definition = snapshot.definition(name)
        if definition is None:
            if SEPARATOR in name and details is None:
                raise NoSuchSubscription(f"the subscription {shown(name)!r} was removed: subscribe again")
            self._log.write(op)
            with self._log.read() as snapshot:
                definition = snapshot.definition(name)
        assert definition is not None
        state = self.remember(QueueState.of(definition))
        if details is not None:
            return state
        options = state.options
        options.check_named(named, f"queue {shown(name)!r}")
        if "backoff" in named:  # with the function that is not stored, if it is one
            state.adopt(attrs.evolve(options, backoff=named["backoff"]), definition.version)
        return state

    def remember(self, state: QueueState) -> QueueState:
        """The one state that all handles of this process share, brought up to date."""
        known = self._states.setdefault(state.id, state)
        known.adopt(state.options, state.version)
        return known

    def doubt(self) -> None:
        """What was read in a transaction that was not committed may be wrong: it is read again."""
        for state in self._states.values():
            if not state.is_dead:
                state.version = -1

    def forget(self, queue: int) -> None:
        """A subscription is no more."""
        for number in (queue, queue | DEAD_BIT):
            state = self._states.pop(number, None)
            if state is not None:
                state.remove()

    def known(self, queue: int) -> QueueState | None:
        """The queue of that id, if this process has opened it."""
        return self._states.get(queue)

    def configure(self, queue: QueueState, changes: dict[str, Any]) -> None:
        """Change options for every process. One commit. Blocked puts look again."""

        def op(txn: Any) -> None:
            definition = txn.definition(queue.key)
            if definition is None or definition.id != queue.id:
                raise NoSuchSubscription(f"the subscription {queue.name!r} was removed: subscribe again")
            definition.options = attrs.evolve(QueueOptions(**definition.options), **changes).stored()
            definition.version += 1
            txn.define(definition)
            txn.notes.append((CHANGED, queue.id))

        self._log.write(op)
        with self._log.read() as snapshot:
            options = self.options(queue, snapshot)
        if "backoff" in changes:
            queue.adopt(attrs.evolve(options, backoff=changes["backoff"]), queue.version)

    def options(self, queue: QueueState, snapshot: Snapshot) -> QueueOptions:
        """The options in force in `snapshot`."""
        return self.options_at(queue, snapshot.gauges(queue.id)[0], snapshot)

    def options_at(self, queue: QueueState, version: int, snapshot: Snapshot) -> QueueOptions:
        """The same, for who knows the version of the settings in `snapshot`."""
        if version != queue.version and not queue.id & DEAD_BIT:
            if version > queue.version:  # not those of an older snapshot
                definition = snapshot.definition(queue.key)
                if definition is not None and definition.id == queue.id:
                    queue.adopt(QueueOptions(**definition.options), definition.version)
                else:
                    queue.remove()
            elif not version:  # even its numbers are gone
                queue.remove()
        return queue.options

    def dead_of(self, queue: QueueState) -> QueueState:
        """The dead-letter queue of a queue."""
        options = attrs.evolve(DEAD_OPTIONS, codec=queue.options.codec)
        dead = QueueState(queue.id | DEAD_BIT, f"{queue.key}.dead", options, 0)
        dead.name = f"{queue.name}.dead"
        return self.remember(dead)

    def state(self, queue: int, snapshot: Snapshot) -> QueueState:
        """The queue of that id, also one that this process has not opened."""
        state = self._states.get(queue)
        if state is None:
            definition = snapshot.definition_by_id(queue & ~DEAD_BIT)
            if definition is None:  # a subscription that was removed
                state = QueueState(queue, f"removed {queue & ~DEAD_BIT}", QueueOptions(), 0)
                state.remove()
                return state
            state = self.remember(QueueState.of(definition))
            if queue & DEAD_BIT:
                state = self.dead_of(state)
        self.options(state, snapshot)
        return state
