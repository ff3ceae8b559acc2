from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from quench.analysis.paired import holm, paired, summary

RNG = np.random.default_rng(0)
EASY = RNG.normal(size=40)
VALUES = {
    "multi": [EASY + 0.5, EASY + 0.7],
    "single": [EASY + RNG.normal(0.4, 0.1, 40), EASY + RNG.normal(0.6, 0.1, 40)],
    "same": [EASY + 0.5, EASY + 0.7],
    "standard": [EASY],
}


def frame() -> pd.DataFrame:
    """Four models with one or two seeds on forty images, one of which one run has no number for."""
    rows = [
        {
            "model": model,
            "run": f"{model}{seed}",
            "image": image,
            "a": value,
            "b": nan if (image, seed) == (7, 1) else 1.0,
        }
        for model, seeds in VALUES.items()
        for seed, values in enumerate(seeds)
        for image, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_means_are_over_seeds_first_then_over_images() -> None:
    table = summary(frame(), ["a", "b"]).set_index(["metric", "model"])
    assert list(table.index) == [(metric, model) for metric in "ab" for model in VALUES]
    row = table.loc[("a", "multi")]
    assert (row.seeds, row.images, row["mean"]) == (2, 40, pytest.approx(EASY.mean() + 0.6))
    low, high = stats.t.interval(0.95, 39, EASY.mean() + 0.6, stats.sem(EASY))
    assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    assert (row.seed_min, row.seed_max) == (pytest.approx(EASY.mean() + 0.5), pytest.approx(EASY.mean() + 0.7))
    assert table.loc[("b", "standard")].images == 39, "an image counts where every run has a number"


def test_differences_are_those_of_the_paired_t_test() -> None:
    table = paired(frame(), ["a"], "standard").set_index("model")
    assert list(table.index) == ["single", "same", "standard"]
    row = table.loc["single"]
    one, other = (np.mean(VALUES[name], axis=0) for name in ("single", "multi"))
    expected = stats.ttest_rel(one, other)
    interval = expected.confidence_interval(0.95)
    assert row.difference == pytest.approx((one - other).mean())
    assert (row.low, row.high, row.p) == tuple(map(pytest.approx, (interval.low, interval.high, expected.pvalue)))
    assert row.noise == pytest.approx(0.2)
    assert row.seed_min < row.difference < row.seed_max
    assert table.loc["same", ["difference", "p"]].tolist() == [0, 1]
    assert table.loc["standard", "p"] == pytest.approx(0, abs=1e-30), "always 0.6 lower"
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].to_numpy()))


def test_what_is_kept_of_the_gap_to_standard_training() -> None:
    table = paired(frame(), ["a"], "standard").set_index("model")
    assert table.loc["same", ["kept", "kept_low", "kept_high"]].tolist() == pytest.approx([1, 1, 1])
    row = table.loc["single"]
    assert row.kept == pytest.approx((np.mean(VALUES["single"], axis=0) - EASY).mean() / 0.6)
    assert row.kept_low < row.kept < row.kept_high
    assert np.isnan(table.loc["standard", "kept"])
    assert np.isnan(paired(frame(), ["b"], "standard")["kept"]).all(), "no gap, nothing to keep"
    assert "kept" not in paired(frame(), ["a"])


def test_holm() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, nan, 0.9]))[[0, 2]] == pytest.approx([1, 1])
    assert np.isnan(holm(np.array([0.5, nan]))[1])


def test_one_model_has_nothing_to_be_compared_with() -> None:
    assert paired(frame().query("model == 'multi'"), ["a"]).empty
