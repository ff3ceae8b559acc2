"""Several workers against one: in float64 they must learn the same, method by method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from conftest import tiny_recipe
from processes import exit_code, fork
from quench.catalogue import members
from quench.config import override
from quench.datasets import Batch
from quench.methods import Method
from quench.models import batch_norms
from quench.ranks import Ranks
from quench.training.batches import epoch_batches
from quench.training.loop import fit
from quench.training.recipe import Augmentation, Checkpoints, Recipe
from quench.training.state import TrainState

CPU = torch.device("cpu")
METHODS = list(members(Method))
QUICK: dict[str, dict[str, Any]] = {
    "free": {"method.replays": 2},
    "liet": {"method.refresh": 4},
    "pgd": {"method.steps": 2},
    "trades": {"method.steps": 2},
}


def recipe(method: str, **changes: Any) -> Recipe:
    """Two epochs of four updates, in float64, with everything on that draws random numbers or keeps a memory."""
    augmentation = Augmentation(padding=1, flip=True)
    base = replace(tiny_recipe(), batch_size=256, augmentation=augmentation, averaging=0.9, label_smoothing=0.1)
    given = {"threat.norm": "l1", "threat.epsilon": 1.5} if method == "fast_eg_l1" else {}
    given |= {"method": method, "precision": "float64", "batch_norm": "sync", "epsilon_warmup": 0.2}
    return override(base, given | QUICK.get(method, {}) | changes)


ALL = {name: recipe(name) for name in METHODS}
CASES: dict[str, tuple[int, Recipe]] = {
    **{f"{name}, 3 workers": (3, case) for name, case in ALL.items()},
    **{f"{name}, frozen statistics": (2, replace(case, batch_norm="frozen")) for name, case in ALL.items()},
    "grad_align, 2 workers": (2, ALL["grad_align"]),
    "stages": (
        2,
        recipe("free", stages=[{"epochs": 1, "size": 6, "batch_size": 64}, {"epochs": 1, "batch_size": 131}]),
    ),
}
LOCAL = recipe("n_fgsm", batch_norm="local", averaging=0.0)
SECONDS = recipe("n_fgsm", budget="seconds", **{"budget.seconds": 0.3})
CUT = {
    name: replace(ALL[name], batch_size=64, checkpoints=Checkpoints(seconds=1e-9))
    for name in ("free", "fgsm_pgi", "sora")
}


def trained(
    case: Recipe,
    ranks: Ranks = Ranks(),  # noqa: B008
    start: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What `case` comes to on this worker, from the beginning or from a checkpoint."""
    data = case.data.load(case.validation)
    state = TrainState.initial(case, data.spec(), CPU)
    if start is not None:
        state.load_state_dict(start)
    reports = [report.metrics() for report in fit(state, case, data, ranks, **options)]
    return {"reports": reports, **state.state_dict()}


class CutShort(Exception):
    pass


def cut_short(case: Recipe, ranks: Ranks) -> dict[str, Any]:
    """The checkpoint in the middle of the second epoch, after which the run breaks off."""
    data = case.data.load(case.validation)
    state = TrainState.initial(case, data.spec(), CPU)

    def save() -> None:
        if state.epoch == 1:
            raise CutShort

    with suppress(CutShort):
        list(fit(state, case, data, ranks, save=save))
    return deepcopy(state.state_dict())


def _rank(rank: int, folder: str) -> None:
    def keep(name: str, content: object) -> None:
        torch.save(content, f"{folder}/{name}-{rank}.pt")

    for size in (2, 3):
        if rank >= size:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size)
        ranks = Ranks.current()
        for name, (wanted, case) in CASES.items():
            if wanted == size:
                keep(name, trained(case, ranks))
        for name, case in CUT.items():
            if size == 2:
                keep(f"{name} cut short", cut_short(case, ranks))
            else:
                saved = torch.load(f"{folder}/{name} cut short-0.pt", weights_only=True)
                keep(f"{name} went on", trained(case, ranks, saved))
        if size == 2:
            keep("local", trained(LOCAL, ranks))
            keep("seconds", trained(SECONDS, ranks))
            keep("collectives", _collectives(ranks))
        dist.barrier()
        dist.destroy_process_group()


def _collectives(ranks: Ranks) -> dict[str, list[tuple[str, int]]]:
    """Method -> every collective of its third batch, and the numbers that each rank gives, by torch's own trace."""
    return {
        method: _collectives_of(replace(recipe(method), batch_norm="local", averaging=0.0), ranks) for method in METHODS
    }


def _collectives_of(case: Recipe, ranks: Ranks) -> list[tuple[str, int]]:
    data = case.data.load(case.validation)
    trace = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def feed(epoch: int, ranks: Ranks, skip: int = 0) -> Iterator[Batch]:
        for number, batch in zip(range(4), epoch_batches(data.train, case, epoch, ranks), strict=False):
            if number == 2:
                trace.start()
            if number == 3:
                trace.stop()
            yield batch

    next(fit(TrainState.initial(case, data.spec(), CPU), case, data, ranks, feed=feed))
    events = [event for event in trace.events() or () if event.name.startswith("gloo:")]
    return sorted((event.name, sum(map(_size, event.input_shapes))) for event in events)


def _size(shape: Any) -> int:
    return int(torch.tensor(shape or [0]).prod())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [fork(partial(_rank, rank, str(folder))) for rank in range(3)]
    assert [exit_code(rank) for rank in ranks] == [0, 0, 0]
    return folder


def load(runs: Path, name: str, workers: int) -> list[dict[str, Any]]:
    return [torch.load(runs / f"{name}-{rank}.pt", weights_only=True) for rank in range(workers)]


def assert_same(run: Any, other: Any, exactly: bool = False) -> None:
    """Weights, averages, memories, counters and reports, to rounding; the clocks are each run's own."""
    if isinstance(run, dict):
        assert run.keys() == other.keys()
        for key in run.keys() - {"train_seconds", "gpu_seconds", "workers"}:
            assert_same(run[key], other[key], exactly)
    elif isinstance(run, list):
        for one, two in zip(run, other, strict=True):
            assert_same(one, two, exactly)
    elif isinstance(run, Tensor | float):
        rounding = 0.0 if exactly else 1e-9
        torch.testing.assert_close(torch.as_tensor(run), torch.as_tensor(other), rtol=rounding, atol=rounding)
    else:
        assert run == other


@cache
def alone(case: Recipe) -> dict[str, Any]:
    return trained(case)


@pytest.mark.parametrize("name", CASES)
def test_workers_learn_together_what_one_would(name: str, runs: Path) -> None:
    workers, case = CASES[name]
    first, *others = load(runs, name, workers)
    for other in others:
        assert_same(first, other, exactly=True)
    assert_same(first, alone(case))
    for report in first["reports"]:
        assert report["workers"] == workers
        assert report["gpu_seconds"] == pytest.approx(workers * report["train_seconds"])


@pytest.mark.parametrize("name", CUT)
def test_a_run_goes_on_in_the_middle_of_an_epoch_with_other_workers(name: str, runs: Path) -> None:
    """Cut short on two workers, it goes on with three, or with one, as if nothing had happened."""
    cut = load(runs, f"{name} cut short", 2)[0]
    assert cut["epoch"] == 1
    assert 0 < cut["within"]["batches"] < 19
    for again in (load(runs, f"{name} went on", 3)[0], trained(CUT[name], start=cut)):
        whole = alone(CUT[name])
        (report,) = again.pop("reports")
        assert_same(report, whole["reports"][1])
        assert_same(again, {key: value for key, value in whole.items() if key != "reports"})
        before, after = cut["gpu_seconds"] - cut["train_seconds"], again["gpu_seconds"] - again["train_seconds"]
        extra = (report["workers"] - 1) * (again["train_seconds"] - cut["train_seconds"])
        assert after == pytest.approx(before + extra), "each stretch times its own number of workers"


class Halves(nn.BatchNorm2d):
    """Each half of a batch by its own statistics, as two workers see them; running ones by the mean of the two."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        kept = [(self.running_mean.clone(), self.running_var.clone()) for _ in range(2)]
        halves = zip(input.chunk(2), kept, strict=True)
        out = [F.batch_norm(x, *own, self.weight, self.bias, True, self.momentum or 0.0, self.eps) for x, own in halves]
        if self.track_running_stats:
            self.running_mean.copy_((kept[0][0] + kept[1][0]) / 2)
            self.running_var.copy_((kept[0][1] + kept[1][1]) / 2)
        return torch.cat(out)


def test_local_statistics_are_those_of_each_share(runs: Path) -> None:
    one, two = load(runs, "local", 2)
    assert_same(one, two, exactly=True)
    data = LOCAL.data.load(LOCAL.validation)
    state = TrainState.initial(LOCAL, data.spec(), CPU)
    for layer in batch_norms(state.model):
        layer.__class__ = Halves
    list(fit(state, LOCAL, data))
    for name, value in state.model.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(one["model"][name], value, rtol=1e-9, atol=1e-9)


def test_workers_end_a_budget_of_seconds_together(runs: Path) -> None:
    one, two = load(runs, "seconds", 2)
    assert_same(one, two, exactly=True)
    assert one["train_seconds"] >= 0.3


def test_attacks_cost_no_all_reduce_of_gradients(runs: Path) -> None:
    """One for each update, of all weights at once; besides it only what a method needs to know of the whole batch."""
    found = load(runs, "collectives", 1)[0]
    state = TrainState.initial(ALL["pgd"], ALL["pgd"].data.load(100).spec(), CPU)
    update = ("gloo:all_reduce", sum(weight.numel() for weight in state.model.parameters()))
    values, pixels, logits = (("gloo:all_gather", count) for count in (128, 128 * 64, 128 * 10))
    beside = {
        "aaer": [values, values],
        "grad_align": [values, values],
        "fgsm_pgi": [values, pixels, pixels],
        "nuat": [logits],
        "sora": [("gloo:all_reduce", 2)],
        "free": [update],
    }
    for method in METHODS:
        assert found[method] == sorted([update, *beside.get(method, [])]), method
