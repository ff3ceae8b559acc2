"""What 8 to 64 GPUs would buy, on paper: the table in the README. Nothing is measured; every constant has its source.

    python experiments/benchmarks/scaling_model.py

A single-step update costs 5 forward passes' worth of work for each image (crafting 2, learning 3; `make test`
counts this), done at `rate` on each of n GPUs that have an equal share of the batch. One all-reduce follows, of all
gradients in float32: around a ring each GPU sends 2 (n - 1) / n of their bytes (Patarasuk & Yuan 2009), within a node
over its links and between nodes over the network that the node's GPUs share. It overlaps with the last backward pass,
2 of the 5 units; what is longer than that is waited for. The crafting passes exchange nothing. Left out: launch
overheads, which rule shares below some 32 small images, stragglers, BatchNorm `sync` (3 numbers a channel, worker and
pass) and what methods ask of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

NODE = 8
"""GPUs in a node"""
LINKS = 300e9
"""bytes/s that an A100 sends to its node's others: NVLink 3, 600 GB/s both ways (NVIDIA A100 datasheet)"""
NETWORK = 50e9
"""bytes/s that a node sends: 400 Gbit/s EFA of a p4d.24xlarge (AWS instance types)"""
CPUS = 96
"""virtual CPUs of that node, by the same page"""
UNITS, OVERLAP = 5, 2
"""forward passes' worth of an update, and of its last backward pass"""


@dataclass(frozen=True)
class Setting:
    name: str
    parameters: float
    forward: float
    """FLOP an image, a multiply-add being two"""
    rate: float
    """FLOP/s that training reaches on a GPU"""
    batch: int


SETTINGS = (
    # 11.17 M parameters and 555 MMAC at 32x32, counted; 112 TFLOP/s: the longer runs of KellerJordan/cifar10-airbench's
    # README on an A100 (3.1 PFLOP in 27.3 s)
    Setting("PreActResNet-18, 32x32", 11.17e6, 1.11e9, 112e12, 1024),
    # 25.56 M parameters and 4.1 GMAC at 224x224, counted; 45 TFLOP/s: libffcv/ffcv-imagenet's README, 88 epochs in 77
    # minutes on eight A100
    Setting("ResNet-50, 224x224", 25.56e6, 8.2e9, 45e12, 512),
)


def update(setting: Setting, gpus: int, share: float) -> tuple[float, float]:
    """Seconds of computing, and of the all-reduce."""
    gradients = 4 * setting.parameters
    inside, nodes = min(gpus, NODE), max(gpus // NODE, 1)
    exchange = 2 * gradients * ((inside - 1) / inside / LINKS + (nodes - 1) / nodes / NETWORK)
    return UNITS * setting.forward * share / setting.rate, exchange


def main() -> None:
    print("| | GPUs | images a GPU | compute | all-reduce | waited for | efficiency | images/s a node | CPU for each |")
    print("|---|---|---|---|---|---|---|---|---|")
    for setting in SETTINGS:
        for gpus in (8, 16, 32, 64):
            compute, exchange = update(setting, gpus, setting.batch / gpus)
            waited = max(exchange - compute * OVERLAP / UNITS, 0)
            images = setting.batch / gpus * min(gpus, NODE) / (compute + waited)
            print(
                f"| {setting.name}, batch {setting.batch} | {gpus} | {setting.batch // gpus} | {1e3 * compute:.1f} ms |"
                f" {1e3 * exchange:.1f} ms | {1e3 * waited:.1f} ms | {compute / (compute + waited):.0%} |"
                f" {images:,.0f} | {1e3 * CPUS / images:.1f} ms |"
            )


if __name__ == "__main__":
    main()
