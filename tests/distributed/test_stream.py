"""Recipes that stream, through the command line and real Ray, on a folder of ImageNet's shape."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY, quench
from quench.datasets.restricted_imagenet import RestrictedImageNet
from quench.distributed.cluster import Cluster
from quench.errors import UserError
from quench.record import Record
from quench.training.loop import fit
from quench.training.state import TrainState

TINY = """
import sys
sys.path[:0] = [{experiments!r}]
import shutil
from dataclasses import replace
from quench import Choice, Sweep
from quench.attacks.pgd import PGD
from quench.models.resnet import ResNet
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import Stage
from {experiment} import RECIPE as FULL

RECIPE = replace(
    FULL,
    data=replace(FULL.data, root={root!r}, size=16),
    model=ResNet(depth=18, width=2),
    budget=Epochs(2),
    batch_size=32,
    stages={stages},
    optimizer=replace(FULL.optimizer, lr=0.01),
    precision="float32",  # torch's bfloat16 gradients of 1x1 images are not always numbers on a CPU
    validation=40,
    probe=PGD(steps=1),
    evaluation=PGD(steps=1),
)
"""


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 classes of two training images, of any size, and one test image for every fifth."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for number in range(1000):
        for path in [f"train/n{number:08}/{i}.JPEG" for i in range(2)] + [f"val/n{number:08}/0.JPEG"] * (
            number % 5 == 0
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (*rng.integers(10, 40, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / path)
    return root


def experiment(folder: Path, name: str, root: Path, stages: str = "()", sweep: str = "") -> Path:
    file = folder / f"tiny_{name}.py"
    experiments = str(REPOSITORY / "experiments")
    file.write_text(TINY.format(experiments=experiments, experiment=name, root=str(root), stages=stages) + sweep)
    return file


def test_imagenet_in_stages_on_two_workers(tmp_path: Path, imagenet: Path) -> None:
    stages = "(Stage(epochs=1, size=8, batch_size=64), Stage(epochs=1, size=16, batch_size=32))"
    file = experiment(tmp_path, "imagenet_linf4", imagenet, stages)
    done = quench("train", file, "--workers", "2", "--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [Record(path.parent) for path in (tmp_path / "runs").glob("*/recipe.json")]
    assert [entry["metrics"]["updates"] for entry in record.entries("epoch")] == [1960 // 64, 1960 // 64 + 1960 // 32]
    (verdict,) = record.entries("evaluation")
    assert verdict["examples"] == 200


def test_restricted_imagenet_in_a_sweep(tmp_path: Path, imagenet: Path) -> None:
    """Streamed under Ray Tune it learns what it learns here; where a file is broken the trial fails, and says which."""
    broken = tmp_path / "broken"
    shutil.copytree(imagenet, broken)
    train: Any = RestrictedImageNet(root=str(broken)).load(40).train
    bad = Path(train.encoded.where(len(train) - 1))  # none of those that statistics are taken of
    bad.write_bytes(b"not an image")
    sweep = f"SWEEP = Sweep(space={{'data.root': Choice({str(imagenet)!r}, {str(broken)!r})}})\n"
    file = experiment(tmp_path, "restricted_imagenet_l2_3", imagenet, sweep=sweep)
    done = quench("sweep", file, "--storage", tmp_path / "runs")
    assert done.returncode == 1, done.stdout + done.stderr
    records = {
        Path(r.recipe.data.root): r
        for r in map(Record, (p.parent for p in (tmp_path / "runs").glob("*/*/recipe.json")))
    }  # type: ignore[attr-defined]
    assert records[broken].status == "failed"
    reason = f"data.root: {bad} cannot be read as an image (cannot identify image file)"
    assert [entry.get("reason") for entry in records[broken].entries("status")] == [None, reason], (
        "and is not tried again"
    )
    record = records[imagenet]
    recipe = replace(record.recipe, evaluation=record.recipe.probe)
    data = recipe.data.load(recipe.validation)
    torch.set_num_threads(1)
    reports = list(fit(TrainState.initial(recipe, data.spec(), torch.device("cpu")), recipe, data))
    assert [entry["metrics"]["train_loss"] for entry in record.entries("epoch")] == [
        report.train_loss for report in reports
    ]


def test_a_cluster_without_a_cpu_to_spare_is_refused() -> None:
    for cluster in (
        Cluster(False, cpus=5, gpus=0, drivers=0),
        Cluster(False, cpus=4, gpus=8, drivers=0),
        Cluster(False, cpus=1, gpus=0, drivers=0),
    ):
        cluster.must_spare_a_cpu(4)
    with pytest.raises(UserError, match="workers = 4: the cluster has 4 CPUs, .* nearest: workers = 3"):
        Cluster(False, cpus=4, gpus=0, drivers=0).must_spare_a_cpu(4)
    assert Cluster(True, cpus=5, gpus=0, drivers=0).room(2, spare=True) == 2
    assert Cluster(True, cpus=4, gpus=0, drivers=0).room(2, spare=True) == 1
