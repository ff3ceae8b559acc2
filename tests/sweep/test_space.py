from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quench.errors import InvalidValue
from quench.geometry.l2 import L2
from quench.sweep import Choice, Fraction, Integers, LogUniform, Option, Sweep, Uniform
from quench.sweep.constraints import check, holds
from quench.sweep.space import Chance, draw, enumerated, from_data, keys, to_data
from quench.threat_model import ThreatModel

SPACE = {
    "threat": Choice(ThreatModel(norm=L2(), epsilon=0.5), ThreatModel(norm=L2(), epsilon=1.0)),
    "method": Choice("standard", Option("n_fgsm", noise_ratio=Uniform(1, 3), step_ratio=Choice(1.0, Option(2.0)))),
    "optimizer.lr": LogUniform(1e-3, 1e-1),
    "batch_size": Integers(1, 3),
    "label_smoothing": Fraction(0.1, 0.2),
    "precision": "float64",
}


@given(st.integers(0, 10**6))
def test_draws_stay_in_their_space(seed: int) -> None:
    found = draw(SPACE, Chance(seed), {})
    assert 1e-3 <= found["optimizer.lr"] <= 1e-1
    assert found["batch_size"] in (1, 2, 3)
    assert 0.1 <= found["label_smoothing"] / found["threat"].epsilon <= 0.2, "a fraction of the threat that was drawn"
    assert found["precision"] == "float64"
    assert ("method.noise_ratio" in found) == (found["method"] == "n_fgsm"), "an option brings its own parameters"
    assert 1 <= found.get("method.noise_ratio", 1) <= 3
    assert draw(SPACE, Chance(seed), {}) == found


def test_every_whole_number_is_as_likely() -> None:
    chance = Chance(0)
    found = Counter(draw({"n": Integers(1, 3)}, chance, {})["n"] for _ in range(3000))
    assert all(900 < found[n] < 1100 for n in (1, 2, 3))


def test_a_grid_has_every_combination_of_options_and_theirs() -> None:
    space = {"method": Choice("pgd", Option("n_fgsm", noise_ratio=Choice(1, 2))), "seed": Choice(0, 1)}
    assert list(enumerated(space)) == [
        {"method": "pgd", "seed": 0},
        {"method": "pgd", "seed": 1},
        {"method": "n_fgsm", "method.noise_ratio": 1, "seed": 0},
        {"method": "n_fgsm", "method.noise_ratio": 1, "seed": 1},
        {"method": "n_fgsm", "method.noise_ratio": 2, "seed": 0},
        {"method": "n_fgsm", "method.noise_ratio": 2, "seed": 1},
    ]
    assert list(keys(space)) == ["method", "method.noise_ratio", "seed"]


@given(st.integers(0, 10**6))
def test_spaces_survive_as_data(seed: int) -> None:
    again = from_data(json.loads(json.dumps(to_data(SPACE))))
    mine, theirs = (draw(space, Chance(seed), {}) for space in (SPACE, again))
    assert to_data(mine) == to_data(theirs)


def test_a_sweep_survives_as_data() -> None:
    sweep = Sweep(
        space=SPACE, search="tpe", trials=3, scheduler="halving", rungs=({"budget.epochs": 1}, {}), seeds=(0, 1)
    )
    again = Sweep.from_data(json.loads(json.dumps(sweep.to_data())))
    assert again.to_data() == sweep.to_data()


def test_a_fraction_needs_a_number_before_it() -> None:
    with pytest.raises(InvalidValue, match=r"method.x = None: is a Fraction of threat.epsilon, which is no number"):
        draw({"method.x": Fraction(0.1, 1)}, Chance(0), {"threat.norm": "l2"})


VALUES = {"threat.epsilon": 0.1, "method": "n_fgsm", "method.step_ratio": 1.5, "optimizer.nesterov": True}


@pytest.mark.parametrize(
    ("constraint", "is_so"),
    [
        ("method.step_ratio * threat.epsilon <= 40/255", True),
        ("method.step_ratio * threat.epsilon < 10/255", False),
        ("0.05 < threat.epsilon <= 0.1 and method == 'n_fgsm'", True),
        ("-threat.epsilon > 0 or method.step_ratio ** 2 - 2 > 0", True),
        ("method.noise_ratio > 100", True),
    ],
)
def test_constraints_compare_numbers(constraint: str, is_so: bool) -> None:
    check(constraint)
    assert holds(constraint, VALUES) == is_so


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        ("threat.epsilon", "must compare two sides"),
        ("threat.epsilon <", "is no comparison"),
        ("__import__('os').system('true') == 0", "may hold dotted keys"),
        ("threat.epsilo < 1", "threat.epsilo: no such field; did you mean 'threat.epsilon'"),
    ],
)
def test_other_constraints_are_refused(constraint: str, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        check(constraint, VALUES)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(InvalidValue, match="cannot be computed"):
        holds("method < 1", VALUES)
