"""What to vary and how much of it to try, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from quench.attacks import Attack
from quench.attacks.autoattack import AutoAttack
from quench.config import decode, encode, flatten
from quench.errors import one_of, positive, require
from quench.sweep.constraints import check, holds
from quench.sweep.space import (
    Assignment,
    Chance,
    Choice,
    Fraction,
    Integers,
    LogUniform,
    Option,
    Space,
    Uniform,
    draw,
    enumerated,
    from_data,
    keys,
    to_data,
)
from quench.training.recipe import Recipe

__all__ = ["Choice", "Confirm", "Fraction", "Integers", "LogUniform", "Option", "Space", "Sweep", "Uniform"]

Search = Literal["grid", "random", "tpe", "nsga2"]
Scheduler = Literal["fifo", "asha", "hyperband", "halving", "pbt", "pb2"]
Phase = Literal["search", "promotion", "confirmation"]


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """The best by one look are partly the luckiest: before any is called best, it is trained on seeds not seen yet."""

    finalists: int = 3
    """configurations for each threat model, by their accuracy on held-out images"""
    seeds: tuple[int, ...] = (1000, 1001, 1002)
    """of the new runs"""
    evaluation: Attack = field(default_factory=AutoAttack)
    """attack on the test images when they are over"""

    def __post_init__(self) -> None:
        positive(self, "finalists")
        require(len(self.seeds) > 0, "seeds", self.seeds, "must hold at least one seed")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many recipes from one, and how to spend time on those that deserve it."""

    space: Space | Sequence[Space]
    """what varies; of several spaces, the trials of one after the other, or of any"""
    constraints: tuple[str, ...] = ()
    """what all trials keep to, such as "method.step_ratio * threat.epsilon <= 10/255"; others are not tried"""
    seeds: tuple[int, ...] = ()
    """every configuration is run with each of these; the recipe's own if none are given"""
    search: Search = "grid"
    """every combination of the choices; or `trials` of them, drawn at random, or by Optuna: by TPE for the most robust,
    by NSGA-II for clean accuracy, robust accuracy and train seconds at once"""
    trials: int | None = None
    """how many configurations: needed unless search is grid, and the most that a grid may run"""
    scheduler: Scheduler = "fifo"
    """let every trial run to its end; or stop those that lag behind at the same share of the budget, by asha (arXiv
    1810.05934) or by several of its kind that begin later (hyperband); or begin with complete short runs, the best of
    which are run again for longer (halving); or let the worst go on from the best with other numbers (pbt, arXiv
    1711.09846; pb2, arXiv 2002.02518)"""
    grace: float = 0.125
    """share of the budget at the first such decision; of pbt and pb2, also between decisions"""
    reduction: int = 2
    """one in so many is kept at each decision; the next is after so many times the budget"""
    rungs: tuple[Space, ...] = ()
    """of halving: what replaces the recipe's values in the runs of each rung; epochs or seconds, and as well attack
    steps, images or the final evaluation. By default the budget, and no check of reliability but in the last"""
    confirm: Confirm | None = None
    """run the best again on other seeds"""
    concurrent: int | None = None
    """trials at the same time; as many as there are resources for if not given"""
    gpus: float = 1.0
    """share of a GPU for each trial of one worker: 0.25 lets four of them use one together"""
    time_budget: float | None = None
    """wall-clock seconds after which the sweep is interrupted"""
    seed: int = 0
    """of everything that is drawn"""

    def __post_init__(self) -> None:
        positive(self, "trials", "concurrent", "time_budget", "gpus")
        for key, valid in {"search": Search, "scheduler": Scheduler}.items():
            value = getattr(self, key)
            require(value in get_args(valid), key, value, one_of(str(value), get_args(valid)))
        require(
            self.search == "grid" or self.trials is not None,
            "trials",
            None,
            f"{self.search} search needs a number of trials",
        )
        require(0 < self.grace < 1, "grace", self.grace, "must be between 0 and 1")
        require(self.reduction > 1, "reduction", self.reduction, "must be 2 or above")
        require(self.gpus <= 1, "gpus", self.gpus, "must be at most 1: a worker uses one GPU")
        require(len(self.spaces) > 0, "space", self.space, "must hold at least one space")
        named = [key for space in self.spaces for key in keys(space)]
        require(not self.seeds or "seed" not in named, "seeds", self.seeds, "must be empty where the space has `seed`")
        allowed = "cannot be searched for; give `seeds`, with which every configuration is run"
        require(not self.adaptive or "seed" not in named, "seed", "in the space", allowed)
        halving = self.scheduler == "halving"
        require(halving or not self.rungs, "rungs", self.rungs, "need scheduler = 'halving'")
        if self.population:
            self._check_population()
        for constraint in self.constraints:
            check(constraint)
        if self.search == "grid":
            for space in self.spaces:
                next(enumerated(space))

    def _check_population(self) -> None:
        allowed = f"must be 'random' with {self.scheduler}, without seeds and confirm: a population is drawn once"
        once = self.search == "random" and not self.seeds and self.confirm is None
        require(once, "search", self.search, allowed)
        require(len(self.spaces) == 1, "space", self.space, f"must be a single one with {self.scheduler}")
        kinds = (Uniform,) if self.scheduler == "pb2" else (Uniform, LogUniform, Choice)
        for key, values in self.spaces[0].items():
            changes = isinstance(values, kinds) and key.startswith(("method.", "optimizer."))
            allowed = f"must be a number of method or optimizer, {' or '.join(kind.__name__ for kind in kinds)}: "
            require(changes, key, values, f"{allowed}{self.scheduler} changes it while runs go on")

    @property
    def population(self) -> bool:
        """Whether runs take over from each other."""
        return self.scheduler in ("pbt", "pb2")

    @property
    def spaces(self) -> Sequence[Space]:
        return (self.space,) if isinstance(self.space, Mapping) else self.space

    @property
    def keys(self) -> set[str]:
        """Every dotted key that varies."""
        return {key for space in self.spaces for key in keys(space)}

    @property
    def adaptive(self) -> bool:
        """Whether what is tried next depends on what came of earlier trials."""
        return self.search in ("tpe", "nsga2") or self.scheduler == "halving" or self.confirm is not None

    @property
    def decisions(self) -> tuple[float, ...]:
        """The shares of the budget after which a scheduler looks at runs."""
        if self.population:
            return tuple(n * self.grace for n in range(1, int(1 / self.grace) + 1))
        if self.scheduler == "fifo" and not self.adaptive:
            return ()
        if self.scheduler in ("fifo", "halving"):
            return (1.0,)
        return self.shares

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the budget, from `grace` on, each `reduction` times the one before."""
        found = [self.grace]
        while found[-1] * self.reduction < 1:
            found.append(found[-1] * self.reduction)
        return (*found, 1.0)

    def allows(self, recipe: Recipe) -> bool:
        """Whether all constraints hold."""
        flat = flatten(recipe)
        return all(holds(one, flat) for one in self.constraints)

    def assignments(self, base: Recipe) -> Iterator[Assignment]:
        """Dotted key -> value, of one configuration after the other, if results do not matter; seeds aside."""
        if self.search == "grid":
            for space in self.spaces:
                yield from enumerated(space)
            return
        chance, known = Chance(self.seed), flatten(base)
        while True:
            yield draw(self.spaces[chance.one_of("space", len(self.spaces))], chance, known)

    def to_data(self) -> dict[str, Any]:
        """Plain data, for `sweep.json`."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("space", "rungs")}
        return encode(plain) | {"space": [*map(to_data, self.spaces)], "rungs": [*map(to_data, self.rungs)]}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Sweep:
        """The inverse of `to_data`."""
        kinds = get_type_hints(Sweep)
        plain = {key: decode(kinds[key], value) for key, value in data.items() if key not in ("space", "rungs")}
        return Sweep(space=from_data(data["space"]), rungs=tuple(from_data(data["rungs"])), **plain)
