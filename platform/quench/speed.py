"""How fast this machine is at the work of recipes: operations counted, seconds measured, a moment for each kind.

The floating-point operations of an update are counted by torch's own formulas, on a few images; the rate at which
this machine does them is measured once for each method, model, image size, batch and precision, with updates by the
training loop itself. (One rate for all methods would do for most of them, but second derivatives, as in GradAlign,
can take twice as long as their operations say.) How often an attack asks the model about an image is counted on a
model that no attack fools, and takes no time: what judging costs is thus an upper bound, as in earnest fooled images
leave.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quench.attacks import Attack, Victim
from quench.attacks.pgd import ascend
from quench.catalogue import name_of
from quench.config import flatten
from quench.datasets import Data, ImageSpec, Split
from quench.evaluation import evaluating, judge
from quench.evaluation.reliability import flags
from quench.flops import CountFlops
from quench.protocol import BLACK_BOX, white_box
from quench.ranks import Ranks
from quench.training.budgets.epochs import Epochs
from quench.training.clock import Clock
from quench.training.epoch import Training
from quench.training.overfitting import Guard, Watch
from quench.training.recipe import Recipe, Stage
from quench.training.state import TrainState
from quench.training.streaming import feed_of

FEW = 2
"""images that operations are counted on, and updates that are carried out at a time: methods may alternate"""
BUSY = 0.25
"""seconds of work at once that show a device's full speed: no need to wait for larger batches"""
T = TypeVar("T")


@dataclass
class Machine:
    """A device, and what has been counted and measured on it so far."""

    device: torch.device
    _known: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    def data(self, recipe: Recipe) -> tuple[Data, ImageSpec]:
        """The recipe's, on the CPU."""

        def load() -> tuple[Data, ImageSpec]:
            data = recipe.data.load(recipe.validation)
            return data, data.spec()

        return self._once((recipe.data, recipe.validation), load)

    def batch(self, recipe: Recipe, stage: Stage) -> tuple[float, float]:
        """Operations and seconds of learning from one worker's share of a batch."""
        rows = -(-stage.batch_size // recipe.workers)
        place = (
            *(recipe.data, recipe.validation, recipe.model, recipe.threat.norm, stage.size, recipe.augmentation),
            *(recipe.precision, recipe.channels_last, recipe.batch_norm, recipe.crafting_statistics),
            bool(recipe.averaging),
        )
        flops = self._once((place, _kind(recipe.method)), lambda: self._flops(recipe, stage))
        rate = self._once((place, name_of(recipe.method), rows), lambda: flops / self._seconds(recipe, stage, rows))
        return rows * flops, rows * flops / rate

    def _flops(self, recipe: Recipe, stage: Stage) -> float:
        """Operations for each image more in training: what a method does now and then for all is little of a batch."""

        def counted(images: int) -> int:
            training = self._training(recipe, stage, images)
            with CountFlops() as count:
                training.epoch()
            return count.total

        return (counted(2 * FEW) - counted(FEW)) / FEW**2

    def _seconds(self, recipe: Recipe, stage: Stage, rows: int) -> float:
        """Of training for each image, `rows` in a batch."""

        def moment(images: int) -> Callable[[], object]:
            training = self._training(recipe, stage, images)
            return training.epoch

        return self._best(moment, min(rows, len(self.data(recipe)[0].train) // FEW)) / FEW

    def _training(self, recipe: Recipe, stage: Stage, images: int) -> Training:
        """An epoch of `FEW` batches of so many images, as the recipe's epochs are."""
        data, spec = self.data(recipe)
        few = data.train.take(torch.arange(FEW * images)).to(self.device)
        short = replace(
            recipe,
            workers=1,
            min_workers=0,
            compile=False,
            budget=Epochs(1000),
            stages=(Stage(epochs=1, size=stage.size, batch_size=images),),
            guard=Guard(action="off"),
        )
        state = TrainState.initial(short, spec, self.device)
        watch = Watch(short.guard, state, lambda model, attack: (0.0, 0.0), Ranks())
        return Training(state, state.model, short, len(few), feed_of(few, short), Ranks(), watch, save=None)

    def judging(self, recipe: Recipe, images: int, attacks: Mapping[str, Attack]) -> float:
        """Seconds of judging so many images, at most."""

        def question(victim: Victim, image: Split) -> None:
            judge(victim, image.batch(image.labels), attacks, recipe.threat, recipe.seed)

        kind = tuple((label, _kind(attack)) for label, attack in attacks.items())
        return self._answering(recipe, images, self._asked(recipe, kind, question))

    def doubting(self, recipe: Recipe, images: int) -> float:
        """... and of looking at them once more, for signs that the verdicts are not to be believed."""

        def question(victim: Victim, image: Split) -> None:
            stood = torch.ones(1, dtype=torch.bool)
            flags(victim, image, recipe.threat, stood, white_box(recipe.evaluation), BLACK_BOX, recipe.seed)

        return self._answering(recipe, images, self._asked(recipe, ("doubts", _kind(recipe.evaluation)), question))

    def _answering(self, recipe: Recipe, images: int, asked: _Asked) -> float:
        """Seconds, for so many images that stand up to what is asked."""
        batches = -(-images // recipe.batch_size)
        return images * asked.passes * self._pass(recipe) + batches * asked.seconds

    def _pass(self, recipe: Recipe) -> float:
        """Seconds of a forward pass of one image while judging: half a step of PGD."""
        data, spec = self.data(recipe)
        steps = 2

        def moment(images: int) -> Callable[[], object]:
            model = TrainState.initial(recipe, spec, self.device).judged
            victim, batch = Victim(model), data.validation.to(self.device).batch(torch.arange(images))

            def gradient(x: Tensor) -> Tensor:
                return victim.gradient(x, lambda logits: F.cross_entropy(logits, batch.y, reduction="none"))[0]

            def climb() -> None:
                with evaluating(model):
                    ascend(gradient, batch.x, torch.zeros_like(batch.x), recipe.threat, steps, step_ratio=0.1)

            return climb

        place = recipe.data, recipe.validation, recipe.model, recipe.threat.norm, recipe.channels_last
        rows = min(recipe.batch_size, len(data.validation))
        return self._once(("judging", *place, rows), lambda: self._best(moment, rows) / (2 * steps))

    def _asked(self, recipe: Recipe, kind: Hashable, question: Callable[[Victim, Split], None]) -> _Asked:
        """What a question about an image asks of a model."""

        def count() -> _Asked:
            spec = self.data(recipe)[1]
            model = Unshakable(spec.classes).to(self.device)
            image = torch.full((1, *spec.shape), 127, dtype=torch.uint8)
            split = Split(image, torch.zeros(1, dtype=torch.int64)).to(self.device)
            seconds = self._timed(partial(question, Victim(model), split))
            return _Asked(model.passes, seconds)

        return self._once((recipe.data, recipe.threat.norm, kind), count)

    def _best(self, moment: Callable[[int], Callable[[], object]], most: int) -> float:
        """The usual seconds for each image of some work on `most` images, or on as many as keep the device busy."""
        images = min(FEW, most)
        while True:
            work = moment(images)
            self._timed(work)  # the first time is slow
            times = [self._timed(work)]
            if images == most or times[0] > BUSY:
                break
            images = min(4 * images, most)
        while sum(times) < BUSY:
            times.append(self._timed(work))
        return median(times) / images

    def _timed(self, work: Callable[[], object]) -> float:
        clock = Clock(self.device)
        with clock.running():
            work()
        return clock.seconds

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@dataclass(frozen=True)
class _Asked:
    """What an image that stands up to all attacks takes: of a model's time, and of the search's own."""

    passes: int
    """forward passes' worth of work"""
    seconds: float
    """of everything else, which is much the same for a batch"""


class Unshakable(nn.Module):
    """A model that is right about class 0 whatever it is shown, and counts what it is asked, in forward passes."""

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.passes = 0
        self.register_buffer("weight", torch.linspace(0, 1, classes))
        self.register_buffer("bias", F.one_hot(torch.tensor(0), classes) * 1e3)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) * (2 if x.requires_grad and torch.is_grad_enabled() else 1)
        return x.flatten(1).mean(1, keepdim=True) * self.weight + self.bias


def _kind(part: object) -> Hashable:
    """What decides how much work a method or an attack is: of its fields' values, but whether fractions are 0."""
    values = flatten(part).items()
    return tuple((key, bool(value) if isinstance(value, float) else value) for key, value in values)
