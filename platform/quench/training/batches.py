"""An epoch as batches: shuffled, shared out among the workers, augmented, all of it on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from quench.datasets import Batch, Split
from quench.datasets.streamed import crop_boxes
from quench.randomness import AUGMENTATION, CROP, ORDER, generator
from quench.ranks import Ranks
from quench.training.recipe import Augmentation, Recipe


class Feed(Protocol):
    """Where the batches of training come from."""

    def __call__(self, epoch: int, ranks: Ranks, skip: int = 0) -> Iterator[Batch]:
        """This rank's share of each batch of `epoch` but the first `skip`, on the device, augmented as the recipe says.

        All ranks get equally many; `Ranks.share` of the epoch's batch size says how large each one's shares are.
        """
        ...


def batches_per_epoch(examples: int, batch_size: int) -> int:
    """Whole batches only: the examples left over change with every epoch's order."""
    return examples // batch_size


def epoch_batches(split: Split, recipe: Recipe, epoch: int, ranks: Ranks, skip: int = 0) -> Iterator[Batch]:
    """A `Feed` from images that are all on the device. What an example becomes does not depend on the workers."""
    device, stage = split.labels.device, recipe.stage(epoch)
    order = torch.randperm(len(split), generator=generator(torch.device("cpu"), recipe.seed, ORDER, epoch)).to(device)
    rng = generator(device, recipe.seed, AUGMENTATION, epoch, 0)
    share = ranks.share(stage.batch_size)
    for number in range(batches_per_epoch(len(split), stage.batch_size)):
        moves = Moves.drawn(stage.batch_size, recipe.augmentation, rng)
        if number < skip:
            continue
        start = number * stage.batch_size
        batch = augmented(split, order[start + share.start : start + share.stop], moves.take(share))
        x = batch.x
        if recipe.augmentation.crop:
            x = _cropped(x, crop_draws(recipe, epoch, number)[share], recipe.augmentation.crop)
        x = x if stage.size is None else _resized(x, stage.size)
        yield finished(Batch(x, batch.y, batch.index), recipe)


def finished(batch: Batch, recipe: Recipe) -> Batch:
    """In the memory order and precision that the recipe trains in."""
    x = batch.x.contiguous(memory_format=torch.channels_last) if recipe.channels_last else batch.x.contiguous()
    return Batch(x.double() if recipe.precision == "float64" else x, batch.y, batch.index)


def crop_draws(recipe: Recipe, epoch: int, number: int) -> Tensor:
    """What decides the random crops of a batch, `(N, 4)` in [0, 1) on the CPU; see `crop_boxes`."""
    cpu = torch.device("cpu")
    return torch.rand(recipe.stage(epoch).batch_size, 4, generator=generator(cpu, recipe.seed, CROP, epoch, number))


@dataclass(frozen=True)
class Moves:
    """How each image of a batch is moved, on the images' device."""

    flip: Tensor | None
    """(N,) bool: mirrored, left to right"""
    shift: Tensor | None
    """(2, N) int64: pixels down and to the right"""

    @staticmethod
    def drawn(count: int, augmentation: Augmentation, rng: Generator) -> Moves:
        """For `count` images: each moved on its own."""
        flip, shift, most, device = None, None, augmentation.padding, rng.device
        if augmentation.flip:
            flip = torch.rand(count, generator=rng, device=device) < 0.5
        if most:
            shift = torch.randint(-most, most + 1, (2, count), generator=rng, device=device)
        return Moves(flip, shift)

    def take(self, which: slice) -> Moves:
        """Those of some of the images."""
        flip, shift = self.flip, self.shift
        return Moves(None if flip is None else flip[which], None if shift is None else shift[:, which])


def augmented(split: Split, index: Tensor, moves: Moves) -> Batch:
    """The examples at `index`, moved, in a single gather.

    Row r of a shifted image is row r + shift of the original, where rows beyond the border are
    those before it (reflection); a flip reads the columns backwards.
    """
    if moves.flip is None and moves.shift is None:
        return split.batch(index)
    height, width = split.images.shape[2:]
    count, device = len(index), split.images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if moves.flip is not None:
        columns = torch.where(moves.flip[:, None], width - 1 - columns, columns)
    if moves.shift is not None:
        down, right = moves.shift[..., None]
        rows, columns = _reflect(rows + down, height), _reflect(columns + right, width)
    pixels = split.images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return Batch(pixels.permute(0, 3, 1, 2).float().div_(255), split.labels[index], index)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) mirrored at the border, which is not repeated."""
    return (size - 1) - ((size - 1) - position.abs()).abs()


def _cropped(x: Tensor, draws: Tensor, least: float) -> Tensor:
    """Each image's box, drawn from `draws`, enlarged to the whole: bilinear."""
    height, width = x.shape[2:]
    left, top, right, bottom = torch.from_numpy(crop_boxes(draws.numpy(), least, width, height)).float().unbind(1)
    none = torch.zeros_like(left)
    across = torch.stack([(right - left) / width, none, (left + right) / width - 1], 1)
    down = torch.stack([none, (bottom - top) / height, (top + bottom) / height - 1], 1)
    grid = F.affine_grid(
        torch.stack([across, down], 1).to(x.device, non_blocking=True), list(x.shape), align_corners=False
    )
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _resized(x: Tensor, size: int) -> Tensor:
    """Images `(N, C, H, W)` scaled to `size` x `size`, without aliasing."""
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
