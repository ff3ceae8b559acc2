"""Recorded runs and sweeps in sizes, for `growth.py`; what is not itself measured is made before, by the same call."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from os import devnull
from pathlib import Path

from growth_training import CPU, Part, Work
from rich.console import Console
from sweep_scale import TRIVIAL

from quench import Choice, LogUniform, Recipe, Sweep, Uniform, trial
from quench.campaign import Campaign, begin
from quench.checkpoint import Writer
from quench.console import LiveTable
from quench.experiment import Experiment
from quench.follow import Follower
from quench.projection import tracker_of
from quench.record import Record
from quench.storage import SweepRecord, everything, find_run
from quench.sweep import Confirm
from quench.sweep.proposals import Proposals
from quench.sweep.search import Outcome
from quench.sweep.trials import Trial
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.state import TrainState

REPORTS = 20
"""epochs of each trial that is made up"""


def run(epochs: int, folder: Path) -> Work:
    """A recorded run of tiny epochs, with log and checkpoints."""
    recipe = replace(TRIVIAL, budget=Epochs(epochs))
    return lambda: list(trial.run(record_in(folder, recipe), CPU, ahead=True))


def record_in(folder: Path, recipe: Recipe) -> Record:
    place = next(folder / str(n) for n in count() if not (folder / str(n)).exists())
    return Record.create(place, recipe, experiment="growth", configuration="n_fgsm")


def told(epochs: int, folder: Path) -> Callable[[], Record]:
    """Only what is written of a run, without training: what `trial.run` writes after every epoch."""
    recipe = replace(TRIVIAL, budget=Epochs(epochs))
    data = recipe.data.load(recipe.validation)
    state = TrainState.initial(recipe, data.spec(), CPU)
    first = next(fit(state, recipe, data))

    def work() -> Record:
        record = record_in(folder, recipe).begin(epoch=0)
        with Writer(record.hold) as writer:
            for number in range(1, epochs + 1):
                news = record.news(replace(first, epoch=number), {})
                assert news is not None
                best = [record.path("best")] * record.best(news)
                content = record.snapshot(state.state_dict() | {"epoch": number}, news)
                writer(content, [record.path("last"), *best], partial(record.append, **news))
        return record

    return work


def resumed(epochs: int, folder: Path) -> Work:
    """What a run that goes on does with its record before it trains."""
    place = told(epochs, folder)().directory

    def work() -> None:
        record = Record(place)
        saved = record.checkpoints()
        record.begin(epoch=epochs).mend(saved)

    return work


def mirrored(epochs: int, folder: Path) -> Work:
    """A run's log on to MLflow (SQLite), an epoch at a time."""
    record, places = told(epochs, folder)(), count()
    entries, _ = record.read()

    def work() -> None:
        tracker = tracker_of(storage(folder / f"mlflow-{next(places)}"), "growth")()
        for entry in entries:
            tracker(record, [entry])

    return work


def storage(folder: Path) -> Namespace:
    folder.mkdir()
    return Namespace(storage=folder, tracking_uri=f"sqlite:///{folder}/mlflow.db")


def grid(trials: int, folder: Path) -> SweepRecord:
    """A sweep with a record for each trial, none of them run yet."""
    sweep = Sweep(space={"seed": Choice(*range(trials))})
    return begin(folder, Experiment("growth", Path("growth.py"), TRIVIAL, sweep), TRIVIAL, sweep)


def handed_out(trials: int, folder: Path) -> Work:
    """A grid: its records made, and given out one after the other."""
    places = count()
    return lambda: Campaign(grid(trials, folder / f"{next(places)}")).rest(1)


def proposed(trials: int, folder: Path, search: str, scheduler: str) -> Work:
    """Trials asked for, two at a time, each given an outcome; none is run or recorded."""
    space = {"optimizer.lr": LogUniform(1e-3, 1.0), "method.noise_ratio": Uniform(0.0, 3.0)}
    if search == "grid":
        space = {"optimizer.lr": Choice(*(1 / n for n in range(1, trials + 1)))}
    sweep = Sweep(space=space, search=search, scheduler=scheduler, trials=trials, confirm=Confirm())

    def work() -> None:
        proposals, running = Proposals(TRIVIAL, sweep, {}), list[Trial]()
        while True:
            found = proposals.next()
            if isinstance(found, Trial):
                proposals.begun(found)
                running.append(found)
            if len(running) == 2 or not isinstance(found, Trial):
                if not running:
                    return
                ended = running.pop(0)
                proposals.ended(ended, Outcome(1 / (1 + ended.recipe.optimizer.lr), 0.9, 1.0))

    return work


def followed(trials: int, folder: Path) -> Work:
    """A grid as the program's table sees it: one trial after the other is begun, and tells all that it has to tell."""
    made, quiet = grid(trials, folder / "grid"), Console(file=open(devnull, "w"))  # noqa: SIM115
    metrics = {"train_seconds": 1.0, "clean_accuracy": 0.9, "robust_accuracy": 0.5}
    epochs = [{"kind": "epoch", "time": 0, "epoch": n, "metrics": metrics} for n in range(1, REPORTS + 1)]
    begun, ended = ({"kind": "status", "time": 0, "status": status} for status in ("running", "finished"))
    log = "".join(json.dumps(entry) + "\n" for entry in (begun, *epochs, ended))

    def work() -> None:
        campaign = Campaign(made)
        follower = Follower(campaign.told, LiveTable(made.records, quiet))
        for record in iter(lambda: campaign.next(1), None):
            assert isinstance(record, Record)
            record.log.write_text(log)
            follower.pump()
        for record in made.records:
            record.log.unlink()

    return work


def made_up(trials: int, folder: Path) -> SweepRecord:
    """A sweep of finished runs that never were."""
    from report import made_up

    return made_up(folder / "sweep", trials, REPORTS)


def looked_at(trials: int, folder: Path) -> Work:
    """Where things are and how they stand, as `quench sync` and `quench resume` ask."""
    made_up(trials, folder)

    def work() -> None:
        for one in everything(folder):
            assert isinstance(one, SweepRecord)
            _ = one.status, one.last_word
        find_run(folder, "latest")

    return work


def reported(trials: int, folder: Path) -> Work:
    """`quench report`."""
    from quench.analysis.report import write_report

    return partial(write_report, made_up(trials, folder))


def synced(trials: int, folder: Path) -> Work:
    """A whole sweep on to a new MLflow (SQLite), without its report."""
    made, places = made_up(trials, folder), count()

    def work() -> None:
        tracker = tracker_of(storage(folder / f"mlflow-{next(places)}"), "growth", made)()
        follower = Follower(made.records, tracker)
        follower.pump()
        assert not follower.failures, follower.failures
        tracker.end_sweep(made, None, [])

    return work


PARTS = (
    Part("epochs", "a recorded run", 4, run),
    Part("epochs", "its record alone", 16, told),
    Part("epochs", "going on with it", 8, resumed),
    Part("epochs", "on to MLflow", 4, mirrored),
    Part("trials", "a grid begun and given out", 4, handed_out),
    Part("trials", "proposed: grid", 16, partial(proposed, search="grid", scheduler="fifo")),
    Part("trials", "proposed: random, halving", 16, partial(proposed, search="random", scheduler="halving")),
    Part("trials", "proposed: TPE", 4, partial(proposed, search="tpe", scheduler="fifo")),
    Part("trials", "followed", 16, followed),
    Part("trials", "looked at", 8, looked_at),
    Part("trials", "the report", 8, reported),
    Part("trials", "on to MLflow", 2, synced),
)
