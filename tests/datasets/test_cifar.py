"""CIFAR's archives in their published layout, with images of our own."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from quench.datasets.cifar import Cifar
from quench.errors import InvalidValue, UserError

PER_FILE = 4


def files_of(classes: int) -> dict[str, object]:
    """File name -> content, as `pickle` wrote it for the archives: bytes as keys."""
    rng = np.random.default_rng(0)

    def part(names: bytes) -> dict[bytes, object]:
        images = rng.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)
        return {b"data": images, names: rng.integers(0, classes, PER_FILE).tolist(), b"batch_label": b"x"}

    if classes == 10:
        parts = {
            f"cifar-10-batches-py/{n}": part(b"labels")
            for n in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        }
        return {**parts, "cifar-10-batches-py/batches.meta": {b"label_names": [f"c{i}".encode() for i in range(10)]}}
    parts = {f"cifar-100-python/{n}": part(b"fine_labels") for n in ("train", "test")}
    return {**parts, "cifar-100-python/meta": {b"fine_label_names": [f"c{i}".encode() for i in range(100)]}}


def write_archive(path: Path, files: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("classes", "train"), [(10, 5 * PER_FILE), (100, PER_FILE)])
def test_archive_and_unpacked_folder_read_alike(tmp_path: Path, classes: int, train: int) -> None:
    files = files_of(classes)
    archive = write_archive(tmp_path / "cifar.tar.gz", files)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked")
    for path in (archive, tmp_path / "unpacked"):
        whole, test, names = Cifar(classes=classes, path=str(path)).splits()  # type: ignore[arg-type]
        assert (len(whole), len(test), len(names)) == (train, PER_FILE, classes)
        assert whole.images.shape[1:] == (3, 32, 32)
        assert names[1] == "c1"
        first = next(c for n, c in files.items() if n.endswith(("data_batch_1", "/train")))
        assert isinstance(first, dict)
        assert torch.equal(whole.images[0], torch.from_numpy(first[b"data"][0].reshape(3, 32, 32)))


def test_corrupt_partial_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    whole = write_archive(tmp_path / "whole.tar.gz", files_of(10)).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    noise = tmp_path / "noise.tar.gz"
    noise.write_bytes(os.urandom(1000))
    partial = write_archive(tmp_path / "partial.tar.gz", dict(list(files_of(10).items())[2:]))
    foreign = write_archive(tmp_path / "foreign.tar.gz", files_of(100))
    for path, says in (
        (cut, "corrupt or partial"),
        (noise, "corrupt"),
        (partial, "lacks data_batch_1"),
        (foreign, "lacks"),
    ):
        with pytest.raises(InvalidValue, match=says) as caught:
            Cifar(path=str(path)).splits()
        assert str(path) in str(caught.value)
    with pytest.raises(InvalidValue, match="no such file"):
        Cifar(path=str(tmp_path / "none.tar.gz")).splits()


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_an_archive_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = files_of(10)
    files["cifar-10-batches-py/test_batch"] = {b"data": Malice()}
    with pytest.raises(InvalidValue, match="refers to"):
        Cifar(path=str(write_archive(tmp_path / "evil.tar.gz", files))).splits()
    assert not (tmp_path / "hacked").exists()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine with an archive that is not the published one."""
    write_archive(tmp_path / "cifar-10-python.tar.gz", files_of(10))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_wrong_download_is_refused_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for url, says in ((f"{mirror}/cifar-10-python.tar.gz", "hash"), (f"{mirror}/none.tar.gz", "404")):
        with pytest.raises(UserError, match=says) as caught:
            Cifar(url=url).splits()
        assert "--data.path" in str(caught.value)
    assert [p for p in cache.rglob("*") if p.is_file()] == []
