"""The marks of log.control: whichever write a power cut tears, one of them is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqlite.errors import StoreError
from mqlite.system.control import CHECKPOINT, Control, Mark

PAGE = 4096
SECTOR = 512


def mark(transaction: int) -> Mark:
    """Longer than what a disk writes at once."""
    return Mark(CHECKPOINT, transaction, bytes([transaction]) * 1024)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """Of a store whose log begins its life in this boot."""
    log = tmp_path / "log.mdb"
    log.write_bytes(bytes(2 * PAGE))
    made = Control(str(tmp_path / "log.control"))
    made.begin(str(log), "this boot", 5, 1, False)
    return made


def torn(disk: bytes, written: bytes) -> bytes:
    """What a power cut may leave of a flush of both marks: the first sector of each is new."""
    left = bytearray(disk)
    for page in (PAGE, 2 * PAGE):
        left[page : page + SECTOR] = written[page : page + SECTOR]
    return bytes(left)


def test_a_mark_whose_flush_failed_is_written_again_and_not_the_one_before(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read as the newest, but the disk need not have it."""
    file = tmp_path / "log.control"
    control.write(mark(1))
    control.write(mark(2))
    disk = file.read_bytes()

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        for transaction in (3, 4):
            with pytest.raises(StoreError):
                control.write(mark(transaction))
    flushed = os.fdatasync
    seen: list[bytes] = []

    def flush(fd: int) -> None:
        seen.append(file.read_bytes())
        flushed(fd)

    monkeypatch.setattr(os, "fdatasync", flush)
    control.write(mark(5))
    after = tmp_path / "after"
    after.write_bytes(torn(disk, seen[0]))
    with Control(str(after)) as found:
        assert found.mark == mark(2)
    with Control(str(file)) as found:
        assert found.mark == mark(5)
    control.close()


def test_a_mark_whose_process_was_killed_before_its_flush_is_written_again(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finds it, and cannot know."""
    file = tmp_path / "log.control"
    control.write(mark(1))
    disk = file.read_bytes()

    class Killed(BaseException):
        pass

    def is_killed(fd: int) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", is_killed)
        with pytest.raises(Killed):
            control.write(mark(2))
    control.close()
    with Control(str(file)) as other:
        other.write(mark(3))
        assert other.mark == mark(3)
    after = tmp_path / "after"
    after.write_bytes(torn(disk, file.read_bytes()))
    with Control(str(after)) as found:
        assert found.mark == mark(1)


def test_marks_take_turns(control: Control, tmp_path: Path) -> None:
    """The one before stays until the next one is on the disk."""
    for transaction in range(1, 6):
        before = (tmp_path / "log.control").read_bytes()
        control.write(mark(transaction))
        after = (tmp_path / "log.control").read_bytes()
        changed = [page for page in (1, 2) if before[page * PAGE : (page + 1) * PAGE] != after[page * PAGE : (page + 1) * PAGE]]
        assert changed == [1 + transaction % 2]
    control.close()
