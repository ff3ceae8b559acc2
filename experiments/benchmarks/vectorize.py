"""Whether k models that differ in numbers only train faster together: one N-FGSM update of each, three ways.

    python experiments/benchmarks/vectorize.py [--models 1 2 4 8 16] [--cases ...] [--repeats 7] [--compile] [--cuda]

Ways:      separate: one after the other in one process, as quench trains;
           stacked: parameters, momentum and BatchNorm's buffers stacked (`torch.func.stack_module_state`), and one
           update of all of them by `vmap`, each model with its own images, epsilon and learning rate;
           compiled: the same under `torch.compile` (with --compile), without the first call;
           processes: separate, in as many processes as there are cores, at most k; on a GPU, in k that share it.
           Separate models are in the memory order that convolutions prefer, as quench's are; vmap decides on its own.
Update:    noise of twice epsilon, one gradient's sign, cross-entropy of what comes of it, SGD with momentum and
           weight decay; BatchNorm by the batch, its running statistics moved by the second pass only.
Times:     milliseconds until all k models have one update more; the median of the repeats, and the quartiles. The ways
           take turns, so that a slow minute hits all of them; the speed-up is the median over the turns of what a turn
           of the separate models took over that of the others; where one process does both, also in the time that it
           had the CPU, which other programs on the machine change less. One thread a process.
Same:      the largest difference between a weight after a stacked and after a separate update, in float32. It is that
           of rounding, unless a pixel's gradient is so near 0 that its sign differs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from quench.context import crafting
from quench.datasets import ImageSpec
from quench.durable import write_json
from quench.models import Model, batch_norms
from quench.models.preact_resnet import PreActResNet
from quench.models.small_cnn import SmallCNN
from quench.trial import machine

Weights = dict[str, Tensor]
MOMENTUM, DECAY = 0.9, 5e-4


@dataclass(frozen=True)
class Case:
    """A model, its images and the arithmetic."""

    model: Model
    shape: tuple[int, int, int]
    batch: int
    half: bool

    def build(self, seed: int, device: torch.device) -> nn.Module:
        images = ImageSpec(self.shape, 10, (0.5,) * self.shape[0], (0.25,) * self.shape[0])
        return self.model.build(images, seed).to(device).train()

    def batches(self, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and noise in [-1, 1] of so many models."""
        rng = torch.Generator(device).manual_seed(0)
        x = torch.rand(count, self.batch, *self.shape, generator=rng, device=device)
        y = torch.randint(10, (count, self.batch), generator=rng, device=device)
        return x, y, torch.rand(x.shape, generator=rng, device=device) * 2 - 1

    def arithmetic(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half)


def cases() -> dict[str, Case]:
    digits, small, deep = SmallCNN(widths=(32, 64, 64)), SmallCNN(), PreActResNet()
    kinds = {
        "cnn 8x8 batch 64": (digits, (1, 8, 8), 64),
        "cnn 16x16 batch 64": (digits, (1, 16, 16), 64),
        "cnn 32x32 batch 64": (small, (3, 32, 32), 64),
        "cnn 32x32 batch 8": (small, (3, 32, 32), 8),
        "preact_resnet 32x32 batch 8": (deep, (3, 32, 32), 8),
    }
    return {
        f"{name} {'bfloat16' if half else 'float32'}": Case(*kind, half)
        for name, kind in kinds.items()
        for half in (False, True)
    }


def numbers(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Epsilons and learning rates, `(count,)` each: what the models differ in."""
    return torch.linspace(0.05, 0.15, count, device=device), torch.linspace(0.05, 0.2, count, device=device)


class Separate:
    """k models, each updated on its own."""

    def __init__(self, case: Case, count: int, device: torch.device) -> None:
        self.case, self.device = case, device
        self.models = [case.build(seed, device).to(memory_format=torch.channels_last) for seed in range(count)]
        x, y, noise = case.batches(count, device)
        x, noise = ([each.contiguous(memory_format=torch.channels_last) for each in part] for part in (x, noise))
        self.batches = x, y, noise
        epsilons, rates = (values.tolist() for values in numbers(count, device))
        self.epsilons = epsilons
        self.optimizers = [
            torch.optim.SGD(m.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True, fused=True)
            for m, lr in zip(self.models, rates, strict=True)
        ]

    def __call__(self) -> None:
        for model, optimizer, epsilon, x, y, noise in zip(
            self.models, self.optimizers, self.epsilons, *self.batches, strict=True
        ):
            start = (x + 2 * epsilon * noise).clamp(0, 1).requires_grad_()
            with self.case.arithmetic(self.device):
                with crafting(model, "batch") as bare:
                    losses = F.cross_entropy(bare(start), y, reduction="sum")
                    (gradient,) = torch.autograd.grad(losses, start)
                adversarial = (start.detach() + epsilon * gradient.sign()).clamp(0, 1)
                loss = F.cross_entropy(model(adversarial), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def weights(self) -> Weights:
        return {name: value.detach() for name, value in stack_module_state(self.models)[0].items()}


class Stacked:
    """k models as one, by `vmap`."""

    def __init__(self, case: Case, count: int, device: torch.device, compiled: bool = False) -> None:
        self.case, self.device = case, device
        models = [case.build(seed, device) for seed in range(count)]
        weights, self.buffers = stack_module_state(models)
        self.parameters = {name: value.detach() for name, value in weights.items()}
        self.velocity = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.batches, self.numbers = case.batches(count, device), numbers(count, device)
        self.skeleton = models[0]
        for layer in batch_norms(self.skeleton):  # under vmap it takes no bfloat16 beside float32 statistics
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        one = torch.compile(vmap(self.update)) if compiled else vmap(self.update)
        self.all: Callable[..., tuple[Weights, Weights, Weights]] = one

    def __call__(self) -> None:
        state = self.parameters, self.buffers, self.velocity
        self.parameters, self.buffers, self.velocity = self.all(*state, *self.batches, *self.numbers)

    def update(
        self, parameters: Weights, buffers: Weights, velocity: Weights, x: Tensor, y: Tensor, noise: Tensor,
        epsilon: Tensor, rate: Tensor,
    ) -> tuple[Weights, Weights, Weights]:  # fmt: skip
        """Of one model: its parameters, buffers and velocity after it."""

        def total(images: Tensor) -> Tensor:
            scratch = {name: value.clone() for name, value in buffers.items()}
            with self.case.arithmetic(self.device):
                logits = functional_call(self.skeleton, (parameters, scratch), (images,))
                return F.cross_entropy(logits, y, reduction="sum")

        def loss(weights: Weights) -> tuple[Tensor, Weights]:
            moved = {name: value.clone() for name, value in buffers.items()}
            with self.case.arithmetic(self.device):
                logits = functional_call(self.skeleton, (weights, moved), (adversarial,))
                return F.cross_entropy(logits, y), moved

        start = (x + 2 * epsilon * noise).clamp(0, 1)
        adversarial = (start + epsilon * grad(total)(start).sign()).clamp(0, 1)
        gradients, moved = grad(loss, has_aux=True)(parameters)
        gradients = {name: gradients[name] + DECAY * parameters[name] for name in parameters}
        velocity = {name: MOMENTUM * velocity[name] + gradients[name] for name in parameters}
        step = {name: gradients[name] + MOMENTUM * velocity[name] for name in parameters}  # Nesterov's
        return {name: value - rate * step[name] for name, value in parameters.items()}, moved, velocity

    def weights(self) -> Weights:
        return self.parameters


def seconds(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Of the clock, and of this process on the CPU."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.process_time() - busy


class Processes:
    """k models, shared out among processes that take their turns all at once."""

    def __init__(self, case: Case, count: int, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")
        size = count if device.type == "cuda" else min(count, len(os.sched_getaffinity(0)))
        shares = [range(count)[rank::size] for rank in range(size)]
        self.pipes, self.processes = [], []
        for share in shares:
            here, there = context.Pipe()
            self.processes.append(context.Process(target=_serve, args=(there, case, len(share), device), daemon=True))
            self.processes[-1].start()
            there.close()  # so that a process that dies is noticed
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self) -> None:
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def _serve(pipe: Any, case: Case, count: int, device: torch.device) -> None:
    torch.set_num_threads(1)
    work = Separate(case, count, device)
    seconds(work, device)
    pipe.send(None)
    while pipe.recv():
        seconds(work, device)
        pipe.send(None)


def difference(case: Case, count: int, device: torch.device) -> float:
    """Between the weights after one update of either kind."""
    ways = Separate(case, count, device), Stacked(case, count, device)
    for way in ways:
        way()
    one, other = (way.weights() for way in ways)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def measure(name: str, case: Case, count: int, device: torch.device, repeats: int, compiled: bool) -> dict[str, Any]:
    processes = Processes(case, count, device)
    ways: dict[str, Callable[[], None]] = {
        "separate": Separate(case, count, device),
        "stacked": Stacked(case, count, device),
        **({"compiled": Stacked(case, count, device, compiled=True)} if compiled else {}),
        "processes": processes,
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, work in ways.items():
            taken = seconds(work, device)
            if turn > 0:  # the first time is slow
                times[way].append(taken)
    processes.close()
    row: dict[str, Any] = {"case": name, "k": count}
    alone = times["separate"]
    for way, taken in times.items():
        low, middle, high = statistics.quantiles([1e3 * wall for wall, _ in taken], n=4)
        row[way] = {"median ms": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}
        if way == "separate":
            continue
        pairs = list(zip(alone, taken, strict=True))
        row[way]["speed-up"] = round(statistics.median(one[0] / other[0] for one, other in pairs), 2)
        if way != "processes" and device.type == "cpu":
            row[way]["in CPU time"] = round(statistics.median(one[1] / other[1] for one, other in pairs), 2)
    if not case.half:
        row["difference"] = difference(case, count, device)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--cases", nargs="+", default=list(cases()), help=f"of {', '.join(cases())}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile of the stacked update as well")
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if asked.cuda else "cpu")
    about = {
        **{key: value for key, value in machine(device).items() if key != "pid"},
        "cores": len(os.sched_getaffinity(0)),
        "torch": version("torch"),
        "repeats": asked.repeats,
        "seed": 0,
    }
    print(json.dumps(about), flush=True)
    rows = []
    for name in asked.cases:
        for count in asked.models:
            rows.append(measure(name, cases()[name], count, device, asked.repeats, asked.compile))
            print(json.dumps(rows[-1]), flush=True)
            if asked.out:
                write_json(asked.out, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
