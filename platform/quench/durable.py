"""Files that are whole or not there, and work that only one process does."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quench.errors import NotWritten, UserError


def write(path: Path, content: bytes | memoryview, may: Callable[[], None] = lambda: None) -> None:
    """Put a file in its place, whole and on the disk, or leave what is there. Raises `NotWritten`.

    `may` is asked at the last moment, and raises if the file is no longer this process's to write.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with writing(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            may()
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    write(path, (json.dumps(content, indent=2) + "\n").encode())


def drop_halves(*paths: Path) -> None:
    """Remove what processes that died in `write` have left of these files."""
    for path in paths:
        for half in path.parent.glob(f".{path.name}.*"):
            half.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or gone is a `NotWritten`."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{path} could not be written ({error.strerror or error})") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the file at `path` while the block runs. Raises `UserError` if another process does.

    Where the file system has no locks, nobody is kept out.
    """
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path.parent} is being carried out by another process; end that one first") from None
        except OSError:
            pass
        yield
