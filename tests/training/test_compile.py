"""torch.compile: two graphs for a run, and the same learning."""

from __future__ import annotations

import shutil
import sysconfig
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from conftest import tiny_recipe
from quench.catalogue import members
from quench.config import override
from quench.methods import Method
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


@pytest.mark.parametrize("method", [name for name, kind in members(Method).items() if kind.compiles])
def test_every_method_learns_compiled_what_it_learns_otherwise(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as a GPU's code would be, and carried out by torch's own operators: the same to the bit."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    norm = {"threat.norm": "l1", "threat.epsilon": 2.0} if method == "fast_eg_l1" else {}
    losses: list[list[float]] = []
    for compiled in (True, False):
        torch._dynamo.reset()
        counters.clear()
        recipe = override(tiny_recipe(), {"method": method, "compile": compiled, **norm})
        data = recipe.data.load(recipe.validation)
        state = TrainState.initial(recipe, data.spec(), torch.device("cpu"))
        losses.append([report.train_loss for report in fit(state, recipe, data)])
        if compiled:
            assert 0 < counters["stats"]["unique_graphs"] == counters["frames"]["total"] <= 3
            assert not counters["graph_break"]
    assert losses[0] == losses[1]
