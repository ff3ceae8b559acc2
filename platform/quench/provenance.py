"""What besides the recipe decides a result."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@cache
def provenance() -> dict[str, Any]:
    """Versions and git commit."""
    packages = ("quench", "torch", "numpy", "ray", "mlflow")
    return {"versions": {name: _version(name) for name in packages}, "commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the directory that one works in; `-dirty` if files differ from it."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
