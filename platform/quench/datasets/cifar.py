"""CIFAR-10 and CIFAR-100 from their canonical Python archives."""

from __future__ import annotations

import io
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from quench.datasets import Dataset, Split
from quench.errors import InvalidValue, UserError


@dataclass(frozen=True)
class _Archive:
    url: str
    sha256: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


_SOURCE = "https://www.cs.toronto.edu/~kriz"
_ARCHIVES = {
    10: _Archive(
        url=f"{_SOURCE}/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    100: _Archive(
        url=f"{_SOURCE}/cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        train=("train",),
        test="test",
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cifar(Dataset):
    """50,000 training and 10,000 test images of 32x32 (Krizhevsky 2009)."""

    classes: Literal[10, 100] = 10
    """10 or 100 classes"""
    path: str | None = None
    """the archive or its unpacked folder; downloaded once and checked if not given"""
    url: str | None = None
    """a mirror to download from; its file must have the published checksum"""

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        archive = _ARCHIVES[self.classes]
        location = Path(self.path).expanduser() if self.path else _download(archive, self.url or archive.url)
        if not location.exists():
            raise InvalidValue("data.path", str(location), "no such file or folder")
        files = _read(location, {*archive.train, archive.test, archive.meta})
        try:
            names = tuple(_text(name) for name in files[archive.meta][archive.names])
            train = [_split(files[name], archive.labels) for name in archive.train]
            test = _split(files[archive.test], archive.labels)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidValue(
                "data.path", str(location), f"is not a CIFAR-{self.classes} archive ({error!r})"
            ) from None
        whole = Split(torch.cat([s.images for s in train]), torch.cat([s.labels for s in train]))
        return whole, test, names


def _download(archive: _Archive, url: str) -> Path:
    """The archive in the user's cache; pooch checks it before it gets its name, so no half file stays."""
    import pooch

    name = archive.url.rpartition("/")[2]
    folder = pooch.os_cache("quench")
    try:
        return Path(
            pooch.retrieve(url, known_hash=f"sha256:{archive.sha256}", fname=name, path=folder, progressbar=True)
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data: could not get {name} from {url} ({reason}); "
            "download it by hand and give its place, e.g. --data.path ~/Downloads/" + name
        ) from None


def _read(location: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    try:
        if location.is_dir():
            found = {p.name: p.read_bytes() for p in sorted(location.rglob("*")) if p.name in wanted}
        else:
            with tarfile.open(location) as tar:
                members = [m for m in tar if m.isfile() and Path(m.name).name in wanted]
                found = {Path(m.name).name: _bytes(tar, m) for m in members}
        missing = wanted - found.keys()
        if missing:
            raise InvalidValue(
                "data.path", str(location), f"lacks {', '.join(sorted(missing))}: partial, or another dataset"
            )
        return {name: {_text(k): v for k, v in _Unpickler(data).load().items()} for name, data in found.items()}
    except (tarfile.TarError, EOFError, OSError, pickle.UnpicklingError, AttributeError) as error:
        raise InvalidValue("data.path", str(location), f"is corrupt or partial ({error}); download it again") from None


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _split(content: dict[str, Any], labels: str) -> Split:
    images = torch.from_numpy(np.ascontiguousarray(content["data"]).reshape(-1, 3, 32, 32))
    return Split(images, torch.tensor(content[labels], dtype=torch.int64))


class _Unpickler(pickle.Unpickler):
    """Reads arrays and nothing else: a pickle from elsewhere may otherwise run any code."""

    _ALLOWED = frozenset(
        {("_reconstruct", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy"), ("encode", "_codecs")}
    )

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in {"numpy", "_codecs"} and (name, module.split(".")[-1]) in self._ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")
