"""A folder of images, one subfolder a class: `root/train/<class>/*.jpg` and `root/test/<class>/*.jpg`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quench.datasets import Dataset, Split
from quench.errors import InvalidValue, UserError, positive, require

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Your own images, in RGB. They are decoded once, into a cache of one uint8 array a split."""

    root: str
    """folder that holds train/ and test/"""
    size: int | None = None
    """side to which images are cut (centre) and resized; without it they must all be equal"""
    cache: str = "~/.cache/quench/image_folder"
    """folder of the decoded arrays; their name depends on every file's path, length and date"""

    def __post_init__(self) -> None:
        positive(self, "size")

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        root = Path(self.root).expanduser()
        require(root.is_dir(), "data.root", self.root, "no such folder; it must hold train/<class>/ and test/<class>/")
        files = {part: _list(root / part) for part in ("train", "test")}
        classes = tuple(sorted(files["train"]))
        unknown = sorted(files["test"].keys() - files["train"].keys())
        require(not unknown, "data.root", self.root, f"test/ has classes that train/ lacks: {', '.join(unknown[:5])}")
        train, test = (self._decoded(root, files[part], classes) for part in ("train", "test"))
        require(
            train.images.shape[1:] == test.images.shape[1:],
            "data.size",
            self.size,
            "train/ and test/ differ in size; give one to resize to",
        )
        return train, test, classes

    def _decoded(self, root: Path, files: dict[str, list[Path]], classes: tuple[str, ...]) -> Split:
        labelled = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
        key = hashlib.sha256(repr(self.size).encode())
        for path, label in labelled:
            stat = path.stat()
            key.update(f"{path.relative_to(root)}|{label}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        cached = Path(self.cache).expanduser() / f"{key.hexdigest()[:32]}.npy"
        if not cached.exists():
            _save(cached, _decode([path for path, _ in labelled], self.size))
        images = torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor([label for _, label in labelled], dtype=torch.int64))


def _list(part: Path) -> dict[str, list[Path]]:
    """Class -> its files, in a fixed order."""
    require(part.is_dir(), "data.root", str(part.parent), f"lacks the folder {part.name}/")
    found: dict[str, list[Path]] = {}
    for folder in sorted(p for p in part.iterdir() if p.is_dir()):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
        if files:
            found[folder.name] = files
    require(bool(found), "data.root", str(part.parent), f"{part.name}/ holds no <class>/*.jpg (or png, bmp, webp)")
    return found


def _decode(paths: list[Path], size: int | None) -> np.ndarray:
    """`(N, H, W, 3)` uint8, decoded on all cores (Pillow lets go of the interpreter's lock)."""
    from PIL import Image, ImageOps, UnidentifiedImageError
    from tqdm import tqdm

    def one(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"data.root: {path} cannot be read as an image ({error})") from None
        return np.asarray(rgb if size is None else ImageOps.fit(rgb, (size, size)))

    with ThreadPoolExecutor() as pool:
        images = list(
            tqdm(
                pool.map(one, paths, chunksize=64),
                total=len(paths),
                desc="decoding",
                unit="image",
                leave=False,
                disable=None,
            )
        )
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
