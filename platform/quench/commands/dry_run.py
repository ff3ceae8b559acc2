"""`quench sweep --dry-run`."""

from __future__ import annotations

import random
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from quench.console import terminal
from quench.cost import estimate
from quench.sweep import Sweep
from quench.sweep.proposals import Proposals
from quench.sweep.search import Outcome
from quench.sweep.trials import Trial
from quench.tables import cost_table
from quench.training.recipe import Recipe


def dry_run(arguments: Namespace, recipe: Recipe, plan: Sweep, chosen: Sequence[Trial]) -> int:
    """Say what would be run, what it will cost, and how much of it at once; nothing is recorded."""
    from quench.distributed.cluster import connected

    console = terminal()
    with connected(arguments.address, 1) as ray:
        workers = max(trial.recipe.workers for trial in chosen)
        room = ray.room(workers, any(trial.recipe.data.streams for trial in chosen), plan.gpus)
        at_once = min(plan.concurrent or room, room)
        has = f"{ray.cpus} CPUs, {ray.gpus} GPUs"
    expected = imagined(recipe, plan) if plan.adaptive else chosen
    cost = estimate([trial.recipe for trial in expected])
    console.print(cost_table([trial.configuration for trial in expected], cost, at_once))
    phases = Counter(f"{trial.phase}, rung {trial.rung}" if plan.adaptive else trial.phase for trial in expected)
    lines = [f"the cluster has {has}: {at_once} at once"]
    if plan.adaptive:
        lines += ["which they are depends on results; " + "; ".join(f"{n} of {phase}" for phase, n in phases.items())]
    if plan.scheduler in ("asha", "hyperband"):
        lines += [f"{plan.scheduler} will stop some of them before their end"]
    if plan.time_budget:
        lines += [f"interrupted after {plan.time_budget:g} s"]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def imagined(recipe: Recipe, plan: Sweep) -> list[Trial]:
    """What an adaptive sweep may come to: its trials if results were chance."""
    chance = random.Random(plan.seed)
    search = plan.search if plan.search == "grid" else "random"
    proposals, found = Proposals(recipe, replace(plan, search=search), {}), list[Trial]()
    while isinstance(trial := proposals.next(), Trial):
        proposals.begun(trial)
        proposals.ended(trial, Outcome(chance.random(), 0.0, 0.0))
        found.append(trial)
    return found
