"""Batches of images that stay in their files, against the same images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import tiny_recipe
from quench.datasets import Batch, Split
from quench.datasets.image_folder import ImageFolder
from quench.datasets.parquet import Parquet
from quench.datasets.streamed import Streamed, crop_boxes
from quench.ranks import Ranks
from quench.training.recipe import Augmentation, Recipe, Stage
from quench.training.streaming import feed_of

COUNT, BATCH, ALONE = 52, 12, Ranks()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """52 training images of noise, 12x12, in two classes, as PNG files and as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", COUNT), ("test", 4)):
        rows: list[dict[str, object]] = []
        for i in range(count):
            path = root / part / "ab"[i % 2] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
            rows.append({"image": {"bytes": path.read_bytes(), "path": None}, "label": i % 2})
        for number, start in enumerate(range(0, count, 30)):
            pq.write_table(
                pa.Table.from_pylist(rows[start : start + 30]), root / part / f"{number}.parquet", row_group_size=5
            )
    return root


def recipe(**changes: object) -> Recipe:
    return replace(tiny_recipe(), batch_size=BATCH, augmentation=Augmentation(padding=2, flip=True), **changes)  # type: ignore[arg-type]


def streamed(root: Path) -> Streamed:
    train, _, _ = ImageFolder(root=str(root), size=12, stream=True).splits()
    assert isinstance(train, Streamed)
    return train


def resident(root: Path) -> Split:
    train, _, _ = ImageFolder(root=str(root), cache=str(root / "cache")).splits()
    assert isinstance(train, Split)
    return train


def epoch(
    train: Streamed | Split, asked: Recipe, number: int = 0, ranks: Ranks = ALONE, skip: int = 0
) -> Iterator[Batch]:
    return feed_of(train, asked)(number, ranks, skip)


@pytest.mark.parametrize(("ranks", "skip"), [(1, 0), (1, 3), (2, 0), (5, 1)])
def test_streamed_batches_are_those_of_images_in_memory(root: Path, ranks: int, skip: int) -> None:
    files, memory = streamed(root), resident(root)
    for number in (0, 1):
        for rank in range(ranks):
            mine = Ranks(rank, ranks)
            batches = list(epoch(files, recipe(), number, mine, skip))
            expected = list(epoch(memory, recipe(), number, mine, skip))
            assert len(batches) == len(expected) == COUNT // BATCH - skip
            for got, want in zip(batches, expected, strict=True):
                assert torch.equal(got.index, want.index)
                assert torch.equal(got.y, want.y)
                assert torch.equal(got.x, want.x)
                assert got.x.stride() == want.x.stride()


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_row_of_parquet_comes_once_an_epoch_and_another_time_in_the_next(root: Path, ranks: int) -> None:
    train, _, classes = Parquet(root=str(root), size=12, window=10).splits()
    assert isinstance(train, Streamed)
    assert classes == ("0", "1")
    orders: list[Tensor] = []
    for number in (0, 1):
        shares = [list(epoch(train, recipe(), number, Ranks(rank, ranks))) for rank in range(ranks)]
        assert {len(share) for share in shares} == {COUNT // BATCH}
        assert all(sum(len(share[k].y) for share in shares) == BATCH for k in range(COUNT // BATCH))
        batches = [batch for share in shares for batch in share]
        orders.append(torch.cat([batch.index for batch in batches]))
        assert len(orders[-1].unique()) == COUNT // BATCH * BATCH
        assert torch.equal(torch.cat([batch.y for batch in batches]), train.labels[orders[-1]])
    assert not torch.equal(*orders)
    skipped = list(epoch(train, recipe(), 1, Ranks(0, ranks), skip=2))
    assert torch.equal(skipped[0].x, next(islice(epoch(train, recipe(), 1, Ranks(0, ranks)), 2, None)).x)


def test_parquet_holds_the_images_of_the_folder(root: Path) -> None:
    train, test, _ = Parquet(root=str(root), size=12).splits()
    rows, files = train.batch(torch.arange(COUNT)), streamed(root).batch(torch.arange(COUNT))
    # The folder's images are in the order of their classes, the rows in that of their numbers.
    order = torch.cat([torch.arange(0, COUNT, 2), torch.arange(1, COUNT, 2)])
    assert torch.equal(rows.x[order], files.x)
    assert torch.equal(rows.y[order], files.y)
    assert len(test) == 4


def test_few_row_groups_are_held_out_and_few_are_read_at_a_time(root: Path) -> None:
    source = Parquet(root=str(root), size=12, window=10)
    data = source.load(10)
    assert isinstance(data.validation, Streamed)
    assert len({(file, group) for file, group, _ in data.validation.encoded.places.tolist()}) == 2  # type: ignore[attr-defined]
    train, _, _ = source.splits()
    parts = train.encoded.epoch(4, 12, Ranks(), torch.Generator().manual_seed(0), 99)  # type: ignore[attr-defined]
    read = [{(f, g) for f, g, _ in train.encoded.take(part).places.tolist()} for part in parts]  # type: ignore[attr-defined]
    assert max(map(len, read)) <= 3
    assert sum(map(len, read)) == len(set.union(*read)), "no row group is read twice"


def test_stages_decode_to_their_own_size_and_batch(root: Path) -> None:
    stages = (Stage(epochs=1, size=8, batch_size=20), Stage(epochs=1, size=16, batch_size=10))
    for number, stage in enumerate(stages):
        batches = list(epoch(streamed(root), recipe(stages=stages), number))
        assert {batch.x.shape for batch in batches} == {(stage.batch_size, 3, stage.size, stage.size)}
        assert len(batches) == COUNT // stage.batch_size


def test_random_crops_are_boxes_of_the_image(root: Path) -> None:
    draws = np.random.default_rng(0).random((4000, 4))
    for width, height in ((500, 375), (100, 400)):
        left, top, right, bottom = crop_boxes(draws, 0.08, width, height).T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= width + 1e-6).all()
        assert (bottom <= height + 1e-6).all()
        ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top) / (width * height)
        assert area.max() <= 1 + 1e-9
        free = (right - left < width - 1e-6) & (bottom - top < height - 1e-6)
        assert area[free].min() >= 0.08 - 1e-9
        assert 3 / 4 - 1e-9 <= ratio[free].min() < 0.8 < 1.25 < ratio[free].max() <= 4 / 3 + 1e-9


@pytest.mark.parametrize("load", [streamed, resident])
def test_a_crop_enlarges_a_part_and_depends_on_no_worker(root: Path, load: type) -> None:
    train = load(root)
    asked = replace(recipe(), augmentation=Augmentation(crop=0.2))
    (whole, *_), (again, *_), (later, *_) = (list(epoch(train, asked, number)) for number in (0, 0, 1))
    assert torch.equal(whole.x, again.x)
    assert whole.x.shape == (BATCH, 3, 12, 12)
    parts = [next(epoch(train, asked, 0, Ranks(rank, 3))).x for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole.x)
    assert not torch.equal(whole.x, later.x)
    full = train.batch(whole.index).x
    assert all(not torch.equal(x, image) for x, image in zip(whole.x, full, strict=True))
    # Noise enlarged from a part is smoother than the noise: neighbours are alike.
    assert whole.x.diff(dim=-1).abs().mean() < 0.9 * full.diff(dim=-1).abs().mean()
