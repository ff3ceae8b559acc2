"""One experiment as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from quench.attacks import Attack
from quench.attacks.apgd_ce_t import APGDCET
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
    scaling: Literal["none", "linear", "sqrt"] = "none"
    """let lr grow with batch_size / reference_batch_size, or with its root"""
    reference_batch_size: int = 128
    """the batch that lr is meant for, if it is scaled"""
    warmup: float = 0.0
    """share of the run over which the learning rate grows from 0 to what the schedule says"""

    def __post_init__(self) -> None:
        positive(self, "lr", "reference_batch_size")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "must be from 0 to below 1")
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
    crop: float = 0.0
    """enlarge a random part, of so much of the area at least; 0 takes the whole, 0.08 is customary on ImageNet"""

    def __post_init__(self) -> None:
        not_negative(self, "padding")
        require(0 <= self.crop <= 1, "crop", self.crop, "must be from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some epochs of a run that sees images of another size: small ones first are a good part of the way for less."""

    epochs: int
    size: int | None = None
    """side to which training images are scaled; as they come if not given"""
    batch_size: int
    """examples an update, over all workers"""

    def __post_init__(self) -> None:
        positive(self, "epochs", "size", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When a run is saved besides at its end and, as `best`, whenever it is more robust than before."""

    epochs: int = 1
    """after every so many epochs"""
    seconds: float = 0.0
    """and within an epoch, whenever so much of the train clock has gone by; 0 for never"""

    def __post_init__(self) -> None:
        positive(self, "epochs")
        not_negative(self, "seconds")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How runs are told apart by a sweep: on held-out images, under an attack that masked gradients do not fool."""

    at: tuple[float, ...] = ()
    """shares of the budget after which to look: the end of the first epoch that has spent as much, or of the run"""
    attack: Attack = field(default_factory=lambda: APGDCET(steps=20, targets=3))
    """far cheaper than AutoAttack, and more often right than the probe"""
    images: int = 500
    """held-out images that are looked at, at most"""

    def __post_init__(self) -> None:
        positive(self, "images")
        for share in self.at:
            require(0 < share <= 1, "at", share, "must be above 0 and up to 1")


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
    stages: tuple[Stage, ...] = ()
    """sizes of images and batches over the run, one after the other; the last one lasts"""
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
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """BatchNorm in training: by each worker's share, the whole batch, or the running statistics, which then stay"""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """arithmetic of training (bfloat16: autocast; float64: to check what should be equal); verdicts are in float32"""
    channels_last: bool = True
    """keep images and weights in the memory order that convolutions prefer"""
    compile: bool = False
    """compile the model with torch.compile: seconds at the start, faster steps afterwards"""
    validation: int = 1000
    """training images held out to watch the run; the same ones for every seed"""
    probe: Attack = field(default_factory=lambda: PGD(steps=10))
    """attack on the held-out images after every epoch"""
    selection: Selection = field(default_factory=Selection)
    """by what, and when, sweeps choose among runs"""
    guard: Guard = field(default_factory=Guard)
    """against catastrophic overfitting"""
    patience: int = 0
    """epochs without a new best robust accuracy on the held-out images after which to stop; 0 for never"""
    keep: Literal["last", "best"] = "last"
    """weights to judge in the end: the last, or the most robust on the held-out images"""
    evaluation: Attack = PGD_50_10
    """attack on the test images when the run is over"""
    reliability: int = 64
    """test images that the evaluation itself is checked on, for signs not to trust it; 0 for none"""
    checkpoints: Checkpoints = Checkpoints()
    """when to save what a run can go on from"""
    workers: int = 1
    """data-parallel workers, each with its share of every batch"""
    min_workers: int = 0
    """go on with as few of them while others are lost, batches staying as large; 0 to wait for all"""
    seed: int = 0
    """of weights, order, augmentation and perturbations"""

    def __post_init__(self) -> None:
        positive(self, "workers", "batch_size", "validation")
        require(0 <= self.min_workers <= self.workers, "min_workers", self.min_workers, "must be from 0 to workers")
        not_negative(self, "patience", "seed", "reliability")
        norm, norms = name_of(self.threat.norm), self.method.norms
        method = name_of(self.method)
        require(norm in norms, "threat.norm", norm, f"the method {method} is defined in {', '.join(norms)} only")
        require(self.method.compiles or not self.compile, "compile", self.compile, f"must be false for {method}")
        together = not (self.compile and self.batch_norm == "sync")
        require(together, "compile", self.compile, "must be false with batch_norm = 'sync'")
        self.guard.check(self.method)
        allowed = f"must be at least workers = {self.workers}, so that each has a share"
        require(self.batch_size >= self.workers, "batch_size", self.batch_size, allowed)
        for stage in self.stages:
            require(stage.batch_size >= self.workers, "stages.batch_size", stage.batch_size, allowed)
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "must be from 0 to below 1")
        allowed = "must be from 0 to 1"
        require(0 <= self.epsilon_warmup <= 1, "epsilon_warmup", self.epsilon_warmup, allowed)
        require(0 <= self.averaging < 1, "averaging", self.averaging, "must be from 0 to below 1")

    def stage(self, epoch: int) -> Stage:
        """That of the epoch after `epoch` others."""
        for stage in self.stages:
            epoch -= stage.epochs
            if epoch < 0:
                return stage
        return self.stages[-1] if self.stages else Stage(epochs=1, batch_size=self.batch_size)

    def learning_rate(self, progress: float) -> float:
        """The optimizer's, when the share `progress` of the run is over."""
        sgd, times = self.optimizer, self.batch_size / self.optimizer.reference_batch_size
        scale = {"none": 1.0, "linear": times, "sqrt": times**0.5}[sgd.scaling]
        warmth = 1.0 if progress >= sgd.warmup else progress / sgd.warmup
        return sgd.lr * scale * warmth * self.schedule(min(progress, 1.0))
