"""Adaptive sweeps with made-up results: what is run next follows from them, whoever asks."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from quench import Choice, LogUniform, Sweep
from quench.config import override
from quench.errors import InvalidValue
from quench.sweep import Confirm, Option, Uniform
from quench.sweep.proposals import Proposals
from quench.sweep.search import Outcome
from quench.sweep.trials import Trial
from quench.training.recipe import Recipe

SPACE = {
    "threat.epsilon": Choice(0.1, 0.2),
    "method": Choice("fgsm_rs", Option("n_fgsm", noise_ratio=Uniform(1, 3))),
    "optimizer.lr": LogUniform(1e-4, 1),
}


@pytest.fixture
def timed(recipe: Recipe) -> Recipe:
    return override(recipe, {"budget": "seconds", "budget.seconds": 16})


def result(trial: Trial) -> Outcome:
    """Best at a learning rate of 0.1, longer runs and N-FGSM, with some luck of the seed."""
    recipe = trial.recipe
    seconds = recipe.budget.amount
    luck = random.Random(f"{recipe.optimizer.lr} {recipe.seed} {seconds}").gauss(0, 0.01)
    robust = 0.6 - 0.2 * abs(math.log10(recipe.optimizer.lr) + 1) - 0.3 / seconds + luck
    return Outcome(max(robust, 0.0), 0.9, seconds)


def carried_out(recipe: Recipe, sweep: Sweep, at_once: int = 4, restart_after: int = -1) -> list[Trial]:
    """Every trial in the order in which they ended; of those that run at once, any may end first."""
    proposals, running, done, asked = Proposals(recipe, sweep, {}), list[Trial](), list[Trial](), 0
    chance = random.Random(0)
    while True:
        asked += 1
        if asked == restart_after:
            candidates = {(str(trial.recipe.threat), trial.candidate) for trial in done + running}
            proposals = Proposals(recipe, sweep, Counter(threat for threat, _ in candidates))
            for trial in done + running:
                proposals.begun(trial)
            for trial in done:
                proposals.ended(trial, result(trial))
        trial = proposals.next() if len(running) < at_once else "wait"
        if isinstance(trial, Trial):
            proposals.begun(trial)
            running.append(trial)
        elif running:
            done.append(running.pop(chance.randrange(len(running))))
            proposals.ended(done[-1], result(done[-1]))
        else:
            assert trial is None, "nothing runs, so there is nothing to wait for"
            return done


OPTIONS: dict[str, dict[str, Any]] = {
    "tpe": {"search": "tpe", "trials": 24},
    "nsga2": {"search": "nsga2", "trials": 24},
    "halving": {"search": "random", "trials": 16, "scheduler": "halving", "seeds": (0, 1)},
    "all": {"search": "tpe", "trials": 16, "scheduler": "halving", "confirm": Confirm(finalists=2, seeds=(7, 8, 9))},
}


@pytest.mark.parametrize("restart_after", [-1, 10, 31])
@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_is_run_twice_and_nothing_forgotten(timed: Recipe, name: str, restart_after: int) -> None:
    """Whether the process that asks is another one half-way or not."""
    sweep = Sweep(space=SPACE, **OPTIONS[name])
    done = carried_out(timed, sweep, restart_after=restart_after)
    assert max(Counter(trial.recipe for trial in done).values()) == 1
    first = [trial for trial in done if trial.phase == "search"]
    seeds = len(sweep.seeds) or 1
    each = Counter(trial.recipe.threat.epsilon for trial in first)
    assert each == {0.1: sweep.trials // 2 * seeds, 0.2: sweep.trials // 2 * seeds}, "threat models share alike"


def test_the_best_of_each_rung_run_again_for_longer(timed: Recipe) -> None:
    done = carried_out(timed, Sweep(space=SPACE, **OPTIONS["halving"]))
    ended: defaultdict[tuple[float, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in done:
        assert trial.recipe.budget.amount == 2 * 2**trial.rung, "complete runs of 2, 4, 8 and 16 seconds"
        ended[trial.recipe.threat.epsilon, trial.rung][trial.candidate].append(result(trial).selection)
    for (epsilon, rung), candidates in ended.items():
        if rung == 3:
            continue
        above = ended[epsilon, rung + 1]
        means = {one: sum(values) / 2 for one, values in candidates.items()}
        ranked = sorted(means, key=lambda one: -means[one])
        assert set(ranked[: len(ranked) // 2]) <= set(above) <= set(candidates), "ASHA never keeps fewer"
        assert all(len(values) == 2 for values in above.values()), "with every seed"


def test_a_few_come_to_the_last_rung_even_of_a_few(timed: Recipe) -> None:
    sweep = Sweep(space={"optimizer.lr": Choice(0.001, 0.1, 0.01)}, scheduler="halving")
    done = carried_out(timed, sweep)
    assert [trial.recipe.optimizer.lr for trial in done if trial.rung == 3] == [0.1]


def test_finalists_are_confirmed_on_fresh_seeds(timed: Recipe) -> None:
    done = carried_out(timed, Sweep(space=SPACE, **OPTIONS["all"]))
    for epsilon in (0.1, 0.2):
        mine = [trial for trial in done if trial.recipe.threat.epsilon == epsilon]
        top = {t.candidate: result(t).selection for t in mine if t.rung == 3 and t.phase != "confirmation"}
        confirmed = [trial for trial in mine if trial.phase == "confirmation"]
        assert {t.candidate for t in confirmed} == set(sorted(top, key=lambda one: -top[one])[:2])
        assert Counter(t.recipe.seed for t in confirmed) == {7: 2, 8: 2, 9: 2}
        assert all(t.recipe.budget.amount == 16 and t.configuration.endswith("confirmed") for t in confirmed)
        assert mine[-len(confirmed) :] == confirmed, "after everything else"


def test_tpe_finds_better_than_chance(timed: Recipe) -> None:
    space = {"optimizer.lr": LogUniform(1e-6, 1), "method.noise_ratio": Uniform(1, 3)}
    means = {}
    for search in ("random", "tpe"):
        sweep = Sweep(space=space, search=search, trials=60, confirm=Confirm(finalists=1, seeds=(7,)))
        late = [trial for trial in carried_out(timed, sweep) if trial.candidate >= 30]
        means[search] = sum(result(trial).selection for trial in late) / len(late)
    assert means["tpe"] > means["random"] + 0.1


def test_constraints_bind_every_trial(timed: Recipe) -> None:
    sweep = Sweep(space=SPACE, constraints=("optimizer.lr <= 10 * threat.epsilon ** 2",), search="tpe", trials=20)
    done = carried_out(timed, sweep, restart_after=20)
    assert len(done) == 20
    assert all(trial.recipe.optimizer.lr <= 10 * trial.recipe.threat.epsilon**2 for trial in done)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"space": {"threat.epsilon": Uniform(0.1, 0.2)}, "search": "tpe", "trials": 3}, "has a race for each threat"),
        ({"space": {"workers": Choice(1, 2)}, "scheduler": "halving"}, "cannot be searched for"),
        ({"space": {}, "scheduler": "halving", "rungs": ({"budget.minutes": 1},)}, "did you mean"),
        (
            {
                "space": SPACE,
                "constraints": ("optimizer.lr < 0",),
                "search": "random",
                "trials": 2,
                "scheduler": "halving",
            },
            "refuse nearly all",
        ),
    ],
)
def test_mistakes_are_named(timed: Recipe, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        Proposals(timed, Sweep(**options), {}).next()
