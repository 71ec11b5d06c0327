"""One secret in all processes, and Ray without what it would tell or ask others."""

from __future__ import annotations

import pytest

from tests.integrations.with_ray.two_nodes import SECRET


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSFAST_SECRET", SECRET)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # The proxy on the head would ask the replica on the other node only when the one on the head is full.
        patch.setenv("RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING", "0")
        patch.setenv("RAY_SERVE_PROXY_PREFER_LOCAL_AZ_ROUTING", "0")
        # A node that is killed is missed sooner.
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        yield
