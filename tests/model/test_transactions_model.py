"""Whatever is staged, and whoever is faster or dies, each transaction ends as plain lists and dicts say."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from model.transaction_machine import TransactionsBesideLists, TransactionsOnDiskBesideLists

BOUNDED = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.timeout(600)  # when it fails: hypothesis simplifies for up to 300 seconds
def test_transactions_in_memory_do_what_lists_and_dicts_would() -> None:
    run_state_machine_as_test(TransactionsBesideLists, settings=settings(BOUNDED, max_examples=80))


@pytest.mark.timeout(600)
def test_transactions_on_disk_do_what_lists_and_dicts_would_through_closing_kills_and_crashes() -> None:
    run_state_machine_as_test(TransactionsOnDiskBesideLists, settings=settings(BOUNDED, max_examples=20))
