"""What a power cut leaves of a store that is copied, and of the copy: by `broker.backup` while another thread writes, and by
`mqlite.recover`.

As long as a copy is being made it is not there, or opening it says that it is not whole. When the call has returned, it
is there, and whole. MQLITE_COPY_CUTS: how many times the images of each test are made.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import pytest

from mqlite.checks import LEVELS

from .cuts import Image, images
from .examiner import Examiner, Verdict, of, wrong
from .records import COPIED, COPIES, LOOKED, PAGE, SECTOR, Entry, whereabouts
from .stage import Recording, Stage

MORE = int(os.environ.get("MQLITE_COPY_CUTS", "1"))
#: Of how many images the store that was copied is examined, too; of how many of these it is copied again, or recovered.
STORES, COPIED_AGAIN, RECOVERED_AGAIN = 0.12, 0.25, 0.03
OTHER_LEVEL = {"full": "process", "checkpoint": "full", "process": "checkpoint"}


@attrs.define
class Sweep:
    """Images of a recording from record `first` to `last`. Copies that are equal are examined once.

    entries: what is taken for the record. copies_only: nothing else is looked at. counted: how often there was which
    outcome.
    """

    examiner: Examiner
    recording: Recording
    seed: str
    first: int
    last: int
    entries: list[Entry] = attrs.field(default=attrs.Factory(lambda self: self.recording.entries, takes_self=True))
    copies_only: bool = False
    counted: Counter[str] = attrs.Factory(Counter)
    _verdicts: dict[tuple[str, int], Verdict] = attrs.Factory(dict)

    def images(self, count: int) -> Iterator[tuple[str, Image]]:
        """With a seed for each. Half are of cuts at flushes and changes of names, but those of the store that is copied,
        and of cuts right after the copy.
        """
        rnd = random.Random(self.seed)
        places = whereabouts(self.entries, self.recording.base)
        often = [
            moment
            for at, entry in enumerate(self.entries)
            for moment in ((at, at + 1) if entry.op in "FD" else (at + 1,))
            if self.first <= moment <= self.last and entry.op in "CRUKDF" and not places[at].startswith("app")
        ]
        returned = [at + 1 for at, entry in enumerate(self.entries) if (entry.op, entry.flags) == ("M", COPIED)]
        often += [at for at in returned if self.first <= at <= self.last] * (1 + len(often) // 5)
        for in_order in (True, False):
            unit = rnd.choice((PAGE, SECTOR))
            found = images(
                self.entries, rnd, count // 2, unit, base=self.recording.base,
                first=self.first, last=self.last, names_in_order=in_order, often=often,
            )
            for number, image in enumerate(found):
                yield f"{self.seed} {in_order} {number}", image

    def copy(self, image: Image, seed: str, folder: str, **how: Any) -> Verdict:
        """What the copy in that folder is worth."""
        if folder not in image.folders:
            return Verdict("nothing")
        inside = {path: content for path, content in image.files.items() if path.startswith(folder + "/")}
        key = hash(tuple(sorted((path, content.size, *sorted(content.units.items())) for path, content in inside.items())))
        if (folder, key) not in self._verdicts:
            self._verdicts[folder, key] = self.examiner.examine(image, seed, question="copy", inside=folder, **how)
        return self._verdicts[folder, key]

    def examine(self, what: str, image: Image, seed: str, **how: Any) -> Verdict:
        """What the store that is copied is worth, or what is done with it next."""
        verdict = self.examiner.examine(image, seed, inside="app", **how)
        self.counted[f"{what}: {verdict.outcome}"] += 1
        return verdict

    def assert_nothing_wrong(self, found: Iterator[str]) -> None:
        failures = list(found)
        print(f"seed {self.seed!r}: {dict(self.counted)}")
        assert not failures, f"{len(failures)} are wrong: " + "\n".join(failures[:3])


def mark(recorded: list[Entry], kind: int, number: int) -> int:
    """Where it is."""
    return next(at for at, entry in enumerate(recorded) if (entry.op, entry.flags, entry.offset) == ("M", kind, number))


# ---------------------------------------------------------------------- backup
def backed_up(stage: Stage, level: str, seed: str) -> Recording:
    """A store that was copied twice while it was written to: at its level, and at another one."""
    recording = stage.record("back_up", folders=True, level=level, seed=seed, copies=[level, OTHER_LEVEL[level]])
    recording.remove()
    return recording


def sweep_of_backup(examiner: Examiner, recording: Recording, seed: str, number: int) -> Sweep:
    """From the beginning of one copy to some time after it."""
    begun, ended = (mark(recording.entries, kind, number) for kind in (COPIES, COPIED))
    written = [entry.flags for entry in recording.entries[begun + 1 : ended] if entry.op == "M"]
    assert len(written) > 6, "nobody wrote while the store was copied"
    return Sweep(examiner, recording, seed, begun + 1, min(ended + 40, len(recording.entries)))


def wrong_with_backups(sweep: Sweep, count: int, level: str, number: int) -> Iterator[str]:
    """What is wrong with copy `number` of the store, what lies beside it, the store, and the next copy to the same target."""
    models = of(sweep.seed, sweep.recording.told["operations"])
    target, level_of_copy = f"copy-{number}", (level, OTHER_LEVEL[level])[number - 1]
    for seed, image in sweep.images(count):
        where = f"seed {seed!r}, at record {image.where}:"
        copy = sweep.copy(image, seed, target, models=models)
        returned = number in image.copied
        sweep.counted[f"{'after' if returned else 'during'}: {copy.outcome}"] += 1
        if copy.outcome == "whole":
            if not image.copies[number] <= copy.state <= image.copied.get(number, image.begun):
                yield f"{where} the copy is as of {copy.state}, and was begun after {image.copies[number]}"
            if copy.detail != level_of_copy:
                yield f"{where} the copy has level {copy.detail!r}"
        elif copy.outcome != "nothing" or returned:
            yield f"{where} the copy, which had {'' if returned else 'not '}returned: {copy.outcome} {copy.detail}"
        beside = sweep.copy(image, seed, target + ".part", models=models, empty=("store.json.new", "log.control"))
        sweep.counted[f"beside it: {beside.outcome}"] += 1
        if beside.outcome not in ("nothing", "unfinished", "whole"):
            yield f"{where} what lies beside the target: {beside.outcome} {beside.detail}"
        rnd = random.Random(seed)
        if rnd.random() < STORES and not sweep.copies_only:
            store = sweep.examine("store", image, seed, models=models, level=level)
            problem = wrong(image, store, level)
            if problem:
                yield f"{where} the store: {problem}"
            elif rnd.random() < COPIED_AGAIN and store.outcome == "whole" and copy.outcome == "nothing":
                again = sweep.examine("next backup", image, seed, question="next backup", models=models, target=target)
                if again.outcome != "whole":
                    yield f"{where} the next backup: {again.outcome} {again.detail}"


@pytest.mark.parametrize("level", LEVELS)
def test_a_power_cut_during_a_backup_leaves_the_store_and_a_whole_copy_or_none(stage: Stage, examiner: Examiner, level: str) -> None:
    seed = f"backed up {level}"
    recording = backed_up(stage, level, seed)
    for number in (1, 2):
        sweep = sweep_of_backup(examiner, recording, seed, number)
        sweep.assert_nothing_wrong(wrong_with_backups(sweep, 54 * MORE, level, number))
        assert sweep.counted["during: nothing"]
        assert sweep.counted["after: whole"]
        assert sweep.counted["beside it: unfinished"]


# ---------------------------------------------------------------------- recover
def saved(stage: Stage, seed: str, level: str, damaged: bool) -> Recording:
    """A store that was recovered, with noise in some of its pages or not."""
    made = stage.record("alone", level="full", seed=seed, count=60)
    made.remove()
    rnd = random.Random(seed)
    *_, image = images(made.entries, rnd, 1, PAGE, first=len(made.entries))
    files = {f"app/{name}": content.copy() for name, content in image.files.items()}
    for page in rnd.sample(range(2, 30), 3) if damaged else ():
        for _ in files["app/log.mdb"].write(page * PAGE, rnd.randbytes(PAGE)):
            pass
    recording = stage.record("recover", files, folders=True, level=level)
    recording.remove()
    assert bool(recording.told["problems"]) == damaged
    return recording


def sweep_of_recovery(examiner: Examiner, recording: Recording, seed: str) -> Sweep:
    return Sweep(examiner, recording, seed, 1, len(recording.entries))


def wrong_with_recoveries(sweep: Sweep, count: int, level: str) -> Iterator[str]:
    """What is wrong with what was saved, and with the next recovery into the same directory."""
    digest = sweep.recording.told["digest"]
    for seed, image in sweep.images(count):
        where = f"seed {seed!r}, at record {image.where}:"
        copy = sweep.copy(image, seed, "saved", digest=digest, told="recover")
        returned = 1 in image.copied
        sweep.counted[f"{'after' if returned else 'during'}: {copy.outcome}"] += 1
        if copy.outcome not in (("whole",) if returned else ("nothing", "unfinished", "whole")):
            yield f"{where} the new store, which had {'' if returned else 'not '}returned: {copy.outcome} {copy.detail}"
        elif returned and copy.detail != level:
            yield f"{where} the new store has level {copy.detail!r}"
        elif copy.outcome != "whole" and random.Random(seed).random() < RECOVERED_AGAIN and not sweep.copies_only:
            again = sweep.examine("next recovery", image, seed, question="next recovery", digest=digest, into="saved")
            if again.outcome != "whole":
                yield f"{where} the next recovery: {again.outcome} {again.detail}"


@pytest.mark.parametrize(("level", "damaged"), [("full", False), ("checkpoint", True), ("process", True)])
def test_a_power_cut_during_a_recovery_leaves_a_whole_store_or_none(stage: Stage, examiner: Examiner, level: str, damaged: bool) -> None:
    """And never changes the old one."""
    seed = f"saved {level}"
    recording = saved(stage, seed, level, damaged)
    changed = [place for place in whereabouts(recording.entries, recording.base) if place.startswith("app")]
    assert not changed, f"the old store was changed: {changed}"
    sweep = sweep_of_recovery(examiner, recording, seed)
    sweep.assert_nothing_wrong(wrong_with_recoveries(sweep, 120 * MORE, level))
    assert sweep.counted["during: nothing"]
    assert sweep.counted["during: unfinished"]
    assert sweep.counted["after: whole"]


# ---------------------------------------------------------------------- the sweeps themselves
def without_flush(sweep: Sweep, path: str, which: int | None = None) -> Sweep:
    """The sweep as if a file, or the names in a folder, had not been flushed: never, or not the which-th time; of moments
    from then on.
    """
    recorded, forgotten = list(sweep.entries), []
    for at, place in enumerate(whereabouts(recorded, sweep.recording.base)):
        entry = recorded[at]
        if sweep.first <= at < sweep.last and place == path and (entry.op in "FD" or (entry.op == "W" and entry.flags)):
            forgotten.append(at)
            if which in (None, len(forgotten)):
                recorded[at] = entry._replace(flags=0) if entry.op == "W" else Entry("M", LOOKED, 0, 0, 0, b"")
    assert len(forgotten) >= (which or 1), f"{path!r} was flushed {len(forgotten)} times"
    first = forgotten[-1 if which is None else which - 1]
    return attrs.evolve(sweep, first=first, entries=recorded, copies_only=True, counted=Counter())


def assert_missed(sweep: Sweep, wrong_with: Callable[[Sweep, int], Iterator[str]], path: str, which: int | None = None) -> None:
    found = next(wrong_with(without_flush(sweep, path, which), 400), None)
    print(f"{path} {which}: {found}")
    assert found, f"nobody has missed flush {which or ''} of {path!r}"


def test_the_sweep_finds_each_flush_that_a_backup_forgets(stage: Stage, examiner: Examiner) -> None:
    seed = "careless backup"
    recording = backed_up(stage, "full", seed)
    sweep = sweep_of_backup(examiner, recording, seed, 2)  # of level "process", which cannot do without a mark
    wrong_with = partial(wrong_with_backups, level="full", number=2)
    for path in ("copy-2.part/log.mdb.part", "copy-2.part/log.control", "copy-2.part/store.json.new", "copy-2.part", ""):
        assert_missed(sweep, wrong_with, path)


def test_the_sweep_finds_each_flush_that_a_recovery_forgets(stage: Stage, examiner: Examiner) -> None:
    seed, level = "careless recovery", "process"
    sweep = sweep_of_recovery(examiner, saved(stage, seed, level, damaged=False), seed)
    wrong_with = partial(wrong_with_recoveries, level=level)
    for path in ("saved/log.mdb.new", "saved/log.control", "saved/store.json.new", ""):
        assert_missed(sweep, wrong_with, path)
    for which in (1, 2, 3):
        assert_missed(sweep, wrong_with, "saved", which)
