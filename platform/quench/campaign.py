"""What is left of a sweep, one run after the other: begun ones first, then what its results propose."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from quench.config import decode, encode
from quench.experiment import Experiment
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep import Sweep
from quench.sweep.proposals import Proposals
from quench.sweep.search import Outcome
from quench.sweep.trials import Trial, trials
from quench.training.recipe import Recipe


class Campaign:
    """A sweep in the hands of one process. Its records are all that it knows: made anew, it goes on where it was."""

    def __init__(self, made: SweepRecord, **changes: Any) -> None:
        """`changes` of the plan for this time, such as another `time_budget`; None for none."""
        self.made = made
        self.plan = replace(plan_of(made), **{key: value for key, value in changes.items() if value is not None})
        self._deadline = time.monotonic() + (self.plan.time_budget or float("inf"))
        self._queues: defaultdict[int, deque[Record]] = defaultdict(deque)
        """runs that are left, by their workers"""
        for record in made.records:
            if record.unfinished:
                self._queues[record.recipe.workers].append(record)
        self.told = [record for record in made.records if record.status != "waiting"]
        """runs whose logs may have something to say; more are added, some of them again"""
        self._before: dict[Record, int] = {}
        self._proposals = self._replayed() if self.plan.adaptive else None

    @property
    def over(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() >= self._deadline

    @property
    def workers(self) -> list[int]:
        """Of each run that is left; each number once."""
        return sorted({recipe.workers for recipe in self._recipes()})

    @property
    def streams(self) -> bool:
        """Whether images of any run are decoded while it trains."""
        return any(recipe.data.streams for recipe in self._recipes())

    @cached_property
    def recipe(self) -> Recipe:
        """The experiment's, over which the trials' values are laid."""
        return decode(Recipe, self.made.about["recipe"])

    def rest(self, workers: int) -> list[Record]:
        """All runs of so many workers that are left, where none depends on the results of others."""
        return [record for record in iter(lambda: self.next(workers), None) if isinstance(record, Record)]

    def next(self, workers: int) -> Record | Literal["wait"] | None:
        """A run of so many workers; "wait" if that depends on how others end; None after the last."""
        if self.over:
            return None
        if queue := self._queues[workers]:
            found = queue.popleft()
        elif self._proposals is not None and self.recipe.workers == workers:
            trial = self._proposals.next()
            if not isinstance(trial, Trial):
                return trial
            found = self.made.add(trial)
            self._proposals.begun(trial)
        else:
            return None
        self._before[found] = found.progress
        self.told.append(found)
        return found

    def ended(self, record: Record, died: bool = False) -> None:
        """Take note that a run is no longer being carried out; one that `died` after some progress is due again."""
        if died and record.progress > self._before[record]:
            self._queues[record.recipe.workers].append(record)
        elif self._proposals is not None and not self.over:
            self._proposals.ended(_trial(record), outcome(record))

    def settle(self) -> None:
        """Say of all that has not come to its end that it was interrupted."""
        self.told += self.made.records
        for record in self.made.records:
            if record.unfinished:
                record.settle("interrupted", "")

    def _recipes(self) -> list[Recipe]:
        proposed = [] if self._proposals is None else [self.recipe]
        return [*proposed, *(record.recipe for queue in self._queues.values() for record in queue)]

    def _replayed(self) -> Proposals:
        trials = {record: _trial(record) for record in self.made.records}
        candidates = {(str(trial.recipe.threat), trial.candidate) for trial in trials.values()}
        proposals = Proposals(self.recipe, self.plan, Counter(threat for threat, _ in candidates))
        for trial in trials.values():
            proposals.begun(trial)
        for record, trial in trials.items():
            if not record.unfinished:
                proposals.ended(trial, outcome(record))
        return proposals


def begin(directory: Path, experiment: Experiment, recipe: Recipe, plan: Sweep, **asked: Any) -> SweepRecord:
    """A new sweep's folder: what was `asked` for, and a record for each of its trials, if they are known already."""
    about = {"file": str(experiment.path), **asked, "recipe": encode(recipe), **plan.to_data()}
    return SweepRecord.create(directory, experiment.name, [] if plan.adaptive else trials(recipe, plan), about)


def plan_of(made: SweepRecord) -> Sweep:
    """What was planned; of sweeps of earlier versions, which have begun all their trials, what still matters."""
    about = made.about
    if "recipe" not in about:
        return Sweep(space={}, scheduler=about["scheduler"], concurrent=about["concurrent"])
    return Sweep.from_data({field.name: about[field.name] for field in fields(Sweep)})


def outcome(record: Record) -> Outcome:
    """What a run that has ended means to the search."""
    metrics = [entry["metrics"] for entry in record.entries("epoch")]
    looks = [one["selection_accuracy"] for one in metrics if "selection_accuracy" in one]
    lost = record.status not in ("finished", "stopped") or not looks
    clean, seconds = (metrics[-1]["clean_accuracy"], metrics[-1]["train_seconds"]) if metrics else (0.0, 0.0)
    return Outcome(0.0 if lost else looks[-1], clean, seconds)


def _trial(record: Record) -> Trial:
    return Trial.of(record.recipe, record.about["configuration"], record.about["trial"])
