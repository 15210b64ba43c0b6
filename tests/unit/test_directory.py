"""Which paths become a store, and which are refused, with nothing touched."""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import lmdb
import pytest

import mqlite
from mqlite.log import format as fmt
from mqlite.system import directory

LEVEL = "full"  # log.mdb is copied and cut here, and at the others it is looked at in other ways first


@pytest.fixture
def store(path: str) -> str:
    """A closed store with one message."""
    with mqlite.Queue("q", path) as q:
        q.put("kept")
    return path


def contents(folder: str) -> dict[str, bytes | None]:
    return {name: Path(folder, name).read_bytes() if os.path.isfile(os.path.join(folder, name)) else None for name in sorted(os.listdir(folder))}


# ---------------------------------------------------------------------- paths
def test_a_path_is_made_into_a_store(path: str) -> None:
    mqlite.Queue("q", path).close()
    assert {"log.mdb", "store.json"} <= set(os.listdir(path))


def test_a_store_is_for_its_owner_only(path: str) -> None:
    before = os.umask(0)
    try:
        mqlite.Queue("q", path).close()
    finally:
        os.umask(before)
    open_to_others = [name for root, folders, files in os.walk(path) for name in folders + files if stat.S_IMODE(os.lstat(os.path.join(root, name)).st_mode) & 0o077]
    assert (stat.S_IMODE(os.stat(path).st_mode) & 0o077, open_to_others) == (0, [])


def test_a_path_may_be_a_path_object(tmp_path: Path) -> None:
    with mqlite.Queue("q", tmp_path / "app.mq") as q:
        q.put(1)
    assert (tmp_path / "app.mq" / "log.mdb").exists()


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    with mqlite.Queue("q", tmp_path) as q:
        q.put(1)
        assert q.get() == 1


def test_two_names_of_one_directory_are_one_store(store: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    with mqlite.Queue("q", store) as one, mqlite.Queue("q", link) as other:
        one.put("new")
        assert (other.get(), other.get()) == ("kept", "new")


def test_a_relative_path_is_meant_from_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mqlite.Queue("q", "app.mq") as q:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        q.put(1)
        assert q.get() == 1
    assert os.listdir() == []


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mqlite.StoreError, match="is a file"):
        mqlite.Queue("q", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mqlite.StoreError, match="parent"):
        mqlite.Queue("q", tmp_path / "file" / "app.mq")


def test_a_missing_parent_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(mqlite.StoreError, match="parent"):
        mqlite.Queue("q", tmp_path / "missing" / "app.mq")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("wrong", ["", b"app.mq", 5, ["app.mq"]])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises((mqlite.StoreError, TypeError), match=r"(?i)path"):
        mqlite.Queue("q", wrong)


def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(mqlite.StoreError, match="permissions"):
        mqlite.Queue("q", tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_directory_that_may_not_be_made_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refused)
    with pytest.raises(mqlite.StoreError, match="Permission denied"):
        mqlite.Queue("q", path)


# ---------------------------------------------------------------------- directories of others
def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(mqlite.StoreError, match=r"thesis\.txt"):
        mqlite.Queue("q", tmp_path)


def test_a_directory_of_others_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(mqlite.StoreError):
        mqlite.Queue("q", tmp_path)
    assert contents(str(tmp_path)) == {"thesis.txt": b"mine"}


def test_another_lmdb_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as txn:
        txn.put(b"key", b"theirs")
    before = contents(str(tmp_path))
    with pytest.raises(mqlite.StoreError):
        mqlite.Queue("q", tmp_path)
    assert contents(str(tmp_path)) == before


def test_an_lmdb_file_that_is_no_log_of_ours_is_refused(path: str) -> None:
    os.mkdir(path)
    with lmdb.open(os.path.join(path, "log.mdb"), subdir=False) as environment, environment.begin(write=True) as txn:
        txn.put(b"key", b"theirs")
    with pytest.raises(mqlite.StoreError, match="not a log of mqlite"):
        mqlite.Queue("q", path)
    assert "store.json" not in os.listdir(path)


# ---------------------------------------------------------------------- versions
def test_a_marker_of_a_newer_format_is_not_supported(store: str) -> None:
    edit_marker(store, format=directory.FORMAT + 1)
    with pytest.raises(mqlite.NotSupported, match="upgrade"):
        mqlite.Queue("q", store)


def test_a_log_of_a_newer_format_is_not_supported(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lmdb.open(os.path.join(store, "log.mdb"), subdir=False, lock=False, map_size=1 << 30) as environment, environment.begin(write=True) as txn:
        _, store_id = fmt.unpacked_store(txn.get(fmt.STORE_KEY))
        monkeypatch.setattr(fmt, "FORMAT", fmt.FORMAT + 1)
        txn.put(fmt.STORE_KEY, fmt.packed_store(store_id))
        monkeypatch.undo()
    with pytest.raises(mqlite.NotSupported, match="upgrade"):
        mqlite.Queue("q", store)


def edit_marker(store: str, **changes: Any) -> None:
    marker = Path(store, "store.json")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | changes))


# ---------------------------------------------------------------------- damage
@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"5", b"null", b'"text"', b"{}", b"\xff\xfe", b"\x00" * 100, b'{"format": "one"}'])
def test_a_marker_of_garbage_is_corruption(store: str, garbage: bytes) -> None:
    Path(store, "store.json").write_bytes(garbage)
    with pytest.raises(mqlite.StoreCorrupted, match=r"store\.json"):
        mqlite.Queue("q", store)


@pytest.mark.parametrize("changes", [{"max_store_bytes": "lots"}, {"max_store_bytes": None}, {"max_store_bytes": -1}, {"store_id": 5}, {"store_id": "00" * 16}, {"format": 0}, {"format": -1}, {"durability": "wishful"}])
def test_a_marker_with_impossible_values_is_corruption(store: str, changes: dict[str, Any]) -> None:
    edit_marker(store, **changes)
    with pytest.raises(mqlite.MqliteError):
        mqlite.Queue("q", store)


def test_a_lost_marker_is_made_again_and_nothing_else_is_lost(store: str) -> None:
    os.unlink(os.path.join(store, "store.json"))
    with mqlite.Queue("q", store) as q:
        assert q.get(timeout=0) == "kept"


def test_a_marker_without_its_log_is_corruption(store: str) -> None:
    os.unlink(os.path.join(store, "log.mdb"))
    with pytest.raises(mqlite.StoreCorrupted, match="log"):
        mqlite.Queue("q", store)
    assert not os.path.exists(os.path.join(store, "log.mdb"))


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8191, 8192, 3 * 4096])
@pytest.mark.parametrize("marker", [True, False])
def test_a_truncated_log_is_corruption_and_left_as_it_was(store: str, size: int, marker: bool) -> None:
    log = os.path.join(store, "log.mdb")
    os.truncate(log, size)
    if not marker:
        os.unlink(os.path.join(store, "store.json"))
    with pytest.raises(mqlite.StoreCorrupted, match=r"log\.mdb"):
        mqlite.Queue("q", store)
    assert os.path.getsize(log) == size


def test_a_log_of_garbage_is_corruption(store: str) -> None:
    Path(store, "log.mdb").write_bytes(os.urandom(1 << 16))
    with pytest.raises(mqlite.StoreCorrupted, match=r"log\.mdb"):
        mqlite.Queue("q", store)


def test_a_log_of_zeros_is_corruption(store: str) -> None:
    Path(store, "log.mdb").write_bytes(bytes(1 << 16))
    with pytest.raises(mqlite.StoreCorrupted, match=r"log\.mdb"):
        mqlite.Queue("q", store)


def test_the_log_of_another_store_is_corruption(store: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.mq")
    mqlite.Queue("q", other).close()
    os.replace(os.path.join(other, "log.mdb"), os.path.join(store, "log.mdb"))
    with pytest.raises(mqlite.StoreCorrupted, match="different stores"):
        mqlite.Queue("q", store)


def test_after_a_refused_open_the_repaired_store_opens(store: str) -> None:
    marker = Path(store, "store.json")
    whole = marker.read_bytes()
    marker.write_bytes(b"{")
    with pytest.raises(mqlite.StoreCorrupted):
        mqlite.Queue("q", store)
    marker.write_bytes(whole)
    with mqlite.Queue("q", store) as q:
        assert q.get(timeout=0) == "kept"


def test_a_crash_before_the_log_had_its_name_is_cleaned_up(path: str) -> None:
    os.mkdir(path)
    Path(path, "log.mdb.new").write_bytes(b"torn")
    with mqlite.Queue("q", path) as q:
        q.put(1)
    assert "log.mdb.new" not in os.listdir(path)


def test_a_copied_log_starts_without_the_claims_of_the_original(store: str) -> None:
    with mqlite.Queue("q", store) as q:
        _ = q.receive()
        data = Path(store, "log.mdb").read_bytes()
    os.unlink(os.path.join(store, "log.mdb"))
    Path(store, "log.mdb").write_bytes(data)
    with mqlite.Queue("q", store) as q:
        assert (q.get(timeout=0), q.check()) == ("kept", [])


def test_sessions_of_earlier_boots_are_removed(store: str) -> None:
    old = Path(store, "run", "000000000000-0123456789abcdef")
    old.mkdir(parents=True)
    (old / "claims.mdb").write_bytes(b"old")
    mqlite.Queue("q", store).close()
    assert not old.exists()


def test_claims_of_an_earlier_boot_do_not_count(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mqlite.Queue("q", store) as q:
        _ = q.receive()
        monkeypatch.setattr(directory, "boot_id", lambda: "another boot")
    with mqlite.Queue("q", store) as q:
        assert q.get(timeout=0) == "kept"


# ---------------------------------------------------------------------- network file systems
@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "network_filesystem", lambda _: "nfs4")


@pytest.mark.usefixtures("on_nfs")
def test_a_network_file_system_is_warned_about(path: str) -> None:
    with pytest.warns(mqlite.NetworkFilesystemWarning, match="nfs4"):
        mqlite.Queue("q", path).close()


def test_truncated_claims_are_told_and_cost_no_message(path: str) -> None:
    with mqlite.Queue[str]("q", path) as q:
        q.put("x")
    [session] = os.listdir(os.path.join(path, "run"))
    os.truncate(os.path.join(path, "run", session, "claims.mdb"), 8192)
    with pytest.raises(mqlite.StoreCorrupted, match="run folder"):
        mqlite.Queue("q", path)
    shutil.rmtree(os.path.join(path, "run"))
    with mqlite.Queue[str]("q", path) as q:
        assert q.get(timeout=0) == "x"


@pytest.mark.usefixtures("on_nfs")
@pytest.mark.parametrize("opened", [functools.partial(mqlite.Queue, "q"), mqlite.open], ids=["Queue", "open"])
def test_the_warning_points_at_the_caller(path: str, opened: Any) -> None:
    with pytest.warns(mqlite.NetworkFilesystemWarning) as caught:
        opened(path).close()
    assert [warning.filename for warning in caught] == [__file__]


def test_a_local_file_system_is_not_warned_about(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mqlite.Queue("q", path).close()
