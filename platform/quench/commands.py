"""The commands of the command line, each a function of its parsed arguments; they return the exit code."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from quench.attacks import Attack
from quench.attacks.pgd import PGD
from quench.config import override
from quench.console import LiveTable, terminal, trade_off_table
from quench.errors import UserError, require
from quench.experiment import Experiment
from quench.follow import Follower, following
from quench.record import Record
from quench.storage import SweepRecord, find_run, find_sweep, new_directory
from quench.sweep import configuration, trials
from quench.threat_model import ThreatModel
from quench.training.recipe import Recipe

if TYPE_CHECKING:
    from quench.tracking import Tracker

Changes = dict[str, Any]


def train(arguments: Namespace, changes: Changes) -> int:
    """One run: in this process, or under Ray Train if its recipe asks for several workers."""
    if arguments.workers is not None:
        changes["workers"] = arguments.workers
    experiment = Experiment.load(arguments.experiment)
    recipe = override(experiment.recipe, changes)
    _check([recipe])
    directory = new_directory(arguments.storage, experiment.name)
    record = Record.create(directory, recipe, experiment=experiment.name, configuration=configuration(recipe))
    console = terminal()
    table = LiveTable([record], console)
    tracker = _tracker(arguments, experiment.name)
    with table.shown(), following([record], [table, lambda r, e: tracker()(r, e)]) as follower:
        if recipe.workers == 1:
            from quench import trial

            for _ in trial.run(record, trial.best_device()):
                pass
        else:
            from quench.distributed import cluster
            from quench.distributed.train import train_data_parallel

            with cluster.connected(arguments.address, recipe.workers):
                train_data_parallel(record, cluster.gpus() > 0)
    for entry in record.entries("evaluation"):
        _print_evaluation(console, record, entry)
    _print_places(console, arguments, follower, directory)
    return 0 if record.status == "finished" else 1


def sweep(arguments: Namespace, changes: Changes) -> int:
    """Many runs under Ray Tune, then what they come to."""
    experiment = Experiment.load(arguments.experiment)
    if experiment.sweep is None:
        raise UserError(f"{experiment.path}: defines no SWEEP = Sweep(...); `quench train` runs its RECIPE")
    for key, swept in product(changes, experiment.sweep.keys):
        clear = not f"{key}.".startswith(f"{swept}.") and not f"{swept}.".startswith(f"{key}.")
        require(clear, key, changes[key], f"varied by the SWEEP in {experiment.path} ({swept}); change it there")
    asked = {key: getattr(arguments, key) for key in ("trials", "scheduler", "concurrent")}
    plan = replace(experiment.sweep, **{key: value for key, value in asked.items() if value is not None})
    chosen = trials(override(experiment.recipe, changes), plan)
    _check([trial.recipe for trial in chosen])
    made = SweepRecord.create(
        new_directory(arguments.storage, experiment.name),
        experiment.name,
        chosen,
        {"file": str(experiment.path), "search": plan.search, "scheduler": plan.scheduler, "space": repr(plan.space)},
    )
    console = terminal()
    table = LiveTable(made.records, console)
    tracker = _tracker(arguments, experiment.name, made)
    with table.shown(), following(made.records, [table, lambda r, e: tracker()(r, e)]) as follower:
        from quench.distributed import cluster, tune

        with cluster.connected(arguments.address, max(trial.recipe.workers for trial in chosen)):
            tune.sweep(made.records, made.directory / "ray", plan.scheduler, plan.concurrent)
    files = _print_report(console, made)
    failed = [record for record in made.records if record.status == "failed"]
    if not follower.failures:
        tracker().end_sweep(made, "failed" if failed else "finished", files)
    for record in failed:
        console.print(f"failed: {record.name}: {record.entries('status')[-1].get('reason')}", markup=False)
    _print_places(console, arguments, follower, made.directory)
    return 1 if failed else 0


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What `quench evaluate` can be asked by flags."""

    attack: Attack
    threat: ThreatModel


def evaluate(arguments: Namespace, changes: Changes) -> int:
    """A stronger look at a trained run: PGD-50-10 unless asked otherwise."""
    from quench import trial

    record = find_run(arguments.storage, arguments.run)
    question = override(_Question(attack=PGD(steps=50, restarts=10), threat=record.recipe.threat), changes)
    state, data = trial.restore(record, arguments.checkpoint, trial.best_device())
    judged = trial.judge(state, record.recipe.seed, data, question.attack, question.threat)
    trial.enter_evaluation(record, judged, question.attack, state.epoch, arguments.checkpoint)
    sweep = SweepRecord(record.directory.parent) if record.about["sweep"] else None
    tracker = _tracker(arguments, record.about["experiment"], sweep)
    follower = Follower([record], [lambda r, e: tracker()(r, e)])
    follower.pump()
    console = terminal()
    _print_evaluation(console, record, record.entries("evaluation")[-1])
    _print_places(console, arguments, follower, record.directory)
    return 0


def report(arguments: Namespace, changes: Changes) -> int:
    """Tables and figures of a sweep, made again from its records."""
    console = terminal()
    made = find_sweep(arguments.storage, arguments.sweep)
    for file in _print_report(console, made)[1:]:
        console.print(str(file), soft_wrap=True, highlight=False)
    return 0


def ui(arguments: Namespace, changes: Changes) -> int:
    """The MLflow server on this machine's own address, until interrupted."""
    from quench.tracking import default_uri, pages

    uri = arguments.tracking_uri or default_uri(arguments.storage)
    if uri.startswith("http"):
        print(f"these runs are on an MLflow server: {uri}")
        return 0
    host = f"http://127.0.0.1:{arguments.port}"
    for name, path in pages(uri).items():
        print(f"{name}: {host}{path}")
    print(f"everything: {host}   (stop with Ctrl-C)", flush=True)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    words = [
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(arguments.port),
        "--workers",
        "1",
    ]
    artifacts = ["--artifacts-destination", (arguments.storage.resolve() / "artifacts").as_uri()]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words, *artifacts])


def _check(recipes: Iterable[Recipe]) -> None:
    """Refuse what only the data can tell, and have it downloaded or decoded, before any worker starts."""
    images: dict[Any, int] = {}
    for recipe in recipes:
        source = recipe.data, recipe.validation
        if source not in images:
            images[source] = len(recipe.data.load(recipe.validation).train)
        allowed = f"must be at most the {images[source]} training images"
        require(recipe.batch_size <= images[source], "batch_size", recipe.batch_size, allowed)


def _tracker(arguments: Namespace, experiment: str, sweep: SweepRecord | None = None) -> Callable[[], Tracker]:
    """The tracker, made at its first use: that is in the follower's thread, while training starts."""

    @cache
    def make() -> Tracker:
        from quench.tracking import Tracker, default_uri

        storage: Path = arguments.storage
        storage.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(arguments.tracking_uri or default_uri(storage), storage, experiment)
        if sweep is not None:
            tracker.begin_sweep(sweep)
        return tracker

    return make


def _print_evaluation(console: Console, record: Record, entry: Mapping[str, Any]) -> None:
    def percent(share: Mapping[str, float]) -> str:
        return f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"

    console.print(
        f"{record.name}: {entry['examples']} test images, 95 % intervals: clean {percent(entry['clean'])}, "
        f"robust {percent(entry['robust'])} ({entry['attack']['label']}, {entry['checkpoint']} checkpoint)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_report(console: Console, made: SweepRecord) -> list[Path]:
    from quench.analysis.report import write_report

    table, files = write_report(made)
    if not table.empty:
        console.print(trade_off_table(table))
    for figure in files[:1]:
        console.print(f"figure: {figure}", soft_wrap=True, highlight=False)
    return files


def _print_places(console: Console, arguments: Namespace, follower: Follower, directory: Path) -> None:
    """Where the record is, and how to look at it."""
    for error in follower.failures.values():
        console.print(f"MLflow could not be written ({error}); the record in {directory} is complete", markup=False)
    program = "quench" if shutil.which("quench") else os.path.relpath(Path(sys.executable).parent / "quench")
    storage = "" if arguments.storage == Path("runs") else f" --storage {arguments.storage}"
    uri = f" --tracking-uri {arguments.tracking_uri}" if arguments.tracking_uri else ""
    console.print(f"record: {directory}", soft_wrap=True, highlight=False)
    console.print(f"MLflow UI: {program} ui{storage}{uri}", soft_wrap=True, highlight=False)
