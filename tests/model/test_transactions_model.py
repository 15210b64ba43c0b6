"""Whatever is committed, lost, rolled back or killed, a store has what plain lists and dicts would."""

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
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.timeout(600)  # when it fails: hypothesis simplifies for up to 300 seconds
def test_transactions_in_memory_do_what_lists_and_dicts_would() -> None:
    run_state_machine_as_test(TransactionsBesideLists, settings=settings(BOUNDED, max_examples=250))


@pytest.mark.timeout(600)
def test_transactions_on_disk_do_what_lists_and_dicts_would_through_closing_and_kills() -> None:
    run_state_machine_as_test(TransactionsOnDiskBesideLists, settings=settings(BOUNDED, max_examples=25))
