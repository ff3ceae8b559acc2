"""Are two models different on the same images? Means with intervals, paired differences, and what of a gap is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
_RESAMPLES = 2000


def summary(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """One row a metric and model: its mean over the images, with Student's 95 % interval.

    `frame` has one row an image and run: `model` (what its seeds share), `run`, `image`, and the metrics. The
    seeds of a model are averaged first, image by image: the interval is over images, for these weights. Columns:
    `metric`, `model`, `seeds`, `images`, `mean`, `low`, `high`, and `seed_min`, `seed_max`: the seeds' own means.
    """
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        for model, seeds in _by_model(frame, metric).items():
            values = seeds.mean(0)
            mean, low, high = _interval(values)
            own = seeds.mean(1)
            found = {"seeds": len(seeds), "images": len(values), "mean": mean, "low": low, "high": high}
            rows.append({"metric": metric, "model": model, **found, "seed_min": own.min(), "seed_max": own.max()})
    return pd.DataFrame(rows)


def paired(frame: pd.DataFrame, metrics: Sequence[str], baseline: str | None = None) -> pd.DataFrame:
    """One row a metric and model: its difference from the first model, image by image.

    `frame` is as for `summary`. Columns: `metric`, `model`, `reference`, `images`, `difference` (model minus
    reference) with Student's 95 % interval `low`, `high` and the t-test's `p`, `p_holm` corrected for all rows of
    the table (Holm 1979), and `seed_min`, `seed_max`: the range of the difference between single runs, one of
    each model. `noise` is the largest difference between two runs of the reference: what another seed does.

    A large p-value does not say that two models are alike. With a `baseline` (standard training), `kept` does:
    (model - baseline) / (reference - baseline), the share of the reference's gain that the model has, with a 95 %
    interval over images (percentile bootstrap). It is NaN where the interval of that gain holds 0.
    """
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        models = _by_model(frame, metric)
        reference, *others = models
        spread = models[reference].mean(1)
        for model in others:
            difference = models[model].mean(0) - models[reference].mean(0)
            mean, low, high = _interval(difference)
            between = models[model].mean(1)[:, None] - spread[None, :]
            row = {"metric": metric, "model": model, "reference": reference, "images": len(difference)}
            row |= {"difference": mean, "low": low, "high": high, "p": _p_value(difference)}
            row |= {"seed_min": between.min(), "seed_max": between.max(), "noise": np.ptp(spread)}
            if baseline is not None and baseline not in (model, reference):
                row |= _kept(*(models[name].mean(0) for name in (model, reference, baseline)))
            rows.append(row)
    table = pd.DataFrame(rows)
    if not table.empty:
        table.insert(list(table.columns).index("p") + 1, "p_holm", holm(table["p"].to_numpy()))
    return table


def holm(p: Values) -> Values:
    """Holm's step-down correction: p-values `(n,)` -> `(n,)`, none below its own; NaN stays and does not count."""
    order = np.argsort(p)  # NaN last
    tests = int(np.isfinite(p).sum())
    factors = np.maximum(tests - np.arange(len(p)), 1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return corrected


def _by_model(frame: pd.DataFrame, metric: str) -> dict[str, Values]:
    """Model -> `(seeds, images)`, in the order of the frame; without images where any run has no value."""
    table = frame.pivot_table(index="run", columns="image", values=metric, sort=False, dropna=False)
    table = table.dropna(axis="columns")
    runs = frame.drop_duplicates("run")
    return {
        str(model): table.loc[list(part["run"])].to_numpy(dtype=float)
        for model, part in runs.groupby("model", sort=False)
    }


def _interval(values: Values) -> tuple[float, float, float]:
    """The mean and Student's 95 % interval; NaN for an interval of one value."""
    n = len(values)
    if n < 2:
        return float(values.mean()) if n else float("nan"), float("nan"), float("nan")
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def _p_value(difference: Values) -> float:
    """Of Student's paired test, two-sided; 1 if nothing differs anywhere."""
    n = len(difference)
    if n < 2:
        return float("nan")
    if not difference.any():
        return 1.0
    with np.errstate(divide="ignore"):  # a constant difference is certain
        t = np.abs(difference.mean()) / (difference.std(ddof=1) / np.sqrt(n))
    return float(2 * stats.t.sf(t, n - 1))


def _kept(model: Values, reference: Values, baseline: Values) -> dict[str, float]:
    gain, share = reference - baseline, model - baseline
    _, low, high = _interval(gain)
    if not (low > 0 or high < 0):
        return dict.fromkeys(("kept", "kept_low", "kept_high"), float("nan"))
    drawn = np.random.default_rng(0).integers(len(gain), size=(_RESAMPLES, len(gain)))
    ratios = share[drawn].mean(1) / gain[drawn].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"kept": share.mean() / gain.mean(), "kept_low": low, "kept_high": high}
