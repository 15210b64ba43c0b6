"""Settings of hypothesis for tests that open stores: no example is too slow, and a failure prints what reproduces it."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

BOUNDED = settings(
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
