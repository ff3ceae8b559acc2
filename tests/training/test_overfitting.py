"""The guard: what gives an alarm, what confirms it, and what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from quench.attacks import Attack
from quench.config import override
from quench.errors import InvalidValue
from quench.methods.fgsm import FGSM
from quench.methods.n_fgsm import NFGSM
from quench.methods.pgd import PGDTraining
from quench.ranks import Ranks
from quench.training.overfitting import Guard, Watch, collapsed
from quench.training.recipe import Recipe
from quench.training.state import TrainState

HEALTHY, COLLAPSED, CONSTANT = (0.5, 0.45), (0.8, 0.03), (0.1, 0.1)


def signals(accuracy: float = 0.4, linearity: float = 0.95, abnormal: float = 0.02) -> Tensor:
    return torch.tensor([1.5, accuracy, linearity, 0.9, abnormal])


def watch(recipe: Recipe, guard: Guard, verdicts: list[tuple[float, float]]) -> Watch:
    """A watch whose judge gives these verdicts, one after the other."""
    state = TrainState.initial(recipe, recipe.data.load(recipe.validation).spec(), torch.device("cpu"))

    def judge(_: nn.Module, __: Attack) -> tuple[float, float]:
        return verdicts.pop(0)

    return Watch(guard, state, judge, Ranks())


def feed(watched: Watch, *seen: Tensor) -> None:
    for one in seen:
        watched.after_update(one)


@pytest.mark.parametrize(
    ("fgsm", "robust", "answer"),
    [(0.81, 0.04, True), (0.49, 0.43, False), (0.1, 0.1, False), (0.10, 0.02, False), (0.4, 0.3, False), (1.0, 0.45, True)],
)  # fmt: skip
def test_collapse_is_accuracy_under_fgsm_alone(fgsm: float, robust: float, answer: bool) -> None:
    assert collapsed(fgsm, robust) == answer


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"accuracy": 0.6}, "accuracy"), ({"abnormal": 0.3}, "abnormal"), ({"linearity": 0.3}, "linearity")],
)
def test_each_signal_gives_an_alarm_on_its_own(recipe: Recipe, change: dict[str, float], cause: str) -> None:
    watched = watch(recipe, Guard(every=1), [COLLAPSED])
    feed(watched, *[signals()] * 4, signals(**change))
    (event,) = watched.take_events()
    assert (event.cause, event.confirmed, event.action) == (cause, True, "recorded")
    assert (event.fgsm_accuracy, event.robust_accuracy) == COLLAPSED
    assert event.signals[cause] == pytest.approx(change[cause])
    assert event.usual[cause] == pytest.approx(float(signals()[{"accuracy": 1, "linearity": 2, "abnormal": 4}[cause]]))
    assert watched.collapsed
    assert not watched.lost
    assert watched.take_events() == ()


def test_steady_progress_gives_none(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1), [])
    feed(watched, *[signals(accuracy=0.1 + 0.02 * i, linearity=0.9 - 0.01 * i, abnormal=0.005 * i) for i in range(40)])
    assert watched.take_events() == ()


def test_signals_are_averaged_between_looks_and_may_be_missing(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=4), [HEALTHY])
    missing = torch.tensor([1.5, 0.4, torch.nan, torch.nan, torch.nan])
    feed(watched, *[missing] * 16, *[missing + 0.1, missing + 0.1, missing + 0.2, missing + 0.2])
    (event,) = watched.take_events()
    assert event.signals == pytest.approx({"loss": 1.65, "accuracy": 0.55})


def test_a_false_alarm_is_given_once(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="stop"), [CONSTANT])
    feed(watched, *[signals()] * 4, *[signals(accuracy=0.7)] * 5)
    (event,) = watched.take_events()
    assert (event.confirmed, event.action) == (False, "none")
    assert not watched.lost


def test_stop_gives_the_run_up(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="stop"), [COLLAPSED])
    feed(watched, *[signals()] * 4, signals(accuracy=0.9))
    assert watched.lost
    assert watched.collapsed
    assert watched.take_events()[0].action == "stopped"


def test_rollback_restores_the_last_healthy_weights_and_eases_the_method(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="rollback"), [COLLAPSED, COLLAPSED, HEALTHY])
    weights = next(iter(watched.state.model.parameters()))
    for look in range(5):
        weights.data.fill_(look)
        feed(watched, signals())
    weights.data.fill_(9)
    watched.state.updates, watched.state.epoch = 77, 3
    feed(watched, signals(accuracy=0.9))
    assert weights.unique().tolist() == [3.0], "the last look's weights were not healthy, those before were"
    assert (watched.state.rollbacks, watched.state.updates, watched.state.epoch) == (1, 77, 3)
    assert not watched.collapsed
    assert watched.take_events()[0].action == "rolled back"


def test_a_run_is_lost_after_its_last_rollback(recipe: Recipe) -> None:
    verdicts = [COLLAPSED, HEALTHY, COLLAPSED]
    watched = watch(recipe, Guard(every=1, action="rollback", rollbacks=1), verdicts)
    feed(watched, *[signals()] * 4, signals(accuracy=0.9), signals(accuracy=0.9))
    assert [event.action for event in watched.take_events()] == ["rolled back", "stopped"]
    assert watched.lost


def test_an_epoch_shows_what_the_signals_missed(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(action="record"), [])
    assert not watched.after_epoch(*HEALTHY)
    assert not watched.after_epoch(*COLLAPSED)
    assert not watched.after_epoch(*COLLAPSED)
    (event,) = watched.take_events()
    assert (event.cause, event.action) == ("probe", "recorded"), "and says so once"
    watched = watch(recipe, Guard(action="rollback"), [HEALTHY])
    assert watched.after_epoch(*COLLAPSED), "to be judged again"


def test_off_is_off(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="off"), [])
    feed(watched, *[signals()] * 4, signals(accuracy=0.9))
    assert not watched.after_epoch(*COLLAPSED)
    assert not watched.collapsed
    assert watched.take_events() == ()


def test_remedies() -> None:
    guard = Guard(action="rollback")
    assert guard.eased(FGSM(), 0) == FGSM()
    assert guard.eased(FGSM(), 1) == FGSM(step_ratio=0.8)
    assert replace(guard, remedy="more_noise").eased(NFGSM(noise_ratio=1.0), 3) == NFGSM(noise_ratio=2.5)


@pytest.mark.parametrize(
    ("method", "remedy", "says"),
    [
        (FGSM(), "more_noise", "needs a method with a noise_ratio; this one takes smaller_step"),
        (PGDTraining(), "smaller_step", "needs a method with a step_ratio; this one takes no remedy"),
    ],
)
def test_a_remedy_that_the_method_has_no_field_for_is_refused(
    method: object, remedy: str, says: str, recipe: Recipe
) -> None:
    with pytest.raises(InvalidValue, match=f"guard.remedy = .*{says}"):
        override(recipe, {"method": method, "guard.action": "rollback", "guard.remedy": remedy})
