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
    return torch.tensor([1.5, accuracy, linearity, 1.0, 0.9, abnormal])


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
    ("fgsm", "robust", "best", "answer"),
    [
        (0.81, 0.04, 0.43, True),
        (0.49, 0.43, 0.43, False),
        (0.10, 0.10, 0.43, False),  # a constant prediction
        (0.10, 0.02, 0.43, False),
        (0.71, 0.19, 0.36, False),
        (0.71, 0.17, 0.36, True),
        (0.60, 0.05, -1.0, True),  # from the start
        (0.60, 0.25, -1.0, False),
    ],
)
def test_collapse_is_accuracy_under_fgsm_alone(fgsm: float, robust: float, best: float, answer: bool) -> None:
    assert collapsed(fgsm, robust, best) == answer


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"accuracy": 0.6}, "accuracy"), ({"abnormal": 0.3}, "abnormal"), ({"linearity": 0.3}, "linearity")],
)
def test_each_signal_gives_an_alarm_on_its_own(recipe: Recipe, change: dict[str, float], cause: str) -> None:
    watched = watch(recipe, Guard(every=1), [COLLAPSED])
    feed(watched, *[signals()] * 6, signals(**change))
    (event,) = watched.take_events()
    assert (event.cause, event.confirmed, event.action) == (cause, True, "recorded")
    assert (event.fgsm_accuracy, event.robust_accuracy) == COLLAPSED
    assert event.signals[cause] == pytest.approx(change[cause])
    assert event.usual[cause] == pytest.approx(float(signals()[{"accuracy": 1, "linearity": 2, "abnormal": 5}[cause]]))
    assert watched.state.collapsed
    assert not watched.lost
    assert watched.take_events() == ()


def test_steady_progress_gives_none(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1), [])
    feed(watched, *[signals(accuracy=0.1 + 0.02 * i, linearity=0.9 - 0.01 * i, abnormal=0.005 * i) for i in range(40)])
    assert watched.take_events() == ()


def test_signals_are_averaged_between_looks_and_may_be_missing(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=4), [HEALTHY])
    missing = torch.tensor([1.5, 0.4, *[torch.nan] * 4])
    feed(watched, *[missing] * 24, *[missing + 0.1, missing + 0.1, missing + 0.2, missing + 0.2])
    (event,) = watched.take_events()
    assert event.signals == pytest.approx({"loss": 1.65, "accuracy": 0.55})


def test_a_false_alarm_is_given_once(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="stop"), [CONSTANT])
    feed(watched, *[signals()] * 6, *[signals(accuracy=0.7)] * 5)
    (event,) = watched.take_events()
    assert (event.confirmed, event.action) == (False, "none")
    assert not watched.lost


def test_stop_gives_the_run_up(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="stop"), [COLLAPSED])
    feed(watched, *[signals()] * 6, signals(accuracy=0.9))
    assert watched.lost
    assert watched.state.collapsed
    assert watched.take_events()[0].action == "stopped"


def test_rollback_restores_the_last_healthy_weights_and_goes_further_back_each_time(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="rollback", snapshots=2), [COLLAPSED] * 3)
    watched.state.best_accuracy = 0.45
    weights = next(iter(watched.state.model.parameters()))
    for epoch, robust in enumerate((0.3, 0.45, 0.40, 0.33)):
        weights.data.fill_(epoch)
        assert not watched.after_epoch(0.5, robust)
    feed(watched, *[signals()] * 6)
    watched.state.updates, watched.state.epoch = 77, 4
    for back in (2, 1):
        weights.data.fill_(9)
        feed(watched, signals(accuracy=0.9))
        assert weights.unique().tolist() == [back], "epochs 0 and 3 were not within a quarter of the best"
        assert not watched.state.collapsed
    assert (watched.state.rollbacks, watched.state.updates, watched.state.epoch) == (2, 77, 4)
    feed(watched, signals(accuracy=0.9))
    assert watched.lost, "there is nothing left to go back to"
    assert [event.action for event in watched.take_events()] == ["rolled back", "rolled back", "stopped"]


def test_a_run_is_lost_after_its_last_rollback(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="rollback", rollbacks=1), [COLLAPSED, COLLAPSED])
    watched.after_epoch(*HEALTHY)
    feed(watched, *[signals()] * 6, signals(accuracy=0.9), signals(accuracy=0.9))
    assert [event.action for event in watched.take_events()] == ["rolled back", "stopped"]
    assert watched.lost


def test_an_epoch_shows_what_the_signals_missed(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(action="record"), [])
    assert not watched.after_epoch(*HEALTHY)
    assert not watched.after_epoch(*COLLAPSED)
    assert not watched.after_epoch(*COLLAPSED)
    (event,) = watched.take_events()
    assert (event.cause, event.action) == ("probe", "recorded"), "and says so once"
    watched = watch(recipe, Guard(action="rollback"), [])
    assert watched.after_epoch(*COLLAPSED), "to be judged again"


def test_nothing_is_concluded_while_epsilon_grows(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="stop"), [COLLAPSED])
    watched.armed = False
    feed(watched, *[signals()] * 6, signals(accuracy=0.9))
    assert not watched.after_epoch(*COLLAPSED)
    assert watched.take_events() == ()
    watched.armed = True
    watched.after_epoch(*COLLAPSED)
    assert watched.lost


def test_off_is_off(recipe: Recipe) -> None:
    watched = watch(recipe, Guard(every=1, action="off"), [])
    feed(watched, *[signals()] * 6, signals(accuracy=0.9))
    assert not watched.after_epoch(*COLLAPSED)
    assert not watched.state.collapsed
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
