"""What runs have learnt to look at: their records -> numbers of every image, tests, and one page of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from quench.analysis.gallery import gallery
from quench.analysis.paired import paired, summary
from quench.catalogue import name_of
from quench.errors import require
from quench.interpretation.views import METRICS, Interpretation, Material
from quench.record import Checkpoint, Record
from quench.training.recipe import Recipe
from quench.trial import best_device, restore


@dataclass(frozen=True)
class Features:
    """What `interpret` found: all of one set of images, so that everything can be compared."""

    frame: pd.DataFrame
    """one row an image and run: `model` (what its seeds share), `run`, `seed`, `image` (in the test split), `label`,
    and `METRICS`"""
    pictures: dict[str, dict[str, Tensor]]
    """model -> view -> `(K, C, H, W)`, of its first run: see `Interpretation.show`"""
    material: Material
    classes: tuple[str, ...]
    baseline: str | None
    """the model of standard training, if there is one"""

    @property
    def summary(self) -> pd.DataFrame:
        """Means with intervals: see `paired.summary`."""
        return summary(self.frame, list(METRICS))

    @property
    def paired(self) -> pd.DataFrame:
        """Every model against the first: see `paired.paired`."""
        return paired(self.frame, list(METRICS), self.baseline)

    def draw(self) -> Figure:
        """All pictures, model under model: see `gallery`."""
        return gallery(self.pictures, self.summary, self.material, self.classes)

    def write(self, directory: Path) -> list[Path]:
        """`features.png`, `features.csv` (the frame), `features_summary.csv` and `features_paired.csv`."""
        directory.mkdir(parents=True)
        figure = directory / "features.png"
        self.draw().savefig(figure, dpi=200)
        files = [figure]
        for name, table in {"": self.frame, "_summary": self.summary, "_paired": self.paired}.items():
            files.append(directory / f"features{name}.csv")
            table.to_csv(files[-1], index=False, float_format="%.6g")
        return files


def interpret(
    records: Sequence[Record], how: Interpretation, which: Checkpoint = "last", device: torch.device | None = None
) -> Features:
    """Look at these runs, all on the same images of the first one's dataset and within its threat model.

    Raises `UserError` if they are of different datasets, or a checkpoint cannot be used.
    """
    first, device = records[0].recipe, device or best_device()
    for record in records:
        allowed = (
            f"is of another dataset than {records[0].directory.name} ({_dataset(first)}, {_dataset(record.recipe)})"
        )
        require(record.recipe.data == first.data, "run", record.directory.name, allowed)
    data = first.data.load(first.validation)
    material = how.material(data, first.threat).to(device)
    names = model_names(records)
    parts: list[pd.DataFrame] = []
    pictures: dict[str, dict[str, Tensor]] = {}
    for record, name in zip(records, names, strict=True):
        model = restore(record, which, device)[0].judged
        numbers = {key: values.tolist() for key, values in how.measure(model, material).items()}
        batch = material.measured
        about = {"model": name, "run": str(record.directory), "seed": record.recipe.seed}
        parts.append(pd.DataFrame({**about, "image": batch.index.tolist(), "label": batch.y.tolist(), **numbers}))
        if name not in pictures:
            pictures[name] = how.show(model, material)
    methods = dict(zip((name_of(record.recipe.method) for record in reversed(records)), reversed(names), strict=False))
    frame = pd.concat(parts, ignore_index=True)
    return Features(frame, pictures, material.to(torch.device("cpu")), data.classes, methods.get("standard"))


def model_names(records: Sequence[Record]) -> list[str]:
    """A name for each run, which runs share if their recipes differ by nothing but the seed.

    It is the configuration; with the threat model if there are several, and the folder if that does not do.
    """
    same: dict[Recipe, Record] = {}
    firsts = [same.setdefault(replace(record.recipe, seed=0), record) for record in records]
    names = [str(record.about["configuration"]) for record in firsts]
    for words in ([str(record.recipe.threat) for record in firsts], [record.directory.name for record in firsts]):
        if len(set(names)) < len(same):
            names = [f"{name} {word}" for name, word in zip(names, words, strict=True)]
    return names


def _dataset(recipe: Recipe) -> str:
    return name_of(recipe.data)
