from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD
from quench.datasets import Split
from quench.datasets.digits import Digits
from quench.evaluation import Examination, Judged
from quench.geometry.linf import Linf
from quench.protocol import conclude
from quench.threat_model import ThreatModel
from quench.verdicts import Verdicts

ASKED = Examination(
    attacks={"pgd": PGD(steps=3)}, threat=ThreatModel(norm=Linf(), epsilon=0.05), seed=0, batch_size=100
)


def judged(folder: Path, model: nn.Module, digits: Split, asked: Examination = ASKED) -> Verdicts:
    verdicts = Verdicts.of(folder, model, Digits(), len(digits), asked)
    verdicts.append(asked.part(model, digits, verdicts.todo()))
    return verdicts


def test_an_honest_model_is_not_doubted_and_the_protocol_is_written(
    tmp_path: Path, robust: nn.Module, digits: Split
) -> None:
    verdicts = judged(tmp_path, robust, digits)
    assert conclude("mine", verdicts, robust, digits, 100) == ()
    written = json.loads(verdicts.path.with_suffix(".json").read_text())
    assert (written["name"], written["dataset"], written["unreliable"]) == ("mine", "digits", False)
    report = verdicts.report()
    assert written["evaluation"]["robust"]["value"] == report.robust.value
    assert written["pgd_acc"] == f"{100 * report.robust.value:.2f}"


class Rounded(nn.Module):
    """Has no gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((8 * x).round() / 8 + 0 * x)


def test_doubts_are_found_once_and_remembered(tmp_path: Path, robust: nn.Module, digits: Split) -> None:
    model = Rounded(robust)
    verdicts = judged(tmp_path, model, digits)
    assert conclude("mine", verdicts, nn.Identity(), digits, 100, most=0) == (), "nobody has looked"
    doubts = conclude("mine", verdicts, model, digits, 100)
    assert "zero gradients" in {flag.name for flag in doubts}
    assert json.loads(verdicts.path.with_suffix(".json").read_text())["unreliable"]
    assert conclude("mine", verdicts, nn.Identity(), digits, 100) == doubts, "the model is not asked again"
    assert conclude("mine", verdicts, nn.Identity(), digits, 100, most=0) == doubts


@pytest.mark.parametrize("fell", [0, 12])
def test_stages_and_other_verdicts_on_the_model_are_looked_at(
    tmp_path: Path, robust: nn.Module, digits: Split, fell: int
) -> None:
    """PGD leaves all standing; AutoAttack's Square then takes `fell` of 160."""
    everything, standing = torch.arange(160), torch.ones(160, dtype=torch.bool)
    pgd = Verdicts.of(tmp_path, robust, Digits(), 160, ASKED)
    pgd.append(Judged(everything, {"clean": standing, "pgd": standing}))
    asked = replace(ASKED, attacks={"autoattack": AutoAttack()})
    auto = Verdicts.of(tmp_path, robust, Digits(), 160, asked)
    last = everything >= fell
    stages = {f"autoattack/{name}": standing for name in ("apgd_ce", "apgd_t", "fab_t")}
    auto.append(Judged(everything, {"clean": standing, **stages, "autoattack/square": last, "autoattack": last}))
    names = {flag.name for flag in conclude("mine", auto, robust, digits, 100, most=8)}
    expected = {"black box beats white box", "PGD far above AutoAttack"}
    assert names & expected == (expected if fell else set())
