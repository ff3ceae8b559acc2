"""The trials of a sweep: recipes, and a word for what each of them has of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from quench.catalogue import name_of
from quench.config import flatten, override
from quench.errors import InvalidValue, require
from quench.sweep import Phase, Sweep
from quench.sweep.space import Assignment, from_data, to_data
from quench.training.recipe import Recipe

REFUSALS = 1000
"""configurations that constraints may refuse, for each that they allow, before a search is given up"""


@dataclass(frozen=True)
class Trial:
    """One recipe of a sweep, and where it stands in it."""

    configuration: str
    """a word for what it shares with its replicates (other seeds)"""
    recipe: Recipe
    phase: Phase = "search"
    rung: int = 0
    candidate: int = 0
    """number of the configuration"""
    assignment: Assignment = field(default_factory=Assignment, compare=False)
    """what was chosen for it"""
    memo: Any = field(default=None, compare=False)
    """what the search wants to know of it later"""

    @staticmethod
    def of(recipe: Recipe, configuration: str, about: Mapping[str, Any]) -> Trial:
        """The inverse of `about`."""
        return Trial(configuration, recipe, **{**about, "assignment": from_data(about["assignment"])})

    def about(self) -> dict[str, Any]:
        """Plain data, for the run's record."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("configuration", "recipe")}
        return own | {"assignment": to_data(self.assignment)}


def trials(recipe: Recipe, sweep: Sweep) -> list[Trial]:
    """Every trial of the sweep; of an adaptive one, trials as it may begin with.

    Raises `InvalidValue` for the first that cannot be run, and if constraints leave none or next to none.
    """
    found: list[Trial] = []
    candidates = refused = 0
    for assignment in sweep.assignments(recipe):
        if candidates == sweep.trials:
            break
        made = [build(recipe, sweep, assignment, seed) for seed in sweep.seeds or (None,)]
        if not all(map(sweep.allows, made)):
            refused += 1
            require(
                refused < REFUSALS * (candidates + 1),
                "constraints",
                sweep.constraints,
                "refuse nearly all that is drawn",
            )
            continue
        found += [Trial("", one, candidate=candidates, assignment=assignment) for one in made]
        candidates += 1
    require(bool(found), "constraints", sweep.constraints, "refuse every combination")
    words = _what_varies([trial.recipe for trial in found])
    return [
        replace(trial, configuration=" ".join([configuration(trial.recipe), *words[trial.recipe]])) for trial in found
    ]


def build(recipe: Recipe, sweep: Sweep, assignment: Assignment, seed: int | None, **changes: object) -> Recipe:
    """The recipe of a trial: `changes`, by dotted keys, over the assignment over the experiment's recipe."""
    looks: Assignment = {"selection.at": sweep.decisions} if sweep.decisions else {}
    if sweep.population:
        looks["guard.action"] = "record"  # the others are a collapsed member's guard
    elif sweep.decisions and recipe.guard.action == "record":
        looks["guard.action"] = "stop"  # who is lost gives its place to the next
    seeds = {} if seed is None else {"seed": seed}
    try:
        return override(recipe, {**looks, **assignment, **seeds, **changes})
    except InvalidValue as error:
        raise error.under("SWEEP") from None


def configuration(recipe: Recipe) -> str:
    """`n_fgsm`, or `n_fgsm x2` on two workers."""
    return name_of(recipe.method) + (f" x{recipe.workers}" if recipe.workers > 1 else "")


def words_for(recipe: Recipe, assignment: Assignment) -> list[str]:
    """`["lr=0.1"]`: the recipe's values at these keys, and under those with a whole part, but what names it anyway."""
    names = [key for key in assignment if key.partition(".")[0] not in ("threat", "seed", "evaluation", "reliability")]
    whole = tuple(f"{key}." for key in names if not isinstance(assignment[key], str))
    return [
        _word(key, value)
        for key, value in flatten(recipe).items()
        if (key in names and key not in ("method", "workers")) or key.startswith(whole)
    ]


def _word(key: str, value: object) -> str:
    return f"{key.rpartition('.')[2]}={value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"


def _what_varies(recipes: Sequence[Recipe]) -> dict[Recipe, list[str]]:
    """`["lr=0.1"]`: what tells a recipe from others of its threat model and configuration, seeds aside."""
    values: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    flat = {one: {key: value for key, value in flatten(one).items() if key != "seed"} for one in recipes}
    for one, leaves in flat.items():
        for key, value in leaves.items():
            values[str(one.threat), configuration(one), key].add(repr(value))
    return {
        one: [
            _word(key, value)
            for key, value in leaves.items()
            if len(values[str(one.threat), configuration(one), key]) > 1
        ]
        for one, leaves in flat.items()
    }
