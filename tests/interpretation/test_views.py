"""Every model is shown the same, whatever it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quench.datasets.digits import Digits
from quench.errors import InvalidValue
from quench.geometry.l2 import L2
from quench.interpretation.synthesis import Descent
from quench.interpretation.views import METRICS, Interpretation
from quench.models.small_cnn import SmallCNN
from quench.threat_model import ThreatModel

DATA = Digits().load(100)
THREAT = ThreatModel(norm=L2(), epsilon=0.5)
SHORT = Interpretation(
    images=10,
    pictures=12,
    targeted=Descent(steps=2, step=0.02),
    synthesis=Descent(steps=2, step=0.02),
    feature=Descent(steps=2, step=0.02),
    inversion=Descent(steps=3, step=0.02),
)


def model(seed: int = 0) -> nn.Module:
    return SmallCNN(widths=(8, 8)).build(DATA.spec(), seed)


def test_the_material_is_a_function_of_the_seed() -> None:
    material, again = (SHORT.material(DATA, THREAT) for _ in range(2))
    assert torch.equal(material.class_seeds, again.class_seeds)
    assert torch.equal(material.eta, again.eta)
    other = Interpretation(images=10, seed=1).material(DATA, THREAT)
    assert not torch.equal(material.measured.index, other.measured.index)
    assert len(set(material.measured.index.tolist())) == 10
    assert material.shown.y.tolist() == [*range(10), 0, 1], "one class after the other"
    assert len(set(material.shown.index.tolist())) == 12
    assert THREAT.contains(material.measured.x, material.measured.x + material.eta).all()
    assert len(Interpretation(images=10**6).material(DATA, THREAT).measured.y) == len(DATA.test)


def test_numbers_and_pictures_of_a_model_in_eval_mode_whatever_it_was_in() -> None:
    material = SHORT.material(DATA, THREAT)
    training, judged = model().train(), model().eval()
    numbers = SHORT.measure(training, material)
    assert training.training
    assert list(numbers) == list(METRICS)
    for name, values in SHORT.measure(judged, material).items():
        assert values.shape == (10,)
        assert torch.equal(values, numbers[name])
        assert (values >= 0).all()
    pictures = SHORT.show(training, material)
    assert set(pictures) == {"saliency", "targeted", "synthesis", "feature", "inversion"}
    for images in pictures.values():
        assert images.shape == (12, 1, 8, 8)
        assert images.min() >= 0
        assert images.max() <= 1
    assert all(torch.equal(images, SHORT.show(judged, material)[name]) for name, images in pictures.items())


def test_a_model_that_does_not_bend_has_the_same_gradient_next_door() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    two = Digits().load(100)
    material = SHORT.material(two, THREAT)
    material.measured.y.clamp_(max=1)
    assert SHORT.measure(linear, material)["neighbour_cosine"].tolist() == pytest.approx([1] * 10)


@pytest.mark.parametrize("fields", [{"images": 1}, {"pictures": 1}, {"seed": -1}])
def test_mistakes_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidValue, match="must be"):
        Interpretation(**fields)  # pyright: ignore[reportArgumentType]
