"""A program: a Ray cluster of two nodes on this machine, told on its standard input what is to happen to the second.

Its first line of output is the cluster's address; it ends with its input.
"""

from __future__ import annotations

import os
import sys

import ray
from ray.cluster_utils import Cluster

os.environ |= {"RAY_health_check_period_ms": "200"}  # a killed node is missed within seconds, not after fifteen


def main() -> None:
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"include_dashboard": False})
    node = cluster.add_node()
    print(cluster.address, flush=True)
    for word in sys.stdin:
        if word.strip() == "remove":
            cluster.remove_node(node, allow_graceful=False)
        else:
            node = cluster.add_node()
        cluster.wait_for_nodes()
        # Whom Ray Train asks for nodes; by itself it looks for them every 20 s.
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
        ray.get(coordinator.get_reserved_resources.remote("nobody", recompute=True))
    cluster.shutdown()


if __name__ == "__main__":
    main()
