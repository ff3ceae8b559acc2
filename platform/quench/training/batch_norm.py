"""BatchNorm by the statistics of the whole batch, however many workers share it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quench.ranks import Sum


def synchronised(model: nn.Module) -> nn.Module:
    """`model`, every BatchNorm2d of which is from now on one of the whole batch."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # parameters, buffers and settings stay what they are
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are of all workers' examples, equally many or not.

    torch's own SyncBatchNorm runs on GPUs only and cannot be differentiated twice, as GradAlign needs.
    One collective a pass, forward and backward, of 3 numbers a channel and worker.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float() if input.dtype == torch.bfloat16 else input
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        mean, var, count = _of_all(mean, var, x.numel() // x.shape[1])
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None
            unbiased = var.detach() * (count / (count - 1))
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = torch.rsqrt(var + self.eps) * self.weight
        out = x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        return out.to(input.dtype)


def _of_all(mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance `(C,)` over all workers' values, of which this one has `count` a channel; and their number."""
    own = torch.stack([mean, var, torch.full_like(mean, count)])
    parts = [torch.zeros_like(own)] * dist.get_world_size()
    parts[dist.get_rank()] = own
    means, variances, counts = Sum.apply(torch.stack(parts)).unbind(1)
    whole = counts[:, 0].sum()
    share = counts / whole
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), whole.detach()
