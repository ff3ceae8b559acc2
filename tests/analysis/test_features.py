"""`quench interpret` on runs that were really trained, for an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from mlflow import MlflowClient
from PIL import Image

from conftest import tiny_recipe
from quench import Choice, trial
from quench.analysis.features import Features, interpret, model_names
from quench.cli import main
from quench.config import override
from quench.errors import UserError
from quench.interpretation.views import METRICS, Interpretation
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep import Sweep
from quench.sweep.trials import trials
from quench.tracking import default_uri

SHORT = {
    "images": 12,
    "pictures": 3,
    **{f"{name}.steps": 3 for name in ("targeted", "synthesis", "feature", "inversion")},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three methods, one of them with two seeds, and a run of another dataset beside it."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = override(tiny_recipe(), {"budget.epochs": 1})
    space: list[dict[str, Any]] = [
        {"method": Choice("pgd", "fgsm_rs"), "seed": 0},
        {"method": "pgd", "seed": 1},
        {"method": "standard"},
    ]
    sweep = SweepRecord.create(folder / "tiny-1", "tiny", trials(tiny, Sweep(space=space)), {"file": "tiny.py"})
    larger = override(tiny, {"data.size": 12})
    for record in (*sweep.records, Record.create(folder / "large", larger, experiment="large", configuration="n_fgsm")):
        for _ in trial.run(record, torch.device("cpu")):
            pass
    return folder


@pytest.fixture(scope="module")
def features(storage: Path) -> Features:
    return interpret(SweepRecord(storage / "tiny-1").records, override(Interpretation(), SHORT))


def test_every_run_is_looked_at_on_the_same_images(features: Features) -> None:
    frame = features.frame
    assert list(frame.columns) == ["model", "run", "seed", "image", "label", *METRICS]
    assert len(frame) == 4 * 12
    assert frame.groupby("run")["image"].apply(tuple).nunique() == 1
    assert frame.groupby("model", sort=False)["run"].nunique().to_dict() == {"pgd": 2, "fgsm_rs": 1, "standard": 1}
    assert features.baseline == "standard"
    assert list(features.pictures) == ["pgd", "fgsm_rs", "standard"]
    assert set(features.paired["model"]) == {"fgsm_rs", "standard"}
    assert set(features.paired["reference"]) == {"pgd"}


def test_the_figure_has_a_row_for_each_model_and_a_column_for_each_picture(features: Features) -> None:
    axes: list[Axes] = features.draw().axes
    assert len(axes) == 6
    saliency, targeted = axes[:2]
    assert [label.get_text() for label in saliency.get_yticklabels()] == ["test image", "pgd", "fgsm_rs", "standard"]
    assert [label.get_text() for label in targeted.get_xticklabels()] == ["→1", "→2", "→0"]
    shown = np.asarray(targeted.get_images()[0].get_array())
    assert shown.shape == (4 * 9 - 1, 3 * 9 - 1, 3)
    first = features.material.shown.x[0, 0].numpy()
    np.testing.assert_allclose(shown[:8, :8, 0], first, atol=1e-6)
    np.testing.assert_allclose(shown[9:17, :8, 2], features.pictures["pgd"]["targeted"][0, 0].numpy(), atol=1e-6)
    assert (shown[8] == 1).all()
    grey = np.asarray(saliency.get_images()[0].get_array())[:8]
    assert (grey[..., 0] == grey[..., 2]).all()


def test_runs_share_a_name_if_only_their_seeds_differ(storage: Path, tmp_path: Path) -> None:
    records = SweepRecord(storage / "tiny-1").records
    changes: list[dict[str, object]] = [{}, {"threat.epsilon": 0.2}, {"optimizer.lr": 0.3}]
    others = [
        Record.create(tmp_path / f"run{i}", override(records[0].recipe, change), experiment="x", configuration="pgd")
        for i, change in enumerate(changes)
    ]
    assert model_names(records) == ["pgd", "fgsm_rs", "pgd", "standard"]
    assert model_names(others[:2]) == ["pgd linf 0.1", "pgd linf 0.2"]
    assert model_names(others[1:]) == ["pgd linf 0.2", "pgd linf 0.1"]
    assert model_names([others[0], records[2], others[2]]) == ["pgd linf 0.1 run0"] * 2 + ["pgd linf 0.1 run2"]


def test_different_datasets_cannot_be_compared(storage: Path) -> None:
    records = [SweepRecord(storage / "tiny-1").records[0], Record(storage / "large")]
    with pytest.raises(UserError, match=r"run = 'large': is of another dataset than 0000-"):
        interpret(records, Interpretation())


def test_the_command(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--{key}={value}" for key, value in SHORT.items()]
    with pytest.raises(SystemExit) as ended:
        main(["interpret", "tiny-1", "--storage", str(storage), *words])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    (folder,) = storage.glob("interpretation-*")
    files = {path.name for path in folder.iterdir()}
    assert files == {"features.png", "features.csv", "features_summary.csv", "features_paired.csv"}
    assert len(pd.read_csv(folder / "features.csv")) == 4 * 12
    assert len(pd.read_csv(folder / "features_paired.csv")) == 2 * len(METRICS)
    with Image.open(folder / "features.png") as image:
        assert image.width > 800
    assert "12 test images" in out
    assert "less pgd's" in out
    assert str(folder / "features.png") in out
    client = MlflowClient(tracking_uri=default_uri(storage))
    children = client.search_runs(["1"], "tags.`quench.kind` = 'run'")
    assert len(children) == 4
    for run in children:
        assert {Path(file.path).name for file in client.list_artifacts(run.info.run_id, folder.name)} == files


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("tiny-1", "--inversion.stepps", "4"),
            r"inversion\.stepps = 4: no such field; inversion has radius, step, steps",
        ),
        (("tiny-1", "--inversion.steps", "0"), r"inversion\.steps = 0: must be above 0"),
        (("tiny-1", "large"), r"run = 'large': is of another dataset"),
        (("tiny-2",), r"run or sweep = 'tiny-2': no such folder.*did you mean 'tiny-1'"),
        ((), r"RUN"),
    ],
)
def test_mistakes_are_one_line(
    storage: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    before = set(storage.iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["interpret", *words, "--storage", str(storage)])
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert pd.Series([captured.err]).str.contains(says).all(), captured.err
    assert set(storage.iterdir()) == before
