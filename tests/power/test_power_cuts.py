"""What a power cut leaves of a store: exactly a state that was promised, or, where nothing was, a refusal.

Programs are recorded (recorder.c, stage.py); from the records come images of what the disk may hold after a power
cut at any moment (cuts.py), and each is opened, compared and written to (examiner.py).
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mqlite.checks import LEVELS

from .cuts import images
from .examiner import Examiner, of
from .records import COMPACTS, PAGE, SECTOR, SYNCED
from .stage import Recording, Stage
from .sweeps import cut_after_kills, cut_alone, cut_twice, outcomes

UNITS = pytest.mark.parametrize("unit", [PAGE, SECTOR], ids=["pages", "sectors"])
AT_EACH_LEVEL = pytest.mark.parametrize("level", LEVELS)


# ---------------------------------------------------------------------- the simulation itself
@UNITS
def test_the_simulation_finds_what_a_power_cut_does_to_an_unsynced_tree(stage: Stage, examiner: Examiner, unit: int) -> None:
    counted = {}
    for sync in (False, True):
        recording = stage.record("raw", seed="raw", count=80, sync=sync)
        recording.remove()
        verdicts = [
            (image, examiner.examine(image, str(number), question="raw", models={"seed": "raw", "count": 80}))
            for number, image in enumerate(images(recording.entries, random.Random("raw"), 60, unit, first=_first_mark(recording)))
        ]
        counted[sync] = Counter(verdict.outcome for _, verdict in verdicts)
        print(f"sync={sync}: {dict(counted[sync])}")
        if sync:
            assert all(image.returned <= verdict.state <= image.begun for image, verdict in verdicts)
    assert counted[True].keys() == {"whole"}
    assert sum(times for outcome, times in counted[False].items() if outcome != "whole") > 5


def _first_mark(recording: Recording) -> int:
    return 1 + next(at for at, entry in enumerate(recording.entries) if entry.op == "M")


# ---------------------------------------------------------------------- all levels
@pytest.mark.parametrize("level", ["full", "checkpoint"])
@UNITS
def test_a_power_cut_leaves_a_state_that_was_promised(stage: Stage, examiner: Examiner, level: str, unit: int) -> None:
    cut_alone(stage, examiner, level, f"alone {level} {unit}", unit, 100, 210)


@AT_EACH_LEVEL
def test_a_power_cut_leaves_a_state_that_was_promised_where_several_processes_wrote(stage: Stage, examiner: Examiner, level: str) -> None:
    seed = f"together {level}"
    recording = stage.record("together", level=level, seed=seed, count=120)
    recording.remove()
    assert len({entry.pid for entry in recording.entries if entry.op in "WP"}) >= 3, "only one process wrote"
    outcomes(examiner, images(recording.entries, random.Random(seed), 60, PAGE), level, seed, of(seed, 120))


@AT_EACH_LEVEL
@pytest.mark.parametrize("kill_in", ["do", "sync"])
def test_a_power_cut_after_a_process_was_killed_leaves_a_state_that_was_promised(stage: Stage, examiner: Examiner, level: str, kill_in: str) -> None:
    cut_after_kills(stage, examiner, level, kill_in, kills=7, count=8)


@AT_EACH_LEVEL
def test_a_power_cut_while_a_store_is_opened_after_another_loses_nothing_more(stage: Stage, examiner: Examiner, level: str) -> None:
    cut_twice(stage, examiner, level, times=4, count=12)


# ---------------------------------------------------------------------- a store that is made
@AT_EACH_LEVEL
def test_a_power_cut_while_a_store_is_made_leaves_an_empty_one_or_none(stage: Stage, examiner: Examiner, level: str) -> None:
    """Whether the file system keeps the order of changes of names or not."""
    recording = stage.record("make", level=level)
    recording.remove()
    for names_in_order in (True, False):
        seed = f"made {level} {names_in_order}"
        found = images(recording.entries, random.Random(seed), 3 * len(recording.entries), SECTOR, names_in_order=names_in_order)
        outcomes(examiner, found, level, seed, of(seed, 0))


# ---------------------------------------------------------------------- compaction
@AT_EACH_LEVEL
def test_a_power_cut_while_a_store_is_compacted_leaves_what_it_was(stage: Stage, examiner: Examiner, level: str) -> None:
    cut_compaction(stage, examiner, level, f"compacted {level}", 45)


def cut_compaction(stage: Stage, examiner: Examiner, level: str, seed: str, count: int) -> None:
    """Power cuts during two of the compactions, and up to the next one."""
    recording = stage.record("compact", level=level, seed=seed, count=140, compact_every=35)
    recording.remove()
    assert recording.told["smaller"] >= 2, "hardly anything was compacted"
    begun = [at for at, entry in enumerate(recording.entries) if entry.op == "M" and entry.flags == COMPACTS]
    ended = [next(at for at in range(start, len(recording.entries)) if recording.entries[at][:2] == ("M", SYNCED)) for start in begun]
    rnd = random.Random(seed)
    for first, last in ((begun[1], ended[1]), (ended[1], begun[2]), (begun[2], ended[2])):
        found = images(recording.entries, rnd, count // 3, rnd.choice((PAGE, SECTOR)), first=first, last=last, names_in_order=rnd.random() < 0.5)
        outcomes(examiner, found, level, f"{seed} {first}", of(seed, 140))


# ---------------------------------------------------------------------- durability="checkpoint"
def test_a_power_cut_beside_a_thread_that_makes_checkpoints_leaves_a_state_that_was_promised(stage: Stage, examiner: Examiner) -> None:
    cut_alone(stage, examiner, "checkpoint", "hurried", PAGE, 100, 210, hurry=True)


# ---------------------------------------------------------------------- durability="process"
@UNITS
def test_a_power_cut_under_process_is_noticed_or_has_done_no_harm(stage: Stage, examiner: Examiner, unit: int) -> None:
    counted = cut_alone(stage, examiner, "process", f"alone process {unit}", unit, 200, 210)
    assert counted["whole"] > 10
    assert counted["refused"] > 10


@UNITS
def test_a_power_cut_takes_back_messages_that_passed_by_the_tree_as_far_as_a_state_that_was(stage: Stage, examiner: Examiner, unit: int) -> None:
    seed = f"passing {unit}"
    recording = stage.record("alone", level="process", seed=seed, count=210, sync_every=35)
    recording.remove()
    front = next(entry.inode for entry in recording.entries if entry.op == "C" and entry.data == b"log.front")
    pages = [at for at, entry in enumerate(recording.entries) if entry.op == "P" and entry.inode == front]
    assert len(pages) > 150, "hardly anything passed by"
    found = images(recording.entries, random.Random(seed), 100, unit, often=pages)
    counted = outcomes(examiner, found, "process", seed, of(seed, 210))
    assert counted["whole"] > 10


# ---------------------------------------------------------------------- many: some 5,000 images
@pytest.mark.slow
@AT_EACH_LEVEL
@UNITS
def test_power_cuts_leave_a_state_that_was_promised(stage: Stage, examiner: Examiner, level: str, unit: int) -> None:
    cut_alone(stage, examiner, level, f"many {level} {unit}", unit, 280, 500)


@pytest.mark.slow
@AT_EACH_LEVEL
@pytest.mark.parametrize("kill_in", ["do", "sync"])
def test_power_cuts_after_a_kill_at_every_write_leave_a_state_that_was_promised(stage: Stage, examiner: Examiner, level: str, kill_in: str) -> None:
    cut_after_kills(stage, examiner, level, kill_in, kills=10, count=16)


@pytest.mark.slow
@AT_EACH_LEVEL
def test_power_cuts_while_stores_are_opened_after_others_lose_nothing_more(stage: Stage, examiner: Examiner, level: str) -> None:
    cut_twice(stage, examiner, level, times=15, count=20)


@pytest.mark.slow
@AT_EACH_LEVEL
def test_power_cuts_while_stores_are_compacted_leave_what_they_were(stage: Stage, examiner: Examiner, level: str) -> None:
    cut_compaction(stage, examiner, level, f"many compacted {level}", 150)


@pytest.mark.slow
@UNITS
def test_power_cuts_beside_a_thread_that_makes_checkpoints_leave_a_state_that_was_promised(stage: Stage, examiner: Examiner, unit: int) -> None:
    cut_alone(stage, examiner, "checkpoint", f"many hurried {unit}", unit, 240, 400, hurry=True)


@pytest.mark.slow
@UNITS
def test_power_cuts_take_back_messages_that_passed_by_the_tree_as_far_as_a_state_that_was(stage: Stage, examiner: Examiner, unit: int) -> None:
    cut_alone(stage, examiner, "process", f"passing many {unit}", unit, 300, 500, sync_every=40)
    seed = f"passing together {unit}"
    recording = stage.record("together", level="process", seed=seed, count=300)
    recording.remove()
    outcomes(examiner, images(recording.entries, random.Random(seed), 150, unit), "process", seed, of(seed, 300))


@pytest.mark.slow
@AT_EACH_LEVEL
def test_power_cuts_where_several_processes_wrote_leave_a_state_that_was_promised(stage: Stage, examiner: Examiner, level: str) -> None:
    seed = f"many together {level}"
    recording = stage.record("together", level=level, seed=seed, count=300, hurry=True)
    recording.remove()
    outcomes(examiner, images(recording.entries, random.Random(seed), 250, SECTOR), level, seed, of(seed, 300))
