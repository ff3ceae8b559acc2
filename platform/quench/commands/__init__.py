"""The commands of the command line, each a function of its parsed arguments; they return the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
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
from quench.commands.dry_run import dry_run
from quench.commands.evaluate import compare, evaluate
from quench.commands.interpret import interpret
from quench.commands.scaling import scaling
from quench.commands.sync import sync
from quench.config import override
from quench.console import terminal
from quench.errors import UserError, one_line, redacted, require
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
    plan = replace(experiment.sweep, **{key: value for key, value in asked.items() if value is not None})
    if arguments.confirm is not None:
        confirm = replace(plan.confirm or Confirm(), finalists=arguments.confirm) if arguments.confirm else None
        plan = replace(plan, confirm=confirm)
    recipe = override(experiment.recipe, changes)
    chosen = trials(recipe, plan)
    if plan.adaptive:
        Proposals(recipe, plan, {})  # refuses what it cannot work with
    _check([trial.recipe for trial in chosen])
    if arguments.dry_run:
        return dry_run(arguments, recipe, plan, chosen)
    made = begin(new_directory(arguments.storage, experiment.name), experiment, recipe, plan, overrides=changes)
    return carry_out_sweep(arguments, made)


def resume(arguments: Namespace, changes: Changes) -> int:
    """Go on from the last checkpoints; what is finished, or was stopped by a scheduler, stays as it is."""
    found = find(arguments.storage, arguments.name)
    return carry_out_run(arguments, found) if isinstance(found, Record) else carry_out_sweep(arguments, found)


def report(arguments: Namespace, changes: Changes) -> int:
    """One page, tables and figures of a sweep, made again from its records."""
    print_report(terminal(), find_sweep(arguments.storage, arguments.sweep))
    return 0


def ui(arguments: Namespace, changes: Changes) -> int:
    """MLflow's server, until interrupted; or where these runs are found on a server that runs already."""
    from quench.mlflow_server import check, serve
    from quench.tracking import default_uri

    storage, host, port = arguments.storage, arguments.host, arguments.port
    uri = arguments.tracking_uri or default_uri(storage)
    if uri.startswith("http"):
        _print_links(redacted(uri.rstrip("/")), _pages(uri))
        return 0
    require(storage.is_dir(), "storage", str(storage), "no such folder; `quench train` or `quench sweep` makes it")
    check(host, port)
    pages = _pages(uri)
    with serve(uri, storage, host, port) as address:
        _print_links(address, pages)
        print("Ctrl-C ends it", flush=True)
    return 0


def _pages(uri: str) -> dict[str, str]:
    from quench.mlflow_view import pages
    from quench.tracking import experiments

    try:
        return pages(experiments(uri))
    except Exception as error:
        raise UserError(f"MLflow cannot be reached at {redacted(uri)}: {one_line(error)}") from error


def _print_links(address: str, pages: Mapping[str, str]) -> None:
    for name, page in pages.items():
        print(f"{name}: {address}{page}")
    print(f"everything: {address}")


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
