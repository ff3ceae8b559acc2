"""The commands of the command line, each a function of its parsed arguments; they return the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quench.attacks import Attack
from quench.attacks.pgd import PGD
from quench.carry_out import (
    carry_out_run,
    carry_out_sweep,
    print_evaluation,
    print_places,
    print_report,
    sink,
    tracker_of,
)
from quench.config import override
from quench.console import features_table, terminal
from quench.errors import UserError, require
from quench.evaluation import RobustnessReport
from quench.experiment import Experiment
from quench.follow import Follower, Sink
from quench.record import Entry, Record
from quench.storage import SweepRecord, find, find_run, find_sweep, new_directory
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
    return carry_out_run(arguments, record)


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
    return carry_out_sweep(arguments, made)


def resume(arguments: Namespace, changes: Changes) -> int:
    """Go on from the last checkpoints; what is finished, or was stopped by a scheduler, stays as it is."""
    found = find(arguments.storage, arguments.name)
    return carry_out_run(arguments, found) if isinstance(found, Record) else carry_out_sweep(arguments, found)


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What `quench evaluate` can be asked by flags."""

    attack: Attack
    threat: ThreatModel


def evaluate(arguments: Namespace, changes: Changes) -> int:
    """A stronger look at a trained run: PGD-50-10, under its own threat model, unless asked otherwise."""
    from quench import trial

    record = find_run(arguments.storage, arguments.run)
    question = override(_Question(attack=PGD(steps=50, restarts=10), threat=record.recipe.threat), changes)
    if arguments.threats:
        both = next((key for key in changes if key.partition(".")[0] == "threat"), None)
        require(both is None, both or "", "...", "belongs into --threats when that is given")
    threats = [ThreatModel.parse(text) for text in arguments.threats] or [question.threat]
    state, data = trial.restore(record, arguments.checkpoint, trial.best_device())
    before = len(record.entries("evaluation"))
    judged: list[RobustnessReport] = []
    for threat in threats:
        judged.append(trial.judge(state, record.recipe, data, question.attack, threat))
        trial.enter_evaluation(record, judged[-1:], question.attack, state.epoch, arguments.checkpoint)
    if len(judged) > 1:
        trial.enter_evaluation(record, judged, question.attack, state.epoch, arguments.checkpoint)
    follower = Follower([record], sink(_tracker_for(arguments, record)))
    follower.pump()
    console = terminal()
    for entry in record.entries("evaluation")[before:]:
        print_evaluation(console, record, entry)
    print_places(console, arguments, {"MLflow": follower}, record.directory)
    return 0


def interpret(arguments: Namespace, changes: Changes) -> int:
    """What runs have learnt to look at, side by side on the same images: pictures, numbers and paired tests."""
    from quench.analysis.features import interpret as look
    from quench.interpretation.views import Interpretation

    how = override(Interpretation(), changes)
    records = list(dict.fromkeys(run for name in arguments.runs for run in _trained(find(arguments.storage, name))))
    features = look(records, how, arguments.checkpoint)
    files = features.write(new_directory(arguments.storage, "interpretation"))
    console = terminal()
    console.print(features_table(features.summary, features.paired))
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)
    followers = {"MLflow": Follower(records, _attaching(arguments, records, files))}
    followers["MLflow"].pump()
    print_places(console, arguments, followers, records[0].directory)
    return 0


def _trained(found: Record | SweepRecord) -> list[Record]:
    """The run, or those of a sweep that came to their end, lost ones among them."""
    if isinstance(found, Record):
        return [found]
    ended = [record for record in found.records if record.status in ("finished", "catastrophic_overfitting")]
    require(bool(ended), "run or sweep", found.name, "none of its runs has finished")
    return ended


def _attaching(arguments: Namespace, records: Iterable[Record], files: Sequence[Path]) -> Sink:
    """Bring MLflow up to a run's entries, and give it the files."""
    trackers = {_home(record): _tracker_for(arguments, record) for record in records}  # each is made at its first use

    def attach(record: Record, entries: list[Entry]) -> None:
        tracker = trackers[_home(record)]()
        tracker(record, entries)
        tracker.attach(record, files, files[0].parent.name)

    return attach


def _home(record: Record) -> Path:
    """Runs of one home have one tracker: a sweep's folder, or the run's own."""
    return record.directory.parent if record.about["sweep"] else record.directory


def _tracker_for(arguments: Namespace, record: Record) -> Callable[[], Tracker]:
    sweep = SweepRecord(record.directory.parent) if record.about["sweep"] else None
    return tracker_of(arguments, record.about["experiment"], sweep)


def report(arguments: Namespace, changes: Changes) -> int:
    """Tables and figures of a sweep, made again from its records."""
    console = terminal()
    made = find_sweep(arguments.storage, arguments.sweep)
    for file in print_report(console, made)[1:]:
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
