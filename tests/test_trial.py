"""How runs end: at their budget, kept at their best, or lost to catastrophic overfitting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import GULLIBLE
from quench import trial
from quench.config import override
from quench.record import Record
from quench.training.recipe import Recipe


def carry_out(recipe: Recipe, directory: Path) -> Record:
    record = Record.create(directory, recipe, experiment="test", configuration="fgsm")
    for _ in trial.run(record, torch.device("cpu")):
        pass
    return record


def events(record: Record) -> list[dict[str, Any]]:
    return [event for entry in record.entries("epoch") for event in entry["events"]]


@pytest.mark.parametrize(
    ("action", "actions", "judged"),
    [("off", [], "last"), ("record", ["recorded"], "last"), ("stop", ["stopped"], "best")],
)
def test_a_run_lost_to_overfitting_says_so(
    action: str, actions: list[str], judged: str, recipe: Recipe, tmp_path: Path
) -> None:
    record = carry_out(override(recipe, GULLIBLE | {"guard.action": action}), tmp_path / "run")
    lost = action != "off"
    assert record.status == ("catastrophic_overfitting" if lost else "finished")
    assert not record.unfinished
    confirmed = [event for event in events(record) if event["confirmed"]]
    assert [event["action"] for event in confirmed][:1] == actions
    (evaluation,) = record.entries("evaluation")
    assert (evaluation["checkpoint"], evaluation["final"]) == (judged, True)
    ended = len(record.entries("epoch"))
    assert ended < 8 if action == "stop" else ended == 8
    if lost:
        assert record.entries("status")[-1]["reason"].startswith("robust only against its own attack")


@pytest.mark.parametrize("action", ["record", "stop"])
def test_a_lost_run_is_still_lost_after_a_crash(action: str, recipe: Recipe, tmp_path: Path) -> None:
    """One that ends between its last epoch's report and the word that it is lost."""
    record = carry_out(override(recipe, GULLIBLE | {"guard.action": action}), tmp_path / "run")
    log = record.directory / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"epoch"' in line and '"kind": "epoch"' in line))
    before = events(record)
    for _ in trial.run(record, torch.device("cpu")):
        raise AssertionError("there is no epoch left")
    assert record.status == "catastrophic_overfitting"
    assert events(record) == before
    assert len(record.entries("evaluation")) == 1


def test_a_guard_goes_back_so_often_and_no_oftener(recipe: Recipe, tmp_path: Path) -> None:
    changes = {"guard.action": "rollback", "guard.rollbacks": 2, "budget.epochs": 20}
    record = carry_out(override(recipe, GULLIBLE | changes), tmp_path / "run")
    actions = [event["action"] for event in events(record) if event["confirmed"]]
    assert actions == ["rolled back", "rolled back", "stopped"]
    assert record.entries("epoch")[-1]["metrics"]["rollbacks"] == 2
    assert record.status == "catastrophic_overfitting"


def test_standard_training_has_no_attack_to_overfit_to(recipe: Recipe, tmp_path: Path) -> None:
    changes = {"method": "standard", "guard.action": "rollback"}
    same = {key: value for key, value in GULLIBLE.items() if not key.startswith("method")}
    record = carry_out(override(recipe, same | changes), tmp_path / "run")
    assert (record.status, events(record)) == ("finished", [])


def test_the_best_weights_are_judged_if_asked(recipe: Recipe, tmp_path: Path) -> None:
    changes = {"guard.action": "off", "keep": "best", "patience": 2}
    record = carry_out(override(recipe, GULLIBLE | changes), tmp_path / "run")
    robust = [entry["metrics"]["robust_accuracy"] for entry in record.entries("epoch")]
    best = robust.index(max(robust)) + 1
    assert record.status == "finished"
    assert len(robust) == best + 2, "two epochs' patience"
    (evaluation,) = record.entries("evaluation")
    assert (evaluation["checkpoint"], evaluation["epoch"], evaluation["label"]) == ("best", best, "pgd-3-1 best")


def test_the_final_evaluation_is_checked_as_the_recipe_says(recipe: Recipe, tmp_path: Path) -> None:
    for images, checked in ((0, False), (8, True)):
        record = carry_out(override(recipe, {"reliability": images}), tmp_path / str(images))
        (written,) = (record.directory / "verdicts").glob("*.json")
        assert json.loads(written.read_text())["evaluation"]["checked"] == checked
