"""Every model looked at in the same way: on the same images, from the same seeds, with the same steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

import torch
from torch import Generator, Tensor, nn

from quench.datasets import Batch, Data, Examples
from quench.errors import not_negative, require
from quench.evaluation import evaluating
from quench.interpretation.alignment import cosine, etmann_alignment, gini, low_frequency_share, relative_distance
from quench.interpretation.representation import Representation, fake_relu, telling_features
from quench.interpretation.saliency import loss_gradient, saliency
from quench.interpretation.synthesis import (
    Descent,
    gaussian_seed,
    grey_noise,
    raising_feature,
    towards_class,
    towards_representation,
)
from quench.threat_model import ThreatModel

METRICS = {
    "alignment": "Etmann\nalignment",
    "neighbour_cosine": "gradient cosine\nof neighbours",
    "gini": "sparsity (Gini)\nof gradient",
    "low_frequency": "low frequencies\nof gradient",
    "inversion_error": "inversion: error\nof representation",
    "inversion_distance": "inversion:\ndistance of image",
}
"""the numbers of an image and a model, and words for them; `Interpretation.measure` says what they mean"""
_PER_CLASS = 500
"""training images that class seeds and telling features are made from, for each class"""
_CHUNK = 128


@dataclass(frozen=True)
class Material:
    """What every model is shown. All on one device."""

    measured: Batch
    """test images, drawn at random, that the numbers are of"""
    eta: Tensor
    """a random perturbation of each of them, in the threat model"""
    shown: Batch
    """one test image a column, of one class after the other"""
    class_seeds: Tensor
    """for each picture a draw from its class's Gaussian"""
    noise: Tensor
    """for each picture some grey noise"""
    train: Batch
    """some training images of every class"""

    def to(self, device: torch.device) -> Material:
        def moved(value: Batch | Tensor) -> Batch | Tensor:
            if isinstance(value, Tensor):
                return value.to(device)
            return Batch(value.x.to(device), value.y.to(device), value.index.to(device))

        return Material(*(moved(getattr(self, one.name)) for one in fields(self)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """How to look at models. Radii and steps of the descents are shares of the box's diagonal.

    The defaults are those published for 224 x 224 x 3, where the diagonal is 388 (Engstrom et al., Santurkar et al. and
    their notebooks): a radius of 80 in 200 steps of 0.5 for targeted images, and steps of 1 anywhere in the box for
    features (200) and inversion (1,000 in the notebooks, 10,000 in the paper). Class synthesis may go as far as
    targeted images, twice as far as published: on small images adversaries are a larger share of the diagonal.
    """

    images: int = 128
    """test images that the numbers are of; all of them if there are fewer"""
    pictures: int = 10
    """test images that are drawn, one class after the other"""
    seed: int = 0
    """of the choice of images, and of every random start"""
    targeted: Descent = field(default_factory=lambda: Descent(steps=200, step=0.0013, radius=0.2))
    """images made to be of another class"""
    synthesis: Descent = field(default_factory=lambda: Descent(steps=120, step=0.0026, radius=0.2))
    """images of a class, from a draw of its Gaussian"""
    feature: Descent = field(default_factory=lambda: Descent(steps=200, step=0.0026))
    """images that show much of a feature, from noise"""
    inversion: Descent = field(default_factory=lambda: Descent(steps=1000, step=0.0026))
    """images made to be represented as others are"""

    def __post_init__(self) -> None:
        require(self.images >= 2, "images", self.images, "must be 2 or above")
        require(self.pictures >= 2, "pictures", self.pictures, "must be 2 or above")
        not_negative(self, "seed")

    def material(self, data: Data, threat: ThreatModel) -> Material:
        """The images and seeds for all models; on the CPU, whatever these are on, so that they are the same."""
        rng = Generator().manual_seed(self.seed)
        order = torch.randperm(len(data.test), generator=rng)
        measured = data.test.batch(order[: self.images].sort().values)
        shown = data.test.batch(_in_turn(data.test.labels[order], order, self.pictures))
        train = data.train.batch(_few_of_each(data.train, rng))
        seeds = [gaussian_seed(_class_of(train, int(label)), rng) for label in shown.y]
        noise = grey_noise(shown.x, rng)
        eta = threat.random_start(measured.x, rng)
        return Material(measured, eta, shown, torch.stack(seeds), noise, train)

    def measure(self, model: nn.Module, material: Material) -> dict[str, Tensor]:
        """`METRICS` of each image in `material.measured`: `(N,)` each, on the CPU; NaN where one has no meaning.

        With g the gradient of the loss and r the representation: `alignment` of x with the gradient of the margin
        (Etmann et al., ICML 2019), `neighbour_cosine` = cos(g(x), g(x + eta)) (GradAlign, arXiv 2007.02617), `gini`,
        the sparsity of g, `low_frequency`, the share of its energy below half the Nyquist radius. And, of
        descending ||r(x') - r(t)|| / ||r(t)|| from another test image x0, `inversion_error`, what is left of it, and
        `inversion_distance` = ||x' - t|| / ||x0 - t||: whether what looks alike to the model does to us.
        """
        batch = material.measured
        starts = batch.x.roll(-1, 0)
        with evaluating(model):
            parts = [
                self._measure(model, *part)
                for part in zip(*(t.split(_CHUNK) for t in (batch.x, batch.y, material.eta, starts)), strict=True)
            ]
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in METRICS}

    def _measure(self, model: nn.Module, x: Tensor, y: Tensor, eta: Tensor, starts: Tensor) -> dict[str, Tensor]:
        gradient = loss_gradient(model, x, y)
        found, error = self._invert(model, x, starts)
        return {
            "alignment": etmann_alignment(model, x),
            "neighbour_cosine": cosine(gradient, loss_gradient(model, x + eta, y)),
            "gini": gini(gradient),
            "low_frequency": low_frequency_share(gradient),
            "inversion_error": error,
            "inversion_distance": relative_distance(found, x, scale=starts - x),
        }

    def show(self, model: nn.Module, material: Material) -> dict[str, Tensor]:
        """Each `(K, C, H, W)` in [0, 1] on the CPU, a column for each of `material.shown`.

        `saliency`, grey where the gradient is zero; `targeted`, towards the next column's class; `synthesis` of the
        column's class from its seed; `feature`, the one that tells that class, from noise; `inversion`, the next
        column's image made to be represented as this one.
        """
        batch = material.shown
        with evaluating(model):
            features = telling_features(model, material.train)[batch.y]
            representation = Representation(model)
            with fake_relu(model):
                feature = self.feature(representation, raising_feature(features), material.noise)
            made = {
                "saliency": saliency(loss_gradient(model, batch.x, batch.y)),
                "targeted": self.targeted(model, towards_class(batch.y.roll(-1)), batch.x),
                "synthesis": self.synthesis(model, towards_class(batch.y), material.class_seeds),
                "feature": feature,
                "inversion": self._invert(model, batch.x, batch.x.roll(-1, 0))[0],
            }
        return {name: images.cpu() for name, images in made.items()}

    def _invert(self, model: nn.Module, targets: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """From `starts`, images that are represented as `targets` are, and the error that is left: `(N,)`."""
        representation = Representation(model)
        with torch.no_grad():
            wanted = representation(targets)
        found = self.inversion(representation, towards_representation(wanted), starts)
        with torch.no_grad():
            return found, relative_distance(representation(found), wanted)


def _in_turn(labels: Tensor, order: Tensor, count: int) -> Tensor:
    """`count` of the images in `order`, whose `labels` these are: the first of each class, the second of each, ..."""
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for label, index in zip(labels.tolist(), order.tolist(), strict=True):
        ranked.append((seen[label], label, index))
        seen[label] += 1
    return torch.tensor([index for _, _, index in sorted(ranked)[:count]])


def _few_of_each(split: Examples, rng: Generator) -> Tensor:
    """Positions of at most `_PER_CLASS` images of every class, drawn at random."""
    order = torch.randperm(len(split), generator=rng)
    labels = split.labels[order]
    return torch.cat([order[labels == label][:_PER_CLASS] for label in labels.unique()])


def _class_of(batch: Batch, label: int) -> Tensor:
    return batch.x[batch.y == label]
