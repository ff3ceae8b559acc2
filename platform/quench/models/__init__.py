"""Networks that take pixels and give logits: normalisation is their first layer, so epsilon stays in pixels."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from quench.catalogue import Plugin
from quench.datasets import ImageSpec


class Model(Plugin):
    """What to build; a frozen dataclass whose fields are the architecture's."""

    @abstractmethod
    def layers(self, channels: int, classes: int) -> nn.Module:
        """The network proper: normalised `(N, channels, H, W)` -> logits `(N, classes)`, for any H and W."""

    def build(self, images: ImageSpec, seed: int) -> nn.Module:
        """A network with weights drawn from `seed`: pixels in [0, 1] -> logits; on the CPU, float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(Normalize(images.mean, images.std), self.layers(images.shape[0], images.classes))


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm in the model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class Normalize(nn.Module):
    """(x - mean) / std per channel; the constants travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
