"""What more workers buy, as a frame, a figure and a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from conftest import REPOSITORY, RealSweep, quench
from quench.analysis.scaling import scaling_figure, scaling_frame
from quench.cli import main
from quench.storage import SweepRecord


def run(workers: int, batch: int, seconds: float, seed: int = 0, robust: float = 0.5) -> dict[str, object]:
    shares = {"clean": 0.9, "robust": robust, "robust_low": robust - 0.1, "robust_high": robust + 0.1}
    times = {"train_seconds": seconds, "gpu_seconds": workers * seconds}
    return {"workers": workers, "batch_size": batch, "seed": seed, **times, **shares}


def test_efficiency_is_against_the_fewest_workers() -> None:
    runs = [run(2, 64, 10.0), run(2, 64, 14.0, 1), run(4, 64, 8.0), run(4, 128, 6.0), run(8, 256, 4.0)]
    frame = scaling_frame(pd.DataFrame(runs)).set_index(["mode", "workers"])
    assert list(frame.index) == [("strong", 2), ("strong", 4), ("weak", 2), ("weak", 4), ("weak", 8)]
    assert frame["speedup"].to_list() == pytest.approx([1, 1.5, 1, 2, 3])
    assert frame["efficiency"].to_list() == pytest.approx([1, 0.75, 1, 1, 0.75])
    assert frame.loc[("strong", 2), ["seeds", "train_seconds_min", "train_seconds_max"]].to_list() == [2, 10, 14]


def test_figure_draws_the_frame() -> None:
    frame = scaling_frame(pd.DataFrame([run(1, 64, 8.0), run(2, 64, 5.0), run(2, 128, 4.0)]))
    seconds, efficiency, robust = scaling_figure(frame).axes
    drawn = [container.lines[0].get_ydata().tolist() for container in (*seconds.containers, *efficiency.containers)]
    assert drawn == [[8, 5], [8, 4], [1, 0.8], [1, 1]]
    assert robust.containers[0].has_yerr


def test_one_number_of_workers_is_no_scaling() -> None:
    assert list(scaling_frame(pd.DataFrame([run(1, 64, 8.0)]))["mode"]) == ["strong"]
    assert scaling_frame(pd.DataFrame([run(1, 64, 8.0) | {"robust": float("nan")}])).empty


def test_report_of_real_runs(real_sweep: RealSweep, tmp_path: Path) -> None:
    """The sweep's runs on one worker and on two, as `quench scaling` would have recorded them."""
    folder = tmp_path / "runs" / "tiny-scaling"
    for record in (SweepRecord(real_sweep.directory).records[number] for number in (2, 5)):
        shutil.copytree(record.directory, folder / record.directory.name)
    about = json.loads((real_sweep.directory / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(about | {"scaling": True}))
    done = quench("report", "tiny-scaling", "--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "What more workers buy" in done.stdout
    assert "strong   2        128" in done.stdout
    with Image.open(folder / "scaling.png") as image:
        assert image.width > 1000
    assert pd.read_csv(folder / "scaling.csv")["workers"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "2"], "workers = 2: varied by `quench scaling`; give its options --on and --seeds"),
        (["--seed", "2"], "seed = 2: varied by `quench scaling`"),
        (["--on", "0", "2"], "on = [0, 2]: must be numbers of workers above 0"),
        (["--on", "1", "65"], "batch_size = 64: must be at least workers = 65"),
        (["--budget", "seconds"], "budget = 'seconds': must be in epochs"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["scaling", str(REPOSITORY / "experiments" / "digits_linf.py"), *words])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
