"""`quench sync`."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from quench.console import terminal
from quench.durable import alone
from quench.errors import UserError, one_line
from quench.follow import Follower
from quench.journal import Entry
from quench.projection import tracker_of
from quench.record import Record
from quench.standing import Status
from quench.storage import SweepRecord, everything, find

if TYPE_CHECKING:
    from quench.tracking import Tracker


def sync(arguments: Namespace, changes: dict[str, Any]) -> int:
    """Have MLflow say what the logs say: all that it missed, and that a run whose process died is over."""
    named = arguments.name != "all"
    found = [_whole(find(arguments.storage, arguments.name))] if named else everything(arguments.storage)
    try:
        trackers = {name: tracker_of(arguments, name)() for name in {one.about["experiment"] for one in found}}
    except Exception as error:
        raise UserError(f"MLflow cannot be written ({one_line(error)})") from None
    console, failed = terminal(), 0
    for one in found:
        try:
            said = _synced(trackers[one.about["experiment"]], one)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else one_line(error)
            said, failed = f"could not be written ({reason})", 1
        console.print(f"{one.directory.name}: {said}", markup=False, highlight=False, soft_wrap=True)
    return failed


def _whole(found: Record | SweepRecord) -> Record | SweepRecord:
    """Of a trial, its sweep."""
    return SweepRecord(found.directory.parent) if isinstance(found, Record) and found.about["sweep"] else found


def _synced(tracker: Tracker, one: Record | SweepRecord) -> str:
    """What there is to say of it."""
    with ExitStack() as held:
        try:
            held.enter_context(alone(one.mark))
        except UserError:
            return "left to the process that is carrying it out"
        if isinstance(one, SweepRecord):
            from quench.analysis.report import write_report

            tracker.begin_sweep(one, one.status)
            _project(tracker, one.records)
            frames, files = write_report(one)
            tracker.end_sweep(one, frames.get("configurations"), files)
            return f"{len(one.records)} runs, {one.status}"
        _project(tracker, [one])
        return _stands(one)


def _project(tracker: Tracker, records: list[Record]) -> None:
    """Every log from its beginning. Raises `UserError` if a run could not be written, after the others."""

    def sink(record: Record, entries: list[Entry]) -> None:
        tracker(record, [*entries, *_last_words(record, entries)])

    follower = Follower(records, sink)
    follower.pump()
    for reason in follower.failures.values():
        raise UserError(reason)


def _last_words(record: Record, entries: list[Entry]) -> list[Entry]:
    """What a run would have said whose log ends with its running, as nobody carries it out."""
    if _stands(record) == record.status:
        return []
    reason = "its process died; `quench resume` goes on"
    return [{"kind": "status", "time": entries[-1]["time"], "status": "interrupted", "reason": reason}]


def _stands(record: Record) -> Status:
    """How a run stands that nobody is carrying out."""
    return "interrupted" if record.status == "running" else record.status
