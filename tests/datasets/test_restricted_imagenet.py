from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from quench.datasets.restricted_imagenet import SUPERCLASSES, RestrictedImageNet
from quench.errors import InvalidValue

BOUNDS = {  # of the published table, which includes both
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "monkey": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}


def imagenet(root: Path, classes: int = 1000) -> Path:
    """One image a class, whose grey is class / 4; its class folders have increasing, not consecutive numbers."""
    for part in ("train", "val"):
        for number in range(classes):
            folder = root / part / f"n{1440764 + 13 * number:08}"
            folder.mkdir(parents=True)
            Image.new("RGB", (4, 4), (number // 4,) * 3).save(folder / "0.png")
    return root


def test_superclasses_are_the_published_ranges_and_the_rest_is_left_out(tmp_path: Path) -> None:
    train, test, names = RestrictedImageNet(root=str(imagenet(tmp_path)), size=4).splits()
    assert names == tuple(BOUNDS) == tuple(SUPERCLASSES)
    kept = [
        (number, label) for number in range(1000) for label, (a, b) in enumerate(BOUNDS.values()) if a <= number <= b
    ]
    for part in (train, test):
        assert part.labels.tolist() == [label for _, label in kept]
        grey = part.batch(torch.arange(len(part))).x[:, 0, 0, 0] * 255
        assert grey.round().int().tolist() == [number // 4 for number, _ in kept]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="must hold ImageNet's 1000 class folders; train/ has 12"):
        RestrictedImageNet(root=str(imagenet(tmp_path, classes=12))).splits()
