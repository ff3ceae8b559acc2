"""How benchmarks take turns, and what they say of themselves: machine, versions, spread and memory."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from quench.provenance import provenance
from quench.trial import machine

MEMORY = Path("/proc/self/status")
PROCESSOR = Path("/proc/cpuinfo")


def about(*packages: str, **more: Any) -> dict[str, Any]:
    """The machine, the versions of torch and of these packages where they are installed, the commit, and `more`."""
    found = machine(torch.device("cpu"))
    del found["pid"]
    found |= {"cpus": os.cpu_count(), "bfloat16 instructions": _has_bfloat16(), "python": platform.python_version()}
    for package in ("torch", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"commit": provenance()["commit"], "seed": 0, **more}


def _has_bfloat16() -> bool | None:
    """Whether the processor multiplies bfloat16; None where nobody says so."""
    if not PROCESSOR.exists():
        return None
    return any(word in PROCESSOR.read_text().split() for word in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_mb() -> int:
    """MB (10^6 bytes) that this process has had resident at most; what its parent had before it does not count."""
    line = next(line for line in MEMORY.read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) * 1024 / 1e6)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least, most, and of how many."""
    few = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {**{key: float(f"{value:.4g}") for key, value in few.items()}, "n": len(values)}


def taking_turns(contenders: Iterable[str], repeats: int) -> Iterator[tuple[int, str]]:
    """(turn, who is next): forwards, then backwards, so that a slow minute hits all and none is always first."""
    names = list(contenders)
    return ((turn, name) for turn in range(repeats) for name in names[:: -1 if turn % 2 else 1])
