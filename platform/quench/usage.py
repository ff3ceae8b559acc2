"""What a process that trains takes of its machine: sampled beside the training, never on its clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import fmean

import psutil
import torch

from quench.beside import repeatedly


class Usage:
    """Means over the time between two questions. Names are those of MLflow's system metrics where it has the same."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._process = device, psutil.Process()
        self._samples: list[dict[str, float]] = []
        self._cpu()

    @contextmanager
    def watched(self, every: float = 1.0) -> Iterator[None]:
        """Look every so many seconds, in a thread, while the block runs."""
        with repeatedly(lambda: self._samples.append(self._sample()), every, "usage"):
            yield

    def take(self) -> dict[str, float]:
        """Percentages and MB (10^6 bytes) since this was last asked; a process at 100 % keeps one core busy."""
        samples, self._samples = [*self._samples, self._sample()], []
        means = {key: fmean(sample[key] for sample in samples if key in sample) for key in samples[-1]}
        return {key: round(value, 1) for key, value in (self._cpu() | means).items()}

    def _cpu(self) -> dict[str, float]:
        """Exact, from the kernel's counters; how busy all of the machine was tells what a run's seconds are worth."""
        return {
            "process_cpu_percentage": self._process.cpu_percent(),
            "cpu_utilization_percentage": psutil.cpu_percent(),
        }

    def _sample(self) -> dict[str, float]:
        found = {
            "process_memory_megabytes": self._process.memory_info().rss / 1e6,
            "system_memory_usage_percentage": psutil.virtual_memory().percent,
        }
        if self._device.type == "cuda":
            with suppress(Exception):  # drivers that keep it to themselves raise what they like
                free, total = torch.cuda.mem_get_info(self._device)
                found["process_gpu_memory_megabytes"] = torch.cuda.memory_reserved(self._device) / 1e6
                found["gpu_memory_usage_percentage"] = 100 * (1 - free / total)
                found["gpu_utilization_percentage"] = float(torch.cuda.utilization(self._device))
        return found
