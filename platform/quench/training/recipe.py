"""One experiment as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from quench.attacks import Attack
from quench.attacks.pgd import PGD, PGD_50_10
from quench.catalogue import name_of
from quench.context import Statistics
from quench.datasets import Dataset
from quench.errors import not_negative, positive, require
from quench.methods import Method
from quench.models import Model
from quench.threat_model import ThreatModel
from quench.training.budgets import Budget
from quench.training.budgets.epochs import Epochs
from quench.training.overfitting import Guard
from quench.training.schedules import Schedule
from quench.training.schedules.one_cycle import OneCycle


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    lr: float = 0.2
    """peak learning rate, which the schedule scales"""
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        positive(self, "lr")
        not_negative(self, "weight_decay")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must be from 0 to below 1")
        require(self.momentum > 0 or not self.nesterov, "nesterov", self.nesterov, "needs momentum above 0")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random shifts and mirror images, drawn anew for each example."""

    padding: int = 0
    """reflect the border by so many pixels, then crop at random; 0 does not shift"""
    flip: bool = False
    """mirror every other image, left to right, at random"""

    def __post_init__(self) -> None:
        not_negative(self, "padding")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run computes. Two equal recipes on one device give equal models."""

    data: Dataset
    """images to train on, watch and judge by"""
    model: Model
    """network to train"""
    threat: ThreatModel
    """adversary to be robust against, in training and in evaluation"""
    method: Method
    """training method"""
    budget: Budget = field(default_factory=Epochs)
    """how long to train"""
    batch_size: int = 128
    """examples an update, over all workers"""
    optimizer: SGD = SGD()
    """how weights follow their gradient"""
    schedule: Schedule = field(default_factory=OneCycle)
    """learning rate over the run"""
    augmentation: Augmentation = Augmentation()
    """random shifts and flips of the training images"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes"""
    epsilon_warmup: float = 0.0
    """share of the run over which training's epsilon grows to its full size; evaluation always has that"""
    averaging: float = 0.0
    """decay of the exponential moving average of weights that is evaluated and kept; 0 for none"""
    crafting_statistics: Statistics = "batch"
    """BatchNorm while crafting in training: of the batch, or running; running buffers stay untouched"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """arithmetic of training passes (bfloat16: autocast); evaluation is always in float32"""
    channels_last: bool = True
    """keep images and weights in the memory order that convolutions prefer"""
    compile: bool = False
    """compile the model with torch.compile: seconds at the start, faster steps afterwards"""
    validation: int = 1000
    """training images held out to watch the run; the same ones for every seed"""
    probe: Attack = field(default_factory=lambda: PGD(steps=10))
    """attack on the held-out images after every epoch"""
    guard: Guard = field(default_factory=Guard)
    """against catastrophic overfitting"""
    patience: int = 0
    """epochs without a new best robust accuracy on the held-out images after which to stop; 0 for never"""
    keep: Literal["last", "best"] = "last"
    """weights to judge in the end: the last, or the most robust on the held-out images"""
    evaluation: Attack = PGD_50_10
    """attack on the test images when the run is over"""
    workers: int = 1
    """data-parallel workers, each with its share of every batch"""
    seed: int = 0
    """of weights, order, augmentation and perturbations"""

    def __post_init__(self) -> None:
        positive(self, "workers", "batch_size", "validation")
        not_negative(self, "patience", "seed")
        norm, norms = name_of(self.threat.norm), self.method.norms
        method = name_of(self.method)
        require(norm in norms, "threat.norm", norm, f"the method {method} is defined in {', '.join(norms)} only")
        require(self.method.compiles or not self.compile, "compile", self.compile, f"must be false for {method}")
        self.guard.check(self.method)
        below = max(self.batch_size // self.workers, 1) * self.workers
        near = below if below == self.workers else f"{below} or {below + self.workers}"
        allowed = f"must be a multiple of workers = {self.workers}; nearest: {near}"
        require(self.batch_size % self.workers == 0, "batch_size", self.batch_size, allowed)
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be from 0 to below 1")
        allowed = "must be from 0 to 1"
        require(0 <= self.epsilon_warmup <= 1, "epsilon_warmup", self.epsilon_warmup, allowed)
        require(0 <= self.averaging < 1, "averaging", self.averaging, "must be from 0 to below 1")
