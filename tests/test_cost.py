"""What trials will cost: operations are counted exactly, kinds of work are measured once, judging is an upper bound."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

from conftest import tiny_recipe
from quench.attacks import Attack, Victim
from quench.attacks.apgd import APGD
from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD
from quench.config import override
from quench.cost import Cost, Estimate, estimate
from quench.datasets import Split
from quench.evaluation import judge
from quench.flops import CountFlops
from quench.geometry.linf import Linf
from quench.speed import Machine, Unshakable
from quench.tables import cost_table
from quench.threat_model import ThreatModel
from quench.training.loop import fit
from quench.training.recipe import Recipe, Stage
from quench.training.state import TrainState

CPU = torch.device("cpu")
THREAT = ThreatModel(norm=Linf(), epsilon=0.1)
CHANGES = {
    "n_fgsm": {},
    "the same work": {"seed": 3, "threat.epsilon": 0.2, "method.noise_ratio": 1.5, "optimizer.lr": 0.3},
    "pgd-7": {"method": "pgd"},
    "pgd-14": {"method": "pgd", "method.steps": 14},
    "liet": {"method": "liet"},
    "in seconds": {"budget": "seconds", "budget.seconds": 0.3},
    "on two workers": {"workers": 2},
    "looked at": {"selection.at": (0.5, 0.9, 1.0)},
    "in stages": {"stages": (Stage(epochs=1, size=4, batch_size=64), Stage(epochs=1, batch_size=128))},
}


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    """Measuring leaves the process as it was."""
    recipes = [override(tiny_recipe(), changes) for changes in CHANGES.values()]
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(2)
        made = estimate(recipes, CPU)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), random)
    return dict(zip(CHANGES, made.costs, strict=True))


def test_operations_are_those_of_the_training_loop(costs: dict[str, Cost]) -> None:
    """Of a whole run, but for its judging: counted with two numbers of held-out images, that can be told apart."""

    def run(validation: int) -> int:
        recipe = tiny_recipe()
        data = recipe.data.load(validation=recipe.validation)
        data = replace(data, validation=data.validation.take(torch.arange(validation)))
        state = TrainState.initial(recipe, data.spec(), CPU)
        with CountFlops() as counted:
            for _ in fit(state, recipe, data):
                pass
        return counted.total

    assert run(1) * 0.995 < costs["n_fgsm"].flops < run(1)
    assert costs["pgd-14"].flops / costs["pgd-7"].flops == pytest.approx((2 * 14 + 3) / (2 * 7 + 3), rel=0.01)
    assert costs["liet"].flops / costs["pgd-7"].flops == pytest.approx(7 / (2 * 7 + 3), rel=0.01), "but for directions"
    assert costs["on two workers"].flops == costs["n_fgsm"].flops
    assert 0.5 < costs["in stages"].flops / costs["n_fgsm"].flops < 0.75, (
        "the first half of it on a quarter of the pixels"
    )


def test_what_does_not_change_the_work_is_measured_once(costs: dict[str, Cost]) -> None:
    """To the bit: two measurements would differ."""
    first, same = costs["n_fgsm"], costs["the same work"]
    assert (first.flops, first.train_seconds, first.seconds) == (same.flops, same.train_seconds, same.seconds)
    assert costs["pgd-14"].train_seconds / costs["pgd-7"].train_seconds == pytest.approx(
        costs["pgd-14"].flops / costs["pgd-7"].flops
    )


def test_a_budget_in_seconds_is_what_training_takes(costs: dict[str, Cost]) -> None:
    first, cut = costs["n_fgsm"], costs["in seconds"]
    assert cut.train_seconds == pytest.approx(0.3)
    assert cut.flops / first.flops == pytest.approx(cut.train_seconds / first.train_seconds)
    begun = math.ceil(cut.train_seconds / (first.train_seconds / 2))
    assert cut.probe_seconds == pytest.approx(begun * first.probe_seconds / 2), "after every epoch that is begun"


def test_what_a_sweep_chooses_by_is_counted(costs: dict[str, Cost]) -> None:
    first, looked = costs["n_fgsm"], costs["looked at"]
    assert looked.probe_seconds > 2 * first.probe_seconds, "20 steps on three targets and one, beside two steps"
    assert (looked.train_seconds, looked.evaluation_seconds) == (first.train_seconds, first.evaluation_seconds)


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (PGD(steps=3, restarts=2), 2 * 4 * 2),
        (APGD(steps=5), 6 * 2),
        (AutoAttack(steps=5, queries=20), 6 * 2 + 9 * (6 * 2 + 1) + 9 * (5 * 3 + 1) + 21),
    ],
)
def test_an_image_that_stands_is_asked_about_to_the_end(
    attack: Attack, passes: int, robust: nn.Module, digits: Split
) -> None:
    """By hand: a look is a gradient, worth two passes; FAB's is one more, and a target one. In earnest it is less."""
    unshakable = Unshakable(classes=10)
    image = Split(digits.images[:1], torch.zeros(1, dtype=torch.int64))
    standing = judge(Victim(unshakable), image.batch(torch.arange(1)), {"attack": attack}, THREAT, seed=0)
    assert all(standing.values())
    stages = len(attack.stages(THREAT, 10))
    assert unshakable.passes == 1 + passes + stages, "and a verdict before, and one after each stage"
    asked = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal asked
        asked += len(inputs[0]) * (2 if inputs[0].requires_grad else 1)

    hook = robust.register_forward_pre_hook(count)
    judge(Victim(robust), digits.batch(torch.arange(20)), {"attack": attack}, THREAT, seed=0)
    hook.remove()
    assert 20 < asked < 20 * unshakable.passes


def test_trials_begin_as_others_end(recipe: Recipe) -> None:
    def cost(seconds: float, workers: int = 1) -> Cost:
        of = override(recipe, {"workers": workers})
        return Cost(recipe=of, flops=2e12, train_seconds=seconds / 2, probe_seconds=0, evaluation_seconds=seconds / 2)

    made = Estimate((cost(3600), cost(5400), cost(1800), cost(3600, workers=2)), "a machine")
    assert [made.wall_seconds(n) for n in (1, 2, 3, 9)] == [14400, 3600 + 1800 + 3600, 5400, 5400]
    assert made.worker_seconds == 14400 + 3600
    console = Console(file=StringIO(), width=120, record=True)
    console.print(cost_table(["n_fgsm lr=0.1", "n_fgsm lr=[0.2]", "pgd", "pgd x2"], made, at_once=2, most=3))
    text = console.export_text()
    assert "4 trials, of which the first 3" in text
    assert "n_fgsm lr=[0.2]  linf 0.1  0     2 epochs  2      2700.0   2700.0     5400.0" in text
    assert "pgd x2" not in text
    assert "together 5.0 h of workers' time; 2 at a time, over in 2.5 h" in text
    assert "a machine" in text


def test_a_batch_of_all_the_images_can_be_measured(recipe: Recipe) -> None:
    """Fewer of them are timed than are asked for."""
    machine = Machine(CPU)
    count = len(machine.data(recipe)[0].train)
    flops, seconds = machine.batch(recipe, Stage(epochs=1, batch_size=count))
    assert flops == pytest.approx(machine.batch(recipe, Stage(epochs=1, batch_size=1))[0] * count)
    assert seconds > 0
