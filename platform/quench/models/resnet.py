"""The networks of the field's ImageNet tables."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from quench.errors import positive
from quench.models import Model

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True, kw_only=True)
class ResNet(Model):
    """ResNet for images of 64 pixels a side and more (He et al., arXiv 1512.03385): a 7x7 stem, then pooling.

    From 50 layers on blocks are bottlenecks whose 3x3 convolution has the stride ("v1.5"). ResNet-50 has 25.6 M
    parameters and 4.1 GMAC at 224x224. Weights have torchvision's names and shapes, after the normalisation's `1.`.
    """

    depth: Literal[18, 34, 50, 101] = 50
    """layers"""
    width: int = 64
    """channels of the first stage; each of the other three doubles them"""

    def __post_init__(self) -> None:
        positive(self, "width")

    def layers(self, channels: int, classes: int) -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, self.width, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(self.width),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        )
        block = _Bottleneck if self.depth >= 50 else _Basic
        before = self.width
        for stage, count in enumerate(_BLOCKS[self.depth]):
            width = self.width * 2**stage
            blocks: list[nn.Module] = []
            for number in range(count):
                blocks.append(block(before, width, stride=2 if stage > 0 and number == 0 else 1))
                before = width * block.expansion
            parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        network = nn.Sequential(
            OrderedDict(**parts, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes))
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Basic | _Bottleneck):
                # Each block begins as the identity (Goyal et al., arXiv 1706.02677).
                nn.init.zeros_(module.last.weight)
        return network


class _Basic(nn.Module):
    """Two 3x3 convolutions, added to the input."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)
        self.out = nn.ReLU()  # of its own: the last one's gradient can be looked at by itself

    @property
    def last(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.out(self.bn2(self.conv2(out)) + kept)


class _Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many, added to the input."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(before, after, stride)
        self.out = nn.ReLU()

    @property
    def last(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.out(self.bn3(self.conv3(out)) + kept)


def _shortcut(before: int, after: int, stride: int) -> nn.Module | None:
    if before == after and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
