"""What a child process finds wrong with a store, and that its death is told and never ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import damage
import lmdb
import pytest

import mqlite
from mqlite import verify
from mqlite.log import format as fmt
from mqlite.verify import store_problems


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A closed store that holds something of everything."""
    path = str(tmp_path_factory.mktemp("verify") / "app.mq")
    damage.fill(path)
    return path


@pytest.fixture
def store(made: str, tmp_path: Path) -> str:
    """A copy of it."""
    copy = tmp_path / "copy.mq"
    copy.mkdir()
    for name in ("log.mdb", "store.json"):
        shutil.copy(os.path.join(made, name), copy)
    return str(copy)


def change(store: str, key: bytes, value: bytes | None) -> None:
    """Store something behind the back of mqlite; None: remove it."""
    with lmdb.open(f"{store}/log.mdb", subdir=False, lock=False, map_size=256 << 30) as environment, environment.begin(write=True) as txn:
        if value is None:
            assert txn.delete(key)
        else:
            txn.put(key, value)


def stored(store: str, kind: bytes, least: int = 0) -> tuple[bytes, bytes]:
    """The first record of a kind whose key has so many bytes."""
    with lmdb.open(f"{store}/log.mdb", subdir=False, lock=False, map_size=256 << 30) as environment, environment.begin() as txn:
        return next((bytes(key), bytes(value)) for key, value in txn.cursor() if key[:1] == kind and len(key) >= least)


# ---------------------------------------------------------------------- whole
def test_a_whole_store_has_no_problems(made: str) -> None:
    assert store_problems(made) == []


def test_nothing_is_written_and_nothing_is_made(store: str) -> None:
    before = {name: Path(store, name).read_bytes() for name in os.listdir(store)}
    store_problems(store)
    assert {name: Path(store, name).read_bytes() for name in os.listdir(store)} == before


def test_progress_ends_with_all(made: str) -> None:
    told: list[tuple[int, int]] = []
    store_problems(made, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_it_runs_by_hand(made: str) -> None:
    run = subprocess.run([sys.executable, "-m", "mqlite.verify", made], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert run.stdout.splitlines()[-1] == '{"problems": []}'


# ---------------------------------------------------------------------- damaged
def test_damaged_pages_are_told_and_no_record_is_read(store: str) -> None:
    spoilt = damage.Spoilt(f"{store}/log.mdb")
    spoilt.write(damage.pages_in_use(f"{store}/log.mdb")[2], damage.noise(1))
    spoilt.close()
    problems = store_problems(store)
    assert problems
    assert all("tree" in problem or "page" in problem for problem in problems)


@pytest.mark.parametrize(
    ("kind", "least"),
    [(fmt.STORE_KEY, 0), (fmt.DEFINITION, 0), (fmt.NAME, 0), (b"\x06", 0), (b"\x07", 0), (b"\x10", 5), (b"\x10", fmt.MESSAGE_KEY_BYTES), (b"\x11", 0), (b"\x18", 0), (b"\x20", 0), (b"\x21", 0), (b"\x22", 0), (b"\x24", 0), (b"\x27", 0), (b"\x28", 0), (b"\x29", 0), (b"\x2b", 0)],
)
def test_a_record_that_is_gone_is_missed(store: str, kind: bytes, least: int) -> None:
    key, _ = stored(store, kind, least)
    change(store, key, None)
    assert store_problems(store)


@pytest.mark.parametrize("kind", [fmt.STORE_KEY, fmt.DEFINITION, fmt.LAST_QUEUE_KEY, b"\x06", b"\x07", b"\x10", b"\x11", b"\x18", fmt.SEQ_KEY])
def test_a_record_that_was_changed_is_told(store: str, kind: bytes) -> None:
    key, value = stored(store, kind)
    change(store, key, value[:-1] + bytes([value[-1] ^ 1]))
    assert store_problems(store)


def test_a_message_of_no_queue_is_told(store: str) -> None:
    change(store, fmt.message_key(fmt.queue_key(fmt.MESSAGE, 999), 1), bytes(50))
    assert store_problems(store) == ["1 records belong to the number 999, which is not declared"]


def test_a_missing_log_is_told(tmp_path: Path) -> None:
    [problem] = store_problems(str(tmp_path))
    assert "No such file" in problem


# ---------------------------------------------------------------------- the child
def run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(verify, "_CHILD", 'print(\'{"done": 0, "total": 2}\', flush=True)\n' + code)


def test_a_child_that_is_killed_is_a_problem(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, f"import os; os.kill(os.getpid(), {int(signal.SIGBUS)})")
    assert store_problems(made) == [f"the log could not be looked at: the process that did it died by signal {int(signal.SIGBUS)}"]


def test_a_child_that_fails_is_a_problem_and_says_why(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "raise RuntimeError('why')")
    assert store_problems(made) == ["the log could not be looked at: the process that did it died with status 1 (RuntimeError: why)"]


def test_a_silent_child_is_given_up_and_killed(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "import threading; print(1, flush=True); threading.Event().wait()")
    [problem] = store_problems(made, patience=0.5)
    assert problem == "the log could not be looked at: nothing was heard for 0.5 seconds"


@pytest.mark.parametrize("executable", [None, "", "/nowhere/python3", "/bin/cat"])
def test_without_a_python_to_run_this_process_looks_itself(store: str, monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert store_problems(store) == []
    key, _ = stored(store, b"\x18")
    change(store, key, None)
    assert store_problems(store)


def test_where_the_child_cannot_begin_this_process_looks_itself(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_CHILD", "raise ImportError")
    assert store_problems(store) == []


# ---------------------------------------------------------------------- check()
def test_check_tells_damaged_pages_alone(path: str) -> None:
    with mqlite.open(path) as broker:
        q = broker.queue("q")
        q.put_many([bytes(3000)] * 20)
        log = f"{path}/log.mdb"
        spoilt = damage.Spoilt(log)
        number = next(number for number in damage.pages_in_use(log)[2:] if spoilt.read(number)[10] == 2)
        page = spoilt.read(number)
        spoilt.write(number, bytes(damage.PAGE))
        problems = broker.check()
        spoilt.write(number, page)
        spoilt.close()
        assert problems
        assert all("page" in problem for problem in problems)
        assert q.check() == []


def test_check_tells_its_progress(path: str) -> None:
    told: list[tuple[int, int]] = []
    with mqlite.open(path) as broker:
        broker.queue("q").put(1)
        assert broker.check(lambda done, total: told.append((done, total))) == []
    assert told[-1][0] == told[-1][1] > 0
