"""Training and judging in sizes, for `growth.py`; what is not itself measured is made before, by the same call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from quench import Recipe, ThreatModel
from quench.attacks import Attack
from quench.attacks.autoattack import AutoAttack
from quench.attacks.pgd import PGD
from quench.datasets import Dataset, Split
from quench.evaluation import Examination, evaluate
from quench.geometry import Geometry
from quench.geometry.l1 import L1
from quench.geometry.linf import Linf
from quench.methods.n_fgsm import NFGSM
from quench.models.small_cnn import SmallCNN
from quench.training.budgets.epochs import Epochs
from quench.training.loop import fit
from quench.training.state import TrainState

CPU = torch.device("cpu")
HELD_OUT, TEST = 128, 64
Work = Callable[[], object]


class Part(NamedTuple):
    """Work of sizes `first` x 1, 4, 16, 64."""

    grows: str
    name: str
    first: int
    prepare: Callable[[int, Path], Work]
    """(size, an empty folder) -> the work"""


@dataclass(frozen=True, kw_only=True)
class Noise(Dataset):
    """Random images, of which a network can learn nothing: they cost what any others would."""

    images: int = 1024
    side: int = 8
    classes: int = 10

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        train, test = (self._split(n) for n in (self.images + HELD_OUT, TEST))
        return train, test, tuple(map(str, range(self.classes)))

    def _split(self, images: int) -> Split:
        rng = torch.Generator().manual_seed(images)
        pixels = torch.randint(256, (images, 3, self.side, self.side), dtype=torch.uint8, generator=rng)
        return Split(pixels, torch.randint(self.classes, (images,), generator=rng))


@dataclass(frozen=True, kw_only=True)
class Made(Dataset):
    """Splits that are there already."""

    parts: tuple[Split, Split, tuple[str, ...]]

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        return self.parts


def recipe_of(data: Dataset, norm: Geometry | None = None, epsilon: float = 8 / 255) -> Recipe:
    return Recipe(
        data=data,
        model=SmallCNN(),
        threat=ThreatModel(norm=norm or Linf(), epsilon=epsilon),
        method=NFGSM(),
        budget=Epochs(1),
        validation=HELD_OUT,
        probe=PGD(steps=1),
    )


def epoch(data: Dataset) -> Work:
    """An epoch of N-FGSM, and its look at the held-out images."""
    recipe = recipe_of(data)
    loaded = data.load(HELD_OUT)
    return lambda: list(fit(TrainState.initial(recipe, loaded.spec(), CPU), recipe, loaded))


def loaded(data: Dataset) -> Work:
    """Hold images out, take channel statistics, and digests."""
    made = Made(parts=data.splits())

    def work() -> None:
        found = made.load(HELD_OUT)
        found.spec()
        found.about()

    return work


def judged(data: Dataset, attack: Attack, images: int, norm: Geometry | None = None) -> Work:
    """An attack that cannot succeed, on images of which the network is right: nothing is left out."""
    recipe, found = recipe_of(data, norm, epsilon=1e-7), data.load(HELD_OUT)
    model = TrainState.initial(recipe, found.spec(), CPU).judged.eval()
    pixels = found.train.take(torch.arange(images))
    with torch.no_grad():
        right = model(pixels.batch(torch.arange(images)).x).argmax(1)
    asked = Examination(attacks={"attack": attack}, threat=recipe.threat, seed=0, batch_size=128)
    return lambda: evaluate(model, Split(pixels.images, right), asked)


def sides(pixels: int) -> int:
    return round(pixels**0.5)


LIGHT = AutoAttack(steps=2, queries=20)
PARTS = (
    Part("images", "an epoch", 256, lambda n, _: epoch(Noise(images=n))),
    Part("images", "loading, statistics and digests, 32x32", 1000, lambda n, _: loaded(Noise(images=n, side=32))),
    Part("images", "judging, PGD-10", 64, lambda n, _: judged(Noise(images=n), PGD(steps=10), n)),
    Part("classes", "an epoch", 10, lambda n, _: epoch(Noise(classes=n))),
    Part("classes", "judging, AutoAttack", 10, lambda n, _: judged(Noise(classes=n), LIGHT, 64)),
    Part("pixels", "an epoch", 64, lambda n, _: epoch(Noise(side=sides(n), images=256))),
    Part("pixels", "judging, AutoAttack", 64, lambda n, _: judged(Noise(side=sides(n)), LIGHT, 16)),
    Part("pixels", "judging, AutoAttack in l1", 64, lambda n, _: judged(Noise(side=sides(n)), LIGHT, 16, L1())),
)
