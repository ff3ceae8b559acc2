"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quench.errors import UserError

_TOKEN = Path("~/.ray/auth_token").expanduser()

# Read when Ray is imported or its processes start, so set before; whoever has set one keeps it.
for _name, _value in {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # what we and Ray fork runs another program; gRPC's handlers end it now and then
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the end of a run is seen at once, not after 7 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",  # then an elastic run looks again how many workers fit
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # of workers one of which does not answer any more
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less a run
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep; Tune would go on to its next part
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # the runs' own logs are what a sweep goes on from
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every epoch has a number to select by
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs' own logs hold everything
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True)
class Cluster:
    """What the cluster has now; one that is not our own may grow."""

    ours: bool
    cpus: int
    gpus: int
    drivers: int
    """how many trials of several workers can be driven from the head, by the resource that marks it"""

    @property
    def driver(self) -> dict[str, float]:
        """What the driver of several workers asks for: a place on the head, where there is one, or a little memory.

        Ray Train's controller runs beside it; on the head, neither is lost with a spot node.
        """
        return {"driver": 1} if self.drivers else {"memory": 300e6}

    def gives_gpus(self, workers: int) -> bool:
        """Whether runs of so many workers get a GPU for each: on our own machine, only if there are enough."""
        return self.gpus >= (workers if self.ours else 1)

    def room(self, workers: int, spare: bool = False, gpus: float = 1.0) -> int:
        """How many runs of so many workers fit at the same time, at least one.

        On CPUs, with one to spare if asked; with one worker, `gpus` is the share of a GPU that it gets.
        """
        places = self.gpus / (gpus if workers == 1 else 1) if self.gives_gpus(workers) else self.cpus - spare
        return max(int(places // workers), 1)

    def must_spare_a_cpu(self, workers: int) -> None:
        """Raise `UserError` if a run of so many workers takes every CPU. One that it does not fit yet has to grow."""
        if not self.gives_gpus(workers) and self.cpus == workers:
            raise UserError(
                f"workers = {workers}: the cluster has {self.cpus} CPUs, and streamed images are decoded on one more; "
                f"nearest: workers = {max(workers - 1, 1)}"
            )


@contextmanager
def connected(address: str, workers: int, storage: Path | None = None) -> Iterator[Cluster]:
    """A Ray cluster while the block runs.

    `address` is "local" for one of our own on this machine, with room for at least one run of
    `workers` and nothing listening for browsers beyond localhost; else what `ray.init` takes
    ("auto", "ray://host:10001"), and there every node must see `storage`, if it is given. Token
    authentication is on, unless RAY_AUTH_MODE says otherwise. Raises `UserError`.
    """
    import ray

    local = address == "local"
    ours = _ours(workers) if local else {}
    try:
        _init(address, ours)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        lines = str(error).splitlines()
        reason = " ".join(line for line in lines if line[:1].strip() and not line.startswith("Traceback"))[:300]
        raise UserError(
            f"--address {address}: no Ray cluster there, or it takes another token "
            f"(a cluster without tokens needs RAY_AUTH_MODE=disabled): {reason}"
        ) from None
    if local and _TOKEN.exists():
        _TOKEN.chmod(0o600)
    try:
        if storage is not None and not local:
            from quench.distributed.doctor import require_shared

            require_shared(storage)
        resources = ray.cluster_resources()
        yield Cluster(local, *(int(resources.get(name, 0)) for name in ("CPU", "GPU", "driver")))
    finally:
        ray.shutdown()


def _init(address: str, settings: dict[str, Any]) -> None:
    """`ray.init`, again if the head could not start the process that is to stand for us there.

    It forks for that, and where its gRPC handles forks, now and then the child ends in gRPC's own code.
    """
    import ray

    for attempts_left in (2, 1, 0):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
            return
        except ConnectionError as error:
            if "Initialization failure from server" not in str(error) or not attempts_left:
                raise
            time.sleep(1)


def _ours(workers: int) -> dict[str, Any]:
    """How a cluster of our own is started. Ending a trial that spans workers needs the State API of its dashboard.

    Ray would look for that in whatever cluster was the last to be started on this machine, so everybody is told.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{host}:{port}"
    return {
        # Ray counts the CPUs that this process may use; more workers than that share them.
        "num_cpus": workers if workers > (os.cpu_count() or 1) else None,
        "include_dashboard": True,
        "dashboard_host": host,
        "dashboard_port": port,
    }
