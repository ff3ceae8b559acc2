"""An epoch as batches: shuffled, shared out among the workers, augmented, all of it on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from quench.datasets import Batch, Split
from quench.randomness import AUGMENTATION, ORDER, generator
from quench.ranks import Ranks
from quench.training.recipe import Augmentation, Recipe


def batches_per_epoch(examples: int, batch_size: int) -> int:
    """Whole batches only: the examples left over change with every epoch's order."""
    return examples // batch_size


def epoch_batches(split: Split, recipe: Recipe, epoch: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's part of each batch of `epoch`; all ranks get equally many, of equal size."""
    device = split.labels.device
    order = torch.randperm(len(split), generator=generator(torch.device("cpu"), recipe.seed, ORDER, epoch)).to(device)
    rng = generator(device, recipe.seed, AUGMENTATION, epoch, ranks.rank)
    share = recipe.batch_size // ranks.size
    for start in range(0, batches_per_epoch(len(split), recipe.batch_size) * recipe.batch_size, recipe.batch_size):
        index = order[start + ranks.rank * share : start + (ranks.rank + 1) * share]
        batch = augmented(split, index, recipe.augmentation, rng)
        if recipe.channels_last:
            batch = Batch(batch.x.contiguous(memory_format=torch.channels_last), batch.y, batch.index)
        yield batch


def augmented(split: Split, index: Tensor, augmentation: Augmentation, rng: Generator) -> Batch:
    """The examples at `index`, each shifted and flipped on its own, in a single gather.

    Row r of a shifted image is row r + shift of the original, where rows beyond the border are
    those before it (reflection); a flip reads the columns backwards.
    """
    if augmentation.padding == 0 and not augmentation.flip:
        return split.batch(index)
    height, width = split.images.shape[2:]
    count, device = len(index), split.images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if augmentation.flip:
        flipped = torch.rand(count, 1, generator=rng, device=device) < 0.5
        columns = torch.where(flipped, width - 1 - columns, columns)
    if augmentation.padding:
        shift = torch.randint(
            -augmentation.padding, augmentation.padding + 1, (2, count, 1), generator=rng, device=device
        )
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    pixels = split.images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return Batch(pixels.permute(0, 3, 1, 2).float().div_(255), split.labels[index], index)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) mirrored at the border, which is not repeated."""
    return (size - 1) - ((size - 1) - position.abs()).abs()
