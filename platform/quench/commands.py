"""The commands of the command line, each a function of its parsed arguments; they return the exit code."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
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
from quench.evaluation import Share
from quench.experiment import Experiment
from quench.follow import Follower, Sink, following
from quench.record import Record, Status
from quench.storage import SweepRecord, find, find_run, find_sweep, new_directory
from quench.sweep import configuration, trials
from quench.threat_model import ThreatModel
from quench.training.recipe import Recipe

if TYPE_CHECKING:
    from quench.tracking import Tracker

Changes = dict[str, Any]
_EXIT_CODES: Mapping[Status, int] = {"finished": 0, "failed": 1, "interrupted": 130}


def train(arguments: Namespace, changes: Changes) -> int:
    """One run: in this process, or under Ray Train if its recipe asks for several workers."""
    if arguments.workers is not None:
        changes["workers"] = arguments.workers
    experiment = Experiment.load(arguments.experiment)
    recipe = override(experiment.recipe, changes)
    _check([recipe])
    directory = new_directory(arguments.storage, experiment.name)
    record = Record.create(directory, recipe, experiment=experiment.name, configuration=configuration(recipe))
    return _carry_out_run(arguments, record)


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
    about = {"file": str(experiment.path), "overrides": changes} | {
        field.name: repr(getattr(plan, field.name)) if field.name == "space" else getattr(plan, field.name)
        for field in fields(plan)
    }
    made = SweepRecord.create(new_directory(arguments.storage, experiment.name), experiment.name, chosen, about)
    return _carry_out_sweep(arguments, made)


def resume(arguments: Namespace, changes: Changes) -> int:
    """Go on from the last checkpoints; what is finished, or was stopped by a scheduler, stays as it is."""
    found = find(arguments.storage, arguments.name)
    return _carry_out_run(arguments, found) if isinstance(found, Record) else _carry_out_sweep(arguments, found)


def _carry_out_run(arguments: Namespace, record: Record) -> int:
    console = terminal()
    table = LiveTable([record], console)
    sinks = {"the table": table, "MLflow": _sink(_tracker(arguments, record.about["experiment"]))}
    with table.shown(), following([record], sinks) as followers:
        try:
            _train(record, arguments.address)
        except KeyboardInterrupt:
            record.settle("interrupted", "")
    for entry in record.entries("evaluation")[-1:]:
        _print_evaluation(console, record, entry)
    _print_places(console, arguments, followers, record.directory)
    return _EXIT_CODES[record.status]


def _train(record: Record, address: str) -> None:
    """In this process, or on the workers that the recipe asks for. The record says how it ended."""
    workers = record.recipe.workers
    if workers == 1:
        from quench import trial

        for _ in trial.run(record, trial.best_device()):
            pass
        return
    from quench.distributed import cluster
    from quench.distributed.train import train_data_parallel

    with cluster.connected(address, workers) as ray:
        try:
            train_data_parallel(record, ray.gives_gpus(workers))
        except SystemExit:  # so Ray Train ends the program when it is interrupted
            raise KeyboardInterrupt from None
        except Exception as error:
            record.settle("failed", str(error).strip().splitlines()[-1])


def _carry_out_sweep(arguments: Namespace, made: SweepRecord) -> int:
    from quench.distributed import cluster, tune

    console, about = terminal(), made.about
    table = LiveTable(made.records, console)
    tracker = _tracker(arguments, about["experiment"], made)
    todo = [record for record in made.records if record.unfinished]
    workers = max((record.recipe.workers for record in todo), default=1)
    state = made.directory / "ray" / f"{len(list(made.directory.glob('ray/*')))}"
    status: Status = "finished"
    with table.shown(), following(made.records, {"the table": table, "MLflow": _sink(tracker)}) as followers:
        try:
            with cluster.connected(arguments.address, workers) as ray:
                tune.sweep(todo, ray, state, about["scheduler"], arguments.concurrent or about["concurrent"])
        except KeyboardInterrupt:
            status = "interrupted"
        for record in todo:
            record.settle("interrupted", "")
    failed = [record for record in made.records if record.status == "failed"]
    status = "failed" if failed and status == "finished" else status
    for record in failed:
        console.print(f"failed: {record.name}: {record.entries('status')[-1]['reason']}", markup=False)
    files = _print_report(console, made)
    try:
        tracker().end_sweep(made, status, files)
    except Exception as error:
        followers["MLflow"].failures[made.records[0]] = error
    _print_places(console, arguments, followers, made.directory)
    return _EXIT_CODES[status]


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
    judged = trial.judge(state, record.recipe, data, question.attack, question.threat)
    trial.enter_evaluation(record, judged, question.attack, state.epoch, arguments.checkpoint)
    sweep = SweepRecord(record.directory.parent) if record.about["sweep"] else None
    follower = Follower([record], _sink(_tracker(arguments, record.about["experiment"], sweep)))
    follower.pump()
    console = terminal()
    _print_evaluation(console, record, record.entries("evaluation")[-1])
    _print_places(console, arguments, {"MLflow": follower}, record.directory)
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
    from quench.tracking import default_uri, pages, serve

    uri = arguments.tracking_uri or default_uri(arguments.storage)
    if uri.startswith("http"):
        print(f"these runs are on an MLflow server: {uri}")
        return 0
    with serve(uri, arguments.storage, arguments.port) as host:
        for name, path in pages(uri).items():
            print(f"{name}: {host}{path}")
        print(f"everything: {host}   (stop with Ctrl-C)", flush=True)
    return 0


def _check(recipes: Iterable[Recipe]) -> None:
    """Refuse what only the data can tell, and have it downloaded or decoded, before any worker starts."""
    loaded: dict[Any, tuple[int, int]] = {}
    for recipe in recipes:
        source = recipe.data, recipe.validation
        if source not in loaded:
            images = recipe.data.load(recipe.validation).train.images
            loaded[source] = len(images), min(images.shape[2:])
        count, side = loaded[source]
        allowed = f"must be at most the {count} training images"
        require(recipe.batch_size <= count, "batch_size", recipe.batch_size, allowed)
        padding = recipe.augmentation.padding
        require(padding < side, "augmentation.padding", padding, f"must be below the images' side, {side}")


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


def _sink(tracker: Callable[[], Tracker]) -> Sink:
    return lambda record, entries: tracker()(record, entries)


def _print_evaluation(console: Console, record: Record, entry: Mapping[str, Any]) -> None:
    clean, robust = Share(**entry["clean"]), Share(**entry["robust"])
    console.print(
        f"{record.name}: {entry['examples']} test images, 95 % intervals: "
        f"clean {clean}, robust {robust} ({entry['label']})",
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


def _print_places(console: Console, arguments: Namespace, followers: Mapping[str, Follower], directory: Path) -> None:
    """Where the record is, and how to look at it or go on with it."""
    for name, follower in followers.items():
        for error in list(follower.failures.values())[:1]:
            reason = str(error).splitlines()[0]
            console.print(f"{name} could not be written ({reason}); the record is complete", markup=False)
    program = "quench" if shutil.which("quench") else os.path.relpath(Path(sys.executable).parent / "quench")
    storage = "" if arguments.storage == Path("runs") else f" --storage {arguments.storage}"
    uri = f" --tracking-uri {arguments.tracking_uri}" if arguments.tracking_uri else ""
    found = SweepRecord(directory).records or [Record(directory)]
    lines = [f"record: {directory}", f"MLflow UI: {program} ui{storage}{uri}"]
    if any(record.unfinished for record in found):
        lines.append(f"go on: {program} resume {directory.name}{storage}{uri}")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
