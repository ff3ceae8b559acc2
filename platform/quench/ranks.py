"""The workers that share a run: which one this is, its share of a batch, and what they find together.

One worker needs nothing set up, and none of this costs it anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
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

    def share(self, rows: int) -> slice:
        """This worker's part of so many rows: next to each other, as many as the others have, or one more or less."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def total(self, value: Tensor) -> Tensor:
        """`value` summed over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: float, device: torch.device) -> float:
        """Of the workers' values, the same on all of them; one worker's is its own, and no device is asked."""
        if self.size == 1:
            return value
        return float(self.total(torch.tensor(value, dtype=torch.float64, device=device))) / self.size

    def wait(self) -> None:
        """Until all workers are here."""
        if self.size > 1:
            dist.barrier()

    def average_(self, values: Iterable[Tensor]) -> None:
        """Each tensor replaced by its mean over the workers."""
        for value in values:
            self.total(value).div_(self.size)

    def whole(self, share: Tensor, rows: int) -> Tensor:
        """All `rows` of a tensor of which each worker has its share `(n, ...)`, on every worker: `(rows, ...)`.

        For quantities of a whole batch that are more than a mean over its examples. Computed from it on every
        worker, a loss has the gradient of one worker with the whole batch: that of the own rows times the
        workers, of whose gradients `DistributedDataParallel` takes the mean.
        """
        return share if self.size == 1 else _Whole.apply(share, self, rows)  # pyright: ignore[reportReturnType]


class Sum(torch.autograd.Function):
    """A tensor summed over the workers of the default process group; can be differentiated again and again."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return Sum.apply(gradients[0])  # pyright: ignore[reportReturnType]


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, ranks: Ranks, rows: int) -> Tensor:
        ctx.ranks, ctx.mine = ranks, ranks.share(rows)
        shares = [Ranks(rank, ranks.size).share(rows) for rank in range(ranks.size)]
        most = max(part.stop - part.start for part in shares)
        padded = share.new_zeros(most, *share.shape[1:])
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.mine] * ctx.ranks.size, None, None
