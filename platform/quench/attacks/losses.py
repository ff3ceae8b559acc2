"""What an attack climbs: functions of logits `(N, classes)` and labels `(N,)` int64 -> `(N,)`, larger being worse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit less the right one: above 0 where the model is wrong."""
    right = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -float("inf")).amax(1, keepdim=True) - right).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690, eq. 6), which scaling logits does not change.

    `margin` over the distance from the largest to the third largest logit.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Eq. 7 there: the `target`'s logit less the right one, over the largest less the mean of third and fourth."""
    top = logits.topk(4, dim=1).values
    difference = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return difference / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def likely_wrong(logits: Tensor, y: Tensor, rank: Tensor) -> Tensor:
    """The wrong class of the given rank, 0 being the likeliest: `(N,)` int64, for each example's `rank` `(N,)`."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.argsort(dim=1, descending=True, stable=True).gather(1, rank[:, None]).squeeze(1)
