"""Damage everywhere: whatever one page, or several, or the end of the file have become, all on other pages is saved."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import damage
import pytest
from kill_folder import in_memory

import mqlite


class Patient:
    """A store that is damaged again and again, and what was in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        damage.fill(path)
        self.content = _keys(damage.contents(path))
        self.log = os.path.join(path, "log.mdb")
        self.in_use = damage.pages_in_use(self.log)
        self.on = damage.records_by_page(self.log)
        self.last = damage.last_page(self.log)
        os.truncate(self.log, (self.last + 1) * damage.PAGE)
        self.spoilt = damage.Spoilt(self.log)
        self._pages = {number: self.spoilt.read(number) for number in range(self.last + 1)}

    def heal(self) -> None:
        """As it was."""
        for number, page in self._pages.items():
            if self.spoilt.read(number) != page:
                self.spoilt.write(number, page)

    def recovers(self, spoilt: list[int], what: str) -> None:
        """All that is not on these pages is saved, and the new store is whole."""
        new = self.path + ".new"
        mqlite.recover(self.path, new)
        with mqlite.open(new) as broker:
            assert broker.check() == [], what
        saved = _keys(damage.contents(new))
        shutil.rmtree(new)
        lost = set().union(*(self.on.get(number, set()) for number in spoilt))
        bodies = {key[2] for key in lost if key[0] == "kept"}  # a message whose body is lost is lost
        for key, value in self.content.items():
            if key not in lost and not (key[2] in bodies and key not in saved):
                assert saved.get(key) == value, (what, key)


def _keys(content: dict[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], Any]:
    return {(key[0], key[1], key[2] if len(key) > 2 else None): value for key, value in content.items()}


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    with tempfile.TemporaryDirectory(prefix="mqlite-", dir=in_memory()) as folder:
        made = Patient(os.path.join(folder, "app.mq"))
        yield made
        made.spoilt.close()


@pytest.fixture(autouse=True)
def _healed(patient: Patient) -> Iterator[None]:
    yield
    patient.heal()


@pytest.mark.slow
@pytest.mark.parametrize("share", range(4))
def test_each_page_in_turn(patient: Patient, share: int) -> None:
    for number in patient.in_use[share::4]:
        for content in (bytes(damage.PAGE), damage.noise(number)):
            patient.spoilt.write(number, content)
            patient.recovers([number], f"page {number}")
            patient.heal()


def test_every_eleventh_page_in_turn(patient: Patient) -> None:
    for number in patient.in_use[::11]:
        patient.spoilt.write(number, damage.noise(number))
        patient.recovers([number], f"page {number}")
        patient.heal()


@pytest.mark.slow
def test_a_file_that_ends_anywhere(patient: Patient) -> None:
    for pages in range(patient.last, 1, -2):
        os.truncate(patient.log, pages * damage.PAGE + 100 * (pages % 3))
        patient.recovers([number for number in patient.in_use if number >= pages], f"{pages} pages")
        patient.heal()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits(patient: Patient, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(60):
        number, bit = dice.choice(patient.in_use), dice.randrange(dice.choice([16, 60, damage.PAGE]) * 8)
        patient.spoilt.flip(number, bit)
        patient.recovers([number], f"seed {seed}, page {number}, bit {bit}")
        patient.heal()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_several_pages_that_are_empty_or_noise_or_others(patient: Patient, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(25):
        numbers = dice.sample(patient.in_use, dice.choice([2, 5, 20]))
        for number in numbers:
            other = patient.spoilt.read(dice.choice(patient.in_use))
            patient.spoilt.write(number, dice.choice([bytes(damage.PAGE), damage.noise(number), other]))
        patient.recovers(numbers, f"seed {seed}, pages {numbers}")
        patient.heal()
