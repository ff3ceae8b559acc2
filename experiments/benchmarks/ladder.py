"""Our own update, with the settings that a ladder from the published loop turns on one by one.

Resident images are shifted over their reflection, not over zeros. Our loop brings with it: what the guard reads from
every update (loss, accuracy, and the input gradient of the learning pass), running statistics that crafting leaves
alone, and a schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from published import Steps, fast_adversarial
from torch import Tensor

from quench.allocator import keep_freed_memory
from quench.datasets import ImageSpec, Split
from quench.datasets.digits import Digits
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.methods import Method
from quench.methods.fgsm_rs import FGSMRS
from quench.models import Model
from quench.models.preact_resnet import PreActResNet
from quench.models.small_cnn import SmallCNN
from quench.ranks import Ranks
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.epoch import Training
from quench.training.overfitting import Watch
from quench.training.recipe import SGD, Augmentation, Recipe
from quench.training.state import TrainState
from quench.training.streaming import feed_of

SPEC = ImageSpec((3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
MODELS: dict[str, tuple[Model, int]] = {"small_cnn": (SmallCNN(), 128), "preact_resnet": (PreActResNet(), 32)}
"""network and batch"""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """quench's own epoch, with the settings that the ladder turns on one by one."""

    method: Method = FGSMRS()  # noqa: RUF009 - immutable
    threat: ThreatModel = ThreatModel(norm=Linf(), epsilon=8 / 255)  # noqa: RUF009
    fused: bool = True
    channels_last: bool = True
    keep: bool = True
    precision: Any = "bfloat16"
    compile: bool = False

    def recipe(self, network: Model, batch_size: int) -> Recipe:
        return Recipe(
            data=Digits(),
            model=network,
            threat=self.threat,
            method=self.method,
            budget=Epochs(10_000),
            batch_size=batch_size,
            optimizer=SGD(lr=0.01, nesterov=False),
            augmentation=Augmentation(padding=4, flip=True),
            precision=self.precision,
            channels_last=self.channels_last,
            compile=self.compile,
        )

    def steps(self, network: Model, batch_size: int, split: Split) -> Steps:
        recipe = self.recipe(network, batch_size)
        if self.keep:
            keep_freed_memory()
        state = TrainState.initial(recipe, SPEC, torch.device("cpu"))
        if not self.fused:
            group = state.optimizer.param_groups[0]
            kept = {key: group[key] for key in ("lr", "momentum", "nesterov", "weight_decay")}
            state.optimizer = torch.optim.SGD(state.model.parameters(), **kept)
        watch = Watch(recipe.guard, state, lambda model, attack: (0.0, 0.0), Ranks())
        model: Any = torch.compile(state.model) if self.compile else state.model
        training = Training(state, model, recipe, len(split), feed_of(split, recipe), Ranks(), watch, save=None)

        def epoch() -> None:
            training.epoch()

        return epoch


@dataclass
class Resident:
    """quench's batches for another loop: all images in memory as uint8, a whole batch augmented at once."""

    split: Split
    recipe: Recipe

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.x, batch.y) for batch in feed_of(self.split, self.recipe)(0, Ranks(), 0))


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """fast_adversarial's loop with some of what ours does."""

    resident: bool = False
    fetch: bool = True

    def steps(self, network: Model, batch_size: int, split: Split) -> Steps:
        batches = Resident(split, PLAIN.recipe(network, batch_size)) if self.resident else None
        how: dict[str, Any] = {"input_only": True, "batches": batches, "fetch": self.fetch}
        return fast_adversarial(network.build(SPEC, 0), split.images, split.labels, batch_size, **how)


L2_HALF = ThreatModel(norm=L2(), epsilon=0.5)
PLAIN = Ours(fused=False, channels_last=False, keep=False, precision="float32")
LADDER = {
    "+ gradients of the input only in the attack": Theirs(),
    "+ images resident, augmented at once": Theirs(resident=True),
    "+ nothing fetched": Theirs(resident=True, fetch=False),
    "+ quench's loop": PLAIN,
    "+ freed memory kept": replace(PLAIN, keep=True),
    "+ fused optimizer": replace(PLAIN, keep=True, fused=True),
    "+ channels_last": Ours(precision="float32"),
    "+ bfloat16 (quench)": Ours(),
    "+ compile": Ours(compile=True),
}
