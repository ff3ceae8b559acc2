"""Restricted ImageNet: nine superclasses of ImageNet that look alike inside and different outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from quench.datasets import Dataset, Examples
from quench.datasets.image_folder import Files, list_folder
from quench.datasets.streamed import Streamed, View
from quench.errors import positive, require

SUPERCLASSES: dict[str, range] = {
    "dog": range(151, 269),
    "cat": range(281, 286),
    "frog": range(30, 33),
    "turtle": range(33, 38),
    "bird": range(80, 101),
    "monkey": range(365, 383),
    "fish": range(389, 398),
    "crab": range(118, 122),
    "insect": range(300, 320),
}
"""name -> ImageNet's classes, counted from 0 in the order of their folders' names (Tsipras et al., arXiv 1805.12152)"""


@dataclass(frozen=True, kw_only=True)
class RestrictedImageNet(Dataset):
    """ImageNet's folders (ILSVRC 2012, 1,000 classes), streamed; images of other classes are left out."""

    root: str
    """folder that holds train/ and val/ (or test/), each with ImageNet's class folders n01440764, ..."""
    size: int = 224
    """side to which images are cut (centre) and resized"""
    centre: float = 0.875
    """share of the shorter side that the cut keeps"""

    def __post_init__(self) -> None:
        positive(self, "size")
        require(0 < self.centre <= 1, "centre", self.centre, "must be above 0 and at most 1")

    @property
    def streams(self) -> bool:
        return True

    def splits(self) -> tuple[Examples, Examples, tuple[str, ...]]:
        listed = list_folder(self.root)
        allowed = f"must hold ImageNet's 1000 class folders; train/ has {len(listed.classes)}"
        require(len(listed.classes) == 1000, "data.root", self.root, allowed)
        superclass = np.full(1000, -1)
        for label, members in enumerate(SUPERCLASSES.values()):
            superclass[members.start : members.stop] = label
        view = View(size=self.size, centre=self.centre)
        train, test = (_restricted(*part, superclass, view) for part in (listed.train, listed.test))
        return train, test, tuple(SUPERCLASSES)


def _restricted(files: Files, labels: np.ndarray, superclass: np.ndarray, view: View) -> Streamed:
    labels = superclass[labels]
    kept = np.flatnonzero(labels >= 0)
    return Streamed(files.take(kept), torch.from_numpy(labels[kept]), view)
