"""Auto-PGD in linf and l2 (Croce & Hein 2020, arXiv 2003.01690)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from quench.attacks.climb import Climb
from quench.attacks.search import Slots, State
from quench.catalogue import name_of
from quench.geometry import per_example
from quench.threat_model import ThreatModel


class _Checks(NamedTuple):
    """For the number of steps done, `(steps + 1,)` each: whether to check the progress, and over how many steps."""

    due: Tensor
    window: Tensor


@cache
def _checks(steps: int) -> _Checks:
    """After 22 % of the steps, then at intervals that shrink by 3 % to 6 % of them (section 3 of the paper)."""
    first, least, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    due, window = torch.zeros(steps + 1, dtype=torch.bool), torch.zeros(steps + 1)
    interval, at = first, first
    while at <= steps:
        due[at], window[at] = True, float(interval)
        interval = max(interval - shorter, least)
        at += interval
    return _Checks(due, window)


@dataclass(frozen=True)
class Momentum(Climb):
    """Algorithm 1 of arXiv 2003.01690, for linf and l2.

    A step of twice epsilon at first, with momentum; at each check it is halved, and the search goes back to
    its best image, where less than three quarters of the steps have raised the loss, or where the highest loss
    has not risen since the last check, nor has the step been halved there.
    """

    def looks(self, threat: ThreatModel) -> int:
        return self.steps + 1

    def _start(self, slots: Slots, threat: ThreatModel, seed: int) -> Tensor:
        """A random point of the sphere: in linf uniform in the cube and blown up to it, in l2 a direction."""

        def sphere(rng: torch.Generator, image: Tensor) -> Tensor:
            noise = torch.empty_like(image)
            noise = noise.uniform_(-1, 1, generator=rng) if linf else noise.normal_(generator=rng)
            return threat.epsilon * noise / per_example(threat.norm.norm(noise), noise)

        linf = name_of(threat.norm) == "linf"
        return (slots.x + slots.drawn(seed, sphere)).clamp(0, 1)

    def _memory(self, slots: Slots, start: Tensor, threat: ThreatModel) -> State:
        zero = torch.zeros_like(slots.y, dtype=start.dtype)
        return {
            "ratio": zero + 2.0,
            "latest": zero.clone(),
            "rises": zero.clone(),
            "highest_at_check": zero - torch.inf,
            "halved": torch.ones_like(slots.y, dtype=torch.bool),
        }

    def _counts(self, slots: Slots) -> Tensor:
        return torch.ones_like(slots.y, dtype=torch.bool)

    def _move(self, slots: Slots, loss: Tensor, threat: ThreatModel) -> None:
        state, first = slots.state, slots.looks == 0
        state["rises"] += (loss > state["latest"]) & ~first
        state["latest"] = loss
        state["highest_at_check"] = torch.where(first, loss, state["highest_at_check"])
        due, window = (table.to(loss.device)[slots.looks] for table in _checks(self.steps))
        stuck = ~state["halved"] & (state["highest_at_check"] >= state["highest"])
        halve = due & ((state["rises"] <= 0.75 * window) | stuck)
        state["halved"] = torch.where(due, halve, state["halved"])
        state["highest_at_check"] = torch.where(due, state["highest"], state["highest_at_check"])
        state["rises"] = torch.where(due, 0.0, state["rises"])
        state["ratio"] = torch.where(halve, state["ratio"] / 2, state["ratio"])
        self._back(state, halve)
        x, image, before = slots.x, state["image"], state["before"]
        step = per_example(state["ratio"], image) * threat.step(state["gradient"], 1.0)
        straight = x + threat.project(x, image + step - x)
        # The first step has no direction to keep: `before` is the image itself.
        share = per_example(torch.where(first, 1.0, 0.75), image)
        state["image"] = x + threat.project(x, image + share * (straight - image) + (1 - share) * (image - before) - x)
        state["before"] = image
