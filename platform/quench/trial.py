"""Carry out a recorded run from wherever it stands, in this process (or as one rank of several)."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quench.catalogue import name_of
from quench.checkpoint import Writer
from quench.datasets import Data
from quench.datasets.streamed import decoded_here
from quench.errors import UserError, one_line
from quench.evaluation import Examination
from quench.evaluation.reliability import Flag
from quench.journal import Entry
from quench.protocol import conclude
from quench.ranks import Ranks
from quench.record import CHECKPOINTS, Checkpoint, Record
from quench.standing import Status
from quench.training.batches import Feed
from quench.training.loop import EpochReport, fit
from quench.training.overfitting import CatastrophicOverfitting
from quench.training.recipe import Recipe
from quench.training.state import TrainState
from quench.training.streaming import Decode, feed_of
from quench.usage import Usage
from quench.verdicts import Verdicts, summary


def run(
    record: Record, device: torch.device, ahead: bool = False, decode: Decode = decoded_here
) -> Iterator[EpochReport]:
    """Train until the recipe's budget is spent and judge the result on the test images.

    Every rank calls this; rank 0 writes the record. An epoch's report is yielded once it is on disk, with its
    checkpoint; or, to train `ahead`, while they are being written. Training images that stay in their files are decoded
    by `decode`. A run that diverges ends as failed, one that its guard gives up, or that ends collapsed, as
    catastrophic_overfitting; any other exception is recorded, if that can be, and raised.
    """
    ranks, recipe = Ranks.current(), record.recipe_now
    write = ranks.rank == 0
    try:
        data = recipe.data.load(recipe.validation)
        state = TrainState.initial(recipe, data.spec(), device)
        record = _take_up(record, state, data, ranks)
        feed = feed_of(data.train.to(device), recipe, decode)
        status, reason = yield from _train(record, state, data, ranks, ahead, feed)
        # A guard that ends a run saves what was good.
        lost = status == "catastrophic_overfitting"
        which = recipe.keep if not lost else "last" if recipe.guard.action == "record" else "best"
        ranks.wait()  # until the best checkpoint is on disk
        if which == "best":
            state.load_state_dict(record.checkpoint("best"))
        if not any(entry["final"] for entry in record.entries("evaluation")):
            verdicts = examine(state, record, data, examination(recipe), ranks)
            if write:
                test = data.test.to(device)
                doubts = conclude(record.name, verdicts, state.judged, test, recipe.batch_size, recipe.reliability)
                enter_evaluation(record, [verdicts], state.epoch, which, doubts, final=True)
        if write:
            record.append("status", status=status, reason=reason)
    except GeneratorExit:
        raise
    except BaseException as error:
        if write:
            status, reason = "failed", str(error) if isinstance(error, UserError) else one_line(error)
            if isinstance(error, KeyboardInterrupt):
                status, reason = "interrupted", ""
            with suppress(UserError):  # the disk is full, or the run is another's by now
                record.append("status", status=status, reason=reason)
        if not isinstance(error, FloatingPointError):
            raise


def _take_up(record: Record, state: TrainState, data: Data, ranks: Ranks) -> Record:
    """Bring `state` to where the run stands, the same on all ranks; the record, in the hands of this attempt."""
    if ranks.rank == 0:
        saved = record.checkpoints()
        if "last" in saved:
            state.load_state_dict(saved["last"])
        stands = {"epoch": state.epoch, "updates": state.updates, "train_seconds": state.train_seconds}
        record = record.begin(**stands, machine=machine(state.device), workers=ranks.size, data=data.about())
        record.mend(saved)
    ranks.wait()  # from here on earlier attempts write no more
    if ranks.rank > 0:
        if record.path("last").exists():
            state.load_state_dict(record.checkpoint("last"))
        if state.updates != record.entries("status")[-1]["updates"]:
            raise RuntimeError(f"{record.directory} changed while the workers were reading it")
    return record


def _train(
    record: Record, state: TrainState, data: Data, ranks: Ranks, ahead: bool, feed: Feed
) -> Generator[EpochReport, None, tuple[Status, str]]:
    """The reports of `fit`, and on rank 0 the checkpoints that are due; returns how it ended, and why.

    An epoch is entered after the checkpoints that hold it, which hold its entry: a crash between any two writes
    costs no epoch, and after it none is entered twice.
    """
    write, recipe, usage = ranks.rank == 0, record.recipe_now, Usage(state.device)
    with Writer(record.hold) as writer, usage.watched():

        def keep(report: EpochReport | None = None, due: bool = True) -> None:
            if not write:
                return
            writer.wait()
            news = None if report is None else record.news(report, usage.take())
            wanted = {"last": due, "best": news is not None and record.best(news)}
            places = [record.path(which) for which in CHECKPOINTS if wanted[which]]
            enter = None if news is None else partial(record.append, **news)
            writer(record.snapshot(state.state_dict(), news), places, enter)

        due, status, reason = True, "finished", ""
        try:
            for report in fit(state, recipe, data, ranks, feed=feed, save=keep):
                due = state.epoch % recipe.checkpoints.epochs == 0
                keep(report, due)
                if not ahead:
                    writer.wait()
                yield report
        except CatastrophicOverfitting as error:
            status, reason = "catastrophic_overfitting", str(error)
        if not due:
            keep()
    return status, reason


def restore(record: Record, which: Checkpoint, device: torch.device) -> tuple[TrainState, Data]:
    """A run as it was saved, with its data. Raises `UserError` if the checkpoint cannot be used."""
    saved = record.checkpoint(which)
    data = record.recipe.data.load(record.recipe.validation)
    state = TrainState.initial(record.recipe, data.spec(), device)
    state.load_state_dict(saved)
    return state, data


def examination(recipe: Recipe) -> Examination:
    """The recipe's own: the one that its runs are compared by."""
    attacks = {name_of(recipe.evaluation): recipe.evaluation}
    return Examination(attacks=attacks, threat=recipe.threat, seed=recipe.seed, batch_size=recipe.batch_size)


def examine(
    state: TrainState,
    record: Record,
    data: Data,
    asked: Examination,
    ranks: Ranks = Ranks(),  # noqa: B008 - immutable
) -> Verdicts:
    """Judge the run on the test images, from wherever an earlier attempt got to; rank 0 writes the verdicts."""

    def verdicts() -> Verdicts:
        return Verdicts.of(record.directory, state.judged, record.recipe.data, len(data.test), asked)

    if ranks.rank == 0:
        verdicts()
    ranks.wait()
    todo = verdicts().todo()
    ranks.wait()  # until all have read it
    test = data.test.to(state.device)
    for part in asked.parts(todo, ranks.size):
        judged = asked.part(state.judged, test, part, ranks)
        if ranks.rank == 0:
            verdicts().append(judged)
    return verdicts()


def enter_evaluation(
    record: Record,
    verdicts: Sequence[Verdicts],
    epoch: int,
    which: Checkpoint,
    flags: Sequence[Flag] = (),
    final: bool = False,
) -> Entry:
    """Keep what verdicts on the test images come to, unless the record has that already; returns the entry.

    `final` marks the recipe's own evaluation at the end of the run: the one that runs are compared by.
    """
    label = _label(record.recipe, verdicts, which)
    content = {"label": label, "checkpoint": which, "epoch": epoch, "final": final, **summary(verdicts, flags)}
    for known in record.entries("evaluation"):
        if content.items() <= known.items():
            return known
    record.append("evaluation", **content)
    return record.entries("evaluation")[-1]


def _label(recipe: Recipe, verdicts: Sequence[Verdicts], which: Checkpoint) -> str:
    """`pgd-50-10`: the attack with its steps and restarts; and the threat models and checkpoint if unusual."""
    threats = [part.threat for part in verdicts]
    words = [verdicts[0].label]
    words += [" and ".join(map(str, threats))] if threats != [recipe.threat] else []
    words += [which] if which != "last" else []
    return " ".join(words)


def machine(device: torch.device) -> dict[str, Any]:
    """What the seconds of this run are measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "pid": os.getpid()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def best_device() -> torch.device:
    """The GPU if torch can use one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
