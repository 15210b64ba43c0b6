"""The pages of a data file: no false alarm on any store that LMDB has written, and damage is told, never raised."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import damage
import lmdb
import pytest

import mqlite
from mqlite.system.pages import DataFile, newest_meta
from mqlite.system.structure import structure_problems


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of a closed store that holds something of everything."""
    store = str(tmp_path_factory.mktemp("structure") / "app.mq")
    damage.fill(store)
    return os.path.join(store, "log.mdb")


@pytest.fixture
def spoilt(log: str, tmp_path: Path) -> Iterator[damage.Spoilt]:
    """A copy of it, as long as its last page."""
    copy = tmp_path / "log.mdb"
    with open(log, "rb") as file:
        copy.write_bytes(file.read((damage.last_page(log) + 1) * damage.PAGE))
    made = damage.Spoilt(str(copy))
    yield made
    made.close()


@pytest.fixture
def copy(spoilt: damage.Spoilt, tmp_path: Path) -> str:
    return str(tmp_path / "log.mdb")


# ---------------------------------------------------------------------- whole
def test_a_store_with_something_of_everything_is_whole(log: str) -> None:
    assert structure_problems(log) == []


@pytest.mark.parametrize("writemap", [False, True], ids=["plain writes", "writemap"])
@pytest.mark.parametrize("seed", range(4))
def test_a_churned_file_is_whole_after_every_commit(tmp_path: Path, seed: int, writemap: bool) -> None:
    dice = random.Random(seed)
    path = str(tmp_path / "churned.mdb")
    sizes = [0, 1, 50, 100, 500, 1900, 2030, 2100, 4064, 4080, 4081, 9000, 60_000]
    keys: list[bytes] = []
    environment = lmdb.open(path, subdir=False, map_size=1 << 28, sync=False, writemap=writemap, lib_version=0)
    held = None
    for _ in range(60):
        if held is None and dice.random() < 0.2:
            held = environment.begin()  # pages that it sees are not used again
        elif held is not None and dice.random() < 0.3:
            held.abort()
            held = None
        with environment.begin(write=True) as txn:
            for _ in range(dice.choice([1, 3, 40])):
                if not keys or dice.random() < 0.5:
                    keys.append(dice.randbytes(dice.choice([1, 4, 17, 30, 511])))
                    txn.put(keys[-1], bytes(dice.choice(sizes)))
                elif dice.random() < 0.5:
                    txn.delete(keys.pop(dice.randrange(len(keys))))
                else:
                    txn.put(dice.choice(keys), bytes(dice.choice(sizes)))
        assert structure_problems(path) == [], f"seed {seed}"
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(txn=txn), delete=False)
    assert structure_problems(path) == []
    if held is not None:
        held.abort()
    environment.close()


def test_progress_ends_with_all_pages(log: str) -> None:
    told: list[tuple[int, int]] = []
    structure_problems(log, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(damage.pages_in_use(log)) - 2,) * 2


# ---------------------------------------------------------------------- damaged
def overflow_pages_behind_the_first(log: str) -> set[int]:
    """Pages that hold nothing but bytes of values."""
    found: set[int] = set()
    with DataFile(log) as file:
        for number in damage.pages_in_use(log)[2:]:
            own, flags, pages = int.from_bytes(file.page(number)[:8], "little"), file.page(number)[10], int.from_bytes(file.page(number)[12:16], "little")
            if number not in found and own == number and flags == 4:
                found.update(range(number + 1, number + pages))
    return found


@pytest.mark.parametrize("content", [bytes(damage.PAGE), damage.noise(1)], ids=["zeros", "noise"])
def test_every_page_of_the_trees_is_missed(spoilt: damage.Spoilt, copy: str, content: bytes) -> None:
    assert structure_problems(copy) == []
    passed = []
    for number in damage.pages_in_use(copy):
        before = spoilt.read(number)
        spoilt.write(number, content)
        if not structure_problems(copy):
            passed.append(number)
        spoilt.write(number, before)
    assert set(passed) == overflow_pages_behind_the_first(copy)


def test_every_tree_page_in_the_place_of_another_is_noticed(spoilt: damage.Spoilt, copy: str) -> None:
    values = overflow_pages_behind_the_first(copy)
    pages = [number for number in damage.pages_in_use(copy) if number not in values]
    for number, other in zip(pages, pages[1:] + pages[:1], strict=True):
        before = spoilt.read(number)
        spoilt.write(number, spoilt.read(other))
        assert structure_problems(copy), (number, other)
        spoilt.write(number, before)


def test_every_flipped_bit_of_a_header_but_its_padding_is_noticed(spoilt: damage.Spoilt, copy: str) -> None:
    values = overflow_pages_behind_the_first(copy)
    padding = range(64, 80)
    for number in damage.pages_in_use(copy)[2:]:
        for bit in range(128):
            if number not in values and bit not in padding:
                spoilt.flip(number, bit)
                assert structure_problems(copy), (number, bit)
                spoilt.flip(number, bit)


def test_no_flipped_bit_raises(spoilt: damage.Spoilt, copy: str) -> None:
    dice = random.Random(2)
    pages = damage.pages_in_use(copy)
    for _ in range(1500):
        number, bit = dice.choice([0, 1, *pages]), dice.randrange(8 * damage.PAGE)
        spoilt.flip(number, bit)
        structure_problems(copy)
        spoilt.flip(number, bit)


def test_a_flipped_bit_of_what_a_meta_page_says_is_noticed(spoilt: damage.Spoilt, copy: str) -> None:
    with DataFile(copy) as file:
        newest = newest_meta(file)
        assert newest is not None
    address_and_map_size, kept_flags, padding = range(24, 40), range(44, 46), range(88, 92)
    leaks_some_pages, other_state = range(136, 139), range(144, 152)
    others = {*address_and_map_size, *kept_flags, *padding, *leaks_some_pages, *other_state}
    for bit in [8 * byte + bit for byte in range(16, 152) if byte not in others for bit in range(8)]:
        spoilt.flip(newest.number, bit)
        assert structure_problems(copy), bit
        spoilt.flip(newest.number, bit)


def test_a_file_that_ends_early_is_told(copy: str, spoilt: damage.Spoilt) -> None:
    for pages in range(max(damage.pages_in_use(copy)), -1, -1):
        os.truncate(copy, pages * damage.PAGE)
        assert structure_problems(copy), pages


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert structure_problems(str(tmp_path / "empty")) == [f"the meta page {number} is damaged: it is none of LMDB's" for number in (0, 1)]


def test_not_more_than_a_hundred_problems_are_told(path: str) -> None:
    with mqlite.Queue("q", path) as q:
        q.put_many([bytes(3000)] * 300)
    log = os.path.join(path, "log.mdb")
    spoilt = damage.Spoilt(log)
    for number in damage.pages_in_use(log)[2:]:
        if spoilt.read(number)[10] == 4:
            spoilt.write(number, bytes(damage.PAGE))
    spoilt.close()
    assert len(structure_problems(log)) == 101


def test_a_file_without_its_last_free_pages_is_whole(tmp_path: Path) -> None:
    """LMDB does not write a page that one transaction has taken and freed."""
    path = str(tmp_path / "short.mdb")
    with lmdb.open(path, subdir=False, map_size=1 << 24, lib_version=0) as environment:
        for round in range(6):
            with environment.begin(write=True) as txn:
                txn.put(b"kept", b"%d" % round)
                txn.put(b"gone", bytes(50_000))
                txn.delete(b"gone")
    assert (damage.last_page(path) + 1) * damage.PAGE > os.path.getsize(path)
    assert structure_problems(path) == []
