"""Labelled images as one uint8 array a split: small enough to stay on the device that trains on them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Split:
    """Images `(N, C, H, W)` uint8 and labels `(N,)` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index`, as pixels in [0, 1]."""
        return Batch(self.images[index].float().div_(255), self.labels[index], index)


@dataclass(frozen=True)
class ImageSpec:
    """What a model must know of the images: their shape, classes, and how to normalise them."""

    shape: tuple[int, int, int]
    """(channels, height, width)"""
    classes: int
    mean: tuple[float, ...]
    """of each channel over the training images, in [0, 1]"""
    std: tuple[float, ...]


@dataclass(frozen=True)
class Data:
    """A loaded dataset: what is trained on, what is watched while training, what is judged in the end."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def spec(self) -> ImageSpec:
        channels = self.train.images.shape[1]
        # Counting values is exact, and needs no float copy of the images.
        pixels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for c in range(channels):
            weight = torch.bincount(self.train.images[:, c].flatten(), minlength=256).double()
            m = (pixels * weight).sum() / weight.sum()
            mean.append(float(m))
            std.append(max(float(((pixels - m).square() * weight).sum().div(weight.sum()).sqrt()), 1e-3))
        _, *shape = self.train.images.shape
        return ImageSpec((shape[0], shape[1], shape[2]), len(self.classes), tuple(mean), tuple(std))


class Dataset(Plugin):
    """Where images come from; a frozen dataclass whose fields say which ones."""

    @abstractmethod
    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        """The training images, the test images and the names of the classes.

        Raises `UserError` if they cannot be had or are not what they should be.
        """

    def load(self, validation: int) -> Data:
        """The splits, with `validation` images held out of training, always the same ones.

        The hold-out does not depend on a run's seed: every run of a comparison is watched on the
        same images, and none of them is ever selected on test images.
        """
        train, test, classes = self.splits()
        require(0 < validation < len(train), "validation", validation, f"must be from 1 to {len(train) - 1}")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(2007_03832))
        return Data(train.take(order[validation:]), train.take(order[:validation]), test, classes)
