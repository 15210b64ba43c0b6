"""What was saved so far, and what is known to be wrong."""

from __future__ import annotations

from collections import Counter

import attrs

from ..engine.catalog import shown
from ..log import DEAD_BIT, Definition


@attrs.define
class Tally:
    """Of one recovery.

    greatest: of the numbers that the old store gave out, as far as they were seen; messages: by queue; references: to
    what a topic keeps, by (topic, id); removed: subscriptions that were being removed, whose messages are nobody's
    """

    problems: list[str] = attrs.field(factory=list)
    definitions: dict[int, Definition] = attrs.field(factory=dict)
    removed: set[int] = attrs.field(factory=set)
    messages: Counter[int] = attrs.field(factory=Counter)
    references: Counter[tuple[int, int]] = attrs.field(factory=Counter)
    kept: int = 0
    rows: int = 0
    greatest: int = 0

    def saw(self, number: int) -> None:
        """A number that was given out."""
        self.greatest = max(self.greatest, number)

    def name_of(self, number: int) -> str:
        """Of what was declared under a number, as users see it."""
        definition = self.definitions.get(number & ~DEAD_BIT)
        name = shown(definition.name).strip("/") if definition else f"number {number & ~DEAD_BIT}"
        return f"{name}.dead" if number & DEAD_BIT else name

    def of_kind(self, *kinds: str) -> list[Definition]:
        """What is declared of these kinds."""
        return [each for each in self.definitions.values() if each.kind in kinds]
