"""What a person sees in the terminal: the live table of trials, and the trade-off at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from quench.catalogue import name_of
from quench.evaluation import Judged
from quench.evaluation.intervals import Share, wilson
from quench.journal import Entry
from quench.record import Record
from quench.standing import ENDED, Status

_COLUMNS = ("trial", "method", "norm", "epsilon", "epoch", "clean", "robust", "train s", "status")
_STYLES: dict[Status, str] = {
    "running": "bold",
    "stopped": "yellow",
    "interrupted": "yellow",
    "catastrophic_overfitting": "magenta",
    "failed": "red",
    "waiting": "dim",
}
_SECONDS_BETWEEN_LINES = 10.0
"""where the table cannot be redrawn, a running trial prints a line so often"""


@dataclass
class _Row:
    """A trial as its log has it so far; robust accuracy is the probe's until the final evaluation is in."""

    record: Record
    status: Status = "waiting"
    reason: str = ""
    epoch: int = 0
    clean: float | None = None
    robust: float | None = None
    train_seconds: float = 0.0
    changed: int = 0
    printed: float = 0.0

    def take(self, entry: Entry) -> None:
        if entry["kind"] == "status":
            self.status, self.reason, self.changed = entry["status"], entry.get("reason", ""), entry["time"]
        elif entry["kind"] == "epoch":
            metrics = entry["metrics"]
            self.epoch, self.train_seconds = entry["epoch"], metrics["train_seconds"]
            self.clean, self.robust = metrics["clean_accuracy"], metrics["robust_accuracy"]
        elif entry["kind"] == "evaluation":
            self.clean, self.robust = entry["clean"]["value"], entry["robust"]["value"]

    def cells(self) -> list[str]:
        recipe = self.record.recipe
        return [
            self.record.name,
            name_of(recipe.method),
            name_of(recipe.threat.norm),
            f"{recipe.threat.epsilon:.4g}",
            f"{self.epoch}/{recipe.budget.amount:g}" if recipe.budget.measure == "epoch" else f"{self.epoch}",
            _percent(self.clean),
            _percent(self.robust),
            f"{self.train_seconds:.1f}" + (f"/{recipe.budget.amount:g}" if recipe.budget.measure != "epoch" else ""),
            f"{self.status}: {self.reason}" if self.reason else self.status,
        ]


class LiveTable:
    """A sink for a follower: one row a trial, redrawn in a terminal; elsewhere, lines as trials get on."""

    def __init__(self, records: Sequence[Record], console: Console) -> None:
        """`records` are those that are known yet; more may be handed in."""
        self._rows = {record.directory: _Row(record) for record in records}
        self._console = console
        self._drawn = self._whole = False
        self._widths = [max(len(cell) for cell in column) for column in zip(_COLUMNS, *self._samples(), strict=True)]

    def __call__(self, record: Record, entries: list[Entry]) -> None:
        row = self._rows.setdefault(record.directory, _Row(record))
        before = row.status
        for entry in entries:
            row.take(entry)
        silent = time.monotonic() - row.printed
        if not self._drawn and ((row.status != before and row.status in ENDED) or silent > _SECONDS_BETWEEN_LINES):
            self._print(row.cells())
            row.printed = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while the block runs, and whole at the end."""
        if not self._console.is_terminal:
            self._print(list(_COLUMNS))
            yield
            return
        self._drawn = True
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=4):
            yield
            self._whole = True
        self._drawn = False

    def _samples(self) -> list[list[str]]:
        return [[*row.cells()[:-4], "100.0%", "100.0%", "1000.0", "waiting"] for row in self._rows.values()]

    def _print(self, cells: list[str]) -> None:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        self._console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)

    def _table(self) -> Table:
        """Those that run first, then those that ended last, as many as the terminal has room for."""
        rows = list(self._rows.values())
        ended = sum(row.status in ENDED for row in rows)
        table = Table(*_COLUMNS, caption=f"{ended} of {len(rows)} trials done; accuracy on held-out images until then")
        if not self._whole:
            room = max(self._console.height - 6, 3)
            rows = sorted(rows, key=lambda row: (row.status != "running", -row.changed))[:room]
        for row in rows:
            table.add_row(*(Text(cell) for cell in row.cells()), style=_STYLES.get(row.status, ""))
        return table


class VerdictBar:
    """How far an evaluation is, how long it may still take, and what it comes to so far."""

    def __init__(self, console: Console, title: str, examples: int) -> None:
        self._console, self._title, self._examples = console, title, examples
        self._judged = self._robust = 0
        self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[robust]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=examples, robust="")

    def add(self, judged: Judged) -> None:
        """Take further verdicts; where the bar cannot be redrawn, they are a line now and then."""
        self._judged += len(judged.places)
        self._robust += int(torch.stack(list(judged.correct.values())).all(0).sum())
        robust = f"robust {self.interval}"
        self._bar.update(self._task, completed=self._judged, robust=robust)
        if not self._console.is_terminal and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._console.print(f"{self._title}: {self._judged}/{self._examples}, {robust}", highlight=False)
            self._printed = time.monotonic()

    @property
    def interval(self) -> Share:
        """The robust share of what has been judged."""
        return wilson(self._robust, self._judged)

    @property
    def halfwidth(self) -> float:
        """Of the interval; 1 before the first verdict."""
        return (self.interval.high - self.interval.low) / 2 if self._judged else 1.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        with self._bar:
            yield


def terminal() -> Console:
    """Standard output; where it is no terminal, wide enough for the tables."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
