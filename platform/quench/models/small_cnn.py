"""A few convolutions: the network for laptops, digits and first tries."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from quench.errors import require
from quench.models import Model


@dataclass(frozen=True, kw_only=True)
class SmallCNN(Model):
    """3x3 convolutions with BatchNorm and ReLU, each after the first halving the image; a linear layer.

    The default has 231,000 parameters on 3-channel images and 10 classes.
    """

    widths: tuple[int, ...] = (64, 128, 128)
    """channels of each convolution"""

    def __post_init__(self) -> None:
        require(
            len(self.widths) > 0 and min(self.widths) > 0, "widths", self.widths, "must be one or more numbers above 0"
        )

    def layers(self, channels: int, classes: int) -> nn.Module:
        blocks: list[nn.Module] = []
        for depth, (before, after) in enumerate(pairwise((channels, *self.widths))):
            blocks += [
                nn.Conv2d(before, after, 3, stride=1 if depth == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * self.widths[-1], classes))
