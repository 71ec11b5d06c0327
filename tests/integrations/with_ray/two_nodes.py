"""A cluster of Ray with two nodes on this machine, one of which can be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SECRET = "a secret of the tests"
# Bytes of each node's object store, of which nothing here needs much.
_STORE = 80_000_000


class TwoNodes:
    """The head, where drivers run, and another node.

    Args:
        head_cpus: that the head has for actors.
        environment: of the other node, beside that of this process.
    """

    def __init__(self, head_cpus: int, environment: Mapping[str, str]) -> None:
        from ray.cluster_utils import Cluster

        options: dict[str, Any] = {"object_store_memory": _STORE}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": head_cpus, "include_dashboard": False, **options},
        )
        self.address: str = self._cluster.address
        self._other = self._cluster.add_node(num_cpus=1, env_vars=dict(environment), **options)

    def kill_other(self) -> None:
        """Let the other node be gone, with all processes on it, as when its power fails."""
        for pid in _below(_raylet(self._other)):
            os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(self._other, allow_graceful=False)

    def close(self) -> None:
        """End all processes."""
        self._cluster.shutdown()


@contextmanager
def two_nodes(head_cpus: int = 1, environment: Mapping[str, str] | None = None) -> Iterator[TwoNodes]:
    """Connect to a new cluster, and end it afterwards."""
    import ray

    nodes = TwoNodes(head_cpus, environment or {})
    try:
        ray.init(address=nodes.address, logging_level="error", log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.close()


def _raylet(node: Any) -> int:
    (info,) = node.all_processes["raylet"]
    return int(info.process.pid)


def _below(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
