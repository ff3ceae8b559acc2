"""Labelled images: in memory as one uint8 array a split, or decoded from files as they are asked for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Generator, Tensor

from quench.catalogue import Plugin
from quench.errors import require


@dataclass(frozen=True)
class Batch:
    """A batch on the device that computes on it."""

    x: Tensor
    """(N, C, H, W) float32 in [0, 1]"""
    y: Tensor
    """(N,) int64 class labels"""
    index: Tensor
    """(N,) int64 positions in the split"""

    def take(self, which: Tensor) -> Batch:
        """Those of a mask or an index."""
        return Batch(self.x[which], self.y[which], self.index[which])


class Examples(ABC):
    """Labelled images, on or for one device. Any number of them can be had as a batch."""

    labels: Tensor
    """(N,) int64, on the device"""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of each image"""

    @abstractmethod
    def take(self, index: Tensor) -> Examples:
        """The examples at `index` `(n,)`, as a split of their own."""

    @abstractmethod
    def shuffled(self, rng: Generator) -> Tensor:
        """All places `(N,)` in a random order, on the CPU, as `rng` is."""

    @abstractmethod
    def to(self, device: torch.device) -> Examples:
        """The same examples, for another device."""

    @abstractmethod
    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` `(n,)`, as pixels in [0, 1]."""

    def digest(self) -> str:
        """32 hexadecimal digits that tell these examples from others, by their images, labels and order."""
        found = hashlib.sha256(repr((len(self), self.shape)).encode())
        for part in chain(self.identity(), [_content(self.labels)]):
            found.update(part)
        return found.hexdigest()[:32]

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """What the images are: their pixels, or where those are not in memory, the names of their files."""


_AT_ONCE = 256
"""images that are copied at once to be gone through"""


@dataclass(frozen=True)
class Split(Examples):
    """Examples in memory: images `(N, C, H, W)` uint8 and labels `(N,)` int64."""

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def shuffled(self, rng: Generator) -> Tensor:
        return torch.randperm(len(self), generator=rng)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def batch(self, index: Tensor) -> Batch:
        return Batch(self.images[index].float().div_(255), self.labels[index], index)

    def identity(self) -> Iterator[bytes]:
        for part in self.images.split(_AT_ONCE):
            yield _content(part)


def _content(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()


@dataclass(frozen=True)
class ImageSpec:
    """What a model must know of the images: their shape, classes, and how to normalise them."""

    shape: tuple[int, int, int]
    """(channels, height, width)"""
    classes: int
    mean: tuple[float, ...]
    """of each channel over the training images, in [0, 1]"""
    std: tuple[float, ...]


STATISTICS = 256
"""images that channel statistics are taken of where not all are in memory"""


@dataclass(frozen=True)
class Data:
    """A loaded dataset: what is trained on, what is watched while training, what is judged in the end."""

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...]

    def spec(self) -> ImageSpec:
        """Shape, classes and channel statistics of the training images: of all that are in memory, else of
        the first `STATISTICS` of `train`, whose order is random and always the same."""
        images = self.train.images if isinstance(self.train, Split) else self._sample()
        # Counting values is exact, and needs no copy of the images.
        pixels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for c in range(images.shape[1]):
            counts = [torch.bincount(part[:, c].flatten(), minlength=256) for part in images.split(_AT_ONCE)]
            weight = torch.stack(counts).sum(0).double()
            m = (pixels * weight).sum() / weight.sum()
            mean.append(float(m))
            std.append(max(float(((pixels - m).square() * weight).sum().div(weight.sum()).sqrt()), 1e-3))
        return ImageSpec(self.train.shape, len(self.classes), tuple(mean), tuple(std))

    def about(self) -> dict[str, Any]:
        """Ready for JSON: classes and shape of the images, and of each part how many there are and their `digest`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = {name: {"examples": len(part), "digest": part.digest()} for name, part in parts.items()}
        return {"classes": list(self.classes), "shape": list(self.train.shape), **counts}

    def _sample(self) -> Tensor:
        few = self.train.batch(torch.arange(min(STATISTICS, len(self.train))))
        return few.x.mul(255).round().to(torch.uint8)


class Dataset(Plugin):
    """Where images come from; a frozen dataclass whose fields say which ones."""

    @abstractmethod
    def splits(self) -> tuple[Examples, Examples, tuple[str, ...]]:
        """The training images, the test images and the names of the classes.

        Raises `UserError` if they cannot be had or are not what they should be.
        """

    @property
    def streams(self) -> bool:
        """Whether images stay in their files, to be decoded by other processes while training."""
        return False

    def load(self, validation: int) -> Data:
        """The splits, with `validation` images held out of training, always the same ones.

        The hold-out does not depend on a run's seed: every run of a comparison is watched on the
        same images, and none of them is ever selected on test images.
        """
        train, test, classes = self.splits()
        require(0 < validation < len(train), "validation", validation, f"must be from 1 to {len(train) - 1}")
        order = train.shuffled(torch.Generator().manual_seed(2007_03832))
        return Data(train.take(order[validation:]), train.take(order[:validation]), test, classes)
