"""One run on several workers: Ray Train starts them, and starts them again if one dies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback

from quench import trial
from quench.distributed.stream import decoded_by_ray
from quench.errors import NotWritten, Superseded, UserError
from quench.ranks import Ranks
from quench.record import Record
from quench.training.loop import EpochReport

SECONDS_BETWEEN_SIZES = 60.0
"""how often an elastic run looks whether it could have more workers"""
RESTARTS = 2
"""of the workers, without a checkpoint in between, before the run is given up"""


def train_data_parallel(
    record: Record, gpu: bool, timeout: float, ahead: bool = True, callbacks: Sequence[UserCallback] = ()
) -> None:
    """Carry out `record` on as many workers as its recipe says; waits until the cluster has them.

    The record's folder must be visible to all workers. When one dies, or for `timeout` seconds neither answers
    nor comes to where the others wait for it, all of them are started anew and go on from the last checkpoint.
    Raises what went wrong once `RESTARTS` in a row have brought no checkpoint. `ahead` as in `trial.run`.
    """
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(timeout)
    while True:
        before = record.progress
        try:
            _trainer(record, gpu, timeout, ahead, callbacks).fit()
            return
        except Exception:  # after the restarts that are Ray Train's
            if record.progress == before:
                raise


def _trainer(record: Record, gpu: bool, timeout: float, ahead: bool, callbacks: Sequence[UserCallback]) -> TorchTrainer:
    most, fewest = record.recipe.workers, record.recipe.min_workers
    return TorchTrainer(
        _worker,
        train_loop_config={"record": str(record.directory), "ahead": ahead},
        torch_config=TorchConfig(timeout_s=timeout),  # pyright: ignore[reportArgumentType] - of a timedelta
        scaling_config=ray.train.ScalingConfig(
            num_workers=(fewest, most) if fewest else most,
            use_gpu=gpu,
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_SIZES,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{len(record.entries('status'))}",  # Ray must not go on from a state of its own
            storage_path=str(record.directory / "ray"),
            callbacks=list(callbacks),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _worker(config: dict[str, Any]) -> None:
    """On each worker, inside the process group that Ray Train has made."""
    for report in reports(Record(Path(config["record"])), get_device(), config["ahead"]):
        ray.train.report(report.metrics())


def reports(record: Record, device: torch.device, ahead: bool) -> Iterator[EpochReport]:
    """`trial.run` with Ray's help. It ends without an error where to be tried again would mend nothing."""
    try:
        yield from trial.run(record, device, ahead, decoded_by_ray)
    except Superseded:  # tried again, it would take the run back
        pass
    except UserError as error:  # such as a file that is no image: the record says so
        if Ranks.current().size > 1 or isinstance(error, NotWritten):  # the others wait for this one; it could not
            raise
