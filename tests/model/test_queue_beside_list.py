"""Whatever is done to a queue, and whatever crashes, it does what a plain list would."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import mqlite.log.front

BOUNDED = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.timeout(600)
def test_a_queue_in_memory_does_what_a_list_would(machine: ModuleType) -> None:
    run_state_machine_as_test(machine.QueueBesideList, settings=settings(BOUNDED, max_examples=150))


@pytest.mark.timeout(600)  # when it fails: hypothesis simplifies for up to 300 seconds
def test_a_queue_on_disk_does_what_a_list_would_through_closing_kills_and_crashes(
    machine: ModuleType, holder_class: Any
) -> None:
    machine.QueueOnDiskBesideList.holder_class = holder_class
    run_state_machine_as_test(machine.QueueOnDiskBesideList, settings=settings(BOUNDED, max_examples=25))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("level", ["full", "process"], indirect=True)
def test_a_queue_whose_messages_pass_by_the_tree_does_what_a_list_would(
    machine: ModuleType, holder_class: Any, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqlite.log.front, "FEWEST", 0)
    monkeypatch.setenv("MQLITE_TEST_FEWEST", "0")
    machine.QueueLeftAloneBesideList.holder_class = holder_class
    run_state_machine_as_test(machine.QueueLeftAloneBesideList, settings=settings(BOUNDED, max_examples=60))


@pytest.mark.timeout(600)
def test_a_queue_in_memory_with_policies_does_what_a_list_would(policies: ModuleType) -> None:
    run_state_machine_as_test(policies.Policies, settings=settings(BOUNDED, max_examples=250))


@pytest.mark.timeout(600)
def test_a_queue_on_disk_with_policies_does_what_a_list_would_through_closing_kills_and_crashes(
    policies: ModuleType, holder_class: Any
) -> None:
    policies.PoliciesOnDisk.holder_class = holder_class
    run_state_machine_as_test(policies.PoliciesOnDisk, settings=settings(BOUNDED, max_examples=30))
