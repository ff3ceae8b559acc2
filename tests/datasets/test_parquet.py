from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from quench.datasets.parquet import Parquet
from quench.errors import InvalidValue, UserError


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (5, 7), grey).save(file, "PNG")
    return file.getvalue()


def write(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "train" / "0.parquet", image=[png(0), png(51)], label=[0, 1])
    write(tmp_path / "val" / "0.parquet", image=[png(102)], label=[1])
    return tmp_path


def test_plain_bytes_val_for_test_and_other_columns_names(root: Path) -> None:
    train, test, classes = Parquet(root=str(root), size=4).splits()
    assert classes == ("0", "1")
    assert train.batch(torch.tensor([1, 0])).x.mean((1, 2, 3)).mul(255).round().tolist() == [51, 0]
    assert (test.labels.tolist(), test.shape) == ([1], (3, 4, 4))
    for part in ("train", "val"):
        write(root / part / "0.parquet", jpg=[png(0)], cls=[0])
    assert len(Parquet(root=str(root), image="jpg", label="cls").splits()[0]) == 1


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"img": [png(0)], "label": [0]}, "has no column image; it has .'img', 'label'."),
        ({"image": [png(0)], "label": ["cat"]}, "must hold whole numbers from 0"),
        ({"image": [png(0)], "label": [-1]}, "must hold whole numbers from 0"),
        ({"image": [png(0)], "label": [None]}, "must hold whole numbers from 0"),
        ({"image": [], "label": []}, "train/ holds no rows"),
    ],
)
def test_mistakes_are_named(root: Path, columns: dict[str, list[Any]], says: str) -> None:
    write(root / "train" / "0.parquet", **columns)
    with pytest.raises(InvalidValue, match=says):
        Parquet(root=str(root)).splits()


def test_missing_and_broken_files_are_named(root: Path) -> None:
    with pytest.raises(InvalidValue, match="no such folder"):
        Parquet(root=str(root / "nowhere")).splits()
    write(root / "val" / "0.parquet", image=[png(0)], label=[7])
    with pytest.raises(InvalidValue, match="val/ has classes that train/ lacks: 2 and above"):
        Parquet(root=str(root)).splits()
    write(root / "val" / "0.parquet", image=[None, b"noise"], label=[0, 0])
    _, test, _ = Parquet(root=str(root)).splits()
    with pytest.raises(UserError, match=r"val/0.parquet, row 1 of row group 0, cannot be read as an image"):
        test.batch(torch.tensor([1]))
    (root / "train" / "0.parquet").write_bytes(b"noise")
    with pytest.raises(UserError, match=r"0.parquet cannot be read as Parquet"):
        Parquet(root=str(root)).splits()
    (root / "train" / "0.parquet").unlink()
    with pytest.raises(InvalidValue, match=r"train/ holds no \*.parquet"):
        Parquet(root=str(root)).splits()
