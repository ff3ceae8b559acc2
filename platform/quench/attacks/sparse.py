"""Auto-PGD in l1 (Croce & Hein 2021, arXiv 2103.01208)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from quench.attacks.climb import Climb
from quench.attacks.search import Slots, State
from quench.geometry import Geometry, per_example
from quench.threat_model import ThreatModel


@dataclass(frozen=True)
class Sparse(Climb):
    """APGD-L1 (arXiv 2103.01208): in balls of three, two and one epsilon, each from the projected best of the last.

    A step moves the largest components of the gradient, two thirds as many as the best perturbation has: where that
    keeps getting sparser the step is epsilon again and the search goes back to the best, else it shrinks by 1.5
    down to a tenth.
    """

    def looks(self, threat: ThreatModel) -> int:
        return sum(self._phases()) + 3

    def _phases(self) -> tuple[int, int, int]:
        """Steps in each ball."""
        some = -(-3 * self.steps // 10)
        return some, some, self.steps - 2 * some

    def _radius(self, slots: Slots, after: int, threat: ThreatModel) -> Tensor:
        """Of the ball that the search is in, `after` so many further looks."""
        ends = torch.tensor([*accumulate(n + 1 for n in self._phases())], device=slots.y.device)[:2]
        factor = 3 - ((slots.looks + after)[:, None] >= ends).sum(1)
        return factor * threat.epsilon

    def _start(self, slots: Slots, threat: ThreatModel, seed: int) -> Tensor:
        noise = slots.drawn(seed, lambda rng, image: torch.empty_like(image).normal_(generator=rng))
        return slots.x + _into_ball(threat.norm, slots.x, noise, self._radius(slots, 0, threat))

    def _memory(self, slots: Slots, start: Tensor, threat: ThreatModel) -> State:
        changed = _changed(slots.x, start)
        return {"changed": changed, "density": changed / slots.x[0].numel() / 1.5, "ratio": torch.ones_like(changed)}

    def _counts(self, slots: Slots) -> Tensor:
        return slots.looks > sum(self._phases()[:2]) + 1

    def _move(self, slots: Slots, loss: Tensor, threat: ThreatModel) -> None:
        state, x = slots.state, slots.x
        radius, following = self._radius(slots, 0, threat), self._radius(slots, 1, threat)
        first = (slots.looks == 0) | (self._radius(slots, -1, threat) != radius)
        self._adapt(state, x, ~first)
        pixels = x[0].numel()
        rank = ((1 - state["density"]) * pixels).clamp(0, pixels - 1).long()
        size = state["gradient"].abs()
        least = per_example(size.flatten(1).sort(1).values.gather(1, rank[:, None]).squeeze(1), x)
        signs = state["gradient"].sign() * (size >= least)
        length = state["ratio"] * radius / (signs.abs().flatten(1).sum(1) + 1e-10)
        step = state["image"] + per_example(length, x) * signs
        moved = per_example(following != radius, x)  # into the next ball, from the best
        delta = torch.where(moved, state["best"], step) - x
        state["image"] = x + _into_ball(threat.norm, x, delta, following)
        self._begin_ball(state, x, following != radius)

    def _adapt(self, state: State, x: Tensor, which: Tensor) -> None:
        """Density and step after a step; `which` leaves out the first looks in a ball."""
        changed = _changed(x, state["best"])
        sparser = which & (changed < 0.95 * state["changed"])
        ratio = torch.where(sparser, 1.0, (state["ratio"] / 1.5).clamp(0.1, 1.0))
        state["ratio"] = torch.where(which, ratio, state["ratio"])
        state["density"] = torch.where(which, changed / x[0].numel() / 1.5, state["density"])
        state["changed"] = torch.where(which, changed, state["changed"])
        self._back(state, sparser)

    def _begin_ball(self, state: State, x: Tensor, which: Tensor) -> None:
        changed = _changed(x, state["image"])
        fresh = {
            "changed": changed,
            "density": changed / x[0].numel() / 1.5,
            "ratio": torch.ones_like(changed),
            "highest": torch.full_like(changed, -torch.inf),
        }
        for name, value in fresh.items():
            state[name] = torch.where(which, value, state[name])


def _changed(x: Tensor, image: Tensor) -> Tensor:
    """How many components of each image are not the original's: `(N,)` float."""
    return (image != x).flatten(1).sum(1).to(x.dtype)


def _into_ball(norm: Geometry, x: Tensor, delta: Tensor, radius: Tensor) -> Tensor:
    """`project_into_box` with a radius `(N,)` for each example, of which there are few."""
    into = torch.zeros_like(delta)
    for value in radius.unique().tolist():
        mine = radius == value
        into[mine] = norm.project_into_box(delta[mine], value, -x[mine], 1 - x[mine])
    return into
