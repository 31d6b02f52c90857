"""A Ray cluster of two nodes on this machine, for tests; at most one exists at a time, in all processes of pytest."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def two_nodes() -> Iterator[Any]:
    """The cluster (`ray.cluster_utils.Cluster`), with one CPU on each node."""
    from ray.cluster_utils import Cluster

    with (Path(tempfile.gettempdir()) / "r2t2-test-cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()
