from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quench.datasets.image_folder import ImageFolder
from quench.errors import InvalidValue, UserError


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 1)):
        for label, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            for i in range(count):
                paint(tmp_path / "images" / part / label / f"{i}.png", colour)
    return tmp_path / "images"


def folder(root: Path, size: int | None = None) -> ImageFolder:
    return ImageFolder(root=str(root), size=size, cache=str(root.parent / "cache"))


def test_classes_are_subfolders(root: Path) -> None:
    train, test, names = folder(root).splits()
    assert names == ("blue", "red")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.images.shape == (2, 3, 6, 6)
    assert test.images[0, :, 0, 0].tolist() == [0, 0, 255]


def test_images_are_decoded_once_and_again_when_they_change(root: Path) -> None:
    folder(root).splits()
    cached = sorted((root.parent / "cache").iterdir())
    assert len(cached) == 2
    for path in cached:
        np.save(path, np.load(path) // 2)  # if this is what is read, nothing was decoded
    assert folder(root).splits()[1].images[0, 2].unique().tolist() == [127]
    paint(root / "test" / "blue" / "0.png", (9, 9, 9), (6, 6))
    assert folder(root).splits()[1].images[0].unique().tolist() == [9]


def test_size_cuts_the_centre_and_resizes(root: Path) -> None:
    paint(root / "train" / "red" / "wide.jpg", (255, 0, 0), (20, 10))
    with pytest.raises(InvalidValue, match=r"data.size = None: images differ in size"):
        folder(root).splits()
    train, _, _ = folder(root, size=4).splits()
    assert train.images.shape == (7, 3, 4, 4)
    assert train.images.dtype == torch.uint8


def test_mistakes_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="data.root = .*no such folder"):
        folder(tmp_path / "nowhere").splits()
    (root / "test" / "green").mkdir()
    paint(root / "test" / "green" / "0.png", (0, 255, 0))
    with pytest.raises(InvalidValue, match="test/ has classes that train/ lacks: green"):
        folder(root).splits()
    (root / "test" / "green" / "0.png").unlink()
    broken = root / "train" / "red" / "broken.jpg"
    broken.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"broken.jpg cannot be read"):
        folder(root).splits()
    broken.unlink()
    for image in (root / "train").rglob("*.png"):
        image.unlink()
    with pytest.raises(InvalidValue, match="train/ holds no <class>"):
        folder(root).splits()
