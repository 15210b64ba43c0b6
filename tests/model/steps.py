"""Settings of hypothesis for the state machines: so many steps each, and a failure prints what reproduces it."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

BOUNDED = settings(
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
