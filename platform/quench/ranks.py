"""The workers that share a run: which one this is, and what they add up. One worker needs nothing set up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Worker `rank` of `size`, over torch's default process group if there is more than one."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Ranks:
        """This process's place in the default process group, or the only one."""
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size())
        return Ranks()

    def total(self, value: Tensor) -> Tensor:
        """`value` summed over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until all workers are here."""
        if self.size > 1:
            dist.barrier()

    def average_(self, values: Iterable[Tensor]) -> None:
        """Each tensor replaced by its mean over the workers."""
        for value in values:
            self.total(value).div_(self.size)
