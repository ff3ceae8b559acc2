from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quench.analysis.confirmed import confirmed_frame, searched
from quench.analysis.overfitting import detections
from quench.analysis.trade_off import configurations, pareto_front

points = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=30)


@given(points)
def test_the_front_is_what_nothing_dominates(found: list[tuple[int, int]]) -> None:
    frame = pd.DataFrame(found, columns=["train_seconds", "robust"]) / 20
    front = pareto_front(frame)
    for i, (seconds, robust) in enumerate(found):
        dominated = any((s <= seconds and r >= robust and (s, r) != (seconds, robust)) for s, r in found)
        if front[i]:
            assert not dominated
        else:
            assert dominated or (seconds, robust) in [found[j] for j in np.flatnonzero(front)], (
                "a twin may stand for it"
            )


def frame() -> pd.DataFrame:
    rows = [
        # threat, configuration, seed, train seconds, robust
        ("linf 0.1", "pgd", 0, 10.0, 0.80),
        ("linf 0.1", "pgd", 1, 12.0, 0.84),
        ("linf 0.1", "n_fgsm", 0, 3.0, 0.80),
        ("linf 0.1", "n_fgsm", 1, 3.0, 0.82),
        ("linf 0.1", "slow", 0, 20.0, 0.50),
        ("linf 0.1", "unfinished", 0, 1.0, float("nan")),
        ("l2 0.5", "pgd", 0, 10.0, 0.70),
    ]
    table = pd.DataFrame(rows, columns=["threat", "configuration", "seed", "train_seconds", "robust"])
    norms = table["threat"].str.split(expand=True)
    return table.assign(
        norm=norms[0],
        epsilon=norms[1].astype(float),
        clean=0.9,
        phase="search",
        lost=table["robust"] == 0.5,
        unreliable=np.where(table["seed"] == 1, "zero gradients", ""),
    )


def test_configurations_are_means_over_seeds_compared_within_a_threat_model() -> None:
    table = configurations(frame()).set_index(["threat", "configuration"])
    assert "unfinished" not in table.index.get_level_values(1)
    fast = table.loc[("linf 0.1", "n_fgsm")]
    assert (fast.seeds, fast.train_seconds, fast.robust) == (2, 3.0, pytest.approx(0.81))
    assert (fast.robust_min, fast.robust_max) == (0.80, 0.82)
    assert (fast.lost, table.loc[("linf 0.1", "slow")].lost) == (0, 1)
    assert (fast.unreliable, table.loc[("linf 0.1", "slow")].unreliable) == (1, 0)
    assert fast.behind_best == pytest.approx(0.01)
    assert fast.faster_than_best == pytest.approx(11 / 3)
    assert table["on_front"].to_dict() == {
        ("l2 0.5", "pgd"): True,
        ("linf 0.1", "n_fgsm"): True,
        ("linf 0.1", "pgd"): True,
        ("linf 0.1", "slow"): False,
    }


def test_finalists_are_judged_by_their_fresh_seeds() -> None:
    """A collapsed one counts, as nothing; what it was found by is the runs that it was chosen for."""
    columns = ["configuration", "phase", "seed", "selection", "lost", "robust"]
    rows = [
        ("pgd", "promotion", 0, 0.9, False, 0.8),
        ("pgd confirmed", "confirmation", 7, 0.6, False, 0.5),
        ("pgd confirmed", "confirmation", 8, 0.7, True, 0.1),
        ("fgsm", "promotion", 0, 0.8, False, 0.7),
        ("fgsm confirmed", "confirmation", 7, 0.5, False, 0.6),
        ("n_fgsm", "search", 0, 0.2, False, 0.3),
    ]
    runs = pd.DataFrame(rows, columns=columns).assign(
        threat="linf 0.1", unreliable="", train_seconds=1.0, clean=0.9, robust_low=0.0, robust_high=1.0
    )
    found = confirmed_frame(runs)
    shown = found[["configuration", "seeds", "lost", "found", "again", "robust"]].to_numpy().tolist()
    assert shown == [["fgsm", 1, 0, 0.8, 0.5, 0.6], ["pgd", 2, 1, 0.9, 0.3, pytest.approx(0.3)]]
    assert set(searched(runs)["configuration"]) == {"pgd", "fgsm", "n_fgsm"}
    assert confirmed_frame(searched(runs)).empty


def test_detections_compare_the_guard_with_what_one_knows_afterwards() -> None:
    robust = {
        "lost": [0.2, 0.4, 0.35, 0.1, 0.05],
        "dip": [0.2, 0.4, 0.1, 0.3, 0.4],
        "missed": [0.4, 0.1, 0.1, 0.1, 0.1],
    }
    rows = [
        {"run": run, "configuration": "fgsm", "epoch": i + 1, "updates": 10 * (i + 1), "robust_accuracy": value}
        for run, values in robust.items()
        for i, value in enumerate(values)
    ]
    alarms = [
        ("lost", 12, False, "accuracy"),
        ("lost", 34, True, "linearity"),
        ("lost", 50, True, "probe"),
        ("dip", 5, False, "accuracy"),
    ]
    events = pd.DataFrame(alarms, columns=["run", "update", "confirmed", "cause"])
    found = detections(pd.DataFrame(rows), events).set_index("run")
    assert found.loc["lost", ["onset", "detected", "late", "cause", "false_alarms"]].tolist() == [
        40,
        34,
        4,
        "linearity",
        1,
    ]
    assert found.loc["dip", "false_alarms"] == 1
    assert np.isnan(found.loc["dip", "onset"])
    assert found.loc["missed", "onset"] == 20
    assert np.isnan(found.loc["missed", "detected"])


def test_nothing_finished_is_an_empty_table() -> None:
    nothing = frame().query("configuration == 'unfinished'")
    assert configurations(nothing).empty
    assert "on_front" in configurations(nothing)
