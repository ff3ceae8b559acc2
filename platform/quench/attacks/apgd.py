"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690; in l1 2021, arXiv 2103.01208): steps that find their own size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quench.attacks import Attack, Stage, Victim
from quench.attacks.losses import cross_entropy, dlr, likely_wrong, targeted_dlr
from quench.attacks.search import Search, Slots, State
from quench.catalogue import name_of
from quench.errors import positive, require
from quench.geometry import Geometry, per_example
from quench.threat_model import ThreatModel

Loss = Literal["ce", "dlr", "targeted"]


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD on one loss. In l1 it begins in larger balls and takes sparse steps; see `_Sparse`."""

    loss: Loss = "ce"
    """cross-entropy, difference of logits ratio, or that towards one wrong class after the other"""
    steps: int = 100
    """gradient steps of each restart or target"""
    restarts: int = 1
    """independent searches; of the targeted loss, one for each target"""
    targets: int = 9
    """how many of the likeliest wrong classes the targeted loss aims at, at most"""

    def __post_init__(self) -> None:
        positive(self, "steps", "restarts", "targets")

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        least = {"ce": 2, "dlr": 3, "targeted": 4}[self.loss]
        require(classes >= least, "attack.loss", self.loss, f"needs {least} classes; these data have {classes}")
        rounds = min(self.targets, classes - 1) if self.loss == "targeted" else self.restarts
        kind = _Sparse if name_of(threat.norm) == "l1" else _Momentum
        return {
            {"ce": "apgd_ce", "dlr": "apgd_dlr", "targeted": "apgd_t"}[self.loss]: kind(self.loss, self.steps, rounds)
        }


@dataclass(frozen=True)
class _APGD(Search):
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
class _Momentum(_APGD):
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


@dataclass(frozen=True)
class _Sparse(_APGD):
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
