from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quench.catalogue import name_of
from quench.config import decode, describe, encode, flatten, override
from quench.errors import InvalidValue
from quench.geometry.l2 import L2
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.methods.pgd import PGDTraining
from quench.threat_model import ThreatModel
from quench.training.recipe import Recipe


def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert decode(Recipe, json.loads(json.dumps(encode(recipe)))) == recipe


@given(epsilon=st.floats(1e-9, 1e9), seed=st.integers(0, 2**40), noise=st.floats(0, 10))
def test_numbers_survive_exactly(epsilon: float, seed: int, noise: float) -> None:
    from conftest import tiny_recipe

    changed = override(tiny_recipe(), {"threat.epsilon": epsilon, "seed": seed, "method.noise_ratio": noise})
    again = decode(Recipe, json.loads(json.dumps(encode(changed))))
    assert (again.threat.epsilon, again.seed, again.method) == (epsilon, seed, NFGSM(noise_ratio=noise))


def test_override_goes_from_the_outside_in(recipe: Recipe) -> None:
    changed = override(recipe, {"method.steps": 3, "method": "pgd"})
    assert changed.method == PGDTraining(steps=3)
    assert recipe.method == NFGSM(), "the original is as it was"


def test_override_takes_parts_names_and_fractions(recipe: Recipe) -> None:
    changed = override(
        recipe,
        {"threat.norm": "l2", "threat.epsilon": "128/255", "method": FGSMRS(step_ratio=0.875), "model.widths": [4, 4]},
    )
    assert changed.threat == ThreatModel(norm=L2(), epsilon=128 / 255)
    assert changed.method == FGSMRS(step_ratio=0.875)


def test_fields_that_must_agree_change_together(recipe: Recipe) -> None:
    assert override(recipe, {"workers": 129, "batch_size": 129}).workers == 129


def test_fields_that_must_agree_can_change_at_once(recipe: Recipe) -> None:
    changes = {"method": "fast_eg_l1", "threat.norm": "l1", "threat.norm.density": 0.1, "threat.epsilon": "24/2"}
    changed = override(recipe, changes)
    assert (name_of(changed.method), str(changed.threat)) == ("fast_eg_l1", "l1 12")
    with pytest.raises(InvalidValue, match="threat.norm = 'linf': the method fast_eg_l1 is defined in l1 only"):
        override(changed, {"threat.norm": "linf"})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "threat.epsilonn",
            0.1,
            r"no such field; threat has epsilon, norm; did you mean 'threat.epsilon'",
        ),
        ("epsilon", 0.1, r"no such field; .*did you mean 'threat.epsilon'"),
        ("method.steps", 5, r"no such field; method has noise_ratio, step_ratio"),
        ("threat.epsilon.x", 5, r"no such field"),
        ("threat.epsilon", -1.0, r"must be above 0"),
        ("threat.epsilon", "8/0", r"a number or a fraction such as 8/255"),
        ("threat.epsilon", True, r"a number or a fraction"),
        ("threat.norm", "l3", r"must be one of l1, l2, linf; did you mean 'l2'"),
        ("method", "ngfsm", r"must be one of .*n_fgsm.*did you mean 'n_fgsm'"),
        ("method", 3, r"must name a method"),
        ("budget.epochs", 7.9, r"must be a whole number"),
        ("budget.epochs", "7", r"must be a whole number"),
        ("augmentation.flip", 1, r"must be true or false"),
        ("precision", "float16", r"must be one of bfloat16, float32, float64; did you mean"),
        ("model.widths", "wide", r"must be a list"),
        ("model.widths", (8, 0), r"numbers above 0"),
        ("workers", 129, r"batch_size = 128: must be at least workers = 129, so that each has a share"),
    ],
)
def test_refuses_with_key_value_and_rule(recipe: Recipe, key: str, value: object, says: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        override(recipe, {key: value})
    line = str(caught.value)
    assert re.search(says, line), line
    assert "\n" not in line
    if key != "workers":
        assert line.startswith(f"{key} = {value!r}: "), line


def test_unknown_keys_in_a_file_are_refused(recipe: Recipe) -> None:
    data = encode(recipe)
    data["optimizer"]["learning_rate"] = 0.1
    with pytest.raises(InvalidValue, match=r"optimizer.learning_rate.*lr, momentum"):
        decode(Recipe, data)
    del data["optimizer"], data["model"]
    with pytest.raises(InvalidValue, match="model = None: is required"):
        decode(Recipe, data)


def test_flat_keys_name_plugins_and_can_be_overridden_with(recipe: Recipe) -> None:
    flat = flatten(recipe)
    assert flat["method"] == "n_fgsm"
    assert flat["method.noise_ratio"] == 2.0
    assert flat["threat.norm"] == "linf"
    assert override(recipe, flat) == recipe


def test_every_field_of_a_recipe_is_explained(recipe: Recipe) -> None:
    described = {key: meaning for key, _, meaning in describe(recipe)}
    assert described.keys() == flatten(recipe).keys()
    assert "radius of the ball" in described["threat.epsilon"]
    assert "one of" in described["method"]
