"""Models built to look more robust than they are raise the flags that they should; honest ones raise none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_recipe
from quench.attacks import Attack, Stage, Victim
from quench.attacks.losses import margin
from quench.attacks.pgd import PGD
from quench.attacks.search import Search, Slots, State
from quench.datasets import Split
from quench.evaluation import Examination, evaluate, evaluating
from quench.evaluation.reliability import (
    black_box_beats_white_box,
    flags,
    loss_falls,
    more_restarts_help,
    pgd_far_above_autoattack,
    stands_in_the_whole_box,
    zero_gradients,
)
from quench.geometry.linf import Linf
from quench.threat_model import ThreatModel

THREAT = ThreatModel(norm=Linf(), epsilon=0.1)


@dataclass(frozen=True)
class Patches(Attack, Search):
    """Random search in linf: a patch of 2x2 pixels goes to the ball's border, and stays there if it helps."""

    queries: int = 150

    def stages(self, threat: ThreatModel, classes: int) -> Mapping[str, Stage]:
        return {"patches": self}

    def rounds(self, threat: ThreatModel) -> int:
        return 1

    def looks(self, threat: ThreatModel) -> int:
        return self.queries

    def begin(self, victim: Victim, slots: Slots, threat: ThreatModel, seed: int) -> State:
        numbers = slots.drawn(seed, lambda rng, _: torch.rand(1, self.queries + 1, 3, generator=rng))
        start = slots.drawn(seed, lambda rng, image: torch.empty_like(image).uniform_(-1, 1, generator=rng).sign())
        image = (slots.x + threat.epsilon * start).clamp(0, 1)
        highest = torch.full_like(slots.y, -torch.inf, dtype=image.dtype)
        return {"image": image, "best": image.clone(), "highest": highest, "numbers": numbers}

    def look(self, victim: Victim, slots: Slots, threat: ThreatModel) -> tuple[Tensor, Tensor]:
        state, tried = slots.state, slots.state["image"]
        logits = victim.scores(tried)
        value = margin(logits, slots.y)
        higher = value > state["highest"]
        state["highest"] = torch.where(higher, value, state["highest"])
        state["best"] = torch.where(higher.view(-1, 1, 1, 1), tried, state["best"])
        side = slots.x.shape[-1] - 1
        state["image"] = state["best"].clone()
        for n, (down, right, sign) in enumerate(state["numbers"][torch.arange(len(higher)), slots.looks].tolist()):
            at = (n, slice(None), *(slice(int(place * side), int(place * side) + 2) for place in (down, right)))
            state["image"][at] = (slots.x[at] + (threat.epsilon if sign < 0.5 else -threat.epsilon)).clamp(0, 1)
        return tried, logits.argmax(1) != slots.y


class Backward(torch.autograd.Function):
    """The identity, with a gradient of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None


def dct() -> Tensor:
    k = torch.arange(8.0)
    basis = torch.cos(torch.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2
    return torch.cat([basis[:1] / 2**0.5, basis[1:]])


def jpeg(x: Tensor) -> Tensor:
    return dct().T @ ((dct() @ x @ dct().T) * 3).round() @ dct() / 3


def thermometer(x: Tensor) -> Tensor:
    return torch.stack([(x - level / 8).sign().clamp_min(0) for level in range(1, 8)]).mean(0)


class Defended(nn.Module):
    """A network behind a defence: (network, images) -> logits."""

    def __init__(self, network: nn.Module, defence: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.defence = network, defence

    def forward(self, x: Tensor) -> Tensor:
        return self.defence(self.network, x)


def on_batch_statistics(network: nn.Module, x: Tensor) -> Tensor:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 0.0
    out = network(x)
    network.eval()
    return out


def purified(network: nn.Module, x: Tensor) -> Tensor:
    """A step of the images towards what the network is surer of."""
    with torch.enable_grad():
        image = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network(image).amax(1).sum(), image)
    return network((x + 0.05 * gradient.sign()).clamp(0, 1))


ZERO, BLACK, FALLS = "zero gradients", "black box beats white box", "loss does not rise with steps"
BORDER = torch.nn.functional.pad(torch.zeros(6, 6), (1, 1, 1, 1), value=1.0)

DEFENCES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], set[str]]] = {
    "quantised": (lambda f, x: f((4 * x).round() / 4), {ZERO, BLACK}),
    "thermometer": (lambda f, x: f(thermometer(x)), {ZERO, BLACK}),
    "jpeg": (lambda f, x: f(jpeg(x)), {ZERO, BLACK}),
    "detached": (lambda f, x: f(x.detach()), {ZERO, BLACK}),
    "without gradients": (torch.no_grad()(lambda f, x: f(x)), {ZERO, BLACK}),
    "logits x 1000": (lambda f, x: 1000 * f(x), {ZERO}),
    "logits x 1e38": (lambda f, x: 1e38 * f(x), {ZERO}),
    "flipped gradient": (lambda f, x: f(Backward.apply(x, torch.neg)), {BLACK, FALLS, "accuracy does not fall to 0"}),
    "masked gradient": (lambda f, x: f(Backward.apply(x, lambda g: g * BORDER)), {BLACK}),
    "shattered gradient": (lambda f, x: f(x + 0.01 * torch.sin(1000 * x)), {BLACK}),
    "noise": (lambda f, x: f(x + 0.05 * torch.randn_like(x)), {"random outputs"}),
    "batch statistics": (on_batch_statistics, {"batch-dependent outputs"}),
    "softmax": (lambda f, x: f(x).softmax(1), {"probabilities for logits"}),
    "purified": (purified, {"gradients in forward"}),
}


def names(model: nn.Module, split: Split, threat: ThreatModel = THREAT, **kwargs: Any) -> set[str]:
    white, victim = PGD(steps=10), Victim(model, 100, **kwargs)
    asked = Examination(attacks={"white": white}, threat=threat, seed=0, batch_size=100, **kwargs)
    report = evaluate(model, split, asked)
    with evaluating(model):
        found = flags(victim, split, threat, report.robust_bits, white, Patches(), 0, most=128)
    assert all("threshold" in flag.reason and "\n" not in flag.reason for flag in found)
    return {flag.name for flag in found}


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_defence_that_only_looks_like_one_is_flagged(defence: str, robust: nn.Module, digits: Split) -> None:
    forward, expected = DEFENCES[defence]
    found = names(Defended(robust, forward), digits)
    assert expected <= found
    assert ("random outputs" in found) is (defence == "noise")


@pytest.mark.parametrize(
    ("epsilon", "precision", "n"),
    [(0.03, "float32", 160), (0.1, "float32", 160), (0.3, "bfloat16", 160), (0.1, "bfloat16", 20), (0.1, "float32", 1)],
)
def test_an_honest_model_is_not(epsilon: float, precision: str, n: int, robust: nn.Module, digits: Split) -> None:
    split = digits.take(torch.arange(n))
    assert names(robust, split, replace(THREAT, epsilon=epsilon), precision=precision) == set()


def test_nor_is_one_that_knows_nothing(digits: Split) -> None:
    """Untrained; with one answer to everything, which no epsilon changes, nor has it gradients; with nothing right."""
    recipe = tiny_recipe()
    untrained = recipe.model.build(recipe.data.load(100).spec(), seed=0)
    assert names(untrained, digits) == set()
    assert names(Defended(untrained, lambda f, x: 0 * f(x) + 5 * torch.eye(10)[3]), digits) == {ZERO}
    assert names(untrained, Split(digits.images[:9], (digits.labels[:9] + 1) % 10)) == set()


def verdicts(standing: int, n: int) -> Tensor:
    return torch.arange(n) < standing


@pytest.mark.parametrize(
    ("rule", "n", "fell", "flagged"),
    [
        (black_box_beats_white_box, 10, 1, False),
        (black_box_beats_white_box, 256, 1, False),
        (black_box_beats_white_box, 256, 2, True),
        (black_box_beats_white_box, 10_000, 20, False),
        (black_box_beats_white_box, 10_000, 40, True),
        (more_restarts_help, 256, 2, False),
        (more_restarts_help, 256, 5, True),
        (pgd_far_above_autoattack, 20, 1, False),
        (pgd_far_above_autoattack, 10_000, 300, False),
        (pgd_far_above_autoattack, 10_000, 350, True),
    ],
)
def test_a_single_lucky_example_is_none_too_many(rule: Any, n: int, fell: int, flagged: bool) -> None:
    flag = rule(verdicts(n // 2 + 2, n), verdicts(n // 2 + 2 - fell, n))
    assert (flag is not None) is flagged
    if flag is not None:
        assert f"{fell / n:.1%}" in flag.reason


def test_the_whole_box_leaves_nobody_standing() -> None:
    assert stands_in_the_whole_box(verdicts(0, 256)) is None
    assert stands_in_the_whole_box(verdicts(1, 5)) is None
    assert stands_in_the_whole_box(verdicts(10, 256)) is not None


@pytest.mark.parametrize(
    ("losses", "flagged"),
    [
        ([0.1, 0.5, 2.0], False),
        ([0.1, 2.0, 1.9], False),
        ([0.0, 0.0, 0.0], False),
        ([2.3, 2.3000001, 2.3], False),
        ([0.1, 2.0, 1.0], True),
        ([2.0, 1.0, 0.1], True),
    ],
)
def test_ascent_that_goes_down_is_flagged(losses: list[float], flagged: bool) -> None:
    assert (loss_falls(losses) is not None) is flagged


def test_small_gradients_are_not_zero() -> None:
    gradients = torch.full((100, 1, 2, 2), 1e-40)
    assert zero_gradients(gradients) is None
    gradients[:50] = 0
    assert zero_gradients(gradients) is not None
    assert zero_gradients(torch.full((100, 1, 2, 2), torch.nan)) is not None
