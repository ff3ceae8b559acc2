"""Where the loss depends on the image: gradients with respect to pixels, and how to show them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quench.attacks import ascent_gradient
from quench.geometry import per_example


def class_loss(logits: Tensor, y: Tensor) -> Tensor:
    """log sum_{j != y} exp(z_j) - z_y: `(N, classes)`, `(N,)` int64 -> `(N,)`.

    Cross-entropy is the softplus of this, so that its gradient has the same direction; but here that direction
    is exact for confident examples too, for which float32 rounds softmax to 1 and cross-entropy's to noise.
    """
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - own[:, 0]


def loss_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The direction of the loss gradient at each image, as `class_loss` has it: in the shape of `x` `(N, C, H, W)`."""
    return ascent_gradient(model, x, lambda logits: class_loss(logits, y))[0]


def saliency(gradient: Tensor, sigmas: float = 3.0) -> Tensor:
    """A gradient `(N, C, H, W)` as an image in [0, 1], 0.5 where it is zero.

    Each image is clipped at `sigmas` root mean squares of its own, as in Tsipras et al. (arXiv 1805.12152); about
    zero, not about the mean, so that the sign can be seen. A gradient of zeros is grey.
    """
    scale = gradient.flatten(1).square().mean(1).sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)
    return (gradient / per_example(sigmas * scale, gradient)).clamp(-1, 1) / 2 + 0.5
