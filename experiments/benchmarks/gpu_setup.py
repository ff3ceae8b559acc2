"""What the GPU stages share: their arguments, their images, and a file of rows for each."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from quench.datasets import Data, Dataset, Split
from quench.datasets.cifar import Cifar
from quench.datasets.image_folder import ImageFolder
from quench.durable import write_json
from quench.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Made(Dataset):
    """Noise of CIFAR-10's size, each class a little of a colour of its own: for speed, and to try stages out."""

    images: int = 50_000

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        rng = torch.Generator().manual_seed(0)
        train, test = (self._split(count, rng) for count in (self.images, max(self.images // 5, 20)))
        return train, test, tuple("0123456789")

    @staticmethod
    def _split(count: int, rng: torch.Generator) -> Split:
        labels = torch.randint(10, (count,), generator=rng)
        images = torch.randint(0, 192, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
        images[torch.arange(count), labels % 3] += (labels // 3 * 20).to(torch.uint8)[:, None, None]
        return Split(images, labels)


def dataset(asked: argparse.Namespace) -> Dataset:
    """CIFAR-10 from `--data`, an archive or a folder of images, or `Made`."""
    if asked.data is None:
        return Made(images=asked.images)
    return ImageFolder(root=asked.data) if (Path(asked.data) / "train").is_dir() else Cifar(path=asked.data)


@cache
def loaded(dataset: Dataset, validation: int) -> Data:
    """Read once, however many runs there are."""
    return dataset.load(validation)


def adapted(recipe: Recipe, asked: argparse.Namespace) -> Recipe:
    """On the images asked for; with what is given to try a stage out, or to search further."""
    held_out = min(recipe.validation, asked.images // 5)
    recipe = replace(recipe, data=dataset(asked), validation=held_out, compile=recipe.compile and asked.compile)
    return replace(recipe, model=replace(recipe.model, width=asked.width)) if asked.width else recipe


@dataclass
class Rows:
    """A stage's file: what it was measured on, and a row for each measurement, on the disk as soon as it is had."""

    stage: str
    asked: argparse.Namespace
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + 60 * self.asked.minutes
        self._latest, self._slowest = time.monotonic(), 0.0

    def measure(self, work: Callable[[], dict[str, Any]], **about: Any) -> dict[str, Any] | None:
        """Add a row with what `work` finds; or, as the other rows are wanted all the same, with what went wrong."""
        try:
            found = work()
        except Exception as error:
            self.add(**about, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return None
        self.add(**about, **found)
        return found

    def add(self, **row: Any) -> None:
        now = time.monotonic()
        self._latest, self._slowest = now, max(self._slowest, now - self._latest)
        self.rows.append(row)
        print(self.stage, "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        path = self.asked.out / f"{self.stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"machine": machine(self.asked), "rows": self.rows})

    def late(self) -> bool:
        """Whether there is no time for another row like the slowest one so far."""
        return time.monotonic() + self._slowest > self._end


def read(asked: argparse.Namespace, stage: str) -> list[dict[str, Any]]:
    """The rows that a stage has left; none if it has not been run."""
    path = asked.out / f"{stage}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def machine(asked: argparse.Namespace) -> dict[str, Any]:
    cuda = asked.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(asked.device) if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "threads": torch.get_num_threads(),
        "data": Path(asked.data).name if asked.data else f"made up, {asked.images} images",
    }


def settled(device: torch.device) -> float:
    """The time when the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
