"""`quench curve`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch

from quench.attacks import Attack, Precision, Victim
from quench.attacks.pgd import PGD_50_10
from quench.carry_out import print_places
from quench.catalogue import name_of
from quench.config import override
from quench.console import terminal
from quench.evaluation import evaluating
from quench.evaluation.curve import curve as robustness
from quench.follow import Follower
from quench.geometry import Geometry
from quench.projection import attaching
from quench.storage import find_run, new_directory
from quench.subjects import trained_run
from quench.tables import curve_table
from quench.threat_model import ThreatModel
from quench.trial import best_device


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What flags can ask."""

    norm: Geometry
    attack: Attack = PGD_50_10
    precision: Precision = "float32"
    seed: int = 0


def curve(arguments: Namespace, changes: dict[str, Any]) -> int:
    """Robust accuracy of one or several runs over a grid of epsilon, as a table and a figure."""
    from quench.analysis.curves import curve_frame, write_curves

    records = list(dict.fromkeys(find_run(arguments.storage, name) for name in arguments.runs))
    own = records[0].recipe.threat
    question = override(_Question(norm=own.norm), changes)
    given = [ThreatModel.parse(f"{name_of(question.norm)}:{text}", "epsilons").epsilon for text in arguments.epsilons]
    epsilons = given or [own.epsilon * k / 4 for k in range(1, 9)]
    threat, found = ThreatModel(norm=question.norm, epsilon=max(epsilons)), {}
    names = [record.name for record in records]
    for record, name in zip(records, names, strict=True):
        subject = trained_run(record, arguments.checkpoint)
        model, test = subject.load(best_device())
        victim = Victim(model, subject.batch_size, question.precision)
        with evaluating(model), torch.no_grad():
            label = name if names.count(name) == 1 else f"{name} ({record.directory.name})"
            found[label] = robustness(victim, test, question.attack, threat, epsilons, question.seed)
    frame = curve_frame(found)
    files = write_curves(frame, new_directory(arguments.storage, "curve"))
    console = terminal()
    console.print(curve_table(frame))
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)
    follower = Follower(records, attaching(arguments, records, files))
    follower.pump()
    print_places(console, arguments, {"MLflow": follower}, records[0].directory)
    return 0
