"""A run's checkpoints: written while training goes on, and read with suspicion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from quench import durable
from quench.errors import UserError, one_line


class Writer:
    """Writes checkpoints in a thread, one after the other, each whole or not at all; a context that ends with the last.

    `may` is asked before each, and raises if this process may no longer write.
    """

    def __init__(self, may: Callable[[], None]) -> None:
        self._may = may
        self._thread = ThreadPoolExecutor(1, "quench-checkpoint")
        self._pending: Future[None] | None = None

    def __call__(self, content: dict[str, Any], places: Sequence[Path], then: Callable[[], None] | None = None) -> None:
        """Copy `content` to the host's memory, and have it written to `places`, in this order, and `then` called."""
        self.wait()
        copy = BytesIO()
        if places:
            torch.save(content, copy)
        self._pending = self._thread.submit(self._write, copy.getbuffer(), places, then)

    def wait(self) -> None:
        """Until all is on the disk. Raises what went wrong with it: `NotWritten`, or what `may` raises."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, content: memoryview, places: Sequence[Path], then: Callable[[], None] | None) -> None:
        for path in places:
            durable.write(path, content, self._may)
        if then is not None:
            then()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU; nothing in it is executed. Raises `UserError` if it is not one of ours."""
    try:
        with ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not look whether bytes have changed
        if broken is not None:
            raise ValueError(f"{broken} has changed since it was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"recipe", "model", "updates"} - content.keys()
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever torch makes of bytes that it did not write
        raise UserError(f"{path} is not a checkpoint of quench, or damaged ({one_line(error)})") from None
    return content
