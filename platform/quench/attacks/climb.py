"""What Auto-PGD is in every norm: a climb that remembers the best image on its way."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quench.attacks import Victim
from quench.attacks.losses import cross_entropy, dlr, likely_wrong, targeted_dlr
from quench.attacks.search import Search, Slots, State
from quench.geometry import per_example
from quench.threat_model import ThreatModel

Loss = Literal["ce", "dlr", "targeted"]


@dataclass(frozen=True)
class Climb(Search):
    """What both share: the loss and its gradient at every image, and the best image so far to go back to."""

    loss: Loss
    steps: int
    count: int

    def rounds(self, threat: ThreatModel) -> int:
        return self.count

    def begin(self, victim: Victim, slots: Slots, threat: ThreatModel, seed: int) -> State:
        start = self._start(slots, threat, seed)
        state = {name: start.clone() for name in ("image", "before", "best", "gradient", "best_gradient")}
        state["highest"] = torch.full_like(slots.y, -torch.inf, dtype=start.dtype)
        if self.loss == "targeted":
            state["target"] = likely_wrong(victim.scores(slots.x), slots.y, slots.round)
        return state | self._memory(slots, start, threat)

    def look(self, victim: Victim, slots: Slots, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        state, tried = slots.state, slots.state["image"]
        gradient, loss, logits = victim.gradient(tried, lambda logits: self._objective(logits, slots))
        state["gradient"], loss = gradient, loss.to(tried.dtype)
        higher = loss > state["highest"]
        for name, new in {"best": tried, "best_gradient": gradient, "highest": loss}.items():
            state[name] = torch.where(per_example(higher, new), new, state[name])
        self._move(slots, loss, threat)
        return tried, (logits.argmax(1) != slots.y) & self._counts(slots)

    def _objective(self, logits: Tensor, slots: Slots) -> Tensor:
        if self.loss == "targeted":
            return targeted_dlr(logits, slots.y, slots.state["target"])
        return (cross_entropy if self.loss == "ce" else dlr)(logits, slots.y)

    def _back(self, state: State, which: Tensor) -> None:
        """To the best image so far, and the gradient there."""
        for name, best in {"image": "best", "gradient": "best_gradient"}.items():
            state[name] = torch.where(per_example(which, state[name]), state[best], state[name])

    @abstractmethod
    def _start(self, slots: Slots, threat: ThreatModel, seed: int) -> Tensor:
        """The first image of a round."""

    @abstractmethod
    def _memory(self, slots: Slots, start: Tensor, threat: ThreatModel) -> State:
        """What else is remembered."""

    @abstractmethod
    def _counts(self, slots: Slots) -> Tensor:
        """Whether what is found now counts."""

    @abstractmethod
    def _move(self, slots: Slots, loss: Tensor, threat: ThreatModel) -> None:
        """On to the next image."""
