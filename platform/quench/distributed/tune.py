"""Many runs: Ray Tune decides which runs when and which is stopped; each run records itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from quench import trial
from quench.distributed.cluster import Cluster
from quench.distributed.train import RESTARTS, reports, train_data_parallel
from quench.record import Record
from quench.training.budgets import Budget

METRIC = "robust_accuracy"


def sweep(
    records: Sequence[Record],
    ray: Cluster,
    state: Path,
    scheduler: Literal["fifo", "asha"] = "fifo",
    concurrent: int | None = None,
    timeout: float = 600.0,
) -> None:
    """Carry out every record on the cluster; unless interrupted, each then says how it ended.

    Records of one worker run first, in actors that are used again; then those of more, as many at
    a time as there is room for. A trial that dies goes on from its last checkpoint, until `RESTARTS`
    in a row have brought no other. `state` is a folder for what Tune itself keeps; `timeout` is that of
    `train_data_parallel`.
    """

    def workers(record: Record) -> int:
        return record.recipe.workers

    for count, group in groupby(sorted(records, key=workers), key=workers):
        todo = list(group)
        while todo:
            before, outcome = {record: record.progress for record in todo}, _Outcome()
            _tuner(todo, ray, state, scheduler, concurrent, count, timeout, outcome).fit()
            # The first restarts are Tune's; who has got on with them is given as many again.
            todo = [record for record in outcome.died if record.progress > before[record]]


def _tuner(
    records: list[Record],
    ray: Cluster,
    state: Path,
    scheduler: str,
    concurrent: int | None,
    workers: int,
    timeout: float,
    outcome: _Outcome,
) -> tune.Tuner:
    """One Tune experiment: records that need equal resources.

    Tune queues trials of one worker until there is room, now or when the cluster has grown. A driver
    of several workers asks Tune for no CPU, and Ray Train asks for the workers: with more drivers
    than fit, none might get all of its own. Where images are streamed a CPU stays free to decode
    them: with none, everybody would wait.
    """
    gpu = ray.gives_gpus(workers)
    config = {
        "record": tune.grid_search([str(record.directory) for record in records]),
        "gpu": gpu,
        "timeout": timeout,
        "ahead": scheduler == "fifo",  # who may be stopped at an epoch must have that on disk
    }
    spare = not gpu and any(record.recipe.data.streams for record in records)
    if spare:
        ray.must_spare_a_cpu(workers)
    room = ray.room(workers, spare)
    most = concurrent or (None if workers == 1 and not spare else room)
    one: dict[str, float] = {"GPU": 1} if gpu else {"CPU": 1}
    return tune.Tuner(
        tune.with_resources(_trial, one if workers == 1 else ray.driver),
        param_space=config,
        tune_config=tune.TuneConfig(
            # No metric: a trial that diverges at once, or had only to be judged, ends without any.
            scheduler=_AshaPerThreat() if scheduler == "asha" else FIFOScheduler(),
            max_concurrent_trials=min(most or room, room) if spare else most,
            reuse_actors=workers == 1,
            trial_dirname_creator=_folder,
        ),
        run_config=tune.RunConfig(
            name=f"{len(list(state.glob('*')))}-workers-{workers}",  # Tune must not go on from a state of its own
            storage_path=str(state),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[outcome],
            verbose=0,
        ),
    )


def _trial(config: dict[str, Any]) -> None:
    """In a trial's actor."""
    record = Record(Path(config["record"]))
    if record.recipe.workers > 1:
        train_data_parallel(record, config["gpu"], config["timeout"], config["ahead"], [TuneReportCallback()])
        return
    for report in reports(record, trial.best_device(), config["ahead"]):
        tune.report(report.metrics())


def _folder(tried: Trial) -> str:
    return f"{_record(tried).directory.name}-{tried.trial_id}"


def _record(tried: Trial) -> Record:
    return Record(Path(tried.config["record"]))


class _Outcome(tune.Callback):
    """Writes down how a trial ended that could not do so itself: stopped by the scheduler, or dead."""

    def __init__(self) -> None:
        self.died: list[Record] = []

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        _record(trial).settle("stopped", "by the scheduler")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        lines = str(trial.get_error()).strip().splitlines()
        self.died.append(_record(trial))
        _record(trial).settle("failed", lines[-1] if lines else "its process died; see the Ray logs")


class _AshaPerThreat(FIFOScheduler):
    """Successive halving (arXiv 1810.05934) among trials of one threat model only.

    Robust accuracies under different threat models do not compare: one race for all would stop
    every trial of the stronger adversary.
    """

    def __init__(self) -> None:
        super().__init__()
        self._races: dict[tuple[str, Budget], ASHAScheduler] = {}

    def _race(self, trial: Trial) -> ASHAScheduler:
        """The race of the trial's threat model and budget."""
        recipe = _record(trial).recipe
        key = str(recipe.threat), recipe.budget
        if key not in self._races:
            self._races[key] = ASHAScheduler(
                time_attr=recipe.budget.measure,
                metric=METRIC,
                mode="max",
                max_t=recipe.budget.amount,  # pyright: ignore[reportArgumentType] - any number will do
                grace_period=max(recipe.budget.amount / 8, 1),  # pyright: ignore[reportArgumentType]
                reduction_factor=2,
            )
        return self._races[key]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._race(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = self._race(trial).on_trial_result(tune_controller, trial, result)
        # At its last epoch a trial is not stopped: it ends by itself, evaluation included.
        budget = _record(trial).recipe.budget
        return TrialScheduler.CONTINUE if result.get(budget.measure, 0) >= budget.amount else decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._race(trial).on_trial_complete(tune_controller, trial, result)
