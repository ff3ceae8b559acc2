from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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


def folder(root: Path, size: int | None = None, stream: bool = False, **more: Any) -> ImageFolder:
    return ImageFolder(root=str(root), size=size, stream=stream, cache=str(root.parent / "cache"), **more)


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


def test_a_strangers_folder_is_read_alike_in_memory_and_streamed(root: Path) -> None:
    """Grey, 16-bit, CMYK and transparent images, of other sizes, named as they come, among what is no image; a class that
    only train/ has; val/ for test/."""
    (root / "test").rename(root / "val")
    (root / "test").mkdir()  # as where ImageNet's unlabelled test images lie
    red, grey = root / "train" / "red", np.full((9, 14), 200, np.uint8)
    Image.fromarray(grey).save(red / "grey.JPEG")
    Image.fromarray(grey.astype(np.uint16) << 8).save(red / "sixteen bits.png")
    Image.new("CMYK", (12, 40), (0, 255, 255, 0)).save(red / "cmyk.jpg", quality=95)
    Image.new("RGBA", (5, 5), (255, 0, 0, 7)).save(red / "ärger.png")
    Image.new("RGB", (300, 200), (250, 0, 0)).save(red / "large.jpg", quality=95)
    (red / "._grey.jpg").write_bytes(b"a Mac was here")
    (red / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "empty").mkdir()
    paint(root / "train" / "yellow" / "0.png", (255, 255, 0))
    parts, (train, test, names) = folder(root, size=8).splits()[:2], folder(root, size=8, stream=True).splits()
    assert names == ("blue", "red", "yellow")
    for memory, files in zip(parts, (train, test), strict=True):
        everything = torch.arange(len(memory))
        assert torch.equal(memory.batch(everything).x, files.batch(everything).x)
        assert torch.equal(memory.labels, files.labels)
        assert memory.shape == files.shape == (3, 8, 8)
    assert (len(train), train.labels.bincount().tolist()) == (12, [3, 8, 1])
    colours = (train.batch(torch.arange(12)).x.mean((2, 3)) * 255).round().tolist()
    assert colours.count([200.0] * 3) == 2, "grey, in 8 bits or 16"


def test_the_centre_that_is_kept(root: Path) -> None:
    framed = np.zeros((16, 24, 3), np.uint8)
    framed[2:14, 6:18] = 255  # the middle 3/4 of the shorter side
    Image.fromarray(framed).save(root / "train" / "red" / "0.png")
    for stream in (False, True):
        whole, cut = (folder(root, size=4, stream=stream, centre=c).splits()[0] for c in (1.0, 0.75))
        assert whole.batch(torch.tensor([3])).x.min() < 0.5
        assert cut.batch(torch.tensor([3])).x.min() > 0.8, "the filter sees a little beyond the border"
    with pytest.raises(InvalidValue, match="centre = 1.5: must be above 0 and at most 1"):
        folder(root, centre=1.5)


def test_streaming_needs_a_size_and_says_which_file_is_broken(root: Path) -> None:
    with pytest.raises(InvalidValue, match="size = None: must be given to stream"):
        folder(root, stream=True)
    paths = [root / "train" / "red" / name for name in ("noise.jpg", "cut.png", "gone.png")]
    for path in paths:
        shutil.copy(root / "train" / "red" / "0.png", path)
    train, _, _ = folder(root, size=6, stream=True).splits()
    paths[0].write_bytes(b"not an image")
    paths[1].write_bytes(paths[1].read_bytes()[:45])
    paths[2].unlink()
    places = {
        name: number for number, name in enumerate(["0.png", "1.png", "2.png", "cut.png", "gone.png", "noise.jpg"])
    }
    for path in paths:
        with pytest.raises(UserError, match=f"data.root: .*{path.name} cannot be read as an image") as caught:
            train.batch(torch.tensor([3 + places[path.name]]))
        assert "\n" not in str(caught.value)
        assert "object at" not in str(caught.value)


def test_statistics_of_streamed_images_are_those_in_memory(root: Path) -> None:
    memory, files = (folder(root, size=6, stream=stream).load(2) for stream in (False, True))
    assert memory.spec() == files.spec()


def test_streamed_images_are_told_by_the_names_of_their_files_wherever_they_lie(root: Path) -> None:
    train, test, _ = folder(root, size=6, stream=True).splits()
    moved = shutil.copytree(root, root.parent / "elsewhere")
    assert folder(moved, size=6, stream=True).splits()[0].digest() == train.digest()
    assert len({train.digest(), test.digest(), folder(root, size=5, stream=True).splits()[0].digest()}) == 3
    (moved / "train" / "red" / "0.png").rename(moved / "train" / "red" / "9.png")
    assert folder(moved, size=6, stream=True).splits()[0].digest() != train.digest()
