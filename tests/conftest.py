"""What the tests share: reproducible property tests, a recipe that trains in a second, a real sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import nn

from quench.attacks import input_gradient
from quench.attacks.pgd import PGD, ascend
from quench.cli import main
from quench.config import override
from quench.datasets import Batch, Split
from quench.datasets.digits import Digits
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.recipe import SGD, Recipe
from quench.training.state import TrainState

settings.register_profile("quench", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("quench")
torch.set_num_threads(1)
# Of the programs that tests start: those of two tests at a time would wait for each other's threads.
os.environ["OMP_NUM_THREADS"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it, and so would all we start

REPOSITORY = Path(__file__).parents[1]
PROGRAM = str(Path(sys.executable).parent / "quench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that in the end no process of pytest-xdist waits for another."""
    items.sort(key=lambda item: item.path.parent.name not in ("distributed", "training"))


@pytest.fixture
def recipe() -> Recipe:
    """Digits, a tiny network, two epochs; its evaluation is not checked, which would take longer than all else."""
    return tiny_recipe()


def tiny_recipe() -> Recipe:
    return Recipe(
        data=Digits(),
        model=SmallCNN(widths=(8, 8)),
        threat=ThreatModel(norm=Linf(), epsilon=0.1),
        method=NFGSM(),
        budget=Epochs(2),
        batch_size=128,
        optimizer=SGD(lr=0.1),
        validation=100,
        probe=PGD(steps=2),
        evaluation=PGD(steps=3),
        reliability=0,
    )


@pytest.fixture(scope="session")
def robust() -> nn.Module:
    """A network trained adversarially for a second: some 90 % right on digits, 65 % under attack."""
    recipe = override(tiny_recipe(), {"budget.epochs": 8, "optimizer.lr": 0.2, "guard.action": "off"})
    data = recipe.data.load(recipe.validation)
    state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
    for _ in fit(state, recipe, data):
        pass
    return state.model.eval()


@pytest.fixture(scope="session")
def digits() -> Split:
    """Test images that they are judged on."""
    return Digits().splits()[1].take(torch.arange(160))


GULLIBLE: dict[str, Any] = {
    "model.widths": (16, 32, 32),
    "method": "fgsm",
    "method.step_ratio": 0.01,
    "threat.epsilon": 0.15,
    "budget.epochs": 8,
    "optimizer.lr": 0.2,
    "batch_size": 64,
    "probe.steps": 10,
    "guard.every": 9,
}
"""Hardly adversarial training: within a second its model stands up to FGSM and no longer to PGD."""


@pytest.fixture(scope="session")
def robust_digits() -> tuple[nn.Module, Batch]:
    """A tiny network that PGD training has made half robust, in eval mode, and 60 test images."""
    data, threat = Digits().load(100), ThreatModel(norm=L2(), epsilon=0.8)
    model = SmallCNN(widths=(8, 16)).build(data.spec(), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(8):
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(64):
            batch = data.train.batch(index)
            gradient = partial(input_gradient, model, y=batch.y)
            delta = ascend(gradient, batch.x, torch.zeros_like(batch.x), threat, steps=2, step_ratio=0.7)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x + delta), batch.y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), data.test.batch(torch.arange(60))


def quench(*words: str | Path, timeout: float = 240, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    environment = {**os.environ, "COLUMNS": "160"}
    command = [PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=environment)


def quench_here(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, which has imported everything already."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class RealSweep:
    """A sweep that was really run, through the command line."""

    storage: Path
    directory: Path
    output: str


SWEEP_FILE = """
from conftest import tiny_recipe
from quench import Choice, Sweep
from quench.geometry.l2 import L2
from quench.threat_model import ThreatModel

RECIPE = tiny_recipe()
SWEEP = Sweep(space=[
    {"method": Choice("standard", "n_fgsm"), "seed": Choice(0, 1)},
    {"threat": ThreatModel(norm=L2(), epsilon=0.5), "method": "fgsm_rs"},
    {"workers": 2},
])
"""


@pytest.fixture(scope="session")
def real_sweep(tmp_path_factory: pytest.TempPathFactory) -> RealSweep:
    """Six trials under Ray, one of them on two workers, recorded in MLflow."""
    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "tiny.py"
    file.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{SWEEP_FILE}")
    storage = folder / "runs"
    done = quench("sweep", file, "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = storage.glob("tiny-*")
    return RealSweep(storage, directory, done.stdout)
