"""Models side by side in pictures: the same images, seeds and scale, a row for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from quench.analysis.look import styles
from quench.interpretation.views import METRICS, Material

Pictures = Mapping[str, Mapping[str, Tensor]]
"""model -> view -> `(K, C, H, W)` in [0, 1], as `Interpretation.show` gives them"""
Canvas = NDArray[np.float64]
_CELL = 0.42  # inches
_LABELS = 1.3
_SMALL = 8


@dataclass(frozen=True)
class _Block:
    """A view: what it starts from, and what the models make of that."""

    title: str
    view: str
    given: dict[str, Tensor]
    captions: Sequence[str]

    @property
    def crowded(self) -> bool:
        """Whether the captions are too long to stand side by side."""
        return max(len(caption) for caption in self.captions) > 4


def gallery(pictures: Pictures, summary: pd.DataFrame, material: Material, classes: tuple[str, ...]) -> Figure:
    """One page: a block for each view, with what is given above a row for each model; and the numbers beside them.

    Images are drawn as they are; gradients of grey images from blue (brighter lowers the loss) over white to red,
    each cut at three root mean squares of its own. `summary` is `paired.summary`'s frame.
    """
    blocks = _blocks(material, classes)
    rows = [len(pictures) + max(len(block.given) for block in blocks[i : i + 2]) for i in (0, 2, 4)]
    rows[-1] = max(rows[-1], len(METRICS) - 1)
    lines = 2 if any(block.crowded for block in blocks) else 1
    width = 2 * (_LABELS + _CELL * len(material.shown.y))
    figure = Figure(figsize=(width, _CELL * sum(rows) + 3 * 0.4 * lines + 1), layout="constrained")
    grid = cast("list[Axes]", list(figure.subplots(3, 2, height_ratios=rows).flat))
    for block, axes in zip(blocks, grid, strict=False):
        _draw_block(block, pictures, axes)
    draw_numbers(summary, grid[-1])
    return figure


def draw_numbers(summary: pd.DataFrame, axes: Axes) -> None:
    """Each metric's mean over the images with its 95 % interval, a mark for each model; all are about in [0, 1]."""
    look = styles(summary["model"])
    for place, (model, style) in enumerate(look.items()):
        mine = summary[summary["model"] == model].set_index("metric").loc[list(METRICS)]
        errors = [mine["mean"] - mine["low"], mine["high"] - mine["mean"]]
        height = np.arange(len(mine)) + (place - (len(look) - 1) / 2) * 0.6 / len(look)
        marks: dict[str, Any] = {"fmt": style.marker, "color": style.colour, "ms": 4, "lw": 1, "capsize": 2}
        axes.errorbar(mine["mean"], height, xerr=errors, **marks, label=model)
    axes.set_yticks(range(len(METRICS)), list(METRICS.values()), fontsize=_SMALL)
    axes.set_ylim(len(METRICS) - 0.5, -0.5)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.grid(alpha=0.3)
    axes.set_title("Means over test images, 95 % intervals", fontsize=_SMALL + 1, loc="left")
    axes.legend(fontsize=_SMALL, loc="upper center", bbox_to_anchor=(0.4, -0.08), ncols=4, frameon=False)


def _blocks(material: Material, classes: tuple[str, ...]) -> list[_Block]:
    """Top to bottom, left before right."""
    images = material.shown.x
    names = [classes[label] for label in material.shown.y.tolist()]
    after = [*names[1:], names[0]]
    test = {"test image": images}
    key = " (red: brighter pixels raise it)" if images.shape[1] == 1 else " (grey: zero)"
    inverted = {"start": images.roll(-1, 0), "target": images}
    return [
        _Block(f"Gradient of the loss{key}", "saliency", test, names),
        _Block("Test image, made to be of another class", "targeted", test, [f"→{name}" for name in after]),
        _Block("Start, made to be represented as the target", "inversion", inverted, names),
        _Block("Draw from a class, made to be of it", "synthesis", {"draw": material.class_seeds}, names),
        _Block("Noise, made to show the feature that tells a class", "feature", {"noise": material.noise}, names),
    ]


def _draw_block(block: _Block, pictures: Pictures, axes: Axes) -> None:
    made = {model: views[block.view] for model, views in pictures.items()}
    rows = [_rgb(images) for images in block.given.values()]
    rows += [_rgb(images, signed=block.view == "saliency") for images in made.values()]
    count, height, width, _ = rows[0].shape
    gap = max(round(height / 10), 1)
    axes.imshow(_tiled(rows, gap), interpolation="nearest")
    down = [i * (height + gap) + (height - 1) / 2 for i in range(len(rows))]
    across = [i * (width + gap) + (width - 1) / 2 for i in range(count)]
    axes.set_yticks(down, [fill(name, 14) for name in (*block.given, *made)], fontsize=_SMALL)
    axes.set_xticks(across, block.captions, fontsize=_SMALL)
    for caption in axes.get_xticklabels() if block.crowded else ():
        caption.set(rotation=35, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, pad=1.5)
    axes.spines[:].set_visible(False)
    axes.axhline(len(block.given) * (height + gap) - (gap + 1) / 2, color="black", lw=0.8)
    axes.set_title(block.title, fontsize=_SMALL + 1, loc="left")
    axes.set_anchor("N")


def _rgb(images: Tensor, signed: bool = False) -> Canvas:
    """`(K, C, H, W)` in [0, 1] -> `(K, H, W, 3)`; `signed` values of one channel, 0.5 for zero, in blue and red."""
    values = images.permute(0, 2, 3, 1).double().numpy()
    if values.shape[3] != 1:
        return values
    if signed:
        return matplotlib.colormaps["RdBu_r"](values[..., 0])[..., :3]
    return values.repeat(3, axis=3)


def _tiled(rows: Sequence[Canvas], gap: int) -> Canvas:
    """Rows of images on one white canvas `(H', W', 3)`, `gap` pixels between them."""
    count, height, width, _ = rows[0].shape
    canvas = np.ones((len(rows) * (height + gap) - gap, count * (width + gap) - gap, 3))
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    return canvas
