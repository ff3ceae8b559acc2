from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quench.attacks.pgd import PGD
from quench.datasets.digits import Digits
from quench.evaluation import Examination, Judged
from quench.evaluation.reliability import Flag
from quench.geometry.linf import Linf
from quench.threat_model import ThreatModel
from quench.verdicts import Verdicts, digest, summary

ASKED = Examination(
    attacks={"pgd": PGD(steps=3, restarts=2)}, threat=ThreatModel(norm=Linf(), epsilon=0.1), seed=3, batch_size=2
)


def verdicts(folder: Path, asked: Examination = ASKED, model: nn.Module | None = None) -> Verdicts:
    return Verdicts.of(folder, model or nn.Linear(2, 2), Digits(), 10, asked)


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(2, 2)


def some(places: Tensor) -> Judged:
    """Even ones are robust, those above 7 not even clean."""
    return Judged(places, {"clean": places <= 7, "pgd": (places <= 7) & (places % 2 == 0)})


def test_what_is_kept_is_what_was_judged(tmp_path: Path, model: nn.Module) -> None:
    kept = verdicts(tmp_path, model=model)
    assert sorted(kept.todo().tolist()) == list(range(10))
    first, second = kept.todo()[:4], kept.todo()[4:]
    kept.append(some(first))
    again = verdicts(tmp_path, model=model)
    assert again.path == kept.path
    assert again.todo().tolist() == second.tolist(), "in the order that it began with"
    assert again.report().index.tolist() == sorted(first.tolist())
    again.append(some(second))
    report = verdicts(tmp_path, model=model).report()
    assert (report.n, report.seed, report.threat, report.precision) == (10, 3, ASKED.threat, "float32")
    assert report.correct["pgd"].nonzero().flatten().tolist() == [0, 2, 4, 6]
    assert (report.clean.value, report.robust.value) == (0.8, 0.4)
    assert again.label == "pgd-3-2"


def test_a_line_cut_short_is_judged_again(tmp_path: Path, model: nn.Module) -> None:
    kept = verdicts(tmp_path, model=model)
    kept.append(some(kept.todo()[:4]))
    kept.append(some(kept.todo()[:4]))
    kept.path.write_bytes(kept.path.read_bytes()[:-9])
    assert len(kept.todo()) == 6
    kept.append(some(kept.todo()))
    assert kept.report().n == 10


def test_another_question_or_model_has_verdicts_of_its_own(tmp_path: Path, model: nn.Module) -> None:
    others = [
        replace(ASKED, seed=4),
        replace(ASKED, precision="bfloat16"),
        replace(ASKED, attacks={"pgd": PGD(steps=4)}),
        replace(ASKED, threat=ThreatModel(norm=Linf(), epsilon=0.2)),
    ]
    paths = {verdicts(tmp_path, asked, model).path for asked in [ASKED, *others]}
    assert len(paths | {verdicts(tmp_path).path}) == 6
    assert verdicts(tmp_path, replace(ASKED, batch_size=7), model).path in paths, "which does not decide a verdict"


def test_nothing_judged_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no verdicts yet"):
        verdicts(tmp_path).report()


def test_summary_says_what_it_takes_to_repeat_it(tmp_path: Path, model: nn.Module) -> None:
    other = replace(ASKED, threat=ThreatModel(norm=Linf(), epsilon=0.2))
    both = [verdicts(tmp_path, asked, model) for asked in (ASKED, other)]
    both[0].append(some(torch.arange(10)))
    both[1].append(Judged(torch.arange(10), {"clean": torch.arange(10) <= 7, "pgd": torch.arange(10) < 4}))
    one = summary(both[:1], [Flag("zero_gradients", "because")])
    assert (one["examples"], one["of"], one["seed"], one["robust"]["value"]) == (10, 10, 3, 0.4)
    assert one["under"]["pgd"]["value"] == 0.4
    assert one["flags"] == [{"name": "zero_gradients", "reason": "because"}]
    assert summary(both)["robust"]["value"] == 0.2, "robust under both: images 0 and 2"


def test_digest_is_of_names_and_values(model: nn.Module) -> None:
    before = digest(model)
    assert digest(model.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        model.bias[0] += 1e-7
    assert digest(model) != before
