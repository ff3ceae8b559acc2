from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from quench.datasets import Split
from quench.ranks import Ranks
from quench.training.batches import Moves, augmented, epoch_batches, generator
from quench.training.recipe import Augmentation, Recipe


def numbered(count: int, side: int = 6) -> Split:
    images = torch.arange(count * 3 * side * side).remainder(251).to(torch.uint8).view(count, 3, side, side)
    return Split(images, torch.arange(count) % 10)


@given(examples=st.integers(12, 60), ranks=st.sampled_from([1, 2, 3, 4]), epoch=st.integers(0, 5))
def test_ranks_share_each_batch_of_one_order(examples: int, ranks: int, epoch: int) -> None:
    from conftest import tiny_recipe

    recipe = replace(tiny_recipe(), batch_size=12)
    whole = [b.index for b in epoch_batches(numbered(examples), recipe, epoch, Ranks())]
    parts = [[b.index for b in epoch_batches(numbered(examples), recipe, epoch, Ranks(r, ranks))] for r in range(ranks)]
    assert len(whole) == examples // 12
    for number, index in enumerate(whole):
        shares = [part[number] for part in parts]
        assert {len(share) for share in shares} == {12 // ranks}
        assert torch.equal(torch.cat(shares), index)
    everything = torch.cat(whole)
    assert len(everything.unique()) == len(everything), "no image twice in an epoch"


def test_order_follows_seed_and_epoch(recipe: Recipe) -> None:
    def first(recipe: Recipe, epoch: int) -> Tensor:
        return next(epoch_batches(numbered(200), recipe, epoch, Ranks())).index

    assert torch.equal(first(recipe, 0), first(recipe, 0))
    assert not torch.equal(first(recipe, 0), first(recipe, 1))
    assert not torch.equal(first(recipe, 0), first(replace(recipe, seed=1), 0))


def test_streams_are_independent() -> None:
    cpu = torch.device("cpu")
    places = [(seed, stream, rank) for seed in (0, 1) for stream in (0, 1) for rank in (0, 1)]
    draws = [torch.rand(4, generator=generator(cpu, seed, stream, 3, rank)) for seed, stream, rank in places]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(places)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_pad_crop_flip_of_each_image(padding: int, flip: bool) -> None:
    """Every augmented image is one of the crops that torch's own reflection padding gives."""
    split, index = numbered(8), torch.tensor([5, 0, 7, 2])
    rng = Generator().manual_seed(0)
    seen: set[tuple[int, int, bool]] = set()
    for _ in range(30):
        batch = augmented(split, index, Moves.drawn(len(index), Augmentation(padding=padding, flip=flip), rng))
        assert batch.y.tolist() == split.labels[index].tolist()
        for x, i in zip(batch.x, index.tolist(), strict=True):
            seen.add(_origin(x, split.images[i].float() / 255, padding, flip))
    shifts = {(top, left) for top, left, _ in seen}
    assert len({mirrored for _, _, mirrored in seen}) == 1 + flip
    assert shifts == {(0, 0)} if padding == 0 else len(shifts) > min(40, (2 * padding + 1) ** 2 - 1)


def _origin(x: Tensor, image: Tensor, padding: int, flip: bool) -> tuple[int, int, bool]:
    for mirrored in (False, True) if flip else (False,):
        padded = (
            F.pad(image.flip(-1) if mirrored else image, [padding] * 4, mode="reflect")
            if padding
            else (image.flip(-1) if mirrored else image)
        )
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                if torch.allclose(padded[:, top : top + 6, left : left + 6], x):
                    return top, left, mirrored
    raise AssertionError("not a crop of the padded image")
