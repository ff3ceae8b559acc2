"""Catastrophic overfitting: a single-step run that learns to fool its own attack, and is robust to no other.

It happens within an epoch: accuracy on the attacked training batches jumps, the step begins to
lower the loss of many examples, the loss bends between image and adversarial example, and robust accuracy
falls to nothing while accuracy under FGSM rises (Wong et al. 2020, arXiv 2001.03994; Andriushchenko &
Flammarion 2020, arXiv 2007.02617). The first three are known from the training passes themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from quench.attacks import Attack
from quench.attacks.pgd import PGD
from quench.context import SIGNALS, signals
from quench.errors import InvalidValue, positive
from quench.methods import Method
from quench.ranks import Ranks

if TYPE_CHECKING:
    from quench.training.state import TrainState

FGSM = PGD(steps=1, step_ratio=1.0, random_start=False)
"""what a collapsed model is good at"""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What to watch for, and what to do about it."""

    action: Literal["off", "record", "stop", "rollback"] = "record"
    """once confirmed: only say so, end the run, or go back to healthy weights with a milder method"""
    every: int = 50
    """updates between two looks at the signals, which are averaged over them"""
    accuracy_rise: float = 0.1
    """alarm when accuracy on the attacked training batches is so far above its running mean"""
    abnormal_rise: float = 0.1
    """... when the share of examples whose loss fell in the step is"""
    linearity_fall: float = 0.2
    """... when the linearity of the loss is so far below its running mean"""
    confirmation: Attack = field(default_factory=lambda: PGD(steps=10))
    """attack on the held-out images that an alarm is checked with"""
    remedy: Literal["smaller_step", "more_noise"] = "smaller_step"
    """what each rollback does to the method: step_ratio x 0.8, or noise_ratio + 0.5"""
    rollbacks: int = 3
    """how often to go back before the run is given up as lost"""
    snapshots: int = 3
    """how many healthy epochs' weights to keep in memory, for rollback"""

    def __post_init__(self) -> None:
        positive(self, "every", "accuracy_rise", "abnormal_rise", "linearity_fall", "rollbacks", "snapshots")

    def check(self, method: Method) -> None:
        """Refuse a remedy that `method` has no field for."""
        name = _REMEDIES[self.remedy]
        if self.action == "rollback" and method.adversarial and getattr(method, name, None) is None:
            others = [remedy for remedy, other in _REMEDIES.items() if getattr(method, other, None) is not None]
            allowed = f"needs a method with a {name}; this one takes {' or '.join(others) or 'no remedy'}"
            raise InvalidValue("guard.remedy", self.remedy, allowed)

    def eased(self, method: Method, rollbacks: int) -> Method:
        """The method as it is after so many rollbacks."""
        if rollbacks == 0:
            return method
        name = _REMEDIES[self.remedy]
        ratio = getattr(method, name)
        changes: dict[str, Any] = {
            name: ratio * 0.8**rollbacks if self.remedy == "smaller_step" else ratio + 0.5 * rollbacks
        }
        return replace(method, **changes)  # pyright: ignore[reportArgumentType] - a Method is a dataclass


_REMEDIES = {"smaller_step": "step_ratio", "more_noise": "noise_ratio"}


@dataclass(frozen=True, kw_only=True)
class Event:
    """An alarm, what its confirmation found, and what was done. Accuracies are shares of the held-out images."""

    update: int
    """optimizer updates done"""
    train_seconds: float
    """the train clock"""
    cause: str
    """the signal that gave the alarm; `probe` for the epoch's own check"""
    signals: dict[str, float]
    """means over the updates since the last look"""
    usual: dict[str, float]
    """their running means until then"""
    fgsm_accuracy: float
    robust_accuracy: float
    """under the confirmation's attack"""
    confirmed: bool
    action: str
    """none, recorded, stopped, or rolled back"""


class CatastrophicOverfitting(Exception):
    """The run is lost to it: stopped by its guard, or collapsed at its end."""


def collapsed(fgsm: float, robust: float, best: float) -> bool:
    """Whether robust accuracy is gone (half of the run's `best`, or a fifth of that under FGSM) while FGSM's is not.

    The second half of the rule tells this collapse from a model that is bad at everything.
    """
    return robust < max(best / 2, fgsm / 5) and fgsm - robust > 0.1


@dataclass
class Watch:
    """A guard at work on one run. Resumed, it knows whether the run had collapsed, and learns the rest anew."""

    guard: Guard
    state: TrainState
    judge: Callable[[nn.Module, Attack], tuple[float, float]]
    """accuracy on the held-out images under FGSM and under an attack"""
    ranks: Ranks
    events: list[Event] = field(default_factory=list[Event])
    """since they were last taken"""
    lost: bool = field(init=False)
    """whether the guard has given the run up"""
    armed: bool = True
    """whether to draw conclusions: not while training's epsilon is still growing towards the one that is judged by"""
    _window: list[Tensor] = field(default_factory=list[Tensor])
    _usual: dict[str, float] = field(default_factory=dict[str, float])
    _looks: int = 0

    def __post_init__(self) -> None:
        self.lost = self.state.collapsed and self.guard.action in ("stop", "rollback")
        self._ring: deque[dict[str, Any]] = deque(maxlen=self.guard.snapshots)
        self._keep()

    def after_update(self, signals: Tensor) -> None:
        """Take what `Context.observe` measured; look at it, once in `guard.every` updates."""
        if self.guard.action == "off":
            return
        self._window.append(signals)
        if len(self._window) < self.guard.every:
            return
        seen = self._means()
        cause = self._alarm(seen) if self.armed and not self.state.collapsed else None
        if cause is not None:
            self._conclude(cause, seen, *self.judge(self.state.model, self.guard.confirmation))
            if self.events[-1].action == "rolled back":
                return  # what was seen is not of these weights
        self._learn(seen, anew=cause is not None)

    def after_epoch(self, fgsm: float, robust: float) -> bool:
        """Take the epoch's accuracies on the held-out images. True if the weights are now others: judge them again."""
        if self.lost or self.guard.action == "off":
            return False
        known = self.state.collapsed
        self.state.collapsed = self.armed and collapsed(fgsm, robust, self.state.best_accuracy)
        if not self.state.collapsed or known:
            if robust >= 0.75 * self.state.best_accuracy:
                self._keep()
            return False
        self._conclude("probe", {}, fgsm, robust)
        return not self.state.collapsed

    def take_events(self) -> tuple[Event, ...]:
        """The events since the last call."""
        events, self.events = tuple(self.events), []
        return events

    def _means(self) -> dict[str, float]:
        """Of the window, over all ranks; signals that the method does not give are left out."""
        means = signals(self.ranks.total(torch.stack(self._window))).tolist()
        self._window = []
        return {name: value for name, value in zip(SIGNALS, means, strict=True) if value == value}

    def _alarm(self, seen: Mapping[str, float]) -> str | None:
        if self._looks < 5:  # at first accuracy rises fast in any case
            return None
        rise = {name: value - self._usual.get(name, value) for name, value in seen.items()}
        given = {
            "accuracy": rise.get("accuracy", 0.0) > self.guard.accuracy_rise,
            "abnormal": rise.get("abnormal", 0.0) > self.guard.abnormal_rise,
            "linearity": -rise.get("linearity", 0.0) > self.guard.linearity_fall,
        }
        return next((name for name, alarm in given.items() if alarm), None)

    def _learn(self, seen: Mapping[str, float], anew: bool) -> None:
        """Running means over some two looks; after an alarm its level is the usual one, so that it is given once."""
        for name, value in seen.items():
            self._usual[name] = value if anew else (self._usual.get(name, value) + value) / 2
        self._looks += 1

    def _conclude(self, cause: str, seen: dict[str, float], fgsm: float, robust: float) -> None:
        self.state.alarms += 1
        self.state.collapsed = confirmed = collapsed(fgsm, robust, self.state.best_accuracy)
        action = self._act() if confirmed else "none"
        self.events.append(
            Event(
                update=self.state.updates,
                train_seconds=self.state.train_seconds,
                cause=cause,
                signals=seen,
                usual=dict(self._usual),
                fgsm_accuracy=fgsm,
                robust_accuracy=robust,
                confirmed=confirmed,
                action=action,
            )
        )

    def _act(self) -> str:
        if self.guard.action == "record":
            return "recorded"
        if self.guard.action == "rollback" and self.state.rollbacks < self.guard.rollbacks and self._ring:
            # Each is used once: if the run collapses again before it has recovered, it goes further back.
            self.state.go_back(self._ring.pop())
            self.state.rollbacks += 1
            self.state.collapsed = False
            return "rolled back"
        self.lost = True
        return "stopped"

    def _keep(self) -> None:
        """A snapshot, if it may be needed: before the first epoch, and after those within a quarter of the best."""
        if self.guard.action == "rollback":
            self._ring.append(self.state.snapshot())
