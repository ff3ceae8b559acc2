"""Four times the epochs or trials take four times the work, counted in calls and entries read, not in seconds."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from quench import Choice, Sweep, Uniform, journal, trial
from quench.campaign import Campaign, begin
from quench.datasets import Split
from quench.experiment import Experiment
from quench.follow import Follower
from quench.journal import Entry
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep import Confirm
from quench.sweep.proposals import Proposals
from quench.sweep.search import Outcome
from quench.sweep.trials import Trial
from quench.training.budgets.epochs import Epochs
from quench.training.recipe import Recipe


def calls(work: Callable[[], object]) -> int:
    """Of functions, of Python's and of C's, in this thread."""
    found = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Of every entry that is read: its log."""
    seen, real = list[Path](), journal.read

    def counted(path: Path, offset: int = 0) -> tuple[list[Entry], int]:
        entries, end = real(path, offset)
        seen.extend([path] * len(entries))
        return entries, end

    monkeypatch.setattr(journal, "read", counted)
    return seen


def test_an_epoch_reads_and_writes_as_much_of_its_record_as_the_first(
    tmp_path: Path, recipe: Recipe, read: list[Path]
) -> None:
    record = Record.create(
        tmp_path / "run", replace(recipe, budget=Epochs(8)), experiment="test", configuration="n_fgsm"
    )
    counts = [len(read) for _ in trial.run(record, torch.device("cpu"))]
    each = {after - before for before, after in pairwise(counts)}
    assert each == {1}, "each entry once"
    assert len(json.loads(record.checkpoint("last")["epochs"])) == 1, "a checkpoint holds its own epoch alone"


def test_how_a_run_stands_is_read_once_whoever_writes_it(tmp_path: Path, recipe: Recipe, read: list[Path]) -> None:
    mine = Record.create(tmp_path / "run", recipe, experiment="test", configuration="n_fgsm")
    other = Record(mine.directory)
    assert (mine.status, mine.standing.since) == ("waiting", None)
    for number in range(1, 4):
        other.append("epoch", epoch=number, metrics={"robust_accuracy": 0.1 * (number % 3)})
        assert (mine.standing.epoch, mine.standing.robust) == (number, min(0.1 * number, 0.2))
    attempt = other.begin()
    with mine.log.open("a") as log:
        log.write('{"kind": "status", "sta')
    assert (mine.status, mine.standing.attempt) == ("running", attempt.attempt)
    attempt.append("status", status="finished")
    read.clear()
    assert [mine.status, mine.standing.epoch, mine.unfinished] == ["finished", 3, False]
    assert len(read) == 1
    mine.log.write_text("".join(mine.log.read_text().splitlines(keepends=True)[:2]))
    assert (mine.status, mine.standing.epoch) == ("waiting", 2), "cut by hand"


def proposed(recipe: Recipe, trials: int, **options: Any) -> None:
    """Ask for that many trials and for what follows from them, two at a time."""
    proposals, running = Proposals(recipe, Sweep(trials=trials, **options), {}), list[Trial]()
    while (found := proposals.next()) or running:
        if isinstance(found, Trial):
            proposals.begun(found)
            running.append(found)
        if len(running) == 2 or not isinstance(found, Trial):
            ended = running.pop(0)
            proposals.ended(ended, Outcome(1 / (1 + ended.recipe.optimizer.lr), 0.9, 1.0))


@pytest.mark.parametrize("name", ["grid", "halving"])
def test_a_trial_is_proposed_with_as_many_calls_as_the_first(name: str, recipe: Recipe) -> None:
    options: dict[str, dict[str, Any]] = {
        "grid": {"space": {"optimizer.lr": Choice(*(1 / n for n in range(1, 257)))}, "confirm": Confirm()},
        "halving": {"space": {"optimizer.lr": Uniform(0, 1)}, "search": "random", "scheduler": "halving"},
    }
    few, many = (calls(partial(proposed, recipe, trials, **options[name])) for trials in (64, 256))
    assert many <= 4 * few


def grid(recipe: Recipe, trials: int, folder: Path) -> SweepRecord:
    sweep = Sweep(space={"seed": Choice(*range(trials))})
    return begin(folder, Experiment("test", Path("test.py"), recipe, sweep), recipe, sweep)


def test_a_sweep_is_followed_with_as_many_calls_for_the_last_trial_as_for_the_first(
    tmp_path: Path, recipe: Recipe
) -> None:
    def follow(made: SweepRecord) -> None:
        campaign, told = Campaign(made), list[Record]()
        follower = Follower(campaign.told, lambda record, entries: told.append(record))
        while isinstance(record := campaign.next(1), Record):
            record.log.write_text('{"kind": "status", "time": 0, "status": "finished"}\n')
            follower.pump()
        assert told == made.records

    few, many = (calls(partial(follow, grid(recipe, n, tmp_path / str(n)))) for n in (16, 64))
    assert many <= 4 * few


def test_what_was_never_begun_is_followed_when_it_is_settled(tmp_path: Path, recipe: Recipe) -> None:
    made = grid(recipe, 4, tmp_path / "grid")
    made.records[0].append("status", status="interrupted", reason="")
    campaign, told = Campaign(made), list[tuple[str, str]]()
    follower = Follower(
        campaign.told, lambda record, new: told.extend((record.directory.name[:4], e["status"]) for e in new)
    )
    follower.pump()
    first = campaign.next(1)
    assert isinstance(first, Record)
    first.append("status", status="running")
    follower.pump()
    campaign.settle()
    follower.pump()
    follower.pump()
    assert told == [("0000", status) for status in ("interrupted", "running", "interrupted")] + [
        (f"{number:04d}", "interrupted") for number in range(1, 4)
    ]


def test_images_are_gone_through_a_few_at_a_time() -> None:
    images = torch.zeros(8192, 3, 16, 16, dtype=torch.uint8)
    tracemalloc.start()
    Split(images, torch.zeros(8192, dtype=torch.int64)).digest()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 8
