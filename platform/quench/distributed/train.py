"""One run on several workers: Ray Train starts them, and starts them again if one dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.callback import UserCallback

from quench import trial
from quench.distributed.stream import decoded_by_ray
from quench.errors import UserError
from quench.ranks import Ranks
from quench.record import Record
from quench.training.loop import EpochReport


def train_data_parallel(record: Record, gpu: bool, callbacks: Sequence[UserCallback] = ()) -> None:
    """Carry out `record` on as many workers as its recipe says; the cluster must have them.

    The record's folder must be visible to all workers. After a worker's death all of them go on
    from the record's last checkpoint.
    """
    TorchTrainer(
        _worker,
        train_loop_config={"record": str(record.directory)},
        scaling_config=ray.train.ScalingConfig(num_workers=record.recipe.workers, use_gpu=gpu),
        run_config=ray.train.RunConfig(
            name=f"attempt-{len(record.entries('status'))}",  # Ray must not go on from a state of its own
            storage_path=str(record.directory / "ray"),
            callbacks=list(callbacks),
            failure_config=ray.train.FailureConfig(max_failures=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    ).fit()


def _worker(config: dict[str, Any]) -> None:
    """On each worker, inside the process group that Ray Train has made."""
    for report in reports(Record(Path(config["record"])), get_device()):
        ray.train.report(report.metrics())


def reports(record: Record, device: torch.device) -> Iterator[EpochReport]:
    """`trial.run` with Ray's help. A worker that is alone does not fail by what trying again would not mend, such as a
    file that is no image: the record says so."""
    try:
        yield from trial.run(record, device, decoded_by_ray)
    except UserError:
        if Ranks.current().size > 1:  # the others wait for this one
            raise
