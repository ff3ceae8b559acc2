"""How near training comes to what a GPU can do: its measured limits, and updates and epochs beside them."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_one_graph import OneGraph
from gpu_setup import Made, Rows, adapted, loaded, settled
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fast_cifar10_linf8 import RECIPE
from quench.datasets import Batch
from quench.flops import CountFlops
from quench.methods import Method
from quench.methods.fgsm_rs import FGSMRS
from quench.methods.n_fgsm import NFGSM
from quench.methods.standard import Standard
from quench.ranks import Ranks
from quench.training.batches import Feed
from quench.training.budgets.epochs import Epochs
from quench.training.epoch import Training
from quench.training.overfitting import Guard, Watch
from quench.training.recipe import Recipe
from quench.training.state import TrainState
from quench.training.streaming import feed_of

METHODS: dict[str, Method] = {"n_fgsm": NFGSM(), "fgsm_rs": FGSMRS(), "standard": Standard()}
PLAIN: dict[str, Any] = {"tf32": False, "precision": "float32", "channels_last": False, "benchmark": False}
LADDER: dict[str, dict[str, Any]] = {
    "float32": {},
    "TF32": {"tf32": True},
    "bfloat16": {"precision": "bfloat16"},
    "channels_last": {"channels_last": True},
    "cudnn.benchmark": {"benchmark": True},
    "captured update": {"mode": "captured"},
    "compiled": {"mode": "default", "benchmark": False},
    "compiled, CUDA graphs": {"mode": "reduce-overhead"},
    "compiled as one graph": {"mode": "one graph"},
}
"""each with what those before it have; a captured update is one launch, its batch always the same: a bound"""


def roofline(asked: argparse.Namespace) -> None:
    """Measured limits, operations and bytes of an image's update, and what share of the limits each setting reaches."""
    rows = Rows("roofline", asked)
    rates = {name: matmul_rate(asked, *setting) for name, setting in _RATES.items()}
    bandwidth = copy_rate(asked)
    rows.add(**{f"TFLOP/s {name}": round(rate / 1e12, 2) for name, rate in rates.items()}, GB_s=round(bandwidth / 1e9))
    for name in asked.methods:
        flops, traffic = work(asked, METHODS[name])
        rows.add(method=name, GFLOP_image=round(flops / 1e9, 3), eager_MB_image=round(traffic / 1e6, 2))
        for batch in asked.batches:
            setting = dict(PLAIN)
            for step, change in LADDER.items():
                setting |= change
                if step.startswith("compiled") and (not asked.compile or (name == "standard" and "one" in step)):
                    continue
                if rows.late():
                    return
                low = setting["precision"] == "bfloat16"
                bounds = {
                    "of_matmul_rate": flops / rates["bfloat16" if low else "TF32" if setting["tf32"] else "float32"]
                }
                if low:  # as the bytes were counted
                    bounds["of_bandwidth_if_eager"] = traffic / bandwidth
                measured = partial(updates, asked, METHODS[name], batch, dict(setting), bounds)
                rows.measure(measured, method=name, batch=batch, setting=step)


def updates(
    asked: argparse.Namespace, method: Method, batch: int, setting: dict[str, Any], bounds: dict[str, float]
) -> dict[str, Any]:
    """Milliseconds of an update, and what share of them each bound is, in seconds for each image."""
    seconds = update_seconds(asked, method, batch, **setting)
    usual = statistics.median(seconds)
    shares = {bound: round(batch * least / usual, 4) for bound, least in bounds.items()}
    return {"ms": [round(1e3 * each, 3) for each in seconds], "median_ms": round(1e3 * usual, 3), **shares}


def epoch(asked: argparse.Namespace) -> None:
    """Train seconds of an epoch, whole recipe: crops, flips, the moving average, the guard's looks."""
    rows = Rows("epoch", asked)
    for name in asked.methods:
        for batch in asked.batches:
            if rows.late():
                return
            recipe = adapted(replace(RECIPE, method=METHODS[name], batch_size=batch, budget=Epochs(1000)), asked)
            rows.measure(partial(epochs, asked, recipe), method=name, batch=batch, compiled=recipe.compile)


def epochs(asked: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Seconds of the epochs after the first, what the first took longer, and the most memory in use."""
    cuda = asked.device.type == "cuda"
    torch._dynamo.reset()
    if cuda:
        torch.cuda.reset_peak_memory_stats(asked.device)
    training = begun(asked, recipe, mode="default" if recipe.compile else "eager")
    first, *others = (_epoch(training) for _ in range(1 + asked.repeats))
    usual = statistics.median(others)
    return {
        "images": training.examples,
        "seconds": [round(each, 3) for each in others],
        "median": round(usual, 3),
        "first_more": round(first - usual, 2),
        "peak_GB": round(torch.cuda.max_memory_allocated(asked.device) / 1e9, 2) if cuda else None,
    }


_RATES = {"float32": (torch.float32, False), "TF32": (torch.float32, True), "bfloat16": (torch.bfloat16, True)}


def matmul_rate(asked: argparse.Namespace, dtype: torch.dtype, tf32: bool) -> float:
    """Operations a second of a large product, the best of many."""
    a, b = (torch.rand(asked.gemm, asked.gemm, device=asked.device).to(dtype) for _ in range(2))
    with settings(tf32, benchmark=False):
        return 2 * asked.gemm**3 / _best(asked, lambda: a @ b)


def copy_rate(asked: argparse.Namespace) -> float:
    """Bytes a second, read and written."""
    source = torch.empty(asked.gemm**2 * 4, dtype=torch.uint8, device=asked.device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(asked, lambda: target.copy_(source))


def _best(asked: argparse.Namespace, work: Callable[[], object], at_once: int = 10) -> float:
    return min(_mean(asked, work, at_once) for _ in range(4))


def _mean(asked: argparse.Namespace, work: Callable[[], object], at_once: int) -> float:
    started = settled(asked.device)
    for _ in range(at_once):
        work()
    return (settled(asked.device) - started) / at_once


class CountBytes(TorchDispatchMode):
    """What each operator reads and writes, as if nothing stayed in a cache; views are free."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def work(asked: argparse.Namespace, method: Method) -> tuple[float, float]:
    """Operations and, one operator after the other, bytes that an image more in an update takes."""

    def counted(images: int) -> tuple[int, int]:
        recipe = adapted(replace(RECIPE, method=method, batch_size=images), asked)
        training = begun(asked, recipe, images=images)
        with CountFlops() as flops, CountBytes() as traffic:
            training.epoch()
        return flops.total, traffic.total

    (more_flops, more_bytes), (flops, traffic) = counted(16), counted(8)
    return (more_flops - flops) / 8, (more_bytes - traffic) / 8


def update_seconds(
    asked: argparse.Namespace,
    method: Method,
    batch: int,
    tf32: bool,
    benchmark: bool,
    mode: str = "eager",
    **setting: Any,
) -> list[float]:
    """Seconds of an update, the mean of `--updates`, as often as `--repeats` says; the first times are left out."""
    torch._dynamo.reset()
    recipe = adapted(replace(RECIPE, method=method, batch_size=batch, averaging=0.0, **setting), asked)
    with settings(tf32, benchmark):
        training = begun(asked, recipe, images=batch * asked.updates, mode=mode)
        if mode != "captured":
            return [_epoch(training) / asked.updates for _ in range(2 + asked.repeats)][2:]
        replay = captured(training)
        return [_mean(asked, replay, asked.updates) for _ in range(1 + asked.repeats)][1:]


def begun(asked: argparse.Namespace, recipe: Recipe, images: int | None = None, mode: str = "eager") -> Training:
    """A training by `recipe` on all its images, or on so many made up ones; not guarded then."""
    if mode == "one graph" and isinstance(recipe.method, FGSMRS | NFGSM):
        recipe = replace(recipe, method=OneGraph(method=recipe.method))
    data = loaded(recipe.data, recipe.validation) if images is None else loaded(Made(images=images + 1), 1)
    guard = recipe.guard if images is None else Guard(action="off")
    recipe = replace(recipe, guard=guard, budget=Epochs(1000))
    state = TrainState.initial(recipe, data.spec(), asked.device)
    model: nn.Module = state.model
    feed = feed_of(data.train.to(asked.device), recipe)
    if mode in ("default", "reduce-overhead"):
        model = torch.compile(model, mode=mode)  # type: ignore[assignment]
        feed = marked(feed) if mode == "reduce-overhead" else feed
    watch = Watch(guard, state, lambda model, attack: (0.0, 0.0), Ranks())
    return Training(state, model, recipe, len(data.train), feed, Ranks(), watch, save=None)


def marked(feed: Feed) -> Feed:
    """With each batch memory of the update before may be written over by CUDA graphs."""

    def batches(epoch: int, ranks: Ranks, skip: int = 0) -> Iterator[Batch]:
        for batch in feed(epoch, ranks, skip):
            torch.compiler.cudagraph_mark_step_begin()
            yield batch

    return batches


def captured(training: Training) -> Callable[[], None]:
    """An update as one CUDA graph, with its batch and learning rate as they are now."""
    batch, (context, _) = next(iter(training.feed(0, Ranks()))), training._begin()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            training._learn_from(batch, context)
    torch.cuda.current_stream().wait_stream(beside)
    training.state.optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(context.rng)
    with torch.cuda.graph(graph):
        training._learn_from(batch, context)

    def replay(reads: object = (batch, context)) -> None:  # which must not be freed before
        graph.replay()

    return replay


def _epoch(training: Training) -> float:
    before = training.state.train_seconds
    training.epoch()
    return training.state.train_seconds - before


@contextmanager
def settings(tf32: bool, benchmark: bool) -> Iterator[None]:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark
    try:
        cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = tf32, tf32, benchmark
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark = before
