"""What to run next, from what has come of earlier runs: a race for each threat model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from quench.catalogue import name_of
from quench.config import flatten, override
from quench.errors import require
from quench.sweep import Choice, Sweep
from quench.sweep.race import Race
from quench.sweep.search import GridSearch, OptunaSearch, Outcome, RandomSearch, Search
from quench.sweep.space import Assignment, Space, enumerated
from quench.sweep.trials import Trial, build
from quench.training.recipe import Recipe


class Proposals:
    """A race for each threat model of a sweep, in turn."""

    def __init__(self, recipe: Recipe, sweep: Sweep, begun: Mapping[str, int]) -> None:
        """`begun`: how many configurations each threat model's race has begun before. Raises `InvalidValue`."""
        parts = list(_by_threat(recipe, sweep))
        threats = list(dict.fromkeys(threat for threat, _ in parts))
        rungs = rungs_of(recipe, sweep)
        for rung in rungs:
            build(recipe, sweep, {}, None, **rung)
        self._races: dict[str, Race] = {}
        for number, threat in enumerate(threats):
            spaces = [space for one, space in parts if one == threat]
            quota = None if sweep.trials is None else len(range(number, sweep.trials, len(threats)))
            search = _search(sweep, spaces, flatten(recipe), number, begun.get(threat, 0))
            self._races[threat] = Race(recipe, sweep, search, quota, rungs)

    def next(self) -> Trial | Literal["wait"] | None:
        """A trial to run, which is to be said to have `begun`; or "wait" for others to end; None after the last."""
        found: set[Trial | Literal["wait"] | None] = set()
        for threat, race in list(self._races.items()):
            self._races[threat] = self._races.pop(threat)  # to the end of the queue
            trial = race.next()
            if isinstance(trial, Trial):
                return trial
            found.add(trial)
        return "wait" if "wait" in found else None

    def begun(self, trial: Trial) -> None:
        """See `Race.begun`."""
        self._races[str(trial.recipe.threat)].begun(trial)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """See `Race.ended`."""
        self._races[str(trial.recipe.threat)].ended(trial, outcome)


def rungs_of(recipe: Recipe, sweep: Sweep) -> Sequence[Space]:
    """What replaces the recipe's values in each rung, the cheapest first."""
    if sweep.scheduler != "halving":
        return ({},)
    if sweep.rungs:
        return sweep.rungs
    kind, whole = name_of(recipe.budget), recipe.budget.amount
    amounts = [share * whole if kind == "seconds" else max(round(share * whole), 1) for share in sweep.shares]
    lower = [{f"budget.{kind}": amount, "reliability": 0} for amount in amounts[:-1]]
    return [*lower, {f"budget.{kind}": amounts[-1]}]


def _by_threat(recipe: Recipe, sweep: Sweep) -> Iterator[tuple[str, Space]]:
    """Every threat model of the sweep, with the rest of a space."""
    for space in sweep.spaces:
        ours = {key: values for key, values in space.items() if key.partition(".")[0] == "threat"}
        for key, values in ours.items():
            allowed = f"must be a Choice: {sweep.search} search with {sweep.scheduler} has a race for each threat model"
            require(isinstance(values, Choice) or not hasattr(values, "draw"), f"SWEEP.{key}", values, allowed)
        rest = {key: values for key, values in space.items() if key not in ours}
        require("workers" not in rest, "SWEEP.workers", rest.get("workers"), "cannot be searched for; set it in RECIPE")
        for threat in enumerated(ours):
            yield str(override(recipe, threat).threat), {**threat, **rest}


def _search(sweep: Sweep, spaces: Sequence[Space], known: Assignment, race: int, begun: int) -> Search:
    if sweep.search == "grid":
        return GridSearch(spaces)
    if sweep.search == "random":
        return RandomSearch(spaces, known, f"{sweep.seed}/{race}")
    # Another seed when it goes on, or it would draw what it has drawn before.
    return OptunaSearch(sweep.search, spaces, known, (sweep.seed * 997 + race) * 9973 + begun)
