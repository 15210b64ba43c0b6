"""The declared queues: their ids, and the options in force."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import MqliteError
from ..log import DEAD_BIT, Definition, Log, Snapshot
from ..options import DEAD_OPTIONS, QueueOptions
from .steps import CHANGED


@attrs.define(eq=False)
class QueueState:
    """A queue as this process knows it. Options are read again when their version in the log changes."""

    id: int
    name: str
    options: QueueOptions
    version: int

    @property
    def is_dead(self) -> bool:
        """Whether this is the dead-letter queue of another."""
        return bool(self.id & DEAD_BIT)

    @property
    def origin(self) -> str:
        """The name of the declared queue: its own, or that of the queue whose dead letters it holds."""
        return self.name.removesuffix(".dead") if self.is_dead else self.name


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
                txn.define(Definition(0, name, attrs.asdict(options)))

        with self._log.read() as snapshot:
            definition = snapshot.definition(name)
        if definition is None:
            self._log.write(op)
            with self._log.read() as snapshot:
                definition = snapshot.definition(name)
        assert definition is not None
        options = QueueOptions(**definition.options)
        options.check_named(named, name)
        return self._remember(QueueState(definition.id, name, options, definition.version))

    def _remember(self, state: QueueState) -> QueueState:
        known = self._states.setdefault(state.id, state)
        known.options, known.version = state.options, state.version
        return known

    def configure(self, queue: QueueState, changes: dict[str, Any]) -> None:
        """Change options for every process. One commit. Blocked puts look again."""

        def op(txn: Any) -> None:
            definition = txn.definition(queue.name)
            definition.options = attrs.asdict(attrs.evolve(QueueOptions(**definition.options), **changes))
            definition.version += 1
            txn.define(definition)
            txn.notes.append((CHANGED, queue.id))

        self._log.write(op)
        with self._log.read() as snapshot:
            self.options(queue, snapshot)

    def options(self, queue: QueueState, snapshot: Snapshot) -> QueueOptions:
        """The options in force in `snapshot`."""
        return self.options_at(queue, snapshot.gauges(queue.id)[0], snapshot)

    def options_at(self, queue: QueueState, version: int, snapshot: Snapshot) -> QueueOptions:
        """The same, for who knows the version of the settings in `snapshot`."""
        if version != queue.version and not queue.id & DEAD_BIT:
            definition = snapshot.definition(queue.name)
            if definition is not None:
                queue.options, queue.version = QueueOptions(**definition.options), definition.version
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
