"""How long `quench report` takes, part by part, on a large sweep.

    python experiments/benchmarks/report.py [--trials 1000] [--epochs 100] [--repeats 3] [--keep FOLDER]

Sweep:    made up, nothing is trained: random draws of five keys in two threat models, with curves that rise, noise, and
          a tenth of the runs collapsing, those of large steps; recorded on disk in the real format, one log a run.
Times:    seconds of each part of the report, and of all of it as `quench report` does it; medians of the repeats.
Memory:   the process's largest resident set, after all repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from math import exp
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.figure import Figure

from quench import Choice, LogUniform, Recipe, Sweep, ThreatModel, Uniform
from quench.analysis.anytime import anytime_figure, anytime_frame
from quench.analysis.heat import heat_frame, heat_map
from quench.analysis.importance import importance_figure, importance_frame
from quench.analysis.page import page
from quench.analysis.parallel import parallel_coordinates
from quench.analysis.report import write_report
from quench.analysis.runs import Frames
from quench.analysis.sections import sections
from quench.analysis.trade_off import clean_vs_robust, time_vs_robustness
from quench.datasets.digits import Digits
from quench.evaluation.intervals import wilson
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep.trials import trials
from quench.training.budgets.epochs import Epochs
from quench.trial import machine

TEST = 10_000
"""images"""
HEAT = ("threat.epsilon", "method.step_ratio")


FIGURES: dict[str, Callable[[Frames], Figure]] = {
    "time_vs_robustness": lambda frames: time_vs_robustness(frames.runs, frames.epochs, frames.events),
    "clean_vs_robust": lambda frames: clean_vs_robust(frames.runs),
    "anytime": lambda frames: anytime_figure(anytime_frame(frames.runs, frames.epochs), frames.runs),
    "parallel_coordinates": lambda frames: parallel_coordinates(frames.runs, frames.keys),
    "heat_map": lambda frames: heat_map(heat_frame(frames.runs, *HEAT), *HEAT),
    "importance": lambda frames: importance_figure(importance_frame(frames.runs, frames.keys), frames.runs),
}


def made_up(folder: Path, count: int, epochs: int) -> SweepRecord:
    """So many records of runs that never were."""
    recipe = Recipe(data=Digits(), model=SmallCNN(), threat=ThreatModel(norm=Linf(), epsilon=8 / 255), method=NFGSM())
    space = {
        "budget": Epochs(epochs),
        "threat.epsilon": Choice("4/255", "8/255"),
        "method.step_ratio": Choice(0.5, 0.75, 1.0, 1.25, 1.5),
        "method.noise_ratio": Uniform(0.0, 3.0),
        "optimizer.lr": LogUniform(0.01, 1.0),
        "optimizer.weight_decay": LogUniform(1e-5, 1e-2),
        "label_smoothing": Uniform(0.0, 0.3),
        "seed": Choice(0, 1, 2),
    }
    chosen = trials(recipe, Sweep(space=space, search="random", trials=count))
    made = SweepRecord.create(folder, "made_up", chosen, {"file": __file__})
    for number, record in enumerate(made.records):
        _tell(record, number, epochs)
    return made


def _tell(record: Record, number: int, epochs: int) -> None:
    """A log as a run would have written it, in one stroke: each entry waits for the disk otherwise."""
    rng, recipe = random.Random(number), record.recipe
    clock, at = 0.0, record.about["created"] + 1000 * number
    best = 0.9 - 12 * recipe.threat.epsilon - 0.3 * abs(recipe.optimizer.lr - 0.2) - 0.3 * recipe.label_smoothing
    falls = rng.randrange(epochs // 2, epochs) if rng.random() < 0.25 * (recipe.method.step_ratio > 1) else epochs + 1
    lines = [{"kind": "status", "time": at, "status": "running", "epoch": 0, "machine": machine(torch.device("cpu"))}]
    robust = 0.0
    for epoch in range(1, epochs + 1):
        clock += rng.uniform(0.9, 1.1)
        robust = 0.02 if epoch > falls else max(0.0, best * (1 - exp(-6 * epoch / epochs)) + rng.gauss(0, 0.01))
        accuracies = {"clean_accuracy": 0.9, "fgsm_accuracy": 0.6, "robust_accuracy": robust, "train_accuracy": 0.5}
        clocks = {"epoch": epoch, "updates": 100 * epoch, "train_seconds": clock, "gpu_seconds": clock, "workers": 1}
        signals = {"linearity": 0.9, "alignment": 0.5, "abnormal": 0.1, "learning_rate": 0.1, "train_loss": 1.5}
        metrics = clocks | signals | accuracies | {"alarms": 0, "rollbacks": 0}
        lines.append(
            {"kind": "epoch", "time": at + int(1000 * clock), "epoch": epoch, "metrics": metrics, "events": []}
        )
    clean = int(TEST * (0.95 - 0.1 * recipe.label_smoothing - 0.02 * rng.random()))
    shares = {"clean": wilson(clean, TEST)._asdict(), "robust": wilson(int(robust * TEST), TEST)._asdict()}
    judged = {"label": "pgd-50-10", "checkpoint": "last", "epoch": epochs, "final": True, "examples": TEST}
    lines.append({"kind": "evaluation", "time": at + int(1000 * clock), **judged, **shares})
    status = "catastrophic_overfitting" if falls <= epochs else "finished"
    lines.append({"kind": "status", "time": at + int(1000 * clock), "status": status, "reason": ""})
    (record.directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure(made: SweepRecord, repeats: int) -> dict[str, list[float]]:
    """Part -> its seconds, of each repeat."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[part].append(time.perf_counter() - started)

    for _ in range(repeats):
        with timed("logs to frames"):
            frames = Frames.of(made.records)
        for name, draw in FIGURES.items():
            with timed(f"{name}, drawn"):
                figure = draw(frames)
            for kind in ("png", "svg"):
                with timed(f"{name}, as {kind}"):
                    figure.savefig(made.directory / f"figure.{kind}", dpi=150)
        with timed("quench report, all of it"):
            _, files = write_report(made)
        views = sections(frames, is_scaling=False)
        with timed("its page, put together"):
            page(made, frames, views, files[0].parent)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a new folder for the sweep, to look at")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        made = made_up(arguments.keep or Path(folder) / "made_up", arguments.trials, arguments.epochs)
        seconds = measure(made, arguments.repeats)
        megabytes = (made.directory / "report" / "report.html").stat().st_size / 1e6
    for part, of in seconds.items():
        print(f"{part:40} {statistics.median(of):6.2f} s ({min(of):.2f} - {max(of):.2f})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"report.html: {megabytes:.1f} MB; peak memory: {peak:,.0f} MB")
    versions = ", ".join(f"{name} {version(name)}" for name in ("quench", "pandas", "matplotlib", "scikit-learn"))
    print(f"{arguments.trials} trials of {arguments.epochs} epochs, medians of {arguments.repeats} (least - most)")
    print(f"{machine(torch.device('cpu'))['device']}, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    main()
