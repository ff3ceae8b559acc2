from __future__ import annotations

import math
from dataclasses import replace

import pytest

from quench import Choice, LogUniform, Sweep, ThreatModel, Uniform
from quench.errors import InvalidValue
from quench.geometry.l2 import L2
from quench.methods.n_fgsm import NFGSM
from quench.sweep.trials import trials
from quench.training.recipe import Recipe


def test_a_grid_is_every_combination(recipe: Recipe) -> None:
    sweep = Sweep(
        space={"method": Choice("standard", "pgd"), "threat.epsilon": Choice(0.1, "8/255"), "seed": Choice(0, 1)}
    )
    found = trials(recipe, sweep)
    assert len(found) == len({trial.recipe for trial in found}) == 8
    assert {trial.configuration for trial in found} == {"standard", "pgd"}


def test_spaces_follow_one_another_and_may_fix_values(recipe: Recipe) -> None:
    euclidean = ThreatModel(norm=L2(), epsilon=0.5)
    sweep = Sweep(
        space=[{"seed": Choice(0, 1)}, {"threat": euclidean, "method": NFGSM(noise_ratio=3.0)}, {"workers": 2}]
    )
    found = trials(recipe, sweep)
    assert [str(trial.recipe.threat) for trial in found] == ["linf 0.1", "linf 0.1", "l2 0.5", "linf 0.1"]
    assert [trial.configuration for trial in found] == ["n_fgsm", "n_fgsm", "n_fgsm", "n_fgsm x2"]


def test_replicates_share_a_configuration_and_others_do_not(recipe: Recipe) -> None:
    sweep = Sweep(
        space={"method": Choice(NFGSM(), NFGSM(noise_ratio=1.0), "pgd"), "optimizer.lr": 0.1, "seed": Choice(0, 1)}
    )
    names = [trial.configuration for trial in trials(recipe, sweep)]
    assert names == ["n_fgsm noise_ratio=2"] * 2 + ["n_fgsm noise_ratio=1"] * 2 + ["pgd"] * 2


def test_random_search_draws_from_its_seed(recipe: Recipe) -> None:
    space = {
        "threat.epsilon": Uniform(0.1, 0.2),
        "optimizer.lr": LogUniform(1e-3, 1e-1),
        "method": Choice("pgd", "standard"),
    }
    found = trials(recipe, Sweep(space=space, search="random", trials=200))
    again = trials(recipe, Sweep(space=space, search="random", trials=200))
    other = trials(recipe, Sweep(space=space, search="random", trials=200, seed=1))
    assert found == again != other
    assert all(0.1 <= trial.recipe.threat.epsilon <= 0.2 for trial in found)
    below = sum(trial.recipe.optimizer.lr < math.sqrt(1e-3 * 1e-1) for trial in found)
    assert 70 < below < 130, "half of the draws lie below the geometric mean"


def test_trials_cap_a_grid(recipe: Recipe) -> None:
    assert len(trials(recipe, Sweep(space={"seed": Choice(*range(10))}, trials=3))) == 3


def test_seeds_replicate_every_configuration(recipe: Recipe) -> None:
    found = trials(recipe, Sweep(space={"method": Choice("pgd", "standard", "fgsm")}, seeds=(0, 1), trials=2))
    assert [(trial.configuration, trial.recipe.seed, trial.candidate) for trial in found] == [
        ("pgd", 0, 0),
        ("pgd", 1, 0),
        ("standard", 0, 1),
        ("standard", 1, 1),
    ]


def test_constraints_leave_out_what_breaks_them(recipe: Recipe) -> None:
    space = {"threat.epsilon": Choice(0.1, 0.2), "method.step_ratio": Choice(0.5, 1.0)}
    found = trials(recipe, Sweep(space=space, constraints=("method.step_ratio * threat.epsilon <= 0.1",)))
    assert [trial.recipe.threat.epsilon for trial in found] == [0.1, 0.1, 0.2]
    for impossible in (Sweep(space=space, search="random", trials=2), Sweep(space=space)):
        with pytest.raises(InvalidValue, match="refuse"):
            trials(recipe, replace(impossible, constraints=("threat.epsilon > 1",)))


def test_schedulers_look_at_shares_of_the_budget(recipe: Recipe) -> None:
    shares = {
        name: Sweep(space={}, search="random", trials=1, scheduler=name, grace=0.25).decisions
        if name != "pbt"
        else Sweep(
            space={"optimizer.lr": Uniform(0, 1)}, search="random", trials=1, scheduler="pbt", grace=0.25
        ).decisions
        for name in ("fifo", "asha", "halving", "pbt")
    }
    assert shares == {"fifo": (), "asha": (0.25, 0.5, 1.0), "halving": (1.0,), "pbt": (0.25, 0.5, 0.75, 1.0)}
    (trial,) = trials(recipe, Sweep(space={}, scheduler="asha"))
    assert trial.recipe.selection.at == (0.125, 0.25, 0.5, 1.0)


def test_a_trial_that_cannot_be_run_is_named_before_any_is(recipe: Recipe) -> None:
    with pytest.raises(InvalidValue, match=r"SWEEP\.threat\.epsilon = -1\.0: must be above 0"):
        trials(recipe, Sweep(space={"threat.epsilon": Choice(0.1, -1)}))
    with pytest.raises(
        InvalidValue, match=r"SWEEP\.method\.step = 2: no such field; .*did you mean 'method.step_ratio'"
    ):
        trials(recipe, Sweep(space={"method.step": Choice(2)}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"space": {"seed": Uniform(0, 1)}}, "a grid needs a Choice"),
        ({"space": {}, "search": "random"}, "needs a number of trials"),
        ({"space": {}, "search": "gird"}, "did you mean 'grid'"),
        ({"space": {}, "scheduler": "ahsa"}, "did you mean 'asha'"),
        ({"space": {}, "trials": 0}, "must be above 0"),
        ({"space": {}, "concurrent": 0}, "must be above 0"),
        ({"space": {}, "gpus": 2}, "a worker uses one GPU"),
        ({"space": {}, "rungs": ({},)}, "need scheduler = 'halving'"),
        ({"space": {"seed": Choice(0, 1)}, "seeds": (0, 1)}, "must be empty where the space has `seed`"),
        ({"space": {"seed": Choice(0, 1)}, "scheduler": "halving"}, "give `seeds`"),
        ({"space": {}, "scheduler": "pbt"}, "must be 'random' with pbt"),
        (
            {"space": {"model": Choice("small_cnn")}, "scheduler": "pbt", "search": "random", "trials": 2},
            "changes it while",
        ),
        ({"space": {}, "constraints": ("lr",)}, "must compare two sides"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        Sweep(**options)  # type: ignore[arg-type]
