"""Whatever is staged, and whoever is faster or dies, each transaction ends as plain lists and dicts say."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from model.steps import BOUNDED
from model.transaction_machine import TransactionsBesideLists, TransactionsOnDiskBesideLists


@pytest.mark.timeout(600)  # when it fails: hypothesis simplifies for up to 300 seconds
def test_transactions_in_memory_do_what_lists_and_dicts_would() -> None:
    run_state_machine_as_test(TransactionsBesideLists, settings=settings(BOUNDED, max_examples=80))


@pytest.mark.timeout(600)
def test_transactions_on_disk_do_what_lists_and_dicts_would_through_closing_kills_and_crashes() -> None:
    run_state_machine_as_test(TransactionsOnDiskBesideLists, settings=settings(BOUNDED, max_examples=20))
