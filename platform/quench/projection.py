"""Keep MLflow up with runs' logs: from a thread beside a sweep, or from a process beside a run that trains here."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from quench.follow import Follower, Sink, following
from quench.journal import Entry
from quench.record import Record
from quench.standing import Status
from quench.storage import SweepRecord

if TYPE_CHECKING:
    from quench.tracking import Tracker


def tracker_of(
    arguments: Namespace, experiment: str, sweep: SweepRecord | None = None, status: Status | None = None
) -> Callable[[], Tracker]:
    """The tracker, made at its first use: that is in the follower's thread, while training starts.

    Of a sweep that nobody is carrying out, `status` is what its runs say.
    """

    @cache
    def make() -> Tracker:
        from quench.tracking import Tracker, default_uri

        storage: Path = arguments.storage
        storage.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(arguments.tracking_uri or default_uri(storage), storage, experiment)
        if sweep is not None:
            tracker.begin_sweep(sweep, status or sweep.status)
        return tracker

    return make


def sink(tracker: Callable[[], Tracker]) -> Sink:
    """The tracker as a follower's sink."""
    return lambda record, entries: tracker()(record, entries)


def attaching(arguments: Namespace, records: Iterable[Record], files: Sequence[Path]) -> Sink:
    """Bring MLflow up to a run's entries, and give it the files."""
    trackers = {_home(record): _tracker_for(arguments, record) for record in records}  # each is made at its first use

    def attach(record: Record, entries: list[Entry]) -> None:
        tracker = trackers[_home(record)]()
        tracker(record, entries)
        tracker.attach(record, files, files[0].parent.name)

    return attach


def _home(record: Record) -> Path:
    """Runs of one home have one tracker: a sweep's folder, or the run's own."""
    return record.directory.parent if record.about["sweep"] else record.directory


def _tracker_for(arguments: Namespace, record: Record) -> Callable[[], Tracker]:
    sweep = SweepRecord(record.directory.parent) if record.about["sweep"] else None
    return tracker_of(arguments, record.about["experiment"], sweep)


@contextmanager
def mirrored(arguments: Namespace, record: Record) -> Iterator[Follower]:
    """MLflow kept up with the run by a process of its own, as a thread would take its time from the training.

    It goes on to the end of the log if this process dies. What failed is known when the block is over.
    """
    failed = Follower([], sink(tracker_of(arguments, record.about["experiment"])))
    spawned = get_context("spawn")
    ours, theirs = spawned.Pipe()
    process = spawned.Process(target=_mirror, args=(arguments, record, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield failed
    finally:
        try:
            ours.send(None)
            failed.failures.update(ours.recv())
        except (OSError, EOFError):
            failed.failures[record] = "its process died"
        process.join()


def _mirror(arguments: Namespace, record: Record, theirs: Connection) -> None:
    os.nice(19)  # it starts while the training does, whose seconds count; without a core to spare it comes last
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run says when it is over
    sinks = {"MLflow": sink(tracker_of(arguments, record.about["experiment"]))}
    with following([record], sinks) as followers, suppress(EOFError):
        theirs.recv()
    with suppress(OSError):
        theirs.send(followers["MLflow"].failures)
