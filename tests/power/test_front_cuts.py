"""What a power cut leaves of messages that passed by the tree at level "full": all that had returned, and nothing torn.

How: see test_power_cuts.py. The maps of recorded processes are looked at between lines of the front, too, so what reaches
the disk of a page may be half of a change.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from typing import Any

import pytest

from mqlite.log import front_file as layout

from .cuts import images
from .examiner import Examiner, of
from .program import PASSING, ROWS
from .records import FLUSHES, LANE_BEGUN, PAGE, RETURNED, SECTOR, Disk, Entry
from .stage import Recording, Stage
from .sweeps import Sweep, cut_after_kills, cut_twice

UNITS = pytest.mark.parametrize("unit", [PAGE, SECTOR], ids=["pages", "sectors"])


def recorded(stage: Stage, program: str, seed: str, count: int, **how: Any) -> Recording:
    recording = stage.record(program, level="full", seed=f"{PASSING} {seed}", count=count, **how)
    recording.remove()
    return recording


def front_of(recording: Recording) -> int:
    """The inode of log.front."""
    made = [entry.inode for entry in recording.entries if entry.op == "C" and entry.data == b"log.front"]
    return [*made, *(inode for name, (inode, _) in recording.base.items() if name == "log.front")][0]


def changes(recording: Recording) -> list[int]:
    """Moments just before a change, or a flush, of the front."""
    front = front_of(recording)
    return [at for at, entry in enumerate(recording.entries) if entry.inode == front and entry.op in "PF"]


def head(entry: Entry) -> int:
    """What the first page says."""
    return int(memoryview(entry.data).cast("Q")[layout.HEAD])


def sweep_of(examiner: Examiner, recording: Recording, seed: str, unit: int, count: int, images_: int, **how: Any) -> Sweep:
    seed = f"{PASSING} {seed}"
    sweep = Sweep(examiner, "full")
    found = images(recording.entries, random.Random(seed), images_, unit, often=changes(recording))
    sweep.examine(found, seed, of(seed, count), **how)
    return sweep


# ---------------------------------------------------------------------- the simulation itself
@pytest.mark.parametrize("program", ["alone", "together"])
def test_a_flush_of_the_front_has_all_that_was_stored_in_it_before(stage: Stage, program: str) -> None:
    """As the file says, read past the recorder."""
    recording = recorded(stage, program, "witnessed", 80, front="witnessed")
    front, disk, said, flushes = front_of(recording), Disk(PAGE), None, 0
    for entry in recording.entries:
        disk.apply(entry)
        if entry.op == "M" and entry.flags == FLUSHES:
            said = entry.offset
        elif entry.op == "F" and entry.inode == front and said is not None:
            assert not [change for change in disk.pending if change.inode == front]
            assert zlib.crc32(disk.durable[front].bytes()) == said
            said, flushes = None, flushes + 1
    assert flushes > 40


@UNITS
def test_the_simulation_finds_messages_that_were_not_flushed(stage: Stage, examiner: Examiner, unit: int) -> None:
    recording = recorded(stage, "alone", "unflushed", 100, front="unflushed")
    sweep = sweep_of(examiner, recording, "unflushed", unit, 100, 40)
    assert sweep.lost > 5


def test_the_simulation_finds_messages_that_are_not_recalled(stage: Stage, examiner: Examiner) -> None:
    recording = recorded(stage, "alone", "blind", 100)
    sweep = sweep_of(examiner, recording, "blind", PAGE, 100, 40, blind=True)
    assert sweep.lost > 5
    assert sweep_of(examiner, recording, "blind", PAGE, 100, 40).check().recalled > 5


# ---------------------------------------------------------------------- one process, and several
@UNITS
@pytest.mark.parametrize("program", ["alone", "together"])
def test_a_power_cut_takes_back_nothing_that_passed_by_and_returned(stage: Stage, examiner: Examiner, program: str, unit: int) -> None:
    cut_passing(stage, examiner, program, f"{program} {ROWS} {unit}", unit, count=150, cuts=60)


def cut_passing(stage: Stage, examiner: Examiner, program: str, seed: str, unit: int, count: int, cuts: int) -> None:
    recording = recorded(stage, program, seed, count, sync_every=35)
    assert len({entry.pid for entry in recording.entries if entry.op == "P"}) >= (3 if program == "together" else 1)
    sweep = sweep_of(examiner, recording, seed, unit, count, cuts).check()
    assert sweep.recalled > cuts / 3, "hardly anything was in the front"


@pytest.mark.parametrize("kill_in", ["do", "front"])
def test_a_power_cut_after_a_kill_takes_back_nothing_that_passed_by_and_returned(stage: Stage, examiner: Examiner, kill_in: str) -> None:
    cut_after_kills(stage, examiner, "full", kill_in, kills=5, count=8, seed=f"{PASSING} {ROWS} killed in {kill_in}")


def test_a_power_cut_after_messages_were_recalled_takes_back_nothing_that_returned(stage: Stage, examiner: Examiner) -> None:
    cut_after_recalls(stage, examiner, times=5, count=12)


def cut_after_recalls(stage: Stage, examiner: Examiner, times: int, count: int) -> None:
    sweep, recalled = cut_twice(stage, examiner, "full", times, count, f"{PASSING} twice")
    assert recalled > times / 3
    assert sweep.in_front > times


# ---------------------------------------------------------------------- flushes that are shared
@UNITS
def test_a_power_cut_takes_back_nothing_of_threads_and_processes_that_share_flushes(stage: Stage, examiner: Examiner, unit: int) -> None:
    counted, recalled = cut_crowd(stage, examiner, f"crowd {unit}", unit, count=40, cuts=60)
    assert counted.keys() == {"whole"}
    assert recalled > 10


def test_the_simulation_finds_what_a_crowd_had_not_flushed(stage: Stage, examiner: Examiner) -> None:
    counted, _ = cut_crowd(stage, examiner, "crowd unflushed", PAGE, count=40, cuts=30, front="unflushed")
    assert counted.total() > counted["whole"]


def cut_crowd(stage: Stage, examiner: Examiner, seed: str, unit: int, count: int, cuts: int, front: str = "slow") -> tuple[Counter[str], int]:
    """How many images came to what, and from how many something was recalled."""
    recording = stage.record("crowd", seed=seed, count=count, front=front)
    recording.remove()
    front_inode = front_of(recording)
    flushes = sum(entry.op == "F" and entry.inode == front_inode for entry in recording.entries)
    print(f"{flushes} flushes for {4 * count} operations")
    assert flushes < 4 * count, "no flush was shared"
    counted: Counter[str] = Counter()
    recalled, details = 0, []
    for number, image in enumerate(images(recording.entries, random.Random(seed), cuts, unit, often=changes(recording), first=_begun(recording))):
        verdict = examiner.examine(image, f"{seed} {number}", question="lanes", lanes=image.lanes, count=count, program=seed)
        counted[verdict.outcome] += 1
        recalled += verdict.recalled > 0
        if verdict.outcome != "whole":
            details.append(f"image {number} at {image.where}: {verdict.outcome} {verdict.detail}")
    print(f"{seed}: {dict(counted)}, {recalled} recalled", *details[:3], sep="\n")
    return counted, recalled


def _begun(recording: Recording) -> int:
    """When the first operation has."""
    return next(at for at, entry in enumerate(recording.entries) if entry.op == "M" and entry.flags == LANE_BEGUN)


# ---------------------------------------------------------------------- certain moments
@pytest.mark.parametrize("names_in_order", [True, False])
def test_a_power_cut_while_the_front_is_opened_for_the_first_time_loses_nothing(stage: Stage, examiner: Examiner, names_in_order: bool) -> None:
    """From when its file is made until a few messages have passed by. Its name is flushed before anything returns."""
    seed = f"opened {names_in_order}"
    recording = recorded(stage, "alone", seed, 16)
    front = front_of(recording)
    made = next(at for at, entry in enumerate(recording.entries) if entry.op == "C" and entry.inode == front)
    used = [at for at in changes(recording) if recording.entries[at].offset == 0 and recording.entries[at].op == "P" and head(recording.entries[at]) > layout.START]
    ends = [at for at, entry in enumerate(recording.entries) if at > used[0] and entry.op == "M" and entry.flags == RETURNED]
    sweep = Sweep(examiner, "full")
    found = images(recording.entries, random.Random(seed), 90, SECTOR, first=made, last=ends[3], names_in_order=names_in_order, often=used)
    sweep.examine(found, seed, of(f"{PASSING} {seed}", 16))
    sweep.check()
    assert sweep.recalled > 5


@UNITS
def test_a_power_cut_around_a_fold_loses_and_doubles_nothing(stage: Stage, examiner: Examiner, unit: int) -> None:
    """From before the tree's commit until the front is empty, and open again."""
    seed = f"folds {unit}"
    recording = recorded(stage, "together", seed, 120, sync_every=7)
    sweep = Sweep(examiner, "full")
    rnd = random.Random(seed)
    for first, last in rnd.sample(folds(recording), 8):
        found = images(recording.entries, rnd, 8, unit, first=first, last=last)
        sweep.examine(found, seed, of(f"{PASSING} {seed}", 120))
    sweep.check()
    assert sweep.recalled > 10
    assert sweep.in_front - sweep.recalled > 5, "none where the tree had it already"


def folds(recording: Recording) -> list[tuple[int, int]]:
    """First and last moment of each."""
    front, found, before = front_of(recording), [], layout.START
    flushed = [at for at, entry in enumerate(recording.entries) if entry.op in "FD" or (entry.op == "W" and entry.flags)]
    for at, entry in enumerate(recording.entries):
        if entry.op == "P" and entry.inode == front and entry.offset == 0:
            if before > head(entry) == layout.START:
                found.append((max([0, *(each for each in flushed if each < at)][-3:][0], 0), at + 4))
            before = head(entry)
    return found


# ---------------------------------------------------------------------- many: some 3,600 images
@pytest.mark.slow
@UNITS
@pytest.mark.parametrize("program", ["alone", "together"])
def test_power_cuts_take_back_nothing_that_passed_by_and_returned(stage: Stage, examiner: Examiner, program: str, unit: int) -> None:
    cut_passing(stage, examiner, program, f"many {program} {ROWS} {unit}", unit, count=400, cuts=350)


@pytest.mark.slow
@pytest.mark.parametrize("kill_in", ["do", "front"])
@pytest.mark.parametrize("seed", range(3))
def test_power_cuts_after_kills_take_back_nothing_that_passed_by_and_returned(stage: Stage, examiner: Examiner, kill_in: str, seed: int) -> None:
    cut_after_kills(stage, examiner, "full", kill_in, kills=15, count=10, seed=f"{PASSING} {ROWS} many killed in {kill_in} {seed}")


@pytest.mark.slow
@UNITS
@pytest.mark.parametrize("seed", range(3))
def test_power_cuts_take_back_nothing_of_threads_and_processes_that_share_flushes(stage: Stage, examiner: Examiner, seed: int, unit: int) -> None:
    counted, recalled = cut_crowd(stage, examiner, f"many crowd {seed} {unit}", unit, count=70, cuts=150)
    assert counted.keys() == {"whole"}
    assert recalled > 20


@pytest.mark.slow
def test_power_cuts_after_messages_were_recalled_take_back_nothing_that_returned(stage: Stage, examiner: Examiner) -> None:
    cut_after_recalls(stage, examiner, times=20, count=20)
