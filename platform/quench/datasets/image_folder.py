"""A folder of images, one subfolder a class: `root/train/<class>/*.jpg`, and `root/test/` or `root/val/` alike."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from quench.datasets import Dataset, Examples, Split
from quench.datasets.streamed import Encoded, Streamed, View, decode, unreadable
from quench.errors import InvalidValue, positive, require
from quench.ranks import Ranks

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Your own images, in RGB. They are decoded once, into a cache of one uint8 array a split, or streamed."""

    root: str
    """folder that holds train/ and test/ (or val/)"""
    size: int | None = None
    """side to which images are cut (centre) and resized; without it they must all be equal"""
    centre: float = 1.0
    """share of the shorter side that the cut keeps; 0.875 is customary on ImageNet"""
    stream: bool = False
    """decode images whenever they are needed, for folders that do not fit into memory; needs a size"""
    cache: str = "~/.cache/quench/image_folder"
    """folder of the decoded arrays; their name depends on every file's path, length and date"""

    def __post_init__(self) -> None:
        positive(self, "size")
        require(0 < self.centre <= 1, "centre", self.centre, "must be above 0 and at most 1")
        require(not self.stream or self.size is not None, "size", self.size, "must be given to stream, e.g. 224")

    @property
    def streams(self) -> bool:
        return self.stream

    def splits(self) -> tuple[Examples, Examples, tuple[str, ...]]:
        listed = list_folder(self.root)
        if self.stream:
            return *listed.streamed(View(size=self.size or 0, centre=self.centre)), listed.classes
        train, test = (self._resident(*part) for part in (listed.train, listed.test))
        allowed = "train/ and test/ differ in size; give one to resize to"
        require(train.shape == test.shape, "data.size", self.size, allowed)
        return train, test, listed.classes

    def _resident(self, files: Files, labels: np.ndarray) -> Split:
        key = hashlib.sha256(repr((self.size, self.centre)).encode())
        for place, label in zip(files.paths(), labels, strict=True):
            stat = os.stat(place)
            key.update(f"|{label}|{stat.st_size}|{stat.st_mtime_ns}|".encode() + os.path.relpath(place, files.root))
        cached = Path(self.cache).expanduser() / f"{key.hexdigest()[:32]}.npy"
        if not cached.exists():
            _save(cached, _decode(files, self.size, self.centre))
        images = torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.from_numpy(labels))


@dataclass(frozen=True)
class Files(Encoded):
    """Files in a folder."""

    root: bytes
    names: np.ndarray
    """(n,) bytes: paths in `root`, as the file system has them; a million take 40 MB"""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: np.ndarray) -> Files:
        return replace(self, names=self.names[index])

    def paths(self) -> Iterator[bytes]:
        return (os.path.join(self.root, name) for name in self.names.tolist())

    def read(self) -> Iterator[bytes]:
        return map(_bytes, self.paths())

    def where(self, number: int) -> str:
        return os.fsdecode(os.path.join(self.root, self.names[number]))

    def identity(self) -> Iterator[bytes]:
        yield b"\0".join(self.names.tolist())

    def shuffled(self, rng: Generator) -> Tensor:
        return torch.randperm(len(self), generator=rng)

    def epoch(self, batches: int, batch_size: int, ranks: Ranks, rng: Generator, most: int) -> list[np.ndarray]:
        """The order of images in memory: which batch an image is in depends on neither streaming nor workers."""
        order = self.shuffled(rng)[: batches * batch_size].view(batches, batch_size)
        mine = order[:, ranks.share(batch_size)].flatten()
        return [part.numpy() for part in mine.split(most)]


def _bytes(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(os.fsdecode(path), error) from None


@dataclass(frozen=True)
class Listed:
    """What an image folder holds: files and labels `(n,)` int64 of either part."""

    train: tuple[Files, np.ndarray]
    test: tuple[Files, np.ndarray]
    classes: tuple[str, ...]

    def streamed(self, view: View) -> tuple[Streamed, Streamed]:
        train, test = (Streamed(files, torch.from_numpy(labels), view) for files, labels in (self.train, self.test))
        return train, test


def list_folder(root: str) -> Listed:
    """Classes are the subfolders of train/ in the order of their names; the held-out part may lack some of them.

    Raises `InvalidValue` for `data.root` if there is no such folder.
    """
    place = Path(root).expanduser().resolve()
    require(place.is_dir(), "data.root", root, "no such folder; it must hold train/<class>/ and test/<class>/")
    held_out = next((name for name in ("test", "val") if _subfolders(place / name)), "test")
    train, test = (_list(place / part) for part in ("train", held_out))
    classes = tuple(sorted(train))
    unknown = sorted(test.keys() - train.keys())
    allowed = f"{held_out}/ has classes that train/ lacks: {', '.join(unknown[:5])}"
    require(not unknown, "data.root", root, allowed)
    return Listed(_files(place / "train", train, classes), _files(place / held_out, test, classes), classes)


def _subfolders(part: Path) -> list[os.DirEntry[str]]:
    if not part.is_dir():
        return []
    with os.scandir(part) as entries:
        return sorted((e for e in entries if e.is_dir() and not e.name.startswith(".")), key=lambda e: e.name)


def _list(part: Path) -> dict[str, list[str]]:
    """Class -> the names of its files, in a fixed order. Names that begin with a dot are no images."""
    require(part.is_dir(), "data.root", str(part.parent), f"lacks the folder {part.name}/")
    found: dict[str, list[str]] = {}
    for folder in _subfolders(part):
        names = (n for n in os.listdir(folder.path) if n.lower().endswith(_SUFFIXES) and not n.startswith("."))
        if files := sorted(names):
            found[folder.name] = files
    require(bool(found), "data.root", str(part.parent), f"{part.name}/ holds no <class>/*.jpg (or png, bmp, webp)")
    return found


def _files(part: Path, found: Mapping[str, Sequence[str]], classes: Sequence[str]) -> tuple[Files, np.ndarray]:
    names = [os.fsencode(os.path.join(name, file)) for name in classes for file in found.get(name, ())]
    labels = np.repeat(np.arange(len(classes)), [len(found.get(name, ())) for name in classes])
    return Files(os.fsencode(part), np.array(names)), labels


def _decode(files: Files, size: int | None, centre: float) -> np.ndarray:
    """`(N, H, W, 3)` uint8, decoded on all cores (Pillow lets go of the interpreter's lock)."""
    from tqdm import tqdm

    view = None if size is None else View(size=size, centre=centre)

    def one(path: bytes) -> np.ndarray:
        data = _bytes(path)
        try:
            return decode(data, view)
        except Exception as error:
            raise unreadable(os.fsdecode(path), error) from None

    with ThreadPoolExecutor() as pool:
        decoded = pool.map(one, files.paths(), chunksize=64)
        images = list(tqdm(decoded, total=len(files), desc="decoding", unit="image", leave=False, disable=None))
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        raise InvalidValue(
            "data.size", None, f"images differ in size, e.g. {sorted(shapes)[:3]}; give one to resize to"
        )
    return np.stack(images)


def _save(path: Path, array: np.ndarray) -> None:
    """Whole or not at all: another process never sees half a cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, array)
    os.replace(file.name, path)
