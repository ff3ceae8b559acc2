"""The configurations that compete under one threat model: who is run next, for how long, and on which seeds."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple

from quench.errors import InvalidValue
from quench.sweep import Phase, Sweep
from quench.sweep.search import Outcome, Search
from quench.sweep.space import Assignment, Space
from quench.sweep.trials import REFUSALS, Trial, build, configuration, words_for
from quench.training.recipe import Recipe

_Rank = tuple[float, int]
"""robust accuracy with its sign turned, and the candidate: sorted, the most robust come first"""


class _Stage(NamedTuple):
    """Runs of one configuration that count together: one for each seed."""

    candidate: int
    phase: Phase
    rung: int


@dataclass
class Race:
    """The configurations for one threat model: robust accuracies under different ones do not compare.

    Successive halving as in ASHA (arXiv 1810.05934), but each rung is a run of its own, from its beginning to the end
    of its schedule. With one rung that is plain search. All that it knows is what `begun` and `ended` have told it, and
    these keep up to date what `next` looks at: the thousandth trial is found as fast as the first.
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

    def __post_init__(self) -> None:
        self._asked = 0
        """number of the next new configuration"""
        self._tried = set[int]()
        """candidates that were begun"""
        self._lacking = dict[_Stage, None]()
        """stages with seeds that were not begun, in the order in which they were"""
        self._running = set[_Stage]()
        """stages with runs that have not ended"""
        self._through: list[list[_Rank]] = [[] for _ in self.rungs]
        """those that are through with each rung"""
        self._stayed: list[list[_Rank]] = [[] for _ in self.rungs]
        """of these, heaps of those that had not begun the next when they were last looked at"""

    def next(self) -> Trial | Literal["wait"] | None:
        """A trial to run; None if there will be no more."""
        stage = next(iter(self._lacking), None) or self._promotion() or self._fresh()
        if stage is None and self._running:
            return "wait"
        stage = stage or self._last_promotion() or self._confirmation()
        if stage is None:
            return None
        begun = self.stages.get(stage, {})
        return self._trial(stage, next(seed for seed in self._seeds(stage.phase) if seed not in begun))

    def begun(self, trial: Trial) -> None:
        """Take note of a trial that is going to be run, or has been, by this process or another."""
        self.assignments.setdefault(trial.candidate, (trial.assignment, trial.memo))
        stage = _Stage(trial.candidate, trial.phase, trial.rung)
        seeds = self.stages.setdefault(stage, {})
        seeds[trial.recipe.seed] = None
        self._asked = max(self._asked, stage.candidate + 1)
        self._tried.add(stage.candidate)
        self._running.add(stage)
        self._lacking[stage] = None
        if all(seed in seeds for seed in self._seeds(stage.phase)):
            del self._lacking[stage]

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Take note of how it ended."""
        stage = _Stage(trial.candidate, trial.phase, trial.rung)
        self.stages[stage][trial.recipe.seed] = outcome
        if not self._complete(stage):
            return
        self._running.remove(stage)
        if stage.phase == "search":
            self.search.tell(stage.candidate, self.assignments[stage.candidate][1], self._mean(stage))
        if stage.phase != "confirmation":
            rank = -self._mean(stage).selection, stage.candidate
            insort(self._through[stage.rung], rank)
            heappush(self._stayed[stage.rung], rank)

    def _seeds(self, phase: Phase) -> Sequence[int]:
        if phase == "confirmation" and self.sweep.confirm is not None:
            return self.sweep.confirm.seeds
        return self.sweep.seeds or (self.recipe.seed,)

    def _complete(self, stage: _Stage) -> bool:
        return all(self.stages[stage].get(seed) is not None for seed in self._seeds(stage.phase))

    def _mean(self, stage: _Stage) -> Outcome:
        outcomes = [outcome for outcome in self.stages[stage].values() if outcome is not None]
        return Outcome(*(sum(values) / len(values) for values in zip(*outcomes, strict=True)))

    @staticmethod
    def _at(candidate: int, rung: int) -> _Stage:
        """A candidate's runs in a rung; those of its confirmation come after."""
        return _Stage(candidate, "promotion" if rung else "search", rung)

    def _next_up(self, rung: int) -> _Rank | None:
        """The most robust that is through with a rung and has not begun the next."""
        stayed = self._stayed[rung]
        while stayed and self._at(stayed[0][1], rung + 1) in self.stages:
            heappop(stayed)
        return stayed[0] if stayed else None

    def _promotion(self) -> _Stage | None:
        """Who is among the best 1 / reduction of a rung and not yet in the next, from the highest rung down."""
        for rung in reversed(range(len(self.rungs) - 1)):
            rank, through = self._next_up(rung), self._through[rung]
            if rank is not None and bisect_left(through, rank) < len(through) // self.sweep.reduction:
                return self._at(rank[1], rung + 1)
        return None

    def _last_promotion(self) -> _Stage | None:
        """When all is done and too few have come to the last rung: who came nearest to it and is robust at all."""
        top = len(self.rungs) - 1
        if len(self._through[top]) >= (self.sweep.confirm.finalists if self.sweep.confirm else 1):
            return None
        next_up = ((self._next_up(rung), rung + 1) for rung in reversed(range(top)))
        return next((self._at(rank[1], rung) for rank, rung in next_up if rank is not None and rank[0] < 0), None)

    def _fresh(self) -> _Stage | None:
        """A configuration that was not tried yet."""
        for _ in range(REFUSALS):
            number = self._asked
            asked = None if len(self._tried) == self.quota else self.search.ask(number)
            if asked is None:
                return None
            self.assignments[number] = asked
            self._asked += 1
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
        best = self._through[top][: self.sweep.confirm.finalists]
        stages = (_Stage(candidate, "confirmation", top) for selection, candidate in best if selection < 0)
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
