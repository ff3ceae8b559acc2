"""Population-based training: the worst go on from the best, with other numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from quench.campaign import Campaign
from quench.config import flatten
from quench.record import Record
from quench.sweep.space import Choice, Distribution, LogUniform, Space, Uniform
from quench.training.budgets import Budget


def population(campaign: Campaign, metric: str) -> TrialScheduler:
    """Tune's PBT (arXiv 1711.09846) or PB2 (arXiv 2002.02518) on records, all of which look at each other at once.

    A member that is collapsed is among the worst, and so goes back to weights that are not.
    """
    plan, budget = campaign.plan, campaign.recipe.budget
    (space,) = plan.spaces
    random.seed(plan.seed)  # it is this generator that Tune draws from
    common: dict[str, Any] = {
        "time_attr": budget.measure,
        "metric": metric,
        "mode": "max",
        "perturbation_interval": budget.amount * plan.grace,
        "synch": True,
        "log_config": False,
        "require_attrs": False,
    }
    if plan.scheduler == "pb2":
        bounds = {key: [values.low, values.high] for key, values in space.items() if isinstance(values, Uniform)}
        scheduler = _pb2(hyperparam_bounds=bounds, **common)
    else:
        scheduler = _PBT(hyperparam_mutations={key: _mutation(values) for key, values in space.items()}, **common)
    scheduler.space, scheduler.budget, scheduler.interval = space, budget, budget.amount * plan.grace
    return scheduler


def _mutation(values: object) -> Any:
    if isinstance(values, Choice):
        return list(values.options)
    if isinstance(values, Uniform):
        return tune.uniform(values.low, values.high)
    assert isinstance(values, LogUniform)
    return tune.loguniform(values.low, values.high)


class _Members(PopulationBasedTraining):
    """Where Tune hands a checkpoint on, a record takes over another's weights and the numbers to go on with."""

    space: Space
    budget: Budget
    interval: float

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        values = flatten(record_of(trial).recipe_now)
        trial.config.update({key: values[key] for key in self.space})
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        spent = result.get(self.budget.measure, 0)
        if spent >= self.budget.amount:
            return TrialScheduler.CONTINUE  # it ends by itself
        # Looks come at the ends of epochs, soon after the time that they are due: to Tune, at that time.
        due = int(spent / self.interval + 1e-9) * self.interval
        return super().on_trial_result(tune_controller, trial, {**result, self.budget.measure: due})

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        new, operations = super()._get_new_config(trial, trial_to_clone)
        numbers = {key: _within(values, new[key]) for key, values in self.space.items()}
        record_of(trial).go_on_from(record_of(trial_to_clone), numbers)
        return {**new, **numbers, "record": trial.config["record"]}, operations


class _PBT(_Members):
    """Numbers are drawn anew, or made a fifth larger or smaller."""


def _pb2(**options: Any) -> _Members:
    """Numbers are chosen by what a Gaussian process expects of them."""
    from ray.tune.schedulers.pb2 import PB2  # and with it scikit-learn, which no other trial's process needs

    return type("_PB2", (_Members, PB2), {})(**options)


def _within(values: object, number: Any) -> Any:
    """Tune makes numbers larger and smaller without a look at their range."""
    ranged = isinstance(values, Distribution) and not isinstance(values, Choice)
    return min(max(number, getattr(values, "low")), getattr(values, "high")) if ranged else number  # noqa: B009


def record_of(tried: Trial) -> Record:
    """What a trial of Tune's carries out."""
    return Record(Path(tried.config["record"]))
