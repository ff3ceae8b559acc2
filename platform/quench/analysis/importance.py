"""Which of the swept keys the robust accuracy follows, as far as a random forest can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quench.analysis.look import panels, threats
from quench.analysis.parallel import measured, scale

FEWEST = 30
"""runs of a threat model, below which a forest of them says nothing"""
LEAST = 0.1
"""share of the variance, below which what predicts it is chance"""
_FOLDS, _SHUFFLES, _TREES = 3, 5, 60


def importance_frame(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row a threat model and key; none where there are fewer than `FEWEST` runs with a result.

    A random forest predicts the robust accuracy of a third of the runs from the others, by the keys' values;
    `importance` is the share of the variance that a key takes part in: half of what the mean squared error grows by
    when its values are shuffled in that third, over the variance (for independent keys its total Sobol index, by
    Jansen's estimator); the mean over thirds and shuffles, and `spread` their standard deviation. Other columns:
    `runs`, and `explained`, the share of the variance that is predicted; threat models where that is below
    `LEAST` are left out. It describes these runs: keys that went together in them share what is theirs.
    """
    measure = measured(runs)[0]
    known = runs.dropna(subset=[measure])
    parts = [
        _importance(part[measure].to_numpy(), pd.DataFrame({key: scale(part[key]).heights for key in varied})).assign(
            threat=threat, runs=len(part)
        )
        for threat, part in known.groupby("threat", sort=False)
        if len(part) >= FEWEST and (varied := [key for key in keys if part[key].astype(str).nunique() > 1])
    ]
    told = [part for part in parts if part["explained"].iloc[0] >= LEAST]
    return pd.concat(told, ignore_index=True) if told else pd.DataFrame()


def _importance(robust: np.ndarray, values: pd.DataFrame) -> pd.DataFrame:
    # Heavy to import, and needed for large sweeps only.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    lost: list[Any] = []
    missed: list[float] = []
    for fit, held in KFold(_FOLDS, shuffle=True, random_state=0).split(values):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(values.iloc[fit], robust[fit])
        result: Any = permutation_importance(
            forest,
            values.iloc[held],
            robust[held],
            n_repeats=_SHUFFLES,
            random_state=0,
            scoring="neg_mean_squared_error",
        )
        lost.append(result.importances / 2 / robust.var())
        missed += ((forest.predict(values.iloc[held]) - robust[held]) ** 2).tolist()
    every, explained = np.concatenate(lost, axis=1), 1 - np.mean(missed) / robust.var()
    return pd.DataFrame(
        {"key": values.columns, "importance": every.mean(1), "spread": every.std(1), "explained": explained}
    ).sort_values("importance", ascending=False)


def importance_figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """A bar for each key, the most important on top, a panel for each threat model."""
    names = threats(runs.loc[runs["threat"].isin(frame["threat"])])
    figure, columns = panels(len(names), height=1.2 + 0.28 * frame.groupby("threat").size().max())
    for threat, (axes,) in zip(names, columns, strict=True):
        part = frame.query("threat == @threat").iloc[::-1]
        axes.barh(part["key"], part["importance"], xerr=part["spread"], color="#56b4e9", error_kw={"lw": 0.8})
        axes.axvline(0, color="black", lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        known = f"{part['runs'].iloc[0]} runs, explained {100 * part['explained'].iloc[0]:.0f} %"
        axes.set_title(f"{threat}\n{known}", fontsize="medium")
        axes.set_xlabel("share of the variance\nthat the key takes part in")
        axes.tick_params(axis="y", labelsize="small")
    return figure
