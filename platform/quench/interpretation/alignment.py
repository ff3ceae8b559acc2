"""Numbers for what gradients and images look like: one for each example, all of them free of scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from quench.attacks import ascent_gradient


def etmann_alignment(model: nn.Module, x: Tensor) -> Tensor:
    """|<x, grad Psi>| / (||grad Psi|| ||x||), in [0, 1]: `(N, C, H, W)` -> `(N,)`.

    Psi is the winning logit minus the runner-up (Etmann et al., ICML 2019); theirs is in units of ||x||, this is
    the cosine. 0 for a black image, or where the gradient vanishes.
    """
    gradient, _ = ascent_gradient(model, x, lambda logits: logits.topk(2, dim=1).values @ _difference(logits))
    return cosine(x, gradient).abs()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine between two tensors `(N, ...)`, example by example: `(N,)` in [-1, 1]; 0 if one of them is 0."""
    return cosine_similarity(_unit(one), _unit(other), dim=1)


def gini(values: Tensor) -> Tensor:
    """Gini's index of the magnitudes, `(N, ...)` -> `(N,)`: 0 if all are equal, 1 - 1/n if one of n is all there is.

    With v_1 <= ... <= v_n: 2 sum_i i v_i / (n sum_i v_i) - (n + 1) / n (Hurley & Rickard, arXiv 0811.4706, the
    measure of sparsity with all the properties they ask for). 0 where all are zero.
    """
    size = _unit(values).abs().sort(dim=1).values
    n = size.shape[1]
    rank = torch.arange(1, n + 1, dtype=size.dtype, device=size.device)
    total = size.sum(1)
    index = 2 * (size @ rank) / (n * total) - (n + 1) / n
    return torch.where(total > 0, index, torch.zeros_like(index))


def low_frequency_share(images: Tensor) -> Tensor:
    """The share of an image's energy below half the Nyquist radius: `(N, C, H, W)` -> `(N,)` in [0, 1].

    That is at spatial frequencies of less than 1/4 cycles a pixel, all directions and channels together. 1 for
    a constant image, about pi/16 = 0.2 for white noise, 0 for a chessboard; NaN for an image of zeros.
    """
    height, width = images.shape[2:]
    energy = torch.fft.fft2(images / images.abs().flatten(1).amax(1).view(-1, 1, 1, 1)).abs().square().sum(1)
    vertical = torch.fft.fftfreq(height, device=images.device)
    horizontal = torch.fft.fftfreq(width, device=images.device)
    below = torch.hypot(vertical[:, None], horizontal[None, :]) < 0.25
    return energy[:, below].sum(1) / energy.flatten(1).sum(1)


def relative_distance(found: Tensor, target: Tensor, scale: Tensor | None = None) -> Tensor:
    """||found - target|| / ||scale||, example by example, `(N, ...)` -> `(N,)`; `scale` is the target if not given."""
    length = (target if scale is None else scale).flatten(1).norm(dim=1)
    return (found - target).flatten(1).norm(dim=1) / length.clamp_min(torch.finfo(length.dtype).tiny)


def _difference(logits: Tensor) -> Tensor:
    """(1, -1): the first minus the second."""
    return torch.tensor([1.0, -1.0], dtype=logits.dtype, device=logits.device)


def _unit(values: Tensor) -> Tensor:
    """`(N, n)`, divided by the largest magnitude: the squares of a confident example's gradient underflow."""
    flat = values.flatten(1)
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
