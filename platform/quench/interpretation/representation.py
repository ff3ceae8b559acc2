"""What the last linear layer sees: the features that a model has learnt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quench.datasets import Batch
from quench.errors import UserError


class Representation(nn.Module):
    """r(x): what the last `nn.Linear` of `model` receives, `(N, C, H, W)` -> `(N, D)`.

    Raises `UserError` if the model has no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"{type(model).__name__} has no linear layer, whose input would be its representation")
        self.model, self.last = model, linear[-1]

    def forward(self, x: Tensor) -> Tensor:
        taken: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
        try:
            self.model(x)
        finally:
            handle.remove()
        return taken[-1].flatten(1)


@contextmanager
def fake_relu(model: nn.Module) -> Iterator[None]:
    """Let gradients pass through the last `nn.ReLU` of `model` as if it were the identity, while the block runs.

    A feature that is off at the start has no gradient, and could never be turned on (Engstrom et al.,
    arXiv 1906.00945, who do this to the ReLU before the global average). A model without one is left alone.
    """
    last = [layer for layer in model.modules() if isinstance(layer, nn.ReLU)][-1:]
    handles = [relu.register_full_backward_hook(lambda _layer, _before, after: after) for relu in last]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def telling_features(model: nn.Module, batch: Batch) -> Tensor:
    """For each class in `batch`, the feature that speaks most for it: `(classes,)` int64, -1 for absent classes.

    It is argmax_i w_ci (mean of r_i over the class - mean of r_i over all classes): features of different models
    have no common order, but these mean the same.
    """
    representation = Representation(model)
    weight = representation.last.weight.detach()
    with torch.no_grad():
        values = representation(batch.x)
    found = torch.full((len(weight),), -1, dtype=torch.int64, device=values.device)
    for label in batch.y.unique().tolist():
        contrast = values[batch.y == label].mean(0) - values.mean(0)
        found[label] = (weight[label] * contrast).argmax()
    return found
