"""Fewer images of another dataset: for experiments of a minute, and for what little data does to robustness."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quench.datasets import Dataset, Examples
from quench.errors import positive, require


@dataclass(frozen=True, kw_only=True)
class Subset(Dataset):
    """Some of a dataset's images, drawn at random, the same ones for every run."""

    of: Dataset
    """the dataset"""
    train: int
    """training images, of which `validation` are held out"""
    test: int | None = None
    """test images; all if not given"""

    def __post_init__(self) -> None:
        positive(self, "train", "test")

    @property
    def streams(self) -> bool:
        return self.of.streams

    def splits(self) -> tuple[Examples, Examples, tuple[str, ...]]:
        train, test, classes = self.of.splits()
        return _some(train, "train", self.train), _some(test, "test", self.test or len(test)), classes


def _some(examples: Examples, key: str, count: int) -> Examples:
    require(count <= len(examples), f"data.{key}", count, f"must be at most {len(examples)}, which the dataset has")
    return examples.take(examples.shuffled(torch.Generator().manual_seed(10_000))[:count])
