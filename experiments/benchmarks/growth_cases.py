"""What `growth.py` measures: work in sizes. Whatever is not itself measured is made before, by the same call."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from os import devnull
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from sweep_scale import TRIVIAL

from quench import Choice, LogUniform, Recipe, Sweep, ThreatModel, Uniform, trial
from quench.attacks import Attack
from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD
from quench.campaign import Campaign, begin
from quench.checkpoint import Writer
from quench.console import LiveTable
from quench.datasets import Dataset, Split
from quench.evaluation import Examination, evaluate
from quench.experiment import Experiment
from quench.follow import Follower
from quench.geometry import Geometry
from quench.geometry.l1 import L1
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
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

CPU = torch.device("cpu")
HELD_OUT, TEST, REPORTS = 128, 64, 20
Work = Callable[[], object]


class Part(NamedTuple):
    """Work of sizes `first` x 1, 4, 16, 64."""

    grows: str
    name: str
    first: int
    prepare: Callable[[int, Path], Work]
    """(size, an empty folder) -> the work"""


@dataclass(frozen=True, kw_only=True)
class Noise(Dataset):
    """Random images, of which a network can learn nothing: they cost what any others would."""

    images: int = 1024
    side: int = 8
    classes: int = 10

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        train, test = (self._split(n) for n in (self.images + HELD_OUT, TEST))
        return train, test, tuple(map(str, range(self.classes)))

    def _split(self, images: int) -> Split:
        rng = torch.Generator().manual_seed(images)
        pixels = torch.randint(256, (images, 3, self.side, self.side), dtype=torch.uint8, generator=rng)
        return Split(pixels, torch.randint(self.classes, (images,), generator=rng))


@dataclass(frozen=True, kw_only=True)
class Made(Dataset):
    """Splits that are there already."""

    parts: tuple[Split, Split, tuple[str, ...]]

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        return self.parts


def recipe_of(data: Dataset, norm: Geometry | None = None, epsilon: float = 8 / 255) -> Recipe:
    return Recipe(
        data=data,
        model=SmallCNN(),
        threat=ThreatModel(norm=norm or Linf(), epsilon=epsilon),
        method=NFGSM(),
        budget=Epochs(1),
        validation=HELD_OUT,
        probe=PGD(steps=1),
    )


def epoch(data: Dataset) -> Work:
    """An epoch of N-FGSM, and its look at the held-out images."""
    recipe = recipe_of(data)
    loaded = data.load(HELD_OUT)
    return lambda: list(fit(TrainState.initial(recipe, loaded.spec(), CPU), recipe, loaded))


def loaded(data: Dataset) -> Work:
    """Hold images out, take channel statistics, and digests."""
    made = Made(parts=data.splits())

    def work() -> None:
        found = made.load(HELD_OUT)
        found.spec()
        found.about()

    return work


def judged(data: Dataset, attack: Attack, images: int, norm: Geometry | None = None) -> Work:
    """An attack that cannot succeed, on images of which the network is right: nothing is left out."""
    recipe, found = recipe_of(data, norm, epsilon=1e-7), data.load(HELD_OUT)
    model = TrainState.initial(recipe, found.spec(), CPU).judged.eval()
    pixels = found.train.take(torch.arange(images))
    with torch.no_grad():
        right = model(pixels.batch(torch.arange(images)).x).argmax(1)
    asked = Examination(attacks={"attack": attack}, threat=recipe.threat, seed=0, batch_size=128)
    return lambda: evaluate(model, Split(pixels.images, right), asked)


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


def sides(pixels: int) -> int:
    return round(pixels**0.5)


LIGHT = AutoAttack(steps=2, queries=20)
PARTS = (
    Part("images", "an epoch", 256, lambda n, _: epoch(Noise(images=n))),
    Part("images", "loading, statistics and digests, 32x32", 1000, lambda n, _: loaded(Noise(images=n, side=32))),
    Part("images", "judging, PGD-10", 64, lambda n, _: judged(Noise(images=n), PGD(steps=10), n)),
    Part("classes", "an epoch", 10, lambda n, _: epoch(Noise(classes=n))),
    Part("classes", "judging, AutoAttack", 10, lambda n, _: judged(Noise(classes=n), LIGHT, 64)),
    Part("pixels", "an epoch", 64, lambda n, _: epoch(Noise(side=sides(n), images=256))),
    Part("pixels", "judging, AutoAttack", 64, lambda n, _: judged(Noise(side=sides(n)), LIGHT, 16)),
    Part("pixels", "judging, AutoAttack in l1", 64, lambda n, _: judged(Noise(side=sides(n)), LIGHT, 16, L1())),
    Part("epochs", "a recorded run", 4, run),
    Part("epochs", "its record alone", 16, told),
    Part("epochs", "going on with it", 16, resumed),
    Part("epochs", "on to MLflow", 4, mirrored),
    Part("trials", "a grid begun and given out", 4, handed_out),
    Part("trials", "proposed: grid", 16, partial(proposed, search="grid", scheduler="fifo")),
    Part("trials", "proposed: random, halving", 16, partial(proposed, search="random", scheduler="halving")),
    Part("trials", "proposed: TPE", 4, partial(proposed, search="tpe", scheduler="fifo")),
    Part("trials", "followed", 16, followed),
    Part("trials", "looked at", 16, looked_at),
    Part("trials", "the report", 16, reported),
    Part("trials", "on to MLflow", 4, synced),
)
