"""The views of a sweep: frames with known answers, from records on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import tiny_recipe
from quench import Choice, Sweep
from quench.analysis.anytime import anytime_frame
from quench.analysis.cost import cost_frame
from quench.analysis.heat import heat_frame, heat_keys
from quench.analysis.importance import importance_frame
from quench.analysis.leaderboard import leaderboard, limits
from quench.analysis.parallel import parallel_coordinates, scale
from quench.analysis.report import write_report
from quench.analysis.runs import Frames
from quench.evaluation.intervals import wilson
from quench.record import Record
from quench.storage import SweepRecord
from quench.sweep.trials import trials
from quench.training.budgets.epochs import Epochs
from quench.training.budgets.seconds import Seconds


def sweep(folder: Path, space: Any) -> SweepRecord:
    return SweepRecord.create(folder, "tiny", trials(tiny_recipe(), Sweep(space=space)), {"file": "tiny.py"})


def tell(record: Record, curve: list[tuple[float, float, float]], robust: float, status: str = "finished") -> None:
    """A run's log: for each epoch the time (seconds), the train clock and the held-out robust accuracy; then its end."""
    lines: list[dict[str, Any]] = [{"kind": "status", "time": 0, "status": "running"}]
    for epoch, (time, clock, held_out) in enumerate(curve, 1):
        metrics = {"train_seconds": clock, "gpu_seconds": clock, "alarms": 0, "rollbacks": 0, "clean_accuracy": 0.9}
        metrics |= {"epoch": epoch, "robust_accuracy": held_out}
        lines.append({"kind": "epoch", "time": 1000 * time, "epoch": epoch, "metrics": metrics})
    shares = {"clean": wilson(90, 100)._asdict(), "robust": wilson(round(100 * robust), 100)._asdict()}
    judged = {"label": "pgd-3-1", "checkpoint": "last", "epoch": len(curve), "final": True, "examples": 100}
    if status != "stopped":
        lines.append({"kind": "evaluation", "time": 1000 * curve[-1][0], **judged, **shares})
    lines.append({"kind": "status", "time": 1000 * curve[-1][0], "status": status, "reason": ""})
    (record.directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_frames_say_what_varies_and_what_a_run_was_for(tmp_path: Path) -> None:
    """A choice of methods is one key; a method's own field is another if it varies; older records know no phases."""
    methods: dict[str, Any] = {"method": Choice("standard", "fgsm_rs"), "threat.epsilon": Choice(0.1, 0.2)}
    plain, *_, first, last = sweep(tmp_path / "s", [methods, {"method.noise_ratio": Choice(1.0, 2.0)}, {}]).records
    for record, phase, rung in ((first, "promotion", 2), (last, "confirmation", 0)):
        about = record.directory / "recipe.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"trial": {"phase": phase, "rung": rung}}))
        tell(record, [(1, 1.0, 0.5)], 0.4)
    log = last.directory / "log.jsonl"
    log.write_text(
        log.read_text().replace('"robust_accuracy": 0.5', '"robust_accuracy": 0.5, "selection_accuracy": 0.45')
    )
    frames = Frames.of(SweepRecord(tmp_path / "s").records)
    assert frames.keys == ("method", "method.noise_ratio")
    runs = frames.runs.set_index("folder")
    assert runs["run"].is_unique, "of two equal recipes too"
    assert runs.loc[plain.directory.name, ["status", "phase", "rung", "epochs"]].tolist() == ["waiting", "search", 0, 0]
    found = runs.loc[[first.directory.name, last.directory.name], ["phase", "rung", "held_out", "selection"]]
    assert found.astype(object).where(found.notna(), None).to_numpy().tolist() == [
        ["promotion", 2, 0.5, None],
        ["confirmation", 0, 0.5, 0.45],
    ]


@pytest.fixture
def race(tmp_path: Path) -> SweepRecord:
    """A quick run, a better one that takes longer, and one that overtakes both in the middle, then collapses."""
    made = sweep(tmp_path / "race", {"budget": Epochs(3), "method": Choice("standard", "n_fgsm", "fgsm_rs")})
    quick, better, lost = made.records
    tell(quick, [(1, 1.0, 0.1), (2, 2.0, 0.3)], 0.25)
    tell(better, [(1.5, 2.0, 0.2), (3, 4.0, 0.4), (4, 6.0, 0.5)], 0.45)
    tell(lost, [(2.5, 3.0, 0.9), (5, 7.0, 0.0)], 0.0, "catastrophic_overfitting")
    return made


def test_anytime_is_the_best_complete_run_over_what_all_have_spent(race: SweepRecord) -> None:
    frames = Frames.of(race.records)
    frame = anytime_frame(frames.runs, frames.epochs)
    assert frame["spent"].tolist() == [4.0, 11.0, 15.0], "what is in the middle of its schedule spends, but is no model"
    assert frame["best"].tolist() == [0.3, 0.5, 0.5]
    assert frame["robust"].tolist() == [0.25, 0.45, 0.45]


def test_leaderboard_counts_complete_runs_within_the_time_lost_ones_too(race: SweepRecord) -> None:
    runs = Frames.of(race.records).runs
    frame = leaderboard(runs)
    leaders = frame.query("place == 1").set_index("seconds")
    assert leaders["configuration"].to_dict() == {2.0: "standard", 5.0: "standard", 10.0: "n_fgsm"}
    again = runs.query("method == 'fgsm_rs'").assign(
        seed=1, status="finished", lost=False, held_out=0.8, train_seconds=7.0
    )
    both = leaderboard(pd.concat([runs, again])).query("seconds == 10").set_index("configuration")
    assert both.loc["fgsm_rs", ["place", "seeds", "lost", "held_out"]].tolist() == [2, 2, 1, 0.4]
    assert limits(1.9, 21.0) == [2.0, 5.0, 10.0, 20.0], "5 % late is in time"


def test_cost_says_what_stopping_saved(tmp_path: Path) -> None:
    made = sweep(tmp_path / "s", {"budget": Choice(Epochs(10), Seconds(8.0)), "workers": Choice(1, 2)})
    for record in made.records:
        tell(record, [(1, 1.0, 0.1), (2, 3600.0, 0.3)], 0.3, "stopped" if record.recipe.workers == 1 else "finished")
    runs = Frames.of(made.records).runs
    frame = cost_frame(runs.assign(gpu_seconds=runs["train_seconds"] * runs["workers"])).set_index("status")
    assert frame.loc["stopped", ["runs", "epochs", "worker_hours", "unspent_hours"]].tolist() == [2, 4, 2.0, 4.0]
    assert frame.loc["finished", ["train_hours", "worker_hours", "unspent_hours"]].tolist() == [2.0, 4.0, 8.0]
    assert frame.loc["all", "worker_hours"] == 6.0


def grid(**more: Any) -> pd.DataFrame:
    """Four by two settings in one norm; the larger epsilon is harder by 0.3, a step of 2 loses the run."""
    cells = [(epsilon, step) for epsilon in (0.1, 0.2) for step in (0.5, 1.0, 1.5, 2.0)]
    frame = pd.DataFrame(cells, columns=["threat.epsilon", "method.step_ratio"])
    robust = 0.8 - 3 * (frame["threat.epsilon"] - 0.1) - 0.1 * (frame["method.step_ratio"] - 0.5)
    about = {"norm": "linf", "method": "n_fgsm", "seed": 0, "selection": float("nan"), "lr": [0.1, 0.2] * 4}
    about |= {"threat": "linf " + frame["threat.epsilon"].astype(str), "lost": frame["method.step_ratio"] == 2.0}
    return frame.assign(robust=robust, **about | more)


def test_heat_compares_within_the_same_epsilon() -> None:
    keys = heat_keys(grid(), ["lr", "method.step_ratio"])
    assert keys == ("threat.epsilon", "method.step_ratio"), "these rather than others"
    frame = heat_frame(grid(), *keys)
    assert frame["behind"].tolist() == pytest.approx([0.0, 0.05, 0.1, 0.15] * 2)
    assert frame.loc[frame["y"] == 2.0, "lost"].tolist() == [1, 1]
    one = grid(**{"threat.epsilon": 0.1, "threat": "linf 0.1"})
    assert heat_keys(one, ["lr", "method.step_ratio"]) == ("method.step_ratio", "lr")
    assert heat_keys(one, ["method.step_ratio"]) is None


def test_importance_finds_the_key_that_matters_and_keeps_silent_about_noise() -> None:
    rng = np.random.default_rng(0)
    runs = pd.DataFrame({"threat": "linf 0.1", "selection": float("nan"), "lr": rng.uniform(size=60)})
    runs = runs.assign(method=rng.choice(["a", "b"], 60), robust=runs["lr"])
    frame = importance_frame(runs, ["method", "lr"]).set_index("key")
    assert frame["importance"].to_dict() == {"lr": pytest.approx(1, abs=0.3), "method": pytest.approx(0, abs=0.05)}
    assert frame.loc["lr", "explained"] > 0.9
    assert importance_frame(runs.head(29), ["method", "lr"]).empty
    assert importance_frame(runs.assign(robust=rng.uniform(size=60)), ["method", "lr"]).empty


def test_axes_of_parallel_coordinates() -> None:
    nothing = float("nan")
    logarithmic = scale(pd.Series([1e-4, 1e-3, 1e-2, nothing]))
    assert logarithmic.heights.tolist() == pytest.approx([0, 0.5, 1, -0.12])
    assert logarithmic.ticks[0] == (-0.12, "none")
    assert scale(pd.Series([0.01, 1.0, 2.0])).heights[1] == pytest.approx(0.497, abs=1e-3), "even by size"
    assert scale(pd.Series(["b", "a"]), pd.Series([0.1, 0.2])).heights.tolist() == [0, 1], "the more robust on top"
    figure = parallel_coordinates(grid(epsilon=0.1), ["method.step_ratio", "lr"])
    assert [axes.get_title("left") for axes in figure.axes] == ["linf 0.1", "linf 0.2"], "adversaries do not share one"
    assert [len(axes.collections[0].get_segments()) for axes in figure.axes] == [4, 4]


def test_the_page_needs_nothing_else_and_trusts_nobody(race: SweepRecord) -> None:
    file = race.directory / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"space": "<script>alert(1)</script>"}))
    _, files = write_report(SweepRecord(race.directory))
    page = files[0].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert re.findall(r"(?:src|href)=\"(?!data:image/svg\+xml;base64,|#)", page) == []
    assert {path.name for path in files} == {path.name for path in (race.directory / "report").iterdir()}
    for name in ("Time versus robustness", "What it cost", "Every run (3)", "no two numeric keys vary together"):
        assert name in page


def test_a_sweep_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    frames, files = write_report(sweep(tmp_path / "s", {"seed": Choice(0, 1)}))
    assert "no run has finished an epoch" in files[0].read_text()
    assert (len(frames["runs"]), len(frames["epochs"])) == (2, 0)


def test_a_threat_model_without_an_epoch_has_an_empty_panel(tmp_path: Path) -> None:
    made = sweep(tmp_path / "s", [{"seed": Choice(0, 1)}, {"threat.epsilon": 0.3}])
    for record in made.records[:2]:
        tell(record, [(1, 1.0, 0.3), (2, 2.0, 0.5)], 0.4)
    _, files = write_report(made)
    assert "time_vs_robustness.png" in {path.name for path in files}
