from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quench.catalogue import members
from quench.config import override
from quench.datasets import Data
from quench.errors import InvalidValue
from quench.geometry import Geometry
from quench.methods import Method
from quench.methods.fgsm import FGSM
from quench.methods.free import Free
from quench.threat_model import ThreatModel
from quench.training.budgets.epochs import Epochs
from quench.training.budgets.seconds import Seconds
from quench.training.loop import EpochReport, fit
from quench.training.recipe import SGD, Augmentation, Recipe
from quench.training.state import TrainState

CPU = torch.device("cpu")
GOLDEN = Path(__file__).with_name("golden_losses.json")
"""mean loss of three short epochs, "norm method" -> [...]; QUENCH_GOLDEN=write makes it anew"""


def begin(recipe: Recipe) -> tuple[TrainState, Data]:
    data = recipe.data.load(recipe.validation)
    return TrainState.initial(recipe, data.spec(), CPU), data


def train(recipe: Recipe) -> tuple[TrainState, list[EpochReport]]:
    state, data = begin(recipe)
    return state, list(fit(state, recipe, data))


def same_weights(a: TrainState, b: TrainState) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )


def test_reports_what_the_run_has_come_to(recipe: Recipe) -> None:
    state, reports = train(replace(recipe, budget=Epochs(3)))
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert [r.updates for r in reports] == [9, 18, 27]  # 1,247 images in batches of 128
    assert 0 < reports[0].train_seconds < reports[1].train_seconds < reports[2].train_seconds == state.train_seconds
    assert all(r.gpu_seconds == r.train_seconds for r in reports)
    assert reports[-1].learning_rate < 0.1 * 0.2
    assert reports[-1].train_loss < reports[0].train_loss
    assert reports[-1].clean_accuracy > 0.6
    assert reports[-1].robust_accuracy <= reports[-1].clean_accuracy
    assert set(reports[0].metrics()) >= {"train_seconds", "robust_accuracy", "clean_accuracy", "fgsm_accuracy"}


def test_equal_recipes_give_equal_weights(recipe: Recipe) -> None:
    assert same_weights(train(recipe)[0], train(recipe)[0])
    assert not same_weights(train(recipe)[0], train(replace(recipe, seed=1))[0])


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(recipe: Recipe, averaging: float, tmp_path: Path) -> None:
    recipe = replace(recipe, budget=Epochs(4), averaging=averaging, augmentation=Augmentation(padding=1, flip=True))
    whole, reports = train(recipe)
    state, data = begin(recipe)
    run = fit(state, recipe, data)
    next(run), next(run)
    torch.save(state.state_dict(), tmp_path / "half.pt")
    again, data = begin(recipe)
    again.load_state_dict(torch.load(tmp_path / "half.pt", weights_only=True))
    assert again.train_seconds == state.train_seconds, "the train clock goes on, it does not begin anew"
    rest = list(fit(again, recipe, data))
    assert [r.epoch for r in rest] == [3, 4]
    assert same_weights(whole, again)
    for before, after in zip(reports[2:], rest, strict=True):
        times = {"train_seconds": 0.0, "gpu_seconds": 0.0}
        assert {**before.metrics(), **times} == {**after.metrics(), **times}
    assert all(torch.equal(a, b) for a, b in zip(whole.judged.parameters(), again.judged.parameters(), strict=True))


def test_the_average_is_what_is_judged(recipe: Recipe) -> None:
    state, _ = train(replace(recipe, averaging=0.9))
    assert state.judged is not state.model
    weights = list(zip(state.judged.parameters(), state.model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in weights)


def test_bfloat16_trains_about_as_well_and_keeps_float32_weights(recipe: Recipe) -> None:
    state, reports = train(replace(recipe, budget=Epochs(4), precision="bfloat16"))
    _, exact = train(replace(recipe, budget=Epochs(4)))
    assert reports[-1].clean_accuracy == pytest.approx(exact[-1].clean_accuracy, abs=0.1)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_divergence_is_an_error(recipe: Recipe) -> None:
    with pytest.raises(FloatingPointError, match="diverged: the loss is"):
        train(replace(recipe, budget=Epochs(5), optimizer=SGD(lr=1e18, momentum=0.0, nesterov=False)))


PAIRS = [f"{norm} {name}" for name, method in members(Method).items() for norm in method.norms]


@pytest.mark.parametrize("pair", PAIRS)
def test_golden_losses(pair: str, recipe: Recipe) -> None:
    """What three epochs come to, to six digits: a refactoring changes none of them."""
    norm, method = pair.split()
    threat = ThreatModel(norm=members(Geometry)[norm](), epsilon={"linf": 0.1, "l2": 0.5, "l1": 1.5}[norm])
    _, reports = train(override(recipe, {"threat": threat, "method": method, "budget.epochs": 3}))
    losses = [report.train_loss for report in reports]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("QUENCH_GOLDEN") == "write":
        GOLDEN.write_text(
            json.dumps(golden | {pair: [round(loss, 6) for loss in losses]}, indent=2, sort_keys=True) + "\n"
        )
        return
    # Processors differ in the order of their sums, and three epochs amplify that a little.
    assert losses == pytest.approx(golden[pair], rel=2e-3)


def test_a_budget_in_seconds_ends_at_its_time_and_the_schedule_with_it(recipe: Recipe) -> None:
    _, reports = train(replace(recipe, budget=Seconds(1.0)))
    *others, last = reports
    assert all(report.train_seconds < 1.0 for report in others)
    assert last.train_seconds >= 1.0
    assert last.learning_rate < 0.1 * 0.25 < max(report.learning_rate for report in reports)


def test_a_budget_in_seconds_goes_on_from_where_it_was(recipe: Recipe) -> None:
    state, data = begin(replace(recipe, budget=Seconds(1.0)))
    state.clock.go_on(0.9, 0.9)
    reports = list(fit(state, replace(recipe, budget=Seconds(1.0)), data))
    assert reports[0].learning_rate < 0.2 * recipe.optimizer.lr, "the last tenth of the schedule"
    assert reports[-1].train_seconds >= 1.0
    assert list(fit(state, replace(recipe, budget=Seconds(1.0)), data)) == [], "spent"


def test_epsilon_grows_to_its_full_size(recipe: Recipe) -> None:
    recipe = replace(recipe, method=FGSM(), budget=Epochs(4))
    seen: list[float] = []

    class Spy(FGSM):
        def losses(self, model, batch, threat, context):  # type: ignore[no-untyped-def]
            seen.append(threat.epsilon)
            yield from super().losses(model, batch, threat, context)

    train(replace(recipe, method=Spy(), epsilon_warmup=0.5))
    assert seen[0] == pytest.approx(0.01 * 0.1)
    assert seen == sorted(seen)
    assert seen[9] == pytest.approx(0.1 * 0.25 / 0.5)
    assert set(seen[18:]) == {0.1}


def test_patience_ends_a_run_that_does_not_improve(recipe: Recipe) -> None:
    state, reports = train(replace(recipe, budget=Epochs(30), patience=2, optimizer=SGD(lr=1e-9)))
    robust = [report.robust_accuracy for report in reports]
    best = robust.index(max(robust))
    assert len(reports) == best + 1 + 2
    assert (state.best_epoch, state.best_accuracy) == (best + 1, max(robust))


def test_single_step_methods_report_their_signals(recipe: Recipe) -> None:
    _, reports = train(recipe)
    metrics = reports[-1].metrics()
    assert 0 < metrics["linearity"] <= 1
    assert 0 < metrics["alignment"] <= 1
    assert 0 <= metrics["abnormal"] < 0.5
    _, reports = train(override(recipe, {"method": "standard"}))
    assert not {"linearity", "alignment", "abnormal"} & reports[-1].metrics().keys()


@pytest.mark.parametrize(("scaling", "peak"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_learning_rate_grows_with_the_batch_after_a_warm_up(scaling: str, peak: float, recipe: Recipe) -> None:
    changes = {"batch_size": 512, "optimizer.scaling": scaling, "optimizer.warmup": 0.1, "schedule": "piecewise"}
    rate = override(recipe, changes).learning_rate
    assert [rate(p) for p in (0, 0.05, 0.1, 0.3)] == pytest.approx([0, peak / 2, peak, peak])
    assert rate(0.6) == pytest.approx(peak / 10)


def test_stages_change_the_size_of_images_and_batches(recipe: Recipe) -> None:
    small, large = {"epochs": 2, "size": 6, "batch_size": 200}, {"epochs": 1, "batch_size": 100}
    recipe = override(recipe, {"stages": [small, large], "budget.epochs": 4, "method": "free", "method.replays": 2})
    seen: list[tuple[int, ...]] = []

    class Spy(Free):
        def losses(self, model, batch, threat, context):  # type: ignore[no-untyped-def]
            seen.append(tuple(batch.x.shape))
            yield from super().losses(model, batch, threat, context)

    train(replace(recipe, method=Spy(replays=2)))
    assert seen == [(200, 1, 6, 6)] * 12 + [(100, 1, 8, 8)] * 24


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "fast_eg_l1"}, r"threat.norm = 'linf': the method fast_eg_l1 is defined in l1 only"),
        ({"method": "grad_align", "compile": True}, r"compile = True: must be false for grad_align"),
        ({"budget": "seconds", "budget.seconds": 0}, r"budget.seconds = 0.0: must be above 0"),
        ({"guard.action": "halt"}, r"guard.action = 'halt': must be one of off, record, rollback, stop"),
        ({"guard.every": 0}, r"guard.every = 0: must be above 0"),
        ({"compile": True, "batch_norm": "sync"}, r"compile = True: must be false with batch_norm = 'sync'"),
        ({"workers": 2, "min_workers": 3}, r"min_workers = 3: must be from 0 to workers"),
        ({"optimizer.warmup": 1}, r"optimizer.warmup = 1.0: must be from 0 to below 1"),
        ({"optimizer.scaling": "square"}, r"optimizer.scaling = 'square': must be one of linear, none, sqrt"),
        ({"stages": [{"epochs": 0, "batch_size": 8}]}, r"stages.epochs = 0: must be above 0"),
        ({"epsilon_warmup": 1.5}, r"epsilon_warmup = 1.5: must be from 0 to 1"),
        ({"patience": -1}, r"patience = -1: must be 0 or above"),
        ({"keep": "worst"}, r"keep = 'worst': must be one of best, last"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, object], says: str, recipe: Recipe) -> None:
    with pytest.raises(InvalidValue, match=says):
        override(recipe, changes)
