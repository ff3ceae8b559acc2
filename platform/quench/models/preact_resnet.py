"""The network of the field's CIFAR tables."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from quench.errors import positive
from quench.models import Model


@dataclass(frozen=True, kw_only=True)
class PreActResNet(Model):
    """PreActResNet-18 for small images (He et al. 2016, arXiv 1603.05027), two blocks a stage.

    As in the fast adversarial training literature: a 3x3 stem without pooling, and a last
    BatchNorm and ReLU before the global average. 11.2 M parameters, 555 MMAC at 32x32.
    """

    width: int = 64
    """channels of the first stage; each of the other three doubles them"""

    def __post_init__(self) -> None:
        positive(self, "width")

    def layers(self, channels: int, classes: int) -> nn.Module:
        stages: list[nn.Module] = []
        before = self.width
        for stage in range(4):
            after = self.width * 2**stage
            stages += [_Block(before, after, stride=1 if stage == 0 else 2), _Block(after, after, stride=1)]
            before = after
        return nn.Sequential(
            nn.Conv2d(channels, self.width, 3, padding=1, bias=False),
            *stages,
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(before, classes),
        )


class _Block(nn.Module):
    """norm-relu-conv twice, added to the input; where shapes change the shortcut is a 1x1 convolution
    of the activated input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return kept + self.conv2(self.relu(self.norm2(self.conv1(active))))
