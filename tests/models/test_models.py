from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from quench.catalogue import members, name_of
from quench.datasets import ImageSpec
from quench.models import Model, Normalize
from quench.models.preact_resnet import PreActResNet
from quench.models.resnet import ResNet
from quench.models.small_cnn import SmallCNN

CIFAR = ImageSpec((3, 32, 32), 10, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
MODELS = [member() for member in members(Model).values()]
every_model = pytest.mark.parametrize("model", MODELS, ids=name_of)


def parameters(model: Model) -> int:
    return sum(p.numel() for p in model.build(CIFAR, seed=0).parameters())


def test_preact_resnet_is_the_literatures() -> None:
    """11.17 M parameters and 555 MMAC at 32x32."""
    network = PreActResNet().build(CIFAR, seed=0)
    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.rand(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(555e6, rel=0.005)
    assert parameters(PreActResNet()) == pytest.approx(11.17e6, rel=0.001)


@pytest.mark.parametrize(("depth", "count"), [(18, 11_689_512), (50, 25_557_032)])
def test_resnet_is_torchvisions(depth: Any, count: int) -> None:
    """Parameters as torchvision's models have them, at 1000 classes, under the same names."""
    network = ResNet(depth=depth).layers(3, 1000)
    assert sum(p.numel() for p in network.parameters()) == count
    last = f"layer4.1.bn{2 if depth == 18 else 3}.weight"
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.bias", last, "fc.weight"} <= set(
        network.state_dict()
    )


def test_resnet_has_its_stride_in_the_3x3_and_begins_as_the_identity() -> None:
    """4.09 GMAC at 224x224, as "v1.5" has; strides in the 1x1 would make 3.8."""
    network = ResNet(depth=50).build(ImageSpec((3, 224, 224), 1000, (0.5,) * 3, (0.2,) * 3), seed=0)
    counter = FlopCounterMode(display=False)
    with counter:
        assert network(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() / 2 == pytest.approx(4.09e9, rel=0.005)
    block, x = network[1].layer1[1], torch.rand(2, 256, 8, 8)  # type: ignore[union-attr, index]
    assert torch.equal(block(x), x)  # type: ignore[operator]


def test_small_cnn_is_small() -> None:
    assert 100_000 < parameters(SmallCNN()) < 300_000


@every_model
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 20)])
def test_takes_images_of_any_size(model: Model, channels: int, side: int) -> None:
    images = ImageSpec((channels, side, side), 7, (0.5,) * channels, (0.2,) * channels)
    assert model.build(images, seed=0)(torch.rand(2, channels, side, side)).shape == (2, 7)


@every_model
def test_weights_are_a_function_of_the_seed_alone(model: Model) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = model.build(CIFAR, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left as it was"
    torch.manual_seed(2)
    second, other = model.build(CIFAR, seed=5).state_dict(), model.build(CIFAR, seed=6).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@every_model
def test_normalises_inside_and_carries_the_constants(model: Model) -> None:
    network = model.build(CIFAR, seed=0)
    normalize = next(network.children())
    assert isinstance(normalize, Normalize)
    x = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.equal(normalize(x), torch.zeros(1, 3, 4, 4))
    assert "0.mean" in network.state_dict()
