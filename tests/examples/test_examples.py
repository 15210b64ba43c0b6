"""The examples, unchanged, as a newcomer runs them: they print what they promise, and resume where they were stopped."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mqlite

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT = 300
HUNG = 100  # seconds; nothing takes as long unless something hangs


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an example, in a process group of its own as a terminal does; what is left of it is killed afterwards."""
    started: list[subprocess.Popen[str]] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # if it is ignored (a job in the background), so it is by what is started

    def run(name: str, *arguments: object) -> subprocess.Popen[str]:
        search = os.pathsep.join(filter(None, [str(Path(mqlite.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": search},
        )
        started.append(process)
        return process

    yield run
    signal.signal(signal.SIGINT, before)
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, too: they have the other end of the pipe
        process.communicate()


def finish(process: subprocess.Popen[str], hung: float = HUNG) -> str:
    """What a successful run printed."""
    output, errors = process.communicate(timeout=hung)
    assert process.returncode == 0, output + errors
    assert errors == ""
    return output


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """What it printed up to the first line with `pattern`."""
    assert process.stdout is not None
    printed = ""
    alarm = threading.Timer(HUNG, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            printed += line
            if re.search(pattern, line):
                return printed
    finally:
        alarm.cancel()
    raise AssertionError(f"it ended without {pattern!r}: {printed}")


def number(pattern: str, text: str) -> int:
    """The number that `pattern` captures."""
    found = re.search(pattern, text)
    assert found is not None, (pattern, text)
    return int(found[1])


def promised(name: str) -> list[str]:
    """The indented block after "Prints:" of an example's docstring."""
    block = (EXAMPLES / name).read_text().split("Prints:\n\n", 1)[1].split('\n"""', 1)[0]
    return [line.strip() for line in block.splitlines()]


def test_quickstart_prints_what_its_docstring_promises(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert finish(start("quickstart.py")).splitlines() == promised("quickstart.py")
    assert finish(start("quickstart.py", tmp_path / "app.mq")).splitlines() == promised("quickstart.py")


def test_every_order_ends_as_the_docstring_promises(start: Callable[..., subprocess.Popen[str]]) -> None:
    wanted = "\n".join(promised("orders.py")) + "\n"
    printed = "".join(line.strip() + "\n" for line in finish(start("orders.py")).splitlines())
    assert doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS), printed  # a traceback has paths


def test_the_orders_of_an_earlier_run_are_found_in_its_directory_and_left_alone(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    store = tmp_path / "shop.mq"
    finish(start("orders.py", store))
    again = start("orders.py", store)
    _, errors = again.communicate(timeout=HUNG)
    assert again.returncode == 1
    assert "name another directory" in errors
    with mqlite.open(store) as broker:
        assert broker.check() == []
        paid = [message.body["number"] for message in broker.queue("paid").browse()]
        assert sorted(paid) == [1, 2, 3, 4, 5, 7, 8]
        orders = broker.queue("orders")
        assert orders.unfinished_tasks == 0
        [letter] = orders.dead.browse()
        assert letter.body["number"] == 6
        assert letter.death is not None
        assert (letter.death.reason, letter.death.error) == ("rejected", "card expired")


def test_a_burst_is_shaved_by_blocking_or_rejecting_and_obeys_littles_law(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    output = finish(start("burst.py", "--burst", 90))
    sent = 90 + 2 * 9
    block, reject = output.split("overflow='reject'")
    assert f"{sent} accepted, 0 refused, {sent} served" in block
    accepted = number(r"(\d+) accepted", reject)
    assert 30 <= accepted < sent
    assert f"{accepted} accepted, {sent - accepted} refused, {accepted} served" in reject
    for part in (block, reject):
        assert re.findall(r"(high|low) watermark", part) == ["high", "low"]
        assert number(r"at most (\d+) in the system", part) <= 30
        residual = re.search(r"residual ([+-][\d.]+) %", part)
        assert residual is not None, part
        assert abs(float(residual[1])) < 10


def test_quiet_tenants_have_their_turns_among_the_jobs_of_a_noisy_one(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    output = finish(start("tenants.py", "--jobs", 300))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 5
    rows = re.findall(r"^(ann|bob|cem|dee) +5 +(\d+) +(\d+) ", output, re.MULTILINE)
    assert [tenant for tenant, _, _ in rows] == 3 * ["ann", "bob", "cem", "dee"]
    assert all(int(first) > 300 for _, first, _ in rows[:4])  # fair=False
    assert max(int(last) for _, _, last in rows[4:]) <= 25  # turns: five of each of the five tenants
    noisy = re.findall(r"^noisy +300 .* (\d+)$", output, re.MULTILINE)
    assert int(noisy[2]) <= 2  # by limits


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_log_is_archived_filtered_and_replayed_by_those_who_subscribe_to_it(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, method: str
) -> None:
    log = tmp_path / "dpkg.log"  # the same on every machine
    states = ["unpacked", "half-installed", "installed", "half-configured"]
    log.write_text("".join(f"2025-06-24 14:36:{n % 60:02} status {states[n % 4]} p{n}:all 1\n" for n in range(400)))
    output = finish(start("logs.py", tmp_path / "run", "--log", log, "--lines", 300, "--start-method", method))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 6
    assert "300 lines published: 75 DEBUG, 150 WARNING, 75 INFO" in output
    assert number(r"^(\d+) alerts, the first: 2025-06-24 14:36:03 ", output.split("\n", 1)[1]) == 75
    assert number(r"the topic keeps (\d+) lines", output) == 300
    with mqlite.open(tmp_path / "run" / "log.mq") as broker:
        assert broker.topics() == ["log"]
        assert len(broker.queue("pager")) == 75
        assert broker.check() == []


def test_a_machine_without_a_package_log_has_the_standard_library_as_one(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    output = finish(start("logs.py", "--log", tmp_path / "none", "--lines", 200))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 6
    assert "200 lines published" in output


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_killed_sensor_has_its_last_will_and_a_late_dashboard_the_last_values(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, method: str
) -> None:
    store = tmp_path / "telemetry.mq"
    output = finish(start("sensors.py", store, "--readings", 60, "--start-method", method))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 8
    assert "sensor 2 was killed, and is offline" in output
    states = re.findall(r"^dashboard: sensor (\d) is (\w+), last reading [\d.]+$", output, re.MULTILINE)
    assert states == [("1", "finished"), ("2", "offline"), ("3", "finished"), ("4", "finished")]
    assert [len(means.split()) for means in re.findall(r"^sensor [134]: (.*)$", output, re.MULTILINE)] == [3, 3, 3]
    with mqlite.Topic("telemetry", store) as telemetry:  # who opens it next finds no other will to publish
        assert telemetry.subscription("alarms").stats().lag == 0
        assert len(telemetry.retained("sensor.*.temperature")) == 4
        assert telemetry.check() == []


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_bank_whose_workers_are_killed_loses_no_cent_and_makes_none(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, method: str
) -> None:
    few = ("--accounts", 3, "--transfers", 300, "--workers", 3, "--kills", 3)
    output = finish(start("bank.py", tmp_path / "bank", *few, "--start-method", method))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 6
    assert "300 transfers by 3 workers" in output
    assert 1 <= number(r"(\d+) workers killed and replaced", output) <= 3  # the others were faster than the killer
    assert number(r"looked at (\d+) times meanwhile", output) > 0
    with mqlite.open(tmp_path / "bank" / "bank.mq") as broker:
        assert sum(broker.table("balances").values()) == 300
        assert broker.queue("receipts").qsize() == 300
        assert broker.check() == []


def test_a_bank_closes_in_time_however_many_transfers_there_are(start: Callable[..., subprocess.Popen[str]]) -> None:
    output = finish(start("bank.py", "--transfers", 1_000_000, "--seconds", 0.3, "--workers", 2, "--kills", 0))
    assert len(re.findall("^yes: ", output, re.MULTILINE)) == 6


def test_totals_are_exact_though_a_worker_is_killed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert finish(start("totals.py")).splitlines() == promised("totals.py")
    store = tmp_path / "shops.mq"
    assert len(re.findall("^yes: ", finish(start("totals.py", store, "--sales", 60)), re.MULTILINE)) == 4
    with mqlite.open(store) as broker:
        assert sum(message.body["count"] for message in broker.queue("totals").browse()) == 60
        assert broker.check() == []


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_killed_worker_costs_no_file_and_adds_none(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, method: str
) -> None:
    store = tmp_path / "index"
    output = finish(start("index_library.py", "--store", store, "--limit", LIMIT, "--start-method", method))
    assert number(r"worker \d+ killed after (\d+) results", output) == LIMIT // 3
    assert number(r"(\d+) killed, \d+ redelivered", output) == 1
    assert f"every one of {LIMIT} files has exactly one accepted result" in output
    assert f"0 from earlier runs, {LIMIT} from this one" in output
    with mqlite.open(store) as broker:
        assert broker.check() == []
        assert broker.queue("results").qsize() == LIMIT


def test_a_finished_run_has_nothing_left_to_do_unless_it_starts_afresh(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    common = ("index_library.py", "--store", tmp_path / "index", "--limit", 60, "--no-kill")
    assert "0 killed, 0 redelivered" in finish(start(*common))
    again = finish(start(*common))
    assert "nothing was left to do" in again
    assert "60 from earlier runs, 0 from this one" in again
    assert "0 from earlier runs, 60 from this one" in finish(start(*common, "--fresh"))


def test_a_run_over_other_files_is_refused(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    common = ("index_library.py", "--store", tmp_path / "index", "--no-kill", "--limit")
    finish(start(*common, 20))
    smaller = start(*common, 10)
    output, _ = smaller.communicate(timeout=HUNG)
    assert smaller.returncode == 2
    assert "over other files" in output


def test_an_interrupted_run_goes_on_where_it_stopped(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    common = ("index_library.py", "--store", tmp_path / "index", "--limit", LIMIT)
    accepted = 0
    for _ in range(2):
        process = start(*common)
        printed = read_until(process, "killed after")
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: to all of them
        rest, errors = process.communicate(timeout=HUNG)
        assert process.returncode == 130, printed + rest + errors
        assert errors == ""
        assert number(r"(\d+) accepted in earlier runs", printed) == accepted
        before, accepted = accepted, number(r"interrupted: (\d+) of", rest)
        assert before < accepted <= LIMIT
    output = finish(start(*common, "--no-kill"))
    assert number(r"(\d+) accepted in earlier runs", output) == accepted
    assert f"every one of {LIMIT} files has exactly one accepted result" in output
    assert f"{accepted} from earlier runs, {LIMIT - accepted} from this one" in output


@pytest.mark.parametrize("file", ["new.py", "known.py"])
def test_an_interrupt_while_a_result_is_taken_leaves_none_claimed_and_uncounted(file: str, tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "index_library.py"))
    results = mqlite.Queue[dict[str, str]]("results", str(tmp_path / "index"))
    for name in ("known.py", file):
        results.put({"file": name}, headers={"redelivered": False})
    ledger = example["Ledger"](results)
    assert ledger.take(timeout=0)
    receive = ledger._consumer.receive

    class Interrupted:
        @staticmethod
        def receive(timeout: float) -> mqlite.Message:
            message: mqlite.Message = receive(timeout)
            signal.raise_signal(signal.SIGINT)
            return message

    ledger._consumer = Interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ledger.take(timeout=0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ledger.stored() == len(ledger.accepted) == len({"known.py", file})


def test_a_run_whose_parent_was_killed_is_resumed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    common = ("index_library.py", "--store", tmp_path / "index", "--limit", LIMIT)
    process = start(*common)
    read_until(process, "killed after")
    process.kill()
    process.communicate(timeout=HUNG)  # ends when the last worker has closed its end of the pipe
    output = finish(start(*common, "--no-kill"))
    assert number(r"(\d+) accepted in earlier runs", output) >= LIMIT // 3
    assert f"every one of {LIMIT} files has exactly one accepted result" in output


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_the_whole_library_is_indexed(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    output = finish(start("index_library.py", "--store", tmp_path / "index"), hung=600)
    files = number(r"every one of (\d+) files has exactly one accepted result", output)
    assert f"0 from earlier runs, {files} from this one" in output
