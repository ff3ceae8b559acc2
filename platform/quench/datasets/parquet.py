"""Parquet files of encoded images: `root/train/*.parquet`, and `root/test/` or `root/val/` alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from quench.datasets import Dataset, Examples
from quench.datasets.streamed import Encoded, Streamed, View
from quench.errors import UserError, one_line, positive, require
from quench.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Parquet(Dataset):
    """Rows of an encoded image and a whole number, its class; `{bytes, path}`, as Hugging Face writes it, is one too.

    They are streamed: an epoch goes through the row groups in a random order and mixes the rows of a few at a time,
    and the images that are held out to watch a run are those of a few row groups. Both take for granted that
    rows were written in no order of classes.
    """

    root: str
    """folder that holds train/*.parquet and test/*.parquet (or val/)"""
    size: int = 224
    """side to which images are cut (centre) and resized"""
    centre: float = 1.0
    """share of the shorter side that the cut keeps; 0.875 is customary on ImageNet"""
    image: str = "image"
    """column of the encoded images"""
    label: str = "label"
    """column of the classes: 0, 1, 2, ..."""
    window: int = 1024
    """rows that are mixed with each other, at least: so many whole row groups are read together"""

    def __post_init__(self) -> None:
        positive(self, "size", "window")
        require(0 < self.centre <= 1, "centre", self.centre, "must be above 0 and at most 1")

    @property
    def streams(self) -> bool:
        return True

    def splits(self) -> tuple[Examples, Examples, tuple[str, ...]]:
        root = Path(self.root).expanduser().resolve()
        require(
            root.is_dir(), "data.root", self.root, "no such folder; it must hold train/*.parquet and test/*.parquet"
        )
        held_out = next((name for name in ("test", "val") if list((root / name).glob("*.parquet"))), "test")
        view = View(size=self.size, centre=self.centre)
        (train, labels), (test, test_labels) = (self._part(root / name) for name in ("train", held_out))
        classes = int(labels.max()) + 1
        allowed = f"{held_out}/ has classes that train/ lacks: {classes} and above"
        require(int(test_labels.max()) < classes, "data.root", self.root, allowed)
        return Streamed(train, labels, view), Streamed(test, test_labels, view), tuple(map(str, range(classes)))

    def _part(self, part: Path) -> tuple[Rows, Tensor]:
        """Where every row is, and its class. Only the labels are read."""
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        paths = sorted(part.glob("*.parquet"))
        require(bool(paths), "data.root", str(part.parent), f"{part.name}/ holds no *.parquet")
        places, labels = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
        for number, path in enumerate(paths):
            try:
                with pq.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    for column in (self.image, self.label):
                        require(
                            column in names, "data.root", self.root, f"{path} has no column {column}; it has {names}"
                        )
                    labels.append(_whole_numbers(file.read([self.label])[self.label], path, self.label))
                    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            except (ArrowException, OSError) as error:
                raise UserError(f"data.root: {path} cannot be read as Parquet ({one_line(error)})") from None
            places += [np.stack([np.full(n, number), np.full(n, g), np.arange(n)], 1) for g, n in enumerate(sizes)]
        rows = Rows(tuple(map(str, paths)), self.image, self.window, np.concatenate(places))
        require(len(rows) > 0, "data.root", str(part.parent), f"{part.name}/ holds no rows")
        return rows, torch.from_numpy(np.concatenate(labels))


def _whole_numbers(column: Any, path: Path, name: str) -> np.ndarray:
    values = column.to_numpy()
    allowed = f"column {name} of {path} must hold whole numbers from 0, one in every row"
    require(len(values) == 0 or (values.dtype.kind in "iu" and values.min() >= 0), "data.root", str(path), allowed)
    return values.astype(np.int64)


@dataclass(frozen=True)
class Rows(Encoded):
    """Rows of Parquet files."""

    paths: tuple[str, ...]
    column: str
    window: int
    places: np.ndarray
    """(n, 3) int64: file, row group in it, row in that"""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, index: np.ndarray) -> Rows:
        return replace(self, places=self.places[index])

    def read(self) -> Iterator[bytes]:
        """Each row group once, all of those asked for together."""
        import pyarrow.parquet as pq

        groups: dict[tuple[int, int], Any] = {}
        for file, group in np.unique(self.places[:, :2], axis=0).tolist():
            with pq.ParquetFile(self.paths[file]) as opened:
                groups[file, group] = opened.read_row_group(group, columns=[self.column])[self.column]
        for file, group, row in self.places.tolist():
            value = groups[file, group][row].as_py()
            yield (value.get("bytes") if isinstance(value, dict) else value) or b""

    def where(self, number: int) -> str:
        file, group, row = self.places[number].tolist()
        return f"{self.paths[file]}, row {row} of row group {group},"

    def identity(self) -> Iterator[bytes]:
        yield "\0".join(Path(path).name for path in self.paths).encode()
        yield self.places.tobytes()

    def shuffled(self, rng: Generator) -> Tensor:
        return torch.from_numpy(np.concatenate(self._windows(rng)))

    def epoch(self, batches: int, batch_size: int, ranks: Ranks, rng: Generator, most: int) -> list[np.ndarray]:
        """Each rank has a range of the shuffled rows: no row group is read by two of them but at the borders."""
        share, parts, before = ranks.share(batch_size), list[np.ndarray](), 0
        for window in self._windows(rng):
            part = window[max(batches * share.start - before, 0) : max(batches * share.stop - before, 0)]
            parts += [part] if len(part) else []
            before += len(window)
        return parts

    def _windows(self, rng: Generator) -> list[np.ndarray]:
        """All rows: row groups in a random order, so many at a time as make a window, rows in any order within it."""
        _, group, sizes = np.unique(self.places @ (2**32, 1, 0), return_inverse=True, return_counts=True)
        turn = torch.randperm(len(sizes), generator=rng).numpy()
        ends = np.cumsum(sizes[turn])
        cuts = ends[np.flatnonzero(np.diff(ends // self.window, prepend=0))]
        rows = np.split(np.argsort(np.argsort(turn)[group], kind="stable"), cuts)
        return [part[torch.randperm(len(part), generator=rng).numpy()] for part in rows if len(part)]
