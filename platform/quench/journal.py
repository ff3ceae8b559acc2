"""Files of one JSON value a line, that a crash may cut short and that nothing but appending changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

Entry = dict[str, Any]


def append(path: Path, entry: Entry) -> None:
    """Add an entry, and wait until it is on the disk. A line that a crash cut short is dropped first."""
    line = json.dumps(entry) + "\n"
    with path.open("a+b") as file:
        if not _ends_line(file):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, offset: int = 0) -> tuple[list[Entry], int]:
    """The whole entries from byte `offset` on, and the offset after them; none if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], offset
    whole = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:whole].splitlines()], offset + whole


def _ends_line(file: BinaryIO) -> bool:
    """Whether the file is empty or its last byte ends a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
