"""What verdicts come to, whether to trust them, and everything that it takes to repeat them: one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from quench import __version__
from quench.attacks import Attack, Victim
from quench.attacks.pgd import PGD
from quench.attacks.square import Square
from quench.catalogue import name_of
from quench.config import decode
from quench.datasets import Dataset, Examples
from quench.durable import write_json
from quench.evaluation import RobustnessReport, evaluating
from quench.evaluation.intervals import Share
from quench.evaluation.reliability import Flag, black_box_beats_white_box, flags, pgd_far_above_autoattack
from quench.threat_model import TOLERANCE
from quench.verdicts import Verdicts, summary

BLACK_BOX = Square(queries=1000)
"""what gradients are checked by"""


def conclude(
    name: str, verdicts: Verdicts, model: nn.Module, test: Examples, batch_size: int, most: int = 128
) -> tuple[Flag, ...]:
    """Write the result beside the verdicts, and return the reasons not to trust it.

    Up to `most` of the judged images are looked at once more for them; asked again about the same verdicts, not
    so. The file's keys are those of RobustBench's model records, where those have one; `evaluation` has the rest.
    """
    path, report = verdicts.path.with_suffix(".json"), verdicts.report()
    found = _known(path, report.n)
    if found is None:
        victim = Victim(model, batch_size, report.precision)
        attack = next(iter(verdicts.attacks.values()))
        sample, standing = test.take(report.index.to(test.labels.device)), report.robust_bits
        with evaluating(model):
            found = flags(victim, sample, report.threat, standing, white_box(attack), BLACK_BOX, report.seed, most)
        found += tuple(_of_stages(report))
    found = tuple({flag.name: flag for flag in (*_of_others(verdicts, report), *found)}.values())
    write_json(path, _entry(name, verdicts, report, found))
    return found


def white_box(attack: Attack) -> Attack:
    """What verdicts of `attack` are checked by besides: it itself, if it climbs from image to image."""
    return attack if isinstance(attack, PGD) else PGD(steps=20)


def _known(path: Path, examples: int) -> tuple[Flag, ...] | None:
    if not path.exists():
        return None
    about = json.loads(path.read_text())["evaluation"]
    return tuple(Flag(**flag) for flag in about["flags"]) if about["examples"] == examples else None


def _of_stages(report: RobustnessReport) -> Iterator[Flag]:
    """An ensemble's black-box stage against those before it."""
    for key, after in report.correct.items():
        label, _, stage = key.partition("/")
        before = report.correct.get(f"{label}/fab_t")
        flag = black_box_beats_white_box(before, after) if stage == "square" and before is not None else None
        if flag is not None:
            yield flag


def _of_others(verdicts: Verdicts, report: RobustnessReport) -> Iterator[Flag]:
    """PGD's verdicts on this model against AutoAttack's, on the images that both have judged."""
    mine = set(verdicts.question["attacks"])
    wanted = {"pgd"} if mine & {"autoattack", "pyautoattack"} else {"autoattack", "pyautoattack"}
    for other in Verdicts.all(verdicts.path.parent.parent):
        alike = all(other.question[key] == verdicts.question[key] for key in ("weights", "data", "examples", "threat"))
        if not alike or not wanted & set(other.question["attacks"]) or not list(other.parts()):
            continue
        one, two = (report, other.report()) if "pgd" in mine else (other.report(), report)
        flag = pgd_far_above_autoattack(*shared_bits(one, two))
        if flag is not None:
            yield flag


def shared_bits(one: RobustnessReport, other: RobustnessReport, key: str | None = None) -> tuple[Tensor, Tensor]:
    """Both reports' verdicts `(n,)` on the images that both have: robust, or what `key` names."""
    first, second = (report.robust_bits if key is None else report.correct[key] for report in (one, other))
    return first[torch.isin(one.index, other.index)], second[torch.isin(other.index, one.index)]


def _entry(name: str, verdicts: Verdicts, report: RobustnessReport, found: tuple[Flag, ...]) -> dict[str, object]:
    about = summary([verdicts], found)
    return {
        "name": name,
        "dataset": name_of(decode(Dataset, verdicts.question["data"])),
        "eps": str(report.threat).partition(" ")[2],
        "clean_acc": _points(report.clean),
        **{f"{label}_acc": _points(report.under(label)) for label in about["attacks"]},
        "unreliable": bool(found),
        "number_forward_passes": 1,
        **dict.fromkeys(("link", "authors", "venue", "architecture", "additional_data")),
        "evaluation": {
            "quench": __version__,
            **about,
            "data": verdicts.question["data"],
            "weights_sha256": verdicts.question["weights"],
            "pixels": "[0, 1]",
            "mode": "eval",
            "judged_in": "float32",
            "tolerance": TOLERANCE,
        },
    }


def _points(share: Share) -> str:
    """As RobustBench writes it: `58.04`."""
    return f"{100 * share.value:.2f}"
