"""Many images at once: what they came to, and what is wrong with it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from mqlite.log import front_file as layout

from .cuts import Image, images
from .examiner import Examiner, Verdict, of, promised, wrong
from .records import KILLED, PAGE, SECTOR
from .stage import Stage


class Sweep:
    """Images of a level, and their verdicts. outcomes: how many came to what; lost: how many lacked what had returned;
    in_front: how many had something in the front; recalled: from how many of these it came back.
    """

    def __init__(self, examiner: Examiner, level: str) -> None:
        self._examiner, self._level = examiner, level
        self.outcomes: Counter[str] = Counter()
        self.lost = self.in_front = self.recalled = 0
        self._failures: list[str] = []

    def examine(self, found: Iterable[Image], seed: str, models: dict[str, Any], **how: Any) -> None:
        """All of these. how: what else the examiner is told."""
        for number, image in enumerate(found):
            asked = {"models": models, "level": self._level, "twice": number % 5 == 0, **how}
            verdict = self._examiner.examine(image, f"{seed} {number}", **asked)
            self.outcomes[verdict.outcome] += 1
            self.lost += self._is_lost(image, verdict)
            self.in_front += has_a_front(image)
            self.recalled += verdict.recalled > 0
            problem = wrong(image, verdict, self._level)
            if problem:
                self._failures.append(f"seed {seed!r}, image {number} at record {image.where}: {problem}")

    def _is_lost(self, image: Image, verdict: Verdict) -> bool:
        return verdict.outcome == "whole" and verdict.state < promised(image, self._level)

    def check(self) -> Sweep:
        """Fails where one of them is not as it should be."""
        print(f"{self._level}: {dict(self.outcomes)}, {self.in_front} with something in the front, {self.recalled} recalled")
        assert self.outcomes, "no image at all"
        assert not self._failures, f"{len(self._failures)} of {self.outcomes.total()} images: " + "\n".join(self._failures[:3])
        return self


def has_a_front(image: Image) -> bool:
    """Whether the file says that there is something in it."""
    content = image.files.get("log.front")
    head = content.bytes()[8 * layout.HEAD :][:8] if content is not None else b""
    return int.from_bytes(head, "little") > layout.START


def outcomes(examiner: Examiner, found: Iterable[Image], level: str, seed: str, models: dict[str, Any]) -> Counter[str]:
    """How many images came to what; fails where one of them is not as it should be."""
    sweep = Sweep(examiner, level)
    sweep.examine(found, seed, models)
    print(f"seed {seed!r}", end=", ")
    return sweep.check().outcomes


def cut_alone(
    stage: Stage, examiner: Examiner, level: str, seed: str, unit: int, count: int, operations: int, **how: Any
) -> Counter[str]:
    """Power cuts of one process."""
    recording = stage.record("alone", level=level, seed=seed, count=operations, **how)
    recording.remove()
    found = images(recording.entries, random.Random(seed), count, unit)
    return outcomes(examiner, found, level, seed, of(seed, operations))


def cut_after_kills(
    stage: Stage, examiner: Examiner, level: str, kill_in: str, kills: int, count: int, seed: str = ""
) -> Sweep:
    """One of three processes is killed in an operation, or in `sync`, others go on, then the power goes."""
    seed = seed or f"killed in {kill_in} {level}"
    recording = stage.record("together", level=level, seed=seed, count=80, kill_in=kill_in)
    recording.remove()
    calls = recording.told["calls"]
    killed_at, sweep = [], Sweep(examiner, level)
    for call in sorted({1 + place * (calls - 1) // (kills - 1) for place in range(kills)} if calls else ()):
        recording = stage.record("together", level=level, seed=seed, count=80, kill_in=kill_in, kill_at=call, torn=call % 2)
        recording.remove()
        if not recording.told["killed"]:  # the process that was chosen makes fewer calls
            continue
        killed_at.append(call)
        killed = next(at for at, entry in enumerate(recording.entries) if entry.op == "M" and entry.flags == KILLED)
        rnd = random.Random(f"{seed} {call}")
        found = images(recording.entries, rnd, count, rnd.choice((PAGE, SECTOR)), first=killed)
        sweep.examine(found, f"{seed} {call}", of(seed, 80))
    assert killed_at or (level, kill_in) == ("full", "sync"), "nobody was killed"
    return sweep.check() if killed_at else sweep


def cut_twice(stage: Stage, examiner: Examiner, level: str, times: int, count: int, seed: str = "") -> tuple[Sweep, int]:
    """The power goes once more while a store that it had left is opened, and used; and how many of these had recalled
    something of the front.
    """
    seed, operations, more = seed or f"twice {level}", 100, 12
    recording = stage.record("alone", level=level, seed=seed, count=operations)
    recording.remove()
    sweep, recalled = Sweep(examiner, level), 0
    for number, image in enumerate(images(recording.entries, random.Random(seed), times, PAGE)):
        boot = f"{seed} {number}"
        second = stage.record("again", image.files, level=level, seed=seed, count=operations, boot=boot, more=more)
        second.remove()
        if "refused" in second.told:
            assert level == "process", second.told["refused"]
            continue
        state = second.told["state"]
        recalled += second.told["recalled"] > 0
        assert promised(image, level) <= state <= image.begun, f"image {number} at {image.where}: state {state}"
        rnd = random.Random(boot)
        found = images(second.entries, rnd, count, rnd.choice((PAGE, SECTOR)), base=second.base)
        sweep.examine(found, boot, of(seed, operations, (state, boot, more)))
    return sweep.check(), recalled
