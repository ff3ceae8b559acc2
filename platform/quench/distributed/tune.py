"""Many runs: Ray Tune decides which runs when and which is stopped; each run records itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from quench import trial
from quench.campaign import Campaign
from quench.distributed.cluster import Cluster
from quench.distributed.population import population, record_of
from quench.distributed.train import RESTARTS, reports, train_data_parallel
from quench.record import Record
from quench.training.budgets import Budget
from quench.training.recipe import Recipe

METRIC = "selection_accuracy"
MOST_PENDING = 200
"""trials that are known from the start and wait for a place: enough for a cluster to see how far it should grow"""
QUIET = 1.0
"""seconds for which Tune is told nothing where it decides nothing: training waits until it has answered a report"""


def sweep(campaign: Campaign, ray: Cluster, state: Path, timeout: float = 600.0) -> None:
    """Carry out the campaign on the cluster; unless interrupted, each of its runs then says how it ended.

    Runs of one worker go first, in actors that are used again; then those of more, as many at a time as there is room
    for. A trial that dies goes on from its last checkpoint, until `RESTARTS` in a row have brought no other. `state`
    is a folder for what Tune itself keeps, which nobody reads; `timeout` is that of `train_data_parallel`.
    """
    for workers in campaign.workers:
        _tuner(campaign, ray, state, workers, timeout).fit()


def _tuner(campaign: Campaign, ray: Cluster, state: Path, workers: int, timeout: float) -> tune.Tuner:
    """One Tune experiment: runs that need equal resources.

    Tune queues trials of one worker until there is room, now or when the cluster has grown. A driver
    of several workers asks Tune for no CPU, and Ray Train asks for the workers: with more drivers
    than fit, none might get all of its own. Where images are streamed a CPU stays free to decode
    them: with none, everybody would wait.
    """
    plan, gpu = campaign.plan, ray.gives_gpus(workers)
    spare = not gpu and campaign.streams
    if spare:
        ray.must_spare_a_cpu(workers)
    room = ray.room(workers, spare, plan.gpus)
    most = plan.concurrent or (None if workers == 1 and not spare else room)
    # What depends on results is not asked for before there is room for it.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most or room if plan.adaptive else MOST_PENDING)
    members = [str(record.directory) for record in campaign.rest(workers)] if plan.population else []
    one: dict[str, float] = {"GPU": plan.gpus} if gpu else {"CPU": 1}
    return tune.Tuner(
        tune.with_resources(_trial, one if workers == 1 else ray.driver),
        param_space={
            "gpu": gpu,
            "timeout": timeout,
            "ahead": plan.scheduler in ("fifo", "halving"),  # who may be stopped at an epoch must have that on disk
            "population": plan.population,
            **({"record": tune.grid_search(members)} if members else {}),
        },
        tune_config=tune.TuneConfig(
            # No metric: a trial that diverges at once, or had only to be judged, ends without any.
            search_alg=None if members else _Next(campaign, workers),
            num_samples=1 if members else -1,
            scheduler=_scheduler(campaign),
            max_concurrent_trials=min(most or room, room) if spare else most,
            reuse_actors=workers == 1,
            trial_dirname_creator=_folder,
        ),
        run_config=tune.RunConfig(
            name=f"{len(list(state.glob('*')))}-workers-{workers}",  # Tune must not go on from a state of its own
            storage_path=str(state),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            stop=_Deadline(campaign),
            callbacks=[_Outcome(campaign)],
            verbose=0,
        ),
    )


def _scheduler(campaign: Campaign) -> TrialScheduler:
    if campaign.plan.population:
        return population(campaign, METRIC)
    return _Asha(campaign) if campaign.plan.scheduler in ("asha", "hyperband") else FIFOScheduler()


def _trial(config: dict[str, Any]) -> None:
    """In a trial's actor."""
    record = Record(Path(config["record"]))
    if record.recipe.workers > 1:
        train_data_parallel(record, config["gpu"], config["timeout"], config["ahead"], [TuneReportCallback()])
        return
    told = -QUIET
    for report in reports(record, trial.best_device(), config["ahead"]):
        if config["ahead"] and time.monotonic() < told + QUIET:
            continue
        told = time.monotonic()
        if config["population"]:  # Tune wants a checkpoint to hand on; what is handed on are the records'
            with TemporaryDirectory() as nothing:
                tune.report(report.metrics(), checkpoint=tune.Checkpoint.from_directory(nothing))
        else:
            tune.report(report.metrics())


def _folder(tried: Trial) -> str:
    return f"{record_of(tried).directory.name}-{tried.trial_id}"


class _Next(Searcher):
    """Tune asks the campaign what to run."""

    def __init__(self, campaign: Campaign, workers: int) -> None:
        super().__init__()
        self._campaign, self._workers = campaign, workers

    def suggest(self, trial_id: str) -> Any:
        """A trial's config; None if there is none for now, `FINISHED` after the last."""
        found = self._campaign.next(self._workers)
        if isinstance(found, Record):
            return {"record": str(found.directory)}
        return None if found == "wait" else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The campaign hears of it when the record says how the run ended: see `_Outcome`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The records are all there is to save."""


class _Outcome(tune.Callback):
    """Writes down how a trial ended that could not do so itself: stopped by the scheduler or the clock, or dead."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = record_of(trial)
        if self._campaign.over:
            record.settle("interrupted", "the time budget is spent")
        record.settle("stopped", "by the scheduler")
        self._campaign.ended(record)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        lines = str(trial.get_error()).strip().splitlines()
        record_of(trial).settle("failed", lines[-1] if lines else "its process died; see the Ray logs")
        self._campaign.ended(record_of(trial), died=True)


class _Deadline(tune.Stopper):
    """Ends the experiment when the campaign's time is up."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._campaign.over


class _Asha(FIFOScheduler):
    """Successive halving (arXiv 1810.05934) among trials of one threat model only, or several brackets of it.

    Robust accuracies under different threat models do not compare: one race for all would stop
    every trial of the stronger adversary. What trials did before this process is told to the races first.
    """

    def __init__(self, campaign: Campaign) -> None:
        super().__init__()
        self._plan = campaign.plan
        self._races: dict[tuple[str, Budget], ASHAScheduler] = {}
        for record in campaign.made.records:
            past = cast("Trial", SimpleNamespace(trial_id=str(record.directory)))
            race = self._race(record.recipe)
            race.on_trial_add(cast("Any", None), past)
            for entry in record.entries("epoch"):
                race.on_trial_result(cast("Any", None), past, entry["metrics"])

    def _race(self, recipe: Recipe) -> ASHAScheduler:
        """The race of the recipe's threat model and budget."""
        key = str(recipe.threat), recipe.budget
        if key not in self._races:
            self._races[key] = ASHAScheduler(
                time_attr=recipe.budget.measure,
                metric=METRIC,
                mode="max",
                max_t=recipe.budget.amount,  # pyright: ignore[reportArgumentType] - any number will do
                grace_period=recipe.budget.amount * self._plan.grace,  # pyright: ignore[reportArgumentType]
                reduction_factor=self._plan.reduction,
                brackets=min(len(self._plan.shares) - 1, 3) if self._plan.scheduler == "hyperband" else 1,
            )
        return self._races[key]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._race(record_of(trial).recipe).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        recipe = record_of(trial).recipe
        decision = self._race(recipe).on_trial_result(tune_controller, trial, result)
        # At its last epoch a trial is not stopped: it ends by itself, evaluation included.
        budget = recipe.budget
        return TrialScheduler.CONTINUE if result.get(budget.measure, 0) >= budget.amount else decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._race(record_of(trial).recipe).on_trial_complete(tune_controller, trial, result)
