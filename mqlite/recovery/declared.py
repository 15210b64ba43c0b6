"""What the old store declared: its queues, topics, subscriptions, bindings and tables, and what stands for those whose
definition is lost.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ..codecs import PICKLE
from ..engine.catalog import SEPARATOR, shown
from ..errors import MqliteError
from ..log import DEAD_BIT, Definition, rows
from ..log import format as fmt
from ..log.index import REMOVED
from ..options import QueueOptions, TopicOptions
from .staging import Staged
from .tally import Tally


def declare(tally: Tally, states: tuple[Staged, Staged]) -> None:
    """Fill `tally.definitions` and `tally.removed`. states: what is sure, and what lies about besides."""
    _Declared(tally, states).run()


class _Declared:
    """One run of it."""

    def __init__(self, tally: Tally, states: tuple[Staged, Staged]) -> None:
        self._tally = tally
        self._definitions = tally.definitions
        self._states = states
        found, besides = states
        self._names = besides.names() | found.names()
        self._taken: set[str] = set()

    def run(self) -> None:
        """Definitions that are whole, then what is known to have been there."""
        for state in self._states:
            for definition in state.definitions():
                self._definitions.setdefault(definition.id, definition)
            self._tally.removed.update(parts[0] for parts, _ in state.entries(REMOVED, 0))
        self._tally.removed -= self._definitions.keys()
        self._taken.update(each.name for each in self._definitions.values())
        for topic in sorted(self._in_use(fmt.KEPT, fmt.KEPT_KEY_BYTES)):
            self._adopt(topic, "topic", self._names.get(topic, ""))
        for each in self._tally.of_kind("subscription", "binding"):
            self._adopt(each.details["topic"], "topic", each.name.split(SEPARATOR)[0] + SEPARATOR)
        queues = self._in_use(fmt.MESSAGE, fmt.MESSAGE_KEY_BYTES) | self._in_use(fmt.DELAYED, fmt.DELAYED_KEY_BYTES)
        fed = {each.details["queue"] for each in self._tally.of_kind("binding")}
        for queue in sorted({number & ~DEAD_BIT for number in queues | fed} - {0}):
            self._adopt(queue, "queue", self._names.get(queue, ""))
        for table in sorted(self._in_use(rows.ROW, rows.PREFIX_BYTES)):
            self._adopt(table, "table", self._names.get(table, ""))
        for subscription in self._tally.of_kind("subscription"):
            if subscription.details["binding"] not in self._definitions:
                self._bind(subscription)

    def _in_use(self, kind: bytes, key_bytes: int) -> set[int]:
        return {number for state in self._states for number in state.numbers(kind, key_bytes)}

    def _adopt(self, number: int, kind: str, name: str) -> None:
        """Something that has lost its definition gets one, and its name if that is known."""
        if number in self._definitions or number in self._tally.removed:
            return
        options: dict[str, Any] = {}
        details: dict[str, Any] = {}
        fits = name.count(SEPARATOR) == 1 and (name.endswith(SEPARATOR) if kind == "topic" else name[:1] == SEPARATOR)
        if kind == "topic":
            options = self._options_of_topic(number).stored()
        elif kind == "queue":
            options = QueueOptions(codec=self._codec_of(number)).stored()
            topic = self._topic_of(name)
            if topic is not None:
                kind, fits, details = "subscription", True, self._details_of_subscription(topic, number)
            else:
                fits = SEPARATOR not in name
        if not fits or name in {"", SEPARATOR} or name in self._taken:
            plain = f"recovered-{number}"
            name = {"topic": plain + SEPARATOR, "table": SEPARATOR + plain}.get(kind, plain)
            kind, details = ("queue", {}) if kind == "subscription" else (kind, details)
        self._taken.add(name)
        self._definitions[number] = Definition(number, name, options, kind=kind, details=details)
        self._tally.problems.append(
            f"the settings of {kind} {number} are lost: it is called {self._tally.name_of(number)!r} now, and has "
            "default ones"
        )

    def _topic_of(self, name: str) -> int | None:
        """The topic of a subscription that is stored under that name."""
        key, separator, own = name.partition(SEPARATOR)
        if not key or not own or SEPARATOR in own:
            return None
        return next((each.id for each in self._tally.of_kind("topic") if each.name == key + separator), None)

    def _details_of_subscription(self, topic: int, number: int) -> dict[str, Any]:
        bindings = (each.id for each in self._tally.of_kind("binding") if each.details["queue"] == number)
        return {
            "topic": topic,
            "binding": next(bindings, 0),
            "durable": True,
            "callable": None,
            "expires_after": None,
        }

    def _codec_of(self, number: int) -> str:
        """ "pickle" where the first message was pickled."""
        for state in self._states:
            for _, raw in state.scan(number):
                return "pickle" if raw[5] == PICKLE else "json"
            for _, raw in state.all_kept(number):
                return "pickle" if raw[5] == PICKLE else "json"
        return "json"

    def _options_of_topic(self, number: int) -> TopicOptions:
        """As what it has kept tells."""
        for state in self._states:
            with contextlib.suppress(MqliteError):
                numbers = state.topic_numbers(number)
                if numbers.version and not numbers.retained:
                    return TopicOptions(codec=self._codec_of(number))
        keys = (fmt.key_of(raw) for state in self._states for _, raw in state.all_kept(number))
        return TopicOptions(codec=self._codec_of(number), retention="limits", compact=next(keys, None) is not None)

    def _bind(self, subscription: Definition) -> None:
        """A subscription whose binding is lost."""
        number = max(self._definitions) + 1
        topic = self._definitions[subscription.details["topic"]]
        details = {"topic": topic.id, "queue": subscription.id, "pattern": "#", "filter": None}
        name = f"{topic.name}{SEPARATOR}{number:016x}"
        self._definitions[number] = Definition(number, name, {}, kind="binding", details=details)
        subscription.details["binding"] = number
        self._tally.problems.append(
            f"what the subscription {shown(subscription.name)!r} wants is lost: it gets everything now"
        )
