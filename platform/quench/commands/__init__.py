"""The commands of the command line, each a function of its parsed arguments; they return the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

from quench.campaign import begin
from quench.carry_out import (
    carry_out_run,
    carry_out_sweep,
    print_report,
)
from quench.commands.curve import curve
from quench.commands.doctor import doctor
from quench.commands.evaluate import compare, evaluate
from quench.commands.interpret import interpret
from quench.commands.scaling import scaling
from quench.commands.sync import sync
from quench.config import override
from quench.console import terminal
from quench.errors import UserError, redacted, require
from quench.experiment import Experiment
from quench.record import Record
from quench.storage import find, find_sweep, new_directory
from quench.sweep import Confirm
from quench.sweep.proposals import Proposals
from quench.sweep.trials import configuration, trials
from quench.training.recipe import Recipe

Changes = dict[str, Any]
__all__ = [
    "compare",
    "curve",
    "doctor",
    "evaluate",
    "interpret",
    "report",
    "resume",
    "scaling",
    "sweep",
    "sync",
    "train",
    "ui",
]


def train(arguments: Namespace, changes: Changes) -> int:
    """One run: in this process, or under Ray Train if its recipe asks for several workers."""
    if arguments.workers is not None:
        changes["workers"] = arguments.workers
    experiment = Experiment.load(arguments.experiment)
    recipe = override(experiment.recipe, changes)
    _check([recipe])
    directory = new_directory(arguments.storage, experiment.name)
    record = Record.create(directory, recipe, experiment=experiment.name, configuration=configuration(recipe))
    return carry_out_run(arguments, record)


def sweep(arguments: Namespace, changes: Changes) -> int:
    """Many runs under Ray Tune, then what they come to."""
    experiment = Experiment.load(arguments.experiment)
    if experiment.sweep is None:
        raise UserError(f"{experiment.path}: defines no SWEEP = Sweep(...); `quench train` runs its RECIPE")
    for key, swept in product(changes, experiment.sweep.keys):
        clear = not f"{key}.".startswith(f"{swept}.") and not f"{swept}.".startswith(f"{key}.")
        require(clear, key, changes[key], f"varied by the SWEEP in {experiment.path} ({swept}); change it there")
    asked = {
        key: getattr(arguments, key) for key in ("trials", "search", "scheduler", "concurrent", "gpus", "time_budget")
    }
    asked["confirm"] = None if arguments.confirm is None else Confirm(finalists=arguments.confirm)
    plan = replace(experiment.sweep, **{key: value for key, value in asked.items() if value is not None})
    recipe = override(experiment.recipe, changes)
    chosen = trials(recipe, plan)
    if plan.adaptive:
        Proposals(recipe, plan, {})  # refuses what it cannot work with
    _check([trial.recipe for trial in chosen])
    made = begin(new_directory(arguments.storage, experiment.name), experiment, recipe, plan, overrides=changes)
    return carry_out_sweep(arguments, made)


def resume(arguments: Namespace, changes: Changes) -> int:
    """Go on from the last checkpoints; what is finished, or was stopped by a scheduler, stays as it is."""
    found = find(arguments.storage, arguments.name)
    return carry_out_run(arguments, found) if isinstance(found, Record) else carry_out_sweep(arguments, found)


def report(arguments: Namespace, changes: Changes) -> int:
    """Tables and figures of a sweep, made again from its records."""
    console = terminal()
    made = find_sweep(arguments.storage, arguments.sweep)
    _, files = print_report(console, made)
    for file in files[1:]:
        console.print(str(file), soft_wrap=True, highlight=False)
    return 0


def ui(arguments: Namespace, changes: Changes) -> int:
    """The MLflow server on this machine's own address, until interrupted."""
    from quench.tracking import default_uri, pages, serve

    uri = arguments.tracking_uri or default_uri(arguments.storage)
    if uri.startswith("http"):
        print(f"these runs are on an MLflow server: {redacted(uri)}")
        return 0
    with serve(uri, arguments.storage, arguments.port) as host:
        for name, path in pages(uri).items():
            print(f"{name}: {host}{path}")
        print(f"everything: {host}   (stop with Ctrl-C)", flush=True)
    return 0


def _check(recipes: Iterable[Recipe]) -> None:
    """Refuse what only the data can tell, and have it downloaded or decoded, before any worker starts."""
    loaded: dict[Any, tuple[int, int]] = {}
    for recipe in recipes:
        source = recipe.data, recipe.validation
        if source not in loaded:
            train = recipe.data.load(recipe.validation).train
            loaded[source] = len(train), min(train.shape[1:])
        count, side = loaded[source]
        allowed = f"must be at most the {count} training images"
        require(recipe.batch_size <= count, "batch_size", recipe.batch_size, allowed)
        padding = recipe.augmentation.padding
        require(padding < side, "augmentation.padding", padding, f"must be below the images' side, {side}")
