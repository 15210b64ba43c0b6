"""The declared queues: their ids, and the options in force."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import MqliteError
from ..log import DEAD_BIT, Definition, Log, Snapshot
from ..message import group_key
from ..options import DEAD_OPTIONS, Named, QueueOptions
from .steps import CHANGED

NO_LIMIT = 1 << 62


class QueueState:
    """A queue as this process knows it. Options are read again when their version in the log changes.

    The other attributes follow from the options:

    asks_of_puts   a put asks for more than room for so many messages, with maxsize, or does not wait for it
    is_held_up     it may give nothing, whatever there is: it is paused, or has a rate
    is_plain       neither, messages line up by priority and put, and nothing but its group keeps a claimer from
                   what is first in line
    has_cursors    what is put lies behind all that is there of its priority, and what is first in line is taken first:
                   the claims may remember how far they have come
    marks_all      every message has marks
    """

    __slots__ = (
        "_limits",
        "_other_limit",
        "asks_of_puts",
        "has_cursors",
        "id",
        "is_held_up",
        "is_plain",
        "marks_all",
        "name",
        "options",
        "version",
    )

    def __init__(self, number: int, name: str, options: QueueOptions, version: int) -> None:
        self.id = number
        self.name = name
        self.options = options
        self.adopt(options, version)

    def adopt(self, options: QueueOptions, version: int) -> None:
        """These options hold from now on. A function that this process was given for them stays."""
        known, new = self.options.backoff, options.backoff
        if isinstance(new, Named) and new.function is None and known == new:
            options = attrs.evolve(options, backoff=known)
        limits = options.limits or {}
        numbers = {group: NO_LIMIT if limit is None else limit for group, limit in limits.items()}
        self._other_limit = numbers.pop("*", 1)
        self._limits = {group_key(group): limit for group, limit in numbers.items()}
        in_order = options.order == "priority" and options.aging is None
        self.has_cursors = in_order and not options.fair
        self.marks_all = options.fair or options.aging is not None or options.ttl is not None
        self.asks_of_puts = options.maxbytes > 0 or options.overflow != "block"
        self.is_held_up = options.paused or options.rate is not None
        self.is_plain = self.has_cursors and not (self.asks_of_puts or self.marks_all or self.is_held_up)
        self.options, self.version = options, version

    @property
    def is_dead(self) -> bool:
        """Whether this is the dead-letter queue of another."""
        return bool(self.id & DEAD_BIT)

    @property
    def origin(self) -> str:
        """The name of the declared queue: its own, or that of the queue whose dead letters it holds."""
        return self.name.removesuffix(".dead") if self.is_dead else self.name

    def limit_of(self, group: int) -> int:
        """How many messages of a group may be in flight."""
        return self._limits.get(group, self._other_limit)


class Catalog:
    """The queues of one store, as this process knows them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._states: dict[int, QueueState] = {}

    def declare(self, name: str, named: dict[str, Any]) -> QueueState:
        """The queue of that name, made with the options `named` if it is new.

        Raises SettingsMismatch where a stored option differs from a named one.
        """

        def op(txn: Any) -> None:
            if txn.definition(name) is None:
                options = QueueOptions(**named)
                txn.define(Definition(0, name, options.stored()))

        with self._log.read() as snapshot:
            definition = snapshot.definition(name)
        if definition is None:
            self._log.write(op)
            with self._log.read() as snapshot:
                definition = snapshot.definition(name)
        assert definition is not None
        options = QueueOptions(**definition.options)
        options.check_named(named, name)
        state = self._remember(QueueState(definition.id, name, options, definition.version))
        if "backoff" in named:  # with the function that is not stored, if it is one
            state.adopt(attrs.evolve(options, backoff=named["backoff"]), definition.version)
        return state

    def _remember(self, state: QueueState) -> QueueState:
        known = self._states.setdefault(state.id, state)
        known.adopt(state.options, state.version)
        return known

    def known(self, queue: int) -> QueueState | None:
        """The queue of that id, if this process has opened it."""
        return self._states.get(queue)

    def configure(self, queue: QueueState, changes: dict[str, Any]) -> None:
        """Change options for every process. One commit. Blocked puts look again."""

        def op(txn: Any) -> None:
            definition = txn.definition(queue.name)
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
        if version > queue.version and not queue.id & DEAD_BIT:  # not those of an older snapshot
            definition = snapshot.definition(queue.name)
            if definition is not None:
                queue.adopt(QueueOptions(**definition.options), definition.version)
        return queue.options

    def dead_of(self, queue: QueueState) -> QueueState:
        """The dead-letter queue of a queue."""
        return self._remember(
            QueueState(
                queue.id | DEAD_BIT, f"{queue.name}.dead", attrs.evolve(DEAD_OPTIONS, codec=queue.options.codec), 0
            )
        )

    def state(self, queue: int, snapshot: Snapshot) -> QueueState:
        """The queue of that id, also one that this process has not opened."""
        state = self._states.get(queue)
        if state is None:
            definition = snapshot.definition_by_id(queue & ~DEAD_BIT)
            if definition is None:
                raise MqliteError(f"the store speaks of a queue {queue} that it does not have: run check()")
            state = self._remember(
                QueueState(definition.id, definition.name, QueueOptions(**definition.options), definition.version)
            )
            if queue & DEAD_BIT:
                state = self.dead_of(state)
        self.options(state, snapshot)
        return state
