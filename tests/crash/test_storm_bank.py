"""No money is lost or made, and each transfer is made once, though processes are killed all the time; and who does it wrong is found out."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crash.storm import Journal
from crash.storm_bank import (
    AFTER,
    BEFORE,
    DONE,
    HOWS,
    INSIDE,
    OPENING,
    REFUSED,
    REJECTED,
    TOTAL,
    WRONG,
    Bank,
    BankStorm,
    Found,
    balance,
    read,
    serve_in_two_commits,
)
from polling import until

import mqlite


def _blown(folder: Path, children: Any, seconds: float, how: str = INSIDE) -> dict[str, Any]:
    seed = int(os.environ.get("MQLITE_STORM_SEED", time.time_ns() % 10**9))
    print(f"MQLITE_STORM_SEED={seed}")
    books = BankStorm(str(folder), children, seed, how).blow(seconds)
    print({word: found for word, found in books.items() if word not in WRONG})
    return books


def _balanced(folder: Path, children: Any, seconds: float) -> dict[str, Any]:
    books = _blown(folder, children, seconds)
    for word in WRONG:
        assert books[word] == [], (word, len(books[word]), books[word][:10])
    return books


def test_a_short_storm_of_kills_neither_loses_money_nor_makes_any(tmp_path: Path, children: Any) -> None:
    books = _balanced(tmp_path, children, 5)
    assert books["receipts"] > 0
    assert books["looks"] > 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_of_kills_neither_loses_money_nor_makes_any(tmp_path: Path, children: Any) -> None:
    seconds = float(os.environ.get("MQLITE_STORM_SECONDS", "20"))
    books = _balanced(tmp_path, children, seconds)
    assert books["kills"] > seconds
    assert books["receipts"] > 10 * seconds
    assert books["looks"] > 10 * seconds
    assert books["outcomes"].keys() == {DONE, REFUSED, REJECTED}


# ---------------------------------------------------------------------- the same storm, and somebody does it wrong
@pytest.mark.parametrize(("how", "word"), [(AFTER, "doubled"), (BEFORE, "lost")])
def test_the_same_storm_tells_that_workers_acknowledge_outside_of_the_transaction(how: str, word: str, tmp_path: Path, children: Any) -> None:
    books = _blown(tmp_path, children, 1, how)
    assert books["between"] > 0
    assert {each for each in WRONG if books[each]} == {word}
    assert len(books[word]) <= books["kills"]


# ---------------------------------------------------------------------- one kill, exactly between two commits
def _killed_after(folder: Path, children: Any, serve: Callable[[Bank, Journal, mqlite.Message], None]) -> set[str]:
    """What is wrong after a worker has served one of two transfers up to where it stops, and was killed there."""
    path = str(folder / "bank.mq")
    bank = Bank(path)
    bank.found()
    bank.transfers.put_many([["1", 0, 1, 30], ["2", 1, 0, 50]])
    bank.broker.close()

    def be_killed(talk: Any) -> None:
        bank = Bank(path)
        journal = Journal(str(folder), 0)
        [message] = bank.transfers.receive(timeout=0)
        assert message.body[0] == "1"
        serve(bank, journal, message)
        journal.note("returned", ("1",))
        while True:
            signal.pause()

    child = children.fork(be_killed)
    journal = folder / "journal-0"
    until(lambda: journal.exists() and journal.read_text())
    child.kill()
    bank = Bank(path)
    assert bank.broker.check() == []
    found = Found({"1", "2"}, {"1", "2"}, done=set())
    read(bank, found)
    assert bank.broker.check() == []
    bank.broker.close()
    return {word for word, entries in balance(found).items() if entries}


@pytest.mark.parametrize(("how", "wrong"), [(INSIDE, set()), (AFTER, {"doubled"}), (BEFORE, {"lost"})], ids=HOWS)
def test_only_an_acknowledgement_in_the_transaction_survives_a_kill_after_the_first_commit(how: str, wrong: set[str], tmp_path: Path, children: Any) -> None:
    def serve(bank: Bank, journal: Journal, message: mqlite.Message) -> None:
        if how != INSIDE:
            serve_in_two_commits(bank, journal, message, how, stops=True)
        bank.broker.run(lambda tx: bank.move(tx, message, INSIDE, REFUSED))

    assert _killed_after(tmp_path, children, serve) == wrong


def test_a_transaction_that_was_staged_and_not_committed_is_nothing(tmp_path: Path, children: Any) -> None:
    def serve(bank: Bank, journal: Journal, message: mqlite.Message) -> None:
        bank.move(bank.broker.transaction(), message, INSIDE, REFUSED)

    assert _killed_after(tmp_path, children, serve) == set()


def test_a_receipt_put_outside_of_the_transaction_is_told(tmp_path: Path, children: Any) -> None:
    def serve(bank: Bank, journal: Journal, message: mqlite.Message) -> None:
        bank.receipts.put([*message.body, DONE, OPENING - 30, OPENING + 30])

    assert _killed_after(tmp_path, children, serve) == {"doubled", "balances", "audit"}


def test_money_moved_outside_of_the_transaction_is_told(tmp_path: Path, children: Any) -> None:
    def serve(bank: Bank, journal: Journal, message: mqlite.Message) -> None:
        balances = bank.broker.table("balances")
        balances[0] -= 30

    assert _killed_after(tmp_path, children, serve) == {"sums", "balances"}


@pytest.mark.parametrize(("checks", "wrong"), [(True, set()), (False, {"sums", "balances"})])
def test_two_who_move_the_same_money_are_told_unless_their_reads_are_checked(checks: bool, wrong: set[str], path: str) -> None:
    bank = Bank(path)
    bank.found()
    bank.transfers.put_many([["1", 0, 1, 30], ["2", 0, 2, 50]])
    messages = bank.transfers.receive(2, timeout=0)
    both = [bank.broker.transaction(check_reads=checks) for _ in messages]
    for tx, message in zip(both, messages, strict=True):
        bank.move(tx, message, INSIDE, REFUSED)
    both[0].commit()
    if checks:
        with pytest.raises(mqlite.Conflict):
            both[1].commit()
        messages[1].release()
    else:
        both[1].commit()
    found = Found({"1", "2"}, {"1", "2"}, {"1"})
    read(bank, found)
    assert {word for word, entries in balance(found).items() if entries} == wrong
    assert bank.broker.check() == []
    bank.broker.close()


# ---------------------------------------------------------------------- would the books tell?
def _quiet_day() -> Found:
    """Three transfers: one done, one refused, one rejected; one more was tried and came to nothing."""
    receipts: list[list[Any]] = [["1", 0, 1, 30, DONE, 70, 130], ["2", 0, 2, 90, REFUSED, 70, 100], ["3", 0, 1, 71, REJECTED, 70, 130]]
    return Found(
        tried={"1", "2", "3", "4"},
        put={"1", "2", "3"},
        done={"1", "3"},
        sums=Counter({TOTAL: 20}),
        receipts=receipts,
        events=[["1", DONE], ["2", REFUSED], ["3", REJECTED]],
        balances={0: 70, 1: 130, 2: 100, 3: 100, 4: 100, 5: 100},
        dead=["3"],
    )


def _wrong(found: Found) -> set[str]:
    return {word for word, entries in balance(found).items() if entries}


def test_the_books_of_a_quiet_day_balance() -> None:
    assert _wrong(_quiet_day()) == set()


def test_the_books_tell_that_a_transfer_was_lost() -> None:
    found = _quiet_day()
    found.put.add("4")
    assert _wrong(found) == {"lost"}


def test_the_books_tell_that_a_committed_transfer_was_undone() -> None:
    found = _quiet_day()
    found.done.add("4")
    assert _wrong(found) == {"undone"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_books_tell_that_a_receipt_is_missing(place: int) -> None:
    found = _quiet_day()
    del found.receipts[place]
    assert {"lost", "audit"} <= _wrong(found)


def test_the_books_tell_that_a_refused_transfer_has_two_receipts() -> None:
    found = _quiet_day()
    found.receipts.insert(2, found.receipts[1])
    assert _wrong(found) == {"doubled", "audit"}


def test_the_books_tell_that_a_transfer_was_made_twice_in_every_way() -> None:
    found = _quiet_day()
    found.receipts.append(["1", 0, 1, 30, DONE, 40, 160])
    found.events.append(["1", DONE])
    found.balances |= {0: 40, 1: 160}
    assert _wrong(found) == {"doubled"}


def test_the_books_tell_that_nobody_sent_a_transfer() -> None:
    found = _quiet_day()
    found.tried.remove("2")
    found.put.remove("2")
    assert _wrong(found) == {"invented"}


def test_the_books_tell_that_somebody_saw_another_sum() -> None:
    found = _quiet_day()
    found.sums[TOTAL - 30] += 1
    assert _wrong(found) == {"sums"}


def test_the_books_tell_that_money_is_missing_at_the_end() -> None:
    found = _quiet_day()
    found.balances[3] -= 1
    assert _wrong(found) == {"sums", "balances"}


def test_the_books_tell_that_money_is_in_the_wrong_account() -> None:
    found = _quiet_day()
    found.balances[3] -= 1
    found.balances[4] += 1
    assert _wrong(found) == {"balances"}


@pytest.mark.parametrize(
    "receipt",
    [["2", 0, 2, 90, REFUSED, 100, 100], ["2", 0, 2, 90, DONE, 70, 100], ["2", 0, 2, 60, REFUSED, 70, 100]],
    ids=["of a balance that is over", "done without money", "refused with money"],
)
def test_the_books_tell_that_a_receipt_says_what_cannot_have_been(receipt: list[Any]) -> None:
    found = _quiet_day()
    found.receipts[1] = receipt
    found.events[1] = [receipt[0], receipt[4]]
    assert "balances" in _wrong(found)


def test_the_books_tell_that_receipts_are_not_in_the_order_of_their_commits() -> None:
    found = _quiet_day()
    found.receipts = [found.receipts[1], found.receipts[0], found.receipts[2]]
    found.events = [found.events[1], found.events[0], found.events[2]]
    assert _wrong(found) == {"balances"}


@pytest.mark.parametrize(
    "events",
    [[["1", DONE], ["2", REFUSED]], [["1", DONE], ["2", REFUSED], ["3", REJECTED], ["3", REJECTED]], [["2", REFUSED], ["1", DONE], ["3", REJECTED]]],
    ids=["one is missing", "one is doubled", "not in order"],
)
def test_the_books_tell_that_events_are_not_those_of_the_receipts(events: list[list[str]]) -> None:
    found = _quiet_day()
    found.events = events
    assert _wrong(found) == {"audit"}


@pytest.mark.parametrize("dead", [[], ["3", "3"], ["2", "3"]])
def test_the_books_tell_that_dead_letters_are_not_those_of_the_receipts(dead: list[str]) -> None:
    found = _quiet_day()
    found.dead = dead
    assert _wrong(found) == {"dead"}
