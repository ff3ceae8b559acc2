"""`quench evaluate` and `quench compare`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from quench import trial
from quench.attacks import Attack, Precision
from quench.attacks.pgd import PGD_50_10
from quench.carry_out import print_evaluation, print_places
from quench.catalogue import name_of
from quench.config import override
from quench.console import terminal
from quench.datasets import Dataset
from quench.datasets.digits import Digits
from quench.errors import UserError, require
from quench.evaluation import Examination, RobustnessReport
from quench.evaluation.intervals import Comparison
from quench.evaluation.intervals import compare as compare_bits
from quench.evaluation.reliability import Flag
from quench.examine import examine
from quench.follow import Follower
from quench.geometry.linf import Linf
from quench.journal import Entry
from quench.projection import sink, tracker_of
from quench.protocol import conclude, shared_bits
from quench.record import Record
from quench.storage import SweepRecord, find_model, find_run
from quench.subjects import Subject, any_model, trained_run
from quench.tables import comparison_table
from quench.threat_model import ThreatModel
from quench.verdicts import Verdicts, summary

Doubted = Mapping[Verdicts, Sequence[Flag]]
"""the verdicts under each threat model, with the reasons not to trust them"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What flags can ask of a run."""

    attack: Attack = PGD_50_10
    threat: ThreatModel = field(default_factory=lambda: ThreatModel(norm=Linf(), epsilon=8 / 255))
    precision: Precision = "float32"
    batch_size: int = 250
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelQuestion(Question):
    """What flags can ask of a model that was not trained here, which comes without data."""

    data: Dataset = field(default_factory=Digits)


def evaluate(arguments: Namespace, changes: dict[str, Any]) -> int:
    """A stronger look at a trained run or any model: PGD-50-10, unless asked otherwise."""
    require(arguments.workers > 0, "workers", arguments.workers, "must be 1 or more")
    require(
        0 <= arguments.until_halfwidth < 1, "until-halfwidth", arguments.until_halfwidth, "must be from 0 to below 1"
    )
    record, subject, question = _asked(arguments, changes)
    if arguments.threats:
        both = next((key for key in changes if key.partition(".")[0] == "threat"), None)
        require(both is None, both or "", "...", "belongs into --threats when that is given")
    threats = [ThreatModel.parse(text) for text in arguments.threats] or [question.threat]
    console = terminal()
    loaded = subject.load(trial.best_device())
    found: list[Verdicts] = []
    for threat in threats:
        asked = Examination(
            attacks={name_of(question.attack): question.attack},
            threat=threat,
            seed=question.seed,
            batch_size=question.batch_size,
            precision=question.precision,
        )
        place = arguments.workers, arguments.address, arguments.until_halfwidth
        found.append(examine(subject, loaded, asked, console, *place))
    doubts = {one: conclude(subject.name, one, *loaded, question.batch_size) for one in found}
    if record is None:
        _print(console, subject, doubts)
        return 0
    return _enter(arguments, console, record, doubts)


def _asked(arguments: Namespace, changes: dict[str, Any]) -> tuple[Record | None, Subject, Question]:
    if arguments.model is None:
        if arguments.run is None:
            raise UserError("name a run, or a model with --model module:function; see `quench evaluate --help`")
        require(arguments.weights is None, "weights", str(arguments.weights), "belongs to --model")
        record = find_run(arguments.storage, arguments.run)
        recipe = record.recipe
        own = Question(threat=recipe.threat, batch_size=recipe.batch_size, seed=recipe.seed)
        return record, trained_run(record, arguments.checkpoint), override(own, changes)
    require(arguments.run is None, "run", arguments.run, "cannot be given together with --model")
    named = bool(arguments.threats) or any(key.partition(".")[0] == "threat" for key in changes)
    require("data" in changes, "data", None, "is required with --model: the dataset to judge it by")
    require(named, "threats", None, "is required with --model, such as --threats linf:8/255")
    question = override(ModelQuestion(), changes)
    subject = any_model(arguments.model, arguments.weights, question.data, arguments.storage, question.batch_size)
    return None, subject, question


def _enter(arguments: Namespace, console: Console, record: Record, found: Doubted) -> int:
    """In the record, unless it says so already; on to MLflow; on the screen."""
    epoch = int(record.checkpoint(arguments.checkpoint)["epoch"])
    entries: list[Entry] = []
    for group, flags in _groups(found):
        entries.append(trial.enter_evaluation(record, group, epoch, arguments.checkpoint, flags))
    sweep = SweepRecord(record.directory.parent) if record.about["sweep"] else None
    follower = Follower([record], sink(tracker_of(arguments, record.about["experiment"], sweep)))
    follower.pump()
    for entry in entries:
        print_evaluation(console, record.name, entry)
    print_places(console, arguments, {"MLflow": follower}, record.directory)
    return 0


def _print(console: Console, subject: Subject, found: Doubted) -> None:
    for group, flags in _groups(found):
        label = f"{group[0].label} {' and '.join(str(one.threat) for one in group)}"
        print_evaluation(console, subject.name, {"label": label, **summary(group, flags)})
    for one in found:
        console.print(f"record: {one.path.with_suffix('.json')}", soft_wrap=True, highlight=False, markup=False)


def _groups(found: Doubted) -> list[tuple[list[Verdicts], list[Flag]]]:
    """Each threat model, and all of them at once."""
    each = [([one], list(flags)) for one, flags in found.items()]
    together = list(found), list({flag.name: flag for flags in found.values() for flag in flags}.values())
    return each + ([together] if len(found) > 1 else [])


def compare(arguments: Namespace, changes: dict[str, Any]) -> int:
    """What two models' verdicts on the same images say of each other."""
    folders = [find_model(arguments.storage, name) for name in (arguments.first, arguments.second)]
    first, second = ({one.comparable: one for one in Verdicts.all(folder)} for folder in folders)
    rows = [(first[key], first[key].report(), second[key].report()) for key in first if key in second]
    if not rows:
        known = "; ".join(
            f"{folder.name} has {', '.join(f'{one.label} {one.threat}' for one in Verdicts.all(folder)) or 'none'}"
            for folder in folders
        )
        raise UserError(f"no evaluation in common, of the same data under the same attack and threat model: {known}")
    found = {f"{asked.label} {asked.threat}": _paired(one, other) for asked, one, other in rows}
    terminal().print(comparison_table(folders[0].name, folders[1].name, found))
    return 0


def _paired(one: RobustnessReport, other: RobustnessReport) -> dict[str, Comparison]:
    """Clean and robust verdicts, on the images that both have."""
    return {"clean": compare_bits(*shared_bits(one, other, "clean")), "robust": compare_bits(*shared_bits(one, other))}
