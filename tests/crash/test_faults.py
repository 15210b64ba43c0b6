"""A write, a flush or the making of a file fails: calls raise errors of ours, nothing is torn, and all goes on once the fault is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from errno import EIO
from pathlib import Path
from typing import Any

import pytest
from crash.fault_points import opened
from crash.faults import FAILS_AFTER, WRITES, Faults
from crash.kill_points import sweep_seed

import mqlite
from mqlite.checks import LEVELS

HERE = Path(__file__).parent
#: Calls that change nothing but the claims, which are written through a map.
CLAIMS_ONLY = {"receive", "nack", "release"}


def run(shim: str, *program: str, seconds: float = 100) -> str:
    """What a program says that runs with the shim."""
    environment = {**os.environ, "LD_PRELOAD": shim, "MQLITE_SWEEP_SEED": str(sweep_seed())}
    done = subprocess.run([sys.executable, *program], env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def faults_met(shim: str, folder: Path, level: str, one_in: int) -> dict[str, int]:
    """How many faults each scenario met, in one of so many ways to fail."""
    said = run(shim, "-m", "crash.fault_points", str(folder), level, str(one_in), seconds=280)
    met = {scenario["scenario"]: scenario["met"] for scenario in map(json.loads, said.splitlines())}
    print(met)
    return met


@pytest.mark.parametrize("level", LEVELS)
def test_a_call_that_meets_a_fault_is_done_or_raises_and_all_goes_on(level: str, shim: str, tmp_path: Path) -> None:
    one_in = 3 if level == "process" else 8  # through a map there are few calls that can fail
    assert sum(faults_met(shim, tmp_path, level, one_in).values()) > 10


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("level", LEVELS)
def test_any_call_that_meets_any_fault_is_done_or_raises_and_all_goes_on(level: str, shim: str, tmp_path: Path) -> None:
    """Every call of every scenario, in every MQLITE_FAULT_STRIDE-th way to fail, beginning anywhere: two runs know all ways."""
    met = faults_met(shim, tmp_path, level, int(os.environ.get("MQLITE_FAULT_STRIDE", "2")))
    if level != "process":  # that writes through a map
        without = {name for name, times in met.items() if not times}
        assert without <= CLAIMS_ONLY, f"{without} met no fault: the shim does not see their calls"


def front_faults_met(shim: str, folder: Path, one_in: int) -> dict[str, int]:
    """The same of what passes by at "full"."""
    said = run(shim, "-m", "crash.front_fault_points", str(folder), str(one_in), seconds=280)
    met = {scenario["scenario"]: scenario["met"] for scenario in map(json.loads, said.splitlines())}
    print(met)
    return met


def test_a_message_that_meets_a_fault_while_it_passes_by_is_whole_and_all_goes_on(shim: str, tmp_path: Path) -> None:
    assert sum(front_faults_met(shim, tmp_path, 4).values()) > 5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_message_that_meets_any_fault_while_it_passes_by_is_whole_and_all_goes_on(shim: str, tmp_path: Path) -> None:
    met = front_faults_met(shim, tmp_path, 1)
    without = {name for name, times in met.items() if not times}
    assert without <= {"receive that passes by"}, f"{without} met no fault"


# ---------------------------------------------------------------------- a commit that failed only once it was made


def fail_to_commit(path: str) -> None:
    """A put whose meta page is written, and yet that fails; then the flush of what is put back fails, too."""
    faults, flushed = Faults(), []
    flush, refusing = os.fdatasync, False

    def fdatasync(fd: int) -> None:
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if refusing:
            raise OSError(EIO, "made up")
        flush(fd)

    os.fdatasync = fdatasync
    def is_refused(queue: mqlite.Queue[Any], call: int) -> bool:
        """Whether a put makes so many writes; that one fails. Which of them is the meta page, differs."""
        flushed.clear()
        faults.arm(call, call, FAILS_AFTER, EIO, WRITES, "/log.mdb")
        try:
            queue.put("refused", priority=1)
        except mqlite.StoreError:
            return True
        finally:
            faults.disarm()
        assert queue.get(timeout=0) == "refused"
        return False

    refused = 0
    with opened(path, "full") as broker:
        queue: mqlite.Queue[Any] = broker.queue("q")
        queue.put_many([0, 1])
        for call in (1, 2, 3, 4):
            if is_refused(queue, call):
                assert flushed == ["log.mdb"]
                assert [message.body for message in queue.browse()] == [0, 1]

            refusing = True
            if is_refused(queue, call):
                refused += 1
                assert set(flushed) == {"log.mdb"}
                with pytest.raises(mqlite.StoreError, match="nothing is stored until then"):
                    queue.put("refused")
                [message] = queue.receive(timeout=0)
                message.release()
            refusing = False
            queue.put(2)
            assert [message.body for message in queue.browse()] == [0, 1, 2]
            queue.cancel(list(queue.browse())[-1].id)
            assert broker.check() == []
    assert refused > 1


def test_a_commit_that_failed_is_taken_back_on_the_disk_before_the_next_one(shim: str, tmp_path: Path) -> None:
    run(shim, "-c", f"from crash.test_faults import fail_to_commit; fail_to_commit({str(tmp_path / 'app.mq')!r})")


# ---------------------------------------------------------------------- a flush that was none
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "full"])
def test_a_flush_that_was_not_begun_is_none_that_failed(level: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another thread closes the store meanwhile."""

    def closed(held: list[None]) -> None:
        raise mqlite.Closed("made up")

    with opened(path, level) as broker:
        queue = broker.queue("q")
        queue.put("before")
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(broker._store.engine.log._environment, "begin_read", closed)
            with pytest.raises(mqlite.Closed):
                broker.sync()
        queue.put("after")
        broker.sync()
        assert [message.body for message in queue.browse()] == ["before", "after"]
