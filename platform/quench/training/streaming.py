"""An epoch of images that stay in their files: which of them, how each is seen, and the batches they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from quench.datasets import Batch, Examples, Split
from quench.datasets.streamed import Read, Streamed, View, decoded_here, on_device, per_block
from quench.randomness import AUGMENTATION, ORDER, generator
from quench.ranks import Ranks
from quench.training.batches import (
    Feed,
    Moves,
    augmented,
    batches_per_epoch,
    crop_draws,
    epoch_batches,
    finished,
)
from quench.training.recipe import Recipe

Decode = Callable[[Iterable[Read]], Iterator[np.ndarray]]
"""all images of some reads, in order, in pieces of any length: `(n, size, size, 3)` uint8"""


def feed_of(train: Examples, recipe: Recipe, decode: Decode = decoded_here) -> Feed:
    """Batches of training images: of those in memory as they are, of others from what `decode` makes of the files."""
    if isinstance(train, Streamed):
        return partial(streamed_batches, train, recipe, decode)
    assert isinstance(train, Split)
    return partial(epoch_batches, train, recipe)


def streamed_batches(
    split: Streamed, recipe: Recipe, decode: Decode, epoch: int, ranks: Ranks, skip: int = 0
) -> Iterator[Batch]:
    """A `Feed` from files. Order, shifts and flips are those of images in memory, to the bit, if files can be had
    in any order; random crops are made where images are decoded."""
    device, stage = split.labels.device, recipe.stage(epoch)
    view = replace(split.view, size=stage.size or split.view.size, crop=recipe.augmentation.crop)
    count, share = batches_per_epoch(len(split), stage.batch_size), ranks.share(stage.batch_size)
    mine = share.stop - share.start
    order = generator(torch.device("cpu"), recipe.seed, ORDER, epoch)
    parts = split.encoded.epoch(count, stage.batch_size, ranks, order, per_block(view.size))
    index = np.concatenate([np.zeros(0, np.int64), *parts])[skip * mine :]
    ends = np.cumsum([len(part) for part in parts]) - skip * mine
    draws = None
    if view.crop and count > skip:
        draws = torch.cat([crop_draws(recipe, epoch, number)[share] for number in range(skip, count)]).numpy()
    images = _in_batches(decode(_reads(split, view, index, ends[ends > 0], draws)), mine)
    places = torch.from_numpy(index).to(device).split(mine)
    rng = generator(device, recipe.seed, AUGMENTATION, epoch, 0)
    for number in range(count):
        moves = Moves.drawn(stage.batch_size, recipe.augmentation, rng)
        if number < skip:
            continue
        where = places[number - skip]
        batch = Split(on_device(next(images), device), split.labels[where])
        moved = augmented(batch, torch.arange(mine, device=device), moves.take(share))
        yield finished(Batch(moved.x, moved.y, where), recipe)


def _reads(
    split: Streamed, view: View, index: np.ndarray, ends: np.ndarray, draws: np.ndarray | None
) -> Iterator[Read]:
    """The images at `index`, cut at `ends`, each with what was drawn for it."""
    for start, end in pairwise([0, *ends.tolist()]):
        yield Read(split.encoded.take(index[start:end]), view, None if draws is None else draws[start:end])


def _in_batches(pieces: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same images, `rows` at a time, in memory of their own."""
    left: list[np.ndarray] = []
    for piece in pieces:
        left.append(piece)
        while sum(map(len, left)) >= rows:
            whole = np.concatenate(left)
            yield whole[:rows]
            left = [whole[rows:]] if len(whole) > rows else []
