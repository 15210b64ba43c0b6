"""Ratios that survive a noisy machine: contenders take turns, and each turn is compared with its neighbour.

One round runs every contender once, in alternating order. A ratio is the median over
the rounds of ours / floor within the same round, so that what slows the machine down
for a while slows both.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

Samples = dict[str, list[float]]


@attrs.frozen(kw_only=True)
class Settings:
    """How long to look. rounds: turns of each contender; seconds: per turn, where a turn is timed."""

    folder: str
    quick: bool
    rounds: int
    seconds: float
    backlog: int
    say: Callable[[str], None]


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table. `asked` is what the project wants to reach, None where it wants nothing.

    kind: "ratio" (ours / floor is at least `asked`), "times" (ours / floor is at most `asked`), or "most" (ours itself is
    at most `asked`).
    """

    measure: str
    label: str
    ours: float
    unit: str
    floor: float | None = None
    floor_name: str = ""
    ratio: float | None = None
    kind: str = "ratio"
    asked: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is what was asked for; None where nothing was."""
        if self.asked is None:
            return None
        if self.kind == "most":
            return self.ours <= self.asked
        if self.ratio is None:
            return False
        return self.ratio <= self.asked if self.kind == "times" else self.ratio >= self.asked


def in_turns(settings: Settings, turns: Mapping[str, Callable[[], float]], rounds: int | None = None) -> Samples:
    """Each contender's samples; the order changes from round to round. A first, uncounted turn warms each up."""
    samples: Samples = {name: [] for name in turns}
    order = list(turns)
    for name in order:
        turns[name]()
    for number in range(rounds or settings.rounds):
        for name in order if number % 2 else reversed(order):
            settings.say(f"{name}, round {number + 1}")
            samples[name].append(turns[name]())
    return samples


def ratio_of(ours: Sequence[float], floor: Sequence[float]) -> float:
    """The median of the ratios of neighbours."""
    return median(a / b for a, b in zip(ours, floor, strict=True))


def compared(
    measure: str,
    label: str,
    samples: Samples,
    floor: str,
    asked: float | None = None,
    unit: str = "/s",
    ours: str = "mqlite",
    kind: str = "ratio",
) -> Row:
    """A row of `ours` against `floor`."""
    return Row(
        measure=measure,
        label=label,
        ours=median(samples[ours]),
        unit=unit,
        floor=median(samples[floor]),
        floor_name=floor,
        ratio=ratio_of(samples[ours], samples[floor]),
        kind=kind,
        asked=asked,
    )


def rate(seconds: float, step: Callable[[], Any], each: int = 1) -> float:
    """How often per second `step` can be called, times `each`. Looks at the clock every few calls."""
    calls, start = 0, time.perf_counter()
    end = start + seconds
    while True:
        for _ in range(8):
            step()
        calls += 8
        now = time.perf_counter()
        if now >= end:
            return calls * each / (now - start)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


@contextlib.contextmanager
def temporary_folder(parent: str | None, prefix: str = "store-") -> Iterator[str]:
    """A new folder, removed afterwards, also on Ctrl-C."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Progress:
    """One line on a terminal that says what is being measured; silent elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self.measure = ""

    def say(self, what: str) -> None:
        """Replace the line."""
        if self._shown:
            columns = shutil.get_terminal_size().columns - 1
            line = f"{self.measure}: {what}" if what else self.measure
            sys.stderr.write("\r\x1b[K" + line[:columns])
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
