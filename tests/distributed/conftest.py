"""A cluster for the tests of a module."""

from __future__ import annotations

import pytest

from hyperpq.distributed.cluster import Cluster


@pytest.fixture(scope="module")
def cluster():
    """Two machines, as Ray sees them, of one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Machines

    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1})
    machines.add_node(num_cpus=1)
    with Cluster(machines.address):
        yield machines
    machines.shutdown()
