"""What more workers buy, as a frame, a figure and a table."""

from __future__ import annotations

import pandas as pd
import pytest

from conftest import REPOSITORY
from quench.analysis.scaling import scaling_figure, scaling_frame
from quench.cli import main


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
