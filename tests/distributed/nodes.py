"""A program: a Ray cluster of several nodes on this machine, told on its standard input what is to happen to them.

Its first line of output is the cluster's address; it ends with its input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main(count: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for word in sys.stdin:
        if word.strip() == "remove":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        else:
            nodes.append(cluster.add_node(num_cpus=1))
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
