"""torch.compile: two graphs for a run, and the same learning."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from conftest import tiny_recipe
from quench.config import override
from quench.training.loop import fit
from quench.training.state import TrainState

COMPILER = shutil.which("g++") is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs g++ and Python's headers")
def test_a_run_compiles_one_graph_to_craft_by_and_one_to_learn_from() -> None:
    """However the learning rate, epsilon and the batches that are judged change; averaged weights are judged as they
    are, and so are those of the guard's confirmations."""
    changes = {"threat.norm": "l2", "threat.epsilon": 0.5, "epsilon_warmup": 0.3, "optimizer.warmup": 0.2}
    changes |= {"averaging": 0.9, "label_smoothing": 0.1, "budget.epochs": 3, "augmentation.padding": 1}
    losses: list[list[float]] = []
    for compiled in (True, False):
        torch._dynamo.reset()
        counters.clear()
        recipe = override(tiny_recipe(), changes | {"compile": compiled})
        data = recipe.data.load(recipe.validation)
        state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
        losses.append([report.train_loss for report in fit(state, recipe, data)])
        assert counters["stats"]["unique_graphs"] == (2 if compiled else 0)
        assert counters["frames"]["total"] == (2 if compiled else 0), "compiled anew"
        assert not counters["graph_break"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
