"""Carry out recorded runs and sweeps: live in the terminal, on to MLflow, summed up at the end."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from quench.campaign import Campaign
from quench.console import LiveTable, terminal
from quench.durable import alone
from quench.errors import NotWritten, one_line
from quench.evaluation.intervals import Share
from quench.follow import Follower, following
from quench.projection import mirrored, sink, tracker_of
from quench.record import Record
from quench.standing import Status
from quench.storage import SweepRecord
from quench.tables import confirmed_table, scaling_table, trade_off_table

if TYPE_CHECKING:
    import pandas as pd

_EXIT_CODES: Mapping[Status, int] = {
    "finished": 0,
    "catastrophic_overfitting": 1,
    "failed": 1,
    "interrupted": 130,
}


def carry_out_run(arguments: Namespace, record: Record) -> int:
    """Train a recorded run from wherever it stands; the exit code says how it ended."""
    console = terminal()
    table = LiveTable([record], console)
    with (
        alone(record.mark),
        mirrored(arguments, record) as mirror,
        table.shown(),
        following([record], {"the table": table}) as followers,
    ):
        try:
            _train(record, arguments)
        except KeyboardInterrupt:
            record.settle("interrupted", "")
        except NotWritten as error:
            console.print(f"failed: {error}", markup=False, highlight=False, soft_wrap=True)
    followers["MLflow"] = mirror
    for entry in record.entries("evaluation")[-1:]:
        print_evaluation(console, record.name, entry)
    print_places(console, arguments, followers, record.directory)
    return _EXIT_CODES.get(record.status, 1)  # a full disk may have kept it from saying so


def _train(record: Record, arguments: Namespace) -> None:
    """In this process, or under Ray if the recipe asks for workers or streams. The record says how it ended."""
    workers, streams = record.recipe.workers, record.recipe.data.streams
    record.checkpoints()  # refused, if it must be, before any worker starts
    if workers == 1 and not streams:
        from quench import trial

        for _ in trial.run(record, trial.best_device(), ahead=True):
            pass
        return
    from quench.distributed import cluster
    from quench.distributed.train import train_data_parallel

    with cluster.connected(arguments.address, workers + streams, record.directory.parent) as ray:
        if streams:
            ray.must_spare_a_cpu(workers)
        try:
            train_data_parallel(record, ray.gives_gpus(workers), arguments.worker_timeout)
        except SystemExit:  # so Ray Train ends the program when it is interrupted
            raise KeyboardInterrupt from None
        except Exception as error:
            record.settle("failed", (str(error).strip() or one_line(error)).splitlines()[-1])


def carry_out_sweep(arguments: Namespace, made: SweepRecord) -> int:
    """Carry out what is left of a sweep, then report on all of it; the exit code says how it ended."""
    from quench.distributed import cluster, tune

    console, about = terminal(), made.about
    campaign = Campaign(made, concurrent=arguments.concurrent, time_budget=arguments.time_budget)
    table = LiveTable(made.records, console)
    tracker = tracker_of(arguments, about["experiment"], made, "running")
    workers = max(campaign.workers, default=1) + campaign.streams
    state = made.directory / "ray" / f"{len(list(made.directory.glob('ray/*')))}"
    status: Status = "finished"
    sinks = {"the table": table, "MLflow": sink(tracker)}
    with alone(made.mark), table.shown(), following(campaign.told, sinks) as followers:
        try:
            with cluster.connected(arguments.address, workers, made.directory.parent) as ray:
                tune.sweep(campaign, ray, state, arguments.worker_timeout)
        except KeyboardInterrupt:
            status = "interrupted"
        campaign.settle()
    failed = [record for record in made.records if record.status == "failed"]
    status = "failed" if failed and status == "finished" else status
    for record in failed:
        console.print(f"failed: {record.name}: {record.entries('status')[-1]['reason']}", markup=False)
    if campaign.over:
        console.print(f"the time budget of {campaign.plan.time_budget:g} s is spent")
    frames, files = print_report(console, made)
    try:
        tracker().end_sweep(made, frames.get("configurations"), files)
    except Exception as error:
        followers["MLflow"].failures[made.records[0]] = one_line(error)
    print_places(console, arguments, followers, made.directory)
    return _EXIT_CODES[status]


def print_evaluation(console: Console, name: str, entry: Mapping[str, Any]) -> None:
    """Verdicts on test images: a line, one for each stage of the attack, and one for each reason not to trust them."""
    shares = {key: Share(**entry[key]) for key in ("clean", "robust")}
    of = entry.get("of", entry["examples"])  # records of older versions know neither this nor what follows
    some = "" if entry["examples"] == of else f" of {of}"
    lines = [
        f"{name}: {entry['examples']}{some} test images, 95 % intervals: "
        f"clean {shares['clean']}, robust {shares['robust']} ({entry['label']})"
    ]
    stages = {key.partition("/")[2]: Share(**share) for key, share in entry.get("under", {}).items() if "/" in key}
    lines += [f"  after {stage}: {share}" for stage, share in stages.items()]
    lines += [f"  unreliable: {flag['reason']}" for flag in entry.get("flags", ())]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_report(console: Console, made: SweepRecord) -> tuple[dict[str, pd.DataFrame], list[Path]]:
    """The tables and the report's place; returns what `write_report` does."""
    from quench.analysis.report import write_report

    frames, files = write_report(made)
    for name, table in {
        "configurations": trade_off_table,
        "confirmed": confirmed_table,
        "scaling": scaling_table,
    }.items():
        if name in frames and not frames[name].empty:
            console.print(table(frames[name]))
    console.print(f"report: {files[0]}", soft_wrap=True, highlight=False, markup=False)
    return frames, files


def print_places(console: Console, arguments: Namespace, followers: Mapping[str, Follower], directory: Path) -> None:
    """Where the record is, and how to look at it or go on with it."""
    for name, follower in followers.items():
        for reason in list(follower.failures.values())[:1]:
            console.print(f"{name} could not be written ({reason}); the record is complete", markup=False)
    program = "quench" if shutil.which("quench") else os.path.relpath(Path(sys.executable).parent / "quench")
    storage = "" if arguments.storage == Path("runs") else f" --storage {arguments.storage}"
    uri = f" --tracking-uri {arguments.tracking_uri}" if arguments.tracking_uri else ""
    found = SweepRecord(directory).records or [Record(directory)]
    lines = [f"record: {directory}", f"MLflow UI: {program} ui{storage}{uri}"]
    if any(follower.failures for follower in followers.values()):
        lines.append(f"MLflow, later: {program} sync {directory}{storage}{uri}")
    if any(record.unfinished for record in found):
        lines.append(f"go on: {program} resume {directory.name}{storage}{uri}")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
