"""What to run next, from what has come of earlier runs: search, promotion, confirmation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from quench.catalogue import name_of
from quench.config import flatten, override
from quench.errors import InvalidValue, require
from quench.sweep import Choice, Phase, Sweep
from quench.sweep.search import GridSearch, OptunaSearch, Outcome, RandomSearch, Search
from quench.sweep.space import Assignment, Space, enumerated
from quench.sweep.trials import REFUSALS, Trial, build, configuration, words_for
from quench.training.recipe import Recipe


class _Stage(NamedTuple):
    """Runs of one configuration that count together: one for each seed."""

    candidate: int
    phase: Phase
    rung: int


@dataclass
class Race:
    """The configurations for one threat model: robust accuracies under different ones do not compare.

    Successive halving as in ASHA (arXiv 1810.05934), but each rung is a run of its own, from its beginning to the end
    of its schedule. With one rung that is plain search. All that it knows is what `begun` and `ended` have told it.
    """

    recipe: Recipe
    sweep: Sweep
    search: Search
    quota: int | None
    """configurations to try, if not as many as the search has"""
    rungs: Sequence[Space]
    assignments: dict[int, tuple[Assignment, Any]] = field(default_factory=dict[int, tuple[Assignment, Any]])
    """candidate -> what was chosen for it, and the search's memo"""
    stages: dict[_Stage, dict[int, Outcome | None]] = field(default_factory=dict[_Stage, dict[int, "Outcome | None"]])
    """seed -> what came of it, None until it has ended; only those that were begun"""

    def next(self) -> Trial | Literal["wait"] | None:
        """A trial to run; None if there will be no more."""
        for stage, seeds in self.stages.items():
            for seed in self._seeds(stage.phase):
                if seed not in seeds:
                    return self._trial(stage, seed)
        stage = self._promotion() or self._fresh()
        if stage is None and not all(self._complete(one) for one in self.stages):
            return "wait"
        stage = stage or self._last_promotion() or self._confirmation()
        return None if stage is None else self._trial(stage, self._seeds(stage.phase)[0])

    def begun(self, trial: Trial) -> None:
        """Take note of a trial that is going to be run, or has been, by this process or another."""
        self.assignments.setdefault(trial.candidate, (trial.assignment, trial.memo))
        stage = _Stage(trial.candidate, trial.phase, trial.rung)
        self.stages.setdefault(stage, {})[trial.recipe.seed] = None

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Take note of how it ended."""
        stage = _Stage(trial.candidate, trial.phase, trial.rung)
        self.stages[stage][trial.recipe.seed] = outcome
        if trial.phase == "search" and self._complete(stage):
            self.search.tell(trial.candidate, self.assignments[trial.candidate][1], self._mean(stage))

    def _seeds(self, phase: Phase) -> Sequence[int]:
        if phase == "confirmation" and self.sweep.confirm is not None:
            return self.sweep.confirm.seeds
        return self.sweep.seeds or (self.recipe.seed,)

    def _complete(self, stage: _Stage) -> bool:
        return all(self.stages[stage].get(seed) is not None for seed in self._seeds(stage.phase))

    def _mean(self, stage: _Stage) -> Outcome:
        outcomes = [outcome for outcome in self.stages[stage].values() if outcome is not None]
        return Outcome(*(sum(values) / len(values) for values in zip(*outcomes, strict=True)))

    def _ranked(self, rung: int) -> list[int]:
        """The candidates that are through with a rung, the most robust first."""
        done = [s for s in self.stages if s == self._at(s.candidate, rung) and self._complete(s)]
        return [stage.candidate for stage in sorted(done, key=lambda stage: -self._mean(stage).selection)]

    @staticmethod
    def _at(candidate: int, rung: int) -> _Stage:
        """A candidate's runs in a rung; those of its confirmation come after."""
        return _Stage(candidate, "promotion" if rung else "search", rung)

    def _good(self, rung: int) -> list[int]:
        """The `_ranked` that are robust at all."""
        return [one for one in self._ranked(rung) if self._mean(self._at(one, rung)).selection > 0]

    def _promotion(self) -> _Stage | None:
        """Who is among the best 1 / reduction of a rung and not yet in the next, from the highest rung down."""
        for rung in reversed(range(len(self.rungs) - 1)):
            ranked = self._ranked(rung)
            for candidate in ranked[: len(ranked) // self.sweep.reduction]:
                stage = self._at(candidate, rung + 1)
                if stage not in self.stages:
                    return stage
        return None

    def _last_promotion(self) -> _Stage | None:
        """When all is done and too few have come to the last rung: who came nearest to it."""
        top = len(self.rungs) - 1
        wanted = self.sweep.confirm.finalists if self.sweep.confirm else 1
        if sum(stage.phase != "confirmation" and stage.rung == top for stage in self.stages) >= wanted:
            return None
        next_up = (self._at(one, rung + 1) for rung in reversed(range(top)) for one in self._good(rung))
        return next((stage for stage in next_up if stage not in self.stages), None)

    def _fresh(self) -> _Stage | None:
        """A configuration that was not tried yet."""
        for _ in range(REFUSALS):
            tried = {stage.candidate for stage in self.stages}
            number = max(self.assignments, default=-1) + 1
            asked = None if len(tried) == self.quota else self.search.ask(number)
            if asked is None:
                return None
            self.assignments[number] = asked
            if self._runs(asked[0]):
                return self._at(number, 0)
            self.search.tell(number, asked[1], Outcome(0.0, 0.0, 0.0))
        raise InvalidValue("SWEEP.constraints", self.sweep.constraints, "refuse nearly all that is drawn")

    def _runs(self, assignment: Assignment) -> bool:
        try:
            return self.sweep.allows(build(self.recipe, self.sweep, assignment, None))
        except InvalidValue:
            return False

    def _confirmation(self) -> _Stage | None:
        if self.sweep.confirm is None:
            return None
        top = len(self.rungs) - 1
        stages = [_Stage(one, "confirmation", top) for one in self._good(top)[: self.sweep.confirm.finalists]]
        return next((stage for stage in stages if stage not in self.stages), None)

    def _trial(self, stage: _Stage, seed: int) -> Trial:
        assignment, memo = self.assignments[stage.candidate]
        changes, words = dict(self.rungs[stage.rung]), list[str]()
        if stage.phase == "confirmation" and self.sweep.confirm is not None:
            changes |= {"evaluation": self.sweep.confirm.evaluation}
            words = ["confirmed"]
        recipe = build(self.recipe, self.sweep, assignment, seed, **changes)
        name = " ".join([configuration(recipe), *words_for(recipe, {**assignment, **self.rungs[stage.rung]}), *words])
        return Trial(name, recipe, stage.phase, stage.rung, stage.candidate, assignment, memo)


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
