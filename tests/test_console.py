from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from quench.console import LiveTable
from quench.follow import Follower
from quench.record import Record
from quench.training.recipe import Recipe


def test_a_terminal_shows_as_many_trials_as_fit_and_at_the_end_all(tmp_path: Path, recipe: Recipe) -> None:
    records = [
        Record.create(tmp_path / f"{seed}", replace(recipe, seed=seed), experiment="test", configuration="n_fgsm")
        for seed in range(12)
    ]
    screen = StringIO()
    table = LiveTable(records, Console(file=screen, force_terminal=True, width=120, height=10))
    follower = Follower(records, table)
    with table.shown():
        deadline = time.monotonic() + 30
        while "done" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert screen.getvalue().partition("done")[0].count("n_fgsm s=") == 4, "ten lines have room for four"
        for record in records:
            record.append("status", status="finished")
        follower.pump()
        last = len(screen.getvalue())
    assert screen.getvalue()[last:].count("n_fgsm s=") >= 12
    assert "12 of 12 trials done" in screen.getvalue()
