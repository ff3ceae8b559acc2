"""What only a GPU can show: the compiled bfloat16 path against float32 on the CPU. Needs torch, numpy and pytest alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from quench.attacks import Victim
from quench.attacks.pgd import PGD
from quench.context import Context
from quench.datasets import Data, Dataset, Split
from quench.geometry.l2 import L2
from quench.geometry.linf import Linf
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.models.preact_resnet import PreActResNet
from quench.randomness import generator
from quench.ranks import Ranks
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.budgets.seconds import Seconds
from quench.training.epoch import Training
from quench.training.loop import EpochReport, fit
from quench.training.overfitting import Guard, Watch
from quench.training.recipe import SGD, Augmentation, Recipe
from quench.training.state import TrainState
from quench.training.streaming import feed_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
FAST = {"precision": "bfloat16", "compile": True}


@dataclass(frozen=True, kw_only=True)
class Blobs(Dataset):
    """Each class a pattern of its own under noise: learned in a few updates."""

    def splits(self) -> tuple[Split, Split, tuple[str, ...]]:
        rng = torch.Generator().manual_seed(0)
        patterns = torch.randint(64, 192, (10, 3, 4, 4), generator=rng).repeat_interleave(4, 2).repeat_interleave(4, 3)
        labels = torch.randint(10, (1500,), generator=rng)
        noise = torch.randint(-40, 41, (1500, 3, 16, 16), generator=rng)
        everything = Split((patterns[labels] + noise).clamp(0, 255).to(torch.uint8), labels)
        return everything.take(torch.arange(1200)), everything.take(torch.arange(1200, 1500)), tuple("0123456789")


RECIPE = Recipe(
    data=Blobs(),
    model=PreActResNet(width=16),
    threat=ThreatModel(norm=Linf(), epsilon=8 / 255),
    method=NFGSM(),
    budget=Epochs(4),
    batch_size=100,
    optimizer=SGD(lr=0.05),
    augmentation=Augmentation(padding=2, flip=True),
    averaging=0.9,
    validation=200,
    probe=PGD(steps=5),
)
EUCLIDEAN = replace(RECIPE, threat=ThreatModel(norm=L2(), epsilon=0.5), method=FGSMRS(step_ratio=1.0))


def begun(recipe: Recipe, device: torch.device) -> tuple[TrainState, Data]:
    data = recipe.data.load(recipe.validation)
    return TrainState.initial(recipe, data.spec(), device), data


def trained(recipe: Recipe, device: torch.device) -> tuple[TrainState, list[EpochReport]]:
    state, data = begun(recipe, device)
    return state, list(fit(state, recipe, data))


def training(recipe: Recipe) -> Training:
    state, data = begun(recipe, GPU)
    watch = Watch(recipe.guard, state, lambda model, attack: (0.0, 0.0), Ranks())
    feed = feed_of(data.train.to(GPU), recipe)
    return Training(state, state.model, recipe, len(data.train), feed, Ranks(), watch, save=None)


def batch(data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    part = data.test.to(device).batch(torch.arange(100, device=device))
    return part.x, part.y


@pytest.mark.parametrize("recipe", [RECIPE, EUCLIDEAN], ids=["linf", "l2"])
def test_compiled_bfloat16_learns_what_float32_learns_on_the_cpu(recipe: Recipe) -> None:
    _, exact = trained(recipe, CPU)
    _, fast = trained(replace(recipe, **FAST), GPU)
    # Their random numbers differ, and so do the runs.
    for key in ("train_loss", "clean_accuracy", "robust_accuracy"):
        assert getattr(fast[-1], key) == pytest.approx(getattr(exact[-1], key), abs=0.12), key


@pytest.mark.parametrize("compiled", [False, True])
def test_one_crafting_pass_agrees_with_float32_on_the_cpu(compiled: bool) -> None:
    (state, data), (other, _) = begun(RECIPE, CPU), begun(RECIPE, GPU)
    model = torch.compile(other.model) if compiled else other.model
    x, y = batch(data, CPU)
    exact = Context(generator(CPU, 0, 0)).gradient(state.model, x, y)
    with torch.autocast("cuda", torch.bfloat16):
        found = Context(generator(GPU, 0, 0)).gradient(model, x.to(GPU), y.to(GPU)).cpu()
    assert found.dtype == torch.float32
    weight = exact.abs()  # signs of next to nothing are anybody's guess
    assert float((weight * (found.sign() == exact.sign())).sum() / weight.sum()) > 0.95
    assert torch.nn.functional.cosine_similarity(found.flatten(1), exact.flatten(1)).min() > 0.9


def test_lengths_are_float32_under_autocast() -> None:
    rng, norm = generator(GPU, 0, 0), L2()
    with torch.autocast("cuda", torch.bfloat16):
        gradient = torch.randn(8, 3, 32, 32, device=GPU, generator=rng) * 1e-6
        step, start = norm.steepest(gradient), norm.random_start(gradient, 0.5, rng)
        lengths, projected = norm.norm(step), norm.project(10 * step, 0.5)
    assert {t.dtype for t in (step, start, lengths, projected)} == {torch.float32}
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)
    assert float(norm.norm(projected).max()) <= 0.5 * (1 + 1e-5)


def test_verdicts_are_float32_and_crafting_may_be_tf32() -> None:
    state, data = begun(RECIPE, GPU)
    state.model.eval()
    x, _ = batch(data, GPU)
    double = state.model.double()(x.double())
    state.model.float()
    logits = Victim(state.model).logits(x)
    assert torch.backends.cudnn.allow_tf32, "torch's default has changed"
    rounded = state.model(x)
    assert float((logits - double).abs().max()) < 0.1 * float((rounded - double).abs().max())


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}], ids=["float32", "bfloat16"])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(changes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # some weight gradients are added in any order
    recipe = replace(RECIPE, **changes)
    whole, _ = trained(recipe, GPU)
    state, data = begun(recipe, GPU)
    run = fit(state, recipe, data)
    next(run), next(run)
    again, data = begun(recipe, GPU)
    again.load_state_dict(state.state_dict())
    list(fit(again, recipe, data))
    pairs = zip(whole.judged.state_dict().values(), again.judged.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("recipe", [RECIPE, EUCLIDEAN], ids=["linf", "l2"])
def test_updates_wait_for_nothing(recipe: Recipe) -> None:
    running = training(replace(recipe, guard=Guard(action="off"), precision="bfloat16"))
    running.epoch()
    feed, context = running.feed(1, Ranks()), running._begin()[0]
    running.model.train()
    first = next(feed)  # with the order of the images
    torch.cuda.set_sync_debug_mode("error")
    try:
        for part in (first, *feed):
            running._learn_from(part, context)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_budget_in_seconds_ends_at_its_time() -> None:
    state, _ = trained(replace(RECIPE, budget=Seconds(3.0)), GPU)
    assert 3.0 <= state.train_seconds < 4.5


def test_images_stay_on_the_device_as_bytes() -> None:
    running = training(replace(RECIPE, guard=Guard(action="off")))
    running.epoch()
    with warnings.catch_warnings(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        warnings.simplefilter("ignore")
        running.epoch()
    copies = [event for event in seen.events() if "Memcpy HtoD" in event.name]
    assert len(copies) < 10, "the order of the images, and no pixels"
