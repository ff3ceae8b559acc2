"""`quench scaling`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from quench.campaign import begin
from quench.carry_out import carry_out_sweep
from quench.config import override
from quench.errors import InvalidValue, require
from quench.experiment import Experiment
from quench.storage import new_directory
from quench.sweep import Choice, Space, Sweep
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import Recipe


def scaling(arguments: Namespace, changes: dict[str, Any]) -> int:
    """The recipe on each number of workers, one run after the other, and what the workers bought."""
    experiment = Experiment.load(arguments.experiment)
    recipe = override(experiment.recipe, changes)
    allowed = "varied by `quench scaling`; give its options --on and --seeds"
    for key in {"workers", "seed"} & changes.keys():
        raise InvalidValue(key, changes[key], allowed)
    if not isinstance(recipe.budget, Epochs):
        raise InvalidValue("budget", "seconds", "must be in epochs: equal seconds would not tell what workers save")
    require(min(arguments.on) > 0, "on", arguments.on, "must be numbers of workers above 0")
    require(arguments.seeds > 0, "seeds", arguments.seeds, "must be above 0")
    plan = Sweep(space=_spaces(recipe, sorted(set(arguments.on)), arguments.seeds), concurrent=1)
    place = new_directory(arguments.storage, experiment.name)
    return carry_out_sweep(arguments, begin(place, experiment, recipe, plan, overrides=changes, scaling=True))


def _spaces(recipe: Recipe, workers: Sequence[int], seeds: int) -> list[Space]:
    """The same batch on all numbers of workers, then batches in proportion to them."""
    replicates = Choice(*range(recipe.seed, recipe.seed + seeds))
    strong: Space = {"workers": Choice(*workers), "seed": replicates}
    weak = [{"workers": n, "batch_size": recipe.batch_size * n // workers[0], "seed": replicates} for n in workers[1:]]
    return [strong, *weak]
