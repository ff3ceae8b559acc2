"""What to vary and how much of it to try, as data."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

from quench.catalogue import name_of
from quench.config import flatten, override
from quench.errors import InvalidValue, one_of, positive, require
from quench.training.recipe import Recipe


@dataclass(frozen=True, init=False)
class Choice:
    """One of the given values: numbers, names of plug-ins, or whole parts such as a `ThreatModel`."""

    options: tuple[object, ...]

    def __init__(self, *options: object) -> None:
        require(len(options) > 0, "options", options, "must hold at least one value")
        object.__setattr__(self, "options", options)

    def draw(self, rng: random.Random) -> object:
        return rng.choice(self.options)


@dataclass(frozen=True)
class Uniform:
    """Any number from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(self.low < self.high, "high", self.high, f"must be above low = {self.low}")

    def draw(self, rng: random.Random) -> object:
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """Any number from `low` to `high`, every factor equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        require(0 < self.low < self.high, "low", self.low, f"must be between 0 and high = {self.high}")

    def draw(self, rng: random.Random) -> object:
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))


Distribution = Choice | Uniform | LogUniform
Space = Mapping[str, object]
"""dotted key of the recipe -> a distribution, or one value for all trials of this space"""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many recipes from one: a grid of all choices, or random draws."""

    space: Space | Sequence[Space]
    """what varies; of several spaces, the trials of one after the other"""
    search: Literal["grid", "random"] = "grid"
    """every combination of the choices, or `trials` draws"""
    trials: int | None = None
    """how many trials: needed for random search, and the most that a grid may run"""
    scheduler: Literal["fifo", "asha"] = "fifo"
    """let every trial run to its end, or stop those that lag behind at the same epoch (arXiv 1810.05934)"""
    concurrent: int | None = None
    """trials at the same time; as many as there are resources for if not given"""
    seed: int = 0
    """of random search"""

    def __post_init__(self) -> None:
        positive(self, "trials", "concurrent")
        for key, valid in {"search": ("grid", "random"), "scheduler": ("fifo", "asha")}.items():
            require(getattr(self, key) in valid, key, getattr(self, key), one_of(str(getattr(self, key)), valid))
        require(
            self.search == "grid" or self.trials is not None, "trials", None, "random search needs a number of trials"
        )
        require(len(self.spaces) > 0, "space", self.space, "must hold at least one space")
        for space in self.spaces:
            for key, values in space.items():
                enough = self.search == "random" or not isinstance(values, Uniform | LogUniform)
                require(enough, key, values, "a grid needs a Choice; use search='random' for ranges")

    @property
    def spaces(self) -> Sequence[Space]:
        return (self.space,) if isinstance(self.space, Mapping) else self.space

    @property
    def keys(self) -> set[str]:
        """Every dotted key that varies."""
        return {key for space in self.spaces for key in space}

    def assignments(self) -> Iterator[dict[str, object]]:
        """Dotted key -> value, for one trial after the other."""
        return islice(self._grid() if self.search == "grid" else self._random(), self.trials)

    def _grid(self) -> Iterator[dict[str, object]]:
        for space in self.spaces:
            choices = [v.options if isinstance(v, Choice) else (v,) for v in space.values()]
            for combination in product(*choices):
                yield dict(zip(space, combination, strict=True))

    def _random(self) -> Iterator[dict[str, object]]:
        rng = random.Random(self.seed)
        while True:
            space = rng.choice(self.spaces)
            yield {key: v.draw(rng) if isinstance(v, Distribution) else v for key, v in space.items()}


@dataclass(frozen=True)
class Trial:
    """One recipe of a sweep, and a word for what it shares with its replicates (other seeds)."""

    configuration: str
    recipe: Recipe


def trials(recipe: Recipe, sweep: Sweep) -> list[Trial]:
    """Every trial of the sweep, checked: raises `InvalidValue` for the first that cannot be run."""
    recipes: list[Recipe] = []
    for assignment in sweep.assignments():
        try:
            recipes.append(override(recipe, assignment))
        except InvalidValue as error:
            raise error.under("SWEEP") from None
    words = _what_varies(recipes)
    return [Trial(" ".join([configuration(one), *words[one]]), one) for one in recipes]


def configuration(recipe: Recipe) -> str:
    """`n_fgsm`, or `n_fgsm x2` on two workers."""
    return name_of(recipe.method) + (f" x{recipe.workers}" if recipe.workers > 1 else "")


def _what_varies(recipes: Sequence[Recipe]) -> dict[Recipe, list[str]]:
    """`["lr=0.1"]`: what tells a recipe from others of its threat model and configuration, seeds aside."""
    values: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    flat = {one: {key: value for key, value in flatten(one).items() if key != "seed"} for one in recipes}
    for one, leaves in flat.items():
        for key, value in leaves.items():
            values[str(one.threat), configuration(one), key].add(repr(value))
    return {
        one: [
            f"{key.rpartition('.')[2]}={value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
            for key, value in leaves.items()
            if len(values[str(one.threat), configuration(one), key]) > 1
        ]
        for one, leaves in flat.items()
    }
