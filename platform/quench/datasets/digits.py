"""The handwritten digits that come with scikit-learn: real images, and no download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from quench.datasets import Dataset, Split
from quench.errors import require


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 grey images of 8x8 (Alpaydin & Kaynak, UCI 1998): 1,347 to train on, 450 to test on.

    Pixels come as 0..16 and are stored as 0..255, which moves them by less than 1/500.
    """

    size: int = 8
    """pixels a side; above 8, the images are enlarged (bicubic)"""

    def __post_init__(self) -> None:
        require(self.size >= 8, "size", self.size, "must be 8 or above")

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        # Its file alone: scikit-learn's own loader brings SciPy with it, a second of every worker's start.
        found = find_spec("sklearn")
        assert found is not None
        assert found.origin is not None
        rows = torch.from_numpy(np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=","))
        images = rows[:, :64].reshape(-1, 1, 8, 8).mul(255 / 16)
        if self.size > 8:
            images = F.interpolate(images, size=(self.size, self.size), mode="bicubic").clamp(0, 255)
        images = images.round().to(torch.uint8)
        everything = Split(images, rows[:, 64].long())
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return everything.take(order[450:]), everything.take(order[:450]), tuple("0123456789")
