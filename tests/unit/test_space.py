"""Room is taken before it is needed, and refused while acknowledgements still have theirs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from mqlite.durability.checkpoint import Checkpoints
from mqlite.errors import StoreFull
from mqlite.log import space
from mqlite.log.space import RESERVE_PAGES, Space, Usage
from mqlite.system.control import FREE, RESERVED, ROOM, VOLUME
from mqlite.system.environment import PAGE
from mqlite.system.level import Level


class FakeControl:
    """log.control as far as Space looks at it."""

    def __init__(self) -> None:
        self.words = [0] * 20


class FakeEnvironment:
    """An LMDB environment as far as Space looks at it."""

    level = Level()

    def __init__(self, path: Path, *, map_pages: int, last_page: int = 1, live: int = 1) -> None:
        path.touch()
        self.path = str(path)
        self.map_size = map_pages * PAGE
        self.last_page = last_page
        self.live = live

    def last_pgno(self) -> int:
        return self.last_page

    def live_pages(self) -> int:
        return self.live

    def tree_pages(self) -> int:
        return self.map_size // PAGE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "log.mdb"


@pytest.fixture
def made() -> Iterator[list[Space]]:
    spaces: list[Space] = []
    yield spaces
    for one in spaces:
        one.close()


def space_of(made: list[Space], environment: FakeEnvironment) -> Space:
    made.append(Space(environment, FakeControl()))  # type: ignore[arg-type]
    return made[-1]


def test_room_for_a_put_and_the_reserve_is_set_aside(file: Path, made: list[Space]) -> None:
    space_of(made, FakeEnvironment(file, map_pages=100_000)).ensure(10)
    found = file.stat()
    assert found.st_size >= (2 + 10 + RESERVE_PAGES) * PAGE
    assert found.st_blocks * 512 >= found.st_size


def test_the_file_grows_in_steps(file: Path, made: list[Space]) -> None:
    environment = FakeEnvironment(file, map_pages=100_000)
    taken = space_of(made, environment)
    sizes = set()
    for _ in range(100):
        taken.ensure(10)
        environment.last_page += 5
        sizes.add(file.stat().st_size)
    assert len(sizes) <= 2


def test_the_file_never_outgrows_the_map(file: Path, made: list[Space]) -> None:
    environment = FakeEnvironment(file, map_pages=RESERVE_PAGES + 20)
    space_of(made, environment).ensure(10)
    assert file.stat().st_size <= environment.map_size


def test_a_put_that_would_leave_less_than_the_reserve_in_the_map_is_refused(file: Path, made: list[Space]) -> None:
    environment = FakeEnvironment(file, map_pages=RESERVE_PAGES + 20, last_page=15, live=15)
    with pytest.raises(StoreFull, match="full"):
        space_of(made, environment).ensure(10)


def test_pages_that_are_free_inside_the_file_are_room(file: Path, made: list[Space]) -> None:
    environment = FakeEnvironment(file, map_pages=RESERVE_PAGES + 200, last_page=RESERVE_PAGES + 190, live=100)
    space_of(made, environment).ensure(10)


def test_few_free_pages_inside_the_file_are_no_room(file: Path, made: list[Space]) -> None:
    environment = FakeEnvironment(file, map_pages=RESERVE_PAGES + 200, last_page=RESERVE_PAGES + 190, live=RESERVE_PAGES + 150)
    with pytest.raises(StoreFull):
        space_of(made, environment).ensure(10)


def no_room(fd: int, start: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_refuses_puts(file: Path, made: list[Space], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "reserve", no_room)
    with pytest.raises(StoreFull, match="disk"):
        space_of(made, FakeEnvironment(file, map_pages=100_000)).ensure(10)


def test_on_a_nearly_full_disk_just_enough_is_taken(file: Path, made: list[Space], monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    taken = space.reserve

    def little_room(fd: int, start: int, size: int) -> None:
        steps.append(size)
        if len(steps) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken(fd, start, size)

    monkeypatch.setattr(space, "reserve", little_room)
    environment = FakeEnvironment(file, map_pages=100_000)
    with file.open("r+b") as data:
        data.truncate(1000 * PAGE)
    space_of(made, environment).ensure(10)
    assert file.stat().st_size == (environment.last_page + 1 + 10 + RESERVE_PAGES) * PAGE


def test_a_full_disk_is_not_asked_again_at_once(file: Path, made: list[Space], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refused(*given: Any) -> None:
        asked.append(given)
        no_room(*given)

    monkeypatch.setattr(space, "reserve", refused)
    monkeypatch.setattr(space, "_RETRY_SECONDS", 3600)
    taken = space_of(made, FakeEnvironment(file, map_pages=100_000))
    for _ in range(5):
        with pytest.raises(StoreFull):
            taken.ensure(10)
    assert len(asked) <= 2


def test_the_holes_of_a_sparse_file_are_filled(file: Path, made: list[Space]) -> None:
    with file.open("wb") as data:
        data.truncate(20 << 20)
    space_of(made, FakeEnvironment(file, map_pages=100_000)).begin_session()
    assert file.stat().st_blocks * 512 >= 20 << 20


def test_what_is_needed_is_taken_also_where_what_would_be_good_was_just_refused(
    file: Path, made: list[Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = FakeEnvironment(file, map_pages=100_000)
    taken = space_of(made, environment)
    assert taken.find(RESERVE_PAGES)
    really = space.reserve

    def nearly_full(fd: int, offset: int, size: int) -> None:
        if size > 100 * PAGE:
            raise OSError(errno.ENOSPC, "no room")
        really(fd, offset, size)

    monkeypatch.setattr(space, "reserve", nearly_full)
    pages = file.stat().st_size // PAGE - environment.last_page - 1
    assert taken.find(pages, 1000)
    assert taken.find(pages + 50, 1000)


def test_a_full_disk_does_not_keep_a_store_from_being_opened(file: Path, made: list[Space], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "reserve", no_room)
    space_of(made, FakeEnvironment(file, map_pages=100_000)).begin_session()


def test_a_closed_space_opens_its_file_again(file: Path, made: list[Space]) -> None:
    taken = space_of(made, FakeEnvironment(file, map_pages=100_000))
    taken.ensure(10)
    taken.close()
    taken.close()
    taken.ensure(10_000)
    assert file.stat().st_size >= 10_000 * PAGE


def test_pages_that_only_a_checkpoint_makes_usable_are_none_for_a_put(file: Path, made: list[Space]) -> None:
    """Puts that counted them would use up, one by one, what is left to acknowledgements."""

    class Pinning(Level):
        pins = Checkpoints.pins

    pages = 8 * RESERVE_PAGES
    environment = FakeEnvironment(file, map_pages=pages, last_page=pages - RESERVE_PAGES // 4, live=pages // 2)
    environment.level = Pinning()
    one = space_of(made, environment)
    with pytest.raises(StoreFull):
        one.ensure(1)
    one.words[FREE] = RESERVE_PAGES + 3  # more, where nothing is left at the end of the file
    one.ensure(1)


# ---------------------------------------------------------------------- what a transaction may use
class Mapped(Level):
    writemap = True


def usage_of(made: list[Space], file: Path, room: int) -> Usage:
    environment = FakeEnvironment(file, map_pages=room + 2)
    environment.level = Mapped()
    one = space_of(made, environment)
    one.words[ROOM] = one.words[RESERVED] = room
    return Usage(one)


def used(usage: Usage) -> int:
    before = usage._words[ROOM]
    usage.seal()
    return before - usage._words[ROOM]


def test_neighbours_that_are_removed_together_count_as_much_as_one_by_one(file: Path, made: list[Space]) -> None:
    sizes = [136, 4000, 50_000, 40] * 25
    together, one_by_one = usage_of(made, file, 100_000), usage_of(made, file, 100_000)
    together.remove_run(sizes)
    one_by_one.remove()  # the first, anywhere
    for size in sizes:
        one_by_one.remove()
        one_by_one.continue_run(size)
    assert used(together) == used(one_by_one)
    assert together._words[VOLUME] > one_by_one._words[VOLUME]  # a checkpoint comes in time


def test_neighbours_are_counted_before_they_are_removed(file: Path, made: list[Space]) -> None:
    usage = usage_of(made, file, 300)
    with pytest.raises(lmdb.DiskError):
        usage.remove_run([3000] * 400)


def test_a_transaction_that_removed_neighbours_counts_what_it_removes_besides(file: Path, made: list[Space]) -> None:
    usage = usage_of(made, file, 100_000)
    usage.remove_run([136] * 100)
    first = usage._pages()
    for _ in range(500):
        usage.remove()
    assert used(usage) == first + 1000
